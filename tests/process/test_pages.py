"""Pages that a fork shares: which a child has touched, and how its guard copies those of the next one ahead."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
from array import array
from collections.abc import Callable
from collections.abc import Iterator
from unittest.mock import mock_open
from unittest.mock import patch

import pytest

from pytest_faultguard.process.pages import Pages
from pytest_faultguard.process.pages import populate_each
from pytest_faultguard.process.pages import populate_together
from pytest_faultguard.process.pages import touched

SIZE = mmap.PAGESIZE
COUNT = 64
#: Before 3.13, Python has no name for it.
NORESERVE = 0x4000
pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="nothing is copied ahead on one processor")

KNOWN: dict[str, Callable[[array[int]], None]] = {"together": populate_together, "each": populate_each}


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    """As many pages, each with its number in its first byte, that are no file's and so are shared by a fork until written to."""
    with anonymous(COUNT * SIZE) as mapping:
        for number in range(COUNT):
            mapping[number * SIZE] = number
        yield mapping


def first_page(memory: mmap.mmap) -> int:
    """The number of the first of these pages."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory)) // SIZE


def own(memory: mmap.mmap) -> set[int]:
    """Which of these pages this process shares with no other, by place: as the kernel says."""
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        entries = array("Q", os.pread(pagemap.fileno(), COUNT * 8, first_page(memory) * 8))
    return {place for place, entry in enumerate(entries) if entry >> 56 & 1}


def in_fork(do: Callable[[], bytes], meanwhile: Callable[[], object] = lambda: None) -> bytes:
    """What a fork of this process returns which lives until ``meanwhile`` has been done here."""
    reading, writing = os.pipe()
    waiting, going = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(going)
            os.read(waiting, 1)
            with open(writing, "wb") as pipe:
                pipe.write(do())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    os.close(waiting)
    try:
        meanwhile()
    finally:
        os.close(going)
        with open(reading, "rb") as pipe:
            told = pipe.read()
        _, status = os.waitpid(pid, 0)
    assert status == 0
    return told


def writes(memory: mmap.mmap, places: range) -> Callable[[], bytes]:
    """What a child does that writes to these pages and then tells."""

    def do() -> bytes:
        for place in places:
            memory[place * SIZE + 1] = 1
        return touched()

    return do


def numbers(told: bytes) -> set[int]:
    """The numbers of the pages that were told."""
    each = iter(array("L", told))
    return {page for first, count in zip(each, each, strict=True) for page in range(first, first + count)}


def places(told: bytes, memory: mmap.mmap) -> set[int]:
    """Which of these pages were told."""
    first = first_page(memory)
    return {page - first for page in numbers(told) if first <= page < first + COUNT}


def anonymous(size: int, flags: int = 0) -> mmap.mmap:
    """Memory of this process's own, of which it has no page yet."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | flags)


def learned(memory: mmap.mmap, *written: range) -> Pages:
    """What was learned from children that have written to these pages."""
    pages = Pages()
    for one in written:
        while not pages.ask():
            pass
        pages.take(in_fork(writes(memory, one)))
    assert not pages.ask()
    return pages


def test_a_child_tells_what_it_has_written_to(memory: mmap.mmap) -> None:
    """And not what it has only read, nor what it still shares."""
    assert own(memory) == set(range(COUNT))

    told = in_fork(writes(memory, range(8, 24)))

    assert places(told, memory) == set(range(8, 24))
    assert len(numbers(told)) <= 4096


def test_what_two_children_have_written_to_is_copied_while_the_next_one_lives(memory: mmap.mmap) -> None:
    """And the content of every page is what it was, on both sides."""
    pages = learned(memory, range(8, 24), range(16, 40))
    seen: list[set[int]] = []

    def copy() -> None:
        assert own(memory) == set()
        pages.copy()
        seen.append(own(memory))

    content = in_fork(lambda: memory[:], copy)

    assert seen == [set(range(16, 24))]
    assert content == memory[:]
    assert content[::SIZE] == bytes(range(COUNT))


def usable(populate: Callable[[array[int]], None]) -> Callable[[array[int]], None]:
    with anonymous(SIZE) as memory:
        ranges = array("L", [first_page(memory) * SIZE, SIZE])
        populate(ranges)
    if not ranges:
        pytest.skip("this kernel cannot")
    return populate


@pytest.mark.parametrize("way", KNOWN.values(), ids=KNOWN)
def test_the_kernel_copies_ranges_in_one_call_or_one_by_one(
    memory: mmap.mmap, way: Callable[[array[int]], None]
) -> None:
    """More than one call takes, and apart from each other."""
    populate, start = usable(way), first_page(memory) * SIZE
    ranges = array("L", [number for place in range(0, COUNT, 2) for number in (start + place * SIZE, SIZE)])
    many = ranges * (3000 // (COUNT // 2))
    seen: list[object] = []

    def copy() -> None:
        populate(ranges)
        seen.append(own(memory))
        populate(many)

    in_fork(lambda: b"", copy)

    assert seen == [set(range(0, COUNT, 2))]
    assert many == ranges * (3000 // (COUNT // 2))


@pytest.mark.parametrize("way", KNOWN.values(), ids=KNOWN)
@pytest.mark.parametrize("gone", [{0}, {5}, {0, 1, 2}, {9}, {3, 8}, set(range(10))], ids=str)
def test_ranges_that_are_gone_are_dropped(memory: mmap.mmap, way: Callable[[array[int]], None], gone: set[int]) -> None:
    """And the others copied, those behind as well."""
    populate, start = usable(way), first_page(memory) * SIZE
    with anonymous(SIZE) as other:
        nowhere = first_page(other) * SIZE
    runs = [(nowhere if place in gone else start + place * SIZE, SIZE) for place in range(10)]
    ranges = array("L", [number for run in runs for number in run])
    seen: list[set[int]] = []

    def copy() -> None:
        populate(ranges)
        seen.append(own(memory))

    in_fork(lambda: b"", copy)

    assert seen == [set(range(10)) - gone]
    assert len(ranges) == 2 * (10 - len(gone))


def test_nothing_is_raised_whatever_was_told(memory: mmap.mmap) -> None:
    """A child that has written over its own memory may tell anything: then nobody is asked any more."""
    told = in_fork(writes(memory, range(8)))
    for damaged in (told[:-1], told[: len(told) // 2 // 8 * 8 - 8 or 8], array("L", [1, 1 << 62]).tobytes(), b"x"):
        pages = Pages()
        pages.take(told)
        pages.take(damaged)
        pages.copy()

    assert not any(pages.ask() for _ in range(100))


def test_one_child_is_asked_when_there_were_twice_as_many(memory: mmap.mmap) -> None:
    """The second and the third, and then seldom; one that has not answered, the next one stands in for."""
    pages, told = Pages(), in_fork(writes(memory, range(4)))
    asked = []
    for number in range(1, 300):
        if pages.ask():
            asked.append(number)
            if number != 64:
                pages.take(told)

    assert asked == [2, 3, 64, 65, 130, 260]


def test_for_a_child_that_tells_nothing_is_copied(memory: mmap.mmap) -> None:
    """Else what was copied once would be told for ever."""
    pages = learned(memory, range(8), range(8))
    while not pages.ask():
        pass

    told = in_fork(writes(memory, range(2)), pages.copy)

    assert places(told, memory) == set(range(2))


def test_on_one_processor_nothing_is_copied(memory: mmap.mmap) -> None:
    """The child would wait for it."""
    told, allowed = in_fork(writes(memory, range(8))), os.sched_getaffinity(0)
    seen: list[set[int]] = []
    os.sched_setaffinity(0, {min(allowed)})
    try:
        pages = Pages()
        pages.take(told)
        pages.take(told)

        def copy() -> None:
            pages.copy()
            seen.append(own(memory))

        in_fork(lambda: b"", copy)
        assert not any(pages.ask() for _ in range(10))
    finally:
        os.sched_setaffinity(0, allowed)

    assert seen == [set()]


def test_pages_that_only_a_child_has_are_not_made_here() -> None:
    """It may have begun to use memory that was reserved."""
    with anonymous(COUNT * SIZE) as memory:
        pages = learned(memory, range(COUNT), range(COUNT))
        in_fork(lambda: b"", pages.copy)

        assert own(memory) == set()


def test_a_child_without_descriptors_tells_nothing(memory: mmap.mmap) -> None:
    """And its test has passed all the same."""

    def do() -> bytes:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        return touched()

    assert in_fork(do) == b""


def test_a_child_tells_also_where_its_test_has_replaced_open(memory: mmap.mmap) -> None:
    """As ``mock`` does, and somebody may forget to put it back."""

    def do() -> bytes:
        with patch("builtins.open", mock_open(read_data="x")), patch("os.open"):
            return writes(memory, range(4))()

    assert places(in_fork(do), memory) == set(range(4))


def test_memory_that_is_only_reserved_takes_no_time(memory: mmap.mmap) -> None:
    """To ask for the state of a terabyte would take seconds, and memory."""
    with anonymous(1 << 40, NORESERVE):

        def do() -> bytes:
            resource.setrlimit(resource.RLIMIT_CPU, (1, 2))
            return writes(memory, range(4))()

        assert places(in_fork(do), memory) == set(range(4))


def test_what_is_told_is_bounded() -> None:
    """A child that has written to all there is would keep its guard busy for long."""
    with anonymous(8192 * SIZE) as memory:
        memory[:] = bytes(len(memory))

        assert len(numbers(in_fork(writes(memory, range(8192))))) == 4096
