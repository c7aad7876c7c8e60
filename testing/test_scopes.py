"""Children that live longer: one for the guarded tests of a class, a module, a package or the session."""

from __future__ import annotations

import os
import re
import signal

import pytest

from testing.harness import Recorder
from testing.harness import RunPytest
from testing.live import StartPytest
from testing.live import descendants
from testing.live import has_ended
from testing.live import wait_until_asleep

PASSED = ["setup passed", "call passed", "teardown passed"]
SCOPES = ["function", "class", "module", "package", "session"]

#: Which process ran each test, in a file that all of them append to.
PIDS = """
import os
import pytest

def note(request, *words):
    with open(os.environ["NOTES"], "a") as file:
        print(request.node.nodeid if hasattr(request, "node") else request, os.getpid(), *words, file=file)

@pytest.fixture(autouse=True)
def noted(request):
    note(request)
"""

TESTS = """
import pytest

pytestmark = pytest.mark.faultguard

class TestOne:
    def test_a(self): pass
    def test_b(self): pass

class TestTwo:
    def test_c(self): pass

def test_d(): pass
def test_e(): pass
"""


@pytest.fixture
def notes(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Notes:
    """What the tests of an inner session have noted."""
    monkeypatch.setenv("NOTES", str(pytester.path / "notes"))
    return Notes(pytester)


class Notes:
    """Lines of a test's node id, its process and other words."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._path = pytester.path / "notes"

    def lines(self) -> list[list[str]]:
        """All of them, each as words."""
        return [line.split() for line in self._path.read_text().splitlines()]

    def groups(self) -> list[str]:
        """The names of the tests that shared a process, in the order of their processes."""
        by_pid: dict[str, list[str]] = {}
        for nodeid, pid, *_ in self.lines():
            by_pid.setdefault(pid, []).append(nodeid.rpartition("::test_")[2])
        return ["".join(names) for names in by_pid.values()]


def make_two_packages(pytester: pytest.Pytester) -> None:
    """Two packages, of two modules and of one, with a test of the same name in each."""
    pytester.makeconftest(PIDS)
    p, q = map(pytester.mkpydir, "pq")
    (p / "test_x.py").write_text(TESTS)
    for module in (p / "test_y.py", q / "test_x.py"):
        module.write_text(TESTS.partition("    def test_b")[0])


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ("function", ["a", "b", "c", "d", "e", "a", "a"]),
        ("class", ["ab", "c", "d", "e", "a", "a"]),
        ("module", ["abcde", "a", "a"]),
        ("package", ["abcdea", "a"]),
        ("session", ["abcdeaa"]),
    ],
)
@pytest.mark.parametrize("given", ["option", "ini"])
def test_child_runs_the_tests_of_its_scope(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    notes: Notes,
    start_args: tuple[str, ...],
    scope: str,
    given: str,
    expected: list[str],
) -> None:
    """As fixtures of that scope: no test runs in another one's child, and none in pytest's own process."""
    make_two_packages(pytester)
    options = [f"--faultguard-scope={scope}"] if given == "option" else ["-o", f"faultguard_scope={scope}"]

    result = run_pytest(*options, *start_args)

    result.assert_outcomes(passed=7)
    assert notes.groups() == expected


def test_marker_wins_over_command_line_over_ini_over_default(
    pytester: pytest.Pytester, run_pytest: RunPytest, notes: Notes
) -> None:
    """A marked test has a child of its own, one that only `--faultguard` guards shares the session's."""
    pytester.makeconftest(PIDS)
    pytester.makepyfile(
        """
        import pytest

        def test_a(): pass
        def test_b(): pass
        @pytest.mark.faultguard
        def test_c(): pass
        @pytest.mark.faultguard
        def test_d(): pass
        @pytest.mark.faultguard(scope="module")
        def test_e(): pass
        @pytest.mark.faultguard(scope="module")
        def test_f(): pass
        """
    )

    for options, expected in (
        ((), ["ab", "c", "d", "ef"]),
        (("-o", "faultguard_scope=session"), ["abcd", "ef"]),
        (("-o", "faultguard_scope=session", "--faultguard-scope=function"), ["a", "b", "c", "d", "ef"]),
    ):
        (pytester.path / "notes").unlink(missing_ok=True)
        run_pytest("--faultguard", *options).assert_outcomes(passed=6)
        assert notes.groups() == expected


@pytest.mark.parametrize("value", ["modules", "1", ""])
def test_wrong_scope_is_a_usage_error(pytester: pytest.Pytester, run_pytest: RunPytest, value: str) -> None:
    """It names where it stands and what it may be."""
    pytester.makepyfile(f"import pytest\n@pytest.mark.faultguard(scope={value!r})\ndef test_it(): pass\n")

    result = run_pytest()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: *test_it: *scope={value!r} is not one of function, class, module*"])


CRASHES = """
import ctypes
import os
import pytest

pytestmark = pytest.mark.faultguard

@pytest.fixture(scope="module")
def wide(request):
    note(request, "up")
    yield os.getpid()
    note(request, "down")

from conftest import note

@pytest.mark.parametrize("number", range(6))
def test_it(wide, number, faultguard_data):
    assert wide == os.getpid()
    assert not faultguard_data
    faultguard_data["number"] = number
    print("number", number)
    if number == {crash}:
        {how}
"""
WAYS = {
    "segfault": ("ctypes.string_at(0)", "SIGSEGV (segmentation fault) in call after "),
    "exit": ("os._exit(0)", "exit code 0 in call after "),
    "kill": ("os.kill(os.getpid(), 9)", "SIGKILL by another process or its own in call after "),
}


@pytest.mark.parametrize(
    ("way", "scope", "crash"),
    [("segfault", "module", 0), ("segfault", "session", 5), ("exit", "session", 2), ("kill", "package", 0)],
)
def test_death_costs_one_test_and_a_fresh_child_takes_the_next(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    notes: Notes,
    xdist_args: tuple[str, ...],
    start_args: tuple[str, ...],
    way: str,
    scope: str,
    crash: int,
) -> None:
    """With its own output and data; what it shared is set up again in the next child, and torn down once there."""
    how, told = WAYS[way]
    pytester.makeconftest(PIDS)
    pytester.makepyfile(CRASHES.format(crash=crash, how=how))
    distribution = ["--dist=loadfile"] if xdist_args else []

    run_pytest("--faultguard-scope", scope, "--faultguard-confirm=off", *start_args, *xdist_args, *distribution)

    outcomes = recorder.outcomes()
    assert {name: told[1] for name, told in outcomes.items()} == {
        f"test_it[{number}]": "call failed" if number == crash else "call passed" for number in range(6)
    }
    report = recorder.report(f"test_it[{crash}]")
    assert (report.message or "").startswith(told)
    assert f"'number' = {crash}" in report.longrepr.partition("rescued faultguard_data")[2]
    assert report.section("Captured stdout call") == f"number {crash}\n"
    first, *second = [line[1] for line in notes.lines() if line[2:] == ["up"]]
    # The first child could not tear down.
    assert [line[1] for line in notes.lines() if line[2:] == ["down"]] == second
    assert len(second) == (0 if crash == 5 else 1)
    assert [line[1] for line in notes.lines() if line[2:] == []] == [first] * (crash + 1) + second * (5 - crash)


def test_child_stays_alive_across_unguarded_tests(
    pytester: pytest.Pytester, run_pytest: RunPytest, notes: Notes, xdist_args: tuple[str, ...]
) -> None:
    """Fixtures wider than a test are set up once per process that needs them, and finalized once, there."""
    pytester.makeconftest(PIDS)
    pytester.makepyfile(
        """
        import os
        import pytest
        from conftest import note

        @pytest.fixture(scope="module")
        def wide(request):
            note(request, "up")
            yield os.getpid()
            note(request, "down")

        @pytest.mark.faultguard(scope="module")
        def test_g(wide): assert wide == os.getpid()
        def test_h(wide): assert wide == os.getpid()
        @pytest.mark.faultguard(scope="module")
        def test_i(wide): assert wide == os.getpid()
        def test_j(wide): assert wide == os.getpid()
        """
    )
    distribution = ["--dist=loadfile"] if xdist_args else []

    run_pytest(*xdist_args, *distribution).assert_outcomes(passed=4)

    ups = [line[1] for line in notes.lines() if line[2:] == ["up"]]
    downs = [line[1] for line in notes.lines() if line[2:] == ["down"]]
    assert len(ups) == 2
    assert sorted(downs) == sorted(ups)
    tests = [(line[0][-1], line[1]) for line in notes.lines() if not line[2:]]
    assert [name for name, pid in tests if pid == tests[0][1]] == ["g", "i"]
    assert len({pid for _, pid in tests}) == 2


STALE = """
import os
import pytest

@pytest.fixture(scope="class")
def number(request):
    return request.cls.number

@pytest.fixture(scope="module")
def things():
    made = []
    yield made
    made.append("gone")

class TestOne:
    number = 1
    def test_before(self, number, things): assert number == 1
    @pytest.mark.faultguard(scope="session")
    def test_guarded(self, number, things): assert number == 1; things.append(1)

@pytest.mark.faultguard(scope="session")
class TestTwo:
    number = 2
    def test_a(self, number, things): assert number == 2; assert things == [1]
    def test_b(self, number, things): assert number == 2; things.append(2)

@pytest.mark.faultguard(scope="session")
class TestThree:
    number = 3
    def test_c(self, number, things): assert number == 3; assert things == [1, 2]
"""


def test_inherited_fixture_is_forgotten_where_its_scope_ends(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """What pytest's own process had set up is torn down there alone, and the next class gets a value of its own."""
    pytester.makepyfile(test_1=STALE, test_2=STALE)

    run_pytest().assert_outcomes(passed=10)


LATE = """
import ctypes
import os
import pytest

@pytest.fixture(scope="module")
def wide():
    yield
    print("the last words")
    {how}

@pytest.mark.faultguard(scope="module")
def test_first(wide): pass

@pytest.mark.faultguard(scope="module")
def test_last(wide): pass

def test_unguarded(): pass
"""


LATE_WAYS = {
    "segfault": ("ctypes.string_at(0)", "SIGSEGV (segmentation fault) in teardown after "),
    "exit": ("os._exit(3)", "exit code 3 in teardown after "),
    "error": ("raise ValueError('too late')", "ValueError: too late"),
    "hang": ("import time; time.sleep(60)", "timeout of 0.5 s passed in teardown, ended by "),
}


@pytest.mark.parametrize("way", LATE_WAYS)
def test_late_teardown_is_one_more_of_the_last_test(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, xdist_args: tuple[str, ...], way: str
) -> None:
    """The end of a scope has a bound of its own, and what goes wrong there is told with its output."""
    how, message = LATE_WAYS[way]
    pytester.makepyfile(LATE.format(how=how))
    # As pytest-benchmark does.
    pytester.makeconftest("def pytest_runtest_makereport(item): item.funcargs.get('benchmark')\n")
    distribution = ["--dist=loadfile"] if xdist_args else []

    result = run_pytest("-o", "faultguard_end_timeout=0.5", *xdist_args, *distribution)

    result.assert_outcomes(passed=3, errors=1)
    assert recorder.outcomes()["test_last"] == ["setup passed", "call passed", "teardown passed", "teardown failed"]
    late = recorder.reports("test_last", when="teardown")[-1]
    assert (late.message or "").startswith(message)
    assert "the last words" in late.section("Captured stdout teardown")


@pytest.mark.parametrize(
    ("way", "start", "xdist"),
    [
        ("segfault", "fork", False),
        ("segfault", "spawn", True),
        ("exit", "forkserver", False),
        ("exit", "fork", True),
        ("error", "fork", False),
        ("error", "forkserver", True),
        ("error", "spawn", False),
        ("hang", "fork", True),
        ("hang", "forkserver", True),
        ("hang", "spawn", False),
    ],
)
def test_late_teardown_before_the_next_module_is_not_of_that(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, way: str, start: str, xdist: bool
) -> None:
    """Where a test that is not guarded ran between the two, in a child that both modules share."""
    how, message = LATE_WAYS[way]
    late = LATE.format(how=how).replace('scope="module")\ndef test', 'scope="session")\ndef test')
    following = "import pytest\n@pytest.mark.faultguard(scope='session')\ndef test_next(): pass\n"
    pytester.makepyfile(test_late=late, test_next=following)
    # One worker that has all of them, in their order.
    distribution = ["-n1"] if xdist else []

    run_pytest("-ofaultguard_end_timeout=0.5", f"--faultguard-start={start}", *distribution)

    told = recorder.outcomes()
    assert told["test_last"] == ["setup passed", "call passed", "teardown passed", "teardown failed"]
    assert [told[name] for name in ("test_first", "test_unguarded", "test_next")] == [PASSED] * 3
    report = recorder.reports("test_last", when="teardown")[-1]
    assert (report.message or "").startswith(message)
    assert "the last words" in report.section("Captured stdout teardown")


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("way", LATE_WAYS)
def test_what_is_shared_ends_in_the_teardown_of_the_last_test(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    xdist_args: tuple[str, ...],
    way: str,
    start: str,
) -> None:
    """As pytest does it, with the bound of the end; and no test is tried alone, for those fixtures would end there as well."""
    how, message = LATE_WAYS[way]
    pytester.makepyfile(LATE.format(how=how).replace("def test_unguarded(): pass\n", ""))
    distribution = ["--dist=loadfile"] if xdist_args else []

    options = ("-ofaultguard_end_timeout=0.5", f"--faultguard-start={start}")
    run_pytest(*options, *xdist_args, *distribution).assert_outcomes(passed=2, errors=1)

    assert recorder.outcomes() == {
        "test_first": PASSED,
        "test_last": ["setup passed", "call passed", "teardown failed"],
    }
    report = recorder.report("test_last", when="teardown")
    assert (report.message or "").startswith(message)
    assert "the last words" in report.section("Captured stdout teardown")
    if way != "error":
        assert re.search(r"^ran before it in the same child:\n.*::test_first$", report.longrepr, re.MULTILINE)
        assert report.crash["alone"] is None


@pytest.mark.parametrize("fixture_scope", ["function", "class"])
def test_teardown_of_what_is_not_shared_has_no_bound_of_the_end(
    pytester: pytest.Pytester, run_pytest: RunPytest, fixture_scope: str
) -> None:
    """Nor has that of a test which shares no child."""
    pytester.makepyfile(
        f"""
        import time
        import pytest

        @pytest.fixture(scope="{fixture_scope}")
        def slow():
            yield
            time.sleep(0.6)

        @pytest.mark.faultguard(scope="{"module" if fixture_scope == "function" else "function"}", end_timeout=0.3)
        def test_it(slow): pass
        """
    )

    run_pytest().assert_outcomes(passed=1)


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_deadline_is_each_tests_own(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, start: str
) -> None:
    """Together they take longer than each may."""
    pytester.makepyfile(
        """
        import threading
        import pytest
        pytestmark = pytest.mark.faultguard(scope="module", timeout=0.6)
        @pytest.mark.parametrize("number", range(5))
        def test_it(number):
            threading.Event().wait(60 if number == 3 else 0.25)
        """
    )

    run_pytest(f"--faultguard-start={start}").assert_outcomes(passed=4, failed=1)

    assert (recorder.report("test_it[3]").message or "").startswith("timeout of 0.6 s passed in call")


#: Busy with the last report of the first test, while the child has gone on with the second.
BUSY = """
import time

def pytest_runtest_logreport(report):
    if report.when == "teardown" and report.nodeid.endswith("::test_1"):
        time.sleep({seconds})
"""


def test_crash_of_a_child_that_ran_ahead_has_its_true_duration(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder
) -> None:
    """It counts from when the child began the test, not from when pytest came to it."""
    pytester.makeconftest(BUSY.format(seconds=0.5))
    pytester.makepyfile(
        """
        import ctypes
        import time
        def test_1(): pass
        def test_2():
            time.sleep(0.3)
            ctypes.memset(0, 0, 1)
        """
    )

    run_pytest("--faultguard").assert_outcomes(passed=1, failed=1)

    assert recorder.report("test_2").duration >= 0.25


@pytest.mark.parametrize("trivial", [0, 5])
@pytest.mark.parametrize(
    "talk", ['print("x" * 300_000)', "[warnings.warn('x' * 300 + str(number)) for number in range(400)]"]
)
def test_wait_for_pytest_does_not_count_against_a_child_that_ran_ahead(
    pytester: pytest.Pytester, run_pytest: RunPytest, talk: str, trivial: int
) -> None:
    """Its setup has said more than fits into the channel while pytest was busy, in one message or in many."""
    pytester.makeconftest(BUSY.format(seconds=1.5))
    pytester.makepyfile(
        f"""
        import time
        import warnings
        import pytest
        @pytest.fixture
        def talkative(): {talk}
        def test_1(): pass
        @pytest.mark.parametrize("number", range({trivial}))
        def test_trivial(number): pass
        def test_2(talkative): time.sleep(0.2)
        """
    )

    run_pytest("--faultguard", "--faultguard-timeout=1").assert_outcomes(passed=2 + trivial, skipped=int(not trivial))


def test_wait_for_orders_does_not_count_against_a_child(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """It had done all that it was told of ahead, while pytest was busy with the first."""
    pytester.makeconftest(BUSY.format(seconds=1.5))
    pytester.makepyfile(
        """
        import time
        import pytest
        def test_1(): pass
        @pytest.mark.parametrize("number", range(40))
        def test_other(number): time.sleep(0.2 if number in {10, 11, 12, 13} else 0)
        """
    )

    run_pytest("--faultguard", "--faultguard-timeout=1").assert_outcomes(passed=41)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_each_test_runs_once_and_in_order_however_many_were_ordered_ahead(
    pytester: pytest.Pytester, run_pytest: RunPytest, notes: Notes, start: str
) -> None:
    """After a failure, a crash, and a test that is not guarded, what was ordered ahead is ordered anew."""
    pytester.makeconftest(PIDS)
    pytester.makepyfile(
        """
        import ctypes
        import pytest

        def end(number):
            assert number not in {3, 20, 21}
            if number == 30:
                ctypes.memset(0, 0, 1)

        @pytest.mark.parametrize(
            "number",
            [
                pytest.param(one, marks=[] if one == 40 else [pytest.mark.faultguard(scope="module")])
                for one in range(60)
            ],
        )
        def test_it(number): end(number)
        """
    )

    run_pytest(f"--faultguard-start={start}", "--faultguard-confirm=off").assert_outcomes(passed=56, failed=4)

    assert [nodeid.rpartition("::")[2] for nodeid, *_ in notes.lines()] == [f"test_it[{one}]" for one in range(60)]


def test_child_waits_after_a_test_with_a_limit_of_cpu_time(
    pytester: pytest.Pytester, run_pytest: RunPytest, notes: Notes
) -> None:
    """Only its guard knows when it is over that: the next test would write over what it has left."""
    pytester.makeconftest(
        PIDS
        + """
import time

def pytest_runtest_logreport(report):
    if report.when == "call" and report.nodeid.endswith("[2]"):
        time.sleep(0.5)
        note("logged")
"""
    )
    pytester.makepyfile(
        """
        import pytest

        limited = pytest.mark.faultguard(cpu=60, scope="module")
        plain = pytest.mark.faultguard(scope="module")

        @pytest.mark.parametrize("number", [pytest.param(one, marks=limited if one == 2 else plain) for one in range(6)])
        def test_it(number): pass
        """
    )

    run_pytest().assert_outcomes(passed=6)

    names = [nodeid.rpartition("::")[2] for nodeid, *_ in notes.lines()]
    assert names == ["test_it[0]", "test_it[1]", "test_it[2]", "logged", "test_it[3]", "test_it[4]", "test_it[5]"]


def test_orders_that_nobody_reads_make_nobody_wait(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """With long names, and with pipes of a page, as the kernel gives them to who has many: the deadline is kept."""
    pytester.makeconftest(
        """
        import fcntl
        import os

        PAGE = os.sysconf("SC_PAGE_SIZE")
        make = os.pipe2

        def small(flags):
            ends = make(flags)
            assert fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PAGE) == PAGE
            return ends

        os.pipe2 = small
        """
    )
    pytester.makepyfile(
        """
        import time
        import pytest
        @pytest.mark.parametrize("number", range(30), ids=lambda number: f"{number}-" + "n" * 3_000)
        def test_long(number): pass
        @pytest.mark.parametrize("number", range(30), ids=lambda number: f"{number}-" + "n" * 80)
        def test_short(number): time.sleep(60 * (number == 2))
        """
    )

    run_pytest("--faultguard", "--faultguard-timeout=3").assert_outcomes(passed=59, failed=1)


def test_stop_after_a_failure_stops_the_child_too(
    pytester: pytest.Pytester, run_pytest: RunPytest, notes: Notes, start_args: tuple[str, ...]
) -> None:
    """With `-x` no other test runs, also not one that its child could have begun already."""
    pytester.makeconftest(PIDS)
    pytester.makepyfile(
        """
        def test_a(): pass
        def test_b(): assert 0
        def test_c(): pass
        """
    )

    run_pytest("--faultguard", "-x", *start_args).assert_outcomes(passed=1, failed=1)

    assert notes.groups() == ["ab"]


def test_processes_that_tests_have_left_end_with_their_child(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, start_args: tuple[str, ...]
) -> None:
    """Nobody knows which test started them: a warning names them."""
    pytester.makepyfile(
        """
        import subprocess
        def test_a(): subprocess.Popen(["sleep", "60"])
        def test_b(): pass
        """
    )

    run_pytest("--faultguard", *start_args).assert_outcomes(passed=2, warnings=1)

    (warning,) = recorder.warnings()
    assert warning.startswith("LeakedProcessesWarning: killed at the end of a shared child: ")
    assert warning.endswith(" sleep 60")


IDLE = """
import os
import subprocess
import pytest
from say import say, wait

@pytest.fixture(scope="module")
def wide():
    process = subprocess.Popen(["sleep", "60"])
    say("wide", os.getpid(), process.pid)
    yield
    process.kill()
    process.wait()
    say("down")

@pytest.mark.faultguard(scope="module")
def test_guarded(wide): pass

def test_unguarded():
    say("unguarded")
    wait()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
@pytest.mark.parametrize(("start", "others"), [("fork", 0), ("forkserver", 2), ("spawn", 0)])
def test_child_that_waits_leaves_nothing_behind_pytest(
    pytester: pytest.Pytester, start_pytest: StartPytest, start: str, others: int, number: signal.Signals
) -> None:
    """While pytest itself runs a test: Ctrl-C tears its fixtures down; else its whole group ends with pytest."""
    pytester.makepyfile(IDLE)
    session = start_pytest(f"--faultguard-start={start}")
    pid, inner = map(int, session.wait_for("wide"))
    session.wait_for("unguarded")
    # That it has told all does not mean that it waits already.
    wait_until_asleep(pid)
    found = descendants(session.pid)
    assert {pid, inner} <= found
    assert len(found) == 2 + others

    session.send(number)
    if number == signal.SIGINT:
        session.wait_for("down")
    session.end()

    assert [one for one in found if not has_ended(one)] == []


def test_order_given_ahead_is_void_after_a_failure(
    pytester: pytest.Pytester, run_pytest: RunPytest, notes: Notes
) -> None:
    """Also where a test that is not guarded comes between, and something has to be torn down before the next one."""
    pytester.makeconftest(PIDS)
    module = """
        import pytest
        @pytest.fixture(scope="module")
        def wide(): yield
        @pytest.mark.faultguard(scope="session")
        class TestGuarded:
            def test_a(self, wide): pass
            def test_b(self, wide): assert 0
            def test_c(self, wide): pass
        def test_d(wide): pass
        @pytest.mark.faultguard(scope="session")
        def test_e(): assert 0
        """
    pytester.makepyfile(test_1=module, test_2=module)

    run_pytest().assert_outcomes(passed=6, failed=4)

    assert notes.groups() == ["abceabce", "dd"]


def test_inherited_value_that_is_gone_is_not_used(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """The process of pytest itself has torn it down for another parameter, in between."""
    pytester.makeconftest(
        """
        import shutil
        import pytest

        @pytest.hookimpl(trylast=True)
        def pytest_collection_modifyitems(items):
            items.sort(key=lambda item: item.name)

        @pytest.fixture(scope="session")
        def folder(request, tmp_path_factory):
            made = tmp_path_factory.mktemp("folder")
            yield made
            shutil.rmtree(made)
        """
    )
    pytester.makepyfile(
        """
        import pytest
        with_folder = lambda value: pytest.mark.parametrize("folder", [value], indirect=True)
        shared = pytest.mark.faultguard(scope="session")

        @with_folder(0)
        def test_1(folder): assert folder.exists()
        @shared
        @with_folder(0)
        def test_2(folder): assert folder.exists()
        @with_folder(1)
        def test_3(folder): assert folder.exists()
        @shared
        @with_folder(0)
        def test_4(folder): assert folder.exists()
        """
    )

    run_pytest().assert_outcomes(passed=4)


def test_child_whose_first_test_could_not_begin_runs_the_next(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """The process of pytest itself has failed to tear down what stood in the way."""
    pytester.makepyfile(
        """
        import pytest
        @pytest.fixture(scope="module")
        def wide(request):
            yield request.param
            if request.param == 0: raise RuntimeError("teardown of 0")
        @pytest.mark.parametrize("wide", [0], indirect=True)
        def test_u(wide): pass
        @pytest.mark.faultguard(scope="module")
        @pytest.mark.parametrize("wide", [1], indirect=True)
        def test_g(wide): pass
        @pytest.mark.faultguard(scope="module")
        def test_h(): pass
        """
    )

    run_pytest().assert_outcomes(passed=2, errors=1)


def test_much_output_takes_no_time(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """A report of many times what a pipe holds is no hang."""
    pytester.makepyfile("def test_it(): print('x' * 20_000_000)")

    run_pytest("--faultguard", "--faultguard-timeout=10").assert_outcomes(passed=1)


def test_interrupt_at_any_moment_tears_down_what_is_shared(
    pytester: pytest.Pytester, start_pytest: StartPytest
) -> None:
    """While a test runs, between two of them, and while the child has gone on."""
    pytester.makeconftest(
        """
        import pytest
        from say import say
        @pytest.fixture(scope="session", autouse=True)
        def wide():
            yield
            say("down")
        """
    )
    pytester.makepyfile(
        """
        import pytest
        from say import say
        @pytest.mark.parametrize("number", range(3000))
        def test_it(number):
            if number == 20: say("begun")
        """
    )
    for _ in range(5):
        session = start_pytest("--faultguard", "-q")
        session.wait_for("begun")

        session.send(signal.SIGINT)

        session.wait_for("down")
        # Before 3.12 a loop may jump back on no line at all, and pytest cannot tell of an interrupt that came there (one of
        # 250 signals did, without this plugin; one of 700 of these sessions ended with pytest's own TypeError).
        assert session.end() == pytest.ExitCode.INTERRUPTED or "self._rawentry.tb_lineno - 1" in session.output


def test_status_at_any_moment_ends_nothing(pytester: pytest.Pytester, start_pytest: StartPytest) -> None:
    """SIGUSR1 between two tests of a child, and while it goes on, is answered or not, and that is all."""
    pytester.makepyfile(
        """
        import pytest
        from say import say
        @pytest.mark.parametrize("number", range(1500))
        def test_it(number):
            if number % 100 == 20 and number < 1400: say(f"at{number}")
        """
    )
    session = start_pytest("--faultguard", "-q")

    for number in range(20, 1400, 100):
        session.wait_for(f"at{number}")
        session.send(signal.SIGUSR1)

    assert session.end() == pytest.ExitCode.OK


@pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="nothing is copied ahead on one processor")
@pytest.mark.forked_only("a fresh process has no pages to share")
@pytest.mark.parametrize("dist", [(), ("-n2", "--dist=each")], ids=["serial", "each"])
def test_pages_that_children_write_to_are_copied_by_their_guard(
    pytester: pytest.Pytester, run_pytest: RunPytest, dist: tuple[str, ...]
) -> None:
    """The fifth one finds copied which those before it have written to, and no others; in a worker as well."""
    pytester.makepyfile(
        """
        import ctypes
        import mmap
        import os

        import pytest

        COUNT, WRITTEN = 64, range(8, 40)
        memory = mmap.mmap(-1, COUNT * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory[:] = b"." * len(memory)

        def shared_with_nobody():
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
                entries = os.pread(pagemap.fileno(), COUNT * 8, address // mmap.PAGESIZE * 8)
            return {number for number, state in enumerate(entries[7::8]) if state & 1}

        @pytest.mark.faultguard(timeout=20)
        @pytest.mark.parametrize("number", range(10))
        def test_it(number):
            if number == 4:
                while shared_with_nobody() != set(WRITTEN):
                    os.sched_yield()
            for place in WRITTEN:
                memory[place * mmap.PAGESIZE] = 0
        """
    )

    result = run_pytest(*dist)

    result.assert_outcomes(passed=20 if dist else 10)
