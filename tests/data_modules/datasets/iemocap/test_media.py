"""Pictures of the IEMOCAP release: whose half, from when to when, cut where, and what cannot be used."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from data_modules import FusionDataModule
from data_modules.datasets.iemocap import media as iemocap_media
from data_modules.datasets.iemocap import release as iemocap_release
from data_modules.datasets.iemocap.media import speakers_pictures
from data_modules.datasets.iemocap.tables import Turn, read_turns
from data_modules.features.faces import HaarFace
from data_modules.features.sampling import Sampling
from data_modules.formats import import_store
from data_modules.schema import DataError
from data_modules.store import FeatureStore
from mmbench.methods.mesm import MESM
from tests.data_modules.datasets.iemocap.layouts import FEW_SECONDS, HALF, HEIGHT, Said, halves, write_dialog, write_few
from tests.data_modules.media_files import cut_file, drawn_face, make_mp4
from tests.data_modules.stores import another_processor

pytest.importorskip("av")

SIZE = 32
DIALOG = "Ses02F_impro01"
PATH = Path("Session2/dialog/avi/DivX", f"{DIALOG}.avi")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_few(tmp_path_factory.mktemp("few"), sight=True)


def make(source: Path, folder: Path, **options: object) -> FeatureStore:
    options = {"audio": "none", "vision": "frames", "size": SIZE, **options}
    return import_store("iemocap_release", source, folder / "iemocap.h5", dataset="", options=options)


def red_at(time: float) -> float:
    """Return the red of the picture that is shown at a time: 30 in a second, from 20 to 220."""
    return 20 + 200 * np.floor(30 * time + 0.03) / (30 * FEW_SECONDS)


def check_pictures(pictures: np.ndarray, turn: Turn, every: float = 0.5) -> None:
    """Hold pictures against their turn: moments, half of the picture, and the square in the middle of the half."""
    times = np.arange(turn.start, turn.end, every)
    assert pictures.shape == (len(times), 3, SIZE, SIZE)
    assert pictures.dtype == np.uint8
    np.testing.assert_allclose(pictures[:, 0].mean((1, 2)), [red_at(time) for time in times], atol=5)
    # Colours are coded for two pixels at once, and lose a little.
    assert abs(pictures[:, 1].mean() - (200 if turn.speaker == turn.marker else 60)) < 8
    left = (HALF - SIZE) // 2
    wanted = 20 + 2 * np.arange(left, left + SIZE)
    np.testing.assert_allclose(pictures[:, 2].mean((0, 1)), wanted, atol=12)


def test_pictures_of_the_speaker(release: Path, tmp_path: Path) -> None:
    store = make(release, tmp_path)
    assert len(store) == 100
    spec = store.modalities["vision"]
    assert (spec.kind, spec.dim, spec.size, spec.rate) == ("frames", 3, (SIZE, SIZE), 2.0)
    assert store.feature_set == f"4-frames{SIZE}"
    turns = {turn.name: turn for turn in read_turns(release)[0]}
    assert {turns[name].side for name in store.ids} == {"left", "right"}
    for row, name in enumerate(store.ids):
        values, _ = store.read("vision", np.array([row]))
        check_pictures(values, turns[name])


@pytest.fixture
def with_a_face(copy: Path) -> Path:
    """One actor of one dialog shows a face, at the edge of the left half; nobody else does."""
    pytest.importorskip("cv2")
    left = drawn_face(240, 320, 110, 230, 80).transpose(1, 2, 0)
    both = np.concatenate([left, np.full_like(left, 90)], axis=1)
    make_mp4(copy / PATH, fps=30.0, sound=False, frames=np.stack([both] * round(30 * FEW_SECONDS)))
    return copy


def test_faces_of_the_speaker(with_a_face: Path, tmp_path: Path) -> None:
    store = make(with_a_face, tmp_path, face="detector")
    assert store.feature_set == f"4-faces{SIZE}"
    assert "in the speaker's half the largest frontal face" in store.modalities["vision"].source
    turns = {turn.name: turn for turn in read_turns(with_a_face)[0]}
    pictures = {name: store.read("vision", np.array([row]))[0].astype(float) for row, name in enumerate(store.ids)}
    faced = {name for name in pictures if turns[name].dialog == DIALOG and turns[name].side == "left"}
    assert faced
    assert any(turns[name].dialog == DIALOG for name in set(pictures) - faced)
    for name, values in pictures.items():
        assert values.shape[1:] == (3, SIZE, SIZE)
        if name in faced:  # alike on both sides, as nothing is that is cut elsewhere
            assert values.std() > 30
            assert np.abs(values - values[..., ::-1]).mean() < 8
    none = sum(len(values) for name, values in pictures.items() if name not in faced)
    total = sum(map(len, pictures.values()))
    assert f"In {none} of {total} pictures no face was found: their middle was taken." in store.notes


def test_a_face_without_pictures_is_refused(release: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No pictures are taken, so no face can be cut out of them"):
        make(release, tmp_path, vision="none", audio="logmel", face="detector")


def test_mesm_form_streams(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    names = [turn.name for turn in read_turns(release)[0] if turn.label != "xxx"]
    for place, split in enumerate(("train", "valid", "test")):
        (folder / f"{split}_split.txt").write_text("\n".join(names[place::3]))
    options = {"classes": "mesm", "audio": "waveform", "lists": folder, "every": 0.25}
    store = make(release, tmp_path, **options)
    assert store.spec("mesm").track == f"iemocap_mesm/mesm-waveform-frames{SIZE}/mesm"
    pytest.importorskip("cv2")
    faces = make(release, tmp_path / "faces", **options | {"face": "detector", "size": 48})
    assert {result.track for result in MESM.card.published} == {faces.spec("mesm").track}
    assert store.target.names == ("angry", "excited", "frustrated", "happy", "neutral", "sad")
    assert {name: spec.rate for name, spec in store.modalities.items()} == {"audio": 16_000.0, "vision": 4.0}
    data = FusionDataModule(store.path, workers=0, batch_size=8)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert batch.inputs["vision"].values.shape == (8, 4, 3, SIZE, SIZE)
    assert batch.inputs["audio"].values.shape == (8, 12_800)
    assert (batch.target.sum(1) == 1).all()
    assert len(data.rows["test"]) == len(names[2::3])
    assert any("groups" in note or "dialog" in note for note in store.notes)


def test_each_video_is_decoded_once(release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    once = iemocap_media.read_frames

    def counted(path: Path, *rest: object) -> np.ndarray:
        seen.append(path.stem)
        return once(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(iemocap_media, "read_frames", counted)
    make(release, tmp_path)
    assert len(seen) == len(set(seen)) == 10


@pytest.mark.parametrize("face", ["centre", "detector"])
def test_long_dialogs_are_decoded_in_parts(
    with_a_face: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, face: str
) -> None:
    """The hand of the detector is as steady in parts: none of them tears a turn."""
    seen: list[int] = []
    once = iemocap_media.read_frames

    def counted(path: Path, sampling: Sampling) -> np.ndarray:
        pictures = once(path, sampling)
        seen.append(len(pictures))
        return pictures

    monkeypatch.setattr(iemocap_media, "read_frames", counted)
    whole = make(with_a_face, tmp_path, face=face, every=0.1).content
    assert len(seen) == 10
    monkeypatch.setattr(iemocap_media, "AT_ONCE", 20)
    assert make(with_a_face, tmp_path, face=face, every=0.1).content == whole
    assert len(seen) > 20
    assert max(seen[10:]) <= 20


def test_turns_are_known_by_video_half_and_time(
    release: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = make(release, tmp_path, audio="waveform")
    assert set(here.recipes) == {"audio", "vision"}
    own = here.origins["vision"][here.groups == DIALOG]
    assert len(set(own)) == len(own) > 1, "each turn is another piece of the video"
    assert make(release, tmp_path, audio="waveform", every=0.25).identity != here.identity
    with (copy / PATH).open("ab") as video:
        video.write(b"\0")
    other = make(copy, tmp_path, audio="waveform")
    assert set(other.groups[other.origins["vision"] != here.origins["vision"]]) == {DIALOG}
    assert other.origins["audio"].tolist() == here.origins["audio"].tolist()
    assert other.identity != here.identity
    another_processor(monkeypatch)
    there = make(release, tmp_path, audio="waveform")
    assert there.identity == here.identity
    assert there.content != here.content


def test_other_pictures_are_decoded_anew(with_a_face: Path, tmp_path: Path) -> None:
    """What is kept of a stopped import with other settings is not taken for these pictures."""
    options = {"audio": "none", "vision": "frames", "size": SIZE, "work": tmp_path / "kept"}
    shown = []
    for face in ("centre", "detector"):
        records = iemocap_release.read(with_a_face, face=face, **options).samples
        shown.append({record.id: record.inputs["vision"] for record in records if record.group == DIALOG})
    assert shown[0]
    assert any(not np.array_equal(pictures, shown[1][name]) for name, pictures in shown[0].items())


# What cannot be used.


def a_dialog(root: Path, ends: list[float]) -> list[Turn]:
    """Return turns of 0.8 s that end at given times."""
    said = [Said(f"{DIALOG}_F{place:03d}", end - 0.8, end, "neu") for place, end in enumerate(ends)]
    write_dialog(root, DIALOG, said)
    return read_turns(root)[0]


def test_turns_beyond_the_end_of_the_video(tmp_path: Path) -> None:
    """A turn that begins after the last picture has none; one that ends after it has the pictures that are there."""
    turns = a_dialog(tmp_path, [1.0, FEW_SECONDS + 0.5, FEW_SECONDS + 0.8, FEW_SECONDS + 5])
    path = make_mp4(tmp_path / PATH, fps=30.0, sound=False, frames=halves())
    pictures = speakers_pictures(path, turns, 0.1, SIZE)
    assert [len(pictures.get(turn.name, ())) for turn in turns] == [8, 3, 0, 0]
    assert speakers_pictures(path, turns[2:], 0.1, SIZE) == {}


def test_small_pictures_are_refused(tmp_path: Path) -> None:
    turns = a_dialog(tmp_path, [1.0])
    path = make_mp4(tmp_path / PATH, fps=30.0, sound=False, frames=halves())
    assert next(iter(speakers_pictures(path, turns, size=HEIGHT).values())).shape[2:] == (HEIGHT, HEIGHT)
    with pytest.raises(DataError, match="shows each actor in 60 x 80 pixels, too few for pictures of 224"):
        speakers_pictures(path, turns)
    pytest.importorskip("cv2")
    faces = speakers_pictures(path, turns, detector=HaarFace(224))
    assert faces[turns[0].name].shape[1:] == (3, 224, 224)


def test_broken_videos_are_an_error_with_their_names(copy: Path, tmp_path: Path) -> None:
    cut_file(copy / PATH)
    with pytest.raises(DataError, match=rf"1 of 10 clips cannot be used, beginning with {DIALOG}; up to 5%"):
        make(copy, tmp_path)
    (copy / PATH).unlink()
    with pytest.raises(DataError, match=rf"1 of 10 clips cannot be used, beginning with {DIALOG}"):
        make(copy, tmp_path)


def test_a_broken_video_among_many_is_left_out(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twelve more dialogs, of one turn each, make one broken video less than one in twenty."""
    for number in range(2, 14):
        dialog = f"Ses01F_impro{number:02d}"
        write_dialog(copy, dialog, [Said(f"{dialog}_F000", 0.5, 1.3, "neu")])
        video = copy / "Session1" / "dialog" / "avi" / "DivX"
        shutil.copy(video / "Ses01F_impro01.avi", video / f"{dialog}.avi")
    cut_file(copy / "Session1/dialog/avi/DivX/Ses01F_impro13.avi", 0.4)
    late = copy / "Session1/dialog/avi/DivX/Ses01F_impro12.avi"
    write_dialog(copy, "Ses01F_impro12", [Said("Ses01F_impro12_F000", 30.0, 31.0, "neu")])
    assert late.is_file()
    store = make(copy, tmp_path)
    assert len(store) == 110
    notes = "\n".join(store.notes)
    assert "1 clips that do not decode were left out: Ses01F_impro13." in notes
    assert "1 turns begin after the end of their video and were left out: Ses01F_impro12_F000." in notes
    assert "Left out: Ses01F_impro13." in capsys.readouterr().err
