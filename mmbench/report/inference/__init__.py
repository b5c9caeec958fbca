"""What the records say of other seeds and of other test items: pure functions of arrays.

:func:`scores_of` makes a row's :class:`RowScores` from its predictions, :func:`estimates` an :class:`Estimate` of
each row of a table; all that a table says of them follows from estimates.
"""

from mmbench.report.inference.influence import Trials, scores_of
from mmbench.report.inference.intervals import (
    Differences,
    Inference,
    against,
    difference,
    differences,
    row_interval,
    these_samples_interval,
)
from mmbench.report.inference.scores import InferenceError, RowScores
from mmbench.report.inference.simultaneous import Comparison, compare_all
from mmbench.report.inference.variance import Estimate, estimates, interaction

__all__ = [
    "Comparison",
    "Differences",
    "Estimate",
    "Inference",
    "InferenceError",
    "RowScores",
    "Trials",
    "against",
    "compare_all",
    "difference",
    "differences",
    "estimates",
    "interaction",
    "row_interval",
    "scores_of",
    "these_samples_interval",
]
