"""Inputs at the edge: constants, missing classes, single samples, wrong shapes."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmbench.metrics import (
    affect_metrics,
    binary_metrics,
    concordance,
    decision_metrics,
    fit_thresholds,
    multiclass_metrics,
    multilabel_metrics,
    pearson,
    sentiment_legacy_metrics,
    sentiment_metrics,
    sims_metrics,
)
from mmbench.metrics.confusion import confusion

NAMES = ("a", "b")
HALF = torch.full((2,), 0.5)

ScorePair = Callable[[Tensor, Tensor], dict[str, float]]


@pytest.mark.parametrize("value", [0.1, 0.2345, 1 / 3, -2.7, 0.0, 1e6])
def test_constant_predictor_has_no_correlation(value: float) -> None:
    """The mean of equal numbers is not always that number: the variance must still be exactly 0."""
    constant = torch.full((1001,), value, dtype=torch.float64)
    label = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    for x, y in [(constant, label), (label, constant)]:
        assert math.isnan(pearson(x, y).item())
        for correction in (0, 1):
            assert concordance(x, y, correction).item() == 0.0
    assert concordance(constant, constant).item() == 0.0


def test_correlation_stays_in_range() -> None:
    """Rounding takes some of these perfect correlations beyond 1 by an ulp."""
    rng = torch.Generator().manual_seed(0)
    for _ in range(100):
        x = torch.randn(7, generator=rng, dtype=torch.float64)
        assert 1 - 1e-12 < pearson(x, 3 * x).item() <= 1.0
        assert -1.0 <= pearson(x, -3 * x).item() < -1 + 1e-12


def test_only_zero_labels_leave_the_non0_metrics_undefined() -> None:
    prediction, label = torch.tensor([0.2, -0.1, 1.0]), torch.zeros(3)
    values = sentiment_metrics(prediction, label) | sentiment_legacy_metrics(prediction, label)
    undefined = {"acc2_non0", "f1_non0", "f1_non0_swapped", "mae_non0", "corr_non0", "acc2_non0_geq", "f1_non0_geq"}
    assert {name for name, value in values.items() if math.isnan(value)} == undefined | {"corr", "precision_non0"}
    assert values["acc2_has0"] == pytest.approx(2 / 3)


def test_zero_counts_as_non_negative_and_not_as_positive() -> None:
    for zero in (0.0, -0.0):
        values = sentiment_metrics(torch.tensor([zero, zero]), torch.tensor([2.0, -2.0]))
        legacy = sentiment_legacy_metrics(torch.tensor([zero, zero]), torch.tensor([2.0, -2.0]))
        assert values["f1_has0"] == pytest.approx(1 / 3)  # all "non-negative": the positive label is right
        assert values["f1_non0"] == pytest.approx(1 / 3)  # all "negative": the negative label is right
        assert values["acc2_has0"] == values["acc2_non0"] == 0.5
        assert legacy["acc2_positive"] == legacy["acc2_non0_geq"] == 0.5
    one_side = torch.tensor([2.0, 1.0])
    assert sentiment_metrics(torch.zeros(2), one_side)["acc2_has0"] == 1.0
    assert sentiment_metrics(torch.zeros(2), one_side)["acc2_non0"] == 0.0
    assert sentiment_legacy_metrics(torch.zeros(2), one_side)["acc2_non0_geq"] == 1.0
    assert sims_metrics(torch.tensor([-0.5, 0.5]), torch.zeros(2))["acc2"] == 0.5


def test_single_sample() -> None:
    one = torch.tensor([1.2])
    assert sentiment_metrics(one, one)["acc7"] == 1.0
    assert math.isnan(sentiment_metrics(one, one)["corr"])
    assert concordance(one, one, correction=1).item() == 0.0
    values = multiclass_metrics(torch.tensor([[0.0, 1.0]]), torch.tensor([1]), NAMES)
    assert values["wa"] == values["ua"] == values["f1_weighted"] == values["f1_macro"] == 1.0
    assert math.isnan(values["recall/a"])
    assert math.isnan(values["f1/a"])


def test_majority_predictor() -> None:
    """Nine of ten absent: always saying no gives 0.9 accuracy but no balanced accuracy and no F1 of the presence."""
    truth = torch.zeros(10, 1)
    truth[0] = 1
    values = decision_metrics(torch.zeros(10, 1, dtype=torch.bool), truth, ("fear",))
    assert values["acc"] == pytest.approx(0.9)
    assert values["wacc"] == 0.5
    assert values["f1_weighted"] == pytest.approx(0.9 * 2 * 0.9 / 1.9)
    assert values["f1_pos"] == 0.0


def test_balanced_accuracy_skips_an_absent_emotion_in_the_mean() -> None:
    truth = torch.tensor([[1, 0], [0, 0], [1, 0], [0, 0]])
    decision = torch.tensor([[1, 0], [0, 0], [0, 1], [0, 0]], dtype=torch.bool)
    values = decision_metrics(decision, truth, NAMES)
    assert values["wacc/a"] == values["wacc"] == 0.75
    assert math.isnan(values["wacc/b"])
    assert values["f1_pos/b"] == 0.0
    assert values["acc"] == 0.75


def test_f1_of_an_emotion_neither_true_nor_predicted_is_0() -> None:
    truth = torch.tensor([[1, 0], [0, 0]])
    values = decision_metrics(truth.bool(), truth, NAMES)
    assert (values["f1_pos/a"], values["f1_pos/b"], values["f1_pos"]) == (1.0, 0.0, 0.5)


def test_threshold_of_an_absent_emotion_is_the_lowest() -> None:
    assert fit_thresholds(torch.randn(8, 2), torch.zeros(8, 2)).tolist() == pytest.approx([0.05, 0.05])


def test_score_equal_to_the_threshold_is_a_no() -> None:
    values = multilabel_metrics(torch.zeros(1, 2), torch.tensor([[0, 1]]), NAMES, HALF)
    assert (values["acc/a"], values["acc/b"]) == (1.0, 0.0)


def test_tie_of_two_logits_is_a_no() -> None:
    values = binary_metrics(torch.ones(1, 4), torch.tensor([[0, 1]]), NAMES)
    assert (values["acc/a"], values["acc/b"]) == (1.0, 0.0)


def test_fitted_thresholds_apply_as_fitted() -> None:
    """A score that is exactly on a float32 grid point falls on the same side when fitting and when scoring."""
    scores = torch.tensor([[0.3], [0.6], [0.61], [0.9]])
    logits = (scores / (1 - scores)).log()
    target = torch.tensor([[0], [0], [1], [1]])
    thresholds = fit_thresholds(logits, target)
    assert thresholds.dtype == logits.dtype
    assert multilabel_metrics(logits, target, ("a",), thresholds)["f1_pos"] == 1.0


def test_confident_mistakes_have_finite_scores() -> None:
    values = multiclass_metrics(torch.tensor([[1e4, 0.0], [0.0, 1e4]]), torch.tensor([1, 1]), NAMES)
    assert values["nll"] == pytest.approx(5e3)
    assert values["brier"] == pytest.approx(1.0)
    assert values["ece"] == pytest.approx(0.5)


@pytest.mark.parametrize("bad", [-1, 2, -100])
def test_padding_labels_are_refused(bad: int) -> None:
    with pytest.raises(ValueError, match="class numbers 0"):
        multiclass_metrics(torch.randn(3, 2), torch.tensor([0, 1, bad]), NAMES)


def test_intensities_are_no_labels() -> None:
    with pytest.raises(ValueError, match="class numbers 0"):
        confusion(torch.tensor([True]), torch.tensor([0.33]))


FAMILIES: dict[str, tuple[ScorePair, tuple[int, ...], tuple[int, ...]]] = {
    "sentiment": (sentiment_metrics, (), ()),
    "legacy": (sentiment_legacy_metrics, (), ()),
    "sims": (sims_metrics, (), ()),
    "multiclass": (lambda p, y: multiclass_metrics(p, y, NAMES), (2,), ()),
    "multilabel": (lambda p, y: multilabel_metrics(p, y, NAMES, HALF), (2,), (2,)),
    "binary": (lambda p, y: binary_metrics(p, y, NAMES), (4,), (2,)),
    "affect": (lambda p, y: affect_metrics(p, y, NAMES), (2,), (2,)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_empty_and_misshapen_splits_are_refused(family: str) -> None:
    score, prediction_tail, target_tail = FAMILIES[family]
    assert score(torch.zeros(3, *prediction_tail), torch.zeros(3, *target_tail))
    with pytest.raises(ValueError, match="empty split"):
        score(torch.zeros(0, *prediction_tail), torch.zeros(0, *target_tail))
    for prediction, target in [
        (torch.zeros(4, *prediction_tail), torch.zeros(3, *target_tail)),
        (torch.zeros(3, *prediction_tail, 1), torch.zeros(3, *target_tail)),
        (torch.zeros(3, *prediction_tail), torch.zeros(3, *target_tail, 1)),
        (torch.tensor(0.0), torch.tensor(0.0)),
    ]:
        with pytest.raises(ValueError, match="expected prediction") as error:
            score(prediction, target)
        assert str(tuple(prediction.shape)) in str(error.value)
        assert str(tuple(target.shape)) in str(error.value)


def test_thresholds_need_one_value_per_emotion() -> None:
    with pytest.raises(ValueError, match=r"expected thresholds \(2,\), got \(3,\)"):
        multilabel_metrics(torch.zeros(3, 2), torch.zeros(3, 2), NAMES, torch.zeros(3))
    with pytest.raises(ValueError, match="expected prediction"):
        fit_thresholds(torch.zeros(3, 2), torch.zeros(3))
