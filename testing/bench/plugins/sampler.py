"""Reads, every 500 tests, how much memory and how many descriptors this process has."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import sys

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
        return {"tests": self.tests, "passed": self.passed, "resident": resident, "in_use": in_use(), "fds": fds}

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        with open(os.environ["BENCH_WRITE"], "w") as file:
            json.dump(self.samples, file)


class Mallinfo2(ctypes.Structure):
    """``struct mallinfo2`` (mallinfo(3))."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    )


def in_use() -> int:
    """The bytes that are allocated, of Python's own allocator and of C's; not what either keeps for later, in pages."""
    python = re.search(r"([\d,]+)\n*$", _line_of_debug_malloc_stats("# bytes in allocated blocks"))
    assert python is not None
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo2
    c = mallinfo2()
    return int(python[1].replace(",", "")) + int(c.uordblks) + int(c.hblkhd)


def _line_of_debug_malloc_stats(start: str) -> str:
    with open(os.memfd_create("stats"), "r+") as file:
        stderr = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            sys._debugmallocstats()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        file.seek(0)
        return next(line for line in file if line.startswith(start))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Sampler())
