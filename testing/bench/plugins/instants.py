"""Says for each test when it began its body, when it was about to die, and how long its protocol took here.

The instants are of the monotonic clock, which all processes share, and stand in memory that they share as well.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
from collections.abc import Generator

import pytest

_INSTANT = struct.Struct("<d")
_memory = mmap.mmap(-1, 1 << 16)
_protocols: dict[str, float] = {}


def note(number: int) -> None:
    """In a test: now."""
    _INSTANT.pack_into(_memory, number * _INSTANT.size, time.monotonic())


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    started = time.monotonic()
    result = yield
    _protocols[item.name] = time.monotonic() - started
    return result


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    instants = [one for (one,) in _INSTANT.iter_unpack(_memory[:])]
    with open(os.environ["BENCH_WRITE"], "w") as file:
        json.dump({"instants": instants, "protocols": _protocols}, file)
