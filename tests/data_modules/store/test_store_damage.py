"""Stores that say of themselves what is not so: a message with the file and what to do, whatever it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data_modules import DataError, FeatureStore, FusionDataModule, Sample, StoreInfo, TargetSpec, write_store
from data_modules.budget import VARIABLE
from data_modules.store import SPLITS, UNLABELLED
from data_modules.store.digests import digests
from data_modules.store.provenance import digest
from data_modules.store.summary import summary
from tests.data_modules.stores import RECIPE, edit

Change = Callable[[h5py.File], object]
TEXT = h5py.string_dtype()


def make(path: Path) -> FeatureStore:
    """Three samples with 1, 2 and 3 steps of text, and of audio that was computed here."""
    target = TargetSpec("regression", ("sentiment",), -3, 3)
    info = StoreInfo("mine", "random", target, recipes={"audio": RECIPE})
    records = []
    for row, split in enumerate(SPLITS):
        inputs = {name: np.ones((row + 1, 2)) for name in ("text", "audio")}
        records.append(Sample(split, inputs, row - 1, split, "", "", "words", {"audio": digest(f"clip {row}")}))
    return write_store(path, info, records)


def attribute(name: str, value: Any) -> Change:
    return lambda file: file.attrs.__setitem__(name, value)


def said(name: str, *keys: str, value: Any) -> Change:
    """Change one part of what a store says in JSON."""

    def change(file: h5py.File) -> None:
        whole = inner = json.loads(file.attrs[name])
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        file.attrs[name] = json.dumps(whole)

    return change


def array(place: str, value: Any, **options: Any) -> Change:
    def change(file: h5py.File) -> None:
        whole = place.removesuffix("/deep")
        if whole in file:
            del file[whole]
        if isinstance(value, h5py.SoftLink):
            file[place] = value
        elif value is not None:
            file.create_dataset(place, data=value, **options)

    return change


def huge(place: str, shape: tuple[int, ...], dtype: str) -> Change:
    def change(file: h5py.File) -> None:
        del file[place]
        chunk = (64, *shape[1:]) if len(shape) == 1 else (1, 64)
        file.create_dataset(place, shape, dtype, chunks=chunk)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (attribute("dataset", "../../x"), "the dataset cannot be named '../../x'"),
        (attribute("feature_set", "/etc"), "the feature set cannot be named '/etc'"),
        (attribute("dataset", 3), "'dataset' is no text"),
        (attribute("dataset", np.arange(3)), "'dataset' is a ndarray"),
        (attribute("identity", b"\xff\xfe"), "'identity' is no Unicode text"),
        (attribute("aligned", 3), "'aligned' is 3"),
        (attribute("notes", "{}"), "'notes' is not as it must be"),
        (attribute("notes", "[" * 5000), "'notes' is not as it must be"),
        (attribute("libraries", '["a"]'), "'libraries' is not as it must be"),
        (attribute("repairs", "{}"), "'repairs' does not name the modalities"),
        (said("recipes", "vision", value={"extractor": "x", "revision": 1, "settings": {}}), "'recipes' names modali"),
        (said("recipes", "audio", value={}), "'recipes' is not as it must be .audio.extractor"),
        (said("target", "low", value=float("nan")), "'target' is not as it must be .low"),
        (said("target", "low", value=7), "'target' has a scale without extent"),
        (said("target", "kind", value="guess"), "'target' is not as it must be .kind"),
        (said("target", "names", value=["\ud800"]), "'target' is not as it must be"),
        (said("target", "names", value=["a", "b"]), "'targets' holds float32 of shape .3,."),
        (said("target", "kind", value="multiclass"), "'targets' holds values of type float32"),
        (said("modalities", "text", "dim", value="3"), "'modalities' is not as it must be .text.dim"),
        (said("modalities", "text", "dim", value=9), "modalities/text/values' holds float32 of shape"),
        (said("modalities", "text", "dim", value=0), "'modalities' has sizes of text below 1"),
        (said("modalities", "text", "name", value="smell"), "'modalities' has the name 'smell' for 'text'"),
        (said("modalities", "text", "kind", value="frames"), "'modalities' has sizes of text below 1"),
        (said("modalities", "text", "max_length", value=1 << 40), "modalities/text/offsets' does not grow"),
        (array("ids", None), "'ids' is missing"),
        (array("ids", ["a", "b"], dtype=TEXT), "'groups' has 3 rows for 2 samples"),
        (array("ids", ["a", "", "b"], dtype=TEXT), "'ids' has none, or an empty one"),
        (array("ids", [1, 2, 3]), "'ids' holds int64 of shape .3,.; texts were expected"),
        (array("ids", [b"\xed\xa0\x80", b"a", b"b"], dtype=TEXT), "'ids' is damaged"),
        (array("ids", "one", dtype=TEXT), r"'ids' holds object of shape \(\)"),
        (array("speakers", ["a"], dtype=TEXT), "'speakers' has 1 rows for 3 samples"),
        (array("targets", h5py.SoftLink("/nowhere")), "'targets' is a link that leads nowhere"),
        (array("targets", h5py.SoftLink("/targets")), "'targets' is damaged"),
        (array("targets/deep", [1]), "'targets' is a group; an array was expected"),
        (array("targets", h5py.Empty("f4")), "'targets' is empty"),
        (array("targets", np.float32([1, 2, np.nan])), "'targets' holds NaN"),
        (array("targets", np.float32([1, 2])), "'targets' holds float32 of shape .2,."),
        (array("targets", np.zeros(3, [("a", "i4")])), "'targets' holds values of type"),
        (array("modalities/text/offsets", [0, 1, 3]), "offsets' holds int64 of shape .3,."),
        (array("modalities/text/offsets", [1, 2, 4, 6]), "offsets' does not grow from 0"),
        (array("modalities/text/offsets", [0, 3, 3, 6]), "offsets' does not grow from 0"),
        (array("modalities/text/offsets", [0, 1, 3, 5]), "offsets' does not grow|values' holds"),
        (array("modalities/text/offsets", [0, -(1 << 62), 1 << 62, 6]), "offsets' does not grow from 0"),
        (array("modalities/text/values", np.zeros((6, 2))), "values' holds float64 .*float32 were expected"),
        (array("modalities/text/values", np.zeros((6, 2), ">f4")), "values' holds >f4"),
        (array("modalities/audio/origins", ["x"], dtype=TEXT), "origins' has 1 rows"),
        (array("splits", np.arange(3)), "'splits' is no group"),
        (array("splits/standard/0", np.int8([0, 1, 7])), "splits/standard/0' is no split of 3 samples"),
        (array("splits/standard/0", np.int8([0, 1, 1])), "splits/standard/0' is no split of 3 samples"),
        (array("splits/standard/0", np.int64([0, 1, 2])), "splits/standard/0' is no split of 3 samples"),
        (array("splits/standard/1x", np.int8([0, 1, 2])), "splits/standard' has folds that are not 0, 1"),
        (array("splits/everything/0", np.int8([0, 1, 2])), "cannot be named 'everything', which stands for all"),
        (array("splits/a b/0", np.int8([0, 1, 2])), "the split protocol cannot be named 'a b'"),
        (attribute("version", 3), "has store version 3, this program reads 2. Use a newer mmbench, or make it again"),
        (attribute("version", 1), "has store version 1, this program reads 2. Make it again"),
        (attribute("version", np.arange(2)), "'version' is a ndarray"),
    ],
)
def test_a_header_that_is_not_as_it_must_be(tmp_path: Path, change: Change, message: str) -> None:
    path = make(tmp_path / "a.h5").path
    edit(path, change)
    with pytest.raises(DataError, match=message) as raised:
        FeatureStore(path)
    assert str(path) in str(raised.value)
    assert "again" in str(raised.value) or "Give" in str(raised.value), "what to do"


@pytest.mark.parametrize(
    ("place", "shape", "dtype"),
    [
        ("modalities/text/offsets", (10**9,), "i8"),
        ("targets", (1 << 40,), "f4"),
        ("ids", (10**9,), "O"),
        ("splits/standard/0", (1 << 58,), "i1"),
        ("modalities/text/values", (6, 10**9), "f4"),
    ],
)
def test_a_size_is_not_believed(tmp_path: Path, place: str, shape: tuple[int, ...], dtype: Any) -> None:
    path = make(tmp_path / "a.h5").path
    edit(path, huge(place, shape, TEXT if dtype == "O" else dtype))
    with pytest.raises(DataError, match=f"{place}' is declared to have the shape .* more than a file of this size"):
        FeatureStore(path)


def test_reading_stays_within_the_memory_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "a.h5")
    monkeypatch.setenv(VARIABLE, "40B")
    with pytest.raises(DataError, match=r"a.h5: text of 3 samples would take 4.8e-08GB.*set MMBENCH_MEMORY"):
        store.read("text", np.arange(3))
    with pytest.raises(DataError, match="files may take 4e-08GB"):
        FeatureStore(store.path)


def test_values_that_cannot_be_read_name_file_and_modality(tmp_path: Path) -> None:
    """Nothing is compared with the digest on the way, as in a store whose maker gave it the digest of what it holds."""
    path = make(tmp_path / "a.h5").path
    values = np.ones((6, 2), np.float32)
    edit(path, array("modalities/text/values", values, chunks=(6, 2), compression="gzip"))
    with h5py.File(path, "r+") as file:
        file["modalities/text/values"].id.write_direct_chunk((0, 0), b"no gzip at all")
    with pytest.raises(DataError, match=r"a\.h5 could be opened and cannot be read any more \(text: .*again"):
        FeatureStore(path).read("text", np.arange(3))


def test_tokens_outside_the_vocabulary_are_no_index(tmp_path: Path) -> None:
    info = StoreInfo("mine", "ids", TargetSpec("regression", ("s",)), kinds={"text": "tokens"}, sizes={"text": 9})
    records = [Sample(split, {"text": np.array([1, 2])}, 0.0, split) for split in SPLITS]
    path = write_store(tmp_path / "a.h5", info, records).path
    edit(path, array("modalities/text/values", np.array([1, 2, 1, 9, 1, 2])))
    with pytest.raises(DataError, match=r"a\.h5 has text tokens outside its vocabulary of 9"):
        FeatureStore(path).read("text", np.arange(3))


def test_what_a_store_has_beside_is_digested_or_refused(tmp_path: Path) -> None:
    for number, change in enumerate([attribute("more", np.arange(3)), array("more", np.zeros(3, [("a", "i4")]))]):
        path = make(tmp_path / f"{number}.h5").path
        edit(path, change)
        with pytest.raises(DataError, match=rf"more'? of .*{number}\.h5 is no "):
            FeatureStore(path).verify()


def test_names_of_outputs_are_no_markup(tmp_path: Path) -> None:
    from rich.console import Console

    records = [Sample(split, {"text": np.ones((1, 2))}, 0, split) for split in SPLITS]
    store = write_store(tmp_path / "a.h5", StoreInfo("mine", "own", TargetSpec("multiclass", ("[/x]", "b"))), records)
    console = Console(width=100)
    with console.capture() as printed:
        console.print(summary(store))
    assert "[/x]" in printed.get()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "has an empty id"),
        ({"id": "a\ud800"}, r"Sample 'a\\ud800' has the id .* no Unicode text. Save it as UTF-8"),
        ({"transcript": "a\0b"}, "Sample 'test' has a transcript with a NUL in it"),
        ({"target": 1e39}, r"Sample 'test' has the label 1e\+39, too large for 32 bits"),
        ({"target": [1.0, 2.0]}, r"Sample 'test' has a label of shape \(2,\) for 1 names"),
        ({"inputs": {"text": np.ones(2)}}, r"Sample 'test' has text features of type float64 and shape \(2,\)"),
        ({"inputs": {"text": np.full((2, 2), "a")}}, "Sample 'test' has text features of type <U1"),
    ],
)
def test_what_no_store_could_give_back_is_not_written(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    records = [Sample(split, {"text": np.ones((1, 2))}, 0.0, split) for split in SPLITS]
    for name, value in change.items():
        setattr(records[-1], name, value)
    with pytest.raises(DataError, match=message):
        write_store(tmp_path / "a.h5", StoreInfo("mine", "own", TargetSpec("regression", ("s",))), records)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", [2, -1, 0.5, 1e300])
def test_a_class_that_is_none_is_not_written(tmp_path: Path, target: float) -> None:
    records = [Sample(split, {"text": np.ones((1, 2))}, target, split) for split in SPLITS]
    with pytest.raises(DataError, match=r"Sample 'train' has the label .*no class from 0 to 1|too large"):
        write_store(tmp_path / "a.h5", StoreInfo("mine", "own", TargetSpec("multiclass", ("a", "b"))), records)


@pytest.mark.parametrize("info", [("../x", "own"), ("mine", "../../../up"), ("mine", "")])
def test_names_that_lead_elsewhere_are_not_written(tmp_path: Path, info: tuple[str, str]) -> None:
    with pytest.raises(DataError, match="cannot be named"):
        write_store(tmp_path / "a.h5", StoreInfo(*info, UNLABELLED), iter([]))


def test_a_repacked_store_is_the_same(tmp_path: Path) -> None:
    store = make(tmp_path / "a.h5")
    edit(store.path, lambda file: array("targets", file["targets"][:], chunks=(2,), compression="gzip")(file))
    edit(store.path, lambda file: array("ids", file["ids"][:], chunks=(2,), dtype=TEXT)(file))
    with h5py.File(store.path) as file:
        assert digests(file) == (store.identity, store.content)
    again = FeatureStore(store.path)
    again.verify()
    assert list(again.ids) == list(store.ids)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_cannot_be_standardised_are_named(tmp_path: Path, value: float) -> None:
    path = make(tmp_path / "a.h5").path
    values = np.full((6, 2), value, np.float32)
    edit(path, array("modalities/text/values", values))
    with pytest.raises(DataError, match=r"a\.h5 has text features that are NaN, infinite or too large"):
        FusionDataModule(path, normalize="train").setup("fit")
