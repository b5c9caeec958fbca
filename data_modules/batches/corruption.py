"""Missing steps, missing modalities, noise, as pure functions of (seed, sample id, modality, step), and exchange.

Every draw is one output of a counter-based generator (SplitMix64), so it is the same whatever the method, batch, split,
order or subset of samples. One uniform draw serves all rates: what is missing at a rate is missing at every higher one.

Missing steps follow TFR-Net and EMT-DLFR: a missing step of features is a zero vector, a missing token is the unknown
token, and the first and last token of a text ([CLS] and [SEP]) never go missing. Unlike there, no draw depends on the
shape of the data or on the row of a sample.

The control is one modality that is exchanged between the samples of a split: everything about it stays as it is but
what it says of its sample, so that a method falls to what the other modalities tell.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from data_modules.schema import MODALITIES, DataError, unknown_name

Bools = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint64]
Offsets = npt.NDArray[np.int64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
BLOCK = 1 << 20
"""Noise values made at a time: bounds the memory of their 64-bit draws."""


@dataclass(frozen=True)
class Corruption:
    """What is taken from the inputs.

    Attributes:
        steps: Share of the real steps that go missing, in [0, 1].
        modalities: Chance that a whole modality of a sample goes missing, in [0, 1]. One modality always stays, so
            that of M modalities each is missing with the chance ``modalities - modalities ** M / M``.
        noise: Standard deviation of Gaussian noise, in standard deviations of each feature over the training data.
        seed: Which draws are made.
        shuffled: A modality whose sequences are exchanged between the samples of each split; empty for none.

    Raises:
        DataError: For a rate outside [0, 1], a negative or infinite noise, or a modality that does not exist.
    """

    steps: float = 0.0
    modalities: float = 0.0
    noise: float = 0.0
    seed: int = 1111
    shuffled: str = ""

    def __post_init__(self) -> None:
        for name in ("steps", "modalities"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"The corruption's {name} are {getattr(self, name)}: give a rate from 0 to 1.")
        if not (self.noise >= 0 and math.isfinite(self.noise)):
            raise DataError(f"The corruption's noise is {self.noise}: give a finite standard deviation from 0 on.")
        if self.shuffled and self.shuffled not in MODALITIES:
            raise DataError(f"What is shuffled: {unknown_name('modality', self.shuffled, MODALITIES)}")

    def __bool__(self) -> bool:
        """Return whether anything is corrupted."""
        return self.damages or bool(self.shuffled)

    @property
    def damages(self) -> bool:
        """Whether values go missing or get noisy, so that there is a complete view beside the one that is seen."""
        return self.steps > 0 or self.modalities > 0 or self.noise > 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers, for records; ``shuffled`` only where it is set, as it came after the first ids."""
        values = asdict(self)
        return values if self.shuffled else {name: value for name, value in values.items() if name != "shuffled"}

    @property
    def variant(self) -> str:
        """Name of the corruption in a track, such as ``missing-steps0.3``; empty for none."""
        rates = {"missing-steps": self.steps, "missing-modalities": self.modalities, "noise": self.noise}
        parts = [f"{name}{rate:.10g}" for name, rate in rates.items() if rate > 0]
        parts += [f"shuffled-{self.shuffled}"] if self.shuffled else []
        if parts and self.seed != Corruption.seed:
            parts.append(f"seed{self.seed}")
        return "+".join(parts)


def sample_keys(ids: Iterable[str]) -> Bits:
    """Return ``(N,)`` the first 64 bits of the BLAKE2b-64 hash of each sample id: what draws are made from."""
    digests = b"".join(hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def kept_steps(
    keys: Bits,
    offsets: Offsets,
    modality: str,
    corruption: Corruption,
    tokens: bool = False,
    present: Bools | None = None,
) -> Bools:
    """Return ``(sum T,)`` which real steps of a modality are not missing.

    Args:
        keys: ``(N,)`` keys of the samples.
        offsets: ``(N + 1,)`` first step of each sample, from 0 on; every sample has a step, as in a store.
        modality: Name of the modality.
        corruption: The rate and the seed.
        tokens: Whether steps are tokens, of which the first and the last never go missing.
        present: ``(N,)`` whether the modality is present at all, from :func:`kept_modalities`.
    """
    samples, steps = _positions(offsets)
    kept = _uniform(_draw(_streams(keys, corruption.seed, "steps", modality)[samples], steps)) >= corruption.steps
    if present is not None:
        kept &= present[samples]
    if tokens:
        kept[offsets[:-1]] = kept[offsets[1:] - 1] = True
    return kept


def kept_modalities(keys: Bits, modalities: Sequence[str], corruption: Corruption) -> dict[str, Bools]:
    """Return by modality ``(N,)`` which samples have it; each sample keeps at least one of the named modalities.

    Of several that would all go missing, the one with the largest draw stays: it is the last to go at rising rates.
    """
    first = np.zeros(len(keys), np.uint64)
    draws = np.stack(
        [_uniform(_draw(_streams(keys, corruption.seed, "modalities", name), first)) for name in modalities]
    )
    kept = draws >= corruption.modalities
    kept[draws.argmax(0), np.arange(len(keys))] = True
    return dict(zip(modalities, kept, strict=True))


def noise(keys: Bits, offsets: Offsets, modality: str, width: int, corruption: Corruption) -> npt.NDArray[np.float32]:
    """Return ``(sum T, width)`` Gaussian noise, in standard deviations of each feature."""
    samples, steps = _positions(offsets)
    # -0.0 is what can be added to every number, -0.0 too, without changing a bit.
    values = np.full((len(steps), width), -0.0, np.float32)
    if corruption.noise == 0:
        return values
    rows = _draw(_streams(keys, corruption.seed, "noise", modality)[samples], steps)[:, None]
    columns = np.arange(width, dtype=np.uint64)
    block = max(1, BLOCK // max(1, width))
    for start in range(0, len(rows), block):
        # Midpoints of a grid of 2**-52: never 0 or 1, where the quantile function is infinite.
        uniform = ((_draw(rows[start : start + block], columns) >> np.uint64(12)) + 0.5) * 2.0**-52
        values[start : start + block] = corruption.noise * ndtri(uniform)
    return values


def donors(keys: Bits, corruption: Corruption) -> Offsets:
    """Return ``(N,)`` for each sample of a split the one whose sequence it gets in the modality that is shuffled.

    All samples stand in a circle, in an order that the draws decide, and each gets that of its neighbour: no sample
    keeps its own, and the order of the keys does not matter.

    Args:
        keys: ``(N,)`` keys of all samples of the split.
        corruption: The modality and the seed.

    Raises:
        DataError: When a sample has nobody to exchange with.
    """
    if len(keys) == 1:
        raise DataError("A split of one sample has nothing that could be shuffled: take a larger one.")
    draws = _draw(_streams(keys, corruption.seed, "shuffled", corruption.shuffled), np.zeros(1, np.uint64))
    circle = np.lexsort((keys, draws))
    found = np.empty(len(keys), np.int64)
    found[circle] = np.roll(circle, -1)
    return found


def exchanged(ids: npt.NDArray[Any], splits: Iterable[Offsets], corruption: Corruption) -> Offsets:
    """Return ``(N,)`` for each row of a store the one whose sequence it gets in the modality that is shuffled.

    Args:
        ids: ``(N,)`` sample ids.
        splits: The rows of each split; other rows keep theirs.
        corruption: The modality and the seed.
    """
    found = np.arange(len(ids))
    for rows in splits:
        found[rows] = rows[donors(sample_keys(ids[rows]), corruption)] if corruption.shuffled else rows
    return found


def corrupt(
    values: npt.NDArray[Any], kept: Bools, noise: npt.NDArray[np.float32] | None = None, unknown: int = 0
) -> npt.NDArray[Any]:
    """Return a corrupted copy of one modality, in the dtype of the values.

    Args:
        values: ``(sum T, ...)`` features or frames, or ``(sum T,)`` token ids.
        kept: ``(sum T,)`` which steps are not missing.
        noise: ``(sum T, D)`` what is added to features, in their units: :func:`noise` times their scale.
        unknown: What stands in a missing step: 0 for features, the id of the unknown token for tokens.

    Raises:
        DataError: For noise on token ids.
    """
    corrupted = values.copy()
    if noise is not None:
        if not np.issubdtype(values.dtype, np.floating):
            raise DataError("Noise cannot be added to token ids: corrupt tokens by missing steps or modalities.")
        corrupted += noise
    corrupted[~kept] = unknown
    return corrupted


def _positions(offsets: Offsets) -> tuple[Offsets, Bits]:
    """Return ``(sum T,)`` the sample and the position within its sample of each step."""
    samples = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return samples, (np.arange(len(samples)) - offsets[samples]).astype(np.uint64)


def _streams(keys: Bits, seed: int, purpose: str, modality: str) -> Bits:
    """Return ``(N,)`` where each sample's own sequence of draws for one purpose starts."""
    return _draw(keys ^ sample_keys([f"{seed}/{purpose}/{modality}"]), np.zeros(1, np.uint64))


def _draw(states: Bits, counters: Bits) -> Bits:
    """Return the outputs number ``counters`` of SplitMix64 started at ``states`` (Steele et al., OOPSLA 2014)."""
    bits = states + (counters + np.uint64(1)) * GOLDEN
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _uniform(bits: Bits) -> npt.NDArray[np.float64]:
    """Return the upper 53 bits as numbers in [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
