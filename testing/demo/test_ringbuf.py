"""Tests of `ringbuf`, a C extension with bugs: several of them end the process that they run in.

Each test of this file is guarded, so each of those is one failed test, and the rest of the file runs.
"""

from __future__ import annotations

import array
import random
from collections import deque
from collections.abc import Callable
from collections.abc import MutableMapping
from typing import Any

import pytest
from ringbuf import Ring

import pytest_faultguard

pytestmark = pytest.mark.faultguard


@pytest.fixture
def ring() -> Ring:
    """Room for four, with three in it."""
    ring = Ring(4)
    for number in (1.0, 2.0, 3.0):
        ring.push(number)
    return ring


def test_first_in_is_first_out(ring: Ring) -> None:
    assert [ring.pop(), ring.pop(), ring.pop()] == [1.0, 2.0, 3.0]


def test_full_ring_loses_its_oldest(ring: Ring) -> None:
    ring.push(4.0)
    ring.push(5.0)

    assert [ring.get(index) for index in range(len(ring))] == [2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize("capacity", [1, 2, 8])
def test_resize_keeps_the_newest(ring: Ring, capacity: int) -> None:
    ring.resize(capacity)

    assert ring.capacity == capacity
    assert [ring.get(index) for index in range(len(ring))] == [1.0, 2.0, 3.0][-capacity:]


def test_parse_pushes_every_number(ring: Ring) -> None:
    ring.parse("0.5,1e3")

    assert [ring.get(index) for index in range(len(ring))] == [2.0, 3.0, 0.5, 1000.0]


def value_or_error(method: Callable[..., float], *arguments: int) -> float | type[IndexError]:
    try:
        return method(*arguments)
    except IndexError:
        return IndexError


def test_behaves_like_a_deque(faultguard_data: MutableMapping[str, Any]) -> None:
    """Random calls, compared with Python's own deque, until one is fatal: SIGSEGV in `get`.

    What the test saved before the crash tells which call it was, and on what: no need to run it again with prints.
    """
    ring, model, chance = Ring(8), deque[float](maxlen=8), random.Random(166)
    for step in range(10_000):
        call, number = chance.choice(["push", "push", "push", "pop", "get"]), chance.randrange(8)
        faultguard_data["step"] = step
        faultguard_data["call"] = f"{call}({number})"
        faultguard_data["expected content"] = array.array("d", model)
        if call == "push":
            ring.push(number)
            model.append(number)
        elif call == "pop":
            assert value_or_error(ring.pop) == value_or_error(model.popleft)
        else:
            assert value_or_error(ring.get, number) == value_or_error(model.__getitem__, number)


def test_pop_of_an_empty_ring_is_an_error() -> None:
    """Should raise, and aborts the process: the failed `assert` of the C code becomes the reason in the report."""
    with pytest.raises(IndexError):
        Ring(4).pop()


def test_resize_to_nothing(ring: Ring) -> None:
    """The C library finds the double free and aborts; what it says about it becomes the reason in the report."""
    ring.resize(0)

    assert len(ring) == 0


def test_drain_fills_a_buffer(ring: Ring, faultguard_data: Any) -> None:
    """C writes straight into memory that outlives the process: rescued is all it wrote, up to the fatal instruction."""
    target = faultguard_data.buffer("drained", 5 * 8)

    ring.drain_into(target)

    assert target.cast("d").tolist() == [1.0, 2.0, 3.0, 0.0, 0.0]


@pytest.mark.faultguard(timeout=2)
def test_parse_skips_an_empty_field(ring: Ring, faultguard_data: MutableMapping[str, Any]) -> None:
    """A loop in C that never ends and never lets go of the GIL: no Python code can stop it, the guard can."""
    for text in ("4", "4,", "4,5", "4,,5"):
        faultguard_data["text"] = text
        ring.parse(text)


@pytest.mark.xfail(raises=pytest_faultguard.CrashError, reason="ringbuf 0.3 takes no negative index, see #17")
def test_negative_index_counts_from_the_end(ring: Ring) -> None:
    """A crash that is known: expected like any other exception, so it does not fail the run."""
    assert ring.get(-1) == 3.0
