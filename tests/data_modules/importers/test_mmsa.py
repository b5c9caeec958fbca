"""Form A: MMSA pickles."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_modules.formats import import_store
from data_modules.schema import DataError
from data_modules.store import FeatureStore
from tests.data_modules.importers.layouts import ALIGNED, UNALIGNED, check, dump, make_content, mmsa


def bring(tmp_path: Path, content: Any, dataset: str = "mosi", **options: Any) -> FeatureStore:
    source = dump(tmp_path / "unaligned_50.pkl", content)
    return import_store("mmsa", source, tmp_path / "out.h5", dataset=dataset, options=options)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("limits", [ALIGNED, UNALIGNED], ids=["aligned", "unaligned"])
def test_records_are_the_content_on_either_side(tmp_path: Path, limits: dict[str, int], side: str) -> None:
    content = make_content(limits)
    store = bring(tmp_path, mmsa(content, limits, side))
    check(store, content)
    aligned = limits is ALIGNED
    assert store.aligned is aligned
    assert store.feature_set == ("aligned_50" if aligned else "unaligned_50")
    assert store.transcripts[0] == "word0"
    assert store.repairs == {
        "text": {"nan": 0, "inf": 0, "empty": 0},
        "audio": {"nan": 0, "inf": 3, "empty": 0},
        "vision": {"nan": 0, "inf": 0, "empty": 0},
    }
    target = store.target
    assert (target.kind, target.low, target.high, target.metric_family) == ("regression", -3, 3, "sentiment")
    assert any("padded on the left" in note for note in store.notes) is (side == "left")
    assert not any("stored lengths" in note for note in store.notes)


def test_zero_rows_at_special_tokens_keep_the_modalities_in_step(tmp_path: Path) -> None:
    content = make_content(ALIGNED)
    for samples in content.values():
        for sample in samples:
            sample.inputs["audio"][[0, -1]] = 0
            sample.inputs["vision"][[0, -1]] = 0
    check(bring(tmp_path, mmsa(content, ALIGNED)), content)


def test_unaligned_file_without_stored_lengths(tmp_path: Path) -> None:
    content = make_content(UNALIGNED)
    pickled = mmsa(content, UNALIGNED)
    for part in pickled.values():
        part.pop("audio_lengths")
        part.pop("vision_lengths")
    store = bring(tmp_path, pickled)
    check(store, content)
    assert not store.aligned


def test_zeros_within_a_sequence_stay(tmp_path: Path) -> None:
    content = make_content(UNALIGNED)
    content["train"][1].inputs["vision"][3:6] = 0
    check(bring(tmp_path, mmsa(content, UNALIGNED)), content)


@pytest.mark.parametrize("limits", [ALIGNED, UNALIGNED], ids=["aligned", "unaligned"])
def test_states_of_padding_are_cut_by_the_mask(tmp_path: Path, limits: dict[str, int]) -> None:
    content = make_content(limits)
    pickled = mmsa(content, limits)
    for part in pickled.values():
        part["text"] = np.where(part["text"] == 0, np.float32(0.1), part["text"])
    check(bring(tmp_path, pickled), content)


@pytest.mark.parametrize("limits", [ALIGNED, UNALIGNED], ids=["aligned", "unaligned"])
def test_tokens(tmp_path: Path, limits: dict[str, int]) -> None:
    content = make_content(limits)
    pickled = mmsa(content, limits)
    for part in pickled.values():
        part.pop("text")
    store = bring(tmp_path, pickled, text="tokens", vocabulary=21128)
    assert list(store.modalities) == ["text", "audio", "vision"]
    spec = store.modalities["text"]
    assert (spec.kind, spec.dim, spec.max_length) == ("tokens", 21128, 50)
    assert store.feature_set.endswith("aligned_50_tokens")
    row = 0
    for samples in content.values():
        for sample in samples:
            ids, _ = store.read("text", np.array([row]))
            assert ids.dtype == np.int64
            assert ids.tolist() == [1000 + i for i in range(len(sample.words))]
            row += 1


def test_files_derived_from_mult_keep_their_ids(tmp_path: Path) -> None:
    content = make_content(ALIGNED)
    pickled = mmsa(content, ALIGNED)
    for split, part in pickled.items():
        part["id"] = np.array([[f"{s.video}_{s.clip}".encode(), b"", b""] for s in content[split]])
    check(bring(tmp_path, pickled), content)


def test_sims_and_unknown_keys(tmp_path: Path) -> None:
    content = make_content(UNALIGNED)
    for samples in content.values():
        for sample in samples:
            sample.label /= 3
    pickled = mmsa(content, UNALIGNED)
    for part in pickled.values():
        for name in "TAV":
            part[f"regression_labels_{name}"] = np.full(len(part["id"]), 9.0)
    pickled["config"] = {"text": {"model": "bert"}, "list": [1, None]}
    store = bring(tmp_path, pickled, dataset="sims")
    check(store, content)
    assert (store.target.low, store.target.high, store.target.metric_family) == (-1, 1, "sims")
    assert not store.notes


def test_labels_off_the_scale_are_told(tmp_path: Path) -> None:
    content = make_content(ALIGNED)
    content["test"][0].label = 10 / 3
    assert any("1 labels lie outside" in note for note in bring(tmp_path, mmsa(content, ALIGNED)).notes)


@pytest.mark.parametrize("side", ["left", "right"])
def test_stored_lengths(tmp_path: Path, side: str) -> None:
    """Lengths as the script that added them finds them: the first row of zeros, 1 at least."""
    content = make_content(UNALIGNED)
    pickled = mmsa(content, UNALIGNED, side)
    for part in pickled.values():
        for name in ("audio", "vision"):
            zero = (part[name] == 0).all(-1)
            first = np.where(zero.any(1), zero.argmax(1), zero.shape[1])
            part[f"{name}_lengths"] = np.maximum(first, 1).tolist()
    store = bring(tmp_path, copy.deepcopy(pickled))
    check(store, content)
    # Left: all but the samples of one step differ, which start with zeros, too, and have length 1.
    assert any("stored lengths of" in note for note in store.notes) is (side == "left")
    trusted = bring(tmp_path, pickled, trust_stored_lengths=True)
    lengths = [n for part in pickled.values() for n in part["audio_lengths"]]
    assert np.diff(trusted.offsets["audio"]).tolist() == lengths
    np.testing.assert_array_equal(
        trusted.read("vision", np.array([0]))[0], pickled["train"]["vision"][0, : pickled["train"]["vision_lengths"][0]]
    )
    assert (len(set(lengths)) > 2) is (side == "right")


@pytest.mark.parametrize("side", ["left", "right"])
def test_stored_lengths_may_count_zeros_at_the_other_end(tmp_path: Path, side: str) -> None:
    """A face that is lost at the end away from the padding is a step of the stored length, and no disagreement."""
    content = make_content(UNALIGNED)
    for samples in content.values():
        for sample in samples:
            sample.inputs["vision"][-1 if side == "left" else 0] = 0
    store = bring(tmp_path, mmsa(content, UNALIGNED, side))
    assert not any("stored lengths" in note for note in store.notes)


def test_lengths_that_count_padding_do_not_agree(tmp_path: Path) -> None:
    """MMSA-FET stores the padded length where it truncates; with zeros after the content that is no length."""
    content = make_content(UNALIGNED)
    pickled = mmsa(content, UNALIGNED)
    for part in pickled.values():
        part["audio_lengths"] = [999] * len(part["id"])
    store = bring(tmp_path, pickled)
    check(store, content)
    assert any(note.startswith("audio: the stored lengths of") for note in store.notes)
    assert not any(note.startswith("vision") for note in store.notes)


def test_subset_of_modalities(tmp_path: Path) -> None:
    content = make_content(UNALIGNED)
    pickled = mmsa(content, UNALIGNED, bert=False)
    for part in pickled.values():
        part.pop("text")
        part.pop("audio")
    check(bring(tmp_path, pickled), content, ("vision",))


def test_empty_sequence_is_one_zero_step(tmp_path: Path) -> None:
    pickled = mmsa(make_content(UNALIGNED), UNALIGNED)
    pickled["train"]["vision"][3] = 0
    store = bring(tmp_path, pickled)
    assert store.repairs["vision"]["empty"] == 1
    np.testing.assert_array_equal(store.read("vision", np.array([3]))[0], np.zeros((1, 20)))


def _drop(key: str, split: str = "train"):
    return lambda pickled: pickled[split].pop(key)


def _set(key: str, value: Any, split: str = "train"):
    return lambda pickled: pickled[split].__setitem__(key, value)


def _repeat(pickled: dict[str, Any]) -> None:
    pickled["test"]["id"][0] = pickled["train"]["id"][0]


def _nan(pickled: dict[str, Any]) -> None:
    pickled["test"]["regression_labels"][1] = np.nan


@pytest.mark.parametrize(
    ("spoil", "options", "message"),
    [
        (lambda pickled: pickled.pop("valid"), {}, "mmsa importer expects a dict of train, valid, test"),
        (_drop("regression_labels"), {}, "keys train, valid, test.*regression_labels"),
        (_drop("text", "valid"), {}, "the same ones in each"),
        (_drop("text_bert", "test"), {"text": "tokens"}, "text_bert.*'test'.*text: features"),
        (_set("audio", np.zeros((6, 5))), {}, r"'audio' is a float64 array of shape \(6, 5\)"),
        (_set("audio", np.zeros((5, 75, 5))), {}, "'audio' has 5 rows for 6 samples"),
        (_set("vision", np.ones((4, 100, 21)), "test"), {}, r"vision steps of shape \(21,\)"),
        (_set("vision_lengths", [1]), {}, "'vision_lengths' has 1 rows"),
        (_set("text_bert", np.zeros((6, 2, 50))), {}, r"'text_bert'.*\(6, 2, 50\)"),
        (_repeat, {}, "in the splits train and test"),
        (_nan, {}, "label NaN"),
        (lambda pickled: None, {"aligned": True}, "aligned"),
    ],
)
def test_bad_input(tmp_path: Path, spoil: Any, options: dict[str, Any], message: str) -> None:
    pickled = mmsa(make_content(UNALIGNED), UNALIGNED)
    spoil(pickled)
    with pytest.raises(DataError, match=message):
        bring(tmp_path, pickled, **options)
    assert not (tmp_path / "out.h5").exists()


def test_no_stored_lengths_to_trust(tmp_path: Path) -> None:
    pickled = mmsa(make_content(ALIGNED), ALIGNED)
    with pytest.raises(DataError, match="stores no lengths"):
        bring(tmp_path, pickled, aligned=False, trust_stored_lengths=True)


def test_truncated_file(tmp_path: Path) -> None:
    source = dump(tmp_path / "a.pkl", mmsa(make_content(ALIGNED), ALIGNED))
    source.write_bytes(source.read_bytes()[:5000])
    with pytest.raises(DataError, match="truncated"):
        import_store("mmsa", source, tmp_path / "out.h5", dataset="mosi", options={})
