"""The ERC importer: every public layout, and the published counts of dialogues, utterances and emotions."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_modules import FusionDataModule
from data_modules.datasets.iemocap.erc import EMOTIONS
from data_modules.formats import import_store, importers
from data_modules.schema import DataError
from data_modules.store import FeatureStore
from data_modules.store.summary import summary
from mmbench.cli import main
from tests.data_modules.datasets.iemocap.layouts import (
    COSMIC_VALID,
    ERC_COUNTS,
    Conversation,
    Parts,
    corect,
    few_conversations,
    list6,
    list10,
    published_conversations,
    tuple9,
    tuple12,
)
from tests.data_modules.importers.layouts import dump


def make(folder: Path, content: Any, protocol: int = 4, **options: object) -> FeatureStore:
    source = dump(folder / "IEMOCAP_features.pkl", content, protocol)
    return import_store("erc", source, folder / "erc.h5", dataset="iemocap_erc", options=options)


@pytest.fixture(scope="module")
def published() -> Parts:
    return published_conversations()


@pytest.fixture(scope="module")
def store(published: Parts, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return make(tmp_path_factory.mktemp("erc"), tuple9(published))


# The published counts.


def test_six_classes_have_the_published_counts(store: FeatureStore) -> None:
    shown = summary(store)
    assert shown.notes == ("All counts of the pickle are the published ones.",)
    cosmic = shown.protocols["cosmic"][0]
    assert cosmic == {"train": 5163, "valid": 647, "test": 1623, "unused": 0, "shared_groups": 0}
    for split, (counts, _) in ERC_COUNTS.items():
        assert shown.labels[f"cosmic/0/{split}"]["class"] == dict(zip(EMOTIONS, counts, strict=True))
    assert shown.labels["all"]["class"]["happy"] == 648
    assert len(set(store.groups)) == 151
    assert next(iter(store.splits)) == "cosmic"


def test_first_tenth_of_the_list_is_the_other_protocol(store: FeatureStore, published: Parts) -> None:
    """120 training dialogues, of which most codes take the first twelve for validation."""
    first = [one.name for one in [*published["train"], *published["valid"]][:12]]
    rows = store.rows("file", 0)
    assert set(store.groups[rows["valid"]]) == set(first)
    assert len(rows["train"]) + len(rows["valid"]) == 5810
    assert len(rows["test"]) == 1623


def test_four_classes_drop_and_merge_nothing(published: Parts, tmp_path: Path) -> None:
    store = make(tmp_path, tuple9(published), classes=4)
    rows = store.rows("cosmic", 0)
    assert (len(rows["train"]) + len(rows["valid"]), len(rows["test"])) == (3600, 943)
    assert store.target.names == ("happy", "sad", "neutral", "angry")
    assert np.bincount(store.targets).tolist() == [648, 1084, 1708, 1103]
    assert len(set(store.groups)) == 151
    assert store.notes == ["All counts of the pickle are the published ones."]
    # Utterances keep their names, so that predictions of both sets can be laid side by side.
    one = published["test"][3]
    kept = [place for place, label in enumerate(one.labels) if label < 4]
    here = store.groups == one.name
    assert store.ids[here].tolist() == [f"{one.name}[{place}]" for place in kept]
    assert store.speakers[here].tolist() == [one.speakers[place] for place in kept]


@pytest.mark.parametrize(("classes", "sums"), [(6, (5810, 1623)), (4, (3600, 943))])
def test_dialogue_masks_sum_to_the_utterances(
    published: Parts, tmp_path: Path, classes: int, sums: tuple[int, int]
) -> None:
    store = make(tmp_path, tuple9(published), classes=classes)
    data = FusionDataModule(store.path, dialogue=True, batch_size=16)
    data.setup("fit")
    data.setup("test")
    counts, dialogues = [], 0
    for loaders in ([data.train_dataloader(), data.val_dataloader()], [data.test_dataloader()]):
        total = 0
        for batch in (batch for loader in loaders for batch in loader):
            mask = batch.target_mask
            assert mask is not None
            assert batch.speaker is not None
            for name in ("text", "audio", "vision"):
                torch.testing.assert_close(batch.inputs[name].mask, mask)
            # Each vector tells the place in the dialogue and the label.
            values = batch.inputs["vision"].values
            assert (values[..., 1][mask] == batch.target[mask]).all()
            assert (values[:, 1:, 0] > values[:, :-1, 0])[mask[:, 1:]].all()
            women = store.speakers[batch.index[mask].numpy()] == "F"
            assert (batch.speaker[mask].numpy() == np.where(women, 0, 1)).all()
            total += int(mask.sum())
            dialogues += batch.size
        counts.append(total)
    assert (tuple(counts), dialogues) == (sums, 151)


def test_a_changed_copy_is_told_from_the_published_one(published: Parts, tmp_path: Path) -> None:
    happy = {name: [0 if label == 4 else label for label in one] for name, one in tuple9(published)[2].items()}
    columns = tuple9(published)
    merged = make(tmp_path, (*columns[:2], happy, *columns[3:]))
    (note,) = merged.notes
    assert "6 counts of the pickle are not the published ones" in note
    assert "train happy 1044/451" in note
    assert "test excited 0/299" in note


# The layouts.


def same(store: FeatureStore, parts: Parts, modalities: tuple[str, ...]) -> None:
    """Hold a store against its dialogues."""
    every = [one for part in parts.values() for one in part]
    assert store.ids.tolist() == [f"{one.name}[{place}]" for one in every for place in range(len(one.labels))]
    assert store.groups.tolist() == [one.name for one in every for _ in one.labels]
    assert store.speakers.tolist() == [who for one in every for who in one.speakers]
    assert store.transcripts.tolist() == [text for one in every for text in one.sentences]
    assert store.targets.tolist() == [label for one in every for label in one.labels]
    assert tuple(store.modalities) == modalities
    wanted = np.concatenate([one.vectors(2) for one in every])
    for name in modalities:
        values, offsets = store.read(name, np.arange(len(store)))
        np.testing.assert_allclose(values, wanted, atol=1e-6)
        assert (np.diff(offsets) == 1).all()
    assert store.aligned
    store.verify()


ALL = ("text", "audio", "vision")


@pytest.mark.parametrize(
    ("layout", "modalities", "protocols"),
    [
        (tuple9, ALL, ["file"]),
        (tuple12, ALL, ["file"]),
        (lambda parts: list(tuple9(parts)), ALL, ["file"]),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_layouts_without_a_validation_list(
    layout: Callable[[Parts], Any], modalities: tuple[str, ...], protocols: list[str], protocol: int, tmp_path: Path
) -> None:
    parts = few_conversations()
    store = make(tmp_path, layout(parts), protocol)
    same(store, parts, modalities)
    assert list(store.splits) == protocols
    rows = store.rows("file", 0)
    assert set(store.groups[rows["valid"]]) == {parts["train"][0].name}  # a tenth of eleven
    assert set(store.groups[rows["test"]]) == {one.name for one in parts["test"]}


@pytest.mark.parametrize(("layout", "modalities"), [(list10, ("text",)), (corect, ALL)])
def test_layouts_with_a_validation_list(
    layout: Callable[[Parts], Any], modalities: tuple[str, ...], tmp_path: Path
) -> None:
    parts = few_conversations()
    parts = {"train": parts["train"][3:], "valid": parts["train"][:3], "test": parts["test"]}
    store = make(tmp_path, layout(parts))
    same(store, parts, modalities)
    rows = store.rows("file", 0)
    assert {split: sorted(set(store.groups[own])) for split, own in rows.items()} == {
        split: sorted(one.name for one in part) for split, part in parts.items()
    }


def test_validation_of_cosmic_itself_is_one_protocol(published: Parts, tmp_path: Path) -> None:
    store = make(tmp_path, list10(published))
    assert list(store.splits) == ["cosmic"]
    assert set(store.groups[store.rows("cosmic", 0)["valid"]]) == set(COSMIC_VALID)
    assert store.feature_set == "text2-6"


def test_a_set_of_dialogues_has_the_order_of_the_file(tmp_path: Path) -> None:
    """The lists of some files are sets, whose own order changes from run to run."""
    parts = few_conversations()
    columns = tuple9(parts)
    store = make(tmp_path, (*columns[:7], set(columns[7]), set(columns[8])))
    same(store, parts, ALL)


@pytest.mark.parametrize("absent", [None, {}, "empty"])
def test_absent_modalities_are_left_out(absent: Any, tmp_path: Path) -> None:
    parts = few_conversations()
    columns = list(tuple9(parts))
    columns[4] = {name: [] for name in columns[4]} if absent == "empty" else absent
    same(make(tmp_path, tuple(columns)), parts, ("text", "vision"))


def test_text_of_another_file(tmp_path: Path) -> None:
    parts = few_conversations()
    every = [one for part in parts.values() for one in part]
    vectors = {f"{one.name}[{place}]": vector for one in every for place, vector in enumerate(one.vectors(3))}
    dump(tmp_path / "bert_vectors.p", vectors)
    store = make(tmp_path, tuple9(parts), text=str(tmp_path / "bert_vectors.p"))
    assert store.spec("file").dims == {"text": 3, "audio": 2, "vision": 2}
    assert store.modalities["text"].source == "3 columns (by the width), of bert_vectors.p"
    dump(tmp_path / "roberta.pkl", list10(parts))
    same(make(tmp_path, list6(parts), text=str(tmp_path / "roberta.pkl")), parts, ("text",))
    with pytest.raises(DataError, match=r"has no features.*option `text`"):
        make(tmp_path, list6(parts))
    del vectors["Ses05M_b[1]"]
    dump(tmp_path / "few.p", vectors)
    with pytest.raises(DataError, match=r"few\.p has no vector of 1 utterances, the first: Ses05M_b\[1\]"):
        make(tmp_path, tuple9(parts), text=str(tmp_path / "few.p"))
    dump(tmp_path / "foreign.p", {"a": 1})
    with pytest.raises(DataError, match=r"names such as Ses02F_impro00x\[0\]"):
        make(tmp_path, tuple9(parts), text=str(tmp_path / "foreign.p"))


@pytest.mark.parametrize(
    ("widths", "name"),
    [
        ((100, 100, 512), "dialoguernn-6"),
        ((100, 1582, 342), "mmgcn-6"),
        ((768, 100, 512), "text768-audio100-vision512-6"),
    ],
)
def test_widths_name_the_feature_set(widths: tuple[int, int, int], name: str, tmp_path: Path) -> None:
    store = make(tmp_path, tuple9(few_conversations(), *widths))
    assert store.feature_set == name
    assert tuple(store.spec("file").dims.values()) == widths
    assert make(tmp_path, tuple9(few_conversations(), *widths), feature_set="mine").feature_set == "mine"


def test_a_file_of_four_classes(tmp_path: Path) -> None:
    parts = few_conversations()
    four: Parts = {
        split: [Conversation(one.name, [label % 4 for label in one.labels], one.speakers) for one in part]
        for split, part in parts.items()
    }
    assert make(tmp_path, tuple9(four)).target.names == EMOTIONS[:4]
    with pytest.raises(DataError, match="four emotions only"):
        make(tmp_path, tuple9(four), classes=6)


# What is refused.


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /nowhere/owned",)


def test_hostile_pickles_are_not_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(posix|nt)\.system.*Nothing of it was run"):
        make(tmp_path, (*tuple9(few_conversations())[:8], Hostile()))


def changed(place: int, change: Callable[[Any], Any]) -> tuple[Any, ...]:
    columns = list(tuple9(few_conversations()))
    columns[place] = change(columns[place])
    return tuple(columns)


FIRST = "Ses02F_impro00x"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(4, lambda one: {**one, FIRST: one[FIRST][:-1]}), rf"dialogue {FIRST} has 3 audio for 4 labels"),
        (changed(1, lambda one: {**one, FIRST: [[1, 0]] * 4}), r"speaks \[1, 0\]; IEMOCAP's speakers are M and F"),
        (changed(1, lambda one: {**one, FIRST: ["Ross"] * 4}), "speaks 'Ross'"),
        (changed(2, lambda one: {**one, FIRST: [0, 1, 2, 6]}), f"utterance of {FIRST} has the label 6"),
        (changed(3, lambda one: {**one, FIRST: [np.zeros((2, 2))] * 4}), r"text of .*\[0\] is a float64 array"),
        (
            changed(3, lambda one: {**one, FIRST: [[[1.0], [1.0, 2.0]]] * 4}),
            rf"text of {FIRST}\[0\] is no array of numbers",
        ),
        (changed(3, lambda one: {**one, FIRST: np.array(1.0)}), "the erc importer expects the tuple"),
        (changed(7, lambda one: np.array(7)), "the erc importer expects the tuple"),
        (changed(7, lambda one: {*one, "Ses01F_impro99"}), "dialogue Ses01F_impro99 has 0 speakers for 0 labels"),
        (changed(7, lambda one: [*one, one[0]]), f"lists the dialogue {FIRST} twice"),
        (changed(7, lambda one: [*one, "Ses01F_impro99"]), "dialogue Ses01F_impro99 has 0 speakers for 0 labels"),
        (changed(8, lambda one: []), "no dialogues for training, or none for the test"),
        (changed(2, lambda one: [1, 2]), "the erc importer expects the tuple of 9, 12, 10 or 6"),
        (changed(2, lambda one: {**one, FIRST: 3}), "the erc importer expects the tuple"),
        (changed(7, lambda one: 7), "the erc importer expects the tuple"),
        ({"train": [1], "dev": [2], "test": [3]}, "the erc importer expects the tuple"),
        ([{}] * 9, "the erc importer expects the tuple"),
        ((1, 2, 3), "the erc importer expects the tuple"),
        ("text", "the erc importer expects the tuple"),
    ],
)
def test_other_contents_are_refused_with_a_reason(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        make(tmp_path, content)
    assert not (tmp_path / "erc.h5").exists()


def test_the_command_prints_what_came_in(
    published: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "features.pkl").write_bytes(pickle.dumps(tuple9(published)))
    assert main(["data", "import", "erc", "features.pkl", "--classes", "4", "--out", "erc.h5"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "iemocap_erc/text2-audio2-vision2-4: 4543 samples, aligned, multiclass" in text
    assert "cosmic 0 3274 326 943 0 0" in text
    assert "class happy 648 451 53 144" in text
    assert "All counts of the pickle are the published ones." in text


def test_the_importer_is_registered() -> None:
    assert "erc" in importers()
    assert not {"tables", "splits"} & set(importers())
