"""Whether two trainings of one trial came out the same, in four words.

- *equal*: the same number to 1e-6 of its size. Float32 carries seven digits, so what is closer is printed the same.
- *within rounding*: the two shared libraries, kind of device and threads, and differ by no more than sums in another
  order make of them: 1e-4 of the size, or, where a number counts samples, one sample that fell to the other side.
- *as far as another seed*: a further seed of the published row would lie there as well, by the 99 % prediction interval
  over its seeds. Its width allows for the spread of one seed, which an interval of the mean does not; 99 %, because a
  trial has about ten numbers, of which one in twenty would often be outside by chance.
- *cannot be judged*: farther apart than rounding explains, and with too few seeds to know how far seeds lie apart.
- *differs*: farther than another seed, or a result on one side only.

A trial's word is that of its worst number. The epoch that was selected is told and not judged: where two epochs are
about equally good, rounding decides between them, and the number of the epoch says nothing of how close they were.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from mmbench.metrics import DESCRIPTIONS
from mmbench.report.rows import complete_seeds, defined
from mmbench.report.statistics import another
from mmbench.runner.record import Record

Word = Literal["equal", "within rounding", "as far as another seed", "cannot be judged", "differs"]
WORDS: tuple[Word, ...] = get_args(Word)
"""From the best to the worst."""

EQUAL = 1e-6
"""Relative difference up to which two numbers are equal."""

ROUNDING = 1e-4
"""Relative difference that rounding explains after a training."""

SEED_LEVEL = 0.99
"""Share of further seeds that lie in the interval."""

_COUNTS = re.compile(r"\b(accuracy|recall|F1)\b")
"""What is said of a metric that is a share of counted samples."""


@dataclass(frozen=True)
class Difference:
    """One number of two trainings.

    Attributes:
        name: Test metric; ``valid/<metric>`` of the selected epoch; ``epoch``; or ``status``.
        ours: The number of the new training, None where it has none.
        theirs: The number of the published one.
        difference: Ours minus theirs, None where one is missing.
        word: Which of the words holds; None for what is told and not judged.
    """

    name: str
    ours: float | None
    theirs: float | None
    difference: float | None
    word: Word | None

    @property
    def relative(self) -> float:
        """The size of the difference relative to the larger number, 0 where there is none."""
        if not self.difference or self.ours is None or self.theirs is None:
            return 0.0
        return abs(self.difference) / max(abs(self.ours), abs(self.theirs))


def compare_trials(ours: Record, theirs: Record, row: Sequence[Record]) -> list[Difference]:
    """Return what became of every number of a trial: the test metrics, then value and epoch of the selection.

    A metric that only one of the two knows, because the code knows more than before, is told and not judged.

    Args:
        ours: The new training.
        theirs: The published one.
        row: All published trials of the row that it belongs to.
    """
    if not (ours.completed and theirs.completed):
        same = ours.status == theirs.status
        return [Difference("status", None, None, None, "equal" if same else "differs")]
    assert ours.selection is not None
    assert theirs.selection is not None
    found = []
    fold = _same_fold(row, theirs)
    for name in list(dict.fromkeys([*theirs.test, *ours.test])):
        a, b = ours.test.get(name), theirs.test.get(name)
        judged = name in ours.test and name in theirs.test
        if not judged and name not in (ours.selection.metric, theirs.selection.metric):
            found.append(_difference(name, a, b, None))
            continue
        spread = [record.test.get(name) for record in fold]
        found.append(_difference(name, a, b, _word(a, b, spread, _tolerance(name, "test", ours, theirs))))
    if ours.selection.metric == theirs.selection.metric:
        name, a, b = ours.selection.metric, ours.selection.value, theirs.selection.value
        spread = [record.selection.value for record in fold if record.selection]
        word = _word(a, b, spread, _tolerance(name, "valid", ours, theirs))
        found.append(_difference(f"valid/{name}", a, b, word))
    found.append(_difference("epoch", ours.selection.epoch, theirs.selection.epoch, None))
    return found


def worst(differences: Iterable[Difference]) -> Word:
    """Return the word of a trial: that of its worst number."""
    return max((item.word for item in differences if item.word), key=WORDS.index, default="equal")


def largest(differences: Iterable[Difference]) -> float:
    """Return the largest relative difference of a test metric that is judged."""
    return max((item.relative for item in differences if item.word and not item.name.startswith("valid/")), default=0.0)


def counts_samples(family: str, metric: str) -> bool:
    """Return whether a metric is a share of counted samples: accuracies, recalls and F1.

    Told by its description, where each of them is called what it is; calibration, errors and correlations are none.
    """
    info = DESCRIPTIONS.get(family, {}).get(metric.partition("/")[0])
    return bool(info and _COUNTS.search(info.description))


def one_sample(record: Record, metric: str, split: str) -> float:
    """Return how far one sample of a split can move a metric that counts samples, 0 for one that does not.

    ``1/N`` of an accuracy. Twice that of an F1, in which a sample leaves one class and joins another, and of what
    leaves samples out, whose number the record does not know. Of a single class, which is taken to hold its even share
    of the samples, as many times more as there are classes.
    """
    if record.task is None or not counts_samples(record.task.family, metric) or not record.samples.get(split):
        return 0.0
    base, _, name = metric.partition("/")
    description = DESCRIPTIONS[record.task.family][base].description
    twice = 2 if "F1" in description or "left out" in description else 1
    classes = len(record.task.names) if name and record.task.kind == "multiclass" else 1
    return twice * classes / record.samples[split]


def _same_fold(row: Sequence[Record], theirs: Record) -> list[Record]:
    """Return a row's trials on the same fold, of its whole seeds."""
    cells = {record.cell: record for record in row if record.completed}
    seeds = complete_seeds(cells, theirs.folds)
    return [cells[seed, theirs.fold] for seed in seeds if (seed, theirs.fold) in cells]


def _tolerance(metric: str, split: str, ours: Record, theirs: Record) -> Callable[[float, float], float] | None:
    """Return how far rounding may carry two numbers apart; None where it explains nothing."""
    same = ours.environment.rounding == theirs.environment.rounding
    if not same or not all(ours.environment.rounding):
        return None
    sample = min(one_sample(ours, metric, split), one_sample(theirs, metric, split))
    # A share is a quotient in floating point: one sample's worth is met up to its last digits.
    return lambda a, b: max(ROUNDING * max(abs(a), abs(b)), sample * (1 + EQUAL))


def _word(
    ours: float | None,
    theirs: float | None,
    spread: Sequence[float | None],
    tolerance: Callable[[float, float], float] | None,
) -> Word:
    if not defined(ours) or not defined(theirs):
        return "differs" if defined(ours) or defined(theirs) else "equal"
    apart = abs(ours - theirs)
    if apart <= EQUAL * max(abs(ours), abs(theirs)):
        return "equal"
    if tolerance and apart <= tolerance(ours, theirs):
        return "within rounding"
    interval = another([value for value in spread if defined(value)], SEED_LEVEL)
    if interval is None:
        return "cannot be judged"
    return "as far as another seed" if interval[0] <= ours <= interval[1] else "differs"


def _difference(name: str, ours: float | None, theirs: float | None, word: Word | None) -> Difference:
    return Difference(name, ours, theirs, ours - theirs if ours is not None and theirs is not None else None, word)
