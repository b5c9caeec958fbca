"""What one writes without a framework: a bare PyTorch loop over batches."""

from __future__ import annotations

from collections.abc import Iterable

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.speed.measure import Setting
from data_modules import Batch, FusionDataModule
from mmbench.methods import FusionMethod


def fitted(setting: Setting, **options: object) -> FusionDataModule:
    """Return the data module of the generated data, ready to train on the device."""
    data = FusionDataModule(setting.store, **options)  # type: ignore[arg-type] # options of the data module
    data.trainer = pl.Trainer(  # a data module learns its device from the trainer that uses it
        accelerator=setting.accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data.setup("fit")
    return data


def optimizer_of(model: FusionMethod) -> torch.optim.Adam:
    """Return the Adam that the settings of a method ask for, fused as in the suite: a loop could have it as easily."""
    return torch.optim.Adam(model.parameters(), model.config.lr, weight_decay=model.config.weight_decay, fused=True)


def train(model: FusionMethod, optimizer: torch.optim.Optimizer, batches: Iterable[Batch]) -> None:
    """Take one step per batch."""
    model.train()
    for batch in batches:
        optimizer.zero_grad()
        loss = F.l1_loss(model(batch).prediction[:, 0], batch.target)
        loss.backward()
        if model.config.gradient_clip:
            nn.utils.clip_grad_norm_(model.parameters(), model.config.gradient_clip)
        optimizer.step()


@torch.no_grad()
def validate(model: FusionMethod, batches: Iterable[Batch]) -> float:
    """Return the mean absolute error."""
    model.eval()
    errors: list[Tensor] = [(model(batch).prediction[:, 0] - batch.target).abs() for batch in batches]
    return float(torch.cat(errors).mean())
