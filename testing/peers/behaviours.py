"""What users of isolation tools have asked for or suffered from, each as a small program that every tool runs.

A row is a function: it runs the program and says whether what came out, as data, is what is asked.
"""

from __future__ import annotations

import html
import json
import re
import signal
from collections import defaultdict
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from pathlib import Path
from typing import Any

from testing.peers.sessions import Done
from testing.peers.sessions import Run
from testing.peers.tools import NEWEST
from testing.peers.tools import OURS
from testing.peers.tools import PEERS
from testing.peers.tools import PLUGINS
from testing.peers.tools import Tool
from testing.peers.tools import python_of

TOOLS = (*PEERS, OURS)
#: Limits in the programs, and what a tool may take for a limit of 2 s.
LIMIT = 1
PATIENCE = 5.0
#: Longer than any session may be.
FOR_EVER = 600


@dataclass(frozen=True)
class No:
    """What is asked is not so; in a word, how it went instead."""

    word: str

    def __bool__(self) -> bool:
        return False


@dataclass(frozen=True, kw_only=True)
class Row:
    """One behaviour, of each tool."""

    name: str
    what: str
    #: By the name of the tool: "yes", "no", or "no" and a word.
    cells: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Once(Run):
    """A session is run once, however many rows look at what it left."""

    left: dict[str, Done] = field(default_factory=dict)

    def __call__(self, files: Mapping[str, str], *args: str, **options: Any) -> Done:
        key = json.dumps([files, args, options], sort_keys=True)
        if key not in self.left:
            self.left[key] = super().__call__(files, *args, **options)
        return self.left[key]


Judge = Callable[[Run], "bool | No"]
ROWS: dict[str, tuple[str, Judge]] = {}

HEAD = """
import ctypes
import os
import pytest
import signal
import subprocess
import sys
import time
import warnings

from peer import bare, isolated, limited, say


def crash_here():
    ctypes.string_at(0)


"""
#: After a test that crashes: whether the session goes on.
NEXT = """

@isolated
def test_isolated_next(): pass


def test_next(): pass
"""


def asked(what: str) -> Callable[[Judge], Judge]:
    """Make a function a row; its name is that of the row on the command line."""

    def add(judge: Judge) -> Judge:
        ROWS[judge.__name__] = what, judge
        return judge

    return add


def measure(workdir: Path, names: list[str], tools: Sequence[Tool] = TOOLS) -> Iterator[Row]:
    """Run the chosen rows, or all, with each tool."""
    runs = [Once(tool=tool, python=python_of(tool, workdir, *PLUGINS), workdir=workdir) for tool in tools]
    for name in names or ROWS:
        what, judge = ROWS[name]
        yield Row(name=name, what=what, cells={run.tool.name: _cell(judge(run)) for run in runs})


def _cell(judged: bool | No) -> str:
    if isinstance(judged, No):
        return f"no: {judged.word}" if judged.word else "no"
    return "yes" if judged else "no"


def _program(text: str, *, following: bool = True) -> dict[str, str]:
    return {"test_it.py": HEAD + text.lstrip("\n") + (NEXT if following else "")}


def _contained(done: Done, **outcomes: str) -> bool | No:
    """Whether the session went on and each test has the outcome that is named."""
    if not done.went_on:
        return No(done.ended)
    named = {"test_isolated_next": "passed", "test_next": "passed", **outcomes}
    return all(done.outcome(test) == outcome for test, outcome in named.items())


CRASH = """
@isolated
def test_crash():
    print("words to stdout")
    print("words to stderr", file=sys.stderr)
    crash_here()
"""


# The session goes on.


@asked("A crash is one failed test; the others pass")
def crash(run: Run) -> bool | No:
    return _contained(run(_program(CRASH)), test_crash="failed")


@asked("The mark without any argument isolates")
def bare_mark(run: Run) -> bool | No:
    return _contained(run(_program("@bare\ndef test_crash(): crash_here()\n")), test_crash="failed")


@asked(f"An empty marked test passes, with pytest {NEWEST.removeprefix('pytest==')}")
def newest_pytest(run: Run) -> bool | No:
    if NEWEST not in run.tool.requirements:
        tool = replace(run.tool, name=f"{run.tool.name} of today", requirements=(run.tool.requirements[0], NEWEST))
        run = Run(tool=tool, python=python_of(tool, run.workdir, *PLUGINS), workdir=run.workdir)
    return _contained(run(_program("")))


@asked("``os._exit(0)`` in the middle of a test is a failure")
def exit_zero(run: Run) -> bool | No:
    return _contained(run(_program("@isolated\ndef test_exit(): os._exit(0)\n")), test_exit="failed")


BROKEN_SETUP = """
@pytest.fixture
def broken(): crash_here()


@isolated
def test_it(broken): pass
"""


@asked("A crash in a fixture's set-up does not end the session, and the others pass")
def crash_in_setup(run: Run) -> bool | No:
    done = run(_program(BROKEN_SETUP))
    return _contained(done) and done.outcome("test_it") in {"failed", "error"}


@asked("It is an error at set-up")
def phase_of_setup(run: Run) -> bool | No:
    done = run(_program(BROKEN_SETUP))
    return done.outcome("test_it") == "error" or No(done.ended)


BROKEN_TEARDOWN = """
@pytest.fixture
def broken():
    yield
    crash_here()


@isolated
def test_it(broken): pass
"""


@asked("A crash in a fixture's teardown is not passed over")
def crash_in_teardown(run: Run) -> bool | No:
    done = run(_program(BROKEN_TEARDOWN))
    return done.status == 1 or No(done.ended)


@asked("It is a passed call and an error at teardown, and the others pass")
def phases_of_teardown(run: Run) -> bool | No:
    return _contained(run(_program(BROKEN_TEARDOWN)), test_it="passed error")


@asked("In a marked class the neighbours of a crash pass")
def class_mark(run: Run) -> bool | No:
    text = """
@isolated
class TestIt:
    def test_before(self): pass

    def test_crash(self): crash_here()

    def test_after(self): pass
"""
    return _contained(run(_program(text)), test_before="passed", test_crash="failed", test_after="passed")


@asked("In a marked module the neighbours of a crash pass")
def module_mark(run: Run) -> bool | No:
    text = """
pytestmark = isolated


def test_before(): pass


def test_crash(): crash_here()


def test_after(): pass
"""
    return _contained(run(_program(text)), test_before="passed", test_crash="failed", test_after="passed")


@asked("Ten crashes under ``pytest -n2`` are failed tests, and no worker is lost")
def crash_under_xdist(run: Run) -> bool | No:
    # More than pytest-xdist puts up with.
    names = [f"test_crash{number}" for number in range(10)]
    text = "\n\n".join(f"@isolated\ndef {name}(): crash_here()\n" for name in names)
    done = run(_program(text), "-n2", beside=["pytest-xdist"])
    judged = _contained(done, **dict.fromkeys(names, "failed"))
    return judged and not any("worker 'gw" in done.text(name) for name in names)


@asked("A file that crashes while it is imported is an error, and the tests of the others are run")
def crash_at_import(run: Run) -> bool | No:
    files = {"test_import.py": f"{HEAD}pytestmark = isolated\ncrash_here()\n", **_program("")}
    # No test has begun then; of all the tools ours alone has an option for it.
    guarding = ("--faultguard-collect",) if run.tool is OURS else ()
    done = run(files, "--continue-on-collection-errors", *guarding)
    return _contained(done) and (done.status == 1 or No(done.ended))


# The report of a crash.


@asked("The line that crashed is in the test's report")
def traceback(run: Run) -> bool | No:
    return _names_the_line(run(_program(CRASH)), "test_crash")


@asked("Also with ``-p no:faulthandler``")
def traceback_without_plugin(run: Run) -> bool | No:
    return _names_the_line(run(_program(CRASH), "-p", "no:faulthandler"), "test_crash")


@asked("Also under ``pytest -n2``")
def traceback_under_xdist(run: Run) -> bool | No:
    return _names_the_line(run(_program(CRASH), "-n2", beside=["pytest-xdist"]), "test_crash")


def _names_the_line(done: Done, test: str) -> bool | No:
    return _line_of_crash(done.text(test)) or No(done.ended)


def _line_of_crash(text: str) -> bool:
    number = HEAD.splitlines().index("    ctypes.string_at(0)") + 1
    shapes = rf"test_it\.py:{number}\b|test_it\.py\", line {number} in crash_here"
    return bool(re.search(shapes, text))


@asked("The signal is named: SIGSEGV")
def signal_name(run: Run) -> bool | No:
    return "SIGSEGV" in run(_program(CRASH)).text("test_crash")


@asked("Also under ``pytest -n2``")
def signal_name_under_xdist(run: Run) -> bool | No:
    return "SIGSEGV" in run(_program(CRASH), "-n2", beside=["pytest-xdist"]).text("test_crash")


@asked("What the test had printed is in its report, and in no other's")
def output(run: Run) -> bool | No:
    done = run(_program(CRASH))
    words = ("words to stdout", "words to stderr")
    others = done.text("test_isolated_next") + done.text("test_next")
    return all(word in done.text("test_crash") and word not in others for word in words) or No(done.ended)


@asked("The report of a crash in the call says so: ``when == 'call'``")
def phase(run: Run) -> bool | No:
    done = run(_program(CRASH))
    return [event["when"] for event in done.reports("test_crash") if event["outcome"] == "failed"] == ["call"]


@asked("Output that is no UTF-8 does no harm")
def strange_output(run: Run) -> bool | No:
    text = """
@isolated
def test_fail():
    os.write(1, b"\\xff\\xfe words\\n")
    assert False
"""
    return _contained(run(_program(text)), test_fail="failed")


# Outcomes are those of pytest.


@asked("A skip stays a skip")
def skip(run: Run) -> bool | No:
    return _contained(run(_program("@isolated\ndef test_it(): pytest.skip('not here')\n")), test_it="skipped")


@asked("An expected failure is shown as xfailed")
def xfail(run: Run) -> bool | No:
    text = "@isolated\n@pytest.mark.xfail(reason='known')\ndef test_it(): assert False\n"
    return _contained(run(_program(text)), test_it="xfailed")


@asked("Also one whose mark gives no reason")
def xfail_without_reason(run: Run) -> bool | No:
    return _contained(run(_program("@isolated\n@pytest.mark.xfail\ndef test_it(): assert False\n")), test_it="xfailed")


@asked("A crash under ``xfail`` is xfailed")
def xfail_and_crash(run: Run) -> bool | No:
    text = "@isolated\n@pytest.mark.xfail(reason='known')\ndef test_it(): crash_here()\n"
    return _contained(run(_program(text)), test_it="xfailed")


@asked("Also under ``pytest -n2``, and no worker is lost")
def xfail_and_crash_under_xdist(run: Run) -> bool | No:
    text = "@isolated\n@pytest.mark.xfail(reason='known')\ndef test_it(): crash_here()\n"
    done = run(_program(text), "-n2", beside=["pytest-xdist"])
    return _contained(done, test_it="xfailed") and "worker 'gw" not in done.text("test_it")


@asked("A crash under ``xfail(False, reason=…)`` is failed")
def untrue_xfail_and_crash(run: Run) -> bool | No:
    text = "@isolated\n@pytest.mark.xfail(False, reason='not here')\ndef test_it(): crash_here()\n"
    return _contained(run(_program(text)), test_it="failed")


@asked("A failing subtest fails the test")
def subtests(run: Run) -> bool | No:
    text = """
@isolated
def test_it(subtests):
    with subtests.test("a part"):
        assert False
"""
    done = run(_program(text))
    return done.status == 1 and any(event["outcome"] == "failed" for event in done.reports("test_it"))


@asked("With ``-vv``, the report of a failed assertion has all the lines of plain pytest's")
def assertion(run: Run) -> bool | No:
    text = """
@isolated
def test_it():
    one = {"numbers": [1, 2, 3], "text": "a long text"}
    other = {"numbers": [1, 3, 3], "text": "another long text"}
    assert one == other
"""
    plain, done = (run(_program(text), "-vv", plain=plain) for plain in (True, False))
    lines = [line.strip() for line in plain.text("test_it").splitlines() if line.startswith(("E", ">"))]
    assert len(lines) > 10
    return {*lines} <= {line.strip() for line in done.text("test_it").splitlines()} or No(done.ended)


@asked("``KeyboardInterrupt`` ends the session")
def keyboard_interrupt(run: Run) -> bool | No:
    return _interrupted(run(_program("@isolated\ndef test_it(): raise KeyboardInterrupt\n")))


@asked("``pytest.exit()`` ends the session")
def pytest_exit(run: Run) -> bool | No:
    return _interrupted(run(_program("@isolated\ndef test_it(): pytest.exit('enough')\n")))


def _interrupted(done: Done) -> bool:
    return done.status == 2 and not done.reports("test_next") and not done.of("internalerror")


@asked("Warnings come to the summary")
def warning(run: Run) -> bool | No:
    done = run(_program("@isolated\ndef test_it(): warnings.warn('a word of warning')\n"))
    return any("a word of warning" in event["text"] for event in done.of("warning"))


@asked("Tests run in the order of the file")
def order(run: Run) -> bool | No:
    names = [f"test_{number}" for number in range(6)]
    text = "\n\n".join(
        f"{'@isolated' if number % 2 else ''}\ndef {name}():\n    with open('ran', 'a') as file: file.write('{name} ')\n"
        for number, name in enumerate(names)
    )
    return run(_program(text, following=False)).files.get("ran", "").split() == names


@asked("``--maxfail=2`` stops after two crashes")
def maxfail(run: Run) -> bool | No:
    text = "\n\n".join(
        f"@isolated\ndef test_{number}():\n    open('ran{number}', 'w').close()\n    crash_here()\n"
        for number in range(4)
    )
    done = run(_program(text, following=False), "--maxfail=2")
    failed = [event for event in done.of("report") if event["outcome"] == "failed"]
    ran = [name for name in done.files if name.startswith("ran")]
    return (len(failed) == 2 and ran == ["ran0", "ran1"]) or No(done.ended)


def _sixty_under_xdist(run: Run, crashing: set[int], option: str) -> Done:
    """Tests of which those with these numbers crash, and the others take long enough for a session to stop before its end."""
    text = "\n\n".join(
        f"@isolated\ndef test_{number:02}():\n    open('ran{number:02}', 'w').close()\n"
        f"    {'crash_here()' if number in crashing else 'time.sleep(0.1)'}\n"
        for number in range(60)
    )
    return run(_program(text, following=False), option, "-n2", beside=["pytest-xdist"], deadline=60.0)


@asked("Also under ``pytest -n2``")
def maxfail_under_xdist(run: Run) -> bool | No:
    done = _sixty_under_xdist(run, {0, 10}, "--maxfail=2")
    if done.status is None or done.status < 0:
        return No(done.ended)
    failed = [event for event in done.of("report") if event["outcome"] == "failed"]
    return len(failed) == 2 and "ran59" not in done.files


@asked("``-x`` stops after a crash, also under ``pytest -n2``")
def exitfirst_under_xdist(run: Run) -> bool | No:
    done = _sixty_under_xdist(run, {0}, "-x")
    if done.status is None or done.status < 0:
        return No(done.ended)
    return done.outcome("test_00") == "failed" and "ran59" not in done.files


@asked("From another directory than rootdir the tests are really run")
def other_directory(run: Run) -> bool | No:
    text = _program("@isolated\ndef test_it(): assert False\n")["test_it.py"]
    done = run({"inner/test_it.py": text}, "test_it.py", inside="inner")
    return _contained(done, test_it="failed")


# Fixtures.

FIXTURES = """
def note(word):
    with open("notes", "a") as file:
        file.write(f"{word} {os.getpid()}\\n")


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("shared")
    note("set-up")
    yield path
    note("teardown")
    os.rmdir(path)


def test_first(directory): pass


@isolated
def test_one(directory): assert directory.is_dir()


@isolated
def test_two(directory): assert directory.is_dir()


def test_last(directory): assert directory.is_dir()
"""


@asked("A session fixture is torn down once in each process that set it up, and in no other")
def teardown_once(run: Run) -> bool | No:
    by_word = _processes(run(_program(FIXTURES)))
    set_up = by_word["set-up"]
    return bool(set_up) and len(set(set_up)) == len(set_up) and sorted(set_up) == sorted(by_word["teardown"])


def _processes(done: Done) -> Mapping[str, list[str]]:
    """By the words that the program has noted: in which processes."""
    noted = defaultdict(list)
    for line in done.files.get("notes", "").splitlines():
        word, process = line.split()
        noted[word].append(process)
    return noted


@asked("A directory that a session fixture made is still there for the next test")
def shared_directory(run: Run) -> bool | No:
    return _contained(run(_program(FIXTURES)), test_one="passed", test_two="passed", test_last="passed")


@asked("Wide fixtures of isolated tests and of their neighbours end well: no error at teardown")
def wide_fixtures(run: Run) -> bool | No:
    text = """
@pytest.fixture(scope="module", autouse=True, params=["a", "b"])
def of_module(request): yield


@pytest.fixture(scope="class")
def of_class(): yield


def test_first(): pass


@isolated
def test_second(of_class): pass


class TestMixed:
    def test_third(self, of_class): pass

    @isolated
    def test_fourth(self, of_class): pass

    def test_fifth(self, of_class): pass


@isolated
class TestIsolated:
    def test_sixth(self, of_class): pass

    def test_seventh(self, of_class): pass


def test_eighth(of_class): pass
"""
    done = run(_program(text))
    if not done.went_on:
        return No(done.ended)
    # What pytest says of it: "previous item was not torn down properly".
    return all(event["outcome"] == "passed" for event in done.of("report")) and done.status == 0


@asked("An isolated test can use the server of a session fixture, whose ``shutdown()`` does not wait for ever")
def server_thread(run: Run) -> bool | No:
    # The thread that serves is of the process that set the server up. Elsewhere nothing would end its loop.
    text = """
import socket
import socketserver
import threading


class Echo(socketserver.StreamRequestHandler):
    def handle(self): self.wfile.write(self.rfile.readline())


@pytest.fixture(scope="session")
def server():
    with socketserver.TCPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def answers(server):
    with socket.create_connection(server.server_address) as connection:
        connection.sendall(b"a word\\n")
        return connection.makefile("rb").readline() == b"a word\\n"


def test_first(server): assert answers(server)


@isolated
def test_it(server): assert answers(server)


def test_last(server): assert answers(server)
"""
    done = run(_program(text), deadline=15.0)
    return _contained(done, test_first="passed", test_it="passed", test_last="passed")


@asked("The fixtures of an isolated test are not set up in pytest's own process")
def setup_elsewhere(run: Run) -> bool | No:
    text = """
@pytest.fixture
def noted():
    with open("notes", "a") as file: file.write(f"set-up {os.getpid()}\\n")


@isolated
def test_it(noted): pass


def test_of_pytest():
    with open("notes", "a") as file: file.write(f"pytest {os.getpid()}\\n")
"""
    by_word = _processes(run(_program(text)))
    return bool(by_word["set-up"]) and not {*by_word["set-up"]} & {*by_word["pytest"]}


# Limits of time.


@asked("A Python hang is stopped at the limit, and the session goes on")
def python_hang(run: Run) -> bool | No:
    return _contained(_hang(run, "time.sleep(FOR_EVER)"), test_hang="failed")


@asked("The line that hung is in the report")
def line_of_hang(run: Run) -> bool | No:
    done = _hang(run, "time.sleep(FOR_EVER)")
    number = HEAD.count("\n") + 3
    return bool(re.search(rf"test_it\.py:{number}\b|test_it\.py\", line {number} in", done.text("test_hang")))


@asked("A loop in native code is stopped at the limit, and the session goes on")
def native_hang(run: Run) -> bool | No:
    # It runs in C, keeps the GIL and never looks for signals.
    text = "__import__('collections').deque(__import__('itertools').repeat(0), maxlen=0)"
    return _contained(_hang(run, text), test_hang="failed")


@asked("A process that stopped itself (SIGSTOP) is ended at the limit")
def stopped(run: Run) -> bool | No:
    return _contained(_hang(run, "os.kill(os.getpid(), signal.SIGSTOP)"), test_hang="failed")


@asked("What the test had printed before a hang is in its report")
def output_of_hang(run: Run) -> bool | No:
    # With a limit of a second, a tool that starts pytest anew would not come so far on a busy machine.
    return "words before" in _hang(run, "print('words before'); time.sleep(FOR_EVER)", limit=4).text("test_hang")


@asked("What a test has started ends with it at the limit")
def grandchild(run: Run) -> bool | No:
    text = f"subprocess.Popen(['sleep', '{FOR_EVER}']); time.sleep(FOR_EVER)"
    done = _hang(run, text)
    return (done.outcome("test_hang") == "failed" and done.leftovers == 0) or No(done.ended)


@asked(f"A limit of 2 s takes less than {PATIENCE:g} s where the test ignores SIGTERM")
def ignored_sigterm(run: Run) -> bool | No:
    text = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(FOR_EVER)"
    return _in_time(_hang(run, text, limit=2), test_hang="failed")


@asked(f"A limit of 2 s takes less than {PATIENCE:g} s where a child of the test holds the output")
def held_output(run: Run) -> bool | No:
    text = f"subprocess.Popen(['sleep', '{FOR_EVER}']); time.sleep(FOR_EVER)"
    return _in_time(_hang(run, text, limit=2), test_hang="failed")


@asked(f"A test that passes and leaves a process behind passes, in less than {PATIENCE:g} s")
def leaked_process(run: Run) -> bool | No:
    text = f"@limited(20)\ndef test_it(): subprocess.Popen(['sleep', '{FOR_EVER}'])\n"
    return _in_time(run(_program(text), beside=run.tool.limit_plugins), test_it="passed")


def _hang(run: Run, body: str, *, limit: float = LIMIT) -> Done:
    text = f"@limited({limit})\ndef test_hang():\n    {body.replace('FOR_EVER', str(FOR_EVER))}\n"
    return run(_program(text), beside=run.tool.limit_plugins, deadline=15.0)


def _in_time(done: Done, **outcomes: str) -> bool | No:
    judged = _contained(done, **outcomes)
    if judged is not True:
        return judged
    seconds = float(done.of("finish")[-1]["at"]) - float(done.of("start")[0]["at"])
    return seconds < PATIENCE or No(f"{seconds:.0f} s")


# Nothing is left.


@asked("SIGTERM to pytest leaves no process of a test")
def sigterm(run: Run) -> bool | No:
    return _leaves_nothing(run, signal.SIGTERM, "time.sleep(FOR_EVER)")


@asked("SIGKILL to pytest leaves no child of it")
def sigkill(run: Run) -> bool | No:
    return _leaves_nothing(run, signal.SIGKILL, "time.sleep(FOR_EVER)")


@asked("SIGTERM to pytest ends also what the test had started")
def sigterm_grandchild(run: Run) -> bool | No:
    return _leaves_nothing(run, signal.SIGTERM, "time.sleep(FOR_EVER)", "subprocess.Popen(['sleep', 'FOR_EVER'])")


def _leaves_nothing(run: Run, number: int, body: str, before: str = "pass") -> bool | No:
    text = f"@isolated\ndef test_it():\n    {before}\n    say()\n    {body}\n".replace("FOR_EVER", str(FOR_EVER))
    done = run(_program(text), send=number, deadline=10.0)
    if done.status is None:
        return No("hangs")
    return done.leftovers == 0


@asked("Nothing stays in the directory for temporary files, but pytest's own")
def temporary_files(run: Run) -> bool | No:
    done = run(_program(CRASH))
    return not [name for name in done.temporary if not name.startswith("pytest-of-")] or No("files")


# Beside other plugins.


@asked("pytest-timeout: its mark fails a test that hangs, and the session goes on")
def with_timeout(run: Run) -> bool | No:
    text = f"@isolated\n@pytest.mark.timeout({LIMIT})\ndef test_hang(): time.sleep({FOR_EVER})\n"
    return _contained(run(_program(text), beside=["pytest-timeout"], deadline=15.0), test_hang="failed")


@asked("Also where the test ignores SIGALRM")
def ignored_sigalrm(run: Run) -> bool | No:
    text = f"""
@isolated
@pytest.mark.timeout({LIMIT})
def test_hang():
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    time.sleep({FOR_EVER})
"""
    return _contained(run(_program(text), beside=["pytest-timeout"], deadline=15.0), test_hang="failed")


@asked("pytest-rerunfailures: a crash is run again")
def with_reruns(run: Run) -> bool | No:
    text = """
@isolated
def test_it():
    if not os.path.exists("ran"):
        open("ran", "w").close()
        crash_here()
"""
    done = run(_program(text), "--reruns=1", beside=["pytest-rerunfailures"])
    return _contained(done, test_it="rerun passed")


@asked("pytest-html: a crash is in the page, as a failed test")
def with_html(run: Run) -> bool | No:
    done, rows = _page(run)
    return [row["result"] for row in rows] == ["Failed"] or No(done.ended)


@asked("The page has the line that crashed, and what the test had printed")
def story_in_html(run: Run) -> bool | No:
    done, rows = _page(run)
    log = "".join(row["log"] for row in rows)
    return (_line_of_crash(log) and "words to stdout" in log and "words to stderr" in log) or No(done.ended)


def _page(run: Run) -> tuple[Done, list[Mapping[str, Any]]]:
    """Its rows of the test that crashes."""
    done = run(_program(CRASH), "--html=page.html", beside=["pytest-html"])
    found = re.search(r'data-jsonblob="(.*?)"', done.files.get("page.html", ""))
    tests = json.loads(html.unescape(found[1]))["tests"] if found else {}
    return done, [row for rows in tests.values() for row in rows if row["testId"].endswith("::test_crash")]


@asked("pytest-cov: the same lines as in plain pytest")
def with_cov(run: Run) -> bool | No:
    return _covered(run, "")


@asked("The same with coverage's own settings for child processes")
def with_cov_patched(run: Run) -> bool | No:
    return _covered(run, "patch =\n    _exit\n    fork\n    subprocess\n")


COVERED = """
def called(yes):
    if yes:
        return 1
    return 2


def never():
    return 3
"""
COVERING = """
import covered


@isolated
def test_one(): assert covered.called(True) == 1


@isolated
def test_two(): assert covered.called(False) == 2
"""


def _covered(run: Run, settings: str) -> bool | No:
    files = {"covered.py": COVERED, ".coveragerc": f"[run]\n{settings}", **_program(COVERING)}
    args = ("--cov=covered", "--cov-report=json:coverage.json")
    plain, done = (run(files, *args, beside=["pytest-cov"], plain=plain) for plain in (True, False))
    assert _lines(plain) == {2, 3, 4, 5, 8}
    return _lines(done) == _lines(plain) or No(done.ended)


def _lines(done: Done) -> set[int]:
    if "coverage.json" not in done.files:
        return set()
    return set(json.loads(done.files["coverage.json"])["files"]["covered.py"]["executed_lines"])
