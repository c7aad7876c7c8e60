"""Beside pytest-benchmark: what it measures is lost with the process of a guarded test, and a warning names it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from testing.plugins.conftest import SideBySide

pytest.importorskip("pytest_benchmark")

#: From its README.
SAMPLES = """
import time


def something(duration=0.000001):
    time.sleep(duration)
    return 123


def test_my_stuff(benchmark):
    result = benchmark(something)
    assert result == 123


def test_arguments(benchmark):
    benchmark(time.sleep, 0.02)


def test_keyword(benchmark):
    # In the README it is `time.sleep`, which takes no keyword.
    benchmark(something, duration=0.02)


def test_decorated(benchmark):
    @benchmark
    def something():  # unnecessary function call
        time.sleep(0.000001)


def test_with_setup(benchmark):
    benchmark.pedantic(something, setup=lambda: None, kwargs={"duration": 0}, iterations=1, rounds=3)


def test_failing(benchmark):
    result = benchmark(something)
    assert result == 321
"""
QUICK = ("--benchmark-max-time=0.01", "--benchmark-min-rounds=2", "--benchmark-warmup=off")
WARNING = (
    "LostResultsWarning: pytest-benchmark: what it measures in a guarded test is lost with the test's process; "
    "use --no-faultguard"
)


def test_documentation_samples(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    """A guarded test calls what it benchmarks, and passes or fails; there is no table, and one warning says so."""
    pytester.makepyfile(SAMPLES)
    plain = side_by_side.session("--no-faultguard", *QUICK, plugin="benchmark")
    guarded = side_by_side.session("--faultguard", *QUICK, plugin="benchmark")
    assert guarded.outcomes == plain.outcomes
    assert guarded.exit_status == plain.exit_status
    assert guarded.messages() == plain.messages()
    assert guarded.counts == {**plain.counts, "warnings": 6}
    assert "benchmark: 6 tests" in plain.text
    assert "OPS: Operations Per Second" in plain.text
    assert "OPS: Operations Per Second" not in guarded.text
    assert plain.warnings == []
    assert guarded.warnings == [WARNING] * 6
    assert guarded.text.count(WARNING) == 1


@pytest.mark.parametrize(
    "args",
    [("--benchmark-disable",), ("--benchmark-skip",), ("-n2",), ("-n2", "--benchmark-disable")],
    ids=["disabled", "skipped", "n2", "n2-disabled"],
)
def test_where_nothing_is_measured(args: tuple[str, ...], side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    """Nothing is lost then: everything is as without the guard."""
    pytester.makepyfile(SAMPLES)
    plain, guarded = side_by_side(*args, plugin="benchmark")
    assert not [one for one in guarded.warnings if one.startswith("LostResults")]
    assert ("automatically disabled because xdist" in guarded.text) == (
        "automatically disabled because xdist" in plain.text
    )


def test_marked_among_others(side_by_side: SideBySide, pytester: pytest.Pytester, programs: Path) -> None:
    """What the tests beside it measure is written, also when the guarded one crashes."""
    pytester.makepyfile(
        SAMPLES
        + """

import pytest

from programs import lib


@pytest.mark.faultguard
def test_guarded(benchmark):
    benchmark(something)


@pytest.mark.faultguard
def test_crashing(benchmark):
    benchmark(lib.null_write)


def test_after(benchmark):
    benchmark(something)


@pytest.mark.faultguard
def test_without():
    pass
"""
    )
    session = side_by_side.session(*QUICK, "--benchmark-json=told.json", plugin="benchmark")
    assert session.counts == {"passed": 8, "failed": 2, "warnings": 2}
    assert session.warnings == [WARNING] * 2
    (crash,) = (one for one in session.reports if one.crash)
    assert crash.nodeid.endswith("test_crashing")
    assert "lib.null_write" in crash.longrepr
    told = json.loads((pytester.path / "told.json").read_text())
    assert [one["name"] for one in told["benchmarks"]] == [
        "test_my_stuff",
        "test_arguments",
        "test_keyword",
        "test_decorated",
        "test_with_setup",
        "test_failing",
        "test_after",
    ]


def test_asked_for_as_the_test_runs(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    """The loss is named as well; and not where the fixture is named, and the test is skipped before."""
    pytester.makepyfile(
        """
        import pytest
        def test_dynamic(request): request.getfixturevalue("benchmark")(int)
        @pytest.mark.skip
        def test_skipped(benchmark): benchmark(int)
        """
    )
    session = side_by_side.session("--faultguard", *QUICK, plugin="benchmark")
    assert session.counts == {"passed": 1, "skipped": 1, "warnings": 1}
    assert session.warnings == [WARNING]


def test_as_an_error(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    """With `-W error` no guarded benchmark passes without its numbers; the category can be told apart."""
    pytester.makepyfile(SAMPLES)
    session = side_by_side.session("--faultguard", "-Werror", *QUICK, plugin="benchmark")
    assert session.counts == {"errors": 6}
    quiet = ("-Werror", "-Wignore::pytest_faultguard.LostResultsWarning")
    session = side_by_side.session("--faultguard", *quiet, *QUICK, plugin="benchmark")
    assert session.counts == {"passed": 5, "failed": 1}


def test_another_fixture_of_that_name(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    """Without the plugin, `benchmark` and `snapshot` are names like any other."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def benchmark(): return 1

        @pytest.fixture
        def snapshot(): return 1

        def test_one(benchmark, snapshot): assert benchmark == snapshot
        """
    )
    side_by_side("-Werror")
