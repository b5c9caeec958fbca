"""Samples kept apart by clusters of earlier samples, whose centres drift slowly towards the present.

Vectors are compared by their direction alone. All state is in checkpoints, so that a resumed run goes on exactly:
vectors as buffers, counters as extra state, which the CPU reads without waiting for the device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SEED = 0  # of the draws that start the clusters; they leave torch's global generator alone
_SHARPNESS = 0.05  # of the balanced assignment: similarities are divided by it


def first_centres(rows: Tensor, count: int) -> Tensor:
    """Return rows that are far from each other, ``(count, D)``, by the draws of k-means++ on cosine distance.

    Args:
        rows: ``(N, D)`` unit vectors, ``count`` of them at least.
        count: Number of centres.
    """
    generator = torch.Generator().manual_seed(_SEED)
    chosen = [int(torch.randint(len(rows), (), generator=generator))]
    while len(chosen) < count:
        distance = (1 - rows @ rows[chosen].T).amin(1).clamp(min=1e-8).cpu()
        distance[chosen] = 0.0
        chosen.append(int(torch.multinomial(distance, 1, generator=generator)))
    return rows[chosen]


def spherical_kmeans(rows: Tensor, centres: Tensor, iterations: int) -> Tensor:
    """Return the centres ``(P, D)`` after some rounds of Lloyd's algorithm; one without rows stays where it is.

    Args:
        rows: ``(N, D)`` unit vectors.
        centres: ``(P, D)`` unit vectors to start from. Cluster ``p`` stays cluster ``p``.
        iterations: Number of rounds.
    """
    for _ in range(iterations):
        member = F.one_hot((rows @ centres.T).argmax(1), len(centres)).to(rows.dtype)
        centres = torch.where(member.any(0).unsqueeze(1), F.normalize(member.T @ rows, dim=1), centres)
    return centres


def balanced_assignment(similarity: Tensor, iterations: int = 3) -> Tensor:
    """Return ``(N,)`` a cluster for each row such that all clusters get about the same share of the rows.

    The Sinkhorn-Knopp iteration of SwAV (Caron et al., NeurIPS 2020, arXiv 2006.09882) and the largest entry of a row.

    Args:
        similarity: ``(N, P)`` cosines.
        iterations: Rounds of scaling clusters, then rows, to equal sums.
    """
    plan = ((similarity - similarity.amax()) / _SHARPNESS).exp()
    for _ in range(iterations):
        plan = plan / plan.sum(0, keepdim=True)
        plan = plan / plan.sum(1, keepdim=True)
    return plan.argmax(1)


class MemoryQueue(nn.Module):
    """The last rows that were pushed, oldest overwritten first.

    Args:
        size: Number of rows.
        dim: Width of a row.
    """

    memory: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("memory", torch.zeros(size, dim))
        self.pushed = 0

    def __len__(self) -> int:
        """Return the number of rows in memory."""
        return min(self.pushed, len(self.memory))

    def rows(self) -> Tensor:
        """Return the rows in memory, ``(len, D)``."""
        return self.memory[: len(self)]

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Remember ``(B, D)`` rows, the last ones if there are more than fit."""
        size = len(self.memory)
        places = (self.pushed + torch.arange(len(rows), device=rows.device)) % size
        self.memory[places[-size:]] = rows[-size:].to(self.memory.dtype)
        self.pushed += len(rows)

    def get_extra_state(self) -> Tensor:
        """Return the number of rows that were ever pushed."""
        return torch.tensor(self.pushed)

    def set_extra_state(self, state: Tensor) -> None:
        """Continue from a checkpoint."""
        self.pushed = int(state)


class ShiftedClustering(nn.Module):
    """Every sample must find its own cluster among the clusters of a memory of samples.

    ``mean_i CE(f_i E^T / tau, p_i)`` with unit vectors ``f_i`` and centres ``E``, which get no gradient; the target
    ``p_i`` is the cluster of ``f_i`` under the present centres, balanced over batch and memory. The centres are those
    of the memory when it is half full, and move every ``refresh`` steps from ``E`` to
    ``normalise(momentum E + (1 - momentum) E')``, where ``E'`` is what Lloyd's algorithm makes of ``E`` on the memory.
    Under DDP a process remembers the samples that it is given, and all begin an epoch with the memory of the first one.

    Args:
        dim: Width of a sample.
        clusters: Number of clusters.
        memory: Samples that are remembered; half of them, which are needed to begin, must fill the clusters.
        temperature: Divides cosines in the loss.
        momentum: Weight of the old centres; 1 keeps them for ever.
        refresh: Steps after which centres move.
        balanced: Whether targets are balanced; otherwise each is the nearest centre.
    """

    centres: Tensor

    def __init__(
        self,
        dim: int,
        clusters: int = 16,
        memory: int = 512,
        temperature: float = 0.1,
        momentum: float = 0.9,
        refresh: int = 50,
        balanced: bool = True,
    ) -> None:
        super().__init__()
        self.temperature, self.momentum, self.refresh, self.balanced = temperature, momentum, refresh, balanced
        self.queue = MemoryQueue(memory, dim)
        self.register_buffer("centres", torch.zeros(clusters, dim))
        self.steps = 0  # until there are centres

    def forward(self, samples: Tensor, active: bool = True) -> Tensor:
        """Return the loss, a scalar, zero before there are centres; in training the samples are remembered after it.

        Args:
            samples: ``(B, dim)``.
            active: Whether there is a loss; otherwise samples are only remembered.
        """
        with torch.autocast(samples.device.type, enabled=False):
            rows = F.normalize(samples.to(self.centres.dtype), dim=1)
            loss = self._loss(rows) if active else rows.sum() * 0.0
            if self.training:
                self.queue.push(rows.detach())
            return loss

    def _loss(self, rows: Tensor) -> Tensor:
        if self.training and not self.steps and len(self.queue) >= len(self.queue.memory) // 2:
            known = self.queue.rows()
            self.centres.copy_(spherical_kmeans(known, first_centres(known, len(self.centres)), iterations=20))
            self.steps += 1
        if not self.steps:
            return rows.sum() * 0.0
        similarity = rows @ self.centres.T
        loss = F.cross_entropy(similarity / self.temperature, self.targets(similarity.detach()))
        if self.training:
            if self.steps % self.refresh == 0:
                moved = spherical_kmeans(self.queue.rows(), self.centres, iterations=5)
                self.centres = F.normalize(self.centres.lerp(moved, 1 - self.momentum), dim=1)
            self.steps += 1
        return loss

    def get_extra_state(self) -> Tensor:
        """Return the number of steps since there are centres."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        """Continue from a checkpoint."""
        self.steps = int(state)

    def targets(self, similarity: Tensor) -> Tensor:
        """Return ``(B,)`` the cluster of each sample.

        Args:
            similarity: ``(B, clusters)`` cosines to the centres.
        """
        if not self.balanced:
            return similarity.argmax(1)
        known = self.queue.rows() @ self.centres.T
        return balanced_assignment(torch.cat([similarity, known]))[: len(similarity)]
