"""Inner pytest sessions: how they are run, and what they said as data instead of as terminal text."""

from __future__ import annotations

import json
import os
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

#: Options for all inner sessions: what is promised is promised in every scope and with every start method.
EVERYWHERE = "FAULTGUARD_TEST_OPTIONS"
#: A session that takes longer has hung: it is killed, and the test fails. Interpreters that begin one after the other
#: take their time.
SESSION_SECONDS = 300.0 if os.environ.get(EVERYWHERE) else 60.0
#: No file in the working directory; and Hypothesis's plugin, where it is installed, adds a second to each session.
QUICK = ("no:cacheprovider", "no:hypothesispytest")


def common_options(plugins: Sequence[str] = QUICK) -> list[str]:
    """What each inner session is given first, however it is started."""
    # Without our plugin, nobody knows its options.
    ours = [] if "no:faultguard" in plugins else shlex.split(os.environ.get(EVERYWHERE, ""))
    return [*(word for plugin in plugins for word in ("-p", plugin)), *ours]


def starts_clean() -> bool:
    """Whether inner sessions are told to start their children as no forks of pytest's own process."""
    return any(f"--faultguard-start={start}" in common_options() for start in ("forkserver", "spawn"))


@dataclass(frozen=True)
class RunPytest:
    """Runs an inner session in `pytester.path`, as a user's shell would: in a process of its own."""

    pytester: pytest.Pytester

    def __call__(
        self,
        *args: str | os.PathLike[str],
        plugins: Sequence[str] = QUICK,
        timeout: float = SESSION_SECONDS,
    ) -> pytest.RunResult:
        """Run `python -m pytest *args`, with a `-p` for each of the plugins; `plugins=()` for a session with `--lf`."""
        return self.pytester.runpytest_subprocess(*common_options(plugins), *args, timeout=timeout)


@dataclass(frozen=True, kw_only=True)
class Report:
    """One report as the controller's `pytest_runtest_logreport` saw it."""

    nodeid: str
    when: str
    outcome: str
    duration: float
    sections: list[tuple[str, str]]
    #: The failure as the terminal shows it, without colours and without xdist's line about the worker.
    longrepr: str
    longrepr_class: str
    #: The line of the short summary: `reprcrash.message`.
    message: str | None
    path: str | None
    lineno: int | None
    wasxfail: str | None
    #: The extra attribute of a crash, as it is.
    crash: Any
    user_properties: list[tuple[str, Any]]
    #: The xdist worker that sent it.
    worker: str | None
    #: The process that logged it: the controller's, for every report of a session.
    pid: int

    def section(self, title: str) -> str:
        """The text of the sections with that in their title; a title may come more than once."""
        return "".join(text for name, text in self.sections if title in name)


class Recorder:
    """Writes every report of the inner sessions of a test into a file, and reads them back.

    Active as soon as a test asks for the fixture `recorder`: the environment variable `PYTEST_PLUGINS` brings it in,
    which a worker on another machine does not see.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / "recorded.jsonl"
        (directory / "recorder.py").write_text(_RECORDER.replace("@FILE@", repr(str(self._file))))

    def reports(self, nodeid: str = "", *, when: str = "") -> list[Report]:
        """The reports of the last session, in their order; of the tests whose node id ends so, in one phase."""
        return [
            report
            for report in map(_report, self._lines("report"))
            if report.nodeid.endswith(nodeid) and when in ("", report.when)
        ]

    def report(self, nodeid: str, when: str = "call") -> Report:
        """The one report of that test in that phase."""
        (report,) = self.reports(nodeid, when=when)
        return report

    def outcomes(self) -> dict[str, list[str]]:
        """By test (what stands after `file.py::`) its phases, each as `"call failed"`."""
        told: dict[str, list[str]] = {}
        for report in self.reports():
            told.setdefault(report.nodeid.partition("::")[2], []).append(f"{report.when} {report.outcome}")
        return told

    def warnings(self) -> list[str]:
        """`category: message` of each warning that the last session recorded."""
        return [f"{line['category']}: {line['message']}" for line in self._lines("warning")]

    def exit_status(self) -> int:
        """What `pytest_sessionfinish` was told; a session that was killed has none (`ValueError`)."""
        (line,) = self._lines("finish")
        return int(line["exitstatus"])

    def _lines(self, kind: str) -> list[dict[str, Any]]:
        lines = map(json.loads, self._file.read_text().splitlines())
        return [line for line in lines if line.pop("kind") == kind]


def _report(line: dict[str, Any]) -> Report:
    line["sections"] = [(title, text) for title, text in line["sections"]]
    line["user_properties"] = [(name, value) for name, value in line["user_properties"]]
    return Report(**line)


#: What a guarded test's last report has in its properties, and a plain one has not.
USAGE = frozenset({"faultguard_peak_memory_bytes", "faultguard_cpu_seconds"})


def without_usage(properties: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The properties of a report, to be compared with a plain one's."""
    return [(name, value) for name, value in properties if name not in USAGE]


@dataclass(frozen=True, kw_only=True)
class JunitCase:
    """One `<testcase>`."""

    classname: str
    name: str
    time: float
    #: `passed`, or the names of its elements: `failure`, `error`, `skipped`.
    outcomes: list[str]
    messages: list[str]
    text: str
    system_out: str
    system_err: str
    properties: dict[str, str]


def parse_junit(path: Path) -> list[JunitCase]:
    """The cases of a junitxml file, in their order."""
    return [_junit_case(element) for element in ET.parse(path).iter("testcase")]


def _junit_case(element: ET.Element) -> JunitCase:
    results = [child for child in element if child.tag in {"failure", "error", "skipped"}]
    return JunitCase(
        classname=element.get("classname", ""),
        name=element.get("name", ""),
        time=float(element.get("time", "nan")),
        outcomes=[child.tag for child in results] or ["passed"],
        messages=[child.get("message", "") for child in results],
        text="\n".join(child.text or "" for child in results),
        system_out=element.findtext("system-out", ""),
        system_err=element.findtext("system-err", ""),
        properties={one.get("name", ""): one.get("value", "") for one in element.iter("property")},
    )


class Junit:
    """The junitxml file of an inner session."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.args = (f"--junitxml={path}",)

    def cases(self) -> list[JunitCase]:
        """Its test cases, in their order."""
        return parse_junit(self.path)


_RECORDER = '''
"""Writes what the controller's hooks are told, one JSON object per line."""

import json
import os

FILE = @FILE@


def pytest_configure(config):
    if hasattr(config, "workerinput") or os.environ.get("PYTEST_FAULTGUARD"):
        return
    open(FILE, "w").close()
    config.pluginmanager.register(Recorder(), "recording")


def write(kind, **values):
    # No file is kept open: the sessions under test count theirs.
    with open(FILE, "a") as file:
        file.write(json.dumps({"kind": kind, **values}, default=repr) + "\\n")


class Recorder:
    def pytest_runtest_logreport(self, report):
        crash = getattr(report.longrepr, "reprcrash", None)
        write(
            "report",
            nodeid=report.nodeid,
            when=report.when,
            outcome=report.outcome,
            duration=report.duration,
            sections=report.sections,
            longrepr="" if report.longrepr is None else str(report.longrepr),
            longrepr_class=type(report.longrepr).__name__,
            message=getattr(crash, "message", None),
            path=getattr(crash, "path", None),
            lineno=getattr(crash, "lineno", None),
            wasxfail=getattr(report, "wasxfail", None),
            crash=getattr(report, "faultguard_crash", None),
            user_properties=report.user_properties,
            worker=getattr(report, "worker_id", None),
            pid=os.getpid(),
        )

    def pytest_warning_recorded(self, warning_message):
        write("warning", category=warning_message.category.__name__, message=str(warning_message.message))

    def pytest_sessionfinish(self, exitstatus):
        write("finish", exitstatus=int(exitstatus))
'''
