"""A thousand writers killed at random moments: what a journal holds is whole, whatever store was the last."""

from __future__ import annotations

import hashlib
import itertools
import mmap
import os
import pickle
import random
import select
import signal
import struct
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pytest_faultguard.evidence.journal import Journal
from pytest_faultguard.evidence.journal import read

KILLS = 1000
#: Longest time from the first assignment to the kill; many assignments fit.
MOST_SECONDS = 0.004
KEYS = ("array", "bytes", "nested")
PAGES = (16, 17, 40, 64, 128)
PAGE = 4096
STAMP = struct.Struct("<8sQQ")
MAGIC = b"stamped!"


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Random pages, each with room for a stamp at its start, and the digest of all but the stamps."""

    pages: Any
    digest: bytes


@dataclass(slots=True, kw_only=True)
class Tally:
    """How many kills hit which moment."""

    under_way: int = 0
    uncommitted: int = 0
    half_copied: int = 0
    values: int = 0


def digest_of(pages: Any) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(pages[:, STAMP.size :])).digest()


def make_blobs(seed: int) -> list[Blob]:
    """Seeded random values of 64 KiB and more."""
    source = np.random.default_rng(seed)
    blobs = []
    for pages in PAGES:
        array = source.integers(0, 256, (pages, PAGE), "u1")
        blobs.append(Blob(pages=array, digest=digest_of(array)))
    return blobs


def write_for_ever(journal: Journal, blobs: list[Blob], progress: memoryview, ready: int) -> None:
    """Assign stamped values to the keys in turn, and tell before and after each which one it is."""
    journal.claim()
    for number in itertools.count(1):
        index = number % len(blobs)
        pages = blobs[index].pages
        pages[:, : STAMP.size] = np.frombuffer(STAMP.pack(MAGIC, number, index), "u1")
        key = KEYS[number % len(KEYS)]
        value = {"array": pages, "bytes": pages.tobytes(), "nested": {"pages": [pages]}}[key]
        progress[0] = number
        journal[key] = value
        progress[1] = number
        if number == 1:
            os.write(ready, b"1")


def checked(value: Any, blobs: list[Blob]) -> int:
    """The number of the assignment that this value is from, every page of it."""
    pages = value["pages"][0] if isinstance(value, dict) else value
    pages = np.frombuffer(pages, "u1").reshape(-1, PAGE) if isinstance(pages, bytes) else pages
    stamps = {STAMP.unpack(page[: STAMP.size].tobytes()) for page in pages}
    assert len(stamps) == 1, f"mixed of {stamps}"
    magic, number, index = stamps.pop()
    assert magic == MAGIC
    assert pages.shape == blobs[index].pages.shape
    assert digest_of(pages) == blobs[index].digest
    return int(number)


def pages_in_memory(fd: int, number: int, index: int) -> int:
    """How many pages of this assignment lie anywhere in the journal, committed or not."""
    stamp = STAMP.pack(MAGIC, number, index)
    found = 0
    end = 0
    size = os.fstat(fd).st_size
    while True:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:
            return found
        end = os.lseek(fd, start, os.SEEK_HOLE)
        found += os.pread(fd, min(end, size) - start, start).count(stamp)


def kill_once(blobs: list[Blob], progress: memoryview, delay: float, tally: Tally) -> None:
    """One writer, killed after a while, and everything that can be said about what it left."""
    journal = Journal.create()
    ready, told = os.pipe()
    progress[0] = progress[1] = 0
    pid = os.fork()
    if not pid:
        try:
            write_for_ever(journal, blobs, progress, told)
        finally:
            os._exit(1)
    os.close(told)
    pidfd = os.pidfd_open(pid)
    assert os.read(ready, 1) == b"1"
    assert select.select([pidfd], [], [], delay)[0] == []
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    os.close(pidfd)
    os.close(ready)

    begun, done = progress
    found = read(journal.fileno())
    assert found.gaps == ()
    numbers: dict[Hashable, int] = {}
    for record in found.records:
        numbers[record.load_key()] = checked(record.load_value(), blobs)
    tally.values += len(numbers)
    for offset, key in enumerate(KEYS):
        last = max((number for number in range(done, max(done - 3, 0), -1) if number % 3 == offset), default=None)
        allowed = {last, begun} if begun != done and begun % 3 == offset else {last}
        assert numbers.get(key) in allowed, (key, numbers, begun, done)
    if begun != done:
        tally.under_way += 1
        pages = pages_in_memory(journal.fileno(), begun, begun % len(blobs))
        tally.uncommitted += pages > 0 and begun not in numbers.values()
        tally.half_copied += 0 < pages < len(blobs[begun % len(blobs)].pages)
    journal.close()


def test_a_thousand_kills_tear_nothing() -> None:
    """After SIGKILL at any instant each key holds its last completed assignment or the one under way, whole."""
    seed = 20240607
    delays = random.Random(seed)
    blobs = make_blobs(seed)
    # Not by struct, which sets all to zero before it packs.
    progress = memoryview(mmap.mmap(-1, 16)).cast("Q")
    tally = Tally()
    for _ in range(KILLS):
        kill_once(blobs, progress, delays.uniform(0, MOST_SECONDS), tally)
    progress.release()
    print(tally)
    # The proof that the kills went where it hurts: in mid-assignment, with the value in memory and not committed,
    # and within the very copying of it.
    assert tally.under_way >= KILLS // 5
    assert tally.uncommitted >= KILLS // 5
    assert tally.half_copied >= KILLS // 100
    assert tally.values >= 2 * KILLS


def test_ten_million_assignments_take_the_space_of_a_few() -> None:
    """Each is gone with the next one."""
    journal = Journal.create(1 << 20)
    journal.claim()
    for number in range(10_000_000):
        journal["key"] = number
    assert os.fstat(journal.fileno()).st_blocks * 512 < 100_000
    (record,) = read(journal.fileno()).records
    assert record.key == pickle.dumps("key", 5)
    assert journal["key"] == 9_999_999
    journal.close()
