"""What a child costs: ours against a bare fork and against no fork at all."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from collections.abc import Mapping
from statistics import median

from testing.bench import sessions
from testing.bench import table
from testing.bench.table import Row

BOUND = 1.15
WAYS = ("guard", "fork", "plain")
#: Each way alone; the plugin is not even loaded where it does not guard.
PLUGINS = {"guard": ("faultguard", "stopwatch"), "fork": ("stopwatch",), "plain": ("stopwatch",)}


def fork(scale: float) -> Iterator[Row]:
    """One session, where every third test is run in the same way."""
    yield _in_turn("A trivial test in a fork of its own, against a bare fork", scale, {})


def fork_with_numpy(scale: float) -> Iterator[Row]:
    """The same with what NumPy adds to the memory that is forked."""
    what = "A trivial test in a fork of its own, with NumPy loaded, against a bare fork"
    if importlib.util.find_spec("numpy") is None:
        yield Row(what=what, measured="NumPy is not installed", value="", bound=f"≤ {BOUND:g}", holds=None)
    else:
        yield _in_turn(what, scale, {"BENCH_NUMPY": "1"})


def whole_sessions(scale: float) -> Iterator[Row]:
    """Sessions one after the other, each against the same session with a single test."""
    tests, rounds = max(10, round(300 * scale)), 5
    ratios: list[float] = []
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            taken[way].append(_session_seconds(way, tests) - _session_seconds(way, 1))
        ratios.append(taken["guard"][-1] / taken["fork"][-1])
    each = {way: median(seconds) / (tests - 1) * 1000 for way, seconds in taken.items()}
    yield table.row(
        f"A session of {tests} trivial tests, less its start, against a bare fork",
        _told(each),
        table.at_most(median(ratios), BOUND),
    )


def _in_turn(what: str, scale: float, env: Mapping[str, str]) -> Row:
    tests, rounds = max(30, round(450 * scale)), 3
    ratios: list[float] = []
    medians: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        measured = sessions.run(
            {"test_trivial.py": _trivial(tests)},
            plugins=("faultguard", "stopwatch"),
            env={"BENCH_WAYS": ",".join(WAYS), **env},
        )
        assert measured["passed"] == tests
        for way in WAYS:
            medians[way].append(median(measured["times"][way]) * 1000)
        ratios.append(medians["guard"][-1] / medians["fork"][-1])
    return table.row(
        what, _told({way: median(each) for way, each in medians.items()}), table.at_most(median(ratios), BOUND)
    )


def _session_seconds(way: str, tests: int) -> float:
    started = time.monotonic()
    measured = sessions.run({"test_trivial.py": _trivial(tests)}, plugins=PLUGINS[way], env={"BENCH_WAYS": way})
    seconds = time.monotonic() - started
    assert measured["passed"] == tests
    return seconds


def _trivial(tests: int) -> str:
    return f"import pytest\n\n@pytest.mark.parametrize('number', range({tests}))\ndef test_it(number): pass\n"


def _told(each: Mapping[str, float]) -> str:
    return f"{each['guard']:.2f} ms ours, {each['fork']:.2f} ms bare fork, {each['plain']:.2f} ms plain pytest"
