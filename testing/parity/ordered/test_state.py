"""What an unguarded test leaves in the memory of its process is there for the guarded ones after it."""

from __future__ import annotations

import gc
import os
import weakref

import pytest

guarded = pytest.mark.faultguard
state: list[str] = []


class Ring:
    """Refers to itself: only the collector can end it."""

    def __init__(self) -> None:
        self.own = self


rings: list[Ring] = []


def test_first() -> None:
    assert state == []
    state.append("first")
    os.environ["PARITY_ORDERED"] = "set"


@guarded
def test_guarded_has_it() -> None:
    assert state == ["first"]
    assert os.environ["PARITY_ORDERED"] == "set"


def test_second() -> None:
    assert state == ["first"]
    state.append("second")
    del os.environ["PARITY_ORDERED"]


class TestLater:
    seen = 0

    @pytest.mark.parametrize("number", range(3))
    def test_counts(self, number: int) -> None:
        assert self.seen == number
        type(self).seen += 1

    @guarded
    def test_guarded_has_all(self) -> None:
        assert state == ["first", "second"]
        assert self.seen == 3
        assert "PARITY_ORDERED" not in os.environ


def test_makes_a_ring() -> None:
    rings.append(Ring())


@guarded
def test_guarded_sees_who_holds_it() -> None:
    assert any(found is rings for found in gc.get_referrers(rings[0]))


@guarded
def test_guarded_has_it_collected() -> None:
    held = weakref.ref(rings.pop())
    gc.collect()
    assert held() is None
