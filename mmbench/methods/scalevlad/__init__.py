"""ScaleVLAD: descriptors of all modalities at all time scales are gathered around vectors that all of them share.

Re-implementation from the abstract: no code is public, and the equations below rest on NetVLAD's mathematics and on
choices of this suite, which the card lists. Each modality passes a Transformer encoder. Means over windows of several
lengths, up to the whole utterance, make descriptors ``z``; their residuals to shared vectors ``c_k`` are summed into
``u_k``. A Transformer reads ``[cls; u_1; ...; u_K]`` and its first state is the prediction's. Because vectors and
assignment are the same for every modality and scale, they align what they gather.

Paper: Luo, Ji, Huang, Wang, Ji, Li, "ScaleVLAD: Improving Multimodal Sentiment Analysis via Multi-Scale Fusion of
Locally Descriptors", arXiv 2112.01368. NetVLAD: arXiv 1511.07247. Deviations: see ``ScaleVLAD.card``.

Shapes: modalities ``(B, T_m, D_m)``, each with its own lengths; states ``(B, T_m, d)``; descriptors ``(B, N, d)`` over
all modalities and scales; ``u (B, K, d)``; fused vector ``f (B, d)``; prediction ``(B, outputs)``.

* ``task``: the task loss.
* ``clustering``: ``lambda mean_i CE(f_i E^T / tau, p_i)`` for unit ``f_i``, slowly shifted centres ``E`` of a memory of
  past samples and the cluster ``p_i`` of the sample under them (shifted clustering, self-supervised).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import Batch, DataSpec, Sequence
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard
from mmbench.methods.config import ConfigError, MethodConfig, setting
from mmbench.methods.scalevlad.clustering import ShiftedClustering
from mmbench.methods.scalevlad.vlad import MultiScale, SharedVLAD
from mmbench.nn.encoders import StepEncoder, pre_norm_transformer
from mmbench.nn.steps import Layout, encode
from mmbench.nn.words import words
from mmbench.tasks import Task


class StateEncoder(StepEncoder):
    """States of the steps of a sequence; arguments as in :class:`~mmbench.nn.encoders.StepEncoder`."""

    def forward(self, sequence: Sequence) -> Sequence:
        """Return ``(B, T, width)`` for ``(B, T, dim)``."""
        states, layout = self.states(sequence)
        return Sequence(layout.padded(states), sequence.lengths)


class WordEncoder(nn.Module):
    """One linear layer on the states that a pretrained encoder gives to words, without [CLS] and [SEP].

    Args:
        dim: Width of the pretrained encoder.
        width: Width of the states.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, width)

    def forward(self, sequence: Sequence) -> Sequence:
        """Return ``(B, T, width)`` for ``(B, T, dim)``."""
        inner = words(sequence)
        return Sequence(self.project(inner.values), inner.lengths)


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

    def forward(self, states: Mapping[str, Sequence]) -> Tensor:
        """Return ``u (B, K, width)`` before any normalisation for states ``(B, T_m, width)``."""
        found = {name: self.scales(item.values, item.mask) for name, item in states.items()}
        if self.shared:
            descriptors, valid = (torch.cat(parts, dim=1) for parts in zip(*found.values(), strict=True))
            found = {"all": (descriptors, valid)}
        return torch.stack([vlad(*found[name])[0] for name, vlad in self.vlads.items()]).sum(0)


class ScaleVLADNetwork(nn.Module):
    """Encoders, fusion and head.

    Args:
        dims: Features per step by modality.
        outputs: Width of the prediction.
        settings: The method's settings.
        tokens: Whether text comes as the states of a pretrained encoder of tokens.
    """

    def __init__(self, dims: Mapping[str, int], outputs: int, settings: ScaleVLAD.Config, tokens: bool = False) -> None:
        super().__init__()
        c, width = settings, settings.width
        self.encoders = nn.ModuleDict(
            {
                name: WordEncoder(dim, width)
                if name == "text" and tokens
                else StateEncoder(dim, width, c.layers, c.heads, c.dropout)
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

    def forward(self, features: Mapping[str, Sequence]) -> Output:
        """Return the prediction and, named ``fused``, the vector ``(B, width)`` that is clustered, if any is."""
        states = {name: encoder(features[name]) for name, encoder in self.encoders.items()}
        gathered = self.norm(F.normalize(self.fusion(states), dim=-1))
        # The token stands last, where it is read; the others have no order either.
        tokens = F.pad(gathered, (0, 0, 0, 1)) + self.index.roll(-1, 0)
        layout = Layout.of_all(tokens)
        prediction = self.head(encode(self.top, layout.rows(tokens), layout, last=True))
        return Output(prediction, {"fused": self.fuse(gathered.flatten(1))} if self.fuse else {})


class ScaleVLAD(FusionMethod):
    """Multi-scale fusion of local descriptors around shared vectors."""

    card = MethodCard(
        title="ScaleVLAD: Multi-Scale Fusion of Locally Descriptors",
        authors="Huaishao Luo, Lei Ji, Yanyong Huang, Bin Wang, Shenggong Ji, Tianrui Li",
        year=2021,
        venue="arXiv preprint",
        arxiv="2112.01368",
        fidelity="abstract",
        deviations=(
            "A re-implementation from the abstract, which gives the parts (Transformer encoders, multi-scale vectors "
            "shared by the modalities, shifted clustering, Transformer and a full connection) and no number.",
            "Inferred: audio, vision and word vectors pass pre-norm Transformers after a normalisation of features; "
            "states of a pretrained text encoder pass one linear layer, without the marks at both ends.",
            "Inferred: a scale is the mean over windows side by side, with a layer of its own that all modalities "
            "share; the scales are 1, 2, 3, 10 steps and the whole utterance.",
            "Inferred: the gathering is NetVLAD's with decoupled assignment and its initial weights, eight vectors "
            "and no vector of a modality's own, followed by intra-normalisation and a layer norm.",
            "Inferred: the Transformer on top reads the gathered vectors behind a learned token whose state predicts.",
            "Inferred: shifted clustering is the cross-entropy of a sample's own cluster among those of a memory of "
            "past samples, whose centres drift towards new ones; targets are balanced over batch and memory, and the "
            "loss begins after the first epoch, with a memory half full.",
            "Inferred: Adam, at one rate for all but a text encoder, without warm-up or decoupled weight decay.",
        ),
    )

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings of ScaleVLAD; none is known from the authors."""

        width: int = setting(64, "width d of states, descriptors and vectors", low=1)
        layers: int = setting(1, "Transformer layers per modality", low=1)
        top_layers: int = setting(2, "Transformer layers on the gathered vectors", low=1)
        heads: int = setting(4, "attention heads, a divisor of width", low=1)
        dropout: float = setting(0.1, "dropout probability in the Transformers", low=0.0, high=1.0)
        vectors: int = setting(8, "number K of shared vectors", low=1)
        scales: tuple[int, ...] = setting((1, 2, 3, 10), "steps per window, by scale; each once")
        utterance: bool = setting(True, "whether the whole utterance is a scale too")
        shared: bool = setting(True, "whether all modalities share the vectors")
        clustering: float = setting(0.1, "weight lambda of shifted clustering", low=0.0)
        clustering_start: int = setting(1, "first epoch with shifted clustering, from 0", low=0)
        clusters: int = setting(16, "number of clusters", low=2)
        memory: int = setting(512, "samples that shifted clustering remembers; it begins with half of them", low=2)
        temperature: float = setting(0.1, "divides cosines in shifted clustering", low=1e-3)
        momentum: float = setting(0.9, "weight of the old centres when they move; 1 keeps them", low=0.0, high=1.0)
        refresh: int = setting(50, "steps after which the centres move", low=1)
        balanced: bool = setting(True, "whether samples are assigned to clusters in balance")

        def __post_init__(self) -> None:
            """Check heads, scales and the room that clusters have in the memory."""
            super().__post_init__()
            if self.width % self.heads:
                raise ConfigError(f"{self.where('heads')} is {self.heads}; it must divide width, {self.width}.")
            if any(scale < 1 for scale in self.scales) or len(set(self.scales)) < len(self.scales):
                raise ConfigError(f"{self.where('scales')} is {self.scales}; give windows of at least 1, each once.")
            if not (self.scales or self.utterance):
                raise ConfigError(f"{self.where('scales')} is empty and utterance is off; give a scale.")
            if self.memory // 2 < self.clusters:
                raise ConfigError(
                    f"{self.where('memory')} is {self.memory}; half of it must hold the {self.clusters} clusters."
                )

    config: Config

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        c = self.config
        self.network = ScaleVLADNetwork(self.dims, self.task.outputs, c, tokens=self.text_encoder is not None)
        self.clustering: ShiftedClustering | None = None
        if c.clustering:
            self.clustering = ShiftedClustering(
                c.width, c.clusters, c.memory, c.temperature, c.momentum, c.refresh, c.balanced
            )

    def forward(self, batch: Batch) -> Output:
        """Return the prediction ``(B, outputs)`` and the fused vector."""
        output: Output = self.network(self.features(batch))
        return output

    def objective(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Return the task loss and shifted clustering, which in training remembers the batch."""
        terms = super().objective(output, batch)
        if self.clustering is not None:
            active = self.current_epoch >= self.config.clustering_start
            terms["clustering"] = self.config.clustering * self.clustering(output.named["fused"], active)
        return terms
