"""Which file is behind a number, which number it has, and who closes it.

Where an interrupt may come between any two lines, what was just opened may never have a name: so this process keeps its
own descriptors as objects (``FileIO``), which close what nobody has any more.
"""

from __future__ import annotations

import os
from io import FileIO

_HIGH_FD = 512


def identity(fd: int) -> tuple[int, int] | None:
    """Which file is behind a descriptor; None where none is."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def high_pipe() -> tuple[FileIO, FileIO]:
    """A pipe with two :func:`high_file`: where it is read, and where it is written."""
    ends = list(map(FileIO, os.pipe2(os.O_CLOEXEC), ("rb", "wb")))
    try:
        for number, end in enumerate(ends):
            ends[number] = high_file(end)
    except BaseException:
        for end in ends:
            end.close()
        raise
    reading, writing = ends
    return reading, writing


def high_file(file: FileIO) -> FileIO:
    """The same file as :func:`moved_up`."""
    with file:
        return FileIO(high(file.fileno()), file.mode)


def high_memory_file(name: str, flags: int = 0) -> FileIO:
    """A file that has no name but for those who look, and is in memory only (``memfd_create(2)``), as :func:`high_file`."""
    return high_file(FileIO(os.memfd_create(f"faultguard-{name}", os.MFD_CLOEXEC | flags), "rb+"))


def moved_up(fd: int) -> int:
    """The same file under a number that is :func:`high`."""
    try:
        return high(fd)
    finally:
        os.close(fd)


def high(fd: int) -> int:
    """Another number for a file: out of the way of tests that count, close too many, or expect the lowest.

    And of what becomes 0, 1 or 2 in a child, where those were closed in this process.
    """
    import fcntl  # Here, for Windows has neither, and imports this module.
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = _HIGH_FD if soft == resource.RLIM_INFINITY or soft > 2 * _HIGH_FD else soft // 2
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)
