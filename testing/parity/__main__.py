"""Run other projects' test suites with and without the guard and compare each phase: ``python testing/parity``.

Prints each difference and a table for ``docs/parity.rst``; ``--write`` puts it there. The exit status is 1 where a
difference is not explained, where one that is explained is gone, and where a suite could not be run. With
``--others`` all suites are run whole with one child for the session, and the small ones with every other scope and
start method; that is a table of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# This folder is no package of the plugin and is not installed: at the end of the path, what is installed comes first.
sys.path.append(str(Path(__file__).resolve().parents[2]))

from testing.parity import sessions
from testing.parity import table
from testing.parity.compare import Parity
from testing.parity.compare import compare
from testing.parity.suites import OTHERS
from testing.parity.suites import SHARED
from testing.parity.suites import SUITES
from testing.parity.suites import Suite
from testing.parity.suites import Ways


def main() -> int:
    """Run the chosen suites; 1 where something is not as it should be."""
    names = [suite.name for suite in SUITES]
    parser = argparse.ArgumentParser(prog="python testing/parity", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="SUITE", help=f"{', '.join(names)}; all of them without any")
    parser.add_argument("--sample", type=int, metavar="N", help="run N tests of each suite; 0 for all")
    parser.add_argument("--seed", type=int, default=0, help="by which the sample is taken; another one, other tests")
    parser.add_argument("--scope", help="of the guarded session: which tests share a child; function without")
    parser.add_argument("--start", help="of the guarded session: how a child is started; fork without")
    told = f"run all with {SHARED}, and the small ones with every other scope and start method"
    parser.add_argument("--others", action="store_true", help=told)
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between the marks in FILE")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")
    # The kernel may take a second to write a core; that is its time, not ours.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    chosen = [suite for suite in SUITES if suite.name in (options.names or names)]
    given = Ways(scope=options.scope or "function", start=options.start or "fork")
    runs = [(suite, given, suite.sample) for suite in chosen]
    if options.others:
        if options.scope or options.start:
            print("--others: not beside --scope and --start, which choose one", file=sys.stderr)
            return 0
        runs = [(suite, SHARED, 0) for suite in chosen]
        runs += [(suite, ways, suite.small) for suite in chosen if suite.small is not None for ways in OTHERS]
    results: list[Parity] = []
    for suite, ways, sample in runs:
        started = time.monotonic()
        name = f"{suite.name} ({ways})"
        try:
            result = _run(suite, ways, sample if options.sample is None else options.sample, options.seed)
        except (RuntimeError, subprocess.SubprocessError) as error:
            # The others have their say.
            print(f"{name}: could not be run: {error}", file=sys.stderr)
            continue
        results.append(result)
        for line in table.lines(result):
            print(f"{name}: {line}", file=sys.stderr)
        print(f"{name}: took {time.monotonic() - started:.0f} s", file=sys.stderr)
    text = table.render(results)
    print(text)
    holds = len(results) == len(runs) and all(result.holds for result in results)
    if options.write and holds:
        options.write.write_text(table.placed(options.write.read_text(), text, is_of_others=options.others))
    return 0 if holds else 1


def _run(suite: Suite, ways: Ways, sample: int, seed: int) -> Parity:
    with tempfile.TemporaryDirectory(prefix="faultguard-parity-") as name:
        directory = Path(name)
        (directory / "suite").mkdir()
        place = suite.place(directory / "suite")
        sample = 0 if suite.is_whole else sample
        # The guarded session between the others: a machine that gets slower is not ours.
        plain, guarded, again = (
            sessions.run(suite, place, directory / f"{number}.jsonl", *flags, sample=sample, seed=seed)
            for number, flags in enumerate((("--no-faultguard",), (*suite.guard, *ways.flags), ("--no-faultguard",)))
        )
    return compare(suite, ways, plain, guarded, again)


sys.exit(main())
