"""Promise 7 and the fixture: what a test puts into `faultguard_data` is rescued whole, shown, and costs nobody else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from testing.harness import Junit
    from testing.harness import Recorder
    from testing.harness import Report
    from testing.harness import RunPytest

#: Without the second that Hypothesis takes at the end of an inner session.
QUICK = ("no:cacheprovider", "no:hypothesispytest")

TITLE = "rescued faultguard_data"

IMPORTS = """
import ctypes
import os
import signal
import sys
import time

import pytest


def die():
    os.kill(os.getpid(), signal.SIGKILL)


"""


@dataclass(frozen=True)
class Inner:
    """An inner suite, and the data that its reports show."""

    run_pytest: RunPytest
    recorder: Recorder

    def write(self, source: str, **options: str) -> Path:
        """Write the suite: the source comes after some imports."""
        body = "\n".join(line.removeprefix("    " * 2) for line in source.splitlines())
        return self.run_pytest.pytester.makepyfile(**{"test_inner": IMPORTS + body, **options})

    def run(self, *args: str) -> pytest.RunResult:
        """Run it, every test guarded."""
        return self.run_pytest("--faultguard", *args, plugins=QUICK)

    def shown(self, nodeid: str, when: str = "call") -> dict[str, str]:
        """The lines of the data section of a report, which it has once at most: `repr(key)` to the value's text."""
        return data_of(self.recorder.report(nodeid, when))


def data_of(report: Report) -> dict[str, str]:
    """The data that a report shows."""
    parts = re.split(r"^-+ (.+?) -+$", report.longrepr, flags=re.MULTILINE)
    texts = [text for title, text in zip(parts[1::2], parts[2::2], strict=True) if title == TITLE]
    texts += [text for title, text in report.sections if title == TITLE]
    if not texts:
        return {}
    (text,) = texts
    return dict(line.split(" = ", 1) for line in text.strip().splitlines())


@pytest.fixture
def inner(run_pytest: RunPytest, recorder: Recorder) -> Inner:
    return Inner(run_pytest, recorder)


# The mapping.

MAPPING = """
        from collections.abc import MutableMapping

        @pytest.fixture(params=[
            pytest.param("guarded", marks=pytest.mark.faultguard),
            pytest.param("plain"),
        ])
        def guarded(request):
            return request.param == "guarded"

        def test_is_a_mutable_mapping(guarded, faultguard_data):
            data = faultguard_data
            assert isinstance(data, MutableMapping)
            assert (len(data), list(data), bool(data), "a" in data) == (0, [], False, False)
            data["a"] = 1
            data.update(b=2, c=3)
            data["a"] = 4
            assert dict(data) == {"a": 4, "b": 2, "c": 3}
            assert (list(data), len(data), "a" in data, "d" in data) == (["a", "b", "c"], 3, True, False)
            assert (list(data.values()), list(data.items())[1]) == ([4, 2, 3], ("b", 2))
            assert (data.get("d"), data.get("a"), data.pop("b"), data.setdefault("e", 5)) == (None, 4, 2, 5)
            assert data == {"a": 4, "c": 3, "e": 5}
            del data["c"]
            assert data.popitem() == ("e", 5)
            data.clear()
            assert dict(data) == {}
            with pytest.raises(KeyError):
                data["a"]
            with pytest.raises(KeyError):
                del data["a"]

        def test_assignment_is_a_snapshot(guarded, faultguard_data):
            value = {"list": [1, 2]}
            faultguard_data["key"] = value
            value["list"].append(3)
            assert faultguard_data["key"] == {"list": [1, 2]}

        def test_reading_gives_an_equal_and_separate_value(guarded, faultguard_data):
            value = [1, {"a": bytearray(b"b")}, None, 2.5, {3}, (4,), "text" * 100_000, bytes(100_000)]
            faultguard_data["key"] = value
            first, second = faultguard_data["key"], faultguard_data["key"]
            assert first == second == value
            assert first is not second is not value
            first[1]["a"] += b"c"
            first.clear()
            assert faultguard_data["key"] == value

        def test_arrays(guarded, faultguard_data):
            numpy = pytest.importorskip("numpy")
            array = numpy.arange(300_000, dtype="f4").reshape(3, -1)
            faultguard_data["array"] = {"in": array[:, ::2]}
            array += 1
            read = faultguard_data["array"]["in"]
            assert (read == (array - 1)[:, ::2]).all()
            read += 5
            assert (faultguard_data["array"]["in"] != read).any()

        @pytest.mark.parametrize("key", [None, 5, 2.5, ("a", 1), b"x", frozenset({1}), True, "", "\\n"], ids=repr)
        def test_keys(guarded, faultguard_data, key):
            faultguard_data[key] = key
            assert list(faultguard_data) == [key]
            assert faultguard_data[key] == key

        def test_unhashable_key(guarded, faultguard_data):
            with pytest.raises(TypeError, match="unhashable"):
                faultguard_data[[]] = 1
            assert not faultguard_data

        def test_what_dill_takes(guarded, faultguard_data):
            offset = 40

            class Local:
                def __init__(self, value):
                    self.value = value

                def __eq__(self, other):
                    return self.value == other.value

            faultguard_data["function"] = lambda value: value + offset
            faultguard_data["object"] = Local([1])
            assert faultguard_data["function"](2) == 42
            assert faultguard_data["object"] == Local([1])

        def test_what_nothing_takes(guarded, faultguard_data):
            faultguard_data["key"] = "before"
            with pytest.raises(TypeError, match=r"faultguard_data\\['key'\\].*type 'generator'"):
                faultguard_data["key"] = (number for number in range(3))
            with pytest.raises(TypeError, match=r"faultguard_data\\['new'\\].*type 'dict'"):
                faultguard_data["new"] = {"inside": sys._getframe()}
            with pytest.raises(TypeError, match=r"faultguard_data\\[<function.*a key of type 'function'"):
                faultguard_data[lambda: 0] = 1
            assert dict(faultguard_data) == {"key": "before"}

        def test_threads_may_write(guarded, faultguard_data):
            import threading

            def write(name):
                for number in range(200):
                    faultguard_data[name] = [name, number] * 50

            threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
            assert dict(faultguard_data) == {name: [name, 199] * 50 for name in "abcd"}
"""


def test_mapping(inner: Inner, xdist_args: tuple[str, ...]) -> None:
    """The same in a guarded test and in one that is not."""
    inner.write(MAPPING)

    result = inner.run_pytest(*xdist_args, "-W", "error", plugins=QUICK)

    result.assert_outcomes(passed=2 * 17)


def test_fixtures_and_the_test_of_one_item_share_it(inner: Inner, xdist_args: tuple[str, ...]) -> None:
    """From the first fixture's set-up to the last one's teardown; the next item has its own."""
    inner.write(
        """
        @pytest.fixture
        def first(number, faultguard_data):
            assert dict(faultguard_data) == {}
            faultguard_data["first"] = [number]
            yield
            assert faultguard_data["test"] == 3
            faultguard_data["late"] = "from the teardown"
            raise LookupError("show it")

        @pytest.fixture
        def second(first, faultguard_data):
            faultguard_data["second"] = faultguard_data["first"] * 2

        @pytest.mark.parametrize("number", range(2))
        def test_it(second, faultguard_data, number):
            faultguard_data["test"] = 3
        """
    )

    inner.run(*xdist_args).assert_outcomes(passed=2, errors=2)

    for number in range(2):
        assert inner.shown(f"test_it[{number}]", "teardown") == {
            "'first'": f"[{number}]",
            "'second'": f"[{number}, {number}]",
            "'test'": "3",
            "'late'": "'from the teardown'",
        }


def test_a_process_that_the_test_forked_may_not_write(inner: Inner) -> None:
    """Both would overwrite each other; reading is allowed."""
    inner.write(
        """
        import multiprocessing

        def attempt(data):
            assert data["key"] == "by the test"
            for write in (
                lambda: data.__setitem__("key", "by a fork"),
                lambda: data.__delitem__("key"),
                lambda: data.buffer("new", 8),
                lambda: data.clear(),
            ):
                with pytest.raises(RuntimeError, match="a process that the test started may not write faultguard_data"):
                    write()

        @pytest.fixture(params=[pytest.param("guarded", marks=pytest.mark.faultguard), "plain"])
        def guarded(request):
            pass

        def test_fork(guarded, faultguard_data):
            faultguard_data["key"] = "by the test"
            pid = os.fork()
            if pid == 0:
                try:
                    attempt(faultguard_data)
                except BaseException:
                    os._exit(1)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            assert dict(faultguard_data) == {"key": "by the test"}
            faultguard_data["key"] = "by the test again"

        def test_multiprocessing(guarded, faultguard_data):
            faultguard_data["key"] = "by the test"
            process = multiprocessing.get_context("fork").Process(target=attempt, args=(faultguard_data,))
            process.start()
            process.join(20)
            assert process.exitcode == 0
            assert dict(faultguard_data) == {"key": "by the test"}
        """
    )

    inner.run_pytest(plugins=QUICK).assert_outcomes(passed=4)


# The limit.


@pytest.mark.parametrize(
    ("args", "mark", "ini"),
    [
        pytest.param((), "data_limit=50_000", "", id="marker"),
        pytest.param(("--faultguard-data-limit=50000",), "", "", id="command-line"),
        pytest.param(("--no-faultguard",), "", "faultguard_data_limit = 50kB", id="ini-in-process"),
    ],
)
def test_past_the_limit_is_a_memory_error(inner: Inner, args: tuple[str, ...], mark: str, ini: str) -> None:
    """It names key, size and limit; what was there before stays, also a former value of that key."""
    inner.run_pytest.pytester.makeini(f"[pytest]\n{ini}\n")
    inner.write(
        f"""
        @pytest.mark.faultguard({mark})
        def test_it(faultguard_data):
            data = faultguard_data
            data["small"] = "s"
            data["large"] = bytes(30_000)
            with pytest.raises(MemoryError, match=r"data\\['more'\\]: its 300\\d\\d bytes .* limit of 50000 bytes"):
                data["more"] = bytes(30_000)
            with pytest.raises(MemoryError, match=r"data\\['large'\\]: its 600\\d\\d bytes .* limit of 50000 bytes"):
                data["large"] = bytes(60_000)
            with pytest.raises(MemoryError, match=r"data\\['buffer'\\]: its 20\\d\\d\\d bytes .* limit of 50000 bytes"):
                data.buffer("buffer", 20_000)
            assert dict(data) == {{"small": "s", "large": bytes(30_000)}}
            data["large"] = bytes(40_000)
            del data["large"]
            data["more"] = bytes(45_000)
        """
    )

    inner.run_pytest(*args, plugins=QUICK).assert_outcomes(passed=1)


CANNOT_SAVE = r"cannot save faultguard_data\['key'\]: "
#: What cannot be done, and the last line that the report has of it.
REFUSED = {
    "faultguard_data['key'] = iter_nothing()": CANNOT_SAVE
    + r"a value of type 'generator' can be pickled by neither .*",
    "faultguard_data['key'] = (ctypes.c_char * 16)()": CANNOT_SAVE + r".*; save bytes\(value\) instead",
    "faultguard_data['key'] = Pointing()": CANNOT_SAVE + r".*; save bytes\(value\) instead",
    "faultguard_data['key'] = memoryview(b'some')": CANNOT_SAVE + r".*; save bytes\(value\) instead",
    "faultguard_data['key'] = Refusing()": CANNOT_SAVE + ".* by neither pickle nor dill: KeyError: 'its own'",
    "faultguard_data['key'] = bytes(2000)": CANNOT_SAVE
    + "its .* bytes would bring the data past the limit of 1000 bytes",
    "faultguard_data['key'] = 10 ** 3000": CANNOT_SAVE
    + "its .* bytes would bring the data past the limit of 1000 bytes",
    "faultguard_data.buffer('key', 2000)": CANNOT_SAVE
    + "its .* bytes would bring the data past the limit of 1000 bytes",
    "faultguard_data[iter_nothing()] = 1": "cannot save .*: a key of type 'generator' must be picklable: TypeError: .*",
    "faultguard_data[[]] = 1": "unhashable type: 'list'|cannot use 'list' as a dict key .*",
    "faultguard_data['missing']": "'missing'",
    "del faultguard_data['missing']": "'missing'",
}


@pytest.mark.parametrize("args", [("--faultguard",), ("--no-faultguard",)], ids=lambda args: args[0])
def test_what_is_refused_is_shown_at_the_line_that_asked_for_it(
    inner: Inner, xdist_args: tuple[str, ...], args: tuple[str, ...]
) -> None:
    """Nothing of ours, of pickle or of dill stands between that line and what was wrong with it."""
    tests = "".join(f"\ndef test_{number}(faultguard_data):\n    {line}\n" for number, line in enumerate(REFUSED))
    inner.run_pytest.pytester.makepyfile(
        test_inner=IMPORTS
        + """
pytestmark = pytest.mark.faultguard(data_limit=1000)

class Pointing(ctypes.Structure):
    _fields_ = [("text", ctypes.c_char_p)]

class Refusing:
    def __reduce__(self):
        raise KeyError("its own")

def iter_nothing():
    yield from ()
"""
        + tests
    )

    inner.run_pytest(*xdist_args, *args, plugins=QUICK)

    for number, (line, told) in enumerate(REFUSED.items()):
        report = inner.recorder.report(f"::test_{number}")
        lines = report.longrepr.splitlines()
        assert [one[1:].strip() for one in lines if one.startswith(">")] == [line]
        (said,) = (one[1:].strip() for one in lines if one.startswith("E "))
        assert re.fullmatch(f"[A-Za-z]+Error: (?:{told})", said), said
        assert re.fullmatch(r"test_inner\.py:\d+: [A-Za-z]+Error", lines[-1]), line


@pytest.mark.parametrize("args", [(), ("--no-faultguard",)], ids=["guarded", "plain"])
def test_the_limit_is_a_gibibyte_where_nobody_has_set_one(inner: Inner, args: tuple[str, ...]) -> None:
    """Of a guarded test as of any other."""
    inner.write(
        """
        @pytest.mark.faultguard
        def test_it(faultguard_data):
            with pytest.raises(MemoryError, match=r"data\\['b'\\]: .* limit of 1073741824 bytes"):
                faultguard_data.buffer("b", (1 << 30) + 1)
        """
    )

    inner.run_pytest(*args, plugins=QUICK).assert_outcomes(passed=1)


def test_the_limit_counts_what_is_alive(inner: Inner) -> None:
    """A loop over one key needs the space of a few values, not of all; so does one over keys that go again."""
    inner.write(
        """
        @pytest.mark.faultguard(data_limit=100_000)
        def test_it(faultguard_data):
            for number in range(20_000):
                faultguard_data["key"] = [number, bytes(1000)]
            for number in range(20_000):
                faultguard_data[number] = bytes(1000)
                del faultguard_data[number]
            assert list(faultguard_data) == ["key"]
            assert os.fstat(faultguard_data.fileno()).st_blocks * 512 < 1_000_000
        """
    )

    inner.run().assert_outcomes(passed=1)


# Buffers.


def test_buffer_is_memory(inner: Inner) -> None:
    inner.write(
        """
        @pytest.fixture(params=[pytest.param("guarded", marks=pytest.mark.faultguard), "plain"])
        def guarded(request):
            pass

        def test_view(guarded, faultguard_data):
            view = faultguard_data.buffer("key", 10)
            assert type(view) is memoryview
            assert (view.nbytes, view.readonly, view.format, bytes(view)) == (10, False, "B", bytes(10))
            view[2:5] = b"abc"
            copy = faultguard_data["key"]
            assert type(copy) is bytes
            assert copy == bytes(view) == b"\\0\\0abc\\0\\0\\0\\0\\0"
            view[:] = b"0123456789"
            assert copy == b"\\0\\0abc\\0\\0\\0\\0\\0"
            again = faultguard_data.buffer("key", 10)
            again[0] = ord("x")
            assert (view[0], faultguard_data["key"]) == (ord("x"), b"x123456789")

        def test_size(guarded, faultguard_data):
            faultguard_data.buffer("key", 10)[:4] = b"kept"
            for size in (9, 11, 0, -1):
                with pytest.raises(ValueError, match=str(size)):
                    faultguard_data.buffer("key", size)
            for size in ("10", 10.0, True, None):
                with pytest.raises(TypeError, match=type(size).__name__):
                    faultguard_data.buffer("key", size)
            assert faultguard_data["key"][:4] == b"kept"

        def test_value(guarded, faultguard_data):
            faultguard_data["key"] = "a value"
            with pytest.raises(ValueError, match=r"\\['key'\\] holds a value"):
                faultguard_data.buffer("key", 10)
            assert faultguard_data["key"] == "a value"

        def test_buffers_never_move(guarded, faultguard_data):
            view = faultguard_data.buffer("key", 5000)
            address = ctypes.addressof(ctypes.c_char.from_buffer(view))
            for number in range(500):
                faultguard_data[number % 7] = bytes(number * 300)
                faultguard_data.buffer(f"buffer {number % 5}", 4000 + number % 5)
            ctypes.memset(address, ord("y"), 5000)
            assert faultguard_data["key"] == b"y" * 5000

        def test_view_outlives_its_key(guarded, faultguard_data):
            view = faultguard_data.buffer("key", 5000)
            del faultguard_data["key"]
            faultguard_data["other"] = bytes(5000)
            view[:] = b"z" * 5000
            assert faultguard_data["other"] == bytes(5000)
        """
    )

    inner.run_pytest("-W", "error", plugins=QUICK).assert_outcomes(passed=10)


@pytest.mark.usefixtures("programs")
def test_buffer_holds_what_was_written_up_to_the_crash(inner: Inner, xdist_args: tuple[str, ...]) -> None:
    """By Python, NumPy, and C to the very store that met a page it may not write."""
    inner.write(
        """
        from programs import lib

        def address_of(view):
            return ctypes.addressof(ctypes.c_char.from_buffer(view))

        def test_python(faultguard_data):
            view = faultguard_data.buffer("key", 16)
            for position, letter in enumerate(b"written"):
                view[position] = letter
            lib.null_write()

        def test_numpy(faultguard_data):
            numpy = pytest.importorskip("numpy")
            array = numpy.frombuffer(faultguard_data.buffer("key", 16), dtype="<u4")
            array[1:] = [1, 2, 3]
            array[0] += 0x41424344
            lib.abort_()

        def test_c(faultguard_data):
            view = faultguard_data.buffer("key", 16)
            lib.scribble(address_of(view), 11)
            die()

        def test_c_up_to_the_instruction(faultguard_data):
            page = os.sysconf("SC_PAGESIZE")
            for number in range(100):
                view = faultguard_data.buffer(number, 3000 + number % 7 * 100)
                rest = -address_of(view) % page
                if 29 < rest < 211:
                    break
                del faultguard_data[number]
            faultguard_data["buffer"] = number
            libc = ctypes.CDLL(None, use_errno=True)
            assert libc.mprotect(ctypes.c_void_p(address_of(view) + rest), ctypes.c_size_t(page), 1) == 0
            lib.scribble(address_of(view), 3000)
        """
    )

    inner.run(*xdist_args).assert_outcomes(failed=4)

    assert inner.shown("test_python") == {"'key'": repr(b"written" + bytes(9))}
    assert inner.shown("test_numpy") == {"'key'": repr(b"DCBA\1\0\0\0\2\0\0\0\3\0\0\0")}
    assert inner.shown("test_c") == {"'key'": repr(b"\xa5" * 11 + bytes(5))}
    last = inner.shown("test_c_up_to_the_instruction")
    # The first and the last of the 240 bytes that are shown.
    assert re.fullmatch(r"<3\d00 bytes> b'(\\xa5)+(\\x)?\.\.\.[0-9x]*(\\x00)+'", last[last["'buffer'"]])
    assert inner.recorder.report("test_c_up_to_the_instruction").crash["ending"]["signal"] == 11


# What a report shows.


def test_a_killed_test_shows_its_data(inner: Inner, junit: Junit, xdist_args: tuple[str, ...]) -> None:
    """SIGKILL leaves no time for anything: each key has its last completed assignment, in the order of the keys."""
    inner.write(
        """
        class Own:
            def __init__(self, value):
                self.value = value

            def __repr__(self):
                return f"Own({self.value})"

        def test_it(faultguard_data):
            faultguard_data["overwritten"] = 0
            faultguard_data["deleted"] = 0
            faultguard_data["object"] = Own([1, 2])
            for number in range(1000):
                faultguard_data["overwritten"] = number
            del faultguard_data["deleted"]
            faultguard_data["dilled"] = [Own(lambda: 0)]
            faultguard_data[("a", 1)] = "tuple"
            faultguard_data[7] = None
            die()
        """
    )

    inner.run(*xdist_args, *junit.args).assert_outcomes(failed=1)

    expected = {
        "'overwritten'": "999",
        "'object'": "Own([1, 2])",
        "'dilled'": inner.shown("test_it")["'dilled'"],
        "('a', 1)": "'tuple'",
        "7": "None",
    }
    assert inner.shown("test_it") == expected
    assert list(inner.shown("test_it")) == list(expected)
    assert expected["'dilled'"].startswith("[Own(<function test_it.<locals>.<lambda>")
    crash = inner.recorder.report("test_it").crash
    assert [(one["key"], one["value"]) for one in crash["rescued"]] == list(expected.items())
    assert [gap for gap in crash["gaps"] if "faultguard_data" in gap] == []
    (case,) = junit.cases()
    assert "('a', 1) = 'tuple'" in case.text


def test_any_failed_guarded_test_shows_its_data(inner: Inner, xdist_args: tuple[str, ...]) -> None:
    """Not only one that crashed; one that did not fail shows nothing."""
    inner.write(
        """
        @pytest.fixture
        def broken(faultguard_data):
            faultguard_data["setup"] = 1
            raise LookupError

        @pytest.fixture
        def broken_later(faultguard_data):
            faultguard_data["setup"] = 1
            yield
            faultguard_data["teardown"] = 3
            raise LookupError

        @pytest.fixture
        def dying(faultguard_data):
            faultguard_data["setup"] = 1
            die()

        def test_assert(faultguard_data):
            faultguard_data["call"] = 2
            assert not faultguard_data

        def test_exit(faultguard_data):
            faultguard_data["call"] = 2
            sys.exit(3)

        def test_fail_without_trace(faultguard_data):
            faultguard_data["call"] = 2
            pytest.fail("in few words", pytrace=False)

        def test_setup(broken):
            pass

        def test_teardown(broken_later, faultguard_data):
            faultguard_data["call"] = 2

        def test_both(broken_later, faultguard_data):
            faultguard_data["call"] = 2
            assert 0

        def test_crash_in_setup(dying):
            pass

        @pytest.mark.faultguard(timeout=1)
        def test_hang(faultguard_data):
            faultguard_data["call"] = 2
            signal.pause()

        def test_leaves(faultguard_data):
            faultguard_data["call"] = 2
            os._exit(0)

        @pytest.mark.xfail(strict=True)
        def test_xpass(faultguard_data):
            faultguard_data["call"] = 2

        def test_nothing_in_it(faultguard_data):
            assert 0

        def test_passes(faultguard_data):
            faultguard_data["call"] = 2

        def test_skips(faultguard_data):
            faultguard_data["call"] = 2
            pytest.skip("after all")

        @pytest.mark.xfail
        def test_xfails(faultguard_data):
            faultguard_data["call"] = 2
            assert 0
        """
    )

    inner.run(*xdist_args).assert_outcomes(failed=8, errors=4, passed=2, skipped=1, xfailed=1)

    shown = {
        f"{report.nodeid.partition('::test_')[2]} {report.when}": " ".join(data_of(report))
        for report in inner.recorder.reports()
        if data_of(report)
    }
    assert shown == {
        "assert call": "'call'",
        "exit call": "'call'",
        "fail_without_trace call": "'call'",
        "setup setup": "'setup'",
        "teardown teardown": "'setup' 'call' 'teardown'",
        "both call": "'setup' 'call'",
        "both teardown": "'setup' 'call' 'teardown'",
        "crash_in_setup setup": "'setup'",
        "hang call": "'call'",
        "leaves call": "'call'",
        "xpass call": "'call'",
        # Not failed, but what `-rx` shows of it is its failure.
        "xfails call": "'call'",
    }


def test_values_are_shown_like_pytest_shows_them(inner: Inner) -> None:
    """On one line, cut as by saferepr; arrays with dtype and shape."""
    inner.write(
        """
        class Long:
            def __repr__(self):
                return f"<{'middle' * 1000}>"

        class Lines:
            def __repr__(self):
                return "first\\n  second"

        @pytest.mark.parametrize("dies", [True, False])
        def test_it(faultguard_data, dies):
            numpy = pytest.importorskip("numpy")
            data = faultguard_data
            data["text"] = "short"
            data["long text"] = "a" * 2000 + "b" * 2000
            data["long bytes"] = b"c" * 4000
            data["list"] = list(range(1000))
            data["nested"] = {"a": [{"b": [1] * 100}] * 100}
            data["number"] = 7 ** 5000
            data["object"] = Long()
            data["lines"] = Lines()
            data["line break"] = "one\\ntwo"
            data["control"] = "\\x1b[31m\\x00\\udc80"
            data["array"] = numpy.zeros((1000, 3), dtype="f4")
            data["small array"] = numpy.array([[1, 2]], dtype="i8")
            data["k" * 1000] = "long key"
            if dies:
                die()
            assert 0
        """
    )

    inner.run().assert_outcomes(failed=2)

    shown = inner.shown("test_it[True]")
    assert shown == inner.shown("test_it[False]")
    assert all(len(key) <= 260 and len(value) <= 300 for key, value in shown.items())
    assert shown["'text'"] == "'short'"
    assert re.fullmatch(r"<4000 characters> 'a+\.\.\.a+'", shown["'long text'"])
    assert re.fullmatch(r"<4000 bytes> b'c+\.\.\.c+'", shown["'long bytes'"])
    assert shown["'list'"] == "[0, 1, 2, 3, 4, 5, ...]"
    assert shown["'nested'"].startswith("{'a': [{'b': [1, 1, 1, 1, 1, 1, ...]}, ")
    assert re.fullmatch(r"\d+\.\.\.\d+|<.*int.*>", shown["'number'"])
    assert re.fullmatch(r"<(middle)+\w*\.\.\.\w*(middle)+>", shown["'object'"])
    assert shown["'lines'"] == "first second"
    assert shown["'line break'"] == r"'one\ntwo'"
    assert shown["'control'"] == r"'\x1b[31m\x00\udc80'"
    assert re.match(r"<ndarray shape=\(1000, 3\) dtype=float32> array\(\[\[0\., 0\., 0\.\], ", shown["'array'"])
    assert shown["'small array'"] == "<ndarray shape=(1, 2) dtype=int64> array([[1, 2]])"
    assert any(re.fullmatch(r"(<1000 characters> )?'k+\.\.\.k+'", key) for key in shown)


def test_many_keys(inner: Inner, xdist_args: tuple[str, ...]) -> None:
    """A report is for people: it says how many more there are."""
    inner.write(
        """
        def test_it(faultguard_data):
            for number in range(5000):
                faultguard_data[number] = str(number)
            die()
        """
    )

    inner.run(*xdist_args).assert_outcomes(failed=1)

    expected = {str(number): f"'{number}'" for number in range(100)}
    assert inner.shown("test_it") == {**expected, "...": "and 4900 more keys"}


BROKEN = """
        import subprocess

        def raising():
            raise LookupError("cannot be loaded")

        def crashing():
            ctypes.string_at(0)

        def hanging():
            subprocess.Popen(["sleep", "600"])
            while True:
                signal.pause()

        class Loads:
            def __init__(self, function, *arguments):
                self.reduced = function, arguments

            def __reduce__(self):
                return self.reduced

        class Shows:
            def __init__(self, function, *arguments):
                self.function, self.arguments = function, arguments

            def __repr__(self):
                print("noise from a repr", flush=True)
                os.write(2, b"noise from a repr")
                return self.function(*self.arguments)

        class Key:
            def __init__(self, function):
                self.function = function

            def __reduce__(self):
                return Key.load, (self.function,)

            @staticmethod
            def load(function):
                return function()

        @pytest.mark.parametrize("dies", [True, False])
        def test_it(faultguard_data, dies):
            data = faultguard_data
            data["first"] = 1
            data["load raises"] = Loads(raising)
            data["load crashes"] = Loads(crashing)
            data["load exits"] = Loads(os._exit, 5)
            data["repr raises"] = Shows(raising)
            data["repr crashes"] = Shows(crashing)
            data["repr exits"] = Shows(os._exit, 0)
            data["repr leaves"] = Shows(sys.exit, 3)
            data["repr is none"] = Shows(int)
            data["between"] = 2
            if dies:
                data["repr hangs"] = Shows(hanging)
            data[Key(raising)] = "its key raises"
            data[Key(crashing)] = "its key crashes"
            data["last"] = 3
            if dies:
                die()
            raise ZeroDivisionError
"""


def test_a_broken_value_costs_only_its_own_line(inner: Inner, xdist_args: tuple[str, ...]) -> None:
    """One whose loading or repr raises, crashes, hangs or exits: its line says which; the others are shown."""
    inner.write(BROKEN)

    result = inner.run(*xdist_args)

    result.assert_outcomes(failed=2)
    for name in ("test_it[True]", "test_it[False]"):
        shown = inner.shown(name)
        hang = shown.pop("'repr hangs'", "its loading or repr hangs")
        assert "its loading or repr hangs" in hang
        assert [shown.pop(name) for name in ("'first'", "'between'", "'last'")] == ["1", "2", "3"]
        words = {
            "'load raises'": "LookupError: cannot be loaded",
            "'load crashes'": "SIGSEGV in its loading or repr",
            "'load exits'": "exit code 5 in its loading or repr",
            "'repr raises'": "[LookupError raised in repr()] Shows object",
            "'repr crashes'": "SIGSEGV in its loading or repr",
            "'repr exits'": "exit code 0 in its loading or repr",
            "'repr leaves'": "in its loading or repr",
            "'repr is none'": "[TypeError raised in repr()] Shows object",
            "<could not be loaded: LookupError: cannot be loaded>": "'its key raises'",
        }
        for key, text in words.items():
            assert text in shown.pop(key)
        # Of a key that cannot be loaded, there is only its number.
        ((key, text),) = shown.items()
        assert re.fullmatch(r"<key \d+>", key)
        assert "SIGSEGV in its loading or repr" in text
    assert "noise from a repr" not in result.stdout.str() + result.stderr.str()
    assert inner.recorder.report("test_it[True]").crash["ending"] == {
        "kind": "Signaled",
        "signal": 9,
        "core_dumped": False,
    }
    assert inner.recorder.report("test_it[False]").message == "ZeroDivisionError"


SPY = """
        class Spy:
            def __init__(self, how):
                self.how = how

            def __reduce__(self):
                return spied, (self.how,), {"state": 1}

            def __setstate__(self, state):
                spy("setstate")

            def __repr__(self):
                spy("repr")
                return f"Spy({self.how})"

            def __hash__(self):
                spy("hash")
                return 1

            def __eq__(self, other):
                return self is other

        def spy(what):
            with open(SPIED, "a") as file:
                print(what, os.getpid(), file=file)

        def spied(how):
            spy("load")
            return Spy(how)

        SPIED = os.path.abspath("spied")

        @pytest.fixture
        def data(faultguard_data):
            faultguard_data[Spy("key")] = Spy("value")
            faultguard_data["dilled"] = [Spy("dilled"), lambda: 0]
            faultguard_data[("tuple", Spy("key"))] = 1
            return faultguard_data

        @pytest.fixture
        def dying(data):
            yield
            die()

        def test_killed(data):
            die()

        def test_crashed(data):
            ctypes.string_at(0)

        @pytest.mark.faultguard(timeout=1)
        def test_hung(data):
            signal.pause()

        def test_left(data):
            os._exit(0)

        def test_failed(data):
            assert 0

        def test_teardown(dying):
            pass

        @pytest.mark.xfail(strict=True, reason="expected")
        def test_expected(data):
            die()
"""


def test_the_parent_unpickles_nothing(inner: Inner, xdist_args: tuple[str, ...]) -> None:
    """Neither pytest nor a worker of pytest-xdist runs a line of a value's or a key's class: children do."""
    inner.run_pytest.pytester.makeconftest(
        """
        import os

        # A fork of ours does not come here again; a fresh interpreter does.
        def pytest_configure():
            if "PYTEST_FAULTGUARD" not in os.environ:
                with open("ours", "a") as file:
                    print(os.getpid(), file=file)
        """
    )
    inner.write(SPY)

    inner.run(*xdist_args).assert_outcomes(failed=5, passed=1, errors=1, xfailed=1)

    path = inner.run_pytest.pytester.path
    spied = [line.split() for line in (path / "spied").read_text().splitlines()]
    ours = (path / "ours").read_text().split()
    assert len(ours) == (3 if xdist_args else 1)
    assert {what for what, _ in spied} == {"load", "setstate", "repr", "hash"}
    assert {pid for _, pid in spied} & set(ours) == set()
    for name in ("killed", "crashed", "hung", "left", "failed"):
        assert next(iter(inner.shown(f"test_{name}").items())) == ("Spy(key)", "Spy(value)")


# Warnings.


def test_dill_warns_nobody(inner: Inner, xdist_args: tuple[str, ...]) -> None:
    """Its `PicklingWarning` is an exception under `-W error`: neither that nor a warning reaches the test."""
    inner.write(
        """
        import warnings

        import dill

        def recursive():
            class Meta(type):
                pass

            class Local(metaclass=Meta):
                pass

            Local.again = Local
            return Local

        class Warns:
            def __init__(self):
                self.function = lambda: 0

            def __reduce__(self):
                warnings.warn("from dill", dill.PicklingWarning)
                return Warns, ()

        @pytest.mark.filterwarnings("default")
        def test_dill_alone_does():
            with pytest.warns(dill.PicklingWarning), pytest.raises(dill.PicklingError):
                dill.dumps(recursive(), protocol=5)

        def test_refused(faultguard_data):
            faultguard_data["key"] = 1
            with pytest.raises(TypeError, match=r"\\['key'\\]"):
                faultguard_data["key"] = recursive()
            assert faultguard_data["key"] == 1

        def test_taken(faultguard_data):
            faultguard_data["key"] = [Warns(), lambda: 0]
            assert type(faultguard_data["key"][0]) is Warns
            die()
        """
    )

    inner.run(*xdist_args, "-W", "error").assert_outcomes(passed=2, failed=1)

    assert list(inner.shown("test_taken")) == ["'key'"]
    assert inner.recorder.warnings() == []


# Gaps.


@pytest.mark.usefixtures("programs")
def test_what_cannot_be_read_is_named(inner: Inner, xdist_args: tuple[str, ...]) -> None:
    """A stray pointer has written over the values: the damage is a gap, and the rest of the report is there."""
    inner.write(
        """
        from programs import lib

        def test_it(faultguard_data):
            view = faultguard_data.buffer("buffer", 5000)
            faultguard_data["large"] = bytes(100_000)
            faultguard_data["small"] = 1
            lib.scribble(ctypes.addressof(ctypes.c_char.from_buffer(view)), 100_000)
            lib.null_write()
        """
    )

    inner.run(*xdist_args).assert_outcomes(failed=1)

    report = inner.recorder.report("test_it")
    assert report.message is not None
    assert report.message.startswith("SIGSEGV (segmentation fault) in call after ")
    gaps = [gap for gap in report.crash["gaps"] if gap.startswith("faultguard_data: ")]
    assert gaps
    assert all(gap in report.longrepr for gap in gaps)
    assert "damaged" in gaps[0]
    assert "(100013 bytes)" in gaps[0]
    assert inner.shown("test_it").keys() <= {"'buffer'", "'small'"}
