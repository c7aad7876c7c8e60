"""Promise 9: the same story everywhere. Guards live in the workers of pytest-xdist, and no worker is ever lost."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from testing import programs as _programs
from testing.harness import USAGE
from testing.harness import Junit
from testing.harness import JunitCase
from testing.harness import Recorder
from testing.harness import Report
from testing.harness import RunPytest
from testing.harness import without_usage
from testing.programs import missing

N2 = ("-n2",)
#: What xdist says of a worker that it has lost.
LOST = ("crashed while running", "node down", "replacing crashed worker", "crashed workers", "INTERNALERROR")

PASSED = ["setup passed", "call passed", "teardown passed"]
FAILED = ["setup passed", "call failed", "teardown passed"]

# Which process ran it is told by every test that lives: a guarded one's parent is the worker.
CONFTEST = """
import os
import pytest


@pytest.fixture(autouse=True)
def tell_worker(request, record_property):
    guarded = request.node.get_closest_marker("faultguard")
    record_property("worker process", os.getppid() if guarded else os.getpid())
"""

MIXED = """
import os
import pytest
from programs import lib

guarded = pytest.mark.faultguard


@pytest.fixture
def deadly_setup():
    lib.abort_()


@pytest.fixture
def deadly_teardown():
    yield
    lib.null_write()


@pytest.fixture(scope="module")
def shared():
    return []


def test_before(shared):
    shared.append("before")


@guarded
@pytest.mark.xdist_group("deaths")
def test_segfault(shared):
    lib.null_write()


@guarded
def test_fine(): pass


@guarded
@pytest.mark.xdist_group("deaths")
def test_in_setup(deadly_setup): pass


class TestClass:
    @guarded
    def test_in_teardown(self, deadly_teardown): pass

    def test_unguarded(self): pass

    @guarded
    def test_exit(self): os._exit(0)


@guarded
@pytest.mark.xdist_group("lives")
def test_merely_fails(): assert False


@guarded
def test_killed(): lib.kill_self(9)


def test_unguarded_fails(): assert False


@guarded
@pytest.mark.xfail(strict=True)
def test_expected(): lib.abort_()


@guarded
@pytest.mark.skip
def test_skipped(): pass


@pytest.mark.xdist_group("lives")
def test_after(): pass
"""
MIXED_OUTCOMES = {
    "test_before": PASSED,
    "test_segfault": FAILED,
    "test_fine": PASSED,
    "test_in_setup": ["setup failed", "teardown passed"],
    "TestClass::test_in_teardown": ["setup passed", "call passed", "teardown failed"],
    "TestClass::test_unguarded": PASSED,
    "TestClass::test_exit": FAILED,
    "test_merely_fails": FAILED,
    "test_killed": FAILED,
    "test_unguarded_fails": FAILED,
    "test_expected": ["setup passed", "call skipped", "teardown passed"],
    "test_skipped": ["setup skipped", "teardown passed"],
    "test_after": PASSED,
}


def outcomes(reports: list[Report]) -> dict[str, list[str]]:
    """The phases of each test; `--dist loadgroup` puts the group behind the node id."""
    told: dict[str, list[str]] = {}
    for report in reports:
        told.setdefault(report.nodeid.partition("@")[0], []).append(f"{report.when} {report.outcome}")
    return told


def lost(result: pytest.RunResult) -> list[str]:
    """The lines that tell of a lost worker."""
    return [line for line in (*result.outlines, *result.errlines) if any(word in line for word in LOST)]


@pytest.fixture(autouse=True)
def _start_quickly(run_pytest: RunPytest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest part of an interpreter's start would be a plugin that these sessions have no use for."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")


# No worker is lost, whatever distributes the tests.


@pytest.mark.parametrize(
    ("dist", "start", "scope"),
    [
        *(
            (dist, "fork", "function")
            for dist in ("load", "loadscope", "loadfile", "loadgroup", "worksteal", "each", "no")
        ),
        ("load", "forkserver", "session"),
        ("loadscope", "spawn", "session"),
        ("loadfile", "fork", "session"),
        ("loadgroup", "spawn", "session"),
        ("loadgroup", "forkserver", "function"),
        ("worksteal", "forkserver", "session"),
        ("worksteal", "fork", "session"),
        ("each", "fork", "session"),
    ],
)
def test_crashes_cost_no_worker(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    programs: Path,
    dist: str,
    start: str,
    scope: str,
) -> None:
    """Every test has its outcome, from two workers that are the same two processes at the end as at the start."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_first=MIXED, test_second=MIXED)
    options = [f"--faultguard-start={start}", f"--faultguard-scope={scope}", "--faultguard-confirm=off"]

    result = run_pytest("-n2", f"--dist={dist}", *options)

    reports = recorder.reports()
    workers = sorted({str(report.worker) for report in reports})
    expected = {
        f"{file}.py::{test}": phases
        for file in ("test_first", "test_second")
        for test, phases in MIXED_OUTCOMES.items()
    }
    assert lost(result) == []
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert workers == ["gw0", "gw1"]
    if dist == "each":
        for worker in workers:
            assert outcomes([report for report in reports if report.worker == worker]) == expected
    else:
        assert outcomes(reports) == expected
    assert {worker: len(_processes(reports, worker)) for worker in workers} == {"gw0": 1, "gw1": 1}


def _processes(reports: list[Report], worker: str) -> set[Any]:
    return {
        value
        for report in reports
        for name, value in report.user_properties
        if report.worker == worker and name == "worker process"
    }


@pytest.mark.parametrize("limit", [[], ["--max-worker-restart=0"]], ids=["default", "0"])
def test_more_crashes_than_xdist_would_restart_workers(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, programs: Path, limit: list[str]
) -> None:
    """As many as would end the session: xdist gives up after four lost workers for each that it started."""
    pytester.makepyfile("""
        import pytest
        from programs import lib

        @pytest.mark.faultguard
        @pytest.mark.parametrize("number", range(20))
        def test_crash(number):
            lib.abort_()

        def test_fine(): pass
        """)

    result = run_pytest("-n2", *limit)

    assert lost(result) == []
    assert len(recorder.outcomes()) == 21
    result.assert_outcomes(failed=20, passed=1)
    assert {report.worker for report in recorder.reports()} == {"gw0", "gw1"}


@pytest.mark.parametrize(
    ("maxfail", "last_words", "ran"),
    [
        ("-x", "lib.null_write()", ["test_fine", "test_bad"]),
        ("--maxfail=2", "lib.null_write()", ["test_fine", "test_bad", "test_fine_2", "test_bad_2"]),
        ("--maxfail=2", "assert False", ["test_fine", "test_bad", "test_fine_2", "test_bad_2"]),
    ],
    ids=["first crash", "second crash", "second failure"],
)
def test_a_crash_counts_for_maxfail_as_a_failure_does(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    programs: Path,
    maxfail: str,
    last_words: str,
    ran: list[str],
) -> None:
    """By file, so that one worker has them all and what else it would have run is certain."""
    bodies = {"test_fine": "pass", "test_bad": last_words, "test_fine_2": "pass", "test_bad_2": last_words}
    bodies |= {"test_bad_3": last_words, "test_fine_3": "pass"}
    tests = [f"@pytest.mark.faultguard\ndef {name}(): {body}" for name, body in bodies.items()]
    pytester.makepyfile("import pytest\nfrom programs import lib\n\n" + "\n\n".join(tests))

    result = run_pytest("-n2", "--dist=loadfile", maxfail)

    assert recorder.outcomes() == {name: FAILED if "bad" in name else PASSED for name in ran}
    assert lost(result) == []
    # As xdist ends every session whose failures were enough: with a word, and as interrupted.
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines([f"!*! stopping after {len(ran) // 2} failures !*!"])


# The same story, serial and distributed.

DEATHS = """
import logging
import os
import subprocess
import sys
import time

import pytest
from pytest_faultguard import CrashError
from programs import lib, pylib

pytestmark = pytest.mark.faultguard


@pytest.fixture
def story(faultguard_data, record_property):
    faultguard_data["step"] = {"number": 1, "lone": "\\udc80"}
    record_property("seen", "it")
    print("on stdout")
    print("on stderr", file=sys.stderr)
    logging.warning("a record")
    return faultguard_data


@pytest.fixture
def deadly_setup(story):
    lib.cxx_exception()


@pytest.fixture
def deadly_teardown(story):
    yield
    lib.double_free()


def inner(data):
    data["step"] = 2
    os.write(1, b"odd: \\xff\\xfe \\x1b[31m\\n")
    lib.null_write()


def test_segfault(story):
    inner(story)

def test_assert(story): lib.assert_()
def test_cxx(story): lib.cxx_exception()
def test_overflow(story): lib.stack_overflow()
def test_sigfpe(): lib.sigfpe()
def test_exit3(story): lib.exit3()
def test_exit0(story): lib.exit0()
def test_killed(story): lib.kill_self(9)
def test_native_thread(story): lib.native_thread_crash(0); time.sleep(60)
def test_closes_all(story): lib.close_all_fds(); lib.null_write()
def test_in_setup(deadly_setup): pass
def test_in_teardown(deadly_teardown): pass
def test_fails(story): assert story == {}
def test_passes(story): pass
def test_much_output(story): print("x" * 3_000_000); lib.abort_()

def test_at_exit(story, request):
    import atexit
    import threading
    # A fork calls no such function, and all that it does is to flush its streams.
    atexit.register(lib.abort_)
    threading._register_atexit(lambda: None)
    from pytest_faultguard.process import child
    child.flush_streams = lib.abort_

@pytest.mark.faultguard(timeout=0.3)
def test_hang(story): time.sleep(60)

@pytest.mark.faultguard(timeout=0.3)
def test_native_hang(story): pylib.loop_gil()

@pytest.mark.faultguard(timeout=0.3, grace=0.1)
def test_deaf_hang(story): pylib.loop_blocked()

def test_leak(story):
    story["leaked"] = "a process"
    subprocess.Popen(["sleep", "61"])
    lib.abort_()

@pytest.mark.xfail(raises=CrashError, reason="known")
def test_expected(story): lib.null_write()

@pytest.mark.xfail(raises=ValueError)
def test_expected_otherwise(story): lib.null_write()
"""
#: What may differ between two runs: addresses, process numbers, times, how deep pytest's own stack was.
VARYING = [
    (re.compile(r"0x[0-9a-f]+"), "0x"),
    (re.compile(r"\d+\.\d+ s\b"), "S s"),
    (re.compile(r"^\d+ (?=sleep 61)", re.MULTILINE), "PID "),
    (re.compile(r"\d+ frames of pytest"), "N frames of pytest"),
]


def told(value: Any) -> Any:
    """The value without what varies."""
    if isinstance(value, str):
        for pattern, word in VARYING:
            value = pattern.sub(word, value)
        return value
    if isinstance(value, list | tuple):
        return [told(one) for one in value]
    if isinstance(value, dict):
        return {key: told(one) for key, one in value.items()}
    return value


def story_of(report: Report, *, root: Path) -> dict[str, Any]:
    """All that a report tells, without what varies between two runs and without who ran it."""
    story = asdict(report)
    for name in ("worker", "pid", "duration"):
        del story[name]
    story["user_properties"] = without_usage(story["user_properties"])
    if story["crash"] is not None:
        story["crash"] = crash_story(story["crash"], root)
    return {key: told(value) for key, value in story.items()}


def crash_story(crash: dict[str, Any], root: Path) -> dict[str, Any]:
    """A crash, of its stacks the user's own frames: those of pytest below them are xdist's loop or pytest's."""
    stacks = [
        {**stack, "truncated": False, "frames": [frame for frame in stack["frames"] if _is_below(root, frame["file"])]}
        for stack in crash["stacks"]
    ]
    dump = [line for line in crash["dump"].splitlines() if not line.startswith("  File ") or str(root) in line]
    return {
        **crash,
        "duration": crash["duration"] >= 0,
        "stacks": stacks,
        "dump": [one for one in dump if one != "  ..."],
    }


def _is_below(root: Path, file: str) -> bool:
    return Path(file).is_relative_to(root)


def case_story(case: JunitCase) -> dict[str, Any]:
    """All that a test case of a junitxml file tells, without what varies."""
    story = asdict(case)
    del story["time"]
    story["properties"] = {name: value for name, value in story["properties"].items() if name not in USAGE}
    return {key: told(value) for key, value in story.items()}


def summary(result: pytest.RunResult) -> list[str]:
    """The short summary, without the order, which is the order of the reports."""
    start = next(at for at, line in enumerate(result.outlines) if "short test summary info" in line)
    return sorted(told(result.outlines[start + 1 : -1]))


def test_story_is_the_same_serial_and_distributed(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, junit: Junit, programs: Path
) -> None:
    """Report by report, case by case of the junitxml file, and line by line of the short summary."""
    pytester.makepyfile(test_deaths=DEATHS)
    stories, cases, summaries = [], [], []
    for distribution in ((), N2):
        result = run_pytest("-ra", *distribution, *junit.args)
        assert lost(result) == []
        stories.append({(one.nodeid, one.when): story_of(one, root=pytester.path) for one in recorder.reports()})
        cases.append({case.name: case_story(case) for case in junit.cases()})
        summaries.append(summary(result))

    for key, story in stories[0].items():
        assert story == stories[1][key]
    assert list(stories[0]) == sorted(stories[1], key=list(stories[0]).index)
    assert cases[0] == cases[1]
    assert summaries[0] == summaries[1]
    # Without a C++ compiler, two of the tests are skipped.
    assert sum(story["crash"] is not None for story in stories[1].values()) == (18 if missing(DEATHS) else 20)


def test_controller_logs_what_the_workers_saw(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, programs: Path
) -> None:
    """A crash's report is one report, sent by the worker that watched the child; its class is pytest's own."""
    pytester.makepyfile("""
        import pytest
        from programs import lib

        @pytest.mark.faultguard
        def test_crash():
            lib.null_write()
        """)

    result = run_pytest("-n2", "-v")

    report = recorder.report("test_crash")
    assert report.worker in {"gw0", "gw1"}
    assert report.longrepr_class == "ExceptionChainRepr"
    assert report.message is not None
    result.stdout.fnmatch_lines(
        [
            "*_ test_crash _*",
            f"[[]{report.worker}[]] linux -- Python *",
            "    @pytest.mark.faultguard",
            "    def test_crash():",
            ">       lib.null_write()",
            "E       SIGSEGV (segmentation fault) in call after * s",
            "*.py:6: SIGSEGV",
            "-* faulthandler dump -*",
            "FAILED *::test_crash - SIGSEGV (segmentation fault) in call after * s",
        ],
        consecutive=False,
    )


# Deadlines, in a worker.


def test_deadlines_are_kept_in_workers(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, programs: Path
) -> None:
    """A hang in each phase and in native code: told as such, with its stacks, and the worker goes on."""
    pytester.makepyfile("""
        import time
        import pytest
        from programs import pylib

        pytestmark = pytest.mark.faultguard(timeout=0.4, grace=0.2)

        @pytest.fixture
        def slow_setup():
            time.sleep(60)

        @pytest.fixture
        def slow_teardown():
            yield
            time.sleep(60)

        def test_setup(slow_setup): pass
        def test_call(): time.sleep(60)
        def test_teardown(slow_teardown): pass
        def test_loop(): pylib.loop_gil()
        def test_blocked(): pylib.loop_blocked()
        def test_fine(): pass
        """)

    result = run_pytest("-n2")

    assert lost(result) == []
    assert recorder.outcomes() == {
        "test_setup": ["setup failed", "teardown passed"],
        "test_call": FAILED,
        "test_teardown": ["setup passed", "call passed", "teardown failed"],
        "test_loop": FAILED,
        "test_blocked": FAILED,
        "test_fine": PASSED,
    }
    ended_by = {"test_blocked": "SIGKILL"}
    for name, when in (
        ("test_setup", "setup"),
        ("test_call", "call"),
        ("test_teardown", "teardown"),
        ("test_loop", "call"),
        ("test_blocked", "call"),
    ):
        report = recorder.report(name, when)
        assert report.message is not None
        assert report.message.endswith(f"timeout of 0.4 s passed in {when}, ended by {ended_by.get(name, 'SIGTERM')}")
        assert 0.3 < report.duration < 1.0
        assert bool(report.crash["stacks"]) == (name != "test_blocked")
        assert ("every thread blocks all signals" in str(report.crash["gaps"])) == (name == "test_blocked")


# A fork beside execnet's thread.

QUICK = """
import logging
import os
import warnings

import pytest


@pytest.mark.faultguard
@pytest.mark.parametrize("number", range({count}))
def test_quick(number, capsys, tmp_path):
    # What takes a lock that another thread may have held when this process came to be.
    print(number)
    logging.getLogger("quick").warning("number %d", number)
    (tmp_path / "file").write_text("text")
"""


@pytest.mark.parametrize("filters", [[], ["-Werror"], ["-Walways"]], ids=["none", "error", "always"])
def test_fork_beside_a_thread_warns_nobody(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, filters: list[str]
) -> None:
    """From Python 3.12 on a fork beside threads warns; the user did not fork, and cannot do anything about it."""
    pytester.makepyfile(QUICK.format(count=8))

    result = run_pytest("-n2", *filters)

    result.assert_outcomes(passed=8, warnings=0)
    assert recorder.warnings() == []
    assert "multi-threaded" not in str(result.outlines + result.errlines)
    assert "DeprecationWarning" not in str(result.outlines + result.errlines)


def test_fork_beside_a_thread_warns_nobody_without_pytests_filters(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where the filters are Python's own, and pytest captures no warnings."""
    monkeypatch.setenv("PYTHONWARNINGS", "always::DeprecationWarning")
    pytester.makepyfile(QUICK.format(count=8))

    result = run_pytest("-n2", "-p", "no:warnings")

    result.assert_outcomes(passed=8)
    assert "DeprecationWarning" not in str(result.outlines + result.errlines)


@pytest.mark.forked_only("hundreds of children, each a fork beside that thread")
def test_hundreds_of_forks_beside_a_busy_thread(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder
) -> None:
    """A lock that execnet's thread holds at the instant of a fork is held for ever in the child; none of ours needs one."""
    pytester.makepyfile(QUICK.format(count=300))

    result = run_pytest("-n2", "--dist=worksteal", "-q", timeout=45)

    assert lost(result) == []
    result.assert_outcomes(passed=300)
    assert {report.worker for report in recorder.reports()} == {"gw0", "gw1"}


# Usage errors.


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ('timeout="soon"', "timeout='soon'"),
        ('timeout=float("nan")', "timeout=nan"),
        ("timelimit=3", "timelimit=3"),
        ("-1", "not -1"),
    ],
)
def test_wrong_marker_is_one_clear_line(
    pytester: pytest.Pytester, run_pytest: RunPytest, xdist_args: tuple[str, ...], marker: str, words: str
) -> None:
    """Both workers collect the wrong marker; the user reads it once, as a usage error."""
    pytester.makepyfile(
        test_wrong=f"""
        import pytest

        def test_fine(): pass

        @pytest.mark.faultguard({marker})
        def test_it(): pass
        """
    )

    result = run_pytest(*xdist_args)

    lines = [line for line in (*result.outlines, *result.errlines) if "faultguard marker" in line]
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert len(lines) == 1
    assert lines[0].startswith("ERROR: test_wrong.py::test_it: faultguard marker: ")
    assert words in lines[0]
    assert lost(result) == []
    assert "Traceback" not in str(result.outlines + result.errlines)
    assert result.parseoutcomes().get("passed", 0) == 0


@pytest.mark.parametrize(
    ("args", "ini", "words"),
    [
        (["--faultguard-timeout=soon"], "", "ERROR: --faultguard-timeout: 'soon' is not"),
        ([], "faultguard_timeout = -3", "ERROR: faultguard_timeout: '-3' is not"),
    ],
    ids=["option", "ini"],
)
def test_wrong_setting_is_one_clear_line(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    xdist_args: tuple[str, ...],
    args: list[str],
    ini: str,
    words: str,
) -> None:
    """The controller checks the settings itself, before there is a worker."""
    pytester.makeini(f"[pytest]\n{ini}\n")
    pytester.makepyfile("def test_fine(): pass")

    result = run_pytest(*xdist_args, *args)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = (line for line in (*result.outlines, *result.errlines) if line)
    assert line.startswith(words)


# A worker that shares no file system with the controller.

FAR_TEST = """
import logging
import os
import sys
import tempfile

import pytest
from programs import lib


def far_away(data):
    data["directory"] = os.getcwd()
    lib.assert_()  # only there


@pytest.mark.faultguard
def test_crash(faultguard_data, tmp_path):
    faultguard_data["temp"] = str(tmp_path)
    print("printed far away")
    print("complained far away", file=sys.stderr)
    logging.warning("logged far away")
    far_away(faultguard_data)


@pytest.mark.faultguard(timeout=0.3)
def test_hang():
    sys.stdin.close()
    lib.loop_gil()


@pytest.mark.faultguard
def test_fine(tmp_path):
    (tmp_path / "file").touch()


def test_unguarded(): pass
"""
#: Stands where the controller would look for what the worker names.
DECOY = FAR_TEST.replace("# only there", "# wrong file").replace("# only", "# wrong")
#: In the controller: every file below the directory that is opened or listed.
WATCHER = """
import os
import sys

FAR = {far!r}


def watch(event, arguments):
    if event in {{"open", "os.listdir", "os.scandir"}} and str(arguments[0]).startswith(FAR):
        with_number = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(with_number, f"{{event}} {{arguments[0]}}\\n".encode())
        os.close(with_number)


sys.addaudithook(watch)
"""
#: In a mount namespace of its own: a file system that nobody else sees, and execnet's own server in it.
SERVER = """
mount -t tmpfs tmpfs "$FAR"
cp -R "$LUGGAGE/." "$FAR"
mkdir "$FAR/tmp"
cd "$FAR/work"
export TMPDIR="$FAR/tmp"
exec "$PYTHON" -u -m execnet.script.socketserver 127.0.0.1:0
"""


@contextlib.contextmanager
def far_server(unshare: list[str], far: Path, luggage: Path) -> Iterator[int]:
    """The port of a server that sees a file system of its own at `far`, with a copy of `luggage` in it."""
    ours = {"PYTEST_PLUGINS", "PYTEST_DEBUG_TEMPROOT"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {"FAR": str(far), "LUGGAGE": str(luggage), "PYTHON": sys.executable}
    with subprocess.Popen(
        [*unshare, "sh", "-ec", SERVER],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            match = re.search(r"\('127\.0\.0\.1', (\d+)\)", line)
            assert match, line + process.stdout.read()
            yield int(match[1])
        finally:
            process.kill()


@pytest.mark.parametrize(("servers", "decoy"), [(1, True), (2, False)], ids=["other file", "no file"])
def test_worker_with_another_view_of_the_file_system(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    junit: Junit,
    programs: Path,
    programs_library: Path,
    monkeypatch: pytest.MonkeyPatch,
    unshare: list[str],
    servers: int,
    decoy: bool,
) -> None:
    """All that the controller shows and writes came with the reports: it has no such files, or other ones of that name."""
    far, luggage, log = (pytester.path / name for name in ("far", "luggage", "watched.txt"))
    programs.unlink()
    work = luggage / "work"
    work.mkdir(parents=True)
    shutil.copy(programs_library, work)
    (work / "programs.py").write_text(_programs.module(far / "work" / programs_library.name))
    (work / "pytest.ini").write_text("[pytest]\n")
    (work / "test_far.py").write_text(FAR_TEST)
    (far / "work").mkdir(parents=True)
    if decoy:
        (far / "work" / "test_far.py").write_text(DECOY)
    (pytester.path / "watcher.py").write_text(WATCHER.format(far=str(far), log=str(log)))
    monkeypatch.setenv("PYTEST_PLUGINS", "recorder,watcher")

    with contextlib.ExitStack() as started:
        ports = [started.enter_context(far_server(unshare, far, luggage)) for _ in range(servers)]
        shutil.rmtree(luggage)
        tx = [word for port in ports for word in ("--tx", f"socket=127.0.0.1:{port}//chdir={far / 'work'}")]
        result = run_pytest(*tx, "--dist=each", *junit.args)

    result.assert_outcomes(failed=2 * servers, passed=2 * servers)
    assert lost(result) == []
    for worker in [f"gw{number}" for number in range(servers)]:
        reports = [report for report in recorder.reports() if report.worker == worker]
        assert outcomes(reports) == {
            "test_far.py::test_crash": FAILED,
            "test_far.py::test_hang": FAILED,
            "test_far.py::test_fine": PASSED,
            "test_far.py::test_unguarded": PASSED,
        }
        (crash,) = (report for report in reports if report.nodeid.endswith("test_crash") and report.when == "call")
        _check_far_crash(crash, far)
    cases = [case for case in junit.cases() if case.name == "test_crash"]
    assert [case.outcomes for case in cases] == [["failure"]] * servers
    for case in cases:
        assert ">       far_away(faultguard_data)" in case.text
        assert ">       lib.assert_()  # only there" in case.text
        assert f"'directory' = '{far}/work'" in case.text
        assert "faulthandler dump" in case.text
        assert "printed far away" in case.system_out + case.text
    result.stdout.fnmatch_lines(
        [
            ">       far_away(faultguard_data)",
            ">       lib.assert_()  # only there",
            "E       SIGABRT (aborted) in call after * s: *Assertion `stored <= capacity*' failed.",
            "test_far.py:*: SIGABRT",
            "-* faulthandler dump -*",
            f'  File "{far}/work/test_far.py", line * in far_away',
            "-* rescued faultguard_data -*",
            f"'directory' = '{far}/work'",
            "printed far away",
        ]
    )
    assert "wrong file" not in str(result.outlines) + junit.path.read_text()
    assert not log.exists(), log.read_text()


def _check_far_crash(report: Report, far: Path) -> None:
    assert ">       lib.assert_()  # only there" in report.longrepr
    assert ">       far_away(faultguard_data)" in report.longrepr
    assert f"'temp' = '{far}/tmp/pytest-of-" in report.longrepr
    assert [line.split(",")[0] for line in report.longrepr.splitlines() if line.startswith("  File ")] == [
        f'  File "{far}/work/test_far.py"'
    ] * 2
    assert report.message is not None
    assert report.message.startswith("SIGABRT (aborted) in call")
    assert "Assertion `stored <= capacity" in report.message
    assert report.section("stdout") == "printed far away\n"
    assert "complained far away\n" in report.section("stderr")
    assert "logged far away" in report.section("log")
    assert report.crash["dump"].startswith("Fatal Python error: Aborted")
    assert [one["key"] for one in report.crash["rescued"]] == ["'temp'", "'directory'"]
