"""Once a step has failed, conftest.py expects the rest of its class to fail."""

from __future__ import annotations

import pytest


@pytest.mark.incremental
class TestUnguarded:
    def test_breaks(self) -> None:
        pytest.fail("on purpose")

    @pytest.mark.faultguard
    def test_guarded_step(self) -> None:
        pytest.fail("not reached")


@pytest.mark.incremental
@pytest.mark.faultguard
class TestGuarded:
    def test_breaks(self) -> None:
        pytest.fail("on purpose")

    def test_step(self) -> None:
        pass


@pytest.mark.faultguard
class TestReported:
    def test_breaks(self) -> None:
        pytest.fail("on purpose")

    def test_step(self) -> None:
        pytest.fail("not reached")
