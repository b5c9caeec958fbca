"""Which trials belong together, which count, and who is ahead."""

import dataclasses
import random

import pytest

from mmbench.report.grouping import boards
from mmbench.report.notes import notes
from mmbench.runner.record import Record
from tests.report.factory import by_label, evidence, folded, only, record, runs


def test_lower_error_ranks_first() -> None:
    board = only([*runs("a", [0.8, 0.9, 0.8]), *runs("b", [0.7, 0.7, 0.8]), *runs("c", [0.9, 0.9, 0.9])])
    assert [(row.label, board.rank(row)) for row in board.rows] == [("b", 1), ("a", 2), ("c", 3)]


def test_higher_score_ranks_first_when_the_record_says_so() -> None:
    scores = {"a": 0.5, "b": 0.9, "c": 0.7}
    board = only(
        [
            record(name, seed, test={"f1_weighted": value}, family="multiclass", selection="f1_weighted", mode="max")
            for name, value in scores.items()
            for seed in (1, 2, 3)
        ]
    )
    assert [(row.label, board.rank(row)) for row in board.rows] == [("b", 1), ("c", 2), ("a", 3)]


def test_equal_means_share_a_rank_and_stand_by_label() -> None:
    board = only([*runs("b", [0.5] * 3), *runs("a", [0.5] * 3), *runs("c", [0.6] * 3)])
    assert [(row.label, board.rank(row)) for row in board.rows] == [("a", 1), ("b", 1), ("c", 3)]


def test_a_seed_is_the_mean_of_its_folds() -> None:
    values = {(1, 0): 0.6, (1, 1): 0.8, (2, 0): 0.7, (2, 1): 0.9}
    summary = only(folded("a", values, 2)).rows[0].summary("mae")
    assert summary is not None
    # Seeds 0.7 and 0.8; over the four trials the deviation would be 0.1118.
    assert (summary.n, summary.mean, summary.std) == (2, pytest.approx(0.75), pytest.approx(0.05))


def test_one_seed_of_all_folds_has_a_value_and_no_spread() -> None:
    board = only(folded("a", {(1, 0): 0.70, (1, 1): 0.72, (1, 2): 0.77}, 3))
    summary = board.rows[0].summary("mae")
    assert summary is not None
    assert (summary.n, summary.mean, summary.std, summary.low) == (1, pytest.approx(0.73), None, None)
    assert notes(board, board.rows[0]) == ["1 seed: not ranked"]


def test_a_row_is_ranked_from_three_whole_seeds_on_in_which_nothing_went_wrong() -> None:
    board = only(
        [
            *runs("a", [0.7, 0.7, 0.7]),
            *runs("b", [0.1, 0.1]),
            *runs("c", [0.2, 0.2, 0.2, 0.2]),
            record("c", 5, status="diverged"),
            *runs("d", [0.3, 0.3, 0.3]),
            record("d", 4, status="failed"),
            record("e", 1, status="failed"),
        ]
    )
    assert [row.label for row in board.ranked] == ["a"]
    assert [board.rank(row) for row in board.rows] == [None, None, None, 1, None]
    assert board.best is not None
    assert board.best.label == "a"
    assert [(row.label, notes(board, row)) for row in board.rows] == [
        ("b", ["2 seeds: not ranked"]),
        ("c", ["1 diverged (seed 5)"]),
        ("d", ["1 failed (seed 4: ValueError)"]),
        ("a", []),
        ("e", ["1 failed (seed 1: ValueError)"]),
    ]


def test_a_seed_counts_when_all_its_folds_are_there() -> None:
    whole = {(seed, fold): 0.7 for seed in (1, 2, 3) for fold in (0, 1)}
    board = only([*folded("a", {**whole, (4, 1): 0.1}, 2), *folded("b", {**whole, (3, 1): 0.1, (4, 1): 0.5}, 2)])
    (b, a) = board.rows
    assert (a.label, a.seeds, a.mean) == ("a", [1, 2, 3], pytest.approx(0.7))
    assert notes(board, a) == ["1 seed without all folds (seed 4): not counted"]
    assert b.mean == pytest.approx((0.7 + 0.7 + 0.4) / 3)
    # A fold that the protocol does not have makes no seed whole.
    strange = only(folded("a", {(1, 0): 0.7, (1, 7): 0.7}, 2)).rows[0]
    assert strange.seeds == []


def test_a_part_of_a_seed_has_the_mean_over_its_folds_and_stands_after_whole_seeds() -> None:
    whole = folded("whole", {(1, fold): 0.9 for fold in range(5)}, 5)
    part = folded("part", {(1, 0): 0.2, (1, 2): 0.4, (2, 2): 0.6}, 5)
    one = folded("one", {(1, 3): 0.1}, 5)
    board = only([*whole, *part, *one, record("none", 1, status="failed", folds=5)])
    assert [row.label for row in board.rows] == ["whole", "one", "part", "none"]
    summary = by_label(board)["part"].summary("mae")
    assert summary is not None
    # Folds 0.2 and (0.4 + 0.6) / 2; over the trials it would be 0.4.
    assert (summary.n, summary.mean, summary.std) == (0, pytest.approx(0.35), None)
    assert [notes(board, row) for row in board.rows[1:3]] == [
        ["only fold 3 of 5: not ranked"],
        ["only folds 0, 2 of 5: not ranked"],
    ]


def test_another_seed_of_one_row_changes_nothing_for_the_others() -> None:
    records = [*runs("a", [0.7, 0.8, 0.7]), *runs("b", [0.8, 0.9, 0.8]), *runs("c", [0.9, 0.9, 0.8])]
    before = only(records)
    after = only([*records, record("c", 4, 0.9), record("c", 5, status="completed", mae=0.9)])
    for label in ("a", "b"):
        (one, two) = (by_label(board)[label] for board in (before, after))
        assert one.summary("mae") == two.summary("mae")
        assert before.rank(one) == after.rank(two)
    assert [len(row.seeds) for row in after.rows] == [3, 3, 5]
    assert len(after.ranked) == 3


def test_a_completed_trial_without_a_score_does_not_count() -> None:
    other = record("b", 4, test={"wa": 0.9}, family="multiclass", selection="wa", mode="max")
    board = only([*runs("a", [0.7] * 3), *runs("b", [0.1] * 3), other])
    row = by_label(board)["b"]
    assert (board.family, board.metric) == ("sentiment", "mae")
    assert (row.ranked, row.seeds) == (False, [1, 2, 3])
    assert notes(board, row) == ["1 without a defined mae (seed 4)"]


def test_folds_are_named_where_there_are_some() -> None:
    records = [record("a", 1, 0.7, fold=fold, folds=2) for fold in (0, 1)]
    board = only([*records, record("b", 1, 0.7, folds=2), record("b", 1, fold=1, folds=2, status="diverged")])
    assert notes(board, by_label(board)["b"]) == ["1 diverged (seed 1 fold 1)", "only fold 0 of 2: not ranked"]


def test_configurations_are_never_mixed() -> None:
    records = [
        *runs("a", [0.7, 0.7]),
        *runs("a", [0.6, 0.6], config={"lr": 0.1}),
        *runs("a", [0.5, 0.5], max_epochs=3),
        *runs("a", [0.3, 0.3], data={"bucketed": True}),
        *runs("b", [0.9, 0.9]),
    ]
    board = only(records)
    assert len(board.rows) == 5
    rows = [row for row in board.rows if row.method == "a"]
    assert all(row.label == f"a #{row.key}" for row in rows)
    assert [row.mean for row in rows] == pytest.approx([0.3, 0.5, 0.6, 0.7])
    assert [board.differing(row) for row in rows] == [
        {"bucketed": True, "lr": 0.001},
        {"max_epochs": 3, "lr": 0.001},
        {"lr": 0.1},
        {"lr": 0.001},
    ]


def test_a_configuration_under_two_names_is_one_row() -> None:
    # The setting was first tried by hand and later shipped: the old trial is kept under its old name.
    records = [record("a", 1, 0.7, changed={"lr": 0.001}), record("a", 2, 0.7), record("a", 3, 0.7)]
    board = only(records)
    assert [(row.label, row.ranked) for row in board.rows] == [("a", True)]


def test_two_identities_of_the_data_are_two_boards() -> None:
    found = boards([*runs("a", [0.7]), *runs("b", [0.6], identity="e" * 64), *runs("c", [0.6])])
    assert [(board.identity[0], [row.label for row in board.rows]) for board in found] == [
        ("f", ["c", "a"]),
        ("e", ["b"]),
    ]


def test_a_trial_that_is_given_twice_counts_once() -> None:
    board = only([*runs("a", [0.7, 0.8]), *runs("a", [0.7, 0.8])])
    assert len(board.records) == 2


def test_what_does_not_beat_the_constant_is_said() -> None:
    records = [
        *runs("constant", [0.80, 0.80, 0.80]),
        *runs("worse", [0.81, 0.82, 0.81]),
        *runs("lucky", [0.70, 0.95, 0.70]),
        *runs("better", [0.70, 0.71, 0.70]),
    ]
    board = only(records, evidence=evidence)
    assert {row.label: notes(board, row) for row in board.rows} == {
        "constant": [],
        "worse": ["no better than the constant"],
        "lucky": ["not shown to beat the constant"],
        "better": [],
    }
    # Without predictions nobody can say what is shown.
    assert notes(only(records), by_label(only(records))["lucky"]) == []


def test_without_a_rank_the_value_decides_against_the_constant() -> None:
    lucky = [*runs("lucky", [0.70, 0.95, 0.70]), record("lucky", 4, status="failed")]
    records = [*runs("constant", [0.8] * 3), *runs("worse", [0.81]), *runs("better", [0.79]), *lucky]
    board = only(records, evidence=evidence)
    assert {row.label for row in board.rows if board.against_constant(row)} == {"worse"}


def test_the_epoch_limit_is_noted_where_it_ended_the_training() -> None:
    def trained(name: str, epochs: int, selected: int) -> list[Record]:
        return [
            dataclasses.replace(
                found,
                selection=dataclasses.replace(found.selection, epoch=selected),
                cost=dataclasses.replace(found.cost, epochs=epochs),
            )
            for found in runs(name, [0.7, 0.8, 0.7], max_epochs=40)
        ]

    # Patience is 8: epochs 33 to 39 are seven without gain.
    rows = {"still better": (40, 39), "ended by the limit": (40, 32), "patience": (40, 31), "early": (21, 12)}
    board = only([found for name, numbers in rows.items() for found in trained(name, *numbers)])
    limited = {row.label for row in board.rows if "epoch limit (3/3)" in notes(board, row)}
    assert limited == {"still better", "ended by the limit"}


def test_a_row_far_ahead_is_marked() -> None:
    ordinary = [runs(name, [mae] * 3) for name, mae in (("b", 0.70), ("c", 0.72), ("d", 0.75), ("e", 0.78))]
    records = [found for group in ordinary for found in group] + runs("constant", [1.4] * 3)
    for mae, far in ((0.60, True), (0.65, False)):
        board = only([*records, *runs("a", [mae] * 3)])
        assert [row.label for row in board.rows if board.far_ahead(row)] == (["a"] if far else [])


def test_metrics_start_with_the_selecting_one_and_keep_the_order_of_their_descriptions() -> None:
    test = {"acc": 1.0, "f1_pos/joy": 1.0, "acc/joy": 1.0, "f1_pos": 1.0, "wacc": 1.0, "new": 1.0}
    board = only([record("a", test=test, family="multilabel", selection="f1_pos", mode="max")])
    assert board.metrics == ["f1_pos", "acc", "wacc", "new", "acc/joy", "f1_pos/joy"]
    assert board.plain_metrics == ["f1_pos", "acc", "wacc", "new"]
    assert board.higher_is_better("acc/joy") is True
    assert board.higher_is_better("new") is None


def test_notes_say_what_a_row_sees_that_others_do_not_and_what_it_was_not_built_for() -> None:
    instead = {"audio": ("features", "waveform"), "vision": ("features", "frames")}
    board = only(
        [
            *runs("raw", [0.5, 0.6, 0.5], instead=instead),
            *runs("talk", [0.4, 0.5, 0.4], data={"dialogue": True}),
            *runs("plain", [0.6, 0.7, 0.6]),
        ]
    )
    assert {row.label: notes(board, row) for row in board.rows} == {
        "talk": ["sees the whole dialogue"],
        "raw": ["on audio features (for waveform), vision features (for frames)"],
        "plain": [],
    }


def test_notes_say_whose_features_are_not_quite_those_of_the_others() -> None:
    usual = {"content": "1" * 64, "libraries": {"librosa": "0.11.0", "av": "12"}}
    older = {"content": "", "libraries": {"librosa": "0.10.2", "av": "12"}}
    board = only(
        [
            *runs("a", [0.7] * 3, **usual),
            *runs("b", [0.8] * 3, **{**usual, "content": "2" * 64}),
            *runs("c", [0.9] * 3, **older),
            *runs("d", [1.0] * 3),
        ]
    )
    assert [notes(board, row) for row in board.rows] == [
        [],
        ["other bytes of the same features"],
        ["features computed with librosa 0.10.2 (others: 0.11.0)"],
        [],
    ]


def test_the_order_of_records_decides_nothing() -> None:
    def shown(records: list[Record]) -> list[tuple[str, float, int | None]]:
        board = only(records, records)
        return [(row.label, row.mean, board.rank(row)) for row in board.rows]

    records = [*runs("a", [0.7, 0.8, 0.7]), *runs("b", [0.7, 0.8, 0.7]), *runs("a", [0.6] * 3, config={"lr": 0.1})]
    # The same trial once more, as it must not be: which of the two counts is decided by their content.
    records.append(dataclasses.replace(records[0], id="0" * 16, test={"mae": 0.1}))
    expected = shown(records)
    for seed in range(5):
        random.Random(seed).shuffle(records)
        assert shown(records) == expected
