from __future__ import annotations

import ctypes
import errno
import fcntl
import gc
import mmap
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle
from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.stateful import invariant
from hypothesis.stateful import rule

from pytest_faultguard.evidence import journal as module
from pytest_faultguard.evidence.journal import Journal
from pytest_faultguard.evidence.journal import Kind
from pytest_faultguard.evidence.journal import Recovered
from pytest_faultguard.evidence.journal import read
from pytest_faultguard.outcome import JournalError

LIVE_TO_IDLE = 0xB4 ^ 0x69
SMALL, MEDIUM, LARGE = 10, 3000, 100_000


@pytest.fixture
def data() -> Iterator[Journal]:
    journal = Journal.create()
    journal.claim()
    yield journal
    journal.close()


def limited(limit: int) -> Journal:
    journal = Journal.create(limit)
    journal.claim()
    return journal


def contents(found: Recovered) -> dict[Hashable, Any]:
    return {record.load_key(): record.load_value() for record in found.records}


def rescued(journal: Journal) -> dict[Hashable, Any]:
    """What the reading side finds, which must be without gaps."""
    found = read(journal.fileno())
    assert found.gaps == ()
    return contents(found)


def in_child(body: Callable[[], object]) -> int:
    """The exit code of a forked process that runs this; 0 if it raised nothing, 99 if it did."""
    pid = os.fork()
    if not pid:
        code = 99
        try:
            body()
            code = 0
        except BaseException as error:  # What is not told here is lost with the process.
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def allocated(journal: Journal) -> int:
    return os.fstat(journal.fileno()).st_blocks * 512


# -- a mapping -----------------------------------------------------------------------------------------------------

keys = st.one_of(st.integers(0, 5), st.text(max_size=3), st.tuples(st.integers(0, 2), st.booleans()), st.none())
values = st.one_of(
    st.integers(),
    st.text(),
    st.floats(allow_nan=False),
    st.lists(st.integers()),
    st.integers(0, 20_000).map(lambda n: b"b" * n),
    st.integers(65_530, 70_000).map(bytearray),
    st.integers(1000, 3000).map(lambda n: "s" * n),
)


class AgainstDict(RuleBasedStateMachine):
    """The journal, and what it rescues, are at any time what a dict would be."""

    known: Bundle[Hashable] = Bundle("known")

    def __init__(self) -> None:
        super().__init__()
        self.journal = limited(1 << 20)
        self.model: dict[Hashable, Any] = {}
        self.views: dict[Hashable, memoryview] = {}

    def teardown(self) -> None:
        self.views.clear()
        self.journal.close()

    @rule(target=known, key=keys, value=values)
    def assign(self, key: Hashable, value: Any) -> Hashable:
        self.journal[key] = self.model[key] = value
        self.views.pop(key, None)
        return key

    @rule(key=known)
    def delete(self, key: Hashable) -> None:
        if key in self.model:
            del self.journal[key], self.model[key]
            self.views.pop(key, None)
        else:
            with pytest.raises(KeyError):
                del self.journal[key]

    @rule(target=known, key=keys, size=st.integers(1, 300), byte=st.integers(0, 255))
    def fill_buffer(self, key: Hashable, size: int, byte: int) -> Hashable:
        if key in self.model and (key not in self.views or len(self.views[key]) != size):
            with pytest.raises(ValueError):
                self.journal.buffer(key, size)
            return key
        view = self.journal.buffer(key, size)
        assert bytes(view) == self.model.get(key, bytes(size))
        view[-1] = byte
        self.views[key] = view
        self.model[key] = bytes(view)
        return key

    @rule()
    def clear(self) -> None:
        self.journal.clear()
        self.model.clear()
        self.views.clear()

    @rule()
    def pop_last(self) -> None:
        if self.model:
            assert self.journal.popitem() == self.model.popitem()
            self.views = {key: view for key, view in self.views.items() if key in self.model}
        else:
            with pytest.raises(KeyError):
                self.journal.popitem()

    @invariant()
    def same(self) -> None:
        assert list(self.journal.items()) == list(self.model.items())
        assert len(self.journal) == len(self.model)
        assert list(rescued(self.journal).items()) == list(self.model.items())


AgainstDict.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestAgainstDict = AgainstDict.TestCase


def test_missing_keys_are_key_errors_and_membership_loads_nothing(data: Journal) -> None:
    """Looking for a key never unpickles a value."""
    data["here"] = Untouchable()
    assert "here" in data
    assert "there" not in data
    with pytest.raises(KeyError, match="there"):
        data["there"]
    data.clear()
    assert not data


def untouchable() -> Untouchable:
    raise AssertionError("unpickled")


class Untouchable:
    def __reduce__(self) -> tuple[Callable[[], Untouchable], tuple[()]]:
        return untouchable, ()


def test_assignment_is_a_snapshot(data: Journal) -> None:
    """Later changes of the value, or of what was read, do not reach the journal."""
    value = [1, {"a": bytearray(b"x" * 100_000)}]
    data["k"] = value
    value.append(2)
    read_back = data["k"]
    assert read_back == [1, {"a": bytearray(b"x" * 100_000)}]
    read_back.append(3)
    assert len(data["k"]) == 2


def test_arrays_come_back_equal_separate_and_writable(data: Journal) -> None:
    """NumPy arrays travel out of band and keep dtype, shape, order and writability."""
    array = np.arange(200_000, dtype="f4").reshape(2, 100_000)
    frozen = np.arange(10)
    frozen.flags.writeable = False
    data["arrays"] = [array, array.T, array[:, ::2], frozen]
    array[0, 0] = 99
    for source in (data, rescued(data)):
        whole, turned, strided, still = source["arrays"]
        assert whole[0, 0] == 0
        assert whole.shape == (2, 100_000)
        assert whole.dtype == "f4"
        assert np.array_equal(turned, whole.T)
        assert np.array_equal(strided, whole[:, ::2])
        whole[0, 0] = 5
        assert not still.flags.writeable


@pytest.mark.parametrize("size", [0, 65_535, 65_536, 3_000_000])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_bytes_keep_their_type(data: Journal, kind: type, size: int) -> None:
    """The short cut for long bytes is not visible."""
    data["k"] = kind(size)
    assert type(data["k"]) is kind
    assert data["k"] == kind(size)
    assert type(rescued(data)["k"]) is kind


def test_more_buffers_than_a_record_can_count(data: Journal) -> None:
    """A value of very many arrays is pickled in one piece."""
    many = [bytearray(1) for _ in range(66_000)]
    data["k"] = [pickle.PickleBuffer(one) for one in many]
    assert data["k"] == many


def test_equal_keys_are_one_key(data: Journal) -> None:
    """As in a dict, 1, 1.0 and True are one key, the first assigned."""
    data[1] = "a"
    data[True] = "b"
    data[1.0] = "c"
    assert list(data.items()) == [(1, "c")]
    assert list(rescued(data).items()) == [(1, "c")]
    assert type(next(iter(rescued(data)))) is int


def test_plain_values_come_back_exactly(data: Journal) -> None:
    """Numbers and strings that are kept without a pickle lose nothing."""
    plain = [0, -1, 1 << 200, 1.5, float("inf"), 1j, True, None, "", "é\0\udc80", "x" * 5000]
    for index, value in enumerate(plain):
        data[index] = value
    assert repr(list(rescued(data).values())) == repr(plain)
    assert repr(list(data.values())) == repr(plain)


# -- what cannot be saved ------------------------------------------------------------------------------------------


def iter_nothing() -> Iterator[int]:
    yield from ()


def test_unpicklable_value_is_named_and_nothing_is_lost(data: Journal) -> None:
    """The TypeError names key and type; the key's former value stays."""
    data["x"] = 1
    message = r"cannot save faultguard_data\['x'\]: a value of type 'generator' can be pickled by neither"
    with pytest.raises(TypeError, match=message):
        data["x"] = iter_nothing()
    with pytest.raises(TypeError, match=r"faultguard_data\['y'\]"):
        data["y"] = [iter_nothing()]
    assert dict(data) == rescued(data) == {"x": 1}


@pytest.mark.parametrize("key", [[], {}])
def test_unhashable_key_is_a_type_error(data: Journal, key: Any) -> None:
    """Keys are what a dict takes."""
    with pytest.raises(TypeError, match="unhashable"):
        data[key] = 1


def test_unpicklable_key_is_named() -> None:
    """A key must be picklable; the message says so."""
    journal = limited(1 << 20)
    with pytest.raises(TypeError, match=r"a key of type 'function' must be picklable"):
        journal[lambda: 0] = 1
    with pytest.raises(ValueError, match="more than 1048576"):
        journal["k" * (1 << 20)] = 1
    assert rescued(journal) == {}
    journal.close()


def test_what_pickle_cannot_dill_does(data: Journal) -> None:
    """A lambda and a local class are saved and loaded by dill."""

    class Local:
        n = 3

    data["lambda"] = lambda n: n + 1
    data["class"] = Local()
    for source in (data, rescued(data)):
        assert source["lambda"](1) == 2
        assert source["class"].n == 3
    assert [record.kind for record in read(data.fileno()).records] == [Kind.DILL, Kind.DILL]


class Warns:
    """Refuses pickle, which comes first, and warns when dill asks."""

    asked = 0

    def __reduce__(self) -> tuple[Any, ...]:
        Warns.asked += 1
        if Warns.asked == 1:
            raise TypeError("not by pickle")
        warnings.warn("careful", dill_warning(), stacklevel=1)
        return Warns, ()


def dill_warning() -> type[Warning]:
    import dill

    warning: type[Warning] = dill.PicklingWarning
    return warning


def test_warnings_of_dill_do_not_escape(data: Journal) -> None:
    """With all warnings turned into errors, dill's are neither errors nor shown."""
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("error")
        data["k"] = Warns()
    assert not shown
    assert isinstance(data["k"], Warns)


def test_key_with_a_broken_repr_can_be_complained_about() -> None:
    """The message about a value survives the repr of its key."""
    journal = limited(100)
    with pytest.raises(MemoryError, match=r"faultguard_data\[<Wordless instance"):
        journal[Wordless()] = bytes(1000)
    journal.close()


class Wordless:
    def __repr__(self) -> str:
        raise AssertionError


# -- limit and space -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [bytes(1_000_000), np.zeros(1_000_000, "u1"), "x" * 1_000_000])
def test_past_the_limit_is_a_memory_error_and_earlier_keys_stay(value: Any) -> None:
    """The MemoryError names key, size and limit; the old value of that key stays, too."""
    journal = limited(1_000_000)
    journal["a"] = journal["b"] = "kept"
    with pytest.raises(MemoryError, match=r"faultguard_data\['b'\]: its 1000\d\d\d bytes .* limit of 1000000 bytes"):
        journal["b"] = value
    assert dict(journal) == rescued(journal) == {"a": "kept", "b": "kept"}
    journal["b"] = bytes(900_000)
    journal.close()


def test_limit_counts_live_data_only() -> None:
    """A value almost as large as the limit may be replaced and deleted for ever."""
    journal = limited(1_000_000)
    for n in range(50):
        journal["k"] = bytes([n]) * 990_000
        if n % 7 == 0:
            del journal["k"]
    journal["k"] = 0
    for n in range(9):
        journal[n] = bytes(100_000)
    with pytest.raises(MemoryError):
        journal[10] = bytes(100_000)
    journal.close()


def test_many_assignments_take_the_space_of_a_few(data: Journal) -> None:
    """Space of overwritten values is used again at once, for small values."""
    for n in range(300_000):
        data["k"] = n
    assert data["k"] == 299_999
    assert allocated(data) < 100_000


def test_values_of_changing_size_take_the_space_of_a_few(data: Journal) -> None:
    """Fragments are joined: a growing, shrinking value does not fill the memory."""
    for n in range(2000):
        data["k"] = bytes(1 + n * 7919 % 200_000)
        data[n % 10] = "x" * (n * 31 % 5000)
    assert allocated(data) < 5_000_000


def test_space_of_small_values_serves_large_ones() -> None:
    """Blocks of one size become blocks of another once they are free."""
    journal = limited(8_000_000)
    for size in (100, 300, 1000, 2500, 20_000, 300_000):
        for n in range(6_000_000 // size):
            journal[n] = bytes(size)
        assert allocated(journal) < 40_000_000
        journal.clear()
    assert allocated(journal) < 40_000_000
    journal.close()


def test_an_empty_journal_takes_no_memory() -> None:
    """Before the first write there is nothing but a descriptor."""
    journal = Journal.create()
    assert allocated(journal) == 0
    assert read(journal.fileno()) == Recovered(records=(), gaps=())
    journal.claim()
    assert len(journal) == 0
    assert list(journal) == []
    assert "x" not in journal
    assert allocated(journal) == 0
    journal.close()


def test_seals_forbid_to_resize(data: Journal) -> None:
    """Nobody can cut the file under the mapping, which would be SIGBUS."""
    seals = fcntl.fcntl(data.fileno(), fcntl.F_GET_SEALS)
    assert seals & fcntl.F_SEAL_SHRINK
    assert seals & fcntl.F_SEAL_GROW
    with pytest.raises(PermissionError):
        os.ftruncate(data.fileno(), 0)


def test_a_limit_too_large_is_told() -> None:
    """What the kernel refuses is one clear error, and no descriptor is left."""
    before = os.listdir("/proc/self/fd")
    with pytest.raises(JournalError, match="cannot reserve"):
        Journal.create(1 << 62)
    with pytest.raises(ValueError, match="positive"):
        Journal.create(0)
    assert os.listdir("/proc/self/fd") == before


def on_a_tiny_tmpfs(path: Path) -> Journal:
    """A journal in a file that has 600 KiB to grow; needs a mount namespace of one's own."""
    libc = ctypes.CDLL(None, use_errno=True)
    private, recursive, new_mounts, new_user = 1 << 18, 1 << 14, 0x20000, 0x10000000
    uid = os.getuid()
    if libc.unshare(new_mounts | (new_user if uid else 0)):
        os._exit(77)
    if uid:
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    libc.mount(b"none", b"/", None, private | recursive, None)
    if libc.mount(b"tmpfs", bytes(path), b"tmpfs", 0, b"size=600k"):
        os._exit(77)
    fd = os.open(path / "journal", os.O_RDWR | os.O_CREAT)
    model = Journal.create(1 << 20)
    os.ftruncate(fd, os.fstat(model.fileno()).st_size)
    model.close()
    journal = Journal(fd, 1 << 20)
    journal.claim()
    return journal


def test_full_memory_is_an_error_and_not_a_signal(tmp_path: Path) -> None:
    """On a full tmpfs an assignment is a MemoryError, small or large, and what was there stays."""

    def body() -> None:
        journal = on_a_tiny_tmpfs(tmp_path)
        journal["first"] = 1
        with pytest.raises(MemoryError, match=rf"faultguard_data\['big'\]: no memory for \d+ bytes: .*{errno.ENOSPC}"):
            journal["big"] = bytes(700_000)
        with pytest.raises(MemoryError, match="no memory"):
            journal.buffer("buffer", 800_000)
        count = 0
        with pytest.raises(MemoryError, match="no memory"):
            while True:
                journal[count] = "x" * 3000
                count += 1
        assert count > 100
        expected: dict[Hashable, Any] = dict.fromkeys(range(count), "x" * 3000)
        expected["first"] = 1
        assert rescued(journal) == expected == dict(journal)
        del journal[0]
        journal["other"] = "y" * 3000
        assert rescued(journal)["other"] == "y" * 3000

    code = in_child(body)
    if code == 77:
        pytest.skip("no mount namespace to be had")
    assert code == 0


def test_no_address_space_is_an_error(tmp_path: Path) -> None:
    """Where RLIMIT_AS forbids the mapping, the first assignment says so."""

    def body() -> None:
        import resource

        journal = limited(1 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 31, resource.RLIM_INFINITY))
        with pytest.raises(MemoryError, match="no address space for faultguard_data with its limit of 1073741824"):
            journal["x"] = 1

    assert in_child(body) == 0


# -- buffers -------------------------------------------------------------------------------------------------------


def test_buffer_is_live_zeroed_and_stays_where_it_is(data: Journal) -> None:
    """What is written to a buffer is rescued without any further call."""
    data["junk"] = b"\xff" * 5000
    del data["junk"]
    view = data.buffer("b", 4900)
    assert bytes(view) == bytes(4900)
    assert not view.readonly
    array = np.frombuffer(view, "u1")
    for n in range(1000):
        data[n] = bytes(n)
    array[:3] = 1, 2, 3
    assert data["b"][:4] == rescued(data)["b"][:4] == b"\1\2\3\0"
    again = data.buffer("b", 4900)
    again[0] = 9
    assert view[0] == 9
    assert ctypes.addressof(ctypes.c_char.from_buffer(again)) == array.ctypes.data


def test_reading_a_buffer_is_a_copy(data: Journal) -> None:
    """data[key] is bytes that later writes do not reach."""
    view = data.buffer("b", 3)
    copy = data["b"]
    view[:] = b"new"
    assert copy == bytes(3)
    assert type(copy) is bytes


def test_buffer_refuses_what_cannot_be(data: Journal) -> None:
    """Another size, a key that holds a value, and nonsense are named."""
    data.buffer("b", 10)
    data["v"] = 1
    with pytest.raises(ValueError, match=r"the buffer faultguard_data\['b'\] has 10 bytes, not 11"):
        data.buffer("b", 11)
    with pytest.raises(ValueError, match=r"faultguard_data\['v'\] holds a value"):
        data.buffer("v", 10)
    for size in (0, -1):
        with pytest.raises(ValueError, match="must be positive"):
            data.buffer("c", size)
    for wrong in (1.5, "1", True, None):
        with pytest.raises(TypeError, match="must be an int"):
            data.buffer("c", wrong)  # type: ignore[arg-type]
    assert list(data) == ["b", "v"]


def test_memory_of_a_buffer_is_never_used_again() -> None:
    """C may write through a pointer after the key was assigned or deleted; it hits nothing, and stays counted."""
    journal = limited(1_000_000)
    first = journal.buffer("a", 100_000)
    second = journal.buffer("b", 100_000)
    journal["a"] = "value"
    del journal["b"]
    for n in range(300):
        journal[n % 7] = bytes(n * 300)
    first[:] = second[:] = b"\xee" * 100_000
    assert rescued(journal) == dict(journal)
    assert journal["a"] == "value"
    with pytest.raises(MemoryError):
        journal["c"] = bytes(850_000)
    third = journal.buffer("b", 50)
    assert bytes(third) == bytes(50)
    journal.close()


def test_buffer_counts_to_the_limit() -> None:
    """A buffer past the limit is a MemoryError."""
    journal = limited(1000)
    with pytest.raises(MemoryError, match="limit of 1000 bytes"):
        journal.buffer("b", 1001)
    journal.close()


def test_close_tolerates_views_and_gives_the_descriptor_back() -> None:
    """After close() a view is still memory, everything else is a clear error."""
    journal = limited(1 << 20)
    fd = journal.fileno()
    view = journal.buffer("b", 10)
    journal.close()
    journal.close()
    view[0] = 1
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    for use in (
        journal.fileno,
        journal.claim,
        lambda: journal["b"],
        lambda: journal.buffer("b", 10),
        lambda: len(journal),
    ):
        with pytest.raises(ValueError, match="closed"):
            use()
    with pytest.raises(ValueError, match="closed"):
        journal["x"] = 1
    assert repr(journal) == "<Journal: closed>"


def test_nothing_stays_open() -> None:
    """A closed journal leaves no descriptor and no mapping."""
    gc.collect()
    before = os.listdir("/proc/self/fd")
    journal = limited(1 << 20)
    journal["x"] = 1
    assert "faultguard-journal" in Path("/proc/self/maps").read_text()
    journal.close()
    assert os.listdir("/proc/self/fd") == before
    assert "faultguard-journal" not in Path("/proc/self/maps").read_text()


# -- who may write -------------------------------------------------------------------------------------------------


def test_forked_process_may_read_but_not_write(data: Journal) -> None:
    """In a process that the writer forked, writes are a RuntimeError; reads see what the writer writes."""
    data["x"] = [1]
    view = data.buffer("b", 4)
    ours, theirs = os.pipe(), os.pipe()

    def body() -> None:
        for write in (
            lambda: data.__setitem__("x", 2),
            lambda: data.__delitem__("x"),
            lambda: data.buffer("c", 4),
            lambda: data.buffer("b", 4),
        ):
            with pytest.raises(RuntimeError, match="a process that the test started may not write faultguard_data"):
                write()
        with pytest.raises(RuntimeError, match="belongs to process"):
            data.claim()
        assert data["x"] == [1]
        assert "x" in data
        assert len(data) == 2
        os.write(theirs[1], b"1")
        os.read(ours[0], 1)
        assert dict(data) == {"x": [2], "b": b"live", "y": 3}
        with pytest.raises(KeyError):
            data["z"]

    pid = os.fork()
    if not pid:
        os._exit(in_child(body))
    os.read(theirs[0], 1)
    data["x"] = [2]
    view[:] = b"live"
    data["y"] = 3
    os.write(ours[1], b"1")
    assert os.waitpid(pid, 0)[1] == 0
    for fd in (*ours, *theirs):
        os.close(fd)


def test_process_forked_by_c_may_not_write(data: Journal) -> None:
    """A fork that Python did not see is refused, too."""
    data["x"] = 1
    libc = ctypes.PyDLL(None)
    pid = libc.fork()
    if not pid:
        try:
            data["x"] = 2
        except RuntimeError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert rescued(data) == {"x": 1}


def test_mark_by_pid_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel cannot wipe a page on fork, the pid tells."""
    monkeypatch.setattr(module, "_MADV_WIPEONFORK", 12345)
    journal = limited(1 << 20)
    journal["x"] = 1

    def body() -> None:
        with pytest.raises(RuntimeError, match="may not write"):
            journal["x"] = 2

    assert in_child(body) == 0
    assert dict(journal) == {"x": 1}
    journal.close()


def test_child_that_claims_writes_for_its_parent() -> None:
    """The parent makes the journal, the child claims and fills it, the parent reads after the child's death."""
    journal = Journal.create()
    with pytest.raises(RuntimeError, match="claimed"):
        journal["x"] = 0

    def body() -> None:
        journal.claim()
        journal.claim()
        journal["x"] = np.arange(50_000)
        journal.buffer("b", 3)[:] = b"abc"
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(body) == -signal.SIGKILL
    found = rescued(journal)
    assert np.array_equal(found["x"], np.arange(50_000))
    assert found["b"] == b"abc"
    assert list(journal) == ["x", "b"]
    journal.close()


def test_records_tell_what_they_are_without_loading(data: Journal) -> None:
    """Raw key, kind, size and payload are to be had without unpickling."""
    data["x"] = Untouchable()
    data.buffer("b", 5)
    first, second = read(data.fileno()).records
    assert pickle.loads(first.key) == "x"
    assert first.kind is Kind.PICKLE
    assert len(first.payload()) == first.size
    assert (second.kind, second.size, second.payload()) == (Kind.BUFFER, 5, bytes(5))
    with pytest.raises(AssertionError, match="unpickled"):
        first.load_value()


def test_value_replaced_after_it_was_found_is_not_mixed(data: Journal) -> None:
    """Loading late is an error, not another value's bytes."""
    data["x"] = np.zeros(100_000)
    (record,) = read(data.fileno()).records
    for n in range(3):
        data["x"] = np.full(100_000, n)
    with pytest.raises(JournalError, match="changed"):
        record.load_value()


# -- threads and signals -------------------------------------------------------------------------------------------


def test_threads_may_write(data: Journal) -> None:
    """Threads that write keys of their own and a common one lose and mix nothing."""
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for n in range(300):
                data[number] = [number, n, b"%d" % n * (n * 40)]
                data["common"] = np.full(20_000, n)
                assert data[number][2] == b"%d" % n * (n * 40)
                assert len(set(data["common"].tolist())) == 1
                if n % 50 == 0:
                    del data[number]
        except BaseException as error:  # Told to the main thread.
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert not errors
    found = rescued(data)
    assert {key: found[key][:2] for key in range(4)} == {key: [key, 299] for key in range(4)}
    assert set(found["common"].tolist()) == {299}


def test_signal_may_interrupt_an_assignment_and_write(data: Journal) -> None:
    """A signal handler that assigns, deletes and reads the same keys neither deadlocks nor tears; nor one amid another."""
    calls = depth = 0

    def on_alarm(number: int, frame: FrameType | None) -> None:
        nonlocal calls, depth
        calls, depth = calls + 1, depth + 1
        if depth < 4:
            # The next one amid this one.
            signal.setitimer(signal.ITIMER_REAL, calls * 7 % 30 * 1e-6 + 1e-6)
        data["same"] = ["signal", b"s" * (calls * 97 % 3000)]
        data["alarm"] = calls
        if calls % 3 == 0:
            try:
                del data["same"]
            except KeyError:  # Another signal's handler was quicker.
                pass
        value = data.get("same")
        assert value is None or set(value[1]) <= {b"s"[0], b"m"[0]}
        depth -= 1
        signal.setitimer(signal.ITIMER_REAL, 0.0002)

    former = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.0002)
    n = 0
    try:
        while calls < 6000:
            n += 1
            data["same"] = ["main", b"m" * (n * 89 % 3000)]
            data["array"] = np.full(n % 500, n)
            try:
                del data["same"]
            except KeyError:  # The signal handler was quicker.
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    found = rescued(data)
    assert found["alarm"] == data["alarm"]
    assert set(found) == set(data)
    assert_sound(data)


def assert_sound(journal: Journal) -> None:
    """No space is in use twice: many new values of many sizes all stay what they are."""
    kept = {key: journal[key] for key in journal}
    new = {n: bytes([n]) * (n * n * 8) for n in range(0, 40, 2)}
    for key, value in new.items():
        journal[key] = value
    found = rescued(journal)
    assert list(found) == list(journal)
    for source in (journal, found):
        for name, value in [*kept.items(), *new.items()]:
            assert np.array_equal(source[name], value)
    for key in new:
        del journal[key]
    assert list(rescued(journal)) == list(kept)


# -- interrupted anywhere ------------------------------------------------------------------------------------------

Step = Callable[[Journal], object]
STEPS: list[Step] = [
    lambda journal: journal.__setitem__("a", 1),
    lambda journal: journal.__setitem__("a", 2),
    lambda journal: journal.__setitem__("b", b"b" * MEDIUM),
    lambda journal: journal.__setitem__("b", b"c" * MEDIUM),
    lambda journal: journal.__setitem__("b", np.frombuffer(b"d" * LARGE, "u1")),
    lambda journal: journal.__setitem__("b", "e" * MEDIUM),
    lambda journal: journal.buffer("v", 100),
    lambda journal: journal.__delitem__("a"),
    lambda journal: journal.__setitem__("a", [3] * SMALL),
    lambda journal: journal.__setitem__("v", "no buffer any more"),
    lambda journal: journal.__delitem__("b"),
    lambda journal: journal.clear(),
]


def states() -> list[str]:
    """What the journal holds before the first and after each step."""
    journal = limited(1 << 24)
    result = [repr(rescued(journal))]
    for step in STEPS:
        step(journal)
        result.append(repr(rescued(journal)))
    journal.close()
    return result


class DyingMap(mmap.mmap):
    """A mapping whose process dies at the n-th store, which is done in part."""

    left: int
    part: str

    def __setitem__(self, where: Any, what: Any) -> None:
        self.left -= 1
        if self.left:
            super().__setitem__(where, what)
            return
        if isinstance(where, int):
            if self.part == "all":
                super().__setitem__(where, what)
        else:
            size = len(what)
            done = {"none": [], "front": range(size // 2), "back": range(size // 2, size), "all": range(size)}[
                self.part
            ]
            for index in done:
                super().__setitem__(where.start + index, what[index])
        os._exit(3)


class DyingJournal(Journal):
    left = 0
    part = "all"

    def _map_file(self) -> mmap.mmap:
        shared = DyingMap(self.fileno(), os.fstat(self.fileno()).st_size)
        shared.left, shared.part = self.left, self.part
        return shared


@pytest.mark.parametrize("part", ["none", "front", "back", "all"])
def test_writer_stopped_after_every_store(part: str) -> None:
    """Whichever store is the last, in part or in full: the state is the one before or after the step under way."""
    expected = states()
    progress = mmap.mmap(-1, 1)
    stores = 0
    code = 3
    while code == 3:
        stores += 1
        journal = DyingJournal.create(1 << 24)
        assert isinstance(journal, DyingJournal)
        journal.left, journal.part = stores, part
        progress[0] = 0

        def body(journal: Journal = journal) -> None:
            journal.claim()
            for step in STEPS:
                step(journal)
                progress[0] += 1

        code = in_child(body)
        found = read(journal.fileno())
        assert found.gaps == (), (stores, progress[0])
        allowed = expected[progress[0] : progress[0] + 2]
        if progress[0] == len(STEPS) - 1:  # clear() deletes one key after the other.
            allowed.append(repr({"v": "no buffer any more"}))
            allowed.append(repr({"a": [3] * SMALL}))
        assert repr(contents(found)) in allowed, (stores, progress[0])
        journal.close()
    assert code == 0
    assert stores > 3 * len(STEPS)


@dataclass
class At:
    """Does something at the n-th line of the journal's module, or right after its n-th call of a C function.

    These are the moments at which CPython runs signal handlers, and more than all of them.
    """

    moment: str
    left: int
    action: Callable[[], object]
    done: bool = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> At | None:
        if frame.f_code.co_filename != module.__file__ or self.done:
            return None
        if event == self.moment:
            self.left -= 1
            if self.left < 0:
                self.done = True
                sys.settrace(None)
                sys.setprofile(None)
                self.action()
        return self

    def during(self, step: Callable[[], object]) -> None:
        trace, profile = sys.gettrace(), sys.getprofile()
        if self.moment == "line":
            sys.settrace(self)
        else:
            sys.setprofile(self)
        try:
            step()
        finally:
            sys.settrace(trace)
            sys.setprofile(profile)


moments = pytest.mark.parametrize("moment", ["line", "c_return"])


def raise_interrupt() -> None:
    raise KeyboardInterrupt


STEPS_TO_INTERRUPT = range(len(STEPS) - 1)


@moments
@pytest.mark.parametrize("index", STEPS_TO_INTERRUPT)
def test_exception_at_every_moment_leaves_a_valid_journal(index: int, moment: str) -> None:
    """KeyboardInterrupt anywhere: the state is the one before or after, here and on the reading side."""
    expected = states()
    line = 0
    at = None
    while at is None or at.done:
        journal = limited(1 << 24)
        for step in STEPS[:index]:
            step(journal)
        at = At(moment, line, raise_interrupt)
        try:
            at.during(lambda journal=journal: STEPS[index](journal))  # type: ignore[misc]
        except KeyboardInterrupt:
            pass
        else:
            assert not at.done
        assert repr(rescued(journal)) in expected[index : index + 2], line
        assert repr(dict(journal)) in expected[index : index + 2], line
        assert_sound(journal)
        journal.close()
        line += 1
    assert line > 4


def in_turn(*steps: Step) -> Step:
    def both(journal: Journal) -> None:
        for step in steps:
            step(journal)

    return both


NESTED: list[Step] = [
    lambda journal: journal.__setitem__("b", ["nested"]),
    lambda journal: journal.__setitem__("b", b"n" * MEDIUM),
    lambda journal: journal.pop("b", None),
    in_turn(lambda journal: journal.pop("b", None), lambda journal: journal.__setitem__("b", ["nested"])),
    in_turn(lambda journal: journal.pop("a", None), lambda journal: journal.__setitem__("a", ["nested"])),
    in_turn(lambda journal: journal.__setitem__("b", ["nested"]), lambda journal: journal.__delitem__("b")),
    in_turn(lambda journal: journal.__setitem__("a", ["nested"]), lambda journal: journal.__delitem__("a")),
    lambda journal: journal.__setitem__("other", ["nested"]),
]


@moments
@pytest.mark.parametrize("nested", range(len(NESTED)))
@pytest.mark.parametrize("index", [0, 2, 3, 4, 7])
def test_write_at_every_moment_of_a_write(index: int, nested: int, moment: str) -> None:
    """What a signal handler writes anywhere in a write counts as before or after; both sides agree on it."""
    allowed = []
    for order in ((STEPS[index], NESTED[nested]), (NESTED[nested], STEPS[index])):
        journal = limited(1 << 24)
        for step in (*STEPS[:index], *order):
            try:
                step(journal)
            except KeyError:
                pass
        allowed.append(sorted((key, repr(value)) for key, value in rescued(journal).items()))
        journal.close()
    line = 0
    at = None
    while at is None or at.done:
        journal = limited(1 << 24)
        for step in STEPS[:index]:
            step(journal)

        def action(journal: Journal = journal) -> None:
            NESTED[nested](journal)

        at = At(moment, line, action)
        try:
            at.during(lambda journal=journal: STEPS[index](journal))  # type: ignore[misc]
        except KeyError:
            assert at.done
        assert not at.done or sorted((key, repr(value)) for key, value in rescued(journal).items()) in allowed, line
        assert repr(dict(journal)) == repr(rescued(journal)), line
        assert_sound(journal)
        journal.close()
        line += 1
    assert line > 4


# -- damage --------------------------------------------------------------------------------------------------------


def full_journal() -> tuple[Journal, dict[Hashable, Any]]:
    journal = limited(1 << 20)
    for n in range(4):
        journal["short"] = n
        journal["medium"] = bytes([n]) * MEDIUM
        journal["array"] = np.frombuffer(bytes([n]) * LARGE, "u1")
    journal["deleted"] = 1
    del journal["deleted"]
    return journal, {key: repr(value) for key, value in journal.items()}


places = st.one_of(
    st.integers(0, 64),
    st.integers(4096, 4104),
    st.integers(16_384, 16_384 + 128 * 12),
    st.integers(16_384, 16_384 + 128 * 128),
    st.integers(module._ARENA, module._ARENA + 4 * LARGE),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    flips=st.lists(
        st.tuples(places, st.integers(1, 255).filter(lambda mask: mask != LIVE_TO_IDLE)),
        min_size=1,
        max_size=4,
        unique_by=lambda flip: flip[0],  # Two masks at one place may make that one.
    )
)
def test_flipped_bytes_are_valid_states_or_named_gaps(flips: list[tuple[int, int]]) -> None:
    """Whatever native code scribbles, each key has its whole value or there is a gap; never a mixed one."""
    journal, expected = full_journal()
    for place, mask in flips:
        byte = os.pread(journal.fileno(), 1, place)
        os.pwrite(journal.fileno(), bytes([(byte[0] if byte else 0) ^ mask]), place)
    found = read(journal.fileno())
    for key, value in contents(found).items():
        assert repr(value) == expected[key]
    if len(found.records) < len(expected):
        assert found.gaps
    journal.close()


# The one byte that says that a slot is in use may come by accident where a slot was given up: then an old value is back.
no_live_byte = st.binary(min_size=1, max_size=600).map(lambda junk: junk.replace(bytes([module._LIVE]), b"\0"))


@settings(max_examples=150, deadline=None)
@given(start=places, junk=st.one_of(no_live_byte, st.integers(1, 5000).map(bytes)))
@example(start=16_384, junk=b"\0")
def test_overwritten_ranges_are_valid_states_or_named_gaps(start: int, junk: bytes) -> None:
    """The same for a whole range, such as a memset() that went astray."""
    journal, expected = full_journal()
    os.pwrite(journal.fileno(), junk, start)
    found = read(journal.fileno())
    for key, value in contents(found).items():
        assert repr(value) == expected[key]
    if len(found.records) < len(expected):
        assert found.gaps
    journal.close()


def test_gap_names_the_key(data: Journal) -> None:
    """A damaged value is told by its key, without unpickling; other keys are not affected."""
    data["good"] = 1
    data["bad"] = b"x" * MEDIUM
    data[17] = b"y" * MEDIUM
    data[("tuple", 1)] = b"z" * MEDIUM
    for record in read(data.fileno()).records[1:]:
        os.pwrite(data.fileno(), b"!", record.offset + record.size // 2)
    found = read(data.fileno())
    assert contents(found) == {"good": 1}
    first, second, third = found.gaps
    assert first == "the value of 'bad' is damaged (3018 bytes)"
    assert second.startswith("the value of 17 is damaged")
    assert third.startswith("the value of a key whose pickle has ")


def test_damaged_key_is_a_gap(data: Journal) -> None:
    """A key that cannot be trusted is not shown."""
    data["key"] = b"x" * MEDIUM
    (record,) = read(data.fileno()).records
    os.pwrite(data.fileno(), b"!", record.offset - 3)
    found = read(data.fileno())
    assert found.records == ()
    assert "whose key is damaged, too" in found.gaps[0]


def test_older_value_stands_in_for_a_damaged_one() -> None:
    """Between commit and clean-up both values are there; if the new one is damaged the old one is used, and it is said."""
    for stores in range(1, 60):
        journal = DyingJournal.create(1 << 20)
        assert isinstance(journal, DyingJournal)
        journal.left = stores

        def body(journal: Journal = journal) -> None:
            journal.claim()
            journal["k"] = b"a" * MEDIUM
            journal["k"] = b"b" * MEDIUM

        in_child(body)
        raw = os.pread(journal.fileno(), 128 * 128, 16_384)
        if raw[::128].count(0xB4) == 2:
            break
        journal.close()
    else:
        raise AssertionError("the moment was not found")
    (record,) = read(journal.fileno()).records
    assert record.load_value() == b"b" * MEDIUM
    os.pwrite(journal.fileno(), b"!", record.offset + 100)
    found = read(journal.fileno())
    assert contents(found) == {"k": b"a" * MEDIUM}
    assert found.gaps == ("the value of 'k' is damaged (3018 bytes); the value before it is intact",)
    journal.close()


def test_wiped_directory_is_a_gap(data: Journal) -> None:
    """All of the directory set to zero is noticed, although a zero looks like a slot that was never used."""
    data["k"] = 1
    os.pwrite(data.fileno(), bytes(128 * 128), 16_384)
    assert "128 damaged slots" in read(data.fileno()).gaps[0]


def test_wiped_header_is_a_gap_and_hides_nothing(data: Journal) -> None:
    """The reading side needs no number of the header."""
    data["k"] = 1
    os.pwrite(data.fileno(), bytes(4096), 0)
    found = read(data.fileno())
    assert contents(found) == {"k": 1}
    assert "header is damaged" in found.gaps[0]


def test_another_layout_is_a_gap(data: Journal) -> None:
    """A journal of another version is named, not guessed at."""
    data["k"] = 1
    version = module._HEADER.pack(module._MAGIC, 2, 0)[:-4]
    os.pwrite(data.fileno(), version + module._CHECKSUM.pack(module._crc32(version)), module._HEADER_AT)
    assert read(data.fileno()).gaps == ("the journal could not be read: its layout is version 2, not 1",)


def test_gaps_are_bounded() -> None:
    """A thousand damaged values do not make a thousand lines."""
    journal = limited(1 << 24)
    for n in range(1000):
        journal[n] = "x" * 100
    for record in read(journal.fileno()).records:
        os.pwrite(journal.fileno(), b"!", record.offset + 50)
    gaps = read(journal.fileno()).gaps
    assert len(gaps) == 101
    assert gaps[-1] == "and 900 more"
    journal.close()


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.lists(st.tuples(places, st.binary(max_size=300)), max_size=6),
    size=st.one_of(st.just(None), st.integers(0, 70_000), st.integers(0, module._ARENA + 100_000)),
)
def test_any_bytes_can_be_read(pieces: list[tuple[int, bytes]], size: int | None) -> None:
    """The reading side never raises, whatever the file holds and however short it is."""
    fd = os.memfd_create("junk")
    for place, junk in pieces:
        os.pwrite(fd, junk, place)
    if size is not None:
        os.ftruncate(fd, size)
    found = read(fd)
    assert found.records == ()
    os.close(fd)


@settings(max_examples=100, deadline=None)
@given(fields=st.tuples(*[st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64, 64, 64, 64, 32, 32)]))
def test_impossible_numbers_under_a_right_checksum(fields: tuple[int, ...]) -> None:
    """Sizes and offsets beyond all bounds are gaps, even if someone had made their checksum right."""
    journal = limited(1 << 20)
    journal["k"] = 1
    body = module._BODY.pack(*fields, b"")
    slot = 16_384 + 5 * 128
    os.pwrite(journal.fileno(), module._CHECKSUM.pack(module._adler32(body, slot)) + body, slot + 4)
    os.pwrite(journal.fileno(), b"\xb4", slot)
    found = read(journal.fileno())
    assert contents(found) == {"k": 1}
    assert found.gaps
    journal.close()


@pytest.mark.parametrize("fd", [-1, 1 << 20, 1 << 80])
def test_a_bad_descriptor_is_a_gap(fd: int) -> None:
    """Even this does not raise."""
    assert read(fd).gaps[0].startswith("the journal could not be read")


def test_pipe_and_directory_are_gaps() -> None:
    """Nor do these."""
    ends = os.pipe()
    folder = os.open("/", os.O_RDONLY)
    for fd in (*ends, folder):
        assert read(fd).gaps
        os.close(fd)


@given(st.binary(max_size=3000), st.integers(0, 7))
def test_sums_are_the_same_with_numpy_and_without(raw: bytes, shift: int) -> None:
    """A reading process need not have NumPy where the writer had it; values begin anywhere."""
    view = memoryview(raw)[shift:]

    assert module._summed(view, module._numpy_sums) == module._summed(view, module._python_sums)


@pytest.mark.parametrize("size", [1 << 16, 300_003, (1 << 20) + 7])
def test_a_large_array_shows_every_flipped_byte(data: Journal, size: int) -> None:
    """Its checksum is over sums; whichever byte of it was scribbled over, the value is a gap."""
    data["large"] = np.random.default_rng(size).integers(0, 255, size, dtype=np.uint8)
    (record,) = read(data.fileno()).records
    assert record.summed

    for at in (0, 1, 511, 512, size // 2, size - 8, size - 1):
        place = record.offset + record.size - size + at
        (byte,) = os.pread(data.fileno(), 1, place)
        os.pwrite(data.fileno(), bytes([byte ^ 0x10]), place)
        found = read(data.fileno())
        os.pwrite(data.fileno(), bytes([byte]), place)
        assert (found.records, len(found.gaps)) == ((), 1)
    assert contents(read(data.fileno()))["large"].tobytes() == data["large"].tobytes()


def test_without_numpy_a_large_value_has_its_crc(data: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody pays for loading NumPy, and a test's stand-in for it does no harm."""
    for number, stand_in in enumerate((None, object())):
        monkeypatch.setitem(sys.modules, "numpy", stand_in)
        data[number] = bytes(100_000)

    found = read(data.fileno())

    assert [record.summed for record in found.records] == [False, False]
    assert found.gaps == ()


def test_a_file_of_somebody_elses_under_the_journals_number_is_left_alone(tmp_path: Path) -> None:
    """The test has closed descriptors, and opened a file since."""
    journal = limited(1 << 20)
    journal["small"] = 1
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    kept = os.dup(journal.fileno())
    os.dup2(file, journal.fileno())
    os.close(file)

    with pytest.raises(MemoryError, match=r"cannot save faultguard_data\['large'\]: the test closed the journal's"):
        journal["large"] = bytes(LARGE)

    assert (tmp_path / "file").stat().st_size == 0
    assert contents(read(kept)) == {"small": 1}
    journal.close()
    os.close(kept)
