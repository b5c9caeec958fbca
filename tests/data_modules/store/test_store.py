"""The feature store: round trip, repairs, refusals, and what a damaged file says."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_modules import DataError, FeatureStore, Sample, StoreInfo, TargetSpec, write_store

INFO = StoreInfo("mine", "random", TargetSpec("regression", ("sentiment",), -3, 3), sources={"text": "dice"})
LENGTHS = {"text": (3, 1, 5, 2, 4, 1), "audio": (7, 2, 1, 9, 3, 3)}
SPLITS = ("train", "test", "train", "valid", "train", "test")


def records(**changes: object) -> Iterator[Sample]:
    rng = np.random.default_rng(0)
    for row, split in enumerate(SPLITS):
        inputs = {name: rng.normal(size=(lengths[row], 2)) for name, lengths in LENGTHS.items()}
        yield Sample(f"v{row // 2}[{row}]", inputs, row / 2 - 1, split, f"v{row // 2}", f"s{row % 2}", f"words {row}")


def test_round_trip(tmp_path: Path) -> None:
    store = write_store(tmp_path / "a.h5", INFO, records())
    again = FeatureStore(tmp_path / "a.h5")
    originals = list(records())
    assert list(again.ids) == [record.id for record in originals]
    assert list(again.transcripts) == [record.transcript for record in originals]
    assert again.targets == pytest.approx([record.target for record in originals])
    rows = again.rows("standard", 0)
    assert {name: list(split) for name, split in rows.items()} == {"train": [0, 2, 4], "valid": [3], "test": [1, 5]}
    for order in ([0, 1, 2, 3, 4, 5], [2, 4], [5, 0, 1, 3], [3]):
        for name in LENGTHS:
            values, offsets = again.read(name, np.array(order))
            expected = [originals[row].inputs[name] for row in order]
            assert values == pytest.approx(np.concatenate(expected).astype(np.float32))
            assert list(np.diff(offsets)) == [len(item) for item in expected]
    assert again.modalities["audio"].max_length == 9
    assert again.modalities["text"].source == "dice"
    assert again.identity == store.identity
    again.verify()


def test_numbers_that_are_none_in_any_bits_are_counted_without_a_warning(tmp_path: Path) -> None:
    odd = np.array([0x7FF0000000000001, 0xFFF8000000000000], np.uint64).view(np.float64)  # a signalling NaN, and -NaN

    def broken() -> Iterator[Sample]:
        for row, record in enumerate(records()):
            if row == 0:
                record.inputs["text"] = np.vstack([odd, np.zeros((2, 2))])
            yield record

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = write_store(tmp_path / "a.h5", INFO, broken())
    assert store.repairs["text"] == {"nan": 2, "inf": 0, "empty": 0}


def test_bad_numbers_and_empty_sequences_are_repaired_and_counted(tmp_path: Path) -> None:
    def broken() -> Iterator[Sample]:
        for row, record in enumerate(records()):
            if row == 0:
                record.inputs["text"][0] = [np.nan, -np.inf]
                record.inputs["audio"] = np.empty((0, 2))
            yield record

    store = write_store(tmp_path / "a.h5", INFO, broken())
    assert store.repairs["text"] == {"nan": 1, "inf": 1, "empty": 0}
    assert store.repairs["audio"] == {"nan": 0, "inf": 0, "empty": 1}
    text, _ = store.read("text", np.array([0]))
    assert list(text[0]) == [0, 0]
    audio, offsets = store.read("audio", np.array([0]))
    assert audio.tolist() == [[0, 0]]
    assert list(offsets) == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "v0[0]"}, "'v0\\[0\\]' occurs in the splits train and test"),
        ({"id": "v0[0]", "split": "train"}, "'v0\\[0\\]' occurs twice"),
        ({"target": float("nan")}, "'v0\\[1\\]' has the label NaN"),
        ({"inputs": {"text": np.ones((2, 3)), "audio": np.ones((2, 2))}}, "steps of shape \\(3,\\)"),
        ({"inputs": {"text": np.ones((2, 2))}}, "Give every sample the same modalities"),
        ({"inputs": {"smell": np.ones((2, 2))}}, "Give every sample the same modalities"),
        ({"inputs": {}}, "Give every sample the same modalities"),
        ({"split": "dev"}, "in the split 'dev'"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_leaves_the_old_file(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "a.h5"
    write_store(path, INFO, records())
    before = path.read_bytes()

    def wrong() -> Iterator[Sample]:
        for row, record in enumerate(records()):
            for key, value in change.items() if row == 1 else ():
                setattr(record, key, value)
            yield record

    with pytest.raises(DataError, match=message):
        write_store(path, INFO, wrong())
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.h5"]


def test_transcripts_alone_make_a_store(tmp_path: Path) -> None:
    def bare(change: str = "") -> Iterator[Sample]:
        for row, record in enumerate(records()):
            if not (change == "modality" and row == 2):
                record.inputs = {}
            if change == "transcript" and row == 2:
                record.transcript = ""
            yield record

    store = write_store(tmp_path / "a.h5", INFO, bare())
    assert (store.modalities, list(store.transcripts)) == ({}, [f"words {row}" for row in range(6)])
    store.verify()
    # What comes later with an input would have it under the rows of the first samples.
    with pytest.raises(DataError, match=r"'v1\[2\]' has the modalities \['audio', 'text'\].*the same modalities"):
        write_store(tmp_path / "b.h5", INFO, bare("modality"))
    with pytest.raises(DataError, match=r"'v1\[2\]' has neither a modality nor a transcript"):
        write_store(tmp_path / "b.h5", INFO, bare("transcript"))
    assert [item.name for item in tmp_path.iterdir()] == ["a.h5"]


def test_no_samples_and_a_missing_part_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no samples"):
        write_store(tmp_path / "a.h5", INFO, [])
    with pytest.raises(DataError, match="has no valid samples"):
        write_store(tmp_path / "a.h5", INFO, [record for record in records() if record.split != "valid"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["everything", "mine/first", ".", ""])
def test_names_that_no_protocol_may_have(tmp_path: Path, name: str) -> None:
    def of_one_s_own(light: list[Sample]) -> dict[str, list[np.ndarray]]:
        return {name: [np.array([0, 1, 2, 0, 0, -1], np.int8)]}

    for options in ({"protocol": name}, {"splits": of_one_s_own}):
        with pytest.raises(DataError, match=f"split protocol cannot be named '{re.escape(name)}'"):
            write_store(tmp_path / "a.h5", INFO, records(), **options)
    assert list(tmp_path.iterdir()) == []


def test_split_tables_of_one_s_own(tmp_path: Path) -> None:
    def folds(light: list[Sample]) -> dict[str, list[np.ndarray]]:
        assert not light[0].inputs
        codes = np.array([0, 1, 2, 0, 0, -1], np.int8)
        return {"mine": [codes, np.roll(codes, 1)], "another": [codes]}

    store = write_store(tmp_path / "a.h5", INFO, records(), folds)
    assert list(FeatureStore(store.path).splits) == ["mine", "another"], "the order says which one is the default"
    assert list(store.rows("mine", 1)["test"]) == [3]
    with pytest.raises(DataError, match="folds 0 to 1, not 2"):
        store.rows("mine", 2)
    with pytest.raises(DataError, match="no split protocol 'standard'; it has: mine, another"):
        store.rows("standard", 0)


@pytest.mark.parametrize(
    "damage", ["missing", "empty", "truncated", "text", "foreign", "older", "incomplete", "garbled"]
)
def test_a_file_that_is_no_store_says_what_to_do(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.h5"
    write_store(path, INFO, records())
    message = "mmbench data import"
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "text":
        path.write_text("not HDF5")
    elif damage == "foreign":
        path.unlink()
        h5py.File(path, "w").close()
    elif damage == "older":
        with h5py.File(path, "r+") as file:
            file.attrs["version"] = 1
    elif damage == "garbled":
        with h5py.File(path, "r+") as file:
            file.attrs["recipes"] = "{"
    else:
        with h5py.File(path, "r+") as file:
            del file["targets"]
    with pytest.raises(DataError, match=message) as raised:
        FeatureStore(path)
    assert str(path) in str(raised.value)


def test_a_store_can_move(tmp_path: Path) -> None:
    store = write_store(tmp_path / "a.h5", INFO, records())
    shutil.move(store.path, tmp_path / "b.h5")
    assert FeatureStore(tmp_path / "b.h5").identity == store.identity


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[Sample]:
        yield next(records())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path / "a.h5", INFO, interrupted())
    assert list(tmp_path.iterdir()) == []


def test_tokens_and_frames_keep_their_type(tmp_path: Path) -> None:
    def media() -> Iterator[Sample]:
        for row, split in enumerate(("train", "valid", "test")):
            tokens = np.arange(row + 2) + 100
            frames = np.full((row + 1, 3, 4, 4), row, np.uint8)
            yield Sample(str(row), {"text": tokens, "vision": frames}, row % 2, split)

    info = StoreInfo(
        "mine",
        "raw",
        TargetSpec("multiclass", ("a", "b")),
        kinds={"text": "tokens", "vision": "frames"},
        sizes={"text": 500},
    )
    store = write_store(tmp_path / "a.h5", info, media())
    assert store.modalities["text"].dim == 500
    assert store.modalities["vision"].dim == 3
    frames, _ = store.read("vision", np.array([2]))
    assert frames.dtype == np.uint8
    assert frames.shape == (3, 3, 4, 4)
    assert store.read("text", np.array([1]))[0].tolist() == [100, 101, 102]
    assert store.targets.dtype == np.int64


@pytest.mark.parametrize("wrong", [-1, 9])
def test_tokens_outside_the_vocabulary_are_refused(tmp_path: Path, wrong: int) -> None:
    media = [Sample(s, {"text": np.array([1, wrong])}, 0.0, s) for s in ("train", "valid", "test")]
    info = StoreInfo("mine", "ids", TargetSpec("regression", ("s",)), kinds={"text": "tokens"}, sizes={"text": 9})
    with pytest.raises(DataError, match="outside the vocabulary of 9"):
        write_store(tmp_path / "a.h5", info, media)


def test_groups_in_more_than_one_part_are_said_aloud(tmp_path: Path) -> None:
    (note,) = write_store(tmp_path / "a.h5", INFO, records()).notes
    assert "3 groups are in more than one part" in note
