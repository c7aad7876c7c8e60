"""The search for what a crash needs: minimal, cheap, and honest where the crash is not always there."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_faultguard.triage.bisect import Flaky
from pytest_faultguard.triage.bisect import Needed
from pytest_faultguard.triage.bisect import Unfinished
from pytest_faultguard.triage.bisect import minimal


class Oracle:
    """Crashes where all that is needed ran before, and remembers what it was asked."""

    def __init__(self, *needed: int) -> None:
        self._needed = set(needed)
        self.asked: list[tuple[int, ...]] = []

    def __call__(self, places: Sequence[int]) -> bool:
        self.asked.append(tuple(places))
        return self._needed <= set(places)


@given(st.sets(st.integers(0, 199), min_size=1, max_size=4))
def test_finds_exactly_what_is_needed(needed: set[int]) -> None:
    """In their order, each with about log2 of 200 questions."""
    oracle = Oracle(*needed)

    found = minimal(200, oracle, 100)

    assert found == Needed(places=tuple(sorted(needed)), runs=len(oracle.asked))
    assert len(oracle.asked) <= 2 + 10 * len(needed)
    assert all(list(asked) == sorted(asked) for asked in oracle.asked)


def test_two_of_two_hundred_within_22_questions() -> None:
    """What a person would take a day for."""
    oracle = Oracle(17, 123)

    assert minimal(200, oracle, 100) == Needed(places=(17, 123), runs=len(oracle.asked))
    assert len(oracle.asked) <= 22


@pytest.mark.parametrize("after", [0, 1, 5])
def test_crash_that_does_not_come_again_is_flaky(after: int) -> None:
    """Wherever in the search that shows."""
    asked = []

    def crashes(places: Sequence[int]) -> bool:
        asked.append(places)
        return len(asked) <= after

    assert isinstance(minimal(100, crashes, 100), Flaky)


@pytest.mark.parametrize("budget", range(1, 30))
def test_budget_is_kept(budget: int) -> None:
    """Wherever in the search it ends; what was found by then still crashes."""
    oracle = Oracle(3, 50, 90)

    found = minimal(100, oracle, budget)

    assert not isinstance(found, Flaky)
    assert found.runs == len(oracle.asked) <= budget
    assert {3, 50, 90} <= set(found.places)
    assert isinstance(found, Unfinished) == (budget < 24)


def test_one_predecessor() -> None:
    """It is needed, or the crash was luck."""
    assert minimal(1, Oracle(0), 10) == Needed(places=(0,), runs=3)
