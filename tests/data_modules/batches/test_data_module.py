"""Batches: what is in them, in which order, on which process, and what a stage may see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data_modules import (
    Corruption,
    DataError,
    FeatureStore,
    FusionDataModule,
    Sample,
    SplitLocked,
    StoreInfo,
    Synthetic,
    TargetSpec,
    dataset,
    datasets,
    write_store,
)
from data_modules.batches.loading import BatchLoader
from data_modules.batches.phases import Demand, Phase
from tests.data_modules.batches.parts import fitted


def order(loader: BatchLoader) -> list[int]:
    return torch.cat([batch.index for batch in loader]).tolist()


def test_a_batch_holds_the_samples_padded_to_its_longest(small_store: FeatureStore) -> None:
    data = fitted(small_store, batch_size=10)
    seen = []
    for batch in data.train_dataloader():
        seen += batch.index.tolist()
        assert batch.target.tolist() == small_store.targets[batch.index.numpy()].tolist()
        for name, sequence in batch.inputs.items():
            values, offsets = small_store.read(name, batch.index.numpy())
            assert sequence.lengths.tolist() == np.diff(offsets).tolist()
            assert sequence.values.shape[1] == sequence.lengths.max()
            assert torch.equal(sequence.values[sequence.mask], torch.from_numpy(values))
            assert not sequence.values[~sequence.mask].any()
    assert sorted(seen) == list(range(64))


def test_the_order_is_a_function_of_seed_and_epoch(small_store: FeatureStore) -> None:
    loader = fitted(small_store, seed=7).train_dataloader()
    orders = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        orders.append(order(loader))
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]
    assert order(fitted(small_store, seed=7).train_dataloader()) == orders[0]
    assert order(fitted(small_store, seed=8).train_dataloader()) != orders[0]
    assert order(fitted(small_store).val_dataloader()) == list(range(64, 88))


def test_lightning_tells_the_loader_the_epoch(small_store: FeatureStore) -> None:
    from lightning.fabric.utilities.data import _set_sampler_epoch

    loader = fitted(small_store).train_dataloader()
    _set_sampler_epoch(loader, 3)
    assert loader.epoch == 3


def test_phases_cut_the_epoch_and_name_its_batches(small_store: FeatureStore) -> None:
    data = fitted(small_store, batch_size=8)
    data.demand = Demand(phases=(Phase("a", fraction=0.5), Phase("b"), Phase("c", same_batch=True)))
    loader = data.train_dataloader()
    phases = [batch.phase for batch in loader]
    assert phases == ["a"] * 4 + ["b"] * 8
    assert len(loader) == 12
    assert {batch.phase for batch in data.val_dataloader()} == {""}
    first, second = ([batch.index.tolist() for batch in loader if batch.phase == phase] for phase in "ab")
    assert first != second[:4]
    assert sorted(row for rows in second for row in rows) == list(range(64))


def test_an_epoch_has_the_phases_that_it_is_in_the_range_of(small_store: FeatureStore) -> None:
    data = fitted(small_store, batch_size=8)
    phases = (Phase("a", stop=2), Phase("b", start=2), Phase("c", start=1, stop=2, fraction=0.5))
    data.demand = Demand(phases=phases)
    loader = data.train_dataloader()
    seen = []
    for epoch in range(4):
        loader.set_epoch(epoch)
        seen.append("".join(batch.phase for batch in loader))
        assert len(loader) == len(seen[-1])
    assert seen == ["a" * 8, "a" * 8 + "c" * 4, "b" * 8, "b" * 8]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("bucketed", [False, True])
def test_processes_share_an_epoch(small_store: FeatureStore, world: int, bucketed: bool) -> None:
    """Training: equally many batches everywhere and every sample seen; evaluation: no sample twice."""
    split = fitted(small_store)._splits
    options = {"shuffle": True, "seed": 1, "bucketed": bucketed, "world": world}
    train = [BatchLoader(split["train"], 6, rank=rank, **options) for rank in range(world)]
    assert len({len(loader) for loader in train}) == 1
    assert all(len(list(loader)) == len(loader) for loader in train)
    assert {row for loader in train for row in order(loader)} == set(range(64))
    valid = [BatchLoader(split["valid"], 5, rank=rank, world=world) for rank in range(world)]
    assert all(len(list(loader)) == len(loader) for loader in valid)
    assert sorted(row for loader in valid for row in order(loader)) == list(range(64, 88))


def test_buckets_hold_samples_of_similar_length_in_random_order(small_store: FeatureStore) -> None:
    def padding(bucketed: bool) -> tuple[float, list[int]]:
        loader = fitted(small_store, batch_size=8, bucketed=bucketed).train_dataloader()
        rows = order(loader)
        assert sorted(rows) == list(range(64))
        steps = [item for batch in loader for item in batch.inputs.values()]
        return 1 - sum(int(s.lengths.sum()) for s in steps) / sum(s.mask.numel() for s in steps), rows

    plain, bucketed = padding(False), padding(True)
    assert bucketed[0] < 0.8 * plain[0]
    loader = fitted(small_store, batch_size=8, bucketed=True).train_dataloader()
    loader.set_epoch(1)
    assert order(loader) != bucketed[1]


def test_each_stage_sees_its_own_splits_only(small_store: FeatureStore) -> None:
    data = fitted(small_store)
    assert set(data._splits) == {"train", "valid"}
    with data.without_test(), pytest.raises(SplitLocked):
        data.setup("test")
    data.teardown("fit")
    data.setup("test")
    assert set(data._splits) == {"test"}
    assert order(data.test_dataloader()) == list(range(88, 112))


def test_a_limit_takes_the_same_samples_for_every_seed(small_store: FeatureStore) -> None:
    one, other = (fitted(small_store, limit=20, seed=seed) for seed in (1, 2))
    assert one.rows["train"].tolist() == other.rows["train"].tolist()
    assert [len(rows) for rows in one.rows.values()] == [20, 20, 20]
    assert one.spec.track.endswith("+limit20")
    assert one.rows["train"].tolist() != list(range(20)), "files are often sorted by label"
    with pytest.raises(DataError, match="limit is -1"):
        FusionDataModule(small_store.path, limit=-1)
    with pytest.raises(DataError, match="no normalisation 'foo'"):
        FusionDataModule(small_store.path, normalize="foo")


def test_standardising_uses_the_training_split_only(small_store: FeatureStore) -> None:
    data = fitted(small_store, normalize="train")
    values, _ = small_store.read("audio", small_store.rows("standard", 0)["train"])
    mean, deviation = values.mean(0, dtype=np.float64), values.std(0, dtype=np.float64)
    for split in ("valid", "test"):
        data.setup("test" if split == "test" else "fit")
        raw, _ = small_store.read("audio", small_store.rows("standard", 0)[split])
        ours = data._splits[split].inputs["audio"].values[:-1].numpy()
        assert ours == pytest.approx((raw - mean) / deviation, abs=1e-4)
    batch = next(iter(data.train_dataloader()))
    assert not batch.inputs["audio"].values[~batch.inputs["audio"].mask].any()


def test_a_corruption_of_rate_zero_is_the_clean_run_bit_by_bit(small_store: FeatureStore) -> None:
    clean, zero = fitted(small_store), fitted(small_store, corruption=Corruption())
    assert clean.spec == zero.spec
    for left, right in zip(clean.train_dataloader(), zero.train_dataloader(), strict=True):
        assert right.complete is None
        for name in left.inputs:
            assert torch.equal(left.inputs[name].values, right.inputs[name].values)


def test_missing_steps_travel_with_their_mask_and_the_complete_view(small_store: FeatureStore) -> None:
    clean = next(iter(fitted(small_store, seed=3).train_dataloader()))
    data = fitted(small_store, seed=3, corruption=Corruption(steps=0.5))
    batch = next(iter(data.train_dataloader()))
    assert batch.complete is not None
    assert batch.kept is not None
    for name, sequence in batch.inputs.items():
        kept, full = batch.kept[name], batch.complete[name]
        assert torch.equal(full.values, clean.inputs[name].values)
        assert torch.equal(sequence.values, full.values * kept[..., None])
        assert not kept[~sequence.mask].any()
        assert 0.3 < kept[sequence.mask].float().mean() < 0.7
    assert "0.5" in data.spec.track


def test_what_is_missing_does_not_depend_on_batch_subset_or_order(small_store: FeatureStore) -> None:
    def kept(**options: object) -> dict[int, list[bool]]:
        data = fitted(small_store, corruption=Corruption(steps=0.4), **options)
        return {
            int(row): mask[:length].tolist()
            for batch in data.train_dataloader()
            for row, mask, length in zip(
                batch.index, batch.kept["audio"], batch.inputs["audio"].lengths.tolist(), strict=True
            )
        }

    full = kept(batch_size=64)
    assert kept(batch_size=7, seed=5) == full
    part = kept(batch_size=4, limit=16)
    assert part == {row: full[row] for row in part}


def test_noise_is_added_to_real_steps_in_units_of_each_feature(small_store: FeatureStore) -> None:
    data = fitted(small_store, corruption=Corruption(noise=0.5), batch_size=64)
    batch = next(iter(data.train_dataloader()))
    scale = data._source.scale("vision")[1]
    sequence, full = batch.inputs["vision"], batch.complete["vision"]
    added = (sequence.values - full.values)[sequence.mask].numpy() / scale
    assert added.std(0) == pytest.approx(np.full(len(scale), 0.5), rel=0.15)
    assert not sequence.values[~sequence.mask].any()


def test_modalities_can_be_chosen(small_store: FeatureStore) -> None:
    data = fitted(small_store, modalities=("vision", "text"))
    assert list(data.spec.modalities) == ["text", "vision"]
    assert list(next(iter(data.train_dataloader())).inputs) == ["text", "vision"]


def test_batches_move_between_devices_as_a_whole(small_store: FeatureStore) -> None:
    data = fitted(small_store, corruption=Corruption(steps=0.2))
    batch = next(iter(data.train_dataloader())).to("meta")
    tensors = [batch.target, batch.index, *batch.kept.values()]
    tensors += [
        item for group in (batch.inputs, batch.complete) for s in group.values() for item in (s.values, s.lengths)
    ]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_a_data_set_refuses_another_one_s_store(small_store: FeatureStore) -> None:
    with pytest.raises(DataError, match="holds 'synthetic', not 'mosi'"):
        dataset("mosi")(small_store.path)
    assert Synthetic(small_store.path).spec.dataset == "synthetic"


def test_a_missing_store_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMBENCH_DATA", str(tmp_path))
    for name, module in datasets().items():
        with pytest.raises(DataError, match="mmbench data") as raised:
            module()
        assert str(tmp_path / f"{name}.h5") in str(raised.value)
    with pytest.raises(DataError, match="Did you mean 'ravdess'"):
        dataset("ravdes")


def test_every_data_set_has_a_complete_card() -> None:
    for module in datasets().values():
        card = module.card
        assert card is not None
        for field in ("title", "citation", "licence", "content", "features", "splits", "defects", "command"):
            assert len(getattr(card, field)) > 5, (module, field)


def test_a_store_of_transcripts_alone_needs_a_tokenizer(tmp_path: Path) -> None:
    records = [Sample(split, {}, 0.0, split, transcript="so it is") for split in ("train", "valid", "test")]
    store = write_store(tmp_path / "said.h5", StoreInfo("mine", "words", TargetSpec("regression", ("s",))), records)
    with pytest.raises(DataError, match=r"said\.h5 holds transcripts only: give a tokenizer"):
        FusionDataModule(store.path)


def test_which_modalities_are_missing_does_not_depend_on_which_are_used(small_store: FeatureStore) -> None:
    def lost(**options: object) -> list[bool]:
        data = fitted(small_store, batch_size=64, corruption=Corruption(modalities=0.6), **options)
        batch = next(iter(data.train_dataloader()))
        order = batch.index.argsort()
        return (~batch.kept["audio"].any(1))[order].tolist()

    everything = lost()
    assert 0 < sum(everything) < 64
    assert lost(modalities=("text", "audio")) == everything
    assert lost(modalities=("audio",)) == everything


def test_noise_has_its_size_after_standardising_too(small_store: FeatureStore) -> None:
    data = fitted(small_store, corruption=Corruption(noise=0.5), normalize="train", batch_size=64)
    batch = next(iter(data.train_dataloader()))
    sequence, full = batch.inputs["vision"], batch.complete["vision"]
    assert (sequence.values - full.values)[sequence.mask].std().item() == pytest.approx(0.5, rel=0.05)


def test_a_constant_feature_gets_no_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    records = [
        Sample(str(i), {"audio": np.stack([np.full(4, 7.0), rng.normal(size=4)], 1)}, 0.0, split)
        for i, split in enumerate(["train"] * 6 + ["valid", "test"])
    ]
    store = write_store(tmp_path / "a.h5", StoreInfo("mine", "a", TargetSpec("regression", ("s",))), records)
    for normalize, value in (("none", 7.0), ("train", 0.0)):
        data = fitted(store, corruption=Corruption(noise=0.5), normalize=normalize)
        values = next(iter(data.train_dataloader())).inputs["audio"].values
        assert values[..., 0].unique().tolist() == [value]
        assert values[..., 1].std() > 0.1


def test_tokens_are_never_standardised_and_missing_ones_become_the_unknown(tmp_path: Path) -> None:
    records = [Sample(s, {"text": np.arange(20) + 5}, 0.0, s) for s in ("train", "valid", "test")]
    target = TargetSpec("regression", ("s",))
    info = StoreInfo("mine", "ids", target, kinds={"text": "tokens"}, sizes={"text": 30}, unknown={"text": 3})
    store = write_store(tmp_path / "t.h5", info, records)
    data = fitted(store, normalize="train", corruption=Corruption(steps=0.5))
    batch = next(iter(data.train_dataloader()))
    seen, kept = batch.inputs["text"].values[0], batch.kept["text"][0]
    assert seen[0] == 5
    assert seen[-1] == 24
    assert torch.equal(seen[kept], torch.arange(20)[kept] + 5)
    assert 0 < (~kept).sum() < 20
    assert set(seen[~kept].tolist()) == {3}


def test_a_tokenizer_makes_text_tokens_of_transcripts(tmp_path: Path) -> None:
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "film", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "tokenizer")
    records = [
        Sample(s, {"audio": np.ones((3, 2))}, 0.0, s, transcript=t)
        for s, t in (("train", "good film"), ("valid", "film"), ("test", "a good one"))
    ]
    info = StoreInfo("mine", "a", TargetSpec("regression", ("s",)), aligned=True)
    store = write_store(tmp_path / "a.h5", info, records)
    data = fitted(store, tokenizer=str(tmp_path / "tokenizer"))
    data.setup("test")
    assert [batch.inputs["text"].values.tolist() for batch in data.test_dataloader()] == [[[2, 1, 4, 1, 3]]]
    text = data.spec.modalities["text"]
    assert (text.kind, text.dim, text.unknown, text.source) == ("tokens", 7, 1, "tokenizer")
    assert not data.spec.aligned
    assert data.spec.track.endswith("+tokens")


def test_a_process_without_samples_has_no_batch(small_store: FeatureStore) -> None:
    split = fitted(small_store, limit=2)._splits["valid"]
    loader = BatchLoader(split, 4, rank=2, world=3)
    assert len(loader) == 0
    assert list(loader) == []
