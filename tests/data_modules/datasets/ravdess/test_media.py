"""The importer of raw RAVDESS on trees of small real clips, with every irregularity that the release or a disk has."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from data_modules.datasets.ravdess import media as ravdess_media
from data_modules.datasets.ravdess.data_module import RAVDESS
from data_modules.datasets.ravdess.media import read
from data_modules.datasets.ravdess.splits import RAVDESS_PROTOCOLS
from data_modules.features.faces import CentreCrop
from data_modules.features.media import read_frames, read_sound
from data_modules.features.sampling import Sampling
from data_modules.importers import clips as clips_module
from data_modules.schema import DataError
from data_modules.store import write_store
from tests.data_modules.datasets.ravdess.tree import TRIALS, bring, one, pitch, place_of, write_sound, write_video
from tests.data_modules.features.test_faces import write_landmarks
from tests.data_modules.media_files import cut_file
from tests.data_modules.stores import another_processor

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("librosa")
pytest.importorskip("av")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The clips that are decoded from here on."""
    names: list[str] = []
    original = ravdess_media._decode
    monkeypatch.setattr(
        ravdess_media,
        "_decode",
        lambda *given: names.append(given[-1].id) or original(*given),  # type: ignore[func-returns-value]
    )
    return names


# What comes in.


def test_pictures_and_sound_of_a_release(release: Path, tmp_path: Path) -> None:
    store = bring(release, tmp_path)
    assert sorted(store.ids) == sorted(f"01-{trial}-{actor:02d}" for actor in range(1, 25) for trial in TRIALS)
    row = list(store.ids).index("01-01-05-02-02-01-07")
    assert store.target.names[store.targets[row]] == "angry"
    assert (store.groups[row], store.speakers[row], store.transcripts[row]) == (
        "07",
        "07",
        "Dogs are sitting by the door",
    )
    spec = store.spec("cfnsr5")
    audio, vision = spec.modalities["audio"], spec.modalities["vision"]
    assert (vision.kind, vision.dim, vision.size, vision.rate, vision.max_length) == ("frames", 3, (16, 16), 0.0, 4)
    assert (audio.kind, audio.dim, audio.rate) == ("waveform", 1, 8000.0)
    assert spec.track == "ravdess/frames4-16-centre-wave8000/cfnsr5"
    assert audio.max_length == pytest.approx(0.4 * 8000, rel=0.1)
    assert [note.split(":")[0] for note in store.notes] == [
        "1 files with a foreign name were ignored",
        "1368 of 1440 clips are not there",
    ]
    assert not (tmp_path / "r.h5.clips").exists()


def test_every_clip_has_its_own_pictures_and_sound(release: Path, tmp_path: Path) -> None:
    store = bring(release, tmp_path)
    for actor, trial in ((1, 0), (3, 1), (17, 2), (24, 0)):
        stem = f"01-{TRIALS[trial]}-{actor:02d}"
        path = place_of(release, stem, "mp4")
        seen = one(store, "vision", stem)
        expected = CentreCrop(16)(read_frames(path, Sampling(count=4))).pictures
        np.testing.assert_array_equal(seen, expected)
        assert seen[:, 1].mean() == pytest.approx(10 * actor, abs=5)
        heard = one(store, "audio", stem)
        np.testing.assert_allclose(heard / 32768, read_sound(path, 8000), atol=0.6 / 32768)
        spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard)), 1 << 15))
        assert spectrum.argmax() * 8000 / (1 << 15) == pytest.approx(pitch(stem), abs=1)


def test_folds_are_those_of_the_protocols(release: Path, tmp_path: Path) -> None:
    store = bring(release, tmp_path, modality="audio")
    assert list(store.splits) == ["luna5", "msaf6", "cfnsr5", "chumachenko"]
    for name, folds in RAVDESS_PROTOCOLS.items():
        assert len(store.splits[name]) == len(folds)
        for place, fold in enumerate(folds):
            for part, rows in store.rows(name, place).items():
                assert {int(actor) for actor in store.speakers[rows]} == set(getattr(fold, part))


def test_a_data_module_reads_the_store(release: Path, tmp_path: Path) -> None:
    bring(release, tmp_path)
    module = RAVDESS(tmp_path / "r.h5", protocol="cfnsr5", fold=4, batch_size=5, workers=0)
    module.setup("fit")
    batch = next(iter(module.val_dataloader()))
    assert batch.inputs["vision"].values.shape == (5, 4, 3, 16, 16)
    assert batch.inputs["vision"].values.dtype.is_floating_point is False
    assert 0.2 < float(batch.inputs["audio"].values.abs().max()) < 0.5  # a tone at 0.25, as AAC starts it
    assert {module.store.speakers[row] for row in batch.index.tolist()} <= {"01", "02", "03", "04"}


def test_a_take_comes_in_once(release: Path, tmp_path: Path) -> None:
    """The silent copy where there is one, else the full clip; with sound the full clip only."""
    store = bring(release, tmp_path, modality="video")
    assert set(store.modalities) == {"vision"}
    assert sorted(store.ids) == sorted(
        f"{'02' if trial == TRIALS[0] else '01'}-{trial}-{actor:02d}" for actor in range(1, 25) for trial in TRIALS
    )
    assert store.feature_set == "frames4-16-centre"


def test_sound_alone(copy: Path, tmp_path: Path) -> None:
    """Sound files of any rate and number of channels; what the audit of the release found is said."""
    shutil.copy(place_of(copy, "03-01-01-01-01-01-07", "wav"), place_of(copy, "03-01-01-01-01-02-07", "wav"))
    store = bring(copy, tmp_path, modality="audio")
    assert len(store) == 73
    assert set(store.modalities) == {"audio"}
    assert store.feature_set == "wave8000"
    stem = f"03-{TRIALS[1]}-03"
    samples, rate = soundfile.read(place_of(copy, stem, "wav"))
    assert samples.shape == (round(0.3 * rate), 2)
    np.testing.assert_allclose(
        one(store, "audio", stem)[300:-300], read_sound(place_of(copy, stem, "wav"), 8000)[300:-300] * 32768, atol=1
    )
    assert "3 clips in stereo were averaged to mono: " + ", ".join(f"03-{t}-03" for t in TRIALS) + "." in store.notes
    assert "1 groups of clips are identical: 03-01-01-01-01-01-07 = 03-01-01-01-01-02-07." in store.notes


def test_songs(release: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"The actors \[1, 2, 3, 4, 6, .* have no usable clip"):
        read(release, channel="song", work=tmp_path)
    root = tmp_path / "songs"
    for actor in set(range(1, 25)) - {18}:
        write_sound(root, f"03-02-06-01-01-01-{actor:02d}")
    store = bring(root, tmp_path, modality="audio", channel="song")
    assert (len(store), store.feature_set, len(store.target.names)) == (23, "wave8000-song", 6)


# What cannot be used.


def test_irregular_clips_are_left_out_and_named(copy: Path, tmp_path: Path) -> None:
    """Silent, without a sound track, cut short: three of 72 may be lost."""
    write_video(copy, f"01-{TRIALS[0]}-08", sound="silent")
    write_video(copy, f"01-{TRIALS[1]}-09", sound=False)
    cut_file(place_of(copy, f"01-{TRIALS[2]}-10", "mp4"))
    store = bring(copy, tmp_path)
    assert len(store) == 69
    assert [note for note in store.notes if "left out" in note] == [
        f"2 clips without sound were left out: 01-{TRIALS[0]}-08, 01-{TRIALS[1]}-09.",
        f"1 clips that do not decode were left out: 01-{TRIALS[2]}-10.",
    ]
    assert len(bring(copy, tmp_path, modality="video")) == 71  # pictures need no sound
    write_video(copy, f"01-{TRIALS[0]}-11", sound="silent")
    with pytest.raises(DataError, match=r"4 of 72 clips cannot be used, .* The first: .*holds no sound"):
        bring(copy, tmp_path)


def test_sound_that_ends_before_the_recipe_begins(tmp_path: Path) -> None:
    root = tmp_path / "short"
    for actor in range(1, 25):
        for trial in TRIALS:
            write_sound(root, f"03-{trial}-{actor:02d}", 0.4 if (actor, trial) == (7, TRIALS[0]) else 0.6)
    store = bring(root, tmp_path, modality="audio", recipe="cfnsr")
    assert f"1 clips without sound were left out: 03-{TRIALS[0]}-07." in store.notes
    assert any(
        note.endswith("Actor_07/03-01-01-01-01-01-07.wav holds no sound from 0.5 s on, where the recipe begins.")
        for note in store.notes
    )
    assert "The sound is cut as CFN-SR does, but not all settings are those of its published recipe." in store.notes


def test_wrong_trees_are_refused_before_anything_is_decoded(copy: Path, tmp_path: Path, decoded: list[str]) -> None:
    for path in (copy / "Actor_02").glob("03*"):
        path.unlink()
    found = "1 folders named Actor_NN, 3 clips of full audio-video speech, 1 clips of video-only speech"
    with pytest.raises(DataError, match=rf"no audio-only speech clip \({found}\).*/03-01-06-01-02-01-12\.wav"):
        bring(copy / "Actor_02", tmp_path, modality="audio")
    stray = place_of(copy, f"01-{TRIALS[0]}-07", "mp4")
    shutil.move(stray, copy / "Actor_08" / stray.name)
    with pytest.raises(DataError, match=r"01-01-01-01-01-01-07\.mp4 is of actor 07 but lies in Actor_08"):
        bring(copy, tmp_path)
    shutil.rmtree(copy / "Actor_08")
    with pytest.raises(DataError, match=r"The actors \[8\] have no usable clip"):
        bring(copy, tmp_path)
    assert decoded == []


def test_an_actor_without_a_usable_clip_is_an_error_and_nothing_is_written(copy: Path, tmp_path: Path) -> None:
    for trial in TRIALS:
        write_video(copy, f"01-{trial}-13", sound=False)
    with pytest.raises(DataError, match=r"the actors \[13\] have no usable clip"):
        bring(copy, tmp_path)
    assert not (tmp_path / "r.h5").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "must be 1 at least"),
        ({"rate": 0}, "must be 1 at least"),
        ({"frames": -1}, "by number"),
        ({"every": -0.5}, "by number"),
        ({"face": "center"}, "value of the option face 'center'.*'centre'"),
        ({"recipe": "msaf"}, "value of the option recipe"),
    ],
)
def test_bad_options_are_refused(release: Path, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        bring(release, tmp_path, **options)


# Stopped and started again; memory.


def test_import_goes_on_where_it_was_stopped(
    release: Path, tmp_path: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, kept = clips_module._keep, []

    def stop(path: Path, arrays: object) -> None:
        kept.append(path)
        if len(kept) == 30:
            raise KeyboardInterrupt
        keep(path, arrays)  # type: ignore[arg-type]

    monkeypatch.setattr(clips_module, "_keep", stop)
    with pytest.raises(KeyboardInterrupt):
        bring(release, tmp_path, work=tmp_path / "scratch")
    assert len(decoded) == 30
    assert (tmp_path / "scratch" / "r.h5.clips").is_dir()
    assert not (tmp_path / "r.h5").exists()
    monkeypatch.setattr(clips_module, "_keep", keep)
    decoded.clear()
    store = bring(release, tmp_path, work=tmp_path / "scratch")
    assert len(decoded) == 72 - 29
    assert not (tmp_path / "scratch" / "r.h5.clips").exists()
    assert bring(release, tmp_path).content == store.content


@pytest.mark.parametrize("modality", ["av", "audio"])
def test_a_store_is_known_by_its_files_and_settings(
    release: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modality: str
) -> None:
    here = bring(release, tmp_path, modality=modality)
    assert set(here.recipes) == set(here.modalities)
    assert bring(release, tmp_path, modality=modality, rate=4000).identity != here.identity
    stem = f"{'03' if modality == 'audio' else '01'}-{TRIALS[0]}-07"
    path = place_of(copy, stem, "wav" if modality == "audio" else "mp4")
    data = path.read_bytes() + b"\0"
    path.write_bytes(data)
    other = bring(copy, tmp_path, modality=modality)
    assert other.identity != here.identity
    for name, column in other.origins.items():
        assert other.ids[column != here.origins[name]].tolist() == [stem]
    another_processor(monkeypatch)
    there = bring(release, tmp_path, modality=modality)
    assert there.identity == here.identity
    assert there.content != here.content


def test_landmarks_are_an_origin_of_the_pictures_alone(release: Path, tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    tables.mkdir()
    for path in release.rglob("01-01-*.mp4"):
        write_landmarks(tables / f"{path.stem}.csv", [(2.0, 3.0, 40.0, 44.0)] * 3)
    before = bring(release, tmp_path, face="landmarks", landmarks=tables)
    table = next(tables.iterdir())
    table.write_text(table.read_text() + "\n")
    after = bring(release, tmp_path, face="landmarks", landmarks=tables)
    assert after.origins["audio"].tolist() == before.origins["audio"].tolist()
    assert (after.origins["vision"] != before.origins["vision"]).sum() == 1


def test_memory_does_not_grow_with_the_number_of_clips(release: Path, tmp_path: Path) -> None:
    """Of 24 and of 72 clips, each of 369 KB: what is in memory at the worst moment differs by less than one."""

    def peak(source: Path, name: str) -> int:
        tracemalloc.start()
        try:
            made = read(source, frames=30, size=64, modality="video", work=tmp_path / f"{name}.clips")
            write_store(tmp_path / name, made.info, made.samples, made.splits)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = tmp_path / "few"
    for path in release.rglob(f"01-{TRIALS[0]}-*.mp4"):
        (few / path.parent.name).mkdir(parents=True)
        shutil.copy(path, few / path.parent.name)
    small = peak(few, "few.h5")  # first: what is loaded on first use counts against it
    assert peak(release, "all.h5") - small < 30 * 3 * 64 * 64
