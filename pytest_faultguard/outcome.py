"""The exceptions that a crash, or a fault of our own, turns into."""

from __future__ import annotations

from pytest_faultguard.crash import RAN_ON
from pytest_faultguard.crash import Crash


class FaultguardError(Exception):
    """The guard itself could not do its work; never the fault of the guarded code."""


class JournalError(FaultguardError):
    """The journal could not be opened or read."""


class CrashError(Exception):
    """A guarded test ended uncleanly; :attr:`crash` is the whole record.

    This is what ``xfail(raises=…)``, ``pytest_runtest_makereport`` and ``pytest_exception_interact`` see.
    """

    def __init__(self, crash: Crash) -> None:
        super().__init__(crash.cause)
        #: Ending, signal, exit code, phase, stacks and all other evidence.
        self.crash = crash


class HangError(CrashError):
    """A guarded test was still running at its deadline, or when it had used up its processor time."""


class LaunchError(FaultguardError):
    """A child could not be started."""


class LostResultsWarning(UserWarning):
    """A guarded test uses a plugin whose results do not leave the test's process."""


class LeakedProcessesWarning(UserWarning):
    """A test that has not failed, or tests that shared a child, have left processes, which were ended with it."""


class UnhealthyChildWarning(UserWarning):
    """A health check has found that no other test should run in a child."""


def error_for(crash: Crash) -> CrashError:
    """The exception for this crash: :class:`HangError` past a limit of time, else :class:`CrashError`."""
    kind = HangError if isinstance(crash.ending, RAN_ON) else CrashError
    return kind(crash)


for _public in (
    FaultguardError,
    JournalError,
    CrashError,
    HangError,
    LaunchError,
    LeakedProcessesWarning,
    LostResultsWarning,
    UnhealthyChildWarning,
):
    _public.__module__ = "pytest_faultguard"  # Tracebacks and reprs show the name that users import.
