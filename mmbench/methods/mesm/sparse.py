"""Convolutions on the places of a map that a text picked, in dense arithmetic.

The sparse half of MESM (Dai et al., NAACL 2021, arXiv 2103.09666). A map ``(N, C, H, W)`` is zero outside its *sites*,
``(N, H, W)`` bool; a submanifold convolution, batch normalisation over the sites and max pooling leave it so. That
equals a library of sparse convolutions to the last digits, needs none, and saves no time: what sparse arithmetic would
cost is counted.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.methods.mesm.vgg import convolution, low_level
from mmbench.nn.encoders import FeatureNorm
from mmbench.nn.precision import at_least_single

BLOCKS = 3


@torch.no_grad()
def nucleus(scores: Tensor, mass: float, active: Tensor) -> Tensor:
    """Return the fewest sites of each map that have the mass together, at least one where there is any.

    Args:
        scores: ``(N, H, W)`` from 0 on, with sum 1 over the active sites of a map.
        mass: What they must reach, ``p`` of nucleus sampling.
        active: ``(N, H, W)`` bool, the sites to choose from.

    Returns:
        ``(N, H, W)`` bool.
    """
    if mass >= 1.0:  # whatever rounding makes of the sum
        return active
    flat = at_least_single(scores.flatten(1))
    ordered, places = flat.masked_fill(~active.flatten(1), -1.0).sort(dim=1, descending=True, stable=True)
    before = F.pad(ordered.clamp(min=0.0).cumsum(1)[:, :-1], (1, 0))
    kept = before < mass
    kept[:, 0] = True
    return torch.zeros_like(kept).scatter(1, places, kept).view_as(active) & active


def halved(sites: Tensor) -> Tensor:
    """Return ``(N, H // 2, W // 2)``: which 2x2 windows have a site."""
    return F.max_pool2d(sites.float(), 2) > 0


def legacy_reordered(maps: Tensor, sites: Tensor) -> Tensor:
    """Return the maps with the vectors of their sites where the official code puts them, a bug.

    The k-th vector in the order (map, row, column) goes to the k-th site in the order (row, column, map): to another
    place, another frame, another sample of the batch.

    Args:
        maps: ``(N, C, H, W)``.
        sites: ``(N, H, W)`` bool.
    """
    last = maps.permute(0, 2, 3, 1)
    there = sites.permute(1, 2, 0)
    moved = last.new_zeros(*there.shape, last.shape[-1])
    moved[there] = last[sites]
    return moved.permute(2, 3, 0, 1)


class CrossModalAttention(nn.Module):
    """Additive attention of a text to the active sites of a map: ``w^T tanh(W_m M_j + b_m + W_q t) + b``, softmax.

    Args:
        channels: Channels of the map.
        text: Width of the text vector.
    """

    def __init__(self, channels: int, text: int) -> None:
        super().__init__()
        self.place = nn.Linear(channels, channels)
        self.text = nn.Linear(text, channels, bias=False)
        self.score = nn.Linear(channels, 1)

    def forward(self, maps: Tensor, active: Tensor, text: Tensor, rows: Tensor) -> Tensor:
        """Return ``(N, H, W)`` scores, 0 outside the active sites of a map and 1 together.

        Args:
            maps: ``(N, C, H, W)``.
            active: ``(N, H, W)`` bool.
            text: ``(B, D)``, one vector per sample.
            rows: ``(N,)`` sample of each map.
        """
        hidden = self.place(maps.permute(0, 2, 3, 1)) + self.text(text)[rows, None, None]
        energies = at_least_single(self.score(hidden.tanh()).squeeze(-1))
        scores = energies.masked_fill(~active, torch.finfo(energies.dtype).min).flatten(1).softmax(1)
        return scores.view_as(energies).masked_fill(~active, 0.0)


class SparseBlock(nn.Module):
    """Twice a submanifold 3x3 convolution, normalisation over sites and ReLU; then 2x2 max pooling.

    Args:
        inputs: Channels that come in.
        outputs: Channels that go out.
        momentum: Weight of a batch in the running statistics; the sparse library of the official code has 0.01.
    """

    def __init__(self, inputs: int, outputs: int, momentum: float = 0.01) -> None:
        super().__init__()
        self.flops = 2 * 9 * outputs * (inputs + outputs)  # per site, of both convolutions
        self.convolutions = nn.ModuleList(convolution(width, outputs, bias=False) for width in (inputs, outputs))
        # The epsilon, too, is that of the sparse library.
        self.norms = nn.ModuleList(FeatureNorm(outputs, momentum, epsilon=1e-4) for _ in range(2))

    def forward(self, maps: Tensor, sites: Tensor) -> tuple[Tensor, Tensor]:
        """Return maps ``(N, outputs, H // 2, W // 2)`` and their sites.

        Args:
            maps: ``(N, inputs, H, W)``, zero outside the sites.
            sites: ``(N, H, W)`` bool.
        """
        for layer, norm in zip(self.convolutions, self.norms, strict=True):
            # What the convolution leaves outside the sites the normalisation sets to zero.
            maps = norm(layer(maps).permute(0, 2, 3, 1), sites).permute(0, 3, 1, 2).relu()
        # Nothing is below zero after ReLU, so the zeros outside the sites win over no site.
        return F.max_pool2d(maps, 2), halved(sites)


class SparseMaps(NamedTuple):
    """What a sparse tower makes of N pictures.

    Attributes:
        maps: ``(N, 8 width, H // 16, W // 16)``, zero outside the last sites.
        flops: ``(N,)`` what the convolutions of the blocks cost on the kept sites.
        dense_flops: What they cost on all sites of one picture.
    """

    maps: Tensor
    flops: Tensor
    dense_flops: int


class SparseTower(nn.Module):
    """A dense low level, and blocks whose sites a text picks.

    Args:
        channels: Channels of the pictures.
        width: Channels of the low level; every block doubles them.
        text: Width of the text vector.
        mass: Mass of the nucleus.
        gate: What selection does to kept vectors: ``none`` (nothing, so that the attention has no gradient and is
            frozen), ``prob`` (multiplies them by their score times the number of kept sites) or ``straight_through``
            (nothing, with the gradient of ``prob``).
        legacy_order: Whether kept vectors of the first block land on wrong sites, see :func:`legacy_reordered`.
        momentum: Weight of a batch in the running statistics of the blocks.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        text: int,
        mass: float,
        gate: str = "prob",
        legacy_order: bool = False,
        momentum: float = 0.01,
    ) -> None:
        super().__init__()
        self.mass, self.gate, self.legacy_order = mass, gate, legacy_order
        self.low = low_level(channels, width)
        widths = [width << step for step in range(BLOCKS)]
        self.attentions = nn.ModuleList(CrossModalAttention(inputs, text) for inputs in widths)
        self.blocks = nn.ModuleList(SparseBlock(inputs, 2 * inputs, momentum) for inputs in widths)
        if gate == "none":
            self.attentions.requires_grad_(False)

    def forward(self, pictures: Tensor, text: Tensor, rows: Tensor) -> SparseMaps:
        """Return maps and their cost.

        Args:
            pictures: ``(N, channels, H, W)``.
            text: ``(B, D)``, one vector per sample.
            rows: ``(N,)`` sample of each picture.
        """
        maps: Tensor = self.low(pictures)
        active = torch.ones_like(maps[:, 0], dtype=torch.bool)
        flops, dense = torch.zeros(len(maps), device=maps.device), 0
        for number, (attention, module) in enumerate(zip(self.attentions, self.blocks, strict=True)):
            block = cast(SparseBlock, module)
            scores = attention(maps, active, text, rows)
            kept = nucleus(scores, self.mass, active)
            flops = flops + block.flops * kept.sum((1, 2))
            dense += block.flops * math.prod(kept.shape[1:])
            maps = self.gated(maps, scores, kept)
            if self.legacy_order and not number:
                maps = legacy_reordered(maps, kept)
            maps, active = block(maps, kept)
        return SparseMaps(maps, flops, dense)

    def gated(self, maps: Tensor, scores: Tensor, kept: Tensor) -> Tensor:
        """Return the maps with zeros outside the kept sites and the gate on them."""
        if self.gate == "none":
            factor = kept.to(maps.dtype)
        else:
            # A site of average score keeps its size.
            factor = scores * kept.sum((1, 2), keepdim=True) * kept
            if self.gate == "straight_through":
                factor = kept + factor - factor.detach()
        return maps * factor.unsqueeze(1)
