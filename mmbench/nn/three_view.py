"""Three views of several modalities: what they say together, what they share, what each says alone.

The decomposition of InterMulti (arXiv 2212.10030) and EffMulti (arXiv 2212.08661), which share it and differ in how
they fuse the views; their abstracts fix that there is one full, one shared and, for each modality, one specific
representation. The rest is inferred. Here are also the vectors that are decomposed, and the terms that make the views
what they are called: MISA's (Hazarika, Zimmermann, Poria, MM 2020, arXiv 2005.03545) and two cheaper ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import ModalitySpec, PaddedSequence
from mmbench.nn.dropout import Dropout
from mmbench.nn.encoders import FeatureNorm
from mmbench.nn.precision import at_least_single
from mmbench.nn.recurrence import gru
from mmbench.nn.recurrent import LSTMEncoder
from mmbench.nn.steps import Layout

VIEWS = ("full", "shared", "specific")


# What is decomposed


class ModalityVector(nn.Module):
    """One vector for a sequence: normalised features, a reader, the mean of its real steps, a linear layer, LayerNorm.

    Args:
        dim: Features per step.
        width: Width of the vector.
        reader: ``mean`` (nothing before the mean), ``lstm`` (both directions) or ``gru`` (a linear layer to
            ``hidden``, then one direction).
        hidden: Units of the reader, per direction.
        dropout: Dropout probability after the mean.
    """

    def __init__(self, dim: int, width: int, reader: str, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = FeatureNorm(dim)
        self.lstm = LSTMEncoder(dim, hidden, bidirectional=True) if reader == "lstm" else None
        self.project = nn.Linear(dim, hidden) if reader == "gru" else None
        self.gru = nn.GRU(hidden, hidden, batch_first=True) if reader == "gru" else None
        self.dropout = Dropout(dropout)
        self.linear = nn.Linear({"mean": dim, "lstm": 2 * hidden, "gru": hidden}[reader], width)
        self.norm = nn.LayerNorm(width)

    def forward(self, sequence: PaddedSequence) -> Tensor:
        """Return ``(B, width)`` for ``(B, T, dim)``; a sample without any real step is read as zeros."""
        layout = Layout.of(sequence)
        rows = self.features(layout.rows(sequence.values), layout.real)
        if self.lstm is not None:
            rows = self.lstm.read(rows, layout)
        elif self.project is not None and self.gru is not None:
            rows = gru(self.gru, self.project(rows), layout)
        return self.norm(self.linear(self.dropout(layout.mean(rows))))


class ModalityVectors(nn.Module):
    """A :class:`ModalityVector` per modality; the mean reads what has one step only.

    Args:
        modalities: The modalities of the data.
        dims: Features per step by modality (of text: after its encoder).
        width: Width of the vectors.
        reader: Reader of sequences of audio and vision.
        text_reader: Reader of sequences of text.
        hidden: Units of the readers, per direction.
        dropout: Dropout probability of each.
    """

    def __init__(
        self,
        modalities: Mapping[str, ModalitySpec],
        dims: Mapping[str, int],
        width: int,
        reader: str,
        text_reader: str,
        hidden: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        readers = {
            name: "mean" if spec.max_length == 1 else text_reader if name == "text" else reader
            for name, spec in modalities.items()
        }
        self.parts = nn.ModuleDict(
            {name: ModalityVector(dims[name], width, readers[name], hidden, dropout) for name in modalities}
        )

    def forward(self, features: Mapping[str, PaddedSequence]) -> dict[str, Tensor]:
        """Return ``(B, width)`` by modality."""
        return {name: part(features[name]) for name, part in self.parts.items()}


# The decomposition


@dataclass
class Views:
    """The representations of a batch, ``(B, width)`` each; a view that is left out is None or empty.

    Attributes:
        full: What all modalities say together.
        shared: What the one shared map finds in each modality.
        specific: What each modality's own map finds in it.
    """

    full: Tensor | None
    shared: dict[str, Tensor]
    specific: dict[str, Tensor]

    @property
    def common(self) -> Tensor | None:
        """The shared representation: the mean over the modalities."""
        return torch.stack(list(self.shared.values())).mean(0) if self.shared else None

    @property
    def joint(self) -> list[Tensor]:
        """The representations of no single modality: full, then shared, as far as they are there."""
        return [view for view in (self.full, self.common) if view is not None]

    def named(self) -> dict[str, Tensor]:
        """Return every tensor by name: ``full``, ``common``, ``shared_<modality>``, ``specific_<modality>``."""
        named = {"full": self.full, "common": self.common}
        named |= {f"shared_{name}": vector for name, vector in self.shared.items()}
        named |= {f"specific_{name}": vector for name, vector in self.specific.items()}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


class ThreeViewDecomposition(nn.Module):
    """From one vector per modality to the three views.

    ``full = MLP([u_1; ...; u_k])``, ``shared_m = act(S u_m)`` with one ``S`` for all modalities and
    ``specific_m = act(P_m u_m)``; every linear map has a bias.

    Args:
        modalities: Names of the modalities.
        width: Width of the vectors and of every view.
        activation: What follows the shared and the specific maps.
        full_layers: 2 for linear, ReLU, dropout, linear; 1 for linear, GELU.
        dropout: Dropout probability inside the full view of two layers.
        views: The views to build, out of :data:`VIEWS`.
    """

    def __init__(
        self,
        modalities: Iterable[str],
        width: int,
        activation: type[nn.Module],
        full_layers: int = 2,
        dropout: float = 0.0,
        views: Collection[str] = VIEWS,
    ) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        joint = nn.Linear(len(self.modalities) * width, width)
        full: list[nn.Module] = [joint, nn.GELU()]
        if full_layers == 2:
            full = [joint, nn.ReLU(), Dropout(dropout), nn.Linear(width, width)]
        self.full = nn.Sequential(*full) if "full" in views else None
        self.shared = nn.Sequential(nn.Linear(width, width), activation()) if "shared" in views else None
        specific = self.modalities if "specific" in views else ()
        self.specific = nn.ModuleDict({name: nn.Sequential(nn.Linear(width, width), activation()) for name in specific})

    def forward(self, vectors: Mapping[str, Tensor]) -> Views:
        """Return the views of ``(B, width)`` by modality."""
        return Views(
            None if self.full is None else self.full(torch.cat([vectors[name] for name in self.modalities], -1)),
            {} if self.shared is None else {name: self.shared(vectors[name]) for name in self.modalities},
            {name: part(vectors[name]) for name, part in self.specific.items()},
        )

    def parts_of_full(self, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``(B, width)`` by modality: its part of the first layer of the full view, which is their sum."""
        if self.full is None:
            return {}
        joint = self.full[0]
        assert isinstance(joint, nn.Linear)
        weights = joint.weight.chunk(len(self.modalities), 1)
        bias = joint.bias / len(self.modalities)
        return {
            name: F.linear(vectors[name], weight, bias) for name, weight in zip(self.modalities, weights, strict=True)
        }


# Terms of the loss. They look at the local batch: under DDP nothing is gathered from other processes.


def moment_discrepancy(x: Tensor, y: Tensor, orders: int = 5) -> Tensor:
    """Return the central moment discrepancy of two batches, a scalar that is 0 for equal moments.

    ``||E x - E y|| + sum_{k=2}^{orders} ||E (x - E x)^k - E (y - E y)^k||`` with the expectations over the batch and
    powers by entry: MISA's form for entries in [0, 1] (Zellinger et al., ICLR 2017, arXiv 1702.08811).

    Args:
        x: ``(B, D)``.
        y: ``(B, D)``.
        orders: The highest moment.
    """
    x, y = at_least_single(x), at_least_single(y)
    distances = [torch.linalg.vector_norm(x.mean(0) - y.mean(0))]
    x, y = x - x.mean(0), y - y.mean(0)
    distances += [torch.linalg.vector_norm((x**k).mean(0) - (y**k).mean(0)) for k in range(2, orders + 1)]
    return torch.stack(distances).sum()


def pairwise_discrepancy(shared: Mapping[str, Tensor]) -> Tensor:
    """Return the mean of :func:`moment_discrepancy` over all pairs of modalities, a scalar; there are at least two."""
    return torch.stack([moment_discrepancy(x, y) for x, y in combinations(shared.values(), 2)]).mean()


def orthogonality(x: Tensor, y: Tensor) -> Tensor:
    """Return MISA's difference loss, the mean of ``(A^T B)^2`` over its entries, a scalar.

    ``A`` and ``B`` are ``x`` and ``y`` less their mean over the batch, each row scaled to length 1. It is 0 for a
    batch of one, whose rows are their mean. The gradient knows of the scaling, which MISA's code hides from it: rows
    turn, and do not shrink.

    Args:
        x: ``(B, D)``.
        y: ``(B, D)``.
    """
    with torch.autocast(x.device.type, enabled=False):
        a, b = (F.normalize(rows - rows.mean(0), dim=-1) for rows in (at_least_single(x), at_least_single(y)))
        return (a.T @ b).square().mean()


def view_orthogonality(views: Views) -> Tensor:
    """Return the sum of :func:`orthogonality` over each modality's two views and each pair of specific views.

    A scalar; the specific view must be there, the shared one may be missing.
    """
    pairs = [(views.specific[name], vector) for name, vector in views.shared.items()]
    pairs += combinations(views.specific.values(), 2)
    return torch.stack([orthogonality(x, y) for x, y in pairs]).sum()


def modality_variance(shared: Mapping[str, Tensor]) -> Tensor:
    """Return the mean squared entry of the shared vectors less their mean over the modalities, a scalar.

    It is 0 exactly when all modalities share one vector.
    """
    stacked = at_least_single(torch.stack(list(shared.values())))
    return (stacked - stacked.mean(0)).square().mean()


def overlap(views: Views) -> Tensor:
    """Return the squared cosine between a modality's two views, mean over samples and modalities: from 0 to 1."""
    pairs = [(at_least_single(vector), at_least_single(views.specific[name])) for name, vector in views.shared.items()]
    return torch.stack([F.cosine_similarity(x, y, dim=-1) for x, y in pairs]).square().mean()
