"""Graph fusion of two or three vectors: modalities, pairs and triples count by how little their parents agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations

import torch
from torch import Tensor, nn

_PAIRS = (("audio", "vision"), ("vision", "text"), ("audio", "text"))
"""All pairs; their order and that of their members is the order of concatenation in the code of MIB."""


class GraphFusion(nn.Module):
    """Graph fusion network (ARGF, Mai, Hu, Xing, AAAI 2020): vertices of one, two and three modalities.

    A vertex counts by what its parents weigh and how little they agree: ``(s_i + s_j) / (p_i . p_j + 0.5)``, softmax
    over the vertices of a level, where ``p`` is the softmax of a parent's vector.

    Args:
        names: The modalities, two or three.
        dim: Width of their vectors and of the result.
    """

    def __init__(self, names: tuple[str, ...], dim: int) -> None:
        super().__init__()
        self.pairs = tuple(pair for pair in _PAIRS if set(pair) <= set(names))
        self.weight = nn.Linear(dim, 1)
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * dim, 64), nn.LeakyReLU(0.2), nn.Linear(64, dim), nn.Tanh())
            for _ in range(len(names) - 1)
        )
        self.out = nn.Sequential(
            nn.Linear(len(names) * dim, dim), nn.Tanh(), nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, dim), nn.Tanh()
        )

    def forward(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Return ``(B, d)`` from ``(B, d)`` each."""
        weight = {name: self.weight(vector).tanh() for name, vector in vectors.items()}
        share = {name: vector.softmax(-1) for name, vector in vectors.items()}
        sums = [torch.stack([weight[name] * vector for name, vector in vectors.items()]).mean(0)]
        joint = {(a, b): self.levels[0](torch.cat([vectors[a], vectors[b]], -1)) for a, b in self.pairs}
        strength = {(a, b): _strength(weight[a], weight[b], share[a], share[b]) for a, b in self.pairs}
        node = dict(zip(self.pairs, _nodes(strength.values(), joint.values()), strict=True))
        sums.append(torch.stack(list(node.values())).sum(0))
        if len(vectors) > 2:
            strengths, parents = [], []
            for p, q in combinations(self.pairs, 2):
                strengths.append(_strength(strength[p], strength[q], joint[p].softmax(-1), joint[q].softmax(-1)))
                parents.append(torch.cat([node[p], node[q]], -1))
            for p in self.pairs:
                (rest,) = vectors.keys() - set(p)
                strengths.append(_strength(strength[p], weight[rest], joint[p].softmax(-1), share[rest]))
                parents.append(torch.cat([node[p], vectors[rest]], -1))
            sums.append(torch.stack(_nodes(strengths, map(self.levels[1], parents))).sum(0))
        return self.out(torch.cat(sums, -1))


def _strength(weight: Tensor, other_weight: Tensor, share: Tensor, other_share: Tensor) -> Tensor:
    """Return how much the vertex of two parents counts, ``(B, 1)``."""
    return (weight + other_weight) / ((share * other_share).sum(-1, keepdim=True) + 0.5)


def _nodes(strengths: Iterable[Tensor], joint: Iterable[Tensor]) -> list[Tensor]:
    """Return the vertices of a level, ``(B, d)`` each, from strengths ``(B, 1)`` and vectors ``(B, d)``."""
    weights = torch.cat(list(strengths), -1).softmax(-1)
    return [(weights[:, number, None] * vector).tanh() for number, vector in enumerate(joint)]
