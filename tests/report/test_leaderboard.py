"""What the files say, and that they are always the same."""

import csv
import dataclasses
import io
import math
import random

import pytest

from mmbench.report import render
from mmbench.report.leaderboard import file_names
from mmbench.report.markdown import NONE
from tests.report.factory import TRACK, evidence, lines_of, record, runs

NAME = "mosi-glove-standard"

RECORDS = [
    *runs("mult", [0.70, 0.72, 0.77], published=[("mae", 0.871, "the paper, table 1"), ("f1_old", 0.828, "ibid.")]),
    *runs("constant", [1.4, 1.4, 1.4]),
    *runs("tfn", [0.75, 0.71, 0.80]),
    *runs("lmf", [0.70, 0.78]),
    record("lmf", 3, status="diverged"),
]
HALF = 4.3027 * math.sqrt(0.0026 / 2 / 3)  # printed table: t(0.975, 2) = 4.3027


def csv_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_ranking_shows_known_numbers() -> None:
    rows = lines_of(render(RECORDS)[f"{NAME}.md"], "### Ranking")
    assert [(row["rank"], row["method"]) for row in rows] == [
        ("1", "`mult`"),
        (NONE, "`lmf`"),
        ("2", "`tfn`"),
        ("3", "`constant`"),
    ]
    first = rows[0]
    assert first["method"] == "`mult`"
    assert first["`mae` ↓"] == "0.7300 ± 0.0361"  # no predictions, no interval
    assert (first["n"], first["fidelity"], first["ranks"]) == ("3", "paper", NONE)
    cost = lines_of(render(RECORDS)[f"{NAME}.md"], "### Costs")[0]
    # Times and memory of trainings say little: other work runs beside them.
    assert (cost["parameters"], cost["s / epoch"], cost["MB"], cost["epoch"]) == ("1,234,567", NONE, NONE, "12")
    assert first["published"] == "0.8710"
    assert (rows[1]["notes"], rows[1]["n"]) == ("1 diverged (seed 3)", "2")


def test_csv_is_unrounded_and_has_both_deviations() -> None:
    rows = csv_rows(render(RECORDS)[f"{NAME}.csv"])
    first = rows[0]
    assert float(first["mae:std"]) == pytest.approx(math.sqrt(0.0026 / 3), rel=1e-12)
    assert float(first["mae:std1"]) == pytest.approx(math.sqrt(0.0026 / 2), rel=1e-12)
    assert float(first["mae:low"]) == pytest.approx(0.73 - HALF, abs=1e-5)
    assert (first["rank"], first["origin"], first["seeds"], first["n"]) == ("1", "published", "1;2;3", "3")
    assert (first["identity"], first["code"], first["made_by"]) == ("f" * 64, "c" * 16, "")
    assert (first["mae:published"], first["f1_old:published"], first["f1_old:mean"]) == ("0.871", "0.828", "")
    assert (rows[1]["rank"], rows[1]["completed"], rows[1]["diverged"], rows[1]["in_best"]) == ("", "2", "1", "")


def test_csv_says_whose_code_and_how_many_seeds() -> None:
    part = [record("a", 1, 0.7, folds=2, code="b" * 16), record("b", 1, 0.7, folds=2), record("b", 1, fold=1, folds=2)]
    text = render(part, [record("a", 1, 0.6, folds=2)], code=lambda *_: "c" * 16)[f"{NAME}.csv"]
    assert [[row[name] for name in ("label", "made_by", "n", "seeds", "folds")] for row in csv_rows(text)] == [
        ["b", "present", "1", "1", "0;1"],
        ["a (yours)", "present", "0", "", "0"],
        ["a", "earlier", "0", "", "0"],
    ]


def test_published_values_stand_beside_ours() -> None:
    rows = lines_of(render(RECORDS)[f"{NAME}.md"], "### As reported elsewhere")
    assert [(row["metric"], row["published"], row["ours - published"], row["source"]) for row in rows] == [
        ("`mae`", "0.8710", "-0.1410", "the paper, table 1"),
        ("`f1_old`", "0.8280", NONE, "ibid."),
    ]


def test_nothing_is_bold() -> None:
    """The best of each column would be the luckiest of many."""
    texts = render(RECORDS, evidence=evidence)
    assert "**0." not in "".join(texts.values())


def test_an_undefined_metric_is_a_dash_even_if_only_one_trial_lacks_it() -> None:
    text = render([*runs("a", [0.7, 0.7]), record("a", 3, test={"mae": 0.7, "corr": None})])
    assert lines_of(text[f"{NAME}.md"], "### Metrics")[0]["`corr` ↑"] == NONE
    assert csv_rows(text[f"{NAME}.csv"])[0]["corr:mean"] == ""


def test_one_trial_has_a_value_and_no_deviation() -> None:
    text = render([record("a", 1, 0.7), record("b", 1, 0.8)])[f"{NAME}.md"]
    first = lines_of(text, "### Ranking")[0]
    assert first["`mae` ↓"] == "0.7000 (n=1)"
    assert "±" not in first["`mae` ↓"]


def test_metrics_of_single_names_are_only_in_the_csv() -> None:
    test = {"f1_pos": 0.5, "f1_pos/anger": 0.25}
    text = render([record("a", test=test, family="multilabel", selection="f1_pos", mode="max")])
    assert "anger" not in text[f"{NAME}.md"]
    assert csv_rows(text[f"{NAME}.csv"])[0]["f1_pos/anger:mean"] == "0.25"


def test_how_the_numbers_were_made_is_said() -> None:
    records = [record("a", seed, 0.7, fold=fold, folds=2) for seed in (11, 12, 13) for fold in (0, 1)]
    texts = render(records)
    head = texts[f"{NAME}.md"] + texts["how-to-read.md"]
    for part in (
        "train 1,284, valid 229, test 686",
        "**Folds**: 0, 1 of the 2 (0 to 1)",
        "**Seeds**: 11 to 13.",
        "the one with the lowest validation `mae`",
        "`max_epochs=40`, `patience=8`",
        "one value per seed, the mean over its folds",
        "`ddof=1`",
        "`paper`: built from the equations",
        "device A CPU, python 3.11.7, torch 2.9.0, lightning 2.6.0, torchmetrics 1.9.0, numpy 2.4.0 (6 trials)",
        "`ffffffffffff`",
        "text 300 wide, up to 50 steps (GloVe); not aligned",
    ):
        assert part in head
    assert "- `mae` ↓ mean absolute error of raw predictions" in render(records)[f"{NAME}.md"]


def test_folds_of_one_seed_are_no_seeds() -> None:
    text = render([record("a", 1, 0.7 + fold / 10, fold=fold, folds=3) for fold in range(3)])[f"{NAME}.md"]
    assert "folds are no seeds" in text
    assert "±" not in lines_of(text, "### Ranking")[0]["`mae` ↓"]
    part = render([record("a", 1, 0.7, folds=3)])[f"{NAME}.md"]
    assert lines_of(part, "### Ranking")[0]["`mae` ↓"] == "0.7000 (no whole seed)"


def test_a_track_without_a_completed_trial_has_a_page() -> None:
    text = render([record("a", 1, status="failed"), record("a", 2, status="diverged")])
    rows = lines_of(text[f"{NAME}.md"], "### Ranking")
    assert rows[0]["notes"] == "1 diverged (seed 2); 1 failed (seed 1: ValueError)"
    assert (rows[0]["n"], rows[0]["metric"]) == ("0", NONE)
    assert csv_rows(text[f"{NAME}.csv"])[0]["completed"] == "0"
    assert lines_of(text["README.md"], "# Leaderboard")[0]["may be the best"] == NONE


def test_same_records_in_any_order_give_the_same_bytes() -> None:
    records = [*RECORDS, *runs("mult", [0.7, 0.7], config={"lr": 0.1}), *runs("gru", [0.7, 0.6], track="other/x/y")]
    own = [*runs("mult", [0.6] * 3), *runs("mine", [0.5])]
    expected = render(records), render(records, own)
    assert expected[0] != expected[1]
    for seed in range(5):
        shuffled, mine = list(records), list(own)
        random.Random(seed).shuffle(shuffled)
        random.Random(seed).shuffle(mine)
        assert (render(shuffled), render(shuffled, mine)) == expected


def test_labels_and_sources_cannot_break_the_table() -> None:
    records = [
        record("a", 1, 0.7, changed={"text_encoder": "x|y`z"}, published=[("mae", 0.5, "<b>*A* | [b](c)_\n# d")]),
        record("b", 1, 0.8),
    ]
    card = dataclasses.replace(records[0].card, title="A *bold* <script> & $title$")
    records[0] = dataclasses.replace(records[0], card=card)
    text = render(records)[f"{NAME}.md"]
    row = lines_of(text, "### Ranking")[0]
    assert row["method"] == r"`` a [text_encoder=x\|y`z] ``"
    assert lines_of(text, "### As reported elsewhere")[0]["source"] == r"\<b>\*A\* \| \[b](c)\_ # d"
    assert r"- `a`: A \*bold\* \<script> \& \$title\$, 2019" in text


def test_index_names_tracks_and_what_may_be_the_best() -> None:
    text = render([*RECORDS, *runs("tfn", [0.5], track="mosei/x/y")], evidence=evidence)["README.md"]
    rows = lines_of(text, "# Leaderboard")
    assert rows[0]["track"] == "[`mosei/x/y`](mosei-x-y.md)"
    assert rows[1]["track"] == f"[`{TRACK}`]({NAME}.md)"
    assert [rows[1][name] for name in ("methods", "trials", "ranked", "not completed", "may be the best")] == [
        "4",
        "12",
        "3",
        "1",
        "`mult` and `tfn`",
    ]
    assert rows[0]["may be the best"] == NONE


def test_no_records_no_tables() -> None:
    (name, text), *rest = render([]).items()
    assert (name, rest) == ("README.md", [])
    assert "There are no records yet." in text


def test_huge_numbers_stay_short() -> None:
    rows = lines_of(render(runs("a", [1.7e308] * 3))[f"{NAME}.md"], "### Ranking")
    assert rows[0]["`mae` ↓"].startswith("1.7e+308 ± ")
    assert len(rows[0]["`mae` ↓"]) < 60


def test_tracks_that_would_share_a_file_do_not() -> None:
    names = file_names(["a/b-c/d", "a-b/c/d", "x/y/z"])
    assert len(set(names.values())) == 3
    assert names["x/y/z"] == "x-y-z"
    long = ["x/" + "y" * 300 + end for end in "ab"]
    assert len(set(file_names(long).values())) == 2
    # What a page is called does not depend on its neighbours.
    assert file_names(long[:1])[long[0]] == file_names(long)[long[0]]
    assert len(file_names(long)[long[0]]) < 200


def test_what_is_reachable_is_said_where_it_is_known() -> None:
    """The generated set: 0.1333 by counting the states of its causes (tests of the generator)."""
    track = "synthetic/regression/standard"
    text = render([record(track=track)])["synthetic-regression-standard.md"]
    (line,) = [line for line in text.splitlines() if line.startswith("- **Best reachable** `mae`")]
    assert "0.1333 from text + audio + vision; 0.6000 from sums of unimodal predictions" in line
    assert "has not fused" in line
    assert "has not seen when" not in line
    lag = render([record(track="synthetic/lag/standard")])["synthetic-lag-standard.md"]
    (line,) = [line for line in lag.splitlines() if line.startswith("- **Best reachable** `mae`")]
    assert "0.2000 from text + audio + vision; 1.6000 from one modality" in line
    assert "no better than simultaneous steps without their order has not seen when things are said" in line
    corrupted = [record(track=f"{track}+missing-steps0.5", data={"corruption": {"steps": 0.5}})]
    for records in ([record()], corrupted):
        assert not any("Best reachable" in text for text in render(records).values())
