"""What other plugins keep in memory until the session ends, and what a guarded test's process takes with it.

A warning names it for each guarded test that uses such a plugin; pytest shows equal ones once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import pytest

from pytest_faultguard.outcome import LostResultsWarning


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """One plugin, by the fixture that its tests use."""

    plugin: str
    fixture: str
    #: Whether the plugin is active, and keeps anything in this session.
    keeps: Callable[[pytest.Config], bool]
    told: str


def _is_measured(config: pytest.Config) -> bool:
    disabled = config.getoption("benchmark_disable", default=None)
    if disabled is None or hasattr(config, "workerinput"):
        return False  # Not installed; and under pytest-xdist it measures nothing.
    return not disabled or bool(config.getoption("benchmark_enable", default=False))


def _is_unused_told(config: pytest.Config) -> bool:
    if config.getoption("update_snapshots", default=None) is None:
        return False  # Not installed.
    return not config.getoption("disable_unused_snapshots", default=False)


LOSSES: tuple[Loss, ...] = (
    Loss(
        plugin="pytest-benchmark",
        fixture="benchmark",
        keeps=_is_measured,
        told="what it measures in a guarded test is lost with the test's process; use --no-faultguard",
    ),
    Loss(
        plugin="syrupy",
        fixture="snapshot",
        keeps=_is_unused_told,
        told="it does not count the snapshots of a guarded test, and calls them unused; use --snapshot-disable-unused",
    ),
)


def warn(fixture: str, config: pytest.Config) -> None:
    """Before that fixture is set up: name what is lost with the process of its test; as an error, that fails the setup."""
    for loss in LOSSES:
        if loss.fixture == fixture and loss.keeps(config):
            warnings.warn(f"{loss.plugin}: {loss.told}", LostResultsWarning, stacklevel=1)
