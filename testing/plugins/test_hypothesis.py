"""Beside Hypothesis: what it finds, tells and keeps on disk in a guarded test; and what a crash leaves of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from testing.plugins.conftest import SideBySide

pytest.importorskip("hypothesis")

#: From its documentation.
SAMPLES = """
import pytest
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st


def my_sort(ls):
    return sorted(set(ls))


@given(st.lists(st.integers()))
def test_matches_builtin(ls):
    assert sorted(ls) == my_sort(ls)


@given(st.lists(st.integers(), max_size=4))
@settings(max_examples=20)
def test_reversing_twice(ls):
    assert list(reversed(list(reversed(ls)))) == ls


@given(st.integers())
@example(17)
def test_example(number):
    note(f"a note on {number}")
    assert number != 17


@pytest.mark.parametrize("kind", [str, int])
@given(number=st.integers(0, 10))
@settings(max_examples=10)
def test_parametrized(kind, number):
    assert int(kind(number)) == number


@given(st.integers(0, 3))
@pytest.mark.xfail(strict=True)
def test_xfail(number):
    assert number < 0
"""
SEED = "--hypothesis-seed=1"


def _own(text: str) -> list[str]:
    """What Hypothesis says in the failures, in no set order."""
    words = ("Failing test case", "Falsifying", "test_matches_builtin(", "a note on", "ls=[", "number=")
    return sorted(line for line in text.splitlines() if any(word in line for word in words))


def test_documentation_samples(
    side_by_side: SideBySide, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    pytester.makepyfile(SAMPLES)
    plain, guarded = side_by_side(SEED, *xdist_args, plugin="hypothesispytest")
    assert guarded.counts == {"passed": 3, "failed": 2, "xfailed": 1}
    assert _own(guarded.text) == _own(plain.text)
    assert "ls=[0, 0]" in guarded.text
    assert "a note on 17" in guarded.text


def test_statistics(side_by_side: SideBySide, pytester: pytest.Pytester, xdist_args: tuple[str, ...]) -> None:
    """They come with the reports."""
    pytester.makepyfile(SAMPLES)
    _, guarded = side_by_side(SEED, "--hypothesis-show-statistics", *xdist_args, plugin="hypothesispytest")
    _, _, told = guarded.text.partition("Hypothesis Statistics")
    assert told.count("during generate phase") >= 4
    assert "test_statistics.py::test_reversing_twice:" in told


def test_found_once_is_found_again(
    side_by_side: SideBySide, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """The database is on disk: what a guarded test has found is tried first by the next session, guarded or not."""
    pytester.makeconftest(
        """
        from hypothesis import Phase, settings

        settings.register_profile("reuse", phases=[Phase.reuse])
        """
    )
    pytester.makepyfile(
        """
        from hypothesis import given
        from hypothesis import strategies as st


        @given(st.integers(0, 2**64))
        def test_one(number):
            assert number < 2**16 + 12345
        """
    )
    found = f"number={2**16 + 12345}"
    first = side_by_side.session("--faultguard", *xdist_args, plugin="hypothesispytest")
    assert found in first.text
    _, again = side_by_side("--hypothesis-profile=reuse", *xdist_args, plugin="hypothesispytest")
    assert again.counts == {"failed": 1}
    assert found in again.text


CRASHING = """
from hypothesis import HealthCheck, Verbosity, given, settings
from hypothesis import strategies as st

from programs import lib


def crash_at_17(number):
    if number == 17:
        lib.null_write()


@given(st.integers(0, 30))
@settings(max_examples=1000)
def test_quiet(number):
    crash_at_17(number)


@given(st.integers(0, 30))
@settings(max_examples=1000, verbosity=Verbosity.verbose)
def test_verbose(number):
    crash_at_17(number)


@given(number=st.integers(0, 30))
@settings(max_examples=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_data(number, faultguard_data):
    faultguard_data["number"] = number
    crash_at_17(number)


@given(st.integers(0, 30))
def test_after(number):
    assert number >= 0
"""


def test_a_crash(
    side_by_side: SideBySide, pytester: pytest.Pytester, programs: Path, xdist_args: tuple[str, ...]
) -> None:
    """The example that crashed is lost with the process, unless it is told before: by the test's data, or with `-s`.

    Without `-s` Hypothesis keeps what it tells of each example in memory, for its section of the report.
    """
    pytester.makepyfile(CRASHING)
    session = side_by_side.session("--faultguard", "-s", *xdist_args, plugin="hypothesispytest")
    assert session.counts == {"passed": 1, "failed": 3}
    crashes = {one.nodeid.partition("::")[2]: one for one in session.reports if one.crash}
    assert crashes.keys() == {"test_quiet", "test_verbose", "test_data"}
    for one in crashes.values():
        assert one.when == "call"
        assert str(one.message).startswith("SIGSEGV")
        assert "lib.null_write()" in one.longrepr
    tried = re.findall(
        r"(?:Test case|Trying example): test_verbose\(\s*number=(\d+)", crashes["test_verbose"].section("stdout")
    )
    assert tried[-1] == "17"
    assert "17" not in tried[:-1]
    assert "'number' = 17" in crashes["test_data"].longrepr
