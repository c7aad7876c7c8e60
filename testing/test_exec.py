"""``--faultguard-exec``: the one guarded test under a debugger, with the terminal, and all the time that it takes."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from testing.harness import Recorder
from testing.harness import RunPytest

TESTS = """
import os
import pytest

guard = pytest.mark.faultguard

@guard(timeout=0.2)
def test_takes_its_time(faultguard_data):
    import time
    faultguard_data["mark"] = os.environ.get("UNDER")
    time.sleep(0.5)
    assert os.environ.get("UNDER") == "command"

@guard
def test_crashes(faultguard_data):
    from programs import lib
    faultguard_data["step"] = 1
    lib.null_write()

@guard
def test_exits():
    os._exit(3)

def test_unguarded():
    pass
"""


@pytest.fixture
def tests(pytester: pytest.Pytester, programs: Path) -> None:
    """The tests of an inner session."""
    pytester.makepyfile(test_it=TESTS)


@pytest.mark.usefixtures("tests")
def test_the_one_guarded_test_runs_under_the_command(run_pytest: RunPytest, recorder: Recorder) -> None:
    """Its reports are those of a guarded test, but for the deadline; other tests run as always."""
    run_pytest("--faultguard-exec=env UNDER=command", "-k", "time or unguarded").assert_outcomes(passed=2, deselected=2)

    assert recorder.outcomes() == {
        "test_takes_its_time": ["setup passed", "call passed", "teardown passed"],
        "test_unguarded": ["setup passed", "call passed", "teardown passed"],
    }


@pytest.mark.parametrize("scope", ["function", "session"])
@pytest.mark.usefixtures("tests")
def test_a_crash_is_a_crash(run_pytest: RunPytest, scope: str) -> None:
    """With its dump and its data."""
    result = run_pytest("--faultguard-exec=env X=1", f"--faultguard-scope={scope}", "-k", "crashes")

    result.assert_outcomes(failed=1, deselected=3)
    result.stdout.fnmatch_lines(
        ["E * SIGSEGV (segmentation fault) in call after *", "*faulthandler dump*", "'step' = 1"], consecutive=False
    )


def test_much_on_stderr_with_capture_off(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """It goes to the terminal, and nobody has to pass it on."""
    pytester.makepyfile("import os\ndef test_it(): os.write(2, b'x' * 200_000 + b'end')\n")

    result = run_pytest("-s", "--faultguard", "--faultguard-exec=env X=1")

    result.assert_outcomes(passed=1)
    assert "xend" in str(result.stderr)


def test_what_cannot_be_found_again(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """Is the error, and not what the child makes of that."""
    pytester.makepyfile(
        "import os, pytest\n@pytest.mark.parametrize('number', [os.environ.get('PYTEST_FAULTGUARD', '0')])\n"
        "def test_it(number): pass\n"
    )

    result = run_pytest("--faultguard", "--faultguard-exec=env X=1")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*test_it[[]0] was not found by a child that collected it anew*"])


@pytest.mark.usefixtures("tests")
def test_an_exit_is_an_exit(run_pytest: RunPytest) -> None:
    """Where the command passes it on."""
    result = run_pytest("--faultguard-exec=env X=1", "-k", "exits")

    result.assert_outcomes(failed=1, deselected=3)
    result.stdout.fnmatch_lines(["*exit code 3 in call after *: the test never finished"])


@pytest.mark.skipif(shutil.which("gdb") is None, reason="needs gdb")
@pytest.mark.usefixtures("tests")
def test_gdb_stops_where_it_crashes(run_pytest: RunPytest) -> None:
    """It shows the C stack; the session tells that the test did not end."""
    probe = subprocess.run(
        ["gdb", "-batch", "-ex", "run", "--args", "true"], check=False, capture_output=True, text=True, timeout=60
    )
    if "exited normally" not in probe.stdout:
        pytest.skip("gdb may not trace a process here")
    result = run_pytest("--faultguard-exec=gdb -batch -ex run -ex bt --args", "-k", "crashes")

    result.assert_outcomes(failed=1, deselected=3)
    result.stdout.fnmatch_lines(
        [
            "*received signal SIGSEGV*",
            "#0 *null_write*",
            "*lost in call after *: the command under which it ran ended before it",
            "'step' = 1",
        ]
    )


@pytest.mark.parametrize("end", ["answered\n", "\x03"], ids=["answer", "interrupt"])
def test_the_terminal_is_passed_through(pytester: pytest.Pytester, run_pytest: RunPytest, end: str) -> None:
    """A test reads what is typed, and Ctrl-C is for the command: pytest goes on."""
    pytester.makepyfile(
        test_it="""
        import os, pytest, signal, sys

        @pytest.mark.faultguard
        def test_asks():
            assert os.isatty(0) and os.isatty(1) and os.isatty(2)
            assert os.tcgetpgrp(0) == os.getpgrp()
            try:
                assert input("ready? ") == "answered"
            except KeyboardInterrupt:
                pytest.fail("the test was interrupted")

        def test_next():
            print("next")
        """
    )
    ours, theirs = pty.openpty()
    command = [sys.executable, "-mpytest", "-p", "no:cacheprovider", "--faultguard-exec=env X=1", "-v"]
    with subprocess.Popen(
        [sys.executable, "-c", _TAKE_TERMINAL, *command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=pytester.path,
        start_new_session=True,
    ) as process:
        try:
            os.close(theirs)
            told = _read_until(ours, b"ready? ")
            os.write(ours, end.encode())
            # CPython may miss a signal that comes just before it waits for the terminal: as people do, once more then.
            told += _read_until(ours, None, again=end if end == "\x03" else "")
            process.wait(60)
        finally:
            process.kill()  # With it goes the terminal, and who has that.
            os.close(ours)

    text = told.decode()
    assert "test_next PASSED" in text
    assert ("test_asks PASSED" in text or "ready? answered" in text) == (end != "\x03")
    assert ("1 failed, 1 passed" if end == "\x03" else "2 passed") in text


_TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def _read_until(fd: int, words: bytes | None, *, again: str = "") -> bytes:
    """What comes from a terminal until these words, or its end, with a deadline; typing something again meanwhile."""
    told, deadline = b"", time.monotonic() + 60
    while words is None or words not in told:
        left = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([fd], [], [], min(left, 1.0) if again else left)
        if not ready and again and left:
            os.write(fd, again.encode())
            continue
        assert ready, told.decode()
        try:
            data = os.read(fd, 1 << 16)
        except OSError:  # Linux: nobody has it open any more.
            return told
        if not data:
            return told
        told += data
    return told


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--faultguard-exec=gdb",), "takes one guarded test, and 3 are selected*"),
        (("--faultguard-exec=gdb", "-k", "unguarded"), "takes one guarded test, and 0 are selected*"),
        (("--faultguard-exec=gdb 'x", "-k", "exits"), '*"gdb \'x": No closing quotation'),
        (("--faultguard-exec=", "-k", "exits"), "'' is no command"),
        (("--faultguard-exec=gdb", "-n2", "-k", "exits"), "a worker of pytest-xdist has no terminal; use -n0"),
    ],
)
@pytest.mark.usefixtures("tests")
def test_wrong_use(run_pytest: RunPytest, args: tuple[str, ...], told: str) -> None:
    """A usage error that says what is wrong."""
    result = run_pytest(*args)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --faultguard-exec*{told}"])


@pytest.mark.usefixtures("tests")
def test_no_such_command(run_pytest: RunPytest) -> None:
    """The test is an error at setup."""
    result = run_pytest("--faultguard-exec=no-such-debugger --args", "-k", "exits")

    result.assert_outcomes(errors=1, deselected=3)
    result.stdout.fnmatch_lines(["E *LaunchError: cannot start no-such-debugger: *"])
