"""Rescued values as text: one bad object costs its own line."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_faultguard.crash import Rescued
from pytest_faultguard.evidence.journal import Journal
from pytest_faultguard.process import rescue as rescuing
from pytest_faultguard.process.rescue import rescue
from pytest_faultguard.process.rescue import text_of


@pytest.fixture
def journal() -> Iterator[Journal]:
    journal = Journal.create(1 << 20)
    journal.claim()
    yield journal
    journal.close()


def told(journal: Journal) -> dict[str, str]:
    rescued, gaps = rescue(journal.fileno())
    assert gaps == ()
    return {one.key: one.value for one in rescued}


class Bad:
    """Does its worst in ``repr``."""

    def __init__(self, what: str, value: Any = None) -> None:
        self.what, self.value = what, value

    def __repr__(self) -> str:
        return str(worst(self.what, self.value))


class BadToLoad:
    """Does its worst when it is loaded."""

    def __init__(self, what: str, value: Any = None) -> None:
        self.arguments = (what, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return worst, self.arguments


def worst(what: str, value: Any) -> object:
    if what == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "leave":
        os._exit(7)
    if what == "hang":
        while True:
            signal.pause()
    if what == "raise":
        raise LookupError("no such thing")
    if what == "write":
        Path(value).write_text(str(os.getpid()))
    print("noise on stdout")
    return f"<{what}>"


def test_an_empty_journal_costs_no_process(journal: Journal) -> None:
    """Most tests save nothing."""
    assert rescue(journal.fileno()) == ((), ())


@pytest.mark.parametrize("kind", [Bad, BadToLoad])
@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("die", "<could not be shown: SIGSEGV in its loading or repr>"),
        ("leave", "<could not be shown: exit code 7 in its loading or repr>"),
        ("hang", "<could not be shown: its loading or repr hangs>"),
    ],
)
def test_a_fatal_value_costs_its_own_line(
    journal: Journal, kind: type[Bad], what: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys before and behind it are there."""
    monkeypatch.setattr(rescuing, "VALUE_BOUND", 0.3)
    journal["before"] = 1
    journal["bad"] = kind(what)
    journal["behind"] = 2

    assert told(journal) == {"'before'": "1", "'bad'": words, "'behind'": "2"}


def test_a_value_that_raises_says_so(journal: Journal) -> None:
    """In words, in its line."""
    journal["repr"] = Bad("raise")
    journal["load"] = BadToLoad("raise")

    assert told(journal) == {
        "'repr'": "<[LookupError raised in repr()] Bad object>",
        "'load'": "<could not be loaded: LookupError: no such thing>",
    }


def test_this_process_loads_nothing(journal: Journal, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither its pid nor a word of the value's is seen here."""
    journal["value"] = BadToLoad("write", str(tmp_path / "pid"))

    assert told(journal) == {"'value'": "'<write>'"}
    assert int((tmp_path / "pid").read_text()) != os.getpid()
    assert capfd.readouterr() == ("", "")


def test_all_values_together_have_a_bound(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be told in that time is a gap."""
    monkeypatch.setattr(rescuing, "VALUE_BOUND", 0.2)
    monkeypatch.setattr(rescuing, "RESCUE_BOUND", 0.5)
    for number in range(10):
        journal[number] = Bad("hang")
    started_at = time.monotonic()

    rescued, gaps = rescue(journal.fileno())

    assert time.monotonic() - started_at < 2
    assert 1 <= len(rescued) < 10
    assert gaps == (f"faultguard_data: {10 - len(rescued)} keys were not shown within 0.5 s",)


def test_too_many_keys_are_counted(journal: Journal) -> None:
    """A report is read by people."""
    for number in range(150):
        journal[number] = number

    rescued, _ = rescue(journal.fileno())

    assert len(rescued) == 101
    assert rescued[-1] == Rescued(key="...", value="and 50 more keys")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        ("a\nb", r"'a\nb'"),
        (b"\x00\xff", r"b'\x00\xff'"),
        ([1, (2, 3)], "[1, (2, 3)]"),
        (np.arange(3, dtype="int16"), "<ndarray shape=(3,) dtype=int16> array([0, 1, 2], dtype=int16)"),
        (np.zeros((2, 2)), "<ndarray shape=(2, 2) dtype=float64> array([[0., 0.], [0., 0.]])"),
    ],
)
def test_values_are_shown_on_one_line(value: object, text: str) -> None:
    """As pytest's saferepr does, arrays with their shape and dtype."""
    assert text_of(value) == text


@pytest.mark.parametrize(
    "value", ["x" * 10_000, b"x" * 10_000, list(range(10_000)), {n: n for n in range(9999)}, np.zeros(10**6), 10**999]
)
def test_long_values_are_cut(value: object) -> None:
    """However long they are."""
    text = text_of(value)

    assert len(text) <= rescuing.MAX_CHARACTERS + len("<10000 characters> ")
    assert "..." in text


def test_lengths_of_long_texts_are_told() -> None:
    """For the beginning does not tell."""
    assert text_of(b"x" * 5000).startswith("<5000 bytes> b'xxx")
    assert text_of("x" * 5000).startswith("<5000 characters> 'xxx")
