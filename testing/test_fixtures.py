"""A fixture is finalized exactly once, in the process that set it up.

The fixtures of the inner sessions keep a ledger: a file with one line per birth, use and end, each with its process.
What must be true of it is said once, in `Ledger.check`: the parent's instance is used by all later tests of its scope,
guarded or not; a guarded test before has one of its own, and so has each where children start clean; every instance ends
once, where it began, and in time.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from dataclasses import field
from pathlib import Path

import pytest

from testing.harness import Recorder
from testing.harness import RunPytest
from testing.harness import starts_clean
from testing.live import StartPytest

LEDGER = '''
"""Where fixtures write down when and where they begin, are used, and end."""

import itertools
import json
import os
import signal

from pytest_faultguard import is_guarded

_numbers = itertools.count()


def write(event, name, **values):
    pid = os.getpid()
    line = {
        "event": event,
        "name": name,
        "pid": pid,
        # The process of pytest itself.
        "home": os.getppid() if is_guarded() else pid,
        "test": os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0],
        **values,
    }
    with open(@FILE@, "a") as file:
        file.write(json.dumps(line) + "\\n")


def begin(name):
    instance = f"{os.getpid()}.{next(_numbers)}"
    write("begin", name, instance=instance)
    return instance


def use(name, instance):
    write("use", name, instance=instance)


def end(name, instance):
    write("end", name, instance=instance)


def lasting(name):
    instance = begin(name)
    try:  # As `with` does: a generator that nobody has any more runs this, too.
        yield instance
    finally:
        end(name, instance)


def die():
    write("die", "")
    os.kill(os.getpid(), signal.SIGKILL)
'''


@dataclass(frozen=True)
class Line:
    """One line of the ledger."""

    event: str
    #: The scope, then maybe other words that tell fixtures of this scope apart.
    name: str
    pid: int
    #: The process of pytest, or of its worker.
    home: int
    test: str
    instance: str = ""


@dataclass
class Life:
    """One value of one fixture."""

    name: str
    pid: int
    used_by: list[str] = field(default_factory=list)
    ended_in: list[int] = field(default_factory=list)


class Ledger:
    """What the fixtures of an inner session have written down."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "ledger.jsonl"
        (directory / "ledger.py").write_text(LEDGER.replace("@FILE@", repr(str(self._file))))

    def lines(self, name: str = "") -> list[Line]:
        """All lines in their order, or those of one fixture."""
        lines = [Line(**json.loads(line)) for line in self._file.read_text().splitlines()]
        return [line for line in lines if name in ("", line.name)]

    def story(self) -> list[str]:
        """`event name in parent` or `… in child`, in their order."""
        return [f"{line.event} {line.name} in {_side(line)}" for line in self.lines()]

    def lives(self, name: str = "") -> list[Life]:
        """Every instance; the promise about its end was kept, or this fails."""
        lives: dict[str, Life] = {}
        died = {line.pid for line in self.lines() if line.event == "die"}
        for line in self.lines():
            match line.event:
                case "begin":
                    assert line.instance not in lives
                    lives[line.instance] = Life(line.name, line.pid)
                case "use":
                    assert not lives[line.instance].ended_in, f"used after its end: {line}"
                    lives[line.instance].used_by.append(line.test)
                case "end":
                    lives[line.instance].ended_in.append(line.pid)
        for life in lives.values():
            expected = [] if life.pid in died else [life.pid]
            assert life.ended_in == expected, f"not ended exactly once where it began: {life}"
        return [life for life in lives.values() if name in ("", life.name)]

    def check(self) -> None:
        """Every instance began and ended where and when it should."""
        lives = self.lives()
        assert lives
        for name, home in {(life.name, line.home) for life in lives for line in self.lines()}:
            self._check(name, [line for line in self.lines(name) if line.home == home])

    @staticmethod
    def _check(name: str, lines: list[Line]) -> None:
        born_in = {line.instance: line.pid for line in lines if line.event == "begin"}
        # What the parent has set up, by the node that it is for.
        alive: dict[str, str] = {}
        for line in lines:
            match line.event:
                case "begin" if line.pid == line.home:
                    assert not alive or name.startswith("session"), f"another one is still alive: {line}"
                    alive[_node(line)] = line.instance
                case "use":
                    node = _node(line)
                    in_time = name.startswith("session") or alive.keys() <= {node}
                    # What a child needs with another parameter is set up there, while the parent's is still alive.
                    in_time = in_time or ("parametrized" in name and line.pid != line.home)
                    assert in_time, f"{alive} should have ended before {line}"
                    if node in alive and (line.pid == line.home or not starts_clean()):
                        assert line.instance == alive[node], f"not the parent's: {line}"
                    else:
                        assert born_in[line.instance] == line.pid != line.home, f"not its own: {line}"
                case "end" if line.pid == line.home:
                    assert line.instance in alive.values(), line
                    alive = {where: instance for where, instance in alive.items() if instance != line.instance}
        assert not alive


def _side(line: Line) -> str:
    return "parent" if line.pid == line.home else "child"


def _node(line: Line) -> str:
    """What a fixture of this scope lives as long as; fixtures stand in `conftest.py` of the test's directory."""
    file, *names = re.sub(r"\[.*", "", line.test).split("::")
    directory = file.rpartition("/")[0]
    parameter = "".join(re.findall(r"\[.*\]", line.test))
    scope = line.name.partition(" ")[0]
    if scope == "function" or (scope == "class" and len(names) == 1):
        return line.test
    whole = {"class": f"{file}::{names[0]}", "module": file, "package": directory, "session": directory}[scope]
    return f"{whole}{parameter}" if "parametrized" in line.name else whole


@pytest.fixture
def ledger(pytester: pytest.Pytester) -> Ledger:
    """`from ledger import begin, use, end, lasting, die` in an inner session; then `ledger.check()`."""
    return Ledger(pytester.path)


SCOPES = ("session", "package", "module", "class", "function")

#: How guarded (g), unguarded (u) and crashing (x) tests may follow each other.
PATTERNS = ("gug", "ugu", "ggu", "uug", "xgu", "uxg", "gxu", "uxu", "guxgu")


def conftest(*, chained: bool) -> str:
    """One fixture of each scope, each on its own, or each one asking for that of the wider scope."""
    lines = ["import pytest", "from ledger import lasting"]
    wider = ""
    for scope in SCOPES:
        lines += [
            "",
            f"@pytest.fixture(scope={scope!r})",
            f"def {scope}_thing({wider if chained else ''}):",
            f"    yield from lasting({scope!r})",
        ]
        wider = f"{scope}_thing"
    return "\n".join(lines) + "\n"


def function(kind: str, name: str, fixtures: dict[str, str], *, method: bool = False) -> str:
    """The text of one test that uses these fixtures (by name: what the ledger calls it)."""
    arguments = ", ".join([*(["self"] if method else []), *fixtures])
    lines = [] if kind == "u" else ["@pytest.mark.faultguard"]
    lines += [f"def {name}({arguments}):"]
    lines += [f"    use({told!r}, {argument})" for argument, told in fixtures.items()]
    lines += ["    die()"] if kind == "x" else []
    indent = "    " if method else ""
    return "".join(f"{indent}{line}\n" for line in [*lines, ""])


THINGS = {f"{scope}_thing": scope for scope in SCOPES}
HEAD = "import pytest\nfrom ledger import die, use\n\n"


def suite(pattern: str) -> str:
    """A module: the pattern as functions, then as a class, then as a class again."""
    text = HEAD
    for number, kind in enumerate(pattern):
        text += function(kind, f"test_{number}{kind}", THINGS)
    for name in ("TestA", "TestB"):
        text += f"class {name}:\n"
        for number, kind in enumerate(pattern):
            text += function(kind, f"test_{number}{kind}", THINGS, method=True)
    return text


def expected_outcome(nodeid: str) -> list[str]:
    """What the reports of a test of ours say, told by the letter at the end of its name."""
    return ["setup passed", f"call {'failed' if nodeid.endswith('x') else 'passed'}", "teardown passed"]


def by_nodeid(recorder: Recorder) -> dict[str, list[str]]:
    """As `Recorder.outcomes`, for tests of the same name in several files."""
    outcomes: dict[str, list[str]] = {}
    for report in recorder.reports():
        outcomes.setdefault(report.nodeid, []).append(f"{report.when} {report.outcome}")
    return outcomes


@pytest.mark.parametrize("chained", [False, True], ids=["each_alone", "each_on_the_wider"])
def test_every_scope_in_every_order_of_guarded_and_unguarded_tests(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    ledger: Ledger,
    xdist_args: tuple[str, ...],
    chained: bool,
) -> None:
    """Modules and classes that mix them; and nobody hears of an item that was not torn down."""
    for number, pattern in enumerate(PATTERNS):
        package = pytester.path / f"package{number % 3}"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
        (package / "conftest.py").write_text(conftest(chained=chained))
        (package / f"test_{pattern}.py").write_text(suite(pattern))

    result = run_pytest(*xdist_args)

    outcomes = by_nodeid(recorder)
    assert len(outcomes) == 3 * len("".join(PATTERNS))
    assert outcomes == {nodeid: expected_outcome(nodeid) for nodeid in outcomes}
    assert "previous item was not torn down properly" not in result.stdout.str()
    ledger.check()
    # Both ways were taken by every scope, or this proves nothing.
    for scope in SCOPES:
        homes = {line.home for line in ledger.lines()}
        sides = Counter("parent" if life.pid in homes else "child" for life in ledger.lives(scope))
        assert sides["parent"] >= 1
        assert sides["child"] >= 1


PARAMETRIZED_FIXTURE = """
import pytest
from ledger import lasting

@pytest.fixture(scope="module", params=["a", "b"])
def thing(request):
    yield from lasting("module parametrized")
"""
INDIRECT_FIXTURE = """
import pytest
from ledger import lasting

@pytest.fixture(scope="module")
def thing(request):
    assert request.param in ("a", "b")
    yield from lasting("module parametrized")
"""


@pytest.mark.parametrize(
    ("fixture", "mark"),
    [(PARAMETRIZED_FIXTURE, ""), (INDIRECT_FIXTURE, "@pytest.mark.parametrize('thing', ['a', 'b'], indirect=True)\n")],
    ids=["params", "indirect"],
)
def test_parametrized_module_fixture(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    ledger: Ledger,
    xdist_args: tuple[str, ...],
    fixture: str,
    mark: str,
) -> None:
    """The tests are ordered by parameter: each value has its turn, in the parent and in children."""
    pytester.makeconftest(fixture)
    for pattern in PATTERNS:
        tests = [
            mark + function(kind, f"test_{number}{kind}", {"thing": "module parametrized"})
            for number, kind in enumerate(pattern)
        ]
        (pytester.path / f"test_{pattern}.py").write_text(HEAD + "\n".join(tests))

    run_pytest(*xdist_args)

    outcomes = by_nodeid(recorder)
    assert len(outcomes) == 2 * len("".join(PATTERNS))
    assert outcomes == {nodeid: expected_outcome(nodeid.partition("[")[0]) for nodeid in outcomes}
    ledger.check()


def test_value_of_a_parameter_ends_before_a_guarded_test_begins_the_next_one(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, ledger: Ledger
) -> None:
    """As without a guard: two servers on one port, for example, must not meet."""
    pytester.makepyfile(
        """
        import pytest
        from ledger import begin, end, use

        @pytest.fixture(scope="module")
        def thing(request):
            name = f"module {request.param}"
            instance = begin(name)
            yield name, instance
            end(name, instance)

        indirectly = lambda parameter: pytest.mark.parametrize("thing", [parameter], indirect=True)

        @indirectly("a")
        def test_1(thing):
            use(*thing)

        @pytest.mark.faultguard
        @indirectly("b")
        def test_2(thing):
            use(*thing)

        @indirectly("a")
        def test_3(thing):
            use(*thing)

        @pytest.mark.faultguard
        @indirectly("a")
        def test_4(thing):
            use(*thing)
        """,
        conftest="def pytest_collection_modifyitems(items): items.sort(key=lambda item: item.name)",
    )

    run_pytest()

    assert {report.outcome for report in recorder.reports()} == {"passed"}
    ledger.lives()
    assert ledger.story() == [
        "begin module a in parent",
        "use module a in parent",
        "end module a in parent",
        "begin module b in child",
        "use module b in child",
        "end module b in child",
        "begin module a in parent",
        "use module a in parent",
        *(["begin module a in child"] if starts_clean() else []),
        "use module a in child",
        *(["end module a in child"] if starts_clean() else []),
        "end module a in parent",
    ]


@pytest.mark.parametrize("scope", ["class", "module", "session"])
def test_end_of_the_other_value_that_fails_is_an_error_of_the_test_that_needs_the_next(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, scope: str
) -> None:
    """As without a guard: its setup fails, with the output of that teardown, and the next test goes on."""
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.fixture(scope="{scope}")
        def thing(request):
            yield request.param
            print("closing", request.param)
            assert request.param != "a", "cannot close"

        class Test:
            @pytest.mark.parametrize("thing", ["a"], indirect=True)
            def test_1(self, thing):
                pass

            @pytest.mark.faultguard
            @pytest.mark.parametrize("thing", ["b"], indirect=True)
            def test_2(self, thing):
                pass

            @pytest.mark.faultguard
            @pytest.mark.parametrize("thing", ["b"], indirect=True)
            def test_3(self, thing):
                pass
        """,
        conftest="def pytest_collection_modifyitems(items): items.sort(key=lambda item: item.name)",
    )

    run_pytest("--no-faultguard")
    unguarded = recorder.outcomes()
    run_pytest()

    assert recorder.outcomes() == unguarded
    (report,) = (report for report in recorder.reports() if report.outcome == "failed")
    assert report.when == "setup"
    assert "cannot close" in report.longrepr
    assert report.section("Captured stdout setup") == "closing a\n"


def test_finalizers_added_by_request_and_by_node(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, ledger: Ledger, xdist_args: tuple[str, ...]
) -> None:
    """`request.addfinalizer`, `getfixturevalue` in mid-test, and a child's finalizers on nodes that it inherited."""
    pytester.makepyfile(
        """
        import pytest
        from ledger import begin, end, use

        def lasting(name, adder):
            instance = begin(name)
            adder.addfinalizer(lambda: end(name, instance))
            return instance

        @pytest.fixture(scope="module")
        def by_request(request):
            return lasting("module by_request", request)

        @pytest.fixture
        def of_function(request, by_request):
            return lasting("function by_request", request)

        @pytest.fixture(scope="module")
        def in_the_midst(request):
            return lasting("module in_the_midst", request)

        def check(request):
            use("module by_request", request.getfixturevalue("by_request"))
            use("function by_request", request.getfixturevalue("of_function"))
            use("module in_the_midst", request.getfixturevalue("in_the_midst"))
            for node in (request.session, request.node.getparent(pytest.Module), request.node):
                lasting(f"node {type(node).__name__}", node)

        class TestAll:
            @pytest.mark.faultguard
            def test_1(self, request, of_function):
                check(request)

            def test_2(self, request):
                check(request)

            @pytest.mark.faultguard
            def test_3(self, request):
                check(request)

            def test_4(self, request, by_request):
                check(request)

        @pytest.mark.faultguard
        def test_5(request, of_function):
            check(request)
        """
    )

    run_pytest(*xdist_args, *(["--dist=loadfile"] if xdist_args else []))

    assert {report.outcome for report in recorder.reports()} == {"passed"}
    for name in ("module by_request", "function by_request", "module in_the_midst"):
        # `lives` holds the promise of them all, also of those on nodes; who has which is the model's affair.
        assert ledger.lives(name)
    homes = {line.home for line in ledger.lines()}
    for name in ("node Session", "node Module", "node Function"):
        assert [life.pid in homes for life in ledger.lives(name)] == [False, True, False, True, False]
    # A child that starts clean has one of its own also after the parent's.
    own = [False, False] if starts_clean() else []
    assert [life.pid in homes for life in ledger.lives("module by_request")] == [False, True, *own]


UNITTEST = """
import unittest
import pytest
from ledger import begin, die, end, use

def setUpModule():
    global module
    module = begin("module")

def tearDownModule():
    end("module", module)

class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.instance = begin("class")
        cleaned = begin("class cleanup")
        cls.addClassCleanup(end, "class cleanup", cleaned)
        cls.cleaned = cleaned

    @classmethod
    def tearDownClass(cls):
        end("class", cls.instance)

    def setUp(self):
        self.own = begin("function")
        self.cleaned_up = begin("function cleanup")
        self.addCleanup(end, "function cleanup", self.cleaned_up)

    def tearDown(self):
        end("function", self.own)

    def check(self):
        use("module", module)
        use("class", self.instance)
        use("class cleanup", self.cleaned)
        use("function", self.own)
        use("function cleanup", self.cleaned_up)

"""
XUNIT = """
import pytest
from ledger import begin, die, end, use

def setup_module(module):
    module.instance = begin("module")

def teardown_module(module):
    end("module", module.instance)

def setup_function(function):
    function.instance = begin("function")

def teardown_function(function):
    end("function", function.instance)

class Case:
    @classmethod
    def setup_class(cls):
        cls.instance = begin("class")

    @classmethod
    def teardown_class(cls):
        end("class", cls.instance)

    def setup_method(self, method):
        self.own = begin("function")

    def teardown_method(self, method):
        end("function", self.own)

    def check(self):
        use("module", instance)
        use("class", self.instance)
        use("function", self.own)

"""


def cases(pattern: str) -> str:
    """Two classes with the methods of a pattern."""
    text = ""
    for name in ("TestA", "TestB"):
        text += f"class {name}(Case):\n"
        for number, kind in enumerate(pattern):
            text += "" if kind == "u" else "    @pytest.mark.faultguard\n"
            text += f"    def test_{number}{kind}(self):\n        self.check()\n"
            text += "        die()\n" if kind == "x" else ""
    return text


@pytest.mark.parametrize("head", [UNITTEST, XUNIT], ids=["unittest", "xunit"])
def test_setup_and_teardown_by_name(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    ledger: Ledger,
    xdist_args: tuple[str, ...],
    head: str,
) -> None:
    """`setUpModule`, `setUpClass`, `addClassCleanup`, `setup_module`, `setup_class`, `setup_method` and their ends."""
    for pattern in PATTERNS:
        text = head + cases(pattern)
        if head is XUNIT:
            for number, kind in enumerate(pattern):
                text += "@pytest.mark.faultguard\n" if kind != "u" else ""
                text += f"def test_{number}{kind}():\n    use('module', instance)\n"
                text += "    die()\n" if kind == "x" else ""
        (pytester.path / f"test_{pattern}.py").write_text(text)

    run_pytest(*xdist_args)

    outcomes = by_nodeid(recorder)
    assert len(outcomes) == (2 if head is UNITTEST else 3) * len("".join(PATTERNS))
    assert outcomes == {nodeid: expected_outcome(nodeid) for nodeid in outcomes}
    ledger.check()


@pytest.mark.parametrize("scope", ["function", "class", "session"])
@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_what_a_value_stands_for_is_there_until_its_own_process_lets_it_go(
    pytester: pytest.Pytester, run_pytest: RunPytest, ledger: Ledger, scope: str, start: str
) -> None:
    """A directory, say, that is removed at the end of a `with` or with the last reference; whoever forgets it in a child."""
    pytester.makepyfile(
        """
        import os
        import tempfile
        import pytest
        from ledger import begin, end

        class Thing:
            def __init__(self):
                self.instance = begin("class")
            def __del__(self):
                end("class", self.instance)

        @pytest.fixture(scope="module")
        def with_directory():
            with tempfile.TemporaryDirectory() as path:
                yield path

        @pytest.fixture(scope="module")
        def directory():
            return tempfile.TemporaryDirectory()

        @pytest.fixture(scope="class")
        def thing():
            return Thing()

        @pytest.fixture
        def paths(with_directory, directory, thing):
            yield with_directory, directory.name
            assert os.path.isdir(with_directory)
            assert os.path.isdir(directory.name)

        class TestA:
            def test_1(self, paths): pass
            @pytest.mark.faultguard
            def test_2(self, paths): pass
            def test_3(self, paths): pass
            @pytest.mark.faultguard
            def test_4(self, paths): pass

        class TestB:
            @pytest.mark.faultguard
            def test_5(self, paths): pass
            def test_6(self, paths): pass
        """
    )

    run_pytest(f"--faultguard-scope={scope}", f"--faultguard-start={start}").assert_outcomes(passed=6)

    assert ledger.lives("class")


@pytest.mark.forked_only("a fresh process inherits nothing that a test has started")
def test_what_an_unguarded_test_has_started_serves_guarded_tests_until_its_scope_ends(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, xdist_args: tuple[str, ...]
) -> None:
    """A directory and a server thread of the session, a database of the module: usable in every child, ended once."""
    pytester.makeconftest(
        """
        import os
        import shutil
        import socketserver
        import sqlite3
        import tempfile
        import threading
        import urllib.request
        import pytest

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True

        class Echo(socketserver.StreamRequestHandler):
            def handle(self):
                self.wfile.write(b"%d " % os.getpid() + self.rfile.readline())

        @pytest.fixture(scope="session")
        def server():
            with Server(("127.0.0.1", 0), Echo) as server:
                thread = threading.Thread(target=server.serve_forever, daemon=True)
                thread.start()
                yield server.server_address
                assert thread.is_alive()
                server.shutdown()
                thread.join()

        @pytest.fixture(scope="session")
        def directory():
            path = tempfile.mkdtemp()
            yield path
            assert sorted(os.listdir(path)) == ["test_1", "test_2", "test_3", "test_5"]
            shutil.rmtree(path)

        @pytest.fixture(scope="module")
        def database(directory):
            file = os.path.join(tempfile.gettempdir(), f"db{os.getpid()}")
            connection = sqlite3.connect(file)
            connection.execute("create table seen (name text)")
            connection.commit()
            yield connection
            connection.close()
            os.unlink(file)
        """
    )
    pytester.makepyfile(
        """
        import os
        import socket
        import pytest

        def check(request, server, directory, home):
            with socket.create_connection(server, timeout=10) as connection:
                connection.sendall(request.node.name.encode() + b"\\n")
                assert connection.makefile().read() == f"{home} {request.node.name}\\n"
            open(os.path.join(directory, request.node.name), "w").close()

        def test_1(request, server, directory, database):
            check(request, server, directory, os.getpid())

        @pytest.mark.faultguard
        def test_2(request, server, directory, database):
            check(request, server, directory, os.getppid())

        @pytest.mark.faultguard
        def test_3(request, server, directory):
            check(request, server, directory, os.getppid())
            os._exit(1)

        @pytest.mark.faultguard
        def test_4(directory):
            assert sorted(os.listdir(directory)) == ["test_1", "test_2", "test_3"]

        def test_5(request, server, directory, database):
            check(request, server, directory, os.getpid())
            assert database.execute("select count(*) from seen").fetchone() == (0,)
        """
    )

    run_pytest(*xdist_args, *(["--dist=loadfile"] if xdist_args else []))

    outcomes = {name: told[1:] for name, told in recorder.outcomes().items()}
    assert outcomes.pop("test_3") == ["call failed", "teardown passed"]
    assert outcomes == {f"test_{number}": ["call passed", "teardown passed"] for number in (1, 2, 4, 5)}


#: What the last test of a class does, in its call and its teardown, before the class's teardown fails in the parent.
GUARDED_LAST = {
    "passes": ("pass", "pass", ["setup passed", "call passed", "teardown failed"]),
    "fails": ("assert 0", "pass", ["setup passed", "call failed", "teardown failed"]),
    "crashes": ("os._exit(3)", "pass", ["setup passed", "call failed", "teardown failed"]),
    "is_skipped": ("pytest.skip('so')", "pass", ["setup passed", "call skipped", "teardown failed"]),
    "crashes_in_teardown": (
        "pass",
        "os._exit(3)",
        ["setup passed", "call passed", "teardown failed", "teardown failed"],
    ),
    "fails_in_teardown": ("pass", "assert 0", ["setup passed", "call passed", "teardown failed", "teardown failed"]),
}


@pytest.mark.forked_only("a fresh process sets the same fixture up, and fails in its teardown as well")
def test_teardown_of_the_parent_that_fails_after_a_guarded_test_is_one_error(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, xdist_args: tuple[str, ...]
) -> None:
    """It is told with its traceback and its output; a teardown of the child's that failed as well is told besides."""
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(scope="class")
        def wide():
            yield
            print("the parent's parting words")
            raise ValueError("wide teardown")
        """
    )
    for name, (body, ending, _) in GUARDED_LAST.items():
        (pytester.path / f"test_{name}.py").write_text(
            f"""
import os
import pytest

@pytest.fixture
def narrow():
    yield
    {ending}

class TestIt:
    def test_1(self, wide):
        pass

    @pytest.mark.faultguard
    def test_2(self, wide, narrow):
        {body}

def test_3():
    pass
"""
        )

    result = run_pytest(*xdist_args, *(["--dist=loadfile"] if xdist_args else []))

    outcomes = by_nodeid(recorder)
    for name, (_, _, expected) in GUARDED_LAST.items():
        passed = ["setup passed", "call passed", "teardown passed"]
        assert outcomes[f"test_{name}.py::TestIt::test_1"] == outcomes[f"test_{name}.py::test_3"] == passed
        assert outcomes[f"test_{name}.py::TestIt::test_2"] == expected
        *_, error = recorder.reports(f"test_{name}.py::TestIt::test_2", when="teardown")
        assert error.message == "ValueError: wide teardown"
        assert 'raise ValueError("wide teardown")' in error.longrepr
        assert error.section("Captured stdout teardown") == "the parent's parting words\n"
    told = [phase for *_, expected in GUARDED_LAST.values() for phase in expected]
    result.assert_outcomes(
        passed=2 * len(GUARDED_LAST) + told.count("call passed"),
        failed=told.count("call failed"),
        skipped=told.count("call skipped"),
        errors=told.count("teardown failed"),
    )


def test_fixture_that_fails_in_its_process_fails_nobody_elsewhere(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, ledger: Ledger
) -> None:
    """Of a failure in a child the parent knows nothing; one of the parent is that of all tests of the scope."""
    pytester.makepyfile(
        """
        import pytest
        from ledger import begin, end
        from pytest_faultguard import is_guarded

        @pytest.fixture(scope="module")
        def bad_in_child(request):
            instance = begin("module")
            request.addfinalizer(lambda: end("module", instance))
            assert not is_guarded()

        @pytest.fixture(scope="module")
        def bad_in_parent():
            assert is_guarded()

        @pytest.mark.faultguard
        def test_1(bad_in_child):
            pass

        def test_2(bad_in_child):
            pass

        @pytest.mark.faultguard
        def test_3(bad_in_child):
            pass

        @pytest.mark.faultguard
        def test_4(bad_in_parent):
            pass

        def test_5(bad_in_parent):
            pass

        @pytest.mark.faultguard
        def test_6(bad_in_parent):
            pass
        """
    )

    run_pytest()

    assert {name: told[0] for name, told in recorder.outcomes().items()} == {
        "test_1": "setup failed",
        "test_2": "setup passed",
        # What the parent has set up, or could not, is that of its forks.
        "test_3": "setup failed" if starts_clean() else "setup passed",
        "test_4": "setup passed",
        "test_5": "setup failed",
        "test_6": "setup passed" if starts_clean() else "setup failed",
    }
    assert [life.ended_in == [life.pid] for life in ledger.lives()] == [True] * (3 if starts_clean() else 2)


@pytest.mark.parametrize("args", [("-x",), ("--maxfail=1",), ("--faultguard", "-x")], ids=" ".join)
def test_session_that_stops_at_a_guarded_failure_ends_what_the_parent_has_set_up(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, ledger: Ledger, args: tuple[str, ...]
) -> None:
    """Right after the failure, as pytest does, and once."""
    pytester.makeconftest(conftest(chained=True))
    (pytester.path / "test_it.py").write_text(
        HEAD
        + function("u", "test_1u", THINGS)
        + function("x", "test_2x", THINGS)
        + function("g", "test_3g", THINGS)
        + function("u", "test_4u", THINGS)
    )

    run_pytest(*args)

    assert recorder.outcomes() == {name: expected_outcome(name) for name in ("test_1u", "test_2x")}
    ledger.check()


BASES = """
import json
import pathlib
import pytest

def check(tmp_path, tmp_path_factory, tmpdir):
    made = tmp_path_factory.mktemp("made")
    (tmp_path / "file").touch()
    (made / "file").touch()
    base = tmp_path_factory.getbasetemp()
    assert tmp_path.parent == made.parent == base
    assert str(tmpdir) == str(tmp_path)
    with open("bases", "a") as file:
        print(base, tmp_path.name, made.name, file=file)

@pytest.mark.faultguard
def test_guarded_1(tmp_path, tmp_path_factory, tmpdir):
    check(tmp_path, tmp_path_factory, tmpdir)

@pytest.mark.faultguard
@pytest.mark.parametrize("number", [1, 2])
def test_guarded_2(tmp_path, tmp_path_factory, tmpdir, number):
    check(tmp_path, tmp_path_factory, tmpdir)

def test_unguarded(tmp_path, tmp_path_factory, tmpdir):
    check(tmp_path, tmp_path_factory, tmpdir)

@pytest.mark.faultguard
def test_crash(tmp_path, tmp_path_factory, tmpdir):
    import os
    check(tmp_path, tmp_path_factory, tmpdir)
    os._exit(1)

@pytest.mark.faultguard
def test_guarded_3(tmp_path, tmp_path_factory, tmpdir):
    check(tmp_path, tmp_path_factory, tmpdir)

def test_all_is_there(tmp_path_factory):
    here = [line.split() for line in open("bases") if line.split()[0] == str(tmp_path_factory.getbasetemp())]
    assert here
    for base, *names in here:
        for name in names:
            assert (pathlib.Path(base) / name / "file").exists()
"""


@pytest.mark.parametrize("given", [False, True], ids=["default_base", "basetemp_given"])
def test_temporary_directories_share_one_base(
    pytester: pytest.Pytester,
    start_pytest: StartPytest,
    recorder: Recorder,
    audit_tmp: Path,
    monkeypatch: pytest.MonkeyPatch,
    xdist_args: tuple[str, ...],
    given: bool,
) -> None:
    """The first to ask for one is guarded; no child makes a base of its own, or empties the one that was given."""
    monkeypatch.delenv("PYTEST_DEBUG_TEMPROOT")
    pytester.makepyfile(BASES)
    options = [f"--basetemp={pytester.path / 'base'}"] if given else []
    distribution = ["--dist=loadfile"] if xdist_args else []

    start_pytest(*xdist_args, *distribution, *options).end()

    outcomes = {name: told[1] for name, told in recorder.outcomes().items()}
    assert outcomes.pop("test_crash") == "call failed"
    assert set(outcomes.values()) == {"call passed"}
    lines = [line.split() for line in (pytester.path / "bases").read_text().splitlines()]
    (base,) = {base for base, *_ in lines}
    names = Counter(name for _, *names in lines for name in names)
    assert len(names) == 2 * len(lines) == 12
    if given:
        own = {pytester.path / "base" / f"popen-gw{number}" for number in (0, 1)}
        assert Path(base) in own | {pytester.path / "base"}
    else:
        (user,) = audit_tmp.glob("pytest-of-*")
        assert [path.name for path in user.iterdir() if not path.is_symlink()] == ["pytest-0"]


def test_temporary_directory_is_kept_or_removed_by_the_tests_own_outcome(
    pytester: pytest.Pytester, start_pytest: StartPytest, recorder: Recorder
) -> None:
    """`tmp_path_retention_policy = failed` is obeyed in the child; what a crash leaves is kept for a look at it."""
    pytester.makeini("[pytest]\ntmp_path_retention_policy = failed\n")
    pytester.makepyfile(
        """
        import os
        import pytest

        pytestmark = pytest.mark.faultguard

        def test_passes(tmp_path):
            pass

        def test_fails(tmp_path):
            assert 0

        def test_crashes(tmp_path):
            os._exit(1)
        """
    )

    start_pytest(f"--basetemp={pytester.path / 'base'}").end()

    kept = sorted(path.name for path in (pytester.path / "base").iterdir() if not path.is_symlink())
    assert kept == ["test_crashes0", "test_fails0"]


@pytest.mark.forked_only("a fresh process sets the fixture up, and so patches, for itself")
def test_monkeypatch(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, ledger: Ledger, xdist_args: tuple[str, ...]
) -> None:
    """What is patched for a scope is seen in its children and undone once; what a child patches stays in it."""
    pytester.makepyfile(
        """
        import os
        import sys
        import pytest
        from ledger import write

        class Patch(pytest.MonkeyPatch):
            def undo(self):
                write("undo", "module")
                super().undo()

        @pytest.fixture(scope="module")
        def wide():
            patch = Patch()
            patch.setenv("WIDE", "1")
            patch.syspath_prepend("wide")
            yield
            patch.undo()

        class TestIt:
            def test_1(self, wide):
                assert os.environ["WIDE"] == "1"

            @pytest.mark.faultguard
            def test_2(self, wide, monkeypatch, tmp_path):
                assert os.environ["WIDE"] == "1"
                assert "wide" in sys.path
                monkeypatch.setenv("NARROW", "1")
                monkeypatch.delenv("WIDE")
                monkeypatch.chdir(tmp_path)
                monkeypatch.setattr(os, "getcwd", lambda: "nowhere")

            @pytest.mark.faultguard
            def test_3(self, monkeypatch):
                monkeypatch.setenv("WIDE", "3")
                os._exit(1)

            def test_4(self):
                assert os.environ["WIDE"] == "1"
                assert "NARROW" not in os.environ
                assert os.getcwd() == os.path.dirname(__file__)

            @pytest.mark.faultguard
            def test_5(self):
                assert os.environ["WIDE"] == "1"
        """,
        test_z="import os, pytest\n@pytest.mark.faultguard\ndef test_6():\n    assert 'WIDE' not in os.environ\n",
    )

    run_pytest(*xdist_args, *(["--dist=loadfile"] if xdist_args else []))

    outcomes = {name: told[1] for name, told in recorder.outcomes().items()}
    assert outcomes.pop("TestIt::test_3") == "call failed"
    assert set(outcomes.values()) == {"call passed"}
    assert ledger.story() == ["undo module in parent"]


def test_process_of_the_ledger_is_the_real_one(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, ledger: Ledger
) -> None:
    """The ledger tells parent and children apart by the processes that the reports were logged in."""
    (pytester.path / "conftest.py").write_text(conftest(chained=False))
    (pytester.path / "test_it.py").write_text(
        HEAD + function("g", "test_1g", THINGS) + function("u", "test_2u", THINGS)
    )

    run_pytest()

    (home,) = {line.home for line in ledger.lines()}
    assert {report.pid for report in recorder.reports()} == {home}
    assert {line.pid == home for line in ledger.lines()} == {True, False}
    assert os.getpid() != home
