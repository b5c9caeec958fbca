"""The network of InterMulti: vectors, three views, products of high order led by one modality, and the head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import ModalitySpec, PaddedSequence
from mmbench.methods.intermulti.config import InterMultiConfig
from mmbench.methods.output import Output
from mmbench.nn.dropout import Dropout
from mmbench.nn.fusion import with_one
from mmbench.nn.three_view import ModalityVectors, ThreeViewDecomposition, Views


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
        return self.norm(self.polynomial(vectors))


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

    def __init__(self, modalities: tuple[str, ...], leader: str, settings: InterMultiConfig) -> None:
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

    def forward(self, specific: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return ``(B, width)`` for each pair ``<leader>_<other>``, and for all modalities."""
        lead = specific[self.leader]
        pairs = {f"{self.leader}_{name}": part([lead, specific[name]]) for name, part in self.level1.items()}
        return pairs, self.level2([lead, *pairs.values()])


@dataclass(kw_only=True)
class InterMultiOutput(Output):
    """The prediction and the representations, ``(B, width)`` each.

    Attributes:
        views: What the modalities are decomposed into.
        pair: The first level by pair ``<leader>_<other>``, in a hierarchical fusion.
        modalities: The second level.
        z: What the head reads.
    """

    views: Views
    pair: dict[str, Tensor]
    modalities: Tensor | None
    z: Tensor


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
        settings: InterMultiConfig,
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

    def forward(self, features: Mapping[str, PaddedSequence]) -> InterMultiOutput:
        """Return prediction and representations of a batch."""
        views: Views = self.views(self.vectors(features))
        balance = {} if self.balance is None else self.balance()
        specific = {name: balance[name] * vector for name, vector in views.specific.items()}
        pairs, together = ({}, None) if self.products is None else self.products(specific)
        z = self.fusion([*views.joint, *(specific.values() if together is None else [together])])
        return InterMultiOutput(self.head(z), views.named(), views=views, pair=pairs, modalities=together, z=z)
