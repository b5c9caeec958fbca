"""The terms of the official code beside distillation: the ranked-list loss and the transport between observations."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbench.nn.precision import at_least_single

# The Sinkhorn loop of the official code adds these inside its logarithms, and its numbers depend on them.
_MARGINAL_FLOOR, _PLAN_FLOOR = 1e-8, 1e-6
_COUNT_FLOOR = 1e-5  # added to the number of positives and to the weights of negatives of the ranked-list loss


def ranked_list_loss(
    features: Tensor,
    groups: Tensor,
    modality: Tensor,
    alphas: tuple[float, float] = (2.2, 2.0),
    margins: tuple[float, float] = (0.9, 1.0),
) -> Tensor:
    """Return the ranked-list loss with a term for pairs within a modality and one for pairs across, a scalar.

    Features are scaled to length 1, ``d`` is their Euclidean distance. For each anchor and kind of pair: the mean of
    ``max(0, d - (alpha - margin))`` over the rows of its class, plus the mean of ``alpha - d`` over the rows of other
    classes with ``d < alpha``, weighted by ``exp(alpha - d)``; then the mean over anchors. Anchors and pairs are those
    of the given rows: under DDP nothing is gathered here.

    Args:
        features: ``(N, D)``.
        groups: ``(N,)`` class of each row; rows of class -1 take no part.
        modality: ``(N,)`` which modality a row is of.
        alphas: Radius beyond which other classes are left alone, within and across modalities.
        margins: How much closer the own class must be, within and across modalities.
    """
    known = groups >= 0
    unit, groups, modality = F.normalize(at_least_single(features[known]), dim=1), groups[known], modality[known]
    distance = torch.cdist(unit, unit)  # of slope 0 between copies, and in single precision under autocast
    positive, same = groups[:, None] == groups, modality[:, None] == modality
    other = ~torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    total = features.new_zeros(())
    for pairs, alpha, margin in zip((same, ~same), alphas, margins, strict=True):
        near = (positive & pairs & other).to(distance.dtype)
        excess = ((distance - (alpha - margin)).clamp(min=0) * near).sum(1) / (near.sum(1) + _COUNT_FLOOR)
        weight = (alpha - distance).exp() * (~positive & pairs & (distance < alpha))
        lack = ((alpha - distance) * weight).sum(1) / (weight.sum(1) + _COUNT_FLOOR)
        total = total + (excess + lack).sum()
    return total / max(1, len(unit))


def sinkhorn_distance(x: Tensor, y: Tensor, eps: float = 0.01, rounds: int = 100, tolerance: float = 0.1) -> Tensor:
    """Return the entropic transport cost between two sets of points of equal weight, a scalar.

    The cost of a pair is its squared Euclidean distance. The loop in the log domain stops when the first potential
    changes by less than the tolerance in total, so it is coarse by design; the gradient goes through all rounds. Under
    DDP nothing is gathered here.

    Args:
        x: ``(N, D)``.
        y: ``(N, D)``.
        eps: Strength of the entropy.
        rounds: Most rounds.
        tolerance: Change of the potential, summed over its entries, at which to stop.
    """
    cost = (x[:, None] - y).square().sum(-1)
    log_weight = math.log(1 / len(x) + _MARGINAL_FLOOR)
    u, v = cost.new_zeros(len(x)), cost.new_zeros(len(y))

    def kernel() -> Tensor:
        return ((u[:, None] + v - cost) / eps).exp()

    for _ in range(rounds):
        before = u
        u = u + eps * (log_weight - (kernel().sum(1) + _PLAN_FLOOR).log())
        v = v + eps * (log_weight - (kernel().sum(0) + _PLAN_FLOOR).log())
        if (u - before).abs().sum() < tolerance:
            break
    return (kernel() * cost).sum()
