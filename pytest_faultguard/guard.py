"""The composition: a guard starts a child, watches it to its ending and gathers the evidence."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from typing import TYPE_CHECKING
from typing import final

from pytest_faultguard.crash import Ending
from pytest_faultguard.crash import Exited
from pytest_faultguard.crash import Lost
from pytest_faultguard.crash import Seconds
from pytest_faultguard.crash import Signaled
from pytest_faultguard.crash import ThreadStack
from pytest_faultguard.descriptors import moved_up
from pytest_faultguard.evidence import faultdump
from pytest_faultguard.evidence.journal import DEFAULT_LIMIT_BYTES
from pytest_faultguard.outcome import LaunchError
from pytest_faultguard.process import child as child_side
from pytest_faultguard.process.attend import attend
from pytest_faultguard.process.channel import ChannelError
from pytest_faultguard.process.channel import Finished
from pytest_faultguard.process.channel import Leave
from pytest_faultguard.process.channel import Message
from pytest_faultguard.process.channel import Order
from pytest_faultguard.process.channel import Receiver
from pytest_faultguard.process.channel import Sender
from pytest_faultguard.process.launch import Child
from pytest_faultguard.process.launch import adopt_child
from pytest_faultguard.process.launch import fork_child
from pytest_faultguard.process.launch import spawn_child
from pytest_faultguard.process.meter import Usage
from pytest_faultguard.process.relay import Relay
from pytest_faultguard.process.signals import Signals
from pytest_faultguard.process.supervise import GONE_BOUND
from pytest_faultguard.process.supervise import Snapshot
from pytest_faultguard.process.supervise import Watch
from pytest_faultguard.process.supervise import Watched
from pytest_faultguard.process.supervise import hold
from pytest_faultguard.process.supervise import read_pipe

if TYPE_CHECKING:
    from typing_extensions import Self

#: Between SIGTERM and SIGKILL.
DEFAULT_GRACE: Seconds = 1.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a child may take."""

    #: Until the guard stops it; None for no limit.
    timeout: Seconds | None = None
    #: Whether the timeout counts only from :meth:`Guard.start_clock` to :meth:`Guard.stop_clock`.
    clock_waits: bool = False
    grace: Seconds = DEFAULT_GRACE
    #: Between two periodic stacks of a slow child; None for none.
    dump_every: Seconds | None = None
    #: Live data in the journal.
    data_bytes: int = DEFAULT_LIMIT_BYTES
    #: Private memory of the child (RLIMIT_DATA), what it inherits included; None for no limit. Applied by the target.
    memory: int | None = None
    #: Processor time of all threads of the child; None for no limit.
    cpu: Seconds | None = None


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
    #: What RLIMIT_DATA counts, when the crash began; None where it could not be had.
    data_bytes: int | None
    #: Of the child's whole life; None where it could not be had.
    usage: Usage | None


@final
@dataclass(slots=True)
class Guard:
    """Runs targets in children, one at a time."""

    limits: Limits
    #: Gets each message as it arrives.
    on_message: Callable[[Message], None]
    #: Gets the stacks that a running child wrote: periodic ones, and those of pytest's ``faulthandler_timeout``.
    on_snapshot: Callable[[Snapshot], None]
    #: Where the child's descriptor 2 is not captured.
    relay: Relay | None = None
    #: How long a child may take that has finished, until it is gone.
    exit_bound: Seconds = GONE_BOUND
    _watch: Watch | None = field(default=None, init=False)
    #: What a child that lives on is connected by.
    _pipes: _Pipes | None = field(default=None, init=False)
    _orders: Sender | None = field(default=None, init=False)

    def run(
        self, target: Callable[[child_side.Line], object], meanwhile: Callable[[], object] = lambda: None
    ) -> Remains:
        """Fork a child that runs ``target``, do something while it begins, and watch it to its ending.

        Whatever ``on_message`` raises ends the child and is raised again. A signal that pytest got meanwhile is raised
        again after the child is buried: as KeyboardInterrupt, for example.

        Raises:
            LaunchError: the child could not be started.
        """
        # On the way in the signals come first, and on the way out last: in between none can interrupt.
        with Signals() as signals, _Pipes() as pipes:
            watch = self._fork(target, pipes, signals)
            try:
                meanwhile()
                watched = watch.run(signals)
            finally:
                self._watch = None
                watch.end_now()
        assert watched is not None
        return _remains(watched)

    def attend(
        self, command: Callable[[child_side.Wiring], list[str]], keep: Iterable[int], orders: Iterable[Order]
    ) -> Remains:
        """Run a command that has the terminal and all the time it wants; the child below it carries out these orders.

        Raises:
            LaunchError: it could not be started.
        """
        with ExitStack() as stack:
            with Signals():
                pipes = stack.enter_context(_Pipes(for_orders=True))
            wiring = child_side.Wiring(*pipes.theirs)
            receiver, sender = Receiver(pipes.ours[0]), Sender(pipes.ours[4])
            for order in orders:
                sender.send(order)
            seen, dump = list[Message](), bytearray()

            def read_channel() -> bool:
                for message in receiver.receive():
                    seen.append(message)
                    self.on_message(message)
                return not receiver.closed

            def read_dump() -> bool:
                data = read_pipe(pipes.ours[1])
                dump.extend(data or b"")
                return data != b""

            keep = [*dataclasses.astuple(wiring), *keep]
            readers = {pipes.ours[0]: read_channel, pipes.ours[1]: read_dump}
            for fd in pipes.ours[2:4]:  # Stacks and bell: nobody waits for them.
                readers[fd] = functools.partial(_skip, fd)
            status = attend(command(wiring), keep, readers)
        text = dump.decode("ascii", "backslashreplace")
        has_finished = any(isinstance(message, Finished) for message in seen)
        return Remains(
            ending=_attended_ending(status, faultdump.parse(text).signal, has_finished=has_finished),
            finished=has_finished,
            ended_at=time.monotonic(),
            dump=text,
            stacks=faultdump.parse(text).stacks,
            leaked=(),
            gaps=(),
            data_bytes=None,
            usage=None,
        )

    # A child that lives on.

    def start(self, target: Callable[[child_side.Line], object]) -> None:
        """Fork a child that runs ``target``, which is to carry out orders until it is told to leave.

        Raises:
            LaunchError: the child could not be started.
        """
        self._start(lambda pipes, signals: self._fork(target, pipes, signals))

    def spawn(self, command: Callable[[child_side.Wiring], list[str]], keep: Iterable[int]) -> None:
        """Start a program as a child, which is to carry out orders as one of :meth:`start` does.

        It inherits its wiring and ``keep`` under their numbers; in it, :func:`process.child.run_spawned` takes over.

        Raises:
            LaunchError: the child could not be started.
        """

        def launch(wiring: child_side.Wiring, signals: Signals) -> Child:
            inherited = [*dataclasses.astuple(wiring), *keep]
            return spawn_child(command(wiring), inherited, mask=signals.mask)

        self._start(lambda pipes, signals: self._watch_over(launch, pipes, signals))

    def take_over(self, child: Child, give: Callable[[child_side.Wiring], object]) -> None:
        """As :meth:`spawn`, with a child that has been started already: ``give`` has it get its wiring.

        Raises:
            LaunchError, OSError: the child could not be had; it is as it was.
        """

        def launch(wiring: child_side.Wiring, _: Signals) -> Child:
            give(wiring)
            return replace(child, started_at=time.monotonic())

        self._start(lambda pipes, signals: self._watch_over(launch, pipes, signals))

    def adopt(self, request: Callable[[child_side.Wiring], int]) -> None:
        """As :meth:`spawn`, with a child that another process of ours forks: ``request`` asks for it, and returns its number.

        In it, :func:`process.child.run_adopted` takes over.

        Raises:
            LaunchError: the child could not be had.
        """
        self._start(
            lambda pipes, signals: self._watch_over(
                lambda wiring, _: adopt_child(lambda: request(wiring)), pipes, signals
            )
        )

    def _start(self, bear: Callable[[_Pipes, Signals], object]) -> None:
        with Signals() as signals:
            pipes = _Pipes(for_orders=True).__enter__()
            try:
                bear(pipes, signals)
            except BaseException:
                pipes.__exit__()
                raise
            self._pipes, self._orders = pipes, Sender(pipes.ours[4])

    def has_ended(self) -> bool:
        """Whether the child has crashed or left while it waited for an order."""
        return self._watch is None or self._watch.has_ended()

    def give(self, orders: Sequence[Order], limits: Limits, *, begun_at: Seconds | None = None) -> Remains | None:
        """Have the child carry out the first of these orders; None where it has done so, else it has ended.

        The others are what it may go on with then, at once. ``begun_at`` is when it began with one that was given so, and
        that is the one to be waited for: then all of these come behind it. Without any it does what it was born for.

        Raises as :meth:`run`.
        """
        return self._order(orders, limits, has_begun=begun_at is not None or not orders, begun_at=begun_at)

    def end(self, limits: Limits, *, interrupted: bool = False) -> Remains:
        """Have the child leave; ``interrupted`` where it does something of which nobody wants to hear any more.

        Raises as :meth:`run`.
        """
        remains = self._order((Leave(),), limits, interrupted=interrupted)
        assert remains is not None
        return remains

    def _order(
        self,
        given: Iterable[Order],
        limits: Limits,
        *,
        has_begun: bool = False,
        begun_at: Seconds | None = None,
        interrupted: bool = False,
    ) -> Remains | None:
        watch, pipes, orders = self._watch, self._pipes, self._orders
        assert watch is not None
        assert pipes is not None
        assert orders is not None
        self.limits = limits
        with Signals() as signals:
            try:
                watch.begin(has_begun=has_begun, begun_at=begun_at)
                self._start_clocks(watch)
                try:
                    for order in given:
                        orders.send(order)
                    if interrupted:
                        watch.interrupt()
                except (BrokenPipeError, ChannelError):
                    # It has ended, as its pidfd will tell; or somebody has closed a descriptor of ours, or of its own.
                    watch.expect_end()
                    # Python ignores it, but not where somebody has put the default back.
                    signal.sigtimedwait({signal.SIGPIPE}, 0)
                watched = watch.run(signals)
            finally:
                # Else it lives on, whatever was raised. In here, no signal comes in between.
                if watch.is_buried:
                    self._watch = self._pipes = None
                    pipes.__exit__()
        return None if watched is None else _remains(watched)

    def end_now(self) -> None:
        """End the child with its group, whatever it does, and bury it."""
        with Signals():
            watch, pipes = self._watch, self._pipes
            self._watch = self._pipes = None
            try:
                if watch is not None:
                    watch.end_now()
            finally:
                if pipes is not None:
                    pipes.__exit__()

    def forget(self) -> None:
        """In another child: this one is the parent's."""
        if self._pipes is not None:
            self._pipes.__exit__()
        if self._watch is not None:
            self._watch.forget()
        self._watch = self._pipes = None

    def _fork(self, target: Callable[[child_side.Line], object], pipes: _Pipes, signals: Signals) -> Watch:
        def launch(wiring: child_side.Wiring, signals: Signals) -> Child:
            line = child_side.line_of(wiring)

            def main() -> None:
                pipes.close_ours()
                child_side.run(target, wiring, line)

            return fork_child(main, restore=signals.restore)

        return self._watch_over(launch, pipes, signals)

    def _watch_over(
        self, launch: Callable[[child_side.Wiring, Signals], Child], pipes: _Pipes, signals: Signals
    ) -> Watch:
        wiring = child_side.Wiring(*pipes.theirs)
        if self.limits.memory:
            hold(wiring.dump_fd)
        child = launch(wiring, signals)
        pipes.close_theirs()
        self._watch = watch = Watch(
            child,
            receiver=Receiver(pipes.ours[0]),
            fds=pipes.ours[:4],
            on_message=self.on_message,
            on_snapshot=self.on_snapshot,
            relay=self.relay,
            exit_bound=self.exit_bound,
        )
        self._start_clocks(watch)
        return watch

    def _start_clocks(self, watch: Watch) -> None:
        limits = self.limits
        timeout = None if limits.clock_waits else limits.timeout
        watch.limit(timeout=timeout, grace=limits.grace, dump_every=limits.dump_every, cpu=limits.cpu)

    def start_clock(self, since: Seconds) -> None:
        """From a message on: the timeout counts, from that instant of the monotonic clock."""
        if self._watch is not None:
            self._watch.set_timeout(self.limits.timeout, max(since, self._watch.begun_at))

    def stop_clock(self) -> None:
        """From a message on: there is no timeout."""
        if self._watch is not None:
            self._watch.set_timeout(None, 0.0)

    def bound(self, timeout: Seconds, since: Seconds) -> None:
        """From a message on: another timeout as well, which counts from that instant of the monotonic clock."""
        if self._watch is not None:
            self._watch.bound(timeout, max(since, self._watch.begun_at))

    def ask_status(self, answer: Callable[[Seconds, str], None]) -> bool:
        """From a signal handler: have ``answer`` called with the child's age and stacks; False where no child lives."""
        watch = self._watch
        return watch is not None and watch.ask_status(lambda text: answer(watch.elapsed, text))

    @property
    def is_buried(self) -> bool:
        """Whether nothing is left of the child."""
        return self._watch is None

    def kill(self) -> None:
        """End the child's group while nobody waits for it; :meth:`has_ended` tells then."""
        if self._watch is not None:
            self._watch.kill()


@final
class _Pipes:
    """What connects a child with its guard: pipes for messages, for the dump, for stacks, for a bell, and maybe for orders."""

    def __init__(self, *, for_orders: bool = False) -> None:
        #: The guard's ends, and the child's.
        self.ours: list[int] = []
        self.theirs: list[int] = []
        self._for_orders = for_orders

    def __enter__(self) -> Self:
        low: list[int] = []
        try:
            for _ in range(4):
                reading, writing = os.pipe2(os.O_CLOEXEC)
                self.ours.append(reading)
                self.theirs.append(writing)
                os.set_blocking(reading, False)
            if self._for_orders:
                reading, writing = os.pipe2(os.O_CLOEXEC)
                self.ours.append(writing)
                self.theirs.append(reading)
                os.set_blocking(reading, False)
            # Here, and not in the child: whatever a child does first costs twice.
            low, self.theirs = self.theirs, []
            while low:
                self.theirs.append(moved_up(low.pop(0)))
        except BaseException as error:
            self.theirs += low
            self.__exit__()
            if isinstance(error, OSError):
                msg = f"no descriptor for a child: {error}"
                raise LaunchError(msg) from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close_ours()
        self.close_theirs()

    def close_ours(self) -> None:
        """In the child: these ends are the guard's."""
        while self.ours:
            os.close(self.ours.pop())

    def close_theirs(self) -> None:
        """In the guard: these ends are the child's."""
        while self.theirs:
            os.close(self.theirs.pop())


def _skip(fd: int) -> bool:
    return read_pipe(fd) != b""


def _attended_ending(status: int, dumped: int | None, *, has_finished: bool) -> Ending | None:
    if dumped is not None:
        return Signaled(signal=dumped)
    if has_finished:
        return None  # How the command ends that has attended it is its own matter.
    if os.WIFSIGNALED(status):
        return Signaled(signal=os.WTERMSIG(status), core_dumped=os.WCOREDUMP(status))
    code = os.WEXITSTATUS(status)
    return Exited(code=code) if code else Lost(reason="the command under which it ran ended before it")


def _remains(watched: Watched) -> Remains:
    text = watched.dump or watched.stacks
    return Remains(
        ending=watched.ending,
        finished=watched.finished,
        ended_at=watched.ended_at,
        dump=text,
        stacks=faultdump.parse(text).stacks if text else (),
        leaked=watched.leaked,
        gaps=watched.gaps,
        data_bytes=watched.data_bytes,
        usage=watched.usage,
    )
