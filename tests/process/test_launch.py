"""The birth of a child, and what the kernel tells of it."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest

from pytest_faultguard.outcome import LaunchError
from pytest_faultguard.process import proc
from pytest_faultguard.process import signals
from pytest_faultguard.process.launch import Child
from pytest_faultguard.process.launch import can_fork
from pytest_faultguard.process.launch import fork_child as fork_blocked
from pytest_faultguard.process.launch import fork_for_adoption


def nothing() -> None:
    pass


def fork_child(main: Callable[[], object], *, restore: Callable[[], object] = nothing) -> Child:
    mask = signals.block_all()

    def restore_all() -> None:
        restore()
        signals.set_mask(mask)

    try:
        return fork_blocked(main, restore=restore_all)
    finally:
        signals.set_mask(mask)


def buried(child: Child) -> int:
    assert select.select([child.pidfd], [], [], 20)[0]
    os.close(child.pidfd)
    _, status = os.waitpid(child.pid, 0)
    return status


def test_a_child_runs_its_main_and_never_returns() -> None:
    """It leaves by the code that its main chose, or by 1."""
    assert can_fork()
    assert os.waitstatus_to_exitcode(buried(fork_child(lambda: os._exit(5)))) == 5
    assert os.waitstatus_to_exitcode(buried(fork_child(nothing))) == 1
    assert os.waitstatus_to_exitcode(buried(fork_child(sys.exit))) == 1


def test_signals_are_blocked_until_the_former_handlers_stand() -> None:
    """So that none of ours runs in a child."""

    def restore() -> None:
        if signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, []):
            os._exit(9)

    def main() -> None:
        os._exit(len(signal.pthread_sigmask(signal.SIG_BLOCK, [])))

    assert os.waitstatus_to_exitcode(buried(fork_child(main, restore=restore))) == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_a_fork_beside_threads_does_not_warn() -> None:
    """CPython 3.12 warns its user, who did not fork."""
    code = (
        "import os, threading\n"
        "from pytest_faultguard.process.launch import fork_child\n"
        "stop = threading.Event()\n"
        "thread = threading.Thread(target=stop.wait)\n"
        "thread.start()\n"
        "child = fork_child(lambda: os._exit(0), restore=lambda: None)\n"
        "print(os.waitpid(child.pid, 0)[1])\n"
        "stop.set()\n"
    )

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=30, check=False
    )

    assert (done.stdout, done.stderr) == ("0\n", "")


def test_the_filters_of_the_child_are_the_users() -> None:
    """What hides our own warning hides nothing of the test's."""
    before = list(warnings.filters)

    child = fork_child(lambda: os._exit(warnings.filters == before))

    assert os.waitstatus_to_exitcode(buried(child)) == 1


def test_no_process_to_be_had_is_an_error_of_ours() -> None:
    """Named, and with the mask restored."""

    def main() -> None:
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 65534)  # root has no limit of processes.
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        with pytest.raises(LaunchError, match="cannot fork"):
            fork_child(nothing)
        os._exit(7 if signal.pthread_sigmask(signal.SIG_BLOCK, []) == set() else 8)

    assert os.waitstatus_to_exitcode(buried(fork_child(main))) == 7


def test_no_process_to_be_adopted_leaves_no_descriptor() -> None:
    """A fork server may be asked again and again."""

    def main() -> None:
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 65534)  # As above.
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        before = os.listdir("/dev/fd")
        with pytest.raises(LaunchError, match="cannot fork"):
            fork_for_adoption(lambda _: os._exit(0))
        os._exit(7 if os.listdir("/dev/fd") == before else 8)

    assert os.waitstatus_to_exitcode(buried(fork_child(main))) == 7


def test_no_descriptor_to_be_had_leaves_no_child() -> None:
    """A child that cannot be watched is ended at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            pass
        with pytest.raises(LaunchError, match="cannot watch a child"):
            fork_child(signal.pause)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_child_dies_with_its_parent() -> None:
    """Also by SIGKILL, which nobody can catch."""
    reading, writing = os.pipe()

    def parent() -> None:
        child = fork_child(signal.pause)
        os.write(writing, f"{child.pid}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    first = fork_child(parent)
    os.close(writing)
    buried(first)
    pid = int(os.read(reading, 64))
    os.close(reading)
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([pidfd], [], [], 20)[0]
    os.close(pidfd)


def test_the_kernel_tells_of_a_process() -> None:
    """State, command line, masks and groups."""
    me = os.getpid()
    reading, writing = os.pipe()

    def main() -> None:
        signals.block_all()
        os.write(writing, b".")
        signal.pause()

    child = fork_child(main)
    try:
        assert os.read(reading, 1) == b"."
        assert proc.state(me) == "R"
        assert list(proc.members(child.pid)) == [child.pid]
        assert sys.executable in proc.command_line(me)
        assert proc.caught(me, signal.SIGINT)
        assert not proc.caught(me, signal.SIGTERM)
        assert not proc.blocked_everywhere(me, signal.SIGTERM)
        assert proc.blocked_everywhere(child.pid, signal.SIGTERM)
        assert not proc.dumps_core(me)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        buried(child)
        os.close(reading)
        os.close(writing)
    assert proc.state(child.pid) == ""
    assert proc.command_line(child.pid) == "?"
    assert not proc.caught(child.pid, signal.SIGINT)
