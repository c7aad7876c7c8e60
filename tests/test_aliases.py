"""Marks of other plugins: what they give, what is lost, and that the documentation tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_faultguard import options
from pytest_faultguard.aliases import ALIASES
from pytest_faultguard.aliases import CONDITION
from pytest_faultguard.aliases import SAME

PAGE = (Path(__file__).parents[1] / "docs" / "coming-from.rst").read_text()


@pytest.mark.parametrize(
    ("mark", "args", "kwargs", "same", "lost"),
    [
        ("forked", (), {}, {}, []),
        ("forked", ("why",), {"reason": "why"}, {}, ["argument 1", "reason"]),
        ("isolate", (10, 2**40, 5), {}, {"timeout": 10, "memory": 2**40, "cpu": 5}, []),
        ("isolate", (), {"mem_limit": "1e15", "cpu_limit": "5"}, {"memory": "1e15", "cpu": "5"}, []),
        # Less than pytest's own process holds.
        ("isolate", (10, 1000, 5), {}, {"timeout": 10, "cpu": 5}, ["mem_limit"]),
        ("isolate", (), {"mem_limit": "1000"}, {}, ["mem_limit"]),
        ("isolate", (), {"mem_limit": "much"}, {"memory": "much"}, []),
        ("isolate", (), {"memory": 2**40, "cpu": 5}, {}, ["memory", "cpu"]),
        ("isolate", (10, 0, None, "more"), {}, {"timeout": 10}, ["argument 4"]),
        ("isolate", (10,), {"timeout": 20}, {"timeout": 20}, []),
        ("isolate", (), {"timeout": 0, "mem_limit": None, "resources": {}}, {}, []),
        ("isolated", ("group",), {"timeout": 30, "serial": True}, {"timeout": 30}, ["group", "serial"]),
        ("isolated", (), {"group": None, "timeout": None, "serial": False}, {}, []),
        ("subproc", (), {"timeout": "30", "condition": False}, {"timeout": "30"}, []),
        # Our own arguments are not theirs.
        ("subproc", (30,), {"grace": 2}, {}, ["argument 1", "grace"]),
        ("forked", (), {"timeout": 5, "condition": "never"}, {}, ["timeout", "condition"]),
    ],
)
def test_what_a_mark_gives(
    mark: str, args: tuple[object, ...], kwargs: dict[str, object], same: dict[str, object], lost: list[str]
) -> None:
    """Each argument is either taken or told, unless it is as good as none."""
    alias = ALIASES[mark]

    assert alias.same(args, kwargs) == same
    assert list(alias.lost(args, kwargs)) == lost


def test_what_is_lost_is_told_with_its_value() -> None:
    """Also one whose ``repr`` is long, or fails."""

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    told = ALIASES["isolated"].lost(("g" * 1000,), {"why": Broken()})

    assert told["group"].startswith("isolated(group='ggg")
    assert len(told["group"]) < 200
    assert told["why"].startswith("isolated(why=<Broken instance at")
    assert told["why"].endswith(": it is ignored")


@pytest.mark.parametrize(
    ("kwargs", "isolates"),
    [
        ({}, True),
        ({"condition": True}, True),
        ({"condition": 0}, False),
        ({"condition": None}, False),
        ({"condition": lambda: "yes"}, True),
        ({"condition": lambda: ""}, False),
    ],
)
def test_a_condition_says_whether_the_test_is_isolated(kwargs: dict[str, object], isolates: bool) -> None:
    """In the one mark that has it."""
    assert ALIASES["subproc"].isolates(kwargs) == isolates
    assert ALIASES["isolate"].isolates(kwargs)


@pytest.mark.parametrize("mark", ALIASES)
def test_the_documentation_tells_every_mark_and_argument(mark: str) -> None:
    """On the page for those who come from there."""
    section = PAGE.partition(f"\n{ALIASES[mark].plugin}\n---")[2].partition("\n---")[0]

    assert f"@pytest.mark.{mark}" in section
    for name in ALIASES[mark].arguments:
        assert f"{name}=" in section


def test_what_is_the_same_is_an_argument_of_ours() -> None:
    """Under its name or another one, and the condition is not."""
    for alias in ALIASES.values():
        for name, becomes in alias.arguments.items():
            assert (alias.ours.get(name, name) in options._BY_NAME) == (becomes == SAME)
            assert (name == "condition") == (becomes == CONDITION)
        assert alias.ours.keys() <= alias.arguments.keys()


def test_what_is_lost_has_no_counterpart() -> None:
    """A guard learns to do more: what it can do is not told as lost. A new argument of ours is to be looked at here."""
    lost = {(alias.mark, name) for alias in ALIASES.values() for name, told in alias.arguments.items() if told != SAME}

    assert lost == {("isolate", "resources"), ("isolated", "group"), ("isolated", "serial"), ("subproc", "condition")}
    assert set(options._BY_NAME) == {
        *("scope", "start", "timeout", "grace", "end_timeout", "confirm", "bisect_runs", "dump_every", "data_limit"),
        *("expect", "match", "memory", "cpu"),
    }


def test_the_setting_has_its_place_in_the_reference() -> None:
    """With the marks that it takes."""
    told = options.reference()

    assert f"``{options.ALIASES_INI}``" in told
    for mark in ALIASES:
        assert mark in options.ALIASES_HELP
