"""Sound in modes: empirical mode decomposition, and the modes in three groups of like sound (VCAN's AFMM).

Chen, Zhou, Li, Zhou, "Video-based Cross-modal Auxiliary Network for Multimodal Sentiment Analysis", IEEE TCSVT 2022,
arXiv 2208.13954. Written from the formulas of the module as published (rongfei-chen/VCAN), and equal to its numbers; no
code is taken over. What differs: the clustering has a fixed seed, and a clip that cannot be taken apart concerns no
other clip (:class:`NoModes`; the published script drops every later clip of the same length with it).

As published, the "dB" shimmer is a difference of plain magnitudes, and the descriptors are not scaled, so that the
counts of zero crossings decide most of the clustering. Decomposition and descriptors work at 22 050 samples per second.

Shapes: a signal of ``N`` samples; ``I`` modes ``(I, N)``; a descriptor ``(D,)`` of each with ``D = 3 T1 + 9 T2 + 4``,
``T1 = 1 + floor(N / 341)``, ``T2 = ceil(N / 512)``; three sums of modes ``(3, N)``. Needs the extra ``media``.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from scipy.cluster.vq import ClusterError, kmeans2
from scipy.interpolate import make_interp_spline

from data_modules.libraries import optional_library
from data_modules.schema import DataError

RATE = 22_050
WINDOW = 512
HOP = 341  # two thirds of the window
MOST_MODES = 10
GROUPS = 3
SHORTEST = 2 * WINDOW + 1  # samples in three windows, which a second difference needs

ENOUGH = 0.1  # a mode is done when its mean envelope has less than this part of its energy
NOTHING = 1e-8  # a mode with a smaller sum of magnitudes is the last
MOST_STEPS = 1000  # of sifting one mode; sound takes fewer than ten
PITCH = (50.0, 500.0)  # hertz
FAINT = 0.25  # pitch candidates below this part of the mean magnitude are dropped
HEARING = 2e-5  # pascal, the reference of sound pressure levels
RESTARTS = 10
ROUNDS = 30  # of k-means; ten points settle in a few

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class NoModes(DataError):
    """The sound of one clip cannot be taken apart into groups of modes; the message says why."""


def audio_maps(signal: Floats) -> Floats:
    """Return the three sums of modes ``(3, N)`` of a clip, as they are after being stored as 16-bit sound.

    Args:
        signal: ``(N,)`` samples from -1 to 1, at 22 050 per second.

    Raises:
        NoModes: When the clip is shorter than three windows, has fewer than three modes, has a mode without pitch (its
            descriptor is not a number), or has modes that do not fall into three groups.
    """
    if len(signal) < SHORTEST:
        raise NoModes(f"its sound is shorter than {SHORTEST / RATE * 1000:.0f} ms")
    modes, _ = decompose(signal)
    if len(modes) < GROUPS:
        raise NoModes(f"its sound has fewer than {GROUPS} modes")
    descriptors = np.stack([descriptor(stored(mode)) for mode in modes])
    if not np.isfinite(descriptors).all():
        raise NoModes("a mode of its sound has no pitch")
    return np.stack([stored(part) for part in regroup(modes, partition(descriptors))])


def decompose(signal: Floats, most: int = MOST_MODES) -> tuple[Floats, Floats]:
    """Return the first intrinsic modes ``(I, N)`` and what they leave of the signal, ``(N,)``.

    A mode is what remains of the signal when the mean of its upper and lower envelope has been taken off until that
    mean is small; the next mode comes from the rest. What has too few extrema for an envelope is the last mode, so that
    nothing is left unless there are more than ``most``.

    Args:
        signal: ``(N,)`` samples.
        most: Largest number of modes.
    """
    modes: list[Floats] = []
    rest = signal.astype(np.float64)
    more = True
    while more and len(modes) < most:
        mode, more = _sift(rest)
        modes.append(mode)
        rest = signal - np.sum(modes, axis=0)
        more = more and bool(np.abs(mode).sum() >= NOTHING)
    return np.stack(modes), rest


def _sift(signal: Floats) -> tuple[Floats, bool]:
    """Return the fastest mode of a signal, and whether there may be a slower one."""
    mode = signal.copy()
    for _ in range(MOST_STEPS):
        upper, lower = envelope(mode), envelope(-mode)
        if upper is None or lower is None:
            return mode, False
        mean = (upper - lower) / 2
        done = bool((mean**2).sum() < ENOUGH * (mode**2).sum())
        mode = mode - mean
        if done:
            break
    return mode, True


def envelope(signal: Floats) -> Floats | None:
    """Return the upper envelope ``(N,)``: a cubic spline (not-a-knot) through the strict local maxima.

    The spacings of the two outermost maxima are mirrored at either end, at the height of the outermost one, as often as
    the ends need. None for fewer than two maxima.
    """
    at = np.flatnonzero((signal[1:-1] > signal[:-2]) & (signal[1:-1] > signal[2:])) + 1
    if len(at) < 2:
        return None
    gaps = np.diff(at)
    first, last = np.resize(gaps[:2], 2), np.resize(gaps[:-3:-1], 2)
    times = int(max(1, at[0] // first.sum() + 1, -((at[-1] - len(signal)) // last.sum())))
    before, after = (np.cumsum(_mirrored(ends, times)) for ends in (first, last))
    where = np.concatenate([at[0] - before[::-1], at, at[-1] + after])
    heights = np.pad(signal[at], 2 * times, "edge")
    curve: Floats = make_interp_spline(where, heights, k=3)(np.arange(len(signal)))
    return curve


def _mirrored(gaps: Ints, times: int) -> Ints:
    """Return the spacings that mirroring the two outermost ones gives, again and again: a b, b a, a b, ..."""
    return np.tile(np.concatenate([gaps, gaps[::-1]]), (times + 1) // 2)[: 2 * times]


def stored(signal: Floats) -> Floats:
    """Return a signal after a round trip through a 16-bit WAV file, as libsndfile makes it.

    Every published step reads such files. Values beyond -1 and 1 are cut, the others go to the next level below.
    """
    soundfile = optional_library("soundfile")
    file = io.BytesIO()
    soundfile.write(file, signal, RATE, subtype="PCM_16", format="WAV")
    file.seek(0)
    samples: Floats = soundfile.read(file, dtype="float64")[0]
    return samples


def magnitudes(signal: Floats) -> Floats:
    """Return the magnitude spectrogram ``(257, 1 + floor(N / 341))``: Hamming window, reflected at the ends."""
    librosa = optional_library("librosa")
    spectrum = librosa.stft(signal, n_fft=WINDOW, hop_length=HOP, window="hamming", center=True, pad_mode="reflect")
    return np.abs(spectrum).astype(np.float64)


def descriptor(signal: Floats) -> Floats:
    """Return what a mode sounds like, ``(3 T1 + 9 T2 + 4,)``; the last four are NaN for a mode without pitch.

    In this order: log energy of every spectrum; energy, zero crossings and sound pressure level of every window; each
    of the four followed by its first and second differences; then jitter and shimmer.
    """
    smallest = np.finfo(np.float64).eps
    spectrum = magnitudes(signal)
    log_energy = np.log(np.maximum((spectrum**2).sum(axis=0), smallest))
    windows = np.pad(signal, (0, -len(signal) % WINDOW)).reshape(-1, WINDOW)
    energy = (windows**2).sum(axis=1)
    energy[energy == 0] = smallest
    # A sample that is exactly zero crosses nothing, nor does the border between two windows.
    crossings = (windows[:, 1:] * windows[:, :-1] < 0).sum(axis=1).astype(np.float64)
    pressure = 10 * np.log10(energy / (WINDOW * HEARING**2))
    groups = [part for track in (log_energy, energy, crossings, pressure) for part in _with_differences(track)]
    return np.concatenate([*groups, *_jitter_shimmer(*pitch_candidates(spectrum))])


def _with_differences(track: Floats) -> tuple[Floats, Floats, Floats]:
    """Return ``(T,)`` values, their slope and their curvature; both ends repeat the value beside them."""
    slope, curve = (track[2:] - track[:-2]) / 2, track[2:] - 2 * track[1:-1] + track[:-2]
    return track, np.pad(slope, 1, "edge"), np.pad(curve, 1, "edge")


def pitch_candidates(spectrum: Floats) -> tuple[Floats, Floats]:
    """Return frequencies (hertz) and magnitudes of the spectral peaks from 50 to 500 Hz, frame by frame, bins upwards.

    A peak is above the mean of its spectrum and not faint among the peaks of the clip.
    """
    frequency, size = optional_library("librosa").piptrack(
        S=spectrum, sr=RATE, n_fft=WINDOW, hop_length=HOP, fmin=PITCH[0], fmax=PITCH[1], threshold=1.0, ref=np.mean
    )
    frequency, size = frequency.T, size.T  # frame by frame
    frequency, size = frequency[size > 0], size[size > 0]
    if len(size):
        loud = size >= FAINT * size.mean()
        frequency, size = frequency[loud], size[loud]
    return frequency, size


def _jitter_shimmer(frequency: Floats, size: Floats) -> tuple[Floats, Floats]:
    """Return for periods and for magnitudes the mean change to the next one, absolute and relative to the mean."""
    return _unsteadiness(1 / frequency), _unsteadiness(size)


def _unsteadiness(values: Floats) -> Floats:
    if len(values) < 2:
        return np.full(2, np.nan)
    change = np.abs(np.diff(values)).mean()
    return np.array([change, change / values.mean()])


def partition(descriptors: Floats, seed: int = 0) -> Ints:
    """Return the group ``(I,)`` of each mode by k-means with three clusters, numbered by their first members.

    Args:
        descriptors: ``(I, D)``.
        seed: Decides the ten k-means++ starts, of which the best result counts.

    Raises:
        NoModes: When the descriptors do not fall into three clusters.
    """
    random = np.random.default_rng(seed)
    best, least = None, np.inf
    for _ in range(RESTARTS if len(np.unique(descriptors, axis=0)) >= GROUPS else 0):
        try:
            centres, labels = kmeans2(
                descriptors, _spread(descriptors, random), iter=ROUNDS, minit="matrix", missing="raise"
            )
        except ClusterError:  # a cluster lost its last member
            continue
        error = float(((descriptors - centres[labels]) ** 2).sum())
        if error < least:
            best, least = labels, error
    if best is None:
        raise NoModes(f"the modes of its sound do not fall into {GROUPS} groups")
    _, first, group = np.unique(best, return_index=True, return_inverse=True)
    return first.argsort().argsort()[group].astype(np.int64)


def _spread(points: Floats, random: np.random.Generator) -> Floats:
    """Return three of the points, each drawn by its squared distance from those before it (k-means++)."""
    chosen = [int(random.integers(len(points)))]
    while len(chosen) < GROUPS:
        distance = ((points[:, None] - points[chosen]) ** 2).sum(axis=2).min(axis=1)
        chosen.append(int(random.choice(len(points), p=distance / distance.sum())))
    return points[chosen]


def regroup(modes: Floats, groups: Ints) -> Floats:
    """Return the sum of the modes of each group, ``(3, N)``."""
    return np.stack([modes[groups == group].sum(axis=0) for group in range(GROUPS)])
