"""Where the rows of a board stand: the finding, the ranking, who is shown better than whom, references, costs."""

from __future__ import annotations

from collections.abc import Sequence

from mmbench.report import cells
from mmbench.report.boards import Board
from mmbench.report.caveats import misleading
from mmbench.report.inference import Inference
from mmbench.report.judgement import Against
from mmbench.report.markdown import NONE, code, escape, table
from mmbench.report.notes import notes
from mmbench.report.rows import FEWEST_SEEDS, Row

NAMED = 6
"""Rows that a sentence names; of more it gives the number."""
BEST = " ◆"
"""What stands behind the rows of the set of the best."""


def finding(board: Board) -> list[str]:
    """Return what the table shows, in sentences made from its numbers."""
    if not board.metric:
        return ["No trial was completed."]
    judged = board.judgement
    if not board.ranked:
        return [f"Nothing is ranked: {_why_unranked(board)}."]
    if not judged.comparison:
        return ["The rows are ordered by their means; without the predictions nobody can say what differs."]
    said = []
    best = [row for row in judged.compared if judged.best(row)]
    if why := misleading(board):
        said.append(f"No row is called the best here: {why}.")
    elif len(judged.compared) == 1:
        said.append(f"{code(best[0].label)} is the only row that can be compared.")
    elif len(best) == 1:
        said.append(f"{code(best[0].label)} is shown better than all others.")
    else:
        said.append(f"Any of {some(best)} may be the best: none of them is shown worse than another row.")
    for name in ("late_fusion", "unimodal", "linear"):
        if name not in judged.references:
            continue
        reference = judged.references[name]
        others = [row for row in judged.compared if row is not reference and row.method != reference.method]
        better = [row for row in others if judged.shown_against(row, name)]
        worse = sum(judged.shown_against(row, name) is False for row in others)
        which = f"{some(better)} {'is' if len(better) == 1 else 'are'}" if better else "No row is"
        said.append(f"{which} shown better than {code(reference.label)}, and {worse} of {len(others)} worse.")
    pairs = len(judged.compared) * (len(judged.compared) - 1) // 2
    told = int(judged.comparison.better.sum())
    said.append(f"Of {cells.several(pairs, 'pair')} {told} {'is' if told == 1 else 'are'} told apart.")
    return said


def _why_unranked(board: Board) -> str:
    """Return why a board has no ranked row."""
    most = max((len(row.seeds) for row in board.rows), default=0)
    if most < FEWEST_SEEDS:
        folds = max(row.folds for row in board.rows)
        why = f"it takes {FEWEST_SEEDS} whole seeds, and no row has more than {most}"
        return why + (", for folds are no seeds: they differ mostly by their seeds' luck" if folds > 1 else "")
    return "in every row with enough seeds a trial failed or diverged"


def some(rows: Sequence[Row]) -> str:
    """Return the labels of some rows, the number of those beyond the first few."""
    names = [code(row.label) for row in rows[:NAMED]]
    more = len(rows) - len(names)
    if more:
        return f"{', '.join(names)} and {more} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def detectable(board: Board) -> list[str]:
    """Return the smallest difference that the board can show."""
    comparison = board.judgement.comparison
    if comparison is None or comparison.detectable is None:
        return []
    return [
        f"- **Smallest difference** in {code(board.metric)} that two typical rows here are told apart by with a "
        f"probability of 80 %: {cells.number(comparison.detectable)}."
        + ("" if comparison.groups else " There is one group only: new groups are not allowed for.")
    ]


def ranking(board: Board) -> list[str]:
    """Return the table of the ranking."""
    published = any(_values(row, board.metric) for row in board.rows)
    metric = f"{code(board.metric) if board.metric else 'metric'} {cells.arrow(board.higher) if board.metric else ''}"
    heads = ["rank", "ranks", "method", "fidelity", "n", metric.strip()]
    heads += ["published"] * published
    rows = []
    for row in board.rows:
        ranks = board.judgement.ranks(row)
        rows.append(
            [
                cells.rank(board, row),
                NONE if ranks is None else f"{ranks[0]} to {ranks[1]}",
                code(row.label) + BEST * (board.judgement.best(row) and not misleading(board)),
                row.card.fidelity,
                str(len(row.seeds)),
                cells.mean_and_deviation(row.summary(board.metric)) + around(board.judgement.intervals.get(row), row),
                *([" / ".join(cells.number(value) for value in _values(row, board.metric)) or NONE] * published),
                escape("; ".join(notes(board, row))),
            ]
        )
    return table([*heads, "notes"], rows, left=4)


def around(found: Inference | None, row: Row) -> str:
    """Return the interval over new seeds and new groups, or why there is none."""
    if found is not None:
        return f" [{cells.number(found.low)}, {cells.number(found.high)}]"
    return {0: " (no whole seed)", 1: " (n=1)"}.get(len(row.seeds), "") if row.counted else ""


def _values(row: Row, metric: str) -> list[float]:
    """Return what others report of a metric."""
    return [result.value for result in row.card.published if result.metric == metric]


def references(board: Board) -> list[str]:
    """Return the table of differences to the references; nothing where there are none."""
    judged = board.judgement
    if not judged.references or len(judged.compared) < 2:
        return []
    heads = ["method", *(f"- {code(row.label)}" for row in judged.references.values())]
    rows = [
        [code(row.label), *(_apart(judged.against[name].get(row)) for name in judged.references)]
        for row in judged.compared
    ]
    return table(heads, rows)


def _apart(one: Against | None) -> str:
    if one is None:
        return NONE
    p = "<0.001" if one.p < 0.001 else f"{one.p:.3f}"
    found = one.found
    return (
        f"{cells.number(found.estimate, '+')} [{cells.number(found.low, '+')}, {cells.number(found.high, '+')}] p {p}"
    )


def pairs(board: Board) -> list[str]:
    """Return for each row which others it is shown better and worse than, by rank."""
    judged = board.judgement
    if not judged.comparison or len(judged.compared) < 2:
        return []
    place = {row: number for number, row in enumerate(judged.compared, 1)}

    def which(rows: Sequence[Row]) -> str:
        return cells.ranges(place[row] for row in rows) or NONE

    rows = []
    for row in judged.compared:
        better = [other for other in judged.compared if judged.better(row, other)]
        worse = [other for other in judged.compared if judged.better(other, row)]
        rows.append([str(place[row]), code(row.label), which(better), which(worse)])
    return table(["line", "method", "shown better than", "shown worse than"], rows, left=4)


def refused(board: Board) -> list[str]:
    """Return which ranked rows are not compared, and why."""
    if not board.judgement.compared or not board.judgement.refused:
        return []
    names = ", ".join(code(row.label) for row in board.judgement.refused)
    why = "tested on other samples than most rows, or with predictions that are no numbers"
    return [f"- **Not compared**: {names}: {why}. They stand by their mean, without an interval."]


def details(board: Board) -> list[str]:
    """Return the table of what the interval of each compared row is made of."""
    judged = board.judgement
    if not judged.intervals:
        return []
    rows = []
    for row, found in judged.intervals.items():
        summary = row.summary(board.metric)
        these = cells.interval(summary).strip() if summary else NONE
        freedom = NONE if found.freedom > cells.LARGE else f"{found.freedom:.1f}"
        both = f"[{cells.number(found.low)}, {cells.number(found.high)}]"
        rows.append([code(row.label), these, both, cells.number(found.error), freedom])
    return table(
        ["method", "these test samples", "new seeds and new groups", "standard error", "degrees of freedom"], rows
    )


def costs(board: Board) -> list[str]:
    """Return the table of costs, with the median of the selected epochs."""
    rows = []
    for row in board.rows:
        epoch = cells.selected_epoch(row)
        rows.append([code(row.label), *cells.cost(row), NONE if epoch is None else f"{epoch:g}"])
    return table(["method", *cells.COST, "epoch"], rows)
