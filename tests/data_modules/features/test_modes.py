"""The decomposition of sound into modes and groups of modes, against naive loops, scipy and exhaustive search."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from scipy.interpolate import CubicSpline
from scipy.signal import savgol_filter

from data_modules.features import modes
from data_modules.features.modes import (
    RATE,
    NoModes,
    audio_maps,
    decompose,
    descriptor,
    envelope,
    partition,
    pitch_candidates,
    regroup,
    stored,
)
from tests.data_modules.media_files import noise

pytest.importorskip("librosa")
pytest.importorskip("soundfile")


def tone(hertz: float, samples: int, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * hertz * np.arange(samples) / RATE)


def parts(values: np.ndarray) -> dict[str, np.ndarray]:
    """Return a descriptor's groups by name, for a signal of 4096 samples: 13 spectra, 8 windows."""
    names = [f"{prefix}{name}" for name in ("energy", "ste", "crossings", "level") for prefix in ("", "d", "dd")]
    ends = np.cumsum([13] * 3 + [8] * 9)
    return dict(zip([*names, "voice"], np.split(values, ends), strict=True))


# Modes


def naive_envelope(signal: np.ndarray) -> np.ndarray:
    """Pad two maxima at both ends, as numpy reflects oddly, until the ends are passed."""
    at = np.array([t for t in range(1, len(signal) - 1) if signal[t - 1] < signal[t] > signal[t + 1]])
    height = signal[at]
    while True:
        at = np.pad(at, 2, "reflect", reflect_type="odd")
        height = np.pad(height, 2, "median", stat_length=1)
        if at[-1] >= len(signal) and at[0] < 0:
            return CubicSpline(at, height, bc_type="not-a-knot")(np.arange(len(signal)))


@pytest.mark.parametrize("seed", range(4))
def test_envelope_is_a_spline_through_maxima_mirrored_until_the_ends_are_passed(seed):
    signal = noise(300, seed)
    signal[: 60 * seed] = np.arange(60 * seed)[::-1] / 100 + 1  # no maximum for a while at the start
    signal[300 - 20 * seed :] = -np.arange(20 * seed) - 1
    np.testing.assert_allclose(envelope(signal), naive_envelope(signal), rtol=1e-9, atol=1e-9)


def test_mirroring_ends_where_the_ends_are_passed():
    """Few maxima near the ends, where one pair more or less is seen."""
    for seed in range(100):
        random = np.random.default_rng(seed)
        signal = np.zeros(40)
        signal[1 + 2 * random.choice(19, size=3 + seed % 3, replace=False)] = random.uniform(1, 2, 3 + seed % 3)
        np.testing.assert_allclose(envelope(signal), naive_envelope(signal), rtol=1e-9, atol=1e-9)


def test_envelope_of_two_maxima():
    signal = np.zeros(200)
    signal[[90, 101]] = 1.0, 2.0
    np.testing.assert_allclose(envelope(signal), naive_envelope(signal), rtol=1e-9, atol=1e-9)


def test_plateaus_are_no_maxima():
    signal = np.zeros(50)
    signal[[10, 11, 20, 30]] = 1.0, 1.0, 1.0, 1.0
    assert envelope(signal)[[20, 30]] == pytest.approx(1.0)
    signal[30] = 0.0
    assert envelope(signal) is None


def test_modes_add_up_to_the_signal():
    signal = noise(6000) + tone(40, 6000)
    found, rest = decompose(signal)
    assert len(found) > 3
    assert np.abs(found.sum(0) + rest - signal).max() < 1e-6 * np.abs(signal).max()
    assert np.abs(rest).max() < 1e-15  # what has no extrema is the last mode


def test_modes_beyond_the_most_are_left_over():
    signal = noise(6000)
    few, rest = decompose(signal, most=2)
    assert len(few) == 2
    np.testing.assert_array_equal(few, decompose(signal)[0][:2])
    np.testing.assert_allclose(few.sum(0) + rest, signal, atol=1e-12)
    assert np.abs(rest).max() > 0.01


def test_tones_come_apart_fastest_first():
    fast, slow = tone(1000, 8000), tone(60, 8000)
    found, _ = decompose(fast + slow)
    middle = slice(1000, 7000)
    for mode, wanted in zip(found, (fast, slow), strict=False):
        assert np.corrcoef(mode[middle], wanted[middle])[0, 1] > 0.999


def test_a_signal_without_extrema_is_its_only_mode():
    ramp = np.linspace(-1, 1, 2000)
    found, rest = decompose(ramp)
    assert found.shape == (1, 2000)
    np.testing.assert_array_equal(found[0], ramp)
    assert not rest.any()


def test_stored_sound_goes_to_the_level_below_and_is_cut():
    levels = np.array([2.0, -2.0, 1.7 / 32768, -0.3 / 32768, 0.0])
    np.testing.assert_array_equal(stored(levels) * 32768, [32767, -32768, 1, -1, 0])


# Descriptors


@pytest.mark.parametrize("samples", [1025, 2047, 3410, 4096])
def test_descriptor_length(samples):
    spectra, windows = 1 + samples // 341, -(-samples // 512)
    assert descriptor(noise(samples)).shape == (3 * spectra + 9 * windows + 4,)


def test_all_modes_of_a_clip_have_descriptors_of_one_length():
    found, _ = decompose(noise(3000))
    assert {descriptor(mode).shape for mode in found} == {(3 * 9 + 9 * 6 + 4,)}


def test_windows_are_described_one_by_one():
    signal = noise(4096)
    signal[[100, 101, 700]] = 0.0
    found = parts(descriptor(signal))
    for number in range(8):
        window = signal[512 * number : 512 * (number + 1)]
        energy = sum(value**2 for value in window)
        assert found["ste"][number] == pytest.approx(energy)
        assert found["level"][number] == pytest.approx(10 * np.log10(energy / (512 * (2e-5) ** 2)))
        assert found["crossings"][number] == sum(a * b < 0 for a, b in pairwise(window))


def test_spectra_are_described_one_by_one():
    """Against the Fourier transform of every reflected, windowed piece; the periodic Hamming window by its formula."""
    signal = noise(4096)
    padded = np.pad(signal, 256, "reflect")
    window = 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(512) / 512)
    pieces = [padded[start : start + 512] * window for start in range(0, 4097, 341)]
    expected = [np.log((np.abs(np.fft.rfft(piece)) ** 2).sum()) for piece in pieces]
    np.testing.assert_allclose(parts(descriptor(signal))["energy"], expected, rtol=1e-6)


def test_differences_are_polynomial_fits_of_width_three():
    found = parts(descriptor(noise(4096)))
    for name in ("energy", "ste", "crossings", "level"):
        for prefix, order in (("d", 1), ("dd", 2)):
            expected = savgol_filter(found[name], 3, polyorder=order, deriv=order, mode="interp")
            np.testing.assert_allclose(found[prefix + name], expected, atol=1e-9)


def test_silent_windows_count_as_the_smallest_energy():
    signal = noise(4096)
    signal[:1536] = 0.0
    found = descriptor(signal)
    assert np.isfinite(found).all()
    assert parts(found)["ste"][0] == np.finfo(float).eps


def test_pitch_is_found_frame_by_frame():
    frequency, size = pitch_candidates(modes.magnitudes(tone(220, 8192)))
    assert len(frequency) == len(size)
    assert np.abs(frequency[3:-3] - 220).max() < 2
    assert len(frequency) >= 8192 // 341


def test_a_steady_voice_has_no_jitter_and_a_warbling_one_has():
    steady, warbling = tone(220, 4096), np.concatenate([tone(200, 2048), tone(300, 2048)])
    calm, unsteady = (parts(descriptor(signal))["voice"] for signal in (steady, warbling))
    assert calm[1] < 0.1
    assert calm[1] < 0.5 * unsteady[1]


def test_jitter_and_shimmer_by_loops(monkeypatch):
    frequency, size = np.array([100.0, 125.0, 200.0]), np.array([1.0, 4.0, 2.0])
    monkeypatch.setattr(modes, "pitch_candidates", lambda _: (frequency, size))
    jitter = (abs(1 / 125 - 1 / 100) + abs(1 / 200 - 1 / 125)) / 2
    expected = [jitter, jitter / ((1 / 100 + 1 / 125 + 1 / 200) / 3), 2.5, 2.5 / (7 / 3)]
    np.testing.assert_allclose(parts(descriptor(noise(4096)))["voice"], expected)


def test_faint_candidates_are_dropped():
    """A second voice 20 times softer is above the mean of its own spectra, but below a quarter of all magnitudes."""
    loud, soft = tone(150, 8184), tone(400, 2728, 0.02)
    assert (np.abs(pitch_candidates(modes.magnitudes(soft))[0] - 400) < 5).any()
    frequency, _ = pitch_candidates(modes.magnitudes(np.concatenate([loud, soft])))
    assert (np.abs(frequency - 400) > 50).all()


def test_a_mode_without_pitch_has_no_jitter():
    found = parts(descriptor(tone(5000, 4096)))
    assert np.isnan(found["voice"]).all()
    assert all(np.isfinite(values).all() for name, values in found.items() if name != "voice")


# Groups


def error(points: np.ndarray, groups: np.ndarray) -> float:
    members = [points[groups == group] for group in set(groups.tolist())]
    return sum(float(((some - some.mean(0)) ** 2).sum()) for some in members)


@pytest.mark.parametrize("seed", range(5))
def test_partition_is_the_best_of_all(seed):
    centres = 3 * np.eye(3, 4)[[0, 1, 2, 0, 1, 2, 2]]
    points = centres + np.random.default_rng(seed).normal(size=(7, 4))
    assignments = (np.array(groups) for groups in product(range(3), repeat=7))
    best = min(error(points, groups) for groups in assignments if len(set(groups.tolist())) == 3)
    found = partition(points)
    assert set(found.tolist()) == {0, 1, 2}
    assert error(points, found) == pytest.approx(best)


def test_groups_are_numbered_by_their_first_members():
    points = np.array([[9.0], [0.0], [9.1], [5.0], [0.1], [5.1]])
    assert partition(points).tolist() == [0, 1, 0, 2, 1, 2]
    assert partition(points[::-1]).tolist() == [0, 1, 0, 2, 1, 2]


def test_partition_is_the_same_every_time():
    points = np.random.default_rng(3).normal(size=(10, 50))
    np.testing.assert_array_equal(partition(points), partition(points))


def test_equal_modes_have_no_three_groups():
    with pytest.raises(NoModes, match="do not fall into 3 groups"):
        partition(np.array([[1.0, 2.0], [1.0, 2.0], [3.0, 4.0], [3.0, 4.0]]))


def test_groups_add_up_to_the_modes():
    found, _ = decompose(noise(3000))
    summed = regroup(found, np.arange(len(found)) % 3)
    np.testing.assert_allclose(summed.sum(0), found.sum(0), atol=1e-12)
    np.testing.assert_allclose(summed[1], found[1::3].sum(0), atol=1e-12)


def test_maps_are_stored_sums_of_the_modes():
    """Each of them is at the level below, so that together they miss less than three steps of 16 bits."""
    signal = noise(12_000)
    maps = audio_maps(signal)
    assert maps.shape == (3, 12_000)
    np.testing.assert_array_equal(maps * 32768, np.rint(maps * 32768))
    missing = (decompose(signal)[0].sum(0) - maps.sum(0)) * 32768
    assert missing.min() > -1e-3
    assert missing.max() < 3


@pytest.mark.parametrize(
    ("signal", "reason"),
    [
        (noise(1024), "shorter than 46 ms"),
        (np.zeros(8000), "fewer than 3 modes"),
        (np.linspace(-1, 1, 8000), "fewer than 3 modes"),
        (noise(1400), "no pitch"),
    ],
)
def test_sound_that_cannot_be_taken_apart(signal, reason):
    with pytest.raises(NoModes, match=reason):
        audio_maps(signal)
