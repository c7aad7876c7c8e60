"""Fixtures begin and end in the same order, whoever uses them between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testing.parity.ordered.conftest import Ledger

guarded = pytest.mark.faultguard


@pytest.fixture(scope="module", params=["a", "b", "c"])
def store(request: pytest.FixtureRequest, ledger: Ledger) -> Iterator[str]:
    ledger.add(f"open {request.param}")
    yield request.param
    ledger.add(f"close {request.param}")


@pytest.fixture(scope="class")
def shelf(store: str, ledger: Ledger) -> Iterator[None]:
    ledger.add(f"shelf in {store}")
    yield
    ledger.add(f"no shelf in {store}")


def test_opens(store: str, ledger: Ledger) -> None:
    assert ledger.lines()[-1] == f"open {store}"


@guarded
def test_guarded_is_in_it(store: str, ledger: Ledger) -> None:
    assert ledger.lines()[-1] == f"open {store}"
    ledger.add(f"guarded in {store}")


class TestShelf:
    def test_is_put_up(self, shelf: None, store: str, ledger: Ledger) -> None:
        assert ledger.lines()[-2:] == [f"guarded in {store}", f"shelf in {store}"]

    @guarded
    def test_guarded_uses_it(self, shelf: None, store: str, ledger: Ledger) -> None:
        assert ledger.lines()[-1] == f"shelf in {store}"

    @guarded
    @pytest.mark.parametrize("fails", [False, True])
    def test_guarded_leaves_it(self, shelf: None, store: str, ledger: Ledger, fails: bool) -> None:
        assert ledger.lines()[-1] == f"shelf in {store}"
        if fails:
            pytest.xfail("on purpose")


@guarded
def test_last_of_each(store: str, ledger: Ledger) -> None:
    assert ledger.lines()[-1] == f"no shelf in {store}"
