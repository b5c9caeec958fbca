"""What the tests of LMR-CBT share: made-up data, a tiny network, and a look inside it."""

import torch

from data_modules.schema import Batch, PaddedSequence
from mmbench.methods.lmr_cbt import LMRCBT
from mmbench.methods.lmr_cbt.network import LMRCBTNetwork
from tests.methods.parts import spec_of

DIMS = {"text": 12, "audio": 6, "vision": 7}
LENGTHS = {"text": [9, 4, 6, 5], "audio": [7, 17, 2, 4], "vision": [1, 13, 13, 0]}  # the last sample has no vision
NO_DROPOUT = {
    "embed_dropout": 0.0,
    "lstm_dropout": 0.0,
    "attention_dropout": 0.0,
    "relu_dropout": 0.0,
    "residual_dropout": 0.0,
    "output_dropout": 0.0,
}


def data_spec(names=tuple(DIMS), steps=(9, 17, 13)):
    return spec_of({name: DIMS[name] for name in DIMS if name in names}, dict(zip(DIMS, steps, strict=True)))


def random_inputs(lengths=LENGTHS, names=tuple(DIMS), seed=0):
    generator, inputs = torch.Generator().manual_seed(seed), {}
    for name in names:
        sequence = PaddedSequence(
            torch.empty(len(lengths[name]), max(lengths[name]), DIMS[name]), torch.tensor(lengths[name])
        )
        values = torch.randn(sequence.values.shape, generator=generator, dtype=torch.float64)
        inputs[name] = PaddedSequence(values * sequence.mask[..., None], sequence.lengths)
    return inputs


def batch_of(inputs):
    size = len(next(iter(inputs.values())).lengths)
    return Batch(inputs, torch.zeros(size), torch.arange(size))


def tiny(names=tuple(DIMS), outputs=1, steps=None, **settings):
    torch.manual_seed(0)
    config = LMRCBT.Config(**{"dim": 16, "heads": 4, "layers": 2} | settings)
    return LMRCBTNetwork({name: DIMS[name] for name in names}, outputs, config, steps).double().eval()


def watch(network):
    """Return dictionaries that fill with the local features, and with rows: what encoders read and blocks make."""
    local, read, made = {}, {}, {}
    for name, part in network.local.items():
        part.register_forward_hook(lambda _, __, out, name=name: local.__setitem__(name, out))
    for name, part in network.encoders.items():
        part.register_forward_pre_hook(lambda _, args, name=name: read.__setitem__(name, args[0]))
    for name, part in network.blocks.items():
        part.register_forward_hook(lambda _, __, out, name=name: made.__setitem__(name, out))
    return local, read, made
