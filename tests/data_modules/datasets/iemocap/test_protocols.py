"""The IEMOCAP release as records: class sets, protocols, and MESM's lists."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from data_modules.datasets.iemocap.release import ClassSet, read, split_tables
from data_modules.datasets.iemocap.splits import COSMIC_VALID, read_lists
from data_modules.schema import DataError
from data_modules.store import SPLITS, Sample, StoreInfo
from tests.data_modules.datasets.iemocap import layouts

pytest.importorskip("librosa")
pytest.importorskip("soundfile")

MESM = {
    "train": {"ang": 757, "exc": 736, "fru": 1298, "hap": 398, "neu": 1214, "sad": 759},
    "valid": {"ang": 112, "exc": 92, "fru": 180, "hap": 62, "neu": 173, "sad": 118},
    "test": {"ang": 234, "exc": 213, "fru": 371, "hap": 135, "neu": 321, "sad": 207},
}
"""Turns by label in the published lists, counted in the authors' repository."""


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels and transcripts of the whole release."""
    return layouts.write_published(tmp_path_factory.mktemp("IEMOCAP_full_release"))


@cache
def transcripts(source: Path, classes: ClassSet = "4", lists: Path | None = None) -> tuple[list[Sample], StoreInfo]:
    """Return the records of an import without media, and what is said of them."""
    made = read(source, audio="none", classes=classes, lists=lists)
    return list(made.samples), made.info


def parts(records: list[Sample], table: np.ndarray) -> dict[str, list[Sample]]:
    return {
        name: [one for one, own in zip(records, table, strict=True) if own == code] for code, name in enumerate(SPLITS)
    }


@pytest.mark.parametrize(
    ("classes", "names", "counts"),
    [
        ("4", ("angry", "happy", "sad", "neutral"), (1103, 595 + 1041, 1084, 1708)),
        ("4-strict", ("angry", "happy", "sad", "neutral"), (1103, 595, 1084, 1708)),
        ("6", ("happy", "sad", "neutral", "angry", "excited", "frustrated"), (595, 1084, 1708, 1103, 1041, 1849)),
        ("mesm", ("angry", "excited", "frustrated", "happy", "neutral", "sad"), (1103, 1041, 1849, 595, 1708, 1084)),
    ],
)
def test_class_sets(texts: Path, classes: ClassSet, names: tuple[str, ...], counts: tuple[int, ...]) -> None:
    records, info = transcripts(texts, classes)
    targets = np.array([record.target for record in records])
    assert info.target.names == names
    assert info.target.kind == ("multilabel" if classes == "mesm" else "multiclass")
    if classes == "mesm":
        assert (targets.sum(1) == 1).all()
        targets = targets.argmax(1)
    assert tuple(np.bincount(targets)) == counts
    assert info.dataset == ("iemocap_mesm" if classes == "mesm" else "iemocap_raw")
    assert info.notes[0] == "All counts of the release are the published ones."
    others = 10_039 - sum(counts)
    assert info.notes[1].startswith(f"{others} turns of other labels were left out: xxx 2507, ")
    assert any("648 instead of 595" in note for note in info.notes) == (classes == "6")


def test_a_record(texts: Path) -> None:
    records, _ = transcripts(texts)
    one = next(record for record in records if record.id.startswith("Ses05M_script01_1b_F"))
    assert (one.group, one.speaker, one.split) == ("Ses05M_script01_1b", "Ses05F", None)
    assert one.transcript == "Well, that's it."
    assert one.inputs == {}


def test_leave_one_session_out(texts: Path) -> None:
    records, _ = transcripts(texts)
    tables = split_tables(records, {})
    assert list(tables) == ["session5", "speaker10"]
    assert len(tables["session5"]) == 5
    sizes = [1085, 1023, 1151, 1031, 1241]
    for fold, table in enumerate(tables["session5"]):
        own = parts(records, table)
        assert {record.id[:5] for record in own["test"]} == {f"Ses0{fold + 1}"}
        assert {record.id[:5] for record in own["valid"]} == {f"Ses0{(fold + 1) % 5 + 1}"}
        assert len(own["test"]) == sizes[fold]
        assert len(own["train"]) == 5531 - sizes[fold] - sizes[(fold + 1) % 5]


def test_leave_one_speaker_out(texts: Path) -> None:
    records, _ = transcripts(texts)
    folds = split_tables(records, {})["speaker10"]
    tested = []
    for table in folds:
        own = parts(records, table)
        (actor,) = {record.speaker for record in own["test"]}
        (partner,) = {record.speaker for record in own["valid"]}
        assert (actor[:5], {actor[5], partner[5]}) == (partner[:5], {"F", "M"})
        assert {record.speaker[:5] for record in own["train"]} == {f"Ses0{n}" for n in range(1, 6)} - {actor[:5]}
        assert len({record.speaker for record in own["train"]}) == 8
        assert not {record.group for record in own["train"]} & {record.group for record in own["test"]}
        tested.append(actor)
    assert tested == [f"Ses0{n}{actor}" for n in range(1, 6) for actor in "FM"]


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists of turns with the published counts of every label."""
    folder = tmp_path_factory.mktemp("lists")
    turns = [turn for session in range(1, 6) for some in layouts.published_turns(session).values() for turn in some]
    by_label = {label: [turn.name for turn in turns if turn.label == label] for label in MESM["train"]}
    for split, row in MESM.items():
        names = [by_label[label].pop() for label, count in row.items() for _ in range(count)]
        (folder / f"{split}_split.txt").write_text("\n".join(names) + "\n")
    assert not any(by_label.values())
    return folder


def test_mesm_form(texts: Path, lists: Path) -> None:
    records, info = transcripts(texts, "mesm", lists)
    tables = split_tables(records, read_lists(lists))
    assert list(tables) == ["mesm", "session5", "speaker10"]
    own = parts(records, tables["mesm"][0])
    assert {split: len(part) for split, part in own.items()} == {"train": 5162, "valid": 737, "test": 1481}
    for split, part in own.items():
        assert {record.id for record in part} == set((lists / f"{split}_split.txt").read_text().split())
        assert np.sum([record.target for record in part], axis=0).tolist() == list(MESM[split].values())
    assert "All counts of the lists are the published ones." in info.notes


def test_lists_serve_other_class_sets_too(texts: Path, lists: Path, tmp_path: Path) -> None:
    for split in MESM:
        shutil.copy(lists / f"{split}_split.txt", tmp_path / f"{split}.txt")
    path = tmp_path / "test.txt"
    path.write_text(path.read_text() + "Ses01F_impro99_F000\n")
    records, info = transcripts(texts, "4", tmp_path)
    table = split_tables(records, read_lists(tmp_path))["mesm"][0]
    assert np.bincount(table).tolist() == [sum(row.values()) - row["fru"] for row in MESM.values()]
    assert [note for note in info.notes if "list" in note] == [
        "1 listed turns are not in the data: Ses01F_impro99_F000."
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "valid_split.txt").unlink(), "no list of turns for valid"),
        (lambda folder: (folder / "valid_split.txt").write_text("\n"), "no list of turns for valid"),
        (lambda folder: shutil.copy(folder / "test_split.txt", folder / "test.txt"), "two lists of the split test"),
        (
            lambda folder: (folder / "dev.txt").write_text("a"),
            "two lists of the split valid: dev.txt and valid_split.txt",
        ),
        (
            lambda folder: shutil.copy(folder / "test_split.txt", folder / "train_split.txt"),
            r"lists the turn Ses0.*, which is in the split test already",
        ),
    ],
)
def test_lists_that_do_not_fit_are_refused(
    lists: Path, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    folder = Path(shutil.copytree(lists, tmp_path / "lists"))
    change(folder)
    with pytest.raises(DataError, match=message):
        read_lists(folder)


def test_lists_of_another_release_are_refused(release: Path, lists: Path) -> None:
    with pytest.raises(DataError, match=r"of the 7380 listed turns are not in the data, beginning with Ses01F_"):
        transcripts(release, "mesm", lists)


def test_the_fixed_validation_dialogs_are_there(texts: Path) -> None:
    groups = {record.group for record in transcripts(texts)[0]}
    assert set(COSMIC_VALID) == set(layouts.COSMIC_VALID) <= groups


def test_a_missing_session_is_an_error(copy: Path) -> None:
    shutil.rmtree(copy / "Session3")
    with pytest.raises(DataError, match=r"sessions \[3\] have no usable turn, but the split protocols need all five"):
        transcripts(copy)


def test_a_missing_actor_is_an_error(release: Path) -> None:
    records, _ = transcripts(release)
    with pytest.raises(DataError, match=r"turns of 9 actors \(Ses01F, Ses01M, Ses02F, Ses03F, "):
        split_tables([record for record in records if record.speaker != "Ses02M"], {})
