"""How soon a session goes on after a crash and after a timeout."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from testing import programs
from testing.bench import sessions
from testing.bench import table
from testing.bench.table import Row

NEXT_BOUND_MS = 20.0
TIMEOUT_BOUND = 0.1
TIMEOUT = 0.5
GRACE = 0.3

CRASHING = """
import ctypes

import instants
import pytest

pytestmark = pytest.mark.faultguard
"""
#: In this order in the file, so that each crash is followed by its test.
PAIR = """

def test_crash_{number}():
    print("some output")
    instants.note({number})
    ctypes.string_at(0)


def test_next_{number}():
    instants.note({number} + 1)
"""

HANGING = f"""
import signal
import time

import pytest
from programs import pylib

pytestmark = pytest.mark.faultguard(timeout={TIMEOUT}, grace={GRACE})


def python_hang():
    time.sleep(60)


def native_loop():
    pylib.loop_gil()


def ignoring_sigterm():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


@pytest.mark.parametrize("number", range({{rounds}}))
@pytest.mark.parametrize("hang", [python_hang, native_loop, ignoring_sigterm])
def test_hang(number, hang):
    hang()
"""


def next_start(scale: float) -> Iterator[Row]:
    """From the instruction before the crash to the first one of the next test's body, which runs in a child as well."""
    pairs = max(3, round(40 * scale))
    text = CRASHING + "".join(PAIR.format(number=number) for number in range(0, 2 * pairs, 2))
    measured = sessions.run({"test_crashing.py": text}, plugins=("faultguard", "instants"))["instants"][: 2 * pairs]
    passed = sorted((after - crash) * 1000 for crash, after in zip(measured[::2], measured[1::2], strict=True))
    yield table.row(
        "From a segfault to the first line of the next test, guarded as well",
        f"median of {pairs}; {passed[0]:.1f} to {passed[-1]:.1f} ms",
        table.at_most(median(passed), NEXT_BOUND_MS, " ms"),
    )


def timeouts(scale: float) -> Iterator[Row]:
    """How long after its deadline, and after the grace where that was needed, a test is over; its stacks included."""
    rounds = max(1, round(7 * scale))
    with tempfile.TemporaryDirectory(prefix="faultguard-bench-") as name:
        library = programs.build(Path(name))
        files = {"programs.py": programs.module(library), "test_hanging.py": HANGING.format(rounds=rounds)}
        protocols = sessions.run(files, plugins=("faultguard", "instants"))["protocols"]
    for hang, grace in (("python_hang", 0.0), ("native_loop", 0.0), ("ignoring_sigterm", GRACE)):
        over = [seconds - TIMEOUT - grace for test, seconds in protocols.items() if hang in test]
        assert len(over) == rounds
        assert min(over) > 0
        yield table.row(
            f"A timeout, over its deadline and grace, stacks included: {hang.replace('_', ' ')}",
            f"median of {rounds}; at most {max(over):.3f} s",
            table.at_most(median(over), TIMEOUT_BOUND, " s"),
        )
