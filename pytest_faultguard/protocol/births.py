"""The parent's side: what a child must be told that starts clean, and how its start may fail."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import types
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import astuple
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any
from typing import final

import pytest

from pytest_faultguard.chosen import file_of
from pytest_faultguard.crash import Exited
from pytest_faultguard.crash import Frame
from pytest_faultguard.crash import Overdue
from pytest_faultguard.crash import Seconds
from pytest_faultguard.crash import Signaled
from pytest_faultguard.crash import describe_signal
from pytest_faultguard.descriptors import high
from pytest_faultguard.descriptors import high_memory_file
from pytest_faultguard.evidence import faultdump
from pytest_faultguard.guard import Guard
from pytest_faultguard.guard import Limits
from pytest_faultguard.guard import Remains
from pytest_faultguard.options import exec_command
from pytest_faultguard.outcome import LaunchError
from pytest_faultguard.output import Overture
from pytest_faultguard.output import stdin_given_back
from pytest_faultguard.process.channel import Broken
from pytest_faultguard.process.channel import Charge
from pytest_faultguard.process.channel import Letter
from pytest_faultguard.process.channel import Message
from pytest_faultguard.process.channel import Order
from pytest_faultguard.process.channel import write
from pytest_faultguard.process.child import Wiring
from pytest_faultguard.process.launch import Child as Process
from pytest_faultguard.process.launch import spawn_child
from pytest_faultguard.process.signals import Signals
from pytest_faultguard.process.supervise import bury
from pytest_faultguard.session import is_guarded
from pytest_faultguard.session import session_key
from pytest_faultguard.session import settings_of

if TYPE_CHECKING:
    import socket

#: For interpreter, plugins, conftest files and the import of the test modules.
_BOUND: Seconds = 120.0
#: For a fork, which takes some milliseconds.
_FORK_BOUND: Seconds = 10.0
#: How much of what a child wrote that never began is told.
_TOLD_LINES = 40
_PROGRAM = """\
import sys
sys.path[:] = {path}
from pytest_faultguard.protocol import {module}
sys.exit({module}.{function}({numbers}))
"""


@final
class Births:
    """How children are born that start clean: as fresh interpreters, or from a fork server that is one."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._server: _Server | None = None
        self._early: _Early | None = None
        #: Starts that have taken all of their bound, which the next one would as well: by start method and the files that
        #: were to be collected, or None where it had not come to that.
        self._hung: dict[tuple[str, frozenset[str] | None], str] = {}

    def begin_early(self) -> None:
        """Start an interpreter while pytest collects: it collects the same, on another processor."""
        try:
            with Signals() as signals:
                self._early = _Early(self._session, signals)
        except LaunchError:
            pass  # Whoever needs one will hear of it.

    def bear(self, start: str, guard: Guard, charge: Charge, errors: Callable[[], str]) -> None:
        """Start a child with its charge, and wait until it has begun.

        Raises:
            LaunchError: it could not be started, or has not begun; ``errors`` returns what it has said of that.
        """
        files = frozenset(path.partition("::")[0] for path in charge.paths)
        for hung in (self._hung.get((start, None)), self._hung.get((start, files))):
            if hung is not None:
                msg = f"not tried again: {hung}"
                raise LaunchError(msg)
        try:
            if start == "forkserver":
                self._fork(guard, charge, errors)
            elif self._early is None or not self._early.take(guard, charge, errors):
                self._spawn(guard, charge, errors)
        except _HangError as hang:
            self._hung[start, None if hang.has_not_collected else files] = str(hang)
            raise LaunchError(str(hang)) from None

    def _spawn(self, guard: Guard, charge: Charge, errors: Callable[[], str]) -> None:
        overture = _overture()
        try:
            letter = _letter(self._session)
            charge = charge._replace(fds={**charge.fds, **overture.fds()})
            _spawn(guard, "spawned", (letter, charge), list(charge.fds.values()), ())
            # Twice: it says so before it collects its tests, too.
            _await_begin(guard, errors, overture, "a fresh interpreter", has_not_collected=True)
            _await_begin(guard, errors, overture, "a fresh interpreter")
        finally:
            overture.close()

    def _fork(self, guard: Guard, charge: Charge, errors: Callable[[], str]) -> None:
        has_served = self._server is not None
        if self._server is None:
            self._server = _Server(self._session)
        try:
            self._server.fork(guard, charge)
        except LaunchError:
            if not self._server.is_lost:
                raise
            self._server.end(hurry=True)
            self._server = None
            if not has_served:
                raise
            # It was lost since the last child, by that one's doing maybe: what is to be run now has no part in that. And
            # had it forked this child, that would have nobody to give it an order.
            self._fork(guard, charge, errors)
            return
        _await_begin(guard, errors, self._server.overture, "a child of the fork server")

    def attend(self, guard: Guard, charge: Charge, orders: Sequence[Order]) -> Remains:
        """Run a child with these orders under the user's command; what is left of it.

        Raises:
            LaunchError: it could not be started.
        """
        overture = _overture()
        try:
            letter = _letter(self._session)
            # It has the terminal, so nothing is captured and nothing passed on; and no clock runs.
            args = ("--capture=no", "-ofaulthandler_timeout=0", *letter.args)
            letter = letter._replace(args=args, options={**letter.options, "capture": "no"})
            files = {name: fd for name, fd in charge.fds.items() if name not in {"relay", "relay target", "turns"}}
            charge = charge._replace(fds={**files, **overture.fds()})
            words = exec_command(self._session.config)
            with _file(letter, charge) as file, stdin_given_back(self._session.config):
                letter_fd = file.fileno()
                return guard.attend(
                    lambda wiring: [*words, *_command("spawned", "main", 0, (letter_fd, *astuple(wiring)))],
                    [letter_fd, *charge.fds.values()],
                    orders,
                )
        finally:
            overture.close()

    def end(self, *, hurry: bool = False) -> None:
        """The session ends. May be called again, where an interrupt has come before all was done."""
        if self._early is not None:
            self._early.end()
            self._early = None
        if self._server is not None:
            self._server.end(hurry=hurry)
            self._server = None

    def forget(self) -> None:
        """In a child: what there is belongs to the parent."""
        early, self._early = self._early, None
        if early is not None:
            early.forget()
        server, self._server = self._server, None
        if server is not None:
            server.forget()


@final
class _Early:
    """A fresh interpreter that was started before it was known what it is to run."""

    def __init__(self, session: pytest.Session, signals: Signals) -> None:
        self._environment = dict(os.environ)
        self._overture = _overture()
        try:
            self._charges, theirs = _socketpair()
            try:
                with theirs, _file(_letter(session)) as letter:
                    keep = [letter.fileno(), theirs.fileno(), *self._overture.fds().values()]
                    command = _command("spawned", "main_early", os.getpid(), keep)
                    #: None when it is a guard's.
                    self._child: Process | None = spawn_child(command, keep, mask=signals.mask)
            except BaseException:
                self._charges.close()
                raise
        except BaseException:
            self._overture.close()
            raise

    def take(self, guard: Guard, charge: Charge, errors: Callable[[], str]) -> bool:
        """Have it be a child with this charge; False where it is one or has ended, and another one has to be started.

        Raises:
            LaunchError: it has not begun.
        """
        child = self._child
        if child is None:
            return False
        try:
            with _packed(charge, self._environment) as fds:

                def give(wiring: Wiring) -> None:
                    _send(self._charges, [*astuple(wiring), *fds])
                    self._child = None

                guard.take_over(child, give)
        except (OSError, LaunchError):
            self.end()
            return False
        try:
            _await_begin(guard, errors, self._overture, "a fresh interpreter")
        finally:
            self.end()
        return True

    def end(self) -> None:
        """It is not needed any more. May be called again."""
        with Signals():
            child, self._child = self._child, None
            if child is not None:
                bury(child)
        self._charges.close()
        self._overture.close()

    def forget(self) -> None:
        """In a child: it is the parent's."""
        self._charges.close()
        self._overture.close()
        if self._child is not None:
            os.close(self._child.pidfd)


@final
class _Server:
    """The parent's part in the life of a fork server."""

    def __init__(self, session: pytest.Session) -> None:
        self._environment = dict(os.environ)
        self.overture = _overture()
        self._errors: list[str] = []
        #: Why it has not begun; another one would not, either.
        self._failure: LaunchError | None = None
        #: Whether it has ended since, or does not answer: another one may.
        self.is_lost = False
        self._guard = Guard(Limits(), self._take, lambda _: None)
        try:
            self._requests, theirs = _socketpair()
        except BaseException:
            self.overture.close()
            raise
        try:
            with theirs:
                wanted = [item for item in session.items if is_guarded(item)]
                wanted = [item for item in wanted if settings_of(item).start == "forkserver"]
                letter = _letter(session)._replace(paths=paths_of(session.config, dict(enumerate(wanted))))
                keep = [theirs.fileno(), *self.overture.fds().values()]
                _spawn(self._guard, "server", (letter,), keep, keep)
                _await_begin(self._guard, lambda: "\n".join(self._errors), self.overture, "the fork server")
        except LaunchError as error:
            self._failure = error
        except BaseException:
            self.end(hurry=True)
            raise

    def _take(self, message: Message) -> None:
        if isinstance(message, Broken):
            self._errors.append(message.text)

    def fork(self, guard: Guard, charge: Charge) -> None:
        """Have it fork a child.

        Raises:
            LaunchError: it could not, now or when it was to begin.
        """
        if self._failure is not None:
            raise self._failure
        self.overture.forget()
        try:
            with _packed(charge, self._environment) as fds:
                guard.adopt(lambda wiring: self._ask([*astuple(wiring), *fds]))
        except LaunchError as error:
            if self.is_lost and self._guard.has_ended():
                remains = self._guard.give((), Limits(timeout=_FORK_BOUND))
                if remains is not None:
                    raise _failure(remains, "\n".join(self._errors), self.overture, str(error)) from None
            raise

    def _ask(self, fds: list[int]) -> int:
        # Until it has answered: whatever it says later is the answer to nobody's question.
        self.is_lost = True
        try:
            _send(self._requests, fds)
            answered = select.poll()
            answered.register(self._requests, select.POLLIN)
            told = self._requests.recv(4) if answered.poll(_FORK_BOUND * 1000) else b""
        except OSError as error:
            msg = f"the fork server does not answer: {error}"
            raise LaunchError(msg) from error
        if len(told) != 4:  # noqa: PLR2004 - the bytes of a number.
            msg = "the fork server does not answer"
            raise LaunchError(msg)
        self.is_lost = False
        pid = int.from_bytes(told, "little")
        if not pid:
            msg = "the fork server cannot fork"
            raise LaunchError(msg)
        return pid

    def end(self, *, hurry: bool) -> None:
        """Have it end what conftest files have begun for the session."""
        self._requests.close()
        try:
            if not (hurry or self._guard.is_buried):
                self._guard.end(Limits(timeout=_FORK_BOUND))
        finally:
            self._guard.end_now()
            self.overture.close()

    def forget(self) -> None:
        """In a child: it is the parent's."""
        self._requests.close()
        self._guard.forget()
        self.overture.close()


@contextmanager
def _descriptors() -> Generator[None]:
    """Around what needs some: none to be had is a child that cannot be had."""
    try:
        yield
    except OSError as error:
        msg = f"no descriptor for a child: {error}"
        raise LaunchError(msg) from error


def _overture() -> Overture:
    with _descriptors():
        return Overture()


def _socketpair() -> tuple[socket.socket, socket.socket]:
    """This process' end, and a child's."""
    import socket  # Here, for few sessions need it.

    with _descriptors():
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                return ours, socket.socket(fileno=high(theirs.fileno()))
        except BaseException:
            ours.close()
            raise


def _send(through: socket.socket, fds: Sequence[int]) -> None:
    import socket  # As above.

    socket.send_fds(through, [b"."], [*fds])


@contextmanager
def _packed(charge: Charge, began_with: Mapping[str, str]) -> Generator[list[int]]:
    """A charge as it goes through a socket, to who has this environment: the file that it is in, and those that it names."""
    now = dict(os.environ)
    changed = {name: now.get(name) for name in {**began_with, **now} if began_with.get(name) != now.get(name)}
    numbers = {name: number for number, name in enumerate(charge.fds)}
    with _file(charge._replace(environment=changed, fds=numbers)) as file:
        yield [file.fileno(), *charge.fds.values()]


class _HangError(LaunchError):
    """A start that has taken all of its bound."""

    has_not_collected = False


def _await_begin(
    guard: Guard, errors: Callable[[], str], overture: Overture, what: str, *, has_not_collected: bool = False
) -> None:
    remains = guard.give((), Limits(timeout=_BOUND, grace=guard.limits.grace))
    if remains is None:
        return
    failure = _failure(remains, errors(), overture, f"{what} did not begin")
    if isinstance(remains.ending, Overdue):
        hang = _HangError(str(failure))
        hang.has_not_collected = has_not_collected
        raise hang
    raise failure


def _failure(remains: Remains, broken: str, overture: Overture, what: str) -> LaunchError:
    """Why a child never began: what it raised or died of, where, and what it wrote."""
    match remains.ending:
        case _ if broken:
            cause = broken.strip().splitlines()[-1]
        case Signaled(signal=number):
            cause = describe_signal(number)
        case Exited(code=code):
            cause = f"exit code {code}"
        case Overdue(timeout=timeout):
            cause = f"not within {timeout:g} s"
        case ending:
            cause = str(ending)
    if cause == broken.strip():
        return LaunchError(f"{what}: {cause}")  # It has said why, and what it wrote before is of no use.
    stacks = faultdump.render(remains.stacks, faultdump.is_plumbing) if remains.stacks else remains.dump
    parts = (_TRACED.sub(_without_plumbing, broken), stacks, overture.read())
    told = ["\n".join(part.splitlines()[-_TOLD_LINES:]) for part in parts if part.strip()]
    return LaunchError("\n".join([f"{what}: {cause}", *told]))


#: A frame of a traceback, and the lines that show it.
_TRACED = re.compile(r'^  File "(?P<file>[^"]+)", line (?P<line>\d+), in .*\n(?:    .*\n)*', re.MULTILINE)


def _without_plumbing(frame: re.Match[str]) -> str:
    is_ours = faultdump.is_plumbing(Frame(function="", file=frame["file"], line=int(frame["line"])))
    return "" if is_ours else frame[0]


def _spawn(guard: Guard, module: str, messages: Sequence[Message], keep: Sequence[int], numbers: Sequence[int]) -> None:
    """Start an interpreter that runs a module of ours, which is given the messages and these numbers."""
    with _file(*messages) as file:
        letter_fd = file.fileno()
        guard.spawn(
            lambda wiring: _command(module, "main", os.getpid(), (letter_fd, *numbers, *astuple(wiring))),
            [letter_fd, *keep],
        )


def _file(*messages: Message) -> FileIO:
    with _descriptors():
        file = high_memory_file("letter")
    write(file.fileno(), *messages)
    return file


def _command(module: str, function: str, parent: int, numbers: Sequence[int]) -> list[str]:
    if not sys.executable:
        msg = "cannot start an interpreter: sys.executable is empty"
        raise LaunchError(msg)
    # As multiprocessing does: -W, -X, -O and whatever else this interpreter was started with.
    flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    path = [one for one in sys.path if isinstance(one, str)]
    told = ", ".join(map(str, (parent, *numbers)))
    code = _PROGRAM.format(path=path, module=module, function=function, numbers=told)
    return [sys.executable, *flags, "-c", code]


def current_directory() -> str:
    """Where a child is to be.

    Raises:
        LaunchError: that is no more.
    """
    try:
        return str(Path.cwd())
    except OSError as error:  # Somebody has removed it.
        msg = f"cannot start a child: no current directory: {error}"
        raise LaunchError(msg) from error


def _letter(session: pytest.Session) -> Letter:
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
        options=_plain_ones(vars(config.option)),
        worker=None if worker is None else _plain_ones(worker),
        base_temp=None if base_temp is None else str(base_temp),
        coverage=config.stash[session_key].lines.described(),
        paths=(),
    )


def paths_of(config: Any, items: Mapping[int, pytest.Item]) -> tuple[str, ...]:
    """What is to be collected: the files of these items, or just the one item."""
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
