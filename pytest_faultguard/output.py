"""What a child writes and what would die with it: captured output and log records, kept where both sides can reach them.

Uses two of pytest's plugins by their registered names, ``capturemanager`` and ``logging-plugin``: what a dead child had
written lies in the one's files, and the other knows how a log record looks.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any
from typing import final

import pytest


@final
class Output:
    """What a child writes and what would die with it: files without a name that both sides can reach.

    Under ``--capture=fd`` pytest's own files serve, for the child inherits them. With ``sys`` and ``no`` the text is in
    the child's memory or on the terminal: there the child tees it. Log records are in its memory always.
    """

    def __init__(self, item: pytest.Item) -> None:
        self._item = item
        manager = item.config.pluginmanager
        self._capture = manager.getplugin("capturemanager")
        self._logging = manager.getplugin("logging-plugin")
        self._by_fd = self._capture is not None and item.config.getoption("capture") == "fd"
        names = [] if self._by_fd else ["stdout", "stderr"]
        names += [] if self._logging is None else ["log"]
        self._files = {name: os.memfd_create(f"faultguard-{name}", os.MFD_CLOEXEC) for name in names}

    def close(self) -> None:
        """Let the files go."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    def read(self) -> dict[str, str]:
        """The output of the phase that did not end; empty texts are left out. Empties pytest's files."""
        texts = {}
        if self._by_fd:
            texts["stdout"], texts["stderr"] = self._capture.read_global_capture()
        for name, fd in self._files.items():
            texts[name] = os.pread(fd, os.fstat(fd).st_size, 0).decode("utf-8", "replace")
        return {name: text for name in ("log", "stdout", "stderr") if (text := texts.get(name, ""))}

    def gaps(self) -> tuple[str, ...]:
        """Output that nobody but the child had."""
        names = {"capsys", "capfd", "capsysbinary", "capfdbinary"} & set(getattr(self._item, "fixturenames", ()))
        return tuple(f"output: what {name} had captured died with the child" for name in sorted(names))

    # The child's side.

    def arm(self) -> None:
        """In the child: begin to tee and to stream."""
        if not self._by_fd and self._capture is not None:
            self._capture.resume_global_capture()
            for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
                if stream is not None:
                    _tee(stream, self._files[name])
            self._capture.suspend_global_capture()
        if self._logging is not None:
            handler = _LogStream(self._files["log"])
            handler.setFormatter(self._logging.formatter)
            if self._logging.log_level is not None:
                handler.setLevel(self._logging.log_level)
            logging.getLogger().addHandler(handler)

    def forget(self) -> None:
        """In the child: a phase has ended, and its report has its output."""
        for fd in self._files.values():
            try:
                os.ftruncate(fd, 0)
            except OSError:
                pass  # Closed by the test: its report has what there was.


def _tee(stream: Any, fd: int) -> None:
    write = stream.write

    def teed(text: str) -> int:
        written: int = write(text)
        _append(fd, text)
        return written

    stream.write = teed


def _append(fd: int, text: str) -> None:
    try:
        os.pwrite(fd, text.encode("utf-8", "backslashreplace"), os.fstat(fd).st_size)
    except (OSError, AttributeError):
        pass  # The test closed the descriptor, or writes what is no text: the stream itself tells it so.


class _LogStream(logging.Handler):
    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _append(self._fd, f"{self.format(record)}\n")
        except Exception:  # noqa: BLE001, S110 - pytest's own handler reports a record that cannot be formatted.
            pass
