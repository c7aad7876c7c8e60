"""Hooks of ours that plugins and ``conftest.py`` files may implement."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from pytest_faultguard.crash import Crash


@pytest.hookspec
def pytest_faultguard_crash(item: pytest.Item, crash: Crash) -> Iterable[tuple[str, str]] | None:
    """Add evidence of one's own to a crash: sections of its report, each a title and a text.

    Called in pytest's own process (under pytest-xdist the worker's), once for each crash, before its report is made; not
    for a death that the test's marker expects. An exception in it is a gap in the evidence; what was yielded before is
    kept.
    """


@pytest.hookspec(firstresult=True)
def pytest_faultguard_healthcheck(item: pytest.Item) -> str | None:
    """Say why no other test should run in this process; None where it is well.

    Called in a child that several tests share, after the last report of each. The child is ended then, with the teardown
    of what the tests have shared, and the next test gets a fresh one; a warning has the reason. An exception counts as a
    reason. A crash, or a hang beyond the test's timeout, is a crash of that test, at its exit.
    """
