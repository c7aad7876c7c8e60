"""Framed, typed messages between a child and its guard, each way through a pipe.

A frame is ``length, crc32, pickle``, of plain values: the reading side must never run what a broken child wrote, so it knows
nothing that a pickle could call but what those are put together by. A frame that was cut by the child's death is dropped:
its message was not sent.
"""

from __future__ import annotations

import functools
import io
import os
import pickle
import select
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple
from typing import TypeAlias
from typing import final
from typing import get_args

from pytest_faultguard.crash import Frame
from pytest_faultguard.descriptors import identity
from pytest_faultguard.outcome import FaultguardError
from pytest_faultguard.process import signals

_HEADER = struct.Struct("<II")
_READ_BYTES = 1 << 20
#: A length above this is not a frame of ours: the child has scribbled over its own memory.
_MAX_FRAME_BYTES = 1 << 30


@final
class Report(NamedTuple):
    """One report, and what its form leaves out."""

    #: As ``pytest_report_to_serializable`` gave it.
    data: dict[str, Any]
    #: Or, instead of that, what :class:`pytest.TestReport` makes the same report of; most reports have nothing more.
    arguments: tuple[Any, ...] = ()
    #: Whether the text in it was an object that shows itself: a doctest's failure, a fixture that does not exist.
    was_object: bool = False
    #: How many subtests of this test have failed so far.
    failed_subtests: int = 0
    #: Whether the test has had its teardown's report, and this is of what was torn down later.
    late: bool = False
    #: When it left, on the monotonic clock, which both sides share; a test may have put another one in its place.
    left_at: float = 0.0
    #: With the teardown's report, what the child had used by then since its birth, as in :class:`meter.Before`.
    cpu_seconds: float = 0.0
    hidden_peak: int = 0


@final
class Expected(NamedTuple):
    """From here on a crash would be an expected failure."""

    reason: str
    strict: bool
    #: Whether ``raises`` accepts a crash, and a hang.
    crash: bool
    hang: bool
    #: What the message must match besides; None where there is no such condition.
    pattern: str | None


@final
class Capturing(NamedTuple):
    """From here on a fixture of the test's keeps what is written, in the child's memory."""

    fixture: str


@final
class Warned(NamedTuple):
    """A warning that the session's summary must show."""

    category_module: str
    category_name: str
    text: str
    filename: str
    line: int
    args: tuple[Any, ...] = ()
    #: The object that caused it, as text; None where there is none.
    source: str | None = None


@final
class Noted(NamedTuple):
    """What the test has said to the junitxml file since the last report: of the whole session, and of itself."""

    session_properties: tuple[tuple[str, str], ...]
    attributes: dict[str, str]


@final
class Kept(NamedTuple):
    """What a plugin keeps of the test at its item, and reads there in the parent."""

    attributes: dict[str, Any]


@final
class Said(NamedTuple):
    """What the child has written between two tests: to the terminal, for it belongs to none of them."""

    texts: dict[str, str]


@final
class Covered(NamedTuple):
    """What coverage.py has measured in the child since the last one."""

    context: str | None
    #: As JSON, by file, the numbers of lines, or with branches pairs of them.
    lines: str
    has_arcs: bool
    #: By file, the name of the plugin of coverage.py that measured it.
    plugins: dict[str, str]
    #: The packages to be measured that the child has imported, and its parent had not.
    imported: tuple[str, ...]


@final
class Stopped(NamedTuple):
    """The test asked the session to end: ``KeyboardInterrupt`` or ``pytest.exit``."""

    reason: str | None
    returncode: int | None
    #: What the interrupt said, and where, outermost call first.
    text: str = ""
    frames: tuple[Frame, ...] = ()


@final
class Finished(NamedTuple):
    """The target has ended; what follows is the end of the process."""

    shouldstop: str | bool
    shouldfail: str | bool


@final
class Begun(NamedTuple):
    """A process that did not begin as a copy of pytest's waits for its first order."""

    #: What it has used so far, as in :class:`meter.Before`.
    cpu_seconds: float = 0.0
    hidden_peak: int = 0


@final
class Idle(NamedTuple):
    """An order was carried out; the child waits for the next one, unless it was given that ahead and goes on."""

    goes_on: bool = False
    shouldstop: str | bool = False
    shouldfail: str | bool = False
    #: Why it should get none; empty where it may.
    unfit: str = ""
    #: Why it should get none, as a health check of the user's says.
    unhealthy: str = ""
    #: When that was, on the monotonic clock: where it goes on, the begin of the next order.
    at: float = 0.0


@final
class SharedTeardown(NamedTuple):
    """In the teardown of a test it has come to what is not of this test alone."""

    #: When that was, on the monotonic clock.
    at: float


@final
class Touched(NamedTuple):
    """What :func:`pages.touched` has found, for the children to come."""

    pages: bytes


@final
class Collecting(NamedTuple):
    """A collector is being collected, within those that are not done yet; :class:`Idle` says that the last one is done."""

    #: The name of its class: a file may be collected by several.
    kind: str
    node: str
    #: When that began, on the monotonic clock.
    at: float


@final
class Missing(NamedTuple):
    """Tests that a child did not find which has collected them anew."""

    #: Their places among the session's items.
    items: tuple[int, ...]
    #: Why, where there was an error.
    error: str


@final
class Run(NamedTuple):
    """An order: run a test."""

    #: Its place among the session's items.
    item: int
    #: That of the one whose fixtures are to be left standing; None for none.
    nextitem: int | None
    #: What its reports say where it is: to find that out costs more than to be told. None where that is long.
    location: tuple[str, int | None, str] | None
    #: How many tests have failed so far, in all processes.
    failed: int
    #: Where the child does not know the next one, how many of the test's collectors they have in common.
    shared: int = 0
    #: Which attempt of pytest-rerunfailures this is; 0 where it does not run the test.
    attempt: int = 0
    #: After this many seconds the guard may have given up the test: then the child does not go on by itself.
    timeout: float | None = None
    #: Whether the test before it is still to be run: this order holds only if the child goes on after that.
    ahead: bool = False
    #: Whether the guard is to hear at once that it was carried out.
    rings: bool = True


@final
class Trim(NamedTuple):
    """An order: tear down what was set up for more than one test, and a test does not need."""

    #: Its place among the session's items.
    nextitem: int


@final
class Leave(NamedTuple):
    """An order: tear down all that is left, and end."""


@final
class Letter(NamedTuple):
    """What a fresh interpreter must know to be a part of a pytest session; it finds it in a file."""

    #: pytest's own invocation: the arguments, the plugins by name, and the directory.
    args: tuple[str, ...]
    plugins: tuple[str, ...]
    directory: str
    argv: tuple[str, ...]
    #: What the options are now, as far as they have a form here.
    options: dict[str, Any]
    #: On a worker of pytest-xdist, what that was told.
    worker: dict[str, Any] | None
    #: pytest's base temporary directory; None where there is none.
    base_temp: str | None
    #: What coverage.py is to measure, as it says that itself; None where nothing is measured.
    coverage: str | None
    #: What its children may have to collect; empty for one that has none.
    paths: tuple[str, ...]


@final
class Charge(NamedTuple):
    """What a child must know that has inherited nothing of its own from its guard; it finds it in a file as well."""

    #: What it is to collect, and of that its tests: each one's place among the session's items, and node id.
    paths: tuple[str, ...]
    items: tuple[tuple[int, str], ...]
    #: Where the session is now.
    directory: str
    #: Variables that have changed since the child's process, or the one that it is forked from, was started; None: unset.
    environment: dict[str, str | None]
    memory: int | None
    journal_bytes: int
    is_heard: bool
    #: Whether it may be given several of them.
    is_shared: bool
    #: The descriptors of its files, by what they are for.
    fds: dict[str, int]


@final
class Broken(NamedTuple):
    """The target itself raised: the traceback."""

    text: str


@final
class Told(NamedTuple):
    """A rescued record as text; the value is None until it could be had."""

    place: int
    key: str
    value: str | None


Order: TypeAlias = Run | Trim | Leave
Message: TypeAlias = (
    Report
    | Said
    | Covered
    | Expected
    | Capturing
    | Warned
    | Noted
    | Kept
    | Stopped
    | SharedTeardown
    | Touched
    | Collecting
    | Begun
    | Idle
    | Finished
    | Missing
    | Letter
    | Charge
    | Broken
    | Told
    | Order
)

_KINDS: Mapping[str, type[Message]] = {kind.__name__: kind for kind in get_args(Message)}


def write(fd: int, *messages: Message) -> None:
    """Put messages into a file."""
    view = memoryview(b"".join(map(_encode, messages)))
    while view:
        view = view[os.write(fd, view) :]


def read(fd: int) -> list[Message]:
    """The messages that :func:`write` has put there; closes the file.

    Raises:
        ChannelError: these bytes are not ours.
    """
    os.lseek(fd, 0, os.SEEK_SET)
    try:
        receiver, messages = Receiver(fd), list[Message]()
        while not receiver.closed:
            messages += receiver.receive()
        return messages
    finally:
        os.close(fd)


class ChannelError(FaultguardError):
    """The channel is closed, or what came through it is not a message."""


@final
class Sender:
    """The end of a channel that speaks."""

    def __init__(self, fd: int, bell_fd: int | None = None) -> None:
        self._fd = fd
        self._bell_fd = bell_fd
        self._channel, self._bell = identity(fd), None if bell_fd is None else identity(bell_fd)
        self._lock = threading.RLock()
        self._waiting: list[bytes] = []
        self._writing = False
        #: Bytes since the last ring, and how many there may be without one: who speaks would have to wait.
        self._unheard, self._unheard_most = 0, sys.maxsize if bell_fd is None else _surely_held(fd)

    def ring(self, message: Message) -> None:
        """Send what the other side should know at once: it may let other messages gather.

        Raises:
            ChannelError: as :meth:`send`.
        """
        self.send(message)
        self._ring()

    def _ring(self) -> None:
        self._unheard = 0
        if self._bell_fd is not None:
            self._check(self._bell_fd, self._bell)
            os.write(self._bell_fd, b".")

    def send(self, message: Message) -> None:
        """Write the whole message, also from several threads and from a signal handler.

        Raises:
            ChannelError: somebody in this process has closed the descriptor, or it is another file now.
            BrokenPipeError: nobody is left to read it.
        """
        frame = _encode(message)
        with self._lock:
            self._waiting.append(frame)
            if self._writing:
                # A signal handler came in mid-write, on this very thread: the write that it interrupted goes on.
                return
            self._writing = True
            try:
                while self._waiting:
                    self._write_first()
            finally:
                self._writing = False

    @staticmethod
    def _check(fd: int, file: object) -> None:
        if identity(fd) != file:
            # A test that closes all descriptors may have opened a file of its own under our number since.
            msg = "the channel to pytest was closed by the test"
            raise ChannelError(msg)

    def _write_first(self) -> None:
        self._check(self._fd, self._channel)
        self._unheard += len(self._waiting[0])
        if self._unheard > self._unheard_most:
            self._ring()
        # A signal that raises could cut a frame that the kernel does not write at once. Where another thread takes the
        # signal this does not help; then the guard ends a child that was to be interrupted.
        mask = signals.block_all() if len(self._waiting[0]) > select.PIPE_BUF else None
        try:
            view = memoryview(self._waiting.pop(0))
            while view:
                view = view[os.write(self._fd, view) :]
        finally:
            if mask is not None:
                signals.set_mask(mask)


@final
class Receiver:
    """The end of a channel that listens; its descriptor does not block."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._buffer = bytearray()
        #: Whether every writer is gone.
        self.closed = False
        #: Until then, on the monotonic clock, the sender may have waited for room in the channel.
        self.was_full_at = 0.0

    @property
    def is_amid(self) -> bool:
        """Whether a part of a message has arrived, and the rest not yet."""
        return bool(self._buffer) and not self.closed

    def receive(self) -> Iterator[Message]:
        """Yield what has arrived; never waits. What was not asked for stays for the next call.

        Raises:
            ChannelError: these bytes are not ours.
        """
        yield from self._decode()
        while not self.closed:
            try:
                data = os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                self.closed = True
            elif len(data) > self._room:
                self.was_full_at = time.monotonic()
            self._buffer += data
            yield from self._decode()
            if len(data) < _READ_BYTES:
                return

    @functools.cached_property
    def _room(self) -> int:
        # Who has no room for a short frame has found less than that.
        return max(0, _surely_held(self._fd) - select.PIPE_BUF)

    def _decode(self) -> Iterator[Message]:
        while len(self._buffer) >= _HEADER.size:
            length, checksum = _HEADER.unpack_from(self._buffer)
            if length > _MAX_FRAME_BYTES:
                msg = f"a message of {length} bytes was announced"
                raise ChannelError(msg)
            end = _HEADER.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            if zlib.crc32(body) != checksum:
                msg = "a message was damaged"
                raise ChannelError(msg)
            yield _message(body)


def _surely_held(fd: int) -> int:
    """How many bytes fit into a pipe in any case: where two frames do not fit into a page, it uses them by half."""
    import fcntl  # Here, for Windows has none, and imports this module.

    try:
        return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) // 2
    except OSError:
        return sys.maxsize  # A file.


def _encode(message: Message) -> bytes:
    try:
        # Each is in use by one: another thread, or a signal handler that comes in here, makes its own.
        file, packer = _idle_packers.pop()
    except IndexError:
        file = io.BytesIO()
        packer = _Packer(file, _PROTOCOL)
    try:
        packer.dump((type(message).__name__, *message))
        body = file.getvalue()
    finally:
        packer.clear_memo()  # It holds all that it has packed.
    if len(body) < _SMALL_BYTES and not _idle_packers:
        file.seek(0)
        file.truncate()
        _idle_packers.append((file, packer))
    return _HEADER.pack(len(body), zlib.crc32(body)) + body


def _message(body: bytes) -> Message:
    try:
        name, *fields = _Unpacker(io.BytesIO(body)).load()
        return _KINDS[name](*fields)
    except Exception as error:
        msg = f"a message could not be read: {error}"
        raise ChannelError(msg) from error


class _Packer(pickle.Pickler):
    """Takes values apart into what :class:`_Unpacker` puts together."""

    def reducer_override(self, value: Any) -> Any:
        """How to put together what is no plain value; of anybody else's object, only its text is asked for."""
        if value is _same or value is _frame:
            return NotImplemented  # Its name will do.
        kind = type(value)
        if kind is Frame:
            return _frame, (value.function, value.file, value.line)
        try:
            # By the plain type's own methods: those of its class may be anything.
            for plain, value_of in _PLAIN.items():
                if issubclass(kind, plain):
                    return _same, (value_of(value),)
            # What has no form on the wire keeps its text, which is all that junitxml and the terminal would have used.
            return _same, (str.__str__(str(value)),)
        except Exception:  # noqa: BLE001 - the test's own code.
            return _same, (object.__repr__(value),)


class _Unpacker(pickle.Unpickler):
    """Calls nothing but what is known here: a message runs none of the code of whoever wrote it.

    As the documentation of :mod:`pickle` restricts globals.
    """

    def find_class(self, module: str, name: str) -> Any:
        """The two functions that a value is put together by."""
        try:
            return _KNOWN[module, name]
        except KeyError:
            msg = f"{module}.{name} is not known"
            raise pickle.UnpicklingError(msg) from None


def _same(value: object) -> object:
    """What a value is put together by that is plain already."""
    return value


def _frame(function: str, file: str, line: int | None) -> Frame:
    return Frame(function=function, file=file, line=line)


#: Of the oldest Python that is supported.
_PROTOCOL = 5
#: At most one: to make one takes as long as what it does. One that has packed much is let go: its memo stays as large, and to
#: clear that takes longer each time.
_SMALL_BYTES = 4096
_idle_packers: list[tuple[io.BytesIO, _Packer]] = []
#: How each tells the value of an object of a class derived from it.
_PLAIN: Mapping[Any, Callable[[Any], object]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: lambda value: b"".join((value,)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
}
_KNOWN: Mapping[tuple[str, str], Any] = {(one.__module__, one.__qualname__): one for one in (_same, _frame)}
