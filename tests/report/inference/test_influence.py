"""Influences of groups, against metrics that are computed anew without each group."""

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.metrics import f1_score

from mmbench.metrics import DESCRIPTIONS, MultilabelMetric, build_metric
from mmbench.report.inference import InferenceError, RowScores, Trials, scores_of
from mmbench.runner.facts import TaskFacts
from mmbench.runner.predictions import Predictions

Array = npt.NDArray[np.float64]
NAMES = ("happy", "sad", "angry")
TASKS = {
    "sentiment": TaskFacts("regression", ("sentiment",), "sentiment"),
    "sims": TaskFacts("regression", ("sentiment",), "sims"),
    "affect": TaskFacts("regression", ("arousal", "valence"), "affect"),
    "multiclass": TaskFacts("multiclass", NAMES, "multiclass"),
    "multilabel": TaskFacts("multilabel", NAMES, "multilabel", (0.3, 0.5, 0.6)),
    "binary": TaskFacts("binary", NAMES, "binary"),
}


def predictions(family: str, seed: int, groups: list[str], fold: int = 0, first: int = 0) -> Predictions:
    """Return predictions that have to do with their targets; the targets do not depend on the seed."""
    task, count = TASKS[family], len(groups)
    truth, noise = np.random.default_rng([fold, count]), np.random.default_rng([seed, fold, count])
    width = len(task.names)
    if task.kind == "regression":
        limit = 3 if family == "sentiment" else 1
        target = truth.uniform(-limit, limit, (count, width)).round(1)
        target[::5] = 0
        prediction = target + noise.normal(size=target.shape) * limit / 2
    elif task.kind == "multiclass":
        target = truth.integers(width, size=(count, 1)).astype(float)
        prediction = 1.5 * np.eye(width)[target[:, 0].astype(int)] + noise.normal(size=(count, width))
    else:
        target = truth.integers(2, size=(count, width)).astype(float)
        prediction = (2 * target - 1) + 1.5 * noise.normal(size=target.shape)
        if family == "binary":
            prediction = np.stack([-prediction, prediction], -1).reshape(count, -1)
    names = [f"item {first + n}" for n in range(count)]
    return Predictions(names, groups, fold, target, prediction.astype(np.float32).astype(np.float64))


def metrics(task: TaskFacts, of: Predictions, kept: npt.NDArray[np.bool_] | None = None) -> dict[str, float]:
    """Return the metrics of some items, by the classes that score trainings."""
    kept = np.ones(len(of.ids), dtype=bool) if kept is None else kept
    metric = build_metric(task.family, task.names)
    if isinstance(metric, MultilabelMetric):
        metric.thresholds = torch.tensor(task.thresholds)
    target = torch.from_numpy(of.target[kept]).float()
    metric.update(
        torch.from_numpy(of.prediction[kept]).float(),
        target if task.kind == "regression" else target.long(),
        torch.arange(int(kept.sum())),
    )
    return metric.compute()


def jackknife(task: TaskFacts, of: Predictions, name: str) -> Array:
    """Return the deviations of one trial by leaving out each group, in the order of their names."""
    groups = np.array(of.groups)
    left = np.array([metrics(task, of, groups != group)[name] for group in sorted(set(of.groups))])
    return -math.sqrt((len(left) - 1) / len(left)) * (left - left.mean())


def unequal(count: int = 60) -> list[str]:
    """Return groups of unequal sizes."""
    return [f"video {int(place)}" for place in np.random.default_rng(2).gamma(2, size=count).clip(max=6)]


@pytest.mark.parametrize("family", TASKS)
def test_every_metric_is_that_of_its_family(family: str) -> None:
    task = TASKS[family]
    trials: Trials = {(seed, 0): (task, predictions(family, seed, unequal())) for seed in (1, 2)}
    found = scores_of("row", trials)
    expected = [metrics(*trials[seed, 0]) for seed in (1, 2)]
    assert found.keys() == expected[0].keys()
    assert {name.partition("/")[0] for name in found} == set(DESCRIPTIONS[family])
    for name, scores in found.items():
        assert scores.values == pytest.approx([each[name] for each in expected], abs=1e-12), name


@pytest.mark.parametrize("family", TASKS)
def test_influences_are_those_of_leaving_a_group_out(family: str) -> None:
    task, of = TASKS[family], predictions(family, 1, unequal())
    for name, scores in scores_of("row", {(1, 0): (task, of)}).items():
        assert scores.deviations[0] == pytest.approx(jackknife(task, of, name), abs=1e-12), name


def test_for_a_mean_over_equal_groups_they_are_sums_of_deviations() -> None:
    of = predictions("sentiment", 1, [f"video {n % 6}" for n in range(60)])
    scores = scores_of("row", {(1, 0): (TASKS["sentiment"], of)})["mae"]
    error = np.abs(of.prediction - of.target)[:, 0]
    sums = np.array([(error - error.mean())[n::6].sum() for n in range(6)])
    assert scores.deviations[0] == pytest.approx(math.sqrt(6 / 5) * sums / 60, abs=1e-6)  # labels of single precision


def test_the_influence_by_hand() -> None:
    target, prediction = np.zeros((4, 1)), np.array([[1.0], [3.0], [0.0], [2.0]])  # errors 1, 3, 0, 2
    of = Predictions(["a", "b", "c", "d"], ["x", "x", "x", "y"], 0, target, prediction)
    found = scores_of("row", {(1, 0): (TASKS["sentiment"], of)})["mae"]
    # Without x it is 2, without y 4/3; the mean of the two is 5/3.
    assert found.deviations[0] == pytest.approx([-math.sqrt(1 / 2) / 3, math.sqrt(1 / 2) / 3])


def test_a_mean_leaves_out_what_its_metric_does() -> None:
    target, prediction = np.array([[1.0], [0.0], [-1.0], [1.0]]), np.array([[1.0], [1.0], [1.0], [1.0]])
    of = Predictions(["a", "b", "c", "d"], ["x", "x", "y", "z"], 0, target, prediction)
    found = scores_of("row", {(1, 0): (TASKS["sentiment"], of)})["acc2_non0"]
    assert found.values == pytest.approx([2 / 3])
    assert found.deviations[0] == pytest.approx(math.sqrt(3 / 2) * np.array([1 / 3, -2 / 3, 1 / 3]) / 3)


def test_folds_weigh_their_items_and_leave_groups_out_of_their_fold() -> None:
    task = TASKS["multiclass"]
    parts = [
        predictions("multiclass", 1, [f"actor {n % 3}" for n in range(30)], 0),
        predictions("multiclass", 1, [f"actor {3 + n % 2}" for n in range(24)], 1, first=30),
    ]
    found = scores_of("row", {(1, fold): (task, part) for fold, part in enumerate(parts)})
    assert found["wa"].folds == 2
    for name, scores in found.items():
        folds = [metrics(task, part)[name] for part in parts]
        assert scores.values == pytest.approx([np.mean(folds)])
        assert scores.deviations.sum() == pytest.approx(0, abs=1e-12)
    # A mean: each item weighs 1 / (2 folds * items of its fold).
    right = [(part.prediction.argmax(1) == part.target[:, 0]).astype(float) for part in parts]
    scores = found["wa"]
    expected = [
        (right[fold][np.array(part.groups) == actor] - scores.values[0]).sum() / (2 * len(part.ids))
        for fold, part in enumerate(parts)
        for actor in sorted(set(part.groups))
    ]
    assert scores.deviations[0] == pytest.approx(math.sqrt(5 / 4) * np.array(expected))
    # Any other: within a fold the jackknife's, and the fold's own deviation by the group's share of its items.
    scores = found["f1_weighted"]
    own = [jackknife(task, part, "f1_weighted") for part in parts]
    within = [deviations * math.sqrt((len(deviations) - 1) / len(deviations)) for deviations in own]
    folds = [metrics(task, part)["f1_weighted"] for part in parts]
    wanted = np.concatenate(
        [(each + (value - np.mean(folds)) / len(each)) / 2 for each, value in zip(within, folds, strict=True)]
    )
    assert scores.deviations[0] == pytest.approx(math.sqrt(5 / 4) * wanted)


def test_a_fold_of_one_group_counts_by_its_fold() -> None:
    parts = [predictions("multiclass", 1, [f"speaker {fold}"] * 20, fold, first=20 * fold) for fold in range(4)]
    found = scores_of("row", {(1, fold): (TASKS["multiclass"], part) for fold, part in enumerate(parts)})
    values = np.array([metrics(TASKS["multiclass"], part)["ua"] for part in parts])
    # The variance of a mean of four independent values.
    assert (found["ua"].deviations ** 2).sum() == pytest.approx(values.var(ddof=1) / 4)


def test_the_variance_is_that_of_new_groups() -> None:
    """F1 of many test sets drawn anew: their variance is what the jackknife says of each, on average."""
    rng, groups, size = np.random.default_rng(4), 30, 8
    values, said = [], []
    for _ in range(100):
        hard = np.repeat(rng.normal(size=groups), size)
        target = rng.integers(2, size=groups * size)
        right = rng.random(groups * size) < 1 / (1 + np.exp(-1 - hard))
        guess = np.where(right, target, 1 - target)
        of = Predictions(
            [str(n) for n in range(groups * size)],
            [f"{n // size}" for n in range(groups * size)],
            0,
            target[:, None].astype(float),
            np.eye(2)[guess] * 2,
        )
        scores = scores_of("row", {(1, 0): (replace(TASKS["multiclass"], names=("no", "yes")), of)})["f1_weighted"]
        assert scores.values[0] == pytest.approx(f1_score(target, guess, average="weighted"))
        values.append(scores.values[0])
        said.append((scores.deviations**2).sum())
    assert np.mean(said) == pytest.approx(np.var(values, ddof=1), rel=0.4)  # three standard errors


def test_an_item_without_a_group_is_its_own() -> None:
    of = predictions("sentiment", 1, ["video", "video", *[""] * 10])
    found = scores_of("row", {(1, 0): (TASKS["sentiment"], of)})
    assert {scores.groups for scores in found.values()} == {11}


def test_one_group_has_no_deviations() -> None:
    found = scores_of("row", {(1, 0): (TASKS["sentiment"], predictions("sentiment", 1, ["video"] * 12))})
    assert set(found) == set(DESCRIPTIONS["sentiment"])
    assert all(np.array_equal(scores.deviations, [[0.0]]) for scores in found.values())


def test_what_is_undefined_is_left_out() -> None:
    task, of = TASKS["sentiment"], predictions("sentiment", 1, unequal())
    constant = replace(of, prediction=np.full_like(of.prediction, 0.3))
    assert set(scores_of("row", {(1, 0): (task, constant)})) == set(DESCRIPTIONS["sentiment"]) - {"corr"}
    diverged = replace(of, prediction=np.where(np.arange(60)[:, None] == 7, math.nan, of.prediction))
    assert scores_of("row", {(1, 0): (task, of), (2, 0): (task, diverged)}) == {}
    # A class that a fold lacks, and one of a single group: its recall has no value without that group.
    classes = predictions("multiclass", 1, unequal())
    lacking = replace(classes, target=classes.target.clip(max=1))
    assert "recall/angry" not in scores_of("row", {(1, 0): (TASKS["multiclass"], lacking)})
    single = replace(lacking, target=np.where(np.array(unequal()) == "video 5", 2, lacking.target.T).T)
    assert {"recall/angry", "ua"} & set(scores_of("row", {(1, 0): (TASKS["multiclass"], single)})) == {"ua"}


def test_equal_seeds_are_deterministic() -> None:
    task, of = TASKS["sentiment"], predictions("sentiment", 1, unequal())
    other = predictions("sentiment", 2, unequal())
    assert scores_of("row", {(seed, 0): (task, of) for seed in range(3)})["mae"].deterministic
    assert not scores_of("row", {(seed, 0): (task, which) for seed, which in enumerate((of, other))})[
        "mae"
    ].deterministic
    assert not scores_of("row", {(1, 0): (task, of)})["mae"].deterministic
    assert scores_of("row", {(1, 0): (task, of)}, deterministic=True)["mae"].deterministic


def test_seeds_of_other_items_and_missing_folds_are_named() -> None:
    task, of = TASKS["sentiment"], predictions("sentiment", 1, unequal())
    with pytest.raises(InferenceError, match=r"mult: seeds \[7\].*seed 1"):
        scores_of("mult", {(1, 0): (task, of), (7, 0): (task, replace(of, target=of.target + 1))})
    with pytest.raises(InferenceError, match=r"mult: 3 trials.*missing"):
        scores_of("mult", {(1, 0): (task, of), (1, 1): (task, of), (2, 0): (task, of)})
    with pytest.raises(InferenceError, match="mult: 0 trials"):
        scores_of("mult", {})


def test_rows_of_the_same_items_have_the_same_digest() -> None:
    task, of = TASKS["sentiment"], predictions("sentiment", 1, unequal())
    digests: list[RowScores] = [
        scores_of("row", {(1, 0): (task, which)})["mae"]
        for which in (of, predictions("sentiment", 2, unequal()), replace(of, ids=[f"other {n}" for n in of.ids]))
    ]
    assert digests[0].items == digests[1].items != digests[2].items


def test_it_costs_little_more_than_the_metrics() -> None:
    """A jackknife over 300 groups beside the metrics of the same predictions, once."""
    task, of = TASKS["multiclass"], predictions("multiclass", 1, [f"dialogue {n % 300}" for n in range(3000)])

    def seconds(what: Callable[[], object]) -> float:
        start = time.perf_counter()
        what()
        return time.perf_counter() - start

    apart = min(seconds(lambda: scores_of("row", {(1, 0): (task, of)})) for _ in range(3))
    once = min(seconds(lambda: metrics(task, of)) for _ in range(3))
    assert apart < 60 * once, "evaluating the metrics 300 times would cost 300 times as much"
