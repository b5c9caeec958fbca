"""Variational distillation: what the heads of a branch say of a label, and divergences between two of them.

The losses of VSD (Tian et al., CVPR 2021, arXiv 2104.02862) and of its successor MV2D (Tian et al., TPAMI 2024, arXiv
2206.09548), whose branches are in :mod:`mmbench.nn.branches`. No mutual information is estimated: what the logits of a
representation lack of those of an observation is a divergence between two distributions of the label.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from data_modules.schema import TargetSpec
from mmbench.nn.precision import at_least_single

Direction = Literal["teacher_student", "student_teacher", "released"]


def two_hot(values: Tensor, low: float, high: float, bins: int) -> Tensor:
    """Return ``(..., bins)``: each value shared by the two bins beside it so that the mean of the bins is the value.

    Args:
        values: ``(...)``; what is beyond the ends counts as the end.
        low: Centre of the first bin.
        high: Centre of the last bin.
        bins: Number of bins, with equal distances.
    """
    position = (values.clamp(low, high) - low) * ((bins - 1) / (high - low))
    return (1 - (position.unsqueeze(-1) - torch.arange(bins, device=values.device)).abs()).clamp(min=0)


class LabelDistribution(ABC):
    """How logits ``(B, width)`` are a distribution of the label, and divergences between such distributions.

    A label may have several parts (the names of a multi-label target), which count as independent: their divergences
    and cross-entropies add up. Every value is a mean over the batch.

    Attributes:
        width: Logits per sample.
    """

    width: int

    @abstractmethod
    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of the targets, a scalar."""

    @abstractmethod
    def divergence(
        self, teacher: Tensor, student: Tensor, direction: Direction = "teacher_student", temperature: float = 1.0
    ) -> Tensor:
        """Return the Kullback-Leibler divergence between a teacher and a student, a scalar.

        Args:
            teacher: ``(B, width)`` logits; no gradient reaches them.
            student: ``(B, width)`` logits.
            direction: ``teacher_student`` for KL(teacher || student), ``student_teacher`` for the other one;
                ``released`` for what the official re-identification code computes, which hands probabilities to a
                function of log-probabilities and averages over classes: ``mean(q log q - q p)`` with ``q`` the
                student. It is no divergence: it is negative at ``q = p`` and least at ``q`` proportional to
                ``exp(p)``.
            temperature: What both logits are divided by.
        """

    @abstractmethod
    def jensen_shannon(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the mean divergence of distributions from their middle, a scalar: zero if and only if all agree.

        The generalised Jensen-Shannon divergence, between 0 and the logarithm of their number for a label of one part.
        """

    @abstractmethod
    def consensus(self, logits: Sequence[Tensor]) -> Tensor:
        """Return logits ``(B, width)`` of the normalised geometric mean of distributions (a product of experts)."""

    @abstractmethod
    def points(self, logits: Tensor) -> Tensor:
        """Return ``(B, D)`` the distributions as points of a space with Euclidean distances."""


class CategoricalLabels(LabelDistribution):
    """Softmax over classes, over the two answers per name, or over bins of a real value with two-hot targets.

    Args:
        target: What is predicted.
        bins: Bins per real value, from the low to the high end of the target.
        smoothing: Share of the target that is spread evenly over all classes.

    Raises:
        ValueError: When a real target has no ends.
    """

    def __init__(self, target: TargetSpec, bins: int = 7, smoothing: float = 0.0) -> None:
        self.ends: tuple[float, float] | None = None
        if target.kind == "regression":
            if target.low is None or target.high is None:
                raise ValueError("A real target needs a low and a high end to be divided into bins.")
            self.ends = target.low, target.high
        self.smoothing = smoothing
        single = target.kind == "multiclass"
        self.parts = 1 if single else len(target.names)
        self.classes = {"multiclass": len(target.names), "regression": bins}.get(target.kind, 2)
        self.width = self.parts * self.classes

    def log(self, logits: Tensor, temperature: float = 1.0) -> Tensor:
        """Return log-probabilities ``(B, parts, classes)``."""
        return (at_least_single(logits) / temperature).unflatten(-1, (self.parts, self.classes)).log_softmax(-1)

    def targets(self, target: Tensor) -> Tensor:
        """Return the targets of a batch as distributions ``(B, parts, classes)``, not smoothed."""
        target = target.reshape(len(target), self.parts)
        return two_hot(target, *self.ends, self.classes) if self.ends else F.one_hot(target.long(), self.classes)

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of the smoothed targets."""
        log = self.log(logits)
        smooth = (1 - self.smoothing) * self.targets(target).to(log.dtype) + self.smoothing / self.classes
        return -(smooth * log).sum((-2, -1)).mean()

    def divergence(
        self, teacher: Tensor, student: Tensor, direction: Direction = "teacher_student", temperature: float = 1.0
    ) -> Tensor:
        """Return the divergence, added up over parts."""
        p, q = self.log(teacher.detach(), temperature), self.log(student, temperature)
        if direction == "released":
            return (q.exp() * (q - p.exp())).mean()
        first, second = (p, q) if direction == "teacher_student" else (q, p)
        return (first.exp() * (first - second)).sum((-2, -1)).mean()

    def jensen_shannon(self, logits: Sequence[Tensor]) -> Tensor:
        """Return ``H(mean_i q_i) - mean_i H(q_i)``, added up over parts."""
        each = torch.stack([self.log(item) for item in logits])
        middle = each.logsumexp(0) - math.log(len(each))
        return (each.exp() * (each - middle)).sum((-2, -1)).mean()

    def consensus(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the mean log-probabilities, which are logits of the geometric mean."""
        return torch.stack([self.log(item) for item in logits]).mean(0).flatten(1)

    def points(self, logits: Tensor) -> Tensor:
        """Return the probabilities ``(B, width)``."""
        return self.log(logits).exp().flatten(1)


class GaussianLabels(LabelDistribution):
    """Gaussians of variance 1 around real values: the "logits" are the means.

    Args:
        target: What is predicted.
    """

    def __init__(self, target: TargetSpec) -> None:
        self.width = len(target.names)

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return half the squared error: the cross-entropy without its constant."""
        return _half_square(logits - target.reshape(logits.shape))

    def divergence(
        self, teacher: Tensor, student: Tensor, direction: Direction = "teacher_student", temperature: float = 1.0
    ) -> Tensor:
        """Return half the squared distance of the means over the temperature, the same in both directions."""
        return _half_square(at_least_single(teacher.detach()) - student) / temperature

    def jensen_shannon(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the mean divergence from the geometric mean; the divergence from a mixture has no closed form."""
        each = at_least_single(torch.stack(list(logits)))
        return _half_square(each - each.mean(0))

    def consensus(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the mean of the means, around which the geometric mean has variance 1 again."""
        return at_least_single(torch.stack(list(logits))).mean(0)

    def points(self, logits: Tensor) -> Tensor:
        """Return the means."""
        return at_least_single(logits)


def _half_square(difference: Tensor) -> Tensor:
    return difference.square().sum(-1).mean() / 2
