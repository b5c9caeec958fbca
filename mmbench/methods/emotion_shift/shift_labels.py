"""Which utterances of a dialogue follow which, and where emotion shifts from one to the next.

An utterance belongs to a *group* of emotions, by default that of its valence, and an emotion shift is a change of the
group. As in the code of Shapes-of-Emotion (see :mod:`mmbench.methods.emotion_shift`), what comes before the first
utterance counts as group 0: pleasant emotions, or the first class, or no label, or the lower half of the scale.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from data_modules.schema import TargetSpec

SHIFT, SAME = 0, 1
"""The classes of a shift label."""
NOBODY = -1
"""Stands for the utterance that is not there."""

PLEASANT = {"happy", "hap", "happiness", "joy", "joyful", "excited", "exc", "excitement", "calm", "cal"}
PLEASANT |= {"neutral", "neu", "positive", "pos"}
UNPLEASANT = {"sad", "sadness", "angry", "ang", "anger", "frustrated", "fru", "frustration", "fearful", "fear", "fea"}
UNPLEASANT |= {"disgust", "disgusted", "dis", "negative", "neg"}


def valence(names: tuple[str, ...]) -> list[int]:
    """Return the group of each emotion: 0 for pleasant ones, 1 for unpleasant ones, one of its own for any other.

    Neutral is pleasant, as in the official code. Without any pleasant emotion the groups are counted from the first.
    """
    groups: dict[object, int] = {}
    if any(name.lower() in PLEASANT for name in names):
        groups = {"pleasant": 0, "unpleasant": 1}
    found = []
    for number, name in enumerate(names):
        side = "pleasant" if name.lower() in PLEASANT else "unpleasant" if name.lower() in UNPLEASANT else number
        found.append(groups.setdefault(side, len(groups)))
    return found


class EmotionGroups(nn.Module):
    """From targets to groups of emotions.

    * Classes: the group of the class.
    * Yes or no for each of several names (two-way problems, labels that may stand together): 0 without unpleasant
      emotions and 1 with one, and a bit of its own for every name that is neither pleasant nor unpleasant. For a single
      name the answer itself.
    * Numbers: whether the first one is in the lower (0) or the upper half (1) of its scale, the middle included; around
      zero where the scale has no ends.

    Args:
        target: What is predicted.
        by_valence: Whether emotions of one valence are one group; otherwise each has a group of its own.
    """

    table: Tensor

    def __init__(self, target: TargetSpec, by_valence: bool = True) -> None:
        super().__init__()
        self.kind, names = target.kind, target.names
        groups = valence(names) if by_valence else list(range(len(names)))
        if self.kind in ("binary", "multilabel"):
            groups = self._bits(names, by_valence and len(names) > 1)
        self.middle = 0.0 if target.low is None or target.high is None else (target.low + target.high) / 2
        self.register_buffer("table", torch.tensor(groups), persistent=False)

    @staticmethod
    def _bits(names: tuple[str, ...], by_valence: bool) -> list[int]:
        """Return by name a power of two; what unpleasant emotions share, and 0 for pleasant ones."""
        bits, following = [], 1 if not by_valence else 2
        for name in names:
            known = by_valence and name.lower() in PLEASANT | UNPLEASANT
            bits.append(int(name.lower() in UNPLEASANT) if known else following)
            following *= 1 if known else 2
        return bits

    def forward(self, target: Tensor) -> Tensor:
        """Return ``(B, T)`` groups of ``(B, T)`` or ``(B, T, C)`` targets of utterances."""
        if self.kind == "multiclass":
            return self.table[target]
        if self.kind == "regression":
            return ((target if target.dim() == 2 else target[..., 0]) >= self.middle).long()
        said = target > 0
        unpleasant = (said & (self.table == 1)).any(-1).long()
        return unpleasant + (said * self.table * (self.table > 1)).sum(-1)


def predecessors(real: Tensor, speaker: Tensor | None = None) -> Tensor:
    """Return ``(B, T)`` the place of the utterance before each one, :data:`NOBODY` where there is none.

    Args:
        real: ``(B, T)`` bool, the utterances; padding has no predecessor and is none.
        speaker: ``(B, T)`` roles, to look for the utterance before of the same speaker.
    """
    places = torch.arange(real.shape[1], device=real.device)
    if speaker is None:
        return torch.where(real, places - 1, NOBODY)
    before = (speaker[:, :, None] == speaker[:, None, :]) & (places < places[:, None])
    before &= real[:, :, None] & real[:, None, :]
    return torch.where(before, places, NOBODY).amax(-1)


def successors(previous: Tensor) -> Tensor:
    """Return ``(B, T)`` the place of the utterance whose predecessor each one is, :data:`NOBODY` where there is none.

    Args:
        previous: ``(B, T)`` as :func:`predecessors` gives it.
    """
    places = torch.arange(previous.shape[1], device=previous.device)
    return torch.where(previous[:, None, :] == places[:, None], places, NOBODY).amax(-1)


def party_roles(speaker: Tensor, real: Tensor) -> Tensor:
    """Return ``(B, T)`` the role of each utterance's party, from 0 on; 0 in padding.

    Two roles stay what they are. More are counted anew in each dialogue, by first appearance: data name far more
    speakers than there are in one dialogue.

    Args:
        speaker: ``(B, T)`` roles in the data.
        real: ``(B, T)`` bool, the utterances.
    """
    speaker = speaker.masked_fill(~real, 0)
    places = torch.arange(real.shape[1], device=real.device)
    same = (speaker[:, :, None] == speaker[:, None, :]) & real[:, None, :]
    first = torch.where(same, places, real.shape[1] - 1).amin(-1)
    counted = ((first == places) & real).cumsum(1).sub(1).gather(1, first)
    return torch.where((speaker > 1).any(), counted.masked_fill(~real, 0), speaker)


def at(values: Tensor, places: Tensor, otherwise: float = 0.0) -> Tensor:
    """Return ``(B, T)`` or ``(B, T, D)`` values at other places of the same dialogue.

    Args:
        values: ``(B, T)`` or ``(B, T, D)``.
        places: ``(B, T)``.
        otherwise: What stands where the place is :data:`NOBODY`.
    """
    nobody, wanted = places == NOBODY, places.clamp(min=0)
    if values.dim() == 3:
        nobody, wanted = nobody.unsqueeze(-1), wanted.unsqueeze(-1).expand(-1, -1, values.shape[-1])
    return values.gather(1, wanted).masked_fill(nobody, otherwise)


def shift_labels(groups: Tensor, previous: Tensor) -> Tensor:
    """Return ``(B, T)`` :data:`SAME` where an utterance is of its predecessor's group and :data:`SHIFT` elsewhere."""
    return torch.where(groups == at(groups, previous), SAME, SHIFT)
