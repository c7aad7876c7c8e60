"""Promise 8 under the conditions of other people's machines: in which order, where and how pytest runs the tests."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from testing.harness import QUICK
from testing.harness import SESSION_SECONDS
from testing.harness import common_options

if TYPE_CHECKING:
    from testing.harness import Recorder
    from testing.harness import RunPytest

PASSED = ["setup passed", "call passed", "teardown passed"]
FAILED = ["setup passed", "call failed", "teardown passed"]

#: What is compared below has run where it should.
CONFTEST = """
import pytest
import pytest_faultguard


@pytest.fixture(autouse=True)
def as_asked(pytestconfig):
    assert pytest_faultguard.is_guarded() is pytestconfig.getoption("faultguard")
"""


# The order of the tests.

ORDERED = """
import os

import pytest
from pytest_faultguard import is_guarded


@pytest.fixture(scope="module", params=["x", "y"])
def module_value(request):
    return request.param


@pytest.fixture(scope="class", params=[1, 2])
def class_value(request):
    return request.param


def test_first(): pass

@pytest.mark.faultguard
def test_a(module_value): pass

def test_b(module_value): pass

class TestClass:
    @pytest.mark.faultguard
    @pytest.mark.parametrize("number", [3, 1, 2])
    def test_c(self, class_value, number): pass

    def test_d(self, class_value, module_value): pass

@pytest.mark.faultguard
def test_dies(module_value):
    assert os.abort() if is_guarded() else False

@pytest.mark.faultguard
@pytest.mark.skip
def test_skipped(): pass

@pytest.mark.faultguard
def test_last(): pass
"""

REORDERING = """
import pytest

def pytest_collection_modifyitems(items):
    items.reverse()
    items.append(items.pop(min(3, len(items) - 1)))

def pytest_runtest_logstart(nodeid):
    print("starts", nodeid)
"""


@pytest.mark.parametrize(
    ("args", "reordered"),
    [((), False), ((), True), (("-n2", "--dist=loadfile"), True)],
    ids=["pytests", "a_plugins", "a_plugins-n2"],
)
def test_the_order_of_the_tests_stays(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, args: tuple[str, ...], reordered: bool
) -> None:
    """Guarded and unguarded ones among each other, with the order that pytest makes of parameters, past a crash."""
    pytester.makepyfile(ORDERED)
    if reordered:
        pytester.makeconftest(REORDERING)
    orders = {}
    for flag in ("--no-faultguard", "--strict-markers", "--faultguard"):
        run_pytest(flag, *args, plugins=QUICK)
        orders[flag] = [(report.nodeid, report.when, report.outcome) for report in recorder.reports()]

    plain, marked, guarded = orders.values()
    assert [outcome for _, _, outcome in plain].count("failed") == 2
    assert len(plain) == 56
    assert marked == plain
    assert guarded == plain


# Where pytest is started, and from where it has its settings.

#: Dies where it would fail without the guard: on the same line.
PLACED = """
import os

import pytest
from pytest_faultguard import is_guarded


@pytest.fixture
def broken():
    assert os.abort() if is_guarded() else False


def test_call(faultguard_data):
    faultguard_data["directory"] = os.getcwd()
    assert os.abort() if is_guarded() else False


def test_setup(broken):
    pass


def test_passes():
    pass
"""


@pytest.mark.parametrize(
    "args",
    [
        ("../project",),
        ("--rootdir=..", "../project/sub"),
        ("-c", "../project/pytest.ini", "../project/sub"),
        ("-n2", "../project"),
    ],
    ids=["ini-file-there", "rootdir-above", "ini-file-named", "n2"],
)
def test_a_run_from_another_directory(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
) -> None:
    """A crash is told by the same ids and at the same place as a failure: relative to where pytest was started."""
    folder, elsewhere = pytester.path / "project" / "sub", pytester.path / "elsewhere"
    folder.mkdir(parents=True)
    elsewhere.mkdir()
    (folder.parent / "pytest.ini").write_text("[pytest]\nfaultguard_data_limit = 5kB\n")
    (folder / "test_placed.py").write_text(PLACED)
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    monkeypatch.chdir(elsewhere)
    places, lines = [], []
    for flag in ("--no-faultguard", "--faultguard"):
        result = run_pytest(flag, *args, plugins=QUICK)
        reports = sorted(recorder.reports(), key=lambda report: (report.nodeid, report.when))
        places.append([(report.nodeid, report.when, report.outcome, report.path, report.lineno) for report in reports])
        summary = {line.partition(" - ")[0] for line in result.outlines if line.startswith(("FAILED ", "ERROR "))}
        located = [match[0] for line in result.outlines if (match := re.match(r"\.\./\S+:\d+: ", line))]
        lines.append((summary, sorted(located)))

    assert places[1] == places[0]
    assert lines[1] == lines[0]
    assert [name.rpartition("::")[2] for name, _, outcome, _, _ in places[0] if outcome == "failed"] == [
        "test_call",
        "test_setup",
    ]
    assert len(lines[0][0]) == 2
    assert f"'directory' = '{elsewhere}'" in recorder.report("test_call").longrepr


LIMITED = """
def test_limit(faultguard_data, pytestconfig):
    faultguard_data["key"] = bytes(20_000)
"""


@pytest.mark.parametrize(
    ("args", "variable", "files", "limit"),
    [
        pytest.param(("-o", "faultguard_data_limit=5000"), "", {}, 5000, id="o"),
        pytest.param(("-c", "other.ini"), "", {"other.ini": "[pytest]\nfaultguard_data_limit = 6000\n"}, 6000, id="c"),
        pytest.param(
            ("-o", "faultguard_data_limit=5000", "-c", "other.ini", "-n2"),
            "",
            {"other.ini": "[pytest]\nfaultguard_data_limit = 6000\n"},
            5000,
            id="o-over-c-n2",
        ),
        pytest.param((), "--faultguard-data-limit=7000", {}, 7000, id="variable"),
        pytest.param(("-n2",), "-o faultguard_data_limit=7000", {}, 7000, id="variable-with-o-n2"),
        pytest.param(("--faultguard-data-limit=5000",), "--faultguard-data-limit=7000", {}, 5000, id="line-over-it"),
        pytest.param((), "", {"pytest.ini": "[pytest]\naddopts = --faultguard-data-limit=8kB\n"}, 8000, id="addopts"),
        pytest.param(
            (),
            "",
            {"pyproject.toml": '[tool.pytest.ini_options]\nfaultguard_data_limit = "9kB"\n'},
            9000,
            id="pyproject",
        ),
    ],
)
def test_settings_from_everywhere(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    variable: str,
    files: dict[str, str],
    limit: int,
) -> None:
    """`-o`, `-c`, `PYTEST_ADDOPTS` and pytest's files: the same for xdist's workers."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(LIMITED)
    for name, text in files.items():
        (pytester.path / name).write_text(text)
    monkeypatch.setenv("PYTEST_ADDOPTS", f"--faultguard {variable}")

    run_pytest(*args, plugins=QUICK)

    assert f"limit of {limit}" in (recorder.report("test_limit").message or "")


# How pytest is started.

DYING = """
import logging
import os
import signal
import sys

import pytest
from programs import lib

pytestmark = pytest.mark.faultguard


def test_crash(faultguard_data, tmp_path):
    faultguard_data["temp"] = str(tmp_path)
    faultguard_data["dilled"] = lambda: 1
    print("printed")
    print("complained", file=sys.stderr)
    logging.warning("logged")
    lib.null_write()


@pytest.mark.faultguard(timeout=0.5)
def test_hang(faultguard_data):
    faultguard_data["hangs"] = True
    signal.pause()


def test_exit(faultguard_data):
    faultguard_data["leaves"] = True
    os._exit(0)


def test_fails(faultguard_data):
    faultguard_data["fails"] = True
    print("printed")
    assert sys.stdin is None or not sys.stdin.isatty()
    assert 0


def test_passes(tmp_path):
    (tmp_path / "file").touch()


def test_last():
    pass
"""


def check_dying(recorder: Recorder) -> None:
    """Each of these tests has ended as it should, with its evidence."""
    died = {"test_crash", "test_hang", "test_exit"}
    assert recorder.outcomes() == {
        "test_crash": FAILED,
        "test_hang": FAILED,
        "test_exit": FAILED,
        "test_fails": FAILED,
        "test_passes": PASSED,
        "test_last": PASSED,
    }
    assert {report.nodeid.rpartition("::")[2] for report in recorder.reports() if report.crash} == died
    crash, hang = (recorder.report(name) for name in ("test_crash", "test_hang"))
    assert [(one.crash["ending"]["kind"], bool(one.crash["stacks"])) for one in (crash, hang)] == [
        ("Signaled", True),
        ("Overdue", True),
    ]
    assert [one["key"] for one in crash.crash["rescued"]] == ["'temp'", "'dilled'"]
    assert crash.section("stdout") == "printed\n"
    assert crash.section("stderr").startswith("complained\n")
    assert "logged" in crash.section("log")
    assert "'fails' = True" in recorder.report("test_fails").longrepr
    assert [gap for gap in crash.crash["gaps"] if not gap.startswith("stack:")] == []


Start = Callable[..., pytest.RunResult]


@pytest.fixture
def start(run_pytest: RunPytest, recorder: Recorder, programs: Path) -> Start:
    """`start("sh", "-c", …, args=…)`: run the dying tests by `python -m pytest *args`, at the end of that command."""
    run_pytest.pytester.makepyfile(test_dying=DYING)

    def run(
        *command: str, args: tuple[str, ...] = (), python: tuple[str, ...] = (), plugins: tuple[str, ...] = QUICK
    ) -> pytest.RunResult:
        options = [*common_options(plugins), *args]
        return run_pytest.pytester.run(
            *command, sys.executable, *python, "-m", "pytest", *options, timeout=SESSION_SECONDS
        )

    return run


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize(
    "args", [("--capture=fd",), ("--capture=sys",), ("--capture=tee-sys",), ("-s",), ("-n2",)], ids=" ".join
)
def test_closed_stdin(start: Start, recorder: Recorder, args: tuple[str, ...], method: str) -> None:
    """As under some job schedulers: the first file that is opened becomes descriptor 0."""
    args = ("-p", "no:faulthandler", f"--faultguard-start={method}", *args)
    start("sh", "-c", 'exec "$@" <&-', "sh", args=args)

    check_dying(recorder)


@pytest.mark.parametrize("args", [("--capture=fd",), ("--capture=sys",), ("-s",), ("-n2",)], ids=" ".join)
def test_read_only_working_directory(
    start: Start, recorder: Recorder, pytester: pytest.Pytester, unshare: list[str], args: tuple[str, ...]
) -> None:
    """Nothing of ours wants to write there; pytest's own cache does, and warns."""
    project = pytester.mkdir("project")
    (pytester.path / "test_dying.py").rename(project / "test_dying.py")
    script = """
        mount --bind "$0" "$0"
        mount -o remount,bind,ro "$0"
        cd "$0"
        if touch file; then exit 9; fi
        exec "$@"
    """

    start(*unshare, "sh", "-ec", script, str(project), plugins=("no:hypothesispytest",), args=args)

    check_dying(recorder)
    assert {warning.partition(":")[0] for warning in recorder.warnings()} == {"PytestCacheWarning"}
    assert [path.name for path in project.iterdir()] == ["test_dying.py"]


@pytest.mark.parametrize(
    ("args", "directory"),
    [((), None), (("-n2",), None), ((), "there/is/none")],
    ids=["unset", "unset-n2", "missing"],
)
def test_tmpdir(
    start: Start,
    recorder: Recorder,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    directory: str | None,
) -> None:
    """What the guard writes on its own account has no name: it needs no directory for temporary files."""
    # For pytest's own: what the test takes as its `tmp_path`.
    monkeypatch.setenv("PYTEST_DEBUG_TEMPROOT", str(pytester.mkdir("root")))
    monkeypatch.delenv("TMPDIR")
    if directory is not None:
        monkeypatch.setenv("TMPDIR", directory)

    start(args=args)

    check_dying(recorder)


@pytest.mark.parametrize("args", [(), ("-n2",)], ids=["serial", "n2"])
def test_warnings_are_errors(start: Start, recorder: Recorder, args: tuple[str, ...]) -> None:
    """Of Python's development mode as well: not one is ours, of a crash, of a hang or of a value that dill keeps."""
    result = start(python=("-X", "dev", "-W", "error"), args=("-W", "error", *args))

    check_dying(recorder)
    assert recorder.warnings() == []
    assert [line for line in result.errlines if "Warning" in line] == []


MAIN = """
import faulthandler
import json
import os
import signal
import sys
import threading
import warnings

import pytest


class Plugin:
    def __init__(self):
        self.reports = []

    def pytest_runtest_logreport(self, report):
        self.reports.append([report.nodeid, report.when, report.outcome, os.getpid() == HOME])


def state():
    fds = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            fds[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            pass  # That of the listing itself.
    with open("/proc/self/maps") as maps:
        mapped = [line.split()[-1] for line in maps if "memfd" in line]
    return [
        fds,
        mapped,
        [signal.getsignal(number) for number in signal.valid_signals()],
        signal.pthread_sigmask(signal.SIG_BLOCK, []),
        threading.enumerate(),
        faulthandler.is_enabled(),
        dict(os.environ),
        sys.breakpointhook,
        warnings._showwarnmsg_impl,
        os.getcwd(),
    ]


HOME = os.getpid()
told, sessions = [], []
before = state()
for _ in range(3):
    plugin = Plugin()
    code = int(pytest.main(sys.argv[1:], plugins=[plugin]))
    assert state() == before
    sessions.append(plugin.reports)
    told.append(code)
with open("told.json", "w") as file:
    json.dump([told, sessions], file)
"""


@pytest.mark.parametrize("capture", ["fd", "no"])
def test_several_sessions_in_one_process(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, programs: Path, capture: str
) -> None:
    """Each is guarded like the first, and leaves the process as it was."""
    pytester.makepyfile(test_dying=DYING)
    (pytester.path / "run.py").write_text(MAIN)

    done = pytester.run(sys.executable, "run.py", *common_options(), f"--capture={capture}", timeout=SESSION_SECONDS)

    assert done.ret == 0
    check_dying(recorder)
    codes, sessions = json.loads((pytester.path / "told.json").read_text())
    assert codes == [1, 1, 1]
    assert sessions[0] == [[report.nodeid, report.when, report.outcome, True] for report in recorder.reports()]
    assert sessions == [sessions[0]] * 3


# What stays on disk.


def test_config_cache(pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder) -> None:
    """What a guarded test puts into it is there for the next test, for the session's end and for the next session."""
    pytester.makeconftest(
        CONFTEST
        + """
def pytest_sessionfinish(session):
    session.config.cache.set("own/at_end", session.config.cache.get("own/value", None))
"""
    )
    pytester.makepyfile(
        """
        def test_first(cache, record_property):
            record_property("before", cache.get("own/value", None))
            cache.set("own/value", {"a": [1, None]})
            (cache.mkdir("own") / "file").write_text("content")

        def test_second(cache, record_property):
            record_property("value", cache.get("own/value", None))
            record_property("content", (cache.mkdir("own") / "file").read_text())
            cache.set("own/value", 5)
        """
    )
    sessions = []
    for flag in ("--no-faultguard", "--faultguard"):
        for _ in range(2):
            run_pytest(flag, "-o", f"cache_dir=cache{flag}", plugins=("no:hypothesispytest",))
            sessions.append([report.user_properties for report in recorder.reports(when="call")])
        assert json.loads((pytester.path / f"cache{flag}" / "v" / "own" / "at_end").read_text()) == 5

    value = [("value", {"a": [1, None]}), ("content", "content")]
    assert sessions == [[[("before", None)], value], [[("before", 5)], value]] * 2


def test_log_file(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """Records of each phase, in their order, and none twice."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import logging
        import pytest

        @pytest.fixture
        def narrow():
            logging.info("narrow")
            yield
            logging.warning("torn down")

        @pytest.mark.parametrize("number", range(3))
        def test_number(number, narrow):
            logging.info("number %d", number)
            logging.debug("hidden")
        """
    )
    texts = []
    for flag in ("--no-faultguard", "--faultguard"):
        run_pytest(flag, f"--log-file=log{flag}", "--log-file-level=INFO", plugins=QUICK).assert_outcomes(passed=3)
        texts.append((pytester.path / f"log{flag}").read_text())

    assert texts[0].count("narrow") == 3
    assert texts[1] == texts[0]


#: Those that are called in pytest's own process as often as without the guard.
HOOKS = "collection_finish|runtest_logstart|runtest_logreport|sessionfinish"


@pytest.mark.parametrize(
    "args",
    [
        ("--faultguard-start=fork",),
        ("--faultguard-start=fork", "--faultguard-scope=function"),
        ("--faultguard-start=fork", "--faultguard-collect"),
        ("--faultguard-start=forkserver",),
        ("--faultguard-start=spawn",),
    ],
    ids=" ".join,
)
def test_debug_file(pytester: pytest.Pytester, run_pytest: RunPytest, args: tuple[str, ...]) -> None:
    """`--debug` tells what pytest's own process does, once: no child writes what it has inherited, or begins the file."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(3))
        def test_number(number):
            pass
        """
    )
    plain, guarded = pytester.path / "plain.log", pytester.path / "guarded.log"
    run_pytest("--no-faultguard", f"--debug={plain}", plugins=QUICK).assert_outcomes(passed=3)

    result = run_pytest("--faultguard", f"--debug={guarded}", *args, plugins=QUICK)

    result.assert_outcomes(passed=3)
    assert [line for line in result.errlines if "debug information" in line] == [
        f"writing pytest debug information to {guarded}",
        f"wrote pytest debug information to {guarded}",
    ]
    assert [path.read_text().partition("-")[0] for path in (plain, guarded)] == ["versions pytest"] * 2
    assert b"\0" not in guarded.read_bytes()
    calls = [re.findall(rf" pytest_({HOOKS}) \[hook\]\n", path.read_text()) for path in (plain, guarded)]
    assert sorted(calls[1]) == sorted(calls[0])
    assert set(calls[0]) == set(HOOKS.split("|"))


@pytest.mark.parametrize(
    ("limit", "outcome", "told"),
    [
        # Room for a smaller journal; for none; and too few descriptors for what connects a child with its guard.
        ("-f 1000000", "passed", ""),
        ("-f 100", "failed", "JournalError: cannot reserve a journal"),
        ("-n 19", "failed", "LaunchError: no descriptor for a child"),
    ],
)
def test_a_child_that_cannot_be_had_is_an_error_of_its_test(
    run_pytest: RunPytest, recorder: Recorder, pytester: pytest.Pytester, limit: str, outcome: str, told: str
) -> None:
    """By the limits of the shell; and the session goes on."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module", autouse=True)
        def ends():
            yield
            print("the module ends")

        def test_before(): pass

        @pytest.mark.faultguard
        def test_it(faultguard_data): faultguard_data["key"] = "value"

        def test_after(): pass
        """
    )
    script = f'ulimit {limit}; exec "$0" -m pytest "$@"'

    done = pytester.run("bash", "-c", script, sys.executable, *common_options(), timeout=SESSION_SECONDS)

    setup = recorder.report("::test_it", "setup")
    assert (setup.outcome, told in (setup.message or "")) == (outcome, True)
    assert [report.outcome for report in recorder.reports("::test_after")] == ["passed"] * 3
    assert "INTERNALERROR" not in done.stdout.str()
    assert recorder.reports("::test_after")[-1].section("Captured stdout teardown") == "the module ends\n"
