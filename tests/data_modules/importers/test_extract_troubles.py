"""One's own clips when something is missing, broken, full or stopped: what is said, and what is kept."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from data_modules import DataError, FusionDataModule
from data_modules.files import write_error
from data_modules.importers import extract
from data_modules.importers.extract import Extractors, extract_store
from mmbench.cli import main
from tests.data_modules.media_files import drawn_face, make_mp4, make_wav


@pytest.mark.parametrize("folder", [True, False])
def test_nothing_of_the_user_is_replaced_by_a_store(tmp_path: Path, folder: bool) -> None:
    clip, out = make_wav(tmp_path / "clips" / "one.wav"), tmp_path / "other.mp4"
    out.mkdir() if folder else out.write_bytes(b"a video of mine")
    with pytest.raises(DataError, match="is a folder" if folder else "exists and is no store"):
        extract_store([clip], out, Extractors(vision="none"))
    assert folder or out.read_bytes() == b"a video of mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "other.mp4"]


def test_a_full_disk_says_so_and_keeps_what_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise write_error(tmp_path / "own.h5", OSError(28, "No space left on device"))

    monkeypatch.setattr(extract, "write_store", full)
    with pytest.raises(DataError, match=r"own\.h5 cannot be written: No space left.* is kept in .*clips"):
        extract_store([make_wav(tmp_path / "one.wav")], tmp_path / "own.h5", Extractors(vision="none"))
    assert list((tmp_path / "own.h5.clips").rglob("*.npz"))


def test_names_are_looked_at_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "decode_clips", lambda *_, **__: pytest.fail("it decodes"))
    with pytest.raises(DataError, match="the option dataset: the data set cannot be named 'my data'"):
        extract_store([make_wav(tmp_path / "a.wav")], tmp_path / "out.h5", Extractors(vision="none"), dataset="my data")
    (tmp_path / "my encoder (2)").mkdir()
    assert Extractors(vision=str(tmp_path / "my encoder (2)")).feature_set == "logmel-my_encoder_2_"


def test_a_missing_library_is_said_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "librosa", None)
    monkeypatch.setattr(extract, "read_sound", lambda *_: pytest.fail("decoded"))
    with pytest.raises(DataError, match=r"^Making a store of clips needs the library librosa"):
        extract_store([make_wav(tmp_path / "one.wav")], tmp_path / "own.h5", Extractors(vision="none"))


def test_each_clip_that_lacks_something_gets_a_line_and_the_others_go_on(
    tmp_path: Path, text_encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "clips"
    face = np.stack([drawn_face(240, 320, 120, 160, 120).transpose(1, 2, 0)] * 5)
    make_mp4(folder / "good.mp4", fps=5, frames=face)
    make_mp4(folder / "mute.mp4", fps=5, frames=face, sound=False)
    make_mp4(folder / "silent.mp4", fps=5, frames=face, sound="silent")
    make_mp4(folder / "faceless.mp4", fps=5, seconds=1.0, size=(240, 320))
    make_mp4(folder / "wordless.mp4", fps=5, frames=face)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "broken.mp4").write_bytes(b"no video at all" * 100)
    table = tmp_path / "said.csv"
    names = ("good", "mute", "silent", "faceless", "empty", "broken.mp4")
    table.write_text("id,text\n" + "".join(f"{name},good film\n" for name in names))
    command = ["data", "extract", str(folder), "--out", str(tmp_path / "own.h5"), "--transcripts", str(table)]
    assert main([*command, "--text", text_encoder, "--face", "detector", "--size", "32"]) == 0
    captured = capsys.readouterr()
    lines = {line.split(". ")[0]: line for line in captured.err.splitlines() if line.startswith("Left out: ")}
    for name, why in {
        "mute": "has no sound track",
        "silent": "holds no sound",
        "faceless": "shows no face",
        "wordless": "has no transcript",
        "empty": "cannot be decoded",
        "broken": "cannot be decoded",
    }.items():
        assert why in lines[f"Left out: {name}"]
    assert len(lines) == 6
    out = captured.out.replace("\n", " ")
    for note in (
        "2 clips without sound were left out: mute, silent",
        "1 clips without a face were left out: faceless",
        "1 clips without a transcript were left out: wordless",
        "2 clips that do not decode were left out: broken, empty",
    ):
        assert note in out
    data = FusionDataModule(tmp_path / "own.h5")
    assert list(data.store.ids) == ["good"]


def test_nothing_usable_is_an_error_and_leaves_no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_mp4(tmp_path / "mute.mp4", sound=False)
    assert main(["data", "extract", str(tmp_path / "mute.mp4"), "--out", str(tmp_path / "own.h5")]) == 2
    assert "None of the 1 clips can be used" in capsys.readouterr().err
    assert not (tmp_path / "own.h5").exists()


def test_a_stopped_extraction_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        make_wav(tmp_path / "clips" / f"{number}.wav", hertz=200.0 + 100 * number)
    wanted, decoded = Extractors(vision="none"), []
    real = extract.read_sound

    def stopping(path: Path, rate: int) -> np.ndarray:
        if len(decoded) == 2:
            raise KeyboardInterrupt
        decoded.append(path.stem)
        return real(path, rate)

    monkeypatch.setattr(extract, "read_sound", stopping)
    with pytest.raises(KeyboardInterrupt):
        extract_store([tmp_path / "clips"], tmp_path / "own.h5", wanted)
    decoded.append("stopped")
    store = extract_store([tmp_path / "clips"], tmp_path / "own.h5", wanted)
    assert decoded == ["0", "1", "stopped", "2"]
    assert list(store.ids) == ["0", "1", "2"]
