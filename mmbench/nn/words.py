"""The words of a text whose first and last step are marks of the tokenizer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from data_modules.schema import PaddedSequence


def shifted(values: Tensor) -> Tensor:
    """Return ``(B, T, ...)`` without its first step, and with one more step of zeros at the end.

    Args:
        values: ``(B, T, D)`` states or ``(B, T)`` marks of steps.
    """
    return F.pad(values[:, 1:], (0, 1) if values.dim() == 2 else (0, 0, 0, 1))


def without_marks(text: PaddedSequence) -> PaddedSequence:
    """Return the steps between the first and the last one ([CLS] and [SEP]), zeros beyond them.

    The result has as many steps as the text, so that there is one even where a text has no words; its length is then
    zero.

    Args:
        text: ``(B, T, D)`` states of tokens.
    """
    inner = PaddedSequence(shifted(text.values), (text.lengths - 2).clamp(min=0))
    return PaddedSequence(inner.values.masked_fill(~inner.mask.unsqueeze(-1), 0.0), inner.lengths)
