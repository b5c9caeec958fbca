"""Raw media: the same batches as from memory, whoever reads them, and never more than a few in memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from data_modules import Batch, Corruption, DataError, FeatureStore, FusionDataModule, Record, StoreInfo, TargetSpec
from data_modules.loading import BatchLoader, Pass
from data_modules.store_writer import write_store
from data_modules.streaming import StreamedLoader

SIZE = (8, 12)


def clip(number: int, times: int = 1) -> dict[str, np.ndarray]:
    random = np.random.default_rng(number)
    return {
        "text": random.normal(size=(1 + number % 3, 4)).astype(np.float32),
        "audio": random.integers(-(1 << 15), 1 << 15, times * (50 + number % 30)).astype(np.int16),
        "vision": random.integers(0, 256, (times * (1 + number % 5), 3, *SIZE)).astype(np.uint8),
    }


def write_clips(path: Path, count: int = 30, times: int = 1) -> FeatureStore:
    info = StoreInfo(
        "mine",
        "raw",
        TargetSpec("multiclass", ("a", "b")),
        kinds={"audio": "waveform", "vision": "frames"},
        rates={"audio": 100.0, "vision": 5.0},
    )
    splits = ["train"] * (count - 8) + ["valid"] * 4 + ["test"] * 4
    return write_store(path, info, (Record(f"c{n}", clip(n, times), n % 2, splits[n]) for n in range(count)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return write_clips(tmp_path_factory.mktemp("clips") / "clips.h5")


def loader(store: FeatureStore, **options: object) -> StreamedLoader:
    data = FusionDataModule(store.path, batch_size=4, **options)
    data.setup("fit")
    made = data.train_dataloader()
    assert isinstance(made, StreamedLoader)
    return made


def test_the_store_says_what_media_it_holds(store: FeatureStore) -> None:
    audio, vision = store.modalities["audio"], store.modalities["vision"]
    assert (audio.kind, audio.rate, audio.dim, audio.max_length) == ("waveform", 100.0, 1, 79)
    assert (vision.kind, vision.rate, vision.dim, vision.size, vision.max_length) == ("frames", 5.0, 3, SIZE, 5)
    assert store.spec("standard").media == ("audio", "vision")
    assert type(store.spec("standard")).from_dict(store.spec("standard").to_dict()) == store.spec("standard")
    store.verify()


def test_batches_hold_what_was_written(store: FeatureStore) -> None:
    seen = []
    for batch in loader(store, workers=0):
        assert isinstance(batch, Batch)
        assert batch.inputs["vision"].values.dtype == torch.uint8
        for place, row in enumerate(batch.index.tolist()):
            for name, item in batch.inputs.items():
                length = int(item.lengths[place])
                written = clip(row)[name]
                if name == "audio":
                    written = written.astype(np.float32) / 32768
                assert np.array_equal(item.values[place, :length].numpy(), written)
                assert not item.values[place, length:].any()
        seen += batch.index.tolist()
    assert sorted(seen) == list(range(22))


@pytest.mark.parametrize("workers", [0, 2])
def test_orders_and_stages_are_those_of_a_loader_in_memory(store: FeatureStore, workers: int) -> None:
    streamed = loader(store, workers=workers, seed=7)
    streamed.passes = {0: Pass(fraction=0.5), 1: Pass()}
    split = streamed.streamed
    resident = BatchLoader(split.load(split.rows), 4, shuffle=True, seed=7, passes=streamed.passes)
    for epoch in (0, 1):
        streamed.set_epoch(epoch)
        resident.set_epoch(epoch)
        before = torch.get_rng_state()
        pairs = list(zip(streamed, resident, strict=True))
        assert len(pairs) == len(streamed)
        assert torch.equal(torch.get_rng_state(), before), "reading must not draw from the training's generator"
        for one, other in pairs:
            assert one.stage == other.stage
            assert torch.equal(one.index, other.index)
            assert torch.equal(one.target, other.target)
            for name, item in one.inputs.items():
                assert torch.equal(item.values, other.inputs[name].values)
                assert torch.equal(item.lengths, other.inputs[name].lengths)


def test_features_beside_media_are_normalised_as_ever(store: FeatureStore) -> None:
    plain, scaled = (next(iter(loader(store, workers=0, normalize=how))) for how in ("none", "train"))
    written = np.concatenate([clip(row)["text"] for row in range(22)])
    expected = (plain.inputs["text"].values.numpy() - written.mean(0)) / written.std(0)
    mask = plain.inputs["text"].mask.numpy()
    assert np.allclose(scaled.inputs["text"].values.numpy()[mask], expected[mask], atol=1e-5)
    assert torch.equal(scaled.inputs["vision"].values, plain.inputs["vision"].values)


def test_memory_does_not_grow_with_the_number_of_clips(tmp_path: Path) -> None:
    peaks = []
    for count in (60, 240):
        made = write_clips(tmp_path / f"{count}.h5", count, times=50)
        tracemalloc.start()
        for _ in loader(made, workers=0):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    media = sum(item.nbytes for number in range(240) for item in clip(number, 50).values())
    assert peaks[1] - peaks[0] < 0.02 * media, (peaks, media)


def test_corruption_of_media_is_refused(store: FeatureStore) -> None:
    with pytest.raises(DataError, match=r"these are raw: audio, vision.*store of features"):
        FusionDataModule(store.path, corruption=Corruption(steps=0.5))
    FusionDataModule(store.path, modalities=("text",), corruption=Corruption(steps=0.5))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("vision", np.zeros((2, 3, 8, 12), np.float32)),
        ("vision", np.zeros((3, 8, 12), np.uint8)),
        ("audio", np.zeros(5, np.float32)),
        ("audio", np.zeros((5, 2), np.int16)),
    ],
)
def test_media_of_another_form_are_refused(tmp_path: Path, name: str, values: np.ndarray) -> None:
    info = StoreInfo("mine", "raw", TargetSpec("regression", ("x",)), kinds={"audio": "waveform", "vision": "frames"})
    with pytest.raises(DataError, match=rf"'c0' has {name}.*uint8 \(frames, 3, height, width\).*int16"):
        write_store(tmp_path / "s.h5", info, [Record("c0", {name: values}, 0.0, "train")])
    assert not list(tmp_path.iterdir())


def test_another_rate_is_other_content(tmp_path: Path) -> None:
    prints = set()
    for rate in (8000.0, 16000.0):
        info = StoreInfo(
            "mine", "raw", TargetSpec("regression", ("x",)), kinds={"audio": "waveform"}, rates={"audio": rate}
        )
        records = [Record(s, {"audio": np.arange(9, dtype=np.int16)}, 0.0, s) for s in ("train", "valid", "test")]
        prints.add(write_store(tmp_path / "s.h5", info, records).fingerprint)
    assert len(prints) == 2
