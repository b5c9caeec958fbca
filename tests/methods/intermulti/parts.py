"""What the tests of InterMulti share: a small method, and samples."""

from __future__ import annotations

import torch

from data_modules.schema import MODALITIES
from mmbench.methods.intermulti import InterMulti
from mmbench.testing.builders import make_batch, make_spec

SMALL = {"width": 8, "hidden": 4, "head_width": 5, "rank": 2}


def build(modalities=MODALITIES, kind="regression", **settings):
    torch.manual_seed(0)
    return InterMulti(make_spec(kind, modalities), config=InterMulti.Config.parse({**SMALL, **settings}))


def sample(size=12, modalities=MODALITIES, seed=0):
    return make_batch(make_spec(modalities=modalities), size, seed)
