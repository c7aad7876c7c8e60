"""The audit finds what a test leaves behind, wherever it went, and ends it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from testing.harness import QUICK

if TYPE_CHECKING:
    from testing.harness import Recorder
    from testing.harness import RunPytest

CONFTEST = f"""
import os
import pathlib
import sys

sys.path.append({str(Path(__file__).parents[1])!r})
from testing import audit as module
from testing.audit import allow_leftovers, audit, audit_tmp

module._PATIENCE_SECONDS = 0.5
# The tests that run beside this one look into the real directory.
module._SHM = pathlib.Path(f"shm-{{os.environ.get('PYTEST_XDIST_WORKER')}}").absolute()
module._SHM.mkdir()
"""

LEAKS = """
import os
import signal
import subprocess
import tempfile
import time

from testing import audit


def test_session_of_its_own():
    subprocess.Popen(["sleep", "600"], start_new_session=True)


def test_nothing():
    pass


def test_daemon():
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.fork() or time.sleep(600)
        os._exit(0)
    os.waitpid(pid, 0)


def test_fork():
    os.fork() or time.sleep(600)


def test_fork_without_fds():
    os.fork() or (os.closerange(0, 4096), os.setsid(), time.sleep(600))


def test_stopped():
    os.kill(subprocess.Popen(["sleep", "600"]).pid, signal.SIGSTOP)


def test_zombie():
    pid = os.fork() or os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_fd():
    os.dup(1)


def test_memfd():
    os.memfd_create("mine")


def test_temp_file():
    os.close(tempfile.mkstemp(prefix="mine")[0])


def test_shared_memory():
    (audit._SHM / "mine").touch()


def test_nothing_more():
    pass
"""

LINES = {
    "test_session_of_its_own": r"process \d+ \(state S, parent \d+\): sleep 600",
    "test_nothing": "",
    "test_daemon": r"process \d+ \(state [RS], parent \d+\): \S*python[\d.]* .*",
    "test_fork": r"process \d+ \(state [RS], parent \d+\): \S*python[\d.]* .*",
    "test_fork_without_fds": r"process \d+ \(state [RS], parent \d+\): \S*python[\d.]* .*",
    "test_stopped": r"process \d+ \(state T, parent \d+\): sleep 600",
    "test_zombie": r"process \d+ \(state Z, parent \d+\): no command line",
    "test_fd": r"fd \d+ -> .*",
    "test_memfd": r"fd \d+ -> /memfd:mine \(deleted\)",
    "test_temp_file": r"temp mine\w+",
    "test_shared_memory": r"shm mine",
    "test_nothing_more": "",
}


def test_what_a_test_leaves_behind_fails_this_test_and_is_ended(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, xdist_args: tuple[str, ...]
) -> None:
    """No other test is blamed; that the processes have gone is what the audit of this very test proves."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(LEAKS)

    # A Popen that nobody waits for, and a fork beside execnet's thread, warn.
    run_pytest(*xdist_args, "-W", "ignore", plugins=(*QUICK, "no:faultguard"))

    found = {report.nodeid.partition("::")[2]: report for report in recorder.reports(when="teardown")}
    assert found.keys() == LINES.keys()
    for name, line in LINES.items():
        expected = rf"left behind by this test:\n  {line}" if line else ""
        assert re.fullmatch(expected, found[name].longrepr), found[name].longrepr


def test_a_process_that_is_just_going_is_no_leftover() -> None:
    """It has some time: here an orphan ends by itself soon after the test."""
    subprocess.run(["sh", "-c", "sleep 0.3 &"], check=True)


def test_what_is_allowed_is_ended_without_a_word(allow_leftovers: list[str]) -> None:
    allow_leftovers.append("sleep 600")

    subprocess.run(["sh", "-c", "sleep 600 &"], check=True)
