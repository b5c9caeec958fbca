"""Short trainings, and what every network must do with padding: shared by the tests of single methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor

from data_modules.batches.data_module import FusionDataModule
from data_modules.schema import Batch, PaddedSequence
from mmbench.methods import FusionMethod
from mmbench.methods.base import Output

Network = Callable[[Mapping[str, PaddedSequence]], tuple[Tensor, Any]]


def fit(
    method: FusionMethod,
    data: Callable[[], FusionDataModule],
    epochs: int = 1,
    *,
    ckpt_path: Path | None = None,
    **options: Any,
) -> Trainer:
    """Train on the CPU in silence and return the trainer; the options are the trainer's."""
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )
    trainer.fit(method, datamodule=data(), ckpt_path=ckpt_path)
    return trainer


def assert_resumes(
    make: Callable[[], FusionMethod], data: Callable[[], FusionDataModule], epochs: int, folder: Path
) -> None:
    """Check that a run stopped before its last epoch ends as an uninterrupted one, buffers included."""
    whole, resumed = make(), make()
    fit(whole, data, epochs)
    fit(make(), data, epochs - 1).save_checkpoint(folder / "stopped.ckpt")
    fit(resumed, data, epochs, ckpt_path=folder / "stopped.ckpt")
    found = resumed.state_dict()
    for name, value in whole.state_dict().items():
        assert torch.equal(found[name], value), name


def step(method: FusionMethod, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor | None], Output]:
    """Return terms, gradients and output of a batch."""
    output = method(batch)
    terms = method.objective(output, batch)
    torch.stack(list(terms.values())).sum().backward()
    return terms, {name: parameter.grad for name, parameter in method.named_parameters()}, output


def more_padding(inputs: Mapping[str, PaddedSequence], steps: int, value: float) -> dict[str, PaddedSequence]:
    """Return the sequences with more right padding, and a value wherever there is padding."""
    filled = {}
    for name, sequence in inputs.items():
        values = F.pad(sequence.values, (0, 0, 0, steps))
        values[~PaddedSequence(values, sequence.lengths).mask] = value
        filled[name] = PaddedSequence(values, sequence.lengths)
    return filled


def assert_samples_stand_alone(network: Network, inputs: Mapping[str, PaddedSequence]) -> None:
    """Check that neither what padding holds nor the other samples change a prediction, the first of two results."""
    prediction, _ = network(inputs)
    torch.testing.assert_close(network(more_padding(inputs, 4, torch.nan))[0], prediction)
    for row in range(len(prediction)):
        alone = {
            name: PaddedSequence(item.values[[row], : max(int(item.lengths[row]), 1)], item.lengths[[row]])
            for name, item in inputs.items()
        }
        torch.testing.assert_close(network(alone)[0], prediction[[row]])
