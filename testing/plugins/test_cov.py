"""pytest-cov, and coverage.py by itself: the lines that guarded tests ran count as if they had run in-process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from typing import TypeAlias

import pytest

from testing.harness import SESSION_SECONDS
from testing.harness import RunPytest

#: Of a session: by file, what coverage.py's JSON report says of it.
Measure: TypeAlias = Callable[..., dict[str, Any]]

PLUGINS = ("no:cacheprovider", "faultguard", "xdist")
#: What `coverage run` runs.
PYTEST = ("-m", "pytest", *(word for plugin in PLUGINS for word in ("-p", plugin)))

COVERAGERC = """
[json]
show_contexts = true
"""

SHOP = """
def price(amount, member):
    if member:
        total = amount * 9
    else:
        total = amount * 10
    return total


def opened(shift):
    for hour in range(shift):
        if hour > 1:
            break
    return "opened"


def closed():
    return "closed"


def sold():
    return "sold"


def robbed(how):
    loot = "loot"
    how()
    return loot


def never():
    return "never"
"""

SUITE = """
import pytest
import shop


@pytest.fixture(scope="session")
def street():
    shop.opened(0)
    yield
    shop.closed()


@pytest.fixture(scope="module")
def till(street):
    shop.opened(1)
    yield
    shop.sold()


@pytest.fixture
def customer():
    shop.opened(3)


def test_unguarded(till):
    assert shop.price(1, False) == 10


@pytest.mark.faultguard
def test_guarded(till, customer):
    assert shop.price(1, True) == 9


@pytest.mark.faultguard
@pytest.mark.xfail(strict=True)
def test_xfail():
    assert shop.closed() == "sold"


@pytest.fixture(scope="class")
def lamp():
    yield
    shop.closed()


@pytest.mark.faultguard
class TestGuarded:
    @pytest.mark.parametrize("member", [True, False])
    def test_price(self, lamp, member, subtests):
        for amount in range(2):
            with subtests.test(amount=amount):
                shop.price(amount, member)
"""


@pytest.fixture
def project(pytester: pytest.Pytester, run_pytest: RunPytest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that is measured, and nothing but the plugins that are named."""
    for name in list(os.environ):
        if name.startswith(("COVERAGE_", "COV_CORE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(shop=SHOP, test_shop=SUITE)
    (pytester.path / ".coveragerc").write_text(COVERAGERC)
    return pytester.path


@pytest.fixture
def measure(project: Path, run_pytest: RunPytest) -> Measure:
    """`measure(*args)`: what one session with pytest-cov has measured, which has left one data file."""

    def run(*args: str, failed: int = 0) -> dict[str, Any]:
        report = project / "report.json"
        result = run_pytest("--cov=shop", f"--cov-report=json:{report}", *args, plugins=(*PLUGINS, "pytest_cov"))
        counts = result.parseoutcomes()
        assert counts.get("failed", 0) + counts.get("errors", 0) == failed, result.stdout.str()
        assert result.ret == (1 if failed else 0)
        assert data_files(project) == [".coverage"]
        return told(report)

    return run


@pytest.fixture
def coverage(project: Path, pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """`coverage("run", ...)`: coverage.py by itself."""

    def run(*args: str) -> pytest.RunResult:
        return pytester.run(sys.executable, "-m", "coverage", *args, timeout=SESSION_SECONDS)

    return run


def told(report: Path) -> dict[str, Any]:
    """By file, what a JSON report says; it names contexts in any order."""
    files: dict[str, Any] = json.loads(report.read_text())["files"]
    report.unlink()
    for file in files.values():
        # Said again by function and by class.
        file.pop("functions", None)
        file.pop("classes", None)
        file["contexts"] = {number: sorted(names) for number, names in file.get("contexts", {}).items()}
    return files


def data_files(project: Path) -> list[str]:
    return sorted(path.name for path in project.glob(".coverage*") if path.name != ".coveragerc")


def ran(measured: dict[str, Any]) -> set[str]:
    """The lines of the shop's functions that have run."""
    source = SHOP.strip().splitlines()
    executed = [source[number - 1] for number in measured["shop.py"]["executed_lines"]]
    return {line.strip() for line in executed if line.startswith(" ")}


#: Such a project as its README measures.
MYPROJ = {
    "myproj/__init__.py": "from myproj.myproj import greet\n__version__ = '1.0'\n",
    "myproj/myproj.py": "def greet(name):\n    if not name:\n        return 'hello'\n    return f'hello {name}'\n",
    "myproj/feature4286.py": "def feature():\n    return 4286\n\ndef planned():\n    return None\n",
    "tests/test_myproj.py": "from myproj import greet\ndef test_greet(): assert greet('you') == 'hello you'\n",
    "tests/test_feature.py": "def test_it():\n    from myproj.feature4286 import feature\n    assert feature() == 4286\n",
}


def test_the_sample_of_its_readme(project: Path, run_pytest: RunPytest, xdist_args: tuple[str, ...]) -> None:
    """`pytest --cov=myproj tests/`: the table that it prints."""
    for name, text in MYPROJ.items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text)
    tables = []
    for flag in ("--no-faultguard", "--faultguard"):
        result = run_pytest(flag, "--cov=myproj", "tests/", *xdist_args, plugins=(*PLUGINS, "pytest_cov"))
        result.assert_outcomes(passed=2)
        assert data_files(project) == [".coverage"]
        tables.append([line.split() for line in result.outlines if line.startswith(("myproj/", "TOTAL"))])

    plain, guarded = tables
    assert guarded == plain
    assert plain == [
        ["myproj/__init__.py", "2", "0", "100%"],
        ["myproj/feature4286.py", "4", "1", "75%"],
        ["myproj/myproj.py", "4", "1", "75%"],
        ["TOTAL", "10", "2", "80%"],
    ]


@pytest.mark.parametrize("args", [(), ("--cov-branch",)], ids=["lines", "branch"])
def test_what_ran_in_children_counts(measure: Measure, args: tuple[str, ...], xdist_args: tuple[str, ...]) -> None:
    """Fixtures of the parent and of the child, subtests, an expected failure: line by line and arc by arc the same."""
    plain = measure(*args, "--no-faultguard")

    assert measure(*args, *xdist_args) == plain
    assert 80 <= plain["shop.py"]["summary"]["percent_covered"] < 100


def test_workers_that_ran_the_same_themselves(measure: Measure, project: Path) -> None:
    """All tests guarded, the modules imported alike: what the children of each worker ran is no copy of the other's."""
    (project / "test_shop.py").write_text(
        "import shop\ndef test_one(): shop.closed()\ndef test_two(): shop.sold()\ndef test_three(): shop.opened(0)\n"
    )

    measured = measure("-n2", "--faultguard")

    assert ran(measured) == {'return "closed"', 'return "sold"', "for hour in range(shift):", 'return "opened"'}


@pytest.mark.parametrize("core", ["ctrace", "pytrace", "sysmon"])
def test_every_core_measures_on_after_a_fork(measure: Measure, monkeypatch: pytest.MonkeyPatch, core: str) -> None:
    # Where Python has no such core, coverage.py warns and takes another.
    monkeypatch.setenv("COVERAGE_CORE", core)
    plain = measure("--no-faultguard")

    assert measure("--faultguard") == plain
    assert ran(plain) >= {"total = amount * 9", "total = amount * 10", 'return "sold"'}


CRASHES = """
import os
import signal

import pytest
import shop

pytestmark = pytest.mark.faultguard


def die():
    {die}


@pytest.fixture
def fixture(faultguard_data):
    faultguard_data["state"] = Exception("shown by a process of its own")
    shop.opened(1)
    {setup}
    yield
    shop.closed()
    {teardown}


def test_crash(fixture):
    shop.sold()
    {call}
"""

#: By the phase of the crash: what ran in the phases that ended before.
COUNTED = {
    "setup": set(),
    "call": {"for hour in range(shift):", "if hour > 1:", 'return "opened"'},
    "teardown": {"for hour in range(shift):", "if hour > 1:", 'return "opened"', 'return "sold"'},
}
#: Of what ran in the set-up.
ARCS = {
    ("for hour in range(shift):", "if hour > 1:"),
    ("if hour > 1:", "for hour in range(shift):"),
    ("for hour in range(shift):", 'return "opened"'),
}


@pytest.mark.parametrize("branch", [(), ("--cov-branch",)], ids=["lines", "branch"])
@pytest.mark.parametrize("phase", COUNTED)
def test_of_a_crashed_test_count_the_phases_that_had_ended(
    measure: Measure, pytester: pytest.Pytester, phase: str, branch: tuple[str, ...], xdist_args: tuple[str, ...]
) -> None:
    """The lines, and the arcs between them."""
    calls = {name: "shop.robbed(die)" if name == phase else "pass" for name in COUNTED}
    pytester.makepyfile(test_shop=CRASHES.format(die="os.kill(os.getpid(), signal.SIGKILL)", **calls))

    measured = measure(*xdist_args, *branch, failed=1)

    assert ran(measured) == COUNTED[phase]
    source = ["", *SHOP.strip().splitlines()]
    arcs = measured["shop.py"].get("executed_branches", [])
    told = {tuple(source[number].strip() for number in arc) for arc in arcs}
    assert told == (ARCS if branch and phase != "setup" else set())


CONFIRMED = """
import os

import shop

poison = []


def test_before():
    poison.append(1)


def test_crash():
    if os.path.exists("once"):
        shop.closed()
    with open("once", "a") as file:
        file.write(".")
    if poison:
        os.abort()


def test_after():
    shop.opened(0)
"""


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_a_confirming_run_does_not_count(
    measure: Measure, project: Path, pytester: pytest.Pytester, start: str
) -> None:
    """It alone reaches what closes the shop."""
    pytester.makepyfile(test_shop=CONFIRMED)

    measured = measure("--faultguard", f"--faultguard-start={start}", failed=1)

    assert (project / "once").read_text() == ".."
    assert ran(measured) == {"for hour in range(shift):", 'return "opened"'}


WAYS = {
    "signal": "os.kill(os.getpid(), signal.SIGSEGV)",
    "kill": "os.kill(os.getpid(), signal.SIGKILL)",
    "exit": "os._exit(0)",
    "timeout": "signal.pause()",
    "closed": "os.closerange(3, 65536)",
    "interpreter_exit": "import atexit; atexit._run_exitfuncs(); os._exit(3)",
}


@pytest.mark.parametrize(
    ("way", "config"),
    [
        *((way, "parallel = true") for way in WAYS),
        ("kill", ""),
        ("kill", "patch = _exit"),
        ("exit", "patch = _exit"),
        ("timeout", "sigterm = true"),
    ],
)
def test_a_crash_leaves_no_data_file(
    project: Path, coverage: Callable[..., pytest.RunResult], pytester: pytest.Pytester, way: str, config: str
) -> None:
    """Without pytest-cov, which would add a file that it finds and remove it; and none is there for a moment."""
    (project / ".coveragerc").write_text(f"[run]\nsource = .\n{config}\n")
    text = CRASHES.format(die=WAYS[way], setup="pass", teardown="pass", call="shop.robbed(die)")
    text += "\ndef test_files():\n    assert [one for one in os.listdir() if '.coverage' in one] == ['.coveragerc']\n"
    pytester.makepyfile(test_shop=text)

    result = coverage("run", *PYTEST, "--faultguard-timeout=0.2")

    result.assert_outcomes(passed=1, failed=1)
    (name,) = data_files(project)
    assert (name == ".coverage") == (config != "parallel = true")


@pytest.mark.parametrize("branch", [(), ("--branch",)], ids=["lines", "branch"])
def test_coverage_run_without_pytest_cov(
    project: Path, coverage: Callable[..., pytest.RunResult], branch: tuple[str, ...]
) -> None:
    measured = []
    for guarded in ("--no-faultguard", "--faultguard"):
        coverage("run", *branch, "--source=.", *PYTEST, guarded).assert_outcomes(passed=4, xfailed=1)
        coverage("json", "-o", "report.json")
        measured.append(told(project / "report.json"))

    assert measured[0] == measured[1]
    assert measured[0]["shop.py"]["summary"]["percent_covered"] >= 80


def test_what_was_measured_before_is_added_to(measure: Measure, xdist_args: tuple[str, ...]) -> None:
    first = measure("-k", "test_unguarded", *xdist_args)
    plain = measure("-k", "test_guarded", "--cov-append", "--no-faultguard")
    measure("-k", "test_unguarded")

    assert measure("-k", "test_guarded", "--cov-append", *xdist_args) == plain
    assert ran(plain) - ran(first) == {"total = amount * 9", "break"}


CONTEXTS = """
import pytest
import shop


@pytest.fixture
def customer():
    shop.opened(3)
    yield
    shop.closed()


@pytest.mark.faultguard
def test_member(customer):
    shop.price(1, True)


@pytest.mark.faultguard
def test_guest(customer):
    shop.price(1, False)


def test_unguarded(customer):
    shop.sold()
"""


@pytest.mark.parametrize(
    ("config", "args"),
    [("", ()), ("context = night", ("--cov-branch",)), ("", ("-n2",))],
    ids=["serial", "static_branch", "n2"],
)
def test_each_line_knows_the_tests_that_ran_it(
    project: Path, measure: Measure, pytester: pytest.Pytester, config: str, args: tuple[str, ...]
) -> None:
    """`--cov-context=test`: by test and phase."""
    pytester.makepyfile(test_shop=CONTEXTS)
    (project / ".coveragerc").write_text(f"{COVERAGERC}\n[run]\n{config}\n")
    plain = measure("--cov-context=test", *args, "--no-faultguard")

    assert measure("--cov-context=test", *args) == plain
    prefix = "night|" if config else ""
    contexts = plain["shop.py"]["contexts"].values()
    assert [f"{prefix}test_shop.py::test_member|run"] in contexts
    names = ("test_guest", "test_member", "test_unguarded")
    assert [f"{prefix}test_shop.py::{name}|teardown" for name in names] in contexts


def test_contexts_that_coverage_finds_itself(
    project: Path, coverage: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """`dynamic_context = test_function` changes the context in mid-phase."""
    pytester.makepyfile(test_shop=CONTEXTS)
    (project / ".coveragerc").write_text(f"{COVERAGERC}\n[run]\nsource = .\ndynamic_context = test_function\n")
    measured = []
    for guarded in ("--no-faultguard", "--faultguard"):
        coverage("run", *PYTEST, guarded).assert_outcomes(passed=3)
        coverage("json", "-o", "report.json")
        measured.append(told(project / "report.json"))

    assert measured[0] == measured[1]
    assert ["test_shop.test_member"] in measured[0]["shop.py"]["contexts"].values()


LATE = """
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.faultguard


def test_imports_late():
    import shop

    shop.price(1, True)


def test_forks():
    import shop

    pid = os.fork()
    if pid == 0:
        shop.sold()
        os._exit(0)
    os.waitpid(pid, 0)


def test_starts_a_program():
    subprocess.run([sys.executable, "-c", "import shop; shop.closed()"], check=True)


@pytest.mark.no_cover
def test_not_counted():
    import shop

    shop.never()


def test_counted(cov):
    import shop

    shop.price(1, False)
    assert cov is not None
"""

MAIN = {"total = amount * 9", "total = amount * 10", "if member:", "return total"}


@pytest.mark.parametrize(
    ("patch", "more"),
    {
        "": set(),
        "_exit": {'return "sold"'},
        "fork": set(),
        "subprocess": {'return "closed"'},
        "fork, subprocess, _exit": {'return "sold"', 'return "closed"'},
    }.items(),
)
def test_processes_of_a_test_count_as_in_process(
    project: Path, measure: Measure, pytester: pytest.Pytester, patch: str, more: set[str]
) -> None:
    """With coverage.py's patches; and what it is told not to count, it does not."""
    pytester.makepyfile(test_shop=LATE)
    (project / ".coveragerc").write_text(f"[run]\npatch = {patch}\n")
    plain = measure("--no-faultguard", "--cov-branch")

    assert measure("--cov-branch") == plain
    assert ran(plain) == MAIN | more - {'return "never"'}


def test_a_package_that_only_children_import_is_no_missing_one(project: Path, run_pytest: RunPytest) -> None:
    (project / "test_shop.py").write_text("def test_late():\n    import shop\n    shop.sold()\n")
    (project / "test_other.py").write_text("def test_other():\n    pass\n")

    for args, is_missing in (("test_shop.py",), False), (("test_other.py",), True):
        result = run_pytest("--faultguard", "--cov=shop", *args, plugins=(*PLUGINS, "pytest_cov"))

        result.assert_outcomes(passed=1)
        assert ("CoverageWarning" in result.stdout.str() + result.stderr.str()) is is_missing


def test_what_ran_until_a_test_ended_the_session_counts(
    project: Path, coverage: Callable[..., pytest.RunResult], pytester: pytest.Pytester
) -> None:
    """`pytest.exit` in a test: there is no report of that phase, and coverage.py counts it all the same."""
    text = CRASHES.format(die="pytest.exit('enough', 0)", setup="", teardown="", call="shop.robbed(die)")
    pytester.makepyfile(test_shop=text)
    measured = []
    for guarded in ("--no-faultguard", "--faultguard"):
        assert coverage("run", "--source=.", *PYTEST, guarded).ret == 0
        coverage("json", "-o", "report.json")
        measured.append(told(project / "report.json"))

    assert ran(measured[0]) == ran(measured[1]) >= {"how()", 'return "closed"'}


TRACER = """
import coverage


class Plugin(coverage.CoveragePlugin):
    def file_tracer(self, filename):
        return Tracer(filename) if filename.endswith("shop.py") else None

    def file_reporter(self, filename):
        return Reporter(filename)


class Tracer(coverage.FileTracer):
    def __init__(self, filename):
        self.filename = filename

    def source_filename(self):
        return self.filename.replace("shop.py", "shop.template")

    def line_number_range(self, frame):
        return frame.f_lineno + 100, frame.f_lineno + 100


class Reporter(coverage.FileReporter):
    def lines(self):
        return set(range(100, 140))

    def source(self):
        return ""


def coverage_init(registry, options):
    registry.add_file_tracer(Plugin())
"""


def test_files_that_a_plugin_of_coverage_measures(
    project: Path, measure: Measure, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As templates are: the data says which plugin knows their lines."""
    monkeypatch.setenv("COVERAGE_CORE", "ctrace")
    pytester.makepyfile(tracer=TRACER, test_shop="def test_late():\n    import shop\n    shop.sold()\n")
    (project / ".coveragerc").write_text("[run]\nplugins = tracer\nsource_dirs = .\n")
    plain = measure("--no-faultguard")

    assert measure("--faultguard") == plain
    assert max(plain["shop.template"]["executed_lines"]) > 120


def test_a_session_in_a_guarded_test_hands_on_what_its_children_ran(
    project: Path, measure: Measure, pytester: pytest.Pytester
) -> None:
    """Two processes away from the one that is measured."""
    pytester.makeconftest("pytest_plugins = ['pytester']")
    pytester.makepyfile(
        test_shop=f"""
        def test_outer(pytester):
            pytester.makepyfile(
                "import sys; sys.path.insert(0, {str(project)!r})\\n"
                "import shop\\n"
                "def test_inner(): assert shop.price(1, True) == 9\\n"
            )
            options = ["-p", "no:cacheprovider", "-p", "faultguard", "--faultguard"]
            pytester.runpytest_inprocess(*options).assert_outcomes(passed=1)
        """
    )
    plain = measure("test_shop.py", "--no-faultguard")

    assert measure("test_shop.py", "--faultguard") == plain
    assert set(range(2, 4)) <= set(plain["shop.py"]["executed_lines"])


def test_fail_under_knows_the_total(project: Path, run_pytest: RunPytest, xdist_args: tuple[str, ...]) -> None:
    for least, status in (79, 0), (81, 1):
        result = run_pytest(
            "--faultguard", *xdist_args, "--cov=shop", f"--cov-fail-under={least}", plugins=(*PLUGINS, "pytest_cov")
        )

        assert result.ret == status
        result.stdout.fnmatch_lines(["*Total coverage: 80.00%"])


def test_without_coverage_nothing_of_it_is_loaded(project: Path, run_pytest: RunPytest) -> None:
    (project / "test_shop.py").write_text("import sys\n\ndef test_it():\n    assert 'coverage' not in sys.modules\n")

    run_pytest("--faultguard", plugins=PLUGINS).assert_outcomes(passed=1)
