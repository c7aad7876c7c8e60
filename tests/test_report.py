"""A crash in pytest's look: tracebacks from what a dump told, and the sections."""

from __future__ import annotations

import ast
import linecache
import shlex
import textwrap
import traceback
from pathlib import Path
from typing import Literal

import pytest

from pytest_faultguard import report
from pytest_faultguard.crash import Crash
from pytest_faultguard.crash import Frame
from pytest_faultguard.crash import Rescued
from pytest_faultguard.crash import Signaled
from pytest_faultguard.crash import ThreadStack
from pytest_faultguard.crash import from_json
from pytest_faultguard.outcome import error_for

SOURCE = """\
import ctypes


def deco(function):
    return function


class Thing:
    @deco
    @deco
    def method(self):
        if self:
            lower(1)


def lower(n):
    ctypes.string_at(0)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "victim.py"
    path.write_text(SOURCE)
    return path


def frames(source: Path) -> tuple[Frame, ...]:
    return (
        Frame(function="method", file=str(source), line=13),
        Frame(function="lower", file=str(source), line=17),
    )


def test_a_traceback_is_made_of_what_the_dump_told(source: Path) -> None:
    """File, line and name, outermost call first; Python's own traceback module prints it like a real one."""
    made = report.traceback_of(frames(source))

    told = [(one.name, one.lineno, one.line) for one in traceback.extract_tb(made)]
    assert told == [("method", 13, "lower(1)"), ("lower", 17, "ctypes.string_at(0)")]


def test_a_frame_begins_at_its_functions_first_decorator(source: Path) -> None:
    """As ``co_firstlineno`` does: pytest shows the source from there, and cuts tracebacks by it."""
    made = report.traceback_of(frames(source))

    assert made.tb_frame.f_code.co_firstlineno == 9
    assert made.tb_next is not None
    assert made.tb_next.tb_frame.f_code.co_firstlineno == 16


@pytest.mark.parametrize(
    "frame",
    [
        Frame(function="<module>", file="<string>", line=1),
        Frame(function="<lambda>", file="/nowhere/x.py", line=None),
        Frame(function="", file="", line=0),
        Frame(function="Class.method.<locals>.inner", file=__file__, line=10**9),
        Frame(function="é\n\x00", file="a\x00b", line=3),
    ],
)
def test_odd_frames_make_a_traceback_too(frame: Frame) -> None:
    """A dump may name anything."""
    made = report.traceback_of((frame,))

    assert made.tb_lineno == max(frame.line or 1, 1)
    assert made.tb_frame.f_code.co_name == (frame.function or "?")


def a_crash(source: Path) -> Crash:
    return Crash(
        label="victim.py::test",
        phase="call",
        ending=Signaled(signal=11),
        duration=0.5,
        stacks=(ThreadStack(thread="0x1", current=True, frames=tuple(reversed(frames(source)))),),
        dump="Fatal Python error: Segmentation fault",
        rescued=(Rescued(key="'k'", value="1"), Rescued(key="'m'", value="\x1b[2J\udcff")),
        leaked=("7 sleep 600",),
        gaps=("output: none",),
    )


def a_report(crash: Crash) -> pytest.TestReport:
    error = error_for(crash).with_traceback(report.traceback_of(tuple(reversed(crash.stacks[0].frames))))
    longrepr = pytest.ExceptionInfo.from_exception(error).getrepr(style="long")
    return pytest.TestReport(
        nodeid=crash.label,
        location=("victim.py", 0, "test"),
        keywords={},
        outcome="failed",
        longrepr=longrepr,
        when="call",
    )


@pytest.mark.parametrize("style", ["long", "native"])
def test_pytest_shows_the_same_of_narrowed_files(style: Literal["long", "native"]) -> None:
    """At every line of every function of real modules: what pytest need not parse is nothing that it shows."""
    lines = 0
    for module in (textwrap, shlex):
        assert module.__file__
        path = Path(module.__file__)
        whole = path.read_text()
        functions = [node for node in ast.walk(ast.parse(whole)) if isinstance(node, ast.FunctionDef)]
        for function in functions:
            assert function.end_lineno
            for line in range(function.lineno, function.end_lineno + 1):
                made = report.traceback_of((Frame(function=function.name, file=str(path), line=line),))
                excinfo = pytest.ExceptionInfo.from_exception(ZeroDivisionError().with_traceback(made))
                plain = str(excinfo.getrepr(style=style))
                with report.narrowed(made):
                    seen = linecache.getlines(str(path))
                    assert str(excinfo.getrepr(style=style)) == plain
                assert len(seen) == whole.count("\n")
                assert "".join(seen).strip()
                assert "".join(linecache.getlines(str(path))) == whole
                lines += 1
    assert lines > 250


def test_a_frame_in_no_statement_narrows_nothing(source: Path) -> None:
    """What a dump tells may not fit the file, which may have changed or be no Python."""
    source.write_text("\n\n" + SOURCE)
    linecache.checkcache(str(source))
    with report.narrowed(report.traceback_of((Frame(function="lower", file=str(source), line=1),))):
        assert linecache.getlines(str(source)) == source.read_text().splitlines(keepends=True)
    with report.narrowed(report.traceback_of((Frame(function="nowhere", file="/does/not/exist.py", line=3),))):
        assert not linecache.getlines("/does/not/exist.py")
    source.write_text("this is no Python\n")
    with report.narrowed(report.traceback_of(frames(source))):
        assert linecache.getlines(str(source)) == ["this is no Python\n"]


def test_a_dressed_report_shows_the_cause_and_the_evidence(source: Path) -> None:
    """The cause stands at the line that died; the evidence follows in its order."""
    dressed = a_report(a_crash(source))
    report.dress(dressed, a_crash(source))

    text = dressed.longreprtext
    assert ">       ctypes.string_at(0)\nE       SIGSEGV (segmentation fault) in call after 0.50 s\n" in text
    assert "victim.py:17: SIGSEGV\n" in text
    assert "CrashError" not in text
    titles = [line.strip(" -") for line in text.splitlines() if line.startswith("-----")]
    assert titles == [
        "faulthandler dump",
        "rescued faultguard_data",
        "leaked processes (killed)",
        "gaps in the evidence",
    ]
    assert "'m' = \\x1b[2J\\udcff" in text


def test_a_dressed_report_carries_the_crash_through_serialization(source: Path) -> None:
    """As data, on a report of pytest's own class, with a longrepr of pytest's own class."""
    dressed = a_report(a_crash(source))
    report.dress(dressed, a_crash(source))

    again = pytest.TestReport._from_json(dressed._to_json())

    assert type(again.longrepr) is type(dressed.longrepr)
    assert again.longreprtext == dressed.longreprtext
    assert from_json(getattr(again, report.ATTRIBUTE)).ending == Signaled(signal=11)


def test_a_section_is_bounded() -> None:
    """A report stays in memory until the session's end."""
    plain = pytest.TestReport("x.py::t", ("x.py", 0, "t"), {}, "failed", "text", "call")

    report.add_section(plain, "huge", "x" * 10_000_000)

    ((_, text),) = plain.sections
    assert len(text) < 300_000
    assert text.endswith("... 9800000 more characters")
