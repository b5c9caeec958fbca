"""Features on one scale: by mean and deviation of the training split."""

from __future__ import annotations

from typing import Literal

import numpy as np

from data_modules.schema import DataError
from data_modules.store import Array

Normalize = Literal["none", "train"]
CONSTANT = 1e-8
"""A feature that deviates by less is constant: it is not scaled, and gets no noise."""


def mean_and_deviation(values: Array, what: str) -> tuple[Array, Array]:
    """Return ``(D,)`` mean and standard deviation of each feature.

    Args:
        values: ``(sum T, D)`` steps.
        what: Whose they are, as the beginning of a message.

    Raises:
        DataError: When they are NaN, infinite or too large.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scales = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
        mean, scale = (part.astype(np.float32) for part in scales)
    if not (np.isfinite(mean).all() and np.isfinite(scale).all()):
        raise DataError(
            f"{what} that are NaN, infinite or too large to be standardised. Make it again with `mmbench data import`, "
            "or leave normalize at none."
        )
    return mean, scale


def standardise(values: Array, mean: Array, scale: Array) -> Array:
    """Return ``(sum T, D)`` features with mean 0 and deviation 1; those that are constant keep their deviation."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        return (values - mean) / np.where(scale < CONSTANT, 1.0, scale).astype(np.float32)
