"""Frames and sound as pictures, and plain convolutional networks of pairs of 3x3 layers for them.

Simonyan & Zisserman, "Very Deep Convolutional Networks", ICLR 2015, with batch normalisation, in the widths of the
feature networks of FE2E and MESM (Dai et al., NAACL 2021).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import PaddedSequence
from mmbench.nn.spectrogram import MelSpectrogram

POOLS = 4
"""How often a tower halves height and width, so that it needs pictures of at least 16 x 16."""


FACE_MEAN, FACE_DEVIATION = (159.0, 111.0, 102.0), (37.0, 33.0, 32.0)
"""Of the red, green and blue of faces, from 0 to 255."""

WINDOW = 0.025
"""Seconds of sound per window of the spectrogram; windows overlap by half."""


class Pictures(NamedTuple):
    """The frames or spectrogram pieces of all samples, one after the other.

    Attributes:
        values: ``(N, C, H, W)``.
        rows: ``(N,)`` the sample of each.
        steps: ``(N,)`` its place in the sample.
        lengths: ``(B,)`` pictures of each sample.
        longest: Steps to which vectors of pictures are padded.
        blank: Whether no sample has a picture, so that the only one here belongs to none.
    """

    values: Tensor
    rows: Tensor
    steps: Tensor
    lengths: Tensor
    longest: int
    blank: bool = False

    @classmethod
    def of(cls, sequence: PaddedSequence) -> Pictures:
        """Drop the padding of ``(B, T, C, H, W)``.

        That the host waits for the number of pictures costs less than convolutions over padding, which batch
        normalisation must not see anyway. Where no sample has a picture there is a blank one that counts for none.
        """
        rows, steps = sequence.mask.nonzero(as_tuple=True)
        if len(rows):
            return cls(sequence.values[rows, steps], rows, steps, sequence.lengths, sequence.values.shape[1])
        first = rows.new_zeros(1)
        return cls(sequence.values.new_zeros(1, *sequence.values.shape[2:]), first, first, sequence.lengths, 1, True)

    def sequence(self, vectors: Tensor) -> PaddedSequence:
        """Return vectors of the pictures, ``(N, D)``, as a sequence per sample."""
        values = vectors.new_zeros(len(self.lengths), self.longest, vectors.shape[1])
        values[self.rows, self.steps] = vectors
        return PaddedSequence(values, self.lengths)


class Faces(nn.Module):
    """From stored frames to normalised square pictures.

    Args:
        size: Height and width of the pictures.
        stride: Every how many-th frame is seen.
        framing: What becomes of frames of another size: ``resize`` (the square in the middle, scaled) or
            ``legacy_crop`` (cut out, half a picture left of where the middle of a square frame would be).
    """

    mean: Tensor
    deviation: Tensor
    channels = 3

    def __init__(self, size: int, stride: int, framing: str) -> None:
        super().__init__()
        self.size, self.stride, self.framing = size, stride, framing
        self.shape = (size, size)
        self.register_buffer("mean", torch.tensor(FACE_MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(FACE_DEVIATION)[:, None, None], persistent=False)

    def forward(self, frames: PaddedSequence) -> Pictures:
        """Return the pictures of ``(B, T, 3, H, W)`` frames of values from 0 to 255."""
        seen = (frames.lengths.to(frames.values.device) + self.stride - 1) // self.stride
        pictures = Pictures.of(PaddedSequence(frames.values[:, :: self.stride], seen))
        return pictures._replace(values=(self.framed(pictures.values) - self.mean) / self.deviation)

    def framed(self, frames: Tensor) -> Tensor:
        """Return ``(N, 3, size, size)`` from ``(N, 3, H, W)``."""
        height, width = frames.shape[-2:]
        frames = frames.to(self.mean.dtype)
        if (height, width) == self.shape:
            return frames
        if self.framing == "legacy_crop":
            top, left = crop_corner(height, self.size)
            return frames[..., top : top + self.size, left : left + self.size]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = frames[..., top : top + side, left : left + side]
        return F.interpolate(square, self.shape, mode="bilinear", antialias=True)


def crop_corner(height: int, size: int) -> tuple[int, int]:
    """Return first row and column of the official crop, which takes the middle of the height for that of the width."""
    top = (height - size) // 2
    return top, top - size // 2


class Pieces(nn.Module):
    """From a waveform to pieces of its mel spectrogram: power without logarithm, the last piece filled with zeros.

    Args:
        rate: Samples per second.
        bands: Mel bands.
        frames: Frames per piece.
    """

    channels = 1

    def __init__(self, rate: int, bands: int, frames: int) -> None:
        super().__init__()
        self.frames, self.shape = frames, (bands, frames)
        window = int(rate * WINDOW)
        self.spectrogram = MelSpectrogram(
            rate, window, window // 2, bands, scale="htk", normalised=False, edges="reflect"
        )

    def forward(self, waveform: PaddedSequence) -> Pictures:
        """Return the pieces ``(N, 1, bands, frames)`` of a waveform ``(B, S)``."""
        power, lengths = self.spectrogram(waveform.values, waveform.lengths)
        power = F.pad(power, (0, 0, 0, -power.shape[1] % self.frames))
        pieces = power.unflatten(1, (-1, self.frames)).transpose(2, 3).unsqueeze(2)
        return Pictures.of(PaddedSequence(pieces, (lengths + self.frames - 1) // self.frames))


def convolution(inputs: int, outputs: int, side: int = 3, bias: bool = True) -> nn.Conv2d:
    """Return a convolution that keeps height and width, with He's weights.

    PyTorch's own, which are smaller, fade over a dozen layers as long as normalisation is not by the batch.
    """
    layer = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=bias)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer


def double_block(inputs: int, outputs: int) -> nn.Sequential:
    """Return twice a 3x3 convolution, batch normalisation and ReLU; ``(N, inputs, H, W)`` to ``(N, outputs, H, W)``."""
    return nn.Sequential(
        convolution(inputs, outputs),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        convolution(outputs, outputs),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def low_level(channels: int, width: int) -> nn.Sequential:
    """Return the first layers, ``(N, channels, H, W)`` to ``(N, width, H // 2, W // 2)``."""
    return nn.Sequential(
        convolution(channels, width, 5),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        double_block(width, width),
        double_block(width, width),
    )


def dense_tower(channels: int, width: int) -> nn.Sequential:
    """Return the whole network, ``(N, channels, H, W)`` to ``(N, 8 width, H // 16, W // 16)``."""
    blocks = [(double_block(width << step, width << step + 1), nn.MaxPool2d(2)) for step in range(POOLS - 1)]
    return nn.Sequential(low_level(channels, width), *(layer for block in blocks for layer in block))
