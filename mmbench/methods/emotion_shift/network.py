"""The network of Emotion-Shift: recurrent nets behind a gate, attention between modalities, and the head."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from data_modules.schema import PaddedSequence
from mmbench.methods.emotion_shift.config import EmotionShiftConfig
from mmbench.methods.emotion_shift.gates import ShiftDetector, shift_probability
from mmbench.methods.emotion_shift.multilogue import WAYS, BothWays, Sizes
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
    ) -> Output:
        """Return the prediction ``(B, U, outputs)``.

        Args:
            features: The modalities, ``(B, U, D_m)`` each.
            speaker: ``(B, U)`` roles.
            previous: ``(B, U)`` places of the predecessors.
            shift_text: ``(B, U, D)`` what the detector reads; by default the text.

        Returns:
            ``named`` holds ``shift`` (logits, ``(B, U, 2)``), ``p_shift (B, U)``, the states of :class:`BothWays`,
            ``hidden_<modality> (B, U, 2 hidden)`` and ``attention_<modality>_<modality> (B, U, 4 hidden)``.
        """
        c, real = self.settings, features["text"].mask
        values = {name: features[name].values.masked_fill(~real.unsqueeze(-1), 0.0) for name in self.modalities}
        named, shift = {}, torch.zeros_like(values["text"][..., 0])
        if c.use_shift:
            named["shift"] = self.shifts(values["text"] if shift_text is None else shift_text, previous)
            named["p_shift"] = shift = shift_probability(named["shift"])
        named |= self.nets(values, speaker, real, self._gates(shift, previous))
        both = [torch.cat([named[f"emotion_{name}_{way}"] for way in WAYS], dim=-1) for name in self.modalities]
        dropped = dropout(torch.stack(both), c.dropout_states, self.training)
        hidden = dropout(self.shared(dropped).relu(), c.dropout, self.training)
        named |= {f"hidden_{name}": item for name, item in zip(self.modalities, hidden.unbind(), strict=True)}
        for one, other in self.pairs:
            found = bimodal_attention(named[f"hidden_{one}"], named[f"hidden_{other}"], real if c.attn_mask else None)
            named[f"attention_{one}_{other}"] = found
        seen = [named[f"attention_{one}_{other}"] for one, other in self.pairs] + list(hidden.unbind())
        return Output(self.head(torch.cat(seen, dim=-1)), named)
