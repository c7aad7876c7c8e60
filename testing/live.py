"""Inner pytest sessions that are still running: what they say, signals to them, and what is left when they have ended.

The tests of such a session tell where they are through a FIFO (`from say import say`), so that nobody has to sleep:
:meth:`Live.wait_for` returns when the word was said, and fails at a hard deadline. They wait for the test in their turn
(`from say import wait`), until it calls :meth:`Live.go`.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from testing.harness import SESSION_SECONDS
from testing.harness import common_options

#: For one word, one line of output, or the end of a session; far more than any of them takes.
WAIT_SECONDS = SESSION_SECONDS / 2

_SAY = '''
"""Words for the test that started this session."""

import os


def say(*words):
    fd = os.open(@SAY@, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, (" ".join(map(str, words)) + "\\n").encode())
    finally:
        os.close(fd)


def wait():
    fd = os.open(@GO@, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.read(fd, 1)
    finally:
        os.close(fd)
'''


#: As a shell with job control starts a program. Its parent stays in the session and out of the group: only so is the
#: group not an orphaned one, whose processes SIGTSTP does not stop.
_LEAD_A_GROUP = """
import os, signal, sys
os.setpgid(0, 0)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


@dataclass(frozen=True)
class Seen:
    """One process as /proc shows it."""

    pid: int
    state: str
    ppid: int
    pgid: int


def look_at(pid: int) -> Seen | None:
    """The process, or None where it has ended; a zombie has not been waited for, but it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, ppid, pgid = stat.rpartition(")")[2].split()[:3]
    return None if state in "ZX" else Seen(pid, state, int(ppid), int(pgid))


def descendants(pid: int) -> set[int]:
    """The processes below one, at any depth."""
    seen = [look_at(int(name)) for name in os.listdir("/proc") if name.isdigit()]
    found, parents = set[int](), {pid}
    while parents:
        parents = {one.pid for one in seen if one is not None and one.ppid in parents}
        found |= parents
    return found


def has_ended(pid: int, within: float = WAIT_SECONDS) -> bool:
    """Wait for the end of any process, not only of a child of ours."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with _closing(pidfd), selectors.PollSelector() as selector:
        selector.register(pidfd, selectors.EVENT_READ)
        return bool(selector.select(within))


def wait_until(condition: Callable[[], bool], what: str, within: float = WAIT_SECONDS) -> None:
    """For what no descriptor tells: looks again and again, and fails at the deadline."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {within:g} s in vain: {what}")
        os.sched_yield()


def wait_until_asleep(pid: int) -> None:
    """Until a process that has said its word has come to what it waits for."""
    wait_until(lambda: (seen := look_at(pid)) is not None and seen.state == "S", f"{pid} sleeps")


class Live:
    """A started session: its words, its output so far, its end."""

    def __init__(self, process: subprocess.Popen[bytes], fifo: int, go: int) -> None:
        assert process.stdout is not None
        self.process = process
        self.pid = process.pid
        self.started_at = time.monotonic()
        self._fds = {fifo: bytearray(), process.stdout.fileno(): bytearray()}
        self._fifo = fifo
        self._go = go
        self._pidfd = os.pidfd_open(process.pid)
        self._stdout = process.stdout.fileno()
        self._words: list[str] = []
        for fd in self._fds:
            os.set_blocking(fd, False)

    @property
    def output(self) -> str:
        """What the session has written to stdout and stderr until now."""
        self._drain()
        return self._fds[self._stdout].decode("utf-8", "replace")

    def wait_for(self, word: str, within: float = WAIT_SECONDS) -> list[str]:
        """The words that were said with this one as the first; each is given once."""

        def said() -> bool:
            return any(line.split()[0] == word for line in self._words)

        self._wait(said, f"the word {word!r}", within)
        line = next(line for line in self._words if line.split()[0] == word)
        self._words.remove(line)
        return line.split()[1:]

    def has_said(self, word: str) -> bool:
        """Whether the word was said by now."""
        self._drain()
        return any(line.split()[0] == word for line in self._words)

    def wait_for_output(self, pattern: str, within: float = WAIT_SECONDS) -> re.Match[str]:
        """The first match of a regular expression in the output."""
        self._wait(lambda: re.search(pattern, self.output, re.MULTILINE) is not None, f"the output {pattern!r}", within)
        match = re.search(pattern, self.output, re.MULTILINE)
        assert match is not None
        return match

    def go(self) -> None:
        """Let one test go on that waits, now or soon."""
        os.write(self._go, b"!")

    def send(self, number: int) -> None:
        """Send pytest a signal: to it alone, as `kill` does."""
        self.process.send_signal(number)

    def end(self, within: float = WAIT_SECONDS) -> int:
        """Wait for the end of pytest, whoever may still hold its output; its exit status, negative for a signal."""
        deadline = time.monotonic() + within
        while not self._has_ended(max(0.0, deadline - time.monotonic())):
            if time.monotonic() > deadline:
                pytest.fail(f"the session is still running after {within:g} s:\n{self.output}")
            self._drain()
        self._drain()
        return self.process.wait()

    def close(self) -> None:
        """Kill what still runs, and let the descriptors go."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        os.close(self._pidfd)

    def _wait(self, condition: Callable[[], bool], what: str, within: float) -> None:
        deadline = time.monotonic() + within
        self._drain()
        while not condition():
            left = deadline - time.monotonic()
            over = left < 0 or self._has_ended(left)
            self._drain()
            if over and not condition():
                pytest.fail(f"waited in vain for {what}; the session said {self._words}, and:\n{self.output}")

    def _has_ended(self, within: float) -> bool:
        """Wait for anything; whether it is the end."""
        with selectors.PollSelector() as selector:
            for fd in (self._pidfd, *self._fds):
                selector.register(fd, selectors.EVENT_READ)
            return self._pidfd in {key.fd for key, _ in selector.select(within)}

    def _drain(self) -> None:
        for fd, text in list(self._fds.items()):
            while data := _read(fd):
                text.extend(data)
        words = self._fds[self._fifo]
        whole, newline, rest = bytes(words).rpartition(b"\n")
        if newline:
            self._words += whole.decode().splitlines()
            words[:] = rest


@dataclass(frozen=True)
class StartPytest:
    """Starts inner sessions in `pytester.path`; one that still runs at the end of the test is killed."""

    pytester: pytest.Pytester
    fifo: int
    go: int
    started: list[Live]

    def __call__(
        self,
        *args: str | os.PathLike[str],
        command: tuple[str, ...] = ("-m", "pytest"),
    ) -> Live:
        """Run `python -m pytest *args`, or another `python *command *args`, in a process group of its own."""
        arguments = [*command, *common_options(), *map(str, args)]
        process = self.pytester.popen(
            [sys.executable, "-ISc", _LEAD_A_GROUP, sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return self.adopt(process)

    def adopt(self, process: subprocess.Popen[bytes]) -> Live:
        """Look after a session that was started otherwise, with its stdout in a pipe."""
        live = Live(process, self.fifo, self.go)
        self.started.append(live)
        return live


@contextmanager
def starting(pytester: pytest.Pytester) -> Iterator[StartPytest]:
    """What the fixture `start_pytest` gives."""
    text = _SAY
    fds: list[int] = []
    for name in ("say", "go"):
        path = pytester.path / f"{name}.fifo"
        os.mkfifo(path)
        text = text.replace(f"@{name.upper()}@", repr(str(path)))
        # With both ends of our own, nobody meets an end of file and nobody waits for the other side.
        fds.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    (pytester.path / "say.py").write_text(text)
    started: list[Live] = []
    try:
        yield StartPytest(pytester, fds[0], fds[1], started)
    finally:
        for fd in fds:
            os.close(fd)
        for live in started:
            live.close()


@contextmanager
def _closing(fd: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(fd)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        return b""
