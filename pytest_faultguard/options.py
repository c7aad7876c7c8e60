"""Every marker argument, command line option and ini setting, declared once.

From :data:`ARGUMENTS` come the parser's options, the ini settings, the marker's arguments and their checks, the
precedence (marker, then command line, then ini, then default; ``None`` means "not given" everywhere) and the reference
in the documentation.
"""

from __future__ import annotations

import functools
import math
import re
import shlex
import signal
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import final

import pytest

from pytest_faultguard.alarms import alarm_of
from pytest_faultguard.aliases import ALIASES
from pytest_faultguard.crash import Seconds
from pytest_faultguard.crash import describe_bytes
from pytest_faultguard.deaths import TIMEOUT
from pytest_faultguard.deaths import Death
from pytest_faultguard.evidence.journal import DEFAULT_LIMIT_BYTES
from pytest_faultguard.guard import DEFAULT_GRACE
from pytest_faultguard.guard import Limits
from pytest_faultguard.process.launch import can_fork

MARKER = "faultguard"
#: Their default is that a process ignores them, stops or goes on (signal(7)): a test that waits for such a death never passes.
_HARMLESS = frozenset({"SIGCHLD", "SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGWINCH"})
_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


class _WrongError(ValueError):
    """A value that an argument does not take: what it must be instead."""


def _seconds(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        msg = "a number of seconds, 0 for none"
        raise _WrongError(msg)
    return float(value)


def _number(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def _size(value: object) -> int:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*([0-9.]+)\s*([a-z]*)\s*", value.lower())
        if match and match[2] in _UNITS:
            try:
                value = int(float(match[1]) * _UNITS[match[2]])
            except ValueError:
                value = None
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 2e9
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        msg = "a number of bytes above 0, or a text such as '64MiB'"
        raise _WrongError(msg)
    return value


def _switch(value: object) -> bool:
    if value not in {"on", "off"}:
        msg = "on or off"
        raise _WrongError(msg)
    return value == "on"


def _count(value: object) -> int:
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 1 or value != int(value):
        msg = "a whole number above 0"
        raise _WrongError(msg)
    return int(value)


def _memory(value: object) -> int:
    if value in {0, "0"} and not isinstance(value, bool):
        return 0
    try:
        return _size(value)
    except _WrongError:
        msg = "a number of bytes, 0 for none, or a text such as '2GiB'"
        raise _WrongError(msg) from None


def _scope(value: object) -> str:
    if value not in SCOPES:
        msg = f"one of {', '.join(SCOPES)}"
        raise _WrongError(msg)
    return str(value)


def _start(value: object) -> str:
    if value not in STARTS:
        msg = f"one of {', '.join(STARTS)}"
        raise _WrongError(msg)
    return str(value)


def _ending(value: object) -> str | int | None:
    if isinstance(value, str) and value in signal.Signals.__members__:
        value = signal.Signals[value]  # SIGIOT is SIGABRT.
    if isinstance(value, signal.Signals):  # Before the numbers, of which it is one.
        if value.name in _HARMLESS:
            msg = "a signal that ends a process"
            raise _WrongError(msg)
        return value.name
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255:  # noqa: PLR2004 - of any process.
        return value
    if isinstance(value, str):
        if value == TIMEOUT:
            return value
        if not can_fork() and re.fullmatch(r"SIG[A-Z0-9]+", value):
            return value  # No test dies here; elsewhere there is such a signal.
    msg = f"a signal or its name, an exit code from 0 to 255, or {TIMEOUT!r}"
    raise _WrongError(msg)


def _pattern(value: object) -> str:
    msg = "a regular expression"
    if not isinstance(value, str):
        raise _WrongError(msg)
    try:
        re.compile(value)
    except re.error as error:
        msg = f"{msg}: {error}"
        raise _WrongError(msg) from None
    return value


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one test is guarded."""

    limits: Limits
    #: One of :data:`SCOPES`: which tests the child runs.
    scope: str
    #: One of :data:`STARTS`: how it is started.
    start: str
    #: How long the end of a child may take that has run several tests.
    end_timeout: Seconds
    #: Whether a crash in a shared child is tried again in one of its own.
    confirm: bool
    #: How often tests may be run in search of those that a crash needs; 0 for no search.
    bisect_runs: int
    #: How it must die to pass; None for a test that must live.
    death: Death | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One setting, wherever it is given."""

    name: str
    metavar: str
    help: str
    default: object
    #: That of a test which only ``--faultguard`` guards, where it is another one.
    default_of_unmarked: object = None
    #: The value as the guard takes it.
    #:
    #: Raises: _WrongError.
    parse: Callable[[object], Any]
    #: What :attr:`parse` takes, from the text of a command line or an ini file.
    read: Callable[[str], object] = _number
    #: Whether it is said of a test and of nothing else: there is no option and no ini setting.
    is_marker_only: bool = False

    @property
    def flag(self) -> str:
        """The command line option."""
        return f"--faultguard-{self.name.replace('_', '-')}"

    @property
    def ini(self) -> str:
        """The ini setting, and the option's ``dest``."""
        return f"faultguard_{self.name}"


SCOPES = ("function", "class", "module", "package", "session")
#: As in :mod:`multiprocessing`.
STARTS = ("fork", "forkserver", "spawn")

ARGUMENTS: tuple[Argument, ...] = (
    Argument(
        name="scope",
        metavar="SCOPE",
        help=f"which guarded tests share a child: those of one {', '.join(SCOPES[1:])}; or each has its own: {SCOPES[0]}",
        default=SCOPES[0],
        default_of_unmarked=SCOPES[-1],
        parse=_scope,
        read=str,
    ),
    Argument(
        name="start",
        metavar="METHOD",
        help="how the child is started: fork, a copy of pytest's process; spawn, a fresh interpreter; or forkserver, a copy of one "
        "that has loaded plugins, conftest files and, where that starts no thread, test modules",
        default=STARTS[0],
        parse=_start,
        read=str,
    ),
    Argument(
        name="timeout",
        metavar="SECONDS",
        help="stop a guarded test that runs longer than this, set-up and teardown included; 0 for no limit",
        default=0.0,
        parse=_seconds,
    ),
    Argument(
        name="grace",
        metavar="SECONDS",
        help="between SIGTERM and SIGKILL, and for the teardown after Ctrl-C",
        default=DEFAULT_GRACE,
        parse=_seconds,
    ),
    Argument(
        name="end_timeout",
        metavar="SECONDS",
        help="stop a child of several tests whose end takes longer than this: the teardown of wide fixtures; 0 for no limit",
        default=60.0,
        parse=_seconds,
    ),
    Argument(
        name="confirm",
        metavar="on|off",
        help="run a test that crashed in a shared child once more, alone: was it its own fault? (at most 10 per session, of which "
        "each worker of pytest-xdist has its share)",
        default="on",
        parse=_switch,
        read=str,
    ),
    Argument(
        name="bisect_runs",
        metavar="RUNS",
        help="how many runs --faultguard-bisect may take for one crash",
        default=100,
        parse=_count,
    ),
    Argument(
        name="dump_every",
        metavar="SECONDS",
        help="add the stacks of a slow guarded test to its report, again and again; 0 for never",
        default=0.0,
        parse=_seconds,
    ),
    Argument(
        name="data_limit",
        metavar="SIZE",
        help="how much a test may keep in faultguard_data, in bytes or as in 64MiB",
        default=DEFAULT_LIMIT_BYTES,
        parse=_size,
        read=str,
    ),
    Argument(
        name="expect",
        metavar="ENDING",
        help=f"the test passes if its call dies so, and else fails: a signal or its name, an exit code, or {TIMEOUT!r}",
        default=None,
        parse=_ending,
        is_marker_only=True,
    ),
    Argument(
        name="match",
        metavar="REGEX",
        help="what must be found in the cause or in the output of the expected death: a regular expression",
        default=None,
        parse=_pattern,
        is_marker_only=True,
    ),
    Argument(
        name="memory",
        metavar="SIZE",
        help="how much memory a guarded test's process may have (RLIMIT_DATA), in bytes or as in 2GiB; 0 for no limit",
        default=0,
        parse=_memory,
        read=str,
    ),
    Argument(
        name="cpu",
        metavar="SECONDS",
        help="stop a guarded test that uses more processor time than this, in all its threads; 0 for no limit",
        default=0.0,
        parse=_seconds,
    ),
)
_BY_NAME: Mapping[str, Argument] = {argument.name: argument for argument in ARGUMENTS}

FLAGS: Mapping[str, str] = {
    "--faultguard": "run every test in a guarded child process, not only the marked ones",
    "--faultguard-collect": "import each test module in a guarded child process first: a crash there is a collection error",
    "--faultguard-auto": "guard the marked tests, those that crashed when they last ran guarded, and those whose modules "
    "import what the ini setting faultguard_auto names",
    "--no-faultguard": "run every test in this process, also the marked ones: for debugging",
    "--faultguard-bisect": "find which of the tests that ran before it in the same child a test needs to crash",
}
AUTO_INI = "faultguard_auto"
AUTO_HELP = (
    "modules with native code: --faultguard-auto guards the tests whose modules import them, as in mypkg._native"
)
USAGE_FLAG = "--faultguard-usage"
USAGE_HELP = "show what the guarded tests used: memory at its peak and processor time, the N largest, or all"
EXEC_FLAG = "--faultguard-exec"
EXEC_HELP = (
    'run the one guarded test that is selected in a fresh interpreter under this command, as in "gdb --args": '
    "it has the terminal, and no deadline"
)
ALIASES_INI = "faultguard_aliases"
ALIASES_HELP = f"marks of other plugins that guard a test as well: any of {', '.join(ALIASES)}"
#: By the name of its value. A debugger has no terminal in a child; and syrupy writes what tests have put into this
#: process's memory, and deletes what none has asked it for.
_NEEDS_THIS_PROCESS: Mapping[str, str] = {
    "usepdb": "--pdb",
    "trace": "--trace",
    "update_snapshots": "--snapshot-update",
    "update_new_snapshots_only": "--snapshot-update-new-only",
}
MARKER_HELP = (
    f"{MARKER}({', '.join(f'{argument.name}=…' for argument in ARGUMENTS)}): run the test in a guarded child process; "
    "a crash or a hang there is one failed test, and the session goes on"
)


def add_options(parser: pytest.Parser) -> None:
    """Declare the command line options and the ini settings."""
    group = parser.getgroup("faultguard", "crash-isolated tests")
    for flag, told in FLAGS.items():
        group.addoption(flag, action="store_true", default=False, dest=_dest(flag), help=told)
    group.addoption(EXEC_FLAG, default=None, metavar="COMMAND", help=EXEC_HELP)
    group.addoption(USAGE_FLAG, action="store", nargs="?", const="0", default=None, metavar="N", help=USAGE_HELP)
    for argument in _configurable():
        group.addoption(argument.flag, metavar=argument.metavar, default=None, dest=argument.ini, help=argument.help)
        parser.addini(argument.ini, argument.help, default=None)
    parser.addini(AUTO_INI, AUTO_HELP, type="args", default=[])
    parser.addini(ALIASES_INI, ALIASES_HELP, type="args", default=[])


def _configurable() -> Iterator[Argument]:
    return (argument for argument in ARGUMENTS if not argument.is_marker_only)


# Remembered, as CPython remembers each object that was the name of an attribute: asked for before each test.
@functools.cache
def _dest(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def why_unguarded(config: pytest.Config) -> str | None:
    """Why this session guards nothing, in words for the header; empty where the user asked for it, None if it guards."""
    if config.getoption(_dest("--no-faultguard")):
        return ""
    for dest, flag in _NEEDS_THIS_PROCESS.items():
        if config.getoption(dest, default=False):
            return f"guarded tests run in this process, because of {flag}"
    if not can_fork():
        return "WARNING: guarded tests run in this process: this platform has no fork, pidfd or memfd"
    return None


def check_config(config: pytest.Config) -> None:
    """Check what the command line and the ini file give.

    Raises:
        pytest.UsageError: names the option or setting, and the value.
    """
    usage_rows(config)
    exec_command(config)
    for argument in _configurable():
        _configured(argument, config)
    auto_modules(config)
    aliases = _aliases(config)
    for name in aliases:
        if name not in ALIASES:
            msg = f"{ALIASES_INI}: {name!r} is no mark of another plugin that is known; these are: {', '.join(ALIASES)}"
            raise pytest.UsageError(msg)
    # One of the two would run the test, and the other one's promises would be broken.
    known = [plugin for name in aliases for plugin in ALIASES[name].registered]
    active = [plugin for plugin in dict.fromkeys(known) if config.pluginmanager.has_plugin(plugin)]
    if active:
        off = " ".join(f"-p no:{plugin}" for plugin in active)
        msg = f"{ALIASES_INI} = {' '.join(aliases)}: still active for these marks: {', '.join(active)}; add {off}, or uninstall"
        raise pytest.UsageError(msg)


def is_auto(config: pytest.Config) -> bool:
    """Whether other tests than the marked ones are to be looked for."""
    return bool(config.getoption(_dest("--faultguard-auto")))


def auto_modules(config: pytest.Config) -> Sequence[str]:
    """The modules whose importers are guarded then.

    Raises:
        pytest.UsageError: names the setting, and the value.
    """
    names = _names(config, AUTO_INI)
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            msg = f"{AUTO_INI}: {name!r} is not the name of a module, such as mypkg._native"
            raise pytest.UsageError(msg)
    return names


def usage_rows(config: pytest.Config) -> int | None:
    """How many tests the table of usage has, 0 for all; None where none is wanted.

    Raises:
        pytest.UsageError: names the option and the value.
    """
    given: str | None = config.getoption(_dest(USAGE_FLAG))
    if given is None:
        return None
    if re.fullmatch(r"\d+", given):
        return int(given)
    msg = f"{USAGE_FLAG}: {given!r} is not a number of tests, 0 for all; before a path write {USAGE_FLAG}=0"
    raise pytest.UsageError(msg)


def exec_command(config: pytest.Config) -> Sequence[str]:
    """The words of the command under which the test is to run; none where it runs as always.

    Raises:
        pytest.UsageError: names the option and the value.
    """
    given: str | None = config.getoption(_dest(EXEC_FLAG))
    if given is None:
        return ()
    try:
        words = shlex.split(given)
    except ValueError as error:
        msg = f"{EXEC_FLAG}: {given!r}: {error}"
        raise pytest.UsageError(msg) from None
    if not words:
        msg = f"{EXEC_FLAG}: {given!r} is no command"
        raise pytest.UsageError(msg)
    if hasattr(config, "workerinput") or config.getoption("numprocesses", None):
        msg = f"{EXEC_FLAG}: a worker of pytest-xdist has no terminal; use -n0"
        raise pytest.UsageError(msg)
    return words


def check_exec(config: pytest.Config, guarded: Sequence[pytest.Item]) -> None:
    """Check that there is one guarded test to run under the command.

    Raises:
        pytest.UsageError: there is none, or there are several.
    """
    if exec_command(config) and len(guarded) != 1:
        told = "".join(f"\n  {item.nodeid}" for item in guarded[:10])
        msg = f"{EXEC_FLAG} takes one guarded test, and {len(guarded)} are selected{told}"
        raise pytest.UsageError(msg)


def _aliases(config: pytest.Config) -> Sequence[str]:
    return _names(config, ALIASES_INI)


def _names(config: pytest.Config, ini: str) -> Sequence[str]:
    try:
        names: list[str] = config.getini(ini)
    except (ValueError, pytest.UsageError) as error:  # A quotation without an end.
        msg = f"{ini}: {error}"
        raise pytest.UsageError(msg) from None
    return names


def marks_help(config: pytest.Config) -> Iterator[str]:
    """A line for each mark that guards a test, as ``pytest --markers`` shows it."""
    yield MARKER_HELP
    for name in _aliases(config):
        yield f"{name}: the mark of {ALIASES[name].plugin}, as {MARKER} ({ALIASES_INI})"


def settings_for(item: pytest.Item, *, is_chosen: bool = False) -> Settings | None:
    """How an item is guarded, also without a mark where it is chosen; None where it is not.

    Raises:
        pytest.UsageError: names the test, the marker's argument and the value.
    """
    marks = _marks(item)
    for mark in marks:
        (_check if mark.name == MARKER else _check_alias)(item, mark)
    death = expected_death(item, marks)
    config = item.config
    every = is_chosen or config.getoption(_dest("--faultguard"))
    if (not marks and not every) or why_unguarded(config) is not None:
        return None
    given = list(_given(item, marks))
    if not given and not every:
        return None
    values = _values(given, config)
    timeout, in_call = _deadline(item, given)
    if death is not None and death.ending == TIMEOUT and not timeout:
        msg = f"{item.nodeid}: faultguard marker: expect={TIMEOUT!r} without a timeout: the test might never end"
        raise pytest.UsageError(msg)
    limits = Limits(
        timeout=timeout or None,
        clock_waits=in_call,
        grace=values["grace"],
        dump_every=values["dump_every"] or None,
        data_bytes=values["data_limit"],
        memory=values["memory"] or None,
        cpu=values["cpu"] or None,
    )
    return Settings(
        limits=limits,
        scope=values["scope"],
        start=values["start"],
        end_timeout=values["end_timeout"],
        confirm=values["confirm"],
        bisect_runs=values["bisect_runs"] if config.getoption(_dest("--faultguard-bisect")) else 0,
        death=death,
    )


def spawns_one_for_all(config: pytest.Config) -> bool:
    """Whether a fresh interpreter is to run all tests of the session, as far as that is known before they are collected."""
    if not config.getoption(_dest("--faultguard")) or why_unguarded(config) is not None or exec_command(config):
        return False
    if config.getoption(_dest("--faultguard-collect")):
        return False  # It would import what only a scout may.
    start, scope = (_configured(_BY_NAME[name], config, is_marked=False) for name in ("start", "scope"))
    return start == "spawn" and scope == "session" and not config.getoption("collectonly", default=False)


def limits_of_collection(config: pytest.Config) -> Limits | None:
    """How the import of one module is guarded; None where it is not."""
    if not config.getoption(_dest("--faultguard-collect")) or why_unguarded(config) is not None:
        return None
    timeout, grace = (_configured(_BY_NAME[name], config) for name in ("timeout", "grace"))
    return Limits(timeout=timeout or None, grace=grace)


def expected_death(item: pytest.Item, marks: Sequence[pytest.Mark] | None = None) -> Death | None:
    """How an item must die to pass, guarded or not; None where it must live.

    Raises:
        pytest.UsageError: names the test, the marker's argument and the value.
    """
    given = [mark.kwargs for mark in (_marks(item) if marks is None else marks) if mark.name == MARKER]
    ending, pattern = (_value(_BY_NAME[name], given, item.config) for name in ("expect", "match"))
    if ending is not None:
        return Death(ending=ending, pattern=pattern)
    if pattern is not None:
        msg = f"{item.nodeid}: faultguard marker: match={pattern!r} without expect, which says how the test must die"
        raise pytest.UsageError(msg)
    return None


def data_limit_for(item: pytest.Item) -> int:
    """How much an unguarded test may keep in ``faultguard_data``, in bytes."""
    limit: int = _value(_BY_NAME["data_limit"], [mark.kwargs for mark in _marks(item)], item.config)
    return limit


def lost(item: pytest.Item) -> Iterator[tuple[str, str]]:
    """What other plugins' marks ask for that a guard does not do: an argument, and what becomes of the test."""
    if not _aliases(item.config):
        return
    for mark in _marks(item):
        if mark.name != MARKER:
            for name, told in ALIASES[mark.name].lost(mark.args, mark.kwargs).items():
                yield f"{mark.name}.{name}", f"{ALIASES_INI}: {item.nodeid}: {told} (told once)"


def _marks(item: pytest.Item) -> list[pytest.Mark]:
    """The item's marks, the closest one first: that of a parameter, which pytest lists behind its function's.

    On one node our own comes before those of other plugins.
    """
    names = {MARKER, *_aliases(item.config)}
    of_parameters = [mark for mark in getattr(getattr(item, "callspec", None), "marks", ()) if mark.name in names]
    of_nodes = [[mark for mark in node.own_markers if mark.name in names] for node in reversed(item.listchain())]
    of_nodes[0] = [mark for mark in of_nodes[0] if mark not in of_parameters]
    return [mark for marks in (of_parameters, *of_nodes) for mark in sorted(marks, key=lambda one: one.name != MARKER)]


def _given(item: pytest.Item, marks: list[pytest.Mark]) -> Iterator[Mapping[str, Any]]:
    """Our arguments in each mark that guards the item; of another plugin's marks the closest decides whether they do."""
    isolates: dict[str, bool] = {}
    for mark in marks:
        if mark.name == MARKER:
            yield mark.kwargs
            continue
        alias = ALIASES[mark.name]
        if mark.name not in isolates:
            try:
                isolates[mark.name] = alias.isolates(mark.kwargs)
            except Exception as error:  # noqa: BLE001 - a user's function.
                msg = f"{item.nodeid}: {mark.name} marker: condition={mark.kwargs['condition']!r} raised {error!r}"
                raise pytest.UsageError(msg) from None
        if isolates[mark.name]:
            yield _translated(mark)


def _translated(mark: pytest.Mark) -> dict[str, Any]:
    # These plugins take a number as text, too.
    same = ALIASES[mark.name].same(mark.args, mark.kwargs)
    return {name: _BY_NAME[name].read(value) if isinstance(value, str) else value for name, value in same.items()}


def _values(given: Sequence[Mapping[str, Any]], config: pytest.Config) -> Mapping[str, Any]:
    """All arguments of a test; of one without a mark they are those of the session, and looked up once."""
    if given:
        return {argument.name: _value(argument, given, config) for argument in ARGUMENTS}
    values = config.stash.get(_unmarked_key, None)
    if values is None:
        values = {argument.name: _configured(argument, config, is_marked=False) for argument in ARGUMENTS}
        config.stash[_unmarked_key] = values
    return values


_unmarked_key = pytest.StashKey[Mapping[str, Any]]()


def _value(argument: Argument, marks: Sequence[Mapping[str, Any]], config: pytest.Config) -> Any:
    # The closest mark that gives the argument decides: a class may set one, its method another.
    for kwargs in marks:
        given = kwargs.get(argument.name)
        if given is not None:
            return argument.parse(given)
    return _configured(argument, config)


def _deadline(item: pytest.Item, marks: Sequence[Mapping[str, Any]]) -> tuple[float, bool]:
    """The timeout, and whether it counts in the call only.

    What pytest-timeout is told comes behind what we are told in the same place: our marker, its marker, our command line
    option, its option or ``PYTEST_TIMEOUT``, our ini setting, its ini setting.
    """
    argument, config = _BY_NAME["timeout"], item.config
    alarm = alarm_of(item)
    if alarm is not None and all(kwargs.get(argument.name) is None for kwargs in marks):
        nearer = (config.getoption(argument.ini), config.getini(argument.ini))[: alarm.distance]
        if all(given in {None, ""} for given in nearer):
            return alarm.seconds, alarm.func_only
    return _value(argument, marks, config), False


def _configured(argument: Argument, config: pytest.Config, *, is_marked: bool = True) -> Any:
    if argument.is_marker_only:
        return argument.default
    given, source = config.getoption(argument.ini, default=None), argument.flag
    if given is None:
        given, source = config.getini(argument.ini), argument.ini
    if given is None or given == "":
        of_unmarked = None if is_marked else argument.default_of_unmarked
        return argument.parse(argument.default if of_unmarked is None else of_unmarked)
    try:
        return argument.parse(argument.read(given))
    except _WrongError as wrong:
        msg = f"{source}: {given!r} is not {wrong}"
        raise pytest.UsageError(msg) from None


def _check(item: pytest.Item, mark: pytest.Mark) -> None:
    where = f"{item.nodeid}: faultguard marker"
    if mark.args:
        given = ", ".join(map(repr, mark.args))
        msg = f"{where}: takes keyword arguments only ({', '.join(_BY_NAME)}), not {given}"
        raise pytest.UsageError(msg)
    for name, value in mark.kwargs.items():
        if name not in _BY_NAME:
            msg = f"{where}: unknown argument {name}={value!r}; it takes {', '.join(_BY_NAME)}"
            raise pytest.UsageError(msg)
        if value is None:
            continue
        _check_value(where, name, value)


def _check_alias(item: pytest.Item, mark: pytest.Mark) -> None:
    for name, value in _translated(mark).items():
        _check_value(f"{item.nodeid}: {mark.name} marker", name, value)


def _check_value(where: str, name: str, value: object) -> None:
    try:
        _BY_NAME[name].parse(value)
    except _WrongError as wrong:
        msg = f"{where}: {name}={value!r} is not {wrong}"
        raise pytest.UsageError(msg) from None


def _shown(argument: Argument) -> str:
    """The default in words."""
    default = argument.default
    if isinstance(default, int) and default and argument.metavar == "SIZE":
        return describe_bytes(default).replace(" ", "")
    if isinstance(default, float | int):
        return f"{default:g}"
    if default is None:
        return "none"
    other = argument.default_of_unmarked
    return str(default) if other is None else f"{default}; of a test that only ``--faultguard`` guards, {other}"


def reference() -> str:
    """The table of all settings as reStructuredText, for the documentation."""
    rows = [("Marker argument", "Command line", "Ini setting", "Default", "Meaning")]
    rows += [("", f"``{flag}``", "", "off", told) for flag, told in FLAGS.items()]
    rows.append(("", f"``{USAGE_FLAG}[=N]``", "", "off", USAGE_HELP))
    for argument in ARGUMENTS:
        default = _shown(argument)
        flag, ini = f"``{argument.flag} {argument.metavar}``", f"``{argument.ini}``"
        if argument.is_marker_only:
            flag = ini = ""
        rows.append((f"``{argument.name}=``", flag, ini, default, argument.help))
    rows.append(("", f"``{EXEC_FLAG} COMMAND``", "", "none", EXEC_HELP))
    rows.append(("", "", f"``{AUTO_INI}``", "none", AUTO_HELP))
    rows.append(("", "", f"``{ALIASES_INI}``", "none", ALIASES_HELP))
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in rows:
        lines += [f"   {'*' if number == 0 else ' '} - {cell}".rstrip() for number, cell in enumerate(row)]
    return "\n".join(lines) + "\n"
