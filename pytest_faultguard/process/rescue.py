"""Rescued values as text, told by a throw-away process.

Loading what a crashed child wrote, and calling its ``repr``, is running the code that has just crashed. So a fresh child
does it, with a deadline; where it dies or hangs, that value costs its own line, and another child goes on behind it.
"""

from __future__ import annotations

import faulthandler
import os
import reprlib
import selectors
import sys
import time
from typing import Any

from pytest_faultguard.crash import Rescued
from pytest_faultguard.crash import Seconds
from pytest_faultguard.crash import signal_name
from pytest_faultguard.evidence import journal
from pytest_faultguard.outcome import LaunchError
from pytest_faultguard.process.channel import ChannelError
from pytest_faultguard.process.channel import Receiver
from pytest_faultguard.process.channel import Sender
from pytest_faultguard.process.channel import Told
from pytest_faultguard.process.launch import Child
from pytest_faultguard.process.launch import fork_child
from pytest_faultguard.process.launch import wait_for
from pytest_faultguard.process.signals import Signals
from pytest_faultguard.process.supervise import kill_group

#: For all values of one child together, and for one of them.
RESCUE_BOUND: Seconds = 10.0
VALUE_BOUND: Seconds = 2.0
#: A report is read by people: past this many keys it says how many more there are.
MAX_KEYS = 100
#: As pytest's own saferepr.
MAX_CHARACTERS = 240


def rescue(journal_fd: int) -> tuple[tuple[Rescued, ...], tuple[str, ...]]:
    """What the journal holds, as text, and the gaps: values that could not be read or told, each with its reason.

    The journal's writer must be dead, or waiting for us.
    """
    recovered = journal.read(journal_fd)
    gaps = [f"faultguard_data: {gap}" for gap in recovered.gaps]
    records = recovered.records
    if not records:
        return (), tuple(gaps)
    told: list[Rescued] = []
    until = time.monotonic() + RESCUE_BOUND
    wanted = min(len(records), MAX_KEYS)
    while len(told) < wanted:
        if time.monotonic() > until:
            gaps.append(f"faultguard_data: {wanted - len(told)} keys were not shown within {RESCUE_BOUND:g} s")
            break
        try:
            told += _tell(records[:wanted], len(told), until)
        except (LaunchError, OSError) as error:
            gaps.append(f"faultguard_data: {error}")
            break
    if len(records) > wanted:
        told.append(Rescued(key="...", value=f"and {len(records) - wanted} more keys"))
    return tuple(told), tuple(gaps)


def _tell(records: tuple[journal.Record, ...], start: int, until: Seconds) -> list[Rescued]:
    """The records from ``start`` on, up to the end or to the one that killed its teller, which has its line too."""
    with Signals() as noted:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            os.set_blocking(reading, False)
            try:
                child = fork_child(lambda: _teller(records, start, writing), restore=noted.restore)
            finally:
                os.close(writing)
            messages, status = _listen(child, reading, noted, until)
        finally:
            os.close(reading)
    told = [Rescued(key=one.key, value=one.value) for one in messages if one.value is not None]
    if start + len(told) < len(records):
        last = messages[-1] if messages and messages[-1].value is None else None
        key = last.key if last else f"<key {start + len(told) + 1}>"
        told.append(Rescued(key=key, value=f"<could not be shown: {status}>"))
    return told


def _listen(child: Child, reading: int, noted: Signals, until: Seconds) -> tuple[list[Told], str]:
    messages: list[Told] = []
    hung = False
    try:
        try:
            noted.listen()
            # A function of its own: see Watch._wait.
            hung = _hear(child, reading, noted, until, messages)
        finally:
            noted.block()
    finally:
        kill_group(child.pid)
        os.close(child.pidfd)
        status = wait_for(child.pid) or 0
    if hung:
        return messages, "its loading or repr hangs"
    if os.WIFSIGNALED(status):
        return messages, f"{signal_name(os.WTERMSIG(status))} in its loading or repr"
    return messages, f"exit code {os.WEXITSTATUS(status)} in its loading or repr"


def _hear(child: Child, reading: int, noted: Signals, until: Seconds, messages: list[Told]) -> bool:
    """Gather what a teller says up to its end; whether it took too long, or a signal came."""
    receiver = Receiver(reading)
    with selectors.PollSelector() as selector:
        for fd in (child.pidfd, reading, noted.fd):
            selector.register(fd, selectors.EVENT_READ)
        try:
            ended = False
            while not ended:
                wait = max(0.0, min(VALUE_BOUND, until - time.monotonic()))
                ready = {key.fd for key, _ in selector.select(wait)}
                if not ready or noted.fd in ready:
                    return True
                ended = child.pidfd in ready
                messages += (message for message in receiver.receive() if isinstance(message, Told))
                if receiver.closed and reading in selector.get_map():
                    selector.unregister(reading)
        except ChannelError:
            pass  # It has scribbled over its own memory: what came before counts.
    return False


def _teller(records: tuple[journal.Record, ...], start: int, writing: int) -> None:
    faulthandler.disable()  # This crash is not one that anybody should read about.
    # Nor are its words: neither those of C code nor those that Python would put into a capture file.
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    sys.stdout = sys.stderr = os.fdopen(null, "w")
    sender = Sender(writing)
    for index, record in enumerate(records[start:], start):
        key = text_of(_load(record.load_key))
        sender.send(Told(place=index, key=key, value=None))
        sender.send(Told(place=index, key=key, value=text_of(_load(record.load_value))))


class _Unloadable:
    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __repr__(self) -> str:
        return f"<could not be loaded: {type(self._error).__name__}: {self._error}>"


def _load(loader: Any) -> Any:
    try:
        return loader()
    except Exception as error:  # noqa: BLE001 - the test's own code.
        return _Unloadable(error)


def text_of(value: object) -> str:
    """A value on one line, cut like pytest's saferepr; arrays with their shape and dtype; never raises an Exception."""
    try:
        if isinstance(value, bytes | bytearray | str) and len(value) > MAX_CHARACTERS:
            unit = "characters" if isinstance(value, str) else "bytes"
            return f"<{len(value)} {unit}> {_cut(repr(value[:MAX_CHARACTERS]))}"
        text = _repr.repr(value)
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    except Exception as error:  # noqa: BLE001 - the test's own code.
        return _unshowable(value, error)
    if isinstance(shape, tuple) and dtype is not None and type(value).__module__ != "builtins":
        text = f"<{type(value).__name__} shape={shape} dtype={dtype}> {text}"
    return _cut(" ".join(text.split()) if "\n" in text else text)


def _cut(text: str) -> str:
    if len(text) <= MAX_CHARACTERS:
        return text
    half = (MAX_CHARACTERS - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def _unshowable(value: object, error: Exception) -> str:
    return f"<[{type(error).__name__} raised in repr()] {type(value).__name__} object>"


class _Repr(reprlib.Repr):
    """Says what a ``repr`` raised, where the standard library's shows an address."""

    def repr_instance(self, value: object, level: int) -> str:  # noqa: ARG002 - of the base class.
        try:
            return _cut(repr(value))
        except Exception as error:  # noqa: BLE001 - the test's own code.
            return _unshowable(value, error)


_repr = _Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = MAX_CHARACTERS
