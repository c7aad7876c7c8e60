"""pytest-html: a crash with its sections is in the page, once; and its own samples look as they do in-process."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from typing import TypeAlias

import pytest

from testing.harness import RunPytest

PLUGINS = ("no:cacheprovider", "faultguard", "xdist", "metadata", "html", "html_fixtures")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the page's table."""

    #: What stands after `file.py::`, with the phase where that is not the call.
    test: str
    outcome: str
    log: str
    #: By name, what was added to it.
    extras: list[tuple[str | None, str]]
    cells: list[str]


Page: TypeAlias = Callable[..., list[Row]]


@pytest.fixture
def page(pytester: pytest.Pytester, run_pytest: RunPytest, monkeypatch: pytest.MonkeyPatch) -> Page:
    """`page(*args)`: the rows of the page of one session."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(*args: str) -> list[Row]:
        path = pytester.path / "page" / "report.html"
        result = run_pytest(f"--html={path}", *args, plugins=PLUGINS)
        assert result.ret in {0, 1}, result.stdout.str()
        found = re.search(r'id="data-container" data-jsonblob="(.*?)"', path.read_text())
        assert found is not None
        tests = json.loads(html.unescape(found[1]))["tests"]
        return [_row(row) for rows in tests.values() for row in rows]

    return run


def _row(row: dict[str, Any]) -> Row:
    return Row(
        test=row["testId"].partition("::")[2],
        outcome=row["result"],
        log=re.sub(r"\[gw\d\]", "[gw]", row["log"]),
        extras=[(extra["name"], extra["content"]) for extra in row["extras"]],
        cells=[re.sub(r"\d+ ms|[\d:. -]{8,}", "…", re.sub("<.*?>", "", cell)) for cell in row["resultsTableRow"]],
    )


CRASH = """
import pytest
from programs import lib

pytestmark = pytest.mark.faultguard


@pytest.fixture
def fixture(faultguard_data):
    faultguard_data["state"] = "ready"
    print("said in setup")
    # in setup
    yield
    print("said in teardown")
    # in teardown


def test_crash(fixture):
    print("said in call")
    # in call


def test_after():
    print("said after")
"""

#: By the phase of the crash: the rows, and the output that the one of the crash has.
ROWS = {
    "setup": (["test_crash::setup Error", "test_after Passed"], ["setup"]),
    "call": (["test_crash Failed", "test_after Passed"], ["setup", "call"]),
    "teardown": (
        ["test_crash Passed", "test_crash::teardown Error", "test_after Passed"],
        ["setup", "call", "teardown"],
    ),
}


@pytest.mark.parametrize("args", [(), ("--self-contained-html",), ("-n2",)], ids=["serial", "self_contained", "n2"])
@pytest.mark.parametrize("when", ROWS)
@pytest.mark.usefixtures("programs")
def test_a_crash_with_its_sections_is_in_the_page_once(
    pytester: pytest.Pytester, page: Page, when: str, args: tuple[str, ...]
) -> None:
    pytester.makepyfile(CRASH.replace(f"# in {when}", "lib.null_write()"))

    rows = page(*args)

    expected, said = ROWS[when]
    assert sorted(f"{row.test} {row.outcome}" for row in rows) == sorted(expected)
    (crashed,) = (row for row in rows if row.outcome in {"Failed", "Error"})
    page_log = "".join(row.log for row in rows)
    for text in (
        f"SIGSEGV (segmentation fault) in {when}",
        " faulthandler dump ",
        "Current thread 0x",
        " rescued faultguard_data ",
        html.escape("'state' = 'ready'"),
    ):
        assert page_log.count(text) == crashed.log.count(text) == 1
    for phase in ROWS:
        assert crashed.log.count(f"\nsaid in {phase}\n") == (phase in said)


EXTRAS = """
import pytest
import pytest_html


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    extras = getattr(report, "extras", [])
    if report.when == "call":
        # always add url to report
        extras.append(pytest_html.extras.url("http://www.example.com/"))
        xfail = hasattr(report, "wasxfail")
        if (report.skipped and xfail) or (report.failed and not xfail):
            # only add additional html on failure
            extras.append(pytest_html.extras.html("<div>Additional HTML</div>"))
        report.extras = extras
"""

COLUMNS = """
import pytest
from datetime import datetime, timezone


def pytest_html_results_table_header(cells):
    cells.insert(2, "<th>Description</th>")
    cells.insert(1, '<th class="sortable time" data-column-type="time">Time</th>')


def pytest_html_results_table_row(report, cells):
    cells.insert(2, f"<td>{report.description}</td>")
    cells.insert(1, f'<td class="col-time">{datetime.now(timezone.utc)}</td>')
    if report.nodeid.endswith("test_hidden"):
        del cells[:]


def pytest_html_results_table_html(report, data):
    if report.passed:
        del data[:]
        data.append("<div class='empty log'>No log output captured.</div>")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    report.description = str(item.function.__doc__)
"""

SAMPLE = """
import pytest
import pytest_html


def test_extra(extras):
    extras.append(pytest_html.extras.text("some string", name="Different title"))
    extras.append(pytest_html.extras.json({"name": "pytest"}))
    extras.append(pytest_html.extras.png("https://example.com/image.png"))


def test_failed():
    'Fails as it should.'
    print("said")
    assert 1 == 2


@pytest.mark.xfail
def test_xfailed():
    assert 1 == 2


@pytest.mark.skip(reason="never")
def test_skipped():
    pass


def test_hidden():
    pass


@pytest.fixture
def broken():
    yield
    assert 3 == 4


def test_broken(broken):
    pass
"""


@pytest.mark.parametrize("conftest", [EXTRAS, COLUMNS], ids=["extras", "columns"])
@pytest.mark.parametrize("args", [("--self-contained-html",), ("-n2",)], ids=["self_contained", "n2"])
def test_the_samples_of_its_guide(pytester: pytest.Pytester, page: Page, conftest: str, args: tuple[str, ...]) -> None:
    pytester.makeconftest(conftest)
    pytester.makepyfile(SAMPLE)
    plain = page("--no-faultguard", *args)

    assert sorted(map(str, page("--faultguard", *args))) == sorted(map(str, plain))
    names = [name for row in plain for name, _ in row.extras]
    assert names.count("Different title") == 1
    assert names.count("URL") == (6 if conftest is EXTRAS else 0)
    described = [row for row in plain if "Fails as it should." in row.cells]
    assert len(described) == (1 if conftest is COLUMNS else 0)


def test_what_hooks_add_to_every_failure_is_added_to_a_crash(
    pytester: pytest.Pytester, page: Page, xdist_args: tuple[str, ...]
) -> None:
    pytester.makeconftest(EXTRAS)
    (pytester.path / "columns.py").write_text(COLUMNS)
    pytester.makepyfile("import os\n\ndef test_crash():\n    'Fails as it should.'\n    os._exit(0)\n")

    (row,) = page("--faultguard", "-p", "columns", *xdist_args)

    assert (row.test, row.outcome) == ("test_crash", "Failed")
    assert row.extras == [("URL", "http://www.example.com/"), (None, "<div>Additional HTML</div>")]
    assert "Fails as it should." in row.cells
