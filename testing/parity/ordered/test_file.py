"""Every guarded test finds in a file what those before it left there, and so does every other one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testing.parity.ordered.conftest import Ledger

guarded = pytest.mark.faultguard


@guarded
def test_first(ledger: Ledger) -> None:
    assert ledger.lines() == []
    ledger.add("first")


def test_second(ledger: Ledger) -> None:
    assert ledger.lines() == ["first"]
    ledger.add("second")


class TestCounting:
    @pytest.mark.parametrize("number", [pytest.param(n, marks=guarded if n % 3 else ()) for n in range(12)])
    def test_next(self, ledger: Ledger, number: int) -> None:
        assert len(ledger.lines()) == number + 2
        ledger.add(str(number))


@guarded
@pytest.mark.xfail(reason="writes first", strict=True)
def test_expected_to_fail(ledger: Ledger) -> None:
    ledger.add("before the failure")
    assert len(ledger.lines()) == 14


@guarded
def test_last(ledger: Ledger) -> None:
    assert ledger.lines() == ["first", "second", *map(str, range(12)), "before the failure"]
