"""3D ResNeXt: residual networks of grouped 3D convolutions over the frames of a clip, and what the frames go through.

The network is that of Hara, Kataoka, Satoh, "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?",
CVPR 2018, arXiv 1711.09577 (bottlenecks after Xie et al., CVPR 2017). Frames arrive as ``(B, T, 3, H, W)`` whole
numbers from 0 to 255; the network reads ``(B, 3, T, H, W)``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import PaddedSequence
from mmbench.nn.norms import BatchNorm

DEPTHS = {14: (1, 1, 1, 1), 26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Bottlenecks by stage; the depth counts three convolutions each, the stem and a classifier."""
EXPANSION = 2
"""Channels that a bottleneck gives for each that it works in."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
AREA = (0.8, 1.4)
"""Area of a random crop as a share of the frame: what is larger than the frame does not fit."""
ASPECT = (3 / 4, 4 / 3)
"""Width by height of a random crop, relative to that of the frame."""
ATTEMPTS = 10
"""How often a crop that does not fit is drawn again before the whole frame is taken."""


class Bottleneck(nn.Module):
    """Convolutions of 1, 3 (grouped) and 1, each with batch normalisation, around a residual.

    Args:
        inputs: Channels that arrive; ``2 * width`` leave.
        width: Channels of the convolution of 3.
        groups: Its groups; must divide ``width``.
        stride: Its stride, over time as over space.
    """

    def __init__(self, inputs: int, width: int, groups: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.conv1, self.norm1 = nn.Conv3d(inputs, width, 1, bias=False), BatchNorm(width)
        self.conv2 = nn.Conv3d(width, width, 3, stride, padding=1, groups=groups, bias=False)
        self.norm2 = BatchNorm(width)
        self.conv3, self.norm3 = nn.Conv3d(width, outputs, 1, bias=False), BatchNorm(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), BatchNorm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, 2 * width, T', H', W')`` for ``(B, inputs, T, H, W)``."""
        hidden = F.relu(self.norm1(self.conv1(x)))
        hidden = F.relu(self.norm2(self.conv2(hidden)))
        return F.relu(self.norm3(self.conv3(hidden)) + self.shortcut(x))


class ResNeXt3D(nn.Module):
    """From a clip to a map of features, without the classifier.

    Time shrinks 16-fold and space 32-fold, both rounded up: 30 frames of 224 x 224 become 2 slices of 7 x 7.

    Args:
        depth: One of :data:`DEPTHS`.
        width: Channels in which the bottlenecks of the first stage work, even; 128 as published.
        cardinality: Groups of the convolutions of 3; must divide ``width``.
    """

    def __init__(self, depth: int = 50, width: int = 128, cardinality: int = 32) -> None:
        super().__init__()
        stem = width // 2
        self.conv = nn.Conv3d(3, stem, 7, (1, 2, 2), padding=3, bias=False)
        self.norm = BatchNorm(stem)
        self.pool = nn.MaxPool3d(3, 2, padding=1)
        stages, inputs = [], stem
        for number, blocks in enumerate(DEPTHS[depth]):
            inside = width * 2**number
            stage = [Bottleneck(inputs, inside, cardinality, 1 if number == 0 else 2)]
            inputs = EXPANSION * inside
            stage += [Bottleneck(inputs, inside, cardinality, 1) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.dim = inputs
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, clip: Tensor, stem_relu: bool = True) -> Tensor:
        """Return ``(B, dim, S, H', W')``.

        Args:
            clip: ``(B, 3, T, H, W)``.
            stem_relu: Whether a ReLU follows the normalisation of the stem.
        """
        stem = self.norm(self.conv(clip))
        return self.stages(self.pool(F.relu(stem) if stem_relu else stem))


def spread_frames(frames: PaddedSequence, count: int) -> Tensor:
    """Return ``(B, count, C, H, W)``, frames spread evenly over each clip: frame ``floor(i T / count)`` for each ``i``.

    A clip of fewer frames shows some of them several times, and one without any is black.

    Args:
        frames: ``(B, T, C, H, W)``.
        count: Frames of the result.
    """
    values = frames.values
    if not values.shape[1]:
        return values.new_zeros(len(values), count, *values.shape[2:])
    lengths = frames.lengths.to(values.device)[:, None]
    chosen = torch.arange(count, device=values.device) * lengths // count
    spread = values[torch.arange(len(values), device=values.device)[:, None], chosen]
    return spread.masked_fill((lengths == 0)[..., None, None, None], 0)


def imagenet_scaled(frames: Tensor) -> Tensor:
    """Return ``(B, 3, T, H, W)`` with the mean and the deviation of ImageNet, for ``(B, T, 3, H, W)`` from 0 to 255."""
    # Channel by channel, because constants as tensors would have to be copied to the device in every step.
    constants = zip(frames.unbind(2), IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)
    return torch.stack([(channel / 255 - mean) / deviation for channel, mean, deviation in constants], dim=1)


def random_views(frames: Tensor, each: bool = False) -> Tensor:
    """Return the frames cropped at random, scaled back to their size, and flipped left to right in half of the cases.

    The crop has a share of the area and an aspect ratio out of :data:`AREA` and :data:`ASPECT`, drawn up to
    :data:`ATTEMPTS` times until it fits into the frame; the whole frame otherwise. Everything is drawn on the device.

    Args:
        frames: ``(B, T, C, H, W)`` of any type; the result is of floats.
        each: Whether every frame has a crop of its own instead of all of a clip the same.
    """
    batch, steps, channels, height, width = frames.shape
    images = frames.float().reshape(batch * steps, channels, height, width) if each else frames.float().flatten(1, 2)
    device = frames.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(len(images), *shape, device=device).uniform_(low, high)

    area = uniform(*AREA, ATTEMPTS)
    aspect = uniform(math.log(ASPECT[0]), math.log(ASPECT[1]), ATTEMPTS).exp()
    # Width and height of the crop as shares of the frame's.
    shares = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=-1)
    fits = (shares <= 1).all(-1)
    first = fits.float().argmax(1)[:, None, None].expand(-1, 1, 2)
    share = torch.where(fits.any(1, keepdim=True), shares.gather(1, first)[:, 0], 1.0)
    middle = (1 - share) * uniform(-1, 1, 2)
    side = torch.stack([torch.where(uniform(0, 1) < 0.5, -1.0, 1.0), torch.ones_like(area[:, 0])], dim=-1)
    crops = torch.cat([(side * share).diag_embed(), middle[..., None]], dim=-1)
    with torch.autocast(device.type, enabled=False):  # half precision places pixels up to half a pixel off
        grid = F.affine_grid(crops, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, padding_mode="border", align_corners=False).reshape(frames.shape)
