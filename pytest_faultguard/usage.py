"""What each guarded test used, as properties of its report, and as a table at the end of the session."""

from __future__ import annotations

from typing import Any
from typing import NamedTuple

import pytest

from pytest_faultguard.crash import describe_bytes
from pytest_faultguard.options import usage_rows
from pytest_faultguard.process.meter import Usage

#: Names in ``user_properties`` of a test's last report.
PEAK = "faultguard_peak_memory_bytes"
CPU = "faultguard_cpu_seconds"


def add(properties: list[tuple[str, Any]], used: Usage) -> None:
    """Add what a test used to the properties of its report, where they are not there."""
    for name, _ in properties:
        if name == CPU:
            return
    if used.peak_bytes is not None:
        properties.append((PEAK, used.peak_bytes))
    properties.append((CPU, round(used.cpu_seconds, 6)))


class _Row(NamedTuple):
    peak: int
    cpu: float
    nodeid: str


def show(terminal: pytest.TerminalReporter) -> None:
    """Write the table, where it is wanted: as ``--durations`` does, from the reports, wherever they came from."""
    wanted = usage_rows(terminal.config)
    if wanted is None:
        return
    rows = sorted(_rows(terminal), key=lambda row: (-row.peak, -row.cpu, row.nodeid))
    if not rows:
        return
    terminal.write_sep("=", f"largest {wanted} peaks of memory" if wanted else "peaks of memory")
    for row in rows[: wanted or None]:
        peak = describe_bytes(row.peak) if row.peak else "unknown"
        terminal.write_line(f"{peak:>10} {row.cpu:8.2f}s cpu {row.nodeid}")


def _rows(terminal: pytest.TerminalReporter) -> list[_Row]:
    rows: dict[str, _Row] = {}
    for reports in terminal.stats.values():
        for report in reports:
            told = dict(getattr(report, "user_properties", ()))
            if isinstance(report, pytest.TestReport) and CPU in told:
                # The last attempt counts; a crash has its numbers in two reports.
                rows[report.nodeid] = _Row(told.get(PEAK, 0), told[CPU], report.nodeid)
    return list(rows.values())
