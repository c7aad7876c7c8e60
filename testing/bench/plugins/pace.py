"""Notes when each test ended; writes the pace of the last thousand and of all, and how many passed or crashed.

A machine that others use as well runs at half its speed now and then, for longer than thousands of tests take. So the
pace of each thousand is taken as a multiple of what a loop takes that is run before and after it.
"""

from __future__ import annotations

import json
import os
import time
from itertools import pairwise

import pytest

MANY = 1_000
#: The steps of the loop, some milliseconds.
STEPS = 300_000


class Pace:
    """The ends of the tests, on the monotonic clock."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        #: What the loop has taken after each thousand.
        self.loops: list[float] = []
        self.outcomes = {"passed": 0, "failed": 0, "skipped": 0}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.outcomes[report.outcome] += 1

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self) -> None:
        self.ends.append(time.monotonic())
        if len(self.ends) % MANY == 0:
            self.loops.append(_loop_seconds())

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        many = min(MANY, len(self.ends) // 3)
        measured = {"last": (self.ends[-1] - self.ends[-1 - many]) / many, "paces": self.paces(), **self.outcomes}
        with open(os.environ["BENCH_WRITE"], "w") as file:
            json.dump(measured, file)

    def paces(self) -> list[float]:
        """That of each thousand but the very first, which warms up."""
        lasts = self.ends[MANY - 1 :: MANY]
        taken = [after - before for before, after in pairwise(lasts)]
        loops = [(before + after) / 2 for before, after in pairwise(self.loops)]
        return [seconds / loop for seconds, loop in zip(taken, loops, strict=True)]


def _loop_seconds() -> float:
    started = time.perf_counter()
    for _ in range(STEPS):
        pass
    return time.perf_counter() - started


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Pace())
