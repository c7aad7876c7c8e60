"""The parent's side: what a child must be told that starts clean, and how its start may fail."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_faultguard.chosen import file_of
from pytest_faultguard.crash import Crash
from pytest_faultguard.crash import Seconds
from pytest_faultguard.evidence.journal import Journal
from pytest_faultguard.guard import Guard
from pytest_faultguard.guard import Limits
from pytest_faultguard.guard import Remains
from pytest_faultguard.outcome import LaunchError
from pytest_faultguard.output import Overture
from pytest_faultguard.process.channel import Letter
from pytest_faultguard.process.channel import write_letter
from pytest_faultguard.process.child import Wiring
from pytest_faultguard.session import session_key

#: For interpreter, plugins, conftest files and the import of the test modules.
_BOUND: Seconds = 120.0
#: How much of what a child wrote that never began is told.
_TOLD_LINES = 40
_PROGRAM = """\
import sys
sys.path[:] = {path}
from pytest_faultguard.protocol.spawned import main
sys.exit(main({parent}, {letter}, *{wiring}))
"""


def spawn(
    session: pytest.Session,
    items: Mapping[int, pytest.Item],
    guard: Guard,
    journal: Journal,
    fds: Mapping[str, int],
    *,
    is_heard: bool,
) -> Remains | None:
    """Start a fresh interpreter that finds these items, by their places; what is left of it where it has not begun.

    Raises:
        LaunchError: it could not even be started.
    """
    all_fds = {**fds, "journal": journal.fileno()}
    try:
        letter = _letter(session, items, guard.limits, journal, all_fds, is_heard=is_heard)
        letter_fd = os.memfd_create("faultguard-letter", os.MFD_CLOEXEC)
        try:
            write_letter(letter_fd, letter)
            guard.spawn(lambda wiring: _command(letter_fd, wiring), [letter_fd, *all_fds.values()])
        finally:
            os.close(letter_fd)
    except OSError as error:  # No descriptor, no room, or no current directory.
        msg = f"cannot start an interpreter: {error}"
        raise LaunchError(msg) from error
    return guard.give(None, Limits(timeout=_BOUND, grace=guard.limits.grace))


def failure(remains: Remains, broken: str, overture: Overture) -> LaunchError:
    """Why a child never began."""
    if remains.ending is None:
        cause = "it left"
    else:
        cause = Crash(label="", phase="collect", ending=remains.ending, duration=0.0).cause
    lines = [*broken.splitlines(), *remains.dump.splitlines(), *overture.read().splitlines()]
    told = "\n".join(lines[-_TOLD_LINES:])
    return LaunchError(f"a fresh interpreter did not begin: {cause}\n{told}".rstrip())


def _command(letter_fd: int, wiring: Wiring) -> list[str]:
    if not sys.executable:
        msg = "cannot start an interpreter: sys.executable is empty"
        raise LaunchError(msg)
    # As multiprocessing does: -W, -X, -O and whatever else this interpreter was started with.
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    fds = (wiring.channel_fd, wiring.dump_fd, wiring.stacks_fd, wiring.bell_fd, wiring.orders_fd)
    path = [one for one in sys.path if isinstance(one, str)]
    code = _PROGRAM.format(path=path, parent=os.getpid(), letter=letter_fd, wiring=fds)
    return [sys.executable, *flags, "-c", code]


def _letter(
    session: pytest.Session,
    items: Mapping[int, pytest.Item],
    limits: Limits,
    journal: Journal,
    fds: dict[str, int],
    *,
    is_heard: bool,
) -> Letter:
    config: Any = session.config
    invocation = config.invocation_params
    plugins = [one.__name__ if isinstance(one, types.ModuleType) else one for one in invocation.plugins or ()]
    worker = getattr(config, "workerinput", None)
    factory = getattr(config, "_tmp_path_factory", None)
    base_temp = None if factory is None else factory._basetemp
    return Letter(
        args=tuple(map(str, invocation.args)),
        # What is an object, and no module, cannot be had in another process.
        plugins=tuple(one for one in plugins if isinstance(one, str)),
        directory=str(invocation.dir),
        argv=tuple(sys.argv),
        current_directory=str(Path.cwd()),
        options=_plain_ones(vars(config.option)),
        worker=None if worker is None else _plain_ones(worker),
        base_temp=None if base_temp is None else str(base_temp),
        paths=_paths(config, items),
        items=tuple((place, item.nodeid) for place, item in items.items()),
        coverage=config.stash[session_key].lines.described(),
        memory=limits.memory,
        journal_bytes=journal.limit_bytes,
        is_heard=is_heard,
        fds=fds,
    )


def _paths(config: Any, items: Mapping[int, pytest.Item]) -> tuple[str, ...]:
    """What the child is to collect: the files of its items, or just the one item."""
    files = {item: file_of(item) for item in items.values()}
    if len(files) == 1 and not getattr(config.option, "loadgroup", False):
        ((item, file),) = files.items()
        if file is not None and item.nodeid.startswith(f"{file.nodeid}::"):
            return (f"{file.path}{item.nodeid.removeprefix(file.nodeid)}",)
    return tuple(dict.fromkeys(str(item.path if file is None else file.path) for item, file in files.items()))


def _plain_ones(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if _is_plain(value)}


def _is_plain(value: object) -> bool:
    if type(value) in {list, tuple}:
        return all(map(_is_plain, value))  # type: ignore[call-overload]
    if type(value) is dict:
        return all(_is_plain(key) and _is_plain(one) for key, one in value.items())
    return value is None or type(value) in {bool, int, float, str, bytes}
