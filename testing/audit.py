"""The audit after each test: no process, file descriptor, shared memory or temporary file stays behind.

Used by both test folders: `from testing.audit import allow_leftovers, audit, audit_tmp` in their `conftest.py`.

A process started during a test is known by two marks, so that it is found however far it ran from its parent. A program
that was started has the test's id in its environment; a fork of this process, whose environment the kernel still shows
as it was at our own start, has a memory mapping with the id as its name, which closing every descriptor cannot remove.
"""

from __future__ import annotations

import contextlib
import gc
import mmap
import os
import select
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

#: The environment variable that marks what a test started; its value is the id of the test's audit.
VARIABLE = "PYTEST_FAULTGUARD_AUDIT"

#: How long something may take to be gone: a killed process on a busy machine, not a process that lives on.
_PATIENCE_SECONDS = 5.0
_KILL_SECONDS = 5.0

_PROC = Path("/proc")
_SHM = Path("/dev/shm")


@dataclass(frozen=True)
class Process:
    """One process of /proc, told from a later one with the same number by its start."""

    pid: int
    started_ticks: int
    ppid: int
    state: str

    @property
    def birth(self) -> tuple[int, int]:
        """What stays the same for as long as the process lives, and is no other's."""
        return self.pid, self.started_ticks

    @property
    def is_unreaped(self) -> bool:
        """A child of this process that has ended, and that nobody has waited for."""
        return self.state == "Z" and self.ppid == os.getpid()

    def carries(self, mark: str) -> bool:
        """Whether the mark is in the environment or among the mappings."""
        entry, needle = _PROC / str(self.pid), mark.encode()
        return needle in _content(entry / "environ") or needle in _content(entry / "maps")

    def __str__(self) -> str:
        command = _content(_PROC / str(self.pid) / "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
        return f"process {self.pid} (state {self.state}, parent {self.ppid}): {command or 'no command line'}"


@dataclass(frozen=True)
class Before:
    """What there was when the test began."""

    births: frozenset[tuple[int, int]]
    fds: frozenset[tuple[int, str]]
    shm: frozenset[str]

    @classmethod
    def now(cls) -> Before:
        return cls(frozenset(process.birth for process in _processes()), _open_fds(), _shared_memory())


@pytest.fixture
def allow_leftovers() -> list[str]:
    """What this test may leave behind: texts to be found in the audit's line (`"fd "`, `"sleep 600"`, `"shm psm_"`).

    An allowed process is ended all the same, without a word and without waiting for it to go by itself.
    """
    return []


@pytest.fixture
def audit_tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test's own `TMPDIR`: only pytest's `pytest-of-*` may be left in it."""
    return tmp_path_factory.mktemp("tmp")


@pytest.fixture(autouse=True, scope="session")
def default_signals() -> None:
    """A shell starts its background jobs, and some CI systems their steps, with these ignored: what tests start, too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def audit(audit_tmp: Path, allow_leftovers: list[str]) -> Iterator[None]:
    """Fail a test that leaves something behind, and end what still runs."""
    mark = uuid.uuid4().hex
    with pytest.MonkeyPatch.context() as patch, _named_mapping(mark):
        patch.setenv(VARIABLE, mark)
        patch.setenv("TMPDIR", str(audit_tmp))
        patch.setattr(tempfile, "tempdir", None)
        before = Before.now()
        yield
        found = [*_lost_processes(before, mark, allow_leftovers), *_lost_things(before, mark, audit_tmp)]
    lines = [line for line in found if not _is_allowed(line, allow_leftovers)]
    if lines:
        pytest.fail("left behind by this test:\n  " + "\n  ".join(lines), pytrace=False)


def _lost_processes(before: Before, mark: str, allowed: list[str]) -> list[str]:
    """Wait for what is about to go, end the rest, and name it."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        processes = _started_since(before, mark)
        running = [process for process in processes if not process.is_unreaped]
        to_wait_for = [process for process in running if not _is_allowed(str(process), allowed)]
        if not to_wait_for or not _wait_for_one(to_wait_for, deadline):
            break
    processes = _started_since(before, mark)
    lines = [str(process) for process in processes]
    # What is ended may just have started another one.
    while processes and time.monotonic() < deadline + _KILL_SECONDS:
        _end(processes)
        processes = _started_since(before, mark)
    return lines


def _started_since(before: Before, mark: str) -> list[Process]:
    return [
        process
        for process in _processes()
        if process.birth not in before.births and (process.ppid == os.getpid() or process.carries(mark))
    ]


def _wait_for_one(processes: list[Process], deadline: float) -> bool:
    """Wait until one of them has ended; False when the deadline comes first."""
    with contextlib.ExitStack() as opened:
        waiting = select.poll()
        for process in processes:
            try:
                pidfd = os.pidfd_open(process.pid)
            except ProcessLookupError:
                return True
            opened.callback(os.close, pidfd)
            waiting.register(pidfd, select.POLLIN)
        return bool(waiting.poll(max(0.0, deadline - time.monotonic()) * 1000))


def _end(processes: list[Process]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError), _pidfd(process.pid) as pidfd:
            if process.birth not in {other.birth for other in _processes()}:
                continue
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            ended = select.poll()
            ended.register(pidfd, select.POLLIN)
            ended.poll(_KILL_SECONDS * 1000)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


def _lost_things(before: Before, mark: str, tmp: Path) -> list[str]:
    if _open_fds() - before.fds:
        gc.collect()  # A file object in a cycle of references is garbage, not a leak.
    lost = [f"fd {fd} -> {target}" for fd, target in sorted(_open_fds() - before.fds)]
    lost += [f"shm {name}" for name in sorted(_shared_memory() - before.shm) if not _is_used_by_others(name, mark)]
    lost += [f"temp {path.name}" for path in sorted(tmp.iterdir()) if not path.name.startswith("pytest-of-")]
    return lost


def _is_used_by_others(shm_name: str, mark: str) -> bool:
    """Whether a process that is not of this test has it mapped: a test that runs beside us under xdist."""
    path = os.fsencode(_SHM / shm_name)
    return any(
        process.pid != os.getpid() and path in _content(_PROC / str(process.pid) / "maps") and not process.carries(mark)
        for process in _processes()
    )


def _is_allowed(line: str, allowed: list[str]) -> bool:
    return any(text in line for text in allowed)


@contextlib.contextmanager
def _named_mapping(mark: str) -> Iterator[None]:
    """A mapping that every fork of this process inherits and that /proc shows by name."""
    fd = os.memfd_create(f"audit-{mark}")
    try:
        os.truncate(fd, mmap.PAGESIZE)
        mapping = mmap.mmap(fd, mmap.PAGESIZE)
    finally:
        os.close(fd)
    with mapping:
        yield


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def _processes() -> list[Process]:
    """Every process but this one."""
    numbers = [int(entry) for entry in os.listdir(_PROC) if entry.isdigit()]
    stats = [(pid, _content(_PROC / str(pid) / "stat")) for pid in numbers if pid != os.getpid()]
    return [_from_stat(pid, stat) for pid, stat in stats if stat]


def _from_stat(pid: int, stat: bytes) -> Process:
    # The command's name stands in parentheses and may hold anything: the fields begin after the last one (proc(5)).
    fields = stat.rpartition(b")")[2].split()
    return Process(pid=pid, started_ticks=int(fields[19]), ppid=int(fields[1]), state=fields[0].decode())


def _content(path: Path) -> bytes:
    """What the file of /proc says; nothing when the process has gone or is not ours to read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _open_fds() -> frozenset[tuple[int, str]]:
    # The one that lists the directory is among them, and is closed by then.
    fds = [int(name) for name in os.listdir("/proc/self/fd")]
    found = set()
    for fd in fds:
        with contextlib.suppress(FileNotFoundError):
            found.add((fd, os.readlink(f"/proc/self/fd/{fd}")))
    return frozenset(found)


def _shared_memory() -> frozenset[str]:
    return frozenset(os.listdir(_SHM)) if _SHM.is_dir() else frozenset()
