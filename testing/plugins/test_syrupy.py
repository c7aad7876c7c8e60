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


#: Also from its README: what a test may say of how it is compared.
OPTIONS = """
import re
import uuid
from datetime import datetime
from unittest import TestCase

import pytest
from syrupy.extensions.amber.serializer import AmberDataSerializer
from syrupy.extensions.image import SVGImageSnapshotExtension
from syrupy.filters import paths, paths_include, props
from syrupy.matchers import compose_matchers, path_type, path_value


@pytest.fixture(scope="function")
def snapshot_in_class(request, snapshot):
    request.cls.snapshot = snapshot


class MyTest(TestCase):
    @pytest.mark.usefixtures("snapshot_in_class")
    def test_foo(self):
        actual = "Some computed value!"
        assert actual == self.snapshot


class Foo:
    def __init__(self):
        self.only, self.serialize, self.hidden = "computed", 2, 3

    def __repr__(self):
        return "Foo(...)"


def limit_foo_attrs(prop, path):
    return isinstance(path[-1][1], Foo) and prop in {"only", "serialize"}


def test_limited(snapshot):
    assert Foo() == snapshot(include=limit_foo_attrs)
    assert snapshot == AmberDataSerializer.object_as_named_tuple(Foo())


def test_multiple_matchers(snapshot):
    data = {"number": 1, "datetime": datetime.now(), "float": 1.3, "text": "computed"}
    assert data == snapshot(
        matcher=compose_matchers(
            path_type(types=(int, float), replacer=lambda *_: "MATCHER_1"),
            path_type(types=(datetime,), replacer=lambda *_: "MATCHER_2"),
        ),
    )


def test_path_type(snapshot):
    actual = {"date_created": datetime.now(), "value": "Some computed value!!"}
    assert actual == snapshot(matcher=path_type({"date_created": (datetime,), "nested.path.id": (int,)}))


def test_matches_generated_string_value(snapshot):
    matcher = path_value(
        mapping={"file_path": r"\\w+://(.*/)+dir/filename.txt"},
        replacer=lambda _, match: match[0].replace(match[1], "<tmp-file-path>/"),
        types=(str,),
        regex=True,  # The README has it not, and then nothing matches.
    )
    assert snapshot(matcher=matcher) == {"file_path": f"computed://{uuid.uuid4()}/dir/filename.txt"}


def test_filters(snapshot):
    assert {"id": uuid.uuid4(), "list": ["computed", 2, 3]} == snapshot(exclude=props("id", "1"))
    assert {"date": datetime.now(), "list": [1, 2, 3]} == snapshot(exclude=paths("date", "list.1"))
    assert {"nested": {"key": True}} == snapshot(include=paths_include(["other"], ["nested", "key"]))


def test_svg(snapshot):
    assert "<svg>computed</svg>" == snapshot(extension_class=SVGImageSnapshotExtension)


def test_diff(snapshot):
    actual0 = [1, 2, 3, "computed"]
    actual1 = [0, 1, 3, 4]
    assert actual0 == snapshot
    assert actual1 == snapshot(diff=0)
    assert actual0 == snapshot(name="snap_name")
    assert actual1 == snapshot(diff="snap_name")
    assert actual1 == snapshot(diff_data=actual0)


def test_case(snapshot):
    assert "computed" == snapshot(name="case_a")
    assert "other" == snapshot(name="case_b")


def test_unrelated():
    pass
"""


def test_what_its_readme_says_of_comparing(side_by_side: SideBySide, pytester: pytest.Pytester) -> None:
    """Matchers, filters, differences, names and formats; the mark that it gives each such test chooses those alone."""
    pytester.makepyfile(test_file=OPTIONS)
    side_by_side.session("--no-faultguard", "--snapshot-update", "-m", "syrupy_snapshot", plugin="syrupy")
    written = _files(pytester.path)
    args = ("--snapshot-disable-unused", "-m", "syrupy_snapshot")
    _, same = side_by_side(*args, plugin="syrupy")
    assert same.counts == {"passed": 9, "deselected": 1}
    pytester.makepyfile(test_file=OPTIONS.replace("computed", "changed"))
    plain, changed = side_by_side(*args, plugin="syrupy")
    assert changed.counts == {"failed": 9, "deselected": 1}
    assert [one.longrepr for one in changed.reports] == [one.longrepr for one in plain.reports]
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
