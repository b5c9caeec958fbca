"""From the predictions of a row's trials to the values of its seeds and the influences of groups of test items.

The influence of a group is that of the delete-one-group jackknife, ``-(G - 1) / G * (theta_(-g) - mean)``. It is scaled
by ``sqrt(G / (G - 1))``, for the sum of its squares to estimate the variance over groups. For a mean over items in
equal groups that is ``G / (G - 1) * sum_g (sum_{i in g} (x_i - theta))^2 / N^2``; in unequal groups this formula is too
small (by 3 % for 24 groups whose sizes vary by a half of their mean), and the jackknife is not.

With folds, the value of a seed is the mean over its F folds, and a group is left out of the folds that tested it. A
fold's value less the mean over folds is shared among its groups by their numbers of items: a hard group in an easy fold
is then no harder than it is, and a fold with a single group counts. For a mean over items in equal groups it is again
the formula above, each item weighted by 1 over F and the number of items of its fold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mmbench.report.inference.scores import InferenceError, RowScores
from mmbench.report.inference.sums import Array, Sums, sums_of
from mmbench.runner.facts import TaskFacts
from mmbench.runner.predictions import Predictions

Trials = Mapping[tuple[int, int], tuple[TaskFacts, Predictions]]
"""Task and test predictions of a row's trials, by seed and fold."""

_Part = tuple[float, Array, Array]
"""Of one trial: a metric, its influences by group, and each group's share of the items."""


def scores_of(label: str, trials: Trials, deterministic: bool = False) -> dict[str, RowScores]:
    """Return the scores of a row by metric.

    Metrics that are undefined in a trial (a class that a fold lacks, a prediction that is not finite, the correlation
    of a constant), or without one of the groups, are left out: there is no interval for them. An item of no group is a
    group of its own. A row of several seeds with the same predictions is deterministic.

    Args:
        label: Name of the row.
        trials: Its trials: every fold of each seed.
        deterministic: Whether the method is known to draw no random numbers; then one seed is enough.

    Raises:
        InferenceError: When a seed lacks a fold, or when seeds were tested on different items.
    """
    seeds, folds = (sorted({cell[place] for cell in trials}) for place in (0, 1))
    if not trials or len(trials) != len(seeds) * len(folds):
        raise InferenceError(f"{label}: {len(trials)} trials of seeds {seeds} and folds {folds}; run the missing ones")
    items = _same_items(label, trials, seeds, folds)
    names = sorted({name for seed in seeds[:1] for fold in folds for name in _groups(trials[seed, fold][1])})
    number = {name: n for n, name in enumerate(names)}
    placed = {fold: np.array([number[name] for name in _groups(trials[seeds[0], fold][1])]) for fold in folds}
    parts = [[_parts(*trials[seed, fold], placed[fold], len(names)) for fold in folds] for seed in seeds]
    if len(seeds) > 1 and all(_equal_seeds(trials, seeds, fold) for fold in folds):
        deterministic = True
    found = {}
    for name in parts[0][0]:
        scores = [_over_folds([fold.get(name) for fold in seed]) for seed in parts]
        if any(score is None for score in scores):
            continue
        defined = [score for score in scores if score is not None]
        values, deviations = np.array([value for value, _ in defined]), np.stack([each for _, each in defined])
        if np.isfinite(values).all() and np.isfinite(deviations).all():
            found[name] = RowScores(label, values, deviations, deterministic, len(folds), items)
    return found


def _groups(predictions: Predictions) -> list[tuple[str, str]]:
    """Return the group of each item: its name, or the item itself."""
    return [(group, "" if group else name) for group, name in zip(predictions.groups, predictions.ids, strict=True)]


def _same_items(label: str, trials: Trials, seeds: Sequence[int], folds: Sequence[int]) -> str:
    """Return a digest of what was tested, the same for every seed."""
    digests = {}
    for seed in seeds:
        tested = [(p.ids, p.groups, p.target.tolist()) for p in (trials[seed, fold][1] for fold in folds)]
        digests[seed] = hashlib.sha256(repr(tested).encode()).hexdigest()
    if others := [seed for seed in seeds if digests[seed] != digests[seeds[0]]]:
        raise InferenceError(
            f"{label}: seeds {others} were tested on other items, groups or targets than seed {seeds[0]}; run them "
            "again on the same data"
        )
    return digests[seeds[0]]


def _equal_seeds(trials: Trials, seeds: Sequence[int], fold: int) -> bool:
    first = trials[seeds[0], fold][1].prediction
    return all(np.array_equal(trials[seed, fold][1].prediction, first) for seed in seeds[1:])


def _parts(task: TaskFacts, predictions: Predictions, groups: npt.NDArray[np.int64], count: int) -> dict[str, _Part]:
    """Return each metric of a trial with the influences of all groups of the row, 0 for those that it did not test."""
    if not np.isfinite(predictions.prediction).all():
        return {}
    tested, place = np.unique(groups, return_inverse=True)
    order, starts = place.argsort(kind="stable"), np.r_[0, np.bincount(place).cumsum()[:-1]]

    def everywhere(values: Array) -> Array:
        spread = np.zeros(count)
        spread[tested] = values
        return spread

    share = everywhere(np.bincount(place) / len(place))
    return {
        name: (value, everywhere(influence), share)
        for metrics in sums_of(task, predictions.prediction, predictions.target)
        for name, value, influence in _jackknife(metrics, np.add.reduceat(metrics.addends[order], starts, axis=0))
    }


def _jackknife(metrics: Sums, by_group: Array) -> Iterator[tuple[str, float, Array]]:
    """Yield each metric with the influence of every group, from the sums ``(G, M)`` of the groups."""
    whole = metrics.metrics(by_group.sum(0))
    without = metrics.metrics(by_group.sum(0) - by_group)
    count = len(by_group)
    for name, value in whole.items():
        left = without[name]
        yield name, float(value), -(count - 1) / count * (left - left.mean()) if count > 1 else np.zeros(1)


def _over_folds(parts: Sequence[_Part | None]) -> tuple[float, Array] | None:
    """Return the value of a seed and its deviations by group, None where a fold lacks the metric."""
    defined = [part for part in parts if part is not None]
    if len(defined) < len(parts):
        return None
    value = float(np.mean([mean for mean, _, _ in defined]))
    influence = np.mean([own + share * (mean - value) for mean, own, share in defined], axis=0)
    count = len(influence)
    return value, influence * np.sqrt(count / (count - 1)) if count > 1 else np.zeros(1)
