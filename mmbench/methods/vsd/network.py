"""The network of VSD: an encoder and a branch per view, branches that all views share, and the fusion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data_modules.schema import PaddedSequence
from mmbench.methods.output import Output
from mmbench.methods.vsd.config import DistillationConfig, VSDConfig
from mmbench.nn.branches import Branch, GRUMean, ViewOutput, fusion_head
from mmbench.nn.steps import Layout

SHARED = "shared"


class ViewEncoder(nn.Module):
    """From a sequence to one vector: a linear layer, then a GRU and the mean of its states, or the first step alone.

    Args:
        dim: Features per step.
        width: Width of the vector.
        first: Whether the first step alone is used.
    """

    def __init__(self, dim: int, width: int, first: bool = False) -> None:
        super().__init__()
        self.project = nn.Linear(dim, width)
        self.reader = None if first else GRUMean(width)

    def forward(self, sequence: PaddedSequence) -> Tensor:
        """Return ``(B, width)``."""
        if self.reader is None:
            return self.project(sequence.values[:, 0])
        layout = Layout.of(sequence)
        return self.reader(self.project(layout.rows(sequence.values)), layout)


def view_encoders(dims: Mapping[str, int], settings: DistillationConfig) -> nn.ModuleDict:
    """Return an encoder for every view."""
    return nn.ModuleDict(
        {name: ViewEncoder(dim, settings.width, settings.text_first and name == "text") for name, dim in dims.items()}
    )


@dataclass(kw_only=True)
class BranchesOutput(Output):
    """The prediction and what the branches say, by view; see :class:`ViewOutput` for the parts."""

    v: dict[str, Tensor]
    p: dict[str, Tensor]
    z: dict[str, Tensor]
    q: dict[str, Tensor]


@dataclass(kw_only=True)
class VSDOutput(BranchesOutput):
    """The same of the shared branch beside it."""

    v_shared: dict[str, Tensor]
    p_shared: dict[str, Tensor]
    z_shared: dict[str, Tensor]
    q_shared: dict[str, Tensor]


def by_part(outputs: Mapping[str, ViewOutput]) -> Iterable[dict[str, Tensor]]:
    """Return ``v``, ``p``, ``z`` and ``q`` of all views."""
    return (dict(zip(outputs, part, strict=True)) for part in zip(*outputs.values(), strict=True))


class VSDNetwork(nn.Module):
    """Encoders, branches and fusion.

    Args:
        dims: Features per step by modality.
        outputs: Width of the prediction.
        logits: Width of the heads that are distilled.
        settings: The method's settings.
    """

    def __init__(self, dims: Mapping[str, int], outputs: int, logits: int, settings: VSDConfig) -> None:
        super().__init__()
        c = settings
        self.views, self.fuse_on, self.text_first = tuple(dims), c.fuse_on, c.text_first
        self.encoders = view_encoders(dims, c)
        self.adapters = nn.ModuleDict({name: nn.Linear(dim, c.width) for name, dim in dims.items()})
        self.shared_encoder = GRUMean(c.width)
        self.branches = nn.ModuleDict(
            {name: Branch(c.width, c.hidden, c.z_dim, logits, c.head_dropout) for name in (*dims, SHARED)}
        )
        self.fusion = fusion_head(
            2 * len(dims) * (c.z_dim if c.fuse_on == "z" else c.width), c.fusion_dim, outputs, c.fusion_dropout
        )

    def forward(self, inputs: Mapping[str, PaddedSequence]) -> VSDOutput:
        """Return what :meth:`read` says of the vectors of all views."""
        own = {name: self.encoders[name](inputs[name]) for name in self.views}
        return self.read(own, self._shared(inputs))

    def _shared(self, inputs: Mapping[str, PaddedSequence]) -> dict[str, Tensor]:
        """Return the vectors ``(B, width)`` of all views from the encoder that they share."""
        read, lengths, layouts = [], [], []
        for name in self.views:
            sequence = inputs[name]
            if name == "text" and self.text_first:
                sequence = PaddedSequence(sequence.values[:, :1], sequence.lengths.clamp(max=1))
            layout = Layout.of(sequence)
            read.append(self.adapters[name](layout.rows(sequence.values)))
            lengths.append(sequence.lengths)
            layouts.append(layout)
        if layouts[0].packed:  # all views take their steps together
            together = Layout(torch.cat(lengths), max(layout.steps for layout in layouts), read[0].device)
            vectors = self.shared_encoder(torch.cat(read), together).chunk(len(layouts))
        else:
            vectors = [self.shared_encoder(rows, layout) for rows, layout in zip(read, layouts, strict=True)]
        return dict(zip(self.views, vectors, strict=True))

    def read(self, own: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> VSDOutput:
        """Return the prediction and what the branches say of vectors ``(B, width)``.

        The shared branch reads one view after the other, so that a norm sees the statistics of one view at a time.
        """
        v, p, z, q = by_part({name: self.branches[name](own[name]) for name in self.views})
        v_shared, p_shared, z_shared, q_shared = by_part(
            {name: self.branches[SHARED](shared[name]) for name in self.views}
        )
        fused = (z, z_shared) if self.fuse_on == "z" else (v, v_shared)
        return VSDOutput(
            self.fusion(torch.cat([vector for vectors in fused for vector in vectors.values()], dim=-1)),
            v=v,
            p=p,
            z=z,
            q=q,
            v_shared=v_shared,
            p_shared=p_shared,
            z_shared=z_shared,
            q_shared=q_shared,
        )
