"""What a trial notes of its confidences and intervals, fitted on validation."""

from __future__ import annotations

import math

from torch import Tensor

from data_modules.schema import TargetSpec
from mmbench.metrics.calibration import fit_half_width, fit_temperature, reliability
from mmbench.runner.facts import Calibration

Pair = tuple[Tensor, Tensor]


def calibration(target: TargetSpec, validated: Pair, tested: Pair) -> Calibration | None:
    """Return what is noted of a target of one class of several, or of numbers; None for other kinds.

    Args:
        target: What is predicted.
        validated: Raw predictions ``(N, outputs)`` of the validation split, and their targets.
        tested: Those of the test split.
    """
    if target.kind == "multiclass":
        bins = tuple((one.count, one.confidence, one.accuracy) for one in reliability(*tested))
        return Calibration(fit_temperature(*validated), reliability=bins)
    if target.kind == "regression":
        prediction, truth = (part.reshape(len(part), -1) for part in validated)
        widths = [fit_half_width(*pair) for pair in zip(prediction.T, truth.T, strict=True)]
        return Calibration(half_widths=tuple(width if math.isfinite(width) else None for width in widths))
    return None
