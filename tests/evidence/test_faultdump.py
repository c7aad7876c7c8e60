from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import strategies as st

import pytest_faultguard
from pytest_faultguard.crash import Frame
from pytest_faultguard.crash import ThreadStack
from pytest_faultguard.evidence import faultdump
from pytest_faultguard.evidence.faultdump import Hidden
from pytest_faultguard.evidence.faultdump import Repeated

DATA = Path(__file__).parent.parent / "data" / "faultdumps"
SAMPLES = {path.stem: path.read_text() for path in sorted(DATA.glob("*.txt"))}
VERSIONS = ("cp310", "cp311", "cp312", "cp313")
PACKAGE = next(iter(pytest_faultguard.__path__))

samples = pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in SAMPLES.items()])
versions = pytest.mark.parametrize("version", VERSIONS)


def frame(function: str, line: int | None = 1, file: str = "/srv/app/test_a.py") -> Frame:
    return Frame(function=function, file=file, line=line)


def pytest_frame(function: str = "pytest_pyfunc_call", line: int = 1) -> Frame:
    return Frame(function=function, file="/venv/lib/python3.13/site-packages/_pytest/python.py", line=line)


def stack(*frames: Frame, thread: str = "0x1", current: bool = True, truncated: bool = False) -> ThreadStack:
    return ThreadStack(thread=thread, current=current, frames=frames, truncated=truncated)


def functions(found: ThreadStack) -> list[str]:
    return [one.function for one in found.frames]


# Real dumps, made by each Python.


@versions
def test_a_segfault_with_threads_is_read(version: str) -> None:
    """Headline, signal, all threads in their order and every frame of the one that crashed."""
    dump = faultdump.parse(SAMPLES[f"{version}-segv"])

    assert (dump.headline, dump.signal) == ("Fatal Python error: Segmentation fault", signal.SIGSEGV)
    assert [one.current for one in dump.stacks] == [False, False, True]
    assert functions(dump.stacks[2]) == ["string_at", "inner", "café", "<module>"]
    assert dump.stacks[2].frames[1:] == (
        frame("inner", 7, "/tmp/fd/suite/segv.py"),
        frame("café", 9, "/tmp/fd/suite/segv.py"),
        frame("<module>", 12, "/tmp/fd/suite/segv.py"),
    )
    assert not any(one.truncated for one in dump.stacks)
    assert dump.rest == ""


@versions
def test_an_abort_is_read(version: str) -> None:
    """The signal of the headline is SIGABRT."""
    dump = faultdump.parse(SAMPLES[f"{version}-abort"])

    assert dump.signal == signal.SIGABRT
    assert [functions(one) for one in dump.stacks] == [["<lambda>", "test", "<module>"]]


@pytest.mark.parametrize("version", ["cp310", "cp313"])
def test_a_deep_stack_is_known_to_be_cut(version: str) -> None:
    """Up to 3.12 three dots say so, later Pythons stop in silence."""
    (found,) = faultdump.parse(SAMPLES[f"{version}-recursion"]).stacks

    assert len(found.frames) == 100
    assert found.truncated


@versions
def test_a_timeout_is_read(version: str) -> None:
    """It has a headline and no signal, and no thread is the current one."""
    dump = faultdump.parse(SAMPLES[f"{version}-timeout"])

    assert (dump.headline, dump.signal) == ("Timeout (0:00:00.200000)!", None)
    assert functions(dump.stacks[1]) == ["hang", "<module>"]
    assert not any(one.current for one in dump.stacks)


@versions
def test_periodic_stacks_are_split(version: str) -> None:
    """Dumps that one child appended to each other are told apart, and nothing of them is lost."""
    text = SAMPLES[f"{version}-periodic"]

    parts = faultdump.split(text)

    assert "".join(parts) == text
    assert [functions(faultdump.parse(part).stacks[-1])[0] for part in parts] == ["first", "second", "first"]
    assert faultdump.parse(text).stacks == faultdump.parse(parts[0]).stacks
    assert faultdump.parse(text).rest == parts[1] + parts[2]


@versions
def test_stacks_of_one_thread_only_are_split_too(version: str) -> None:
    """``Stack (most recent call first)`` begins a dump each time."""
    parts = faultdump.split(SAMPLES[f"{version}-one-thread"])

    assert [faultdump.parse(part).stacks[0].frames[1].line for part in parts] == [7, 8]
    assert faultdump.parse(parts[0]).stacks[0].thread == ""
    assert faultdump.parse(parts[0]).stacks[0].current


@versions
def test_no_thread_is_current_where_a_native_one_crashed(version: str) -> None:
    """Python knows nothing of that thread."""
    dump = faultdump.parse(SAMPLES[f"{version}-native-thread"])

    assert dump.signal == signal.SIGABRT
    assert [one.current for one in dump.stacks] == [False]


@versions
def test_the_garbage_collector_s_remark_is_no_frame(version: str) -> None:
    """It stands between the thread and its frames."""
    (found,) = faultdump.parse(SAMPLES[f"{version}-collecting"]).stacks

    assert functions(found) == ["string_at", "__del__", "collect", "<module>"]


@versions
def test_another_fatal_error_has_a_headline_and_no_signal(version: str) -> None:
    """The line about the runtime's state between headline and stacks is passed over."""
    dump = faultdump.parse(SAMPLES[f"{version}-fatal"])

    assert (dump.headline, dump.signal) == ("Fatal Python error: the heap is on fire", None)
    assert functions(dump.stacks[0]) == ["call", "<module>"]


@versions
def test_odd_file_names_come_back_as_they_were(version: str) -> None:
    """Quotes, newlines, other planes, and text that looks like the rest of the line."""
    name = 'we "ird", line 7 in x\n\t\xe9\u20ac\U0001f600 (most recent call first):.py'

    (found,) = faultdump.parse(SAMPLES[f"{version}-odd-names"]).stacks

    assert found.frames[1:3] == (frame("f", 2, name), frame("<module>", 4, name))


@versions
def test_long_names_stay_cut_as_printed(version: str) -> None:
    """CPython writes 500 characters and three dots."""
    (found,) = faultdump.parse(SAMPLES[f"{version}-long-names"]).stacks

    assert found.frames[1] == frame("f" * 500 + "...", 2, "d/" * 250 + "...")


@versions
def test_extension_modules_are_read(version: str) -> None:
    """The line after the stacks belongs to the dump."""
    dump = faultdump.parse(SAMPLES[f"{version}-extensions"])

    assert dump.extensions[:2] == ("numpy._core._multiarray_umath", "numpy.linalg._umath_linalg")
    assert len(dump.extensions) == 11


@pytest.mark.parametrize(
    ("name", "threads"), [("cp310-race", [8, 2]), ("cp311-race", [1]), ("cp313-race", [8, 2])], ids=str
)
def test_threads_that_crash_together_are_read(name: str, threads: list[int]) -> None:
    """Their headlines stand in the midst of each other; no line of that mixture becomes a frame."""
    dump = faultdump.parse(SAMPLES[name])

    assert (dump.headline, dump.signal) == ("Fatal Python error: Segmentation fault", signal.SIGSEGV)
    assert [len(one.frames) for one in dump.stacks] == threads
    assert dump.stacks[-1].truncated
    assert not any("Fatal" in one.file + one.function for found in dump.stacks for one in found.frames)


def test_no_half_of_a_second_headline_becomes_part_of_a_name() -> None:
    """Its words may stand on another line than its beginning; a function may well be named like a signal."""
    head = "Fatal Python error: Segmentation fault\n\nThread 0x1 (most recent call first):\n"
    first, last = '  File "a", line 1 in Aborted\n', '  File "b", line 3 in g\n'
    broken = '  File "a", line 2Fatal Python error:  in f\n  File "b", line 1 in waitSegmentation fault\n\n\n'

    (found,) = faultdump.parse(head + first + broken + last).stacks

    assert functions(found) == ["Aborted", "g"]
    assert found.truncated


# The format of 3.14, written by hand.


def test_thread_names_and_the_c_stack_are_read() -> None:
    """Python 3.14 prints both, and says where a frame is invalid."""
    dump = faultdump.parse(SAMPLES["cp314-segv"])

    assert [one.thread for one in dump.stacks] == [
        "0x00007f85f18246c0 [pool_0]",
        "0x00007f85f2c7cb80 [python3 (a) [b]]",
    ]
    assert dump.stacks[1].frames[1:] == (
        frame("test_café", 12, "/srv/app/test_café.py"),
        frame("main", None, "/srv/app/run.py"),
    )
    assert dump.stacks[1].truncated
    assert dump.native[0] == 'Binary file "/usr/bin/python3.14", at _Py_DumpStack+0x42 [0x5b27f7d7147e]'
    assert dump.native[-1] == "<truncated rest of calls>"
    assert dump.extensions == ("numpy._core._multiarray_umath", "app._native")


def test_a_free_threaded_dump_is_read() -> None:
    """It shows one thread, without its identity."""
    dump = faultdump.parse(SAMPLES["cp314t-abort"])

    assert dump.signal == signal.SIGABRT
    assert dump.stacks == (
        stack(frame("call", 590, "/srv/app/native.py"), frame("test_native", 9, "/srv/app/test_native.py"), thread=""),
    )
    assert dump.native == ("<cannot get C stack on this system>",)


def test_what_a_thread_does_not_show_is_told() -> None:
    """A thread without frames is whole; a freed one and one with more frames than are shown are not."""
    parts = faultdump.split(SAMPLES["cp314-signal"])

    assert [(len(one.frames), one.truncated) for one in faultdump.parse(parts[0]).stacks] == [
        (0, False),
        (0, True),
        (1, True),
    ]
    assert len(parts) == 2


@pytest.mark.parametrize(
    ("wording", "number"),
    [
        ("Segmentation fault", signal.SIGSEGV),
        ("Aborted", signal.SIGABRT),
        ("Bus error", signal.SIGBUS),
        ("Illegal instruction", signal.SIGILL),
        ("Floating point exception", signal.SIGFPE),
        ("Floating-point exception", signal.SIGFPE),
        ("none_dealloc: deallocating None", None),
    ],
)
def test_the_headline_names_the_signal(wording: str, number: int | None) -> None:
    """In the words of every CPython."""
    dump = faultdump.parse(f"Fatal Python error: {wording}\n\n")

    assert dump.headline == f"Fatal Python error: {wording}"
    assert dump.signal == number


# Text that is cut, mixed or foreign.


@samples
def test_a_text_cut_anywhere_gives_a_prefix(text: str) -> None:
    """No byte at which a dump ends makes up a frame, a thread or a signal."""
    whole = faultdump.parse(text)

    for end in range(len(text)):
        dump = faultdump.parse(text[:end])

        assert dump.headline in ("", whole.headline) or whole.headline == ""
        assert dump.signal in (None, whole.signal)
        assert len(dump.stacks) <= len(whole.stacks)
        assert dump.stacks[:-1] == whole.stacks[: max(0, len(dump.stacks) - 1)]
        for got, full in zip(dump.stacks, whole.stacks, strict=False):
            assert (got.thread, got.current) == (full.thread, full.current)
            assert got.frames == full.frames[: len(got.frames)]


@samples
def test_a_text_whose_start_is_cut_makes_up_no_frame(text: str) -> None:
    """Whatever is found in the end of a text is in the text."""
    known = {one for part in faultdump.split(text) for found in faultdump.parse(part).stacks for one in found.frames}

    for start in range(0, len(text), 7):
        for part in faultdump.split(text[start:]):
            assert known.issuperset(one for found in faultdump.parse(part).stacks for one in found.frames)


@samples
def test_a_dump_is_found_in_a_captured_stderr(text: str) -> None:
    """Text before and after it is left out."""
    last = faultdump.split(text)[-1]
    last = last[: last.rindex("\n") + 1]

    assert faultdump.find(f"warming up\nThread 7 started\n{last}Killed\nbye\n") == last
    assert faultdump.parse(f"warming up\n{text}").stacks == faultdump.parse(text).stacks


def test_a_dump_is_found_after_a_line_without_end() -> None:
    """A progress line does not hide the headline."""
    text = SAMPLES["cp313-segv"]

    assert faultdump.find(f"loading ... {text}") == text


def test_the_fatal_dump_is_the_one_that_is_found() -> None:
    """Stacks of a slow moment, before or after it, tell nothing of the death."""
    slow, fatal = SAMPLES["cp313-timeout"], SAMPLES["cp313-segv"]

    assert faultdump.find(f"{slow}{fatal}\n{slow}") == fatal
    assert faultdump.split(f"{slow}{fatal}\n{slow}") == (slow, fatal, slow)
    assert faultdump.find(f"{slow}x\n{slow}") == slow


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello\n",
        'Traceback (most recent call last):\n  File "x.py", line 3, in f\n    g()\nValueError: no\n',
        "Thread 0x12 started\nTimeout (soon)!\n",
        "Fatal Python error: cut he",
        "Fatal Python error: init_fs_encoding: failed\n",
    ],
)
def test_innocent_output_is_no_dump(text: str) -> None:
    """An ordinary traceback is not taken for a stack of faulthandler's."""
    assert faultdump.find(text) == ""
    assert faultdump.parse(text).stacks == ()


def test_output_of_another_thread_inside_a_dump_is_passed_over() -> None:
    """The lines around it still count, and the stack is said to be incomplete."""
    text = 'Current thread 0x1 (most recent call first):\n  File "a", line 1 in f\nhello\n  File "b", line 2 in g\n'

    (found,) = faultdump.parse(text).stacks

    assert found == stack(frame("f", 1, "a"), frame("g", 2, "b"), truncated=True)


def test_a_thread_s_name_may_hold_a_newline() -> None:
    """Its frames are not given to the thread before it."""
    text = 'Thread 0x1 [a] (most recent call first):\n  File "a", line 1 in f\n\nThread 0x2 [b\nc] (most recent call first):\n  File "b", line 2 in g\n'

    first, second = faultdump.parse(text).stacks

    assert (first.frames, second.frames) == ((frame("f", 1, "a"),), (frame("g", 2, "b"),))
    assert second.thread == "0x2"


def test_a_thread_may_be_there_twice() -> None:
    """Two thread states of one thread have the same identity."""
    one = 'Thread 0x1 (most recent call first):\n  File "a", line 1 in f\n'

    assert len(faultdump.parse(f"{one}\n{one}").stacks) == 2
    assert len(faultdump.split(f"{one}{one}")) == 2


def test_an_end_of_line_of_a_terminal_is_one() -> None:
    """A captured pseudo-terminal writes two characters."""
    text = SAMPLES["cp313-segv"]

    assert faultdump.parse(text.replace("\n", "\r\n")).stacks == faultdump.parse(text).stacks


def test_a_huge_text_takes_linear_time() -> None:
    """Ten megabytes with many beginnings of dumps are no work."""
    lines = ["Fatal Python error: x\n", "Thread 0x12\n", "\n", '  File "x', '", line 3 in ', "\n", "x" * 50]
    texts = [
        "".join(lines) * 80_000,
        "Thread 0x1 (most recent call first):\n" * 200_000,
        "Fatal Python error: \n" * 400_000,
    ]

    for text in texts:
        begin = time.process_time()
        faultdump.find(text)
        assert time.process_time() - begin < 5


TOKENS = st.sampled_from([
    "Fatal Python error: ", "Segmentation fault", "\n", "\n\n", "Current thread 0x1", " (most recent call first):\n",
    "Thread 0xab [n]", "Stack (most recent call first):\n", '  File "', '", line ', "12", " in ", "f", "???", "  ...\n",
    "  <no Python frame>\n", "  <", ">\n", "Extension modules: a, b", " (total: 2)\n", "\\xe9", "\\x41", "\\U00110000",
    "Current thread's C stack trace (most recent call first):\n", '  Binary file "x"\n', "\r\n", "\udc80", "9" * 5000,
])  # fmt: skip


@given(st.one_of(st.text(), st.lists(TOKENS, max_size=60).map("".join)))
@example("Fatal Python error: " * 3)
def test_no_text_raises(text: str) -> None:
    """Whatever a child wrote is read, and what is said to be in the text is in it."""
    dump = faultdump.parse(text)
    parts = faultdump.split(text)

    assert faultdump.find(text) in ("", *parts)
    assert all(part in text for part in parts)
    assert text.endswith(dump.rest)
    faultdump.render(dump.stacks).encode("utf-8")


NAMES = st.text(st.characters(exclude_characters="\\"), min_size=1, max_size=60)
FUNCTIONS = NAMES.filter(lambda name: '", line ' not in name)
FRAMES = st.builds(Frame, function=FUNCTIONS, file=NAMES, line=st.none() | st.integers(1, 2**31))
STACKS = st.builds(
    ThreadStack,
    thread=st.integers(1, 2**64 - 1).map(lambda number: f"0x{number:016x}"),
    current=st.booleans(),
    frames=st.lists(FRAMES, max_size=8).map(tuple),
    truncated=st.just(False),
)


def as_printed(text: str) -> str:
    """The text in the manner of CPython's ``_Py_DumpASCII``."""
    return "".join(
        one if 32 <= ord(one) <= 126
        else f"\\x{ord(one):02x}" if ord(one) <= 0xFF
        else f"\\u{ord(one):04x}" if ord(one) <= 0xFFFF
        else f"\\U{ord(one):08x}"
        for one in text
    )  # fmt: skip


def dumped(stacks: list[ThreadStack]) -> str:
    """The stacks as CPython's ``_Py_DumpTracebackThreads`` writes them."""

    def lines(one: ThreadStack) -> Iterator[str]:
        yield f"{'Current thread' if one.current else 'Thread'} {one.thread} (most recent call first):\n"
        if not one.frames:
            yield "  <no Python frame>\n"
        for each in one.frames:
            line = "???" if each.line is None else each.line
            yield f'  File "{as_printed(each.file)}", line {line} in {as_printed(each.function)}\n'

    return "\n".join("".join(lines(one)) for one in stacks)


@given(st.lists(STACKS, min_size=1, max_size=4), st.sampled_from(["", "Fatal Python error: Bus error\n\n"]))
def test_what_faulthandler_prints_is_what_is_read(stacks: list[ThreadStack], headline: str) -> None:
    """Any frames of any threads survive the way through the text."""
    assert faultdump.parse(headline + dumped(stacks)).stacks == tuple(stacks)


# What is shown, and of whom.


@pytest.mark.parametrize(
    "file",
    [
        pytest.__file__,
        f"{PACKAGE}/process/child.py",
        f"{PACKAGE}/evidence/journal.py",
        "/elsewhere/lib/python3.12/site-packages/_pytest/runner.py",
        "/usr/lib/python3/dist-packages/pluggy/_callers.py",
        "/venv/bin/pytest",
        "/venv/bin/py.test",
        "/usr/lib/python3.12/runpy.py",
        "<frozen runpy>",
    ],
)
def test_frames_of_pytest_and_ours_are_plumbing(file: str) -> None:
    """Also where the dump comes from another machine."""
    assert faultdump.is_plumbing(frame("f", file=file))


@pytest.mark.parametrize(
    "file",
    [
        __file__,
        "/srv/pytest/test_a.py",
        "/srv/my_pytest/conftest.py",
        "/venv/lib/python3.12/site-packages/pytest_django/plugin.py",
        "/venv/lib/python3.12/site-packages/numpy/linalg.py",
        "<string>",
        "",
    ],
)
def test_all_other_frames_are_not(file: str) -> None:
    """A directory that is merely named like pytest is the user's."""
    assert not faultdump.is_plumbing(frame("f", file=file))


def test_finding_the_plumbing_imports_nothing() -> None:
    """The command that reads bundles runs without pytest."""
    program = (
        "import sys\n"
        "from pytest_faultguard.crash import Frame\n"
        "from pytest_faultguard.evidence import faultdump\n"
        "faultdump.is_plumbing(Frame(function='f', file='x', line=1))\n"
        "assert not {'pytest', '_pytest', 'xdist', 'execnet'} & set(sys.modules)\n"
    )

    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(PACKAGE).parent)


def test_user_frames_reach_to_the_test() -> None:
    """What called the test is pytest's."""
    found = stack(frame("inner"), frame("test_x"), pytest_frame(), pytest_frame(), frame("main"))

    assert faultdump.user_frames(found) == (frame("inner"), frame("test_x"))


def test_user_frames_end_at_the_most_recent_entry_of_pytest() -> None:
    """A fixture that a test asked for is told by its own frames."""
    found = stack(frame("fixture"), pytest_frame("getfixturevalue"), frame("test_x"), pytest_frame())

    assert faultdump.user_frames(found) == (frame("fixture"),)


def test_a_crash_inside_pytest_has_no_user_frames() -> None:
    """There is no line of the user's to show."""
    assert faultdump.user_frames(stack(pytest_frame(), frame("test_x"), pytest_frame())) == ()


def test_unittest_s_own_frames_are_no_user_frames() -> None:
    """They stand between pytest and the test; those inside the test stay."""
    case = "/usr/lib/python3.13/unittest/case.py"
    asserting = frame("assertRaises", file=case)
    test = frame("test_x")

    found = stack(
        frame("f"), asserting, test, frame("_callTestMethod", file=case), frame("run", file=case), pytest_frame()
    )

    assert faultdump.user_frames(found) == (frame("f"), asserting, test)


def test_the_thread_that_took_the_signal_tells_the_crash() -> None:
    """Be it the one that runs the test or not."""
    main = stack(frame("test_x"), pytest_frame(), current=False)
    other = stack(frame("work"), current=True)

    assert faultdump.told_by([other, main]) == other
    assert faultdump.told_by([stack(frame("idle"), current=False), main]) == main
    assert faultdump.told_by([stack(current=True), main]) == main


def test_the_thread_that_runs_the_test_tells_a_hang() -> None:
    """The one that answered the signal may be any."""
    main = stack(frame("test_x"), pytest_frame(), current=False)
    other = stack(frame("idle"), current=True)

    assert faultdump.told_by([other, main], crashed=False) == main
    assert faultdump.told_by([other], crashed=False) == other
    assert faultdump.told_by([other, stack(frame("deep"), current=False, truncated=True)], crashed=False) == stack(
        frame("deep"), current=False, truncated=True
    )


def test_no_thread_tells_where_none_can() -> None:
    """A crash inside pytest is told by the thread that crashed; where all are idle, by none."""
    inside = stack(pytest_frame())

    assert faultdump.told_by([inside]) == inside
    assert faultdump.told_by([stack(frame("idle"), current=False)]) is None
    assert faultdump.told_by([]) is None


def a_dump(*stacks: ThreadStack, number: int | None = signal.SIGSEGV) -> faultdump.Dump:
    return faultdump.Dump(headline="", signal=number, stacks=stacks)


def test_a_native_thread_that_crashed_is_a_gap() -> None:
    """Also where Python knows the thread, and it has no frame; and where the others are inside pytest."""
    idle = stack(frame("idle"), current=False)
    main = stack(frame("test_x"), pytest_frame(), current=False)
    crashed = "stack: a thread without Python frames crashed"

    told = (f"{crashed}; the marked line is where the main thread was",)
    assert faultdump.missing_line(a_dump(idle, main)) == told
    assert faultdump.missing_line(a_dump(stack(current=True), main)) == told
    assert faultdump.missing_line(a_dump(stack(*[frame("deep")] * 100, current=False, truncated=True))) == told
    assert faultdump.missing_line(a_dump(idle, stack(pytest_frame(), current=False))) == (
        f"{crashed}, and marked no line",
    )


@pytest.mark.parametrize(
    "dump",
    [
        pytest.param(a_dump(stack(frame("test_x"), pytest_frame())), id="known"),
        pytest.param(a_dump(stack(frame("test_x"), pytest_frame(), current=False), number=None), id="no-signal"),
        pytest.param(a_dump(stack(frame("idle"), current=False)), id="cut-between-threads"),
        pytest.param(a_dump(stack(current=True, truncated=True)), id="cut-before-its-frames"),
        pytest.param(a_dump(), id="cut-after-the-headline"),
    ],
)
def test_no_native_thread_is_blamed_on_less_than_a_whole_dump_of_a_signal(dump: faultdump.Dump) -> None:
    """The thread that crashed may be among those that are missing; and to be asked for one's stacks is no crash."""
    assert faultdump.missing_line(dump) == ()


def test_runs_of_plumbing_become_a_count() -> None:
    """The user's frames between them stay."""
    found = stack(frame("a"), pytest_frame(), pytest_frame(), frame("b"), pytest_frame())

    assert faultdump.fold(found) == (frame("a"), Hidden(count=2), frame("b"), Hidden(count=1))


def test_what_a_plugin_does_around_a_test_is_plumbing() -> None:
    """What a test calls of it stays, and what it was in when it died."""
    plugin = frame("plugin", file="/venv/lib/python3.12/site-packages/pytest_asyncio/plugin.py")
    module = frame("plugin", file="/venv/lib/python3.12/site-packages/pytest_timeout.py")
    found = stack(plugin, frame("a"), plugin, pytest_frame(), plugin, module, pytest_frame())

    assert faultdump.fold(found) == (plugin, frame("a"), plugin, Hidden(count=4))
    assert faultdump.fold(stack(plugin, frame("a"))) == (plugin, frame("a"))


def test_the_start_of_an_xdist_interpreter_is_plumbing() -> None:
    """``python -c`` has no file; a string that the user runs does not stand there."""
    started = frame("<module>", file="<string>")

    assert faultdump.fold(stack(started, pytest_frame(), started, started)) == (started, Hidden(count=3))
    assert faultdump.fold(stack(frame("f"), started)) == (frame("f"), started)


def test_recursion_is_shown_once() -> None:
    """The cycle and how often it comes; the frame at which it was left is none of it."""
    even, odd = frame("even"), frame("odd")

    assert faultdump.fold(stack(*[even, odd] * 40, even, frame("main"))) == (
        Repeated(cycle=(even, odd), times=40),
        even,
        frame("main"),
    )
    assert faultdump.fold(stack(*[even] * 99)) == (Repeated(cycle=(even,), times=99),)
    assert faultdump.fold(stack(even, even)) == (even, even)


def test_a_recursion_through_pytest_is_shown_once() -> None:
    """Plumbing inside the cycle is counted."""
    cycle = (frame("a"), pytest_frame(), pytest_frame())

    assert faultdump.fold(stack(*cycle * 5)) == (Repeated(cycle=(frame("a"), Hidden(count=2)), times=5),)


@given(st.lists(st.sampled_from([frame("a"), frame("b"), frame("c"), pytest_frame()]), max_size=60))
def test_folding_loses_nothing(frames: list[Frame]) -> None:
    """Unfolded again it is the same stack."""

    def unfold(pieces: tuple[faultdump.Piece, ...]) -> Iterator[Frame]:
        for piece in pieces:
            match piece:
                case Repeated(cycle=cycle, times=times):
                    for _ in range(times):
                        yield from unfold(cycle)
                case Hidden(count=count):
                    yield from [pytest_frame()] * count
                case _:
                    yield piece

    assert list(unfold(faultdump.fold(stack(*frames)))) == frames


def test_stacks_are_rendered() -> None:
    """In the manner of faulthandler, with counts for what is folded."""
    text = faultdump.render([
        stack(frame("inner", 7), *[frame("loop", 8)] * 5, frame("test_x", 9), *[pytest_frame()] * 34),
        stack(frame("odd\n\udc80", None, 'a"\x1b[31m'), thread="0x2 [pool]", current=False, truncated=True),
        stack(thread="", current=True),
    ])  # fmt: skip

    assert text == (
        "Current thread 0x1 (most recent call first):\n"
        '  File "/srv/app/test_a.py", line 7 in inner\n'
        '  File "/srv/app/test_a.py", line 8 in loop\n'
        "  ... the frame above 4 more times ...\n"
        '  File "/srv/app/test_a.py", line 9 in test_x\n'
        "  ... 34 frames of pytest and its plugins ...\n"
        "\n"
        "Thread 0x2 [pool] (most recent call first):\n"
        '  File "a"\\x1b[31m", line ??? in odd\\n\\udc80\n'
        "  ... frames are missing ...\n"
        "\n"
        "Stack (most recent call first):\n"
        "  <no Python frame>"
    )


def test_output_is_folded() -> None:
    """Each stack as in a report, and nothing else: tracebacks of Python look nearly the same."""
    inner = '  File "/srv/app/test_a.py", line 7 in inner\n'
    plumbing = '  File "/srv/site-packages/_pytest/python.py", line 187 in pytest_pyfunc_call\n'
    text = (
        "before it\n"
        'Traceback (most recent call last):\n  File "/srv/site-packages/_pytest/python.py", line 187, in runtest\n'
        f"Fatal Python error: gone\n\nCurrent thread 0x1 (most recent call first):\n{inner}{{}}"
        "\nExtension modules: numpy (total: 1)\n"
        f"Thread 0x2 (most recent call first):\n{inner}{{}}after it"
    )

    folded = faultdump.folded(text.format(plumbing * 34, inner * 4 + plumbing))

    assert folded == text.format(
        "  ... 34 frames of pytest and its plugins ...\n",
        "  ... the frame above 4 more times ...\n  ... 1 frame of pytest and its plugins ...\n",
    )


# A living child.


PROGRAM = """
import ctypes, os, signal, sys
from pytest_faultguard.evidence import faultdump
dump_fd, stacks_fd = map(int, sys.argv[1:])
faultdump.arm(dump_fd, stacks_fd)
os.close(2)
def ask():
    os.kill(os.getpid(), faultdump.STACKS_SIGNAL)
def crash():
    ctypes.string_at(0)
ask()
ask()
crash()
"""


def test_an_armed_child_tells_its_stacks_and_its_crash(tmp_path: Path) -> None:
    """Each to its own descriptor, with stderr closed."""
    with (tmp_path / "dump").open("w") as dump_file, (tmp_path / "stacks").open("w") as stacks_file:
        descriptors = (dump_file.fileno(), stacks_file.fileno())
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *map(str, descriptors)],
            check=False,
            pass_fds=descriptors,
            cwd=Path(PACKAGE).parent,
            timeout=60,
        )

    asked = faultdump.split((tmp_path / "stacks").read_text())
    dump = faultdump.parse((tmp_path / "dump").read_text())
    assert done.returncode == -signal.SIGSEGV
    assert [faultdump.parse(part).stacks[0].frames[0].function for part in asked] == ["ask", "ask"]
    assert dump.signal == signal.SIGSEGV
    assert functions(dump.stacks[0])[1:] == ["crash", "<module>"]


def test_an_armed_fork_tells_its_abort() -> None:
    """A forked copy is armed in its own right, and the parent's own faulthandler is left as it was."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            faultdump.arm(writing, writing)
            os.abort()
        finally:
            os._exit(99)
    os.close(writing)
    with open(reading) as stream:
        text = stream.read()
    _, status = os.waitpid(pid, 0)

    dump = faultdump.parse(text)
    told = faultdump.told_by(dump.stacks)
    assert os.WTERMSIG(status) == signal.SIGABRT
    assert dump.signal == signal.SIGABRT
    assert told is not None
    assert faultdump.user_frames(told)[-1].function == "test_an_armed_fork_tells_its_abort"
