"""Dialogues: what is in their batches, which utterances follow which, and texts instead of vectors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from data_modules.batches.corruption import Corruption
from data_modules.batches.data_module import FusionDataModule
from data_modules.batches.loading import clip_numbers
from data_modules.schema import Batch, DataError, TargetSpec
from data_modules.store import FeatureStore, Sample, StoreInfo, write_store
from tests.data_modules.batches.parts import fitted

SPLITS = ("train", "valid", "test")


def named_store(path: Path, names: dict[str, list[str]]) -> FeatureStore:
    """Write groups of utterances, each group in all splits, whose target is the place in the list."""
    records = [
        Sample(f"{split}{name}", {"text": np.full((1, 2), place)}, float(place), split, f"{split}{group}")
        for split in SPLITS
        for group, ids in names.items()
        for place, name in enumerate(ids)
    ]
    return write_store(path, StoreInfo("mine", "turns", TargetSpec("regression", ("s",))), records)


def order(store: FeatureStore) -> list[list[str]]:
    """Return the names of the utterances of each training dialogue."""
    data = fitted(store, dialogue=True)
    (batch,) = data.train_dataloader()
    named = [store.ids[row[mask].numpy()] for row, mask in zip(batch.index, batch.target_mask, strict=True)]
    return sorted([name.removeprefix("train") for name in names] for names in named)


def test_numbered_clips_of_a_video_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = {
        "-Abc_9": ["-Abc_9_1", "-Abc_9_10", "-Abc_9_2", "-Abc_9_9"],
        "x": ["x[10]", "x[2]", "x[0]"],
    }
    found = order(named_store(tmp_path / "numbers.h5", names))
    assert found == [["-Abc_9_1", "-Abc_9_2", "-Abc_9_9", "-Abc_9_10"], ["x[0]", "x[2]", "x[10]"]]


def test_other_names_leave_utterances_in_the_order_of_the_store(tmp_path: Path) -> None:
    """Turns of two speakers, numbered apart, come in the order of their time."""
    turns = ["d_F000", "d_M000", "d_F001", "d_M001"]
    names = {"d": turns, "e": ["e_2", "e_end", "e_1"], "f": ["2", "f1"]}
    assert order(named_store(tmp_path / "names.h5", names)) == [["2", "f1"], turns, ["e_2", "e_end", "e_1"]]


def test_clip_numbers() -> None:
    groups = np.array(["a", "a", "b", "b", "c"], object)
    ids = np.array(["a_12", "a[3]", "b_1", "b_x", "c"], object)
    assert clip_numbers(groups, ids).tolist() == [12, 3, 0, 0, 0]
    assert clip_numbers(groups[:0], ids[:0]).tolist() == []


def token_store(path: Path) -> FeatureStore:
    def records():
        random = np.random.default_rng(0)
        for split in SPLITS:
            for dialogue, size in enumerate((3, 1, 4)):
                for turn in range(size):
                    name = f"{split}{dialogue}"
                    inputs = {
                        "text": random.integers(4, 30, random.integers(1, 7)),
                        "audio": random.normal(size=(1, 2)),
                    }
                    yield Sample(f"{name}[{turn}]", inputs, turn % 2, split, name, "AB"[turn % 2])

    target = TargetSpec("multiclass", ("a", "b"))
    info = StoreInfo("mine", "ids", target, kinds={"text": "tokens"}, sizes={"text": 30}, unknown={"text": 3})
    return write_store(path, info, records())


def test_dialogues_of_tokens_know_the_length_of_each_utterance(tmp_path: Path) -> None:
    store = token_store(tmp_path / "t.h5")
    data = fitted(store, dialogue=True, batch_size=2)
    seen = 0
    for batch in data.train_dataloader():
        text, audio, real = batch.inputs["text"], batch.inputs["audio"], batch.target_mask
        assert torch.equal(text.mask, real)
        assert torch.equal(audio.mask, real)
        assert text.steps.shape == real.shape
        assert text.values.shape == (*real.shape, int(text.steps.max()))
        assert audio.steps is None
        assert (text.values[~real] == 0).all()
        assert (text.steps[~real] == 0).all()
        for row, ids, steps in zip(batch.index[real], text.values[real], text.steps[real], strict=True):
            expected, _ = store.read("text", row[None].numpy())
            assert ids[:steps].tolist() == expected.tolist()
            assert (ids[steps:] == 0).all()
            seen += 1
        assert batch.to("meta").inputs["text"].steps.device.type == "meta"
    assert seen == 8


def test_tokens_of_dialogues_go_missing_one_by_one(tmp_path: Path) -> None:
    store = token_store(tmp_path / "t.h5")
    data = fitted(store, dialogue=True, corruption=Corruption(steps=0.5))
    (batch,) = data.train_dataloader()
    real = torch.arange(batch.kept["text"].shape[-1]) < batch.inputs["text"].steps.unsqueeze(-1)
    kept, complete = batch.kept["text"], batch.complete["text"]
    assert kept.shape == complete.values.shape
    assert not kept[~real].any()
    assert 0 < kept.sum() < real.sum()
    assert torch.equal(batch.inputs["text"].values[kept], complete.values[kept])
    assert (batch.inputs["text"].values[real & ~kept] == 3).all()
    assert torch.equal(batch.inputs["text"].steps, complete.steps)
    assert batch.kept["audio"].shape == batch.target_mask.shape


def test_dialogues_of_other_sequences_are_refused(tmp_path: Path) -> None:
    inputs = {"text": np.ones((2, 3)), "audio": np.ones((1, 2))}
    records = [Sample(split, inputs, 0.0, split, split) for split in SPLITS]
    store = write_store(tmp_path / "s.h5", StoreInfo("mine", "long", TargetSpec("regression", ("s",))), records)
    with pytest.raises(DataError, match=r"utterance vectors, or tokens; .* sequences: text\."):
        FusionDataModule(store.path, dialogue=True)


def test_videos_of_the_public_release_are_dialogues_in_order(tmp_path: Path) -> None:
    if "MMBENCH_REAL_DATA" not in os.environ:
        pytest.skip("set MMBENCH_REAL_DATA to the folder with the public files")
    source = Path(os.environ["MMBENCH_REAL_DATA"]) / "mosi" / "bclstm_utterances.npz"
    with np.load(source) as file:
        columns = {key: file[key] for key in ("id", "video", "clip", "bclstm_split", "label")}
    split = np.where(columns["bclstm_split"] == "test", "test", "train")
    split[columns["video"] == columns["video"][0]] = "valid"
    records = [
        Sample(str(name), {"text": np.zeros((1, 1))}, float(label), str(part), str(video))
        for name, label, part, video in zip(columns["id"], columns["label"], split, columns["video"], strict=True)
    ]
    store = write_store(tmp_path / "m.h5", StoreInfo("mosi", "order", TargetSpec("regression", ("s",))), records)
    clips = dict(zip(columns["id"], columns["clip"].astype(int), strict=True))
    data = fitted(store, dialogue=True, batch_size=8)
    data.setup("test")
    sizes = []
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            for row, mask in zip(batch.index, batch.target_mask, strict=True):
                numbers = [clips[name] for name in store.ids[row[mask].numpy()]]
                assert numbers == sorted(numbers)
                sizes.append(len(numbers))
    assert (len(sizes), sum(sizes), max(sizes)) == (93, 2199, 63)


def dialogue_store(path: Path) -> FeatureStore:
    def records():
        rng = np.random.default_rng(1)
        for number, (split, size) in enumerate([("train", 4), ("train", 2), ("valid", 3), ("test", 1), ("train", 5)]):
            for turn in range(size):
                inputs = {name: rng.normal(size=(1, dim)) for name, dim in (("text", 3), ("audio", 2))}
                speaker = "MF"[turn % 2]
                yield Sample(f"d{number}[{turn}]", inputs, (number + turn) % 3, split, f"d{number}", speaker)

    return write_store(path, StoreInfo("mine", "turns", TargetSpec("multiclass", ("a", "b", "c"))), records())


def test_dialogues_are_batches_of_utterances(tmp_path: Path) -> None:
    store = dialogue_store(tmp_path / "d.h5")
    data = fitted(store, dialogue=True, batch_size=2)
    assert data.spec.dialogue
    assert data.spec.speakers == 2
    seen = []
    for batch in data.train_dataloader():
        assert isinstance(batch, Batch)
        assert batch.target_mask is not None
        assert batch.inputs["text"].values.shape == (*batch.target_mask.shape, 3)
        assert torch.equal(batch.inputs["text"].mask, batch.target_mask)
        rows = batch.index[batch.target_mask]
        seen += rows.tolist()
        values, _ = store.read("text", rows.numpy())
        assert torch.equal(batch.inputs["text"].values[batch.target_mask], torch.from_numpy(values))
        assert batch.target[batch.target_mask].tolist() == store.targets[rows.numpy()].tolist()
        assert ["FM"[role] for role in batch.speaker[batch.target_mask]] == list(store.speakers[rows.numpy()])
        for mask, index in zip(batch.target_mask, batch.index, strict=True):
            assert len(set(store.groups[index[mask].numpy()])) == 1
    assert sorted(seen) == sorted(store.rows("standard", 0)["train"].tolist())


def test_dialogues_need_utterance_vectors(small_store: FeatureStore) -> None:
    with pytest.raises(DataError, match="Dialogues need utterance vectors"):
        FusionDataModule(small_store.path, dialogue=True)


def test_dialogues_need_groups_and_all_or_no_speakers(tmp_path: Path) -> None:
    def store(group: str, speakers: str) -> FeatureStore:
        records = [
            Sample(f"{s}{i}", {"text": np.ones((1, 2))}, 0, s, group and f"{group}{s}", speaker.strip())
            for s in ("train", "valid", "test")
            for i, speaker in enumerate(speakers)
        ]
        return write_store(tmp_path / "d.h5", StoreInfo("mine", "d", TargetSpec("multiclass", ("a", "b"))), records)

    with pytest.raises(DataError, match="have none"):
        FusionDataModule(store("", "MF").path, dialogue=True)
    with pytest.raises(DataError, match="name all or none"):
        FusionDataModule(store("d", "M ").path, dialogue=True)
    with pytest.raises(DataError, match="tear dialogues"):
        FusionDataModule(store("d", "MF").path, dialogue=True, limit=2)
