"""How a child ended and what it left: the types that everything else speaks in.

Every type here is frozen, holds JSON-able values only and goes through :func:`to_json` / :func:`from_json`, because a
crash travels inside a pytest report from an xdist worker to its controller, and later to a file.
"""

from __future__ import annotations

import dataclasses
import signal as _signal
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from typing import Literal
from typing import TypeAlias
from typing import final
from typing import get_args

#: Windows has none.
_SIGKILL = getattr(_signal, "SIGKILL", 9)

#: A duration or an instant of the monotonic clock, in seconds.
Seconds: TypeAlias = float

#: Where a test was when it crashed; ``exit`` is after the last report and before the child was gone. In ``collect`` there
#: is no test yet: it is a module, a class or a directory.
Phase: TypeAlias = Literal["collect", "setup", "call", "teardown", "exit", "interpreter exit"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """The child left by ``exit`` or ``_exit`` without having finished."""

    code: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Signaled:
    """A signal ended the child."""

    signal: int
    core_dumped: bool = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """The child was still running at its deadline, and the guard stopped it."""

    #: The limit that passed, in seconds.
    timeout: Seconds
    #: What ended the child at last: the name of a signal, or of the option that did.
    stopped_by: str
    #: What kept it from going on, where the kernel tells; else empty.
    ground: str = ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Overspent:
    """The child had used up its processor time, and the guard stopped it."""

    #: The limit that passed, in seconds of all its threads.
    cpu: Seconds
    #: What ended the child at last: the name of a signal.
    stopped_by: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Starved:
    """The child got no more memory under its limit, and a signal of its own ended it."""

    #: The limit, in bytes.
    memory: int
    signal: int
    core_dumped: bool = False
    #: What proves it.
    ground: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory:
    """The kernel's out-of-memory killer ended the child."""

    #: Whose SIGKILL it was is told by a counter of the kernel: which one, and how it rose.
    ground: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The guard cannot tell how the child ended, or could not go on watching it."""

    reason: str


Ending: TypeAlias = Exited | Signaled | Overdue | Overspent | Starved | OutOfMemory | Lost
#: The guard stopped a child that was still running.
RAN_ON = (Overdue, Overspent)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One Python function on a stack."""

    function: str
    file: str
    #: 1-based; ``None`` where the interpreter could not tell.
    line: int | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadStack:
    """The stack of one thread, most recent call first, as faulthandler prints it."""

    #: The thread's identity (and name, where the dump has one), as printed.
    thread: str
    #: Whether this thread took the signal.
    current: bool
    frames: tuple[Frame, ...]
    #: Whether frames are missing at the end.
    truncated: bool = False


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Rescued:
    """One key of the journal and its last value, both already turned into text."""

    key: str
    value: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """An unclean ending of a guarded test, with the evidence that the child left."""

    #: The node id of the test; of what was collected, in ``collect``.
    label: str
    phase: Phase
    ending: Ending
    #: How long the phase had been running, in seconds.
    duration: Seconds
    #: How the child was started: ``fork``, ``forkserver`` or ``spawn``.
    start: str = "fork"
    #: What the native code said about its death, on one line; empty where it said nothing.
    message: str = ""
    #: All threads at the crash or at the deadline.
    stacks: tuple[ThreadStack, ...] = ()
    #: faulthandler's own text, unfolded.
    dump: str = ""
    rescued: tuple[Rescued, ...] = ()
    #: Processes that the test had started and that were still there: ``pid command line``.
    leaked: tuple[str, ...] = ()
    #: The tests that had run before in the same child, newest first.
    trail: tuple[str, ...] = ()
    #: Whether it crashes in a child of its own as well; None where that was not tried.
    alone: bool | None = None
    #: Where the guard had to stop it there instead, the limit that passed; else empty.
    stopped_alone: str = ""
    #: Of those that ran before, the ones that it needs to crash, in their order; empty where nobody has looked.
    needs: tuple[str, ...] = ()
    #: Runs those and it; empty as above.
    command: str = ""
    #: What may be the matter and what to try, where something speaks for that; else empty.
    hint: str = ""
    #: Evidence that could not be had, each with its reason.
    gaps: tuple[str, ...] = ()

    @property
    def signal(self) -> int | None:
        """The number of the signal that ended the child, or None."""
        match self.ending:
            case Signaled(signal=number) | Starved(signal=number):
                return number
            case OutOfMemory():
                return int(_SIGKILL)
            case _:
                return None

    @property
    def exit_code(self) -> int | None:
        """The exit code with which the child left in mid-test, or None."""
        return self.ending.code if isinstance(self.ending, Exited) else None

    @property
    def cause(self) -> str:
        """The ending in words, on one line: what happened, in which phase, after how long, and why."""
        where = f"{'at' if self.phase in _EXITS else 'in'} {self.phase}"
        after = f"{where} after {self.duration:.2f} s"
        match self.ending:
            case Signaled(signal=number, core_dumped=core_dumped):
                # The kernel does not keep who sent a signal. That it was not its own SIGKILL is all that can be told.
                name = "SIGKILL by another process or its own" if number == _SIGKILL else describe_signal(number)
                told = f"{name} {after}{_core(core_dumped)}"
            case Starved(memory=memory, signal=number, core_dumped=core_dumped, ground=ground):
                limit = f"memory limit of {describe_bytes(memory)}"
                told = f"{limit}: {describe_signal(number)} {after}{_core(core_dumped)} ({ground})"
            case OutOfMemory(ground=ground):
                told = f"killed by the kernel's out-of-memory killer {after} ({ground})"
            case Overspent(cpu=cpu, stopped_by=stopped_by):
                told = f"cpu limit of {cpu:g} s passed {after}, ended by {stopped_by}"
            case Exited(code=code):
                unfinished = "process" if self.phase in _EXITS else "import" if self.phase == "collect" else "test"
                told = f"exit code {code} {after}: the {unfinished} never finished"
            case Overdue(timeout=timeout, stopped_by=stopped_by, ground=ground):
                told = f"timeout of {timeout:g} s passed {where}, ended by {stopped_by}{ground and f' ({ground})'}"
            case Lost(reason=reason):
                told = f"lost {after}: {reason}"
        return f"{told}: {self.message}" if self.message else told

    @property
    def short_cause(self) -> str:
        """The ending in a word or two: ``SIGSEGV``, ``exit code 3``, ``timeout``, ``cpu limit``, ``lost``."""
        match self.ending:
            case Signaled(signal=number):
                return signal_name(number)
            case Starved():
                return "memory limit"
            case OutOfMemory():
                return "out of memory"
            case Overspent():
                return "cpu limit"
            case Exited(code=code):
                return f"exit code {code}"
            case Overdue():
                return "timeout"
            case Lost():
                return "lost"


_EXITS = frozenset({"exit", "interpreter exit"})


def _core(dumped: bool) -> str:  # noqa: FBT001 - the one thing that it is told.
    return ", core dumped" if dumped else ""


def describe_bytes(number: int) -> str:
    """``64 MiB``, ``1.5 GiB``, ``500 B``."""
    for power, unit in ((30, "GiB"), (20, "MiB"), (10, "KiB")):
        if number >= 1 << power:
            return f"{number / (1 << power):.1f}".removesuffix(".0") + f" {unit}"
    return f"{number} B"


def signal_name(number: int) -> str:
    """``SIGSEGV`` for 11; real-time signals count from ``SIGRTMIN``."""
    try:
        return _signal.Signals(number).name
    except ValueError:
        if _signal.SIGRTMIN < number < _signal.SIGRTMAX:
            return f"SIGRTMIN+{number - _signal.SIGRTMIN}"
        return f"signal {number}"


def describe_signal(number: int) -> str:
    """``SIGSEGV (segmentation fault)``."""
    told = _signal.strsignal(number) if number in _signal.valid_signals() else None
    return f"{signal_name(number)} ({told[0].lower()}{told[1:]})" if told else signal_name(number)


_ENDINGS: Mapping[str, type[Ending]] = {kind.__name__: kind for kind in get_args(Ending)}


def to_json(crash: Crash) -> dict[str, Any]:
    """The crash as dicts, lists, strings, numbers and None; the text in it is valid UTF-8."""
    record: dict[str, Any] = _clean(dataclasses.asdict(crash))
    record["ending"]["kind"] = type(crash.ending).__name__
    return record


def from_json(record: Mapping[str, Any]) -> Crash:
    """The crash that :func:`to_json` wrote.

    Raises:
        KeyError, TypeError: the record is not one.
    """
    fields = dict(record)
    ending = dict(fields["ending"])
    fields["ending"] = _ENDINGS[ending.pop("kind")](**ending)
    fields["stacks"] = tuple(_stacks(fields["stacks"]))
    fields["rescued"] = tuple(Rescued(**one) for one in fields["rescued"])
    for name in ("leaked", "trail", "needs", "gaps"):
        fields[name] = tuple(fields[name])
    return Crash(**fields)


def _stacks(records: list[dict[str, Any]]) -> Iterator[ThreadStack]:
    for record in records:
        yield ThreadStack(**{**record, "frames": tuple(Frame(**frame) for frame in record["frames"])})


def _clean(value: Any) -> Any:
    """Lists for tuples, and no lone surrogate: execnet refuses them."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode("utf-8")
        case dict():
            return {key: _clean(one) for key, one in value.items()}
        case list() | tuple():
            return [_clean(one) for one in value]
        case _:
            return value
