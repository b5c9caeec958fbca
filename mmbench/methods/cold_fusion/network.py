"""The network of COLD Fusion: context distributions of the modalities, and their fusion by certainty."""

from __future__ import annotations

from collections.abc import Mapping

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

    def forward(self, inputs: Mapping[str, PaddedSequence], kept: Mapping[str, Tensor] | None = None) -> Output:
        """Return the fused prediction and what every modality says.

        Args:
            inputs: ``(B, T_m, D_m)`` by modality.
            kept: ``(B, T_m)`` bool by modality, the steps that survived a corruption; a modality without any is absent.

        Returns:
            ``named`` holds by modality, for the rows of its steps, ``mean_...`` and ``logvar_...`` ``(N, H)``,
            ``real_...`` ``(N,)`` bool and ``step_score_...`` ``(N,)``; ``score_...`` ``(B,)``, ``present_...`` ``(B,)``
            bool, ``prediction_...`` ``(B, outputs)`` and ``weight_...``, ``(B, T)`` where the fusion is by step and
            else ``(B, 1)``; and ``fused`` of the same steps, ``(B, T or 1, H)``.
        """
        named: dict[str, Tensor] = {}
        means, scores, present = [], [], []
        for name, distribution in self.distributions.items():
            sequence = inputs[name]
            if self.legacy:  # padding is read like anything else
                sequence = PaddedSequence(sequence.values, torch.full_like(sequence.lengths, sequence.values.shape[1]))
            layout = Layout.of(sequence)
            mean, logvar = distribution(layout.rows(sequence.values), layout)
            variance = logvar.exp().clamp(*VARIANCES)
            latent = reparameterised(mean, variance.sqrt()) if self.sample and self.training else mean
            step_score = (variance if self.score == "variance" else variance.sqrt()).norm(dim=-1)
            pooled, score = layout.mean(latent), layout.mean(step_score)
            survived = (sequence.mask if kept is None else kept[name]).any(1, keepdim=True)
            named |= {f"mean_{name}": mean, f"logvar_{name}": logvar, f"real_{name}": layout.positions > 0}
            named |= {f"step_score_{name}": step_score, f"score_{name}": score, f"present_{name}": survived[:, 0]}
            named[f"prediction_{name}"] = self.heads[name](self.dropout(pooled))
            means.append(layout.padded(latent) if self.by_step else pooled[:, None])
            scores.append(layout.padded(step_score) if self.by_step else score[:, None])
            present.append(survived & sequence.mask if self.by_step else survived)
        there = torch.stack(present, -1)
        # Real scores never reach the limit; that of a modality without any step is 0 and has no logarithm.
        weights = certainty_weights(torch.stack(scores, -1).clamp(min=VARIANCES[0]), there)
        named |= {f"weight_{name}": weights[..., number] for number, name in enumerate(self.distributions)}
        named["fused"] = (weights[..., None, :] * torch.stack(means, -1)).sum(-1)
        summary = masked_mean(named["fused"], there.any(-1)) if self.by_step else named["fused"][:, 0]
        return Output(self.heads["fused"](self.dropout(summary)), named)
