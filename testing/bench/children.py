"""Whether the parent grows with the number of its children."""

from __future__ import annotations

from collections.abc import Iterator

from testing.bench import sessions
from testing.bench import table
from testing.bench.table import Row

CHILDREN = 10_000
#: Less than two pages for 1,000 children.
BOUND_BYTES = 8.0

TESTS = """
import pytest


@pytest.mark.parametrize("number", range({tests}))
def test_it(number): pass
"""


def ten_thousand(scale: float) -> Iterator[Row]:
    """One session with as many children; nothing in it keeps reports, as the terminal would."""
    tests = 2 * max(1_000, round(CHILDREN / 2 * scale))
    # Plain pytest grows by what a test leaves in its process, which ours does not run. What pytest itself keeps of a test
    # that ran elsewhere is what it grows by when it logs reports of which it has run none.
    bare, _, _ = _grown(tests, ("elsewhere", "sampler"))
    ours, first_fds, most_fds = _grown(tests, ("faultguard", "sampler"), "--faultguard", "--faultguard-scope=function")
    yield table.row(
        f"Growth of pytest's memory per child, from {tests // 2:,} to {tests:,} children, over what pytest keeps of a report",
        f"{ours:.1f} bytes ours, {bare:.1f} bytes of pytest's own",
        table.at_most(ours - bare, BOUND_BYTES, " bytes"),
    )
    yield Row(
        what="Growth of its open files meanwhile",
        measured=f"{first_fds}, and {most_fds} at most",
        value=str(most_fds - first_fds),
        bound="0",
        holds=first_fds == most_fds,
    )


def _grown(tests: int, plugins: tuple[str, ...], *args: str) -> tuple[float, int, int]:
    """In the second half: bytes per test; and the number of open files, at first and at most.

    What comes once, as when a cache of CPython's grows, does not grow with the number of children.
    """
    files = {"test_trivial.py": TESTS.format(tests=tests)}
    samples = sessions.run(files, *args, "-p", "no:terminal", plugins=plugins)
    first, *_, last = samples = [sample for sample in samples if sample["tests"] >= tests // 2]
    assert last["tests"] == last["passed"] == tests
    return (
        table.slope([(sample["tests"], sample["resident"]) for sample in samples]),
        first["fds"],
        max(sample["fds"] for sample in samples),
    )
