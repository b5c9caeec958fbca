"""Recurrent layers over real steps alone, beside torch's on every sample alone."""

import pytest
import torch
from torch import nn

from mmbench.nn.recurrence import Waves, gru, layer_weights, lstm
from mmbench.nn.steps import Layout

LENGTHS = [3, 1, 7, 3]
both_directions = pytest.mark.parametrize("backwards", [False, True])


def layout_of(lengths=LENGTHS, packed=True):
    return Layout(torch.tensor(lengths), max(lengths) + 1, torch.device("cpu"), packed)


def random(*shape):
    return torch.randn(shape, dtype=torch.float64)


def alone(rnn, values, backwards):
    """Return the states of each sample by torch, without padding, in the order of its steps."""
    states = []
    for row, length in zip(values, LENGTHS, strict=True):
        steps = row[:length].flip(0) if backwards else row[:length]
        read = rnn(steps)[0]
        states.append(read.flip(0) if backwards else read)
    return torch.cat(states)


def gradients(states, leaves):
    """Return the gradients of a function of the states in which every one counts differently."""
    weights = torch.linspace(-1, 1, states.numel(), dtype=states.dtype).view_as(states)
    return torch.autograd.grad((states * weights).sum() + states.square().sum(), leaves)


@both_directions
def test_waves_are_the_same_step_of_all_samples_that_have_it(backwards):
    waves, layout = Waves(layout_of(), backwards), layout_of()
    assert waves.counts == [4, 3, 3, 1, 1, 1, 1]
    rows = torch.stack([layout.sample, layout.step], 1)
    if backwards:
        rows[:, 1] = layout.lengths[layout.sample] - 1 - layout.step
    ordered = waves.of(rows)
    assert ordered[:, 1].tolist() == [0] * 4 + [1] * 3 + [2] * 3 + [3, 4, 5, 6]
    assert [part[:, 0].tolist() for (part,) in waves.split(ordered)] == [[2, 0, 3, 1], [2, 0, 3], [2, 0, 3]] + [[2]] * 4
    assert torch.equal(waves.rows(ordered), rows)
    before = waves.before(ordered)
    assert not before[:4].any()
    assert torch.equal(before[4:], ordered[4:] - torch.tensor([0, 1]))


@both_directions
@pytest.mark.parametrize("packed", [True, False])
def test_a_gru_reads_each_sample_as_if_it_were_alone(backwards, packed):
    torch.manual_seed(0)
    unit, values = nn.GRU(3, 5, batch_first=True).double(), random(4, 8, 3).requires_grad_()
    layout = layout_of(packed=packed)
    states = layout.padded(gru(unit, layout.rows(values), layout, backwards))[layout_of().padded(torch.ones(14)) > 0]
    expected = alone(unit, values, backwards)
    torch.testing.assert_close(states, expected, rtol=1e-12, atol=1e-12)
    leaves = [values, *unit.parameters()]
    for found, wanted in zip(gradients(states, leaves), gradients(expected, leaves), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", [0, 1])
@both_directions
def test_an_lstm_layer_reads_each_sample_as_if_it_were_alone(layer, backwards):
    torch.manual_seed(0)
    rnn, layout = nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True).double(), layout_of()
    single = nn.LSTM([3, 8][layer], 4, batch_first=True).double()
    names = [name for name, _ in single.named_parameters()]
    single.load_state_dict(dict(zip(names, layer_weights(rnn, layer, backwards), strict=True)))
    values = random(4, 8, [3, 8][layer]).requires_grad_()
    states = lstm(rnn, layout.rows(values), layout, layer, backwards)
    expected = alone(single, values, backwards)
    torch.testing.assert_close(states, expected, rtol=1e-12, atol=1e-12)
    found = gradients(states, [values, *layer_weights(rnn, layer, backwards)])
    for ours, theirs in zip(found, gradients(expected, [values, *single.parameters()]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@both_directions
def test_written_gradients_are_those_of_differences(backwards):
    layout = layout_of([2, 3])
    for unit in (nn.GRU(2, 2, batch_first=True).double(), nn.LSTM(2, 2, batch_first=True).double()):

        def states(rows, unit=unit):
            if isinstance(unit, nn.GRU):
                return gru(unit, rows, layout, backwards)
            return lstm(unit, rows, layout, backwards=False)

        assert torch.autograd.gradcheck(states, random(5, 2).requires_grad_())


def test_features_that_want_no_gradient_get_none():
    rows, layout = random(14, 3), layout_of()
    gru(nn.GRU(3, 5, batch_first=True).double(), rows, layout).sum().backward()
    lstm(nn.LSTM(3, 5, batch_first=True).double(), rows, layout).sum().backward()
    assert rows.grad is None


def test_what_is_read_stays_as_it_is():
    rows, layout, unit = random(14, 3), layout_of(), nn.GRU(3, 5, batch_first=True).double()
    before, states = rows.clone(), gru(unit, rows, layout)
    assert torch.equal(rows, before)
    assert torch.equal(gru(unit, rows, layout), states)


def test_half_precision_is_for_what_does_not_wait():
    """Errors of half precision would add up from step to step."""
    torch.manual_seed(0)
    rows, layout = torch.randn(14, 3), layout_of()
    for unit in (nn.GRU(3, 5, batch_first=True), nn.LSTM(3, 5, batch_first=True)):
        read = gru if isinstance(unit, nn.GRU) else lstm
        with torch.autocast("cpu", torch.bfloat16):
            states = read(unit, rows, layout)
        assert states.dtype == torch.float32
        torch.testing.assert_close(states, read(unit, rows, layout), atol=0.03, rtol=0)
        states.sum().backward()
        assert all(item.grad.isfinite().all() for item in unit.parameters())


@pytest.mark.gpu
@both_directions
def test_a_gpu_reads_the_same(backwards):
    unit, values, here = nn.GRU(3, 5, batch_first=True), torch.randn(4, 8, 3), layout_of()
    expected = gru(unit, here.rows(values), here, backwards)
    there = Layout(torch.tensor(LENGTHS), 8, torch.device("cuda"))
    states = there.padded(gru(unit.cuda(), there.rows(values.cuda()), there, backwards))
    torch.testing.assert_close(here.rows(states.cpu()), expected, atol=1e-5, rtol=1e-4)
