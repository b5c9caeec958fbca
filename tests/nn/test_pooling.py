from __future__ import annotations

import torch

from mmbench.nn.pooling import masked_mean


def test_mean_of_real_steps_alone():
    torch.manual_seed(0)
    values, lengths = torch.randn(3, 5, 2), (5, 2, 1)
    mask = torch.tensor([[step < length for step in range(5)] for length in lengths])
    values[~mask] = float("nan")
    expected = torch.stack([row[:length].mean(0) for row, length in zip(values, lengths, strict=True)])
    torch.testing.assert_close(masked_mean(values, mask), expected)


def test_steps_need_not_be_at_the_front():
    values = torch.tensor([[[1.0], [100.0], [3.0]]])
    assert masked_mean(values, torch.tensor([[True, False, True]])).item() == 2.0


def test_no_real_step_gives_zero_and_a_finite_gradient():
    values = torch.randn(1, 3, 2, requires_grad=True)
    mean = masked_mean(values, torch.zeros(1, 3, dtype=torch.bool))
    mean.sum().backward()
    assert mean.tolist() == [[0.0, 0.0]]
    assert values.grad is not None
    assert values.grad.abs().sum() == 0
