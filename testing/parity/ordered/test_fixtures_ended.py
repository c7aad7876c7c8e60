"""What ``test_fixtures.py`` has left behind."""

from __future__ import annotations

import pytest


@pytest.fixture
def theirs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return (tmp_path_factory.getbasetemp() / "test_fixtures.ledger").read_text().splitlines()


@pytest.mark.faultguard
def test_guarded_sees_all_ended_once(theirs: list[str]) -> None:
    one = ["open {0}", "guarded in {0}", "shelf in {0}", "no shelf in {0}", "close {0}"]
    assert theirs == [line.format(name) for name in "abc" for line in one]
