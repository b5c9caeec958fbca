import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmbench.nn.mutual_information import (
    ClassConditionalEntropy,
    CosinePredictor,
    GaussianConditional,
    class_covariances,
    cosine_nce,
    gaussian_log_likelihood,
)


def whitened(rows):
    """Return rows whose mean is zero and whose biased covariance is the identity."""
    centred = rows - rows.mean(0)
    return centred @ torch.linalg.inv(torch.linalg.cholesky(centred.T @ centred / len(rows))).T


def entropy_of(rows, groups, **settings):
    return ClassConditionalEntropy(rows.shape[1], **settings).to(rows.dtype)(rows, groups)


# The likelihood


def test_log_likelihood_with_variance_term_is_the_gaussian_one(random):
    y, mean, logvar = torch.randn(3, 6, 4, generator=random)
    normal = torch.distributions.Normal(mean, (logvar / 2).exp())
    expected = normal.log_prob(y).sum(-1).mean() + 4 / 2 * math.log(2 * math.pi)
    torch.testing.assert_close(gaussian_log_likelihood(y, mean, logvar, include_logvar=True), expected)


def test_log_likelihood_without_variance_term_is_at_most_zero(random):
    y, mean, logvar = torch.randn(3, 6, 4, generator=random)
    value = gaussian_log_likelihood(y, mean, logvar)
    normal = torch.distributions.Normal(mean, (logvar / 2).exp())
    constant = -(logvar / 2).sum(-1).mean() - 4 / 2 * math.log(2 * math.pi)
    torch.testing.assert_close(value, normal.log_prob(y).sum(-1).mean() - constant)
    assert value < 0
    assert gaussian_log_likelihood(y, y, logvar) == 0


def test_gaussian_moments_are_separate_networks():
    model = GaussianConditional(12, 16)
    mean, logvar = model(torch.randn(5, 12))
    assert mean.shape == logvar.shape == (5, 16)
    assert not torch.equal(mean, logvar)
    assert sum(parameter.numel() for parameter in model.parameters()) == 2 * (12 * 16 + 16 + 16 * 16 + 16)


# The entropy


def test_covariances_are_numpy_biased_ones(random):
    rows = torch.randn(20, 3, generator=random, dtype=torch.float64)
    groups = torch.randint(-1, 3, (20,), generator=random)
    covariance, count = class_covariances(rows, groups, 4)
    for group in range(3):
        own = rows[groups == group].numpy()
        assert count[group] == len(own)
        np.testing.assert_allclose(covariance[group].numpy(), np.cov(own.T, bias=True), rtol=1e-12)
    assert count[3] == 0
    assert not covariance[3].any()


@pytest.mark.parametrize("equal_weights", [True, False])
def test_whitened_rows_have_no_entropy_and_scaling_adds_its_logarithm(random, equal_weights):
    positive, negative = (whitened(torch.randn(count, 4, generator=random, dtype=torch.float64)) for count in (8, 30))
    rows = torch.cat([positive, negative])
    groups = torch.tensor([1] * 8 + [0] * 30)
    settings = {"eps": 0.0, "equal_weights": equal_weights}
    assert entropy_of(rows, groups, **settings).item() == pytest.approx(0.0, abs=1e-12)
    assert entropy_of(3.0 * rows, groups, **settings).item() == pytest.approx(4 * math.log(3.0))
    # Scaling one group alone shows its weight: one half, or 8 of 38 rows.
    rows = torch.cat([3.0 * positive, negative])
    weight = 0.5 if equal_weights else 8 / 38
    assert entropy_of(rows, groups, **settings).item() == pytest.approx(weight * 4 * math.log(3.0))


def test_rows_of_no_class_do_not_count(random):
    rows = torch.randn(20, 2, generator=random)
    groups = torch.tensor([0, 1] * 8 + [-1] * 4)
    torch.testing.assert_close(entropy_of(rows, groups), entropy_of(rows[:16], groups[:16]))
    assert entropy_of(rows, groups) != entropy_of(rows, torch.tensor([0, 1] * 10))


def test_equal_weights_need_enough_rows_in_every_class(random):
    rows = torch.randn(12, 4, generator=random, requires_grad=True)
    few = torch.tensor([0] * 8 + [1] * 4)
    value = entropy_of(rows, few)
    value.backward()
    assert value == 0
    assert not rows.grad.any()
    assert entropy_of(rows, torch.tensor([0] * 7 + [1] * 5)) != 0


def test_classes_with_few_rows_are_left_out(random):
    rows = torch.randn(16, 4, generator=random)
    groups = torch.tensor([0] * 6 + [2] * 6 + [1] * 4)
    settings = {"classes": 3, "equal_weights": False}
    torch.testing.assert_close(entropy_of(rows, groups, **settings), entropy_of(rows[:12], groups[:12], **settings))
    assert entropy_of(rows[12:], groups[12:], **settings) == 0


@pytest.mark.parametrize("equal_weights", [True, False])
def test_autocast_does_not_make_the_entropy_coarser(random, equal_weights):
    rows = torch.randn(64, 5, generator=random)
    groups = torch.arange(64) % 2
    expected = entropy_of(rows, groups, equal_weights=equal_weights)
    with torch.autocast("cpu", torch.bfloat16):
        found = entropy_of(rows, groups, equal_weights=equal_weights)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_eps_keeps_identical_rows_finite():
    rows = torch.ones(12, 4, requires_grad=True)
    value = entropy_of(rows, torch.tensor([0, 1] * 6), eps=1e-5)
    value.backward()
    assert value.item() == pytest.approx(4 / 2 * math.log(1e-5), rel=1e-5)
    assert rows.grad.isfinite().all()


def test_memory_is_first_in_first_out(random):
    memory = ClassConditionalEntropy(2, memory=2, batch_size=4)
    batches = [torch.randn(4, 2, generator=random, requires_grad=True) for _ in range(3)]
    groups = torch.tensor([1, 0, -1, 1])
    ready = []
    for batch in batches:
        memory.push(batch, groups)
        ready.append(memory.ready)
    assert ready == [False, False, True]
    kept = torch.cat([batches[2], batches[1]])  # the third batch took the place of the first
    torch.testing.assert_close(memory.rows(1), kept[[0, 3, 4, 7]].detach())
    torch.testing.assert_close(memory.rows(0), kept[[1, 5]].detach())
    assert not memory.codes.requires_grad
    memory.reset()
    assert len(memory.rows(0)) == len(memory.rows(1)) == memory.pushed == 0


def test_smaller_and_larger_batches_fit_into_the_memory(random):
    memory = ClassConditionalEntropy(2, memory=1, batch_size=4)
    for size in (4, 3, 6, 1):
        batch = torch.randn(size, 2, generator=random)
        memory.push(batch, torch.zeros(size, dtype=torch.long))
        torch.testing.assert_close(memory.rows(0), batch)


def test_entropy_sees_the_memory_and_trains_the_batch_alone(random):
    past, now = torch.randn(2, 10, 2, generator=random)
    past, now = past.requires_grad_(), now.requires_grad_()
    groups = torch.tensor([0, 1] * 5)
    memory = ClassConditionalEntropy(2)
    memory.push(past, groups)
    value = memory(now, groups)
    torch.testing.assert_close(value, entropy_of(torch.cat([past, now]), groups.repeat(2)))
    value.backward()
    assert past.grad is None
    assert now.grad.any()


def test_a_reset_forgets_rows_that_diverged(random):
    memory = ClassConditionalEntropy(2)
    groups = torch.tensor([0, 1] * 5)
    memory.push(torch.full((10, 2), torch.nan), groups)
    memory.reset()
    assert memory(torch.randn(10, 2, generator=random), groups).isfinite()


def test_memory_is_no_part_of_checkpoints():
    assert not ClassConditionalEntropy(2).state_dict()


# Contrastive prediction


def test_nce_is_cross_entropy_over_cosines(random):
    x, predicted = torch.randn(2, 7, 5, generator=random)
    scores = F.cosine_similarity(x[:, None], predicted[None], dim=-1)  # rows: true vectors, columns: predictions
    torch.testing.assert_close(cosine_nce(x, predicted), F.cross_entropy(scores, torch.arange(7)))


def test_nce_range(random):
    x, predicted = torch.randn(2, 64, 4096, generator=random)
    assert cosine_nce(x, predicted).item() == pytest.approx(math.log(64), abs=0.05)
    assert math.log(64) - 2 <= cosine_nce(x, x).item() < math.log(64)
    assert math.log(64) < cosine_nce(x, -x).item() <= math.log(64) + 2
    assert cosine_nce(x[:1], predicted[:1]).item() == pytest.approx(0.0, abs=1e-6)


def test_nce_falls_when_the_predictor_learns(random):
    torch.manual_seed(0)
    z, x = torch.randn(16, 6, generator=random), torch.randn(16, 4, generator=random)
    predictor = CosinePredictor(6, 4)
    optimizer = torch.optim.Adam(predictor.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = cosine_nce(x, predictor(z))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05


def test_deep_predictor_has_one_tanh():
    predictor = CosinePredictor(6, 4, layers=3)
    z = torch.randn(5, 6)
    first, _, second, third = predictor.net
    torch.testing.assert_close(predictor(z), third(second(torch.tanh(first(z)))))
