"""Which trials belong together, which count, and who is ahead."""

import pytest
from scipy import stats

from mmbench.report.boards import Board, boards
from mmbench.report.cells import notes
from mmbench.report.rows import Row
from mmbench.runner.records import RecordDict
from tests.report.factory import record, runs


def only(records: list[RecordDict]) -> Board:
    (board,) = boards(records)
    return board


def by_label(board: Board) -> dict[str, Row]:
    return {row.label: row for row in board.rows}


def test_lower_error_ranks_first() -> None:
    board = only([*runs("a", [0.8, 0.9, 0.8]), *runs("b", [0.7, 0.7, 0.8]), *runs("c", [0.9, 0.9, 0.9])])
    assert [(row.label, board.rank(row)) for row in board.rows] == [("b", 1), ("a", 2), ("c", 3)]


def test_higher_score_ranks_first_when_the_record_says_so() -> None:
    scores = {"a": 0.5, "b": 0.9, "c": 0.7}
    board = only(
        [
            record(name, test={"f1_weighted": value}, family="multiclass", selection="f1_weighted", mode="max")
            for name, value in scores.items()
        ]
    )
    assert [row.label for row in board.rows] == ["b", "c", "a"]


def test_equal_means_share_a_rank_and_stand_by_label() -> None:
    board = only([*runs("b", [0.5]), *runs("a", [0.5]), *runs("c", [0.6])])
    assert [(row.label, board.rank(row)) for row in board.rows] == [("a", 1), ("b", 1), ("c", 3)]


def test_a_seed_is_the_mean_of_its_folds() -> None:
    values = {(1, 0): 0.6, (1, 1): 0.8, (2, 0): 0.7, (2, 1): 0.9}
    board = only([record("a", seed, mae, fold=fold, folds=2) for (seed, fold), mae in values.items()])
    summary = board.rows[0].summary("mae")
    assert summary is not None
    # Seeds 0.7 and 0.8; over the four trials the deviation would be 0.1118.
    assert (summary.n, summary.mean, summary.std) == (2, pytest.approx(0.75), pytest.approx(0.05))


def test_one_seed_has_the_spread_of_its_folds() -> None:
    board = only([record("a", 1, mae, fold=fold, folds=3) for fold, mae in enumerate([0.70, 0.72, 0.77])])
    summary = board.rows[0].summary("mae")
    assert board.by_fold
    assert summary is not None
    assert (summary.n, summary.std) == (3, pytest.approx((0.0026 / 3) ** 0.5))


def test_missing_failed_and_diverged_trials_make_a_row_incomplete() -> None:
    board = only(
        [
            *runs("a", [0.7, 0.7, 0.7]),
            *runs("b", [0.1, 0.1]),
            *runs("c", [0.1, 0.1]),
            record("c", 3, status="diverged"),
            *runs("d", [0.1, 0.1]),
            record("d", 3, status="failed"),
            record("e", 1, status="failed"),
        ]
    )
    assert [row.label for row in board.ranked] == ["a"]
    assert [row.label for row in board.rows] == ["a", "b", "c", "d", "e"]
    found = {row.label: notes(board, row) for row in board.rows[1:]}
    assert found == {
        "b": ["1 missing (seed 3)"],
        "c": ["1 diverged (seed 3)"],
        "d": ["1 failed (seed 3: ValueError)"],
        "e": ["1 failed (seed 1: ValueError)", "2 missing (seed 2, seed 3)"],
    }


def test_a_completed_trial_without_a_score_does_not_count() -> None:
    board = only([*runs("a", [0.7, 0.7]), *runs("b", [0.1, None])])
    row = by_label(board)["b"]
    assert not row.complete
    assert notes(board, row) == ["1 without a defined mae (seed 2)"]


def test_folds_are_named_where_there_are_some() -> None:
    records = [record("a", 1, 0.7, fold=fold, folds=2) for fold in (0, 1)]
    board = only([*records, record("b", 1, 0.7, folds=2), record("b", 1, fold=1, folds=2, status="diverged")])
    assert notes(board, by_label(board)["b"]) == ["1 diverged (seed 1 fold 1)"]


def test_another_seed_of_one_method_does_not_unrank_the_others() -> None:
    board = only([*runs("a", [0.7, 0.7]), *runs("b", [0.8, 0.8]), *runs("c", [0.9, 0.9, 0.0, 0.0])])
    assert [row.label for row in board.ranked] == ["a", "b", "c"]
    row = by_label(board)["c"]
    assert (row.extra, row.mean) == (2, pytest.approx(0.9))


def test_a_search_over_settings_does_not_change_what_counts() -> None:
    search = [record("b", 1, 0.5, config={"lr": lr}, changed={"lr": lr}) for lr in (0.1, 0.2, 0.3, 0.4)]
    board = only([*runs("a", [0.7, 0.7, 0.7]), *runs("b", [0.8, 0.8, 0.8]), *search])
    assert [row.label for row in board.ranked] == ["a", "b"]
    assert len(board.cells) == 3


def test_configurations_are_never_mixed() -> None:
    records = [
        *runs("a", [0.7, 0.7]),
        *runs("a", [0.6, 0.6], config={"lr": 0.1}),
        *runs("a", [0.5, 0.5], max_epochs=3),
        *runs("a", [0.4, 0.4], version="0.2.0"),
        *runs("a", [0.3, 0.3], data={"bucketed": True}),
        *runs("b", [0.9, 0.9]),
    ]
    board = only(records)
    assert len(board.rows) == 6
    rows = [row for row in board.rows if row.method == "a"]
    assert all(row.label == f"a #{row.key}" for row in rows)
    assert [row.mean for row in rows] == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7])
    assert [board.differing(row) for row in rows] == [
        {"bucketed": True, "lr": 0.001},
        {"version": "0.2.0", "lr": 0.001},
        {"max_epochs": 3, "lr": 0.001},
        {"lr": 0.1},
        {"lr": 0.001},
    ]


def test_a_configuration_under_two_names_is_one_row() -> None:
    # The setting was first tried by hand and later shipped: the old trial is kept under its old name.
    records = [record("a", 1, 0.7, changed={"lr": 0.001}), record("a", 2, 0.7), record("a", 3, 0.7)]
    board = only(records)
    assert [(row.label, row.complete) for row in board.rows] == [("a", True)]


def test_two_states_of_the_data_are_two_boards() -> None:
    found = boards([*runs("a", [0.7]), *runs("b", [0.6], fingerprint="e" * 64), *runs("c", [0.6])])
    assert [(board.fingerprint[0], [row.label for row in board.rows]) for board in found] == [
        ("f", ["c", "a"]),
        ("e", ["b"]),
    ]


def test_a_trial_that_is_given_twice_counts_once() -> None:
    board = only([*runs("a", [0.7, 0.8]), *runs("a", [0.7, 0.8])])
    assert len(board.records) == 2


def test_differences_from_the_best_are_paired_and_adjusted() -> None:
    best, second, third = [0.70, 0.74, 0.81, 0.66], [0.71, 0.76, 0.82, 0.69], [0.9, 0.7, 0.8, 0.9]
    board = only([*runs("a", best), *runs("b", second), *runs("c", third)])
    p = {name: float(stats.ttest_rel(best, values).pvalue) for name, values in (("b", second), ("c", third))}
    # An unpaired test would not tell a from b.
    assert p["b"] < 0.05 < float(stats.ttest_ind(best, second).pvalue)
    found = {row.label: board.p_best[row.key] for row in board.ranked[1:]}
    assert found["b"] == (pytest.approx(p["b"]), pytest.approx(2 * p["b"]))
    assert found["c"] == (pytest.approx(p["c"]), pytest.approx(max(p["c"], 2 * p["b"])))


def test_what_does_not_beat_the_constant_is_said() -> None:
    board = only(
        [
            *runs("constant", [0.80, 0.80, 0.80]),
            *runs("worse", [0.81, 0.82, 0.81]),
            *runs("lucky", [0.70, 0.95, 0.70]),
            *runs("better", [0.70, 0.71, 0.70]),
        ]
    )
    assert {row.label: notes(board, row) for row in board.rows} == {
        "constant": [],
        "worse": ["no better than the constant"],
        "lucky": ["not shown to beat the constant"],
        "better": [],
    }


def test_with_one_trial_the_value_decides_against_the_constant() -> None:
    board = only([*runs("constant", [0.8]), *runs("worse", [0.81]), *runs("better", [0.79])])
    assert {row.label for row in board.rows if board.against_constant(row)} == {"worse"}


def test_a_row_far_ahead_is_marked() -> None:
    ordinary = [runs(name, [mae]) for name, mae in (("b", 0.70), ("c", 0.72), ("d", 0.75), ("e", 0.78))]
    records = [found for group in ordinary for found in group] + runs("constant", [1.4])
    for mae, far in ((0.60, True), (0.65, False)):
        board = only([*records, *runs("a", [mae])])
        assert [row.label for row in board.rows if board.far_ahead(row)] == (["a"] if far else [])


def test_metrics_start_with_the_selecting_one_and_keep_the_order_of_their_descriptions() -> None:
    test = {"acc": 1.0, "f1_pos/joy": 1.0, "acc/joy": 1.0, "f1_pos": 1.0, "wacc": 1.0, "new": 1.0}
    board = only([record("a", test=test, family="multilabel", selection="f1_pos", mode="max")])
    assert board.metrics == ["f1_pos", "acc", "wacc", "new", "acc/joy", "f1_pos/joy"]
    assert board.higher_is_better("acc/joy") is True
    assert board.higher_is_better("new") is None


def test_notes_say_what_a_row_sees_that_others_do_not_and_what_it_was_not_built_for():
    raw = runs("raw", [0.5, 0.6]) + runs("talk", [0.4, 0.5], data={"dialogue": True}) + runs("plain", [0.6, 0.7])
    for found in raw[:2]:
        found["instead"] = {"audio": ["features", "waveform"], "vision": ["features", "frames"]}
    (board,) = boards(raw)
    assert {row.label: notes(board, row) for row in board.rows} == {
        "talk": ["sees the whole dialogue"],
        "raw": ["on audio features (for waveform), vision features (for frames)"],
        "plain": [],
    }
