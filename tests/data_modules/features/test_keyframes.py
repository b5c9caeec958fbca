"""The choice of key frames by sound."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import get_window, lfilter

from data_modules.features import keyframes
from data_modules.features.audio import load_audio
from data_modules.features.keyframes import MelMap, audio_guided_keyframes, best_columns, even_frames, frames_of
from data_modules.features.modes import RATE, NoModes, partition
from data_modules.schema import DataError
from tests.data_modules.media_files import noise

librosa = pytest.importorskip("librosa")
pytest.importorskip("soundfile")


def burst(at: float) -> tuple[np.ndarray, float, float]:
    """Return silence with a quarter second of four tones around a part of it, and where that begins and ends."""
    samples, length = 2 * RATE, RATE // 4
    start = int(at * samples) - length // 2
    time = np.arange(length) / RATE
    tones = sum(np.sin(2 * np.pi * pitch * time) / (n + 1) for n, pitch in enumerate((220, 700, 2100, 5200)))
    signal = np.zeros(samples)
    signal[start : start + length] = 0.4 * tones * np.hanning(length)
    return signal, start / samples, (start + length) / samples


# Mel maps, scores and columns


def test_mel_power_of_every_column():
    """Sharpened by scipy's filter, reflected, windowed and transformed column by column."""
    signal = noise(5000)
    sharp, _ = lfilter([1.0, -0.97], [1.0], signal, zi=[2 * signal[0] - signal[1]])
    padded = np.pad(sharp, 256, "reflect")
    pieces = [padded[start : start + 512] * get_window("hamming", 512) for start in range(0, 5001, 341)]
    bands = librosa.filters.mel(sr=RATE, n_fft=512, n_mels=26, htk=False, norm="slaney")
    expected = np.stack([bands @ np.abs(np.fft.rfft(piece)) ** 2 for piece in pieces], 1)
    found = MelMap.of(signal)
    assert found.power.shape == (26, 1 + 5000 // 341)
    np.testing.assert_allclose(found.power, expected, rtol=1e-4)
    np.testing.assert_allclose(found.level, 10 * np.log10(expected), atol=1e-3)


def test_levels_end_80_decibels_below_the_loudest():
    signal = np.concatenate([noise(5000), 1e-7 * noise(5000)])
    level = MelMap.of(signal).level
    assert level.min() == pytest.approx(level.max() - 80)
    assert (level[:, -4:] == level.min()).all()


@pytest.mark.parametrize("variant", ["default", "numeric", "official"])
def test_scores_by_a_loop(variant):
    random = np.random.default_rng(0)
    power = random.exponential(size=(26, 5))
    item = MelMap(power, 10 * np.log10(power) - 20)
    for column, score in enumerate(item.scores(variant)):
        levels = item.level[:, column]
        ratios = power[:, column] if variant == "default" else levels
        variance = sum((level - sum(levels) / 26) ** 2 for level in levels) / 26
        assert score == pytest.approx(variance ** (1 / 26 + max(ratios) / sum(ratios)))


def test_silent_columns_come_last():
    power = np.random.default_rng(0).exponential(size=(26, 15))
    power[:, [0, 7]] = 0.0
    scores = MelMap(power, power).scores()
    assert np.isnan(scores[[0, 7]]).all()
    assert not {0, 7} & set(best_columns(scores).tolist())


def test_columns_are_sorted_as_numbers():
    scores = np.arange(20.0)
    scores[[3, 12]] = 100.2, 99.5
    assert best_columns(scores).tolist() == [3, 12, 19, 18, 17, 16, 15, 14, 13, 11]
    two = np.array([9.5, 10.2])
    assert best_columns(two).tolist() == [1, 0]
    assert best_columns(two, "numeric").tolist() == [1, 0]
    assert best_columns(two, "official").tolist() == [0, 1]


def test_ties_go_to_the_earlier_column():
    scores = np.array([1.0, 2.0, 2.0, 1.0, 2.0])
    assert best_columns(scores).tolist() == [1, 2, 4, 0, 3]
    scores[2] += 4e-4
    assert best_columns(scores, "official").tolist() == [1, 2, 4, 0, 3]
    assert best_columns(scores, "numeric").tolist() == [2, 1, 4, 0, 3]


def test_frames_of_columns():
    assert frames_of(np.array([7, 4, 5, 4, 99]), 2.5, 30).tolist() == [1, 2]
    assert frames_of(np.array([0, 2, 3, 89]), 90 / 30, 30).tolist() == [0, 1, 29]
    for columns, frames in ((227, 90), (66, 30), (10, 30)):  # in floating point 33 / (66 / 30) is below 15
        for column in range(columns):
            found = frames_of(np.array([column]), columns / frames, frames)
            assert found.tolist() == [column * frames // columns]


# The choice


@pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
def test_a_burst_in_silence_draws_the_choice(at):
    signal, start, stop = burst(at)
    chosen = audio_guided_keyframes(signal, RATE, 90)
    assert ((chosen >= 90 * start - 2) & (chosen <= 90 * stop + 2)).mean() > 0.5


def test_the_frame_rate_decides_where_it_is_known():
    """The video ends half a second before the sound: by the numbers alone the burst would be 7 frames earlier."""
    signal, start, stop = burst(0.5)
    chosen = audio_guided_keyframes(signal, RATE, 45, fps=30.0)
    assert ((chosen >= 60 * start - 2) & (chosen <= 60 * stop + 2)).mean() > 0.5
    assert chosen[-1] < 45


def test_the_published_ratio_misses_a_late_burst():
    """It is right for 25.9 frames per second, and here are 45."""
    signal, start, _ = burst(0.8)
    assert (audio_guided_keyframes(signal, RATE, 90, "official") < 90 * start - 2).all()


@pytest.mark.parametrize(("frames", "variant"), [(30, "default"), (75, "official"), (200, "numeric")])
def test_ten_to_thirty_frames_are_chosen(frames, variant):
    chosen = audio_guided_keyframes(noise(30_000), RATE, frames, variant)
    assert len(chosen) <= 30
    assert variant == "official" or len(chosen) >= min(10, frames // 3)
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] >= 0
    assert chosen[-1] < frames


def test_clips_of_few_frames():
    assert audio_guided_keyframes(noise(22_050), RATE, 1).tolist() == [0]
    assert set(audio_guided_keyframes(noise(22_050), RATE, 3).tolist()) <= {0, 1, 2}


def test_numbers_of_the_clusters_do_not_matter(monkeypatch):
    signal = noise(33_000, 1)
    before = audio_guided_keyframes(signal, RATE, 60)
    monkeypatch.setattr("data_modules.features.modes.partition", lambda rows: (partition(rows) + 1) % 3)
    np.testing.assert_array_equal(audio_guided_keyframes(signal, RATE, 60), before)


def test_twice_the_frames_name_twice_the_indices():
    signal = noise(33_000, 2)
    single, double = (set(audio_guided_keyframes(signal, RATE, frames).tolist()) for frames in (50, 100))
    assert {frame // 2 for frame in double} == single


def test_whole_numbers_and_fractions_are_one_sound():
    levels = np.rint(np.clip(noise(22_050), -0.9, 0.9) * 32768)
    whole = audio_guided_keyframes(levels.astype(np.int16), RATE, 40)
    np.testing.assert_array_equal(whole, audio_guided_keyframes(levels / 32768, RATE, 40))


def test_sound_of_another_rate_is_resampled(monkeypatch):
    """A tone of 500 Hz at 44 100 samples per second comes to the decomposition as one at 22 050."""
    heard = []

    def hear(signal):
        heard.append(signal)
        raise NoModes("enough")

    monkeypatch.setattr(keyframes, "audio_maps", hear)
    for rate in (44_100, RATE):
        with pytest.raises(NoModes, match="enough"):
            audio_guided_keyframes(0.5 * np.sin(2 * np.pi * 500 * np.arange(rate) / rate), rate, 90)
    np.testing.assert_allclose(heard[0][500:-500], heard[1][500:-500], atol=1e-3)


@pytest.mark.parametrize("signal", [np.zeros(0), np.zeros(22_050), np.zeros(22_050, np.int16), noise(500)])
def test_sound_that_cannot_choose_says_so(signal):
    with pytest.raises(NoModes, match="its sound"):
        audio_guided_keyframes(signal, 16_000, 40)


def test_published_ratio_beyond_a_slow_video(monkeypatch):
    """Nine frames end before column 23 by the published ratio."""
    monkeypatch.setattr(keyframes, "best_columns", lambda *_: np.arange(23, 33))
    assert len(audio_guided_keyframes(noise(22_050), RATE, 9))
    with pytest.raises(NoModes, match="beyond its frames"):
        audio_guided_keyframes(noise(22_050), RATE, 9, "official")


def test_unknown_variant_and_no_frames():
    with pytest.raises(DataError, match=r"'offical'.*Did you mean 'official'"):
        audio_guided_keyframes(noise(22_050), RATE, 40, "offical")
    with pytest.raises(DataError, match="no video frames"):
        audio_guided_keyframes(noise(22_050), RATE, 0)


@pytest.mark.parametrize(("frames", "expected"), [(1, [0]), (4, [0, 1, 2, 3]), (20, [*range(1, 20, 2)])])
def test_even_frames(frames, expected):
    assert even_frames(frames).tolist() == expected


def test_real_speech_chooses(real_data):
    for path in sorted((real_data / "ravdess" / "audio").rglob("*.flac"))[::500]:
        signal = load_audio(path, 16_000)
        assert 10 <= len(audio_guided_keyframes(signal, 16_000, round(len(signal) / 16_000 * 29.97))) <= 30
