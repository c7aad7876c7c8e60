"""What faulthandler says about a dead or hanging child: arming it in the child, reading its text in the guard.

The text may be cut at any byte, since the child may die while it is written, and it may stand in the middle of other
output. Nothing here raises over a text, and no frame is ever guessed: a line that is not whole is left out.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib.util
import os
import re
import signal as _signal
import sys
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from typing import final

from pytest_faultguard.crash import Ending
from pytest_faultguard.crash import Exited
from pytest_faultguard.crash import Frame
from pytest_faultguard.crash import OutOfMemory
from pytest_faultguard.crash import Signaled
from pytest_faultguard.crash import Starved
from pytest_faultguard.crash import ThreadStack
from pytest_faultguard.crash import signal_name

#: The signal that asks a child for the stacks of all its threads; 0 where there are no real-time signals.
#: Not SIGUSR1 or SIGUSR2: tests use these. Not SIGRTMAX itself, nor the first ones: libraries count from both ends.
STACKS_SIGNAL: int = _signal.SIGRTMAX - 3 if hasattr(_signal, "SIGRTMAX") else 0

#: The signals that faulthandler dumps at.
DUMPED = frozenset(
    getattr(_signal, name, 0)
    for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")  # Windows has no SIGBUS.
)

_FATAL = "Fatal Python error: "

_SIGNAL_NAMES: Mapping[str, str] = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Illegal instruction": "SIGILL",
    "Floating point exception": "SIGFPE",
    "Floating-point exception": "SIGFPE",
}
_WORDINGS = "|".join(_SIGNAL_NAMES)
_WORDING = re.compile(_WORDINGS)

_START = re.compile(
    rf"^(?:{_FATAL}|Timeout \(|(?:Current thread|Thread) 0x|Stack \(most recent)|{_FATAL}(?:{_WORDINGS})\r?$",
    re.MULTILINE,
)
_TIMEOUT = re.compile(r"Timeout \([0-9]+:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?\)!")
_THREAD = re.compile(
    r"(?P<which>Current thread|Thread) (?P<thread>0x[0-9a-f]+(?: \[.*\])?) \(most recent call first\):"
)
#: A thread's name may hold a newline, which faulthandler writes as it is.
_BROKEN_THREAD = re.compile(r"(?P<which>Current thread|Thread) (?P<thread>0x[0-9a-f]+) \[")
_ONE_STACK = "Stack (most recent call first):"
_NATIVE_STACK = "Current thread's C stack trace (most recent call first):"
#: Greedy, so that a file name may hold quotes and even ``", line 3 in``; a function's name does not.
_FRAME = re.compile(
    r'  File (?:"(?P<file>.*)"|\?\?\?), line (?:(?P<line>[0-9]{1,18})|\?\?\?) in (?P<function>.*)', re.DOTALL
)
#: A run of such lines.
_FRAMES = re.compile(r"(?:^  File [^\n]+, line (?:[0-9]+|\?\?\?) in [^\n]+\n)+", re.MULTILINE)
_EXTENSIONS = re.compile(r"Extension modules: (?P<names>.*?)(?: \(total: [0-9]+\))?")
#: Lines around the stacks that carry nothing which is kept.
_REMARK = re.compile(
    r"Python runtime state: .*|\.\.\.|<freed thread state>|<Cannot show all threads while the GIL is disabled>"
)
_FRAMES_LEFT_OUT = re.compile(r"  \.\.\.|plus [0-9]+ frames|  <.*>")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})|\\u([0-9a-f]{4})|\\U([0-9a-f]{8})")
#: So many lines of other output inside a dump are passed over; more of them end it.
_MAX_STRAYS = 8
#: So many frames of a thread does faulthandler print.
_MAX_FRAMES = 100

_MAX_CYCLE = 10
_MIN_COPIES = 3


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """One dump of faulthandler, read."""

    #: ``Fatal Python error: Segmentation fault``, ``Timeout (0:00:01)!``; empty where the dump has none.
    headline: str
    #: The signal that the headline names.
    signal: int | None
    #: The threads in the order of the dump; ``truncated`` is set also where a line in the midst could not be read.
    stacks: tuple[ThreadStack, ...]
    #: The C stack of the thread that died, as printed, from Python 3.14 on.
    native: tuple[str, ...] = ()
    #: The extension modules that were loaded, without those of Python itself.
    extensions: tuple[str, ...] = ()
    #: The text that follows the dump.
    rest: str = ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Hidden:
    """A run of frames that are not the user's."""

    count: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """A cycle of frames that follows itself ``times`` times."""

    cycle: tuple[Frame | Hidden, ...]
    times: int


Piece: TypeAlias = Frame | Hidden | Repeated


def arm(dump_fd: int, stacks_fd: int) -> None:
    """From now on a fatal signal writes the dump to one descriptor, and STACKS_SIGNAL writes all stacks to the other."""
    faulthandler.enable(file=dump_fd, all_threads=True)
    if STACKS_SIGNAL:
        faulthandler.register(STACKS_SIGNAL, file=stacks_fd, all_threads=True, chain=False)


def parse(text: str) -> Dump:
    """The first dump in the text; without headline and stacks where there is none."""
    for _, end, dump in _scan(text):
        return Dump(
            headline=dump.headline,
            signal=_signal_of(dump.headline),
            stacks=tuple(stack.freeze() for stack in dump.stacks),
            native=tuple(dump.native),
            extensions=dump.extensions,
            rest=text[end:],
        )
    return Dump(headline="", signal=None, stacks=(), rest=text)


def split(text: str) -> tuple[str, ...]:
    """The text of each dump, in order: one child's dumps are appended to each other."""
    return tuple(text[start:end] for start, end, _ in _scan(text))


def find(text: str) -> str:
    """The part of a captured stderr that is a dump: the last fatal one, else the last one; empty where there is none."""
    if "(most recent call first):" not in text and _FATAL not in text:
        return ""
    found = [
        (text[start:end], _signal_of(dump.headline) is not None)
        for start, end, dump in _scan(text)
        if dump.stacks or _signal_of(dump.headline) is not None
    ]
    fatal = [part for part, is_fatal in found if is_fatal]
    return fatal[-1] if fatal else found[-1][0] if found else ""


class _Stack:
    """A thread's stack while it is being read."""

    def __init__(self, thread: str, *, current: bool) -> None:
        self.thread = thread
        self.current = current
        self.frames: list[Frame] = []
        self.is_empty = False
        self.truncated = False

    def freeze(self) -> ThreadStack:
        # faulthandler says so where a thread has no frames; where it did not come to that, they are missing.
        # Python 3.13 and later stop after this many frames without a word (seen).
        missing = self.truncated or not (self.frames or self.is_empty) or len(self.frames) >= _MAX_FRAMES
        return ThreadStack(thread=self.thread, current=self.current, frames=tuple(self.frames), truncated=missing)


class _Reading:
    """A dump while it is being read, line by line."""

    def __init__(self) -> None:
        self.headline = ""
        self.stacks: list[_Stack] = []
        self.native: list[str] = []
        self.extensions: tuple[str, ...] = ()
        self.in_native = False
        self.strays = 0
        self.after_blank = False
        #: A second thread that crashes meanwhile writes its headline, in two steps, into the midst of the first one's
        #: dump (seen on 3.10 to 3.13): so many of these still lack their second half.
        self.wordings_due = 0

    def take(self, line: str, following: Callable[[], str]) -> bool | None:
        """Whether the line is part of this dump; None ends the dump before the line."""
        after_blank, self.after_blank = self.after_blank, not line
        if not line:
            return False
        if frame := _frame(line):
            if not (self.wordings_due and _WORDING.search(frame.function)):
                return self._take_frame(frame)
            self.wordings_due -= 1
        if _is_headline(line):
            return self._take_headline(line, following)
        if line == _NATIVE_STACK:
            self.in_native = True
            return self._accept()
        if line == _ONE_STACK:
            return None if self.stacks else self._open("", current=True)
        header = _THREAD.fullmatch(line)
        if header is None and (self.headline or self.stacks):
            header = _BROKEN_THREAD.match(line)
        if header:
            # Threads of one dump are parted by an empty line; the next dump follows without one.
            if self.stacks and (self.strays or not after_blank):
                return None
            return self._open(header["thread"], current=header["which"] == "Current thread")
        if extensions := _EXTENSIONS.fullmatch(line):
            self.extensions = tuple(name for name in extensions["names"].split(", ") if name)
            return self._accept()
        if self._take_remark(line):
            return self._accept()
        return None if self.extensions else self._stray(line)

    def cut(self, line: str) -> bool:
        """Whether the last line, which has no end, was going to be part of this dump."""
        starts = ("  ", "Thread 0x", "Current thread", "Extension modules: ", "Stack (", "plus ", "<")
        if not line.startswith(starts) and not any(start.startswith(line) for start in starts):
            return False
        if self.stacks and not self.in_native and line.startswith(" "):
            self.stacks[-1].truncated = True
        return True

    def _stray(self, line: str) -> bool | None:
        self.strays += 1
        self.wordings_due = max(0, self.wordings_due + line.count(_FATAL) - len(_WORDING.findall(line)))
        return None if self.strays > _MAX_STRAYS else False

    def _accept(self) -> bool:
        self.strays = 0
        return True

    def _open(self, thread: str, *, current: bool) -> bool:
        self.stacks.append(_Stack(thread, current=current))
        self.in_native = False
        return self._accept()

    def _take_frame(self, frame: Frame) -> bool:
        if not self.stacks or self.in_native:
            return False
        if self.strays:
            self.stacks[-1].truncated = True
        self.stacks[-1].frames.append(frame)
        return self._accept()

    def _take_headline(self, line: str, following: Callable[[], str]) -> bool | None:
        if not self.stacks:
            if self.headline and _clean_headline(line) != self.headline:
                return None
            self.headline = _clean_headline(line)
            if (headlines := line.count(_FATAL)) > 1:
                self.wordings_due = max(0, headlines - len(_WORDING.findall(line)))
            return self._accept()
        return self._stray(line) if _frame(following()) else None

    def _take_remark(self, line: str) -> bool:
        if self.in_native:
            if line.startswith("  "):
                self.native.append(line.strip())
                return True
            return False
        if _REMARK.fullmatch(line):
            return True
        if not self.stacks:
            return False
        if line == "  <no Python frame>":
            self.stacks[-1].is_empty = True
            return True
        if _FRAMES_LEFT_OUT.fullmatch(line):
            self.stacks[-1].truncated = True
            return True
        return line == "  Garbage-collecting"


def _scan(text: str) -> Iterator[tuple[int, int, _Reading]]:
    """The dumps of the text, each with the positions of its start and of its end."""
    at = 0
    while start := _START.search(text, at):
        # A headline may follow other output on its line.
        end, dump = _read(text, start.start())
        if dump.headline or dump.stacks:
            yield start.start(), end, dump
            at = max(end, start.end())
        else:
            at = start.end()


def _read(text: str, start: int) -> tuple[int, _Reading]:
    dump = _Reading()
    at = end = start
    while at < len(text):
        newline = text.find("\n", at)
        if newline < 0:
            if end > start and dump.cut(text[at:]):
                end = len(text)
            break
        taken = dump.take(text[at:newline].removesuffix("\r"), functools.partial(_next_line, text, newline + 1))
        if taken is None or (not taken and end == start):
            break
        at = newline + 1
        if taken:
            end = at
    return end, dump


def _next_line(text: str, at: int) -> str:
    while text.startswith(("\n", "\r\n"), at):
        at = text.index("\n", at) + 1
    newline = text.find("\n", at)
    return text[at:newline] if newline >= 0 else ""


def _frame(line: str) -> Frame | None:
    # A cheap test first: most lines of a captured stderr are something else.
    if not line.startswith("  File "):
        return None
    match = _FRAME.fullmatch(line)
    if match is None or _FATAL in match["function"]:
        return None
    file = match["file"]
    # Python gives line 0 to code that stands on no line.
    number = int(match["line"] or 0) or None
    return Frame(function=_decode(match["function"]), file="???" if file is None else _decode(file), line=number)


def _decode(text: str) -> str:
    """The text before faulthandler escaped it; only what faulthandler would have escaped so is taken for an escape."""
    return _ESCAPED.sub(_decode_one, text) if "\\" in text else text


def _decode_one(match: re.Match[str]) -> str:
    code = int(match[1] or match[2] or match[3], 16)
    return chr(code) if code <= sys.maxunicode and _escape(chr(code)) == match[0] else match[0]


def _escape(character: str) -> str:
    """The character as faulthandler writes it."""
    if " " <= character <= "~":
        return character
    if character <= "\xff":
        return f"\\x{ord(character):02x}"
    return f"\\u{ord(character):04x}" if character <= "\uffff" else f"\\U{ord(character):08x}"


def _is_headline(line: str) -> bool:
    return line.startswith(_FATAL) or _TIMEOUT.fullmatch(line) is not None


def _clean_headline(line: str) -> str:
    if line.count(_FATAL) > 1 and (wording := _WORDING.search(line)):
        return f"{_FATAL}{wording[0]}"
    return line


def _signal_of(headline: str) -> int | None:
    name = _SIGNAL_NAMES.get(headline.removeprefix(_FATAL)) if headline.startswith(_FATAL) else None
    number: int | None = getattr(_signal, name, None) if name else None
    return None if number is None else int(number)


#: Whose frames are not the user's: they run the tests.
_PLUMBING_PACKAGES = ("pytest", "_pytest", "pluggy", "xdist", "execnet", "pytest_faultguard")
#: A dump may come from another machine, whose directories are not known here.
_PLUMBING_FILE = re.compile(
    rf"[/\\](?:site|dist)-packages[/\\](?:{'|'.join(_PLUMBING_PACKAGES)})[/\\]"
    r"|[/\\](?:site|dist)-packages[/\\]pytest_rerunfailures\.py\Z"
    r"|[/\\](?:bin|Scripts)[/\\](?:pytest|py\.test)(?:\.exe[/\\]__main__\.py|-script\.py)?\Z"
    r"|(?:\A|[/\\])runpy\.py\Z|\A<frozen runpy>\Z"
)
#: What execnet calls the code that it brings to the other side; outside of pytest's frames nothing else is of interest.
_EXECNET_FILES = frozenset({"<string>", "<socket server>"})
_PLUGIN_FILE = re.compile(r"[/\\](?:site|dist)-packages[/\\]pytest_\w+(?:\.py\Z|[/\\])")
#: What a test runner of Python itself puts between pytest and the test.
_RUNNER_FILE = re.compile(r"[/\\](?:unittest[/\\](?:case|async_case|suite|mock)|doctest)\.py\Z")


def is_plumbing(frame: Frame) -> bool:
    """Whether the frame is pytest's, xdist's or ours, or the start of the interpreter that runs them."""
    return _is_plumbing_file(frame.file)


@functools.lru_cache(maxsize=4096)
def _is_plumbing_file(file: str) -> bool:
    return file.startswith(_plumbing_directories()) or _PLUMBING_FILE.search(file) is not None


@functools.cache
def _plumbing_directories() -> tuple[str, ...]:
    directories = {str(Path(__file__).parent.parent)}
    for name in _PLUMBING_PACKAGES:
        # Finding a package at the top level does not import it.
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError, AttributeError):
            continue
        if spec is not None and spec.submodule_search_locations is not None:
            directories.update(spec.submodule_search_locations)
    directories |= {os.path.realpath(directory) for directory in directories}
    return tuple(sorted(f"{directory}{os.sep}" for directory in directories))


def user_frames(stack: ThreadStack, plumbing: Callable[[Frame], bool] = is_plumbing) -> tuple[Frame, ...]:
    """The innermost frames up to pytest's: from where the thread is to the test function, most recent first.

    Only what runs inside the most recent entry of pytest counts, so that a fixture which a test asks for by
    ``getfixturevalue`` is told by its own frames. Empty where the thread is inside pytest itself.
    """
    frames: list[Frame] = []
    for frame in stack.frames:
        if plumbing(frame):
            # unittest and doctest stand between pytest and the test.
            while frames and _RUNNER_FILE.search(frames[-1].file):
                frames.pop()
            break
        frames.append(frame)
    return tuple(frames)


def told_by(
    stacks: Sequence[ThreadStack],
    plumbing: Callable[[Frame], bool] = is_plumbing,
    *,
    crashed: bool = True,
) -> ThreadStack | None:
    """The thread whose stack tells the most: the one that took the signal, else the one that runs the test.

    With ``crashed=False`` (stacks of a hang, where any thread may have answered) the one that runs the test comes first.
    """
    testing = [
        stack
        for stack in stacks
        # faulthandler cuts a deep stack at its outer end, where pytest's frames would be.
        if user_frames(stack, plumbing) and (stack.truncated or any(map(plumbing, stack.frames)))
    ]
    current = [stack for stack in stacks if stack.current]
    taking = [stack for stack in current if user_frames(stack, plumbing)]
    # The main thread is the oldest one, and faulthandler prints the youngest first.
    ranks = (taking, testing[::-1], current) if crashed else (testing[::-1], taking, current)
    return next((stack for rank in ranks for stack in rank), None)


def missing_stack(ending: Ending, dump: str) -> tuple[str, ...]:
    """The gap where a child that ended so has left no text of faulthandler, and why it has not."""
    if dump:
        return ()
    match ending:
        case Signaled(signal=number) | Starved(signal=number) if number in DUMPED:
            return ("stack: faulthandler wrote nothing: the test disabled it, or sent its text elsewhere",)
        case OutOfMemory():
            return ("stack: SIGKILL ends a process without a dump",)
        case Signaled(signal=number) | Starved(signal=number):
            return (f"stack: {signal_name(number)} ends a process without a dump",)
        case Exited():
            return ("stack: the process exited by itself, so no line is marked",)
        case _:
            return ()


def missing_line(dump: Dump, plumbing: Callable[[Frame], bool] = is_plumbing) -> tuple[str, ...]:
    """The gap where a deadly signal was taken by a thread of native code: whatever line is marked is not its own."""
    if dump.signal is None or any(stack.current and (stack.frames or stack.truncated) for stack in dump.stacks):
        return ()
    # A dump may be cut, and has at most a hundred threads. The one that runs pytest is printed last, as the oldest one:
    # where it is there, none is missing.
    oldest = dump.stacks[-1].frames if dump.stacks else ()
    if len(oldest) < _MAX_FRAMES and not any(map(plumbing, oldest)):
        return ()
    teller = told_by(dump.stacks, plumbing)
    is_marked = teller is not None and teller.frames
    marked = "; the marked line is where the main thread was" if is_marked else ", and marked no line"
    return (f"stack: a thread without Python frames crashed{marked}",)


def fold(stack: ThreadStack, plumbing: Callable[[Frame], bool] = is_plumbing) -> tuple[Piece, ...]:
    """The frames with each run of plumbing counted, and each recursion of 1 to 10 frames shown once."""
    return _fold_cycles(_hide(stack, plumbing))


def render(stacks: Sequence[ThreadStack], plumbing: Callable[[Frame], bool] = is_plumbing) -> str:
    """The folded stacks as text in the manner of faulthandler; printable, without a newline at the end."""
    return "\n\n".join(_render_one(stack, plumbing) for stack in stacks)


def folded(text: str) -> str:
    """A captured output with its runs of faulthandler's lines folded: what Python itself writes when it gives up, too."""
    return _FRAMES.sub(_fold_lines, text) if "(most recent call first):" in text else text


def _fold_lines(match: re.Match[str]) -> str:
    frames = tuple(frame for line in match[0].splitlines() if (frame := _frame(line)))
    if len(frames) < match[0].count("\n"):
        return match[0]  # Not all of it can be read.
    stack = ThreadStack(thread="", current=False, frames=frames)
    return "".join(f"{line}\n" for line in _render_pieces(fold(stack)))


def _hide(stack: ThreadStack, plumbing: Callable[[Frame], bool]) -> list[Frame | Hidden]:
    hidden = [plumbing(frame) for frame in stack.frames]
    # execnet starts its interpreters by ``python -c`` and ``exec``, which are no files of its own.
    outermost = len(hidden)
    while outermost and (hidden[outermost - 1] or stack.frames[outermost - 1].file in _EXECNET_FILES):
        outermost -= 1
    if True in hidden[outermost:]:
        first = hidden.index(True, outermost)
        hidden[first:] = [True] * (len(hidden) - first)
    # What a plugin does around a phase; but who has called a plugin, or dies in it, wants to see it.
    first = hidden.index(True) if True in hidden else len(hidden)
    for at in range(len(hidden) - 2, first, -1):
        hidden[at] = hidden[at] or (hidden[at + 1] and _PLUGIN_FILE.search(stack.frames[at].file) is not None)
    pieces: list[Frame | Hidden] = []
    run = 0
    for frame, is_hidden in zip(stack.frames, hidden, strict=True):
        if is_hidden:
            run += 1
            continue
        if run:
            pieces.append(Hidden(count=run))
            run = 0
        pieces.append(frame)
    if run:
        pieces.append(Hidden(count=run))
    return pieces


def _fold_cycles(pieces: Sequence[Frame | Hidden]) -> tuple[Piece, ...]:
    folded: list[Piece] = []
    at = 0
    while at < len(pieces):
        length, times = max(
            ((length, _copies(pieces, at, length)) for length in range(1, _MAX_CYCLE + 1)),
            # Among cycles that reach equally far the shortest is the true one.
            key=lambda cycle: (cycle[0] * cycle[1] if cycle[1] >= _MIN_COPIES else 0, -cycle[0]),
        )
        if times >= _MIN_COPIES:
            folded.append(Repeated(cycle=tuple(pieces[at : at + length]), times=times))
            at += length * times
        else:
            folded.append(pieces[at])
            at += 1
    return tuple(folded)


def _copies(pieces: Sequence[Frame | Hidden], at: int, length: int) -> int:
    """How often the pieces from there on repeat with this period."""
    same = at + length
    while same < len(pieces) and pieces[same] == pieces[same - length]:
        same += 1
    return (same - at) // length


def _render_one(stack: ThreadStack, plumbing: Callable[[Frame], bool]) -> str:
    which = "Current thread" if stack.current else "Thread"
    lines = [f"{which} {_printable(stack.thread)} (most recent call first):" if stack.thread else _ONE_STACK]
    lines += _render_pieces(fold(stack, plumbing))
    if stack.truncated:
        lines.append("  ... frames are missing ...")
    elif not stack.frames:
        lines.append("  <no Python frame>")
    return "\n".join(lines)


def _render_pieces(pieces: Sequence[Piece]) -> Iterator[str]:
    for piece in pieces:
        match piece:
            case Repeated(cycle=cycle, times=times):
                yield from map(_render_piece, cycle)
                what = "frame above" if len(cycle) == 1 else f"{len(cycle)} frames above"
                yield f"  ... the {what} {times - 1} more times ..."
            case _:
                yield _render_piece(piece)


def _render_piece(piece: Frame | Hidden) -> str:
    match piece:
        case Hidden(count=count):
            return f"  ... {count} {'frame' if count == 1 else 'frames'} of pytest and its plugins ..."
        case Frame(function=function, file=file, line=line):
            return f'  File "{_printable(file)}", line {"???" if line is None else line} in {_printable(function)}'


def _printable(text: str) -> str:
    """The text with control characters, line separators and lone surrogates escaped."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
