"""What the tests of MIB share: a small method, samples, and a step of training."""

import torch

from mmbench.methods.mib import MIB
from tests.methods.parts import builder, sampler

SMALL = {"dim": 10, "hidden": 16, "layers": 1}
STILL = dict.fromkeys(("embed_dropout", "attention_dropout", "relu_dropout", "residual_dropout", "tensor_dropout"), 0.0)

build, sample = builder(MIB, **SMALL, **STILL), sampler(6)


def losses(method, batch, seed=0):
    """Return the terms of a batch and the gradients of their sum, with prescribed draws."""
    torch.manual_seed(seed)
    method.zero_grad()
    terms = method.objective(method(batch), batch)
    torch.stack(list(terms.values())).sum().backward()
    return terms, {name: parameter.grad for name, parameter in method.named_parameters()}
