"""Transcripts to text tokens, by the tokenizer of a pretrained encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_modules.schema import DataError, ModalitySpec

LONGEST = 512


def tokenize(
    transcripts: Sequence[str], tokenizer: str, longest: int = LONGEST
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], ModalitySpec]:
    """Return the token ids of all transcripts, end to end, their ``(N + 1,)`` offsets, and what they are.

    Args:
        transcripts: One text per sample; an empty one gives the special tokens alone.
        tokenizer: Hugging Face tokenizer, by name or folder.
        longest: Tokens beyond this many are cut off.

    Raises:
        DataError: When the extra ``text`` is not installed, the tokenizer cannot be found, or no sample has a text.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise DataError("Tokenizers need the extra 'text': pip install 'mmbench[text]'.") from error
    if not any(transcripts):
        raise DataError("This store has no transcripts, so there is no text to make tokens of.")
    try:
        model = AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError) as error:
        raise DataError(
            f"The tokenizer {tokenizer!r} cannot be loaded: give a folder or a model name. ({error})"
        ) from error
    ids = model(list(transcripts), truncation=True, max_length=longest)["input_ids"]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64)
    lengths = np.diff(offsets)
    spec = ModalitySpec("text", len(model), int(lengths.max()), "tokens", Path(tokenizer).name, model.unk_token_id or 0)
    return np.concatenate([np.asarray(row, np.int64) for row in ids]), offsets, spec
