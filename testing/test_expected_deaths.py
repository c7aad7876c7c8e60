"""A test that must die passes if and only if its call dies so; anything else fails, and says what came instead."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from testing.harness import QUICK
from testing.harness import SESSION_SECONDS

if TYPE_CHECKING:
    from testing.harness import Junit
    from testing.harness import Recorder
    from testing.harness import RunPytest

HEAD = """
import ctypes
import os
import signal
import sys
import unittest

import pytest

expect = pytest.mark.faultguard

def die(name):
    os.kill(os.getpid(), getattr(signal, name))

"""
SCOPES = ["function", "module"]

DEATHS = """
@expect(expect="SIGABRT")
def test_abort():
    print("last words")
    os.abort()

@expect(expect="SIGSEGV")
def test_null(faultguard_data):
    faultguard_data["address"] = 0
    ctypes.string_at(0)

@expect(expect="SIGIOT")
def test_other_name_of_a_signal():
    os.abort()

@expect(expect=0)
def test_exit_0():
    os._exit(0)

@expect(expect=3)
def test_exit_3():
    os._exit(3)

@expect(expect="timeout", timeout=0.5)
def test_hang():
    while True:
        signal.pause()

@expect(expect="SIGABRT", match="bad index -?[0-9]+")
def test_stderr():
    os.write(2, b"assertion: bad index 7\\n")
    os.abort()

@expect(expect="SIGABRT", match="bad index")
def test_stdout():
    print("bad index", flush=True)
    os.abort()

@expect(expect="SIGKILL", match="SIGKILL .*in call after")
def test_cause():
    die("SIGKILL")

@expect(expect="SIGTERM")
class TestClass:
    def test_method(self):
        die("SIGTERM")

    @expect(expect="SIGINT")
    def test_nearer(self):
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        die("SIGINT")

class TestCase(unittest.TestCase):
    @expect(expect="SIGABRT")
    def test_unittest(self):
        os.abort()

def test_after():
    pass
"""


@pytest.mark.parametrize("capture", ["fd", "sys", "no"])
@pytest.mark.parametrize("scope", SCOPES)
def test_expected_death_passes(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    xdist_args: tuple[str, ...],
    scope: str,
    capture: str,
) -> None:
    """By signal, exit code or timeout, in every kind of child; the teardown is the parent's, as after any crash."""
    pytester.makepyfile(HEAD + DEATHS)

    result = run_pytest(*xdist_args, f"--faultguard-scope={scope}", f"--capture={capture}")

    assert result.ret == 0
    phases = ["setup passed", "call passed", "teardown passed"]
    assert set(map(tuple, recorder.outcomes().values())) == {tuple(phases)}
    assert len(recorder.outcomes()) == 13
    assert not [report for report in recorder.reports() if report.crash or report.longrepr]


SIGNALS = """
@expect(expect=signal.SIGSEGV)
def test_dies():
    ctypes.string_at(0)

@expect(expect=signal.SIGIOT)
def test_other_name():
    os.abort()

@expect(expect=signal.SIGSEGV)
def test_exits():
    os._exit(11)

@expect(expect=signal.SIGSEGV)
def test_lives():
    pass
"""


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_a_signal_is_expected_as_its_name_is(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, xdist_args: tuple[str, ...], start: str
) -> None:
    """And not as the exit code that has its number."""
    pytester.makepyfile(HEAD + SIGNALS)

    run_pytest(*xdist_args, f"--faultguard-start={start}").assert_outcomes(passed=2, failed=2)

    expected = {
        "test_exits": "exit code 11 in call after *: the test never finished; expected SIGSEGV in call",
        "test_lives": "Failed: expected SIGSEGV in call, but it passed",
    }
    for name, message in expected.items():
        pytest.LineMatcher([recorder.report(name).message or ""]).fnmatch_lines([message])


def test_a_signal_is_named_where_nothing_is_guarded(
    pytester: pytest.Pytester, run_pytest: RunPytest, xdist_args: tuple[str, ...]
) -> None:
    """As the reason of the skip."""
    pytester.makepyfile(HEAD + SIGNALS)

    result = run_pytest(*xdist_args, "--no-faultguard", "-rs")

    result.assert_outcomes(skipped=4)
    result.stdout.fnmatch_lines(["SKIPPED * expected to die by SIGSEGV, and nothing is guarded: *"])


def test_evidence_of_an_expected_death(pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder) -> None:
    """The passed report keeps it, for who wants to look."""
    pytester.makepyfile(HEAD + DEATHS)

    result = run_pytest("-rP", "-k", "abort or null")

    report = recorder.report("test_null")
    assert "SIGSEGV (segmentation fault) in call after" in report.section("expected death")
    assert "in test_null" in report.section("faulthandler dump")
    assert report.section("rescued faultguard_data") == "'address' = 0"
    assert "last words" in recorder.report("test_abort").section("Captured stdout call")
    result.stdout.fnmatch_lines(["*- expected death -*", "SIGSEGV (segmentation fault) in call after *"])


OTHERS = """
@pytest.fixture
def bad_setup():
    os.abort()

@pytest.fixture
def bad_teardown():
    yield
    os.abort()

@expect(expect="SIGABRT")
def test_lives():
    pass

@expect(expect="SIGABRT", match="bad index")
def test_raises():
    raise ValueError("no index at all")

@expect(expect=3)
def test_leaves():
    sys.exit(3)

@expect(expect="SIGABRT")
def test_other_signal():
    die("SIGTERM")

@expect(expect=1)
def test_other_exit_code():
    os._exit(2)

@expect(expect="SIGABRT", match="bad index")
def test_other_words():
    print("all is well", flush=True)
    os.abort()

@expect(expect="SIGTERM", timeout=0.5)
def test_hangs():
    while True:
        signal.pause()

@expect(expect="SIGABRT")
def test_setup(bad_setup):
    pass

@expect(expect="SIGABRT")
def test_teardown(bad_teardown):
    pass

class TestCase(unittest.TestCase):
    @expect(expect="SIGABRT")
    def test_unittest(self):
        self.assertEqual(1, 2)

@expect(expect="SIGABRT")
def test_skips():
    pytest.skip("not here")

@expect(expect="SIGABRT")
@pytest.mark.skipif(True, reason="not here")
def test_is_skipped():
    os.abort()

def test_after():
    pass
"""

CALL_FAILED = ["setup passed", "call failed", "teardown passed"]
#: What came instead of an expected death, and how it is told.
CAME = {
    "test_lives": (CALL_FAILED, "call", "Failed: expected SIGABRT in call, but it passed"),
    "test_raises": (
        CALL_FAILED,
        "call",
        "Failed: expected SIGABRT with 'bad index' in its cause or output in call, but it raised ValueError: *",
    ),
    "test_leaves": (CALL_FAILED, "call", "Failed: expected exit code 3 in call, but it raised SystemExit: 3"),
    "test_other_signal": (CALL_FAILED, "call", "SIGTERM (terminated) in call after *; expected SIGABRT in call"),
    "test_other_exit_code": (
        CALL_FAILED,
        "call",
        "exit code 2 in call after *: the test never finished; expected exit code 1 in call",
    ),
    "test_other_words": (
        CALL_FAILED,
        "call",
        "SIGABRT (aborted) in call after *; expected SIGABRT with 'bad index' in its cause or output in call",
    ),
    "test_hangs": (
        CALL_FAILED,
        "call",
        "timeout of 0.5 s passed in call, ended by SIGTERM; expected SIGTERM in call",
    ),
    "test_setup": (
        ["setup failed", "teardown passed"],
        "setup",
        "SIGABRT (aborted) in setup after *; expected SIGABRT in call",
    ),
    "test_teardown": (
        ["setup passed", "call failed", "teardown failed"],
        "call",
        "Failed: expected SIGABRT in call, but it passed",
    ),
    "TestCase::test_unittest": (
        CALL_FAILED,
        "call",
        "Failed: expected SIGABRT in call, but it raised AssertionError: 1 != 2",
    ),
}


@pytest.mark.parametrize("scope", SCOPES)
def test_anything_else_fails(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    xdist_args: tuple[str, ...],
    start_args: tuple[str, ...],
    scope: str,
) -> None:
    """And says what came; a skip remains one."""
    pytester.makepyfile(HEAD + OTHERS)

    # A dozen interpreters, where each test has its own.
    run_pytest(*xdist_args, *start_args, f"--faultguard-scope={scope}", timeout=3 * SESSION_SECONDS)

    outcomes = recorder.outcomes()
    for name, (phases, when, message) in CAME.items():
        assert outcomes[name] == phases, name
        pytest.LineMatcher([recorder.report(name, when).message or ""]).fnmatch_lines([message])
    assert outcomes["test_skips"] == ["setup passed", "call skipped", "teardown passed"]
    assert outcomes["test_is_skipped"] == ["setup skipped", "teardown passed"]
    assert outcomes["test_after"] == ["setup passed", "call passed", "teardown passed"]
    # What it raised is shown with its own traceback.
    assert 'raise ValueError("no index at all")' in recorder.report("test_raises").longrepr
    assert recorder.report("test_lives").lineno is not None


@pytest.mark.parametrize("scope", SCOPES)
def test_subtests_are_no_end_of_a_test(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, scope: str
) -> None:
    """They pass and fail as ever before the test dies."""
    pytester.makepyfile(
        HEAD
        + """
class TestIt(unittest.TestCase):
    @expect(expect="SIGABRT")
    def test_it(self):
        for number in range(3):
            with self.subTest(number=number):
                pass
        os.abort()
"""
    )

    run_pytest(f"--faultguard-scope={scope}").assert_outcomes(passed=1)

    assert not [report for report in recorder.reports() if report.outcome == "failed"]


def test_an_expected_death_is_not_tried_again(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder
) -> None:
    """In a shared child, where other crashes are run once more, alone: nobody asks whose fault it was."""
    pytester.makepyfile(
        HEAD
        + """
def test_before():
    pass

@expect(expect="SIGABRT", scope="module")
def test_abort():
    with open("ran", "a") as file:
        print("ran", file=file)
    os.abort()
"""
    )

    run_pytest("--faultguard", "--faultguard-scope=module").assert_outcomes(passed=2)

    assert (pytester.path / "ran").read_text() == "ran\n"


# Beside what else judges a test.


def test_hooks_see_what_is_logged(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, xdist_args: tuple[str, ...]
) -> None:
    """A passed report and no exception for an expected death, a failed one with its exception for a test that lived."""
    pytester.makepyfile(HEAD + DEATHS + "@expect(expect='SIGABRT')\ndef test_lives(): pass\n")
    pytester.makeconftest(
        """
        import pytest

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            if report.when == "call":
                kind = None if call.excinfo is None else call.excinfo.typename
                report.user_properties.append(("seen", [report.outcome, kind]))
            return report
        """
    )

    run_pytest(*xdist_args, "-k", "abort or lives")

    seen = {name: dict(recorder.report(name).user_properties)["seen"] for name in ("test_abort", "test_lives")}
    assert seen == {"test_abort": ["passed", None], "test_lives": ["failed", "Failed"]}


def test_junit_has_a_passed_case(
    pytester: pytest.Pytester, run_pytest: RunPytest, junit: Junit, xdist_args: tuple[str, ...]
) -> None:
    pytester.makepyfile(HEAD + DEATHS)

    run_pytest(*xdist_args, *junit.args)

    assert {tuple(case.outcomes) for case in junit.cases()} == {("passed",)}
    assert len(junit.cases()) == 13


def test_last_failed_does_not_list_it(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, xdist_args: tuple[str, ...]
) -> None:
    """But lists a test that should have died and lived."""
    pytester.makepyfile(HEAD + DEATHS + "@expect(expect='SIGABRT')\ndef test_lives(): pass\n")

    run_pytest(*xdist_args, plugins=())
    run_pytest(*xdist_args, "--lf", plugins=())

    assert list(recorder.outcomes()) == ["test_lives"]


def test_stop_at_the_first_failure_goes_past_it(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder
) -> None:
    """With `-x`."""
    pytester.makepyfile(HEAD + DEATHS)

    run_pytest("-x").assert_outcomes(passed=13)


def test_xfail_judges_the_result(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, xdist_args: tuple[str, ...]
) -> None:
    """As that of any test: the expected death is a pass, all else a failure."""
    pytester.makepyfile(
        HEAD
        + """
@expect(expect="SIGABRT")
@pytest.mark.xfail(reason="dies otherwise", strict=False)
@pytest.mark.parametrize("name", ["SIGABRT", "SIGTERM"])
def test_lenient(name):
    die(name)

@expect(expect="SIGABRT")
@pytest.mark.xfail(reason="lives", strict=True)
@pytest.mark.parametrize("name", ["SIGABRT", ""])
def test_strict(name):
    if name:
        die(name)

@expect(expect="SIGABRT")
def test_imperative():
    pytest.xfail("not yet")
"""
    )

    run_pytest(*xdist_args)

    told = {
        report.nodeid.partition("::")[2]: (report.outcome, report.wasxfail is not None)
        for report in recorder.reports(when="call")
    }
    assert told == {
        "test_lenient[SIGABRT]": ("passed", True),
        "test_lenient[SIGTERM]": ("skipped", True),
        "test_strict[SIGABRT]": ("failed", False),
        "test_strict[]": ("skipped", True),
        "test_imperative": ("skipped", True),
    }


@pytest.mark.parametrize("option", ["--no-faultguard", "--pdb"])
@pytest.mark.parametrize("skipping", ["-pskipping", "-pno:skipping"])
def test_is_skipped_where_nothing_is_guarded(
    pytester: pytest.Pytester, run_pytest: RunPytest, xdist_args: tuple[str, ...], option: str, skipping: str
) -> None:
    """For pytest's own process would die, also where marks skip nothing."""
    if option == "--pdb" and xdist_args:
        pytest.skip("--pdb needs pytest's own process")
    pytester.makepyfile(HEAD + DEATHS)

    result = run_pytest(*xdist_args, option, skipping, "-rs")

    result.assert_outcomes(passed=1, skipped=12)
    result.stdout.fnmatch_lines(["SKIPPED * test_is_*.py:*: expected to die by exit code 3, and nothing is guarded: *"])


# What is refused.


@pytest.mark.parametrize("option", ["--no-faultguard", "-q"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("expect='SIGNOTHING'", "expect='SIGNOTHING' is not a signal or its name, an exit code from 0 to 255, or *"),
        ("expect='abort'", "expect='abort' is not a signal or its name, *"),
        ("expect='SIGCHLD'", "expect='SIGCHLD' is not a signal that ends a process"),
        ("expect=signal.SIGSTOP", "expect=<Signals.SIGSTOP: *> is not a signal that ends a process"),
        ("expect=256", "expect=256 is not *"),
        ("expect=-6", "expect=-6 is not *"),
        ("expect=True", "expect=True is not *"),
        ("expect=1.0", "expect=1.0 is not *"),
        ("expect='SIGABRT', match='('", "match='(' is not a regular expression: *"),
        ("expect='SIGABRT', match=3", "match=3 is not a regular expression"),
        ("match='bad index'", "match='bad index' without expect, *"),
    ],
)
def test_wrong_expectation(
    pytester: pytest.Pytester, run_pytest: RunPytest, given: str, message: str, option: str
) -> None:
    """Names test, argument and value; no test runs."""
    pytester.makepyfile(test_it=HEAD + f"@expect({given})\ndef test_it(): pass\n")

    result = run_pytest(option, plugins=QUICK)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: test_it.py::test_it: faultguard marker: {message}"])


def test_a_timeout_is_expected_of_a_test_that_has_one(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """It would never pass otherwise, and maybe never end."""
    pytester.makepyfile(test_it=HEAD + "@expect(expect='timeout')\ndef test_it(): pass\n")

    result = run_pytest()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: test_it.py::test_it: faultguard marker: expect='timeout' without a timeout: *"]
    )


def test_no_option_says_what_a_test_expects(pytester: pytest.Pytester, run_pytest: RunPytest) -> None:
    """It is a matter of one test."""
    pytester.makepyfile("def test_it(): pass\n")

    result = run_pytest("--faultguard-expect=SIGABRT")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert signal.SIGABRT.name in result.stderr.str()
