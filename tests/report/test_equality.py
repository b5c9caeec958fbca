"""The words for the equality of two trainings."""

import dataclasses
import math
from dataclasses import replace

import numpy as np
import pytest

from mmbench.metrics import DESCRIPTIONS
from mmbench.report.equality import WORDS, Difference, compare_trials, counts_samples, largest, one_sample, worst
from mmbench.report.statistics import another
from mmbench.runner.record import Record
from tests.report.factory import MACHINE, folded, record, runs

ROW = [0.70, 0.72, 0.77]
# Mean 0.73, deviation sqrt(0.0026 / 2); printed table: t(0.995, 2) = 9.9248.
HALF = 9.9248 * math.sqrt(0.0026 / 2) * math.sqrt(1 + 1 / 3)
ELSEWHERE = replace(MACHINE, simd="NEON")


def word(ours: Record, theirs: Record, row: list[Record], name: str = "mae") -> str | None:
    return next(item.word for item in compare_trials(ours, theirs, row) if item.name == name)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.70, "equal"),
        (0.70 * (1 + 0.9e-6), "equal"),
        (0.70 * (1 + 1.1e-6), "within rounding"),
        (0.70 * (1 + 0.9e-4), "within rounding"),
        (0.70 * (1 + 1.1e-4), "as far as another seed"),
        (0.73 + HALF - 1e-4, "as far as another seed"),
        (0.73 - HALF + 1e-4, "as far as another seed"),
        (0.73 + HALF + 1e-4, "differs"),
        (0.73 - HALF - 1e-4, "differs"),
    ],
)
def test_a_number_has_the_word_of_its_distance(value: float, expected: str) -> None:
    row = runs("a", ROW)
    assert word(record("a", 1, value), row[0], row) == expected


def test_the_interval_holds_another_value_as_often_as_it_says() -> None:
    draws = np.random.RandomState(0).normal(size=(4000, 5))
    inside = 0
    for *values, further in draws.tolist():
        interval = another(values, 0.9)
        assert interval is not None
        inside += interval[0] <= further <= interval[1]
    assert inside / len(draws) == pytest.approx(0.9, abs=3 * math.sqrt(0.09 / len(draws)))


@pytest.mark.parametrize("change", [{"simd": "AVX512"}, {"threads": 2}, {"torch": "2.9.1"}, {"gpu": "A GPU"}])
def test_rounding_explains_nothing_on_another_machine(change: dict) -> None:
    row = runs("a", ROW)
    ours = record("a", 1, 0.70003, environment=replace(MACHINE, **change))
    assert word(ours, row[0], row) == "as far as another seed"
    assert word(replace(ours, environment=MACHINE), row[0], row) == "within rounding"


@pytest.mark.parametrize("part", ["simd", "torch", "threads"])
def test_rounding_explains_nothing_where_a_part_of_the_machine_is_unknown(part: str) -> None:
    unknown = replace(MACHINE, **{part: 0 if part == "threads" else ""})
    row = runs("a", ROW, environment=unknown)
    assert word(record("a", 1, 0.70003, environment=unknown), row[0], row) == "as far as another seed"


def test_too_few_seeds_cannot_judge() -> None:
    row = runs("a", [0.70, 0.72])
    assert word(record("a", 1, 0.75), row[0], row) == "cannot be judged"
    assert word(record("a", 1, 0.70003), row[0], row) == "within rounding"
    assert word(record("a", 1, 0.75), row[0], runs("a", ROW)) == "as far as another seed"


def test_seeds_are_compared_on_the_same_fold_and_only_whole_ones() -> None:
    # Fold 0 lies around 0.73, fold 1 around 1.73 with a thousandth of the spread.
    values = {
        (seed, fold): value if not fold else 1.73 + (value - 0.73) / 1000
        for seed, value in enumerate(ROW)
        for fold in (0, 1)
    }
    row = folded("a", values, 2)
    ours = {fold: record("a", 0, mae, fold=fold, folds=2) for fold, mae in ((0, 0.80), (1, 1.80))}
    theirs = {found.fold: found for found in row if found.seed == 0}
    assert [word(ours[fold], theirs[fold], row) for fold in (0, 1)] == ["as far as another seed", "differs"]
    # Without its second fold a seed is no seed, and two are too few.
    part = [found for found in row if found.cell != (2, 1)]
    assert word(ours[0], theirs[0], part) == "cannot be judged"


def test_a_deterministic_row_has_no_room() -> None:
    row = runs("constant", [1.4] * 5)
    assert word(record("constant", 1, 1.401), row[0], row) == "differs"


def test_a_result_on_one_side_only_differs() -> None:
    done, failed, diverged = record(), record(status="failed"), record(status="diverged")
    for ours, theirs in ((done, failed), (failed, done), (diverged, failed)):
        (found,) = compare_trials(ours, theirs, runs("a", ROW))
        assert (found.name, found.word) == ("status", "differs")
    assert worst(compare_trials(failed, failed, [failed])) == "equal"


def test_undefined_values_are_equal_to_undefined_ones_only() -> None:
    row = [record("a", seed, test={"mae": mae, "corr": None}) for seed, mae in enumerate(ROW)]
    found = {item.name: item for item in compare_trials(row[0], row[0], row)}
    assert (found["corr"].word, found["corr"].difference) == ("equal", None)
    assert word(replace(row[0], test={"mae": 0.7, "corr": 0.1}), row[0], row, "corr") == "differs"
    assert word(row[0], replace(row[0], test={"mae": 0.7, "corr": 0.1}), row, "corr") == "differs"


def test_what_only_one_code_measures_is_told_and_not_judged() -> None:
    row = runs("a", ROW)
    ours = replace(row[0], test={**row[0].test, "new": 1.0})
    found = compare_trials(ours, row[0], row)
    assert next(item for item in found if item.name == "new") == Difference("new", 1.0, None, None, None)
    assert worst(found) == "equal"
    # The metric that selects is never left out.
    assert word(replace(ours, test={"corr": 0.6}), row[0], row) == "differs"


def test_the_validation_value_is_judged_and_the_epoch_is_told() -> None:
    row = runs("a", ROW)
    assert row[0].selection is not None
    ours = replace(row[0], selection=replace(row[0].selection, epoch=3, value=0.8))
    found = {item.name: item for item in compare_trials(ours, row[0], row)}
    # All seeds of the factory have the validation value 0.7.
    assert found["valid/mae"] == Difference("valid/mae", 0.8, 0.7, pytest.approx(0.1), "differs")
    assert found["epoch"] == Difference("epoch", 3, 11, -8, None)
    assert worst(found.values()) == "differs"
    same = replace(row[0], selection=replace(row[0].selection, epoch=3))
    assert worst(compare_trials(same, row[0], row)) == "equal"


def test_a_trial_is_as_good_as_its_worst_number() -> None:
    assert WORDS == ("equal", "within rounding", "as far as another seed", "cannot be judged", "differs")
    items = [Difference("x", 1.0, 1.0, 0.0, given) for given in (*WORDS, None)]
    for place, given in enumerate(WORDS):
        assert worst([*items[place::-1], items[-1]]) == given
    assert worst([]) == "equal"


def test_the_largest_difference_is_relative_and_of_a_test_value() -> None:
    items = [
        Difference("mae", 0.5, 0.4, 0.1, "differs"),
        Difference("corr", -0.2, -0.25, 0.05, "differs"),
        Difference("valid/mae", 1.0, 9.0, -8.0, "differs"),
        Difference("epoch", 1, 9, -8, None),
        Difference("acc7", None, 0.1, None, "differs"),
    ]
    assert largest(items) == pytest.approx(0.2)
    assert largest([Difference("mae", 0.0, 0.0, 0.0, "equal")]) == 0


def test_which_metrics_count_samples() -> None:
    found = {
        family: {name for name in described if counts_samples(family, name)}
        for family, described in DESCRIPTIONS.items()
    }
    assert found == {
        "sentiment": {"acc7", "acc5", "acc2_has0", "f1_has0", "acc2_non0", "f1_non0"},
        "sims": {"acc2", "acc3", "acc5", "f1"},
        "multiclass": {"wa", "ua", "f1_weighted", "f1_macro", "recall", "f1"},
        "multilabel": {"acc", "wacc", "f1_weighted", "f1_pos"},
        "binary": {"acc", "wacc", "f1_weighted", "f1_pos"},
        "affect": set(),
    }


@pytest.mark.parametrize(
    ("metric", "samples", "expected"),
    [
        ("acc2_has0", 1, "within rounding"),
        ("acc2_has0", 1.01, "cannot be judged"),
        ("f1_has0", 2, "within rounding"),
        ("f1_has0", 2.01, "cannot be judged"),
        ("corr", 1, "cannot be judged"),
    ],
)
def test_one_sample_may_fall_to_the_other_side(metric: str, samples: float, expected: str) -> None:
    theirs = record(test={"mae": 0.7, metric: 400 / 686})
    ours = replace(theirs, test={"mae": 0.7, metric: (400 + samples) / 686})
    assert word(ours, theirs, [theirs], metric) == expected
    # Elsewhere it is not rounding that moved the sample.
    assert word(replace(ours, environment=ELSEWHERE), theirs, [theirs], metric) == "cannot be judged"


def test_one_sample_moves_real_metrics_no_further() -> None:
    """A balanced split of four classes: each sample in turn falls to each other class."""
    import torch

    from mmbench.metrics import multiclass_metrics

    names = ("a", "b", "c", "d")
    target = torch.arange(80) % 4
    guess = torch.where(torch.arange(80) % 5 == 0, (target + 1) % 4, target)
    found = record(test={"wa": 0.8}, family="multiclass", selection="wa", mode="max", names=names)
    found = dataclasses.replace(found, samples={"train": 1, "valid": 1, "test": 80})
    before = multiclass_metrics(torch.eye(4)[guess], target, names)
    furthest = dict.fromkeys(before, 0.0)
    for sample in range(80):
        for other in range(4):
            moved = guess.clone()
            moved[sample] = other
            for name, value in multiclass_metrics(torch.eye(4)[moved], target, names).items():
                furthest[name] = max(furthest[name], abs(value - before[name]))
    for name, distance in furthest.items():
        if counts_samples("multiclass", name):
            assert 0 < distance <= one_sample(found, name, "test") * (1 + 1e-9), name
    assert one_sample(found, "wa", "test") == pytest.approx(furthest["wa"])
    assert one_sample(found, "ece", "test") == 0
