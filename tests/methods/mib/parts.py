"""What the tests of MIB share: a small method, samples, and a step of training."""

import torch

from data_modules.schema import MODALITIES
from mmbench.methods.mib import MIB
from mmbench.testing.builders import make_batch, make_spec

SMALL = {"dim": 10, "hidden": 16, "layers": 1}
STILL = dict.fromkeys(("embed_dropout", "attention_dropout", "relu_dropout", "residual_dropout", "tensor_dropout"), 0.0)


def build(kind="regression", modalities=MODALITIES, **settings):
    torch.manual_seed(0)
    return MIB(make_spec(kind, modalities), config=MIB.Config(**{**SMALL, **STILL, **settings}))


def sample(size=6, kind="regression", modalities=MODALITIES, seed=0):
    return make_batch(make_spec(kind, modalities), size, seed)


def losses(method, batch, seed=0):
    """Return the terms of a batch and the gradients of their sum, with prescribed draws."""
    torch.manual_seed(seed)
    method.zero_grad()
    terms = method.objective(method(batch), batch)
    torch.stack(list(terms.values())).sum().backward()
    return terms, {name: parameter.grad for name, parameter in method.named_parameters()}
