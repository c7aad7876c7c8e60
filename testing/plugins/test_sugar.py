"""Beside pytest-sugar: its terminal shows what it shows without the guard, and goes on after a crash."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from testing.plugins.conftest import SideBySide

pytest.importorskip("pytest_sugar")

SAMPLES = """
import warnings

import pytest


@pytest.mark.parametrize("number", range(5))
def test_passing(number):
    pass


def test_failing():
    print("printed")
    assert 1 == 2


@pytest.fixture
def broken():
    raise ValueError("broken")


def test_error(broken):
    pass


def test_skip():
    pytest.skip("skipped")


@pytest.mark.xfail(strict=False)
def test_xpass():
    pass


class TestClass:
    def test_method(self):
        warnings.warn("warned")
"""
SUGAR = "--force-sugar"


def _shown(lines: list[str]) -> list[str]:
    """Every line that is not overwritten, without times and colours; a bar stands where a terminal has moved on."""
    told = (re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line).rpartition("\r")[2].rstrip() for line in lines)
    return [re.sub(r"\d+(\.\d+)?s\b", "…s", line) for line in told if line]


@pytest.mark.parametrize("args", [(), ("-v",), ("--old-summary",)], ids=["", "verbose", "old-summary"])
def test_its_own_output(args: tuple[str, ...], side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SAMPLES)
    plain = side_by_side.session("--no-faultguard", SUGAR, *args, plugin="sugar")
    guarded = side_by_side.session("--faultguard", SUGAR, *args, plugin="sugar")
    assert guarded.outcomes == plain.outcomes
    assert guarded.exit_status == plain.exit_status
    assert _shown(guarded.lines) == _shown(plain.lines)
    assert "█" in guarded.text
    assert "6 passed" in guarded.text


def test_distributed(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(SAMPLES)
    plain = side_by_side.session("--no-faultguard", SUGAR, "-n2", plugin="sugar")
    guarded = side_by_side.session("--faultguard", SUGAR, "-n2", plugin="sugar")
    assert guarded.outcomes == plain.outcomes
    for session in (plain, guarded):
        assert "100%" in session.text
        assert "6 passed" in session.text


def test_a_crash(
    side_by_side: SideBySide, pytester: pytest.Pytester, programs: Path, xdist_args: tuple[str, ...]
) -> None:
    """It is shown as soon as it has happened, the bar goes on, and the summary counts it."""
    crashing = SAMPLES.replace("assert 1 == 2", "lib.null_write()")
    pytester.makepyfile(f"from programs import lib\n{crashing}")
    session = side_by_side.session("--faultguard", SUGAR, *xdist_args, plugin="sugar")
    (crash,) = (one for one in session.reports if one.crash)
    assert crash.nodeid.endswith("test_failing")
    shown = "\n".join(_shown(session.lines))
    assert shown.count("SIGSEGV (segmentation fault) in call") >= 1
    assert "lib.null_write()" in shown
    assert "faulthandler dump" in shown
    assert "printed" in shown
    assert shown.index("SIGSEGV") < shown.index("100%")
    assert "6 passed" in shown
    assert "1 failed" in shown
