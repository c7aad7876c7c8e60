"""Gives each test one of the ways to be run, in turn, and times it around ``pytest_runtest_protocol``.

The ways stand in ``BENCH_WAYS``: ``guard`` (ours), ``fork`` (the floor), ``plain``. With all three in one session, slow
and quick moments of the machine meet each of them alike.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from typing import Literal

import barefork  # type: ignore[import-not-found]  # From this directory, which is on the path of the inner session.
import pytest

if os.environ.get("BENCH_NUMPY"):
    import numpy as np  # noqa: F401 - what a scientific project has in its memory at a fork.

WAYS = os.environ["BENCH_WAYS"].split(",")
way_key = pytest.StashKey[str]()
times: dict[str, list[float]] = {way: [] for way in WAYS}
loop: list[float] = []
outcomes: list[str] = []


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for number, item in enumerate(items):
        way = item.stash[way_key] = WAYS[number % len(WAYS)]
        if way == "guard":
            item.add_marker("faultguard")


class Fork:
    """Registered late, so that it comes before the guard's own."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Literal[True] | None:
        if item.stash[way_key] != "fork":
            return None
        barefork.run(item, nextitem)
        return True


class Clock:
    """The outermost of all."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        started = time.perf_counter()
        result = yield
        times[item.stash[way_key]].append(time.perf_counter() - started)
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        started = time.perf_counter()
        result = yield
        loop.append(time.perf_counter() - started)
        return result


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Fork())
    config.pluginmanager.register(Clock())


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        outcomes.append(report.outcome)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    with open(os.environ["BENCH_WRITE"], "w") as file:
        json.dump({"times": times, "loop": sum(loop), "passed": outcomes.count("passed")}, file)
