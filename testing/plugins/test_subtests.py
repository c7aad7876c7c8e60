"""Beside pytest's own subtests and those of unittest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from testing.plugins.conftest import SideBySide

pytestmark = pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest has subtests since 9.0")

#: From pytest's documentation.
SAMPLES = """
import unittest


def test(subtests):
    for i in range(5):
        with subtests.test(msg="custom message", i=i):
            assert i % 2 == 0


def contains_docstring(p):
    return p.read_text().strip().startswith('\\"\\"\\"')


def test_py_files_contain_docstring(subtests, pytester_path):
    for path in sorted(pytester_path.glob("docs*.py")):
        with subtests.test(path=str(path)):
            assert contains_docstring(path)


class T(unittest.TestCase):
    def test_foo(self):
        for i in range(5):
            with self.subTest("custom message", i=i):
                self.assertEqual(i % 2, 0)


class NumbersTest(unittest.TestCase):
    def test_even(self):
        for i in range(0, 6, 2):
            with self.subTest(i=i):
                self.assertEqual(i % 2, 0)
"""

CONFTEST = """
import pathlib

import pytest


@pytest.fixture
def pytester_path():
    return pathlib.Path(__file__).parent
"""


def test_documentation_samples(
    side_by_side: SideBySide, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_samples=SAMPLES, docs_one='"""One."""', docs_two="two = 2")
    plain, guarded = side_by_side("-v", *xdist_args)
    assert guarded.counts["failed"] >= 5
    assert (
        guarded.outcomes["test_samples.py::test"].count("call failed") == 3
    )  # Two subtests, and the test that has them.
    assert guarded.outcomes["test_samples.py::T::test_foo"].count("call failed") >= 2
    assert guarded.outcomes["test_samples.py::NumbersTest::test_even"].count("call failed") == 0
    assert told(guarded.lines) == told(plain.lines) != []


def told(lines: list[str]) -> list[str]:
    """The lines that name a subtest, and the short summary: under pytest-xdist in no set order."""
    words = ("SUBFAILED", "SUBPASSED", "FAILED", "____")
    named = (re.sub(r"\[gw\d\] | *\[ *\d+%\]", "", line) for line in lines if any(word in line for word in words))
    # Where unittest runs them in its own process, pytest prints those of passing and failing subtests into the capture.
    return sorted(line for line in named if " - " in line or "____" in line or "test_samples.py::test" in line)


@pytest.mark.parametrize("kind", ["pytest", "unittest"])
def test_a_failed_subtest_stays_failed_after_a_crash(
    kind: str, side_by_side: SideBySide, pytester: pytest.Pytester, programs: Path, xdist_args: tuple[str, ...]
) -> None:
    """The reports of subtests leave the child at once: those before the crash are told, and the session goes on."""
    body = """
        for i in range(4):
            with {context}(i=i):
                if i == 2:
                    pylib.null_write()
                assert i != 1
    """
    if kind == "pytest":
        source = "from programs import pylib\ndef test_crashing(subtests):" + body.format(context="subtests.test")
    else:
        source = (
            "import unittest\nfrom programs import pylib\nclass Case(unittest.TestCase):\n    def test_crashing(self):"
            + body.format(context="self.subTest")
        )
    pytester.makepyfile(test_one=source, test_two="def test_after(): pass")
    session = side_by_side.session("--faultguard", *xdist_args)
    (name,) = (one for one in session.outcomes if "crashing" in one)
    reports = [one for one in session.reports if one.nodeid.endswith("test_crashing") and one.when == "call"]
    failed = [one for one in reports if one.outcome == "failed"]
    assert [one.crash is not None for one in failed] == [False, True]
    assert "assert 1 != 1" in failed[0].longrepr
    assert str(failed[1].message).startswith("SIGSEGV (segmentation fault) in call")
    assert session.outcomes["test_two.py::test_after"] == ["setup passed", "call passed", "teardown passed"]
    assert session.outcomes[name][-1] == "teardown passed"
    assert session.exit_status == pytest.ExitCode.TESTS_FAILED
    # As a report travels between processes of pytest-xdist, pytest makes a text of each value.
    assert re.search(r"^SUBFAILED\(i='?1'?\) test_one", session.text, re.MULTILINE)
