"""Test modules through a scout: a child that collects ahead of pytest, so that a crash at import is one error.

The scout runs the whole collection in a fork, silently, and says what it collects and when that is done. pytest itself
collects nothing that the scout has not survived: it comes one step behind, on another core. Where the scout dies, what it
was collecting is a collection error, and the next scout leaves that out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any
from typing import NoReturn
from typing import TypeAlias
from typing import final

import pytest

from pytest_faultguard import options
from pytest_faultguard import report as reporting
from pytest_faultguard.crash import Crash
from pytest_faultguard.crash import Exited
from pytest_faultguard.crash import Signaled
from pytest_faultguard.evidence import faultdump
from pytest_faultguard.evidence import lastwords
from pytest_faultguard.guard import Guard
from pytest_faultguard.guard import Limits
from pytest_faultguard.guard import Remains
from pytest_faultguard.outcome import LaunchError
from pytest_faultguard.outcome import error_for
from pytest_faultguard.output import ScoutOutput
from pytest_faultguard.output import flush_all
from pytest_faultguard.output import leave_debug_file
from pytest_faultguard.process.channel import Broken
from pytest_faultguard.process.channel import Collecting
from pytest_faultguard.process.channel import Finished
from pytest_faultguard.process.channel import Idle
from pytest_faultguard.process.channel import Message
from pytest_faultguard.process.channel import Sender
from pytest_faultguard.process.child import Line
from pytest_faultguard.session import interactor_of

#: A collector, as both processes call it: its kind and its node id.
_Name: TypeAlias = tuple[str, str]


def start(config: pytest.Config) -> None:
    """Guard the collection, where that is asked for."""
    limits = options.limits_of_collection(config)
    if limits is not None:
        config.pluginmanager.register(_Scouting(limits), "faultguard-collection")
        config.pluginmanager.register(_Once(), "faultguard-collection-once")


def _name(collector: pytest.Collector) -> _Name:
    return type(collector).__qualname__, collector.nodeid


@final
class _Scout:
    """The parent's part in the life of one scout."""

    def __init__(self, limits: Limits, output: ScoutOutput) -> None:
        self.guard = Guard(limits, self.take, lambda _: None)
        self.output = output
        #: What it is collecting, the innermost last.
        self.open: list[Collecting] = []
        #: How often it has survived each collector.
        self.done: Counter[_Name] = Counter()
        #: What went wrong in the scout itself.
        self.broken = ""

    def take(self, message: Message) -> None:
        match message:
            case Collecting():
                self.open.append(message)
            case Idle() if self.open:  # An interrupt may have come here before it was noted what was begun.
                last = self.open.pop()
                self.done[last.kind, last.node] += 1
            case Broken(text=text):
                self.broken = text
            case _:
                pass  # It has finished.


@final
@dataclass(frozen=True, slots=True)
class _Found:
    """What a scout died of, and what it had written."""

    crash: Crash
    captured: dict[str, str]


class _Scouting:
    """Around the collection of one session."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        #: In a scout: its way to say where it is.
        self._sender: Sender | None = None
        self._scout: _Scout | None = None
        #: Whether there is nothing more to be found out.
        self._is_over = False
        self._found: dict[_Name, _Found] = {}
        #: How often this process has come to each collector.
        self._visits: Counter[_Name] = Counter()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self) -> Generator[None, object, object]:
        try:
            return (yield)
        finally:
            self._end()

    def pytest_unconfigure(self) -> None:
        self._end()  # With --fixtures there is a collection without that hook.

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Generator[None, object, object]:
        if self._sender is None:
            self._await(collector)
            return (yield)
        assert self._scout is not None
        self._scout.output.forget()
        kind, node = _name(collector)
        self._sender.send(Collecting(kind=kind, node=node, at=time.monotonic()))
        try:
            return (yield)
        finally:
            self._sender.ring(Idle())

    @pytest.hookimpl(tryfirst=True, specname="pytest_make_collect_report")
    def pytest_make_report_of_crash(self, collector: pytest.Collector) -> pytest.CollectReport | None:
        found = self._found.get(_name(collector))
        return None if found is None else _report(collector, found)

    # The parent's side.

    def _await(self, collector: pytest.Collector) -> None:
        """Return when a scout has survived the collector, or has died of it."""
        if isinstance(collector, pytest.Session):
            self._end()
            self._is_over = False
            self._visits.clear()
            self._found.clear()
        name = _name(collector)
        self._visits[name] += 1
        while name not in self._found and not self._is_over:
            if self._scout is None:
                self._send_out(collector)
            elif self._scout.done[name] < self._visits[name]:
                self._wait(self._scout, collector)
            else:
                return

    def _send_out(self, collector: pytest.Collector) -> None:
        config, session = collector.config, collector.session
        flush_all(config)
        output = None
        try:
            output = ScoutOutput(config)
            self._scout = _Scout(self._limits, output)
            self._scout.guard.start(lambda line: self._go_ahead(session, line, output))
        except (OSError, LaunchError) as error:
            self._scout = None
            if output is not None:
                output.close()
            self._give_up(collector, str(error))

    def _give_up(self, collector: pytest.Collector, reason: str) -> None:
        self._is_over = True
        collector.warn(pytest.PytestWarning(f"faultguard: test modules are imported unguarded: {reason}"))

    def _wait(self, scout: _Scout, collector: pytest.Collector) -> None:
        """Wait until the scout has done one thing more."""
        try:
            remains = scout.guard.give((), self._limits)
            if remains is None:
                return
            if scout.broken:
                self._give_up(collector, scout.broken.strip().splitlines()[-1])
            elif remains.ending is None:
                self._is_over = True
            else:
                self._note(scout, remains, _name(collector))
        finally:
            # Whatever was raised: one that lives is still to be ended.
            if scout.guard.is_buried:
                self._scout = None
                scout.output.close()

    def _note(self, scout: _Scout, remains: Remains, name: _Name) -> None:
        assert remains.ending is not None
        since = remains.ended_at
        if scout.open:
            last = scout.open[-1]
            since = last.at
            # Between two collectors it may be anything: what pytest waits for must not be collected by it.
            if (last.kind, last.node) not in self._found:
                name = last.kind, last.node
        captured = scout.output.read()
        out, err = captured.get("stdout", ""), captured.get("stderr", "")
        dump = remains.dump or faultdump.find(err)
        dumped = faultdump.parse(dump)
        crash = Crash(
            label=name[1],
            phase="collect",
            ending=remains.ending,
            duration=max(0.0, remains.ended_at - since),
            message=lastwords.explain(err, out) if isinstance(remains.ending, Signaled | Exited) else "",
            stacks=dumped.stacks,
            dump=dump,
            leaked=remains.leaked,
            gaps=(*faultdump.missing_stack(remains.ending, dump), *faultdump.missing_line(dumped), *remains.gaps),
        )
        self._found[name] = _Found(crash, captured)

    def _end(self) -> None:
        """May be called again, where an interrupt has come before all was done."""
        if self._scout is not None:
            try:
                self._scout.guard.end_now()
            finally:
                self._scout.output.close()
            self._scout = None

    # The scout's side.

    def _go_ahead(self, session: pytest.Session, line: Line, output: ScoutOutput) -> None:
        manager = session.config.pluginmanager
        self._sender = line.sender
        leave_debug_file(session.config)
        output.arm()
        interactor = interactor_of(session.config)
        if interactor is not None:
            manager.unregister(interactor)  # The controller hears of all this from the parent.
        manager.register(_Silence())
        manager.register(_Deaf())
        if self._found:
            # It begins in the midst of a collection: files that have been met by now are no duplicates.
            session.config.option.keepduplicates = True
        try:
            session.perform_collect()
        except BaseException:  # noqa: BLE001, S110 - pytest will meet it, too.
            pass
        line.sender.send(Finished(shouldstop=False, shouldfail=False))


def _report(collector: pytest.Collector, found: _Found) -> pytest.CollectReport:
    """The report that pytest would make of an exception."""
    crash = found.crash
    call = pytest.CallInfo.from_call(lambda: None, when="collect")
    error = error_for(crash).with_traceback(reporting.blame(collector, crash))
    call.excinfo = pytest.ExceptionInfo.from_exception(error)
    # Since pytest 9.2 a node id is an object, too, and the text of one is another one.
    nodeid: Any = getattr(collector, "id", None) if hasattr(pytest.CollectReport, "id") else collector.nodeid
    longrepr: Any = collector.repr_failure(call.excinfo) if reporting.way_to(crash) else _placeless(call.excinfo)
    report = pytest.CollectReport(nodeid, "failed", longrepr, None, call=call)
    reporting.dress(report, crash)
    report.sections += [
        (f"Captured {name}", reporting.clean(faultdump.folded(text))) for name, text in found.captured.items()
    ]
    return report


def _placeless(excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
    """What pytest shows of an exception, but no line: a test has a ``def`` to be marked, and of a module any would lie."""
    longrepr: Any = excinfo.getrepr(style="short")
    for entry in longrepr.reprtraceback.reprentries:
        entry.reprfileloc = None
        entry.lines[:] = [line for line in entry.lines if line.startswith("E ")]
    return longrepr


class _Once:
    """On a controller of pytest-xdist, which shows the equal ones of its workers' errors once.

    To it two texts may be equal, and two tracebacks never are.
    """

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_report_from_serializable(self) -> Generator[None, object, object]:
        report = yield
        record = getattr(report, reporting.ATTRIBUTE, None)
        longrepr: Any = getattr(report, "longrepr", None)
        if isinstance(report, pytest.CollectReport) and record is not None and hasattr(longrepr, "__dict__"):
            longrepr.__class__ = _equal(type(longrepr))
            longrepr.faultguard_identity = record["label"], *sorted(record["ending"].items())
        return report


def _equal(kind: type) -> type:
    """The type of such a repr, whose instances are equal where they tell of the same."""

    def is_equal(self: Any, other: object) -> bool:
        return bool(self.faultguard_identity == getattr(other, "faultguard_identity", None))

    def hash_of(self: Any) -> int:
        return hash(self.faultguard_identity)

    return type(kind.__name__, (kind,), {"__module__": kind.__module__, "__eq__": is_equal, "__hash__": hash_of})


class _ForwardedError(Exception):
    """Ends the call of a hook whose implementations belong to the parent."""


class _OverError(BaseException):
    """Ends the collection of a scout: what follows is done by the parent."""


class _Silence:
    """Keeps from the plugins of a scout what those of the parent will hear."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectreport(self) -> NoReturn:
        raise _ForwardedError

    @pytest.hookimpl(tryfirst=True)
    def pytest_itemcollected(self) -> NoReturn:
        raise _ForwardedError

    @pytest.hookimpl(tryfirst=True)
    def pytest_exception_interact(self) -> NoReturn:
        raise _ForwardedError

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self) -> NoReturn:
        raise _OverError

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self) -> NoReturn:
        raise _OverError


class _Deaf:
    """Around :class:`_Silence`: the callers of these hooks go on."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collectreport(self) -> Generator[None, object, object]:
        return (yield from _unheard())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_itemcollected(self) -> Generator[None, object, object]:
        return (yield from _unheard())

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_exception_interact(self) -> Generator[None, object, object]:
        return (yield from _unheard())


def _unheard() -> Generator[None, object, object]:
    try:
        return (yield)
    except _ForwardedError:
        return []
