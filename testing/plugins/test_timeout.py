"""Beside pytest-timeout: what it would set an alarm for is the guard's deadline, and no alarm goes off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testing.harness import Report
    from testing.plugins.conftest import Session
    from testing.plugins.conftest import SideBySide

HEAD = """
import os
import signal
import threading
import time

import pytest
from programs import pylib

"""

pytestmark = pytest.mark.usefixtures("programs")


def deadline(report: Report) -> float:
    """The limit that a hang had passed."""
    assert report.crash is not None, report.longrepr
    assert report.crash["ending"]["kind"] == "Overdue"
    return float(report.crash["ending"]["timeout"])


def outcomes(session: Session) -> dict[str, list[str]]:
    """By the name of the test its phases."""
    return {name.rpartition("::")[2]: phases for name, phases in session.outcomes.items()}


def only_report(session: Session, name: str, when: str) -> Report:
    """The one report of a test in a phase."""
    (report,) = [one for one in session.reports if one.nodeid.endswith(f"::{name}") and one.when == when]
    return report


def test_documentation_samples(
    side_by_side: SideBySide, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.timeout(60)
        def test_foo():
            pass

        @pytest.mark.timeout(300)
        def test_foo_longer():
            pass

        @pytest.mark.timeout(method="thread")
        def test_foo_thread():
            pass

        @pytest.mark.timeout(60, func_only=True)
        def test_foo_func_only():
            pass
        """
    )

    plain, guarded = side_by_side("--timeout=5", "--session-timeout=100", *xdist_args, plugin="timeout")

    assert guarded.counts == {"passed": 4}
    assert guarded.text == plain.text


MARKS = ("timeout(0.3)", "timeout(timeout=0.3, method='thread')", "timeout('0.3')", "faultguard(timeout=0.3)")
#: By name what the session is told, its ini file, and the marks of each test.
SETTINGS: dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "marks_before_the_rest": (
        ("--faultguard-timeout=30", "--timeout=31"),
        "faultguard_timeout = 32\ntimeout = 33",
        (*MARKS, "timeout(30), pytest.mark.faultguard(timeout=0.3)"),
    ),
    "option": (("--timeout=0.3",), "faultguard_timeout = 30\ntimeout = 31", ("slow", "timeout(method='signal')")),
    "our_option_before_its": (("--timeout=30", "--faultguard-timeout=0.3"), "", ("slow",)),
    "ini": ((), "timeout = 0.3", ("slow",)),
    "our_ini_before_its": ((), "timeout = 30\nfaultguard_timeout = 0.3", ("slow",)),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_sets_our_deadline(side_by_side: SideBySide, pytester: pytest.Pytester, setting: str) -> None:
    args, ini, tests = SETTINGS[setting]
    pytester.makeini(f"[pytest]\n{ini}\nmarkers = slow\n")
    cases = ", ".join(f"pytest.param(marks=[pytest.mark.{marks}])" for marks in tests)
    (pytester.path / "test_it.py").write_text(
        HEAD
        + f"""
@pytest.mark.parametrize((), [{cases}])
def test_hangs():
    time.sleep(600)
"""
    )

    session = side_by_side.session("--faultguard", *args, plugin="timeout")

    assert session.counts == {"failed": len(tests)}
    assert [deadline(one) for one in session.reports if one.when == "call"] == [0.3] * len(tests)


def test_environment_sets_our_deadline(
    side_by_side: SideBySide, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``PYTEST_TIMEOUT`` counts like the command line option that it stands for."""
    monkeypatch.setenv("PYTEST_TIMEOUT", "0.3")
    pytester.makeini("[pytest]\nfaultguard_timeout = 30\n")
    (pytester.path / "test_it.py").write_text(HEAD + "def test_hangs():\n    time.sleep(600)\n")

    session = side_by_side.session("--faultguard", plugin="timeout")

    assert deadline(only_report(session, "test_hangs", "call")) == 0.3


def test_next_test_runs_after_a_hang(
    side_by_side: SideBySide, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """Also where an alarm could not have ended the hang: with the GIL held, ignored, in a fixture."""
    (pytester.path / "test_it.py").write_text(
        HEAD
        + """
pytestmark = [pytest.mark.faultguard, pytest.mark.timeout(0.4)]

def test_native_loop_with_the_gil():
    pylib.loop_gil()

def test_ignores_sigalrm():
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    time.sleep(600)

def test_swallows():
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass

@pytest.fixture
def hangs_in_setup():
    time.sleep(600)

@pytest.fixture
def hangs_in_teardown():
    yield
    time.sleep(600)

def test_setup(hangs_in_setup):
    pass

def test_teardown(hangs_in_teardown):
    pass

def test_next():
    pass
"""
    )

    session = side_by_side.session(*xdist_args, plugin="timeout")

    hung = ["setup passed", "call failed", "teardown passed"]
    assert outcomes(session) == {
        "test_native_loop_with_the_gil": hung,
        "test_ignores_sigalrm": hung,
        "test_swallows": hung,
        "test_setup": ["setup failed", "teardown passed"],
        "test_teardown": ["setup passed", "call passed", "teardown failed"],
        "test_next": ["setup passed", "call passed", "teardown passed"],
    }
    assert {deadline(one) for one in session.reports if one.outcome == "failed"} == {0.4}


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_no_alarm_in_a_guarded_test(side_by_side: SideBySide, pytester: pytest.Pytester, method: str) -> None:
    """Neither here, where it would end the wait or the session, nor in the child: SIGALRM is the test's own."""
    (pytester.path / "test_it.py").write_text(
        HEAD
        + """
@pytest.fixture
def slow():
    time.sleep(0.3)
    yield
    time.sleep(0.3)

@pytest.mark.faultguard(timeout=0)
@pytest.mark.timeout(0.2)
def test_ours_says_otherwise(slow):
    time.sleep(0.3)

@pytest.mark.faultguard(timeout=0)
@pytest.mark.timeout(0.2, func_only=True)
def test_func_only(slow):
    time.sleep(0.3)

@pytest.mark.faultguard
@pytest.mark.timeout(30)
def test_has_sigalrm_for_itself():
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert threading.enumerate() == [threading.main_thread()]
    rung = []
    signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    signal.pause()
    assert rung
"""
    )

    session = side_by_side.session(f"--timeout-method={method}", plugin="timeout")

    assert session.counts == {"passed": 3}
    assert session.exit_status == 0


def test_func_only_counts_the_call_alone(
    side_by_side: SideBySide, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    (pytester.path / "test_it.py").write_text(
        HEAD
        + """
pytestmark = pytest.mark.faultguard

@pytest.fixture
def slow():
    time.sleep(0.5)
    yield
    time.sleep(0.5)

@pytest.mark.timeout(0.4, func_only=True)
def test_passes(slow):
    pass

@pytest.mark.timeout(0.4, func_only=True)
def test_hangs(slow):
    time.sleep(600)

@pytest.mark.timeout(0.4)
def test_counts_all(slow):
    pass
"""
    )

    session = side_by_side.session(*xdist_args, plugin="timeout")

    assert outcomes(session) == {
        "test_passes": ["setup passed", "call passed", "teardown passed"],
        "test_hangs": ["setup passed", "call failed", "teardown passed"],
        "test_counts_all": ["setup failed", "teardown passed"],
    }
    assert deadline(only_report(session, "test_hangs", "call")) == 0.4


def test_unguarded_tests_have_their_alarm(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    """Before and after a guarded one."""
    (pytester.path / "test_it.py").write_text(
        HEAD
        + """
pytestmark = pytest.mark.timeout(0.4)

def test_before():
    time.sleep(600)

@pytest.mark.faultguard
def test_guarded():
    time.sleep(600)

def test_after():
    time.sleep(600)
"""
    )

    session = side_by_side.session(plugin="timeout")

    for name in ("test_before", "test_after"):
        report = only_report(session, name, "call")
        assert report.message == "Failed: Timeout (>0.4s) from pytest-timeout."
        assert report.crash is None
    assert deadline(only_report(session, "test_guarded", "call")) == 0.4
    assert session.counts == {"failed": 3}


@pytest.mark.parametrize(
    ("mark", "told"),
    [
        ("timeout('soon')", "Invalid timeout soon from marker"),
        ("timeout([5])", "float() argument must be"),
        ("timeout(5, method='magic')", "Invalid method magic from marker"),
        ("timeout(seconds=5)", "Invalid keyword argument for timeout marker: seconds"),
        ("timeout()", "Timeout marker must have at least one argument"),
    ],
)
def test_wrong_mark_is_a_usage_error(side_by_side: SideBySide, pytester: pytest.Pytester, mark: str, told: str) -> None:
    pytester.makepyfile(f"import pytest\n\n@pytest.mark.{mark}\ndef test_it():\n    pass\n")

    result = side_by_side.run_pytest("--faultguard", plugins=["faultguard", "timeout"])

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    output = result.stdout.str() + result.stderr.str()
    assert "INTERNALERROR" not in output
    assert f"test_wrong_mark_is_a_usage_error.py::test_it: timeout marker: {told}" in output


def test_another_timer_is_asked_for_unguarded_tests_only(
    side_by_side: SideBySide, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """The hooks by which its README lets another plugin set and cancel the timer."""
    pytester.makeconftest(
        """
        def note(*words):
            with open("noted", "a") as file:
                print(*words, file=file)

        def pytest_timeout_set_timer(item, settings):
            note("set", item.name, settings.timeout, settings.func_only)
            return True

        def pytest_timeout_cancel_timer(item):
            note("cancel", item.name)
            return True
        """
    )
    pytester.makepyfile(
        """
        import time

        import pytest

        @pytest.mark.timeout(60)
        def test_foo():
            pass

        @pytest.mark.faultguard
        @pytest.mark.timeout(0.5)
        def test_guarded():
            time.sleep(600)

        @pytest.mark.faultguard
        @pytest.mark.timeout(0.5, func_only=True)
        def test_guarded_call():
            time.sleep(600)
        """
    )

    session = side_by_side.session(*xdist_args, plugin="timeout")

    assert session.counts == {"passed": 1, "failed": 2}
    assert deadline(only_report(session, "test_guarded", "call")) == 0.5
    assert deadline(only_report(session, "test_guarded_call", "call")) == 0.5
    assert (pytester.path / "noted").read_text() == "set test_foo 60.0 False\ncancel test_foo\n"


def test_session_timeout(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    """Checked between tests, as without the guard."""
    pytester.makepyfile(
        """
        import time

        def test_slow():
            time.sleep(0.5)

        def test_never_begins():
            pass
        """
    )

    plain, guarded = side_by_side("--session-timeout=0.4", plugin="timeout")

    assert list(outcomes(guarded)) == ["test_slow"]
    for session in (plain, guarded):
        assert "session-timeout: 0.4 sec exceeded" in session.text


def test_without_the_plugin_its_mark_says_nothing(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import time

        import pytest

        @pytest.mark.timeout(0.1)
        def test_it():
            time.sleep(0.3)
        """
    )

    session = side_by_side.session("--faultguard")

    assert session.counts["passed"] == 1


def test_func_only_that_passes_while_pytest_is_busy(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    """The call has ended in time; that somebody's hook is slow does not make it late."""
    pytester.makeconftest("import time\ndef pytest_warning_recorded(): time.sleep(0.8)\n")
    (pytester.path / "test_it.py").write_text(
        HEAD
        + """
import warnings

@pytest.fixture
def slow_end():
    yield
    time.sleep(1.2)

@pytest.mark.faultguard
@pytest.mark.timeout(0.5, func_only=True)
def test_warns(slow_end):
    warnings.warn("keeps pytest busy")

def test_after():
    pass
"""
    )

    session = side_by_side.session(plugin="timeout")

    assert session.counts["passed"] == 2
    assert "INTERNALERROR" not in "".join(session.text)
