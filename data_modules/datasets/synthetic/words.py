"""Generated sequences whose text is words: a transcript that a tokenizer cuts and a tiny encoder reads.

The score and what audio and vision say are those of :mod:`data_modules.datasets.synthetic.generator`. A transcript says
its level by how many of four words are ``good`` and how many ``bad``, its sign by two words ``yes`` or ``no``, and
nothing by the other words, in any order. The encoder is a BERT of two layers that has learnt nothing yet, so that a
method must train it.

Transcripts and sequences are the same on every machine; the weights are those that PyTorch draws for a seed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from data_modules.datasets.synthetic.generator import SAMPLES, SEED, check_amounts, draw_causes, draw_samples, made_by
from data_modules.libraries import optional_library
from data_modules.schema import MODALITIES, DataError, TargetSpec
from data_modules.store import FeatureStore, Sample, StoreInfo, check_output, write_store

FEATURE_SET = "words"
FILLERS = ("the", "a", "film", "scene", "um", "and")
POLAR, SIGNS = ("good", "bad"), ("yes", "no")
EACH_POLAR, EACH_SIGN = 4, 2
CONFIG = "config.json"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WIDTH, LAYERS, HEADS, LONGEST = 16, 2, 2, 32


def write_words(
    path: str | os.PathLike[str], *, samples: tuple[int, int, int] = SAMPLES, seed: int = SEED
) -> FeatureStore:
    """Write the data set, and beside it the folder of its encoder (see :func:`encoder_folder`).

    Args:
        path: The store to make or replace.
        samples: Samples for training, validation and test, at least one each.
        seed: Decides every value, 0 or greater.

    Raises:
        DataError: For a negative seed, a split without samples, or where the extra ``text`` is not installed.
    """
    check_amounts(seed, samples, "samples")
    check_output(Path(path))
    write_encoder(encoder_folder(path), seed)
    info = StoreInfo(
        dataset="synthetic",
        feature_set=FEATURE_SET,
        target=TargetSpec("regression", ("sentiment",), low=-3.0, high=3.0),
        sources=dict.fromkeys(MODALITIES[1:], f"generated, seed {seed}"),
        notes=made_by(__name__, seed),
    )
    return write_store(path, info, _draw(samples, np.random.PCG64(seed)))


def encoder_folder(path: str | os.PathLike[str]) -> Path:
    """Return where the tokenizer and the encoder of a store lie.

    Raises:
        DataError: For a store without an ending, whose name the folder would have.
    """
    if not Path(path).suffix:
        raise DataError(f"{path} has no ending, and a folder of its name is for the encoder: call it {path}.h5.")
    return Path(path).with_suffix("")


def write_encoder(folder: Path, seed: int) -> None:
    """Write the tokenizer and the encoder.

    Raises:
        DataError: When the extra ``text`` is not installed.
    """
    library = optional_library("transformers", "A data set of words", "text")
    if folder.exists() and not (folder / CONFIG).is_file():
        raise DataError(f"{folder}, where the encoder would lie, is something else. Give the store another name.")
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = (*SPECIAL, *POLAR, *SIGNS, *FILLERS)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    library.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = library.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=LONGEST,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        library.BertModel(config, add_pooling_layer=False).save_pretrained(folder)


def _draw(samples: tuple[int, int, int], bits: np.random.PCG64) -> Iterator[Sample]:
    causes = draw_causes(sum(samples), bits)
    said = [
        _transcript(level, sign, bits) for level, sign in zip(causes["text_level"], causes["text_sign"], strict=True)
    ]
    for transcript, sample in zip(said, draw_samples("regression", samples, causes, bits), strict=True):
        inputs = {name: values for name, values in sample.inputs.items() if name != "text"}
        yield replace(sample, inputs=inputs, transcript=transcript)


def _transcript(level: float, sign: float, bits: np.random.PCG64) -> str:
    good = round((level + 1) / 2 * EACH_POLAR)
    words = [POLAR[0]] * good + [POLAR[1]] * (EACH_POLAR - good) + [SIGNS[int(sign < 0)]] * EACH_SIGN + [*FILLERS]
    return " ".join(words[place] for place in bits.random_raw(len(words)).argsort(kind="stable"))
