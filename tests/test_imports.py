"""What a file imports is read from its source, and from the sources that it leads to."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_faultguard.imports import Imports


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a package that has native code, of which nothing is loaded, and a package of others."""
    files = {
        "src/mypkg_x/__init__.py": "",
        "src/mypkg_x/fast.py": "from . import _native\n",
        "src/mypkg_x/pure.py": "import json\n",
        "src/mypkg_x/sub/__init__.py": "from ..fast import f\n",
        "src/circle_x.py": "import circle_x\nimport helper_x\n",
        "src/helper_x.py": "def lazily():\n    import mypkg_x.fast\n",
        "venv/site-packages/others_x.py": "import mypkg_x._native\n",
        "src/broken_x.py": "import (\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "src")
    monkeypatch.syspath_prepend(tmp_path / "venv/site-packages")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import mypkg_x._native", True),
        ("import mypkg_x._native.inner as inner", True),
        ("from mypkg_x import _native", True),
        ("from mypkg_x._native import f", True),
        ("def test_it():\n    from mypkg_x._native import f", True),
        ("import mypkg_x.fast", True),
        ("from mypkg_x.fast import f", True),
        ("import mypkg_x.sub", True),
        ("import helper_x", True),
        ("import circle_x", True),
        ("import mypkg_x", False),
        ("import mypkg_x.pure", False),
        ("import mypkg_x._natively", False),
        ("import others_x", False),
        ("import broken_x", False),
        ("import none_x.such", False),
        ("import json", False),
        ("import (", False),
        ("", False),
    ],
)
def test_an_import_leads_to_a_module(project: Path, source: str, expected: bool) -> None:
    """Directly or by way of the project's own files, whether they are loaded or not."""
    file = project / "test_it.py"
    file.write_text(source)

    assert Imports(["mypkg_x._native"], project).reach(file) is expected


@pytest.mark.parametrize(("level", "expected"), [("..", True), ("...", False)])
def test_a_relative_import_is_resolved(project: Path, level: str, expected: bool) -> None:
    """Against the package of the file that says it."""
    file = project / "src/mypkg_x/sub/test_it.py"
    file.write_text(f"from {level}_native import f\n")

    assert Imports(["mypkg_x._native"], project).reach(file, "mypkg_x.sub") is expected


def test_a_file_that_is_gone_imports_nothing(project: Path) -> None:
    """Or one that cannot be read."""
    assert not Imports(["mypkg_x"], project).reach(project / "none.py")
