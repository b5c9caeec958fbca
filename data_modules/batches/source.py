"""The samples of a store as batches hold them: tokens made, features standardised, sequences exchanged or corrupted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from data_modules.batches.corruption import Corruption, corrupt, kept_modalities, kept_steps, noise, sample_keys
from data_modules.batches.loading import InMemorySplit, PackedSequences, clip_numbers
from data_modules.batches.normalization import CONSTANT, Normalize, mean_and_deviation, standardise
from data_modules.schema import DataSpec
from data_modules.store import Array, FeatureStore

FULL_SCALE = np.float32(1 << 15)
"""What 1.0 is in samples of 16 bits."""


@dataclass(eq=False)
class SampleSource:
    """Reads rows of a store; it goes to worker processes, so it knows nothing of a trainer.

    Attributes:
        store: Where the samples are.
        spec: What batches may hold.
        modalities: The modalities of the store, also those that batches do not hold: what goes missing is decided over
            all, so that a run on some of them misses the same ones.
        training: ``(N,)`` rows whose statistics standardise.
        normalize: ``train`` standardises features, ``none`` leaves them.
        corruption: What goes missing, gets noisy or is exchanged.
        donors: ``(N,)`` by row of the store, whose sequence it has in the exchanged modality.
        tokens: Token ids ``(sum T,)`` and offsets of the transcripts, where a tokenizer made text of them.
        scales: By modality mean and deviation of each feature; the missing ones are computed when they are needed.
    """

    store: FeatureStore
    spec: DataSpec
    modalities: tuple[str, ...]
    training: Array
    normalize: Normalize
    corruption: Corruption
    donors: Array
    tokens: tuple[Array, Array] | None = None
    scales: dict[str, tuple[Array, Array]] = field(default_factory=dict)

    def split(self, rows: Array, names: Collection[str]) -> InMemorySplit:
        """Return samples in memory.

        Args:
            rows: ``(N,)`` rows of the store.
            names: Which modalities of the spec.
        """
        keys = sample_keys(self.store.ids[rows])
        present = kept_modalities(keys, self.modalities, self.corruption)
        complete: dict[str, PackedSequences] = {}
        inputs: dict[str, PackedSequences] = {}
        kept: dict[str, PackedSequences] = {}
        for name in names:
            modality = self.spec.modalities[name]
            values, offsets = self._read(name, self._from(name, rows))
            spans = torch.from_numpy(offsets)
            if self.normalize == "train" and modality.kind == "features":
                mean, scale = self.scale(name)
                values = standardise(values, mean, scale)
            if modality.kind == "waveform":
                values = values.astype(np.float32) / (FULL_SCALE if values.dtype == np.int16 else 1.0)
            complete[name] = PackedSequences.of(torch.from_numpy(values), spans)
            if not self.corruption.damages:
                continue
            tokens = modality.kind == "tokens"
            steps = kept_steps(keys, offsets, name, self.corruption, tokens=tokens, present=present[name])
            added = None
            if self.corruption.noise and modality.kind == "features":
                added = noise(keys, offsets, name, modality.dim, self.corruption)
                scale = self.scale(name)[1]
                added = added * (scale >= CONSTANT if self.normalize == "train" else scale)
            inputs[name] = PackedSequences.of(torch.from_numpy(corrupt(values, steps, added, modality.unknown)), spans)
            kept[name] = PackedSequences.of(torch.from_numpy(steps), spans)
        return InMemorySplit(
            inputs=inputs or complete,
            target=torch.from_numpy(self.store.targets[rows]),
            index=torch.from_numpy(rows),
            complete=complete if inputs else None,
            kept=kept or None,
            **self._dialogues(rows),
        )

    def sizes(self, rows: Array) -> Array:
        """Return ``(N,)`` steps of samples over all modalities of the spec."""
        return np.sum([np.diff(self._offsets(name))[self._from(name, rows)] for name in self.spec.modalities], axis=0)

    def scale(self, name: str) -> tuple[Array, Array]:
        """Return mean and standard deviation of each feature of a modality over the steps of the training split."""
        if name not in self.scales:
            values, _ = self._read(name, self.training)
            self.scales[name] = mean_and_deviation(values, f"{self.store.path} has {name} features")
        return self.scales[name]

    def preparation(self, names: Collection[str]) -> dict[str, Any]:
        """Return how the inputs of modalities are prepared, as plain containers and tensors."""
        scales = {
            name: tuple(torch.from_numpy(part) for part in self.scale(name))
            for name in names
            if self.normalize == "train" and self.spec.modalities[name].kind == "features"
        }
        return {"normalize": self.normalize, "scales": scales}

    @staticmethod
    def scales_of(preparation: Mapping[str, Any]) -> dict[str, tuple[Array, Array]]:
        """Return the scales that :meth:`preparation` turned into plain containers and tensors."""
        return {name: (mean.numpy(), scale.numpy()) for name, (mean, scale) in preparation["scales"].items()}

    def _from(self, name: str, rows: Array) -> Array:
        """Return the rows whose sequences some samples have in a modality."""
        return self.donors[rows] if name == self.corruption.shuffled else rows

    def _read(self, name: str, rows: Array) -> tuple[Array, Array]:
        if name == "text" and self.tokens:
            values, offsets = self.tokens
            spans = [values[offsets[row] : offsets[row + 1]] for row in rows]
            return np.concatenate(spans), np.concatenate([[0], np.cumsum([len(span) for span in spans])])
        return self.store.read(name, rows)

    def _offsets(self, name: str) -> Array:
        return self.tokens[1] if name == "text" and self.tokens else self.store.offsets[name]

    def _dialogues(self, rows: Array) -> dict[str, Any]:
        if not self.spec.dialogue:
            return {}
        _, groups = np.unique(self.store.groups[rows].astype(str), return_inverse=True)
        order = np.lexsort((clip_numbers(self.store.groups[rows], self.store.ids[rows]), groups))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(groups))])
        roles = {name: role for role, name in enumerate(sorted(set(self.store.speakers)))}
        return {
            "dialogues": PackedSequences.of(torch.from_numpy(order), torch.from_numpy(offsets)),
            "speaker": torch.tensor([roles[name] for name in self.store.speakers[rows]]),
        }
