"""What an isolated test costs: each tool's, beside plain pytest and the floor, a bare fork."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace
from pathlib import Path
from statistics import median

from testing.peers.sessions import Run
from testing.peers.tools import MEASURED
from testing.peers.tools import OURS
from testing.peers.tools import PLAIN
from testing.peers.tools import Tool
from testing.peers.tools import python_of

FLOOR = replace(PLAIN, name="bare fork")
COLUMNS = (PLAIN, FLOOR, *(tool for tool in MEASURED if tool is not PLAIN))
ROUNDS = 5
TESTS = 60
#: A tool that starts pytest anew for each test takes as long for this as the others for all.
SLOW_ROUNDS = 2
SLOW_TESTS = 10
DEADLINE = 120.0

TRIVIAL = """
import pytest
from peer import isolated


@isolated
@pytest.mark.parametrize("number", range({tests}))
def test_it(number): pass
"""
#: Of the parent, before the first test; it is let go at the end.
LARGE = """
import pytest

block = bytearray(500 << 20)
# A page that nobody wrote to has no memory.
block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])


def pytest_unconfigure():
    block.clear()
"""
FIXTURE = """
import time

import pytest
from peer import isolated


@pytest.fixture(scope="module")
def costly():
    time.sleep(0.05)


{first}
@isolated
@pytest.mark.parametrize("number", range({tests}))
def test_it(costly, number): pass
"""
FIRST = """
def test_first(costly): pass


"""
CRASHES = """
import ctypes

import pytest
from peer import isolated


@isolated
@pytest.mark.parametrize("number", range({tests}))
def test_it(number): ctypes.string_at(0)
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One workload: milliseconds per test of each tool that can run it, round by round."""

    what: str
    taken: Mapping[str, Sequence[float]]

    def milliseconds(self, tool: str) -> float:
        """The median of its rounds."""
        return median(self.taken[tool])

    def ratio(self, tool: str) -> float:
        """How many times ours that is: the median of what ran in the same round, for a machine has faster times."""
        return median(
            its / ours
            for its, ours in zip(self.taken[tool], self.taken[OURS.name], strict=False)  # Fewer rounds.
        )


@dataclass(frozen=True, kw_only=True)
class _Workload:
    what: str
    text: str
    conftest: str = ""
    tests: int = TESTS
    slow_tests: int = SLOW_TESTS
    outcome: str = "passed"
    #: Those that cannot run it: a crash ends their session, or they isolate every test.
    without: tuple[Tool, ...] = ()


WORKLOADS: Mapping[str, _Workload] = {
    "trivial": _Workload(what="A trivial test", text=TRIVIAL),
    "large": _Workload(
        what="A trivial test, in a process with 500 MB in use",
        text=TRIVIAL,
        conftest=LARGE,
        tests=TESTS // 2,
        slow_tests=SLOW_TESTS // 2,
    ),
    "fixture": _Workload(
        what="A test with a module fixture of 50 ms", text=FIXTURE.replace("{first}", ""), tests=TESTS // 2
    ),
    "shared": _Workload(
        what="The same, where a test that is not isolated has used the fixture before",
        text=FIXTURE.replace("{first}", FIRST.strip("\n") + "\n\n"),
        tests=TESTS // 2,
        without=(FLOOR,),
    ),
    "crashes": _Workload(
        what="A test that crashes, 200 in a row; 20 with a tool that starts a fresh interpreter",
        text=CRASHES,
        tests=200,
        slow_tests=20,
        outcome="failed",
        without=(PLAIN, FLOOR),
    ),
}


def measure(workdir: Path, names: list[str], scale: float) -> Iterator[Row]:
    """Run the chosen workloads, or all: the tools in turn, again and again."""
    runs = [Run(tool=tool, python=python_of(tool, workdir), workdir=workdir) for tool in COLUMNS]
    for name in names or WORKLOADS:
        workload = WORKLOADS[name]
        taken: dict[str, list[float]] = {}
        for number in range(ROUNDS):
            for run in runs:
                if run.tool not in workload.without and (number < SLOW_ROUNDS or not run.tool.slow):
                    taken.setdefault(run.tool.name, []).append(_each(run, workload, scale))
        yield Row(what=workload.what, taken=taken)


def _each(run: Run, workload: _Workload, scale: float) -> float:
    """Milliseconds per test from the first test to the last; what the session needs to start is not in it."""
    tests = max(2, round((workload.slow_tests if run.tool.slow else workload.tests) * scale))
    files = {"test_it.py": workload.text.format(tests=tests)}
    if workload.conftest:
        files["conftest.py"] = workload.conftest
    floor = run.tool is FLOOR
    done = run(
        files,
        *(("-p", "stopwatch") if floor else ()),
        "-q",
        "--tb=no",
        env={"BENCH_WAYS": "fork", "BENCH_WRITE": "/dev/null"} if floor else {},
        deadline=DEADLINE,
    )
    counted = [event for event in done.of("report") if event["category"] == workload.outcome]
    # Else it is not the workload that was measured.
    if len(counted) != tests + ("test_first" in files["test_it.py"]):
        raise RuntimeError(
            f"{run.tool.name}: {len(counted)} of {tests} tests {workload.outcome}\n{done.output[-2000:]}"
        )
    return float(done.of("loop")[0]["seconds"]) / tests * 1000


def cell(row: Row, tool: str) -> str:
    """Milliseconds, and how many times ours that is."""
    if tool not in row.taken:
        return "—"
    value, ratio = row.milliseconds(tool), row.ratio(tool)
    told = f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"
    return told if tool == OURS.name else f"{told} ({ratio:.0f} x)" if ratio >= 10 else f"{told} ({ratio:.2f} x)"
