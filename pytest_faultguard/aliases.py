"""The marks of other isolation plugins: which of their arguments have a counterpart, and what becomes of the rest.

Read from the sources of pytest-forked 1.7.5, pytest-isolate 0.0.17, pytest-isolated 0.6.0 and pytest-subproc 0.1.2.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from typing import Any
from typing import final

from pytest_faultguard.process import proc

#: What becomes of an argument that is the same here, and of one that says whether the test is isolated at all.
SAME = "same"
CONDITION = "condition"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """The mark of another plugin."""

    mark: str
    plugin: str
    #: The names under which pytest registers that plugin, and any other one that obeys this mark.
    registered: tuple[str, ...]
    #: Its arguments, and what becomes of a test that gives them.
    arguments: Mapping[str, str] = field(default_factory=dict)
    #: Those that have another name here.
    ours: Mapping[str, str] = field(default_factory=dict)
    #: How many of them may be given by position.
    positional: int = 0

    def isolates(self, kwargs: Mapping[str, object]) -> bool:
        """Whether its plugin would isolate a test with such a mark; calls a condition that can be called."""
        condition = kwargs.get("condition", True) if CONDITION in self.arguments.values() else True
        return bool(condition() if callable(condition) else condition)

    def same(self, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, Any]:
        """What a mark gives that the guard takes."""
        return {
            self.ours.get(name, name): value
            for name, value in self._given(args, kwargs).items()
            if self.arguments.get(name) is SAME and not self._is_held(name, value)
        }

    def lost(self, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, str]:
        """What a mark gives that the guard does not take, and what becomes of the test."""
        told = {}
        for name, value in self._given(args, kwargs).items():
            becomes = self.arguments.get(name, "it is ignored")
            if self._is_held(name, value):
                becomes = "pytest itself holds more: the test runs without a limit of its memory"
            if becomes not in (SAME, CONDITION):
                told[name] = f"{self.mark}({name}={reprlib.repr(value)}): {becomes}"
        return told

    def _is_held(self, name: str, value: Any) -> bool:
        """Whether it is a limit of memory that every child would be born above: its plugin limits what is added."""
        if self.ours.get(name) != "memory":
            return False
        try:
            return float(value) <= (proc.data_bytes(os.getpid()) or 0)
        except (TypeError, ValueError):
            return False  # What is wrong with it is said elsewhere.

    def _given(self, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, Any]:
        # To most of these plugins nothing, 0 and an empty value are the same.
        names = list(self.arguments)[: self.positional]
        names += [f"argument {number + 1}" for number in range(len(names), len(args))]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        return {name: value for name, value in given.items() if not _is_empty(value)}


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, int | float | str | list | tuple | dict) and not value)


ALIASES: Mapping[str, Alias] = {
    alias.mark: alias
    for alias in (
        Alias(
            mark="forked",
            plugin="pytest-forked",
            registered=("pytest_forked", "pytest_isolate", "pytest_isolate.plugin"),
        ),
        Alias(
            mark="isolate",
            plugin="pytest-isolate",
            registered=("pytest_isolate", "pytest_isolate.plugin"),
            arguments={
                "timeout": SAME,
                "mem_limit": SAME,
                "cpu_limit": SAME,
                "resources": "nothing is allocated, and CUDA_VISIBLE_DEVICES stays as it is",
            },
            ours={"mem_limit": "memory", "cpu_limit": "cpu"},
            positional=3,
        ),
        Alias(
            mark="isolated",
            plugin="pytest-isolated",
            registered=("isolated", "pytest_isolated", "pytest_isolated.plugin"),
            arguments={
                "group": "there are no groups: which tests share a process is said by faultguard(scope=…)",
                "timeout": SAME,
                "serial": "guarded tests run one after another, but beside those of other workers of pytest-xdist",
            },
            positional=1,
        ),
        Alias(
            mark="subproc",
            plugin="pytest-subproc",
            registered=("pytest_subproc",),
            arguments={"timeout": SAME, "condition": CONDITION},
        ),
    )
}
