"""The guard without pytest: targets, endings, limits, signals."""

from __future__ import annotations

import ctypes
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_faultguard.crash import Ending
from pytest_faultguard.crash import Exited
from pytest_faultguard.crash import Lost
from pytest_faultguard.crash import Overdue
from pytest_faultguard.crash import Signaled
from pytest_faultguard.guard import Guard
from pytest_faultguard.guard import Limits
from pytest_faultguard.guard import Remains
from pytest_faultguard.process import proc
from pytest_faultguard.process import signals
from pytest_faultguard.process.channel import Broken
from pytest_faultguard.process.channel import Finished
from pytest_faultguard.process.channel import Idle
from pytest_faultguard.process.channel import Message
from pytest_faultguard.process.child import Line
from pytest_faultguard.process.child import is_guarded
from pytest_faultguard.process.supervise import Snapshot

FINISHED = Finished(shouldstop=False, shouldfail=False)


class Seen:
    """What a guard passed on."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.snapshots: list[Snapshot] = []

    def run(self, target: Callable[[Line], object], limits: Limits | None = None) -> Remains:
        guard = Guard(limits or Limits(timeout=20), self.messages.append, self.snapshots.append)
        return guard.run(target)


@pytest.fixture
def seen() -> Seen:
    return Seen()


def finish(line: Line) -> None:
    line.sender.send(FINISHED)


def test_a_target_that_finishes_has_no_ending(seen: Seen) -> None:
    """Messages arrive in order, and nothing is left to tell."""
    remains = seen.run(finish)

    assert remains.ending is None
    assert remains.finished
    assert seen.messages == [FINISHED]
    assert (remains.dump, remains.stacks, remains.leaked, remains.gaps) == ("", (), (), ())


def test_whatever_is_raised_while_a_child_begins_ends_it(seen: Seen) -> None:
    """Nobody would watch it any more."""
    guard, known = Guard(Limits(timeout=20), seen.messages.append, seen.snapshots.append), list[int]()

    def fail() -> None:
        known.extend(int(one) for one in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
        raise MemoryError

    with pytest.raises(MemoryError):
        guard.run(lambda _: signal.pause(), fail)

    (pid,) = known
    assert proc.state(pid) == ""
    assert guard.is_buried


class Node:
    """One end of a cycle, which only the collector can end."""

    def __init__(self) -> None:
        self.own = self


def test_the_collector_sees_what_the_parent_has_made(seen: Seen) -> None:
    """A target finds its referrers, and can have it collected."""
    nodes = [Node()]
    node = weakref.ref(nodes[0])

    def collect(line: Line) -> None:
        if any(found is nodes for found in gc.get_referrers(nodes[0])):
            nodes.clear()
            gc.collect()
            if node() is None:
                finish(line)

    assert seen.run(collect).finished
    assert node() is not None


def null_read(_: Line) -> None:
    ctypes.string_at(0)


def kill_self(_: Line) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(_: Line) -> None:
    os._exit(0)


def close_all(line: Line) -> None:
    os.closerange(3, 4096)
    finish(line)


@pytest.mark.parametrize(
    ("target", "ending"),
    [
        (null_read, Signaled(signal=signal.SIGSEGV)),
        (lambda _: os.abort(), Signaled(signal=signal.SIGABRT)),
        (kill_self, Signaled(signal=signal.SIGKILL)),
        (leave, Exited(code=0)),
        (lambda _: os._exit(42), Exited(code=42)),
        (lambda _: None, Exited(code=0)),
        (close_all, Lost(reason="the test closed the descriptors of the guard")),
    ],
)
def test_endings_are_types(seen: Seen, target: Callable[[Line], object], ending: Ending) -> None:
    """Each way to leave without finishing is told by its type."""
    remains = seen.run(target)

    assert remains.ending == ending


def test_what_a_target_raises_is_told(seen: Seen) -> None:
    """The traceback arrives, and the exit code is not 0."""

    def target(_: Line) -> None:
        raise RuntimeError("no luck")

    remains = seen.run(target)

    (message,) = seen.messages
    assert isinstance(message, Broken)
    assert "RuntimeError: no luck" in message.text
    assert remains.ending == Exited(code=1)


def test_a_crash_has_the_stacks_of_all_threads(seen: Seen) -> None:
    """Also those of threads that only wait."""
    waiting = threading.Event()

    def target(_: Line) -> None:
        ready = threading.Event()

        def wait_for_ever() -> None:
            ready.set()
            waiting.wait()

        threading.Thread(target=wait_for_ever, daemon=True).start()
        ready.wait()
        ctypes.string_at(0)

    remains = seen.run(target)

    functions = {frame.function for stack in remains.stacks for frame in stack.frames}
    assert {"target", "string_at", "wait_for_ever"} <= functions
    assert [stack.current for stack in remains.stacks].count(True) == 1


def hang(_: Line) -> None:
    while True:
        time.sleep(60)


def deaf(_: Line) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    hang(_)


def stubborn(_: Line) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hang(_)


def stopped(_: Line) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)
    hang(_)


@pytest.mark.parametrize(
    ("target", "stopped_by", "has_stacks", "bound"),
    [
        (hang, "SIGTERM", True, 0.0),
        (stubborn, "SIGKILL", True, 0.2),
        (stopped, "SIGTERM", True, 0.0),
        (deaf, "SIGKILL", False, 0.2),
    ],
)
def test_a_deadline_is_kept(
    seen: Seen, target: Callable[[Line], object], stopped_by: str, has_stacks: bool, bound: float
) -> None:
    """Stacks first, then SIGTERM, a grace, SIGKILL; where there are no stacks, a gap says why."""
    started_at = time.monotonic()

    remains = seen.run(target, Limits(timeout=0.3, grace=0.2))

    took = time.monotonic() - started_at
    ground = "the process was stopped, as by SIGSTOP" if target is stopped else ""
    assert remains.ending == Overdue(timeout=0.3, stopped_by=stopped_by, ground=ground)
    assert bool(remains.stacks) == has_stacks
    assert has_stacks or "blocks all signals" in remains.gaps[0]
    assert 0.3 + bound <= took < 0.3 + bound + 0.5


def test_periodic_stacks_come_while_the_target_runs(seen: Seen) -> None:
    """By the guard's clock, each with its time."""

    def target(line: Line) -> None:
        # pause(2) returns when a signal handler has run.
        for _ in range(2):
            ctypes.CDLL(None).pause()
        finish(line)

    remains = seen.run(target, Limits(dump_every=0.1))

    assert remains.ending is None
    assert len(seen.snapshots) >= 2
    assert all("in target" in snapshot.text for snapshot in seen.snapshots)
    assert seen.snapshots[0].after >= 0.1


def test_what_a_target_leaves_is_named_and_ended(seen: Seen) -> None:
    """A process that the target started and forgot, also one that ignores SIGTERM."""

    def target(line: Line) -> None:
        reading, writing = os.pipe()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.write(writing, b"x")
            signal.pause()
            os._exit(0)
        os.read(reading, 1)
        finish(line)

    remains = seen.run(target)

    assert remains.ending is None
    (told,) = remains.leaked
    pid, _, command_line = told.partition(" ")
    assert sys.executable.rpartition("/")[2][:6] in command_line
    # A zombie is ended; whoever inherited it reaps it.
    assert proc.state(int(pid)) in {"", "Z"}


def test_what_the_listener_raises_ends_the_child(seen: Seen) -> None:
    """Nothing is orphaned by an exception between birth and burial."""

    def target(line: Line) -> None:
        finish(line)
        hang(line)

    def refuse(_: Message) -> None:
        raise LookupError("not now")

    guard = Guard(Limits(), refuse, seen.snapshots.append)
    with pytest.raises(LookupError, match="not now"):
        guard.run(target)


#: In a process with one thread: any other may take a signal, and CPython then runs its handler in the main one, blocked
#: or not.
RAISING = """
import os, random, signal, time
from pytest_faultguard.guard import Guard, Limits
from pytest_faultguard.process import signals
from pytest_faultguard.process.channel import Finished

class Alarm(Exception):
    pass

def ring(*_):
    raise Alarm

def run():
    Guard(Limits(timeout=20), lambda _: None, lambda _: None).run(
        lambda line: line.sender.send(Finished(shouldstop=False, shouldfail=False))
    )

signal.signal(signal.SIGALRM, ring)
before = [signal.getsignal(number) for number in signals._WATCHED]
open_before = len(os.listdir("/proc/self/fd"))
started = time.monotonic()
for _ in range(10):
    run()
usual = (time.monotonic() - started) / 10
rung = set()
for share in random.Random(1).choices(range(1, 150), k=300):
    try:
        signal.setitimer(signal.ITIMER_REAL, usual * share / 100)
        run()
        signal.setitimer(signal.ITIMER_REAL, 0)
        rung.add(False)
    except Alarm:
        rung.add(True)
    try:
        raise SystemExit(f"a child is left: {os.waitpid(-1, os.WNOHANG)}")
    except ChildProcessError:
        pass
    assert [signal.getsignal(number) for number in signals._WATCHED] == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
assert rung == {False, True}, rung
assert len(os.listdir("/proc/self/fd")) == open_before
"""


def test_a_handler_that_raises_at_any_moment_orphans_nothing() -> None:
    """Somebody else's, pytest-timeout's for example: the child is buried, the signals are as before."""
    done = subprocess.run([sys.executable, "-c", RAISING], capture_output=True, text=True, timeout=60, check=False)

    # Where it rings in a callback of the garbage collector, Python says so and goes on.
    assert done.returncode == 0, done.stderr


def test_an_interrupt_reaches_the_child_and_is_raised_again(seen: Seen) -> None:
    """The child gets KeyboardInterrupt where it is; then the former disposition acts here."""
    parent = os.getpid()

    def target(line: Line) -> None:
        try:
            os.kill(parent, signal.SIGINT)
            hang(line)
        except KeyboardInterrupt:
            line.sender.send(Broken(text="interrupted"))

    with pytest.raises(KeyboardInterrupt):
        seen.run(target)

    assert seen.messages == [Broken(text="interrupted")]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_termination_sweeps_at_once_and_meets_the_former_disposition(seen: Seen) -> None:
    """Here a function of Python's, which sees the signal once."""
    parent = os.getpid()
    met: list[int] = []

    def target(line: Line) -> None:
        os.kill(parent, signal.SIGTERM)
        stubborn(line)

    former = signal.signal(signal.SIGTERM, lambda number, _: met.append(number))
    try:
        remains = seen.run(target)
    finally:
        signal.signal(signal.SIGTERM, former)

    assert met == [signal.SIGTERM]
    assert remains.ending == Signaled(signal=signal.SIGKILL)


def test_the_child_has_its_own_group_and_the_former_handlers(seen: Seen) -> None:
    """What the guard installed for itself is not there."""

    def target(line: Line) -> None:
        facts = (
            os.getpgrp() == os.getpid(),
            os.getsid(0) != os.getpid(),
            signal.getsignal(signal.SIGINT) is signal.default_int_handler,
            signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
            signal.pthread_sigmask(signal.SIG_BLOCK, []) == set(),
            is_guarded(),
            os.read(0, 1) == b"",
            all(fd >= 512 for fd in (line.sender._fd, line.stacks_fd)),
        )
        line.sender.send(Broken(text=repr(facts)))
        finish(line)

    seen.run(target)

    assert seen.messages[0] == Broken(text=repr((True,) * 8))
    assert not is_guarded()


def test_random_numbers_go_on_as_without_a_fork(seen: Seen) -> None:
    """CPython reseeds in a fork; a test must not notice."""
    random.seed(7)
    state = random.getstate()
    expected = random.random()
    random.setstate(state)

    def target(line: Line) -> None:
        line.sender.send(Broken(text=repr(random.random())))
        finish(line)

    seen.run(target)

    assert seen.messages[0] == Broken(text=repr(expected))


def test_a_crash_of_what_the_target_forked_is_not_its_own(seen: Seen) -> None:
    """The dump of a grandchild goes elsewhere."""

    def target(line: Line) -> None:
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            ctypes.string_at(0)
        _, status = os.waitpid(pid, 0)
        line.sender.send(Broken(text=str(os.WTERMSIG(status))))
        finish(line)

    remains = seen.run(target)

    assert remains.ending is None
    assert seen.messages[0] == Broken(text=str(int(signal.SIGSEGV)))


def test_a_thread_that_crashes_while_the_target_leaves_is_a_crash(seen: Seen) -> None:
    """The first byte of a dump decides, whatever follows."""

    def target(line: Line) -> None:
        # What faulthandler does on a native thread, with the process leaving before the signal kills it.
        known = {line.sender._fd, line.sender._bell_fd, line.stacks_fd}
        dump_fd = max(fd for fd in range(512, 600) if _is_pipe(fd) and fd not in known)
        finish(line)
        os.write(dump_fd, b"Fatal Python error: Segmentation fault\n\n")
        os._exit(0)

    remains = seen.run(target)

    assert remains.ending == Signaled(signal=signal.SIGSEGV)
    assert "while a thread was crashing" in remains.gaps[0]


def _is_pipe(fd: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:")
    except OSError:
        return False


def test_a_guard_in_a_guarded_child(seen: Seen) -> None:
    """Guards nest."""

    def target(line: Line) -> None:
        inner = Seen()
        remains = inner.run(null_read)
        line.sender.send(Broken(text=repr(remains.ending)))
        finish(line)

    remains = seen.run(target)

    assert remains.ending is None
    assert seen.messages[0] == Broken(text=repr(Signaled(signal=11)))


def test_a_guard_runs_in_a_thread(seen: Seen) -> None:
    """Signals are then the main thread's business."""
    remains: list[Remains] = []
    thread = threading.Thread(target=lambda: remains.append(seen.run(null_read)))
    thread.start()
    thread.join()

    assert remains[0].ending == Signaled(signal=signal.SIGSEGV)


def test_a_child_does_one_thing_after_another_by_itself(seen: Seen) -> None:
    """Without an order the guard waits for the next one, which the child may have done long before; then for its end."""
    guard, limits = Guard(Limits(), seen.messages.append, seen.snapshots.append), Limits(timeout=20)

    def target(line: Line) -> None:
        for _ in range(3):
            line.sender.ring(Idle())
        finish(line)

    guard.start(target)
    while (remains := guard.give((), limits)) is None:
        pass

    assert remains.ending is None
    assert seen.messages == [Idle(), Idle(), Idle(), FINISHED]


def test_a_child_is_ended_whatever_it_does(seen: Seen) -> None:
    """It and what it has started are gone, and reaped, when the call returns; to end it again does nothing."""
    reading, writing = os.pipe()
    guard = Guard(Limits(), seen.messages.append, seen.snapshots.append)

    def target(line: Line) -> None:
        os.fork()
        signals.block_all()
        line.sender.ring(Idle())
        signal.pause()

    guard.start(target)
    os.close(writing)
    guard.give((), Limits(timeout=20))
    guard.end_now()
    guard.end_now()

    with os.fdopen(reading) as pipe:
        assert pipe.read() == ""  # The last one that held its other end has gone.
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
