"""Runs a sample of the collected tests, and writes what became of each phase as a line of JSON.

The sample are the tests whose ids, mixed with the seed, have the smallest digests: the same ones in each session,
in the order in which they were collected.

A fresh interpreter that is a child gets the tests of its parent, and reports to it: there nothing is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Generator

import pytest

import pytest_faultguard

#: In the properties of a test's last report: measured in its child.
_OF_A_CHILD = "faultguard_cpu_seconds"


def pytest_configure(config: pytest.Config) -> None:
    if pytest_faultguard.is_guarded():
        return
    config.pluginmanager.register(_Outcomes(os.environ["PARITY_WRITE"]))


class _Outcomes:
    def __init__(self, path: str) -> None:
        self._stream = open(path, "w", encoding="utf-8")  # noqa: SIM115 - open as long as the session.

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        self._write(collected=len(items))
        self._write(marked=[item.nodeid for item in items if item.get_closest_marker("faultguard") is not None])
        size, seed = int(os.environ["PARITY_SAMPLE"]), os.environ["PARITY_SEED"]
        if 0 < size < len(items):
            digests = [hashlib.sha256(f"{seed} {item.nodeid}".encode("utf-8", "replace")).digest() for item in items]
            last = sorted(digests)[size - 1]
            config.hook.pytest_deselected(
                items=[item for item, mine in zip(items, digests, strict=True) if mine > last]
            )
            items[:] = [item for item, mine in zip(items, digests, strict=True) if mine <= last]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if not report.passed:
            self._write(id=report.nodeid, when="collect", outcome=report.outcome)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtestloop(self) -> Generator[None, object, object]:
        started = time.monotonic()
        try:
            return (yield)
        finally:
            self._write(seconds=time.monotonic() - started)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = str(report.outcome)
        if type(report) is not pytest.TestReport:
            outcome = f"{outcome} ({type(report).__name__})"
        if hasattr(report, "wasxfail"):
            outcome = f"{outcome} (wasxfail: {report.wasxfail!r})"
        is_guarded = any(name == _OF_A_CHILD for name, _ in report.user_properties)
        self._write(id=report.nodeid, when=report.when, outcome=outcome, is_guarded=is_guarded)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self._write(status=int(exitstatus))

    def _write(self, **line: object) -> None:
        # At once: what is left in a buffer at a fork would be written twice.
        self._stream.write(f"{json.dumps(line)}\n")
        self._stream.flush()
