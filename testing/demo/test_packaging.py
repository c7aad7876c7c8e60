"""A test without the mark: it runs in pytest's own process, as ever, beside the guarded ones."""

from __future__ import annotations

import re

import ringbuf


def test_version_has_three_numbers() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", ringbuf.__version__)


def test_repr_tells_how_full_it_is() -> None:
    assert repr(ringbuf.Ring(4)) == "<Ring 0 of 4>"
