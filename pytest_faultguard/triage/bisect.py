"""Which of the tests that ran before a crash are needed for it: a search that asks as seldom as it can."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias
from typing import final


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """A minimal set: without any one of these the crash did not come."""

    #: Places in the trail, in the order in which they ran.
    places: tuple[int, ...]
    runs: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Flaky:
    """The same tests crashed once and did not another time, so that no search can say anything."""

    runs: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """The budget was used up before the set was minimal: it crashes, and may be larger than it need be."""

    places: tuple[int, ...]
    runs: int


Found: TypeAlias = Needed | Flaky | Unfinished


def minimal(count: int, crashes: Callable[[Sequence[int]], bool], budget: int) -> Found:
    """Find a minimal set of ``count`` predecessors after which the crash comes, asking ``crashes`` at most ``budget`` times.

    Each needed one is the last of the shortest prefix that crashes together with those that were found before, and a
    binary search finds that: about ``log2(count) + 1`` questions for each, as in A. Zeller, R. Hildebrandt: "Simplifying
    and Isolating Failure-Inducing Input" (2002), for the case of few causes.
    """
    found: list[int] = []
    limit, runs = count, 0
    #: The smallest of those that crashed; it shrinks, or stays.
    crashing = tuple(range(count))

    def ask(places: Sequence[int]) -> bool:
        nonlocal runs, crashing
        if runs >= budget:
            raise _SpentError
        runs += 1
        answer = crashes(places)
        if answer:
            crashing = tuple(places)
        return answer

    try:
        while not (found and ask(found)):
            # All the time it crashes with `high` of them before what was found, and not with `low`.
            low, high = 0, limit
            if not ask([*range(limit), *found]):
                return Flaky(runs=runs)
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if ask([*range(middle), *found]) else (middle, high)
            if high == 0:
                return Flaky(runs=runs)  # Nothing is left to add.
            limit = high - 1
            found.insert(0, limit)
        # What crashed in the search must crash again, or it was luck.
        return Needed(places=tuple(found), runs=runs) if ask(found) else Flaky(runs=runs)
    except _SpentError:
        return Unfinished(places=crashing, runs=runs)


class _SpentError(Exception):
    """The budget is used up."""
