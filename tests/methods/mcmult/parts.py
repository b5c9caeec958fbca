"""What the tests of MCMulT share: a small network, and a look inside it."""

import torch

from mmbench.methods.mcmult import MCMulT
from mmbench.methods.mcmult.network import MCMulTNetwork
from tests.methods.mult.test_method import DIMS

PAIR = {"text": 12, "vision": 7}  # one sample of LENGTHS has no vision
SMALL = {"dim": 8, "heads": 2, "layers": 3}
WAYS = ({}, {"level_fusion": "mean"}, {"level_fusion": "concat"}, {"level_fusion": "last"}, {"level_window": 2})


def tiny(dims=None, **settings):
    """Return a small network in double precision and evaluation mode, every parameter moved off its first value."""
    torch.manual_seed(0)
    network = MCMulTNetwork(dims or DIMS, 1, MCMulT.Config(**{**SMALL, **settings})).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return network


def watch(network):
    """Return a dictionary that fills with the highest level of every stream, after the final norm, in rows."""
    outputs = {}
    for key, encoder in network.crossmodal.items():
        encoder.norm.register_forward_hook(lambda _, __, out, key=key: outputs.__setitem__(key, out))
    return outputs
