"""What the identity and the content of a store depend on, and what not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data_modules.schema import DataError, TargetSpec
from data_modules.store import FeatureStore, Recipe, Sample, digests, provenance, write_store
from tests.data_modules.stores import INFO, RECIPE, another_processor, edit, make


def of_one(change: Callable[[Sample], object]) -> Callable[[Sample], object]:
    return lambda record: change(record) if record.id == "v1[2]" else None


def put(name: str, value: object) -> Callable[[Sample], object]:
    return of_one(lambda record: setattr(record, name, value))


def add_to_text(record: Sample) -> None:
    record.inputs["text"][0, 0] += 1e-6


OTHER: dict[str, tuple[Callable[[Sample], object], dict[str, Any]]] = {
    "id": (put("id", "other"), {}),
    "label": (put("target", 0.25), {}),
    "group": (put("group", "v2"), {}),
    "speaker": (put("speaker", "s1"), {}),
    "transcript": (put("transcript", "other words"), {}),
    "split": (put("split", "valid"), {}),
    "an exact value": (of_one(add_to_text), {}),
    "a byte of an origin": (of_one(lambda record: record.origins.update(audio="0" * 64)), {}),
    "protocol": (lambda record: None, {"protocol": "other"}),
    "a setting": (lambda record: None, {"recipes": {"audio": replace(RECIPE, settings={"bands": 2, "window_ms": 32})}}),
    "extractor": (lambda record: None, {"recipes": {"audio": replace(RECIPE, extractor="sieve")}}),
    "revision": (lambda record: None, {"recipes": {"audio": replace(RECIPE, revision=2)}}),
    "dataset": (lambda record: None, {"dataset": "other"}),
    "feature set": (lambda record: None, {"feature_set": "other"}),
    "target": (lambda record: None, {"target": TargetSpec("regression", ("sentiment",), -3, 2)}),
    "one time axis": (lambda record: None, {"aligned": True}),
    "rate": (lambda record: None, {"rates": {"audio": 40.0}}),
}


@pytest.mark.parametrize("what", OTHER)
def test_other_data_have_another_identity(tmp_path: Path, what: str) -> None:
    change, options = OTHER[what]
    before, after = make(tmp_path / "a.h5"), make(tmp_path / "b.h5", change, **options)
    assert after.identity != before.identity
    assert after.content != before.content


def longer(record: Sample) -> None:
    """One frame more: where a trim by decibels ends depends on the last digits."""
    record.inputs["audio"] = np.concatenate([record.inputs["audio"], record.inputs["audio"][-1:] * 0.999])


SAME: dict[str, tuple[Callable[[Sample], object], dict[str, Any]]] = {
    "a frame more": (longer, {}),
    "words": (lambda record: None, {"sources": {"text": "cards", "audio": "filter of /home/me/clips"}}),
    "order of keys, and the kind of a whole number": (
        lambda record: None,
        {"recipes": {"audio": replace(RECIPE, settings={"window_ms": 64, "bands": np.int64(2)})}},
    ),
}


@pytest.mark.parametrize("what", SAME)
def test_the_same_data_have_one_identity(tmp_path: Path, what: str) -> None:
    change, options = SAME[what]
    before, after = make(tmp_path / "a.h5"), make(tmp_path / "b.h5", change, **options)
    assert after.identity == before.identity
    assert after.content != before.content


def test_notes_are_only_words(tmp_path: Path) -> None:
    before, after = make(tmp_path / "a.h5"), make(tmp_path / "b.h5", notes=("Said later.",))
    assert (after.identity, after.content) == (before.identity, before.content)


def test_another_processor_makes_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = make(tmp_path / "a.h5")
    another_processor(monkeypatch)
    there = make(tmp_path / "b.h5")
    assert there.identity == here.identity
    assert there.content != here.content
    there.verify()


def test_libraries_are_recorded_and_do_not_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = make(tmp_path / "a.h5")
    assert before.libraries == {"numpy": np.__version__}
    monkeypatch.setattr(provenance, "version", lambda name: "99.0")
    after = make(tmp_path / "b.h5")
    assert after.libraries == {"numpy": "99.0"}
    assert after.identity == before.identity
    assert after.content != before.content


def test_a_store_says_how_its_values_were_made(tmp_path: Path) -> None:
    store = FeatureStore(make(tmp_path / "a.h5").path)
    assert store.recipes == {"audio": {"extractor": "filter", "revision": 1, "settings": {"bands": 2, "window_ms": 64}}}
    assert store.origins["audio"].tolist() == [hashlib.sha256(b'"clip %d"' % row).hexdigest() for row in range(6)]
    assert set(store.origins) == {"audio"}
    exact = write_store(
        tmp_path / "b.h5",
        replace(INFO, recipes={}),
        [Sample(s, {"text": np.ones((1, 2))}, 0.0, s) for s in ("train", "valid", "test")],
    )
    assert (exact.recipes, exact.origins, exact.libraries) == ({}, {}, {})


@pytest.mark.parametrize("change", [lambda r: r.origins.clear(), lambda r: r.origins.update(text="0" * 64)])
def test_a_recipe_without_origins_is_refused(tmp_path: Path, change: Callable[[Sample], object]) -> None:
    with pytest.raises(DataError, match=r"'v1\[2\]' has (no|an) origin of its (audio|text), and the store has (a|no) "):
        make(tmp_path / "a.h5", of_one(change))
    assert not list(tmp_path.iterdir())


def test_the_digests_are_what_the_documentation_says(tmp_path: Path) -> None:
    """Written anew from the words of the module, without its code."""

    def sha(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    def canonical(content: object) -> str:
        return sha(json.dumps(content, sort_keys=True, separators=(",", ":")))

    records = [
        Sample(
            part,
            {"text": np.full((2, 1), row + 0.5), "audio": np.ones((row + 1, 3))},
            row,
            part,
            "g",
            "s",
            "é",
            {"audio": f"{row}"},
        )
        for row, part in enumerate(("train", "valid", "test"))
    ]
    store = write_store(tmp_path / "a.h5", INFO, records)
    text = np.array([0.5, 0.5, 1.5, 1.5, 2.5, 2.5], "<f4").tobytes()
    offsets = np.array([0, 2, 4, 6], "<i8").tobytes()
    declared = {"kind": "features", "unknown": 0, "rate": 0, "size": [0, 0]}
    recipe = {"extractor": "filter", "revision": 1, "settings": {"bands": 2, "window_ms": 64}}
    assert store.identity == canonical(
        {
            "dataset": "mine",
            "feature_set": "random",
            "aligned": False,
            "target": {"kind": "regression", "names": ["sentiment"], "low": -3, "high": 3, "family": None},
            "ids": canonical(["train", "valid", "test"]),
            "groups": canonical(["g"] * 3),
            "speakers": canonical(["s"] * 3),
            "transcripts": canonical(["é"] * 3),
            "targets": hashlib.sha256(b"f4[3];" + np.arange(3, dtype="<f4").tobytes()).hexdigest(),
            "splits": {"splits/standard/0": hashlib.sha256(b"i1[3];\0\1\2").hexdigest()},
            "modalities": {
                "text": {
                    **declared,
                    "dim": 1,
                    "recipe": None,
                    "values": hashlib.sha256(b"f4[6, 1];" + text).hexdigest(),
                    "offsets": hashlib.sha256(b"i8[4];" + offsets).hexdigest(),
                },
                "audio": {**declared, "dim": 3, "recipe": recipe, "origins": canonical(["0", "1", "2"])},
            },
        }
    )


def test_arrays_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path / "a.h5")
    monkeypatch.setattr(digests, "BLOCK_BYTES", 16)
    assert make(tmp_path / "b.h5").content == store.content


@pytest.mark.parametrize("kind", ["soft", "external", "virtual"])
def test_a_store_that_leads_to_others_is_refused(tmp_path: Path, kind: str) -> None:
    """The other file could change without a sign."""
    store, other = make(tmp_path / "a.h5"), make(tmp_path / "b.h5")

    def lead(file: h5py.File) -> None:
        shape, dtype = file["targets"].shape, file["targets"].dtype
        file.move("targets", "before")
        if kind == "soft":
            file["targets"] = h5py.SoftLink("/before")
        elif kind == "external":
            file["targets"] = h5py.ExternalLink(str(other.path), "targets")
        else:
            layout = h5py.VirtualLayout(shape, dtype)
            layout[:] = h5py.VirtualSource(str(other.path), "targets", shape)
            file.create_virtual_dataset("targets", layout)

    edit(store.path, lead)
    message = {
        "soft": r"targets of .*a\.h5 is no array of its own: make the store again",
        "external": r"a\.h5: '/targets' is a link to another file",
        "virtual": r"a\.h5: the values of '/targets' lie in another file",
    }
    with pytest.raises(DataError, match=message[kind]):
        FeatureStore(store.path).verify()


def test_settings_that_are_no_plain_values_are_refused() -> None:
    with pytest.raises(DataError, match="is a PosixPath: digests are taken of numbers"):
        Recipe("filter", {"folder": Path("/home/me")}).to_dict()
