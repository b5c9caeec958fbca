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

import torch
import torch.nn.functional as F
from torch import Tensor

from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.cold_fusion.config import COLDFusionConfig
from mmbench.methods.cold_fusion.losses import matching
from mmbench.methods.cold_fusion.network import COLDFusionNetwork, COLDFusionOutput
from mmbench.methods.config import ConfigError, MethodConfig
from mmbench.nn.variational import standard_normal_kl
from mmbench.tasks import Task


class COLDFusion(FusionMethod):
    """Calibrated and ordinal latent distribution fusion.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.cold_fusion import COLDFusion
        >>> spec = make_spec()
        >>> model, batch = COLDFusion(spec), make_batch(spec)
        >>> list(model.objective(model(batch), batch))
        ['task', 'task_text', 'task_audio', 'task_vision', 'calibration', 'ordinality', 'prior']
    """

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

    Config = COLDFusionConfig
    config: COLDFusionConfig

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

    def forward(self, batch: Batch) -> COLDFusionOutput:
        """Return the prediction ``(B, outputs)`` and what every modality says."""
        return self.network(self.features(batch), batch.kept)

    def errors(self, prediction: Tensor, batch: Batch) -> Tensor:
        """Return the error ``d`` of every sample, ``(B,)``: squared error or minus the label's log-probability.

        Args:
            prediction: ``(B, outputs)``.
            batch: The batch that was predicted.
        """
        if self.task.target.kind == "regression":
            every = (prediction.reshape(batch.target.shape) - batch.target).square()
        else:
            every = self.task.loss(prediction, batch, reduction="none")
        return every.reshape(batch.size, -1).sum(1)

    def _task(self, prediction: Tensor, batch: Batch) -> Tensor:
        if self.task.target.kind == "regression" and self.config.regression_loss == "mse":
            return F.mse_loss(prediction.reshape(batch.target.shape), batch.target)
        return self.task.loss(prediction, batch)

    def _prior(self, output: COLDFusionOutput, name: str) -> Tensor:
        """Return the distance of a modality's Gaussians to the standard normal, a scalar."""
        elements, real = standard_normal_kl(output.mean[name], output.logvar[name]), output.real[name]
        if self.config.legacy_averages:  # a sum over time, a mean over the dimension
            return elements.sum() / output.present[name].numel() / elements.shape[-1]
        return (elements.sum(-1) * real).sum() / real.sum().clamp(min=1)

    def objective(self, output: COLDFusionOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms; see the head of this file."""
        c = self.config
        terms = {"task": self._task(output.prediction, batch)}
        for name, prediction in output.alone.items():
            terms[f"task_{name}"] = c.unimodal_weight * self._task(prediction, batch)
        errors = [self.errors(prediction, batch) for prediction in output.alone.values()]
        if c.detach_error:
            errors = [error.detach() for error in errors]
        scores, present = list(output.score.values()), list(output.present.values())
        if c.calibration:
            within = [matching(*items, c.temperature) for items in zip(errors, scores, present, strict=True)]
            terms["calibration"] = c.lambda_co * torch.stack(within).sum()
        if c.ordinality:
            across = matching(torch.cat(errors), torch.cat(scores), torch.cat(present), c.temperature)
            terms["ordinality"] = c.lambda_co * across
        terms["prior"] = c.lambda_reg * torch.stack([self._prior(output, name) for name in output.mean]).sum()
        return terms
