"""What the tests of several data sets use."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copy(release: Path, tmp_path: Path) -> Path:
    """Return a copy of the small release of these tests, to be damaged."""
    return Path(shutil.copytree(release, tmp_path / "copy"))
