"""The rows of the table, and how they look."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

MARKS = ".. begin bench table\n", ".. end bench table\n"
_PACKAGES = ("pytest-faultguard", "pytest", "pytest-xdist", "numpy")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number: what was measured, what came out, and what was promised."""

    what: str
    #: The numbers behind the value.
    measured: str
    value: str
    bound: str
    #: None where it could not be measured here, and why stands in ``measured``.
    holds: bool | None

    @property
    def verdict(self) -> str:
        """The last column."""
        return {True: "holds", False: "**does not hold**", None: "not measured"}[self.holds]

    def __str__(self) -> str:
        return f"{self.what}: {self.value} (bound {self.bound}): {self.verdict}; {self.measured}"


def at_most(value: float, bound: float, unit: str = "") -> tuple[str, str, bool]:
    """Value and bound as texts, and whether it holds."""
    return f"{value:.2f}{unit}", f"≤ {bound:g}{unit}", value <= bound


def at_least(value: float, bound: float, unit: str = "") -> tuple[str, str, bool]:
    """Value and bound as texts, and whether it holds."""
    return f"{value:.1f}{unit}", f"≥ {bound:g}{unit}", value >= bound


def slope(points: Sequence[tuple[float, float]]) -> float:
    """That of the line which Theil and Sen draw: the median of those between any two points. What comes once has no say."""
    return median((b - a) / (n - m) for (m, a), (n, b) in combinations(points, 2))


def row(what: str, measured: str, judged: tuple[str, str, bool]) -> Row:
    """A row, with what :func:`at_most` or :func:`at_least` said."""
    value, bound, holds = judged
    return Row(what=what, measured=measured, value=value, bound=bound, holds=holds)


def render(rows: Sequence[Row]) -> str:
    """The table as reStructuredText, after a line about the machine."""
    cells = [("What", "Measured", "Value", "Bound", "")]
    cells += [(one.what, one.measured, one.value, one.bound, one.verdict) for one in rows]
    lines = [_machine(), "", ".. list-table::", "   :header-rows: 1", ""]
    for line in cells:
        lines += [f"   {'*' if number == 0 else ' '} - {cell}".rstrip() for number, cell in enumerate(line)]
    return "\n".join(lines)


def placed(document: str, text: str, marks: tuple[str, str] = MARKS) -> str:
    """The document with the table between its marks."""
    begin, end = marks
    head, found, rest = document.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"no marks: {begin.strip()} and {end.strip()}")
    return f"{head}{begin}\n{text}\n\n{end}{tail}"


def _machine() -> str:
    today = dt.datetime.now(tz=dt.timezone.utc).date()
    versions = [f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in _PACKAGES)]
    kernel = ".".join(platform.release().split(".")[:2])
    told = f"Measured on {today} with {', '.join(versions)}, on Linux {kernel} with {os.cpu_count()} CPUs."
    return textwrap.fill(told, 110, break_on_hyphens=False)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"
