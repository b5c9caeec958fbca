"""How scores fall as inputs go missing: the boards of one track at several rates, and the area under their curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from mmbench.metrics import auilc
from mmbench.report import cells
from mmbench.report.boards import Board
from mmbench.report.markdown import NONE, code, table
from mmbench.report.rows import Row
from mmbench.report.values import short_hash

PREFIX = "missing-steps"
"""How the part of a track's name begins that says the rate."""


@dataclass(frozen=True)
class Sweep:
    """One track at several rates of missing steps.

    Attributes:
        track: The track without anything missing.
        boards: The board of each rate, in order of the rates.
    """

    track: str
    boards: dict[float, Board]

    @property
    def first(self) -> Board:
        """The board of the lowest rate."""
        return next(iter(self.boards.values()))

    @property
    def name(self) -> str:
        """The name of its page, as if it were a track."""
        return f"{self.track}+{PREFIX}-curve"

    def curves(self) -> list[dict[float, Row]]:
        """Return by rate the rows of each configuration that at least two rates have, in order of the first board."""
        found: dict[str, dict[float, Row]] = {}
        for rate, board in self.boards.items():
            for row in board.rows:
                found.setdefault(configuration(row), {})[rate] = row
        return [rows for rows in found.values() if len(rows) > 1]

    def area(self, rows: dict[float, Row], metric: str) -> float | None:
        """Return the area under the curve of a metric's mean; None unless every rate has one."""
        values = [mean(rows.get(rate), metric) for rate in self.boards]
        known = [value for value in values if value is not None]
        return auilc(list(self.boards), known) if len(known) == len(values) else None


def configuration(row: Row) -> str:
    """Return what the rows of all rates share that make one curve."""
    record = row.any_record
    code = record.code if row.own else None  # what was published is one row whatever code made it
    return short_hash([record.label, record.method, record.config, record.training, code])


def mean(row: Row | None, metric: str) -> float | None:
    """Return the mean over whole seeds of a row in which nothing went wrong."""
    summary = row.summary(metric) if row is not None and row.seeds and not row.troubles else None
    return summary.mean if summary else None


def sweeps(boards: Iterable[Board]) -> list[Sweep]:
    """Return the tracks of which boards with the same data exist at two or more rates, by name."""
    groups: dict[tuple[str, str], dict[float, Board]] = {}
    for board in boards:
        parts = [part for part in board.track.split("+") if not part.startswith(PREFIX)]
        groups.setdefault(("+".join(parts), board.identity), {})[_rate(board)] = board
    return [Sweep(track, dict(sorted(found.items()))) for (track, _), found in sorted(groups.items()) if len(found) > 1]


def _rate(board: Board) -> float:
    """Return the share of missing steps of a board."""
    corruption = board.records[0].data.get("corruption")
    steps = corruption.get("steps") if isinstance(corruption, Mapping) else None
    return float(steps) if isinstance(steps, int | float) else 0.0


def sweep_page(sweep: Sweep, names: dict[str, str]) -> list[str]:
    """Return the lines of the page of a sweep.

    Args:
        sweep: The sweep.
        names: File name without ending by track.
    """
    metric, curves = sweep.first.metric, sweep.curves()
    links = ", ".join(f"[{rate:g}]({quote(names[board.track])}.md)" for rate, board in sweep.boards.items())
    lines = [
        f"# {code(sweep.track)} with missing steps",
        "",
        f"At each rate of missing steps a method is trained, selected and tested on data of that rate: {links}. A step "
        "that is missing at one rate is missing at every higher one, the same for all methods. Values are means over "
        "seeds and folds; AUILC is the area under the curve through them (trapezoidal rule over the rates of this "
        f"page, not divided by their range). `{NONE}`: a trial failed, or no seed has all of its folds.",
    ]
    if not curves:
        return [*lines, "", "No configuration was tried at two rates."]

    def cell(value: float | None) -> str:
        return NONE if value is None else cells.number(value)

    labels = [code(next(iter(rows.values())).label) for rows in curves]
    body = [
        [name, cell(sweep.area(rows, metric)), *(cell(mean(rows.get(rate), metric)) for rate in sweep.boards)]
        for name, rows in zip(labels, curves, strict=True)
    ]
    heads = ["method", "AUILC", *(f"{rate:g}" for rate in sweep.boards)]
    lines += ["", f"## {code(metric)} {cells.arrow(sweep.first.higher)}", "", *table(heads, body)]
    plain = sweep.first.plain_metrics
    areas = [
        [name, *(cell(sweep.area(rows, item)) for item in plain)] for name, rows in zip(labels, curves, strict=True)
    ]
    return [*lines, "", "## AUILC of all metrics", "", *table(["method", *map(code, plain)], areas)]
