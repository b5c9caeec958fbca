"""One's own clips: real small files in, a store out, names and transcripts, and what the store is known by."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import BertModel

from data_modules import DataError, FeatureStore, FusionDataModule, Sample, StoreInfo, TargetSpec
from data_modules.datasets.ravdess import importer as ravdess
from data_modules.datasets.ravdess import media as ravdess_media
from data_modules.features import media
from data_modules.features.audio import log_mel
from data_modules.features.encoders import TextEncoder
from data_modules.features.faces import CentreCrop
from data_modules.features.media import read_frames, read_sound
from data_modules.features.sampling import Sampling
from data_modules.importers.extract import Extractors, extract_store, find_clips, read_transcripts
from data_modules.store import write_store
from mmbench.cli import main
from mmbench.methods.lf_dnn import LFDNN
from tests.data_modules.media_files import make_mp4, make_wav, tone
from tests.data_modules.stores import another_processor
from tests.methods.training import fit

RATE = 16_000


@pytest.fixture(scope="module")
def image_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Save a tiny ResNet that says how its pictures are normalised."""
    import json

    from transformers import ResNetConfig, ResNetModel

    folder = tmp_path_factory.mktemp("image") / "tiny-resnet"
    torch.manual_seed(0)
    ResNetModel(
        ResNetConfig(embedding_size=6, hidden_sizes=[6, 10], depths=[1, 1], layer_type="basic")
    ).save_pretrained(folder)
    said = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "size": {"shortest_edge": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return str(folder)


@pytest.mark.gpu
def test_a_gpu_reads_the_same(text_encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = TextEncoder(text_encoder)
    assert there.model.device.type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    np.testing.assert_allclose(there("good film"), TextEncoder(text_encoder)("good film"), atol=1e-4)


def test_every_extractor_gives_what_its_library_gives(tmp_path: Path, text_encoder: str, image_encoder: str) -> None:
    from transformers import AutoModel, AutoTokenizer

    path = make_mp4(tmp_path / "clips" / "one.mp4", seconds=2.0, fps=10)
    path.with_suffix(".txt").write_text("good film\n")
    wanted = Extractors(text=text_encoder, vision=image_encoder, face="none", every=0.5, size=32)
    store = extract_store([tmp_path / "clips"], tmp_path / "own.h5", wanted)
    assert (list(store.ids), list(store.transcripts)) == (["one"], ["good film"])
    text, audio, vision = (store.read(name, np.array([0]))[0] for name in ("text", "audio", "vision"))

    tokens = AutoTokenizer.from_pretrained(text_encoder)("good film", return_tensors="pt")
    with torch.no_grad():
        expected = AutoModel.from_pretrained(text_encoder).eval()(**tokens).last_hidden_state[0]
    assert np.allclose(text, expected, atol=1e-6)
    assert tokens["input_ids"].tolist() == [[2, 5, 6, 3]]

    assert np.allclose(audio, log_mel(read_sound(path, RATE), RATE), atol=1e-4)

    pictures = torch.from_numpy(read_frames(path, Sampling(every=0.5), (32, 32)))
    with torch.no_grad():
        pixels = (pictures / 255 - 0.5) / 0.25
        expected = AutoModel.from_pretrained(image_encoder).eval()(pixel_values=pixels).pooler_output.flatten(1)
    assert vision.shape == (4, 10)
    assert np.allclose(vision, expected, atol=1e-5)
    assert store.modalities["text"].source == "tiny-bert, hidden states of the last layer"
    assert store.modalities["vision"].source.startswith(
        "tiny-resnet, pooled vector of each picture; a picture every 0.5"
    )
    assert store.feature_set == "tiny-bert-logmel-tiny-resnet"


def test_a_store_of_own_clips_is_known_by_files_texts_and_weights(
    tmp_path: Path, text_encoder: str, image_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_mp4(tmp_path / "clips" / "one.mp4", seconds=1.0, fps=10)
    path.with_suffix(".txt").write_text("good film\n")

    def made(text: str = text_encoder, **options: object) -> FeatureStore:
        wanted = {"vision": image_encoder, "face": "none", "size": 32, **options}
        return extract_store([tmp_path / "clips"], tmp_path / "own.h5", Extractors(text=text, **wanted))  # type: ignore[arg-type]

    here = made()
    assert set(here.recipes) == {"text", "audio", "vision"}
    assert here.origins["audio"].tolist() == [hashlib.sha256(path.read_bytes()).hexdigest()]
    assert {"transformers", "torch", "librosa", "av"} <= set(here.libraries)
    # The same weights in another place; no setting names a folder.
    shutil.copytree(text_encoder, tmp_path / "elsewhere" / "tiny-bert")
    assert made(str(tmp_path / "elsewhere" / "tiny-bert")).identity == here.identity
    assert str(tmp_path) not in str(here.recipes)
    assert Path(text_encoder).parent.as_posix() not in str(here.recipes)
    changed = tmp_path / "changed" / "tiny-bert"
    shutil.copytree(text_encoder, changed)
    model = BertModel.from_pretrained(changed, add_pooling_layer=False)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[5, 0] += 1e-3
    model.save_pretrained(changed)
    assert made(str(changed)).recipes["text"] != here.recipes["text"]
    assert made(trim_db=30.0).identity != here.identity
    assert made(every=0.25).identity != here.identity
    another_processor(monkeypatch)
    there = made()
    assert there.identity == here.identity
    assert there.content != here.content


def test_long_texts_are_cut_to_what_the_encoder_can_read(text_encoder: str) -> None:
    assert TextEncoder(text_encoder)("good film " * 20).shape == (16, 12)


def test_media_stay_raw_when_asked_for(tmp_path: Path) -> None:
    path = make_mp4(tmp_path / "one.mp4", seconds=1.0, fps=10)
    wanted = Extractors(audio="waveform", rate=8000, face="centre", frames=4, size=20)
    store = extract_store([path], tmp_path / "own.h5", wanted)
    audio, vision = store.modalities["audio"], store.modalities["vision"]
    assert (audio.kind, audio.rate) == ("waveform", 8000)
    assert (vision.kind, vision.size, vision.max_length) == ("frames", (20, 20), 4)
    heard, _ = store.read("audio", np.array([0]))
    assert np.allclose(heard / 32768, read_sound(path, 8000), atol=1 / 32768)
    assert not (tmp_path / "own.h5.clips").exists()


@pytest.mark.parametrize("vision", ["frames", "encoder"])
def test_all_pictures_of_clips(tmp_path: Path, vision: str, request: pytest.FixtureRequest) -> None:
    path = make_mp4(tmp_path / "one.mp4", seconds=1.0, fps=10)
    encoder = request.getfixturevalue("image_encoder") if vision == "encoder" else vision
    wanted = Extractors(audio="none", vision=encoder, face="none", every=0.0, size=32)
    modality = extract_store([path], tmp_path / "own.h5", wanted).modalities["vision"]
    assert (modality.max_length, modality.rate) == (10, 0.0)
    assert modality.source.endswith("all pictures, squashed to 32 x 32")


def test_the_middle_is_cut_out_while_a_clip_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long clip is no longer too large for being wide; only a detector needs its pictures whole."""
    path = make_mp4(tmp_path / "one.mp4", seconds=1.0, fps=10, size=(48, 64))
    monkeypatch.setattr(media, "TOO_LARGE", 10 * 20 * 20 * 3)
    options = {"audio": "none", "every": 0.1, "size": 20}
    made = Extractors(face="centre", **options)(path, "")["vision"]
    with pytest.raises(DataError, match=r"10 pictures of 48 x 64.*do without finding faces"):
        Extractors(face="detector", **options)(path, "")
    monkeypatch.setattr(media, "TOO_LARGE", 1 << 30)
    np.testing.assert_array_equal(made, CentreCrop(20)(read_frames(path, Sampling(every=0.1))).pictures)


def test_silence_at_both_ends_is_cut_when_asked_for(tmp_path: Path) -> None:
    sound = np.concatenate([np.zeros(RATE), tone(1.0, RATE)[:, 0], np.zeros(RATE)])
    soundfile.write(tmp_path / "one.wav", sound, RATE)
    cut, whole = (
        Extractors(audio="waveform", vision="none", trim_db=db)(tmp_path / "one.wav", "")["audio"] for db in (35.0, 0.0)
    )
    assert len(whole) == 3 * RATE
    assert len(cut) == pytest.approx(RATE, abs=4096)  # the measure is taken in 2048 samples


def test_the_same_settings_have_the_same_words_as_in_the_importers(tmp_path: Path) -> None:
    """Or `mmbench predict` warns of features that are equal."""
    for face in ("none", "centre", "detector"):
        for taken in ({"frames": 30, "every": 0.0}, {"frames": 0, "every": 0.5}, {"frames": 0, "every": 0.0}):
            settings = ravdess_media._Settings("av", "whole", size=224, rate=44_100, face=face, **taken)
            own = Extractors(audio="waveform", size=224, rate=44_100, face=face, **taken)
            assert own.info()[0] == ravdess_media._sources(settings)
    for actor in range(1, 25):
        make_wav(tmp_path / f"Actor_{actor:02d}" / f"03-01-01-01-01-01-{actor:02d}.wav", 0.1)
    for kind in ("logmel", "mfcc"):
        imported = ravdess.read(tmp_path, audio_features=kind).info.sources["audio"]
        assert Extractors(audio=kind, vision="none", trim_db=35.0).info()[0]["audio"] == imported


def test_from_files_to_a_table_of_predictions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained on clips of low and high tones, a method names the tones of clips that it has not seen."""
    wanted = Extractors(vision="none")
    records = []
    for split, count in (("train", 12), ("valid", 4), ("test", 4)):
        for number in range(count):
            pitch = (250.0, 2000.0)[number % 2] * (1 + number / 50)
            clip = make_wav(tmp_path / "train" / f"{split}{number}.wav", 0.5, hertz=pitch, level=0.1 + number / 50)
            records.append(Sample(f"{split}{number}", wanted(clip, ""), number % 2, split))
    info = StoreInfo("tones", "logmel", TargetSpec("multiclass", ("low", "high")), sources=wanted.info()[0])
    data = FusionDataModule(write_store(tmp_path / "tones.h5", info, records).path, batch_size=4, normalize="train")
    torch.manual_seed(0)
    trainer = fit(LFDNN(data.spec), lambda: data, 8, default_root_dir=tmp_path)
    trainer.save_checkpoint(tmp_path / "tones.ckpt")
    for name, pitch in (("deep", 240.0), ("shrill", 2100.0)):
        make_wav(tmp_path / "own" / f"{name}.wav", 0.6, hertz=pitch)
    out, table = str(tmp_path / "own.h5"), str(tmp_path / "said.csv")
    assert main(["data", "extract", str(tmp_path / "own"), "--out", out, "--vision", "none"]) == 0
    command = ["predict", "--checkpoint", str(tmp_path / "tones.ckpt"), "--data", out, "--accelerator", "cpu"]
    assert main([*command, "--out", table]) == 0
    rows = [line.split(",")[:2] for line in Path(table).read_text().splitlines()]
    assert rows == [["id", "label"], ["deep", "low"], ["shrill", "high"]]
    assert "shrill" in capsys.readouterr().out


def test_names_are_paths_below_the_folder_and_must_differ(tmp_path: Path) -> None:
    for name in ("a/one.mp4", "b/one.mp4", "b/.hidden.mp4", "b/notes.txt", "b/two.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    clips, others = find_clips([tmp_path], sound_alone=False)
    assert (list(clips), others) == (["a/one", "b/one"], ["two.wav"])
    clips, others = find_clips([tmp_path / "b"], sound_alone=True)
    assert (list(clips), others) == (["one", "two"], [])
    # As the shell gives `b/*`.
    (tmp_path / "b" / "one.txt").touch()
    clips, others = find_clips(sorted((tmp_path / "b").glob("[!.]*")), sound_alone=False)
    assert (list(clips), others) == (["one"], ["notes.txt", "two.wav"])
    with pytest.raises(DataError, match="would both be the clip 'one'"):
        find_clips([tmp_path / "a", tmp_path / "b"], sound_alone=False)
    with pytest.raises(DataError, match="There is nothing at"):
        find_clips([tmp_path / "c"], sound_alone=False)
    with pytest.raises(DataError, match=r"There is no clip in .*\.mp4.*--vision none"):
        find_clips([tmp_path / "b" / "two.wav"], sound_alone=False)


def test_transcripts_of_a_table_or_beside_the_clips(tmp_path: Path) -> None:
    clips = {"one": tmp_path / "one.mp4", "two": tmp_path / "two.mp4", "three": tmp_path / "three.mp4"}
    (tmp_path / "one.txt").write_text("\ufeff so it is \n", "utf-8")
    (tmp_path / "two.txt").write_text("  \n")
    assert read_transcripts(None, clips) == {"one": "so it is"}
    table = tmp_path / "said.tsv"
    table.write_text("id\ttext\none\tNA\ntwo.mp4\tyes, no\nthree\t \n")
    assert read_transcripts(table, clips) == {"one": "NA", "two": "yes, no"}
    table.write_text("clip\ttext\n")
    with pytest.raises(DataError, match=r"lacks the column id; it has: clip, text"):
        read_transcripts(table, clips)
    table.write_text("id\ttext\n1.mp4\tyes\n")
    with pytest.raises(
        DataError, match=r"names none of the clips: its ids are like '1\.mp4', the clips are like 'one'"
    ):
        read_transcripts(table, clips)
    table.write_text("id\ttext\none\tyes\none\tno\n")
    with pytest.raises(DataError, match="has two rows for 'one'"):
        read_transcripts(table, clips)
    with pytest.raises(DataError, match="is not readable as a table"):
        read_transcripts(tmp_path / "none.csv", clips)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio": "none", "vision": "none"}, "are all none"),
        ({"size": 0}, r"The size \(0\)"),
        ({"every": -1.0}, "Pictures are taken"),
        ({"trim_db": -1.0}, "Ends of -1 dB cannot be cut"),
    ],
)
def test_extractors_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Extractors(**options)


def test_sound_that_phones_record(tmp_path: Path) -> None:
    path = make_mp4(tmp_path / "memo.mp4", picture=False, sound_seconds=1.0, frames=np.zeros((1, 2, 2, 3), np.uint8))
    path.rename(tmp_path / "memo.m4a")
    store = extract_store([tmp_path], tmp_path / "own.h5", Extractors(vision="none"))
    assert list(store.ids) == ["memo"]
