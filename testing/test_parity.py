"""What ``testing/parity`` takes for a difference between sessions, and what it makes of it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from testing.parity import compare
from testing.parity.compare import Explained
from testing.parity.compare import Parity
from testing.parity.sessions import Phase
from testing.parity.sessions import Session
from testing.parity.suites import SUITES
from testing.parity.suites import Suite
from testing.parity.suites import Ways

SUITE = SUITES[0]
#: Guards by its marks.
(MARKED,) = (suite for suite in SUITES if not suite.guard)
A: dict[Phase, str] = {("a", "setup", 0): "passed", ("a", "call", 0): "passed", ("a", "teardown", 0): "passed"}
B: dict[Phase, str] = {("b", "setup", 0): "passed", ("b", "call", 0): "failed", ("b", "teardown", 0): "passed"}
C: dict[Phase, str] = {("c", "call", 0): "passed"}
PLAIN = A | B


@pytest.fixture(autouse=True)
def explained(monkeypatch: pytest.MonkeyPatch) -> None:
    why = Explained(
        suite=SUITE.name, pattern="known.*", why="it is known", applies=lambda ways: ways.scope == "function"
    )
    monkeypatch.setattr(compare, "EXPLAINED", (why,))


def session(
    outcomes: dict[Phase, str], *, collected: int = 9, status: int = 1, guarded: str = "", marked: str = ""
) -> Session:
    return Session(
        outcomes=outcomes,
        marked=frozenset(marked.split()),
        guarded=frozenset(guarded.split()),
        collected=collected,
        seconds=2.0,
        status=status,
    )


def judged(
    plain: Session,
    guarded: Session,
    again: Session | None = None,
    *,
    suite: Suite = SUITE,
    ways: Ways = Ways(),  # noqa: B008 - frozen.
) -> Parity:
    """Judged with every test of the guarded session in a child, unless it says which ones are."""
    if not guarded.guarded:
        guarded = replace(guarded, guarded=frozenset(guarded.tests))
    return compare.compare(suite, ways, plain, guarded, again or plain)


def test_the_same_is_no_difference() -> None:
    parity = judged(session(PLAIN), session(PLAIN))

    assert parity.holds
    assert (parity.tests, parity.phases, parity.ratio) == (2, 6, 1.0)
    assert (parity.unexplained, parity.explained, parity.flaky, parity.stale) == ([], [], [], [])


@pytest.mark.parametrize(
    ("guarded", "told"),
    [
        (session(PLAIN | {("a", "call", 0): "failed"}), "a [call]: plain passed, guarded failed"),
        (
            session(PLAIN | {("b", "call", 0): "failed (wasxfail: 'bug')"}),
            "b [call]: plain failed, guarded failed (wasxfail: 'bug')",
        ),
        (session(PLAIN | {("a", "call", 1): "passed"}), "a [call]: plain no report, guarded passed"),
        (
            session({phase: what for phase, what in PLAIN.items() if phase != ("b", "teardown", 0)}),
            "b [teardown]: plain passed, guarded no report",
        ),
        (session(B | A), "the order [session]: plain a [setup], guarded b [setup]"),
        (session(PLAIN, collected=8), "collected [session]: plain 9, guarded 8"),
        (session(PLAIN, status=0), "exit status [session]: plain 1, guarded 0"),
    ],
)
def test_each_kind_of_difference_is_told(guarded: Session, told: str) -> None:
    parity = judged(session(PLAIN), guarded)

    assert [str(one) for one in parity.unexplained] == [told]
    assert not parity.holds


@pytest.mark.parametrize(
    ("suite", "guarded", "in_plain", "told"),
    [
        pytest.param(SUITE, "a", "", "b [process]: plain pytest's, guarded pytest's", id="a-test-ran-unguarded"),
        pytest.param(MARKED, "a", "", "b [process]: plain pytest's, guarded pytest's", id="a-marked-test-did"),
        pytest.param(
            MARKED, "a b c", "", "c [process]: plain pytest's, guarded a child's", id="an-unmarked-one-did-not"
        ),
        pytest.param(SUITE, "a b c", "b", "b [process]: plain a child's, guarded a child's", id="the-plain-one-guards"),
    ],
)
@pytest.mark.parametrize("is_again", [False, True])
def test_a_session_that_guards_the_wrong_tests_is_a_difference(
    suite: Suite, guarded: str, in_plain: str, told: str, is_again: bool
) -> None:
    """Else a guarded session that guards nothing would be the best of all."""
    outcomes = PLAIN | C if "c" in guarded else PLAIN
    plain, other = session(outcomes), session(outcomes, guarded=in_plain)
    parity = judged(
        plain if is_again else other,
        session(outcomes, guarded=guarded, marked="a b"),
        other if is_again else plain,
        suite=suite,
    )

    assert [str(one) for one in parity.unexplained] == [told]
    assert not parity.holds


def test_an_unsteady_test_is_not_the_guards() -> None:
    other = session(PLAIN | {("a", "call", 0): "failed"})
    parity = judged(session(PLAIN), other, again=other)

    assert parity.holds
    assert [one.test for one in parity.flaky] == ["a"]


def test_an_unsteady_test_that_ends_in_a_third_way_is_a_difference() -> None:
    guarded = session(PLAIN | {("a", "call", 0): "skipped"})
    parity = judged(session(PLAIN), guarded, again=session(PLAIN | {("a", "call", 0): "failed"}))

    assert [str(one) for one in parity.unexplained] == ["a [call]: plain passed, guarded skipped"]


def test_a_known_difference_holds_and_is_told() -> None:
    known: Phase = ("known[1]", "call", 0)
    parity = judged(session(PLAIN | {known: "passed"}), session(PLAIN | {known: "failed"}))

    assert parity.holds
    assert [(one.test, why.why) for one, why in parity.explained] == [("known[1]", "it is known")]


def test_an_explanation_of_nothing_does_not_hold() -> None:
    same = session(PLAIN | {("known[1]", "call", 0): "passed"})
    parity = judged(same, same)

    assert not parity.holds
    assert [why.why for why in parity.stale] == ["it is known"]


def test_an_explanation_is_of_some_ways_to_guard() -> None:
    """With the others it explains nothing, and need not be there."""
    known: Phase = ("known[1]", "call", 0)
    plain, shared = session(PLAIN | {known: "passed"}), Ways(scope="session")

    assert judged(plain, plain, ways=shared).holds
    assert not judged(plain, session(PLAIN | {known: "failed"}), ways=shared).holds


@pytest.mark.parametrize(("scope", "start"), [("class", "fork"), ("module", "forkserver"), ("session", "spawn")])
def test_the_suite_that_depends_on_its_order_is_judged_right(scope: str, start: str) -> None:
    """What differs there with a scope and start method is explained, and what is explained differs."""
    command = [sys.executable, "testing/parity", MARKED.name, "--scope", scope, "--start", start]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8", timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    assert f"{MARKED.name} ({scope}, {start})" in done.stdout
