"""The kernel's counter of out-of-memory kills: whether a SIGKILL was its own.

A process that is killed does not learn by whom, nor does its parent. But the kernel counts each such kill in the memory
cgroup of the process before it sends the signal: in ``memory.events`` of version 2, with those of the cgroups below it,
and in ``memory.oom_control`` of version 1. Where there is no such file (in the root of version 2), the whole machine's
counter has to do: ``oom_kill`` in ``/proc/vmstat``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import final

_ALL = "/proc/vmstat"
_READ_BYTES = 1 << 16
_COUNT = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)
#: By the type of the file system, what it counts in.
_FILES = {"cgroup2": "memory.events", "cgroup": "memory.oom_control"}


@final
class Kills:
    """Counts the out-of-memory kills where those of this process and its children are counted."""

    def __init__(self) -> None:
        #: The file; empty where there is none.
        self.file = next((file for file in _candidates() if read_count(_text(file)) is not None), "")

    def text(self) -> bytes:
        """What the file says now, for :func:`read_count`; nothing where nobody counts them."""
        # Asked before each test, so without Python's layers: 7 us for a cgroup's file. Opened each time: a child would
        # inherit the descriptor.
        return _text(self.file) if self.file else b""

    def count(self) -> int | None:
        """How many there were; None where nobody counts them."""
        return read_count(self.text())


def read_count(text: bytes) -> int | None:
    """The count in what one of the files says; None where it says none."""
    match = _COUNT.search(text)
    return int(match[1]) if match else None


def files_in(mounts: str, cgroups: str) -> Iterator[str]:
    """Where the counters of a process may be, from its ``/proc/PID/mountinfo`` and ``/proc/PID/cgroup``."""
    paths: dict[str, str] = {}
    for line in cgroups.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            paths["cgroup2"] = path
        elif "memory" in controllers.split(","):
            paths["cgroup"] = path
    for line in mounts.splitlines():
        mount, _, system = line.partition(" - ")
        kind, _, options = system.split(" ", 2)
        if kind in paths and (kind == "cgroup2" or "memory" in options.split(",")):
            # What is mounted may begin below the root: in a container it does.
            root, point = mount.split(" ")[3:5]
            below = os.path.relpath(paths[kind], root)
            if below != ".." and not below.startswith("../"):
                yield str(Path(_unescaped(point), below, _FILES[kind]))


def _candidates() -> Iterator[str]:
    try:
        mounts, cgroups = (Path(f"/proc/self/{name}").read_text("utf-8", "replace") for name in ("mountinfo", "cgroup"))
    except OSError:
        mounts = cgroups = ""
    yield from files_in(mounts, cgroups)
    yield _ALL


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _text(file: str) -> bytes:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _READ_BYTES)
    except OSError:
        return b""
    finally:
        os.close(fd)
