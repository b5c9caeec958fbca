"""Callbacks that make a trial repeatable and readable afterwards."""

from __future__ import annotations

import io
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping
from lightning.pytorch.plugins.io import TorchCheckpointIO

from data_modules.files import atomic_path
from mmbench.methods import FusionMethod
from mmbench.runner.interruption import heed


class DivergedError(RuntimeError):
    """The loss or the selecting metric is no longer a number."""


class EpochSeed(Callback):
    """Seeds every epoch by (seed, epoch), so that a resumed run draws the same numbers as an uninterrupted one.

    Args:
        seed: Seed of the training.
        rank: Which of its processes this is; each draws numbers of its own.
    """

    def __init__(self, seed: int, rank: int = 0) -> None:
        self.seed, self.rank = seed, rank

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Seed the generators that dropout and sampling draw from."""
        pl.seed_everything((self.seed * 10_007 + trainer.current_epoch + self.rank * 15_485_863) % 2**32, verbose=False)


class OwnTermination(Callback):
    """Keeps what this process does when it is told to end, and sees to it that it does.

    At SIGTERM Lightning would have it tell the other processes of its training by a broadcast, and wait for them where
    they do not come by.
    """

    def __init__(self) -> None:
        self._handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the handler back: Lightning's is there by now."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """End if this process was told so and nobody noticed."""
        heed()

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """End if this process was told so and nobody noticed."""
        heed()


class TrainingHistory(Callback):
    """Keeps the terms of the loss and the validation metrics of every epoch, across restarts.

    Args:
        selection: Name of the metric that selects.
        on_epoch: Called with the number of finished epochs.

    Raises:
        DivergedError: When a term of the loss or the selecting metric is not a number.
    """

    def __init__(self, selection: str, on_epoch: Callable[[int], None] = lambda epochs: None) -> None:
        self.selection, self.on_epoch = selection, on_epoch
        self.rows: list[dict[str, Any]] = []
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the epoch."""
        assert isinstance(pl_module, FusionMethod)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._start)
        train = {f"train/{name}": value for name, value in pl_module.terms().items()}
        valid = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("valid/")}
        self.rows.append({"epoch": trainer.current_epoch, **train, **valid})
        for name, value in {**train, f"valid/{self.selection}": valid[f"valid/{self.selection}"]}.items():
            if not math.isfinite(value):
                raise DivergedError(f"{name} is {value} after epoch {trainer.current_epoch}.")
        self.on_epoch(len(self.rows))

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart needs."""
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after a restart."""
        self.rows, self.seconds = state_dict["rows"], state_dict["seconds"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints that are either whole or not there, written where they stay: never by way of another file system."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write a checkpoint beside its place, then move it there."""
        packed = io.BytesIO()  # so that a full disk is an OSError that says so, not one of torch's own
        torch.save(checkpoint, packed)
        with atomic_path(Path(path)) as part:
            part.write_bytes(packed.getbuffer())


def best_checkpoint(folder: Path, epoch: int) -> Path:
    """Return where a trial keeps the weights of the epoch that was selected."""
    return folder / f"epoch={epoch}.ckpt"


class FromFirstEpoch:
    """What does not look at epochs of preparation.

    Attributes:
        first_epoch: The first epoch that counts.
    """

    first_epoch: int

    def counts(self, trainer: pl.Trainer) -> bool:
        """Say whether the present epoch counts."""
        return trainer.current_epoch >= self.first_epoch


class SelectionModelCheckpoint(FromFirstEpoch, Checkpoint):
    """Keeps the weights of the best epoch, and the whole state of the last one, from which a restart continues.

    The state is saved after every epoch, once a minute where saving takes long. A best epoch is removed only when a
    state that no longer needs it is saved, so that the files of a run that was killed at any time fit together. Epochs
    that prepare are never the best.

    Args:
        first_epoch: The first epoch that counts.
        folder: Where the files go.
        monitor: The metric that selects.
        mode: ``min`` or ``max``.
        stamp: Names the code and the data; a state with another stamp is not continued.
    """

    LAST = "last.ckpt"
    SLOW = 1.0
    """Seconds from which on saving takes long."""
    INTERVAL = 60.0
    """Seconds between two states where it does."""

    def __init__(
        self, first_epoch: int, folder: Path, *, monitor: str, mode: Literal["min", "max"], stamp: str
    ) -> None:
        self.first_epoch, self.folder, self.monitor, self.mode, self.stamp = first_epoch, folder, monitor, mode, stamp
        self.epoch, self.value = -1, math.nan
        self._due, self._saved, self._took = False, -math.inf, 0.0

    @property
    def last(self) -> Path:
        """Where the state of the last epoch is."""
        return self.folder / self.LAST

    @property
    def best(self) -> Path:
        """Where the weights of the best epoch are."""
        return best_checkpoint(self.folder, self.epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the epoch with the best one if it counts, and save what is due."""
        if self.counts(trainer):
            value = float(trainer.callback_metrics[self.monitor])
            if self.epoch < 0 or (value > self.value if self.mode == "max" else value < self.value):
                self.epoch, self.value = trainer.current_epoch, value
                trainer.save_checkpoint(self.best, weights_only=True)
        self._due = True
        due = self._took < self.SLOW or time.monotonic() - self._saved >= self.INTERVAL
        if trainer.strategy.broadcast(due):  # all processes of a training save together
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end of training, so that a restart only tests."""
        if self._due:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        start = time.monotonic()
        trainer.save_checkpoint(self.last)
        self._saved = time.monotonic()
        self._due, self._took = False, self._saved - start
        for path in self.folder.glob("epoch=*.ckpt") if trainer.is_global_zero else ():
            if path != self.best:
                path.unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """Return what a restart needs."""
        return {"epoch": self.epoch, "value": self.value, "stamp": self.stamp}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after a restart."""
        self.epoch, self.value = state_dict["epoch"], state_dict["value"]

    def resumable(self) -> bool:
        """Return whether there is a whole state that this code left of training on these data, and its best epoch."""
        try:
            saved = torch.load(self.last, weights_only=True, map_location="cpu")
            state = saved["callbacks"][self.state_key]
            if state["epoch"] >= 0:
                torch.load(best_checkpoint(self.folder, state["epoch"]), weights_only=True, map_location="cpu")
            return bool(state["stamp"] == self.stamp)
        except Exception:  # none there, or whatever torch says of a file that is cut off
            return False


class SelectionEarlyStopping(FromFirstEpoch, EarlyStopping):
    """Early stopping that begins to count when preparation is over, and stays stopped after a restart.

    Args:
        first_epoch: The first epoch that counts.
        monitor: The metric that selects.
        mode: ``min`` or ``max``.
        patience: Epochs without gain after which training stops.
    """

    def __init__(self, first_epoch: int, monitor: str, *, mode: str, patience: int) -> None:
        super().__init__(monitor, mode=mode, patience=patience, check_finite=False)
        self.first_epoch = first_epoch

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take up a decision to stop, which Lightning keeps nowhere."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the epoch if it counts."""
        if self.counts(trainer):
            super().on_train_epoch_end(trainer, pl_module)
