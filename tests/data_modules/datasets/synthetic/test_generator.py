"""The generated set: ceilings by formulas and by trees fitted to the true causes, recovery by scipy's DCT."""

import hashlib
import itertools

import numpy as np
import pytest
from scipy.fft import dct
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from data_modules.datasets.synthetic import generator
from data_modules.datasets.synthetic.generator import CAUSES, MODALITIES, ceilings, write_synthetic
from data_modules.schema import DataError

SUBSETS = [subset for size in (1, 2, 3) for subset in itertools.combinations(MODALITIES, size)]
KINDS = ("regression", "multiclass", "multilabel", "binary")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_synthetic(tmp_path_factory.mktemp("synthetic") / "synthetic.h5")


@pytest.fixture(scope="module")
def causes(store):
    """Return the true causes: the first draws of the seed."""
    return generator.draw_causes(len(store), np.random.PCG64(generator.SEED))


@pytest.fixture(scope="module")
def averages(store):
    """Return by modality ``(N, D)`` the average and the slope over time."""
    result = {}
    for name in MODALITIES:
        values, offsets = store.read(name, np.arange(len(store)))
        spans = np.split(values.astype(float), offsets[1:-1])
        slopes = []
        for span in spans:
            time = np.arange(len(span))
            slopes.append(np.mean(span * ((time - time.mean()) / time.std())[:, None], axis=0))
        result[name] = np.stack([span.mean(0) for span in spans]), np.stack(slopes)
    return result


@pytest.fixture(scope="module")
def averaged_splits(store, averages):
    """Return features that are averages over time and labels of the training and the test split."""
    rows = store.rows("standard", 0)
    features = np.concatenate([mean for mean, _ in averages.values()], axis=1)
    return [(features[rows[name]], store.targets[rows[name]]) for name in ("train", "test")]


@pytest.fixture(scope="module")
def population():
    """Return causes and scores of many samples, drawn and summed here."""
    random = np.random.default_rng(5)
    drawn = {
        **{f"{name}_level": random.integers(-2, 3, 180_000) / 2 for name in MODALITIES},
        **{f"{name}_sign": random.choice([-1.0, 1.0], 180_000) for name in MODALITIES},
        **{name: random.integers(-1, 2, 180_000).astype(float) for name in ("vision_trend", "label_noise")},
    }
    score = 0.7 * drawn["text_level"] + 0.5 * drawn["audio_level"] + 0.4 * drawn["vision_level"]
    score += 0.2 * drawn["vision_trend"] + 0.2 * drawn["label_noise"]
    score += drawn["audio_sign"] * (0.6 * drawn["text_sign"] + 0.4 * drawn["vision_sign"])
    return drawn, np.round(score, 2)


def seen_causes(drawn, subset):
    return np.stack([values for name, values in drawn.items() if name.split("_")[0] in subset], axis=1)


class TestCeilings:
    # Variances: levels 1/2, trend 2/3, signs 1, noise 2/3; explained over total is the best squared correlation.
    TOTAL = 0.49 / 2 + 0.25 / 2 + 0.16 / 2 + 0.04 * 2 / 3 + 0.36 + 0.16 + 0.04 * 2 / 3
    TEXT, AUDIO, VISION = 0.49 / 2, 0.25 / 2, 0.16 / 2 + 0.04 * 2 / 3

    @pytest.mark.parametrize(
        ("subset", "explained"),
        [
            (("text",), TEXT),
            (("audio",), AUDIO),
            (("vision",), VISION),
            (("text", "audio"), TEXT + AUDIO + 0.36),
            (("text", "vision"), TEXT + VISION),
            (("audio", "vision"), AUDIO + VISION + 0.16),
            (("text", "audio", "vision"), TEXT + AUDIO + VISION + 0.36 + 0.16),
        ],
    )
    def test_correlation_is_explained_variance(self, subset, explained):
        assert ceilings("regression")[subset]["corr"] == pytest.approx((explained / self.TOTAL) ** 0.5, abs=1e-12)

    def test_without_products_or_order(self):
        unimodal = self.TEXT + self.AUDIO + self.VISION
        for order, products, explained in (
            (True, False, unimodal),
            (False, True, self.TOTAL - 2 * 0.04 * 2 / 3),
            (False, False, unimodal - 0.04 * 2 / 3),
        ):
            found = ceilings("regression", order=order, products=products)[MODALITIES]["corr"]
            assert found == pytest.approx((explained / self.TOTAL) ** 0.5, abs=1e-12)

    def test_mean_absolute_error_by_hand(self):
        # All three: only the noise is left, 0.2 in two of three cases. Without products |0.6 a + 0.4 b| is added,
        # which is 1 or 0.2, and further than the noise from 0 or equal to it. Text and audio: 0.4 b, vision and noise.
        assert ceilings("regression")[MODALITIES]["mae"] == pytest.approx(0.2 * 2 / 3, abs=1e-12)
        assert ceilings("regression", products=False)[MODALITIES]["mae"] == pytest.approx(0.6, abs=1e-12)

    @pytest.mark.parametrize("subset", SUBSETS)
    def test_regression_is_what_a_tree_on_the_causes_reaches(self, population, subset):
        drawn, score = population
        features = seen_causes(drawn, subset)
        best = ceilings("regression")[subset]
        # Every distribution that is left is symmetric, so that its mean is a median too.
        found = DecisionTreeRegressor().fit(features[:150_000], score[:150_000]).predict(features[150_000:])
        truth = score[150_000:]
        assert np.abs(found - truth).mean() == pytest.approx(best["mae"], abs=0.012)
        assert np.corrcoef(found, truth)[0, 1] == pytest.approx(best["corr"], abs=0.012)

    @pytest.mark.parametrize("subset", SUBSETS)
    def test_classes_are_what_a_tree_on_the_causes_reaches(self, population, subset):
        drawn, score = population
        features = seen_causes(drawn, subset)
        opposite = {
            "ironic": drawn["text_sign"] != drawn["audio_sign"],
            "masked": drawn["audio_sign"] != drawn["vision_sign"],
        }
        labels = {
            ("regression", "acc2_has0"): score >= 0,
            ("regression", "acc7"): np.rint(score),
            ("multiclass", "wa"): np.searchsorted([-0.7, 0, 0.7], score, side="right"),
            **{("multilabel", f"acc/{name}"): values for name, values in {"positive": score > 0, **opposite}.items()},
        }
        accuracies = {}
        for key, truth in labels.items():
            tree = DecisionTreeClassifier().fit(features[:150_000], truth[:150_000])
            accuracies[key] = (tree.predict(features[150_000:]) == truth[150_000:]).mean()
            # A tree is a little worse where classes are nearly as likely as one another.
            assert accuracies[key] == pytest.approx(ceilings(key[0])[subset][key[1]], abs=0.012)
        mean = np.mean([accuracies["multilabel", f"acc/{name}"] for name in generator.TARGETS["binary"].names])
        assert ceilings("binary")[subset]["acc"] == pytest.approx(mean, abs=0.012)

    def test_more_modalities_are_never_worse(self):
        for kind in KINDS:
            table = ceilings(kind)
            assert list(table) == SUBSETS
            for small, large in itertools.permutations(SUBSETS, 2):
                if set(small) < set(large):
                    for metric, value in table[small].items():
                        gain = table[large][metric] - value
                        assert (-gain if metric == "mae" else gain) > -1e-12


class TestSequences:
    def test_causes_can_be_recovered(self, averages, causes):
        for name, (mean, slope) in averages.items():
            mean, slope = dct(mean, norm="ortho"), dct(slope, norm="ortho")
            np.testing.assert_allclose(mean[:, 1], causes[f"{name}_level"], atol=0.002)
            np.testing.assert_allclose(mean[:, 2], causes[f"{name}_sign"], atol=0.002)
            if f"{name}_trend" in causes:
                np.testing.assert_allclose(slope[:, 3], causes[f"{name}_trend"], atol=0.002)
                assert np.abs(mean[:, 3]).max() < 0.002

    def test_labels_follow_from_the_causes(self, store, causes):
        score = generator.targets("regression", causes)
        np.testing.assert_array_equal(store.targets, score.astype(np.float32))
        assert np.abs(store.targets).max() <= 3
        assert np.allclose(np.rint(store.targets * 20), store.targets * 20, atol=1e-4)

    def test_no_modality_alone_says_anything_of_a_product_or_of_the_noise(self, averages, causes):
        hidden = {"label_noise": causes["label_noise"]}
        hidden |= {
            f"{a} {b}": causes[f"{a}_sign"] * causes[f"{b}_sign"] for a, b in itertools.combinations(MODALITIES, 2)
        }
        for pair in averages.values():
            features = np.concatenate(pair, axis=1)
            for truth in hidden.values():
                # Under independence the explained share is Beta distributed around features / samples.
                share = LinearRegression().fit(features, truth).score(features, truth)
                assert share < 2 * features.shape[1] / len(truth)
        assert causes.keys() == CAUSES.keys()

    def test_lengths_are_not_aligned(self, store):
        assert not store.aligned
        lengths = {name: np.diff(offsets) for name, offsets in store.offsets.items()}
        assert {name: (found.min(), found.max()) for name, found in lengths.items()} == generator.LENGTHS
        table = np.corrcoef(np.stack(list(lengths.values())))
        assert np.abs(table - np.eye(3)).max() < 4 / len(store) ** 0.5
        assert store.spec("standard").dims == generator.DIMS

    def test_noise_has_unit_variance(self):
        noise = generator.near_normal(50_000, 4, np.random.PCG64(3))
        assert noise.mean() == pytest.approx(0, abs=0.01)
        assert noise.var() == pytest.approx(1, abs=0.01)
        assert np.abs(np.corrcoef(noise.T) - np.eye(4)).max() < 0.02


class TestLearnable:
    """What simple models reach on averages over time; the test split's own scatter is about 0.02."""

    def test_linear_model_reaches_the_sum_of_the_parts_only(self, averaged_splits):
        (features, truth), (test, expected) = averaged_splits
        found = LinearRegression().fit(features, truth).predict(test)
        limit = ceilings("regression", order=False, products=False)[MODALITIES]["corr"]
        assert np.corrcoef(found, expected)[0, 1] == pytest.approx(limit, abs=0.06)

    def test_small_network_comes_near_the_ceiling(self, averaged_splits):
        (features, truth), (test, expected) = averaged_splits
        network = MLPRegressor(
            hidden_layer_sizes=(64,), learning_rate_init=3e-3, alpha=0.01, early_stopping=True, random_state=0
        )
        found = network.fit(features, truth).predict(test)
        limits = ceilings("regression", order=False)[MODALITIES]
        assert limits["corr"] - 0.03 < np.corrcoef(found, expected)[0, 1] < limits["corr"] + 0.01
        assert limits["mae"] - 0.02 < np.abs(found - expected).mean() < limits["mae"] + 0.09


class TestStore:
    def test_same_seed_same_identity(self, tmp_path):
        made = [
            write_synthetic(tmp_path / f"{n}.h5", samples=(20, 5, 5), seed=seed) for n, seed in enumerate((3, 3, 4))
        ]
        assert made[0].identity == made[1].identity != made[2].identity
        made[0].verify()

    def test_bytes_are_the_same_on_every_machine(self, tmp_path):
        # Not an expected value but an anchor: a change means that results on older copies no longer compare.
        store = write_synthetic(tmp_path / "small.h5", samples=(20, 5, 5), seed=3)
        digest = hashlib.sha256()
        for name in MODALITIES:
            values, offsets = store.read(name, np.arange(len(store)))
            digest.update(values.astype("<f4").tobytes() + offsets.astype("<i8").tobytes())
        digest.update(store.targets.astype("<f4").tobytes())
        assert digest.hexdigest()[:16] == "f61f47bdc8cc5ca4"

    def test_values_are_exact_multiples(self, store):
        for name in MODALITIES:
            values = store.read(name, np.arange(len(store)))[0].astype(float) * 2**20
            assert (values == np.rint(values)).all()

    def test_kinds_share_their_inputs(self, tmp_path):
        made = {kind: write_synthetic(tmp_path / f"{kind}.h5", kind=kind, samples=(90, 9, 9)) for kind in KINDS}
        rows = np.arange(108)
        for kind, store in made.items():
            assert store.feature_set == store.target.kind == kind
            for name in MODALITIES:
                assert (store.read(name, rows)[0] == made["regression"].read(name, rows)[0]).all()
        assert made["multiclass"].targets.dtype == made["binary"].targets.dtype == np.int64
        assert made["multilabel"].targets.dtype == np.float32
        assert set(made["multiclass"].targets) == {0, 1, 2, 3}
        assert made["binary"].targets.shape == (108, 3)
        assert (made["binary"].targets == made["multilabel"].targets).all()
        assert (made["binary"].targets[:, 0] == (made["regression"].targets > 0)).all()
        causes = generator.draw_causes(108, np.random.PCG64(generator.SEED))
        assert (made["binary"].targets[:, 1] == (causes["text_sign"] != causes["audio_sign"])).all()
        assert (made["binary"].targets[:, 2] == (causes["audio_sign"] != causes["vision_sign"])).all()
        shares = np.bincount(
            generator.targets("multiclass", generator.draw_causes(40_000, np.random.PCG64(0))).astype(int)
        )
        assert (np.abs(shares / 40_000 - 0.25) < 0.02).all()

    def test_splits_share_no_video_and_no_speaker(self, store):
        rows = store.rows("standard", 0)
        assert tuple(len(part) for part in rows.values()) == generator.SAMPLES
        for one, two in itertools.combinations(rows.values(), 2):
            assert not set(store.groups[one]) & set(store.groups[two])
            assert not set(store.speakers[one]) & set(store.speakers[two])
        for video in set(store.groups):
            assert len(set(store.speakers[store.groups == video])) == 1
        assert len(set(store.groups)) == 210
        assert len(set(store.speakers)) == 70

    def test_smallest_set(self, tmp_path):
        assert len(write_synthetic(tmp_path / "tiny.h5", samples=(1, 1, 1))) == 3

    @pytest.mark.parametrize("wrong", [{"kind": "ordinal"}, {"seed": -1}, {"samples": (10, 0, 10)}])
    def test_wrong_requests_are_refused(self, tmp_path, wrong):
        with pytest.raises(DataError, match="ynthetic"):
            write_synthetic(tmp_path / "wrong.h5", **wrong)
        assert not list(tmp_path.iterdir())
