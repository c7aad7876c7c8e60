"""Inner pytest sessions that say in JSON what they measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PLUGINS = Path(__file__).parent / "plugins"
#: The plugins of every session that is measured. No others are loaded, so that all sessions are alike.
BASE = ("xdist",)
SESSION_SECONDS = 300.0


def run(files: Mapping[str, str], *args: str, plugins: tuple[str, ...], env: Mapping[str, str] | None = None) -> Any:
    """Run pytest on these files, in a process and a directory of its own; what its plugins wrote."""
    with tempfile.TemporaryDirectory(prefix="faultguard-bench-") as name:
        directory = Path(name)
        written = directory / "measured.json"
        (directory / "pytest.ini").write_text("[pytest]\n")
        for file, text in files.items():
            (directory / file).write_text(text)
        words = [word for plugin in (*BASE, *plugins) for word in ("-p", plugin)]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words, *args]
        done = subprocess.run(
            command,
            cwd=directory,
            env={**_environment(directory, written), **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SESSION_SECONDS,
            check=False,
        )
        # Also one that has measured something, before pytest itself failed.
        if not written.exists() or done.returncode not in {0, 1}:
            raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return json.loads(written.read_text())


def _environment(directory: Path, written: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHON", "COV"))}
    return kept | {
        "BENCH_WRITE": str(written),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": str(PLUGINS),
        "TMPDIR": str(directory),
    }
