"""Beside syrupy: snapshots are compared in a guarded test, and written and deleted in a session without guards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from testing.plugins.conftest import SideBySide

pytest.importorskip("syrupy")

#: From its README.
SAMPLES = """
from unittest import TestCase

import pytest
from syrupy.extensions.json import JSONSnapshotExtension


def test_foo(snapshot):
    actual = "Some computed value!"
    assert actual == snapshot


class MyTest(TestCase):
    @pytest.fixture(autouse=True)
    def setupSnapshot(self, snapshot):
        self.snapshot = snapshot

    def test_foo(self):
        actual = "Some computed value!"
        assert actual == self.snapshot


@pytest.fixture
def snapshot_json(snapshot):
    return snapshot.with_defaults(extension_class=JSONSnapshotExtension)


@pytest.mark.faultguard
def test_api_call(snapshot_json):
    assert {"name": "a", "items": [1, 2]} == snapshot_json


@pytest.mark.faultguard
def test_several(snapshot):
    assert 1 == snapshot
    assert 2 == snapshot(name="second")
"""
WARNING = (
    "LostResultsWarning: syrupy: it does not count the snapshots of a guarded test, and calls them unused; "
    "use --snapshot-disable-unused"
)


def _files(directory: Path) -> dict[str, str]:
    """Every snapshot that is written."""
    found = (path for path in directory.rglob("__snapshots__/**/*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_text() for path in found}


def test_documentation_samples(
    side_by_side: SideBySide, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """Missing, then written, then compared, then changed."""
    pytester.makepyfile(test_file=SAMPLES)
    args = ("--snapshot-disable-unused", *xdist_args)
    if not xdist_args:
        _, missing = side_by_side(*args, plugin="syrupy")
        assert missing.counts == {"failed": 4}
        assert "Snapshot 'test_foo' does not exist!" in missing.text
        assert _files(pytester.path) == {}
    side_by_side.session("--no-faultguard", "--snapshot-update", plugin="syrupy")
    written = _files(pytester.path)
    assert len(written) == 2
    if not xdist_args:
        _, same = side_by_side(*args, plugin="syrupy")
        assert same.counts == {"passed": 4}
    pytester.makepyfile(test_file=SAMPLES.replace("computed", "changed"))
    _, changed = side_by_side(*args, plugin="syrupy")
    assert changed.counts == {"passed": 2, "failed": 2}
    assert "'Some changed value!'" in changed.text
    assert _files(pytester.path) == written


@pytest.mark.parametrize("flag", ["--snapshot-update", "--snapshot-update-new-only"])
def test_an_update_needs_this_process(
    flag: str, side_by_side: SideBySide, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """It writes what tests leave in memory and deletes what no test asked for: so nothing is guarded, and it is said."""
    pytester.makepyfile(test_file=SAMPLES)
    told = f"faultguard: guarded tests run in this process, because of {flag}"
    for _ in range(2):
        session = side_by_side.session("--faultguard", flag, *xdist_args, plugin="syrupy")
        assert session.counts == {"passed": 4}
        assert session.guarded == set()
        assert told in session.text
        assert "deleted" not in session.text
        written = _files(pytester.path)
        assert sum(text.count("# name: ") for text in written.values()) == 4
        assert any(name.endswith(".json") for name in written)


def test_unused_snapshots(side_by_side: SideBySide, pytester: pytest.Pytester, xdist_args: tuple[str, ...]) -> None:
    """Those of guarded tests are called unused: the session fails, and one warning says why. Nothing is deleted."""
    pytester.makepyfile(test_file=SAMPLES)
    side_by_side.session("--snapshot-update", plugin="syrupy")
    written = _files(pytester.path)
    session = side_by_side.session(*xdist_args, plugin="syrupy")
    assert {name.partition("::")[2] for name in session.guarded} == {"test_api_call", "test_several"}
    assert session.counts == {"passed": 4, "warnings": 2}
    assert session.warnings == [WARNING] * 2
    assert session.text.count(WARNING) == 1
    assert "2 snapshots passed. 3 snapshots unused." in session.text
    assert session.exit_status == pytest.ExitCode.TESTS_FAILED
    assert _files(pytester.path) == written
    quiet = side_by_side.session("--snapshot-disable-unused", "-Werror", *xdist_args, plugin="syrupy")
    assert quiet.counts == {"passed": 4}
    assert quiet.exit_status == pytest.ExitCode.OK
    failing = side_by_side.session("-Werror", *xdist_args, plugin="syrupy")
    assert failing.counts == {"passed": 2, "errors": 2}


def test_asked_for_as_the_test_runs(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    """The loss is named as well."""
    pytester.makepyfile(test_file='def test_foo(request): assert request.getfixturevalue("snapshot") == 1')
    side_by_side.session("--no-faultguard", "--snapshot-update", plugin="syrupy")
    session = side_by_side.session("--faultguard", plugin="syrupy")
    assert session.warnings == [WARNING]


def test_a_crash(
    side_by_side: SideBySide, pytester: pytest.Pytester, programs: Path, xdist_args: tuple[str, ...]
) -> None:
    """No snapshot file is the worse for it."""
    pytester.makepyfile(test_file=SAMPLES)
    side_by_side.session("--snapshot-update", plugin="syrupy")
    written = _files(pytester.path)
    crashing = SAMPLES.replace("    assert 1 == snapshot\n", "    assert 1 == snapshot\n    lib.null_write()\n")
    pytester.makepyfile(test_file=f"from programs import lib\n{crashing}")
    session = side_by_side.session("--faultguard", "--snapshot-disable-unused", *xdist_args, plugin="syrupy")
    assert session.counts == {"passed": 3, "failed": 1}
    assert str(session.messages()["test_file.py::test_several"]).startswith("SIGSEGV")
    assert _files(pytester.path) == written
