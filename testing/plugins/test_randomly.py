"""Beside pytest-randomly: the order that it made stays, and each phase has its seed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from testing.harness import without_usage

if TYPE_CHECKING:
    from pathlib import Path

    from testing.plugins.conftest import Session
    from testing.plugins.conftest import SideBySide

pytest.importorskip("pytest_randomly")

#: What `told` tells in each phase.
PHASES = """
@pytest.fixture(autouse=True)
def numbers(record_property):
    told(record_property)
    yield
    told(record_property)


@pytest.mark.parametrize("number", range(4))
def test_function(number, record_property):
    told(record_property)
"""
#: Three modules, in which the random numbers of each phase are told.
MODULE = (
    """
import random

import pytest


def told(record_property):
    record_property("random", random.random())


"""
    + PHASES
    + """

class TestFirst:
    def test_one(self, record_property):
        told(record_property)

    def test_two(self, record_property):
        told(record_property)
        drawn = random.random()
        assert drawn > 2


class TestSecond:
    def test_one(self, record_property):
        told(record_property)
"""
)
TESTS = 21


@pytest.mark.parametrize("args", [(), ("--randomly-dont-reorganize",)], ids=["", "in-order"])
def test_same_order_and_same_numbers(
    args: tuple[str, ...], side_by_side: SideBySide, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_a=MODULE, test_b=MODULE, test_c=MODULE)
    plain, guarded = side_by_side("--randomly-seed=1234", *args, *xdist_args, plugin="randomly")
    assert "Using --randomly-seed=1234" in guarded.text
    assert guarded.counts == {"failed": 3, "passed": 18}
    if not xdist_args:
        assert _order(guarded) == _order(plain)
        assert (_order(guarded)[:3] == [f"test_a.py::test_function[{number}]" for number in range(3)]) == bool(args)
    assert _numbers(guarded) == _numbers(plain)
    assert len({text for numbers in _numbers(guarded).values() for text in numbers}) == TESTS * 3


#: Of its README: the generators that it seeds besides Python's, and those that are registered.
GENERATORS = (
    """
import random

import mypackage
import numpy
import pytest


def told(record_property):
    record_property("random", random.random())
    record_property("numpy", float(numpy.random.random()))
    record_property("mypackage", mypackage.number())


"""
    + PHASES
)
MYPACKAGE = """
import random

own = random.Random()
number = own.random


def reseed(new_seed):
    own.seed(f"mypackage {new_seed}")
"""


@pytest.mark.parametrize(
    "args",
    [(), ("--faultguard-scope=function",), ("--faultguard-start=spawn",), ("-n2",)],
    ids=["", "function", "spawn", "n2"],
)
def test_every_generator_has_its_seed(
    args: tuple[str, ...], side_by_side: SideBySide, pytester: pytest.Pytester
) -> None:
    """NumPy's global one, and what another package has registered by the entry point."""
    pytest.importorskip("numpy")
    pytester.makepyfile(mypackage=MYPACKAGE, test_a=GENERATORS, test_b=GENERATORS)
    installed = pytester.mkdir("mypackage-1.0.dist-info")
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: mypackage\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[pytest_randomly.random_seeder]\nmypackage = mypackage:reseed\n")

    plain, guarded = side_by_side("--randomly-seed=1234", *args, plugin="randomly")

    assert _numbers(guarded) == _numbers(plain)
    # Each generator in each phase of each test.
    assert len({text for numbers in _numbers(guarded).values() for text in numbers}) == 3 * 3 * 8


def test_without_a_seed_for_each_test(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    """Then a guarded test goes on from the numbers of its parent: no guarded test before it has used any up."""
    pytester.makepyfile(test_a=MODULE, test_b=MODULE, test_c=MODULE)
    args = ("--randomly-seed=1234", "--randomly-dont-reset-seed")
    plain = side_by_side.session("--no-faultguard", *args, plugin="randomly")
    guarded = side_by_side.session("--faultguard", "--faultguard-scope=function", *args, plugin="randomly")
    assert guarded.outcomes == plain.outcomes
    assert _order(guarded) == _order(plain)
    first = _numbers(plain)[_order(plain)[0]]
    assert set(map(tuple, _numbers(guarded).values())) >= {tuple(first)}
    assert {numbers[0] for numbers in _numbers(guarded).values()} == {first[0]}


def test_a_crash_can_be_run_again_with_its_seed(
    side_by_side: SideBySide, pytester: pytest.Pytester, programs: Path
) -> None:
    """A crash changes no order and no later number; `--randomly-seed` gives the same crash again."""
    crashing = MODULE.replace("assert drawn > 2", "from programs import pylib; pylib.null_write()")
    failing = MODULE.replace("assert drawn > 2", "assert False")
    pytester.makepyfile(test_a=MODULE, test_b=failing, test_c=MODULE)
    plain = side_by_side.session("--no-faultguard", "--randomly-seed=1234", plugin="randomly")
    pytester.makepyfile(test_b=crashing)
    first, second = (side_by_side.session("--faultguard", "--randomly-seed=1234", plugin="randomly") for _ in range(2))
    assert first.outcomes == second.outcomes == plain.outcomes
    assert _order(first) == _order(second) == _order(plain)
    crashes = [report for report in first.reports if report.crash is not None]
    assert [report.nodeid for report in crashes] == ["test_b.py::TestFirst::test_two"]
    numbers = [_numbers(session) for session in (first, second, plain)]
    for one in numbers:
        del one[crashes[0].nodeid]
    assert numbers[0] == numbers[1] == numbers[2]


def test_the_last_seed(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_a=MODULE, test_b=MODULE)
    first = side_by_side.session("--faultguard", "-pcacheprovider", plugin="randomly")
    second = side_by_side.session("--faultguard", "--randomly-seed=last", plugin="randomly")
    assert _seed(first) == _seed(second)
    assert _order(first) == _order(second)
    assert _numbers(first) == _numbers(second)


def _seed(session: Session) -> str:
    found = re.search(r"Using --randomly-seed=(\d+)", session.text)
    assert found is not None
    return found[1]


def _order(session: Session) -> list[str]:
    return list(dict.fromkeys(report.nodeid for report in session.reports))


def _numbers(session: Session) -> dict[str, list[str]]:
    return {
        report.nodeid: [str(value) for _, value in without_usage(report.user_properties)] for report in session.reports
    }
