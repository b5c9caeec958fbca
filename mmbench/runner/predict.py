"""What a trained method says of any store with the features that it was trained on, labelled or not."""

from __future__ import annotations

import csv
import os
import reprlib
import warnings
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch
from torch import Tensor

from data_modules import DataError, DataSpec, FusionDataModule
from data_modules.batches.normalization import Normalize
from data_modules.files import atomic_path, explained
from data_modules.store import EVERYTHING
from mmbench.methods import ConfigError, FusionMethod, methods
from mmbench.methods.checkpoint import read_checkpoint, remedy, restore
from mmbench.runner.training import SILENT, one_device_trainer, quiet


def load_method(checkpoint: Path) -> tuple[FusionMethod, dict[str, Any]]:
    """Return the method of a checkpoint, and how its inputs were prepared.

    Raises:
        ConfigError: When it is no checkpoint of a method that is registered here.
    """
    saved = read_checkpoint(checkpoint)
    found = {cls.__name__: cls for cls in methods().values()}
    name = saved.get("method")
    if not isinstance(name, str):
        raise ConfigError(f"{checkpoint} does not say of which method it is. {remedy(saved)}")
    if name not in found:
        raise ConfigError(
            f"{checkpoint} is of the method {name[:80]}, which is not among {', '.join(found)}. Name the file of a "
            "method of yours by --plugin."
        )
    model = restore(found[name], checkpoint, saved)
    return model, _preparation(checkpoint, saved, model.spec)


def _preparation(checkpoint: Path, saved: dict[str, Any], spec: DataSpec) -> dict[str, Any]:
    """Return how inputs were prepared, if all that prediction needs is there."""
    found = saved.get("preparation")
    if not isinstance(found, dict):
        raise ConfigError(
            f"{checkpoint} does not say how inputs were scaled: train with `trainer.fit(method, datamodule)` and a "
            "FusionDataModule, or predict with `load_from_checkpoint` and inputs of your own."
        )
    scaled, tokenizer, scales = (found.get(key) for key in ("normalize", "tokenizer", "scales"))
    wrong = ""
    if scaled not in get_args(Normalize):
        wrong = f"'normalize' is {reprlib.repr(scaled)}"
    elif not isinstance(tokenizer, str):
        wrong = f"'tokenizer' is {reprlib.repr(tokenizer)}"
    elif not isinstance(scales, dict):
        wrong = f"'scales' is {reprlib.repr(scales)}"
    elif scaled == "train":
        features = {name: item.dim for name, item in spec.modalities.items() if item.kind == "features"}
        bad = [name for name, dim in features.items() if not _is_scale(scales.get(name), dim)]
        wrong = f"the scales of {bad[0]} are not twice {features[bad[0]]} finite numbers" if bad else ""
    if wrong:
        raise ConfigError(f"{checkpoint} does not say how inputs were scaled: {wrong}. {remedy(saved)}")
    return found


def _is_scale(value: Any, dim: int) -> bool:
    """Say whether a value is mean and standard deviation of features."""
    return (
        isinstance(value, tuple | list)
        and len(value) == 2
        and all(isinstance(part, Tensor) and part.shape == (dim,) and part.dtype.is_floating_point for part in value)
        and all(bool(torch.isfinite(part).all()) for part in value)
        and bool((value[1] >= 0).all())
    )


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
        DataError: When the store cannot be read.
    """
    model, preparation = load_method(checkpoint)
    try:
        data = FusionDataModule(
            store,
            protocol=EVERYTHING,
            batch_size=batch_size or model.config.batch_size,
            tokenizer=preparation["tokenizer"],
            dialogue=model.spec.dialogue,
            preparation=preparation,
        )
    except DataError as error:
        raise DataError(f"{store} cannot be read as the data of {checkpoint} were: {error}") from error
    if reasons := mismatches(model.spec, data.spec):
        raise ConfigError(
            f"{store} was not made as the data of {checkpoint} ({model.spec.track}): {'; '.join(reasons)}. Extract the "
            "same features with the same settings."
        )
    if different := other_sources(model.spec, data.spec):
        warnings.warn(f"Predictions may mean nothing, if features differ: {'; '.join(different)}.", stacklevel=2)
    with quiet():
        try:
            trainer = one_device_trainer(accelerator, **SILENT)
        except Exception as error:  # whatever Lightning says of a device that is not there
            raise ConfigError(f"This machine cannot predict with --accelerator {accelerator}: {error}") from error
        batches = trainer.predict(model, data)
    assert batches is not None
    rows, prediction = (torch.cat([batch[part] for batch in batches]).detach().cpu() for part in (0, 1))
    table = columns(model, prediction.float())
    table.insert(0, "id", data.store.ids[rows.numpy()])
    if any(data.store.transcripts):
        table["transcript"] = data.store.transcripts[rows.numpy()]
    return table.iloc[rows.argsort().numpy()].set_index("id")


def check_table(out: Path, checkpoint: Path, store: Path) -> None:
    """Refuse a table of predictions in the place of something else, before anything is predicted.

    Raises:
        ConfigError: When the path is what the predictions are made from, a folder, in none, or a file that is no table
            of predictions.
    """
    with explained(out):
        there = out.exists()
    for what, source in (("checkpoint", checkpoint), ("store", store)):
        if there and source.exists() and out.samefile(source):
            raise ConfigError(f"{out} is the {what} itself. Give another path for the table.")
    if out.is_dir():
        raise ConfigError(f"{out} is a folder: give the table to write, such as predictions.csv.")
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"There is no folder {out.parent} for the table. Correct its name or make it.")
    if os.path.lexists(out) and "id" not in _columns_of(out)[:1]:
        raise ConfigError(f"{out} exists and is no table of predictions. Remove it or give another path.")


def write_table(table: pd.DataFrame, out: Path) -> None:
    """Write predictions as CSV, where there is nothing or a table of the same predictions.

    Raises:
        ConfigError: When a file with other columns is there; transcripts may have come or gone.
        WriteError: When it cannot be written.
    """
    now = [str(table.index.name), *map(str, table.columns)]
    before = _columns_of(out) if os.path.lexists(out) else now
    if [name for name in before if name != "transcript"] != [name for name in now if name != "transcript"]:
        raise ConfigError(
            f"{out} has the columns {', '.join(before)} and not those of these predictions ({', '.join(now)}): it may "
            "be something else. Remove it or give another path."
        )
    with atomic_path(out) as part:
        table.to_csv(part)


def _columns_of(path: Path) -> list[str]:
    """Return the columns of a CSV file; none where it is something else."""
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return next(csv.reader([file.readline(1 << 16)]), [])
    except (OSError, ValueError, csv.Error):
        return []


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
