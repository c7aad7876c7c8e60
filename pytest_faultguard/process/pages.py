"""What a fork costs, carried by two: pages that a child will write to are copied by its guard, which only waits.

After a fork the two processes share their pages, and whoever writes to one first copies it. In CPython to use an object is
to write its reference count, so a child that runs next to nothing writes to a thousand. Here, to copy one in a fault took
3.6 µs, to write to one that the other side has copied 1.1 µs, and to have the kernel copy many in one call 2.9 µs each
(``MADV_POPULATE_WRITE``, see ``madvise(2)``). Nothing is changed by that but who copies, and when.

Which pages, earlier children have told: the kernel says of each page whether a process has it for itself
(``/proc/PID/pagemap``, see ``proc_pid_pagemap(5)``).

Pages side by side are a *run*: the number of the first, and how many.
"""

from __future__ import annotations

import ctypes
import io
import itertools
import mmap
import os
import re
import sys
from array import array
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any
from typing import Literal
from typing import TypeAlias
from typing import final

Run: TypeAlias = tuple[int, int]

#: The first child writes to what no other will. After two have told, one is asked when there were so many, and then whenever
#: there were twice as many.
_FIRST, _NEXT = 2, 64
#: More than a short test writes to, 16 MiB; with all of them a guard is busy for some 12 ms.
_MOST_PAGES = (16 << 20) // mmap.PAGESIZE
#: Of how many pages a child asks the kernel for their state, 1 GiB: some reserve far more than they use, AddressSanitizer
#: for example 20 TB.
_MOST_ASKED = (1 << 30) // mmap.PAGESIZE

#: From the kernel's ``asm-generic``: the C library need not have names for them.
_POPULATE_WRITE = 23
_PROCESS_MADVISE = 440
#: ``UIO_MAXIOV``.
_MOST_RANGES = 1024
#: ``unsigned long``, as numbers of pages and what ``struct iovec`` is made of.
_WORD: Literal["L"] = "L"
_WORD_BYTES = array(_WORD).itemsize

#: Of a page's entry, the highest byte has this and no more where it is of memory that is no file's: it is present, and it
#: is shared with no other process.
_PRESENT, _EXCLUSIVE = 0x80, 0x01
_ENTRY_BYTES = 8
_HIGHEST = 0 if sys.byteorder == "big" else _ENTRY_BYTES - 1
_OWN = re.compile(b"[%c]+" % (_PRESENT | _EXCLUSIVE))
_THERE = re.compile(b"[%c%c]+" % (_PRESENT, _PRESENT | _EXCLUSIVE))

#: What may go wrong without being anybody's fault, or because a child's memory was written over. Nothing that a handler of a
#: signal raises is to be kept from who waits for it.
_FAILURES = (OSError, ValueError, OverflowError, MemoryError)

# Where nothing is forked, the library need not have these functions, and imports this module.
_libc: Any = ctypes.CDLL(None) if hasattr(os, "pidfd_open") else None
if _libc is not None:
    _libc.madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    _libc.syscall.argtypes = ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint
    _libc.syscall.restype = ctypes.c_ssize_t


def touched() -> bytes:
    """In a child at its end: the pages that it shares with its guard no longer, whichever of the two has written to them.

    For :meth:`Pages.take`. Empty where the kernel does not tell.
    """
    found, left, asked = array(_WORD), _MOST_PAGES, 0
    try:
        # No Path, and no `open`: the first touches much itself, and the test may have left another one for the second.
        with io.FileIO("/proc/self/maps") as maps, io.FileIO("/proc/self/pagemap") as pagemap:
            for line in maps.readall().splitlines():
                addresses, permissions, *_ = line.split(maxsplit=2)
                first, end = (int(address, 16) // mmap.PAGESIZE for address in addresses.split(b"-"))
                if permissions != b"rw-p" or asked + end - first > _MOST_ASKED:
                    continue
                asked += end - first
                for start, count in _matching(_OWN, pagemap, first, end - first):
                    found.extend((start, min(left, count)))
                    left -= count
                    if left <= 0:
                        return found.tobytes()
    except _FAILURES:
        return b""  # No descriptor is left, or hardly any memory.
    return found.tobytes()


@final
class Pages:
    """The pages that the children of this process write to, whatever they run.

    To know them is of use and no more: nothing is raised here. Runs are kept as numbers in a row; as objects they would
    come and go by the thousand among those that pytest keeps of each test, and leave memory in pieces.
    """

    def __init__(self) -> None:
        self._forks = 0
        self._due = _FIRST
        self._is_asking = False
        #: By the last child that was asked.
        self._told: memoryview[int] | None = None
        #: As an array of ``struct iovec``: address, length, address, length, …
        self._ranges: array[int] = array(_WORD)
        #: None where nothing is to be gained.
        self._populate = _way_to_populate()

    def ask(self) -> bool:
        """Before a fork: whether the child is to tell what it has touched."""
        self._forks += 1
        self._is_asking = self._populate is not None and self._forks >= self._due
        return self._is_asking

    def take(self, told: bytes) -> None:
        """A child has told: what the one before it had told as well, others will touch."""
        before, self._told = self._told, None
        self._ranges = array(_WORD)
        try:
            runs = _understood(told)
            if before is None:
                self._told, self._due = runs, self._forks + 1
                return
            self._due = max(_NEXT, self._forks * 2)
            for run in _present(_common(_runs(runs), _runs(before))):
                self._ranges.extend(number * mmap.PAGESIZE for number in run)
            self._told = runs
        except _FAILURES:
            self._ranges, self._populate = array(_WORD), None

    def copy(self) -> None:
        """Right after a fork: copy what the child will write to, while it begins."""
        # Of a child that tells, none: it could not tell them from those that it has written to.
        if self._populate is None or self._is_asking or not self._ranges:
            return
        try:
            self._populate(self._ranges)
        except OSError:
            pass  # No descriptor.


def _understood(told: bytes) -> memoryview[int]:
    """What a child has told, whose memory may have been written over before.

    Raises:
        ValueError: no child tells that.
    """
    if len(told) % (2 * _WORD_BYTES):
        raise ValueError
    runs = memoryview(told).cast(_WORD)
    if sum(count for _, count in _runs(runs)) > _MOST_PAGES:
        raise ValueError
    return runs


def _way_to_populate() -> Callable[[array[int]], None] | None:
    """The best one that there is here; None where the kernel has none, or there is one processor for both.

    On that the child would have to wait for what is done for it.
    """
    try:
        if _libc is None or len(os.sched_getaffinity(0)) == 1:
            return None
        memory = ctypes.create_string_buffer(2 * mmap.PAGESIZE)
        page = ctypes.addressof(memory) // mmap.PAGESIZE + 1
        for populate in (populate_together, populate_each):
            ranges = array(_WORD, [page * mmap.PAGESIZE, mmap.PAGESIZE])
            populate(ranges)
            if ranges:
                return populate
    except OSError:
        pass
    return None


def populate_together(ranges: array[int]) -> None:
    """Have the kernel copy what these ranges share with other processes; those that it refuses are dropped.

    They are no memory any more, or all are refused: one may give oneself such advice from Linux 6.13 on.

    Raises:
        OSError: no descriptor could be had.
    """
    pidfd = os.pidfd_open(os.getpid())
    place = 0
    try:
        while place < len(ranges):
            count = min((len(ranges) - place) // 2, _MOST_RANGES)
            start = ranges.buffer_info()[0] + place * ranges.itemsize
            done = _libc.syscall(_PROCESS_MADVISE, pidfd, start, count, _POPULATE_WRITE, 0)
            if done == sum(_lengths(ranges, place, count)):
                place += 2 * count
                continue
            # It went on up to the first that it refused.
            for length in _lengths(ranges, place, count):
                if done < length:
                    break
                done -= length
                place += 2
            del ranges[place : place + 2]
    finally:
        os.close(pidfd)


def populate_each(ranges: array[int]) -> None:
    """As :func:`populate_together`, one by one, and from Linux 5.14 on."""
    each = enumerate(_runs(ranges))
    refused = [number for number, run in each if _libc.madvise(*run, _POPULATE_WRITE) != 0]
    for number in reversed(refused):
        del ranges[2 * number : 2 * number + 2]


def _lengths(ranges: array[int], place: int, count: int) -> Iterator[int]:
    # No slice: that is some kilobytes for each child, which leave C's memory in pieces.
    return itertools.islice(ranges, place + 1, place + 2 * count, 2)


def _runs(numbers: Iterable[int]) -> Iterator[Run]:
    each = iter(numbers)
    return zip(each, each, strict=True)


def _common(these: Iterator[Run], those: Iterator[Run]) -> Iterator[Run]:
    """The pages of both; each in ascending order."""
    this, that = next(these, None), next(those, None)
    while this is not None and that is not None:
        first, end = max(this[0], that[0]), min(sum(this), sum(that))
        if first < end:
            yield first, end - first
        if sum(this) == end:
            this = next(these, None)
        else:
            that = next(those, None)


def _present(runs: Iterable[Run]) -> Iterator[Run]:
    """What this process has of these pages: a child may have got some that are none here."""
    with io.FileIO("/proc/self/pagemap") as pagemap:
        for first, count in runs:
            yield from _matching(_THERE, pagemap, first, count)


def _matching(states: re.Pattern[bytes], pagemap: io.FileIO, first: int, count: int) -> Iterator[Run]:
    """The pages whose states match, of as many from the first one on."""
    pagemap.seek(first * _ENTRY_BYTES)
    entries = pagemap.read(count * _ENTRY_BYTES)
    for run in states.finditer(entries[_HIGHEST::_ENTRY_BYTES]):
        yield first + run.start(), run.end() - run.start()
