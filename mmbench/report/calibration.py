"""How far the confidences and the values of a row can be trusted, from its predictions and what validation fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
import torch

from mmbench.metrics.calibration import LEVEL, calibration_error, expected_error, top_class
from mmbench.report import cells
from mmbench.report.boards import Board
from mmbench.report.markdown import NONE, code, table
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


def trust(board: Board, row: Row) -> Trust:
    """Return what is known of a row; nothing without whole seeds or finite predictions."""
    try:
        seeds = [
            [(record, board.evidence(record)) for (one, _), record in row.used.items() if one == seed]
            for seed in row.seeds
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


def calibration(board: Board) -> list[str]:
    """Return the table of a board; nothing where nothing is known."""
    found = {row: known for row in board.rows if (known := trust(board, row)) != Trust()}
    if not found:
        return []
    if any(known.ece is not None for known in found.values()):
        heads = ["ECE", "floor", "temperature", "ECE after", "floor after"]
        names = ["ece", "ece_floor", "temperature", "ece_scaled", "ece_scaled_floor"]
        text = (
            "Expected calibration error over all test samples of a seed, and the floor that a perfectly calibrated "
            "classifier with the same confidences would be charged with on average; after division of the logits by a "
            f"temperature that was fitted on validation, where a record has it ({NONE}: it was not noted)."
        )
    else:
        heads, names = ["width", "coverage"], ["interval_width", "interval_coverage"]
        text = (
            f"Intervals around predictions that are to cover {LEVEL:.0%} of new samples: their width comes from "
            "validation (split conformal), the coverage is that of the test samples. It scatters around the share by "
            "chance (by 2 to 4 points for some hundred samples), and is a little lower since validation also selected "
            "the epoch; only what is clearly lower says that the test samples are unlike those of validation."
        )
    rows = [[code(row.label), *(cells.number(getattr(known, name)) for name in names)] for row, known in found.items()]
    return [text, "", *table(["method", *heads], rows)]
