"""The documents say what the code does: samples run, and what is shown of a crash is what a crash shows."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from testing.parity.suites import OTHERS
from testing.parity.suites import SHARED
from testing.parity.suites import SUITES
from testing.peers import behaviours
from testing.peers import bench

if TYPE_CHECKING:
    from testing.harness import Recorder
    from testing.harness import RunPytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.rst", *sorted((ROOT / "docs").rglob("*.rst"))]

#: What the samples take for granted: code under test, some of it with bugs.
PREAMBLE = """
import builtins
import ctypes
import os
import sys
import types

import numpy
import pytest
import pytest_faultguard


@pytest.fixture(autouse=True)
def say(record_property):
    record_property("guarded", pytest_faultguard.is_guarded())


def parse(data):
    if not data:
        ctypes.string_at(0)


class Database:
    migrated = False

    def migrate(self):
        self.migrated = True

    def query(self, text):
        return [(1,)] if self.migrated else []


class DatabaseConnection:
    instance = None

    @classmethod
    def get_instance(cls):
        # The tests of the sample, in their order, and in one process.
        assert (cls.instance is None) == ("test_singleton_init" in os.environ["PYTEST_CURRENT_TEST"])
        cls.instance = cls.instance or Database()
        return cls.instance


sys.modules["myapp"] = types.ModuleType("myapp")
sys.modules["myapp"].DatabaseConnection = DatabaseConnection
builtins.db = Database()
builtins.pytest = pytest
builtins.numpy = numpy
builtins.parser = types.SimpleNamespace(parse=parse)
builtins.frobnicate = lambda seed: None
builtins.connect = lambda: [1, 2, 3]
builtins.native_check = lambda row: None
builtins.simulate = lambda grid: grid.__iadd__(1)
builtins.run_some_monkey_patches = builtins.expensive_operation = lambda: None
builtins.custom_handler = lambda signum, frame: None
"""
#: The tests in samples that do not pass, and why they do not.
NOT_PASSED = {
    "test_empty": "xfailed",
    "test_failing": "failed",
    "test_read_null": "failed",
    "test_that_crashes": "failed",
}
#: Those of other plugins that are not to be isolated, outside CI.
NOT_ISOLATED = {"test_ci_only", "test_never_subprocess"}
#: The plugins whose marks they have, by the names under which pytest loads them.
PEERS = ("pytest_forked", "pytest_isolate", "isolated", "pytest_subproc")


def blocks(language: str) -> list[tuple[str, str]]:
    """Every code block of that language, with the place where it stands."""
    found = []
    pattern = re.compile(rf"^\.\. code-block:: {language}\n\n((?:(?:   .*)?\n)+)", re.MULTILINE)
    for path in DOCUMENTS:
        text = path.read_text()
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append((f"{path.relative_to(ROOT)}:{line}", textwrap.dedent(match[1]).strip()))
    return found


PYTHON = blocks("python")
SHELL = [(place, line) for place, block in blocks("sh") for line in block.splitlines() if re.match(r"pytest\b", line)]


def test_there_are_samples() -> None:
    """The tests below would be empty without."""
    assert len(PYTHON) >= 5
    assert len(SHELL) >= 1


#: Written for another plugin.
SWITCHED = [(place, sample) for place, sample in PYTHON if place.startswith("docs/coming-from.rst")]
OWN = [sample for sample in PYTHON if sample not in SWITCHED]


@pytest.mark.parametrize(("place", "sample"), OWN, ids=[place for place, _ in OWN])
def test_a_python_sample_runs_as_it_says(
    place: str, sample: str, pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder
) -> None:
    """With the plugin, as a user would paste it."""
    pytester.makeconftest(PREAMBLE)
    pytester.makepyfile(test_sample=sample)

    run_pytest()

    assert_as_it_says(place, sample, recorder)


@pytest.mark.parametrize(("place", "sample"), SWITCHED, ids=[place for place, _ in SWITCHED])
def test_a_sample_of_another_plugin_runs_guarded(
    place: str, sample: str, pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder
) -> None:
    """By the one line that the document shows; the plugin itself is switched off where it is installed."""
    ((_, ini),) = [block for block in blocks("ini") if block[0].startswith("docs/coming-from.rst")]
    pytester.makeini(ini)
    pytester.makeconftest(PREAMBLE)
    pytester.makepyfile(test_sample=sample)

    run_pytest(plugins=["no:cacheprovider", *(f"no:{name}" for name in PEERS)])

    assert_as_it_says(place, sample, recorder)
    for report in recorder.reports(when="teardown"):
        name = report.nodeid.rpartition("::")[2]
        assert dict(report.user_properties)["guarded"] == (name not in NOT_ISOLATED), name
    crashed = [report.nodeid.rpartition("::")[2] for report in recorder.reports() if report.crash]
    assert crashed == re.findall("test_that_crashes", sample)


def assert_as_it_says(place: str, sample: str, recorder: Recorder) -> None:
    """Each test of the sample ran, and ended as the document lets a reader expect."""
    names = re.findall(r"def (test_\w+)", sample)
    outcomes = {report.nodeid.rpartition("::")[2]: report for report in recorder.reports(when="call")}
    assert sorted(outcomes) == sorted(names), place
    for name, report in outcomes.items():
        told = "xfailed" if report.wasxfail is not None else report.outcome
        assert told == NOT_PASSED.get(name, "passed"), f"{place}: {name}\n{report.longrepr}"


@pytest.mark.parametrize(("place", "line"), SHELL)
def test_a_command_of_a_sample_is_one(place: str, line: str, pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """Its options exist."""
    assert place
    pytester.makepyfile("def test_pass(): pass")
    arguments = line.partition("#")[0].split()[1:]

    result = run_pytest(*arguments)

    assert result.ret == 0


def _regenerate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("regenerate", ROOT / "docs" / "regenerate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("document", ["README.rst", "docs/report.rst"])
def test_the_crash_that_is_shown_is_a_real_one(document: str) -> None:
    """The demo is run, and its report compared line by line."""
    regenerate = _regenerate()
    text = (ROOT / document).read_text()

    shown = text.partition(".. begin crash output\n")[2].partition(".. end crash output")[0]

    assert shown.strip() == regenerate.crash_block(regenerate.crash_output()).strip()


@pytest.mark.parametrize("args", [(), ("-n2",)], ids=["serial", "n2"])
def test_the_demo_ends_as_it_should(args: tuple[str, ...]) -> None:
    """As the README's first command runs it: five tests fail, each with its own line in the summary."""
    output = _regenerate().demo_output(*args)

    summary = output.partition("= short test summary info =")[2].partition("\n")[2].splitlines()
    assert re.match(r"=* ?5 failed, \d+ passed, 1 xfailed in ", summary.pop()), output
    told = [line.partition(" - ")[2] for line in summary if line.startswith("FAILED ")]
    times = {
        r"SIGSEGV \(segmentation fault\) in call after ": 2,
        r"SIGABRT \(aborted\) in call after .*: .*Assertion ": 1,
        r"SIGABRT \(aborted\) in call after .*: double free": 1,
        r"timeout of 2 s passed in call": 1,
    }
    assert {ending: sum(bool(re.match(ending, line)) for line in told) for ending in times} == times, output


@pytest.fixture(scope="module")
def help_text() -> str:
    """What ``pytest --help`` says."""
    done = subprocess.run([sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_options_that_are_named_exist(path: Path, help_text: str) -> None:
    """Whatever begins with ``--faultguard`` or ``faultguard_`` in a document is declared."""
    text = path.read_text()
    settings = set(re.findall(r"``(faultguard_[a-z_]+)(?: = [^`]*)?``", text))

    for name in set(re.findall(r"--(?:no-)?faultguard[a-z-]*", text)) | settings - {
        "faultguard_data",
        "faultguard_crash",
    }:
        assert name in help_text, name


#: The rows of each, by its page and its marks.
TABLES = {
    ("parity", "parity table"): [suite.name for suite in SUITES],
    ("parity", "table of other ways"): [
        *(f"{suite.name} ({SHARED})" for suite in SUITES),
        *(f"{suite.name} ({ways})" for suite in SUITES if suite.small is not None for ways in OTHERS),
    ],
    ("bench", "bench table"): None,  # How many tests a row has is in its name.
    ("peers", "peers bench"): [workload.what for workload in bench.WORKLOADS.values()],
    ("peers", "peers behaviours"): [what for what, _ in behaviours.ROWS.values()],
}


@pytest.mark.parametrize(("page", "table"), TABLES)
def test_a_table_of_measurements_stands_in_the_documents(page: str, table: str) -> None:
    """With all its rows and no others, with a date and with versions."""
    text = (ROOT / "docs" / f"{page}.rst").read_text()
    shown = text.partition(f".. begin {table}\n")[2].partition(f".. end {table}\n")[0]

    assert re.search(r"(Measured|Compared) on \d{4}-\d\d-\d\d with ", shown)
    assert re.search(r"pytest-faultguard \d", re.sub(r"\s+", " ", shown))
    rows = re.findall(r"^   \* - ?(.*)$", shown, re.MULTILINE)[1:]
    assert rows
    assert rows == (TABLES[page, table] or rows)
