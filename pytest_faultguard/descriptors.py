"""Which file is behind a number, and which number it has."""

from __future__ import annotations

import os

_HIGH_FD = 512


def identity(fd: int) -> tuple[int, int] | None:
    """Which file is behind a descriptor; None where none is."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def high_pipe() -> tuple[int, int]:
    """A pipe of which both ends are :func:`moved_up`: where it is read, and where it is written."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        reading = moved_up(reading)
    except BaseException:
        os.close(writing)
        raise
    try:
        return reading, moved_up(writing)
    except BaseException:
        os.close(reading)
        raise


def moved_up(fd: int) -> int:
    """The same file under a high number: out of the way of tests that count, close too many, or expect the lowest.

    And of what becomes 0, 1 or 2 in a child, where those were closed in this process.
    """
    import fcntl  # Here, for Windows has neither, and imports this module.
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = _HIGH_FD if soft == resource.RLIM_INFINITY or soft > 2 * _HIGH_FD else soft // 2
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)
    finally:
        os.close(fd)
