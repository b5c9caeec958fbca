"""What the tests of VSD and MV2D share: small methods and batches, and what their terms reach."""

import torch

from data_modules.schema import MODALITIES
from mmbench.methods.vsd import VSD
from mmbench.testing.builders import make_batch, make_spec

QUIET = {"head_dropout": 0.0, "fusion_dropout": 0.0}
TERMS = ("heads", "vsd", "vcd", "vml")
ALL = {f"{term}_weight": 1.0 for term in (*TERMS, "rank", "cml")}

NARROW = {"width": 10, "bottleneck_1": 12, "bottleneck_2": 6, "z_dim": 4, "fusion_dim": 5, "bins": 3}


def build(kind="multiclass", modalities=MODALITIES, **settings):
    torch.manual_seed(0)
    return VSD(make_spec(kind, modalities), config=VSD.Config(**QUIET | settings))


def sample(size=12, kind="multiclass", modalities=MODALITIES, seed=0):
    return make_batch(make_spec(kind, modalities), size, seed)


def run(method, batch):
    """Return output and terms of a training step."""
    output = method.train()(batch)
    return output, method.objective(output, batch)


def reached(method, *terms):
    """Return the parameters with a gradient of any size from the sum of terms."""
    method.zero_grad()
    torch.stack(terms).sum().backward(retain_graph=True)
    # Biases before a norm have gradients of rounding errors.
    return {name for name, item in method.named_parameters() if item.grad is not None and item.grad.abs().max() > 1e-12}


def under(names, *prefixes):
    return {name for name in names if name.startswith(tuple(f"network.{prefix}" for prefix in prefixes))}
