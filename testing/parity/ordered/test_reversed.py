"""conftest.py turns these round: the last one in the file is run first."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testing.parity.ordered.conftest import Ledger

guarded = pytest.mark.faultguard


@guarded
def test_runs_last(ledger: Ledger) -> None:
    assert ledger.lines() == ["first", "second"]


def test_runs_second(ledger: Ledger) -> None:
    assert ledger.lines() == ["first"]
    ledger.add("second")


@guarded
def test_runs_first(ledger: Ledger) -> None:
    assert ledger.lines() == []
    ledger.add("first")
