"""Fixtures of the tests beside other plugins: the same tests plain and guarded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testing.harness import Recorder
    from testing.harness import Report
    from testing.harness import RunPytest

#: Says which tests ran under a guard.
_WHERE = """
import os

import pytest

FILE = @FILE@


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    if os.environ.get("PYTEST_FAULTGUARD"):
        with open(FILE, "a") as file:
            file.write(f"{item.nodeid}\\n")
"""

#: What differs from run to run, and with its width the line to both sides of it.
_SECONDS = re.compile(r"\d+\.\d+s\b")
_RULE = re.compile(r"^=+ (.* …s.*) =+$")


@dataclass(frozen=True, kw_only=True)
class Session:
    """One inner session."""

    #: By node id the phases, each as `"call failed"`.
    outcomes: dict[str, list[str]]
    #: The reports in the order in which they were logged.
    reports: list[Report]
    warnings: list[str]
    #: The tests that ran in a child.
    guarded: set[str]
    counts: dict[str, int]
    exit_status: int
    lines: list[str]

    @property
    def text(self) -> str:
        """What the terminal showed, without what differs from run to run."""
        return "\n".join(self.lines)

    def messages(self) -> dict[str, str | None]:
        """The line of the short summary of each test that failed."""
        return {one.nodeid: one.message for one in self.reports if one.outcome == "failed"}


@dataclass(frozen=True)
class SideBySide:
    """Runs sessions with one other plugin, and with no third."""

    run_pytest: RunPytest
    recorder: Recorder

    def __call__(self, *args: str, plugin: str | None = None) -> tuple[Session, Session]:
        """Run it plain and guarded: the same outcomes, counts and exit status; then for the test to compare the rest."""
        plain = self.session("--no-faultguard", *args, plugin=plugin)
        guarded = self.session("--faultguard", *args, plugin=plugin)
        assert plain.guarded == set()
        assert guarded.guarded == set(guarded.outcomes) != set()
        assert guarded.outcomes == plain.outcomes
        assert guarded.counts == plain.counts
        assert guarded.exit_status == plain.exit_status
        assert guarded.messages() == plain.messages()
        return plain, guarded

    def session(self, *args: str, plugin: str | None = None) -> Session:
        """Run it once."""
        where = self.run_pytest.pytester.path / "where.txt"
        where.write_text("")
        (where.parent / "where.py").write_text(_WHERE.replace("@FILE@", repr(str(where))))
        plugins = ["where", "faultguard", "xdist", *([] if plugin is None else [plugin])]
        result = self.run_pytest(*args, plugins=plugins)
        reports = self.recorder.reports()
        outcomes: dict[str, list[str]] = {}
        for report in reports:
            outcomes.setdefault(report.nodeid, []).append(f"{report.when} {report.outcome}")
        return Session(
            outcomes=outcomes,
            reports=reports,
            warnings=self.recorder.warnings(),
            guarded=set(where.read_text().splitlines()),
            counts=result.parseoutcomes(),
            exit_status=int(result.ret),
            lines=[_RULE.sub(r"= \1 =", _SECONDS.sub("…s", line)) for line in result.outlines],
        )


@pytest.fixture
def side_by_side(run_pytest: RunPytest, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> SideBySide:
    """A suite plain and guarded, with one plugin; what agrees in every case is asserted."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return SideBySide(run_pytest, recorder)
