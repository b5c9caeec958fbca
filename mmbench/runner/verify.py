"""Whether records are what they say: in their place, whole, and with the scores that their predictions give."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter, defaultdict
from dataclasses import astuple
from pathlib import Path

import torch

from mmbench.metrics import MultilabelMetric, build_metric
from mmbench.metrics.calibration import BINS, reliability
from mmbench.runner.plan import DECIDES, trial_id
from mmbench.runner.predictions import Predictions, PredictionsError, read_predictions
from mmbench.runner.record import Record, RecordError, digest_of
from mmbench.runner.records import PREDICTIONS, Records, predictions_path, read_record
from mmbench.tasks import SELECTION

TOLERANCE = 1e-5
"""Largest difference of a metric and the one that the predictions give."""


def verify_file(path: Path) -> Record:
    """Return the record in a file if all that it says holds.

    Raises:
        RecordError: When something does not; the message says what.
    """
    try:
        return _verified(path)
    except RecordError:
        raise
    except Exception as error:  # one bad file must never hide the others
        raise RecordError(f"it cannot be checked ({type(error).__name__}: {error})") from error


def _verified(path: Path) -> Record:
    record = read_record(path)
    if record.digest != digest_of(json.loads(path.read_bytes())):
        raise RecordError("it was changed after it was written: its digest is not that of its content")
    if trial_id({name: getattr(record, name) for name in DECIDES}) != record.id:
        raise RecordError("its id is not that of its content")
    if record.completed:
        try:
            predictions, digest = read_predictions(predictions_path(path))
        except PredictionsError as error:
            raise RecordError(str(error)) from error
        if digest != record.predictions:
            raise RecordError("its predictions are not those that it was written with")
        _check(record, predictions)
    return record


def _check(record: Record, predictions: Predictions) -> None:
    """Compare a completed record with its predictions and with its curve."""
    assert record.selection is not None
    if len(predictions.ids) != record.samples["test"]:
        raise RecordError(f"it has {len(predictions.ids)} predictions for {record.samples['test']} test samples")
    if repeated := [name for name, count in Counter(predictions.ids).items() if count > 1]:
        raise RecordError(f"the sample {repeated[0]!r} was predicted twice")
    if predictions.fold != record.fold:
        raise RecordError(f"it is of fold {record.fold} and its predictions are of fold {predictions.fold}")
    found = recompute(record, predictions)
    if found.keys() != record.test.keys():
        raise RecordError(f"it has the metrics {', '.join(record.test)}, its predictions give {', '.join(found)}")
    for name, value in found.items():
        stored = record.test[name]
        same = math.isnan(value) if stored is None else abs(stored - value) <= TOLERANCE
        if not same:
            raise RecordError(f"its {name} is {stored}, its predictions give {value:.9g}")
    _check_selection(record)
    _check_reliability(record, predictions)


def _check_selection(record: Record) -> None:
    """Compare what was selected with the curve and with the metrics of the task."""
    assert record.task is not None
    assert record.selection is not None
    assert record.cost is not None
    chosen, metric = record.selection, record.selection.metric
    higher = build_metric(record.task.family, record.task.names).higher_is_better_of(metric)
    if metric != SELECTION[record.task.family] or (chosen.mode == "max") != higher:
        raise RecordError(f"{record.task.family} targets are not selected by the {chosen.mode} of {metric}")
    if [row.get("epoch") for row in record.curve] != list(range(record.cost.epochs)):
        raise RecordError(f"its curve does not have the {record.cost.epochs} epochs that it cost, each once")
    values = [row.get(f"valid/{metric}") for row in record.curve]
    if not 0 <= chosen.epoch < len(values) or values[chosen.epoch] != chosen.value:
        raise RecordError("its curve does not have the epoch and the value that it says were selected")
    # Epochs before it may be better: they prepare in some methods.
    later = [value for value in values[chosen.epoch + 1 :] if value is not None]
    if any(value > chosen.value if higher else value < chosen.value for value in later):
        raise RecordError("a later epoch of its curve is better than the one that it says was selected")


def _check_reliability(record: Record, predictions: Predictions) -> None:
    """Compare the bins of the confidence with those of the predictions."""
    noted = record.calibration.reliability if record.calibration else ()
    if not noted:
        return
    prediction, target = (torch.from_numpy(part) for part in (predictions.prediction, predictions.target))
    found = [astuple(one) for one in reliability(prediction.float(), target[:, 0].long())]
    if torch.tensor(noted).shape != (BINS, 3) or not torch.allclose(
        torch.tensor(noted).double(), torch.tensor(found).double(), rtol=0, atol=TOLERANCE
    ):
        raise RecordError("its reliability diagram is not that of its predictions")


def recompute(record: Record, predictions: Predictions) -> dict[str, float]:
    """Return the test metrics that the predictions give, NaN where one is undefined."""
    assert record.task is not None
    target = torch.from_numpy(predictions.target).float()
    metric = build_metric(record.task.family, record.task.names)
    if isinstance(metric, MultilabelMetric):
        metric.thresholds = torch.tensor(record.task.thresholds)
    metric.update(
        torch.from_numpy(predictions.prediction).float(),
        target if record.task.kind == "regression" else target.long(),
        torch.arange(len(target)),
    )
    return metric.compute()


def _samples(predictions: Predictions) -> str:
    """Return a digest of what was tested: samples, groups and targets."""
    what = (predictions.ids, predictions.groups, predictions.target.tolist())
    return hashlib.sha256(repr(what).encode()).hexdigest()


def verify(records: Records) -> tuple[list[Record], list[str]]:
    """Return the records of a folder that hold, in the order of their paths, and one line per file that does not.

    Predictions that belong to no record are named too, and records of other test samples or targets than most records
    of the same fold of the same data.
    """
    found, problems, tested = [], [], defaultdict(list)
    for path in records.paths():
        try:
            record = records.placed(path, verify_file(path))
        except RecordError as error:
            problems.append(f"{path}: {error}; left out. Remove the file and run the trial again.")
            continue
        found.append(record)
        if record.completed:
            samples = _samples(read_predictions(predictions_path(path))[0])
            tested[record.track, record.identity, record.fold].append((samples, record))
    for group in tested.values():
        usual = Counter(samples for samples, _ in group).most_common(1)[0][0]
        for record in (record for samples, record in group if samples != usual):
            found.remove(record)
            problems.append(
                f"{records.path(record)}: its test samples or their targets are not those of the other records of "
                "these data; left out. Remove the file and run the trial again."
            )
    problems += [
        f"{path}: predictions without a record; left out. Remove the file."
        for path in records.files(PREDICTIONS)
        if not path.with_suffix("").with_suffix(".json").is_file()
    ]
    return found, problems
