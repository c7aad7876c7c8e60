"""Flask's tests take a name from pytest that has another place since 9.2."""

from __future__ import annotations

from _pytest import monkeypatch

if not hasattr(monkeypatch, "notset"):
    from _pytest.compat import NOTSET

    monkeypatch.notset = NOTSET  # type: ignore[attr-defined]
