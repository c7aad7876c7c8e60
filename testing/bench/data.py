"""An assignment to ``faultguard_data``, against the way of its ancestor: pickled, then sent to a manager's dict."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import MutableMapping
from statistics import median
from typing import Any

from pytest_faultguard.evidence.journal import Journal
from testing.bench import table
from testing.bench.table import Row

ROUNDS = 15
SMALL = "An assignment of a small int to ``faultguard_data``, against its ancestor's way"
SMALL_BOUND = 15.0
LARGE = "An assignment of an array of 1 MB, against the ancestor's way"
LARGE_BOUND = 5.0


def assignments(scale: float) -> Iterator[Row]:
    """Both ways in turn, in one process."""
    journal = Journal.create()
    journal.claim()
    with multiprocessing.Manager() as manager:
        theirs = manager.dict()
        try:
            yield _row(SMALL, journal, theirs, 7, round(500 * scale), SMALL_BOUND)
            try:
                import numpy as np
            except ImportError:
                why = "NumPy is not installed"
                yield Row(what=LARGE, measured=why, value="", bound=f"≥ {LARGE_BOUND:g} x", holds=None)
            else:
                array = np.arange(131_072, dtype=np.float64)
                yield _row(LARGE, journal, theirs, array, round(20 * scale), LARGE_BOUND)
        finally:
            journal.close()


def _row(
    what: str, journal: Journal, theirs: MutableMapping[str, bytes], value: object, times: int, bound: float
) -> Row:
    def ours() -> None:
        journal["key"] = value

    def ancestors() -> None:
        theirs["key"] = pickle.dumps(value)

    mine, other = [], []
    for _ in range(ROUNDS):
        mine.append(_each(ours, max(1, times) * 10))
        other.append(_each(ancestors, max(1, times)))
    ratio = median(one / another for one, another in zip(other, mine, strict=True))
    return table.row(what, f"{_micro(mine)} ours, {_micro(other)} the ancestor's", table.at_least(ratio, bound, " x"))


def _each(assign: Callable[[], None], times: int) -> float:
    assign()
    started = time.perf_counter()
    for _ in range(times):
        assign()
    return (time.perf_counter() - started) / times


def _micro(seconds: list[Any]) -> str:
    return f"{median(seconds) * 1e6:.1f} µs"
