"""Tasks: losses against formulas, and groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax

from data_modules import Batch, TargetSpec
from mmbench.metrics import METRICS
from mmbench.tasks import SELECTION, Task

RNG = np.random.default_rng(0)


def batch(target: torch.Tensor, mask: torch.Tensor | None = None) -> Batch:
    return Batch({}, target, torch.arange(target.shape[0]), target_mask=mask)


def test_regression_loss_is_the_mean_absolute_error() -> None:
    task = Task(TargetSpec("regression", ("sentiment",)))
    prediction, target = torch.tensor([[1.0], [-2.0], [0.5]]), torch.tensor([0.0, -1.0, 3.0])
    assert task.outputs == 1
    assert task.loss(prediction, batch(target)).item() == pytest.approx((1 + 1 + 2.5) / 3)


def test_multiclass_loss_is_the_mean_negative_log_likelihood() -> None:
    task = Task(TargetSpec("multiclass", ("a", "b", "c")))
    logits, target = RNG.normal(size=(5, 3)), np.array([0, 2, 1, 1, 0])
    expected = -log_softmax(logits, axis=1)[np.arange(5), target].mean()
    assert task.loss(torch.tensor(logits), batch(torch.tensor(target))).item() == pytest.approx(expected)


def test_multilabel_loss_is_the_mean_binary_cross_entropy() -> None:
    task = Task(TargetSpec("multilabel", ("a", "b")))
    logits, target = RNG.normal(size=(4, 2)), np.array([[0, 1], [1, 1], [0, 0], [1, 0]], float)
    expected = -(target * np.log(expit(logits)) + (1 - target) * np.log(expit(-logits))).mean()
    assert task.outputs == 2
    assert task.loss(torch.tensor(logits), batch(torch.tensor(target))).item() == pytest.approx(expected)


def test_binary_loss_is_the_cross_entropy_of_all_two_way_problems() -> None:
    task = Task(TargetSpec("binary", ("a", "b", "c")))
    logits, target = RNG.normal(size=(4, 6)), RNG.integers(0, 2, size=(4, 3))
    pairs = log_softmax(logits.reshape(4, 3, 2), axis=2)
    expected = -np.take_along_axis(pairs, target[..., None], 2).mean()
    assert task.outputs == 6
    assert task.loss(torch.tensor(logits), batch(torch.tensor(target))).item() == pytest.approx(expected)


def test_padding_of_dialogues_is_not_scored() -> None:
    task = Task(TargetSpec("multiclass", ("a", "b")))
    mask = torch.tensor([[True, True, False], [True, False, False]])
    logits, target = torch.randn(2, 3, 2), torch.zeros(2, 3, dtype=torch.long)
    loss = task.loss(logits, Batch({}, target, torch.arange(6).reshape(2, 3), target_mask=mask))
    logits[~mask] = 100.0
    assert task.loss(logits, Batch({}, target, torch.arange(6).reshape(2, 3), target_mask=mask)) == loss


@pytest.mark.parametrize("kind", ["regression", "multiclass", "multilabel", "binary"])
def test_losses_of_single_labels_have_the_shape_of_the_labels(kind: str) -> None:
    """Their mean over real utterances is the loss; those of padding are there and count for nothing."""
    task = Task(TargetSpec(kind, ("a", "b", "c")[: 1 if kind == "regression" else 3]))
    mask = torch.tensor([[True, True, False], [True, False, False]])
    shape = (2, 3) if kind in ("regression", "multiclass") else (2, 3, 3)
    target = torch.from_numpy(RNG.integers(0, 2, shape)).to(torch.float32 if kind == "regression" else torch.long)
    prediction = torch.randn(2, 3, task.outputs)
    labels = Batch({}, target, torch.arange(6).reshape(2, 3), target_mask=mask)
    losses = task.loss(prediction, labels, reduction="none")
    assert losses.shape == target.shape
    torch.testing.assert_close(losses[mask].mean(), task.loss(prediction, labels))


def test_groups_are_signs_classes_or_the_only_positive_label() -> None:
    def groups(kind: str, target: torch.Tensor) -> list[int]:
        return Task(TargetSpec(kind, ("a", "b", "c"))).groups(batch(target)).tolist()

    assert groups("regression", torch.tensor([-1.0, 0.0, 2.0, -0.0])) == [0, -1, 1, -1]
    assert groups("multiclass", torch.tensor([2, 0])) == [2, 0]
    for kind in ("multilabel", "binary"):
        assert groups(kind, torch.tensor([[0, 1, 0], [0, 0, 0], [1, 0, 1]])) == [1, -1, -1]


def test_the_selecting_metric_of_each_family_exists() -> None:
    for family, name in SELECTION.items():
        assert name in METRICS[family].info
