"""A module whose import crashes or hangs is one collection error that tells its story; all others are as they were."""

from __future__ import annotations

import re
import signal
import time

import pytest

from testing.harness import QUICK
from testing.harness import RunPytest
from testing.harness import parse_junit
from testing.live import StartPytest

COLLECT = "--faultguard-collect"
GO_ON = "--continue-on-collection-errors"
FINE = "def test_it(): pass\n"

DEATHS = {
    "segfault": ("lib.null_write()", "SIGSEGV (segmentation fault)"),
    "abort": ("lib.abort_()", "SIGABRT (aborted)"),
    "kill": ("os.kill(os.getpid(), 9)", "SIGKILL by another process or its own"),
    "exit_0": ("os._exit(0)", "exit code 0"),
    "exit_3": ("os._exit(3)", "exit code 3"),
}


def errors(result: pytest.RunResult) -> list[str]:
    """The lines of the short summary, without the time that it took."""
    lines = [line for line in result.outlines if line.startswith("ERROR ")]
    return [re.sub(r" after [0-9.]+ s.*", "", line) for line in lines]


def neutral(result: pytest.RunResult) -> list[str]:
    """What the session printed, without the seconds that it took."""
    return [re.sub(r"in \d+\.\d+s", "", line) for line in result.outlines]


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(("death", "told"), DEATHS.values(), ids=DEATHS)
def test_death_at_import_is_one_error(pytester: pytest.Pytester, run_pytest: RunPytest, death: str, told: str) -> None:
    """The session ends as pytest ends one with an error at import, and says what it was."""
    pytester.makepyfile(test_a=FINE, test_bad=f"import os\nfrom programs import lib\n{death}\n", test_z=FINE)

    result = run_pytest(COLLECT)

    assert errors(result) == [f"ERROR test_bad.py - {told} in collect"]
    result.stdout.fnmatch_lines(["*Interrupted: 1 error during collection*"])
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(errors=1)


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    "guarded",
    [(), ("--faultguard", "--faultguard-start=spawn"), ("--faultguard", "--faultguard-start=forkserver")],
    ids=["", "spawn", "forkserver"],
)
def test_other_modules_run_where_pytest_goes_on(
    pytester: pytest.Pytester, run_pytest: RunPytest, guarded: tuple[str, ...], xdist_args: tuple[str, ...]
) -> None:
    """Each of several that crash is an error, and no test of the others is missing; nor does a clean child import them."""
    bad = "from programs import lib\nlib.null_write()\n"
    pytester.makepyfile(test_a=FINE, test_b=bad, test_c=FINE, test_d=bad, test_e=bad, test_f=FINE)

    result = run_pytest(COLLECT, GO_ON, *guarded, *xdist_args)

    told = "SIGSEGV (segmentation fault) in collect"
    assert sorted(errors(result)) == [f"ERROR test_{name}.py - {told}" for name in "bde"]
    result.assert_outcomes(passed=3, errors=3)


@pytest.mark.usefixtures("programs")
def test_no_worker_dies(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """Under pytest-xdist it is what an error at import is, which all workers meet: it is told once, and the others run."""
    pytester.makepyfile(test_a=FINE, test_bad="import no_such_module\n", test_z=FINE)
    plain = run_pytest("-n2")
    pytester.makepyfile(test_bad="from programs import lib\nlib.null_write()\n")

    result = run_pytest(COLLECT, "-n2")

    assert result.parseoutcomes() == plain.parseoutcomes()
    assert result.ret == plain.ret
    assert errors(result) == ["ERROR test_bad.py - SIGSEGV (segmentation fault) in collect"]
    result.stdout.fnmatch_lines(["*faulthandler dump*", "*test_bad.py*line 2 in <module>"])
    assert "crashed" not in result.stdout.str()
    assert "replacing" not in result.stdout.str()


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("capture", ["fd", "sys", "tee-sys", "no"])
def test_error_shows_where_and_what_was_written(pytester: pytest.Pytester, run_pytest: RunPytest, capture: str) -> None:
    """The line of the module, the dump and the output of the import; not that of the modules before."""
    pytester.makepyfile(
        test_a="print('of another')\n" + FINE,
        test_bad="""
        import os
        import sys
        from programs import lib

        def meet():
            lib.null_write()

        print("from Python")
        print("to stderr", file=sys.stderr)
        os.write(1, b"from below\\n")
        meet()
        """,
    )

    result = run_pytest(COLLECT, GO_ON, f"--capture={capture}")

    section = result.stdout.str().partition("ERROR collecting test_bad.py")[2]
    for words in (
        "test_bad.py:11: in <module>",
        "test_bad.py:6: in meet",
        "faulthandler dump",
        "Captured stdout",
        "from Python",
        "from below",
        "Captured stderr",
        "to stderr",
    ):
        assert words in section, words
    assert "of another" not in section
    result.assert_outcomes(passed=1, errors=1)


@pytest.mark.parametrize("style", ["auto", "native"])
@pytest.mark.parametrize(
    ("death", "gap"),
    [
        ("os._exit(3)", "stack: the process exited by itself, so no line is marked"),
        ("os.kill(os.getpid(), 9)", "stack: SIGKILL ends a process without a dump"),
    ],
    ids=["exit", "kill"],
)
def test_no_line_is_shown_where_none_is_known(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    xdist_args: tuple[str, ...],
    death: str,
    gap: str,
    style: str,
) -> None:
    """The file, the ending and the reason: no statement of the module is known to have been the last."""
    pytester.makepyfile(test_bad=f"X = 1\n\ndef boot():\n    import os\n    {death}\n\nboot()\n")

    result = run_pytest(COLLECT, f"--tb={style}", *xdist_args)

    result.stdout.re_match_lines(
        [
            r"_+ ERROR collecting test_bad\.py _+$",
            r"E   (exit code 3|SIGKILL by another process or its own) in collect after ",
            r"-+ gaps in the evidence -+$",
            rf"{gap}$",
            r"=+ short test summary info =+$",
        ],
        consecutive=True,
    )


def test_import_that_hangs_is_stopped(
    pytester: pytest.Pytester, run_pytest: RunPytest, xdist_args: tuple[str, ...]
) -> None:
    """The timeout counts for each module; its error says where it was."""
    pytester.makepyfile(
        test_a=FINE,
        test_bad="""
        import time

        def hold():
            time.sleep(600)

        hold()
        """,
        test_z=FINE,
    )

    started_at = time.monotonic()
    result = run_pytest(COLLECT, GO_ON, "--faultguard-timeout=1", *xdist_args)

    (line,) = [line for line in result.outlines if line.startswith("ERROR ")]
    assert line == "ERROR test_bad.py - timeout of 1 s passed in collect, ended by SIGTERM"
    result.stdout.fnmatch_lines(["test_bad.py:4: in hold"])
    result.assert_outcomes(passed=2, errors=1)
    assert time.monotonic() - started_at < 20


PLACES = {
    "parametrize": "@pytest.mark.parametrize('value', [lib.null_write()])\ndef test_it(value): pass\n",
    "ids": "@pytest.mark.parametrize('value', [object()], ids=lambda _: lib.null_write())\ndef test_it(value): pass\n",
    "generate": "def pytest_generate_tests(metafunc): lib.null_write()\ndef test_it(): pass\n",
    "imported": "import inner\n",
    "method": """
class Test:
    @pytest.mark.parametrize('value', [object()], ids=lambda _: lib.null_write())
    def test_it(self, value): pass
""",
}


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("text", PLACES.values(), ids=PLACES)
def test_crash_while_a_module_is_collected_is_its_error(
    pytester: pytest.Pytester, run_pytest: RunPytest, text: str
) -> None:
    """Not the import alone is guarded, but all that pytest does with a module to know its tests."""
    pytester.makepyfile(
        inner="from programs import lib\nlib.null_write()\n",
        test_a=FINE,
        test_bad=f"import pytest\nfrom programs import lib\n{text}",
        test_z=FINE,
    )

    result = run_pytest(COLLECT, GO_ON)

    node = "test_bad.py::Test" if "class" in text else "test_bad.py"
    assert errors(result) == [f"ERROR {node} - SIGSEGV (segmentation fault) in collect"]
    result.assert_outcomes(passed=2, errors=1)


@pytest.mark.usefixtures("programs")
def test_crash_of_a_conftest_is_the_error_of_its_directory(
    pytester: pytest.Pytester, run_pytest: RunPytest, xdist_args: tuple[str, ...]
) -> None:
    """What is in the directory cannot be collected; everything else is."""
    for name in ("a", "bad", "z"):
        pytester.mkdir(name)
        (pytester.path / name / f"test_{name}.py").write_text(FINE)
    (pytester.path / "bad" / "conftest.py").write_text("from programs import lib\nprint('so far')\nlib.null_write()\n")

    result = run_pytest(COLLECT, GO_ON, *xdist_args)

    assert errors(result) == ["ERROR bad - SIGSEGV (segmentation fault) in collect"]
    result.stdout.fnmatch_lines(["bad*conftest.py:3: in <module>"])
    # Of a directory pytest captures nothing: it goes to where the process writes, which in a worker is nowhere.
    assert ("so far" in result.stdout.str().partition("Captured stdout")[2]) == (not xdist_args)
    result.assert_outcomes(passed=2, errors=1)


@pytest.mark.usefixtures("programs")
def test_file_that_is_collected_twice_crashes_for_each(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """A module and its doctests have one node id."""
    pytester.makepyfile(test_a=FINE, test_bad="from programs import lib\nlib.null_write()\n", test_z=FINE)

    result = run_pytest(COLLECT, GO_ON, "--doctest-modules")

    assert errors(result) == ["ERROR test_bad.py - SIGSEGV (segmentation fault) in collect"] * 2
    result.assert_outcomes(passed=2, errors=2)


@pytest.mark.usefixtures("programs")
def test_modules_that_are_named_are_guarded(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """Node ids and files as arguments, some of them twice."""
    pytester.makepyfile(
        test_a=FINE, test_bad="from programs import lib\nlib.null_write()\ndef test_it(): pass\n", test_z=FINE
    )

    result = run_pytest(COLLECT, GO_ON, "test_a.py::test_it", "test_bad.py::test_it", "test_z.py", "test_z.py")

    told = result.stdout.str()
    assert "SIGSEGV (segmentation fault) in collect" in told
    assert "INTERNALERROR" not in told


def test_hook_that_crashes_is_an_error_of_the_session(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """What belongs to no module ends as an error, too."""
    pytester.makeconftest("import os\ndef pytest_collect_directory(): os.abort()\n")
    pytester.makepyfile(FINE)

    result = run_pytest(COLLECT)

    assert errors(result) == ["ERROR . - SIGABRT (aborted) in collect"]
    result.assert_outcomes(errors=1)


@pytest.mark.usefixtures("programs")
def test_crash_is_no_internal_error_with_pytests_own_options(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """With -x, --lf, --tb=native and --junitxml it is what an exception at import is."""

    def told(text: str) -> tuple[list[object], list[str]]:
        pytester.makepyfile(test_a=FINE, test_bad=text, test_z=FINE)
        first = run_pytest(COLLECT, GO_ON, "-x", "--junitxml=junit.xml", "--tb=native", plugins=())
        again = run_pytest(COLLECT, GO_ON, "--lf", plugins=())
        assert errors(first) == errors(again)
        outcomes = [first.ret, first.parseoutcomes(), again.ret, again.parseoutcomes()]
        return outcomes, [name for case in parse_junit(pytester.path / "junit.xml") for name in case.outcomes]

    raises = told("raise ValueError\n")
    assert told("from programs import lib\nlib.null_write()\n") == raises
    assert "SIGSEGV" in (pytester.path / "junit.xml").read_text()


# A healthy suite sees nothing of it.


MIXED = {
    "test_a": "import warnings\nprint('said at import')\nwarnings.warn('told')\n" + FINE,
    "test_broken": "import no_such_module\n",
    "test_c": "class TestIt:\n    def test_1(self): pass\n    def test_2(self): pass\n",
    "test_raises": "print('before')\nraise ValueError(3)\n",
    "test_skipped": "import pytest\npytest.skip('not here', allow_module_level=True)\n",
    "test_wrong": "def (\n",
}


@pytest.mark.parametrize(
    "args",
    [
        (),
        (GO_ON, "-rA"),
        (GO_ON, "-s"),
        (GO_ON, "-p", "no:terminal"),
        (GO_ON, "--import-mode=importlib", "-k", "1"),
        ("-x", "--capture=sys"),
        ("--collect-only", "-q"),
        ("--fixtures",),
        ("--log-cli-level=INFO",),
        ("test_c.py::TestIt::test_2", "test_c.py", "test_a.py", "--keep-duplicates"),
    ],
    ids=" ".join,
)
def test_session_is_as_without_it(pytester: pytest.Pytester, run_pytest: RunPytest, args: tuple[str, ...]) -> None:
    """What is printed is the same to the letter: of modules that are fine, and of errors that pytest reports itself."""
    pytester.makepyfile(**MIXED)

    plain, guarded = run_pytest(*args), run_pytest(*args, COLLECT)

    assert neutral(guarded) == neutral(plain)
    assert guarded.errlines == plain.errlines
    assert guarded.ret == plain.ret


def test_plain_leaving_at_import_is_pytests_own_affair(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """`sys.exit` and `pytest.exit` at import end the session as they do without a scout."""
    for text in ("import sys\nsys.exit(3)\n", "import pytest\npytest.exit('enough', 4)\n"):
        pytester.makepyfile(test_a=FINE, test_b=text)

        plain, guarded = run_pytest(), run_pytest(COLLECT)

        assert guarded.ret == plain.ret
        assert [line for line in guarded.outlines if "enough" in line] == [
            line for line in plain.outlines if "enough" in line
        ]


def test_module_is_imported_by_a_scout_and_by_pytest(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """What an import does to the world it does twice: `is_guarded()` tells a module which one it is."""
    pytester.makepyfile(
        """
        from pytest_faultguard import is_guarded

        with open("imports", "a") as file:
            file.write(f"{is_guarded()} ")

        def test_it(): assert not is_guarded()
        """
    )

    run_pytest(COLLECT).assert_outcomes(passed=1)

    assert (pytester.path / "imports").read_text() == "True False "


@pytest.mark.parametrize(
    ("plugins", "args"),
    [((), ("--no-faultguard", COLLECT)), (("no:faultguard",), ("-c", "own.ini"))],
    ids=["off", "absent"],
)
def test_nothing_is_scouted_where_the_plugin_is_off(
    pytester: pytest.Pytester, run_pytest: RunPytest, plugins: tuple[str, ...], args: tuple[str, ...]
) -> None:
    """Then a module is imported once."""
    (pytester.path / "own.ini").write_text("[pytest]\n")
    pytester.makepyfile("with open('imports', 'a') as file: file.write('once ')\ndef test_it(): pass\n")

    run_pytest(*args, plugins=(*QUICK, *plugins)).assert_outcomes(passed=1)

    assert (pytester.path / "imports").read_text() == "once "


def test_no_scout_can_be_had(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """Then it is said, and the session is as it is without one."""
    pytester.makeconftest(
        """
        import resource

        def pytest_sessionstart():
            resource.setrlimit(resource.RLIMIT_NOFILE, (16, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

        def pytest_collection_finish():
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 256), hard))
        """
    )
    pytester.makepyfile(FINE)

    result = run_pytest(COLLECT)

    result.stdout.fnmatch_lines(["*faultguard: test modules are imported unguarded: *"])
    result.assert_outcomes(passed=1, warnings=1)


# Nothing is left behind.


@pytest.mark.usefixtures("programs")
def test_pytest_main_leaves_nothing(pytester: pytest.Pytester, start_pytest: StartPytest) -> None:
    """Called twice in one process: no descriptor and no child is left, and the second call finds the same."""
    pytester.makepyfile(test_a=FINE, test_bad="from programs import lib\nlib.null_write()\n", test_z=FINE)
    (pytester.path / "run.py").write_text(
        """
import os
import sys
import pytest

class Counting:
    errors = 0
    def pytest_collectreport(self, report):
        self.errors += report.failed

counts = []
for _ in range(2):
    before, counting = len(os.listdir("/proc/self/fd")), Counting()
    args = [*sys.argv[1:], "--faultguard-collect", "--continue-on-collection-errors"]
    pytest.main(args, plugins=[counting])
    counts.append(counting.errors)
    assert len(os.listdir("/proc/self/fd")) == before
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    assert counts == [1, 1], counts
else:
    raise AssertionError("a child was left")
"""
    )

    session = start_pytest(command=("run.py",))

    assert session.end() == 0, session.output


#: Before, pytest took an interrupt at import for an error of the module, and went on.
INTERRUPTIBLE = pytest.version_tuple >= (8, 3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda one: one.name)
@pytest.mark.parametrize("where", ["scout", "pytest"])
def test_no_scout_outlives_pytest(
    pytester: pytest.Pytester, start_pytest: StartPytest, where: str, number: signal.Signals
) -> None:
    """Whatever ends pytest while the scout imports, and while pytest itself does and the scout is ahead."""
    if where == "pytest" and number == signal.SIGINT and not INTERRUPTIBLE:
        pytest.skip("pytest 8.0 to 8.2 go on")
    pytester.makepyfile(
        test_a=f"""
        from pytest_faultguard import is_guarded
        from say import say, wait

        if is_guarded() == ({where!r} == "scout"):
            say("imports")
            wait()

        def test_it(): pass
        """,
        test_b="""
        import time
        from pytest_faultguard import is_guarded

        if is_guarded():
            time.sleep(600)
        """,
    )
    session = start_pytest(COLLECT)

    session.wait_for("imports")
    session.send(number)

    if number == signal.SIGINT:
        assert session.end() == pytest.ExitCode.INTERRUPTED
        assert "KeyboardInterrupt" in session.output
    else:
        assert session.end() == -number
