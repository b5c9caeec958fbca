"""InterMulti: three views of the modalities, fused by products of high order in which text takes part everywhere.

Each modality becomes one vector; :mod:`mmbench.nn.three_view` makes of them one full, one shared and a specific
representation per modality. The Text-dominated Hierarchical High-order Fusion (THHF) multiplies the specific vector of
text with that of each other modality, text and these pairs with each other, and the result with the other two views.

Paper: Qiu, Kong, Ding, "InterMulti: Multi-view Multimodal Interactions with Text-dominated Hierarchical High-order
Fusion for Emotion Analysis", 2022, arXiv 2212.10030. Only its abstract was at hand, and no official code was found:
the views and what THHF is called are the authors', every equation here is inferred. The products are polynomial tensor
pooling (Hou et al., NeurIPS 2019), the terms of the loss beside the task are MISA's. Deviations: see
``InterMulti.card``.

Shapes: modalities ``(B, T_m, D_m)``, each with its own lengths; vectors and representations ``(B, width)``; prediction
``(B, outputs)``. With ``u_m`` the vectors, ``w`` the balance and t the leading modality:

* ``w = k softmax(beta)`` over the ``k`` modalities, ``p_m = w_m specific_m``
* ``g_tm = HP(p_t, p_m)`` for each other m; ``g = HP(p_t, g_ta, g_tv)``; ``z = HP(full, shared, g)``
* ``HP(x_1, x_2, ...) = LayerNorm(sum_r prod_q W_rq [x_1; x_2; ...; 1])``, of rank ``r = 1 ... R`` and order
  ``q = 1 ... P``, which is 2 for pairs and 3 after them

Loss: ``task + similarity * S + difference * D``.

* ``S``: central moment discrepancy (five moments) between the shared vectors of two modalities, mean over the pairs.
* ``D``: ``mean((A^T B)^2)`` of centred, normalised batches, summed over the pairs (specific, shared) of each modality
  and (specific, specific) of two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import MODALITIES, Batch, DataSpec, ModalitySpec, Sequence
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import ConfigError, MethodConfig, setting
from mmbench.nn.dropout import Dropout
from mmbench.nn.fusion import with_one
from mmbench.nn.three_view import (
    VIEWS,
    ModalityVectors,
    ThreeViewDecomposition,
    Views,
    pairwise_discrepancy,
    view_orthogonality,
)
from mmbench.tasks import Task

SMALLEST_BATCH = 8
"""Samples below which the moments of a batch say too little: smaller batches have no similarity term."""


class PolynomialPooling(nn.Module):
    """A polynomial of some vectors, ``HP`` of the module's equations: all their products up to an order, at low rank.

    Args:
        inputs: Width of all vectors together.
        outputs: Width of the result.
        order: Degree of the polynomial, ``P``.
        rank: Number of terms, ``R``.
    """

    def __init__(self, inputs: int, outputs: int, order: int, rank: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(order, rank, outputs, inputs + 1) * (inputs + 1) ** -0.5)
        self.norm = nn.LayerNorm(outputs)

    def polynomial(self, vectors: list[Tensor]) -> Tensor:
        """Return ``(B, outputs)``, before the normalisation, from ``(B, D_i)`` each."""
        with torch.autocast(self.weight.device.type, enabled=False):  # products lose digits, or overflow
            extended = with_one(torch.cat([vector.to(self.weight.dtype) for vector in vectors], -1))
            factors = F.linear(extended, self.weight.flatten(0, 2)).unflatten(1, self.weight.shape[:3])
            return reduce(torch.mul, factors.unbind(1)).sum(1)

    def forward(self, vectors: list[Tensor]) -> Tensor:
        """Return ``(B, outputs)`` from ``(B, D_i)`` each."""
        pooled: Tensor = self.norm(self.polynomial(vectors))
        return pooled


class Balance(nn.Module):
    """The weight of each modality's specific vector, ``k softmax(beta)``.

    Args:
        modalities: Names of the modalities.
        leader: The modality whose ``beta`` starts at ``lead``; the others start at 0.
        lead: See ``leader``.
    """

    def __init__(self, modalities: tuple[str, ...], leader: str, lead: float) -> None:
        super().__init__()
        self.modalities = modalities
        self.beta = nn.Parameter(torch.tensor([lead if name == leader else 0.0 for name in modalities]))

    def forward(self) -> dict[str, Tensor]:
        """Return a scalar by modality; they sum to ``k``."""
        weights = len(self.modalities) * self.beta.softmax(0)
        return dict(zip(self.modalities, weights.unbind(), strict=True))


class LedProducts(nn.Module):
    """The first two levels of THHF: each modality with the leader, then these pairs with the leader once more.

    Args:
        modalities: Names of the modalities.
        leader: The modality of every pair.
        settings: The method's settings.
    """

    def __init__(self, modalities: tuple[str, ...], leader: str, settings: InterMulti.Config) -> None:
        super().__init__()
        c, self.leader = settings, leader
        self.level1 = nn.ModuleDict(
            {
                name: PolynomialPooling(2 * c.width, c.width, c.pair_order, c.rank)
                for name in modalities
                if name != leader
            }
        )
        self.level2 = PolynomialPooling(len(modalities) * c.width, c.width, c.modality_order, c.rank)

    def forward(self, specific: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``(B, width)`` for each ``pair_<leader>_<other>`` and, as ``modalities``, for all of them."""
        lead = specific[self.leader]
        pairs = {f"pair_{self.leader}_{name}": part([lead, specific[name]]) for name, part in self.level1.items()}
        return {**pairs, "modalities": self.level2([lead, *pairs.values()])}


class InterMultiNetwork(nn.Module):
    """Vectors, views, fusion and head.

    Args:
        modalities: The modalities of the data.
        dims: Features per step by modality (of text: after its encoder).
        outputs: Width of the prediction.
        leader: The modality that dominates.
        settings: The method's settings.
    """

    def __init__(
        self,
        modalities: Mapping[str, ModalitySpec],
        dims: Mapping[str, int],
        outputs: int,
        leader: str,
        settings: InterMulti.Config,
    ) -> None:
        super().__init__()
        c, names = settings, tuple(modalities)
        self.vectors = ModalityVectors(modalities, dims, c.width, c.reader, c.text_reader, c.hidden, c.encoder_dropout)
        self.views = ThreeViewDecomposition(names, c.width, nn.Sigmoid, 2, c.encoder_dropout, c.views)
        self.balance = Balance(names, leader, c.lead) if c.specific else None
        hierarchical = c.specific and c.fusion == "hierarchical"
        self.products = LedProducts(names, leader, c) if hierarchical else None
        count = c.full + c.shared + (1 if hierarchical else len(names) * c.specific)
        # A polynomial of order 1 is a linear layer: of the concatenation.
        order, rank = (1, 1) if c.fusion == "concat" else (c.view_order, c.rank)
        self.fusion = PolynomialPooling(count * c.width, c.width, order, rank)
        self.head = nn.Sequential(
            Dropout(c.dropout), nn.Linear(c.width, c.head_width), nn.ReLU(), nn.Linear(c.head_width, outputs)
        )

    def forward(self, features: Mapping[str, Sequence]) -> Output:
        """Return prediction and representations of a batch.

        Returns:
            ``named`` holds the views (:meth:`Views.named`), the first two levels (``pair_<leader>_<other>`` and
            ``modalities``) and the fused ``z``, ``(B, width)`` each.
        """
        views: Views = self.views(self.vectors(features))
        balance = {} if self.balance is None else self.balance()
        specific = {name: balance[name] * vector for name, vector in views.specific.items()}
        products = {} if self.products is None else self.products(specific)
        z = self.fusion([*views.joint, *([products["modalities"]] if products else specific.values())])
        return Output(self.head(z), {**views.named(), **products, "z": z})


@dataclass(frozen=True)
class ThreeViewConfig(MethodConfig):
    """Settings of what InterMulti and EffMulti share: vectors, views, head."""

    width: int = setting(128, "width of all vectors and representations", low=1)
    hidden: int = setting(64, "units of the readers, per direction", low=1)
    head_width: int = setting(64, "width of the head's hidden layer", low=1)
    dropout: float = setting(0.3, "dropout probability in the head", low=0.0, high=1.0)
    full: bool = setting(True, "whether there is a full view")
    shared: bool = setting(True, "whether there is a shared view")
    specific: bool = setting(True, "whether there are specific views")

    def __post_init__(self) -> None:
        """Check that a view is left."""
        super().__post_init__()
        if not self.views:
            raise ConfigError(f"{self.where('full')}, 'shared' and 'specific' are all off; leave one on.")

    @property
    def views(self) -> tuple[str, ...]:
        """The views that are on."""
        return tuple(view for view in VIEWS if getattr(self, view))


class InterMulti(FusionMethod):
    """Multi-view interactions with text-dominated hierarchical high-order fusion."""

    card = MethodCard(
        title=(
            "InterMulti: Multi-view Multimodal Interactions with Text-dominated Hierarchical High-order Fusion for "
            "Emotion Analysis"
        ),
        authors="Feng Qiu, Wanzeng Kong, Yu Ding",
        year=2022,
        arxiv="2212.10030",
        fidelity="abstract",
        deviations=(
            "Only the abstract was at hand: it fixes one full, one shared and a specific representation per modality, "
            "and that THHF is hierarchical, of high order and dominated by text.",
            "Inferred: each modality is the mean of its text states, or of the states of a bidirectional LSTM, through "
            "a linear layer and LayerNorm; features are batch-normalised first.",
            "Inferred: what has one step per sample is read without an LSTM.",
            "Inferred: the full view is a perceptron of the concatenation, the shared view the mean of one map's "
            "results, the specific views are maps of their own, with MISA's sigmoid.",
            "Inferred: high order means polynomial tensor pooling of low rank.",
            "Inferred: the levels are text with each other modality, text with these pairs, and this with the other "
            "views; pairs without text do not exist.",
            "Inferred: the contributions of the modalities are balanced by one learned weight each, and text starts "
            "with the largest.",
            "Inferred: without text the first modality of the data leads.",
            "Inferred: the terms beside the task are MISA's similarity and difference losses, with its weights; "
            "similarity and difference 0 leave the task alone.",
            "The difference loss is differentiated through its scaling of rows to length 1, which MISA's code holds "
            "fixed.",
            "Inferred: batches under 8 samples have no similarity term, because it compares moments over the batch.",
            "Inferred: Adam without weight decay, as the suite has no decoupled decay.",
        ),
        needs=Needs(at_least=2),
    )

    @dataclass(frozen=True)
    class Config(ThreeViewConfig):
        """Settings of InterMulti; none is published."""

        text_lr: float = setting(2e-5, "learning rate of the text encoder; 0 freezes it", low=0.0)
        reader: str = setting(
            "lstm",
            "what reads sequences of audio and vision: an LSTM in both directions, or a GRU in one",
            choices=("lstm", "gru"),
        )
        text_reader: str = setting(
            "mean",
            "what reads a text sequence: mean of an encoder's states; LSTM or GRU for word vectors",
            choices=("mean", "lstm", "gru"),
        )
        encoder_dropout: float = setting(
            0.1, "dropout probability on the pooled states and inside the full view", low=0.0, high=1.0
        )
        fusion: str = setting(
            "hierarchical",
            "THHF, one product of all representations (flat), or a linear layer of their concatenation (concat)",
            choices=("hierarchical", "flat", "concat"),
        )
        pair_order: int = setting(2, "order of the product of two modalities", low=1)
        modality_order: int = setting(3, "order of the product of the pairs", low=1)
        view_order: int = setting(3, "order of the product of the views, or of all representations when flat", low=1)
        rank: int = setting(4, "terms of every product", low=1)
        leader: str = setting(
            "auto", "the modality in every pair; auto: text, or else the first", choices=("auto", *MODALITIES)
        )
        lead: float = setting(1.0, "start of the leader's logit in the balance; that of the others is 0")
        similarity: float = setting(
            0.3, "weight of the discrepancy between shared vectors, in batches of 8 or more", low=0.0
        )
        difference: float = setting(
            0.1, "weight of the correlation of specific vectors with shared ones and each other", low=0.0
        )

    config: Config

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        self.network = InterMultiNetwork(spec.modalities, self.dims, self.task.outputs, self._leader(), self.config)

    def _leader(self) -> str:
        leader, there = self.config.leader, list(self.spec.modalities)
        if leader == "auto":
            return "text" if "text" in there else there[0]
        if leader not in there:
            raise ConfigError(
                f"{self.config.where('leader')} is {leader!r}, which {self.spec.track} does not have; choose one of: "
                f"auto, {', '.join(there)}."
            )
        return leader

    def forward(self, batch: Batch) -> Output:
        """Return the prediction ``(B, outputs)`` and the representations, as :class:`InterMultiNetwork` names them."""
        output: Output = self.network(self.features(batch))
        return output

    def objective(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms; the two beside the task see the local batch, also under DDP."""
        c, views = self.config, Views.of(output.named)
        terms = super().objective(output, batch)
        if c.similarity and c.shared and batch.size >= SMALLEST_BATCH:
            terms["similarity"] = c.similarity * pairwise_discrepancy(views.shared)
        if c.difference and c.specific:
            terms["difference"] = c.difference * view_orthogonality(views)
        return terms

    def terms(self) -> dict[str, float]:
        """Return the means of the terms and, to be watched beside them, the balance as it is now."""
        balance = {} if self.network.balance is None else self.network.balance()
        return {**super().terms(), **{f"balance_{name}": float(weight.detach()) for name, weight in balance.items()}}
