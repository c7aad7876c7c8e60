"""The birth of a child."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from typing import NoReturn
from typing import final

from pytest_faultguard.crash import Seconds
from pytest_faultguard.outcome import LaunchError
from pytest_faultguard.process import proc
from pytest_faultguard.process import signals

#: How a process of ours leaves. Others put something of theirs in the place of ``os._exit``, for the tests: coverage.py
#: does, and it writes a data file.
leave: Callable[[int], NoReturn] = getattr(sys.modules.get("posix"), "_exit", os._exit)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """A process of ours, which leads its own process group: the group's number is its pid."""

    pid: int
    #: Becomes readable when the process has ended.
    pidfd: int
    #: On the monotonic clock.
    started_at: Seconds


def can_fork() -> bool:
    """Whether this platform has what a guard needs: fork, pidfd and memfd, which is Linux 5.3 or later."""
    return all(hasattr(os, name) for name in ("fork", "pidfd_open", "memfd_create", "eventfd"))


def fork_child(main: Callable[[], object], *, restore: Callable[[], object]) -> Child:
    """Fork; the child runs ``restore``, which also unblocks signals, then ``main``, and never returns from here.

    To be called with all signals blocked, and they stay so: none can be delivered to this thread until somebody watches
    the child, and leave one that nobody does.

    Raises:
        LaunchError: no process or no descriptor could be had.
    """
    parent = os.getpid()
    random_state = _random_state()
    started_at = time.monotonic()
    pid = _fork()
    if pid == 0:
        _be_child(parent, main, restore, random_state)
    return Child(pid=pid, pidfd=_watchable(pid), started_at=started_at)


def spawn_child(command: list[str], keep: Iterable[int], *, mask: signals.Mask) -> Child:
    """Start a program, with ``mask`` as its signal mask, which inherits these descriptors under their numbers.

    Its first step is to call :func:`die_with`. Interrupts are blocked in it: an interpreter that is interrupted while it
    begins says so on the terminal. To be called as :func:`fork_child`; threads do not matter here, for nothing
    of this process runs in the new one (``posix_spawn(3)``).

    Raises:
        LaunchError: no process or no descriptor could be had.
    """
    started_at = time.monotonic()
    # As any child of ours it reads nothing, from its begin on: where this process has no descriptor 0, the first file that
    # the interpreter opens would be it.
    nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    pid = _spawn(command, [nothing], keep, setpgroup=0, setsigmask={*mask, signals.INTERRUPT})
    return Child(pid=pid, pidfd=_watchable(pid), started_at=started_at)


def spawn_attended(command: list[str], keep: Iterable[int]) -> Child:
    """As :func:`spawn_child`, looked up in ``PATH``, in the process group of this process, which the terminal belongs to.

    Raises:
        LaunchError: there is no such program, or no process or no descriptor could be had.
    """
    started_at = time.monotonic()
    pid = _spawn(command, [], keep)
    return Child(pid=pid, pidfd=_pidfd(pid), started_at=started_at)


def _spawn(command: list[str], first: list[Any], keep: Iterable[int], **attributes: Any) -> int:
    # To its own number: that lets a descriptor through which closes at exec. Who waits for children there must be able to.
    actions = [*first, *((os.POSIX_SPAWN_DUP2, fd, fd) for fd in keep)]
    try:
        return os.posix_spawnp(
            command[0], command, os.environ, file_actions=actions, setsigdef=[signal.SIGCHLD], **attributes
        )
    except OSError as error:
        msg = f"cannot start {command[0]}: {error}"
        raise LaunchError(msg) from error


def adopt_child(request: Callable[[], int]) -> Child:
    """Have a process of ours fork a child whose own parent ends at once: it becomes ours (``PR_SET_CHILD_SUBREAPER``).

    ``request`` returns its number when that has happened, or raises LaunchError. To be called as :func:`fork_child`.
    The child's first step is :func:`be_adopted`.

    Raises:
        LaunchError: no process or no descriptor could be had.
    """
    started_at = time.monotonic()
    # For a moment only: whatever else loses its parent meanwhile below us would be ours as well.
    former = signals.set_subreaper(1)
    try:
        pid = request()
    finally:
        signals.set_subreaper(former)
    return Child(pid=pid, pidfd=_watchable(pid), started_at=started_at)


def be_adopted(parent: int, between: int) -> None:
    """In a child of :func:`fork_for_adoption`: wait for its own parent to end, and then end with its new one."""
    # The kernel gives a process to its new parent before it tells that the old one has ended.
    ended = select.poll()
    ended.register(between, select.POLLIN)
    ended.poll()
    os.close(between)
    os.setpgid(0, 0)
    die_with(parent)


def fork_for_adoption(child: Callable[[int], NoReturn]) -> int:
    """In the process that is asked for one: fork a child that somebody else adopts, and return its number.

    ``child`` is given what :func:`be_adopted` wants.

    Raises:
        LaunchError, OSError: no process or no descriptor could be had.
    """
    reading, writing = os.pipe()
    random_state = _random_state()
    try:
        between = _fork()
    except LaunchError:
        os.close(reading)
        os.close(writing)
        raise
    if between == 0:
        try:
            own = os.pidfd_open(os.getpid())
            pid = _fork()
            if pid == 0:
                os.close(reading)
                os.close(writing)
                if random_state is not None:
                    sys.modules["random"].setstate(random_state)
                child(own)
            os.write(writing, pid.to_bytes(4, "little"))
        finally:
            leave(0)
    os.close(writing)
    wait_for(between)
    told = os.read(reading, 4)
    os.close(reading)
    if len(told) != 4:  # noqa: PLR2004 - the bytes of a number.
        msg = "cannot fork"
        raise LaunchError(msg)
    return int.from_bytes(told, "little")


def wait_for(pid: int) -> int | None:
    """Wait for the end of a child; its wait status, or None where somebody else has it: who ignores SIGCHLD, for example."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return None
    return status


def die_with(parent: int) -> None:
    """In a child: end when that process does, which has started it."""
    signals.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        leave(1)  # It died before the line above: no signal will come.


def _fork() -> int:
    try:
        if proc.thread_count() == 1:
            # Then nobody warns, and both sides are spared the end of a context of warnings.
            return os.fork()
        with warnings.catch_warnings():
            # CPython 3.12 warns about every fork beside threads (execnet's receiver is one); the user did not fork.
            warnings.simplefilter("ignore", DeprecationWarning)
            return os.fork()
    except OSError as error:
        msg = f"cannot fork: {error}"
        raise LaunchError(msg) from error


def _watchable(pid: int) -> int:
    try:
        os.setpgid(pid, pid)
    except OSError:
        pass  # The child was faster, or has ended: it does the same as its first step.
    return _pidfd(pid)


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # Somebody else has waited for it.
        wait_for(pid)
        msg = f"cannot watch a child: {error}"
        raise LaunchError(msg) from error


def _be_child(
    parent: int,
    main: Callable[[], object],
    restore: Callable[[], object],
    random_state: object,
) -> NoReturn:
    try:
        os.setpgid(0, 0)
        die_with(parent)
        if random_state is not None:
            # CPython reseeds `random` in every fork; a test must see the numbers that it would see without one.
            sys.modules["random"].setstate(random_state)
        restore()
        main()
    finally:
        leave(1)


def _random_state() -> object:
    module = sys.modules.get("random")
    return None if module is None else module.getstate()
