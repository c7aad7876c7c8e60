"""How pytest-rerunfailures is had to run an item through somebody else's hands."""

from __future__ import annotations

import types
from typing import Any

import pytest

from pytest_faultguard import reruns

LOOP = """
runtestprotocol = get_reruns_condition = None

def get_reruns_count(item):
    return 1

def pytest_runtest_protocol(item, nextitem):
    item.execution_count = 0
    while True:
        item.execution_count += 1
        item.reports = runtestprotocol(item, nextitem=nextitem, log=False)
        if item.execution_count == 2:
            return True
"""
ANOTHER_LOOP = """
def pytest_runtest_protocol(item, nextitem):
    raise AssertionError("runs the item in this process")
"""


class Item:
    """As much of an item as this needs."""

    def __init__(self, source: str | None) -> None:
        self.config = types.SimpleNamespace(pluginmanager=pytest.PytestPluginManager())
        self.reports: list[object] = []
        if source is not None:
            self.plugin = types.ModuleType("pytest_rerunfailures")
            exec(source, vars(self.plugin))
            self.config.pluginmanager.register(self.plugin, "rerunfailures")


def never(*_: object) -> Any:
    raise AssertionError


def test_its_loop_runs_our_attempts() -> None:
    """Each is told whether another one may follow; the plugin itself is left as it is."""
    item: Any = Item(LOOP)
    told: list[bool] = []

    def attempt(may_be_followed: bool) -> list[Any]:
        told.append(may_be_followed)
        return ["report"]

    assert reruns.run(item, None, attempt, never)
    assert told == [True, False]
    assert item.reports == ["report"]
    assert item.plugin.runtestprotocol is None


@pytest.mark.parametrize("source", [None, ANOTHER_LOOP])
def test_an_unknown_loop_runs_nothing(source: str | None) -> None:
    """Without the plugin, or with a version that would run the item in this process: the item is ours."""
    item: Any = Item(source)

    assert not reruns.run(item, None, never, never)


def test_in_a_child_its_hooks_expect_no_other_attempt() -> None:
    """Of this item, and of no other one: a session that the test itself runs is as ever."""
    item: Any = Item(LOOP)
    for attempt in (1, 2):
        reruns.enter_child(item, attempt)

    assert vars(item)["execution_count"] == 2
    assert item.plugin.get_reruns_count(item) is None
    assert item.plugin.get_reruns_count(object()) == 1
