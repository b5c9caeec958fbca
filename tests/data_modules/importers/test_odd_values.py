"""Published layouts with something of another type in one place: a message says where, and no store is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_modules.formats import import_store
from data_modules.importers.values import array, column, labels, named, shown, text, whole_numbers
from data_modules.schema import DataError
from tests.data_modules.datasets.iemocap.layouts import few_conversations, tuple9, tuple12
from tests.data_modules.importers.layouts import dump, make_content, mmsa, mult, words_item

DIMS = {"text": 4, "audio": 3, "vision": 2}
ALIGNED = {"text": 6, "audio": 6, "vision": 6}
UNALIGNED = {"text": 6, "audio": 8, "vision": 7}
FIRST = "Ses02F_impro00x"


def refused(folder: Path, key: str, content: Any, message: str, **options: Any) -> None:
    source = dump(folder / "own.pkl", content)
    with pytest.raises(DataError, match=message) as caught:
        import_store(key, source, folder / "out.h5", dataset="mosi", options=options)
    assert "own.pkl" in str(caught.value)
    assert len(str(caught.value)) < 700
    assert not (folder / "out.h5").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("audio_lengths", [1, 2, np.nan, 1, 1, 1], "'audio_lengths' holds numbers that are not whole"),
        ("audio_lengths", ["5"] * 6, "'audio_lengths' holds '5'; numbers were expected"),
        ("audio_lengths", [1, 2, 3, 1, 1, 1e300], r"'audio_lengths' goes from 1 to 1e\+300"),
        ("audio_lengths", [1, 2, 3, 1, 1, -(2**62)], r"'audio_lengths' goes from -4\.6.*e\+18 to 3"),
        ("audio_lengths", 7, "'audio_lengths' has 1 rows for 6 samples"),
        ("audio_lengths", {"a": 1}, "'audio_lengths' is .* of type object"),
        ("id", 5, "'id' is 5; a list or an array"),
        ("id", np.array("v"), r"'id' is array \(\); a list"),
        ("id", ["a", "b", {}, "c", "d", "e"], r"row 2 of the split 'train', its name is \{\}; text was expected"),
        ("id", ["a", "b", [], "c", "d", "e"], "row 2 of the split 'train' has no name"),
        ("id", ["a", "b", " ", "c", "d", "e"], "row 2 of the split 'train' has no name"),
        ("id", ["a", "b", "[" * 100_000, "c", "d", "e"], "row 2 .* has a name of 100000 characters"),
        ("raw_text", None, "'raw_text' is None"),
        ("raw_text", ["a"] * 5 + [{"b": 1}], "'raw_text', row 5 is {'b': 1}; text was expected"),
        ("regression_labels", ["x"] * 6, "'regression_labels' holds 'x'"),
        ("regression_labels", np.array(["x"] * 6), "'regression_labels' holds labels that are no numbers"),
        ("regression_labels", [0, 0, 0, 0, 0, 1e39], r"holds the label 1e\+39; labels go up to 3\.4e\+38"),
        ("regression_labels", [0, 0, 0, 0, 0, 10**400], "'regression_labels' is .* of type object"),
        ("regression_labels", [0, 0, 0, 0, 0, np.nan], "own.pkl: Sample .* has the label NaN"),
        ("audio", 3, r"'audio' is a int64 array of shape \(\)"),
        ("audio", [[1, 2], [3]], "'audio' is no array of numbers: its rows differ in length"),
        ("audio", [[["a"]]], "'audio' holds 'a'; numbers were expected"),
        ("text_bert", np.full((6, 3, 6), np.nan), "'text_bert' holds numbers that are not whole"),
        ("text_bert", np.full((6, 3, 6), 0.5), "'text_bert' holds numbers that are not whole"),
        ("text_bert", np.full((6, 3, 6), -1), "'text_bert' goes from -1 to -1"),
        ("text_bert", "text", "'text_bert' is 'text' of type <U4"),
    ],
)
def test_mmsa(tmp_path: Path, name: str, value: Any, message: str) -> None:
    content = mmsa(make_content(UNALIGNED, DIMS), UNALIGNED)
    content["train"][name] = value
    refused(tmp_path, "mmsa", content, message, text="tokens")


@pytest.mark.parametrize(("name", "text"), [("id", "v\ud800$_$1"), ("raw_text", "so \udc00")])
def test_halves_of_surrogates(tmp_path: Path, name: str, text: str) -> None:
    content = mmsa(make_content(UNALIGNED, DIMS), UNALIGNED)
    content["train"][name][0] = text
    refused(tmp_path, "mmsa", content, "own.pkl: Sample .* which is no Unicode text")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("id", [["a", "1", "2"]] * 5 + [[]], "'train', row 5 has no name"),
        ("id", [["a", "1", "2"]] * 5 + [[None]], "'train', row 5, its name is None"),
        ("id", np.array("v"), "'id' is array"),
        ("labels", np.full((6, 1, 1), None), "own.pkl: Sample .* has the label NaN"),
        ("labels", 5, r"the labels of the split 'train' have the shape \(\)"),
        ("labels", np.full((6, 1, 1), 1e300), r"'labels' holds the label 1e\+300"),
        ("labels", np.eye(2)[np.zeros((6, 4), int)], "labels of sentiment in one split and of emotions in another"),
        ("vision", ["a"] * 6, "'vision' holds 'a'"),
    ],
)
def test_mult(tmp_path: Path, name: str, value: Any, message: str) -> None:
    content = mult(make_content(ALIGNED, DIMS), ALIGNED)
    content["train"][name] = value
    refused(tmp_path, "mult", content, message)


def _words(sample: Any) -> list[Any]:
    (words, visual, acoustic), label, name = sample
    return [[words, visual, acoustic], label, name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: [s[0], "good", s[2]], "sample 1 of train, '_dI.*', its label, is 'good' of type <U4"),
        (lambda s: [s[0], 1e39, s[2]], r"its label, holds the label 1e\+39"),
        (lambda s: [s[0], [10**400], s[2]], "sample 1 of train, .* its label, is .* of type object"),
        (lambda s: [s[0], s[1], ""], "sample 1 of train has no name"),
        (lambda s: [s[0], s[1], None], "sample 1 of train, its name is None"),
        (lambda s: [[7, *s[0][1:]], s[1], s[2]], "its words, is 7; a list"),
        (lambda s: [[[{}], *s[0][1:]], s[1], s[2]], r"a word, is \{\}; text was expected"),
        (lambda s: [[s[0][0], 1, s[0][2]], s[1], s[2]], r"has 6 words, visual \(\) and"),
        (lambda s: [[s[0][0], [[1], [1, 2]], s[0][2]], s[1], s[2]], "its visual column, is no array of numbers"),
    ],
)
def test_misa(tmp_path: Path, change: Callable[[Any], Any], message: str) -> None:
    np.savez(tmp_path / "vectors.npz", vocab=np.array(["word0"]), emb=np.ones((1, 4)))
    content = {
        split: [words_item(sample, False, sample.label) for sample in some]
        for split, some in make_content(ALIGNED, DIMS).items()
    }
    content["train"][1] = tuple(change(_words(content["train"][1])))
    refused(tmp_path, "misa", content, message, embedding=tmp_path / "vectors.npz")


def test_misa_without_samples(tmp_path: Path) -> None:
    content = {"train": [], "dev": None, "test": []}
    refused(tmp_path, "misa", content, "the misa importer expects a dict of train", embedding=tmp_path / "vectors.npz")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (2, [True, 0, 0, 0], f"an utterance of {FIRST} has the label True; labels are whole numbers"),
        (2, [0.5, 0, 0, 0], f"an utterance of {FIRST} has the label 0.5"),
        (1, [["M"] * 9] * 4, r"speaks \['M', 'M', 'M', 'M', 'M', 'M', \.\.\.\]"),
        (5, [[[1.0]], 2, 3, 4], rf"the vision of {FIRST}\[0\] is a float64 array of shape \(1, 1\)"),
        (5, [{}, 2, 3, 4], rf"the vision of {FIRST}\[0\] is \{{\}} of type object"),
        (5, ["ab"] * 4, rf"the vision of {FIRST}\[0\] is 'ab'"),
        (6, [None] * 4, rf"the sentence of {FIRST}\[0\] is None"),
    ],
)
def test_erc(tmp_path: Path, place: int, value: Any, message: str) -> None:
    content = list(tuple9(few_conversations()))
    content[place] = {**content[place], FIRST: value}
    refused(tmp_path, "erc", tuple(content), message)


def test_erc_names_of_dialogues(tmp_path: Path) -> None:
    content = tuple9(few_conversations())
    refused(tmp_path, "erc", (*content[:7], [*content[7], {}], content[8]), r"the name of a dialogue is \{\}")


def test_erc_holds_each_layer_of_the_text_against_the_labels(tmp_path: Path) -> None:
    """Four columns have one name: the first three must be looked at too."""
    content = list(tuple12(few_conversations()))
    content[3] = {name: rows for name, rows in content[3].items() if name != FIRST}
    refused(tmp_path, "erc", tuple(content), f"dialogue {FIRST} has 0 text for 4 labels")


def test_values_that_stand_in_other_types() -> None:
    """Columns of exact numbers, in any type that files hold them in, are what they were."""
    rows = np.ones((2, 3), np.float32)
    assert array("x", rows) is rows
    assert array("x", [rows, rows]).dtype == np.float32
    np.testing.assert_array_equal(labels("x", [[1], [2.5]]), [[1], [2.5]])
    np.testing.assert_array_equal(labels("x", np.array(["1.5", "2"])), [1.5, 2])
    np.testing.assert_array_equal(labels("x", np.array([1, 2.5], object)), [1, 2.5])
    np.testing.assert_array_equal(whole_numbers("x", [1.0, 2.0]), [1, 2])
    np.testing.assert_array_equal(whole_numbers("x", np.array([3], np.uint8)), [3])
    assert whole_numbers("x", []).size == 0
    assert column("x", (1, 2)) == (1, 2)
    assert text("x", np.bytes_(b"ab")) == "ab"
    assert named("x", [b"video_name_1", b"0.5", b"1"]) == ("video_name[1]", "video_name")


def test_shown_is_short() -> None:
    deep: Any = np.full(3, None)
    deep[0] = ["x" * 9999] * 9999
    for value in ("x" * 10_000, list(range(9999)), {"a": {"b": [deep] * 99}}, deep, np.str_("y" * 999), 10**600, 1j):
        assert len(shown(value)) < 300
    assert shown([1, 0.5, None, True, "a"]) == "[1, 0.5, None, True, 'a']"
    assert shown(np.float32(0.5)) == "0.5"
