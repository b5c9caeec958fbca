"""Raw media: the same batches as from memory, whoever reads them, and never more than a few in memory."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data_modules import Batch, Corruption, DataError, FeatureStore, FusionDataModule, Sample, StoreInfo, TargetSpec
from data_modules.batches.loading import BatchLoader
from data_modules.batches.phases import Demand, Phase
from data_modules.batches.streaming import StreamedLoader, automatic_workers
from data_modules.schema import MODALITIES, ModalitySpec
from data_modules.store import write_store
from tests.data_modules.batches.parts import fitted

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
    return write_store(path, info, (Sample(f"c{n}", clip(n, times), n % 2, splits[n]) for n in range(count)))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return write_clips(tmp_path_factory.mktemp("clips") / "clips.h5")


def loader(store: FeatureStore, **options: object) -> StreamedLoader:
    data = fitted(store, batch_size=4, **options)
    made = data.train_dataloader()
    assert isinstance(made, StreamedLoader)
    return made


def assert_same(found: Iterable[Batch], expected: Iterable[Batch], names: tuple[str, ...]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert tuple(one.inputs) == names
        assert one.phase == other.phase
        assert torch.equal(one.index, other.index)
        assert torch.equal(one.target, other.target)
        for name, item in one.inputs.items():
            assert torch.equal(item.values, other.inputs[name].values)
            assert torch.equal(item.lengths, other.inputs[name].lengths)


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
def test_orders_and_phases_are_those_of_a_loader_in_memory(store: FeatureStore, workers: int) -> None:
    streamed = loader(store, workers=workers, seed=7)
    streamed.phases = (Phase("half", fraction=0.5), Phase("main"))
    split = streamed.streamed
    resident = BatchLoader(split.load(split.rows), 4, shuffle=True, seed=7, phases=streamed.phases)
    for epoch in (0, 1):
        streamed.set_epoch(epoch)
        resident.set_epoch(epoch)
        before = torch.get_rng_state()
        pairs = list(zip(streamed, resident, strict=True))
        assert len(pairs) == len(streamed)
        assert torch.equal(torch.get_rng_state(), before), "reading must not draw from the training's generator"
        assert_same(*zip(*pairs, strict=True), names=MODALITIES)


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
        write_store(tmp_path / "s.h5", info, [Sample("c0", {name: values}, 0.0, "train")])
    assert not list(tmp_path.iterdir())


def test_another_rate_is_other_content(tmp_path: Path) -> None:
    prints = set()
    for rate in (8000.0, 16000.0):
        info = StoreInfo(
            "mine", "raw", TargetSpec("regression", ("x",)), kinds={"audio": "waveform"}, rates={"audio": rate}
        )
        records = [Sample(s, {"audio": np.arange(9, dtype=np.int16)}, 0.0, s) for s in ("train", "valid", "test")]
        prints.add(write_store(tmp_path / "s.h5", info, records).identity)
    assert len(prints) == 2


def test_a_process_that_may_start_none_reads_itself(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon may start none, such as a process of a pool."""
    expected = list(loader(store, workers=0))
    monkeypatch.setattr(multiprocessing.current_process(), "daemon", True)
    assert_same(loader(store, workers=2), expected, MODALITIES)


def trained(store: FeatureStore, rank: int, world: int, **options: object) -> StreamedLoader:
    """Return the training batches of one of several processes, whose trainer cannot be sent to another one."""
    data = FusionDataModule(store.path, batch_size=4, workers=0, **options)
    strategy = SimpleNamespace(root_device=torch.device("cpu"), lock=threading.Lock())
    data.trainer = SimpleNamespace(lightning_module=None, strategy=strategy, global_rank=rank, world_size=world)
    data.setup("fit")
    return data.train_dataloader()


def test_a_split_of_fewer_samples_than_processes_is_refused(store: FeatureStore) -> None:
    """A process without a sample would leave the others waiting."""
    count = len(FusionDataModule(store.path).rows["train"])
    assert len(list(trained(store, count - 1, count))) == 1
    with pytest.raises(DataError, match=f"split train has {count} samples, and {count + 1} processes share it"):
        trained(store, 0, count + 1)


def test_workers_that_are_not_forked_get_what_reads_and_no_more(store: FeatureStore) -> None:
    made = trained(store, 0, 1, normalize="train")
    sent = pickle.loads(pickle.dumps(made.streamed))
    for rows in (torch.arange(4), torch.tensor([9, 2])):
        assert_same([sent.batch(rows)], [made.streamed.batch(rows)], MODALITIES)


def test_processes_share_the_samples(store: FeatureStore) -> None:
    shares = [[batch.index for batch in trained(store, rank, 3)] for rank in range(3)]
    assert len({len(share) for share in shares}) == 1
    rows = torch.cat([part for share in shares for part in share]).tolist()
    assert set(rows) == set(range(22))
    assert len(rows) == 24, "22 samples wrap around to 8 for each of 3 processes"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_store_that_goes_away_is_named_by_whoever_reads_it(tmp_path: Path, workers: int) -> None:
    made = loader(write_clips(tmp_path / "s.h5"), workers=workers)
    assert len(list(made)) == len(made)
    write_clips(tmp_path / "s.h5", 40)
    with pytest.raises(DataError, match=r"^\S*s\.h5 was replaced after it was opened: start again\.$"):
        list(made)
    (tmp_path / "s.h5").write_bytes((tmp_path / "s.h5").read_bytes()[:5000])
    with pytest.raises(DataError, match=r"^\S*s\.h5 could be opened and cannot be read any more .*Put it back"):
        list(made)


@pytest.mark.parametrize("bucketed", [False, True])
@pytest.mark.parametrize("names", [("vision",), ("text",), ()])
def test_what_a_method_does_not_use_stays_on_disk(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], bucketed: bool
) -> None:
    """The order stays too, in which length buckets are over all modalities."""
    read = FeatureStore.read
    seen = set()

    def noting(self: FeatureStore, name: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.add(name)
        return read(self, name, rows)

    expected = list(loader(store, workers=0, bucketed=bucketed, normalize="train"))
    monkeypatch.setattr(FeatureStore, "read", noting)
    data = FusionDataModule(store.path, batch_size=4, workers=0, bucketed=bucketed, normalize="train")
    track = data.spec.track
    data.demand = Demand(names)
    data.setup("fit")
    assert_same(data.train_dataloader(), expected, names)
    assert set(data.preparation()["scales"]) == seen - {"vision"} == set(names) - {"vision"}
    assert (data.spec.track, tuple(data.spec.modalities)) == (track, MODALITIES)


def test_buckets_are_of_tokens_where_there_are_tokens(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transcripts need not be as long as the vectors of text that they stand for."""

    def tokenize(transcripts: list[str], tokenizer: str) -> tuple[np.ndarray, np.ndarray, ModalitySpec]:
        lengths = 1 + np.arange(len(transcripts)) * 5 % 40
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return np.arange(offsets[-1]), offsets, ModalitySpec("text", 10_000, 40, "tokens")

    monkeypatch.setattr("data_modules.features.tokens.tokenize", tokenize)
    split = loader(store, workers=0, tokenizer="any").streamed
    assert split.sizes.tolist() == split.load(split.rows).sizes.tolist()


def test_clips_of_one_frame_are_no_utterance_vectors(tmp_path: Path) -> None:
    info = StoreInfo("mine", "raw", TargetSpec("regression", ("x",)), kinds={"vision": "frames"})
    inputs = {"vision": np.zeros((1, 3, *SIZE), np.uint8)}
    store = write_store(tmp_path / "s.h5", info, [Sample(s, inputs, 0.0, s, s) for s in ("train", "valid", "test")])
    with pytest.raises(DataError, match=r"Dialogues need utterance vectors.*these are sequences: vision"):
        FusionDataModule(store.path, dialogue=True)


def test_how_many_workers(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(3)), raising=False)
    assert automatic_workers() == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert automatic_workers() == 4
    assert [automatic_workers(trainings) for trainings in (8, 32, 64, 100)] == [4, 1, 0, 0]
    monkeypatch.setenv("MMBENCH_WORKERS", "7")
    assert automatic_workers(8) == 7
    assert FusionDataModule(store.path).workers == 7
    assert FusionDataModule(store.path, workers=0).workers == 0
    monkeypatch.setenv("MMBENCH_WORKERS", "many")
    with pytest.raises(DataError, match="MMBENCH_WORKERS is 'many'"):
        FusionDataModule(store.path)
    with pytest.raises(DataError, match="workers is -1"):
        FusionDataModule(store.path, workers=-1)


def test_workers_end_with_the_last_batch_whoever_holds_the_iterator(store: FeatureStore) -> None:
    others = set(multiprocessing.active_children())  # of other tests, which may take a while to end
    made = loader(store, workers=1)
    batches = iter(made)
    seen = [next(batches).index for _ in range(len(made) - 2)]
    assert len(set(multiprocessing.active_children()) - others) == 1
    seen += [next(batches).index for _ in range(2)]
    assert not set(multiprocessing.active_children()) - others
    assert sorted(torch.cat(seen).tolist()) == list(range(22))


def test_an_interrupt_is_for_the_process_that_trains(store: FeatureStore) -> None:
    """On a terminal workers get Ctrl-C too; the batches still come, until the training itself stops."""
    others = set(multiprocessing.active_children())
    batches = iter(loader(store, workers=1))
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - others
    os.kill(worker.pid, signal.SIGINT)
    assert len(list(batches)) == 5
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
