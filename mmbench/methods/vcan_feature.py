"""VCAN on features: steps of sound that stand out choose steps of sight, whose mean is classified.

A reconstruction for data that come as feature sequences, after the idea of VCAN (:mod:`mmbench.methods.vcan`): Chen,
Zhou, Li, Zhou, "Video-based Cross-modal Auxiliary Network for Multimodal Sentiment Analysis", IEEE TCSVT 2022, arXiv
2208.13954. None of its parts is the authors' code, and its numbers say nothing about VCAN on raw media.

For a sample with ``A`` acoustic steps ``a_j`` and ``V`` visual steps ``v_i``::

    score_j = variance over the features of a_j
    chosen = the ceil(share A) highest scores
    i_j = floor(j V / A) for every chosen j
    y = MLP(norm(mean of v_i over the distinct i_j))

The choice carries no gradient. With one step of sound or of sight there is nothing to choose: then the mean of all
visual steps is classified, and ``self.spec`` names vision alone.

Shapes: audio ``(B, A, D_a)``, vision ``(B, V, D_v)``, each with its own lengths; prediction ``(B, outputs)``. Loss: the
task loss alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data_modules.schema import Batch, DataSpec, PaddedSequence
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import ConfigError, MethodConfig, setting
from mmbench.nn.encoders import FeatureNorm
from mmbench.nn.fusion import post_fusion
from mmbench.nn.pooling import masked_mean
from mmbench.tasks import Task

PARTS = ("audio", "vision")


def standardized(sequence: PaddedSequence) -> Tensor:
    """Return the values ``(B, T, D)`` with mean 0 and deviation 1 of every feature over the real steps of a sample.

    A feature that does not change within a sample is 0, whatever rounding leaves of it.
    """
    values, mask = sequence.values, sequence.mask
    mean = masked_mean(values, mask)[:, None]
    centred = (values - mean).masked_fill(~mask[..., None], 0.0)
    deviation = masked_mean(centred.square(), mask).sqrt()[:, None]
    return centred / torch.where(deviation > 1e-6 * mean.abs(), deviation, torch.inf)


def striking_steps(values: Tensor, sequence: PaddedSequence, share: float) -> Tensor:
    """Return ``(B, T)`` bool: the steps with the highest variance over their features, a share of every sample's.

    Args:
        values: ``(B, T, D)`` what is scored.
        sequence: Says which steps are real.
        share: Part of a sample's real steps, rounded up; of equal scores the earlier is taken.
    """
    scores = values.var(-1, correction=0).masked_fill(~sequence.mask, -torch.inf)
    rank = scores.argsort(stable=True, dim=1, descending=True).argsort(1)
    # 0.07 * 100 is above 7 in floating point; one step is the least.
    wanted = torch.ceil(share * sequence.lengths.to(scores.device, torch.float64) - 1e-9).clamp(min=1)
    return (rank < wanted[:, None]) & sequence.mask


def matching_steps(chosen: Tensor, source: PaddedSequence, target: PaddedSequence) -> Tensor:
    """Return ``(B, V)`` bool: the steps of the target at the times of the chosen steps of the source.

    Args:
        chosen: ``(B, A)`` bool.
        source: The sequence that was chosen from.
        target: The sequence of the same time, with its own number of steps.
    """
    device = chosen.device
    steps = torch.arange(chosen.shape[1], device=device)
    have, want = source.lengths.to(device)[:, None], target.lengths.to(device)[:, None]
    matching = (steps * want // have.clamp(min=1)).clamp(max=target.values.shape[1] - 1)
    hits = torch.zeros(target.values.shape[:2], dtype=torch.long, device=device)
    return hits.scatter_add(1, matching, chosen.long()) > 0


class VCANFeature(FusionMethod):
    """Audio-guided choice of visual steps, and an MLP on their mean.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.vcan_feature import VCANFeature
        >>> spec = make_spec(steps=8)
        >>> model = VCANFeature(spec, config=VCANFeature.Config(share=0.25))
        >>> output = model(make_batch(spec))
        >>> int(output.named["chosen"][0].sum())  # of 8 steps, in the first sample
        2
    """

    card = MethodCard(
        title="Feature-level reconstruction of VCAN (audio-guided choice of visual steps)",
        authors="Chen, Zhou, Li, Zhou",
        year=2022,
        venue="IEEE TCSVT",
        arxiv="2208.13954",
        fidelity="abstract",
        deviations=(
            "Steps of features stand for columns of mel maps and for video frames; nothing is taken apart into modes.",
            "The score is the variance alone, because features have no bands whose share could be its exponent.",
            "Inferred: the best 13% of the acoustic steps choose, as 30 of some 227 columns do in VCAN at most.",
            "The mean of the chosen visual steps is classified by one MLP instead of each by a group of networks.",
            "With a single acoustic or visual step, such as action units averaged over a clip, there is nothing to "
            "choose: the method is then an MLP on the mean of vision, and sound has no part in it.",
        ),
        findings=(
            "Its high training loss on RAVDESS (1.13 at selection) is that of dropout, not of too little "
            "capacity: without dropout it falls to 0.15 and validation is no better.",
        ),
        needs=Needs(modalities=PARTS),
    )

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings of the feature-level VCAN."""

        share: float = setting(0.13, "part of the acoustic steps that choose, rounded up", low=0.0, high=1.0)
        standardize: bool = setting(
            False, "bring every acoustic feature to deviation 1 over its sample before the variance is taken"
        )
        width: int = setting(128, "width of the MLP's two hidden layers", low=1)
        dropout: float = setting(0.3, "dropout probability on the mean of the chosen steps", low=0.0, high=1.0)

        def __post_init__(self) -> None:
            """Check that something is chosen."""
            super().__post_init__()
            if self.share == 0:
                raise ConfigError(f"{self.where('share')} is 0; choose some steps, up to 1 for all.")

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        self.selects = self._selects(spec)
        if self.selects and self.dims["audio"] < 2:
            raise ConfigError(
                f"VCANFeature does not fit {spec.track}: the variance over one acoustic feature is 0 at every step, so "
                "that no step stands out."
            )
        self.norm = FeatureNorm(self.dims["vision"])
        self.head = post_fusion(self.dims["vision"], self.config.width, self.task.outputs, self.config.dropout)

    @staticmethod
    def _selects(spec: DataSpec) -> bool:
        return all(name in spec.modalities and spec.modalities[name].max_length > 1 for name in PARTS)

    @classmethod
    def reads(cls, spec: DataSpec, config: Any) -> tuple[str, ...]:
        """Return vision, and audio where it chooses among the steps of vision."""
        return PARTS if cls._selects(spec) else ("vision",)

    def forward(self, batch: Batch) -> Output:
        """Return the prediction ``(B, outputs)`` and, named, the ``chosen`` visual steps ``(B, V)``."""
        vision = batch.inputs["vision"]
        chosen = self._choose(batch.inputs["audio"], vision) if self.selects else vision.mask
        return Output(self.head(self.norm(masked_mean(vision.values, chosen))), {"chosen": chosen})

    def _choose(self, audio: PaddedSequence, vision: PaddedSequence) -> Tensor:
        with torch.no_grad():
            values = standardized(audio) if self.config.standardize else audio.values
            return matching_steps(striking_steps(values, audio, self.config.share), audio, vision) & vision.mask
