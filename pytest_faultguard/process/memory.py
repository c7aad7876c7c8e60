"""A limit of a child's memory, and what proves that it was the cause of a death.

The limit is RLIMIT_DATA: private memory that can be written, what was inherited included, touched or not. The journal's
reserved range is a shared mapping and does not count. Only the soft limit is set, so that it can be lifted while a
report is made.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from typing import TypeVar

from pytest_faultguard.crash import Signaled
from pytest_faultguard.crash import Starved
from pytest_faultguard.crash import describe_bytes
from pytest_faultguard.outcome import LaunchError
from pytest_faultguard.process import proc

try:
    import resource
except ImportError:  # Windows, where nothing is guarded.
    resource = None  # type: ignore[assignment]

_T = TypeVar("_T")
#: Words in which C++, Rust, Python and C libraries die of an allocation that failed.
_WORDS = re.compile(
    r"\bbad_alloc\b|\bout of memory\b|\bcannot allocate memory\b|MemoryError\b|\bmemory allocation of \d+ bytes failed\b"
    r"|\bcan't start new thread\b",  # Each has a stack of megabytes.
    re.IGNORECASE,
)
#: With less than this part of the limit left, the next large allocation fails.
_NEAR = 1 / 8

#: In a child: its limit, and what it inherited.
_soft: tuple[int, int] | None = None
_lifted = False


def check(limit: int | None, holder: str) -> None:
    """Before a child is forked, or in one before its first test: it must not begin above its limit.

    Raises:
        LaunchError: it would be.
    """
    held = proc.data_bytes(os.getpid()) if limit else None
    if limit and held is not None and held >= limit:
        msg = f"memory limit of {describe_bytes(limit)}: {holder} holds {describe_bytes(held)}"
        raise LaunchError(msg)


def apply(limit: int | None) -> None:
    """In a child: from here on it gets no more than this."""
    global _soft
    _soft = None
    if limit:
        inherited, hard = resource.getrlimit(resource.RLIMIT_DATA)
        allowed = [one for one in (limit, inherited, hard) if one != resource.RLIM_INFINITY]
        _soft = min(allowed), inherited
        _set(_soft[0])


def lift() -> None:
    """In a child: a test has failed, and goes on as without the limit."""
    global _lifted
    if _soft is not None:
        _lifted = True
        _set(_soft[1])


def told_of(failure: str) -> str:
    """In a child: its limit in words, where the text of a failure speaks of want of memory; else empty."""
    if _soft is None or not _WORDS.search(failure):
        return ""
    return f"the test ran under a memory limit of {describe_bytes(_soft[0])}"


def restore() -> None:
    """In a child, before a test: the limit holds again."""
    global _lifted
    if _lifted and _soft is not None:
        _lifted = False
        # pytest keeps the last exception for a debugger up to the next call, and with it all that its frames hold.
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            vars(sys).pop(name, None)
        gc.collect()
        _set(_soft[0])


def _set(soft: int) -> None:
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    except (OSError, ValueError):
        pass  # The test has lowered the hard limit itself.


def blame(ending: _T, limit: int | None, data_bytes: int | None, words: str) -> _T | Starved:
    """The ending, with the limit as its cause where something proves that.

    It is proved by the last words of the child, or by how much it had when it began to die.
    """
    if not limit or not isinstance(ending, Signaled):
        return ending
    if _WORDS.search(words):
        ground = "its last words tell of it"
    elif data_bytes is not None and data_bytes > limit * (1 - _NEAR):
        ground = f"it had {describe_bytes(data_bytes)}"
    else:
        return ending
    return Starved(memory=limit, signal=ending.signal, core_dumped=ending.core_dumped, ground=ground)
