"""Whether the page for those who come from another tool names each option and ini setting that the tool has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from testing.peers.sessions import Run
from testing.peers.tools import PEERS
from testing.peers.tools import ROOT
from testing.peers.tools import python_of

PAGE = ROOT / "docs" / "coming-from.rst"
#: In pytest's help: an option, which begins a line, or follows another name of it; and an ini setting with its type.
_DECLARED = re.compile(r"^  (?:-\w, |--[\w-]+(?:=\S+)?, )*(--[\w-]+)|^  (\w+) \(\w+\):", re.MULTILINE)


def unnamed(workdir: Path) -> Iterator[str]:
    """What pytest's help tells of a tool and the page does not, as ``tool: name``."""
    page = PAGE.read_text()
    for tool in PEERS:
        run = Run(tool=tool, python=python_of(tool, workdir), workdir=workdir)
        with_it = _declared(run({}, "--help").output)
        without = _declared(run({}, "--help", env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}).output)
        own = with_it - without
        if not own:
            raise RuntimeError(f"{tool.name} has no option: is it installed?")
        yield from (
            f"{tool.name}: {name}" for name in sorted(own) if not re.search(rf"(?<![\w-]){name}(?![\w-])", page)
        )


def _declared(told: str) -> set[str]:
    return {option or setting for option, setting in _DECLARED.findall(told)}
