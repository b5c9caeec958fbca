"""How far the confidences and the values of a row can be trusted, from its predictions and what validation fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
import torch

from mmbench.metrics.calibration import calibration_error, expected_error, top_class
from mmbench.report.judgement import Evidence
from mmbench.report.rows import Row
from mmbench.runner.predictions import Predictions, PredictionsError
from mmbench.runner.record import Record


@dataclass(frozen=True)
class Trust:
    """What is known of a row: means over its seeds, each over all its test samples. None is unknown.

    Attributes:
        ece: Expected calibration error of predictions as they are (one class of several).
        ece_floor: What a perfectly calibrated classifier with the same confidences would be charged with.
        temperature: Median of the temperatures that validation gives.
        ece_scaled: The error after division of logits by them.
        ece_scaled_floor: Its floor.
        interval_width: Width of intervals that are to cover 90 % of new samples (regression), mean over outputs.
        interval_coverage: Share of the test samples that they cover.
    """

    ece: float | None = None
    ece_floor: float | None = None
    temperature: float | None = None
    ece_scaled: float | None = None
    ece_scaled_floor: float | None = None
    interval_width: float | None = None
    interval_coverage: float | None = None


def trust(row: Row, evidence: Evidence) -> Trust:
    """Return what is known of a row; nothing without whole seeds or finite predictions.

    Args:
        row: The row.
        evidence: Test predictions by record.
    """
    try:
        seeds = [
            [(record, evidence(record)) for (one, _), record in row.used.items() if one == seed] for seed in row.seeds
        ]
    except PredictionsError:
        return Trust()
    if not seeds or not all(np.isfinite(found.prediction).all() for trials in seeds for _, found in trials):
        return Trust()
    task = seeds[0][0][0].task
    kind = task.kind if task else ""
    if kind == "multiclass":
        return _of_classes(seeds)
    return _of_values(seeds) if kind == "regression" else Trust()


Trials = Sequence[tuple[Record, Predictions]]


def _of_classes(seeds: Sequence[Trials]) -> Trust:
    temperatures = [
        record.calibration.temperature if record.calibration else None for trials in seeds for record, _ in trials
    ]
    known = [value for value in temperatures if value is not None]
    plain = _errors(seeds, scaled=False)
    if len(known) < len(temperatures):
        return Trust(*plain)
    return Trust(*plain, median(known), *_errors(seeds, scaled=True))


def _errors(seeds: Sequence[Trials], scaled: bool) -> tuple[float, float]:
    """Return the calibration error and its floor, means over seeds."""
    errors, floors = [], []
    for trials in seeds:
        parts = []
        for record, found in trials:
            prediction, target = (torch.from_numpy(part) for part in (found.prediction, found.target))
            by = record.calibration.temperature if scaled and record.calibration else None
            parts.append(top_class(prediction.float(), target[:, 0].long(), by or 1.0))
        confidence, correct = (torch.cat(part) for part in zip(*parts, strict=True))
        errors.append(calibration_error(confidence, correct)[0])
        floors.append(expected_error(confidence))
    return fmean(errors), fmean(floors)


def _of_values(seeds: Sequence[Trials]) -> Trust:
    widths, shares = [], []
    for trials in seeds:
        covered, wide = [], []
        for record, found in trials:
            halves = record.calibration.half_widths if record.calibration else ()
            if not halves or None in halves:
                return Trust()
            half = np.asarray(halves, dtype=np.float64)
            covered.append(np.abs(found.prediction - found.target) <= half)
            wide.append(np.full(len(found.target), 2 * half.mean()))
        shares.append(np.concatenate(covered).mean())
        widths.append(np.concatenate(wide).mean())
    return Trust(interval_width=float(np.mean(widths)), interval_coverage=float(np.mean(shares)))
