"""An epoch through the runner beside a bare PyTorch loop over the same batches with the same model.

Both train and validate. The runner also computes every metric of the family, keeps the curve, and writes the best and
the last checkpoint. The bare loop has its turn between two epochs of the trial, and takes its batches from the same
loader.
"""

from __future__ import annotations

import time

import torch

from benchmarks.speed.loops import fitted, optimizer_of, train, validate
from benchmarks.speed.measure import Row, Setting, Times, seconds, wait
from benchmarks.speed.mosi import BATCH
from data_modules import FeatureStore
from mmbench.methods import method
from mmbench.runner.plan import Trial
from mmbench.runner.records import Records
from mmbench.runner.training import Training
from mmbench.runner.trial import run_trial


class Turns:
    """Called by the runner at the end of each of its epochs; gives the bare loop its turn.

    Args:
        setting: Where.
        trial: What the runner trains.
    """

    def __init__(self, setting: Setting, trial: Trial) -> None:
        self.device, self.times, self.start = setting.device, Times(), 0.0
        cls = method(trial.method)
        config = cls.Config.parse(trial.config)
        data = fitted(setting, batch_size=config.batch_size, seed=trial.seed, **trial.data)
        self.loader, self.held_out = data.train_dataloader(), data.val_dataloader()
        self.model = cls(data.spec, config=config).to(setting.device)
        self.optimizer = optimizer_of(self.model)

    def __call__(self, epochs: int) -> None:
        """Stop the runner's clock, run the bare loop, start the clock for the runner's next epoch.

        What the runner does between two calls is one epoch in full: checkpoints, training, validation, scores.
        """
        wait(self.device)
        if epochs > 1:  # the first epoch warms up
            self.times.ours.append(time.perf_counter() - self.start)
        self.loader.set_epoch(epochs)
        # A bare loop does not ask for deterministic kernels.
        torch.use_deterministic_algorithms(False)
        taken = seconds(self.bare, self.device)
        torch.use_deterministic_algorithms(True, warn_only=True)
        if epochs > 1:
            self.times.reference.append(taken)
        self.start = time.perf_counter()

    def bare(self) -> None:
        """Train and validate once."""
        train(self.model, self.optimizer, self.loader)
        validate(self.model, self.held_out)


def measure(setting: Setting) -> list[Row]:
    """Compare ``lf_dnn`` in large and in small batches, and ``mult``."""
    sizes = setting.sizes
    return [
        _compare(setting, "lf_dnn", {}, 0, sizes.quick),
        _compare(setting, "lf_dnn", {"batch_size": BATCH}, 0, sizes.quick),
        _compare(setting, "mult", {}, sizes.mult, sizes.slow),
    ]


def _compare(setting: Setting, key: str, changed: dict[str, int], limit: int, repetitions: int) -> Row:
    store = FeatureStore(setting.store)
    epochs = repetitions + 1
    trial = Trial(
        track=store.spec("standard").track,
        fold=0,
        method=key,
        variant="",
        config=method(key).Config.parse(changed).to_dict(),
        changed={},
        data={"limit": limit},
        training=Training(max_epochs=epochs, patience=epochs).to_dict(),
        seed=1111,
        identity=store.identity,
        content=store.content,
        path=str(store.path),
    )
    turns = Turns(setting, trial)
    folder = setting.folder / f"{trial.id}-{setting.device}"
    record = run_trial(
        trial, Records(folder / "records"), folder / "runs", accelerator=setting.accelerator, on_epoch=turns
    )
    if not record.completed:
        raise RuntimeError(f"The trial of {key} {record.status}: {record.error}")
    samples = record.samples["train"]
    name = f"{key} through the runner ({samples} samples, batch {trial.config['batch_size']})"
    return turns.times.dearer(name, setting.device, 1.15)
