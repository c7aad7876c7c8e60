"""Fill the generated parts of README.rst and docs/ anew: the table of options, and the report of a real crash.

Run it with the plugin installed: ``python docs/regenerate.py``. The tests compare what stands there with the code.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from pytest_faultguard import options

ROOT = Path(__file__).parents[1]
OPTIONS = ("README.rst", "docs/reference.rst")
CRASHES = ("README.rst", "docs/report.rst")
#: The demo's test whose report is shown.
EXAMPLE = "test_behaves_like_a_deque"
_COLUMNS = "88"


def demo_output(*args: str, columns: str = "200") -> str:
    """What pytest prints of the demo."""
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "testing/demo", *args],
            cwd=ROOT,
            env={**os.environ, "COLUMNS": columns, "PY_COLORS": "0", "CI": "true", "TMPDIR": directory},
            capture_output=True,
            text=True,
            check=False,
        )
    return done.stdout + done.stderr


def crash_output() -> str:
    """The report of one crashing test of the demo, as pytest prints it."""
    output = demo_output("-k", EXAMPLE, columns=_COLUMNS)
    report = output.partition("= FAILURES =")[2].partition("\n")[2]
    if EXAMPLE not in report:
        msg = f"the demo printed no crash:\n{output}"
        raise RuntimeError(msg)
    return neutral(report)


def neutral(report: str) -> str:
    """Without what differs from one run, or one machine, to the next."""
    report = re.sub(r"0x[0-9a-f]{8,16}", "0x00007f52a1c4d740", report)
    report = re.sub(r"after \d+\.\d\d s", "after 0.01 s", report)
    report = re.sub(r"\d+ frames of pytest", "42 frames of pytest", report)
    report = re.sub(r"in \d+\.\d\ds", "in 0.31s", report)
    report = re.sub(r'File "[^"]*/testing/demo/', 'File "/home/you/ringbuf/', report)
    return "\n".join(line.rstrip() for line in report.strip().splitlines())


def filled(text: str, name: str, content: str) -> str:
    """The document with ``content`` between its two marks."""
    begin, end = f".. begin {name}\n", f".. end {name}\n"
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        msg = f"no marks for {name}"
        raise ValueError(msg)
    return f"{head}{begin}\n{content}\n\n{end}{tail}"


def crash_block(report: str) -> str:
    """The report as a literal block."""
    lines = [f"   {line}".rstrip() for line in report.splitlines()]
    return "\n".join([".. code-block:: text", "", *lines])


def main() -> None:
    """Write the documents."""
    crash = crash_block(crash_output())
    contents = [(name, "generated options", options.reference().rstrip()) for name in OPTIONS]
    contents += [(name, "crash output", crash) for name in CRASHES]
    for name, mark, content in contents:
        path = ROOT / name
        path.write_text(filled(path.read_text(), mark, content))


if __name__ == "__main__":
    main()
