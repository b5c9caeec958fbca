"""Generated sequences whose label needs *when*: events of two modalities that meet at a lag.

In each of the six steps in which it has something to say, a modality says plus or minus, three times each. What vision
says answers what audio said a lag of :data:`LAG` steps before, and the label is by how much they agree::

    score = 2.4 (agreements / 3 - 1) + 0.3 label_noise        0, 2, 4 or 6 agreements, equally likely

Text says as many of each sign, in an order of its own, in the steps of one or the other, and means nothing by it. Every
modality alone is a random order of three plus and three minus, whatever the label: it says nothing, not even with its
order in time. So do averages over time, and any other reading that forgets when: the signs of a modality are always the
same six. What audio and vision say at the same time agrees a little less often where they agree at the lag, since
each sign is used up; :func:`ceilings` counts what that tells. Only a method that brings together steps of two
modalities that lie the lag apart comes near the rest.

The bytes are the same on every machine, as those of :mod:`data_modules.datasets.synthetic.generator`.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator
from functools import cache, partial

import numpy as np
import numpy.typing as npt

from data_modules.datasets.synthetic.generator import (
    SEED,
    SPEAKER,
    VIDEO,
    check_amounts,
    directions,
    grid,
    made_by,
    near_normal,
)
from data_modules.schema import MODALITIES, DataError, TargetSpec
from data_modules.store import SPLITS, FeatureStore, Sample, StoreInfo, write_store

FEATURE_SET = "lag"
LAG = 1
"""Steps from what audio says to the answer of vision, unless another lag is asked for."""
EACH = 3
"""How often a modality says plus, and how often minus."""
EVENTS = 2 * EACH
SPAN, NOISE = 2.4, 0.3
DIMS = {"text": 12, "audio": 8, "vision": 10}
SAMPLES = (6000, 300, 600)
"""Samples for training, validation and test; with a quarter of the first even `mult` stays far from the best score."""

Signs = npt.NDArray[np.float64]


def write_lag(
    path: str | os.PathLike[str], *, samples: tuple[int, int, int] = SAMPLES, seed: int = SEED, lag: int = LAG
) -> FeatureStore:
    """Write the data set.

    Args:
        path: The store to make or replace.
        samples: Samples for training, validation and test, at least one each.
        seed: Decides every value, 0 or greater.
        lag: Steps from what audio says to the answer of vision; another than the usual makes a feature set of its own.

    Raises:
        DataError: For a negative seed, a split without samples, or a lag longer than audio speaks.
    """
    check_amounts(seed, samples, "samples")
    if not 1 <= lag <= EVENTS:
        raise DataError(f"A lag of {lag} steps is longer than audio speaks, or none: give 1 to {EVENTS} steps.")
    info = StoreInfo(
        dataset="synthetic",
        feature_set=feature_set_of(lag),
        target=TargetSpec("regression", ("sentiment",), low=-3.0, high=3.0),
        sources=dict.fromkeys(MODALITIES, f"generated, seed {seed}"),
        aligned=True,
        notes=made_by(__name__, seed),
    )
    return write_store(path, info, _draw(samples, lag, np.random.PCG64(seed)))


def score(agreeing: int, noise: int) -> float:
    """Return the label.

    Args:
        agreeing: Times that audio's plus is answered by plus, 0 to 3; its minus is answered by minus as often.
        noise: -1, 0 or 1.
    """
    return round(SPAN * (2 * agreeing / EACH - 1) + NOISE * noise, 2) + 0.0


@cache
def ceilings(lag: int = LAG) -> dict[str, dict[str, float]]:
    """Return by what is read the best expected value of each metric, over all possible samples of a lag.

    ``one modality`` is each of the three with its order, and all three without any; ``simultaneous steps`` are those of
    all modalities, without their order.
    """
    states = list(_states())
    readings: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], Hashable]] = {
        "text + audio + vision": lambda audio, vision: (audio, vision),
        "one modality": lambda audio, vision: audio,
        "all without the order of steps": lambda audio, vision: None,
        "simultaneous steps without their order": partial(_simultaneous, lag),
    }
    return {
        name: _best([(read(audio, vision), agreeing, chance) for audio, vision, agreeing, chance in states])
        for name, read in readings.items()
    }


def feature_set_of(lag: int) -> str:
    """Return the name of the feature set of a lag."""
    return FEATURE_SET if lag == LAG else f"{FEATURE_SET}{lag}"


def lag_of(feature_set: str) -> int | None:
    """Return the lag of a feature set by its name; None for one that is none of these."""
    found = re.fullmatch(rf"{FEATURE_SET}(\d*)", feature_set)
    return int(found[1] or LAG) if found else None


def _simultaneous(lag: int, audio: tuple[int, ...], vision: tuple[int, ...]) -> Hashable:
    """Return how often each pair is said at the same time; 0 stands for nothing."""
    nothing = (0,) * lag
    return tuple(sorted(Counter(zip(audio + nothing, nothing + vision, strict=True)).items()))


def _states() -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int, float]]:
    """Yield what audio and vision say, how often plus is answered by plus, and the probability of it."""
    orders = [
        tuple(1 if step in plus else -1 for step in range(EVENTS))
        for plus in itertools.combinations(range(EVENTS), EACH)
    ]
    for audio, vision in itertools.product(orders, repeat=2):
        agreeing = sum(one == two == 1 for one, two in zip(audio, vision, strict=True))
        yield audio, vision, agreeing, 1 / (EACH + 1) / len(orders) / math.comb(EACH, agreeing) ** 2


def _best(states: list[tuple[Hashable, int, float]]) -> dict[str, float]:
    """Return the best expected metrics from what is read, the agreements, and the probability of each state."""
    chances: dict[Hashable, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    for read, agreeing, chance in states:
        for noise in (-1, 0, 1):
            chances[read][score(agreeing, noise)] += chance / 3
    error = explained = total = positive = sevens = 0.0
    for found in chances.values():
        values, weights = np.asarray(list(found)), np.asarray(list(found.values()))
        order = values.argsort()
        middle = values[order][np.searchsorted(weights[order].cumsum(), weights.sum() / 2)]
        error += float(weights @ np.abs(values - middle))
        explained += float(weights @ values) ** 2 / float(weights.sum())  # the mean of all labels is 0
        total += float(weights @ values**2)
        up = float(weights[values >= 0].sum())
        positive += max(up, float(weights.sum()) - up)
        sevens += max(float(weights[values.round() == label].sum()) for label in set(values.round()))
    return {"mae": error, "corr": (explained / total) ** 0.5, "acc2_has0": positive, "acc7": sevens}


def _draw(samples: tuple[int, int, int], lag: int, bits: np.random.PCG64) -> Iterator[Sample]:
    for split, size in zip(SPLITS, samples, strict=True):
        for place in range(size):
            agreeing, noise, late = (int(bits.random_raw()) % count for count in (EACH + 1, 3, 2))
            audio, text = _signs(EACH, EVENTS, bits), _signs(EACH, EVENTS, bits)
            vision = np.empty(EVENTS)
            vision[audio > 0] = _signs(agreeing, EACH, bits)
            vision[audio < 0] = _signs(EACH - agreeing, EACH, bits)
            said = {"text": (text, late * lag), "audio": (audio, 0), "vision": (vision, lag)}
            video = f"{split}{place // VIDEO:03d}"
            yield Sample(
                id=f"{video}[{place % VIDEO}]",
                inputs={name: _sequence(name, EVENTS + lag, *said[name], bits) for name in MODALITIES},
                target=score(agreeing, noise - 1),
                split=split,
                group=video,
                speaker=f"{split}{place // SPEAKER:02d}",
            )


def _signs(plus: int, count: int, bits: np.random.PCG64) -> Signs:
    """Return ``(count,)`` signs in random order, so many of them plus."""
    return np.where(bits.random_raw(count).argsort(kind="stable") < plus, 1.0, -1.0)


def _sequence(name: str, steps: int, signs: Signs, start: int, bits: np.random.PCG64) -> npt.NDArray[np.float32]:
    """Return ``(steps, D)``: along two directions what is said and that something is, noise along all others."""
    parts = near_normal(steps, DIMS[name], bits) / 2
    parts[:, :2] = 0.0
    parts[start : start + EVENTS, 0], parts[start : start + EVENTS, 1] = signs, 1.0
    return (grid(parts) @ directions(DIMS[name])).astype(np.float32)
