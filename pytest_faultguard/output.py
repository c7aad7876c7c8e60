"""What a child writes and what would die with it: captured output and log records, kept where both sides can reach them.

Uses two of pytest's plugins by their registered names, ``capturemanager`` and ``logging-plugin``: what a dead child had
written lies in the one's files, and the other knows how a log record looks.
"""

from __future__ import annotations

import logging
import os
import select
import sys
from collections.abc import Generator
from collections.abc import Mapping
from contextlib import contextmanager
from io import FileIO
from typing import Any
from typing import final

import pytest

from pytest_faultguard.descriptors import high_memory_file
from pytest_faultguard.descriptors import high_pipe
from pytest_faultguard.descriptors import identity
from pytest_faultguard.descriptors import moved_up
from pytest_faultguard.process.channel import Message
from pytest_faultguard.process.channel import Sender
from pytest_faultguard.process.child import flush_streams
from pytest_faultguard.process.relay import Relay


def flush_all(config: pytest.Config) -> None:
    """Before a fork: what is still in a buffer would be written twice."""
    if config.pluginmanager.hasplugin("terminalreporter"):  # Not with -p no:terminal.
        config.get_terminal_writer().flush()
    flush_streams()


def leave_debug_file(config: pytest.Config) -> None:
    """In a child: the file of ``--debug`` is the parent's, with all that waits in its buffer at a fork."""
    config.trace.root.setwriter(None)


@contextmanager
def stdin_given_back(config: pytest.Config) -> Generator[None]:
    """While pytest captures nothing, have descriptor 0 be the terminal's again: it keeps that one all the time."""
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is None:
        yield
        return
    capture.suspend_global_capture(in_=True)
    try:
        yield
    finally:
        capture.resume_global_capture()
        capture.suspend_global_capture()


@final
class Output:
    """What a child writes and what would die with it: files without a name that both sides can reach.

    Under ``--capture=fd`` pytest's own files serve, for the child inherits them; one that outlives a test has files of
    its own in their place, because what is inherited shares its offset with the parent. With ``sys`` and ``no`` the text
    is in the child's memory or on the terminal: there the child tees it, and a relay keeps what native code writes. Log
    records are in its memory always.
    """

    def __init__(
        self,
        config: pytest.Config,
        *,
        lives_on: bool = False,
        is_heard: bool = True,
        fds: Mapping[str, int] | None = None,
    ) -> None:
        """Make the files; or in a child that was not forked take over those that are behind ``fds``."""
        self._config = config
        self._is_heard = is_heard
        manager = config.pluginmanager
        self._capture = manager.getplugin("capturemanager")
        self._logging = manager.getplugin("logging-plugin")
        self._by_fd = self._capture is not None and config.getoption("capture") == "fd"
        self._shares_files = self._by_fd and not lives_on
        #: In the child: whether pytest's files hold what a report has as well.
        self._kept = False
        #: None where descriptor 2 is captured, and where pytest was started without one: it may be any file now.
        self.relay: Relay | None = None
        self.turns = Turns()
        self._files: dict[str, _File] = {}
        try:
            if fds is None:
                self._make()
            else:
                self._take_over(fds)
        except BaseException:
            self.close()
            raise
        if self._logging is not None:
            # One for all children, made here: whatever a child does first costs twice.
            if _log_key not in config.stash:
                config.stash[_log_key] = _LogStream(self._logging)
            self._log = config.stash[_log_key]

    def _make(self) -> None:
        if self._is_heard and not self._by_fd and sys.__stderr__ is not None and identity(2) is not None:
            self.relay = Relay()
        if self.relay is not None or (self._is_heard and _is_live(self._config)):
            self.turns.begin()
        names = [] if self._shares_files else ["stdout", "stderr"]
        names += [] if self._logging is None else ["log"]
        for name in names:
            self._files[name] = _File(name)

    def _take_over(self, fds: Mapping[str, int]) -> None:
        if "relay" in fds:
            self.relay = Relay((fds["relay"], fds["relay target"]))
        if "turns" in fds:
            self.turns.take_over(fds["turns"])
        for name in ("stdout", "stderr", "log"):
            if name in fds:
                self._files[name] = _File(name, fds[name])

    def fds(self) -> dict[str, int]:
        """What a child needs that is not forked, by what it is for."""
        fds = {name: file.fd for name, file in self._files.items()}
        if self.relay is not None:
            fds["relay"], fds["relay target"] = self.relay.ends
        if self.turns.are_taken:
            fds["turns"] = self.turns.fd
        return fds

    def close(self) -> None:
        """Let the files go."""
        self.turns.close()
        if self.relay is not None:
            self.relay.close()
        for file in self._files.values():
            file.close()
        self._files.clear()

    def read(self) -> dict[str, str]:
        """The output of the phase that did not end; empty texts are left out. Empties pytest's files."""
        texts = {}
        if self._shares_files:
            texts["stdout"], texts["stderr"] = self._capture.read_global_capture()
        for name, file in self._files.items():
            texts[name] = file.read()
        return {name: text for name in ("log", "stdout", "stderr") if (text := texts.get(name, ""))}

    def pass_on(self, texts: dict[str, str]) -> None:
        """Write what a child that ended well had written after its last report: to where it goes without a guard."""
        if self._config.getoption("capture", "no") in {"no", "tee-sys"}:
            return  # It is there already.
        for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
            if stream is not None and name in texts:
                stream.write(texts[name])

    def native_words(self) -> str:
        """What native code has written in the phase that did not end, past everything that captures."""
        return "" if self.relay is None else self.relay.words()

    def end_phase(self) -> None:
        """A phase has ended well: its words explain no death."""
        if self.relay is not None:
            self.relay.forget()

    # The child's side.

    def arm(self) -> None:
        """In the child: begin to tee and to stream."""
        if not self._is_heard and not self._by_fd:
            null = os.open(os.devnull, os.O_WRONLY)
            for fd in (1, 2):
                os.dup2(null, fd)
            os.close(null)
        if self.relay is not None:
            self.relay.arm()
        if self._by_fd and not self._shares_files:
            self._capture.resume_global_capture()
            for fd, name in ((1, "stdout"), (2, "stderr")):
                _replace(identity(fd), self._files[name].fd)
            self._capture.suspend_global_capture()
        elif not self._by_fd and self._capture is not None:
            self._capture.resume_global_capture()
            for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
                if stream is not None and not getattr(stream, "closed", False):
                    _tee(stream, self._files[name])
            self._capture.suspend_global_capture()
        if self._logging is not None:
            self._log.file = self._files["log"]
            logging.getLogger().addHandler(self._log)

    def keep(self, texts: dict[str, str]) -> None:
        """In the child: put back what pytest has read from its files, until the phase's report has left with it."""
        if not self._by_fd:
            return
        try:
            self._capture.resume_global_capture()
            for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
                stream.write(texts.get(name, ""))
            self._capture.suspend_global_capture()
        except (OSError, ValueError):
            return  # The test closed pytest's files.
        self._kept = True

    def forget(self) -> None:
        """In the child: a phase has ended, and its report has its output."""
        if self._kept:
            self._capture.read_global_capture()
            self._kept = False
        if not self._by_fd or self._shares_files:
            for file in self._files.values():
                file.forget()
        elif "log" in self._files:
            self._files["log"].forget()

    def between_tests(self) -> dict[str, str]:
        """In the child, when a phase begins that follows a last report: what was written since then."""
        files = [self._files[name] for name in ("stdout", "stderr") if name in self._files]
        if not any(file.size() for file in files):
            return {}
        if self._by_fd:
            out, err = self._capture.read_global_capture()
            return {name: text for name, text in (("stdout", out), ("stderr", err)) if text}
        texts = {name: self._files[name].read() for name in ("stdout", "stderr")}
        if self._capture is not None:
            self._capture.read_global_capture()
        self.forget()
        return {name: text for name, text in texts.items() if text}

    def go_on(self) -> None:
        """In the child: the last report has left; a crash at exit has last words, too."""
        if self._capture is not None:
            try:
                self._capture.resume_global_capture()
            except (OSError, ValueError):
                pass  # The test closed pytest's files.


@final
class Overture:
    """What a child that starts clean writes until it has begun: it may be why it never does, and else it is of no interest."""

    def __init__(self, fds: tuple[int, int] | None = None) -> None:
        """Make the files; or in the child take them over."""
        out, err = (None, None) if fds is None else fds
        first = _File("first-stdout", out)
        try:
            self._files = (first, _File("first-stderr", err))
        except BaseException:
            first.close()
            raise
        for file in self._files:
            file.always_append()
        self._former: list[int | None] = []

    def fds(self) -> dict[str, int]:
        """What the child needs, by what it is for."""
        return {"first stdout": self._files[0].fd, "first stderr": self._files[1].fd}

    def close(self) -> None:
        """Let the files go."""
        for file in self._files:
            file.close()

    def read(self) -> str:
        """What was written since :meth:`forget`."""
        return "".join(file.read() for file in self._files)

    def forget(self) -> None:
        """What follows is of another child."""
        for file in self._files:
            file.forget()

    # The child's side.

    @classmethod
    def taken_over(cls, fds: Mapping[str, int]) -> Overture:
        """In the child: what it writes from now on goes there."""
        self = cls((fds["first stdout"], fds["first stderr"]))
        for file in self._files:
            os.set_inheritable(file.fd, False)
        self._former = [moved_up(os.dup(fd)) if identity(fd) is not None else None for fd in (1, 2)]
        for fd, file in zip((1, 2), self._files, strict=True):
            os.dup2(file.fd, fd)
        return self

    def end(self, config: pytest.Config) -> None:
        """From now on it writes where it should; what is captured by now is of no test."""
        flush_streams()
        capture = config.pluginmanager.getplugin("capturemanager")
        if capture is not None and config.getoption("capture") != "no":
            capture.read_global_capture()
        for former, file in zip(self._former, self._files, strict=True):
            if former is not None:
                _replace(identity(file.fd), former)
                os.close(former)


@final
class ScoutOutput:
    """What a scout writes, kept from the terminal: pytest will write it when it collects the same."""

    def __init__(self, config: pytest.Config) -> None:
        self._capture = config.pluginmanager.getplugin("capturemanager")
        self._method = config.getoption("capture", "no")
        self._files: dict[str, _File] = {}
        try:
            for name in ("stdout", "stderr"):
                self._files[name] = file = _File(name)
                file.always_append()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the files go."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def read(self) -> dict[str, str]:
        """What was written since :meth:`forget`; empty texts are left out."""
        return {name: text for name, file in self._files.items() if (text := file.read())}

    # The child's side.

    def arm(self) -> None:
        """In the scout: write into the files, and no more to the terminal."""
        self._take_over()
        if self._capture is None:
            return
        self._capture.resume_global_capture()
        if self._method == "fd":
            self._take_over()
        elif self._method == "sys":
            for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
                _tee(stream, self._files[name])
        self._capture.suspend_global_capture()

    def _take_over(self) -> None:
        files = identity(1), identity(2)
        for fd, name in ((1, "stdout"), (2, "stderr")):
            file = identity(fd)
            # stdin is /dev/null: where this is, too, others may have it open for another purpose.
            if file == files[fd - 1] and file != identity(0):
                _replace(file, self._files[name].fd)
            os.dup2(self._files[name].fd, fd)
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None and hasattr(stream, "reconfigure"):
                stream.reconfigure(write_through=True)

    def forget(self) -> None:
        """In the scout: what follows is of something else."""
        for file in self._files.values():
            file.forget()


@final
class Turns:
    """Keeps the order on a terminal to which a child writes as well, because its output is not captured.

    After each report it is pytest's turn: what pytest writes comes before what the test writes next, and what a relay has
    got by then belongs to the phase that has ended.
    """

    def __init__(self) -> None:
        self._held: tuple[FileIO, ...] = ()
        self._fds: tuple[int, ...] = ()
        self._identity: object = None

    @property
    def are_taken(self) -> bool:
        """Whether there are turns at all."""
        return bool(self._fds)

    def begin(self) -> None:
        """From now on there are turns."""
        self._held = high_pipe()
        self._fds = tuple(file.fileno() for file in self._held)
        self._identity = identity(self._fds[0])

    @property
    def fd(self) -> int:
        """What the child needs of it."""
        return self._fds[0]

    def take_over(self, fd: int) -> None:
        """In a child that was not forked: there are turns."""
        self._fds = (fd,)
        self._identity = identity(fd)

    def close(self) -> None:
        """Let the pipe go."""
        for file in self._held:
            file.close()

    def give_back(self) -> None:
        """In the parent: the report was logged."""
        if self._fds:
            os.write(self._fds[1], b".")

    # The child's side.

    def hand_over(self, report: Message, sender: Sender) -> None:
        """In the child: send a report, and wait until it is logged."""
        if not self._fds:
            sender.send(report)
            return
        flush_streams()
        sender.ring(report)
        waiting = select.poll()
        waiting.register(self._fds[0], select.POLLIN)
        # A test that closes all descriptors may have opened a file of its own under our number since.
        if identity(self._fds[0]) == self._identity and waiting.poll(_TURN_BOUND * 1000):
            os.read(self._fds[0], 1)


#: A pytest that takes longer over a report writes where it can.
_TURN_BOUND = 5.0


def _is_live(config: pytest.Config) -> bool:
    """Whether what a child writes reaches the terminal at once."""
    if hasattr(config, "workerinput"):
        return False  # The terminal is the controller's.
    if config.getoption("capture", "no") in {"no", "tee-sys"} or config.getoption("setupshow", False):
        return True
    if not config.pluginmanager.hasplugin("logging-plugin"):
        return False
    return config.getoption("log_cli_level", None) is not None or bool(config.getini("log_cli"))


def _replace(file: object, fd: int) -> None:
    """Wherever this process has that file open, have it this one instead."""
    with os.scandir("/proc/self/fd") as entries:
        numbers = [int(entry.name) for entry in entries]
    for number in numbers:
        if file is not None and identity(number) == file:
            os.dup2(fd, number, inheritable=os.get_inheritable(number))


def _tee(stream: Any, file: _File) -> None:
    if str(getattr(stream, "encoding", "")).lower() == "utf-8" and hasattr(stream, "reconfigure"):
        # Below the text layer, which keeps nothing back then: so that bytes are teed as well as text.
        stream.reconfigure(write_through=True)
        stream = stream.buffer
    write = stream.write

    def teed(data: Any) -> int:
        written: int = write(data)
        file.append(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)
        return written

    stream.write = teed


@final
class _File:
    """A file without a name that both sides can reach; not one that a test has opened under its number since."""

    def __init__(self, name: str, fd: int | None = None) -> None:
        """Make one; or in a child that was not forked take over the one that is behind ``fd``, which stays open."""
        if fd is None:
            self._file = high_memory_file(name)
        else:
            self._file = FileIO(fd, "rb+", closefd=False)
        self.fd = self._file.fileno()
        self._identity = identity(self.fd)

    def close(self) -> None:
        self._file.close()

    def always_append(self) -> None:
        """Write at its end only: several descriptors do, and it is emptied between, so nobody's offset counts."""
        import fcntl  # Here, for Windows has none, and imports this module.

        fcntl.fcntl(self.fd, fcntl.F_SETFL, os.O_APPEND)

    def read(self) -> str:
        return os.pread(self.fd, os.fstat(self.fd).st_size, 0).decode("utf-8", "replace")

    def append(self, data: bytes) -> None:
        if identity(self.fd) == self._identity:
            os.pwrite(self.fd, data, os.fstat(self.fd).st_size)

    def size(self) -> int:
        # Asked many times for each test: one look for both questions.
        try:
            status = os.fstat(self.fd)
        except OSError:
            return 0
        return status.st_size if (status.st_dev, status.st_ino) == self._identity else 0

    def forget(self) -> None:
        if self.size():
            os.ftruncate(self.fd, 0)


class _LogStream(logging.Handler):
    def __init__(self, plugin: Any) -> None:
        super().__init__(logging.NOTSET if plugin.log_level is None else plugin.log_level)
        self.setFormatter(plugin.formatter)
        self.file: _File | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.file is not None:
                self.file.append(f"{self.format(record)}\n".encode("utf-8", "backslashreplace"))
        except Exception:  # noqa: BLE001, S110 - pytest's own handler reports a record that cannot be formatted.
            pass


_log_key = pytest.StashKey[_LogStream]()
