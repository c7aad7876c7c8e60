"""Notes when each test ended; writes the pace of the first and of the last thousand, and how many passed or crashed."""

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
        first, last = self.ends[many : 2 * many], self.ends[-many:]
        measured = {"first": (first[-1] - first[0]) / many, "last": (last[-1] - last[0]) / many, **self.outcomes}
        with open(os.environ["BENCH_WRITE"], "w") as file:
            json.dump(measured, file)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Pace())
