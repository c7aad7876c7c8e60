"""Reads, every 500 tests, how much memory and how many descriptors this process has."""

from __future__ import annotations

import gc
import json
import os

import pytest

EVERY = 500


class Sampler:
    """Counts the tests that ended and those that passed."""

    def __init__(self) -> None:
        self.samples: list[dict[str, int]] = []
        self.tests = 0
        self.passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed += report.when == "call" and report.passed

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logfinish(self) -> None:
        self.tests += 1
        if self.tests % EVERY == 0:
            self.samples.append(self.sample())

    def sample(self) -> dict[str, int]:
        """What there is now; garbage that waits for its collection is not growth."""
        gc.collect()
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        fds = len(os.listdir("/proc/self/fd"))
        return {"tests": self.tests, "passed": self.passed, "resident": resident, "fds": fds}

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        with open(os.environ["BENCH_WRITE"], "w") as file:
            json.dump(self.samples, file)


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Sampler())
