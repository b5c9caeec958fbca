"""Train with MMSA as it is and say how long its epochs take: ``MODEL DATA EPOCHS SETTINGS FOLDER``.

MMSA 2.2.1 does not start on today's PyTorch; what it asks for in vain is taken off here: ``verbose=`` of a scheduler,
and choosing a CUDA device where there is none. It is also told to stop after so many epochs instead of by patience.
Everything else, its loading processes included, is its own.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from mmbench.runner.cost import peak_memory


class Plateau(torch.optim.lr_scheduler.ReduceLROnPlateau):
    """The scheduler, which had an argument ``verbose`` once."""

    def __init__(self, *arguments: Any, verbose: bool = False, **options: Any) -> None:
        super().__init__(*arguments, **options)


def watch(trainer: Any, epochs: int) -> list[float]:
    """Let a trainer of MMSA end after so many epochs; return the list of times at which they end, filled by and by."""
    ends: list[float] = []
    do_test = trainer.do_test

    def watched(model: Any, loader: Any, mode: str = "VAL", **options: Any) -> Any:
        results = do_test(model, loader, mode=mode, **options)
        if mode == "VAL":  # once per epoch, after training
            ends.append(time.perf_counter())
            trainer.args.early_stop = -1 if len(ends) >= epochs else epochs
        return results

    trainer.do_test = watched
    return ends


def main(model: str, data: str, epochs: int, settings: dict[str, Any], folder: Path) -> None:
    """Train and test, and print the seconds of every epoch but the first, and the peak memory in bytes, as JSON."""
    torch.optim.lr_scheduler.ReduceLROnPlateau = Plateau  # type: ignore[misc] # before MMSA imports it
    if not torch.cuda.is_available():
        torch.cuda.set_device = lambda device: None
    from MMSA import run

    ends: list[float] = []
    get_trainer = run.ATIO.getTrain

    def trainer_of(self: Any, args: Any) -> Any:
        nonlocal ends
        trainer = get_trainer(self, args)
        ends = watch(trainer, epochs)
        return trainer

    run.ATIO.getTrain = trainer_of
    places = {f"{name}_dir": folder / name for name in ("model_save", "res_save", "log")}
    gpus = [0] if torch.cuda.is_available() else []
    run.MMSA_run(model, "mosi", config=settings, seeds=[1111], custom_feature=data, gpu_ids=gpus, **places)
    lasted = [end - start for start, end in pairwise(ends)]
    print(json.dumps({"epochs": lasted, "memory": peak_memory()[0]}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.argv[4]), Path(sys.argv[5]))
