"""What several tests of IEMOCAP use: a small release."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data_modules.datasets.iemocap import layouts


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dialogs of each session, with sound."""
    return layouts.write_few(tmp_path_factory.mktemp("few"))
