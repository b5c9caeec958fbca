"""IEMOCAP's text files: label files, transcripts and names with every documented irregularity, and published counts."""

from __future__ import annotations

import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from data_modules.datasets.iemocap.release import CLASSES, ClassSet
from data_modules.datasets.iemocap.tables import Turn, read_turns, verify
from data_modules.schema import DataError
from tests.data_modules.datasets.iemocap.layouts import (
    COUNTS,
    PUBLISHED_HEAD,
    Said,
    dialogs,
    write_dialog,
    write_published,
)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(tmp_path_factory.mktemp("IEMOCAP_full_release"))


@pytest.fixture(scope="module")
def turns(release: Path) -> list[Turn]:
    found, notes = read_turns(release)
    assert notes == []
    return found


# The published counts.


def test_the_table_of_the_tests_is_the_published_one() -> None:
    """The sums that the publication of the counts gives beside them."""
    assert [sum(row[n] for row in COUNTS.values()) for n in range(5)] == [1819, 1811, 2136, 2103, 2170]
    assert [len(dialogs(n)) for n in range(1, 6)] == [28, 30, 32, 30, 31]


def test_all_turns_are_found(turns: list[Turn]) -> None:
    assert len(turns) == 10_039
    names = {turn.dialog for turn in turns}
    assert Counter("_impro" in name for name in names) == {True: 80, False: 71}
    assert {"Ses03M_impro05a", "Ses03M_impro05b", "Ses03M_impro08a", "Ses05M_script01_1b"} <= names
    assert Counter((turn.session, turn.label) for turn in turns) == {
        (session, label): row[session - 1]
        for label, row in COUNTS.items()
        for session in range(1, 6)
        if row[session - 1]
    }
    assert verify(turns) == "All counts of the release are the published ones."


@pytest.mark.parametrize(
    ("classes", "counts"),
    [
        ("4", (1085, 1023, 1151, 1031, 1241)),
        ("4-strict", (942, 813, 1000, 793, 942)),
        ("6", (1365, 1348, 1533, 1512, 1622)),
        ("mesm", (1365, 1348, 1533, 1512, 1622)),
    ],
)
def test_class_sets_have_the_published_sizes(turns: list[Turn], classes: ClassSet, counts: tuple[int, ...]) -> None:
    chosen = Counter(turn.session for turn in turns if turn.label in CLASSES[classes])
    assert tuple(chosen[session] for session in range(1, 6)) == counts
    assert sum(counts) == {"4": 5531, "4-strict": 4490, "6": 7380, "mesm": 7380}[classes]


def test_turns_are_in_the_order_of_time_within_their_dialog(turns: list[Turn]) -> None:
    for before, after in pairwise(turns):
        if before.dialog == after.dialog:
            assert before.start < after.start < before.end  # neighbours overlap, in these files as in the release
    order = [turn.dialog for turn in turns]
    assert len(set(order)) == sum(a != b for a, b in zip(order, [None, *order], strict=False))


def test_what_is_missing_is_said(turns: list[Turn]) -> None:
    fewer = [turn for turn in turns if turn.dialog != "Ses03M_impro05b"]
    lost = Counter(turn.label for turn in turns if turn.dialog == "Ses03M_impro05b")
    note = verify(fewer)
    assert "session 3 impro dialogs 17/18" in note
    assert f"session 3 neu {320 - lost['neu']}/320" in note
    assert "Results are not comparable" in note


# One dialog with everything that can be odd.

DIALOG = "Ses05F_impro03"
HEAD = f"[1.5000 - 3.7500]\t{DIALOG}_F000\tneu\t[2.5000, 2.5000, 2.5000]"


def said(name: str, start: float, label: str = "neu", text: str = "Yes.", **more: object) -> Said:
    return Said(f"{DIALOG}_{name}", start, start + 2.25, label, text, **more)  # type: ignore[arg-type]


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Speakers one after the other, an xxx turn, an overlap, a turn without text, and lines of no turn."""
    spoken = [
        said("F000", 1.5, "fru", "I said: go [LAUGHTER] now."),
        said("F001", 9.0, "xxx", "[BREATHING] So."),
        said("M000", 3.0, "ang", "No: never: ever.", vad=(1.5, 4.0, 4.5)),
        said("M001", 5.0, "exc"),
    ]
    more = [
        "M: I am no turn at all.",
        "F:",
        f"{DIALOG}_MXX0 [000.1000-000.3000]: Before it began.",
        f"{DIALOG}_F000 [001.5000-003.7500]: I said: go [LAUGHTER] now.",
    ]
    write_dialog(tmp_path, DIALOG, spoken, more)
    folder = tmp_path / "Session5" / "dialog"
    transcript = folder / "transcriptions" / f"{DIALOG}.txt"
    lines = transcript.read_text().splitlines()
    kept = [line for line in lines if "_M001" not in line]
    later = f"{DIALOG}_F000 [001.5000-003.7500]: A second line of the turn."
    transcript.write_text("\n".join([*kept, later]))
    for below in ("EmoEvaluation", "transcriptions"):
        (folder / below / f"._{DIALOG}.txt").write_bytes(b"\0\5\26\7Mac OS X\n" + HEAD.encode())
    (folder / "EmoEvaluation" / "Categorical").mkdir()
    (folder / "EmoEvaluation" / "Categorical" / f"{DIALOG}_e1_cat.txt").write_text(f"{DIALOG}_F000 :Anger; ()")
    return tmp_path


def test_an_odd_dialog(odd: Path) -> None:
    turns, notes = read_turns(odd)
    assert [turn.name for turn in turns] == [f"{DIALOG}_{name}" for name in ("F000", "M000", "M001", "F001")]
    first, second, third, last = turns
    assert (first.session, first.dialog, first.speaker, first.marker) == (5, DIALOG, "F", "F")
    assert (first.start, first.end, first.label) == (1.5, 3.75, "fru")
    assert second.actor == "Ses05M"
    assert [turn.text for turn in turns] == ["I said: go [LAUGHTER] now.", "No: never: ever.", "", "[BREATHING] So."]
    assert last.label == "xxx"
    assert notes == [f"1 turns have no transcript: {third.name}."]
    assert first.wav == odd / "Session5" / "sentences" / "wav" / DIALOG / f"{DIALOG}_F000.wav"
    assert first.avi == odd / "Session5" / "dialog" / "avi" / "DivX" / f"{DIALOG}.avi"


def test_tags_can_be_dropped(odd: Path) -> None:
    turns, _ = read_turns(odd, keep_tags=False)
    assert [turn.text for turn in turns] == ["I said: go now.", "No: never: ever.", "", "So."]


def test_the_folder_above_the_release_will_do(odd: Path) -> None:
    for number, release in enumerate(("IEMOCAP_full_release", "copy")):
        shutil.copytree(odd / "Session5", odd / "all" / release / "Session5")
        if not number:
            assert len(read_turns(odd / "all")[0]) == 4
    with pytest.raises(DataError, match="holds 2 releases, IEMOCAP_full_release and copy"):
        read_turns(odd / "all")


def test_a_dialog_without_transcripts_keeps_its_labels(odd: Path) -> None:
    (odd / "Session5" / "dialog" / "transcriptions" / f"{DIALOG}.txt").unlink()
    turns, notes = read_turns(odd)
    assert [turn.text for turn in turns] == [""] * 4
    assert notes[0].startswith("4 turns have no transcript: ")


@pytest.mark.parametrize(
    ("dialog", "speaker", "side"),
    [
        ("Ses05F_impro03", "F", "left"),
        ("Ses05F_impro03", "M", "right"),
        ("Ses05M_script01_1b", "M", "left"),
        ("Ses05M_script01_1b", "F", "right"),
    ],
)
def test_the_actor_with_the_markers_is_on_the_left(dialog: str, speaker: str, side: str, tmp_path: Path) -> None:
    write_dialog(tmp_path, dialog, [Said(f"{dialog}_{speaker}000", 0.5, 1.5, "neu")])
    (turn,) = read_turns(tmp_path)[0]
    assert (turn.side, turn.marker) == (side, dialog[5])


# Lines that cannot be used.


@pytest.mark.parametrize(
    "bad",
    [
        HEAD.replace("neu", "meh"),
        HEAD.replace("neu", "neutral"),
        HEAD.replace("\t", " "),
        HEAD.replace("[1.5000 - 3.7500]", "[x - 3.7500]"),
        HEAD.replace("[1.5000 - 3.7500]", "[3.7500 - 3.7500]"),
        HEAD.replace("2.5000, 2.5000]", "2.5000]"),
        HEAD.replace("2.5000]", "2.5.0]"),
        HEAD.replace("_F000", "_X000"),
        HEAD.replace("_F000", "_F00"),
        HEAD.replace(DIALOG, "Ses05F_impro04"),
        HEAD.replace(DIALOG, "Ses06F_impro03"),
    ],
)
def test_lines_that_cannot_be_read_are_counted(bad: str, tmp_path: Path) -> None:
    write_dialog(tmp_path, DIALOG, [said(f"F{number:03d}", 10.0 + number) for number in range(1, 31)])
    path = tmp_path / "Session5" / "dialog" / "EmoEvaluation" / f"{DIALOG}.txt"
    text = path.read_text()
    path.write_text(text.replace(PUBLISHED_HEAD, f"{PUBLISHED_HEAD}\n\n{bad}"))
    turns, notes = read_turns(tmp_path)
    assert len(turns) == 30
    assert len(notes) == 1
    assert notes[0].startswith(f"1 lines of label files cannot be read: {DIALOG}.txt line 3")
    path.write_text(text.replace(PUBLISHED_HEAD, f"{PUBLISHED_HEAD}\n\n{bad}\n{bad}"))
    with pytest.raises(DataError, match=rf"2 of 32 labels below .* cannot be read, the first: {DIALOG}\.txt line 3"):
        read_turns(tmp_path)


def test_a_dialog_in_another_session_is_not_counted_there(odd: Path) -> None:
    (odd / "Session5").rename(odd / "Session4")
    with pytest.raises(DataError, match="4 of 4 labels"):
        read_turns(odd)


def test_a_turn_with_two_labels_is_an_error(odd: Path) -> None:
    path = odd / "Session5" / "dialog" / "EmoEvaluation" / f"{DIALOG}.txt"
    path.write_text(path.read_text() + "\n" + HEAD)
    with pytest.raises(DataError, match=rf"line \d+: the turn {DIALOG}_F000 has a label already"):
        read_turns(odd)


@pytest.mark.parametrize("folder", ["", "Session1", "Session6/dialog/EmoEvaluation"])
def test_a_folder_that_is_no_release_says_what_is_expected(folder: str, tmp_path: Path) -> None:
    (tmp_path / "here" / folder).mkdir(parents=True)
    with pytest.raises(DataError, match=r"is no IEMOCAP release: Session1/dialog/EmoEvaluation was expected"):
        read_turns(tmp_path / "here")


def test_a_file_is_no_release(tmp_path: Path) -> None:
    (tmp_path / "IEMOCAP.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match="is no IEMOCAP release"):
        read_turns(tmp_path / "IEMOCAP.tar.gz")


def test_a_turn_without_end_is_no_turn(tmp_path: Path) -> None:
    """Digits enough are infinity, and pictures are taken every half second until the end of a turn."""
    dialog = "Ses01F_impro01"
    write_dialog(tmp_path, dialog, [Said(f"{dialog}_F{n:03d}", n, n + 0.5, "neu") for n in range(40)])
    path = tmp_path / "Session1" / "dialog" / "EmoEvaluation" / f"{dialog}.txt"
    path.write_text(path.read_text().replace("3.5000]", "9" * 400 + ".5000]", 1))
    turns, notes = read_turns(tmp_path)
    assert len(turns) == 39
    assert any("lines of label files cannot be read" in note for note in notes)


@pytest.mark.timeout(20)
def test_tags_after_a_million_blanks_are_found_at_once(tmp_path: Path) -> None:
    dialog = "Ses01F_impro01"
    blanks = " " * 1_000_000
    write_dialog(
        tmp_path, dialog, [Said(f"{dialog}_F000", 0, 1, "neu", f"Well,{blanks}said [LAUGHTER] I {blanks}[BREATHING]")]
    )
    turns, _ = read_turns(tmp_path, keep_tags=False)
    assert turns[0].text == f"Well,{blanks}said I"


def test_texts_larger_than_the_budget_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dialog = "Ses01F_impro01"
    write_dialog(tmp_path, dialog, [Said(f"{dialog}_F000", 0, 1, "neu", "x" * 10_000)])
    monkeypatch.setenv("MMBENCH_MEMORY", "0.1MB")
    with pytest.raises(DataError, match=f"transcriptions/{dialog}.txt: its text would take"):
        read_turns(tmp_path)
