"""Beside pytest's doctest plugin: items of modules and of text files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from testing.plugins.conftest import SideBySide

#: From pytest's documentation, and one that fails.
MODULE = '''
def something():
    """a doctest in a docstring
    >>> something()
    42
    """
    return 42


def wrong():
    """
    >>> before = 1
    >>> something()
    43
    """


def get_dir():
    """
    >>> tmp = getfixture("tmp_path")
    >>> tmp.is_dir()
    True
    >>> np.add(1, 2)
    3
    """
'''

CONFTEST = """
import operator

import pytest


@pytest.fixture(autouse=True)
def add_np(doctest_namespace):
    doctest_namespace["np"] = operator
"""

TEXT = """
hello world example
===================

>>> x = 3
>>> x
3
>>> 1 / 0  # doctest: +SKIP
>>> x / 2  # doctest: +ELLIPSIS
1...
"""

WRONG_TEXT = """
>>> x = 3
>>> x
4
>>> [][0]
"""

CRASHING = """
    >>> from programs import pylib
    >>> print("before")
    before
    >>> pylib.null_write()
    >>> print("after")
"""


@pytest.mark.parametrize("args", [(), ("--doctest-report=ndiff", "--doctest-continue-on-failure")], ids=["", "ndiff"])
def test_documentation_samples(
    args: tuple[str, ...], side_by_side: SideBySide, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(mymodule=MODULE)
    pytester.maketxtfile(test_example=TEXT, test_wrong=WRONG_TEXT)
    plain, guarded = side_by_side("--doctest-modules", *args, *xdist_args)
    assert guarded.counts == {"passed": 3, "failed": 2}
    assert _failures(guarded.lines) == _failures(plain.lines)
    assert ("UNEXPECTED EXCEPTION: IndexError" in guarded.text) == bool(args)


def _failures(lines: list[str]) -> list[str]:
    """All that is shown of the failures, and the short summary: under pytest-xdist in no set order."""
    (start,) = (number for number, line in enumerate(lines) if " FAILURES " in line)
    return sorted(line for line in lines[start:] if not line.startswith("[gw"))


def test_a_crash_is_one_failed_example(
    side_by_side: SideBySide, pytester: pytest.Pytester, programs: Path, xdist_args: tuple[str, ...]
) -> None:
    pytester.makepyfile(mymodule=f'def crashing():\n    """A sample.\n\n{CRASHING}\n    """\n')
    pytester.maketxtfile(test_crashing=CRASHING, test_example=TEXT)
    session = side_by_side.session("--faultguard", "--doctest-modules", *xdist_args)
    assert session.outcomes == {
        "mymodule.py::mymodule.crashing": ["setup passed", "call failed", "teardown passed"],
        "test_crashing.txt::test_crashing.txt": ["setup passed", "call failed", "teardown passed"],
        "test_example.txt::test_example.txt": ["setup passed", "call passed", "teardown passed"],
    }
    for report in session.reports:
        if report.outcome == "failed":
            assert str(report.message).startswith("SIGSEGV (segmentation fault) in call")
            # The number of the example in its doctest is all that Python knows of it.
            assert f"<doctest {report.nodeid.rpartition('::')[2]}[2]>" in str(report.crash), report.crash
            lines = (pytester.path / report.nodeid.partition("::")[0]).read_text().splitlines()
            (number,) = (number for number, line in enumerate(lines, 1) if "null_write" in line)
            assert f"{report.nodeid.partition('::')[0]}:{number}: SIGSEGV" in report.longrepr.splitlines()
            # No line of another example, though a docstring is one statement.
            assert re.search(r"^>   >>> pylib\.null_write\(\)\nE   SIGSEGV", report.longrepr, re.MULTILINE)
