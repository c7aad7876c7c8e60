"""What pytest-timeout is told, and where that stands among our own settings."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from dataclasses import field
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_faultguard import options
from pytest_faultguard.alarms import Alarm
from pytest_faultguard.alarms import alarm_of
from pytest_faultguard.crash import Overdue
from pytest_faultguard.guard import Guard
from pytest_faultguard.guard import Limits
from pytest_faultguard.process.channel import Finished
from pytest_faultguard.process.channel import Kept
from pytest_faultguard.process.channel import Message
from pytest_faultguard.process.child import Line


@dataclass
class FakeConfig:
    command_line: dict[str, object] = field(default_factory=dict)
    ini: dict[str, object] = field(default_factory=dict)
    pluginmanager: pytest.PytestPluginManager = field(default_factory=pytest.PytestPluginManager)

    def getoption(self, name: str, default: object = None) -> object:
        return self.command_line.get(name, default)

    def getini(self, name: str) -> object:
        return self.ini.get(name, "")


@dataclass
class FakeItem:
    config: FakeConfig
    mark: SimpleNamespace | None = None
    nodeid: str = "test_it.py::test_it"

    def get_closest_marker(self, name: str) -> SimpleNamespace | None:
        assert name == "timeout"
        return self.mark


def mark(*args: object, **kwargs: object) -> SimpleNamespace:
    """As much of a mark as is looked at; the real name is not registered here."""
    return SimpleNamespace(args=args, kwargs=kwargs)


def item_told(timeout: float | None, *, marked: SimpleNamespace | None = None, func_only: bool = False) -> Any:
    """An item, beside a plugin that comes to that conclusion."""
    item = FakeItem(FakeConfig(), marked)
    settings = SimpleNamespace(timeout=timeout, func_only=func_only)
    item.config.pluginmanager.register(SimpleNamespace(_get_item_settings=lambda _: settings), "timeout")
    return item


def test_without_the_plugin_there_is_no_alarm() -> None:
    item: Any = FakeItem(FakeConfig(), mark(5))

    assert alarm_of(item) is None


def test_nothing_told_is_no_alarm() -> None:
    assert alarm_of(item_told(None)) is None


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.inf, math.nan])
def test_what_sets_no_alarm_is_no_limit(seconds: float) -> None:
    assert alarm_of(item_told(seconds)) == Alarm(seconds=0.0, func_only=False, distance=2)


@pytest.mark.parametrize(
    ("marked", "distance"),
    [
        (mark(5), 0),
        (mark(timeout=5), 0),
        (mark(None), 2),
        (mark(method="thread"), 2),
        (mark(func_only=True), 2),
    ],
)
def test_a_mark_without_a_time_is_no_place(marked: SimpleNamespace, distance: int) -> None:
    assert alarm_of(item_told(5.0, marked=marked, func_only=True)) == Alarm(
        seconds=5.0, func_only=True, distance=distance
    )


def test_environment_stands_for_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    item = item_told(5.0)
    item.config.command_line["timeout"] = 5.0
    told = [alarm_of(item)]
    del item.config.command_line["timeout"]
    monkeypatch.setenv("PYTEST_TIMEOUT", "5")
    told.append(alarm_of(item))

    assert told == [Alarm(seconds=5.0, func_only=False, distance=1)] * 2


@pytest.mark.parametrize("error", [TypeError, ValueError])
def test_a_wrong_mark_names_the_test(error: type[Exception]) -> None:
    def refuse(_: object) -> object:
        raise error("no such thing")

    item: Any = FakeItem(FakeConfig())
    item.config.pluginmanager.register(SimpleNamespace(_get_item_settings=refuse), "pytest_timeout")

    with pytest.raises(pytest.UsageError, match=r"^test_it\.py::test_it: timeout marker: no such thing$"):
        alarm_of(item)


#: By our marker, the distance of the alarm, our command line option and our ini setting: what counts.
PRECEDENCE = [
    (1, 0, None, "", 1),
    (None, 0, "2", "4", 9),
    (None, 1, "2", "4", 2),
    (None, 1, None, "4", 9),
    (None, 2, "2", "4", 2),
    (None, 2, None, "4", 4),
    (None, 2, None, "", 9),
    (None, None, None, "4", 4),
    (None, None, None, "", 0),
    (0, 0, None, "", 0),
]


@pytest.mark.parametrize(("marker", "distance", "command_line", "ini", "seconds"), PRECEDENCE)
def test_precedence(
    monkeypatch: pytest.MonkeyPatch,
    marker: float | None,
    distance: int | None,
    command_line: str | None,
    ini: str,
    seconds: float,
) -> None:
    """Ours, then its own, at each distance; and ``func_only`` goes with the time that it was said for."""
    alarm = None if distance is None else Alarm(seconds=9.0, func_only=True, distance=distance)
    monkeypatch.setattr(options, "alarm_of", lambda _: alarm)
    item: Any = FakeItem(FakeConfig({"faultguard_timeout": command_line}, {"faultguard_timeout": ini}))

    assert options._deadline(item, [{"timeout": marker}]) == (seconds, seconds == 9)


@pytest.mark.parametrize(("hangs", "ending"), [(True, Overdue(timeout=0.2, stopped_by="SIGTERM")), (False, None)])
def test_a_waiting_clock_counts_what_it_was_started_for(hangs: bool, ending: Overdue | None) -> None:
    """What ``func_only`` rests on: neither what comes before nor what comes behind has a limit."""

    def take(message: Message) -> None:
        if isinstance(message, Kept):
            if message.attributes["begins"]:
                guard.start_clock(time.monotonic())
            else:
                guard.stop_clock()

    def target(line: Line) -> None:
        time.sleep(0.3)
        line.sender.send(Kept(attributes={"begins": True}))
        if hangs:
            time.sleep(600)
        line.sender.send(Kept(attributes={"begins": False}))
        time.sleep(0.3)
        line.sender.send(Finished(shouldstop=False, shouldfail=False))

    guard = Guard(Limits(timeout=0.2, clock_waits=True), take, lambda _: None)
    remains = guard.run(target)

    assert remains.ending == ending
    assert remains.finished is not hangs
