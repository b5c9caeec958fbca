"""Sequences that read each other, and encoders to one vector and tokens."""

import pytest
import torch
import torch.nn.functional as F

from data_modules.schema import PaddedSequence
from mmbench.methods.mvcl.encoders import ConvolutionTokens, LSTMTokens, TextTokens, TokenEncoder, without_padding
from mmbench.nn.steps import Layout, Steps
from mmbench.nn.transformer import position_vectors

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def sequence(lengths, dim=4, seed=0):
    values = torch.randn(len(lengths), max(lengths), dim, generator=torch.Generator().manual_seed(seed)).double()
    item = PaddedSequence(values, torch.tensor(lengths))
    return PaddedSequence(values * item.mask[..., None], item.lengths)


def grown(item, steps=3):
    """Return the sequence with more padding, full of numbers that must not matter."""
    values = F.pad(item.values, (0, 0, 0, steps))
    return PaddedSequence(torch.where(PaddedSequence(values, item.lengths).mask[..., None], values, 1e3), item.lengths)


def real(steps):
    """Return ``(B, T)`` bool, which steps are real."""
    return steps.layout.padded(steps.layout.positions > 0)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_sizes_of_a_block():
    """At width 32 with two layers, as counted in the rebuild, of whose 27,648 some are never used."""
    layer = (3 * 32 * 32 + 96) + (32 * 32 + 32) + (32 * 128 + 128) + (128 * 32 + 32) + 2 * 64
    assert layer == 12_704
    assert count(TokenEncoder(32, 4, 2, pooled=False)) == 2 * layer + 64 == 25_472
    assert count(TokenEncoder(32, 4, 2)) == 25_472 + 32 * 32 + 32 == 26_528
    assert count(TokenEncoder(32, 4, 2, project=32)) == 26_528 + 32 * 32 + 32 + 64 == 27_648


def test_a_reader_ignores_padding_of_both_sides():
    torch.manual_seed(0)
    reader = TokenEncoder(4, 2, 2, project=3).double()
    query, context = sequence([5, 2, 3]), sequence([2, 6, 4], seed=1)
    states = reader(Steps.of(query), Steps.of(context))
    other = reader(Steps.of(grown(query)), Steps.of(grown(context, 5)))
    torch.testing.assert_close(reader.pool(other), reader.pool(states))
    torch.testing.assert_close(other.padded()[:, :5], states.padded())


def naive_read(reader, query, context):
    """Return what a reader makes of one sample, ``(T, dim)`` from ``(T, dim)`` and ``(T_k, dim)``, by its formulas."""

    def embedded(steps):
        positions = torch.arange(1, len(steps) + 1)
        return steps.shape[1] ** 0.5 * steps + position_vectors(positions, steps.shape[1], steps.dtype)

    x, keys = embedded(query), embedded(context)
    ahead = abs(len(context) - len(query))
    future = torch.arange(len(context)) > torch.arange(len(query))[:, None] + ahead
    for layer in reader.encoder.layers:
        own, heads = layer.attention, []
        weights, biases = own.packed.weight.chunk(3), own.packed.bias.chunk(3)
        sides = (layer.attention_norm(x), layer.attention_norm(keys), layer.attention_norm(keys))
        projected = (side @ weight.T + bias for side, weight, bias in zip(sides, weights, biases, strict=True))
        for q, k, v in zip(*(part.chunk(own.heads, -1) for part in projected), strict=True):
            scores = (q @ k.T / q.shape[1] ** 0.5).masked_fill(future, -torch.inf)
            heads.append(scores.softmax(-1) @ v)
        x = x + own.out(torch.cat(heads, -1))
        x = x + layer.network(layer.network_norm(x))
    return reader.encoder.norm(x)


@pytest.mark.parametrize("packed", [True, False])
def test_a_reader_is_what_its_formulas_say_of_each_sample(monkeypatch, packed):
    monkeypatch.setattr(Layout.__init__, "__defaults__", (packed,))
    torch.manual_seed(0)
    reader = TokenEncoder(4, 2, 2, project=3).double()
    query, context = sequence([5, 2, 3, 1]), sequence([2, 6, 3, 4], seed=1)
    states = reader(Steps.of(query), Steps.of(context))
    found, pooled = states.padded(), reader.pool(states)
    for row, (length, keys) in enumerate(zip(query.lengths.tolist(), context.lengths.tolist(), strict=True)):
        expected = naive_read(reader, query.values[row, :length], context.values[row, :keys])
        torch.testing.assert_close(found[row, :length], expected, **EXACT)
        assert not found[row, length:].any()
        torch.testing.assert_close(pooled[row], reader.pooler(reader.project(expected).mean(0)), **EXACT)


def test_a_reader_does_not_see_the_future():
    torch.manual_seed(0)
    reader = TokenEncoder(4, 2, 1).double()
    query, context = sequence([4]), sequence([6], seed=1)
    before = reader(Steps.of(query), Steps.of(context)).padded()
    for step in range(6):
        values = context.values.clone()
        values[:, step, 0] += 1
        after = reader(Steps.of(query), Steps.of(PaddedSequence(values, context.lengths))).padded()
        # Query t sees the context up to t + |6 - 4|.
        assert (after != before).any(-1)[0].tolist() == [t + 2 >= step for t in range(4)]


@pytest.mark.parametrize("ends", [True, False])
def test_text_has_a_vector_and_tokens(ends):
    text = sequence([6, 3, 2, 1])
    vector, tokens = TextTokens(ends, whole=False)(grown(text, 2))
    found = tokens.padded()
    if ends:
        torch.testing.assert_close(vector, text.values[:, 0])
        assert real(tokens).sum(1).tolist() == [4, 1, 0, 0]
        torch.testing.assert_close(found[0, :4], text.values[0, 1:5])
        torch.testing.assert_close(found[1, :1], text.values[1, 1:2])
    else:
        torch.testing.assert_close(vector[1], text.values[1, :3].mean(0))
        assert real(tokens).sum(1).tolist() == [6, 3, 2, 1]
        torch.testing.assert_close(found[:, :6], text.values)


def test_text_without_any_word_is_zero():
    text = PaddedSequence(torch.full((2, 3, 4), 7.0), torch.tensor([3, 0]))
    for ends in (True, False):
        vector, tokens = TextTokens(ends, whole=False)(text)
        assert vector.any(-1).tolist() == [True, False]
        assert tokens.padded().flatten(1).any(-1).tolist() == [True, False]


def test_whole_text_takes_padding_for_words():
    _, tokens = TextTokens(ends=True, whole=True)(sequence([6, 3]))
    assert real(tokens).sum(1).tolist() == [4, 4]
    assert without_padding(sequence([6, 3])).mask.all()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 7])
def test_convolution_sees_zeros_on_both_sides_and_loses_what_is_left(monkeypatch, kernel, packed):
    """Against torch's own convolution with a padding of 1, where the sequence is long enough."""
    monkeypatch.setattr(Layout.__init__, "__defaults__", (packed,))
    torch.manual_seed(0)
    module = ConvolutionTokens(4, 6, kernel, TokenEncoder(6, 2, 1, project=3), whole=False).double()
    seen = []
    module.reader.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    item = sequence([9, 5, 2])
    vector, states = module(item)
    assert vector.shape == (3, 3)
    lost = max(0, kernel - 3)
    assert real(states).sum(1).tolist() == [9 - lost, max(1, 5 - lost), max(1, 2 - lost)]
    for row, length in enumerate([9, 5]):
        alone = item.values[row : row + 1, :length].transpose(1, 2)
        expected = F.conv1d(alone, module.conv.weight, module.conv.bias, padding=min(1, kernel - 1))
        steps = length - lost
        torch.testing.assert_close(seen[0].padded()[row, :steps], expected[0].T[:steps], **EXACT)
    torch.testing.assert_close(module(grown(item))[0], vector)


@pytest.mark.parametrize("kernel", [1, 5])
def test_a_convolution_of_no_steps_is_that_of_zeros(kernel):
    torch.manual_seed(0)
    module = ConvolutionTokens(4, 6, kernel, TokenEncoder(6, 2, 1, project=3), whole=False).double()
    nothing, zeros = sequence([6, 0]), sequence([6, 1])
    zeros.values[1] = 0
    torch.testing.assert_close(module(nothing)[0], module(zeros)[0])


@pytest.mark.parametrize("whole", [True, False])
def test_lstm_states_are_tokens_and_the_last_one_the_vector(whole):
    torch.manual_seed(0)
    module = LSTMTokens(4, 5, 3, whole).double()
    vector, tokens = module(sequence([6, 3]))
    found = tokens.padded()
    assert real(tokens).sum(1).tolist() == ([6, 6] if whole else [6, 3])
    torch.testing.assert_close(vector[1], module.vector(found[1, 2]))
    assert not found[1, 3:].any()
