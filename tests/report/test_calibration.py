"""Calibration and shuffled modalities on the page, from predictions and what the records note of validation."""

from __future__ import annotations

import csv
import dataclasses
import io
import math

import numpy as np
import pytest

from mmbench.report.calibration import calibration
from mmbench.report.leaderboard import render
from mmbench.report.markdown import NONE
from mmbench.report.trust import Trust
from mmbench.runner.facts import Calibration, TaskFacts
from mmbench.runner.predictions import Predictions
from mmbench.runner.record import Record
from tests.report.factory import TRACK, evidence, lines_of, only, record, runs

TASK = TaskFacts("multiclass", ("calm", "angry"), "multiclass", ())
SHARE = 0.75
"""Confidence of every prediction of :func:`sure`, in both seeds; four of four and two of four are right."""


def sure(found: Record) -> Predictions:
    """Return four predictions of one confidence, of which the first seed gets all right, the second half."""
    logits = np.tile([math.log(SHARE / (1 - SHARE)), 0.0], (4, 1))
    target = np.zeros((4, 1)) if found.seed == 1 else np.array([[0.0], [0.0], [1.0], [1.0]])
    return Predictions(list("wxyz"), [""] * 4, 0, target, logits)


def classified(temperature: float | None) -> list[Record]:
    kept = None if temperature is None else Calibration(temperature)
    return [
        record(
            "lf_dnn",
            seed,
            test={"f1_weighted": 0.7},
            family="multiclass",
            selection="f1_weighted",
            mode="max",
            task=TASK,
            calibration=kept,
        )
        for seed in (1, 2)
    ]


FLOOR = sum(
    math.comb(4, right) * SHARE**right * (1 - SHARE) ** (4 - right) * abs(right - 4 * SHARE) for right in range(5)
)


def test_confidences_are_held_against_what_a_calibrated_classifier_has() -> None:
    board = only(classified(None), evidence=sure)
    assert board.trusts[board.rows[0]] == Trust(ece=pytest.approx(0.25), ece_floor=pytest.approx(FLOOR / 4))
    (line,) = lines_of("x\n" + "\n".join(calibration(board)), "x")
    assert (line["ECE"], line["floor"], line["temperature"]) == ("0.2500", f"{FLOOR / 4:.4f}", NONE)


def test_a_temperature_of_validation_is_applied_to_the_test() -> None:
    board = only(classified(2.0), evidence=sure)
    confidence = SHARE**0.5 / (SHARE**0.5 + (1 - SHARE) ** 0.5)
    found = board.trusts[board.rows[0]]
    assert (found.ece, found.temperature) == (pytest.approx(0.25), 2.0)
    assert found.ece_scaled == pytest.approx(((1 - confidence) + (confidence - 0.5)) / 2)
    half = only([*classified(2.0)[:1], *classified(None)[1:]], evidence=sure)
    assert half.trusts[half.rows[0]].ece_scaled is None


def test_coverage_is_counted_on_the_test() -> None:
    noted = [dataclasses.replace(one, calibration=Calibration(half_widths=(0.7,))) for one in runs("a", [0.7, 0.7])]
    board = only(noted, evidence=evidence)
    errors = [np.abs(evidence(one).prediction) for one in noted]
    shares = [np.mean(error <= 0.7) for error in errors]
    assert 0.2 < shares[0] < 0.8
    assert board.trusts[board.rows[0]] == Trust(
        interval_width=pytest.approx(1.4), interval_coverage=pytest.approx(np.mean(shares))
    )
    few = [dataclasses.replace(one, calibration=Calibration(half_widths=(None,))) for one in noted]
    for unknown in (few, runs("a", [0.7, 0.7])):
        board = only(unknown, evidence=evidence)
        assert board.trusts[board.rows[0]] == Trust()
        assert calibration(board) == []


def test_what_the_page_says_of_calibration_is_in_the_csv() -> None:
    texts = render(classified(2.0), evidence=sure)
    (name,) = (name for name in texts if name.endswith(".csv"))
    (line,) = csv.DictReader(io.StringIO(texts[name]))
    (shown,) = lines_of(texts[name.replace(".csv", ".md")], "### Calibration")
    heads = ("ECE", "floor", "temperature", "ECE after", "floor after")
    columns = ("ece", "ece_floor", "temperature", "ece_scaled", "ece_scaled_floor")
    assert [shown[head] for head in heads] == [f"{float(line[column]):.4f}" for column in columns]


def test_rows_without_predictions_or_with_some_that_are_no_numbers_have_none() -> None:
    def broken(found: Record) -> Predictions:
        return dataclasses.replace(sure(found), prediction=np.full((4, 2), np.nan))

    for board in (only(classified(2.0)), only(classified(2.0), evidence=broken)):
        assert board.trusts[board.rows[0]] == Trust()


def test_shuffled_rows_stand_beside_the_track() -> None:
    data = {"corruption": {"shuffled": "text"}}
    records = [
        *runs("late_fusion", [0.60, 0.61, 0.62]),
        *runs("mult", [0.50, 0.51, 0.52]),
        *runs("late_fusion", [0.90, 0.91, 0.92], track=f"{TRACK}+shuffled-text", data=data),
        *runs("late_fusion", [0.40, 0.41, 0.42], track=f"{TRACK}+shuffled-vision", data=data, config={"lr": 1.0}),
    ]
    texts = render(records, evidence=evidence)
    text = texts["mosi-glove-standard.md"]
    (line,) = lines_of(text, "### One modality shuffled")
    assert line["method"] == "`late_fusion`"
    assert line["as it is"].startswith("0.6100 ± 0.0100 [")
    assert line["[text shuffled](mosi-glove-standard%2Bshuffled-text.md)"].startswith("0.9100 ± 0.0100 [")
    assert line["[vision shuffled](mosi-glove-standard%2Bshuffled-vision.md)"] == NONE  # of another configuration
    assert "mosi-glove-standard+shuffled-text.md" in texts
    assert "One modality shuffled" not in texts["mosi-glove-standard+shuffled-text.md"]
    other = [dataclasses.replace(one, identity="e" * 64) if "+" in one.track else one for one in records]
    assert "One modality shuffled" not in render(other, evidence=evidence)["mosi-glove-standard.md"]
