"""The RAVDESS importer on trees of random clips."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data_modules.datasets.ravdess.importer import read
from data_modules.datasets.ravdess.names import find_clips
from data_modules.datasets.ravdess.splits import RAVDESS_PROTOCOLS
from data_modules.features import audio
from data_modules.formats import import_store, options_of
from data_modules.schema import DataError
from data_modules.store import FeatureStore
from tests.data_modules.datasets.ravdess.tree import UNITS, write_faces, write_frames

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("librosa")

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
CLIPS = ("01-01-01-01-01", "01-05-02-02-01", "01-08-01-01-02")  # channel, emotion, intensity, statement, repetition


def write_clip(root: Path, stem: str, rate: int = 16_000, channels: int = 1, ending: str = "wav") -> Path:
    seed = int(stem.replace("-", ""))
    noise = np.random.default_rng(seed).normal(0, 0.1, (int(0.3 * rate), channels))
    path = root / f"Actor_{stem[-2:]}" / f"{stem}.{ending}"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, noise, rate)
    return path


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips of each actor, two sampling rates, one stereo clip, and the litter that real folders hold."""
    root = tmp_path_factory.mktemp("release")
    for actor in range(1, 25):
        for clip in CLIPS:
            rate, channels = (44_100 if actor == 2 else 16_000), (2 if (actor, clip) == (3, CLIPS[1]) else 1)
            write_clip(root, f"03-{clip}-{actor:02d}", rate, channels, "flac" if actor == 4 else "wav")
    write_clip(root, "01-01-01-01-01-01-05")  # sound of the full clip, silent copy, and a song: not asked for
    write_clip(root, "02-01-01-01-01-01-05")
    write_clip(root, "03-02-01-01-01-01-05")
    (root / "Actor_06" / "._03-01-01-01-01-01-06.wav").write_bytes(b"\0\5\26\7")
    shutil.copy(root / "Actor_06" / f"03-{CLIPS[0]}-06.wav", root / "Actor_06" / "my favourite.wav")
    (root / "notes.txt").write_text("not a clip")
    return root


@pytest.fixture(scope="module")
def takes(release: Path) -> list[str]:
    return [f"{clip}-{actor:02d}" for actor in range(1, 25) for clip in CLIPS]


@pytest.fixture
def faces(tmp_path: Path, takes: list[str]) -> Path:
    path = tmp_path / "faces.csv"
    write_faces(path, takes)
    return path


def make(source: Path, out: Path, **options: object) -> FeatureStore:
    return import_store("ravdess", source, out / "ravdess.h5", dataset="ravdess", options=options)


def test_store_of_a_release(release: Path, faces: Path, takes: list[str], tmp_path: Path) -> None:
    store = make(release, tmp_path, face=str(faces))
    assert len(store) == 72
    assert sorted(store.ids) == sorted(f"03-{take}" for take in takes)
    assert (store.target.kind, store.target.names) == ("multiclass", EMOTIONS)
    row = list(store.ids).index("03-01-05-02-02-01-07")
    assert store.targets[row] == EMOTIONS.index("angry")
    assert (store.groups[row], store.speakers[row]) == ("07", "07")
    assert store.transcripts[row] == "Dogs are sitting by the door"
    assert store.spec("luna5").dims == {"audio": 64, "vision": 3}
    # 0.3 s at a hop of 25 ms, whatever the file's own rate or number of channels.
    assert set(np.diff(store.offsets["audio"])) == {13}
    assert store.spec("luna5").track == "ravdess/logmel-au/luna5"
    assert "1 files with a foreign name were ignored: my favourite.wav." in store.notes
    assert any(note.startswith("1368 of 1440 clips are not there: ") for note in store.notes)
    assert not any("fold" in note for note in store.notes)


def test_face_row_goes_to_the_same_take(release: Path, faces: Path, tmp_path: Path) -> None:
    store = make(release, tmp_path, face=str(faces))
    values, offsets = store.read("vision", np.arange(len(store)))
    assert offsets.tolist() == list(range(73))
    table = pd.read_csv(faces).set_index("clip")
    expected = table.loc[[f"01{name[2:]}" for name in store.ids], list(UNITS)]
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_splits_are_by_actor(release: Path, tmp_path: Path) -> None:
    store = make(release, tmp_path)
    assert set(store.splits) == {"luna5", "msaf6", "cfnsr5", "chumachenko"}
    for name, folds in RAVDESS_PROTOCOLS.items():
        for place, fold in enumerate(folds):
            for part, rows in store.rows(name, place).items():
                assert {int(actor) for actor in store.speakers[rows]} == set(getattr(fold, part))


@pytest.mark.parametrize(("features", "dim"), [("logmel", 24), ("mfcc", 13), ("logmel+mfcc", 37)])
def test_audio_features(release: Path, features: str, dim: int) -> None:
    source = read(release / "Actor_01", audio_features=features, mels=24, mfccs=13, hop_ms=50)  # type: ignore[arg-type]
    assert source.info.feature_set == features
    assert {record.inputs["audio"].shape for record in source.samples} == {(7, dim)}
    assert all(set(record.inputs) == {"audio"} for record in source.samples)


def test_song_has_six_classes_and_its_own_track(release: Path) -> None:
    source = read(release, channel="song")
    assert [record.id for record in source.samples] == ["03-02-01-01-01-01-05"]
    assert (source.info.target.names, source.info.feature_set) == (EMOTIONS[:6], "logmel-song")
    assert len(list(read(release, channel="both").samples)) == 73


def test_the_same_import_twice_gives_the_same_store(release: Path, faces: Path, tmp_path: Path) -> None:
    first = make(release, tmp_path, face=str(faces))
    again = make(release, tmp_path, face=str(faces))
    assert (again.identity, again.content) == (first.identity, first.content)


def another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on log-mel values are off by what other vector instructions, or more threads, make of them."""
    once = audio.log_mel
    monkeypatch.setattr(audio, "log_mel", lambda *given: once(*given) + np.float32(1.5e-5))


def test_another_processor_gives_the_same_identity(
    release: Path, faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = make(release, tmp_path, face=str(faces))
    assert set(here.recipes) == {"audio"}, "the action units are exact values"
    assert {"librosa", "numpy", "soundfile"} <= set(here.libraries)
    another_processor(monkeypatch)
    there = make(release, tmp_path, face=str(faces))
    assert there.identity == here.identity
    assert there.content != here.content


@pytest.mark.parametrize(
    "options",
    [
        {"mels": 32},
        {"window_ms": 32.0},
        {"hop_ms": 50.0},
        {"trim_db": 0.0},
        {"audio_features": "mfcc"},
        {"audio_features": "mfcc", "mfccs": 13},
    ],
    ids=str,
)
def test_other_settings_give_another_identity(release: Path, tmp_path: Path, options: dict) -> None:
    assert make(release, tmp_path, **options).identity != make(release, tmp_path).identity


def test_settings_that_are_not_used_do_not_count(release: Path) -> None:
    assert read(release).info.recipes == read(release, mfccs=13).info.recipes
    assert (
        read(release, audio_features="mfcc").info.recipes != read(release, audio_features="mfcc", mfccs=13).info.recipes
    )


def test_every_clip_is_known_by_its_bytes_and_not_by_its_place(
    release: Path, copy: Path, faces: Path, tmp_path: Path
) -> None:
    before = make(release, tmp_path, face=str(faces))
    assert make(copy, tmp_path, face=str(faces)).identity == before.identity
    path = copy / "Actor_09" / f"03-{CLIPS[0]}-09.wav"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1  # the smallest change of one sample
    path.write_bytes(data)
    after = make(copy, tmp_path, face=str(faces))
    assert after.identity != before.identity
    assert before.ids[before.origins["audio"] != after.origins["audio"]].tolist() == [path.stem]
    assert after.origins["audio"][list(after.ids).index(path.stem)] == hashlib.sha256(data).hexdigest()


def test_one_action_unit_changes_the_identity(release: Path, faces: Path, tmp_path: Path) -> None:
    before = make(release, tmp_path, face=str(faces)).identity
    table = pd.read_csv(faces)
    table.loc[5, "AU12_r"] += 1e-6
    table.to_csv(faces, index=False)
    assert make(release, tmp_path, face=str(faces)).identity != before


# What cannot be used.


def test_damaged_clips_are_left_out_and_named(copy: Path, tmp_path: Path) -> None:
    cut = copy / "Actor_09" / f"03-{CLIPS[0]}-09.wav"
    cut.write_bytes(cut.read_bytes()[:2000])
    (copy / "Actor_04" / f"03-{CLIPS[1]}-04.flac").write_bytes(b"")
    store = make(copy, tmp_path)
    assert len(store) == 70
    lost = "2 clips that do not decode were left out: 03-01-01-01-01-01-09, 03-01-05-02-02-01-04."
    assert lost in store.notes


def test_too_many_damaged_clips_are_an_error(copy: Path, tmp_path: Path) -> None:
    for path in copy.rglob("03-01-*.*"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"72 of 72 clips cannot be decoded, .* The first: .*Actor_01"):
        make(copy, tmp_path)


def test_clips_without_a_face_are_left_out_and_named(release: Path, takes: list[str], tmp_path: Path) -> None:
    write_faces(tmp_path / "few.csv", takes[3:])
    with pytest.raises(DataError, match=r"The actors \[1\] have no usable clip"):
        make(release, tmp_path, face=str(tmp_path / "few.csv"))
    write_faces(tmp_path / "few.csv", takes[:-2])
    store = make(release, tmp_path, face=str(tmp_path / "few.csv"))
    assert len(store) == 70
    lost = "2 clips without a face were left out: 03-01-05-02-02-01-24, 03-01-08-01-01-02-24."
    assert lost in store.notes


def test_too_many_missing_faces_are_an_error(release: Path, takes: list[str], tmp_path: Path) -> None:
    write_faces(tmp_path / "few.csv", takes[4:])
    with pytest.raises(
        DataError, match=r"4 of 72 clips have no face in .*few\.csv, beginning with 03-01-01-01-01-01-01"
    ):
        make(release, tmp_path, face=str(tmp_path / "few.csv"))


def test_missing_actors_are_an_error(copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "Actor_13")
    with pytest.raises(DataError, match=r"The actors \[13\] have no usable clip"):
        make(copy, tmp_path)


def test_clip_in_the_wrong_folder_is_an_error(copy: Path) -> None:
    shutil.move(copy / "Actor_07" / f"03-{CLIPS[0]}-07.wav", copy / "Actor_08" / f"03-{CLIPS[0]}-07.wav")
    with pytest.raises(DataError, match="is of actor 07 but lies in Actor_08"):
        read(copy)


def test_doubled_release_counts_once(copy: Path) -> None:
    shutil.copytree(copy / "Actor_01", copy / "again" / "Actor_01")
    assert len(find_clips(copy, "speech")[0]) == 72
    write_clip(copy / "again", f"03-{CLIPS[0]}-01", rate=8_000)
    with pytest.raises(DataError, match="the same clip with different content"):
        find_clips(copy, "speech")


def test_folder_without_clips_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "Actor_01").mkdir()
    with pytest.raises(DataError, match=r"no audio-only speech clip \(1 folders named Actor_NN\)"):
        read(tmp_path)


def test_fold_column_is_cross_checked(release: Path, faces: Path) -> None:
    table = pd.read_csv(faces)
    table.loc[:4, "fold"] = 4 - table.loc[:4, "fold"]
    changed = int((table["fold"] != pd.read_csv(faces)["fold"]).sum())
    assert changed
    table.to_csv(faces, index=False)
    notes = read(release, face=str(faces)).info.notes
    assert f"The fold column of faces.csv differs from luna5 in {changed} rows; it is not used." in notes


def test_bad_clip_column_is_an_error(release: Path, faces: Path) -> None:
    faces.write_text(faces.read_text().replace("01-01-01-01-01-01-01,", "01-01-09-01-01-01-01,"))
    with pytest.raises(DataError, match=r"faces\.csv, column 'clip': '01-01-09-01-01-01-01' has the emotion 09"):
        read(release, face=str(faces))


def test_no_face_at_the_path_is_an_error(release: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no face at .*nowhere\.csv"):
        read(release, face=str(tmp_path / "nowhere.csv"))


def test_unknown_options_are_refused(release: Path, tmp_path: Path) -> None:
    assert "audio_features" in options_of("ravdess")
    with pytest.raises(DataError, match=r"value of the option audio_features 'logmels'\. Did you mean 'logmel'"):
        make(release, tmp_path, audio_features="logmels")
    with pytest.raises(DataError, match="one mel band"):
        make(release, tmp_path, mels=0)


def test_missing_library_names_the_extra(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(DataError, match=r"Audio needs the library librosa.*mmbench\[media\]"):
        read(release)


# Faces by frame.


def test_frames_are_sequences_without_failed_frames(release: Path, takes: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    for place, take in enumerate(takes):
        write_frames(folder / f"Actor_{take[-2:]}" / f"01-{take}.csv", frames=10 + place, failed=2 if place == 5 else 0)
    write_frames(folder / f"02-{takes[0]}.csv", frames=99, failed=0)  # the silent copy of a take that is there
    write_frames(folder / "Actor_03" / f"01-{takes[8]}.csv", frames=6, failed=6)  # never a face: left out
    store = make(release, tmp_path, face=str(folder))
    assert store.feature_set == "logmel-auframes"
    lengths = dict(zip(store.ids, np.diff(store.offsets["vision"]), strict=True))
    assert lengths == {
        f"03-{take}": 10 + place - (2 if place == 5 else 0) for place, take in enumerate(takes) if place != 8
    }
    row = np.array([list(store.ids).index(f"03-{takes[5]}")])
    values, _ = store.read("vision", row)
    frame = np.arange(2, 15)
    np.testing.assert_allclose(values, np.stack([frame / 10, frame / 5, 0 * frame], axis=1), rtol=1e-5)
    total = sum(10 + place for place in range(72) if place != 8) + 6
    assert f"8 of {total} video frames without a tracked face were dropped." in store.notes
    assert f"1 clips without a face were left out: 03-{takes[8]}." in store.notes


def test_differing_action_units_are_an_error(release: Path, takes: list[str], tmp_path: Path) -> None:
    for take in takes:
        write_frames(tmp_path / f"01-{take}.csv", frames=3, failed=0)
    odd = tmp_path / f"01-{takes[5]}.csv"
    odd.write_text(odd.read_text().replace("AU12_r", "AU14_r"))
    with pytest.raises(DataError, match=r"has other action units than the files before it"):
        read(release, face=str(tmp_path))
