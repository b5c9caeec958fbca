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

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations, permutations

import torch
from torch import Tensor, nn

from data_modules.schema import Batch, DataSpec, Sequence, TargetSpec
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import ConfigError, MethodConfig, setting
from mmbench.methods.vsd.labels import (
    CategoricalLabels,
    Direction,
    GaussianLabels,
    LabelDistribution,
    ranked_list_loss,
    sinkhorn_distance,
)
from mmbench.nn.branches import Branch, GRUMean, fusion_head
from mmbench.nn.steps import Layout
from mmbench.tasks import Task

SHARED = "shared"


@dataclass(frozen=True)
class DistillationConfig(MethodConfig):
    """Settings of what VSD and its successor share: views, branches and divergences."""

    weight_decay: float = setting(1e-4, "L2 penalty inside Adam", low=0.0)
    gradient_clip: float = setting(0.0, "largest L2 norm of the gradient of all parameters; 0 for no limit", low=0.0)
    text_lr: float = setting(2e-5, "learning rate of the text encoder; 0 freezes it", low=0.0)
    width: int = setting(128, "width of a view's vector, even because its GRU reads in two directions", low=2)
    text_first: bool = setting(False, "whether text, if any, is its first state alone through a linear layer: BERT")
    bottleneck_1: int = setting(128, "width of the first hidden layer of the bottlenecks", low=1)
    bottleneck_2: int = setting(64, "width of their second hidden layer", low=1)
    z_dim: int = setting(64, "width of the representations", low=1)
    head_dropout: float = setting(0.5, "dropout in the heads of the representations", low=0.0, high=1.0)
    fusion_dim: int = setting(128, "width of the hidden layer after the fusion", low=1)
    fusion_dropout: float = setting(0.2, "dropout on that layer", low=0.0, high=1.0)
    dist: str = setting(
        "bins", "a head's distribution of a real label: bins, or a Gaussian of variance 1", choices=("bins", "gaussian")
    )
    bins: int = setting(7, "bins between the ends of a real label", low=2, needs={"dist": "bins"})
    heads_weight: float = setting(1.0, "weight of the cross-entropies of the heads", low=0.0)
    label_smoothing: float = setting(
        0.0, "label smoothing of the heads; 0.1 in the official code", low=0.0, high=1.0, needs={"dist": "bins"}
    )
    kl_direction: str = setting(
        "teacher_student",
        "first argument of the divergence, then the second",
        choices=("teacher_student", "student_teacher"),
        needs={"dist": "bins", "legacy_kl": False},
    )
    legacy_kl: bool = setting(
        False, "whether the divergence is the official formula, which is none", needs={"dist": "bins"}
    )

    def __post_init__(self) -> None:
        """Check that the settings can be had together."""
        super().__post_init__()
        if self.width % 2:
            raise ConfigError(f"{self.where('width')} is {self.width}; it must be even: a GRU reads in two directions.")

    @property
    def direction(self) -> Direction:
        """The divergence to use."""
        if self.legacy_kl:
            return "released"
        return "teacher_student" if self.kl_direction == "teacher_student" else "student_teacher"

    @property
    def hidden(self) -> tuple[int, int]:
        """Widths of the hidden layers of a bottleneck."""
        return self.bottleneck_1, self.bottleneck_2

    def labels(self, target: TargetSpec) -> LabelDistribution:
        """Return how heads speak of a target.

        Raises:
            ConfigError: When they cannot in the way that is set.
        """
        real = target.kind == "regression"
        if self.dist == "gaussian":
            if not real:
                raise ConfigError(f"{self.where('dist')} is 'gaussian', and the target is {target.kind}: set 'bins'.")
            return GaussianLabels(target)
        if real and (target.low is None or target.high is None):
            raise ConfigError(
                f"{self.where('dist')} is 'bins', and the target has no ends: give it low and high, or set 'gaussian'."
            )
        return CategoricalLabels(target, self.bins, self.label_smoothing)


class ViewEncoder(nn.Module):
    """From a sequence to one vector: a linear layer, then a GRU and the mean of its states, or the first step alone.

    Args:
        dim: Features per step.
        width: Width of the vector.
        first: Whether the first step alone is used.
    """

    def __init__(self, dim: int, width: int, first: bool = False) -> None:
        super().__init__()
        self.project = nn.Linear(dim, width)
        self.reader = None if first else GRUMean(width)

    def forward(self, sequence: Sequence) -> Tensor:
        """Return ``(B, width)``."""
        if self.reader is None:
            return self.project(sequence.values[:, 0])
        layout = Layout.of(sequence)
        return self.reader(self.project(layout.rows(sequence.values)), layout)


def view_encoders(dims: Mapping[str, int], settings: DistillationConfig) -> nn.ModuleDict:
    """Return an encoder for every view."""
    return nn.ModuleDict(
        {name: ViewEncoder(dim, settings.width, settings.text_first and name == "text") for name, dim in dims.items()}
    )


class VSDNetwork(nn.Module):
    """Encoders, branches and fusion.

    Args:
        dims: Features per step by modality.
        outputs: Width of the prediction.
        logits: Width of the heads that are distilled.
        settings: The method's settings.
    """

    def __init__(self, dims: Mapping[str, int], outputs: int, logits: int, settings: VSD.Config) -> None:
        super().__init__()
        c = settings
        self.views, self.fuse_on, self.text_first = tuple(dims), c.fuse_on, c.text_first
        self.encoders = view_encoders(dims, c)
        self.adapters = nn.ModuleDict({name: nn.Linear(dim, c.width) for name, dim in dims.items()})
        self.shared_encoder = GRUMean(c.width)
        self.branches = nn.ModuleDict(
            {name: Branch(c.width, c.hidden, c.z_dim, logits, c.head_dropout) for name in (*dims, SHARED)}
        )
        self.fusion = fusion_head(
            2 * len(dims) * (c.z_dim if c.fuse_on == "z" else c.width), c.fusion_dim, outputs, c.fusion_dropout
        )

    def forward(self, inputs: Mapping[str, Sequence]) -> Output:
        """Return what :meth:`read` says of the vectors of all views."""
        own = {name: self.encoders[name](inputs[name]) for name in self.views}
        return self.read(own, self._shared(inputs))

    def _shared(self, inputs: Mapping[str, Sequence]) -> dict[str, Tensor]:
        """Return the vectors ``(B, width)`` of all views from the encoder that they share."""
        read, lengths, layouts = [], [], []
        for name in self.views:
            sequence = inputs[name]
            if name == "text" and self.text_first:
                sequence = Sequence(sequence.values[:, :1], sequence.lengths.clamp(max=1))
            layout = Layout.of(sequence)
            read.append(self.adapters[name](layout.rows(sequence.values)))
            lengths.append(sequence.lengths)
            layouts.append(layout)
        if layouts[0].packed:  # all views take their steps together
            together = Layout(torch.cat(lengths), max(layout.steps for layout in layouts), read[0].device)
            vectors = self.shared_encoder(torch.cat(read), together).chunk(len(layouts))
        else:
            vectors = [self.shared_encoder(rows, layout) for rows, layout in zip(read, layouts, strict=True)]
        return dict(zip(self.views, vectors, strict=True))

    def read(self, own: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> Output:
        """Return the prediction and what the branches say of vectors ``(B, width)``.

        The shared branch reads one view after the other, so that a norm sees the statistics of one view at a time.

        Returns:
            ``named`` holds ``v_<view>``, ``z_<view>`` and the logits ``p_<view>`` given ``v`` and ``q_<view>`` given
            ``z``, where a view is ``<modality>`` or ``shared_<modality>``.
        """
        readings = {name: self.branches[name](own[name]) for name in self.views}
        readings |= {f"{SHARED}_{name}": self.branches[SHARED](shared[name]) for name in self.views}
        named = {f"{part}_{view}": value for view, item in readings.items() for part, value in item._asdict().items()}
        return Output(self.fusion(torch.cat([named[f"{self.fuse_on}_{view}"] for view in readings], dim=-1)), named)


class VSD(FusionMethod):
    """Variational self-distillation, cross-distillation and mutual learning."""

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

    @dataclass(frozen=True)
    class Config(DistillationConfig):
        """Settings of VSD."""

        plateau_patience: int = setting(5, "epochs without gain before the learning rate drops; 0 for never", low=0)
        vsd_weight: float = setting(0.3, "weight of the self-distillation; 0 leaves it out", low=0.0)
        vcd_weight: float = setting(0.3, "weight of the cross-distillation; 0 leaves it out", low=0.0)
        vml_weight: float = setting(0.3, "weight of the mutual learning; 0 leaves it out", low=0.0)
        rank_weight: float = setting(0.0, "weight of the ranked-list loss; 0 leaves it out", low=0.0)
        cml_weight: float = setting(0.0, "weight of the Sinkhorn distance of observations; 0 leaves it out", low=0.0)
        vcd_pairs: str = setting(
            "all", "who teaches in the cross-distillation: all views or text", choices=("all", "text_teacher")
        )
        temperature: float = setting(1.0, "divides the logits of the self-distillation", low=1e-3)
        fuse_on: str = setting("z", "what is fused: representations or observations", choices=("z", "v"))

    config: Config

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        if self.config.vcd_pairs == "text_teacher" and "text" not in spec.modalities:
            raise ConfigError(
                f"{self.config.where('vcd_pairs')} is 'text_teacher', and {spec.track} has no text: set 'all'."
            )
        self.labels = self.config.labels(self.task.target)
        self.network = VSDNetwork(self.dims, self.task.outputs, self.labels.width, self.config)

    def forward(self, batch: Batch) -> Output:
        """Return the prediction ``(B, outputs)`` and what the branches say (see :meth:`VSDNetwork.read`)."""
        output: Output = self.network(self.features(batch))
        return output

    def objective(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms of the loss, without those whose weight is 0."""
        c, named = self.config, output.named
        parts: dict[str, tuple[float, Callable[[], Tensor]]] = {
            "heads": (c.heads_weight, lambda: self._heads(named, batch)),
            "vsd": (c.vsd_weight, lambda: self._self_distillation(named)),
            "vcd": (c.vcd_weight, lambda: self._cross_distillation(named)),
            "vml": (c.vml_weight, lambda: self._mutual_learning(named)),
            "rank": (c.rank_weight, lambda: self.rank(named, batch)),
            "cml": (c.cml_weight, lambda: self._transport(named)),
        }
        terms = super().objective(output, batch)
        return terms | {name: weight * term() for name, (weight, term) in parts.items() if weight}

    def _heads(self, named: Mapping[str, Tensor], batch: Batch) -> Tensor:
        terms = [
            weight * self.labels.cross_entropy(named[f"{part}_{prefix}{view}"], batch.target)
            for weight, prefix in ((0.5, ""), (0.25, f"{SHARED}_"))
            for view in self.network.views
            for part in "pq"
        ]
        return torch.stack(terms).sum()

    def _self_distillation(self, named: Mapping[str, Tensor]) -> Tensor:
        c = self.config
        terms = [
            self.labels.divergence(named[f"p_{view}"], named[f"q_{view}"], c.direction, c.temperature)
            for view in self.network.views
        ]
        return torch.stack(terms).sum()

    def _cross_distillation(self, named: Mapping[str, Tensor]) -> Tensor:
        terms = [
            self.labels.divergence(
                named[f"p_{SHARED}_{teacher}"], named[f"q_{SHARED}_{student}"], self.config.direction
            )
            for teacher, student in permutations(self.network.views, 2)
            if teacher == "text" or self.config.vcd_pairs == "all"
        ]
        return torch.stack(terms).mean()

    def _mutual_learning(self, named: Mapping[str, Tensor]) -> Tensor:
        pairs = combinations([named[f"q_{SHARED}_{view}"] for view in self.network.views], 2)
        return torch.stack([self.labels.spread(pair) for pair in pairs]).mean()

    def _transport(self, named: Mapping[str, Tensor]) -> Tensor:
        pairs = combinations([self.labels.points(named[f"p_{view}"]) for view in self.network.views], 2)
        return torch.stack([sinkhorn_distance(x, y) for x, y in pairs]).mean()

    def rank(self, named: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return the ranked-list losses of observations and representations, branch weights as in ``heads``."""
        groups, views = self.task.groups(batch), self.network.views
        modality = torch.arange(len(views), device=groups.device).repeat_interleave(len(groups))
        terms = [
            weight
            * len(views)
            * ranked_list_loss(
                torch.cat([named[f"{part}_{prefix}{view}"] for view in views]), groups.repeat(len(views)), modality
            )
            for weight, prefix in ((0.5, ""), (0.25, f"{SHARED}_"))
            for part in "vz"
        ]
        return torch.stack(terms).sum()
