"""The pytest plugin: hooks and fixture, each body one call."""

from __future__ import annotations

from collections.abc import Generator
from collections.abc import MutableMapping
from typing import Any
from typing import Literal

import pytest

from pytest_faultguard import chosen
from pytest_faultguard import collection
from pytest_faultguard import hooks
from pytest_faultguard import options
from pytest_faultguard import protocol
from pytest_faultguard import session
from pytest_faultguard import usage


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that others may implement."""
    pluginmanager.add_hookspecs(hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare options and ini settings."""
    options.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, check the settings."""
    session.start(config)
    collection.start(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End a child that was started in vain; give the status signal back."""
    protocol.end_session(config)
    session.end(config)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Keep the list of the tests that crash."""
    protocol.record_crashes(session.config)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say it where nothing is guarded although it was asked for."""
    return session.header(config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what the guarded tests used."""
    usage.show(terminalreporter)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Start a fresh interpreter meanwhile, where one is certain to be needed."""
    protocol.begin_collection(session)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    """Resolve the settings of every test that is left, so that a wrong one stops the session before it begins."""
    yield
    session.resolve(config, items)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Have children ended that outlive a test, and the lines that ran in them counted, before anybody reports on them."""
    with protocol.around_tests(session):
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Literal[True] | None:
    """Run a guarded test in a child."""
    return protocol.run_item(item, nextitem)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Give a crash its look before other plugins see the report."""
    return protocol.dress(item, (yield))


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
    """Know which fixtures a child inherits."""
    protocol.note_alive(fixturedef, request.config)


def pytest_fixture_post_finalizer(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> None:
    """Know which fixtures a child inherits no more."""
    protocol.note_gone(fixturedef, request)


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item) -> Literal[True] | None:
    """Beside pytest-timeout: for a guarded test it sets no alarm, neither here nor in the child."""
    return session.is_guarded(item) or None


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> Literal[True] | None:
    """Beside pytest-timeout: a guarded test has no alarm."""
    return session.is_guarded(item) or None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """On a controller of pytest-xdist: its cache is the one that counts."""
    chosen.tell_worker(node)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodeready(node: Any) -> None:
    """On a controller of pytest-xdist: pass the status signal on to its workers."""
    session.add_worker(node)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """On a controller of pytest-xdist: a usage error that a worker found ends the session as one."""
    session.remove_worker(node)


@pytest.fixture
def faultguard_data(request: pytest.FixtureRequest) -> Generator[MutableMapping[Any, Any]]:
    """A mapping whose values outlive this process: whatever kills it, the report shows the last ones.

    ``faultguard_data.buffer(key, size)`` is memory that outlives it: a writable ``memoryview``.
    """
    with protocol.data_of(request.node) as journal:
        yield journal
