"""The rows of the table, and how they look."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import textwrap
from collections.abc import Iterator
from collections.abc import Sequence

from testing.bench import table as bench
from testing.parity.compare import Parity
from testing.parity.suites import Ways

MARKS = ".. begin parity table\n", ".. end parity table\n"
MARKS_OF_OTHERS = ".. begin table of other ways\n", ".. end table of other ways\n"
_HEAD = ("Suite", "Of", "Tests run", "Phases compared", "Not the same", "Of these explained", "Unsteady", "Time")


def lines(parity: Parity) -> Iterator[str]:
    """All that is to be said of a suite, for people."""
    for difference in parity.unexplained:
        yield f"NOT THE SAME {difference}"
    for difference, why in parity.explained:
        yield f"explained {difference}; {why.why}"
    for difference in parity.flaky:
        yield f"unsteady without the guard {difference.test} [{difference.when}]"
    for why in parity.stale:
        yield f"EXPLAINED, BUT THE SAME {why.pattern}; {why.why}"
    differences = len(parity.unexplained) + len(parity.explained)
    yield (
        f"{parity.tests:,} of {parity.collected:,} tests, {parity.phases:,} phases, {differences} differences, "
        f"{len(parity.explained)} of them explained, {len(parity.flaky)} unsteady, {parity.ratio:.2f} x the time"
    )


def render(results: Sequence[Parity]) -> str:
    """The table as reStructuredText, after a line about the versions, and what explains the differences."""
    cells = [_HEAD]
    for one in results:
        tests = f"{one.tests:,}" if one.tests == one.collected else f"{one.tests:,} of {one.collected:,}"
        differences = len(one.unexplained) + len(one.explained)
        cells.append(
            (
                one.suite.name if one.ways == Ways() else f"{one.suite.name} ({one.ways})",
                one.suite.version,
                tests,
                f"{one.phases:,}",
                str(differences),
                str(len(one.explained)),
                str(len(one.flaky)),
                f"{one.ratio:.1f} x",
            )
        )
    told = [_machine(), "", ".. list-table::", "   :header-rows: 1", ""]
    for line in cells:
        told += [f"   {'*' if number == 0 else ' '} - {cell}".rstrip() for number, cell in enumerate(line)]
    whys: dict[tuple[str, str], list[str]] = {}
    for one in results:
        for difference, why in one.explained:
            whys.setdefault((one.suite.name, why.why), []).append(difference.test)
    for (suite, told_why), tests_of_it in whys.items():
        tests = ", ".join(f"``{test}``" for test in dict.fromkeys(tests_of_it))
        text = f"Explained, in {suite}: {tests}: {told_why}."
        told += ["", textwrap.fill(text, 110, break_on_hyphens=False, break_long_words=False)]
    return "\n".join(told)


def placed(document: str, text: str, *, is_of_others: bool) -> str:
    """The document with the table between its marks."""
    return bench.placed(document, text, MARKS_OF_OTHERS if is_of_others else MARKS)


def _machine() -> str:
    today = dt.datetime.now(tz=dt.timezone.utc).date()
    names = ("pytest-faultguard", "pytest")
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in names]
    kernel = ".".join(platform.release().split(".")[:2])
    told = f"Compared on {today} with {', '.join(versions)}, on Linux {kernel} with {os.cpu_count()} CPUs."
    return textwrap.fill(told, 110, break_on_hyphens=False)
