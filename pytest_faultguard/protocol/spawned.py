"""The child's side, where the child is a fresh interpreter: it becomes a part of the session, and takes orders then."""

from __future__ import annotations

import os
import socket
import sys
from collections import defaultdict
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import cast

import pytest
from _pytest.config import _prepareconfig

from pytest_faultguard import session as sessions
from pytest_faultguard.descriptors import moved_up
from pytest_faultguard.evidence import faultdump
from pytest_faultguard.evidence.journal import Journal
from pytest_faultguard.output import Output
from pytest_faultguard.output import Overture
from pytest_faultguard.process import memory
from pytest_faultguard.process import signals
from pytest_faultguard.process.channel import Begun
from pytest_faultguard.process.channel import Charge
from pytest_faultguard.process.channel import Letter
from pytest_faultguard.process.channel import Missing
from pytest_faultguard.process.channel import read
from pytest_faultguard.process.child import ENVIRONMENT_VARIABLE
from pytest_faultguard.process.child import Line
from pytest_faultguard.process.child import Wiring
from pytest_faultguard.process.child import run_spawned
from pytest_faultguard.process.launch import die_with
from pytest_faultguard.protocol import inside

#: How many descriptors come through a socket at most: a child's wiring, its charge and its files.
MOST_FDS = 32
_WIRING = 5
#: Options of pytest and of plugins that the session's own process answers: no report, no file and no process comes of
#: them here. What is not there stays so.
_PARENTS: dict[str, object] = {
    "cacheclear": False,
    "clean_alluredir": False,
    "debug": None,
    "dist": "no",
    "distload": False,
    "failedfirst": False,
    "faultguard_collect": False,
    "faultguard_exec": None,
    "htmlpath": None,
    "lf": False,
    "log_file_mode": "a",
    "looponfail": False,
    "maxprocesses": None,
    "newfirst": False,
    "no_cov": True,
    "numprocesses": None,
    "report_log": None,
    "stepwise": False,
    "stepwise_skip": False,
    "tx": [],
    "usepdb": False,
}


def main(parent: int, letter_fd: int, *wiring: int) -> int:
    """The whole program; returns the exit code with which the interpreter is to end."""
    letter, charge = read(letter_fd)
    assert isinstance(letter, Letter)
    assert isinstance(charge, Charge)
    overture = Overture.taken_over(charge.fds)

    def target(line: Line) -> None:
        session = begun(letter)
        # pytest has enabled faulthandler for itself.
        faultdump.arm(line.dump_fd, line.stacks_fd)
        # Where it hangs from here on, it is the fault of what it collects.
        line.sender.ring(Begun())
        live(session, charge, line, collected(session, charge.paths), overture, end=lambda: end(session))

    return run_spawned(target, Wiring(*wiring), parent)


def live(
    session: pytest.Session,
    charge: Charge,
    line: Line,
    found: Found,
    overture: Overture,
    end: Callable[[], object] = lambda: None,
) -> None:
    """In the child: find the tests that it was given, and carry out orders."""
    memory.check(charge.memory, "before its first test it")
    fds = charge.fds
    for fd in fds.values():
        os.set_inheritable(fd, False)
    places = _places(session, charge, found, line)
    os.chdir(charge.directory)
    output = Output(session.config, lives_on=True, is_heard=charge.is_heard, fds=fds)
    overture.end(session.config)
    journal = Journal(fds["journal"], charge.journal_bytes)
    outfit = inside.Outfit(
        journal=journal,
        output=output,
        memory=charge.memory,
        lives_on=True,
        is_shared=charge.is_shared,
        items=places,
    )
    # Within what plugins do around all tests: pytest's log file is open there.
    session.config.pluginmanager.register(_Loop(lambda: inside.live(session, line, outfit, says_so=True, end=end)))
    session.config.hook.pytest_runtestloop(session=session)


def main_early(parent: int, letter_fd: int, socket_fd: int, first_out: int, first_err: int) -> int:
    """As :func:`main`, before anybody knows what there is to be run: collect all that pytest is told to, and wait for a charge.

    Where that fails, nobody waits: another one is started, which has a guard who can tell why.
    """
    die_with(parent)
    os.environ[ENVIRONMENT_VARIABLE] = "1"
    (letter,) = read(letter_fd)
    assert isinstance(letter, Letter)
    overture = Overture.taken_over({"first stdout": first_out, "first stderr": first_err})
    # What it says of an interrupt is not on the terminal any more; and what conftest files start would inherit the mask.
    signals.unblock(signals.INTERRUPT)
    charges = socket.socket(fileno=socket_fd)
    charges.set_inheritable(False)
    session = begun(letter)
    found = collected(session, None)
    with charges:
        _, fds, _, _ = socket.recv_fds(charges, 1, MOST_FDS)
    if not fds:
        return 0  # There is nothing to be run.
    wiring, charge = received(fds)
    return run_spawned(
        lambda line: live(session, charge, line, found, overture, end=lambda: end(session)), wiring, parent
    )


def received(fds: Sequence[int]) -> tuple[Wiring, Charge]:
    """What has come through a socket: a child's wiring and its charge. Its files and variables are this process' own now."""
    wiring = Wiring(*map(moved_up, fds[:_WIRING]))
    charge_fd, *files = fds[_WIRING:]
    (charge,) = read(charge_fd)
    assert isinstance(charge, Charge)
    charge.fds.update({name: moved_up(files[number]) for name, number in charge.fds.items()})
    for name, value in charge.environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    return wiring, charge


def begun(letter: Letter) -> pytest.Session:
    """Begin a session as pytest has begun its own; nothing is collected yet."""
    config = _config(letter)
    session = pytest.Session.from_config(config)
    config.hook.pytest_sessionstart(session=session)
    return session


def _config(letter: Letter) -> pytest.Config:
    os.chdir(letter.directory)
    sys.argv[:] = letter.argv
    lines = sessions.Session().lines
    if letter.coverage is not None:
        lines.begin(letter.coverage)
    # pytest-cov would begin to measure while it reads its options, and erase what the session has.
    args = ["--no-cov", *letter.args] if "no_cov" in letter.options else list(letter.args)
    if letter.options.get("debug"):
        # Its file would be begun anew while options are read; the last one counts.
        place = args.index("--") if "--" in args else len(args)
        args.insert(place, f"--debug={os.devnull}")
    config = _prepareconfig(args, list(letter.plugins))
    for name, value in {**letter.options, **_PARENTS}.items():
        if hasattr(config.option, name):
            setattr(config.option, name, value)
    if letter.worker is not None:
        worker: Any = config
        worker.workerinput, worker.workeroutput = letter.worker, {}
    inside.begin_clean(config)
    _configure(config)
    config.stash[sessions.session_key].lines = lines
    if letter.coverage is not None and not letter.options.get("no_cov", True):
        lines.stand_in(config)
    factory = getattr(config, "_tmp_path_factory", None)
    if factory is not None and letter.base_temp is not None:
        factory._basetemp = type(config.rootpath)(letter.base_temp)
    return config


def _configure(config: Any) -> None:
    """Have all plugins begin; the session's log file is gone on with, not begun anew."""
    log_file = hasattr(config.option, "log_file") and (config.option.log_file or config.getini("log_file"))
    if not log_file or hasattr(config.option, "log_file_mode"):
        config._do_configure()
        return
    # pytest before 8.1 can only begin one.
    config.option.log_file = os.devnull
    config._do_configure()
    config.option.log_file = log_file
    handler = config.pluginmanager.getplugin("logging-plugin").log_file_handler
    stream = Path(log_file).open("a", encoding="UTF-8")  # noqa: SIM115 - open as long as the session.
    handler.setStream(stream).close()


class _Loop:
    """Instead of pytest's own loop over all items."""

    def __init__(self, live: Callable[[], object]) -> None:
        self._live = live

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self) -> bool:
        self._live()
        return True


class Found:
    """What was collected."""

    def __init__(self) -> None:
        self.items: list[pytest.Item] = []
        #: What could not be collected, and why.
        self.errors: list[str] = []

    def pytest_deselected(self, items: Iterable[pytest.Item]) -> None:
        """Which tests run is for the parent to say, which has its reasons: a cache, a random choice."""
        self.items.extend(items)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Some could not be collected, maybe."""
        if report.failed:
            self.errors.append(f"{report.nodeid}: {report.longreprtext}")


def collected(session: pytest.Session, paths: Iterable[str] | None) -> Found:
    """Collect these, and nothing else; all that pytest is told to where there are none."""
    found, config = Found(), session.config
    if paths is not None:
        config.args = []
    for path in paths or ():
        # pytest collects nothing at all where one of its arguments is gone.
        if Path(path.partition("::")[0]).exists():
            config.args.append(path)
        else:
            found.errors.append(f"{path}: no such file")
    config.pluginmanager.register(found)
    try:
        config.hook.pytest_collection(session=session)
    except pytest.UsageError as error:
        found.errors.append(str(error))
    config.pluginmanager.unregister(found)
    found.items += session.items
    return found


def _places(session: pytest.Session, charge: Charge, found: Found, line: Line) -> dict[int, pytest.Item]:
    """The items by their places among those of the parent."""
    by_id = defaultdict[str, list[pytest.Item]](list)
    for item in reversed(found.items):
        by_id[item.nodeid].append(item)
    places = dict[int, pytest.Item]()
    for place, nodeid in charge.items:
        # pytest-xdist adds the group of a test to its node id.
        known = by_id.get(nodeid) or by_id.get(nodeid.rpartition("@")[0])
        if known:
            places[place] = item = known.pop()
            if item.nodeid != nodeid:
                cast("Any", item)._nodeid = nodeid
    session.items = list(places.values())
    sessions.resolve(session.config, session.items)
    missing = tuple(place for place, _ in charge.items if place not in places)
    if missing:
        line.sender.send(Missing(items=missing, error="\n\n".join(found.errors)))
    return places


def end(session: pytest.Session) -> None:
    """What conftest files have begun for the session they end; reports are the parent's."""
    manager = session.config.pluginmanager
    others = [one for name, one in manager.list_name_plugin() if not name.endswith("conftest.py")]
    manager.subset_hook_caller("pytest_sessionfinish", others)(session=session, exitstatus=pytest.ExitCode.OK)
    manager.subset_hook_caller("pytest_unconfigure", others)(config=session.config)
