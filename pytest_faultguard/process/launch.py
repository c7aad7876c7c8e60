"""The birth of a child."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn
from typing import final

from pytest_faultguard.crash import Seconds
from pytest_faultguard.outcome import LaunchError
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

    Its first step is to call :func:`die_with`. To be called as :func:`fork_child`; threads do not matter here, for nothing
    of this process runs in the new one (``posix_spawn(3)``).

    Raises:
        LaunchError: no process or no descriptor could be had.
    """
    started_at = time.monotonic()
    # To its own number: that lets a descriptor through which closes at exec.
    actions = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in keep]
    try:
        pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions, setpgroup=0, setsigmask=mask)
    except OSError as error:
        msg = f"cannot start {command[0]}: {error}"
        raise LaunchError(msg) from error
    return Child(pid=pid, pidfd=_watchable(pid), started_at=started_at)


def die_with(parent: int) -> None:
    """In a child: end when that process does, which has started it."""
    signals.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        leave(1)  # It died before the line above: no signal will come.


def _fork() -> int:
    with warnings.catch_warnings():
        # CPython 3.12 warns about every fork beside threads (execnet's receiver is one); the user did not fork.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return os.fork()
        except OSError as error:
            msg = f"cannot fork: {error}"
            raise LaunchError(msg) from error


def _watchable(pid: int) -> int:
    try:
        os.setpgid(pid, pid)
    except OSError:
        pass  # The child was faster, or has ended: it does the same as its first step.
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
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
