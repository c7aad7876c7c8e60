"""The signals that pytest gets while a guard lives: noted, then raised again with the former disposition."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pytest_faultguard.process import signals
from pytest_faultguard.process.signals import Disposition
from pytest_faultguard.process.signals import Signals
from pytest_faultguard.process.signals import Status

_libc = ctypes.CDLL(None)
_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)


def action(number: int) -> bytes:
    """The kernel's view: the handler, the mask and the flags, as far as libc fills them in."""
    buffer = ctypes.create_string_buffer(256)
    _libc.sigaction(number, None, buffer)
    return buffer.raw[:16] + buffer.raw[136:140]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    former = {number: Disposition(number) for number in (*signals._WATCHED, signal.SIGUSR1)}
    yield
    for disposition in former.values():
        disposition.restore()


@contextmanager
def noting() -> Iterator[Signals]:
    with Signals() as noted:
        noted.listen()
        try:
            yield noted
        finally:
            noted.block()


def test_signals_wait_until_the_end() -> None:
    """Nothing is raised between two lines of ours."""
    with pytest.raises(KeyboardInterrupt), noting() as noted:
        signal.raise_signal(signal.SIGINT)
        assert select.select([noted.fd], [], [], 0)[0]
        assert noted.take() == [signal.SIGINT]
        assert noted.take() == []
        assert not select.select([noted.fd], [], [], 0)[0]
        reached = True

    assert reached
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_was_not_taken_is_raised_as_well() -> None:
    """It came between the last look and the end."""
    with pytest.raises(KeyboardInterrupt), noting():
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", signals.TERMINATING)
def test_a_function_of_the_users_gets_its_signal_once(number: int) -> None:
    """And stands as before."""
    met: list[int] = []

    def function(number: int, _: object) -> None:
        met.append(number)

    signal.signal(number, function)
    before = action(number)
    with noting():
        signal.raise_signal(number)
        signal.raise_signal(number)
        assert met == []

    assert met == [number]
    assert signal.getsignal(number) is function
    assert action(number) == before


def test_a_handler_of_c_code_is_restored() -> None:
    """Python's table does not know it; the kernel's has it back, byte by byte."""
    met: list[int] = []
    function = _HANDLER(met.append)
    _libc.signal(signal.SIGTERM, function)
    before = action(signal.SIGTERM)

    with noting():
        assert action(signal.SIGTERM) != before
        signal.raise_signal(signal.SIGTERM)

    assert action(signal.SIGTERM) == before
    assert met == [signal.SIGTERM]


def test_an_ignored_signal_stays_ignored() -> None:
    """As under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with noting() as noted:
        signal.raise_signal(signal.SIGHUP)
        assert noted.take() == []

    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_in_a_thread_nothing_is_installed() -> None:
    """Python installs handlers in the main thread only."""
    seen: list[object] = []

    def run() -> None:
        with noting() as noted:
            seen.append(signal.getsignal(signal.SIGINT))
            noted.wake()
            seen.append(noted.take())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    assert seen == [signal.default_int_handler, []]


def test_between_its_lines_nobody_is_heard() -> None:
    """Not even a handler of somebody else's that raises."""
    signal.signal(signal.SIGUSR1, signal.default_int_handler)
    reached = []

    with pytest.raises(KeyboardInterrupt), Signals() as noted:
        signal.raise_signal(signal.SIGUSR1)
        reached.append("blocked")
        try:
            noted.listen()
        except KeyboardInterrupt:
            reached.append("listening")
        noted.block()
        signal.raise_signal(signal.SIGUSR1)
        reached.append("blocked")

    assert reached == ["blocked", "listening", "blocked"]
    assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_the_descriptor_is_closed() -> None:
    """Whatever happens."""
    with pytest.raises(LookupError), noting() as noted:
        raise LookupError

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(noted.fd)


def test_the_status_signal_is_answered_and_given_back() -> None:
    """For a whole session, where nobody else has it."""
    answered: list[None] = []
    status = Status(signal.SIGUSR1, lambda: answered.append(None))
    signal.raise_signal(signal.SIGUSR1)
    status.close()

    assert answered == [None]
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_a_status_signal_that_is_taken_stays_so() -> None:
    """The user's handler is the user's."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    with pytest.raises(ValueError, match="SIGUSR1 has a handler already"):
        Status(signal.SIGUSR1, sys.exit)

    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN


def test_a_handler_that_raises_while_signals_are_being_blocked_leaves_none_blocked() -> None:
    """The former mask would be lost; in a process with one thread, for another one may take the signal at any time."""
    code = """
import signal
from pytest_faultguard.process import signals

class Alarm(Exception):
    pass

def ring(*_):
    raise Alarm

signal.signal(signal.SIGALRM, ring)
raised = 0
while raised < 50:
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-5)
        while True:
            signals.set_mask(signals.block_all())
    except Alarm:
        raised += 1
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
