"""VSD: every view's bottleneck learns to say of the label what the view itself says, and what the other views say.

Each modality is a view. A branch of its own and a branch shared by all (one set of weights) turn it into a normalised
observation ``v`` and, through a deterministic bottleneck, a representation ``z``; a head on each gives ``p(y|v)`` and
``p(y|z)``. The prediction is read off the representations of all branches, concatenated.

Paper: Tian, Zhang, Lin, Qu, Xie, Ma, "Farewell to Mutual Information: Variational Distillation for Cross-Modal Person
Re-Identification", CVPR 2021, arXiv 2104.02862. Official code: see ``VSD.card`` (no licence), read; rewritten from its
equations, not copied. The paper is about images of persons: branches and terms are its own, the encoders, the label
distributions and the fusion are this suite's. Deviations: see the card.

Shapes: modalities ``(B, T_m, D_m)`` with their own lengths; ``v (B, width)``, ``z (B, z_dim)``; prediction
``(B, outputs)``. With M views, KL and JSD the Kullback-Leibler and Jensen-Shannon divergence, ``sg`` stop-gradient and
``sh`` the shared branch, the loss is the task's plus, each times its weight:

* ``heads``: ``sum_m (ce(v_m) + ce(z_m)) / 2 + sum_m (ce(v_m^sh) + ce(z_m^sh)) / 4``, cross-entropies of the label.
* ``vsd`` (self-distillation): ``sum_m KL(sg p(y|v_m) || p(y|z_m))``: the representation stays sufficient.
* ``vcd`` (cross-distillation): ``mean_{i != j} KL(sg p(y|v_j^sh) || p(y|z_i^sh))``: what is shared is of the label.
* ``vml`` (mutual learning): ``mean_{i < j} JSD(p(y|z_i^sh), p(y|z_j^sh))``: what one view alone says goes.
* ``rank`` (off by default): ranked-list losses on all ``v`` and ``z``; ``cml`` (off by default): Sinkhorn distances
  between what the observations of two views say of the batch. Both are in the official code beside the three terms.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, permutations

import torch
from torch import Tensor

from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import ConfigError, MethodConfig
from mmbench.methods.vsd.config import VSDConfig
from mmbench.methods.vsd.losses import ranked_list_loss, sinkhorn_distance
from mmbench.methods.vsd.network import VSDNetwork, VSDOutput
from mmbench.nn.gathering import gather_statistics
from mmbench.tasks import Task


class VSD(FusionMethod):
    """Variational self-distillation, cross-distillation and mutual learning.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.vsd import VSD
        >>> spec = make_spec()
        >>> model, batch = VSD(spec), make_batch(spec)
        >>> list(model.objective(model(batch), batch))
        ['task', 'heads', 'vsd', 'vcd', 'vml']
    """

    card = MethodCard(
        title="VSD: Variational Self-Distillation, with cross-distillation (VCD) and mutual learning (VML)",
        authors="Xudong Tian, Zhizhong Zhang, Shaohui Lin, Yanyun Qu, Yuan Xie, Lizhuang Ma",
        year=2021,
        venue="CVPR 2021",
        arxiv="2104.02862",
        code=(
            "FutabaSakuraXD/Farewell-to-Mutual-Information-Variational-Distiilation-for-Cross-Modal-Person-Re-"
            "identification@ae7c0187d2ed36e6ed5109c2e0476e7f17bc8ce2"
        ),
        fidelity="official-code",
        deviations=(
            "The paper identifies persons in visible and infrared images; here the views are text, audio and vision, "
            "and a prediction is read off all branches instead of a distance between features.",
            "The divergence is KL(teacher || student) of log-probabilities, averaged over the batch; the official code "
            "hands probabilities to a function of log-probabilities and averages over classes (legacy_kl).",
            "VML, which the paper has and the official code lacks, is the Jensen-Shannon divergence.",
            "The ranked-list loss (rank_weight, officially 1) and the Sinkhorn distance between observations "
            "(cml_weight, officially 8) are off by default, and so is label smoothing (0.1).",
            "Inferred: an image encoder becomes a linear layer, a bidirectional GRU and the mean of its states; the "
            "shared branch has one linear layer per modality before the weights that all views share.",
            "Inferred: a real label is divided into 7 bins with two-hot targets, or Gaussian; the parts of a label of "
            "several names count as independent, so that their divergences and cross-entropies add up.",
            "Inferred: with three views the pairs of VCD, VML and the Sinkhorn distance are averaged.",
            "Inferred: the weight 0.3 of the three terms; the official weight 2 of a mean over K classes is 2 / K of a "
            "mean over the batch.",
            "Inferred: in the ranked-list loss the modality of a vector is its view, and every sample is a row in "
            "each; officially an image is of one modality, and its views keep to themselves.",
            "A modality that is missing from a corrupted sample enters as zeros and keeps its terms.",
            "Inferred: the widths, batches of 32, the learning rate 1e-3 and the L2 penalty 1e-4; officially batches "
            "of 128 or 64 with 8 images of each person, 2.6e-4 and 5e-4.",
            "The learning rate has no warm-up and falls on plateaus of the validation metric; officially it is warmed "
            "up over 10 epochs and falls at epoch 210 of 600.",
        ),
        findings=(
            "On mosi/bclstm validation jumps from epoch to epoch, up to 1.8, for the reason that MV2D's card gives.",
        ),
        needs=Needs(at_least=2),
    )

    Config = VSDConfig
    config: VSDConfig

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        if self.config.vcd_pairs == "text_teacher" and "text" not in spec.modalities:
            raise ConfigError(
                f"{self.config.where('vcd_pairs')} is 'text_teacher', and {spec.track} has no text: set 'all'."
            )
        self.labels = self.config.labels(self.task.target)
        self.network = VSDNetwork(self.dims, self.task.outputs, self.labels.width, self.config)
        if self.config.gather_negatives:
            gather_statistics(self.network)

    @property
    def unused_parameters(self) -> bool:
        """Yes: a term whose weight is 0, or not yet more, leaves the heads that it alone reaches without a gradient."""
        return True

    def forward(self, batch: Batch) -> VSDOutput:
        """Return the prediction ``(B, outputs)`` and what the branches say (see :meth:`VSDNetwork.read`)."""
        return self.network(self.features(batch))

    def objective(self, output: VSDOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms of the loss, without those whose weight is 0."""
        c = self.config
        parts: dict[str, tuple[float, Callable[[], Tensor]]] = {
            "heads": (c.heads_weight, lambda: self._heads(output, batch)),
            "vsd": (c.vsd_weight, lambda: self._self_distillation(output)),
            "vcd": (c.vcd_weight, lambda: self._cross_distillation(output)),
            "vml": (c.vml_weight, lambda: self._mutual_learning(output)),
            "rank": (c.rank_weight, lambda: self.rank(output, batch)),
            "cml": (c.cml_weight, lambda: self._transport(output)),
        }
        terms = super().objective(output, batch)
        return terms | {name: weight * term() for name, (weight, term) in parts.items() if weight}

    def _heads(self, output: VSDOutput, batch: Batch) -> Tensor:
        terms = [
            weight * self.labels.cross_entropy(part[view], batch.target)
            for weight, parts in ((0.5, (output.p, output.q)), (0.25, (output.p_shared, output.q_shared)))
            for view in self.network.views
            for part in parts
        ]
        return torch.stack(terms).sum()

    def _self_distillation(self, output: VSDOutput) -> Tensor:
        c = self.config
        terms = [
            self.labels.divergence(output.p[view], output.q[view], c.direction, c.temperature)
            for view in self.network.views
        ]
        return torch.stack(terms).sum()

    def _cross_distillation(self, output: VSDOutput) -> Tensor:
        terms = [
            self.labels.divergence(output.p_shared[teacher], output.q_shared[student], self.config.direction)
            for teacher, student in permutations(self.network.views, 2)
            if teacher == "text" or self.config.vcd_pairs == "all"
        ]
        return torch.stack(terms).mean()

    def _mutual_learning(self, output: VSDOutput) -> Tensor:
        pairs = combinations(output.q_shared.values(), 2)
        return torch.stack([self.labels.jensen_shannon(pair) for pair in pairs]).mean()

    def _transport(self, output: VSDOutput) -> Tensor:
        pairs = combinations([self.labels.points(self.of_all(p)) for p in output.p.values()], 2)
        return torch.stack([sinkhorn_distance(x, y) for x, y in pairs]).mean()

    def rank(self, output: VSDOutput, batch: Batch) -> Tensor:
        """Return the ranked-list losses of observations and representations, branch weights as in ``heads``."""
        groups, views = self.of_all(self.task.groups(batch)), self.network.views
        modality = torch.arange(len(views), device=groups.device).repeat_interleave(len(groups))
        terms = [
            weight
            * len(views)
            * ranked_list_loss(
                torch.cat([self.of_all(part[view]) for view in views]),
                groups.repeat(len(views)),
                modality,
            )
            for weight, parts in ((0.5, (output.v, output.z)), (0.25, (output.v_shared, output.z_shared)))
            for part in parts
        ]
        return torch.stack(terms).sum()
