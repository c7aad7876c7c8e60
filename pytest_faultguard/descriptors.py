"""Which file is behind a number."""

from __future__ import annotations

import os


def identity(fd: int) -> tuple[int, int] | None:
    """Which file is behind a descriptor; None where none is."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino
