"""Notes when each test ended; writes the pace at first and at last, and how many passed or crashed.

That is the pace of a thousand tests: of a long session, the fastest of the ten that come first, and last. A machine that
others use as well runs at half its speed now and then, for longer than one thousand takes.
"""

from __future__ import annotations

import json
import os
import time

import pytest

MANY = 1_000


class Pace:
    """The ends of the tests, on the monotonic clock."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.outcomes = {"passed": 0, "failed": 0, "skipped": 0}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.outcomes[report.outcome] += 1

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self) -> None:
        self.ends.append(time.monotonic())

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        many = min(MANY, len(self.ends) // 3)
        # Without the very first, which warm up.
        paced = range((len(self.ends) - 1) % many + many, len(self.ends), many)
        paces = [(self.ends[number] - self.ends[number - many]) / many for number in paced]
        near = -(-len(paces) // 10)
        measured = {"first": min(paces[:near]), "last": min(paces[-near:]), **self.outcomes}
        with open(os.environ["BENCH_WRITE"], "w") as file:
            json.dump(measured, file)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Pace())
