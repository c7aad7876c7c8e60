"""`faultguard_aliases`: the marks of other isolation plugins guard a test, and what they ask for is never lost silently."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from testing.harness import Recorder
    from testing.harness import RunPytest

#: Other plugins' marks are known to nobody else here, whatever is installed beside us.
NO_PEERS = (
    "no:cacheprovider",
    "no:hypothesispytest",
    "no:pytest_forked",
    "no:pytest_isolate",
    "no:isolated",
    "no:pytest_subproc",
)
ALL = "forked isolate isolated subproc"

#: Every test says in its report whether it was guarded.
CONFTEST = """
import pytest
import pytest_faultguard


@pytest.fixture(autouse=True)
def say(record_property):
    record_property("guarded", pytest_faultguard.is_guarded())
"""


@pytest.fixture
def aliases(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makeini(f"[pytest]\nfaultguard_aliases = {ALL}\n")


def guarded(recorder: Recorder) -> dict[str, bool]:
    return {
        report.nodeid.partition("::")[2]: dict(report.user_properties)["guarded"]
        for report in recorder.reports(when="teardown")
    }


# Which tests.

MARKED = """
import pytest


@pytest.mark.NAME
def test_marked():
    pass


@pytest.mark.NAME()
def test_marked_with_nothing():
    pass


def test_plain():
    pass


@pytest.mark.NAME
class TestClass:
    def test_method(self):
        pass


@pytest.mark.parametrize("value", [1, pytest.param(2, marks=pytest.mark.NAME)])
def test_parameter(value):
    pass
"""
OF_MARKED = {
    "test_marked": True,
    "test_marked_with_nothing": True,
    "test_plain": False,
    "TestClass::test_method": True,
    "test_parameter[1]": False,
    "test_parameter[2]": True,
    "test_of_module": True,
}


@pytest.mark.parametrize("name", ALL.split())
def test_mark_of_another_plugin_guards(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, name: str, xdist_args: tuple[str, ...]
) -> None:
    """On a function, a class, a module or a parameter; the mark is a registered one, and nothing warns."""
    pytester.makeconftest(CONFTEST)
    pytester.makeini(f"[pytest]\nfaultguard_aliases = {name}\n")
    pytester.makepyfile(
        test_marked=MARKED.replace("NAME", name),
        test_module=f"import pytest\npytestmark = pytest.mark.{name}\ndef test_of_module(): pass\n",
    )

    run_pytest(*xdist_args, "--strict-markers", "-Werror", plugins=NO_PEERS).assert_outcomes(passed=7)

    assert guarded(recorder) == OF_MARKED


def test_only_the_marks_that_are_listed(pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder) -> None:
    """The others are what they would be without us: unknown to pytest, and without effect."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        "import pytest\n" + "".join(f"@pytest.mark.{name}\ndef test_{name}(): pass\n" for name in ALL.split())
    )

    run_pytest("-o", "faultguard_aliases=isolate subproc", plugins=NO_PEERS).assert_outcomes(passed=4, warnings=2)

    assert guarded(recorder) == {
        "test_forked": False,
        "test_isolate": True,
        "test_isolated": False,
        "test_subproc": True,
    }
    assert sorted(warning.split()[2] for warning in recorder.warnings()) == [
        "pytest.mark.forked",
        "pytest.mark.isolated",
    ]


def test_list_in_toml(pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyprojecttoml('[tool.pytest.ini_options]\nfaultguard_aliases = ["forked", "subproc"]\n')
    pytester.makepyfile(MARKED.replace("NAME", "forked") + "@pytest.mark.subproc\ndef test_of_module(): pass\n")

    run_pytest("--strict-markers", plugins=NO_PEERS).assert_outcomes(passed=7)

    assert guarded(recorder) == OF_MARKED


def test_flag_turns_them_off(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, aliases: None
) -> None:
    """As it does our own marks; what would be lost is of no interest then."""
    pytester.makepyfile("import pytest\n@pytest.mark.isolated('group')\ndef test_it(): pass\n")

    run_pytest("--no-faultguard", plugins=NO_PEERS).assert_outcomes(passed=1)

    assert guarded(recorder) == {"test_it": False}
    assert recorder.warnings() == []


@pytest.mark.parametrize("name", ALL.split())
def test_crash_is_one_failed_test(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    aliases: None,
    name: str,
    xdist_args: tuple[str, ...],
) -> None:
    """The whole point; and a crash of a test that is expected to fail is an expected one."""
    pytester.makepyfile(
        f"""
        import ctypes

        import pytest

        @pytest.mark.{name}
        def test_crash():
            ctypes.string_at(0)

        @pytest.mark.{name}
        @pytest.mark.xfail(reason="known")
        def test_known_crash():
            ctypes.string_at(0)

        def test_after():
            pass
        """
    )

    run_pytest(*xdist_args, plugins=NO_PEERS).assert_outcomes(failed=1, xfailed=1, passed=1)

    report = recorder.report("test_crash")
    assert report.crash["ending"]["kind"] == "Signaled"
    assert "ctypes.string_at(0)" in report.longrepr


# Their arguments.

TIMEOUTS = """
import signal

import pytest


def hang():
    signal.pause()


@pytest.mark.isolate(timeout=0.11)
def test_isolate():
    hang()


@pytest.mark.isolate(0.12)
def test_isolate_by_position():
    hang()


@pytest.mark.isolated(timeout=0.13)
def test_isolated():
    hang()


@pytest.mark.subproc(timeout="0.14")
def test_subproc_as_text():
    hang()


@pytest.mark.subproc(timeout=0)
def test_nothing():
    hang()


@pytest.mark.faultguard(timeout=0.15)
@pytest.mark.subproc(timeout=50)
def test_ours_on_one_node():
    hang()


@pytest.mark.subproc(timeout=50)
@pytest.mark.faultguard(timeout=0.16)
def test_ours_on_one_node_in_the_other_order():
    hang()


@pytest.mark.faultguard
@pytest.mark.subproc(timeout=0.17)
def test_ours_does_not_give_it():
    hang()


@pytest.mark.isolated(timeout=50)
@pytest.mark.parametrize("value", [pytest.param(1, marks=pytest.mark.isolate(timeout=0.18))])
def test_parameter(value):
    hang()


@pytest.mark.faultguard(timeout=50)
class TestClass:
    @pytest.mark.isolate(timeout=0.19)
    def test_closest(self):
        hang()

    @pytest.mark.isolated(timeout=0.21)
    class TestInner:
        @pytest.mark.forked
        def test_closest_that_gives_it(self):
            hang()


@pytest.mark.isolated(timeout=50)
class TestTheirs:
    @pytest.mark.faultguard(timeout=0.22)
    def test_closest(self):
        hang()
"""


def test_timeouts(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    aliases: None,
) -> None:
    """The closest mark that gives it decides; on one node our own; then the command line. 0 is not given."""
    pytester.makepyfile(TIMEOUTS)

    run_pytest("--faultguard-timeout=0.3", "--faultguard-grace=0.2", plugins=NO_PEERS)

    # In whichever phase that was on a busy machine.
    assert {
        report.nodeid.rpartition("::")[2]: report.crash["ending"]["timeout"]
        for report in recorder.reports()
        if report.crash
    } == {
        "test_isolate": 0.11,
        "test_isolate_by_position": 0.12,
        "test_isolated": 0.13,
        "test_subproc_as_text": 0.14,
        "test_nothing": 0.3,
        "test_ours_on_one_node": 0.15,
        "test_ours_on_one_node_in_the_other_order": 0.16,
        "test_ours_does_not_give_it": 0.17,
        "test_parameter[1]": 0.18,
        "test_closest": 0.22,
        "test_closest_that_gives_it": 0.21,
    }


LIMITS = """
import resource
import time

import pytest


@pytest.mark.isolate(mem_limit=2**34)
def test_memory():
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == 2**34


@pytest.mark.isolate(60, 1.5e10)
def test_memory_by_position():
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == 15 * 10**9


@pytest.mark.isolate(cpu_limit="1")
def test_cpu():
    end = time.process_time() + 60
    while time.process_time() < end:
        pass
"""


def test_limits(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, aliases: None, xdist_args: tuple[str, ...]
) -> None:
    """Of memory and of processor time: those of pytest-isolate are ours, and nothing warns."""
    pytester.makepyfile(LIMITS)

    run_pytest(*xdist_args, "-Werror", plugins=NO_PEERS).assert_outcomes(passed=2, failed=1)

    assert str(recorder.report("test_cpu").message).startswith("cpu limit of 1 s passed")


CONDITIONS = """
import pytest


@pytest.mark.subproc(condition=True)
def test_true():
    pass


@pytest.mark.subproc(condition=False, timeout=0.001)
def test_false():
    pass


@pytest.mark.subproc(condition=lambda: [])
def test_function():
    pass


@pytest.mark.subproc(condition=None)
def test_none():
    pass


@pytest.mark.faultguard
@pytest.mark.subproc(condition=False)
def test_ours():
    pass


@pytest.mark.subproc(condition=False)
class TestClass:
    def test_method(self):
        pass

    @pytest.mark.subproc
    def test_closest(self):
        pass
"""


@pytest.mark.parametrize("every", [False, True], ids=["marked", "all"])
def test_condition(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    aliases: None,
    xdist_args: tuple[str, ...],
    every: bool,
) -> None:
    """One that does not hold makes it a test without the mark, and of the marks the closest one decides."""
    pytester.makepyfile(CONDITIONS)

    run_pytest(*xdist_args, *(["--faultguard"] if every else []), plugins=NO_PEERS).assert_outcomes(passed=7)

    assert guarded(recorder) == {
        "test_true": True,
        "test_false": every,
        "test_function": every,
        "test_none": every,
        "test_ours": True,
        "TestClass::test_method": every,
        "TestClass::test_closest": True,
    }


# What is lost.

LOSING = """
import pytest


@pytest.mark.isolate(timeout=60, mem_limit=10**6, resources={"gpu": 2})
def test_first():
    pass


@pytest.mark.isolate(60, 10**12, 60)
def test_second():
    pass


@pytest.mark.isolated("one", serial=True)
def test_third():
    pass


@pytest.mark.isolated(group="two", timeout=60)
def test_fourth():
    pass


@pytest.mark.isolated(group=None, serial=False)
@pytest.mark.isolate(mem_limit=None)
def test_nothing():
    pass


@pytest.mark.forked(60, reason="leaks")
def test_unknown():
    pass
"""
TOLD = {
    "test_first: isolate(mem_limit=1000000)": "pytest itself holds more: the test runs without a limit of its memory",
    "test_first: isolate(resources={'gpu': 2})": "nothing is allocated, and CUDA_VISIBLE_DEVICES stays as it is",
    "test_third: isolated(group='one')": "there are no groups: which tests share a process is said by faultguard(scope=…)",
    "test_third: isolated(serial=True)": "guarded tests run one after another, but beside those of other workers of pytest-xdist",
    "test_unknown: forked(argument 1=60)": "it is ignored",
    "test_unknown: forked(reason='leaks')": "it is ignored",
}
MESSAGES = [f"faultguard_aliases: test_it.py::{given}: {becomes} (told once)" for given, becomes in TOLD.items()]


def test_what_is_lost_is_told_once(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, aliases: None, xdist_args: tuple[str, ...]
) -> None:
    """The tests run; a warning names the first test, the argument, and what becomes of it, also with several workers."""
    pytester.makepyfile(test_it=LOSING)

    result = run_pytest(*xdist_args, plugins=NO_PEERS)

    result.assert_outcomes(passed=6, warnings=6)
    assert set(guarded(recorder).values()) == {True}
    assert sorted(recorder.warnings()) == [f"PytestWarning: {message}" for message in MESSAGES]
    # Where that mark stands.
    result.stdout.fnmatch_lines(["*test_it.py:4: PytestWarning: faultguard_aliases: *mem_limit*"])


def test_what_is_lost_where_warnings_are_errors(
    pytester: pytest.Pytester, run_pytest: RunPytest, recorder: Recorder, aliases: None, xdist_args: tuple[str, ...]
) -> None:
    """Then it is one that says which, and the usual filter lets it pass."""
    pytester.makepyfile(test_it=LOSING)

    refused = run_pytest(*xdist_args, "-Werror", plugins=NO_PEERS)

    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    assert recorder.reports() == []
    said = [line for line in [*refused.outlines, *refused.errlines] if "ERROR" in line or "isolate(" in line]
    assert said == [f"ERROR: {MESSAGES[0]}"]

    run_pytest(*xdist_args, "-Werror", "-Wignore:faultguard_aliases", plugins=NO_PEERS).assert_outcomes(passed=6)


# What is refused.


def assert_usage_error(result: pytest.RunResult, line: str) -> None:
    """Exit status 4, and one line that says it."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = [text for text in [*result.outlines, *result.errlines] if "ERROR" in text]
    assert len(said) == 1
    pytest.LineMatcher(said).fnmatch_lines([f"ERROR: {line}"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param("forked boxed", "'boxed' is no mark of another plugin that is known; these are: *", id="unknown"),
        pytest.param("forked,isolated", "'forked,isolated' is no mark *", id="comma"),
        pytest.param("faultguard", "'faultguard' is no mark *", id="ours"),
        pytest.param("'forked isolate", "No closing quotation", id="quotation"),
    ],
)
def test_wrong_alias(pytester: pytest.Pytester, run_pytest: RunPytest, given: str, message: str) -> None:
    pytester.makepyfile("def test_it(): pass\n")
    pytester.makeini(f"[pytest]\nfaultguard_aliases = {given}\n")

    assert_usage_error(run_pytest(plugins=NO_PEERS), f"faultguard_aliases: {message}")


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        pytest.param("isolate('soon')", "isolate marker: timeout='soon' is not a number of seconds*", id="timeout"),
        pytest.param("isolated(timeout=-1)", "isolated marker: timeout=-1 is not a number of *", id="negative"),
        pytest.param(
            "subproc(condition=lambda: 1 / 0)",
            "subproc marker: condition=<function <lambda> at *> raised ZeroDivisionError('division by zero')",
            id="condition",
        ),
    ],
)
def test_wrong_argument(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    recorder: Recorder,
    aliases: None,
    xdist_args: tuple[str, ...],
    mark: str,
    message: str,
) -> None:
    """Names test, mark and value; no test runs."""
    pytester.makepyfile(
        test_wrong=f"import pytest\n@pytest.mark.{mark}\ndef test_it(): pass\n", test_other="def test_other(): pass\n"
    )

    assert_usage_error(run_pytest(*xdist_args, plugins=NO_PEERS), f"test_wrong.py::test_it: {message}")
    assert recorder.reports() == []


@pytest.mark.parametrize(
    ("names", "plugins", "message"),
    [
        pytest.param("forked", ["pytest_forked"], "forked: *: pytest_forked; add -p no:pytest_forked, *", id="forked"),
        pytest.param("forked", ["pytest_isolate"], "forked: *: pytest_isolate; add -p *", id="forked-by-isolate"),
        pytest.param("isolated", ["pytest_isolated"], "isolated: *: pytest_isolated; *", id="isolated"),
        pytest.param(
            "subproc forked",
            ["pytest_subproc", "pytest_forked"],
            "subproc forked: *: pytest_subproc, pytest_forked; add -p no:pytest_subproc -p no:pytest_forked, *",
            id="two",
        ),
        pytest.param("isolate subproc", ["pytest_forked"], None, id="another"),
    ],
)
def test_the_other_plugin_is_still_active(
    pytester: pytest.Pytester,
    run_pytest: RunPytest,
    names: str,
    plugins: list[str],
    message: str | None,
    xdist_args: tuple[str, ...],
) -> None:
    """Both would run the test. What the message says to add is enough."""
    pytester.makepyfile("def test_it(): pass\n", **dict.fromkeys(plugins, ""))
    pytester.makeini(f"[pytest]\nfaultguard_aliases = {names}\n")
    given = [word for plugin in plugins for word in ("-p", plugin)]

    result = run_pytest(*xdist_args, *given)

    if message is None:
        assert result.ret == pytest.ExitCode.OK
        return
    assert_usage_error(result, f"faultguard_aliases = {message}")
    off = [word for word in result.stderr.str().partition("; add ")[2].partition(", or")[0].split() if word != "-p"]
    assert off == [f"no:{plugin}" for plugin in plugins]
    assert run_pytest(*xdist_args, plugins=[*off, "no:cacheprovider"]).ret == pytest.ExitCode.OK


def test_markers_tell_it(run_pytest: RunPytest) -> None:
    result = run_pytest("--markers", "-o", "faultguard_aliases=isolate", plugins=NO_PEERS)

    result.stdout.fnmatch_lines(
        ["@pytest.mark.isolate: the mark of pytest-isolate, as faultguard (faultguard_aliases)"]
    )
    result.stdout.no_fnmatch_line("@pytest.mark.forked*")
