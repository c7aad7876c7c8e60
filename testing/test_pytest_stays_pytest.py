"""Promise 8: pytest stays pytest. The same suite with and without the guard: the same reports, summary and files."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Any

import pytest

from testing.harness import USAGE
from testing.harness import without_usage

if TYPE_CHECKING:
    from testing.harness import Recorder
    from testing.harness import RunPytest

#: Records what the recorder of the harness does not: all that a report has, and each call of a hook; says which
#: tests were guarded; and does to reports what other plugins do.
CONFTEST = """
import json
import os
import random

import pytest
import pytest_faultguard


def write(file, **values):
    with open(os.path.join(os.path.dirname(__file__), file), "a") as lines:
        lines.write(json.dumps(values, default=repr) + "\\n")


@pytest.fixture(autouse=True)
def ran(request):
    write("ran", guarded=pytest_faultguard.is_guarded())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    report.made = {"when": call.when, "failed": call.excinfo is not None}
    report.sections.append(("made by conftest", f"{item.name} {call.when}"))
    return report


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Controller())


#: What a report has after a journey, whoever sent it.
TRAVELLED = {"$report_type", "_report_type", "_subtest.context", "node", "worker_id", "testrun_uid", "item_index"}


class Controller:
    def pytest_runtest_logreport(self, report):
        context = getattr(report, "context", None)
        write(
            "hooks",
            name=f"logreport {report.nodeid}",
            type=type(report).__name__,
            when=report.when,
            attributes=sorted(vars(report).keys() - TRAVELLED),
            made=report.made,
            location=report.location,
            keywords=report.keywords,
            context=context and [context.msg, dict(context.kwargs)],
            log=report.caplog,
            skip=report.longrepr if isinstance(report.longrepr, tuple) else None,
            guarded=pytest_faultguard.is_guarded(),
        )

    def pytest_runtest_logstart(self, nodeid, location):
        write("hooks", name=f"logstart {nodeid}", location=location)

    def pytest_runtest_logfinish(self, nodeid, location):
        write("hooks", name=f"logfinish {nodeid}", location=location)

    def pytest_warning_recorded(self, warning_message, when, nodeid, location):
        if when == "collect" and pytest_faultguard.is_guarded():
            return  # A fresh interpreter collects for itself, and tells nobody of that.
        message = warning_message.message
        write(
            "hooks",
            name=f"warning {nodeid}",
            when=when,
            location=location,
            type=f"{type(message).__module__}.{type(message).__name__}",
            args=getattr(message, "args", None),
            text=str(message),
            category=str(warning_message.category),
            filename=warning_message.filename,
            lineno=warning_message.lineno,
            line=warning_message.line,
            source=warning_message.source is not None,
        )


def pytest_exception_interact(node, call, report):
    write(
        "hooks", name=f"interact {node.nodeid}", when=call.when, error=call.excinfo.typename, outcome=report.outcome
    )
"""

INI = """
[pytest]
markers = tag
junit_family = legacy
"""

SUITE: dict[str, str] = {}

SUITE["test_outcomes.py"] = """
import sys

import pytest


@pytest.fixture
def broken():
    raise LookupError("in setup")


@pytest.fixture
def broken_later():
    yield
    print("tearing down")
    raise LookupError("in teardown")


@pytest.fixture
def skipping():
    pytest.skip("by a fixture")


@pytest.fixture
def xfailing():
    pytest.xfail("by a fixture")


def test_passes():
    pass


def test_fails():
    assert 1 + 1 == 3, "a message"


def test_error_in_setup(broken):
    pass


def test_error_in_teardown(broken_later):
    pass


def test_failure_and_error_in_teardown(broken_later):
    assert not "both"


def test_unknown_fixture(there_is_no_such_fixture):
    pass


@pytest.mark.skip
def test_skip_mark():
    pass


@pytest.mark.skip(reason="for a reason")
def test_skip_mark_with_reason():
    pass


@pytest.mark.skipif("sys.version_info > (3,)", reason="by a string")
def test_skipif_string():
    pass


@pytest.mark.skipif(sys.version_info < (3,), reason="not this one")
def test_skipif_false():
    pass


@pytest.mark.skipif("1 / 0")
def test_skipif_raises():
    pass


def test_skip_in_body():
    pytest.skip("in the body")


def test_skip_in_fixture(skipping):
    pass


def test_importorskip():
    pytest.importorskip("there_is_no_such_module")


@pytest.mark.xfail
def test_xfail():
    assert 0


@pytest.mark.xfail(reason="for a reason", strict=True)
def test_xfail_strict():
    assert 0


@pytest.mark.xfail
def test_xpass():
    pass


@pytest.mark.xfail(strict=True, reason="should not pass")
def test_xpass_strict():
    pass


@pytest.mark.xfail(raises=ZeroDivisionError)
def test_xfail_raises():
    1 / 0


@pytest.mark.xfail(raises=(KeyError, IndexError))
def test_xfail_raises_another():
    1 / 0


@pytest.mark.xfail(run=False, reason="never")
def test_xfail_not_run():
    assert 0


@pytest.mark.xfail(False, reason="does not hold")
def test_xfail_false():
    assert 0


@pytest.mark.xfail("True", reason="by a string")
def test_xfail_string():
    assert 0


@pytest.mark.xfail(True, reason="in setup")
def test_xfail_setup(broken):
    pass


@pytest.mark.xfail(reason="in teardown")
def test_xfail_teardown(broken_later):
    assert 0


def test_xfail_in_body():
    pytest.xfail("in the body")


def test_xfail_in_fixture(xfailing):
    pass


def test_xfail_added(request):
    request.node.add_marker(pytest.mark.xfail(reason="added while it runs"))
    assert 0


def test_fail_without_trace():
    pytest.fail("in few words", pytrace=False)


def test_system_exit():
    sys.exit(3)


@pytest.mark.tag
@pytest.mark.parametrize("number", [1, 2], ids=["one", "zwei-\\u00fc"])
@pytest.mark.parametrize("text", ["a", pytest.param("b", marks=pytest.mark.xfail), pytest.param("c", marks=pytest.mark.skip)])
def test_parameters(number, text):
    assert (number, text) != (1, "b")


@pytest.fixture(params=["x", "y"])
def each(request):
    return request.param


@pytest.mark.usefixtures("broken_later")
class TestClass:
    def setup_method(self):
        self.value = 5

    def test_method(self, each):
        assert self.value == each
"""

SUITE["test_exceptions.py"] = """
import threading

import pytest


class Unpicklable(Exception):
    def __init__(self, one, two):
        super().__init__(one)
        self.lock = threading.Lock()

    def __reduce__(self):
        raise TypeError("never")


class Speechless(Exception):
    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


class Dull:
    def __repr__(self):
        raise RuntimeError("no words")


def test_unpicklable():
    raise Unpicklable(1, threading.Lock())


def test_speechless():
    raise Speechless


def test_dull():
    assert Dull() == Dull()


def test_chain():
    try:
        try:
            {}["key"]
        except KeyError as error:
            raise ValueError("second") from error
    except ValueError:
        raise OSError("third")


def test_group():
    ExceptionGroup = pytest.importorskip("builtins").__dict__.get("ExceptionGroup")
    if ExceptionGroup is None:
        pytest.skip("an old Python")
    raise ExceptionGroup("several", [ValueError("one"), ExceptionGroup("more", [KeyError("two")])])


def test_control_characters():
    raise ValueError("a \\x00 and a \\x1b[31mred")


def test_lists():
    assert [1, 2, *range(50)] == [1, 3, *range(51)]


def test_texts():
    assert "one\\ntwo\\nthree" == "one\\n2\\nthree"


def test_dicts():
    assert {"a": 1, "b": {"c": [1, 2]}} == {"a": 1, "b": {"c": [1, 3]}, "d": 4}


def test_sets_and_bytes():
    assert {1, 2} <= {2}, b"x"


def test_deep():
    def dig(level):
        __tracebackhide__ = level == 2
        return dig(level - 1) if level else 1 / 0

    dig(3)


def test_recursion():
    def again():
        again()

    again()


def test_raises():
    with pytest.raises(ValueError, match="exactly"):
        raise ValueError("not so")


def test_no_source():
    # Not "<string>": of that, a worker of pytest-xdist shows the line that execnet began with, from Python 3.13 on.
    exec(compile("def f(): raise KeyError('from nowhere')\\nf()", "<nowhere>", "exec"))


def test_long_message():
    raise ValueError("x" * 3000)
"""

SUITE["test_warnings.py"] = """
import warnings

import pytest


class MyWarning(UserWarning):
    def __init__(self, text, number):
        super().__init__(text, number)


@pytest.fixture
def warning():
    warnings.warn("in setup")
    yield
    warnings.warn("in teardown", DeprecationWarning)


def test_user_warning():
    warnings.warn("a text")


def test_own_category():
    warnings.warn(MyWarning("a text", 3))


def test_deprecation():
    warnings.warn("old", DeprecationWarning, stacklevel=1)
    warnings.warn_explicit("elsewhere", FutureWarning, "some_file.py", 17)


def test_phases(warning):
    pass


def test_twice():
    for _ in range(2):
        warnings.warn("again")


def test_resource():
    warnings.warn("not closed", ResourceWarning, source=warnings)


def test_caught():
    with pytest.warns(UserWarning, match="expected"):
        warnings.warn("expected")
    with pytest.deprecated_call():
        warnings.warn("expected", DeprecationWarning)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("caught")
    assert len(caught) == 1


def test_not_warned():
    with pytest.warns(UserWarning):
        pass


def test_recwarn(recwarn):
    warnings.warn("recorded")
    assert str(recwarn.pop().message) == "recorded"


@pytest.mark.filterwarnings("ignore")
def test_ignored():
    warnings.warn("ignored")


@pytest.mark.filterwarnings("error")
def test_error():
    warnings.warn("an error")


def test_node_warns(request):
    request.node.warn(pytest.PytestWarning("by the node"))


def test_unraisable():
    class Bad:
        def __del__(self):
            raise ValueError("nobody hears it")

    bad = Bad()
    del bad


def test_thread():
    import threading

    thread = threading.Thread(target=lambda: 1 / 0, name="mine")
    thread.start()
    thread.join()


def test_failure_after_a_warning():
    warnings.warn("before the failure")
    assert 0
"""

#: pytest-xdist does not take this: there a category is a name in a module.
SUITE["test_serial.py"] = """
import warnings


def test_local_category():
    class Local(Warning):
        pass

    warnings.warn("a text", Local)
"""

SUITE["test_output.py"] = """
import logging
import os
import sys

import pytest

LOG = logging.getLogger("inner")


@pytest.fixture
def talking():
    print("setup out")
    print("setup err", file=sys.stderr)
    LOG.warning("setup log")
    yield
    print("teardown out")
    os.write(2, b"teardown fd err\\n")
    LOG.error("teardown log %s", 1)


@pytest.mark.parametrize("fails", [False, True])
def test_talks(talking, fails):
    print("call out \\u00fc")
    os.write(1, b"call fd out\\n")
    print("no newline", end="", file=sys.stderr)
    LOG.info("not shown by default")
    LOG.warning("call log")
    assert not fails


def test_bytes(talking):
    sys.stdout.buffer.write("raw \u00fc\\n".encode())
    sys.stdout.flush()
    assert 0


@pytest.mark.parametrize("name", ["capsys", "capfd", "capsysbinary", "capfdbinary"])
@pytest.mark.parametrize("read", [True, False])
def test_fixtures(request, name, read, talking):
    captured = request.getfixturevalue(name)
    print("out")
    sys.stderr.write("err")
    if read:
        out, err = captured.readouterr()
        empty = type(out)()
        assert out == ("out\\n" if name[-6:] != "binary" else b"out\\n")
        with captured.disabled():
            print("past the capture")
    assert 0


def test_caplog(caplog):
    with caplog.at_level(logging.DEBUG, "inner"):
        LOG.debug("deep")
    assert caplog.record_tuples == [("inner", logging.DEBUG, "deep")]
    assert caplog.get_records("setup") == []
    LOG.critical("last")
    assert caplog.messages == ["deep"]


def test_stdin():
    sys.stdin.read()


def test_properties(record_property):
    record_property("text", "value")
    record_property("number", 4.5)
    record_property("list", [1, {"a": None}])
    assert 0


def test_tmp_path(tmp_path, tmp_path_factory):
    (tmp_path / "file").touch()
    print(tmp_path, tmp_path_factory.mktemp("other"))
    assert 0


def test_monkeypatch(monkeypatch):
    monkeypatch.chdir("/")
    monkeypatch.setenv("INNER", "1")
    assert os.getcwd() == "/"


def test_request(request, pytestconfig):
    print(request.node.nodeid, request.config is pytestconfig, sorted(request.fixturenames))
    assert 0
"""

SUITE["test_unittest.py"] = """
import unittest

import pytest


def setUpModule():
    global THERE
    THERE = True


class TestUnit(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.there = THERE

    def setUp(self):
        self.addCleanup(print, "cleaned up")

    def test_passes(self):
        assert self.there

    def test_fails(self):
        self.assertEqual([1, 2], [1, 3], "a message")

    @unittest.skip("by a decorator")
    def test_skip(self):
        pass

    @unittest.skipIf(True, "by a condition")
    def test_skip_if(self):
        pass

    def test_skip_in_body(self):
        self.skipTest("in the body")

    @unittest.expectedFailure
    def test_expected(self):
        self.fail("as expected")

    @unittest.expectedFailure
    def test_unexpected(self):
        pass

    @pytest.mark.xfail(reason="a mark of pytest")
    def test_xfail(self):
        self.fail("as expected")

    def test_warns(self):
        with self.assertWarns(UserWarning):
            import warnings

            warnings.warn("expected")


class TestBrokenSetUp(unittest.TestCase):
    def setUp(self):
        raise LookupError("in setUp")

    def test_it(self):
        pass


class TestBrokenClass(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        raise LookupError("in setUpClass")

    def test_it(self):
        pass


class TestBrokenTearDown(unittest.TestCase):
    def tearDown(self):
        raise LookupError("in tearDown")

    def test_it(self):
        pass


@unittest.skip("the whole class")
class TestSkipped(unittest.TestCase):
    def test_it(self):
        pass


class TestAsync(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.value = 1

    async def test_passes(self):
        assert self.value == 1

    async def test_fails(self):
        assert self.value == 2
"""

SUITE["module_with_doctests.py"] = '''
"""
>>> 1 + 1
2
"""


def wrong():
    """
    >>> 1 + 1
    3
    """


def raising():
    """
    >>> {}["key"]
    """


def skipped():
    """
    >>> 1 / 0  # doctest: +SKIP
    """


def skipping():
    """
    >>> import pytest
    >>> pytest.skip("in a doctest")
    """
'''

SUITE["test_text.txt"] = """
>>> 1 + 1
2
>>> print("text")
another
"""

SUITE["test_not_run_by_plain_pytest.py"] = """
import pytest


async def test_async():
    pass


@pytest.mark.skip(reason="before it is looked at")
async def test_async_skipped():
    pass


async def test_async_generator():
    yield


def test_returns():
    return 3
"""

if pytest.version_tuple < (8, 4):  # Later ones refuse the whole file.
    SUITE["test_generators.py"] = """
def test_generator():
    yield
"""

if pytest.version_tuple >= (9,):
    SUITE["test_subtests.py"] = """
import unittest

import pytest


def test_failing(subtests):
    for number in range(4):
        with subtests.test("a message", number=number, text="x"):
            print("out", number)
            assert number % 2 == 0


def test_passing(subtests):
    with subtests.test():
        pass
    with subtests.test("fine"):
        pass


def test_failing_as_a_whole(subtests):
    with subtests.test("fine"):
        pass
    assert 0


def test_failing_both(subtests):
    with subtests.test("not fine"):
        assert 1 == 2
    assert 0


def test_skipping(subtests):
    with subtests.test("skipped"):
        pytest.skip("for a reason")
    with subtests.test("xfailed"):
        pytest.xfail("for another")


@pytest.mark.xfail(reason="expected")
def test_xfailing(subtests):
    with subtests.test("fails"):
        assert 0
"""

SUITE["test_stops.py"] = """
import pytest


@pytest.mark.parametrize("number", range(8))
def test_number(number, request):
    request.addfinalizer(lambda: print("torn down", number))
    assert number not in (2, 4, 5)
"""

SUITE["test_exits.py"] = """
import pytest


@pytest.fixture
def resource():
    yield
    print("torn down")


def test_before():
    pass


def test_exits(resource):
    pytest.exit("enough", 7)
"""

SUITE["test_session_stops.py"] = """
def test_before():
    pass


def test_stops(request):
    request.session.shouldstop = "the test has seen enough"
"""

#: Only where they are named.
APART = {"test_stops.py", "test_exits.py", "test_session_stops.py", "test_serial.py"}

#: Without a cache, and without the second that Hypothesis takes at the end.
QUICK = ("no:cacheprovider", "no:hypothesispytest")

#: Terminal lines that cannot be the same twice.
VARYING = {
    r"0x[0-9a-f]+": "0x…",
    r"\bin \d+\.\d\ds\b.*": "in …",
    r"^\d+\.\d\ds (setup|call|teardown)": r"… \1",
    r"/((run)?pytest)-\d+": r"/\1-N",
    r"\[gw\d\]": "[gwN]",
    # A few frames of ours are below it.
    r"repeated \d+ more times": "repeated … more times",
    r"popen-gw\d": "popen-gwN",
    r"\b(pid|process) \d+": r"\1 …",
    r"[=_-]{3,}": "---",
    r"^(rootdir|plugins|cachedir|created|\d+ workers|ready|Using --randomly).*": "",
}


def fixed(text: str) -> str:
    """The text without addresses, times and numbers of runs."""
    for pattern, replacement in VARYING.items():
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


def _fixed(value: Any) -> Any:
    """The same in all the texts of a value."""
    match value:
        case str():
            return fixed(value)
        case dict():
            return {key: _fixed(one) for key, one in value.items()}
        case list() | tuple():
            return [_fixed(one) for one in value]
        case _:
            return value


@dataclass(frozen=True)
class Told:
    """All that one session said, in a form that can be compared."""

    exit_status: int
    #: What the recorder has, by node id.
    reports: dict[str, list[dict[str, Any]]]
    #: What the hooks of the suite's conftest were told, by hook and node id.
    hooks: dict[str, list[dict[str, Any]]]
    warnings: list[str]
    #: The terminal, where the order of the tests is fixed, else its summary.
    lines: list[str]
    guarded: Counter[bool]
    controllers: set[int]


class Comparison:
    """Runs the inner suite without the guard and with it."""

    def __init__(self, run_pytest: RunPytest, recorder: Recorder) -> None:
        self.run_pytest = run_pytest
        self.recorder = recorder
        self.path = run_pytest.pytester.path

    def suite(self, *names: str) -> None:
        """Write these files of the suite, all if none is named."""
        (self.path / "conftest.py").write_text(CONFTEST)
        (self.path / "pytest.ini").write_text(INI)
        for name in names or SUITE.keys() - APART:
            (self.path / name).write_text(SUITE[name])

    def told(self, *args: str, plugins: tuple[str, ...] = QUICK) -> Told:
        """Run a session."""
        for name in ("hooks", "ran"):
            (self.path / name).write_text("")
        result = self.run_pytest(*args, plugins=plugins)
        reports: dict[str, list[dict[str, Any]]] = {}
        for report in self.recorder.reports():
            # What is no tree of pytest's travels as its text, as it does through xdist.
            travelling = report.longrepr_class in {"ReprFailDoctest", "FixtureLookupErrorRepr", "Shown"}
            told = _fixed(dataclasses.asdict(report))
            told["user_properties"] = without_usage(told["user_properties"])
            for name in ("duration", "worker", "pid", "crash"):
                del told[name]
            if travelling:
                told["longrepr_class"] = "str"
            reports.setdefault(report.nodeid, []).append(told)
        hooks: dict[str, list[dict[str, Any]]] = {}
        for line in self._lines("hooks"):
            hooks.setdefault(line.pop("name"), []).append(_fixed(line))
        lines = [line.rstrip() for line in fixed(str(result.stdout)).splitlines()]
        if "-n2" in args:
            lines = sorted(lines[_index(lines, "short test summary info") :])
        if any(arg.startswith(("--log-cli", "log_cli")) for arg in args):
            # Filled up from where the cursor is; that the child has moved it, pytest's own terminal cannot know.
            lines = [re.sub(r" +(?=\[ *\d+%\]$)", " ", line) for line in lines]
        return Told(
            exit_status=int(result.ret),
            reports=reports,
            hooks=hooks,
            warnings=sorted(_fixed(self.recorder.warnings())),
            lines=[*lines, *fixed(str(result.stderr)).splitlines()],
            guarded=Counter(line["guarded"] for line in self._lines("ran")),
            controllers={report.pid for report in self.recorder.reports()},
        )

    def order(self) -> list[str]:
        """The phases of the last session's tests, in their order."""
        return [f"{report.nodeid} {report.when} {report.outcome}" for report in self.recorder.reports()]

    def both(self, *args: str, **options: Any) -> tuple[Told, Told]:
        """Run it without the guard and with it; what they said but for whether they were guarded is the same."""
        plain = self.told("--no-faultguard", *args, **options)
        guarded = self.told("--faultguard", *args, **options)
        assert plain.reports
        assert (plain.guarded[True], guarded.guarded[False]) == (0, 0)
        assert guarded.guarded == {True: plain.guarded[False]}
        assert len(guarded.controllers) == 1
        assert "\n".join(_differences(plain, guarded)) == ""
        return plain, guarded

    def _lines(self, name: str) -> list[Any]:
        return [json.loads(line) for line in (self.path / name).read_text().splitlines()]


def _differences(plain: Told, guarded: Told) -> Iterator[str]:
    for field in ("exit_status", "reports", "hooks", "warnings", "lines"):
        yield from _different(field, getattr(plain, field), getattr(guarded, field))


def _different(path: str, plain: Any, guarded: Any) -> Iterator[str]:
    if plain == guarded:
        return
    if isinstance(plain, dict) and isinstance(guarded, dict):
        for key in plain | guarded:
            yield from _different(f"{path}[{key}]", plain.get(key, "-"), guarded.get(key, "-"))
    elif path == "lines":
        yield from (line for line in difflib.ndiff(plain, guarded) if line[0] in "-+")
    elif isinstance(plain, list) and isinstance(guarded, list) and len(plain) == len(guarded):
        for number, pair in enumerate(zip(plain, guarded, strict=True)):
            yield from _different(f"{path}[{number}]", *pair)
    else:
        yield f"{path}:\n  - {plain!r}\n  + {guarded!r}"


def _index(lines: list[str], text: str) -> int:
    return next((index for index, line in enumerate(lines) if text in line), 0)


@pytest.fixture
def comparison(run_pytest: RunPytest, recorder: Recorder) -> Comparison:
    return Comparison(run_pytest, recorder)


SOME = ("test_outcomes.py", "test_output.py")
SUBTESTS = ("test_subtests.py",) if pytest.version_tuple >= (9,) else ()

every_start = pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])


def children(scope: str, start: str) -> tuple[str, str]:
    """The options that say in which child a test runs, which mean nothing where none is guarded."""
    return f"--faultguard-scope={scope}", f"--faultguard-start={start}"


@every_start
@pytest.mark.parametrize("scope", ["session", "function"])
def test_the_whole_suite(comparison: Comparison, xdist_args: tuple[str, ...], scope: str, start: str) -> None:
    """Reports by id, calls of hooks, warnings, terminal text and exit status, whatever child a test runs in."""
    # A fresh interpreter for each of its tests would take minutes.
    comparison.suite(*((SUBTESTS or ("test_output.py",)) if (scope, start) == ("function", "spawn") else ()))
    comparison.both(*xdist_args, "--doctest-modules", *children(scope, start))


#: Ways to call pytest, each with files of the suite in which it can be seen.
CALLS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "verbose": (("-v", "-rA"), ("test_outcomes.py", *SUBTESTS)),
    "quiet-doctests": (("-q", "--doctest-modules"), ("module_with_doctests.py", "test_text.txt")),
    "warnings-are-errors": (("-W", "error"), ("test_warnings.py",)),
    "warnings-are-errors-n2": (("-W", "error", "-n2"), ("test_warnings.py",)),
    "all-warnings": (("-W", "always"), ("test_warnings.py", "test_serial.py")),
    "no-warnings-plugin": (("-p", "no:warnings"), ("test_warnings.py",)),
    "no-warnings-summary": (("--disable-warnings",), ("test_warnings.py",)),
    "capture-no": (("-s",), (*SOME, *SUBTESTS)),
    "capture-no-verbose": (("-s", "-v"), SOME),
    "capture-sys": (("--capture=sys",), SOME),
    "capture-tee-sys": (("--capture=tee-sys",), (*SOME, *SUBTESTS)),
    "live-logs": (("--log-cli-level=INFO", "--log-level=INFO"), ("test_output.py",)),
    "live-logs-by-ini": (("-o", "log_cli=true", "--log-level=INFO"), ("test_output.py",)),
    "no-conftest": (("--noconftest", "-p", "conftest"), ("test_outcomes.py",)),
    "confcutdir": (("--confcutdir=.",), ("test_outcomes.py",)),
    "no-skipping-plugin": (("-p", "no:skipping"), ("test_outcomes.py",)),
    "no-logging-plugin": (("-p", "no:logging", "--show-capture=no"), ("test_output.py",)),
    "tb-short-in-colour": (("--tb=short", "-l", "--color=yes"), ("test_exceptions.py",)),
    "tb-line": (("--tb=line", "--runxfail"), ("test_outcomes.py",)),
    "tb-native": (("--tb=native",), ("test_exceptions.py",)),
    "exitfirst": (("-x",), ("test_stops.py", "test_outcomes.py")),
    "maxfail": (("--maxfail=2",), ("test_stops.py", "test_outcomes.py")),
    "exitfirst-subtests": (("-x",), SUBTESTS or ("test_stops.py",)),
    "exits": ((), ("test_exits.py", "test_outcomes.py")),
    "session-stops": ((), ("test_session_stops.py", "test_outcomes.py")),
}
#: What goes through other hands there. `tox -e everywhere` has all calls with each start method.
IN_OTHER_CHILDREN = [
    ("quiet-doctests", "session", "spawn"),
    ("warnings-are-errors", "function", "forkserver"),
    ("capture-no", "session", "spawn"),
    ("capture-sys", "function", "fork"),
    ("capture-tee-sys", "session", "forkserver"),
    ("live-logs", "session", "spawn"),
    ("maxfail", "function", "forkserver"),
    ("exitfirst-subtests", "session", "forkserver"),
    ("exits", "session", "spawn"),
    ("session-stops", "function", "fork"),
]


@pytest.mark.parametrize(
    ("args", "files"),
    [
        *(pytest.param(*call, id=name) for name, call in CALLS.items()),
        *(
            pytest.param((*CALLS[name][0], *children(scope, start)), CALLS[name][1], id=f"{name}-{scope}-{start}")
            for name, scope, start in IN_OTHER_CHILDREN
        ),
    ],
)
def test_reports_and_terminal(comparison: Comparison, args: tuple[str, ...], files: tuple[str, ...]) -> None:
    """The same, however pytest is called."""
    comparison.suite(*files)
    comparison.both(*args, *files)


FOR_ALL = """

@pytest.fixture(scope="session")
def for_all():
    yield
"""
WIDE = """
import pytest


@pytest.fixture(scope="module", params=["one", "two"])
def of_module(for_all, request):
    yield request.param


@pytest.fixture(scope="class")
def of_class(of_module):
    yield


@pytest.fixture
def narrow(of_module):
    yield


def test_first(narrow):
    print("first")


class TestIt:
    def test_second(self, of_class, narrow): pass

    def test_third(self, of_class):
        assert of_class


def test_fourth(of_module): pass


@pytest.fixture(scope="module")
def broken(for_all):
    raise ValueError


def test_fifth(broken): pass
"""


@pytest.mark.parametrize(
    ("args", "start"),
    [
        (("--setup-show",), "fork"),
        (("--setup-show",), "spawn"),
        (("--setup-show", "-s"), "fork"),
        (("--setup-only",), "fork"),
        (("--setup-only",), "forkserver"),
        (("--setup-plan",), "fork"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_setup_show(comparison: Comparison, args: tuple[str, ...], start: str) -> None:
    """Every line, in its place: with one child for all tests, wide fixtures are set up and end as without it."""
    comparison.suite("test_outcomes.py")
    (comparison.path / "test_wide.py").write_text(WIDE)
    (comparison.path / "test_wider.py").write_text("def test_it(for_all): pass\n")
    (comparison.path / "conftest.py").write_text(CONFTEST + FOR_ALL)

    plain, guarded = (
        comparison.told(*args, flag, *children("session", start)) for flag in ("--no-faultguard", "--faultguard")
    )

    for line in ("SETUP    S for_all", "SETUP    M of_module", "SETUP    C of_class", "SETUP    F broken_later"):
        assert any(line in told for told in plain.lines), line
    assert list(_different("lines", plain.lines, guarded.lines)) == []


@pytest.mark.parametrize(
    "options", [("--lf",), ("--ff",), ("--sw",), ("--nf",), ("--lf", "--cache-clear")], ids=" ".join
)
def test_second_run(comparison: Comparison, options: tuple[str, ...]) -> None:
    """What a first session left in the cache makes the second run the same tests in the same order."""
    comparison.suite("test_stops.py")
    plugins = ("no:hypothesispytest",)
    orders = {}
    for flag in ("--no-faultguard", "--faultguard"):
        cache = ("-o", f"cache_dir=cache{flag}")
        first = ("--sw",) if "--sw" in options else ()
        comparison.told(flag, *cache, *first, plugins=plugins)
        first_order = comparison.order()
        new = comparison.path / "test_x_is_new.py"
        if "--nf" in options:
            new.write_text("def test_new(): pass\n")
        comparison.told(flag, *cache, *options, plugins=plugins)
        orders[flag] = first_order, comparison.order()
        new.unlink(missing_ok=True)

    assert orders["--faultguard"] == orders["--no-faultguard"]
    assert (orders["--faultguard"][0] == orders["--faultguard"][1]) == ("--cache-clear" in options)


def test_junitxml(comparison: Comparison, xdist_args: tuple[str, ...]) -> None:
    comparison.suite("test_outcomes.py", "test_output.py", "test_unittest.py", "module_with_doctests.py", *SUBTESTS)
    told = {}
    for flag in ("--no-faultguard", "--faultguard"):
        comparison.told(flag, *xdist_args, "--doctest-modules", f"--junitxml={flag}.xml")
        told[flag] = _junit(comparison.path / f"{flag}.xml")

    assert len(told["--faultguard"]) > 70
    assert list(_different("junit", told["--no-faultguard"], told["--faultguard"])) == []


@every_start
def test_junitxml_of_the_suite(comparison: Comparison, start: str) -> None:
    """What a test says past its report, to the process that writes the file."""
    (comparison.path / "conftest.py").write_text(CONFTEST)
    (comparison.path / "pytest.ini").write_text(INI)
    comparison.run_pytest.pytester.makepyfile(
        """
        def test_attribute(record_xml_attribute):
            record_xml_attribute("assertions", 3)

        def test_suite(record_testsuite_property):
            record_testsuite_property("ARCH", "PPC")
        """
    )
    told = {}
    for flag in ("--no-faultguard", "--faultguard"):
        comparison.told(flag, f"--junitxml={flag}.xml", *children("session", start))
        told[flag] = _junit(comparison.path / f"{flag}.xml")

    assert told["--no-faultguard"]["testsuite"][1] == [{"name": "ARCH", "value": "PPC"}]
    assert list(_different("junit", told["--no-faultguard"], told["--faultguard"])) == []


def test_durations(comparison: Comparison) -> None:
    """Each phase has its own, and it is true."""
    (comparison.path / "conftest.py").write_text(CONFTEST)
    comparison.run_pytest.pytester.makepyfile(
        """
        import time

        import pytest

        @pytest.fixture
        def slow():
            time.sleep(0.2)
            yield
            time.sleep(0.3)

        def test_slow(slow):
            time.sleep(0.1)

        def test_fast():
            pass
        """
    )

    _, guarded = comparison.both("--durations=3", "-k", "slow")

    assert sum("… " in line for line in guarded.lines) == 3
    for when, seconds in {"setup": 0.2, "call": 0.1, "teardown": 0.3}.items():
        assert seconds <= comparison.recorder.report("test_slow", when).duration < seconds + 0.5


def test_random_numbers(comparison: Comparison, xdist_args: tuple[str, ...]) -> None:
    """A seed gives the numbers that it gives without the guard, also one that was set before the fork."""
    comparison.run_pytest.pytester.makeconftest(
        CONFTEST + "\n\n@pytest.fixture\ndef seeded(request):\n    random.seed(request.node.nodeid)\n"
    )
    comparison.run_pytest.pytester.makepyfile(
        """
        import random

        random.seed(5)

        def test_seeded_at_import(record_property):
            record_property("random", [random.random(), random.getrandbits(64)])

        def test_seeded(seeded, record_property):
            record_property("random", [random.random(), random.getrandbits(64)])
        """
    )

    plain, _ = comparison.both(*xdist_args)

    assert all(reports[0]["user_properties"] == [] for reports in plain.reports.values())
    assert all(reports[1]["user_properties"] != [] for reports in plain.reports.values())


def test_changes_of_the_process_do_not_reach_the_next_test(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, xdist_args: tuple[str, ...]
) -> None:
    """What promise 8 lets differ: state that a test leaves in its process is gone with it."""
    pytester.makepyfile(
        """
        import gc
        import logging
        import os
        import resource
        import signal
        import sys

        import pytest

        STATE = []

        def state():
            return [
                os.getcwd(),
                dict(os.environ, PYTEST_CURRENT_TEST=""),
                list(sys.path),
                sorted(sys.modules),
                signal.getsignal(signal.SIGUSR2),
                resource.getrlimit(resource.RLIMIT_NOFILE),
                logging.getLogger().level,
                gc.isenabled(),
                sys.getrecursionlimit(),
                os.umask(os.umask(0)),
                list(STATE),
            ]

        @pytest.mark.parametrize("number", range(3))
        def test_changes(number, record_property):
            record_property("state", repr(state()))
            os.chdir("/")
            os.environ["CHANGED"] = "1"
            sys.path.append("changed")
            sys.modules["changed"] = sys
            signal.signal(signal.SIGUSR2, lambda *_: None)
            resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
            logging.getLogger().setLevel(7)
            gc.disable()
            sys.setrecursionlimit(5000)
            os.umask(0o123)
            STATE.append(number)
        """
    )

    run_pytest(
        *xdist_args, "--dist=loadfile", "--faultguard", "--faultguard-scope=function", plugins=QUICK
    ).assert_outcomes(passed=3)

    states = {value for report in recorder.reports(when="call") for _, value in report.user_properties}
    assert len(states) == 1


@every_start
def test_a_warning_with_words_of_its_own_says_them_in_the_child(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, start: str
) -> None:
    """The parent shows the text, and calls nothing that the test has written."""
    pytester.makepyfile(
        """
        import os
        import warnings

        class Worded(UserWarning):
            def __str__(self):
                with open("pids", "a") as pids:
                    print(os.getpid(), file=pids)
                return "in words of its own"

        def test_words():
            warnings.warn(Worded(1))
        """
    )

    result = run_pytest("--faultguard", *children("session", start), plugins=QUICK)

    result.stdout.fnmatch_lines(["*/test_*.py:11: Worded: in words of its own"])
    assert recorder.warnings() == ["Worded: in words of its own"]
    assert str(recorder.report("test_words").pid) not in (pytester.path / "pids").read_text().split()


@every_start
def test_a_lone_surrogate(
    comparison: Comparison, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    """Text that is no Unicode goes through as it is; without the guard, pytest-xdist loses the worker over it."""
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:backslashreplace")
    comparison.run_pytest.pytester.makeconftest(CONFTEST)
    comparison.run_pytest.pytester.makepyfile(
        r"""
        def test_surrogate(record_property):
            record_property("text", "lone \udc80")
            print("lone \udc81")
            raise ValueError("lone \udc82")
        """
    )

    comparison.both(*children("session", start))

    report = recorder.report("test_surrogate")
    assert report.message == "ValueError: lone \udc82"
    assert report.user_properties == [("text", "lone \udc80")]


def _junit(path: Path) -> dict[str, Any]:
    """Everything in the file but times and the machine."""
    told: dict[str, Any] = {}
    for element in ET.parse(path).iter():
        attributes = {
            name: fixed(value) for name, value in element.items() if name not in {"time", "timestamp", "hostname"}
        }
        if element.tag == "testcase":
            properties = [dict(one.items()) for one in element.iter("property") if one.get("name") not in USAGE]
            children = [
                (child.tag, _fixed(dict(child.items())), fixed(child.text or ""))
                for child in element
                if child.tag != "properties" or properties
            ]
            key = f"{attributes['classname']}.{attributes['name']}"
            told.setdefault(key, []).append([attributes, children, properties])
        elif element.tag == "testsuite":
            told["testsuite"] = attributes, [dict(one.items()) for one in element.iterfind("properties/property")]
    return told
