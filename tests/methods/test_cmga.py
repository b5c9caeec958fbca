"""CMGA: the gate at its ends, attention over real steps only, counts, and what every switch takes away."""

import math

import pytest
import torch
from torch import nn

from data_modules.schema import Batch, DataSpec, ModalitySpec, Sequence, TargetSpec
from mmbench.methods import ConfigError
from mmbench.methods.cmga import CMGA, CMGANetwork, average_steps
from mmbench.nn.gated_attention import FusionAttention, GatedCrossAttention
from mmbench.testing.builders import make_batch, make_spec, with_garbage
from tests.methods.test_mult import DIMS, LENGTHS, count, random_inputs

SMALL = {"dim": 8, "heads": 2}
LEFT_OUT = {  # one switch each, and the modules that it takes away or adds, by their names
    "use_gate": (False, {"gate"}, set()),
    "value": ("raw", {"value"}, set()),
    "normalize": (False, {"norm"}, set()),
    "text_layer": ("lstm", {"linear"}, {"lstm"}),
    "fusion": ("mean", {"fusion"}, set()),
    "fusion_residual": (True, set(), {"norm"}),
}


def tiny(dims=None, **settings):
    """Return a small network in double precision and evaluation mode."""
    torch.manual_seed(0)
    return CMGANetwork(dims or DIMS, 1, CMGA.Config(**{**SMALL, **settings})).double().eval()


def pair(lengths=((5, 3, 0), (4, 2, 1)), dim=8, **settings):
    """Return a block, and sender and receiver of the given lengths, zero beyond them."""
    torch.manual_seed(0)
    block = GatedCrossAttention(dim, **settings).double().eval()
    sequences = [Sequence(torch.randn(len(n), max(n), dim, dtype=torch.float64), torch.tensor(n)) for n in lengths]
    return block, *(Sequence(x.values * x.mask[..., None], x.lengths) for x in sequences)


def changed(network, inputs, name):
    """Return how much the prediction changes when a modality is exchanged between samples."""
    sequence = inputs[name]
    other = {**inputs, name: Sequence(sequence.values.roll(1, 0), sequence.lengths.roll(1, 0))}
    return (network(other).prediction - network(inputs).prediction).abs().max().item()


# The block


@pytest.mark.parametrize("residual", ["receiver", "source"])
def test_a_closed_gate_lets_nothing_pass(residual):
    block, sender, receiver = pair(((4, 2, 1), (4, 2, 1)), residual=residual)
    nn.init.zeros_(block.gate.weight)
    nn.init.constant_(block.gate.bias, -1e4)
    values = sender.values.requires_grad_()
    fused = block(values, receiver.values, sender.mask).fused
    assert torch.equal(fused, (receiver if residual == "receiver" else sender).values.relu())
    assert torch.equal(block(5 * values, receiver.values, sender.mask).fused, fused) == (residual == "receiver")
    grad = torch.autograd.grad(fused.sum(), values, allow_unused=True)[0]
    assert (grad.abs().max() > 0) == (residual == "source")


def test_an_open_gate_is_no_gate():
    block, sender, receiver = pair()
    nn.init.zeros_(block.gate.weight)
    nn.init.constant_(block.gate.bias, 1e4)
    found = block(sender.values, receiver.values, sender.mask)
    torch.testing.assert_close(found.fused, (receiver.values + found.message).relu())
    without = GatedCrossAttention(8, use_gate=False).double().eval()
    without.load_state_dict({name: x for name, x in block.state_dict().items() if not name.startswith("gate")})
    assert torch.equal(without(sender.values, receiver.values, sender.mask).fused, found.fused)


@pytest.mark.parametrize("settings", [{}, {"value": "raw"}, {"use_gate": False}, {"activation": "identity"}])
@torch.no_grad()
def test_a_block_equals_the_equations_step_by_step(settings):
    block, sender, receiver = pair(**settings)
    found = block(sender.values, receiver.values, sender.mask)
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
    found = block(sender.values, receiver.values, sender.mask)
    assert found.gate.gt(0).all()
    assert found.gate.lt(1).all()
    assert found.fused.ge(0).all()
    block, sender, receiver = pair(activation="identity")
    assert block(sender.values, receiver.values, sender.mask).fused.lt(0).any()


def test_attention_weights_sum_to_one_over_real_steps():
    block, sender, receiver = pair(value="raw")
    marked = Sequence(torch.cat([sender.values[..., :7], torch.ones(3, 5, 1).double()], -1), sender.lengths)
    read = block(marked.values, receiver.values, sender.mask).read[..., 7]
    torch.testing.assert_close(read, torch.tensor([[1.0], [1.0], [0.0]]).double().expand(3, 4))  # the last is absent


def test_the_order_of_the_sender_does_not_matter_nor_does_its_padding():
    block, sender, receiver = pair(((5, 3), (4, 2)))
    before = block(sender.values, receiver.values, sender.mask).fused
    order = torch.tensor([3, 0, 4, 2, 1])
    after = block(sender.values[:, order], receiver.values, sender.mask[:, order]).fused
    torch.testing.assert_close(after, before)
    garbage = sender.values.masked_fill(~sender.mask[..., None], 1e3)
    torch.testing.assert_close(block(garbage, receiver.values, sender.mask).fused, before)


def test_dropout_acts_on_attention_weights_in_training_only():
    block, sender, receiver = pair(dropout=0.5, value="raw")
    ones = torch.ones_like(sender.values)
    assert torch.equal(*(block(ones, receiver.values, sender.mask).read for _ in range(2)))
    read = block.train()(ones, receiver.values, sender.mask).read
    torch.testing.assert_close(read, read[..., :1].expand_as(read))  # whole steps drop, not single features
    assert len(read[0].unique()) > 1


@pytest.mark.parametrize("residual", [False, True])
def test_the_fusion_layer_equals_torch_multihead_attention(residual):
    torch.manual_seed(0)
    ours = FusionAttention(8, 2, residual=residual).double().eval()
    theirs = nn.MultiheadAttention(8, 2, batch_first=True).double().eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.packed.weight)
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(nn.init.normal_(ours.out.bias))
    x, mask = torch.randn(3, 6, 8).double(), torch.arange(6) < torch.tensor([6, 2, 4])[:, None]
    expected = theirs(x, x, x, key_padding_mask=~mask, need_weights=False)[0]
    if residual:
        expected = nn.functional.layer_norm(x + expected, (8,))
    torch.testing.assert_close(ours(x, mask), expected)


def test_nothing_but_absent_modalities_stays_finite():
    network = tiny().train()
    inputs = {name: Sequence(torch.ones(2, 3, dim).double(), torch.tensor([0, 3])) for name, dim in DIMS.items()}
    output = network(inputs)
    output.prediction.sum().backward()
    assert output.named["states"][0].eq(0).all()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


# The network


@pytest.mark.parametrize(
    ("settings", "pairs", "fusion"),
    [
        ({}, 295_680, 65_664),
        ({"directions": "both"}, 591_360, 65_664),
        ({"use_gate": False}, 295_680 - 98_688, 65_664),
        ({"value": "raw"}, 295_680 - 3 * 128**2, 65_664),
        ({"pairs": "text+audio"}, 98_560, 65_664),
        ({"use_cross": False}, 0, 65_664),
        ({"fusion": "mean"}, 295_680, 0),
        ({"fusion": "concat"}, 295_680, 0),
        ({"fusion_residual": True}, 295_680, 65_664 + 2 * 128),
    ],
)
def test_parameter_counts(settings, pairs, fusion):
    network = CMGANetwork({"text": 768, "audio": 74, "vision": 47}, 1, CMGA.Config(**settings))
    wide = 2 * 128**2 if settings.get("fusion") == "concat" else 0
    parts = {"blocks": pairs, "fusion": fusion, "head": 16_512 + 129 + wide}
    assert {name: count(getattr(network, name) or nn.Identity()) for name in parts} == parts
    assert settings or sum(parts.values()) == 377_985
    text, audio = (count(network.encoders[name]) for name in ("text", "audio"))
    assert text == 769 * 128 + 2 * 128
    assert audio == 2 * 4 * 64 * (74 + 64 + 2) + 2 * 128


@pytest.mark.parametrize(
    ("names", "settings", "expected"),
    [
        (("text", "audio", "vision"), {}, ["audio_to_text", "vision_to_text", "audio_to_vision"]),
        (("text", "vision"), {}, ["vision_to_text"]),
        (("audio", "vision"), {"directions": "both"}, ["audio_to_vision", "vision_to_audio"]),
        (("text", "audio", "vision"), {"pairs": "audio+vision, text+audio"}, ["audio_to_text", "audio_to_vision"]),
        (("text", "audio", "vision"), {"use_cross": False}, []),
    ],
)
def test_pairs_and_their_directions(names, settings, expected):
    dims = {name: DIMS[name] for name in names}
    network = tiny(dims, **settings)
    assert list(network.blocks) == expected
    output = network(random_inputs(LENGTHS, dims))
    assert set(output.named) == {"states", *(f"gate_{key}" for key in expected)}
    assert all(output.named[f"gate_{key}"].shape == (4,) for key in expected)


def test_modalities_outside_the_pairs_are_left_out():
    network, inputs = tiny(pairs="text+audio"), random_inputs(LENGTHS)
    assert list(network.encoders) == ["text", "audio"]
    assert changed(network, inputs, "vision") == 0
    assert changed(network, inputs, "text") > 0
    assert changed(network, inputs, "audio") > 0


def test_the_encoder_of_unused_tokens_is_not_built():
    spec = make_spec()
    spec.modalities["text"] = ModalitySpec("text", 100, 6, kind="tokens")
    with pytest.raises(ConfigError, match="set text_encoder to the Hugging Face model"):
        CMGA(spec)
    method = CMGA(spec, config=CMGA.Config(**SMALL, pairs="audio+vision"))
    assert tuple(method.spec.modalities) == tuple(method.dims) == ("audio", "vision")
    assert not [name for name, _ in method.named_parameters() if "text" in name]
    assert method(make_batch(make_spec(), 4)).prediction.shape == (4, 1)  # the batch has text all the same


def test_gates_are_means_over_real_steps():
    network, found = tiny(), {}
    for key, block in network.blocks.items():
        block.register_forward_hook(lambda _, __, out, key=key: found.__setitem__(key, out.gate))
    named = network(random_inputs(LENGTHS)).named
    for key, gate in found.items():
        receiver = key.split("_to_")[1]
        expected = [
            gate[row, :steps].mean() if steps else gate.new_zeros(()) for row, steps in enumerate(LENGTHS[receiver])
        ]
        torch.testing.assert_close(named[f"gate_{key}"], torch.stack(expected))


@pytest.mark.parametrize(("switch", "value", "gone", "new"), [(key, *rest) for key, rest in LEFT_OUT.items()])
def test_a_switch_takes_away_its_part_alone(switch, value, gone, new):
    network, other, inputs = tiny(), tiny(**{switch: value}), random_inputs(LENGTHS)
    before, after = (set(x.state_dict()) for x in (network, other))
    assert all(gone & set(name.split(".")) for name in before - after)
    assert all(new & set(name.split(".")) for name in after - before)
    assert bool(before - after) == bool(gone)
    assert bool(after - before) == bool(new)
    other.load_state_dict(network.state_dict(), strict=False)
    assert (other(inputs).prediction - network(inputs).prediction).abs().max() > 1e-4


@pytest.mark.parametrize("settings", [{"activation": "identity"}, {"pool": 2}, {"use_cross": False}])
def test_other_switches_change_the_prediction(settings):
    network, other, inputs = tiny(), tiny(**settings), random_inputs(LENGTHS)
    other.load_state_dict(network.state_dict(), strict=False)
    assert (other(inputs).prediction - network(inputs).prediction).abs().max() > 1e-4


def test_a_residual_from_the_source_changes_the_prediction_of_aligned_data():
    inputs = random_inputs(dict.fromkeys(DIMS, (6, 3, 4)))
    assert (tiny(residual="source")(inputs).prediction - tiny()(inputs).prediction).abs().max() > 1e-4


def test_without_cross_attention_every_modality_enters_once():
    network, inputs, seen = tiny(use_cross=False), random_inputs(LENGTHS), []
    network.fusion.register_forward_pre_hook(lambda _, args: seen.extend(args))
    network(inputs)
    values, mask = seen
    assert mask.sum(1).tolist() == [sum(LENGTHS[name][row] for name in DIMS) for row in range(4)]
    torch.testing.assert_close(values[:, :9], network.encoders["text"](inputs["text"]).values)
    assert all(changed(network, inputs, name) > 0 for name in DIMS)


@pytest.mark.parametrize("fusion", ["mean", "concat"])
def test_plain_fusions_are_means_of_real_steps(fusion):
    network, inputs, found = tiny(fusion=fusion), random_inputs(LENGTHS), {}
    for key, block in network.blocks.items():
        block.register_forward_hook(lambda _, __, out, key=key: found.__setitem__(key, out.fused))
    states = network(inputs).named["states"]
    for row in range(3):
        parts = [fused[row, : LENGTHS[key.split("_to_")[1]][row]] for key, fused in found.items()]
        expected = torch.cat(parts).mean(0) if fusion == "mean" else torch.cat([part.mean(0) for part in parts])
        torch.testing.assert_close(states[row], expected)


@pytest.mark.parametrize("settings", [{"directions": "both", "fusion_residual": True}, {"fusion": "concat", "pool": 3}])
@pytest.mark.parametrize("text_layer", ["linear", "lstm"])
def test_variants_train_every_parameter_and_ignore_padding(settings, text_layer):
    spec = make_spec()
    method = CMGA(spec, config=CMGA.Config(**SMALL, **settings, text_layer=text_layer)).train()
    batch = make_batch(spec, 8)
    method.objective(method(batch), batch)["task"].backward()
    assert [name for name, p in method.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    method.eval()
    torch.testing.assert_close(method(with_garbage(batch)).prediction, method(batch).prediction)


@pytest.mark.parametrize("factor", [1, 2, 3, 20])
def test_average_steps_equals_a_loop(factor):
    torch.manual_seed(0)
    sequence = Sequence(torch.randn(4, 7, 3), torch.tensor([7, 4, 1, 0]))
    got = average_steps(sequence, factor)
    assert got.values.shape[1] == math.ceil(7 / factor)
    for row, length in enumerate((7, 4, 1, 0)):
        groups = [sequence.values[row, at : min(at + factor, length)].mean(0) for at in range(0, length, factor)]
        assert got.lengths[row] == len(groups)
        for step, expected in enumerate(groups):
            torch.testing.assert_close(got.values[row, step], expected)
        assert got.values[row, len(groups) :].eq(0).all()


def test_text_keeps_its_steps_when_others_are_averaged():
    network, inputs, seen = tiny(pool=3), random_inputs(LENGTHS), {}
    for key, encoder in network.encoders.items():
        encoder.register_forward_hook(lambda _, args, __, key=key: seen.__setitem__(key, args[0].lengths.tolist()))
    network(inputs)
    averaged = {name: [math.ceil(steps / 3) for steps in LENGTHS[name]] for name in ("audio", "vision")}
    assert seen == {"text": LENGTHS["text"], **averaged}


def test_every_dropout_reaches_its_place():
    network = tiny(dropout=0.1, text_dropout=0.2, head_dropout=0.3)
    assert {block.dropout for block in network.blocks.values()} == {network.fusion.dropout.p} == {0.1}
    assert [encoder.dropout.p for encoder in network.encoders.values()] == [0.2, 0.0, 0.0]
    assert network.head[0].p == 0.3
    network = tiny(text_dropout=0.5).train()
    network.encoders["text"].linear.register_forward_pre_hook(lambda _, args: dropped.extend(args))
    dropped, inputs = [], random_inputs(LENGTHS)
    network(inputs)
    kept = dropped[0] != 0
    assert 0.3 < kept[inputs["text"].mask].double().mean() < 0.7


# Learning


def cues(names):
    """Return a batch whose label is the product of a sign in the text and one in the audio; vision says nothing."""
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).repeat(8, 1)
    values = {"text": signs[:, :1], "audio": signs[:, 1:], "vision": torch.zeros(32, 1)}
    inputs = {m: Sequence(values[m][:, None].expand(-1, 3, -1), torch.full((32,), 3)) for m in names}
    return Batch(inputs, signs.prod(1), torch.arange(32))


@pytest.mark.parametrize(("pairs", "learns"), [("text+audio", True), ("text+vision", False)])
def test_a_product_of_two_modalities_can_be_learnt_and_only_from_both(pairs, learns):
    torch.manual_seed(0)
    names = ("text", "audio", "vision")
    target = TargetSpec("regression", ("product",), -1.0, 1.0)
    spec = DataSpec("made_up", "cues", "standard", {m: ModalitySpec(m, 1, 3) for m in names}, target)
    settings = {"dim": 16, "heads": 4, "dropout": 0.0, "text_dropout": 0.0, "head_dropout": 0.0, "pairs": pairs}
    method, batch = CMGA(spec, config=CMGA.Config(**settings)), cues(names)
    optimizer = torch.optim.Adam(method.parameters(), lr=5e-3)
    for _ in range(200):
        loss = sum(method.objective(method(batch), batch).values())
        if loss < 0.05:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # From one sign alone no prediction beats the median of two opposite labels, an error of 1.
    assert loss < 0.05 if learns else loss > 0.99


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 7}, "CMGA: setting 'dim' is 7; it must be even"),
        ({"dim": 36}, "'heads' is 8; it must divide dim, 36"),
        ({"pairs": "text+sound"}, r"'pairs' names 'text\+sound'; the pairs are: text\+audio, text\+vision, audio\+"),
        ({"pairs": "text"}, "'pairs' names 'text'"),
        ({"fusion": "mean", "fusion_residual": True}, "'fusion_residual' is on; it needs fusion 'mha', not 'mean'"),
        ({"use_cross": False, "use_gate": False}, "'use_gate' is False; it needs use_cross, which is off"),
        ({"use_cross": False, "value": "raw"}, "'value' is 'raw'; it needs use_cross"),
        ({"use_cross": False, "residual": "source"}, "'residual' is 'source'; it needs use_cross"),
        ({"use_cross": False, "activation": "identity"}, "'activation' is 'identity'; it needs use_cross"),
        ({"use_cross": False, "directions": "both"}, "'directions' is 'both'; it needs use_cross"),
        ({"residual": "source", "pool": 2}, "'pool' is 2; with residual 'source' all modalities keep their lengths"),
        ({"fusion": "sum"}, "'fusion' is 'sum'; it must be one of: mha, mean, concat"),
        ({"dropout": 1.5}, "'dropout' is 1.5; it must be at most 1"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        CMGA.Config(**settings)


def test_data_that_do_not_fit_are_refused():
    spec = make_spec()
    with pytest.raises(ConfigError, match="'residual' is 'source', which needs modalities of equal lengths"):
        CMGA(spec, config=CMGA.Config(residual="source"))
    CMGA(make_spec(steps=1), config=CMGA.Config(residual="source"))  # single vectors are aligned
    with pytest.raises(ConfigError, match="'pairs' needs vision; toy/random/standard has text, audio"):
        CMGA(spec.select(("text", "audio")), config=CMGA.Config(pairs="text+vision"))
    with pytest.raises(ConfigError, match="at least 2 modalities"):
        CMGA(spec.select(("text",)))
