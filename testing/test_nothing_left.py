"""Nothing is left behind: no process of a guarded test outlives its end, whatever ends it, the test or pytest itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from testing.harness import Recorder
from testing.harness import Report
from testing.harness import RunPytest
from testing.harness import common_options
from testing.harness import starts_clean
from testing.live import Live
from testing.live import StartPytest
from testing.live import descendants
from testing.live import has_ended
from testing.live import look_at
from testing.live import wait_until
from testing.live import wait_until_asleep

#: What may pass on a busy machine between a signal and what it causes, grace and limits not counted.
SLACK_SECONDS = 10.0


# The group is swept at every ending, and what was in it is named.

#: Three processes that nobody waits for: one plain, one without a parent, one that takes no SIGTERM.
LEAK = """
import os
import signal
import subprocess
import time
import pytest
from programs import lib, pylib

def leak(request):
    plain = subprocess.Popen(["sleep", "1001"])
    shell = subprocess.run(["sh", "-c", "sleep 1002 >/dev/null & echo $!"], stdout=subprocess.PIPE, check=True)
    former = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    deaf = subprocess.Popen(["sleep", "1003"])
    signal.signal(signal.SIGTERM, former)
    with open(f"pids_{request.cls.__name__}", "w") as file:
        print(plain.pid, int(shell.stdout), deaf.pid, file=file)
    # Nobody here may end them or complain about them.
    for process in (plain, deaf):
        process.returncode = 0

def is_gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True

class Base:
    def test_next(self):
        with open(f"pids_{type(self).__name__}") as file:
            assert all(is_gone(int(pid)) for pid in file.read().split())
"""

#: What the test does in its setup, its call and its teardown.
ENDINGS = {
    "pass": ("pass", "leak(request)", "pass"),
    "fail": ("pass", "leak(request); assert 0", "pass"),
    "skip": ("pass", "leak(request); pytest.skip('so')", "pass"),
    "fail_in_setup": ("leak(request); assert 0", "pass", "pass"),
    "fail_in_teardown": ("leak(request)", "pass", "assert 0"),
    "crash": ("pass", "leak(request); lib.null_write()", "pass"),
    "exit": ("pass", "leak(request); os._exit(0)", "pass"),
    "kill": ("pass", "leak(request); os.kill(os.getpid(), 9)", "pass"),
    "crash_in_setup": ("leak(request); lib.abort_()", "pass", "pass"),
    "crash_in_teardown": ("pass", "leak(request)", "lib.abort_()"),
    "crash_of_another_thread": ("pass", "leak(request); lib.native_thread_crash(0); time.sleep(600)", "pass"),
    "timeout": ("pass", "leak(request); time.sleep(600)", "pass"),
    "timeout_without_mercy": ("pass", "leak(request); pylib.loop_blocked()", "pass"),
    "close_all_fds": ("pass", "leak(request); os.closerange(0, 4096)", "pass"),
}


@pytest.mark.usefixtures("programs")
def test_group_is_swept_and_named_at_every_ending(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, xdist_args: tuple[str, ...]
) -> None:
    """Before the next test begins, and with pid and command line in the report."""
    classes = [
        f"""
class Test_{name}(Base):
    @pytest.fixture
    def thing(self, request):
        {setup}
        yield
        {teardown}

    @pytest.mark.faultguard(timeout={0.7 if name.startswith("timeout") else None}, grace=0.2)
    def test_leak(self, request, thing):
        {call}

    def test_next(self):
        super().test_next()
"""
        for name, (setup, call, teardown) in ENDINGS.items()
    ]
    (pytester.path / "test_it.py").write_text("\n".join([LEAK, *classes]))

    run_pytest(*xdist_args, *(["--dist=loadscope"] if xdist_args else []))

    for name in ENDINGS:
        pids = [int(pid) for pid in (pytester.path / f"pids_Test_{name}").read_text().split()]
        assert recorder.report(f"Test_{name}::test_next").outcome == "passed", name
        assert [look_at(pid) for pid in pids] == [None] * 3
        told = [f"{pid} sleep {number}" for pid, number in zip(pids, (1001, 1002, 1003), strict=True)]
        assert sorted(named(recorder.reports(f"Test_{name}::test_leak"))) == sorted(told), name


def named(reports: list[Report]) -> list[str]:
    """The leaked processes that the reports of a test name, which one of them does, once."""
    texts = [text for report in reports for title, text in report.sections if "leaked processes" in title]
    for report in reports:
        if report.crash is not None:
            assert set(report.crash["leaked"]) <= set(report.longrepr.splitlines())
            texts.append("\n".join(report.crash["leaked"]))
    (text,) = filter(None, texts)
    return text.splitlines()


def test_leaked_process_of_a_test_that_did_not_crash_is_told_on_the_terminal(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, xdist_args: tuple[str, ...]
) -> None:
    """Under the failure; of one that did not fail in a warning, and where such tests are shown at all, also there."""
    pytester.makepyfile(
        """
        import subprocess
        import pytest

        pytestmark = pytest.mark.faultguard

        def test_passes():
            subprocess.Popen(["sleep", "1001"])

        def test_fails():
            subprocess.Popen(["sleep", "1002"])
            assert 0

        def test_skips():
            subprocess.Popen(["sleep", "1003"])
            pytest.skip("so")

        @pytest.fixture
        def broken_later():
            yield
            subprocess.Popen(["sleep", "1004"])
            assert 0

        def test_teardown(broken_later):
            pass
        """
    )

    quiet = run_pytest(*xdist_args).stdout
    warned = recorder.warnings()
    told = run_pytest(*xdist_args, "-rA").stdout

    for number in (1001, 1002, 1004):
        told.fnmatch_lines_random([f"[0-9]* sleep {number}"])
    for number in (1002, 1004):
        quiet.fnmatch_lines_random([f"[0-9]* sleep {number}"])
    quiet.no_fnmatch_line("[0-9]* sleep 1001")
    for name, number in {"passes": 1001, "skips": 1003}.items():
        warning = f"LeakedProcessesWarning: killed at the end of *.py::test_{name}: [0-9]* sleep {number}"
        quiet.fnmatch_lines([f"*.py:*: {warning}"])
        pytest.LineMatcher(sorted(warned)).fnmatch_lines([warning])
    assert len(warned) == 2


@pytest.mark.parametrize("scope", ["function", "module"])
def test_nobody_is_warned_of_the_helpers_of_multiprocessing(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, scope: str
) -> None:
    """It ends neither of them itself: they do so when the test's process has ended."""
    pytester.makepyfile(
        f"""
        import pytest
        from multiprocessing import forkserver
        from multiprocessing import resource_tracker

        pytestmark = pytest.mark.faultguard(scope="{scope}")

        def test_tracker():
            resource_tracker.ensure_running()

        def test_forkserver():
            forkserver.ensure_running()
        """
    )

    run_pytest().assert_outcomes(passed=2)

    assert recorder.warnings() == []


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("scope", ["function", "module"])
def test_directory_of_multiprocessing_is_removed_by_who_has_made_it(
    pytester: pytest.Pytester, run_pytest: RunPytest, scope: str, start: str
) -> None:
    """At the end of its process, as by Python; the audit finds what is left. That of pytest's process stays as long as that."""
    pytester.makepyfile(
        test_a=f"""
        import pytest
        from multiprocessing import forkserver
        from multiprocessing import util

        @pytest.mark.faultguard(scope="{scope}", start="{start}")
        @pytest.mark.parametrize("number", [1, 2])
        def test_guarded(number):
            forkserver.ensure_running()
            assert util.get_temp_dir()
        """,
        test_b=f"""
        import pathlib
        import pytest
        from multiprocessing import util

        def test_before():
            util.get_temp_dir()

        @pytest.mark.faultguard(scope="{scope}")
        def test_guarded():
            assert pathlib.Path(util.get_temp_dir()).exists()

        def test_after():
            assert pathlib.Path(util.get_temp_dir()).exists()
        """,
    )

    run_pytest().assert_outcomes(passed=5)


@pytest.mark.forked_only("the service is inherited")
def test_process_of_one_test_is_not_blamed_on_another(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, xdist_args: tuple[str, ...]
) -> None:
    """What pytest or an unguarded test has started lives on, and a test that waits for its processes leaks nothing."""
    pytester.makepyfile(
        """
        import subprocess
        import pytest

        @pytest.fixture(scope="session")
        def service():
            process = subprocess.Popen(["sleep", "1001"])
            yield process
            assert process.poll() is None
            process.kill()
            process.wait()

        def test_1(service):
            assert service.poll() is None

        @pytest.mark.faultguard
        def test_2(service):
            subprocess.run(["true"], check=True)
            with subprocess.Popen(["sleep", "1002"]) as process:
                process.kill()

        @pytest.mark.faultguard
        def test_3(service):
            import os
            os._exit(1)

        def test_4(service):
            assert service.poll() is None
        """
    )

    run_pytest(*xdist_args, *(["--dist=loadfile"] if xdist_args else []))

    assert {report.nodeid[-1] for report in recorder.reports() if report.outcome == "failed"} == {"3"}
    assert recorder.report("test_3").crash["leaked"] == []
    assert "leaked" not in str([report.sections for report in recorder.reports()])


# Ctrl-C.

HANGS = """
import os
import signal
import subprocess
import time
import pytest
from say import say

@pytest.fixture(scope="module")
def of_parent():
    yield
    say("ended", "parent", os.getpid())

@pytest.fixture(scope="module")
def of_child():
    yield
    say("ended", "child", os.getpid())

def hang():
    leaked = subprocess.Popen(["sleep", "1001"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    say("hangs", os.getpid(), leaked.pid)
    while True:
        signal.pause()

@pytest.fixture
def in_setup(of_child):
    hang()
    yield

@pytest.fixture
def in_teardown(of_child):
    yield
    hang()

@pytest.fixture
def in_call(of_child):
    yield hang
    say("ended", "function", os.getpid())

def test_before(of_parent):
    pass

@pytest.mark.faultguard
def test_setup(of_parent, in_setup):
    pass

@pytest.mark.faultguard
def test_call(of_parent, in_call):
    in_call()

@pytest.mark.faultguard
def test_teardown(of_parent, in_teardown):
    pass

def test_after():
    say("ran on")
"""


def normalized(output: str) -> str:
    """The output of a session without what differs between two of them."""
    differs = r"in \d+\.\d\ds|=+(?= .* in \d+\.\d\ds)|=+$|/runpytest-\d+|(?<=gw)\d"
    return re.sub(differs, "", output, flags=re.MULTILINE)


def wait_until_busy(pid: int) -> None:
    """Until a process that has said its word is in its loop: nothing else in it takes so much time of a processor."""
    ticks = user_ticks(pid)
    wait_until(lambda: user_ticks(pid) >= ticks + 5, f"{pid} loops")


def user_ticks(pid: int) -> int:
    """How long a process has been computing, in hundredths of a second."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


@pytest.mark.parametrize(
    ("phase", "options"),
    [
        ("setup", ()),
        ("call", ()),
        ("teardown", ()),
        ("setup", ("--faultguard-start=forkserver", "--faultguard-scope=session")),
        ("call", ("--faultguard-start=spawn",)),
        ("teardown", ("--faultguard-start=spawn", "--faultguard-scope=session")),
    ],
    ids=lambda one: one if isinstance(one, str) else " ".join(one),
)
def test_interrupt_ends_the_session_as_without_us(
    pytester: pytest.Pytester, start_pytest: StartPytest, recorder: Recorder, phase: str, options: tuple[str, ...]
) -> None:
    """The same output, reports and exit status; each fixture torn down where it was set up, the child's before."""
    pytester.makepyfile(HANGS)
    told = {}
    for args in (("--no-faultguard",), ()):
        session = start_pytest("-k", f"before or after or {phase}", *options, *args)
        child, leaked = map(int, session.wait_for("hangs"))
        # The line that is interrupted is told: it must be the same one. And pytest is done with the reports before it.
        wait_until_asleep(child)
        wait_until_asleep(session.pid)
        session.send(signal.SIGINT)
        status = session.end(SLACK_SECONDS)
        ended = []
        while session.has_said("ended"):
            ended.append(session.wait_for("ended"))
        expected = [["function", str(child)], ["child", str(child)], ["parent", str(session.pid)]]
        if not args and (options or starts_clean()):
            # Nothing is inherited: this child has all fixtures for itself.
            expected.insert(2, ["parent", str(child)])
        assert ended == expected[phase != "call" :]
        assert not session.has_said("ran on")
        told[args] = (status, normalized(session.output), recorder.outcomes(), recorder.exit_status())
        if args:
            assert child == session.pid
            os.kill(leaked, signal.SIGKILL)
        else:
            assert child != session.pid
            assert look_at(leaked) is None
    assert told[()] == told["--no-faultguard",]
    status, output, _, exit_status = told[()]
    assert status == exit_status == pytest.ExitCode.INTERRUPTED
    assert "! KeyboardInterrupt !" in output
    assert re.search(r"^/.*\.py:\d+: KeyboardInterrupt$", output, re.MULTILINE)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A terminal that is nobody's yet: who types, and who reads."""
    fds = os.openpty()
    yield fds
    for fd in fds:
        os.close(fd)


def test_interrupt_at_the_terminal(
    pytester: pytest.Pytester, start_pytest: StartPytest, terminal: tuple[int, int]
) -> None:
    """The key reaches pytest's group alone; the child hears of it from pytest, once."""
    pytester.makepyfile(
        """
        import os
        import signal
        import pytest
        from say import say

        @pytest.fixture
        def thing():
            yield
            say("ended")

        @pytest.mark.faultguard
        def test_it(thing):
            say("hangs", os.getpid())
            while True:
                signal.pause()
        """
    )
    leader, follower = terminal
    program = (
        "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "os.execv(sys.executable, [sys.executable, '-m', 'pytest', *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", program, *common_options()]
    process = pytester.popen(command, stdin=follower, stdout=subprocess.PIPE, stderr=follower)
    session = start_pytest.adopt(process)
    (child,) = map(int, session.wait_for("hangs"))

    os.write(leader, b"\x03")

    assert session.end(SLACK_SECONDS) == pytest.ExitCode.INTERRUPTED
    session.wait_for("ended")
    assert look_at(child) is None


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("body", ["pylib.loop_gil()", "pylib.loop_blocked()", "stubborn()"])
def test_child_that_does_not_obey_an_interrupt_is_killed_after_the_grace(
    pytester: pytest.Pytester, start_pytest: StartPytest, body: str
) -> None:
    """A native loop, with signals or without, and a test that catches everything; pytest ends all the same."""
    pytester.makepyfile(
        f"""
        import os
        import time
        import pytest
        from programs import lib, pylib
        from say import say

        def stubborn():
            while True:
                try:
                    time.sleep(600)
                except BaseException:
                    pass

        @pytest.mark.faultguard(grace=0.7)
        def test_it():
            say("hangs", os.getpid())
            {body}
        """
    )
    session = start_pytest()
    (child,) = map(int, session.wait_for("hangs"))
    if body == "stubborn()":
        wait_until_asleep(child)
    else:
        wait_until_busy(child)

    session.send(signal.SIGINT)
    sent_at = time.monotonic()

    assert session.end() == pytest.ExitCode.INTERRUPTED
    assert 0.7 <= time.monotonic() - sent_at < 0.7 + SLACK_SECONDS
    assert "! KeyboardInterrupt !" in session.output
    assert re.search(r"test_child_that_does_not_obey\S*\.py:15: KeyboardInterrupt", session.output)
    assert look_at(child) is None


SLOW_TEARDOWN = """
import os
import signal
import pytest
from say import say

@pytest.fixture
def slow():
    yield
    say("tears down", os.getpid())
    while True:
        try:
            signal.pause()
        except KeyboardInterrupt:
            say("interrupted again")

@pytest.mark.faultguard(grace={grace})
def test_it(slow):
    say("hangs", os.getpid())
    while True:
        signal.pause()
"""


def test_teardown_after_an_interrupt_has_the_grace_and_no_more(
    pytester: pytest.Pytester, start_pytest: StartPytest
) -> None:
    """One that hangs costs the grace."""
    pytester.makepyfile(SLOW_TEARDOWN.format(grace=0.7))
    session = start_pytest()
    (child,) = map(int, session.wait_for("hangs"))

    session.send(signal.SIGINT)
    sent_at = time.monotonic()

    session.wait_for("tears")
    assert session.end() == pytest.ExitCode.INTERRUPTED
    assert 0.7 <= time.monotonic() - sent_at < 0.7 + SLACK_SECONDS
    assert look_at(child) is None


def test_second_interrupt_kills_at_once(pytester: pytest.Pytester, start_pytest: StartPytest) -> None:
    """Whatever the grace; the child hears of the first one only."""
    pytester.makepyfile(SLOW_TEARDOWN.format(grace=600))
    session = start_pytest()
    (child,) = map(int, session.wait_for("hangs"))
    session.send(signal.SIGINT)
    session.wait_for("tears")
    wait_until_asleep(child)

    session.send(signal.SIGINT)

    assert session.end(SLACK_SECONDS) == pytest.ExitCode.INTERRUPTED
    assert not session.has_said("interrupted")
    assert look_at(child) is None


def test_interrupt_of_a_stopped_child(pytester: pytest.Pytester, start_pytest: StartPytest) -> None:
    """It cannot tear anything down: it is killed after the grace."""
    pytester.makepyfile(
        """
        import os
        import signal
        import pytest
        from say import say

        @pytest.mark.faultguard(grace=0.3)
        def test_it():
            say("stops", os.getpid())
            os.kill(os.getpid(), signal.SIGSTOP)
            signal.pause()
        """
    )
    session = start_pytest()
    (child,) = map(int, session.wait_for("stops"))
    wait_until(lambda: (seen := look_at(child)) is not None and seen.state == "T", "the child stops")

    session.send(signal.SIGINT)

    assert session.end(SLACK_SECONDS) == pytest.ExitCode.INTERRUPTED
    assert look_at(child) is None


def test_interrupt_of_a_distributed_session(pytester: pytest.Pytester, start_pytest: StartPytest) -> None:
    """At the terminal: controller and workers are one group; each worker has its child tear down what it has set up."""
    pytester.makepyfile(
        """
        import os
        import time
        import pytest
        from say import say

        @pytest.fixture
        def thing():
            yield
            say("ended")

        @pytest.mark.faultguard
        @pytest.mark.parametrize("number", [1, 2])
        def test_it(thing, number):
            say("hangs", os.getpid())
            time.sleep(600)
        """
    )
    session = start_pytest("-n2")
    hanging = [int(session.wait_for("hangs")[0]) for _ in range(2)]
    for pid in hanging:
        wait_until_asleep(pid)

    os.killpg(session.pid, signal.SIGINT)

    assert session.end() == pytest.ExitCode.INTERRUPTED
    assert [look_at(pid) for pid in hanging] == [None, None]
    for _ in hanging:
        session.wait_for("ended")


# SIGTERM and its like.

TERMINATED = """
import os
import subprocess
import time
import pytest
from say import say

@pytest.mark.faultguard(grace=600)
def test_it():
    leaked = subprocess.Popen(["sleep", "1001"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    say("hangs", os.getpid(), leaked.pid)
    time.sleep(600)

def test_after():
    say("ran")
"""


#: By who lives below pytest besides the child and what that has started: nobody, a fork server and the copy of it that
#: serves, or an interpreter that waits to be the child of a later test. With the options, and how many live in all.
BELOW = {
    # Also where the options of all inner sessions say otherwise.
    "fork": (("--faultguard-start=fork",), 2),
    "spawn": (("--faultguard-start=spawn",), 2),
    "forkserver": (("--faultguard-start=forkserver",), 4),
    "spawn-session": (("--faultguard", "--faultguard-start=spawn", "--faultguard-scope=session"), 2),
    "forkserver-session": (("--faultguard", "--faultguard-start=forkserver", "--faultguard-scope=session"), 4),
    "early": (("--faultguard", "--faultguard-start=spawn"), 3),
}


def terminated(below: str) -> str:
    """The module for such a session."""
    return TERMINATED.replace("grace=600", 'grace=600, start="fork"') if below == "early" else TERMINATED


def terminate(session: Live, number: int) -> tuple[int, int]:
    """Wait for the test to hang, and send pytest a signal; the pids of the child and of what it has started."""
    child, leaked = map(int, session.wait_for("hangs"))
    session.send(number)
    return child, leaked


@pytest.mark.parametrize(
    ("below", "number"),
    [
        ("fork", signal.SIGTERM),
        ("fork", signal.SIGHUP),
        ("fork", signal.SIGQUIT),
        ("spawn", signal.SIGTERM),
        ("forkserver", signal.SIGHUP),
        ("spawn-session", signal.SIGQUIT),
        ("forkserver-session", signal.SIGTERM),
        ("early", signal.SIGTERM),
    ],
    ids=lambda one: one if isinstance(one, str) else one.name,
)
def test_signal_with_its_default_disposition_sweeps_and_then_ends_pytest(
    pytester: pytest.Pytester, start_pytest: StartPytest, below: str, number: signal.Signals
) -> None:
    """Pytest dies of that very signal, and at once: the grace is for tests that are too late."""
    pytester.makepyfile(terminated(below))
    options, count = BELOW[below]
    session = start_pytest(*options)
    pids = list(map(int, session.wait_for("hangs")))
    others = descendants(session.pid).difference(pids)
    assert len(others) == count - 2

    session.send(number)

    assert session.end(SLACK_SECONDS) == -number
    assert [look_at(pid) for pid in pids] == [None, None]
    # The kernel ends these with pytest.
    assert all(has_ended(pid, SLACK_SECONDS) for pid in others)


PYTHON_FUNCTION = """
import os
import signal
import sys
from say import say

def function(number, frame):
    say("function", os.getpid(), number)
    {action}

signal.signal(signal.{name}, function)
"""


@pytest.mark.parametrize(
    ("number", "action", "expected"),
    [
        pytest.param(signal.SIGTERM, "raise KeyboardInterrupt", pytest.ExitCode.INTERRUPTED, id="interrupt"),
        pytest.param(signal.SIGTERM, "sys.exit(7)", pytest.ExitCode.INTERNAL_ERROR, id="exit"),
        pytest.param(signal.SIGTERM, "os._exit(7)", 7, id="_exit"),
        pytest.param(signal.SIGHUP, "raise KeyboardInterrupt", pytest.ExitCode.INTERRUPTED, id="SIGHUP"),
        pytest.param(signal.SIGQUIT, "raise KeyboardInterrupt", pytest.ExitCode.INTERRUPTED, id="SIGQUIT"),
    ],
)
def test_signal_with_a_python_function_sweeps_and_then_calls_it(
    pytester: pytest.Pytester, start_pytest: StartPytest, number: signal.Signals, action: str, expected: int
) -> None:
    """Once, in pytest's own process, after the child is gone; what it raises is raised in pytest."""
    pytester.makeconftest(PYTHON_FUNCTION.format(name=number.name, action=action))
    pytester.makepyfile(TERMINATED)
    session = start_pytest()

    pids = terminate(session, number)

    assert session.end(SLACK_SECONDS) == expected
    assert session.wait_for("function") == [str(session.pid), str(int(number))]
    assert not session.has_said("function")
    assert not session.has_said("ran")
    assert [look_at(pid) for pid in pids] == [None, None]


def test_signal_with_a_python_function_that_returns(
    pytester: pytest.Pytester, start_pytest: StartPytest, recorder: Recorder
) -> None:
    """The session goes on, as it does without us; the guarded test was ended, and says so."""
    pytester.makeconftest(PYTHON_FUNCTION.format(name="SIGTERM", action="return"))
    pytester.makepyfile(TERMINATED)
    session = start_pytest()

    pids = terminate(session, signal.SIGTERM)

    assert session.end(SLACK_SECONDS) == pytest.ExitCode.TESTS_FAILED
    assert session.wait_for("function") == [str(session.pid), str(int(signal.SIGTERM))]
    assert not session.has_said("function")
    session.wait_for("ran")
    assert recorder.report("test_it").crash["ending"]["signal"] == signal.SIGKILL
    assert [look_at(pid) for pid in pids] == [None, None]


C_FUNCTION = r"""
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fd = -1;
static char mark;

static void on_signal(int number, siginfo_t *details, void *context)
{
    (void)number; (void)context;
    /* What only SA_SIGINFO gives: who has sent it. */
    mark = details != NULL && details->si_signo == number ? 'y' : 'n';
    if (write(fd, &mark, 1) == 1)
        _exit(9);
}

extern int install(int number, const char *path)
{
    struct sigaction action;
    fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaddset(&action.sa_mask, SIGUSR2);
    return sigaction(number, &action, NULL);
}

extern int is_installed(int number)
{
    struct sigaction action;
    sigaction(number, NULL, &action);
    return action.sa_sigaction == on_signal && (action.sa_flags & SA_SIGINFO) && (action.sa_flags & SA_ONSTACK)
        && sigismember(&action.sa_mask, SIGUSR2);
}
"""


@pytest.fixture
def c_function(pytester: pytest.Pytester) -> Path:
    """A conftest that has C code handle SIGTERM, which Python's own table knows nothing of."""
    source = pytester.path / "c_function.c"
    library = pytester.path / "c_function.so"
    source.write_text(C_FUNCTION)
    subprocess.run([os.environ.get("CC", "gcc"), "-shared", "-fPIC", "-o", library, source], check=True)
    pytester.makeconftest(
        f"""
        import ctypes
        import signal

        library = ctypes.CDLL({str(library)!r})
        assert library.install(signal.SIGTERM, b"written") == 0
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        """
    )
    return pytester.path / "written"


def test_signal_that_c_code_handles_sweeps_and_then_calls_it(
    pytester: pytest.Pytester, start_pytest: StartPytest, c_function: Path
) -> None:
    """With the flags that it asked for."""
    pytester.makepyfile(TERMINATED)
    session = start_pytest()

    pids = terminate(session, signal.SIGTERM)

    assert session.end(SLACK_SECONDS) == 9
    assert c_function.read_text() == "y"
    assert [look_at(pid) for pid in pids] == [None, None]


def test_c_function_is_as_it_was_in_the_child_and_after_it(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, c_function: Path
) -> None:
    """Both tables, the kernel's with flags and mask."""
    pytester.makepyfile(
        """
        import signal
        import pytest
        from conftest import library

        def check():
            assert library.is_installed(signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

        @pytest.mark.faultguard
        def test_1():
            check()

        def test_2():
            check()
        """
    )

    run_pytest()

    assert {report.outcome for report in recorder.reports()} == {"passed"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_signal_that_is_ignored_stays_ignored(
    pytester: pytest.Pytester, start_pytest: StartPytest, recorder: Recorder, number: signal.Signals
) -> None:
    """As under `nohup`: the test goes on and passes."""
    pytester.makeconftest(f"import signal; signal.signal(signal.{number.name}, signal.SIG_IGN)")
    pytester.makepyfile(
        f"""
        import signal
        import pytest
        from say import say
        from say import wait

        @pytest.mark.faultguard(grace=0)
        def test_it():
            assert signal.getsignal(signal.{number.name}) is signal.SIG_IGN
            say("waits")
            wait()
        """
    )
    session = start_pytest()
    session.wait_for("waits")
    wait_until_asleep(session.pid)

    session.send(number)
    # The answer comes when all that was sent before has had its effect.
    session.send(signal.SIGUSR1)
    session.wait_for_output(r"test_it: running for")
    session.go()

    assert session.end() == 0
    assert recorder.report("test_it").outcome == "passed"


def test_interrupt_and_termination_together(pytester: pytest.Pytester, start_pytest: StartPytest) -> None:
    """Many tools send both: pytest dies of the one that cannot be caught up with, as without us."""
    pytester.makepyfile(SLOW_TEARDOWN.format(grace=600))
    session = start_pytest()
    (child,) = map(int, session.wait_for("hangs"))
    session.send(signal.SIGINT)
    session.wait_for("tears")

    session.send(signal.SIGTERM)

    assert session.end(SLACK_SECONDS) == -signal.SIGTERM
    assert look_at(child) is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_signal_while_somebody_elses_hook_hangs(
    pytester: pytest.Pytester, start_pytest: StartPytest, number: signal.Signals
) -> None:
    """A full pipe to a pager, a plugin that waits for a server: the guard is not running, and pytest must end."""
    pytester.makeconftest(
        """
        import time
        from say import say

        def pytest_runtest_logreport(report):
            if report.when == "call":
                say("hangs")
                time.sleep(600)
        """
    )
    pytester.makepyfile(
        """
        import os
        import pytest
        from say import say

        @pytest.mark.faultguard
        def test_it():
            say("child", os.getpid())
        """
    )
    session = start_pytest()
    (child,) = map(int, session.wait_for("child"))
    session.wait_for("hangs")

    session.send(number)

    assert session.end(SLACK_SECONDS) == (-number if number == signal.SIGTERM else pytest.ExitCode.INTERRUPTED)
    assert look_at(child) is None


def test_hook_that_raises_orphans_no_child(pytester: pytest.Pytester, start_pytest: StartPytest) -> None:
    """An error of another plugin in mid-test is pytest's INTERNALERROR, as without us."""
    pytester.makeconftest(
        """
        from say import wait

        def pytest_runtest_logreport(report):
            if report.when == "setup":
                wait()
                raise ValueError("a bug in a plugin")
        """
    )
    pytester.makepyfile(TERMINATED)
    session = start_pytest()
    child, leaked = map(int, session.wait_for("hangs"))

    session.go()

    assert session.end(SLACK_SECONDS) == pytest.ExitCode.INTERNAL_ERROR
    assert "a bug in a plugin" in session.output
    assert [look_at(pid) for pid in (child, leaked)] == [None, None]


@pytest.mark.parametrize(
    ("below", "xdist"),
    [
        ("fork", False),
        ("fork", True),
        ("spawn", False),
        ("forkserver", True),
        ("forkserver-session", False),
        ("spawn-session", True),
        ("early", False),
    ],
)
def test_child_dies_with_pytest(
    pytester: pytest.Pytester, start_pytest: StartPytest, allow_leftovers: list[str], below: str, xdist: bool
) -> None:
    """After SIGKILL, of which pytest hears nothing; what the child had started is a documented limit."""
    allow_leftovers.append("sleep 1001")
    # A worker of pytest-xdist whose controller is gone: execnet ends it some seconds later.
    allow_leftovers.append("exec(eval(sys.stdin.readline()))")
    pytester.makepyfile(terminated(below))
    options, count = BELOW[below]
    session = start_pytest(*options, *(["-n2"] if xdist else []))
    child, leaked = map(int, session.wait_for("hangs"))
    seen = look_at(child)
    assert seen is not None
    assert seen.ppid == session.pid or xdist
    found = descendants(seen.ppid)
    assert {child, leaked} <= found
    assert len(found) == count

    os.kill(seen.ppid, signal.SIGKILL)

    assert all(has_ended(pid, SLACK_SECONDS) for pid in found - {leaked})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize("below", ["spawn", "forkserver", "early"])
def test_signal_while_a_child_begins(
    pytester: pytest.Pytester, start_pytest: StartPytest, below: str, number: signal.Signals
) -> None:
    """An interpreter that imports a slow conftest file is nobody's child yet, and ends with pytest all the same."""
    pytester.makeconftest(
        """
        import os
        from say import say, wait

        if "PYTEST_FAULTGUARD" in os.environ:
            say("begins", os.getpid())
            wait()
        """
    )
    pytester.makepyfile("import pytest\n@pytest.mark.faultguard(grace=0.2)\ndef test_it(): pass\n")
    session = start_pytest(*BELOW[below][0])
    (child,) = map(int, session.wait_for("begins"))
    wait_until_asleep(session.pid)

    session.send(number)

    expected = pytest.ExitCode.INTERRUPTED if number == signal.SIGINT else -number
    assert session.end(SLACK_SECONDS) == expected
    assert has_ended(child, SLACK_SECONDS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT], ids=lambda number: number.name)
def test_workers_without_a_controller_leave_nothing(
    pytester: pytest.Pytester, start_pytest: StartPytest, number: signal.Signals
) -> None:
    """Sent to the controller of pytest-xdist alone: a busy worker is interrupted by execnet, some seconds later."""
    pytester.makepyfile(TERMINATED.replace("grace=600", "grace=0.5"))
    session = start_pytest("-n2")

    pids = terminate(session, number)

    session.end(SLACK_SECONDS + 20)
    assert [has_ended(pid, 20) for pid in pids] == [True, True]


# Ctrl-Z.


def is_stopped(*pids: int) -> bool:
    """Whether all of them stand still."""
    return all((seen := look_at(pid)) is not None and seen.state == "T" for pid in pids)


def runs(*pids: int) -> bool:
    """Whether none of them stands still."""
    return all((seen := look_at(pid)) is not None and seen.state != "T" for pid in pids)


@pytest.mark.parametrize(
    ("former", "below"),
    [("default", "fork"), ("python_function", "fork"), ("default", "spawn-session"), ("default", "forkserver")],
)
def test_child_stops_and_goes_on_with_pytest(
    pytester: pytest.Pytester, start_pytest: StartPytest, recorder: Recorder, former: str, below: str
) -> None:
    """With all that it has started, as often as one likes; and its clock, too, stands still."""
    if former == "python_function":
        pytester.makeconftest(
            """
            import os
            import signal
            from say import say

            def function(number, frame):
                say("function", os.getpid())
                os.kill(os.getpid(), signal.SIGSTOP)

            signal.signal(signal.SIGTSTP, function)
            """
        )
    pytester.makepyfile(
        """
        import os
        import subprocess
        import pytest
        from say import say
        from say import wait

        @pytest.mark.faultguard(timeout=3)
        def test_it():
            with subprocess.Popen(["sleep", "1001"]) as started:
                say("waits", os.getpid(), started.pid)
                wait()
                started.kill()

        @pytest.mark.faultguard(timeout=0.5)
        def test_hangs():
            wait()
        """
    )
    session = start_pytest(*BELOW[below][0])
    pids = [session.pid, *map(int, session.wait_for("waits"))]

    for pause in (0.0, 3.5):
        session.send(signal.SIGTSTP)
        wait_until(lambda: is_stopped(*pids), "pytest, the child and its process stop")
        # What is measured: a stop that is longer than the timeout.
        time.sleep(pause)
        session.send(signal.SIGCONT)
        wait_until(lambda: runs(*pids), "they go on")
    session.go()

    assert session.end() == pytest.ExitCode.TESTS_FAILED
    assert recorder.report("test_it").outcome == "passed"
    assert recorder.report("test_hangs").crash["ending"]["kind"] == "Overdue"
    if former == "python_function":
        assert [session.wait_for("function") for _ in range(2)] == [[str(session.pid)]] * 2


def test_clock_goes_on_where_it_stood(pytester: pytest.Pytester, start_pytest: StartPytest, recorder: Recorder) -> None:
    """A test that hangs is ended after its limit of running, not sooner and not never."""
    pytester.makepyfile(
        """
        import os
        import signal
        import pytest
        from say import say

        @pytest.mark.faultguard(timeout=1.5)
        def test_it():
            say("hangs", os.getpid())
            while True:
                signal.pause()
        """
    )
    session = start_pytest()
    (child,) = map(int, session.wait_for("hangs"))
    session.send(signal.SIGTSTP)
    wait_until(lambda: is_stopped(session.pid, child), "pytest and the child stop")
    time.sleep(2.0)
    assert is_stopped(session.pid, child)

    session.send(signal.SIGCONT)

    assert session.end(1.5 + SLACK_SECONDS) == pytest.ExitCode.TESTS_FAILED
    assert recorder.report("test_it").crash["ending"] == {
        "kind": "Overdue",
        "timeout": 1.5,
        "stopped_by": "SIGTERM",
        "ground": "",
    }


def test_clock_of_a_child_that_ran_ahead_stands_still_with_pytest(
    pytester: pytest.Pytester, start_pytest: StartPytest, recorder: Recorder
) -> None:
    """Stopped is pytest amid the report of a test, and the child amid a later one, which it has begun by itself."""
    pytester.makeconftest(
        """
        from say import say

        def pytest_runtest_logreport(report):
            if report.when == "call":
                say("logs", report.nodeid)
                if report.nodeid.endswith("test_1"):
                    with open("released") as file:
                        file.read()
        """
    )
    pytester.makepyfile(
        """
        import os
        import pytest
        from say import say
        from say import wait

        pytestmark = pytest.mark.faultguard(scope="module", timeout=2)

        def test_1(): pass
        def test_2(): pass
        def test_3():
            say("waits", os.getpid())
            wait()
        """
    )
    released = pytester.path / "released"
    os.mkfifo(released)
    session = start_pytest()
    session.wait_for("logs")
    (child,) = map(int, session.wait_for("waits"))

    session.send(signal.SIGTSTP)
    wait_until(lambda: is_stopped(session.pid, child), "pytest and the child stop")
    # What is measured: a stop that is longer than the timeout.
    time.sleep(2.5)
    session.send(signal.SIGCONT)
    released.write_text("")
    session.wait_for("logs")
    # Time enough to find it overdue.
    time.sleep(0.5)
    session.go()

    assert session.end() == pytest.ExitCode.OK, session.output


def test_interpreter_that_was_begun_early_waits_for_a_pytest_that_is_stopped(
    pytester: pytest.Pytester, start_pytest: StartPytest
) -> None:
    """It begins while pytest collects, and has a group of its own: it does its imports, and is used when pytest goes on."""
    pytester.makepyfile(
        """
        import os
        from say import say
        from say import wait

        if "PYTEST_FAULTGUARD" not in os.environ:
            say("collects")
            wait()

        def test_it():
            say("runs", os.getpid())
        """
    )
    session = start_pytest("--faultguard", "--faultguard-start=spawn")
    session.wait_for("collects")
    (early,) = descendants(session.pid)

    session.send(signal.SIGTSTP)
    wait_until(lambda: is_stopped(session.pid), "pytest stops")
    wait_until_asleep(early)
    session.send(signal.SIGCONT)
    session.go()

    assert session.wait_for("runs") == [str(early)]
    assert session.end() == pytest.ExitCode.OK


# What a child is born with.


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("-n2", "--dist=loadfile"),
        ("-n2", "--dist=loadfile", "--faultguard-start=spawn"),
        ("--faultguard-start=forkserver", "--faultguard-scope=session"),
    ],
    ids=" ".join,
)
def test_child_has_the_signals_of_pytest_and_a_group_of_its_own(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, args: tuple[str, ...]
) -> None:
    """Nothing of ours is left in its tables; in pytest's, neither, once a guard has done its work."""
    pytester.makepyfile(
        """
        import json
        import os
        import signal
        import subprocess
        import sys
        import pytest
        import pytest_faultguard

        NUMBERS = sorted(set(range(1, 32)) - {signal.SIGKILL, signal.SIGSTOP})
        #: What pytest says its status at, what a child writes its stacks at, the terminal's, and glibc's own two, which
        #: threads and posix_spawn(3) set.
        OURS = (signal.SIGUSR1, signal.SIGRTMAX - 3, signal.SIGTTIN, signal.SIGTTOU, 32, 33)

        def table():
            return {str(number): repr(signal.getsignal(number)) for number in NUMBERS}

        def before():
            with open("before") as file:
                return json.load(file)

        def kernel(*ours):
            with open("/proc/self/status") as status:
                lines = dict(line.split(":", 1) for line in status)
            mask = sum(1 << number - 1 for number in ours)
            return {name: int(lines[name], 16) & ~mask for name in ("SigCgt", "SigIgn", "SigBlk")}

        @pytest.mark.faultguard
        def test_1():
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGUSR1):
                assert signal.getsignal(number) is signal.SIG_DFL, number
            assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
            assert signal.set_wakeup_fd(-1) == -1

        def test_2():
            with open("before", "w") as file:
                json.dump(dict(table=table(), kernel=kernel(), others=kernel(*OURS)), file)
            assert not pytest_faultguard.is_guarded()
            assert "PYTEST_FAULTGUARD" not in os.environ

        @pytest.mark.faultguard
        def test_3():
            # A background group that touches the terminal would be stopped.
            ours = {signal.SIGUSR1: signal.SIG_DFL, signal.SIGTTIN: signal.SIG_IGN, signal.SIGTTOU: signal.SIG_IGN}
            assert table() == {**before()["table"], **{str(int(number)): repr(one) for number, one in ours.items()}}
            assert kernel(*OURS) == before()["others"]

        @pytest.mark.faultguard
        def test_4():
            assert os.getpgrp() == os.getpid() != os.getpgid(os.getppid())
            assert os.getsid(0) == os.getsid(os.getppid())
            assert os.environ["PYTEST_FAULTGUARD"] == "1"
            assert pytest_faultguard.is_guarded()
            assert os.readlink("/proc/self/fd/0") == os.devnull
            code = "import pytest_faultguard as faultguard; raise SystemExit(faultguard.is_guarded() + 40)"
            assert subprocess.run([sys.executable, "-c", code]).returncode == 41

        def test_5():
            assert table() == before()["table"]
            assert kernel() == before()["kernel"]
            assert os.environ.get("PYTEST_FAULTGUARD") is None
        """
    )

    run_pytest(*args)

    assert [report.nodeid for report in recorder.reports() if report.outcome != "passed"] == []
    assert len(recorder.reports()) == 15


# What a test says itself.

RAISING = """
import os
import pytest
from pytest_faultguard import is_guarded
from say import say

def raising(error):
    raise error

# Not by exec: CPython 3.11 ends a process by SIGINT where an interrupt has come through that.
WAYS = {
    "interrupt": lambda: raising(KeyboardInterrupt()),
    "interrupt_with_words": lambda: raising(KeyboardInterrupt("enough")),
    "exit": lambda: pytest.exit("enough"),
    "exit_with_status": lambda: pytest.exit("enough", returncode=5),
    "system_exit": lambda: raising(SystemExit(3)),
    "base_exception": lambda: raising(BaseException("odd")),
}

def raise_in(phase):
    if os.environ["PHASE"] == phase:
        WAYS[os.environ["EXPRESSION"]]()

@pytest.fixture(scope="module")
def wide():
    yield
    say("wide")

@pytest.fixture
def narrow(wide):
    raise_in("setup")
    yield
    say("narrow")
    raise_in("teardown")

def test_before():
    pass

@pytest.mark.faultguard
def test_it(narrow):
    assert is_guarded() or os.environ["PLAIN"]
    raise_in("call")

def test_after():
    pass
"""


#: For those below.
SESSION, SPAWN, SERVER = "--faultguard-scope=session", "--faultguard-start=spawn", "--faultguard-start=forkserver"
#: All tests in one worker, for whatever the other one logs comes when it comes.
N2 = ("-n2", "--dist=loadfile")


@pytest.mark.parametrize(
    ("expression", "phase", "options"),
    [
        *product(["interrupt", "exit", "base_exception"], ["setup", "call", "teardown"], [()]),
        *product(["interrupt_with_words", "exit_with_status", "system_exit"], ["call"], [()]),
        ("interrupt", "setup", (SERVER,)),
        ("interrupt", "call", (SESSION,)),
        ("interrupt", "call", (*N2, SERVER)),
        ("interrupt", "teardown", (SESSION, SPAWN)),
        ("interrupt_with_words", "call", (SPAWN,)),
        ("exit", "setup", (SESSION, SPAWN)),
        ("exit", "call", (*N2, SESSION, SPAWN)),
        ("exit", "teardown", (SESSION, SERVER)),
        ("exit_with_status", "call", (SESSION, SERVER)),
        ("system_exit", "call", (SESSION, SPAWN)),
        ("system_exit", "call", N2),
        ("base_exception", "setup", (SESSION,)),
        ("base_exception", "call", (SERVER,)),
        ("base_exception", "teardown", (SPAWN,)),
    ],
    ids=lambda one: one if isinstance(one, str) else " ".join(one),
)
def test_what_a_test_raises_to_end_the_session_does_so_as_without_us(
    pytester: pytest.Pytester,
    start_pytest: StartPytest,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    expression: str,
    phase: str,
    options: tuple[str, ...],
) -> None:
    """The same output, exit status and reports; and what the child had set up is torn down first."""
    monkeypatch.setenv("EXPRESSION", expression)
    monkeypatch.setenv("PHASE", phase)
    pytester.makepyfile(RAISING)
    told = []
    for args in (("--no-faultguard",), ()):
        monkeypatch.setenv("PLAIN", "".join(args))
        session = start_pytest(*options, *args)
        status = session.end()
        fixtures = [name for name in ("narrow", "wide") if session.has_said(name)]
        for name in fixtures:
            session.wait_for(name)
            assert not session.has_said(name)
        told.append((status, normalized(session.output), recorder.outcomes(), recorder.exit_status(), fixtures))
    plain, guarded = told
    assert guarded == plain


def test_sessions_in_a_thread(pytester: pytest.Pytester, start_pytest: StartPytest, recorder: Recorder) -> None:
    """Where no signal can be caught: `pytest.main()` in a thread guards all the same, and twice."""
    (pytester.path / "test_it.py").write_text(
        """
import ctypes
import os
import signal
import time
import pytest

pytestmark = pytest.mark.faultguard(timeout=0.5)

def test_passes(tmp_path):
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert os.getpgrp() == os.getpid()

def test_crashes():
    ctypes.string_at(0)

def test_hangs():
    time.sleep(600)
"""
    )
    (pytester.path / "run.py").write_text(
        """
import signal
import sys
import threading
import pytest

codes = []

def run():
    codes.append(pytest.main(sys.argv[1:]))

for _ in range(2):
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert codes == [1, 1]
"""
    )
    session = start_pytest(command=("run.py",))

    assert session.end() == 0, session.output
    assert {name: told[1] for name, told in recorder.outcomes().items()} == {
        "test_passes": "call passed",
        "test_crashes": "call failed",
        "test_hangs": "call failed",
    }
    assert recorder.report("test_crashes").crash["stacks"]
    assert recorder.report("test_hangs").crash["ending"]["kind"] == "Overdue"


# An interrupt between any two lines.

#: Does what each test is named for again and again, each time interrupted before another line of ours, in this process,
#: and writes down what was left behind.
INTERRUPTED_LINES = """
import gc
import os
import signal
import sys
import pytest
import pytest_faultguard
from pytest_faultguard.protocol.children import children_key

FOLDER = os.path.dirname(pytest_faultguard.__file__)
HOME = os.getpid()
met = set()

class Interrupter:
    where = None

    def trace(self, frame, event, arg):
        if os.getpid() != HOME:
            sys.settrace(None)
            return None
        file = frame.f_code.co_filename
        if not file.startswith(FOLDER) or not file.endswith(@FILES@):
            return None
        if event == "line" and (file, frame.f_lineno) not in met:
            met.add((file, frame.f_lineno))
            if len(met) % @EVERY@ == 0:
                self.where = file, frame.f_lineno
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return self.trace

def descriptors():
    paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    # Without the one that lists them.
    return {(path, os.readlink(path)) for path in paths if os.path.lexists(path)}

def is_interrupted(name, do, end):
    before = descriptors()
    interrupter, raised = Interrupter(), False
    sys.settrace(interrupter.trace)
    try:
        do()
    except KeyboardInterrupt:
        raised = True
    finally:
        sys.settrace(None)
    # As at the end of a session, which an interrupt is.
    end()
    try:
        left = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        left = None
    if descriptors() - before:
        gc.collect()  # What a traceback has held.
    lost = sorted(descriptors() - before)
    with open("lines", "a") as file:
        print(name, interrupter.where, raised, left, lost, sep="|", file=file)
    return interrupter.where is not None

def run(item):
    name, children = item.originalname, item.config.stash[children_key]
    if name in {"test_early", "test_in_vain"}:
        children.births.begin_early()
    if name != "test_in_vain":
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
    if name == "test_shared":
        # The end of a child that has run no test.
        children._prepare(item)
    children.end_all()

def end_run(item):
    item.config.stash[children_key].end_all(hurry=True)
    item.session._setupstate.teardown_exact(None)

def collect(session):
    session.config.hook.pytest_collection(session=session)

def end_collection(session):
    session.config.pluginmanager.getplugin("faultguard-collection").pytest_unconfigure()

@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    if session.config.pluginmanager.hasplugin("faultguard-collection"):
        while is_interrupted("collection", lambda: collect(session), lambda: end_collection(session)):
            pass
        return True
    for item in session.items:
        while is_interrupted(item.originalname, lambda: run(item), lambda: end_run(item)):
            pass
    return True
"""


def interrupt_before_each_line(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    *args: str,
    files: tuple[str, ...] = ("",),
    every: int = 1,
    ends: bool = True,
) -> None:
    """Run the tests of one module, or collect it, until no line is left that was interrupted at in none of them.

    Or no line of files whose names end so, or of those one in ``every``: some cost a whole interpreter each. Each interrupt
    ``ends`` the session, or maybe not: while a command has the terminal it is meant for that.
    """
    pytester.makeconftest(INTERRUPTED_LINES.replace("@FILES@", repr(files)).replace("@EVERY@", str(every)))

    result = run_pytest("-q", "--tb=no", "--show-capture=no", "-rN", *args, timeout=1800)

    assert result.ret in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}, result.stdout.str()
    lines = [line.split("|") for line in (pytester.path / "lines").read_text().splitlines()]
    assert len(lines) > 3
    bad = [line for line in lines if line[3:] != ["None", "[]"] or (ends and line[2] != str(line[1] != "None"))]
    assert not bad, "\n".join(map(str, bad))


@pytest.mark.forked_only("hundreds of children, one for each line of ours")
def test_interrupt_before_any_line_of_ours_orphans_nothing(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """One guarded test after the other in one session."""
    pytester.makepyfile(
        """
        import os
        import subprocess
        import time
        import pytest

        pytestmark = pytest.mark.faultguard

        def test_pass(faultguard_data):
            pass

        def test_leak():
            subprocess.Popen(["sleep", "1001"])
            assert 0

        def test_crash(faultguard_data):
            faultguard_data["key"] = 1
            os.kill(os.getpid(), 11)

        @pytest.mark.faultguard(timeout=0.05, grace=0.05, dump_every=0.03)
        def test_hang():
            time.sleep(600)
        """
    )

    interrupt_before_each_line(pytester, run_pytest)


@pytest.mark.forked_only("hundreds of children, one for each line of ours")
def test_interrupt_before_any_line_of_ours_tears_down_what_is_shared(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    """As above, around a test of a child that outlives it: its fixtures are torn down, whenever that was."""
    pytester.makepyfile(
        """
        import os
        import signal
        import pytest

        pytestmark = pytest.mark.faultguard(scope="module")

        def note(word):
            with open("notes", "ab", buffering=0) as file:
                file.write(f"{word} {os.getpid()}\\n".encode())

        def interrupt(number, frame):
            # Between two lines of this, pytest has taken a fixture from its stack and not ended it yet: an interrupt loses
            # it there, in a process of pytest's own as well.
            while frame is not None:
                if frame.f_code.co_name == "teardown_exact":
                    note("amid")
                frame = frame.f_back
            raise KeyboardInterrupt

        @pytest.fixture(scope="module")
        def wide(request):
            # Twice: it may be one of them that the interrupt ends.
            request.addfinalizer(lambda: note("down"))
            request.addfinalizer(lambda: note("down"))

        def test_shared(wide):
            signal.signal(signal.SIGINT, interrupt)
            note("ran")
        """
    )

    interrupt_before_each_line(pytester, run_pytest)

    notes = set((pytester.path / "notes").read_text().splitlines())
    ran, down, amid = ({note.split()[1] for note in notes if note.startswith(word)} for word in ("ran", "down", "amid"))
    assert len(ran) > 300
    assert len(amid) < len(ran) / 3
    assert ran <= down | amid


#: How this process' part in the start of an interpreter is interrupted where that costs one each time: at some of its lines,
#: or at all of them and everybody else's as well.
STARTING: dict[str, Any] = {"files": ("births.py", "guard.py", "launch.py"), "every": 10}
SOME: dict[str, Any] = {"every": 10}
if os.environ.get("FAULTGUARD_TEST_CASES") == "all":
    STARTING, SOME = {}, {}


@pytest.mark.parametrize("name", ["test_spawn", "test_forkserver", "test_early", "test_in_vain", "test_exec"])
def test_interrupt_before_any_line_of_ours_orphans_no_interpreter(
    pytester: pytest.Pytester, run_pytest: RunPytest, name: str
) -> None:
    """One for the test, a fork server, one that began before it was known for what, or for nothing, and one of a command's."""
    start = "forkserver" if name == "test_forkserver" else "spawn"
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.faultguard(start="{start}", grace=0.05)
        def {name}(faultguard_data): pass
        """
    )

    is_attended = name == "test_exec"
    args = ["--faultguard-exec=env"] if is_attended else []
    interrupt_before_each_line(pytester, run_pytest, *args, ends=not is_attended, **STARTING)


def test_interrupt_before_any_line_of_ours_orphans_no_scout(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """One that collects a module which crashes, and another one that leaves it out."""
    pytester.makepyfile(test_it="def test_it(): pass", test_crash="import os\nos.abort()")

    interrupt_before_each_line(pytester, run_pytest, "--faultguard-collect", **SOME)


#: Forks sessions that are warm already, interrupts each at its moment, and looks whether it has left a child.
RANDOM_MOMENTS = """
import ctypes
import os
import random
import select
import signal
import sys
import time
import pytest
from pytest_faultguard import plugin, protocol

ROUNDS, SECONDS = 30, 20.0
# Whoever loses its parent becomes a child of ours.
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
random.seed(1)
statuses = []
for number in range(ROUNDS):
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.close(reading)
        os.environ["STARTED"] = str(writing)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        code = 99
        try:
            code = int(pytest.main(["-q", *sys.argv[1:]]))
        except KeyboardInterrupt:
            code = 98
        finally:
            os._exit(code)
    os.close(writing)
    assert os.read(reading, 1) == b"!"
    os.close(reading)
    # No test waits for this: the moment itself is what is drawn.
    time.sleep(random.uniform(0.0, 0.06))
    os.kill(pid, signal.SIGINT)
    pidfd = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(SECONDS * 1000):
        os.kill(pid, signal.SIGKILL)
        sys.exit(f"round {number}: pytest did not end")
    os.close(pidfd)
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    try:
        left, status = os.waitpid(-1, 0)
    except ChildProcessError:
        continue
    sys.exit(f"round {number}: pytest left the process {left} behind, which ended with {status}")
print("statuses", *statuses)
"""


def test_interrupt_at_any_moment_orphans_nothing(pytester: pytest.Pytester, start_pytest: StartPytest) -> None:
    """Dozens of sessions of quick guarded tests, each interrupted at some moment; they end in time and leave nobody."""
    (pytester.path / "run.py").write_text(RANDOM_MOMENTS)
    pytester.makepyfile(
        """
        import os
        import pytest

        @pytest.fixture(scope="session", autouse=True)
        def started():
            os.write(int(os.environ["STARTED"]), b"!")

        def test_first():
            pass

        @pytest.mark.faultguard
        @pytest.mark.parametrize("number", range(40))
        def test_it(number, faultguard_data):
            faultguard_data["key"] = 1
            if number % 5 == 4:
                os._exit(1)
        """
    )

    session = start_pytest(command=("run.py",))
    status = session.end(120)

    assert status == 0, session.output
    statuses = session.wait_for_output(r"^statuses(.*)$")[1].split()
    assert len(statuses) == 30
    assert statuses.count("2") >= 15
    assert set(statuses) <= {"0", "1", "2"}
