"""Random data in the shape of unaligned CMU-MOSI: its sample counts, dimensions and lengths, none of its content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_modules import FeatureStore, Sample, StoreInfo, TargetSpec, write_store

SAMPLES = {"train": 1284, "valid": 229, "test": 686}
DIMS = {"text": 768, "audio": 5, "vision": 20}
STEPS = {"text": 50, "audio": 375, "vision": 500}
"""What MMSA's ``unaligned_50.pkl`` pads to (its config_regression.json)."""
BATCH = 16

SECONDS = 4.26
"""Mean length of a segment: 2:36:17 of 2199 segments (table 1 of the CMU-MOSEI paper, ACL 2018)."""
SPREAD = 0.6
"""Deviation of the logarithm of the length; with it the longest of MOSI's segments are near the padded lengths."""
RATE = {"text": 3.9, "audio": 12.5, "vision": 15.0}
"""Steps per second: sampling rates of the features (MulT, section 4), and word pieces as 12 words of 1.2 pieces and
the two marks around them, per segment of mean length."""

Lengths = dict[str, npt.NDArray[np.int64]]


def lengths(count: int, random: np.random.Generator) -> Lengths:
    """Return ``(count,)`` lengths in steps by modality; the first sample has the padded lengths.

    The modalities of a sample last equally long; the rate of speech varies by a fifth.
    """
    seconds = random.lognormal(np.log(SECONDS) - SPREAD**2 / 2, SPREAD, count)
    speech = random.normal(1.0, 0.2, count).clip(0.4, 1.6)
    found = {}
    for name, steps in STEPS.items():
        drawn = np.rint(seconds * RATE[name] * (speech if name == "text" else 1.0)).astype(np.int64)
        found[name] = drawn.clip(3, steps)
        found[name][0] = steps
    return found


def write_mosi_like(path: Path, samples: dict[str, int] | None = None, seed: int = 1111) -> FeatureStore:
    """Write a store of random features and labels.

    Args:
        path: The store to make or replace.
        samples: Samples per split; by default MOSI's.
        seed: Decides every value.
    """
    info = StoreInfo("mosi_like", "unaligned_50", TargetSpec("regression", ("sentiment",), -3.0, 3.0))
    return write_store(path, info, _samples(samples or SAMPLES, np.random.default_rng(seed)))


def _samples(samples: dict[str, int], random: np.random.Generator) -> Iterator[Sample]:
    for split, count in samples.items():
        steps = lengths(count, random)
        for row in range(count):
            inputs = {m: random.standard_normal((steps[m][row], dim), np.float32) for m, dim in DIMS.items()}
            yield Sample(f"{split}[{row}]", inputs, float(random.uniform(-3, 3)), split, split)
