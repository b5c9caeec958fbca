"""The summary of a store."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from data_modules.schema import DataError, TargetSpec
from data_modules.store import FeatureStore, Sample, StoreInfo, write_store
from data_modules.store.provenance import Recipe, recipe_text
from data_modules.store.summary import summary
from tests.data_modules.stores import make as make_both

SCORES = [-3.0, -2.5, -1.5, -0.5, 0.5, 0.6, 1.5, 2.5, 3.0, 4.0]
SENTIMENT = TargetSpec("regression", ("sentiment",), -3.0, 3.0)


def make(tmp_path: Path, target: TargetSpec = SENTIMENT, labels: Any = SCORES, **info: Any) -> FeatureStore:
    """Ten samples: six to train on, two and two; one NaN, two infinities, one empty sequence, lengths 1 to 10."""
    records = []
    for row, label in enumerate(labels):
        audio = np.ones((row + 1, 4), np.float32)
        audio[0, :3] = (np.nan, np.inf, -np.inf) if row == 3 else 1
        vision = np.ones((0 if row == 9 else 2, 5), np.float32)
        split = ("train", "valid", "test")[(row > 5) + (row > 7)]
        group = f"video{row // 3}"
        records.append(Sample(f"s{row}", {"audio": audio, "vision": vision}, label, split, group))
    return write_store(tmp_path / "a.h5", StoreInfo("mosi", "mine", target, **info), records)


def test_counts_lengths_and_repairs(tmp_path: Path) -> None:
    store = make(tmp_path, notes=("said by the importer",), sources={"audio": "COVAREP"})
    found = summary(store).to_dict()
    assert found["samples"] == 10
    assert (found["identity"], found["content"], found["libraries"]) == (store.identity, store.content, {})
    assert found["modalities"]["audio"] == {
        "dim": 4,
        "kind": "features",
        "source": "COVAREP",
        "recipe": None,
        "length": {"min": 1, "mean": 5.5, "max": 10},
        "repairs": {"nan": 1, "inf": 2, "empty": 0},
    }
    assert found["modalities"]["vision"]["length"] == {"min": 1, "mean": 1.9, "max": 2}
    assert found["modalities"]["vision"]["repairs"]["empty"] == 1
    # video0 and 1 train, 2 = samples 6 to 8: valid and test, 3 test.
    assert found["protocols"] == {"standard": [{"train": 6, "valid": 2, "test": 2, "unused": 0, "shared_groups": 1}]}
    note = "standard, fold 0: 1 groups are in more than one part; scores are not independent of them."
    assert found["notes"] == ["said by the importer", note]
    assert json.loads(json.dumps(found)) == found


def test_sentiment_is_counted_as_the_seven_class_accuracy_rounds(tmp_path: Path) -> None:
    """Half to even: -2.5 is -2, -1.5 is -2, -0.5 and 0.5 are 0, 1.5 and 2.5 are 2; 4 is clipped to 3."""
    labels = summary(make(tmp_path)).labels
    wanted = {"-3": 1, "-2": 2, "-1": 0, "0": 2, "+1": 1, "+2": 2, "+3": 2}
    assert labels["all"]["sentiment"] == wanted
    assert labels["standard/0/valid"]["sentiment"] == {**dict.fromkeys(wanted, 0), "+2": 2}


def test_other_scales_fall_into_seven_bins(tmp_path: Path) -> None:
    target = TargetSpec("regression", ("arousal", "valence"), -1.0, 1.0, "affect")
    values = np.linspace(-1, 1, 10)
    labels = summary(make(tmp_path, target, np.stack([values, -values], 1))).labels["all"]
    assert list(labels) == ["arousal", "valence"]
    edges = np.linspace(-1, 1, 8)
    assert list(labels["arousal"].values()) == np.histogram(values.astype(np.float32), edges)[0].tolist()
    assert next(iter(labels["arousal"])) == "-1 to -0.714"
    unscaled = TargetSpec("regression", ("y",))
    bins = summary(make(tmp_path, unscaled, np.arange(10.0) * 7 / 9)).labels
    assert list(bins["all"]["y"]) == [f"{i} to {i + 1}" for i in range(7)]
    assert list(bins["standard/0/test"]["y"].values()) == [0, 0, 0, 0, 0, 0, 2]
    constant = summary(make(tmp_path, unscaled, np.full(10, 2.0))).labels["all"]["y"]
    assert list(constant.values()) == [10]


@pytest.mark.parametrize(
    ("kind", "labels", "wanted"),
    [
        ("multiclass", [0, 1, 1, 0, 0, 0, 0, 0, 0, 0], {"class": {"a": 8, "b": 2, "c": 0}}),
        (
            "multilabel",
            [[1, 0, 1]] * 10,
            {n: {"0": 10 - 10 * v, "1": 10 * v} for n, v in zip("abc", (1, 0, 1), strict=True)},
        ),
        (
            "binary",
            [[1, 0, 0]] * 10,
            {n: {"0": 10 - 10 * v, "1": 10 * v} for n, v in zip("abc", (1, 0, 0), strict=True)},
        ),
    ],
)
def test_classes_are_counted_by_name(tmp_path: Path, kind: Any, labels: Any, wanted: dict[str, Any]) -> None:
    store = make(tmp_path, TargetSpec(kind, ("a", "b", "c")), [np.asarray(one) for one in labels])
    assert summary(store).labels["all"] == wanted


def test_one_protocol_of_several(tmp_path: Path) -> None:
    tables = {"five": [np.array([0, 0, 0, 0, 0, 1, 1, 2, 2, -1])] * 2, "other": [np.array([2, 1] + [0] * 8)]}
    records = [Sample(f"s{i}", {"text": np.ones((1, 2))}, 0.0) for i in range(10)]
    store = write_store(tmp_path / "b.h5", StoreInfo("mosi", "mine", SENTIMENT), records, lambda _: tables)
    assert list(summary(store).protocols) == ["five", "other"]
    found = summary(store, "five")
    assert found.protocols == {"five": [{"train": 5, "valid": 2, "test": 2, "unused": 1, "shared_groups": 0}] * 2}
    assert set(found.labels) == {"all", *(f"five/{f}/{s}" for f in (0, 1) for s in ("train", "valid", "test"))}
    with pytest.raises(DataError, match="no split protocol 'sixth'; it has: five, other"):
        summary(store, "sixth")


def test_what_is_printed(tmp_path: Path) -> None:
    store = make(tmp_path, notes=("[red]said[/red] by the importer",))
    console = Console(file=io.StringIO(), width=120)
    console.print(summary(store))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for wanted in (
        "mosi/mine: 10 samples",
        store.identity,
        store.content,
        "audio",
        "vision",
        "standard",
        "sentiment",
        "+3",
        "5.5",
    ):
        assert wanted in text
    assert "note: [red]said[/red] by the importer" in text


def test_what_values_are_is_said_in_words(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(summary(make_both(tmp_path / "a.h5")))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "text: exact values (dice)" in lines
    assert "audio: recipe filter, bands 2, window_ms 64, revision 1 (filter of clips)" in lines
    assert f"made with numpy {np.__version__}" in lines


def test_recipes_in_recipes_and_digests_are_short() -> None:
    inner = Recipe("frames", {"every": 0.5}, revision=3)
    said = recipe_text(Recipe("encoder", {"weights": "ab" * 32, "pictures": inner.to_dict()}).to_dict())
    assert said == "encoder, weights abababababab, pictures (frames, every 0.5, revision 3), revision 1"
