"""MCMulT: MulT where it reads the lowest level alone, a written-out pair elsewhere, and what cooperation implies."""

import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from data_modules.schema import PaddedSequence
from mmbench.methods import ConfigError
from mmbench.methods.mcmult import MCMulT
from mmbench.methods.mcmult.cooperative import LevelReader, levels_read
from mmbench.methods.mcmult.network import MCMulTNetwork
from mmbench.methods.mult import MulT
from mmbench.methods.mult.network import MulTNetwork
from mmbench.nn.transformer import TransformerLayer, position_vectors
from tests.methods.forms import assert_forms_agree
from tests.methods.mult.test_method import DIMS, LENGTHS, count, data_spec, random_inputs
from tests.methods.training import assert_samples_stand_alone

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


# The levels of a pair


def attention(part, query, keys, values, bias):
    """Multi-head attention written out."""
    dim, mixed = query.shape[-1], []
    (wq, wk, wv), (bq, bk, bv) = part.packed.weight.split(dim), part.packed.bias.split(dim)
    width = dim // part.heads
    for head in range(part.heads):
        cut = slice(head * width, (head + 1) * width)
        q, k, v = query @ wq[cut].T + bq[cut], keys @ wk[cut].T + bk[cut], values @ wv[cut].T + bv[cut]
        mixed.append((q @ k.mT / math.sqrt(width) + bias).softmax(-1) @ v)
    return torch.cat(mixed, -1) @ part.out.weight.T + part.out.bias


def written_out(network, settings, inputs, first, second):
    """Return the two streams of a pair, (source second, source first), from the equations; whole sequences only."""
    fusion, depth = settings.get("level_fusion", "gated_sum"), len(network.reads)
    targets = {f"{second}_to_{first}": first, f"{first}_to_{second}": second}
    (one, other), levels = targets, {}
    for key, name in targets.items():
        x = network.project[name](inputs[name].values.mT).mT
        levels[key] = [
            math.sqrt(x.shape[2]) * x + position_vectors(torch.arange(1, x.shape[1] + 1), x.shape[2], x.dtype)
        ]
    alone = {}
    for name in targets.values() if settings.get("source") == "self" else ():
        x = levels[next(key for key in targets if targets[key] == name)][0]
        alone[name] = [x]
        for layer in network.alone[name]:
            hidden = torch.full((x.shape[1], x.shape[1]), -torch.inf, dtype=x.dtype).triu(1)
            h = layer.attention_norm(x)
            h = x + attention(layer.attention, h, h, h, hidden)
            x = h + layer.network(layer.network_norm(h))
            alone[name].append(x)
    for block in range(1, depth + 1):
        new = {}
        for key, partner in ((one, other), (other, one)):
            layer, reader = network.crossmodal[key].layers[block - 1], network.readers[key][block - 1]
            x, source = levels[key][-1], alone.get(targets[partner], levels[partner])
            lowest = max(0, block - (settings.get("level_window") or block)) if fusion != "last" else block - 1
            read = [layer.attention_norm(source[j]) for j in range(lowest, block)]
            queries, steps = x.shape[1], read[0].shape[1]
            ahead = torch.arange(steps) - torch.arange(queries)[:, None] > abs(steps - queries)
            bias = torch.zeros(queries, steps, dtype=x.dtype).masked_fill(ahead, -torch.inf)
            query = layer.attention_norm(x)
            if fusion == "concat":
                marked = torch.cat([part + mark for part, mark in zip(read, reader.marks, strict=True)], 1)
                c = attention(layer.attention, query, marked, marked, torch.cat([bias] * len(read), -1))
            else:
                own = [layer.attention, *(reader.others if len(reader.others) else [layer.attention] * len(read))]
                parts = [attention(part, query, k, k, bias) for part, k in zip(own, read, strict=False)]
                weights = [1 / len(read)] * len(read)
                if fusion == "gated_sum":
                    weights = reader.gates.exp() / reader.gates.exp().sum()
                c = sum(weight * part for weight, part in zip(weights, parts, strict=True))
            h = x + c
            new[key] = h + layer.network(layer.network_norm(h))
        for key, state in new.items():
            levels[key].append(state)
    return {key: network.crossmodal[key].norm(levels[key][-1]) for key in targets}


@pytest.mark.parametrize("settings", [*WAYS, {"share_attention": False}, {"source": "self"}])
def test_streams_equal_the_equations(settings):
    whole = {"text": [9, 9], "audio": [7, 7], "vision": [4, 4]}  # nothing is padded
    network, inputs = tiny(**settings), random_inputs(whole)
    watched = watch(network)
    network(inputs)
    outputs = dict(watched)  # the equations use the norms that are watched
    for first, second in combinations(DIMS, 2):
        for key, expected in written_out(network, settings, inputs, first, second).items():
            torch.testing.assert_close(outputs[key], expected.flatten(0, 1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("settings", [*WAYS, {"share_attention": False}, {"source": "self"}, {"causal_mask": False}])
def test_samples_do_not_depend_on_padding_or_on_their_neighbours(settings):
    assert_samples_stand_alone(tiny(PAIR, **settings), random_inputs(LENGTHS, PAIR))


@pytest.mark.parametrize("settings", [*WAYS, {"share_attention": False}, {"source": "self"}, {"causal_mask": False}])
def test_both_forms_give_the_same(settings):
    network, inputs = tiny(PAIR, **settings), random_inputs(LENGTHS, PAIR)
    assert_forms_agree(network, lambda: torch.cat(network(inputs), -1))


@pytest.mark.parametrize(
    ("fusion", "window", "expected"),
    [
        ("gated_sum", 0, [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]),
        ("concat", 2, [[0], [0, 1], [1, 2], [2, 3]]),
        ("mean", 9, [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]),
        ("last", 0, [[0], [1], [2], [3]]),
        ("low", 0, [[0], [0], [0], [0]]),
    ],
)
def test_levels_that_a_block_reads(fusion, window, expected):
    assert [list(levels_read(block, fusion, window)) for block in (1, 2, 3, 4)] == expected


def test_every_way_to_read_levels_gives_something_else():
    inputs, found = random_inputs(LENGTHS, PAIR), []
    weights = tiny(PAIR).state_dict()
    for settings in (*WAYS, {"level_fusion": "low"}, {"source": "self"}):
        network = tiny(PAIR, **settings)
        shared = {name: x for name, x in weights.items() if not name.startswith("readers")}
        network.load_state_dict(shared, strict=False)  # the same but for what reads the levels
        found.append(network(inputs)[0])
    for one, other in combinations(found, 2):
        assert (one - other).abs().max() > 1e-4


def test_gates_start_as_the_mean_and_every_block_of_every_stream_has_its_own():
    config = MCMulT.Config(**SMALL)
    network, mean = (MCMulTNetwork(DIMS, 1, c).double().eval() for c in (config, replace(config, level_fusion="mean")))
    mean.load_state_dict({name: x for name, x in network.state_dict().items() if "gates" not in name})
    inputs = random_inputs(LENGTHS)
    torch.testing.assert_close(network(inputs)[0], mean(inputs)[0], rtol=1e-12, atol=1e-12)
    gates = {key: [reader.gates for reader in readers] for key, readers in network.readers.items()}
    assert {key: [len(gate) for gate in found] for key, found in gates.items()} == {key: [1, 2, 3] for key in gates}
    assert len({gate.data_ptr() for found in gates.values() for gate in found}) == 18


def test_a_gate_gives_its_level_the_share_of_a_softmax():
    # A level whose gate is far above the others is the only one that is read.
    inputs = random_inputs(LENGTHS)
    for fusion, level in (("low", 0), ("last", -1)):
        network, one = tiny(), tiny(level_fusion=fusion)
        for readers in network.readers.values():
            for reader in readers:
                reader.gates.data.zero_()[level] = 1e3
        one.load_state_dict({name: x for name, x in network.state_dict().items() if "gates" not in name})
        torch.testing.assert_close(network(inputs)[0], one(inputs)[0], rtol=1e-12, atol=1e-12)


def test_a_window_of_one_is_the_last_level():
    network, last, inputs = tiny(level_window=1), tiny(level_fusion="last"), random_inputs(LENGTHS)
    last.load_state_dict({name: x for name, x in network.state_dict().items() if "gates" not in name})
    assert torch.equal(network(inputs)[0], last(inputs)[0])


def test_attentions_of_their_own_take_over_heads_and_dropout():
    reader = LevelReader(TransformerLayer(8, 2, attention_dropout=0.3), 3, "mean", shared=False)
    assert [(part.heads, part.dropout) for part in reader.others] == [(2, 0.3), (2, 0.3)]


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
