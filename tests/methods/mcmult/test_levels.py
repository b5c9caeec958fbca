"""MCMulT: the levels of a pair, written out, and what decides which of them a block reads."""

import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch

from mmbench.methods.mcmult import MCMulT
from mmbench.methods.mcmult.cooperative import LevelEncoder, levels_read
from mmbench.methods.mcmult.network import MCMulTNetwork
from mmbench.nn.transformer import TransformerLayer, position_vectors
from tests.methods.forms import assert_forms_agree
from tests.methods.mcmult.parts import PAIR, SMALL, WAYS, tiny, watch
from tests.methods.mult.test_method import DIMS, LENGTHS, random_inputs
from tests.methods.training import assert_samples_stand_alone


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
    reader = LevelEncoder(TransformerLayer(8, 2, attention_dropout=0.3), 3, "mean", shared=False)
    assert [(part.heads, part.dropout) for part in reader.others] == [(2, 0.3), (2, 0.3)]
