"""Form B: MulT pickles, alone and against the same content in form A."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_modules.formats import import_store
from data_modules.schema import DataError
from data_modules.store import FeatureStore
from tests.data_modules.importers.layouts import ALIGNED, UNALIGNED, check, dump, make_content, mmsa, mult

IEMOCAP = {"text": 20, "audio": 40, "vision": 50}


def bring(tmp_path: Path, content: Any, dataset: str = "mosi", protocol: int = 4, **options: Any) -> FeatureStore:
    source = dump(tmp_path / "data.pkl", content, protocol)
    return import_store("mult", source, tmp_path / "out.h5", dataset=dataset, options=options)


@pytest.mark.parametrize("limits", [ALIGNED, UNALIGNED], ids=["aligned", "unaligned"])
def test_same_records_as_mmsa(tmp_path: Path, limits: dict[str, int]) -> None:
    """Invariants 1 and 2: the content comes back, and form A of it gives the same arrays."""
    content = make_content(limits)
    store = bring(tmp_path, mult(content, limits), protocol=2)
    check(store, content)
    assert store.feature_set == ("glove_aligned_50" if limits is ALIGNED else "glove_unaligned_50")
    assert store.aligned is (limits is ALIGNED)
    assert not store.notes
    source = dump(tmp_path / "mmsa.pkl", mmsa(content, limits))
    other = import_store("mmsa", source, tmp_path / "a.h5", dataset="mosi", options={})
    assert store.ids.tolist() == other.ids.tolist()
    rows = np.arange(len(store))
    for name in store.modalities:
        for mine, theirs in zip(store.read(name, rows), other.read(name, rows), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_leading_pause_stays_in_step(tmp_path: Path) -> None:
    """GloVe rows of pauses are zeros: in an aligned file audio and vision say where the sample begins."""
    content = make_content(ALIGNED)
    for sample in content["train"]:
        sample.inputs["text"][0] = 0
    check(bring(tmp_path, mult(content, ALIGNED)), content)


def test_mosei_ids(tmp_path: Path) -> None:
    content = make_content(UNALIGNED)
    store = bring(tmp_path, mult(content, UNALIGNED, ids="mosei"), dataset="mosei")
    first = content["train"][0]
    assert store.ids[0] == f"{first.video}[0.5-9.75]"
    assert store.groups[0] == first.video


def iemocap(columns: int = 4) -> tuple[dict[str, Any], np.ndarray]:
    pickled = mult(make_content(IEMOCAP), IEMOCAP, ids="none")
    rng = np.random.default_rng(1)
    present = []
    for part in pickled.values():
        own = rng.integers(0, 2, (len(part["labels"]), columns))
        part["labels"] = np.stack([1 - own, own], -1).astype(float)
        present.append(own)
    return pickled, np.concatenate(present)


def test_iemocap(tmp_path: Path) -> None:
    pickled, present = iemocap()
    store = bring(tmp_path, pickled, dataset="iemocap")
    assert store.target.kind == store.target.metric_family == "binary"
    assert store.target.names == ("neutral", "happy", "sad", "angry")
    np.testing.assert_array_equal(store.targets, present)
    assert store.ids[[0, -1]].tolist() == ["train_0", "test_3"]
    assert set(store.groups) == {""}
    assert any("names no samples" in note for note in store.notes)
    assert store.feature_set == "glove_unaligned_20"


def test_feature_set_and_alignment_by_hand(tmp_path: Path) -> None:
    store = bring(tmp_path, mult(make_content(ALIGNED), ALIGNED), aligned=False, feature_set="mine")
    assert store.feature_set == "mine"
    assert not store.aligned


def test_an_mmsa_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"keys train, valid, test.*mmbench data import mmsa"):
        bring(tmp_path, mmsa(make_content(ALIGNED), ALIGNED))


def test_labels_of_another_shape(tmp_path: Path) -> None:
    pickled, _ = iemocap(columns=6)
    with pytest.raises(DataError, match=r"labels of the split 'train' have the shape \(6, 6, 2\)"):
        bring(tmp_path, pickled)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda pickled: pickled["valid"].pop("labels"), "expects a dict of train, valid, test"),
        (lambda pickled: pickled["valid"].pop("vision"), "the same ones in each"),
        (lambda pickled: pickled.update(valid=3), "expects a dict of train, valid, test"),
        (lambda pickled: pickled["test"].update(id=pickled["train"]["id"][:4]), "in the splits train and test"),
        (lambda pickled: pickled["test"].update(text=pickled["test"]["text"][:3]), "'text' has 3 rows for 4 samples"),
        (lambda pickled: pickled["test"]["labels"].fill(np.nan), "label NaN"),
    ],
)
def test_bad_input(tmp_path: Path, spoil: Any, message: str) -> None:
    pickled = mult(make_content(ALIGNED), ALIGNED)
    spoil(pickled)
    with pytest.raises(DataError, match=message):
        bring(tmp_path, pickled)
