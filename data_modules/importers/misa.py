"""MAG and MISA pickles: words with the audio and vision of each, without padding.

Layouts (WasifurRahman/BERT_multimodal_transformer; declare-lab/MISA):

- MAG: one pickle, a dict of train, dev, test, each a list of ``((words, visual, acoustic), label, segment)``;
- MISA: a folder with ``train.pkl``, ``dev.pkl``, ``test.pkl``, each a list of
  ``((word_ids, visual, acoustic, words), label, segment)``.

``words`` are L strings, ``visual`` is (L, 47) for MOSI and (L, 35) for MOSEI, ``acoustic`` (L, 74), ``label`` a
number, (1, 1), or MOSEI's (1, 7): sentiment, then six emotions from 0 to 3; ``segment`` is "video[k]". The text becomes
vectors through a table of word embeddings. ``word_ids`` are not used: their table is a pickle with code in it, and the
words say the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile

import numpy as np

from data_modules.importers.common import (
    SPLIT_NAMES,
    Array,
    Source,
    cut_by_group,
    foreign,
    outside_scale,
    string,
    structure,
)
from data_modules.importers.npz import Npz
from data_modules.importers.pickles import load_pickle
from data_modules.importers.values import array, column, labels, named, text
from data_modules.schema import DataError, TargetSpec
from data_modules.store import SPLITS, Sample, StoreInfo

EMOTIONS = ("happy", "sad", "anger", "surprise", "disgust", "fear")
"""Columns 1 to 6 of MOSEI's labels."""
LONGEST_LINE = 1 << 20
"""Characters of a line of word vectors; 300 numbers are 3,000."""

Samples = dict[str, list[Any]]


def read(
    source: Path,
    *,
    dataset: str,
    embedding: Path,
    target: Literal["sentiment", "emotions"] = "sentiment",
    split: Literal["published", "by-video"] = "published",
    feature_set: str = "glove_words",
) -> Source:
    """Read a MAG or MISA pickle, or a folder of MISA's three.

    Args:
        source: The pickle or the folder.
        dataset: Key of the data set.
        embedding: Word vectors: an npz with ``vocab`` (V,) and ``emb`` (V, D), or GloVe's text file. Words that it
            lacks, also in lower case, become zeros and are counted.
        target: What is predicted: ``sentiment`` from -3 to 3, or MOSEI's six ``emotions``, present when above 0.
        split: ``published`` needs all three parts. ``by-video`` ignores them and cuts by video anew: a fifth of the
            videos for test, a tenth of the rest for validation. It also serves a file of one part, for development;
            the protocol is then called ``by-video``.
        feature_set: Name of the feature set.

    Raises:
        DataError: For another layout, a missing part, or words that do not fit their audio and vision.
    """
    parts = _parts(source, split)
    items = [
        (part, *_item(f"{source}: sample {place} of {part}", item, target))
        for part, samples in parts.items()
        for place, item in enumerate(samples)
    ]
    if not items:
        raise DataError(f"{source} has no samples.")
    values = [value for *_, value in items]
    spec = (
        TargetSpec("multilabel", EMOTIONS)
        if target == "emotions"
        else TargetSpec("regression", ("sentiment",), -3.0, 3.0)
    )
    words = [word for _, _, features, _ in items for word in features[0]]
    table, dim = word_vectors(Path(embedding), set(words))
    if words and not table:
        raise DataError(
            f"{embedding} has none of the {len(set(words))} words of {source}: it is another kind of table."
        )
    unknown = [word for word in words if word not in table]
    notes = outside_scale(np.asarray(values, float), spec)
    if unknown:
        notes.append(
            f"text: {len(unknown)} of {len(words)} words ({len(set(unknown))} different) have no vector: zeros."
        )
    videos = [video for _, (_, video), _, _ in items]
    if split == "by-video":
        cut = cut_by_group(videos)
        notes.append("The split was cut by video for this import; scores compare with no published ones.")

    def samples() -> Iterator[Sample]:
        for part, (name, video), (spoken, vision, audio), value in items:
            text = np.zeros((len(spoken), dim), np.float32)
            for step, word in enumerate(spoken):
                if word in table:
                    text[step] = table[word]
            inputs = {"text": text, "audio": audio, "vision": vision}
            where = cut[video] if split == "by-video" else part
            yield Sample(name, inputs, value, where, video, transcript=" ".join(spoken))

    sources = {
        "text": f"word vectors of {Path(embedding).name}",
        "audio": f"acoustic column of {source.name}",
        "vision": f"visual column of {source.name}",
    }
    info = StoreInfo(dataset, feature_set, spec, sources=sources, aligned=True, notes=tuple(notes))
    return Source(info, samples(), protocol="by-video" if split == "by-video" else "standard")


def _parts(source: Path, split: str) -> Samples:
    """Return the samples of each part that is there; all three for the published split."""
    wanted = "a dict of train, dev, test, or a list, of ((words, visual, acoustic), label, segment)"
    found: dict[str, Any]
    if source.is_dir():
        files = {SPLIT_NAMES[file.stem]: file for file in sorted(source.glob("*.pkl")) if file.stem in SPLIT_NAMES}
        found = {part: load_pickle(file) for part, file in files.items()}
    else:
        content = load_pickle(source)
        if isinstance(content, Mapping):
            found = {SPLIT_NAMES[key]: samples for key, samples in content.items() if key in SPLIT_NAMES}
        else:
            found = {"train": content}
    strange = [samples for samples in found.values() if not isinstance(samples, list | tuple)]
    if strange or not (found or source.is_dir()):
        raise foreign(source, strange[0] if source.is_dir() else content, "misa", wanted)
    missing = [part for part in SPLITS if part not in found]
    if missing and (split == "published" or not found):
        raise DataError(
            f"{source} has {len(found)} of the three parts: give a MAG pickle with all of them, or the folder of "
            "train.pkl, dev.pkl and test.pkl. To develop on one part alone, set the option `split: by-video`."
        )
    return {part: list(found[part]) for part in SPLITS if part in found}


def _item(where: str, item: Any, target: str) -> tuple[tuple[str, str], tuple[list[str], Array, Array], float | Array]:
    """Return id and video of a segment, its ``(words, vision, audio)`` and its target."""
    whole = isinstance(item, list | tuple) and len(item) == 3 and isinstance(item[0], list | tuple)
    if not whole or len(item[0]) not in (3, 4, 6):
        raise DataError(
            f"{where}: a sample is {structure(item)}; ((words, visual, acoustic), label, segment), or the same with "
            "word ids before and words after, was expected. Bring other layouts in with `mmbench data import plain`."
        )
    features, label, raw = item
    if len(features) == 6:
        raise DataError(
            f"{where} is one of a cache of MMIM, with audio and vision of their own lengths. Bring in the pickle that "
            "it was made from with `mmbench data import mult`."
        )
    name = named(where, raw)
    where = f"{where}, {name[0]!r:.100}"
    spoken = column(f"{where}, its words,", features[3 if len(features) == 4 else 0])
    words = [text(f"{where}, a word,", word) for word in spoken]
    visual, acoustic = array(f"{where}, its visual column,", features[1]), array(f"{where}, its acoustic,", features[2])
    if visual.ndim != 2 or acoustic.ndim != 2 or not len(words) == len(visual) == len(acoustic):
        raise DataError(
            f"{where} has {len(words)} words, visual {visual.shape} and acoustic {acoustic.shape}; one row per word "
            "was expected. Remove the sample or get the file again."
        )
    return name, (words, visual, acoustic), _target(where, label, target)


def _target(where: str, label: Any, target: str) -> float | Array:
    values = labels(f"{where}, its label,", label).reshape(-1)
    full = 1 + len(EMOTIONS)
    if len(values) != full and (target == "emotions" or len(values) != 1):
        raise DataError(
            f"{where} has {len(values)} labels; one for sentiment or {full} for sentiment and emotions were expected. "
            "Without emotions, import with the option `target: sentiment`."
        )
    if target == "sentiment":
        return float(values[0])
    # NaN must stay visible to the store, which refuses it.
    return np.where(np.isnan(values[1:]), np.nan, values[1:] > 0)


def word_vectors(path: Path, words: set[str]) -> tuple[dict[str, Array], int]:
    """Return the vectors of the words that the table has, also by their lower case, and their dimension."""
    if not path.is_file():
        raise DataError(
            f"There is no table of word vectors at {path}. Give GloVe's text file or an npz of vocab and emb."
        )
    wanted = words | {word.lower() for word in words}
    found, dim = (_npz_vectors if path.suffix == ".npz" else _text_vectors)(path, wanted)
    return {w: found[w] if w in found else found[w.lower()] for w in words if w in found or w.lower() in found}, dim


def _npz_vectors(path: Path, wanted: set[str]) -> tuple[dict[str, Array], int]:
    wanted_arrays = "vocab (V,) strings and emb (V, D) were expected"
    try:
        with ZipFile(path) as archive:
            file = Npz(path, archive)
            if not (file.has("vocab") and file.has("emb")):
                raise DataError(f"{path} is no table of word vectors: {wanted_arrays}.")
            vocab, vectors = file.load("vocab"), file.load("emb")
    except DataError:
        raise
    except (ValueError, OSError, EOFError, BadZipFile, NotImplementedError) as error:
        raise DataError(f"{path} is no table of word vectors ({error}): {wanted_arrays}.") from error
    if vocab.ndim != 1 or vocab.dtype.kind not in "US" or vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: vocab {vocab.shape} of type {vocab.dtype} and emb {vectors.shape} of type {vectors.dtype}; "
            "strings of shape (V,) and numbers of shape (V, D) were expected."
        )
    if len(vocab) != len(vectors) or not vectors.shape[1]:
        raise DataError(
            f"{path}: vocab {vocab.shape} and emb {vectors.shape} do not fit; (V,) and (V, D) were expected."
        )
    found = {word: _vector(vectors[row]) for row, word in enumerate(map(string, vocab)) if word in wanted}
    return found, vectors.shape[1]


def _vector(numbers: Any) -> Array:
    """Return numbers in single precision; what is too large for it is infinite, and becomes 0 in a store."""
    with np.errstate(over="ignore"):
        return np.asarray(numbers, float).astype(np.float32)


def _text_vectors(path: Path, wanted: set[str]) -> tuple[dict[str, Array], int]:
    """Read a file of lines ``word number number ...``, as GloVe is released, keeping the wanted words only."""
    found: dict[str, Array] = {}
    dim = number = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        while line := file.readline(LONGEST_LINE):
            number += 1
            if len(line) == LONGEST_LINE:
                raise DataError(f"{path}, line {number} has no end: it is no table of word vectors.")
            dim = dim or line.count(" ")
            # Some of GloVe's words hold spaces, so the numbers are taken from the right.
            word, *numbers = line.rstrip("\n").rsplit(" ", dim)
            if word in wanted:
                try:
                    found[word] = _vector(numbers).reshape(dim)
                except ValueError as error:
                    raise DataError(f"{path}, line {number}: {dim} numbers after the word were expected.") from error
    if not dim:
        raise DataError(f"{path} is no table of word vectors: lines of a word and its numbers were expected.")
    return found, dim
