"""What other plugins do in a child that is a copy of pytest's process, they do in one that starts clean."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from typing import TypeAlias

import pytest

from testing.harness import RunPytest
from testing.plugins import test_doctest
from testing.plugins import test_subtests
from testing.plugins.conftest import Session
from testing.plugins.conftest import SideBySide

#: Of a session: by file, what coverage.py's JSON report says of it.
Measure: TypeAlias = Callable[..., dict[str, Any]]

PLUGINS = ("no:cacheprovider", "faultguard", "xdist")


@pytest.fixture(params=["fork", "forkserver", "spawn"])
def start(request: pytest.FixtureRequest) -> str:
    """The option for each of them."""
    return f"--faultguard-start={request.param}"


@pytest.fixture(params=["function", "session"])
def scope(request: pytest.FixtureRequest) -> str:
    """The option for one child for a test, and for one for all."""
    return f"--faultguard-scope={request.param}"


@pytest.fixture(autouse=True)
def _no_other_plugins(run_pytest: RunPytest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the inner sessions; and nobody measures them but they themselves."""
    assert run_pytest is not None
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in list(os.environ):
        if name.startswith(("COVERAGE_", "COV_CORE_")):
            monkeypatch.delenv(name)


# Coverage.

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


def never():
    return "never"
"""

SUITE = """
import os
import signal

import pytest


@pytest.fixture(scope="module")
def till():
    import shop
    yield shop
    shop.closed()


@pytest.fixture
def customer(till):
    till.opened(3)
    yield
    till.sold()


def test_member(till):
    assert till.price(1, True) == 9


def test_guest(customer, till):
    assert till.price(1, False) == 10


@pytest.mark.no_cover
def test_not_counted(till):
    till.never()


def test_asks(cov, till):
    assert cov is not None
    assert cov.get_option("run:source") == ["shop"]
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> Path:
    """A module that is measured."""
    pytest.importorskip("pytest_cov")
    pytester.makepyfile(shop=SHOP, test_shop=SUITE)
    (pytester.path / ".coveragerc").write_text("[json]\nshow_contexts = true\n")
    return pytester.path


@pytest.fixture
def measure(project: Path, run_pytest: RunPytest) -> Measure:
    """`measure(*args)`: what one session with pytest-cov has measured, which has left one data file."""

    def run(*args: str, failed: int = 0) -> dict[str, Any]:
        report = f"--cov-report=json:{project / 'report.json'}"
        result = run_pytest("--cov=shop", report, *args, plugins=(*PLUGINS, "pytest_cov"))
        counts = result.parseoutcomes()
        assert counts.get("failed", 0) + counts.get("errors", 0) == failed, result.stdout.str()
        assert data_files(project) == [".coverage"]
        return told(project)

    return run


def told(project: Path) -> dict[str, Any]:
    """By file, what the JSON report says; it names contexts in any order."""
    files: dict[str, Any] = json.loads((project / "report.json").read_text())["files"]
    for file in files.values():
        # Said again by function and by class.
        file.pop("functions", None)
        file.pop("classes", None)
        file["contexts"] = {number: sorted(names) for number, names in file.get("contexts", {}).items()}
    return files


def data_files(project: Path) -> list[str]:
    """All that coverage.py may have left."""
    return sorted(path.name for path in project.glob(".coverage*") if path.name != ".coveragerc")


def ran(measured: dict[str, Any]) -> set[str]:
    """The lines of the shop's functions that have run."""
    source = SHOP.strip("\n").splitlines()
    executed = [source[number - 1] for number in measured["shop.py"]["executed_lines"]]
    return {line.strip() for line in executed if line.startswith(" ")}


@pytest.mark.parametrize("args", [(), ("--cov-branch",)], ids=["lines", "branch"])
def test_lines_and_arcs_are_the_same(measure: Measure, start: str, scope: str, args: tuple[str, ...]) -> None:
    """Imported late, of fixtures that tests share, with a test that is not counted."""
    plain = measure(*args, "--no-faultguard")

    assert measure(*args, start, scope, "--faultguard") == plain
    assert ran(plain) >= {"total = amount * 9", "total = amount * 10", "break", 'return "closed"'}
    assert 'return "never"' not in ran(plain)


@pytest.mark.parametrize("branch", [(), ("--branch",)], ids=["lines", "branch"])
def test_coverage_run(project: Path, pytester: pytest.Pytester, start: str, branch: tuple[str, ...]) -> None:
    """coverage.py by itself measures the whole session: the test modules as well, and what imports them."""
    (project / "test_shop.py").write_text(SUITE.partition("@pytest.mark.no_cover")[0])
    words = [word for plugin in PLUGINS for word in ("-p", plugin)]
    measured = []
    for guarded in ("--no-faultguard", "--faultguard"):
        command = [sys.executable, "-m", "coverage", "run", *branch, "--source=.", "-m", "pytest", *words]
        pytester.run(*command, guarded, start).assert_outcomes(passed=2)
        pytester.run(sys.executable, "-m", "coverage", "json", "-o", "report.json")
        assert data_files(project) == [".coverage"]
        measured.append(told(project))

    assert measured[0] == measured[1]
    assert measured[0]["test_shop.py"]["summary"]["percent_covered"] == 100


@pytest.mark.parametrize(
    ("config", "args"), [("", ()), ("context = night", ("--cov-branch",))], ids=["dynamic", "static"]
)
def test_contexts_by_test(
    measure: Measure, project: Path, start: str, config: str, args: tuple[str, ...], xdist_args: tuple[str, ...]
) -> None:
    """`--cov-context=test`: each line of a function names the tests that ran it, and the phase."""
    (project / "test_shop.py").write_text("import shop\n" + SUITE.replace('scope="module"', 'scope="function"'))
    (project / ".coveragerc").write_text(f"[json]\nshow_contexts = true\n[run]\n{config}\n")
    args = (*args, *xdist_args, "--cov-context=test")
    plain = measure(*args, "--no-faultguard")

    assert measure(*args, start, "--faultguard") == plain
    prefix = "night|" if config else ""
    assert [f"{prefix}test_shop.py::test_guest|run"] in plain["shop.py"]["contexts"].values()
    assert [f"{prefix}test_shop.py::test_guest|teardown"] in plain["shop.py"]["contexts"].values()


@pytest.mark.parametrize(
    ("way", "config"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", "parallel = true"),
        ("os._exit(0)", "patch = _exit"),
        ("signal.pause()", "sigterm = true"),
    ],
    ids=["killed", "parallel", "exit", "hang"],
)
def test_of_a_crash_count_the_phases_before(measure: Measure, project: Path, start: str, way: str, config: str) -> None:
    """And no file is left, nor there for a moment: with and without one for each process."""
    (project / ".coveragerc").write_text(f"[run]\n{config}\n")
    dies = SUITE.partition("def test_member")[0] + f"def test_dies(customer, till):\n    till.never()\n    {way}\n"
    files = "\n\ndef test_files():\n    assert [one for one in os.listdir() if '.coverage' in one] == ['.coveragerc']\n"
    (project / "test_shop.py").write_text(dies + files)
    (project / ".coverage").unlink(missing_ok=True)

    measured = measure(start, "--faultguard", "--faultguard-timeout=0.5", failed=1)

    # With coverage.py's patch, what ran before the exit counts as well, as it would without us.
    more = {'return "never"'} if "_exit" in config else set()
    assert ran(measured) == {"for hour in range(shift):", "if hour > 1:", "break", 'return "opened"'} | more


@pytest.mark.parametrize("patch", ["", "_exit", "fork, subprocess, _exit"])
def test_processes_of_a_test(measure: Measure, project: Path, start: str, patch: str) -> None:
    """What a test forks and starts writes its own file where it would without us, and that is added."""
    (project / ".coveragerc").write_text(f"[run]\npatch = {patch}\n")
    (project / "test_shop.py").write_text(
        "import os, subprocess, sys\n"
        "def test_forks():\n"
        "    import shop\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        shop.sold()\n"
        "        os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
        "def test_starts():\n"
        "    subprocess.run([sys.executable, '-c', 'import shop; shop.closed()'], check=True)\n"
    )
    plain = measure("--no-faultguard")

    assert measure(start, "--faultguard") == plain
    assert ('return "sold"' in ran(plain)) == ("_exit" in patch)
    assert ('return "closed"' in ran(plain)) == ("subprocess" in patch)


def test_coverage_from_anywhere(
    project: Path, run_pytest: RunPytest, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--cov` of the ini file and of PYTEST_ADDOPTS; and what fails under a number knows the total."""
    (project / "pytest.ini").write_text("[pytest]\naddopts = --cov=shop --cov-report=\n")
    monkeypatch.setenv("PYTEST_ADDOPTS", "--cov-fail-under=99")
    totals = []
    for guarded in ("--no-faultguard", "--faultguard"):
        result = run_pytest(guarded, start, plugins=(*PLUGINS, "pytest_cov"))
        result.assert_outcomes(passed=4)
        assert result.ret == 1
        totals += re.findall(r"Total coverage: (.*)%", result.stdout.str())

    assert totals[0] == totals[1]
    assert float(totals[0]) > 80


def test_no_cov_is_no_cov(project: Path, run_pytest: RunPytest, start: str) -> None:
    """Where the user switches it off, it is off in a child: nothing measures there, and nothing is there to ask."""
    (project / "test_shop.py").write_text(
        "import sys\ndef test_it(cov):\n    assert cov is None\n    assert sys.gettrace() is None\n"
    )

    result = run_pytest("--cov=shop", "--no-cov", "--faultguard", start, plugins=(*PLUGINS, "pytest_cov"))

    result.assert_outcomes(passed=1)
    assert data_files(project) == []


# The order, and random numbers.

NUMBERS = """
import random

import pytest


@pytest.mark.parametrize("number", range(6))
def test_it(number, record_property):
    record_property("drawn", random.random())
"""


def test_order_and_seeds(pytester: pytest.Pytester, side_by_side: SideBySide, start: str, scope: str) -> None:
    """pytest-randomly shuffles in pytest's process and in a fresh one, and each test has its seed."""
    pytest.importorskip("pytest_randomly")
    pytester.makepyfile(test_a=NUMBERS, test_b=NUMBERS, test_c=NUMBERS)
    plain, guarded = side_by_side("--randomly-seed=4711", start, scope, plugin="randomly")

    assert drawn(plain) == drawn(guarded)
    assert len(set(drawn(plain).values())) > 1
    assert list(drawn(plain)) == list(drawn(guarded)) != sorted(drawn(plain))


def test_a_seed_that_nobody_gave(pytester: pytest.Pytester, side_by_side: SideBySide, start: str) -> None:
    """It is drawn by pytest's process alone: what it says gives the same numbers again."""
    pytest.importorskip("pytest_randomly")
    pytester.makepyfile(test_a=NUMBERS, test_b=NUMBERS)
    guarded = side_by_side.session("--faultguard", start, plugin="randomly")
    found = re.search(r"Using --randomly-seed=(\d+)", guarded.text)
    assert found is not None
    plain = side_by_side.session("--no-faultguard", found[0].split()[1], plugin="randomly")

    assert drawn(plain) == drawn(guarded)
    assert list(drawn(plain)) == list(drawn(guarded))


def drawn(session: Session) -> dict[str, object]:
    """By test, in their order, its number."""
    return {one.nodeid: dict(one.user_properties)["drawn"] for one in session.reports if one.when == "teardown"}


# Reruns, each in a child of its own.

FLAKY = """
import os
import signal

import pytest


def once():
    if not os.path.exists("been"):
        open("been", "w").close()
        return True


@pytest.mark.flaky(reruns=2)
def test_it():
    with open("pids", "a") as file:
        print(os.getpid(), file=file)
    if once():
        {0}
"""


@pytest.mark.parametrize(
    "way", ["os.kill(os.getpid(), signal.SIGSEGV)", "os._exit(3)", "signal.pause()", "assert False"]
)
def test_a_crash_is_run_again(pytester: pytest.Pytester, side_by_side: SideBySide, start: str, way: str) -> None:
    """pytest-rerunfailures: it passes the second time, in another process."""
    pytest.importorskip("pytest_rerunfailures")
    pytester.makepyfile(test_it=FLAKY.format(way))
    session = side_by_side.session("--faultguard", "--faultguard-timeout=0.5", start, plugin="rerunfailures")

    calls = [one.outcome for one in session.reports if one.when == "call"]
    assert calls == ["rerun", "passed"]
    assert session.counts == {"passed": 1, "rerun": 1}
    assert session.exit_status == 0
    pids = (pytester.path / "pids").read_text().split()
    assert len(pids) == len(set(pids)) == 2


def test_a_condition_that_is_code(pytester: pytest.Pytester, side_by_side: SideBySide, start: str) -> None:
    """A child evaluates it, after a crash another one: with what its module has."""
    pytest.importorskip("pytest_rerunfailures")
    pytester.makepyfile(
        """
        import os

        import pytest

        HERE = []

        @pytest.mark.flaky(reruns=1, condition=lambda error: "SIGABRT" in str(error) and "PYTEST_FAULTGUARD" in os.environ)
        def test_aborts():
            os.abort()

        @pytest.mark.flaky(reruns=1, condition=lambda error: "SIGABRT" in str(error))
        def test_raises():
            raise RuntimeError
        """
    )
    session = side_by_side.session("--faultguard", start, plugin="rerunfailures")

    assert session.counts == {"failed": 2, "rerun": 1}
    assert [one.outcome for one in session.reports if one.when == "call"] == ["rerun", "failed", "failed"]


# Files that pytest's process writes.

FILES = """
import os
import pytest

def test_passes(record_property):
    print("printed")
    record_property("fruit", "banana")

def test_fails():
    assert 1 == 2

def test_crashes():
    os.abort()

@pytest.mark.skip(reason="not today")
def test_skipped():
    pass
"""


def test_one_reportlog(
    pytester: pytest.Pytester, run_pytest: RunPytest, start: str, xdist_args: tuple[str, ...]
) -> None:
    """pytest-reportlog: one session's lines, all of pytest's process, in one file."""
    pytest.importorskip("pytest_reportlog")
    pytester.makepyfile(test_it=FILES)

    result = run_pytest(
        "--faultguard", start, *xdist_args, "--report-log=log.json", plugins=(*PLUGINS, "pytest_reportlog")
    )

    result.assert_outcomes(passed=1, failed=2, skipped=1)
    lines = [json.loads(line) for line in (pytester.path / "log.json").read_text().splitlines()]
    kinds = [line["$report_type"] for line in lines]
    assert kinds.count("SessionStart") == kinds.count("SessionFinish") == 1
    assert (kinds[0], kinds[-1]) == ("SessionStart", "SessionFinish")
    assert lines[-1]["exitstatus"] == 1
    phases = sorted((line["nodeid"], line["when"]) for line in lines if line["$report_type"] == "TestReport")
    assert len(phases) == len(set(phases)) == 11
    crashed = [line for line in lines if line.get("faultguard_crash")]
    assert [(line["nodeid"], line["when"]) for line in crashed] == [("test_it.py::test_crashes", "call")]


def test_one_page(pytester: pytest.Pytester, run_pytest: RunPytest, start: str, xdist_args: tuple[str, ...]) -> None:
    """pytest-html: a page with a row for each test, and no child has written another over it."""
    pytest.importorskip("pytest_html")
    pytester.makepyfile(test_it=FILES)
    # At its end each process that has a page says so.
    pytester.makeconftest(
        "import os\n"
        "def pytest_html_results_summary(prefix):\n"
        "    with open('pages', 'a') as file: print(os.environ.get('PYTEST_FAULTGUARD'), file=file)\n"
    )

    result = run_pytest(
        "--faultguard", start, *xdist_args, "--html=page.html",
        plugins=(*PLUGINS, "metadata", "html", "html_fixtures"),
    )  # fmt: skip

    result.assert_outcomes(passed=1, failed=2, skipped=1)
    page = (pytester.path / "page.html").read_text()
    for name in ("test_passes", "test_fails", "test_crashes", "test_skipped"):
        assert f"test_it.py::{name}" in page
    assert "SIGABRT (aborted)" in page
    assert set((pytester.path / "pages").read_text().split()) == {"None"}


def test_files_of_pytest_itself(pytester: pytest.Pytester, run_pytest: RunPytest, start: str, scope: str) -> None:
    """One junitxml with all tests, and a cache that knows all that failed."""
    pytester.makepyfile(test_it=FILES)
    args = ("--faultguard", start, scope)

    run_pytest(*args, "--junitxml=junit.xml", plugins=("faultguard",)).assert_outcomes(passed=1, failed=2, skipped=1)
    junit = (pytester.path / "junit.xml").read_text()
    again = run_pytest(*args, "--lf", "-v", plugins=("faultguard",))

    assert re.findall(r' name="(test_\w+)" time', junit) == [
        "test_passes",
        "test_fails",
        "test_crashes",
        "test_skipped",
    ]
    again.assert_outcomes(failed=2)


# Plugins that run a test in their own way.


def test_event_loops(pytester: pytest.Pytester, side_by_side: SideBySide, start: str, scope: str) -> None:
    """pytest-asyncio: loops of every scope, closed at their end, and a coroutine that crashes."""
    pytest.importorskip("pytest_asyncio")
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(
        """
        import asyncio
        import os

        import pytest
        import pytest_asyncio

        guarded = pytest.mark.skipif("PYTEST_FAULTGUARD" not in os.environ, reason="would kill pytest")


        @pytest_asyncio.fixture(scope="module", loop_scope="module")
        async def loop():
            yield asyncio.get_running_loop()
            assert asyncio.get_running_loop().is_running()


        @pytest.mark.asyncio(loop_scope="module")
        async def test_shares(loop):
            assert asyncio.get_running_loop() is loop


        @pytest.mark.asyncio(loop_scope="module")
        async def test_shares_too(loop):
            await asyncio.sleep(0)
            assert asyncio.get_running_loop() is loop


        async def test_has_its_own(loop):
            assert asyncio.get_running_loop() is not loop


        async def test_fails():
            await asyncio.sleep(0)
            assert False
        """
    )
    side_by_side(start, scope, plugin="asyncio")

    pytester.makepyfile(
        test_crash="import asyncio, os\nasync def test_it():\n    await asyncio.sleep(0)\n    os.abort()\n"
    )
    session = side_by_side.session("--faultguard", start, scope, "test_crash.py", plugin="asyncio")
    (crashed,) = [one for one in session.reports if one.outcome == "failed"]
    assert crashed.crash["ending"]["kind"] == "Signaled"
    assert "test_crash.py:4" in crashed.longrepr


def test_examples(pytester: pytest.Pytester, side_by_side: SideBySide, start: str, scope: str) -> None:
    """Hypothesis: with its seed the same examples, and a database that the next session reads."""
    pytest.importorskip("hypothesis")
    pytester.makepyfile(
        """
        from hypothesis import given
        from hypothesis import settings
        from hypothesis import strategies as st


        @given(st.integers(0, 1000))
        @settings(max_examples=20)
        def test_draws(number):
            with open("drawn", "a") as file:
                print(number, file=file)


        @given(st.integers(0, 1000))
        def test_fails(number):
            assert number < 100
        """
    )
    pytester.makeconftest(
        "from hypothesis import Phase, settings\nsettings.register_profile('reuse', phases=[Phase.reuse])\n"
    )
    drawn = []
    for guarded in ("--no-faultguard", "--faultguard"):
        session = side_by_side.session(guarded, start, scope, "--hypothesis-seed=7", plugin="hypothesispytest")
        assert session.counts == {"passed": 1, "failed": 1}
        assert "number=100" in session.text
        drawn.append((pytester.path / "drawn").read_text())
        (pytester.path / "drawn").unlink()
    assert drawn[0] == drawn[1] != ""

    # With a seed there is no database.
    side_by_side.session("--faultguard", start, scope, "-k", "fails", plugin="hypothesispytest")
    again = side_by_side.session(
        "--no-faultguard", "--hypothesis-profile=reuse", "-k", "fails", plugin="hypothesispytest"
    )
    assert again.counts == {"failed": 1, "deselected": 1}
    assert "number=100" in again.text


def test_deadlines(pytester: pytest.Pytester, side_by_side: SideBySide, start: str, scope: str) -> None:
    """pytest-timeout: mark and option are the guard's, also where no signal handler would ever run; and none is set."""
    pytest.importorskip("pytest_timeout")
    pytester.makepyfile(
        """
        import signal
        import time

        import pytest


        @pytest.mark.timeout(0.5)
        def test_hangs():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
            while True:
                pass


        def test_has_no_alarm():
            assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
            assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


        @pytest.mark.timeout(0)
        def test_has_time():
            time.sleep(1.2)


        def test_hangs_too():
            signal.pause()
        """
    )
    session = side_by_side.session("--faultguard", start, scope, "--timeout=1", plugin="timeout")

    assert session.counts == {"failed": 2, "passed": 2}
    limits = {one.nodeid.partition("::")[2]: one.crash["ending"]["timeout"] for one in session.reports if one.crash}
    assert limits == {"test_hangs": 0.5, "test_hangs_too": 1.0}


# Of pytest itself.


def test_doctests(pytester: pytest.Pytester, side_by_side: SideBySide, start: str, scope: str) -> None:
    """Of modules and of text files; what fails is told as ever."""
    pytester.makeconftest(test_doctest.CONFTEST)
    pytester.makepyfile(mymodule=test_doctest.MODULE)
    pytester.maketxtfile(test_example=test_doctest.TEXT, test_wrong=test_doctest.WRONG_TEXT)

    plain, guarded = side_by_side(start, scope, "--doctest-modules", "--doctest-continue-on-failure")

    assert guarded.counts == {"passed": 3, "failed": 2}
    assert "UNEXPECTED EXCEPTION: IndexError" in guarded.text
    assert guarded.lines == plain.lines


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest has subtests since 9.0")
def test_parts_of_tests(pytester: pytest.Pytester, side_by_side: SideBySide, start: str, scope: str) -> None:
    """Subtests of pytest and those of unittest: each that fails is a report, and told as ever."""
    pytester.makeconftest(test_subtests.CONFTEST)
    pytester.makepyfile(test_samples=test_subtests.SAMPLES, docs_one='"""One."""', docs_two="two = 2")

    plain, guarded = side_by_side(start, scope, "-v")

    assert guarded.outcomes["test_samples.py::test"].count("call failed") == 3
    assert guarded.outcomes["test_samples.py::T::test_foo"].count("call failed") >= 2
    assert guarded.outcomes["test_samples.py::NumbersTest::test_even"].count("call failed") == 0
    assert test_subtests.told(guarded.lines) == test_subtests.told(plain.lines) != []


# What is lost.


def test_benchmarks(pytester: pytest.Pytester, side_by_side: SideBySide, start: str, scope: str) -> None:
    """pytest-benchmark: the tests end as without the guard, and a warning names what is lost."""
    pytest.importorskip("pytest_benchmark")
    pytester.makepyfile(
        """
        def test_it(benchmark):
            assert benchmark(lambda: 123) == 123

        def test_fails(benchmark):
            assert benchmark(lambda: 123) == 321
        """
    )
    quick = ("--benchmark-max-time=0.01", "--benchmark-min-rounds=2", "--benchmark-warmup=off")

    session = side_by_side.session("--faultguard", start, scope, *quick, plugin="benchmark")

    assert len(session.guarded) == 2
    assert session.counts == {"passed": 1, "failed": 1, "warnings": 2}
    assert [one.partition(": what")[0] for one in session.warnings] == ["LostResultsWarning: pytest-benchmark"] * 2
    assert "OPS: Operations Per Second" not in session.text


def test_snapshots(pytester: pytest.Pytester, side_by_side: SideBySide, start: str, scope: str) -> None:
    """syrupy: they are compared, and a warning says that they count as unused; none is written or deleted."""
    pytest.importorskip("syrupy")
    pytester.makepyfile(
        """
        def test_same(snapshot):
            assert "a value" == snapshot

        def test_changes(snapshot):
            import os
            assert os.environ.get("CHANGED", "a value") == snapshot
        """
    )
    side_by_side.session("--no-faultguard", "--snapshot-update", plugin="syrupy")
    (written,) = pytester.path.glob("__snapshots__/*")
    text = written.read_text()
    pytester.makeconftest("import os\nos.environ['CHANGED'] = 'another one'\n")

    session = side_by_side.session("--faultguard", start, scope, plugin="syrupy")
    _, quiet = side_by_side(start, scope, "--snapshot-disable-unused", plugin="syrupy")

    assert session.counts == {"passed": 1, "failed": 1, "warnings": 2}
    assert [one.partition(": it does")[0] for one in session.warnings] == ["LostResultsWarning: syrupy"] * 2
    assert quiet.counts == {"passed": 1, "failed": 1}
    assert "another one" in quiet.text
    assert written.read_text() == text
