"""Pretrained text encoders, fine-tuned with the method that reads them."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import DataError, PaddedSequence
from mmbench.nn.dropout import Dropout
from mmbench.nn.grouping import group_shapes

_GROUP_COST = 128
"""Tokens that take as long as a further group of samples on a CPU: every group adds to the gradient of all weights."""


class PretrainedText(nn.Module):
    """A Hugging Face encoder from token ids to the hidden states of its last layer.

    On a CPU it reads samples in groups of similar length, which spares most of the padding.

    Args:
        name: Model name or folder.
        frozen: Whether the weights stay as they are.

    Raises:
        DataError: When the extra ``text`` is not installed or the model cannot be found.
    """

    def __init__(self, name: str, frozen: bool = False) -> None:
        super().__init__()
        try:
            from transformers import AutoModel
        except ImportError as error:
            raise DataError("Text encoders need the extra 'text': pip install 'mmbench[text]'.") from error
        try:
            self.model = AutoModel.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise DataError(
                f"The text encoder {name!r} cannot be loaded: give a folder with the model's files, or a model name "
                f"and network access. ({error})"
            ) from error
        _replace_dropout(self.model)
        self.dim: int = self.model.config.hidden_size
        self.frozen = frozen
        if getattr(self.model, "pooler", None) is not None:  # hidden states do not pass it, so it never gets a gradient
            self.model.pooler.requires_grad_(False)
        if frozen:
            self.model.requires_grad_(False)
        self.train()  # transformers hands models over in evaluation mode, and Lightning keeps modes

    def train(self, mode: bool = True) -> Self:
        """Switch dropout on or off; a frozen encoder never has any."""
        super().train(mode)
        self.model.train(mode and not self.frozen)
        return self

    def forward(self, tokens: PaddedSequence) -> PaddedSequence:
        """Return the hidden states ``(B, T, dim)`` for token ids ``(B, T)``."""
        if tokens.values.device.type == "cpu":
            hidden = self._in_groups(tokens)
        else:
            hidden = self._states(tokens.values, tokens.mask)
        return PaddedSequence(hidden * tokens.mask.unsqueeze(-1), tokens.lengths)

    def _states(self, values: Tensor, mask: Tensor) -> Tensor:
        return self.model(input_ids=values, attention_mask=mask.long()).last_hidden_state

    def _in_groups(self, tokens: PaddedSequence) -> Tensor:
        """Return hidden states ``(B, T, dim)``, which hold anything beyond the lengths."""
        lengths, order = tokens.lengths.clamp(min=1).sort(descending=True, stable=True)
        shapes, parts = group_shapes(lengths.tolist(), _GROUP_COST), []
        for group, (_, steps) in zip(order.split([samples for samples, _ in shapes]), shapes, strict=True):
            states = self._states(tokens.values[group, :steps], tokens.mask[group, :steps])
            parts.append(F.pad(states, (0, 0, 0, tokens.values.shape[1] - steps)))
        return torch.cat(parts)[order.argsort()]


def _replace_dropout(model: nn.Module) -> None:
    """Put the project's dropout, which has no weights either, in the place of torch's."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, Dropout(child.p))
