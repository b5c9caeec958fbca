"""Computational sequences (.csd) of the CMU-MultimodalSDK: words, features and labels with times, aligned here.

Bring the ``.csd`` files that the SDK downloads, in one folder; layout in :mod:`data_modules.importers.csd_files`,
labels and folds in :mod:`data_modules.importers.csd_folds`. What each file is follows from its content, root name and
file name, or is said by an option. Rewritten from the behaviour of CMU-MultiComp-Lab/CMU-MultimodalSDK (unify, align,
impute, hard_unify):

- a word belongs to every segment that it shares more than 10 microseconds with, and so does a frame;
- aligned to words, a word's audio and vision are the mean of all frames that share more than that with the word, zeros
  where there are none (COVAREP stops early, a face is lost);
- words shorter than that are in no segment, and speech pauses ("sp") only when asked for.

One difference: a word at the edge of a segment always brings its audio and vision. The SDK loses the frames' row when
all frames of the word lie on the other side of the edge, and its users then drop the segment.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from data_modules.importers.clips import listed, progress, refuse_loss
from data_modules.importers.common import Array, Source, outside_scale, string
from data_modules.importers.csd_files import NONE, CsdFile, find_files
from data_modules.importers.csd_folds import TABLES, Segment, segments_in, segments_of, standard_folds
from data_modules.importers.csd_videos import Alignment, Sequences, Video
from data_modules.importers.misa import EMOTIONS, word_vectors
from data_modules.schema import DataError, TargetSpec
from data_modules.store import Recipe, Sample, StoreInfo


def read(
    source: Path,
    *,
    dataset: str,
    labels: str = "",
    words: str = "",
    text: str = "",
    audio: str = "",
    vision: str = "",
    vectors: str = "",
    folds: str = "",
    target: Literal["sentiment", "emotions"] = "sentiment",
    align: Alignment = "word",
    pauses: bool = False,
    missing: Literal["drop", "zeros"] = "drop",
    feature_set: str = "",
) -> Source:
    """Read computational sequences.

    Args:
        source: Folder of ``.csd`` files, or one of them.
        dataset: Key of the data set.
        labels: The labels, when not found by name: a ``.csd`` of the folder or elsewhere, a table, or a folder of
            tables for train, valid and test (columns: video, clip, start, stop, label).
        words: The words with their times, when not found by content; ``none`` to leave a file out, here and below.
        text: The vectors of words as a ``.csd``, when not found by name.
        audio: The audio features, when not found by name.
        vision: The vision features, when not found by name.
        vectors: A table of word vectors, from which the words become text: an npz with ``vocab`` (V,) and ``emb``
            (V, D), or GloVe's text file. Words that it lacks, also in lower case, become zeros and are counted.
        folds: The standard folds: the SDK's ``*_std_folds.py``, or a folder with train.txt, valid.txt and test.txt (a
            video per line). Those of CMU-MOSI are built in, and tables of labels in three files need none.
        target: What is predicted: ``sentiment`` from -3 to 3, or MOSEI's six ``emotions``, present when above 0.
        align: ``word``: one vector of audio and of vision per word, the mean over its time; ``segment``: all their
            frames within the segment, at their own rates.
        pauses: Keep speech pauses as words.
        missing: A segment that has nothing of some modality is left out (``drop``, as the SDK does) or has one step of
            zeros in it (``zeros``). More than five per cent of such segments are an error.
        feature_set: Name of the feature set; by default made of the names of the files.

    Raises:
        DataError: When a file is not as described, or more than five per cent of the segments lack something.
    """
    source = Path(source)
    tabled = bool(labels) and (Path(labels).is_dir() or Path(labels).suffix.lower() in TABLES)
    chosen = {"words": words, "text": text, "audio": audio, "vision": vision, "labels": NONE if tabled else labels}
    if vectors:
        chosen["text"] = text or NONE
    files, ignored = find_files(source, chosen)
    if vectors and ("words" not in files or "text" in files):
        raise DataError("The option `vectors` needs words as a .csd, and excludes the option `text`.")
    segments, notes = (segments_in(Path(labels)), []) if tabled else _labelled(source, files)
    values = _targets(segments, target)
    parts = _parts(segments, folds, dataset)

    sequences = Sequences({role: file for role, file in files.items() if role != "labels"}, align, pauses, {}, 0)
    notes += [f"{len(ignored)} files were not used: {', '.join(ignored)}."] if ignored else []
    if vectors:
        table, dim, note = _word_vectors(Path(vectors), sequences, segments)
        sequences = Sequences(sequences.files, align, pauses, table, dim)
        notes += note
    _check(source, sequences)
    kept, lost = _unify(source, sequences, segments, missing)
    notes += lost
    outside = [segment.video for segment in kept if parts[segment.id] is None]
    if outside:
        notes.append(f"{len(outside)} segments of {len(set(outside))} videos are in no part of the folds: not used.")
    spec = TargetSpec("multilabel", EMOTIONS)
    if target == "sentiment":
        spec = TargetSpec("regression", ("sentiment",), -3.0, 3.0)
        notes += outside_scale(np.asarray([values[segment.id] for segment in kept]), spec)

    sources = {name: _described(sequences.files[name], name, align) for name in sequences.modalities if name in files}
    names = {role: file.root for role, file in sequences.files.items() if role != "words"}
    if vectors:
        sources["text"] = f"word vectors of {Path(vectors).name} for {files['words'].root} ({files['words'].path.name})"
        names = {"text": Path(vectors).stem, **names}
    marks = {"segment": align == "segment", "pauses": pauses, "zeros": missing == "zeros", target: target == "emotions"}
    default = re.sub(r"[^a-z0-9]+", "-", "-".join([*names.values(), *(m for m, on in marks.items() if on)]).lower())
    info = StoreInfo(
        dataset,
        feature_set or default.strip("-"),
        spec,
        sources,
        aligned=align == "word",
        notes=tuple(notes),
        recipes=dict.fromkeys(sequences.averaged, Recipe("mean over each word", libraries=("numpy",))),
    )
    return Source(info, _samples(sequences, kept, values, parts))


def _labelled(source: Path, files: Mapping[str, CsdFile]) -> tuple[list[Segment], list[str]]:
    """Return the segments of the file of labels, and notes on videos whose labels cannot be used."""
    if "labels" not in files:
        raise DataError(
            f"{source} has no labels. Give the option `labels`: a .csd such as CMU_MOSI_Opinion_Labels.csd, a table, "
            "or a folder of tables."
        )
    file = files["labels"]
    segments, broken = segments_of(file)
    first = next(iter(broken.values()), "")
    refuse_loss("have labels that cannot be used", list(broken), len({*file.videos, *broken}), first)
    return segments, listed("videos have labels that cannot be used and were left out", list(broken.values()))


def _check(source: Path, sequences: Sequences) -> None:
    if not sequences.modalities:
        raise DataError(
            f"{source} has no text, audio or vision as numbers. Words become text with the option `vectors`, a table "
            "of word vectors."
        )
    if sequences.align == "word" and not sequences.base:
        raise DataError(
            f"{source} has no words to align with. Bring a .csd of words, or set the option align: segment."
        )


def _targets(segments: list[Segment], target: str) -> dict[str, float | Array]:
    """Return the target of each segment."""
    if target == "sentiment":
        return {segment.id: segment.labels[0] for segment in segments}
    bare = [segment.id for segment in segments if len(segment.labels) == 1]
    if bare:
        raise DataError(
            f"{len(bare)} of {len(segments)} segments have no labels of emotions, the first is {bare[0]}. Set the "
            "option target: sentiment."
        )
    # NaN must stay visible to the store, which refuses it.
    found = {segment.id: np.asarray(segment.labels[1:]) for segment in segments}
    return {name: np.where(np.isnan(values), np.nan, values > 0) for name, values in found.items()}


def _parts(segments: list[Segment], folds: str, dataset: str) -> dict[str, str | None]:
    """Return the part of each segment: by the given folds, else by the labels, else by the folds that are built in."""
    if not folds and all(segment.part for segment in segments):
        return {segment.id: segment.part for segment in segments}
    by_video = standard_folds(Path(folds) if folds else None, dataset)
    return {segment.id: by_video.get(segment.video) for segment in segments}


def _word_vectors(
    path: Path, sequences: Sequences, segments: list[Segment]
) -> tuple[Mapping[str, Array], int, list[str]]:
    """Return the vectors of the words of all segments, their columns, and a note on those without one."""
    counts: Counter[str] = Counter()
    for video, own in _by_video(segments).items():
        whole = Video(sequences, video)
        counts.update(whole.words[row] for segment in own for row in whole.steps(segment))
    if not counts:
        raise DataError("No word lies in any segment. Check that words and labels are of one release.")
    table, dim = word_vectors(path, set(counts))
    if not table:
        raise DataError(f"{path} has none of the {len(counts)} words in the segments: it is another kind of table.")
    unknown = [word for word in counts if word not in table]
    if not unknown:
        return table, dim, []
    lost = sum(counts[word] for word in unknown)
    note = f"text: {lost} of {counts.total()} words ({len(unknown)} different) have no vector: zeros."
    return table, dim, [note]


def _unify(
    source: Path, sequences: Sequences, segments: list[Segment], missing: str
) -> tuple[list[Segment], list[str]]:
    """Return the segments to keep, and notes on those that lack something.

    Raises:
        DataError: When too many do.
    """
    kept: list[Segment] = []
    lost: list[tuple[str, str]] = []
    problems: list[str] = []
    for video, own in _by_video(segments).items():
        whole = Video(sequences, video)
        problems += whole.problems
        for segment in own:
            lacking = whole.lacks(segment)
            if lacking:
                lost.append((segment.id, " and ".join(lacking)))
            if not lacking or missing == "zeros":
                kept.append(segment)
    named = [f"{name} ({what})" for name, what in lost]
    lack = f"of {source} have nothing of some modality"
    refuse_loss(lack, named, len(segments), problems[0] if problems else "")
    done = "left out" if missing == "drop" else "kept with zeros"
    return kept, [
        *listed("entries of files cannot be used", problems),
        *listed(f"of {len(segments)} segments have nothing of some modality and were {done}", named),
    ]


def _samples(
    sequences: Sequences,
    segments: list[Segment],
    values: Mapping[str, float | Array],
    parts: Mapping[str, str | None],
) -> Iterator[Sample]:
    for video, own in progress(list(_by_video(segments).items()), "Videos"):
        whole = Video(sequences, video)
        features = whole.features()
        for segment in own:
            inputs, origins = whole.inputs(segment, features)
            said = string(segment.transcript or whole.spoken(segment))
            where = parts[segment.id]
            yield Sample(
                string(segment.id), inputs, values[segment.id], where, string(video), transcript=said, origins=origins
            )


def _by_video(segments: list[Segment]) -> dict[str, list[Segment]]:
    found: dict[str, list[Segment]] = {}
    for segment in segments:
        found.setdefault(segment.video, []).append(segment)
    return found


def _described(file: CsdFile, name: str, align: Alignment) -> str:
    version = f", version {file.version}" if file.version else ""
    how = "" if name == "text" else ", mean over each word" if align == "word" else ", all frames of the segment"
    return f"{file.root} ({file.path.name}{version}){how}"
