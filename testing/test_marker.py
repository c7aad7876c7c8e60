"""Which tests are guarded and within which limits: marker, options and ini settings, what they refuse, and debuggers."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest

from testing.harness import EVERYWHERE
from testing.harness import QUICK
from testing.harness import common_options

if TYPE_CHECKING:
    from testing.harness import Recorder
    from testing.harness import RunPytest

#: Every test says in its report whether it was guarded; the child is no process of pytest's own.
CONFTEST = """
import os

import pytest
import pytest_faultguard

# A child that is a fresh interpreter imports this as well.
PID = None if pytest_faultguard.is_guarded() else os.getpid()


@pytest.fixture(autouse=True)
def say(record_property):
    guarded = pytest_faultguard.is_guarded()
    assert guarded == (os.getpid() != PID)
    record_property("guarded", guarded)
"""


@pytest.fixture
def guarded(pytester: pytest.Pytester, recorder: Recorder) -> Guarded:
    pytester.makeconftest(CONFTEST)
    return Guarded(recorder)


class Guarded:
    """Which tests of the last session were guarded."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __call__(self) -> dict[str, bool]:
        return {
            report.nodeid.partition("::")[2]: dict(report.user_properties)["guarded"]
            for report in self._recorder.reports(when="teardown")
        }


# Which tests.

MARKED = """
import pytest


@pytest.mark.faultguard
def test_marked():
    pass


@pytest.mark.faultguard()
def test_marked_with_nothing():
    pass


def test_plain():
    pass


@pytest.mark.faultguard
class TestClass:
    def test_method(self):
        pass

    class TestInner:
        def test_method(self):
            pass


class TestClassVariable:
    pytestmark = pytest.mark.faultguard

    def test_method(self):
        pass


@pytest.mark.parametrize("value", [1, pytest.param(2, marks=pytest.mark.faultguard)])
def test_parameter(value):
    pass
"""

OF_MARKED = {
    "test_marked": True,
    "test_marked_with_nothing": True,
    "test_plain": False,
    "TestClass::test_method": True,
    "TestClass::TestInner::test_method": True,
    "TestClassVariable::test_method": True,
    "test_parameter[1]": False,
    "test_parameter[2]": True,
}


def test_marker_on_function_class_and_parameter(
    pytester: pytest.Pytester, run_pytest: RunPytest, guarded: Guarded, xdist_args: tuple[str, ...]
) -> None:
    pytester.makepyfile(MARKED)

    run_pytest(*xdist_args, "--strict-markers", plugins=QUICK).assert_outcomes(passed=8)

    assert guarded() == OF_MARKED


def test_marker_on_a_module(pytester: pytest.Pytester, run_pytest: RunPytest, guarded: Guarded) -> None:
    pytester.makepyfile(
        test_marked="import pytest\npytestmark = [pytest.mark.faultguard]\ndef test_one(): pass\n",
        test_plain="def test_two(): pass\n",
    )

    run_pytest(plugins=QUICK).assert_outcomes(passed=2)

    assert guarded() == {"test_one": True, "test_two": False}


def test_marker_by_a_hook(pytester: pytest.Pytester, run_pytest: RunPytest, guarded: Guarded) -> None:
    """As a conftest marks the tests of a folder, whatever the order of its hook."""
    pytester.makeconftest(
        CONFTEST
        + """

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if "native" in item.name:
            item.add_marker(pytest.mark.faultguard)
"""
    )
    pytester.makepyfile("def test_native(): pass\ndef test_python(): pass\n")

    run_pytest(plugins=QUICK).assert_outcomes(passed=2)

    assert guarded() == {"test_native": True, "test_python": False}


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        pytest.param(("--faultguard",), True, id="all"),
        pytest.param(("--no-faultguard",), False, id="none"),
        pytest.param(("--faultguard", "--no-faultguard"), False, id="none-wins"),
        pytest.param(("--faultguard", "-n2"), True, id="all-n2"),
    ],
)
def test_flags_for_every_test(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    guarded: Guarded,
    args: tuple[str, ...],
    expected: bool,
) -> None:
    pytester.makepyfile(MARKED)

    result = run_pytest(*args, plugins=QUICK)

    result.assert_outcomes(passed=8)
    assert set(guarded().values()) == {expected}
    result.stdout.no_fnmatch_line("faultguard: *")


# Precedence.

LIMITS = """
import pytest


def fill(faultguard_data):
    faultguard_data["key"] = bytes(10_000)


def test_plain(faultguard_data):
    fill(faultguard_data)


@pytest.mark.faultguard(data_limit=1000)
def test_marked(faultguard_data):
    fill(faultguard_data)


@pytest.mark.faultguard(data_limit=None)
def test_none_is_not_given(faultguard_data):
    fill(faultguard_data)


@pytest.mark.faultguard(data_limit="2KiB", timeout=60)
class TestClass:
    @pytest.mark.faultguard(timeout=50)
    def test_closest_that_gives_it(self, faultguard_data):
        fill(faultguard_data)

    @pytest.mark.faultguard(data_limit="3kb")
    def test_closest(self, faultguard_data):
        fill(faultguard_data)
"""


@pytest.mark.parametrize(
    ("args", "ini", "everywhere"),
    [
        pytest.param((), "", 0, id="default"),
        pytest.param((), "faultguard_data_limit = 4000", 4000, id="ini"),
        pytest.param(("--faultguard-data-limit=5000",), "", 5000, id="command-line"),
        pytest.param(
            ("--faultguard-data-limit=5000",), "faultguard_data_limit = 4000", 5000, id="command-line-over-ini"
        ),
        pytest.param(("-o", "faultguard_data_limit=6000", "--no-faultguard"), "", 6000, id="in-process"),
    ],
)
def test_marker_over_command_line_over_ini(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    args: tuple[str, ...],
    ini: str,
    everywhere: int,
) -> None:
    """Of each argument the closest marker that gives it, then the command line, then the ini file, then the default."""
    pytester.makepyfile(LIMITS)
    pytester.makeini(f"[pytest]\n{ini}\n")

    run_pytest(*args, plugins=QUICK)

    limits = {}
    for report in recorder.reports(when="call"):
        name = report.nodeid.rpartition("::")[2]
        limits[name] = int((report.message or "limit of 0").rpartition("limit of ")[2].split()[0])
    assert limits == {
        "test_plain": everywhere,
        "test_marked": 1000,
        "test_none_is_not_given": everywhere,
        "test_closest_that_gives_it": 2048,
        "test_closest": 3000,
    }


def test_precedence_of_the_timeout(pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder) -> None:
    """0 is a value like another one: no limit, over the command line's."""
    pytester.makepyfile(
        """
        import signal
        import time

        import pytest

        def test_command_line():
            signal.pause()

        @pytest.mark.faultguard(timeout=0.4)
        def test_marker():
            signal.pause()

        @pytest.mark.faultguard(timeout=0)
        def test_none():
            time.sleep(0.5)
        """
    )
    pytester.makeini("[pytest]\nfaultguard_timeout = 0.1\n")

    run_pytest("--faultguard", "--faultguard-timeout", "0.3", plugins=QUICK)

    # In whichever phase that was on a busy machine.
    timeouts = [(report.nodeid.rpartition("::")[2], report.crash) for report in recorder.reports() if report.crash]
    assert [(name, crash["ending"]["timeout"]) for name, crash in timeouts] == [
        ("test_command_line", 0.3),
        ("test_marker", 0.4),
    ]
    assert recorder.report("test_none").outcome == "passed"


def test_every_argument_everywhere(pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder) -> None:
    """What the marker takes, the command line and the ini file take as well: here what all three print."""
    pytester.makepyfile(
        """
        import signal

        import pytest

        pytestmark = pytest.mark.faultguard

        @pytest.mark.faultguard(timeout=0.5, grace=0.1, dump_every=0.2)
        def test_marker():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                signal.pause()

        def test_configured():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                signal.pause()
        """
    )

    run_pytest(
        "--faultguard-timeout=0.6", "--faultguard-grace=0.2", "-o", "faultguard_dump_every=0.25", plugins=QUICK
    ).assert_outcomes(failed=2)

    for name, timeout in {"test_marker": 0.5, "test_configured": 0.6}.items():
        report = recorder.report(name)
        assert report.crash["ending"] == {"kind": "Overdue", "timeout": timeout, "stopped_by": "SIGKILL", "ground": ""}
        told = "\n".join([report.longrepr, *(title for title, _ in report.sections)])
        assert re.search(r"stacks .*after 0\.\d s", told)


# What is refused.

WRONG = [
    pytest.param("timeout='soon'", "timeout='soon' is not a number of seconds", id="text"),
    pytest.param("timeout=-1", "timeout=-1 is not a number of seconds", id="negative"),
    pytest.param("timeout=float('nan')", "timeout=nan is not a number of seconds", id="nan"),
    pytest.param("timeout=float('inf')", "timeout=inf is not a number of seconds", id="inf"),
    pytest.param("timeout=True", "timeout=True is not a number of seconds", id="bool"),
    pytest.param("timeout=[1]", "timeout=[[]1[]] is not a number of seconds", id="list"),
    pytest.param("grace='2'", "grace='2' is not a number of seconds", id="grace"),
    pytest.param("dump_every=-0.5", "dump_every=-0.5 is not a number of seconds", id="dump_every"),
    pytest.param("data_limit=0", "data_limit=0 is not a number of bytes", id="data_limit"),
    pytest.param("data_limit='1.5.5GB'", "data_limit='1.5.5GB' is not a number of bytes", id="data_limit-text"),
    pytest.param("timout=5", "unknown argument timout=5; it takes *timeout, grace, *", id="unknown"),
    pytest.param("5, 'six'", "takes keyword arguments only (*timeout, *), not 5, 'six'", id="positional"),
]

PLACES = {
    "test_wrong.py::test_it": "import pytest\n\n@pytest.mark.faultguard({})\ndef test_it():\n    pass\n",
    "test_wrong.py::TestIt::test_it": (
        "import pytest\n\n@pytest.mark.faultguard({})\nclass TestIt:\n    def test_it(self):\n        pass\n"
    ),
    "test_wrong.py::test_first": (
        "import pytest\n\npytestmark = pytest.mark.faultguard({})\n\ndef test_first():\n    pass\n\ndef test_two():\n    pass\n"
    ),
    "test_wrong.py::test_it[[]2[]]": (
        "import pytest\n\n@pytest.mark.parametrize('value', [1, pytest.param(2, marks=pytest.mark.faultguard({}))])\n"
        "def test_it(value):\n    pass\n"
    ),
}


def assert_usage_error(result: pytest.RunResult, line: str) -> None:
    """Exit status 4, one line that says it, and nothing that looks like an accident."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = [text for text in [*result.outlines, *result.errlines] if "ERROR" in text or "soon" in text]
    assert len(said) == 1
    pytest.LineMatcher(said).fnmatch_lines([f"ERROR: {line}"])
    for accident in ("INTERNALERROR", "Traceback", "node down", "crashed"):
        assert accident not in result.stdout.str() + result.stderr.str()


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_wrong_argument(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, given: str, message: str
) -> None:
    """Names test, argument and value; no test runs."""
    pytester.makepyfile(
        test_wrong=PLACES["test_wrong.py::test_it"].format(given), test_other="def test_other(): pass\n"
    )

    result = run_pytest(plugins=QUICK)

    assert_usage_error(result, f"test_wrong.py::test_it: faultguard marker: {message}*")
    assert recorder.reports() == []


@pytest.mark.parametrize("nodeid", PLACES)
def test_wrong_argument_wherever_the_marker_is(pytester: pytest.Pytester, run_pytest: RunPytest, nodeid: str) -> None:
    pytester.makepyfile(test_wrong=PLACES[nodeid].format("timeout='soon'"))

    result = run_pytest(plugins=QUICK)

    assert_usage_error(result, f"{nodeid}: faultguard marker: timeout='soon' is not a number of seconds*")


@pytest.mark.parametrize(
    "args",
    [
        ("-n2",),
        ("-n2", "--dist=each", "-q"),
        ("--collect-only",),
        ("--collect-only", "-n2"),
        ("--no-faultguard",),
        ("--faultguard", "--maxfail=1"),
        ("--pdb",),
    ],
    ids=" ".join,
)
def test_wrong_argument_however_pytest_runs(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, args: tuple[str, ...]
) -> None:
    """The worker of pytest-xdist that finds it is not what the user hears of."""
    pytester.makepyfile(
        test_wrong=PLACES["test_wrong.py::test_it"].format("timeout='soon'"), test_other="def test_other(): pass\n"
    )

    result = run_pytest(*args, plugins=QUICK)

    assert_usage_error(result, "test_wrong.py::test_it: faultguard marker: timeout='soon' is not a number of seconds*")
    assert recorder.reports() == []


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", "1e999"])
@pytest.mark.parametrize("name", ["timeout", "data-limit"])
def test_wrong_value_on_the_command_line(
    pytester: pytest.Pytester, run_pytest: RunPytest, name: str, value: str
) -> None:
    pytester.makepyfile("def test_it(): pass\n")

    result = run_pytest(f"--faultguard-{name}={value}", plugins=QUICK)

    assert_usage_error(result, f"--faultguard-{name}: '{value}' is not a number of *")


@pytest.mark.parametrize("name", ["timeout", "grace", "dump_every", "data_limit"])
def test_wrong_value_in_the_ini_file(
    pytester: pytest.Pytester, run_pytest: RunPytest, xdist_args: tuple[str, ...], name: str
) -> None:
    pytester.makepyfile("def test_it(): pass\n")
    pytester.makeini(f"[pytest]\nfaultguard_{name} = -2\n")

    result = run_pytest(*xdist_args, plugins=QUICK)

    assert_usage_error(result, f"faultguard_{name}: '-2' is not a number of *")


def test_unknown_option_is_pytests_own_usage_error(run_pytest: RunPytest) -> None:
    result = run_pytest("--faultguard-timout=3", plugins=QUICK)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*unrecognized arguments: --faultguard-timout=3"])


# Help.


def test_markers_and_help_tell_it(run_pytest: RunPytest) -> None:
    markers = run_pytest("--markers", plugins=QUICK)
    help_ = run_pytest("--help", plugins=QUICK)

    markers.stdout.fnmatch_lines(
        ["@pytest.mark.faultguard(*timeout=*, grace=*, dump_every=*, data_limit=*): run the test in *"]
    )
    help_.stdout.fnmatch_lines(
        [
            "crash-isolated tests:",
            "*--faultguard *",
            "*--no-faultguard*",
            "*--faultguard-timeout=SECONDS*",
            "*--faultguard-grace=SECONDS*",
            "*--faultguard-dump-every=SECONDS*",
            "*--faultguard-data-limit=SIZE*",
            "*faultguard_timeout (*",
            "*faultguard_grace (*",
            "*faultguard_dump_every (*",
            "*faultguard_data_limit (*",
            "*faultguard_aliases (*",
        ]
    )


def test_fixtures_tell_it(run_pytest: RunPytest) -> None:
    run_pytest("--fixtures", plugins=QUICK).stdout.fnmatch_lines(["faultguard_data*", "    A mapping whose values *"])


# Debuggers.


def session(pytester: pytest.Pytester, *args: str, stdin: bytes) -> pytest.RunResult:
    """A session whose user types something."""
    return pytester.run(sys.executable, "-m", "pytest", *common_options(), *args, stdin=stdin, timeout=60)


@pytest.mark.parametrize(
    ("option", "typed", "stops"), [("--pdb", b"c\n", 1), ("--trace", b"c\nc\n", 2)], ids=["pdb", "trace"]
)
@pytest.mark.parametrize("asked", [(), ("--faultguard",)], ids=["marked", "all"])
def test_debugger_of_pytest_runs_guarded_tests_in_process(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    guarded: Guarded,
    option: str,
    typed: bytes,
    stops: int,
    asked: tuple[str, ...],
) -> None:
    """With a note in the header; the prompt is there, and what is typed is read."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.faultguard
        def test_fails():
            value = 40 + 2
            assert value == 0

        def test_passes():
            pass
        """
    )

    result = session(pytester, option, *asked, stdin=b"p 'answer:', value\n" + typed if option == "--pdb" else typed)

    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines([f"faultguard: guarded tests run in this process, because of {option}"])
    assert result.stdout.str().count("(Pdb)") >= stops
    if option == "--pdb":
        result.stdout.fnmatch_lines(["*('answer:', 42)*"])
    assert guarded() == {"test_fails": False, "test_passes": False}


def test_quitting_the_debugger_ends_the_session(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    pytester.makepyfile("def test_fails(): assert 0\ndef test_never(): pass\n")

    result = session(pytester, "--pdb", "--faultguard", stdin=b"q\n")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*_pytest.outcomes.Exit: Quitting debugger*"])


BREAKPOINTS = """
import pdb
from pdb import set_trace

import pytest


@pytest.fixture
def early():
    breakpoint()


@pytest.fixture
def late():
    yield
    breakpoint()


def test_breakpoint():
    breakpoint()


def test_pdb():
    pdb.set_trace()


def test_pytest():
    pytest.set_trace()


def test_imported_before():
    set_trace()


def test_setup(early):
    pass


def test_teardown(late):
    pass


def test_after():
    pass
"""


@pytest.mark.parametrize(
    "args",
    [(), ("-n2",), ("-s",), ("--faultguard-start=spawn",), ("--faultguard-start=forkserver",)],
    ids=" ".join,
)
def test_breakpoint_fails_the_test(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, args: tuple[str, ...]
) -> None:
    """At once, at its own line, with a message that names the way out; the session goes on."""
    path = pytester.makepyfile(BREAKPOINTS)

    result = run_pytest("--faultguard", *args, plugins=QUICK)

    result.assert_outcomes(failed=4, errors=2, passed=2)
    failed = [report for report in recorder.reports() if report.outcome == "failed"]
    assert {report.message for report in failed} == {
        "Failed: use --no-faultguard: a guarded test has no terminal for a debugger"
    }
    assert [report.crash for report in failed] == [None] * 6
    assert [report.when for report in failed if "setup" in report.nodeid or "teardown" in report.nodeid] in (
        ["setup", "teardown"],
        ["teardown", "setup"],
    )
    assert recorder.report("test_breakpoint").path == str(path) or "-n2" in args


def test_breakpoint_that_python_ignores(
    pytester: pytest.Pytester, run_pytest: RunPytest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    pytester.makepyfile("def test_it(): breakpoint()\n")

    run_pytest("--faultguard", plugins=QUICK).assert_outcomes(passed=1)


def test_breakpoint_of_an_unguarded_test_still_stops(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """Also after a guarded test, where the child's refusal was never this process's."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.faultguard
        def test_guarded():
            breakpoint()

        def test_plain():
            value = 42
            breakpoint()
        """
    )

    result = session(pytester, stdin=b"p 'answer:', value\nc\n")

    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["*('answer:', 42)*"])


# Where there is no fork.

ABSENT = {
    "fork": "del os.fork",
    "pidfd": "del os.pidfd_open, os.memfd_create, os.eventfd",
    "macos": """
for name in dir(os):
    if name.startswith(("memfd", "MFD_", "pidfd", "eventfd", "EFD_", "posix_fallocate", "pipe2", "P_PIDFD")):
        delattr(os, name)
import fcntl
for name in dir(fcntl):
    if name.startswith(("F_ADD_SEALS", "F_SEAL")):
        delattr(fcntl, name)
""",
}


@pytest.mark.parametrize("absent", ABSENT.values(), ids=ABSENT)
def test_platform_without_fork_runs_guarded_tests_in_process(
    pytester: pytest.Pytester, run_pytest: RunPytest, guarded: Guarded, xdist_args: tuple[str, ...], absent: str
) -> None:
    """With exactly one warning, in the header; the fixture is there all the same."""
    pytester.makepyfile(other_platform=f"import os\n{absent}\n")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.faultguard(timeout=5)
        def test_marked(faultguard_data):
            faultguard_data["key"] = [1, 2]
            assert faultguard_data["key"] == [1, 2]

        def test_plain(faultguard_data):
            faultguard_data.buffer("buffer", 8)[:] = b"12345678"
            assert faultguard_data["buffer"] == b"12345678"
        """
    )

    result = run_pytest(*xdist_args, "-W", "error", plugins=("other_platform", *QUICK))

    result.assert_outcomes(passed=2)
    assert guarded() == {"test_marked": False, "test_plain": False}
    result.stdout.fnmatch_lines(["faultguard: WARNING: guarded tests run in this process: this platform has no fork*"])
    assert result.stdout.str().lower().count("warning") == 1
    assert result.stderr.str() == ""


def test_windows_runs_guarded_tests_in_process(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    pytester.makepyfile(other_platform="import os, sys\ndel os.fork\nsys.modules.update(fcntl=None, resource=None)\n")
    pytester.makepyfile("def test_it(): pass\n")

    result = run_pytest("--faultguard", plugins=("other_platform", *QUICK))

    assert result.ret == 0
    result.stdout.fnmatch_lines(["faultguard: WARNING: guarded tests run in this process: this platform has no fork*"])


def test_no_warning_about_the_platform_where_it_was_not_asked_for(
    pytester: pytest.Pytester, run_pytest: RunPytest
) -> None:
    """`--no-faultguard` says it itself."""
    pytester.makepyfile(other_platform="import os\ndel os.fork\n")
    pytester.makepyfile("def test_it(): pass\n")

    result = run_pytest("--no-faultguard", plugins=("other_platform", *QUICK))

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*faultguard: *")


# How the plugin is named.

PLUGIN_TEST = """
import pytest
import pytest_faultguard


@pytest.mark.faultguard
def test_it(faultguard_data, pytestconfig):
    assert pytest_faultguard.is_guarded()
    modules = [plugin.__name__ for plugin in pytestconfig.pluginmanager.get_plugins() if hasattr(plugin, "__name__")]
    assert modules.count("pytest_faultguard.plugin") == 1
"""


@pytest.mark.parametrize("autoload", [True, False], ids=["autoload", "no-autoload"])
@pytest.mark.parametrize(
    "plugins",
    [("faultguard",), ("pytest_faultguard",), ("pytest_faultguard", "faultguard"), ("faultguard", "pytest_faultguard")],
    ids=" ".join,
)
def test_plugin_by_name_is_there_once(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    autoload: bool,
    plugins: tuple[str, ...],
) -> None:
    """`-p faultguard`, or `-p` with the package's name: whether or not entry points are loaded as well."""
    if not autoload:
        monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(PLUGIN_TEST)

    result = run_pytest("--strict-markers", plugins=("no:cacheprovider", *plugins))

    result.assert_outcomes(passed=1)
    assert list(recorder.outcomes().values()) == [["setup passed", "call passed", "teardown passed"]]


@pytest.mark.parametrize("plugin", ["faultguard", "pytest_faultguard"])
def test_plugin_by_name_in_workers(
    pytester: pytest.Pytester, run_pytest: RunPytest, monkeypatch: pytest.MonkeyPatch, plugin: str
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(PLUGIN_TEST)

    run_pytest("-n2", "--strict-markers", plugins=("xdist", plugin)).assert_outcomes(passed=1)


def test_no_autoload_no_plugin(
    pytester: pytest.Pytester, run_pytest: RunPytest, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody would know our options.
    monkeypatch.delenv(EVERYWHERE, raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile(
        "import os\n\ndef test_it(pytestconfig): assert not pytestconfig.pluginmanager.hasplugin('faultguard')\n"
    )

    run_pytest(plugins=()).assert_outcomes(passed=1)


def test_plugin_switched_off(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """`-p no:faultguard`: the marker is unknown to pytest, and the test runs like any other."""
    pytester.makepyfile(
        """
        import os

        import pytest

        PID = os.getpid()

        @pytest.mark.faultguard(timeout="soon")
        def test_it(request):
            assert os.getpid() == PID
            assert "faultguard" not in str(request.config.pluginmanager.list_plugin_distinfo())
            with pytest.raises(pytest.FixtureLookupError):
                request.getfixturevalue("faultguard_data")
        """
    )

    result = run_pytest(plugins=(*QUICK, "no:faultguard"))

    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*PytestUnknownMarkWarning: Unknown pytest.mark.faultguard*"])


def test_marker_of_a_parameter_wins_over_its_functions(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder
) -> None:
    """The closest one decides, argument by argument."""
    pytester.makepyfile(
        """
        import pytest
        import time

        @pytest.mark.faultguard(timeout=30, grace=0.5)
        @pytest.mark.parametrize("n", [pytest.param(0, marks=pytest.mark.faultguard(timeout=0.2)), 1])
        def test_it(n):
            while n == 0:
                time.sleep(60)
        """
    )

    run_pytest()

    assert recorder.report("test_it[0]").crash["ending"]["timeout"] == 0.2
    assert recorder.report("test_it[1]").outcome == "passed"
