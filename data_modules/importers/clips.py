"""Clip by clip, what importers of media share: decoding that can go on where it was stopped, and what is left out.

A decoded clip is kept in a work folder, whole or not at all, until the store is written; an import that was killed
decodes only what is missing. Clips are known by their name, their files (name, size, time of the last change) and the
settings of the import, so that none is reused that would come out otherwise. At no time is more than one in memory.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile
from rich.console import Console
from rich.progress import track

from data_modules.features.audio import NoSoundError
from data_modules.features.faces import NoFaceError
from data_modules.files import WriteError, atomic_path
from data_modules.names import printable
from data_modules.schema import DataError
from data_modules.store.provenance import file_digest

WORST_LOSS = 0.05
NAMED = 20  # names in one note
TAKEN, FACELESS = "taken", "faceless"
"""Beside the pictures of a clip: how many there are, and how many of them show no face and are cut in the middle."""

ORIGINS = "origins"
"""Beside the arrays of a clip: the SHA-256 of each of its files."""

Array = npt.NDArray[Any]
Item = TypeVar("Item")


@contextmanager
def opened(path: Path) -> Iterator[NpzFile]:
    """Open the arrays of a decoded clip.

    Raises:
        DataError: When the file was damaged since it was written.
    """
    try:
        with np.load(path) as arrays:
            yield arrays
    except (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} was damaged on disk ({error}). Remove it and start again.") from error


class NoTranscriptError(DataError):
    """Nobody says what is said in a clip, where that is wanted."""


_LOSSES: dict[type[DataError], str] = {
    NoTranscriptError: "clips without a transcript were left out",
    NoSoundError: "clips without sound were left out",
    NoFaceError: "clips without a face were left out",
    DataError: "clips that do not decode were left out",
}


@dataclass(frozen=True)
class Clip:
    """Something to decode.

    Attributes:
        id: Its name in the store.
        files: What it is decoded from; when one of them changes, it is decoded again.
        flaw: Why it cannot be used, where that is known before it is decoded; empty when it can.
    """

    id: str
    files: tuple[Path, ...]
    flaw: str = ""


Decode = Callable[[Clip], Mapping[str, Array]]
"""From a clip to its arrays by name (numbers count as arrays); a DataError when it cannot be used.

The name :data:`ORIGINS` is taken."""


@dataclass(frozen=True)
class Decoded:
    """The clips that could be decoded, on disk.

    Attributes:
        clips: By id the file of each, in the order in which they were given.
        lost: By id why the others were left out.
    """

    clips: dict[str, Path] = field(default_factory=dict)
    lost: dict[str, DataError] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[str, dict[str, Array]]]:
        """Return ids and arrays, one clip at a time."""
        for name in self.clips:
            yield name, self.load(name)

    def load(self, name: str) -> dict[str, Array]:
        """Return the arrays of one clip."""
        with opened(self.clips[name]) as arrays:
            return dict(arrays)

    def column(self, key: str) -> dict[str, Any]:
        """Return one number of every clip that has it by id, without reading the rest."""
        found = {}
        for name, path in self.clips.items():
            with opened(path) as arrays:
                if key in arrays.files:
                    found[name] = arrays[key].item()
        return found

    @property
    def faceless(self) -> list[str]:
        """What there is to say of pictures without a face, where one was looked for."""
        faceless, taken = (sum(self.column(key).values()) for key in (FACELESS, TAKEN))
        return [f"In {faceless} of {taken} pictures no face was found: their middle was taken."] if faceless else []

    @property
    def notes(self) -> list[str]:
        """What was left out and why, for the store."""
        notes = []
        for kind, text in _LOSSES.items():
            names = [name for name, error in self.lost.items() if _kind(error) is kind]
            if names:
                notes += [*listed(text, names), f"The first of them: {self.lost[names[0]]}"]
        return notes


def work_folder(out: Path, parent: Path | None = None) -> Path:
    """Return where the decoded clips of a store lie until it is whole: beside it, or in another folder."""
    return (out.parent if parent is None else Path(parent)) / f"{out.name}.clips"


def discard(folder: Path) -> None:
    """Remove the decoded clips of a work folder, and the folder when nothing else is in it."""
    if folder.is_dir():
        for below in list(folder.iterdir()):
            if below.is_dir() and re.fullmatch(r"clips-[0-9a-f]{16}", below.name):
                shutil.rmtree(below)
        if not any(folder.iterdir()):
            folder.rmdir()


def decode_clips(
    clips: Sequence[Clip],
    decode: Decode,
    folder: Path,
    *,
    settings: Mapping[str, Any],
    what: str = "clips",
    worst_loss: float = WORST_LOSS,
) -> Decoded:
    """Decode clips one by one, each kept on disk as soon as it is whole; what is there already is not decoded again.

    A clip that cannot be used is named with its reason on the terminal, and left out; it is tried again the next time.

    Args:
        clips: What to decode, with distinct ids.
        decode: Makes the arrays of one clip.
        folder: Work folder, made when it is not there (:func:`work_folder`); remove it with :func:`discard` once the
            store is whole.
        settings: Everything that the arrays depend on besides the files; other settings decode again.
        what: What is shown beside the progress bar.
        worst_loss: Share of the clips that may be left out.

    Raises:
        DataError: When more are left out, none is usable, two have one id, or the folder cannot be written.
    """
    twice = [name for name, count in Counter(clip.id for clip in clips).items() if count > 1]
    if twice:
        raise DataError(f"Two clips have the name {twice[0]}. Names must be unique: rename one.")
    own = folder / f"clips-{_digest(json.dumps(dict(settings), sort_keys=True, default=str))}"
    made = Decoded()
    for clip in progress(clips, what):
        try:
            _refuse_flaws(clip)
            path = own / f"{_digest(clip.id, *map(_state, clip.files))}.npz"
            arrays = (
                None if _complete(path) else {**decode(clip), ORIGINS: np.asarray(list(map(file_digest, clip.files)))}
            )
        except DataError as error:
            # A copy: the error itself holds on to everything that was in memory where it was raised.
            made.lost[printable(clip.id)] = _kind(error)(str(error))
            continue
        if arrays is not None:
            _keep(path, arrays)
        made.clips[clip.id] = path
        arrays = None  # or it would stay while the next one is decoded
    for name, reason in made.lost.items():
        Console(stderr=True).print(f"Left out: {name}. {reason}", markup=False, highlight=False, soft_wrap=True)
    refuse_loss("cannot be used", list(made.lost), len(clips), str(next(iter(made.lost.values()), "")), worst_loss)
    if not made.clips:
        raise DataError(f"None of the {len(clips)} {what} can be used. {next(iter(made.lost.values()), '')}".rstrip())
    return made


def progress(items: Sequence[Item], what: str) -> Iterable[Item]:
    """Return the items, with a progress bar while they are used when someone watches."""
    console = Console(stderr=True)
    return track(items, what, console=console, transient=True, disable=not console.is_terminal)


def listed(what: str, names: Sequence[str]) -> list[str]:
    """Return a note that counts and names something, or nothing when there is none."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return [f"{len(names)} {what}: {', '.join(names[:NAMED])}{more}."] if names else []


def refuse_loss(what: str, lost: Sequence[str], total: int, reason: str = "", worst_loss: float = WORST_LOSS) -> None:
    """Refuse to go on when too much of a release would be left out: a result on the rest would not be comparable.

    Raises:
        DataError: With how many, the first, and why.
    """
    if len(lost) > worst_loss * total:
        because = f" The first: {reason}" if reason else ""
        raise DataError(
            f"{len(lost)} of {total} clips {what}, beginning with {', '.join(lost[:3])}; up to "
            f"{worst_loss:.0%} would be left out.{because} Check that all files are of one release."
        )


def _refuse_flaws(clip: Clip) -> None:
    """Refuse a clip with a flaw, or with a name that no store can hold."""
    if clip.flaw:
        raise DataError(clip.flaw)
    if clip.id != printable(clip.id):
        raise DataError(f"The name of the clip {printable(clip.id)} is no text in UTF-8. Rename it.")


def _kind(error: DataError) -> type[DataError]:
    return next(kind for kind in _LOSSES if isinstance(error, kind))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _state(path: Path) -> str:
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error
    return f"{path.name}:{state.st_size}:{state.st_mtime_ns}"


def _complete(path: Path) -> bool:
    """Return whether a kept clip is there and complete: its directory stands at its end."""
    return path.is_file() and zipfile.is_zipfile(path)


def _keep(path: Path, arrays: Mapping[str, Array]) -> None:
    try:
        with atomic_path(path) as part, part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    except WriteError as error:
        raise DataError(f"{error} What is decoded is kept.") from error
