"""Curriculum over pairs of samples: which pairs, how far apart they should be, how hard they are, which are fed.

A pair takes one modality from one sample and another modality from another sample (or from the same one: a positive
pair). A predictor says how little the two have to do with each other. The parts follow the abstract of Mai, Sun, Hu,
"Curriculum Learning Meets Weakly Supervised Multimodal Correlation Learning" (EMNLP 2022, arXiv 2212.07619); their
details are inferred, because neither the paper's equations nor its code are public.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

RULES = ("saturated_forward", "improved_forward")
"""What an improving loss means: stay, because there is more to learn, or go forward, because the present is learned."""


@dataclass(frozen=True)
class PairSampler:
    """Draws pairs within a batch: every sample with itself, and random pairs of two different samples.

    Every loss draws anew, so that gradients of the same weights and batch differ by per cents, unless torch's generator
    stands where it stood. Under DDP every process draws for itself: those that pair gathered samples must agree.

    Attributes:
        negatives: Pairs of different samples per sample.
    """

    negatives: int

    def __call__(self, size: int, couples: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Return ``(couples, P)`` rows of the first and of the second sample of every pair.

        The first ``size`` pairs are the positives. The ``negatives * size`` others are uniform over the ordered pairs
        of two different samples; a batch of one has none.

        Args:
            size: Samples in the batch.
            couples: Couples of modalities, each with pairs of its own.
            device: Where the rows are needed.
        """
        own = torch.arange(size, device=device).expand(couples, -1)
        count = self.negatives * size if size > 1 else 0
        first = torch.randint(size, (couples, count), device=device)
        ahead = torch.randint(1, max(size, 2), (couples, count), device=device)
        return torch.cat([own, first], -1), torch.cat([own, (first + ahead) % size], -1)


def label_distance_targets(
    labels: Tensor, first: Tensor, second: Tensor, alpha: float, gamma: float, categorical: bool = False
) -> Tensor:
    """Return ``(..., P)`` what the predictor should say of each pair, from 0 (one sample) to 1 (opposite labels).

    ``t_ij = (|y_i - y_j| + alpha) / (gamma + alpha)`` for ``i != j``: two samples with one label still differ a little.
    Of several labels the mean distance counts.

    Args:
        labels: ``(B,)`` or ``(B, C)``.
        first: ``(..., P)`` rows ``i``.
        second: ``(..., P)`` rows ``j``.
        alpha: Distance that is added for being two samples.
        gamma: Largest distance of two labels.
        categorical: Whether labels are equal or not, with nothing in between; their distance is then 0 or 1.
    """
    labels = labels.reshape(len(labels), -1)
    one, other = labels[first], labels[second]
    apart = (one != other).to(torch.get_default_dtype()) if categorical else (one - other).abs()
    return ((apart.mean(-1) + alpha) / (gamma + alpha)).masked_fill(first == second, 0.0)


class PairPredictor(nn.Module):
    """Says of two vectors how little they have to do with each other.

    Args:
        dim: Width of each vector.
        hidden: Units of a hidden ReLU layer; 0 for a linear predictor.
    """

    def __init__(self, dim: int, hidden: int = 0) -> None:
        super().__init__()
        layers = (nn.Linear(2 * dim, hidden), nn.ReLU(), nn.Linear(hidden, 1)) if hidden else (nn.Linear(2 * dim, 1),)
        self.layers = nn.Sequential(*layers)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Return ``(P,)`` for two ``(P, dim)``."""
        score: Tensor = self.layers(torch.cat([left, right], dim=-1))
        return score.squeeze(-1)


class SampleCache(nn.Module):
    """Vectors of samples by the identity of the sample; part of every checkpoint.

    The number of samples is not known in advance, so the tensors are extra state and not buffers (which DDP would
    moreover send around before every step).
    """

    def __init__(self) -> None:
        super().__init__()
        self.index, self.vectors = torch.zeros(0, dtype=torch.long), torch.zeros(0)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.index)

    def fill(self, index: Tensor, vectors: Tensor) -> None:
        """Forget everything and remember ``(N, ...)`` vectors of the samples ``(N,)``, which may repeat."""
        self.index, order = index.detach().sort(stable=True)
        self.vectors = vectors.detach()[order]

    def forward(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(B, ...)`` vectors and ``(B,)`` whether a sample is known; vectors of others mean nothing.

        Raises:
            IndexError: When nothing was ever remembered.
        """
        if self.index.device != index.device:  # after a restart
            self.index, self.vectors = self.index.to(index.device), self.vectors.to(index.device)
        place = torch.searchsorted(self.index, index).clamp(max=len(self.index) - 1)
        return self.vectors[place], self.index[place] == index

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps."""
        return {"index": self.index, "vectors": self.vectors}

    def set_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a checkpoint."""
        self.index, self.vectors = state["index"], state["vectors"]


class DifficultyScorer(nn.Module):
    """How hard pairs are: their loss under frozen predictors on frozen vectors, mixed with their loss of today.

    ``d = (1 - mix) * |c0(x0_i, x0_j) - t| + mix * |c(x_i, x_j) - t|``. Where a vector ``x0`` of the pair is not cached
    (as long as nothing is, everywhere), the loss of today alone decides.

    Args:
        predictors: The predictors by name, of which a frozen copy is kept.
        columns: By name, which two of a sample's vectors the predictor reads; their order is that of the couples.
        mix: Share of the loss of today.
    """

    def __init__(self, predictors: nn.ModuleDict, columns: Mapping[str, tuple[int, int]], mix: float) -> None:
        super().__init__()
        self.columns, self.mix = dict(columns), mix
        self.frozen = copy.deepcopy(predictors).requires_grad_(False)
        self.cache = SampleCache()

    def remember(self, predictors: nn.ModuleDict, index: Tensor, vectors: Tensor) -> None:
        """Freeze the predictors as they are now, and what they read.

        Args:
            predictors: As in the constructor.
            index: ``(N,)`` identity of each sample.
            vectors: ``(N, M, D)`` the vectors of each sample.
        """
        self.frozen.load_state_dict(predictors.state_dict())
        self.cache.fill(index, vectors)

    @torch.no_grad()
    def forward(self, index: Tensor, first: Tensor, second: Tensor, targets: Tensor, losses: Tensor) -> Tensor:
        """Return ``(couples, P)`` difficulties, without gradient.

        Args:
            index: ``(B,)`` identity of each sample of the batch.
            first: ``(couples, P)`` rows of the batch that give the first vector.
            second: ``(couples, P)`` rows that give the second one.
            targets: ``(couples, P)`` what a predictor should say.
            losses: ``(couples, P)`` losses of today.
        """
        if not len(self.cache):
            return losses.detach()
        vectors, known = self.cache(index)
        said = [
            self.frozen[name](vectors[one, left], vectors[other, right])
            for (name, (left, right)), one, other in zip(self.columns.items(), first, second, strict=True)
        ]
        before = (torch.stack(said) - targets).abs()
        return torch.where(known[first] & known[second], (1 - self.mix) * before + self.mix * losses, losses)


def difficulty_buckets(difficulty: Tensor, discard: float, levels: int) -> Tensor:
    """Return ``(..., P)`` the bucket of each pair: 0 for the easiest to ``levels - 1``; ``levels`` for discarded ones.

    The hardest ``floor(discard * P)`` pairs are discarded. Buckets have the same size, up to one pair.

    Args:
        difficulty: ``(..., P)``; buckets are made along the last dimension.
        discard: Share that is discarded.
        levels: Number of buckets.
    """
    count = difficulty.shape[-1]
    kept = count - math.floor(discard * count + 1e-9)  # a tenth of thirty is three
    rank = difficulty.argsort(stable=True).argsort()
    return torch.where(rank < kept, rank * levels // max(kept, 1), levels)


@dataclass(frozen=True)
class Feeding:
    """What a feeding period leads to.

    Attributes:
        action: 1 for a step forward to harder pairs, -1 for a step back to easier ones, 0 to stay.
        gain: By how much the loss fell, NaN for the first period.
        level: The next level.
    """

    action: int
    gain: float
    level: int


@dataclass(frozen=True)
class FeedingController:
    """Moves the level at which pairs are fed, from 1 (the easiest bucket) to all buckets.

    The feedback is the difference of the losses of two periods, over the buckets that both of them fed: harder buckets
    raise the loss by themselves. A difference within ``tolerance`` times the earlier loss is none.

    Attributes:
        levels: Number of buckets.
        tolerance: Relative change of the loss that counts as none.
        rule: One of :data:`RULES`. A worse loss means a step back in both.
    """

    levels: int
    tolerance: float = 0.02
    rule: str = RULES[0]

    def __call__(self, level: int, previous: Sequence[float], current: Sequence[float]) -> Feeding:
        """Return the action after a period.

        Args:
            level: The level of the period.
            previous: Mean loss by bucket in the period before, NaN for buckets that were not fed.
            current: The same of this period.
        """
        shared = [pair for pair in zip(previous, current, strict=True) if not any(map(math.isnan, pair))]
        if not shared:
            return Feeding(0, math.nan, level)
        before, now = (fmean(losses) for losses in zip(*shared, strict=True))
        gain, slack = before - now, self.tolerance * before
        forward = (gain > slack) == (self.rule == "improved_forward")
        action = -1 if gain < -slack else int(forward)
        return Feeding(action, gain, min(max(level + action, 1), self.levels))
