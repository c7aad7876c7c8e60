"""Start methods: a child may be a copy of pytest's process, a fresh interpreter, or a copy of one."""

from __future__ import annotations

import os
import textwrap

import pytest

from testing.harness import Recorder
from testing.harness import RunPytest
from testing.programs import missing

STARTS = ["fork", "forkserver", "spawn"]
CLEAN = STARTS[1:]
#: All of them in `tox -e product`; what `class` and `package` do of their own is in test_scopes.py.
SCOPES = ["function", "module", "session"]
if os.environ.get("FAULTGUARD_TEST_CASES") == "all":
    SCOPES += ["class", "package"]


@pytest.fixture(params=STARTS)
def start(request: pytest.FixtureRequest) -> str:
    """Each of them."""
    return str(request.param)


@pytest.fixture(params=CLEAN)
def clean(request: pytest.FixtureRequest) -> str:
    """Those that inherit nothing of pytest's process."""
    return str(request.param)


@pytest.fixture(params=SCOPES)
def scope(request: pytest.FixtureRequest) -> str:
    """One child for a test, and one for several."""
    return str(request.param)


def options(start: str, scope: str = "session") -> tuple[str, ...]:
    """For an inner session."""
    return "--faultguard", f"--faultguard-start={start}", f"--faultguard-scope={scope}"


# What is the same with all of them.

SUITE = """
import logging
import os
import sys
import warnings

import pytest

from programs import lib


def note(word):
    with open("noted", "a") as file:
        print(word, os.getpid(), file=file)


@pytest.fixture(scope="module")
def wide():
    note("up")
    yield os.getpid()
    note("down")


def test_passes(wide):
    assert wide == os.getpid()
    assert os.environ["PYTEST_FAULTGUARD"] == "1"


def test_crashes(wide, faultguard_data):
    faultguard_data["step"] = 3
    print("to stdout")
    print("to stderr", file=sys.stderr)
    logging.getLogger("native").warning("to the log")
    lib.null_write()


def test_fails(wide):
    value = 41
    assert value == 42


@pytest.mark.skip(reason="not today")
def test_skipped():
    pass


@pytest.mark.xfail(reason="known")
def test_xfails():
    os.abort()


@pytest.mark.parametrize("number", range(2))
def test_parameters(number, record_property):
    record_property("number", number)
    warnings.warn(f"number {number}")


@pytest.mark.faultguard(timeout=0.5)
def test_hangs():
    lib.loop_gil()


class TestClass:
    def test_method(self, tmp_path):
        (tmp_path / "file").write_text("there")


def test_raises_in_teardown(request):
    request.addfinalizer(lambda: 1 / 0)
"""


def outcomes(recorder: Recorder) -> list[tuple[str, str | None, str]]:
    """Of all phases, sorted: pytest-xdist has no order."""
    return sorted((report.nodeid, report.when or "", report.outcome) for report in recorder.reports())


@pytest.mark.usefixtures("programs")
def test_a_suite_ends_the_same(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    start: str,
    scope: str,
    xdist_args: tuple[str, ...],
) -> None:
    """Reports, evidence, output, warnings and temporary directories, whatever the child is and runs."""
    pytester.makepyfile(SUITE)

    result = run_pytest(*xdist_args, *options(start, scope))

    result.assert_outcomes(passed=5, failed=3, skipped=1, xfailed=1, errors=1, warnings=2)
    result.stdout.fnmatch_lines_random(
        [
            ">*lib.null_write()",
            "E * SIGSEGV (segmentation fault) in call after *",
            "*faulthandler dump*",
            "'step' = 3",
            "*Captured stdout call*",
            "to stdout",
            "to stderr",
            "WARNING *native:*to the log",
            "E * timeout of 0.5 s passed in call, ended by SIG*",
            "E * assert 41 == 42",
            "E * ZeroDivisionError*",
        ]
    )
    found = outcomes(recorder)
    assert len(found) == len(set(found)) == 29
    properties = {report.nodeid: dict(report.user_properties) for report in recorder.reports(when="call")}
    assert [properties[f"test_a_suite_ends_the_same.py::test_parameters[{number}]"]["number"] for number in (0, 1)] == [
        0,
        1,
    ]
    noted = [line.split() for line in (pytester.path / "noted").read_text().splitlines()]
    ups, downs = ([pid for word, pid in noted if word == wanted] for wanted in ("up", "down"))
    # Once in each child, and torn down there, unless that has died.
    assert len(ups) == len(set(ups))
    assert len(downs) == len(set(downs) & set(ups))
    if scope == "function":
        assert (len(ups), len(downs)) == (3, 2)


@pytest.mark.parametrize("capture", ["fd", "sys", "tee-sys", "no"])
def test_captured_output_and_what_is_not(
    pytester: pytest.Pytester, run_pytest: RunPytest, clean: str, capture: str
) -> None:
    """What is written while a child begins is pytest's own, which has shown it; what a test writes is shown once."""
    pytester.makeconftest("import os, sys\nos.write(2, b'native of conftest\\n')\nprint('conftest says')\n")
    pytester.makepyfile(
        """
        import os
        print("module says")

        def test_passes(capfd):
            print("captured")
            assert capfd.readouterr().out == "captured\\n"
            with capfd.disabled():
                print("past the capture")

        def test_fails():
            print("told once")
            os.write(2, b"native words\\n")
            assert 0
        """
    )

    texts = []
    for flags in (options(clean), ("--no-faultguard",)):
        result = run_pytest(*flags, f"--capture={capture}")
        result.assert_outcomes(passed=1, failed=1)
        texts.append(f"{result.stdout}\n{result.stderr}")

    phrases = ["conftest says", "native of conftest", "module says", "past the capture", "native words", "told once"]
    assert [texts[0].count(phrase) for phrase in phrases] == [texts[1].count(phrase) for phrase in phrases]


def test_data_of_a_test_that_ends_after_its_deadline(
    pytester: pytest.Pytester, run_pytest: RunPytest, start: str, scope: str
) -> None:
    """The signals of the guard wake it up, and it ends in good order: too late, and its data is rescued all the same."""
    pytester.makepyfile(
        """
        import signal
        import pytest

        def test_before(faultguard_data):
            faultguard_data["of"] = "another"

        @pytest.mark.faultguard(timeout=0.5)
        def test_hangs(faultguard_data):
            faultguard_data["step"] = 7
            signal.pause()

        def test_after(faultguard_data):
            assert not faultguard_data
            assert 0
        """
    )

    result = run_pytest(*options(start, scope))

    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["E * timeout of 0.5 s passed in call, ended by SIGTERM", "'step' = 7"])
    result.stdout.no_fnmatch_line("'of' = *")


# What reaches the child.


def test_what_the_session_was_given_reaches_the_child(
    pytester: pytest.Pytester, run_pytest: RunPytest, monkeypatch: pytest.MonkeyPatch, clean: str
) -> None:
    """-p, -c, --rootdir, --import-mode, -o, PYTEST_ADDOPTS, options of conftest files, sys.path and the directory."""
    root = pytester.mkdir("root")
    tests = root / "tests"
    tests.mkdir()
    (root / "elsewhere").mkdir()
    (root / "elsewhere" / "found.py").write_text("VALUE = 7\n")
    (root / "settings.ini").write_text("[pytest]\naddopts = --colour=ini\npythonpath = elsewhere\n")
    (root / "conftest.py").write_text(
        "def pytest_addoption(parser):\n"
        "    for name in ('colour', 'shape', 'size'):\n"
        "        parser.addoption(f'--{name}')\n"
        "    parser.addini('taste', 'how it tastes')\n"
        "def pytest_configure(config):\n"
        "    config.option.set_here = 'by a hook'\n"
    )
    (root / "plugged.py").write_text("import pytest\n@pytest.fixture\ndef plugged(): return 'in'\n")
    (tests / "test_it.py").write_text(
        "import os, sys, found, pytest\n"
        "def test_it(request, plugged):\n"
        "    config = request.config\n"
        "    assert config.getoption('colour') == 'ini'\n"
        "    assert config.getoption('shape') == 'round'\n"
        "    assert config.getoption('size') == 'big'\n"
        "    assert config.getoption('set_here') == 'by a hook'\n"
        "    assert config.getini('taste') == 'sweet'\n"
        "    assert config.getoption('importmode') == 'importlib'\n"
        f"    assert str(config.rootpath) == {str(root)!r}\n"
        "    assert config.inipath.name == 'settings.ini'\n"
        f"    assert os.getcwd() == {str(pytester.path)!r}\n"
        "    assert found.VALUE == 7\n"
        "    assert sys.flags.dev_mode\n"
        "    assert os.getppid() != os.getpid()\n"
        "    print('ran', file=open('ran', 'w'))\n"
    )
    monkeypatch.setenv("PYTEST_ADDOPTS", "--size=big -p plugged")
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("PYTHONDEVMODE", "1")

    run_pytest(
        *options(clean),
        "-c",
        str(root / "settings.ini"),
        f"--rootdir={root}",
        "--import-mode=importlib",
        "-otaste=sweet",
        "--shape=round",
        str(tests),
    ).assert_outcomes(passed=1)

    assert (pytester.path / "ran").read_text() == "ran\n"


def test_conftest_files_begin_and_end_in_it(pytester: pytest.Pytester, run_pytest: RunPytest, clean: str) -> None:
    """What they begin for a session they end in the same process; pytest's own has its own."""
    pytester.makeconftest(
        """
        import os

        def note(word):
            with open("noted", "a") as file:
                print(word, os.getpid(), file=file)

        def pytest_configure(): note("configure")
        def pytest_sessionstart(): note("start")
        def pytest_sessionfinish(): note("finish")
        def pytest_unconfigure(): note("unconfigure")
        """
    )
    pytester.makepyfile("def test_it(): pass")

    run_pytest(*options(clean)).assert_outcomes(passed=1)

    by_pid: dict[str, list[str]] = {}
    for line in (pytester.path / "noted").read_text().splitlines():
        word, pid = line.split()
        by_pid.setdefault(pid, []).append(word)
    assert list(by_pid.values()) == [["configure", "start", "finish", "unconfigure"]] * 2


@pytest.mark.parametrize(
    ("clean", "scope"), [("spawn", "function"), ("forkserver", "function"), ("spawn", "session")], indirect=["clean"]
)
def test_no_report_of_its_own(pytester: pytest.Pytester, run_pytest: RunPytest, clean: str, scope: str) -> None:
    """Files that a session writes are written by pytest's own process, with what happened in the children in it."""
    pytester.makepyfile(
        """
        import logging
        import os

        def test_one(record_testsuite_property, record_xml_attribute):
            record_testsuite_property("key", "value")
            record_xml_attribute("kind", "special")
            logging.warning("for the file")

        def test_two(cache):
            cache.set("kept/by", "the test")
            # With a child for each test, the first one's has ended by now, as a session does.
            assert not os.path.exists("junit.xml")
            assert not "as it should"
        """
    )

    files, with_cache = (
        ("--junitxml=junit.xml", "-ojunit_family=xunit1", "--log-file=log.txt"),
        ("no:hypothesispytest",),
    )
    report = pytester.path / "junit.xml"
    for _ in range(2):
        run_pytest(*options(clean, scope), *files, "--lf", plugins=with_cache)
        report.unlink()

    cached = {path.name: path.read_text() for path in (pytester.path / ".pytest_cache").rglob("*") if path.is_file()}
    assert '"the test"' in cached["by"]
    assert list(eval(cached["lastfailed"].replace("true", "True"))) == ["test_no_report_of_its_own.py::test_two"]
    run_pytest(*options(clean, scope), *files, plugins=with_cache).assert_outcomes(passed=1, failed=1)
    xml = report.read_text()
    assert "as it should" in xml
    assert '<property name="key" value="value"' in xml
    assert 'kind="special"' in xml
    assert (pytester.path / "log.txt").read_text().count("for the file") == 1


@pytest.mark.parametrize("scope", ["function", "module"])
def test_a_fresh_interpreter_imports_what_it_needs(
    pytester: pytest.Pytester, run_pytest: RunPytest, scope: str
) -> None:
    """The modules of the tests that it was given, and none besides."""
    module = """
        import os
        with open("imports", "a") as file: print(os.getpid(), __name__, file=file)
        def test_a(): pass
        """
    pytester.makepyfile(test_one=module, test_two=module)

    run_pytest(*options("spawn", scope)).assert_outcomes(passed=2)

    by_pid: dict[str, list[str]] = {}
    for line in (pytester.path / "imports").read_text().splitlines():
        pid, name = line.split()
        by_pid.setdefault(pid, []).append(name)
    assert list(by_pid.values()) == [["test_one", "test_two"], ["test_one"], ["test_two"]]


@pytest.mark.parametrize("scope", ["function", "session"])
def test_options_that_choose_tests_choose_in_the_parent(
    pytester: pytest.Pytester, run_pytest: RunPytest, clean: str, scope: str
) -> None:
    """A hook that leaves out what it has not counted, as plugins that split a suite do."""
    pytester.makepyfile(
        test_one="def test_a(): pass\ndef test_b(): pass", test_two="def test_c(): pass\ndef test_d(): pass"
    )
    pytester.makeconftest(
        """
        def pytest_collection_modifyitems(config, items):
            config.hook.pytest_deselected(items=items[::2])
            items[:] = items[1::2]
        """
    )

    result = run_pytest(*options(clean, scope), "-v")

    result.assert_outcomes(passed=2, deselected=2)
    result.stdout.fnmatch_lines(["test_one.py::test_b PASSED*", "test_two.py::test_d PASSED*"])


def test_pytest_main_with_a_plugin(pytester: pytest.Pytester, run_pytest: RunPytest, clean: str) -> None:
    """A module is known by its name in the child, a class is not."""
    pytester.makepyfile(plugged="import pytest\n@pytest.fixture\ndef plugged(): return 1")
    pytester.makepyfile(test_it="def test_it(plugged): assert plugged == 1")
    pytester.makepyfile(
        program=f"import pytest, plugged\nraise SystemExit(pytest.main({list(options(clean))!r}, plugins=[plugged]))"
    )

    result = pytester.runpython(pytester.path / "program.py")

    assert result.ret == 0
    result.assert_outcomes(passed=1)


def test_a_path_that_only_this_process_has(pytester: pytest.Pytester, clean: str) -> None:
    """A script has changed it before it calls pytest: no option, variable or directory says so."""
    pytester.mkdir("apart").joinpath("only_there.py").write_text("value = 1\n")
    pytester.makepyfile(test_it="import only_there\ndef test_it(): assert only_there.value == 1")
    path = str(pytester.path / "apart")
    pytester.makepyfile(
        program=f"""
        import sys
        import pytest
        sys.path.insert(0, {path!r})
        sys.exit(pytest.main({list(options(clean))!r}))
        """
    )

    pytester.runpython(pytester.path / "program.py").assert_outcomes(passed=1)


# What cannot be found again, or does not begin.


@pytest.mark.parametrize("scope", ["function", "session"])
@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_environment_is_that_of_the_moment(
    pytester: pytest.Pytester, run_pytest: RunPytest, start: str, scope: str
) -> None:
    """In a child that begins now, whenever its interpreter was started; what this itself has set stays."""
    pytester.makeconftest(
        """
        import os

        os.environ["OWN"] = "parent" if "PYTEST_FAULTGUARD" not in os.environ else "child"
        os.environ["EARLIER"] = "1"
        """
    )
    pytester.makepyfile(
        test_1="""
        import os
        import pytest

        @pytest.fixture(scope="module", autouse=True)
        def wide():
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("WIDE", "1")
                patch.delenv("EARLIER")
                yield

        def test_1():
            os.environ["LATER"] = "1"

        @pytest.mark.faultguard(scope="function")
        def test_2():
            assert (os.environ["WIDE"], os.environ["LATER"], "EARLIER" in os.environ) == ("1", "1", False)
        """,
        test_2=f"""
        import os
        import pytest

        def test_3():
            os.environ["LATER"] = "2"

        @pytest.mark.faultguard
        def test_4():
            assert (os.environ["LATER"], os.environ["EARLIER"], "WIDE" in os.environ) == ("2", "1", False)
            assert os.environ["OWN"] == ("parent" if "{start}" == "fork" else "child")
        """,
    )

    run_pytest(f"--faultguard-start={start}", f"--faultguard-scope={scope}").assert_outcomes(passed=4)


@pytest.mark.parametrize("scope", ["function", "session"])
def test_ids_that_are_others_each_time(
    pytester: pytest.Pytester, run_pytest: RunPytest, clean: str, scope: str, xdist_args: tuple[str, ...]
) -> None:
    """A test that is not found is an error at setup, with its name and the reason; the others run."""
    pytester.makepyfile(
        """
        import os
        import pytest

        @pytest.mark.parametrize("number", [int(os.environ.get("PYTEST_FAULTGUARD", 0))])
        def test_random(number): pass

        def test_stable(): pass
        """
    )

    result = run_pytest(*xdist_args, *options(clean, scope), "-rE")

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        [
            f"E *test_random[[]0] was not found by a child that collected it anew (start='{clean}'): a test must *",
        ]
    )


def test_a_file_that_is_gone(pytester: pytest.Pytester, run_pytest: RunPytest, clean: str) -> None:
    """Or that cannot be imported a second time: its tests say why, those of other files run."""
    pytester.makepyfile(
        test_gone="def test_gone(): pass",
        test_once="import os\nassert 'PYTEST_FAULTGUARD' not in os.environ, 'only once'\ndef test_once(): pass",
        test_there="def test_there(): pass",
    )
    pytester.makeconftest(
        """
        import os

        def pytest_collection_finish():
            if "PYTEST_FAULTGUARD" not in os.environ:
                os.remove("test_gone.py")
        """
    )

    result = run_pytest(*options(clean, "module"))

    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines_random(
        ["E *test_gone.py::test_gone was not found by a child*", "*AssertionError: only once*"]
    )


@pytest.mark.parametrize("scope", ["function", "session"])
@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise RuntimeError('no licence')", "* did not begin: *RuntimeError: no licence*"),
        ("import os; os._exit(7)", "* did not begin: exit code 7*"),
        ("import os; print('last words', flush=True); os.abort()", "* did not begin: SIGABRT (aborted)*"),
        ("import time; time.sleep(60)", "* did not begin: not within 1 s*"),
    ],
    ids=["raises", "exits", "aborts", "hangs"],
)
def test_a_child_that_does_not_begin(
    pytester: pytest.Pytester, run_pytest: RunPytest, clean: str, scope: str, code: str, told: str
) -> None:
    """Each test is an error at setup with what there is to be told, and the session goes on."""
    pytester.makeconftest(
        f"import os\nif 'PYTEST_FAULTGUARD' in os.environ:\n    {code}\n"
        # Not two minutes, as it takes to be sure.
        f"from pytest_faultguard.protocol import births\nif {'sleep' in code}: births._BOUND = 1.0\n"
    )
    pytester.makepyfile("def test_a(): pass\ndef test_b(): pass\n")

    result = run_pytest(*options(clean, scope), "--capture=no")

    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines([f"E {told}"])
    if "last words" in code:
        result.stdout.fnmatch_lines(["*last words*"])


#: A start has all the time that it needs, but for that of a test which is named for its end: not two minutes.
SHORT_BOUND = """
import os
import time
from pytest_faultguard.protocol import births

def pytest_runtest_logstart(nodeid):
    births._BOUND = 5.0 if "hangs" in nodeid else 120.0

def hang(name):
    if "PYTEST_FAULTGUARD" in os.environ:
        with open("tried", "a") as file:
            print(name, file=file)
        time.sleep(600)
"""


def test_a_hang_at_the_start_costs_its_bound_once(pytester: pytest.Pytester, run_pytest: RunPytest, clean: str) -> None:
    """Plugins and conftest files are the same for all tests: what has hung in them is not tried again."""
    pytester.makeconftest(f"{SHORT_BOUND}\nhang('conftest')\n")
    for number in range(3):
        (pytester.path / f"test_hangs_{number}.py").write_text("def test_a(): pass\ndef test_b(): pass\n")

    result = run_pytest(*options(clean, "function"), "--capture=no")

    result.assert_outcomes(errors=6)
    assert (pytester.path / "tried").read_text() == "conftest\n"
    assert result.stdout.str().count("did not begin: not within 5 s") >= 6
    if clean == "spawn":
        result.stdout.fnmatch_lines(
            [
                "E *: a fresh interpreter did not begin: not within 5 s",
                "E *: not tried again: a fresh interpreter did not begin: not within 5 s",
                "*conftest.py*in hang*",
            ]
        )


def test_a_hang_at_the_import_of_a_module_costs_its_bound_once(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, clean: str
) -> None:
    """And no test of another one."""
    pytester.makeconftest(
        SHORT_BOUND
        # With it, each child of a fork server collects by itself.
        + "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    pytester.makepyfile(
        test_1_hangs="import conftest\nconftest.hang(1)\ndef test_a(): pass\ndef test_b(): pass\n",
        test_2="def test_a(): pass\n",
        test_3_hangs="import conftest\nconftest.hang(3)\ndef test_a(): pass\ndef test_b(): pass\n",
        test_4="def test_a(): pass\n",
    )

    run_pytest(*options(clean, "function")).assert_outcomes(passed=2, errors=4)

    assert (pytester.path / "tried").read_text() == "1\n3\n"
    for name in ("test_1_hangs.py", "test_3_hangs.py"):
        first, second = (recorder.report(f"{name}::test_{one}", when="setup").longrepr for one in "ab")
        assert "did not begin: not within 5 s" in first
        assert "not tried again" not in first
        assert f"not tried again: {first[first.index('a ') :].splitlines()[0]}" in second


def test_a_child_that_does_not_begin_is_told_of_alone(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, clean: str
) -> None:
    """What those have written that the fork server began before has nothing to do with it."""
    pytester.makepyfile(
        f"""
        import pytest
        @pytest.mark.parametrize("number", range(4))
        @pytest.mark.faultguard(start="{clean}")
        def test_it(number): pass
        @pytest.mark.faultguard(start="{clean}", memory="10KiB")
        def test_tiny(): pass
        """
    )

    run_pytest().assert_outcomes(passed=4, errors=1)

    told = recorder.report("test_tiny", when="setup").longrepr
    assert "did not begin: memory limit of 10 KiB" in told
    assert told.count("collected") <= 1


def test_a_module_that_crashes_in_the_child_alone(pytester: pytest.Pytester, run_pytest: RunPytest, clean: str) -> None:
    """The dump of the import is in the error."""
    pytester.makepyfile("import os\nif 'PYTEST_FAULTGUARD' in os.environ:\n    os.abort()\ndef test_it(): pass\n")

    result = run_pytest(*options(clean))

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["E * did not begin: SIGABRT (aborted)*", '*test_a_module_that_crashes*.py", line 3 in <module>']
    )


@pytest.mark.parametrize(
    ("files", "outcomes"),
    [
        ({"test_it": "raise RuntimeError('at import')"}, {"errors": 1}),
        ({"test_it": "import pytest\n@pytest.mark.faultguard(start='fork')\ndef test_it(): pass"}, {"passed": 1}),
        ({"test_it": "value = 1"}, {}),
    ],
    ids=["error", "another-start", "none"],
)
def test_an_interpreter_that_was_started_in_vain(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    files: dict[str, str],
    outcomes: dict[str, int],
    xdist_args: tuple[str, ...],
) -> None:
    """It begins while pytest collects; where no test needs it then, it is gone, as the audit after this test sees."""
    pytester.makepyfile(**files)

    if xdist_args and "errors" in outcomes:
        outcomes = {"errors": 2}  # As without us: each worker has one, and they are not equal.
    run_pytest(*xdist_args, *options("spawn")).assert_outcomes(**outcomes)


@pytest.mark.parametrize("where", ["alone", "before", "between", "ahead"])
def test_a_missing_test_costs_nobody_else_anything(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, clean: str, where: str
) -> None:
    """Not the tests around it in the same child, be they guarded or not, nor fixtures that they share."""
    missing = """
        @pytest.mark.faultguard
        @pytest.mark.parametrize("number", [int(os.environ.get("PYTEST_FAULTGUARD", 0))])
        def test_random(number): pass
        """
    before, between, after = (
        f"@pytest.mark.faultguard\ndef test_{name}(wide): pass\n" for name in ("before", "between", "after")
    )
    parts = {
        "alone": [missing],
        "before": [missing, before, after],
        "between": [before, "def test_unguarded(): pass\n", missing, between, after],
        "ahead": [before, missing, between, after],
    }[where]
    pytester.makepyfile(
        test_it="import os\nimport pytest\n"
        "@pytest.fixture(scope='session')\ndef wide():\n    yield\n"
        "    with open('torn', 'a') as file: file.write('x')\n" + "".join(map(textwrap.dedent, parts))
    )

    run_pytest(f"--faultguard-start={clean}", "--faultguard-scope=session")

    failed = {name: told for name, told in recorder.outcomes().items() if any("failed" in one for one in told)}
    assert failed == {"test_random[0]": ["setup failed", "teardown passed"]}
    assert (where == "alone") or (pytester.path / "torn").read_text() == "x"


def test_tests_in_another_order(pytester: pytest.Pytester, run_pytest: RunPytest, clean: str) -> None:
    """A plugin may run them as it likes; a child that was not given what comes is replaced."""
    pytester.makeconftest(
        """
        import os

        def pytest_runtestloop(session):
            if "PYTEST_FAULTGUARD" in os.environ:
                return None
            items = session.items[::-1]
            for number, item in enumerate(items):
                following = items[number + 1] if number + 1 < len(items) else None
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            return True
        """
    )
    pytester.makepyfile("def test_a(): pass\ndef test_b(): pass\ndef test_c(): pass\n")

    run_pytest(*options(clean)).assert_outcomes(passed=3)


@pytest.mark.parametrize("which", ["serving", "original"])
def test_a_fork_server_that_dies(pytester: pytest.Pytester, run_pytest: RunPytest, which: str) -> None:
    """Another one begins, and no test hears of it."""
    pytester.makepyfile(
        """
        import os, pathlib, signal, time
        import pytest

        def parent_of(pid):
            return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

        def servers():
            found = {}
            for entry in pathlib.Path("/proc").iterdir():
                if entry.name.isdigit():
                    try:
                        command = (entry / "cmdline").read_bytes()
                        parent = parent_of(entry.name)
                    except OSError:
                        continue
                    if b"import server" in command and int(entry.name) != os.getpid():
                        found[int(entry.name)] = parent
            mine = {pid: parent for pid, parent in found.items() if parent == os.getppid() or parent in found}
            original = next(pid for pid, parent in mine.items() if parent == os.getppid())
            return original, next(pid for pid, parent in mine.items() if parent == original)

        def test_before(): pass

        def test_kills():
            original, serving = servers()
            os.kill(serving if WHICH == "serving" else original, signal.SIGKILL)

        @pytest.mark.parametrize("number", range(4))
        def test_after(number): pass
        """.replace("WHICH", repr(which))
    )

    result = run_pytest(*options("forkserver", "function"))

    result.assert_outcomes(passed=6)


def test_a_conftest_that_ignores_sigchld(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, start: str
) -> None:
    """The kernel tells nobody then how a child has ended: not the fork server either, which needs no more than the end."""
    pytester.makeconftest("import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n")
    pytester.makepyfile("import os\ndef test_1(): pass\ndef test_2(): os.abort()\ndef test_3(): pass\n")

    run_pytest(*options(start, "function")).assert_outcomes(passed=2, failed=1)

    assert "SIGABRT (aborted)" in recorder.report("test_2").longrepr


@pytest.mark.parametrize("scope", ["function", "session"])
def test_what_a_conftest_starts_in_a_child_can_be_interrupted(
    pytester: pytest.Pytester, run_pytest: RunPytest, clean: str, scope: str
) -> None:
    """The child itself cannot until it has begun; also one that begins before it is known what it is to run."""
    pytester.makeconftest(
        """
        import subprocess
        def pytest_sessionstart(session):
            session.service = subprocess.Popen(["sleep", "1001"])
        def pytest_sessionfinish(session):
            session.service.kill()
            session.service.wait()
        """
    )
    pytester.makepyfile(
        """
        import signal
        def test_it(request):
            with open(f"/proc/{request.session.service.pid}/status") as status:
                (blocked,) = (line for line in status if line.startswith("SigBlk"))
            assert int(blocked.split()[1], 16) == 0
        """
    )

    run_pytest(*options(clean, scope)).assert_outcomes(passed=1)


def test_a_child_of_the_fork_server_has_no_descriptor_of_its(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """Those with low numbers are as many as in a fresh interpreter."""
    pytester.makepyfile(
        """
        import os
        import pytest
        @pytest.mark.parametrize("start", [
            pytest.param(start, marks=pytest.mark.faultguard(start=start)) for start in ("spawn", "forkserver")
        ])
        def test_it(start):
            low = [fd for fd in os.listdir("/proc/self/fd") if int(fd) < 100]
            with open("noted", "a") as file:
                print(len(low), file=file)
        """
    )

    run_pytest().assert_outcomes(passed=2)

    fresh, forked = (pytester.path / "noted").read_text().split()
    assert fresh == forked


# How they end.


@pytest.mark.parametrize("scope", ["function", "session"])
@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import atexit; atexit.register(os.abort)", "SIGABRT (aborted) at interpreter exit after *"),
        ("from programs import lib; lib.die_in_destructor()", "SIGABRT (aborted) at interpreter exit after *"),
        ("import atexit; atexit.register(os._exit, 3)", "exit code 3 at interpreter exit after *"),
    ],
    ids=["atexit", "destructor", "exit"],
)
@pytest.mark.usefixtures("programs")
def test_a_crash_at_interpreter_exit(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    start: str,
    scope: str,
    code: str,
    told: str,
    xdist_args: tuple[str, ...],
) -> None:
    """One more report of teardown, on the last test; a fork leaves without all that."""
    if reason := missing(code):
        pytest.skip(reason)
    pytester.makepyfile(f"import os\ndef test_first(): pass\ndef test_last():\n    {code}\n    print('words')\n")
    distribution = ("--dist=loadfile",) if xdist_args else ()

    result = run_pytest(*xdist_args, *distribution, *options(start, scope), "-rE")

    if start != "spawn":
        result.assert_outcomes(passed=2)
        return
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_last*", f"E * {told}"])


@pytest.mark.parametrize("scope", ["function", "session"])
def test_a_hang_at_interpreter_exit(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, scope: str
) -> None:
    """It has a bound, of five seconds at least, and is told as one more report of the last test; the session goes on."""
    pytester.makepyfile(
        test_it="import atexit, time\ndef test_first(): pass\ndef test_last():\n    atexit.register(time.sleep, 60)\n",
        test_next="import pytest\n@pytest.mark.faultguard(start='fork')\ndef test_next(): pass\n",
    )

    result = run_pytest(*options("spawn", scope), "-ofaultguard_end_timeout=0.5")

    result.assert_outcomes(passed=3, errors=1)
    (late,) = (report for report in recorder.reports() if report.outcome == "failed")
    assert late.nodeid == "test_it.py::test_last"
    assert (late.message or "").startswith("timeout of 5 s passed at interpreter exit, ended by ")
    assert late.crash["ending"]["kind"] == "Overdue"


def test_handlers_of_atexit_run_in_a_fresh_interpreter_only(
    pytester: pytest.Pytester, run_pytest: RunPytest, start: str
) -> None:
    """What they write is shown where it would be without a guard."""
    pytester.makepyfile("import atexit\ndef test_it(): atexit.register(print, 'at the very end')\n")

    result = run_pytest(*options(start))

    result.assert_outcomes(passed=1)
    assert str(result.stdout).count("at the very end") == (start == "spawn")


# Libraries that cannot live with fork.

NO_FORK = """
import threading
from programs import lib

lib.{0}(1)

def test_use(faultguard_data):
    assert lib.{0}(0) == 42
"""


@pytest.mark.parametrize("library", ["no_fork", "pool"])
@pytest.mark.usefixtures("programs")
def test_library_that_cannot_live_with_fork(
    pytester: pytest.Pytester, run_pytest: RunPytest, start: str, library: str, xdist_args: tuple[str, ...]
) -> None:
    """It aborts or waits for ever in a fork, whose report hints at spawn, and works in a fresh interpreter."""
    pytester.makepyfile(NO_FORK.format(library))

    result = run_pytest(*xdist_args, *options(start, "function"), "--faultguard-timeout=1")

    if start == "spawn" or (start, library) == ("forkserver", "pool"):
        result.assert_outcomes(passed=1)
        return
    result.assert_outcomes(failed=1)
    if start == "fork":
        ground = "it speaks of fork (no_fork: used after fork() without exec())"
        if library == "pool":
            ground = "pytest's process has * threads, and a fork of it only one of them"
        result.stdout.fnmatch_lines(
            ["*- hint -*", f'{ground}: for a library that cannot live with fork, try start="spawn"']
        )


@pytest.mark.parametrize("place", [0, 1], ids=["first", "second"])
@pytest.mark.usefixtures("programs")
def test_in_a_shared_child_the_first_test_alone_gets_the_hint(
    pytester: pytest.Pytester, run_pytest: RunPytest, place: int
) -> None:
    """Where another one has run, the fork has done no harm to that."""
    bodies = ["pass", "pass"]
    bodies[place] = "lib.no_fork(0)"
    tests = "\n".join(f"def test_{number}(): {body}" for number, body in enumerate(bodies))
    pytester.makepyfile(f"from programs import lib\nlib.no_fork(1)\n{tests}\n")

    result = run_pytest(*options("fork", "session"))

    result.assert_outcomes(passed=1, failed=1)
    assert ('try start="spawn"' in result.stdout.str()) == (place == 0)


@pytest.mark.parametrize(
    "test",
    [
        "import os; os.abort()",
        "import time; time.sleep(60)",
        "while True: pass",
        "import os; print('x' * 2**22); os.abort()",
    ],
    ids=["abort", "sleep", "loop", "one-long-line"],
)
def test_no_hint_where_nothing_speaks_for_it(pytester: pytest.Pytester, run_pytest: RunPytest, test: str) -> None:
    """Pytest's process has one thread, and nobody has spoken of fork."""
    pytester.makepyfile(f"def test_it():\n    {test}\n")

    result = run_pytest(*options("fork", "function"), "--faultguard-timeout=0.5")

    result.assert_outcomes(failed=1)
    result.stdout.no_fnmatch_line("*- hint -*")


@pytest.mark.parametrize("scope", ["function", "session"])
def test_a_parent_with_many_threads(pytester: pytest.Pytester, run_pytest: RunPytest, clean: str, scope: str) -> None:
    """They take and give locks all the time; no child has one that nobody will give back, and none has a thread."""
    pytester.makeconftest(
        """
        import logging, os, threading

        def busy():
            while True:
                logging.getLogger("busy").debug("x")
                os.environ.get("X")

        if "PYTEST_FAULTGUARD" not in os.environ:
            for _ in range(20):
                threading.Thread(target=busy, daemon=True).start()
        """
    )
    pytester.makepyfile(
        """
        import pytest, threading

        @pytest.mark.parametrize("number", range(3))
        def test_it(number):
            assert threading.active_count() == 1
        """
    )

    run_pytest(*options(clean, scope)).assert_outcomes(passed=3)


# The marker, and several of them in one session.


def test_marker_and_settings(pytester: pytest.Pytester, run_pytest: RunPytest, xdist_args: tuple[str, ...]) -> None:
    """Marker before command line before ini; one child for each start method of a scope."""
    pytester.makeini("[pytest]\nfaultguard_start = forkserver\nfaultguard_scope = module\n")
    pytester.makepyfile(
        """
        import os, sys, pytest

        STATE = []
        guard = pytest.mark.faultguard

        def kind():
            if not STATE:
                STATE.append(os.getpid())
            command = open("/proc/self/cmdline").read()
            if "import spawned" in command:
                return "spawn"
            return "forkserver" if "import server" in command else "fork"

        @guard(start="spawn")
        def test_spawn(): assert kind() == "spawn"

        @guard(start="fork")
        def test_fork(): assert kind() == "fork"

        @guard
        def test_ini(): assert kind() == "forkserver"

        @guard(start="spawn")
        def test_spawn_again():
            assert kind() == "spawn"
            assert STATE == [os.getpid()]

        @guard
        def test_ini_again():
            assert kind() == "forkserver"
            assert STATE == [os.getpid()]
        """
    )

    distribution = ("--dist=loadfile",) if xdist_args else ()
    run_pytest(*xdist_args, *distribution).assert_outcomes(passed=5)
    result = run_pytest("--faultguard-start=fork", "-k", "ini")
    result.assert_outcomes(failed=2, deselected=3)


@pytest.mark.parametrize("where", ["marker", "option", "ini"])
def test_wrong_start(pytester: pytest.Pytester, run_pytest: RunPytest, where: str) -> None:
    """A usage error that names argument and value."""
    marker = "(start='thread')" if where == "marker" else ""
    pytester.makepyfile(f"import pytest\n@pytest.mark.faultguard{marker}\ndef test_it(): pass\n")
    args = {"option": ("--faultguard-start=thread",), "ini": ("-ofaultguard_start=thread",)}.get(where, ())

    result = run_pytest(*args)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *start*'thread' is not one of fork, forkserver, spawn"])


# Test modules in a fork server.


def test_a_server_has_test_modules_where_they_start_no_thread(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """Each module is imported once for all children, or once in each."""
    note = "import os\nwith open('imports', 'a') as file: print(__name__, os.environ.get('PYTEST_FAULTGUARD'), file=file)\n"
    tests = "def test_a(): pass\ndef test_b(): pass\ndef test_c(): pass\n"
    thread = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    pytester.makepyfile(test_calm=note + tests)

    run_pytest(*options("forkserver", "function")).assert_outcomes(passed=3)
    calm = (pytester.path / "imports").read_text().split("\n")
    (pytester.path / "imports").unlink()
    pytester.makepyfile(test_calm=note + thread + tests)
    run_pytest(*options("forkserver", "function")).assert_outcomes(passed=3)
    threaded = (pytester.path / "imports").read_text().split("\n")

    assert calm == ["test_calm None", "test_calm 1", ""]
    assert threaded == ["test_calm None", *["test_calm 1"] * 4, ""]


def test_a_child_starts_none_itself(pytester: pytest.Pytester, run_pytest: RunPytest, start: str, scope: str) -> None:
    """Not for its first test either."""
    pytester.makepyfile(
        """
        import os

        def test_first():
            assert open(f"/proc/self/task/{os.getpid()}/children").read() == ""

        test_second = test_first
        """
    )

    run_pytest(*options(start, scope)).assert_outcomes(passed=2)


@pytest.mark.parametrize(("start", "count"), [("fork", 30), ("forkserver", 30), ("spawn", 10)])
def test_no_child_costs_pytest_anything_for_good(
    pytester: pytest.Pytester, run_pytest: RunPytest, start: str, count: int
) -> None:
    """Neither a descriptor nor a mapping of shared memory, whether its test passes, fails or crashes."""
    pytester.makeconftest(
        """
        import os

        def pytest_runtest_logfinish():
            with open("/proc/self/maps") as maps:
                mapped = sum("memfd" in line for line in maps)
            with open("counted", "a") as file:
                print(len(os.listdir("/proc/self/fd")), mapped, file=file)
        """
    )
    pytester.makepyfile(
        f"""
        import os
        import pytest

        @pytest.mark.parametrize("number", range({count}))
        def test_it(number, faultguard_data):
            faultguard_data["number"] = number
            assert number % 5 != 1
            if number % 5 == 3:
                os.abort()
        """
    )

    run_pytest(*options(start, "function"), "--tb=no").assert_outcomes(passed=count * 3 // 5, failed=count * 2 // 5)

    counted = (pytester.path / "counted").read_text().splitlines()
    assert len(counted) == count
    assert len(set(counted[4:])) == 1
