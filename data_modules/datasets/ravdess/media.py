"""RAVDESS: the official release on disk as raw media, pictures of the face and the sound as a waveform.

Pictures come from ``Actor_NN/01-....mp4`` (with sound) or ``02-....mp4`` (without), never from both copies of a take;
sound comes from the same 01 file, or alone from ``03-....wav`` (or ``.flac``). The recipe ``cfnsr`` is that of MSAF and
CFN-SR: 30 pictures squashed to 224 x 224, cut to the landmarks of Zenodo record 3255102, and the sound from 0.5 to
2.95 s at 44.1 kHz. Methods take their spectra from the waveform themselves.

What cannot be used is left out and said in the notes; losing more than five per cent of the clips is an error.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from data_modules.datasets.ravdess.names import (
    AUDIO_ONLY,
    FULL,
    SOUND,
    VIDEO,
    VIDEO_ONLY,
    Channel,
    RavdessName,
    check_actors,
    find_clips,
    find_tables,
    missing_takes,
    split_tables,
    target,
)
from data_modules.features.audio import Floats, NoSoundError, sound_recipe, to_int16, waveform_text
from data_modules.features.faces import (
    CentreCrop,
    FaceCropper,
    HaarFace,
    LandmarkCrop,
    NoFaceError,
    pictures_recipe,
    shape_text,
)
from data_modules.features.media import read_media, read_sound
from data_modules.features.sampling import Sampling
from data_modules.importers.clips import FACELESS, ORIGINS, TAKEN, Clip, Decoded, decode_clips, listed, work_folder
from data_modules.importers.common import Source
from data_modules.libraries import optional_library
from data_modules.schema import DataError, ModalityKind
from data_modules.store import Sample, StoreInfo, provenance

Modality = Literal["av", "video", "audio"]
FaceCrop = Literal["none", "centre", "detector", "landmarks"]
Recipe = Literal["whole", "cfnsr"]

FRAMES, SIZE, RATE = 30, 224, 44_100
CFNSR_OFFSET, CFNSR_SECONDS = 0.5, 2.45

KEY = "ravdess_media"
"""What the format is called."""
_WANTED: dict[Modality, dict[int, tuple[str, ...]]] = {
    "av": {FULL: VIDEO},
    "video": {VIDEO_ONLY: VIDEO, FULL: VIDEO},
    "audio": {AUDIO_ONLY: SOUND},
}


@dataclass(frozen=True)
class _Settings:
    """Everything that a decoded clip depends on besides its files; see :func:`read`."""

    modality: Modality
    recipe: Recipe
    frames: int
    every: float
    size: int
    rate: int
    face: FaceCrop

    def __post_init__(self) -> None:
        if self.pictures:
            Sampling(self.frames if not self.every else 0, self.every)
        if self.size < 1 or self.rate < 1:
            raise DataError(f"The size ({self.size}) and the rate ({self.rate}) must be 1 at least.")

    @property
    def pictures(self) -> bool:
        return self.modality != "audio"

    @property
    def sound(self) -> bool:
        return self.modality != "video"

    @property
    def sampling(self) -> Sampling:
        return Sampling(every=self.every) if self.every else Sampling(count=self.frames)

    @property
    def published(self) -> bool:
        """Whether this is the recipe of CFN-SR in all its settings."""
        return self == _Settings("av", "cfnsr", FRAMES, 0.0, SIZE, RATE, "landmarks")

    @property
    def recipes(self) -> dict[str, provenance.Recipe]:
        """By modality how it is made."""
        made = {}
        cut = self.recipe == "cfnsr"
        if self.sound:
            span = {"from_seconds": CFNSR_OFFSET, "seconds": CFNSR_SECONDS} if cut else {}
            made["audio"] = sound_recipe("waveform", self.rate, more=span)
        if self.pictures:
            made["vision"] = pictures_recipe(
                self.sampling, self.size, self.face, **({"squashed_before": True} if cut else {})
            )
        return made

    @property
    def feature_set(self) -> str:
        if self.published:
            return self.recipe
        taken = f"every{self.every:g}s" if self.every else f"frames{self.frames}" if self.frames else "allframes"
        parts: list[str] = [] if self.recipe == "whole" else [self.recipe]
        parts += [taken, str(self.size), self.face] if self.pictures else []
        return "-".join([*parts, *([f"wave{self.rate}"] if self.sound else [])])


def read(
    source: Path,
    *,
    dataset: str = "ravdess",
    modality: Modality = "av",
    channel: Channel = "speech",
    recipe: Recipe = "whole",
    frames: int = FRAMES,
    every: float = 0.0,
    size: int = SIZE,
    rate: int = RATE,
    face: FaceCrop = "centre",
    landmarks: Path | None = None,
    work: Path | None = None,
) -> Source:
    """Read RAVDESS as media.

    Args:
        source: Folder above the ``Actor_NN`` folders of the video archives (or the audio archives).
        dataset: Key of the data set.
        modality: Pictures and sound, pictures alone, or sound alone.
        channel: Speech (eight classes), song (six) or both.
        recipe: Whole clips, or the cut of CFN-SR (with face=landmarks and the other defaults, its published recipe).
        frames: Pictures of a clip, evenly spread from its beginning on; 0 for all.
        every: Seconds between two pictures, instead of a number of them.
        size: Side of the pictures in pixels.
        rate: Samples per second of the sound.
        face: Cut to nothing (squashed), the middle, a face by OpenCV's detector, or OpenFace's landmarks.
        landmarks: Folder with OpenFace's CSV file of each clip, for face=landmarks.
        work: Folder for decoded clips until the store is whole; by default beside it.

    Raises:
        DataError: When the files are not as described, or more than five per cent of the clips cannot be used.
    """
    settings = _Settings(modality, recipe, frames, every, size, rate, face)
    for library in ("av", "soundfile", "librosa"):
        optional_library(library, "Raw media")
    names, foreign = find_clips(Path(source), channel, _WANTED[modality])
    check_actors({name.actor for name in names}, channel)  # now, not after an hour of decoding
    tables = _tables(settings, landmarks, names)
    clips = [
        Clip(name.stem, (path, tables[name.take]) if name.take in tables else (path,)) for name, path in names.items()
    ]
    decoded = decode_clips(
        clips,
        partial(_decode, settings, HaarFace(size) if settings.pictures and face == "detector" else None),
        work or work_folder(Path(source)),
        settings={**asdict(settings), "recipes": {name: one.to_dict() for name, one in settings.recipes.items()}},
        what="RAVDESS clips",
    )
    _refuse_lost_actors(Path(source), names, decoded)
    expected, missing = missing_takes(names, channel)
    notes = [
        *listed("files with a foreign name were ignored", foreign),
        *listed(f"of {expected} clips are not there", missing),
        *decoded.notes,
        *_notes(settings, decoded),
        *(
            _sound_notes({name: path for name, path in names.items() if name.stem in decoded.clips})
            if modality == "audio"
            else []
        ),
    ]
    feature_set = settings.feature_set if channel == "speech" else f"{settings.feature_set}-{channel}"
    kinds: dict[str, ModalityKind] = {}
    if settings.sound:
        kinds["audio"] = "waveform"
    if settings.pictures:
        kinds["vision"] = "frames"
    info = StoreInfo(
        dataset,
        feature_set,
        target(channel),
        _sources(settings),
        kinds,
        rates=_rates(settings, decoded),
        notes=tuple(notes),
        recipes=settings.recipes,
    )
    return Source(info, _samples(decoded, kinds), partial(split_tables, channel=channel))


def _refuse_lost_actors(source: Path, names: Iterable[RavdessName], decoded: Decoded) -> None:
    """Refuse a release of which no clip of some actor can be used: the split protocols need all."""
    usable = {RavdessName.parse(stem).actor for stem in decoded.clips}
    if lost := sorted({name.actor for name in names} - usable):
        reason = next(iter(decoded.lost.values()))
        raise DataError(
            f"{source}: the actors {lost} have no usable clip, but the split protocols need them. The first that "
            f"cannot be used: {reason}"
        )


def _tables(settings: _Settings, landmarks: Path | None, names: Iterable[RavdessName]) -> dict[str, Path]:
    """Return the table of landmarks of each take, when the faces are cut by them."""
    if not settings.pictures or settings.face != "landmarks":
        if landmarks is not None:
            raise DataError(f"The landmarks of {landmarks} would not be used: say face=landmarks, or leave them away.")
        return {}
    if landmarks is None or not landmarks.is_dir():
        raise DataError(
            f"There is no folder of landmarks at {landmarks}. Give the folder where FacialTracking_Actors_01-24.zip of "
            "Zenodo record 3255102 is unpacked, or cut the faces otherwise (face=centre, face=detector)."
        )
    return find_tables(landmarks, {name.take for name in names})


def _decode(settings: _Settings, detector: HaarFace | None, clip: Clip) -> dict[str, npt.NDArray[Any]]:
    """Make the arrays of one clip: its modalities, and the numbers that the notes count."""
    path = clip.files[0]
    if not settings.pictures:
        return {"audio": _waveform(settings, path, read_sound(path, settings.rate))}
    cropper = _cropper(settings, detector, clip)
    # CFN-SR squashes first and cuts then; what is cut from the full picture is sharper.
    squashed = cropper is None or settings.recipe == "cfnsr"
    media = read_media(
        path,
        sampling=settings.sampling,
        size=(settings.size, settings.size) if squashed else None,
        rate=settings.rate if settings.sound else 0,
    )
    pictures, info = media.pictures, media.info
    assert pictures is not None
    assert info is not None
    made = {"fps": np.asarray(info.fps), TAKEN: np.asarray(len(pictures)), FACELESS: np.asarray(0)}
    if media.sound is not None:
        made["audio"] = _waveform(settings, path, media.sound)
    if cropper is not None:
        pictures, found = cropper(pictures, media.times / info.duration)
        if not found.any():
            raise NoFaceError(f"{path} shows no face in any of {len(found)} pictures.")
        made[FACELESS] = np.asarray(int((~found).sum()))
    return made | {"vision": pictures}


def _cropper(settings: _Settings, detector: HaarFace | None, clip: Clip) -> FaceCropper | None:
    if settings.face == "landmarks":
        if len(clip.files) < 2:
            raise NoFaceError(f"{clip.id} has no table of landmarks.")
        return LandmarkCrop(clip.files[1], settings.size)
    return CentreCrop(settings.size) if settings.face == "centre" else detector


def _waveform(settings: _Settings, path: Path, sound: Floats) -> npt.NDArray[np.int16]:
    """Return the sound as a store holds it, cut as the recipe says."""
    if settings.recipe == "cfnsr":
        start = round(CFNSR_OFFSET * settings.rate)
        sound = sound[start : start + round(CFNSR_SECONDS * settings.rate)]
        if not sound.any():
            raise NoSoundError(f"{path} holds no sound from {CFNSR_OFFSET} s on, where the recipe begins.")
    return to_int16(sound)


def _samples(decoded: Decoded, modalities: Iterable[str]) -> Iterator[Sample]:
    for stem, arrays in decoded:
        files = arrays[ORIGINS].tolist()
        # Of the files of a clip the second, the landmarks, concerns its pictures alone.
        origins = {name: provenance.combined(files) if name == "vision" else files[0] for name in modalities}
        yield RavdessName.parse(stem).sample({name: arrays[name] for name in modalities}, origins)


def _rates(settings: _Settings, decoded: Decoded) -> dict[str, float]:
    rates = {"audio": float(settings.rate)} if settings.sound else {}
    if settings.pictures:
        own = set(decoded.column("fps").values()) if not settings.frames else set()
        rates["vision"] = 1 / settings.every if settings.every else own.pop() if len(own) == 1 else 0.0
    return rates


def _sources(settings: _Settings) -> dict[str, str]:
    """Return in words what was taken from the files."""
    sources = {}
    if settings.sound:
        cut = f", {CFNSR_OFFSET} to {CFNSR_OFFSET + CFNSR_SECONDS:g} s" if settings.recipe == "cfnsr" else ""
        sources["audio"] = waveform_text(settings.rate) + cut
    if settings.pictures:
        croppers = {"centre": CentreCrop.text, "detector": HaarFace.text, "landmarks": LandmarkCrop.text}
        steps = [settings.sampling.text, shape_text(croppers.get(settings.face), settings.size)]
        if settings.recipe == "cfnsr" and settings.face in croppers:
            steps.insert(1, shape_text(None, settings.size))
        sources["vision"] = ", ".join(steps)
    return sources


def _notes(settings: _Settings, decoded: Decoded) -> list[str]:
    notes = decoded.faceless
    if settings.recipe == "cfnsr" and not settings.published:
        notes.append("The sound is cut as CFN-SR does, but not all settings are those of its published recipe.")
    return notes


def _sound_notes(names: dict[RavdessName, Path]) -> list[str]:
    """Return what is known to be odd in the sound of the release: clips in stereo, and clips with the same samples."""
    soundfile = optional_library("soundfile")
    stereo = [name.stem for name, path in names.items() if soundfile.info(path).channels > 1]
    alike: dict[str, list[str]] = defaultdict(list)
    for name, path in names.items():
        alike[hashlib.sha256(path.read_bytes()).hexdigest()].append(name.stem)
    pairs = [" = ".join(stems) for stems in alike.values() if len(stems) > 1]
    return [*listed("clips in stereo were averaged to mono", stereo), *listed("groups of clips are identical", pairs)]
