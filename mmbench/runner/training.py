"""Training and testing one method: what of the program, beside the method itself, decides a result.

Epochs are chosen on validation, and the test split is read once, after that.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from data_modules import DataSpec, FusionDataModule
from mmbench.methods import ConfigError, FusionMethod, MethodConfig
from mmbench.methods.options import PRECISIONS
from mmbench.nn.gathering import gather_statistics
from mmbench.runner.callbacks import (
    AtomicCheckpointIO,
    DivergedError,
    EpochSeed,
    OwnTermination,
    SelectionEarlyStopping,
    SelectionModelCheckpoint,
    TrainingHistory,
)
from mmbench.runner.rank import Rank, RankEnvironment

SILENT: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""Options of a trainer that leaves nothing behind."""
ALONE = Rank()
"""The place of a process that trains by itself."""


@dataclass(frozen=True)
class Training:
    """What all methods of a table share.

    Attributes:
        max_epochs: Largest number of epochs.
        patience: Epochs without gain on validation after which training stops.
        precision: ``32-true``, ``64-true`` or ``bf16-mixed``; not ``16-mixed``, whose scaled gradients would be clipped
            at the wrong norm.
        devices: Devices that a training is spread over, on all its machines, each with its share of every batch.
    """

    max_epochs: int = 40
    patience: int = 8
    precision: str = "32-true"
    devices: int = 1

    def __post_init__(self) -> None:
        """Check the values."""
        if min(self.max_epochs, self.patience) < 1:
            raise ConfigError(f"max_epochs is {self.max_epochs} and patience {self.patience}; both must be at least 1.")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}; it must be one of: {', '.join(PRECISIONS)}.")
        if self.devices < 1:
            raise ConfigError(f"devices is {self.devices}; it must be at least 1.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers, for records; trials on one device have the ids of before there were several."""
        return {name: value for name, value in asdict(self).items() if name != "devices" or value > 1}


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came out of one training.

    Attributes:
        monitor: The validation metric that selected, as ``valid/<name>``.
        mode: ``min`` or ``max``.
        epoch: The selected epoch, counted from 0.
        curve: Per epoch the terms of the loss and the validation metrics.
        seconds: Duration of each epoch.
        validated: Raw predictions of the validation samples by the selected epoch, ``(N, outputs)``, and their targets.
        test: Test metrics of the selected epoch.
        index: ``(N,)`` rows of the test samples in the store.
        target: ``(N,)`` or ``(N, C)``.
        prediction: ``(N, outputs)``, raw.
        device: What computed.
    """

    monitor: str
    mode: Literal["min", "max"]
    epoch: int
    curve: list[dict[str, Any]]
    seconds: list[float]
    validated: tuple[Tensor, Tensor]
    test: dict[str, float]
    index: Tensor
    target: Tensor
    prediction: Tensor
    device: torch.device


def build(cls: type[FusionMethod], config: MethodConfig, spec: DataSpec, seed: int) -> FusionMethod:
    """Return a method as its seed makes it."""
    pl.seed_everything(seed, verbose=False)
    return cls(spec, config=config)


def one_device_trainer(
    accelerator: str | Accelerator, *, plugins: Iterable[AtomicCheckpointIO] = (), **options: Any
) -> pl.Trainer:
    """Return Lightning's trainer on one device, the first and only process of its training.

    A cluster's variables (SLURM's, torchrun's) say that a process is one of several: so it is, and each of them works
    on trials of its own. Lightning would take them for ranks of one training.

    Args:
        accelerator: Lightning's accelerator.
        plugins: Further plugins.
        options: Lightning's options.
    """
    rank_zero_only.rank = 0  # type: ignore[attr-defined] # Lightning's own way to say so
    return pl.Trainer(accelerator=accelerator, devices=1, plugins=[LightningEnvironment(), *plugins], **options)


def train_and_test(
    model: FusionMethod,
    data: FusionDataModule,
    training: Training,
    seed: int,
    folder: Path,
    *,
    stamp: str,
    logger: Iterable[Logger] | bool,
    accelerator: str,
    on_epoch: Callable[[int], None],
    rank: Rank = ALONE,
    company: Callable[[Path | None], AbstractContextManager[object]] = nullcontext,
) -> Outcome:
    """Train, continue where an earlier run stopped, select an epoch, and test it.

    On several devices this is the first of the processes that train, and the only one that tests.

    Args:
        model: The method, as its seed made it; in the end it has the weights of the selected epoch.
        data: Its data; the test split is locked until the epoch is selected.
        training: Epochs, patience, precision.
        seed: Seed of the trial.
        folder: Where checkpoints go.
        stamp: Names the code and the data; only a state with the same one is continued.
        logger: Lightning's loggers.
        accelerator: Lightning's accelerator.
        on_epoch: Called with the number of finished epochs.
        rank: The place of this process in the training.
        company: Has the other processes train within its block, from the state that it is given.

    Raises:
        DivergedError: When a loss or the selecting metric is not a number.
    """
    trainer, curve, checkpoints = fitting(
        model,
        training,
        seed,
        folder,
        stamp=stamp,
        logger=logger,
        accelerator=accelerator,
        on_epoch=on_epoch,
        rank=rank,
    )
    selection = model.task.selection
    for path in folder.glob(".*.part"):  # of a process that was killed while it wrote
        path.unlink()
    resumed = checkpoints.resumable()
    if not resumed:
        clear(folder)
    state = checkpoints.last if resumed else None
    with data.without_test():
        with company(state):
            trainer.fit(model, data, ckpt_path=state)
        if rank.world > 1:
            data.trainer = None  # or this process would be given its share of validation alone
        best = torch.load(checkpoints.best, weights_only=True, map_location="cpu")
        model.load_state_dict(best["state_dict"])
        pl.seed_everything(seed, verbose=False)  # for methods that draw when they predict; a restart has drawn less
        validated = _validated(model, data, trainer.accelerator, training.precision)
    pl.seed_everything(seed, verbose=False)
    if rank.world > 1:
        trainer = one_device_trainer(trainer.accelerator, precision=training.precision, deterministic="warn", **SILENT)
    trainer.test(model, data, verbose=False)
    prediction, target, index = model.test_metric.gathered()
    test = model.test_metric.compute()
    if not math.isfinite(test[selection]):
        raise DivergedError(f"test/{selection} is {test[selection]}.")
    device = trainer.strategy.root_device
    return Outcome(
        checkpoints.monitor,
        checkpoints.mode,
        best["epoch"],
        curve.rows,
        curve.seconds,
        validated,
        test,
        index,
        target,
        prediction,
        device,
    )


def fitting(
    model: FusionMethod,
    training: Training,
    seed: int,
    folder: Path,
    *,
    stamp: str,
    logger: Iterable[Logger] | bool,
    accelerator: str,
    on_epoch: Callable[[int], None] = lambda epochs: None,
    rank: Rank = ALONE,
) -> tuple[pl.Trainer, TrainingHistory, SelectionModelCheckpoint]:
    """Return what fits a method in one process of a training, as :func:`train_and_test` has it.

    Returns:
        The trainer, what it keeps of every epoch, and its checkpoints.
    """
    selection = model.task.selection
    mode: Literal["min", "max"] = "max" if model.valid_metric.higher_is_better_of(selection) else "min"
    monitor = f"valid/{selection}"
    curve = TrainingHistory(selection, on_epoch)
    checkpoints = SelectionModelCheckpoint(model.first_epoch, folder, monitor=monitor, mode=mode, stamp=stamp)
    stop = SelectionEarlyStopping(model.first_epoch, monitor, mode=mode, patience=training.patience)
    # Deterministic kernels are asked for, not that PyTorch writes NaN into all memory before it is used.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # set at run time
    options: dict[str, Any] = {
        "max_epochs": training.max_epochs,
        "precision": training.precision,
        "callbacks": [OwnTermination(), EpochSeed(seed, rank.number), curve, stop, checkpoints],
        "logger": logger,
        "plugins": [AtomicCheckpointIO()],
        "deterministic": "warn",
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    if rank.world == 1:
        return one_device_trainer(accelerator, **options), curve, checkpoints
    gather_statistics(model)  # or the batches of a normalisation would be smaller than those of the trial
    rank_zero_only.rank = rank.number  # type: ignore[attr-defined] # Lightning's own way to say so
    strategy = DDPStrategy(find_unused_parameters=model.unused_parameters)
    options["plugins"] = [RankEnvironment(rank), *options["plugins"]]
    trainer = pl.Trainer(
        accelerator=accelerator, devices=rank.per_node, num_nodes=rank.nodes, strategy=strategy, **options
    )
    return trainer, curve, checkpoints


def _validated(
    model: FusionMethod, data: FusionDataModule, accelerator: Accelerator, precision: str
) -> tuple[Tensor, Tensor]:
    """Return the predictions of the validation split and their targets, by a trainer that leaves no trace in logs."""
    trainer = one_device_trainer(accelerator, precision=precision, deterministic="warn", **SILENT)
    data.setup("validate")
    batches = trainer.predict(model, data.val_dataloader())
    data.teardown("validate")
    assert batches is not None
    rows, prediction = (torch.cat([batch[part] for batch in batches]).detach().cpu() for part in (0, 1))
    return prediction, torch.as_tensor(data.store.targets[rows.numpy()])


def clear(folder: Path) -> None:
    """Remove what an earlier training left; logs stay."""
    for path in folder.glob("*.ckpt"):
        path.unlink()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's hardware banner and the advice that does not hold here; everything else is still shown."""
    logs = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for text in (
                ".*Checkpoint directory.*exists and is not empty.*",
                ".*smaller than the logging interval.*",
                ".*in eval mode at the start of training.*",
                "The `srun` command is available.*",
            ):
                warnings.filterwarnings("ignore", message=text)
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="lightning")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
