"""What several tests of parts of networks use: random numbers of their own."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def random() -> torch.Generator:
    """Return a generator that starts the same for every test."""
    return torch.Generator().manual_seed(0)
