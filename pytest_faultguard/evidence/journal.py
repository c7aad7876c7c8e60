"""The journal: shared memory that keeps what a child assigned, whatever instant the child dies at.

A child writes, nobody stands between; after its end any other process reads. Layout version 1, little-endian, in a
sparse memfd whose geometry is fixed by the version, so that the reading side needs to believe no number it reads::

    0       header: state byte, then magic, version, checksum
    64      scratch byte, never read
    4096    one byte per directory chunk, set once every slot of that chunk has been made idle
    16384   directory: 2**20 slots of 128 bytes
    ...     arena: blocks

A slot is a state byte and, from byte 4, the Adler-32 of what follows and a body: kind, number of out-of-band buffers,
length of the key, sequence, birth (which key this is, in order of first assignment), offset, length of the value,
CRC-32 of key and value, 72 bytes more. At the offset lie the key's pickle and (for a ``buffer()`` from the next multiple
of 64) the value: a table of buffer lengths, the pickle, the buffers. A short record lies in those 72 bytes, under the
slot's checksum; others lie in a block of the arena.

The rules that make a death at any instant harmless:

1. A block is filled, then the body of an idle slot, then one single-byte store makes the slot live: the commit.
2. Only after the commit is the slot of the old value made idle, and only after that may its slot and block be used
   again. Until then both are live, and the higher sequence counts.
3. A deletion is one single-byte store that makes the key's only live slot idle.
4. What is free is known in the writer's own memory only; the reading side never needs it.
5. Memory is allocated before it is written, so that a full memory is an exception and not SIGBUS.

Threads take turns by a lock. A signal handler may interrupt an assignment and write as well: CPython runs it at calls
and jumps, never inside a statement without a call, so whatever changes hands does so within one such statement.

The reading side, :func:`read`, uses ``pread`` only and unpickles nothing. What is damaged becomes a named gap. (One
scribble cannot be told: the very byte that means "idle" written over the state of a live slot.)
"""

from __future__ import annotations

import enum
import itertools
import marshal
import mmap
import os
import pickle
import reprlib
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import MutableMapping
from dataclasses import dataclass
from io import FileIO
from typing import Any
from typing import Final
from typing import NoReturn
from typing import Protocol

from pytest_faultguard.descriptors import high_memory_file
from pytest_faultguard.descriptors import identity
from pytest_faultguard.outcome import JournalError

# For pytest, of every frame of this module: what fails is the test's own line.
__tracebackhide__ = True

#: How much live data one journal holds unless told otherwise.
DEFAULT_LIMIT_BYTES: Final = 1 << 30
#: The longest pickle of a key; a bound lets the reading side hold keys in memory.
MAX_KEY_BYTES: Final = 1 << 20

_VERSION: Final = 1
_MAGIC: Final = b"faultguard-journal"
_PAGE: Final = 4096
_IDLE: Final = 0x69
_LIVE: Final = 0xB4
_HEADER: Final = struct.Struct("<20sII")
_HEADER_AT: Final = 8
_SCRATCH: Final = 64
_CHUNK_MAP: Final = 4096
_CHUNKS: Final = 8192
_SLOT: Final = 128
_CHECKSUM_AT: Final = 4
_INLINE: Final = 72
_BODY: Final = struct.Struct(f"<BxHIQQQQII{_INLINE}s")
_INLINE_AT: Final = _SLOT - _INLINE
_CHECKSUM: Final = struct.Struct("<I")
#: Packed at once rather than added to each other: a twentieth of an assignment.
_SEALED: Final = struct.Struct(f"<I{_BODY.size}s")
_CHUNK_SLOTS: Final = 128
_CHUNK_BYTES: Final = _CHUNK_SLOTS * _SLOT
_DIRECTORY: Final = 4 * _PAGE
_ARENA: Final = _DIRECTORY + _CHUNKS * _CHUNK_BYTES
_ARENA_SLACK: Final = 128 << 20
_IDLE_CHUNK: Final = (bytes([_IDLE]) + bytes(_SLOT - 1)) * _CHUNK_SLOTS
_MOST_BUFFERS: Final = 0xFFFF
#: In the byte of the kind: the checksum is over sums, see _summed().
_SUMMED: Final = 0x80
_SUM_BYTES: Final = 512

_SMALL: Final = 2048  # Blocks up to here come in steps of a slot's size, and by the page.
_LARGE: Final = 1 << 16  # Plain bytes from here on skip the copy into a pickle.
_AHEAD_LEAST: Final = 1 << 14
_AHEAD_MOST: Final = 4 << 20
_PIECE: Final = 1 << 20
_MOST_GAPS: Final = 100
_MADV_WIPEONFORK: Final = 18


class Kind(enum.IntEnum):
    """What a record's value is: a pickle, dill's pickle, live memory, or a number or string by marshal."""

    PICKLE = 1
    DILL = 2
    BUFFER = 3
    PLAIN = 4


_PICKLE: Final = int(Kind.PICKLE)
_DILL: Final = int(Kind.DILL)
_BUFFER: Final = int(Kind.BUFFER)
_PLAIN: Final = int(Kind.PLAIN)

# slot, room (0 if no block is given back when it goes), block, bytes no longer counted then, kind, number of buffers, start and end of the value.
# A plain tuple, because making one takes no call.
_Held = tuple[int, int, int, int, int, int, int, int]
_Extents = tuple[tuple[int, int], ...]

# Stands for "no value", and may be retired like one without a branch: its slot is the scratch byte.
_NOTHING: Final[_Held] = (_SCRATCH, 0, 0, 0, 0, 0, 0, 0)
# The end of the chain of retired values is its own successor, so that taking from the empty chain is harmless.
_END: Final[list[Any]] = [_NOTHING]
_END.append(_END)

# What marshal keeps exactly, in a third of pickle's time.
_PLAIN_TYPES: Final = frozenset({int, float, complex, bool, str, type(None)})
_BYTES: Final = (bytes, bytearray)

_dumps = pickle.dumps
_plain_dumps = marshal.dumps
_crc32 = zlib.crc32
_adler32 = zlib.adler32  # For slots: what is so short takes CRC-32 three times as long.
_MOST_CHECKSUM: Final = 0xFFFFFFFF
_SUMMED_CHECKSUM: Final = 1 << 32
_pack_body = _BODY.pack
_pack_sealed = _SEALED.pack
_pack_checksum = _CHECKSUM.pack


class _Mark(Protocol):
    """Something whose first item is true in the writing process only."""

    def __getitem__(self, index: int, /) -> int: ...


class _PidMark:
    """The mark where the kernel cannot wipe a page on fork."""

    __slots__ = ("_pid",)

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, index: int, /) -> int:
        return os.getpid() == self._pid


_UNMARKED: Final[_Mark] = b"\0"


def _unnamed_file() -> FileIO:
    if hasattr(os, "memfd_create"):
        return high_memory_file("journal", os.MFD_ALLOW_SEALING)
    # Where nothing is guarded, a journal serves its own process only.
    import tempfile

    with tempfile.TemporaryFile() as file:
        return FileIO(os.dup(file.fileno()), "rb+")


def _new_mark() -> _Mark:
    """A page that any fork, Python's or C's, wipes: a tenth of the price of asking for the pid."""
    page = mmap.mmap(-1, _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        page.madvise(_MADV_WIPEONFORK)
    except OSError:  # Linux before 4.14.
        page.close()
        return _PidMark()
    page[0] = 1
    return page


class _TakenError(Exception):
    """A buffer is not wanted any more, because its key came to hold something meanwhile."""


class _Blank:
    """The value of a buffer-to-be."""

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size


class _Entry:
    """One key, from its first assignment to its deletion."""

    __slots__ = ("birth", "checksum", "held", "key", "listed")

    def __init__(self, birth: int, key: bytes) -> None:
        self.birth = birth
        self.key = key
        self.checksum = _crc32(key)
        self.held: _Held = _NOTHING
        self.listed = False


def _birth(item: tuple[Hashable, _Entry]) -> int:
    return item[1].birth


class Journal(MutableMapping[Hashable, Any]):
    """A mapping in shared memory; each assignment is a snapshot that outlives this process' death.

    One process writes, the one that called :meth:`claim`; a process forked from it may read. Elsewhere use
    :func:`read` with :meth:`fileno`.
    """

    __slots__ = (
        "_arena",
        "_backed",
        "_bins",
        "_births",
        "_chunks",
        "_end",
        "_entries",
        "_fd",
        "_file",
        "_gone",
        "_is_stale",
        "_leftover",
        "_limit",
        "_live",
        "_lock",
        "_map",
        "_mark",
        "_owner",
        "_pid",
        "_sequence",
        "_slots",
        "_spare_chunks",
    )

    def __init__(self, fd: int, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        """Take over ``fd``, an empty journal made by :meth:`create` with the same limit."""
        self._fd = fd
        self._file = identity(fd)
        #: None where the descriptor was taken over.
        self._owner: FileIO | None = None
        self._limit = limit_bytes
        self._is_stale = False
        self._pid = 0
        self._mark: _Mark = _UNMARKED
        self._map: mmap.mmap | None = None
        self._entries: dict[Hashable, _Entry] = {}
        self._lock = threading.RLock()
        self._births: Iterator[int]  # Set, as all that follows, by claim().
        self._sequence: int
        self._live: int
        self._slots: list[int]
        self._chunks: Iterator[int]
        self._spare_chunks: list[int]
        self._bins: dict[int, list[int]]
        self._arena: tuple[int, _Extents]
        self._end: int
        self._backed: int
        self._leftover: int
        self._gone: Any

    @classmethod
    def create(cls, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> Journal:
        """Make an empty journal; it holds no memory until the first write. JournalError where that is refused.

        Under ``ulimit -f``, which counts the file's whole size, the limit may be a smaller one.
        """
        if limit_bytes < 1:
            raise ValueError(f"limit_bytes must be positive, not {limit_bytes}")
        limit_bytes = _permitted(limit_bytes)
        file: FileIO | None = None
        try:
            file = _unnamed_file()
            os.ftruncate(file.fileno(), _file_bytes(limit_bytes))
            if hasattr(os, "memfd_create"):
                import fcntl  # Here, for Windows has none, and imports this module.

                fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        except (OSError, OverflowError) as error:
            if file is not None:
                file.close()
            raise JournalError(f"cannot reserve a journal for {limit_bytes} bytes: {error}") from error
        journal = cls(file.fileno(), limit_bytes)
        journal._owner = file
        return journal

    def fileno(self) -> int:
        """The descriptor of the shared memory; ValueError once closed."""
        if self._fd < 0:
            raise ValueError("the journal is closed")
        return self._fd

    @property
    def limit_bytes(self) -> int:
        """What another process needs besides the descriptor."""
        return self._limit

    def claim(self) -> None:
        """Make the calling process the writer; RuntimeError if another process already is."""
        self.fileno()
        if self._pid == os.getpid():
            return
        if self._pid:
            raise RuntimeError(f"the journal belongs to process {self._pid}")
        self._births = itertools.count(1)
        self._sequence = self._live = self._leftover = 0
        self._slots = []
        self._chunks = iter(range(_CHUNKS))
        self._spare_chunks = []
        self._bins = {}
        self._arena = (_ARENA, ())
        self._end = _file_bytes(self._limit)
        self._backed = _ARENA
        self._gone = _END
        self._pid = os.getpid()

    def is_intact(self) -> bool:
        """Whether nobody in this process has closed the descriptor."""
        return identity(self._fd) == self._file

    def renewed(self) -> Journal:
        """A journal in the same shared memory, for this process to :meth:`empty`; this one is closed, if it was written.

        Raises:
            JournalError: somebody in this process has closed the descriptor.
        """
        if not self._pid:
            return self
        try:
            if not self.is_intact():
                raise JournalError("the journal's descriptor was closed by the test")
            fd = os.dup(self._fd)
        except OSError as error:
            raise JournalError(f"no journal for another test: {error}") from error
        is_stale = self._map is not None or self._is_stale
        is_free = self._close()
        if not is_free:
            os.close(fd)
            raise JournalError("the test keeps a view of faultguard_data.buffer()")
        journal = Journal(fd, self._limit)
        journal._is_stale = is_stale
        return journal

    def empty(self) -> None:
        """Remove what another test has left; until then it may be rescued.

        Raises:
            JournalError: the kernel does not.
        """
        if self._is_stale:
            try:
                with self._map_file() as shared:
                    shared.madvise(mmap.MADV_REMOVE)
            except (OSError, MemoryError) as error:
                raise JournalError(f"cannot empty the journal: {error}") from error
            self._is_stale = False

    def close(self) -> None:
        """Give descriptor and mapping back; views from :meth:`buffer` stay usable. May be called again."""
        self._close()

    def _close(self) -> bool:
        """As :meth:`close`; whether no view is alive."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return True
        shared, self._map, self._mark = self._map, None, _UNMARKED
        self._entries = {}
        is_free = True
        if shared is not None:
            try:
                shared.close()
            except BufferError:  # A view is alive: the mapping goes with the last one.
                is_free = False
        if self._owner is None:
            os.close(fd)
        else:
            self._owner.close()
        return is_free

    # -- the mapping -------------------------------------------------------------------------------------------------

    def __setitem__(self, key: Hashable, value: Any) -> None:
        """Save a snapshot of ``value``.

        TypeError if it cannot be pickled, MemoryError past the limit, RuntimeError in a process the test started.
        After any of them the journal is as it was.
        """
        if not self._mark[0]:
            self._open()
        entry = self._entries.get(key) or self._new_entry(key)
        kind = _PLAIN
        count = blank = 0
        buffers: list[Any] | None = None
        if type(value) in _PLAIN_TYPES:
            data = _plain_dumps(value)
        else:
            kind, data, buffers, blank = _encoded(key, value)

        # What follows is one function, and not several, because every call would cost a twentieth of an assignment.
        name, stamp = entry.key, entry.checksum
        head = len(name)
        length = len(data)
        if buffers is not None:
            count = len(buffers)
            length += sum(map(len, buffers))
            if blank:
                head, length = (head + 63) & -64, blank
        size = head + length
        counted = room = block = slot = 0
        mark = kind
        done = False
        with self._lock:
            try:
                shared = self._map
                self._live, counted = self._live + size, size
                if shared is None or self._live - entry.held[3] > self._limit:
                    self._refuse(key, size)
                slot = self._slots.pop() if self._slots else self._take_slot(key)
                if size <= _INLINE and not blank:
                    start = slot + _INLINE_AT
                    inline = name + data
                    checksum = 0
                else:
                    room = _room(size)
                    bin_ = self._bins.get(room)
                    block = bin_.pop() if bin_ else self._take(key, room)
                    start = block
                    inline = b""
                    checksum = _fill(shared, block, name, head, data, buffers, blank)
                    if checksum > _MOST_CHECKSUM:
                        mark, checksum = kind | _SUMMED, checksum & _MOST_CHECKSUM
                if entry.held is _NOTHING:
                    entry = self._listed(key, entry)
                sequence = self._sequence = self._sequence + 1
                body = _pack_body(mark, count, len(name), sequence, entry.birth, start, length, stamp, checksum, inline)
                shared[slot + _CHECKSUM_AT : slot + _SLOT] = _pack_sealed(_adler32(body, slot), body)
                new = (slot, room, block, size, kind, count, start + head, start + size)
                if blank:
                    new = (slot, 0, 0, 0, kind, count, start + head, start + size)
                    if entry.held is not _NOTHING:
                        raise _TakenError  # noqa: TRY301  # What was taken is given back below.
                shared[slot] = _LIVE
                entry.held, self._gone, done = new, (entry.held, self._gone), True
            except BaseException:
                if not done:
                    self._undo(slot, room, block, counted)
                raise
            # As _retire() does.
            while self._gone is not _END:
                (old, self._gone), self._live, shared[old[0]] = self._gone, self._live - self._gone[0][3], _IDLE
                if old is not _NOTHING:
                    self._slots.append(old[0])
                    if old[1]:
                        self._bins[old[1]].append(old[2])
            if not entry.listed:
                self._readmit(key, entry)

    def __getitem__(self, key: Hashable) -> Any:
        """A fresh, equal value (``bytes`` for a buffer); KeyError."""
        if not self._mark[0]:
            return self._foreign_value(key)
        with self._lock:
            entry = self._entries.get(key)
            while True:
                held = _NOTHING if entry is None else entry.held
                if entry is None or held is _NOTHING:
                    raise KeyError(key)
                _, _, _, _, kind, count, start, end = held
                with memoryview(self._shared()) as whole, whole[start:end] as payload:
                    pieces = _split(kind, count, payload)
                if entry.held is held:  # Else a signal handler wrote meanwhile, perhaps into this very block.
                    break
        return _load(kind, pieces)

    def __delitem__(self, key: Hashable) -> None:
        """Forget ``key``; KeyError."""
        if not self._mark[0]:
            self._open()
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.held is _NOTHING:
                raise KeyError(key)
            self._retire()  # So that no older value of this key is live any more.
            entry.held, self._gone = _NOTHING, (entry.held, self._gone)
            self._retire()
            # One statement, in which an entry that a signal handler brought back to life, or replaced, is left alone.
            entry.listed = entry.listed and (entry.held is not _NOTHING or self._entries.pop(key, None) is None)

    def __iter__(self) -> Iterator[Hashable]:
        if not self._mark[0]:
            return iter(self._foreign())
        # By birth, because signal handlers may list keys in another order than they are born.
        listed = sorted(self._entries.items(), key=_birth)
        return iter([key for key, entry in listed if entry.held is not _NOTHING])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        if not self._mark[0]:
            return key in self._foreign()
        entry = self._entries.get(key)
        return entry is not None and entry.held is not _NOTHING

    def __repr__(self) -> str:
        if self._fd < 0:
            return "<Journal: closed>"
        return f"<Journal: {len(self)} keys, limit {self._limit} bytes>"

    def popitem(self) -> tuple[Hashable, Any]:
        """Remove and give the pair assigned last, as ``dict`` does; KeyError if there is none."""
        for key in reversed(list(self)):
            return key, self.pop(key)
        raise KeyError("popitem(): the journal is empty")

    def clear(self) -> None:
        """Forget all keys, without loading their values."""
        for key in self:
            del self[key]

    def buffer(self, key: Hashable, size: int) -> memoryview:
        """A writable view of ``size`` zero bytes inside the journal; live memory that never moves.

        Asked again, the same memory. ValueError for another size, or if ``key`` holds a value; MemoryError past the
        limit. The memory stays counted even if ``key`` is assigned or deleted: C may still hold its address.
        """
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(f"the size of a buffer must be an int, not {type(size).__name__}")
        if size < 1:
            raise ValueError(f"the size of a buffer must be positive, not {size}")
        if not self._mark[0]:
            self._open()
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.held is _NOTHING:
                try:
                    self[key] = _Blank(size)
                except _TakenError:  # A signal handler was quicker.
                    pass
            _, _, _, _, kind, _, start, end = self._entries[key].held
            if kind != _BUFFER:
                raise ValueError(f"faultguard_data[{_shown(key)}] holds a value and cannot become a buffer")
            if end - start != size:
                raise ValueError(f"the buffer faultguard_data[{_shown(key)}] has {end - start} bytes, not {size}")
            return memoryview(self._shared())[start:end]

    # -- writing -----------------------------------------------------------------------------------------------------

    def _retire(self) -> None:
        """Make the slots of replaced values idle, then give slots and blocks back; the order is rule 2."""
        shared = self._shared()
        while self._gone is not _END:
            # One statement, taken apart from left to right: unlinked, no longer counted, idle.
            (old, self._gone), self._live, shared[old[0]] = self._gone, self._live - self._gone[0][3], _IDLE
            if old is not _NOTHING:
                self._slots.append(old[0])
                if old[1]:
                    self._bins[old[1]].append(old[2])

    def _undo(self, slot: int, room: int, block: int, counted: int) -> None:
        """Give back what an assignment that failed had taken."""
        if slot:
            self._shared()[slot] = _IDLE
            self._slots.append(slot)
        if block:
            self._bins[room].append(block)
        self._live -= counted

    def _listed(self, key: Hashable, entry: _Entry) -> _Entry:
        """Make the key's entry known, before anything of it is committed; another's if that was quicker."""
        entry.listed = True  # First, lest it stay so after a signal handler has deleted the entry again.
        known = self._entries.setdefault(key, entry)
        if known is not entry:
            # An assignment that this one has interrupted may hold it still, and is to see that it was deleted.
            entry.listed = False
        return known

    def _readmit(self, key: Hashable, entry: _Entry) -> None:
        """A signal handler deleted ``key`` while we assigned: list it again, unless it was assigned anew as well."""
        if self._listed(key, entry) is not entry:
            entry.held, self._gone = _NOTHING, (entry.held, self._gone)
            self._retire()

    def _new_entry(self, key: Hashable) -> _Entry:
        try:
            name = _dumps(key, 5)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  # Any code of the test's may have run.
            raise TypeError(
                f"cannot save faultguard_data[{_shown(key)}]: a key of type {type(key).__name__!r} "
                f"must be picklable: {_told(error)}"
            ) from None
        if len(name) > MAX_KEY_BYTES:
            raise ValueError(
                f"the key of faultguard_data[{_shown(key)}] takes {len(name)} bytes, more than {MAX_KEY_BYTES}"
            )
        return _Entry(next(self._births), name)

    def _refuse(self, key: Hashable, size: int) -> NoReturn:
        if self._map is None:
            raise ValueError("the journal is closed")
        raise MemoryError(
            f"cannot save faultguard_data[{_shown(key)}]: its {size} bytes would bring the data past the limit of "
            f"{self._limit} bytes"
        )

    # -- opening -----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Map the journal at the first write of the process that claimed it; RuntimeError in any other."""
        self.fileno()
        if not self._pid:
            raise RuntimeError("no process has claimed the journal")
        if self._pid != os.getpid():
            raise RuntimeError(
                f"a process that the test started may not write faultguard_data "
                f"(it belongs to process {self._pid}, this is {os.getpid()})"
            )
        shared = self._map_file()
        with self._lock:
            # A signal handler may do the same meanwhile: one mapping stays, and the rest may well be done twice.
            self._map = shared if self._map is None else self._map
            shared = self._map
            self._back("", 0, _DIRECTORY)
            version = _HEADER.pack(_MAGIC, _VERSION, 0)[:-4]
            shared[_HEADER_AT : _HEADER_AT + _HEADER.size] = version + _pack_checksum(_crc32(version))
            shared[0] = _LIVE
            self._mark = _new_mark()

    def _map_file(self) -> mmap.mmap:
        """The whole file, mapped once; nothing of it is in memory yet."""
        try:
            return mmap.mmap(self._fd, _file_bytes(self._limit))
        except OSError as error:
            raise MemoryError(
                f"no address space for faultguard_data with its limit of {self._limit} bytes: {error}"
            ) from None

    def _shared(self) -> mmap.mmap:
        if self._map is None:
            raise ValueError("the journal is closed")
        return self._map

    def _back(self, key: Hashable, start: int, length: int) -> None:
        """Have the memory before it is written; MemoryError, where a store would be SIGBUS."""
        if not hasattr(os, "posix_fallocate"):
            return  # macOS, where nothing is guarded.
        if identity(self._fd) != self._file:
            # Under its number there may be a file of the test's by now.
            raise MemoryError(f"cannot save faultguard_data[{_shown(key)}]: the test closed the journal's descriptor")
        try:
            os.posix_fallocate(self._fd, start, length)
        except OSError as error:
            raise MemoryError(
                f"cannot save faultguard_data[{_shown(key)}]: no memory for {length} bytes: {error}"
            ) from None

    # -- free space, known to this process only ----------------------------------------------------------------------

    def _take_slot(self, key: Hashable) -> int:
        """A slot from a new chunk of the directory; MemoryError past the last one."""
        chunk = self._spare_chunks.pop() if self._spare_chunks else next(self._chunks, None)
        if chunk is None:
            raise MemoryError(
                f"cannot save faultguard_data[{_shown(key)}]: all {_CHUNKS * _CHUNK_SLOTS} slots of the journal are taken"
            )
        start = _DIRECTORY + chunk * _CHUNK_BYTES
        try:
            self._back(key, start, _CHUNK_BYTES)
        except BaseException:
            self._spare_chunks.append(chunk)
            raise
        shared = self._shared()
        shared[start : start + _CHUNK_BYTES] = _IDLE_CHUNK
        shared[_CHUNK_MAP + chunk] = _LIVE
        self._slots.extend(range(start + _CHUNK_BYTES - _SLOT, start, -_SLOT))
        return start

    def _take(self, key: Hashable, room: int) -> int:
        """A block that no bin has: from the free extents or the untouched end; MemoryError if neither has room."""
        span = room if room > _SMALL else _PAGE // room * room
        bin_ = self._bins.setdefault(room, [])
        while True:
            seen = self._arena
            block, left = _carve(seen, span)
            if block is None:
                if self._sweep_pays(seen[0], span):
                    self._sweep()
                    continue
                block, left = seen[0], (seen[0] + span, seen[1])
                self._back_arena(key, block + span)
            # One statement, so that what a signal handler took meanwhile is not taken twice.
            self._arena, won = (left, True) if self._arena is seen else (self._arena, False)
            if won:
                break
        if span > room:
            bin_.extend(range(block + room, block + span, room))
        return block

    def _back_arena(self, key: Hashable, end: int) -> None:
        if end > self._end:
            raise MemoryError(
                f"cannot save faultguard_data[{_shown(key)}]: no room in the journal, too many fragments "
                f"(limit {self._limit} bytes)"
            )
        start = self._backed
        if end <= start:
            return
        ahead = min(max(end, start + min(max(start - _ARENA, _AHEAD_LEAST), _AHEAD_MOST)), self._end)
        try:
            self._back(key, start, ahead - start)
        except MemoryError:
            if ahead == end:
                raise
            ahead = end
            self._back(key, start, ahead - start)
        self._backed = ahead

    def _sweep_pays(self, top: int, span: int) -> bool:
        """Whether the bins hold enough to be merged before the arena grows; not if the last time left as much."""
        free = self._binned()
        if top + span > self._end:
            return free > self._leftover
        return free >= span and free >= (top - _ARENA) // 4 and free >= 2 * self._leftover

    def _binned(self) -> int:
        return sum(room * len(bin_) for room, bin_ in list(self._bins.items()))

    def _sweep(self) -> None:
        """Merge all binned blocks into extents; scraps below a page go back to bins of their size."""
        blocks: list[tuple[int, int]] = []
        try:
            for room, bin_ in list(self._bins.items()):
                while bin_:
                    try:
                        blocks.append((bin_.pop(), room))
                    except IndexError:  # A signal handler took the last one.
                        break
        finally:
            while True:
                seen = self._arena
                merged, scraps = _merged(seen, blocks)
                self._arena, won = (merged, True) if self._arena is seen else (self._arena, False)
                if won:
                    break
            for block, room in scraps:
                self._bins.setdefault(room, []).append(block)
            self._leftover = self._binned()

    # -- reading in a process that does not write --------------------------------------------------------------------

    def _foreign(self) -> dict[Hashable, Record]:
        """What the journal holds now, for a process that is not the writer."""
        if self._fd >= 0 and self._pid == os.getpid():
            return {}  # Claimed, but nothing written yet.
        return {record.load_key(): record for record in self._foreign_records()}

    def _foreign_records(self) -> tuple[Record, ...]:
        for _ in range(8):
            found = read(self.fileno())
            if not found.gaps:  # The writer may be alive and replace a value while we look at it.
                break
        return found.records

    def _foreign_value(self, key: Hashable) -> Any:
        for _ in range(8):
            try:
                return self._foreign()[key].load_value()
            except JournalError:
                continue
        raise KeyError(key)


# -- pickles and payloads ------------------------------------------------------------------------------------------


def _shown(key: object) -> str:
    """A short repr that cannot fail."""
    try:
        return reprlib.repr(key)
    except Exception:  # noqa: BLE001  # A __repr__ of the test's.
        return f"<{type(key).__name__}>"


def _encoded(key: Hashable, value: Any) -> tuple[int, bytes, list[Any], int]:
    """How a value is kept: kind, pickle, out-of-band buffers, and the size if it is to be a buffer."""
    if type(value) is _Blank:
        return _BUFFER, b"", [], value.size
    buffers: list[Any] = []
    try:
        subject = pickle.PickleBuffer(value) if type(value) in _BYTES and len(value) >= _LARGE else value
        data = _dumps(subject, 5, buffer_callback=buffers.append)
        if buffers:
            data, buffers = _flattened(value, data, buffers)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  # Any code of the test's may have run.
        return _DILL, _dill_dumps(key, value), [], 0
    return _PICKLE, data, buffers, 0


def _flattened(value: Any, data: bytes, buffers: list[Any]) -> tuple[bytes, list[Any]]:
    """The pickle behind the table of its buffers, and the buffers as flat views."""
    if len(buffers) > _MOST_BUFFERS:
        return _dumps(value, 5), []
    views = [buffer.raw() for buffer in buffers]
    table = struct.pack(f"<{len(views)}Q", *(len(view) << 1 | view.readonly for view in views))
    return table + data, views


def _dill_dumps(key: Hashable, value: Any) -> bytes:
    """What pickle cannot; TypeError that names key and type."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import dill

            return bytes(dill.dumps(value, protocol=5))
    except MemoryError as error:
        raise error.with_traceback(None) from None
    except Exception as error:  # noqa: BLE001  # As above.
        raise TypeError(
            f"cannot save faultguard_data[{_shown(key)}]: a value of type {type(value).__name__!r} "
            f"can be pickled by neither pickle nor dill: {_told(error)}{_remedy(value)}"
        ) from None


def _told(error: Exception) -> str:
    """An exception in one line; that is all of it that a report shows, whose traceback is pickle's or dill's."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  # A __str__ of the test's.
        return type(error).__name__


def _remedy(value: Any) -> str:
    """What to save instead of a view of memory, or of what C works on."""
    ctypes = sys.modules.get("ctypes")  # Who has such a value has loaded it.
    memory = (memoryview,) if ctypes is None else (memoryview, ctypes.Array, ctypes.Structure, ctypes.Union)
    return "; save bytes(value) instead" if isinstance(value, memory) else ""


def _fill(
    shared: mmap.mmap, block: int, name: bytes, head: int, data: bytes, buffers: list[Any] | None, blank: int
) -> int:
    """Write a record into its block; the checksum is of what stands there, since a thread may change a source."""
    if not buffers and not blank and len(data) <= _SMALL:
        shared[block : block + head + len(data)] = name + data
        return _crc32(data)
    shared[block : block + len(name)] = name
    start = position = block + head
    if blank:
        for offset in range(start, start + blank, _PIECE):
            end = min(offset + _PIECE, start + blank)
            shared[offset:end] = bytes(end - offset)
        return 0
    for part in (data, *(buffers or ())):
        with memoryview(part) as view:
            for offset in range(0, len(view), _PIECE):
                piece = view[offset : offset + _PIECE]
                shared[position : position + len(piece)] = piece
                position += len(piece)
    with memoryview(shared) as whole, whole[start:position] as written:
        if len(written) >= _LARGE:
            summed = _summed(written, _numpy_sums)
            if summed is not None:
                return summed | _SUMMED_CHECKSUM
        return _crc32(written)


def _summed(view: memoryview, sums: Callable[[memoryview], bytes | None], checksum: int = 0) -> int | None:
    """CRC-32 of the 64-bit sums of every 512 bytes, then of the bytes that are left over; None where there are no sums.

    A large array costs as much for its CRC-32 as for all the rest, thrice (0.13 of 0.18 ms for 1 MB); this costs a third.
    What it cannot see is words of one such block that have changed places.
    """
    whole = len(view) - len(view) % _SUM_BYTES
    told = sums(view[:whole])
    return None if told is None else _crc32(view[whole:], _crc32(told, checksum))


def _numpy_sums(view: memoryview) -> bytes | None:
    # Who saves large arrays has NumPy loaded; nobody pays for loading it.
    numpy = sys.modules.get("numpy")
    try:
        words = numpy.frombuffer(view, dtype="<u8")  # type: ignore[union-attr]
        sums: bytes = numpy.add.reduce(words.reshape(-1, _SUM_BYTES // 8), axis=1).tobytes()  # type: ignore[union-attr]
    except Exception:  # noqa: BLE001  # Half loaded, or a test's stand-in for it: then there are no sums.
        return None
    return sums


def _python_sums(view: memoryview) -> bytes:
    words = view.cast("Q")
    step = _SUM_BYTES // 8
    sums = [sum(words[at : at + step]) & 0xFFFFFFFFFFFFFFFF for at in range(0, len(words), step)]
    return struct.pack(f"<{len(sums)}Q", *sums)


def _split(kind: int, count: int, payload: memoryview) -> list[Any]:
    """Copies of a payload's parts: the pickle (or the bytes of a buffer), then its out-of-band buffers."""
    if kind == _BUFFER or not count:
        return [bytes(payload)]
    lengths = struct.unpack_from(f"<{count}Q", payload)
    position = len(payload) - sum(length >> 1 for length in lengths)
    pieces: list[Any] = [bytes(payload[8 * count : position])]
    for length in lengths:
        piece = payload[position : position + (length >> 1)]
        pieces.append(bytes(piece) if length & 1 else bytearray(piece))
        position += len(piece)
    return pieces


def _load(kind: int, pieces: list[Any]) -> Any:
    if kind == _BUFFER:
        return pieces[0]
    if kind == _PLAIN:
        return marshal.loads(pieces[0])  # noqa: S302  # As for pickle: the bytes are checked, the process is thrown away.
    if kind == _DILL:
        import dill

        return dill.loads(pieces[0])
    return pickle.loads(pieces[0], buffers=pieces[1:])


# -- free space ----------------------------------------------------------------------------------------------------


def _file_bytes(limit_bytes: int) -> int:
    """Room for old and new value at once, for rounding by an eighth, and for fragments."""
    arena = 2 * limit_bytes + limit_bytes // 2 + _ARENA_SLACK
    return _ARENA + (arena + _PAGE - 1) // _PAGE * _PAGE


def _permitted(limit_bytes: int) -> int:
    """What this process's limit for the size of files leaves of a journal's; as it is where even the least is too much."""
    if sys.platform == "win32":
        return limit_bytes
    import resource  # Here, for Windows has none, and imports this module.

    largest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if largest == resource.RLIM_INFINITY or _file_bytes(limit_bytes) <= largest:
        return limit_bytes
    return max(0, largest - _file_bytes(0)) * 2 // 5 or limit_bytes


def _room(size: int) -> int:
    """The size of a block: beyond the small ones eight steps per doubling, so that a freed one soon fits another."""
    if size <= _SMALL:
        return (size + 63) & -64
    step = 1 << (size.bit_length() - 4)
    return (size + step - 1) & -step


def _carve(arena: tuple[int, _Extents], span: int) -> tuple[int | None, tuple[int, _Extents]]:
    """The first free extent that has room, and the arena without it."""
    top, extents = arena
    for index, (start, size) in enumerate(extents):
        if size >= span:
            rest = ((start + span, size - span),) if size > span else ()
            return start, (top, (*extents[:index], *rest, *extents[index + 1 :]))
    return None, arena


def _merged(
    arena: tuple[int, _Extents], blocks: Iterable[tuple[int, int]]
) -> tuple[tuple[int, _Extents], list[tuple[int, int]]]:
    """The arena with these blocks free and neighbours joined, and the scraps too small to be extents."""
    top, extents = arena
    joined: list[tuple[int, int]] = []
    for start, size in sorted((*extents, *blocks)):
        if joined and sum(joined[-1]) == start:
            joined[-1] = (joined[-1][0], joined[-1][1] + size)
        else:
            joined.append((start, size))
    if joined and sum(joined[-1]) == top:
        top = joined.pop()[0]
    scraps = [extent for extent in joined if extent[1] < _PAGE]
    return (top, tuple(extent for extent in joined if extent[1] >= _PAGE)), scraps


# -- the reading side ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One rescued value, still a pickle in the journal; valid while its descriptor is open."""

    #: The pickle of the key.
    key: bytes
    kind: Kind
    #: Where the value lies in the file behind ``fd``, its length, and how many out-of-band buffers end it.
    fd: int
    offset: int
    size: int
    buffers: int
    #: CRC-32 of the value, or of its sums; None for a buffer, which is live memory.
    checksum: int | None
    summed: bool

    def load_key(self) -> Hashable:
        """Unpickle the key: runs the test's code, so never where a crash would matter."""
        key: Hashable = pickle.loads(self.key)
        return key

    def load_value(self) -> Any:
        """Unpickle the value: runs the test's code; JournalError if the value is not as it was found."""
        pieces = self._pieces()
        return _load(self.kind, pieces)

    def payload(self) -> bytes:
        """The value as it lies in the journal; JournalError if it cannot be read."""
        return bytes(_exactly(self.fd, self.offset, self.size))

    def _pieces(self) -> list[Any]:
        position = self.offset + 8 * self.buffers
        pieces: list[Any] = []
        for length, readonly in _spans(self.fd, self.offset, self.size, self.buffers):
            piece = _exactly(self.fd, position, length)
            position += length
            pieces.append(bytes(piece) if readonly else piece)
        if self.checksum not in (None, _checksum_of(self)):
            raise JournalError("the value changed after it was found")
        return pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What a journal held: its records in order of first assignment, and what could not be read."""

    records: tuple[Record, ...]
    gaps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slot:
    """The body of a live slot, its checksum right and its bounds inside the arena."""

    number: int
    kind: Kind
    buffers: int
    key_bytes: int
    sequence: int
    birth: int
    block: int
    size: int
    key_checksum: int
    checksum: int
    summed: bool

    @property
    def offset(self) -> int:
        head = (self.key_bytes + 63) & -64 if self.kind is Kind.BUFFER else self.key_bytes
        return self.block + head


def read(fd: int) -> Recovered:
    """Gather what the journal behind ``fd`` holds, whatever its writer did to it; unpickles nothing, never raises.

    The checksum of every value was right when this returns. A value is named as a gap where it was not.
    """
    gaps: list[str] = []
    records: tuple[Record, ...] = ()
    try:
        size = os.fstat(fd).st_size
        if _header_tells(fd, size, gaps):
            records = _records(fd, _live_slots(fd, size, gaps), gaps)
    except (OSError, OverflowError, ValueError, TypeError, MemoryError, JournalError) as error:
        gaps.append(f"the journal could not be read: {error}")
    if len(gaps) > _MOST_GAPS:
        gaps[_MOST_GAPS:] = [f"and {len(gaps) - _MOST_GAPS} more"]
    return Recovered(records=records, gaps=tuple(gaps))


def _header_tells(fd: int, size: int, gaps: list[str]) -> bool:
    """Whether there may be slots to read; the geometry is fixed, so a damaged header hides nothing."""
    if size <= _ARENA:
        gaps.append(f"the journal could not be read: {size} bytes are too few")
        return False
    head = os.pread(fd, _HEADER_AT + _HEADER.size, 0)
    if len(head) < _HEADER_AT + _HEADER.size:
        gaps.append("the journal could not be read: its header is missing")
        return False
    magic, version, checksum = _HEADER.unpack_from(head, _HEADER_AT)
    if magic.rstrip(b"\0") == _MAGIC and checksum == _crc32(head[_HEADER_AT:-4]) and version != _VERSION:
        gaps.append(f"the journal could not be read: its layout is version {version}, not {_VERSION}")
        return False
    written = _HEADER.pack(_MAGIC, _VERSION, 0)[:-4]
    intact = head[0] == _LIVE and head[_HEADER_AT:-4] == written and checksum == _crc32(written)
    unborn = head[0] == 0  # The writer died before its first commit, unless the directory is in use.
    used = any(True for _ in _data(fd, _DIRECTORY, _ARENA))
    if not intact and (used or not unborn):
        gaps.append("the journal's header is damaged; what lies behind it was read all the same")
    return used


def _live_slots(fd: int, size: int, gaps: list[str]) -> list[_Slot]:
    """All committed slots; damaged ones are counted and named as one gap."""
    ready = os.pread(fd, _CHUNKS, _CHUNK_MAP).ljust(_CHUNKS, b"\0")
    if ready.translate(None, bytes([0, _LIVE])):
        gaps.append("the journal's header is damaged: which part of the directory is in use is not certain")
    slots: list[_Slot] = []
    damaged: list[int] = []
    wanted = _chunks_with_data(fd)
    for chunk in sorted(wanted | {index for index, state in enumerate(ready) if state}):
        raw = os.pread(fd, _CHUNK_BYTES, _DIRECTORY + chunk * _CHUNK_BYTES)
        idle = bytes([_IDLE]) if ready[chunk] else bytes([_IDLE, 0])
        for index, state in enumerate(raw[::_SLOT]):
            if state in idle:
                continue
            number = chunk * _CHUNK_SLOTS + index
            slot = _parsed(raw[index * _SLOT : (index + 1) * _SLOT], number, size) if state == _LIVE else None
            if slot is None:
                damaged.append(number)
            else:
                slots.append(slot)
    if damaged:
        gaps.append(f"{len(damaged)} damaged slots in the journal's directory (the first is number {damaged[0]})")
    return slots


def _chunks_with_data(fd: int) -> set[int]:
    """The chunks of the directory that hold anything; a hole of the file was never written."""
    found: set[int] = set()
    for start, end in _data(fd, _DIRECTORY, _ARENA):
        found.update(range((start - _DIRECTORY) // _CHUNK_BYTES, (end - 1 - _DIRECTORY) // _CHUNK_BYTES + 1))
    return found


def _parsed(raw: bytes, number: int, size: int) -> _Slot | None:
    """The slot's body, or None if its checksum or any of its numbers cannot be right."""
    if len(raw) < _SLOT:
        return None
    own = _DIRECTORY + number * _SLOT
    stamp, body = _SEALED.unpack_from(raw, _CHECKSUM_AT)
    if stamp != _adler32(body, own):
        return None
    mark, buffers, key_bytes, sequence, birth, block, length, key_checksum, checksum, rest = _BODY.unpack(body)
    kind = mark & ~_SUMMED
    inline = block == own + _INLINE_AT
    if kind not in _KINDS or (inline and key_bytes + length > _INLINE):
        return None
    if inline:
        key_checksum, checksum = _crc32(rest[:key_bytes]), _crc32(rest[key_bytes : key_bytes + length])
    slot = _Slot(
        number=number,
        kind=Kind(kind),
        buffers=buffers,
        key_bytes=key_bytes,
        sequence=sequence,
        birth=birth,
        block=block,
        size=length,
        key_checksum=key_checksum,
        checksum=checksum,
        summed=bool(mark & _SUMMED),
    )
    inside = (inline or block >= _ARENA) and slot.offset + length <= size
    return slot if inside and key_bytes <= MAX_KEY_BYTES and 8 * buffers <= length else None


def _records(fd: int, slots: list[_Slot], gaps: list[str]) -> tuple[Record, ...]:
    """The newest intact value of each key, in order of first assignment."""
    births: dict[int, list[_Slot]] = {}
    for slot in slots:
        births.setdefault(slot.birth, []).append(slot)
    found: dict[bytes, tuple[_Slot, Record]] = {}
    for birth in sorted(births):
        newest_first = sorted(births[birth], key=lambda slot: slot.sequence, reverse=True)
        pair = _newest_intact(fd, newest_first, gaps)
        if pair is None:
            continue
        rival = found.get(pair[1].key)
        if rival is None or rival[0].sequence < pair[0].sequence:
            found.pop(pair[1].key, None)
            found[pair[1].key] = pair
    return tuple(record for _, record in found.values())


def _newest_intact(fd: int, newest_first: list[_Slot], gaps: list[str]) -> tuple[_Slot, Record] | None:
    damaged: list[str] = []
    result: tuple[_Slot, Record] | None = None
    for slot in newest_first:
        key = bytes(_exactly(fd, slot.block, slot.key_bytes))
        if _crc32(key) != slot.key_checksum:
            damaged.append(f"a value whose key is damaged, too ({slot.size} bytes)")
        elif not _intact(fd, slot):
            damaged.append(f"the value of {_name(key)} is damaged ({slot.size} bytes)")
        else:
            result = slot, _record(fd, slot, key)
            break
    older = "; the value before it is intact" if result else ""
    gaps.extend(gap + older for gap in damaged)
    return result


def _record(fd: int, slot: _Slot, key: bytes) -> Record:
    checksum = None if slot.kind is Kind.BUFFER else slot.checksum
    return Record(
        key=key,
        kind=slot.kind,
        fd=fd,
        offset=slot.offset,
        size=slot.size,
        buffers=slot.buffers,
        checksum=checksum,
        summed=slot.summed,
    )


def _intact(fd: int, slot: _Slot) -> bool:
    """Whether the value is as it was written, in pieces: a journal may hold more than there is memory for a copy."""
    if slot.kind is Kind.BUFFER:
        return True
    if _checksum_of(_record(fd, slot, b"")) != slot.checksum:
        return False
    try:
        _spans(fd, slot.offset, slot.size, slot.buffers)
    except JournalError:
        return False
    return True


def _checksum_of(record: Record) -> int:
    """The checksum of a value as it is now, read in pieces."""
    checksum = 0
    end = record.offset + record.size
    for offset in range(record.offset, end, _PIECE):
        piece = _exactly(record.fd, offset, min(_PIECE, end - offset))
        if record.summed:
            with memoryview(piece) as view:
                summed = _summed(view, _numpy_sums, checksum)
                checksum = _summed(view, _python_sums, checksum) or 0 if summed is None else summed
        else:
            checksum = _crc32(piece, checksum)
    return checksum


def _spans(fd: int, offset: int, size: int, count: int) -> list[tuple[int, bool]]:
    """Length of the pickle and of each buffer, and whether it was read-only; JournalError if they cannot be right."""
    lengths = struct.unpack(f"<{count}Q", _exactly(fd, offset, 8 * count))
    rest = size - 8 * count - sum(length >> 1 for length in lengths)
    if rest < 0:
        raise JournalError("the table of buffers is damaged")
    return [(rest, True), *((length >> 1, bool(length & 1)) for length in lengths)]


def _exactly(fd: int, offset: int, size: int) -> bytearray:
    """These bytes of the file; JournalError if it has fewer."""
    result = bytearray(size)
    with memoryview(result) as view:
        done = 0
        while done < size:
            got = os.preadv(fd, [view[done : done + (1 << 30)]], offset + done)
            if not got:
                raise JournalError(f"the journal ends {size - done} bytes early")
            done += got
    return result


def _data(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The allocated parts of the file between two offsets."""
    while start < end:
        try:
            begin = os.lseek(fd, start, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole follows.
            return
        if begin >= end:
            return
        start = min(os.lseek(fd, begin, os.SEEK_HOLE), end)
        yield begin, start


def _name(key: bytes) -> str:
    """A key for people, without unpickling: plain strings and numbers are read off the pickle's opcodes."""
    import pickletools

    try:
        plain = [argument for opcode, argument, _ in pickletools.genops(key) if opcode.name not in _FRAMING]
    except Exception:  # noqa: BLE001  # genops raises whatever it stumbles over.
        plain = []
    if len(plain) == 1 and isinstance(plain[0], (str, bytes, int, float)):
        return reprlib.repr(plain[0])
    return f"a key whose pickle has {len(key)} bytes"


_FRAMING: Final = frozenset({"PROTO", "FRAME", "MEMOIZE", "STOP"})
_KINDS: Final = frozenset(int(kind) for kind in Kind)
