"""What a trained method says of any store with the features that it was trained on, labelled or not."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import torch
from torch import Tensor

from data_modules import DataSpec, FusionDataModule
from data_modules.store import EVERYTHING
from mmbench.methods import ConfigError, FusionMethod, methods
from mmbench.runner.training import quiet


def load_method(checkpoint: Path) -> tuple[FusionMethod, dict[str, Any]]:
    """Return the method of a checkpoint, and how its inputs were prepared.

    Raises:
        ConfigError: When it is no checkpoint of a method that is registered here.
    """
    if not checkpoint.is_file():
        raise ConfigError(f"There is no checkpoint at {checkpoint}. Trials leave theirs under runs/<trial id>/.")
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        name, preparation = saved["method"], saved["preparation"]
    except Exception as error:  # whatever torch says of a file that it cannot read, and a checkpoint of something else
        raise ConfigError(
            f"{checkpoint} is no checkpoint that `mmbench run` wrote ({type(error).__name__}: {error}). Give one of "
            "runs/<trial id>/, and train again if this version did not write it."
        ) from error
    found = {cls.__name__: cls for cls in methods().values()}
    if name not in found:
        raise ConfigError(
            f"{checkpoint} is of the method {name}, which is not among {', '.join(methods())}. Name the file of a "
            "method of yours by --plugin."
        )
    return found[name].load_from_checkpoint(checkpoint, map_location="cpu"), preparation


def mismatches(trained: DataSpec, given: DataSpec) -> list[str]:
    """Return why a store cannot be read by a method that was trained on another, empty when it can."""
    reasons = []
    for name, modality in trained.modalities.items():
        other = given.modalities.get(name)
        if other is None:
            reasons.append(f"it has no {name}")
            continue
        for what in ("kind", "dim", "rate", "size"):
            mine, theirs = getattr(modality, what), getattr(other, what)
            if mine != theirs:
                reasons.append(f"its {name} has the {what} {theirs} instead of {mine}")
    shared = [given.modalities[name] for name in trained.modalities if name in given.modalities]
    if trained.aligned and not given.aligned and len(shared) > 1 and any(item.max_length > 1 for item in shared):
        reasons.append("its modalities do not share one time axis")
    return reasons


def other_sources(trained: DataSpec, given: DataSpec) -> list[str]:
    """Return what features seem to come from another extractor than those of the training; kinds and sizes cannot tell.

    Sources are words, and two importers may have different words for one extractor.
    """
    pairs = [(modality, given.modalities[name]) for name, modality in trained.modalities.items()]
    return [
        f"{mine.name} of the training is {mine.source!r}, and here it is {other.source!r}"
        for mine, other in pairs
        if mine.source and other.source and mine.source != other.source
    ]


def predict(checkpoint: Path, store: Path, *, batch_size: int | None = None, accelerator: str = "auto") -> pd.DataFrame:
    """Return what a trained method predicts for every sample of a store.

    Args:
        checkpoint: A checkpoint that the runner wrote.
        store: The samples, with the features that the method was trained on.
        batch_size: Samples (or dialogues) per batch; by default as many as in training, which memory has borne.
        accelerator: Lightning's accelerator.

    Returns:
        A row per sample in store order, indexed by its id. Regression: a column per output. Multi-class: ``label``, the
        likeliest class, and its probability and those of all classes. Multi-label and binary: by name whether it is
        present, and ``p(<name>)``. At last ``transcript``, where the store has one.

    Raises:
        ConfigError: When the checkpoint or the store does not fit.
    """
    model, preparation = load_method(checkpoint)
    data = FusionDataModule(
        store,
        protocol=EVERYTHING,
        batch_size=batch_size or model.config.batch_size,
        tokenizer=preparation["tokenizer"],
        dialogue=model.spec.dialogue,
    )
    if reasons := mismatches(model.spec, data.spec):
        raise ConfigError(
            f"{store} was not made as the data of {checkpoint} ({model.spec.track}): {'; '.join(reasons)}. Extract the "
            "same features with the same settings."
        )
    if different := other_sources(model.spec, data.spec):
        warnings.warn(f"Predictions may mean nothing, if features differ: {'; '.join(different)}.", stacklevel=2)
    data.prepare_as(preparation)
    data.read_only(model.spec.modalities)
    with quiet():
        trainer = pl.Trainer(
            accelerator=accelerator,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        batches = trainer.predict(model, data)
    assert batches is not None
    rows, prediction = (torch.cat([batch[part] for batch in batches]).detach().cpu() for part in (0, 1))
    table = columns(model, prediction.float())
    table.insert(0, "id", data.store.ids[rows.numpy()])
    if any(data.store.transcripts):
        table["transcript"] = data.store.transcripts[rows.numpy()]
    return table.iloc[rows.argsort().numpy()].set_index("id")


def columns(model: FusionMethod, prediction: Tensor) -> pd.DataFrame:
    """Return raw predictions ``(N, outputs)`` as people read them."""
    target = model.task.target
    if target.kind == "regression":
        return pd.DataFrame(prediction.numpy(), columns=list(target.names))
    if target.kind == "multiclass":
        chances = prediction.softmax(-1)
        best = [target.names[place] for place in chances.argmax(-1).tolist()]
        table = pd.DataFrame({"label": best, "p": chances.max(-1).values.numpy()})
        return table.join(pd.DataFrame(chances.numpy(), columns=[f"p({name})" for name in target.names]))
    if target.kind == "multilabel":
        chances, limits = prediction.sigmoid(), model.thresholds
    else:
        chances = prediction.reshape(len(prediction), -1, 2).softmax(-1)[..., 1]
        limits = torch.full((len(target.names),), 0.5)
    present = pd.DataFrame((chances > limits).numpy(), columns=list(target.names))
    return present.join(pd.DataFrame(chances.numpy(), columns=[f"p({name})" for name in target.names]))
