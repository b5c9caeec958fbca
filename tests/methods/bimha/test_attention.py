"""BIMHA's attention over the pairs beside naive loops, and the shares it reports."""

import math

import pytest
import torch
from torch import nn

from mmbench.methods.bimha.network import PairAttention
from tests.methods.bimha.parts import PAIRS, batch_of, build, naive_attention, normalised, watch


@pytest.mark.parametrize(("weighted", "residual"), [(True, True), (False, True), (True, False)])
def test_attention_is_its_formula(weighted, residual):
    module = PairAttention(8, 4, 0.0, weighted, residual).double()
    queries, tokens = torch.randn(2, 2, 8).double(), torch.randn(2, 3, 8).double()
    made, weights = module(queries, tokens)
    for row in range(2):
        out, shares = naive_attention(module, queries[row], tokens[row], weighted)
        torch.testing.assert_close(weights[row], shares)
        torch.testing.assert_close(made[row], normalised(queries[row] + out if residual else out))


@pytest.mark.parametrize("settings", [{}, {"queries": "unimodal"}, {"layers": 2}, {"pair_text_audio": False}], ids=str)
def test_shares_of_the_pairs_are_readable_for_every_sample(settings):
    model, batch = build(**settings), batch_of()
    output = model(batch)
    pairs = tuple(model.network.pairs)
    queries = 3 if settings.get("queries") else len(pairs)
    attention = output.named["attention"]
    assert attention.shape == (4, settings.get("layers", 1), 4, queries, len(pairs))
    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]).double())
    shares = torch.stack([output.named[f"weight_{name}"] for name in pairs], 1)
    assert set(output.named) == {"attention", *(f"weight_{name}" for name in pairs)}
    for row in range(4):
        for place in range(len(pairs)):
            torch.testing.assert_close(shares[row, place], attention[row, ..., place].mean())
    assert ((shares > 0) & (shares < 1)).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(4).double())
    assert shares.std(0).min() > 1e-6  # samples differ


def test_the_shares_of_an_epoch_are_watched():
    """Their means over the samples, not over the batches; evaluation does not count."""
    model, samples = build(encoder_dropout=0.0, pair_dropout=0.0, head_dropout=0.0), []
    model.train()
    for size in (4, 9):
        batch = batch_of(size=size)
        model.train()
        output = model(batch)
        assert set(model.objective(output, batch)) == {"task"}
        model.observe(output, batch)
        samples.append(torch.stack([output.named[f"weight_{name}"] for name in PAIRS], 1))
        model.eval()
        model.observe(model(batch), batch)
    found = model.terms()
    assert list(found) == [f"weight_{name}" for name in PAIRS]
    assert list(found.values()) == pytest.approx(torch.cat(samples).mean(0).tolist(), abs=1e-9)
    model.on_train_epoch_start()
    assert model.terms() == {}


def test_a_second_layer_reads_what_the_first_made_of_the_pairs():
    network, batch = build(layers=2).network, batch_of()
    seen, second = watch(network), {}
    network.layers[0].register_forward_hook(lambda _, __, out: second.__setitem__("expected", out[0]))
    network.layers[1].register_forward_pre_hook(lambda _, args: second.__setitem__("read", args))
    network(batch.inputs)
    assert all(torch.equal(part, second["expected"]) for part in second["read"])
    for row in range(4):
        out, _ = naive_attention(network.layers[1], *(part[row] for part in second["read"]))
        torch.testing.assert_close(seen["made"][0][row], normalised(second["expected"][row] + out))


def test_a_pair_that_queries_look_for_has_the_larger_share():
    """All queries are the bias e_1 in every head; the keys of one pair have the larger first channel."""
    module = PairAttention(8, 4, 0.0, True, True).double()
    dim, tokens = 8, torch.zeros(1, 3, 8).double()
    tokens[0, 1] = 1.0
    with torch.no_grad():
        module.attention.packed.weight.zero_()
        module.attention.packed.bias.zero_()
        module.attention.packed.bias[:dim:2] = 1.0  # first channel of the two of every head
        module.attention.packed.weight[dim : 2 * dim] = torch.eye(dim)
    _, weights = module(tokens, tokens)
    high = math.exp(1 / math.sqrt(2))
    expected = torch.tensor([1.0, high, 1.0]).double() / (2 + high)
    torch.testing.assert_close(weights, expected.expand(1, 4, 3, 3))


def test_the_residual_path_carries_the_pairs():
    """With an output projection of zeros, P' = LayerNorm(P), and the gradient still reaches every modality."""
    model, batch = build(keep_unimodal=False), batch_of(grad=True)
    network = model.network
    nn.init.zeros_(network.layers[0].attention.out.weight)
    seen = watch(network)
    prediction = network(batch.inputs).prediction
    torch.testing.assert_close(seen["made"][0], normalised(seen["read"][0]))
    prediction.sum().backward()
    assert all(x.values.grad.any() for x in batch.inputs.values())


def test_pairs_are_interchangeable_without_their_vectors():
    module, order = PairAttention(8, 4, 0.0, True, True).double(), torch.tensor([2, 0, 1])
    tokens = torch.randn(2, 3, 8).double()
    made, weights = module(tokens, tokens)
    again, moved = module(tokens[:, order], tokens[:, order])
    torch.testing.assert_close(again, made[:, order])
    torch.testing.assert_close(moved, weights[:, :, order][..., order])


def test_modalities_may_attend_to_the_pairs():
    network, batch = build(queries="unimodal", layers=2).network, batch_of()
    seen = watch(network)
    second = {}
    network.layers[1].register_forward_pre_hook(lambda _, args: second.__setitem__("read", args))
    network(batch.inputs)
    expected = torch.stack([network.queries[name](seen["vectors"][name]) for name in ("text", "audio", "vision")], 1)
    torch.testing.assert_close(seen["read"][0], expected)
    assert torch.equal(second["read"][1], seen["read"][1])  # the pairs stay what they are
    for row in range(4):
        out, _ = naive_attention(network.layers[0], expected[row], seen["read"][1][row])
        torch.testing.assert_close(second["read"][0][row], normalised(expected[row] + out))
