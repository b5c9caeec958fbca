"""Computational sequences (``.csd``), the files of the CMU-MultimodalSDK: what they hold, and what overlaps in time.

Layout (HDF5; CMU-MultiComp-Lab/CMU-MultimodalSDK)::

    /<root name>/data/<video>/features     (T, D) numbers, or (T, 1) strings for words and phonemes
    /<root name>/data/<video>/intervals    (T, 2) seconds: start and end of each row
    /<root name>/metadata/<key>            (1,) string, JSON since version 1.2 of the SDK, plain text before

After an alignment of the SDK the keys are ``video[k]``: entries of the same video belong together, ordered by start.
Files are opened for each access, so that none stays open however long an import takes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from data_modules.budget import budget
from data_modules.importers.common import Array, string
from data_modules.schema import DataError
from data_modules.store.hdf5 import MOST
from data_modules.store.hdf5_heap import AGAIN, check_heaps, texts_size

EPSILON = 1e-5
"""Seconds: what overlaps by no more does not overlap, as in the SDK."""
MAX_BYTES = 1 << 30
"""More than any video needs (an hour of 100 Hz COVAREP is 0.2 GB): larger entries are damaged or hostile."""
MAX_TEXT = 1 << 24
"""Characters of the words of a video."""
TIGHTEST = 1100
"""Deflate packs no more than this many bytes into one."""
LATEST = 1e9
"""Seconds that no video has."""
MAX_VERSION = 1 << 10
"""Bytes: the name of a version is short."""
ROLES = {
    "labels": r"label|opinionsegment|sentiment|emotion",
    "text": r"glove|wordvector|embedding|bert|text",
    "audio": r"covarep|coavarep|opensmile|emobase|acoustic|audio",
    "vision": r"facet|openface|visual|vision",
}
"""What the root or file name of a sequence of numbers says of it; sequences of strings are words or phonemes."""
NONE = "none"

Rows = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Entry:
    """The rows of one video, by start time.

    Attributes:
        names: ``video[k]`` of each row, k the number of the row in the file.
        intervals: ``(T, 2)`` seconds.
        features: ``(T, D)`` numbers, or ``(T,)`` strings.
    """

    names: list[str]
    intervals: Floats
    features: Array


class Timeline:
    """Intervals sorted by start, to be asked what lies in a span of time."""

    def __init__(self, intervals: Floats) -> None:
        self.starts, self.stops = intervals.T
        # Rows may overlap each other: only the latest end so far is sorted too.
        self._reach = np.maximum.accumulate(self.stops) if len(intervals) else self.stops

    def within(self, start: float, stop: float) -> Rows:
        """Return the rows that share more than ``EPSILON`` seconds with the span, in the order of their starts."""
        rows = np.arange(np.searchsorted(self._reach, start, "right"), np.searchsorted(self.starts, stop, "left"))
        shared = np.minimum(self.stops[rows], stop) - np.maximum(self.starts[rows], start)
        kept: Rows = rows[shared > EPSILON]
        return kept


class CsdFile:
    """One computational sequence.

    Attributes:
        path: The file.
        root: Its root name, such as ``COVAREP``.
        version: What its metadata say of its version, or nothing.
        strings: Whether its rows are strings.
        dim: Columns of its features.
        videos: The keys of the entries of each video.
        broken: By video why it cannot be used.

    Raises:
        DataError: When the file is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as file:
            check_heaps(path, file, AGAIN)
            # The metadata say the name too, but in old files as the text of a bytes object.
            self.root = next(iter(file), "")
            group = _own(file, self.root)
            data = _own(group, "data")
            if not isinstance(data, h5py.Group) or not len(data):
                raise DataError(
                    f"{path} is HDF5 but no computational sequence: /<root name>/data/<video> with features and "
                    f"intervals was expected, its first key is {self.root!r}. Features of your own come in with "
                    "`mmbench data import plain`."
                )
            self.version = _version(group)
            shapes: dict[str, tuple[bool, int]] = {}
            claimed: Counter[str] = Counter()
            self.videos: dict[str, list[str]] = {}
            self.broken: dict[str, str] = {}
            if len(data) > MOST:
                raise DataError(f"{path} has {len(data)} entries, more than any release. It is damaged or hostile.")
            most = min(MAX_BYTES, budget())
            for key in data:
                video = key.split("[")[0]
                try:
                    strings, dim, size = _shape(data, key)
                    claimed[video] += size
                    if claimed[video] > most:
                        raise DataError(f"{video!r} claims {claimed[video] / 1e9:.1f} GB, more than any video has.")
                    shapes[key] = (strings, dim)
                    self.videos.setdefault(video, []).append(key)
                except (DataError, OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
                    self.broken.setdefault(video, f"{path}: {error}")
        if not shapes:
            raise DataError(f"{next(iter(self.broken.values()))} No entry of the file can be used.")
        (self.strings, self.dim), _ = Counter(shapes.values()).most_common(1)[0]
        for key, (strings, dim) in shapes.items():
            if (strings, dim) != (self.strings, self.dim):
                reason = f"{path}: {key!r} has {dim} columns, most entries have {self.dim}."
                self.broken.setdefault(key.split("[")[0], reason)
        self.videos = {video: keys for video, keys in self.videos.items() if video not in self.broken}
        # The same bytes may stand for many entries, each of a gigabyte.
        total = sum(claimed[video] for video in self.videos)
        if total > TIGHTEST * path.stat().st_size:
            raise DataError(
                f"{path} claims {total / 1e9:.1f} GB in {path.stat().st_size} bytes, which cannot be packed so tight. "
                "It is damaged or hostile: get it from the SDK."
            )

    def intervals(self, video: str) -> Floats:
        """Return the ``(T, 2)`` intervals of a video in seconds, sorted by start.

        Raises:
            DataError: When they cannot be read.
        """
        intervals, order = self._times(video)
        return intervals[order]

    def entry(self, video: str) -> Entry:
        """Return the rows of a video.

        Raises:
            DataError: When they cannot be read.
        """
        intervals, order = self._times(video)
        with self._open() as file:
            data = file[self.root]["data"]
            parts = [self._rows(data[key]["features"]).reshape(-1, self.dim) for key in self.videos[video]]
        numbered = [
            key if key != video and len(part) == 1 else f"{video}[{row}]"
            for key, part in zip(self.videos[video], parts, strict=True)
            for row in range(len(part))
        ]
        features = np.concatenate(parts)
        if self.strings:
            features = np.asarray([string(word) for word in features[:, 0]], dtype=object)
        return Entry([numbered[row] for row in order], intervals[order], features[order])

    def _rows(self, features: h5py.Dataset) -> Array:
        """Return the features of an entry; texts of any length a few at a time, as each may be the whole file."""
        if features.dtype.kind != "O" or features.ndim == 0:
            return np.asarray(features[()])
        texts_size(self.path, features)  # refuses those that cannot be
        step = max(1, budget() // (16 * self.path.stat().st_size))
        found: list[Array] = []
        size = 0
        for start in range(0, len(features), step):
            found.append(features[start : start + step])
            size += sum(map(len, found[-1].reshape(-1)))
            if size > MAX_TEXT:
                raise DataError(f"{self.path}: {features.name!r} has {size} characters, more than any video says.")
        return np.concatenate(found)

    def _times(self, video: str) -> tuple[Floats, Rows]:
        """Return the intervals as the file has them, and the order of their starts."""
        with self._open() as file:
            data = file[self.root]["data"]
            parts = [np.asarray(data[key]["intervals"][()], float).reshape(-1, 2) for key in self.videos[video]]
        intervals: Floats = np.concatenate(parts)
        if not (np.abs(intervals) < LATEST).all():
            raise DataError(f"{self.path}: {video!r} has a time that is no number of seconds.")
        return intervals, np.argsort(intervals[:, 0], kind="stable")

    @contextmanager
    def _open(self) -> Iterator[h5py.File]:
        try:
            with h5py.File(self.path, "r") as file:
                yield file
        except MemoryError:
            raise DataError(f"{self.path} does not fit into the memory that is free. Close other programs.") from None
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{self.path} cannot be read as a computational sequence ({error}). It may be cut or another kind of "
                "file: get it again."
            ) from error


def _own(group: Any, name: str) -> Any:
    """Return what a group itself holds under a name: links and external storage make a file read others.

    Nothing of the SDK writes those.
    """
    if not (name and isinstance(group, h5py.Group) and isinstance(group.get(name, getlink=True), h5py.HardLink)):
        return None
    item = group[name]
    return None if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual) else item


def _shape(data: h5py.Group, key: str) -> tuple[bool, int, int]:
    """Return whether an entry holds strings, its columns, and its bytes in memory, without reading it.

    Raises:
        DataError: When it is not an entry, or too large to be one.
    """
    group = _own(data, key)
    parts = []
    for name in ("features", "intervals"):
        part = _own(group, name)
        if not isinstance(part, h5py.Dataset):
            raise DataError(f"{key!r} has no data set {name!r} of its own.")
        parts.append(part)
    features, intervals = parts
    strings = features.dtype.kind in "SO"
    texts = features.dtype.kind == "S" or h5py.check_string_dtype(features.dtype)
    if not (texts or features.dtype.kind in "fiu") or intervals.dtype.kind not in "fiu":
        raise DataError(f"{key!r} has features of type {features.dtype} and intervals of type {intervals.dtype}.")
    # One row may come without its axis.
    rows = len(features) if features.ndim > 1 else 1
    fits = features.ndim in (1, 2) and intervals.shape in ((rows, 2), *([(2,)] if rows == 1 else []))
    if not fits or features.size == 0 or (strings and features.size != rows):
        raise DataError(f"{key!r} has features {features.shape} and intervals {intervals.shape}; one per row expected.")
    return strings, int(features.shape[-1]), int(features.nbytes + intervals.nbytes)


def _version(group: h5py.Group) -> str:
    """Return the version in the metadata; the writers of old files put a dummy or nothing there."""
    metadata = _own(group, "metadata")
    # A comma lacks in the SDK's list of keys, so that its own files have the second name.
    for key in ("computational sequence version", "dimension namescomputational sequence version"):
        value = _own(metadata, key)
        plain = isinstance(value, h5py.Dataset) and value.shape == (1,) and value.dtype.kind in "SO"
        if plain and value.nbytes <= MAX_VERSION:
            text = string(value[0])
            try:
                return string(json.loads(text))
            except (ValueError, DataError):
                return text
    return ""


def average(words: Sequence[Array], dim: int) -> tuple[Floats, int]:
    """Return the mean of the rows of each word, zeros where there are none, and the number of words that have some.

    Args:
        words: W arrays ``(T, dim)``.
        dim: Columns.
    """
    values = np.zeros((len(words), dim))
    # Infinite values are left to the store, which counts and zeroes them.
    with np.errstate(invalid="ignore", over="ignore"):
        for step, rows in enumerate(words):
            if len(rows):
                values[step] = rows.mean(axis=0, dtype=float)
    return values, sum(len(rows) > 0 for rows in words)


def find_files(source: Path, chosen: Mapping[str, str]) -> tuple[dict[str, CsdFile], list[str]]:
    """Return the sequence of each role, and the names of files that play none.

    Args:
        source: A ``.csd`` file or a folder of them.
        chosen: By role (words, text, audio, vision, labels) the name of a file of the folder, a path, ``none`` to leave
            it out, or nothing to find it by its content, root name and file name.

    Raises:
        DataError: When there is no such file, several files play a role, or one cannot play it.
    """
    folder = source if source.is_dir() else source.parent
    found: dict[str, CsdFile] = {}
    for role, name in chosen.items():
        if name and name != NONE:
            path = folder / name if (folder / name).is_file() else Path(name)
            if not path.is_file():
                raise DataError(f"There is no file {name} for {role}, neither in {folder} nor as a path.")
            found[role] = CsdFile(path)
    # Files named ._* are what macOS leaves beside the real ones.
    below = sorted(path for path in folder.glob("*.csd") if not path.name.startswith("._"))
    paths = below if source.is_dir() else [source]
    if not paths and not found:
        raise DataError(f"{folder} has no .csd file. Give the folder of the downloaded computational sequences.")
    candidates: dict[str, list[CsdFile]] = {}
    ignored: list[str] = []
    for path in paths:
        if any(path.samefile(file.path) for file in found.values()):
            continue
        file = CsdFile(path)
        role = _role(file)
        if not role or role in found or chosen.get(role) == NONE:
            ignored.append(path.name)
        else:
            candidates.setdefault(role, []).append(file)
    for role, files in candidates.items():
        if len(files) > 1:
            names = ", ".join(file.path.name for file in files)
            raise DataError(f"{folder} has several files for {role}: {names}. Choose one with the option `{role}`.")
        found[role] = files[0]
    for role, file in found.items():
        if file.strings != (role == "words"):
            kind = "strings" if file.strings else "numbers"
            raise DataError(f"{file.path} holds {kind}: it cannot be used for {role}.")
    return found, ignored


def _role(file: CsdFile) -> str:
    name = re.sub(r"[^a-z0-9]", "", f"{file.root} {file.path.stem}".lower())
    if file.strings:
        return "" if "phon" in name else "words"
    return next((role for role, pattern in ROLES.items() if re.search(pattern, name)), "")
