"""What native code writes to descriptor 2: passed on, and the end of it kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pytest_faultguard.process import relay
from pytest_faultguard.process.relay import Relay


@contextmanager
def relayed(target: int) -> Iterator[tuple[Relay, int]]:
    """A relay to that file, and where a child would write."""
    former = os.dup(2)
    os.dup2(target, 2)
    try:
        made = Relay()
    finally:
        os.dup2(former, 2)
        os.close(former)
    try:
        yield made, made._writing
    finally:
        made.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    os.close(reading)
    os.close(writing)


def test_it_passes_on_and_keeps(pipe: tuple[int, int]) -> None:
    """By phase."""
    reading, writing = pipe
    with relayed(writing) as (made, end):
        os.write(end, b"one\n")
        assert made.words() == "one\n"
        os.write(end, b"two \xff\n")
        assert made.words() == "one\ntwo \ufffd\n"
        os.write(end, b"three\n")
        made.forget()
        os.write(end, b"four\n")
        assert made.words() == "four\n"

    assert os.read(reading, 100) == b"one\ntwo \xff\nthree\nfour\n"


def test_it_keeps_the_end_of_a_flood() -> None:
    """All of it is passed on."""
    target = os.memfd_create("target")
    with relayed(target) as (made, end):
        for index in range(100):
            os.write(end, b"%06d\n" % index * 1000)
            made.drain()
        kept = made.words()

    assert len(kept) == relay.KEPT_BYTES
    assert kept.endswith("000098\n" * 1 + "000099\n" * 1000)
    assert os.fstat(target).st_size == 700_000
    os.close(target)


def test_a_target_that_takes_no_more_is_waited_for(pipe: tuple[int, int]) -> None:
    """A terminal may be non-blocking, for whoever shares it."""
    reading, writing = pipe
    os.set_blocking(writing, False)
    pid = os.fork()
    if pid == 0:
        with relayed(writing) as (made, end):
            for _ in range(4):
                os.write(end, b"x" * 50_000)
                made.drain()
        os._exit(0)
    os.set_blocking(reading, True)
    got = 0
    while got < 200_000:
        got += len(os.read(reading, 65536))
    assert os.waitpid(pid, 0) == (pid, 0)


def test_a_target_that_is_gone_is_nobodys_error() -> None:
    """As for a process that writes there itself, with SIGPIPE ignored."""
    reading, writing = os.pipe()
    with relayed(writing) as (made, end):
        os.close(reading)
        os.close(writing)
        os.write(end, b"kept\n")
        assert made.words() == "kept\n"


def test_what_python_writes_goes_straight_on() -> None:
    """It does not wait for the relay; and where the test puts a file of its own, that file gets it."""
    code = """
import os, sys, tempfile
from pytest_faultguard.process.relay import Relay
made = Relay()
made.arm()
print("one", file=sys.stderr)
os.write(2, b"native\\n")
sys.stderr.buffer.write(b"two\\n")
sys.stderr.flush()
former = os.dup(2)
with tempfile.TemporaryFile() as file:
    os.dup2(file.fileno(), 2)
    print("into the file", file=sys.stderr)
    os.dup2(former, 2)
    file.seek(0)
    print(file.read(), file=sys.stderr)
print(os.isatty(2), sys.stderr.isatty(), sys.stderr.fileno(), file=sys.stderr)
print("relay:", repr(made.words()), file=sys.stderr)
"""
    for options in ([], ["-u"]):
        done = subprocess.run(
            [sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=30, check=True
        )
        assert done.stderr.splitlines() == [
            "one",
            "two",
            "b'into the file\\n'",
            "False False 2",
            "native",
            "relay: 'native\\n'",
        ]
