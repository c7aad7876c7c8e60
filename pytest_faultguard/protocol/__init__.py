"""One pytest item through one guard: reports in, reports out.

The only package that uses private pytest API; checked on pytest 8.0 to 9.2:

``_pytest.config._prepareconfig``, ``Config._do_configure``
    In a child that starts clean, what ``pytest.main`` does before it runs a session: its hook would run a whole one.
``TempPathFactory._basetemp``, ``Item._nodeid``
    There, the session's base directory, and the node ids that pytest-xdist has changed.
``Config._parser``, its ``optparser`` and that one's ``_option_string_actions``
    Which words of the command line are values of options, to repeat it without the paths. The last is of ``argparse``.
``LoggingPlugin.log_file_handler``
    There, with pytest 8.0, which has no ``--log-file-mode`` and would empty the session's log file.
``_pytest.runner.runtestprotocol``
    Runs the three phases of an item. The public hook ``pytest_runtest_protocol`` would run us again.
``_pytest.runner.check_interactive_exception``
    Whether ``pytest_exception_interact`` hears of an exception; so that it hears of a crash when it would of a failure.
``_pytest.runner.pytest_runtest_call``
    The frame in which a test's own code runs: reports that are made within it are those of subtests.
``_pytest.skipping.xfailed_key``, ``Xfail``
    Where pytest keeps the evaluated xfail mark of an item. The child reads it, for evaluating may run test code; the
    parent puts the answer there while it makes the report of a crash, so that pytest itself judges it.
``_use_item_location`` of ``pytest.skip.Exception``
    A test that we skip is told with its own place, as one that has a mark for that.
``Session._setupstate``, its ``stack`` and ``teardown_exact``
    The nodes that are set up. The child empties the finalizers that it inherited; the parent tears down what is its own.
``FixtureDef._finalizers``
    As above, for fixtures that are alive.
``FixtureDef.cached_result`` and ``finish``, ``Function._fixtureinfo`` and ``_request``
    What the parent has set up for one value of a parameter it ends before it forks for another, as pytest would.
``Config._tmp_path_factory``
    Makes the session's base directory before the first child, else every child makes one.
``Item._report_sections``
    What a phase has written: pytest has read it from its files, and a crash while the report is made must not lose it.
``capturemanager.item_capture``
    Found by its registered name: captures what a teardown of this process's own writes.
``_pytest.junitxml.xml_key``, ``LogXML.global_properties``, ``LogXML.node_reporters``
    Where ``record_testsuite_property`` and ``record_xml_attribute`` write to: in the child's memory. Under pytest-xdist
    there is no such object, and they write nowhere.
``_pytest.subtests.failed_subtests_key``, ``SubtestContext.kwargs``
    pytest 9 counts the failed subtests of a test where they run, and asks for the number where its report is logged; and
    it takes the repr of a subtest's values again at the end of each journey.
``warnings._showwarnmsg_impl``
    Of the standard library, and what ``catch_warnings(record=True)`` sets: the public hook is not told the source.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import ExitStack
from contextlib import contextmanager
from typing import Any
from typing import Literal

import pytest

from pytest_faultguard import chosen
from pytest_faultguard import report as reporting
from pytest_faultguard.evidence.journal import Journal
from pytest_faultguard.options import data_limit_for
from pytest_faultguard.options import spawns_one_for_all
from pytest_faultguard.protocol.births import Births
from pytest_faultguard.protocol.children import Children
from pytest_faultguard.protocol.children import births_key
from pytest_faultguard.protocol.children import children_key
from pytest_faultguard.protocol.inside import has_begun_clean
from pytest_faultguard.protocol.inside import inside_key
from pytest_faultguard.protocol.inside import journal_key
from pytest_faultguard.protocol.inside import outermost_key
from pytest_faultguard.protocol.items import GuardedItem
from pytest_faultguard.protocol.items import crash_key
from pytest_faultguard.protocol.items import run_attempts
from pytest_faultguard.session import session_key
from pytest_faultguard.session import settings_key


def run_item(item: pytest.Item, nextitem: pytest.Item | None) -> Literal[True] | None:
    """Run the protocol of one item in a child and log its reports here; None where it is not guarded."""
    inside = item.config.stash.get(inside_key, None)
    if inside is not None:
        inside.run(item, nextitem)
        return True
    settings = item.stash.get(settings_key, None)
    if settings is None:
        return None
    if not run_attempts(item, nextitem, settings):
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        GuardedItem(item, nextitem, settings).run()
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def note_alive(fixture: pytest.FixtureDef[Any], config: pytest.Config) -> None:
    """A fixture is about to be set up in this process."""
    config.stash[session_key].alive[id(fixture)] = fixture
    outermost = config.stash.get(outermost_key, None)
    if outermost is not None and outermost.reporter is not None:
        outermost.reporter.tell_set_up(fixture.argname)


def note_gone(fixture: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
    """A fixture was torn down in this process."""
    config = request.config
    if config.stash[session_key].alive.pop(id(fixture), None) is None:
        return
    children = config.stash.get(children_key, None)
    if children is not None and request.node in request.session._setupstate.stack:
        # Before its scope has ended, for another parameter: who has inherited it must not use it any more.
        children.distrust(fixture)


def record_crashes(config: pytest.Config) -> None:
    """Keep the list of the tests that crashed, for the next session."""
    if not has_begun_clean(config):
        chosen.record(config, reporting.ATTRIBUTE)


def begin_collection(session: pytest.Session) -> None:
    """A child that is certain to be needed may begin now."""
    config = session.config
    is_controller = config.pluginmanager.hasplugin("dsession")
    if not (is_controller or has_begun_clean(config)) and spawns_one_for_all(config):
        config.stash[session_key].lines.expect()
        births = config.stash[births_key] = Births(session)
        births.begin_early()


def end_session(config: pytest.Config) -> None:
    """No child is needed any more, also where no test has run."""
    births = config.stash.get(births_key, None)
    if births is not None:
        births.end(hurry=True)


@contextmanager
def around_tests(session: pytest.Session) -> Generator[None]:
    """Around all tests: children that outlive a test end, and who measures this process has measured them as well."""
    config = session.config
    if has_begun_clean(config):
        yield
        return
    children = config.stash[children_key] = Children(session)
    hurry = True
    try:
        yield
        hurry = False
    finally:
        with ExitStack() as stack:
            stack.callback(config.stash[session_key].lines.count)
            # Again, for what an interrupt has left that came before a child's end had begun.
            stack.callback(children.end_all, hurry=True)
            stack.callback(children.end_all, hurry=hurry)


def dress(item: pytest.Item, report: pytest.TestReport) -> pytest.TestReport:
    """The report of a crash, with everything that belongs in it; any other report as it is."""
    known = item.stash.get(crash_key, None)
    if known is not None:
        crash, sections, properties, added = known
        report.sections[:0] = sections
        report.user_properties = [*properties, *report.user_properties]
        (reporting.dress if report.failed else reporting.dress_death)(report, crash)
        for title, text in added:
            reporting.add_section(report, reporting.clean(title), text)
    return report


@contextmanager
def data_of(item: pytest.Item) -> Generator[Journal]:
    """The journal of an item: its child's, or one of this process for a test that is not guarded."""
    inherited = item.stash.get(journal_key, None)
    if inherited is not None:
        journal, pid = inherited
        if pid == os.getpid():
            journal.claim()
        yield journal
        return
    journal = Journal.create(data_limit_for(item))
    journal.claim()
    try:
        yield journal
    finally:
        journal.close()
