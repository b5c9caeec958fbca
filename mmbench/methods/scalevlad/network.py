"""The network of ScaleVLAD: encoders of the modalities, the gathering, and the Transformer on top."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import PaddedSequence
from mmbench.methods.output import Output
from mmbench.methods.scalevlad.config import ScaleVLADConfig
from mmbench.methods.scalevlad.vlad import MultiScale, SharedVLAD
from mmbench.nn.encoders import StepEncoder, pre_norm_transformer
from mmbench.nn.steps import Layout, encode
from mmbench.nn.words import without_marks


class StepStates(StepEncoder):
    """States of the steps of a sequence; arguments as in :class:`~mmbench.nn.encoders.StepEncoder`."""

    def forward(self, sequence: PaddedSequence) -> PaddedSequence:
        """Return ``(B, T, width)`` for ``(B, T, dim)``."""
        states, layout = self.states(sequence)
        return PaddedSequence(layout.padded(states), sequence.lengths)


class WordEncoder(nn.Module):
    """One linear layer on the states that a pretrained encoder gives to words, without [CLS] and [SEP].

    Args:
        dim: Width of the pretrained encoder.
        width: Width of the states.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, width)

    def forward(self, sequence: PaddedSequence) -> PaddedSequence:
        """Return ``(B, T, width)`` for ``(B, T, dim)``."""
        inner = without_marks(sequence)
        return PaddedSequence(self.project(inner.values), inner.lengths)


class ScaleVLADFusion(nn.Module):
    """From states of any modalities to sums of residuals around shared vectors.

    Args:
        names: The modalities.
        width: Width of states, descriptors and vectors.
        vectors: Number of vectors.
        windows: Steps per window, by scale; 0 stands for the whole utterance.
        shared: Whether all modalities share the vectors; otherwise each has its own, and their sums are added.
    """

    def __init__(
        self, names: tuple[str, ...], width: int, vectors: int, windows: tuple[int, ...], shared: bool
    ) -> None:
        super().__init__()
        self.shared = shared
        self.scales = MultiScale(width, windows)
        self.vlads = nn.ModuleDict({name: SharedVLAD(width, vectors) for name in (("all",) if shared else names)})

    def forward(self, states: Mapping[str, PaddedSequence]) -> Tensor:
        """Return ``u (B, K, width)`` before any normalisation for states ``(B, T_m, width)``."""
        found = {name: self.scales(item.values, item.mask) for name, item in states.items()}
        if self.shared:
            descriptors, valid = (torch.cat(parts, dim=1) for parts in zip(*found.values(), strict=True))
            found = {"all": (descriptors, valid)}
        return torch.stack([vlad(*found[name])[0] for name, vlad in self.vlads.items()]).sum(0)


@dataclass(kw_only=True)
class ScaleVLADOutput(Output):
    """The prediction and the vector ``(B, width)`` that is clustered, if any is."""

    fused: Tensor | None


class ScaleVLADNetwork(nn.Module):
    """Encoders, fusion and head.

    Args:
        dims: Features per step by modality.
        outputs: Width of the prediction.
        settings: The method's settings.
        tokens: Whether text comes as the states of a pretrained encoder of tokens.
    """

    def __init__(self, dims: Mapping[str, int], outputs: int, settings: ScaleVLADConfig, tokens: bool = False) -> None:
        super().__init__()
        c, width = settings, settings.width
        self.encoders = nn.ModuleDict(
            {
                name: WordEncoder(dim, width)
                if name == "text" and tokens
                else StepStates(dim, width, c.layers, c.heads, c.dropout)
                for name, dim in dims.items()
            }
        )
        windows = (*c.scales, 0) if c.utterance else c.scales
        self.fusion = ScaleVLADFusion(tuple(dims), width, c.vectors, windows, c.shared)
        self.norm = nn.LayerNorm(width)
        self.fuse: nn.Module | None = None
        if c.clustering:
            self.fuse = nn.Sequential(nn.Linear(c.vectors * width, width), nn.GELU(), nn.LayerNorm(width))
        self.index = nn.Parameter(torch.randn(1 + c.vectors, width) * 0.02)  # its first row is the token [cls]
        self.top = pre_norm_transformer(width, c.top_layers, c.heads, c.dropout)
        self.head = nn.Linear(width, outputs)

    def forward(self, features: Mapping[str, PaddedSequence]) -> ScaleVLADOutput:
        """Return the prediction and the fused vector."""
        states = {name: encoder(features[name]) for name, encoder in self.encoders.items()}
        gathered = self.norm(F.normalize(self.fusion(states), dim=-1))
        # The token stands last, where it is read; the others have no order either.
        tokens = F.pad(gathered, (0, 0, 0, 1)) + self.index.roll(-1, 0)
        layout = Layout.of_all(tokens)
        prediction = self.head(encode(self.top, layout.rows(tokens), layout, last=True))
        return ScaleVLADOutput(prediction, fused=self.fuse(gathered.flatten(1)) if self.fuse else None)
