"""CMGA: its modules and counts, what every switch takes away, what it learns, and what is refused."""

import math

import pytest
import torch
from torch import nn

from data_modules.schema import Batch, DataSpec, ModalitySpec, PaddedSequence, TargetSpec
from mmbench.methods import ConfigError
from mmbench.methods.cmga import CMGA
from mmbench.methods.cmga.network import CMGANetwork, average_steps
from mmbench.testing.builders import make_batch, make_spec, with_garbage
from tests.methods.forms import assert_forms_agree
from tests.methods.mult.test_method import DIMS, LENGTHS, count, random_inputs

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


def changed(network, inputs, name):
    """Return how much the prediction changes when a modality is exchanged between samples."""
    sequence = inputs[name]
    other = {**inputs, name: PaddedSequence(sequence.values.roll(1, 0), sequence.lengths.roll(1, 0))}
    return (network(other).prediction - network(inputs).prediction).abs().max().item()


# The network


@pytest.mark.parametrize(
    "settings", [{}, {"fusion": "mean"}, {"fusion": "concat", "pool": 2}, {"use_cross": False, "text_layer": "lstm"}]
)
def test_real_steps_alone_give_the_numbers_of_all_steps(settings):
    network, inputs = tiny(**dict.fromkeys(("dropout", "text_dropout", "head_dropout"), 0.0), **settings), {}
    for name, sequence in random_inputs(LENGTHS).items():
        lengths = sequence.lengths * torch.tensor([1, 1, 0, name != "audio"])  # one sample has nothing, one no audio
        inputs[name] = PaddedSequence(
            sequence.values * PaddedSequence(sequence.values, lengths).mask[..., None], lengths
        )
    assert_forms_agree(network.train(), lambda: network(inputs).prediction)


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
        block.register_forward_hook(
            lambda _, args, out, key=key: found.__setitem__(key, args[2].queries.padded(out.gate))
        )
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
    rows, layout = seen
    assert layout.lengths.tolist() == [sum(LENGTHS[name][row] for name in DIMS) for row in range(4)]
    parts = [encoder(inputs[name]) for name, encoder in network.encoders.items()]
    encoded = [layout.padded(rows) for rows, layout in parts]
    for row, joined in enumerate(layout.padded(rows)):
        expected = torch.cat([x[row, : LENGTHS[name][row]] for name, x in zip(DIMS, encoded, strict=True)])
        torch.testing.assert_close(joined[: len(expected)], expected)
    assert all(changed(network, inputs, name) > 0 for name in DIMS)


@pytest.mark.parametrize("fusion", ["mean", "concat"])
def test_plain_fusions_are_means_of_real_steps(fusion):
    network, inputs, found = tiny(fusion=fusion), random_inputs(LENGTHS), {}
    for key, block in network.blocks.items():
        block.register_forward_hook(
            lambda _, args, out, key=key: found.__setitem__(key, args[2].queries.padded(out.fused))
        )
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
    sequence = PaddedSequence(torch.randn(4, 7, 3), torch.tensor([7, 4, 1, 0]))
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
    assert 0.3 < kept.double().mean() < 0.7


# Learning


def cues(names):
    """Return a batch whose label is the product of a sign in the text and one in the audio; vision says nothing."""
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).repeat(8, 1)
    values = {"text": signs[:, :1], "audio": signs[:, 1:], "vision": torch.zeros(32, 1)}
    inputs = {m: PaddedSequence(values[m][:, None].expand(-1, 3, -1), torch.full((32,), 3)) for m in names}
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
