"""What the tests of EffMulti share: small methods and batches."""

from __future__ import annotations

import torch

from data_modules.schema import MODALITIES
from mmbench.methods.effmulti import EffMulti
from mmbench.testing.builders import make_batch, make_spec

SMALL = {"width": 8, "hidden": 4, "head_width": 5, "attention": 6}
ORDERS = ("modality_first", "semantic_first")


def build(modalities=MODALITIES, kind="regression", **settings):
    torch.manual_seed(0)
    return EffMulti(make_spec(kind, modalities), config=EffMulti.Config.parse({**SMALL, **settings}))


def sample(size=12, modalities=MODALITIES, seed=0):
    return make_batch(make_spec(modalities=modalities), size, seed)


def normal(values):
    """Return what LayerNorm with its initial weights makes of the last axis."""
    values = values - values.mean(-1, keepdim=True)
    return values / (values.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
