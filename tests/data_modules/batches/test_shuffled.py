"""The control: one modality exchanged between the samples of a split, and nothing else changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from scipy import stats

from data_modules import Batch, Corruption, DataError, FeatureStore, FusionDataModule, Sample, StoreInfo, TargetSpec
from data_modules.batches.corruption import donors, exchanged, sample_keys
from data_modules.batches.phases import Demand
from data_modules.store import write_store
from mmbench.methods.linear import Linear
from tests.data_modules.batches.test_streaming import write_clips

TEXT = Corruption(shuffled="text")


def keys(count: int) -> np.ndarray:
    return sample_keys(f"clip{row}" for row in range(count))


def batches(data: FusionDataModule, split: str) -> list[Batch]:
    data.setup("test" if split == "test" else "fit")
    loader = {"train": data.train_dataloader, "valid": data.val_dataloader, "test": data.test_dataloader}[split]()
    return list(loader)


def by_row(data: FusionDataModule, split: str, name: str) -> dict[int, bytes]:
    """Return the bytes of one modality of each sample, without padding, by its row in the store."""
    return {
        int(row): batch.inputs[name].values[place, : batch.inputs[name].lengths[place]].numpy().tobytes()
        for batch in batches(data, split)
        for place, row in enumerate(batch.index)
    }


class TestDonors:
    @pytest.mark.parametrize("count", [2, 3, 50])
    def test_everybody_gives_once_and_nobody_keeps(self, count):
        found = donors(keys(count), TEXT)
        assert sorted(found) == list(range(count))
        assert (found != np.arange(count)).all()

    def test_only_ids_seed_and_modality_decide(self):
        names, found = keys(40), donors(keys(40), TEXT)
        order = np.random.default_rng(0).permutation(40)
        assert (order[donors(names[order], TEXT)] == found[order]).all()
        for other in (Corruption(shuffled="text", seed=2), Corruption(shuffled="audio")):
            assert (donors(names, other) != found).any()

    def test_every_other_sample_is_as_likely(self):
        given = [donors(keys(6), Corruption(shuffled="text", seed=seed))[0] for seed in range(1000)]
        counts = np.bincount(given, minlength=6)
        assert counts[0] == 0
        assert stats.chisquare(counts[1:]).pvalue > 1e-3

    def test_rows_outside_the_splits_keep_theirs(self):
        ids = np.array([f"clip{row}" for row in range(6)], object)
        found = exchanged(ids, [np.array([5, 1]), np.array([], np.int64), np.array([0, 2, 4])], TEXT)
        assert found[[5, 1, 3]].tolist() == [1, 5, 3]
        assert sorted(found[[0, 2, 4]]) == [0, 2, 4]
        assert (exchanged(ids, [np.arange(6)], Corruption(steps=0.5)) == np.arange(6)).all()


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("normalize", ["none", "train"])
def test_a_split_keeps_its_sequences_and_no_sample_keeps_its_own(small_store, split, normalize):
    clean, mixed = (FusionDataModule(small_store.path, normalize=normalize, corruption=c) for c in (None, TEXT))
    before, after = by_row(clean, split, "text"), by_row(mixed, split, "text")
    assert sorted(before.values()) == sorted(after.values())
    assert len(set(before.values())) == len(before)
    assert all(after[row] != before[row] for row in before)
    for name in ("audio", "vision"):
        assert by_row(mixed, split, name) == by_row(clean, split, name)
    for one, other in zip(batches(clean, split), batches(mixed, split), strict=True):
        assert torch.equal(one.index, other.index)
        assert torch.equal(one.target, other.target)
        assert other.complete is None
        assert other.kept is None


def test_epochs_batches_and_orders_do_not_matter(small_store):
    data = FusionDataModule(small_store.path, corruption=TEXT)
    expected = by_row(data, "train", "text")
    loader = data.train_dataloader()
    loader.set_epoch(3)
    assert [batch.index.tolist() for batch in loader] != [batch.index.tolist() for batch in batches(data, "train")]
    for options in ({"batch_size": 5}, {"seed": 8}, {"bucketed": True}, {"modalities": ("text",)}):
        assert by_row(FusionDataModule(small_store.path, corruption=TEXT, **options), "train", "text") == expected
    alone = FusionDataModule(small_store.path, corruption=TEXT)
    alone.demand = Demand(("text",))
    assert by_row(alone, "train", "text") == expected


def test_missing_steps_are_taken_from_what_was_exchanged(small_store):
    data = FusionDataModule(small_store.path, batch_size=64, corruption=Corruption(shuffled="text", steps=0.5))
    (batch,) = batches(data, "train")
    assert by_row(FusionDataModule(small_store.path, corruption=TEXT), "train", "text") == {
        int(row): batch.complete["text"].values[place, : batch.complete["text"].lengths[place]].numpy().tobytes()
        for place, row in enumerate(batch.index)
    }
    seen, whole = batch.inputs["text"].values, batch.complete["text"].values
    assert torch.equal(seen, whole * batch.kept["text"][..., None])


@pytest.mark.parametrize("name", ["text", "vision"])
def test_streamed_samples_are_those_in_memory(tmp_path, name):
    """Of a batch that is read on its own, partners are those of the whole split; lengths are what buckets sort by."""
    store = write_clips(tmp_path / "clips.h5")
    data = FusionDataModule(store.path, batch_size=4, workers=0, corruption=Corruption(shuffled=name))
    streamed = by_row(data, "train", name)
    split = data.train_dataloader().streamed
    resident = split.load(split.rows)
    assert (resident.sizes == split.sizes).all()
    whole = resident.batch(torch.arange(len(split.rows)))
    for place, row in enumerate(whole.index.tolist()):
        item = whole.inputs[name]
        assert item.values[place, : item.lengths[place]].numpy().tobytes() == streamed[row]
    clean = by_row(FusionDataModule(store.path, batch_size=4, workers=0), "train", name)
    assert sorted(clean.values()) == sorted(streamed.values())
    assert all(clean[row] != streamed[row] for row in clean)


def test_the_track_says_what_is_shuffled(small_store):
    assert FusionDataModule(small_store.path, corruption=TEXT).spec.variant == "shuffled-text"
    both = Corruption(shuffled="audio", steps=0.3, seed=2)
    assert both.variant == "missing-steps0.3+shuffled-audio+seed2"


def test_what_has_no_shuffle_says_nothing_of_it():
    """As in the records from before there was one, whose ids hang on it."""
    assert Corruption(steps=0.5).to_dict() == {"steps": 0.5, "modalities": 0.0, "noise": 0.0, "seed": 1111}
    assert Corruption(**TEXT.to_dict()) == TEXT


def store_of(path: Path, count: int, steps: int = 1, text_tells: bool = True, test: int = 60) -> FeatureStore:
    """Write samples whose class is in the text, if in anything."""
    random = np.random.default_rng(0)

    def records():
        for row in range(count):
            label = row % 2
            text, audio = random.normal(size=(steps, 3)), random.normal(size=(steps, 3))
            text[:, 0] += 6 * label * text_tells
            split = "valid" if row >= count - 60 else "test" if row < test else "train"
            yield Sample(f"g{row}", {"text": text, "audio": audio}, label, split, f"v{row // 4}", "s")

    info = StoreInfo("mine", "made", TargetSpec("multiclass", ("a", "b")), aligned=True)
    return write_store(path, info, records())


def test_a_method_falls_to_chance_when_all_it_had_is_shuffled(tmp_path):
    """300 fair decisions are wrong in 116 to 184 cases, four standard deviations."""
    store = store_of(tmp_path / "told.h5", 760, test=300)
    right = {}
    for shuffled in ("", "audio", "text"):
        data = FusionDataModule(store.path, corruption=Corruption(shuffled=shuffled))
        model = Linear(data.spec)
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(accelerator="cpu", max_epochs=1, enable_checkpointing=False, **quiet)
        trainer.fit(model, datamodule=data)
        trainer.test(model, datamodule=data, verbose=False)
        prediction, target, _ = model.test_metric.gathered()
        right[shuffled] = int((prediction.argmax(1) == target).sum())
    assert right[""] > 290
    assert right["audio"] > 290
    assert 116 <= right["text"] <= 184


def test_steps_are_no_longer_aligned_where_there_are_several(tmp_path):
    single, several = (store_of(tmp_path / f"{steps}.h5", 150, steps).path for steps in (1, 2))
    assert FusionDataModule(single, corruption=TEXT).spec.aligned
    assert FusionDataModule(several).spec.aligned
    assert not FusionDataModule(several, corruption=TEXT).spec.aligned


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corruption": Corruption(shuffled="vision")}, "mine/made/standard has no 'vision' that could be shuffled"),
        ({"corruption": TEXT, "modalities": ("audio",)}, "has no 'text' that could be shuffled: audio"),
        ({"corruption": TEXT, "dialogue": True}, "The text of dialogues cannot be shuffled: use methods of single"),
        ({"corruption": TEXT, "limit": 1}, "A split of one sample has nothing that could be shuffled"),
    ],
)
def test_what_cannot_be_shuffled_is_refused(tmp_path, options, message):
    store = store_of(tmp_path / "made.h5", 150)
    with pytest.raises(DataError, match=message):
        FusionDataModule(store.path, **options)


def test_an_unknown_modality_names_the_nearest():
    with pytest.raises(DataError, match=r"What is shuffled: There is no modality 'txt'\. Did you mean 'text'"):
        Corruption(shuffled="txt")
