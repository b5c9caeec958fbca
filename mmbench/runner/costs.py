"""What methods cost, each measured in a process of its own with nothing else running: ``<leaderboard>/costs``.

Trainings run beside each other and beside other work, and one process may train several: their times and memory say
little of a method. Here a method trains a few epochs on the data of its track, as in a trial, and predicts the test
split; what is measured is stored apart from the records, one file per row of a table.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from data_modules import FusionDataModule
from data_modules.files import atomic_path
from mmbench import __version__
from mmbench.methods import FusionMethod, method
from mmbench.runner.cost import parameters, peak_memory, product_counter, reset_peak_memory
from mmbench.runner.environment import environment
from mmbench.runner.facts import Environment
from mmbench.runner.plan import Trial
from mmbench.runner.reading import MOST_JSON, read_bytes
from mmbench.runner.record import plain
from mmbench.runner.training import Training, build, quiet, train_and_test

EPOCHS = 4
"""Epochs that are trained, of which the first warms up."""
PASSES = 3
"""Passes over the test split that are timed, after one that warms up."""
COUNTED = 64
"""Test samples, each alone, whose products are counted."""
BUSY = 0.1
"""Share of the machine's processors that others may use while times are measured."""
STAT = Path("/proc/stat")


@dataclass(frozen=True)
class MethodCost:
    """What one configuration costs on one track.

    Attributes:
        track: Name of the track.
        method: Key of the method.
        variant: Which of its variants, empty for the only one.
        config: All settings of the method.
        precision: Precision of the training.
        code: Hash of the code that was measured.
        version: Version of mmbench.
        parameters: Trained parameters.
        macs: Multiply-accumulates of matrix products and convolutions to predict one sample, mean over test samples
            that pass one by one, so without padding.
        seconds_per_epoch: Training and validation, median of the epochs after the first.
        seconds_to_predict: Seconds to predict 1,000 test samples in batches of the training's size, median.
        memory: Bytes by which training takes more than before it began, None where the system cannot tell.
        memory_of: ``cuda`` tensors or the ``process`` as a whole.
        others: Share of the machine's processors that other processes used meanwhile, None where it cannot be told.
        environment: Where and when.
    """

    track: str
    method: str
    variant: str
    config: dict[str, Any]
    precision: str
    code: str
    version: str
    parameters: int
    macs: int
    seconds_per_epoch: float
    seconds_to_predict: float
    memory: int | None
    memory_of: Literal["cuda", "process"]
    others: float | None
    environment: Environment

    @property
    def key(self) -> tuple[str, str, str]:
        """Track, method and hash of its settings: what a row of a table asks for."""
        return cost_key(self.track, self.method, self.config, {"precision": self.precision})

    @property
    def alone(self) -> bool:
        """Whether nothing else was running, as far as can be told."""
        return self.others is None or self.others <= BUSY


class CostError(ValueError):
    """A file of costs cannot be read; the message says why."""


def cost_key(track: str, method: str, config: dict[str, Any], training: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return what the cost of a row is found by: of its training, precision and devices count.

    Costs are measured on one device, and no other row has them.
    """
    spread = [training["devices"]] if training.get("devices", 1) > 1 else []
    text = json.dumps([config, str(training.get("precision")), *spread], sort_keys=True)
    return track, method, hashlib.sha256(text.encode()).hexdigest()[:16]


def measure_alone(trial: Trial, accelerator: str = "auto") -> MethodCost:
    """Measure a row in a new process; arguments as in :func:`measure`.

    Raises:
        RuntimeError: When the method, or the process, fails; the message says how.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        try:
            return executor.submit(measure, trial, accelerator).result()
        except BrokenExecutor as error:
            raise RuntimeError("its process was ended (out of memory?)") from error
        except Exception as error:  # whatever a method raises
            raise RuntimeError(f"{type(error).__name__}: {error}") from error


def measure(trial: Trial, accelerator: str = "auto") -> MethodCost:
    """Measure a row in this process, which must have trained nothing before for its memory to mean anything.

    Args:
        trial: Any trial of the row.
        accelerator: Lightning's accelerator.
    """
    cls = method(trial.method)
    config = cls.Config.parse(trial.config)
    data = trial.datamodule(config.batch_size)
    data.store.verify_once()
    others = _watch_others()
    model = build(cls, config, data.spec, trial.seed)
    shared = Training(**trial.training)
    epochs = model.first_epoch + EPOCHS
    data.demand = model.demand
    data.setup("fit")  # what is read into memory is no cost of the method
    reset_peak_memory()
    before, memory_of = peak_memory()
    with quiet(), TemporaryDirectory() as folder:
        outcome = train_and_test(
            model,
            data,
            dataclasses.replace(shared, max_epochs=epochs, patience=epochs),
            trial.seed,
            Path(folder),
            stamp="",
            logger=False,
            accelerator=accelerator,
            on_epoch=lambda epochs: None,
        )
    peak, _ = peak_memory()
    data.setup("test")
    predicted = _seconds_to_predict(model.to(outcome.device), data, len(outcome.index))
    share = others()
    return MethodCost(
        track=trial.track,
        method=trial.method,
        variant=trial.variant,
        config=plain(trial.config),
        precision=shared.precision,
        code=trial.code,
        version=__version__,
        parameters=parameters(model),
        macs=_macs(model, data),
        seconds_per_epoch=median(outcome.seconds[1 - EPOCHS :]),
        seconds_to_predict=predicted,
        memory=None if peak is None or before is None else max(0, peak - before),
        memory_of=memory_of,
        others=share,
        environment=environment(outcome.device),
    )


@torch.inference_mode()
def _seconds_to_predict(model: FusionMethod, data: FusionDataModule, samples: int) -> float:
    """Return the median seconds that 1,000 test samples take."""
    model.eval()
    taken = []
    for _ in range(1 + PASSES):
        start = time.perf_counter()
        for batch in data.test_dataloader():
            model(batch).prediction.sum().item()  # waits for the device
        taken.append(time.perf_counter() - start)
    return median(taken[1:]) * 1000 / samples


@torch.inference_mode()
def _macs(model: FusionMethod, data: FusionDataModule) -> int:
    """Return the mean multiply-accumulates of the prediction of a test sample."""
    model.eval()
    data.batch_size, seen = 1, 0
    with product_counter() as counter:
        for batch in data.test_dataloader():
            model(batch)
            seen += batch.target.shape[0] if batch.target_mask is None else int(batch.target_mask.sum())
            if seen >= COUNTED:
                break
    return round(counter.get_total_flops() / 2 / seen)


def _watch_others() -> Callable[[], float | None]:
    """Return what says which share of all processors other processes have used since now."""
    start = _processor_seconds()

    def share() -> float | None:
        end = _processor_seconds()
        if start is None or end is None:
            return None
        passed, own, busy = (later - first for first, later in zip(start, end, strict=True))
        return max(0.0, busy - own) / (passed * (os.cpu_count() or 1))

    return share


def _processor_seconds() -> tuple[float, float, float] | None:
    """Return wall-clock seconds, processor seconds of this process, and of all; None where the system does not say."""
    if not STAT.is_file():
        return None
    user, nice, system, _idle, _wait, irq, soft_irq, *_ = map(int, STAT.read_text().split("\n", 1)[0].split()[1:])
    busy = (user + nice + system + irq + soft_irq) / os.sysconf("SC_CLK_TCK")
    return time.monotonic(), time.process_time(), busy


class Costs:
    """The costs under one folder: ``<root>/<track>/<method>/<key>.json``.

    Args:
        root: The folder, such as ``leaderboard/costs``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, cost: MethodCost) -> Path:
        """Write a cost in the place of an earlier one of the same row, and return its file."""
        track, method, settings = cost.key
        path = self.root / track / method / f"{settings}.json"
        with atomic_path(path) as part:
            part.write_text(json.dumps(dataclasses.asdict(cost), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return path

    def load(self) -> tuple[dict[tuple[str, str, str], MethodCost], list[str]]:
        """Return every readable cost by its key, and one line per file that is none."""
        found: dict[tuple[str, str, str], MethodCost] = {}
        problems = []
        for path in sorted(self.root.glob("**/*.json")):
            try:
                cost = read_cost(path)
            except CostError as error:
                problems.append(f"{path}: {error}; skipped. Remove the file and measure again with `mmbench cost`.")
            else:
                found[cost.key] = cost
        return found, problems


def read_cost(path: Path) -> MethodCost:
    """Return a cost that was written.

    Raises:
        CostError: When the file holds none.
    """
    try:
        content = json.loads(read_bytes(path, MOST_JSON))
        cost = MethodCost(**{**content, "environment": Environment(**content["environment"])})
        numbers = (cost.parameters, cost.macs, cost.seconds_per_epoch, cost.seconds_to_predict)
        if not all(isinstance(number, int | float) and number >= 0 for number in numbers):
            raise ValueError("a number is none")
        if path.stem != cost.key[2]:
            raise ValueError("its name does not fit its content")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CostError(f"it holds no costs ({error})") from error
    return cost
