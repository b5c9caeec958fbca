"""Our numbers against the official metric code of eight repositories (golden/metrics/case.json lists commits)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mmbench.metrics import (
    binary_metrics,
    fit_thresholds,
    multiclass_metrics,
    multilabel_metrics,
    sentiment_legacy_metrics,
    sentiment_metrics,
    sims_metrics,
)
from mmbench.metrics.confusion import accuracy, confusion, recall, weighted_f1

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"
OUTPUTS = json.loads((GOLDEN / "case.json").read_text())["outputs"]
ARRAYS = np.load(GOLDEN / "case.npz")
EMOTIONS = ("anger", "disgust", "fear", "happy", "sad", "surprise")

MMSA = {
    "Has0_acc_2": "acc2_has0",
    "Has0_F1_score": "f1_has0",
    "Non0_acc_2": "acc2_non0",
    "Non0_F1_score": "f1_non0",
    "Mult_acc_5": "acc5",
    "Mult_acc_7": "acc7",
    "MAE": "mae",
    "Corr": "corr",
}
MULT = {"MAE": "mae", "Correlation_Coefficient": "corr", "mult_acc_7": "acc7", "mult_acc_5": "acc5"}
MAG = {"acc": "acc2_non0_geq", "mae": "mae_non0", "corr": "corr_non0", "f_score": "f1_non0_geq"}
SENTIMENT = {
    "mmsa": MMSA,
    "mmsa_rounded": MMSA,
    "tfr_net": MMSA | {"Has0_F1_score": "f1_has0_swapped", "Non0_F1_score": "f1_non0_swapped"},
    "mult_exclude_zero": MULT | {"F1_score": "f1_non0_swapped", "Accuracy": "acc2_non0"},
    "mult_include_zero": MULT | {"F1_score": "f1_positive_swapped", "Accuracy": "acc2_positive"},
    "misa": {
        "mae": "mae",
        "corr": "corr",
        "mult_acc": "acc7",
        "Accuracy_(pos/neg)": "acc2_non0",
        "Accuracy_(non-neg/neg)": "acc2_has0",
        "report_pos_neg.weighted_precision": "precision_non0",
        "report_pos_neg.weighted_recall": "acc2_non0",
        "report_pos_neg.weighted_f1": "f1_non0",
        "report_pos_neg.accuracy": "acc2_non0",
        "report_nonneg_neg.weighted_precision": "precision_has0",
        "report_nonneg_neg.weighted_recall": "acc2_has0",
        "report_nonneg_neg.weighted_f1": "f1_has0",
        "report_nonneg_neg.accuracy": "acc2_has0",
        "f1_computed_but_not_printed": "f1_non0_swapped",
        "returned": "acc2_has0",
    },
    "mag": MAG,
    "mag_use_zero": {"acc": "acc2_has0", "mae": "mae", "corr": "corr", "f_score": "f1_has0"},
    "mib": MAG | {"mult_a7": "acc7"},
    "mmim": {
        "returned.mae": "mae",
        "returned.corr": "corr",
        "returned.mult": "acc7",
        "returned.f1": "f1_has0",
        "returned.acc2": "acc2_has0",
        "f1_non0": "f1_non0",
        "f1_all": "f1_has0",
        "accuracy_non0": "acc2_non0",
        "accuracy_all": "acc2_has0",
        "mult_acc_5": "acc5",
    },
    "mesm_senti_exclude_zero": {
        "mae": "mae",
        "corr": "corr",
        "acc7": "acc7",
        "acc5": "acc5",
        "acc2": "acc2_non0",
        "f1": "f1_non0_swapped",
    },
}
SIMS = {
    "Mult_acc_2": "acc2",
    "Mult_acc_3": "acc3",
    "Mult_acc_5": "acc5",
    "F1_score": "f1",
    "MAE": "mae",
    "Corr": "corr",
}


def load(array: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Prediction and label of an array; a name ending in _float64 has the same values cast up."""
    stored = array.removesuffix("_float64")
    pair = (torch.from_numpy(ARRAYS[f"inputs.{stored}.{side}"]) for side in ("prediction", "label"))
    prediction, label = (values.double() if array != stored else values for values in pair)
    return prediction, label


def assert_golden(ours: float, official: float | str, array: str, key: str, rounded: bool) -> None:
    count = not key.startswith(("mae", "corr"))
    tolerance = 1e-12 if count or array.endswith("_float64") else 2e-6
    ours = round(ours, 4) if rounded else ours
    assert ours == pytest.approx(float(official), abs=tolerance, rel=0, nan_ok=True), key


@pytest.mark.parametrize("source", SENTIMENT)
@pytest.mark.parametrize("array", ["mosi", "mosi_float64", "mosei", "mosei_float64", "constant"])
def test_sentiment_of_every_repository(array: str, source: str) -> None:
    ours = sentiment_metrics(*load(array)) | sentiment_legacy_metrics(*load(array))
    official = OUTPUTS[array][source]
    assert official.keys() == SENTIMENT[source].keys()
    for name, key in SENTIMENT[source].items():
        assert_golden(ours[key], official[name], array, key, source.endswith("rounded"))


def test_every_sentiment_source_is_compared() -> None:
    for array in ("mosi", "mosi_float64", "mosei", "mosei_float64", "constant"):
        assert OUTPUTS[array].keys() == SENTIMENT.keys()


def test_no_number_has_two_names() -> None:
    assert not sentiment_metrics(*load("mosi")).keys() & sentiment_legacy_metrics(*load("mosi")).keys()


@pytest.mark.parametrize("source", ["mmsa", "mmsa_rounded"])
@pytest.mark.parametrize("array", ["sims", "sims_float64"])
def test_sims(array: str, source: str) -> None:
    ours = sims_metrics(*load(array))
    assert OUTPUTS[array][source].keys() == SIMS.keys()
    for name, key in SIMS.items():
        assert_golden(ours[key], OUTPUTS[array][source][name], array, key, source.endswith("rounded"))


def test_sims_classes_depend_on_the_precision_of_the_arrays() -> None:
    single, double = sims_metrics(*load("sims")), sims_metrics(*load("sims_float64"))
    assert single["acc3"] != double["acc3"]
    assert single["acc5"] != double["acc5"]


def test_sims_f1_of_tfr_net_is_the_swapped_one() -> None:
    prediction, label = load("sims")
    swapped = weighted_f1(confusion(prediction > 0, label > 0).mT).item()
    assert swapped == pytest.approx(OUTPUTS["sims"]["tfr_net"]["F1_score"], abs=1e-12)


def test_iemocap_of_mult() -> None:
    ours = binary_metrics(*load("iemocap"), ("Neutral", "Happy", "Sad", "Angry"))
    official = OUTPUTS["iemocap"]["mult"]
    assert len(official) == 8
    for key, value in official.items():
        name, score = key.split(".")
        score = {"F1_Score": "f1_weighted", "Accuracy": "acc"}[score]
        assert ours[f"{score}/{name}"] == pytest.approx(value, abs=1e-12), key


def test_mesm_thresholds() -> None:
    ours = fit_thresholds(*load("multilabel_valid"))
    official = [OUTPUTS["multilabel"]["mesm_valid_fit"][f"threshold.{name}"] for name in EMOTIONS]
    assert ours.tolist() == pytest.approx(official, abs=1e-7)


@pytest.mark.parametrize(
    ("array", "source", "threshold"),
    [
        ("multilabel_valid", "mesm_valid_fit", None),
        ("multilabel_test", "mesm_test_valid_thresholds", None),
        ("multilabel_test", "mesm_test_threshold_0.5", 0.5),
        ("multilabel_test", "mesm_mosei_emo_test_threshold_0.5", 0.5),
        ("multilabel_test", "mesm_mosei_emo_test_threshold_0.3", 0.3),
    ],
)
def test_multilabel_of_mesm(array: str, source: str, threshold: float | None) -> None:
    prediction, label = load(array)
    thresholds = fit_thresholds(*load("multilabel_valid")) if threshold is None else torch.full((6,), threshold)
    ours = multilabel_metrics(prediction, label, EMOTIONS, thresholds)
    matrix = confusion(prediction.sigmoid() > thresholds, label)
    for score, values in {"recall": recall(matrix)[:, 1], "precision": recall(matrix.mT)[:, 1]}.items():
        ours |= {score: values.mean().item()} | dict(
            zip((f"{score}/{name}" for name in EMOTIONS), values.tolist(), strict=True)
        )

    names = {"accuracy": "acc", "weighted_accuracy": "wacc", "f1_positive_class": "f1_pos"}
    compared = set()
    for key, value in OUTPUTS["multilabel"][source].items():
        score, _, emotion = key.partition(".")
        if score in ("auc", "threshold", "strict", "subset", "intersect"):  # not among our metrics
            continue
        score = names.get(score, score)
        ours_key = score if emotion == "average" else f"{score}/{emotion}"
        assert ours[ours_key] == pytest.approx(value, abs=1e-12), key
        compared.add(score)
    expected = {"wacc", "f1_weighted"} if "mosei_emo" in source else {"acc", "recall", "precision", "f1_pos"}
    assert compared == expected


def test_weighted_accuracy_of_mult() -> None:
    ours = multilabel_metrics(*load("multilabel_test"), EMOTIONS, torch.full((6,), 0.5))
    for name, value in OUTPUTS["multilabel"]["mult_weighted_accuracy_test_logit_above_0"].items():
        assert ours[f"wacc/{name}"] == pytest.approx(value, abs=1e-12)


def test_three_classes_of_mmsa() -> None:
    logits, label = load("three_class")
    official, tfr_net = OUTPUTS["three_class"]["mmsa"], OUTPUTS["three_class"]["tfr_net"]
    ours = multiclass_metrics(logits, label, ("negative", "neutral", "positive"))
    assert ours["wa"] == pytest.approx(official["Acc_3"], abs=1e-12)
    assert ours["f1_weighted"] == pytest.approx(official["F1_score_3"], abs=1e-12)
    swapped = weighted_f1(confusion(logits.argmax(1), label, 3).mT).item()
    assert swapped == pytest.approx(tfr_net["F1_score_3"], abs=1e-12)

    has0 = confusion(logits[:, [0, 2]].argmax(1), label > 1)
    assert accuracy(has0).item() == pytest.approx(official["Has0_acc_2"], abs=1e-12)
    assert weighted_f1(has0).item() == pytest.approx(official["Has0_F1_score"], abs=1e-12)
    assert weighted_f1(has0.mT).item() == pytest.approx(tfr_net["Has0_F1_score"], abs=1e-12)


def test_four_classes_of_mesm() -> None:
    logits, label = load("four_class")
    official = OUTPUTS["four_class"]["mesm_ce"]
    ours = multiclass_metrics(logits, label, ("a", "b", "c", "d"))
    assert ours["wa"] == pytest.approx(official["accuracy"], abs=1e-12)
    assert ours["ua"] == pytest.approx(official["recall_macro"], abs=1e-12)
    assert ours["f1_macro"] == pytest.approx(official["f1_macro"], abs=1e-12)
    precision = recall(confusion(logits.argmax(1), label, 4).mT).mean().item()
    assert precision == pytest.approx(official["precision_macro"], abs=1e-12)
