"""Others can plug in: they add evidence to a crash, and say when a shared child should run no other test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from testing.harness import SESSION_SECONDS

if TYPE_CHECKING:
    from testing.harness import Recorder
    from testing.harness import RunPytest

# pytest_faultguard_crash


CRASHES = """
import os
import pytest

pytestmark = pytest.mark.faultguard

@pytest.fixture
def ending():
    yield
    os.abort()

def test_call(): os.abort()

def test_teardown(ending): pass

def test_fails(): assert 0

def test_passes(): pass

@pytest.mark.faultguard(expect="SIGABRT")
def test_expected(): os.abort()

@pytest.mark.xfail(reason="crashes")
def test_xfail(): os.abort()
"""


@pytest.mark.parametrize("scope", ["function", "module"])
def test_evidence_of_others_is_in_the_report(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    xdist_args: tuple[str, ...],
    start_args: tuple[str, ...],
    scope: str,
) -> None:
    """Of every crash, once, in a process that has the item and the whole record; and of nothing else."""
    pytester.makepyfile(CRASHES)
    pytester.makeconftest(
        """
        import pytest_faultguard

        def pytest_faultguard_crash(item, crash):
            assert not pytest_faultguard.is_guarded()
            with open("called", "a") as file:
                print(item.name, file=file)
            yield "the log of the device", f"{item.name} in {crash.phase}: {crash.cause}\\x00\\udc80"
            yield "more of it", "nothing"
        """
    )

    options = (f"--faultguard-scope={scope}", "-o", "xfail_strict=false")
    run_pytest(*xdist_args, *start_args, *options, timeout=3 * SESSION_SECONDS)

    called = (pytester.path / "called").read_text().split()
    assert sorted(called) == ["test_call", "test_teardown", "test_xfail"]
    for name, phase in {"test_call": "call", "test_teardown": "teardown"}.items():
        told = recorder.report(name, phase).longrepr
        assert f"{name} in {phase}: SIGABRT (aborted) in {phase} after" in told
        assert "- the log of the device -" in told
        assert "- more of it -" in told
        assert recorder.report(name, phase).crash["gaps"] == []
    assert recorder.report("test_expected").outcome == "passed"
    assert recorder.report("test_xfail").outcome == "skipped"


BROKEN = {
    "raise ValueError('no device')": "ValueError: no device",
    "import pytest; pytest.fail('no device')": "Failed: no device",
    "yield 'a title', 'a text'; raise ValueError('lost it')": "ValueError: lost it",
    "return [('title', 3)]": "TypeError: a title and a text are wanted, not ('title', 3)",
    "return 'ab', 'cd'": "TypeError: a title and a text are wanted, not 'ab'",
    "return 3": "TypeError: 'int' object is not iterable",
}


@pytest.mark.parametrize("body", BROKEN)
def test_an_error_in_a_hook_is_a_gap(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, xdist_args: tuple[str, ...], body: str
) -> None:
    """The crash is told all the same, with what others have found."""
    pytester.makepyfile(test_it="import os, pytest\n@pytest.mark.faultguard\ndef test_it(): os.abort()\n")
    pytester.makeconftest(f"def pytest_faultguard_crash(item, crash):\n    {body}\n")
    for name in ("before", "after"):
        pytester.makepyfile(**{name: f"def pytest_faultguard_crash(): return [('{name}', 'found {name}')]\n"})
    pytester.makepyfile(nothing="def pytest_faultguard_crash(crash): pass\n")

    run_pytest(*xdist_args, "-p", "before", "-p", "after", "-p", "nothing")

    report = recorder.report("test_it")
    assert report.outcome == "failed"
    (gap,) = report.crash["gaps"]
    assert gap.startswith("pytest_faultguard_crash of ")
    assert gap.endswith(f": {BROKEN[body]}")
    assert BROKEN[body] in report.longrepr
    assert "found before" in report.longrepr
    assert "found after" in report.longrepr


@pytest.mark.parametrize(
    ("then", "told"),
    [
        ("raise ValueError('lost it')", "ValueError: lost it"),
        ("yield 'title', 3", "TypeError: a title and a text are wanted, not ('title', 3)"),
    ],
)
def test_what_a_hook_has_yielded_before_its_error_is_kept(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    xdist_args: tuple[str, ...],
    then: str,
    told: str,
) -> None:
    """Beside the gap."""
    pytester.makepyfile("import os, pytest\n@pytest.mark.faultguard\ndef test_it(): os.abort()\n")
    pytester.makeconftest(f"def pytest_faultguard_crash():\n    yield 'device log', 'last words'\n    {then}\n")

    run_pytest(*xdist_args)

    report = recorder.report("test_it")
    (gap,) = report.crash["gaps"]
    assert gap.endswith(f": {told}")
    pytest.LineMatcher(report.longrepr.splitlines()).fnmatch_lines(["*- device log -*", "last words"])


# pytest_faultguard_healthcheck

TESTS = """
import os

import pytest

STATE = []

def test_poisons():
    STATE.append("poison")

def test_after():
    assert not STATE
    STATE.append(os.getpid())

def test_same_child():
    assert STATE == [os.getpid()]
"""

CHECK = """
def pytest_faultguard_healthcheck(item):
    with open("checked", "a") as file:
        print(item.name, file=file)
    if "poison" in item.module.STATE:
        {}
"""
WARNED = "UnhealthyChildWarning: its child was ended: "


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return 'the context is lost'", "the context is lost"),
        ("raise ValueError('no context')", "the health check raised ValueError: no context"),
        ("import pytest; pytest.fail('no context')", "the health check raised Failed: no context"),
        ("raise SystemExit(3)", "the health check raised SystemExit: 3"),
        ("return False", "the health check returned False, which is no reason"),
    ],
)
def test_an_unhealthy_child_runs_no_other_test(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    xdist_args: tuple[str, ...],
    body: str,
    reason: str,
) -> None:
    """The next test gets a fresh one, and a warning says why; no test fails by that."""
    pytester.makepyfile(TESTS)
    pytester.makeconftest(CHECK.format(body))
    distribution = ("--dist=loadfile",) if xdist_args else ()

    result = run_pytest(*xdist_args, *distribution, "--faultguard", "-W", "error")

    result.assert_outcomes(passed=3, warnings=1)
    assert recorder.warnings() == [WARNED + reason]
    result.stdout.fnmatch_lines(["*.py::test_poisons", f"*.py:7: {WARNED}*"])


def test_a_healthy_child_goes_on(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, xdist_args: tuple[str, ...]
) -> None:
    """None and an empty text are no reason; where a child runs one test, nobody asks."""
    pytester.makepyfile(
        TESTS.replace("'poison'", "0").replace('"poison"', "os.getpid()").replace("assert not STATE", "STATE.pop()")
        + "\n@pytest.mark.faultguard\ndef test_alone(): pass\n\ndef test_unhealthy(): assert 0\n"
    )
    pytester.makeconftest(CHECK.format("pass") + "    return '' if item.name == 'test_after' else None\n")
    distribution = ("--dist=loadfile",) if xdist_args else ()

    run_pytest(*xdist_args, *distribution, "--faultguard").assert_outcomes(passed=4, failed=1)

    checked = (pytester.path / "checked").read_text().split()
    assert checked == ["test_poisons", "test_after", "test_same_child", "test_unhealthy"]
    assert recorder.warnings() == []


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("import os; os.abort()", "SIGABRT (aborted) at exit after *"),
        ("import os; os._exit(0)", "exit code 0 at exit after *"),
        ("import signal; signal.pause()", "timeout of 2 s passed at exit, ended by SIGTERM"),
    ],
)
def test_a_crash_in_the_check_is_one_at_exit(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    xdist_args: tuple[str, ...],
    body: str,
    cause: str,
) -> None:
    """Of the test before; the others go on in a fresh child."""
    pytester.makepyfile(TESTS)
    pytester.makeconftest(CHECK.format(body))
    distribution = ("--dist=loadfile",) if xdist_args else ()

    run_pytest(*xdist_args, *distribution, "--faultguard", "--faultguard-timeout=2")

    assert recorder.outcomes() == {
        "test_poisons": ["setup passed", "call passed", "teardown failed"],
        "test_after": ["setup passed", "call passed", "teardown passed"],
        "test_same_child": ["setup passed", "call passed", "teardown passed"],
    }
    pytest.LineMatcher([recorder.report("test_poisons", "teardown").message or ""]).fnmatch_lines([cause])


def test_what_tests_have_shared_is_torn_down(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, start_args: tuple[str, ...]
) -> None:
    """Once in the unhealthy child, and once in the next one."""
    pytester.makepyfile(
        TESTS
        + """
@pytest.fixture(scope="module", autouse=True)
def shared():
    yield
    with open("ended", "a") as file:
        print(os.getpid(), file=file)
"""
    )
    pytester.makeconftest(CHECK.format("return 'poisoned'"))

    run_pytest("--faultguard", *start_args).assert_outcomes(passed=3, warnings=1)

    assert recorder.warnings() == [f"{WARNED}poisoned"]
    assert len(set((pytester.path / "ended").read_text().split())) == 2


def test_the_check_may_end_the_session(pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder) -> None:
    """By `pytest.exit`, as any hook."""
    pytester.makepyfile(TESTS)
    pytester.makeconftest(CHECK.format("import pytest; pytest.exit('the device is gone', returncode=7)"))

    result = run_pytest("--faultguard")

    assert result.ret == 7
    assert list(recorder.outcomes()) == ["test_poisons"]


@pytest.mark.parametrize(
    "args",
    [
        ["-n1"],
        ["--faultguard", "--faultguard-scope=function"],
        ["--faultguard"],
        ["--faultguard", "--faultguard-start=forkserver"],
        ["--faultguard", "--faultguard-start=spawn"],
    ],
    ids=" ".join,
)
def test_others_may_say_how_a_report_is_sent(pytester: pytest.Pytester, run_pytest: RunPytest, args: list[str]) -> None:
    """Of a test that passed, too, and on both sides: as where pytest-xdist sends them."""
    pytester.makeconftest(
        """
        import os
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_report_to_serializable(report):
            data = yield
            return {**data, "sent_by": os.getpid()}

        @pytest.hookimpl(wrapper=True)
        def pytest_report_from_serializable(data):
            report = yield
            report.sent_to = os.getpid()
            return report

        def pytest_runtest_logreport(report):
            with open("sent", "a") as file:
                print(vars(report).get("sent_by") not in {None, os.getpid()}, vars(report).get("sent_to"), file=file)
        """
    )
    pytester.makepyfile("def test_it(): pass")

    run_pytest(*args).assert_outcomes(passed=1)

    lines = [line.split() for line in (pytester.path / "sent").read_text().splitlines()]
    assert [sent for sent, to in lines if to != "None"] == ["True"] * 3


def test_a_hook_around_a_crash_sees_whole_files(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder
) -> None:
    """It is pytest itself that is shown less of them, for it parses them."""
    pytester.makeconftest(
        """
        import inspect
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item):
            before = inspect.getsource(item.cls)
            report = yield
            assert before == inspect.getsource(item.cls)
            report.sections.append(("class", before))
            return report
        """
    )
    pytester.makepyfile(
        """
        import ctypes

        def crash():
            ctypes.memset(0, 0, 1)

        class TestIt:
            def test_crashes(self):
                crash()
        """
    )

    run_pytest("--faultguard").assert_outcomes(failed=1)

    assert "class TestIt" in dict(recorder.report("test_crashes").sections)["class"]
