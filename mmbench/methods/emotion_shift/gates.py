"""Whether emotion shifts between two utterances, and cells whose state stays where it does not.

Any recurrent model whose state stands for emotion can put :class:`ShiftGatedCell` in the place of its own cell and be
told by :class:`ShiftDetector`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmbench.methods.emotion_shift.shift_labels import SHIFT
from mmbench.nn.precision import at_least_single


class ShiftDetector(nn.Module):
    """Whether emotion shifts between two utterances: a linear layer on both vectors and their distance.

    Args:
        dim: Width ``D`` of an utterance vector.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(3 * dim, 2)

    def forward(self, previous: Tensor, current: Tensor) -> Tensor:
        """Return logits ``(..., 2)`` of :data:`SHIFT` and :data:`SAME` for vectors ``(..., D)``.

        Args:
            previous: The utterance before; zeros where there is none.
            current: The utterance.
        """
        return self.classifier(torch.cat([previous, current, (previous - current).abs()], dim=-1))


def shift_probability(logits: Tensor) -> Tensor:
    """Return the probability of a shift ``(...)`` for a detector's logits ``(..., 2)``."""
    return at_least_single(logits).softmax(-1)[..., SHIFT]


def gated_state(read: Tensor, state: Tensor, shift: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the next state ``(..., H)``: the old one without a shift, a new one with it.

    Args:
        read: ``(..., H)`` what the cell reads, already multiplied by its weights.
        state: ``(..., H)`` the state before.
        shift: ``(..., 1)`` probability of a shift.
        weight: ``(..., H, H)``, to multiply a row from the right.
        bias: ``(..., H)``.
    """
    kept = (1 - shift) * state
    return kept + shift * torch.tanh(read + kept @ weight + bias)


def gru_state(read: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the next state ``(N, B, H)`` of ``N`` GRU cells at once.

    Args:
        read: ``(N, B, 3 H)`` what the cells read, already multiplied by their weights, with its bias.
        state: ``(N, B, H)`` the states before.
        weight: ``(N, H, 3 H)``.
        bias: ``(N, 1, 3 H)``.
    """
    size = 2 * state.shape[-1]
    own = torch.baddbmm(bias, state, weight)
    reset, update = (read[..., :size] + own[..., :size]).sigmoid().chunk(2, dim=-1)
    fresh = torch.tanh(read[..., size:] + reset * own[..., size:])
    return fresh + update * (state - fresh)


class ShiftGatedCell(nn.Module):
    """A recurrent cell with one gate from outside in the place of a GRU's two.

    ``kept = (1 - p) e; next = kept + p tanh(W x + U kept)`` with the probability ``p`` of a shift.

    Args:
        dim: Features that are read.
        hidden: Width ``H`` of the state.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.read = nn.Linear(dim, hidden)
        self.keep = nn.Linear(hidden, hidden)

    def forward(self, values: Tensor, state: Tensor, shift: Tensor) -> Tensor:
        """Return the next state ``(B, H)``.

        Args:
            values: ``(B, dim)`` what is read.
            state: ``(B, H)`` the state before.
            shift: ``(B,)`` probability of a shift.
        """
        return gated_state(self.read(values), state, shift[:, None], self.keep.weight.T, self.keep.bias)
