"""The deadline is kept by the parent's clock, stacks are taken first, and the session goes on; slow tests tell where."""

from __future__ import annotations

import re
import signal
import time
from dataclasses import dataclass

import pytest

from testing.harness import Recorder
from testing.harness import Report
from testing.harness import RunPytest
from testing.live import Live
from testing.live import StartPytest
from testing.live import look_at
from testing.live import wait_until
from testing.live import wait_until_asleep

#: What may pass on a busy machine beyond a limit.
SLACK_SECONDS = 8.0
#: How long a child may take to write its stacks; it takes milliseconds where it writes them at all.
STACKS_SECONDS = 0.5

#: What every module of hanging tests begins with: a note of when each test began, on a clock that all processes share.
HEAD = """
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import pytest
from programs import lib, pylib
from say import say, wait

pytestmark = pytest.mark.faultguard

@pytest.fixture(autouse=True)
def began(request):
    with open("began", "a") as file:
        print(request.node.nodeid.partition("::")[2], time.monotonic(), file=file)

"""


def began(pytester: pytest.Pytester) -> dict[str, float]:
    """When each test began."""
    lines = (pytester.path / "began").read_text().splitlines()
    return {name: float(when) for name, when in map(str.split, lines)}


def functions(report: Report) -> list[set[str]]:
    """For each thread the functions on its stack, as the report of a crash names them."""
    return [{frame["function"] for frame in stack["frames"]} for stack in report.crash["stacks"]]


# A hang is told as such, in each phase.


OUTCOMES = {
    "setup": ["setup failed", "teardown passed"],
    "call": ["setup passed", "call failed", "teardown passed"],
    "teardown": ["setup passed", "call passed", "teardown failed"],
    "nowhere": ["setup passed", "call passed", "teardown passed"],
}


@pytest.mark.usefixtures("programs", "start_pytest")
def test_hang_is_told_in_its_phase(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, xdist_args: tuple[str, ...]
) -> None:
    """With the limit, the phase, what ended it, the line where it hung, and the time that it took."""
    (pytester.path / "test_it.py").write_text(
        HEAD
        + """
def hang_in(phase, request):
    if phase in request.node.name:
        time.sleep(600)

@pytest.fixture
def thing(request):
    hang_in("setup", request)
    yield
    hang_in("teardown", request)

@pytest.mark.faultguard(timeout=0.5)
@pytest.mark.parametrize("phase", ["setup", "call", "teardown", "nowhere"])
def test_hangs(thing, request, phase):
    hang_in("call", request)
"""
    )

    result = run_pytest(*xdist_args)

    assert recorder.outcomes() == {f"test_hangs[{phase}]": told for phase, told in OUTCOMES.items()}
    for phase in ("setup", "call", "teardown"):
        report = recorder.report(f"test_hangs[{phase}]", phase)
        assert report.crash["phase"] == phase
        assert report.crash["ending"] == {"kind": "Overdue", "timeout": 0.5, "stopped_by": "SIGTERM", "ground": ""}
        assert report.message == f"timeout of 0.5 s passed in {phase}, ended by SIGTERM"
        source = (pytester.path / "test_it.py").read_text().splitlines()
        assert source[(report.lineno or 0) - 1] == "        time.sleep(600)"
        (stack,) = functions(report)
        assert "hang_in" in stack
        assert report.crash["gaps"] == []
        assert 0.3 <= report.duration <= 0.5 + SLACK_SECONDS
        result.stdout.fnmatch_lines_random([f"E * timeout of 0.5 s passed in {phase}, ended by SIGTERM"])
    result.stdout.fnmatch_lines(
        [">*time.sleep(600)", "*test_it.py:*: timeout", "*- faulthandler dump -*", "*test_it.py*, line * in hang_in"]
    )


# Whatever it is that hangs.


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to hang, and what is told of it."""

    body: str
    stopped_by: str = "SIGTERM"
    #: Functions that are on the stack of some thread, one thread each.
    places: tuple[str, ...] = ("test_hangs",)
    gap: str = ""
    leaked: str = ""
    ground: str = ""


WAYS = {
    "sleep": Way(body="time.sleep(600)"),
    "python_loop": Way(body="while True: pass"),
    "loop": Way(body="lib.loop_gil()"),
    "loop_with_the_gil": Way(body="pylib.loop_gil()"),
    "loop_with_all_signals_blocked": Way(
        body="pylib.loop_blocked()", stopped_by="SIGKILL", places=(), gap="stacks: every thread blocks all signals"
    ),
    "deadlock": Way(body="deadlock()", places=("first_then_second", "second_then_first", "join")),
    "stopped": Way(body="lib.stop_self(); time.sleep(600)", ground=" (the process was stopped, as by SIGSTOP)"),
    "stopped_by_somebody": Way(
        body="os.kill(os.getpid(), signal.SIGSTOP); time.sleep(600)",
        ground=" (the process was stopped, as by SIGSTOP)",
    ),
    "ignores_sigterm": Way(body="signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)", stopped_by="SIGKILL"),
    "handles_sigterm": Way(
        body="signal.signal(signal.SIGTERM, lambda *_: pytest.skip('nothing happened')); time.sleep(600)"
    ),
    "catches_everything": Way(body="catch_everything()", stopped_by="SIGKILL", places=("catch_everything",)),
    "holds_stdout": Way(body="hold_stdout()", places=("hold_stdout",), leaked="sleep 1001"),
    "does_not_listen": Way(
        body="signal.signal(signal.SIGRTMAX - 3, signal.SIG_IGN); time.sleep(600)",
        places=(),
        gap="stacks: the child does not listen to SIGRTMIN",
    ),
}

WAYS_HEAD = """
def deadlock():
    first, second, both = threading.Lock(), threading.Lock(), threading.Barrier(2)

    def first_then_second():
        with first:
            both.wait()
            second.acquire()

    def second_then_first():
        with second:
            both.wait()
            first.acquire()

    threads = [threading.Thread(target=target) for target in (first_then_second, second_then_first)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

def catch_everything():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("SIGTERM"))
    while True:
        try:
            time.sleep(600)
        except BaseException:
            pass

def hold_stdout():
    process = subprocess.Popen(["sleep", "1001"])
    assert os.readlink(f"/proc/{process.pid}/fd/1") == os.readlink("/proc/self/fd/1")
    time.sleep(600)
"""
GRACE = 0.4
TIMEOUT = 1.0


@pytest.mark.usefixtures("programs", "start_pytest")
@pytest.mark.forked_only("a fresh interpreter takes its time to start")
def test_next_test_starts_about_timeout_seconds_later(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, xdist_args: tuple[str, ...]
) -> None:
    """In the same process, no worker is lost; and the report says where every thread was, or the gap."""
    (pytester.path / "test_it.py").write_text(
        HEAD
        + WAYS_HEAD
        + "".join(
            f"""
class Test_{name}:
    @pytest.mark.faultguard(timeout={TIMEOUT}, grace={GRACE})
    def test_hangs(self):
        {way.body}

    def test_next(self):
        pass
"""
            for name, way in WAYS.items()
        )
    )

    run_pytest(*xdist_args, *(["--dist=loadscope"] if xdist_args else []))

    assert len(recorder.outcomes()) == 2 * len(WAYS)
    times = began(pytester)
    for name, way in WAYS.items():
        report = recorder.report(f"Test_{name}::test_hangs")
        ended = f"ended by {way.stopped_by}{way.ground}"
        assert report.message == f"timeout of {TIMEOUT:g} s passed in call, {ended}", name
        assert [gap[: len(way.gap)] for gap in report.crash["gaps"]] == ([way.gap] if way.gap else []), name
        assert ("gaps in the evidence" in report.longrepr) is bool(way.gap), name
        stacks = functions(report)
        # One thread each, and none besides.
        assert len(stacks) == len(way.places) == report.longrepr.count("(most recent call first)"), name
        assert [place for place in way.places if not any(place in stack for stack in stacks)] == [], name
        leaked = [told.partition(" ") for told in report.crash["leaked"]]
        assert [command for _, _, command in leaked] == ([way.leaked] if way.leaked else []), name
        assert [look_at(int(pid)) for pid, _, _ in leaked] == [None] * len(leaked), name

        following = recorder.report(f"Test_{name}::test_next")
        assert following.outcome == "passed", name
        assert following.worker == report.worker
        grace = GRACE if way.stopped_by == "SIGKILL" else 0.0
        took = times[f"Test_{name}::test_next"] - times[f"Test_{name}::test_hangs"]
        # The clock of the child starts before its test: a moment, or longer on a busy machine.
        assert TIMEOUT / 2 + grace < took < TIMEOUT + STACKS_SECONDS + grace + SLACK_SECONDS, name
    assert len({report.worker for report in recorder.reports()}) == (2 if xdist_args else 1)


@pytest.mark.usefixtures("programs", "start_pytest")
def test_limit_is_that_of_the_whole_test(pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder) -> None:
    """Setup, call and teardown together."""
    (pytester.path / "test_it.py").write_text(
        HEAD
        + """
@pytest.fixture
def slow():
    time.sleep(0.4)

@pytest.mark.faultguard(timeout=0.8)
def test_it(slow):
    time.sleep(0.2)
    # Not yet.
    time.sleep(0.6)
"""
    )

    run_pytest()

    report = recorder.report("test_it")
    assert report.crash["ending"]["kind"] == "Overdue"
    source = (pytester.path / "test_it.py").read_text().splitlines()
    assert source[(report.lineno or 0) - 1] == "    time.sleep(0.6)"
    assert 0.3 < report.duration < 0.5 + SLACK_SECONDS


@pytest.mark.forked_only("a fresh interpreter ends within faultguard_end_timeout: see test_starts.py")
@pytest.mark.usefixtures("programs", "start_pytest")
def test_hang_after_the_last_report_has_a_bound_of_its_own(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder
) -> None:
    """Without any timeout: a child that has finished must leave."""
    (pytester.path / "test_it.py").write_text(
        HEAD
        + """
class NeverFlushed:
    def flush(self):
        time.sleep(600)

def test_hangs():
    sys.__stdout__ = NeverFlushed()

def test_thread():
    threading.Thread(target=time.sleep, args=(600,)).start()

def test_next():
    pass
"""
    )

    run_pytest()

    report = recorder.report("test_hangs", "teardown")
    assert report.crash["phase"] == "exit"
    assert report.crash["ending"] == {"kind": "Overdue", "timeout": 5.0, "stopped_by": "SIGKILL", "ground": ""}
    assert recorder.report("test_hangs").outcome == "passed"
    assert {name: told[-1] for name, told in recorder.outcomes().items()} == {
        "test_hangs": "teardown failed",
        "test_thread": "teardown passed",
        "test_next": "teardown passed",
    }
    took = began(pytester)["test_thread"] - began(pytester)["test_hangs"]
    assert 5.0 <= took < 5.0 + SLACK_SECONDS


# Where the limit comes from.


@pytest.mark.parametrize(
    ("option", "ini", "expected"),
    [
        pytest.param("", "", None, id="none_by_default"),
        pytest.param("", "0.31", 0.31, id="ini"),
        pytest.param("0.32", "0.31", 0.32, id="option_over_ini"),
        pytest.param("0", "0.31", None, id="option_disables"),
        pytest.param("", "0", None, id="ini_disables"),
    ],
)
@pytest.mark.usefixtures("programs", "start_pytest")
def test_marker_wins_over_command_line_over_ini(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    option: str,
    ini: str,
    expected: float | None,
) -> None:
    """Zero is no limit; so is saying nothing anywhere."""
    if ini:
        pytester.makeini(f"[pytest]\nfaultguard_timeout = {ini}\n")
    (pytester.path / "test_it.py").write_text(
        HEAD
        + f"""
def test_unsaid():
    time.sleep({600 if expected else 0.7})

@pytest.mark.faultguard(timeout=None)
def test_none():
    time.sleep({600 if expected else 0.7})

@pytest.mark.faultguard(timeout=0.33)
def test_marked():
    time.sleep(600)

@pytest.mark.faultguard(timeout=0)
def test_disabled():
    time.sleep(0.7)
"""
    )

    run_pytest(*([f"--faultguard-timeout={option}"] if option else []))

    timeouts = {
        report.nodeid.rpartition("::")[2]: report.crash and report.crash["ending"]["timeout"]
        for report in recorder.reports(when="call")
    }
    assert timeouts == {"test_unsaid": expected, "test_none": expected, "test_marked": 0.33, "test_disabled": None}


@pytest.mark.usefixtures("programs", "start_pytest")
def test_closest_marker_wins(pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder) -> None:
    """The function's over the class's over the module's; a parameter's counts for its own test."""
    (pytester.path / "test_it.py").write_text(
        HEAD
        + """
pytestmark = pytest.mark.faultguard(timeout=0.31)

def test_module():
    time.sleep(600)

@pytest.mark.faultguard(timeout=0.32)
class TestIt:
    def test_class(self):
        time.sleep(600)

    @pytest.mark.faultguard(timeout=0.33)
    def test_function(self):
        time.sleep(600)

    @pytest.mark.faultguard(grace=0.2)
    def test_other_argument(self):
        time.sleep(600)

    @pytest.mark.parametrize(
        "seconds",
        [
            pytest.param(0.5, marks=pytest.mark.faultguard(timeout=0)),
            pytest.param(600, marks=pytest.mark.faultguard(timeout=0.34)),
        ],
        ids=["off", "hangs"],
    )
    def test_parameter(self, seconds):
        time.sleep(seconds)
"""
    )

    run_pytest()

    timeouts = {
        report.nodeid.rpartition("::")[2]: report.crash and report.crash["ending"]["timeout"]
        for report in recorder.reports(when="call")
    }
    assert timeouts == {
        "test_module": 0.31,
        "test_class": 0.32,
        "test_function": 0.33,
        "test_other_argument": 0.32,
        "test_parameter[off]": None,
        "test_parameter[hangs]": 0.34,
    }


@pytest.mark.usefixtures("programs", "start_pytest")
def test_unguarded_tests_have_no_limit(pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder) -> None:
    """A limit is one for children; with `--faultguard`, every test has one."""
    pytester.makepyfile("import time\ndef test_it(): time.sleep(0.8)\n")

    run_pytest("--faultguard-timeout=0.3")
    assert recorder.report("test_it").outcome == "passed"

    run_pytest("--faultguard-timeout=0.3", "--faultguard")
    assert recorder.report("test_it").crash["ending"]["timeout"] == 0.3


# Periodic stacks of a slow test.

SLOW = (
    HEAD
    + """
@pytest.fixture
def slow():
    slow_setup()
    yield
    slow_teardown()

def slow_setup():
    wait_for_dumps()

def slow_call():
    wait_for_dumps()

def slow_teardown():
    wait_for_dumps()

def wait_for_dumps():
    # However slow the machine: pause(2) returns when a signal handler has run, and that of a dump when it is written.
    for _ in range(2):
        ctypes.CDLL(None).pause()

@pytest.mark.faultguard(dump_every=0.2)
def test_passes(slow):
    slow_call()

@pytest.mark.faultguard(dump_every=0.2)
def test_fails(slow):
    slow_call()
    assert 0

@pytest.mark.faultguard(dump_every=0.2, timeout=2)
def test_hangs():
    time.sleep(600)

@pytest.mark.faultguard(dump_every=0.2)
def test_native():
    native()

def native():
    # A loop in C that holds the GIL.
    sum(range(60_000_000))

@pytest.mark.faultguard(dump_every=60)
def test_quick():
    pass
"""
)


def slow_sections(report: Report) -> list[tuple[str, str]]:
    """The sections with stacks of a test that was still running."""
    return [(title, text) for title, text in report.sections if title.startswith("stacks in ")]


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("-n2",),
        ("--faultguard-start=spawn", "--faultguard-scope=module"),
        ("-n2", "--faultguard-start=forkserver"),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("programs", "start_pytest")
def test_slow_test_tells_again_and_again_where_it_is(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, args: tuple[str, ...]
) -> None:
    """In its report, with the second and the stacks; whether it passes, fails or hangs, in setup, call and teardown."""
    (pytester.path / "test_it.py").write_text(SLOW)

    run_pytest(*args)

    for name in ("test_passes", "test_fails"):
        for phase in ("setup", "call", "teardown"):
            mine = [
                (title, text)
                for title, text in slow_sections(recorder.report(name, phase))
                if title.startswith(f"stacks in {phase} after")
            ]
            assert len(mine) >= 2
            times = [float(re.fullmatch(r"stacks in \w+ after (\d+\.\d) s", title)[1]) for title, _ in mine]  # type: ignore[index]
            assert times == sorted(set(times))
            assert any(f" in slow_{phase}" in text for _, text in mine), mine
            others = {"setup", "call", "teardown"} - {phase}
            assert not any(f" in slow_{other}" in text for other in others for _, text in mine), mine
    assert len(slow_sections(recorder.report("test_hangs"))) >= 3
    native = [text for _, text in slow_sections(recorder.report("test_native")) if " in native" in text]
    assert len(native) >= 2
    for phase in ("setup", "call", "teardown"):
        assert slow_sections(recorder.report("test_quick", phase)) == []
    assert recorder.report("test_passes").outcome == recorder.report("test_native").outcome == "passed"


def test_the_clock_of_the_stacks_is_the_parents(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder
) -> None:
    """A test that cancels the timer of its own process, which there is one of for all, is asked all the same."""
    pytester.makepyfile(
        """
        import faulthandler
        import time
        import pytest

        @pytest.mark.faultguard(dump_every=0.2)
        def test_it():
            ends = time.monotonic() + 1
            while time.monotonic() < ends:
                faulthandler.cancel_dump_traceback_later()
                time.sleep(0.01)
        """
    )

    run_pytest().assert_outcomes(passed=1)

    assert len(slow_sections(recorder.report("test_it"))) >= 2


def test_nobody_asks_for_stacks_while_an_interpreter_begins(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """However long that takes: there is no test yet whose stacks they would be."""
    pytester.makeconftest(
        """
        import os
        import signal
        import time

        asked = []
        if "PYTEST_FAULTGUARD" in os.environ:
            signal.signal(signal.SIGRTMAX - 3, lambda *_: asked.append(True))
            # What is measured: a start that takes longer than the time between two dumps.
            time.sleep(0.7)
        """
    )
    pytester.makepyfile("import conftest\ndef test_it(): assert conftest.asked == []\n")

    args = ("--faultguard", "--faultguard-start=spawn", "--faultguard-scope=function", "--faultguard-dump-every=0.2")
    run_pytest(*args).assert_outcomes(passed=1)


@pytest.mark.usefixtures("programs", "start_pytest")
def test_stacks_of_a_slow_test_on_the_terminal(
    pytester: pytest.Pytester, run_pytest: RunPytest, xdist_args: tuple[str, ...]
) -> None:
    """Under a failure; of a passed test only where passed tests are shown. None is shown twice."""
    (pytester.path / "test_it.py").write_text(SLOW)

    failed = run_pytest(*xdist_args, "-k", "passes or fails").stdout
    passed = run_pytest(*xdist_args, "-rA", "-k", "passes").stdout

    for shown in (failed, passed):
        for phase in ("setup", "call", "teardown"):
            shown.fnmatch_lines([f"*- stacks in {phase} after *", f"*test_it.py*, line * in slow_{phase}"])
        titles = re.findall(r"- (stacks in .*?) -", shown.str())
        assert len(titles) == len(set(titles))


@pytest.mark.parametrize(
    ("args", "ini"),
    [(("--faultguard-dump-every=0.2",), ""), ((), "faultguard_dump_every = 0.2")],
    ids=["option", "ini"],
)
@pytest.mark.usefixtures("programs", "start_pytest")
def test_stacks_of_slow_tests_are_an_option_too(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, args: tuple[str, ...], ini: str
) -> None:
    """And are off by default, and with 0."""
    pytester.makeini(f"[pytest]\n{ini}\n")
    (pytester.path / "test_it.py").write_text(
        HEAD
        + """
def test_slow():
    time.sleep(0.5)

@pytest.mark.faultguard(dump_every=0)
def test_off():
    time.sleep(0.5)
"""
    )

    run_pytest(*args)
    assert slow_sections(recorder.report("test_slow"))
    assert not slow_sections(recorder.report("test_off"))

    pytester.makeini("[pytest]\n")
    run_pytest()
    assert not slow_sections(recorder.report("test_slow"))


@pytest.mark.usefixtures("programs", "start_pytest")
def test_gap_of_a_slow_test_is_told_once(pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder) -> None:
    """However often its stacks could not be had."""
    (pytester.path / "test_it.py").write_text(
        HEAD
        + "@pytest.mark.faultguard(dump_every=0.1, timeout=0.8, grace=0.1)\ndef test_it():\n    pylib.loop_blocked()\n"
    )

    run_pytest()

    (gap,) = recorder.report("test_it").crash["gaps"]
    assert gap.startswith("stacks: every thread blocks all signals")


# The timeout of pytest itself.

FAULTHANDLER = """
import time
import pytest

def slow():
    time.sleep({seconds})

@pytest.mark.faultguard
def test_guarded():
    slow()

@pytest.mark.faultguard
def test_after():
    pass
"""


def dumps(text: str) -> list[str]:
    """The dumps that pytest's `faulthandler_timeout` makes."""
    return re.findall(r"Timeout \(.*\)!\n(?:(?:Current t|T)hread .*\n(?:  .*\n)*\n?)+", text)


@pytest.mark.parametrize(
    "args",
    [
        ("--capture=fd",),
        ("--capture=no",),
        ("--capture=fd", "-n2"),
        ("--capture=no", "-n2"),
        ("--capture=no", "--faultguard-start=spawn", "--faultguard-scope=session"),
        ("--capture=fd", "--faultguard-start=forkserver"),
    ],
    ids=" ".join,
)
def test_timeout_of_pytest_dumps_the_child(
    pytester: pytest.Pytester, start_pytest: StartPytest, recorder: Recorder, args: tuple[str, ...]
) -> None:
    """At once and on the terminal, as without us, and in the report; never the process that waits for it."""
    pytester.makeini("[pytest]\nfaulthandler_timeout = 0.4\n")
    (pytester.path / "test_it.py").write_text(
        FAULTHANDLER.format(seconds=0.9)
        .replace("def slow():", "def slow():\n    say('slow')")
        .replace("import time", "import time\nfrom say import say")
    )
    session = start_pytest(*args)
    session.wait_for("slow")

    session.wait_for_output(r"Timeout \(")
    assert session.end() == 0

    (dump,) = dumps(session.output)
    assert " in slow\n" in dump
    assert "supervise.py" not in session.output
    report = recorder.report("test_guarded")
    assert report.outcome == "passed"
    ((title, text),) = slow_sections(report)
    assert re.fullmatch(r"stacks in call after \d\.\d s", title)
    assert " in slow" in text


def test_timeout_of_pytest_is_still_that_of_unguarded_tests(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """After a guarded test, too; once each."""
    pytester.makeini("[pytest]\nfaulthandler_timeout = 0.4\n")
    pytester.makepyfile(
        FAULTHANDLER.format(seconds=0.9)
        + """
def slow_unguarded():
    time.sleep(0.9)

def test_unguarded():
    slow_unguarded()
"""
    )

    result = run_pytest()

    assert result.ret == 0
    guarded, unguarded = dumps(result.stderr.str())
    assert " in slow\n" in guarded
    assert " in slow_unguarded\n" in unguarded


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("-n2",),
        ("--faultguard-start=spawn",),
        ("-n2", "--faultguard-start=forkserver", "--faultguard-scope=session"),
    ],
    ids=" ".join,
)
def test_timeout_of_pytest_that_exits_ends_the_child_alone(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, args: tuple[str, ...]
) -> None:
    """The test fails as one that hangs, and says what has ended it; the session goes on."""
    if int(pytest.__version__.partition(".")[0]) < 9:
        pytest.skip("faulthandler_exit_on_timeout came with pytest 9")
    pytester.makeini("[pytest]\nfaulthandler_timeout = 0.4\nfaulthandler_exit_on_timeout = true\n")
    pytester.makepyfile(FAULTHANDLER.format(seconds=600))

    run_pytest(*args)

    assert recorder.outcomes() == {
        "test_guarded": ["setup passed", "call failed", "teardown passed"],
        "test_after": ["setup passed", "call passed", "teardown passed"],
    }
    report = recorder.report("test_guarded")
    assert report.crash["ending"] == {
        "kind": "Overdue",
        "timeout": 0.4,
        "stopped_by": "faulthandler_exit_on_timeout",
        "ground": "",
    }
    assert report.message == "timeout of 0.4 s passed in call, ended by faulthandler_exit_on_timeout"
    assert " in slow" in report.section("stacks in call")


def test_timeout_of_pytest_that_does_not_pass(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """Nothing is told, and nothing of it is left armed in either process."""
    pytester.makeini("[pytest]\nfaulthandler_timeout = 0.7\n")
    pytester.makepyfile(
        FAULTHANDLER.format(seconds=0.4)
        + """
@pytest.mark.faultguard
def test_again():
    slow()
"""
    )
    pytester.makeconftest("import time\ndef pytest_sessionfinish(): time.sleep(0.9)\n")

    result = run_pytest()

    assert result.ret == 0
    assert "Timeout" not in result.stderr.str()


# SIGUSR1: what is each guarded test doing now?

STATUS = (
    HEAD
    + """
def far_inside():
    say("waits", os.getpid())
    wait()

@pytest.mark.parametrize("number", [1, 2])
def test_waits(number):
    print("captured")
    far_inside()
"""
)


def ask_status(session: Live, *children: str) -> None:
    """Send the signal when the guards of these children wait for them: a moment before, there is nothing to tell yet."""
    for child in map(look_at, map(int, children)):
        assert child is not None
        wait_until_asleep(child.ppid)
    session.send(signal.SIGUSR1)


def ask_and_hear(session: Live, child: str) -> str:
    """Ask once, and wait for the one answer."""
    before = len(statuses(session))
    ask_status(session, child)
    wait_until(lambda: len(statuses(session)) > before, "the status is told")
    return statuses(session)[-1]


def statuses(session: Live) -> list[str]:
    """All that was told until now; each is written at once."""
    return re.split(r"(?=\[faultguard\] )", session.output)[1:]


def told_status(session: Live, nodeid: str, within: float = 30.0) -> str:
    """The next status of a test, up to its end."""
    header = rf"\[faultguard\] {re.escape(nodeid)}: running for (\d+\.\d) s\n"
    return session.wait_for_output(header + r"(?:.+\n)+\n?", within)[0]


def seconds_of(status: str) -> float:
    """How long the test has been running, as the status says, the last one of several."""
    return float(re.findall(r"running for (\d+\.\d) s", status)[-1])


@pytest.mark.parametrize(
    ("capture", "start", "scope"),
    [
        ("fd", "fork", "function"),
        ("no", "fork", "session"),
        ("fd", "spawn", "session"),
        ("no", "forkserver", "function"),
        ("no", "spawn", "function"),
    ],
)
@pytest.mark.usefixtures("programs")
def test_status_of_a_guarded_test(
    pytester: pytest.Pytester, start_pytest: StartPytest, recorder: Recorder, capture: str, start: str, scope: str
) -> None:
    """At once, on the real terminal: node id, seconds and stacks; as often as one asks; and the test goes on."""
    (pytester.path / "test_it.py").write_text(STATUS)
    began = time.monotonic()
    session = start_pytest(f"--capture={capture}", f"--faultguard-start={start}", f"--faultguard-scope={scope}")
    (child,) = session.wait_for("waits")

    told = [ask_and_hear(session, child)]
    while len(told) < 3 or seconds_of(told[-1]) < 0.3:  # Its clock runs, and not faster than ours.
        told.append(ask_and_hear(session, child))
    seconds = [seconds_of(one) for one in told]
    assert seconds == sorted(seconds)
    assert seconds[-1] <= time.monotonic() - began
    for _ in range(50):
        ask_status(session, child)
    session.go()
    (child,) = session.wait_for("waits")
    # pytest may be asleep and not yet know that the next test runs.
    while "test_waits[2]: running" not in ask_and_hear(session, child):
        pass
    session.go()

    assert session.end() == 0
    # Those who ask while an answer is on its way share it: nobody hears of this test long after its end.
    assert len([one for one in statuses(session) if "test_waits[1]: running" in one]) < len(told) + 50
    for one in told:
        assert "test_waits[1]: running" in one
        assert re.search(r"test_it\.py\", line \d+ in far_inside\n.*test_it\.py\", line \d+ in test_waits\n", one)
    assert {report.outcome for report in recorder.reports()} == {"passed"}
    assert all("faultguard" not in text for report in recorder.reports() for _, text in report.sections)


@pytest.mark.usefixtures("programs")
def test_status_of_a_distributed_session(
    pytester: pytest.Pytester, start_pytest: StartPytest, recorder: Recorder
) -> None:
    """The controller is asked, and every worker answers."""
    (pytester.path / "test_it.py").write_text(STATUS)
    session = start_pytest("-n2")
    children = [session.wait_for("waits")[0] for _ in range(2)]

    ask_status(session, *children)

    for number in (1, 2):
        assert " in far_inside\n" in told_status(session, f"test_it.py::test_waits[{number}]")
    for _ in range(2):
        session.go()
    assert session.end() == 0
    assert {report.outcome for report in recorder.reports()} == {"passed"}


@pytest.mark.usefixtures("programs")
def test_status_of_a_test_that_cannot_tell(pytester: pytest.Pytester, start_pytest: StartPytest) -> None:
    """A native loop with all signals blocked has no stacks to show; it is named all the same."""
    (pytester.path / "test_it.py").write_text(
        HEAD
        + """
@pytest.mark.faultguard(timeout=3, grace=0.1)
def test_it():
    lib.block_all_signals()
    say("loops", os.getpid())
    pylib.loop_gil()
"""
    )
    session = start_pytest()
    (child,) = session.wait_for("loops")

    ask_status(session, child)

    assert "(no stacks)" in told_status(session, "test_it.py::test_it")
    assert session.end() == pytest.ExitCode.TESTS_FAILED


@pytest.mark.usefixtures("programs")
def test_status_while_no_guarded_test_runs(
    pytester: pytest.Pytester, start_pytest: StartPytest, recorder: Recorder
) -> None:
    """It does not kill pytest, nor end up in the captured output of an unguarded test."""
    pytester.makeconftest(
        """
        from say import say, wait

        def pytest_runtest_logfinish():
            say("between")
            wait()
        """
    )
    (pytester.path / "test_it.py").write_text(
        HEAD.replace("pytestmark =", "guarded =")
        + """
@guarded
def test_1():
    pass

def test_2(capfd):
    say("unguarded")
    wait()
    assert capfd.readouterr() == ("", "")
"""
    )
    session = start_pytest()

    session.wait_for("between")
    session.send(signal.SIGUSR1)
    session.wait_for_output(r"(?s)(?:\[faultguard\] no guarded test is running\n.*){1}")
    session.go()
    session.wait_for("unguarded")
    session.send(signal.SIGUSR1)
    session.wait_for_output(r"(?s)(?:\[faultguard\] no guarded test is running\n.*){2}")
    session.go()
    session.wait_for("between")
    session.go()

    assert session.end() == 0
    assert {report.outcome for report in recorder.reports()} == {"passed"}


def test_status_before_a_worker_has_collected(pytester: pytest.Pytester, start_pytest: StartPytest) -> None:
    """A worker that does not listen yet, or that guards nothing, is not killed by the controller's forwarding."""
    pytester.makeconftest(
        """
        import os
        from say import say, wait

        def pytest_collection(session):
            if os.environ.get("PYTEST_XDIST_WORKER"):
                say("collects")
                wait()
        """
    )
    pytester.makepyfile(
        """
        import pytest
        from say import say, wait

        @pytest.mark.parametrize("number", [1, 2])
        def test_it(number):
            say("runs")
            wait()
        """
    )
    session = start_pytest("-n2")

    for word in ("collects", "runs"):
        for _ in range(2):
            session.wait_for(word)
        session.send(signal.SIGUSR1)
        # The next answer is the proof that this one was given: the controller handles one at a time.
        session.send(signal.SIGUSR1)
        for _ in range(2):
            session.go()

    assert session.end() == 0
    assert "crashed" not in session.output


RESTORED = """
import faulthandler
import os
import signal
import sys
import pytest

def caught():
    with open("/proc/self/status") as status:
        bits = next(line for line in status if line.startswith("SigCgt")).split()[1]
    return bool(int(bits, 16) >> signal.SIGUSR1 - 1 & 1)

assert not caught()
{prepare}
assert pytest.main(sys.argv[1:]) == 0
{check}
"""
USERS = {
    "default": ("", "assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL; assert not caught()"),
    "ignored": (
        "signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
        "assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN",
    ),
    "python_function": (
        "calls = []; signal.signal(signal.SIGUSR1, lambda *_: calls.append(os.getpid()))",
        "assert calls == [os.getpid()]",
    ),
    "c_function": (
        "file = open('written', 'w+'); faulthandler.register(signal.SIGUSR1, file=file)",
        "file.seek(0); assert file.read().count('most recent call first') == 1; assert caught()",
    ),
}


@pytest.mark.parametrize(("prepare", "check"), USERS.values(), ids=USERS)
def test_signal_is_given_back_and_not_taken_from_anybody(
    pytester: pytest.Pytester, start_pytest: StartPytest, prepare: str, check: str
) -> None:
    """After the session it does what it did before; who has a use for it during the session keeps it."""
    (pytester.path / "run.py").write_text(RESTORED.format(prepare=prepare, check=check))
    pytester.makepyfile(
        """
        import os
        import signal
        import pytest

        @pytest.mark.faultguard
        def test_1():
            pass

        def test_2():
            os.kill(os.getpid(), signal.SIGUSR1)
        """
    )

    session = start_pytest(command=("run.py",))

    assert session.end() == 0, session.output
    assert ("[faultguard]" in session.output) is (not prepare)


def test_signal_is_left_alone_where_nothing_is_guarded(pytester: pytest.Pytester, start_pytest: StartPytest) -> None:
    """Pytest dies of it, as it does without us."""
    pytester.makepyfile("import os, signal\ndef test_it(): os.kill(os.getpid(), signal.SIGUSR1)\n")

    assert start_pytest().end() == -signal.SIGUSR1


def test_clock_is_the_parents(pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder) -> None:
    """A test that plays with time, timers and alarms in its own process has its limit all the same."""
    pytester.makepyfile(
        """
        import faulthandler
        import signal
        import time
        import pytest

        @pytest.mark.faultguard(timeout=0.5)
        def test_it(monkeypatch):
            sleep = time.sleep
            for name in ("time", "monotonic", "perf_counter", "monotonic_ns", "time_ns", "perf_counter_ns"):
                monkeypatch.setattr(time, name, lambda: 0)
            faulthandler.cancel_dump_traceback_later()
            signal.setitimer(signal.ITIMER_REAL, 0)
            sleep(600)
        """
    )

    started_at = time.monotonic()
    run_pytest()

    assert recorder.report("test_it").crash["ending"]["kind"] == "Overdue"
    assert time.monotonic() - started_at < 0.5 + 5 * SLACK_SECONDS
