"""Promise 10: quiet when all is well. A passing run prints nothing extra and leaves no file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from testing.harness import QUICK
from testing.harness import common_options

if TYPE_CHECKING:
    from testing.harness import Recorder
    from testing.harness import RunPytest

PASSING = """
import logging
import os
import sys

import pytest
import pytest_faultguard


@pytest.fixture(scope="module")
def shared():
    yield 3


@pytest.mark.parametrize("number", range(5))
def test_number(number, shared, capsys):
    print("captured")
    logging.getLogger().warning("captured, too")
    assert shared == 3


def test_writes():
    print("out")
    os.write(2, b"err\\n")


@pytest.mark.skip(reason="not now")
def test_skipped():
    pass


@pytest.mark.xfail(reason="not yet")
def test_xfailed():
    assert 0


def test_guarded(request):
    option = request.config.getoption("faultguard", default=False)
    assert pytest_faultguard.is_guarded() == (option or request.node.get_closest_marker("faultguard") is not None)
"""


def told(result: pytest.RunResult) -> list[str]:
    """The lines of a session, without times and what runs in another order each time under pytest-xdist."""
    lines = [*result.outlines, "---", *result.errlines]
    told = [re.sub(r"\bin \d+\.\d\ds|\[gw\d\]|^plugins: .*|^rootdir: .*", "", line) for line in lines]
    if any("[gw" in line for line in lines) or any("2 workers" in line for line in lines):
        told = sorted(re.sub(r"\[ *\d+%\]", "", line).strip(" .xs") for line in told)
    return told


@pytest.mark.parametrize(
    "args",
    [("-rA",), ("-v",), ("-q",), ("-s",), ("--collect-only",), ("-n2",), ("-n2", "-v")],
    ids=" ".join,
)
def test_a_passing_run_prints_what_plain_pytest_prints(
    pytester: pytest.Pytester, run_pytest: RunPytest, args: tuple[str, ...]
) -> None:
    pytester.makepyfile(PASSING)

    plain = run_pytest(*args, plugins=(*QUICK, "no:faultguard"))
    guarded = run_pytest(*args, "--faultguard", plugins=QUICK)

    assert told(guarded) == told(plain)
    assert (guarded.ret, plain.ret) == (0, 0)


def test_a_plugin_that_guards_nothing_is_not_noticed(
    pytester: pytest.Pytester, run_pytest: RunPytest, xdist_args: tuple[str, ...]
) -> None:
    """Installed, but no test is marked: the same text, and not even a signal is touched."""
    pytester.makepyfile(PASSING)
    pytester.makeconftest(
        """
        import os
        import signal

        import pytest

        BEFORE = [signal.getsignal(number) for number in signal.valid_signals()]
        PID = os.getpid()

        @pytest.fixture(autouse=True)
        def untouched():
            yield
            assert [signal.getsignal(number) for number in signal.valid_signals()] == BEFORE
            assert os.getpid() == PID
        """
    )

    plain = run_pytest(*xdist_args, plugins=(*QUICK, "no:faultguard"))
    idle = run_pytest(*xdist_args, plugins=QUICK)

    assert told(idle) == told(plain)
    assert idle.ret == 0


@pytest.mark.parametrize("args", [(), ("-n2",), ("--capture=sys",), ("-s",)], ids=" ".join)
def test_a_passing_run_leaves_no_file(
    pytester: pytest.Pytester, run_pytest: RunPytest, audit_tmp: Path, args: tuple[str, ...]
) -> None:
    """Not in the directory for temporary files, which it has for itself here, nor where it was started."""
    pytester.makepyfile(PASSING)
    before = set(pytester.path.rglob("*"))

    # Not run_pytest(): that names a base directory for temporary files.
    done = pytester.run(sys.executable, "-B", "-m", "pytest", *common_options(), "--faultguard", *args, timeout=60)

    assert done.ret == 0
    assert set(pytester.path.rglob("*")) - before - {pytester.path / "stdout", pytester.path / "stderr"} == set()
    assert [path for path in audit_tmp.rglob("*") if not path.is_dir()] == []
    assert {path.relative_to(audit_tmp).parts[0].startswith("pytest-of-") for path in audit_tmp.rglob("*")} <= {True}


@pytest.mark.parametrize("options", [("-W", "always"), ("-X", "dev", "-W", "error")], ids=["always", "dev-mode-error"])
def test_no_warning_beside_threads(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    xdist_args: tuple[str, ...],
    options: tuple[str, ...],
) -> None:
    """Since 3.12 a fork beside a thread warns (execnet has some): ours are not the user's.

    `always` shows what `error` does not: of this warning, CPython itself clears the exception.
    """
    pytester.makeconftest(
        """
        import threading

        WAITING = threading.Event()
        THREAD = threading.Thread(target=WAITING.wait)

        def pytest_sessionstart():
            THREAD.start()

        def pytest_sessionfinish():
            WAITING.set()
            THREAD.join()
        """
    )
    pytester.makepyfile(
        """
        import subprocess

        import pytest

        @pytest.mark.parametrize("number", range(4))
        def test_number(number, faultguard_data):
            faultguard_data["number"] = number
            faultguard_data["dilled"] = lambda: number
            faultguard_data["large"] = bytes(1 << 20)
            subprocess.run(["true"], check=True)

        def test_fails(faultguard_data):
            faultguard_data["rescued"] = "by another fork"
            assert 0
        """
    )
    plugins = common_options(("recorder", *QUICK))

    done = pytester.run(
        sys.executable, *options, "-m", "pytest", *plugins, "--faultguard", *options[-2:], *xdist_args, timeout=60
    )

    done.assert_outcomes(passed=4, failed=1)
    assert recorder.warnings() == []
    assert done.errlines == []


def test_importing_the_package_imports_no_pytest(tmp_path: Path) -> None:
    """Nor anything else that a plain program would not have asked for."""
    code = """
import sys
import pytest_faultguard
for name in pytest_faultguard.__all__:
    getattr(pytest_faultguard, name)
print(sorted({"_pytest", "pluggy", "pytest", "xdist", "execnet", "dill", "numpy", "multiprocessing"} & set(sys.modules)))
"""

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.stdout, done.stderr, done.returncode) == ("[]\n", "", 0)
