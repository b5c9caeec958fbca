"""Real steps alone: where rows belong, and layers over them beside plain computations of each sample alone."""

import pytest
import torch
from torch import nn

from data_modules.schema import PaddedSequence
from mmbench.nn.steps import Layout, encode
from mmbench.nn.transformer import CrossmodalEncoder, TransformerEncoder

CPU = torch.device("cpu")
EXACT = {"rtol": 1e-9, "atol": 1e-9}
LENGTHS = [3, 0, 5, 1]
both_forms = pytest.mark.parametrize("packed", [True, False])


def layout_of(lengths, packed, more=0):
    return Layout(torch.tensor(lengths), max(lengths) + more, CPU, packed)


def random(*shape):
    return torch.randn(shape, dtype=torch.float64)


def samples(values, lengths):
    """Return the real steps of each sample, of one without any a zero step."""
    zero = torch.zeros_like(values[0, :1])
    return [row[:length] if length else zero for row, length in zip(values, lengths, strict=True)]


def real_steps(rows, layout, lengths):
    """Return the real steps of all samples, one below the other, from rows in either form."""
    return torch.cat([row[:length] for row, length in zip(layout.padded(rows), lengths, strict=True)])


# Layout


@both_forms
def test_rows_and_padded_values_are_the_same_numbers(packed):
    layout, values = layout_of(LENGTHS, packed, more=2), random(4, 7, 2)
    clean = torch.zeros_like(values)
    for row, length in enumerate(LENGTHS):
        clean[row, :length] = values[row, :length]
        values[row, length:] = torch.nan  # what stands in padding has no say
    rows = layout.rows(values)
    expected = torch.cat(samples(values, LENGTHS)) if packed else clean.flatten(0, 1)
    assert torch.equal(rows, expected)
    assert torch.equal(layout.padded(rows), clean)
    mask = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
    assert torch.equal(layout.padded(layout.rows(mask)), mask)  # of any type and shape
    assert torch.equal(layout.padded(torch.full_like(rows, torch.nan)).isnan().all(-1), mask)


@both_forms
def test_rows_know_their_sample_and_their_step(packed):
    layout = layout_of(LENGTHS, packed)
    # Of the sample without any step the first one takes part.
    expected = [(b, t) for b, length in enumerate(LENGTHS) for t in range(max(length, 1) if packed else 5)]
    assert list(zip(layout.sample.tolist(), layout.step.tolist(), strict=True)) == expected
    assert layout.starts.tolist() == [expected.index((b, 0)) for b in range(4)]
    real = [t < LENGTHS[b] for b, t in expected]
    assert layout.real.tolist() == real
    assert layout.positions.tolist() == [(t + 1) * here for (_, t), here in zip(expected, real, strict=True)]
    assert layout.lengths.tolist() == [3, 1, 5, 1]


@both_forms
def test_without_empty_samples_all_packed_rows_are_real(packed):
    layout = layout_of([3, 1, 4], packed)
    assert (layout.real is None) == packed
    expected = [1, 2, 3, 1, 1, 2, 3, 4] if packed else [1, 2, 3, 0, 1, 0, 0, 0, 1, 2, 3, 4]
    assert layout.positions.tolist() == expected


@both_forms
def test_vectors_of_samples(packed):
    layout, values = layout_of(LENGTHS, packed), random(4, 5, 2)
    rows = layout.rows(values)
    rows = torch.where(
        torch.ones(len(rows)).bool()[:, None] if layout.real is None else layout.real[:, None], rows, 9.0
    )
    last = torch.stack([values[0, 2], torch.full((2,), 9.0).double(), values[2, 4], values[3, 0]])
    assert torch.equal(layout.last(rows), last)  # of a sample without any step the one that takes part
    mean = torch.stack([values[0, :3].mean(0), torch.zeros(2).double(), values[2].mean(0), values[3, 0]])
    torch.testing.assert_close(layout.mean(rows), mean, **EXACT)
    counted = (layout.step % 2 == 1) & layout.real
    some = torch.stack([values[0, 1], torch.zeros(2).double(), values[2, 1::2].mean(0), torch.zeros(2).double()])
    torch.testing.assert_close(layout.mean(layout.rows(values), counted), some, **EXACT)
    vectors = random(4, 2, 3)
    assert torch.equal(layout.repeat(vectors), vectors[layout.sample])


@both_forms
def test_means_have_gradients_at_real_steps_alone(packed):
    layout, values = layout_of(LENGTHS, packed), random(4, 5, 2).requires_grad_()
    layout.mean(layout.rows(values)).sum().backward()
    expected = torch.zeros(4, 5, 2, dtype=torch.float64)
    for row, length in enumerate(LENGTHS):
        expected[row, :length] = 1 / max(length, 1)
    torch.testing.assert_close(values.grad, expected, **EXACT)


def test_the_whole_takes_part_where_asked_for():
    values = random(2, 3, 4)
    layout = Layout.of_all(values)
    assert layout.lengths.tolist() == [3, 3]
    assert layout.real is None
    assert torch.equal(layout.rows(values), values.flatten(0, 1))
    assert torch.equal(layout.padded(layout.rows(values)), values)
    assert layout.positions.tolist() == [1, 2, 3, 1, 2, 3]


@both_forms
def test_one_row_each(packed):
    layout = layout_of(LENGTHS, packed).one_each()
    assert (layout.steps, layout.lengths.tolist(), layout.positions.tolist()) == (1, [1] * 4, [1] * 4)
    assert layout.packed == packed
    vectors = random(4, 3)
    assert torch.equal(layout.last(vectors), vectors)


def test_on_a_cpu_rows_are_the_real_steps():
    sequence = PaddedSequence(random(3, 6, 2), torch.tensor([2, 6, 4]))
    assert Layout.of(sequence).rows(sequence.values).shape == (12, 2)
    moved = PaddedSequence(sequence.values.to("meta"), sequence.lengths)
    assert Layout.of(moved).rows(moved.values).shape == (18, 2)


# Convolution


@both_forms
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_has_zeros_around_each_sample(packed, kernel, bias):
    torch.manual_seed(0)
    convolution = nn.Conv1d(2, 3, kernel, padding=kernel // 2, bias=bias).double()
    layout, values, weights = layout_of(LENGTHS, packed), random(4, 5, 2), random(9, 3)
    found = []
    for ours in (True, False):
        values, parameters = values.detach().requires_grad_(), list(convolution.parameters())
        if ours:
            result = real_steps(layout.convolve(layout.rows(values), convolution), layout, LENGTHS)
        else:
            alone = [convolution(part.T).T for part, n in zip(samples(values, LENGTHS), LENGTHS, strict=True) if n]
            result = torch.cat(alone)
        found.append([result, *torch.autograd.grad((result * weights).sum(), [values, *parameters])])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, **EXACT)


@both_forms
def test_a_convolution_of_no_step_is_that_of_a_zero_step(packed):
    convolution = nn.Conv1d(2, 3, 3, padding=1).double()
    layout = layout_of(LENGTHS, packed)
    rows = layout.convolve(layout.rows(random(4, 5, 2)), convolution)
    torch.testing.assert_close(layout.last(rows)[1], convolution.bias, **EXACT)


# What is computed


def torch_encoder(norm_first, final, **settings):
    layer = nn.TransformerEncoderLayer(6, 2, 10, batch_first=True, norm_first=norm_first, **settings)
    encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(6) if final else None, enable_nested_tensor=False).double()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.4)
    return encoder


def counted(module):
    """Return a list that fills with the number of rows that reach each linear layer and norm of a module."""
    found = []
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.LayerNorm):
            part.register_forward_pre_hook(lambda _, args: found.append(len(args[0])))
    return found


@both_forms
@pytest.mark.parametrize("kind", ["torch", "self", "crossmodal"])
def test_no_padding_reaches_a_layer(packed, kind):
    lengths, sources = [9, 2, 1, 0], [3, 4, 9, 5]
    layout, source = layout_of(lengths, packed), layout_of(sources, packed)
    rows, read = torch.randn(len(layout.sample), 6), torch.randn(len(source.sample), 6)
    if kind == "torch":
        encoder = torch_encoder(True, True).float()
        found = counted(encoder)
        encode(encoder, rows, layout)
    elif kind == "self":
        encoder = TransformerEncoder(6, 2, 2)
        found = counted(encoder)
        encoder(rows, layout)
    else:
        encoder = CrossmodalEncoder(6, 2, 2)
        found = counted(encoder)
        encoder(rows, layout, read, source)
    assert found
    real, of_source = (9 + 2 + 1 + 1, sum(sources)) if packed else (4 * 9, 4 * 9)
    assert set(found) == ({real, of_source} if kind == "crossmodal" else {real})


@both_forms
@pytest.mark.parametrize("kind", ["torch", "self"])
def test_the_last_layer_computes_the_last_step_alone_where_asked_for(packed, kind):
    layout = layout_of([9, 2, 1, 5], packed)
    rows = torch.randn(len(layout.sample), 6)
    encoder = torch_encoder(True, True).float() if kind == "torch" else TransformerEncoder(6, 2, 2)
    first, final = (counted(layer.linear2 if kind == "torch" else layer.network) for layer in encoder.layers)
    found = encode(encoder, rows, layout, last=True) if kind == "torch" else encoder(rows, layout, last=True)
    assert found.shape == (4, 6)
    assert set(first) == {len(rows)}
    assert set(final) == {4}
