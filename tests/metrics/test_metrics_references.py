"""Random inputs against scikit-learn, scipy, numpy and torchmetrics."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from scipy.stats import pearsonr
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    f1_score,
    log_loss,
    mean_absolute_error,
    precision_score,
    recall_score,
)
from torchmetrics.functional.classification import multiclass_calibration_error

from mmbench.metrics import (
    affect_metrics,
    auilc,
    binary_metrics,
    calibration_error,
    concordance,
    fit_thresholds,
    multiclass_metrics,
    multilabel_metrics,
    sentiment_legacy_metrics,
    sentiment_metrics,
)

SEEDS = range(20)
NAMES = ("a", "b", "c", "d", "e")


def close(value: object) -> object:
    return pytest.approx(value, abs=1e-12)


@pytest.fixture(params=SEEDS)
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    return np.random.default_rng(request.param)


def test_sentiment(rng: np.random.Generator) -> None:
    y = np.round(rng.normal(0, 2, 57).clip(-3, 3) * 4) / 4  # a grid with exact halves and zeros
    p = np.round((0.6 * y + rng.normal(0, 1.2, 57)) * 4) / 4
    ours = sentiment_metrics(torch.from_numpy(p), torch.from_numpy(y))
    kept = y != 0
    assert ours == {
        "mae": close(mean_absolute_error(y, p)),
        "corr": close(pearsonr(p, y).statistic),
        "acc7": close(accuracy_score(np.round(y.clip(-3, 3)).astype(int), np.round(p.clip(-3, 3)).astype(int))),
        "acc5": close(accuracy_score(np.round(y.clip(-2, 2)).astype(int), np.round(p.clip(-2, 2)).astype(int))),
        "acc2_has0": close(accuracy_score(y >= 0, p >= 0)),
        "f1_has0": close(f1_score(y >= 0, p >= 0, average="weighted")),
        "acc2_non0": close(accuracy_score(y[kept] > 0, p[kept] > 0)),
        "f1_non0": close(f1_score(y[kept] > 0, p[kept] > 0, average="weighted")),
    }
    legacy = sentiment_legacy_metrics(torch.from_numpy(p), torch.from_numpy(y))
    assert legacy["f1_has0_swapped"] == close(f1_score(p >= 0, y >= 0, average="weighted"))
    assert legacy["f1_non0_swapped"] == close(f1_score(p[kept] > 0, y[kept] > 0, average="weighted"))
    assert legacy["f1_positive_swapped"] == close(f1_score(p > 0, y > 0, average="weighted"))
    assert legacy["precision_has0"] == close(precision_score(y >= 0, p >= 0, average="weighted"))
    assert legacy["f1_non0_geq"] == close(f1_score(y[kept] >= 0, p[kept] >= 0, average="weighted"))


def test_multiclass(rng: np.random.Generator) -> None:
    """Few samples of five classes: some seeds lack a class in the truth, the prediction or both."""
    y = rng.integers(0, 5, 12)
    logits = rng.normal(0, 1.5, (12, 5))
    guess = logits.argmax(1)
    ours = multiclass_metrics(torch.from_numpy(logits), torch.from_numpy(y), NAMES)
    assert ours["wa"] == close(accuracy_score(y, guess))
    assert ours["ua"] == close(recall_score(y, guess, labels=np.unique(y), average="macro", zero_division=0))
    assert ours["f1_weighted"] == close(f1_score(y, guess, average="weighted", zero_division=0))
    assert ours["f1_macro"] == close(f1_score(y, guess, average="macro", zero_division=0))
    undefined = {"zero_division": np.nan, "labels": range(5), "average": None}
    for score, reference in (("recall", recall_score), ("f1", f1_score)):
        values = [ours[f"{score}/{name}"] for name in NAMES]
        np.testing.assert_allclose(values, reference(y, guess, **undefined), atol=1e-12)

    probability = softmax(logits, axis=1)
    assert ours["nll"] == close(log_loss(y, probability, labels=range(5)))
    assert ours["brier"] == close(((probability - np.eye(5)[y]) ** 2).sum(1).mean())
    arrays = torch.from_numpy(probability), torch.from_numpy(y)
    for score, norm in (("ece", "l1"), ("mce", "max")):
        reference = multiclass_calibration_error(*arrays, num_classes=5, n_bins=15, norm=norm).item()
        assert ours[score] == pytest.approx(reference, abs=1e-6)


def test_single_precision_inputs_lose_nothing_more(rng: np.random.Generator) -> None:
    logits = torch.from_numpy(rng.normal(0, 3, (301, 5))).float()
    label = torch.from_numpy(rng.integers(0, 5, 301))
    assert multiclass_metrics(logits, label, NAMES) == close(multiclass_metrics(logits.double(), label, NAMES))
    p, y = logits[:, 0], logits[:, 1]
    assert sentiment_metrics(p, y) == close(sentiment_metrics(p.double(), y.double()))


def test_calibration_error_over_explicit_bins(rng: np.random.Generator) -> None:
    confidence = np.concatenate([rng.random(40), np.arange(1, 16) / 15])  # every right edge is there
    correct = rng.random(55) < confidence
    edges = np.arange(16) / 15
    gaps = []
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        gaps.append((inside.mean(), abs(correct[inside].mean() - confidence[inside].mean()) if inside.any() else 0))
    ece, mce = calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct))
    assert ece == close(sum(weight * gap for weight, gap in gaps))
    assert mce == close(max(gap for _, gap in gaps))


def test_multilabel(rng: np.random.Generator) -> None:
    y = rng.random((40, 5)) < [0.5, 0.3, 0.1, 0.7, 0.2]
    y[0], y[1] = True, False
    logits = rng.normal(0, 1.5, (40, 5)) + y
    thresholds = rng.integers(1, 20, 5) / 20
    decision = expit(logits) > thresholds
    ours = multilabel_metrics(
        torch.from_numpy(logits), torch.from_numpy(y).float(), NAMES, torch.from_numpy(thresholds)
    )
    references = {
        "acc": accuracy_score,
        "wacc": balanced_accuracy_score,
        "f1_weighted": lambda truth, guess: f1_score(truth, guess, average="weighted", zero_division=0),
        "f1_pos": lambda truth, guess: f1_score(truth, guess, zero_division=0),
    }
    for score, reference in references.items():
        expected = [reference(y[:, column], decision[:, column]) for column in range(5)]
        assert [ours[f"{score}/{name}"] for name in NAMES] == close(expected)
        assert ours[score] == close(np.mean(expected))


def test_fitted_thresholds(rng: np.random.Generator) -> None:
    y = rng.random((30, 3)) < [0.5, 0.2, 0.05]
    logits = rng.normal(-0.5, 1, (30, 3)) + 1.2 * y
    grid = [step / 20 for step in range(1, 20)]
    expected = []
    for column in range(3):
        scores = [f1_score(y[:, column], expit(logits[:, column]) > t, zero_division=0) for t in grid]
        expected.append(grid[int(np.argmax(scores))])  # the first of equal ones, so the lowest
    assert fit_thresholds(torch.from_numpy(logits), torch.from_numpy(y)).tolist() == expected


def test_binary(rng: np.random.Generator) -> None:
    y = rng.integers(0, 2, (25, 5))
    logits = rng.integers(-2, 3, (25, 10)).astype(float)  # integers: many ties
    guess = logits.reshape(25, 5, 2).argmax(2)
    ours = binary_metrics(torch.from_numpy(logits), torch.from_numpy(y), NAMES)
    accuracies = [accuracy_score(y[:, column], guess[:, column]) for column in range(5)]
    f1s = [f1_score(y[:, column], guess[:, column], average="weighted") for column in range(5)]
    assert [ours[f"acc/{name}"] for name in NAMES] == close(accuracies)
    assert [ours[f"f1_weighted/{name}"] for name in NAMES] == close(f1s)
    assert (ours["acc"], ours["f1_weighted"]) == (close(np.mean(accuracies)), close(np.mean(f1s)))


def test_concordance(rng: np.random.Generator) -> None:
    """CCC is r times the bias correction of Lin 1989: C_b = 2 / (v + 1/v + u^2), v = s_x/s_y, u = dm/sqrt(s_x s_y)."""
    y, p = rng.normal(0.3, 1, (50, 2)), rng.normal(0, 0.5, (50, 2))
    p += 0.6 * y
    for ddof in (0, 1):
        sx, sy = p.std(0, ddof=ddof), y.std(0, ddof=ddof)
        shift = (p.mean(0) - y.mean(0)) / np.sqrt(sx * sy)
        r = [pearsonr(p[:, column], y[:, column]).statistic for column in range(2)]
        expected = 2 * np.array(r) / (sx / sy + sy / sx + shift**2)
        ours = concordance(torch.from_numpy(p), torch.from_numpy(y), correction=ddof)
        np.testing.assert_allclose(ours, expected, atol=1e-12)
        if ddof == 0:
            values = affect_metrics(torch.from_numpy(p), torch.from_numpy(y), ("arousal", "valence"))
            assert list(values.values()) == close([expected.mean(), *expected])


def test_auilc(rng: np.random.Generator) -> None:
    rates, values = np.sort(rng.random(7)), rng.random(7)
    assert auilc(rates.tolist(), values.tolist()) == close(np.trapezoid(values, rates))
