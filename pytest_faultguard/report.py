"""A crash in pytest's own look: a traceback of the frames that died, and sections with the rest of the evidence.

pytest's ``repr`` classes go through xdist unharmed and have a one-line summary. So they are not built by hand but by
pytest itself, from an exception whose traceback we make: frames with the file, the line and the name that the dump told.
Every ``--tb`` style works so, and every plugin that looks at the exception.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import itertools
import linecache
import operator
import re
import traceback
import types
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from collections.abc import Iterator
from typing import TYPE_CHECKING
from typing import Any
from typing import NamedTuple
from typing import final

import pytest

from pytest_faultguard.crash import RAN_ON
from pytest_faultguard.crash import Crash
from pytest_faultguard.crash import Frame
from pytest_faultguard.crash import Rescued
from pytest_faultguard.crash import ThreadStack
from pytest_faultguard.crash import to_json
from pytest_faultguard.evidence import faultdump
from pytest_faultguard.outcome import CrashError
from pytest_faultguard.outcome import HangError

if TYPE_CHECKING:
    import doctest

#: The attribute of a report that carries the crash, as :func:`pytest_faultguard.crash.to_json` wrote it.
ATTRIBUTE = "faultguard_crash"
DATA_TITLE = "rescued faultguard_data"
LEAKED_TITLE = "leaked processes (killed)"
#: A report travels through pipes and stays in memory until the session's end.
_SECTION_CHARACTERS = 200_000
#: Of the tests that ran before in the same child, those that somebody reads.
_TRAIL_LINES = 20


def blame(node: pytest.Item | pytest.Collector, crash: Crash) -> types.TracebackType:
    """A traceback that ends where the test died; at the test's first line where no stack was to be had."""
    return traceback_of(tuple(_in_its_file(node, frame) for frame in way_to(crash)) or (first_line(node),))


def way_to(crash: Crash) -> tuple[Frame, ...]:
    """The user's frames that lead to where it died, outermost call first; empty where no stack was to be had."""
    # Of a hanging process any thread may have answered: the one that runs the test tells.
    teller = faultdump.told_by(crash.stacks, crashed=not isinstance(crash.ending, RAN_ON))
    frames = _without_repeats(faultdump.user_frames(teller)) if teller else []
    # As Python does: nobody wants to see how an import works.
    way = [one for one in reversed(frames) if not one.file.startswith("<frozen importlib")]
    # Nor how a thread begins, but where that is all.
    return tuple(itertools.dropwhile(lambda one: _OF_THREADS.search(one.file), way)) or tuple(way)


#: What is outermost in each thread that is not the main one.
_OF_THREADS = re.compile(r"[/\\](?:threading|concurrent[/\\]futures[/\\]thread)\.py\Z")
#: What ``doctest`` calls the code of an example.
_EXAMPLE = re.compile(r"<doctest (?P<test>.+)\[(?P<number>\d+)\]>", re.DOTALL)


def _in_its_file(node: pytest.Item | pytest.Collector, frame: Frame) -> Frame:
    """The frame where it stands in the file that the example of a doctest is from; any other frame as it is."""
    match = _EXAMPLE.fullmatch(frame.file)
    # That of pytest's own items for doctests, and of the plugins' that are made of them.
    test: doctest.DocTest | None = getattr(node, "dtest", None)
    if match is None or test is None or test.name != match["test"] or test.filename is None or test.lineno is None:
        return frame
    number = int(match["number"])
    if number >= len(test.examples):
        return frame
    # The first line of a file and that of a docstring have number 0, and that of an example's code 1.
    line = test.lineno + test.examples[number].lineno + (frame.line or 1)
    return dataclasses.replace(frame, file=test.filename, line=line)


def _without_repeats(frames: tuple[Frame, ...]) -> list[Frame]:
    """The frames with each recursion told once: how often it went round stands in the dump's section."""
    kept: list[Frame] = []
    for piece in faultdump.fold(ThreadStack(thread="", current=True, frames=frames), lambda _: False):
        cycle = piece.cycle if isinstance(piece, faultdump.Repeated) else (piece,)
        kept += [one for one in cycle if isinstance(one, Frame)]
    return kept


def traceback_of(frames: tuple[Frame, ...]) -> types.TracebackType:
    """A traceback through these frames, outermost call first."""
    following: types.TracebackType | None = None
    for frame in reversed(frames):
        raised = _frame(frame)
        following = types.TracebackType(following, raised, raised.f_lasti, raised.f_lineno)
    assert following is not None
    return following


@contextlib.contextmanager
def narrowed(shown: types.TracebackType) -> Iterator[None]:
    """While it lasts, of the files of these frames only the outermost statement is read that each frame is in.

    For every report pytest parses these files and walks through their trees, to see where a statement ends: two thirds
    of the time from a crash to the next test, where one of them is that of ``ctypes``. Lines keep their numbers.
    """
    lines: defaultdict[str, set[int]] = defaultdict(set)
    for frame, line in traceback.walk_tb(shown):
        lines[frame.f_code.co_filename].add(line)
    whole: dict[str, Any] = {}
    try:
        for file, numbers in lines.items():
            linecache.checkcache(file)
            part = _only(linecache.getlines(file), numbers)
            entry: Any = linecache.cache.get(file)
            if part and entry:
                whole[file] = entry
                # Without a time of change, which is for what came from no file, nobody looks whether it has changed.
                linecache.cache[file] = (entry[0], None, part, entry[3])
        yield
    finally:
        linecache.cache.update(whole)


def _only(lines: list[str], numbers: set[int]) -> list[str]:
    """The lines, all of them empty but the statements around those with these numbers; none, if one is in no statement.

    What follows a statement, up to the next one, is kept with it.
    """
    starts = _parsed("".join(lines)).starts
    kept = ["\n"] * len(lines)
    for number in numbers:
        following = bisect_right(starts, number)
        if not following:
            return []
        start = starts[following - 1] - 1
        end = starts[following] - 1 if following < len(starts) else len(lines)
        kept[start:end] = lines[start:end]
    return kept


class _FrameWanted(Exception):  # noqa: N818 - never seen by anybody.
    pass


def _frame(frame: Frame) -> types.FrameType:
    """A frame that says it is at this line of this function; nothing of the user's runs in it."""
    line = max(frame.line or 1, 1)
    file = frame.file.replace("\0", "?") or "?"
    first = _definition(frame) or line
    # Without columns, which we do not know, so that nobody draws arrows below them.
    inner: Any = {"lineno": line, "col_offset": -1, "end_lineno": line, "end_col_offset": -1}
    outer: Any = {"lineno": first, "col_offset": -1, "end_lineno": first, "end_col_offset": -1}
    wanted = ast.Raise(exc=ast.Name(id="_FrameWanted", ctx=ast.Load(), **inner), cause=None, **inner)
    arguments = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
    function: Any = ast.FunctionDef(name="f", args=arguments, body=[wanted], decorator_list=[], **outer)
    function.type_params = []
    module = compile(ast.Module(body=[function], type_ignores=[]), file, "exec")
    code = next(one for one in module.co_consts if isinstance(one, types.CodeType))
    name = frame.function or "?"
    try:
        types.FunctionType(code.replace(co_name=name), {"_FrameWanted": _FrameWanted, "__name__": name})()
    except _FrameWanted as error:
        *_, (raised, _) = traceback.walk_tb(error.__traceback__)
        return raised
    raise AssertionError


#: What :class:`pytest.TestReport` is made of, by name.
_ARGUMENTS = (
    "nodeid",
    "location",
    "keywords",
    "outcome",
    "longrepr",
    "when",
    "sections",
    "duration",
    "start",
    "stop",
    "user_properties",
)
arguments_of: Callable[[pytest.TestReport], tuple[Any, ...]] = operator.attrgetter(*_ARGUMENTS)


def made_of(arguments: tuple[Any, ...]) -> pytest.TestReport:
    """The report that had these."""
    return pytest.TestReport(**dict(zip(_ARGUMENTS, arguments, strict=True)))


def survived(item: pytest.Item, expected: str, raised: BaseException | None) -> BaseException:
    """The failure of a test that should have died, as if it were raised at its first line."""
    came = "it passed"
    if raised is not None:
        came = f"it raised {traceback.format_exception_only(raised)[-1].strip()}"
    error: BaseException = pytest.fail.Exception(f"expected {expected} in call, but {came}")
    error.__cause__ = raised
    return error.with_traceback(traceback_of((first_line(item),)))


def first_line(node: pytest.Item | pytest.Collector) -> Frame:
    """Where a test begins, for want of a place in it."""
    if isinstance(node, pytest.Collector):
        return Frame(function="<module>", file=str(node.path), line=1)
    path, line, name = node.reportinfo()
    function = getattr(node, "originalname", None) or node.name or name
    start = (line or 0) + 1
    found = next((one.line for one in _functions(str(path)) if one.name == function and one.starts_at == start), start)
    return Frame(function=function, file=str(path), line=found)


def _definition(frame: Frame) -> int | None:
    """The first line of the function that this frame is in; decorators count, as in ``co_firstlineno``."""
    name = frame.function.rpartition(".")[2]
    around = [
        one
        for one in _functions(frame.file)
        if one.name == name and frame.line and one.starts_at <= frame.line <= one.ends_at
    ]
    return around[-1].starts_at if around else None


class _Function(NamedTuple):
    """Where a function stands in its file."""

    name: str
    starts_at: int
    #: The line of its ``def``, after its decorators.
    line: int
    ends_at: int


class _Outline(NamedTuple):
    """What a source file has where; nothing, if it is no Python."""

    #: Outer ones first.
    functions: tuple[_Function, ...] = ()
    #: The lines where statements begin that are in no other one.
    starts: tuple[int, ...] = ()


def _functions(file: str) -> tuple[_Function, ...]:
    return _parsed("".join(linecache.getlines(file.replace("\0", "?")))).functions


@functools.lru_cache(maxsize=16)
def _parsed(source: str) -> _Outline:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return _Outline()
    functions = tuple(
        _Function(name=node.name, starts_at=_start(node), line=node.lineno, ends_at=node.end_lineno or 0)
        for node in _statements(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    return _Outline(functions, tuple(_start(statement) for statement in tree.body))


def _start(statement: ast.stmt) -> int:
    """Its first line; decorators count."""
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """All statements in a node, without the expressions, which are most of a tree and define no functions by name."""
    for name in ("body", "handlers", "cases", "orelse", "finalbody"):
        for inner in getattr(node, name, ()):
            yield inner
            yield from _statements(inner)


def dress(report: pytest.TestReport | pytest.CollectReport, crash: Crash) -> None:
    """Put a crash into the report that pytest made of its exception."""
    setattr(report, ATTRIBUTE, to_json(crash))
    longrepr = report.longrepr
    summary = getattr(longrepr, "reprcrash", None)
    if summary is not None:
        # With --tb=native there is no chain: Python's own look, but the summary is pytest's.
        summary.message = _without_type(summary.message)
    for entries, location, _ in getattr(longrepr, "chain", ()):
        for entry in entries.reprentries:
            entry.lines[:] = [_without_type(line) for line in _without_other_examples(entry.lines)]
            place = getattr(entry, "reprfileloc", None)
            if place is not None and place.message in _TYPE_NAMES:
                place.message = crash.short_cause
        if location is not None:
            location.message = _without_type(location.message)
    for title, text in sections(crash):
        add_section(report, title, text)


def dress_death(report: pytest.TestReport, crash: Crash) -> None:
    """Put the evidence of a crash into the report of a test that passes by it."""
    for title, text in (("expected death", crash.cause), *sections(crash)):
        add_section(report, title, text)


#: The marked line of an entry, where it is one of an example.
_MARKED_EXAMPLE = re.compile(r"> +(?:>>>|\.\.\.) ")


def _without_other_examples(lines: list[str]) -> list[str]:
    """The lines of an entry; of a docstring, which is one statement, pytest shows all that follows the marked example."""
    marked = next((number for number, line in enumerate(lines) if _MARKED_EXAMPLE.match(line)), len(lines))
    return [line for number, line in enumerate(lines) if number <= marked or line.startswith("E ")]


_TYPE_NAMES = frozenset({CrashError.__name__, HangError.__name__})


def _without_type(line: str) -> str:
    """The line without the type that pytest shows before every message: of a crash, the cause says all."""
    for name in _TYPE_NAMES:
        line = line.replace(f"pytest_faultguard.{name}: ", "", 1)
    return line


def sections(crash: Crash) -> Iterator[tuple[str, str]]:
    """Titles and texts, in the order in which somebody reads them who has to mend the crash."""
    if crash.stacks:
        yield "faulthandler dump", faultdump.render(crash.stacks, faultdump.is_plumbing)
    elif crash.dump:
        yield "faulthandler dump", crash.dump
    if crash.rescued:
        yield DATA_TITLE, data_text(crash.rescued)
    if crash.trail:
        yield "shared child", "\n".join(_whose_fault(crash))
    if crash.leaked:
        # Of a shared child, nobody knows which test it was.
        yield f"{LEAKED_TITLE}{' with the shared child' if crash.trail else ''}", "\n".join(crash.leaked)
    if crash.hint:
        yield "hint", crash.hint
    if crash.gaps:
        yield "gaps in the evidence", "\n".join(crash.gaps)


def _whose_fault(crash: Crash) -> Iterator[str]:
    if crash.alone:
        yield "crashes alone"
        return
    stopped = f" ({crash.stopped_alone})" if crash.stopped_alone else ""
    denied = "" if crash.alone is None else f"does not crash alone{stopped}; "
    yield f"{denied}ran before it in the same child:"
    shown = crash.trail[:_TRAIL_LINES]
    yield from (f"  {nodeid}" for nodeid in shown)
    if len(crash.trail) > len(shown):
        yield f"  ... and {len(crash.trail) - len(shown)} before"
    if crash.needs:
        yield "crashes after:"
        yield from (f"  {nodeid}" for nodeid in crash.needs)
        yield f"  {crash.command}"


def data_text(rescued: tuple[Rescued, ...]) -> str:
    """``faultguard_data`` as lines, each ``key = value``."""
    return "\n".join(f"{one.key} = {one.value}" for one in rescued)


def add_section(report: pytest.TestReport | pytest.CollectReport, title: str, text: str) -> None:
    """Add to what a failed report shows, where ``--show-capture`` does not hide it and junitxml has it too."""
    text = clean(text)
    if len(text) > _SECTION_CHARACTERS:
        left_out = len(text) - _SECTION_CHARACTERS
        text = f"{text[:_SECTION_CHARACTERS]}\n... {left_out} more characters"
    add = getattr(report.longrepr, "addsection", None)
    if add is None:
        report.sections.append((title, text))
    else:
        add(title, text, "-")


def has_section(report: pytest.TestReport, title: str) -> bool:
    """Whether :func:`add_section` has added it."""
    return any(title == one[0] for one in (*report.sections, *getattr(report.longrepr, "sections", ())))


@final
class Shown:
    """What a child's report showed in its own way, as text: not one line of it belongs into the short summary."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text

    def toterminal(self, terminal: Any) -> None:
        """Write it: called by pytest."""
        for line in self._text.splitlines():
            terminal.line(line)


def clean(text: str) -> str:
    """The text without what a terminal, XML or execnet would choke on."""
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text.translate(_ESCAPED)


_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(32), 127) if chr(code) not in "\t\n\r"}
