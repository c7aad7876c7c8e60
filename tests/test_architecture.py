"""What the package promises about its own shape."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import pytest_faultguard

ROOT = Path(pytest_faultguard.__file__).parent
MODULES = sorted(one.name for one in pkgutil.walk_packages([str(ROOT)], "pytest_faultguard."))


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_by_itself_without_a_warning(module: str) -> None:
    """Under ``-W error``, in a fresh interpreter: no cycle and no deprecated call at import time."""
    run(f"import {module}")


def test_importing_the_package_does_not_import_pytest() -> None:
    """A plain program, and a child that starts fresh, do without."""
    told = run(
        "import sys, pytest_faultguard.guard; print([m for m in sys.modules if m.split('.')[0] in {'pytest', '_pytest'}])"
    )

    assert told.strip() == "[]"


def test_importing_the_plugin_does_not_import_what_few_sessions_need() -> None:
    """Each start of pytest would wait for it."""
    # The tools that measure the tests may have imported something in every process.
    told = run(
        "import sys, pytest, xdist.plugin; before = {*sys.modules}; import pytest_faultguard.plugin;"
        "print(sorted({'socket', 'dill', 'numpy', 'pytest_faultguard.triage.bisect'} & ({*sys.modules} - before)))"
    )

    assert told.strip() == "[]"


def test_public_names_exist_and_show_the_package() -> None:
    """``__all__`` is the API, and a traceback says ``pytest_faultguard.CrashError``."""
    for name in pytest_faultguard.__all__:
        assert hasattr(pytest_faultguard, name)
    for name in ("CrashError", "HangError", "FaultguardError"):
        assert getattr(pytest_faultguard, name).__module__ == "pytest_faultguard"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_private_pytest_stays_in_one_package(path: Path) -> None:
    """Each use there is listed in its docstring, with the reason."""
    text = path.read_text()
    used = set(re.findall(r"^from (_pytest[.\w]*) import (\w+)", text, re.MULTILINE))

    assert not used or path.parent.name == "protocol"
    docstring = importlib.import_module("pytest_faultguard.protocol").__doc__ or ""
    for module, name in used:
        assert module in docstring
        assert name in docstring


def test_words_of_other_tools_are_not_ours() -> None:
    """One word per thing: these belong to others, or to nobody."""
    names = set()
    for path in ROOT.rglob("*.py"):
        names |= set(re.findall(r"^\s*(?:def|class) (\w+)", path.read_text(), re.MULTILINE))

    wrong = [name for name in names if re.search(r"manager|helper|util|verdict", name, re.IGNORECASE)]
    assert wrong == []


# What somebody gets who installs it.

CHECKOUT = Path(__file__).parents[1]
DISTRIBUTION = importlib.metadata.distribution("pytest-faultguard")


def test_the_distribution_says_what_it_needs() -> None:
    """Python's version, and of each dependency the oldest release that is tested; it is typed, and a plugin of pytest."""
    needed = [Requirement(text) for text in DISTRIBUTION.requires or ()]
    floors = {one.name: _release(str(one.specifier).removeprefix(">=")) for one in needed if one.marker is None}
    lines = (CHECKOUT / ".ci" / "oldest.txt").read_text().splitlines()
    oldest = dict(line.split("==") for line in lines if line and not line.startswith("#"))

    assert DISTRIBUTION.metadata["Requires-Python"] == ">=3.10"
    assert floors == {"dill": (0, 4), "pytest": (8,), "pytest-xdist": (3, 6)}
    assert {name: _release(tested)[: len(floors[name])] for name, tested in oldest.items()} == floors
    assert (ROOT / "py.typed").is_file()
    (plugin,) = (one for one in DISTRIBUTION.entry_points if one.group == "pytest11")
    assert (plugin.name, plugin.value) == ("faultguard", "pytest_faultguard.plugin")


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part != "*")


def test_tox_has_all_environments() -> None:
    """Every Python and both ends of pytest by themselves, the rest by name; and pre-commit asks the same linters."""
    text = (CHECKOUT / "tox.ini").read_text()

    assert "py3{10,11,12,13}-pytest{min,latest}" in text
    named = set(re.findall(r"^\[testenv:(\w+)\]$", text, re.MULTILINE))
    assert named >= {"lint", "types", "docs", "demo", "bench", "stress", "plugins", "parity", "peers", "product"}
    hooks = (CHECKOUT / ".pre-commit-config.yaml").read_text()
    for hook in ("ruff", "mypy", "lint-imports"):
        assert hook in hooks, hook


def test_what_a_change_must_pass_is_all_run() -> None:
    """The README's own commands, and besides them lint, the import contract, types, documents and the oldest pytest."""
    text = (CHECKOUT / ".ci" / "run").read_text()

    steps = dict(re.findall(r'^step "([^"]*)" (.*)$', text, re.MULTILINE))

    assert steps == {
        "tools": "tools",
        "lint and import contract": "tox_run -e lint",
        "types": "tox_run -e types",
        "docs": "tox_run -e docs",
        "demo, by the README's command": "demo",
        "tests with the oldest pytest claimed": 'tox_run -e py-pytestmin -- -n"$workers" -k "$with_oldest" testing',
        "tests, by the README's command": "run_readme tests",
    }
    # What the oldest pytest is spared: to spare it more is a change of this, too.
    assert 'with_oldest="not n2 and not forkserver and not any_line and not any_moment"\n' in text
    assert text.count("FAULTGUARD_TEST_CASES") == 2
    assert 'export FAULTGUARD_TEST_CASES=each\nstep "tests with the oldest' in text
    assert "for file in audit documents exec extremes limits parity programs timeouts; do with_oldest+=" in text
    assert 'unset FAULTGUARD_TEST_CASES\nstep "tests, by the README\'s command"' in text
    assert "run_readme demo" in text
    assert "lint-imports" in (CHECKOUT / "tox.ini").read_text()
