"""Tables that somebody asks for, and two rows beside each other."""

import csv
import io
import math

import pytest
from scipy import stats

from mmbench.methods.config import ConfigError
from mmbench.report import selected_table, versus
from mmbench.report.markdown import NONE
from mmbench.report.versus import find_row
from tests.report.factory import folded, lines_of, only, record, runs

PUBLISHED = [
    *(record("a", seed, test={"mae": mae, "corr": 0.5, "ece": 0.3}) for seed, mae in enumerate([0.70, 0.72, 0.77])),
    *(record("b", seed, test={"mae": 0.9, "corr": 0.7, "ece": 0.2}) for seed in range(3)),
    *(record("unimodal", seed, 0.95, label="unimodal (text)", config={"m": 1}) for seed in range(3)),
    *(record("unimodal", seed, 0.96, label="unimodal (audio)", config={"m": 2}) for seed in range(3)),
]
OWN = [record("a", 1, test={"mae": 0.6, "f1/x": 0.1}), record("a", 2, test={"mae": 0.8})]
BOARD = only(PUBLISHED, OWN)
HALF = 4.3027 * math.sqrt(0.0026 / 2 / 3)  # printed table: t(0.975, 2) = 4.3027


def labels(text: str) -> list[str]:
    return [row["method"] for row in lines_of("x\n" + text, "x")]


def parsed(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_table_has_rank_seeds_and_plain_metrics() -> None:
    text = selected_table(BOARD)
    rows = lines_of("x\n" + text, "x")
    assert list(rows[0]) == ["rank", "method", "n", "mae ↓", "corr ↑", "acc2_non0 ↑", "ece"]
    assert [row["method"] for row in rows] == ["a (yours)", "a", "b", "unimodal (text)", "unimodal (audio)"]
    assert [row["rank"] for row in rows] == [NONE, "1", "2", "3", "4"]
    assert rows[1]["mae ↓"] == rf"0.7300 ± 0.0361 \[{0.73 - HALF:.4f}, {0.73 + HALF:.4f}]"
    assert rows[1]["corr ↑"] == "0.5000 ± 0.0000"
    assert (rows[0]["n"], rows[0]["corr ↑"]) == ("2", NONE)


def test_only_own_rows_or_some_methods() -> None:
    assert labels(selected_table(BOARD, mine=True)) == ["a (yours)"]
    assert labels(selected_table(BOARD, methods=["b", "a"])) == ["a (yours)", "a", "b"]
    assert labels(selected_table(BOARD, methods=["a"], mine=True)) == ["a (yours)"]
    with pytest.raises(ConfigError, match=r"no method 'unimodel'. Did you mean 'unimodal'\?"):
        selected_table(BOARD, methods=["unimodel"])


def test_sorted_by_another_metric_in_its_direction_with_the_ranks_of_the_board() -> None:
    rows = lines_of("x\n" + selected_table(BOARD, sort="corr"), "x")
    assert [(row["method"], row["rank"]) for row in rows] == [
        ("b", "2"),
        ("unimodal (text)", "3"),
        ("unimodal (audio)", "4"),
        ("a", "1"),
        ("a (yours)", NONE),
    ]
    multiclass = {"family": "multiclass", "selection": "wa", "mode": "max"}
    losses = [(name, seed, nll) for name, nll in (("p", 2.0), ("q", 1.0)) for seed in range(3)]
    lower = only([record(name, seed, test={"wa": 0.5, "nll": nll}, **multiclass) for name, seed, nll in losses])
    assert labels(selected_table(lower, sort="nll")) == ["q", "p"]
    lacking = only([*lower.records, record("none", test={"wa": 0.6}, **multiclass)])
    assert labels(selected_table(lacking, sort="nll")) == ["q", "p", "none"]
    assert labels(selected_table(lower, sort="wa")) == ["p", "q"]
    with pytest.raises(ConfigError, match=r"no metric 'cor'. Did you mean 'corr'\?"):
        selected_table(BOARD, sort="cor")


def test_csv_is_unrounded() -> None:
    rows = parsed(selected_table(BOARD, form="csv"))
    assert [row["rank"] for row in rows] == ["", "1", "2", "3", "4"]
    first = rows[1]
    assert float(first["mae:std"]) == pytest.approx(math.sqrt(0.0026 / 3), rel=1e-12)
    assert float(first["mae:low"]) == pytest.approx(0.73 - HALF, abs=1e-5)
    assert (first["corr:mean"], first["corr:n"]) == ("0.5", "3")
    # A column has its parts even where no row has a value.
    assert parsed(selected_table(BOARD, mine=True, form="csv"))[0]["corr:mean"] == ""


def test_latex_escapes_what_it_would_read_otherwise() -> None:
    label = r"a_b [x=50%&#$^~{}\end]" + "\n"
    text = selected_table(only(runs("a", [0.70, 0.72, 0.77], label=label)), form="latex")
    assert r"a\_b [x=50\%\&\#\$\textasciicircum \textasciitilde \{\}\textbackslash end]" in text
    assert rf"0.7300 $\pm$ 0.0361 [{0.73 - HALF:.4f}, {0.73 + HALF:.4f}]" in text
    assert r"mae $\downarrow$" in text
    assert r"acc2\_non0 $\uparrow$" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert text.isascii()
    body = text.split("\n")
    assert body[0] == r"\begin{tabular}{llrrrr}"
    assert all(line.count(" & ") == 5 for line in body if line.endswith(r"\\"))


def test_markdown_and_csv_survive_labels() -> None:
    board = only(runs("a", [0.7] * 3, label='a|b\n"c", `d` <e>'))
    assert labels(selected_table(board)) == [r'a\|b "c", \`d\` \<e>']
    assert parsed(selected_table(board, form="csv"))[0]["method"] == 'a|b "c", `d` <e>'


def test_who_has_no_rows_is_told_so() -> None:
    with pytest.raises(ConfigError, match=r"you have no rows there\. `mmbench run` makes some"):
        selected_table(only(PUBLISHED), mine=True)


def test_rows_are_found_by_label_and_by_method() -> None:
    board = only([*PUBLISHED, *runs("new", [0.1])], [*OWN, *runs("own", [0.5])])
    expected = {
        "a": "a",
        "a (yours)": "a (yours)",
        "own": "own (yours)",
        "own (yours)": "own (yours)",
        "unimodal (text)": "unimodal (text)",
    }
    assert {name: find_row(board, name).label for name in expected} == expected
    with pytest.raises(ConfigError, match=r"several rows 'unimodal': unimodal \(text\), unimodal \(audio\)"):
        find_row(board, "unimodal")
    with pytest.raises(ConfigError, match=r"no row 'new \(yours\)'"):
        find_row(board, "new (yours)")
    twice = only([*runs("a", [0.5]), *runs("a", [0.6], config={"x": 1})])
    with pytest.raises(ConfigError, match="several rows 'a': a #"):
        find_row(twice, "a")


def test_the_difference_has_the_interval_of_welch() -> None:
    a, b = [0.70, 0.72, 0.77, 0.71], [0.90, 0.95]
    board = only([*runs("a", a), *runs("b", b)])
    (row, *_) = parsed(versus(board, "a", "b", "csv"))
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert row["metric"] == "mae"
    assert float(row["difference"]) == pytest.approx(0.725 - 0.925)
    assert float(row["interval over seeds:low"]) == pytest.approx(expected.low)
    assert float(row["interval over seeds:high"]) == pytest.approx(expected.high)
    assert (row["a:n"], row["b:n"]) == ("4", "2")
    text = versus(board, "a", "b")
    shown = lines_of("x\n" + text, "x")[0]
    assert (shown["metric"], shown["b"], shown["difference"]) == ("mae ↓", "0.9250 ± 0.0354 (n=2)", "-0.2000")
    assert shown["interval over seeds"] == rf"\[{expected.low:+.4f}, {expected.high:+.4f}]"
    assert "which knows these test samples only" in text
    assert "b: 2 seeds: not ranked." in text
    latex = versus(board, "a", "b", "latex")
    assert latex.startswith("% The difference")
    assert "which knows these test samples only" in latex


def test_one_seed_has_no_interval_and_no_spread_is_no_width() -> None:
    part = folded("part", {(1, 0): 0.5}, 2)
    one = folded("one", {(1, 0): 0.6, (1, 1): 0.6}, 2)
    two = folded("two", {(seed, fold): 0.8 for seed in (1, 2) for fold in (0, 1)}, 2)
    board = only([*part, *one, *two])
    for name in ("part", "one"):
        (row, *_) = parsed(versus(board, name, "two", "csv"))
        assert (row["interval over seeds:low"], row["interval over seeds:high"]) == ("", "")
        assert float(row["difference"]) == pytest.approx((0.5 if name == "part" else 0.6) - 0.8)
    (row, *_) = parsed(versus(board, "two", "two", "csv"))
    assert [float(row[f"interval over seeds:{end}"]) for end in ("low", "high")] == [0, 0]


def test_a_metric_that_one_row_lacks_has_no_difference() -> None:
    rows = {row["metric"]: row for row in parsed(versus(BOARD, "a", "unimodal (text)", "csv"))}
    assert (rows["acc2_non0"]["a:mean"], rows["acc2_non0"]["difference"]) == ("", "")
    assert rows["corr"]["difference"] != ""
