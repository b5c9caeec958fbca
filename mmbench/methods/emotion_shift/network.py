"""The network of Emotion-Shift: recurrent nets behind a gate, attention between modalities, and the head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data_modules.schema import PaddedSequence
from mmbench.methods.emotion_shift.config import EmotionShiftConfig
from mmbench.methods.emotion_shift.gates import ShiftDetector, shift_probability
from mmbench.methods.emotion_shift.multilogue import BothWays, NetStates, Sizes
from mmbench.methods.emotion_shift.shift_labels import at, successors
from mmbench.methods.output import Output
from mmbench.nn.dropout import dropout

PAIRS = (("text", "audio"), ("vision", "audio"), ("text", "vision"))
"""The pairs of the bimodal attention, in the order in which the head reads them."""


def bimodal_attention(one: Tensor, other: Tensor, real: Tensor | None) -> Tensor:
    """Return ``(B, T, 2 D)``: what each modality finds in the other, times itself.

    Args:
        one: ``(B, T, D)``, the first half of the result.
        other: ``(B, T, D)``, the second half.
        real: ``(B, T)`` bool, the utterances that can be found; by default padding too.
    """

    def found(scores: Tensor, values: Tensor) -> Tensor:
        if real is not None:
            scores = scores.masked_fill(~real[:, None, :], torch.finfo(scores.dtype).min)
        return scores.softmax(-1) @ values

    scores = one @ other.mT
    return torch.cat([found(scores, other) * one, found(scores.mT, one) * other], dim=-1)


@dataclass(kw_only=True)
class ShiftOutput(Output):
    """The prediction, and the logits of a shift ``(B, U, 2)`` if shifts are used."""

    shift: Tensor | None


@dataclass(kw_only=True)
class EmotionShiftOutput(ShiftOutput):
    """What the whole network says.

    Attributes:
        p_shift: ``(B, U)``, if shifts are used.
        context: As :class:`NetStates` has it, and so have the next three.
        history: See there.
        party: See there.
        emotion: See there.
        hidden: ``(B, U, 2 hidden)`` by modality.
        attention: ``(B, U, 4 hidden)`` by pair ``<modality>_<modality>``.
    """

    p_shift: Tensor | None
    context: dict[str, Tensor]
    history: dict[str, Tensor]
    party: dict[str, Tensor]
    emotion: dict[str, Tensor]
    hidden: dict[str, Tensor]
    attention: dict[str, Tensor]


class EmotionShiftNetwork(nn.Module):
    """Detector, recurrent nets, attention and head.

    Args:
        dims: Width of an utterance vector by modality; text must be there.
        outputs: Width of the prediction.
        settings: The method's settings.
    """

    def __init__(self, dims: Mapping[str, int], outputs: int, settings: EmotionShiftConfig) -> None:
        super().__init__()
        c = self.settings = settings
        self.modalities = list(dims)
        self.pairs = [pair for pair in PAIRS if set(pair) <= set(dims)]
        self.detector = ShiftDetector(dims["text"]) if c.use_shift else None
        gated = (c.use_shift, c.use_shift and c.backward_gate != "plain_gru")
        self.nets = BothWays(dims, Sizes(c.context, c.party, c.emotion), gated, c.dropout_recurrent)
        self.shared = nn.Linear(2 * c.emotion, 2 * c.hidden)
        self.head = nn.Linear((4 * len(self.pairs) + 2 * len(dims)) * c.hidden, outputs)

    def shifts(self, text: Tensor, previous: Tensor) -> Tensor:
        """Return the logits of a shift ``(B, U, 2)``; without an utterance before there are zeros in its place.

        Args:
            text: ``(B, U, D)``, zero in padding.
            previous: ``(B, U)`` places of the predecessors.
        """
        assert self.detector is not None
        return self.detector(at(text, previous), text)

    def _gates(self, shift: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(B, U)`` the probability that opens the gate, of the forward and of the backward nets."""
        if self.settings.backward_gate == "shifted":  # backwards, what follows an utterance comes before it
            return shift, at(shift, successors(previous), otherwise=1.0)
        return shift, torch.zeros_like(shift)

    def forward(
        self,
        features: Mapping[str, PaddedSequence],
        speaker: Tensor,
        previous: Tensor,
        shift_text: Tensor | None = None,
    ) -> EmotionShiftOutput:
        """Return the prediction ``(B, U, outputs)``.

        Args:
            features: The modalities, ``(B, U, D_m)`` each.
            speaker: ``(B, U)`` roles.
            previous: ``(B, U)`` places of the predecessors.
            shift_text: ``(B, U, D)`` what the detector reads; by default the text.
        """
        c, real = self.settings, features["text"].mask
        values = {name: features[name].values.masked_fill(~real.unsqueeze(-1), 0.0) for name in self.modalities}
        shift, p_shift = None, None
        if c.use_shift:
            shift = self.shifts(values["text"] if shift_text is None else shift_text, previous)
            p_shift = shift_probability(shift)
        opening = torch.zeros_like(values["text"][..., 0]) if p_shift is None else p_shift
        states: NetStates = self.nets(values, speaker, real, self._gates(opening, previous))
        both = torch.stack(list(states.emotion.values())).chunk(2)  # forward and backward
        dropped = dropout(torch.cat(both, dim=-1), c.dropout_states, self.training)
        joined = dropout(self.shared(dropped).relu(), c.dropout, self.training)
        hidden = dict(zip(self.modalities, joined.unbind(), strict=True))
        attention = {
            f"{one}_{other}": bimodal_attention(hidden[one], hidden[other], real if c.attn_mask else None)
            for one, other in self.pairs
        }
        prediction = self.head(torch.cat([*attention.values(), *joined.unbind()], dim=-1))
        return EmotionShiftOutput(
            prediction, shift=shift, p_shift=p_shift, hidden=hidden, attention=attention, **states._asdict()
        )
