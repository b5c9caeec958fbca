"""One's own clips to a store: a folder of videos or sound files, and what is said in them, by named extractors.

The store has no labels: `mmbench predict` scores it with a method that was trained on the same features. A clip that
lacks what is wanted (sound, a face, a transcript, any length at all) is named with its reason and left out; the others
go on. What is decoded stays on disk until the store is whole, so that a run that was stopped continues.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from data_modules.features.audio import (
    HOP_MS,
    MELS,
    MFCCS,
    RATE,
    WINDOW_MS,
    Floats,
    log_mel,
    mfcc,
    sound_recipe,
    to_int16,
    trim,
    waveform_text,
)
from data_modules.features.encoders import ImageEncoder, TextEncoder, title
from data_modules.features.faces import CentreCrop, FaceCropper, HaarFace, NoFaceError, pictures_recipe, shape_text
from data_modules.features.media import (
    Media,
    Pictures,
    read_media,
    read_sound,
    resize,
)
from data_modules.features.sampling import Sampling
from data_modules.files import WriteError
from data_modules.importers.clips import (
    ORIGINS,
    Clip,
    Decoded,
    NoTranscriptError,
    decode_clips,
    discard,
    listed,
    work_folder,
)
from data_modules.importers.own_clips import find_clips, read_transcripts
from data_modules.importers.transcripts import flaw_of
from data_modules.libraries import optional_library
from data_modules.names import LONGEST, check_name
from data_modules.schema import DataError, ModalityKind
from data_modules.store import UNLABELLED, Array, FeatureStore, Sample, StoreInfo, check_output, write_store
from data_modules.store.provenance import Recipe, digest

NONE = "none"

AudioExtractor = Literal["none", "logmel", "mfcc", "waveform"]
Face = Literal["none", "centre", "detector"]


@dataclass(frozen=True)
class Extractors:
    """What is made of a clip.

    Attributes:
        text: ``none``, or a Hugging Face encoder (name or folder) that reads the transcripts.
        audio: ``logmel`` (64 bands in dB) or ``mfcc`` (20), every 25 ms at 16 kHz; ``waveform``; or ``none``.
        vision: ``frames``, a Hugging Face image encoder (name or folder), or ``none``.
        face: What is cut out of each picture: ``none`` squashes it whole, ``centre`` takes the middle square, and
            ``detector`` the face that OpenCV finds.
        every: Seconds from one picture to the next; 0 for all pictures.
        frames: Take this many pictures, evenly spread, instead.
        size: Side of the pictures in pixels.
        rate: Samples per second of a waveform.
        trim_db: Cut the silence at both ends of the sound, below this many dB under the loudest moment; 0 keeps it.
    """

    text: str = NONE
    audio: AudioExtractor = "logmel"
    vision: str = "frames"
    face: Face = "centre"
    every: float = 0.5
    frames: int = 0
    size: int = 224
    rate: int = RATE
    trim_db: float = 0.0

    def __post_init__(self) -> None:
        """Check that there is something to extract, and how."""
        if {self.text, self.audio, self.vision} == {NONE}:
            raise DataError("Text, audio and vision are all none: name an extractor for one of them.")
        if self.size < 1 or self.rate < 1:
            raise DataError(f"The size ({self.size}) and the rate ({self.rate}) must be 1 at least.")
        if not 0 <= self.trim_db < float("inf"):
            raise DataError(f"Ends of {self.trim_db:g} dB cannot be cut: give a number above 0, or 0 to keep them.")
        _ = self.sampling  # refuses what makes no sense

    @property
    def sampling(self) -> Sampling | None:
        """Which pictures are taken; None for none."""
        return None if self.vision == NONE else Sampling(self.frames, 0.0 if self.frames else self.every)

    @property
    def sound_rate(self) -> int:
        """Samples per second that are decoded; 0 for no sound."""
        return {"none": 0, "waveform": self.rate}.get(self.audio, RATE)

    @property
    def feature_set(self) -> str:
        """Name of the feature set: the extractors, joined."""
        names = [title(name) for name in (self.text, self.audio, self.vision) if name != NONE]
        return re.sub(r"[^\w.+-]+", "_", "-".join(names)).lstrip(".+-")[:LONGEST]

    @cached_property
    def text_encoder(self) -> TextEncoder:
        """The encoder of transcripts."""
        return TextEncoder(self.text)

    @cached_property
    def image_encoder(self) -> ImageEncoder:
        """The encoder of pictures."""
        return ImageEncoder(self.vision)

    @cached_property
    def cropper(self) -> FaceCropper | None:
        """What cuts the pictures; None leaves them whole."""
        return {"none": lambda size: None, "centre": CentreCrop, "detector": HaarFace}[self.face](self.size)

    def info(self) -> tuple[dict[str, str], dict[str, ModalityKind], dict[str, float]]:
        """Return by modality the extractor in words, the kind where it is not features, and the rate of media."""
        sources: dict[str, str] = {}
        kinds: dict[str, ModalityKind] = {}
        rates: dict[str, float] = {}
        if self.text != NONE:
            sources["text"] = self.text_encoder.text
        if self.audio == "waveform":
            sources["audio"], kinds["audio"], rates["audio"] = waveform_text(self.rate), "waveform", float(self.rate)
        elif self.audio != NONE:
            # In the words of the importer of RAVDESS, or `mmbench predict` would take it for something else.
            bands = f"log-mel, {MELS} bands" if self.audio == "logmel" else f"{MFCCS} MFCC of {MELS} bands"
            sources["audio"] = f"{bands}, {RATE} Hz mono, window {WINDOW_MS:g} ms, hop {HOP_MS:g} ms"
        if "audio" in sources and self.trim_db:
            sources["audio"] += f", ends below -{self.trim_db:g} dB cut"
        if self.sampling:
            shape = shape_text(self.cropper.text if self.cropper else None, self.size)
            sources["vision"] = f"{self.sampling.text}, {shape}"
            if self.vision == "frames":
                kinds["vision"], rates["vision"] = "frames", 1 / self.sampling.every if self.sampling.every else 0.0
            else:
                sources["vision"] = f"{self.image_encoder.text}; {sources['vision']}"
        return sources, kinds, rates

    @property
    def recipes(self) -> dict[str, Recipe]:
        """By modality how it is made."""
        made: dict[str, Recipe] = {}
        if self.text != NONE:
            made["text"] = self.text_encoder.recipe
        if self.audio != NONE:
            made["audio"] = sound_recipe(self.audio, self.sound_rate, trim_db=self.trim_db)
        if self.sampling:
            pictures = pictures_recipe(self.sampling, self.size, self.face)
            made["vision"] = pictures if self.vision == "frames" else self.image_encoder.recipe(pictures)
        return made

    def __call__(self, path: Path, transcript: str) -> dict[str, Array]:
        """Return the inputs of one clip, which is decoded once.

        Raises:
            DataError: When the clip lacks what is wanted.
        """
        inputs: dict[str, Array] = {}
        if self.text != NONE and not transcript:
            raise NoTranscriptError(f"{path} has no transcript: give one beside it ({path.stem}.txt) or in the table.")
        media = self._decode(path)
        if self.text != NONE:
            inputs["text"] = self.text_encoder(transcript)
        if media.sound is not None:
            inputs["audio"] = self._heard(media.sound)
        if media.pictures is not None:
            inputs["vision"] = self._seen(path, media)
        return inputs

    def _decode(self, path: Path) -> Media:
        if self.sampling is None:
            sound = read_sound(path, self.sound_rate) if self.sound_rate else None
            return Media(None, np.zeros(0), None, sound)
        # A face is looked for in the clip as a whole; otherwise pictures are made small as they are decoded.
        size = None if self.face == "detector" else (self.size, self.size)
        return read_media(path, sampling=self.sampling, size=size, shrink=self._shrink, rate=self.sound_rate)

    def _shrink(self, pictures: Pictures, size: tuple[int, int]) -> Pictures:
        return self.cropper(pictures).pictures if self.cropper else resize(pictures, size)

    def _heard(self, sound: Floats) -> Array:
        sound = trim(sound, self.trim_db)
        if self.audio == "waveform":
            return to_int16(sound)
        return (log_mel if self.audio == "logmel" else mfcc)(sound, RATE)

    def _seen(self, path: Path, media: Media) -> Array:
        pictures = media.pictures
        assert pictures is not None
        assert media.info is not None
        if self.cropper and self.face == "detector":
            pictures, found = self.cropper(pictures, media.times / media.info.duration)
            if not found.any():
                raise NoFaceError(f"{path} shows no face in any of {len(pictures)} pictures. Give --face centre.")
        return pictures if self.vision == "frames" else self.image_encoder(pictures)


def extract_store(
    sources: Sequence[Path],
    out: Path,
    extractors: Extractors,
    *,
    transcripts: Path | None = None,
    dataset: str = "own",
) -> FeatureStore:
    """Make a store without labels of one's own clips.

    Args:
        sources: Clips and folders of clips.
        out: The store to make or replace.
        extractors: What is made of each clip.
        transcripts: Table of what is said; see :func:`read_transcripts`.
        dataset: Key of the data set in the store.

    Returns:
        The store, open for reading; its notes say which clips were left out and why.

    Raises:
        DataError: When no clip can be used, an extractor cannot be had, or something else is where the store would be.
    """
    check_output(out)
    check_name("data set", dataset, "the option dataset")
    clips, others = find_clips(sources, sound_alone=extractors.vision == NONE)
    texts = read_transcripts(transcripts, clips)
    # Before hours of decoding, whatever is not installed says so.
    for library in ("av", "soundfile", "librosa"):
        optional_library(library, "Making a store of clips")
    described, recipes = extractors.info(), extractors.recipes
    folder = work_folder(out)
    decoded = decode_clips(
        [
            Clip(name, (path,), flaw_of(texts.get(name, ""), transcripts or path.with_suffix(".txt")))
            for name, path in clips.items()
        ],
        lambda clip: extractors(clip.files[0], texts.get(clip.id, "")),
        folder,
        settings={
            **asdict(extractors),
            "texts": texts if extractors.text != NONE else {},
            "recipes": {name: recipe.to_dict() for name, recipe in recipes.items()},
        },
        worst_loss=1.0,
    )
    notes = [
        *listed("files are no clips of this kind and were ignored", others),
        *decoded.notes,
        *_without_text(texts, decoded),
    ]
    sources_by_modality, kinds, rates = described
    info = StoreInfo(
        dataset,
        extractors.feature_set,
        UNLABELLED,
        sources=sources_by_modality,
        kinds=kinds,
        rates=rates,
        notes=tuple(notes),
        recipes=recipes,
    )
    try:
        store = write_store(out, info, _samples(decoded, texts), splits=lambda _: {})
    except WriteError as error:
        raise DataError(f"{error} What is decoded is kept in {folder}.") from error
    discard(folder)
    return store


def _samples(decoded: Decoded, texts: Mapping[str, str]) -> Iterator[Sample]:
    for name, arrays in decoded:
        said, file = texts.get(name, ""), arrays.pop(ORIGINS).item(0)
        origins = {modality: digest(said) if modality == "text" else file for modality in arrays}
        yield Sample(name, arrays, np.zeros(0), transcript=said, origins=origins)


def _without_text(texts: Mapping[str, str], decoded: Decoded) -> list[str]:
    silent: list[str] = [name for name in decoded.clips if name not in texts]
    return listed("clips have no transcript", silent) if texts else []
