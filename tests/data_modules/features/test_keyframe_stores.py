"""Stores that keep only the key frames of another one."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from data_modules.features import keyframes
from data_modules.features.keyframes import audio_guided_keyframes, even_frames, keyframe_store
from data_modules.features.modes import RATE
from data_modules.schema import DataError, TargetSpec
from data_modules.store import FORMAT, FeatureStore, Recipe, Sample, StoreInfo, write_store
from tests.data_modules.media_files import noise
from tests.data_modules.stores import another_processor

pytest.importorskip("librosa")
pytest.importorskip("soundfile")


TARGET = TargetSpec("multiclass", ("sad", "happy"))
KINDS = {"vision": "frames", "audio": "waveform"}


def source(path: Path, sounds: list[np.ndarray], **options: object) -> FeatureStore:
    """Write clips of 16 + n frames with the given sounds."""
    random = np.random.default_rng(0)
    records = []
    for number, sound in enumerate(sounds):
        inputs = {
            "text": random.normal(size=(3, 4)),
            "audio": np.rint(sound * 32768).astype(np.int16),
            "vision": random.integers(0, 256, (16 + number, 3, 5, 4), dtype=np.uint8),
        }
        if "vision" not in options.get("kinds", KINDS):
            inputs["vision"] = inputs["vision"][..., 0, 0]
        split = ("train", "valid", "test")[number % 3]
        origins = dict.fromkeys(options.get("recipes", ()), f"{number:064}")
        records.append(
            Sample(f"clip{number}", inputs, number % 2, split, f"film{number // 2}", "ann", f"says {number}", origins)
        )
    rates = {"audio": RATE, "vision": 16.0}
    info = {"kinds": KINDS, "rates": rates, "sources": {"vision": "every frame"}, "notes": ("Two words.",)} | options
    return write_store(path, StoreInfo(**{"dataset": "toy", "feature_set": "raw", "target": TARGET} | info), records)


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> tuple[FeatureStore, FeatureStore]:
    """Four clips, the second silent, and the store of their key frames."""
    folder = tmp_path_factory.mktemp("keyframes")
    raw = source(folder / "raw.h5", [noise(22_050), np.zeros(22_050), noise(22_050, 1), noise(33_000, 2)])
    return raw, keyframe_store(raw.path, folder / "key.h5")


def rows_of(store: FeatureStore, name: str) -> list[np.ndarray]:
    return [store.read(name, np.array([row]))[0] for row in range(len(store))]


def test_key_frames_are_those_of_the_choice(stores):
    raw, key = stores
    for row, (frames, kept, sound) in enumerate(
        zip(rows_of(raw, "vision"), rows_of(key, "vision"), rows_of(raw, "audio"), strict=True)
    ):
        chosen = even_frames(len(frames)) if row == 1 else audio_guided_keyframes(sound, RATE, len(frames), fps=16.0)
        np.testing.assert_array_equal(kept, frames[chosen])
        assert kept.dtype == np.uint8


def test_everything_else_stays(stores):
    raw, key = stores
    for name in ("text", "audio"):
        for before, after in zip(rows_of(raw, name), rows_of(key, name), strict=True):
            np.testing.assert_array_equal(before, after)
        assert key.modalities[name] == raw.modalities[name]
    for column in ("ids", "groups", "speakers", "transcripts", "targets"):
        np.testing.assert_array_equal(getattr(raw, column), getattr(key, column))
    assert list(key.splits) == list(raw.splits)
    np.testing.assert_array_equal(key.splits["standard"], raw.splits["standard"])
    assert key.target == raw.target


def test_the_store_says_what_it_holds(stores):
    raw, key = stores
    assert (key.dataset, key.feature_set) == ("toy", "raw-keyframes")
    vision = key.modalities["vision"]
    assert (vision.kind, vision.size, vision.rate) == ("frames", (5, 4), 0.0)
    assert vision.source == "every frame; key frames chosen by the sound (VCAN, default score)"
    assert not key.aligned
    assert key.identity != raw.identity
    assert key.notes == [
        "Two words.",
        "1 of 4 clips keep evenly spread frames instead of chosen ones, because its sound has fewer than 3 modes: "
        "clip1.",
        *(note for note in raw.notes if note != "Two words."),  # groups in several parts, said once
    ]
    assert len(raw.notes) == 2
    key.verify()


def test_key_frames_are_known_by_the_store_that_they_are_of(stores, tmp_path, monkeypatch):
    raw, key = stores
    assert set(key.recipes) == {"vision"}, "what is taken over is exact, as in the source"
    assert set(key.origins["vision"]) == {raw.identity}
    assert keyframe_store(raw.path, tmp_path / "n.h5", "numeric").identity != key.identity
    another_processor(monkeypatch)
    there = keyframe_store(raw.path, tmp_path / "t.h5")
    assert there.identity == key.identity
    assert there.content != key.content


def test_recipes_of_the_source_are_taken_over(tmp_path):
    recipe = {"audio": Recipe("waveform", {"rate": RATE}, libraries=("soundfile",))}
    raw = source(tmp_path / "raw.h5", [noise(22_050), noise(22_050, 1), noise(33_000, 2)], recipes=recipe)
    key = keyframe_store(raw.path, tmp_path / "key.h5")
    assert key.recipes["audio"] == raw.recipes["audio"]
    assert key.origins["audio"].tolist() == raw.origins["audio"].tolist()
    assert key.libraries["soundfile"] == raw.libraries["soundfile"]


def test_one_clip_is_in_memory_at_a_time(stores, tmp_path, monkeypatch):
    read, seen = FeatureStore.read, []

    def spy(self, name, rows):
        seen.append((name, len(rows)))
        return read(self, name, rows)

    monkeypatch.setattr(FeatureStore, "read", spy)
    keyframe_store(stores[0].path, tmp_path / "key.h5")
    assert {count for _, count in seen} == {1}
    assert sum(name == "vision" for name, _ in seen) == len(stores[0])


def test_the_variant_reaches_the_choice(stores, tmp_path):
    raw = stores[0]
    numeric = keyframe_store(raw.path, tmp_path / "key.h5", "numeric")
    sound, frames = rows_of(raw, "audio")[3], rows_of(raw, "vision")[3]
    chosen, other = (audio_guided_keyframes(sound, RATE, len(frames), name, 16.0) for name in ("numeric", "default"))
    assert chosen.tolist() != other.tolist()
    np.testing.assert_array_equal(rows_of(numeric, "vision")[3], frames[chosen])
    assert "numeric score" in numeric.modalities["vision"].source


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": {"audio": "waveform"}}, r"vision as features; key frames are chosen from vision as frames"),
        ({"kinds": {"vision": "frames"}}, r"text as features, audio as features, vision as frames"),
        ({"rates": {}}, "does not say the rate"),
        ({"feature_set": "cfnsr-frames15-224-centre-wave44100"}, r"a piece of the sound.*recipe=whole"),
    ],
)
def test_stores_that_do_not_fit(tmp_path, options, message):
    waveform = "audio" in options.get("kinds", KINDS)
    raw = source(tmp_path / "raw.h5", [noise(2000) if waveform else noise(2000)[:, None]] * 3, **options)
    with pytest.raises(DataError, match=message):
        keyframe_store(raw.path, tmp_path / "key.h5")
    assert not (tmp_path / "key.h5").exists()


def test_key_frames_have_no_key_frames(stores, tmp_path):
    with pytest.raises(DataError, match="holds key frames already"):
        keyframe_store(stores[1].path, tmp_path / "again.h5")


def test_the_source_is_not_replaced(stores):
    before = stores[0].path.read_bytes()
    with pytest.raises(DataError, match="would replace"):
        keyframe_store(stores[0].path, stores[0].path)
    assert stores[0].path.read_bytes() == before


def test_sound_that_chooses_nowhere_is_an_error(tmp_path):
    raw = source(tmp_path / "raw.h5", [np.zeros(22_050)] * 3)
    with pytest.raises(DataError, match=r"sound of no clip.*fewer than 3 modes"):
        keyframe_store(raw.path, tmp_path / "key.h5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw.h5"]


def test_nothing_is_half_written(stores, tmp_path, monkeypatch):
    with h5py.File(tmp_path / "key.h5", "w") as file:
        file.attrs["format"] = FORMAT
    before = (tmp_path / "key.h5").read_bytes()

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(keyframes, "_samples", fail)
    with pytest.raises(KeyboardInterrupt):
        keyframe_store(stores[0].path, tmp_path / "key.h5")
    assert (tmp_path / "key.h5").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / "film.mp4").write_text("a film")
    with pytest.raises(DataError, match="exists and is no store"):
        keyframe_store(stores[0].path, tmp_path / "film.mp4")
    assert (tmp_path / "film.mp4").read_text() == "a film"


def test_many_names_are_cut_short():
    choice = keyframes._Choice([np.zeros(1)] * 30, {"of this": [f"c{n}" for n in range(25)]})
    (note,) = choice.notes()
    assert note.startswith("25 of 30 clips keep evenly")
    assert note.endswith("c19 and 5 more.")
