"""CMGA against numbers of two independent re-implementations; see ``tests/golden/cmga/README.md``."""

import math

import pytest
import torch
from torch import nn

from data_modules.schema import PaddedSequence
from mmbench.methods.cmga import CMGA
from mmbench.methods.cmga.gated_attention import GatedCrossAttention
from mmbench.methods.cmga.network import CMGANetwork
from mmbench.nn.steps import Layout
from tests.golden.cases import Case, Piece, fill, golden_weight, gradient_norms

LETTERS = {"t": "text", "a": "audio", "v": "vision"}
SINGLE = ["case", "case_fixed", "case_fixed_source"]
PRECISIONS = ["float64", "float32"]
every_precision = pytest.mark.parametrize("precision", PRECISIONS)


def tolerances(case, precision):
    """Return the tolerances of numbers and of gradient norms, as keywords."""
    found = case.info["tolerances"][f"{precision}_model_vs_case"]
    return found["outputs_losses_gradinput"], found["gradnorm"]


def close(actual, expected, tolerance):
    torch.testing.assert_close(actual.detach().double(), expected, **tolerance)


class Passed(nn.Module):
    """An encoder that passes on what is encoded already."""

    def forward(self, sequence):
        layout = Layout.of(sequence)
        return layout.rows(sequence.values), layout


class Rebuilt(nn.Module):
    """Our network behind the encoders and before the head, and the projections that R1 has without using them."""

    def __init__(self, names, dim, heads, **settings):
        super().__init__()
        config = CMGA.Config(dim=dim, heads=heads, dropout=0.0, head_dropout=0.0, **settings)
        self.network = CMGANetwork(dict.fromkeys(names, dim), 1, config)
        self.network.encoders = nn.ModuleDict({name: Passed() for name in names})
        self.network.head = nn.Identity()
        self.unused = nn.ParameterDict()
        for pair in self.network.blocks:
            self.unused[f"{pair}_i"] = nn.Parameter(torch.zeros(dim, dim))
            self.unused[f"{pair}_j"] = nn.Parameter(torch.zeros(2 * dim, dim))


def names_of(official):
    """Say where a parameter of R1 lives: the sender gives keys and values, the receiver queries."""
    prefix, _, name = official.rpartition(".")
    prefix, _, layer = prefix.rpartition(".")
    # The single pair of a case is audio to vision.
    pair = "_to_".join(LETTERS[letter] for letter in prefix.removeprefix("pair_")) if "pair" in prefix else ""
    pair = pair or "audio_to_vision"
    block = f"network.blocks.{pair}"
    if layer == "qkv_i":
        return Piece(f"unused.{pair}_i"), Piece(f"{block}.key.weight"), Piece(f"{block}.value.weight")
    if layer == "qkv_j":
        return Piece(f"{block}.query.weight"), Piece(f"unused.{pair}_j")
    ours = {"W_f": f"{block}.gate", "W_m": f"{block}.message", "QKV": "network.fusion.packed"}
    return f"{ours.get(layer, 'network.fusion.out')}.{name}"


def build(case, names, precision, **settings):
    dim, heads = case.info["config"]["D"], case.info["config"]["heads_fusion"]
    model = Rebuilt(names, dim, heads, **settings)
    fill(model, case.table(), names_of)
    return model.to(getattr(torch, precision)).train()


def encoded(case, keys, precision):
    """Return the encoded modalities by our names; the inputs record gradients."""
    values = {name: case[f"inputs.z_{key}"].to(getattr(torch, precision)).requires_grad_() for name, key in keys}
    return {name: PaddedSequence(values[name], case[f"inputs.lengths_{key}"]) for name, key in keys}


def attention_of(block, sender, receiver):
    """Attention weights by the explicit softmax."""
    scores = block.query(receiver.values) @ block.key(sender.values).mT / math.sqrt(sender.values.shape[-1])
    return scores.masked_fill(~sender.mask[:, None], -torch.inf).softmax(-1)


def descend(model, loss, inputs):
    """Leave the gradients of this loss and of no other."""
    model.zero_grad()
    for sequence in inputs.values():
        sequence.values.grad = None
    loss.backward(retain_graph=True)


@every_precision
@pytest.mark.parametrize("name", SINGLE)
def test_one_pair_and_the_fusion_layer(name, precision):
    case = Case.load("cmga", name)
    numbers, norms = tolerances(case, precision)
    residual = "receiver" if name == "case_fixed" else "source"
    model = build(case, ("audio", "vision"), precision, residual=residual)
    inputs = encoded(case, (("audio", "i"), ("vision", "j")), precision)
    block, seen = model.network.blocks["audio_to_vision"], {}
    block.register_forward_hook(
        lambda _, args, out: seen.update({name: args[2].queries.padded(x) for name, x in out._asdict().items()})
    )
    model.network.fusion.register_forward_hook(lambda _, args, out: seen.__setitem__("H", args[1].padded(out)))
    model.network(inputs)
    sender, receiver = inputs["audio"], inputs["vision"]
    real = receiver.mask
    attention = attention_of(block, sender, receiver)
    torch.testing.assert_close((attention @ block.value(sender.values))[real], seen["read"][real])
    outputs = {"attention": attention, "A": seen["read"], "f": seen["gate"], "m": seen["message"]}
    for key, value in {**outputs, "h": seen["fused"], "H": seen["H"]}.items():
        close(value[real], case[f"outputs.{key}"][real], numbers)
    for loss, output, gradnorm in (("total", "H", "gradnorm"), ("gate", "h", "gradnorm_gate")):
        value = seen[{"H": "H", "h": "fused"}[output]]
        total = (value * case[f"inputs.cotangent_{output}"].to(value)).sum()
        close(total, case[f"losses.{loss}"], numbers)
        descend(model, total, inputs)
        close(gradient_norms(model, case.table(), names_of), case[gradnorm], norms)
        for key, sequence in (("i", sender), ("j", receiver)):
            close(sequence.values.grad, case[f"gradinput.{loss}.z_{key}"], numbers)
        if loss == "total":
            query, keys, values = (part.weight.grad.norm() for part in (block.query, block.key, block.value))
            none = torch.zeros_like(query)
            close(torch.stack([none, keys, values]), case["gradnorm_parts_qkv_i"], norms)
            close(torch.stack([query, none, none]), case["gradnorm_parts_qkv_j"], norms)


@every_precision
@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("gate", ["closed", "open"])
def test_closed_and_open_gate(name, gate, precision):
    case = Case.load("cmga", name)
    model = build(case, ("audio", "vision"), precision, residual="receiver" if name == "case_fixed" else "source")
    inputs = encoded(case, (("audio", "i"), ("vision", "j")), precision)
    block = model.network.blocks["audio_to_vision"]
    nn.init.zeros_(block.gate.weight)
    nn.init.constant_(block.gate.bias, {"closed": -1e4, "open": 1e4}[gate])
    sender, receiver = inputs["audio"], inputs["vision"]
    source, target = Layout.of(sender), Layout.of(receiver)
    fused = block(source.rows(sender.values), target.rows(receiver.values), target.reads(source)).fused
    close(fused, case[f"outputs.h_gate_{gate}"][receiver.mask], tolerances(case, precision)[0])


@every_precision
def test_three_pairs(precision):
    case = Case.load("cmga", "case_three_pairs")
    numbers, norms = tolerances(case, precision)
    model = build(case, tuple(LETTERS.values()), precision)
    inputs = encoded(case, [(name, letter) for letter, name in LETTERS.items()], precision)
    seen = {}
    for key, block in model.network.blocks.items():
        block.register_forward_hook(
            lambda _, args, out, key=key: seen.__setitem__(key, args[2].queries.padded(out.fused))
        )
    model.network.fusion.register_forward_hook(lambda _, args, out: seen.update(U=out, layout=args[1]))
    state = model.network(inputs).named["states"]
    mask = case["outputs.mask"].bool()  # of three padded sequences; ours has what is real of them, in that order
    assert torch.equal(seen["layout"].lengths, mask.sum(1))
    for pair in ("at", "vt", "av"):
        sender, receiver = (LETTERS[letter] for letter in pair)
        real = inputs[receiver].mask
        close(seen[f"{sender}_to_{receiver}"][real], case[f"outputs.h_{pair}"][real], numbers)
    close(seen["U"], case["outputs.U"][mask], numbers)
    close(state, case["outputs.g"], numbers)
    total = (state * case["inputs.cotangent_g"].to(state)).sum()
    close(total, case["losses.total"], numbers)
    descend(model, total, inputs)
    close(gradient_norms(model, case.table(), names_of), case["gradnorm"], norms)
    for letter, name in LETTERS.items():
        close(inputs[name].values.grad, case[f"gradinput.z_{letter}"], numbers)


def test_parameter_counts():
    for name in (*SINGLE, "case_three_pairs"):
        case = Case.load("cmga", name)
        pairs = 3 if name == "case_three_pairs" else 1
        model = build(case, tuple(LETTERS.values()) if pairs == 3 else ("audio", "vision"), "float32")
        assert sum(p.numel() for p in model.parameters()) == case.info["parameter_count"]
        used = sum(p.numel() for p in model.network.parameters())
        assert used == case.info["parameter_count"] - pairs * 3 * 16 * 16
        assert pairs == 1 or used == case.info["parameter_count_without_unused_rows"]


# R2: kernels stored (in, out), raw values, two biases in the gate


R2 = {
    "Wq.kernel": (Piece("query.weight", torch.t),),
    "Wk.kernel": (Piece("key.weight", torch.t),),
    "Wm.kernel": (Piece("message.weight", torch.t),),
    "Wm.bias": "message.bias",
    "Wf.kernel": (Piece("gate.weight", torch.t),),
    "Wf.bias": "gate.bias",
    "bf": (),  # added below: one bias is enough
}


@every_precision
def test_pooled_vectors(precision):
    case = Case.load("cmga", "case_r2")
    numbers, norms = tolerances(case, precision)
    size = case.info["config"]["B"]
    block = GatedCrossAttention(case.info["config"]["D"], value="raw")
    fill(block, case.table(), R2.__getitem__)
    with torch.no_grad():
        block.gate.bias += golden_weight("bf", block.gate.bias.shape)
    block.to(getattr(torch, precision)).train()
    sender, receiver = (case[f"inputs.z_{key}"].to(block.gate.bias.dtype).requires_grad_() for key in "ij")
    # All samples at once; the numbers are those of samples passed alone.
    found = block(sender, receiver, Layout(torch.ones(size, dtype=torch.long), 1, sender.device).reads())
    for key, value in {"A": found.read, "f": found.gate, "m": found.message, "h": found.fused}.items():
        close(value, case[f"outputs.{key}"], numbers)
    total = (found.fused * case["inputs.cotangent"].to(found.fused)).sum()
    close(total, case["losses.total"], numbers)
    total.backward()
    both = {**R2, "bf": "gate.bias"}
    close(gradient_norms(block, case.table(), both.__getitem__), case["gradnorm"], norms)
    close(sender.grad, case["gradinput.z_i"], numbers)
    close(receiver.grad, case["gradinput.z_j"], numbers)


def test_the_slip_of_r2_is_the_size_of_the_batch():
    case = Case.load("cmga", "case_r2")
    numbers, _ = tolerances(case, "float64")
    block = GatedCrossAttention(case.info["config"]["D"], value="raw")
    fill(block, case.table(), R2.__getitem__)
    block.double()
    read, receiver = case.info["config"]["B"] * case["outputs.A"], case["inputs.z_j"]
    close(read, case["outputs.batch_A"], numbers)
    bias = golden_weight("bf", block.gate.bias.shape).double()
    gate = (block.gate(torch.cat([read, receiver], -1)) + bias).sigmoid()
    close((receiver + gate * block.message(read)).relu(), case["outputs.batch_h"], numbers)
