"""The IEMOCAP release as a store: transcripts, sound, and what cannot be used."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from data_modules import FusionDataModule, dataset
from data_modules.formats import import_store, importers
from data_modules.schema import DataError
from data_modules.store import FeatureStore
from data_modules.store.summary import summary
from mmbench.cli import main
from tests.data_modules.datasets.iemocap import layouts
from tests.data_modules.media_files import cut_file, make_wav

librosa = pytest.importorskip("librosa")
soundfile = pytest.importorskip("soundfile")


def make(source: Path, folder: Path, **options: object) -> FeatureStore:
    return import_store("iemocap_release", source, folder / "iemocap.h5", dataset="", options=options)


# Transcripts alone.


def test_transcripts_alone_are_read_by_a_tokenizer(copy: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "turn", "3", "what", "i", "said", ":", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "tokenizer")
    silent = copy / "Session2" / "dialog" / "transcriptions" / "Ses02F_impro01.txt"
    lines = silent.read_text().splitlines()
    silent.write_text("\n".join(line for line in lines if not line.startswith("Ses02F_impro01_F000 ")))
    store = make(copy, tmp_path, audio="none", keep_tags=False)
    assert (len(store), store.feature_set, store.modalities) == (99, "4-text", {})
    assert "1 turns without a transcript were left out: Ses02F_impro01_F000." in store.notes
    assert not (tmp_path / "iemocap.h5.clips").exists()
    summary(store).__rich__()
    data = FusionDataModule(store.path, tokenizer=str(tmp_path / "tokenizer"), batch_size=99)
    assert (list(data.spec.modalities), data.spec.modalities["text"].kind) == (["text"], "tokens")
    data.setup("test")
    (batch,) = data.test_dataloader()
    row = store.ids[batch.index.numpy()].tolist().index("Ses01F_impro01_F003")
    assert batch.inputs["text"].values[row].tolist() == [2, 5, 6, 10, 7, 8, 9, 11, 3]
    silent.unlink()
    with pytest.raises(DataError, match="10 of 100 clips lack a transcript, beginning with Ses02F_impro01_F000"):
        make(copy, tmp_path, audio="none")


# Sound.


def test_store_of_a_release(release: Path, tmp_path: Path) -> None:
    store = make(release, tmp_path)
    assert len(store) == 100
    assert store.spec("session5").track == "iemocap_raw/4-logmel/session5"
    assert dict(Counter(store.targets.tolist())) == {0: 20, 1: 40, 2: 20, 3: 20}
    # 0.8 s at a hop of 25 ms.
    assert set(np.diff(store.offsets["audio"])) == {33}
    assert store.spec("session5").dims == {"audio": 64}
    row = store.ids.tolist().index("Ses03M_script01_1b_F002")
    assert (store.groups[row], store.speakers[row]) == ("Ses03M_script01_1b", "Ses03F")
    assert store.transcripts[row] == "Turn 9: what I said. [LAUGHTER]"
    assert dataset("iemocap_raw")(store.path).normalize == "train"
    assert not (tmp_path / "iemocap.h5.clips").exists()
    assert not release.with_name("few.clips").exists()


def test_sound_goes_to_its_own_turn(release: Path, tmp_path: Path) -> None:
    """The strongest band of each turn is that of its own pitch, 200 Hz and 10 Hz more for each turn of the dialog."""
    store = make(release, tmp_path, mels=128, window_ms=128.0)
    centres = librosa.mel_frequencies(130, fmax=8000)[1:-1]
    for row, name in enumerate(store.ids):
        turns = [turn.name for turn in layouts.few_turns(int(name[4]))[name.rpartition("_")[0]]]
        values, _ = store.read("audio", np.array([row]))
        heard = centres[values[5:-5].mean(0).argmax()]
        assert abs(heard - (200 + 10 * turns.index(name))) < 16


@pytest.mark.parametrize(("audio", "dim"), [("mfcc", 13), ("logmel+mfcc", 37)])
def test_sound_features(release: Path, tmp_path: Path, audio: str, dim: int) -> None:
    store = make(release, tmp_path, audio=audio, mels=24, mfccs=13, hop_ms=50.0, keep_tags=False)
    assert store.feature_set == f"4-{audio}"
    assert (store.spec("session5").dims, set(np.diff(store.offsets["audio"]))) == ({"audio": dim}, {17})
    assert store.transcripts[0] == "Turn 0: what I said."


def test_waveforms_are_the_samples_of_the_files(release: Path, tmp_path: Path) -> None:
    store = make(release, tmp_path, classes="6", audio="waveform")
    spec = store.modalities["audio"]
    assert (spec.kind, spec.rate, spec.dim, spec.max_length) == ("waveform", 16_000.0, 1, 12_800)
    for row in (0, 7, len(store) - 1):
        name = store.ids[row]
        path = release / f"Session{name[4]}/sentences/wav/{name.rpartition('_')[0]}/{name}.wav"
        written, rate = soundfile.read(path, dtype="int16")
        assert rate == 16_000
        values, _ = store.read("audio", np.array([row]))
        np.testing.assert_array_equal(values, written)
    data = FusionDataModule(store.path, workers=0, batch_size=4)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert batch.inputs["audio"].values.shape == (4, 12_800)
    assert 0.2 < batch.inputs["audio"].values.abs().max() < 0.3


def test_vectors_make_dialogues(release: Path, tmp_path: Path) -> None:
    sequences = make(release, tmp_path, classes="6")
    values, offsets = sequences.read("audio", np.arange(len(sequences)))
    store = make(release, tmp_path, classes="6", vectors=True)
    assert store.feature_set == "6-logmel-vectors"
    pooled, _ = store.read("audio", np.arange(len(store)))
    for row, (start, stop) in enumerate(pairwise(offsets)):
        steps = values[start:stop].astype(float)
        np.testing.assert_allclose(pooled[row, :64], steps.mean(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(pooled[row, 64:], steps.std(0), rtol=1e-3, atol=1e-3)
    data = FusionDataModule(store.path, dialogue=True, protocol="session5", fold=4)
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert batch.target_mask is not None
    assert (batch.size, int(batch.target_mask.sum())) == (2, 24)
    # In the order of time: the actor with the markers comes first, then the other.
    assert batch.speaker is not None
    names = [sorted(set(store.speakers))[role] for role in batch.speaker[0].tolist()]
    assert names == ["Ses05F"] * 6 + ["Ses05M"] * 6
    with pytest.raises(DataError, match="Vectors are made of sound features"):
        make(release, tmp_path, audio="waveform", vectors=True)


# What cannot be used.


def test_broken_turns_are_left_out_and_named(copy: Path, tmp_path: Path) -> None:
    folder = copy / "Session2" / "sentences" / "wav" / "Ses02F_impro01"
    (folder / "Ses02F_impro01_F000.wav").unlink()
    cut_file(folder / "Ses02F_impro01_F001.wav")
    make_wav(folder / "Ses02F_impro01_F002.wav", 0.8, level=0.0)
    (folder / "._Ses02F_impro01_F000.wav").write_bytes(b"\0\5\26\7")
    make_wav(folder / "Ses02F_impro01_F003.wav", 0.01)  # too short for one window, which is filled with silence
    make_wav(folder / "Ses02F_impro01_F004.wav", 0.8, rate=44_100, channels=2)
    store = make(copy, tmp_path)
    assert len(store) == 97
    notes = "\n".join(store.notes)
    assert "1 clips without sound were left out: Ses02F_impro01_F002." in notes
    assert "2 clips that do not decode were left out: Ses02F_impro01_F000, Ses02F_impro01_F001." in notes
    lengths = dict(zip(store.ids, np.diff(store.offsets["audio"]), strict=True))
    assert (lengths["Ses02F_impro01_F003"], lengths["Ses02F_impro01_F004"]) == (3, 33)


def test_too_many_broken_turns_are_an_error(copy: Path, tmp_path: Path) -> None:
    for path in (copy / "Session1").rglob("*.wav"):
        path.unlink()
    with pytest.raises(DataError, match=r"20 of 100 clips cannot be used.*up to 5% would be left out"):
        make(copy, tmp_path)
    assert not (tmp_path / "iemocap.h5").exists()


@pytest.mark.parametrize("options", [{"mels": 0}, {"every": 0.0}, {"every": float("inf")}, {"size": 0}])
def test_settings_without_a_meaning_are_refused(release: Path, tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(DataError, match="must be above 0"):
        make(release, tmp_path, **options)


def test_the_command_prints_what_came_in(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    command = ["data", "import", "iemocap_release", str(release), "--classes", "4-strict", "--out", "raw.h5"]
    assert main([*command, "--mels", "16", "--hop_ms", "50"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "iemocap_raw/4-strict-logmel: 80 samples, not aligned, multiclass" in text
    assert "audio features 16 17 17.0 17" in text
    for fold in range(5):
        assert f"session5 {fold} 48 16 16 0 0" in text
    assert "class happy 20 12 4 4" in text
    assert "counts of the release are not the published ones" in text
    assert main(["data", "import", "iemocap_release", str(release), "--classes", "4", "--out", "four.h5"]) == 0
    assert summary(FeatureStore(tmp_path / "four.h5")).samples == 100


def test_the_importer_is_registered() -> None:
    assert "iemocap_release" in importers()
