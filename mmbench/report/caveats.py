"""Where a ranking says less than it seems to: data that decide it, mechanisms that have nothing to work on."""

from __future__ import annotations

from mmbench.report.boards import Board
from mmbench.report.rows import Row

DECIDED_BY_DATA = {
    "mosi/bclstm": "the text and vision vectors come from networks that were trained on the training videos, so "
    "validation looks better than test and selection is misled"
}
"""By data set and feature set the defect that reaches the ranking, for which no row is called the best."""

OVER_STEPS = ("cmga", "emt_dlfr", "lmr_cbt", "mcmult", "mult", "scalevlad")
"""Methods whose fusion works between the steps of two modalities."""
OF_MISSING = ("emt_dlfr",)
"""Methods whose mechanism is for inputs with something missing."""


def misleading(board: Board) -> str:
    """Return the defect of the data that reaches the ranking, empty for none that is known."""
    return DECIDED_BY_DATA.get("/".join(board.track.split("/")[:2]), "")


def idle_mechanism(row: Row) -> list[str]:
    """Return what the mechanism of a row's method has nothing to work on."""
    record = row.any_record
    found = []
    if row.method in OVER_STEPS and record.features:
        single = [name for name, modality in record.features.items() if modality.max_length == 1]
        if len(single) == len(record.features):
            found.append("its attention has one step per modality: nothing to align")
        elif single:
            found.append(f"attention to {' and '.join(sorted(single))} has one key")
    if row.method in OF_MISSING and not record.data.get("corruption"):
        found.append("nothing is missing that it could restore")
    return found
