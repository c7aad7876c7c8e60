"""pytest-timeout: what it would set an alarm for is a deadline of the guard, in a guarded test.

Besides its public hooks ``_get_item_settings`` is used, checked on 2.4: it checks the mark as it will itself later, where
an error is an internal one.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any
from typing import final

import pytest

from pytest_faultguard.crash import Seconds

MARKER = "timeout"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """What pytest-timeout is told about one test."""

    #: 0 for none.
    seconds: Seconds
    #: Whether set-up and teardown may take as long as they like.
    func_only: bool
    #: How far away it was said: 0 in a mark, 1 on the command line or in the environment, 2 in an ini file.
    distance: int


def alarm_of(item: pytest.Item) -> Alarm | None:
    """What the plugin is told about this test; None where it is told nothing or is not active.

    Raises:
        pytest.UsageError: its mark is wrong.
    """
    manager = item.config.pluginmanager
    plugin: Any = manager.getplugin("timeout") or manager.getplugin("pytest_timeout")
    if plugin is None:
        return None
    try:
        settings = plugin._get_item_settings(item)  # noqa: SLF001 - see above.
    except (TypeError, ValueError) as error:
        msg = f"{item.nodeid}: {MARKER} marker: {error}"
        raise pytest.UsageError(msg) from None
    if settings.timeout is None:
        return None
    usable = 0 < settings.timeout < math.inf
    return Alarm(
        seconds=settings.timeout if usable else 0.0, func_only=bool(settings.func_only), distance=_distance(item)
    )


def _distance(item: pytest.Item) -> int:
    mark = item.get_closest_marker(MARKER)
    if mark is not None and (*mark.args, mark.kwargs.get("timeout"))[0] is not None:
        return 0
    on_command_line = item.config.getoption("timeout") is not None
    return 1 if on_command_line or os.environ.get("PYTEST_TIMEOUT") is not None else 2
