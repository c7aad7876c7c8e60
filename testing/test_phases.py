"""Promise 2: a crash belongs to the phase in which it came, and reports leave the child as each phase ends."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator

import pytest

from pytest_faultguard.crash import Crash
from pytest_faultguard.crash import from_json
from testing.harness import Junit
from testing.harness import Recorder
from testing.harness import RunPytest
from testing.live import starting

pytestmark = pytest.mark.usefixtures("programs")

#: What each phase ends as when the process dies in one of them; a crash at exit is one after the teardown's report.
OUTCOMES = {
    "setup": ["setup failed", "teardown passed"],
    "call": ["setup passed", "call failed", "teardown passed"],
    "teardown": ["setup passed", "call passed", "teardown failed"],
    "exit": ["setup passed", "call passed", "teardown failed"],
}

WAYS = {
    "signal": ("lib.null_write()", "SIGSEGV"),
    "kill": ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    "exit_0": ("os._exit(0)", "exit code 0"),
    "exit_3": ("lib.exit3()", "exit code 3"),
    "thread": ("lib.native_thread_abort(0); signal.pause()", "SIGABRT"),
    "hang": ("lib.loop_gil()", "timeout"),
    "closed": ("os.closerange(0, 65536)", "lost"),
}

CASES = [(way, phase) for way in WAYS for phase in OUTCOMES]

VICTIM = """
import os
import signal

import pytest
from programs import lib


def die_{way}():
    {code}


@pytest.fixture
def {way}_setup():
    die_{way}()


@pytest.fixture
def {way}_teardown():
    yield
    die_{way}()


class Handle_{way}:
    def __del__(self):
        # As a destructor in C would: pytest lets go of the fixtures' values when the last report is out.
        die_{way}()


@pytest.fixture
def {way}_exit():
    return Handle_{way}()


@pytest.fixture
def {way}_call():
    pass
"""

TEST = """
@pytest.mark.faultguard(timeout={timeout})
def test_{way}_{phase}({way}_{phase}):
    {body}
"""


def victims() -> str:
    """One test for each case."""
    parts = [VICTIM.format(way=way, code=code) for way, (code, _) in WAYS.items()]
    for way, phase in CASES:
        body = f"die_{way}()" if phase == "call" else "pass"
        parts.append(TEST.format(way=way, phase=phase, body=body, timeout=0.5 if way == "hang" else 0))
    return "\n".join([*parts, "def test_after(): pass"])


def crash_of(recorder: Recorder, nodeid: str) -> Crash:
    """The crash of the one failed report of that test."""
    (report,) = (report for report in recorder.reports(nodeid) if report.outcome == "failed")
    return from_json(report.crash)


def test_a_crash_belongs_to_its_phase(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """However it dies: one failed report, in the phase where it came; the phases before passed, none is invented."""
    pytester.makepyfile(victims())

    result = run_pytest(*xdist_args)

    expected = {f"test_{way}_{phase}": OUTCOMES[phase] for way, phase in CASES}
    expected["test_after"] = ["setup passed", "call passed", "teardown passed"]
    assert recorder.outcomes() == expected
    assert {report.when for report in recorder.reports()} == {"setup", "call", "teardown"}
    crashes = {(way, phase): crash_of(recorder, f"::test_{way}_{phase}") for way, phase in CASES}
    assert {case: (crash.phase, crash.short_cause) for case, crash in crashes.items()} == {
        (way, phase): (phase, WAYS[way][1]) for way, phase in CASES
    }
    # pytest's words: failed for the call, error for the rest.
    calls = sum(phase == "call" for _, phase in CASES)
    passed = sum(phase in {"teardown", "exit"} for _, phase in CASES) + 1
    result.assert_outcomes(failed=calls, errors=len(CASES) - calls, passed=passed)
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_the_words_tell_the_phase(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """In the headline as pytest has it, in the `E` line as ours."""
    pytester.makepyfile(victims())

    result = run_pytest(*xdist_args, "-k", "signal or exit_0_exit or hang_teardown")

    for headline, cause in (
        ("_ ERROR at setup of test_signal_setup _", "SIGSEGV (segmentation fault) in setup after "),
        ("_ test_signal_call _", "SIGSEGV (segmentation fault) in call after "),
        ("_ ERROR at teardown of test_signal_teardown _", "SIGSEGV (segmentation fault) in teardown after "),
        ("_ ERROR at teardown of test_signal_exit _", "SIGSEGV (segmentation fault) at exit after "),
        ("_ ERROR at teardown of test_exit_0_exit _", "exit code 0 at exit after "),
        ("_ ERROR at teardown of test_hang_teardown _", "timeout of 0.5 s passed in teardown"),
    ):
        start = next(number for number, line in enumerate(result.outlines) if headline in line)
        assert (
            next(line for line in result.outlines[start:] if line.startswith("E  ")).split(None, 1)[1].startswith(cause)
        )


def test_a_crash_in_setup_of_a_shared_fixture_is_told_for_each_test_that_asks_for_it(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester
) -> None:
    """As a fixture that fails is."""
    pytester.makepyfile(
        """
        import pytest
        from programs import lib

        pytestmark = pytest.mark.faultguard

        @pytest.fixture(scope="module")
        def shared():
            lib.null_write()

        def test_a(shared): pass
        def test_b(shared): pass
        def test_c(): pass
        """
    )

    run_pytest()

    assert recorder.outcomes() == {
        "test_a": OUTCOMES["setup"],
        "test_b": OUTCOMES["setup"],
        "test_c": ["setup passed", "call passed", "teardown passed"],
    }


def test_a_failed_call_stays_failed_when_the_teardown_crashes(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """Two failures, each with its own report: the assertion has its diff, the crash its dump."""
    pytester.makepyfile(
        """
        import pytest
        from programs import lib

        @pytest.fixture
        def dies():
            yield
            lib.null_write()

        @pytest.mark.faultguard
        def test_a(dies):
            assert [1, 2] == [1, 3]
        """
    )

    run_pytest(*xdist_args)

    assert recorder.outcomes() == {"test_a": ["setup passed", "call failed", "teardown failed"]}
    call, teardown = recorder.report("test_a", "call"), recorder.report("test_a", "teardown")
    assert call.crash is None
    assert "At index 1 diff: 2 != 3" in call.longrepr
    assert from_json(teardown.crash).phase == "teardown"


def test_a_skipped_test_may_crash_in_teardown(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester
) -> None:
    """Skipped in setup: what was set up by then is torn down, and the reports tell both."""
    pytester.makepyfile(
        """
        import pytest
        from programs import lib

        @pytest.fixture
        def dies():
            yield
            lib.null_write()

        @pytest.fixture
        def skips(dies):
            pytest.skip("not here")

        @pytest.mark.faultguard
        def test_a(skips): pass
        """
    )

    run_pytest()

    assert recorder.outcomes() == {"test_a": ["setup skipped", "teardown failed"]}
    assert from_json(recorder.report("test_a", "teardown").crash).phase == "teardown"


# Reports leave the child as each phase ends.


@pytest.fixture
def gate(pytester: pytest.Pytester) -> Iterator[int]:
    """A FIFO at which an inner test waits (`from gate import wait`) until the outer one writes to this descriptor."""
    path = pytester.path / "gate"
    os.mkfifo(path)
    pytester.makepyfile(gate=f"def wait():\n    open({str(path)!r}, 'rb').read(1)")
    # With a reader of our own nobody waits in open(), and nobody meets an end of file.
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    yield fd
    os.close(fd)


WAITING = """
import pytest
from gate import wait
from programs import lib


@pytest.fixture
def waits_in_setup():
    wait()


@pytest.fixture
def waits_in_teardown():
    yield
    wait()
    lib.null_write()


class Handle:
    def __del__(self):
        wait()
        lib.null_write()


@pytest.fixture
def waits_at_exit():
    yield Handle()


@pytest.mark.faultguard(timeout=30)
def test_it(waits_@PHASE@): pass
"""


@pytest.mark.parametrize("phase", ["in_teardown", "at_exit"])
def test_the_calls_report_is_shown_while_the_teardown_still_runs(
    run_pytest: RunPytest, pytester: pytest.Pytester, gate: int, xdist_args: tuple[str, ...], phase: str
) -> None:
    """The terminal has PASSED; only then is the teardown let go, to crash."""
    pytester.makepyfile(WAITING.replace("@PHASE@", phase))
    with starting(pytester) as start_pytest:
        live = start_pytest("-v", *xdist_args)
        shown = live.wait_for_output("test_it PASSED|PASSED .*test_it")
        assert "ERROR" not in shown.string
        assert live.process.poll() is None

        os.write(gate, b"\0")

        assert live.end() == pytest.ExitCode.TESTS_FAILED
        where = "in teardown" if phase == "in_teardown" else "at exit"
        assert f"SIGSEGV (segmentation fault) {where} after " in live.output
        assert "1 passed, 1 error in " in live.output


def test_a_hang_in_teardown_does_not_take_the_calls_report_along(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """What the call had printed and recorded stands in its own report, which has left before the process was killed."""
    pytester.makepyfile(
        """
        import pytest
        from programs import pylib

        @pytest.fixture
        def hangs():
            yield
            print("said in teardown")
            pylib.loop_blocked()

        @pytest.mark.faultguard(timeout=0.5, grace=0.1)
        def test_a(hangs, record_property):
            record_property("colour", "red")
            print("said in call")
        """
    )

    run_pytest(*xdist_args)

    assert recorder.outcomes() == {"test_a": OUTCOMES["teardown"]}
    call, teardown = recorder.report("test_a", "call"), recorder.report("test_a", "teardown")
    assert call.section("Captured stdout call") == "said in call\n"
    assert call.user_properties == [("colour", "red")]
    assert teardown.section("Captured stdout call") == "said in call\n"
    assert teardown.section("Captured stdout teardown") == "said in teardown\n"


def test_what_is_said_at_exit_stands_in_the_report(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """Also the C library's last words; where nothing crashes the text goes to the terminal, as it does unguarded."""
    pytester.makepyfile(
        """
        import logging
        import sys

        import pytest
        from programs import lib

        class Handle:
            def __init__(self, end):
                self.end = end

            def __del__(self):
                print("to stdout")
                print("to stderr", file=sys.stderr)
                logging.getLogger().warning("to the log")
                self.end()

        @pytest.fixture
        def handle(request):
            return Handle(request.param)

        @pytest.mark.faultguard
        @pytest.mark.parametrize("handle", [lib.double_free], ids=[""], indirect=True)
        def test_dies(handle): pass
        """
    )

    result = run_pytest(*xdist_args)

    (report,) = (report for report in recorder.reports() if report.outcome == "failed")
    assert "at exit after" in (report.message or "")
    assert (report.message or "").endswith(": free(): double free detected in tcache 2")
    assert report.section("Captured stdout teardown") == "to stdout\n"
    assert report.section("Captured stderr teardown").startswith("to stderr\nfree(): double free")
    assert report.section("Captured log teardown").endswith(" to the log\n")
    assert result.stderr.str() == ""


@pytest.mark.parametrize("capture", ["fd", "sys", "no", "tee-sys"])
def test_what_is_said_at_a_clean_exit_is_not_lost(
    run_pytest: RunPytest, pytester: pytest.Pytester, capture: str
) -> None:
    """Without a guard it goes to the terminal, once; so it does with one."""
    pytester.makepyfile(
        """
        import pytest

        class Handle:
            def __del__(self):
                print("last words")

        @pytest.fixture
        def handle():
            return Handle()

        def test_a(handle): pass
        """
    )

    unguarded, guarded = (run_pytest(f"--capture={capture}", option) for option in ("-q", "--faultguard"))

    assert unguarded.stdout.str().count("last words") == guarded.stdout.str().count("last words") == 1
    guarded.assert_outcomes(passed=1)


# Durations.

SLOW = """
import time

import pytest
from programs import lib

pytestmark = pytest.mark.faultguard


class Value:
    def __reduce__(self):
        # Is loaded after the crash, by another process: its time is not the test's.
        return time.sleep, (0.7,)


@pytest.fixture
def slow_setup():
    time.sleep(0.3)


@pytest.fixture
def crash_in_setup():
    time.sleep(0.3)
    lib.null_write()


@pytest.fixture
def crash_in_teardown():
    yield
    time.sleep(0.3)
    lib.null_write()


def test_setup(crash_in_setup): pass


def test_call(slow_setup):
    time.sleep(0.2)
    lib.null_write()


def test_quick_call(slow_setup, faultguard_data):
    faultguard_data["slow to load"] = Value()
    lib.null_write()


def test_teardown(crash_in_teardown):
    time.sleep(0.2)


@pytest.mark.faultguard(timeout=0.4, grace=0.6)
def test_hang():
    lib.loop_blocked()
"""

#: The least that each phase takes, by test; much more than that is somebody else's time.
TIMES = {
    "test_setup": {"setup": 0.3, "teardown": 0.0},
    "test_call": {"setup": 0.3, "call": 0.2, "teardown": 0.0},
    "test_quick_call": {"setup": 0.3, "call": 0.0, "teardown": 0.0},
    "test_teardown": {"setup": 0.0, "call": 0.2, "teardown": 0.3},
    # Less what the setup took, and without stacks and grace, which come after the deadline.
    "test_hang": {"setup": 0.0, "call": 0.3, "teardown": 0.0},
}
TOLERANCE = 0.25


def test_durations_are_true(
    run_pytest: RunPytest, recorder: Recorder, junit: Junit, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """In the reports, in `--durations`, in junitxml and in the `E` line: the phase's own time, and nobody else's."""
    pytester.makepyfile(SLOW)

    result = run_pytest(*xdist_args, *junit.args, "--durations=0", "-vv")

    measured = {name: {report.when: report.duration for report in recorder.reports(f"::{name}")} for name in TIMES}
    for name, phases in TIMES.items():
        assert measured[name].keys() == phases.keys(), name
        for when, least in phases.items():
            # The guard learns by a message that the phase before has ended.
            assert least - 0.05 <= measured[name][when] < least + TOLERANCE, (name, when)

    lines = re.findall(r"^([0-9.]+s) (setup|call|teardown) +\S+::(\w+)$", result.stdout.str(), re.MULTILINE)
    assert {(name, when): told for told, when, name in lines} == {
        (name, when): f"{duration:.2f}s" for name, phases in measured.items() for when, duration in phases.items()
    }

    # pytest rounds each case to milliseconds.
    times = {case.name: case.time for case in junit.cases()}
    assert times == {name: pytest.approx(sum(phases.values()), abs=0.002) for name, phases in measured.items()}

    for name, phase in (("test_setup", "setup"), ("test_call", "call"), ("test_teardown", "teardown")):
        crash = crash_of(recorder, f"::{name}")
        assert crash.duration == pytest.approx(measured[name][phase])
        assert crash.cause == f"SIGSEGV (segmentation fault) in {phase} after {crash.duration:.2f} s"


def test_the_session_waits_no_longer_than_the_tests_take(run_pytest: RunPytest, pytester: pytest.Pytester) -> None:
    """A crash is noticed at once, without any deadline: twenty of them cost less than one second of waiting each."""
    pytester.makepyfile(
        """
        import pytest
        from programs import lib

        @pytest.mark.faultguard
        @pytest.mark.parametrize("number", range(20))
        def test_a(number):
            lib.abort_()
        """
    )
    start = time.monotonic()

    result = run_pytest("--tb=no")

    result.assert_outcomes(failed=20)
    assert time.monotonic() - start < 15
