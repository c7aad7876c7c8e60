"""Tests that depend on their order, some of them guarded: what passes from one to the next."""

from __future__ import annotations

from pathlib import Path

import pytest

#: Of classes that are marked ``incremental``: where a test has failed, as the session tells it.
failed_at: dict[str, str] = {}


class Ledger:
    """A file to which each test adds a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []

    def add(self, line: str) -> None:
        with self.path.open("a") as stream:
            stream.write(f"{line}\n")


@pytest.fixture(scope="module")
def ledger(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return Ledger(tmp_path_factory.getbasetemp() / f"{request.path.stem}.ledger")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Turn the order of one module round."""
    places = [number for number, item in enumerate(items) if item.path.name == "test_reversed.py"]
    backwards = [items[number] for number in reversed(places)]
    for number, item in zip(places, backwards, strict=True):
        items[number] = item


# As in pytest's documentation: https://docs.pytest.org/en/stable/example/simple.html#incremental-testing-test-steps


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    if item.get_closest_marker("incremental") and call.excinfo is not None:
        item.parent.previous_failed = item.name  # type: ignore[union-attr]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("incremental"):
        previous = getattr(item.parent, "previous_failed", None)
        if previous is not None:
            pytest.xfail(f"previous test failed ({previous})")
    elif (failed := failed_at.get(item.nodeid.rpartition("::")[0])) is not None:
        pytest.xfail(f"the report says that {failed} failed")


# The same from the reports, which the test process gets in any case.


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    owner, _, name = report.nodeid.rpartition("::")
    if report.failed and owner.endswith("Reported"):
        failed_at[owner] = name
