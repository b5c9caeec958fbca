"""Tiny files of exactly the published layouts, made from one content, so that importers can be held against it."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.store import FeatureStore

DIMS = {"text": 16, "audio": 5, "vision": 20}
ALIGNED = {"text": 50, "audio": 50, "vision": 50}
UNALIGNED = {"text": 50, "audio": 75, "vision": 100}
SIZES = {"train": 6, "valid": 4, "test": 4}


@dataclass
class Sample:
    """What a sample is, before any padding."""

    video: str
    clip: str
    inputs: dict[str, np.ndarray]
    label: float
    words: list[str]

    @property
    def id(self) -> str:
        return f"{self.video}[{self.clip}]"


Content = dict[str, list[Sample]]


def make_content(limits: dict[str, int], dims: dict[str, int] = DIMS, seed: int = 0) -> Content:
    """Return samples of 1 step, of all steps, and of lengths between, one of them with an infinite value."""
    rng = np.random.default_rng(seed)
    aligned = len(set(limits.values())) == 1
    content: Content = {}
    for split, size in SIZES.items():
        content[split] = []
        for row in range(size):
            words = {0: 1, 1: limits["text"]}.get(row, int(rng.integers(2, limits["text"])))
            steps = {m: words if aligned or m == "text" else min(limit, words + row) for m, limit in limits.items()}
            inputs = {m: rng.standard_normal((steps[m], dims[m])).astype(np.float32) for m in limits}
            if row == 2:
                inputs["audio"][0, 0] = -np.inf
            label = round(float(rng.integers(-15, 16)) * 0.2, 1)
            # One video per two clips; names with underscores and hyphens, of 11 characters as YouTube's.
            video = f"_dI--{split[:2]}_{row // 2:03d}"
            content[split].append(Sample(video, str(row), inputs, label, [f"word{i}" for i in range(words)]))
    return content


def pad(samples: list[Sample], name: str, limit: int, side: str) -> np.ndarray:
    """Return ``(N, limit, D)`` with zeros on one side."""
    out = np.zeros((len(samples), limit, samples[0].inputs[name].shape[1]), np.float32)
    for row, sample in enumerate(samples):
        values = sample.inputs[name]
        out[row, limit - len(values) :] = values if side == "left" else 0
        if side == "right":
            out[row] = 0
            out[row, : len(values)] = values
    return out


def mmsa(content: Content, limits: dict[str, int], side: str = "right", bert: bool = True) -> dict[str, Any]:
    """Form A: MMSA pickles; stored lengths in unaligned files only, as there."""
    out: dict[str, Any] = {}
    for split, samples in content.items():
        part: dict[str, Any] = {name: pad(samples, name, limit, side) for name, limit in limits.items()}
        part["raw_text"] = [" ".join(sample.words) for sample in samples]
        part["id"] = [f"{sample.video}$_${sample.clip}" for sample in samples]
        part["regression_labels"] = np.array([sample.label for sample in samples])
        part["classification_labels"] = np.array([1.0] * len(samples))
        part["annotations"] = ["Neutral"] * len(samples)
        if len(set(limits.values())) > 1:
            for name in ("audio", "vision"):
                part[f"{name}_lengths"] = [len(sample.inputs[name]) for sample in samples]
        if bert:
            part["text_bert"] = np.zeros((len(samples), 3, limits["text"]), np.float64)
            for row, sample in enumerate(samples):
                words = len(sample.inputs["text"])
                part["text_bert"][row, 0, :words] = 1000 + np.arange(words)
                part["text_bert"][row, 1, :words] = 1
        out[split] = part
    return out


def mult(content: Content, limits: dict[str, int], ids: str = "mosi") -> dict[str, Any]:
    """Form B: MulT pickles, zeros on the left."""
    out: dict[str, Any] = {}
    for split, samples in content.items():
        part: dict[str, Any] = {name: pad(samples, name, limit, "left").astype(float) for name, limit in limits.items()}
        part["labels"] = np.array([sample.label for sample in samples]).reshape(-1, 1, 1)
        if ids == "mosi":
            part["id"] = np.array([[f"{s.video}_{s.clip}".encode(), b"0.5", b"2.25"] for s in samples])
        elif ids == "mosei":
            part["id"] = np.array([[s.video, f"{s.clip}.5", "9.75"] for s in samples])
        out[split] = part
    return out


def words_item(sample: Sample, ids: bool, label: Any) -> tuple[Any, ...]:
    """One sample of forms C1 (MAG) and C2 (MISA)."""
    features: tuple[Any, ...] = (sample.words, sample.inputs["vision"], sample.inputs["audio"])
    if ids:
        features = (np.arange(len(sample.words)), *features[1:], sample.words)
    return features, label, sample.id


def dump(path: Path, content: Any, protocol: int = 4) -> Path:
    """Write a pickle."""
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def clean(values: np.ndarray) -> np.ndarray:
    """Return features as the store is to hold them."""
    return np.where(np.isfinite(values), values, 0).astype(np.float32)


def check(store: FeatureStore, content: Content, modalities: tuple[str, ...] = ("text", "audio", "vision")) -> None:
    """Hold a store against the content that its source was made from."""
    samples = [(split, sample) for split, part in content.items() for sample in part]
    assert store.ids.tolist() == [sample.id for _, sample in samples]
    assert store.groups.tolist() == [sample.video for _, sample in samples]
    np.testing.assert_allclose(store.targets, [sample.label for _, sample in samples], rtol=1e-6)
    assert tuple(store.modalities) == modalities
    for name in modalities:
        for row, (_, sample) in enumerate(samples):
            values, _ = store.read(name, np.array([row]))
            np.testing.assert_array_equal(values, clean(sample.inputs[name]))
    rows = store.rows("standard", 0)
    for split, part in content.items():
        assert store.ids[rows[split]].tolist() == [sample.id for sample in part]
    store.verify()
