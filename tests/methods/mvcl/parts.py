"""What the tests of MVCL share: small methods and batches, and what their terms reach."""

from __future__ import annotations

from dataclasses import replace

import torch

from data_modules.schema import MODALITIES
from mmbench.methods.mvcl import MVCL
from mmbench.testing.builders import make_batch, make_spec

SMALL = {"dim": 8, "heads": 2, "layers": 1, "unimodal_layers": 1, "post_fusion": 8}
STILL = dict.fromkeys(
    ("attention_dropout", "attention_dropout_fusion", "attention_dropout_audio", "embed_dropout", "dropout_fusion"), 0.0
) | {"dropout_audio": 0.0, "dropout_vision": 0.0}
PHASES = ("unimodal", "cross", "fused", "task")
PARTS = {
    "encoders": ("network.encoders.", "network.unimodal."),
    "interaction": ("network.interaction.", "network.view_projectors."),
    "fusion": ("network.fusion.", "network.fused_projector."),
    "head": ("network.head.",),
}


def build(kind="regression", modalities=MODALITIES, **settings):
    torch.manual_seed(0)
    return MVCL(make_spec(kind, modalities), config=MVCL.Config(**SMALL | settings))


def sample(size=12, kind="regression", modalities=MODALITIES, phase=""):
    return replace(make_batch(make_spec(kind, modalities), size), phase=phase)


def total(terms):
    return torch.stack(list(terms.values())).sum()


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def gradients(method, batch):
    """Return the terms and the parameters that their sum reaches, with their gradients."""
    method.zero_grad(set_to_none=True)
    terms = method.objective(method(batch), batch)
    total(terms).backward()
    return terms, {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
