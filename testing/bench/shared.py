"""What a child costs that runs all tests of the session, against plain pytest."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

from testing.bench import sessions
from testing.bench import table
from testing.bench.table import Row

TRIVIAL_BOUND = 1.5
SPAWNED_BOUND = 1.8
SUITE_BOUND = 1.05
#: Of the last tests against the first: what would grow with their number would show here.
PACE_BOUND = 1.1
CRASH_BOUND = 20.0
#: By what the two ways differ; both load what the other one loads.
PLAIN = ("-p", "faultguard", "--no-faultguard")
SHARED = ("-p", "faultguard", "--faultguard")


def trivial(scale: float) -> Iterator[Row]:
    """Whole processes, in turn, the start of the interpreter and the collection included."""
    yield _whole("A whole process with {:,} trivial tests in one child, against plain pytest", TRIVIAL_BOUND, scale)


def spawned(scale: float) -> Iterator[Row]:
    """As above, with a fresh interpreter for them all: its start and its own collection are included."""
    what = 'The same in one fresh interpreter (``start="spawn"``), {:,} tests'
    yield _whole(what, SPAWNED_BOUND, scale, "--faultguard-start=spawn")


def _whole(what: str, bound: float, scale: float, *flags: str) -> Row:
    tests = max(50, round(2_000 * scale))
    measured, ratio = _paired({"test_trivial.py": _tests(tests, "pass")}, *flags, rounds=7)
    return table.row(what.format(tests), measured, table.at_most(ratio, bound))


def starts(scale: float) -> Iterator[Row]:
    """A child for each test: no bound was promised."""
    tests = max(5, round(40 * scale))
    for start in ("forkserver", "spawn"):
        files = {"test_trivial.py": _tests(tests, "pass")}
        args = ("--faultguard-scope=function", f"--faultguard-start={start}", "-q")
        measured = sessions.run(files, *SHARED, *args, plugins=("pace",))
        yield Row(
            what=f'A trivial test in a child of its own, ``start="{start}"``',
            measured="mean of one session",
            value=f"{measured['last'] * 1000:.1f} ms",
            bound="none promised",
            holds=True,
        )


def suite(scale: float) -> Iterator[Row]:
    """A library's own tests, which do something."""
    what = "NumPy's own tests (``numpy.linalg``, ``numpy.lib``) in one child, against plain pytest"
    if importlib.util.find_spec("numpy") is None:
        yield Row(what=what, measured="NumPy is not installed", value="", bound=f"≤ {SUITE_BOUND:g}", holds=None)
        return
    modules = ("numpy.linalg", "numpy.lib")
    chosen = ["-m", "not slow", *(["-k", "test_i0"] if scale < 0.5 else []), "--pyargs", *modules]
    measured, ratio = _paired({}, *chosen, rounds=5)
    yield table.row(what, measured, table.at_most(ratio, SUITE_BOUND))


def pace(scale: float) -> Iterator[Row]:
    """One long session."""
    tests = max(10_000, round(100_000 * scale))
    measured = sessions.run({"test_trivial.py": _tests(tests, "pass")}, *SHARED, "-q", plugins=("pace",))
    assert measured["passed"] == tests
    paces = measured["paces"]
    half = table.slope(list(enumerate(paces))) * (len(paces) - 1) / 2
    yield table.row(
        f"The pace at the end of {tests:,} trivial tests in one child, against that at the begin",
        f"{measured['last'] * 1000:.2f} ms a test at last; both against a loop that runs beside them",
        table.at_most((median(paces) + half) / (median(paces) - half), PACE_BOUND),
    )


def crashing(scale: float) -> Iterator[Row]:
    """Each is the first test of its child, and its last one."""
    tests = max(30, round(1_000 * scale))
    files = {"test_crash.py": _tests(tests, "os.kill(os.getpid(), 11)")}
    measured = sessions.run(files, *SHARED, "-q", "--tb=no", plugins=("pace",))
    assert measured["failed"] == tests
    alone = sessions.run(
        {"test_trivial.py": _tests(300, "pass")}, *SHARED, "--faultguard-scope=function", "-q", plugins=("pace",)
    )
    yield table.row(
        f"{tests:,} crashes in a row, each over a child's own start and end",
        f"{measured['last'] * 1000:.1f} ms a crash, {alone['last'] * 1000:.1f} ms a child that passes",
        table.at_most((measured["last"] - alone["last"]) * 1000, CRASH_BOUND, " ms"),
    )


def _tests(count: int, body: str) -> str:
    return (
        f"import os\nimport pytest\n\n@pytest.mark.parametrize('number', range({count}))\ndef test_it(number): {body}\n"
    )


def _paired(files: dict[str, str], *args: str, rounds: int) -> tuple[str, float]:
    """What both ways take, in words; and ours against plain pytest, the median of pairs that ran one after the other.

    A machine that others use as well is now fast and now slow, for longer than a pair takes: the medians of each way may
    come from different times. Both must have passed the same.
    """
    taken: dict[tuple[str, ...], list[float]] = {PLAIN: [], SHARED: []}
    passed: set[Any] = set()
    for number in range(rounds):
        # What gets slower meanwhile is so for each way in turn.
        for way in (PLAIN, SHARED)[:: -1 if number % 2 else 1]:
            started = time.monotonic()
            measured = sessions.run(files, *way, "-q", *args, plugins=("pace",))
            taken[way].append(time.monotonic() - started)
            passed.add((measured["passed"], measured["failed"]))
    assert len(passed) == 1
    ratio = median(ours / plain for ours, plain in zip(taken[SHARED], taken[PLAIN], strict=True))
    return f"{median(taken[SHARED]):.2f} s ours, {median(taken[PLAIN]):.2f} s plain pytest", ratio
