"""The table of how far the confidences and the values of rows can be trusted."""

from __future__ import annotations

from mmbench.metrics.calibration import LEVEL
from mmbench.report import cells
from mmbench.report.boards import Board
from mmbench.report.markdown import NONE, code, table
from mmbench.report.trust import Trust


def calibration(board: Board) -> list[str]:
    """Return the table of a board; nothing where nothing is known."""
    found = {row: known for row, known in board.trusts.items() if known != Trust()}
    if not found:
        return []
    if any(known.ece is not None for known in found.values()):
        heads = ["ECE", "floor", "temperature", "ECE after", "floor after"]
        names = ["ece", "ece_floor", "temperature", "ece_scaled", "ece_scaled_floor"]
        text = (
            "Expected calibration error over all test samples of a seed, and the floor that a perfectly calibrated "
            "classifier with the same confidences would be charged with on average; after division of the logits by a "
            f"temperature that was fitted on validation, where a record has it ({NONE}: it was not noted)."
        )
    else:
        heads, names = ["width", "coverage"], ["interval_width", "interval_coverage"]
        text = (
            f"Intervals around predictions that are to cover {LEVEL:.0%} of new samples: their width comes from "
            "validation (split conformal), the coverage is that of the test samples. It scatters around the share by "
            "chance (by 2 to 4 points for some hundred samples), and is a little lower since validation also selected "
            "the epoch; only what is clearly lower says that the test samples are unlike those of validation."
        )
    rows = [[code(row.label), *(cells.number(getattr(known, name)) for name in names)] for row, known in found.items()]
    return [text, "", *table(["method", *heads], rows)]
