"""From the tokens of utterances to a vector each."""

from __future__ import annotations

import torch
from torch import nn

from data_modules.schema import PaddedSequence
from mmbench.nn.pooling import masked_mean

PIECE = 256
"""Utterances that a text encoder reads at a time."""


def utterance_vectors(encoder: nn.Module, tokens: PaddedSequence) -> PaddedSequence:
    """Return the mean of a text encoder's states for every utterance of dialogues, ``(B, U, D)``.

    Args:
        encoder: From tokens ``(N, L)`` to states ``(N, L, D)``.
        tokens: ``(B, U, L)`` with the steps of each utterance.
    """
    assert tokens.steps is not None
    real = tokens.mask
    ids, lengths = tokens.values[real], tokens.steps[real]
    pieces = []
    for some, steps in zip(ids.split(PIECE), lengths.split(PIECE), strict=True):
        states = encoder(PaddedSequence(some[:, : int(steps.max())], steps))
        pieces.append(masked_mean(states.values, states.mask))
    vectors = torch.cat(pieces)
    out = vectors.new_zeros(*real.shape, vectors.shape[-1])
    out[real] = vectors
    return PaddedSequence(out, tokens.lengths)
