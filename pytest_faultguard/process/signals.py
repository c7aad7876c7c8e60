"""The signals that pytest receives while a guard lives.

While a guard waits, a signal must not turn into an exception between two lines of ours, nor end pytest before the child
is gone: it is noted, wakes the guard up, and is raised again once the former disposition stands. That disposition may be
a Python function, the default, or a handler that C code installed, which Python's own table does not know: so the
kernel's ``struct sigaction`` is saved and put back as it was.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # The half of signal that is written in C.
import ctypes
import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING
from typing import Any
from typing import TypeAlias
from typing import final

from pytest_faultguard.outcome import LaunchError
from pytest_faultguard.process import proc

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

#: Ends the test: forwarded to the child, which tears its fixtures down.
INTERRUPT = signal.SIGINT
#: Ends pytest: the group is swept at once.
TERMINATING = (signal.SIGTERM, *(getattr(signal, name) for name in ("SIGHUP", "SIGQUIT") if hasattr(signal, name)))
#: Stops pytest, and so the child.
STOP: int = getattr(signal, "SIGTSTP", 0)
_WATCHED = (INTERRUPT, *TERMINATING, STOP)
_ALL = frozenset(range(1, signal.NSIG)) & signal.valid_signals()

#: glibc's and musl's ``struct sigaction`` are 152 bytes on 64-bit machines; the kernel's is smaller.
_SIGACTION_BYTES = 256

#: What ``pthread_sigmask`` takes and returns; real-time signals are bare numbers.
Mask: TypeAlias = set["int | signal.Signals"]

# Windows, where nothing is forked, has no such library, and imports this module.
_libc = ctypes.CDLL(None, use_errno=True) if hasattr(os, "fork") else None
# The functions of signal itself turn every number into an enum and back, which takes longer than the calls.
_DEFAULT = _signal.SIG_DFL
_IGNORED = _signal.SIG_IGN
# Looked up here, once, and not again in every child.
_sigaction: Any = getattr(_libc, "sigaction", None)
_prctl: Any = getattr(_libc, "prctl", None)
_Action = ctypes.c_char * _SIGACTION_BYTES
_NULL = bytes(ctypes.sizeof(ctypes.c_void_p))


@final
class Disposition:
    """What a signal did before us, in Python's table and in the kernel's."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.function = _signal.getsignal(number)
        action = _Action()
        _sigaction(number, None, action)
        #: What the kernel's table is given besides; None for the default, of which Python's says everything.
        self._action = None if self.function is _DEFAULT and action.raw.startswith(_NULL) else action

    @property
    def ignored(self) -> bool:
        """Whether the signal is ignored, as under ``nohup``: then it is left alone."""
        return bool(self.function is _IGNORED)

    @property
    def is_default(self) -> bool:
        """Whether the signal ends this process, without anybody's having a say."""
        return self.function is _DEFAULT and self._action is None

    def restore(self) -> None:
        """Put both tables back."""
        # None stands for a C handler: Python's table cannot be given it, the kernel's can.
        _signal.signal(self.number, _DEFAULT if self.function is None else self.function)
        if self._action is not None:
            _sigaction(self.number, self._action, None)


def block_all() -> Mask:
    """Block every signal in this thread; return the former mask."""
    mask: Mask = _signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        _signal.pthread_sigmask(signal.SIG_BLOCK, _ALL)
    except BaseException:
        # It runs the handlers of signals that came before, and they may raise, when it has changed the mask.
        set_mask(mask)
        raise
    return mask


def set_mask(mask: Mask) -> None:
    """Put a mask back that :func:`block_all` returned."""
    _signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def unblock(number: int) -> None:
    """Let a signal in."""
    _signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))


@final
class Signals:
    """Notes the signals that arrive between ``with`` and its end, then raises them again.

    All signals are blocked from the one to the other but for the time between :meth:`listen` and :meth:`block`, so that
    no handler, be it somebody else's, can raise where a child would be orphaned.

    Does not note outside the main thread, where Python cannot install handlers: there the signal goes to the main thread
    as it would without us.
    """

    def __init__(self) -> None:
        #: Becomes readable when a signal was noted, or :meth:`wake` was called.
        self.fd = -1
        self._former: dict[int, Disposition] = {}
        self._noted: list[int] = []
        self._kept: list[int] = []
        self._mask: Mask = set()
        #: Where set, takes each signal as it comes, instead of its being noted.
        self.act: Callable[[int], None] | None = None

    def __enter__(self) -> Self:
        self._mask = block_all()
        try:
            try:
                self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            except OSError as error:
                msg = f"no descriptor for a child: {error}"
                raise LaunchError(msg) from error
            if threading.current_thread() is threading.main_thread():
                for number in _WATCHED:
                    former = Disposition(number)
                    if not former.ignored:
                        self._former[number] = former
                        _signal.signal(number, self._note)
        except BaseException:
            self._restore()
            if self.fd >= 0:
                os.close(self.fd)
            set_mask(self._mask)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._restore()
            os.close(self.fd)
            for number in dict.fromkeys((*self._kept, *self._noted)):
                # With the former disposition: KeyboardInterrupt, a function of the user's, or the end of this process.
                # All of them when the mask is put back, so that none is lost because another one raised.
                signal.raise_signal(number)
        finally:
            set_mask(self._mask)

    def listen(self) -> None:
        """Let signals in."""
        set_mask(self._mask)

    def block(self) -> None:
        """Let no signal in: what follows must not be interrupted."""
        block_all()

    def restore(self) -> None:
        """In a fork's child, first of all: the former dispositions, then the former mask."""
        self._restore()
        set_mask(self._mask)

    def _restore(self) -> None:
        for former in self._former.values():
            former.restore()

    @property
    def mask(self) -> Mask:
        """What was blocked before."""
        return self._mask

    def wake(self) -> None:
        """Make :attr:`fd` readable; safe in a signal handler."""
        os.eventfd_write(self.fd, 1)

    def take(self) -> list[int]:
        """The signals noted since the last call; those that end something are kept, to be raised again."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass  # Woken by nothing: fine.
        taken = []
        while self._noted:
            number = self._noted.pop(0)
            if number != STOP:
                self._kept.append(number)
            taken.append(number)
        return taken

    def pass_on(self, number: int) -> None:
        """Raise a signal with its former disposition, now: it may raise, stop this process for a while, or end it."""
        self._former[number].restore()
        try:
            signal.raise_signal(number)
        finally:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.act is not None:
            self.act(number)
            return
        self._noted.append(number)
        self.wake()


@final
class Status:
    """Answers one signal for a whole session: what is each guarded test doing now?

    Raises:
        ValueError: the signal has a handler already, which stays.
    """

    def __init__(self, number: int, answer: Callable[[], None]) -> None:
        self._former = Disposition(number)
        # Python's own table does not know of a handler that C code has installed: faulthandler.register is such.
        if self._former.function is not _DEFAULT or proc.caught(os.getpid(), number):
            msg = f"{signal.Signals(number).name} has a handler already"
            raise ValueError(msg)
        self._answer = answer
        signal.signal(number, self._run)

    def _run(self, _number: int, _frame: FrameType | None) -> None:
        self._answer()

    def close(self) -> None:
        """Restore the former disposition."""
        self._former.restore()


@final
class Sweep:
    """While a child runs and nobody waits for it: a signal that would end this process ends the child's group first."""

    def __init__(self, kill: Callable[[], None]) -> None:
        self._kill = kill
        self._held: list[int] = []

    def begin(self) -> None:
        """From now on; not outside the main thread, where Python cannot install handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in TERMINATING:
                if Disposition(number).is_default:
                    _signal.signal(number, self._run)
                    self._held.append(number)

    def end(self) -> None:
        """As before."""
        while self._held:
            _signal.signal(self._held.pop(), _DEFAULT)

    def _run(self, number: int, _frame: FrameType | None) -> None:
        self._kill()
        self.end()
        signal.raise_signal(number)


def ignore(number: int) -> None:
    """In a child: have a signal do nothing."""
    _signal.signal(number, _IGNORED)


def set_parent_death_signal(number: int) -> None:
    """Have the kernel send this process a signal when the thread that forked it ends (``prctl(2)``)."""
    _prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def set_subreaper(value: int) -> int:
    """Whether this process adopts those below it that lose their parent (``prctl(2)``); returns what was so before."""
    former = ctypes.c_int()
    _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(former), 0, 0, 0)
    _prctl(_PR_SET_CHILD_SUBREAPER, value, 0, 0, 0)
    return former.value


_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
