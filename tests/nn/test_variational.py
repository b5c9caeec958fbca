import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from mmbench.nn.variational import GaussianEncoder, product_of_experts, reparameterised, standard_normal_kl


def test_kl_is_that_of_gaussians(random):
    mean, logvar = torch.randn(2, 6, 4, generator=random, dtype=torch.float64)
    zeros, ones = torch.zeros_like(mean), torch.ones_like(mean)
    expected = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(zeros, ones))
    torch.testing.assert_close(standard_normal_kl(mean, logvar), expected)
    assert (expected > 0).all()
    assert not standard_normal_kl(zeros, zeros).any()


def test_kl_of_the_deviation_that_codes_start_with():
    std = torch.nn.functional.softplus(torch.tensor(-5.0, dtype=torch.float64))
    value = standard_normal_kl(torch.zeros(1, dtype=torch.float64), 2 * std.log())
    assert value.item() == pytest.approx(4.5034, abs=5e-5)


def test_draws_have_the_moments():
    torch.manual_seed(0)
    mean, std = torch.tensor([[1.0], [-2.0]]), torch.tensor([[0.5], [3.0]])
    draws = reparameterised(mean.expand(-1, 40_000), std.expand(-1, 40_000))
    torch.testing.assert_close(draws.mean(1, keepdim=True), mean, atol=0.05, rtol=0)
    torch.testing.assert_close(draws.std(1, keepdim=True), std, atol=0, rtol=0.02)


def test_gradients_reach_both_moments(random):
    mean = torch.randn(5, 3, generator=random).requires_grad_()
    std = (torch.rand(5, 3, generator=random) + 0.1).requires_grad_()
    draw = reparameterised(mean, std)
    draw.sum().backward()
    torch.testing.assert_close(mean.grad, torch.ones(5, 3))
    torch.testing.assert_close(std.grad, ((draw - mean) / std).detach())  # the noise itself
    assert not torch.equal(reparameterised(mean, std), draw)


def test_encoder_gives_small_positive_deviations(random):
    torch.manual_seed(0)
    encoder = GaussianEncoder(50, 1024, 50)
    mean, std = encoder(torch.randn(7, 50, generator=random))
    assert mean.shape == std.shape == (7, 50)
    assert (std > 0).all()
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 154_724
    torch.nn.init.zeros_(encoder.deviation.weight)
    torch.nn.init.zeros_(encoder.deviation.bias)
    torch.testing.assert_close(encoder(mean)[1], torch.full((7, 50), math.log1p(math.exp(-5))))


def test_moments_share_a_relu_layer(random):
    torch.manual_seed(0)
    encoder = GaussianEncoder(4, 6, 3, shift=2.0)
    x = torch.randn(5, 4, generator=random)
    hidden = (x @ encoder.hidden[0].weight.T + encoder.hidden[0].bias).clamp(min=0)
    mean, std = encoder(x)
    torch.testing.assert_close(mean, hidden @ encoder.mean.weight.T + encoder.mean.bias)
    raw = hidden @ encoder.deviation.weight.T + encoder.deviation.bias - 2
    torch.testing.assert_close(std, (1 + raw.exp()).log())


def test_a_code_whose_noise_has_died_out_has_a_finite_kl_and_product():
    torch.manual_seed(0)
    encoder = GaussianEncoder(4, 6, 3)
    torch.nn.init.constant_(encoder.deviation.bias, -200.0)
    mean, std = encoder(torch.randn(5, 4))
    kl = standard_normal_kl(mean, 2 * std.log()).sum()
    assert kl.isfinite()
    kl.backward()
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())
    joint, variance = product_of_experts([mean] * 3, [std] * 3)
    torch.testing.assert_close(joint, mean)  # they agree, and the standard normal has no say beside them
    assert (variance > 0).all()


def test_three_standard_normal_experts():
    zeros, ones = torch.zeros(2, 4), torch.ones(2, 4)
    mean, variance = product_of_experts([zeros] * 3, [ones] * 3)
    torch.testing.assert_close(mean, zeros)
    torch.testing.assert_close(variance, ones / 4)


def test_an_expert_that_knows_nothing_has_no_say(random):
    means = list(torch.randn(3, 2, 4, generator=random))
    variances = list(torch.rand(3, 2, 4, generator=random) + 0.1)
    variances[1] = torch.full((2, 4), torch.inf)
    for ours, expected in zip(
        product_of_experts(means, variances), product_of_experts(means[::2], variances[::2]), strict=True
    ):
        torch.testing.assert_close(ours, expected)


def test_product_is_that_of_the_densities():
    """Moments of the product of three densities and the standard normal's, by summation over a grid."""
    means, variances = torch.tensor([1.0, -0.5, 2.0]).double(), torch.tensor([0.5, 2.0, 1.5]).double()
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    logarithm = Normal(0.0, 1.0).log_prob(grid)
    for mean, variance in zip(means, variances, strict=True):
        logarithm = logarithm + Normal(mean, variance.sqrt()).log_prob(grid)
    weight = logarithm.softmax(0)
    expected = (weight * grid).sum()
    mean, variance = product_of_experts(list(means), list(variances))
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(variance, (weight * (grid - expected) ** 2).sum())
