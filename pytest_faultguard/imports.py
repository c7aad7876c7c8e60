"""Which modules a Python file imports, read from its source and from the sources of what it imports.

Nothing is imported for this, and nothing is run: a statement counts wherever it stands, in a function too. What is
imported by name from text (``importlib.import_module``, plugins) is not seen.
"""

from __future__ import annotations

import ast
import sys
import tokenize
from collections.abc import Iterable
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import final


@final
class Imports:
    """Answers for many files; each source is read once."""

    def __init__(self, wanted: Iterable[str], root: Path) -> None:
        """Of :attr:`wanted`, each stands for its submodules, too; ``root`` is where the project is."""
        self._wanted = frozenset(wanted)
        self._packages = frozenset(name.partition(".")[0] for name in self._wanted)
        self._root = root
        self._direct: dict[str, frozenset[str]] = {}
        self._files: dict[str, Path | None] = {}

    def reach(self, file: Path, package: str = "") -> bool:
        """Whether a file in that package imports a wanted module: itself, or by what it imports of the project."""
        seen: set[str] = set()
        waiting = set(self._imported_by(file, package))
        while waiting:
            name = waiting.pop()
            if self._is_wanted(name):
                return True
            seen.add(name)
            source = self._source_of(name)
            if source is not None:
                inner = name if source.name == "__init__.py" else name.rpartition(".")[0]
                waiting |= self._imported_by(source, inner) - seen
        return False

    def _is_wanted(self, name: str) -> bool:
        return any(one in self._wanted for one in _with_parents(name))

    def _imported_by(self, file: Path, package: str) -> frozenset[str]:
        key = f"{package}:{file}"
        if key not in self._direct:
            self._direct[key] = frozenset(one for name in _names(file, package) for one in _with_parents(name))
        return self._direct[key]

    def _source_of(self, name: str) -> Path | None:
        """The file of a module that is to be followed; None for one of others, in native code, or that is none."""
        if name not in self._files:
            file = _file_of(name)
            self._files[name] = file if file is not None and self._is_own(name, file) else None
        return self._files[name]

    def _is_own(self, name: str, file: Path) -> bool:
        if file.suffix != ".py":
            return False
        is_here = file.is_relative_to(self._root) and not {"site-packages", "dist-packages"} & set(file.parts)
        return is_here or name.partition(".")[0] in self._packages


def _with_parents(name: str) -> Iterator[str]:
    """``a.b.c``, ``a.b`` and ``a``: to import the first is to import all of them."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _names(file: Path, package: str) -> Iterator[str]:
    try:
        with tokenize.open(file) as source:
            tree = ast.parse(source.read())
    except (OSError, SyntaxError, ValueError):
        return  # It is gone, or whoever imports it will tell.
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                outer = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*outer, *([base] if base else [])])
            if base:
                yield base
                # Each may be a module or a name in one.
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")


def _file_of(name: str) -> Path | None:
    module = sys.modules.get(name)
    if module is not None:
        file = getattr(module, "__file__", None)
        return Path(file) if isinstance(file, str) else None
    # Not loaded yet: found without loading the packages around it.
    path: list[str] | None = None
    spec = None
    for one in reversed(list(_with_parents(name))):
        loaded = sys.modules.get(one)
        if loaded is not None:
            path = list(getattr(loaded, "__path__", ()))
            continue
        if path == []:
            return None
        try:
            spec = PathFinder.find_spec(one, path)
        except (ImportError, ValueError):
            return None
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or ())
    return Path(spec.origin) if spec is not None and spec.origin and spec.has_location else None
