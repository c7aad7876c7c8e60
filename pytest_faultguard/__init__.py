"""Crash-isolated tests for pytest: the public names.

Importing this package does not import pytest; the plugin itself is :mod:`pytest_faultguard.plugin`, the entry point
``faultguard``.

PYTEST_DONT_REWRITE: in a child that starts clean it is imported before pytest, which would warn of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_faultguard.crash import Crash
from pytest_faultguard.crash import Ending
from pytest_faultguard.crash import Exited
from pytest_faultguard.crash import Frame
from pytest_faultguard.crash import Lost
from pytest_faultguard.crash import OutOfMemory
from pytest_faultguard.crash import Overdue
from pytest_faultguard.crash import Overspent
from pytest_faultguard.crash import Rescued
from pytest_faultguard.crash import Signaled
from pytest_faultguard.crash import Starved
from pytest_faultguard.crash import ThreadStack
from pytest_faultguard.crash import from_json
from pytest_faultguard.outcome import CrashError
from pytest_faultguard.outcome import FaultguardError
from pytest_faultguard.outcome import HangError
from pytest_faultguard.outcome import LeakedProcessesWarning
from pytest_faultguard.outcome import LostResultsWarning
from pytest_faultguard.outcome import UnhealthyChildWarning
from pytest_faultguard.process.child import is_guarded

if TYPE_CHECKING:
    import pytest

__all__ = [
    "Crash",
    "CrashError",
    "Ending",
    "Exited",
    "FaultguardError",
    "Frame",
    "HangError",
    "LeakedProcessesWarning",
    "Lost",
    "LostResultsWarning",
    "OutOfMemory",
    "Overdue",
    "Overspent",
    "Rescued",
    "Signaled",
    "Starved",
    "ThreadStack",
    "UnhealthyChildWarning",
    "from_json",
    "is_guarded",
]


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Make ``-p pytest_faultguard`` mean ``-p faultguard``, and never register the plugin twice."""
    # pytest calls this hook as soon as this package is registered, and entry points are loaded after ``-p``: under the
    # entry point's own name the plugin is found registered then.
    if not pluginmanager.hasplugin("faultguard"):
        pluginmanager.import_plugin("faultguard", consider_entry_points=True)
