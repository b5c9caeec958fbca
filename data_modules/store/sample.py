"""What goes into a store: its samples, one at a time, and what is said of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from data_modules.schema import ModalityKind, TargetSpec
from data_modules.store.header import Array
from data_modules.store.provenance import Recipe

UNLABELLED = TargetSpec("regression", ())
"""The target of clips that nobody has labelled: nothing, in ``(N, 0)`` numbers."""


@dataclass
class Sample:
    """One sample on its way into a store.

    Attributes:
        id: Stable name, such as ``video[clip]``.
        inputs: By modality ``(T, D)`` features, ``(T,)`` token ids, ``(T, 3, H, W)`` frames (RGB, uint8) or a ``(T,)``
            waveform (int16, or float16 from -1 to 1), without padding.
        target: A number, or one per output.
        split: ``train``, ``valid``, ``test``, or None when the splits come from elsewhere or the sample is unused.
        group: Video or dialogue that the sample is part of.
        speaker: Speaker or actor.
        transcript: What is said.
        origins: By modality that has a recipe the SHA-256 of what the inputs were computed from.
    """

    id: str
    inputs: dict[str, Array]
    target: float | Array
    split: str | None = None
    group: str = ""
    speaker: str = ""
    transcript: str = ""
    origins: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StoreInfo:
    """What is said of all samples together.

    Attributes:
        dataset: Key of the data set.
        feature_set: Name of the feature set.
        target: What the targets mean; :data:`UNLABELLED` where there are none.
        sources: By modality the extractor and its settings, in words.
        kinds: By modality its kind, where it is not ``features``.
        sizes: By modality the size of the vocabulary, for tokens.
        unknown: By modality the id that stands for a missing token.
        rates: By modality the steps per second, for frames and waveforms where it is one for all.
        aligned: Whether the modalities of a sample share one time axis.
        notes: What the importer found worth saying.
        recipes: By modality how its values are computed, where that is done here; values without a recipe are those of
            others, or the same on every processor, and count as they are.
        libraries: By package the version that made what is taken from another store.
    """

    dataset: str
    feature_set: str
    target: TargetSpec
    sources: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, ModalityKind] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)
    rates: Mapping[str, float] = field(default_factory=dict)
    aligned: bool = False
    notes: tuple[str, ...] = ()
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
