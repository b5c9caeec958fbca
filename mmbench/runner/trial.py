"""One trial, from its plan to its record."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import platform
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from data_modules import DataError, FusionDataModule
from mmbench import __version__
from mmbench.methods import FusionMethod, method
from mmbench.runner.callbacks import BestEpoch, Curve, DivergedError, EpochSeed, Patience
from mmbench.runner.cost import parameters, peak_memory, reset_peak_memory
from mmbench.runner.plan import Trial
from mmbench.runner.records import SCHEMA, RecordDict, Records

Tracker = Literal["csv", "wandb"]
LIBRARIES = ("torch", "lightning", "torchmetrics", "numpy")


def run_trial(
    trial: Trial,
    records: Records,
    runs: Path,
    *,
    tracker: Tracker = "csv",
    accelerator: str = "auto",
    on_epoch: Callable[[int], None] = lambda epochs: None,
) -> RecordDict:
    """Train, select on validation, read the test split once, and write the record.

    A trial that fails or diverges leaves a record too. An interrupted one leaves its last checkpoint under ``runs`` and
    continues from there the next time.

    Args:
        trial: What to run.
        records: Where the record goes.
        runs: Folder for checkpoints and logs.
        tracker: Where curves are logged while training.
        accelerator: Lightning's accelerator.
        on_epoch: Called with the number of finished epochs.
    """
    record = describe(trial)
    predictions = None
    try:
        with quiet(), _tracking(tracker):
            result, predictions = _train_and_test(trial, runs / trial.id, tracker, accelerator, on_epoch)
        record.update(result, status="completed")
    except DivergedError as error:
        record.update(status="diverged", error={"type": "diverged", "message": str(error)})
    except SystemExit as error:  # how Lightning ends on Ctrl-C
        raise KeyboardInterrupt from error
    except Exception as error:  # a trial that fails must not stop the others; what happened is in the record
        trace = _portable(traceback.format_exc()).splitlines()[-12:]
        record.update(status="failed", error={"type": type(error).__name__, "message": str(error), "trace": trace})
    records.write(trial, record, predictions)
    return record


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


def describe(trial: Trial) -> RecordDict:
    """Return the part of a record that is known before the trial runs."""
    card = method(trial.method).card
    published = [dataclasses.asdict(result) for result in card.published if result.track == trial.track]
    plan = dataclasses.asdict(trial)
    del plan["path"]
    return {
        **plan,
        "schema": SCHEMA,
        "id": trial.id,
        "label": trial.label,
        "version": __version__,
        "card": {"title": card.title, "year": card.year, "fidelity": card.fidelity, "published": published},
        "task": {},
        "features": {},
        "aligned": False,
        "selection": {},
        "test": {},
        "curve": [],
        "cost": {},
        "samples": {},
        "environment": {
            **{name: version(name) for name in LIBRARIES},
            "python": platform.python_version(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
            "threads": torch.get_num_threads(),
        },
    }


def _train_and_test(
    trial: Trial, folder: Path, tracker: Tracker, accelerator: str, on_epoch: Callable[[int], None]
) -> tuple[RecordDict, dict[str, Any]]:
    pl.seed_everything(trial.seed, verbose=False)
    cls = method(trial.method)
    config = cls.Config.parse(trial.config)
    data = trial.datamodule(config.batch_size)
    data.test_locked = True
    if data.store.identity != trial.fingerprint:
        raise DataError(f"{data.store.path} was replaced after the plan was made: start again.")
    model = cls(data.spec, config=config)
    data.read_only(model.spec.modalities)
    selection = model.task.selection
    mode = "max" if model.valid_metric.higher_is_better_of(selection) else "min"
    monitor = f"valid/{selection}"
    curve = Curve(selection, on_epoch)
    checkpoint = BestEpoch(model.first_epoch, folder, "{epoch}", monitor=monitor, mode=mode)
    stop = Patience(model.first_epoch, monitor, mode=mode, patience=trial.training["patience"])
    reset_peak_memory()
    # Deterministic kernels are asked for, not that PyTorch writes NaN into all memory before it is used.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # set at run time
    trainer = _trainer(trial, folder, tracker, accelerator, [EpochSeed(trial.seed), curve, stop, checkpoint])
    _fit(trainer, model, data, folder / "last.ckpt")
    best = torch.load(checkpoint.best_model_path, weights_only=True, map_location="cpu")
    model.load_state_dict(best["state_dict"])
    data.test_locked = False
    trainer.test(model, data, verbose=False)
    prediction, target, index = model.test_metric.gathered()
    memory, counted = peak_memory()
    chosen = next(row for row in curve.rows if row["epoch"] == best["epoch"])
    test = model.test_metric.compute()
    if not math.isfinite(test[selection]):
        raise DivergedError(f"test/{selection} is {test[selection]}.")
    target_spec = model.task.target
    task: dict[str, Any] = {"kind": target_spec.kind, "names": target_spec.names, "family": target_spec.metrics}
    if target_spec.kind == "multilabel":
        task["thresholds"] = model.thresholds.tolist()
    result = {
        "task": task,
        "features": {name: dataclasses.asdict(modality) for name, modality in data.spec.modalities.items()},
        "aligned": data.spec.aligned,
        "instead": cls.card.needs.instead(model.spec),
        "selection": {"metric": selection, "mode": mode, "epoch": best["epoch"], "value": chosen[monitor]},
        "test": test,
        "curve": curve.rows,
        "samples": {split: len(rows) for split, rows in data.rows.items()},
        "cost": {
            "parameters": parameters(model),
            "epochs": len(curve.rows),
            "seconds": sum(curve.seconds),
            "seconds_per_epoch": sum(curve.seconds) / len(curve.seconds),
            "peak_memory": memory,
            "peak_memory_of": counted,
        },
    }
    (folder / "last.ckpt").unlink(missing_ok=True)
    return result, {"ids": data.store.ids[index.numpy()], "target": target, "prediction": prediction}


def _fit(trainer: pl.Trainer, model: FusionMethod, data: FusionDataModule, last: Path) -> None:
    """Train, from the last checkpoint if there is a readable one."""
    if last.is_file():
        try:
            torch.load(last, weights_only=True, map_location="cpu")
        except Exception:  # cut off by a kill in the middle of writing: start again
            shutil.rmtree(last.parent)
    trainer.fit(model, data, ckpt_path=last if last.is_file() else None)


def _trainer(trial: Trial, folder: Path, tracker: Tracker, accelerator: str, callbacks: list[Callback]) -> pl.Trainer:
    logger: Logger = CSVLogger(
        folder, name="log"
    )  # a new version each start: a resumed run keeps the log of its first part
    if tracker == "wandb":
        offline = not os.environ.get("WANDB_API_KEY")
        folder.mkdir(parents=True, exist_ok=True)
        logger = WandbLogger(
            trial.title, folder, offline=offline, id=trial.id, project="mmbench", config=describe(trial)
        )
    return pl.Trainer(
        accelerator=accelerator,
        devices=1,
        max_epochs=trial.training["max_epochs"],
        precision=trial.training["precision"],
        callbacks=callbacks,
        logger=logger,
        deterministic="warn",
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's hardware banner and the advice that does not hold here; everything else is still shown."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for text in (
            ".*Checkpoint directory.*exists and is not empty.*",
            ".*smaller than the logging interval.*",
            ".*in eval mode at the start of training.*",
        ):
            warnings.filterwarnings("ignore", message=text)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="lightning")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        yield
    log.setLevel(level)
