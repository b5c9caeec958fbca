"""Events that meet at a lag: ceilings by hand and by trees, signs recovered by scipy's DCT, nothing told by less."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict

import numpy as np
import pytest
from scipy.fft import dct
from sklearn.linear_model import RidgeCV
from sklearn.tree import DecisionTreeRegressor

from data_modules.datasets.synthetic import lag as module
from data_modules.datasets.synthetic.lag import EVENTS, LAG, ceilings, lag_of, write_lag
from data_modules.schema import MODALITIES, DataError
from data_modules.store import FeatureStore

STEPS = EVENTS + LAG
ONE, ALL = "one modality", "text + audio + vision"
TOGETHER = "simultaneous steps without their order"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return write_lag(tmp_path_factory.mktemp("lag") / "lag.h5")


@pytest.fixture(scope="module")
def said(store: FeatureStore) -> dict[str, np.ndarray]:
    """Return by modality ``(N, STEPS)`` what is said in each step: -1, 0 or 1."""
    found = {}
    for name in MODALITIES:
        values, _ = store.read(name, np.arange(len(store)))
        # The direction of a part is the next row of the transform, as its first, the constant, comes last.
        parts = dct(values.astype(float), norm="ortho").reshape(len(store), STEPS, -1)[..., 1:3]
        assert np.abs(parts - parts.round()).max() < 0.01
        assert (np.abs(parts[..., 0]).round() == parts[..., 1].round()).all()
        found[name] = parts[..., 0].round()
    return found


def test_ceilings_by_hand() -> None:
    # Four equally likely levels from -2.4 to 2.4, and noise of 0.3 in two of three cases.
    levels = np.array([-2.4, -0.8, 0.8, 2.4])
    assert ceilings()[ALL]["mae"] == pytest.approx(0.2, abs=1e-12)
    assert ceilings()[ALL]["corr"] == pytest.approx((levels.var() / (levels.var() + 0.06)) ** 0.5, abs=1e-12)
    labels = levels[:, None] + [-0.3, 0, 0.3]
    for nothing in (ONE, "all without the order of steps"):
        assert ceilings()[nothing]["mae"] == pytest.approx(np.abs(labels).mean(), abs=1e-12)
        assert ceilings()[nothing]["corr"] == pytest.approx(0, abs=1e-12)
        assert ceilings()[nothing]["acc2_has0"] == pytest.approx((labels >= 0).mean(), abs=1e-12)


def test_no_modality_alone_says_anything() -> None:
    """Every order of its signs is equally likely, whatever the label."""
    for place in (0, 1):
        chances: dict[int, Counter[tuple[int, ...]]] = defaultdict(Counter)
        for *orders, agreeing, chance in module._states():
            chances[agreeing][orders[place]] += chance
        for found in chances.values():
            assert len(found) == 20
            assert list(found.values()) == pytest.approx([1 / 4 / 20] * 20)


def test_events_are_those_of_the_label(store: FeatureStore, said: dict[str, np.ndarray]) -> None:
    audio, vision, text = (said[name] for name in ("audio", "vision", "text"))
    for signs in said.values():
        assert (np.sort(signs, 1) == [-1, -1, -1, 0, 1, 1, 1]).all()
    assert (audio[:, EVENTS:] == 0).all()
    assert (vision[:, :LAG] == 0).all()
    agreeing = (audio[:, :EVENTS] == vision[:, LAG:]).sum(1)
    noise = store.targets - 2.4 * (agreeing / 3 - 1)
    assert np.abs(noise / 0.3 - (noise / 0.3).round()).max() < 1e-5
    counts = np.unique((noise / 0.3).round(), return_counts=True)
    assert list(counts[0]) == [-1, 0, 1]
    assert counts[1] == pytest.approx(len(store) / 3, rel=0.1)
    starts = (text != 0).argmax(1)
    assert set(starts) == {0, LAG}  # as audio and vision, or its silence would tell their ends apart from the rest
    assert store.aligned
    assert store.spec("standard").track == "synthetic/lag/standard"


@pytest.mark.parametrize("lag", [LAG, 2])
def test_a_tree_on_simultaneous_steps_reaches_their_ceiling(lag: int) -> None:
    random = np.random.default_rng(2)
    size = 120_000
    plus = random.integers(0, 4, size)
    audio = np.where(random.random((size, EVENTS)).argsort(1) < 3, 1, -1)
    vision = np.empty_like(audio)
    for sign, count in ((1, plus), (-1, 3 - plus)):
        ranks = random.random((size, 3)).argsort(1).argsort(1)
        vision[audio == sign] = np.where(ranks < count[:, None], 1, -1).ravel()
    score = 2.4 * (2 * plus / 3 - 1) + 0.3 * random.integers(-1, 2, size)
    nothing = np.zeros((size, lag), dtype=int)
    pairs = 3 * np.concatenate([audio, nothing], 1) + np.concatenate([nothing, vision], 1)
    counts = np.stack([(pairs == pair).sum(1) for pair in range(-4, 5)], 1)
    half = size // 2
    found = DecisionTreeRegressor(min_samples_leaf=50).fit(counts[:half], score[:half]).predict(counts[half:])
    # The best for the mean error is a median; of these distributions means come near to it.
    assert np.abs(found - score[half:]).mean() == pytest.approx(ceilings(lag)[TOGETHER]["mae"], abs=0.03)
    assert np.corrcoef(found, score[half:])[0, 1] == pytest.approx(ceilings(lag)[TOGETHER]["corr"], abs=0.03)


def test_only_products_at_the_lag_tell_the_label(store: FeatureStore, said: dict[str, np.ndarray]) -> None:
    rows = store.rows("standard", 0)

    def correlation(features: np.ndarray) -> float:
        model = RidgeCV(np.logspace(-2, 4, 13)).fit(features[rows["train"]], store.targets[rows["train"]])
        return np.corrcoef(model.predict(features[rows["test"]]), store.targets[rows["test"]])[0, 1]

    every = np.concatenate(list(said.values()), 1)
    assert abs(correlation(every)) < 0.15
    assert correlation(said["audio"][:, :EVENTS] * said["vision"][:, LAG:]) > 0.98
    for other in (0, 2, 3):
        products = said["audio"][:, : STEPS - other] * said["vision"][:, other:]
        assert correlation(products) < ceilings()[TOGETHER]["corr"] + 0.15
    assert abs(correlation(said["audio"] * said["text"])) < 0.2


def test_bytes_are_the_same_on_every_machine(tmp_path) -> None:
    # Not an expected value but an anchor: a change means that results on older copies no longer compare.
    store = write_lag(tmp_path / "small.h5", samples=(20, 5, 5), seed=3)
    digest = hashlib.sha256()
    for name in MODALITIES:
        values, offsets = store.read(name, np.arange(len(store)))
        assert (values.astype(float) * 2**20 == np.rint(values.astype(float) * 2**20)).all()
        digest.update(values.astype("<f4").tobytes() + offsets.astype("<i8").tobytes())
    digest.update(store.targets.astype("<f4").tobytes())
    assert digest.hexdigest()[:16] == "1041d3478da8c7f0"


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"samples": (0, 1, 1)}])
def test_bad_arguments(wrong: dict, tmp_path) -> None:
    with pytest.raises(DataError, match="a seed from 0 on and samples in each split"):
        write_lag(tmp_path / "x.h5", **wrong)
    assert not (tmp_path / "x.h5").exists()


def test_another_lag_is_another_feature_set(tmp_path) -> None:
    store = write_lag(tmp_path / "lag3.h5", samples=(20, 5, 5), lag=3)
    assert store.spec("standard").track == "synthetic/lag3/standard"
    assert {modality.max_length for modality in store.modalities.values()} == {EVENTS + 3}
    assert (lag_of("lag"), lag_of("lag3"), lag_of("regression"), lag_of("lags")) == (LAG, 3, None, None)
    for lag in (0, EVENTS + 1):
        with pytest.raises(DataError, match=rf"A lag of {lag} steps is longer than audio speaks, or none: give 1 to 6"):
            write_lag(tmp_path / "x.h5", lag=lag)
