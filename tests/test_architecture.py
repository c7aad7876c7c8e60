"""What the package promises about its own shape."""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
