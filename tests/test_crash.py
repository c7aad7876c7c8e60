"""The types of a crash: words and the way through JSON."""

from __future__ import annotations

import json
import signal

import pytest

from pytest_faultguard import crash
from pytest_faultguard.crash import Crash
from pytest_faultguard.crash import Ending
from pytest_faultguard.crash import Exited
from pytest_faultguard.crash import Frame
from pytest_faultguard.crash import Lost
from pytest_faultguard.crash import OutOfMemory
from pytest_faultguard.crash import Overdue
from pytest_faultguard.crash import Overspent
from pytest_faultguard.crash import Phase
from pytest_faultguard.crash import Rescued
from pytest_faultguard.crash import Signaled
from pytest_faultguard.crash import Starved
from pytest_faultguard.crash import ThreadStack
from pytest_faultguard.outcome import CrashError
from pytest_faultguard.outcome import HangError
from pytest_faultguard.outcome import error_for

ENDINGS: list[tuple[Ending, Phase, str, str, str]] = [
    (
        Signaled(signal=signal.SIGSEGV),
        "call",
        "",
        "SIGSEGV (segmentation fault) in call after 0.12 s",
        "SIGSEGV",
    ),
    (
        Signaled(signal=signal.SIGABRT, core_dumped=True),
        "setup",
        "free(): double free detected in tcache 2",
        "SIGABRT (aborted) in setup after 0.12 s, core dumped: free(): double free detected in tcache 2",
        "SIGABRT",
    ),
    (
        Exited(code=3),
        "teardown",
        "",
        "exit code 3 in teardown after 0.12 s: the test never finished",
        "exit code 3",
    ),
    (
        Overdue(timeout=1.5, stopped_by="SIGTERM"),
        "call",
        "",
        "timeout of 1.5 s passed in call, ended by SIGTERM",
        "timeout",
    ),
    (
        Signaled(signal=signal.SIGKILL),
        "call",
        "",
        "SIGKILL by another process or its own in call after 0.12 s",
        "SIGKILL",
    ),
    (
        Overspent(cpu=2.0, stopped_by="SIGKILL"),
        "call",
        "",
        "cpu limit of 2 s passed in call after 0.12 s, ended by SIGKILL",
        "cpu limit",
    ),
    (
        Starved(memory=3 << 29, signal=signal.SIGSEGV, ground="it had 1.4 GiB"),
        "setup",
        "",
        "memory limit of 1.5 GiB: SIGSEGV (segmentation fault) in setup after 0.12 s (it had 1.4 GiB)",
        "memory limit",
    ),
    (
        OutOfMemory(ground="memory.events: oom_kill rose from 0 to 1"),
        "call",
        "",
        "killed by the kernel's out-of-memory killer in call after 0.12 s (memory.events: oom_kill rose from 0 to 1)",
        "out of memory",
    ),
    (
        Lost(reason="a message was damaged"),
        "exit",
        "",
        "lost at exit after 0.12 s: a message was damaged",
        "lost",
    ),
]


def a_crash(ending: Ending, phase: Phase = "call", message: str = "") -> Crash:
    return Crash(
        label="test_x.py::test_y[\udc80]",
        phase=phase,
        ending=ending,
        duration=0.123,
        message=message,
        stacks=(
            ThreadStack(thread="0x1", current=True, frames=(Frame(function="f", file="x.py", line=3),)),
            ThreadStack(thread="0x2", current=False, frames=(), truncated=True),
        ),
        dump="Fatal Python error: ...",
        rescued=(Rescued(key="'k'", value="1"),),
        leaked=("12 sleep 600",),
        gaps=("stack: none",),
    )


@pytest.mark.parametrize(("ending", "phase", "message", "cause", "short"), ENDINGS)
def test_every_ending_has_its_words(ending: Ending, phase: Phase, message: str, cause: str, short: str) -> None:
    """The cause is one line, and the short cause a word or two."""
    record = a_crash(ending, phase, message)

    assert record.cause == cause
    assert record.short_cause == short


@pytest.mark.parametrize("ending", [one[0] for one in ENDINGS])
def test_a_crash_survives_json(ending: Ending) -> None:
    """What goes through a report comes back equal, but for surrogates, which have become text."""
    record = a_crash(ending)

    wire = crash.to_json(record)
    again = crash.from_json(json.loads(json.dumps(wire)))

    json.dumps(wire, ensure_ascii=False).encode("utf-8")
    assert again.label == "test_x.py::test_y[\\udc80]"
    assert crash.to_json(again) == wire
    assert again.ending == ending
    assert again.stacks == record.stacks
    assert again.rescued == record.rescued


def test_signal_and_exit_code_are_told_apart() -> None:
    """One of the two is a number, according to the ending."""
    assert (a_crash(Signaled(signal=11)).signal, a_crash(Signaled(signal=11)).exit_code) == (11, None)
    assert (a_crash(Exited(code=0)).signal, a_crash(Exited(code=0)).exit_code) == (None, 0)
    assert (a_crash(Lost(reason="")).signal, a_crash(Lost(reason="")).exit_code) == (None, None)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGKILL, "SIGKILL (killed)"),
        (signal.SIGRTMIN + 2, "SIGRTMIN+2"),
        (400, "signal 400"),
    ],
)
def test_signals_have_names(number: int, told: str) -> None:
    """Also those that Python has no name for."""
    described = crash.describe_signal(number)

    assert described.startswith(told)


def test_a_hang_is_a_crash_of_its_own_type() -> None:
    """``raises=CrashError`` accepts both, ``raises=HangError`` a hang only."""
    hang = error_for(a_crash(Overdue(timeout=1, stopped_by="SIGTERM")))
    death = error_for(a_crash(Signaled(signal=11)))

    assert isinstance(hang, HangError)
    assert isinstance(hang, CrashError)
    assert not isinstance(death, HangError)
    assert str(death) == death.crash.cause
