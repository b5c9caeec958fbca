import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr
from torch.distributions import Categorical, Normal, kl_divergence

from data_modules.schema import TargetSpec
from mmbench.methods.vsd.labels import CategoricalLabels, GaussianLabels, two_hot
from mmbench.methods.vsd.losses import ranked_list_loss, sinkhorn_distance

CLASSES = TargetSpec("multiclass", ("angry", "happy", "sad", "calm"))
NAMES = TargetSpec("multilabel", ("angry", "happy", "sad"))
VALUE = TargetSpec("regression", ("sentiment",), -3.0, 3.0)


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


def draw(random, *shape):
    return torch.randn(*shape, generator=random, dtype=torch.float64)


# Two-hot targets


def test_two_hot_shares_a_value_between_its_neighbours():
    expected = torch.tensor([0, 0, 0.4, 0.6, 0, 0, 0])
    torch.testing.assert_close(two_hot(torch.tensor(-0.4), -3, 3, 7), expected)


@pytest.mark.parametrize(("low", "high", "bins"), [(-3, 3, 7), (-1, 1, 5), (0, 10, 2)])
def test_two_hot_sums_to_one_and_means_the_value(low, high, bins):
    values = torch.linspace(low - 1, high + 1, 43, dtype=torch.float64)
    rows = two_hot(values, low, high, bins)
    torch.testing.assert_close(rows.sum(-1), torch.ones(43, dtype=torch.float64))
    assert ((rows > 0).sum(-1) <= 2).all()
    centres = torch.linspace(low, high, bins, dtype=torch.float64)
    torch.testing.assert_close(rows @ centres, values.clamp(low, high))


# Classes and bins


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_classes_is_that_of_torch(random, smoothing):
    logits, target = draw(random, 6, 4), torch.tensor([0, 1, 2, 3, 0, 0])
    expected = F.cross_entropy(logits, target, label_smoothing=smoothing)
    torch.testing.assert_close(CategoricalLabels(CLASSES, smoothing=smoothing).cross_entropy(logits, target), expected)


@pytest.mark.parametrize("kind", ["multilabel", "binary"])
def test_names_are_problems_of_two_answers_and_add_up(random, kind):
    labels = CategoricalLabels(TargetSpec(kind, NAMES.names))
    logits, target = draw(random, 5, 6), (draw(random, 5, 3) > 0).double()
    expected = sum(F.cross_entropy(logits[:, 2 * name : 2 * name + 2], target[:, name].long()) for name in range(3))
    assert labels.width == 6
    torch.testing.assert_close(labels.cross_entropy(logits, target), expected)
    other = draw(random, 5, 6)
    pairs = [
        CategoricalLabels(TargetSpec("multiclass", ("no", "yes"))).divergence(*pair) for pair in split(logits, other)
    ]
    torch.testing.assert_close(labels.divergence(logits, other), sum(pairs))
    spreads = [
        CategoricalLabels(TargetSpec("multiclass", ("no", "yes"))).jensen_shannon(pair) for pair in split(logits, other)
    ]
    torch.testing.assert_close(labels.jensen_shannon([logits, other]), sum(spreads))


def split(first, second):
    return zip(first.split(2, -1), second.split(2, -1), strict=True)


def test_cross_entropy_of_bins_is_that_of_two_hot_targets(random):
    labels, logits = CategoricalLabels(VALUE), draw(random, 2, 7)
    log = logits.log_softmax(-1)
    expected = -(0.4 * log[0, 2] + 0.6 * log[0, 3] + log[1, 6]) / 2
    target = torch.tensor([-0.4, 3.0], dtype=torch.float64)
    torch.testing.assert_close(labels.cross_entropy(logits, target), expected)


def test_bins_need_ends():
    with pytest.raises(ValueError, match="low and a high end"):
        CategoricalLabels(TargetSpec("regression", ("arousal",)))


def test_divergence_is_that_of_scipy_in_both_directions(random):
    teacher, student = draw(random, 2, 9, 4)
    p, q = teacher.softmax(-1).numpy(), student.softmax(-1).numpy()
    labels = CategoricalLabels(CLASSES)
    forth, back = (labels.divergence(teacher, student, kind) for kind in ("teacher_student", "student_teacher"))
    assert forth.item() == pytest.approx(rel_entr(p, q).sum() / 9, rel=1e-12)
    # What the point-cloud code of MV2D calls its loss: mean over points of sum over classes of q (log q - log p).
    assert back.item() == pytest.approx((q * (np.log(q) - np.log(p))).sum() / 9, rel=1e-12)
    assert abs(forth - back) > 1e-2


def test_divergence_of_a_hand_made_example():
    teacher, student = torch.tensor([[0.5, 0.5, 0.0, 0.0]]), torch.tensor([[0.25, 0.75, 0.0, 0.0]])
    value = CategoricalLabels(CLASSES).divergence((teacher + 1e-30).log(), (student + 1e-30).log())
    assert value.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-5)


@pytest.mark.parametrize("labels", [CategoricalLabels(CLASSES), CategoricalLabels(NAMES), GaussianLabels(VALUE)])
@pytest.mark.parametrize("direction", ["teacher_student", "student_teacher"])
def test_divergence_is_zero_between_equals_and_positive_else(random, labels, direction):
    teacher, student = draw(random, 2, 5, labels.width)
    assert labels.divergence(teacher, teacher, direction).item() == pytest.approx(0, abs=1e-12)
    assert labels.divergence(teacher, student, direction) > 1e-3


@pytest.mark.parametrize("labels", [CategoricalLabels(CLASSES), GaussianLabels(VALUE)])
@pytest.mark.parametrize("direction", ["teacher_student", "student_teacher", "released"])
def test_a_teacher_learns_nothing(random, labels, direction):
    teacher, student = (draw(random, 5, labels.width).requires_grad_() for _ in range(2))
    labels.divergence(teacher, student, direction).backward()
    assert teacher.grad is None
    assert student.grad.any()


def test_temperature_flattens_both_distributions(random):
    teacher, student = draw(random, 2, 5, 4)
    expected = kl_divergence(Categorical(logits=teacher / 3), Categorical(logits=student / 3)).mean()
    torch.testing.assert_close(CategoricalLabels(CLASSES).divergence(teacher, student, temperature=3.0), expected)


def test_the_released_formula_is_no_divergence(random):
    labels, teacher = CategoricalLabels(CLASSES), draw(random, 5, 4)
    p = teacher.softmax(-1)
    expected = (p * teacher.log_softmax(-1) - p * p).mean()
    torch.testing.assert_close(labels.divergence(teacher, teacher, "released"), expected)
    assert expected < 0
    # Least at q proportional to exp(p): the slope is zero there, and the value below that at q = p.
    best = p.clone().requires_grad_()
    value = labels.divergence(teacher, best, "released")
    value.backward()
    torch.testing.assert_close(best.grad, torch.zeros_like(p), atol=1e-12, rtol=0)
    assert value < expected


def test_spread_of_two_is_the_jensen_shannon_divergence(random):
    first, second = draw(random, 2, 9, 4)
    labels = CategoricalLabels(CLASSES)
    expected = (jensenshannon(first.softmax(-1).numpy(), second.softmax(-1).numpy(), axis=1) ** 2).mean()
    assert labels.jensen_shannon([first, second]).item() == pytest.approx(expected, rel=1e-9)
    torch.testing.assert_close(labels.jensen_shannon([second, first]), labels.jensen_shannon([first, second]))


@pytest.mark.parametrize("views", [2, 3, 4])
def test_spread_is_between_zero_and_the_logarithm_of_the_number(random, views):
    labels, logits = CategoricalLabels(CLASSES), draw(random, 5, 4)
    assert labels.jensen_shannon([logits] * views).item() == pytest.approx(0, abs=1e-12)
    certain = [1e3 * F.one_hot(torch.full((5,), view), 4).double() for view in range(views)]
    assert labels.jensen_shannon(certain).item() == pytest.approx(math.log(views), rel=1e-9)
    each = list(draw(random, views, 5, 4))
    entropy = Categorical(probs=torch.stack(each).softmax(-1).mean(0)).entropy()
    expected = (entropy - sum(Categorical(logits=item).entropy() for item in each) / views).mean()
    torch.testing.assert_close(labels.jensen_shannon(each), expected)


def test_consensus_is_the_normalised_geometric_mean(random):
    labels, each = CategoricalLabels(CLASSES), list(draw(random, 3, 5, 4))
    product = torch.stack([item.softmax(-1) for item in each]).prod(0) ** (1 / 3)
    expected = product / product.sum(-1, keepdim=True)
    torch.testing.assert_close(labels.consensus(each).softmax(-1), expected)
    torch.testing.assert_close(labels.consensus(each[::-1]), labels.consensus(each))
    torch.testing.assert_close(labels.consensus([each[0]] * 3).softmax(-1), each[0].softmax(-1))
    shifted = [item + 7 * number for number, item in enumerate(each)]  # the same distributions
    torch.testing.assert_close(labels.consensus(shifted).softmax(-1), expected)


def test_points_are_probabilities(random):
    logits = draw(random, 5, 6)
    expected = torch.cat([part.softmax(-1) for part in logits.split(2, -1)], -1)
    torch.testing.assert_close(CategoricalLabels(NAMES).points(logits), expected)


# Gaussians


def test_gaussians_are_those_of_torch(random):
    labels = GaussianLabels(TargetSpec("regression", ("valence", "arousal")))
    first, second, target = draw(random, 3, 5, 2)
    expected = kl_divergence(Normal(first, 1.0), Normal(second, 1.0)).sum(-1).mean()
    torch.testing.assert_close(labels.divergence(first, second), expected)
    # A density to the power of 1 / 4 is, normalised, one of variance 4.
    expected = kl_divergence(Normal(first, 2.0), Normal(second, 2.0)).sum(-1).mean()
    torch.testing.assert_close(labels.divergence(first, second, temperature=4.0), expected)
    likelihood = Normal(first, 1.0).log_prob(target).sum(-1).mean() + math.log(2 * math.pi)
    torch.testing.assert_close(labels.cross_entropy(first, target), -likelihood)
    middle = Normal((first + second) / 2, 1.0)
    expected = sum(kl_divergence(Normal(item, 1.0), middle).sum(-1).mean() for item in (first, second)) / 2
    torch.testing.assert_close(labels.jensen_shannon([first, second]), expected)
    torch.testing.assert_close(labels.consensus([first, second]), middle.mean)
    assert labels.points(first) is first


def test_a_single_real_value_may_come_without_its_axis(random):
    logits, target = draw(random, 5, 1), draw(random, 5)
    expected = ((logits[:, 0] - target) ** 2).mean() / 2
    torch.testing.assert_close(GaussianLabels(VALUE).cross_entropy(logits, target), expected)


@pytest.mark.parametrize("labels", [CategoricalLabels(CLASSES), CategoricalLabels(NAMES), GaussianLabels(VALUE)])
def test_coarse_logits_are_compared_precisely(random, labels):
    """In bfloat16 the divergences of distributions that are nearly alike would be of any sign."""
    coarse = list((0.1 * draw(random, 3, 5, labels.width)).bfloat16())
    fine = [item.float() for item in coarse]
    for value, expected in (
        (labels.divergence(*coarse[:2]), labels.divergence(*fine[:2])),
        (labels.jensen_shannon(coarse), labels.jensen_shannon(fine)),
        (labels.consensus(coarse), labels.consensus(fine)),
        (labels.points(coarse[0]), labels.points(fine[0])),
    ):
        assert value.dtype == torch.float32
        assert torch.equal(value, expected)
    assert labels.jensen_shannon(coarse) > 0


# The other terms of the official code


def naive_ranked_list_loss(features, groups, modality, alphas, margins):
    rows = [row for row in range(len(groups)) if groups[row] >= 0]
    unit = {row: features[row] / features[row].norm() for row in rows}
    total = 0.0
    for anchor in rows:
        for within, alpha, margin in zip((True, False), alphas, margins, strict=True):
            near, far = [], []
            for row in rows:
                if row == anchor or (modality[row] == modality[anchor]).item() is not within:
                    continue
                distance = (unit[anchor] - unit[row]).norm().item()
                if groups[row] == groups[anchor]:
                    near.append(max(0.0, distance - (alpha - margin)))
                elif distance < alpha:
                    far.append((alpha - distance, math.exp(alpha - distance)))
            total += sum(near) / (len(near) + 1e-5)
            total += sum(lack * weight for lack, weight in far) / (sum(weight for _, weight in far) + 1e-5)
    return total / len(rows)


def test_ranked_list_loss_is_that_of_loops(random):
    features = draw(random, 14, 3)
    groups, modality = torch.randint(-1, 3, (14,), generator=random), torch.randint(0, 3, (14,), generator=random)
    for alphas, margins in (((2.2, 2.0), (0.9, 1.0)), ((1.2, 0.9), (0.5, 0.3))):
        value = ranked_list_loss(features, groups, modality, alphas, margins)
        expected = naive_ranked_list_loss(features, groups, modality, alphas, margins)
        assert value.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("copies", [1, 20])
def test_ranked_list_loss_bears_copies_and_nothing_known(copies):
    features = torch.tensor([[0.1, 0.2, 0.7]]).repeat(4 * copies, 1).requires_grad_()
    groups, modality = torch.tensor([0, 0, 1, -1]).repeat(copies), torch.tensor([0, 1, 0, 1]).repeat(copies)
    ranked_list_loss(features, groups, modality).backward()
    assert not features.grad.any()
    assert ranked_list_loss(features, torch.full_like(groups, -1), modality) == 0


def test_ranked_list_loss_is_not_coarser_under_autocast(random):
    features, groups, modality = draw(random, 14, 3).float(), torch.arange(14) % 3, torch.arange(14) % 2
    expected = ranked_list_loss(features, groups, modality)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ranked_list_loss(features, groups, modality), expected)


def test_sinkhorn_distance_comes_near_the_best_assignment(random):
    x, y = draw(random, 2, 8, 2)
    cost = torch.cdist(x, y) ** 2
    best = cost.numpy()[linear_sum_assignment(cost.numpy())].mean()
    value = sinkhorn_distance(x, y, eps=0.05, rounds=5000, tolerance=1e-9)
    assert value.item() == pytest.approx(best, rel=0.02)
    order = torch.randperm(8, generator=random)
    torch.testing.assert_close(sinkhorn_distance(x, y[order], eps=0.05, rounds=5000, tolerance=1e-9), value)


def test_sinkhorn_distance_moves_both_sets_together(random):
    x, y = (draw(random, 8, 4).softmax(-1).requires_grad_() for _ in range(2))
    before = sinkhorn_distance(x, y)
    before.backward()
    assert x.grad.any()
    assert y.grad.any()
    with torch.no_grad():
        assert sinkhorn_distance(x - 0.1 * x.grad, y - 0.1 * y.grad) < before


def test_sinkhorn_loop_stops_at_the_tolerance_or_after_its_rounds(random):
    x, y = draw(random, 2, 8, 4).softmax(-1)
    first = sinkhorn_distance(x, y, rounds=1)
    assert torch.equal(sinkhorn_distance(x, y, tolerance=math.inf), first)
    assert not torch.equal(sinkhorn_distance(x, y, tolerance=0.0), first)
