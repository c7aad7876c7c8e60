"""Two sessions of a suite side by side: what was not the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field

from testing.parity.sessions import Phase
from testing.parity.sessions import Session
from testing.parity.suites import Suite
from testing.parity.suites import Ways

NONE = "no report"
HERE = "pytest's"
THERE = "a child's"


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A difference that is known, and why it is right that there is one."""

    suite: str
    #: Of the ids, as in ``re.fullmatch``.
    pattern: str
    why: str
    #: Whether it is there when the tests are guarded so.
    applies: Callable[[Ways], bool] = lambda _: True

    def fits(self, suite: str, test: str, ways: Ways) -> bool:
        """Whether this is about the test."""
        return suite == self.suite and self.applies(ways) and re.fullmatch(self.pattern, test) is not None


def _is_born_before(ways: Ways) -> bool:
    """Whether a child has nothing of what the tests of its module that are not guarded have left."""
    return ways.is_clean or ways.scope in {"module", "package", "session"}


_MEMORY = (
    "what a test that is not guarded leaves in memory is not there in a child that was born before, or starts clean"
)
_FIXTURES = "a wide fixture is set up and ends once in each process that needs it, and writes its lines there"
#: Every difference that there may be. One that is no longer there is an error as well.
EXPLAINED: tuple[Explained, ...] = (
    Explained(
        suite="ordered",
        pattern=r"test_steps\.py::TestGuarded::test_step",
        applies=lambda ways: ways.scope == "function",
        why=(
            "``pytest_runtest_makereport`` of its conftest.py keeps a failure in memory, which is a child's; "
            "``pytest_runtest_logreport`` is called in the test process, and what it keeps stays"
        ),
    ),
    Explained(
        suite="ordered",
        pattern=r"test_steps\.py::TestReported::test_step",
        applies=lambda ways: ways.is_clean or ways.scope != "function",
        why=(
            "``pytest_runtest_logreport`` is called in pytest's own process, and what it keeps does not reach a child "
            "that was born before, or starts clean"
        ),
    ),
    Explained(
        suite="ordered",
        pattern=(
            r"test_state\.py::(TestLater::test_guarded_has_all|test_guarded_sees_who_holds_it"
            r"|test_guarded_has_it_collected)"
        ),
        applies=_is_born_before,
        why=_MEMORY,
    ),
    Explained(
        suite="ordered",
        pattern=r"test_state\.py::test_guarded_has_it|test_steps\.py::TestUnguarded::test_guarded_step",
        applies=lambda ways: ways.is_clean or ways.scope in {"package", "session"},
        why=_MEMORY,
    ),
    Explained(
        suite="ordered",
        pattern=r"test_fixtures_ended\.py::.*",
        applies=_is_born_before,
        why=_FIXTURES,
    ),
    Explained(
        suite="ordered",
        pattern=r"test_fixtures\.py::(TestShelf::test_is_put_up|test_last_of_each)\[.\]",
        applies=lambda ways: ways.is_clean and ways.scope in {"function", "class"},
        why=_FIXTURES,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What was not the same with and without the guard."""

    test: str
    when: str
    plain: str
    guarded: str

    def __str__(self) -> str:
        return f"{self.test} [{self.when}]: plain {self.plain}, guarded {self.guarded}"


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What came out for one suite."""

    suite: Suite
    ways: Ways
    collected: int
    tests: int
    phases: int
    unexplained: list[Difference] = field(default_factory=list)
    explained: list[tuple[Difference, Explained]] = field(default_factory=list)
    #: Different without the guard, too.
    flaky: list[Difference] = field(default_factory=list)
    #: What ran, and did not differ.
    stale: list[Explained] = field(default_factory=list)
    #: Time of the guarded tests over that of the plain ones.
    ratio: float

    @property
    def holds(self) -> bool:
        """Whether all is as it should be."""
        return not (self.unexplained or self.stale)


def compare(suite: Suite, ways: Ways, plain: Session, guarded: Session, again: Session) -> Parity:
    """Judge a guarded session between two plain ones."""
    parity = Parity(
        suite=suite,
        ways=ways,
        collected=plain.collected,
        tests=len(plain.tests),
        phases=len(plain.outcomes),
        ratio=guarded.seconds / ((plain.seconds + again.seconds) / 2),
    )
    parity.unexplained.extend(_misplaced(suite, plain, guarded, again))
    parity.flaky.extend(_differences(plain, again))
    # What is as in one of the plain sessions is not the guard's.
    in_both = {(one.test, one.when) for one in _differences(again, guarded)}
    for one in _differences(plain, guarded):
        if (one.test, one.when) not in in_both:
            continue
        why = next((why for why in EXPLAINED if why.fits(suite.name, one.test, ways)), None)
        if why is None:
            parity.unexplained.append(one)
        else:
            parity.explained.append((one, why))
    seen = [why for _, why in parity.explained]
    unseen = (why for why in EXPLAINED if why not in seen)
    parity.stale.extend(why for why in unseen if any(why.fits(suite.name, test, ways) for test in plain.tests))
    return parity


def _misplaced(suite: Suite, plain: Session, guarded: Session, again: Session) -> Iterator[Difference]:
    """Tests that ran in a process in which they should not; of a session that guards nothing all is the same."""
    unguarded = plain.guarded | again.guarded
    for test in dict.fromkeys((*plain.tests, *guarded.tests)):
        wanted = THERE if suite.guard or test in guarded.marked else HERE
        first = THERE if test in unguarded else HERE
        second = THERE if test in guarded.guarded else HERE
        if first != HERE or (test in guarded.tests and second != wanted):
            yield Difference(test=test, when="process", plain=first, guarded=second)


def _differences(one: Session, other: Session) -> Iterator[Difference]:
    for phase in _either(one, other):
        test, when, _ = phase
        first, second = one.outcomes.get(phase, NONE), other.outcomes.get(phase, NONE)
        if first != second:
            yield Difference(test=test, when=when, plain=first, guarded=second)
    order = [phase for phase in one.outcomes if phase in other.outcomes]
    other_order = [phase for phase in other.outcomes if phase in one.outcomes]
    moved = next((pair for pair in zip(order, other_order, strict=True) if pair[0] != pair[1]), None)
    if moved is not None:
        yield Difference(test="the order", when="session", plain=_told(moved[0]), guarded=_told(moved[1]))
    if one.collected != other.collected:
        yield Difference(test="collected", when="session", plain=str(one.collected), guarded=str(other.collected))
    if one.status != other.status:
        yield Difference(test="exit status", when="session", plain=str(one.status), guarded=str(other.status))


def _either(one: Session, other: Session) -> Iterator[Phase]:
    yield from one.outcomes
    yield from (phase for phase in other.outcomes if phase not in one.outcomes)


def _told(phase: Phase) -> str:
    return f"{phase[0]} [{phase[1]}]"
