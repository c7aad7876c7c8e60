"""What the report of a crash says and how it looks; how xfail, hooks and junitxml see it."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_faultguard.crash import Crash
from pytest_faultguard.crash import Signaled
from pytest_faultguard.crash import from_json
from testing.harness import Junit
from testing.harness import Recorder
from testing.harness import Report
from testing.harness import RunPytest
from testing.harness import starts_clean
from testing.programs import missing

pytestmark = pytest.mark.usefixtures("programs")

DUMP = "faulthandler dump"
DATA = "rescued faultguard_data"
LEAKED = "leaked processes (killed)"
GAPS = "gaps in the evidence"

CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")


def failed(recorder: Recorder, nodeid: str) -> Report:
    """The one failed report of that test."""
    (report,) = (report for report in recorder.reports(nodeid) if report.outcome == "failed")
    return report


def crash_of(report: Report) -> Crash:
    """The record that every consumer of the report gets."""
    return from_json(report.crash)


def sections(report: Report) -> dict[str, str]:
    """Titles and texts below the traceback, as the terminal shows them."""
    parts = re.split(r"^-+ (\S.*?) -+\n", report.longrepr, flags=re.MULTILINE)[1:]
    return {title: text.rstrip("\n") for title, text in zip(parts[::2], parts[1::2], strict=True)}


# The look.

LOOK = """
import threading

import pytest
from deep import descend


@pytest.mark.faultguard
def test_it(faultguard_data):
    faultguard_data["seed"] = 7
    print("said")
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    # Here it goes.
    descend(2)
    print("not said")
"""

DEEP = """
from programs import lib


def descend(depth):
    if depth:
        return descend(depth - 1)
    lib.null_write()
"""

CAUSE = r"SIGSEGV \(segmentation fault\) in call after \d\.\d\d s"


@pytest.fixture
def look(pytester: pytest.Pytester) -> None:
    """A test that crashes two calls below a function of another module."""
    pytester.makepyfile(test_look=LOOK, deep=DEEP)


@pytest.mark.usefixtures("look")
def test_the_report_looks_like_one_of_pytests(
    run_pytest: RunPytest, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """Source with `>` at the lines, the cause as the `E` line, place and ending, then the sections, most telling first."""
    result = run_pytest(*xdist_args)

    result.stdout.re_match_lines(
        [
            r"_+ test_it _+$",
            *([r"\[gw\d\] linux -- Python .*"] if xdist_args else []),
            r"$",
            r"    @pytest\.mark\.faultguard$",
            r"    def test_it\(faultguard_data\):$",
            r"        faultguard_data\[\"seed\"\] = 7$",
            r"        print\(\"said\"\)$",
            r"        threading\.Thread\(target=threading\.Event\(\)\.wait, daemon=True\)\.start\(\)$",
            r"        # Here it goes\.$",
            r">       descend\(2\)$",
            r"$",
            r"test_look\.py:13: $",
            r"(_ )+_?$",
            r"deep\.py:6: in descend$",
            r"    return descend\(depth - 1\)$",
            r"deep\.py:6: in descend$",
            r"    return descend\(depth - 1\)$",
            r"(_ )+_?$",
            r"$",
            r"    def descend\(depth\):$",
            r"        if depth:$",
            r"            return descend\(depth - 1\)$",
            r">       lib\.null_write\(\)$",
            rf"E       {CAUSE}$",
            r"$",
            r"deep\.py:7: SIGSEGV$",
            r"-+ faulthandler dump -+$",
            r"Thread 0x[0-9a-f]+.* \(most recent call first\):$",
        ],
        consecutive=True,
    )
    result.stdout.re_match_lines(
        [
            r"Current thread 0x[0-9a-f]+.* \(most recent call first\):$",
            rf"  File \"{re.escape(str(pytester.path))}/deep\.py\", line 7 in descend$",
            rf"  File \"{re.escape(str(pytester.path))}/deep\.py\", line 6 in descend$",
            rf"  File \"{re.escape(str(pytester.path))}/deep\.py\", line 6 in descend$",
            rf"  File \"{re.escape(str(pytester.path))}/test_look\.py\", line 13 in test_it$",
            r"  \.\.\. \d\d frames of pytest and its plugins \.\.\.$",
            r"-+ rescued faultguard_data -+$",
            r"'seed' = 7$",
            r"-+ Captured stdout call -+$",
            r"said$",
            r"=+ short test summary info =+$",
            rf"FAILED test_look\.py::test_it - {CAUSE}$",
            r"=+ 1 failed in .* =+$",
        ],
        consecutive=True,
    )


@dataclass(frozen=True)
class Style:
    """What a `--tb` style shows of the crash of LOOK, and what it does not."""

    shown: list[str]
    hidden: list[str]


STYLES = {
    "auto": Style(
        [">       descend(2)", "deep.py:6: in descend", ">       lib.null_write()", "deep.py:7: SIGSEGV"], []
    ),
    "long": Style(
        [">       descend(2)", ">           return descend(depth - 1)", "deep.py:7: SIGSEGV"], [": in descend"]
    ),
    "short": Style(["test_look.py:13: in test_it", "    descend(2)", "deep.py:7: in descend"], [">       "]),
    "line": Style(
        ["{path}/deep.py:7: SIGSEGV (segmentation fault) in call after "], [">       ", "    lib.null_write()"]
    ),
    "native": Style(
        [
            'Traceback (most recent call last):\n  File "{path}/test_look.py", line 13, in test_it\n    descend(2)\n  File',
            '  File "{path}/deep.py", line 7, in descend\n    lib.null_write()\npytest_faultguard.CrashError: SIGSEGV (seg',
        ],
        [">       ", "^", "~"],
    ),
    "no": Style([], ["null_write", "dump", "Captured"]),
}


@pytest.mark.usefixtures("look")
@pytest.mark.parametrize("style", STYLES)
def test_every_tb_style(run_pytest: RunPytest, pytester: pytest.Pytester, style: str) -> None:
    """Each as pytest shows a failure in it; the sections where there is room, and one line of summary in all."""
    result = run_pytest(f"--tb={style}")

    text = result.stdout.str()
    for shown in STYLES[style].shown:
        assert shown.format(path=pytester.path) in text
    for hidden in STYLES[style].hidden:
        assert hidden not in text
    if style not in {"no", "line"}:
        assert "- faulthandler dump -" in text
        assert "'seed' = 7" in text
    summary = result.outlines[next(n for n, line in enumerate(result.outlines) if "short test summary" in line) + 1 :]
    assert len(summary) == 2
    assert re.fullmatch(f"FAILED test_look.py::test_it - {CAUSE}", summary[0])


@pytest.mark.usefixtures("look")
@pytest.mark.parametrize("option", ["--showlocals", "--full-trace", "-vv", "--color=yes"])
def test_options_of_the_look_do_no_harm(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, option: str
) -> None:
    """The locals died with the process: none is shown, least of all one of ours."""
    result = run_pytest(*option.split())

    report = failed(recorder, "test_it")
    assert re.search(CAUSE, report.longrepr)
    assert "_FrameWanted" not in result.stdout.str() + result.stderr.str()
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_the_place_is_the_line_that_died(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """Also in a fixture of a conftest, a method, a lambda, a comprehension, unittest, a doctest, and code from a string."""
    pytester.makeconftest(
        """
        import pytest
        from programs import lib

        @pytest.fixture
        def from_conftest():
            lib.null_write()
        """
    )
    pytester.makepyfile(
        test_places="""
        import unittest
        from programs import lib

        def test_fixture(from_conftest): pass

        class TestClass:
            def test_method(self):
                lib.null_write()

        def test_lambda():
            die = lambda: lib.null_write()
            die()

        def test_comprehension():
            [lib.null_write()
             for _ in range(1)]

        def decorated(function):
            return lambda: function()

        @decorated
        def test_decorated():
            lib.null_write()

        class TestCase(unittest.TestCase):
            def test_unittest(self):
                lib.null_write()

        def test_string():
            exec("lib.null_write()")

        def test_several_lines():
            lib.kill_self(
                11
            )

        async def nothing(): pass

        def generator():
            yield lib.null_write()

        def test_generator():
            list(generator())
        """,
        documented="""
        def f():
            '''
            >>> from programs import lib
            >>> lib.null_write()
            '''
        """,
    )

    result = run_pytest("--faultguard", "--doctest-modules", *xdist_args)

    places = {report.nodeid.rpartition("::")[2]: report for report in recorder.reports() if report.outcome == "failed"}
    told = {name: (Path(report.path or "?").name, report.lineno) for name, report in places.items()}
    assert told == {
        "test_fixture": ("conftest.py", 6),
        "test_method": ("test_places.py", 8),
        "test_lambda": ("test_places.py", 11),
        "test_comprehension": ("test_places.py", 15),
        "test_decorated": ("test_places.py", 23),
        "test_unittest": ("test_places.py", 27),
        "test_string": ("<string>", 1),
        # As the interpreter counts: the call's line is that of its first word.
        "test_several_lines": ("test_places.py", 33),
        "test_generator": ("test_places.py", 40),
        "documented.f": ("documented.py", 4),
    }
    assert {report.message for report in places.values() if not re.match("SIGSEGV ", report.message or "")} == set()
    for name, report in places.items():
        if report.path and Path(report.path).name in {"conftest.py", "test_places.py", "documented.py"}:
            # Flush left in the sources above, so that pytest's `>` stands where it always does.
            assert re.search(r"^> +.*(null_write|kill_self)", report.longrepr, re.MULTILINE), name
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()


def test_where_no_line_is_known_the_test_itself_is_marked(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester
) -> None:
    """After SIGKILL there is no stack: `>` at `def`, the test's own place, and the reason among the gaps."""
    pytester.makepyfile(
        """
        import os
        import signal

        import pytest

        @pytest.mark.faultguard
        @pytest.mark.parametrize("number", [1])
        def test_killed(number):
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )

    result = run_pytest()

    result.stdout.re_match_lines(
        [
            r"    @pytest\.mark\.faultguard$",
            r"    @pytest\.mark\.parametrize\(\"number\", \[1\]\)$",
            r">   def test_killed\(number\):$",
            r"E   SIGKILL by another process or its own in call after \d\.\d\d s$",
            r"$",
            r"test_\w+\.py:8: SIGKILL$",
            r"-+ gaps in the evidence -+$",
            r"stack: SIGKILL ends a process without a dump$",
        ],
        consecutive=True,
    )
    assert crash_of(failed(recorder, "test_killed[1]")).stacks == ()


@pytest.mark.parametrize(
    ("crash", "gaps"),
    [
        (
            "lib.native_thread_crash(0)",
            ["stack: a thread without Python frames crashed; the marked line is where the main thread was"],
        ),
        ("threading.Thread(target=lib.null_write).start()", []),
        ("pass", []),
    ],
    ids=["native", "python", "timeout"],
)
def test_a_marked_line_that_did_not_crash_is_a_gap(
    run_pytest: RunPytest,
    recorder: Recorder,
    pytester: pytest.Pytester,
    xdist_args: tuple[str, ...],
    crash: str,
    gaps: list[str],
) -> None:
    """What a thread of native code does is no doing of the line where Python is meanwhile."""
    pytester.makepyfile(
        f"""
        import threading

        import pytest
        from programs import lib

        @pytest.mark.faultguard(timeout=2)
        def test_goes_on():
            {crash}
            total = 0
            while True:
                total += 1
        """
    )

    run_pytest(*xdist_args)

    assert crash_of(failed(recorder, "test_goes_on")).gaps == tuple(gaps)


@pytest.mark.parametrize(
    "run",
    [
        "threading.Thread(target=work).start()",
        "threading.Timer(0, work).start()",
        "concurrent.futures.ThreadPoolExecutor().submit(work)",
    ],
)
def test_a_crash_in_a_thread_of_a_library_begins_there(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, run: str
) -> None:
    """And not with the way in which threads begin, nor with the sources of that."""
    pytester.makepyfile(
        mylib=f"""
        import concurrent.futures
        import threading
        from programs import lib

        def work():
            lib.null_write()

        def start():
            {run}
        """,
        test_it="""
        import threading
        import mylib
        import pytest

        @pytest.mark.faultguard(timeout=10)
        def test_dies():
            mylib.start()
            threading.Event().wait()
        """,
    )

    run_pytest()

    report = failed(recorder, "test_dies")
    shown = report.longrepr.partition("faulthandler dump")[0]
    assert [line.rpartition("/")[2] for line in re.findall(r"^\S+\.py:\d+: \S+$", shown, re.MULTILINE)] == [
        "mylib.py:6: SIGSEGV"
    ]
    assert shown.splitlines()[:2] == ["def work():", ">       lib.null_write()"]


# The sections.


def test_the_dump_has_all_threads_with_counts_for_what_is_not_the_users(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """The thread that died is the current one; of pytest and its plugins only the number of frames is left."""
    pytester.makepyfile(
        """
        import threading

        import pytest
        from programs import lib

        def waiting_here(ready):
            ready.release()
            threading.Event().wait()

        def crashing_here():
            lib.null_write()

        @pytest.mark.faultguard
        def test_threads():
            ready = threading.Semaphore(0)
            for _ in range(3):
                threading.Thread(target=waiting_here, args=(ready,), daemon=True).start()
                ready.acquire()
            thread = threading.Thread(target=crashing_here)
            thread.start()
            thread.join()
        """
    )

    run_pytest(*xdist_args)

    report = failed(recorder, "test_threads")
    dump = sections(report)[DUMP]
    stacks = dump.split("\n\n")
    assert sum(" in waiting_here" in stack for stack in stacks) == 3
    (current,) = (stack for stack in stacks if stack.startswith("Current thread 0x"))
    assert current.splitlines()[1].endswith(" in crashing_here")
    (main,) = (stack for stack in stacks if " in test_threads" in stack)
    assert re.search(r"  \.\.\. \d+ frames of pytest and its plugins \.\.\.\Z", main)
    assert not re.search(r"site-packages/(_pytest|pluggy|xdist|execnet)/|/pytest_faultguard/", dump)
    # The record has them all, not only what is shown.
    crash = crash_of(report)
    assert len(crash.stacks) == len(stacks)
    assert crash.dump.startswith("Fatal Python error: Segmentation fault\n")
    # It is the crashing thread whose line is marked.
    assert (Path(report.path or "").name, report.lineno) == (f"{Path(report.nodeid.partition('::')[0]).name}", 11)


@pytest.mark.parametrize("capture", ["fd", "sys", "no", "tee-sys"])
def test_output_up_to_the_crash_is_in_the_report(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, xdist_args: tuple[str, ...], capture: str
) -> None:
    """In every capture mode: text, bytes and log records, of the phase that died and of those before it."""
    pytester.makepyfile(
        """
        import logging
        import os
        import sys

        import pytest
        from programs import lib

        @pytest.fixture
        def talks():
            print("out in setup")
            print("err in setup", file=sys.stderr)
            logging.getLogger("one").warning("log in setup")

        @pytest.mark.faultguard
        def test_dies(talks, pytestconfig):
            print("out in call, é")
            sys.stdout.writelines(["line\\n", "line without an end"])
            sys.stdout.flush()
            sys.stdout.buffer.write(b" and bytes \\xc3\\xa9\\n")
            sys.stdout.flush()
            print("err in call", file=sys.stderr)
            logging.getLogger("one").warning("log in call")
            logging.getLogger("two").info("log below the level")
            lib.null_write()

        def test_of_another(): print("not his")
        """
    )

    result = run_pytest(f"--capture={capture}", *xdist_args)

    report = failed(recorder, "test_dies")
    assert report.section("Captured stdout call") == "out in call, é\nline\nline without an end and bytes é\n"
    assert report.section("Captured stderr call") == "err in call\n"
    assert re.fullmatch(r"WARNING +one:test_\w+\.py:\d+ log in call\n", report.section("Captured log call"))
    assert re.fullmatch(r"WARNING +one:test_\w+\.py:\d+ log in setup\n?", report.section("Captured log setup"))
    # pytest itself keeps nothing of a phase that has ended, where it does not capture.
    kept = capture != "no"
    assert report.section("Captured stdout setup") == ("out in setup\n" if kept else "")
    assert report.section("Captured stderr setup") == ("err in setup\n" if kept else "")
    if not xdist_args:
        # As without a crash, what is not captured is on the terminal besides.
        assert result.stdout.str().count("out in setup") == {"fd": 1, "sys": 1, "no": 1, "tee-sys": 2}[capture]
    assert recorder.outcomes()["test_of_another"] == ["setup passed", "call passed", "teardown passed"]


def test_output_of_c_and_of_children_is_in_the_report(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester
) -> None:
    """Under fd capture, pytest's default: whatever reached the descriptors."""
    pytester.makepyfile(
        """
        import ctypes
        import os
        import subprocess

        import pytest
        from programs import lib

        @pytest.mark.faultguard
        def test_dies():
            libc = ctypes.CDLL(None)
            libc.puts(b"flushed by C")
            libc.fflush(None)
            subprocess.run(["echo", "from a child"], check=True)
            os.write(2, b"bare\\n")
            lib.null_write()
        """
    )

    run_pytest()

    report = failed(recorder, "test_dies")
    assert report.section("Captured stdout call") == "flushed by C\nfrom a child\n"
    assert report.section("Captured stderr call") == "bare\n"


@pytest.mark.usefixtures("look")
def test_show_capture_hides_the_output_and_not_the_evidence(run_pytest: RunPytest) -> None:
    """`--show-capture=no` is about output."""
    result = run_pytest("--show-capture=no")

    text = result.stdout.str()
    assert "Captured stdout" not in text
    assert "- faulthandler dump -" in text
    assert "- rescued faultguard_data -" in text


def test_log_format_and_level_are_pytests(run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester) -> None:
    """Of a crash as of a failure."""
    pytester.makepyfile(
        """
        import logging
        import os

        import pytest
        from programs import lib

        @pytest.mark.faultguard
        @pytest.mark.parametrize("die", [lib.null_write, pytest.fail], ids=["crash", "failure"])
        def test_dies(die):
            logging.getLogger("here").debug("too low")
            logging.getLogger("here").info("as asked")
            die()
        """
    )

    run_pytest("--log-level=INFO", "--log-format=<%(name)s> %(message)s")

    crashed, merely = failed(recorder, "[crash]"), failed(recorder, "[failure]")
    assert (
        crashed.section("Captured log call").strip() == merely.section("Captured log call").strip() == "<here> as asked"
    )


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("name", ["capsys", "capfd"])
def test_what_capsys_had_captured_is_a_gap(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, name: str, start: str
) -> None:
    """It was in the child's memory: the report says so, however the test came by the fixture, if it did."""
    pytester.makepyfile(
        f"""
        import pytest
        from programs import lib

        pytestmark = pytest.mark.faultguard

        def test_static({name}):
            print("into memory")
            lib.null_write()

        def test_dynamic(request):
            request.getfixturevalue({name!r})
            print("into memory")
            lib.null_write()

        @pytest.fixture
        def deadly(): lib.null_write()

        def test_before(deadly, {name}): pass
        """
    )

    run_pytest("--faultguard-start", start)

    for test in ("test_static", "test_dynamic"):
        report = failed(recorder, test)
        assert sections(report)[GAPS] == f"output: what {name} had captured died with the child"
    (before,) = recorder.reports("test_before", when="setup")
    assert GAPS not in sections(before)


def test_the_evidence_stands_in_the_order_of_the_documents(
    run_pytest: RunPytest, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """As docs/report.rst tells it; pytest itself puts the output last."""
    pytester.makepyfile(
        """
        import logging
        import subprocess
        import sys
        import pytest
        from programs import lib

        pytestmark = pytest.mark.faultguard(scope="module")

        def test_first(): pass

        def test_dies(request, faultguard_data):
            faultguard_data["key"] = 1
            logging.getLogger("here").warning("logged")
            print("out")
            print("err", file=sys.stderr, flush=True)
            subprocess.Popen(["sleep", "6003"])
            request.getfixturevalue("capsys")
            lib.null_write()
        """
    )
    distribution = ["--dist=loadfile"] if xdist_args else []

    result = run_pytest(*xdist_args, *distribution)

    titles = re.findall(r"^-+ (.*?) -+$", result.stdout.str(), re.MULTILINE)
    shown = [DUMP, DATA, "shared child", f"{LEAKED} with the shared child", GAPS]
    assert titles == [*shown, "Captured log call", "Captured stdout call", "Captured stderr call"]


def test_leaked_processes_are_named_and_ended(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """With number and command line; the audit of this test sees that they are gone."""
    pytester.makepyfile(
        """
        import subprocess

        import pytest
        from programs import lib

        @pytest.mark.faultguard
        def test_dies(faultguard_data):
            first = subprocess.Popen(["sleep", "6001"])
            second = subprocess.Popen(["sh", "-c", "sleep 6002; :"], stdout=subprocess.DEVNULL)
            ended = subprocess.Popen(["true"])
            ended.wait()
            faultguard_data["first"] = first.pid
            lib.null_write()
        """
    )

    run_pytest(*xdist_args)

    report = failed(recorder, "test_dies")
    lines = sections(report)[LEAKED].splitlines()
    assert tuple(lines) == crash_of(report).leaked
    first = sections(report)[DATA].removeprefix("'first' = ")
    assert f"{first} sleep 6001" in lines
    assert any(line.endswith(" sh -c sleep 6002; :") for line in lines)
    assert not any(line.endswith(" true") for line in lines)


def test_no_section_is_empty(run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester) -> None:
    """A test that said nothing, kept nothing and left nothing has the dump, and no other section."""
    pytester.makepyfile(
        """
        import pytest
        from programs import lib

        @pytest.mark.faultguard
        def test_dies():
            lib.null_write()
        """
    )

    run_pytest()

    report = failed(recorder, "test_dies")
    assert list(sections(report)) == [DUMP]
    assert report.sections == []


# What native code says about its death.


@dataclass(frozen=True)
class Words:
    """Code that dies with words, and what of these words the `E` line has."""

    code: str
    message: str


RUST = (
    r"\nthread 'tests::it' (4711) panicked at src/lib.rs:12:9:\nindex out of bounds: the len is 3 but the index is 7\n"
    r"note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n"
)
SANITIZER = (
    r"=================================================================\n"
    r"==4711==ERROR: AddressSanitizer: heap-use-after-free on address 0x602000000010 at pc 0x55d bp 0x7ff sp 0x7ff\n"
    r"READ of size 4 at 0x602000000010 thread T0\n    #0 0x55d in main /src/a.c:5\n"
)
WORDS = {
    "double_free": Words("lib.double_free()", "free(): double free detected in tcache 2"),
    "cxx": Words(
        "lib.cxx_exception()",
        "terminate called after throwing an instance of 'std::runtime_error': what(): bad index",
    ),
    "assertion": Words(
        "lib.assert_()",
        'assert_.c:9: assert_: Assertion `stored <= capacity && "more stored than there is room for"\' failed.',
    ),
    "python": Words("ctypes.pythonapi.Py_FatalError(b'the sky has fallen')", "Fatal Python error: the sky has fallen"),
    "rust": Words(
        f'lib.write_stderr_then_abort(b"""{RUST}""")',
        "thread 'tests::it' panicked at src/lib.rs:12:9: index out of bounds: the len is 3 but the index is 7",
    ),
    "sanitizer": Words(
        f'lib.write_stderr_then_abort(b"""{SANITIZER}""")',
        "AddressSanitizer: heap-use-after-free on address 0x602000000010 at pc 0x55d bp 0x7ff sp 0x7ff",
    ),
    "after_other_output": Words(
        "print('a' * 100_000); print('b\\n' * 1000, file=sys.stderr); lib.double_free()",
        "free(): double free detected in tcache 2",
    ),
    "nothing_said": Words("print('free(): nonsense'); lib.abort_()", ""),
    # A sanitizer leaves by an exit code.
    "sanitizer_exits": Words(
        "os.write(2, b'==1==ERROR: LeakSanitizer: detected memory leaks\\n'); os._exit(23)",
        "LeakSanitizer: detected memory leaks",
    ),
}


def words_file(names: list[str]) -> str:
    """A test for each of these."""
    tests = [f"@pytest.mark.faultguard\ndef test_{name}():\n    {WORDS[name].code}\n" for name in names]
    return "\n\n".join(["import ctypes\nimport os\nimport sys\n\nimport pytest\nfrom programs import lib", *tests])


def test_native_words_explain_the_death(
    run_pytest: RunPytest, recorder: Recorder, junit: Junit, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """On the `E` line, in the summary, in junitxml and in the record; the words themselves stay in the output."""
    possible = {name: words for name, words in WORDS.items() if not missing(words.code)}
    pytester.makepyfile(words_file(list(possible)))

    run_pytest(*xdist_args, *junit.args)

    messages = {}
    for name in possible:
        report = failed(recorder, f"::test_{name}")
        cause, message = crash_of(report).cause, crash_of(report).message
        assert report.message == cause
        assert f"\nE       {cause}\n" in report.longrepr or f"\nE   {cause}\n" in report.longrepr
        assert cause.endswith(f": {message}") if message else cause.endswith(" s")
        messages[name] = re.sub(r".*assert_\.c", "assert_.c", message)
    assert messages == {name: words.message for name, words in possible.items()}
    assert [case.messages for case in junit.cases()] == [
        [failed(recorder, f"::{case.name}").message] for case in junit.cases()
    ]
    assert "index out of bounds" in failed(recorder, "test_rust").section("Captured stderr call")


@pytest.mark.parametrize("capture", ["sys", "no", "tee-sys"])
def test_native_words_explain_the_death_without_fd_capture(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, capture: str, xdist_args: tuple[str, ...]
) -> None:
    """The E line has them in every capture mode; and they are on the terminal, as without a guard."""
    names = [name for name in ("double_free", "cxx", "python") if not missing(WORDS[name].code)]
    pytester.makepyfile(words_file(names))

    result = run_pytest(f"--capture={capture}", *xdist_args)

    for name in names:
        report = failed(recorder, f"::test_{name}")
        assert crash_of(report).message == WORDS[name].message
        said = WORDS[name].message.rpartition(": ")[2]
        assert said in report.section("Captured stderr call")
        assert said in result.stderr.str()


@pytest.mark.parametrize("capture", ["fd", "sys", "no", "tee-sys"])
def test_the_words_of_an_earlier_phase_do_not_count(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, capture: str, xdist_args: tuple[str, ...]
) -> None:
    """A message that a test prints about something else, in setup, is not what it died of in the call."""
    pytester.makepyfile(
        """
        import os

        import pytest
        from programs import lib

        @pytest.fixture
        def talks():
            os.write(2, b"free(): invalid pointer\\n")

        @pytest.mark.faultguard
        def test_dies(talks):
            lib.null_write()
        """
    )

    run_pytest(f"--capture={capture}", *xdist_args)

    assert crash_of(failed(recorder, "test_dies")).message == ""


@pytest.mark.parametrize("capture", ["fd", "sys", "tee-sys", "no"])
def test_the_words_of_an_earlier_test_do_not_count(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, capture: str, xdist_args: tuple[str, ...]
) -> None:
    """Nor what the test before has written in the same child, in its call or in its teardown."""
    pytester.makepyfile(
        """
        import os

        import pytest
        from programs import lib

        pytestmark = pytest.mark.faultguard(scope="module")

        @pytest.fixture
        def talks():
            yield
            os.write(2, b"free(): invalid size\\n")

        def test_talks(talks):
            os.write(2, b"free(): invalid pointer\\n")

        def test_dies():
            lib.null_write()
        """
    )
    distribution = ["--dist=loadfile"] if xdist_args else []

    run_pytest(f"--capture={capture}", *xdist_args, *distribution)

    crash = crash_of(failed(recorder, "test_dies"))
    assert crash.message == ""
    assert [nodeid.rpartition("::")[2] for nodeid in crash.trail] == ["test_talks"]


def test_what_python_and_c_write_without_capture_is_where_it_is_without_a_guard(
    run_pytest: RunPytest, pytester: pytest.Pytester
) -> None:
    """Python's two streams in their order, on one terminal; a file that the test puts at descriptor 2 gets all."""
    pytester.makepyfile(
        """
        import os
        import sys

        import pytest

        @pytest.mark.faultguard
        def test_streams():
            for number in range(20):
                print("out", number)
                print("err", number, file=sys.stderr)

        @pytest.mark.faultguard
        def test_native():
            os.write(2, b"native\\n" * 1000)
            os.system("echo from a child >&2")

        @pytest.mark.faultguard
        def test_catches_by_hand(tmp_path):
            former = os.dup(2)
            with open(tmp_path / "caught", "w+") as file:
                os.dup2(file.fileno(), 2)
                print("python", file=sys.stderr)
                os.write(2, b"native\\n")
                os.dup2(former, 2)
                file.seek(0)
                assert file.read() == "python\\nnative\\n"
        """
    )
    command = [sys.executable, "-m", "pytest", "-s", "-v", "-p", "no:cacheprovider"]
    told = [
        subprocess.run(
            [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=True
        ).stdout.rpartition("\n=")[0]
        for options in ([], ["--no-faultguard"])
    ]

    assert told[0].count("native\n") == 1000
    assert told[0] == told[1]


def test_a_flood_of_native_output_is_stopped_at_the_deadline(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester
) -> None:
    """Passing it on does not keep the guard from its clocks."""
    pytester.makepyfile(
        """
        import os

        import pytest

        @pytest.mark.faultguard(timeout=0.5)
        def test_it():
            while True:
                os.write(2, b"x\\n" * 32768)
        """
    )

    with open(os.devnull, "wb") as null:
        subprocess.run(
            [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider"], stderr=null, timeout=60, check=False
        )

    assert failed(recorder, "test_it").message == "timeout of 0.5 s passed in call, ended by SIGTERM"


# Where the dump goes.

DUMPED = {
    "closed": "os.close(2)",
    "closed_all_three": "os.closerange(0, 3)",
    "replaced_by_null": "os.dup2(os.open(os.devnull, os.O_WRONLY), 2)",
    "replaced_by_a_file": "os.dup2(os.open('elsewhere.txt', os.O_WRONLY | os.O_CREAT), 2)",
    "replaced_by_a_dead_pipe": "os.dup2(dead_pipe(), 2)",
    "sys_stderr_replaced": "sys.stderr = sys.__stderr__ = None",
    "every_low_number_reopened": "os.closerange(3, 100); [os.open('elsewhere.txt', 66) for _ in range(97)]",
    "stack_overflow": "recurse()",
    "blocked_by_other_handlers": "signal.signal(signal.SIGUSR1, signal.SIG_IGN)",
    "enabled_by_the_test": "faulthandler.enable()",
    "enabled_again_elsewhere": "faulthandler.enable(file=open('elsewhere.txt', 'w'))",
    "disabled": "faulthandler.disable()",
    "handler_taken": "signal.signal(signal.SIGSEGV, signal.SIG_DFL)",
}

DUMPING = """
import ctypes
import faulthandler
import os
import resource
import signal
import sys

import pytest
from programs import lib

pytestmark = pytest.mark.faultguard


def recurse():
    # Python calls itself through C, as callbacks do; with 256 KiB of stack that is quick.
    resource.setrlimit(resource.RLIMIT_STACK, (1 << 18, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    sys.setrecursionlimit(10 ** 6)

    @ctypes.CFUNCTYPE(None)
    def again():
        again()

    again()


def dead_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    return writing
"""

#: Nobody but the test has the dump.
ELSEWHERE = {"enabled_again_elsewhere", "disabled", "handler_taken"}


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("-n2",),
        ("-p", "no:faulthandler"),
        ("-p", "no:faulthandler", "-n2"),
        ("-p", "no:faulthandler", "-n2", "--faultguard-start=spawn"),
        ("--faultguard-start=forkserver",),
    ],
    ids=" ".join,
)
def test_the_dump_does_not_depend_on_stderr_nor_on_pytests_plugin(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, args: tuple[str, ...]
) -> None:
    """Whatever the test does to its descriptors, to its stack and to faulthandler; a dump that is missing is a gap."""
    tests = [f"def test_{name}():\n    {code}\n    lib.null_write()" for name, code in DUMPED.items()]
    pytester.makepyfile("\n\n".join([DUMPING, *tests]))

    run_pytest(*args)

    for name in DUMPED:
        report = failed(recorder, f"::test_{name}")
        crash, shown = crash_of(report), sections(report)
        assert crash.short_cause == "SIGSEGV", name
        if name in ELSEWHERE:
            assert crash.stacks == (), name
            assert shown[GAPS] == "stack: faulthandler wrote nothing: the test disabled it, or sent its text elsewhere"
            assert re.search(rf"^>   def test_{name}\(\):$", report.longrepr, re.MULTILINE), name
            continue
        assert GAPS not in shown, name
        current = crash.stacks[0]
        assert (current.current, len(crash.stacks) == 1 or "-n2" in args) == (True, True), name
        assert current.frames[0].function == ("again" if name == "stack_overflow" else f"test_{name}"), name
        assert re.search(r"^> +(lib\.null_write|again)\(\)$", report.longrepr, re.MULTILINE), name
        assert DUMP in shown, name


def test_a_recursion_is_told_once(run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester) -> None:
    """A hundred equal frames are a count in the dump, and not a hundred entries of a traceback."""
    pytester.makepyfile(f"{DUMPING}\n\ndef test_it():\n    recurse()")

    run_pytest()

    report = failed(recorder, "test_it")
    assert sections(report)[DUMP].splitlines()[1:] == [
        next(line for line in report.longrepr.splitlines() if line.endswith(" in again")),
        "  ... the frame above 99 more times ...",
        "  ... frames are missing ...",
    ]
    assert len(report.longrepr.splitlines()) < 20


def test_a_dump_that_the_test_sent_to_stderr_is_found_there(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester
) -> None:
    """`faulthandler.enable()` in a test, as many libraries do at their import: the dump is read from the output."""
    pytester.makepyfile(
        """
        import faulthandler
        import sys

        import pytest
        from programs import lib

        @pytest.mark.faultguard
        def test_dies():
            print("before it", file=sys.stderr)
            faulthandler.enable()
            lib.abort_()
        """
    )

    run_pytest()

    report = failed(recorder, "test_dies")
    assert " in test_dies" in sections(report)[DUMP]
    assert GAPS not in sections(report)
    words = report.section("Captured stderr call")
    assert words.startswith("before it\nFatal Python error: Aborted\n")
    assert (" frames of pytest and its plugins ...\n" in words, "runtestprotocol" in words) == (True, False)
    assert crash_of(report).message == ""
    assert report.lineno == 11


# Leaving by an exit.


E_LINES = {
    "os._exit(0)": ("exit code 0 in call", "exit code 0"),
    "os._exit(7)": ("exit code 7 in call", "exit code 7"),
    "lib.exit3()": ("exit code 3 in call", "exit code 3"),
    "lib.exit0()": ("exit code 0 in call", "exit code 0"),
    "os.kill(os.getpid(), 9)": ("SIGKILL by another process or its own in call", "SIGKILL"),
    "os.kill(os.getpid(), 15)": ("SIGTERM (terminated) in call", "SIGTERM"),
    "os.kill(os.getpid(), signal.SIGRTMIN + 2)": ("SIGRTMIN+2 (real-time signal 2) in call", "SIGRTMIN+2"),
}


def test_the_e_line_names_the_ending(run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester) -> None:
    """An exit names its code and says that the test never finished; a signal is told by its name."""
    tests = [f"@pytest.mark.faultguard\ndef test_{n}():\n    {code}" for n, code in enumerate(E_LINES)]
    pytester.makepyfile(test_e="\n".join(["import os, signal, pytest", "from programs import lib", *tests]))

    run_pytest()

    for number, (cause, ending) in enumerate(E_LINES.values()):
        report = failed(recorder, f"::test_{number}")
        exited = "exit" in cause
        unfinished = ": the test never finished" if exited else ""
        assert re.fullmatch(rf"{re.escape(cause)} after \d\.\d\d s{unfinished}", report.message or "")
        assert f"\nE   {report.message}\n\ntest_e.py:{number * 3 + 4}: {ending}\n" in report.longrepr
        why = (
            "the process exited by itself, so no line is marked"
            if exited
            else f"{ending} ends a process without a dump"
        )
        assert f"stack: {why}" in sections(report)[GAPS].splitlines()


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_CORE)[1] == 0 or re.search("[|/]", CORE_PATTERN.read_text()) is not None,
    reason="cores are off, or somebody else takes them",
)
def test_the_e_line_tells_of_a_core(run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester) -> None:
    """Where the kernel has written one: whole, since nobody kills the process meanwhile."""
    pytester.makepyfile(
        """
        import resource

        import pytest
        from programs import lib

        @pytest.mark.faultguard
        @pytest.mark.parametrize("limit", [0, resource.getrlimit(resource.RLIMIT_CORE)[1]], ids=["off", "on"])
        def test_it(limit):
            resource.setrlimit(resource.RLIMIT_CORE, (limit, resource.getrlimit(resource.RLIMIT_CORE)[1]))
            lib.null_write()
        """
    )

    run_pytest()

    on, off = (failed(recorder, f"test_it[{name}]") for name in ("on", "off"))
    (core,) = pytester.path.glob("core*")
    core.unlink()
    assert re.fullmatch(rf"{CAUSE}, core dumped", on.message or "")
    assert crash_of(on).ending == Signaled(signal=11, core_dumped=True)
    assert re.fullmatch(CAUSE, off.message or "")


def test_exceptions_that_end_a_program_stay_failures_of_pytest(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester
) -> None:
    """`sys.exit` is an exception and no crash; neither is RecursionError or MemoryError."""
    pytester.makepyfile(
        """
        import sys
        import pytest

        @pytest.mark.faultguard
        def test_exit(): sys.exit(3)

        @pytest.mark.faultguard
        def test_recursion():
            def again(): again()
            again()

        @pytest.mark.faultguard
        def test_memory(): bytearray(1 << 62)
        """
    )

    run_pytest()

    messages = {name: failed(recorder, name).message for name in ("test_exit", "test_recursion", "test_memory")}
    assert messages["test_exit"] == "SystemExit: 3"
    assert (messages["test_recursion"] or "").startswith("RecursionError: ")
    assert (messages["test_memory"] or "").startswith("MemoryError")
    assert [report.crash for report in recorder.reports()] == [None] * 9


# xfail.

XFAIL = """
import sys

import pytest
import pytest_faultguard
from programs import lib

pytestmark = pytest.mark.faultguard
hangs = pytest.mark.faultguard(timeout=0.5, grace=0.1)
raises_exc = getattr(pytest, "RaisesExc", None)


@pytest.fixture
def marked(request):
    request.applymarker(pytest.mark.xfail(reason="by a fixture"))


@pytest.fixture
def marked_strictly(request):
    request.node.add_marker(pytest.mark.xfail(strict=True, raises=pytest_faultguard.CrashError))


@pytest.fixture
def dies_before():
    lib.null_write()


@pytest.fixture
def dies_after():
    yield
    lib.null_write()


def has_died():
    lib.null_write()
"""


@dataclass(frozen=True)
class Expected:
    """A mark, and how a test with it ends: `xfailed`, `failed`, `xpassed`, `passed`; at setup or teardown, `error`."""

    mark: str
    ending: str
    body: str = "lib.null_write()"
    arguments: str = ""
    runxfail: str = "failed"


XFAILS = {
    "bare": Expected("xfail", "xfailed"),
    "reason": Expected("xfail(reason='known')", "xfailed"),
    "strict": Expected("xfail(strict=True)", "xfailed"),
    "does_not_crash": Expected("xfail", "xpassed", "pass", runxfail="passed"),
    "strict_does_not_crash": Expected("xfail(strict=True)", "failed", "pass", runxfail="passed"),
    "fails_only": Expected("xfail", "xfailed", "assert 0"),
    "condition_true": Expected("xfail(True, reason='so')", "xfailed"),
    "condition_false": Expected("xfail(False, reason='so')", "failed"),
    "condition_string_true": Expected("xfail('sys.platform == \"linux\"')", "xfailed"),
    "condition_string_false": Expected("xfail('sys.platform != \"linux\"')", "failed"),
    "condition_string_false_strict": Expected("xfail('not sys.path', strict=True)", "failed"),
    "condition_dies": Expected("xfail('has_died()')", "error", "pass", runxfail="error"),
    "no_run": Expected("xfail(run=False)", "xfailed"),
    "no_run_reason": Expected("xfail(run=False, reason='too bad')", "xfailed", "1 / 0"),
    "raises_crash": Expected("xfail(raises=pytest_faultguard.CrashError)", "xfailed"),
    "raises_hang": Expected("xfail(raises=pytest_faultguard.HangError)", "failed"),
    "raises_value": Expected("xfail(raises=ValueError)", "failed"),
    "raises_one_of": Expected("xfail(raises=(ValueError, pytest_faultguard.CrashError))", "xfailed"),
    "raises_none_of": Expected("xfail(raises=(ValueError, pytest_faultguard.HangError))", "failed"),
    "raises_exception": Expected("xfail(raises=Exception)", "xfailed"),
    "raises_crash_but_fails": Expected("xfail(raises=pytest_faultguard.CrashError)", "failed", "assert 0"),
    "raises_crash_strict": Expected("xfail(raises=pytest_faultguard.CrashError, strict=True)", "xfailed"),
    "exit": Expected("xfail(raises=pytest_faultguard.CrashError)", "xfailed", "lib.exit0()"),
    "by_a_fixture": Expected("usefixtures('marked')", "xfailed"),
    "by_a_fixture_strict": Expected("usefixtures('marked_strictly')", "xfailed"),
    "in_setup": Expected("xfail", "xfailed", "pass", "dies_before", runxfail="error"),
    "in_teardown": Expected("xfail", "xpassed, xfailed", "pass", "dies_after", runxfail="passed, error"),
    "in_teardown_of_another": Expected(
        "xfail(raises=ValueError)", "xpassed, error", "pass", "dies_after", runxfail="passed, error"
    ),
}
HANGS = {
    "hang": Expected("xfail", "xfailed"),
    "hang_raises_hang": Expected("xfail(raises=pytest_faultguard.HangError)", "xfailed"),
    "hang_raises_crash": Expected("xfail(raises=pytest_faultguard.CrashError)", "xfailed"),
    "hang_raises_value": Expected("xfail(raises=ValueError)", "failed"),
}
RAISES_EXC = {
    "raises_exc": Expected("xfail(raises=raises_exc(pytest_faultguard.CrashError))", "xfailed"),
    "raises_exc_match": Expected(
        "xfail(raises=raises_exc(pytest_faultguard.CrashError, match=r'^SIGSEGV .*in call'))", "xfailed"
    ),
    "raises_exc_other_match": Expected(
        "xfail(raises=raises_exc(pytest_faultguard.CrashError, match='SIGABRT'))", "failed"
    ),
    "raises_exc_other_type": Expected("xfail(raises=raises_exc(ValueError, match='SIGSEGV'))", "failed"),
    "raises_exc_only_match": Expected("xfail(raises=raises_exc(match='segmentation fault'))", "xfailed"),
    # Code that only the dead process could have run, and what a crash is not.
    "raises_exc_check": Expected("xfail(raises=raises_exc(Exception, check=lambda error: True))", "failed"),
    "raises_group": Expected("xfail(raises=pytest.RaisesGroup(pytest_faultguard.CrashError))", "failed"),
    "raises_group_of": Expected("xfail(raises=pytest.RaisesGroup(raises_exc(Exception)))", "failed"),
}


def xfail_file(cases: dict[str, Expected], body: str = "") -> str:
    """A test for each of them."""
    tests = [
        f"@pytest.mark.{case.mark}\ndef test_{name}({case.arguments}):\n    {body or case.body}"
        for name, case in cases.items()
    ]
    return "\n\n".join([XFAIL, *tests])


def endings(recorder: Recorder) -> dict[str, str]:
    """By test what pytest counts it as; nothing for phases that are not counted."""
    told: dict[str, list[str]] = {}
    for report in recorder.reports():
        words = told.setdefault(report.nodeid.partition("::test_")[2], [])
        if report.wasxfail is not None:
            words.append("xfailed" if report.outcome == "skipped" else "xpassed")
        elif report.outcome == "failed":
            words.append("failed" if report.when == "call" else "error")
        elif report.when == "call":
            words.append(report.outcome)
    return {name: ", ".join(words) for name, words in told.items()}


def test_xfail_expects_a_crash(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """Each kind of mark; one report for the crash, as expected or failed; pytest's own reason; the counts at the end."""
    pytester.makepyfile(xfail_file(XFAILS))

    result = run_pytest("-rxX", *xdist_args)

    assert endings(recorder) == {name: case.ending for name, case in XFAILS.items()}
    assert recorder.report("test_reason").wasxfail == "known"
    assert recorder.report("test_by_a_fixture").wasxfail == "by a fixture"
    assert recorder.report("test_no_run_reason", "setup").wasxfail in {"reason: [NOTRUN] too bad", "[NOTRUN] too bad"}
    assert recorder.report("test_condition_string_true").wasxfail == 'condition: sys.platform == "linux"'
    assert crash_of(recorder.report("test_bare")).short_cause == "SIGSEGV"
    words = ", ".join(case.ending for case in XFAILS.values()).split(", ")
    result.assert_outcomes(
        xfailed=words.count("xfailed"),
        xpassed=words.count("xpassed"),
        failed=words.count("failed"),
        errors=words.count("error"),
    )
    assert "[XPASS(strict)]" in failed(recorder, "test_strict_does_not_crash").longrepr


def test_a_failure_that_was_not_the_expected_one_is_told_in_full(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester
) -> None:
    """`raises=ValueError`: the crash is a crash, with its dump."""
    pytester.makepyfile(xfail_file({"raises_value": XFAILS["raises_value"]}))

    run_pytest()

    report = failed(recorder, "test_raises_value")
    assert re.search(rf"^E +{CAUSE}$", report.longrepr, re.MULTILINE)
    assert DUMP in sections(report)


def test_xfail_expects_a_hang(run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester) -> None:
    """A HangError is a CrashError, and no ValueError."""
    text = xfail_file(HANGS, "lib.loop_gil()").replace("pytestmark = pytest.mark.faultguard\n", "")
    pytester.makepyfile(text.replace("@pytest.mark.xfail", "@hangs\n@pytest.mark.xfail"))

    run_pytest()

    assert endings(recorder) == {name: case.ending for name, case in HANGS.items()}


@pytest.mark.skipif(not hasattr(pytest, "RaisesExc"), reason="pytest.RaisesExc is new in 8.4")
def test_xfail_expects_a_crash_by_its_text(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester
) -> None:
    """`raises=pytest.RaisesExc(CrashError, match=…)`: the pattern is matched with the `E` line."""
    pytester.makepyfile(xfail_file(RAISES_EXC))

    run_pytest()

    assert endings(recorder) == {name: case.ending for name, case in RAISES_EXC.items()}


def test_runxfail_takes_the_marks_away(run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester) -> None:
    """`--runxfail`: every crash is a failure, and `run=False` runs."""
    pytester.makepyfile(xfail_file(XFAILS))

    run_pytest("--runxfail")

    assert endings(recorder) == {name: case.runxfail for name, case in XFAILS.items()}


@pytest.mark.parametrize("strict", ["true", "false"])
def test_xfail_strict_of_the_ini_file(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, strict: str
) -> None:
    """A crash under it is expected; the lack of one is a failure where that is asked for."""
    pytester.makeini(f"[pytest]\nxfail_strict = {strict}")
    pytester.makepyfile(xfail_file({name: XFAILS[name] for name in ("bare", "does_not_crash")}))

    run_pytest()

    assert endings(recorder) == {"bare": "xfailed", "does_not_crash": "failed" if strict == "true" else "xpassed"}


# Hooks.

HOOKS = """
import json
import os

import pytest
import pytest_faultguard


def note(hook, node, call, report):
    error = None if call.excinfo is None else call.excinfo.value
    crash = getattr(error, "crash", None)
    told = {"hook": hook, "node": node.name, "when": report.when, "pid": os.getpid(), "type": type(error).__name__}
    if crash is not None:
        assert isinstance(error, pytest_faultguard.CrashError)
        assert call.excinfo.errisinstance(pytest_faultguard.CrashError)
        assert type(error).__module__ == "pytest_faultguard"
        told |= {
            "is_hang": isinstance(error, pytest_faultguard.HangError),
            "text": str(error),
            "label": crash.label,
            "ending": type(crash.ending).__name__,
            "signal": crash.signal,
            "exit_code": crash.exit_code,
            "phase": crash.phase,
            "function": crash.stacks[0].frames[0].function if crash.stacks else None,
            "traceback": [entry.name for entry in call.excinfo.traceback],
            "outcome": report.outcome,
            "guarded": pytest_faultguard.is_guarded(),
            "duration": call.duration,
        }
    with open("hooks.jsonl", "a") as file:
        file.write(json.dumps(told) + "\\n")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    note("makereport", item, call, report)
    report.user_properties.append(("hook", "was here"))
    report.sections.append(("from a hook", f"{type(report.longrepr).__name__}"))


def pytest_exception_interact(node, call, report):
    if call.when != "collect":
        note("interact", node, call, report)
"""


def noted(pytester: pytest.Pytester, hook: str, node: str) -> list[dict[str, Any]]:
    """What that hook was told of a crash of that test."""
    lines = [json.loads(line) for line in (pytester.path / "hooks.jsonl").read_text().splitlines()]
    return [line for line in lines if (line["hook"], line["node"]) == (hook, node) and "ending" in line]


def test_hooks_see_an_exception_of_a_public_type(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """`pytest_runtest_makereport` and `pytest_exception_interact`: once, in pytest's process, with the whole record."""
    pytester.makeconftest(HOOKS)
    pytester.makepyfile(
        """
        import pytest
        from programs import lib, pylib

        pytestmark = pytest.mark.faultguard

        @pytest.fixture
        def dies_before():
            lib.null_write()

        @pytest.fixture
        def dies_after():
            yield
            lib.abort_()

        def test_setup(dies_before): pass
        def test_call(): lib.null_write()
        def test_teardown(dies_after): pass
        def test_exit(): lib.exit3()

        @pytest.mark.faultguard(timeout=0.5)
        def test_hang(): pylib.loop_gil()

        @pytest.mark.xfail
        def test_expected(): lib.null_write()
        """
    )

    run_pytest(*xdist_args)

    expected: dict[str, dict[str, Any]] = {
        "test_setup": {
            "when": "setup",
            "phase": "setup",
            "ending": "Signaled",
            "signal": 11,
            "function": "dies_before",
        },
        "test_call": {"when": "call", "phase": "call", "ending": "Signaled", "signal": 11, "function": "test_call"},
        "test_teardown": {
            "when": "teardown",
            "phase": "teardown",
            "ending": "Signaled",
            "signal": 6,
            "function": "dies_after",
        },
        "test_exit": {"when": "call", "phase": "call", "ending": "Exited", "exit_code": 3, "traceback": ["test_exit"]},
        "test_hang": {"when": "call", "phase": "call", "ending": "Overdue", "is_hang": True, "function": "test_hang"},
        "test_expected": {"when": "call", "phase": "call", "ending": "Signaled", "outcome": "skipped"},
    }
    defaults = {"is_hang": False, "guarded": False, "signal": None, "exit_code": None, "outcome": "failed"}
    sessions = {report.pid for report in recorder.reports()}
    for node, told in expected.items():
        (made,) = noted(pytester, "makereport", node)
        report = next(report for report in recorder.reports(node) if report.crash)
        assert made["text"] == report.message == crash_of(report).cause
        assert made["label"] == report.nodeid
        for key, value in (defaults | told).items():
            if not (node == "test_expected" and key == "signal"):
                assert made[key] == value, (node, key)
        if made["function"]:
            assert made["traceback"] == [made["function"]], node
        assert made["duration"] == pytest.approx(report.duration)
        assert (made["pid"] in sessions) is not bool(xdist_args)
        # What pytest does not take for an exception to be looked at is none here either.
        interacted = noted(pytester, "interact", node)
        assert interacted == ([] if node == "test_expected" else [{**made, "hook": "interact"}])
        # What a hook does to the report stays; it found it with its traceback.
        assert report.user_properties.count(("hook", "was here")) == 1
        assert report.section("from a hook") == "ExceptionChainRepr"


def test_a_record_without_any_dump_says_so_by_type(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester
) -> None:
    """The attribute of the report is the record, of JSON types; the same as the exception's."""
    pytester.makepyfile(
        """
        import os
        import pytest

        @pytest.mark.faultguard
        def test_it(): os.kill(os.getpid(), 9)
        """
    )

    run_pytest()

    record = failed(recorder, "test_it").crash
    assert record["ending"] == {"kind": "Signaled", "signal": 9, "core_dumped": False}
    assert (record["stacks"], record["dump"], record["phase"]) == ([], "", "call")
    assert from_json(json.loads(json.dumps(record))).ending == Signaled(signal=9)


# junitxml.


def test_junitxml_has_the_whole_story(
    run_pytest: RunPytest, recorder: Recorder, junit: Junit, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """One element for a crash: the `E` line as its message, traceback and sections as its text; time and output are true."""
    pytester.makepyfile(
        test_j="""
        import time

        import pytest
        from programs import lib

        pytestmark = pytest.mark.faultguard

        @pytest.fixture
        def dies_before():
            lib.null_write()

        @pytest.fixture
        def dies_after():
            yield
            lib.null_write()

        def test_setup(dies_before): pass

        @pytest.fixture
        def noted(record_property):
            record_property("colour", "red")

        def test_call(noted, faultguard_data):
            faultguard_data["seed"] = 42
            print("said <&> \\x1b[31m")
            time.sleep(0.1)
            lib.double_free()

        def test_teardown(dies_after): pass

        @pytest.mark.xfail(reason="known")
        def test_expected(): lib.null_write()

        def test_passes(): pass
        """
    )

    run_pytest(*junit.args, "-o", "junit_logging=all", *xdist_args)

    cases = {case.name: case for case in junit.cases()}
    assert {name: case.outcomes for name, case in cases.items()} == {
        "test_setup": ["error"],
        "test_call": ["failure"],
        "test_teardown": ["error"],
        "test_expected": ["skipped"],
        "test_passes": ["passed"],
    }
    call = cases["test_call"]
    message = failed(recorder, "test_call").message
    assert call.messages == [message]
    assert re.fullmatch(
        r"SIGABRT \(aborted\) in call after 0\.\d\d s: free\(\): double free detected in tcache 2", message or ""
    )
    for part in (
        ">       lib.double_free()",
        f"E       {message}",
        "faulthandler dump",
        "'seed' = 42",
    ):
        assert part in call.text
    assert re.search(r"^test_j\.py:\d+: SIGABRT$", call.text, re.MULTILINE)
    # By the guard's clock, which starts when the report of the setup has come.
    assert 0.05 <= call.time < 1
    assert "said <&> " in call.system_out
    assert "double free detected" in call.system_err
    # With what it used: see test_limits.py, also where the peak of a fresh interpreter is hidden.
    hidden = {"faultguard_peak_memory_bytes"} if starts_clean() else set()
    assert set(call.properties) | hidden == {"colour", "faultguard_peak_memory_bytes", "faultguard_cpu_seconds"}
    setup, teardown = (failed(recorder, f"test_{when}").message for when in ("setup", "teardown"))
    assert cases["test_setup"].messages == [f'failed on setup with "{setup}"']
    assert cases["test_teardown"].messages == [f'failed on teardown with "{teardown}"']
    assert cases["test_expected"].messages == ["known"]


# Text that is none.


@pytest.mark.parametrize("capture", ["fd", "sys"])
def test_text_that_is_no_text_harms_nobody(
    run_pytest: RunPytest,
    recorder: Recorder,
    junit: Junit,
    pytester: pytest.Pytester,
    xdist_args: tuple[str, ...],
    capture: str,
) -> None:
    """Lone surrogates, control characters and bytes that are no UTF-8: in output, log, data, names and last words."""
    pytester.makepyfile(
        """
        import logging
        import os
        import sys

        import pytest
        from programs import lib

        @pytest.mark.faultguard
        @pytest.mark.parametrize("die", [lib.null_write, pytest.fail], ids=["crash", "failure"])
        def test_it(die, faultguard_data, pytestconfig):
            faultguard_data["\\ud800\\x1b[2J"] = "\\udcff\\x00\\x07"
            faultguard_data[b"\\xff"] = b"\\xfe\\x00"
            if die is not pytest.fail:
                # Of a mere failure xdist cannot send it.
                logging.getLogger().warning("log \\ud800 \\x07")
            if pytestconfig.getoption("capture") == "fd":
                print("out \\ud800 \\x07 end")
                print("err \\udcff \\x00 end", file=sys.stderr)
                os.write(1, b"bytes \\xff\\xfe\\x80 end\\n")
                os.write(2, b"Fatal Python error: \\xff \\x07 \\xe2\\x82 end\\n")
            elif die is not pytest.fail:
                # pytest's own capture cannot read these back.
                sys.stdout.buffer.write(b"bytes \\xff\\xfe\\x80 end\\n")
                sys.stdout.flush()
            die()

        def test_after(): pass
        """
    )

    result = run_pytest(f"--capture={capture}", *junit.args, *xdist_args)

    clean = ["setup passed", "call passed", "teardown passed"]
    died = ["setup passed", "call failed", "teardown passed"]
    assert recorder.outcomes() == {"test_it[crash]": died, "test_it[failure]": died, "test_after": clean}
    assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
    report = failed(recorder, "test_it[crash]")
    assert "bytes \ufffd\ufffd\ufffd end\n" in report.section("Captured stdout call")
    assert "log \\ud800 \x07\n" in report.section("Captured log call")
    assert sections(report)[DATA] == "'\\ud800\\x1b[2J' = '\\udcff\\x00\\x07'\nb'\\xff' = b'\\xfe\\x00'"
    assert sections(failed(recorder, "test_it[failure]"))[DATA] == sections(report)[DATA]
    if capture == "fd":
        assert crash_of(report).message == "Fatal Python error: \ufffd \\x07 \ufffd end"
    # Everything that the report holds can be sent and written: valid UTF-8, and legal XML.
    json.dumps(report.crash, ensure_ascii=False).encode("utf-8")
    (case,) = (case for case in junit.cases() if case.name == "test_it[crash]")
    assert case.messages == [report.message]


def test_a_flood_of_output_is_survived(run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester) -> None:
    """Ten megabytes, and the message that explains the death behind them."""
    pytester.makepyfile(
        """
        import sys

        import pytest
        from programs import lib

        @pytest.mark.faultguard
        def test_it():
            for _ in range(100):
                print("x" * 100_000)
            print("last line")
            lib.double_free()
        """
    )

    run_pytest("--show-capture=no")

    report = failed(recorder, "test_it")
    assert crash_of(report).message == WORDS["double_free"].message
    assert report.section("Captured stdout call").endswith("\nlast line\n")
