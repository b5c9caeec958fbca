"""The CSV file of a track: one line per row, every number unrounded."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

from mmbench.report import cells
from mmbench.report.boards import Board
from mmbench.report.rows import Row

COLUMNS = {
    "track": "name of the track",
    "fingerprint": "content of the feature store; only rows with the same one are comparable",
    "rank": "rank by the mean of the selecting metric; empty for incomplete rows",
    "label": "method, variant and changed settings",
    "config": "short hash of everything that the trials of a row share",
    "method": "key of the method",
    "variant": "variant of the method",
    "title": "full name of the method",
    "year": "year of publication",
    "fidelity": "what our version of the method rests on",
    "version": "version of the code",
    "status": "`complete` or `incomplete`",
    "wanted": "trials that the table is about",
    "completed": "trials that count",
    "diverged": "trials whose loss was no longer a number",
    "failed": "trials that ended with an error",
    "missing": "trials that nobody ran",
    "extra": "further trials, not counted",
    "seeds": "seeds of the trials that count",
    "folds": "folds of the trials that count",
    "n": "number of values behind mean and deviation",
    "n_of": "what these values are: `seeds` (each the mean of its folds) or `folds`",
    "selected_by": "validation metric that selected the epoch",
    "p_best": "two-sided paired t-test against the best row, not adjusted",
    "p_best_holm": "the same, adjusted for the number of rows",
    "p_constant": "two-sided paired t-test against the constant prediction, not adjusted",
    "parameters": "trained parameters",
    "seconds_per_epoch": "median over trials, training and validation",
    "peak_memory": "largest peak memory in bytes",
    "peak_memory_of": "what it counts: `cuda` tensors or the whole `process`",
    "epoch_selected": "median of the selected epochs, counted from 0",
    "epochs": "median of the epochs trained",
    "device": "where the trials ran",
    "torch": "with which version of torch",
    "notes": "as in the table",
}
"""The columns before the metrics, and what they hold."""

METRIC_COLUMNS = {
    "mean": "mean",
    "std": "population standard deviation (`ddof=0`)",
    "std1": "sample standard deviation (`ddof=1`)",
    "low": "lower end of the 95 % interval of the mean",
    "high": "upper end of it",
    "published": "value reported elsewhere, several separated by `;`",
}
"""The columns of every metric, after its name and a colon."""


def csv_text(boards: Sequence[Board]) -> str:
    """Return the file of one track."""
    metrics = list(dict.fromkeys(metric for board in boards for metric in board.metrics))
    reported = {result["metric"] for board in boards for row in board.rows for result in row.card["published"]}
    metrics += sorted(reported - set(metrics))
    heads = [*COLUMNS, *(f"{metric}:{column}" for metric in metrics for column in METRIC_COLUMNS)]
    text = io.StringIO()
    writer = csv.DictWriter(text, heads, lineterminator="\n")
    writer.writeheader()
    for board in boards:
        for row in board.rows:
            writer.writerow({**_facts(board, row), **_numbers(row, metrics)})
    return text.getvalue()


def _facts(board: Board, row: Row) -> dict[str, Any]:
    record, states = row.any_record, Counter(row.troubles.values())
    summary = row.summary(board.metric)
    p_best, p_holm = board.p_best.get(row.key, (None, None))
    return {
        "track": board.track,
        "fingerprint": board.fingerprint,
        "rank": board.rank(row),
        "label": row.label,
        "config": row.key,
        "method": row.method,
        "variant": record["variant"],
        "title": row.card["title"],
        "year": row.card["year"],
        "fidelity": row.card["fidelity"],
        "version": record["version"],
        "status": "complete" if row.complete else "incomplete",
        "wanted": len(row.cells),
        "completed": len(row.counted),
        "diverged": states["diverged"],
        "failed": states["failed"],
        "missing": states["missing"],
        "extra": row.extra,
        "seeds": _joined(seed for seed, _ in row.counted),
        "folds": _joined(fold for _, fold in row.counted),
        "n": summary.n if summary else 0,
        "n_of": "folds" if board.by_fold else "seeds",
        "selected_by": board.metric,
        "p_best": p_best,
        "p_best_holm": p_holm,
        "p_constant": board.p_constant(row),
        "parameters": max(cells.cost(row, "parameters"), default=None),
        "seconds_per_epoch": _median(cells.cost(row, "seconds_per_epoch")),
        "peak_memory": max(cells.cost(row, "peak_memory"), default=None),
        "peak_memory_of": _joined(cells.cost(row, "peak_memory_of")),
        "epoch_selected": cells.selected_epoch(row),
        "epochs": _median(cells.cost(row, "epochs")),
        "device": _joined(found["environment"].get("device", "") for found in row.counted.values()),
        "torch": _joined(found["environment"].get("torch", "") for found in row.counted.values()),
        "notes": "; ".join(cells.notes(board, row)),
    }


def _numbers(row: Row, metrics: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for metric in metrics:
        summary = row.summary(metric)
        for column in METRIC_COLUMNS:
            values[f"{metric}:{column}"] = getattr(summary, column, None)
        published = [result["value"] for result in row.card["published"] if result["metric"] == metric]
        values[f"{metric}:published"] = ";".join(map(repr, published))
    return values


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _joined(values: Any) -> str:
    return ";".join(map(str, sorted(set(values))))
