"""A test under valgrind: half a minute for an interpreter to begin, so it is no part of every run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from testing.harness import RunPytest


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="needs valgrind")
def test_valgrind(pytester: pytest.Pytester, run_pytest: RunPytest, programs: Path) -> None:
    """It is the process itself, knows no pidfd, and tells of the bad write."""
    pytester.makepyfile("def test_crashes():\n    from programs import lib\n    lib.null_write()\n")

    result = run_pytest("--faultguard", "--faultguard-exec=valgrind", timeout=180)

    result.assert_outcomes(failed=1)
    told = f"{result.stdout}\n{result.stderr}"
    assert "Invalid write of size" in told
    assert "SIGSEGV (segmentation fault) in call" in told
