"""Pretrained text encoders, fine-tuned with the method that reads them."""

from __future__ import annotations

from typing import Self

from torch import nn

from data_modules.schema import DataError, Sequence


class PretrainedText(nn.Module):
    """A Hugging Face encoder from token ids to the hidden states of its last layer.

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

    def forward(self, tokens: Sequence) -> Sequence:
        """Return the hidden states ``(B, T, dim)`` for token ids ``(B, T)``."""
        hidden = self.model(input_ids=tokens.values, attention_mask=tokens.mask.long()).last_hidden_state
        return Sequence(hidden * tokens.mask.unsqueeze(-1), tokens.lengths)
