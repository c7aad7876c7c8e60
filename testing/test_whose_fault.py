"""Whose fault was it? A crash in a child that others had used before is tried again alone."""

from __future__ import annotations

import re
import shlex

import pytest

from testing.harness import Junit
from testing.harness import Recorder
from testing.harness import RunPytest
from testing.harness import common_options

POISON = """
import ctypes
import os
import pytest

poison = []

@pytest.mark.parametrize("number", range({count}))
def test_it(number):
    with open("ran", "a") as file:
        print(number, file=file)
    if number in {poisonous}:
        poison.append(number)
    if number == {dies} and len(poison) >= {needed}:
        ctypes.string_at(0)
"""


def poison(poisonous: set[int], *, dies: int, needed: int, count: int = 8) -> str:
    """Tests of which some poison their process, and one dies where enough have."""
    return POISON.format(poisonous=sorted(poisonous), dies=dies, needed=needed, count=count)


def shared(report_text: str) -> list[str]:
    """The lines of the section on what ran before."""
    _, _, text = report_text.partition("shared child")
    return [line.strip() for line in text.split("\n---")[0].splitlines()[1:] if line.strip()]


@pytest.mark.parametrize("marked", [False, True], ids=["every", "marked"])
def test_says_what_ran_before_where_it_does_not_crash_alone(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    junit: Junit,
    xdist_args: tuple[str, ...],
    start_args: tuple[str, ...],
    marked: bool,
) -> None:
    """Newest first; the outcome stays the crash, and the second run is in no report, duration or file."""
    path = pytester.makepyfile(poison({3}, dies=6, needed=1))
    options = ["--faultguard"]
    if marked:
        path.write_text(
            path.read_text().replace("poison =", "pytestmark = pytest.mark.faultguard(scope='module')\npoison =")
        )
        options = []
    options += [*start_args, *xdist_args, *(["--dist=loadfile"] if xdist_args else [])]

    run_pytest(*options, *junit.args).assert_outcomes(passed=7, failed=1)

    report = recorder.report("test_it[6]")
    name = path.name
    assert shared(report.longrepr) == [
        "does not crash alone; ran before it in the same child:",
        *(f"{name}::test_it[{number}]" for number in (5, 4, 3, 2, 1, 0)),
    ]
    assert report.crash["alone"] is False
    assert report.crash["trail"] == [f"{name}::test_it[{number}]" for number in (5, 4, 3, 2, 1, 0)]
    assert len(recorder.reports()) == 24
    assert [case.name for case in junit.cases()] == [f"test_it[{number}]" for number in range(8)]
    assert (pytester.path / "ran").read_text().split() == [*"0123456", "6", "7"]


def test_says_that_it_crashes_alone(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, start_args: tuple[str, ...]
) -> None:
    """And nothing of the others."""
    pytester.makepyfile(poison(set(), dies=6, needed=0))

    run_pytest("--faultguard", *start_args).assert_outcomes(passed=7, failed=1)

    assert shared(recorder.report("test_it[6]").longrepr) == ["crashes alone"]


def test_that_hangs_alone_does_not_crash_alone(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder
) -> None:
    """How it was stopped there is told beside what ran before."""
    path = pytester.makepyfile(
        """
        import os
        import threading
        import pytest
        poison = []
        def test_a():
            poison.append(1)
        @pytest.mark.faultguard(scope="session", timeout=0.5)
        def test_b():
            if poison:
                os.abort()
            threading.Event().wait()
        """
    )

    run_pytest("--faultguard").assert_outcomes(passed=1, failed=1)

    report = recorder.report("test_b")
    assert shared(report.longrepr) == [
        "does not crash alone (timeout of 0.5 s passed); ran before it in the same child:",
        f"{path.name}::test_a",
    ]
    assert report.crash["alone"] is False


@pytest.mark.parametrize(
    ("options", "dies"),
    [(["--faultguard-confirm=off"], 6), (["--faultguard-scope=function"], 6), ([], 0)],
    ids=["off", "own_child", "first_in_child"],
)
def test_is_not_tried_again(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, options: list[str], dies: int
) -> None:
    """Where nobody wants it, and where no other test can have had a part in it."""
    path = pytester.makepyfile(poison(set(), dies=dies, needed=0))

    run_pytest("--faultguard", *options).assert_outcomes(passed=7, failed=1)

    assert (pytester.path / "ran").read_text().split() == [*"01234567"]
    lines = shared(recorder.report(f"test_it[{dies}]").longrepr)
    assert lines[:2] == (
        ["ran before it in the same child:", f"{path.name}::test_it[5]"] if "off" in str(options) else []
    )


def test_hang_is_not_tried_again(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """It would take its time once more."""
    pytester.makepyfile(
        """
        import threading
        def test_a(): pass
        def test_b():
            with open("ran", "a") as file: file.write("b")
            threading.Event().wait(60)
        """
    )

    run_pytest("--faultguard", "--faultguard-timeout=0.3").assert_outcomes(passed=1, failed=1)

    assert (pytester.path / "ran").read_text() == "b"


def test_the_second_run_is_in_no_duration(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, junit: Junit
) -> None:
    """Though it takes its time."""
    pytester.makepyfile(
        """
        import os
        import pathlib
        import time
        def test_first(): pass
        def test_it():
            ran = pathlib.Path("ran")
            if ran.exists():
                time.sleep(2)
            ran.touch()
            os.abort()
        """
    )

    result = run_pytest("--faultguard", "--durations=0", "-vv", *junit.args)

    result.assert_outcomes(passed=1, failed=1)
    report = recorder.report("test_it")
    assert shared(report.longrepr)[0] == "crashes alone"
    assert report.duration < 1.5
    (shown,) = re.findall(r"^([\d.]+)s call +.*::test_it$", result.stdout.str(), re.MULTILINE)
    assert float(shown) < 1.5
    assert junit.cases()[-1].time < 1.5


@pytest.mark.parametrize(("start", "phase"), [("fork", "teardown"), ("spawn", "interpreter exit")])
def test_crash_at_the_end_of_a_child_says_what_ran_in_it(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    xdist_args: tuple[str, ...],
    start: str,
    phase: str,
) -> None:
    """It is told of the last test, which need not have done it; nothing is run again."""
    path = pytester.makepyfile(
        f"""
        import atexit
        import os
        import pytest
        guarded = pytest.mark.faultguard(scope="session", start="{start}")
        @pytest.fixture(scope="session")
        def last():
            yield
            if "{phase}" == "teardown":
                os.abort()
        @guarded
        def test_a():
            atexit.register(os.abort)
        @guarded
        def test_b(last):
            with open("ran", "a") as file: file.write("b")
        def test_unguarded(): pass
        """
    )

    run_pytest(*xdist_args, *(["--dist=loadfile"] if xdist_args else [])).assert_outcomes(passed=3, errors=1)

    (report,) = (report for report in recorder.reports() if report.crash)
    assert (report.nodeid, report.crash["phase"]) == (f"{path.name}::test_b", phase)
    assert shared(report.longrepr) == ["ran before it in the same child:", f"{path.name}::test_a"]
    assert report.crash["alone"] is None
    assert (pytester.path / "ran").read_text() == "b"


@pytest.mark.parametrize("shares", [[10], [5, 5], [3, 3, 4]], ids=["serial", "n2", "n3"])
def test_at_most_ten_are_tried_again(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, shares: list[int]
) -> None:
    """Each worker has its share of them; the next one says so."""
    args = [f"-n{len(shares)}", "--dist=loadfile"] if len(shares) > 1 else []
    source = """
        import os
        import pytest
        @pytest.mark.parametrize("number", range(24))
        def test_it(number):
            if number % 2:
                os.abort()
        """
    pytester.makepyfile(**{f"test_{number}": source for number in range(len(shares))})

    run_pytest("--faultguard", *args)

    tried = []
    for path in pytester.path.glob("test_*.py"):
        crashes = [report.crash for report in recorder.reports(when="call") if report.nodeid.startswith(path.name)]
        gaps = ["".join(crash["gaps"]) for crash in crashes if crash]
        tried.append(gaps.count(""))
        assert not "".join(gaps[: tried[-1]])
        assert len(gaps) == 12
        for gap in gaps[tried[-1] :]:
            assert gap.startswith(f"whose fault: {tried[-1]} crashes of this ")
    assert sorted(tried) == shares


def test_bisect_finds_two_of_many_and_prints_the_command(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder
) -> None:
    """With about twenty runs for two of two hundred; the command reproduces the crash."""
    path = pytester.makepyfile(poison({17, 88}, dies=200, needed=2, count=202))

    run_pytest("--faultguard", "--faultguard-bisect").assert_outcomes(passed=201, failed=1)

    report = recorder.report("test_it[200]")
    assert report.crash["needs"] == [f"{path.name}::test_it[17]", f"{path.name}::test_it[88]"]
    # Besides, it runs in the session and alone.
    assert (pytester.path / "ran").read_text().split().count("200") <= 2 + 22
    (command,) = [line.strip() for line in report.longrepr.splitlines() if line.strip().startswith("pytest ")]
    again = run_pytest(*shlex.split(command)[1:])
    again.assert_outcomes(passed=2, failed=1)
    assert recorder.report("test_it[200]").crash["trail"] == [f"{path.name}::test_it[88]", f"{path.name}::test_it[17]"]


def test_bisect_stops_where_its_budget_ends(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, start_args: tuple[str, ...]
) -> None:
    """And says so, with what it knows by then."""
    path = pytester.makepyfile(poison({9}, dies=20, needed=1, count=21))

    options = ("--faultguard-bisect", "--faultguard-bisect-runs=2", *start_args)
    run_pytest("--faultguard", *options).assert_outcomes(passed=20, failed=1)

    crash = recorder.report("test_it[20]").crash
    assert crash["gaps"] == ["bisect: stopped after 2 runs, fewer may be needed; see --faultguard-bisect-runs"]
    assert crash["needs"] == [f"{path.name}::test_it[{number}]" for number in range(10)]
    # In the session, alone, after all and after half of them.
    assert (pytester.path / "ran").read_text().split().count("20") == 4


@pytest.mark.parametrize(
    ("options", "addopts"),
    [
        (["--poison", "--faultguard-start=spawn"], ""),
        (["--poison", "--faultguard-start=forkserver"], ""),
        (["--poison", "--dist=loadfile"], "-n2"),
        (["--poison", "--dist", "loadgroup", "-n", "1"], ""),
        (["-c", "other.ini"], ""),
        (["-p", "named", "--last-failed", "tests"], ""),
        (["-o", "poison=on", "--rootdir", "tests", "tests"], ""),
        (["--poison", "--numprocesses=1", "--faultguard-scope", "module", "--", "tests"], ""),
    ],
    ids=["spawn", "forkserver", "workers_by_ini", "loadgroup", "other_ini", "plugin", "rootdir", "given_anew"],
)
def test_command_of_bisect_reproduces_the_crash(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, options: list[str], addopts: str
) -> None:
    """With all that pytest was told, but in one child, and nothing said twice."""
    pytester.makeini(f"[pytest]\naddopts = {addopts}\n")
    (pytester.path / "other.ini").write_text("[pytest]\npoison = on\n")
    pytester.makepyfile(named="def pytest_configure(config): config.option.poison = True")
    directory = pytester.mkdir("tests")
    (directory / "conftest.py").write_text(
        "def pytest_addoption(parser):\n"
        "    parser.addoption('--poison', action='store_true')\n"
        "    parser.addini('poison', '', type='bool')\n"
    )
    (directory / "test_it.py").write_text(
        """
import os
import pytest

poison = []

@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(8))
def test_it(number, pytestconfig):
    if number in (1, 4) and (pytestconfig.getoption("poison") or pytestconfig.getini("poison")):
        poison.append(number)
    if number == 6 and len(poison) == 2:
        os.abort()
"""
    )
    given = options if "tests" in options else [*options, "tests"]
    starts = [
        "--faultguard-start" for option in (*common_options(()), *options) if option.startswith("--faultguard-start")
    ]
    of_child = ["--faultguard", "--faultguard-scope", *starts]

    run_pytest("--faultguard", "--faultguard-bisect", *given, plugins=()).assert_outcomes(passed=7, failed=1)

    (first,) = (report.crash for report in recorder.reports(when="call") if report.crash)
    words = shlex.split(first["command"])
    names = [word.partition("=")[0] for word in words if word.startswith(("--faultguard", "--num", "-n"))]
    workers = ["-n0"] if addopts or not {"-n", "--numprocesses=1"}.isdisjoint(options) else []
    assert (words[0], sorted(names)) == ("pytest", sorted([*of_child, *workers]))
    run_pytest(*words[1:], plugins=()).assert_outcomes(passed=2, failed=1)
    (again,) = (report.crash for report in recorder.reports(when="call") if report.crash)
    assert [one.rpartition("::")[2] for one in again["trail"]] == ["test_it[4]", "test_it[1]"]
    assert again["start"] == first["start"]


def test_bisect_says_that_a_crash_is_flaky(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder
) -> None:
    """One that comes once can be anybody's."""
    pytester.makepyfile(
        """
        import os
        def test_a(): pass
        def test_b():
            if not os.path.exists("once"):
                open("once", "w").close()
                os.abort()
        """
    )

    run_pytest("--faultguard", "--faultguard-bisect").assert_outcomes(passed=1, failed=1)

    (gap,) = recorder.report("test_b").crash["gaps"]
    assert gap == "bisect: it did not crash each time that the same tests ran before it: flaky (1 runs)"
