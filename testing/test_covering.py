"""The cases of an acceptance test that run are enough."""

from __future__ import annotations

from itertools import combinations
from itertools import product

import pytest

from testing.covering import covering

VALUES = {"run": 2, "scope": 5, "start": 3, "how": 4}
CASES = [dict(zip(VALUES, values, strict=True)) for values in product(*map(range, VALUES.values()))]


@pytest.mark.parametrize(("strength", "at_most"), [(1, 5), (2, 20), (3, 60), (4, 120)])
def test_all_that_can_meet_meets(strength: int, at_most: int) -> None:
    """Of a product, in as few cases as its largest parameters need."""
    chosen = [CASES[number] for number in covering(CASES, strength)]

    for names in combinations(VALUES, strength):
        seen = {tuple(case[name] for name in names) for case in chosen}
        assert seen == set(product(*(range(VALUES[name]) for name in names)))
    assert len(chosen) <= at_most


def test_two_parameters_keep_all_cases() -> None:
    """Also those that are always given together, which are one."""
    cases = [{"run": run, "text": text, "told": text} for run in range(2) for text in range(7)]

    assert covering(cases) == list(range(14))


def test_what_is_missing_is_not_missed() -> None:
    """Of what is left of a product; a test without parameters is one case."""
    cases = [case for case in CASES if case["run"] == case["start"]]
    chosen = [cases[number] for number in covering(cases)]

    assert {(case["run"], case["start"]) for case in chosen} == {(0, 0), (1, 1)}
    assert covering([{}]) == [0]
