"""The parent's side: the children, each of which runs one item or those of a scope."""

from __future__ import annotations

import faulthandler
import itertools
import os
import shlex
import time
from collections import deque
from collections.abc import Generator
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import ExitStack
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING
from typing import Any
from typing import Protocol
from typing import TypeAlias

import pytest

from pytest_faultguard import reruns
from pytest_faultguard.chosen import file_of
from pytest_faultguard.crash import RAN_ON
from pytest_faultguard.crash import Crash
from pytest_faultguard.crash import Ending
from pytest_faultguard.crash import Overdue
from pytest_faultguard.crash import Overspent
from pytest_faultguard.crash import Seconds
from pytest_faultguard.evidence.journal import Journal
from pytest_faultguard.guard import Guard
from pytest_faultguard.guard import Limits
from pytest_faultguard.guard import Remains
from pytest_faultguard.options import Settings
from pytest_faultguard.options import exec_command
from pytest_faultguard.outcome import FaultguardError
from pytest_faultguard.outcome import JournalError
from pytest_faultguard.outcome import LaunchError
from pytest_faultguard.output import Output
from pytest_faultguard.output import flush_all
from pytest_faultguard.process import memory
from pytest_faultguard.process.channel import Begun
from pytest_faultguard.process.channel import Broken
from pytest_faultguard.process.channel import Charge
from pytest_faultguard.process.channel import Leave
from pytest_faultguard.process.channel import Message
from pytest_faultguard.process.channel import Missing
from pytest_faultguard.process.channel import Run
from pytest_faultguard.process.channel import Touched
from pytest_faultguard.process.channel import Trim
from pytest_faultguard.process.meter import NOTHING
from pytest_faultguard.process.meter import Before
from pytest_faultguard.process.pages import Pages
from pytest_faultguard.process.signals import Sweep
from pytest_faultguard.process.supervise import Snapshot
from pytest_faultguard.protocol import inside
from pytest_faultguard.protocol.births import Births
from pytest_faultguard.protocol.births import current_directory
from pytest_faultguard.protocol.births import paths_of
from pytest_faultguard.protocol.phases import faulthandler_timeout
from pytest_faultguard.session import interactor_of
from pytest_faultguard.session import session_key
from pytest_faultguard.session import settings_key
from pytest_faultguard.session import settings_of

if TYPE_CHECKING:
    from pytest_faultguard.triage.bisect import Found

#: How many crashes of a session are tried again, and how long each test may take then that has no timeout.
_TRIALS = 10
_TRIAL_LIMITS = Limits(timeout=60.0)
#: So many items a child is told of ahead, at most, and after every how many of them it rings.
_AHEAD = 7
_RINGING = 4
#: The orders that have not been read, as many as are void after a failure among them, must not fill a pipe, which may hold
#: no more than a page: we would wait.
_LOCATION_BYTES = 200
#: As good as no limit.
_A_DAY: Seconds = 86_400.0
#: For the teardown of what is shared, when the session is interrupted, also where there is to be no grace.
_LEAST_GRACE: Seconds = 0.1
#: Options that are not repeated to run some tests again: those that need the cache of the session before, the search itself,
#: and those that are given anew.
_NOT_REPEATED = frozenset(
    (
        *("--lf", "--last-failed", "--ff", "--failed-first", "--nf", "--new-first"),
        *("--sw", "--stepwise", "--sw-skip", "--stepwise-skip", "--sw-reset", "--stepwise-reset"),
        *("--faultguard-bisect", "--faultguard", "--faultguard-scope", "-n", "--numprocesses", "--"),
    )
)
#: What items have in common that share a child: the node of their scope, and what must be equal for all.
_Key: TypeAlias = tuple[pytest.Collector, str, int, "int | None"]


class Runs(Protocol):
    """An item that a child runs, and who hears what becomes of it."""

    item: pytest.Item
    settings: Settings
    #: Since when the phase lasts that it is in, on the monotonic clock.
    phase_started_at: Seconds

    @property
    def attempt(self) -> int:
        """Which one of pytest-rerunfailures; 0 where it does not run the item."""

    @property
    def is_heard(self) -> bool:
        """Whether there is to be a report of what becomes of it."""

    def take(self, message: Message) -> None:
        """The child has said this."""

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """The child is slow."""

    def end(self, remains: Remains) -> None:
        """The child that ran it last has ended."""


class Child:
    """The parent's part in the life of one child, which runs one item or the items of a scope."""

    def __init__(
        self,
        config: pytest.Config,
        limits: Limits,
        node: pytest.Collector | None,
        start: str,
        items: Mapping[int, pytest.Item],
        *,
        is_heard: bool = True,
    ) -> None:
        self._config = config
        self.start_method = start
        self._is_heard = is_heard
        #: What it may be ordered to run, by place among the session's items.
        self.items = items
        self._is_closed = False
        if self._is_forked:
            memory.check(limits.memory, "this process, which the child is a copy of,")
        #: Whose guarded items it runs; None for a child of one item.
        self.node = node
        self.journal = Journal.create(limits.data_bytes)
        try:
            self.output = Output(config, lives_on=node is not None or not self._is_forked, is_heard=is_heard)
        except OSError as error:
            self.journal.close()
            msg = f"no descriptor for the output of a child: {error}"
            raise LaunchError(msg) from error
        self.guard = Guard(limits, self._take, self._take_snapshot, self.output.relay)
        if start == "spawn" and items:
            # It ends as an interpreter does, which is the end of what its tests have shared.
            bound = settings_of(next(iter(items.values()))).end_timeout
            self.guard.exit_bound = max(self.guard.exit_bound, bound or _A_DAY)
        self._sweep = Sweep(self.guard.kill)
        #: The fixtures that this process had set up at its birth, by identity.
        self.inherited: frozenset[int] = frozenset()
        if node is not None and self._is_forked:
            self.inherited = frozenset(config.stash[session_key].alive)
        #: The items that it did not find, by place, and why.
        self.missing: dict[int | None, str] = {}
        self.errors = ""
        #: The item that it runs, or ran last.
        self.item: Runs | None = None
        #: The places of the items that it has run.
        self.trail: list[int] = []
        #: The place of the item for which it leaves fixtures standing.
        self.awaited: int | None = None
        #: The places of those that it was told of ahead and has not begun, as far as is known here, and when that was.
        self.ahead: deque[tuple[int, Seconds]] = deque()
        #: Whether something was raised here while it was at work, and nobody has heard what it has done since.
        self.is_lost = False
        #: Whether it goes on with the first of those by itself, and since when.
        self.goes_on = False
        self.went_on_at: Seconds = 0.0
        #: Whether what it does now is the teardown of what several items have shared.
        self.is_ending = False
        #: Whether it is to run no other item.
        self.is_unfit = False
        #: What it had used when its last test ended, or when it had begun.
        self.before = NOTHING

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
        """Have it wait for orders.

        Raises:
            LaunchError: it has not begun.
        """
        if self._is_forked:
            self.guard.start(lambda line: inside.live(session, line, self._outfit()))
            return
        births = self._config.stash[children_key].births
        births.bear(self.start_method, self.guard, self._charge(), lambda: self.errors)

    def _charge(self) -> Charge:
        return Charge(
            paths=paths_of(self._config, self.items),
            items=tuple((place, item.nodeid) for place, item in self.items.items()),
            directory=current_directory(),
            environment={},
            memory=self.guard.limits.memory,
            journal_bytes=self.journal.limit_bytes,
            is_heard=self._is_heard,
            is_shared=self.node is not None,
            fds={**self.output.fds(), "journal": self.journal.fileno()},
        )

    @property
    def _is_forked(self) -> bool:
        return self.start_method == "fork"

    def _outfit(self) -> inside.Outfit:
        """In the child: what is its own; the rest is forgotten."""
        self._config.stash[children_key].forget(self)
        return inside.Outfit(
            journal=self.journal,
            output=self.output,
            memory=self.guard.limits.memory,
            lives_on=self.node is not None,
            is_shared=self.node is not None,
            items=self.items,
        )

    def run(self, item: Runs, place: int | None, nextplace: int | None) -> Remains | None:
        """Run an item; what was left by the child where that was its end."""
        attempt = item.attempt
        if self.node is None and not self._is_forked:
            return self._run_spawned(item)
        self.item = item
        if self.node is None:
            pages = self._config.stash[children_key].pages
            asked = pages.ask()
            with self._guarding(item):
                return self.guard.run(
                    lambda line: inside.run_one(item.item, line, self._outfit(), attempt, tells_pages=asked),
                    pages.copy,
                )
        assert place is not None
        orders, begun_at = list[Run](), None
        if self.has_begun(place):
            _, given_at = self.ahead.popleft()
            # It may have waited for it.
            item.phase_started_at = begun_at = max(self.went_on_at, given_at)
        else:
            self.ahead.clear()
            orders.append(self.order(place, nextplace, attempt=attempt))
        if not attempt:
            ahead, now = self._config.stash[children_key].orders_ahead(self, place, nextplace), time.monotonic()
            self.ahead.extend((order.item, now) for order in ahead)
            orders += ahead
        self.awaited, self.goes_on = nextplace, False
        self.trail.append(place)
        self._sweep.end()
        with self._guarding(item):
            remains = self.guard.give(orders, item.settings.limits, begun_at=begun_at)
        if self.is_astray:
            self._sweep.begin()
        return remains

    def _run_spawned(self, item: Runs) -> Remains:
        """In a child that begins clean: run it, and end."""
        (place,) = self.items
        try:
            if exec_command(self._config):
                self.item = item
                births = self._config.stash[children_key].births
                attended = births.attend(self.guard, self._charge(), (self.order(place, None), Leave()))
                self.check_found(place)
                return attended
            self.start(item.item.session)
            self.check_found(place)
            self.item, item.phase_started_at = item, time.monotonic()
            with self._guarding(item):
                remains = self.guard.give((self.order(place, None, attempt=item.attempt),), item.settings.limits)
                return self.guard.end(self._limits_of_end(item)) if remains is None else remains
        except BaseException:
            if not self.guard.is_buried:
                self.guard.end_now()
            self.close()
            raise

    def check_found(self, place: int | None) -> None:
        """Before an order to run that item.

        Raises:
            LaunchError: the child did not find it when it collected its own.
        """
        if place in self.missing:
            msg = (
                f"{self.missing[place]} was not found by a child that collected it anew (start={self.start_method!r}): "
                f"a test must have the same id each time that it is collected\n{self.errors}"
            )
            raise LaunchError(msg.rstrip())

    def order(
        self, place: int, nextplace: int | None, *, attempt: int = 0, ahead: bool = False, rings: bool = True
    ) -> Run:
        """To run an item, and then to leave standing what the next one needs."""
        item, shared = self.items[place], 0
        if nextplace is not None and nextplace not in self.items:
            both = zip(item.listchain(), item.session.items[nextplace].listchain(), strict=False)
            shared = sum(one is other for one, other in both)
        return Run(
            item=place,
            nextitem=nextplace,
            shared=shared,
            location=item.location if len(str(item.location).encode()) <= _LOCATION_BYTES else None,
            failed=item.session.testsfailed,
            attempt=attempt,
            timeout=settings_of(item).limits.timeout,
            ahead=ahead,
            rings=rings,
        )

    def has_begun(self, place: int) -> bool:
        """Whether it runs the item at that place already."""
        return self.goes_on and bool(self.ahead) and self.ahead[0][0] == place

    @property
    def is_astray(self) -> bool:
        """Whether it has gone on with an item for which nobody has asked any more."""
        return self.is_lost or (self.goes_on and bool(self.ahead))

    def trim(self, place: int) -> Remains | None:
        """Tear down what an item does not need, some that were not guarded having run since the last one."""
        item = self.item
        assert item is not None
        limits = self._limits_of_end(item)
        with self._guarding(item):
            remains = self.guard.give((Trim(nextitem=place),), limits)
        self.is_ending = remains is not None
        return remains

    def end(self, *, hurry: bool = False) -> None:
        """Tear down all that is left, and end; in a hurry, within the grace."""
        self._sweep.end()
        item = self.item
        if item is None or not item.is_heard or self.is_astray:
            # What becomes of a test for which nobody has asked is nobody's report.
            self.item = None
            limits = _TRIAL_LIMITS
            if item is not None and item.is_heard:
                # The grace is that of the test, and of the teardown of all that was shared.
                limits = self._limits_of_end(item, hurry=hurry)
                limits = replace(limits, grace=limits.timeout or _TRIAL_LIMITS.grace)
            try:
                self.guard.end(limits, interrupted=True)
            finally:
                self.close()
            return
        self.is_ending = not self.guard.has_ended()
        with self._guarding(item):
            remains = self.guard.end(self._limits_of_end(item, hurry=hurry))
        item.end(remains)

    def _limits_of_end(self, item: Runs, *, hurry: bool = False) -> Limits:
        """The clock of what follows the last report of an item starts now."""
        item.phase_started_at = time.monotonic()
        limits, timeout = item.settings.limits, item.settings.end_timeout
        bound = max(limits.grace, _LEAST_GRACE) if hurry else timeout or None
        return replace(limits, timeout=bound, clock_waits=False)

    def _guarding(self, item: Runs) -> _Guarding:
        return _Guarding(self, self._config, item)

    def _take(self, message: Message) -> None:
        match message:
            case Missing(items=items, error=error):
                self.missing, self.errors = {place: self.items[place].nodeid for place in items}, error
                self.items = {place: item for place, item in self.items.items() if place not in self.missing}
            case Broken(text=text) if self.item is None:
                self.errors = text
            case Touched(pages=pages):
                self._config.stash[children_key].pages.take(pages)
            case Begun(cpu_seconds=cpu_seconds, hidden_peak=hidden_peak):
                self.before = Before(cpu_seconds=cpu_seconds, hidden_peak=hidden_peak)
        if self.item is not None and not isinstance(message, Missing | Touched | Begun):
            self.item.take(message)

    def _take_snapshot(self, snapshot: Snapshot) -> None:
        if self.item is not None:
            self.item.take_snapshot(snapshot)


class _Guarding:
    """While a child does something for an item; no generator, for right after a fork each page that is touched costs."""

    def __init__(self, child: Child, config: pytest.Config, item: Runs) -> None:
        self._child = child
        self._config = config
        self._session = config.stash[session_key]
        self._guarding = item.item.nodeid, child.guard

    def __enter__(self) -> None:
        self._session.guarding = self._guarding

    def __exit__(self, kind: object, *_: object) -> None:
        self._session.guarding = None
        # Where the child lives, the session's end ends it.
        if kind is not None and self._child.guard.is_buried:
            self._config.stash[children_key].remove(self._child)
            self._child.close()
        elif kind is not None:
            self._child.is_lost = True


class Children:
    """The children of a session that outlive a test: one for each node of a scope, start method, journal size and memory limit.

    Where limits of memory differ, what the tests of one have left in memory must not count against those of another.
    """

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._living: dict[_Key, Child] = {}
        self._refused: FaultguardError | None = None
        self._trials = self._trials_left = _share(_TRIALS, getattr(session.config, "workerinput", {}))
        self.births = session.config.stash.setdefault(births_key, Births(session))
        self.pages = Pages()
        self._places: dict[pytest.Item, int] = {}
        self._items: dict[int, pytest.Item] = {}
        self._keys: dict[pytest.Item, _Key | None] = {}
        manager = session.config.pluginmanager
        session.config.stash[inside.outermost_key] = inside.Outermost(manager, self._prepare, self._end_unneeded)

    def place_of(self, item: pytest.Item | None) -> int | None:
        """An item's place among those of the session; None for one that is none of them."""
        if item is None:
            return None
        if not self._places:
            self._places = {one: place for place, one in enumerate(self._session.items)}
        return self._places.get(item)

    @property
    def items(self) -> Mapping[int, pytest.Item]:
        """Those of the session, by place."""
        if not self._items:
            self._items = dict(enumerate(self._session.items))
        return self._items

    def _prepare(self, item: pytest.Item) -> None:
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
        elif child is not None and place not in child.items and place not in child.missing:
            # Its tests were expected in their order, and this one lies before the first that it was given.
            self._end(child)
        elif child is not None and child.item is not None and child.awaited != place and place in child.items:
            assert place is not None
            remains = child.trim(place)
            if remains is not None:
                self.remove(child)
                child.item.end(remains)
        if key in self._living:
            return
        prepare_fork(item.config)
        item.config.stash[session_key].lines.expect()
        try:
            self._living[key] = child = self._child(item, key[0])
            try:
                child.start(self._session)
            except BaseException:
                self.remove(child)
                child.guard.end_now()
                child.close()
                raise
        except (JournalError, LaunchError) as error:
            self._refused = error

    def child_for(self, item: pytest.Item) -> Child:
        """The child that is to run an item.

        Raises:
            JournalError, LaunchError: there is none to be had.
        """
        if self._refused is not None:
            raise self._refused
        child, place = self._child_of(item), self.place_of(item)
        if child is not None:
            child.check_found(place)
            return child
        return self._child(item, None)

    def _child(self, item: pytest.Item, node: pytest.Collector | None) -> Child:
        """A new one, for an item and those behind it that share it."""
        settings, place = settings_of(item), self.place_of(item)
        start = "spawn" if exec_command(item.config) else settings.start
        if start == "fork":
            items = self.items
        elif node is None:
            items = {} if place is None else {place: item}
        else:
            key = self._key(item)
            # Of a worker nobody knows in which order it will be given them.
            first = 0 if hasattr(item.config, "workerinput") else place or 0
            items = {one: other for one, other in self.items.items() if one >= first and self._key(other) == key}
        return Child(item.config, settings.limits, node, start, items)

    def orders_ahead(self, child: Child, place: int, nextplace: int | None) -> list[Run]:
        """What a child may do when it has run an item, without waiting for us to log that: the next ones that are its own.

        Not where that might be noticed: while somebody reads along, or where this process has fixtures to tear down
        between the two, or another item might come. Several, for to wake us after each costs the child as much as a short
        test does: it rings after some of them, while it has others to do.
        """
        session = self._session
        if (
            nextplace != place + 1
            or hasattr(session.config, "workerinput")
            or reruns.is_active(session.config)
            or child.output.turns.are_taken
            or session._setupstate.stack
        ):
            return []
        orders = list[Run]()
        number = child.ahead[-1][0] + 1 if child.ahead else nextplace
        while number <= place + _AHEAD and self._may_follow(number, child):
            follows = self._may_follow(number + 1, child)
            stays = follows or (number + 1 in self.items and child.node in self.items[number + 1].listchain())
            nextnumber = number + 1 if stays else None
            orders.append(child.order(number, nextnumber, ahead=True, rings=not follows or number % _RINGING == 0))
            number += 1
        return orders

    def _may_follow(self, place: int, child: Child) -> bool:
        """Whether a child may go on with an item from the one before it, which is its own."""
        if place not in child.items or self._child_of(self.items[place]) is not child:
            return False
        # Only we know when a test is over its limit of CPU time: the next one would write over what it has left.
        return not settings_of(self.items[place - 1]).limits.cpu

    def with_trail(self, crash: Crash, child: Child) -> Crash:
        """A crash of the last item of a child, with those that had run before."""
        items = self._session.items
        return replace(crash, trail=tuple(items[one].nodeid for one in reversed(child.trail[:-1])))

    def explained(self, crash: Crash, child: Child, settings: Settings) -> Crash:
        """A crash with the answer to whose fault it was, where other items had run in the same child."""
        *before, place = child.trail
        crash = self.with_trail(crash, child)
        if not settings.confirm or isinstance(crash.ending, RAN_ON):
            return crash
        if not self._trials_left:
            whole = "worker" if hasattr(self._session.config, "workerinput") else "session"
            told = f"whose fault: {self._trials} crashes of this {whole} were tried again"
            return replace(crash, gaps=(*crash.gaps, told))
        self._trials_left -= 1
        try:
            alone = self._ending_after((), place)
            crash = replace(crash, alone=_is_crash(alone), stopped_alone=_limit_passed(alone))
            if settings.bisect_runs and not crash.alone:
                from pytest_faultguard.triage.bisect import minimal  # Here, for few sessions need it.

                found = minimal(
                    len(before),
                    lambda some: _is_crash(self._ending_after([before[one] for one in some], place)),
                    settings.bisect_runs,
                )
                return self._told(crash, found, before, place)
        except FaultguardError as error:
            return replace(crash, gaps=(*crash.gaps, f"whose fault: {error}"))
        return crash

    def _told(self, crash: Crash, found: Found, before: list[int], place: int) -> Crash:
        from pytest_faultguard.triage.bisect import Flaky
        from pytest_faultguard.triage.bisect import Unfinished

        items = self._session.items
        match found:
            case Flaky(runs=runs):
                told = f"bisect: it did not crash each time that the same tests ran before it: flaky ({runs} runs)"
                return replace(crash, gaps=(*crash.gaps, told))
            case Unfinished(runs=runs):
                told = f"bisect: stopped after {runs} runs, fewer may be needed; see --faultguard-bisect-runs"
                crash = replace(crash, gaps=(*crash.gaps, told))
        needs = tuple(items[before[one]].nodeid for one in found.places)
        wanted = [items[before[one]] for one in found.places] + [items[place]]
        return replace(crash, needs=needs, command=_command(self._session.config, wanted))

    def _ending_after(self, before: Sequence[int], place: int) -> Ending | None:
        """How an item ends a fresh child in which these have run before, if it does; nobody hears of that otherwise.

        Raises:
            JournalError, LaunchError: there is no child to be had.
        """
        items, places = self._session.items, [*before, place]
        settings = settings_of(items[place])
        wanted = self.items if settings.start == "fork" else {one: items[one] for one in places}
        child = Child(self._session.config, settings.limits, self._session, settings.start, wanted, is_heard=False)
        try:
            child.start(self._session)
            for one in places:
                child.check_found(one)
            for one, following in zip(places, [*places[1:], None], strict=True):
                remains = child.run(Unheard(items[one]), one, following)
                if remains is not None:
                    return remains.ending if one == place else None
            return None
        finally:
            if child.guard.is_buried:
                child.close()
            else:
                child.end()

    def distrust(self, fixture: pytest.FixtureDef[Any]) -> None:
        """A fixture that some have inherited is gone: they run no other item."""
        for child in self._living.values():
            child.is_unfit = child.is_unfit or id(fixture) in child.inherited

    def _end_unneeded(self, nextitem: pytest.Item | None) -> None:
        """After an item: end the children whose scope has ended."""
        if not self._living:
            return
        stops = self._session.shouldfail or self._session.shouldstop
        needed = [] if nextitem is None or stops else nextitem.listchain()
        for child in [one for one in self._living.values() if one.node not in needed or one.is_unfit]:
            self._end(child)

    def end_all(self, *, hurry: bool = False) -> None:
        """At the end of the session: end every child, also where one of them raises. May be called again."""
        self._session.config.stash[session_key].guarding = None  # An interrupt may have come before that was told.
        with ExitStack() as stack:
            stack.callback(self.births.end, hurry=hurry)
            for child in self._living.values():
                stack.callback(self._end, child, hurry=hurry)

    def remove(self, child: Child) -> None:
        """It has ended."""
        self._living = {key: one for key, one in self._living.items() if one is not child}

    def forget(self, own: Child) -> None:
        """In a child: the others are the parent's."""
        for child in self._living.values():
            if child is not own:
                child.forget()
        self._living = {}
        self.births.forget()

    def _child_of(self, item: pytest.Item) -> Child | None:
        key = self._key(item)
        return None if key is None else self._living.get(key)

    def _end(self, child: Child, *, hurry: bool = False) -> None:
        try:
            if not child.guard.is_buried:
                child.end(hurry=hurry)
        finally:
            # An interrupt may have come before its end had begun: then it is still to be ended.
            if child.guard.is_buried:
                self.remove(child)
                child.close()

    def _key(self, item: pytest.Item) -> _Key | None:
        """Which items it shares a child with; None for a child of its own."""
        if not self._keys:
            self._keys = {one: _key_of(one) for one in self._session.items}
        return self._keys.get(item)


def _command(config: pytest.Config, items: Sequence[pytest.Item]) -> str:
    """Has a shell run these in this order in one child, where pytest was started and with all else that it was told."""
    options = [*_given_options(config), "--faultguard", "--faultguard-scope=session"]
    if hasattr(config, "workerinput") or config.getoption("numprocesses", None) is not None:
        options.append("-n0")
    if config.pluginmanager.hasplugin("randomly"):
        options.append("--randomly-dont-reorganize")
    return shlex.join(["pytest", *options, *(_argument(config, item) for item in items)])


def _given_options(config: Any) -> Iterator[str]:
    """The words of pytest's command line, without paths and without what is not to be repeated."""
    paths = {str(path) for path in (*config.option.file_or_dir, *config.args)}
    known = config._parser.optparser._option_string_actions
    words = iter(map(str, config.invocation_params.args))
    for word in words:
        # Of two words for one option, the second may be the same as a path.
        values = itertools.islice(words, 1) if word in known and known[word].nargs != 0 else ()
        option = [word, *values]
        name = "-n" if word.startswith("-n") else word.partition("=")[0]
        if word not in paths and name not in _NOT_REPEATED:
            yield from option


def _argument(config: pytest.Config, item: pytest.Item) -> str:
    """A test's node id, as it is to be given to pytest in the directory in which this one was started."""
    nodeid = str(item.nodeid)
    if getattr(config.option, "loadgroup", False) and not nodeid.endswith(item.name):
        nodeid = nodeid.rpartition("@")[0]  # pytest-xdist has added the group.
    path, separator, name = nodeid.partition("::")
    return f"{os.path.relpath(config.rootpath / path, config.invocation_params.dir)}{separator}{name}"


def _is_crash(ending: Ending | None) -> bool:
    """Whether that is one, and not a test that a limit of time has stopped, which may have gone on for ever or not."""
    return ending is not None and not isinstance(ending, RAN_ON)


def _limit_passed(ending: Ending | None) -> str:
    match ending:
        case Overdue(timeout=timeout):
            return f"timeout of {timeout:g} s passed"
        case Overspent(cpu=cpu):
            return f"cpu limit of {cpu:g} s passed"
        case _:
            return ""


def _key_of(item: pytest.Item) -> _Key | None:
    settings = item.stash.get(settings_key, None)
    if settings is None or reruns.applies(item) or exec_command(item.config):
        # What one attempt leaves in memory is not to reach the next one.
        return None
    node = _scope_node(item, settings.scope)
    return None if node is None else (node, settings.start, settings.limits.data_bytes, settings.limits.memory)


def _scope_node(item: pytest.Item, scope: str) -> pytest.Collector | None:
    """The node whose items share a child; None for a child of the item's own. As for fixtures of that scope."""
    match scope:
        case "session":
            return item.session
        case "package":
            return item.getparent(pytest.Package) or item.session
        case "module":
            return file_of(item)
        case "class":
            return item.getparent(pytest.Class)
        case _:
            return None


@contextmanager
def reporting_late(item: pytest.Item) -> Generator[None]:
    """Around reports of an item that is no longer the one that runs: a worker of pytest-xdist numbers them by that."""
    worker = interactor_of(item.config)
    if worker is None:
        yield
        return
    now, worker.item_index = worker.item_index, item.config.stash[children_key].place_of(item)
    try:
        yield
    finally:
        worker.item_index = now


class Unheard:
    """An item that runs once more, to see what becomes of it."""

    attempt = 0
    is_heard = False

    def __init__(self, item: pytest.Item) -> None:
        self.item = item
        self.phase_started_at = time.monotonic()
        settings = settings_of(item)
        timeout = settings.limits.timeout or _TRIAL_LIMITS.timeout
        limits = replace(settings.limits, timeout=timeout, clock_waits=False, dump_every=None)
        self.settings = replace(settings, limits=limits)

    def take(self, message: Message) -> None:
        """What is said has been said before."""

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """As above."""

    def end(self, remains: Remains) -> None:
        """As above."""


def _share(whole: int, worker: Mapping[str, Any]) -> int:
    """What one of pytest-xdist's workers has of a number: none knows what the others have left of it."""
    count: int = worker.get("workercount", 1)
    number: str = worker.get("workerid", "gw0").removeprefix("gw")
    # One that has a name of the user's gets none of what is left over.
    return whole // count + (number.isdecimal() and int(number) < whole % count)


def prepare_fork(config: pytest.Config) -> None:
    """What must be so in this process before it forks."""
    if faulthandler_timeout(config) > 0:
        # Armed around the protocol, here, by pytest: it must act in the child, and here it would end the session.
        faulthandler.cancel_dump_traceback_later()
    factory = getattr(config, "_tmp_path_factory", None)
    if factory is not None:
        try:
            factory.getbasetemp()
        except Exception:  # noqa: BLE001, S110 - a test that wants one fails by itself.
            pass
    config.stash[inside.outermost_key].stand_by()
    flush_all(config)


#: From the collection on.
births_key = pytest.StashKey[Births]()
children_key = pytest.StashKey[Children]()
