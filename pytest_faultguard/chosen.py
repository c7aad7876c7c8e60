"""Which tests ``--faultguard-auto`` guards besides the marked ones, and the list of those that crashed."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any
from typing import final

import pytest

from pytest_faultguard.imports import Imports
from pytest_faultguard.options import auto_modules
from pytest_faultguard.options import is_auto

#: Where pytest's cache has the list.
_CACHE_KEY = "faultguard/crashed"
#: Where a worker of pytest-xdist has it: its own cache may be on another machine.
_WORKER_KEY = "faultguard_crashed"
#: The attribute of a report: its test had crashed before and is guarded.
_GUARDED = "faultguard_guarded"


def crashed_before(config: pytest.Config) -> frozenset[str]:
    """The node ids of the tests that crashed when they last ran guarded."""
    known = config.stash.get(_crashed_key, None)
    if known is None:
        if hasattr(config, "workerinput"):
            listed = config.workerinput.get(_WORKER_KEY, [])
        else:
            cache = getattr(config, "cache", None)
            listed = [] if cache is None else cache.get(_CACHE_KEY, [])
        known = frozenset(one for one in listed if isinstance(one, str)) if isinstance(listed, list) else frozenset()
        config.stash[_crashed_key] = known
    return known


def tell_worker(node: Any) -> None:
    """On a controller of pytest-xdist, before a worker starts."""
    crashed = crashed_before(node.config)
    if crashed:
        node.workerinput[_WORKER_KEY] = sorted(crashed)


_crashed_key = pytest.StashKey[frozenset[str]]()


@final
class Choice:
    """Says of each test whether it is one of them."""

    def __init__(self, config: pytest.Config) -> None:
        self._is_on = is_auto(config)
        self._crashed = crashed_before(config) if self._is_on else frozenset()
        modules = auto_modules(config) if self._is_on else ()
        self._imports = Imports(modules, config.rootpath) if modules else None
        self._known: dict[pytest.Collector, bool] = {}

    def takes(self, item: pytest.Item) -> bool:
        """Whether it crashed when it last ran guarded, or its module imports what is listed."""
        return self._is_on and (item.nodeid in self._crashed or self._reaches(item))

    def _reaches(self, item: pytest.Item) -> bool:
        file = file_of(item)
        if self._imports is None or file is None or file.path.suffix != ".py":
            return False
        if file not in self._known:
            self._known[file] = self._imports.reach(file.path, _package_of(item, file.path))
        return self._known[file]


def file_of(item: pytest.Item) -> pytest.File | None:
    """The file that the item was found in."""
    return next((one for one in reversed(item.listchain()) if isinstance(one, pytest.File)), None)


def _package_of(item: pytest.Item, file: Path) -> str:
    module = getattr(item, "module", None)
    if module is not None:
        return str(getattr(module, "__package__", None) or "")
    # Of a doctest.
    folders = list(itertools.takewhile(lambda one: (one / "__init__.py").is_file(), file.parents))
    return ".".join(one.name for one in reversed(folders))


def note_guarded(report: pytest.TestReport, config: pytest.Config) -> None:
    """In the report of a guarded test's call, say so where the test had crashed before; a skipped one has not run."""
    has_run = report.when == "call" and (not report.skipped or hasattr(report, "wasxfail"))
    if has_run and report.nodeid in crashed_before(config):
        setattr(report, _GUARDED, True)


@final
class Recorder:
    """A plugin that keeps the list; not on a worker of pytest-xdist, whose controller sees all reports."""

    def __init__(self, config: pytest.Config, attribute: str) -> None:
        self._config = config
        self._attribute = attribute
        self._crashed: set[str] = set()
        self._lived: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has crashed, or one that had crashed before has run."""
        if hasattr(report, self._attribute):
            self._crashed.add(report.nodeid)
        elif hasattr(report, _GUARDED):
            self._lived.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write the list, where it is another one."""
        before = crashed_before(self._config)
        now = (before - self._lived) | self._crashed
        cache = getattr(self._config, "cache", None)
        if now != before and cache is not None:
            cache.set(_CACHE_KEY, sorted(now))


def record(config: pytest.Config, attribute: str) -> None:
    """Keep the list; a report with that attribute is one of a crash."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(config, attribute), "faultguard-recorder")
