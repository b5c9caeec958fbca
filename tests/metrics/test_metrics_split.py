"""Collecting a split: batches, order, duplicates, two processes."""

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from mmbench.metrics import (
    DESCRIPTIONS,
    METRICS,
    SENTIMENT_LEGACY_INFO,
    SplitMetric,
    affect_metrics,
    binary_metrics,
    build_metric,
    multiclass_metrics,
    multilabel_metrics,
    sentiment_legacy_metrics,
    sentiment_metrics,
    sims_metrics,
)
from mmbench.metrics.families import MultilabelMetric

NAMES = ("a", "b", "c")
PURE: dict[str, Callable[[Tensor, Tensor], dict[str, float]]] = {
    "sentiment": sentiment_metrics,
    "sims": sims_metrics,
    "multiclass": lambda p, y: multiclass_metrics(p, y, NAMES),
    "multilabel": lambda p, y: multilabel_metrics(p, y, NAMES, torch.full((3,), 0.5)),
    "binary": lambda p, y: binary_metrics(p, y, NAMES),
    "affect": lambda p, y: affect_metrics(p, y, NAMES),
}


def split(family: str, rows: int = 11) -> tuple[Tensor, Tensor]:
    """An odd number of random samples; no value repeats, so a lost or doubled sample changes every mean."""
    rng = torch.Generator().manual_seed(5)
    widths: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
        "sentiment": ((), ()),
        "sims": ((), ()),
        "multiclass": ((3,), ()),
        "multilabel": ((3,), (3,)),
        "binary": ((6,), (3,)),
        "affect": ((3,), (3,)),
    }
    prediction_tail, target_tail = widths[family]
    prediction = torch.randn(rows, *prediction_tail, generator=rng)
    if family in ("sentiment", "sims", "affect"):
        return prediction, torch.randn(rows, *target_tail, generator=rng)
    return prediction, torch.randint(0, 2 if target_tail else 3, (rows, *target_tail), generator=rng)


def same(values: dict[str, float]) -> object:
    return pytest.approx(values, rel=0, abs=0, nan_ok=True)


def test_every_family_of_the_data_contract_has_a_metric() -> None:
    from data_modules.schema import MetricFamily  # here, so that spawned processes need not load the data floor

    assert set(METRICS) == set(get_args(MetricFamily))


@pytest.mark.parametrize("family", METRICS)
def test_batches_in_any_order_with_repeats_score_as_the_whole_split(family: str) -> None:
    prediction, target = split(family)
    metric = build_metric(family, NAMES)
    for rows in ([9, 2, 10], [0], [4, 4, 1, 9], [8, 3, 7, 6, 5, 2]):
        metric.update(prediction[rows], target[rows], torch.tensor(rows))
    assert metric.compute() == same(PURE[family](prediction, target))
    for ours, theirs in zip(metric.gathered(), (prediction, target, torch.arange(11)), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("family", METRICS)
def test_every_value_is_described(family: str) -> None:
    values = PURE[family](*split(family))
    assert {name.partition("/")[0] for name in values} == set(DESCRIPTIONS[family])
    assert all(info.description for info in DESCRIPTIONS[family].values())
    assert all(isinstance(value, float) for value in values.values())


def test_legacy_values_are_described() -> None:
    assert list(sentiment_legacy_metrics(*split("sentiment"))) == list(SENTIMENT_LEGACY_INFO)


def test_direction() -> None:
    assert not build_metric("sentiment", NAMES).higher_is_better_of("mae")
    assert build_metric("multilabel", NAMES).higher_is_better_of("f1_pos/a")
    assert not build_metric("multiclass", NAMES).higher_is_better_of("ece")
    lower = {name for infos in DESCRIPTIONS.values() for name, info in infos.items() if not info.higher_is_better}
    assert lower == {"mae", "ece", "mce", "brier", "nll"}


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(("prediction_tail", "target_tail"), [((1,), ()), ((), (1,)), ((1,), (1,))])
@pytest.mark.parametrize("family", ["sentiment", "affect"])
def test_one_column_is_a_vector(
    family: str, prediction_tail: tuple[int, ...], target_tail: tuple[int, ...], rows: int
) -> None:
    prediction, target = split("sentiment", rows)
    metric = build_metric(family, ("only",))
    metric.update(prediction.view(rows, *prediction_tail), target.view(rows, *target_tail), torch.arange(rows))
    plain = build_metric(family, ("only",))
    plain.update(prediction, target, torch.arange(rows))
    assert metric.compute() == same(plain.compute())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    prediction, target = split("multilabel")
    metric = build_metric("multilabel", NAMES)
    metric.update(prediction.to(dtype).requires_grad_(), target, torch.arange(11))
    gathered, _, _ = metric.gathered()
    assert gathered.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert not gathered.requires_grad
    assert torch.equal(gathered, prediction.to(dtype).to(gathered.dtype))


def test_shapes_are_checked_at_update() -> None:
    metric = build_metric("multilabel", NAMES)
    with pytest.raises(ValueError, match=r"got prediction \(4, 2\) and target \(4, 3\)"):
        metric.update(torch.zeros(4, 2), torch.zeros(4, 3), torch.arange(4))
    with pytest.raises(ValueError, match=r"got prediction \(4, 3\) and target \(3, 3\)"):
        metric.update(torch.zeros(4, 3), torch.zeros(3, 3), torch.arange(4))
    with pytest.raises(ValueError, match=r"expected index \(4,\), got \(3,\)"):
        metric.update(torch.zeros(4, 3), torch.zeros(4, 3), torch.arange(3))
    with pytest.raises(ValueError, match=r"got prediction \(4, 2\) and target \(4,\)"):
        build_metric("sentiment", ("x",)).update(torch.zeros(4, 2), torch.zeros(4), torch.arange(4))


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")  # torchmetrics warns before we refuse
def test_empty_split_is_refused() -> None:
    metric = build_metric("sentiment", ("x",))
    with pytest.raises(ValueError, match="empty split"):
        metric.compute()
    with pytest.raises(ValueError, match="empty split"):
        metric.gathered()
    metric.update(*split("sentiment"), torch.arange(11))
    metric.reset()
    with pytest.raises(ValueError, match="empty split"):
        metric.gathered()


def test_index_that_identifies_no_sample_is_refused() -> None:
    metric = build_metric("multiclass", NAMES)
    metric.update(torch.zeros(3, 3), torch.tensor([0, 1, 2]), torch.tensor([7, 7, 8]))
    with pytest.raises(ValueError, match="one index has two targets"):
        metric.gathered()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("family", METRICS)
def test_diverged_predictions_score_nan(family: str, bad: float) -> None:
    prediction, target = split(family)
    prediction.flatten()[3] = bad
    metric = build_metric(family, NAMES)
    metric.update(prediction, target, torch.arange(11))
    values = metric.compute()
    assert values.keys() == PURE[family](*split(family)).keys()
    assert all(math.isnan(value) for value in values.values())


def test_thresholds_count_from_the_moment_they_are_set() -> None:
    prediction, target = split("multilabel")
    metric = build_metric("multilabel", NAMES)
    assert isinstance(metric, MultilabelMetric)
    metric.update(prediction, target, torch.arange(11))
    before = metric.compute()
    metric.thresholds = torch.tensor([0.2, 0.3, 0.8])
    assert metric.compute() == same(multilabel_metrics(prediction, target, NAMES, metric.thresholds))
    assert metric.compute() != same(before)
    metric.reset()
    assert metric.thresholds.tolist() == pytest.approx([0.2, 0.3, 0.8])


def test_unknown_family_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"no metric family 'fid'; there are sentiment, sims"):
        build_metric("fid", NAMES)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda metric: pickle.loads(pickle.dumps(metric))])
def test_copies_keep_their_samples(duplicate: Callable[[SplitMetric], SplitMetric]) -> None:
    metric = build_metric("affect", NAMES)
    metric.update(*split("affect"), torch.arange(11))
    assert duplicate(metric).compute() == same(metric.compute())


SHARDS = {
    "uneven": ([10, 0, 3, 5, 7, 1], [2, 9, 4, 8, 6]),
    "padded": ([0, 2, 4, 6, 8, 10], [1, 3, 5, 7, 9, 0]),
    "all on one": ([10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0], []),
}
"""Samples of process 0 and 1; a distributed sampler without padding, with it, and a split smaller than the world."""


def process(rank: int, folder: Path) -> None:
    """Score every family on this process's shard and store what it was told about the whole split."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results = {}
    for family in METRICS:
        prediction, target = split(family)
        for name, shards in SHARDS.items():
            metric = build_metric(family, NAMES)
            for rows in torch.tensor(shards[rank], dtype=torch.long).split(4):
                if len(rows):
                    metric.update(prediction[rows], target[rows], rows)
            results[family, name] = metric.compute(), metric.gathered()
            assert sum(map(len, metric.index)) == len(shards[rank])  # its own samples again, ready for more
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_score_as_one(tmp_path: Path) -> None:
    mp.spawn(process, args=(tmp_path,), nprocs=2)
    for rank in (0, 1):
        results = torch.load(tmp_path / f"{rank}.pt")
        assert set(results) == {(family, name) for family in METRICS for name in SHARDS}
        for (family, _), (values, gathered) in results.items():
            prediction, target = split(family)
            assert values == same(PURE[family](prediction, target))
            for ours, theirs in zip(gathered, (prediction, target, torch.arange(11)), strict=True):
                assert torch.equal(ours, theirs)
                assert ours.dtype == theirs.dtype
