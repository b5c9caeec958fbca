"""What a board says of its rows, from their predictions: ranks, the set of the best, references, notes, classes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from data_modules.schema import ModalitySpec
from mmbench.report.caveats import idle_mechanism
from mmbench.report.classes import classes, confusion
from mmbench.report.leaderboard import render
from mmbench.report.markdown import NONE
from mmbench.report.standing import finding
from mmbench.runner.facts import TaskFacts
from mmbench.runner.predictions import Predictions
from mmbench.runner.record import Record
from tests.report.factory import GROUPS, by_label, evidence, folded, lines_of, only, record, runs

NAME = "mosi-glove-standard"
SEEDS = (1, 2, 3)


def near(mean: float, spread: float = 0.004) -> list[float]:
    """Return three values around a mean."""
    return [mean - spread, mean, mean + spread]


RECORDS = [
    *runs("a", near(0.50)),
    *runs("b", near(0.502)),
    *runs("late_fusion", near(0.60)),
    *runs("constant", near(0.90, 0.0)),
    *(record("unimodal", seed, mae, label="unimodal (text)", config={"m": 1}) for seed, mae in enumerate(near(0.7), 1)),
    *(
        record("unimodal", seed, mae, label="unimodal (audio)", config={"m": 2})
        for seed, mae in enumerate(near(0.8), 1)
    ),
]
BOARD = only(RECORDS, evidence=evidence)


def test_rows_that_are_alike_share_ranks_and_the_set_of_the_best() -> None:
    rows, judged = by_label(BOARD), BOARD.judgement
    assert [judged.ranks(rows[name]) for name in ("a", "b", "late_fusion", "constant")] == [
        (1, 2),
        (1, 2),
        (3, 3),
        (6, 6),
    ]
    assert {name for name, row in rows.items() if judged.best(row)} == {"a", "b"}
    assert judged.better(rows["a"], rows["late_fusion"])
    assert not judged.better(rows["late_fusion"], rows["a"])
    assert not judged.better(rows["a"], rows["b"])


def test_the_page_says_what_the_numbers_show_before_the_table() -> None:
    text = render(RECORDS, evidence=evidence)[f"{NAME}.md"]
    head = text.split("### Ranking")[0]
    assert "Any of `a` and `b` may be the best: none of them is shown worse than another row." in head
    assert "`a` and `b` are shown better than `late_fusion`, and 3 of 5 worse." in head
    assert "Of 15 pairs 14 are told apart." in head
    assert "**Smallest difference** in `mae`" in head
    assert f"test samples of {GROUPS} groups" in head
    assert len([line for line in head.splitlines() if line]) <= 12
    rows = lines_of(text, "### Ranking")
    assert [(row["ranks"], row["method"]) for row in rows][:3] == [
        ("1 to 2", "`a` ◆"),
        ("1 to 2", "`b` ◆"),
        ("3 to 3", "`late_fusion`"),
    ]
    told = {row["method"]: (row["shown better than"], row["shown worse than"]) for row in lines_of(text, "told apart")}
    assert told["`b`"] == ("3 to 6", NONE)
    assert told["`unimodal (text)`"] == ("5, 6", "1 to 3")


def test_intervals_are_wider_than_those_over_seeds_alone() -> None:
    text = render(RECORDS, evidence=evidence)[f"{NAME}.md"]
    rows = {row["method"]: row for row in lines_of(text, "### What the intervals are made of")}
    (seeds, both) = (
        [float(end) for end in rows["`a`"][name].strip("[]").split(", ")]
        for name in ("these test samples", "new seeds and new groups")
    )
    assert both[0] < seeds[0] < 0.5 < seeds[1] < both[1]
    assert seeds[1] == pytest.approx(0.5 + stats.t.ppf(0.975, 2) * 0.004 / np.sqrt(3), abs=1e-4)


def test_the_references_are_chosen_without_looking_at_the_test() -> None:
    """Of unimodal rows the one that is better on validation counts, though it is worse on test."""

    def on_validation(found: Record, value: float) -> Record:
        return dataclasses.replace(found, selection=dataclasses.replace(found.selection, value=value))

    swapped = {"unimodal (text)": 0.9, "unimodal (audio)": 0.1}
    board = only([on_validation(one, swapped.get(one.label, 0.5)) for one in RECORDS], evidence=evidence)
    references = {name: row.label for name, row in board.judgement.references.items()}
    assert references == {"late_fusion": "late_fusion", "unimodal": "unimodal (audio)", "constant": "constant"}
    found = board.judgement.against["unimodal"][by_label(board)["a"]]
    assert found.found.estimate == pytest.approx(0.5 - 0.8)
    assert board.judgement.shown_against(by_label(board)["a"], "unimodal") is True
    assert board.judgement.shown_against(by_label(board)["constant"], "unimodal") is False


def test_every_number_of_the_page_is_in_the_csv() -> None:
    texts = render(RECORDS, evidence=evidence)
    rows = {row["label"]: row for row in csv.DictReader(io.StringIO(texts[f"{NAME}.csv"]))}
    a, judged = by_label(BOARD)["a"], BOARD.judgement
    assert (rows["a"]["rank_low"], rows["a"]["rank_high"], rows["a"]["in_best"]) == ("1", "2", "True")
    assert rows["a"]["better_than"] == "constant;late_fusion;unimodal (audio);unimodal (text)"
    assert rows["late_fusion"]["worse_than"] == "a;b"
    assert float(rows["a"]["mae:new_low"]) == pytest.approx(judged.intervals[a].low, rel=1e-5)
    assert float(rows["a"]["mae:error"]) == pytest.approx(judged.intervals[a].error, rel=1e-5)
    found = judged.against["late_fusion"][a]
    assert float(rows["a"]["minus_late_fusion"]) == pytest.approx(found.found.estimate, rel=1e-5)
    assert float(rows["a"]["minus_late_fusion:p"]) == pytest.approx(found.p, rel=1e-5)
    assert rows["late_fusion"]["minus_late_fusion"] == ""
    assert {row["detectable"] for row in rows.values()} == {f"{judged.comparison.detectable:.6g}"}


def test_same_records_same_bytes() -> None:
    assert render(RECORDS, evidence=evidence) == render(RECORDS[::-1], evidence=evidence)


def test_rows_with_other_items_are_named_and_not_compared() -> None:
    def fewer(found: Record) -> Predictions:
        whole = evidence(found)
        if found.method != "b":
            return whole
        return Predictions(whole.ids[:-1], whole.groups[:-1], 0, whole.target[:-1], whole.prediction[:-1])

    text = render(RECORDS, evidence=fewer)[f"{NAME}.md"]
    assert "**Not compared**: `b`: tested on other samples than most rows" in text
    rows = {row["method"]: row for row in lines_of(text, "### Ranking")}
    assert rows["`b`"]["ranks"] == NONE
    assert rows["`b`"]["`mae` ↓"] == "0.5020 ± 0.0040"
    assert rows["`a` ◆"]["ranks"] == "1 to 1"


def without_groups(found: Record) -> Predictions:
    return dataclasses.replace(evidence(found), groups=[""] * len(evidence(found).ids))


def one_group(found: Record) -> Predictions:
    return dataclasses.replace(evidence(found), groups=["only"] * len(evidence(found).ids))


def not_numbers(found: Record) -> Predictions:
    whole = evidence(found)
    return dataclasses.replace(whole, prediction=whole.prediction * np.nan) if found.method == "a" else whole


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (without_groups, "the test samples name no groups: each stands for itself"),
        (one_group, "There is one group only: new groups are not allowed for."),
        (not_numbers, "**Not compared**: `a`"),
    ],
)
def test_data_that_lack_something_have_a_page_that_says_so(source: Callable[[Record], Predictions], said: str) -> None:
    samples = {"train": 10, "valid": 5, "test": len(evidence(RECORDS[0]).ids)}
    records = [dataclasses.replace(one, samples=samples) for one in RECORDS]
    assert said in render(records, evidence=source)[f"{NAME}.md"].split("### Ranking")[0]


def test_one_row_and_boards_without_references_have_pages() -> None:
    for records in (runs("a", near(0.5)), [*runs("a", near(0.5)), *runs("b", near(0.6))]):
        text = render(records, evidence=evidence)[f"{NAME}.md"]
        assert "### Against the references" not in text
        assert lines_of(text, "### Ranking")[0]["ranks"] == "1 to 1"


def test_one_seed_of_folds_is_shown_and_not_ranked() -> None:
    board = only(folded("a", {(1, fold): 0.5 for fold in range(5)}, 5), evidence=evidence)
    assert finding(board) == [
        "Nothing is ranked: it takes 3 whole seeds, and no row has more than 1, for folds are no seeds: they differ "
        "mostly by their seeds' luck."
    ]


def test_data_whose_defect_reaches_the_ranking_have_no_best() -> None:
    records = [dataclasses.replace(one, track="mosi/bclstm/videos62-31") for one in RECORDS]
    text = render(records, evidence=evidence)["mosi-bclstm-videos62-31.md"]
    assert "No row is called the best here: the text and vision vectors come from networks" in text
    assert "◆" not in text


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((1, 1), ["its attention has one step per modality: nothing to align"]),
        ((20, 1), ["attention to vision has one key"]),
        ((20, 30), []),
    ],
)
def test_a_mechanism_without_work_is_noted(steps: tuple[int, int], expected: list[str]) -> None:
    features = {
        name: ModalitySpec(name, 4, max_length=length) for name, length in zip(("audio", "vision"), steps, strict=True)
    }
    for method, more in (("mult", []), ("emt_dlfr", ["nothing is missing that it could restore"])):
        (row,) = only(runs(method, near(0.5), features=features)).rows
        assert idle_mechanism(row) == expected + more
    damaged = {"corruption": {"steps": 0.3}}
    assert idle_mechanism(only(runs("emt_dlfr", near(0.5), features=features, data=damaged)).rows[0]) == expected
    assert idle_mechanism(only(runs("lf_dnn", near(0.5), features=features)).rows[0]) == []


def classified(found: Record) -> Predictions:
    """Two seeds: of three samples of the first class one is taken for the second; the second seed gets all right."""
    logits = np.eye(2)[[0, 0, 1, 1] if found.seed == 1 else [0, 0, 0, 1]]
    return Predictions(list("wxyz"), ["", "", "", ""], 0, np.array([[0.0], [0.0], [0.0], [1.0]]), logits)


def test_confusion_and_recall_by_class() -> None:
    task = TaskFacts("multiclass", ("calm", "angry"), "multiclass", ())
    scores = {"wa": 0.75, "f1_weighted": 0.7}
    records = [
        record("late_fusion", seed, test=scores, family="multiclass", selection="f1_weighted", mode="max", task=task)
        for seed in (1, 2)
    ]
    board = only(records, evidence=classified)
    np.testing.assert_array_equal(confusion(board, board.rows[0]), [[2.5, 0.5], [0, 1]])
    text = "\n".join(classes(board))
    assert lines_of("x\n" + text, "x") == [{"method": "`late_fusion`", "calm": "0.8333", "angry": "1.0000"}]
    assert "`late_fusion`: true class by line" in text
    texts = render(records, evidence=classified)
    (line,) = csv.DictReader(io.StringIO(texts[f"{NAME}.csv"]))
    assert json.loads(line["confusion"]) == {"calm": {"calm": 2.5, "angry": 0.5}, "angry": {"calm": 0, "angry": 1}}
    assert classes(BOARD) == []
    assert classes(only(records)) == []
