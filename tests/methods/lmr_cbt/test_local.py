"""LMR-CBT's local features: convolutions with batch statistics, and the LSTM of the text."""

from contextlib import nullcontext

import pytest
import torch

from data_modules.schema import PaddedSequence
from mmbench.methods.lmr_cbt.network import ConvolutionalFeatures, RecurrentFeatures
from tests.methods.forms import padded_form


def padded(local):
    """Return local features with their padding, ``(B, T, d)``."""
    return local.layout.padded(local.rows)


@pytest.mark.parametrize("form", [nullcontext, padded_form])
def test_convolution_loses_two_steps_and_keeps_one(form):
    part = ConvolutionalFeatures(6, 4).double().eval()
    lengths = torch.tensor([5, 3, 2, 1, 0])
    sequence = PaddedSequence(torch.randn(5, 7, 6, dtype=torch.float64), lengths)
    sequence.values *= sequence.mask[..., None]
    with form():
        values = padded(part(sequence))
    assert values.shape == (5, 5, 4)
    assert values.any(-1).sum(1).tolist() == [3, 1, 1, 1, 0]
    weight = part.convolution.weight  # (4, 6, 3)
    for at in range(3):
        expected = sum(sequence.values[:, at + step] @ weight[:, :, step].mT for step in range(3)) / (1 + 1e-5) ** 0.5
        rows = 4 if at == 0 else 1
        torch.testing.assert_close(values[:rows, at], expected[:rows])


def test_batch_statistics_are_taken_in_single_precision():
    """Of what a convolution made in half precision: means of 8000 steps are zero to four digits, variances one."""
    part = ConvolutionalFeatures(6, 4).train()
    lengths = torch.full((16,), 502)
    with torch.autocast("cpu", torch.bfloat16):
        local = part(PaddedSequence(3 + torch.randn(16, 502, 6, generator=torch.Generator().manual_seed(0)), lengths))
    assert local.rows.dtype == torch.float32
    torch.testing.assert_close(local.rows.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(local.rows.var(0, correction=0), torch.ones(4), atol=1e-3, rtol=0)


def test_one_step_is_followed_by_zeros():
    part = ConvolutionalFeatures(6, 4).double().eval()
    values = torch.randn(2, 1, 6, dtype=torch.float64)
    local = padded(part(PaddedSequence(values, torch.tensor([1, 1]))))
    expected = values[:, 0] @ part.convolution.weight[:, :, 0].mT / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(local[:, 0], expected)


def test_the_lstm_reads_time_forwards_and_backwards():
    """The state of a step depends on every real step of its own sample, and on nothing else."""
    part = RecurrentFeatures(6, 8, 0.0, 0.0).double()
    values = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    states = padded(part(PaddedSequence(values, torch.tensor([5, 3]))))
    for step in range(3):
        (reached,) = torch.autograd.grad(states[1, step, 0], values, retain_graph=True)
        assert reached.abs().sum(-1).gt(0).tolist() == [[False] * 5, [True] * 3 + [False] * 2]


def test_the_legacy_lstm_reads_the_batch():
    """The state of a step depends on that step of every sample, and on no other step."""
    part = RecurrentFeatures(6, 8, 0.0, 0.0, over_batch=True).double()
    values = torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True)
    states = padded(part(PaddedSequence(values, torch.tensor([5, 5, 5]))))
    (reached,) = torch.autograd.grad(states[1, 2, 0], values)
    assert reached.abs().sum(-1).gt(0).tolist() == [[step == 2 for step in range(5)]] * 3
