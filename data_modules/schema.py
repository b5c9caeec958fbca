"""The words everything else speaks: modalities, targets, batches.

A *sequence* is one modality of a batch, a *batch* is what a method sees, and a *data spec* tells a method which
modalities, dimensions and targets to expect. Masks are boolean with ``True`` = real; shapes are written ``(B, T, D)``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict
from torch import Tensor

MODALITIES = ("text", "audio", "vision")

ModalityKind = Literal["features", "tokens", "frames", "waveform"]
MEDIA: tuple[ModalityKind, ...] = ("frames", "waveform")
"""The kinds that are too large to be held in memory."""
TargetKind = Literal["regression", "multiclass", "multilabel", "binary"]
MetricFamily = Literal["sentiment", "sims", "affect", "multiclass", "multilabel", "binary"]

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""How what files say is compared with the types of its parts."""


class DataError(ValueError):
    """Something is wrong with a data file or a request for data; the message says what, where and what to do."""


class SplitLocked(RuntimeError):
    """The test split was asked for before the protocol released it."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    """Return the message for a name that does not exist, with the nearest that does."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"There is no {what} {name!r}.{hint} Known: {', '.join(names) or 'none'}."


@dataclass(frozen=True)
class ModalitySpec:
    """One modality of a data set.

    Attributes:
        name: ``text``, ``audio`` or ``vision``.
        dim: Features per step; for ``tokens`` the size of the vocabulary; for ``frames`` the number of channels; 1 for
            a ``waveform``.
        max_length: Steps of the longest sample.
        kind: ``features`` (steps of vectors), ``tokens`` (steps of ids), ``frames`` (steps of images) or ``waveform``
            (steps of sound pressure).
        source: The extractor and its settings, in words.
        unknown: For ``tokens`` the id that stands for a missing one.
        rate: Steps per second of frames and waveforms; 0 where it differs between samples.
        size: Height and width of frames.
    """

    name: str
    dim: int
    max_length: int
    kind: ModalityKind = "features"
    source: str = ""
    unknown: int = 0
    rate: float = 0.0
    size: tuple[int, int] = (0, 0)

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModalitySpec:
        """Return the spec that ``dataclasses.asdict`` turned into plain containers."""
        height, width = values.get("size", (0, 0))
        return cls(**{**values, "size": (height, width)})


@dataclass(frozen=True)
class TargetSpec:
    """What is predicted.

    Attributes:
        kind: ``regression`` (real values), ``multiclass`` (one of ``names``), ``multilabel`` (any of ``names``, one
            logit each) or ``binary`` (each of ``names`` is its own two-way problem with two logits).
        names: Names of the outputs or classes, in the order of the target's columns or ids.
        low: Smallest label on the scale, if it has ends.
        high: Largest label on the scale, if it has ends.
        family: The metric family; by default the one that the kind implies.
    """

    kind: TargetKind
    names: tuple[str, ...]
    low: float | None = None
    high: float | None = None
    family: MetricFamily | None = None

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TargetSpec:
        """Return the spec that ``dataclasses.asdict`` turned into plain containers."""
        return cls(**{**values, "names": tuple(values["names"])})

    @property
    def metric_family(self) -> MetricFamily:
        """The metric family that scores this target."""
        if self.family is not None:
            return self.family
        if self.kind == "regression":
            return "sentiment" if len(self.names) == 1 else "affect"
        return self.kind


@dataclass(frozen=True)
class DataSpec:
    """What a method must know of a data set before it is built.

    Attributes:
        dataset: Key of the data set, such as ``mosi``.
        feature_set: Name of the feature set, such as ``bclstm``.
        protocol: Name of the split protocol, such as ``standard``.
        modalities: Specs by modality name, in the order text, audio, vision.
        target: What is predicted.
        variant: Deviations from the full clean data (subset, corruption), empty for none.
        aligned: Whether all modalities of a sample share one time axis.
        dialogue: Whether a batch element is a dialogue of utterances.
        speakers: Number of speaker roles in a dialogue (0 when unknown).
    """

    dataset: str
    feature_set: str
    protocol: str
    modalities: dict[str, ModalitySpec]
    target: TargetSpec
    variant: str = ""
    aligned: bool = False
    dialogue: bool = False
    speakers: int = 0

    @property
    def track(self) -> str:
        """``<data set>/<feature set>/<split protocol>``: numbers of two tracks never share a table."""
        protocol = f"{self.protocol}+{self.variant}" if self.variant else self.protocol
        return f"{self.dataset}/{self.feature_set}/{protocol}"

    @property
    def media(self) -> tuple[str, ...]:
        """The modalities that are frames or waveforms."""
        return tuple(name for name, modality in self.modalities.items() if modality.kind in MEDIA)

    @property
    def dims(self) -> dict[str, int]:
        """Features per step by modality."""
        return {name: modality.dim for name, modality in self.modalities.items()}

    def select(self, names: tuple[str, ...]) -> DataSpec:
        """Return the same spec with only the named modalities."""
        missing = [name for name in names if name not in self.modalities]
        if missing:
            have = ", ".join(self.modalities)
            raise DataError(f"{self.track} has no modality {', '.join(missing)}; it has: {have}.")
        return replace(self, modalities={name: self.modalities[name] for name in MODALITIES if name in names})

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers, for checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataSpec:
        """Return the spec that :meth:`to_dict` turned into plain containers."""
        modalities = {name: ModalitySpec.from_dict(spec) for name, spec in values["modalities"].items()}
        return cls(**{**values, "modalities": modalities, "target": TargetSpec.from_dict(values["target"])})


@dataclass(eq=False)
class PaddedSequence:
    """One modality of a batch.

    Attributes:
        values: ``(B, T, D)`` features, ``(B, T)`` token ids, ``(B, T, C, H, W)`` frames of whole numbers from 0 to 255,
            or a ``(B, T)`` waveform from -1 to 1; zero beyond the lengths. In dialogues of texts ``(B, T, L)`` token
            ids of ``T`` utterances.
        lengths: ``(B,)`` true lengths.
        steps: ``(B, T)`` tokens of each utterance, in dialogues of texts only.
    """

    values: Tensor
    lengths: Tensor
    steps: Tensor | None = None

    @cached_property
    def mask(self) -> Tensor:
        """``(B, T)`` bool, ``True`` where a step is real."""
        steps = torch.arange(self.values.shape[1], device=self.values.device)
        return steps < self.lengths.to(self.values.device)[:, None]

    def to(self, device: torch.device | str, **kwargs: Any) -> PaddedSequence:
        """Return the sequence on a device."""
        steps = None if self.steps is None else self.steps.to(device, **kwargs)
        return PaddedSequence(self.values.to(device, **kwargs), self.lengths.to(device, **kwargs), steps)


@dataclass(eq=False)
class Batch:
    """What a method sees of some samples.

    Attributes:
        inputs: The modalities that the model may see.
        target: ``(B,)`` or ``(B, C)``; ``(B, T)`` or ``(B, T, C)`` for dialogues.
        index: ``(B,)`` row of each sample in the store, its stable identity; ``(B, T)`` for dialogues.
        complete: The uncorrupted view, when the inputs are corrupted.
        kept: By modality ``(B, T)`` bool, the real steps that survived the corruption; ``(B, T, L)`` of tokens in
            dialogues.
        speaker: ``(B, T)`` speaker role of each utterance, dialogues only.
        target_mask: ``(B, T)`` bool, the utterances that carry a target, dialogues only.
        phase: Name of the phase of training that the batch is for; empty while evaluating.
    """

    inputs: dict[str, PaddedSequence]
    target: Tensor
    index: Tensor
    complete: dict[str, PaddedSequence] | None = None
    kept: dict[str, Tensor] | None = None
    speaker: Tensor | None = None
    target_mask: Tensor | None = None
    phase: str = ""

    @property
    def size(self) -> int:
        """Number of samples (or dialogues)."""
        return self.target.shape[0]

    def to(self, device: torch.device | str, **kwargs: Any) -> Batch:
        """Return the batch on a device."""

        def move(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {key: move(item) for key, item in value.items()}
            return value.to(device, **kwargs) if isinstance(value, Tensor | PaddedSequence) else value

        return Batch(**{field.name: move(getattr(self, field.name)) for field in fields(self)})
