"""Corruption: exact draws against plain integers and published outputs, distributions against scipy."""

import itertools

import numpy as np
import pytest
from scipy import stats

from data_modules.batches import corruption as module
from data_modules.batches.corruption import Corruption, corrupt, kept_modalities, kept_steps, noise, sample_keys
from data_modules.schema import MODALITIES, DataError

WORD = 2**64 - 1


def make(samples=400, seed=0, low=1, high=60):
    """Return keys and offsets of samples of differing lengths."""
    lengths = np.random.default_rng(seed).integers(low, high, samples)
    return sample_keys(f"video{row}" for row in range(samples)), np.concatenate([[0], np.cumsum(lengths)])


def subset(rows, offsets):
    """Return the steps of some samples and their own offsets."""
    steps = np.concatenate([np.arange(offsets[row], offsets[row + 1]) for row in rows])
    return steps, np.concatenate([[0], np.cumsum(np.diff(offsets)[rows])])


def splitmix(state, counter):
    """SplitMix64 in Python integers, written from the definition."""
    bits = (state + (counter + 1) * 0x9E3779B97F4A7C15) & WORD
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & WORD
    return bits ^ (bits >> 31)


class TestDraws:
    def test_published_outputs(self):
        # The first outputs of SplitMix64 seeded with 1234567 that other implementations are checked against.
        published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
        bits = module._draw(np.full(4, 1234567, np.uint64), np.arange(4, dtype=np.uint64))
        assert bits.tolist() == published

    def test_keys_are_blake2b(self):
        # From `b2sum -l 64`, whose digest is written most significant byte last.
        digests = ["39699dbca4680320", "f04dbbe25e2ba039"]
        assert sample_keys(["video[0]", "ä"]).tolist() == [
            int.from_bytes(bytes.fromhex(digest), "little") for digest in digests
        ]

    def test_steps_against_plain_integers(self):
        keys, offsets = make(5)
        kept = kept_steps(keys, offsets, "audio", Corruption(steps=0.4, seed=7))
        tag = int(sample_keys(["7/steps/audio"])[0])
        expected = [
            (splitmix(splitmix(int(key) ^ tag, 0), step) >> 11) / 2**53 >= 0.4
            for key, length in zip(keys, np.diff(offsets), strict=True)
            for step in range(length)
        ]
        assert kept.tolist() == expected

    def test_noise_against_plain_integers(self):
        """Noise has draws of its own: those of missing steps would tie what is added to what is kept."""
        keys, offsets = make(5)
        found = noise(keys, offsets, "audio", 3, Corruption(steps=0.4, noise=0.5, seed=7))
        tag = int(sample_keys(["7/noise/audio"])[0])
        expected = [
            [0.5 * stats.norm.ppf(((splitmix(row, column) >> 12) + 0.5) / 2**52) for column in range(3)]
            for key, length in zip(keys, np.diff(offsets), strict=True)
            for step in range(length)
            for row in [splitmix(splitmix(int(key) ^ tag, 0), step)]
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


class TestIdentity:
    """The draw of (sample, modality, step) is the same whatever else is drawn."""

    @pytest.mark.parametrize("rows", [range(399, -1, -1), [3], [17, 5, 200, 6]])
    def test_subset_and_order(self, rows):
        keys, offsets = make()
        rows = np.asarray(rows)
        steps, own = subset(rows, offsets)
        setting = Corruption(steps=0.3, modalities=0.5, noise=0.7)
        present, own_present = (kept_modalities(some, MODALITIES, setting) for some in (keys, keys[rows]))
        for name in MODALITIES:
            assert (own_present[name] == present[name][rows]).all()
            whole = kept_steps(keys, offsets, name, setting, present=present[name])
            assert (kept_steps(keys[rows], own, name, setting, present=own_present[name]) == whole[steps]).all()
            values = noise(keys, offsets, name, 5, setting)
            assert noise(keys[rows], own, name, 5, setting).tobytes() == values[steps].tobytes()

    def test_longer_sequences_and_more_features_keep_their_draws(self):
        keys, _ = make(3)
        short, long = np.array([0, 4, 8, 12]), np.array([0, 9, 18, 27])
        steps = np.concatenate([np.arange(start, start + 4) for start in long[:-1]])
        setting = Corruption(steps=0.5, noise=1)
        assert (kept_steps(keys, short, "text", setting) == kept_steps(keys, long, "text", setting)[steps]).all()
        assert (noise(keys, short, "text", 2, setting) == noise(keys, long, "text", 6, setting)[steps, :2]).all()

    def test_noise_does_not_depend_on_the_block(self, monkeypatch):
        keys, offsets = make(50)
        whole = noise(keys, offsets, "text", 7, Corruption(noise=1))
        monkeypatch.setattr(module, "BLOCK", 64)
        assert noise(keys, offsets, "text", 7, Corruption(noise=1)).tobytes() == whole.tobytes()

    def test_seed_changes_every_kind_of_draw(self):
        keys, offsets = make()
        one, two = Corruption(0.5, 0.5, 1.0, seed=1), Corruption(0.5, 0.5, 1.0, seed=2)
        assert (kept_steps(keys, offsets, "text", one) != kept_steps(keys, offsets, "text", two)).mean() > 0.4
        first, second = (kept_modalities(keys, MODALITIES, setting)["text"] for setting in (one, two))
        assert (first != second).mean() > 0.3
        assert not (noise(keys, offsets, "text", 3, one) == noise(keys, offsets, "text", 3, two)).any()


class TestRates:
    @pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
    def test_share_of_missing_steps(self, rate):
        keys, offsets = make(2000)
        missing = int((~kept_steps(keys, offsets, "vision", Corruption(steps=rate))).sum())
        assert stats.binomtest(missing, int(offsets[-1]), rate).pvalue > 1e-3

    def test_rate_is_met_within_samples_and_within_positions(self):
        keys, offsets = make(3000, low=40, high=41)
        kept = kept_steps(keys, offsets, "text", Corruption(steps=0.3)).reshape(-1, 40)
        for axis, trials in ((0, 3000), (1, 40)):
            counts = kept.sum(axis)
            scores = (counts - 0.7 * trials) / np.sqrt(trials * 0.21)
            assert stats.chi2.sf((scores**2).sum(), len(scores)) > 1e-3  # as spread as binomial counts, ...
            assert stats.chi2.cdf((scores**2).sum(), len(scores)) > 1e-3  # ... and not less

    def test_modalities_steps_and_samples_are_independent(self):
        keys, offsets = make(4000, low=30, high=31)
        kept = {name: kept_steps(keys, offsets, name, Corruption(steps=0.5)).reshape(-1, 30) for name in MODALITIES}
        pairs = [(kept[a], kept[b]) for a, b in itertools.combinations(MODALITIES, 2)]
        pairs += [(kept["text"][:, :-1], kept["text"][:, 1:]), (kept["text"][:-1], kept["text"][1:])]
        for left, right in pairs:
            r = np.corrcoef(left.ravel(), right.ravel())[0, 1]
            assert abs(r) * np.sqrt(left.size) < 3.5

    @pytest.mark.parametrize("rate", [0.0, 0.2, 0.7, 1.0])
    def test_share_of_missing_modalities(self, rate):
        keys, _ = make(6000)
        kept = np.stack(list(kept_modalities(keys, MODALITIES, Corruption(modalities=rate)).values()))
        assert kept.any(0).all()
        for row in kept:
            assert stats.binomtest(int((~row).sum()), len(row), rate - rate**3 / 3).pvalue > 1e-3
        if rate < 1:
            # Where nothing had to be brought back the modalities are independent: all three stay with (1 - rate)^3.
            assert stats.binomtest(int(kept.all(0).sum()), kept.shape[1], (1 - rate) ** 3).pvalue > 1e-3

    def test_only_modality_always_stays(self):
        keys, _ = make(100)
        assert kept_modalities(keys, ("audio",), Corruption(modalities=1.0))["audio"].all()

    def test_masks_are_nested(self):
        keys, offsets = make()
        rates = np.linspace(0, 1, 11)
        steps = [kept_steps(keys, offsets, "audio", Corruption(steps=rate)) for rate in rates]
        for lower, higher in itertools.pairwise(steps):
            assert (lower | ~higher).all()
            assert lower.sum() > higher.sum()
        chosen = [
            np.stack([*kept_modalities(keys, MODALITIES, Corruption(modalities=rate)).values()]) for rate in rates
        ]
        for lower, higher in itertools.pairwise(chosen):
            assert (lower | ~higher).all()
        assert (chosen[0].sum(0) == 3).all()
        assert (chosen[-1].sum(0) == 1).all()

    def test_missing_modality_misses_every_step(self):
        keys, offsets = make()
        setting = Corruption(steps=0.2, modalities=0.5)
        present = kept_modalities(keys, MODALITIES, setting)["audio"]
        kept = kept_steps(keys, offsets, "audio", setting, present=present)
        lengths = np.diff(offsets)
        assert not kept[np.repeat(~present, lengths)].any()
        alone = kept_steps(keys, offsets, "audio", setting)
        assert (kept == alone)[np.repeat(present, lengths)].all()

    @pytest.mark.parametrize("present", [None, np.zeros(400, bool)])
    def test_first_and_last_token_stay(self, present):
        keys, offsets = make()
        kept = kept_steps(keys, offsets, "text", Corruption(steps=1.0), tokens=True, present=present)
        expected = np.zeros(offsets[-1], bool)
        expected[offsets[:-1]] = expected[offsets[1:] - 1] = True
        assert (kept == expected).all()


class TestNoise:
    def test_is_normal(self):
        keys, offsets = make(300)
        values = noise(keys, offsets, "audio", 6, Corruption(noise=0.5))
        assert values.dtype == np.float32
        assert values.shape == (offsets[-1], 6)
        assert stats.kstest(values.ravel() / 0.5, "norm").pvalue > 1e-3
        assert stats.skewtest(values.ravel()).pvalue > 1e-3
        assert stats.kurtosistest(values.ravel()).pvalue > 1e-3

    def test_columns_steps_and_modalities_are_independent(self):
        keys, offsets = make(300)
        one, two = (noise(keys, offsets, name, 4, Corruption(noise=1)) for name in ("text", "audio"))
        bound = 4 / np.sqrt(len(one))
        table = np.corrcoef(np.concatenate([one[1:], one[:-1], two[1:]], axis=1).T)
        assert (np.abs(table - np.eye(12)) < bound).all()

    def test_scales_with_the_level(self):
        keys, offsets = make(20)
        one, two = (noise(keys, offsets, "text", 4, Corruption(noise=level)) for level in (0.5, 1.0))
        assert np.allclose(2 * one, two, rtol=1e-6)


class TestCorrupt:
    def test_rate_zero_changes_no_bit(self):
        keys, offsets = make(20)
        values = np.random.default_rng(0).standard_normal((offsets[-1], 3)).astype(np.float32)
        values[:5] = -0.0
        setting = Corruption()
        present = kept_modalities(keys, MODALITIES, setting)["audio"]
        kept = kept_steps(keys, offsets, "audio", setting, present=present)
        result = corrupt(values, kept, noise(keys, offsets, "audio", 3, setting))
        assert kept.all()
        assert result is not values
        assert result.tobytes() == values.tobytes()

    def test_missing_features_are_zero_vectors_and_others_untouched(self):
        values = np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32)
        before = values.copy()
        kept = np.array([True, False, True, True, False, False])
        result = corrupt(values, kept)
        assert (values == before).all()
        assert (result[~kept] == 0).all()
        assert (result[kept] == before[kept]).all()
        assert result.dtype == np.float32

    def test_noise_is_added_to_kept_steps_only(self):
        kept, added = np.array([True, False]), np.array([[0.5, 1.0], [2.0, 3.0]], np.float32)
        assert corrupt(np.ones((2, 2), np.float32), kept, added).tolist() == [[1.5, 2.0], [0.0, 0.0]]

    def test_missing_tokens_are_unknown_tokens(self):
        tokens = np.array([101, 7, 8, 102])
        kept = np.array([True, False, True, True])
        assert corrupt(tokens, kept, unknown=100).tolist() == [101, 100, 8, 102]
        assert corrupt(np.ones((2, 3, 4, 4), np.uint8), np.array([False, True])).sum((1, 2, 3)).tolist() == [0, 48]

    def test_noise_on_tokens_is_refused(self):
        with pytest.raises(DataError, match="token ids"):
            corrupt(np.array([1, 2]), np.array([True, True]), np.zeros(2, np.float32))


class TestSetting:
    @pytest.mark.parametrize(
        ("setting", "variant"),
        [
            (Corruption(), ""),
            (Corruption(seed=3), ""),
            (Corruption(steps=0.3), "missing-steps0.3"),
            (Corruption(steps=0.1 + 0.2), "missing-steps0.3"),
            (Corruption(modalities=1), "missing-modalities1"),
            (
                Corruption(0.5, 0.25, 0.1, seed=3),
                "missing-steps0.5+missing-modalities0.25+noise0.1+seed3",
            ),
        ],
    )
    def test_variant(self, setting, variant):
        assert setting.variant == variant
        assert bool(setting) == bool(variant)

    @pytest.mark.parametrize("wrong", [{"steps": -0.1}, {"steps": 1.1}, {"modalities": float("nan")}])
    def test_rates_are_checked(self, wrong):
        with pytest.raises(DataError, match="from 0 to 1"):
            Corruption(**wrong)

    @pytest.mark.parametrize("wrong", [-1.0, float("inf"), float("nan")])
    def test_noise_is_checked(self, wrong):
        with pytest.raises(DataError, match="finite standard deviation"):
            Corruption(noise=wrong)
