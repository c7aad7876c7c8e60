"""The two tables, as they stand in the documentation."""

from __future__ import annotations

import datetime as dt
import os
import platform
import textwrap
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

from testing.peers import behaviours
from testing.peers import bench
from testing.peers.tools import MEASURED
from testing.peers.tools import OURS
from testing.peers.tools import PLUGINS
from testing.peers.tools import Tool
from testing.peers.tools import python_of
from testing.peers.tools import versions

BENCH_MARKS = ".. begin peers bench\n", ".. end peers bench\n"
BEHAVIOUR_MARKS = ".. begin peers behaviours\n", ".. end peers behaviours\n"


def render_bench(rows: Sequence[bench.Row], workdir: Path) -> str:
    """Milliseconds per test; in brackets how many times ours."""
    names = [tool.name for tool in bench.COLUMNS]
    cells = [["", *names], *([row.what, *(bench.cell(row, name) for name in names)] for row in rows)]
    return _page(cells, _versions(MEASURED, workdir))


def render_behaviours(rows: Sequence[behaviours.Row], workdir: Path) -> str:
    """Yes and no."""
    names = [tool.name for tool in behaviours.TOOLS]
    cells = [["", *names], *([row.what, *(_emphasized(row.cells[name]) for name in names)] for row in rows)]
    return _page(cells, _versions(behaviours.TOOLS, workdir, *PLUGINS))


def _emphasized(cell: str) -> str:
    return cell if cell == "yes" else f"**no**{cell.removeprefix('no')}"


def _page(cells: Iterable[Iterable[str]], told: str) -> str:
    lines = [told, "", ".. list-table::", "   :header-rows: 1", ""]
    for row in cells:
        lines += [f"   {'*' if number == 0 else ' '} - {cell}".rstrip() for number, cell in enumerate(row)]
    return "\n".join(lines)


def _versions(tools: Iterable[Tool], workdir: Path, *plugins: str) -> str:
    today = dt.datetime.now(tz=dt.timezone.utc).date()
    kernel = ".".join(platform.release().split(".")[:2])
    texts = []
    beside: Mapping[str, str] = {}
    for tool in tools:
        found = versions(python_of(tool, workdir, *plugins, fresh=False))
        named = f"{tool.name} {found[tool.name]} with pytest {found['pytest']}" if tool.name in found else ""
        texts.append((named or f"plain pytest {found['pytest']}") + (f" ({tool.why})" if tool.why else ""))
        beside = {name: found[name] for name in plugins} if tool is OURS else beside
    texts += [f"{name} {version}" for name, version in beside.items()]
    told = f"Measured on {today} with {'; '.join(texts)}; Python {platform.python_version()}, Linux {kernel}, "
    return textwrap.fill(f"{told}{os.cpu_count()} CPUs.", 110, break_on_hyphens=False, break_long_words=False)
