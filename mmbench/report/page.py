"""The page of a track: how its numbers were made, the ranking, all metrics, and what others report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from data_modules import datasets
from mmbench.methods.card import FIDELITY
from mmbench.metrics import DESCRIPTIONS
from mmbench.report import cells
from mmbench.report.boards import FEWEST_FOR_OUTLIER, Board
from mmbench.report.markdown import NONE, code, escape, table
from mmbench.report.notes import notes
from mmbench.report.rows import FEWEST_SEEDS, Origin, Row
from mmbench.report.statistics import FEWEST_PAIRS, LEVEL


def page(boards: Sequence[Board], csv_name: str, links: Mapping[Origin, str]) -> list[str]:
    """Return the lines of the page of one track.

    Args:
        boards: The track's boards, at least one.
        csv_name: The file with the same numbers unrounded.
        links: Where the records lie, from the folder of the page.
    """
    track = boards[0].track
    origins = {row.origin for board in boards for row in board.rows}
    trials = [
        f"[{escape(f'{links[origin]}/{track}')}]({quote(f'{links[origin]}/{track}')})"
        for origin in ("published", "own")
        if origin in origins and origin in links
    ]
    lines = [
        f"# {code(track)}",
        "",
        f"The same numbers unrounded: [{escape(csv_name)}]({quote(csv_name)}). "
        + (f"The trials and their predictions: {' and '.join(trials)}. " if trials else "")
        + "All tracks: [README.md](README.md).",
    ]
    if len(boards) > 1:
        lines += ["", f"The data of this track exist in {len(boards)} states; numbers of two are not comparable."]
    for board in boards:
        lines += ["", f"## Data {code(board.identity[:12])}", "", *_protocol(board)]
        lines += ["", "### Ranking", "", *_ranking(board)]
        if board.plain_metrics:
            lines += ["", "### Metrics", "", *_metrics(board, board.plain_metrics)]
        if published := _published(board):
            lines += ["", "### As reported elsewhere", "", *published]
        lines += ["", "### Methods", "", *_methods(board)]
    return lines


def _protocol(board: Board) -> list[str]:
    """Return how the numbers were made and what the columns mean."""
    seeds = {seed for row in board.rows for seed, _ in row.records}
    folds = {fold for row in board.rows for _, fold in row.records}
    total = max(record.folds for record in board.records)
    splits = f"; folds {cells.ranges(folds)} of the {total} (0 to {total - 1})" if total > 1 else ""
    lines = [
        f"- **Samples**: {_samples(board)}{splits}.",
        *_features(board),
        *_defects(board),
        *_reachable(board),
        f"- **Seeds**: {cells.ranges(seeds)}. Rows may have different numbers of seeds; `n` counts those of which "
        "every fold has a result.",
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
        f"- **Settings of all rows**, unless name or notes say otherwise: {settings}. `patience` is the number of "
        "epochs without gain on validation after which training stops."
    )
    lines += _spread(board, total)
    kinds = {row.card.fidelity for row in board.rows}
    lines += [
        f"- **Fidelity**: {'; '.join(f'`{kind}`: {text}' for kind, text in FIDELITY.items() if kind in kinds)}.",
        f"- **Ranked** are rows with {FEWEST_SEEDS} seeds or more of which no trial failed or diverged. The others "
        f"stand in the same order without a rank, those without a whole seed after them. `{NONE}`: not measured, or "
        "not defined in every trial (the correlation of a constant).",
        *_costs(board),
        "- **Epoch**: median of the selected epochs, the first being 0.",
        f"- **Environment**: {_environments(board)}.",
        "- **Notes**: *no better than the constant*: its mean is not better than that of the constant prediction; *not "
        f"shown to beat* it: the paired test gives p of at least {1 - LEVEL:.2f}. *Far ahead*: the best row leads by "
        f"more than all others span, given {FEWEST_FOR_OUTLIER} rows or more beside the constant. *Epoch limit (k/n)*: "
        "in k of n trials the last allowed epoch was the best, so longer training might do better. *On audio features "
        "(for waveform)*: the method was built for the kind in brackets; the row is its form for the other. *Sees the "
        "whole dialogue*: each utterance is predicted with those around it, those after it too. *Made by earlier "
        "code*: the method or what it stands on has changed since; *unknown code*: nobody noted which; *reproduced*: "
        "the present code was trained anew and "
        "gave the same numbers, or differences that rounding explains.",
    ]
    return lines


def _costs(board: Board) -> list[str]:
    """Return how costs were measured, and on what."""
    measured = [row.cost for row in board.rows if row.cost]
    if not measured:
        return ["- **Cost**: trained parameters; `mmbench cost` measures the rest."]
    places = [cost.environment for cost in measured]
    machines = Counter(f"{one.device}, {cells.several(one.threads, 'thread')}, torch {one.torch}" for one in places)
    text = "; ".join(f"{escape(name)} ({cells.several(count, 'row')})" for name, count in sorted(machines.items()))
    alone = all(cost.alone for cost in measured)
    beside = "" if alone else " An asterisk: beside other work, so the time is too long."
    return [
        "- **Cost**, measured by `mmbench cost` in a new process per row with nothing else running, never from "
        "trainings: trained parameters; millions of multiply-accumulates to predict a sample; seconds of an epoch "
        "(training and validation) and to predict 1,000 samples in batches of the training's size; by how much memory "
        f"training grows, of CUDA tensors (`cuda`) or of the `process`. On {text}.{beside}"
    ]


def _spread(board: Board, folds: int) -> list[str]:
    """Return what stands behind means, deviations, intervals and tests."""
    per_seed = ", the mean over its folds" if folds > 1 else ""
    level = f"{LEVEL:.0%}".replace("%", " %")
    lines = []
    if any(len(row.seeds) > 1 for row in board.rows):
        lines.append(
            f"- **mean ± deviation [interval]** over seeds: one value per seed{per_seed}; population standard "
            f"deviation (`ddof=0`); {level} interval of the mean by Student's t with n - 1 degrees of freedom. The "
            "interval says how far the mean would move with other seeds; it does not cover the choice of test samples."
        )
    if any(len(row.seeds) == 1 for row in board.rows):
        lines.append(
            f"- **One seed** (n=1): one value{per_seed}; no deviation, no interval, and no difference that can be "
            "trusted." + (" Folds are no seeds: their spread says nothing of other seeds." if folds > 1 else "")
        )
    if any(row.used and not row.seeds for row in board.rows):
        lines.append("- **No whole seed**: the mean over the folds that are there, which does not compare with others.")
    if len(board.ranked) > 1:
        lines.append(
            "- **p (best)**: two-sided paired t-test against the best row over the same seeds and folds, adjusted for "
            f"the number of rows (Holm). `≈` marks rows that are not distinguishable from the best (p at least "
            f"{1 - LEVEL:.2f}); `?` stands for fewer than {FEWEST_PAIRS} common trials, too few to tell."
            + (" Trials of one fold share data, so small values are optimistic." if folds > 1 else "")
        )
    return lines


def _ranking(board: Board) -> list[str]:
    published = any(_values(row, board.metric) for row in board.rows)
    tested = len(board.ranked) > 1
    heads = ["rank", "method", "fidelity", "n", f"{code(board.metric) if board.metric else 'metric'}"]
    heads[-1] += f" {cells.arrow(board.higher)}" if board.metric else ""
    heads += ["published"] * published
    heads += ["p (best)"] * tested
    heads += [*cells.COST, "epoch", "notes"]
    rows = []
    for row in board.rows:
        epoch = cells.selected_epoch(row)
        rows.append(
            [
                cells.rank(board, row),
                code(row.label),
                row.card.fidelity,
                str(len(row.seeds)),
                _primary(board, row),
                *([" / ".join(cells.number(value) for value in _values(row, board.metric)) or NONE] * published),
                *([cells.against_best(board, row)] * tested),
                *cells.cost(row),
                NONE if epoch is None else f"{epoch:g}",
                escape("; ".join(notes(board, row))),
            ]
        )
    return table(heads, rows, left=3)


def _primary(board: Board, row: Row) -> str:
    summary = row.summary(board.metric)
    text = cells.spread(summary)
    return (f"**{text}**" if row is board.best else text) + cells.interval(summary)


def _metrics(board: Board, metrics: Sequence[str]) -> list[str]:
    """Return the definitions and a table of all metrics, the best ranked row of each in bold."""
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
            texts.append(f"**{text}**" if row.ranked and summary and shown == leading[name] else text)
        rows.append([cells.rank(board, row), code(row.label), *texts])
    heads = [f"{code(name)} {cells.arrow(board.higher_is_better(name))}" for name in metrics]
    return [*lines, "", *table(["rank", "method", *heads], rows, left=2)]


def _leading(board: Board, metric: str) -> str | None:
    """Return the best mean of the ranked rows as it is shown."""
    higher = board.higher_is_better(metric)
    means = [summary.mean for row in board.ranked if (summary := row.summary(metric))]
    return cells.number((max if higher else min)(means)) if means and higher is not None else None


def _values(row: Row, metric: str) -> list[float]:
    """Return what others report of a metric."""
    return [result.value for result in row.card.published if result.metric == metric]


def _published(board: Board) -> list[str]:
    rows = []
    for row in board.rows:
        for result in row.card.published:
            ours = row.summary(result.metric)
            rows.append(
                [
                    code(row.label),
                    code(result.metric),
                    escape(result.source),
                    cells.number(result.value),
                    cells.spread(ours) + cells.interval(ours),
                    cells.number(ours.mean - result.value, "+") if ours else NONE,
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
    return [f"- {code(key)}: {escape(card.title)}, {card.year}" for key, card in sorted(cards.items())]


def _samples(board: Board) -> str:
    """Return the samples per split, as a range when folds differ."""
    found: dict[str, set[int]] = {}
    for record in board.records:
        for split, count in record.samples.items():
            found.setdefault(split, set()).add(count)
    order = [split for split in ("train", "valid", "test") if split in found]
    parts = [
        f"{split} {' to '.join(f'{n:,}' for n in sorted({min(found[split]), max(found[split])}))}" for split in order
    ]
    return ", ".join(parts) or "unknown, for no trial was completed"


def _features(board: Board) -> list[str]:
    """Return what the inputs are: width, longest sequence and extractor of each modality."""
    record = next((record for record in board.records if record.features), None)
    if record is None:
        return []
    parts = [
        f"{escape(name)} {item.dim:,} wide, up to {item.max_length:,} steps"
        + (f" ({escape(item.source)})" if item.source else "")
        for name, item in record.features.items()
    ]
    return [f"- **Features**: {'; '.join(parts)}; {'aligned in time' if record.aligned else 'not aligned'}."]


def _defects(board: Board) -> list[str]:
    """Return what the data set's card says is wrong with it."""
    module = datasets().get(board.track.split("/")[0])
    return [f"- **Known defects of the data**: {escape(module.card.defects)}"] if module and module.card else []


def _reachable(board: Board) -> list[str]:
    """Return the best reachable values of the selecting metric where the data are made so that they are known."""
    module = datasets().get(board.track.split("/")[0])
    kinds = [record.task.kind for record in board.records if record.task]
    found = module.reachable(kinds[0], board.metric) if module and kinds else {}
    if not found or any(record.data.get("corruption") for record in board.records):
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
        ", ".join(f"{name} {value}" for name in names if (value := getattr(record.environment, name)))
        for record in board.records
    )
    return "; ".join(f"{escape(text)} ({cells.several(count, 'trial')})" for text, count in sorted(used.items()))


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
