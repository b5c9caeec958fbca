"""MMSA pickles: ``aligned_50.pkl`` and ``unaligned_50.pkl`` of MOSI and MOSEI, SIMS's files, what MMSA-FET makes.

Layout (thuiar/MMSA, thuiar/Self-MM; pickle protocol 4): a dict of train, valid, test (other keys are ignored), each a
dict of columns with one row per sample::

    raw_text             strings
    id                   "video$_$clip", or MulT's rows of ids
    text                 (N, Lt, 768) frozen BERT hidden states
    text_bert            (N, 3, Lt) token ids, attention mask, token types
    audio, vision        (N, La, Da), (N, Lv, Dv); padded with zeros
    audio_lengths, ...   N numbers, unaligned files only
    regression_labels    N numbers; -3 to 3, SIMS -1 to 1

It is unknown on which side the released unaligned files are padded, and the script that added the stored lengths gives
1 for everything padded on the left. So steps of zeros are taken off both ends, and stored lengths are only compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_modules.importers.common import (
    Array,
    Extents,
    Source,
    check_rows,
    extent,
    foreign,
    outside_scale,
    published_parts,
    sequences,
    shared,
)
from data_modules.importers.pickles import load_pickle
from data_modules.importers.values import array, column, labels, named, whole_numbers
from data_modules.importers.values import text as text_of
from data_modules.schema import MODALITIES, DataError, TargetSpec
from data_modules.store import Sample, StoreInfo

DISAGREEMENT = 0.01
"""Share of samples whose stored length may differ from the measured one before it is worth a note."""


@dataclass
class _Part:
    """One split: ids and videos; by modality its padded values and its stored lengths, if any; the mask of the text."""

    names: list[tuple[str, str]]
    labels: Array
    transcripts: list[str]
    values: dict[str, Array]
    lengths: dict[str, Array]
    mask: Array | None


UNKNOWN_TOKEN = 100
"""``[UNK]`` in the vocabularies of BERT, which MMSA's robustness protocol puts for missing words."""


def read(
    source: Path,
    *,
    dataset: str,
    text: Literal["features", "tokens"] = "features",
    vocabulary: int = 30522,
    trust_stored_lengths: bool = False,
    aligned: bool | None = None,
    feature_set: str | None = None,
) -> Source:
    """Read an MMSA pickle.

    Args:
        source: The pickle.
        dataset: Key of the data set; one that contains ``sims`` has labels from -1 to 1 and SIMS's metrics.
        text: Frozen BERT states (``features``) or the token ids that they were made from (``tokens``).
        vocabulary: Size of the vocabulary that the token ids are from: 30522 for ``bert-base-uncased``, 21128 for
            ``bert-base-chinese``.
        trust_stored_lengths: Keep the first ``audio_lengths`` / ``vision_lengths`` steps instead of taking zeros off,
            as MMSA's own models do.
        aligned: Whether the modalities share one time axis; by default, when their padded lengths are equal and no
            lengths are stored.
        feature_set: Name of the feature set; by default as ``aligned_50``, with ``_tokens`` for tokens.

    Raises:
        DataError: For another layout, or columns that do not fit each other.
    """
    parts = _parts(source, load_pickle(source), text)
    first = parts["train"]
    steps = {name: values.shape[1] for name, values in first.values.items()}
    if aligned is None:
        aligned = len(steps) > 1 and len(set(steps.values())) == 1 and not first.lengths
    if aligned and (len(set(steps.values())) > 1 or trust_stored_lengths):
        raise DataError(
            f"{source}: modalities with the padded lengths {steps}, or with lengths of their own, are not aligned. "
            "Drop the option `aligned` or `trust_stored_lengths`."
        )
    measured = {split: _measure(part, aligned) for split, part in parts.items()}
    extents = (
        {split: _trust(source, parts[split], own) for split, own in measured.items()}
        if trust_stored_lengths
        else measured
    )

    sims = "sims" in dataset
    end = 1.0 if sims else 3.0
    target = TargetSpec("regression", ("sentiment",), -end, end, "sims" if sims else None)
    targets = np.concatenate([part.labels for part in parts.values()])
    tokens = text == "tokens"
    named = f"{'aligned' if aligned else 'unaligned'}_{next(iter(steps.values()))}{'_tokens' if tokens else ''}"
    info = StoreInfo(
        dataset,
        feature_set or named,
        target,
        sources={
            name: f"column {name if name != 'text' or not tokens else 'text_bert'} of {source.name}" for name in steps
        },
        kinds={"text": "tokens"} if tokens else {},
        sizes={"text": vocabulary} if tokens else {},
        unknown={"text": UNKNOWN_TOKEN} if tokens else {},
        aligned=aligned,
        notes=(*_length_notes(parts, measured, trust_stored_lengths), *outside_scale(targets, target)),
    )
    return Source(info, _samples(parts, extents))


def _parts(source: Path, content: Any, text: str) -> dict[str, _Part]:
    wanted = "a dict of train, valid, test, each a dict with id, regression_labels and text, audio or vision"
    found = published_parts(content)
    if found is None or not all(
        isinstance(p, Mapping) and {"id", "regression_labels"} <= set(p) for p in found.values()
    ):
        raise foreign(source, content, "mmsa", wanted)
    if text == "features" and all("text_bert" in part and "text" not in part for part in found.values()):
        raise DataError(f"{source} has no BERT states ('text'): import its tokens with `--text tokens`.")
    parts = {split: _part(source, split, columns, text) for split, columns in found.items()}
    if not parts["train"].values or any(part.values.keys() != parts["train"].values.keys() for part in parts.values()):
        raise foreign(source, content, "mmsa", f"{wanted}, the same ones in each")
    return parts


def _part(source: Path, split: str, columns: Mapping[str, Any], text: str) -> _Part:
    def where(name: str) -> str:
        return f"{source}: in the split {split!r}, {name!r}"

    values = {
        name: sequences(source, split, name, array(where(name), columns[name]))
        for name in MODALITIES
        if name in columns
    }
    mask = None
    if "text_bert" in columns:
        bert = sequences(source, split, "text_bert", array(where("text_bert"), columns["text_bert"]))
        if bert.shape[1] != 3:
            raise DataError(f"{source}: 'text_bert' of the split {split!r} has the shape {bert.shape}, not (N, 3, T).")
        mask = bert[:, 1]
    if text == "tokens":
        if mask is None:
            raise DataError(
                f"{source} has no 'text_bert' in the split {split!r}. Import with the option `text: features`."
            )
        # Text comes first in a store.
        tokens = whole_numbers(where("text_bert"), bert[:, 0])
        values = {"text": tokens, **{name: one for name, one in values.items() if name != "text"}}
    lengths: dict[str, Array] = {
        name: whole_numbers(where(f"{name}_lengths"), columns[f"{name}_lengths"]).reshape(-1)
        for name in ("audio", "vision")
        if name in values and f"{name}_lengths" in columns
    }
    ids = column(where("id"), columns["id"])
    targets = labels(where("regression_labels"), columns["regression_labels"]).reshape(-1)
    transcripts = column(where("raw_text"), columns.get("raw_text", [""] * len(targets)))
    rows = {"regression_labels": targets, "raw_text": transcripts, **values}
    rows |= {f"{name}_lengths": stored for name, stored in lengths.items()}
    check_rows(source, split, rows if mask is None else {**rows, "text_bert": mask}, len(ids))
    names = [named(f"{source}: row {row} of the split {split!r}", raw) for row, raw in enumerate(ids)]
    said = [text_of(f"{where('raw_text')}, row {row}", raw) for row, raw in enumerate(transcripts)]
    return _Part(names, targets, said, values, lengths, mask)


def _measure(part: _Part, aligned: bool) -> Extents:
    """Return where the real steps of every sample are."""
    found: Extents = {}
    for name, values in part.values.items():
        masked = name == "text" and part.mask is not None and part.mask.shape[1] == values.shape[1]
        if values.ndim == 3:
            found[name] = [extent(sample) for sample in values]
        if masked and part.mask is not None:
            real = [extent(row) for row in part.mask]
            # BERT gives states for padding too: where those were not set to zero, only the mask tells.
            full = (0, values.shape[1])
            found[name] = [
                m if own == full else own for own, m in zip(found.get(name, [full] * len(real)), real, strict=True)
            ]
    # Audio and vision have rows of zeros at [CLS] and [SEP]: cut on their own they would lose their places.
    return shared(found) if aligned else found


def _trust(source: Path, part: _Part, measured: Extents) -> Extents:
    if not part.lengths:
        raise DataError(f"{source} stores no lengths. Drop the option `trust_stored_lengths`.")
    kept = {
        name: [(0, int(length)) for length in np.clip(lengths, 1, part.values[name].shape[1])]
        for name, lengths in part.lengths.items()
    }
    return {**measured, **kept}


def _length_notes(parts: Mapping[str, _Part], measured: Mapping[str, Extents], trusted: bool) -> list[str]:
    notes = []
    for name in ("audio", "vision"):
        samples, left, stored, differing = 0, 0, 0, 0
        for split, part in parts.items():
            if name not in part.values:
                continue
            limit = part.values[name].shape[1]
            samples += len(part.labels)
            left += sum(start > 0 and stop == limit for start, stop in measured[split][name])
            for (start, stop), length in zip(measured[split][name], part.lengths.get(name, ()), strict=False):
                stored += 1
                # The longer run of zeros is the padding; zeros at the other end count as steps in stored lengths.
                to_end = stop if start <= limit - stop else limit - start
                differing += min(int(length), limit) not in (max(1, stop - start), max(1, to_end))
        if differing > DISAGREEMENT * stored:
            used = "stored" if trusted else "measured"
            notes.append(
                f"{name}: the stored lengths of {differing} of {stored} samples differ from the measured ones; the "
                f"{used} ones were used."
            )
        if left:
            notes.append(f"{name}: {left} of {samples} samples are padded on the left.")
    return notes


def _samples(parts: Mapping[str, _Part], extents: Mapping[str, Extents]) -> Iterator[Sample]:
    for split, part in parts.items():
        for row, (sample, video) in enumerate(part.names):
            inputs: dict[str, Array] = {}
            for name, values in part.values.items():
                start, stop = extents[split][name][row]
                inputs[name] = values[row, start:stop]
            yield Sample(sample, inputs, float(part.labels[row]), split, video, transcript=part.transcripts[row])
