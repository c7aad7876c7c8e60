"""The ways to die, without the plugin: each ends its process as its file says."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from testing.programs import SIGNATURES
from testing.programs import missing
from testing.programs import sources

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE_SECONDS = 30


@dataclass(frozen=True)
class Way:
    """One program, how a process that runs it ends, and its last words."""

    code: str
    ending: int
    words: str = ""

    def __str__(self) -> str:
        return self.code.partition("(")[0].removeprefix("lib.")


WAYS = [
    Way("lib.null_write()", -signal.SIGSEGV),
    Way("lib.abort_()", -signal.SIGABRT),
    Way("lib.assert_()", -signal.SIGABRT, "assert_: Assertion `stored <= capacity"),
    Way("lib.double_free()", -signal.SIGABRT, "free(): double free detected"),
    Way("lib.cxx_exception()", -signal.SIGABRT, "what():  bad index"),
    Way("lib.stack_overflow()", -signal.SIGSEGV),
    Way("lib.sigfpe()", -signal.SIGFPE),
    Way("lib.sigill()", -signal.SIGILL),
    Way("lib.sigbus()", -signal.SIGBUS),
    Way("lib.exit3()", 3),
    Way("lib.exit0()", 0),
    Way("lib.native_thread_crash(0); time.sleep(60)", -signal.SIGSEGV),
    Way("lib.native_thread_abort(0); time.sleep(60)", -signal.SIGABRT),
    Way("lib.native_thread_crash(60_000_000); print('on'); sys.exit(4)", 4),
    Way("lib.kill_self(9)", -signal.SIGKILL),
    Way("lib.kill_self(15)", -signal.SIGTERM),
    Way(r"lib.write_stderr_then_abort(b'thread panicked\n')", -signal.SIGABRT, "thread panicked\n"),
    Way("lib.scribble(ctypes.addressof(lib._handle_box), 1 << 40)", -signal.SIGSEGV),
    Way(
        "block = ctypes.create_string_buffer(4); lib.scribble(block, 2); sys.exit(block.raw != b'\\xa5\\xa5\\0\\0')", 0
    ),
    Way("lib.close_all_fds(); os._exit(5 + os.path.exists('/proc/self/fd/2'))", 5),
    Way("lib.block_all_signals(); os.kill(os.getpid(), 15); sys.exit(6)", 6),
]
ENDLESS = [
    pytest.param("lib.loop_gil()", signal.SIGTERM, id="loop"),
    pytest.param("pylib.loop_gil()", signal.SIGTERM, id="loop_gil"),
    pytest.param("pylib.loop_blocked()", signal.SIGKILL, id="loop_blocked"),
]


def python(code: str) -> list[str]:
    """The command line of a process that runs the code."""
    prelude = "import ctypes, os, sys, time; from programs import lib, pylib"
    return [sys.executable, "-c", f"{prelude}; lib._handle_box = ctypes.c_long(); {code}"]


@pytest.fixture
def start(programs: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that waits for its code on stdin and says `ready` before it runs it."""
    code = "code = sys.stdin.readline(); print('ready', flush=True); exec(code)"
    with subprocess.Popen(
        python(code), cwd=programs.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_program_ends_its_process_as_its_file_says(programs: Path, way: Way) -> None:
    """The wait status is the real one, and the words on stderr are libc's own."""
    if reason := missing(way.code):
        pytest.skip(reason)
    done = subprocess.run(
        python(way.code), cwd=programs.parent, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )

    assert (done.returncode, way.words in done.stderr) == (way.ending, True), done.stderr


@pytest.mark.parametrize(("code", "ending"), ENDLESS)
def test_endless_program_takes_no_python_handler(start: subprocess.Popen[str], code: str, ending: int) -> None:
    """SIGINT and SIGUSR1 have handlers in Python, which never get their turn; SIGTERM's default acts, unless blocked."""
    assert start.stdin is not None
    assert start.stdout is not None
    start.stdin.write(f"import signal; signal.signal(10, lambda *_: os._exit(7)); {code}\n")
    start.stdin.flush()
    assert start.stdout.readline() == "ready\n"
    _wait_for_the_loop(start.pid)

    start.send_signal(signal.SIGINT)
    start.send_signal(signal.SIGUSR1)
    if ending == signal.SIGKILL:
        start.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        start.wait(0.3)
    start.send_signal(ending)

    assert start.wait(DEADLINE_SECONDS) == -ending


def test_stop_self_stops_the_process_and_goes_on_later(start: subprocess.Popen[str]) -> None:
    """A stopped process has not ended: only a waiter who asks for it hears of it."""
    assert start.stdin is not None
    start.stdin.write("lib.stop_self(); sys.exit(8)\n")
    start.stdin.flush()

    told = os.waitid(os.P_PID, start.pid, os.WSTOPPED)

    assert told is not None
    assert (told.si_code, told.si_status) == (os.CLD_STOPPED, signal.SIGSTOP)
    start.send_signal(signal.SIGCONT)
    assert start.wait(DEADLINE_SECONDS) == 8


def test_every_source_has_a_signature() -> None:
    """One file, one function, one line in the table."""
    assert sorted(SIGNATURES) == sorted(path.stem for path in sources())


def test_without_a_cxx_compiler_the_rest_runs(tmp_path: Path) -> None:
    """What is written in C++ is skipped, and says why."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("gcc", "as", "ld"):
        found = shutil.which(name)
        if found is not None:
            (folder / name).symlink_to(found)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CC", "CXX", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", "-q", f"--basetemp={tmp_path / 'base'}"]

    done = subprocess.run(
        [*command, __file__, "-k", "null_write or cxx_exception"],
        env={**environment, "PATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=10 * DEADLINE_SECONDS,
        check=False,
    )

    assert "1 passed, 1 skipped" in done.stdout, done.stdout + done.stderr
    assert "cxx_exception of testing/programs needs a C++ compiler ($CXX)" in done.stdout


def _wait_for_the_loop(pid: int) -> None:
    """Until the process has used some processor time after it said `ready`: nothing else in it runs that long."""
    ticks = _user_ticks(pid)
    while _user_ticks(pid) < ticks + 10:
        os.sched_yield()


def _user_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as stat:
        return int(stat.read().rpartition(")")[2].split()[11])
