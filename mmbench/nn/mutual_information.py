"""Bounds of mutual information: Barber-Agakov with a class-conditional Gaussian entropy, and contrastive prediction.

Both follow MMIM (Han, Chen, Poria, EMNLP 2021, arXiv 2109.00412). Barber-Agakov bounds from below
``I(X; Y) >= E[log q(y | x)] + H(Y)``: :class:`GaussianConditional` is ``q`` and :class:`ClassConditionalEntropy`
estimates ``H``. :func:`cosine_nce` is the loss of contrastive predictive coding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GaussianConditional(nn.Module):
    """The Gaussian ``q(y | x)`` with diagonal covariance, its moments given by two perceptrons with one hidden layer.

    Args:
        x_dim: Width of ``x``.
        y_dim: Width of ``y`` and of the hidden layers.
    """

    def __init__(self, x_dim: int, y_dim: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(x_dim, y_dim), nn.ReLU(), nn.Linear(y_dim, y_dim))
        self.logvar = nn.Sequential(nn.Linear(x_dim, y_dim), nn.ReLU(), nn.Linear(y_dim, y_dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance of ``y``, each ``(B, y_dim)``, for ``x (B, x_dim)``."""
        return self.mean(x), self.logvar(x)


def gaussian_log_likelihood(y: Tensor, mean: Tensor, logvar: Tensor, include_logvar: bool = False) -> Tensor:
    """Return the mean log-likelihood of ``y`` without its constant, a scalar.

    Args:
        y: ``(B, D)``.
        mean: ``(B, D)``.
        logvar: ``(B, D)``.
        include_logvar: Whether to keep the term ``-logvar / 2``. Without it (as MMIM's code has it) the value is at
            most zero and grows with the variance alone.
    """
    terms = -((mean - y) ** 2) / (2 * logvar.exp())
    if include_logvar:
        terms = terms - logvar / 2
    return terms.sum(-1).mean()


def class_covariances(rows: Tensor, groups: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the biased covariance of the rows of each class and the number of them.

    Args:
        rows: ``(N, K)``.
        groups: ``(N,)`` class of each row; -1 for rows of no class.
        classes: Number of classes ``C``.

    Returns:
        ``(C, K, K)`` and ``(C,)``. A class without rows has a covariance of zeros.
    """
    member = (groups == torch.arange(classes, device=groups.device)[:, None]).to(rows.dtype)
    count = member.sum(1)
    share = member / count.clamp(min=1)[:, None]
    centred = rows - (share @ rows)[:, None]
    return torch.einsum("cn,cnk,cnl->ckl", share, centred, centred), count


class ClassConditionalEntropy(nn.Module):
    """Entropy of a representation as a mixture of one Gaussian per class, over this batch and some before it.

    ``H = sum_c w_c / 2 logdet Sigma_c``, constants dropped, over the classes with at least ``K + 1`` rows: fewer make
    the covariance singular. The memory lives for one epoch: it is no part of checkpoints, which are written between
    epochs. Under DDP a process remembers the rows that it is given: its own, or those of all where callers gather them.

    Args:
        dim: Width ``K`` of the representation.
        classes: Number of classes.
        memory: Batches that are remembered.
        batch_size: Rows of a batch; a larger one makes the memory grow.
        eps: Added to the diagonal of every covariance.
        equal_weights: Whether all classes weigh the same and all of them must have enough rows, or else the entropy
            is zero (MMIM's positive and negative samples). Otherwise each class weighs by its share of the rows.
    """

    codes: Tensor
    groups: Tensor

    def __init__(
        self,
        dim: int,
        classes: int = 2,
        memory: int = 1,
        batch_size: int = 32,
        eps: float = 1e-5,
        equal_weights: bool = True,
    ) -> None:
        super().__init__()
        self.classes, self.eps, self.equal_weights = classes, eps, equal_weights
        self.register_buffer("codes", torch.zeros(memory, batch_size, dim), persistent=False)
        self.register_buffer("groups", torch.full((memory, batch_size), -1), persistent=False)
        self.pushed = 0

    @property
    def ready(self) -> bool:
        """Whether more batches were pushed than the memory holds, from when on MMIM uses the entropy."""
        return self.pushed > self.codes.shape[0]

    def reset(self) -> None:
        """Forget everything."""
        self.codes.zero_()  # a row that diverged must not outlive its epoch: 0 * NaN is NaN
        self.groups.fill_(-1)
        self.pushed = 0

    @torch.no_grad()
    def push(self, codes: Tensor, groups: Tensor) -> None:
        """Remember a batch in place of the oldest one.

        Args:
            codes: ``(B, K)``.
            groups: ``(B,)`` class of each row, -1 for rows of no class.
        """
        size = codes.shape[0]
        if (missing := size - self.codes.shape[1]) > 0:
            self.codes = F.pad(self.codes, (0, 0, 0, missing))
            self.groups = F.pad(self.groups, (0, missing), value=-1)
        slot = self.pushed % self.codes.shape[0]
        self.groups[slot] = -1
        self.groups[slot, :size] = groups
        self.codes[slot, :size] = codes
        self.pushed += 1

    def rows(self, group: int) -> Tensor:
        """Return the remembered rows ``(n, K)`` of a class, slot by slot."""
        return self.codes[self.groups == group]

    def forward(self, codes: Tensor, groups: Tensor) -> Tensor:
        """Return the entropy, a scalar; its gradient reaches the given rows and not the remembered ones.

        Args:
            codes: ``(B, K)``.
            groups: ``(B,)`` class of each row, -1 for rows of no class.
        """
        with torch.autocast(codes.device.type, enabled=False):  # a determinant has no half precision
            rows = torch.cat([self.codes.flatten(0, 1), codes.to(self.codes.dtype)])
            groups = torch.cat([self.groups.flatten(), groups])
            covariance, count = class_covariances(rows, groups, self.classes)
            identity = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
            enough = count > rows.shape[1]
            # The identity stands in where rows are too few: its determinant has a finite gradient.
            covariance = torch.where(enough[:, None, None], covariance + self.eps * identity, identity)
            logdet = torch.linalg.slogdet(covariance).logabsdet
            if self.equal_weights:
                return torch.where(enough.all(), logdet.mean() / 2, 0.0)
            weight = count * enough
            return (weight * logdet).sum() / weight.sum().clamp(min=1) / 2


class CosinePredictor(nn.Module):
    """The network of contrastive predictive coding that predicts one representation from another.

    Args:
        z_dim: Width of what is given.
        x_dim: Width of what is predicted.
        layers: Linear layers; with several, a tanh follows the first one (and only that one, as in MMIM's code).
    """

    def __init__(self, z_dim: int, x_dim: int, layers: int = 1) -> None:
        super().__init__()
        later = [nn.Linear(x_dim, x_dim) for _ in range(layers - 1)]
        self.net = nn.Sequential(nn.Linear(z_dim, x_dim), *([nn.Tanh()] if later else []), *later)

    def forward(self, z: Tensor) -> Tensor:
        """Return the prediction ``(B, x_dim)`` from ``z (B, z_dim)``."""
        return self.net(z)


def cosine_nce(x: Tensor, predicted: Tensor) -> Tensor:
    """Return the contrastive loss of predictions, a scalar: each row must find its own prediction among all.

    ``mean_i [logsumexp_j s_ij - s_ii]`` with ``s_ij = cos(x_i, predicted_j)`` and no temperature. It is zero for a
    batch of one. The negatives are the rows that are given: under DDP nothing is gathered here.

    Args:
        x: ``(B, D)`` the true representations.
        predicted: ``(B, D)`` their predictions.
    """
    score = F.normalize(x, dim=-1) @ F.normalize(predicted, dim=-1).T
    return (score.logsumexp(-1) - score.diagonal()).mean()
