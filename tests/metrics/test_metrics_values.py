"""Worked examples: numbers computed by hand or with scikit-learn, to the printed seven decimals."""

import math

import pytest
import torch
from torch import Tensor

from mmbench.metrics import (
    affect_metrics,
    auilc,
    calibration_error,
    calibration_metrics,
    concordance,
    decision_metrics,
    multiclass_metrics,
    sentiment_legacy_metrics,
    sentiment_metrics,
    sims_metrics,
)

LABEL = torch.tensor([-3, -2.4, -1.5, -0.5, -0.2, 0, 0, 0.5, 0.6, 1.5, 2.5, 3], dtype=torch.float64)
PREDICTION = torch.tensor([-3.6, -1.2, 0.3, -0.6, 0.1, -0.3, 0.4, 0.5, -0.1, 2.5, 2.4, 1.8], dtype=torch.float64)


def near(value: float) -> object:
    return pytest.approx(value, abs=6e-8)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mae", 0.6416667),
        ("corr", 0.8794381),
        ("acc7", 0.5833333),
        ("acc5", 0.6666667),
        ("acc2_has0", 0.6666667),
        ("f1_has0", 0.6666667),
        ("acc2_non0", 0.7),
        ("f1_non0", 0.6969697),
    ],
)
def test_sentiment(name: str, value: float) -> None:
    assert sentiment_metrics(PREDICTION, LABEL)[name] == near(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("f1_non0_swapped", 0.7030303),
        ("f1_non0_binary", 0.7272727),
        ("mae_non0", 0.7),
        ("corr_non0", 0.8832967),
        ("acc3", 0.75),
        ("acc7_half_away", 0.5),
        ("acc5_half_away", 0.75),
        ("acc7_ceil_away", 0.3333333),
    ],
)
def test_sentiment_legacy(name: str, value: float) -> None:
    assert sentiment_legacy_metrics(PREDICTION, LABEL)[name] == near(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("label", "rounded"), [(0.5, 0.0), (1.5, 2.0), (2.5, 2.0), (-0.5, 0.0), (-1.5, -2.0)])
def test_halves_round_to_even(label: float, rounded: float, dtype: torch.dtype) -> None:
    values = sentiment_metrics(torch.tensor([rounded], dtype=dtype), torch.tensor([label], dtype=dtype))
    assert values["acc7"] == 1.0


def test_classes_clip_before_rounding() -> None:
    values = sentiment_metrics(torch.tensor([7.0, -9.0]), torch.tensor([3.0, -3.0]))
    assert values["acc7"] == values["acc5"] == 1.0
    assert values["mae"] == 5.0


def mosi_test_labels() -> Tensor:
    """Labels with the published counts of MOSI's test split: 686, of which 30 zero, 379 negative, 277 positive."""
    classes = {-3.0: 46, -2.0: 156, -1.0: 145, -0.4: 32, 0.0: 30, 0.4: 44, 1.0: 113, 2.0: 100, 3.0: 20}
    return torch.cat([torch.full((count,), value) for value, count in classes.items()])


def test_constant_predictor_on_mosi() -> None:
    label = mosi_test_labels()
    values = sentiment_metrics(torch.full_like(label, 0.2345), label)
    assert values["acc7"] == pytest.approx(106 / 686)
    assert values["acc2_has0"] == pytest.approx(307 / 686)
    assert values["acc2_non0"] == pytest.approx(277 / 656)
    assert values["f1_non0"] == pytest.approx(277 / 656 * 2 * 277 / (656 + 277))
    assert math.isnan(values["corr"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("acc2", 0.75),
        ("f1", 0.7517483),
        ("acc3", 0.8333333),
        ("acc5", 0.5833333),
        ("mae", 0.14),
        ("corr", 0.9458586),
    ],
)
def test_sims(name: str, value: float) -> None:
    label = torch.tensor([-1, -0.8, -0.7, -0.4, -0.1, 0, 0.1, 0.2, 0.7, 0.8, 1, -0.6], dtype=torch.float64)
    prediction = [-1.3, -0.6, -0.75, -0.05, -0.1, 0.05, 0, 0.35, 0.71, 0.65, 1.2, 0.02]
    assert sims_metrics(torch.tensor(prediction, dtype=torch.float64), label)[name] == near(value)


@pytest.mark.parametrize(
    ("name", "value"), [("wacc", 0.6904762), ("acc", 0.7), ("f1_pos", 0.5714286), ("f1_weighted", 0.7098901)]
)
def test_one_emotion(name: str, value: float) -> None:
    truth = torch.tensor([[1, 0, 0, 1, 0, 0, 0, 1, 0, 0]]).T
    decision = torch.tensor([[1, 1, 0, 0, 0, 0, 1, 1, 0, 0]]).T
    values = decision_metrics(decision, truth, ("anger",))
    assert values[name] == values[f"{name}/anger"] == near(value)


@pytest.mark.parametrize(
    ("name", "value"), [("wa", 0.7), ("ua", 0.7083333), ("f1_weighted", 0.6933333), ("f1_macro", 0.7)]
)
def test_dialogue_emotions(name: str, value: float) -> None:
    truth = torch.tensor([0, 0, 1, 2, 2, 2, 3, 3, 1, 0])
    logits = torch.eye(4)[[0, 1, 1, 2, 2, 0, 3, 2, 1, 0]]
    assert multiclass_metrics(logits, truth, ("a", "b", "c", "d"))[name] == near(value)


def test_calibration_error() -> None:
    confidence = torch.tensor([0.95, 0.91, 0.85, 0.8, 0.72, 0.66, 0.61, 0.55, 0.52, 0.99], dtype=torch.float64)
    correct = torch.tensor([1, 1, 0, 1, 1, 0, 1, 0, 1, 1], dtype=torch.bool)
    assert calibration_error(confidence, correct, bins=10)[0] == near(0.182)
    assert calibration_error(confidence, correct)[0] == near(0.278)


def test_calibration_bins_are_closed_on_the_right() -> None:
    # The bin (11/15, 12/15] holds 0.74 and its right edge 0.8, where an error and a success partly cancel.
    confidence, correct = torch.tensor([0.74, 0.8], dtype=torch.float64), torch.tensor([False, True])
    ece, mce = calibration_error(confidence, correct)
    assert ece == near(abs((0 - 0.74) + (1 - 0.8)) / 2)
    assert mce == ece
    apart = calibration_error(torch.tensor([0.74, 0.81], dtype=torch.float64), correct)
    assert apart == (near((0.74 + 0.19) / 2), near(0.74))


def test_brier_and_log_loss() -> None:
    logits = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]]).log()
    values = calibration_metrics(logits, torch.tensor([0, 1]))
    assert values["brier"] == near(((0.3**2 + 0.2**2 + 0.1**2) + (0.3**2 + 0.7**2 + 0.4**2)) / 2)
    assert values["nll"] == near(-(math.log(0.7) + math.log(0.3)) / 2)


def test_concordance() -> None:
    assert concordance(PREDICTION, LABEL).item() == near(0.8734940)
    assert concordance(PREDICTION, LABEL, correction=1).item() == near(0.8737603)


def test_affect_per_dimension_and_mean() -> None:
    prediction, label = torch.stack([PREDICTION, LABEL], 1), torch.stack([LABEL, LABEL], 1)
    values = affect_metrics(prediction, label, ("arousal", "valence"))
    assert values == {"ccc": near((0.8734940 + 1) / 2), "ccc/arousal": near(0.8734940), "ccc/valence": near(1.0)}


def test_auilc() -> None:
    rates = [step / 10 for step in range(11)]
    assert auilc(rates, [84, 82, 80, 77, 75, 71, 68, 64, 60, 55, 48]) == near(69.8)
    assert auilc(rates, [80.0] * 11) == near(80)
    assert auilc(rates[:6], [80.0] * 6) == near(40)
    assert auilc([0, 0.5, 1], [1, 0, 0]) == near(0.25)
    assert auilc([0, 0.2, 1], [1, 0, 0]) == near(0.1)


@pytest.mark.parametrize(("rates", "values"), [([0, 1], [1]), ([0], [1]), ([0, 0], [1, 1]), ([1, 0], [1, 1]), ([], [])])
def test_auilc_refuses_what_is_no_curve(rates: list[float], values: list[float]) -> None:
    with pytest.raises(ValueError, match="rate"):
        auilc(rates, values)
