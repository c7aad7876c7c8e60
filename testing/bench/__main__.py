"""Measure the numbers that are promised: ``python testing/bench``.

Prints a table for ``docs/bench.rst``; ``--write`` puts it there. The exit status is 1 where a bound does not hold.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path

# This folder is no package of the plugin and is not installed: at the end of the path, what is installed comes first.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from testing.bench import children
from testing.bench import crashes
from testing.bench import data
from testing.bench import forks
from testing.bench import shared
from testing.bench import table
from testing.bench.table import Row

#: By name, in the order of the table.
BENCHES: Mapping[str, Callable[[float], Iterator[Row]]] = {
    "fork": forks.fork,
    "numpy": forks.fork_with_numpy,
    "session": forks.whole_sessions,
    "data": data.assignments,
    "crash": crashes.next_start,
    "timeout": crashes.timeouts,
    "children": children.ten_thousand,
    "shared": shared.trivial,
    "spawned": shared.spawned,
    "starts": shared.starts,
    "suite": shared.suite,
    "pace": shared.pace,
    "crashing": shared.crashing,
}


def main() -> int:
    """Run the chosen rows; 1 where a bound does not hold."""
    parser = argparse.ArgumentParser(prog="python testing/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="ROW", help=f"{', '.join(BENCHES)}; all of them without any")
    parser.add_argument("--scale", type=float, default=1.0, help="how many repetitions, 1 being the documented number")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between the marks in FILE")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BENCHES):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    # The kernel may take a second to write a core; that is its time, not ours.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    rows: list[Row] = []
    for name in options.names or BENCHES:
        started = time.monotonic()
        for row in BENCHES[name](options.scale):
            rows.append(row)
            print(f"{name}: {row}", file=sys.stderr)
        print(f"{name}: took {time.monotonic() - started:.0f} s", file=sys.stderr)
    text = table.render(rows)
    print(text)
    if options.write:
        options.write.write_text(table.placed(options.write.read_text(), text))
    return 0 if all(row.holds is not False for row in rows) else 1


sys.exit(main())
