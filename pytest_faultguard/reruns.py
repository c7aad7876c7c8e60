"""pytest-rerunfailures: it runs an item itself, until it passes, and is to run each attempt in a child.

Its loop stays as it is, but some of the functions that it calls are others. It judges an attempt by the reports and by
what its own hooks have kept at the item: in the child, so that has to come back. Of the plugin are used, checked on 16.7
and, without conditions, on 15.1:

``pytest_runtest_protocol``
    The loop. A version in which it calls no ``runtestprotocol`` of its module would run the item in this process.
``get_reruns_count``
    Whether another attempt may follow. In the child there are none: else its hook would keep fixtures of wider scope
    for the next attempt, which that child never sees.
``get_reruns_condition``, ``_get_reruns_condition_failures``
    Whether the mark's ``condition`` holds, which may be code. The child asks at its end, and after a crash another one.
    Before 16.7 no condition is told of the error, and it is evaluated in this process.
``_remove_failed_setup_state_from_session``
    Of a guarded item nothing is set up in this process; 15.1 forgets all that is set up for others as well.
``_test_failed_statuses`` and the other names in :data:`_KEPT`
    What it keeps at an item. Its hook expects all of them when a report is made, also without reruns.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

import pytest

_EXCEPTIONS = "_rerun_condition_excinfos"
_CONDITIONS = "_rerun_condition_results"
_KEPT = ("_test_failed_statuses", "_terminal_errors", "_test_xfailed", _CONDITIONS)


def run(
    item: pytest.Item,
    nextitem: pytest.Item | None,
    attempt: Callable[[bool], list[pytest.TestReport]],
    ask: Callable[[Callable[[], dict[str, Any]]], None],
) -> bool:
    """Have the plugin run an item as often as it likes; False where it leaves the item alone.

    ``attempt`` is told whether another one may follow. ``ask`` has a child keep what the given function returns.
    """
    plugin = _plugin(item.config)
    if plugin is None:
        return False

    def runtestprotocol(*_: object, **__: object) -> list[pytest.TestReport]:
        return attempt(vars(item)["execution_count"] <= plugin.get_reruns_count(item))

    def get_reruns_condition(_: object, failures: Iterable[tuple[str, int, object]] = ()) -> bool:
        if _condition_is_code(item, plugin):
            known = vars(item)[_CONDITIONS]
            if not any(known.values()) and any(failure[:2] not in known for failure in failures):
                ask(lambda: _judged(plugin, item))
            return any(vars(item)[_CONDITIONS].values())
        return bool(plugin.get_reruns_condition(item, failures))

    loop = plugin.pytest_runtest_protocol
    names = {
        "runtestprotocol": runtestprotocol,
        "get_reruns_condition": get_reruns_condition,
        "_remove_failed_setup_state_from_session": lambda _: None,
    }
    return bool(types.FunctionType(loop.__code__, {**vars(plugin), **names})(item, nextitem))


def is_active(config: pytest.Config) -> bool:
    """Whether the plugin runs items here."""
    return _plugin(config) is not None


def applies(item: pytest.Item) -> bool:
    """Whether the plugin may run the item more than once."""
    plugin = _plugin(item.config)
    return plugin is not None and plugin.get_reruns_count(item) is not None


def begin(item: pytest.Item) -> None:
    """In the parent, before each child: nothing is known of the attempt."""
    if _plugin(item.config) is not None:
        vars(item).update({name: {} for name in (*_KEPT, _EXCEPTIONS)})


def enter_child(item: pytest.Item, attempt: int) -> None:
    """In the child: this attempt is all that there is."""
    vars(item)["execution_count"] = attempt
    plugin = _plugin(item.config)
    # Of a child that runs several items, the one of the last item is still there.
    count = getattr(plugin.get_reruns_count, "__wrapped__", plugin.get_reruns_count)
    plugin.get_reruns_count = functools.wraps(count)(lambda other: None if other is item else count(other))


def kept(item: pytest.Item, when: str | None) -> dict[str, Any]:
    """In the child, after a phase: what the plugin's loop must know of it."""
    plugin = _plugin(item.config)
    if when == "teardown" and _condition_is_code(item, plugin):
        return _judged(plugin, item)
    return {name: vars(item)[name] for name in _KEPT}


def _judged(plugin: Any, item: pytest.Item) -> dict[str, Any]:
    plugin.get_reruns_condition(item, plugin._get_reruns_condition_failures(item))  # noqa: SLF001 - see above.
    return {name: vars(item)[name] for name in _KEPT}


def _condition_is_code(item: pytest.Item, plugin: Any) -> bool:
    if not hasattr(plugin, "_get_reruns_condition_failures"):
        return False
    mark = item.get_closest_marker("flaky")
    condition = None if mark is None else mark.kwargs.get("condition")
    return callable(condition) or isinstance(condition, str)


def _plugin(config: pytest.Config) -> Any:
    manager = config.pluginmanager
    plugin = manager.getplugin("rerunfailures") or manager.getplugin("pytest_rerunfailures")
    loop = getattr(plugin, "pytest_runtest_protocol", None)
    return plugin if loop is not None and "runtestprotocol" in loop.__code__.co_names else None
