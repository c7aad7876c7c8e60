"""What a guarded test used: processor time, and memory at its peak."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING
from typing import final

from pytest_faultguard.descriptors import identity
from pytest_faultguard.descriptors import moved_up
from pytest_faultguard.process import proc

try:
    import resource
except ImportError:  # Windows, where nothing is guarded.
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from pytest_faultguard.crash import Seconds

#: What ``ru_maxrss`` counts in, on Linux.
_UNIT = 1024


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a test used, or a process in its whole life."""

    #: Of all threads, and of the processes that it started and waited for.
    cpu_seconds: Seconds
    #: The largest resident set; None where that of this test cannot be told from those before.
    peak_bytes: int | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What a child had used when its last test ended, or when it had begun."""

    cpu_seconds: Seconds = 0.0
    #: Up to here, who reaps it cannot tell its peak: the largest resident set of a process that it had waited for, and
    #: of the one that has started it as a program.
    hidden_peak: int = 0


#: Of one that was just born.
NOTHING = Before()


@final
class Meter:
    """In a child: measures one test after another; ``has_execed`` where it was not forked, but started as a program."""

    def __init__(self, *, has_execed: bool = False) -> None:
        self._base: Seconds = 0.0
        self._resetting = -1, identity(-1)
        self._has_execed = has_execed
        self._inherited_peak = 0
        if has_execed:
            # A program's `ru_maxrss` begins with the peak of the process that has started it, and stays above its own
            # until that is larger. In a copy of such a program, as a fork server makes them, it is its own from the start.
            self.begin()
            told = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
            self._inherited_peak = told if told > (proc.peak_bytes() or 0) else 0

    def begin(self) -> None:
        """Another test begins, and not the first thing that this process does."""
        # `ru_maxrss` of a process that was forked, and has started no other program, is VmHWM, which this resets. Where
        # the kernel cannot, the peak is that since the child's birth.
        fd, file = self._resetting
        try:
            if file is None or identity(fd) != file:  # The test may have closed all, and opened others.
                fd = moved_up(os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC))
                self._resetting = fd, identity(fd)
            os.write(fd, b"5")
        except OSError:
            pass
        self._base = _cpu_seconds(
            resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        )

    def read(self) -> tuple[Usage, Before]:
        """What the test has used by now, and what the next one will find used."""
        own, waited = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = _cpu_seconds(own, waited)
        peak = proc.peak_bytes() if self._has_execed else own.ru_maxrss * _UNIT
        usage = Usage(cpu_seconds=cpu - self._base, peak_bytes=peak)
        return usage, Before(cpu_seconds=cpu, hidden_peak=max(waited.ru_maxrss * _UNIT, self._inherited_peak))


def _cpu_seconds(own: resource.struct_rusage, waited: resource.struct_rusage) -> Seconds:
    return own.ru_utime + own.ru_stime + waited.ru_utime + waited.ru_stime


def usage_of_reaped(rusage: resource.struct_rusage) -> Usage:
    """From what ``wait4`` told: of the whole life of a process."""
    return Usage(cpu_seconds=rusage.ru_utime + rusage.ru_stime, peak_bytes=rusage.ru_maxrss * _UNIT)


def since(whole: Usage, before: Before) -> Usage:
    """What the last test of a child used that died in it; a reaped process tells one peak for itself and others."""
    peak = whole.peak_bytes
    return Usage(
        cpu_seconds=max(0.0, whole.cpu_seconds - before.cpu_seconds),
        peak_bytes=peak if peak is not None and peak > before.hidden_peak else None,
    )
