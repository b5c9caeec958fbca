"""Labels of segments from sequences and tables: what becomes a target, and what cannot."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from data_modules.schema import DataError
from tests.data_modules.importers.csd_layouts import VIDEOS, World, bring, make_world, ordered, tokens, write_csd


def test_emotions_are_present_above_zero(tmp_path: Path, world: World) -> None:
    source = world.write(tmp_path / "files", columns=7)
    store = bring(tmp_path, source, target="emotions")
    assert (store.target.kind, store.target.names) == (
        "multilabel",
        ("happy", "sad", "anger", "surprise", "disgust", "fear"),
    )
    expected = [[value > 0 for value in labels[1:]] for *_, labels in ordered(world)]
    np.testing.assert_array_equal(store.targets, expected)
    assert store.feature_set.endswith("-emotions")
    np.testing.assert_allclose(bring(tmp_path, source).targets, [labels[0] for *_, labels in ordered(world)])


def test_emotions_need_their_columns(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="24 of 24 segments have no labels of emotions"):
        bring(tmp_path, folder, target="emotions")


@pytest.mark.parametrize(("damage", "reason"), [("rows", "has features"), ("time", "has a time that is no number")])
def test_labels_that_cannot_be_used_are_told(tmp_path: Path, world: World, damage: str, reason: str) -> None:
    extra, video = make_world(seed=1, segments=1), sorted(VIDEOS)[0]
    more = {f"v{k}": next(iter(VIDEOS)) for k in range(20)}
    whole = World(*({**getattr(world, n), **{k: getattr(extra, n)[v] for k, v in more.items()}} for n in vars(world)))
    for name, few in (("few", world), ("many", whole)):
        source = few.write(tmp_path / name)
        with h5py.File(source / "CMU_MOSI_Opinion_Labels.csd", "a") as file:
            entry = file["Opinion Segment Labels/data"][video]
            times = entry["intervals"][:-1] if damage == "rows" else entry["intervals"][:] * np.nan
            del entry["intervals"]
            entry["intervals"] = times
    with pytest.raises(DataError, match=f"1 of 4 clips have labels that cannot be used, .*{video}' {reason}"):
        bring(tmp_path, tmp_path / "few")
    store = bring(tmp_path, source)
    assert set(store.groups) == {*VIDEOS, *more} - {video}
    assert store.notes[0].startswith("1 videos have labels that cannot be used and were left out: ")
    assert f"{video!r} {reason}" in store.notes[0]


def test_labels_outside_the_scale_are_told(tmp_path: Path, world: World) -> None:
    segments = {video: list(rows) for video, rows in world.segments.items()}
    segments[sorted(VIDEOS)[0]][0] = (*segments[sorted(VIDEOS)[0]][0][:2], [10 / 3, *[0.0] * 6])
    store = bring(tmp_path, World(world.words, world.audio, world.vision, segments).write(tmp_path / "files"))
    assert "1 labels lie outside the scale [-3, 3]; they were kept as they are." in store.notes


def test_tables_of_labels(tmp_path: Path, world: World, folder: Path) -> None:
    """Tables with parts of their own need no folds, name their clips and know what was said."""
    tables = tmp_path / "tables"
    tables.mkdir()
    for part in ("train", "valid", "test"):
        lines = ["vid\tcid\tstart\tstop\tlabel\ttext"]
        for video, k, (start, stop), labels in ordered(world):
            if VIDEOS[video] == part:
                lines.append(f"{video}\t{k + 1}\t{start!r}\t{stop!r}\t{labels[0]}\tSAID {k}")
        (tables / f"{part}.tsv").write_text("\n".join(lines) + "\n")
    store = bring(tmp_path, folder, dataset="other", labels=str(tables))
    direct = bring(tmp_path / "direct", folder)
    assert store.ids.tolist() == [f"{video}[{k + 1}]" for video, k, *_ in ordered(world)]
    assert store.transcripts.tolist() == [f"SAID {k}" for _, k, *_ in ordered(world)]
    for name in ("audio", "vision"):
        rows = np.arange(len(store))
        np.testing.assert_array_equal(store.read(name, rows)[0], direct.read(name, rows)[0])
    for part in ("train", "valid", "test"):
        np.testing.assert_array_equal(store.rows("standard", 0)[part], direct.rows("standard", 0)[part])
    # Folds that are given come before the parts of the tables.
    folds = tmp_path / "folds"
    folds.mkdir()
    for part, video in (("train", "c7UH_rxdZv4"), ("valid", "_dI--eQ6qVU"), ("test", "03bSnISJMiM")):
        (folds / f"{part}.txt").write_text(f"{video}\n")
    other = bring(tmp_path, folder, labels=str(tables), folds=str(folds))
    assert set(other.groups[other.rows("standard", 0)["test"]]) == {"03bSnISJMiM"}


def test_videos_in_no_fold_are_unused(tmp_path: Path, folder: Path) -> None:
    folds = tmp_path / "folds"
    folds.mkdir()
    for part, video in (("train", "03bSnISJMiM"), ("dev", "_dI--eQ6qVU"), ("test", "c7UH_rxdZv4")):
        (folds / f"{part}.txt").write_text(f"{video}\n")
    store = bring(tmp_path, folder, dataset="mosei", folds=str(folds))
    counts = {part: len(rows) for part, rows in store.rows("standard", 0).items()}
    assert counts == {"train": 6, "valid": 6, "test": 6}
    assert "6 segments of 1 videos are in no part of the folds: not used." in store.notes
    with pytest.raises(DataError, match=r"Give the option `folds`.*cmu_mosei_std_folds.py"):
        bring(tmp_path, folder, dataset="mosei")


def test_a_table_of_other_words_is_refused(tmp_path: Path, folder: Path) -> None:
    np.savez(tmp_path / "other.npz", vocab=np.array(["mot"]), emb=np.zeros((1, 2)))
    with pytest.raises(DataError, match="none of the 7 words"):
        bring(tmp_path, folder, vectors=str(tmp_path / "other.npz"))


def test_no_labels(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match=r"no labels\. Give the option `labels`"):
        bring(tmp_path, folder / "CMU_MOSI_COVAREP.csd")
    with pytest.raises(DataError, match="There are no labels at"):
        bring(tmp_path, folder, labels=str(tmp_path / "labels.tsv"))
    words = write_csd(tmp_path / "words.csd", "words", {"v": (tokens(["a"]), np.array([[0.0, 1.0]]))})
    with pytest.raises(DataError, match="holds strings: it cannot be used for labels"):
        bring(tmp_path, folder, labels=str(words))
