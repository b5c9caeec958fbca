"""The CSV file of a track: one line per row, every number unrounded, but for what is inferred: six digits."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mmbench.report.boards import Board
from mmbench.report.cells import joined, middle, parameters, selected_epoch
from mmbench.report.classes import confusion
from mmbench.report.judgement import REFERENCES, Judgement
from mmbench.report.markdown import printable
from mmbench.report.notes import notes
from mmbench.report.rows import Row

COLUMNS = {
    "track": "name of the track",
    "identity": "which data: sources, recipe, samples, labels and splits; only rows with the same one are comparable",
    "origin": "`published`, or `own` for the runs of whoever made the table",
    "rank": "rank by the mean of the selecting metric; empty for rows that are not ranked",
    "label": "method, variant and changed settings",
    "config": "short hash of everything that the trials of a row share",
    "method": "key of the method",
    "variant": "variant of the method",
    "title": "full name of the method",
    "year": "year of publication",
    "fidelity": "what our version of the method rests on",
    "version": "version of mmbench",
    "code": "hash of the code that decides the result, empty where nobody noted it",
    "made_by": "whether that is the `present` code (or was shown to give the same), an `earlier` one, `unknown` or "
    "`mixed`",
    "completed": "trials with a result",
    "diverged": "trials whose loss was no longer a number",
    "failed": "trials that ended with an error",
    "seeds": "whole seeds: those with a result in every fold",
    "folds": "folds of the trials behind the value",
    "n": "number of whole seeds; 0 where the mean is over the folds of no whole seed",
    "selected_by": "validation metric that selected the epoch",
    "rank_low": "lowest rank that the row may have; all such intervals of a table hold together with 95 %",
    "rank_high": "highest rank that it may have",
    "in_best": "whether it is in the set of the best: not shown worse than any other row; of compared rows only",
    "better_than": "labels of the rows that it is shown better than, all pairs at one level of 5 %, separated by `;`",
    "worse_than": "labels of those that it is shown worse than",
    **{
        f"minus_{name}{end}": f"{text} `{name}`"
        for name in REFERENCES
        for end, text in (
            ("", "difference of the mean to that of the reference"),
            (":low", "lower end of its 95 % interval over new seeds and new groups: to"),
            (":high", "upper end of it: to"),
            (":p", "p-value, adjusted for the number of rows (Holm): of the difference to"),
        )
    },
    "detectable": "smallest difference that two typical rows of the table are told apart by with 80 %",
    "confusion": "of one class of several, as JSON: by true class and predicted class the mean number of test samples "
    "over seeds; shares of the diagonal are the recalls",
    "ece": "expected calibration error over all test samples of a seed, mean over seeds; so are the next six, but for "
    "the temperature",
    "ece_floor": "that of a perfectly calibrated classifier with the same confidences",
    "temperature": "median over trials of those that validation gives to divide logits by; empty if it was not noted",
    "ece_scaled": "calibration error after that",
    "ece_scaled_floor": "its floor",
    "interval_width": "width of intervals that are to cover 90 % of new samples, from validation",
    "interval_coverage": "share of the test samples that they cover",
    "parameters": "trained parameters",
    "macs": "multiply-accumulates of matrix products and convolutions to predict a sample; this and the next seven as "
    "`mmbench cost` measured them",
    "seconds_per_epoch": "median over epochs, training and validation",
    "seconds_to_predict": "seconds to predict 1,000 test samples",
    "memory": "bytes by which training grows",
    "memory_of": "what it counts: `cuda` tensors or the whole `process`",
    "cost_device": "what computed when costs were measured",
    "cost_threads": "with how many threads",
    "cost_others": "share of the processors that other processes used meanwhile; above 0.1 times are too long",
    "epoch_selected": "median of the selected epochs, counted from 0",
    "epochs": "median of the epochs trained",
    "device": "where the trials ran",
    "torch": "with which version of torch",
    "notes": "as in the table",
}
"""The columns before the metrics, and what they hold."""

MEASURED = ("macs", "seconds_per_epoch", "seconds_to_predict", "memory", "memory_of")
"""Columns that are called as what `mmbench cost` stores."""

METRIC_COLUMNS = {
    "mean": "mean",
    "std": "population standard deviation (`ddof=0`)",
    "std1": "sample standard deviation (`ddof=1`)",
    "low": "lower end of the 95 % interval of the mean over new seeds, on these test samples",
    "high": "upper end of it",
    "new_low": "lower end of the 95 % interval over new seeds and new groups of test samples",
    "new_high": "upper end of it",
    "error": "standard error over new seeds and new groups",
    "freedom": "its degrees of freedom; empty for infinitely many",
    "published": "value reported elsewhere, several separated by `;`",
}
"""The columns of every metric, after its name and a colon."""


def csv_text(boards: Sequence[Board]) -> str:
    """Return the file of one track."""
    metrics = list(dict.fromkeys(metric for board in boards for metric in board.metrics))
    reported = {result.metric for board in boards for row in board.rows for result in row.card.published}
    metrics += sorted(reported - set(metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *(printable(f"{name}:{column}") for name in metrics for column in METRIC_COLUMNS)])
    for board in boards:
        for row in board.rows:
            facts = _facts(board, row)
            cells = [*(facts[column] for column in COLUMNS), *_numbers(board, row, metrics)]
            writer.writerow([printable(cell) if isinstance(cell, str) else cell for cell in cells])
    return text.getvalue()


def _facts(board: Board, row: Row) -> dict[str, Any]:
    record, states = row.any_record, Counter(found.status for found in row.records.values())
    summary, cost = row.summary(board.metric), row.cost
    judged = board.judgement
    ranks, compared = judged.ranks(row) or (None, None), judged.comparison is not None and row in judged.compared
    return {
        "track": board.track,
        "identity": board.identity,
        "origin": row.origin,
        "rank": board.rank(row),
        "label": row.label,
        "config": row.key,
        "method": row.method,
        "variant": record.variant,
        "title": row.card.title,
        "year": row.card.year,
        "fidelity": row.card.fidelity,
        "version": joined(found.version for found in row.records.values()),
        "code": joined(found.code for found in row.records.values()),
        "made_by": row.made_by,
        "completed": states["completed"],
        "diverged": states["diverged"],
        "failed": states["failed"],
        "seeds": ";".join(map(str, row.seeds)),
        "folds": ";".join(map(str, sorted({fold for _, fold in row.used}))),
        "n": summary.n if summary else 0,
        "selected_by": board.metric,
        "rank_low": ranks[0],
        "rank_high": ranks[1],
        "in_best": judged.best(row) if compared else None,
        "better_than": joined(other.label for other in judged.compared if judged.better(row, other)),
        "worse_than": joined(other.label for other in judged.compared if judged.better(other, row)),
        **_against(judged, row),
        "detectable": _digits(found.detectable) if (found := judged.comparison) and found.detectable else None,
        "confusion": _confusion(board, row),
        **{name: None if value is None else _digits(value) for name, value in asdict(board.trusts[row]).items()},
        "parameters": parameters(row),
        **{name: getattr(cost, name, None) for name in MEASURED},
        "cost_device": cost.environment.device if cost else None,
        "cost_threads": cost.environment.threads if cost else None,
        "cost_others": cost.others if cost else None,
        "epoch_selected": selected_epoch(row),
        "epochs": middle([found.cost.epochs for found in row.counted.values() if found.cost]),
        "device": joined(found.environment.device for found in row.counted.values()),
        "torch": joined(found.environment.torch for found in row.counted.values()),
        "notes": "; ".join(notes(board, row)),
    }


def _confusion(board: Board, row: Row) -> str | None:
    counts, task = confusion(board, row), row.any_record.task
    if counts is None or task is None:
        return None
    lines = (dict(zip(task.names, line, strict=True)) for line in counts.round(6).tolist())
    return json.dumps(dict(zip(task.names, lines, strict=True)))


def _against(judged: Judgement, row: Row) -> dict[str, float | None]:
    """Return the differences of a row to the references."""
    found: dict[str, float | None] = {}
    for name in REFERENCES:
        one = judged.against.get(name, {}).get(row)
        found[f"minus_{name}"] = _digits(one.found.estimate) if one else None
        found[f"minus_{name}:low"] = _digits(one.found.low) if one else None
        found[f"minus_{name}:high"] = _digits(one.found.high) if one else None
        found[f"minus_{name}:p"] = _digits(one.p) if one else None
    return found


def _digits(value: float) -> float:
    """Return a number to six digits, to which all processors agree on sums over samples."""
    return float(f"{value:.6g}")


def _numbers(board: Board, row: Row, metrics: Sequence[str]) -> list[Any]:
    values: list[Any] = []
    for metric in metrics:
        summary, found = row.summary(metric), board.judgement.intervals_of(metric).get(row)
        published = [result.value for result in row.card.published if result.metric == metric]
        parts: dict[str, Any] = {"published": ";".join(map(repr, published))}
        parts |= {
            "new_low": _digits(found.low) if found else None,
            "new_high": _digits(found.high) if found else None,
            "error": _digits(found.error) if found else None,
            "freedom": _digits(found.freedom) if found and math.isfinite(found.freedom) else None,
        }
        values += [parts[name] if name in parts else getattr(summary, name, None) for name in METRIC_COLUMNS]
    return values
