"""Scores of a method: over whole splits, at the end of validation and test."""

from __future__ import annotations

from lightning.pytorch import LightningModule
from torch import Tensor

from data_modules.schema import Batch
from mmbench.metrics import SplitMetric, fit_thresholds
from mmbench.tasks import Task


class Scored(LightningModule):
    """A module whose ``forward`` gives predictions, which are collected, scored and logged.

    Attributes:
        task: What is predicted.
        valid_metric: Predictions of the validation split so far.
        test_metric: Those of the test split.
        thresholds: Of multi-label targets, ``(outputs,)``, fitted on validation.
    """

    task: Task
    valid_metric: SplitMetric
    test_metric: SplitMetric
    thresholds: Tensor

    def _evaluate(self, batch: Batch, metric: SplitMetric) -> None:
        metric.update(*self.task.flatten(self(batch).prediction, batch))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect predictions; scores are computed over the whole split."""
        self._evaluate(batch, self.valid_metric)

    def on_validation_epoch_end(self) -> None:
        """Fit thresholds (multi-label) and log ``valid/<metric>``."""
        if self.task.target.kind == "multilabel":
            prediction, target, _ = self.valid_metric.gathered()
            self.thresholds.copy_(fit_thresholds(prediction, target))
        self._score("valid", self.valid_metric)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect predictions; scores are computed over the whole split."""
        self._evaluate(batch, self.test_metric)

    def on_test_epoch_end(self) -> None:
        """Log ``test/<metric>``; the predictions stay readable in ``test_metric`` until the next test."""
        self._score("test", self.test_metric, reset=False)

    def on_test_epoch_start(self) -> None:
        """Forget the predictions of an earlier test."""
        self.test_metric.reset()

    def _score(self, split: str, metric: SplitMetric, reset: bool = True) -> None:
        if self.task.target.kind == "multilabel":
            metric.thresholds = self.thresholds
        self.log_dict({f"{split}/{name}": value for name, value in metric.compute().items()}, sync_dist=True)
        if reset:
            metric.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Return the rows in the store and the raw predictions of what a batch predicts, without padding."""
        prediction, _, index = self.task.flatten(self(batch).prediction, batch)
        return index, prediction
