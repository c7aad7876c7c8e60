"""Promise 8 with tests that go to extremes: in what they write, in what they raise, and by running tests themselves."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import pytest

from testing.harness import QUICK
from testing.harness import SESSION_SECONDS
from testing.live import has_ended

if TYPE_CHECKING:
    from testing.harness import Recorder
    from testing.harness import Report
    from testing.harness import RunPytest
from testing.harness import common_options
from testing.harness import without_usage

PASSED = ["setup passed", "call passed", "teardown passed"]
FAILED = ["setup passed", "call failed", "teardown passed"]

#: What is compared below has run where it should.
CONFTEST = """
import pytest
import pytest_faultguard


@pytest.fixture(autouse=True)
def as_asked(pytestconfig):
    assert pytest_faultguard.is_guarded() is pytestconfig.getoption("faultguard")
"""


def fixed(text: str) -> str:
    """The text without addresses, times, numbers of runs, and what fills a line up."""
    return re.sub(r"0x[0-9a-f]+|in \d+\.\d\ds|=+|-{3,}|(?<=/runpytest-)\d+|(?<=/pytest-)\d+", "", text)


def short(text: str | None) -> str:
    """Something to compare: of a long text its length and a checksum, for nobody wants to read the difference."""
    text = fixed(text or "")
    return text if len(text) < 10_000 else f"{text[:50]}... {len(text)} characters {zlib.crc32(text.encode()):x}"


def told(recorder: Recorder) -> list[tuple[Any, ...]]:
    """The reports of the last session in their order, without times and addresses."""
    return [
        (
            report.nodeid,
            report.when,
            report.outcome,
            short(report.message),
            short(report.longrepr),
            [(title, short(text)) for title, text in report.sections],
            [(name, short(str(value))) for name, value in without_usage(report.user_properties)],
            report.wasxfail,
        )
        for report in recorder.reports()
    ]


class Both:
    """Runs a suite without the guard and with it."""

    def __init__(self, run_pytest: RunPytest, recorder: Recorder) -> None:
        self.run_pytest = run_pytest
        self.recorder = recorder

    def __call__(self, *args: str, plugins: tuple[str, ...] = QUICK) -> list[Report]:
        """What they told is the same; the reports of the guarded one."""
        plain, guarded = (self._told(flag, *args, plugins=plugins) for flag in ("--no-faultguard", "--faultguard"))
        assert guarded == plain
        return self.recorder.reports()

    def _told(self, *args: str, plugins: tuple[str, ...]) -> tuple[Any, ...]:
        result = self.run_pytest(*args, plugins=plugins)
        lines = [short(line).rstrip() for line in (*result.outlines, *result.errlines)]
        reports = told(self.recorder)
        if "-n2" in args:
            lines, reports = [], sorted(reports, key=lambda report: report[:2])
        return int(result.ret), reports, self.recorder.warnings(), lines


@pytest.fixture
def both(run_pytest: RunPytest, recorder: Recorder) -> Both:
    run_pytest.pytester.makeconftest(CONFTEST)
    return Both(run_pytest, recorder)


# What tests write and raise.

FLOOD = """
import os
import sys

import pytest


@pytest.mark.parametrize("fails", [False, True])
def test_python(fails):
    for _ in range(100):
        print("x" * 99_999)
    print("the end of it", file=sys.stderr)
    assert not fails


@pytest.mark.parametrize("fails", [False, True])
def test_native(fails):
    for _ in range(100):
        os.write(1, b"x" * 99_999 + b"\\n")
    os.write(2, b"the end of it\\n")
    assert not fails


def test_after():
    pass
"""


@pytest.mark.parametrize(
    "args",
    [
        ("--capture=fd",),
        ("--capture=fd", "-n2"),
        ("--capture=sys", "-k", "python or after"),
        ("--capture=tee-sys", "-k", "python or after"),
        ("--capture=tee-sys", "-k", "python or after", "-n2"),
    ],
    ids=["fd", "fd-n2", "sys", "tee-sys", "tee-sys-n2"],
)
def test_ten_megabytes_of_output(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, args: tuple[str, ...]
) -> None:
    """Whole in the report of a test, whether it fails or passes."""
    pytester.makepyfile(FLOOD)

    run_pytest("--faultguard", "--tb=no", *args, plugins=QUICK)

    talking = [report for report in recorder.reports(when="call") if not report.nodeid.endswith("test_after")]
    # Under pytest-xdist in any order.
    talking.sort(key=lambda report: report.nodeid)
    assert [report.outcome for report in talking] == ["passed", "failed"] * (len(talking) // 2)
    for report in talking:
        assert report.section("Captured stdout call") == ("x" * 99_999 + "\n") * 100
        assert report.section("Captured stderr call") == "the end of it\n"
    assert recorder.report("test_after").sections == []


BYTES = """
import os
import sys

import pytest


@pytest.mark.parametrize("fails", [False, True])
def test_bytes(fails):
    os.write(1, b"fd \\xff\\xfe\\xe2\\x82 end\\n")
    os.write(2, b"fd \\x80 \\x00 \\x1b[31m end\\n")
    sys.stdout.buffer.write(b"buffer \\xe9 end\\n")
    sys.stdout.flush()
    print("latin \\xe9, euro \\u20ac")
    assert not fails
"""


def test_bytes_that_are_no_utf8(both: Both) -> None:
    both.run_pytest.pytester.makepyfile(BYTES)

    reports = both("-rA")

    (failed,) = (report for report in reports if report.nodeid.endswith("[True]") and report.when == "call")
    assert failed.section("stdout").startswith("fd \ufffd\ufffd\ufffd end\nbuffer \ufffd end\nlatin \xe9, euro \u20ac")


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1:backslashreplace"])
def test_bytes_on_the_terminal(
    pytester: pytest.Pytester, run_pytest: RunPytest, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """With `-s` every byte is passed on as it was written, in whatever encoding and however many they are."""
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    pytester.makepyfile(BYTES + FLOOD.replace("100", "10"))
    written = []
    for flag in ("--no-faultguard", "--faultguard"):
        command = [sys.executable, "-m", "pytest", "-s", "--tb=no", flag]
        done = subprocess.run([*command, *common_options()], capture_output=True, check=False, timeout=SESSION_SECONDS)
        assert done.returncode == 1
        written.append([re.sub(rb"in \d+\.\d\ds|=+", b"", stream) for stream in (done.stdout, done.stderr)])

    plain, guarded = written
    assert (len(guarded[0]) > 4_000_000, guarded[0] == plain[0]) == (True, True)
    assert guarded[1] == plain[1]
    assert b"fd \x80 \x00 \x1b[31m end\n" in guarded[1]


def test_five_megabytes_of_failure(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, xdist_args: tuple[str, ...]
) -> None:
    """Whole, in one line or in many; the same of a warning and of a property."""
    pytester.makepyfile(
        """
        import warnings

        import pytest

        def test_line():
            raise ValueError("x" * 5_000_000)

        def test_lines():
            raise ValueError(("y" * 99 + "\\n") * 50_000)

        def test_warns(record_property):
            record_property("much", "p" * 5_000_000)
            warnings.warn("w" * 5_000_000)

        def test_after():
            pass
        """
    )

    run_pytest("--faultguard", "--tb=no", "--disable-warnings", *xdist_args, plugins=QUICK)

    line, lines = (recorder.report(name) for name in ("test_line", "test_lines"))
    assert line.message == f"ValueError: {'x' * 5_000_000}"
    assert line.longrepr.count("x" * 5_000_000) == 1
    assert lines.longrepr.count("y" * 99) == 50_000
    assert recorder.warnings() == [f"UserWarning: {'w' * 5_000_000}"]
    assert recorder.report("test_warns").user_properties == [("much", "p" * 5_000_000)]
    assert recorder.report("test_after").outcome == "passed"


CRASHING_REPR = """
import logging
import os
import sys
import time

import pytest
from pytest_faultguard import CrashError
from programs import lib

WAYS = {"segfault": lib.null_write, "exit": lambda: os._exit(0), "hang": lambda: time.sleep(600)}


class Deadly(Exception):
    def __init__(self, way):
        super().__init__()
        self.way = WAYS[way]

    def __repr__(self):
        self.way()

    __str__ = __repr__


@pytest.fixture
def deadly_setup():
    raise Deadly("segfault")


@pytest.fixture
def deadly_teardown():
    yield
    print("torn down")
    raise Deadly("segfault")


@pytest.mark.parametrize(
    "way", ["segfault", "exit", pytest.param("hang", marks=pytest.mark.faultguard(timeout=0.5))]
)
def test_call(way, faultguard_data):
    faultguard_data["before"] = way
    print("printed")
    os.write(2, b"complained\\n")
    logging.warning("logged")
    raise Deadly(way)


def test_setup(deadly_setup):
    pass


def test_teardown(deadly_teardown):
    print("printed")


def test_operand():
    assert [Deadly("segfault")] == [1]


@pytest.mark.xfail(raises=CrashError)
def test_expected():
    raise Deadly("segfault")


@pytest.mark.xfail(raises=Deadly)
def test_expected_otherwise():
    raise Deadly("segfault")


def test_never_pickled():
    class Fixed(Exception):
        def __reduce_ex__(self, protocol):
            lib.null_write()

    raise Fixed("as it is")


def test_after():
    pass
"""


@pytest.mark.parametrize("args", [("--capture=fd",), ("--capture=sys", "-n2")], ids=" ".join)
def test_an_exception_whose_repr_crashes(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, programs: Path, args: tuple[str, ...]
) -> None:
    """A crash in the phase that raised it, with what that had written; it costs its own test and no other."""
    pytester.makepyfile(CRASHING_REPR)

    run_pytest("--faultguard", *args, plugins=QUICK)

    assert recorder.outcomes() == {
        "test_call[segfault]": FAILED,
        "test_call[exit]": FAILED,
        "test_call[hang]": FAILED,
        "test_setup": ["setup failed", "teardown passed"],
        "test_teardown": ["setup passed", "call passed", "teardown failed"],
        "test_operand": FAILED,
        "test_expected": ["setup passed", "call skipped", "teardown passed"],
        "test_expected_otherwise": FAILED,
        "test_never_pickled": FAILED,
        "test_after": PASSED,
    }
    crashes = {report.nodeid.rpartition("::")[2]: report for report in recorder.reports() if report.crash}
    assert set(crashes) == set(recorder.outcomes()) - {"test_never_pickled", "test_after"}
    for way, kind in {"segfault": "Signaled", "exit": "Exited", "hang": "Overdue"}.items():
        report = crashes[f"test_call[{way}]"]
        assert report.crash["ending"]["kind"] == kind
        assert [one["value"] for one in report.crash["rescued"]] == [repr(way)]
        assert report.section("Captured stdout call") == "printed\n"
        assert report.section("Captured log call").count("logged") == 1
        if "--capture=sys" not in args:
            assert report.section("Captured stderr call") == "complained\n"
        if way != "exit":
            assert "in __repr__" in report.longrepr
    assert crashes["test_teardown"].section("Captured stdout call") == "printed\n"
    assert crashes["test_teardown"].section("Captured stdout teardown") == "torn down\n"
    assert "as it is" in (recorder.report("test_never_pickled").message or "")


def test_an_exception_whose_repr_raises(both: Both) -> None:
    """Whatever it is: pytest makes a failure of it, here as there."""
    both.run_pytest.pytester.makepyfile(
        """
        import sys
        import pytest

        def stop(error):
            raise error

        WAYS = {
            "error": lambda: stop(RuntimeError("no words")),
            "exit": lambda: sys.exit(3),
            "interrupt": lambda: stop(KeyboardInterrupt()),
            "outcome": lambda: pytest.exit("enough"),
            "skip": lambda: pytest.skip("why not"),
            "no text": lambda: 5,
            "recursion": lambda: repr(Wordless("recursion")),
        }

        class Wordless(Exception):
            def __init__(self, way):
                super().__init__(way)
                self.way = way

            def __repr__(self):
                return WAYS[self.way]()

            __str__ = __repr__

            def __reduce__(self):
                raise TypeError("never")

        @pytest.mark.parametrize("way", WAYS)
        def test_raised(way):
            raise Wordless(way)

        @pytest.mark.parametrize("way", ["error", "no text"])
        def test_compared(way):
            assert Wordless(way) == [Wordless(way)]
        """
    )

    both()

    assert len(both.recorder.reports()) == 27


# A session in a guarded test.

NESTED = """
import os
import signal

import pytest
from pytest_faultguard import is_guarded
from programs import lib

pytest_plugins = ["pytester"]

INNER = '''
import os
import signal
import warnings

import pytest
from pytest_faultguard import is_guarded
from programs import lib

@pytest.mark.faultguard
def test_passes(tmp_path):
    assert is_guarded()

@pytest.mark.faultguard
def test_segfault(faultguard_data):
    faultguard_data["deep"] = [1]
    print("inner words")
    lib.null_write()

@pytest.mark.faultguard
def test_exit(): os._exit(0)

@pytest.mark.faultguard(timeout=0.5)
def test_hang(): signal.pause()

@pytest.mark.faultguard
def test_fails(capfd):
    print("captured")
    assert capfd.readouterr().out == "other"

@pytest.mark.faultguard
def test_warns(): warnings.warn("inner warning")

def test_unguarded(): pass
'''


@pytest.fixture
def inner(pytester, monkeypatch):
    # Recorded are the reports of the session around it.
    monkeypatch.delenv("PYTEST_PLUGINS", raising=False)
    pytester.makepyfile(test_inner=INNER)

    def run(runner, *args):
        result = getattr(pytester, runner)("-p", "no:cacheprovider", "-p", "no:hypothesispytest", *args)
        if "-k" in args:
            result.assert_outcomes(passed=1, failed=1, deselected=5)
            return
        result.assert_outcomes(passed=3, failed=4, warnings=1)
        text = result.stdout.str()
        for words in ("'deep' = [1]", "inner words", " in test_segfault", "exit code 0 in call", "timeout of 0.5 s"):
            assert words in text, words
        assert "SIGSEGV (segmentation fault) in call" in text
    return run


@pytest.mark.faultguard
@pytest.mark.parametrize("args", [(), ("-s",), ("--capture=sys",)], ids=" ".join)
def test_in_process(inner, args):
    inner("runpytest_inprocess", *args)


@pytest.mark.faultguard
@pytest.mark.parametrize("args", [(), ("-n2",)], ids=" ".join)
def test_in_a_process(inner, args):
    inner("runpytest_subprocess", *args)


def test_in_an_unguarded_test(inner):
    inner("runpytest_inprocess")
    assert not is_guarded()


@pytest.mark.faultguard
def test_crash_after_it(inner, faultguard_data):
    inner("runpytest_inprocess", "-k", "passes or segfault")
    faultguard_data["outer"] = [2]
    print("outer words")
    lib.null_write()


@pytest.mark.faultguard
def test_failure_after_it(inner, faultguard_data):
    inner("runpytest_inprocess", "-k", "passes or segfault")
    faultguard_data["outer"] = [2]
    assert is_guarded()
    assert not "outer failure"


@pytest.mark.faultguard(timeout=2)
def test_hang_after_it(inner):
    inner("runpytest_inprocess", "-k", "passes or segfault")
    signal.pause()


@pytest.mark.faultguard
def test_after(): pass
"""


@pytest.mark.parametrize("args", [("--capture=fd",), ("--capture=sys", "-n2")], ids=" ".join)
def test_a_guarded_test_runs_guarded_tests(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    programs: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
) -> None:
    """By pytester, in its own process and in another: each guard has its own child, and its own evidence."""
    library = pytester.mkdir("library")
    programs.rename(library / "programs.py")
    monkeypatch.setenv("PYTHONPATH", str(library))
    pytester.makepyfile(test_outer=NESTED)

    run_pytest(*args, plugins=QUICK)

    expected = dict.fromkeys(recorder.outcomes(), PASSED)
    expected |= dict.fromkeys(["test_crash_after_it", "test_failure_after_it", "test_hang_after_it"], FAILED)
    assert recorder.outcomes() == expected
    assert len(expected) == 10
    crash, failure, hang = (recorder.report(f"test_{what}_after_it") for what in ("crash", "failure", "hang"))
    assert "test_crash_after_it" in [frame["function"] for frame in crash.crash["stacks"][0]["frames"]]
    assert [one["key"] for one in crash.crash["rescued"]] == ["'outer'"]
    assert crash.section("stdout").endswith("outer words\n")
    assert "'outer' = [2]" in failure.longrepr
    assert hang.crash["ending"]["kind"] == "Overdue"
    assert "test_hang_after_it" in [frame["function"] for frame in hang.crash["stacks"][0]["frames"]]


NESTED_END = """
import os
import signal

import pytest

pytest_plugins = ["pytester"]

INNER = '''
import os
import signal
import pytest

@pytest.mark.faultguard
def test_ends_the_outer_one():
    with open(os.environ["PIDS"], "a") as pids:
        print(os.getpid(), os.getppid(), file=pids)
    os.kill(int(os.environ["OUTER"]), int(os.environ["NUMBER"]))
    while True:
        signal.pause()
'''


@pytest.mark.faultguard
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("runner", ["runpytest_inprocess", "runpytest_subprocess"])
def test_outer(pytester, monkeypatch, runner, number):
    monkeypatch.delenv("PYTEST_PLUGINS", raising=False)
    monkeypatch.setenv("OUTER", str(os.getpid()))
    monkeypatch.setenv("NUMBER", str(int(number)))
    pytester.makepyfile(test_inner=INNER)
    getattr(pytester, runner)("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
"""


def test_the_end_of_a_guarded_test_is_that_of_the_ones_that_it_runs(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child of a child has a group of its own, and goes with its guard."""
    monkeypatch.setenv("PIDS", str(pytester.path / "pids"))
    pytester.makepyfile(test_outer=NESTED_END)

    run_pytest(plugins=QUICK)

    ends = [report.crash["ending"] for report in recorder.reports(when="call")]
    assert [(end["kind"], end["signal"]) for end in ends] == [("Signaled", 15), ("Signaled", 9)] * 2
    lines = [line.split() for line in (pytester.path / "pids").read_text().splitlines()]
    assert len(lines) == 4
    assert [pid for pid in chain.from_iterable(lines) if not has_ended(int(pid))] == []


#: What a test does to its own process, and what it then sees: the same as without a guard.
HOSTILE = {
    "files_at_numbers_that_were_ours": """
        import os

        def test_it(tmp_path):
            os.closerange(3, 256)
            fds = [os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT) for _ in range(40)]
            os.write(fds[0], b"precious")
            print("printed")

        def test_after(tmp_path_factory):
            (file,) = tmp_path_factory.getbasetemp().glob("test_it*/file")
            assert file.read_text() == "precious"
        """,
    "stdout_with_two_methods": """
        import sys

        class Tee:
            def write(self, text): return sys.__stdout__.write(text)
            def flush(self): sys.__stdout__.flush()

        def test_it(monkeypatch):
            monkeypatch.setattr(sys, "stdout", Tee())
            print("hello")
        """,
    "stderr_that_is_closed": """
        import sys

        def test_it():
            sys.__stderr__.close()

        def test_after(): pass
        """,
    "warning_in_a_process_of_the_test": """
        import multiprocessing
        import warnings

        def work():
            warnings.warn("far away")

        def test_it():
            process = multiprocessing.get_context("fork").Process(target=work)
            process.start()
            process.join()
            assert process.exitcode == 0
        """,
    "stderr_in_a_process_of_the_test": """
        import os
        import sys

        def test_it():
            pid = os.fork()
            if pid == 0:
                os.closerange(3, 4096)
                print("words of the grandchild", file=sys.stderr)
                os._exit(0)
            assert os.waitpid(pid, 0) == (pid, 0)
        """,
    "property_without_words": """
        class Speechless:
            def __str__(self): raise ValueError("no words")

        def test_it(record_property):
            record_property("speechless", Speechless())

        def test_long(record_property):
            record_property("long", 10**5000)
        """,
    "section_of_a_running_test": """
        def test_it(subtests, request):
            request.node.add_report_section("call", "note", "hello")
            with subtests.test(number=1):
                assert 0
            print("printed after it")
            assert 0
        """,
}


CLOSE_ALL = ("files_at_numbers_that_were_ours", "stderr_in_a_process_of_the_test")


@pytest.mark.parametrize("capture", ["fd", "no"])
@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_test_does_to_its_process_harms_nobody_else(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, name: str, capture: str
) -> None:
    """Outcomes and output as without the guard."""
    if name in CLOSE_ALL and capture == "fd":
        pytest.skip("closes pytest's own files, with which pytest fails also without a guard")
    if name == "section_of_a_running_test" and not hasattr(pytest, "Subtests"):
        pytest.skip("subtests are part of pytest since version 9")
    pytester.makepyfile(test_it=HOSTILE[name])
    told = []
    for flag in ("--no-faultguard", "--faultguard"):
        result = run_pytest(flag, f"--capture={capture}")
        outcomes = [(report.nodeid, report.when, report.outcome) for report in recorder.reports()]
        sections = [section for report in recorder.reports() for section in report.sections]
        lines = sorted(result.stdout.str().count(word) for word in ("printed", "hello"))
        told.append((outcomes, sections, lines, result.stderr.str().count("grandchild")))

    assert told[1] == told[0]


@pytest.mark.parametrize(
    "spoiler",
    ["signal.signal(signal.SIGCHLD, signal.SIG_IGN)", "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 4096))"],
    ids=["nobody_to_wait_for", "no_descriptor"],
)
def test_a_failure_is_told_also_where_its_data_cannot_be_shown(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, spoiler: str
) -> None:
    """The child asks another one to show the data, and cannot have it."""
    pytester.makepyfile(
        f"""
        import resource
        import signal

        def test_it(faultguard_data):
            faultguard_data["key"] = "value"
            {spoiler}
            assert 0, "what really happened"
        """
    )

    run_pytest("--faultguard")

    assert (recorder.report("::test_it").message or "").startswith("AssertionError: what really happened")


@pytest.mark.parametrize("where", ["--basetemp=/proc/nothing/here", "-v"])
def test_no_temporary_directory_to_be_had(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Only the test that asks for one fails."""
    monkeypatch.setenv("PYTEST_DEBUG_TEMPROOT", "/proc")
    pytester.makepyfile("def test_asks(tmp_path): pass\ndef test_it(): pass")
    options = [*common_options(), "--faultguard", where]

    done = pytester.run(sys.executable, "-m", "pytest", *options, timeout=SESSION_SECONDS)

    assert recorder.outcomes()["test_it"] == ["setup passed", "call passed", "teardown passed"]
    assert recorder.outcomes()["test_asks"] == ["setup failed", "teardown passed"]
    assert "INTERNALERROR" not in done.stdout.str()
