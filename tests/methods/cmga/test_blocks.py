"""CMGA's attention: the gate at its ends, the equations step by step, real steps only, and torch's own layer."""

import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from data_modules.schema import PaddedSequence
from mmbench.methods.cmga.gated_attention import FusionAttention, GatedCrossAttention, Interaction
from mmbench.nn.steps import Layout
from tests.methods.cmga.test_method import tiny
from tests.methods.forms import padded_form
from tests.methods.mult.test_method import DIMS, LENGTHS, random_inputs


def pair(lengths=((5, 3, 0), (4, 2, 1)), dim=8, **settings):
    """Return a block, and sender and receiver of the given lengths, zero beyond them."""
    torch.manual_seed(0)
    block = GatedCrossAttention(dim, **settings).double().eval()
    sequences = [
        PaddedSequence(torch.randn(len(n), max(n), dim, dtype=torch.float64), torch.tensor(n)) for n in lengths
    ]
    return block, *(PaddedSequence(x.values * x.mask[..., None], x.lengths) for x in sequences)


def interact(block, sender, receiver):
    """Return what a block makes of padded sequences, padded."""
    source, target = Layout.of(sender), Layout.of(receiver)
    found = block(source.rows(sender.values), target.rows(receiver.values), target.reads(source))
    return Interaction(*map(target.padded, found))


@pytest.mark.parametrize("residual", ["receiver", "source"])
def test_a_closed_gate_lets_nothing_pass(residual):
    block, sender, receiver = pair(((4, 2, 1), (4, 2, 1)), residual=residual)
    nn.init.zeros_(block.gate.weight)
    nn.init.constant_(block.gate.bias, -1e4)
    values = sender.values.requires_grad_()
    fused = interact(block, sender, receiver).fused
    assert torch.equal(fused, (receiver if residual == "receiver" else sender).values.relu())
    louder = PaddedSequence(5 * values, sender.lengths)
    assert torch.equal(interact(block, louder, receiver).fused, fused) == (residual == "receiver")
    grad = torch.autograd.grad(fused.sum(), values, allow_unused=True)[0]
    assert (grad.abs().max() > 0) == (residual == "source")


def test_an_open_gate_is_no_gate():
    block, sender, receiver = pair()
    nn.init.zeros_(block.gate.weight)
    nn.init.constant_(block.gate.bias, 1e4)
    found = interact(block, sender, receiver)
    torch.testing.assert_close(found.fused, (receiver.values + found.message).relu())
    without = GatedCrossAttention(8, use_gate=False).double().eval()
    without.load_state_dict({name: x for name, x in block.state_dict().items() if not name.startswith("gate")})
    assert torch.equal(interact(without, sender, receiver).fused, found.fused)


@pytest.mark.parametrize("form", [nullcontext, padded_form])
@pytest.mark.parametrize("settings", [{}, {"value": "raw"}, {"use_gate": False}, {"activation": "identity"}])
@torch.no_grad()
def test_a_block_equals_the_equations_step_by_step(settings, form):
    block, sender, receiver = pair(**settings)
    with form():
        found = interact(block, sender, receiver)
    for row in range(3):
        z_i, z_j = (x.values[row, : x.lengths[row]] for x in (sender, receiver))
        values = z_i if settings.get("value") == "raw" else z_i @ block.value.weight.T
        for step, state in enumerate(z_j):
            scores = (
                torch.stack([(block.query.weight @ state) @ (block.key.weight @ z) for z in z_i]) if len(z_i) else []
            )
            weights = [math.exp(score / math.sqrt(8)) for score in scores]
            read = sum((w / sum(weights) * v for w, v in zip(weights, values, strict=True)), torch.zeros(8).double())
            gate = torch.ones(8).double()
            if block.gate is not None:
                gate = 1 / (1 + (-block.gate.weight @ torch.cat([read, state]) - block.gate.bias).exp())
            fused = state + gate * (block.message.weight @ read + block.message.bias)
            if settings.get("activation") != "identity":
                fused = fused.clamp(min=0)
            for name, expected in {"read": read, "gate": gate, "fused": fused}.items():
                torch.testing.assert_close(getattr(found, name)[row, step], expected)


def test_the_gate_is_a_share_and_the_result_is_not_negative():
    block, sender, receiver = pair()
    found = interact(block, sender, receiver)
    assert found.gate[receiver.mask].gt(0).all()
    assert found.gate.lt(1).all()
    assert found.fused.ge(0).all()
    block, sender, receiver = pair(activation="identity")
    assert interact(block, sender, receiver).fused.lt(0).any()


def test_attention_weights_sum_to_one_over_real_steps():
    block, sender, receiver = pair(value="raw")
    marked = PaddedSequence(torch.cat([sender.values[..., :7], torch.ones(3, 5, 1).double()], -1), sender.lengths)
    read = interact(block, marked, receiver).read[..., 7]
    expected = receiver.mask.double() * torch.tensor([[1.0], [1.0], [0.0]])  # the last sender is absent
    torch.testing.assert_close(read, expected)


@pytest.mark.parametrize("form", [nullcontext, padded_form])
def test_nothing_is_read_of_an_absent_sender(form):
    network, inputs, found = tiny(), random_inputs(LENGTHS), []
    nn.init.ones_(network.encoders["audio"].norm.bias)  # so that what stands for no step is encoded as something
    inputs["audio"] = PaddedSequence(torch.zeros_like(inputs["audio"].values), torch.tensor([7, 17, 0, 4]))
    network.blocks["audio_to_text"].register_forward_hook(
        lambda _, args, out: found.append(args[2].queries.padded(out.read))
    )
    with form():
        network(inputs)
    assert not found[0][2].any()
    assert found[0][[0, 1, 3], 0].any(-1).all()


def test_the_order_of_the_sender_does_not_matter_nor_does_its_padding():
    block, sender, receiver = pair(((5, 3), (4, 2)))
    before = interact(block, sender, receiver).fused
    order = torch.tensor([[3, 0, 4, 2, 1], [2, 0, 1, 3, 4]])[..., None].expand(-1, -1, 8)
    shuffled = PaddedSequence(sender.values.gather(1, order), sender.lengths)
    torch.testing.assert_close(interact(block, shuffled, receiver).fused, before)
    with padded_form():  # where there are rows of padding
        plan = Layout.of(receiver).reads(Layout.of(sender))
    garbage = sender.values.masked_fill(~sender.mask[..., None], 1e3)
    after = block(garbage.flatten(0, 1), receiver.values.flatten(0, 1), plan).fused
    torch.testing.assert_close(plan.queries.padded(after), before)


def test_dropout_acts_on_attention_weights_in_training_only():
    block, sender, receiver = pair(((5, 3, 0), (40, 2, 1)), dropout=0.5, value="raw")
    ones = PaddedSequence(torch.ones_like(sender.values), sender.lengths)
    assert torch.equal(*(interact(block, ones, receiver).read for _ in range(2)))
    read = interact(block.train(), ones, receiver).read
    torch.testing.assert_close(read, read[..., :1].expand_as(read))  # whole steps drop, not single features
    assert len(read[0].unique()) > 1


@pytest.mark.parametrize("form", [nullcontext, padded_form])
@pytest.mark.parametrize("residual", [False, True])
def test_the_fusion_layer_equals_torch_multihead_attention(residual, form):
    torch.manual_seed(0)
    ours = FusionAttention(8, 2, residual=residual).double().eval()
    theirs = nn.MultiheadAttention(8, 2, batch_first=True).double().eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.packed.weight)
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(nn.init.normal_(ours.out.bias))
    x, lengths = torch.randn(3, 6, 8).double(), torch.tensor([6, 2, 4])
    mask = torch.arange(6) < lengths[:, None]
    expected = theirs(x, x, x, key_padding_mask=~mask, need_weights=False)[0]
    if residual:
        expected = nn.functional.layer_norm(x + expected, (8,))
    with form():
        layout = Layout.of(PaddedSequence(x, lengths))
        found = layout.padded(ours(layout.rows(x), layout))
    torch.testing.assert_close(found, expected * mask[..., None])


def test_nothing_but_absent_modalities_stays_finite():
    network = tiny().train()
    inputs = {name: PaddedSequence(torch.ones(2, 3, dim).double(), torch.tensor([0, 3])) for name, dim in DIMS.items()}
    output = network(inputs)
    output.prediction.sum().backward()
    assert output.named["states"][0].eq(0).all()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())
