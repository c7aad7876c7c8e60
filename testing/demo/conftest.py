"""Builds the C extension `ringbuf` before its tests are collected, and again when its source is newer."""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCE = HERE / "ringbuf.c"
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
BUILD = HERE / "build" / sys.implementation.cache_tag


def pytest_configure() -> None:
    """Make `import ringbuf` work."""
    BUILD.mkdir(parents=True, exist_ok=True)
    # The workers of pytest-xdist ask at the same time.
    with (BUILD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build(BUILD / f"ringbuf{SUFFIX}")
    sys.path.insert(0, str(BUILD))


def build(extension: Path) -> None:
    if extension.exists() and extension.stat().st_mtime >= SOURCE.stat().st_mtime:
        return
    includes = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
    if not any(Path(include, "Python.h").exists() for include in includes):
        raise pytest.UsageError(
            f"the demo needs Python's header files, and there is no Python.h in {' or '.join(sorted(includes))} "
            "(Debian, Ubuntu: apt install python3-dev; Fedora: dnf install python3-devel)"
        )
    unfinished = extension.with_suffix(".unfinished")
    flags = ["-shared", "-fPIC", "-g", "-O1", "-fno-omit-frame-pointer", "-Wall"]
    paths = [*(f"-I{include}" for include in sorted(includes)), "-o", str(unfinished), str(SOURCE)]
    done = subprocess.run([*compiler(), *flags, *paths], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        raise pytest.UsageError(f"the demo's C extension does not build:\n{shlex.join(done.args)}\n{done.stderr}")
    unfinished.replace(extension)


def compiler() -> list[str]:
    """The one that the user names, or the first that is there."""
    names = [os.environ["CC"]] if "CC" in os.environ else ["cc", "gcc", "clang"]
    for name in names:
        command = shlex.split(name)
        if command and shutil.which(command[0]):
            return command
    raise pytest.UsageError(
        f"the demo needs a C compiler, and there is no {' or '.join(names)} "
        "(Debian, Ubuntu: apt install gcc; Fedora: dnf install gcc; or name yours in $CC)"
    )
