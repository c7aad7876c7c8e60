"""The channel: messages arrive whole, in order, or not at all."""

from __future__ import annotations

import enum
import fcntl
import os
import pickle
import select
import signal
import sys
import termios
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from typing import NamedTuple
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_faultguard.crash import Frame
from pytest_faultguard.process import channel
from pytest_faultguard.process.channel import Broken
from pytest_faultguard.process.channel import ChannelError
from pytest_faultguard.process.channel import Message
from pytest_faultguard.process.channel import Receiver
from pytest_faultguard.process.channel import Report
from pytest_faultguard.process.channel import Sender
from pytest_faultguard.process.channel import Stopped


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError:
            pass


def through(data: dict[str, Any]) -> dict[str, Any]:
    (message,) = arrived(channel._encode(Report(data=data)))
    assert isinstance(message, Report)
    return message.data


def arrived(raw: bytes) -> list[Message]:
    reading, writing = os.pipe()
    try:
        os.set_blocking(reading, False)
        os.write(writing, raw)  # Less than a pipe holds.
        os.close(writing)
        return list(Receiver(reading).receive())
    finally:
        os.close(reading)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=5), values, max_size=5))
def test_what_a_report_holds_comes_out_equal(data: dict[str, Any]) -> None:
    """Tuples, bytes, odd keys, lone surrogates and the mark itself included."""
    assert through(data) == data
    assert through({"\0": data, "plain": (1, [2, ({"\0": "tuple"},)])}) == {
        "\0": data,
        "plain": (1, [2, ({"\0": "tuple"},)]),
    }


def test_what_has_no_form_on_the_wire_keeps_its_text() -> None:
    """A property may hold any object: junitxml would have used its text."""

    class Odd:
        def __str__(self) -> str:
            return "odd"

    class Word(str):
        __slots__ = ()

    assert through({"a": Odd(), "b": Word("w"), "c": 1 + 2j}) == {"a": "odd", "b": "w", "c": "(1+2j)"}


class Numbers(enum.IntEnum):
    ONE = 1


class Pair(NamedTuple):
    first: object
    second: object


def test_of_a_class_of_its_own_the_plain_value_is_kept() -> None:
    """What a test has put into its properties needs no class on the other side."""
    data = {"a": Numbers.ONE, "b": Pair(1, Pair("x", None)), "c": OrderedDict(z=1, a=Numbers), "d": [sys, int]}

    told = through(data)

    assert told == {"a": 1, "b": (1, ("x", None)), "c": {"z": 1, "a": str(Numbers)}, "d": [str(sys), str(int)]}
    assert {type(one) for one in told.values()} == {int, tuple, dict, list}


def test_of_what_only_looks_like_a_plain_value_the_text_is_kept() -> None:
    """A mock says that it is of any class; a text may be its own text; and a mapping may refuse to be read."""

    class Echo(str):
        __slots__ = ()

        def __str__(self) -> str:
            return self

    class Locked(dict[str, int]):
        def items(self) -> Any:
            raise RuntimeError

    mocked = Mock(spec=dict)

    assert through({"a": mocked, "b": Echo("e"), "c": Locked(x=1)}) == {"a": str(mocked), "b": "e", "c": {"x": 1}}


@pytest.mark.parametrize("what", [(os.mkdir, ("made",)), (eval, ("__import__('os').mkdir('made')",)), (Frame, ())])
def test_a_message_calls_nothing(what: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever wrote it: a child that crashes may write anything."""

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return what

    monkeypatch.chdir(tmp_path)
    body = pickle.dumps(("Broken", {"text": Evil()}))

    with pytest.raises(ChannelError, match="is not known"):
        arrived(channel._HEADER.pack(len(body), zlib.crc32(body)) + body)

    assert list(tmp_path.iterdir()) == []


def test_frames_travel_as_frames() -> None:
    """Where an interrupt met the test is told with its frames."""
    frame = Frame(function="f", file="x.py", line=None)
    message = Stopped(reason=None, returncode=None, frames=(frame,))

    assert arrived(channel._encode(message)) == [message]


def test_a_message_may_be_packed_amid_another(pipe: tuple[int, int]) -> None:
    """As a signal handler does, or the text of a value; and after one that failed."""
    sender = Sender(pipe[1])

    class Talks:
        def __str__(self) -> str:
            sender.send(Broken(text="within"))
            return "a value"

    class Fails:
        def __str__(self) -> str:
            raise KeyboardInterrupt

    for value in (Talks(), Fails(), Talks(), "x" * 10_000, list(map(str, range(3_000))), Talks()):
        try:
            sender.send(Report(data={"before": 1, "value": value, "after": 2}))
        except KeyboardInterrupt:
            pass

    received = [*Receiver(pipe[0]).receive()]
    within, one = Broken(text="within"), Report(data={"before": 1, "value": "a value", "after": 2})
    assert [received[place] for place in (0, 1, 2, 3, 6, 7)] == [within, one] * 3
    assert [len(received[place].data["value"]) for place in (4, 5)] == [10_000, 3_000]  # type: ignore[union-attr]


def test_a_packer_keeps_nothing_of_what_it_has_packed() -> None:
    """Tests wait for objects to end; and of much, it would keep a large table."""
    value = Frame(function="f", file="f.py", line=1)
    count = sys.getrefcount(value)

    channel._encode(Stopped(reason=None, returncode=None, frames=(value,)))
    assert sys.getrefcount(value) == count

    channel._encode(Report(data={"many": list(map(str, range(3_000)))}))
    assert not channel._idle_packers


def test_a_message_that_was_cut_is_none() -> None:
    """Cut at every byte, a frame gives nothing, and what came before it is there."""
    first, second = channel._encode(Broken(text="one")), channel._encode(Broken(text="two"))

    for length in range(len(second)):
        assert arrived(first + second[:length]) == [Broken(text="one")]


@pytest.mark.parametrize("position", [0, 3, 4, 7, 8, 20])
def test_a_damaged_message_is_named(position: int) -> None:
    """Nothing that a broken child wrote is believed."""
    raw = bytearray(channel._encode(Broken(text="one" * 10)) + channel._encode(Broken(text="two" * 30)))
    raw[position] ^= 0x81

    try:
        messages = arrived(bytes(raw))
    except ChannelError:
        return
    assert messages == []


def test_a_closed_or_replaced_descriptor_is_noticed(pipe: tuple[int, int]) -> None:
    """A test that closes all descriptors and opens its own finds nothing of ours in its file."""
    reading, writing = pipe
    sender = Sender(writing)
    os.close(writing)
    with pytest.raises(ChannelError, match="closed by the test"):
        sender.send(Broken(text=""))
    other = os.memfd_create("other")
    os.dup2(other, writing)
    try:
        with pytest.raises(ChannelError, match="closed by the test"):
            sender.send(Broken(text=""))
        assert os.fstat(other).st_size == 0
    finally:
        os.close(other)
    assert list(Receiver(reading).receive()) == []


def test_many_threads_and_a_signal_handler_send_whole_messages(pipe: tuple[int, int]) -> None:
    """Messages of 100 KB, larger than the pipe, do not mix."""
    reading, writing = pipe
    sender, receiver = Sender(writing), Receiver(reading)
    got: list[Message] = []
    texts = [chr(97 + number) * 100_000 for number in range(4)]

    def send(text: str) -> None:
        for _ in range(5):
            sender.send(Broken(text=text))

    former = signal.signal(signal.SIGALRM, lambda *_: sender.send(Broken(text="alarm")))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)

    def read() -> None:
        while sum(message != Broken(text="alarm") for message in got) < len(texts) * 5:
            got.extend(receiver.receive())

    reader = threading.Thread(target=read)
    reader.start()
    senders = [threading.Thread(target=send, args=(text,)) for text in texts[1:]]
    try:
        for thread in senders:
            thread.start()
        send(texts[0])
        for thread in senders:
            thread.join()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
        reader.join()

    counts = {text: sum(message == Broken(text=text) for message in got) for text in texts}
    assert counts == dict.fromkeys(texts, 5)
    assert all(message == Broken(text="alarm") for message in got if message not in [_broken(text) for text in texts])


def _broken(text: str) -> Broken:
    return Broken(text=text)


def test_a_signal_that_raises_does_not_cut_a_long_message(pipe: tuple[int, int]) -> None:
    """It comes while the message waits in a full pipe, and has its way when the message is through."""
    reading, writing = pipe
    got: list[Message] = []
    sent = Report(data={"text": "x" * 1_000_000})
    capacity = fcntl.fcntl(reading, fcntl.F_GETPIPE_SZ)

    def interrupt_and_read() -> None:
        held = bytearray(4)
        while int.from_bytes(held, sys.byteorder) < capacity:
            fcntl.ioctl(reading, termios.FIONREAD, held)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
        receiver = Receiver(reading)
        while not got and select.select([reading], [], [], 5)[0]:
            got.extend(receiver.receive())

    def ring(*_: object) -> None:
        raise TimeoutError

    former = signal.signal(signal.SIGALRM, ring)
    reader = threading.Thread(target=interrupt_and_read)
    reader.start()
    try:
        with pytest.raises(TimeoutError):
            Sender(writing).send(sent)
    finally:
        reader.join()
        signal.signal(signal.SIGALRM, former)

    assert got == [sent]
