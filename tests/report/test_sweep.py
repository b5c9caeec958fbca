"""Scores over rates of missing steps and the area under them."""

import numpy as np
import pytest

from mmbench.metrics import auilc
from mmbench.report.grouping import boards
from mmbench.report.leaderboard import render
from mmbench.report.sweep import sweeps
from tests.report.factory import TRACK, record

RATES = [number / 10 for number in range(11)]


def at(rate, method="mult", mae=0.7, seed=1, **options):
    track = f"{TRACK}+missing-steps{rate:g}" if rate else TRACK
    data = {"corruption": {"steps": rate, "modalities": 0.0, "noise": 0.0, "seed": 1111}} if rate else {}
    return record(method, seed, mae, track=track, data=data, **options)


@pytest.mark.parametrize(("rates", "area"), [(RATES, 0.83), (RATES[:6], 0.415)])
def test_area_of_a_constant_is_the_constant_times_the_range(rates, area):
    assert auilc(rates, [0.83] * len(rates)) == pytest.approx(area)


def test_area_is_the_published_one():
    """EMT-DLFR's accuracies on CMU-MOSI, read off its figure, have the area that its table prints: 70.3."""
    curve = [85.0, 81.5, 79.0, 77.8, 73.6, 70.9, 68.3, 65.1, 61.2, 56.4, 53.2]
    assert auilc(RATES, curve) == pytest.approx(70.3, abs=0.05)
    assert auilc(RATES, curve) == pytest.approx(np.trapezoid(curve, RATES))


def test_rows_of_one_configuration_make_a_curve_over_seeds():
    values = {0.0: (0.6, 0.8), 0.5: (0.9, 1.1), 1.0: (1.4, 1.4)}
    records = [at(rate, mae=mae, seed=seed) for rate, maes in values.items() for seed, mae in enumerate(maes)]
    records += [at(rate, "lmf", mae=1.0, seed=seed) for rate in (0.0, 1.0) for seed in (0, 1)]
    (sweep,) = sweeps(boards(records))
    assert sweep.track == TRACK
    assert list(sweep.boards) == [0.0, 0.5, 1.0]
    areas = {rows[0.0].label: sweep.area(rows, "mae") for rows in sweep.curves()}
    assert areas == {"mult": pytest.approx(0.5 * (0.7 + 1.0) / 2 + 0.5 * (1.0 + 1.4) / 2), "lmf": None}


def test_a_row_in_which_a_trial_failed_has_no_area():
    records = [at(0.0), at(0.0, seed=2), at(0.4), at(0.4, seed=2, status="failed")]
    (sweep,) = sweeps(boards(records))
    assert [sweep.area(rows, "mae") for rows in sweep.curves()] == [None]


def test_other_settings_other_data_and_other_corruptions_are_not_mixed():
    records = [at(0.0), at(0.4, config={"lr": 0.1}), at(0.4, identity="e" * 64)]
    records.append(record(track=f"{TRACK}+noise0.5", data={"corruption": {"steps": 0.0, "noise": 0.5}}))
    (sweep,) = sweeps(boards(records))
    assert list(sweep.boards) == [0.0, 0.4]
    assert sweep.curves() == []
    assert sweeps(boards([at(0.0)])) == []


def test_a_part_of_a_seed_has_no_area_and_more_seeds_at_one_rate_change_nothing():
    (sweep,) = sweeps(boards([at(0.0), at(0.4), at(0.4, seed=2)]))
    assert [sweep.area(rows, "mae") for rows in sweep.curves()] == [pytest.approx(0.4 * 0.7)]
    (sweep,) = sweeps(boards([at(0.0, folds=2), at(0.0, folds=2, fold=1), at(0.4, folds=2)]))
    assert [sweep.area(rows, "mae") for rows in sweep.curves()] == [None]


def test_own_and_published_trials_and_those_of_other_code_have_curves_of_their_own():
    both = [at(0.0, mae=0.6), at(0.4, mae=0.8)]
    own = [at(0.0, mae=0.5, code=""), at(0.4, mae=0.7, code=""), at(0.0, mae=5.0, seed=9, code="other")]
    (sweep,) = sweeps(boards(both, own))
    assert [(rows[0.0].own, [row.mean for row in rows.values()]) for rows in sweep.curves()] == [
        (True, [0.5, 0.7]),
        (False, [0.6, 0.8]),
    ]


def test_a_rate_that_is_no_number_is_none():
    for corruption in ("all", {"steps": "many"}, {"steps": None}, ["x"]):
        data = {"corruption": corruption}
        assert sweeps(boards([record(data=data)])) == []


def test_the_page_stands_beside_its_tracks():
    texts = render([at(0.0, mae=0.7), at(0.5, mae=0.9)])
    name = f"{TRACK.replace('/', '-')}+missing-steps-curve.md"
    assert "| `mult` | 0.4000 | 0.7000 | 0.9000 |" in texts[name]
    assert name.replace("+", "%2B") in texts["README.md"]
    assert "missing-steps0.5.md" in texts[name]
    assert not any("curve" in name for name in render([at(0.5)]))
