"""Pages that a fork shares: which a child has touched, and how its guard copies those of the next one ahead."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
from array import array
from collections.abc import Callable
from collections.abc import Iterator

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

KNOWN = {"together": populate_together, "each": populate_each}


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    """As many pages, each with its number in its first byte, that are no file's and so are shared by a fork until written to."""
    with mmap.mmap(-1, COUNT * SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as mapping:
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
    first = first_page(memory)
    return {page - first for page in numbers(told) if first <= page < first + COUNT}


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


@pytest.mark.parametrize("populate", KNOWN.values(), ids=KNOWN)
def test_the_kernel_copies_ranges_in_one_call_or_one_by_one(
    memory: mmap.mmap, populate: Callable[[array[int]], bool]
) -> None:
    """More than one call takes, and apart from each other."""
    if populate is populate_together and not populate(array("L")):
        pytest.skip("this kernel cannot")
    start = first_page(memory) * SIZE
    ranges = array("L", [number for place in range(0, COUNT, 2) for number in (start + place * SIZE, SIZE)])
    many = ranges * (2000 // (COUNT // 2))
    seen: list[object] = []

    in_fork(lambda: b"", lambda: seen.extend([populate(ranges), own(memory), populate(many)]))

    assert seen == [True, set(range(0, COUNT, 2)), True]


@pytest.mark.parametrize("populate", KNOWN.values(), ids=KNOWN)
def test_a_range_that_is_gone_is_told(populate: Callable[[array[int]], bool]) -> None:
    """The rest of them may be as old."""
    memory = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    ranges = array("L", [first_page(memory) * SIZE, SIZE])
    memory.close()

    assert not populate(ranges)


def test_after_a_range_is_gone_children_are_asked_anew() -> None:
    """Nothing is copied until they have answered."""
    with mmap.mmap(-1, COUNT * SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:] = b"x" * len(memory)
        pages = learned(memory, range(4), range(4))

    pages.copy()

    assert pages.ask()


def test_one_child_is_asked_when_there_were_twice_as_many(memory: mmap.mmap) -> None:
    """The second and the third, and then seldom; one that has not answered, the next one stands in for."""
    pages, told = Pages(), in_fork(writes(memory, range(4)))
    asked = []
    for number in range(1, 30):
        if pages.ask():
            asked.append(number)
            if number != 6:
                pages.take(told)

    assert asked == [2, 3, 6, 7, 14, 28]


def test_for_a_child_that_tells_nothing_is_copied(memory: mmap.mmap) -> None:
    """Else what was copied once would be told for ever."""
    pages = learned(memory, range(8), range(8))
    while not pages.ask():
        pass

    told = in_fork(writes(memory, range(2)), pages.copy)

    assert places(told, memory) == set(range(2))


def test_on_one_processor_nothing_is_copied(memory: mmap.mmap) -> None:
    """The child would wait for it."""
    pages = learned(memory, range(8), range(8))
    allowed = os.sched_getaffinity(0)
    seen: list[set[int]] = []

    def copy() -> None:
        pages.copy()
        seen.append(own(memory))

    os.sched_setaffinity(0, {min(allowed)})
    try:
        in_fork(lambda: b"", copy)
        assert not any(pages.ask() for _ in range(10))
    finally:
        os.sched_setaffinity(0, allowed)

    assert seen == [set()]


def test_pages_that_only_a_child_has_are_not_made_here() -> None:
    """It may have begun to use memory that was reserved."""
    with mmap.mmap(-1, COUNT * SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        pages = learned(memory, range(COUNT), range(COUNT))
        in_fork(lambda: b"", pages.copy)

        assert own(memory) == set()


def test_a_child_without_descriptors_tells_nothing(memory: mmap.mmap) -> None:
    """And its test has passed all the same."""

    def do() -> bytes:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        return touched()

    told = in_fork(do)
    assert told == b""

    pages = Pages()
    pages.take(told)
    pages.copy()


def test_memory_that_is_only_reserved_takes_no_time(memory: mmap.mmap) -> None:
    """To ask for the state of a terabyte would take seconds, and memory."""
    with mmap.mmap(-1, 1 << 40, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE):

        def do() -> bytes:
            resource.setrlimit(resource.RLIMIT_CPU, (1, 2))
            return writes(memory, range(4))()

        assert places(in_fork(do), memory) == set(range(4))


def test_what_is_told_is_bounded() -> None:
    """A child that has written to all there is would keep its guard busy for long."""
    with mmap.mmap(-1, 8192 * SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:] = bytes(len(memory))

        assert len(numbers(in_fork(writes(memory, range(8192))))) == 4096
