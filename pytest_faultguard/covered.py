"""The lines that ran in children, for the coverage.py that measures their parent.

A child inherits the measurement and goes on with it. What it measures leaves through the channel at the end of each
phase, and no child writes a data file: it would lie beside the parent's, and a crash would leave it behind. The parent
gathers the lines in memory, and adds them to its own data when the last test has run.

coverage.py is imported in a child that starts clean, and nowhere else. Private uses, checked on coverage 7.10 to 7.17, with its C, Python and
``sys.monitoring`` cores:

``Coverage._data``, its ``_suffix`` and ``_no_disk``
    Where the lines are kept. ``Coverage.get_data`` returns it, but first looks through the source directories, and
    warns where the parent itself has run no measured line.
``Coverage._collector``, its ``data``, ``static_context``, ``use_data`` and ``flush_data``
    What the core writes into. The child drops what it inherited, which the parent has as well, and puts the rest into
    data of its own. ``Coverage.get_data`` would do the latter, at the price named above in each phase.
``Coverage._auto_save``
    Whether it writes a data file when the interpreter ends.
``Coverage._inorout``, its ``source_pkgs_unmatched``
    The packages that were to be measured and are not imported yet: coverage.py warns of them at the end.

``CoverageData._hasher``
    Newer ones name data files by it, and combine files of one hash once. ``CoverageData.update`` leaves it as it is.

And of pytest-cov, in a child that starts clean, checked on 7.0 and 7.1:

``CovPlugin``, named ``_cov``, its ``cov_controller``
    Of which its mark ``no_cover``, its fixture ``cov`` and ``--cov-context=test`` ask ``started``, ``cov``, ``pause`` and
    ``resume``. Switched off it has none.
``TestContextPlugin``
    What says which test's phase runs.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any
from typing import final

import pytest

from pytest_faultguard.process.channel import Covered
from pytest_faultguard.process.channel import Message


@final
class Lines:
    """The lines that the children of one session have run."""

    def __init__(self) -> None:
        #: What measures this process; None where nothing does.
        self._coverage: Any = None
        #: Which process began to measure for itself, and has inherited nothing; 0 where that was pytest's own.
        self._began_in = 0
        #: There: which file it is that pytest's own process writes; None where this one has inherited that.
        self._file: list[Any] | None = None
        #: What children have sent; None while there is none.
        self._data: Any = None
        #: What is not in there yet: each context is added at once, for that takes its time.
        self._context: str | None = None
        self._has_arcs = False
        self._numbers: dict[str, set[object]] = {}

    # The parent's side.

    def expect(self) -> None:
        """Before a fork: what measures this process measures the child."""
        coverage = _active()
        if coverage is not self._coverage:
            self.count()
            self._coverage = coverage

    def described(self) -> str | None:
        """What measures this process, for one that starts clean; None where nothing does."""
        if self._coverage is None:
            return None
        data = self._coverage._data  # noqa: SLF001
        return json.dumps([self._coverage.config.serialize(), data.base_filename(), data._suffix, data._no_disk])  # noqa: SLF001

    def take(self, covered: Covered) -> None:
        """Keep what a child has sent."""
        unmatched = self._coverage._inorout.source_pkgs_unmatched  # noqa: SLF001
        for package in covered.imported:
            if package in unmatched:
                unmatched.remove(package)
        if self._data is None:
            self._data = sys.modules["coverage"].CoverageData(no_disk=True)
        if covered.context != self._context:
            self._add()
        self._context, self._has_arcs = covered.context, covered.has_arcs
        for file, numbers in json.loads(covered.lines).items():
            self._numbers.setdefault(file, set()).update(map(tuple, numbers) if covered.has_arcs else numbers)
        self._data.add_file_tracers(covered.plugins)

    def _add(self) -> None:
        if not self._numbers:
            return
        self._data.set_context(self._context)
        add = self._data.add_arcs if self._has_arcs else self._data.add_lines
        add(self._numbers)
        self._numbers.clear()

    def count(self) -> None:
        """Add what was kept to what this process has measured."""
        if self._data is not None:
            self._add()
            data = self._coverage._data  # noqa: SLF001
            data.update(self._data)
            # Two workers of pytest-xdist whose own processes ran the same lines: else one would pass for a copy of the other.
            if hasattr(data, "_hasher"):
                data._hasher.update(self._data._hasher.hexdigest())  # noqa: SLF001
            self._data.close(force=True)
            self._data = None

    # The child's side.

    def begin(self, described: str) -> None:
        """In a child that started clean, first of all: measure as its parent does."""
        from coverage import Coverage  # Here: it is the user's, and this child's parent has it.

        config, *self._file = json.loads(described)
        begun = _active()
        if begun is None:
            Coverage(data_file=None, config_file=f":data:{config}").start()
        else:
            begun._auto_save = False  # noqa: SLF001 - it was told to measure every process; here that is us.
        self.expect()
        self._began_in = os.getpid()

    def stand_in(self, config: pytest.Config) -> None:
        """In a child that started clean: what tests ask of pytest-cov, which is switched off there, concerns what measures here."""
        plugin: Any = config.pluginmanager.getplugin("_cov")
        if plugin is not None and plugin.cov_controller is None:
            plugin.cov_controller = _Controller(self._coverage)
            if config.option.cov_context == "test":
                contexts = sys.modules[type(plugin).__module__].TestContextPlugin(plugin.cov_controller)
                config.pluginmanager.register(contexts, "_cov_contexts")

    def divert(self, send: Callable[[Message], None]) -> Callable[[], object]:
        """Right after a fork: what is measured here goes to the parent.

        Returns what sends the lines that ran since it was last called.
        """
        coverage = self._coverage
        if coverage is None:
            return lambda: None
        _go_on(coverage)
        collector, inherited = coverage._collector, coverage._data  # noqa: SLF001
        if self._began_in != os.getpid():
            for lines in collector.data.values():
                lines.clear()
        if self._file is not None:
            inherited = sys.modules["coverage"].CoverageData(*self._file)

        def use(data: Any) -> None:
            coverage._data = data  # noqa: SLF001
            collector.use_data(data, collector.static_context)

        # A process that the test forks may have a file of its own, as without us.
        os.register_at_fork(after_in_child=lambda: use(inherited))
        # To a test that asks for it, data like any other, with nothing in it.
        kind = type("Leaving", (_Leaving, type(inherited)), {})
        use(kind(send, coverage._inorout.source_pkgs_unmatched))  # noqa: SLF001
        flush: Callable[[], object] = collector.flush_data
        return flush


def _active() -> Any:
    current = getattr(getattr(sys.modules.get("coverage"), "Coverage", None), "current", None)
    return None if current is None else current()


def _go_on(coverage: Any) -> None:
    """Where coverage.py's patch ``fork`` has begun anew for this process: its plugins know only the old one."""
    begun = _active()
    if begun is not coverage:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of files that were imported before.
            if begun is not None:
                begun.stop()
            coverage.start()


@final
class _Controller:
    """In place of pytest-cov's own, which would write files."""

    def __init__(self, coverage: Any) -> None:
        self.cov = coverage
        self.started = True

    def pause(self) -> None:
        self.started = False
        self.cov.stop()

    def resume(self) -> None:
        self.cov.start()
        self.started = True


class _Leaving:
    """In place of coverage.py's own data, in a child: what is added leaves."""

    def __init__(self, send: Callable[[Message], None], unmatched: list[str]) -> None:
        super().__init__(no_disk=True)  # type: ignore[call-arg] # Mixed with CoverageData.
        self._send = send
        self._context: str | None = None
        self._has_arcs = False
        self._plugins: Mapping[str, str] = {}
        self._unmatched = unmatched
        self._unmatched_before = tuple(unmatched)

    def set_context(self, context: str | None) -> str | None:
        before, self._context = self._context, context
        return before

    def add_lines(self, line_data: Mapping[str, Collection[int]]) -> None:
        self._tell(line_data)

    def add_arcs(self, arc_data: Mapping[str, Collection[tuple[int, int]]]) -> None:
        self._has_arcs = True
        self._tell(arc_data)

    def add_file_tracers(self, file_tracers: Mapping[str, str]) -> None:
        # coverage.py names all of them each time.
        plugins = {file: plugin for file, plugin in file_tracers.items() if file not in self._plugins}
        self._plugins = dict(file_tracers)
        self._tell({}, plugins)

    def _tell(self, data: Mapping[str, Collection[object]], plugins: Mapping[str, str] | None = None) -> None:
        if data or plugins:
            self._send(
                Covered(
                    context=self._context,
                    lines=json.dumps({file: list(numbers) for file, numbers in data.items()}),
                    has_arcs=self._has_arcs,
                    plugins=dict(plugins or {}),
                    imported=tuple(one for one in self._unmatched_before if one not in self._unmatched),
                )
            )

    def update(self, other_data: Any, *_: object, **__: object) -> None:
        """What a session in this process has gathered from its own children."""
        for context in sorted(other_data.measured_contexts()) or [""]:
            other_data.set_query_context(context)
            self._context = context or None
            for file in sorted(other_data.measured_files()):
                if other_data.has_arcs():
                    self.add_arcs({file: other_data.arcs(file) or []})
                else:
                    self.add_lines({file: other_data.lines(file) or []})

    def touch_files(self, *_: object) -> None:
        """Which files have not run at all is found where the lines are counted."""

    def write(self) -> None:
        """All that there was has left."""

    def __bool__(self) -> bool:
        return True
