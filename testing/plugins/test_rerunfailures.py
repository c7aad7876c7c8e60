"""Beside pytest-rerunfailures: a crash or a hang is run again like any failure, each attempt in a child of its own."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from testing.harness import Junit
    from testing.harness import Report
    from testing.plugins.conftest import Session
    from testing.plugins.conftest import SideBySide

HEAD = """
import os
import signal
import sys
import time

import pytest

def note(what):
    with open("noted", "a") as file:
        print(what, os.getpid(), time.monotonic(), file=file)

def crash():
    os.kill(os.getpid(), signal.SIGSEGV)

"""


def noted(path: Path) -> list[tuple[str, int, float]]:
    """What the tests noted, by which process, and when; then forgotten."""
    file = path / "noted"
    lines = [line.rsplit(" ", 2) for line in file.read_text().splitlines()]
    file.unlink()
    return [(what, int(pid), float(when)) for what, pid, when in lines]


def attempts(session: Session, name: str) -> list[list[str]]:
    """For each attempt of a test its phases."""
    told: list[list[str]] = []
    for report in session.reports:
        if report.nodeid.endswith(f"::{name}"):
            if report.when == "setup":
                told.append([])
            told[-1].append(f"{report.when} {report.outcome}")
    return told


def reports_of(session: Session, name: str, outcome: str) -> list[Report]:
    """The reports of a test that have this outcome."""
    return [one for one in session.reports if one.nodeid.endswith(f"::{name}") and one.outcome == outcome]


PASSED = ["setup passed", "call passed", "teardown passed"]


@pytest.mark.parametrize(
    ("args", "counts"),
    [
        (("--reruns=5",), {"passed": 3, "failed": 2, "rerun": 7}),
        (("--reruns=1", "--reruns-delay=0.01"), {"passed": 2, "failed": 3, "rerun": 6}),
        (("--force-reruns=2",), {"passed": 3, "failed": 2, "rerun": 8}),
        (("--reruns=1", "--reruns-mode=append"), {"passed": 2, "failed": 3, "rerun": 7}),
        (("--reruns=3", "--max-suite-reruns=4"), {"passed": 2, "failed": 3, "rerun": 4}),
        (("--reruns=3", "--rerun-exclude-path=test_samples.py"), {"passed": 0, "failed": 5, "rerun": 0}),
    ],
)
def test_documentation_samples(
    side_by_side: SideBySide, pytester: pytest.Pytester, args: tuple[str, ...], counts: dict[str, int]
) -> None:
    """With dice that fall the same way each time."""
    pytester.makeconftest(
        """
        import os
        import random

        class Choice:
            def __repr__(self):
                return "choice"

            def __call__(self, seq):
                # The test runs in this process or in a child: how often it asked stands in a file.
                test = os.environ["PYTEST_CURRENT_TEST"].partition("::")[2].partition(" ")[0]
                with open(test, "a+") as file:
                    file.write(".")
                    file.flush()
                    return file.tell() > 2

        random.choice = Choice()

        def pytest_sessionfinish(session):
            if not os.environ.get("PYTEST_FAULTGUARD"):
                for item in session.items:
                    if os.path.exists(item.name):
                        os.unlink(item.name)
        """
    )
    pytester.makepyfile(
        test_samples="""
        import sys

        import pytest

        @pytest.mark.flaky(reruns=5)
        def test_example():
            import random
            assert random.choice([True, False])

        @pytest.mark.flaky(reruns=5, reruns_delay=0.01)
        def test_example_delay():
            import random
            assert random.choice([True, False])

        @pytest.mark.flaky(reruns=5, condition=sys.platform.startswith("win32"))
        def test_example_elsewhere():
            import random
            assert random.choice([True, False])

        @pytest.mark.flaky(only_rerun=["ValueError", "AssertionError"])
        def test_example_only():
            raise AssertionError()

        def test_fails():
            import random
            assert random.choice([True, False])
        """
    )

    plain, guarded = side_by_side(*args, "-raR", plugin="rerunfailures")

    assert {name: guarded.counts.get(name, 0) for name in counts} == counts
    assert guarded.text == plain.text


FILTERED = """
import sys

import pytest

def test_assertion():
    assert False

def test_value():
    raise ValueError("of value")

def test_os():
    raise OSError("of os")

def test_cause():
    raise RuntimeError("wrapped") from MemoryError("of memory")

def test_context():
    try:
        assert False
    except AssertionError:
        raise ConnectionError("of connection")

@pytest.mark.flaky(rerun_except="AssertionError")
def test_mark_except():
    raise AssertionError()

@pytest.mark.flaky(only_rerun=["AssertionError", "ValueError"])
def test_mark_names():
    raise AssertionError()

@pytest.mark.flaky(only_rerun=[AssertionError, ValueError])
def test_mark_classes():
    raise AssertionError()

@pytest.mark.flaky(reruns=2, condition="sys.platform.startswith('win32')")
def test_mark_condition():
    assert False

@pytest.mark.flaky(reruns=2, reruns_delay=0.01, reruns_delay_backoff_factor=2)
def test_mark_backoff():
    assert False
"""
#: By what the plugin is told: the tests without a mark that are run again.
FILTERS = {
    ("--only-rerun=AssertionError",): "assertion context",
    ("--only-rerun=AssertionError", "--only-rerun=ValueError"): "assertion value context",
    ("--only-rerun=MemoryError",): "cause",
    ("--rerun-except=AssertionError",): "value os cause context",
    ("--rerun-except=AssertionError", "--rerun-except=OSError"): "value cause context",
    ("--rerun-except=MemoryError",): "assertion value os context",
    ("-c", "filters.ini"): "assertion value context",
    ("--reruns-delay=0.01", "--reruns-delay-backoff-factor=2"): "assertion value os cause context",
    ("--rerun-show-tracebacks",): "assertion value os cause context",
}


@pytest.mark.parametrize("args", FILTERS, ids=" ".join)
def test_the_filters_of_its_readme(side_by_side: SideBySide, pytester: pytest.Pytester, args: tuple[str, ...]) -> None:
    """Also what its hooks are told of an item: the number of the attempt."""
    (pytester.path / "filters.ini").write_text("[pytest]\nonly_rerun =\n    AssertionError\n    ValueError\n")
    pytester.makeconftest(
        """
        def pytest_runtest_makereport(item, call):
            with open("counted", "a") as file:
                print(item.name, call.when, item.execution_count, file=file)
        """
    )
    pytester.makepyfile(FILTERED)

    plain, guarded = side_by_side("--reruns=1", *args, "-raR", plugin="rerunfailures")

    assert guarded.text == plain.text
    rerun = {one.nodeid.rpartition("::test_")[2] for one in guarded.reports if one.outcome == "rerun"}
    assert {name for name in rerun if not name.startswith("mark_")} == set(FILTERS[args].split())
    counted = (pytester.path / "counted").read_text().splitlines()
    assert counted[: len(counted) // 2] == counted[len(counted) // 2 :]
    assert {line for line in counted if line.endswith(" call 2")} == {f"test_{name} call 2" for name in rerun}


WAYS = {
    "crash": ("crash()", "SIGSEGV (segmentation fault)"),
    "exit": ("os._exit(0)", "exit code 0"),
    "hang": ("time.sleep(600)", "timeout of 0.5 s passed"),
}
FAILED = {
    "setup": ["setup rerun", "teardown passed"],
    "call": ["setup passed", "call rerun", "teardown passed"],
    "teardown": ["setup passed", "call passed", "teardown rerun"],
}


def test_crash_is_run_again(side_by_side: SideBySide, pytester: pytest.Pytester, xdist_args: tuple[str, ...]) -> None:
    """In each phase; then the test has passed, and what the first attempt left is in its report."""
    (pytester.path / "test_it.py").write_text(
        HEAD
        + f"""
def die_in(phase, request):
    _, way, dies_in = request.node.name.rstrip("]").replace("[", "-").split("-")
    if phase == dies_in:
        note(request.node.name)
        if request.node.execution_count == 1:
            eval({ {way: action for way, (action, _) in WAYS.items()} }[way])

@pytest.fixture
def thing(request):
    die_in("setup", request)
    yield
    die_in("teardown", request)

@pytest.mark.faultguard(timeout=0.5)
@pytest.mark.parametrize("phase", ["setup", "call", "teardown"])
@pytest.mark.parametrize("way", ["crash", "exit", "hang"])
def test_dies(thing, request, faultguard_data, phase, way):
    faultguard_data["attempt"] = request.node.execution_count
    die_in("call", request)
"""
    )

    session = side_by_side.session("--reruns=1", *xdist_args, plugin="rerunfailures")

    # A crash in teardown is an error besides a call that passed.
    assert session.counts == {"passed": 9 + 3, "rerun": 9}
    assert session.exit_status == 0
    for phase, failed in FAILED.items():
        for way, (_, cause) in WAYS.items():
            name = f"test_dies[{way}-{phase}]"
            assert attempts(session, name) == [failed, PASSED]
            (report,) = reports_of(session, name, "rerun")
            assert (report.message or "").startswith(f"{cause} in {phase}")
            assert report.crash["phase"] == phase
            assert report.longrepr.count("'attempt' = 1") == (phase != "setup")
            assert "pytest_rerunfailures" not in report.longrepr
            assert all(one.crash is None for one in reports_of(session, name, "passed"))
    processes = [pid for _, pid, _ in noted(pytester.path)]
    assert len(processes) == len(set(processes)) == 18


def test_crash_stays_one_failure(
    side_by_side: SideBySide, pytester: pytest.Pytester, junit: Junit, xdist_args: tuple[str, ...]
) -> None:
    """Where all attempts crash; and ``-x`` counts none but the last."""
    (pytester.path / "test_it.py").write_text(
        HEAD
        + """
@pytest.mark.faultguard
@pytest.mark.flaky(reruns=2, reruns_delay=0.2)
def test_crashes():
    note("attempt")
    crash()

@pytest.mark.faultguard
def test_fails_once(request):
    assert request.node.execution_count > 1

@pytest.mark.faultguard
def test_crashes_once(request):
    if request.node.execution_count == 1:
        crash()
"""
    )

    session = side_by_side.session("--reruns=1", "--maxfail=2", *junit.args, *xdist_args, plugin="rerunfailures")

    assert session.counts == {"failed": 1, "passed": 2, "rerun": 4}
    again = ["setup passed", "call rerun", "teardown passed"]
    assert attempts(session, "test_crashes") == [again, again, ["setup passed", "call failed", "teardown passed"]]
    assert attempts(session, "test_crashes_once") == [again, PASSED]
    times = [when for _, _, when in noted(pytester.path)]
    assert all(later - earlier >= 0.2 for earlier, later in itertools.pairwise(times))
    assert len([case for case in junit.cases() if "failure" in case.outcomes]) == 1


def test_filters_know_the_type_of_a_crash(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    """``--only-rerun CrashError`` and the rest of them, as text and as classes."""
    (pytester.path / "test_it.py").write_text(
        HEAD
        + """
from pytest_faultguard import CrashError
from pytest_faultguard import HangError

pytestmark = pytest.mark.faultguard(timeout=0.5)

def test_crashes():
    crash()

def test_hangs():
    time.sleep(600)

def test_fails():
    assert False

@pytest.mark.flaky(reruns=1, only_rerun=CrashError)
def test_class_of_crash():
    time.sleep(600)

@pytest.mark.flaky(reruns=1, only_rerun=HangError)
def test_class_of_hang():
    crash()

@pytest.mark.flaky(reruns=1, rerun_except=CrashError)
def test_all_but_crashes():
    crash()

@pytest.mark.flaky(reruns=1, only_rerun="SIGSEGV")
def test_by_cause():
    crash()
"""
    )

    session = side_by_side.session("--reruns=1", "--only-rerun=CrashError", plugin="rerunfailures")

    rerun = {one.nodeid.rpartition("::")[2] for one in session.reports if one.outcome == "rerun"}
    assert rerun == {"test_crashes", "test_class_of_crash", "test_by_cause"}
    assert session.counts == {"failed": 7, "rerun": 3}

    session = side_by_side.session(
        "--reruns=1", "--rerun-except=CrashError", "-k", "crashes or fails", plugin="rerunfailures"
    )

    rerun = {one.nodeid.rpartition("::")[2] for one in session.reports if one.outcome == "rerun"}
    assert rerun == {"test_fails"}


def test_condition_is_evaluated_in_a_child(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    """Of a failure in the child that failed, which knows what the test did; of a crash in another one."""
    (pytester.path / "test_it.py").write_text(
        HEAD
        + """
pytestmark = pytest.mark.faultguard
known = []

def by_error(error):
    note(f"asked of {type(error).__name__}")
    return "SIGSEGV" in str(error) or known == [1]

def dies(error):
    note("dies")
    crash()

@pytest.mark.flaky(reruns=1, condition=by_error)
def test_crashes():
    crash()

@pytest.mark.flaky(reruns=1, condition="by_error(error)")
def test_fails():
    known.append(1)
    assert False

@pytest.mark.flaky(reruns=1, condition=by_error)
def test_exits():
    os._exit(3)

@pytest.mark.flaky(reruns=1, condition=by_error)
def test_passes():
    pass

@pytest.mark.flaky(reruns=1, condition=dies)
def test_condition_crashes():
    crash()

@pytest.mark.flaky(reruns=1, condition=True)
def test_simple():
    crash()
"""
    )

    session = side_by_side.session(plugin="rerunfailures")

    rerun = [one.nodeid.rpartition("::")[2] for one in session.reports if one.outcome == "rerun"]
    assert rerun == ["test_crashes", "test_fails", "test_simple"]
    asked = noted(pytester.path)
    assert [what for what, _, _ in asked if what != "dies"] == [
        *["asked of CrashError"] * 2,
        *["asked of AssertionError"] * 2,
        "asked of CrashError",
        "asked of NoneType",
    ]
    assert "dies" in {what for what, _, _ in asked}
    assert {one.pid for one in session.reports}.isdisjoint(pid for _, pid, _ in asked)


def test_fixtures_of_the_parent_stay_between_attempts(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    """Each is set up and torn down once and where it is without the guard, also by the last test of its scope."""
    (pytester.path / "test_it.py").write_text(
        HEAD
        + """
@pytest.fixture(scope="session")
def of_session():
    note("session up")
    yield
    note("session down")

@pytest.fixture(scope="module")
def of_module(of_session):
    note("module up")
    yield []
    note("module down")

class TestIt:
    @pytest.fixture(scope="class")
    def of_class(self):
        note("class up")
        yield
        note("class down")

    def test_unguarded(self, of_class, of_module, request):
        note("unguarded")
        assert request.node.execution_count > 1

    @pytest.mark.faultguard
    def test_last_of_its_class(self, of_class, of_module, request):
        note("last of its class")
        assert request.node.execution_count > 2

@pytest.mark.faultguard
@pytest.mark.flaky(reruns=2, condition="False")
def test_not_run_again(of_module):
    note("not run again")
    assert False

@pytest.mark.faultguard
def test_last(of_module):
    note("last")
    assert False
"""
    )

    plain = side_by_side.session("--reruns=2", "--no-faultguard", plugin="rerunfailures")
    expected = [what for what, _, _ in noted(pytester.path)]
    guarded = side_by_side.session("--reruns=2", plugin="rerunfailures")
    told = noted(pytester.path)

    assert [what for what, _, _ in told] == expected
    assert expected[-3:] == ["last", "module down", "session down"]
    assert guarded.outcomes == plain.outcomes
    assert guarded.counts == plain.counts
    processes = {what: pid for what, pid, _ in told}
    assert len({pid for what, pid, _ in told if what.endswith((" up", " down", "unguarded"))}) == 1
    assert processes["last"] != processes["module down"]


def test_fixtures_of_a_child_end_with_its_attempt(
    side_by_side: SideBySide, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """They are set up in each attempt, whatever their scope, and torn down in it."""
    (pytester.path / "test_it.py").write_text(
        HEAD
        + """
@pytest.fixture(scope="session")
def of_session():
    note("up")
    yield
    note("down")

@pytest.mark.faultguard
def test_fails_twice(of_session, request):
    assert request.node.execution_count > 2
"""
    )

    session = side_by_side.session("--reruns=2", *xdist_args, plugin="rerunfailures")

    assert session.counts == {"passed": 1, "rerun": 2}
    told = noted(pytester.path)
    assert [what for what, _, _ in told] == ["up", "down"] * 3
    assert len({pid for _, pid, _ in told}) == 3


@pytest.mark.parametrize(("arguments", "reruns"), [("", 1), (", condition='False'", 0)])
def test_error_in_a_teardown_of_the_parent(
    side_by_side: SideBySide, pytester: pytest.Pytester, arguments: str, reruns: int
) -> None:
    """It is reported, after the last attempt."""
    (pytester.path / "test_it.py").write_text(
        HEAD
        + f"""
@pytest.fixture(scope="module")
def fails():
    yield
    note("torn down")
    raise ValueError("in teardown")

def test_unguarded(fails):
    pass

@pytest.mark.faultguard
@pytest.mark.flaky(reruns=1{arguments})
def test_last(fails):
    assert False
"""
    )

    session = side_by_side.session(plugin="rerunfailures")

    assert [what for what, _, _ in noted(pytester.path)] == ["torn down"]
    *_, last = session.reports
    assert (last.when, last.outcome, last.message) == ("teardown", "failed", "ValueError: in teardown")
    assert session.counts == {"passed": 1, "failed": 1, "errors": 1, **({"rerun": 1} if reruns else {})}


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest has subtests since 9.0")
def test_failed_subtests_are_run_again(
    side_by_side: SideBySide, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    pytester.makepyfile(
        """
        def test_it(subtests, request):
            for number in range(3):
                with subtests.test(number=number):
                    assert number < 2 or request.node.execution_count > 1
        """
    )

    _, guarded = side_by_side("--reruns=1", *xdist_args, plugin="rerunfailures")

    assert guarded.exit_status == 0
    assert guarded.counts["rerun"] == 1


def test_crash_without_reruns(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    """The plugin is there and has nothing to do."""
    (pytester.path / "test_it.py").write_text(
        HEAD
        + """
pytestmark = pytest.mark.faultguard

@pytest.fixture
def dies_in_teardown():
    yield
    crash()

def test_crashes():
    crash()

def test_teardown(dies_in_teardown):
    pass

def test_passes():
    pass
"""
    )

    session = side_by_side.session(plugin="rerunfailures")

    assert session.counts == {"failed": 1, "passed": 2, "errors": 1}


def test_crashed_worker_of_xdist(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    """An unguarded test takes its worker with it: the plugin's own recovery is as ever, and counts for that test only."""
    (pytester.path / "test_it.py").write_text(
        HEAD
        + """
@pytest.mark.faultguard
def test_guarded(request):
    if request.node.execution_count == 1:
        crash()

def test_unguarded():
    if not os.path.exists("died"):
        open("died", "w").close()
        crash()
"""
    )

    session = side_by_side.session("--reruns=1", "-n1", plugin="rerunfailures")

    assert session.counts["passed"] == 2
    assert session.counts["rerun"] == 2
    assert session.exit_status == 0
    crashes = [one for one in session.reports if one.outcome == "rerun"]
    assert {one.nodeid.rpartition("::")[2]: one.crash is not None for one in crashes} == {
        "test_guarded": True,
        "test_unguarded": False,
    }


def test_ends_the_session_at_once(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    """``pytest.exit`` and Ctrl-C are no failures: nothing is run again."""
    pytester.makepyfile(
        """
        import pytest

        def test_exits():
            pytest.exit("enough", returncode=5)

        def test_never_begins():
            pass
        """
    )

    plain, guarded = (
        side_by_side.session(flag, "--reruns=2", plugin="rerunfailures") for flag in ("--no-faultguard", "--faultguard")
    )

    assert guarded.exit_status == plain.exit_status == 5
    assert guarded.outcomes == plain.outcomes
