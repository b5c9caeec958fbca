"""The plain layout: features of one's own as npz or HDF5."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data_modules.formats import import_store
from data_modules.schema import DataError
from data_modules.store import FeatureStore

REAL = os.environ.get("MMBENCH_REAL_DATA")
N = 12


def columns() -> dict[str, Any]:
    """Twelve samples of six videos; text as vectors, audio padded, vision flat."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 7, N)
    audio = rng.standard_normal((N, 6, 4))
    for row, length in enumerate(lengths):
        audio[row, length:] = 9
    return {
        "id": np.array([f"sample_{i}" for i in range(N)]),
        "label": np.linspace(-2, 2, N),
        "split": np.array(["train"] * 6 + ["dev"] * 2 + ["test"] * 4),
        "group": np.array([f"video{i // 2}" for i in range(N)]),
        "transcript": np.array(["é hello"] * N),
        "speaker": np.array(["s1", "s2"] * 6),
        "text": rng.standard_normal((N, 3)).astype(np.float32),
        "audio": audio,
        "audio_lengths": lengths,
        "vision": rng.standard_normal((int(lengths.sum()) + N, 2)),
        "vision_lengths": lengths + 1,
    }


def save(path: Path, arrays: dict[str, Any]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
        return path
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            texts = np.asarray(value).dtype.kind == "U"
            file.create_dataset(
                key, data=value.tolist() if texts else value, dtype=h5py.string_dtype() if texts else None
            )
    return path


def bring(tmp_path: Path, arrays: dict[str, Any], suffix: str = ".npz", **options: Any) -> FeatureStore:
    source = save(tmp_path / f"mine{suffix}", arrays)
    options = {"feature_set": "mine", **options}
    return import_store("plain", source, tmp_path / "out.h5", dataset="mosi", options=options)


def assert_content(store: FeatureStore, arrays: dict[str, Any]) -> None:
    assert store.ids.tolist() == arrays["id"].tolist()
    assert store.groups.tolist() == arrays["group"].tolist()
    assert store.speakers.tolist() == arrays["speaker"].tolist()
    assert store.transcripts.tolist() == arrays["transcript"].tolist()
    np.testing.assert_allclose(store.targets, arrays["label"], rtol=1e-6)
    flat = np.split(arrays["vision"], np.cumsum(arrays["vision_lengths"])[:-1])
    for row in range(N):
        wanted = {
            "text": arrays["text"][row][None],
            "audio": arrays["audio"][row, : arrays["audio_lengths"][row]],
            "vision": flat[row],
        }
        for name, values in wanted.items():
            found, _ = store.read(name, np.array([row]))
            np.testing.assert_array_equal(found, values.astype(np.float32))
    rows = store.rows("standard", 0)
    assert {split: rows[split].tolist() for split in rows} == {
        "train": list(range(6)),
        "valid": [6, 7],
        "test": list(range(8, 12)),
    }


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_three_forms_of_features(tmp_path: Path, suffix: str) -> None:
    store = bring(tmp_path, columns(), suffix, low=-3, high=3)
    assert_content(store, columns())
    assert not store.aligned
    assert (store.target.kind, store.target.names, store.target.low) == ("regression", ("sentiment",), -3)


def test_npz_and_hdf5_have_one_identity(tmp_path: Path) -> None:
    assert bring(tmp_path, columns(), ".npz").identity == bring(tmp_path, columns(), ".h5").identity


def test_fixed_length_strings_of_hdf5(tmp_path: Path) -> None:
    arrays = columns()
    source = save(tmp_path / "a.h5", arrays)
    with h5py.File(source, "a") as file:
        for key in ("id", "split", "group"):
            del file[key]
            file[key] = arrays[key].astype("S")
    assert_content(
        import_store("plain", source, tmp_path / "o.h5", dataset="mosi", options={"feature_set": "m"}), arrays
    )


def test_keys_by_other_names(tmp_path: Path) -> None:
    fields = {"text": "text_feat", "audio": "wav", "audio_lengths": "wav_n", "split": "my_split", "group": "video"}
    renamed = {fields.get(key, key): value for key, value in columns().items()}
    renamed["split"] = np.array(["nonsense"] * N)
    assert_content(bring(tmp_path, renamed, fields=fields), columns())


def test_padded_without_lengths_loses_zeros_at_both_ends(tmp_path: Path) -> None:
    arrays = columns()
    lengths = arrays.pop("audio_lengths")
    left = np.zeros_like(arrays["audio"])
    for row, length in enumerate(lengths):
        arrays["audio"][row, length:] = 0
        left[row, 6 - length :] = arrays["audio"][row, :length]
    right = bring(tmp_path, arrays)
    assert np.diff(right.offsets["audio"]).tolist() == lengths.tolist()
    assert bring(tmp_path, {**arrays, "audio": left}).identity == right.identity


def test_aligned(tmp_path: Path) -> None:
    arrays = columns()
    with pytest.raises(DataError, match="not aligned"):
        bring(tmp_path, arrays, aligned=True)
    vectors = {key: value for key, value in arrays.items() if not key.startswith(("audio", "vision"))}
    assert bring(tmp_path, vectors).aligned
    same = {**vectors, "audio": np.ones((N, 3, 2)), "text": np.ones((N, 3, 5))}
    assert not bring(tmp_path, same).aligned
    assert bring(tmp_path, same, aligned=True).aligned


def test_infinite_features_are_zeros_and_counted(tmp_path: Path) -> None:
    arrays = columns()
    arrays["text"][0] = [np.nan, np.inf, -np.inf]
    store = bring(tmp_path, arrays)
    assert store.repairs["text"] == {"nan": 1, "inf": 2, "empty": 0}
    assert store.read("text", np.array([0]))[0].tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    ("task", "label", "names", "wanted", "outputs"),
    [
        ("multiclass", [0, 2, 1] * 4, (), [0, 2, 1] * 4, ("0", "1", "2")),
        ("multiclass", [0.0, 1.0] * 6, ("no", "yes", "maybe"), [0, 1] * 6, ("no", "yes", "maybe")),
        ("multiclass", ["sad", "happy"] * 6, (), [1, 0] * 6, ("happy", "sad")),
        ("multiclass", ["sad", "happy"] * 6, ("sad", "happy"), [0, 1] * 6, ("sad", "happy")),
        ("multilabel", [[1, 0], [1, 1]] * 6, ("a", "b"), [[1, 0], [1, 1]] * 6, ("a", "b")),
        ("binary", [[True, False]] * 12, (), [[1, 0]] * 12, ("0", "1")),
        ("binary", [0, 1] * 6, ("sarcasm",), [[0], [1]] * 6, ("sarcasm",)),
        ("regression", [[0.5, -0.5]] * 12, ("arousal", "valence"), [[0.5, -0.5]] * 12, ("arousal", "valence")),
        ("regression", [[0.5]] * 12, (), [0.5] * 12, ("sentiment",)),
    ],
)
@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_tasks(
    tmp_path: Path, task: str, label: Any, names: tuple[str, ...], wanted: Any, outputs: tuple[str, ...], suffix: str
) -> None:
    store = bring(tmp_path, {**columns(), "label": np.array(label)}, suffix, task=task, names=names)
    assert store.target.kind == task
    assert store.target.names == outputs
    assert store.targets.tolist() == wanted


def test_metric_family(tmp_path: Path) -> None:
    arrays = {**columns(), "label": np.zeros((N, 2))}
    assert bring(tmp_path, arrays, names=("arousal", "valence"), family="affect").target.metric_family == "affect"


def test_valid_is_held_out_by_group(tmp_path: Path) -> None:
    arrays = columns()
    arrays["split"] = np.array(["train"] * 8 + ["test"] * 4)
    with pytest.raises(DataError, match=r"no valid part.*valid_groups"):
        bring(tmp_path, arrays)
    store = bring(tmp_path, arrays, valid_groups=0.25, protocol="mine")
    rows = store.rows("mine", 0)
    held = set(store.groups[rows["valid"]])
    assert len(held) == 1
    assert len(rows["valid"]) == 2
    assert held.isdisjoint(store.groups[rows["train"]])
    assert rows["test"].tolist() == [8, 9, 10, 11]
    assert any("1 of 4 training groups" in note for note in store.notes)
    # The order of the samples decides nothing.
    order = np.random.default_rng(0).permutation(N)
    flat = np.split(arrays["vision"], np.cumsum(arrays["vision_lengths"])[:-1])
    shuffled = {key: value[order] for key, value in arrays.items() if key != "vision"}
    shuffled["vision"] = np.concatenate([flat[row] for row in order])
    again = bring(tmp_path, shuffled, valid_groups=0.25, protocol="mine")
    assert set(again.groups[again.rows("mine", 0)["valid"]]) == held


def test_holding_out_leaves_the_test_part_alone(tmp_path: Path) -> None:
    """Even for a group that the file's own split has in training and test."""
    arrays = columns()
    arrays["split"] = np.array(["train", "test"] * 6)
    store = bring(tmp_path, arrays, valid_groups=0.5)
    rows = store.rows("standard", 0)
    assert rows["test"].tolist() == list(range(1, N, 2))
    assert (len(rows["train"]), len(rows["valid"])) == (3, 3)


def test_file_without_split_is_cut_by_group(tmp_path: Path) -> None:
    arrays = columns()
    arrays.pop("split")
    store = bring(tmp_path, arrays)
    assert list(store.splits) == ["by-group"]
    rows = store.rows("by-group", 0)
    parts = [set(store.groups[rows[split]]) for split in rows]
    assert [len(part) for part in parts] == [4, 1, 1]
    assert len(set.union(*parts)) == 6


def test_unused_samples(tmp_path: Path) -> None:
    arrays = columns()
    arrays["split"][0] = ""
    assert bring(tmp_path, arrays).rows("standard", 0)["train"].tolist() == [1, 2, 3, 4, 5]


def _with(**changes: Any) -> dict[str, Any]:
    arrays = columns()
    for key, value in changes.items():
        if value is None:
            arrays.pop(key)
        else:
            arrays[key] = value
    return arrays


SOME_NAN = np.array([0.5] * 11 + [np.nan])


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        (_with(id=None), {}, "has no 'id'; it has: audio, audio_lengths,.*fields"),
        (_with(label=None), {"fields": {"label": "y"}}, "has no 'y'"),
        (_with(), {"fields": {"textt": "y"}}, "There is no key of the option fields 'textt'.*'text'"),
        (_with(text=None, audio=None, vision=None), {}, "has none of text, audio, vision"),
        (_with(label=np.zeros(11)), {}, "'label' has 11 rows for 12 samples"),
        (_with(text=np.zeros((11, 3))), {}, "text has 11 rows; 12 were expected"),
        (_with(text=np.zeros(12)), {}, r"text is a float64 array of shape \(12,\)"),
        (_with(text=np.array(["a"] * 12)), {}, "text is a <U1 array"),
        (_with(text=np.array([None] * 12)), {}, "'text' cannot be read.*Object arrays"),
        (_with(audio_lengths=np.full(12, 7)), {}, "audio_lengths go up to 7, audio has 6 steps"),
        (_with(audio_lengths=np.full(12, -1)), {}, "audio_lengths must be 12 integers"),
        (_with(audio_lengths=np.full(12, 1.5)), {}, "audio_lengths must be 12 integers"),
        (_with(vision_lengths=np.ones(12, int)), {}, "vision has .* rows; 12 were expected"),
        (_with(id=np.array(["x"] * 12)), {}, "'x' occurs twice"),
        (_with(label=SOME_NAN), {}, "label NaN"),
        (
            _with(label=SOME_NAN),
            {"task": "multiclass"},
            "12 labels are not class numbers .* the first in row 0",
        ),
        (_with(label=SOME_NAN[:, None]), {"task": "binary"}, "12 labels are not 0 or 1"),
        (_with(label=np.arange(12)), {"task": "multiclass", "names": ("a", "b")}, "12 outputs or classes"),
        (_with(label=np.zeros((12, 2))), {"names": ("a",)}, "2 outputs or classes"),
        (_with(label=np.zeros((12, 2))), {"task": "multiclass"}, "unfit for multiclass"),
        (_with(label=np.array(["a"] * 12)), {}, "unfit for regression"),
        (_with(label=np.array(["a"] * 12)), {"task": "multiclass", "names": ("b",)}, "labels a, which"),
        (_with(split=np.array(["train", "valid", "tset"] * 4)), {}, "split 'tset'"),
        (_with(), {"valid_groups": 0.1}, "has a valid part"),
        (_with(split=None), {"valid_groups": 0.1}, "has no split"),
        (_with(split=np.array(["train", "test"] * 6)), {"valid_groups": 1.5}, "share of groups to hold out is 1.5"),
    ],
)
def test_bad_input(tmp_path: Path, arrays: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        bring(tmp_path, arrays, **options)
    assert not (tmp_path / "out.h5").exists()


def test_foreign_and_damaged_files(tmp_path: Path) -> None:
    def check(path: Path, message: str) -> None:
        with pytest.raises(DataError, match=message):
            import_store("plain", path, tmp_path / "out.h5", dataset="mosi", options={"feature_set": "m"})

    (tmp_path / "a.pkl").write_bytes(b"\x80\x04}\x94.")
    check(tmp_path / "a.pkl", r"cannot be read as npz or HDF5.*data import mmsa")
    whole = save(tmp_path / "whole.npz", columns()).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    check(tmp_path / "cut.npz", "cannot be read")
    whole = save(tmp_path / "whole.h5", columns()).read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    check(tmp_path / "cut.h5", "cannot be read")
    np.save(tmp_path / "one.npy", np.zeros(3))
    check(tmp_path / "one.npy", "single array")
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file.create_group("id")
        file.create_group("label")
    check(tmp_path / "group.h5", "'id' is a group")
    bring(tmp_path, columns())
    (tmp_path / "out.h5").rename(tmp_path / "store.h5")
    check(tmp_path / "store.h5", "already")


@pytest.mark.skipif(REAL is None, reason="needs the real files: set MMBENCH_REAL_DATA to their folder")
def test_real_bclstm_utterances(tmp_path: Path) -> None:
    options = {
        "feature_set": "bclstm",
        "fields": {
            "text": "text_feat",
            "audio": "audio_feat",
            "vision": "video_feat",
            "split": "bclstm_split",
            "group": "video",
        },
        "low": -3,
        "high": 3,
        "valid_groups": 0.1,
        "protocol": "videos62-31",
    }
    source = Path(str(REAL)) / "mosi" / "bclstm_utterances.npz"
    store = import_store("plain", source, tmp_path / "out.h5", dataset="mosi", options=options)
    assert store.spec("videos62-31").track == "mosi/bclstm/videos62-31"
    assert len(store) == 2199
    assert {name: (spec.dim, spec.max_length) for name, spec in store.modalities.items()} == {
        "text": (100, 1),
        "audio": (73, 1),
        "vision": (100, 1),
    }
    rows = store.rows("videos62-31", 0)
    videos = {split: set(store.groups[rows[split]]) for split in rows}
    assert len(videos["train"] | videos["valid"]) == 62
    assert len(videos["valid"]) == 6
    assert len(videos["test"]) == 31
    assert sum(map(len, videos.values())) == len(set.union(*videos.values())) == 93
    assert (len(rows["train"]) + len(rows["valid"]), len(rows["test"])) == (1447, 752)
    assert float(np.abs(store.targets).max()) == 3
    assert (store.target.low, store.target.high, store.target.metric_family) == (-3, 3, "sentiment")
