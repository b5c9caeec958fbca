"""The page of a track: what it shows, the ranking, and below it everything that a sceptical reader asks for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

from data_modules import datasets
from mmbench.metrics import DESCRIPTIONS
from mmbench.report import cells
from mmbench.report.boards import Board
from mmbench.report.calibration import calibration
from mmbench.report.caveats import misleading
from mmbench.report.classes import classes
from mmbench.report.guide import GUIDE
from mmbench.report.markdown import NONE, code, escape, table
from mmbench.report.rows import Origin
from mmbench.report.shuffled import shuffled
from mmbench.report.standing import (
    BEST,
    around,
    costs,
    details,
    detectable,
    finding,
    pairs,
    ranking,
    references,
    refused,
)


def page(
    boards: Sequence[Board], everywhere: Iterable[Board], names: Mapping[str, str], links: Mapping[Origin, str]
) -> list[str]:
    """Return the lines of the page of one track.

    Args:
        boards: The track's boards, at least one.
        everywhere: The boards of all tracks.
        names: By track the name of its files without their endings.
        links: Where the records lie, from the folder of the page.
    """
    csv_name, everywhere = f"{names[boards[0].track]}.csv", list(everywhere)
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
        f"The same numbers with all digits: [{escape(csv_name)}]({quote(csv_name)}). "
        + (f"The trials and their predictions: {' and '.join(trials)}. " if trials else "")
        + "All tracks: [README.md](README.md).",
    ]
    if len(boards) > 1:
        lines += ["", f"The data of this track exist in {len(boards)} states; numbers of two are not comparable."]
    for board in boards:
        if len(boards) > 1:
            lines += ["", f"## Data {code(board.identity[:12])}"]
        lines += ["", " ".join(finding(board)), "", *_summary(board), "", "### Ranking", "", *ranking(board)]
        sections = {
            "Against the references": references(board),
            "Which rows are told apart": pairs(board),
            "One modality shuffled": shuffled(board, everywhere, names),
            "Metrics": _metrics(board, board.plain_metrics) if board.plain_metrics else [],
            "Classes": classes(board),
            "Calibration": calibration(board),
            "What the intervals are made of": details(board),
            "Costs": costs(board),
            "As reported elsewhere": _published(board),
            "How the numbers were made": _protocol(board),
            "Methods": _methods(board),
        }
        for heading, content in sections.items():
            if content:
                lines += ["", f"### {heading}", "", *content]
    return lines


def _summary(board: Board) -> list[str]:
    """Return what has to be known to read the ranking, in a few lines."""
    groups = _groups(board)
    lines = [f"- **Data** {code(board.identity[:12])}: {_samples(board)}{f'; {groups}' if groups else ''}."]
    lines += detectable(board) + refused(board)
    if board.judgement.intervals:
        lines.append(
            "- **Columns**: rank by the mean, with the ranks that it may have (all hold together with 95 %); mean ± "
            "deviation over seeds, and the 95 % interval over new seeds and new groups. "
            + ("" if misleading(board) else f"{BEST.strip()}: in the set of the best. ")
            + f"[How to read this]({GUIDE}.md)."
        )
    return lines


def _groups(board: Board) -> str:
    """Return how many groups the test samples come from."""
    for row in board.judgement.compared:
        scores = board.judgement.scores[row][board.metric]
        if scores.groups == _tested(board):
            return "the test samples name no groups: each stands for itself"
        return f"test samples of {cells.several(scores.groups, 'group')} (videos, speakers or dialogues)"
    return ""


def _tested(board: Board) -> int:
    """Return the number of test samples, of all folds together."""
    row = board.judgement.compared[0]
    seed = row.seeds[0]
    return sum(record.samples.get("test", 0) for (one, _), record in row.used.items() if one == seed)


def _protocol(board: Board) -> list[str]:
    """Return how the numbers of this board were made."""
    seeds = {seed for row in board.rows for seed, _ in row.records}
    folds = {fold for row in board.rows for _, fold in row.records}
    total = max(record.folds for record in board.records)
    lines = [*_features(board), *_defects(board), *_reachable(board)]
    if total > 1:
        lines.append(
            f"- **Folds**: {cells.ranges(folds)} of the {total} (0 to {total - 1}); a seed is the mean of its folds."
        )
    lines.append(f"- **Seeds**: {cells.ranges(seeds)}.")
    if board.metric:
        best = "highest" if board.higher else "lowest"
        lines.append(
            f"- **Selection**: of the epochs that count (those that only prepare do not), the one with the {best} "
            f"validation {code(board.metric)}; one epoch for all metrics. The test split is read once per trial, after "
            "selection. Rows are ranked by the same metric on test."
            + (" Decision thresholds are fitted on validation, too." if board.family == "multilabel" else "")
        )
    settings = ", ".join(code(f"{name}={_plain(value)}") for name, value in board.shared.items() if value is not None)
    lines += [
        f"- **Settings of all rows**, unless name or notes say otherwise: {settings}.",
        *_costs(board),
        f"- **Environment**: {_environments(board)}.",
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


def _metrics(board: Board, metrics: Sequence[str]) -> list[str]:
    """Return the definitions and a table of all metrics with their intervals."""
    info = DESCRIPTIONS.get(board.family, {})
    lines = [
        f"- {code(name)} {cells.arrow(board.higher_is_better(name))} {escape(info[name].description)}"
        for name in metrics
        if name in info
    ]
    intervals = {name: board.judgement.intervals_of(name) for name in metrics}
    rows = [
        [
            cells.rank(board, row),
            code(row.label),
            *(cells.mean_and_deviation(row.summary(name)) + around(intervals[name].get(row), row) for name in metrics),
        ]
        for row in board.rows
    ]
    heads = [f"{code(name)} {cells.arrow(board.higher_is_better(name))}" for name in metrics]
    return [*lines, "", *table(["rank", "method", *heads], rows, left=2)]


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
                    cells.mean_and_deviation(ours) + cells.interval(ours),
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
    dataset, feature_set = board.track.split("/")[:2]
    module = datasets().get(dataset)
    kinds = [record.task.kind for record in board.records if record.task]
    found = module.reachable(feature_set, kinds[0], board.metric) if module and kinds else {}
    if not found or any(record.data.get("corruption") for record in board.records):
        return []
    parts = "; ".join(f"{cells.number(value)} from {name}" for name, value in found.items())
    meanings = {
        "sums of unimodal predictions": "has not fused",
        "simultaneous steps without their order": "has not seen when things are said",
    }
    return [
        f"- **Best reachable** {code(board.metric)}, expected over all possible samples: {parts}. A test split "
        "scatters around these. "
        + "".join(f"A row that is no better than {name} {text}; " for name, text in meanings.items() if name in found)
        + "one that is better than all modalities together has seen the labels."
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
