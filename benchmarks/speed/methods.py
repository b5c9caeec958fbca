"""What every method costs to train, beside ``late_fusion``: time, parameters, memory.

Methods have their default settings, except that all of them get the same batches of similar length; on raw media a
method whose default is a smaller batch keeps it, for larger ones may not fit into memory. They train as in a trial,
with all their stages, optimisers and hooks, but without validation and checkpoints. Timed is the second of the epochs
that count, that is after pre-training and a warm-up; a method with several passes per epoch sees its samples several
times in that time. Methods of dialogues and of raw media train on generated data of theirs, and are compared with
``late_fusion`` on the shape of MOSI all the same, per sample. Memory is what training takes at most beyond the model
itself: batches, activations, gradients, Adam's state, and what libraries allocate at first use, of which the row of
``constant`` gives an idea. The limit is that of :mod:`benchmarks.speed.limit`, its speed measured in the same process.

Each method runs in a process of its own, which this module is as a script: ``STORE KEY SETTINGS DEVICE REPETITIONS
REFERENCE``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from benchmarks.speed.limit import Counter, products_per_second
from benchmarks.speed.measure import MB, Row, Setting, Times, wait
from benchmarks.speed.mosi import BATCH, write_mosi_like
from benchmarks.speed.process import run_python
from data_modules import DataSpec, FeatureStore, FusionDataModule
from data_modules.datasets.synthetic.clips import write_clips
from data_modules.datasets.synthetic.dialogues import UTTERANCES, write_dialogues
from data_modules.schema import MEDIA
from mmbench.cli.machine import prepare
from mmbench.methods import FusionMethod, method, methods
from mmbench.runner.cost import parameters, peak_memory, reset_peak_memory
from mmbench.runner.training import SILENT, one_device_trainer, quiet

REFERENCE = "late_fusion"


@dataclass
class Cost:
    """What a process found out about a method.

    Attributes:
        parameters: Number of trained parameters.
        memory: Bytes that training takes at most beyond the model; None where the system does not say.
        ours: Seconds of an epoch of the method, by repetition.
        reference: Seconds of an epoch of the reference, each measured right after the method's.
        limit: Seconds of an epoch if there were nothing but its products; see :mod:`benchmarks.speed.limit`.
    """

    parameters: int
    memory: int | None
    ours: list[float]
    reference: list[float]
    limit: float


class Gauge(pl.Callback):
    """Measures a training: the seconds of its last epoch, and by how much memory grows.

    Attributes:
        seconds: Seconds of the last epoch.
        grown: Bytes, None where the system does not say.
    """

    def __init__(self, device: str) -> None:
        self.device, self.seconds = device, 0.0
        self.grown: int | None = None
        self._start = 0.0
        self._before: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the memory that is in use: right after a reset, that is the peak."""
        reset_peak_memory()
        self._before, _ = peak_memory()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        wait(self.device)
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        wait(self.device)
        self.seconds = time.perf_counter() - self._start

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare the peak with the beginning."""
        peak, _ = peak_memory()
        self.grown = None if peak is None or self._before is None else peak - self._before


def train(
    store: Path, key: str, settings: Mapping[str, Any], device: str, callback: pl.Callback, batch_size: int = BATCH
) -> FusionMethod:
    """Train a method to the end of its second epoch that counts, watched by a callback; return it."""
    torch.manual_seed(1111)
    cls = method(key)
    config = cls.Config.parse({**settings, "batch_size": batch_size})
    data = FusionDataModule(store, batch_size=batch_size, bucketed=True, dialogue=cls.card.needs.dialogue)
    if any(modality.kind in MEDIA for modality in data.spec.modalities.values()):
        config = replace(config, batch_size=min(batch_size, cls.Config.parse(settings).batch_size))
        data.batch_size = config.batch_size
    model = cls(data.spec, config=config)
    trainer = one_device_trainer(
        "gpu" if device == "cuda" else "cpu",
        max_epochs=model.first_epoch + 2,
        callbacks=[callback],
        limit_val_batches=0,
        **SILENT,
    )
    trainer.fit(model, data)
    return model


def cost(
    store: Path, key: str, settings: Mapping[str, Any], device: str, repetitions: int, reference: Path | None = None
) -> Cost:
    """Measure a method in this process, which must have trained nothing before for the memory to mean anything."""

    def epoch(path: Path, name: str, own: Mapping[str, Any]) -> float:
        train(path, name, own, device, gauge := Gauge(device))
        return gauge.seconds

    model = train(store, key, settings, device, gauge := Gauge(device))
    found = Cost(parameters(model), gauge.grown, [], [], 0.0)
    epoch(reference or store, REFERENCE, {})  # unmeasured, as the method was just now
    for _ in range(repetitions):
        found.ours.append(epoch(store, key, settings))
        found.reference.append(epoch(reference or store, REFERENCE, {}))
    train(store, key, settings, device, counter := Counter(), batch_size=1)
    found.limit = counter.operations / products_per_second(device)
    return found


def in_own_process(
    store: Path,
    key: str,
    settings: Mapping[str, Any],
    setting: Setting,
    repetitions: int,
    reference: Path | None = None,
) -> Cost:
    """Measure a method in a new process that uses the machine as the command does.

    Raises:
        Failed: When it fails; the message has the end of what it said.
    """
    arguments = [str(store), key, json.dumps(dict(settings)), setting.device, str(repetitions), str(reference or store)]
    prepare(environment := os.environ | setting.environment)
    said = run_python(["-m", __spec__.name, *arguments], environment)
    return Cost(**json.loads(said.splitlines()[-1]))


def variants(spec: DataSpec) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield name, key and settings of everything that fits the data, the reference first."""
    for key in sorted(methods(), key=lambda key: (key != REFERENCE, key)):
        if not method(key).card.needs.unmet(spec):
            for variant, settings in method(key).variants(spec).items():
                yield (f"{key} ({variant})" if variant else key), key, settings


def measure(setting: Setting) -> Iterator[list[Row]]:
    """Measure every method and variant: on features, else on dialogues, and those of raw media on clips too.

    Yields:
        The rows of a method, the reference first, whichever methods are wanted.
    """
    samples, store = setting.sizes.methods, setting.folder / "methods.h5"
    write_mosi_like(store, {"train": samples, "valid": 1, "test": 1})
    reference: Cost | None = None
    for name, key, settings in variants(FeatureStore(store).spec("standard")):
        if setting.methods and key not in (REFERENCE, *setting.methods):
            continue
        found = in_own_process(store, key, settings, setting, setting.sizes.slow)
        reference = reference or found
        yield rows_of(name, setting.place, samples, found, reference)
    assert reference is not None
    for form, made in _other_forms(setting.folder, samples).items():
        dialogue = form == "dialogues"
        spec = replace(made.spec("standard"), dialogue=dialogue)
        own = len(made.rows("standard", 0)["train"])
        for name, key, settings in variants(spec):
            if not (dialogue or method(key).card.needs.substitutes(FeatureStore(store).spec("standard"))):
                continue
            if setting.methods and key not in setting.methods:
                continue
            found = in_own_process(made.path, key, settings, setting, setting.sizes.raw, store)
            found.ours = [seconds * samples / own for seconds in found.ours]
            found.limit *= samples / own
            yield rows_of(f"{name}, {form}", setting.device, samples, found, reference)


def _other_forms(folder: Path, samples: int) -> dict[str, FeatureStore]:
    """Return generated dialogues and clips of about as many samples as there are of features."""
    mean = sum(UTTERANCES) // 2
    return {
        "dialogues": write_dialogues(folder / "dialogues.h5", dialogues=(max(1, samples // mean), 1, 1)),
        "clips": write_clips(folder / "clips.h5", clips=(samples, 1, 1)),
    }


def rows_of(name: str, device: str, samples: int, found: Cost, reference: Cost) -> list[Row]:
    """Return what is said of a method.

    Args:
        name: How the rows call it.
        device: Where it was measured, as the table calls it.
        samples: Samples of an epoch.
        found: Its cost.
        reference: The cost of the reference, from its own process.
    """
    times = Times(found.ours, found.reference)
    rows = [
        times.slower("training", device, samples, "samples/s"),
        _compared("size", device, "parameters", found.parameters, reference.parameters),
    ]
    if found.limit:
        seconds = float(np.median(found.ours))
        rows.append(_compared("time beside the limit", device, "s", seconds, found.limit))
    if found.memory is not None and reference.memory:
        rows.append(_compared("peak memory of training", device, "MB", found.memory / MB, reference.memory / MB))
    return [replace(row, method=name) for row in rows]


def _compared(measurement: str, device: str, unit: str, ours: float, reference: float) -> Row:
    return Times([ours], [reference]).dearer(measurement, device, unit=unit)


if __name__ == "__main__":
    path, key, settings, device, repetitions, other = sys.argv[1:]
    with quiet():
        print(json.dumps(vars(cost(Path(path), key, json.loads(settings), device, int(repetitions), Path(other)))))
