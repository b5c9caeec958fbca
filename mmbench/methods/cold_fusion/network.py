"""The network of COLD Fusion: context distributions of the modalities, and their fusion by certainty."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from data_modules.schema import PaddedSequence
from mmbench.methods.cold_fusion.config import COLDFusionConfig
from mmbench.methods.output import Output
from mmbench.nn.dropout import Dropout
from mmbench.nn.pooling import masked_mean
from mmbench.nn.recurrence import gru
from mmbench.nn.steps import Layout
from mmbench.nn.variational import reparameterised

VARIANCES = (1e-6, 1e4)
"""Limits of the variances that scores and draws see; the prior term sees them as they are."""


def certainty_weights(scores: Tensor, present: Tensor) -> Tensor:
    """Return weights proportional to one over the score, zero for what is absent.

    Args:
        scores: ``(..., M)`` positive uncertainty of every modality.
        present: ``(..., M)`` bool; where nothing is present all count.

    Returns:
        ``(..., M)`` weights that sum to 1.
    """
    return (-scores.log()).masked_fill(~present & present.any(-1, keepdim=True), -torch.inf).softmax(-1)


class ContextDistribution(nn.Module):
    """A Gaussian over the context of every step of one modality.

    Args:
        dim: Features per step.
        hidden: Units of the recurrent network and width of the Gaussian.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, hidden, batch_first=True)
        self.mean = nn.Linear(hidden, hidden)
        self.logvar = nn.Linear(hidden, hidden)

    def forward(self, rows: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, ``(N, H)`` each.

        Args:
            rows: ``(N, dim)``.
            layout: Where they belong.
        """
        context = gru(self.gru, rows, layout)
        return self.mean(context), self.logvar(context)


@dataclass(kw_only=True)
class COLDFusionOutput(Output):
    """The fused prediction and what every modality says.

    Attributes:
        mean: ``(N, H)`` by modality, for the rows of its steps.
        logvar: Beside it.
        real: ``(N,)`` bool by modality.
        step_score: ``(N,)`` by modality.
        score: ``(B,)`` by modality.
        present: ``(B,)`` bool by modality.
        alone: ``(B, outputs)`` by modality, its own prediction.
        weight: By modality ``(B, T)``, or ``(B, 1)`` where the fusion is not by step.
        fused: ``(B, T or 1, H)``, of the same steps.
    """

    mean: dict[str, Tensor]
    logvar: dict[str, Tensor]
    real: dict[str, Tensor]
    step_score: dict[str, Tensor]
    score: dict[str, Tensor]
    present: dict[str, Tensor]
    alone: dict[str, Tensor] = field(metadata={"named": "prediction"})
    weight: dict[str, Tensor]
    fused: Tensor


class COLDFusionNetwork(nn.Module):
    """Distributions, fusion by certainty and heads.

    Args:
        dims: Features per step by modality.
        outputs: Width of the predictions.
        settings: The method's settings.
        by_step: Whether the modalities share their steps and are fused before they are averaged over time.
    """

    def __init__(self, dims: Mapping[str, int], outputs: int, settings: COLDFusionConfig, by_step: bool) -> None:
        super().__init__()
        c = settings
        self.by_step, self.score, self.sample, self.legacy = by_step, c.score, c.sample, c.legacy_averages
        self.distributions = nn.ModuleDict({name: ContextDistribution(dim, c.hidden) for name, dim in dims.items()})
        self.dropout = Dropout(c.dropout)
        self.heads = nn.ModuleDict({name: nn.Linear(c.hidden, outputs) for name in (*dims, "fused")})

    def forward(
        self, inputs: Mapping[str, PaddedSequence], kept: Mapping[str, Tensor] | None = None
    ) -> COLDFusionOutput:
        """Return the fused prediction and what every modality says.

        Args:
            inputs: ``(B, T_m, D_m)`` by modality.
            kept: ``(B, T_m)`` bool by modality, the steps that survived a corruption; a modality without any is absent.
        """
        mean, logvar, real, step_score, score, present, alone = {}, {}, {}, {}, {}, {}, {}
        latents, uncertain, there = [], [], []
        for name, distribution in self.distributions.items():
            sequence = inputs[name]
            if self.legacy:  # padding is read like anything else
                sequence = PaddedSequence(sequence.values, torch.full_like(sequence.lengths, sequence.values.shape[1]))
            layout = Layout.of(sequence)
            mean[name], logvar[name] = distribution(layout.rows(sequence.values), layout)
            variance = logvar[name].exp().clamp(*VARIANCES)
            latent = reparameterised(mean[name], variance.sqrt()) if self.sample and self.training else mean[name]
            of_steps = (variance if self.score == "variance" else variance.sqrt()).norm(dim=-1)
            pooled, of_sample = layout.mean(latent), layout.mean(of_steps)
            survived = (sequence.mask if kept is None else kept[name]).any(1, keepdim=True)
            real[name], step_score[name], score[name] = layout.positions > 0, of_steps, of_sample
            present[name], alone[name] = survived[:, 0], self.heads[name](self.dropout(pooled))
            latents.append(layout.padded(latent) if self.by_step else pooled[:, None])
            uncertain.append(layout.padded(of_steps) if self.by_step else of_sample[:, None])
            there.append(survived & sequence.mask if self.by_step else survived)
        known = torch.stack(there, -1)
        # Real scores never reach the limit; that of a modality without any step is 0 and has no logarithm.
        weights = certainty_weights(torch.stack(uncertain, -1).clamp(min=VARIANCES[0]), known)
        fused = (weights[..., None, :] * torch.stack(latents, -1)).sum(-1)
        summary = masked_mean(fused, known.any(-1)) if self.by_step else fused[:, 0]
        return COLDFusionOutput(
            self.heads["fused"](self.dropout(summary)),
            mean=mean,
            logvar=logvar,
            real=real,
            step_score=step_score,
            score=score,
            present=present,
            alone=alone,
            weight=dict(zip(self.distributions, weights.unbind(-1), strict=True)),
            fused=fused,
        )
