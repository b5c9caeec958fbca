"""What a trial notes of its confidences and intervals, fitted on validation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from data_modules.schema import TargetSpec
from mmbench.metrics.calibration import fit_half_width, fit_temperature, reliability
from mmbench.runner.facts import Calibration
from mmbench.runner.predictions import as_stored

Pair = tuple[Tensor, Tensor]


def calibration(target: TargetSpec, validated: Pair, tested: Pair) -> Calibration | None:
    """Return what is noted of a target of one class of several, or of numbers; None for other kinds.

    None too where a prediction is no finite number.

    Args:
        target: What is predicted.
        validated: Raw predictions ``(N, outputs)`` of the validation split, and their targets.
        tested: Those of the test split.
    """
    if not all(prediction.isfinite().all() for prediction, _ in (validated, tested)):
        return None
    if target.kind == "multiclass":
        # Of the numbers that the table of predictions has: at the edge of a bin the last digit decides.
        stored = torch.from_numpy(as_stored(tested[0].double().numpy())).float()
        bins = tuple((one.count, one.confidence, one.accuracy) for one in reliability(stored, tested[1]))
        return Calibration(fit_temperature(*validated), reliability=bins)
    if target.kind == "regression":
        prediction, truth = (part.reshape(len(part), -1) for part in validated)
        widths = [fit_half_width(*pair) for pair in zip(prediction.T, truth.T, strict=True)]
        return Calibration(half_widths=tuple(width if math.isfinite(width) else None for width in widths))
    return None
