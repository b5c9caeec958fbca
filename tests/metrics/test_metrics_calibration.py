"""Reliability, the floor of the calibration error, temperatures and intervals."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

from mmbench.metrics.calibration import (
    LEVEL,
    TEMPERATURES,
    Bin,
    calibration_error,
    expected_error,
    fit_half_width,
    fit_temperature,
    reliability,
    top_class,
)


def frequencies(scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits of two classes, too large by a factor, of samples whose classes are as frequent as they should be.

    Of ten samples each the first class is true in 9, 8, 7, 6 and 3.
    """
    shares = [0.9, 0.8, 0.7, 0.6, 0.3]
    logits = torch.tensor([[scale * math.log(share / (1 - share)), 0.0] for share in shares]).repeat_interleave(10, 0)
    target = torch.tensor([int(place >= round(10 * share)) for share in shares for place in range(10)])
    return logits, target


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_a_temperature_takes_back_by_how_much_logits_are_too_large(scale: float) -> None:
    logits, target = frequencies(scale)
    assert fit_temperature(logits, target) == pytest.approx(scale, rel=1e-4)
    confidence, correct = top_class(logits, target, scale)
    # In each group confidence is the share of right predictions; 0.9 and the others share no bin but 0.7 with 0.3.
    assert calibration_error(confidence, correct)[0] == pytest.approx(0, abs=1e-6)


def test_temperatures_have_bounds_and_are_one_where_logits_say_nothing() -> None:
    target = torch.tensor([0, 1, 0, 1])
    sure = torch.eye(2)[target]
    assert fit_temperature(sure, target) == pytest.approx(TEMPERATURES[0], rel=1e-4)
    assert fit_temperature(sure, 1 - target) == pytest.approx(TEMPERATURES[1], rel=1e-4)
    assert fit_temperature(torch.full((4, 2), 3.0), target) == 1.0


def test_a_diagram_gives_the_calibration_error() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, target = torch.randn(200, 4, generator=generator) * 2, torch.randint(0, 4, (200,), generator=generator)
    bins = reliability(logits, target)
    assert len(bins) == 15
    assert sum(one.count for one in bins) == 200
    assert bins[0] == Bin(0, 0, 0)  # of four classes none is likeliest with less than a quarter
    gaps = sum(one.count * abs(one.accuracy - one.confidence) for one in bins) / 200
    assert gaps == pytest.approx(calibration_error(*top_class(logits, target))[0], abs=1e-12)


def test_a_bin_holds_what_it_should() -> None:
    logits = torch.tensor([[0.62, 0.38], [0.61, 0.39], [0.35, 0.65], [0.9, 0.1]]).log()
    bins = reliability(logits, torch.tensor([0, 1, 1, 0]))
    assert bins[9] == Bin(3, pytest.approx((0.62 + 0.61 + 0.65) / 3), pytest.approx(2 / 3))
    assert bins[13] == Bin(1, pytest.approx(0.9), 1)


def test_the_floor_is_the_mean_over_all_outcomes() -> None:
    confidence = torch.tensor([0.62, 0.61, 0.65, 0.95, 0.97], dtype=torch.float64)
    mean = 0.0
    for outcome in product([0.0, 1.0], repeat=5):
        correct = torch.tensor(outcome, dtype=torch.float64)
        chance = torch.where(correct > 0, confidence, 1 - confidence).prod().item()
        mean += chance * calibration_error(confidence, correct)[0]
    assert expected_error(confidence) == pytest.approx(mean, abs=1e-12)


def test_the_floor_is_what_a_calibrated_classifier_has() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.3, 1, 400)
    drawn = [
        calibration_error(torch.from_numpy(confidence), torch.from_numpy(generator.random(400) < confidence))[0]
        for _ in range(400)
    ]
    error = 4 * np.std(drawn) / 20
    assert expected_error(torch.from_numpy(confidence)) == pytest.approx(np.mean(drawn), abs=error)
    assert np.mean(drawn) > 0.03


@pytest.mark.parametrize(("count", "place"), [(9, 9), (10, 10), (19, 18), (20, 19), (99, 90)])
def test_half_a_width_is_the_right_distance(count: int, place: int) -> None:
    """The smallest one that leaves at most a tenth of ``count + 1`` places beyond it."""
    distances = torch.arange(1, count + 1, dtype=torch.float64).flip(0)
    signs = torch.where(torch.arange(count) % 2 == 0, 1.0, -1.0)
    assert (count + 1 - place) / (count + 1) <= 1 - LEVEL + 1e-12 < (count + 2 - place) / (count + 1)
    assert fit_half_width(distances * signs, torch.zeros(count)) == place


def test_few_samples_allow_no_interval() -> None:
    assert fit_half_width(torch.ones(8), torch.zeros(8)) == math.inf


def test_intervals_cover_new_samples() -> None:
    generator = np.random.default_rng(3)
    covered = []
    for _ in range(2000):
        old, new = generator.standard_cauchy(39), generator.standard_cauchy(20)
        half = fit_half_width(torch.from_numpy(old), torch.zeros(39))
        covered.append(np.mean(np.abs(new) <= half))
    assert np.mean(covered) == pytest.approx(0.9, abs=0.006)  # (39 + 1) 0.9 = 36 of 40 places; four errors of the mean
