"""All that runs on the other side: what a child does between its birth and its target, and how it leaves.

Runs after a fork, maybe beside threads that the fork has lost: nothing here takes a lock that such a thread may hold.
"""

from __future__ import annotations

import dataclasses
import errno
import faulthandler
import gc
import linecache
import os
import select
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn
from typing import final

from pytest_faultguard.descriptors import identity
from pytest_faultguard.descriptors import moved_up
from pytest_faultguard.evidence import faultdump
from pytest_faultguard.outcome import LaunchError
from pytest_faultguard.process import signals
from pytest_faultguard.process.channel import Broken
from pytest_faultguard.process.channel import ChannelError
from pytest_faultguard.process.channel import Message
from pytest_faultguard.process.channel import Receiver
from pytest_faultguard.process.channel import Sender
from pytest_faultguard.process.launch import be_adopted
from pytest_faultguard.process.launch import die_with
from pytest_faultguard.process.launch import leave

#: Set in a child, and inherited by what the test starts.
ENVIRONMENT_VARIABLE = "PYTEST_FAULTGUARD"
#: How a child leaves that can no longer say anything.
CHANNEL_LOST_STATUS = 121


@final
@dataclass(frozen=True, slots=True)
class Wiring:
    """The child's ends of what connects it with its guard."""

    channel_fd: int
    dump_fd: int
    stacks_fd: int
    bell_fd: int
    #: None for a child that runs what it was born for.
    orders_fd: int | None = None


@final
@dataclass(frozen=True, slots=True)
class Line:
    """What a target has to speak with its guard."""

    sender: Sender
    #: For stacks that the target has faulthandler write on its own account.
    stacks_fd: int
    #: For a crash's dump, where the target has let others enable faulthandler for themselves.
    dump_fd: int
    #: For :class:`Orders`; None where the child was born for one thing.
    orders_fd: int | None = None


@final
class Orders:
    """What a child is told to do, one order after another."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._identity = identity(fd)
        self._receiver = Receiver(fd)
        self._parent = os.getppid()
        #: None under a tool that does not know of such descriptors (valgrind): the end of the orders has to do.
        self._parent_fd: int | None = None
        try:
            self._parent_fd = moved_up(os.pidfd_open(self._parent))
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise

    def wait(self) -> Message:
        """The next order.

        Nobody watches over this process meanwhile, so it watches over its guard: where that has gone, it ends its whole
        group, which the kernel would not.

        Raises:
            ChannelError: somebody in this process has closed the descriptor, or it is another file now.
        """
        order = self._next()
        if order is not None:
            return order
        signals.set_parent_death_signal(0)
        waiting = select.poll()
        waiting.register(self._fd, select.POLLIN)
        if self._parent_fd is not None:
            waiting.register(self._parent_fd, select.POLLIN)
        while order is None:
            waiting.poll()
            self._leave_with_parent()
            order = self._next()
        signals.set_parent_death_signal(signal.SIGKILL)
        self._leave_with_parent()
        return order

    def _next(self) -> Message | None:
        if identity(self._fd) != self._identity:
            msg = "the orders of pytest were closed by the test"
            raise ChannelError(msg)
        return next(self._receiver.receive(), None)

    def _leave_with_parent(self) -> None:
        if os.getppid() != self._parent:
            os.killpg(os.getpid(), signal.SIGKILL)


def is_guarded() -> bool:
    """Whether this process is a guarded child, or was started by one."""
    return os.environ.get(ENVIRONMENT_VARIABLE) == "1"


def run(target: Callable[[Line], object], wiring: Wiring, line: Line) -> NoReturn:
    """Arm the evidence, run the target, leave by ``_exit``: what the parent registered with atexit is not ours."""
    status = 1
    inherited = _directory_of_multiprocessing()
    try:
        # Everything that exists now belongs to the parent as well, and a collection that walked it would copy its pages:
        # make it old, which is walked seldom. Not frozen: the test may ask for referrers, or wait for an end.
        if not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()
        _leave_terminal()
        _arm(wiring)
        status = _outcome(target, line)
    finally:
        _end(status, inherited)


def _end(status: int, inherited: str | None) -> NoReturn:
    flush_streams()
    made = _directory_of_multiprocessing()
    if made is not None and made != inherited:
        # Of what multiprocessing does at the end of a process only this: to end its queues may take for ever.
        shutil.rmtree(made, ignore_errors=True)
    leave(status)


def _directory_of_multiprocessing() -> str | None:
    """Where it has its sockets, once it has needed some."""
    module = sys.modules.get("multiprocessing.process")
    config: dict[str, str] = {} if module is None else getattr(module.current_process(), "_config", {})
    return config.get("tempdir")


def run_spawned(target: Callable[[Line], object], wiring: Wiring, parent: int, *, is_server: bool = False) -> int:
    """As :func:`run`, in a program of its own: returns the exit code with which the interpreter is to end.

    What a server forks is ours, and not a test's. A child that is attended (``parent`` is 0) has the terminal, and between
    pytest and it there may be a debugger.
    """
    if parent:
        die_with(parent)
        _leave_terminal()
    # Since CPython 3.13, what -c was given: every traceback would show it as the source of code that a test makes of text.
    linecache.cache.pop("<string>", None)
    for fd in dataclasses.astuple(wiring):
        os.set_inheritable(fd, False)
    _arm(wiring, is_server=is_server)

    def begin(line: Line) -> None:
        signals.unblock(signals.INTERRUPT)
        target(line)

    return _outcome(begin, line_of(wiring))


def run_adopted(target: Callable[[Line], object], wiring: Wiring, parent: int, between: int) -> NoReturn:
    """As :func:`run`, in a child that a server has forked for ``parent``."""
    status = 1
    inherited = _directory_of_multiprocessing()
    try:
        be_adopted(parent, between)
        _leave_terminal()
        _arm(wiring)
        status = _outcome(target, line_of(wiring))
    finally:
        _end(status, inherited)


def line_of(wiring: Wiring) -> Line:
    """What a target is given."""
    return Line(Sender(wiring.channel_fd, wiring.bell_fd), wiring.stacks_fd, wiring.dump_fd, wiring.orders_fd)


def _arm(wiring: Wiring, *, is_server: bool = False) -> None:
    faultdump.arm(wiring.dump_fd, wiring.stacks_fd)
    if not is_server:
        os.register_at_fork(after_in_child=lambda: _disown(wiring))
    os.environ[ENVIRONMENT_VARIABLE] = "1"


def _outcome(target: Callable[[Line], object], line: Line) -> int:
    try:
        target(line)
    except ChannelError:
        return CHANNEL_LOST_STATUS
    except BaseException as error:  # noqa: BLE001 - whatever it was, the guard must hear of it.
        # What we raise ourselves says all that there is to say.
        text = str(error) if isinstance(error, LaunchError) else traceback.format_exc()
        try:
            line.sender.send(Broken(text=text))
        except ChannelError:
            return CHANNEL_LOST_STATUS
        return 1
    return 0


def _leave_terminal() -> None:
    # A background process group that reads the terminal, or changes its mode, is stopped: the test would hang. It reads
    # nothing instead; and where it opens the terminal by itself, it gets an error.
    signals.ignore(signal.SIGTTIN)
    signals.ignore(signal.SIGTTOU)
    null = os.open(os.devnull, os.O_RDONLY)
    if null != 0:
        os.dup2(null, 0)
        os.close(null)


def _disown(wiring: Wiring) -> None:
    """In a process that the test forked: its crash is its own, not the guarded test's."""
    faulthandler.unregister(faultdump.STACKS_SIGNAL)
    try:
        faulthandler.enable(file=2)
    except (OSError, ValueError, RuntimeError):
        faulthandler.disable()
    for fd in (wiring.channel_fd, wiring.dump_fd, wiring.stacks_fd, wiring.bell_fd, wiring.orders_fd):
        try:
            if fd is not None:
                os.close(fd)
        except OSError:
            pass  # The test closed it before.


def flush_streams() -> None:
    """Write out what Python's standard streams hold, whatever a test has put in their place."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        try:
            if stream is not None:
                stream.flush()
        except Exception:  # noqa: BLE001, S110 - the test put an object of its own here, or closed it.
            pass
