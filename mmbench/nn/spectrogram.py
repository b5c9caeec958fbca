"""Mel spectrograms of whole batches, on the device, without a look at what pads a clip.

The frames are those of librosa and torchaudio: a periodic Hann window, centred on multiples of the hop. Both libraries
complete a *batch* at its edges, so that a short clip of a batch ends in its padding; here every clip is completed at
its own end.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

Scale = Literal["slaney", "htk"]
Edges = Literal["zeros", "reflect"]

_BREAK = 1000.0  # Hz up to which Slaney's scale is linear
_STEP = 200.0 / 3  # Hz per mel below it
_RATIO = math.log(6.4) / 27  # logarithm of the frequency per mel above it


def mel_of(hertz: float, scale: Scale) -> float:
    """Return a frequency in mel: ``2595 log10(1 + f / 700)`` (HTK), or linear below 1 kHz (Slaney's toolbox)."""
    if scale == "htk":
        return 2595.0 * math.log10(1.0 + hertz / 700.0)
    return hertz / _STEP if hertz < _BREAK else _BREAK / _STEP + math.log(hertz / _BREAK) / _RATIO


def hertz_of(mel: Tensor, scale: Scale) -> Tensor:
    """Return frequencies from mel, the inverse of :func:`mel_of`."""
    if scale == "htk":
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    return torch.where(mel < _BREAK / _STEP, mel * _STEP, _BREAK * torch.exp(_RATIO * (mel - _BREAK / _STEP)))


def mel_filterbank(
    rate: int, window: int, bands: int, scale: Scale = "slaney", normalised: bool = True, high: float = 0.0
) -> Tensor:
    """Return triangular filters from frequency bins to mel bands, ``(window // 2 + 1, bands)`` in double precision.

    The corners of the triangles are equally far apart in mel from 0 Hz to ``high``. With more bands than bins can tell
    apart, low bands lie between two bins and are zero.

    Args:
        rate: Samples per second.
        window: Samples of the Fourier transform.
        bands: Number of bands.
        scale: ``slaney`` or ``htk``.
        normalised: Whether the filters have the same area (Slaney's toolbox) instead of the same height 1 (HTK).
        high: Upper end of the last band in Hz; 0 for half the rate.
    """
    top = high or rate / 2
    corners = hertz_of(torch.linspace(0.0, mel_of(top, scale), bands + 2, dtype=torch.float64), scale)
    bins = torch.arange(window // 2 + 1, dtype=torch.float64) * (rate / window)
    width = corners.diff()
    rising = (bins[:, None] - corners[:-2]) / width[:-1]
    falling = (corners[2:] - bins[:, None]) / width[1:]
    filters = torch.minimum(rising, falling).clamp(min=0.0)
    return filters * (2.0 / (corners[2:] - corners[:-2])) if normalised else filters


class MelSpectrogram(nn.Module):
    """The power of a waveform in mel bands over time; no logarithm.

    Args:
        rate: Samples per second.
        window: Samples of the Hann window and of the Fourier transform.
        hop: Samples from one frame to the next.
        bands: Number of mel bands.
        scale: Mel scale, ``slaney`` or ``htk``.
        normalised: Whether the filters have the same area instead of the same height.
        high: Upper end of the last band in Hz; 0 for half the rate.
        edges: What lies before the first and after the last sample of a clip: silence, or the clip itself in reverse.

    Raises:
        ValueError: When the sizes make no frame, or a choice does not exist.
    """

    filters: Tensor
    hann: Tensor

    def __init__(
        self,
        rate: int,
        window: int,
        hop: int,
        bands: int,
        *,
        scale: Scale = "slaney",
        normalised: bool = True,
        high: float = 0.0,
        edges: Edges = "zeros",
    ) -> None:
        super().__init__()
        if min(rate, window, hop, bands) < 1:
            raise ValueError(f"rate {rate}, window {window}, hop {hop} and bands {bands} must all be at least 1.")
        if not 0.0 <= high <= rate / 2:
            raise ValueError(f"the bands cannot end at {high} Hz: a rate of {rate} has frequencies up to {rate / 2}.")
        if scale not in ("slaney", "htk") or edges not in ("zeros", "reflect"):
            raise ValueError(f"there is no mel scale {scale!r} (slaney, htk) or no edges {edges!r} (zeros, reflect).")
        self.window, self.hop, self.edges = window, hop, edges
        # They follow from the settings: a checkpoint need not carry them.
        filters = mel_filterbank(rate, window, bands, scale, normalised, high).float()
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("hann", torch.hann_window(window), persistent=False)

    def frames(self, lengths: Tensor) -> Tensor:
        """Return the frames of clips, ``1 + samples // hop`` and 0 for a clip without a sample.

        Args:
            lengths: ``(B,)`` samples.
        """
        return (1 + lengths // self.hop) * (lengths > 0)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return power and its lengths.

        Args:
            waveform: ``(B, N)``; whatever stands beyond the lengths is ignored.
            lengths: ``(B,)`` samples of each clip.

        Returns:
            ``(B, 1 + N // hop, bands)`` power, zero beyond its lengths, and ``(B,)`` the lengths in frames.
        """
        lengths = lengths.to(waveform.device)
        with torch.autocast(waveform.device.type, enabled=False):  # power spans more than half precision can tell apart
            spectrum = torch.stft(
                self._completed(waveform.to(self.hann.dtype), lengths),
                self.window,
                self.hop,
                window=self.hann,
                center=False,
                return_complex=True,
            )
            power = (spectrum.real.square() + spectrum.imag.square()).transpose(1, 2) @ self.filters
        frames = self.frames(lengths)
        real = torch.arange(power.shape[1], device=power.device) < frames[:, None]
        return power.masked_fill(~real[..., None], 0.0), frames

    def _completed(self, waveform: Tensor, lengths: Tensor) -> Tensor:
        """Return ``(B, N + window)``: every clip with half a window before its start, and the rest after its end."""
        before = self.window // 2
        place = torch.arange(-before, waveform.shape[1] + self.window - before, device=waveform.device)
        last = (lengths - 1).clamp(min=0)[:, None]
        if not waveform.shape[1]:  # no clip has a sample: there must be one to point at
            waveform = waveform.new_zeros(len(waveform), 1)
        if self.edges == "zeros":
            outside = (place < 0) | (place > last)
            source = place.clamp(0, waveform.shape[1] - 1).expand_as(outside)
            return waveform.gather(1, source).masked_fill(outside, 0.0)
        # A clip shorter than half a window is reflected to and fro.
        period = (2 * last).clamp(min=1)
        turned = place.remainder(period)
        return waveform.gather(1, torch.minimum(turned, period - turned).clamp(max=last))
