"""`--faultguard-auto`: the marked tests, those that crashed in the last run, and those whose modules import native code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testing.harness import Recorder
    from testing.harness import RunPytest

#: With a cache.
CACHED = ("no:hypothesispytest",)
CONFTEST = """
import pytest
import pytest_faultguard

@pytest.fixture(autouse=True)
def say(record_property):
    record_property("guarded", pytest_faultguard.is_guarded())
"""


@pytest.fixture
def guarded(pytester: pytest.Pytester, recorder: Recorder) -> Guarded:
    pytester.makeconftest(CONFTEST)
    return Guarded(recorder)


class Guarded:
    """Which tests of the last session were guarded."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __call__(self) -> set[str]:
        return {
            report.nodeid.partition("::")[2]
            for report in self._recorder.reports()
            if dict(report.user_properties).get("guarded")
        }


def crashed(pytester: pytest.Pytester) -> list[str] | None:
    """The list in the cache; None where there is none."""
    path = pytester.path / ".pytest_cache/v/faultguard/crashed"
    return [one.partition("::")[2] for one in json.loads(path.read_text())] if path.exists() else None


#: The tests that are to crash are named in a file; without a guard they just pass.
CRASHING = """
import os
from pathlib import Path

import pytest
import pytest_faultguard

def maybe(name):
    if name in Path("crash").read_text().split() and pytest_faultguard.is_guarded():
        os.abort()

@pytest.fixture
def ending():
    yield
    maybe("ending")

def test_one(): maybe("one")

def test_two(): maybe("two")

def test_three(ending): pass

@pytest.mark.xfail(reason="crashes")
def test_four(): maybe("four")

@pytest.mark.faultguard
def test_marked(): maybe("marked")

def test_skips():
    maybe("skips")
    if "skip" in Path("crash").read_text().split():
        pytest.skip("not now")
"""


def test_crashed_tests_are_guarded_in_the_next_run(
    pytester: pytest.Pytester, run_pytest: RunPytest, guarded: Guarded, xdist_args: tuple[str, ...]
) -> None:
    """Whatever phase they crashed in, also as expected failures; one that has run guarded without a crash leaves."""
    pytester.makepyfile(CRASHING)
    crash = pytester.path / "crash"

    crash.write_text("one ending four marked skips")
    run_pytest(*xdist_args, "--faultguard", plugins=CACHED)
    assert crashed(pytester) == ["test_four", "test_marked", "test_one", "test_skips", "test_three"]

    # Those that do not run in a guarded child stay: unguarded, deselected, skipped.
    crash.write_text("skip")
    run_pytest(*xdist_args, plugins=CACHED)
    assert guarded() == {"test_marked"}
    assert crashed(pytester) == ["test_four", "test_one", "test_skips", "test_three"]

    run_pytest(*xdist_args, "--faultguard-auto", "-k", "not one", plugins=CACHED)
    assert guarded() == {"test_four", "test_marked", "test_skips", "test_three"}
    assert crashed(pytester) == ["test_one", "test_skips"]

    crash.write_text("one")
    run_pytest(*xdist_args, "--faultguard-auto", plugins=CACHED)
    assert guarded() == {"test_marked", "test_one", "test_skips"}
    assert crashed(pytester) == ["test_one"]

    crash.write_text("")
    run_pytest(*xdist_args, "--faultguard-auto", plugins=CACHED).assert_outcomes(passed=5, xpassed=1)
    assert guarded() == {"test_marked", "test_one"}
    assert crashed(pytester) == []


def test_a_test_that_fails_leaves_the_list(pytester: pytest.Pytester, run_pytest: RunPytest, guarded: Guarded) -> None:
    """It has not crashed; one whose setup fails has not run."""
    pytester.makepyfile(
        """
        import os
        from pathlib import Path
        import pytest

        @pytest.fixture
        def thing(): raise ValueError

        def test_fails():
            if Path("crash").exists():
                os.abort()
            assert 0

        def test_setup_fails(request):
            if Path("crash").exists():
                os.abort()

        if not Path("crash").exists():
            test_setup_fails = pytest.mark.usefixtures("thing")(test_setup_fails)
        """
    )
    (pytester.path / "crash").touch()
    run_pytest("--faultguard", plugins=CACHED)
    (pytester.path / "crash").unlink()

    run_pytest("--faultguard-auto", plugins=CACHED)

    assert guarded() == {"test_fails", "test_setup_fails"}
    assert crashed(pytester) == ["test_setup_fails"]


def test_an_expected_death_is_no_crash(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """Its test is marked anyhow."""
    pytester.makepyfile("import os, pytest\n@pytest.mark.faultguard(expect='SIGABRT')\ndef test_it(): os.abort()\n")

    run_pytest(plugins=CACHED).assert_outcomes(passed=1)

    assert crashed(pytester) is None


def test_no_list_where_nothing_crashes(
    pytester: pytest.Pytester, run_pytest: RunPytest, xdist_args: tuple[str, ...]
) -> None:
    """A run without a crash leaves no file of ours."""
    pytester.makepyfile("import pytest\n@pytest.mark.faultguard\ndef test_it(): pass\n")

    run_pytest(*xdist_args, "--faultguard-auto", plugins=CACHED).assert_outcomes(passed=1)

    assert not [path for path in pytester.path.rglob("*faultguard*") if ".pytest_cache" in path.parts]


def test_nothing_is_kept_without_a_cache(
    pytester: pytest.Pytester, run_pytest: RunPytest, xdist_args: tuple[str, ...]
) -> None:
    """With `-p no:cacheprovider`; marked tests are guarded as ever."""
    pytester.makepyfile("import os, pytest\n@pytest.mark.faultguard\ndef test_it(): os.abort()\n")

    run_pytest(*xdist_args, "--faultguard-auto").assert_outcomes(failed=1)

    assert not (pytester.path / ".pytest_cache").exists()


@pytest.mark.parametrize("content", ["[1, null]", '{"a": 1}', "nonsense", '"test_it.py::test_it"'])
def test_a_list_that_is_none_counts_for_nothing(
    pytester: pytest.Pytester, run_pytest: RunPytest, guarded: Guarded, content: str
) -> None:
    """Somebody has written it."""
    pytester.makepyfile(test_it="def test_it(): pass\n")
    path = pytester.path / ".pytest_cache/v/faultguard/crashed"
    path.parent.mkdir(parents=True)
    path.write_text(content)

    run_pytest("--faultguard-auto", plugins=CACHED).assert_outcomes(passed=1)

    assert guarded() == set()


@pytest.fixture
def mypkg(pytester: pytest.Pytester) -> Path:
    """A package with a module that stands for one in native code."""
    path = pytester.mkpydir("mypkg")
    (path / "_native.py").write_text("def f(): pass\n")
    (path / "api.py").write_text("from . import _native\n")
    (path / "pure.py").write_text("def g():\n    '''\n    >>> 1\n    1\n    '''\n")
    pytester.makepyfile(
        test_direct="from mypkg._native import f\ndef test_direct(): f()\n",
        test_api="import mypkg.api\ndef test_api(): pass\n",
        test_lazy="def test_lazy(): import mypkg._native\n",
        test_pure="from mypkg import pure\ndef test_pure(): pass\n",
        test_other="def test_other(): pass\n",
    )
    return path


@pytest.mark.parametrize("ini", ["mypkg._native", "json mypkg._native"])
def test_tests_are_guarded_whose_modules_import_native_code(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    guarded: Guarded,
    mypkg: Path,
    xdist_args: tuple[str, ...],
    ini: str,
) -> None:
    """By themselves or by way of other modules, at the top or in a function."""
    pytester.makeini(f"[pytest]\nfaultguard_auto = {ini}\n")

    run_pytest(*xdist_args, "--faultguard-auto").assert_outcomes(passed=5)

    assert guarded() == {"test_direct", "test_api", "test_lazy"}


def test_the_setting_alone_guards_nothing(
    pytester: pytest.Pytester, run_pytest: RunPytest, guarded: Guarded, mypkg: Path
) -> None:
    """It says what the option looks for; and `--no-faultguard` has the last word."""
    pytester.makeini("[pytest]\nfaultguard_auto = mypkg._native\n")

    for args in ((), ("--faultguard-auto", "--no-faultguard")):
        run_pytest(*args).assert_outcomes(passed=5)
        assert guarded() == set()


def test_doctests_of_the_package(pytester: pytest.Pytester, run_pytest: RunPytest, mypkg: Path) -> None:
    """Their module is the package's own."""
    (mypkg / "pure.py").write_text(
        "from . import _native\nimport pytest_faultguard\ndef g():\n"
        "    '''\n    >>> pytest_faultguard.is_guarded()\n    True\n    '''\n"
    )
    pytester.makeini("[pytest]\nfaultguard_auto = mypkg._native\n")

    run_pytest("--faultguard-auto", "--doctest-modules", "mypkg").assert_outcomes(passed=1)


def test_they_share_a_child(
    pytester: pytest.Pytester, run_pytest: RunPytest, mypkg: Path, start_args: tuple[str, ...]
) -> None:
    """As other tests that nobody has marked; the marked ones have their own."""
    pytester.makepyfile(
        test_pids="""
        import os

        import mypkg._native
        import pytest
        from pytest_faultguard import is_guarded

        PIDS = []

        def test_first(): PIDS.append(os.getpid())

        def test_second(): assert PIDS == [os.getpid()] and is_guarded()

        @pytest.mark.faultguard
        def test_marked(): assert PIDS == [] and is_guarded()
        """
    )
    pytester.makeini("[pytest]\nfaultguard_auto = mypkg._native\n")

    run_pytest("--faultguard-auto", *start_args, "test_pids.py").assert_outcomes(passed=3)


@pytest.mark.parametrize("ini", ["mypkg/_native.so", "a..b", "'unfinished"])
def test_a_name_that_is_none(pytester: pytest.Pytester, run_pytest: RunPytest, ini: str) -> None:
    """A usage error that names it."""
    pytester.makepyfile("def test_it(): pass\n")
    pytester.makeini(f"[pytest]\nfaultguard_auto = {ini}\n")

    result = run_pytest()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *faultguard_auto: *"])
