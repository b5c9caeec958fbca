"""VCAN's choice of key frames against numbers of the official scripts; see ``tests/golden/vcan/README.md``."""

from __future__ import annotations

import numpy as np
import pytest

from data_modules.features import modes
from data_modules.features.keyframes import MelMap, audio_guided_keyframes, best_columns, frames_of
from data_modules.features.modes import (
    RATE,
    audio_maps,
    decompose,
    descriptor,
    magnitudes,
    partition,
    pitch_candidates,
    regroup,
    stored,
)
from tests.golden.cases import Case

pytest.importorskip("librosa")
pytest.importorskip("soundfile")

CASE = Case.load("vcan")
CONFIG = CASE.info["config"]
GROUPS = ("E", "dE", "ddE", "STE", "dSTE", "ddSTE", "ZCR", "dZCR", "ddZCR", "SPL", "dSPL", "ddSPL")
VARIANTS = ("official", "numeric", "default")
SIGNALS = ("wave", "r0", "r1", "r2")
WITHIN = {"rtol": 1e-4, "atol": 1e-5}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def golden(name: str) -> np.ndarray:
    return CASE.arrays[f"outputs.{name}"]


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    return CASE.arrays["inputs.wave"] / 32768


@pytest.fixture(scope="module")
def found(wave) -> np.ndarray:
    return decompose(wave)[0]


@pytest.fixture(scope="module")
def maps(wave) -> dict[str, MelMap]:
    return {name: MelMap.of(signal) for name, signal in zip(SIGNALS, (wave, *audio_maps(wave)), strict=True)}


def test_modes(wave, found):
    assert len(found) == golden("imf_total")
    np.testing.assert_allclose(found[:, ::32], golden("imf_every32nd"), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), golden("imf_norm"), atol=1e-6)
    assert np.abs(found.sum(0) - wave).max() <= golden("imf_sum_minus_wave_max_abs") + 1e-12


def test_sifting_steps(wave, monkeypatch):
    """A mode tries its two envelopes once a step; the last one, which has none, counts no step."""
    drawn, steps = [], []
    envelope, sift = modes.envelope, modes._sift

    def draw(signal):
        drawn.append(envelope(signal))
        return drawn[-1]

    def count(signal):
        drawn.clear()
        found = sift(signal)
        pairs = zip(drawn[::2], drawn[1::2], strict=True)
        steps.append(sum(upper is not None and lower is not None for upper, lower in pairs))
        return found

    monkeypatch.setattr(modes, "envelope", draw)
    monkeypatch.setattr(modes, "_sift", count)
    decompose(wave)
    assert steps == golden("imf_iterations").tolist()


def test_descriptors_of_the_wave(wave):
    expected = [golden(f"wave.descriptor.{name}") for name in (*GROUPS, "jitter_abs_rel_shimmer_abs_rel")]
    np.testing.assert_allclose(descriptor(wave), np.concatenate(expected), **WITHIN)
    assert [len(part) for part in expected] == [66] * 3 + [44] * 9 + [4]


def test_pitch_candidates_of_the_wave(wave):
    frequency, size = pitch_candidates(magnitudes(wave))
    assert len(frequency) == golden("wave.f0_candidates_count")
    np.testing.assert_allclose(frequency[:40], golden("wave.f0_candidates_first40"), **WITHIN)
    np.testing.assert_allclose(size[:40], golden("wave.f0_magnitudes_first40"), **WITHIN)
    decibels = np.abs(np.diff(20 * np.log10(size))).mean()  # of all magnitudes, which the official shimmer is not
    np.testing.assert_allclose(decibels, golden("wave.shimmer_db_repaired"), **WITHIN)


def test_descriptors_of_the_modes(found):
    descriptors = np.stack([descriptor(stored(mode)) for mode in found])
    np.testing.assert_allclose(descriptors, golden("descriptors"), **WITHIN)
    spread = ((descriptors - descriptors.mean(0)) ** 2).sum(0)
    starts = np.cumsum([0] + [66] * 3 + [44] * 9)
    share = np.add.reduceat(spread, starts) / spread.sum()
    np.testing.assert_allclose(share, golden("descriptor_variance_share"), rtol=1e-3)


def test_partition_whatever_the_seed():
    for seed in range(20):
        np.testing.assert_array_equal(partition(golden("descriptors"), seed), golden("partition"))


def test_reconstruction(wave, found):
    signals = regroup(found, golden("partition"))
    np.testing.assert_allclose(signals[:, ::32], golden("r_every32nd"), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(signals, axis=1), golden("r_norm"), atol=1e-6)
    levels = np.rint(audio_maps(wave) * 32768).astype(np.int64)
    np.testing.assert_array_equal(levels[:, ::32], golden("r_pcm16_every32nd"))
    np.testing.assert_array_equal(np.abs(levels).sum(1), golden("r_pcm16_abs_sum"))


@pytest.mark.parametrize("name", SIGNALS)
def test_mel_maps(maps, name):
    np.testing.assert_allclose(maps[name].level, golden(f"{name}.mel_db"), atol=1e-3)


@pytest.mark.parametrize("name", SIGNALS)
@every_variant
def test_scores_and_columns(maps, name, variant):
    scores, expected = maps[name].scores(variant), golden(f"{name}.{variant}.scores")
    if variant == "official":
        assert [f"{score:.3f}" for score in scores] == expected.tolist()
    else:
        np.testing.assert_allclose(scores, expected, rtol=1e-4)
    columns = best_columns(scores, variant)
    np.testing.assert_array_equal(columns, golden(f"{name}.{variant}.top10_columns"))
    frames = golden(f"{name}.{variant}.top10_frames_ratio_2.5")
    np.testing.assert_array_equal(frames_of(columns, 2.5, CONFIG["video_frames"]), np.unique(frames))


@every_variant
def test_union_of_the_three_maps(maps, variant):
    columns = np.concatenate([best_columns(maps[name].scores(variant), variant) for name in SIGNALS[1:]])
    np.testing.assert_array_equal(np.unique(columns), golden(f"union.{variant}.columns"))
    frames, exact = CONFIG["video_frames"], RATE / 341 / CONFIG["fps_of_the_exact_ratio"]
    np.testing.assert_array_equal(frames_of(columns, 2.5, frames), golden(f"union.{variant}.frames_ratio_2.5"))
    np.testing.assert_array_equal(frames_of(columns, exact, frames), golden(f"union.{variant}.frames_exact_ratio"))


def test_whole_pipeline_chooses_the_frames_that_the_scripts_saved():
    saved = audio_guided_keyframes(CASE.arrays["inputs.wave"], RATE, CONFIG["video_frames"], "official")
    np.testing.assert_array_equal(saved, golden("script.saved_frames"))


@pytest.mark.parametrize("variant", ["numeric", "default"])
def test_whole_pipeline_with_the_frame_rate(variant):
    fps = CONFIG["fps_of_the_exact_ratio"]
    found = audio_guided_keyframes(CASE.arrays["inputs.wave"], RATE, CONFIG["video_frames"], variant, fps)
    np.testing.assert_array_equal(found, golden(f"union.{variant}.frames_exact_ratio"))
