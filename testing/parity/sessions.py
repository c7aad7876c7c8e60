"""Pytest sessions that write down what became of each phase."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from testing.parity.suites import Place
from testing.parity.suites import Suite

PLUGINS = Path(__file__).parent / "plugins"
#: The plugins of a session, and those that its suite needs. No others are loaded: they are not what is compared.
BASE = ("xdist", "faultguard")
SESSION_SECONDS = 1800.0

#: The id of a test, the phase, and which report of that phase it is: subtests have several.
Phase = tuple[str, str, int]


@dataclass(frozen=True, kw_only=True)
class Session:
    """What one session did."""

    #: In the order in which the reports were logged.
    outcomes: Mapping[Phase, str]
    #: The ids of those that are marked, whether they ran or not.
    marked: frozenset[str] = frozenset()
    #: The ids of those that ran in a child.
    guarded: frozenset[str] = frozenset()
    collected: int
    #: Of the tests alone, without start and collection.
    seconds: float
    status: int

    @cached_property
    def tests(self) -> dict[str, None]:
        """The ids of what ran, in order; a dict, for a suite has tens of thousands."""
        return dict.fromkeys(test for test, when, _ in self.outcomes if when != "collect")

    @property
    def passed(self) -> int:
        """How many of them passed."""
        return sum(when == "call" and what == "passed" for (_, when, _), what in self.outcomes.items())


def run(suite: Suite, place: Place, written: Path, *flags: str, sample: int, seed: int) -> Session:
    """One session of a suite.

    Raises:
        RuntimeError: it did not get to its end, or has little to compare: most of its tests do not run here.
    """
    names = ("outcomes",) if suite.plugins is None else ("outcomes", *BASE, *suite.plugins)
    plugins = [word for name in names for word in ("-p", name)]
    setting = ["-c", str(place.ini), "--rootdir", str(place.root), "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *setting, *plugins, *suite.args, *flags]
    environment = _environment()
    environment |= {"PARITY_WRITE": str(written), "PARITY_SAMPLE": str(sample), "PARITY_SEED": str(seed)}
    if suite.plugins is not None:
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    done = subprocess.run(
        command,
        cwd=place.directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="backslashreplace",
        timeout=SESSION_SECONDS,
        check=False,
    )
    session = _read(written) if written.exists() else None
    if session is None or session.passed * 2 < len(session.tests) or not session.tests:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout[-10_000:]}")
    return session


def _read(written: Path) -> Session | None:
    outcomes: dict[Phase, str] = {}
    counts: Counter[tuple[str, str]] = Counter()
    guarded: set[str] = set()
    told: dict[str, Any] = {}
    for text in written.read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        if "id" not in line:
            told |= line
            continue
        test, when = line["id"], line["when"]
        outcomes[test, when, counts[test, when]] = line["outcome"]
        counts[test, when] += 1
        if line.get("is_guarded"):
            guarded.add(test)
    if not {"collected", "marked", "seconds", "status"} <= told.keys():
        return None
    return Session(
        outcomes=outcomes,
        marked=frozenset(told["marked"]),
        guarded=frozenset(guarded),
        collected=told["collected"],
        seconds=told["seconds"],
        status=told["status"],
    )


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON", "COV"))}
    # Ids that come out of a set are in the same order each time.
    return kept | {"PYTHONPATH": str(PLUGINS), "PYTHONHASHSEED": "0"}
