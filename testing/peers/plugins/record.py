"""Writes what the session tells its plugins, one JSON line each, as it comes: a session that is killed has its lines.

Only the process that the user started records: no child of it, whatever way it was made, and no worker of xdist.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Generator
from typing import Any

import pytest


class Recorder:
    """One for the session."""

    def __init__(self, config: pytest.Config, path: str) -> None:
        self._config = config
        self._pid = os.getpid()
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, kind: str, **told: Any) -> None:
        if os.getpid() == self._pid:
            line = json.dumps({"kind": kind, "at": time.monotonic(), **told}, default=str)
            os.write(self._fd, line.encode() + b"\n")

    def pytest_sessionstart(self) -> None:
        self.write("start")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        started = time.perf_counter()
        try:
            return (yield)
        finally:
            self.write("loop", seconds=time.perf_counter() - started)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        category = self._config.hook.pytest_report_teststatus(report=report, config=self._config)[0]
        self.write(
            "report",
            test=report.nodeid.rpartition("::")[2],
            when=report.when,
            outcome=report.outcome,
            category=category,
            text=report.longreprtext,
            sections=report.sections,
        )

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        self.write("warning", text=str(warning_message.message))

    def pytest_internalerror(self, excrepr: object) -> None:
        self.write("internalerror", text=str(excrepr))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self.write("finish", status=int(exitstatus))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "plain: not isolated")
    if path := os.environ.pop("PEERS_RECORD", None):
        config.pluginmanager.register(Recorder(config, path))
