"""A guarded test gets no more memory and processor time than it may; each death says why; and the reports say what was used."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_faultguard.process.oom import Kills
from testing.harness import SESSION_SECONDS
from testing.harness import Junit
from testing.harness import Recorder
from testing.harness import RunPytest
from testing.live import StartPytest
from testing.live import has_ended

PEAK = "faultguard_peak_memory_bytes"
CPU = "faultguard_cpu_seconds"
MIB = 1 << 20

HEAD = """
import ctypes
import os
import resource
import signal
import sys
import time
import pytest

MIB = 1 << 20

def soft():
    return resource.getrlimit(resource.RLIMIT_DATA)[0]

def burn(seconds):
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass

"""


@pytest.fixture(params=["function", "module"])
def scope(request: pytest.FixtureRequest) -> str:
    """A child for each test, and one for all."""
    return f"--faultguard-scope={request.param}"


def write(pytester: pytest.Pytester, tests: str) -> None:
    """The module of an inner session."""
    (pytester.path / "test_it.py").write_text(HEAD + tests)


# Memory.


@pytest.mark.parametrize("place", ["marker", "option", "ini"])
def test_memory_is_limited_in_the_child_only(
    pytester: pytest.Pytester, run_pytest: RunPytest, scope: str, start_args: tuple[str, ...], place: str
) -> None:
    """Wherever the limit is given, and pytest's own process and unguarded tests have what they had."""
    given = {"marker": "(memory='2GiB')"}.get(place, "")
    args = ("--faultguard-memory=2GiB",) if place == "option" else ()
    pytester.makeini("[pytest]\nfaultguard_memory = 2GiB\n" if place == "ini" else "[pytest]\n")
    write(
        pytester,
        f"""
@pytest.mark.faultguard{given}
def test_limited():
    assert soft() == 2048 * MIB

@pytest.mark.faultguard(memory=0)
def test_guarded_without():
    assert soft() == {resource.getrlimit(resource.RLIMIT_DATA)[0]}

def test_unguarded():
    assert soft() == {resource.getrlimit(resource.RLIMIT_DATA)[0]}
""",
    )

    run_pytest(*args, scope, *start_args).assert_outcomes(passed=3)


def test_journal_does_not_count_as_memory(pytester: pytest.Pytester, run_pytest: RunPytest, scope: str) -> None:
    """Neither its reserved range nor what is written there."""
    write(
        pytester,
        """
@pytest.mark.faultguard(memory="200MiB")
def test_it(faultguard_data):
    much = faultguard_data.buffer("much", 600 * MIB)
    for start in range(0, 300 * MIB, MIB):
        much[start : start + MIB] = b"x" * MIB
""",
    )

    run_pytest(scope).assert_outcomes(passed=1)


def test_memory_error_is_an_ordinary_failure(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, scope: str
) -> None:
    """Its report can be made although the test holds all that it may, and the next test has its memory again."""
    write(
        pytester,
        """
pytestmark = pytest.mark.faultguard(memory="300MiB")

@pytest.mark.parametrize("number", [1, 2])
def test_eats(number):
    eaten = []
    while True:
        eaten.append(bytearray(MIB))

def test_after():
    assert soft() == 300 * MIB
    assert len(bytearray(100 * MIB)) == 100 * MIB
""",
    )

    run_pytest(scope).assert_outcomes(failed=2, passed=1)

    for number in (1, 2):
        report = recorder.report(f"test_eats[{number}]")
        assert (report.crash, report.message) == (None, "MemoryError")


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_failure_for_want_of_memory_names_the_limit(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    xdist_args: tuple[str, ...],
    scope: str,
    start: str,
) -> None:
    """In whatever words it comes; no other failure does, and none of a test without a limit."""
    write(
        pytester,
        """
import mmap
import threading

pytestmark = pytest.mark.faultguard(memory="300MiB")

@pytest.fixture
def much():
    return bytearray(300 * MIB)

def test_setup(much): pass

def test_caught():
    try:
        bytearray(300 * MIB)
    except MemoryError:
        raise ValueError

def test_mapped():
    mmap.mmap(-1, 300 * MIB, flags=mmap.MAP_PRIVATE)

def test_threads():
    threading.stack_size(300 * MIB)
    threading.Thread(target=print).start()

@pytest.mark.faultguard(expect="SIGABRT")
def test_survives():
    bytearray(300 * MIB)

def test_other():
    assert soft() == 0

@pytest.mark.faultguard(memory=0)
def test_without():
    raise MemoryError
""",
    )

    run_pytest(*xdist_args, scope, f"--faultguard-start={start}").assert_outcomes(failed=6, errors=1)

    failures = [report for report in recorder.reports() if report.outcome == "failed"]
    last = {report.nodeid.partition("::")[2]: report.longrepr.splitlines()[-1] for report in failures}
    told = {name for name, line in last.items() if line == "the test ran under a memory limit of 300 MiB"}
    assert told == last.keys() - {"test_other", "test_without"}


NATIVE = """
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]

def test_null():
    while True:
        ctypes.memset(libc.malloc(MIB) or 0, 1, MIB)

def test_abort():
    while libc.malloc(MIB):
        pass
    os.abort()

def test_cxx():
    new = ctypes.CDLL("libstdc++.so.6")._Znwm
    new.argtypes = [ctypes.c_size_t]
    new(1 << 40)

def test_other():
    ctypes.string_at(0)
"""


def test_native_death_at_the_limit_names_the_limit(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    scope: str,
    start_args: tuple[str, ...],
    xdist_args: tuple[str, ...],
) -> None:
    """With what proves it; a crash that has nothing to do with the limit is told as without one."""
    write(pytester, 'pytestmark = pytest.mark.faultguard(memory="300MiB")\n' + NATIVE)

    run_pytest(scope, *start_args, *xdist_args).assert_outcomes(failed=4)

    told = {report.nodeid.partition("::")[2]: report.message or "" for report in recorder.reports(when="call")}
    begin = r"memory limit of 300 MiB: "
    near = r" in call after \d+\.\d\d s \(it had (29\d(\.\d)?|300) MiB\)"
    assert re.fullmatch(begin + r"SIGSEGV \(segmentation fault\)" + near, told["test_null"])
    assert re.fullmatch(begin + r"SIGABRT \(aborted\)" + near, told["test_abort"])
    words = r" in call after .* s \(its last words tell of it\): terminate called .* 'std::bad_alloc'.*"
    assert re.fullmatch(begin + r"SIGABRT \(aborted\)" + words, told["test_cxx"])
    assert re.fullmatch(r"SIGSEGV \(segmentation fault\) in call after .* s", told["test_other"])
    assert recorder.report("test_null").crash["ending"]["signal"] == signal.SIGSEGV
    assert recorder.report("test_null").crash["stacks"]


@pytest.mark.parametrize(
    ("start", "told"),
    [
        ("fork", "memory limit of 1 MiB: this process, which the child is a copy of, holds"),
        (
            "forkserver",
            "a child of the fork server did not begin: memory limit of 1 MiB: before its first test it holds",
        ),
        ("spawn", "a fresh interpreter did not begin: memory limit of 1 MiB: before its first test it holds"),
    ],
)
def test_limit_below_what_a_child_inherits(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, scope: str, start: str, told: str
) -> None:
    """Is an error at setup that says how much it is; the session goes on."""
    write(
        pytester,
        '@pytest.mark.faultguard(memory="1MiB")\ndef test_it(): pass\n\n@pytest.mark.faultguard\ndef test_b(): pass\n',
    )

    run_pytest(scope, f"--faultguard-start={start}").assert_outcomes(errors=1, passed=1)

    report = recorder.report("test_it", "setup")
    message = (report.message or "").partition("\n")[0]
    assert re.fullmatch(rf"pytest_faultguard\.LaunchError: {told} [\d.]+ MiB", message)
    assert [line.strip() for line in report.longrepr.splitlines() if line] == [
        '@pytest.mark.faultguard(memory="1MiB")',
        ">   def test_it(): pass",
        f"E   {message}",
        "test_it.py:21: LaunchError",
    ]


# Processor time.


@pytest.mark.parametrize("place", ["marker", "option", "ini"])
@pytest.mark.usefixtures("programs")
def test_cpu_limit_ends_what_runs_on(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, scope: str, place: str
) -> None:
    """In Python, in native code that holds the GIL, with all signals blocked; a test that waits has all the time."""
    given = {"marker": "(cpu=0.3, grace=0.1)"}.get(place, "")
    args = ("--faultguard-cpu=0.3", "--faultguard-grace=0.1") if place == "option" else ()
    ini = "faultguard_cpu = 0.3\nfaultguard_grace = 0.1\n" if place == "ini" else ""
    pytester.makeini(f"[pytest]\n{ini}")
    write(
        pytester,
        f"""
from programs import lib, pylib

pytestmark = pytest.mark.faultguard{given}

def test_python():
    while True:
        pass

def test_native():
    pylib.loop_gil()

def test_blocked():
    pylib.loop_blocked()

def test_waits():
    time.sleep(1)
""",
    )

    run_pytest(scope, *args).assert_outcomes(failed=3, passed=1)

    for name, stopped_by in (("python", "SIGTERM"), ("native", "SIGTERM"), ("blocked", "SIGKILL")):
        report = recorder.report(f"test_{name}")
        assert report.crash["ending"] == {"kind": "Overspent", "cpu": 0.3, "stopped_by": stopped_by}
        cause = rf"cpu limit of 0\.3 s passed in call after \d+\.\d\d s, ended by {stopped_by}"
        assert re.fullmatch(cause, report.message or "")
        assert dict(report.user_properties)[CPU] >= 0.3
    assert (
        " in test_python" in recorder.report("test_python").section("stacks") + recorder.report("test_python").longrepr
    )


def test_cpu_limit_counts_for_each_test_of_a_shared_child(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    start_args: tuple[str, ...],
    xdist_args: tuple[str, ...],
) -> None:
    """What the tests before it have used is not its own; nor is a limit that its neighbour has."""
    write(
        pytester,
        """
pytestmark = pytest.mark.faultguard(scope="module", cpu=0.4)

@pytest.mark.parametrize("number", [1, 2, 3])
def test_within(number):
    burn(0.25)

@pytest.mark.faultguard(cpu=0)
def test_without():
    burn(0.5)

def test_beyond():
    burn(60)

def test_after():
    burn(0.1)
""",
    )

    run_pytest(*start_args, *xdist_args).assert_outcomes(passed=5, failed=1)

    assert recorder.report("test_beyond").crash["ending"]["kind"] == "Overspent"


# Who has sent SIGKILL.


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A memory cgroup of 200 MiB below that of this process."""
    file = Path(Kills().file)
    group = file.parent / f"faultguard-{os.getpid()}"
    if file.name == "memory.events":
        # Version 2 has processes in leaves only.
        group = file.parent.parent / group.name
    limit = {"memory.events": "memory.max", "memory.oom_control": "memory.limit_in_bytes"}.get(file.name, "")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    try:
        try:
            (group / limit).write_text(str(200 * MIB))
            with contextlib.suppress(OSError):  # Where there is swap.
                (group / "memory.swap.max").write_text("0")
        except OSError as error:
            pytest.skip(f"a memory cgroup cannot be limited here: {error}")
        yield group
    finally:
        group.rmdir()


HOG = """
from say import say, wait

pytestmark = pytest.mark.faultguard

@pytest.mark.parametrize("how", ["out of memory", "by hand"])
def test_hog(how):
    kept = bytearray(100 * MIB)
    say("holds", os.getpid())
    wait()
    while True:
        kept += bytes(10 * MIB)

def test_after():
    pass
"""


def test_out_of_memory_killer_is_told_from_other_processes(
    pytester: pytest.Pytester, start_pytest: StartPytest, recorder: Recorder, memory_group: Path, scope: str
) -> None:
    """The same test, killed by the kernel for want of memory and killed by hand."""
    pytester.makeconftest(f"import os\nopen('{memory_group}/cgroup.procs', 'w').write(str(os.getpid()))\n")
    write(pytester, HOG)
    session = start_pytest(scope)

    session.wait_for("holds")
    session.go()
    (pid,) = session.wait_for("holds")
    os.kill(int(pid), signal.SIGKILL)

    assert session.end() == pytest.ExitCode.TESTS_FAILED
    killed, by_hand = (recorder.report(f"test_hog[{how}]") for how in ("out of memory", "by hand"))
    ground = r"memory\.(events|oom_control): oom_kill rose from \d+ to \d+"
    cause = rf"killed by the kernel's out-of-memory killer in call after \d+\.\d\d s \({ground}\)"
    assert re.fullmatch(cause, killed.message or "")
    assert killed.crash["ending"]["kind"] == "OutOfMemory"
    assert re.fullmatch(r"SIGKILL by another process or its own in call after \d+\.\d\d s", by_hand.message or "")
    assert recorder.report("test_after").outcome == "passed"
    assert has_ended(session.pid)


def test_sigkill_by_another_process(
    pytester: pytest.Pytester, start_pytest: StartPytest, recorder: Recorder, scope: str
) -> None:
    """Is told as such, with a limit of memory as well."""
    write(
        pytester, HOG.replace("mark.faultguard\n", "mark.faultguard(memory='1GiB')\n").replace('"out of memory", ', "")
    )
    session = start_pytest(scope)

    (pid,) = session.wait_for("holds")
    os.kill(int(pid), signal.SIGKILL)

    assert session.end() == pytest.ExitCode.TESTS_FAILED
    report = recorder.report("test_hog[by hand]")
    assert (report.message or "").startswith("SIGKILL by another process or its own in call after ")
    assert report.crash["ending"] == {"kind": "Signaled", "signal": 9, "core_dumped": False}


# What was used.

USES = """
pytestmark = pytest.mark.faultguard

def test_eats():
    eaten = bytearray(150 * MIB)

def test_burns():
    burn(0.3)

def test_burns_below():
    if not (pid := os.fork()):
        burn(0.3)
        os._exit(0)
    os.waitpid(pid, 0)

def test_sleeps():
    time.sleep(0.1)

def test_crashes_full():
    eaten = bytearray(150 * MIB)
    os.abort()

def test_crashes_hot():
    burn(0.3)
    os.abort()

def test_crashes():
    os.abort()
"""


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_usage_is_in_the_last_report_of_each_test(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    scope: str,
    start: str,
    xdist_args: tuple[str, ...],
) -> None:
    """Each test's own, also in a child that others have used before or that began clean, and of one that crashed."""
    pytester.makeconftest(f"{HEAD}bytearray(150 * MIB)\nburn(0.3)\n")
    write(pytester, USES + "\n@pytest.mark.faultguard(scope='function')\ndef test_fails():\n    assert 0\n")

    # Eight interpreters that burn and eat before they begin.
    result = run_pytest(scope, f"--faultguard-start={start}", *xdist_args, timeout=3 * SESSION_SECONDS)
    result.assert_outcomes(passed=4, failed=4)

    used = {
        report.nodeid.partition("::test_")[2]: dict(report.user_properties)
        for report in recorder.reports(when="teardown")
    }
    for name, one in used.items():
        full, hot = name in {"eats", "crashes_full"}, name in {"burns", "burns_below", "crashes_hot"}
        assert (one[CPU] >= 0.3) == hot, (name, one)
        assert one[CPU] >= 0
        if start == "spawn" and name.startswith("crashes") and PEAK not in one:
            continue  # Hidden below what the conftest file has used in pytest's own process.
        assert tuple(one) == (PEAK, CPU)
        assert (one[PEAK] > 150 * MIB) == full, (name, one)
        assert one[PEAK] > MIB
    others = [report for report in recorder.reports() if report.when != "teardown" and report.crash is None]
    assert all(report.user_properties == [] for report in others)


@pytest.mark.forked_only("the peak of an interpreter that dies in its first test may be that of who has started it")
def test_usage_stands_in_junitxml_once(
    pytester: pytest.Pytester, run_pytest: RunPytest, junit: Junit, scope: str
) -> None:
    """Beside what the test has recorded itself; an unguarded test has none."""
    write(
        pytester,
        """
@pytest.mark.faultguard
def test_guarded(record_property):
    record_property("colour", "red")

@pytest.mark.faultguard
def test_crashes():
    os.abort()

def test_unguarded():
    pass
""",
    )

    run_pytest(scope, *junit.args)

    guarded, crashes, unguarded = junit.cases()
    assert set(guarded.properties) == {"colour", PEAK, CPU}
    assert set(crashes.properties) == {PEAK, CPU}
    assert unguarded.properties == {}
    assert junit.path.read_text().count(f'name="{PEAK}"') == 2


def table(text: str) -> tuple[str, list[str]]:
    """The title and the lines of the table of usage."""
    match = re.search(r"^=+ (.*peaks of memory) =+\n((?: *(?:[\d.]+ [KMG]iB|unknown) .*\n)*)", text, re.MULTILINE)
    assert match
    return match[1], match[2].splitlines()


def test_usage_as_a_table(
    pytester: pytest.Pytester, run_pytest: RunPytest, scope: str, xdist_args: tuple[str, ...]
) -> None:
    """The largest first, as many as are wanted; nothing without the option."""
    write(
        pytester,
        """
pytestmark = pytest.mark.faultguard

def test_eats():
    eaten = bytearray(150 * MIB)

def test_crashes_full():
    eaten = bytearray(150 * MIB)
    os.abort()

def test_crashes():
    os.abort()

@pytest.mark.parametrize("number", range(2))
def test_small(number):
    pass
""",
    )

    title, lines = table(run_pytest(scope, *xdist_args, "--faultguard-usage").stdout.str())
    assert (title, len(lines)) == ("peaks of memory", 5)
    assert {line.rpartition("::")[2] for line in lines[:2]} == {"test_eats", "test_crashes_full"}
    assert re.fullmatch(r" +[12]\d\d(\.\d)? MiB +\d+\.\d\ds cpu test_it\.py::test_\w+", lines[0])

    title, lines = table(run_pytest(scope, *xdist_args, "--faultguard-usage=2").stdout.str())
    assert (title, len(lines)) == ("largest 2 peaks of memory", 2)

    assert "peaks of memory" not in run_pytest(scope, *xdist_args).stdout.str()


@pytest.mark.parametrize(
    ("args", "marker", "told"),
    [
        (
            (),
            "memory='2 pounds'",
            "*test_it.py::test_it: faultguard marker: memory='2 pounds' is not a number of bytes*",
        ),
        ((), "cpu=-1", "*test_it.py::test_it: faultguard marker: cpu=-1 is not a number of seconds*"),
        (("--faultguard-memory=-5",), "", "*--faultguard-memory: '-5' is not a number of bytes*"),
        (("--faultguard-cpu=much",), "", "*--faultguard-cpu: 'much' is not a number of seconds*"),
        (("--faultguard-usage=few",), "", "*--faultguard-usage: 'few' is not a number of tests*"),
    ],
)
def test_wrong_limits_are_usage_errors(
    pytester: pytest.Pytester, run_pytest: RunPytest, args: tuple[str, ...], marker: str, told: str
) -> None:
    """With the place, the argument and the value."""
    write(pytester, f"@pytest.mark.faultguard({marker})\ndef test_it(): pass\n")

    result = run_pytest(*args)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([told])
