"""What RAVDESS is on paper: the seven fields of a file name, the design, the files of a release, the split tables."""

from __future__ import annotations

import filecmp
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, Self

import numpy.typing as npt

from data_modules.datasets.ravdess.splits import RAVDESS_ACTORS, RAVDESS_PROTOCOLS
from data_modules.importers.speakers import speaker_table
from data_modules.schema import DataError, TargetSpec
from data_modules.store import Sample, SplitTables

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
STATEMENTS = ("Kids are talking by the door", "Dogs are sitting by the door")
FULL, VIDEO_ONLY, AUDIO_ONLY = 1, 2, 3
SPEECH, SONG = 1, 2
SONG_EMOTIONS = 6
NO_SONG = 18  # the actor without songs
SOUND, VIDEO = (".wav", ".flac"), (".mp4",)
STEM = re.compile(r"[0-9]{2}(-[0-9]{2}){6}")

Channel = Literal["speech", "song", "both"]

_CHANNELS: dict[Channel, tuple[int, ...]] = {"speech": (SPEECH,), "song": (SONG,), "both": (SPEECH, SONG)}
_MODALITIES = {FULL: "full audio-video", VIDEO_ONLY: "video-only", AUDIO_ONLY: "audio-only"}
_FIELDS = {
    "modality": len(_MODALITIES),
    "channel": 2,
    "emotion": len(EMOTIONS),
    "intensity": 2,
    "statement": len(STATEMENTS),
    "repetition": 2,
    "actor": len(RAVDESS_ACTORS),
}


@dataclass(frozen=True, order=True)
class RavdessName:
    """The seven fields of a file name, each from 1 on, as the record of the data set defines them."""

    modality: int
    channel: int
    emotion: int
    intensity: int
    statement: int
    repetition: int
    actor: int

    @classmethod
    def parse(cls, stem: str) -> Self:
        """Read a file name without its ending, such as ``03-01-06-01-02-01-12``.

        Raises:
            DataError: When it is not seven two-digit fields, or a field has no such value, or the design has no such
                trial (strong neutral, disgust or surprise in song, a song of actor 18).
        """
        if not STEM.fullmatch(stem):
            raise DataError(f"{stem!r} is not a RAVDESS name: seven two-digit fields like 03-01-06-01-02-01-12.")
        values = [int(field) for field in stem.split("-")]
        for (name, most), value in zip(_FIELDS.items(), values, strict=True):
            if not 1 <= value <= most:
                raise DataError(f"{stem!r} has the {name} {value:02d}; RAVDESS has 01 to {most:02d}.")
        parsed = cls(*values)
        if parsed.emotion == 1 and parsed.intensity == 2:
            raise DataError(f"{stem!r} would be strong neutral, which RAVDESS does not have.")
        if parsed.channel == SONG and (parsed.emotion > SONG_EMOTIONS or parsed.actor == NO_SONG):
            raise DataError(f"{stem!r} would be a song in {parsed.label} of actor {parsed.actor}: RAVDESS has none.")
        return parsed

    @property
    def stem(self) -> str:
        """The name again."""
        return "-".join(f"{getattr(self, name):02d}" for name in _FIELDS)

    @property
    def take(self) -> str:
        """The name without the modality: the same for sound and face of one take."""
        return self.stem[3:]

    @property
    def label(self) -> str:
        """The emotion in words."""
        return EMOTIONS[self.emotion - 1]

    def sample(self, inputs: dict[str, npt.NDArray[Any]], origins: dict[str, str]) -> Sample:
        """Return the sample of a store that this clip is, from its inputs and their origins."""
        actor, statement = f"{self.actor:02d}", STATEMENTS[self.statement - 1]
        return Sample(self.stem, inputs, self.emotion - 1, None, actor, actor, statement, origins)


def target(channel: Channel) -> TargetSpec:
    """Return what is predicted: eight emotions, or the six that are sung."""
    return TargetSpec("multiclass", EMOTIONS[:SONG_EMOTIONS] if channel == "song" else EMOTIONS)


def design(channel: Channel) -> Iterator[RavdessName]:
    """Return the names of all audio-only clips: 1440 of speech, 1012 of song."""
    ranges = [range(1, most + 1) for most in list(_FIELDS.values())[2:]]
    for kind in _CHANNELS[channel]:
        for fields in product(*ranges):
            name = RavdessName(AUDIO_ONLY, kind, *fields)
            neutral_strong = name.emotion == 1 and name.intensity == 2
            unsung = kind == SONG and (name.emotion > SONG_EMOTIONS or name.actor == NO_SONG)
            if not neutral_strong and not unsung:
                yield name


def missing_takes(names: Iterable[RavdessName], channel: Channel) -> tuple[int, list[str]]:
    """Return how many takes the design has, and the names (as audio-only clips) of those that are not there."""
    expected = {name.take: name.stem for name in design(channel)}
    return len(expected), sorted(set(expected.values()) - {expected[name.take] for name in names})


def find_clips(
    source: Path, channel: Channel, wanted: Mapping[int, tuple[str, ...]] | None = None
) -> tuple[dict[RavdessName, Path], list[str]]:
    """Return the clips below a folder, sorted by name, one of each take, and the file names that are no clip.

    A second, identical copy of a clip is ignored (one public mirror of the data holds every file twice).

    Args:
        source: A folder above ``Actor_NN`` folders, or one of them.
        channel: Speech, song or both.
        wanted: By modality of the name the endings of the files that count; of a take in several modalities the first
            one counts. By default audio-only sound.

    Raises:
        DataError: When there is no clip, a clip lies in another actor's folder, or two files of one clip differ.
    """
    wanted = wanted or {AUDIO_ONLY: SOUND}
    clips: dict[RavdessName, Path] = {}
    foreign: list[str] = []
    others: Counter[str] = Counter()
    folders = 0
    for folder, actor in _actor_folders(source):
        folders += 1
        for path in sorted(folder.iterdir()):
            # Files named ._* are what macOS leaves beside the real ones.
            if path.suffix.lower() not in (*SOUND, *VIDEO) or path.name.startswith("._"):
                continue
            try:
                name = RavdessName.parse(path.stem)
            except DataError:
                foreign.append(path.name)
                continue
            if name.actor != actor:
                raise DataError(f"{path} is of actor {name.actor:02d} but lies in {folder.name}. Move one of them.")
            if path.suffix.lower() not in wanted.get(name.modality, ()) or name.channel not in _CHANNELS[channel]:
                others[f"{_MODALITIES[name.modality]} {'speech' if name.channel == SPEECH else 'song'}"] += 1
                continue
            known = clips.setdefault(name, path)
            if known != path and not filecmp.cmp(known, path, shallow=False):
                raise DataError(f"{known} and {path} are the same clip with different content. Remove one.")
    if not clips:
        words = " or ".join(_MODALITIES[modality] for modality in wanted)
        found = "".join(f", {count} clips of {what}" for what, count in sorted(others.items()))
        archives, example = ("audio", "wav") if AUDIO_ONLY in wanted else ("video", "mp4")
        raise DataError(
            f"{source} has no {words} {channel} clip ({folders} folders named Actor_NN{found}). Give the folder where "
            f"the {archives} archives of Zenodo record 1188976 are unpacked, with files like "
            f"Actor_12/{next(iter(wanted)):02d}-01-06-01-02-01-12.{example}."
        )
    ranks = {modality: rank for rank, modality in enumerate(wanted)}
    best: dict[str, RavdessName] = {}
    for name in sorted(clips, key=lambda name: ranks[name.modality]):
        best.setdefault(name.take, name)
    return {name: clips[name] for name in sorted(best.values())}, foreign


def _actor_folders(source: Path) -> Iterator[tuple[Path, int]]:
    for folder, below, _ in os.walk(source):
        below.sort()
        actor = re.fullmatch(r"Actor_([0-9]{2})", Path(folder).name)
        if actor:
            yield Path(folder), int(actor[1])


def find_tables(folder: Path, takes: Collection[str]) -> dict[str, Path]:
    """Return OpenFace's CSV file of each take below a folder, sorted by take; takes without one are not in it."""
    files: dict[str, Path] = {}
    # By name, not by folder: the file of the full clip (01) comes before that of the silent copy (02).
    for path in sorted(folder.rglob("*.csv"), key=lambda path: (path.name, path)):
        if STEM.fullmatch(path.stem) and path.stem[3:] in takes:
            files.setdefault(path.stem[3:], path)
    return dict(sorted(files.items()))


def check_actors(actors: Collection[int], channel: Channel) -> None:
    """Refuse clips that leave out an actor, because the folds would not be those of the protocols.

    Raises:
        DataError: With the actors that are missing.
    """
    missing = set(RAVDESS_ACTORS) - set(actors) - ({NO_SONG} if channel == "song" else set())
    if missing:
        raise DataError(
            f"The actors {sorted(missing)} have no usable clip, but the split protocols need them. Bring all folders."
        )


def split_tables(samples: Sequence[Sample], channel: Channel) -> SplitTables:
    """Return the actor-disjoint split protocols.

    Raises:
        DataError: When an actor is missing.
    """
    speakers = [int(sample.speaker) for sample in samples]
    check_actors(speakers, channel)
    return {name: [speaker_table(fold, speakers) for fold in folds] for name, folds in RAVDESS_PROTOCOLS.items()}
