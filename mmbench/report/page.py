"""The page of a track: how its numbers were made, the ranking, all metrics, and what others report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from urllib.parse import quote

from data_modules import datasets
from mmbench.metrics import DESCRIPTIONS
from mmbench.report import cells
from mmbench.report.boards import FEWEST_FOR_OUTLIER, Board
from mmbench.report.markdown import NONE, code, escape, table
from mmbench.report.rows import Row
from mmbench.report.statistics import FEWEST_PAIRS, LEVEL

FIDELITY = {
    "official-code": "the mechanism was read in the authors' code",
    "paper": "built from the equations of the paper",
    "abstract": "a reconstruction, of which only the idea is the authors'",
    "own": "a baseline of this suite",
}
"""What the word beside a number promises."""


def page(boards: Sequence[Board], csv_name: str) -> list[str]:
    """Return the lines of the page of one track.

    Args:
        boards: The track's boards, at least one.
        csv_name: The file with the same numbers unrounded.
    """
    track = boards[0].track
    lines = [
        f"# {code(track)}",
        "",
        f"The same numbers unrounded: [{escape(csv_name)}]({quote(csv_name)}). "
        f"The trials and their predictions: [records/{escape(track)}](records/{quote(track)}). "
        "All tracks: [README.md](README.md).",
    ]
    if len(boards) > 1:
        lines += ["", f"The data of this track exist in {len(boards)} states; numbers of two are not comparable."]
    for board in boards:
        lines += ["", f"## Data {code(board.fingerprint[:12])}", "", *_protocol(board)]
        lines += ["", "### Ranking", "", *_ranking(board)]
        if plain := [metric for metric in board.metrics if "/" not in metric]:
            lines += ["", "### Metrics", "", *_metrics(board, plain)]
        if published := _published(board):
            lines += ["", "### As reported elsewhere", "", *published]
        lines += ["", "### Methods", "", *_methods(board)]
    return lines


def _protocol(board: Board) -> list[str]:
    """Return how the numbers were made and what the columns mean."""
    seeds, folds = ({cell[i] for cell in board.cells} for i in (0, 1))
    total = max(record["folds"] for record in board.records)
    level = f"{LEVEL:.0%}".replace("%", " %")
    over = "folds" if board.by_fold else "seeds"
    splits = f"; folds {cells.ranges(folds)} of the {total} (0 to {total - 1})" if total > 1 else ""
    lines = [
        f"- **Samples**: {_samples(board)}{splits}.",
        *_features(board),
        *_defects(board),
        *_reachable(board),
        f"- **Seeds**: {cells.ranges(seeds)}. A seed and fold belongs to this table when at least half of its methods "
        "have tried it; `(+n)` further trials of a row are not counted.",
    ]
    if board.metric:
        best = "highest" if board.higher else "lowest"
        lines.append(
            f"- **Selection**: the epoch with the {best} validation {code(board.metric)}; one epoch for all metrics. "
            "The test split is read once per trial, after selection. Rows are ranked by the same metric on test."
            + (" Decision thresholds are fitted on validation, too." if board.family == "multilabel" else "")
        )
    settings = ", ".join(code(f"{name}={_plain(value)}") for name, value in board.shared.items() if value is not None)
    lines.append(
        f"- **Settings of all rows**, unless the notes say otherwise: {settings}. `patience` is the number of epochs "
        "without gain on validation after which training stops."
    )
    if len(board.cells) > 1:
        mean = "one value per " + ("fold" if board.by_fold else "seed")
        mean += ", the mean over its folds" if len(folds) > 1 and not board.by_fold else ""
        caution = "training sets of folds overlap" if board.by_fold else "it does not cover the choice of test samples"
        lines += [
            f"- **mean ± deviation [interval]** over {over}: {mean}; population standard deviation (`ddof=0`); "
            f"{level} interval of the mean by Student's t with n - 1 degrees of freedom. The interval says how far the "
            f"mean would move with other {over}; {caution}.",
            "- **p (best)**: two-sided paired t-test against the best row over the same seeds and folds, adjusted for "
            f"the number of rows (Holm). `≈` marks rows that are not distinguishable from the best (p at least "
            f"{1 - LEVEL:.2f}); `?` stands for fewer than {FEWEST_PAIRS} common trials, too few to tell."
            + (" Trials of one fold share data, so small values are optimistic." if len(folds) > 1 else ""),
        ]
    else:
        lines.append("- **One trial per row** (n=1): no deviation, no interval, and no difference that can be trusted.")
    kinds = {row.card["fidelity"] for row in board.rows}
    lines += [
        f"- **Fidelity**: {'; '.join(f'`{kind}`: {text}' for kind, text in FIDELITY.items() if kind in kinds)}.",
        "- **Trials**: completed of wanted. Only complete rows are ranked; the values of the others are over what was "
        f"completed. `{NONE}`: not measured, or not defined in every trial (the correlation of a constant).",
        "- **Cost**: trained parameters; median seconds per epoch (training and validation) over trials; largest peak "
        "memory, of CUDA tensors (`cuda`) or of the whole process with its libraries (`process`); median of the "
        "selected epochs, the first being 0. Times and memory compare only on one device; times are wall-clock and "
        "include what else the machine was doing.",
        f"- **Environment**: {_environments(board)}.",
        "- **Notes**: *no better than the constant*: its mean is not better than that of the constant prediction; *not "
        f"shown to beat* it: the paired test gives p of at least {1 - LEVEL:.2f}. *Far ahead*: the best row leads by "
        f"more than all others span, given {FEWEST_FOR_OUTLIER} rows or more beside the constant. *Epoch limit (k/n)*: "
        "in k of n trials the last allowed epoch was the best, so longer training might do better. *On audio features "
        "(for waveform)*: the method was built for the kind in brackets; the row is its form for the other. *Sees the "
        "whole dialogue*: each utterance is predicted with those around it, those after it too.",
    ]
    return lines


def _ranking(board: Board) -> list[str]:
    published = any(_values(row, board.metric) for row in board.rows)
    tested = len(board.cells) > 1
    heads = ["rank", "method", "fidelity", "trials", f"{code(board.metric) if board.metric else 'metric'}"]
    heads[-1] += f" {cells.arrow(board.higher)}" if board.metric else ""
    heads += ["published"] * published
    heads += ["p (best)"] * tested
    heads += ["parameters", "s / epoch", "peak MiB", "epoch", "notes"]
    rows = []
    for row in board.rows:
        epoch = cells.selected_epoch(row)
        rows.append(
            [
                cells.rank(board, row),
                code(row.label),
                row.card["fidelity"],
                cells.trials(row),
                _primary(board, row),
                *([" / ".join(cells.number(value) for value in _values(row, board.metric)) or NONE] * published),
                *([cells.against_best(board, row)] * tested),
                cells.parameters(row),
                cells.seconds(row),
                cells.memory(row),
                NONE if epoch is None else f"{epoch:g}",
                escape("; ".join(cells.notes(board, row))),
            ]
        )
    return table(heads, rows, left=3)


def _primary(board: Board, row: Row) -> str:
    summary = row.summary(board.metric)
    text = cells.spread(summary)
    return (f"**{text}**" if row is board.best else text) + cells.interval(summary)


def _metrics(board: Board, metrics: Sequence[str]) -> list[str]:
    """Return the definitions and a table of all metrics, the best complete row of each in bold."""
    info = DESCRIPTIONS.get(board.family, {})
    lines = [
        f"- {code(name)} {cells.arrow(board.higher_is_better(name))} {escape(info[name].description)}"
        for name in metrics
        if name in info
    ]
    leading = {name: _leading(board, name) for name in metrics}
    rows = []
    for row in board.rows:
        texts = []
        for name in metrics:
            text = cells.spread(summary := row.summary(name))
            shown = cells.number(summary.mean) if summary else NONE
            texts.append(f"**{text}**" if row.complete and summary and shown == leading[name] else text)
        rows.append([cells.rank(board, row), code(row.label), *texts])
    heads = [f"{code(name)} {cells.arrow(board.higher_is_better(name))}" for name in metrics]
    return [*lines, "", *table(["rank", "method", *heads], rows, left=2)]


def _leading(board: Board, metric: str) -> str | None:
    """Return the best mean of the complete rows as it is shown."""
    higher = board.higher_is_better(metric)
    means = [summary.mean for row in board.ranked if (summary := row.summary(metric))]
    return cells.number((max if higher else min)(means)) if means and higher is not None else None


def _values(row: Row, metric: str) -> list[float]:
    """Return what others report of a metric."""
    return [result["value"] for result in row.card["published"] if result["metric"] == metric]


def _published(board: Board) -> list[str]:
    rows = []
    for row in board.rows:
        for result in row.card["published"]:
            ours = row.summary(result["metric"])
            rows.append(
                [
                    code(row.label),
                    code(result["metric"]),
                    escape(result["source"]),
                    cells.number(result["value"]),
                    cells.spread(ours) + cells.interval(ours),
                    f"{ours.mean - result['value']:+.4f}" if ours else NONE,
                ]
            )
    if not rows:
        return []
    text = (
        "Copied, not measured: the protocol behind these numbers (selection, seeds, features) is their source's. A "
        "metric without a value of ours is a convention that is only kept to name what was reported."
    )
    return [text, "", *table(["method", "metric", "source", "published", "ours", "ours - published"], rows, left=3)]


def _methods(board: Board) -> list[str]:
    cards = {row.method: row.card for row in board.rows}
    return [f"- {code(key)}: {escape(card['title'])}, {card['year']}" for key, card in sorted(cards.items())]


def _samples(board: Board) -> str:
    """Return the samples per split, as a range when folds differ."""
    found: dict[str, set[int]] = {}
    for record in board.records:
        for split, count in record["samples"].items():
            found.setdefault(split, set()).add(count)
    order = [split for split in ("train", "valid", "test") if split in found]
    parts = [
        f"{split} {' to '.join(f'{n:,}' for n in sorted({min(found[split]), max(found[split])}))}" for split in order
    ]
    return ", ".join(parts) or "unknown, for no trial was completed"


def _features(board: Board) -> list[str]:
    """Return what the inputs are: width, longest sequence and extractor of each modality."""
    record = next((record for record in board.records if record["features"]), None)
    if record is None:
        return []
    parts = [
        f"{name} {item['dim']:,} wide, up to {item['max_length']:,} steps"
        + (f" ({escape(item['source'])})" if item["source"] else "")
        for name, item in record["features"].items()
    ]
    return [f"- **Features**: {'; '.join(parts)}; {'aligned in time' if record['aligned'] else 'not aligned'}."]


def _defects(board: Board) -> list[str]:
    """Return what the data set's card says is wrong with it."""
    module = datasets().get(board.track.split("/")[0])
    return [f"- **Known defects of the data**: {escape(module.card.defects)}"] if module and module.card else []


def _reachable(board: Board) -> list[str]:
    """Return the best reachable values of the selecting metric where the data are made so that they are known."""
    module = datasets().get(board.track.split("/")[0])
    kinds = [record["task"]["kind"] for record in board.records if record["task"]]
    found = module.reachable(kinds[0], board.metric) if module and kinds else {}
    if not found or any(record["data"].get("corruption") for record in board.records):
        return []
    parts = "; ".join(f"{cells.number(value)} from {name}" for name, value in found.items())
    return [
        f"- **Best reachable** {code(board.metric)}, expected over all possible samples: {parts}. A test split "
        "scatters around these. A row that is no better than sums of unimodal predictions has not fused; one that is "
        "better than all modalities together has seen the labels."
    ]


def _environments(board: Board) -> str:
    """Return the libraries and devices that were used, with the number of trials."""
    names = ("device", "python", "torch", "lightning", "torchmetrics", "numpy")
    used = Counter(
        ", ".join(f"{name} {record['environment'][name]}" for name in names if name in record["environment"])
        for record in board.records
    )
    return "; ".join(f"{escape(text)} ({count} trials)" for text, count in sorted(used.items()))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
