"""The generated data set: sequences whose best reachable scores are known by construction.

Each sample has discrete hidden causes, drawn independently and uniformly. Their weighted sum is the label's score::

    score = 0.7 text_level + 0.5 audio_level + 0.4 vision_level      said by one modality alone
          + 0.2 vision_trend                                         said by the order of one modality's steps
          + 0.6 text_sign * audio_sign + 0.4 audio_sign * vision_sign    said by two modalities together only
          + 0.2 label_noise                                          said by nothing

A sign alone says nothing of the score: each product is independent of either of its factors. So a method that scores
above what sums of unimodal predictions can reach has fused, and one that scores above the ceiling has seen the labels.

A modality writes its causes along orthogonal directions of its features: level and sign in the average over time, the
trend in the slope over time, noise in all else. The causes can be recovered from the sequence exactly (to 0.001), hence
the ceilings follow from counting the equally likely states of the causes.

All values are multiples of 2**-20 made from integers, in operations whose result does not depend on their order: the
bytes, and so the identity, are the same on every machine.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from data_modules.schema import MODALITIES, DataError, TargetKind, TargetSpec
from data_modules.store import SPLITS, FeatureStore, Sample, StoreInfo, write_store

Array = npt.NDArray[np.float64]
Causes = dict[str, Array]

CAUSES: dict[str, tuple[float, ...]] = {
    "text_level": (-1.0, -0.5, 0.0, 0.5, 1.0),
    "audio_level": (-1.0, -0.5, 0.0, 0.5, 1.0),
    "vision_level": (-1.0, -0.5, 0.0, 0.5, 1.0),
    "vision_trend": (-1.0, 0.0, 1.0),
    "text_sign": (-1.0, 1.0),
    "audio_sign": (-1.0, 1.0),
    "vision_sign": (-1.0, 1.0),
    "label_noise": (-1.0, 0.0, 1.0),
}
"""What each hidden cause can be, all values equally likely."""

WEIGHTS = {"text_level": 0.7, "audio_level": 0.5, "vision_level": 0.4, "vision_trend": 0.2, "label_noise": 0.2}
PRODUCTS = {("text_sign", "audio_sign"): 0.6, ("audio_sign", "vision_sign"): 0.4}

DIMS = {"text": 24, "audio": 12, "vision": 16}
LENGTHS = {"text": (5, 20), "audio": (15, 50), "vision": (10, 40)}
"""Shortest and longest sequence; the lengths of a sample's modalities are independent."""

QUARTILE = 0.7
"""Classes are the scores below -QUARTILE, below 0, below QUARTILE, and the rest: 24 to 26 % each."""

SAMPLES = (1200, 300, 600)
SEED = 1111
VIDEO, SPEAKER = 10, 30
"""Samples per video and per speaker."""

TARGETS: dict[str, TargetSpec] = {
    "regression": TargetSpec("regression", ("sentiment",), low=-3.0, high=3.0),
    "multiclass": TargetSpec("multiclass", ("negative", "weakly_negative", "weakly_positive", "positive")),
    "multilabel": TargetSpec("multilabel", ("positive", "ironic", "masked")),
    "binary": TargetSpec("binary", ("positive", "ironic", "masked")),
}
"""By kind what is predicted. Ironic: text and audio have opposite signs. Masked: audio and vision have."""


def write_synthetic(
    path: str | os.PathLike[str],
    *,
    kind: TargetKind = "regression",
    samples: tuple[int, int, int] = SAMPLES,
    seed: int = SEED,
) -> FeatureStore:
    """Write a generated data set; the inputs of one seed are the same for every kind.

    Args:
        path: The store to make or replace.
        kind: What is predicted.
        samples: Samples for training, validation and test, at least one each.
        seed: Decides every value, 0 or greater.

    Returns:
        The written store.

    Raises:
        DataError: For an unknown kind, a negative seed, or a split without samples.
    """
    if kind not in TARGETS:
        raise DataError(f"There is no synthetic data set of kind {kind!r}; kinds are: {', '.join(TARGETS)}.")
    check_amounts(seed, samples, "samples")
    info = StoreInfo(
        dataset="synthetic",
        feature_set=kind,
        target=TARGETS[kind],
        sources=dict.fromkeys(MODALITIES, f"generated, seed {seed}"),
        notes=made_by(__name__, seed),
    )
    bits = np.random.PCG64(seed)
    return write_store(path, info, draw_samples(kind, samples, draw_causes(sum(samples), bits), bits))


def check_amounts(seed: int, counts: tuple[int, int, int], what: str) -> None:
    """Check what decides a generated data set.

    Args:
        seed: The seed.
        counts: How many there are in each split.
        what: Of what, for the message.

    Raises:
        DataError: For a negative seed, or a split without any.
    """
    if seed < 0 or min(counts) < 1:
        raise DataError(f"Synthetic data need a seed from 0 on and {what} in each split, not {seed} and {counts}.")


def made_by(module: str, seed: int) -> tuple[str, ...]:
    """Return what a generated store says of itself."""
    return (f"Generated by {module} with the seed {seed}; nobody said or felt any of this.",)


def ceilings(kind: TargetKind, *, order: bool = True, products: bool = True) -> dict[tuple[str, ...], dict[str, float]]:
    """Return by subset of the modalities the best expected value of each metric, over all possible samples.

    No single prediction need reach all of them at once. A finite test split scatters around them.

    Args:
        kind: What is predicted. Metrics are ``mae``, ``corr``, ``acc2_has0`` and ``acc7`` for regression, ``wa`` for
            multiclass, ``acc`` and ``acc/<name>`` otherwise.
        order: Whether the method sees the order of steps; False for averages over time.
        products: Whether the method sees the signs; False for what remains without them, which for ``mae`` and ``corr``
            is also all that a sum of unimodal predictions can reach.

    Returns:
        For example ``{("text",): {"mae": ..., "corr": ...}, ..., ("text", "audio", "vision"): {...}}``.
    """
    grid = np.meshgrid(*CAUSES.values(), indexing="ij")
    target = targets(kind, dict(zip(CAUSES, grid, strict=True)))
    hidden = {"vision_trend"} - ({"vision_trend"} if order else set())
    hidden |= set() if products else {f"{name}_sign" for name in MODALITIES}
    table = {}
    for size in range(1, len(MODALITIES) + 1):
        for subset in itertools.combinations(MODALITIES, size):
            seen = [axis for axis, cause in enumerate(CAUSES) if cause.split("_")[0] in subset and cause not in hidden]
            # One row per state of what is seen: the equally likely targets that are possible with it.
            states = np.moveaxis(target, seen, range(len(seen)))
            count = int(np.prod(states.shape[: len(seen)]))
            table[subset] = _best(kind, states.reshape(count, -1, *target.shape[len(CAUSES) :]))
    return table


def targets(kind: TargetKind, causes: Causes) -> npt.NDArray[np.float64]:
    """Return the targets, of the causes' shape, with a last axis of names for multilabel and binary."""
    parts = [weight * causes[name] for name, weight in WEIGHTS.items()]
    parts += [weight * causes[one] * causes[two] for (one, two), weight in PRODUCTS.items()]
    # All scores are multiples of 0.05; adding 0 turns -0 into 0.
    score = np.round(np.sum(parts, axis=0), 2) + 0.0
    if kind == "regression":
        return score
    if kind == "multiclass":
        return np.digitize(score, (-QUARTILE, 0.0, QUARTILE)).astype(np.float64)
    opposite = [causes[one] * causes[two] < 0 for one, two in PRODUCTS]
    return np.stack([score > 0, *opposite], axis=-1).astype(np.float64)


def draw_causes(count: int, bits: np.random.PCG64) -> Causes:
    """Return ``(count,)`` values of each cause."""
    return {name: np.asarray(values)[bits.random_raw(count) % len(values)] for name, values in CAUSES.items()}


def _best(kind: TargetKind, states: Array) -> dict[str, float]:
    """Return the best expected metrics from ``(seen, unseen)`` or ``(seen, unseen, names)`` equally likely targets."""
    if kind == "multiclass":
        return {"wa": _bayes(states)}
    if kind != "regression":
        names = TARGETS[kind].names
        each = {f"acc/{name}": _bayes(states[..., column]) for column, name in enumerate(names)}
        return {"acc": sum(each.values()) / len(each), **each}
    return {
        "mae": float(np.abs(states - np.median(states, axis=1, keepdims=True)).mean()),
        "corr": float(states.mean(axis=1).std() / states.std()),
        "acc2_has0": _bayes(states >= 0),
        "acc7": _bayes(np.round(states)),
    }


def _bayes(states: npt.NDArray[np.generic]) -> float:
    """Return the accuracy of always naming the likeliest class, from ``(seen, unseen)`` equally likely classes."""
    counts = np.stack([(states == label).sum(axis=1) for label in np.unique(states)])
    return float(counts.max(axis=0).sum() / states.size)


def draw_samples(
    kind: TargetKind, samples: tuple[int, int, int], causes: Causes, bits: np.random.PCG64
) -> Iterator[Sample]:
    """Yield the samples.

    Args:
        kind: What is predicted.
        samples: How many there are for training, validation and test.
        causes: Their causes, by :func:`draw_causes`.
        bits: What all else is drawn from.
    """
    count = sum(samples)
    integer = TARGETS[kind].kind in ("multiclass", "binary")
    labels = targets(kind, causes).astype(np.int64 if integer else np.float32)
    sequences = {name: _sequences(name, causes, count, bits) for name in MODALITIES}
    row = 0
    for split, size in zip(SPLITS, samples, strict=True):
        for place in range(size):
            video = f"{split}{place // VIDEO:03d}"
            yield Sample(
                id=f"{video}[{place % VIDEO}]",
                inputs={name: sequences[name][row] for name in MODALITIES},
                target=labels[row],
                split=split,
                group=video,
                speaker=f"{split}{place // SPEAKER:02d}",
            )
            row += 1


def _sequences(name: str, causes: Causes, count: int, bits: np.random.PCG64) -> list[npt.NDArray[np.float32]]:
    """Return the sequences ``(T, D)`` of one modality."""
    shortest, longest = LENGTHS[name]
    lengths = shortest + (bits.random_raw(count) % (longest - shortest + 1)).astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    parts = near_normal(int(lengths.sum()), DIMS[name], bits)
    steps = np.arange(len(parts)) - np.repeat(starts, lengths)
    # The slope has unit variance within a sample: the odd or even integers around 0, over their standard deviation.
    around = 2 * steps - np.repeat(lengths - 1, lengths)
    scale = np.sqrt((lengths**2 - 1) / 3)
    slope = around / np.repeat(scale, lengths)
    for column, part in enumerate(("level", "sign", "trend")):
        cause = causes.get(f"{name}_{part}")
        if cause is None:
            continue
        own = parts[:, column]
        mean = np.add.reduceat(own, starts) / lengths
        rise = np.add.reduceat(own * around, starts) / (scale * lengths)
        own -= np.repeat(mean, lengths) + np.repeat(rise, lengths) * slope
        own += np.repeat(cause, lengths) * (slope if part == "trend" else 1.0)
    values = (grid(parts) @ directions(DIMS[name])).astype(np.float32)
    return np.split(values, starts[1:])


def near_normal(rows: int, columns: int, bits: np.random.PCG64) -> Array:
    """Return ``(rows, columns)`` noise of mean 0 and variance 1 in (-3, 3), near normal: a sum of three uniforms."""
    raw = bits.random_raw(rows * columns).reshape(rows, columns)
    total = sum((raw >> np.uint64(shift) & np.uint64(1023)).astype(np.float64) for shift in (24, 39, 54))
    return np.asarray((2 * total - 3069) / 1024)


def directions(dim: int) -> Array:
    """Return ``(dim, dim)`` orthonormal rows (a discrete cosine transform, rotated so that its constant is last)."""
    frequency = np.roll(np.arange(dim), -1)[:, None]
    size = np.sqrt(np.where(frequency == 0, 1, 2) / dim)
    return grid(size * np.cos(np.pi * (np.arange(dim) + 0.5) * frequency / dim))


def grid(values: Array) -> Array:
    """Return the nearest multiples of 2**-10, whose products and sums float64 holds exactly."""
    return np.round(values * 1024) / 1024
