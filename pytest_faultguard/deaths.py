"""The death that a marker expects of a test, and whether a crash was that one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from pytest_faultguard.crash import Crash
from pytest_faultguard.crash import Exited
from pytest_faultguard.crash import OutOfMemory
from pytest_faultguard.crash import Overdue
from pytest_faultguard.crash import Signaled
from pytest_faultguard.crash import Starved
from pytest_faultguard.crash import signal_name

TIMEOUT = "timeout"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """How the call of a test must end for the test to pass."""

    #: The name of a signal, an exit code, or :data:`TIMEOUT`.
    ending: str | int
    #: A regular expression that must be found in the cause or in the output; None for any.
    pattern: str | None = None

    def is_met_by(self, crash: Crash, output: Iterable[str]) -> bool:
        """Whether that crash, which left that output, is this death."""
        if crash.phase != "call" or not self._is_ending_of(crash):
            return False
        return self.pattern is None or any(re.search(self.pattern, text) for text in (crash.cause, *output))

    def _is_ending_of(self, crash: Crash) -> bool:
        match crash.ending:
            case Signaled() | Starved() | OutOfMemory():
                return crash.signal is not None and self.ending == signal_name(crash.signal)
            case Exited(code=code):
                return self.ending == code
            case Overdue():
                return self.ending == TIMEOUT
            case _:
                return False

    def __str__(self) -> str:
        """As messages say what was expected."""
        told = f"exit code {self.ending}" if isinstance(self.ending, int) else self.ending
        return told if self.pattern is None else f"{told} with {self.pattern!r} in its cause or output"
