"""One pytest item through one guard: reports in, reports out.

The only module that uses private pytest API; checked on pytest 8.0 to 9.2:

``_pytest.runner.runtestprotocol``
    Runs the three phases of an item. The public hook ``pytest_runtest_protocol`` would run us again.
``_pytest.runner.check_interactive_exception``
    Whether ``pytest_exception_interact`` hears of an exception; so that it hears of a crash when it would of a failure.
``_pytest.runner.pytest_runtest_call``
    The frame in which a test's own code runs: reports that are made within it are those of subtests.
``_pytest.skipping.xfailed_key``, ``Xfail``
    Where pytest keeps the evaluated xfail mark of an item. The child reads it, for evaluating may run test code; the
    parent puts the answer there while it makes the report of a crash, so that pytest itself judges it.
``Session._setupstate``, its ``stack`` and ``teardown_exact``
    The nodes that are set up. The child empties the finalizers that it inherited; the parent tears down what is its own.
``FixtureDef._finalizers``
    As above, for fixtures that are alive.
``FixtureDef.cached_result`` and ``finish``, ``Function._fixtureinfo`` and ``_request``
    What the parent has set up for one value of a parameter it ends before it forks for another, as pytest would.
``Config._tmp_path_factory``
    Makes the session's base directory before the first child, else every child makes one.
``Item._report_sections``
    What a phase has written: pytest has read it from its files, and a crash while the report is made must not lose it.
``capturemanager.item_capture``
    Found by its registered name: captures what a teardown of this process's own writes.
``_pytest.junitxml.xml_key``, ``LogXML.global_properties``, ``LogXML.node_reporters``
    Where ``record_testsuite_property`` and ``record_xml_attribute`` write to: in the child's memory. Under pytest-xdist
    there is no such object, and they write nowhere.
``_pytest.subtests.failed_subtests_key``, ``SubtestContext.kwargs``
    pytest 9 counts the failed subtests of a test where they run, and asks for the number where its report is logged; and
    it takes the repr of a subtest's values again at the end of each journey.
``warnings._showwarnmsg_impl``
    Of the standard library, and what ``catch_warnings(record=True)`` sets: the public hook is not told the source.
"""

from __future__ import annotations

import faulthandler
import functools
import os
import pdb  # noqa: T100 - to refuse it in a child.
import re
import shlex
import signal
import sys
import time
import traceback
import types
import warnings
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import AbstractContextManager
from contextlib import ExitStack
from contextlib import contextmanager
from contextlib import nullcontext
from dataclasses import replace
from typing import Any
from typing import Literal
from typing import NoReturn
from typing import cast

import pytest
from _pytest.junitxml import xml_key
from _pytest.runner import check_interactive_exception
from _pytest.runner import pytest_runtest_call
from _pytest.runner import runtestprotocol
from _pytest.skipping import Xfail
from _pytest.skipping import xfailed_key

from pytest_faultguard import chosen
from pytest_faultguard import losses
from pytest_faultguard import report as reporting
from pytest_faultguard import reruns
from pytest_faultguard import usage
from pytest_faultguard.crash import RAN_ON
from pytest_faultguard.crash import Crash
from pytest_faultguard.crash import Ending
from pytest_faultguard.crash import Exited
from pytest_faultguard.crash import Frame
from pytest_faultguard.crash import Lost
from pytest_faultguard.crash import OutOfMemory
from pytest_faultguard.crash import Overdue
from pytest_faultguard.crash import Phase
from pytest_faultguard.crash import Seconds
from pytest_faultguard.crash import Signaled
from pytest_faultguard.crash import Starved
from pytest_faultguard.crash import signal_name
from pytest_faultguard.evidence import faultdump
from pytest_faultguard.evidence import lastwords
from pytest_faultguard.evidence.journal import Journal
from pytest_faultguard.guard import Guard
from pytest_faultguard.guard import Limits
from pytest_faultguard.guard import Remains
from pytest_faultguard.options import Settings
from pytest_faultguard.options import data_limit_for
from pytest_faultguard.outcome import CrashError
from pytest_faultguard.outcome import FaultguardError
from pytest_faultguard.outcome import HangError
from pytest_faultguard.outcome import JournalError
from pytest_faultguard.outcome import LaunchError
from pytest_faultguard.outcome import LeakedProcessesWarning
from pytest_faultguard.outcome import UnhealthyChildWarning
from pytest_faultguard.outcome import error_for
from pytest_faultguard.output import Output
from pytest_faultguard.process import memory
from pytest_faultguard.process.channel import Broken
from pytest_faultguard.process.channel import Covered
from pytest_faultguard.process.channel import Expected
from pytest_faultguard.process.channel import Finished
from pytest_faultguard.process.channel import Idle
from pytest_faultguard.process.channel import Kept
from pytest_faultguard.process.channel import Leave
from pytest_faultguard.process.channel import Message
from pytest_faultguard.process.channel import Noted
from pytest_faultguard.process.channel import Report
from pytest_faultguard.process.channel import Run
from pytest_faultguard.process.channel import Said
from pytest_faultguard.process.channel import Sender
from pytest_faultguard.process.channel import Stopped
from pytest_faultguard.process.channel import Trim
from pytest_faultguard.process.channel import Warned
from pytest_faultguard.process.child import Line
from pytest_faultguard.process.child import Orders
from pytest_faultguard.process.child import flush_streams
from pytest_faultguard.process.meter import Before
from pytest_faultguard.process.meter import Meter
from pytest_faultguard.process.meter import Usage
from pytest_faultguard.process.meter import since
from pytest_faultguard.process.rescue import rescue
from pytest_faultguard.process.signals import Sweep
from pytest_faultguard.process.supervise import Snapshot
from pytest_faultguard.session import Session
from pytest_faultguard.session import session_key
from pytest_faultguard.session import settings_key
from pytest_faultguard.session import to_terminal
from pytest_faultguard.triage.bisect import Flaky
from pytest_faultguard.triage.bisect import Found
from pytest_faultguard.triage.bisect import Unfinished
from pytest_faultguard.triage.bisect import minimal

try:
    from _pytest.subtests import failed_subtests_key
except ImportError:  # pytest 8.
    failed_subtests_key = None  # type: ignore[assignment]

#: The signals that faulthandler dumps at.
_DUMPED = frozenset(
    getattr(signal, name, 0)
    for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")  # Windows has no SIGBUS.
)

_When = Literal["setup", "call", "teardown"]

#: How long the condition of a mark may take where it is evaluated after a crash.
_ANSWER_BOUND: Seconds = 10.0
#: How many crashes of a session are tried again, and how long each test may take then that has no timeout.
_TRIALS = 10
#: For the teardown of what is shared, when the session is interrupted, also where there is to be no grace.
_LEAST_GRACE: Seconds = 0.1
_TRIAL_LIMITS = Limits(timeout=60.0)


#: In a child: its journal, which it claims when a test asks for it, and the process that may.
_journal_key = pytest.StashKey[tuple[Journal, int]]()
#: While the parent makes a report of a crash: the crash, and what the child's earlier reports said.
_crash_key = pytest.StashKey["tuple[Crash, list[tuple[str, str]], list[tuple[str, object]], list[tuple[str, str]]]"]()


def run_item(item: pytest.Item, nextitem: pytest.Item | None) -> Literal[True] | None:
    """Run the protocol of one item in a child and log its reports here; None where it is not guarded."""
    inside = item.config.stash.get(_inside_key, None)
    if inside is not None:
        inside.run(item, nextitem)
        return True
    settings = item.stash.get(settings_key, None)
    if settings is None:
        return None
    if not _run_attempts(item, nextitem, settings):
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        _GuardedItem(item, nextitem, settings).run()
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def note_alive(fixture: pytest.FixtureDef[Any], config: pytest.Config) -> None:
    """A fixture is about to be set up in this process."""
    config.stash[session_key].alive[id(fixture)] = fixture


def note_gone(fixture: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
    """A fixture was torn down in this process."""
    config = request.config
    if config.stash[session_key].alive.pop(id(fixture), None) is None:
        return
    children = config.stash.get(_children_key, None)
    if children is not None and request.node in request.session._setupstate.stack:
        # Before its scope has ended, for another parameter: who has inherited it must not use it any more.
        children.distrust(fixture)


def record_crashes(config: pytest.Config) -> None:
    """Keep the list of the tests that crashed, for the next session."""
    chosen.record(config, reporting.ATTRIBUTE)


@contextmanager
def around_tests(session: pytest.Session) -> Generator[None]:
    """Around all tests: children that outlive a test end, and who measures this process has measured them as well."""
    config = session.config
    children = config.stash[_children_key] = _Children(session)
    hurry = True
    try:
        yield
        hurry = False
    finally:
        try:
            children.end_all(hurry=hurry)
        finally:
            config.stash[session_key].lines.count()


def dress(item: pytest.Item, report: pytest.TestReport) -> pytest.TestReport:
    """The report of a crash, with everything that belongs in it; any other report as it is."""
    known = item.stash.get(_crash_key, None)
    if known is not None:
        crash, sections, properties, added = known
        report.sections[:0] = sections
        report.user_properties = [*properties, *report.user_properties]
        (reporting.dress if report.failed else reporting.dress_death)(report, crash)
        for title, text in added:
            reporting.add_section(report, reporting.clean(title), text)
    return report


@contextmanager
def data_of(item: pytest.Item) -> Generator[Journal]:
    """The journal of an item: its child's, or one of this process for a test that is not guarded."""
    inherited = item.stash.get(_journal_key, None)
    if inherited is not None:
        journal, pid = inherited
        if pid == os.getpid():
            journal.claim()
        yield journal
        return
    journal = Journal.create(data_limit_for(item))
    journal.claim()
    try:
        yield journal
    finally:
        journal.close()


# The parent's side: the children.


class _Child:
    """The parent's part in the life of one child, which runs one item or the items of a scope."""

    def __init__(
        self, config: pytest.Config, limits: Limits, node: pytest.Collector | None = None, *, is_heard: bool = True
    ) -> None:
        memory.check(limits.memory)
        self._config = config
        self._is_closed = False
        #: Whose guarded items it runs; None for a child of one item.
        self.node = node
        self.journal = Journal.create(limits.data_bytes)
        try:
            self.output = Output(config, lives_on=node is not None, is_heard=is_heard)
        except OSError as error:
            self.journal.close()
            msg = f"no descriptor for the output of a child: {error}"
            raise LaunchError(msg) from error
        self.guard = Guard(limits, self._take, self._take_snapshot, self.output.relay)
        self._sweep = Sweep(self.guard.kill)
        #: The fixtures that this process had set up at its birth, by identity.
        self.inherited = frozenset(config.stash[session_key].alive) if node is not None else frozenset()
        #: The item that it runs, or ran last.
        self.item: _GuardedItem | _Unheard | None = None
        #: The places of the items that it has run.
        self.trail: list[int] = []
        #: The place of the item for which it leaves fixtures standing, and of the one that it was told of ahead.
        self.awaited: int | None = None
        self.ahead: int | None = None
        #: Whether it goes on with that one by itself.
        self.goes_on = False
        #: Whether what it does now is the teardown of what several items have shared.
        self.is_ending = False
        #: Whether it is to run no other item.
        self.is_unfit = False
        #: What it had used when its last test ended.
        self.before = Before()

    def close(self) -> None:
        """The child has ended, or belongs to another process than this. May be called again."""
        if not self._is_closed:
            self._is_closed = True
            self.output.close()
            self.journal.close()

    def forget(self) -> None:
        """In another child: this one is the parent's."""
        self.guard.forget()
        self.close()

    def start(self, session: pytest.Session) -> None:
        """Have it wait for orders."""
        self.guard.start(lambda line: _live_in_child(session, line, self))

    def run(self, item: _GuardedItem | _Unheard, place: int | None, nextplace: int | None) -> Remains | None:
        """Run an item; what was left by the child where that was its end."""
        self.item, attempt = item, item.attempt
        if self.node is None:
            with self._guarding(item):
                return self.guard.run(lambda line: _run_in_child(item.item, line, self, attempt))
        assert place is not None
        order = Run(item=place, nextitem=nextplace, failed=item.item.session.testsfailed, attempt=attempt)
        given = None if self.has_begun(place) else order
        ahead = None if attempt else self._config.stash[_children_key].order_ahead(self, place, nextplace)
        self.awaited, self.ahead, self.goes_on = nextplace, None if ahead is None else ahead.item, False
        self.trail.append(place)
        self._sweep.end()
        with self._guarding(item):
            remains = self.guard.give(given, item.settings.limits, ahead=ahead)
        if self.is_astray:
            self._sweep.begin()
        return remains

    def has_begun(self, place: int) -> bool:
        """Whether it runs the item at that place already."""
        return self.goes_on and self.ahead == place

    @property
    def is_astray(self) -> bool:
        """Whether it has gone on with an item for which nobody has asked any more."""
        return self.goes_on and self.ahead is not None

    def trim(self, place: int) -> Remains | None:
        """Tear down what an item does not need, some that were not guarded having run since the last one."""
        item = self.item
        assert isinstance(item, _GuardedItem)
        limits = self._limits_of_end(item)
        with self._guarding(item):
            remains = self.guard.give(Trim(nextitem=place), limits)
        self.is_ending = remains is not None
        return remains

    def end(self, *, hurry: bool = False) -> None:
        """Tear down all that is left, and end; in a hurry, within the grace."""
        item = self.item
        if not isinstance(item, _GuardedItem) or self.is_astray:
            # What becomes of a test for which nobody has asked is nobody's report.
            self._sweep.end()
            self.item = None
            limits = _TRIAL_LIMITS
            if isinstance(item, _GuardedItem):
                # The grace is that of the test, and of the teardown of all that was shared.
                limits = self._limits_of_end(item, hurry=hurry)
                limits = replace(limits, grace=limits.timeout or _TRIAL_LIMITS.grace)
            try:
                self.guard.end(limits, interrupted=True)
            finally:
                self.close()
            return
        self._sweep.end()
        self.is_ending = not self.guard.has_ended()
        with self._guarding(item):
            remains = self.guard.end(self._limits_of_end(item, hurry=hurry))
        item.end(remains)

    def _limits_of_end(self, item: _GuardedItem, *, hurry: bool = False) -> Limits:
        """The clock of what follows the last report of an item starts now."""
        item.phase_started_at = time.monotonic()
        limits, timeout = item.settings.limits, item.settings.end_timeout
        bound = max(limits.grace, _LEAST_GRACE) if hurry else timeout or None
        return replace(limits, timeout=bound, clock_waits=False)

    @contextmanager
    def _guarding(self, item: _GuardedItem | _Unheard) -> Generator[None]:
        session = self._config.stash[session_key]
        session.guarding = item.item.nodeid, self.guard
        try:
            yield
        except BaseException:
            # Where the child lives, the session's end ends it.
            if self.guard.is_buried:
                self._config.stash[_children_key].remove(self)
                self.close()
            raise
        finally:
            session.guarding = None

    def _take(self, message: Message) -> None:
        if self.item is not None:
            self.item.take(message)

    def _take_snapshot(self, snapshot: Snapshot) -> None:
        if self.item is not None:
            self.item.take_snapshot(snapshot)


class _Children:
    """The children of a session that outlive a test: one for each node of a scope, size of a journal, and limit of memory.

    Where limits of memory differ, what the tests of one have left in memory must not count against those of another.
    """

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._living: dict[tuple[pytest.Collector, int, int | None], _Child] = {}
        self._refused: FaultguardError | None = None
        self._trials_left = _TRIALS
        self._places: dict[pytest.Item, int] = {}
        session.config.stash[_outermost_key] = _Outermost(session.config.pluginmanager)

    def place_of(self, item: pytest.Item | None) -> int | None:
        """An item's place among those of the session; None for one that is none of them."""
        if item is None:
            return None
        if not self._places:
            self._places = {one: place for place, one in enumerate(self._session.items)}
        return self._places.get(item)

    def prepare(self, item: pytest.Item) -> None:
        """Before an item's protocol: have the child that it shares with others.

        Not within the protocol, where hooks have begun what must not be there for the next item.
        """
        key, self._refused = self._key(item), None
        if key is None:
            return
        child, place = self._living.get(key), self.place_of(item)
        if child is not None and place is not None and child.has_begun(place):
            return
        if child is not None and (child.is_astray or child.is_unfit or child.guard.has_ended()):
            self._end(child)
        elif child is not None and child.item is not None and child.awaited != place:
            assert place is not None
            remains = child.trim(place)
            if remains is not None:
                self.remove(child)
                assert isinstance(child.item, _GuardedItem)
                child.item.end(remains)
        if key in self._living:
            return
        _prepare(item.config)
        item.config.stash[session_key].lines.expect()
        try:
            self._living[key] = child = _Child(item.config, _limits_of(item), key[0])
            try:
                child.start(self._session)
            except BaseException:
                self.remove(child)
                if child.guard.has_ended():
                    child.close()
                else:
                    child.end()
                raise
        except (JournalError, LaunchError) as error:
            self._refused = error

    def child_for(self, item: pytest.Item) -> _Child:
        """The child that is to run an item.

        Raises:
            JournalError, LaunchError: there is none to be had.
        """
        if self._refused is not None:
            raise self._refused
        child = self._child_of(item)
        if child is not None:
            return child
        return _Child(item.config, _limits_of(item))

    def order_ahead(self, child: _Child, place: int, nextplace: int | None) -> Run | None:
        """What a child may do when it has run an item, without waiting for us to log that: the next one, if it is its own.

        Not where that might be noticed: while somebody reads along, or where this process has fixtures to tear down
        between the two, or another item might come.
        """
        items, session = self._session.items, self._session
        if (
            nextplace != place + 1
            or hasattr(session.config, "workerinput")
            or reruns.is_active(session.config)
            or child.output.turns.are_taken
            or session._setupstate.stack
            or self._child_of(items[nextplace]) is not child
        ):
            return None
        following = items[nextplace + 1] if nextplace + 1 < len(items) else None
        stays = following is not None and child.node in following.listchain()
        return Run(item=nextplace, nextitem=nextplace + 1 if stays else None, failed=session.testsfailed, ahead=True)

    def explained(self, crash: Crash, child: _Child, settings: Settings) -> Crash:
        """A crash with the answer to whose fault it was, where other items had run in the same child."""
        items, (*before, place) = self._session.items, child.trail
        crash = replace(crash, trail=tuple(items[one].nodeid for one in reversed(before)))
        if not settings.confirm or isinstance(crash.ending, RAN_ON):
            return crash
        if not self._trials_left:
            return replace(
                crash, gaps=(*crash.gaps, f"whose fault: {_TRIALS} crashes of this session were tried again")
            )
        self._trials_left -= 1
        try:
            crash = replace(crash, alone=self._crashes_after((), place))
            if settings.bisect_runs and not crash.alone:
                found = minimal(
                    len(before),
                    lambda some: self._crashes_after([before[one] for one in some], place),
                    settings.bisect_runs,
                )
                return self._told(crash, found, before)
        except FaultguardError as error:
            return replace(crash, gaps=(*crash.gaps, f"whose fault: {error}"))
        return crash

    def _told(self, crash: Crash, found: Found, before: list[int]) -> Crash:
        items = self._session.items
        match found:
            case Flaky(runs=runs):
                told = f"bisect: it did not crash each time that the same tests ran before it: flaky ({runs} runs)"
                return replace(crash, gaps=(*crash.gaps, told))
            case Unfinished(runs=runs):
                told = f"bisect: stopped after {runs} runs, fewer may be needed; see --faultguard-bisect-runs"
                crash = replace(crash, gaps=(*crash.gaps, told))
        needs = tuple(items[before[one]].nodeid for one in found.places)
        return replace(crash, needs=needs, command=self._command(*needs, crash.label))

    def _command(self, *nodeids: str) -> str:
        """Has a shell run these in this order in one child."""
        config = self._session.config
        options = ["--faultguard", "--faultguard-scope=session"]
        if config.pluginmanager.hasplugin("randomly"):
            options += ["-p", "no:randomly"]
        command = shlex.join(["pytest", *options, *nodeids])
        root = config.rootpath
        return command if config.invocation_params.dir == root else f"cd {shlex.quote(str(root))} && {command}"

    def _crashes_after(self, before: Sequence[int], place: int) -> bool:
        """Whether an item crashes in a fresh child in which these have run before; nobody hears of that otherwise.

        Raises:
            JournalError, LaunchError: there is no child to be had.
        """
        items, places = self._session.items, [*before, place]
        settings = items[place].stash[settings_key]
        assert settings is not None
        child = _Child(self._session.config, settings.limits, self._session, is_heard=False)
        try:
            child.start(self._session)
            for one, following in zip(places, [*places[1:], None], strict=True):
                remains = child.run(_Unheard(items[one]), one, following)
                if remains is not None:
                    return one == place and remains.ending is not None
            return False
        finally:
            if child.guard.is_buried:
                child.close()
            else:
                child.end()

    def distrust(self, fixture: pytest.FixtureDef[Any]) -> None:
        """A fixture that some have inherited is gone: they run no other item."""
        for child in self._living.values():
            child.is_unfit = child.is_unfit or id(fixture) in child.inherited

    def end_unneeded(self, nextitem: pytest.Item | None) -> None:
        """After an item: end the children whose scope has ended."""
        if not self._living:
            return
        stops = self._session.shouldfail or self._session.shouldstop
        needed = [] if nextitem is None or stops else nextitem.listchain()
        for child in [one for one in self._living.values() if one.node not in needed or one.is_unfit]:
            self._end(child)

    def end_all(self, *, hurry: bool = False) -> None:
        """At the end of the session: end every child, also where one of them raises."""
        with ExitStack() as stack:
            for child in self._living.values():
                stack.callback(self._end, child, hurry=hurry)
            self._living = {}

    def remove(self, child: _Child) -> None:
        """It has ended."""
        self._living = {key: one for key, one in self._living.items() if one is not child}

    def forget(self, own: _Child) -> None:
        """In a child: the others are the parent's."""
        for child in self._living.values():
            if child is not own:
                child.forget()
        self._living = {}

    def _child_of(self, item: pytest.Item) -> _Child | None:
        key = self._key(item)
        return None if key is None else self._living.get(key)

    def _end(self, child: _Child, *, hurry: bool = False) -> None:
        self.remove(child)
        child.end(hurry=hurry)

    def _key(self, item: pytest.Item) -> tuple[pytest.Collector, int, int | None] | None:
        settings = item.stash.get(settings_key, None)
        if settings is None or self.place_of(item) is None or reruns.applies(item):
            # What one attempt leaves in memory is not to reach the next one.
            return None
        node = _scope_node(item, settings.scope)
        return None if node is None else (node, settings.limits.data_bytes, settings.limits.memory)


def _limits_of(item: pytest.Item) -> Limits:
    settings = item.stash[settings_key]
    assert settings is not None
    return settings.limits


def _scope_node(item: pytest.Item, scope: str) -> pytest.Collector | None:
    """The node whose items share a child; None for a child of the item's own. As for fixtures of that scope."""
    match scope:
        case "session":
            return item.session
        case "package":
            return item.getparent(pytest.Package) or item.session
        case "module":
            return next((one for one in reversed(item.listchain()) if isinstance(one, pytest.File)), None)
        case "class":
            return item.getparent(pytest.Class)
        case _:
            return None


@contextmanager
def _reporting_late(item: pytest.Item) -> Generator[None]:
    """Around reports of an item that is no longer the one that runs: a worker of pytest-xdist numbers them by that."""
    plugins = item.config.pluginmanager.get_plugins() if hasattr(item.config, "workerinput") else ()
    worker = next(
        (cast("Any", one) for one in plugins if hasattr(one, "item_index") and hasattr(one, "sendevent")), None
    )
    if worker is None:
        yield
        return
    now, worker.item_index = worker.item_index, item.config.stash[_children_key].place_of(item)
    try:
        yield
    finally:
        worker.item_index = now


class _Unheard:
    """An item that runs once more, to see what becomes of it."""

    attempt = 0

    def __init__(self, item: pytest.Item) -> None:
        self.item = item
        settings = item.stash[settings_key]
        assert settings is not None
        timeout = settings.limits.timeout or _TRIAL_LIMITS.timeout
        limits = replace(settings.limits, timeout=timeout, clock_waits=False, dump_every=None)
        self.settings = replace(settings, limits=limits)

    def take(self, message: Message) -> None:
        """What is said has been said before."""

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """As above."""


# The parent's side: one item.


def _run_attempts(item: pytest.Item, nextitem: pytest.Item | None, settings: Settings) -> bool:
    """Have pytest-rerunfailures run the item, each attempt in a child; False where it leaves that to us."""
    attempts: list[_GuardedItem] = []

    def attempt(may_be_followed: bool) -> list[pytest.TestReport]:  # noqa: FBT001 - the one thing that it is told.
        reports: list[pytest.TestReport] = []
        attempts[:] = [_GuardedItem(item, nextitem, settings, reports.append, may_be_followed=may_be_followed)]
        attempts[0].run()
        return reports

    def ask(question: Callable[[], dict[str, Any]]) -> None:
        attempts[0].ask(question)

    if not reruns.run(item, nextitem, attempt, ask):
        return False
    for last in attempts:
        last.end_attempts()
    return True


class _GuardedItem:
    """The parent's part in the run of one item."""

    #: Which runs it, or ran it last.
    child: _Child

    def __init__(
        self,
        item: pytest.Item,
        nextitem: pytest.Item | None,
        settings: Settings,
        collect: Callable[[pytest.TestReport], object] | None = None,
        *,
        may_be_followed: bool = False,
    ) -> None:
        self.item = item
        self.nextitem = nextitem
        self.settings = settings
        #: Gets the reports instead of pytest's hook.
        self.collect = collect
        self.may_be_followed = may_be_followed
        self.failed = False
        self.last: pytest.TestReport | None = None
        self.held: pytest.TestReport | None = None
        self.expected: Expected | None = None
        self.stopped: Stopped | None = None
        self.finished: Finished | Idle | None = None
        #: Whether what goes on now is no phase of this item, but the teardown of what it shared with others.
        self.is_late = False
        self.broken = ""
        self.snapshots: list[Snapshot] = []
        self.slow: list[tuple[str, str]] = []
        self.captured: dict[str, str] = {}
        #: After a crash: what the test had used.
        self.usage: Usage | None = None
        self.phase_started_at = time.monotonic()

    def run(self) -> None:
        item, session = self.item, self.item.config.stash[session_key]
        reruns.begin(item)
        if not self._end_other_values(session):
            return
        _prepare(item.config)
        session.lines.expect()
        children = item.config.stash[_children_key]
        try:
            child = self.child = children.child_for(item)
            remains = child.run(self, children.place_of(item), children.place_of(self._following(child)))
        except (JournalError, LaunchError) as error:
            self._refuse(error)
            return
        except KeyboardInterrupt:
            # Ctrl-C at the terminal: the child has said where that met it.
            self._raise_if_stopped()
            raise
        crash = None
        if remains is not None:
            children.remove(child)
            try:
                self._raise_if_stopped()
                crash = self._crash(remains)
            finally:
                child.close()
        if crash is not None and len(child.trail) > 1 and not self._is_due(crash):
            try:
                crash = children.explained(crash, child, self.settings)
            except KeyboardInterrupt:
                # The crash is known, whoever's fault it was.
                self._conclude(crash, ())
                raise
        self._conclude(crash, () if remains is None else remains.leaked)

    @property
    def attempt(self) -> int:
        """Which one of pytest-rerunfailures; 0 where it does not run the item."""
        return 0 if self.collect is None else vars(self.item)["execution_count"]

    def _following(self, child: _Child) -> pytest.Item | None:
        """The item whose fixtures the child leaves standing."""
        session, nextitem = self.item.session, self.nextitem
        if nextitem is None or session.shouldfail or session.shouldstop or child.node not in nextitem.listchain():
            return None
        return nextitem

    def end(self, remains: Remains) -> None:
        """The child that ran this item last has ended: whatever is told of it now is told of this item."""
        self.is_late = True
        try:
            self._raise_if_stopped()
            crash = self._crash(remains)
        finally:
            self.child.close()
        if crash is not None:
            with _reporting_late(self.item):
                self._log_crash(crash)
        elif remains.leaked:
            processes = reporting.clean(", ".join(remains.leaked))
            self._show_own(LeakedProcessesWarning(f"killed at the end of a shared child: {processes}"))

    def _refuse(self, error: FaultguardError) -> None:
        """There is no child to be had, and so no test: its setup fails, and the session goes on."""

        def fail() -> None:
            __tracebackhide__ = True
            raise error.with_traceback(None) from None

        self._fail_setup(_called(fail, "setup"))

    def _end_other_values(self, session: Session) -> bool:
        """End what this process has set up for another parameter: pytest would before the item has its own value.

        False where that failed, which fails the item's setup.
        """
        others = list(_other_values(self.item, session))
        if not others:
            return True

        def finish() -> None:
            with _capturing(self.item, "setup"):
                for fixture in others:
                    fixture.finish(self.item._request)  # type: ignore[attr-defined]

        call = _called(finish, "setup")
        if call.excinfo is None:
            return True
        self._fail_setup(call)
        return False

    def _fail_setup(self, call: pytest.CallInfo[None]) -> None:
        self.last = self._log(call)
        self._close(None)

    # What the child says.

    def take(self, message: Message) -> None:
        match message:
            case Report():
                report = _unpacked(message, self.item.config)
                if message.late:
                    with _reporting_late(self.item):
                        self._log_report(report)
                else:
                    self._take_report(report, message.left_at)
                if message.cpu_seconds:
                    self.child.before = Before(cpu_seconds=message.cpu_seconds, waited_peak=message.waited_peak)
                self.child.output.end_phase()
                self.child.output.turns.give_back()
            case Expected():
                self.expected = message
            case Said(texts=texts):
                self.child.output.pass_on(texts)
            case Warned():
                self._warn(message)
            case Noted(session_properties=properties, attributes=attributes):
                xml = self.item.config.stash[xml_key]
                xml.global_properties.extend(properties)
                if attributes:
                    xml.node_reporter(self.item.nodeid).attrs.update(attributes)
            case Kept(attributes=attributes):
                vars(self.item).update(attributes)
            case Covered():
                self.item.config.stash[session_key].lines.take(message)
            case Stopped():
                self.stopped = message
            case Finished():
                self.finished = message
            case Idle(unfit=unfit, unhealthy=unhealthy, goes_on=goes_on):
                self.finished = message
                self.child.is_unfit = self.child.is_unfit or bool(unfit or unhealthy)
                self.child.goes_on = goes_on
                if unhealthy:
                    told = f"its child was ended: {reporting.clean(unhealthy)}"
                    self._show_own(UnhealthyChildWarning(told))
            case Broken(text=text):
                self.broken = text
            case _:
                raise AssertionError

    def _take_report(self, report: pytest.TestReport, left_at: Seconds) -> None:
        self._add_snapshots(report)
        if type(report) is pytest.TestReport:  # Not a subtest's, which ends no phase.
            self.last = report
            # The report may have waited to be read.
            self.phase_started_at = min(max(self.phase_started_at, left_at), time.monotonic())
            if self.settings.limits.clock_waits:
                if report.when == "setup" and report.passed:
                    self.child.guard.start_clock(self.phase_started_at)
                else:
                    self.child.guard.stop_clock()
            if report.when == "teardown":
                # The last word on this test may be a crash at exit, or the teardown of what is set up here.
                self.held = report
                return
        self._log_report(report)

    def _log_report(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or report.failed
        chosen.note_guarded(report, self.item.config)
        if self.collect is not None and type(report) is pytest.TestReport:
            self.collect(report)
        else:
            self.item.ihook.pytest_runtest_logreport(report=report)

    def take_snapshot(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)
        if snapshot.text.startswith("Timeout ("):
            # pytest's faulthandler_timeout: it has the dump on the terminal, at once.
            to_terminal(snapshot.text)

    def _add_snapshots(self, report: pytest.TestReport) -> None:
        for snapshot in self.snapshots:
            stacks = faultdump.parse(snapshot.text).stacks
            text = faultdump.render(stacks, faultdump.is_plumbing) if stacks else snapshot.text
            self.slow.append((f"stacks in {report.when} after {snapshot.after:.1f} s", reporting.clean(text)))
        self.snapshots.clear()
        # As pytest does with captured output: a report has the sections of the phases before, too.
        report.sections.extend(section for section in self.slow if section not in report.sections)

    def _warn(self, warned: Warned) -> None:
        # To a controller of pytest-xdist, a category is a name in a module.
        category = _category(warned) or (Warning if hasattr(self.item.config, "workerinput") else _like(warned))
        message: Warning | str = warned.text
        if category.__str__ is BaseException.__str__:
            # Neither this nor what is done with it runs code of the test's.
            message = BaseException.__new__(category, *warned.args)
            if str(message) != warned.text:
                message = BaseException.__new__(category, warned.text)
        record = warnings.WarningMessage(message, category, warned.filename, warned.line, source=warned.source)
        self._show(record)

    def _show_own(self, warning: Warning) -> None:
        path, line, _ = self.item.reportinfo()
        self._show(warnings.WarningMessage(warning, type(warning), str(path), (line or 0) + 1))

    def _show(self, record: warnings.WarningMessage) -> None:
        self.item.ihook.pytest_warning_recorded.call_historic(
            kwargs={
                "warning_message": record,
                "nodeid": self.item.nodeid,
                "when": "runtest",
                "location": None,
            }
        )

    def _raise_if_stopped(self) -> None:
        stopped = self.stopped
        if stopped is None:
            return
        if stopped.reason is not None:
            raise pytest.exit.Exception(stopped.reason, stopped.returncode)
        interrupt = KeyboardInterrupt(*([stopped.text] if stopped.text else []))
        if stopped.frames:
            raise interrupt.with_traceback(reporting.traceback_of(stopped.frames)) from None
        raise interrupt

    # What became of it.

    def _phase(self) -> Phase:
        """The phase that the child was in; told by the reports that had left it."""
        last = self.last
        if self.is_late:
            return "teardown" if self.child.is_ending and not isinstance(self.finished, Finished) else "exit"
        if last is None:
            return "setup"
        if last.when == "setup" and last.passed and not self.item.config.getoption("setuponly", False):
            return "call"
        return "teardown" if self.held is None else "exit"

    def _crash(self, remains: Remains) -> Crash | None:
        """The crash, and the output that goes with it; None where the child finished as it should."""
        output = self.child.output
        captured = output.read()
        ending = self._ending(remains)
        self.usage = None if remains.usage is None else since(remains.usage, self.child.before)
        if ending is None:
            output.pass_on(captured)
            return None
        words = output.native_words()
        if words:
            captured["stderr"] = captured.get("stderr", "") + words
        self.captured = captured
        out, err = captured.get("stdout", ""), captured.get("stderr", "")
        dump = remains.dump or faultdump.find(err)
        dumped = faultdump.parse(dump)
        message = lastwords.explain(err, out) if isinstance(ending, Signaled | Exited) else ""
        ending = memory.blame(ending, self.settings.limits.memory, remains.data_bytes, message)
        rescued, data_gaps = rescue(self.child.journal.fileno())
        if not dump and self.broken:
            dump = self.broken
        return Crash(
            label=str(self.item.nodeid),
            phase=self._phase(),
            ending=ending,
            duration=max(0.0, remains.ended_at - self.phase_started_at),
            message=message,
            stacks=dumped.stacks,
            dump=dump,
            rescued=rescued,
            leaked=remains.leaked,
            gaps=(*_missing_stack(ending, dump, remains.gaps), *remains.gaps, *output.gaps(self.item), *data_gaps),
        )

    def _ending(self, remains: Remains) -> Ending | None:
        ending = remains.ending
        if self.broken:
            return Lost(reason=f"pytest itself failed in the child: {self.broken.strip().splitlines()[-1]}")
        if isinstance(ending, Exited) and any(one.text.startswith("Timeout (") for one in self.snapshots):
            timeout = _faulthandler_timeout(self.item.config)
            return Overdue(timeout=timeout, stopped_by="faulthandler_exit_on_timeout")
        return ending

    def _conclude(self, crash: Crash | None, leaked: tuple[str, ...]) -> None:
        session = self.item.session
        if self.finished is not None:
            session.shouldstop = session.shouldstop or self.finished.shouldstop
            session.shouldfail = session.shouldfail or self.finished.shouldfail
        if crash is None:
            assert self.held is not None
            if leaked:
                # A phase in the title: pytest shows the sections of a teardown by it.
                title = f"{reporting.LEAKED_TITLE} after teardown"
                self.held.sections.append((title, reporting.clean("\n".join(leaked))))
            self._close(self.held)
        elif crash.phase in ("setup", "call"):
            self._log_crash(crash)
            self._close(None)
        else:
            failed = self._log_crash(crash)
            self._close(failed, logged=True)

    def _log_crash(self, crash: Crash) -> pytest.TestReport:
        """Make the report of a crash as pytest makes one of an exception, and log it."""
        item = self.item
        assert crash.phase != "collect"
        when: _When = "teardown" if crash.phase == "exit" else crash.phase
        call = pytest.CallInfo.from_call(lambda: None, when=when)
        call.stop = time.time()
        call.duration = crash.duration
        call.start = call.stop - crash.duration
        death, evidence = self.settings.death, list[tuple[str, str]]()
        if not self._is_due(crash):
            crash, evidence = _with_evidence_of_others(item, crash)
            error = error_for(crash).with_traceback(reporting.blame(item, crash))
            if death is not None and crash.phase in ("setup", "call"):
                error.args = (f"{crash.cause}; expected {death} in call",)
            call.excinfo = pytest.ExceptionInfo.from_exception(error)
        sections = self._earlier_sections()
        sections += [(f"Captured {key} {when}", text) for key, text in self.captured.items()]
        properties = [] if self.last is None else [*self.last.user_properties]
        if self.usage is not None:
            usage.add(properties, self.usage)
        item.stash[_crash_key] = crash, sections, properties, evidence
        item.stash[xfailed_key] = self._xfail(crash)
        try:
            report: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=call)
        finally:
            del item.stash[_crash_key]
            del item.stash[xfailed_key]
        # What a hook adds to every report is in the child's earlier ones as well.
        added = report.user_properties[len(properties) :]
        report.user_properties = [*(one for one in properties if one not in added), *added]
        self._add_snapshots(report)
        self.last = report
        self._log_report(report)
        if check_interactive_exception(call, report):
            item.ihook.pytest_exception_interact(node=item, call=call, report=report)
        return report

    def _is_due(self, crash: Crash) -> bool:
        """Whether the item passes by it."""
        death = self.settings.death
        return death is not None and death.is_met_by(crash, self.captured.values())

    def _earlier_sections(self) -> list[tuple[str, str]]:
        """The output of the phases that have ended; what a hook had put into their reports is theirs."""
        sections = [] if self.last is None else self.last.sections
        return [(title, text) for title, text in sections if title.startswith("Captured ")]

    def _xfail(self, crash: Crash) -> Xfail | None:
        expected = self.expected
        if expected is None:
            return None
        accepted = expected.hang if isinstance(crash.ending, RAN_ON) else expected.crash
        if accepted and expected.pattern is not None:
            accepted = re.search(expected.pattern, str(error_for(crash))) is not None
        # pytest compares types: none at all is what nothing matches.
        return Xfail(expected.reason, run=True, strict=expected.strict, raises=None if accepted else ())

    def _close(self, report: pytest.TestReport | None, *, logged: bool = False) -> None:
        """Tear down what this process has set up and the next item does not need; log the last report.

        ``report`` is the child's own, or that of a crash after the call, which is logged already. After a crash before,
        ours is the only teardown that there was: pytest's consumers wait for one (junitxml, pytest-html).
        """
        item, session = self.item, self.item.session
        nextitem = None if session.shouldfail or session.shouldstop else self.nextitem
        if self.may_be_followed and (self.failed or (report is not None and report.failed)):
            nextitem = item
        call = _called(lambda: _teardown(item, nextitem), "teardown")
        if call.excinfo is None and report is not None:
            if not logged:
                self._log_report(report)
            return
        if report is not None and report.failed and not logged:
            self._log_report(report)
        self._log(call)

    def ask(self, question: Callable[[], dict[str, Any]]) -> None:
        """After a crash: have a child of its own answer what may be code of the test's, and keep the answer."""
        guard = Guard(Limits(timeout=_ANSWER_BOUND), self.take, lambda _: None)
        try:
            guard.run(lambda line: line.sender.send(Kept(attributes=question())))
        except LaunchError:
            pass  # No answer.

    def end_attempts(self) -> None:
        """There is no other: tear down what was left for it."""
        self.collect, self.may_be_followed = None, False
        self._close(self.last, logged=True)

    def _log(self, call: pytest.CallInfo[None]) -> pytest.TestReport:
        """Make and log a report of what was done here."""
        item = self.item
        report: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=call)
        report.sections[:0] = self._earlier_sections()
        if self.last is not None:
            report.user_properties = self.last.user_properties
        self._add_snapshots(report)
        self._log_report(report)
        if check_interactive_exception(call, report):
            item.ihook.pytest_exception_interact(node=item, call=call, report=report)
        return report


def _with_evidence_of_others(item: pytest.Item, crash: Crash) -> tuple[Crash, list[tuple[str, str]]]:
    """What plugins and conftest files add; where one of them fails, the crash has a gap more."""
    manager, name = item.config.pluginmanager, "pytest_faultguard_crash"
    added: list[tuple[str, str]] = []
    for implementation in reversed(item.ihook.pytest_faultguard_crash.get_hookimpls()):
        plugin = implementation.plugin
        # Each by itself: what one has found is not lost by another's error.
        alone = manager.subset_hook_caller(name, [one for one in manager.get_plugins() if one is not plugin])
        try:
            for found in alone(item=item, crash=crash):
                added += [_section(one) for one in found]
        except pytest.exit.Exception:
            raise
        except (Exception, pytest.fail.Exception, pytest.skip.Exception) as error:  # noqa: BLE001 - the user's code.
            told = traceback.format_exception_only(error)[-1].strip()
            gap = reporting.clean(f"{name} of {manager.get_name(plugin)}: {told}")
            crash = replace(crash, gaps=(*crash.gaps, gap))
    return crash, added


def _section(found: object) -> tuple[str, str]:
    match found:
        case (str(title), str(text)):
            return title, text
    msg = f"a title and a text are wanted, not {found!r}"
    raise TypeError(msg)


def _unpacked(message: Report, config: pytest.Config) -> pytest.TestReport:
    """The report as it was in the child."""
    data = message.data
    report: pytest.TestReport = config.hook.pytest_report_from_serializable(config=config, data=data)
    if message.was_object and isinstance(report.longrepr, str):
        report.longrepr = reporting.Shown(report.longrepr)  # type: ignore[assignment]
    if message.failed_subtests and failed_subtests_key is not None:
        config.stash[failed_subtests_key][_identity(report)] = message.failed_subtests
    subtest = data.get("_subtest.context")
    if subtest is not None:
        object.__setattr__(cast("Any", report).context, "kwargs", subtest["kwargs"])
    return report


def _identity(report: pytest.TestReport) -> Any:
    """By what pytest counts subtests: a ``NodeId`` since 9.2, before that the text."""
    return report.id if hasattr(type(report), "id") else report.nodeid


def _category(warned: Warned) -> type[Warning] | None:
    """The category of a warning; None where this process does not know it."""
    # Its module was loaded when this process forked, or it is one of the test's own: never import it here.
    found: object = sys.modules.get(warned.category_module)
    for name in warned.category_name.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, type) and issubclass(found, Warning) else None


def _like(warned: Warned) -> type[Warning]:
    """A category that has the name of one that was made in the child."""
    namespace = {"__module__": warned.category_module, "__qualname__": warned.category_name}
    return type(warned.category_name.rpartition(".")[2], (Warning,), namespace)


def _prepare(config: pytest.Config) -> None:
    """What must be so in this process before it forks."""
    if _faulthandler_timeout(config) > 0:
        # Armed around the protocol, here, by pytest: it must act in the child, and here it would end the session.
        faulthandler.cancel_dump_traceback_later()
    factory = getattr(config, "_tmp_path_factory", None)
    if factory is not None:
        try:
            factory.getbasetemp()
        except Exception:  # noqa: BLE001, S110 - a test that wants one fails by itself.
            pass
    config.stash[_outermost_key].stand_by()
    # What is still in a buffer would be written twice.
    if config.pluginmanager.hasplugin("terminalreporter"):  # Not with -p no:terminal.
        config.get_terminal_writer().flush()
    flush_streams()


def _teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    state = item.session._setupstate
    needed = [] if nextitem is None else nextitem.listchain()
    if list(state.stack) != needed[: len(state.stack)]:
        with _capturing(item, "teardown"):
            state.teardown_exact(nextitem)


def _called(function: Callable[[], None], when: _When) -> pytest.CallInfo[None]:
    return pytest.CallInfo.from_call(function, when=when, reraise=(pytest.exit.Exception, KeyboardInterrupt))


def _capturing(item: pytest.Item, when: _When) -> AbstractContextManager[None]:
    capture = item.config.pluginmanager.getplugin("capturemanager")
    return nullcontext() if capture is None else capture.item_capture(when, item)


def _other_values(item: pytest.Item, session: Session) -> Generator[pytest.FixtureDef[Any]]:
    """The fixtures that this process has set up for a parameter of which the item has another value."""
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return
    definitions = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
    for name, value in callspec.params.items():
        for fixture in definitions.get(name, ()):
            if id(fixture) in session.alive and not _is_same(fixture.cached_result, value):
                yield fixture


def _is_same(cached: Any, value: object) -> bool:
    # As FixtureDef.execute compares: an array has no truth value.
    try:
        return cached is not None and (cached[1] is value or bool(cached[1] == value))
    except (ValueError, RuntimeError):
        return False


def _missing_stack(ending: Ending, dump: str, gaps: tuple[str, ...]) -> tuple[str, ...]:
    if dump or any(gap.startswith("stacks:") for gap in gaps):
        return ()
    match ending:
        case Signaled(signal=number) | Starved(signal=number) if number in _DUMPED:
            return ("stack: faulthandler wrote nothing: the test disabled it, or sent its text elsewhere",)
        case OutOfMemory():
            return ("stack: SIGKILL ends a process without a dump",)
        case Signaled(signal=number) | Starved(signal=number):
            return (f"stack: {signal_name(number)} ends a process without a dump",)
        case Exited():
            return ("stack: the process left by itself, and marked no line",)
        case _:
            return ()


# The child's side.


def _run_in_child(item: pytest.Item, line: Line, child: _Child, attempt: int) -> None:
    inside = _Inside(item.session, line, child)
    inside.begin(item, attempt)
    _arm_faulthandler_timeout(item.config, line.stacks_fd)

    def run() -> None:
        runtestprotocol(item, nextitem=None)
        # A teardown that raised no Exception but a BaseException has kept pytest from the rest.
        item.session._setupstate.teardown_exact(None)

    inside.obey(run)


def _live_in_child(session: pytest.Session, line: Line, child: _Child) -> None:
    inside = _Inside(session, line, child)
    session.config.stash[_inside_key] = inside
    assert line.orders_fd is not None
    orders = Orders(line.orders_fd)
    inside.obey(lambda: inside.carry_out(orders))


class _Inside:
    """The child's part in its life."""

    def __init__(self, session: pytest.Session, line: Line, child: _Child) -> None:
        config = session.config
        known = config.stash[session_key]
        known.guarding = None
        if known.status is not None:
            known.status.close()
        config.stash[_children_key].forget(child)
        _disown(session, known, lives_on=child.node is not None)
        child.output.arm()
        self._session = session
        self._config = config
        self._line = line
        self._journal = child.journal
        self._output = child.output
        self._send = line.sender.send
        self._send_lines = known.lines.divert(self._send)
        self._attempt = 0
        self._lives_on = child.node is not None
        self._meter = Meter()
        memory.apply(child.guard.limits.memory)
        #: Of the item that runs, or ran last.
        self._reporter: _Reporter | None = None
        self._forward_warnings()
        _refuse_debuggers()

    def begin(self, item: pytest.Item, attempt: int) -> None:
        """What is told from here on is told of this item."""
        if self._lives_on:
            memory.restore()
            self._meter.begin()
        item.stash[_journal_key] = self._journal, os.getpid()
        reporter = _Reporter(
            item,
            self._line.sender,
            self._send_lines,
            self._journal,
            self._output,
            self._meter,
            is_attempt=attempt > 0,
        )
        self._reporter = self._config.stash[_outermost_key].reporter = reporter
        if attempt:
            reruns.enter_child(item, attempt)

    def obey(self, do: Callable[[], None]) -> None:
        """Run tests, tear down what is left, and say how that ended."""
        session = self._session
        try:
            do()
        except pytest.exit.Exception as leaving:
            self._send(Stopped(reason=str(leaving.msg), returncode=leaving.returncode))
        except KeyboardInterrupt as interrupt:
            self._send(Stopped(reason=None, returncode=None, text=str(interrupt), frames=_frames_of(interrupt)))
        else:
            self._send_lines()
            self._send(Finished(shouldstop=session.shouldstop, shouldfail=session.shouldfail))
            return
        # As at the end of an interrupted session: what this process has set up, it tears down.
        if self._lives_on:
            # What that writes belongs on the terminal, but behind what the parent has still to write of tests before.
            self._output.go_on()
        session._setupstate.teardown_exact(None)
        self._send_lines()
        if self._lives_on and (texts := self._output.between_tests()):
            self._send(Said(texts=texts))

    def carry_out(self, orders: Orders) -> None:
        """Do what is ordered, until that is to leave."""
        items, session = self._session.items, self._session
        goes_on = False
        while True:
            unhealthy = ""
            order = orders.wait()
            texts = self._output.between_tests()
            if texts:
                self._send(Said(texts=texts))
            match order:
                case Run(ahead=True) if not goes_on:
                    continue  # It will be given again, when what has happened is known.
                case Run(item=place, nextitem=following, failed=failed, attempt=attempt):
                    session.testsfailed, self._attempt = failed, attempt
                    nextitem = None if following is None else items[following]
                    self._config.hook.pytest_runtest_protocol(item=items[place], nextitem=nextitem)
                    goes_on = not (session.shouldstop or session.shouldfail or session.testsfailed > failed)
                    unhealthy = _health_of(items[place])
                case Trim(nextitem=following):
                    goes_on = False
                    self._tear_down_late(items[following])
                case Leave():
                    self._tear_down_late(None)
                    return
                case other:
                    raise AssertionError(other)
            unfit = self._unfit()
            goes_on = goes_on and not (unfit or unhealthy)
            self._line.sender.ring(
                Idle(
                    goes_on=goes_on,
                    shouldstop=session.shouldstop,
                    shouldfail=session.shouldfail,
                    unfit=unfit,
                    unhealthy=unhealthy,
                )
            )

    def run(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        """Run the protocol of an item, within what other plugins' hooks do around it."""
        reruns.begin(item)
        self.begin(item, self._attempt)
        self._forward_warnings()
        _arm_faulthandler_timeout(self._config, self._line.stacks_fd)
        # Of the hooks around a test that the parent calls, it has to hear as well: its live log begins anew.
        live_log = self._config.pluginmanager.getplugin("logging-plugin")
        if live_log is not None:
            live_log.pytest_runtest_logstart()
        runtestprotocol(item, nextitem=nextitem)
        if live_log is not None:
            live_log.pytest_runtest_logfinish()

    def _tear_down_late(self, nextitem: pytest.Item | None) -> None:
        """End what several items have shared; where that fails, it is one more teardown of the last one."""
        reporter, state = self._reporter, self._session._setupstate
        if reporter is None:
            return
        item = reporter.item

        def tear_down() -> None:
            with _capturing(item, "teardown"):
                state.teardown_exact(nextitem)

        call = _called(tear_down, "teardown")
        if call.excinfo is None:
            reporter.tell_noted(None)
            self._output.forget()
            return
        reporter.is_late = True
        item.ihook.pytest_runtest_logreport(report=item.ihook.pytest_runtest_makereport(item=item, call=call))

    def _unfit(self) -> str:
        """After a test: why there is no journal for the next one; empty where there is."""
        try:
            self._journal = self._journal.renewed()
        except JournalError as error:
            return str(error)
        return ""

    def _forward_warnings(self) -> None:
        if self._config.pluginmanager.hasplugin("warnings"):
            _forward_warnings(self._send)


def _health_of(item: pytest.Item) -> str:
    """Why no other test should follow in this process, as others say; empty where it may."""
    try:
        reason = item.ihook.pytest_faultguard_healthcheck(item=item)
    except pytest.exit.Exception:
        raise
    except (Exception, SystemExit, pytest.fail.Exception, pytest.skip.Exception) as error:  # noqa: BLE001 - as above.
        return f"the health check raised {traceback.format_exception_only(error)[-1].strip()}"
    if reason is None or isinstance(reason, str):
        return reason or ""
    return f"the health check returned {reason!r}, which is no reason"


def _disown(session: pytest.Session, known: Session, *, lives_on: bool) -> None:
    """Right after a fork: what the parent has set up is usable here and torn down there.

    Emptied are the finalizers of every node on the inherited stack and of every fixture that is alive, so that the
    teardown of all that is left, at this child's end, runs what was set up in it and nothing else. A child that lives on
    must forget the value of such a fixture where its scope ends: else the next class would be given it.
    """
    for finalizers, _ in session._setupstate.stack.values():
        owners = [getattr(getattr(one, "func", None), "__self__", None) for one in finalizers] if lives_on else []
        finalizers[:] = [functools.partial(_forget, one) for one in owners if isinstance(one, pytest.FixtureDef)]
    for fixture in known.alive.values():
        fixture._finalizers.clear()


def _forget(fixture: pytest.FixtureDef[Any]) -> None:
    """End what was set up here on top of an inherited fixture, and forget that."""
    errors: list[BaseException] = []
    while fixture._finalizers:
        try:
            fixture._finalizers.pop()()
        except BaseException as error:  # noqa: BLE001 - raised below.
            errors.append(error)
    fixture.cached_result = None
    if errors:
        raise errors[0]


def _forward_warnings(send: Callable[[Message], None]) -> None:
    pid, former = os.getpid(), warnings._showwarnmsg_impl  # type: ignore[attr-defined]

    def forward(record: warnings.WarningMessage) -> None:
        if os.getpid() != pid:
            former(record)  # In a process that the test has forked.
            return
        send(
            Warned(
                category_module=record.category.__module__,
                category_name=record.category.__qualname__,
                text=str(record.message),
                filename=record.filename,
                line=record.lineno,
                args=getattr(record.message, "args", ()),
                source=None if record.source is None else object.__repr__(record.source),
            )
        )

    warnings._showwarnmsg_impl = forward  # type: ignore[attr-defined]


def _refuse_debuggers() -> None:
    def refuse(*_: object, **__: object) -> None:
        __tracebackhide__ = True
        if os.environ.get("PYTHONBREAKPOINT") != "0":
            _no_debugger()

    sys.breakpointhook = refuse
    pdb.set_trace = refuse


def _no_debugger() -> NoReturn:
    __tracebackhide__ = True
    pytest.fail("use --no-faultguard: a guarded test has no terminal for a debugger")


def _faulthandler_timeout(config: pytest.Config) -> Seconds:
    if not config.pluginmanager.hasplugin("faulthandler"):
        return 0.0
    return float(config.getini("faulthandler_timeout") or 0)


def _arm_faulthandler_timeout(config: pytest.Config, stacks_fd: int) -> None:
    timeout = _faulthandler_timeout(config)
    if timeout > 0:
        try:
            leave = bool(config.getini("faulthandler_exit_on_timeout"))
        except ValueError:
            leave = False  # Before pytest 9 there is no such setting.
        faulthandler.dump_traceback_later(timeout, file=stacks_fd, exit=leave)


def _frames_of(error: BaseException) -> tuple[Frame, ...]:
    """Where an exception came from, without pytest's own frames outside of it."""
    summary = traceback.extract_tb(error.__traceback__)
    frames = [Frame(function=one.name, file=one.filename, line=one.lineno) for one in summary]
    inner = []
    for frame in reversed(frames):
        if faultdump.is_plumbing(frame):
            break
        inner.append(frame)
    return tuple(reversed(inner))


class _ForwardedError(Exception):
    """Ends the call of a hook whose implementations belong to the parent."""


class _Outermost:
    """What a child does around all hooks of all plugins; idle in the parent.

    Registered before the fork, because that takes longer than all else that a child does before its test, and kept the
    one that was registered last.
    """

    def __init__(self, manager: pytest.PytestPluginManager) -> None:
        self._manager = manager
        #: Set in a child.
        self.reporter: _Reporter | None = None
        self._silence = _Silence(self)
        self._is_last = False
        for kind in _REPORTED_KINDS:
            issubclass(kind, os.PathLike)
        self.stand_by()

    def stand_by(self) -> None:
        """In the parent, before each fork: be the last one."""
        if self._is_last:
            return
        for plugin in (self._silence, self):
            if self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            self._manager.register(plugin)
        self._is_last = True

    def pytest_plugin_registered(self) -> None:
        self._is_last = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        children = item.config.stash[_children_key]
        if _inside_key not in item.config.stash:
            children.prepare(item)
        done = yield
        children.end_unneeded(nextitem)
        return done

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, object, object]:
        if self.reporter is not None:
            self.reporter.tell(report)
        try:
            return (yield)
        except _ForwardedError:
            return []

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        if self.reporter is not None and call.excinfo is not None:
            # What has failed for want of memory may hold it still: its report needs some, and its teardown.
            memory.lift()
            self.reporter.keep_output(call.when)
        report = yield
        if self.reporter is not None:
            report = self.reporter.judge(call, report)
            self.reporter.add_data(report)
        return report

    # Registered last: they run after pytest has evaluated the marks, and before the phase.

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        if self.reporter is not None:
            self.reporter.tell_expected()
            losses.warn(item)

    # Not a wrapper: pytest before 8.2 shows its frame in the traceback of an exception group.
    def pytest_runtest_call(self) -> None:
        if self.reporter is not None:
            self.reporter.tell_expected()

    def pytest_enter_pdb(self) -> None:
        if self.reporter is not None:
            _no_debugger()


class _Silence:
    """Keeps reports from the plugins of a child: those of the parent get them."""

    def __init__(self, outermost: _Outermost) -> None:
        self._outermost = outermost

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self) -> Generator[None, object, object]:
        if self._outermost.reporter is not None:
            raise _ForwardedError
        return (yield)


_outermost_key = pytest.StashKey[_Outermost]()
_children_key = pytest.StashKey[_Children]()
#: In a child that lives on.
_inside_key = pytest.StashKey[_Inside]()
#: What reports are made of. pytest asks of each value whether it is a path: the class remembers the answers, and a child
#: that inherits them need not find them.
_REPORTED_KINDS = (str, int, float, bool, list, tuple, dict, type(None))


class _Reporter:
    """Sends what happens in the child to its guard."""

    def __init__(
        self,
        item: pytest.Item,
        sender: Sender,
        send_lines: Callable[[], object],
        journal: Journal,
        output: Output,
        meter: Meter,
        *,
        is_attempt: bool,
    ) -> None:
        self._is_attempt = is_attempt
        self.item = item
        self._sender = sender
        self._send = sender.send
        self._send_lines = send_lines
        #: Whether the item's last report has left before.
        self.is_late = False
        self._journal = journal
        self._output = output
        self._meter = meter
        self._expected: Expected | None = None
        self._xml = item.config.stash.get(xml_key, None)
        self._told_properties = len(self._xml.global_properties) if self._xml is not None else 0

    def tell(self, report: pytest.TestReport) -> None:
        """A phase has ended: its report leaves at once."""
        ends_phase = type(report) is pytest.TestReport
        if self._is_attempt and ends_phase and not self.is_late:
            # Whether it counts is decided after the attempt.
            self._send(Kept(attributes=reruns.kept(self.item, report.when)))
        else:
            # The parent's session counts it as well; what runs here must know when enough is enough.
            self.item.session.pytest_runtest_logreport(report)
        self.add_data(report)  # Only now has a strict xfail that passed become a failure.
        self.tell_noted(report)
        self._send_lines()
        before = Before()
        if ends_phase and report.when == "teardown" and not self.is_late:
            used, before = self._meter.read()
            usage.add(report.user_properties, used)
        packed = _packed(report, self.item.config, before, late=self.is_late)
        self._output.turns.hand_over(packed, self._sender)
        self._output.forget()
        if report.when == "teardown":
            self._output.go_on()

    def judge(self, call: pytest.CallInfo[None], report: pytest.TestReport) -> pytest.TestReport:
        """The report; another one of a test that should have died in its call, and is still here."""
        settings = self.item.stash[settings_key]
        death = None if settings is None else settings.death
        if death is None or call.when != "call" or report.skipped or _is_calling():
            return report
        raised = None if call.excinfo is None else call.excinfo.value
        if isinstance(raised, pytest.xfail.Exception):
            return report
        call.excinfo = pytest.ExceptionInfo.from_exception(reporting.survived(self.item, str(death), raised))
        return pytest.TestReport.from_item_and_call(self.item, call)

    def keep_output(self, when: str) -> None:
        """A phase has failed: what comes now is the repr of its exception, which may be what kills."""
        sections = self.item._report_sections
        texts = {key: text for phase, key, text in sections if phase == when and key in {"stdout", "stderr"}}
        if texts:  # None in a subtest: its test still runs.
            self._output.keep(texts)

    def add_data(self, report: pytest.TestReport) -> None:
        """Show what is in the journal in a report that failed."""
        if not report.failed or not len(self._journal) or reporting.has_section(report, reporting.DATA_TITLE):
            return
        rescued, gaps = rescue(self._journal.fileno())
        text = "\n".join([reporting.data_text(rescued), *gaps])
        reporting.add_section(report, reporting.DATA_TITLE, text)

    def tell_noted(self, report: pytest.TestReport | None) -> None:
        """What was said to the junitxml file since the last time."""
        if self._xml is None:
            return
        properties = tuple(self._xml.global_properties[self._told_properties :])
        self._told_properties += len(properties)
        reporter = None if report is None else self._xml.node_reporters.get((_identity(report), None))
        attributes = {} if reporter is None else reporter.attrs
        if properties or attributes:
            self._send(Noted(session_properties=properties, attributes=attributes))

    def tell_expected(self) -> None:
        """A phase begins: would a crash in it be an expected one?"""
        if self.item.config.option.runxfail:
            return
        xfail = self.item.stash.get(xfailed_key, None)
        if xfail is not None:
            expected = _expected(xfail)
            if expected != self._expected:
                self._expected = expected
                self._send(expected)


def _is_calling() -> bool:
    """Whether this is called from within a test's own code, as reports of subtests are."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not pytest_runtest_call.__code__:
        frame = frame.f_back
    return frame is not None


def _packed(report: pytest.TestReport, config: pytest.Config, before: Before, *, late: bool) -> Report:
    counts: Mapping[Any, int] | None = None
    if failed_subtests_key is not None:
        counts = config.stash.get(failed_subtests_key, None)
    longrepr = report.longrepr
    return Report(
        data=config.hook.pytest_report_to_serializable(config=config, report=report),
        was_object=not (longrepr is None or isinstance(longrepr, str | tuple) or hasattr(longrepr, "reprtraceback")),
        failed_subtests=counts.get(_identity(report), 0) if counts else 0,
        late=late,
        left_at=time.monotonic(),
        cpu_seconds=before.cpu_seconds,
        waited_peak=before.waited_peak,
    )


def _expected(xfail: Xfail) -> Expected:
    """What the guard must know of an evaluated xfail mark; whatever is code in it was run here."""
    raises: Any = xfail.raises
    types, pattern, unanswerable = raises, None, False
    if raises is not None and not isinstance(raises, type | tuple):
        # pytest.RaisesExc: its types, if any, and its pattern are data. A check=… is code that only the dead child could
        # have run. And a crash is no group of exceptions.
        is_single = type(raises) is getattr(pytest, "RaisesExc", None)
        types, pattern = raises.expected_exceptions or BaseException, raises.match
        unanswerable = not is_single or raises.check is not None
    crash, hang = (raises is None or (not unanswerable and issubclass(kind, types)) for kind in (CrashError, HangError))
    return Expected(
        reason=xfail.reason,
        strict=bool(xfail.strict),
        crash=crash,
        hang=hang,
        pattern=getattr(pattern, "pattern", pattern),
    )
