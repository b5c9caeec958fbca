"""A person's own rows beside the published ones, and rows of other code."""

import pytest

from mmbench.report.grouping import boards
from mmbench.report.notes import notes
from mmbench.report.rows import UNKNOWN_HERE
from tests.report.factory import by_label, folded, only, record, reproduced, runs

NOW, THEN = "c" * 16, "b" * 16
"""Hashes of the present code (the factory's) and of an earlier one."""


def now(method: str, dataset: str) -> str:
    return NOW


def test_own_and_published_trials_are_two_rows_even_when_they_are_the_same() -> None:
    records = runs("a", [0.7, 0.8, 0.7])
    board = only(records, records)
    assert [(row.label, row.origin, board.rank(row)) for row in board.rows] == [
        ("a", "published", 1),
        ("a (yours)", "own", 1),
    ]
    assert board.differing(board.rows[0]) == board.differing(board.rows[1]) == {}


def test_own_rows_change_nothing_of_the_published_ones() -> None:
    published = [*runs("a", [0.7, 0.8, 0.7]), *runs("b", [0.8, 0.9, 0.8])]
    own = [
        *runs("b", [0.9] * 7, max_epochs=2),
        *folded("new", {(9, 0): 0.1}, 5),
        record("a", 4, status="failed"),
        *(record("c", seed, test={"wa": 0.9}, family="multiclass", selection="wa", mode="max") for seed in range(20)),
    ]
    alone, merged = only(published), only(published, own)
    assert (merged.metric, merged.family, merged.shared) == (alone.metric, alone.family, alone.shared)
    for row in alone.rows:
        other = by_label(merged)[row.label]
        assert (other.key, other.summary("mae"), notes(merged, other)) == (
            row.key,
            row.summary("mae"),
            notes(alone, row),
        )
    assert [row.label for row in merged.ranked if not row.own] == ["a", "b"]


def test_rows_are_held_against_the_published_constant() -> None:
    published = [*runs("constant", [0.8] * 3), *runs("a", [0.7, 0.71, 0.7])]
    board = only(published, [*runs("constant", [0.6] * 3), *runs("b", [0.9])])
    assert board.constant is not None
    assert board.constant.label == "constant"
    assert notes(board, by_label(board)["a"]) == []
    # One with a rank is worth more.
    board = only(runs("constant", [0.8]), runs("constant", [0.8] * 3))
    assert board.constant is not None
    assert board.constant.own


def test_libraries_that_only_own_records_note_are_no_difference() -> None:
    board = only(runs("a", [0.7] * 3), runs("a", [0.7] * 3, libraries={"librosa": "0.11.0"}, content="1" * 64))
    assert [notes(board, row) for row in board.rows] == [[], []]


@pytest.mark.parametrize(
    ("own", "note"),
    [
        (runs("a", [0.6, 0.5]), "2 seeds: not ranked"),
        (runs("a", [0.6] * 3, max_epochs=2), "max_epochs=2"),
        (folded("a", {(7, 3): 0.6}, 5), "only fold 3 of 5: not ranked"),
        (runs("fresh", [0.6]), "1 seed: not ranked"),
    ],
)
def test_every_own_row_with_a_value_is_shown_with_it(own: list, note: str) -> None:
    board = only(runs("a", [0.7, 0.8, 0.7]), own)
    (row,) = (row for row in board.rows if row.own)
    summary = row.summary("mae")
    assert summary is not None
    assert summary.mean == pytest.approx(0.55 if len(own) == 2 else 0.6)
    assert note in notes(board, row)


def test_what_is_only_own_makes_a_board_of_its_own() -> None:
    (board,) = boards([], runs("a", [0.7]))
    assert (board.metric, [row.label for row in board.rows]) == ("mae", ["a (yours)"])


def test_own_trials_of_earlier_code_are_a_row_of_their_own() -> None:
    earlier = runs("a", [0.5, 0.5, 0.5], code=THEN)
    board = only([], [*earlier, record("a", 4, 0.7)], now)
    assert [(len(row.seeds), row.mean, notes(board, row), row.made_by) for row in board.rows] == [
        (3, pytest.approx(0.5), ["made by earlier code"], "earlier"),
        (1, pytest.approx(0.7), ["1 seed: not ranked"], "present"),
    ]
    assert [row.label for row in board.rows] == ["a, earlier code (yours)", "a (yours)"]
    # What the present code was shown to give as well is of the present code.
    board = only([], [*(reproduced(found, NOW) for found in earlier), record("a", 4, 0.7)], now)
    assert [(row.label, len(row.seeds), row.made_by) for row in board.rows] == [("a (yours)", 4, "present")]


def test_published_trials_of_several_codes_stay_one_row_that_says_so() -> None:
    earlier = runs("a", [0.7, 0.8, 0.7], code=THEN)

    def noted(*records: object) -> list[str]:
        (row,) = (board := only(list(records), code=now)).rows  # type: ignore[arg-type]
        return notes(board, row)

    again = [reproduced(found, NOW) for found in earlier]
    assert noted(*earlier) == ["made by earlier code"]
    assert noted(again[0], *earlier[1:]) == ["made by earlier code; reproduced 1 of 3 seeds"]
    assert noted(*again) == []
    assert noted(*(reproduced(found, "a" * 16) for found in earlier)) == ["made by earlier code"]
    assert noted(*earlier, record("a", 4, 0.7)) == ["3 of 4 seeds made by earlier code"]
    assert noted(*earlier, record("a", 4, 0.7, code="")) == ["made by unknown code"]
    folds = folded("a", {(seed, fold): 0.7 for seed in (1, 2, 3) for fold in (0, 1)}, 2, code=THEN)
    assert noted(reproduced(folds[0], NOW), *folds[1:]) == ["made by earlier code; reproduced 1 of 6 trials"]


def test_a_method_that_is_gone_keeps_its_numbers() -> None:
    def gone(method: str, dataset: str) -> str:
        if method == "b":
            return ""
        raise LookupError(method)

    board = only([*runs("a", [0.7] * 3), *runs("b", [0.8] * 3)], code=gone)
    assert [(row.label, notes(board, row)) for row in board.rows] == [
        ("a", [UNKNOWN_HERE]),
        ("b", [UNKNOWN_HERE]),
    ]
    assert [row.made_by for row in board.rows] == ["unknown", "unknown"]
    assert "(--plugin)" in UNKNOWN_HERE
    assert [board.rank(row) for row in board.rows] == [1, 2]


def test_of_a_data_set_that_is_not_known_here_other_code_may_be_that_of_its_plugin() -> None:
    def noted(track: str) -> list[str]:
        board = only([], runs("a", [0.7] * 3, code=THEN, track=track), now)
        return [note for row in board.rows for note in notes(board, row) if note == UNKNOWN_HERE]

    assert noted("interviews/own/standard") == [UNKNOWN_HERE]
    assert noted("mosi/glove/standard") == []


def test_own_rows_of_other_code_are_called_what_they_are() -> None:
    def label(code: str, present: str) -> str:
        (row,) = only([], runs("a", [0.7] * 3, code=code), lambda *_: present).rows
        return row.label

    assert label(THEN, "") == label("", "") == label(NOW, NOW) == "a (yours)"
    assert label(THEN, NOW) == "a, earlier code (yours)"
    assert label("", NOW) == "a, unknown code (yours)"


def test_nothing_is_said_of_code_where_nobody_asked() -> None:
    board = only(runs("a", [0.7] * 3, code=""))
    assert (notes(board, board.rows[0]), board.rows[0].made_by) == ([], "")
