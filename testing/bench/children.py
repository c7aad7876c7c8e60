"""Whether the parent grows with the number of its children."""

from __future__ import annotations

from collections.abc import Iterator

from testing.bench import sessions
from testing.bench import table
from testing.bench.table import Row

CHILDREN = 10_000
#: By then everything has been imported and every cache is warm.
WARM = 1_000
#: Less than two pages for 1,000 children.
BOUND_BYTES = 8.0

TESTS = """
import pytest


@pytest.mark.parametrize("number", range({tests}))
def test_it(number): pass
"""


def ten_thousand(scale: float) -> Iterator[Row]:
    """One session with as many children; nothing in it keeps reports, as the terminal would."""
    tests = max(2 * WARM, round(CHILDREN * scale))
    plain, _, _ = _grown(tests, ("sampler",))
    ours, first_fds, last_fds = _grown(tests, ("faultguard", "sampler"), "--faultguard", "--faultguard-scope=function")
    yield table.row(
        f"Growth of pytest's memory per child, from {WARM:,} to {tests:,} children, over plain pytest's per test",
        f"{ours:.1f} bytes ours, {plain:.1f} bytes plain pytest",
        table.at_most(ours - plain, BOUND_BYTES, " bytes"),
    )
    yield Row(
        what="Growth of its open files meanwhile",
        measured=f"{first_fds} and {last_fds}",
        value=str(last_fds - first_fds),
        bound="0",
        holds=first_fds == last_fds,
    )


def _grown(tests: int, plugins: tuple[str, ...], *args: str) -> tuple[float, int, int]:
    """Bytes per test, and the numbers of open files, from the time when all was warm to the end."""
    files = {"test_trivial.py": TESTS.format(tests=tests)}
    samples = sessions.run(files, *args, "-p", "no:terminal", plugins=plugins)
    first = next(sample for sample in samples if sample["tests"] == WARM)
    last = samples[-1]
    assert last["tests"] == last["passed"] == tests
    return (last["resident"] - first["resident"]) / (tests - WARM), first["fds"], last["fds"]
