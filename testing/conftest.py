"""Fixtures of the acceptance tests: inner sessions, ways to die, and the audit after each test."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# This folder is no package of the plugin and is not installed: at the end of the path, what is installed comes first.
if (_root := str(Path(__file__).parents[1])) not in sys.path:
    sys.path.append(_root)

from testing import programs as _programs
from testing.audit import allow_leftovers
from testing.audit import audit
from testing.audit import audit_tmp
from testing.audit import default_signals
from testing.covering import PAIRS
from testing.covering import covering
from testing.harness import SESSION_SECONDS
from testing.harness import Junit
from testing.harness import Recorder
from testing.harness import RunPytest
from testing.harness import starts_clean
from testing.live import StartPytest
from testing.live import starting

__all__ = ["allow_leftovers", "audit", "audit_tmp", "default_signals"]

pytest_plugins = ["pytester"]

# The demo is a project of its own, with tests that crash.
collect_ignore = ["demo", "programs"]

#: What the outer run must not tell an inner session; a coverage run's variables stay.
_OUTER_VARIABLES = (
    "PYTEST_ADDOPTS",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD",
    "PYTEST_FAULTGUARD",
    "PYTEST_PLUGINS",
    "PYTEST_XDIST_AUTO_NUM_WORKERS",
    "PYTEST_XDIST_TESTRUNUID",
    "PYTEST_XDIST_WORKER",
    "PYTEST_XDIST_WORKER_COUNT",
    "PYTHONASYNCIODEBUG",
    "PYTHONDEVMODE",
    "PYTHONFAULTHANDLER",
    "PYTHONWARNINGS",
    "CI",
    "BUILD_NUMBER",
    "GITHUB_ACTIONS",
    "FORCE_COLOR",
    "NO_COLOR",
)


#: How many values of a test's parameters are to meet, by what FAULTGUARD_TEST_CASES says.
_STRENGTH = {"each": 1, "pairs": PAIRS, "all": sys.maxsize}


# Last: of what is left when a choice has been made, by -k for example.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of each acceptance test run as many cases as let every two values of its parameters meet; or each, or all."""
    strength = _STRENGTH[os.environ.get("FAULTGUARD_TEST_CASES", "pairs")]
    tests: dict[tuple[pytest.Item | pytest.Collector | None, str], list[pytest.Function]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and Path(__file__).parent in item.path.parents:
            tests.setdefault((item.parent, item.originalname), []).append(item)
    spared: set[pytest.Item] = set()
    for cases in tests.values():
        chosen = covering([_values(case) for case in cases], strength)
        spared |= set(cases) - {cases[number] for number in chosen}
    if spared:
        config.hook.pytest_deselected(items=[item for item in items if item in spared])
        items[:] = [item for item in items if item not in spared]


def _values(case: pytest.Function) -> dict[str, tuple[int, ...]]:
    """What tells the cases of a test apart: what one mark gives together is one value, for somebody has chosen it."""
    # By the object, which is the same in each case; what pytest has as their indices are numbers of the whole case, where
    # a fixture has parameters.
    left = {name: id(value) for name, value in (case.callspec.params if hasattr(case, "callspec") else {}).items()}
    values = {}
    for mark in case.iter_markers("parametrize"):
        names = mark.args[0].replace(",", " ").split() if isinstance(mark.args[0], str) else mark.args[0]
        values[" ".join(names)] = tuple(left.pop(name) for name in names if name in left)
    return values | {name: (value,) for name, value in left.items()}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what is so of forks only, where inner sessions do not fork."""
    mark = item.get_closest_marker("forked_only")
    if mark is not None and starts_clean():
        pytest.skip(f"forked children only: {mark.args[0]}")


@pytest.fixture(autouse=True, scope="session")
def _no_core_files() -> None:
    """Hundreds of tests crash: only the soft limit is lowered, a test that wants a core raises it again."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


@pytest.fixture
def run_pytest(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> RunPytest:
    """`run_pytest(*args, timeout=60)`: an inner session in a clean environment, 120 columns wide, without colours."""
    for name in _OUTER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    # What Python and C write to one terminal comes in the order in which it was written, and no cache is left.
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("PY_COLORS", "0")
    return RunPytest(pytester)


@pytest.fixture
def start_pytest(pytester: pytest.Pytester, run_pytest: RunPytest) -> Iterator[StartPytest]:
    """`start_pytest(*args)`: an inner session that runs beside the test, whose tests `from say import say, wait`."""
    with starting(pytester) as start:
        yield start


@pytest.fixture(params=[(), ("-n2",)], ids=["serial", "n2"])
def xdist_args(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The same test once in one process and once distributed: `run_pytest(*xdist_args)`."""
    args: tuple[str, ...] = request.param
    return args


@pytest.fixture(params=["fork", "forkserver", "spawn"])
def start_args(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The same test with each way to start a child: `run_pytest(*start_args)`."""
    return (f"--faultguard-start={request.param}",)


@pytest.fixture
def recorder(run_pytest: RunPytest, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Every report of the test's inner sessions, as data."""
    monkeypatch.setenv("PYTEST_PLUGINS", "recorder")
    return Recorder(run_pytest.pytester.path)


@pytest.fixture
def junit(pytester: pytest.Pytester) -> Junit:
    """`run_pytest(*junit.args)`, then `junit.cases()`."""
    return Junit(pytester.path / "junit.xml")


@pytest.fixture(scope="session")
def programs_library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`libprograms.so`, built once per run, also when xdist's workers ask at the same time."""
    base = tmp_path_factory.getbasetemp()
    # A worker's is a directory of the controller's.
    return _programs.build(base.parent if hasattr(request.config, "workerinput") else base)


@pytest.fixture
def programs(pytester: pytest.Pytester, programs_library: Path) -> Path:
    """Lets the tests of an inner session say `from programs import lib, pylib`."""
    path = pytester.path / "programs.py"
    path.write_text(_programs.module(programs_library))
    return path


@pytest.fixture(scope="session")
def unshare() -> list[str]:
    """The command that runs another one in a mount namespace of its own."""
    program = shutil.which("unshare")
    if program is None:
        pytest.skip("needs unshare(1) of util-linux for another view of the file system")
    reasons = []
    for command in ([program, "--mount"], [program, "--map-root-user", "--mount"]):
        done = subprocess.run(
            [*command, "sh", "-ec", 'mount -t tmpfs tmpfs "$0"', "/mnt"],
            capture_output=True,
            text=True,
            timeout=SESSION_SECONDS,
            check=False,
        )
        if done.returncode == 0:
            return command
        reasons.append(done.stderr.strip())
    pytest.skip(f"no mount namespace is permitted here: {'; '.join(reasons)}")
