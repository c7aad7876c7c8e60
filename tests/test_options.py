"""Settings: what is taken, what is refused, and in which words."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from pytest_faultguard import options

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("text", "value"), [("0", 0.0), ("1.5", 1.5), ("2e3", 2000.0)])
def test_seconds_are_read_from_text(text: str, value: float) -> None:
    """As on a command line and in an ini file."""
    argument = options._BY_NAME["timeout"]

    assert argument.parse(argument.read(text)) == value


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, "soon", "5", None, [1]])
def test_what_is_no_time_is_refused(value: object) -> None:
    """Also a text: in a marker a number is a number."""
    with pytest.raises(ValueError, match="a number of seconds"):
        options._BY_NAME["timeout"].parse(value)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (4096, 4096),
        ("4096", 4096),
        ("64MiB", 64 << 20),
        ("1.5 GiB", 3 << 29),
        ("2kb", 2000),
        ("7 B", 7),
        (2e9, 2 * 10**9),
    ],
)
def test_sizes_have_units(given: object, value: int) -> None:
    """Binary and decimal ones."""
    argument = options._BY_NAME["data_limit"]

    assert argument.parse(argument.read(given) if isinstance(given, str) else given) == value


@pytest.mark.parametrize("value", [0, -5, True, 1.5, "much", "5 elephants", "1..2kb", None, "0"])
def test_what_is_no_size_is_refused(value: object) -> None:
    """Nothing at all included: a test that uses the data would fail at its first assignment."""
    with pytest.raises(ValueError, match="a number of bytes"):
        options._BY_NAME["data_limit"].parse(value)


def _is_taken_for_a_death(number: signal.Signals) -> bool:
    try:
        options._BY_NAME["expect"].parse(number)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("number", [*signal.Signals])
def test_signals_that_end_no_process_are_no_deaths(number: signal.Signals) -> None:
    """As a real process has it that gets them."""
    script = f"ulimit -c 0; kill -{int(number)} $$"
    pid = os.posix_spawnp("sh", ["sh", "-c", script], os.environ, setsigdef=[*signal.Signals], setsigmask=[])
    _, status = os.waitpid(pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    assert _is_taken_for_a_death(number) == os.WIFSIGNALED(status)


def test_every_argument_has_its_place_in_the_reference() -> None:
    """The documentation shows what the code declares, nothing else."""
    told = options.reference()

    for argument in options.ARGUMENTS:
        assert f"``{argument.name}=``" in told
        assert (argument.flag in told) != argument.is_marker_only
        assert (f"``{argument.ini}``" in told) != argument.is_marker_only
        assert argument.help in told


@pytest.mark.parametrize("document", ["README.rst", "docs/reference.rst"])
def test_the_documents_hold_the_reference(document: str) -> None:
    """Generated text does not drift."""
    text = (ROOT / document).read_text()
    begin, end = ".. begin generated options", ".. end generated options"

    assert begin in text
    assert text.partition(begin)[2].partition(end)[0].strip() == options.reference().strip()
