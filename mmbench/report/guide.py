"""The page that says how to read the others: what each number means, and how it was computed."""

from __future__ import annotations

from mmbench.methods.card import FIDELITY
from mmbench.report.boards import FEWEST_FOR_OUTLIER
from mmbench.report.judgement import REFERENCES
from mmbench.report.markdown import NONE, code
from mmbench.report.rows import FEWEST_SEEDS

GUIDE = "how-to-read"
"""Name of the page without its ending."""

TEXT = """# How to read the tables

A table answers one question: would this row still be better than that one with other seeds, and on other people?

## The ranking

- **rank**: by the mean over seeds of the metric that also selects the epoch on validation, on the test split. Ranked
  are rows with {seeds} whole seeds or more (a result in every fold) of which no trial failed or diverged; the others
  stand in the same order without a rank, those without a whole seed after them.
- **ranks**: those that the row may have, given which rows are shown better and worse than it. All intervals of a table
  hold together with a probability of 95 %. A row of unstable seeds has a wide one.
- **◆**: the set of the best, the rows that are not shown worse than any other. It holds the truly best row with a
  probability of at least 95 %. Within it, the order says nothing. It answers one question per row where ranks answer
  one per pair, so it is smaller: a row whose ranks begin at 1 may be outside.
- **mean ± deviation**: over seeds, one value per seed, the mean over its folds; sample deviation (`ddof=1`).
- **\\[low, high]** behind it: 95 % interval of the mean over new seeds and new groups of test samples (videos,
  speakers, dialogues; a sample without a group stands for itself). `n=1`: one seed, of which no interval can be given.
  Folds are no seeds; with folds the interval is for new people and these training folds.
- **fidelity**: {fidelity}.
- `{none}`: not measured, or not defined in every trial (the correlation of a constant).

## Differences

- **Against the references** ({references}; of unimodal rows the best on validation): row minus reference with its 95 %
  interval, and a p-value adjusted for the number of rows (Holm). They were chosen before anybody looked.
- **Which rows are told apart**: all pairs at one level of 5 % together. What is not told apart may still differ, by
  about the smallest difference that stands above the table, or less.
- Seeds of two methods share nothing, so their variances add up; test samples are the same, so differences are taken
  sample by sample and summed by group. The variance over seeds has a floor from all rows, for that of a few seeds is
  sometimes tiny by luck. Degrees of freedom are Satterthwaite's, and groups of unequal size count as fewer; the level
  for all pairs comes from the largest of all differences in 100,000 draws (step-down: Romano and Wolf 2005); rank
  intervals are those of Mogstad, Romano, Shaikh and Wilhelm (2024).
- In simulated tables of 2 to 26 rows that do not differ, of three or five seeds each, some pair was told apart in at
  most 6.3 % of the tables; intervals of differences covered the true one in 95.6 to 97.3 %, intervals of rows in 94.4
  to 97.5 %, and in 88 to 96 % where values are strongly skewed.
- **These test samples**: the interval over new seeds alone (Student's t), which answers a smaller question.

## Calibration

- **ECE** is the mean gap between confidence and accuracy over 15 bins of the confidence, weighted by their samples.
  Even a perfectly calibrated classifier has one, its **floor** on average (over independent samples), because a bin
  holds few samples: only what clearly exceeds it says something. A *temperature* divides the logits; it is fitted on
  validation and changes no predicted class.
- For regression, an interval of one **width** around every prediction is to cover 90 % of new samples. Half of it is
  the 90th percentile of the absolute errors on validation (split conformal); the **coverage** is counted on test.

## Notes of rows

- *No better than the constant*: its mean is not better than that of the constant prediction; *not shown to beat* it:
  the difference is not told from zero. *Far ahead*: the best row leads by more than all others span, given {outlier}
  rows or more beside the constant.
- *Epoch limit (k/n)*: k of n trainings were ended by the largest number of epochs, not because validation got no
  better; longer training might do better.
- *On audio features (for waveform)*: the method was built for the kind in brackets; the row is its form for the other.
  *Sees the whole dialogue*: each utterance is predicted with those around it, those after it too.
- *Its attention has one step per modality*, *attention to ... has one key*, *nothing is missing that it could restore*:
  the mechanism that the method is known for has nothing to work on in these data.
- *Made by earlier code*: the method or what it stands on has changed since; *unknown code*: nobody noted which;
  *reproduced*: the present code was trained anew and gave the same numbers, or differences that rounding explains.

## Costs

Measured by `mmbench cost`, each row in a process of its own with nothing else running, never from trainings: trained
parameters; millions of multiply-accumulates (MMAC) of matrix products and convolutions to predict a sample; seconds of
an epoch (training and validation) and to predict 1,000 samples in batches of the training's size; by how much memory
training grows, of CUDA tensors (`cuda`) or of the `process`; median of the selected epochs, the first being 0."""


def guide() -> list[str]:
    """Return the lines of the page."""
    return TEXT.format(
        seeds=FEWEST_SEEDS,
        fidelity="; ".join(f"`{kind}`: {text}" for kind, text in FIDELITY.items()),
        none=NONE,
        references=", ".join(map(code, REFERENCES)),
        outlier=FEWEST_FOR_OUTLIER,
    ).split("\n")
