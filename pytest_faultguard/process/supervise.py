"""One wait over a child's pidfd, channel, dump and stacks, with deadlines kept by this process's clock.

No polling and no sleeping: the selector wakes up for what the child writes, for its end, for a signal of ours, and for
the nearest timer. The child's end is told by its pidfd, never by the end of a pipe: a process that the test started may
hold that for ever.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import select
import selectors
import signal
import time
from collections.abc import Callable
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from pytest_faultguard.crash import Ending
from pytest_faultguard.crash import Exited
from pytest_faultguard.crash import Lost
from pytest_faultguard.crash import OutOfMemory
from pytest_faultguard.crash import Overdue
from pytest_faultguard.crash import Overspent
from pytest_faultguard.crash import Seconds
from pytest_faultguard.crash import Signaled
from pytest_faultguard.crash import signal_name
from pytest_faultguard.evidence import faultdump
from pytest_faultguard.process import oom
from pytest_faultguard.process import proc
from pytest_faultguard.process.channel import Begun
from pytest_faultguard.process.channel import Broken
from pytest_faultguard.process.channel import ChannelError
from pytest_faultguard.process.channel import Finished
from pytest_faultguard.process.channel import Idle
from pytest_faultguard.process.channel import Message
from pytest_faultguard.process.channel import Receiver
from pytest_faultguard.process.channel import Stopped
from pytest_faultguard.process.child import CHANNEL_LOST_STATUS
from pytest_faultguard.process.launch import Child
from pytest_faultguard.process.launch import wait_for
from pytest_faultguard.process.meter import Usage
from pytest_faultguard.process.meter import usage_of_reaped
from pytest_faultguard.process.relay import Relay
from pytest_faultguard.process.signals import INTERRUPT
from pytest_faultguard.process.signals import STOP
from pytest_faultguard.process.signals import Signals

#: How long a child may take to begin its stacks: it answers in about a millisecond if it answers at all.
STACKS_BOUND: Seconds = 0.5
#: A dump is complete when the child has written nothing for this long; one of 100 threads takes a third of it.
STACKS_QUIET: Seconds = 0.03
#: After SIGKILL, or after its last message, a process that is not gone in this time is stuck in the kernel.
GONE_BOUND: Seconds = 5.0
#: How long messages may wait that nobody waits for. Here, to be woken took 0.14 ms, and a message costs 0.05 ms.
GATHERING: Seconds = 0.02
_READ_BYTES = 1 << 16
#: How late the end of processor time may be noticed; so often it is looked at when little is left.
_CPU_PAUSE: Seconds = 0.01
#: Between two looks at a dump that is being written.
_DUMP_PAUSE: Seconds = 0.002
#: As much as any user may have; a packet takes a page.
_DUMP_PIPE_BYTES = 1 << 20
_CORES = os.cpu_count() or 1
#: More of a dump than this is not a dump: somebody writes into a descriptor that was ours.
_DUMP_BYTES = 1 << 20


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The stacks of a child that was still running, as faulthandler wrote them."""

    #: Since the child's start.
    after: Seconds
    text: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What the guard saw of one child, from its start to its burial."""

    #: None where the child finished and left as it should.
    ending: Ending | None
    #: Whether it had said that it finished.
    finished: bool
    #: When the crash was noticed, on the monotonic clock.
    ended_at: Seconds
    #: What faulthandler wrote at a crash.
    dump: str
    #: The stacks at the deadline.
    stacks: str
    leaked: tuple[str, ...]
    gaps: tuple[str, ...]
    #: What RLIMIT_DATA counts, when the dump began; None where it could not be had.
    data_bytes: int | None
    #: Of the whole life of the child; None where somebody else has reaped it.
    usage: Usage | None


@functools.cache
def _kills() -> oom.Kills:
    return oom.Kills()


@final
class Watch:
    """Watches one child: :meth:`run` returns when it waits for an order, or is buried."""

    def __init__(
        self,
        child: Child,
        *,
        receiver: Receiver,
        fds: Sequence[int],
        on_message: Callable[[Message], None],
        on_snapshot: Callable[[Snapshot], None],
        relay: Relay | None = None,
        exit_bound: Seconds = GONE_BOUND,
    ) -> None:
        self._child = child
        self._exit_bound = exit_bound
        #: When the child began what it does now; later by the time for which its clocks have stood still.
        self.begun_at = child.started_at
        self._receiver = receiver
        self._channel_fd, self._dump_fd, self._stacks_fd, self._bell_fd = fds
        self._signals: Signals
        self._on_message = on_message
        self._on_snapshot = on_snapshot
        self._relay = relay
        self._timers: dict[Callable[[], None], Seconds] = {}
        self._dump = bytearray()
        self._stacks = bytearray()
        self._askers: list[Callable[[str], None]] = []
        self._hang_stacks = ""
        self._timeout: Seconds | None = None
        self._grace: Seconds = 1.0
        self._dump_every: Seconds = 0.0
        self._cpu: Seconds | None = None
        self._cpu_end: Seconds = 0.0
        self._overdue: Overdue | Overspent | None = None
        self._killed = False
        self._kills_before: bytes | None = None
        self._data_bytes: int | None = None
        self._usage: Usage | None = None
        self._lost = ""
        self._interrupts = 0
        self._interrupt: KeyboardInterrupt | None = None
        self._status_answer: Callable[[str], None] | None = None
        self._finished = False
        self._idle = False
        #: Whether what is said now is of no order that anybody has given.
        self._is_deaf = False
        self._is_running = False
        self._dead = False
        self._buried = False
        self._ended_at: Seconds | None = None
        self._leaked: tuple[str, ...] = ()
        self._gaps: list[str] = []
        # Not a selector of the standard library, which is Python code: right after a fork each page that is touched costs.
        self._poll = select.poll()
        self._readers: dict[int, Callable[[], object]] = {
            child.pidfd: self._on_death,
            self._bell_fd: self._on_bell,
            self._channel_fd: self._read_channel,
            self._dump_fd: self._read_dump,
            self._stacks_fd: self._read_stacks,
        }
        #: Those that are read once more when it has ended: with that, all of them have something to say.
        self._read_at_end = frozenset(fds)
        if relay is not None:
            self._readers[relay.fd] = lambda: self._call(relay.pass_on)
        for fd in self._readers:
            self._poll.register(fd, select.POLLIN)
        self._is_heeding = True
        self._woken_at: Seconds = 0.0

    def limit(
        self, *, timeout: Seconds | None, grace: Seconds, dump_every: Seconds | None, cpu: Seconds | None = None
    ) -> None:
        """Start the clocks; they count from the child's start, or from its next order."""
        self._timeout, self._grace, self._dump_every = timeout, grace, dump_every or 0.0
        # Those of its start may not be those of what it does first.
        self._timers.clear()
        if timeout:
            self._timers[self._on_deadline] = self.begun_at + timeout
        if self._dump_every:
            self._timers[self._on_dump_due] = self.begun_at + self._dump_every
        self._cpu, self._cpu_end = cpu, (cpu or 0.0) + ((proc.cpu_seconds(self._child.pid) or 0.0) if cpu else 0.0)
        if cpu:
            self._timers[self._on_cpu_due] = self.begun_at + cpu / _CORES
        # Understood only where somebody asks.
        kills = _kills().text()
        if self._kills_before is None or not self.has_ended():
            # It may have begun before this order came, and even have been killed.
            self._kills_before = kills

    def set_timeout(self, timeout: Seconds | None, since: Seconds) -> None:
        """Another timeout, which counts from that instant; None for no limit."""
        self._timeout = timeout
        self._timers.pop(self._on_deadline, None)
        if timeout:
            self._timers[self._on_deadline] = since + timeout

    def bound(self, timeout: Seconds, since: Seconds) -> None:
        """A timeout of what begins at that instant, where there is none that passes before."""
        if since + timeout < self._timers.get(self._on_deadline, math.inf):
            self.set_timeout(timeout, since)

    def has_ended(self) -> bool:
        """Whether the child has crashed or left while it waited for an order."""
        return bool({self._child.pidfd, self._dump_fd} & {fd for fd, _ in self._poll.poll(0)})

    def begin(self, *, has_begun: bool, begun_at: Seconds | None = None) -> None:
        """Before an order, or when the child has begun with it: what it left of the last one is not of this one."""
        # It may have been stopped with pytest since it has begun.
        self.begun_at = time.monotonic() if begun_at is None else max(begun_at, self._woken_at)
        self._idle = False
        self._gaps.clear()
        if not has_begun:
            read_pipe(self._stacks_fd)

    def interrupt(self) -> None:
        """Have the child tear down what it has set up, and leave; after a grace it is killed."""
        self._interrupt_child()

    def expect_end(self) -> None:
        """All is said: what follows is the end of the process."""
        self._only(self._on_exit_bound, time.monotonic() + self._exit_bound)

    def end_now(self) -> None:
        """End the child, whatever it does; to be called with all signals blocked, and more than once as well."""
        if not self._buried:
            self._bury()

    def forget(self) -> None:
        """In another child: this one is the parent's."""
        os.close(self._child.pidfd)

    def run(self, signals: Signals) -> Watched | None:
        """Wait until the child waits for an order, and return None, or for its end, and bury it, whatever is raised.

        Lets signals in only while it waits, so nothing that a handler raises can keep a child from its burial. An
        interrupt that came while somebody else's code ran here is raised when the child is buried.
        """
        self._signals = signals
        self._let_gather()
        self._readers[signals.fd] = self._on_signal
        self._poll.register(signals.fd, select.POLLIN)
        stays = False
        try:
            try:
                self._is_running = True
                signals.listen()
                self._wait()
            finally:
                signals.block()
                self._is_running = False
            # Also one that has died since: in the next test, if it went on, or waiting for it.
            stays = self._idle
        finally:
            status = None if stays else self._bury()
        if stays:
            self._rest()
            return None
        self._read_dump()
        self._read_stacks()
        if self._stacks:
            self._on_stacks_quiet()
        if self._interrupt is not None:
            raise self._interrupt
        return Watched(
            ending=self._ending(status),
            finished=self._finished,
            ended_at=time.monotonic() if self._ended_at is None else self._ended_at,
            dump=self._dump.decode("ascii", "backslashreplace"),
            stacks=self._hang_stacks,
            leaked=self._leaked,
            gaps=tuple(dict.fromkeys(self._gaps)),
            data_bytes=self._data_bytes,
            usage=self._usage,
        )

    def _wait(self) -> None:
        # A function of its own: CPython looks for signals where a loop jumps back, and that jump is outside of any `try`
        # around the loop (3.11 to 3.13, as `dis` shows), so what a handler raises there would pass by the burial.
        self._read_channel()  # A child that goes on has spoken meanwhile.
        if self._receiver.was_full_at > self.begun_at:
            # It waited for room in the channel, and nobody knows for how long: that was our time, not its own.
            self._put_off(self._receiver.was_full_at - self.begun_at)
        while not self._dead and not self._idle:
            self._turn()
        self._read_channel()

    def _rest(self) -> None:
        self._forget(self._signals.fd)
        self._timers.clear()
        self._stacks.clear()
        askers, self._askers = self._askers, []
        for answer in askers:
            answer("")
        self._tell_status("")  # Asked just now.

    def ask_stacks(self, answer: Callable[[str], None]) -> None:
        """Have the child write its stacks; ``answer`` gets them, or "" when the bound has passed. One at a time."""
        self._askers.append(answer)
        if len(self._askers) == 1:
            self._request_stacks()

    def ask_status(self, answer: Callable[[str], None]) -> bool:
        """As :meth:`ask_stacks`, from a signal handler; False where nobody waits for the child just now.

        Those who ask while an answer is on its way share it, as pending signals are one: a burst would be answered long after.
        """
        if self._is_running:
            self._status_answer = answer
            self._signals.wake()
        return self._is_running

    @property
    def is_buried(self) -> bool:
        """Whether nothing is left of the child."""
        return self._buried

    def kill(self) -> None:
        """End the child's group, whatever it does; the next :meth:`run` tells of its end."""
        kill_group(self._child.pid)
        _await_end(self._child)

    @property
    def elapsed(self) -> Seconds:
        """How long the child has been doing what it does now, without the time that it was stopped with pytest."""
        return time.monotonic() - self.begun_at

    def _turn(self) -> None:
        due = min(self._timers.values(), default=None)
        wait = None if due is None else math.ceil(max(0.0, due - time.monotonic()) * 1000)
        for fd, _ in self._poll.poll(wait):
            if fd in self._readers and not self._idle and not (self._dead and fd in self._read_at_end):
                self._readers[fd]()
        now = time.monotonic()
        for action, when in sorted(self._timers.items(), key=lambda timer: timer[1]):
            if when <= now and not self._dead and not self._idle and self._timers.get(action) == when:
                del self._timers[action]
                action()

    # What the child says.

    def _let_gather(self) -> None:
        """For a moment, do not wake up for each message: that takes longer than to handle it."""
        if self._finished or self._overdue is not None or self._dump:
            return
        if self._is_heeding and self._channel_fd in self._readers:
            self._poll.unregister(self._channel_fd)
            self._is_heeding = False
        self._timers[self._heed] = time.monotonic() + GATHERING

    def _only(self, action: Callable[[], None], when: Seconds) -> None:
        """From here on nothing else is due; what may still be said is heard at once, so that it blocks nobody."""
        self._timers = {action: when}
        self._heed()

    def _heed(self) -> None:
        self._timers.pop(self._heed, None)
        if not self._is_heeding and self._channel_fd in self._readers:
            self._poll.register(self._channel_fd, select.POLLIN)
            self._is_heeding = True

    def _on_bell(self) -> None:
        if read_pipe(self._bell_fd) == b"":
            self._forget(self._bell_fd)
        self._read_channel()

    def _read_channel(self) -> None:
        try:
            for message in () if self._idle else self._receiver.receive():
                self._take(message)
                if self._idle:
                    return  # What follows is of the next order.
            if self._receiver.is_amid:
                self._heed()  # The child waits until there is room for the rest.
            elif self._is_heeding:
                self._let_gather()
        except ChannelError as error:
            self._lost = self._lost or str(error)
            self._forget(self._channel_fd)
            self._kill()
            return
        if self._receiver.closed:
            self._forget(self._channel_fd)

    def _take(self, message: Message) -> None:
        if self._overdue is not None or self._dump:
            # Said after the deadline or after the crash: the ending is decided, and a phase has one outcome.
            if isinstance(message, Begun | Idle) and self._kill in self._timers:
                kill_group(self._child.pid)  # SIGTERM has ended the test, and the child would wait for another.
            return
        if self._is_deaf and not isinstance(message, Stopped | Finished | Broken):
            return
        if self._askers:
            # Asked before and written before: they belong to what the child was doing before it said this.
            self._read_stacks()
            if self._stacks:
                self._on_stacks_quiet()
        if isinstance(message, Finished):
            self._finished = True
            self.expect_end()
        if self._relay is not None:
            self._call(self._relay.drain)  # Written before this was said.
        self._call(lambda: self._on_message(message))
        if isinstance(message, Begun | Idle):
            # One that is being interrupted leaves; it may have gone on before.
            self._idle = not self._interrupts
            self._is_deaf = not self._idle

    def _call(self, outside: Callable[[], object]) -> None:
        """Call what is not ours and may hang or wait: a signal acts there as it would without us."""
        try:
            self._signals.act = self._on_signal_outside
            outside()
            # Not in a `finally`: what a handler raised there, with the child still at work, would have it buried at once.
            self._signals.act = None
        except BaseException as error:
            self._signals.act = None
            if not isinstance(error, KeyboardInterrupt):
                raise
            self._interrupt = self._interrupt or error
            self._interrupt_child()

    def _read_dump(self) -> None:
        if not self._dump:
            self._read_channel()  # Written before, maybe.
            if self._idle:
                return
            if not self._dead:
                # Before its first word is taken: it is about to die, and who has a limit of memory waits for that only.
                self._data_bytes = proc.data_bytes(self._child.pid)
                _let_go(self._dump_fd)
        data = read_pipe(self._dump_fd)
        if data == b"":
            self._forget(self._dump_fd)
            return
        if data and not self._dump:
            # Whatever else happens now, this is a crash: another thread may still exit with 0 before the signal kills.
            self._note_end()
            self._only(self._on_dying_bound, time.monotonic() + max(self._grace, 1.0))
        self._dump += (data or b"")[: _DUMP_BYTES - len(self._dump)]
        if self._dump:
            # faulthandler writes word by word, and would wake us by each: we look again from time to time, so that the
            # pipe is never full, and at the end.
            self._forget(self._dump_fd)
            self._timers[self._read_dump] = time.monotonic() + _DUMP_PAUSE

    def _read_stacks(self) -> None:
        if not self._askers:
            self._read_channel()  # As above.
            if self._idle:
                return
        data = read_pipe(self._stacks_fd)
        if data == b"":
            self._forget(self._stacks_fd)
        if not data:
            return
        self._stacks += data[: _DUMP_BYTES - len(self._stacks)]
        self._timers.pop(self._on_stacks_bound, None)
        self._timers[self._on_stacks_quiet] = time.monotonic() + STACKS_QUIET

    def _forget(self, fd: int) -> None:
        if self._readers.pop(fd, None) is not None and (fd != self._channel_fd or self._is_heeding):
            self._poll.unregister(fd)

    def _on_death(self) -> None:
        self._dead = True
        self._note_end()

    def _note_end(self) -> None:
        if self._ended_at is None:
            self._ended_at = time.monotonic()

    # Stacks of a running child.

    def _request_stacks(self) -> None:
        self._read_channel()  # What was said by now is not of the phase that they will show.
        if self._idle:
            return
        pid = self._child.pid
        reason = _deaf(pid)
        if reason:
            self._gaps.append(f"stacks: {reason}")
            self._answer("")
            return
        self._stacks.clear()
        self._signal(faultdump.STACKS_SIGNAL)
        if proc.state(pid) == "T":
            self._signal(signal.SIGCONT)  # A stopped process answers before it runs on.
        self._timers[self._on_stacks_bound] = time.monotonic() + STACKS_BOUND

    def _on_stacks_bound(self) -> None:
        self._gaps.append(f"stacks: the child did not answer within {STACKS_BOUND:g} s")
        self._answer("")

    def _on_stacks_quiet(self) -> None:
        self._timers.pop(self._on_stacks_quiet, None)
        text = self._stacks.decode("ascii", "backslashreplace")
        self._stacks.clear()
        if self._askers:
            self._answer(text)
        elif text:
            # Nobody asked: pytest's faulthandler_timeout has passed in the child.
            self._tell(Snapshot(after=self.elapsed, text=text))

    def _answer(self, text: str) -> None:
        self._timers.pop(self._on_stacks_bound, None)
        self._askers.pop(0)(text)
        if self._askers and not self._dead:
            self._request_stacks()

    def _on_dump_due(self) -> None:
        self._read_channel()
        if self._idle:
            return
        self._timers[self._on_dump_due] = time.monotonic() + self._dump_every
        after = self.elapsed
        self.ask_stacks(lambda text: self._tell(Snapshot(after=after, text=text)) if text else None)

    def _tell(self, snapshot: Snapshot) -> None:
        self._call(lambda: self._on_snapshot(snapshot))

    # Deadlines: stacks, then SIGTERM, a grace, SIGKILL to the group.

    def _on_deadline(self) -> None:
        self._read_channel()
        if self._finished or self._idle or self._dump or self._timeout is None:
            return
        # Asked now: to write its stacks, it must run on.
        ground = "the process was stopped, as by SIGSTOP" if proc.state(self._child.pid) == "T" else ""
        self._stop(Overdue(timeout=self._timeout, stopped_by=signal.SIGTERM.name, ground=ground))

    def _on_cpu_due(self) -> None:
        used = proc.cpu_seconds(self._child.pid)
        if self._cpu is None or used is None or self._overdue is not None or self._dump:
            return
        left = self._cpu_end - used
        if left > 0:
            # Not sooner can it pass, however many threads there are.
            self._timers[self._on_cpu_due] = time.monotonic() + max(left / _CORES, _CPU_PAUSE)
            return
        self._read_channel()
        if not (self._finished or self._idle or self._dump):
            self._stop(Overspent(cpu=self._cpu, stopped_by=signal.SIGTERM.name))

    def _stop(self, ending: Overdue | Overspent) -> None:
        self._overdue = ending
        self._note_end()
        self._timers.pop(self._on_deadline, None)
        self._timers.pop(self._on_cpu_due, None)
        self._timers.pop(self._on_dump_due, None)
        self.ask_stacks(self._terminate)

    def _terminate(self, stacks: str) -> None:
        self._hang_stacks = stacks
        if self._dead:
            return
        self._signal(signal.SIGTERM)
        if proc.state(self._child.pid) == "T":
            self._signal(signal.SIGCONT)
        self._timers[self._kill] = time.monotonic() + self._grace

    def _on_exit_bound(self) -> None:
        self._overdue = Overdue(timeout=self._exit_bound, stopped_by=signal.SIGKILL.name)
        self._kill()

    def _on_dying_bound(self) -> None:
        if proc.dumps_core(self._child.pid):
            # A core that is cut short by SIGKILL is of no use to anybody.
            self._timers[self._on_dying_bound] = time.monotonic() + GONE_BOUND
            return
        self._kill()

    def _kill(self) -> None:
        if self._overdue is not None:
            self._overdue = dataclasses.replace(self._overdue, stopped_by=signal.SIGKILL.name)
        self._killed = True
        # Named now: when the child is buried, they may be gone.
        self._leaked = _told(_others(self._child.pid))
        kill_group(self._child.pid)
        self._only(self._on_gone_bound, time.monotonic() + GONE_BOUND)

    def _on_gone_bound(self) -> None:
        self._lost = (
            f"still there {GONE_BOUND:g} s after SIGKILL: stuck in the kernel (state {proc.state(self._child.pid)})"
        )
        self._dead = True

    # pytest's own signals.

    def _on_signal(self) -> None:
        for number in self._signals.take():
            if number == STOP:
                self._stop_with_pytest()
            elif number == INTERRUPT:
                self._interrupt_child()
            else:
                self._kill()
        if self._status_answer is not None and self._tell_status not in self._askers:
            self.ask_stacks(self._tell_status)

    def _tell_status(self, text: str) -> None:
        answer, self._status_answer = self._status_answer, None
        if answer is not None:
            self._call(lambda: answer(text))

    def _on_signal_outside(self, number: int) -> None:
        if number == STOP and not self._buried:
            self._stop_with_pytest()
            return
        if number not in {INTERRUPT, STOP} and not self._buried:
            self._kill()
            _await_end(self._child)  # Before pytest may end: nothing outlives it, not even for a moment.
        self._signals.pass_on(number)

    def _interrupt_child(self) -> None:
        self._interrupts += 1
        if self._buried:
            return
        if self._interrupts > 1:
            self._kill()
            return
        self._signal(INTERRUPT)
        self._timers[self._kill] = time.monotonic() + self._grace

    def _stop_with_pytest(self) -> None:
        stopped_at = time.monotonic()
        _signal_group(self._child.pid, signal.SIGSTOP)
        self._signals.pass_on(STOP)
        _signal_group(self._child.pid, signal.SIGCONT)
        self._woken_at = time.monotonic()
        self._put_off(self._woken_at - stopped_at)

    def _put_off(self, away: Seconds) -> None:
        """The child's clocks have stood still for so long; ours has not."""
        self.begun_at += away
        self._timers = {action: when if action == self._heed else when + away for action, when in self._timers.items()}

    # The end.

    def _signal(self, number: int) -> None:
        try:
            signal.pidfd_send_signal(self._child.pidfd, number)
        except ProcessLookupError:
            pass  # It has just ended: its pidfd tells.

    def _bury(self) -> int | None:
        """Reap the child, sweep its group; the wait status, or None where it could not be had."""
        pid = self._child.pid
        try:
            if not self._dead:
                # Something was raised between birth and death: nothing may outlive it.
                kill_group(pid)
            if self._lost and proc.state(pid) not in {"Z", "X", ""}:
                return None
            try:
                _, status, rusage = os.wait4(pid, 0)
                self._usage = usage_of_reaped(rusage)
            except ChildProcessError:
                status = None
            self._leaked = tuple(dict.fromkeys((*self._leaked, *_sweep(pid))))
            return status
        finally:
            self._buried = True
            self._readers.clear()  # They hold this object, and it them.
            os.close(self._child.pidfd)

    def _ending(self, status: int | None) -> Ending | None:
        dumped = faultdump.parse(self._dump.decode("ascii", "backslashreplace")).signal if self._dump else None
        if self._overdue is not None:
            return self._overdue
        if self._lost:
            return Lost(reason=self._lost)
        if status is None:
            if self._finished and not self._dump:
                return None
            return Signaled(signal=dumped) if dumped else Lost(reason="its wait status was taken by somebody else")
        if os.WIFSIGNALED(status):
            if dumped and os.WTERMSIG(status) != dumped:
                self._gaps.append(f"wait status: {signal_name(os.WTERMSIG(status))}, after the dump")
                return Signaled(signal=dumped)
            if os.WTERMSIG(status) == signal.SIGKILL:
                return self._sender_of_sigkill()
            return Signaled(signal=os.WTERMSIG(status), core_dumped=os.WCOREDUMP(status))
        if dumped:
            self._gaps.append(f"wait status: exit code {os.WEXITSTATUS(status)}, while a thread was crashing")
            return Signaled(signal=dumped)
        code = os.WEXITSTATUS(status)
        if self._dump:
            return Lost(reason=f"exit code {code}, while a thread was crashing and before its dump named the signal")
        if self._finished and code == 0:
            return None
        if code == CHANNEL_LOST_STATUS and self._receiver.closed:
            return Lost(reason="the test closed the descriptors of the guard")
        return Exited(code=code)

    def _sender_of_sigkill(self) -> Ending:
        before, now = oom.read_count(self._kills_before or b""), _kills().count()
        if self._killed:
            pass  # It was this guard.
        elif before is None or now is None:
            self._gaps.append("cause: the kernel does not tell here whether its out-of-memory killer sent SIGKILL")
        elif now > before:
            file = Path(_kills().file).name
            return OutOfMemory(ground=f"{file}: oom_kill rose from {before} to {now}")
        return Signaled(signal=int(signal.SIGKILL))


def read_pipe(fd: int) -> bytes | None:
    """What can be read at once; nothing at the end, None where nothing is there yet."""
    parts: list[bytes] = []
    while True:
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return b"".join(parts) or None
        if not data:
            return b"".join(parts)
        parts.append(data)


def hold(dump_fd: int) -> None:
    """Have who writes a dump wait after its first word until we have looked at it: it is alive as long as it writes.

    Each write is a packet of its own, and there is room for one. Where the kernel has no such pipes, nobody waits.
    """
    import fcntl  # Here, for Windows has none, and imports this module.

    try:
        fcntl.fcntl(dump_fd, fcntl.F_SETFL, fcntl.fcntl(dump_fd, fcntl.F_GETFL) | os.O_DIRECT)
        fcntl.fcntl(dump_fd, fcntl.F_SETPIPE_SZ, 1)
    except OSError:
        pass


def _let_go(dump_fd: int) -> None:
    import fcntl  # As above.

    try:
        if fcntl.fcntl(dump_fd, fcntl.F_GETPIPE_SZ) < _DUMP_PIPE_BYTES:
            fcntl.fcntl(dump_fd, fcntl.F_SETPIPE_SZ, _DUMP_PIPE_BYTES)
    except OSError:
        pass  # As small as it is, it takes longer.


def bury(child: Child) -> None:
    """End a child that nobody watches, and what is left of its group; to be called with all signals blocked."""
    kill_group(child.pid)
    if _await_end(child):
        wait_for(child.pid)
        _sweep(child.pid)
    os.close(child.pidfd)


def _await_end(child: Child) -> bool:
    """After SIGKILL: whether it has come to its end, or else is stuck in the kernel."""
    ended = select.poll()
    ended.register(child.pidfd, select.POLLIN)
    return bool(ended.poll(GONE_BOUND * 1000))


def kill_group(pid: int) -> None:
    """SIGKILL to the group of a child that was not yet reaped, so that its number cannot be another's."""
    _signal_group(pid, signal.SIGKILL)
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # Gone, or it has changed its user: then only that user can end it.


def _signal_group(pgid: int, number: int) -> None:
    try:
        os.killpg(pgid, number)
    except (ProcessLookupError, PermissionError):
        pass  # Nobody is left; or all that are left have changed their user.


def _sweep(pid: int) -> tuple[str, ...]:
    """End what is left of a reaped child's group; return its processes as ``pid command line``.

    The number cannot be another group's while the group has members, and it costs one call where it has none.
    """
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return ()
    except PermissionError:
        pass  # There is somebody, of another user.
    members = _others(pid)
    if not members:
        return ()  # Zombies only, which whoever inherited them will reap.
    pidfds = [pidfd for pidfd in map(_pidfd, members) if pidfd is not None]
    told = _told(members)
    _signal_group(pid, signal.SIGKILL)
    _await_ends(pidfds)
    return told


def _others(pid: int) -> tuple[int, ...]:
    """The processes of a child's group without the child."""
    return tuple(member for member in proc.members(pid) if member != pid)


def _told(pids: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{pid} {proc.command_line(pid)}" for pid in pids)


def _await_ends(pidfds: list[int]) -> None:
    deadline = time.monotonic() + GONE_BOUND
    with selectors.PollSelector() as selector:
        for pidfd in pidfds:
            selector.register(pidfd, selectors.EVENT_READ)
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(deadline - time.monotonic()):
                selector.unregister(key.fd)
    for pidfd in pidfds:
        os.close(pidfd)


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None  # It has just ended.


def _deaf(pid: int) -> str:
    """Why a child cannot answer :data:`faultdump.STACKS_SIGNAL`; empty where it should."""
    number = faultdump.STACKS_SIGNAL
    if proc.blocked_everywhere(pid, number):
        return f"every thread blocks all signals, {signal_name(number)} among them"
    if not proc.caught(pid, number):
        return f"the child does not listen to {signal_name(number)}: not yet, or the test took it away"
    return ""
