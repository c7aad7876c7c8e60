"""Promise 1: whatever a guarded test does to its process costs one failed report of that test, and nothing else."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_faultguard.crash import Ending
from pytest_faultguard.crash import Exited
from pytest_faultguard.crash import Lost
from pytest_faultguard.crash import Overdue
from pytest_faultguard.crash import Signaled
from pytest_faultguard.crash import from_json
from pytest_faultguard.crash import signal_name
from testing.harness import SESSION_SECONDS
from testing.harness import Recorder
from testing.harness import Report
from testing.harness import RunPytest
from testing.programs import SIGNATURES
from testing.programs import missing

pytestmark = pytest.mark.usefixtures("programs")

CLEAN = ["setup passed", "call passed", "teardown passed"]
FAILED = ["setup passed", "call failed", "teardown passed"]


@dataclass(frozen=True)
class Way:
    """One way to die in the call, the settings that it needs, and how the crash names it."""

    code: str
    ending: str
    limits: str = ""


WAYS = {
    # Every program of testing/programs.
    "null_write": Way("lib.null_write()", "SIGSEGV"),
    "abort_": Way("lib.abort_()", "SIGABRT"),
    "assert_": Way("lib.assert_()", "SIGABRT"),
    "double_free": Way("lib.double_free()", "SIGABRT"),
    "cxx_exception": Way("lib.cxx_exception()", "SIGABRT"),
    "stack_overflow": Way("lib.stack_overflow()", "SIGSEGV"),
    "sigfpe": Way("lib.sigfpe()", "SIGFPE"),
    "sigill": Way("lib.sigill()", "SIGILL"),
    "sigbus": Way("lib.sigbus()", "SIGBUS"),
    "exit3": Way("lib.exit3()", "exit code 3"),
    "exit0": Way("lib.exit0()", "exit code 0"),
    "loop_gil": Way("pylib.loop_gil()", "timeout, SIGTERM", "timeout=0.5"),
    "loop_blocked": Way("pylib.loop_blocked()", "timeout, SIGKILL", "timeout=0.5, grace=0.1"),
    "native_thread_crash": Way("lib.native_thread_crash(0); signal.pause()", "SIGSEGV"),
    "native_thread_abort": Way("lib.native_thread_abort(0); signal.pause()", "SIGABRT"),
    "stop_self": Way("lib.stop_self(); lib.loop_gil()", "timeout, SIGTERM", "timeout=0.5"),
    "block_all_signals": Way("lib.block_all_signals(); lib.null_write()", "SIGSEGV"),
    "close_all_fds": Way("lib.close_all_fds()", "lost"),
    "kill_self": Way("lib.kill_self(signal.SIGTERM)", "SIGTERM"),
    "write_stderr_then_abort": Way("lib.write_stderr_then_abort(b'panic\\n')", "SIGABRT"),
    "scribble": Way("lib.scribble(ctypes.addressof(ctypes.c_long()), 1 << 40)", "SIGSEGV"),
    "no_fork": Way("lib.no_fork(0)", "SIGABRT"),
    "pool": Way("lib.pool(0)", "timeout, SIGTERM", "timeout=0.5"),
    "die_in_destructor": Way("lib.die_in_destructor(); ctypes.CDLL(None).exit(0)", "SIGABRT"),
    # The others.
    "ctypes_null": Way("ctypes.string_at(0)", "SIGSEGV"),
    "os_kill": Way("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    "kill_by_segv": Way("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
    "os_abort": Way("os.abort()", "SIGABRT"),
    "realtime_signal": Way("os.kill(os.getpid(), signal.SIGRTMIN + 1)", "SIGRTMIN+1"),
    "os_exit_0": Way("os._exit(0)", "exit code 0"),
    "os_exit_1": Way("os._exit(1)", "exit code 1"),
    "os_exit_255": Way("os._exit(255)", "exit code 255"),
    "closerange": Way("os.closerange(0, 65536)", "lost"),
    "closerange_then_crash": Way("os.closerange(0, 65536); lib.null_write()", "SIGSEGV"),
    "closerange_then_exit": Way("os.closerange(0, 65536); os._exit(0)", "exit code 0"),
    # Files of the test's own under every number that was ours.
    "other_files_instead": Way("os.closerange(0, 65536); [os.open('victims.txt', 66) for _ in range(700)]", "lost"),
    "deep_recursion": Way("overflow_the_stack()", "SIGSEGV"),
    "exec": Way("os.execv('/bin/true', ['true'])", "exit code 0"),
    "uncaught_on_a_thread_of_python": Way("on_a_thread(lib.null_write)", "SIGSEGV"),
    "fork_and_leave": Way("os.fork(); os._exit(0)", "exit code 0"),
}

PRELUDE = """
import ctypes
import os
import resource
import signal
import sys
import threading

import pytest
from programs import lib, pylib


def overflow_the_stack():
    # A Python function calls itself through C, as callbacks do. With 256 KiB of stack it is quick.
    resource.setrlimit(resource.RLIMIT_STACK, (1 << 18, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    sys.setrecursionlimit(10 ** 6)

    @ctypes.CFUNCTYPE(None)
    def again():
        again()

    again()


def on_a_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()
"""


#: Those that can be had here.
POSSIBLE = {name: way for name, way in WAYS.items() if not missing(way.code)}


def victims() -> str:
    """One test for each way, and neighbours before and after each: a guarded and an unguarded one."""
    parts = [PRELUDE]
    for name, way in POSSIBLE.items():
        parts += [
            f"def test_before_{name}(): pass",
            f"@pytest.mark.faultguard({way.limits})",
            f"def test_{name}():\n    {way.code}",
            "@pytest.mark.faultguard",
            f"def test_after_{name}(): pass",
        ]
    return "\n\n".join(parts)


def ending_of(report: Report) -> Ending:
    """How the crash of a report ended, from the attribute that every consumer gets."""
    return from_json(report.crash).ending


def named(ending: Ending) -> str:
    """An ending in a word or two."""
    match ending:
        case Exited(code=code):
            return f"exit code {code}"
        case Signaled(signal=number):
            return signal_name(number)
        case Overdue(stopped_by=stopped_by):
            return f"timeout, {stopped_by}"
        case Lost():
            return "lost"
        case _:
            return type(ending).__name__


def test_whatever_kills_it_the_test_fails_once_and_its_neighbours_pass(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """One session with every way to die, each told by its own ending."""
    pytester.makepyfile(test_victims=victims())

    # So many children take a while where each is an interpreter that starts clean.
    result = run_pytest(*xdist_args, timeout=3 * SESSION_SECONDS)

    expected: dict[str, list[str]] = {}
    for name in POSSIBLE:
        expected |= {f"test_before_{name}": CLEAN, f"test_{name}": FAILED, f"test_after_{name}": CLEAN}
    assert recorder.outcomes() == expected
    endings = {name: named(ending_of(recorder.report(f"::test_{name}"))) for name in POSSIBLE}
    assert endings == {name: way.ending for name, way in POSSIBLE.items()}
    assert result.ret == recorder.exit_status() == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2 * len(POSSIBLE), failed=len(POSSIBLE))


def test_every_program_is_among_the_ways() -> None:
    """A program that is added must be survived."""
    assert set(SIGNATURES) <= set(WAYS)
    assert all(f"lib.{name}(" in WAYS[name].code for name in SIGNATURES)


THREADS = """
import os
import threading

import pytest
from programs import lib


def crash_and_go_on(crash):
    # The stacks of 20 threads, with long names, take a while to be written: longer than the main thread needs.
    name, space = "f" * 400, {"wait": threading.Event().wait, "there": threading.Semaphore(0).release}
    ready = space["there"].__self__
    exec(f"def {name}(depth):\\n  if depth: {name}(depth - 1)\\n  else: there(); wait()", space)
    for _ in range(20):
        threading.Thread(target=space[name], args=(50,), daemon=True).start()
    for _ in range(20):
        ready.acquire()
    before = set(os.listdir("/proc/self/task"))
    assert crash(10) == 0
    (thread,) = set(os.listdir("/proc/self/task")) - before
    # Until that thread has begun to write what it knows.
    fd = os.open(f"/proc/self/task/{thread}/io", os.O_RDONLY)
    while b"\\nsyscw: 0\\n" in os.pread(fd, 500, 0):
        pass


def test_before(): pass


@pytest.mark.faultguard
@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("crash", ["native_thread_crash", "native_thread_abort"])
def test_passes(crash, turn):
    crash_and_go_on(getattr(lib, crash))


@pytest.mark.faultguard
@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("crash", ["native_thread_crash", "native_thread_abort"])
def test_leaves(crash, turn):
    crash_and_go_on(getattr(lib, crash))
    os._exit(0)


def test_after(): pass
"""


def test_a_thread_crashes_while_the_main_thread_goes_on(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """The first byte of a dump makes it a crash, though the test passes, though the process leaves with 0."""
    pytester.makepyfile(THREADS)

    result = run_pytest(*xdist_args)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    outcomes = recorder.outcomes()
    assert (outcomes.pop("test_before"), outcomes.pop("test_after")) == (CLEAN, CLEAN)
    assert len(outcomes) == 16
    for name, phases in outcomes.items():
        # Which phase the main thread had reached is a race; that the crash is told, and told once, is none.
        (crashed,) = (report for report in recorder.reports(name) if report.outcome == "failed")
        ending = ending_of(crashed)
        assert isinstance(ending, Signaled | Lost), (name, crashed.message)
        if isinstance(ending, Signaled):
            assert ending.signal == (signal.SIGABRT if "abort" in name else signal.SIGSEGV), name
        else:
            assert "while a thread was crashing" in ending.reason, name
        assert phases in (FAILED, ["setup passed", "call passed", "teardown failed"]), name


# What follows is compared with the same tests, when they merely fail.

DIE = """
import os

import pytest
from programs import lib


def die(how=lib.null_write):
    if "MERELY_FAIL" in os.environ:
        pytest.fail("merely")
    how()
"""

SUITE = """
import unittest

import pytest
from die import die


@pytest.fixture(scope="session")
def of_the_session():
    yield []


@pytest.fixture(scope="module")
def of_the_module(of_the_session):
    yield len(of_the_session)


@pytest.fixture(params=["a", "b"], scope="module")
def parameter(request):
    return request.param


@pytest.fixture
def dies_before():
    die()


@pytest.fixture
def dies_after():
    yield
    die()


@pytest.mark.faultguard
def test_first(of_the_module):
    die()


def test_unguarded_after_it(of_the_module):
    assert of_the_module == 0


@pytest.mark.faultguard
def test_guarded_after_it(of_the_module, of_the_session):
    assert (of_the_module, of_the_session) == (0, [])


@pytest.mark.faultguard
def test_in_setup(dies_before): pass


@pytest.mark.faultguard
def test_in_teardown(dies_after): pass


@pytest.mark.faultguard
def test_in_call_and_teardown(dies_after):
    die()


def test_fails_by_itself():
    assert 0


@pytest.mark.faultguard
def test_parameters(parameter):
    if parameter == "a":
        die()


class TestClass:
    @classmethod
    def setup_class(cls):
        cls.ready = True

    def setup_method(self):
        assert self.ready

    @pytest.mark.faultguard
    def test_dies(self):
        die()

    @pytest.mark.faultguard
    def test_lives(self, of_the_module):
        assert self.ready

    def test_lives_here(self, of_the_module):
        assert self.ready


class TestCase(unittest.TestCase):
    def setUp(self):
        self.ready = True

    @pytest.mark.faultguard
    def test_dies(self):
        die()

    def test_lives(self):
        assert self.ready


@pytest.mark.faultguard
@pytest.mark.xfail(reason="known")
def test_expected():
    die()


@pytest.mark.faultguard
@pytest.mark.skip(reason="not now")
def test_skipped():
    die()


@pytest.mark.faultguard
def test_in_a_row_1():
    die()


@pytest.mark.faultguard
def test_in_a_row_2():
    die()


@pytest.mark.faultguard
def test_last(of_the_session):
    die()
"""


@pytest.fixture
def die(pytester: pytest.Pytester, programs: Path) -> None:
    """`from die import die` in an inner session."""
    pytester.makepyfile(die=DIE)


@pytest.mark.usefixtures("die")
def test_every_other_test_ends_as_if_the_crashed_one_had_merely_failed(
    run_pytest: RunPytest,
    recorder: Recorder,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    xdist_args: tuple[str, ...],
) -> None:
    """Fixtures of every scope, classes, unittest, parameters, crashes in a row, the first test and the last."""
    pytester.makepyfile(SUITE)
    crashed = run_pytest(*xdist_args)
    outcomes, crashes = recorder.outcomes(), [report for report in recorder.reports() if report.crash]

    monkeypatch.setenv("MERELY_FAIL", "1")
    failed = run_pytest(*xdist_args)

    expected = recorder.outcomes()
    # A process that died in the call has no teardown left in which it could die again.
    assert expected["test_in_call_and_teardown"] == ["setup passed", "call failed", "teardown failed"]
    expected["test_in_call_and_teardown"] = FAILED
    assert outcomes == expected
    assert (crashed.ret, failed.ret) == (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.TESTS_FAILED)
    assert len(crashes) == 11


MANY = """
import pytest
from die import die

pytestmark = pytest.mark.faultguard


def test_a(): pass
def test_b(): die()
def test_c(): pass
def test_d(): die()
def test_e(): pass
def test_f(): die()
def test_g(): pass
"""


@pytest.mark.usefixtures("die")
@pytest.mark.parametrize(
    ("option", "ran"), [("-x", "ab"), ("--maxfail=1", "ab"), ("--maxfail=2", "abcd"), ("--maxfail=9", "abcdefg")]
)
def test_maxfail_counts_a_crash(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, option: str, ran: str
) -> None:
    """The session stops after it as after a failure."""
    pytester.makepyfile(MANY)

    result = run_pytest(option)

    assert list(recorder.outcomes()) == [f"test_{letter}" for letter in ran]
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    if ran != "abcdefg":
        crashes = ran.count("b") + ran.count("d")
        result.stdout.fnmatch_lines([f"*! stopping after {crashes} failures !*"])


SETUP_OR_TEARDOWN = """
import pytest
from die import die

pytestmark = pytest.mark.faultguard


@pytest.fixture
def dies_before():
    die()


@pytest.fixture
def dies_after():
    yield
    die()


def test_a(dies_@WHEN@): pass
def test_b(): pass
"""


@pytest.mark.usefixtures("die")
@pytest.mark.parametrize("when", ["before", "after"])
def test_x_stops_after_a_crash_in_setup_or_teardown(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, when: str
) -> None:
    """An error is a failure for `-x`."""
    pytester.makepyfile(SETUP_OR_TEARDOWN.replace("@WHEN@", when))

    result = run_pytest("-x")

    assert list(recorder.outcomes()) == ["test_a"]
    assert result.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.usefixtures("die")
def test_x_stops_a_distributed_session_as_a_failure_does(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty tests that crash, of which each xdist worker may begin a few; the exit status is xdist's own."""
    pytester.makepyfile(
        """
        import pytest
        from die import die

        @pytest.mark.faultguard
        @pytest.mark.parametrize("number", range(50))
        def test_all(number):
            die()
        """
    )
    results: list[tuple[Any, bool]] = []
    for merely in (False, True):
        if merely:
            monkeypatch.setenv("MERELY_FAIL", "1")
        result = run_pytest("-n2", "-x")
        failed = [report for report in recorder.reports() if report.outcome == "failed"]
        results.append((result.ret, 1 <= len(failed) <= 4))
    assert results == [(results[0][0], True)] * 2
    assert results[0][0] != pytest.ExitCode.OK


@pytest.mark.usefixtures("die")
def test_lf_runs_what_crashed(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """A crash is remembered as a failure, also one in setup or teardown."""
    pytester.makepyfile(test_many=MANY, test_other=SETUP_OR_TEARDOWN.replace("@WHEN@", "after"))
    run_pytest(*xdist_args, plugins=())

    result = run_pytest(*xdist_args, "--lf", plugins=())

    assert sorted(recorder.outcomes()) == ["test_a", "test_b", "test_d", "test_f"]
    assert {report.nodeid for report in recorder.reports("test_a")} == {"test_other.py::test_a"}
    assert result.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.usefixtures("die")
def test_stepwise_begins_with_what_crashed(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester
) -> None:
    """`--sw` stops at a crash and starts there the next time."""
    pytester.makepyfile(MANY)
    run_pytest("--sw", plugins=())
    assert list(recorder.outcomes()) == ["test_a", "test_b"]

    run_pytest("--sw", plugins=())

    assert list(recorder.outcomes()) == ["test_b"]


@pytest.mark.usefixtures("die")
def test_summary_has_each_test_once(
    run_pytest: RunPytest, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """`-rA`: a crash is FAILED, in the call, or ERROR, before or after it; one line each, and the others PASSED."""
    pytester.makepyfile(test_many=MANY, test_other=SETUP_OR_TEARDOWN.replace("@WHEN@", "before"))

    result = run_pytest("-rA", *xdist_args)

    summary = [line for line in result.outlines if line.startswith(("PASSED ", "FAILED ", "ERROR "))]
    assert sorted(line.split(" - ")[0] for line in summary) == sorted(
        [
            *(f"PASSED test_many.py::test_{letter}" for letter in "aceg"),
            *(f"FAILED test_many.py::test_{letter}" for letter in "bdf"),
            "ERROR test_other.py::test_a",
            "PASSED test_other.py::test_b",
        ]
    )
    assert sum("SIGSEGV (segmentation fault) in call after " in line for line in summary) == 3
    assert sum("SIGSEGV (segmentation fault) in setup after " in line for line in summary) == 1
    result.assert_outcomes(passed=5, failed=3, errors=1)


@pytest.mark.usefixtures("die")
def test_option_guards_what_has_no_marker(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """`--faultguard`: the session survives a test of which nobody expected a crash."""
    pytester.makepyfile("from die import die\ndef test_a(): die()\ndef test_b(): pass")

    result = run_pytest("--faultguard", *xdist_args)

    assert recorder.outcomes() == {"test_a": FAILED, "test_b": CLEAN}
    assert result.ret == pytest.ExitCode.TESTS_FAILED
