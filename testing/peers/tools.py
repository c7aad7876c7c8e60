"""The tools that are compared, and an environment for each of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTALL_SECONDS = 300.0
#: The newest at the time of the last look. Where a tool has another one below, this one was tried.
NEWEST = "pytest==9.2.0"
#: For the rows that put another plugin beside the tool; each session says which ones it wants.
PLUGINS: Mapping[str, str] = {
    "pytest-cov": "pytest_cov",
    "pytest-html": "html",
    "pytest-rerunfailures": "rerunfailures",
    "pytest-timeout": "timeout",
    "pytest-xdist": "xdist",
}


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One column of the tables."""

    name: str
    #: What pip installs.
    requirements: tuple[str, ...]
    #: Why it is not the newest pytest.
    why: str = ""
    mark: str
    #: What the mark needs to isolate at all.
    arguments: Mapping[str, object] = field(default_factory=dict)
    #: The mark that limits the time; not every tool has one of its own.
    limit: str = "timeout"
    #: Its children start pytest anew: fewer repetitions, or the bench would take an hour.
    slow: bool = False

    @property
    def limit_plugins(self) -> tuple[str, ...]:
        """What a row about a limit needs beside the tool."""
        return () if self.limit == self.mark else ("pytest-timeout",)


PLAIN = Tool(name="plain pytest", requirements=(NEWEST,), mark="plain")
FORKED = Tool(
    name="pytest-forked",
    requirements=("pytest-forked==1.7.5", "pytest==9.1.1"),
    why="with pytest 9.2 every isolated test fails: marshal does not take the node id in a report",
    mark="forked",
)
ISOLATE = Tool(
    name="pytest-isolate",
    requirements=("pytest-isolate==0.0.17", "pytest==9.1.1"),
    why="with pytest 9.2 every isolated test fails: a private function of pytest is gone",
    mark="isolate",
    arguments={"timeout": 60},
    limit="isolate",
)
ISOLATED = Tool(
    name="pytest-isolated",
    requirements=("pytest-isolated==0.6.0", NEWEST),
    mark="isolated",
    limit="isolated",
    slow=True,
)
SUBPROC = Tool(
    name="pytest-subproc",
    requirements=("pytest-subproc==0.1.2", NEWEST),
    mark="subproc",
    limit="subproc",
    slow=True,
)
OURS = Tool(name="pytest-faultguard", requirements=(str(ROOT), NEWEST), mark="faultguard", limit="faultguard")

PEERS = (FORKED, ISOLATE, ISOLATED, SUBPROC)
MEASURED = (PLAIN, *PEERS, OURS)


def python_of(tool: Tool, workdir: Path, *plugins: str, fresh: bool = True) -> Path:
    """The interpreter of the tool's own environment, made now where there is none as it must be.

    Where no plugins are named nothing is installed but the tool and what it requires. What comes from this checkout is
    installed again, unless it need not be fresh.
    """
    place = workdir / "-".join([tool.name.replace(" ", "-"), *(["beside"] if plugins else [])])
    python = place / "bin" / "python"
    wanted = json.dumps([sys.version, *tool.requirements, *plugins])
    stamp = place / "made-for.json"
    if not (stamp.exists() and stamp.read_text() == wanted):
        _run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(place)])
        _pip(python, "install", "--quiet", *tool.requirements, *plugins)
        stamp.write_text(wanted)
    elif fresh and tool is OURS:
        _pip(python, "install", "--quiet", "--force-reinstall", "--no-deps", str(ROOT))
    return python


def versions(python: Path) -> Mapping[str, str]:
    """Of all that is installed there, by name."""
    listed = json.loads(_pip(python, "list", "--format=json"))
    return {one["name"]: one["version"] for one in listed}


def _pip(python: Path, *args: str) -> str:
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    return _run([*pip, *args])


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
