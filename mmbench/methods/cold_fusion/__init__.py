"""COLD Fusion: modalities weigh in the fusion by the certainty that their own latent distributions claim.

A recurrent network per modality gives a Gaussian over the context of every step. The norm of its variance is the
modality's uncertainty; the fused mean weighs the modalities by one over it. What keeps the variances honest is a
matching loss: within a modality uncertainty must follow the error (calibration), and across modalities it must be
comparable (ordinality).

Paper: Tellamekala, Amiriparian, Schuller, André, Giesbrecht, Valstar, "COLD Fusion: Calibrated and Ordinal Latent
Distribution Fusion for Uncertainty-Aware Multimodal Emotion Recognition", TPAMI 46(2), 2024, arXiv 2206.05833. Only its
abstract was at hand, and no official code was found: latent distributions, calibration and ordinality are the paper's,
their equations those of an independent re-implementation for audio and text, the code of arXiv 2502.18285
(mortezaro/psychosis_speech_analysis@9e521b6), rewritten. Deviations: see ``COLDFusion.card``.

Shapes: inputs ``(B, T_m, D_m)``; means and log-variances ``(N_m, H)``; scores ``(N_m,)`` by step and ``(B,)`` by
sample; fused mean ``(B, H)``; predictions ``(B, outputs)``. Aligned modalities are fused step by step and then averaged
over time; others are averaged first and fused once.

Terms of the loss, with the score ``s = || var ||_2``, the error ``d`` of a modality's own prediction (squared error, or
minus the log-probability of the label), the items of a batch as outcomes, ``P(x) = softmax(-x / temperature)`` and
``J(P, Q) = KL(P || Q) + KL(Q || P)``:

* ``task``, and ``task_<modality>`` times ``unimodal_weight``: the task losses.
* ``calibration``: ``lambda_co sum_m J(P(d_m), P(s_m))``.
* ``ordinality``: ``lambda_co J(P([d_m]_m), P([s_m]_m))``, over the items of all modalities together.
* ``prior``: ``lambda_reg sum_m KL(N(mean_m, var_m) || N(0, I))``, summed over ``H``, averaged over all real steps.

The items are those of the local batch: under DDP nothing is gathered from other processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import Batch, DataSpec, Sequence
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import ConfigError, MethodConfig, setting
from mmbench.nn.dropout import Dropout
from mmbench.nn.pooling import masked_mean
from mmbench.nn.recurrence import gru
from mmbench.nn.steps import Layout
from mmbench.nn.variational import reparameterised, standard_normal_kl
from mmbench.tasks import Task

VARIANCES = (1e-6, 1e4)
"""Limits of the variances that scores and draws see; the prior term sees them as they are."""

_LEAST = 1e-8  # smallest probability that a divergence sees


def symmetric_divergence(p: Tensor, q: Tensor) -> Tensor:
    """Return ``KL(p || q) + KL(q || p)`` of two distributions ``(N,)``, a scalar."""
    p, q = p.clamp(min=_LEAST), q.clamp(min=_LEAST)
    return ((p - q) * (p.log() - q.log())).sum()


def matching(errors: Tensor, scores: Tensor, present: Tensor, temperature: float = 1.0) -> Tensor:
    """Return how far the uncertainty of items is from following their error, a scalar from 0 on.

    Both become distributions over the items that favour the good ones; a constant added to either changes nothing.

    Args:
        errors: ``(N,)``.
        scores: ``(N,)``.
        present: ``(N,)`` bool, the items that count.
        temperature: Divides both.
    """
    p, q = (
        (-values / temperature).masked_fill(~present, torch.finfo(values.dtype).min).softmax(0)
        for values in (errors, scores)
    )
    return symmetric_divergence(p, q)


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

    def __init__(self, dims: Mapping[str, int], outputs: int, settings: COLDFusion.Config, by_step: bool) -> None:
        super().__init__()
        c = settings
        self.by_step, self.score, self.sample, self.legacy = by_step, c.score, c.sample, c.legacy_averages
        self.distributions = nn.ModuleDict({name: ContextDistribution(dim, c.hidden) for name, dim in dims.items()})
        self.dropout = Dropout(c.dropout)
        self.heads = nn.ModuleDict({name: nn.Linear(c.hidden, outputs) for name in (*dims, "fused")})

    def forward(self, inputs: Mapping[str, Sequence], kept: Mapping[str, Tensor] | None = None) -> Output:
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
                sequence = Sequence(sequence.values, torch.full_like(sequence.lengths, sequence.values.shape[1]))
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


class COLDFusion(FusionMethod):
    """Calibrated and ordinal latent distribution fusion."""

    card = MethodCard(
        title="COLD Fusion: Calibrated and Ordinal Latent Distribution Fusion",
        authors="Tellamekala, Amiriparian, Schuller, André, Giesbrecht, Valstar",
        year=2024,
        venue="TPAMI 46(2)",
        arxiv="2206.05833",
        fidelity="paper",
        deviations=(
            "There is no official code: the equations are those of an independent re-implementation for audio and "
            "text, not read in the paper; no number of the paper is claimed to be reproduced.",
            "Of that re-implementation too are: latents that are means, uncertainty as the norm of the variance, "
            "matching at temperature 1, and a matching loss that also teaches predictions (sample, score, temperature, "
            "detach_error).",
            "Time averages run over real steps and the prior term is summed over the latent dimension; the "
            "re-implementation averages over padding too and sums over time (legacy_averages).",
            "The unimodal heads have task losses of their own; in the re-implementation only the matching loss "
            "teaches them (unimodal_weight: 0).",
            "lambda_co is 0.1 and lambda_reg 0.001 by default; the re-implementation has 1 for both.",
            "The task loss of regression is L1 by default; the re-implementation has the squared error.",
            "Inferred: the error of several outputs or labels is the sum over them.",
            "Inferred: modalities without a common time axis are averaged over time and fused once.",
            "Inferred: three modalities use the formulas of two, with the errors and scores of all three together in "
            "the ordinality term.",
            "Inferred: the items that the matching loss compares are the samples of a batch, as labels are per sample.",
            "Inferred: a modality of which nothing was kept has no weight and no part in the matching loss.",
            "As in the re-implementation the head is one linear layer on the weighted mean of the modalities: beyond "
            "what the weights do, a product of modalities is out of its reach.",
            "Inferred: dropout before the heads, sizes and learning rate.",
        ),
        needs=Needs(at_least=2),
    )

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings of COLD Fusion."""

        hidden: int = setting(128, "units H of the recurrent networks and width of the Gaussians", low=1)
        dropout: float = setting(0.2, "dropout before every head", low=0.0, high=1.0)
        lambda_co: float = setting(0.1, "weight of calibration and ordinality", low=0.0)
        lambda_reg: float = setting(1e-3, "weight of the prior term", low=0.0)
        unimodal_weight: float = setting(1.0, "weight of the task loss of every modality alone", low=0.0)
        regression_loss: str = setting("l1", "task loss of regression", choices=("l1", "mse"))
        calibration: bool = setting(True, "whether uncertainty must follow the error within a modality")
        ordinality: bool = setting(True, "whether uncertainty must be comparable across modalities")
        detach_error: bool = setting(False, "whether the matching loss leaves predictions alone")
        temperature: float = setting(1.0, "divides errors and scores before they are matched", low=1e-6)
        score: str = setting("variance", "what uncertainty is the norm of", choices=("variance", "std"))
        sample: bool = setting(False, "whether latents are drawn in training; else they are the means")
        level: str = setting(
            "auto", "where modalities are fused; auto: by step if they are aligned", choices=("auto", "step", "sample")
        )
        legacy_averages: bool = setting(
            False,
            "whether time averages include padding and the prior term sums over time, as in the re-implementation",
        )

    config: Config

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        c = self.config
        if c.level == "step" and not spec.aligned:
            raise ConfigError(
                f"{c.where('level')} is 'step', and the modalities of {spec.track} do not share their steps: set it to "
                "'auto' or 'sample'."
            )
        by_step = spec.aligned and c.level != "sample"
        self.network = COLDFusionNetwork(self.dims, self.task.outputs, c, by_step)

    def forward(self, batch: Batch) -> Output:
        """Return the prediction ``(B, outputs)``; see :meth:`COLDFusionNetwork.forward` for what else."""
        output: Output = self.network(self.features(batch), batch.kept)
        return output

    def errors(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return the error ``d`` of every sample, ``(B,)``: squared error or minus the label's log-probability.

        Args:
            prediction: ``(B, outputs)``.
            target: ``(B,)`` or ``(B, C)``.
        """
        kind = self.task.target.kind
        if kind == "regression":
            every = (prediction.reshape(target.shape) - target).square()
        elif kind == "multiclass":
            every = F.cross_entropy(prediction, target, reduction="none")
        elif kind == "multilabel":
            every = F.binary_cross_entropy_with_logits(prediction, target.to(prediction.dtype), reduction="none")
        else:
            every = F.cross_entropy(prediction.reshape(-1, 2), target.reshape(-1), reduction="none")
        return every.reshape(len(target), -1).sum(1)

    def _task(self, prediction: Tensor, batch: Batch) -> Tensor:
        if self.task.target.kind == "regression" and self.config.regression_loss == "mse":
            return F.mse_loss(prediction.reshape(batch.target.shape), batch.target)
        return self.task.loss(prediction, batch)

    def _prior(self, named: Mapping[str, Tensor], name: str) -> Tensor:
        """Return the distance of a modality's Gaussians to the standard normal, a scalar."""
        elements, real = standard_normal_kl(named[f"mean_{name}"], named[f"logvar_{name}"]), named[f"real_{name}"]
        if self.config.legacy_averages:  # a sum over time, a mean over the dimension
            return elements.sum() / named[f"present_{name}"].numel() / elements.shape[-1]
        return (elements.sum(-1) * real).sum() / real.sum().clamp(min=1)

    def objective(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms; see the head of this file."""
        c, named, names = self.config, output.named, list(self.dims)
        terms = {"task": self._task(output.prediction, batch)}
        for name in names:
            terms[f"task_{name}"] = c.unimodal_weight * self._task(named[f"prediction_{name}"], batch)
        errors = [self.errors(named[f"prediction_{name}"], batch.target) for name in names]
        if c.detach_error:
            errors = [error.detach() for error in errors]
        scores, present = ([named[f"{part}_{name}"] for name in names] for part in ("score", "present"))
        if c.calibration:
            within = [matching(*items, c.temperature) for items in zip(errors, scores, present, strict=True)]
            terms["calibration"] = c.lambda_co * torch.stack(within).sum()
        if c.ordinality:
            across = matching(torch.cat(errors), torch.cat(scores), torch.cat(present), c.temperature)
            terms["ordinality"] = c.lambda_co * across
        terms["prior"] = c.lambda_reg * torch.stack([self._prior(named, name) for name in names]).sum()
        return terms
