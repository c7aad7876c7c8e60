"""The composition: a guard starts a child, watches it to its ending and gathers the evidence."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from dataclasses import field
from typing import final

from pytest_faultguard.crash import Ending
from pytest_faultguard.crash import Seconds
from pytest_faultguard.crash import ThreadStack
from pytest_faultguard.evidence import faultdump
from pytest_faultguard.evidence.journal import DEFAULT_LIMIT_BYTES
from pytest_faultguard.process import child as child_side
from pytest_faultguard.process.channel import Message
from pytest_faultguard.process.channel import Receiver
from pytest_faultguard.process.launch import fork_child
from pytest_faultguard.process.signals import Signals
from pytest_faultguard.process.supervise import Snapshot
from pytest_faultguard.process.supervise import Watch
from pytest_faultguard.process.supervise import Watched

#: Between SIGTERM and SIGKILL.
DEFAULT_GRACE: Seconds = 1.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a child may take."""

    #: Until the guard stops it; None for no limit.
    timeout: Seconds | None = None
    grace: Seconds = DEFAULT_GRACE
    #: Between two periodic stacks of a slow child; None for none.
    dump_every: Seconds | None = None
    #: Live data in the journal.
    data_bytes: int = DEFAULT_LIMIT_BYTES


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """How a child ended and the evidence that the guard itself could gather."""

    ending: Ending | None
    finished: bool
    ended_at: Seconds
    dump: str
    stacks: tuple[ThreadStack, ...]
    leaked: tuple[str, ...]
    gaps: tuple[str, ...]


@final
@dataclass(slots=True)
class Guard:
    """Runs targets in children, one at a time."""

    limits: Limits
    #: Gets each message as it arrives.
    on_message: Callable[[Message], None]
    #: Gets the stacks that a running child wrote: periodic ones, and those of pytest's ``faulthandler_timeout``.
    on_snapshot: Callable[[Snapshot], None]
    _watch: Watch | None = field(default=None, init=False)

    def run(self, target: Callable[[child_side.Line], object]) -> Remains:
        """Fork a child that runs ``target``, and watch it to its ending.

        Whatever ``on_message`` raises ends the child and is raised again. A signal that pytest got meanwhile is raised
        again after the child is buried: as KeyboardInterrupt, for example.

        Raises:
            LaunchError: the child could not be started.
        """
        # On the way out the signals come last: until then none can interrupt.
        with Signals() as signals, ExitStack() as ours:
            with ExitStack() as theirs:
                channel, dump, stacks = (_pipe(ours, theirs) for _ in range(3))
                reading, writing = zip(channel, dump, stacks, strict=True)

                def main() -> None:
                    ours.close()
                    child_side.run(target, child_side.Wiring(*writing))

                child = fork_child(main, restore=signals.restore)
            watch = Watch(
                child,
                receiver=Receiver(channel[0]),
                fds=reading,
                signals=signals,
                on_message=self.on_message,
                on_snapshot=self.on_snapshot,
            )
            limits = self.limits
            watch.limit(timeout=limits.timeout, grace=limits.grace, dump_every=limits.dump_every)
            self._watch = watch
            try:
                watched = watch.run()
            finally:
                self._watch = None
        return _remains(watched)

    def ask_status(self, answer: Callable[[Seconds, str], None]) -> bool:
        """From a signal handler: have ``answer`` called with the child's age and stacks; False where no child lives."""
        watch = self._watch
        if watch is None:
            return False
        watch.ask_status(lambda text: answer(watch.elapsed, text))
        return True


def _pipe(ours: ExitStack, theirs: ExitStack) -> tuple[int, int]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    ours.callback(os.close, reading)
    theirs.callback(os.close, writing)
    os.set_blocking(reading, False)
    return reading, writing


def _remains(watched: Watched) -> Remains:
    text = watched.dump or watched.stacks
    return Remains(
        ending=watched.ending,
        finished=watched.finished,
        ended_at=watched.ended_at,
        dump=text,
        stacks=faultdump.parse(text).stacks,
        leaked=watched.leaked,
        gaps=watched.gaps,
    )
