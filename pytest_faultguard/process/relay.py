"""What a child's native code writes to descriptor 2, where pytest does not capture that descriptor."""

from __future__ import annotations

import os
import select
import sys
from io import FileIO
from typing import Any
from typing import final

from pytest_faultguard.descriptors import high_file
from pytest_faultguard.descriptors import high_pipe
from pytest_faultguard.descriptors import identity

_STDERR = 2
#: What is kept: the words that explain a death are the last ones.
KEPT_BYTES = 1 << 16
_READ_BYTES = 1 << 16
#: More than a pipe holds: what is still in one when its writers are gone.
_DRAIN_BYTES = 1 << 20


@final
class Relay:
    """Passes on what arrives at a child's descriptor 2 to where it goes without a guard, and keeps the end of it.

    What Python writes there goes straight on, so that its order with stdout stays.
    """

    def __init__(self, ends: tuple[int, int] | None = None) -> None:
        """Make one; or in a child that was not forked take over its :attr:`ends`."""
        self._kept = bytearray()
        #: Nothing in such a child.
        self._held: tuple[FileIO, ...] = ()
        if ends is not None:
            self._reading, (self._writing, self._target) = -1, ends
            return
        self._held = high_pipe()
        try:
            self._held = *self._held, high_file(FileIO(os.dup(_STDERR), "wb"))
        except BaseException:
            self.close()
            raise
        self._reading, self._writing, self._target = (file.fileno() for file in self._held)
        os.set_blocking(self._reading, False)

    def close(self) -> None:
        """Let the descriptors go."""
        for file in self._held:
            file.close()

    @property
    def ends(self) -> tuple[int, int]:
        """What a child needs of it: where it writes, and where that goes without a guard."""
        return self._writing, self._target

    @property
    def fd(self) -> int:
        """Becomes readable when there is something to pass on."""
        return self._reading

    def pass_on(self) -> int:
        """Pass on some of what has arrived; how many bytes that was. Never waits for the child."""
        try:
            data = os.read(self._reading, _READ_BYTES)
        except BlockingIOError:
            return 0
        self._kept += data
        del self._kept[:-KEPT_BYTES]
        _write(self._target, data)
        return len(data)

    def drain(self) -> None:
        """Pass on all that has arrived; not for ever, for somebody may still write."""
        passed_on = 0
        while passed_on < _DRAIN_BYTES and (count := self.pass_on()):
            passed_on += count

    def forget(self) -> None:
        """What follows belongs to another phase."""
        self.drain()
        self._kept.clear()

    def words(self) -> str:
        """What has arrived since :meth:`forget`, or the last 64 KiB of it."""
        self.drain()
        return self._kept.decode("utf-8", "replace")

    # The child's side.

    def arm(self) -> None:
        """In the child: put the pipe where native code writes to."""
        os.dup2(self._writing, _STDERR)
        stream: Any = sys.__stderr__
        try:
            if stream.fileno() != _STDERR:
                return
            # Below the text layer, which keeps nothing back then.
            stream.reconfigure(write_through=True)
        except (AttributeError, OSError, ValueError):
            return  # Somebody's own, or closed.
        _redirect(stream.buffer, self._target)


def _redirect(buffer: Any, target: int) -> None:
    write, isatty = buffer.write, buffer.isatty
    files = identity(_STDERR), identity(target)

    def redirected(data: Any) -> int:
        if (identity(_STDERR), identity(target)) != files:
            # The test has put something of its own there, to catch what is written; or it has closed descriptors.
            return int(write(data))
        _write(target, data)
        return len(data)

    buffer.write = redirected
    buffer.isatty = lambda: os.isatty(target) if (identity(_STDERR), identity(target)) == files else isatty()


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                waiting = select.poll()
                waiting.register(fd, select.POLLOUT)
                waiting.poll()
    except OSError:
        pass  # Closed, or nobody reads it any more: as for a process that writes there itself.
