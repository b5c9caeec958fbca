"""Cepstral coefficients (MFCC) of whole batches of waveforms, on the device: those of librosa.

Davis and Mermelstein, "Comparison of Parametric Representations for Monosyllabic Word Recognition in Continuously
Spoken Sentences", IEEE TASSP 28(4), 1980, with the mel bands of Slaney's toolbox.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import PaddedSequence
from mmbench.nn.spectrogram import Edges, MelSpectrogram

SILENCE = 1e-10
"""Power below this counts as this: -100 dB."""


def cosine_transform(size: int, count: int) -> Tensor:
    """Return the first columns ``(size, count)`` of the orthonormal cosine transform (DCT-II), in double precision."""
    steps, waves = torch.arange(size, dtype=torch.float64) + 0.5, torch.arange(count, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * steps[:, None] * waves) * math.sqrt(2 / size)
    matrix[:, 0] /= math.sqrt(2)
    return matrix


class Cepstrum(nn.Module):
    """Mel-frequency cepstral coefficients of waveforms.

    Args:
        rate: Samples per second.
        window: Samples of the Hann window and of the Fourier transform.
        hop: Samples from one frame to the next.
        bands: Number of mel bands.
        coefficients: How many coefficients to keep, from the zeroth (the level) on; at most ``bands``.
        range_db: What is quieter than the loudest band and frame of its clip by more than this is raised to it.
        edges: What lies before and after a clip, as in :class:`MelSpectrogram`.

    Raises:
        ValueError: When there are fewer bands than coefficients.
    """

    transform: Tensor

    def __init__(
        self,
        rate: int,
        window: int,
        hop: int,
        bands: int,
        coefficients: int,
        *,
        range_db: float = 80.0,
        edges: Edges = "zeros",
    ) -> None:
        super().__init__()
        if not 1 <= coefficients <= bands:
            raise ValueError(f"{coefficients} cepstral coefficients cannot be made of {bands} mel bands.")
        self.range_db = range_db
        self.mel = MelSpectrogram(rate, window, hop, bands, edges=edges)
        self.register_buffer("transform", cosine_transform(bands, coefficients).float(), persistent=False)

    def forward(self, waveform: PaddedSequence) -> PaddedSequence:
        """Return ``(B, 1 + N // hop, coefficients)``, zero beyond its lengths, for ``(B, N)`` samples."""
        power, lengths = self.mel(waveform.values, waveform.lengths)
        level = 10 * power.clamp(min=SILENCE).log10()
        # Frames that pad a clip have no power at all and are never the loudest.
        level = torch.maximum(level, level.amax((1, 2), keepdim=True) - self.range_db)
        with torch.autocast(level.device.type, enabled=False):
            found = PaddedSequence(level @ self.transform.to(level.dtype), lengths)
        return PaddedSequence(found.values.masked_fill(~found.mask[..., None], 0.0), lengths)


def fixed_columns(sequence: PaddedSequence, columns: int) -> Tensor:
    """Return ``(B, columns, D)``: the first steps of ``(B, T, D)``, and zeros where a sample has fewer.

    Args:
        sequence: Whatever stands beyond its lengths is ignored.
        columns: Steps of the result.
    """
    values, mask = sequence.values[:, :columns], sequence.mask[:, :columns]
    return F.pad(values.masked_fill(~mask[..., None], 0.0), (0, 0, 0, columns - values.shape[1]))
