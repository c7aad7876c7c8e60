"""How Sphinx builds the documentation."""

from __future__ import annotations

from importlib.metadata import metadata

_about = metadata("pytest-faultguard")

project = _about["Name"]
author = "The pytest-faultguard developers"
copyright = f"2026, {author}"
version = release = _about["Version"]

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"

html_theme = "furo"
html_title = f"{project} {release}"
