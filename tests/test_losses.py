"""What other plugins lose in a child, and that the documentation tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_faultguard.losses import LOSSES
from pytest_faultguard.losses import Loss
from pytest_faultguard.outcome import LostResultsWarning

PAGE = (Path(__file__).parents[1] / "docs" / "plugins.rst").read_text()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.plugin)
def test_the_documentation_tells_every_loss(loss: Loss) -> None:
    """In the plugin's own section, with the warning and what it advises."""
    section = PAGE.partition(f"\n{loss.plugin}\n---")[2].partition("\n---")[0]

    assert f"``{LostResultsWarning.__name__}``" in section
    assert loss.told.rpartition("; use ")[2] in section
