"""MCMulT: MulT where it reads the lowest level alone, and what cooperation implies."""

import pytest
import torch

from data_modules.schema import PaddedSequence
from mmbench.methods import ConfigError
from mmbench.methods.mcmult import MCMulT
from mmbench.methods.mcmult.network import MCMulTNetwork
from mmbench.methods.mult import MulT
from mmbench.methods.mult.network import MulTNetwork
from tests.methods.mcmult.parts import SMALL, WAYS, tiny, watch
from tests.methods.mult.test_method import DIMS, LENGTHS, data_spec, random_inputs
from tests.methods.parts import count


def gradient(output, parameter):
    grad = torch.autograd.grad(output.square().sum(), parameter, retain_graph=True, allow_unused=True)[0]
    return 0.0 if grad is None else grad.abs().max().item()


# MulT


@pytest.mark.parametrize(
    "settings", [{}, {"padding": "left"}, {"causal_mask": False}, {"layers": 1}, {"kernel_text": 3, "pooling": "mean"}]
)
@pytest.mark.parametrize("names", [tuple(DIMS), ("audio", "vision")])
def test_the_lowest_level_alone_is_mult(names, settings):
    dims = {name: DIMS[name] for name in names}
    network = tiny(dims, level_fusion="low", **settings)
    mult = MulTNetwork(dims, 1, MulT.Config(**{**SMALL, **settings})).double().eval()
    mult.load_state_dict(network.state_dict())  # the same parameters under the same names
    ours, theirs, inputs = watch(network), watch(mult), random_inputs(LENGTHS, dims)
    predictions = network(inputs)[0], mult(inputs)[0]
    assert len(ours) == len(names) * (len(names) - 1)
    for key, output in ours.items():
        torch.testing.assert_close(output, theirs[key], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*predictions, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("settings", WAYS)
def test_one_block_has_one_level_and_two_are_not_mult(settings):
    for layers in (1, 2):
        network, inputs = tiny(layers=layers, **settings), random_inputs(LENGTHS)
        if settings.get("level_fusion") == "concat":
            for reader in (reader for readers in network.readers.values() for reader in readers):
                reader.marks.data.zero_()
        mult = MulTNetwork(DIMS, 1, MulT.Config(**{**SMALL, "layers": layers})).double().eval()
        mult.load_state_dict({name: x for name, x in network.state_dict().items() if not name.startswith("readers")})
        ours, theirs = watch(network), watch(mult)
        network(inputs), mult(inputs)
        for key, output in ours.items():
            assert torch.allclose(output, theirs[key], rtol=1e-12, atol=1e-12) == (layers == 1), (key, layers)


def test_in_training_keys_and_values_of_the_lowest_level_drop_apart_as_in_mult():
    network, seen = tiny(embed_dropout=0.5).train(), []
    for readers in network.readers.values():
        readers[2].register_forward_pre_hook(lambda _, args: seen.append(args[2]))
    network(random_inputs(LENGTHS))
    assert len(seen) == 6
    for (lowest_keys, lowest_values), *higher in seen:
        assert not torch.equal(lowest_keys, lowest_values)
        kept = (lowest_keys != 0) & (lowest_values != 0)
        assert torch.equal(lowest_keys[kept], lowest_values[kept])
        assert all(keys is values for keys, values in higher)


@pytest.mark.parametrize(
    ("dims", "outputs", "settings", "beyond"),
    [
        # 1,073,731 and 874,651 are MulT's; a stream has 1 + 2 + ... + D gates.
        ((300, 74, 35), 1, {"layers": 5}, 1_073_821),
        ((300, 74, 35), 1, {"layers": 4}, 874_711),
        ((300, 74, 35), 1, {"layers": 4, "level_window": 2}, 874_651 + 6 * (1 + 2 + 2 + 2)),
        ((300, 74, 35), 1, {"layers": 4, "level_fusion": "mean"}, 874_651),
        ((300, 74, 35), 1, {"layers": 4, "level_fusion": "last"}, 874_651),
        ((300, 74, 35), 1, {"layers": 4, "level_fusion": "concat"}, 874_651 + 6 * 10 * 30),
        # One more attention, 4 (d d + d), per level above the first of a block.
        ((300, 74, 35), 1, {"layers": 4, "share_attention": False}, 874_711 + 6 * (1 + 2 + 3) * 4 * (900 + 30)),
        # Three levels of self-attention for each of three modalities, 12 d d + 13 d each.
        ((300, 74, 35), 1, {"layers": 4, "source": "self"}, 874_711 + 9 * (12 * 900 + 13 * 30)),
    ],
)
def test_parameter_counts(dims, outputs, settings, beyond):
    network = MCMulTNetwork(dict(zip(DIMS, dims, strict=True)), outputs, MCMulT.Config(**settings))
    assert count(network) == beyond


# Cooperation


@pytest.mark.parametrize(
    ("settings", "cooperates"),
    [({}, True), ({"level_fusion": "low"}, False), ({"detach_source": True}, False), ({"source": "self"}, False)],
)
def test_the_gradient_reaches_the_blocks_of_the_partner(settings, cooperates):
    network = tiny({"text": 12, "audio": 6}, **settings)
    outputs = watch(network)
    network(random_inputs(LENGTHS, {"text": 12, "audio": 6}))
    for ours, partner in (("audio_to_text", "text_to_audio"), ("text_to_audio", "audio_to_text")):
        first, *_, last = (layer.network[0].weight for layer in network.crossmodal[partner].layers)
        assert (gradient(outputs[ours], first) > 1e-6) == cooperates
        assert gradient(outputs[ours], last) == 0.0  # no block is left that could read it
        assert gradient(outputs[ours], network.crossmodal[ours].layers[0].network[0].weight) > 1e-6


def test_detaching_changes_no_value():
    network, detached, inputs = tiny(), tiny(detach_source=True), random_inputs(LENGTHS)
    detached.load_state_dict(network.state_dict())
    assert torch.equal(network(inputs)[0], detached(inputs)[0])


def test_streams_see_their_pair_only():
    network, inputs = tiny(), random_inputs(LENGTHS)
    outputs = watch(network)
    for sequence in inputs.values():
        sequence.values.requires_grad_()
    network(inputs)
    for key, output in outputs.items():
        for name, sequence in inputs.items():
            assert (gradient(output, sequence.values) > 0) == (name in key.split("_to_")), (key, name)


def test_exchanging_the_modalities_of_a_pair_exchanges_the_streams():
    dims, swapped = {"text": 12, "audio": 6}, {"text": 6, "audio": 12}
    network, mirror = tiny(dims), tiny(swapped)
    exchange = {"text": "audio", "audio": "text", "text_to_audio": "audio_to_text", "audio_to_text": "text_to_audio"}
    names = {name: ".".join(exchange.get(part, part) for part in name.split(".")) for name in network.state_dict()}
    weights = {names[name]: x for name, x in network.state_dict().items()}
    mirror.load_state_dict({**weights, **{name: x for name, x in mirror.state_dict().items() if "head" in name}})
    inputs = random_inputs(LENGTHS, dims)
    ours, theirs = watch(network), watch(mirror)
    network(inputs), mirror({exchange[name]: sequence for name, sequence in inputs.items()})
    for key, output in ours.items():
        torch.testing.assert_close(output, theirs[exchange[key]], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("settings", [*WAYS, {"share_attention": False}, {"source": "self"}, {"detach_source": True}])
def test_every_setting_trains_every_parameter(settings):
    network = tiny(**settings).train()
    network(random_inputs(LENGTHS))[0].sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_sixteen_random_samples_can_be_learnt():
    torch.manual_seed(0)
    still = dict.fromkeys(
        ("embed_dropout", "attention_dropout", "relu_dropout", "residual_dropout", "output_dropout"), 0.0
    )
    network = MCMulTNetwork({"text": 12, "audio": 6, "vision": 7}, 1, MCMulT.Config(**SMALL, **still))
    lengths = {name: [steps] * 16 for name, steps in (("text", 9), ("audio", 17), ("vision", 13))}
    inputs = random_inputs(lengths, {"text": 12, "audio": 6, "vision": 7})
    inputs = {name: PaddedSequence(x.values.float(), x.lengths) for name, x in inputs.items()}
    label, optimizer = torch.randn(16, 1), torch.optim.Adam(network.parameters(), lr=5e-3)
    for _ in range(200):
        loss = (network(inputs)[0] - label).abs().mean()
        if loss < 0.1:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 4}, "MCMulT: setting 'heads' is 4; it must divide dim, 30"),
        ({"only": "text"}, "'only' is 'text', but both streams of a pair build on each other"),
        ({"level_fusion": "low", "level_window": 2}, "'level_window' is 2, but level_fusion 'low' reads one level"),
        ({"level_fusion": "last", "level_window": 2}, "'level_window' is 2, but level_fusion 'last' reads one level"),
        ({"level_fusion": "low", "source": "self"}, "'source' is 'self', but level_fusion 'low' reads the input alone"),
        ({"level_fusion": "low", "detach_source": True}, "'detach_source' is True, but it needs a source 'partner'"),
        ({"source": "self", "detach_source": True}, "'detach_source' is True, but it needs a source 'partner'"),
        ({"level_fusion": "concat", "share_attention": False}, "'share_attention' is False, but only level_fusion"),
        ({"level_window": 1, "share_attention": False}, "'share_attention' is False, but only level_fusion"),
        ({"level_fusion": "sum"}, "'level_fusion' is 'sum'; it must be one of: gated_sum, mean, concat, last, low"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        MCMulT.Config(**settings)


def test_one_modality_is_refused():
    with pytest.raises(ConfigError, match="at least 2 modalities"):
        MCMulT(data_spec().select(("text",)))
