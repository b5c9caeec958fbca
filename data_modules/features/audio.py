"""Audio features: a clip on disk to mono samples, samples to log-mel or MFCC sequences or to what a store holds.

Needs the extra ``media`` (librosa, soundfile), imported on first use because librosa takes seconds to load.
Times of features are in milliseconds, all levels in dB relative to full scale; nothing is normalised per clip, because
the loudness of a clip carries emotion and the data module standardises by training statistics.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from data_modules.budget import check_size
from data_modules.libraries import optional_library
from data_modules.schema import DataError
from data_modules.store import Recipe

RATE = 16_000
WINDOW_MS = 64.0
HOP_MS = 25.0
MELS = 64
MFCCS = 20
RATES = (1_000, 1_000_000)
"""Lowest and highest samples per second that are believed of a recording."""
FLOOR = 1e-10  # power below this counts as silence: -100 dB
REVISION = 1
"""Of the code here and of the decoding: raise it with every change after which the same sound gives other values."""
LIBRARIES = ("librosa", "numpy", "scipy", "soundfile", "soxr")

Floats = npt.NDArray[np.float32]


class NoSoundError(DataError):
    """A clip has no sound, or nothing but silence, where sound is wanted."""


def load_audio(path: Path, rate: int = RATE, trim_db: float = 0.0) -> Floats:
    """Read a clip as ``(samples,)`` mono float32 at one sampling rate.

    Args:
        path: An audio file that libsndfile reads (WAV, FLAC, OGG, ...), any rate, any number of channels (averaged).
        rate: Sampling rate of the result in Hz; the clip is resampled (soxr, high quality) when its own differs.
        trim_db: Cut both ends as long as they are this many dB below the loudest frame; 0 keeps them.

    Raises:
        DataError: When the clip cannot be decoded, is cut short, or holds no sound.
    """
    soundfile = optional_library("soundfile")
    try:
        with soundfile.SoundFile(path) as file:
            own_rate, expected, log = check_rate(path, file.samplerate), file.frames, file.extra_info
            check_sound(path, max(expected, 0) * file.channels, own_rate, own_rate)
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"{path} cannot be decoded ({error}). Copy or unpack it again.") from error
    # libsndfile shortens a cut WAV in silence, and says so only in its log: "data : <header> (should be <found>)".
    cut = [int(said) > int(found) for said, found in re.findall(r"data : (\d+) \(should be (\d+)\)", log)]
    if any(cut) or len(samples) < expected:
        raise DataError(f"{path} is cut short: it ends before its header says. Copy or unpack it again.")
    mono = to_mono(path, samples, own_rate, rate)
    return trim(mono, trim_db)


def check_rate(path: Path, rate: int | None) -> int:
    """Return the samples per second that a file says it has.

    Raises:
        DataError: When it does not say, or no recording of speech can have so few or many.
    """
    if not rate or not RATES[0] <= rate <= RATES[1]:
        says = f"that its sound has {rate} samples per second" if rate else "no rate of its sound"
        raise DataError(
            f"{path} says {says}; recordings have from {RATES[0]} to {RATES[1]}. It is damaged: copy or unpack it "
            "again, or convert it, for example to wav."
        )
    return int(rate)


def check_sound(path: Path, samples: int, own_rate: int, rate: int) -> None:
    """Refuse sound that would take more memory than files may, before it is decoded or resampled.

    Args:
        path: The clip.
        samples: How many it has, of all channels.
        own_rate: How many a second.
        rate: How many a second are wanted.

    Raises:
        DataError: With both sizes.
    """
    check_size(path, "its sound", round(samples * (1 + rate / own_rate) * np.dtype(np.float32).itemsize))


def trim(waveform: Floats, db: float) -> Floats:
    """Cut both ends of a sound as long as they are this many dB below its loudest frame; 0 keeps them."""
    if db <= 0:
        return waveform
    cut: Floats = optional_library("librosa").effects.trim(waveform, top_db=db)[0]
    return cut


def to_mono(path: Path, samples: Floats, own_rate: int, rate: int) -> Floats:
    """Return decoded sound as ``(samples,)`` mono at another rate.

    Args:
        path: Where it comes from, for messages.
        samples: ``(samples, channels)``; the channels are averaged.
        own_rate: Samples per second.
        rate: Samples per second of the result (soxr, high quality).

    Raises:
        DataError: When a sample is no number; a :class:`NoSoundError` when there is none but zeros.
    """
    mono: Floats = samples.mean(axis=1)
    if not np.isfinite(mono).all():
        raise DataError(f"{path} has samples that are not numbers. Copy or unpack it again.")
    if not mono.any():
        raise NoSoundError(f"{path} holds no sound ({len(mono)} samples). Copy or unpack it again.")
    if own_rate != rate:
        check_sound(path, len(mono), own_rate, rate)
        mono = optional_library("librosa").resample(mono, orig_sr=own_rate, target_sr=rate, res_type="soxr_hq")
    return mono


def to_int16(waveform: Floats) -> npt.NDArray[np.int16]:
    """Return samples from -1 to 1 as the whole numbers that a store holds, 32768 to the unit; louder ones are cut."""
    return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)


def waveform_text(rate: int) -> str:
    """Return in words what a waveform is, for the store; all that make one say it alike."""
    return f"sound at {rate} Hz, channels averaged"


def sound_recipe(
    kind: str,
    rate: int = RATE,
    *,
    mels: int = MELS,
    mfccs: int = MFCCS,
    window_ms: float = WINDOW_MS,
    hop_ms: float = HOP_MS,
    trim_db: float = 0.0,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Recipe:
    """Return the recipe of sound, with the settings that decide its values and no others.

    Args:
        kind: ``waveform``, or ``logmel``, ``mfcc`` or both joined by a plus.
        rate: Samples per second of what is decoded.
        mels: As in :func:`log_mel`.
        mfccs: Coefficients of :func:`mfcc`.
        window_ms: As in :func:`log_mel`.
        hop_ms: As in :func:`log_mel`.
        trim_db: As in :func:`trim`.
        more: Further settings of who makes it.
    """
    settings: dict[str, Any] = {"rate": rate, "trim_db": max(trim_db, 0.0)}
    if kind != "waveform":
        settings |= {"mels": mels, "window_ms": window_ms, "hop_ms": hop_ms}
    if "mfcc" in kind:
        settings |= {"mfccs": mfccs}
    return Recipe(kind, {**settings, **more}, REVISION, LIBRARIES)


def log_mel(
    waveform: Floats, rate: int, mels: int = MELS, window_ms: float = WINDOW_MS, hop_ms: float = HOP_MS
) -> Floats:
    """Return the log-mel spectrogram ``(T, mels)`` in dB, from -100 dB (silence) up.

    Frames are centred on multiples of the hop, so ``T = 1 + samples // hop``; a clip shorter than one window is
    filled with silence at its end.

    Args:
        waveform: ``(samples,)`` mono.
        rate: Samples per second.
        mels: Number of mel bands from 0 Hz to half the rate.
        window_ms: Length of the Hann window, and of the Fourier transform.
        hop_ms: Time between two frames.
    """
    librosa = optional_library("librosa")
    window, hop = _samples(rate, window_ms), _samples(rate, hop_ms)
    power = librosa.feature.melspectrogram(
        y=_at_least(waveform, window), sr=rate, n_fft=window, hop_length=hop, n_mels=mels
    )
    return np.ascontiguousarray(librosa.power_to_db(power, ref=1.0, amin=FLOOR, top_db=None).T, dtype=np.float32)


def mfcc(
    waveform: Floats,
    rate: int,
    coefficients: int = MFCCS,
    window_ms: float = WINDOW_MS,
    hop_ms: float = HOP_MS,
    mels: int = MELS,
) -> Floats:
    """Return the cepstral coefficients ``(T, coefficients)``: the orthonormal cosine transform of :func:`log_mel`.

    Args:
        waveform: ``(samples,)`` mono.
        rate: Samples per second.
        coefficients: How many to keep, from the zeroth (the level) on.
        window_ms: As in :func:`log_mel`.
        hop_ms: As in :func:`log_mel`.
        mels: As in :func:`log_mel`; at least ``coefficients``.
    """
    if coefficients > mels:
        raise DataError(f"{coefficients} cepstral coefficients need as many mel bands, there are {mels}.")
    bands = log_mel(waveform, rate, mels, window_ms, hop_ms)
    return np.ascontiguousarray(
        optional_library("librosa").feature.mfcc(S=bands.T, n_mfcc=coefficients).T, dtype=np.float32
    )


def _samples(rate: int, milliseconds: float) -> int:
    count = round(rate * milliseconds / 1000)
    if count < 1:
        raise DataError(f"{milliseconds} ms is less than one sample at {rate} Hz. Give a longer window or hop.")
    return count


def _at_least(waveform: Floats, samples: int) -> Floats:
    return np.pad(waveform, (0, max(0, samples - len(waveform))))
