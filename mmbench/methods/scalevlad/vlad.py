"""Descriptors at several time scales, and their soft assignment to shared vectors (VLAD).

NetVLAD: Arandjelovic, Gronat, Torii, Pajdla, Sivic, CVPR 2016, arXiv 1511.07247.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.nn.steps import Layout


def window_means(rows: Tensor, layout: Layout, lengths: Tensor, window: int) -> tuple[Tensor, Layout]:
    """Return the means of the real steps of all windows that have any, ``(N_w, D)``, and where these rows belong.

    Windows lie side by side from the first step on; the last one may be shorter.

    Args:
        rows: ``(N, D)``.
        layout: Where they belong.
        lengths: ``(B,)`` real steps.
        window: Steps per window.
    """
    windows = Layout(-(-lengths // window), -(-layout.steps // window), rows.device, layout.packed)
    if layout.packed:
        place = windows.starts[layout.sample] + layout.step // window
        total = rows.new_zeros(len(windows.sample), rows.shape[1]).index_add(0, place, rows)
    else:
        values = F.pad(layout.padded(rows), (0, 0, 0, -layout.steps % window))
        total = values.unflatten(1, (-1, window)).sum(2).flatten(0, 1)
    count = (lengths[windows.sample] - window * windows.step).clamp(1, window)
    return total / count.unsqueeze(1).to(rows.dtype), windows


class MultiScale(nn.Module):
    """Descriptors of a sequence at several scales, ``LN(GELU(W_s h + b_s))`` of window means ``h``.

    Args:
        dim: Width.
        windows: Steps per window, by scale; 0 stands for the whole sequence.
    """

    def __init__(self, dim: int, windows: tuple[int, ...]) -> None:
        super().__init__()
        self.windows = windows
        self.transforms = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim)) for _ in windows
        )

    def forward(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the descriptors of all scales ``(B, N, D)``, zero for windows without real steps, and which have any.

        The latter is ``(B, N)`` bool.

        Args:
            values: ``(B, T, D)``.
            mask: ``(B, T)`` bool, ``True`` = real.
        """
        lengths, steps = mask.sum(1), values.shape[1]
        layout = Layout(lengths, steps, values.device)
        rows, descriptors, valid = layout.rows(values), [], []
        for window, transform in zip(self.windows, self.transforms, strict=True):
            means, windows = window_means(rows, layout, lengths, window or steps)
            descriptors.append(windows.padded(transform(means)))
            valid.append(windows.padded(windows.positions > 0))
        return torch.cat(descriptors, dim=1), torch.cat(valid, dim=1)


class SharedVLAD(nn.Module):
    """Sums of residuals to learned vectors, weighted by a soft assignment.

    ``a_nk = softmax_k(w_k z_n + b_k)`` for real descriptors, ``u_k = sum_n a_nk (z_n - c_k)``. Initially
    ``w_k = 2 c_k`` and ``b_k = -|c_k|^2``, so that a descriptor belongs to the nearest vector; from then on all three
    are free.

    Args:
        dim: Width ``D`` of descriptors and vectors.
        vectors: Number ``K`` of vectors.
    """

    def __init__(self, dim: int, vectors: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(vectors, dim) * dim**-0.5)
        self.assign = nn.Linear(dim, vectors)
        with torch.no_grad():
            self.assign.weight.copy_(2 * self.centres)
            self.assign.bias.copy_(-self.centres.square().sum(1))

    def forward(self, descriptors: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Return the residual sums ``u (B, K, D)`` and the assignment ``a (B, N, K)``, zero for what is not real.

        Args:
            descriptors: ``(B, N, D)``.
            valid: ``(B, N)`` bool, ``True`` = real.
        """
        assignment = self.assign(descriptors).softmax(dim=-1) * valid.unsqueeze(-1)
        total = assignment.transpose(1, 2) @ descriptors
        return total - assignment.sum(1).unsqueeze(-1) * self.centres, assignment
