"""What is said of a data set beside its numbers."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

from data_modules.schema import MODALITIES, DataError, TargetKind, unknown_name

Form = Literal["features", "dialogues", "media"]


@dataclass(frozen=True)
class DataCard:
    """The identity of a data set.

    Attributes:
        title: Full name.
        citation: Whom to cite.
        licence: Terms of the data; the files are never part of this project.
        content: What a sample is and what is predicted.
        features: Usual feature sets and where they come from.
        splits: How the split protocols were made.
        defects: Known defects.
        command: What to type to get a store.
        modalities: What the usual feature sets hold.
        task: What is usually predicted.
        forms: What a sample can be had as: feature vectors or sequences, utterances of a dialogue (one vector each), or
            media (sight as frames, sound as a waveform).
    """

    title: str
    citation: str
    licence: str
    content: str
    features: str
    splits: str
    defects: str
    command: str
    modalities: tuple[str, ...] = MODALITIES
    task: TargetKind = "regression"
    forms: tuple[Form, ...] = ("features",)

    def __post_init__(self) -> None:
        """Check the texts, and the names of modalities, task and forms."""
        for item in fields(self):
            given = getattr(self, item.name)
            if item.type == "str" and not isinstance(given, str):
                raise DataError(f"The {item.name} of a card is a text, and here it is {reprlib.repr(given)}.")
        if not self.title:
            raise DataError("A card needs a title.")
        for name, example in (("modalities", ("text", "audio")), ("forms", ("features",))):
            given = getattr(self, name)
            if not isinstance(given, tuple | list) or not given:
                raise DataError(f"The {name} of a card are {reprlib.repr(given)}; give one or more, such as {example}.")
        checks: tuple[tuple[str, Sequence[str], Sequence[str]], ...] = (
            ("modality", self.modalities, MODALITIES),
            ("kind of target", (self.task,), get_args(TargetKind)),
            ("form of samples", self.forms, get_args(Form)),
        )
        for what, given, known in checks:
            for name in given:
                if name not in known:
                    raise DataError(unknown_name(what, name, known))
