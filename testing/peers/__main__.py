"""Run the other isolation tools beside ours: ``python testing/peers [bench | behaviours | options]``.

Prints a table of each for ``docs/peers.rst``; ``--write`` puts them there. The exit status is 1 where a behaviour that
is asked for is not ours, and where the page for those who come from another tool leaves out one of its options.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

# This folder is no package of the plugin and is not installed: at the end of the path, what is installed comes first.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from testing.bench import table
from testing.peers import behaviours
from testing.peers import bench
from testing.peers import options as theirs
from testing.peers import page
from testing.peers import sessions
from testing.peers.tools import OURS

TABLES = {"bench": bench.WORKLOADS, "behaviours": behaviours.ROWS, "options": ()}


def main() -> int:
    """Run the chosen table, or all; 1 where one of our cells in the table of behaviours is a no, or an option is not told."""
    parser = argparse.ArgumentParser(prog="python testing/peers", description=__doc__)
    parser.add_argument("table", nargs="?", choices=TABLES, help="all of them without any")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="of the table; all of them without any")
    parser.add_argument("--scale", type=float, default=1.0, help="how many tests, 1 being the documented number")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between the marks in FILE")
    parser.add_argument("--workdir", type=Path, metavar="DIR", help="keep the environments here, for the next time")
    options = parser.parse_args()
    if unknown := set(options.rows) - set(TABLES.get(options.table, ())):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    sessions.bound_this_process()
    with tempfile.TemporaryDirectory(prefix="faultguard-peers-") as name:
        workdir = (options.workdir or Path(name)).resolve()
        workdir.mkdir(parents=True, exist_ok=True)
        good = True
        if options.table in {None, "bench"}:
            rows = []
            for row in bench.measure(workdir, options.rows, options.scale):
                rows.append(row)
                _say(row.what, *(f"{tool} {row.milliseconds(tool):.2f} ms" for tool in row.taken))
            _put(page.render_bench(rows, workdir), options.write, page.BENCH_MARKS)
        if options.table in {None, "behaviours"}:
            found = []
            for behaviour in behaviours.measure(workdir, options.rows):
                found.append(behaviour)
                _say(behaviour.what, *(f"{tool} {cell}" for tool, cell in behaviour.cells.items()))
            _put(page.render_behaviours(found, workdir), options.write, page.BEHAVIOUR_MARKS)
            ours = {behaviour.name: behaviour.cells[OURS.name] for behaviour in found}
            good = all(cell == "yes" for cell in ours.values())
        if options.table in {None, "options"}:
            for option in theirs.unnamed(workdir):
                print(f"not in {theirs.PAGE.name}: {option}")
                good = False
    return 0 if good else 1


def _say(what: str, *cells: str) -> None:
    print(f"{time.strftime('%X')} {what}: {', '.join(cells)}", file=sys.stderr)


def _put(text: str, file: Path | None, marks: tuple[str, str]) -> None:
    print(text)
    if file:
        file.write_text(table.placed(file.read_text(), text, marks))


sys.exit(main())
