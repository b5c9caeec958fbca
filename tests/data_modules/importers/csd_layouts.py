"""Small computational sequences of exactly the layout that the CMU-MultimodalSDK writes, and a naive alignment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_modules.formats import import_store
from data_modules.store import FeatureStore

EPSILON = 10e-6
Rows = list[tuple[float, float, list[float]]]
"""Start, end and features of each row of a video."""


def write_csd(
    path: Path,
    root: str,
    entries: Mapping[str, tuple[np.ndarray, np.ndarray]],
    metadata: str = "json",
    compressed: bool = True,
) -> Path:
    """Write one sequence: ``{key: (features, intervals)}``; metadata as JSON (SDK 1.2) or plain (older)."""
    packing = {"compression": "gzip", "compression_opts": 9} if compressed else {}
    with h5py.File(path, "w") as file:
        group = file.create_group(root)
        data = group.create_group("data")
        for key, (features, intervals) in entries.items():
            entry = data.create_group(key)
            entry.create_dataset("features", data=features, **packing)
            entry.create_dataset("intervals", data=intervals, **packing)
        meta = group.create_group("metadata")
        said = {
            "root name": root,
            "computational sequence description": "made for a test",
            "computational sequence version": "1.0",
            "alignment compatible": "yes",
            "dataset name": "TEST",
            "md5": None,
        }
        for key, value in said.items():
            meta.create_dataset(key, (1,), dtype=h5py.string_dtype())
            meta[key][0] = json.dumps(value) if metadata == "json" else str(value)
    return path


def tokens(words: list[str]) -> np.ndarray:
    """Words as the SDK has them: (T, 1) bytes of a width that differs between videos."""
    return np.array([[word.encode()] for word in words])


@dataclass
class World:
    """The same four videos in words, audio at 100 Hz, vision at 30 frames per second, and labels.

    Attributes:
        words: By video start, end and word.
        audio: By video its rows, of 3 columns.
        vision: By video its rows, of 2 columns.
        segments: By video start, end and the seven labels of each segment.
    """

    words: dict[str, list[tuple[float, float, str]]] = field(default_factory=dict)
    audio: dict[str, Rows] = field(default_factory=dict)
    vision: dict[str, Rows] = field(default_factory=dict)
    segments: dict[str, list[tuple[float, float, list[float]]]] = field(default_factory=dict)

    def write(self, folder: Path, columns: int = 1) -> Path:
        """Write words, audio, vision and labels (one column, or seven) under the names of the release."""
        folder.mkdir(exist_ok=True)
        words = {
            video: (tokens([word for *_, word in rows]), np.array([row[:2] for row in rows]))
            for video, rows in self.words.items()
        }
        write_csd(folder / "CMU_MOSI_TimestampedWords.csd", "words", words)
        write_csd(folder / "CMU_MOSI_COVAREP.csd", "COAVAREP", entries(self.audio), metadata="plain")
        write_csd(folder / "CMU_MOSI_Visual_Facet_41.csd", "FACET 4.1", entries(self.vision), compressed=False)
        labels = {video: [(a, b, c[:columns]) for a, b, c in rows] for video, rows in self.segments.items()}
        write_csd(folder / "CMU_MOSI_Opinion_Labels.csd", "Opinion Segment Labels", entries(labels))
        return folder


def entries(rows: Mapping[str, Rows]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        video: (np.array([r[2] for r in own], np.float32), np.array([r[:2] for r in own]))
        for video, own in rows.items()
    }


VIDEOS = {"03bSnISJMiM": "train", "_dI--eQ6qVU": "valid", "c7UH_rxdZv4": "test", "0h-zjBukYpk": "train"}
"""Four videos of CMU-MOSI and their parts in the standard folds."""


def make_world(seed: int = 0, segments: int = 6) -> World:
    """Return four videos of ``segments`` segments of about four words each, with a pause before each word."""
    rng = np.random.default_rng(seed)
    world = World()
    for video in VIDEOS:
        clock, spoken = 0.5, []
        for number in range(segments * 4):
            pause, length = rng.uniform(0.05, 0.2), rng.uniform(0.1, 0.5)
            spoken += [(clock, clock + pause, "sp"), (clock + pause, clock + pause + length, f"word{number % 7}")]
            clock += pause + length
        end = clock + 0.5
        world.words[video] = spoken
        for name, rate, dim in (("audio", 100, 3), ("vision", 30, 2)):
            times = np.arange(0, end, 1 / rate)
            values = rng.normal(size=(len(times), dim)).astype(np.float32)
            rows = [(float(t), float(t + 1 / rate), v.tolist()) for t, v in zip(times, values, strict=True)]
            getattr(world, name)[video] = rows
        # Borders fall into words, and nobody labelled the first and the last moments.
        borders = np.linspace(0.6, clock - 0.1, segments + 1)
        world.segments[video] = [
            (float(a), float(b), [round(float(rng.uniform(-3, 3)), 1), *rng.choice([0, 1 / 3, 2], 6).tolist()])
            for a, b in pairwise(borders)
        ]
    return world


def naive_overlap(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether two spans share more than the SDK's epsilon."""
    return min(a[1], b[1]) - max(a[0], b[0]) > EPSILON


def naive_words(world: World, video: str, segment: tuple[float, float], pauses: bool = False) -> list[int]:
    """Numbers of the words of a segment, by looking at every word."""
    return [
        number
        for number, (start, end, word) in enumerate(world.words[video])
        if naive_overlap((start, end), segment) and (pauses or word != "sp")
    ]


def naive_mean(rows: Rows, span: tuple[float, float], dim: int) -> list[float]:
    """Mean of all rows in a span, by looking at every row; zeros where there are none."""
    inside = [values for start, end, values in rows if naive_overlap((start, end), span)]
    return [sum(values[k] for values in inside) / len(inside) if inside else 0.0 for k in range(dim)]


def bring(tmp_path: Path, source: Path, dataset: str = "mosi", **options: Any) -> FeatureStore:
    return import_store("csd", source, tmp_path / "out.h5", dataset=dataset, options=options)


def steps(store: FeatureStore, name: str, row: int) -> np.ndarray:
    return store.read(name, np.array([row]))[0]


def ordered(world: World) -> list[tuple[str, int, tuple[float, float], list[float]]]:
    """Video, number, span and labels of all segments, in the order of the store."""
    return [(v, k, (a, b), labels) for v in sorted(VIDEOS) for k, (a, b, labels) in enumerate(world.segments[v])]
