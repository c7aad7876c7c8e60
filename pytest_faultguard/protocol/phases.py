"""What both sides do around a phase of a test."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from contextlib import nullcontext
from typing import Any
from typing import Literal

import pytest

from pytest_faultguard.crash import Seconds

When = Literal["setup", "call", "teardown"]


def identity_of(report: pytest.TestReport) -> Any:
    """By what pytest counts subtests: a ``NodeId`` since 9.2, before that the text."""
    return report.id if hasattr(type(report), "id") else report.nodeid


def called(function: Callable[[], None], when: When) -> pytest.CallInfo[None]:
    """What becomes of a function, as of a phase of a test."""
    return pytest.CallInfo.from_call(function, when=when, reraise=(pytest.exit.Exception, KeyboardInterrupt))


def capturing(item: pytest.Item, when: When) -> AbstractContextManager[None]:
    """Around what belongs to a phase and is done outside of it."""
    capture = item.config.pluginmanager.getplugin("capturemanager")
    return nullcontext() if capture is None else capture.item_capture(when, item)


def faulthandler_timeout(config: pytest.Config) -> Seconds:
    """Pytest's own, 0 for none."""
    if not config.pluginmanager.hasplugin("faulthandler"):
        return 0.0
    return float(config.getini("faulthandler_timeout") or 0)
