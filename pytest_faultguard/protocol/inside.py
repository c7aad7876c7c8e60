"""The child's side: what it does between its birth and its end, and what it says of it."""

from __future__ import annotations

import faulthandler
import functools
import math
import os
import pdb  # noqa: T100 - to refuse it in a child.
import sys
import time
import traceback
import types
import warnings
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from typing import NoReturn
from typing import cast
from typing import final

import pytest
from _pytest.junitxml import xml_key
from _pytest.runner import pytest_runtest_call
from _pytest.runner import runtestprotocol
from _pytest.skipping import Xfail
from _pytest.skipping import xfailed_key

from pytest_faultguard import losses
from pytest_faultguard import report as reporting
from pytest_faultguard import reruns
from pytest_faultguard import usage
from pytest_faultguard.crash import Frame
from pytest_faultguard.evidence import faultdump
from pytest_faultguard.evidence.journal import Journal
from pytest_faultguard.outcome import CrashError
from pytest_faultguard.outcome import HangError
from pytest_faultguard.outcome import JournalError
from pytest_faultguard.output import Output
from pytest_faultguard.output import leave_debug_file
from pytest_faultguard.process import memory
from pytest_faultguard.process import pages
from pytest_faultguard.process.channel import Begun
from pytest_faultguard.process.channel import Capturing
from pytest_faultguard.process.channel import Expected
from pytest_faultguard.process.channel import Finished
from pytest_faultguard.process.channel import Idle
from pytest_faultguard.process.channel import Kept
from pytest_faultguard.process.channel import Leave
from pytest_faultguard.process.channel import Message
from pytest_faultguard.process.channel import Noted
from pytest_faultguard.process.channel import Report
from pytest_faultguard.process.channel import Run
from pytest_faultguard.process.channel import Said
from pytest_faultguard.process.channel import Sender
from pytest_faultguard.process.channel import SharedTeardown
from pytest_faultguard.process.channel import Stopped
from pytest_faultguard.process.channel import Touched
from pytest_faultguard.process.channel import Trim
from pytest_faultguard.process.channel import Warned
from pytest_faultguard.process.child import Line
from pytest_faultguard.process.child import Orders
from pytest_faultguard.process.meter import NOTHING
from pytest_faultguard.process.meter import Before
from pytest_faultguard.process.meter import Meter
from pytest_faultguard.process.rescue import rescue
from pytest_faultguard.protocol.phases import called
from pytest_faultguard.protocol.phases import capturing
from pytest_faultguard.protocol.phases import faulthandler_timeout
from pytest_faultguard.protocol.phases import identity_of
from pytest_faultguard.session import Session
from pytest_faultguard.session import session_key
from pytest_faultguard.session import settings_key
from pytest_faultguard.session import spared_key

try:
    from _pytest.subtests import failed_subtests_key
except ImportError:  # pytest 8.
    failed_subtests_key = None  # type: ignore[assignment]


#: So late, in seconds, may a deadline be noticed by who keeps it.
_MARGIN = 0.05


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Outfit:
    """What a child has from its guard, besides its line."""

    journal: Journal
    output: Output
    #: The limit of its memory; None for none.
    memory: int | None
    #: Whether it takes orders, and may run several items.
    lives_on: bool
    #: Whether other tests may follow in it, so that its health matters.
    is_shared: bool
    #: What it may be ordered to run, by place among the session's items.
    items: Mapping[int, pytest.Item]


#: In a child: its journal, which it claims when a test asks for it, and the process that may.
journal_key = pytest.StashKey[tuple[Journal, int]]()


def has_begun_clean(config: pytest.Config) -> bool:
    """Whether this is a child that did not begin as a copy of pytest's process; before its first test, too."""
    return config.stash.get(_clean_key, False)


def begin_clean(config: pytest.Config) -> None:
    """In a child that did not begin as a copy of pytest's process, before plugins are configured."""
    config.stash[_clean_key] = True
    config.stash[outermost_key] = Outermost(config.pluginmanager)


def run_one(item: pytest.Item, line: Line, outfit: Outfit, attempt: int, *, tells_pages: bool) -> None:
    """In a fork of one item: run it, and end."""
    inside = Inside(item.session, line, outfit)
    inside.begin(item, attempt)
    _arm_faulthandler_timeout(item.config, line.stacks_fd)

    def run() -> None:
        runtestprotocol(item, nextitem=None)
        # A teardown that raised no Exception but a BaseException has kept pytest from the rest.
        item.session._setupstate.teardown_exact(None)
        if tells_pages:
            line.sender.send(Touched(pages=pages.touched()))

    inside.obey(run)


def live(
    session: pytest.Session,
    line: Line,
    outfit: Outfit,
    *,
    says_so: bool = False,
    end: Callable[[], object] = lambda: None,
) -> None:
    """Carry out orders until one is to leave, and then ``end`` what this process has begun besides.

    A child that did not begin as a copy of pytest's process says that it has begun.
    """
    inside = Inside(session, line, outfit)
    session.config.stash[inside_key] = inside
    assert line.orders_fd is not None
    orders = Orders(line.orders_fd)
    if says_so:
        _, before = inside.meter.read()
        line.sender.ring(Begun(cpu_seconds=before.cpu_seconds, hidden_peak=before.hidden_peak))

    def run() -> None:
        inside.carry_out(orders)
        end()

    inside.obey(run)


class Inside:
    """The child's part in its life."""

    def __init__(self, session: pytest.Session, line: Line, outfit: Outfit) -> None:
        config = session.config
        known = config.stash[session_key]
        known.guarding = None
        if known.status is not None:
            known.status.close()
        config.stash[outermost_key].enter()
        _disown(session, known, lives_on=outfit.lives_on)
        leave_debug_file(config)
        outfit.output.arm()
        self._session = session
        self._items = outfit.items
        self._is_shared = outfit.is_shared
        self._config = config
        self._line = line
        self._journal = outfit.journal
        self._output = outfit.output
        self._send = line.sender.send
        self._send_lines = known.lines.divert(self._send)
        self._attempt = 0
        self._lives_on = outfit.lives_on
        self.meter = Meter(has_execed=has_begun_clean(config))
        memory.apply(outfit.memory)
        #: Of the item that runs, or ran last.
        self._reporter: Reporter | None = None
        self._forward_warnings()
        _refuse_debuggers()

    def begin(self, item: pytest.Item, attempt: int) -> None:
        """What is told from here on is told of this item."""
        if self._lives_on:
            memory.restore()
            self.meter.begin()
        self._journal.empty()
        item.stash[journal_key] = self._journal, os.getpid()
        reporter = Reporter(
            item,
            self._line.sender,
            self._send_lines,
            self._journal,
            self._output,
            self.meter,
            is_attempt=attempt > 0,
        )
        reporter.is_shared = self._is_shared
        self._reporter = self._config.stash[outermost_key].reporter = reporter
        if attempt:
            reruns.enter_child(item, attempt)

    def obey(self, do: Callable[[], None]) -> None:
        """Run tests, tear down what is left, and say how that ended."""
        session = self._session
        try:
            do()
        except pytest.exit.Exception as leaving:
            self._send(Stopped(reason=str(leaving.msg), returncode=leaving.returncode))
        except KeyboardInterrupt as interrupt:
            self._send(Stopped(reason=None, returncode=None, text=str(interrupt), frames=_frames_of(interrupt)))
        else:
            self._send_lines()
            # To be heard at once: while this process ends, its guard has the time for all that it has let gather.
            self._line.sender.ring(Finished(shouldstop=session.shouldstop, shouldfail=session.shouldfail))
            return
        # As at the end of an interrupted session: what this process has set up, it tears down.
        if self._lives_on:
            # What that writes belongs on the terminal, but behind what the parent has still to write of tests before.
            self._output.go_on()
        session._setupstate.teardown_exact(None)
        self._send_lines()
        if self._lives_on and (texts := self._output.between_tests()):
            self._send(Said(texts=texts))

    def carry_out(self, orders: Orders) -> None:
        """Do what is ordered, until that is to leave."""
        items, session = self._items, self._session
        checks = self._config.hook.pytest_faultguard_healthcheck
        goes_on = False
        while True:
            unhealthy, rings = "", True
            order = orders.wait()
            texts = self._output.between_tests()
            if texts:
                self._send(Said(texts=texts))
            match order:
                case Run(ahead=True) if not goes_on:
                    continue  # It will be given again, when what has happened is known.
                case Run(item=place, failed=failed, rings=rings):
                    item = items[place]
                    if order.location is not None:
                        vars(item)["location"] = order.location  # It is remembered there.
                    session.testsfailed, self._attempt = failed, order.attempt
                    nextitem = self._kept_for(item, order.nextitem, order.shared)
                    late = math.inf if order.timeout is None else time.monotonic() + order.timeout - _MARGIN
                    self._config.hook.pytest_runtest_protocol(item=item, nextitem=nextitem)
                    goes_on = not (session.shouldstop or session.shouldfail or session.testsfailed > failed)
                    # The next test would empty the journal before its guard has read what this one has left.
                    goes_on = goes_on and time.monotonic() < late
                    unhealthy = _health_of(item) if self._is_shared and checks.get_hookimpls() else ""
                case Trim(nextitem=following):
                    goes_on = False
                    self._tear_down_late(items[following])
                case Leave():
                    self._tear_down_late(None)
                    return
                case other:
                    raise AssertionError(other)
            unfit = self._unfit()
            goes_on = goes_on and not (unfit or unhealthy)
            idle = Idle(
                goes_on=goes_on,
                shouldstop=session.shouldstop,
                shouldfail=session.shouldfail,
                unfit=unfit,
                unhealthy=unhealthy,
                at=time.monotonic(),
            )
            if goes_on and not rings:
                self._send(idle)
            else:
                self._line.sender.ring(idle)

    def _kept_for(self, item: pytest.Item, following: int | None, shared: int) -> pytest.Item | None:
        """What pytest is given as the next item: that decides which fixtures it leaves standing."""
        if following is not None and following in self._items:
            return self._items[following]
        # An item of another process: any node has what is asked of it, and their last common one asks for the same.
        return cast("pytest.Item", item.listchain()[shared - 1]) if shared else None

    def run(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        """Run the protocol of an item, within what other plugins' hooks do around it."""
        reruns.begin(item)
        self.begin(item, self._attempt)
        self._forward_warnings()
        _arm_faulthandler_timeout(self._config, self._line.stacks_fd)
        # Of the hooks around a test that the parent calls, it has to hear as well: its live log begins anew.
        live_log = self._config.pluginmanager.getplugin("logging-plugin")
        if live_log is not None:
            live_log.pytest_runtest_logstart()
        runtestprotocol(item, nextitem=nextitem)
        if live_log is not None:
            live_log.pytest_runtest_logfinish()

    def _tear_down_late(self, nextitem: pytest.Item | None) -> None:
        """End what several items have shared; where that fails, it is one more teardown of the last one."""
        reporter, state = self._reporter, self._session._setupstate
        if reporter is None:
            return
        item = reporter.item

        def tear_down() -> None:
            with capturing(item, "teardown"):
                state.teardown_exact(nextitem)

        call = called(tear_down, "teardown")
        if call.excinfo is None:
            reporter.tell_noted(None)
            self._output.forget()
            return
        reporter.is_late = True
        if isinstance(item, pytest.Function):
            # pytest has let them go, and others look into them at each report of a test: pytest-benchmark does.
            item.funcargs = {}
        item.ihook.pytest_runtest_logreport(report=item.ihook.pytest_runtest_makereport(item=item, call=call))

    def _unfit(self) -> str:
        """After a test: why there is no journal for the next one; empty where there is."""
        try:
            self._journal = self._journal.renewed()
        except JournalError as error:
            return str(error)
        return ""

    def _forward_warnings(self) -> None:
        if self._config.pluginmanager.hasplugin("warnings"):
            _forward_warnings(self._send)


def _health_of(item: pytest.Item) -> str:
    """Why no other test should follow in this process, as others say; empty where it may."""
    try:
        reason = item.ihook.pytest_faultguard_healthcheck(item=item)
    except pytest.exit.Exception:
        raise
    except (Exception, SystemExit, pytest.fail.Exception, pytest.skip.Exception) as error:  # noqa: BLE001 - as above.
        return f"the health check raised {traceback.format_exception_only(error)[-1].strip()}"
    if reason is None or isinstance(reason, str):
        return reason or ""
    return f"the health check returned {reason!r}, which is no reason"


def _disown(session: pytest.Session, known: Session, *, lives_on: bool) -> None:
    """Right after a fork: what the parent has set up is usable here and torn down there.

    Emptied are the finalizers of every node on the inherited stack and of every fixture that is alive, so that the
    teardown of all that is left, at this child's end, runs what was set up in it and nothing else. A child that lives on
    must forget the value of such a fixture where its scope ends: else the next class would be given it.
    """
    for finalizers, _ in session._setupstate.stack.values():
        known.inherited += finalizers
        owners = [getattr(getattr(one, "func", None), "__self__", None) for one in finalizers] if lives_on else []
        finalizers[:] = [functools.partial(_forget, one) for one in owners if isinstance(one, pytest.FixtureDef)]
    for fixture in known.alive.values():
        known.inherited += [*fixture._finalizers, fixture.cached_result]
        fixture._finalizers.clear()


def _forget(fixture: pytest.FixtureDef[Any]) -> None:
    """End what was set up here on top of an inherited fixture, and forget that."""
    errors: list[BaseException] = []
    while fixture._finalizers:
        try:
            fixture._finalizers.pop()()
        except BaseException as error:  # noqa: BLE001 - raised below.
            errors.append(error)
    fixture.cached_result = None
    if errors:
        raise errors[0]


def _forward_warnings(send: Callable[[Message], None]) -> None:
    pid, former = os.getpid(), warnings._showwarnmsg_impl  # type: ignore[attr-defined]

    def forward(record: warnings.WarningMessage) -> None:
        if os.getpid() != pid:
            former(record)  # In a process that the test has forked.
            return
        send(
            Warned(
                category_module=record.category.__module__,
                category_name=record.category.__qualname__,
                text=str(record.message),
                filename=record.filename,
                line=record.lineno,
                args=getattr(record.message, "args", ()),
                source=None if record.source is None else object.__repr__(record.source),
            )
        )

    warnings._showwarnmsg_impl = forward  # type: ignore[attr-defined]


def _refuse_debuggers() -> None:
    def refuse(*_: object, **__: object) -> None:
        __tracebackhide__ = True
        if os.environ.get("PYTHONBREAKPOINT") != "0":
            _no_debugger()

    sys.breakpointhook = refuse
    pdb.set_trace = refuse


def _no_debugger() -> NoReturn:
    __tracebackhide__ = True
    pytest.fail("use --no-faultguard: a guarded test has no terminal for a debugger")


def _arm_faulthandler_timeout(config: pytest.Config, stacks_fd: int) -> None:
    timeout = faulthandler_timeout(config)
    if timeout > 0:
        try:
            leave = bool(config.getini("faulthandler_exit_on_timeout"))
        except ValueError:
            leave = False  # Before pytest 9 there is no such setting.
        faulthandler.dump_traceback_later(timeout, file=stacks_fd, exit=leave)


def _frames_of(error: BaseException) -> tuple[Frame, ...]:
    """Where an exception came from, without pytest's own frames outside of it."""
    summary = traceback.extract_tb(error.__traceback__)
    frames = [Frame(function=one.name, file=one.filename, line=one.lineno) for one in summary]
    inner = []
    for frame in reversed(frames):
        if faultdump.is_plumbing(frame):
            break
        inner.append(frame)
    return tuple(reversed(inner))


class _ForwardedError(Exception):
    """Ends the call of a hook whose implementations belong to the parent."""


class Outermost:
    """What a child does around all hooks of all plugins; idle in the parent.

    Registered before the fork, because that takes longer than all else that a child does before its test, and kept the
    one that was registered last.
    """

    def __init__(
        self,
        manager: pytest.PytestPluginManager,
        before: Callable[[pytest.Item], object] = lambda _: None,
        after: Callable[[pytest.Item | None], object] = lambda _: None,
    ) -> None:
        self._manager = manager
        #: In the parent, around the protocol of each item: before it, and then with the next one.
        self._before = before
        self._after = after
        #: Set in a child.
        self.reporter: Reporter | None = None
        self._silence = _Silence(self)
        self._is_last = False
        for kind in _REPORTED_KINDS:
            issubclass(kind, os.PathLike)
        #: Whether pytest alone says how a report is to be sent.
        self.has_plain_reports = False
        self.stand_by()

    def enter(self) -> None:
        """In a child: it has none itself."""
        self._before = self._after = lambda _: None
        if not self._is_last:
            self._look_for_serializers()

    def _look_for_serializers(self) -> None:
        hook = self._manager.hook
        found = (
            hook.pytest_report_to_serializable.get_hookimpls() + hook.pytest_report_from_serializable.get_hookimpls()
        )
        self.has_plain_reports = all(one.function.__module__ in _SERIALIZERS for one in found)

    def stand_by(self) -> None:
        """In the parent, before each fork: be the last one."""
        if self._is_last:
            return
        for plugin in (self._silence, self):
            if self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            self._manager.register(plugin)
        self._look_for_serializers()
        self._is_last = True

    def pytest_plugin_registered(self) -> None:
        """Somebody else is the last one now."""
        self._is_last = False

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """In the parent: children begin and end outside of all that belongs to an item."""
        self._before(item)
        done = yield
        self._after(nextitem)
        return done

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> Generator[None, object, object]:
        """In a child: the report leaves."""
        if self.reporter is not None:
            self.reporter.tell(report)
        try:
            return (yield)
        except _ForwardedError:
            return []

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """In a child: a report has what only the child knows. In the parent: that of a crash is cheap to make."""
        if self.reporter is not None and call.excinfo is not None:
            # What has failed for want of memory may hold it still: its report needs some, and its teardown.
            memory.lift()
            self.reporter.keep_output(call.when)
        if call.excinfo is not None and isinstance(call.excinfo.value, CrashError) and self.reporter is None:
            # Here, where nobody else's hook runs: to others a file is whole.
            with reporting.narrowed(call.excinfo.tb):
                return (yield)
        report = yield
        if self.reporter is not None:
            report = self.reporter.judge(call, report)
            self.reporter.add_data(report)
            if report.failed and (limit := memory.told_of(report.longreprtext)):
                reporting.add_section(report, "memory limit", limit)
        return report

    # Registered last: they run after pytest has evaluated the marks, and before the phase.

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """In a child: the marks are evaluated. In the parent: a test that must die is no more than skipped."""
        if self.reporter is not None:
            self.reporter.tell_expected()
        elif reason := item.stash.get(spared_key, ""):
            raise pytest.skip.Exception(reason, _use_item_location=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, nextitem: pytest.Item | None) -> None:
        """In a child of several items: what they share has a limit of its own."""
        if self.reporter is not None:
            self.reporter.foretell_shared(nextitem)

    # Not a wrapper: pytest before 8.2 shows its frame in the traceback of an exception group.
    def pytest_runtest_call(self) -> None:
        """In a child: the setup may have added a mark."""
        if self.reporter is not None:
            self.reporter.tell_expected()

    def pytest_enter_pdb(self) -> None:
        """In a child: there is no terminal for that."""
        if self.reporter is not None:
            _no_debugger()


class _Silence:
    """Keeps reports from the plugins of a child: those of the parent get them."""

    def __init__(self, outermost: Outermost) -> None:
        self._outermost = outermost

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self) -> Generator[None, object, object]:
        if self._outermost.reporter is not None:
            raise _ForwardedError
        return (yield)


outermost_key = pytest.StashKey[Outermost]()


_clean_key = pytest.StashKey[bool]()
#: In a child that lives on.
inside_key = pytest.StashKey[Inside]()


#: What reports are made of. pytest asks of each value whether it is a path: the class remembers the answers, and a child
#: that inherits them need not find them.
_REPORTED_KINDS = (str, int, float, bool, list, tuple, dict, type(None))


#: What a report has to which nobody has added anything.
_ATTRIBUTES = frozenset(vars(pytest.TestReport("", ("", 0, ""), {}, "passed", None, "call")))
#: Where pytest says how reports are sent: those of subtests are of another class.
_SERIALIZERS = frozenset({"_pytest.reports", "_pytest.subtests"})


#: Fixtures that keep what a test writes.
_CAPTURING = frozenset({"capsys", "capfd", "capsysbinary", "capfdbinary"})


class Reporter:
    """Sends what happens in the child to its guard."""

    def __init__(
        self,
        item: pytest.Item,
        sender: Sender,
        send_lines: Callable[[], object],
        journal: Journal,
        output: Output,
        meter: Meter,
        *,
        is_attempt: bool,
    ) -> None:
        self._is_attempt = is_attempt
        self.item = item
        #: Whether other items may follow in the same child.
        self.is_shared = False
        self._sender = sender
        self._send = sender.send
        self._send_lines = send_lines
        #: Whether the item's last report has left before.
        self.is_late = False
        self._journal = journal
        self._output = output
        self._meter = meter
        self._expected: Expected | None = None
        self._xml = item.config.stash.get(xml_key, None)
        self._told_properties = len(self._xml.global_properties) if self._xml is not None else 0

    def foretell_shared(self, nextitem: pytest.Item | None) -> None:
        """Before a teardown: its guard is to hear when it comes to what several items share."""
        if not self.is_shared or (nextitem is not None and nextitem.parent is self.item.parent):
            return
        state = self.item.session._setupstate
        kept = frozenset() if nextitem is None else frozenset(nextitem.listchain())
        for node in reversed(self.item.listchain()[:-1]):
            if node in kept:
                return
            finalizers, _ = state.stack.get(node, ((), None))
            if any(one != node.teardown for one in finalizers):
                # The last one is the first to be called, after all that belongs to the item.
                state.addfinalizer(lambda: self._sender.ring(SharedTeardown(at=time.monotonic())), node)
                return

    def tell(self, report: pytest.TestReport) -> None:
        """A phase has ended: its report leaves at once."""
        ends_phase = type(report) is pytest.TestReport
        if self._is_attempt and ends_phase and not self.is_late:
            # Whether it counts is decided after the attempt.
            self._send(Kept(attributes=reruns.kept(self.item, report.when)))
        else:
            # The parent's session counts it as well; what runs here must know when enough is enough.
            self.item.session.pytest_runtest_logreport(report)
        self.add_data(report)  # Only now has a strict xfail that passed become a failure.
        self.tell_noted(report)
        self._send_lines()
        before = NOTHING
        if ends_phase and report.when == "teardown" and not self.is_late:
            used, before = self._meter.read()
            usage.add(report.user_properties, used)
        packed = _packed(report, self.item.config, before, late=self.is_late)
        self._output.turns.hand_over(packed, self._sender)
        self._output.forget()
        if report.when == "teardown":
            self._output.go_on()

    def judge(self, call: pytest.CallInfo[None], report: pytest.TestReport) -> pytest.TestReport:
        """The report; another one of a test that should have died in its call, and is still here."""
        settings = self.item.stash[settings_key]
        death = None if settings is None else settings.death
        if death is None or call.when != "call" or report.skipped or _is_calling():
            return report
        raised = None if call.excinfo is None else call.excinfo.value
        if isinstance(raised, pytest.xfail.Exception):
            return report
        call.excinfo = pytest.ExceptionInfo.from_exception(reporting.survived(self.item, str(death), raised))
        return pytest.TestReport.from_item_and_call(self.item, call)

    def keep_output(self, when: str) -> None:
        """A phase has failed: what comes now is the repr of its exception, which may be what kills."""
        sections = self.item._report_sections
        texts = {key: text for phase, key, text in sections if phase == when and key in {"stdout", "stderr"}}
        if texts:  # None in a subtest: its test still runs.
            self._output.keep(texts)

    def add_data(self, report: pytest.TestReport) -> None:
        """Show what is in the journal in a report that failed."""
        if not report.failed or not len(self._journal) or reporting.has_section(report, reporting.DATA_TITLE):
            return
        rescued, gaps = rescue(self._journal.fileno())
        text = "\n".join([reporting.data_text(rescued), *gaps])
        reporting.add_section(report, reporting.DATA_TITLE, text)

    def tell_noted(self, report: pytest.TestReport | None) -> None:
        """What was said to the junitxml file since the last time."""
        if self._xml is None:
            return
        properties = tuple(self._xml.global_properties[self._told_properties :])
        self._told_properties += len(properties)
        reporter = None if report is None else self._xml.node_reporters.get((identity_of(report), None))
        attributes = {} if reporter is None else reporter.attrs
        if properties or attributes:
            self._send(Noted(session_properties=properties, attributes=attributes))

    def tell_expected(self) -> None:
        """A phase begins: would a crash in it be an expected one?"""
        if getattr(self.item.config.option, "runxfail", False):  # There is none with -p no:skipping.
            return
        xfail = self.item.stash.get(xfailed_key, None)
        if xfail is not None:
            expected = _expected(xfail)
            if expected != self._expected:
                self._expected = expected
                self._send(expected)

    def tell_set_up(self, fixture: str) -> None:
        """A fixture is about to be set up, whether the test has named it or has asked for it as it ran."""
        if fixture in _CAPTURING:
            self._send(Capturing(fixture=fixture))
        losses.warn(fixture, self.item.config)


def _is_calling() -> bool:
    """Whether this is called from within a test's own code, as reports of subtests are."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not pytest_runtest_call.__code__:
        frame = frame.f_back
    return frame is not None


def _packed(report: pytest.TestReport, config: pytest.Config, before: Before, *, late: bool) -> Report:
    counts: Mapping[Any, int] | None = None
    if failed_subtests_key is not None:
        counts = config.stash.get(failed_subtests_key, None)
    longrepr = report.longrepr
    is_plain = (
        type(report) is pytest.TestReport
        and longrepr is None
        and config.stash[outermost_key].has_plain_reports
        and vars(report).keys() == _ATTRIBUTES
    )
    return Report(
        data={} if is_plain else config.hook.pytest_report_to_serializable(config=config, report=report),
        arguments=reporting.arguments_of(report) if is_plain else (),
        was_object=not (longrepr is None or isinstance(longrepr, str | tuple) or hasattr(longrepr, "reprtraceback")),
        failed_subtests=counts.get(identity_of(report), 0) if counts else 0,
        late=late,
        left_at=time.monotonic(),
        cpu_seconds=before.cpu_seconds,
        hidden_peak=before.hidden_peak,
    )


def _expected(xfail: Xfail) -> Expected:
    """What the guard must know of an evaluated xfail mark; whatever is code in it was run here."""
    raises: Any = xfail.raises
    types, pattern, unanswerable = raises, None, False
    if raises is not None and not isinstance(raises, type | tuple):
        # pytest.RaisesExc: its types, if any, and its pattern are data. A check=… is code that only the dead child could
        # have run. And a crash is no group of exceptions.
        is_single = type(raises) is getattr(pytest, "RaisesExc", None)
        types, pattern = raises.expected_exceptions or BaseException, raises.match
        unanswerable = not is_single or raises.check is not None
    crash, hang = (raises is None or (not unanswerable and issubclass(kind, types)) for kind in (CrashError, HangError))
    return Expected(
        reason=xfail.reason,
        strict=bool(xfail.strict),
        crash=crash,
        hang=hang,
        pattern=getattr(pattern, "pattern", pattern),
    )
