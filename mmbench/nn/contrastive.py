"""Contrastive losses over the rows of a batch: with labels, between two views, and between two modalities.

Scores are inner products divided by a temperature; the rows are taken as they are, and callers give vectors of unit
length. All negatives are rows that are given. Under DDP nothing is gathered here: of local rows, the loss of ``n``
processes is the mean of ``n`` losses over smaller batches, and that of the whole one where callers give gathered rows
(:mod:`mmbench.nn.gathering`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.nn.precision import at_least_single


class Projector(nn.Module):
    """Two linear layers of constant width, the first without bias, to a vector of unit length.

    Args:
        dim: Width.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, dim, bias=False), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, vector: Tensor) -> Tensor:
        """Return ``(B, dim)`` of unit length."""
        return F.normalize(self.net(vector), dim=-1)


def _scores(rows: Tensor, columns: Tensor, temperature: float) -> Tensor:
    """Return ``(N, M)`` scores, in single precision at least: small temperatures magnify what half precision lost."""
    with torch.autocast(rows.device.type, enabled=False):
        return at_least_single(rows) @ at_least_single(columns).T / temperature


def _without_self(scores: Tensor) -> Tensor:
    """Return square scores whose diagonal no softmax sees."""
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    return scores.masked_fill(own, -torch.inf)


def supervised_contrastive(vectors: Tensor, labels: Tensor, temperature: float = 0.07) -> Tensor:
    """Return the supervised contrastive loss, a scalar: rows of one label attract each other and repel the rest.

    ``L_out`` of Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, arXiv 2004.11362, equation 2, without
    its base temperature: ``l_i = -1 / |P(i)| sum_{p in P(i)} log(exp(s_ip) / sum_{k != i} exp(s_ik))``. The mean goes
    over the rows that have positives ``P(i)``; it is 0, with a gradient of 0, where none has.

    Args:
        vectors: ``(B, D)`` of unit length.
        labels: ``(B,)``, or ``(B, C)`` where only equal rows are positives.
        temperature: What scores are divided by.
    """
    scores = _scores(vectors, vectors, temperature)
    labels = labels.reshape(len(labels), -1)
    positive = (labels[:, None] == labels).all(-1).fill_diagonal_(False)
    log_share = scores - _without_self(scores).logsumexp(1, keepdim=True)
    count = positive.sum(1)
    losses = -torch.where(positive, log_share, 0.0).sum(1) / count.clamp(min=1)
    return losses.sum() / (count > 0).sum().clamp(min=1)


def pair_contrastive(first: Tensor, second: Tensor, temperature: float = 0.05) -> Tensor:
    """Return the self-supervised loss of two views, a scalar: each vector must find its sample's other view.

    NT-Xent of Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, arXiv
    2002.05709, equation 1: the negatives of a vector are both views of all other samples. It is 0 for a batch of one.

    Args:
        first: ``(B, D)`` one view, of unit length.
        second: ``(B, D)`` the other view.
        temperature: What scores are divided by.
    """
    vectors = torch.cat([first, second])
    scores = _without_self(_scores(vectors, vectors, temperature))
    other = torch.arange(len(vectors), device=vectors.device).roll(len(first))
    return (scores.logsumexp(1) - scores.gather(1, other[:, None])[:, 0]).mean()


def info_nce(first: Tensor, second: Tensor, temperature: float = 0.1) -> Tensor:
    """Return the symmetric InfoNCE loss, a scalar: each row must find its partner among the other side's rows.

    The mean of both directions' cross-entropies over ``(B, B)`` scores, as in van den Oord et al., "Representation
    Learning with Contrastive Predictive Coding", arXiv 1807.03748, equation 4: ``ln B`` less the loss bounds the mutual
    information from below. It is 0 for a batch of one.

    Args:
        first: ``(B, D)`` of unit length.
        second: ``(B, D)``, row ``i`` belonging to row ``i`` of the first.
        temperature: What scores are divided by.
    """
    scores = _scores(first, second, temperature)
    return ((scores.logsumexp(1) + scores.logsumexp(0)) / 2 - scores.diagonal()).mean()
