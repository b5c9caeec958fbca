"""What the tests of BIMHA share: a small method, a look inside it, and its attention by naive loops."""

import math

import torch

from data_modules.schema import Batch, PaddedSequence
from mmbench.methods.bimha import BIMHA
from mmbench.testing.builders import make_batch, make_spec

PAIRS = ("text_audio", "text_vision", "audio_vision")


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def build(spec=None, **settings):
    torch.manual_seed(0)
    sizes = {"width": 6, "pair_width": 8, "text_hidden": 5, "head_width": 7}
    return BIMHA(spec or make_spec(), config=BIMHA.Config(**sizes | settings)).double().eval()


def batch_of(spec=None, size=4, grad=False):
    batch = make_batch(spec or make_spec(), size)
    values = {name: x.values.double().requires_grad_(grad) for name, x in batch.inputs.items()}
    inputs = {name: PaddedSequence(values[name], x.lengths) for name, x in batch.inputs.items()}
    return Batch(inputs, batch.target.double(), batch.index)


def watch(network):
    """Return a dictionary that fills with vectors, tokens, what the attention reads and makes, and the head's input."""
    seen = {}
    network.subnetworks.register_forward_hook(lambda _, __, out: seen.__setitem__("vectors", out))
    for name, token in network.tokens.items():
        token.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
    network.layers[0].register_forward_pre_hook(lambda _, args: seen.__setitem__("read", args))
    network.layers[-1].register_forward_hook(lambda _, __, out: seen.__setitem__("made", out))
    network.head.register_forward_pre_hook(lambda _, args: seen.__setitem__("joined", args[0]))
    return seen


def naive_attention(module, queries, tokens, weighted=True):
    """Return what one sample's queries ``(Q, D)`` read from ``(K, D)``, and the weights, head by head."""
    heads, dim = module.attention.heads, queries.shape[-1]
    width = dim // heads
    weight, bias = module.attention.packed.weight, module.attention.packed.bias
    q = queries @ weight[:dim].mT + bias[:dim]
    k = tokens @ weight[dim : 2 * dim].mT + bias[dim : 2 * dim]
    v = tokens @ weight[2 * dim :].mT + bias[2 * dim :]
    read, shares = [], []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        rows = []
        for query in q[:, part]:
            raised = torch.stack([(query @ key / math.sqrt(width)).exp() for key in k[:, part]])
            rows.append(raised / raised.sum() if weighted else torch.full_like(raised, 1 / len(raised)))
        shares.append(torch.stack(rows))
        read.append(shares[-1] @ v[:, part])
    out = torch.cat(read, -1) @ module.attention.out.weight.mT + module.attention.out.bias
    return out, torch.stack(shares)


def normalised(values):
    return (values - values.mean(-1, keepdim=True)) / (values.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
