"""What the kernel tells about a process under ``/proc``; see ``proc(5)``."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator


def state(pid: int) -> str:
    """``R``, ``S``, ``D``, ``T``, ``Z`` …; empty where there is no such process."""
    return next(iter(_stat(pid)), "")


def members(pgid: int) -> Iterator[int]:
    """The processes of a group, without zombies."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields and fields[2] == str(pgid) and fields[0] not in {"Z", "X"}:
                yield int(entry.name)


def command_line(pid: int) -> str:
    """The command line with blanks between its words; ``?`` where there is none."""
    words = _read(f"/proc/{pid}/cmdline").split("\0")
    return " ".join(words).strip() or "?"


def data_bytes(pid: int) -> int | None:
    """What RLIMIT_DATA counts: private memory that can be written, touched or not; None where it has ended."""
    number = _field(f"/proc/{pid}/status", "VmData").partition(" ")[0]
    return int(number) * 1024 if number.isdigit() else None


def peak_bytes() -> int | None:
    """The largest resident set that this process has had, or had since that was reset; None where it is not told."""
    # Asked after each test, so without Python's layers.
    try:
        fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        text = os.read(fd, 1 << 12)
    except OSError:
        return None
    finally:
        os.close(fd)
    number = text.partition(b"VmHWM:")[2].partition(b"kB")[0]
    return int(number) * 1024 if number else None


def cpu_seconds(pid: int) -> float | None:
    """The processor time of all its threads, also of a process that was not reaped yet; None where there is none."""
    try:
        # As clock_getcpuclockid(3) makes it, which Python does not have.
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return None


def thread_count() -> int:
    """How many threads this process has, those of native code among them."""
    # Of a directory, the links of its subdirectories and its own two. Asked before each test, hence no Path.
    return os.stat("/proc/self/task").st_nlink - 2  # noqa: PTH116


def dumps_core(pid: int) -> bool:
    """Whether the kernel is writing the core of this process just now."""
    return _field(f"/proc/{pid}/status", "CoreDumping") == "1"


def caught(pid: int, number: int) -> bool:
    """Whether the process has a handler for a signal."""
    return _in_mask(_field(f"/proc/{pid}/status", "SigCgt"), number)


def blocked_everywhere(pid: int, number: int) -> bool:
    """Whether every thread of the process blocks a signal."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return False
    masks = [_field(f"/proc/{pid}/task/{thread}/status", "SigBlk") for thread in threads]
    return all(_in_mask(mask, number) for mask in masks if mask)


def _in_mask(mask: str, number: int) -> bool:
    return bool(int(mask or "0", 16) >> (number - 1) & 1)


def _field(path: str, name: str) -> str:
    lines = _read(path).splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:")), "")


def _stat(pid: int) -> list[str]:
    """``state, ppid, pgrp, session, …``."""
    return _read(f"/proc/{pid}/stat").rpartition(")")[2].split()


def _read(path: str) -> str:
    # No Path, whose names CPython would remember of each child; no `open`, in whose place a fixture may have put another; and
    # no bare descriptor, which would stay where somebody's handler of a signal raises.
    try:
        with io.FileIO(path) as file:
            return file.readall().decode("utf-8", "replace")
    except OSError:
        return ""  # It has ended.
