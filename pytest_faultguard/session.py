"""What one pytest session keeps for its guards, on a worker and on a controller of pytest-xdist as well."""

from __future__ import annotations

import os
import re
import signal
import threading
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from typing import final

import pytest

from pytest_faultguard import options
from pytest_faultguard.chosen import Choice
from pytest_faultguard.covered import Lines
from pytest_faultguard.crash import Seconds
from pytest_faultguard.evidence import faultdump
from pytest_faultguard.guard import Guard
from pytest_faultguard.process import proc
from pytest_faultguard.process.signals import Status

#: Where a worker tells its controller of a usage error, in what xdist sends back at a worker's end.
_WORKER_ERROR = "faultguard_usage_error"


@final
@dataclass(slots=True)
class Session:
    """The state of one pytest session."""

    #: The fixtures that this process has set up and not torn down, by identity.
    alive: dict[int, pytest.FixtureDef[Any]] = field(default_factory=dict)
    #: In a forked child, what the parent has set up and is to end. Never let go: a generator that nobody has any more runs
    #: what follows its ``yield`` in a ``finally`` or ``with``, and the end of a value may remove what it stands for.
    inherited: list[object] = field(default_factory=list)
    #: The item that is being guarded now, and its guard.
    guarding: tuple[str, Guard] | None = None
    #: The processes of the workers on this machine, by xdist's names for them.
    workers: dict[str, int] = field(default_factory=dict)
    status: Status | None = None
    #: What ran in the children, for coverage.py.
    lines: Lines = field(default_factory=Lines)
    #: The terminal, where an unguarded test's capture has put a file in its place.
    terminal_fd: int = 2


session_key = pytest.StashKey[Session]()
settings_key = pytest.StashKey[options.Settings | None]()
#: Why an item must not run here. Not a mark, which means nothing with ``-p no:skipping``.
spared_key = pytest.StashKey[str]()


def start(config: pytest.Config) -> None:
    """Declare the marker and check what the command line and the ini file give.

    Raises:
        pytest.UsageError: names the option or setting, and the value.
    """
    config.stash[session_key] = Session()
    options.check_config(config)
    for line in options.marks_help(config):
        config.addinivalue_line("markers", line)


def end(config: pytest.Config) -> None:
    """Give the status signal back."""
    session = config.stash.get(session_key, None)
    if session is not None and session.status is not None:
        session.status.close()
        os.close(session.terminal_fd)


def header(config: pytest.Config) -> str | None:
    """A line where nothing is guarded although that was asked for."""
    told = options.why_unguarded(config)
    return f"faultguard: {told}" if told else None


def resolve(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give every item its settings.

    Raises:
        pytest.UsageError: a marker is wrong, or it loses something and warnings are errors. A worker of pytest-xdist
            tells its controller, which raises it.
    """
    try:
        choice = Choice(config)
        for item in items:
            item.stash[settings_key] = options.settings_for(item, is_chosen=choice.takes(item))
        if options.why_unguarded(config) is not None:
            _spare_deaths(items)
        else:
            options.check_exec(config, [item for item in items if is_guarded(item)])
        _warn_of_lost(config, items)
    except pytest.UsageError as error:
        output = getattr(config, "workeroutput", None)
        if output is None:
            raise
        output[_WORKER_ERROR] = str(error)
        items.clear()
    if any(item.stash.get(settings_key, None) for item in items):
        _listen(config.stash[session_key])


def _spare_deaths(items: list[pytest.Item]) -> None:
    for item in items:
        death = options.expected_death(item)
        if death is not None:
            item.stash[spared_key] = (
                f"expected to die by {death}, and nothing is guarded: it would be pytest's own process"
            )


def _warn_of_lost(config: pytest.Config, items: list[pytest.Item]) -> None:
    told: dict[str, tuple[pytest.Item, str]] = {}
    for item in items:
        if item.stash[settings_key] is not None:
            for name, text in options.lost(item):
                told.setdefault(name, (item, text))
    # All workers of pytest-xdist collect the same; where the user makes warnings errors, all of them must fail.
    worker = getattr(config, "workerinput", {}).get("workerid", "")
    with warnings.catch_warnings(record=True) if re.fullmatch(r"gw[1-9]\d*", worker) else nullcontext():
        for item, text in told.values():
            try:
                item.warn(pytest.PytestWarning(text))
            except pytest.PytestWarning as warning:
                raise pytest.UsageError(str(warning)) from None


def is_guarded(item: pytest.Item) -> bool:
    """Whether the item runs in a child."""
    return item.stash.get(settings_key, None) is not None


def settings_of(item: pytest.Item) -> options.Settings:
    """How a guarded item is guarded."""
    settings = item.stash[settings_key]
    assert settings is not None
    return settings


def interactor_of(config: pytest.Config) -> Any:
    """On a worker of pytest-xdist, the plugin that tells its controller what happens here; else None."""
    if not hasattr(config, "workerinput"):
        return None
    plugins = config.pluginmanager.get_plugins()
    return next((one for one in plugins if hasattr(one, "item_index") and hasattr(one, "sendevent")), None)


def add_worker(node: Any) -> None:
    """A worker has started: SIGUSR1 reaches it through us, where it is on this machine."""
    popen = getattr(getattr(node.gateway, "_io", None), "popen", None)
    if popen is not None and options.why_unguarded(node.config) is None:
        session = node.config.stash[session_key]
        session.workers[node.gateway.id] = popen.pid
        _listen(session)


def remove_worker(node: Any) -> None:
    """A worker has ended.

    Raises:
        pytest.UsageError: the worker found one.
    """
    node.config.stash[session_key].workers.pop(node.gateway.id, None)
    told = getattr(node, "workeroutput", {}).get(_WORKER_ERROR)
    if told:
        raise pytest.UsageError(told)


def _listen(session: Session) -> None:
    if session.status is None and threading.current_thread() is threading.main_thread():
        try:
            session.status = Status(signal.SIGUSR1, lambda: tell_status(session))
        except ValueError:
            return  # Somebody uses that signal: it stays theirs.
        session.terminal_fd = os.dup(2)


def tell_status(session: Session) -> None:
    """Write to the real terminal what the guarded tests do now; called by a signal handler."""
    for pid in session.workers.values():
        # One that does not listen would die: it guards nothing, or not yet.
        if proc.caught(pid, signal.SIGUSR1):
            try:
                os.kill(pid, signal.SIGUSR1)
            except ProcessLookupError:
                pass  # It has just ended.
    if session.guarding is not None:
        _tell_guarded(*session.guarding)
    elif not session.workers:
        to_terminal("[faultguard] no guarded test is running\n", session.terminal_fd)


def _tell_guarded(label: str, guard: Guard) -> None:
    def answer(elapsed: Seconds, text: str) -> None:
        stacks = faultdump.render(faultdump.parse(text).stacks, faultdump.is_plumbing) if text else "(no stacks)"
        to_terminal(f"[faultguard] {label}: running for {elapsed:.1f} s\n{stacks}\n")

    if not guard.ask_status(answer):
        to_terminal(f"[faultguard] {label}: about to start, or ended\n")


def to_terminal(text: str, fd: int = 2) -> None:
    """Write past pytest's capture, which is off in this process while a guard waits; also in a worker."""
    try:
        os.write(fd, text.encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # Closed: then nobody wants to read it.
