"""The parent's side: one item, from the order to run it to its last report."""

from __future__ import annotations

import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from collections.abc import Generator
from dataclasses import replace
from typing import Any
from typing import cast

import pytest
from _pytest.junitxml import xml_key
from _pytest.runner import check_interactive_exception
from _pytest.skipping import Xfail
from _pytest.skipping import xfailed_key

from pytest_faultguard import chosen
from pytest_faultguard import report as reporting
from pytest_faultguard import reruns
from pytest_faultguard import usage
from pytest_faultguard.crash import RAN_ON
from pytest_faultguard.crash import Crash
from pytest_faultguard.crash import Ending
from pytest_faultguard.crash import Exited
from pytest_faultguard.crash import Lost
from pytest_faultguard.crash import Overdue
from pytest_faultguard.crash import Phase
from pytest_faultguard.crash import Seconds
from pytest_faultguard.crash import Signaled
from pytest_faultguard.evidence import faultdump
from pytest_faultguard.evidence import lastwords
from pytest_faultguard.guard import Guard
from pytest_faultguard.guard import Limits
from pytest_faultguard.guard import Remains
from pytest_faultguard.options import Settings
from pytest_faultguard.outcome import FaultguardError
from pytest_faultguard.outcome import JournalError
from pytest_faultguard.outcome import LaunchError
from pytest_faultguard.outcome import LeakedProcessesWarning
from pytest_faultguard.outcome import UnhealthyChildWarning
from pytest_faultguard.outcome import error_for
from pytest_faultguard.process import memory
from pytest_faultguard.process import proc
from pytest_faultguard.process.channel import Broken
from pytest_faultguard.process.channel import Capturing
from pytest_faultguard.process.channel import Covered
from pytest_faultguard.process.channel import Expected
from pytest_faultguard.process.channel import Finished
from pytest_faultguard.process.channel import Idle
from pytest_faultguard.process.channel import Kept
from pytest_faultguard.process.channel import Message
from pytest_faultguard.process.channel import Noted
from pytest_faultguard.process.channel import Report
from pytest_faultguard.process.channel import Said
from pytest_faultguard.process.channel import SharedTeardown
from pytest_faultguard.process.channel import Stopped
from pytest_faultguard.process.channel import Warned
from pytest_faultguard.process.meter import Before
from pytest_faultguard.process.meter import Usage
from pytest_faultguard.process.meter import since
from pytest_faultguard.process.rescue import rescue
from pytest_faultguard.process.supervise import Snapshot
from pytest_faultguard.protocol.children import Child
from pytest_faultguard.protocol.children import children_key
from pytest_faultguard.protocol.children import prepare_fork
from pytest_faultguard.protocol.children import reporting_late
from pytest_faultguard.protocol.phases import When
from pytest_faultguard.protocol.phases import called
from pytest_faultguard.protocol.phases import capturing
from pytest_faultguard.protocol.phases import faulthandler_timeout
from pytest_faultguard.protocol.phases import identity_of
from pytest_faultguard.session import Session
from pytest_faultguard.session import session_key
from pytest_faultguard.session import to_terminal

try:
    from _pytest.subtests import failed_subtests_key
except ImportError:  # pytest 8.
    failed_subtests_key = None  # type: ignore[assignment]


#: What multiprocessing starts for itself, never ends, and has end when it sees that nobody is left to serve.
_HELPER = re.compile(r" -c from multiprocessing\.(resource_tracker|forkserver) import main;")
_NEAR_CHARACTERS = 100
#: A test that dies in this time has died right at its start.
_AT_ONCE: Seconds = 1.0
#: How long the condition of a mark may take where it is evaluated after a crash.
_ANSWER_BOUND: Seconds = 10.0


#: While the parent makes a report of a crash: the crash, and what the child's earlier reports said.
crash_key = pytest.StashKey["tuple[Crash, list[tuple[str, str]], list[tuple[str, object]], list[tuple[str, str]]]"]()


def run_attempts(item: pytest.Item, nextitem: pytest.Item | None, settings: Settings) -> bool:
    """Have pytest-rerunfailures run the item, each attempt in a child; False where it leaves that to us."""
    if not reruns.is_active(item.config):
        return False
    attempts: list[GuardedItem] = []

    def attempt(may_be_followed: bool) -> list[pytest.TestReport]:  # noqa: FBT001 - the one thing that it is told.
        reports: list[pytest.TestReport] = []
        attempts[:] = [GuardedItem(item, nextitem, settings, reports.append, may_be_followed=may_be_followed)]
        attempts[0].run()
        return reports

    def ask(question: Callable[[], dict[str, Any]]) -> None:
        attempts[0].ask(question)

    if not reruns.run(item, nextitem, attempt, ask):
        return False
    for last in attempts:
        last.end_attempts()
    return True


class GuardedItem:
    """The parent's part in the run of one item."""

    is_heard = True
    #: Which runs it, or ran it last.
    child: Child

    def __init__(
        self,
        item: pytest.Item,
        nextitem: pytest.Item | None,
        settings: Settings,
        collect: Callable[[pytest.TestReport], object] | None = None,
        *,
        may_be_followed: bool = False,
    ) -> None:
        self.item = item
        self.nextitem = nextitem
        self.settings = settings
        #: Gets the reports instead of pytest's hook.
        self.collect = collect
        self.may_be_followed = may_be_followed
        self.failed = False
        self.last: pytest.TestReport | None = None
        self.held: pytest.TestReport | None = None
        self.expected: Expected | None = None
        self.stopped: Stopped | None = None
        self.finished: Finished | Idle | None = None
        #: Whether what goes on now is no phase of this item, but the teardown of what it shared with others.
        self.is_late = False
        self.broken = ""
        #: Gaps: output that nobody but the child had.
        self.uncaught: list[str] = []
        self.snapshots: list[Snapshot] = []
        self.slow: list[tuple[str, str]] = []
        self.captured: dict[str, str] = {}
        #: Whether what the child does now is the teardown of what is not the item's alone.
        self.is_shared = False
        #: After a crash: what the test had used.
        self.usage: Usage | None = None
        self.phase_started_at = time.monotonic()

    def run(self) -> None:
        """Have a child run it, and log what becomes of it."""
        item, session = self.item, self.item.config.stash[session_key]
        reruns.begin(item)
        if not self._end_other_values(session):
            return
        prepare_fork(item.config)
        session.lines.expect()
        children = item.config.stash[children_key]
        try:
            child = self.child = children.child_for(item)
            if child.node is None:
                remains = child.run(self, None, None)
            else:
                remains = child.run(self, children.place_of(item), children.place_of(self._following(child)))
        except (JournalError, LaunchError) as error:
            self._refuse(error)
            return
        except KeyboardInterrupt as interrupt:
            # Ctrl-C at the terminal: the child has said where that met it.
            self._raise_if_stopped()
            # A native loop ends without a word. pytest shows the place: of all that it could be, the test's own.
            raise interrupt.with_traceback(reporting.traceback_of((reporting.first_line(self.item),))) from None
        crash = None
        if remains is not None:
            children.remove(child)
            try:
                self._raise_if_stopped()
                crash = self._crash(remains)
            finally:
                child.close()
        if crash is not None and self.is_shared:
            # The same fixtures would end in the teardown of any item that is the last to need them.
            crash = children.with_trail(crash, child)
        elif crash is not None and len(child.trail) > 1 and not self._is_due(crash):
            try:
                crash = children.explained(crash, child, self.settings)
            except KeyboardInterrupt:
                # The crash is known, whoever's fault it was.
                self._conclude(crash, ())
                raise
        self._conclude(crash, () if remains is None else remains.leaked)

    @property
    def attempt(self) -> int:
        """Which one of pytest-rerunfailures; 0 where it does not run the item."""
        return 0 if self.collect is None else vars(self.item)["execution_count"]

    def _following(self, child: Child) -> pytest.Item | None:
        """The item whose fixtures the child leaves standing."""
        session, nextitem = self.item.session, self.nextitem
        if nextitem is None or session.shouldfail or session.shouldstop or child.node not in nextitem.listchain():
            return None
        return nextitem

    def end(self, remains: Remains) -> None:
        """The child that ran this item last has ended: whatever is told of it now is told of this item."""
        self.is_late = True
        try:
            self._raise_if_stopped()
            crash = self._crash(remains)
        finally:
            self.child.close()
        if crash is not None:
            # Whatever ran in it may have left what broke its end: to run the last one alone would tell little.
            crash = self.item.config.stash[children_key].with_trail(crash, self.child)
            with reporting_late(self.item):
                self._log_crash(crash)
        else:
            self._warn_of_leaked(remains.leaked, "a shared child")

    def _refuse(self, error: FaultguardError) -> None:
        """There is no child to be had, and so no test: its setup fails, and the session goes on."""
        error.__cause__ = None  # Its text has told it.
        call = called(lambda: None, "setup")
        blamed = reporting.traceback_of((reporting.first_line(self.item),))
        call.excinfo = pytest.ExceptionInfo.from_exception(error.with_traceback(blamed))
        self._fail_setup(call)

    def _end_other_values(self, session: Session) -> bool:
        """End what this process has set up for another parameter: pytest would before the item has its own value.

        False where that failed, which fails the item's setup.
        """
        others = list(_other_values(self.item, session))
        if not others:
            return True

        def finish() -> None:
            with capturing(self.item, "setup"):
                for fixture in others:
                    fixture.finish(self.item._request)  # type: ignore[attr-defined]

        call = called(finish, "setup")
        if call.excinfo is None:
            return True
        self._fail_setup(call)
        return False

    def _fail_setup(self, call: pytest.CallInfo[None]) -> None:
        self.last = self._log(call)
        self._close(None)

    # What the child says.

    def take(self, message: Message) -> None:
        """The child has said this."""
        match message:
            case Report():
                report = _unpacked(message, self.item.config)
                if message.late:
                    with reporting_late(self.item):
                        self._log_report(report)
                else:
                    self._take_report(report, message.left_at)
                if message.cpu_seconds:
                    self.child.before = Before(cpu_seconds=message.cpu_seconds, hidden_peak=message.hidden_peak)
                self.child.output.end_phase()
                self.child.output.turns.give_back()
            case Expected():
                self.expected = message
            case Capturing(fixture=name):
                self.uncaught.append(f"output: what {name} had captured died with the child")
            case Said(texts=texts):
                self.child.output.pass_on(texts)
            case Warned():
                self._warn(message)
            case Noted(session_properties=properties, attributes=attributes):
                xml = self.item.config.stash[xml_key]
                xml.global_properties.extend(properties)
                if attributes:
                    xml.node_reporter(self.item.nodeid).attrs.update(attributes)
            case SharedTeardown(at=at):
                self.is_shared = True
                if self.settings.end_timeout:
                    self.child.guard.bound(self.settings.end_timeout, at)
            case Kept(attributes=attributes):
                vars(self.item).update(attributes)
            case Covered():
                self.item.config.stash[session_key].lines.take(message)
            case Stopped():
                self.stopped = message
            case Finished():
                self.finished = message
            case Idle(unfit=unfit, unhealthy=unhealthy, goes_on=goes_on, at=at):
                self.finished = message
                self.child.is_unfit = self.child.is_unfit or bool(unfit or unhealthy)
                self.child.goes_on, self.child.went_on_at = goes_on, min(at, time.monotonic())
                if unhealthy:
                    told = f"its child was ended: {reporting.clean(unhealthy)}"
                    self._show_own(UnhealthyChildWarning(told))
            case Broken(text=text):
                self.broken = text
            case _:
                raise AssertionError

    def _take_report(self, report: pytest.TestReport, left_at: Seconds) -> None:
        self._add_snapshots(report)
        if type(report) is pytest.TestReport:  # Not a subtest's, which ends no phase.
            self.last = report
            # The report may have waited to be read.
            self.phase_started_at = min(max(self.phase_started_at, left_at), time.monotonic())
            if self.settings.limits.clock_waits:
                if report.when == "setup" and report.passed:
                    self.child.guard.start_clock(self.phase_started_at)
                else:
                    self.child.guard.stop_clock()
            if report.when == "teardown":
                # The last word on this test may be a crash at exit, or the teardown of what is set up here.
                self.held = report
                return
        self._log_report(report)

    def _log_report(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or report.failed
        chosen.note_guarded(report, self.item.config)
        if self.collect is not None and type(report) is pytest.TestReport:
            self.collect(report)
        else:
            self.item.ihook.pytest_runtest_logreport(report=report)

    def take_snapshot(self, snapshot: Snapshot) -> None:
        """The child is slow, or has asked for its stacks itself."""
        self.snapshots.append(snapshot)
        if snapshot.text.startswith("Timeout ("):
            # pytest's faulthandler_timeout: it has the dump on the terminal, at once.
            to_terminal(snapshot.text)

    def _add_snapshots(self, report: pytest.TestReport) -> None:
        for snapshot in self.snapshots:
            stacks = faultdump.parse(snapshot.text).stacks
            text = faultdump.render(stacks, faultdump.is_plumbing) if stacks else snapshot.text
            self.slow.append((f"stacks in {report.when} after {snapshot.after:.1f} s", reporting.clean(text)))
        self.snapshots.clear()
        # As pytest does with captured output: a report has the sections of the phases before, too.
        report.sections.extend(section for section in self.slow if section not in report.sections)

    def _warn(self, warned: Warned) -> None:
        # To a controller of pytest-xdist, a category is a name in a module.
        category = _category(warned) or (Warning if hasattr(self.item.config, "workerinput") else _like(warned))
        message: Warning | str = warned.text
        if category.__str__ is BaseException.__str__:
            # Neither this nor what is done with it runs code of the test's.
            message = BaseException.__new__(category, *warned.args)
            if str(message) != warned.text:
                message = BaseException.__new__(category, warned.text)
        record = warnings.WarningMessage(message, category, warned.filename, warned.line, source=warned.source)
        self._show(record)

    def _show_own(self, warning: Warning) -> None:
        path, line, _ = self.item.reportinfo()
        self._show(warnings.WarningMessage(warning, type(warning), str(path), (line or 0) + 1))

    def _warn_of_leaked(self, leaked: tuple[str, ...], whose: str) -> None:
        processes = reporting.clean(", ".join(one for one in leaked if not _HELPER.search(one)))
        if processes:
            self._show_own(LeakedProcessesWarning(f"killed at the end of {whose}: {processes}"))

    def _show(self, record: warnings.WarningMessage) -> None:
        self.item.ihook.pytest_warning_recorded.call_historic(
            kwargs={
                "warning_message": record,
                "nodeid": self.item.nodeid,
                "when": "runtest",
                "location": None,
            }
        )

    def _raise_if_stopped(self) -> None:
        stopped = self.stopped
        if stopped is None:
            return
        if stopped.reason is not None:
            raise pytest.exit.Exception(stopped.reason, stopped.returncode)
        interrupt = KeyboardInterrupt(*([stopped.text] if stopped.text else []))
        if stopped.frames:
            raise interrupt.with_traceback(reporting.traceback_of(stopped.frames)) from None
        raise interrupt

    # What became of it.

    def _phase(self) -> Phase:
        """The phase that the child was in; told by the reports that had left it."""
        last = self.last
        if self.is_late:
            return "teardown" if self.child.is_ending and not isinstance(self.finished, Finished) else self._exit()
        if last is None:
            return "setup"
        if last.when == "setup" and last.passed and not self.item.config.getoption("setuponly", False):
            return "call"
        return "teardown" if self.held is None else self._exit()

    def _exit(self) -> Phase:
        # A fresh interpreter ends as one does: handlers of atexit run, and destructors of C++.
        has_left = isinstance(self.finished, Finished) and self.child.start_method == "spawn"
        return "interpreter exit" if has_left else "exit"

    def _crash(self, remains: Remains) -> Crash | None:
        """The crash, and the output that goes with it; None where the child finished as it should."""
        output = self.child.output
        captured = output.read()
        ending = self._ending(remains)
        if ending is None:
            output.pass_on(captured)
            return None
        self.usage = None if remains.usage is None else since(remains.usage, self.child.before)
        words = output.native_words()
        if words:
            captured["stderr"] = captured.get("stderr", "") + words
        self.captured = captured
        out, err = captured.get("stdout", ""), captured.get("stderr", "")
        dump = remains.dump or faultdump.find(err)
        dumped = faultdump.parse(dump)
        message = lastwords.explain(err, out) if isinstance(ending, Signaled | Exited) else ""
        ending = memory.blame(ending, self.settings.limits.memory, remains.data_bytes, message)
        rescued, data_gaps = rescue(self.child.journal.fileno())
        if not dump and self.broken:
            dump = self.broken
        duration = max(0.0, remains.ended_at - self.phase_started_at)
        return Crash(
            label=str(self.item.nodeid),
            phase=self._phase(),
            ending=ending,
            duration=duration,
            start=self.child.start_method,
            message=message,
            stacks=dumped.stacks,
            dump=dump,
            rescued=rescued,
            leaked=remains.leaked,
            hint=self._hint(ending, duration, f"{out}\n{err}"),
            gaps=(
                *self._missing_stack(ending, dump, remains),
                *faultdump.missing_line(dumped),
                *remains.gaps,
                *self.uncaught,
                *data_gaps,
            ),
        )

    def _hint(self, ending: Ending, duration: Seconds, words: str) -> str:
        """Where the first test of a child dies or hangs at once: it may be what a copy of a process cannot do."""
        if self.child.start_method != "fork" or len(self.child.trail) > 1 or self._phase() not in {"setup", "call"}:
            return ""
        # The one of execnet's in a worker of pytest-xdist has nothing to do with what is tested.
        threads = proc.thread_count() - hasattr(self.item.config, "workerinput")
        match ending:
            case Signaled(signal=number) if number in faultdump.DUMPED and duration < _AT_ONCE:
                # The word first, and then its line: of megabytes without a line's end, the line takes quadratic time.
                told = re.search(r"\bfork\b", words, re.IGNORECASE)
                ground = f"it speaks of fork ({_line_around(words, told.start())})" if told else ""
            case Overdue(ground="") if self.usage is not None and self.usage.cpu_seconds < duration / 2:
                ground = ""
            case _:
                return ""
        if not ground:
            if threads == 1:
                return ""
            ground = f"pytest's process has {threads} threads, and a fork of it only one of them"
        return f'{ground}: for a library that cannot live with fork, try start="spawn"'

    def _missing_stack(self, ending: Ending, dump: str, remains: Remains) -> tuple[str, ...]:
        if any(gap.startswith("stacks:") for gap in remains.gaps):
            return ()
        if not dump and self._phase() == "interpreter exit":
            return ("stack: the interpreter had ended, and with it faulthandler",)
        return faultdump.missing_stack(ending, dump)

    def _ending(self, remains: Remains) -> Ending | None:
        ending = remains.ending
        if self.broken:
            return Lost(reason=f"pytest itself failed in the child: {self.broken.strip().splitlines()[-1]}")
        if isinstance(ending, Exited) and any(one.text.startswith("Timeout (") for one in self.snapshots):
            timeout = faulthandler_timeout(self.item.config)
            return Overdue(timeout=timeout, stopped_by="faulthandler_exit_on_timeout")
        return ending

    def _conclude(self, crash: Crash | None, leaked: tuple[str, ...]) -> None:
        session = self.item.session
        if self.finished is not None:
            session.shouldstop = session.shouldstop or self.finished.shouldstop
            session.shouldfail = session.shouldfail or self.finished.shouldfail
        if crash is None:
            assert self.held is not None
            if leaked:
                # A phase in the title: pytest shows the sections of a teardown by it.
                title = f"{reporting.LEAKED_TITLE} after teardown"
                self.held.sections.append((title, reporting.clean("\n".join(leaked))))
                if not (self.failed or self.held.failed):  # Else pytest shows the section.
                    self._warn_of_leaked(leaked, str(self.item.nodeid))
            self._close(self.held)
        elif crash.phase in ("setup", "call"):
            self._log_crash(crash)
            self._close(None)
        else:
            failed = self._log_crash(crash)
            self._close(failed, logged=True)

    def _log_crash(self, crash: Crash) -> pytest.TestReport:
        """Make the report of a crash as pytest makes one of an exception, and log it."""
        item = self.item
        assert crash.phase != "collect"
        when: When = crash.phase if crash.phase in {"setup", "call"} else "teardown"
        call = pytest.CallInfo.from_call(lambda: None, when=when)
        call.stop = time.time()
        call.duration = crash.duration
        call.start = call.stop - crash.duration
        death, evidence = self.settings.death, list[tuple[str, str]]()
        if not self._is_due(crash):
            crash, evidence = _with_evidence_of_others(item, crash)
            error = error_for(crash).with_traceback(reporting.blame(item, crash))
            if death is not None and crash.phase in ("setup", "call"):
                error.args = (f"{crash.cause}; expected {death} in call",)
            call.excinfo = pytest.ExceptionInfo.from_exception(error)
        sections = self._earlier_sections()
        sections += [(f"Captured {key} {when}", faultdump.folded(text)) for key, text in self.captured.items()]
        properties = [] if self.last is None else [*self.last.user_properties]
        if self.usage is not None:
            usage.add(properties, self.usage)
        item.stash[crash_key] = crash, sections, properties, evidence
        item.stash[xfailed_key] = self._xfail(crash)
        try:
            report: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=call)
        finally:
            del item.stash[crash_key]
            del item.stash[xfailed_key]
        # What a hook adds to every report is in the child's earlier ones as well.
        added = report.user_properties[len(properties) :]
        report.user_properties = [*(one for one in properties if one not in added), *added]
        self._add_snapshots(report)
        self.last = report
        self._log_report(report)
        if check_interactive_exception(call, report):
            item.ihook.pytest_exception_interact(node=item, call=call, report=report)
        return report

    def _is_due(self, crash: Crash) -> bool:
        """Whether the item passes by it."""
        death = self.settings.death
        return death is not None and death.is_met_by(crash, self.captured.values())

    def _earlier_sections(self) -> list[tuple[str, str]]:
        """The output of the phases that have ended; what a hook had put into their reports is theirs."""
        sections = [] if self.last is None else self.last.sections
        return [(title, text) for title, text in sections if title.startswith("Captured ")]

    def _xfail(self, crash: Crash) -> Xfail | None:
        expected = self.expected
        if expected is None:
            return None
        accepted = expected.hang if isinstance(crash.ending, RAN_ON) else expected.crash
        if accepted and expected.pattern is not None:
            accepted = re.search(expected.pattern, str(error_for(crash))) is not None
        # pytest compares types: none at all is what nothing matches.
        return Xfail(expected.reason, run=True, strict=expected.strict, raises=None if accepted else ())

    def _close(self, report: pytest.TestReport | None, *, logged: bool = False) -> None:
        """Tear down what this process has set up and the next item does not need; log the last report.

        ``report`` is the child's own, or that of a crash after the call, which is logged already. After a crash before,
        ours is the only teardown that there was: pytest's consumers wait for one (junitxml, pytest-html).
        """
        item, session = self.item, self.item.session
        nextitem = None if session.shouldfail or session.shouldstop else self.nextitem
        if self.may_be_followed and (self.failed or (report is not None and report.failed)):
            nextitem = item
        if report is not None and not _has_to_tear_down(session, nextitem):
            # Nearly always: what pytest does around a phase would be the dearest part of this.
            if not logged:
                self._log_report(report)
            return
        call = called(lambda: _teardown(item, nextitem), "teardown")
        if call.excinfo is None and report is not None:
            if not logged:
                self._log_report(report)
            return
        if report is not None and report.failed and not logged:
            self._log_report(report)
        self._log(call)

    def ask(self, question: Callable[[], dict[str, Any]]) -> None:
        """After a crash: have a child of its own answer what may be code of the test's, and keep the answer."""
        guard = Guard(Limits(timeout=_ANSWER_BOUND), self.take, lambda _: None)
        try:
            guard.run(lambda line: line.sender.send(Kept(attributes=question())))
        except LaunchError:
            pass  # No answer.

    def end_attempts(self) -> None:
        """There is no other: tear down what was left for it."""
        self.collect, self.may_be_followed = None, False
        self._close(self.last, logged=True)

    def _log(self, call: pytest.CallInfo[None]) -> pytest.TestReport:
        """Make and log a report of what was done here."""
        item = self.item
        report: pytest.TestReport = item.ihook.pytest_runtest_makereport(item=item, call=call)
        report.sections[:0] = self._earlier_sections()
        if self.last is not None:
            report.user_properties = self.last.user_properties
        self._add_snapshots(report)
        self._log_report(report)
        if check_interactive_exception(call, report):
            item.ihook.pytest_exception_interact(node=item, call=call, report=report)
        return report


def _with_evidence_of_others(item: pytest.Item, crash: Crash) -> tuple[Crash, list[tuple[str, str]]]:
    """What plugins and conftest files add; where one of them fails, the crash has a gap more."""
    manager, name = item.config.pluginmanager, "pytest_faultguard_crash"
    added: list[tuple[str, str]] = []
    for implementation in reversed(item.ihook.pytest_faultguard_crash.get_hookimpls()):
        plugin = implementation.plugin
        # Each by itself: what one has found is not lost by another's error.
        alone = manager.subset_hook_caller(name, [one for one in manager.get_plugins() if one is not plugin])
        try:
            for found in alone(item=item, crash=crash):
                for one in found:
                    added.append(_section(one))  # noqa: PERF401 - what a generator yields before its error is kept.
        except pytest.exit.Exception:
            raise
        except (Exception, pytest.fail.Exception, pytest.skip.Exception) as error:  # noqa: BLE001 - the user's code.
            told = traceback.format_exception_only(error)[-1].strip()
            gap = reporting.clean(f"{name} of {manager.get_name(plugin)}: {told}")
            crash = replace(crash, gaps=(*crash.gaps, gap))
    return crash, added


def _section(found: object) -> tuple[str, str]:
    match found:
        case (str(title), str(text)):
            return title, text
    msg = f"a title and a text are wanted, not {found!r}"
    raise TypeError(msg)


def _unpacked(message: Report, config: pytest.Config) -> pytest.TestReport:
    """The report as it was in the child."""
    data = message.data
    if message.arguments:
        return reporting.made_of(message.arguments)
    report: pytest.TestReport = config.hook.pytest_report_from_serializable(config=config, data=data)
    if message.was_object and isinstance(report.longrepr, str):
        report.longrepr = reporting.Shown(report.longrepr)  # type: ignore[assignment]
    if message.failed_subtests and failed_subtests_key is not None:
        config.stash[failed_subtests_key][identity_of(report)] = message.failed_subtests
    subtest = data.get("_subtest.context")
    if subtest is not None:
        object.__setattr__(cast("Any", report).context, "kwargs", subtest["kwargs"])
    return report


def _category(warned: Warned) -> type[Warning] | None:
    """The category of a warning; None where this process does not know it."""
    # Its module was loaded when this process forked, or it is one of the test's own: never import it here.
    found: object = sys.modules.get(warned.category_module)
    for name in warned.category_name.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, type) and issubclass(found, Warning) else None


def _like(warned: Warned) -> type[Warning]:
    """A category that has the name of one that was made in the child."""
    namespace = {"__module__": warned.category_module, "__qualname__": warned.category_name}
    return type(warned.category_name.rpartition(".")[2], (Warning,), namespace)


def _has_to_tear_down(session: pytest.Session, nextitem: pytest.Item | None) -> bool:
    stack = session._setupstate.stack
    return bool(stack) and (nextitem is None or list(stack) != nextitem.listchain()[: len(stack)])


def _teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if _has_to_tear_down(item.session, nextitem):
        with capturing(item, "teardown"):
            item.session._setupstate.teardown_exact(nextitem)


def _other_values(item: pytest.Item, session: Session) -> Generator[pytest.FixtureDef[Any]]:
    """The fixtures that this process has set up for a parameter of which the item has another value."""
    callspec = getattr(item, "callspec", None)
    if callspec is None:
        return
    definitions = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
    for name, value in callspec.params.items():
        for fixture in definitions.get(name, ()):
            if id(fixture) in session.alive and not _is_same(fixture.cached_result, value):
                yield fixture


def _is_same(cached: Any, value: object) -> bool:
    # As FixtureDef.execute compares: an array has no truth value.
    try:
        return cached is not None and (cached[1] is value or bool(cached[1] == value))
    except (ValueError, RuntimeError):
        return False


def _line_around(text: str, place: int) -> str:
    """The line in which that is, or what is near."""
    first = max(text.rfind("\n", 0, place) + 1, place - _NEAR_CHARACTERS)
    end = text.find("\n", place)
    return text[first : min(len(text) if end < 0 else end, place + _NEAR_CHARACTERS)].strip()
