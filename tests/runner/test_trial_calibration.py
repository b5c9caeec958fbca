"""What a trial notes of confidences and intervals, and that noting it changes nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from data_modules.datasets.synthetic.generator import write_synthetic
from mmbench.metrics.calibration import TEMPERATURES
from mmbench.runner import training as training_module
from mmbench.runner.facts import Calibration
from mmbench.runner.predict import predict
from mmbench.runner.work import Options
from tests.runner.conftest import Planner
from tests.runner.test_trial import make_best, result, run


@pytest.mark.parametrize("kind", ["regression", "multiclass", "multilabel", "binary"])
def test_confidences_and_intervals_are_fitted_on_validation_by_the_selected_epoch(
    kind: str, plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = write_synthetic(tmp_path / "store.h5", kind=kind, samples=(64, 24, 24))
    (trial,) = plan("late_fusion", epochs=3, path=store.path)
    with monkeypatch.context() as patch:
        make_best(patch, epoch=1)
        record = run(trial, options)
    assert record.selection.epoch == 1
    if kind in ("multilabel", "binary"):
        assert record.calibration is None
        assert "calibration" not in record.to_dict()
        return
    best = next((options.runs / trial.id).glob("epoch=*.ckpt"))
    table = predict(best, store.path, accelerator="cpu")
    rows = store.rows("standard", 0)["valid"]
    table, truth = table.loc[list(store.ids[rows])], store.targets[rows]
    if kind == "regression":
        distances = sorted(np.abs(table["sentiment"].to_numpy() - truth))
        assert record.calibration == Calibration(half_widths=(pytest.approx(distances[23 - 1], abs=1e-5),))
        return
    chances = table[[f"p({name})" for name in store.target.names]].to_numpy()

    def loss(temperature: float) -> float:
        scaled = chances ** (1 / temperature)
        return -np.log((scaled / scaled.sum(1, keepdims=True))[range(24), truth.astype(int)]).mean()

    found = record.calibration.temperature
    others = np.clip([found * other for other in (0.8, 0.95, 1.05, 1.25)], *TEMPERATURES)
    assert all(loss(found) <= loss(other) + 1e-6 for other in others)
    assert sum(count for count, _, _ in record.calibration.reliability) == 24


def test_what_validation_is_asked_at_the_end_leaves_no_trace(
    plan: Planner, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the curve nor in what a method that draws when it predicts draws for the test split."""
    (trial,) = plan("mib", epochs=1, overrides={"eval_noise": True})
    record = run(trial, options)
    monkeypatch.setattr(training_module, "_validated", lambda *args: (torch.zeros(9, 1), torch.zeros(9)))
    options.records.path(trial).unlink()
    other = run(trial, options)
    assert {**result(other), "calibration": None} == {**result(record), "calibration": None}
    logs = sorted((options.runs / trial.id / "log").glob("*/metrics.csv"))
    first, second = (pd.read_csv(path) for path in (logs[0], logs[-1]))
    assert list(first.columns) == list(second.columns)
    assert len(first) == len(second)
