"""Recipes and crops of raw RAVDESS: which part of the sound, which pictures, and what is cut out of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_modules.datasets.ravdess import media as ravdess_media
from data_modules.datasets.ravdess.media import read
from data_modules.features.faces import HaarFace
from data_modules.features.media import read_frames, resize
from data_modules.features.sampling import Sampling
from data_modules.schema import DataError
from tests.data_modules.datasets.ravdess.tree import TRIALS, bring, one, place_of, write_video
from tests.data_modules.features.test_faces import write_landmarks

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("librosa")
pytest.importorskip("av")


def test_cfnsr_cuts_the_sound(tmp_path: Path) -> None:
    """From 0.5 s on, 2.45 s: 108,045 samples at 44.1 kHz; a clip of 2.936 s, the shortest of the release, has fewer."""
    root = tmp_path / "long"
    rng = np.random.default_rng(0)
    written = {}
    for actor in range(1, 25):
        seconds = 2.936 if actor == 9 else 3.1
        samples = rng.integers(-9000, 9000, round(seconds * 44_100)).astype(np.int16)
        path = place_of(root, f"03-{TRIALS[0]}-{actor:02d}", "wav")
        path.parent.mkdir(parents=True)
        soundfile.write(path, samples, 44_100, subtype="PCM_16")
        written[path.stem] = samples
    store = bring(root, tmp_path, modality="audio", recipe="cfnsr", rate=44_100)
    assert store.feature_set == "cfnsr-wave44100"
    for stem, samples in written.items():
        np.testing.assert_array_equal(one(store, "audio", stem), samples[22_050 : 22_050 + 108_045])
    lengths = dict(zip(store.ids, np.diff(store.offsets["audio"]), strict=True))
    assert lengths.pop(f"03-{TRIALS[0]}-09") == round(2.936 * 44_100) - 22_050
    assert set(lengths.values()) == {108_045}


def test_published_recipe(tmp_path: Path) -> None:
    """Squashed to 224 x 224 first, then cut to the landmarks of the row ``ceil(i * rows / 30)``, and resized again."""
    root, tables = tmp_path / "release", tmp_path / "tables"
    tables.mkdir()
    boxes = [(72.0, 128.0 + 64 * row, 432.0, 448.0 + 64 * row) for row in range(8)]
    for actor in range(1, 25):
        stem = f"01-{TRIALS[0]}-{actor:02d}"
        write_video(root, stem, seconds=0.6)
        write_landmarks(tables / f"{stem}.csv", boxes)
    options = {"frames": 30, "size": 224, "rate": 44_100, "recipe": "cfnsr", "face": "landmarks", "landmarks": tables}
    source = read(root, work=tmp_path / "work", **options)  # type: ignore[arg-type]
    assert source.info.feature_set == "cfnsr"
    assert not any("published recipe" in note for note in source.info.notes)
    fewer = ravdess_media._Settings("av", "cfnsr", 8, 0.0, 224, 44_100, "landmarks")
    assert fewer.feature_set == "cfnsr-frames8-224-landmarks-wave44100"
    record = next(iter(source.samples))
    assert record.inputs["vision"].shape == (30, 3, 224, 224)
    squashed = read_frames(place_of(root, record.id, "mp4"), Sampling(count=30), (224, 224))
    for i in (0, 1, 14, 29):
        row = min(-(-i * 8 // 30), 7)
        left, right = int((128 + 64 * row) / 1280 * 224), int((448 + 64 * row) / 1280 * 224)
        cut = squashed[i : i + 1, :, int(72 / 720 * 224) : int(432 / 720 * 224), left:right]
        np.testing.assert_array_equal(record.inputs["vision"][i], resize(cut, (224, 224))[0])
    assert len(record.inputs["audio"]) == pytest.approx(0.1 * 44_100, rel=0.5)


def test_landmarks_that_are_missing_or_failed(copy: Path, tmp_path: Path) -> None:
    tables = tmp_path / "tables" / "deep"
    tables.mkdir(parents=True)
    for place, path in enumerate(sorted(copy.rglob("01-01-*.mp4"))):
        rows = [(100.0, 300.0, 500.0, 700.0)] * 3 + [(0.0, 0.0, 0.0, 0.0)] * (1 if place == 30 else 0)
        if place not in (40, 41):
            write_landmarks(tables / f"{path.stem}.csv", [(0.0,) * 4] * 3 if place == 50 else rows)  # type: ignore[list-item]
    store = bring(copy, tmp_path, face="landmarks", landmarks=tables.parent)
    assert len(store) == 69
    (note,) = [note for note in store.notes if "without a face" in note]
    assert note.startswith("3 clips without a face were left out: ")
    assert f"In 1 of {69 * 4} pictures no face was found: their middle was taken." in store.notes
    with pytest.raises(DataError, match=r"no folder of landmarks at None.*record 3255102"):
        bring(copy, tmp_path, face="landmarks")
    with pytest.raises(DataError, match=r"would not be used: say face=landmarks"):
        bring(copy, tmp_path, landmarks=tables)


def test_detector(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    with pytest.raises(DataError, match=r"72 of 72 clips cannot be used.*shows no face in any of 4 pictures"):
        bring(release, tmp_path, face="detector")
    seen: list[int] = []

    def detect(self: HaarFace, picture: np.ndarray) -> tuple[float, float, float] | None:
        seen.append(len(seen))
        return None if seen[-1] % 4 == 2 else (18.0, 40.0, 15.0)

    monkeypatch.setattr(HaarFace, "detect", detect)
    store = bring(release, tmp_path, face="detector")
    assert "In 72 of 288 pictures no face was found: their middle was taken." in store.notes
    stem = f"01-{TRIALS[0]}-01"
    full = read_frames(place_of(release, stem, "mp4"), Sampling(count=4))
    np.testing.assert_array_equal(one(store, "vision", stem)[0], resize(full[:1, :, 9:27, 31:49], (16, 16))[0])


@pytest.mark.parametrize(
    ("options", "name", "rate", "steps"),
    [
        ({"frames": 0}, "allframes-16-centre", 25.0, 10),
        ({"every": 0.15}, "every0.15s-16-centre", 1 / 0.15, 3),
        ({"face": "none"}, "frames4-16-none", 0.0, 4),
    ],
)
def test_other_pictures(release: Path, tmp_path: Path, options: dict, name: str, rate: float, steps: int) -> None:
    store = bring(release, tmp_path, modality="video", **options)
    vision = store.spec("luna5").modalities["vision"]
    assert (store.feature_set, vision.max_length) == (name, steps)
    assert vision.rate == pytest.approx(rate)
    if "face" in options:
        stem = f"01-{TRIALS[1]}-11"
        expected = read_frames(place_of(release, stem, "mp4"), Sampling(count=4), (16, 16))
        np.testing.assert_array_equal(one(store, "vision", stem), expected)
