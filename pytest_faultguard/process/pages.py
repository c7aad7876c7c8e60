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
import mmap
import os
import re
from array import array
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any
from typing import TypeAlias
from typing import final

Run: TypeAlias = tuple[int, int]

#: The first child writes to what no other will. After two have told, one is asked whenever there were twice as many.
_FIRST = 2
#: More than a short test writes to; with all of them a guard is busy for some 12 ms.
_MOST_PAGES = 4096

#: Of how many pages a child asks the kernel for their state, 4 GiB: some reserve far more than they use, AddressSanitizer
#: for example 20 TB.
_MOST_ASKED = 1 << 20

#: From the kernel's ``asm-generic``: the C library need not have names for them.
_POPULATE_WRITE = 23
_PROCESS_MADVISE = 440
#: ``UIO_MAXIOV``.
_MOST_RANGES = 1024
#: ``unsigned long``, as numbers of pages and what ``struct iovec`` is made of.
_WORD = "L"

#: Of a page's entry, the highest byte has this and no more where it is of memory that is no file's: it is present, and it
#: is shared with no other process.
_PRESENT, _EXCLUSIVE = 0x80, 0x01
_ENTRY_BYTES = 8
_OWN = re.compile(b"[%c]+" % (_PRESENT | _EXCLUSIVE))
_THERE = re.compile(b"[%c%c]+" % (_PRESENT, _PRESENT | _EXCLUSIVE))

# Windows, where nothing is forked, has no such library, and imports this module.
_libc = ctypes.CDLL(None, use_errno=True) if hasattr(os, "fork") else None
_madvise: Any = getattr(_libc, "madvise", None)
_syscall: Any = getattr(_libc, "syscall", None)
if _libc is not None:
    _madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    _syscall.argtypes = ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint
    _syscall.restype = ctypes.c_ssize_t


def touched() -> bytes:
    """In a child at its end: the pages that it shares with its guard no longer, whichever of the two has written to them.

    For :meth:`Pages.take`. Empty where the kernel does not tell.
    """
    found, left, asked = array(_WORD), _MOST_PAGES, 0
    try:
        # No Path: what finds them out is among what is told, and should be little.
        with open("/proc/self/maps", "rb") as maps, open("/proc/self/pagemap", "rb", buffering=0) as pagemap:  # noqa: PTH123
            for line in maps:
                addresses, permissions, *_ = line.split(maxsplit=2)
                first, end = (int(address, 16) // mmap.PAGESIZE for address in addresses.split(b"-"))
                if permissions != b"rw-p" or asked + end - first > _MOST_ASKED:
                    continue
                asked += end - first
                for start, count in _matching(_OWN, pagemap.fileno(), first, end - first):
                    found.extend((start, min(left, count)))
                    left -= count
                    if left <= 0:
                        return found.tobytes()
    except (OSError, MemoryError):
        return b""  # The test may have left no descriptor, or hardly any memory.
    return found.tobytes()


@final
class Pages:
    """The pages that the children of this process write to, whatever they run.

    Runs are kept as numbers in a row. As objects they would come and go by the thousand among those that pytest keeps of
    each test, and leave memory in pieces.
    """

    def __init__(self) -> None:
        self._forks = 0
        self._due = _FIRST
        self._is_asking = False
        #: By the last child that was asked.
        self._told: array[int] | None = None
        #: As an array of ``struct iovec``: address, length, address, length, …
        self._ranges: array[int] = array(_WORD)
        self._populate = populate_together if _has_process_madvise() else populate_each

    def ask(self) -> bool:
        """Before a fork: whether the child is to tell what it has touched."""
        self._forks += 1
        self._is_asking = self._forks >= self._due and _has_processors()
        return self._is_asking

    def take(self, told: bytes) -> None:
        """A child has told: what the one before it had told as well, others will touch."""
        before, self._told = self._told, array(_WORD, told)
        self._due = self._forks + 1 if before is None else self._forks * 2
        common = _runs(self._told) if before is None else _common(_runs(self._told), _runs(before))
        self._ranges = array(_WORD)
        for run in _present(common):
            self._ranges.extend(number * mmap.PAGESIZE for number in run)

    def copy(self) -> None:
        """Right after a fork: copy what the child will write to, while it begins."""
        # Of a child that tells, none: it could not tell them from those that it has written to.
        if self._is_asking or not self._ranges or not _has_processors():
            return
        if not self._populate(self._ranges):
            self._told, self._ranges, self._due = None, array(_WORD), self._forks + 1


def _has_processors() -> bool:
    """Whether there are two: on a single one, the child would have to wait for what is done for it."""
    return len(os.sched_getaffinity(0)) > 1


def _has_process_madvise() -> bool:
    """Whether a process may give itself such advice in one call, as from Linux 6.13 on."""
    return hasattr(os, "fork") and hasattr(os, "pidfd_open") and populate_together(array(_WORD))


def populate_together(ranges: array[int]) -> bool:
    """Have the kernel copy what these ranges share with other processes; False where one of them is no memory any more."""
    try:
        pidfd = os.pidfd_open(os.getpid())
    except OSError:
        return False
    address, numbers = ranges.buffer_info()
    done = 0
    try:
        for place in range(0, numbers or 1, 2 * _MOST_RANGES):
            count = min(numbers - place, 2 * _MOST_RANGES) // 2
            start = address + place * ranges.itemsize
            done += _syscall(_PROCESS_MADVISE, pidfd, start, count, _POPULATE_WRITE, 0)
    finally:
        os.close(pidfd)
    return done == sum(ranges[1::2])


def populate_each(ranges: array[int]) -> bool:
    """As :func:`populate_together`, one by one; False before Linux 5.14, too."""
    return all(_madvise(address, length, _POPULATE_WRITE) == 0 for address, length in _runs(ranges))


def _runs(numbers: array[int]) -> Iterator[Run]:
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
    try:
        pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        for first, count in runs:
            yield from _matching(_THERE, pagemap, first, count)
    finally:
        os.close(pagemap)


def _matching(states: re.Pattern[bytes], pagemap: int, first: int, count: int) -> Iterator[Run]:
    """The pages whose states match, of as many from the first one on."""
    entries = os.pread(pagemap, count * _ENTRY_BYTES, first * _ENTRY_BYTES)
    # Entries are words of the machine's, and all those that have many users put the highest byte last.
    for run in states.finditer(entries[_ENTRY_BYTES - 1 :: _ENTRY_BYTES]):
        yield first + run.start(), run.end() - run.start()
