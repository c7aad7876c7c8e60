"""Beside pytest-reportlog: each line is JSON, and the same as without the guard; a crash is in its line."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING
from typing import Any

import pytest

from testing.harness import without_usage

if TYPE_CHECKING:
    from pathlib import Path

    from testing.plugins.conftest import SideBySide

pytest.importorskip("pytest_reportlog")

#: From its README, with a warning, an error and a skip.
SAMPLES = """
import logging
import warnings

import pytest


def test_ok():
    assert 5 + 5 == 10


def test_fail():
    assert 4 + 4 == 1


def test_function(record_property):
    record_property("price", 12.34)
    record_property("fruit", "banana")
    assert True


def test_warning():
    logging.getLogger().warning("logged")
    print("printed")
    warnings.warn("warned")


def test_skip():
    pytest.skip("skipped")


@pytest.fixture
def broken():
    raise ValueError("broken")


def test_error(broken):
    pass
"""
#: Of the run, of pytest-xdist, and of a report that has been on a journey.
VARYING = {
    "duration",
    "start",
    "stop",
    "worker_id",
    "testrun_uid",
    "item_index",
    "node",
    "$report_type",
    "_report_type",
    "message",
}


def _lines(path: Path) -> list[dict[str, Any]]:
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines()]


def _reports(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The reports of tests, under pytest-xdist in no set order."""
    found = [{key: value for key, value in line.items() if key not in VARYING} for line in lines if "when" in line]
    for one in found:
        one["user_properties"] = without_usage(one.get("user_properties", []))
    return sorted(found, key=json.dumps)


@pytest.mark.parametrize(
    ("name", "args"),
    [("log.jsonl", ()), ("log.jsonl.gz", ()), ("log.jsonl", ("--report-log-exclude-logs-on-passed-tests",))],
    ids=["", "compressed", "no-logs"],
)
def test_documentation_samples(
    name: str, args: tuple[str, ...], side_by_side: SideBySide, pytester: pytest.Pytester, xdist_args: tuple[str, ...]
) -> None:
    """A file that is open, with what a compressor holds back, in each child as well: it is written once."""
    pytester.makepyfile(SAMPLES)
    log = pytester.path / name
    args = (f"--report-log={name}", *args, *xdist_args)
    plain = side_by_side.session("--no-faultguard", *args, plugin="pytest_reportlog")
    expected = _lines(log)
    guarded = side_by_side.session("--faultguard", *args, plugin="pytest_reportlog")
    lines = _lines(log)
    assert guarded.outcomes == plain.outcomes
    assert guarded.counts == plain.counts == {"passed": 3, "failed": 1, "skipped": 1, "errors": 1, "warnings": 1}
    assert _reports(lines) == _reports(expected)
    assert [line.get("$report_type") for line in lines].count("WarningMessage") == 1
    assert lines[-1] == expected[-1] == {"exitstatus": 1, "$report_type": "SessionFinish"}
    assert "generated report log file: log.jsonl" in guarded.text


def test_a_crash(
    side_by_side: SideBySide, pytester: pytest.Pytester, programs: Path, xdist_args: tuple[str, ...]
) -> None:
    pytester.makepyfile(
        """
        from programs import lib


        def test_crashing(record_property, faultguard_data):
            record_property("lost", "with the phase that crashed")
            faultguard_data["key"] = "\\u00e9t\\u00e9 \\udc80"
            print("last words")
            lib.null_write()


        def test_after():
            pass
        """
    )
    side_by_side.session("--faultguard", "--report-log=log.jsonl", *xdist_args, plugin="pytest_reportlog")
    lines = _lines(pytester.path / "log.jsonl")
    assert lines[-1]["exitstatus"] == 1
    reports = [line for line in lines if line.get("$report_type") == "TestReport"]
    assert len(reports) == 6
    (crashed,) = (line for line in reports if line["outcome"] == "failed")
    assert crashed["nodeid"].endswith("test_crashing")
    assert crashed["when"] == "call"
    assert crashed["longrepr"]["reprcrash"]["message"].startswith("SIGSEGV (segmentation fault) in call")
    assert crashed["faultguard_crash"]["phase"] == "call"
    assert ["Captured stdout call", "last words\n"] in crashed["sections"]
    assert any("'key' = '\u00e9t" in text for _, text, *_ in crashed["longrepr"]["sections"])
    again = pytest.TestReport._from_json(dict(crashed))
    assert "lib.null_write()" in str(again.longrepr)
