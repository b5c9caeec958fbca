"""Which trials belong together: from records to the boards of all tracks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from data_modules import datasets
from mmbench.report.boards import Board, no_evidence
from mmbench.report.judgement import Evidence
from mmbench.report.markdown import printable
from mmbench.report.rows import YOURS, Origin, Row, of_code
from mmbench.report.values import commonest, short_hash
from mmbench.runner.costs import MethodCost, cost_key
from mmbench.runner.record import Record

EARLIER = ", earlier code"
"""What stands behind the label of own trials that the present code did not make."""
UNKNOWN = ", unknown code"
"""Likewise, where nobody noted which code did."""

Code = Callable[[str, str], str]
"""Hash of the present code of a method on a data set; may raise, or be empty, where one of them is gone."""

CostsByRow = Mapping[tuple[str, str, str], MethodCost]
"""By :func:`~mmbench.runner.costs.cost_key`."""

Present = Mapping[tuple[str, str], str | None]
"""By method and data set what :func:`present_code` returns."""


def boards(
    published: Iterable[Record],
    own: Iterable[Record] = (),
    code: Code | None = None,
    costs: CostsByRow | None = None,
    evidence: Evidence = no_evidence,
) -> list[Board]:
    """Return the boards of all tracks, by track and then by falling number of trials.

    Args:
        published: Published records in any order; one that occurs twice counts once.
        own: Records of the person who reads the tables, likewise.
        code: Hash of the present code of a method on a data set, for notes of what other code made.
        costs: What rows cost.
        evidence: Test predictions by record, for what rows show of each other.
    """
    unique = {
        (origin, record.track, record.id, record.code): record
        for origin, records in (("published", published), ("own", own))
        for record in records
    }
    codes: dict[tuple[str, str], set[str]] = {}
    for record in unique.values():
        again = [record.reproduced.code] if record.reproduced else []
        codes.setdefault((record.method, record.dataset), set()).update([record.code, *again])
    present = {keys: present_code(code, *keys, made) for keys, made in codes.items()}
    groups: dict[tuple[str, str], dict[Origin, list[Record]]] = {}
    for (origin, *_), record in sorted(unique.items()):
        group = groups.setdefault((record.track, record.identity), {"published": [], "own": []})
        group["published" if origin == "published" else "own"].append(record)
    made = [
        _board(track, identity, group, present, costs or {}, evidence) for (track, identity), group in groups.items()
    ]
    return sorted(made, key=lambda board: (board.track, -len(board.records), board.identity))


def present_code(code: Code | None, method: str, dataset: str, made: Collection[str]) -> str | None:
    """Return the hash of the present code, empty where there is none, None where nobody asked.

    Args:
        code: As in :func:`boards`.
        method: Key of the method.
        dataset: Key of the data set.
        made: Hashes of the code that made trials of the two. Where none is the present one and the data set is not
            known here, the code of a plug-in may be what is missing: then there is none.
    """
    if code is None:
        return None
    try:
        present = code(method, dataset)
        return present if present in made or dataset in datasets() else ""
    except Exception:  # whatever is wrong with the code, its numbers are still to be shown
        return ""


def _board(
    track: str,
    identity: str,
    by_origin: dict[Origin, list[Record]],
    present: Present,
    costs: CostsByRow,
    evidence: Evidence,
) -> Board:
    # What was published decides what is measured; own records of something else do not turn the table around.
    completed = [record for records in by_origin.values() for record in records if record.completed]
    deciding = [record for record in by_origin["published"] if record.completed] or completed
    metric, mode = commonest((r.selection.metric, r.selection.mode) for r in deciding if r.selection) or ("", "max")
    family = commonest(record.task.family for record in deciding if record.task) or ""
    groups: dict[tuple[Origin, str], list[Record]] = {}
    for origin, records in by_origin.items():
        for record in records:
            groups.setdefault((origin, _key(record, origin, present[record.method, record.dataset])), []).append(record)
    labels = {
        (origin, key): printable(commonest(record.label for record in group)) + _state(origin, group, present)
        for (origin, key), group in groups.items()
    }
    often = Counter((origin, label) for (origin, _), label in labels.items())
    rows = [
        Row(
            key,
            labels[origin, key]
            + (f" #{key}" if often[origin, labels[origin, key]] > 1 else "")
            + (YOURS if origin == "own" else ""),
            {record.cell: record for record in group},
            metric,
            origin,
            present[group[0].method, group[0].dataset],
            costs.get(_cost_key(group[0])),
        )
        for (origin, key), group in groups.items()
    ]
    return Board(track, identity, family, metric, mode == "max", _in_order(rows, mode == "max"), evidence)


def _cost_key(record: Record) -> tuple[str, str, str]:
    """Return what the cost of a record's row is found by."""
    return cost_key(record.track, record.method, record.config, record.training)


def _state(origin: Origin, group: Sequence[Record], present: Present) -> str:
    """Return what of a row's label says that the present code did not make one's own trials."""
    code = present[group[0].method, group[0].dataset]
    if origin != "own" or not code or of_code(group[0], code):  # a method that is not known here has no present code
        return ""
    return EARLIER if group[0].code else UNKNOWN


def _key(record: Record, origin: Origin, present: str | None) -> str:
    """Return the short hash of what all trials of a row share, beside the track and the data of their board.

    What was published is one row whatever code made it, for its table is what was published. Own trials that different
    code made are different rows, of one configuration too; one that was trained again has replaced its earlier self.
    """
    shared: list[object] = [record.method, record.config, record.data, record.training]
    if origin == "own":
        shared.append(present if present and of_code(record, present) else record.code)
    return short_hash(shared)


def _in_order(rows: Sequence[Row], higher: bool) -> list[Row]:
    def place(row: Row) -> tuple[int, float, str, str]:
        group = 0 if row.seeds else 1 if row.counted else 2
        value = 0.0 if group == 2 else row.mean
        return group, -value if higher else value, row.label, row.key

    return sorted(rows, key=place)
