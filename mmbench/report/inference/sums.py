"""The test metrics as functions of sums over items.

A sum without a group is the sum less that of the group: a metric without each of G groups costs G subtractions instead
of G evaluations. The conventions are those of :mod:`mmbench.metrics`; a test compares every metric of every family.
Items are given in float32, in which classes are decided; sums are float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmbench.metrics import confusion as counts
from mmbench.metrics.calibration import BINS, bins_of
from mmbench.runner.facts import TaskFacts

Array = npt.NDArray[np.float64]
Values = dict[str, Array]

_ROUNDING = 1e-14
"""Share of a sum of squares that is rounding where all values are equal."""


@dataclass(frozen=True, eq=False)
class Sums:
    """Metrics that are functions of sums over items.

    Attributes:
        addends: ``(N, M)`` what each item adds to M sums.
        metrics: From sums ``(..., M)`` to the values ``(...)`` of each metric, NaN where one is undefined.
    """

    addends: Array
    metrics: Callable[[Array], Values]


def sums_of(task: TaskFacts, prediction: Array, target: Array) -> list[Sums]:
    """Return the metrics of a family, each once, with what each item adds to them.

    Args:
        task: Family, names and thresholds.
        prediction: ``(N, outputs)`` raw predictions.
        target: ``(N, C)`` labels or class numbers.

    Raises:
        KeyError: When the family is not known here.
    """
    guess = torch.from_numpy(prediction.astype(np.float32))
    truth = torch.from_numpy(target.astype(np.float32))
    return _FAMILIES[task.family](task, guess, truth)


def _sentiment(task: TaskFacts, guess: Tensor, truth: Tensor) -> list[Sums]:
    guess, truth = guess[:, 0], truth[:, 0]
    polar = truth != 0
    has0, non0 = (guess >= 0, truth >= 0), (guess > 0, truth > 0)
    means = {
        "mae": _error(guess, truth),
        "acc7": _same(_rounded(guess, 3), _rounded(truth, 3)),
        "acc5": _same(_rounded(guess, 2), _rounded(truth, 2)),
        "acc2_has0": _same(*has0),
        "acc2_non0": np.where(polar.numpy(), _same(*non0), np.nan),
    }
    f1s = [_weighted_f1("f1_has0", *has0), _weighted_f1("f1_non0", *non0, counted=polar)]
    return [_means(means), _correlation(guess, truth), *f1s]


def _sims(task: TaskFacts, guess: Tensor, truth: Tensor) -> list[Sums]:
    guess, truth = guess[:, 0].clamp(-1, 1), truth[:, 0].clamp(-1, 1)
    two, three, five = (
        tuple((side[:, None] > side.new_tensor(edges)).sum(1) for side in (guess, truth))
        for edges in ((0.0,), (-0.1, 0.1), (-0.7, -0.1, 0.1, 0.7))
    )
    means = {"mae": _error(guess, truth), "acc2": _same(*two), "acc3": _same(*three), "acc5": _same(*five)}
    return [_means(means), _correlation(guess, truth), _weighted_f1("f1", *two)]


def _affect(task: TaskFacts, guess: Tensor, truth: Tensor) -> list[Sums]:
    columns = [_moments(guess[:, n], truth[:, n]) for n in range(len(task.names))]

    def metrics(sums: Array) -> Values:
        found = []
        for each in np.split(sums, len(columns), axis=-1):
            n, x, y, xx, yy, xy = _central(each)
            spread = xx + yy + n * (x - y) ** 2
            found.append(np.divide(2 * xy, spread, out=np.zeros_like(spread), where=spread > 0))
        return _per_name({"ccc": np.stack(found, -1)}, task.names)

    return [Sums(np.concatenate(columns, 1), metrics)]


def _multiclass(task: TaskFacts, guess: Tensor, truth: Tensor) -> list[Sums]:
    logits, labels, classes = guess.double(), truth[:, 0].long(), len(task.names)
    chosen = guess.argmax(1)

    def metrics(sums: Array) -> Values:
        matrix = _matrix(sums, classes)
        recalls, f1s = counts.recall(matrix), counts.f1(matrix)
        return {
            "ua": recalls.nanmean(-1).numpy(),
            "f1_weighted": counts.weighted_f1(matrix).numpy(),
            "f1_macro": f1s.nanmean(-1).numpy(),
            **{f"recall/{name}": recalls[..., n].numpy() for n, name in enumerate(task.names)},
            **{f"f1/{name}": f1s[..., n].numpy() for n, name in enumerate(task.names)},
        }

    probability = logits.softmax(1)
    true = torch.nn.functional.one_hot(labels, classes)
    means = {
        "wa": _same(chosen, labels),
        "brier": (probability - true).square().sum(1).numpy(),
        "nll": torch.nn.functional.cross_entropy(logits, labels, reduction="none").numpy(),
    }
    return [_means(means), Sums(_pairs(chosen, labels, classes), metrics), _calibration(probability, labels)]


def _multilabel(task: TaskFacts, guess: Tensor, truth: Tensor) -> list[Sums]:
    scores = guess.sigmoid()
    return _decisions(task, scores > torch.tensor(task.thresholds).to(scores), truth)


def _binary(task: TaskFacts, guess: Tensor, truth: Tensor) -> list[Sums]:
    no, yes = guess.unflatten(1, (-1, 2)).unbind(2)
    return _decisions(task, yes > no, truth)


_FAMILIES: dict[str, Callable[[TaskFacts, Tensor, Tensor], list[Sums]]] = {
    "sentiment": _sentiment,
    "sims": _sims,
    "affect": _affect,
    "multiclass": _multiclass,
    "multilabel": _multilabel,
    "binary": _binary,
}


def _decisions(task: TaskFacts, decision: Tensor, truth: Tensor) -> list[Sums]:
    """Return the metrics of yes/no decisions ``(N, C)``."""
    width = len(task.names)
    columns = [_pairs(decision[:, n], truth[:, n], 2) for n in range(width)]

    def metrics(sums: Array) -> Values:
        matrix = _matrix(sums.reshape(*sums.shape[:-1], width, 4), 2)
        scores = {
            "wacc": counts.recall(matrix).mean(-1).numpy(),
            "f1_weighted": counts.weighted_f1(matrix).numpy(),
            "f1_pos": counts.f1(matrix)[..., 1].nan_to_num().numpy(),
        }
        return _per_name(scores, task.names)

    right = (decision == truth.bool()).double().numpy()
    means = {"acc": right.mean(1)} | {f"acc/{name}": right[:, n] for n, name in enumerate(task.names)}
    return [_means(means), Sums(np.concatenate(columns, 1), metrics)]


def _means(items: Values) -> Sums:
    """Return metrics that are means of ``(N,)`` values, without the items whose value is NaN."""
    values = np.stack(list(items.values()), 1)
    counted = ~np.isnan(values)

    def metrics(sums: Array) -> Values:
        total, count = np.split(sums, 2, axis=-1)
        with np.errstate(invalid="ignore"):
            return dict(zip(items, np.moveaxis(total / count, -1, 0), strict=True))

    return Sums(np.concatenate([np.where(counted, values, 0), counted], 1), metrics)


def _correlation(guess: Tensor, truth: Tensor) -> Sums:
    def metrics(sums: Array) -> Values:
        _, _, _, xx, yy, xy = _central(sums)
        with np.errstate(invalid="ignore"):
            return {"corr": np.clip(xy / np.sqrt(np.where((xx > 0) & (yy > 0), xx * yy, np.nan)), -1, 1)}

    return Sums(_moments(guess, truth), metrics)


def _moments(guess: Tensor, truth: Tensor) -> Array:
    """Return ``(N, 6)`` addends of count, mean and second moments, of values less their mean: no digits cancel."""
    x, y = (side.double().numpy() for side in (guess, truth))
    middle = (x.mean() + y.mean()) / 2
    # Less one middle for both, because the concordance knows the difference of the means.
    x, y = x - middle, y - middle
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], 1)


def _central(sums: Array) -> tuple[Array, ...]:
    """Return count, means and central second moments (sums) of ``(..., 6)`` sums; exactly 0 for equal values."""
    with np.errstate(invalid="ignore", divide="ignore"):
        n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
        x, y = x / n, y / n
        own = [square - n * mean**2 for square, mean in ((xx, x), (yy, y))]
    cx, cy = (
        np.where(value > _ROUNDING * np.maximum(square, n * n), value, 0.0)
        for value, square in zip(own, (xx, yy), strict=True)
    )
    return n, x, y, cx, cy, xy - n * x * y


def _weighted_f1(name: str, guess: Tensor, truth: Tensor, counted: Tensor | None = None) -> Sums:
    addends = _pairs(guess, truth, 2)
    if counted is not None:
        addends = addends * counted.double().numpy()[:, None]
    return Sums(addends, lambda sums: {name: counts.weighted_f1(_matrix(sums, 2)).numpy()})


def _calibration(probability: Tensor, labels: Tensor) -> Sums:
    """Return the calibration errors: what confidence exceeds accuracy by in each bin, and how many are in it."""
    confidence, chosen = probability.max(1)
    bins = np.eye(BINS)[bins_of(confidence).numpy()]
    excess = ((chosen == labels).double() - confidence).numpy()

    def metrics(sums: Array) -> Values:
        gap, count = np.abs(sums[..., :BINS]), sums[..., BINS:]
        gap = np.where(count > 0, gap, 0)  # what is left of a bin without items is rounding
        largest = np.divide(gap, count, out=np.zeros_like(gap), where=count > 0).max(-1)
        with np.errstate(invalid="ignore"):
            return {"ece": gap.sum(-1) / count.sum(-1), "mce": largest}

    return Sums(np.concatenate([bins * excess[:, None], bins], 1), metrics)


def _pairs(guess: Tensor, truth: Tensor, classes: int) -> Array:
    """Return ``(N, C * C)`` the cell of the confusion matrix in which each item is, truth first."""
    return np.asarray(np.eye(classes * classes)[(truth.long() * classes + guess.long()).numpy()])


def _matrix(sums: Array, classes: int) -> Tensor:
    return torch.from_numpy(sums).unflatten(-1, (classes, classes))


def _per_name(scores: Values, names: tuple[str, ...]) -> Values:
    """Return the mean over defined values of each ``(..., C)`` score as ``score``, its values as ``score/name``."""
    means = {score: torch.from_numpy(values).nanmean(-1).numpy() for score, values in scores.items()}
    single = {f"{score}/{name}": values[..., n] for score, values in scores.items() for n, name in enumerate(names)}
    return means | single


def _error(guess: Tensor, truth: Tensor) -> Array:
    return np.asarray((guess.double() - truth.double()).abs().numpy())


def _same(guess: Tensor, truth: Tensor) -> Array:
    return np.asarray((guess == truth).double().numpy())


def _rounded(values: Tensor, limit: int) -> Tensor:
    """Return the class of a sentiment: clipped, then rounded half to even."""
    return values.clamp(-limit, limit).round()
