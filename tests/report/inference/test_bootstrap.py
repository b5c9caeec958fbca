"""Which rows of the published tables are told apart, against a hierarchical bootstrap over groups and seeds.

Nothing of :mod:`mmbench.report.inference` takes part in it: it draws groups of test samples and seeds of each row with
replacement, recomputes means, and compares all differences with the largest of the draws, step by step (Romano and Wolf
2005). It has no floor for the variance of seeds and no degrees of freedom, so pairs near the limit may differ.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from mmbench.report.evidence import evidence_of
from mmbench.report.grouping import boards
from mmbench.report.rows import Row
from mmbench.runner.records import Records

ROOT = Path(__file__).parents[3] / "leaderboard" / "records"
DRAWS = 4000
NEAR = 0.2
"""How near to the limit a pair may be that is judged otherwise, as a share of the limit."""
COLLAPSED = 5
"""Times the usual deviation over seeds from which on a row is left out: one of five seeds failed to learn, and of how
often that happens a bootstrap of five knows nothing."""

Array = npt.NDArray[np.float64]


def apart(errors: list[Array], counts: Array) -> tuple[npt.NDArray[np.bool_], Array]:
    """Return which rows the bootstrap tells apart, ``(K, K)``, and how near each pair is to its limit, as its share.

    Args:
        errors: Of each row ``(n, G)``, sums of the absolute errors of each seed over each group.
        counts: ``(G,)`` items of each group.
    """
    generator = np.random.default_rng(7)
    groups = generator.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=DRAWS)
    means = []
    for sums in errors:
        n = len(sums)
        values = groups @ sums.T / (groups @ counts)[:, None]  # of every seed on the drawn groups
        chosen = np.take_along_axis(values, generator.integers(0, n, (DRAWS, n)), 1)
        middle = values.mean(1)
        means.append(middle + np.sqrt(n / (n - 1)) * (chosen.mean(1) - middle))
    drawn = np.stack(means, 1)
    truth = np.array([sums.sum(1).mean() / counts.sum() for sums in errors])
    i, j = np.triu_indices(len(errors), 1)
    spread = drawn[:, i] - drawn[:, j]
    scale = spread.std(0)
    scale[scale == 0] = np.inf  # two rows that are the same
    found = np.abs(truth[i] - truth[j]) / scale
    noise = np.abs(spread - spread.mean(0)) / scale
    shown, limit = np.zeros(len(found), dtype=bool), np.full(len(found), np.inf)
    while (left := ~shown).any():
        bound = np.quantile(noise[:, left].max(1), 0.95)
        limit[left] = bound
        new = left & (found > bound)
        if not new.any():
            break
        shown |= new
    result, share = np.zeros((len(errors),) * 2, dtype=bool), np.zeros((len(errors),) * 2)
    result[i, j] = result[j, i] = shown
    share[i, j] = share[j, i] = found / limit
    return result, share


@pytest.mark.parametrize("track", ["mosi/bclstm/videos62-31", "synthetic/regression/standard"])
def test_pairs_that_are_told_apart_are_those_of_a_bootstrap(track: str) -> None:
    source = Records(ROOT, {track})
    evidence = evidence_of([source])
    (board,) = boards(source.load()[0], evidence=evidence)
    assert board.metric == "mae"
    judged = board.judgement
    spreads = {row: np.std(row.values("mae"), ddof=1) for row in judged.compared}
    rows = [row for row, spread in spreads.items() if spread <= COLLAPSED * np.median(list(spreads.values()))]
    assert len(judged.compared) - len(rows) <= 2

    first = evidence(next(iter(rows[0].used.values())))
    names = first.groups if any(first.groups) else first.ids
    _, place, counts = np.unique(names, return_inverse=True, return_counts=True)

    def sums(row: Row) -> Array:
        tables = [evidence(record) for record in row.used.values()]
        assert all(one.ids == first.ids for one in tables)
        return np.stack([np.bincount(place, np.abs(one.prediction - one.target)[:, 0]) for one in tables])

    shown, share = apart([sums(row) for row in rows], counts.astype(float))
    ours = np.array([[judged.better(a, b) or judged.better(b, a) for b in rows] for a in rows])
    differ = [
        (rows[a].label, rows[b].label, float(share[a, b]))
        for a, b in zip(*np.nonzero(np.triu(shown != ours)), strict=True)
    ]
    assert ours.sum() > 100  # it is a test: many pairs are told apart, and many are not
    assert (~ours).sum() > 100
    assert [pair for pair in differ if abs(pair[2] - 1) > NEAR] == []
