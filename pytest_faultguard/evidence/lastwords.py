"""What native code said about its own death: the one line of the captured output that explains it.

The C library, C++ runtimes, Rust, Go, sanitizers and other libraries write a line before they end a process. Each kind
has one rule here. A rule matches from the start of a line, since a test may print whatever it likes within one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from typing import final

#: A message stands near the end; sanitizers and Rust write long stacks after theirs.
_TAIL = 64 * 1024
#: No message is longer; it bounds the work on a line that has no end.
_MAX_LINE = 4_000
_MAX_MESSAGE = 300
#: So many characters after a message that tells more, one that tells less is its echo.
_ECHO = 4 * 1024


def _whole(match: re.Match[str]) -> str:
    return match[0]


def _first_group(match: re.Match[str]) -> str:
    return match[1]


def _joined(match: re.Match[str]) -> str:
    """All groups, one after the other: a message that spreads over lines."""
    return ": ".join(part for part in match.groups() if part)


def _rust(match: re.Match[str]) -> str:
    thread, place, message, compared = match.groups()
    values = ", ".join(one.strip() for one in compared.splitlines() if one.strip())
    return f"{thread} {place} {message}" + (f" ({values})" if values else "")


def _assertion(match: re.Match[str]) -> str:
    """The whole line; without the function where the signature of a C++ template would leave no room for the rest."""
    place, _, assertion = match.groups()
    return match[0] if len(match[0]) <= _MAX_MESSAGE else f"{place} {assertion}"


@final
@dataclass(frozen=True, slots=True)
class _Rule:
    """One kind of message."""

    #: Text that stands in the first line of every such message.
    clue: str
    #: Matches from the start of that line.
    pattern: str
    #: The message on one line.
    tell: Callable[[re.Match[str]], str] = _whole
    #: Whether such a message may follow one that tells more, or not be deadly at all.
    weak: bool = False


_HEAP_COMPLAINT = r"(?:invalid|corrupted|unaligned|unsorted|mismatching|too many|memory corruption|double free|smallbin|largebin)\b.*$"
#: faulthandler's headlines: they name the signal, which the crash does already.
_MERE_SIGNAL = r"(?:Segmentation fault|Aborted|Bus error|Illegal instruction|Floating[ -]point exception)\s*$"

_RULES: tuple[_Rule, ...] = (
    # glibc: the heap.
    *(
        _Rule(f"{function}(): ", rf"{function}\(\): {_HEAP_COMPLAINT}")
        for function in (
            "free",
            "malloc",
            "malloc_check_get_size",
            "malloc_consolidate",
            "mremap_chunk",
            "munmap_chunk",
            "realloc",
            "tcache_thread_shutdown",
        )
    ),
    _Rule("double free or corruption", r"double free or corruption(?: \([!a-z]+\))?$"),
    _Rule("corrupted ", r"corrupted (?:size vs\. prev_size|double-linked list)(?: .*| \(.*\))?$"),
    _Rule("break adjusted to free malloc space", r"break adjusted to free malloc space$"),
    # glibc: *** stack smashing detected ***: terminated; before 2.26 with the program's name, and with an address.
    _Rule(" ***: ", r"\*\*\* [^*\n]+ \*\*\*: .*terminated$"),
    _Rule("*** Error in `", r"\*\*\* (Error in `.*': .*) \*\*\*$", _first_group),
    _Rule("Fatal glibc error: ", r"Fatal glibc error: .+"),
    _Rule(": symbol lookup error: ", r"\S+: symbol lookup error: .+"),
    # Other allocators.
    _Rule(" malloc: *** error for object ", r"\S+ malloc: (\*\*\* error for object .+)", _first_group),
    _Rule("Attempt to free invalid pointer", r"\S+:\d+\] (Attempt to free invalid pointer .*)", _first_group),
    # assert() of glibc and libstdc++ (file:line: function: Assertion `x' failed.), of musl, of macOS.
    _Rule("Assertion ", r"(.*?:\d+:) (.*)(Assertion [`'].*['`] failed[.!]?)$", _assertion),
    _Rule("Inconsistency detected by ld.so: ", r"Inconsistency detected by ld\.so: .+"),
    _Rule("Assertion failed: ", r"Assertion failed: .+ \(.+: .+: \d+\)$"),
    _Rule("Assertion failed: ", r"Assertion failed: .+, file .+, line \d+\.?$"),
    # C++ runtimes: libstdc++ and libc++.
    _Rule(
        "terminate called after throwing",
        r"(terminate called after throwing an instance of '.*')(?:\n  (what\(\):  ?.*))?$",
        _joined,
    ),
    _Rule("terminate called ", r"terminate called (?:without an active exception|recursively)$", weak=True),
    _Rule("pure virtual method called", r"pure virtual method called$"),
    _Rule("deleted virtual method called", r"deleted virtual method called$"),
    _Rule("libc++abi", r"libc\+\+abi(?:\.dylib)?: (?:terminating|Pure virtual|Deleted virtual).*"),
    # Python itself.
    _Rule("Fatal Python error: ", rf"Fatal Python error: (?!{_MERE_SIGNAL}).+"),
    # Rust, from 1.73 on over two lines, before on one; a second panic tells only that there was a first.
    _Rule(
        " panicked at ",
        r"(thread '.*?') (?:\(\d+\) )?(panicked at .+:\d+:\d+:)\n"
        r"(?!panic in a )(.*)((?:\n +(?:left|right): .*){0,2})$",
        _rust,
    ),
    _Rule(" panicked at '", r"thread '.*?' panicked at '(?!panic in a ).*"),
    _Rule("memory allocation of ", r"memory allocation of \d+ bytes failed\b.*"),
    _Rule("has overflowed its stack", r"thread '.*?' (?:\(\d+\) )?has overflowed its stack$"),
    _Rule("fatal runtime error: ", r"fatal runtime error: .+", weak=True),
    # Sanitizers. What UndefinedBehaviorSanitizer and ThreadSanitizer say need not be deadly.
    _Rule("Sanitizer: ", r"==\d+== ?(?:ERROR|WARNING): (\w+Sanitizer: .+)", _first_group),
    _Rule("Sanitizer: ", r"(WARNING: ThreadSanitizer: .+)", _first_group, weak=True),
    _Rule("ASan runtime ", r"==\d+== ?(ASan runtime .+)", _first_group),
    _Rule(": runtime error: ", r"\S.*?:\d+(?::\d+)?: runtime error: .+", weak=True),
    # Go; its words are common ones, so that the stack which follows is asked for.
    _Rule("panic: ", r"(panic: .+)(?=(?:\n.*){0,8}\ngoroutine \d+ )", _first_group),
    _Rule("fatal error: ", r"(fatal error: .+)(?=(?:\n.*){0,8}\n(?:goroutine \d+ |runtime stack:))", _first_group),
    # Checks of libraries: glog and abseil, protobuf, Chromium and V8, Qt, GLib, LLVM, CUDA, OpenMP, MKL, Fortran.
    _Rule("] ", r"F\d{4,8} \d\d:\d\d:[\d.]+ +\d+ (\S+:\d+\] .+)", _first_group),
    _Rule("[libprotobuf FATAL ", r"\[libprotobuf FATAL .+?:\d+\] .+"),
    _Rule(":FATAL:", r"\[[^\]\n]*:FATAL:[^\]\n]+\] .+"),
    _Rule("Check failed: ", r"(?:\S+:\d+:? )?Check failed: .+"),
    _Rule("CHECK failed", r"(?:\S+:\d+:? )?CHECK failed: .+"),
    _Rule("# Fatal error in ", r"# (Fatal error in .+, line \d+)\n# (.+)$", _joined),
    _Rule("ASSERT: ", r'ASSERT: ".*" in file .+, line \d+'),
    _Rule("ASSERT failure in ", r'ASSERT failure in .+: ".*", file .+, line \d+'),
    _Rule("QFATAL ", r"QFATAL +: .+"),
    _Rule("no Qt platform plugin", r"This application failed to start because no Qt platform plugin could be .+"),
    _Rule("QThread: Destroyed while thread", r"QThread: Destroyed while thread .*is still running.*"),
    _Rule("ERROR **: ", r"(?:\(.*?:\d+\): |\*\* )?[\w.-]*?-?ERROR \*\*: .+"),
    _Rule("ERROR:", r"(?:\*\* ?|[\w.-]+:)?ERROR:[^:\n]+:\d+:\w+: .+"),
    _Rule("LLVM ERROR: ", r"LLVM ERROR: .+"),
    _Rule("CUDA error", r"CUDA error\b.{0,200}?: .+"),
    _Rule("OMP: Error #", r"OMP: Error #\d+: .+"),
    _Rule("Intel MKL FATAL ERROR: ", r"Intel MKL FATAL ERROR: .+"),
    _Rule("Fortran runtime error: ", r"Fortran runtime error: .+"),
)


class _Found(NamedTuple):
    at: int
    weak: bool
    message: str


def explain(stderr: str, stdout: str = "") -> str:
    """The message that explains the death, on one line of at most 300 printable characters; empty where there is none.

    The last one counts, except that an echo (``terminate called without an active exception``) yields to what came
    before it. Where stderr tells nothing, stdout is read.
    """
    return _explain(stderr) or _explain(stdout)


def _explain(text: str) -> str:
    found = list(_find(_tail(text)))
    strong = max((one for one in found if not one.weak), key=lambda one: one.at, default=None)
    weak = max((one for one in found if one.weak), key=lambda one: one.at, default=None)
    if strong is None or (weak is not None and weak.at > strong.at + _ECHO):
        strong = weak
    return "" if strong is None else _one_line(strong.message)


def _tail(text: str) -> str:
    tail = text[-_TAIL:]
    if len(text) > _TAIL and text[-_TAIL - 1] != "\n":
        # What is left of a line that was cut does not start where the line did.
        tail = tail.partition("\n")[2]
    return "\n".join(line[:_MAX_LINE].rstrip("\r") for line in tail.split("\n"))


def _find(text: str) -> Iterator[_Found]:
    """The last match of each rule."""
    for rule in _RULES:
        end = len(text)
        while (clue := text.rfind(rule.clue, 0, end)) >= 0:
            start = text.rfind("\n", 0, clue) + 1
            # Compiled here, for most sessions need none, and re keeps them.
            if match := re.compile(rule.pattern, re.MULTILINE).match(text, start):
                yield _Found(start, rule.weak, rule.tell(match))
                break
            end = start


def _one_line(message: str) -> str:
    text = re.sub(" {2,}", " ", message).strip()
    text = "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
    return text if len(text) <= _MAX_MESSAGE else f"{text[: _MAX_MESSAGE - 3]}..."
