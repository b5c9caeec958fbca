"""Forms C1 (MAG) and C2 (MISA): words with the audio and vision of each."""

import collections
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_modules.formats import import_store
from data_modules.importers.misa import word_vectors
from data_modules.schema import DataError
from data_modules.store import FeatureStore
from tests.data_modules.importers.layouts import Content, check, dump, make_content, mult, words_item

LIMITS = {"text": 60, "audio": 60, "vision": 60}
DIMS = {"text": 300, "audio": 74, "vision": 47}
REAL = os.environ.get("MMBENCH_REAL_DATA")

EMOTIONS = [1 / 3, 0, 2 / 3, 1, 0, 8 / 3]


def vectors(words: list[str]) -> np.ndarray:
    """A table in which the vector of a word is told by its name."""
    return np.array([[hash_free(word, i) for i in range(DIMS["text"])] for word in words], np.float32)


def hash_free(word: str, column: int) -> float:
    return sum(map(ord, word)) + column / 512


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [*(f"word{i}" for i in range(60)), "only"]
    path = tmp_path_factory.mktemp("table") / "glove.npz"
    np.savez(path, vocab=np.array(words), emb=vectors(words))
    return path


def worded() -> Content:
    """Content whose text is the vectors of its words."""
    content = make_content(LIMITS, DIMS)
    for samples in content.values():
        for sample in samples:
            sample.inputs["text"] = vectors(sample.words)
    return content


def mag(content: Content, label: Any = lambda sample: np.array([[sample.label]])) -> dict[str, Any]:
    return {
        name: [words_item(sample, ids=False, label=label(sample)) for sample in content[split]]
        for name, split in (("train", "train"), ("dev", "valid"), ("test", "test"))
    }


def misa(folder: Path, content: Content, label: Any = lambda sample: np.array([[sample.label]])) -> Path:
    folder.mkdir()
    for name, split in (("train", "train"), ("dev", "valid"), ("test", "test")):
        dump(folder / f"{name}.pkl", [words_item(s, ids=True, label=label(s)) for s in content[split]])
    # The table beside them holds a factory of the module that made it; nobody may read it.
    dump(folder / "embedding_and_mapping.pt", (vectors(["a"]), collections.defaultdict(os.getcwd)))
    return folder


def bring(tmp_path: Path, source: Path, table: Path, **options: Any) -> FeatureStore:
    return import_store("misa", source, tmp_path / "out.h5", dataset="mosi", options={"embedding": table, **options})


@pytest.mark.parametrize("form", ["C1", "C1 plain label", "C2"])
def test_records_are_the_content(tmp_path: Path, table: Path, form: str) -> None:
    content = worded()
    if form == "C2":
        source = misa(tmp_path / "MOSI", content)
    else:
        label = {"C1": lambda s: np.array([[s.label]]), "C1 plain label": lambda s: s.label}[form]
        source = dump(tmp_path / "mosi.pkl", mag(content, label))
    store = bring(tmp_path, source, table)
    check(store, content)
    assert store.aligned
    assert store.transcripts[0] == "word0"
    assert store.feature_set == "glove_words"
    assert (store.target.kind, store.target.low, store.target.high) == ("regression", -3, 3)
    assert not store.notes


def test_words_without_a_vector_are_zeros_and_counted(tmp_path: Path, table: Path) -> None:
    content = worded()
    sample = content["train"][1]
    sample.words[:3] = ["ONLY", "nowhere", "nowhere"]
    sample.inputs["text"][:3] = [vectors(["only"])[0], np.zeros(300), np.zeros(300)]
    total = sum(len(s.words) for part in content.values() for s in part)
    store = bring(tmp_path, dump(tmp_path / "mosi.pkl", mag(content)), table)
    check(store, content)
    assert store.notes == [f"text: 2 of {total} words (1 different) have no vector: zeros."]


def test_table_as_glove_is_released(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(60)]
    lines = [f"{word} {' '.join(map(repr, map(float, row)))}" for word, row in zip(words, vectors(words), strict=True)]
    # GloVe 840B has words with spaces in them.
    lines.insert(3, "word7 at word8 " + lines[2].split(" ", 1)[1])
    table = tmp_path / "glove.txt"
    table.write_text("\n".join(lines) + "\n")
    content = worded()
    check(bring(tmp_path, dump(tmp_path / "mosi.pkl", mag(content)), table), content)


def test_emotions_are_present_above_zero(tmp_path: Path, table: Path) -> None:
    """Thirds of the annotators survive the reading: 1/3 counts as present."""
    content = worded()
    source = misa(tmp_path / "MOSEI", content, lambda s: np.array([[s.label, *EMOTIONS]]))
    store = bring(tmp_path, source, table, target="emotions")
    assert store.target.kind == store.target.metric_family == "multilabel"
    assert store.target.names == ("happy", "sad", "anger", "surprise", "disgust", "fear")
    np.testing.assert_array_equal(store.targets, np.tile([1, 0, 1, 1, 0, 1], (14, 1)))
    check(bring(tmp_path, source, table), content)


def test_one_part_is_refused_or_cut_by_video(tmp_path: Path, table: Path) -> None:
    content = worded()
    source = dump(tmp_path / "train.pkl", [words_item(s, ids=True, label=s.label) for s in content["train"]])
    with pytest.raises(DataError, match=r"1 of the three parts.*split: by-video"):
        bring(tmp_path, source, table)
    store = bring(tmp_path, source, table, split="by-video")
    assert list(store.splits) == ["by-video"]
    rows = store.rows("by-video", 0)
    videos = [set(store.groups[rows[split]]) for split in ("train", "valid", "test")]
    assert sum(map(len, videos)) == len(set.union(*videos)) == 3
    assert any("cut by video" in note for note in store.notes)
    assert bring(tmp_path, source, table, split="by-video").identity == store.identity


def _item(**parts: Any) -> tuple[Any, ...]:
    fields: dict[str, Any] = {"words": ["word1", "word2"], "visual": np.ones((2, 47)), "acoustic": np.ones((2, 74))}
    fields |= parts
    return (fields["words"], fields["visual"], fields["acoustic"]), fields.get("label", 0.5), "v[0]"


@pytest.mark.parametrize(
    ("item", "options", "message"),
    [
        (_item(visual=np.ones((3, 47))), {}, r"'v\[0\]' has 2 words, visual \(3, 47\)"),
        (_item(acoustic=np.ones(2)), {}, r"acoustic \(2,\)"),
        (_item(acoustic=np.ones((2, 43))), {}, r"audio steps of shape"),
        (_item(label=np.nan), {}, "label NaN"),
        (_item(label=[1, 2]), {}, "has 2 labels"),
        (_item(), {"target": "emotions"}, "has 1 labels.*target: sentiment"),
        (_item(label=[0.5, np.nan, 0, 0, 0, 0, 0]), {"target": "emotions"}, "label NaN"),
        (((1, 2, 3, 4, 5, 6), 0.5, "v[0]"), {}, "cache of MMIM"),
        ((1, 2, 3), {}, r"a sample is tuple of length 3.*\(\(words, visual, acoustic\), label, segment\)"),
        (((1, 2), 0.5, "v[0]"), {}, r"a sample is tuple of length 3.*\(\(words, visual, acoustic\), label, segment\)"),
        (_item(words=["x", "y"]), {}, "none of the 2 words"),
    ],
)
def test_bad_sample(tmp_path: Path, table: Path, item: Any, options: dict[str, Any], message: str) -> None:
    first = (_item()[0], [0.5] * (7 if options else 1), "w[0]")
    alone = "none of the" in message
    parts = {"train": [item] if alone else [first, item], "dev": [] if alone else [first], "test": []}
    with pytest.raises(DataError, match=message):
        bring(tmp_path, dump(tmp_path / "mosi.pkl", parts), table, **options)


def test_another_layout_is_told(tmp_path: Path, table: Path) -> None:
    source = dump(tmp_path / "a.pkl", mult(make_content(LIMITS), LIMITS))
    with pytest.raises(DataError, match=r"misa importer expects.*mmbench data import mult"):
        bring(tmp_path, source, table)
    with pytest.raises(DataError, match="a sample is int"):
        bring(tmp_path, dump(tmp_path / "b.pkl", [1, 2]), table, split="by-video")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="0 of the three parts"):
        bring(tmp_path, tmp_path / "empty", table, split="by-video")


def test_tables_that_are_none(tmp_path: Path) -> None:
    source = dump(tmp_path / "mosi.pkl", mag(worded()))
    np.savez(tmp_path / "wrong.npz", vocab=np.array(["a"]), emb=np.zeros((2, 3)))
    np.savez(tmp_path / "keys.npz", words=np.array(["a"]))
    (tmp_path / "bad.txt").write_text("word1 0.5 0.5\nword2 0.5\n")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "wrong.npz").read_bytes()[:100])
    later = bytearray((tmp_path / "wrong.npz").read_bytes())
    later[later.index(b"PK\1\2") + 6] = 255  # the version of zip that is needed to read it
    (tmp_path / "later.npz").write_bytes(later)
    for name, message in {
        "none.npz": "no table of word vectors at",
        "wrong.npz": "do not fit",
        "keys.npz": "vocab",
        "cut.npz": "no table of word vectors",
        "later.npz": "no table of word vectors .zip file version 25.5",
        "bad.txt": "line 2: 2 numbers",
    }.items():
        with pytest.raises(DataError, match=message):
            bring(tmp_path, source, tmp_path / name)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"word1 1 2\nword2 one two\n", "line 2: 2 numbers after the word"),
        (b"word1 1 2\nword2 1\n", "line 2: 2 numbers after the word"),
        (b"word1 1 2\n" + b"w" * (1 << 21), "line 2 has no end"),
        (b"1 " * (1 << 20), "line 1 has no end"),
        (b"\0\n\n", "no table of word vectors"),
        (b"", "no table of word vectors"),
    ],
)
def test_texts_that_are_no_table(tmp_path: Path, lines: bytes, message: str) -> None:
    (tmp_path / "glove.txt").write_bytes(lines)
    with pytest.raises(DataError, match=rf"glove\.txt.*{message}"):
        word_vectors(tmp_path / "glove.txt", {"word1", "word2"})


@pytest.mark.parametrize(
    ("vocab", "emb"),
    [
        (np.array(1), np.ones((1, 2))),
        (np.array([1]), np.ones((1, 2))),
        (np.array([["a"]]), np.ones((1, 2))),
        (np.array(["a"]), np.array(2.0)),
        (np.array(["a"]), np.array([["x", "y"]])),
        (np.array(["a"]), np.ones((1, 0))),
        (np.array(["a"]), np.ones((1, 2), "c8")),
    ],
)
def test_arrays_that_are_no_table(tmp_path: Path, vocab: np.ndarray, emb: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", vocab=vocab, emb=emb)
    with pytest.raises(DataError, match=r"a\.npz: vocab .* and emb .* expected"):
        word_vectors(tmp_path / "a.npz", {"a"})


def test_vectors_beyond_single_precision_are_infinite(tmp_path: Path) -> None:
    """No warning of an overflow; the store counts what is infinite and puts 0."""
    np.savez(tmp_path / "a.npz", vocab=np.array([b"a"]), emb=np.array([[1e300, -0.5]]))
    found, dim = word_vectors(tmp_path / "a.npz", {"a"})
    assert (found["a"].tolist(), found["a"].dtype, dim) == ([np.inf, -0.5], np.float32, 2)


@pytest.mark.skipif(REAL is None, reason="needs the real files: set MMBENCH_REAL_DATA to their folder")
def test_real_validation_part(tmp_path: Path) -> None:
    folder = Path(str(REAL)) / "mosi"
    store = bring(tmp_path, folder / "misa_valid.pkl", folder / "glove_2729x300.npz", split="by-video")
    assert len(store) == 229
    assert {name: spec.dim for name, spec in store.modalities.items()} == DIMS
    # Published of this part: 13 zeros, 124 positive, 92 negative, mean 0.3095.
    signs = np.sign(store.targets)
    assert [(signs == sign).sum() for sign in (0, 1, -1)] == [13, 124, 92]
    np.testing.assert_allclose(store.targets.mean(), 0.3095, atol=5e-5)
    assert store.repairs["text"]["empty"] == 0
    assert not any("no vector" in note for note in store.notes)
