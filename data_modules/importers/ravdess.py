"""RAVDESS: the official release on disk, with the face as OpenFace action units.

Audio is read from ``Actor_NN/03-....wav`` (or ``.flac``), anywhere below the source. The face comes from a CSV table of
per-clip averages, or from a folder of per-frame CSV files (the official landmark-tracking release, Zenodo 3255102),
where the name starts with 01 (or 02) and means the same take as the 03 of the sound. Text is left out: the two
sentences are the same in every emotion.

What cannot be used is dropped and said in the notes: clips that do not decode, clips without a face, foreign file
names. Losing more than five per cent of the clips is an error, because a result on the rest would not be comparable.
"""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from data_modules.features import audio, openface
from data_modules.importers.common import Source
from data_modules.schema import DataError, TargetSpec
from data_modules.splits import LUNA5, RAVDESS_ACTORS, RAVDESS_PROTOCOLS, speaker_table
from data_modules.store import Record, SplitTables, StoreInfo

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
STATEMENTS = ("Kids are talking by the door", "Dogs are sitting by the door")
AUDIO_ONLY, SPEECH, SONG = 3, 1, 2
SONG_EMOTIONS = 6
NO_SONG = 18  # the actor without songs
WORST_LOSS = 0.05

Channel = Literal["speech", "song", "both"]
AudioFeatures = Literal["logmel", "mfcc", "logmel+mfcc"]
Item = TypeVar("Item")
Floats = npt.NDArray[np.float32]

_CHANNELS: dict[Channel, tuple[int, ...]] = {"speech": (SPEECH,), "song": (SONG,), "both": (SPEECH, SONG)}
_FIELDS = {
    "modality": 3,
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
        if not re.fullmatch(r"[0-9]{2}(-[0-9]{2}){6}", stem):
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
        return "-".join(f"{value:02d}" for value in astuple(self))

    @property
    def take(self) -> str:
        """The name without the modality: the same for sound and face of one take."""
        return self.stem[3:]

    @property
    def label(self) -> str:
        """The emotion in words."""
        return EMOTIONS[self.emotion - 1]

    @property
    def female(self) -> bool:
        """Whether the actor is a woman."""
        return self.actor % 2 == 0


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


def find_clips(source: Path, channel: Channel) -> tuple[dict[RavdessName, Path], list[str]]:
    """Return the audio-only clips below a folder, sorted by name, and the file names that are no clip.

    A second, identical copy of a clip is ignored (one public mirror of the data holds every file twice).

    Raises:
        DataError: When there is no clip, a clip lies in another actor's folder, or two files of one clip differ.
    """
    clips: dict[RavdessName, Path] = {}
    foreign: list[str] = []
    folders = 0
    for folder, below, files in os.walk(source):
        below.sort()
        actor = re.fullmatch(r"Actor_([0-9]{2})", Path(folder).name)
        if actor is None:
            continue
        folders += 1
        for path in (Path(folder, name) for name in sorted(files)):
            # Files named ._* are what macOS leaves beside the real ones.
            if path.suffix.lower() not in (".wav", ".flac") or path.name.startswith("._"):
                continue
            try:
                name = RavdessName.parse(path.stem)
            except DataError:
                foreign.append(path.name)
                continue
            if name.actor != int(actor[1]):
                raise DataError(
                    f"{path} is of actor {name.actor:02d} but lies in {Path(folder).name}. Move one of them."
                )
            if name.modality != AUDIO_ONLY or name.channel not in _CHANNELS[channel]:
                continue
            known = clips.setdefault(name, path)
            if known != path and not filecmp.cmp(known, path, shallow=False):
                raise DataError(f"{known} and {path} are the same clip with different content. Remove one.")
    if not clips:
        raise DataError(
            f"{source} has no audio-only {channel} clip ({folders} folders named Actor_NN). Give the folder where the "
            "audio archives of Zenodo record 1188976 are unpacked, with files like Actor_12/03-01-06-01-02-01-12.wav."
        )
    return dict(sorted(clips.items())), foreign


@dataclass(frozen=True)
class Face:
    """The face of the clips.

    Attributes:
        by_take: ``(T, units)`` action units by take.
        feature_set: Suffix of the feature set's name.
        source: The layout, in words.
        notes: What was found.
    """

    by_take: dict[str, Floats]
    feature_set: str
    source: str
    notes: list[str]


def read_face(path: Path, takes: Iterable[str]) -> Face:
    """Read the face of some takes: a CSV table with a row per clip, or a folder with a CSV file per clip.

    Raises:
        DataError: When there is nothing at the path, or the files disagree.
    """
    if path.is_file():
        return _face_table(path)
    if path.is_dir():
        return _face_frames(path, set(takes))
    raise DataError(
        f"There is no face at {path}. Give OpenFace's CSV table with a row per clip, or a folder of its files."
    )


def _face_table(path: Path) -> Face:
    table, units = openface.read_clips(path)
    try:
        names = [RavdessName.parse(str(clip)) for clip in table.index]
    except DataError as error:
        raise DataError(f"{path}, column 'clip': {error}") from error
    notes = []
    if "fold" in table:
        own = {actor: fold for fold, actors in enumerate(LUNA5) for actor in actors}
        other = sum(own[name.actor] != fold for name, fold in zip(names, table["fold"], strict=True))
        if other:
            notes.append(f"The fold column of {path.name} differs from luna5 in {other} rows; it is not used.")
    by_take: dict[str, Floats] = {}
    for name, row in zip(names, table[list(units)].to_numpy(np.float32), strict=True):
        if name.take in by_take:
            raise DataError(f"{path} has two rows for the take {name.take}. Keep one.")
        by_take[name.take] = row[None]
    return Face(by_take, "au", f"OpenFace, {len(units)} action units averaged over the clip", notes)


def _face_frames(folder: Path, takes: set[str]) -> Face:
    files: dict[str, Path] = {}
    # By name, not by folder: the file of the full clip (01) comes before that of the silent copy (02).
    for path in sorted(folder.rglob("*.csv"), key=lambda path: (path.name, path)):
        if re.fullmatch(r"[0-9]{2}(-[0-9]{2}){6}", path.stem) and path.stem[3:] in takes:
            files.setdefault(path.stem[3:], path)
    by_take: dict[str, Floats] = {}
    units: tuple[str, ...] = ()
    failed = frames = 0
    for take, path in _progress(sorted(files.items()), "face"):
        values, names, dropped = openface.read_frames(path)
        if units and names != units:
            raise DataError(f"{path} has other action units than the files before it: {names} instead of {units}.")
        units, failed, frames = names, failed + dropped, frames + dropped + len(values)
        if len(values):
            by_take[take] = values
    notes = [f"{failed} of {frames} video frames without a tracked face were dropped."] if failed else []
    return Face(by_take, "auframes", f"OpenFace, {len(units)} action units per tracked video frame", notes)


def split_tables(records: Sequence[Record], channel: Channel) -> SplitTables:
    """Return the actor-disjoint split protocols.

    Raises:
        DataError: When an actor is missing, because the folds would not be those of the protocols.
    """
    speakers = [int(record.speaker) for record in records]
    missing = set(RAVDESS_ACTORS) - set(speakers) - ({NO_SONG} if channel == "song" else set())
    if missing:
        raise DataError(
            f"The actors {sorted(missing)} have no usable clip, but the split protocols need them. Bring all folders."
        )
    return {name: [speaker_table(fold, speakers) for fold in folds] for name, folds in RAVDESS_PROTOCOLS.items()}


def read(
    source: Path,
    *,
    dataset: str = "ravdess",
    face: str = "",
    audio_features: AudioFeatures = "logmel",
    channel: Channel = "speech",
    mels: int = audio.MELS,
    mfccs: int = audio.MFCCS,
    window_ms: float = audio.WINDOW_MS,
    hop_ms: float = audio.HOP_MS,
    trim_db: float = 35.0,
) -> Source:
    """Read RAVDESS.

    Args:
        source: Folder above the ``Actor_NN`` folders of the audio archives.
        dataset: Key of the data set.
        face: OpenFace CSV table with a row per clip, or folder with a CSV file per clip; empty for sound alone.
        audio_features: What is computed from the sound, as sequences.
        channel: Speech (eight classes), song (six) or both.
        mels: Mel bands.
        mfccs: Cepstral coefficients.
        window_ms: Analysis window in milliseconds.
        hop_ms: Time between two steps in milliseconds.
        trim_db: Cut the silence at both ends, below this many dB under the loudest moment; 0 keeps it.

    Raises:
        DataError: When the files are not as described, or more than five per cent of the clips cannot be used.
    """
    clips, foreign = find_clips(Path(source), channel)
    faces = read_face(Path(face), (name.take for name in clips)) if face else None
    if min(mels, mfccs) < 1:
        raise DataError(f"The sound needs one mel band and one MFCC at least, not {mels} and {mfccs}.")
    extractors: dict[str, Callable[[Floats], Floats]] = {
        "logmel": lambda samples: audio.log_mel(samples, audio.RATE, mels, window_ms, hop_ms),
        "mfcc": lambda samples: audio.mfcc(samples, audio.RATE, mfccs, window_ms, hop_ms, mels),
    }
    parts = audio_features.split("+")
    for library in ("soundfile", "librosa"):
        audio.media_library(library)
    faceless = [name.stem for name in clips if faces and name.take not in faces.by_take]
    _refuse_loss(f"have no face in {face}", faceless, len(clips))

    records: list[Record] = []
    undecoded: list[str] = []
    reason = ""
    for name, path in _progress(list(clips.items()), "audio"):
        if name.stem in faceless:
            continue
        try:
            samples = audio.load_audio(path, trim_db=trim_db)
        except DataError as error:
            undecoded.append(name.stem)
            reason = reason or str(error)
            continue
        steps = np.concatenate([extractors[part](samples) for part in parts], axis=1)
        inputs = {"audio": steps} | ({"vision": faces.by_take[name.take]} if faces else {})
        actor = f"{name.actor:02d}"
        statement = STATEMENTS[name.statement - 1]
        records.append(Record(name.stem, inputs, name.emotion - 1, None, actor, actor, statement))
    _refuse_loss("cannot be decoded", undecoded, len(clips), reason)

    expected = {name.stem for name in design(channel)}
    notes = [
        *_note("files with a foreign name were ignored", foreign),
        *_note(f"of {len(expected)} clips are not there", sorted(expected - {name.stem for name in clips})),
        *_note("clips without a face were left out", faceless),
        *_note("clips that do not decode were left out", undecoded),
        *(faces.notes if faces else []),
    ]
    spelled = {"logmel": f"log-mel, {mels} bands", "mfcc": f"{mfccs} MFCC of {mels} bands"}
    sound = " and ".join(spelled[part] for part in parts)
    trim = f", ends below -{trim_db:g} dB cut" if trim_db > 0 else ""
    sources = {"audio": f"{sound}, {audio.RATE} Hz mono, window {window_ms:g} ms, hop {hop_ms:g} ms{trim}"}
    if faces:
        sources["vision"] = faces.source
    feature_set = "-".join([audio_features, *([faces.feature_set] if faces else [])])
    names = EMOTIONS[:SONG_EMOTIONS] if channel == "song" else EMOTIONS
    info = StoreInfo(
        dataset,
        feature_set if channel == "speech" else f"{feature_set}-{channel}",
        TargetSpec("multiclass", names),
        sources,
        notes=tuple(notes),
    )
    return Source(info, records, partial(split_tables, channel=channel))


def _refuse_loss(what: str, lost: list[str], total: int, reason: str = "") -> None:
    if len(lost) > WORST_LOSS * total:
        because = f" The first: {reason}" if reason else ""
        raise DataError(
            f"{len(lost)} of {total} clips {what}, beginning with {', '.join(lost[:3])}; up to "
            f"{WORST_LOSS:.0%} would be left out.{because} Check that all files are of one release."
        )


def _note(what: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return [f"{len(names)} {what}: {', '.join(names[:20])}{more}."] if names else []


def _progress(items: Sequence[Item], what: str) -> Iterable[Item]:
    console = Console(stderr=True)
    return track(items, f"RAVDESS {what}", console=console, transient=True, disable=not console.is_terminal)
