"""MV2D: any number of views, whose bottlenecks learn from their own view and from every subset of the others.

Each modality is a view. A branch turns it into a normalised observation ``v`` and, through a deterministic bottleneck,
a representation ``z``; heads say ``p_m = p(y|v_m)`` and ``q_m = p(y|z_m)`` of the label. A subset S of views teaches
with the normalised geometric mean ``p_S`` of its observations' distributions (a product of experts). The prediction is
read off the representations, concatenated.

Paper: Tian, Zhang, Wang, Zhang, Qu, Ma, Wu, Xie, Tao, "Variational Distillation for Multi-View Learning", IEEE TPAMI 46
(7), 2024, arXiv 2206.09548. Official code: see ``MV2D.card`` (no licence), read; rewritten, not copied. It has two
views only; the objective for n views is inferred from the abstracts and the predecessor
(:mod:`mmbench.methods.vsd`). Deviations: see the card.

Shapes: modalities ``(B, T_m, D_m)`` with their own lengths; ``v (B, width)``, ``z (B, z_dim)``; prediction
``(B, outputs)``. With M views, ``sg`` stop-gradient, H the entropy and KL the Kullback-Leibler divergence, the loss is
the task's plus, each times its weight (the last three grow to theirs over the first epochs):

* ``heads``: ``sum_m (ce(p_m) + ce(q_m)) / 2``, cross-entropies of the label.
* ``suff`` (sufficiency): ``mean_i KL(sg p_i || q_i)``.
* ``cons`` (consistency): ``mean_i sum_S w_S KL(sg p_S || q_i)`` over the non-empty S without i; the weights of a
  student add up to 1 and favour what more views share, ``w_S ~ |S|^a``.
* ``agree`` (agreement): ``H(mean_i q_i) - mean_i H(q_i)``, the generalised Jensen-Shannon divergence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from data_modules.schema import Batch, DataSpec, PaddedSequence
from mmbench.methods.base import FusionMethod
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import ConfigError, MethodConfig, setting
from mmbench.methods.vsd.config import DistillationConfig
from mmbench.methods.vsd.network import BranchesOutput, by_part, view_encoders
from mmbench.nn.branches import Branch, fusion_head
from mmbench.nn.gathering import gather_statistics
from mmbench.tasks import Task

Subset = tuple[str, ...]


class MV2DNetwork(nn.Module):
    """Encoders, branches and fusion.

    Args:
        dims: Features per step by modality.
        outputs: Width of the prediction.
        logits: Width of the heads that are distilled.
        settings: The method's settings.
    """

    def __init__(self, dims: Mapping[str, int], outputs: int, logits: int, settings: MV2D.Config) -> None:
        super().__init__()
        c = settings
        self.encoders = view_encoders(dims, c)
        self.branches = nn.ModuleDict(
            {name: Branch(c.width, c.hidden, c.z_dim, logits, c.head_dropout, c.branch) for name in dims}
        )
        self.fusion = fusion_head(len(dims) * c.z_dim, c.fusion_dim, outputs, c.fusion_dropout)

    def forward(self, inputs: Mapping[str, PaddedSequence]) -> BranchesOutput:
        """Return what :meth:`read` says of the vectors of all views."""
        return self.read({name: encoder(inputs[name]) for name, encoder in self.encoders.items()})

    def read(self, vectors: Mapping[str, Tensor]) -> BranchesOutput:
        """Return the prediction and what the branches say of vectors ``(B, width)``."""
        v, p, z, q = by_part({name: branch(vectors[name]) for name, branch in self.branches.items()})
        return BranchesOutput(self.fusion(torch.cat(list(z.values()), dim=-1)), v=v, p=p, z=z, q=q)


class MV2D(FusionMethod):
    """Multi-view variational distillation with subset teachers.

    Example:
        >>> from data_modules.toy import make_spec
        >>> from mmbench.methods.mv2d import MV2D
        >>> MV2D(make_spec()).subsets["text"]
        (('audio',), ('vision',), ('audio', 'vision'))
    """

    card = MethodCard(
        title="MV2D: Multi-View Variational Distillation (adapted)",
        authors=(
            "Xudong Tian, Zhizhong Zhang, Cong Wang, Wensheng Zhang, Yanyun Qu, Lizhuang Ma, Zongze Wu, Yuan Xie, "
            "Dacheng Tao"
        ),
        year=2024,
        venue="IEEE TPAMI 46(7)",
        arxiv="2206.09548",
        code="FutabaSakuraXD/Multi-View-Variational-Distillation@4d587b510e25ea1b34287be0bf417761b794855d",
        fidelity="paper",
        deviations=(
            "The paper's applications are person re-identification, point clouds and one that is not known here; "
            "its views are ours to choose, and so is the prediction from all representations.",
            "Inferred: the whole objective for more than two views, which is in no public code, and of the paper only "
            "the abstracts could be read: subset teachers by geometric means, weights that grow with the size of the "
            "subset, the generalised Jensen-Shannon divergence, the weight 0.3 and the epochs over which it is "
            "reached.",
            "Inferred: an encoder is a linear layer, a bidirectional GRU and the mean of its states.",
            "Inferred: a real label is divided into 7 bins with two-hot targets, or Gaussian; the parts of a label of "
            "several names count as independent, so that their divergences and cross-entropies add up.",
            "The divergence is KL(teacher || student); the official point-cloud code has KL(student || teacher) "
            "(kl_direction) and does not add the cross-distillation that it computes; the official re-identification "
            "code has no divergence at all (legacy_kl).",
            "The layout with a shared branch, the ranked-list loss and the Sinkhorn distance of the official "
            "re-identification code are left to VSD, whose code it repeats.",
            "The prediction is read off the representations; the official point-cloud code predicts from the "
            "observation.",
            "A modality that is missing from a corrupted sample enters as zeros and keeps its terms.",
            "Inferred: the widths, batches of 32, the learning rate 1e-3 and the L2 penalty 1e-4; the official "
            "re-identification code has batches of 64, 2.6e-4 and 5e-4, the point-cloud code SGD.",
        ),
        findings=(
            "On features that are not standardised, activations swing faster than the running statistics of "
            "BatchNorm follow: on mosi/bclstm, with audio up to 356, validation jumps between 0.63 and 3.4 from "
            "epoch to epoch. With statistics over all training samples it stays between 0.62 and 0.70, and so it "
            "does with standardised features.",
        ),
        needs=Needs(at_least=2),
    )

    @dataclass(frozen=True)
    class Config(DistillationConfig):
        """Settings of MV2D."""

        suff_weight: float = setting(0.3, "weight of the sufficiency", low=0.0)
        cons_weight: float = setting(0.3, "weight of the consistency", low=0.0)
        agree_weight: float = setting(0.3, "weight of the agreement", low=0.0)
        ramp_epochs: int = setting(3, "epochs over which these weights grow from 0; 0 for none", low=0)
        subset_weights: str = setting(
            "size",
            "who teaches how much: subsets by their size, only all other views, or subsets by their likelihood",
            choices=("size", "full", "confidence"),
        )
        subset_power: float = setting(
            1.0, "exponent a of the size of a subset; 0 for equal weights", low=0.0, needs={"subset_weights": "size"}
        )
        max_subset: int = setting(0, "views in the largest subset that teaches; 0 for no limit", low=0)
        branch: str = setting(
            "reid",
            "bottleneck and heads of the re-identification code, or the smaller ones of the point-cloud code, which "
            "have no second hidden layer and no dropout",
            choices=("reid", "points"),
        )

    config: Config
    shares: Tensor

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        c = self.config
        others = len(spec.modalities) - 1
        if c.subset_weights == "full" and 0 < c.max_subset < others:
            raise ConfigError(
                f"{c.where('max_subset')} is {c.max_subset}, and subset_weights 'full' needs subsets of {others}: "
                "leave one of them out."
            )
        self.labels = c.labels(self.task.target)
        self.network = MV2DNetwork(self.dims, self.task.outputs, self.labels.width, c)
        if c.gather_negatives:
            gather_statistics(self.network)
        sizes = (others,) if c.subset_weights == "full" else range(1, min(c.max_subset or others, others) + 1)
        views = tuple(spec.modalities)
        self.subsets: dict[str, tuple[Subset, ...]] = {  # by student, those that teach it
            view: tuple(s for size in sizes for s in combinations([v for v in views if v != view], size))
            for view in views
        }
        # Their weights by size, the same for every student.
        powers = c.subset_power * torch.tensor([len(s) for s in self.subsets[views[0]]], dtype=torch.float64).log()
        self.register_buffer("shares", powers.softmax(0).float(), persistent=False)

    @property
    def unused_parameters(self) -> bool:
        """Yes: a term whose weight is 0, or not yet more, leaves the heads that it alone reaches without a gradient."""
        return True

    def forward(self, batch: Batch) -> BranchesOutput:
        """Return the prediction ``(B, outputs)`` and what the branches say (see :meth:`MV2DNetwork.read`)."""
        return self.network(self.features(batch))

    def objective(self, output: BranchesOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms of the loss, without those whose weight is 0."""
        c, labels, p, q = self.config, self.labels, output.p, output.q
        terms = super().objective(output, batch)
        if c.heads_weight:
            heads = torch.stack([labels.cross_entropy(item, batch.target) for item in (*p.values(), *q.values())])
            terms["heads"] = c.heads_weight * heads.sum() / 2
        if weight := self.grown(c.suff_weight):
            own = torch.stack([labels.divergence(p[view], q[view], c.direction) for view in p])
            terms["suff"] = weight * own.mean()
        if weight := self.grown(c.cons_weight):
            terms["cons"] = weight * self._consistency(p, q, batch)
        if weight := self.grown(c.agree_weight):
            terms["agree"] = weight * labels.jensen_shannon(list(q.values()))
        return terms

    def grown(self, weight: float) -> float:
        """Return what a distillation weight has grown to in this epoch."""
        epochs = self.config.ramp_epochs
        return weight * min(1.0, self.current_epoch / epochs) if epochs else weight

    def teachers(self, p: Mapping[str, Tensor]) -> dict[Subset, Tensor]:
        """Return the logits ``(B, logits)`` of ``p_S`` by subset.

        Args:
            p: Logits of the observations by view.
        """
        subsets = dict.fromkeys(subset for own in self.subsets.values() for subset in own)
        return {subset: self.labels.consensus([p[view] for view in subset]) for subset in subsets}

    def weights(self, teachers: Mapping[Subset, Tensor], target: Tensor) -> dict[str, Tensor]:
        """Return by student the weights of its teachers, which add up to 1 and pass no gradient on.

        Args:
            teachers: Logits by subset.
            target: Targets of the batch, by which the likelihood of subsets is judged.
        """
        if self.config.subset_weights != "confidence":
            return dict.fromkeys(self.subsets, self.shares)
        target = self.of_all(target)
        score = {s: -self.labels.cross_entropy(self.of_all(p.detach()), target) for s, p in teachers.items()}
        return {
            view: torch.stack([score[subset] for subset in subsets]).softmax(0)
            for view, subsets in self.subsets.items()
        }

    def _consistency(self, p: Mapping[str, Tensor], q: Mapping[str, Tensor], batch: Batch) -> Tensor:
        teachers = self.teachers(p)
        weights = self.weights(teachers, batch.target)
        terms = [
            (
                weights[view]
                * torch.stack(
                    [self.labels.divergence(teachers[subset], q[view], self.config.direction) for subset in subsets]
                )
            ).sum()
            for view, subsets in self.subsets.items()
        ]
        return torch.stack(terms).mean()
