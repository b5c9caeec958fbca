"""One video of computational sequences: when everything happens, what lies in a segment, and means over its words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_modules.importers.common import Array
from data_modules.importers.csd_files import CsdFile, Rows, Timeline, average
from data_modules.importers.csd_folds import Segment
from data_modules.schema import MODALITIES, DataError
from data_modules.store.provenance import array_digest

PAUSE = "sp"

Alignment = Literal["word", "segment"]


@dataclass(frozen=True)
class Sequences:
    """The files in their roles, and how they are cut.

    Attributes:
        files: Words, text, audio and vision, those that are there.
        align: Whether audio and vision become one vector per word, or keep all their frames.
        pauses: Whether speech pauses stay.
        table: Vectors of words; empty when the text is a file or left out.
        dim: Columns of those vectors.
    """

    files: Mapping[str, CsdFile]
    align: Alignment
    pauses: bool
    table: Mapping[str, Array]
    dim: int

    @property
    def base(self) -> str:
        """The role whose rows are the steps of the text: the words, or vectors of words when there are no words."""
        return "words" if "words" in self.files else "text" if "text" in self.files else ""

    @property
    def modalities(self) -> dict[str, int]:
        """The columns of each modality of the store."""
        dims = {name: self.files[name].dim for name in MODALITIES if name in self.files}
        return {"text": self.dim, **dims} if self.table else dims

    @property
    def averaged(self) -> tuple[str, ...]:
        """The modalities that are means over words: sums of many numbers, which processors may round differently."""
        rows = [name for name in self.modalities if name in self.files and name != self.base]
        return tuple(name for name in rows if name == "text" or self.align == "word")


class Video:
    """One video: when everything happens, and what of it lies in a segment."""

    def __init__(self, sequences: Sequences, name: str) -> None:
        self.sequences, self.name = sequences, name
        self.timelines: dict[str, Timeline] = {}
        self.words: list[str] = []
        self.problems: list[str] = []
        for role, file in sequences.files.items():
            if name in file.broken:
                self.problems.append(file.broken[name])
            if name not in file.videos:
                continue
            try:
                if role == "words":
                    self.words = [str(word) for word in file.entry(name).features]
                self.timelines[role] = Timeline(file.intervals(name))
            except DataError as error:
                self.problems.append(str(error))
        skipped = None if sequences.pauses else PAUSE
        self.usable = np.asarray([word != skipped for word in self.words], bool)

    def steps(self, segment: Segment) -> Rows:
        """Return the words (or vectors of words) of a segment."""
        base = self.timelines.get(self.sequences.base)
        rows = base.within(segment.start, segment.stop) if base else np.zeros(0, np.int64)
        return rows[self.usable[rows]] if self.words else rows

    def spans(self, rows: Rows) -> list[tuple[float, float]]:
        """Return start and end of some words."""
        if not len(rows):
            return []
        base = self.timelines[self.sequences.base]
        return list(zip(base.starts[rows].tolist(), base.stops[rows].tolist(), strict=True))

    def spoken(self, segment: Segment) -> str:
        """Return the words of a segment, without pauses."""
        words = [self.words[row] for row in self.steps(segment)] if self.words else []
        return " ".join(word for word in words if word != PAUSE)

    def lacks(self, segment: Segment) -> list[str]:
        """Return the modalities of which a segment has nothing."""
        rows = self.steps(segment)
        return [name for name in self.sequences.modalities if not self._has(name, segment, rows)]

    def _has(self, name: str, segment: Segment, rows: Rows) -> bool:
        if name == "text" and (self.sequences.table or self.sequences.base == "text"):
            return bool(len(rows))
        if name not in self.timelines:
            return False
        if name != "text" and self.sequences.align == "segment":
            return bool(len(self.timelines[name].within(segment.start, segment.stop)))
        return any(len(self.timelines[name].within(*span)) for span in self.spans(rows))

    def features(self) -> dict[str, Array]:
        """Return the rows of each file of numbers that has the video."""
        files = self.sequences.files
        return {role: files[role].entry(self.name).features for role in self.timelines if role != "words"}

    def inputs(self, segment: Segment, features: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, str]]:
        """Return the modalities of a segment, and of means the digest of the rows of each word, which are others'.

        A modality of which the segment has nothing has no step.
        """
        rows = self.steps(segment)
        found: dict[str, Array] = {}
        origins: dict[str, str] = {}
        for name, dim in self.sequences.modalities.items():
            if name == "text" and self.sequences.table:
                found[name] = np.zeros((len(rows), dim), np.float32)
                for step, row in enumerate(rows):
                    found[name][step] = self.sequences.table.get(self.words[row], 0)
            elif name in self.sequences.averaged:
                timeline = self.timelines.get(name)
                spans = [timeline.within(*span) for span in self.spans(rows)] if timeline else []
                words = [features[name][inside] for inside in spans]
                values, filled = average(words, dim)
                found[name], origins[name] = values if filled else values[:0], array_digest(words)
            elif name not in self.timelines:
                found[name] = np.zeros((0, dim))
            elif name == self.sequences.base:
                found[name] = features[name][rows]
            else:
                found[name] = features[name][self.timelines[name].within(segment.start, segment.stop)]
        return found, origins
