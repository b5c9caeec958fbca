"""One trial, from its plan to its record."""

from __future__ import annotations

import dataclasses
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from data_modules import DataError, FusionDataModule
from data_modules.plugins import line_of
from mmbench import __version__
from mmbench.methods import FusionMethod, method
from mmbench.runner.calibration import calibration
from mmbench.runner.callbacks import DivergedError, SelectionModelCheckpoint
from mmbench.runner.code import code_hash
from mmbench.runner.contract import check_settings, checked, watched
from mmbench.runner.cost import parameters, peak_memory, reset_peak_memory
from mmbench.runner.distributed import SharedTraining, others
from mmbench.runner.environment import Tracker, environment
from mmbench.runner.facts import CardFacts, Cost, Failure, Selection, TaskFacts
from mmbench.runner.nodes import Nodes
from mmbench.runner.plan import Trial
from mmbench.runner.predictions import Predictions
from mmbench.runner.rank import Rank
from mmbench.runner.record import Record, plain
from mmbench.runner.records import Records
from mmbench.runner.training import Outcome, Training, build, fitting, quiet, train_and_test
from mmbench.runner.troubles import MachineError, TakenOver, machine_error

TAKEN = "Another process took the trial over, for this one had not been heard of for a while: its result counts."


def _exit(end: Record | MachineError) -> None:
    print(f"A process of a training has ended, so this one ends as well: {end}", file=sys.stderr, flush=True)
    os._exit(1)


def run_trial(
    trial: Trial,
    records: Records,
    runs: Path,
    *,
    tracker: Tracker = "csv",
    accelerator: str = "auto",
    media_workers: int | None = None,
    on_epoch: Callable[[int], None] = lambda epochs: None,
    still_mine: Callable[[], bool] = lambda: True,
    on_stuck: Callable[[Record | MachineError], None] = _exit,
    nodes: Nodes | None = None,
) -> Record:
    """Train, select on validation, read the test split once, and write the record.

    A trial whose method fails or diverges leaves a record too. An interrupted one leaves its last checkpoint under
    ``runs`` and continues from there the next time.

    Args:
        trial: What to run.
        records: Where the record goes.
        runs: Folder for checkpoints and logs.
        tracker: Where curves are logged while training, beside the table in CSV.
        accelerator: Lightning's accelerator.
        media_workers: Processes that load frames and waveforms; by default as many as the data module takes.
        on_epoch: Called with the number of finished epochs.
        still_mine: Asked after every epoch and before the record is written: whether nobody else has taken the trial
            over meanwhile.
        on_stuck: Called from another thread with how a trial over several devices ended, where this one waits in
            PyTorch for a process that has ended: it has to end this process.
        nodes: The other machines that it is spread over.

    Raises:
        MachineError: When the trial ended for a reason that is not the method's: it leaves no record.
    """
    planned, folder = describe(trial), runs / trial.id

    def finished(epochs: int) -> None:
        if not still_mine():
            raise TakenOver(TAKEN)
        on_epoch(epochs)

    def written(record: Record, predictions: Predictions | None = None) -> Record:
        if not still_mine():
            raise TakenOver(TAKEN)
        try:
            record = records.write(record, predictions)
        except OSError as error:
            trouble = machine_error(error)
            assert trouble is not None
            raise trouble from error
        (folder / SelectionModelCheckpoint.LAST).unlink(missing_ok=True)
        return record

    def stuck(error: Exception) -> None:
        try:
            end: Record | MachineError = written(_failed(planned, error))
        except Exception as trouble:  # whatever it is, nobody else would hear of it
            end = trouble if isinstance(trouble, MachineError) else MachineError(str(trouble), everything=False)
        on_stuck(end)

    try:
        with quiet(), _tracking(tracker):
            stamp = "/".join(map(str, (planned.code, trial.content, accelerator, *planned.environment.rounding)))
            shared = SharedTraining(trial, folder, stamp, accelerator, media_workers)
            result = _completed(shared, planned, tracker, finished, stuck, nodes)
    except SystemExit as error:  # how Lightning ends on Ctrl-C
        raise KeyboardInterrupt from error
    except Exception as error:  # a method that fails must not stop the others; what happened is in the record
        return written(_failed(planned, error))
    return written(*result)


def _failed(planned: Record, error: Exception) -> Record:
    """Return the record of a trial that ended with an error.

    Raises:
        MachineError: When its method is not to blame.
    """
    record = dataclasses.replace(planned, environment=environment())
    if isinstance(error, DivergedError):
        return dataclasses.replace(record, status="diverged", error=Failure("diverged", str(error)))
    if trouble := machine_error(error):
        raise trouble from error
    trace = tuple(_portable("".join(traceback.format_exception(error))).splitlines()[-12:])
    line = _portable(line_of(error, method(planned.method).__module__))
    return dataclasses.replace(
        record, error=Failure(type(error).__name__, f"{error} ({line})" if line else str(error), trace)
    )


def _portable(text: str) -> str:
    """Return a traceback without the folders of this machine."""
    for folder in (Path.cwd(), Path(__file__).parents[2], Path(sys.prefix), Path.home()):
        text = text.replace(f"{folder}{os.sep}", "")
    return text


@contextmanager
def _tracking(tracker: Tracker) -> Iterator[None]:
    """End the W&B run of a trial with the trial, however that ends: the next one gets its own."""
    try:
        yield
    finally:
        if tracker == "wandb":
            import wandb

            wandb.finish()


def describe(trial: Trial) -> Record:
    """Return the record of a trial of which nothing more is known than its plan: one that failed."""
    card = method(trial.method).card
    published = tuple(result for result in card.published if result.track == trial.track)
    plan = {item.name: getattr(trial, item.name) for item in dataclasses.fields(trial) if item.name != "path"}
    return Record(
        **plan,
        id=trial.id,
        status="failed",
        label=trial.label,
        version=__version__,
        card=CardFacts(card.title, card.year, card.fidelity, published),
        environment=environment(),
    )


def _completed(
    shared: SharedTraining,
    record: Record,
    tracker: Tracker,
    on_epoch: Callable[[int], None],
    stuck: Callable[[Exception], None],
    nodes: Nodes | None,
) -> tuple[Record, Predictions]:
    """Train and test, and return the full record and its predictions."""
    trial = shared.trial
    first = Rank.first(trial.devices, nodes.count, nodes.address) if nodes else Rank.first(trial.devices)
    data = _data(shared, first)
    data.store.verify_once()
    reset_peak_memory()
    check_settings(trial.method)
    cls = method(trial.method)
    with checked(cls, data.spec):
        model = build(cls, cls.Config.parse(trial.config), data.spec, trial.seed)

    def company(state: Path | None) -> AbstractContextManager[None]:
        gpus = shared.accelerator == "auto" and torch.cuda.is_available()
        told = dataclasses.replace(shared, accelerator="gpu" if gpus else shared.accelerator).going_on(state)
        return others(first, follow, told, stuck, nodes.processes(told, first) if nodes else ())

    with watched(model):
        outcome = train_and_test(
            model,
            data,
            Training(**trial.training),
            trial.seed,
            shared.folder,
            stamp=shared.stamp,
            logger=_loggers(trial, record, shared.folder, tracker),
            accelerator=shared.accelerator,
            on_epoch=on_epoch,
            rank=first,
            company=company,
        )
    return _with_result(record, model, data, outcome), _predictions(trial, data, outcome)


def follow(shared: SharedTraining, rank: Rank, ready: Callable[[], None]) -> None:
    """Train in another process than the first one of a training, which alone writes.

    Args:
        shared: What all its processes are told.
        rank: The place of this one.
        ready: Called when it is about to train.

    Raises:
        MachineError: When the code is not that of the plan.
    """
    trial = shared.trial
    if code_hash(trial.method, trial.dataset) != trial.code:
        raise MachineError("The code was edited while it ran: start again.", everything=True)
    shared.wait_for_state()
    data = _data(shared, rank)
    cls = method(trial.method)
    model = build(cls, cls.Config.parse(trial.config), data.spec, trial.seed)
    with quiet(), data.without_test(), watched(model):
        trainer, *_ = fitting(
            model,
            Training(**trial.training),
            trial.seed,
            shared.folder,
            stamp=shared.stamp,
            logger=False,
            accelerator=shared.accelerator,
            rank=rank,
        )
        ready()
        trainer.fit(model, data, ckpt_path=shared.state)


def _data(shared: SharedTraining, rank: Rank) -> FusionDataModule:
    """Return the data of a process, once it is known that its machine can train.

    Raises:
        MachineError: When it has too few GPUs.
        DataError: When the store is another one than the plan knows.
    """
    gpus = 0 if shared.accelerator == "cpu" else torch.cuda.device_count()
    if gpus < rank.per_node and (gpus or shared.accelerator == "gpu"):
        raise MachineError(
            f"It is to be spread over {rank.per_node} devices, and this process sees {gpus} GPUs: ask for more "
            "(--slurm.gres), or give fewer --devices.",
            everything=True,
        )
    trial = shared.trial
    config = method(trial.method).Config.parse(trial.config)
    data = trial.datamodule(config.batch_size // rank.world, shared.media_workers)
    if data.store.content != trial.content:
        raise DataError(f"{data.store.path} was replaced after the plan was made: start again.")
    return data


def _with_result(record: Record, model: FusionMethod, data: FusionDataModule, outcome: Outcome) -> Record:
    target = model.task.target
    thresholds = tuple(model.thresholds.tolist()) if target.kind == "multilabel" else ()
    memory, counted = peak_memory()
    metric = model.task.selection
    chosen = next(row for row in outcome.curve if row["epoch"] == outcome.epoch)
    epochs, seconds = len(outcome.curve), sum(outcome.seconds)
    return dataclasses.replace(
        record,
        status="completed",
        libraries=dict(data.store.libraries),
        environment=environment(outcome.device),
        task=TaskFacts(target.kind, target.names, target.metric_family, thresholds),
        features=data.spec.modalities,
        aligned=data.spec.aligned,
        instead=model.card.needs.substitutes(model.spec),
        selection=Selection(metric, outcome.mode, outcome.epoch, chosen[outcome.monitor]),
        test=plain(outcome.test),  # as in the file: what is not defined is None
        curve=plain(outcome.curve),
        calibration=calibration(target, outcome.validated, (outcome.prediction, outcome.target)),
        samples={split: len(rows) for split, rows in data.rows.items()},
        cost=Cost(parameters(model), epochs, seconds, seconds / epochs, memory, counted),
    )


def _predictions(trial: Trial, data: FusionDataModule, outcome: Outcome) -> Predictions:
    rows = outcome.index.numpy()
    count = len(rows)
    target, prediction = (
        part.detach().cpu().double().reshape(count, -1).numpy() for part in (outcome.target, outcome.prediction)
    )
    return Predictions(list(data.store.ids[rows]), list(data.store.groups[rows]), trial.fold, target, prediction)


def _loggers(trial: Trial, record: Record, folder: Path, tracker: Tracker) -> list[Logger]:
    """Return Lightning's loggers: the table in CSV always, and what was asked for beside it."""
    # A new version each start: a resumed run keeps the log of its first part.
    loggers: list[Logger] = [CSVLogger(folder, name="log")]
    if tracker == "wandb":
        offline = not os.environ.get("WANDB_API_KEY")
        folder.mkdir(parents=True, exist_ok=True)
        plan: dict[str, Any] = record.to_dict()
        loggers.append(WandbLogger(trial.title, folder, offline=offline, id=trial.id, project="mmbench", config=plan))
    if tracker == "tensorboard":
        loggers.append(TensorBoardLogger(folder, name="tensorboard"))
    return loggers
