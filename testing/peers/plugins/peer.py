"""What the small programs import: the marks of the tool that is tried, and a word to who waits outside."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

_MARK = os.environ["PEERS_MARK"]
_ARGUMENTS = json.loads(os.environ["PEERS_ARGUMENTS"])
_LIMIT = os.environ["PEERS_LIMIT"]

#: As a user writes it who has nothing to say but "in a process of its own".
bare: pytest.MarkDecorator = getattr(pytest.mark, _MARK)
#: The mark with what the tool needs to isolate at all.
isolated: pytest.MarkDecorator = bare(**_ARGUMENTS) if _ARGUMENTS else bare


def limited(seconds: float) -> Callable[[Any], Any]:
    """The mark with a limit of time, in the tool's own words; that of pytest-timeout where it has none."""

    def decorate(test: Any) -> Any:
        if _LIMIT == _MARK:
            return bare(timeout=seconds)(test)
        return isolated(getattr(pytest.mark, _LIMIT)(seconds)(test))

    return decorate


def say() -> None:
    """The test has come to where it is waited for."""
    fd = os.open(os.environ["PEERS_FIFO"], os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, b"!")
    os.close(fd)
