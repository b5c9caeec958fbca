"""FE2E and MESM with the weights and inputs of the cases, and what is compared of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from data_modules.schema import Batch, DataSpec, ModalitySpec, PaddedSequence, TargetSpec
from mmbench.methods.mesm import MESM, rarity
from mmbench.methods.mesm.vgg import Pictures
from tests.golden.cases import Case, Piece, fill, renamed

CASE = Case.load("mesm")
EXACT = {"rtol": 1e-6, "atol": 1e-9}
FRAMES, PIECES = [CASE.info["config"][f"{name}_per_utterance"] for name in ("frames", "pieces")]
LETTERS = {"text": "t", "audio": "a", "vision": "v"}

_plain = renamed(
    *((rf"^{letter.upper()}\.", f"encoders.{name}.tower.") for name, letter in LETTERS.items()),
    *((rf"^{letter}_flatten\.0", f"encoders.{name}.project.1") for name, letter in LETTERS.items()),
    *((rf"^{letter}_flatten\.2", f"encoders.{name}.project.3") for name, letter in LETTERS.items()),
    *((rf"^{letter}_transformer\.encoder", f"states.{name}.layers") for name, letter in LETTERS.items()),
    *((rf"^{letter}_transformer\.cls_emb\.weight", f"states.{name}.start") for name, letter in LETTERS.items()),
    *((rf"^{letter}_out", f"heads.{name}") for name, letter in LETTERS.items()),
    (r"tower\.([0145])\.", r"tower.0.\1."),
    *((rf"tower\.{theirs}\.", f"tower.{ours}.") for theirs, ours in ((6, 1), (8, 3), (10, 5))),
    (r"tower\.low_level", "tower.low"),
    *((rf"\.{theirs}\.", f".{ours}.") for theirs, ours in (("conv1", 0), ("bn1", 1), ("conv2", 3), ("bn2", 4))),
    (r"sparse_layers\.(\d)\.0\.0", r"blocks.\1.convolutions.0"),
    (r"sparse_layers\.(\d)\.0\.1", r"blocks.\1.norms.0"),
    (r"sparse_layers\.(\d)\.0\.2", r"blocks.\1.convolutions.1"),
    (r"sparse_layers\.(\d)\.0\.3", r"blocks.\1.norms.1"),
    (r"(norms\.\d\.running_var)$", r"\1iance"),
    (r"attn_layers", "attentions"),
    (r"channel_affine", "place"),
    (r"y_affine", "text"),
    (r"attn_weight_affine", "score"),
)


def official(modalities=("text", "vision", "audio")):
    """Return the map of names; the official fusion has its modalities in this order, ours in another."""
    ours = [name for name in LETTERS if name in modalities]

    def names(name):
        if name == "weighted_fusion.weight":
            places = [ours.index(modality) for modality in modalities]
            return [Piece("fusion.weight", lambda weight, place=place: weight[:, place]) for place in places]
        found = _plain(name)
        if ".convolutions." in found:
            return (Piece(found, lambda weight: weight.permute(2, 3, 1, 0)),)
        return found

    return names


# The prescribed inputs, checked against what is stored of them.


def _inputs():
    random = np.random.RandomState(3358)
    faces = random.randint(0, 256, (6, 3, 48, 48)).astype(np.uint8)
    pieces = (random.standard_normal((6, 1, 128, 32)) ** 2).astype(np.float32)
    pieces[-1, :, :, 20:] = 0
    hidden = random.standard_normal((3, 2, 768)).astype(np.float32)
    random.random_sample((3, 6))
    labels = random.random_sample((40, 6)) < np.linspace(0.15, 0.5, 6)
    return (*map(torch.from_numpy, (faces, pieces, hidden)), labels)


FACES, SPECTROGRAM, HIDDEN, LABEL_TABLE = _inputs()


def sequence(items, lengths):
    """Return items that lie one after the other as a padded batch; what pads is no zero."""
    values = items.new_full((len(lengths), max(lengths), *items.shape[1:]), 7)
    for row, part in enumerate(items.split(lengths)):
        values[row, : len(part)] = part
    return PaddedSequence(values, torch.tensor(lengths))


class Given(nn.Module):
    """Stands for pieces that are cut already."""

    channels, shape = 1, (128, 32)

    def forward(self, pieces):
        return Pictures.of(pieces)


class States(nn.Module):
    """Stands for the text encoder: tokens are rows of the given hidden states."""

    dim = 768

    def __init__(self, name, frozen=False):
        super().__init__()
        self.register_buffer("like", torch.zeros(0))  # has the precision of the method
        self.hidden = HIDDEN.double().flatten(0, 1).requires_grad_()

    def forward(self, tokens):
        return PaddedSequence(self.hidden[tokens.values].to(self.like.dtype), tokens.lengths)


SPEC = DataSpec(
    "golden",
    "raw",
    "standard",
    {
        "text": ModalitySpec("text", 6, 2, "tokens"),
        "audio": ModalitySpec("audio", 1, 17600, "waveform", rate=16000.0),
        "vision": ModalitySpec("vision", 3, 3, "frames", rate=2.0, size=(48, 48)),
    },
    TargetSpec("multilabel", ("ang", "exc", "fru", "hap", "neu", "sad")),
)
BATCH = Batch(
    {
        "text": PaddedSequence(torch.arange(6).view(3, 2), torch.tensor([2, 2, 2])),
        "audio": sequence(SPECTROGRAM.double(), PIECES),
        "vision": sequence(FACES, FRAMES),
    },
    CASE["inputs.labels"],
    torch.arange(3),
)

SINGLE = replace(BATCH, inputs={**BATCH.inputs, "audio": sequence(SPECTROGRAM, PIECES)})


def build(table, modalities=("text", "vision", "audio"), **settings):
    """Return the method with the prescribed weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmbench.methods.base.PretrainedText", States)
        spec = SPEC.select(modalities)
        method = MESM(spec, config=MESM.Config(text_encoder="states", dropout=0.0, **settings)).double()
    if "audio" in modalities:
        method.network.encoders["audio"].source = Given()
    fill(method.network, table, official(modalities))
    method.positive_weight.copy_(rarity(torch.from_numpy(LABEL_TABLE)))
    return method


def watch(network):
    """Note what the parts of the network take and give."""
    seen = {}

    def note(key):
        def hook(_, taken, given):
            seen[key] = taken, given

        return hook

    for name, letter in (("vision", "v"), ("audio", "a")):
        encoder = network.encoders[name]
        encoder.tower.register_forward_hook(note(f"{letter}_tower"))
        encoder.project.register_forward_hook(note(f"{letter}_items"))
        for part in ("low", "attentions", "blocks"):
            module = getattr(encoder.tower, part, None)
            for number, item in enumerate([module] if part == "low" else module or [], start=1):
                if item is not None:
                    item.register_forward_hook(note(f"{letter}_{part}{number}"))
    return seen


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def per_frame(maps):
    return maps.flatten(1).norm(dim=1)


def parts(output, seen):
    """Return what the case names of one pass."""
    found = {"logits": output.prediction}
    for name, letter in LETTERS.items():
        found[f"l_{letter}"] = output.named[f"logits_{name}"]
        if name == "text":
            continue
        found[f"{letter}_cls"] = output.named[f"state_{name}"]
        found[f"{letter}_items"] = seen[f"{letter}_items"][1]
        maps = seen[f"{letter}_tower"][1]
        maps = maps if torch.is_tensor(maps) else maps.maps
        found[f"{letter}_map_norm"] = per_frame(maps)
        found[f"{letter}_map_every64th_channel"] = maps[:, ::64]
        if f"{letter}_low1" not in seen:
            continue
        found[f"{letter}_low_norm"] = per_frame(seen[f"{letter}_low1"][1])
        for block in (1, 2, 3):
            (_, active, *_), scores = seen[f"{letter}_attentions{block}"]
            (entering, kept), (leaving, _) = seen[f"{letter}_blocks{block}"]
            found[f"{letter}_s{block}"] = scores
            found[f"{letter}_n{block}"] = kept.to(torch.uint8)
            found[f"{letter}_active{block}"] = active.sum((1, 2))
            found[f"{letter}_in{block}_norm"] = per_frame(entering)
            if block < 3:
                found[f"{letter}_blk{block}_norm"] = per_frame(leaving)
    return {name: value.detach() for name, value in found.items()}


def assert_parts(found, variant):
    """Compare everything that the case has of a variant."""
    prefix = f"outputs.{variant}."
    stored = [key.removeprefix(prefix) for key in CASE.arrays if key.startswith(prefix) and not key.endswith("_f32")]
    assert stored
    for name in stored:
        expected = CASE[prefix + name]
        # Attention of the first block is stored in single precision.
        close = {"rtol": 1e-6, "atol": 1e-8} if CASE.arrays[prefix + name].dtype == np.float32 else EXACT
        torch.testing.assert_close(found[name], expected, **close, msg=lambda text, name=name: f"{name}: {text}")


def loss_of(method, output, batch=BATCH):
    return torch.stack(list(method.objective(output, batch).values())).sum()


def buffer_norms(network, names):
    buffers = dict(network.named_buffers())
    return torch.stack([buffers[official()(name)].norm() for name in names])


def forget(network, buffers):
    """Bring running statistics and gradients back to their start."""
    network.zero_grad(set_to_none=True)
    network.load_state_dict(buffers, strict=False)
