"""The parts of a curriculum over pairs, beside naive loops and what their definitions say."""

from __future__ import annotations

import io
import math
from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch import nn

from mmbench.methods.cmc.curriculum import (
    DifficultyScorer,
    FeedingController,
    PairPredictor,
    PairSampler,
    SampleCache,
    difficulty_buckets,
    label_distance_targets,
)

NAN = math.nan


# Pairs


@pytest.mark.parametrize("size", [2, 3, 7, 35])
@pytest.mark.parametrize("negatives", [1, 4])
def test_a_batch_gives_every_positive_and_the_full_number_of_negatives(size, negatives):
    both = PairSampler(negatives)(size, couples=2)
    for first, second in zip(*both, strict=True):
        assert first[:size].tolist() == second[:size].tolist() == list(range(size))
        assert len(first) == len(second) == size + negatives * size
        assert (first[size:] != second[size:]).all()
        assert {*first.tolist(), *second.tolist()} == set(range(size))


def test_negatives_are_uniform_over_ordered_pairs():
    torch.manual_seed(0)
    (first,), (second,) = PairSampler(6000)(4, couples=1)
    counts = Counter(zip(first[4:].tolist(), second[4:].tolist(), strict=True))
    assert len(counts) == 12
    for count in counts.values():
        assert count == pytest.approx(2000, abs=5 * math.sqrt(2000))


def test_one_sample_has_no_negatives():
    first, second = PairSampler(4)(1, couples=3)
    assert first.tolist() == second.tolist() == [[0]] * 3


def test_pairs_follow_the_generator():
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(torch.stack(PairSampler(4)(35, couples=3)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0][:, 0], drawn[0][:, 1])  # couples have pairs of their own


# Targets


@pytest.mark.parametrize("shape", [(9,), (9, 1), (9, 3)])
def test_targets_are_label_distances(shape):
    labels = torch.rand(shape) * 6 - 3
    pairs = PairSampler(4)(9, couples=3)
    targets = label_distance_targets(labels, *pairs, 0.1, 6.0)
    assert targets.shape == (3, 45)
    rows = labels.reshape(9, -1).tolist()
    for i, j, target in zip(*(part.flatten().tolist() for part in (*pairs, targets)), strict=True):
        distance = sum(abs(a - b) for a, b in zip(rows[i], rows[j], strict=True)) / len(rows[i])
        assert target == (0.0 if i == j else pytest.approx((distance + 0.1) / 6.1, rel=1e-5))


def test_targets_go_from_a_floor_to_one():
    labels = torch.tensor([-3.0, 3.0, 1.0, 1.0])
    every = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    targets = label_distance_targets(labels, *every.T, 0.1, 6.0).view(4, 4)
    torch.testing.assert_close(targets, targets.T)
    assert not targets.diagonal().any()
    assert targets[2, 3].item() == pytest.approx(0.1 / 6.1)  # one label, two samples
    assert [(row, column) for row in range(4) for column in range(4) if targets[row, column] == 1] == [(0, 1), (1, 0)]
    others = targets[~torch.eye(4, dtype=torch.bool)]
    assert others.min() == targets[2, 3]
    order = (labels[:, None] - labels)[~torch.eye(4, dtype=torch.bool)].abs().argsort()
    assert all(a <= b + 1e-7 for a, b in pairwise(others[order].tolist()))


@pytest.mark.parametrize(
    ("labels", "share"),
    [
        (torch.tensor([0, 5]), 1.0),
        (torch.tensor([2, 2]), 0.0),
        (torch.tensor([[0, 1, 1, 0], [1, 1, 0, 0]]), 0.5),
        (torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]), 1 / 3),
    ],
)
def test_classes_differ_or_do_not(labels, share):
    targets = label_distance_targets(labels, torch.tensor([0, 0]), torch.tensor([0, 1]), 0.1, 1.0, categorical=True)
    assert targets.tolist() == [0.0, pytest.approx((share + 0.1) / 1.1)]


# Predictors


def test_a_linear_predictor_reads_both_vectors():
    predictor, left, right = PairPredictor(3), torch.randn(5, 3), torch.randn(5, 3)
    weight, bias = predictor.layers[0].weight[0], predictor.layers[0].bias
    torch.testing.assert_close(predictor(left, right), left @ weight[:3] + right @ weight[3:] + bias)
    assert sum(parameter.numel() for parameter in predictor.parameters()) == 7


def test_a_predictor_may_have_a_hidden_layer():
    predictor, left, right = PairPredictor(3, hidden=4), torch.randn(5, 3), torch.randn(5, 3)
    inner, _, outer = predictor.layers
    hidden = (torch.cat([left, right], 1) @ inner.weight.T + inner.bias).clamp(min=0)
    torch.testing.assert_close(predictor(left, right), hidden @ outer.weight[0] + outer.bias)
    assert sum(parameter.numel() for parameter in predictor.parameters()) == 4 * 7 + 5


# Cache and difficulty


def reloaded(module, into):
    """Load what a checkpoint keeps, read as checkpoints are read."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    into.load_state_dict(torch.load(file, weights_only=True))
    return into


def test_the_cache_knows_samples_by_identity():
    cache, vectors = SampleCache(), torch.randn(4, 2, 3)
    cache.fill(torch.tensor([70, 5, 900, 5]), vectors)  # a sample that two processes saw
    for copy in (cache, reloaded(cache, SampleCache())):
        found, known = copy(torch.tensor([900, 6, 5, 1000, 70, 0]))
        assert known.tolist() == [True, False, True, False, True, False]
        assert torch.equal(found[known], vectors[[2, 1, 0]])
    cache.fill(torch.tensor([1]), vectors[:1])
    assert cache(torch.tensor([5]))[1].tolist() == [False]


def test_the_cache_keeps_no_graph_and_is_no_buffer():
    cache = SampleCache()
    cache.fill(torch.tensor([0]), torch.ones(1, 2, 3, requires_grad=True) * 2)
    assert not cache.vectors.requires_grad
    assert not list(cache.buffers())


def scored(mix=0.5):
    """Return live predictors, a scorer that remembers six samples with three vectors each, and pairs of five."""
    torch.manual_seed(0)
    predictors = nn.ModuleDict({"a_b": PairPredictor(4), "a_c": PairPredictor(4)})
    scorer = DifficultyScorer(predictors, {"a_b": (0, 1), "a_c": (0, 2)}, mix)
    ids, vectors = torch.tensor([11, 3, 8, 20, 4, 9]), torch.randn(6, 3, 4)
    scorer.remember(predictors, ids, vectors)
    return predictors, scorer, ids, vectors


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_difficulty_mixes_two_losses(mix):
    predictors, scorer, ids, vectors = scored(mix)
    first, second = PairSampler(3)(5, couples=2)
    targets, today = torch.rand(first.shape), torch.rand(first.shape, requires_grad=True)
    difficulty = scorer(ids[:5], first, second, targets, today)
    assert not difficulty.requires_grad
    for couple, (name, column) in enumerate([("a_b", 1), ("a_c", 2)]):
        for pair, (i, j) in enumerate(zip(first[couple].tolist(), second[couple].tolist(), strict=True)):
            before = (predictors[name](vectors[i, 0], vectors[j, column]) - targets[couple, pair]).abs()
            torch.testing.assert_close(difficulty[couple, pair], (1 - mix) * before + mix * today[couple, pair])


def test_pairs_of_unknown_samples_are_scored_by_the_loss_of_today():
    _, scorer, ids, _ = scored()
    first, second = (torch.tensor([rows] * 2) for rows in ([0, 0, 1, 2, 2], [0, 1, 2, 2, 0]))
    index = torch.tensor([int(ids[0]), 777, int(ids[1])])
    targets, today = torch.zeros(2, 5), torch.rand(2, 5)
    known = scorer(index, first, second, targets, today) != today
    assert known.tolist() == [[True, False, False, True, True]] * 2


def test_before_anything_is_remembered_the_loss_of_today_decides():
    scorer = DifficultyScorer(nn.ModuleDict({"a_b": PairPredictor(4)}), {"a_b": (0, 1)}, 0.5)
    rows, today = torch.arange(3), torch.rand(1, 3)
    assert torch.equal(scorer(rows, rows[None], rows[None], torch.zeros(1, 3), today), today)


def test_what_is_remembered_stays_as_it_was():
    predictors, scorer, ids, vectors = scored()
    pairs, losses = PairSampler(3)(6, couples=2), torch.zeros(2, 24)
    before = scorer(ids, *pairs, torch.zeros(2, 24), losses)
    for parameter in predictors.parameters():
        nn.init.normal_(parameter, std=9.0)
    vectors.zero_()
    torch.testing.assert_close(scorer(ids, *pairs, torch.zeros(2, 24), losses), before)
    other = DifficultyScorer(predictors, scorer.columns, 0.5)
    assert torch.equal(reloaded(scorer, other)(ids, *pairs, torch.zeros(2, 24), losses), before)
    assert not any(parameter.requires_grad for parameter in scorer.parameters())


# Buckets


@pytest.mark.parametrize("count", [1, 2, 7, 30, 35, 100])
@pytest.mark.parametrize(("discard", "levels"), [(0.1, 5), (0.0, 4), (0.29, 3), (0.9, 1), (0.5, 7)])
def test_buckets_are_equal_parts_of_what_is_left(count, discard, levels):
    difficulty = torch.rand(count)
    buckets = difficulty_buckets(difficulty, discard, levels)
    gone = round(discard * 100) * count // 100
    assert (buckets == levels).sum() == gone
    kept = count - gone
    for level in range(1, levels + 1):
        fed = buckets < level
        assert fed.sum() == -(-kept * level // levels)  # the easiest k / K of what is kept, rounded up
        assert difficulty[fed].max() <= difficulty[~fed].min() if not fed.all() else fed.sum() == kept + gone
    means = [difficulty[buckets < level].mean().item() for level in range(1, levels + 1)]
    assert all(a <= b + 1e-6 for a, b in pairwise(means))


def test_every_couple_has_buckets_of_its_own():
    difficulty = torch.rand(3, 30) + torch.arange(3)[:, None]
    expected = [difficulty_buckets(row, 0.1, 5) for row in difficulty]
    assert torch.equal(difficulty_buckets(difficulty, 0.1, 5), torch.stack(expected))


def test_no_pairs_have_no_buckets():
    assert difficulty_buckets(torch.zeros(2, 0), 0.1, 5).tolist() == [[], []]


def test_equally_hard_pairs_are_not_discarded_together():
    assert Counter(difficulty_buckets(torch.zeros(10), 0.1, 3).tolist()) == {0: 3, 1: 3, 2: 3, 3: 1}


def test_wrong_targets_are_among_the_discarded():
    """A tenth of the targets is noise; the predictors, trained on all of them, single out most of it."""
    torch.manual_seed(0)
    vectors, true = torch.randn(400, 2, 4), torch.randn(8)
    pairs = PairSampler(4)(400, couples=1)
    (first,), (second,) = pairs
    targets = torch.cat([vectors[first, 0], vectors[second, 1]], 1) @ true
    wrong = torch.rand(len(targets)) < 0.1
    targets[wrong] += torch.randn(int(wrong.sum())) * 5
    predictors = nn.ModuleDict({"a_b": PairPredictor(4)})
    optimizer = torch.optim.Adam(predictors.parameters(), lr=0.1)
    for _ in range(100):
        loss = (predictors["a_b"](vectors[first, 0], vectors[second, 1]) - targets).abs()
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    scorer = DifficultyScorer(predictors, {"a_b": (0, 1)}, 0.5)
    scorer.remember(predictors, torch.arange(400), vectors)
    (difficulty,) = scorer(torch.arange(400), *pairs, targets[None], loss[None])
    gone = difficulty_buckets(difficulty, 0.1, 5) == 5
    assert wrong[gone].float().mean() > 0.8


# Feeding

CASES = {  # loss before, loss now -> improvement, none within 2 per cent, worse
    "improved": (1.0, 0.97),
    "better by less": (1.0, 0.985),
    "worse by less": (1.0, 1.015),
    "worse": (1.0, 1.03),
}


@pytest.mark.parametrize(
    ("rule", "actions"), [("saturated_forward", (0, 1, 1, -1)), ("improved_forward", (1, 0, 0, -1))]
)
def test_the_change_of_the_loss_selects_the_action(rule, actions):
    controller = FeedingController(5, 0.02, rule)
    for (before, now), action in zip(CASES.values(), actions, strict=True):
        feeding = controller(3, [before] * 3 + [NAN] * 2, [now] * 3 + [NAN] * 2)
        assert (feeding.action, feeding.level) == (action, 3 + action)
        assert feeding.gain == pytest.approx(before - now)


def test_the_tolerance_is_relative():
    controller = FeedingController(5, 0.02)
    assert controller(2, [100.0] * 5, [99.0] * 5).action == 1
    assert controller(2, [0.1] * 5, [0.09] * 5).action == 0


@pytest.mark.parametrize(
    ("now", "action"),
    [
        (0.6, 0),  # the tolerance is a share of the loss before: of the loss now this would be a gain
        (1.6, -1),  # and this would be none
        (0.5, 0),  # as much as the tolerance is none yet
        (1.5, 0),
        (0.375, 1),
    ],
)
def test_a_change_up_to_the_tolerance_times_the_loss_before_is_none(now, action):
    assert FeedingController(5, 0.5, "improved_forward")(3, [1.0] * 5, [now] * 5).action == action


def test_the_first_period_stays():
    feeding = FeedingController(5)(1, [NAN] * 5, [0.4] + [NAN] * 4)
    assert (feeding.action, feeding.level) == (0, 1)
    assert math.isnan(feeding.gain)


def test_levels_end():
    controller = FeedingController(3, 0.02)
    assert controller(3, [1.0] * 3, [1.0] * 3).level == 3
    assert controller(1, [1.0, NAN, NAN], [2.0, NAN, NAN]).level == 1
    assert FeedingController(1)(1, [1.0], [1.0]).level == 1


@pytest.mark.parametrize(
    ("previous", "current"),
    [
        ([0.4, NAN, NAN], [0.4, 0.9, NAN]),  # after a step forward
        ([0.4, 0.9, NAN], [0.4, NAN, NAN]),  # after a step back
        ([0.4, NAN, 2.0], [0.4, 3.0, NAN]),  # a bucket that had no pair
    ],
)
def test_losses_are_compared_over_the_buckets_that_both_periods_fed(previous, current):
    feeding = FeedingController(3)(2, previous, current)
    assert (feeding.action, feeding.gain) == (1, 0.0)
