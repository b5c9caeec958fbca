"""What the tests of MMMIE share: small methods and batches, and what their terms reach."""

from __future__ import annotations

from dataclasses import replace

import torch

from data_modules.schema import MODALITIES
from mmbench.methods.mmmie import MMMIE
from mmbench.testing.builders import make_batch, make_spec

SMALL = {"dim": 8, "code": 6, "hidden": 4, "heads": 2, "layers": 1, "dropout": 0.0}


def build(kind="regression", modalities=MODALITIES, **settings):
    torch.manual_seed(0)
    return MMMIE(make_spec(kind, modalities), config=MMMIE.Config(**SMALL | settings))


def sample(size=16, kind="regression", modalities=MODALITIES, seed=0, phase="main"):
    return replace(make_batch(make_spec(kind, modalities), size, seed), phase=phase)


def total(terms):
    return torch.stack(list(terms.values())).sum()


def gradients(method, batch):
    """Return the terms and the parameters that their sum reaches, with their gradients."""
    method.zero_grad(set_to_none=True)
    terms = method.objective(method(batch), batch)
    total(terms).backward()
    return terms, {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
