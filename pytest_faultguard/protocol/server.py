"""The fork server: a fresh interpreter that has begun a session, and forks a child of pytest's for each request."""

from __future__ import annotations

import faulthandler
import os
import select
import socket
from collections.abc import Iterable
from typing import NoReturn

import pytest

from pytest_faultguard.evidence import faultdump
from pytest_faultguard.outcome import LaunchError
from pytest_faultguard.output import Overture
from pytest_faultguard.process import proc
from pytest_faultguard.process.channel import Begun
from pytest_faultguard.process.channel import Letter
from pytest_faultguard.process.channel import read
from pytest_faultguard.process.child import Line
from pytest_faultguard.process.child import Wiring
from pytest_faultguard.process.child import run_adopted
from pytest_faultguard.process.child import run_spawned
from pytest_faultguard.process.launch import die_with
from pytest_faultguard.process.launch import fork_for_adoption
from pytest_faultguard.process.launch import leave
from pytest_faultguard.process.launch import wait_for
from pytest_faultguard.protocol import inside
from pytest_faultguard.protocol import spawned


def main(parent: int, letter_fd: int, socket_fd: int, first_out: int, first_err: int, *wiring: int) -> int:
    """The whole program; returns the exit code with which the interpreter is to end."""
    (letter,) = read(letter_fd)
    assert isinstance(letter, Letter)
    overture = Overture.taken_over({"first stdout": first_out, "first stderr": first_err})
    requests = socket.socket(fileno=socket_fd)
    requests.set_inheritable(False)
    return run_spawned(
        lambda line: _Server(parent, letter, line, requests, overture, wiring).run(),
        Wiring(*wiring),
        parent,
        is_server=True,
    )


class _Server:
    def __init__(
        self,
        parent: int,
        letter: Letter,
        line: Line,
        requests: socket.socket,
        overture: Overture,
        wiring: Iterable[int],
    ) -> None:
        self._parent = parent
        self._letter = letter
        self._line = line
        self._requests = requests
        self._overture = overture
        self._wiring = tuple(wiring)
        #: What its children find already; None where each has to collect by itself.
        self._found: spawned.Found | None = None

    def run(self) -> None:
        session = spawned.begun(self._letter)
        # pytest has enabled faulthandler for itself.
        faultdump.arm(self._line.dump_fd, self._line.stacks_fd)
        session.config.stash[inside.outermost_key].stand_by()
        if proc.thread_count() == 1:
            # A copy imports the test modules. While that has started no thread, it is as good a server, and a better one.
            own = os.getpid()
            reading, writing = os.pipe()
            copy = os.fork()
            if copy == 0:
                os.close(reading)
                self._run_copy(session, own, writing)
            os.close(writing)
            has_served = os.read(reading, 1)
            os.close(reading)
            status = wait_for(copy)
            if has_served:
                if status:
                    msg = f"the fork server has ended (wait status {status})"
                    raise RuntimeError(msg)
                spawned.end(session)
                return
        self._serve(session)
        spawned.end(session)

    def _run_copy(self, session: pytest.Session, original: int, serving: int) -> NoReturn:
        status = 1
        try:
            die_with(original)
            # Its crash is no crash of the server's: whoever imports that module next will tell of it.
            faulthandler.disable()
            self._found = spawned.collected(session, self._letter.paths)
            if proc.thread_count() == 1:
                os.write(serving, b".")
                os.close(serving)  # What it forks is not to have it.
                self._serve(session)
                status = 0
        finally:
            leave(status)

    def _serve(self, session: pytest.Session) -> None:
        """Fork a child for each request, until the session ends."""
        self._line.sender.ring(Begun())
        assert self._line.orders_fd is not None
        waiting = select.poll()
        for fd in (self._requests.fileno(), self._line.orders_fd):
            waiting.register(fd, select.POLLIN)
        while True:
            if any(fd == self._line.orders_fd for fd, _ in waiting.poll()):
                return  # It is to leave; there is no other order.
            if not self._answer(session):
                return

    def _answer(self, session: pytest.Session) -> bool:
        """Fork a child; False where nobody will ask any more."""
        told, fds, _, _ = socket.recv_fds(self._requests, 1, spawned.MOST_FDS)
        if not told:
            return False
        try:
            pid = fork_for_adoption(lambda between: self._be_child(session, fds, between))
        except (LaunchError, OSError):
            pid = 0  # This one cannot be had, another one maybe.
        finally:
            for fd in fds:
                os.close(fd)
        self._requests.send(pid.to_bytes(4, "little"))
        return True

    def _be_child(self, session: pytest.Session, fds: list[int], between: int) -> NoReturn:
        self._requests.close()
        for fd in self._wiring:
            os.close(fd)
        wiring, charge = spawned.received(fds)

        def target(line: Line) -> None:
            found = spawned.collected(session, charge.paths) if self._found is None else self._found
            spawned.live(session, charge, line, found, self._overture)

        run_adopted(target, wiring, self._parent, between)
