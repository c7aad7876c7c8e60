"""Fixtures of the unit tests: the audit after each test."""

from __future__ import annotations

import sys
from pathlib import Path

# The folders of tests are not installed: at the end of the path, what is installed comes first.
if (_root := str(Path(__file__).parents[1])) not in sys.path:
    sys.path.append(_root)

from testing.audit import allow_leftovers
from testing.audit import audit
from testing.audit import audit_tmp
from testing.audit import default_signals

__all__ = ["allow_leftovers", "audit", "audit_tmp", "default_signals"]
