"""Whether the parent grows with the number of its children."""

from __future__ import annotations

from collections.abc import Iterator

from testing.bench import sessions
from testing.bench import table
from testing.bench.table import Row

CHILDREN = 10_000
#: Less than two pages for 1,000 children.
BOUND_BYTES = 8.0
#: What the process has in memory swings by more than that: what is free between what is allocated comes in whole pages.
ALLOCATED, RESIDENT = "in_use", "resident"

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
    bare = _sampled(tests, ("elsewhere", "sampler"))
    ours = _sampled(tests, ("faultguard", "sampler"), "--faultguard", "--faultguard-scope=function")
    allocated, resident = ([_growth(one, what) for one in (ours, bare)] for what in (ALLOCATED, RESIDENT))
    yield table.row(
        f"Growth of what pytest has allocated per child, from {tests // 2:,} to {tests:,} children, over what it keeps of a "
        "report",
        f"{allocated[0]:.1f} bytes ours, {allocated[1]:.1f} bytes of pytest's own; "
        f"of resident memory {resident[0]:.0f} and {resident[1]:.0f}",
        table.at_most(allocated[0] - allocated[1], BOUND_BYTES, " bytes"),
    )
    first_fds, most_fds = ours[0]["fds"], max(sample["fds"] for sample in ours)
    yield Row(
        what="Growth of its open files meanwhile",
        measured=f"{first_fds}, and {most_fds} at most",
        value=str(most_fds - first_fds),
        bound="0",
        holds=first_fds == most_fds,
    )


def _sampled(tests: int, plugins: tuple[str, ...], *args: str) -> list[dict[str, int]]:
    """The second half: what comes once, as when a cache of CPython's grows, does not grow with the number of children."""
    files = {"test_trivial.py": TESTS.format(tests=tests)}
    samples = sessions.run(files, *args, "-p", "no:terminal", plugins=plugins)
    samples = [sample for sample in samples if sample["tests"] >= tests // 2]
    assert samples[-1]["tests"] == samples[-1]["passed"] == tests
    return samples


def _growth(samples: list[dict[str, int]], what: str) -> float:
    """In bytes per test."""
    return table.slope([(sample["tests"], sample[what]) for sample in samples])
