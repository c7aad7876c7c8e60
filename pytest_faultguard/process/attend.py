"""A child under somebody else's command, a debugger's for example: it has the terminal, and as much time as it wants.

So nothing of :mod:`supervise` fits: no deadline, no group of its own (the terminal belongs to pytest's), and no end where
it crashes, which is when a debugger begins.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterable
from collections.abc import Mapping
from contextlib import contextmanager

from pytest_faultguard.process.launch import spawn_attended
from pytest_faultguard.process.launch import wait_for
from pytest_faultguard.process.signals import Sweep

#: The terminal sends these to everybody whom it belongs to; they are meant for the command.
_OF_THE_TERMINAL = tuple(getattr(signal, name) for name in ("SIGINT", "SIGQUIT") if hasattr(signal, name))


def attend(command: list[str], keep: Iterable[int], readers: Mapping[int, Callable[[], bool]]) -> int:
    """Run a command to its end, and return its wait status; it inherits the descriptors ``keep`` under their numbers.

    Each reader is called when there is something behind its descriptor, and returns whether there may be more.

    Raises:
        LaunchError: it could not be started.
    """
    with _signals_are_the_commands():
        child = spawn_attended(command, keep)
        has_ended = False

        def kill() -> None:
            if not has_ended:
                os.kill(child.pid, signal.SIGKILL)

        sweep = Sweep(kill)
        try:
            sweep.begin()
            waiting = select.poll()
            for fd in (child.pidfd, *readers):
                waiting.register(fd, select.POLLIN)
            while not has_ended:
                for fd, _ in waiting.poll():
                    if fd == child.pidfd:
                        has_ended = True
                    elif not readers[fd]():
                        waiting.unregister(fd)
            for read in readers.values():
                read()
        finally:
            sweep.end()
            # Something was raised here: it is not left to itself.
            kill()
            os.close(child.pidfd)
            status = wait_for(child.pid) or 0
    return status


@contextmanager
def _signals_are_the_commands() -> Generator[None]:
    """Not outside the main thread, where Python cannot install handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A function, and not SIG_IGN, which the command would inherit.
    former = {number: signal.signal(number, lambda *_: None) for number in _OF_THE_TERMINAL}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
