"""The plan: which trials a command means.

On utterances with a vector per modality, methods of dialogues and methods of single utterances have one track: both
predict every utterance, the former with its dialogue in view.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import data_modules
from data_modules import Corruption, DataError, DataSpec, FusionDataModule
from data_modules.plugins import line_of, line_of_class
from data_modules.schema import unknown_name
from mmbench.methods import ConfigError, FusionMethod, broken_methods, method, methods
from mmbench.runner.code import code_hash
from mmbench.runner.settings import (
    Suite,
    benchmarks_folder,
    check_seeds,
    corruption_settings,
    data_settings,
    shipped_settings,
)
from mmbench.runner.store_paths import placed
from mmbench.runner.training import Training

DECIDES = ("track", "fold", "method", "config", "data", "training", "seed", "identity")
"""What of a trial decides its result, beside the code."""


class BrokenVariants(ConfigError):
    """The code of a method fails when it is asked for its variants; the message names the line."""


class NoShares(ConfigError):
    """The batches of a method cannot be shared by so many devices."""


@dataclass(frozen=True)
class Trial:
    """One training: everything that decides its result, and where its data lie.

    Attributes:
        track: ``<data set>/<feature set>/<split protocol>``.
        fold: Fold of the split protocol.
        method: Key of the method.
        variant: Which of the method's variants, empty for the only one.
        config: All settings of the method.
        changed: The settings that the command changed from the shipped ones; they name the row in the table.
        data: Settings of the data module that are not those of every data set.
        training: What all methods of the table share.
        seed: Seed of initialisation, order and dropout.
        identity: Which data they are: what the store is made of.
        folds: Number of folds of the protocol.
        content: Digest of the store's bytes, which may differ in rounding between machines; it does not decide.
        code: Hash of the code that will run it.
        path: The store; it does not decide the result.
    """

    track: str
    fold: int
    method: str
    variant: str
    config: dict[str, Any]
    changed: dict[str, Any]
    data: dict[str, Any]
    training: dict[str, Any]
    seed: int
    identity: str
    folds: int = 1
    content: str = field(default="", compare=False)
    code: str = field(default="", compare=False)
    path: str = field(default="", compare=False)

    @property
    def id(self) -> str:
        """Hash of everything a person can set that decides the result."""
        return trial_id({name: getattr(self, name) for name in DECIDES})

    @property
    def devices(self) -> int:
        """Number of devices that it is spread over."""
        return int(self.training.get("devices", 1))

    @property
    def dataset(self) -> str:
        """Key of the data set."""
        return self.track.split("/")[0]

    @property
    def title(self) -> str:
        """Short name for progress and summaries."""
        return title(self.label, self.fold, self.folds, self.seed)

    @property
    def label(self) -> str:
        """Name of the row in a table: method, variant and what the command changed."""
        return label(self.method, self.variant, self.changed)

    def datamodule(self, batch_size: int, workers: int | None = None) -> FusionDataModule:
        """Return the data module of this trial, with the workers that load its frames and waveforms."""
        own = {"fold": self.fold, "batch_size": batch_size, "seed": self.seed, "workers": workers}
        return make_datamodule(self.dataset, self.path, {**self.data, **own})


def label(method: str, variant: str, changed: Mapping[str, Any]) -> str:
    """Return the name of a row: method, variant and changed settings."""
    settings = ", ".join(f"{key}={value}" for key, value in sorted(changed.items()))
    return method + (f" ({variant})" if variant else "") + (f" [{settings}]" if settings else "")


def title(label: str, fold: int, folds: int, seed: int) -> str:
    """Return the short name of a trial: its row, the fold where there are several, the seed."""
    return f"{label}{f' fold {fold}' if folds > 1 else ''} seed {seed}"


def trial_id(decides: Mapping[str, Any]) -> str:
    """Return the hash of what decides a trial: the values of :data:`DECIDES`, as plain containers."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def make_datamodule(dataset: str, path: str | Path | None, settings: Mapping[str, Any]) -> FusionDataModule:
    """Return a data module from plain settings.

    Raises:
        ConfigError: When a setting does not exist, or the data set is broken.
    """
    own = dataset not in data_modules.datasets()
    if own and (why := data_modules.broken_datasets().get(dataset)):
        raise ConfigError(why)
    if own and path is None:
        path = FusionDataModule.usual_path(dataset)
        own = path.is_file()
        if not own:
            known = list(data_modules.datasets())
            raise ConfigError(f"{unknown_name('data set', dataset, known)} There is no store at {path} either.")
    cls = FusionDataModule if own else data_modules.dataset(dataset)
    known = [name for name in FusionDataModule.__init__.__annotations__ if name not in ("path", "return")]
    for key in settings:
        if key not in known:
            raise ConfigError(unknown_name("data setting", key, known))
    values = dict(settings)
    if isinstance(values.get("corruption"), Mapping):
        values["corruption"] = corruption_settings(values["corruption"])
    if "modalities" in values:
        values["modalities"] = tuple(values["modalities"])
    return cls(path, **values)


def make_plan(
    suite: Suite,
    *,
    dataset: str,
    methods_wanted: Sequence[str] = (),
    seeds: Sequence[int] = (),
    folds: Sequence[int] = (),
    path: str | Path | None = None,
    data: Mapping[str, Any] | None = None,
    training: Training | None = None,
    overrides: Mapping[str, Any] | None = None,
    benchmarks: Path | None = None,
) -> tuple[list[Trial], dict[str, str]]:
    """Return the trials of a command, and by method why it was left out.

    Args:
        suite: Defaults of everything that the command does not say.
        dataset: Key of the data set, or ``<key>/<feature set>`` for a store of that name.
        methods_wanted: Methods; by default the suite's, or all that fit.
        seeds: Seeds; by default the suite's.
        folds: Folds; by default all of the protocol.
        path: The store; by default the data set's own place.
        data: Settings of the data module.
        training: What all methods share, if not the suite's.
        overrides: Method settings that the command changed.
        benchmarks: Folder with the shipped settings; by default the usual one.

    Raises:
        ConfigError: When a named method does not fit the data or a setting does not exist.
    """
    benchmarks = benchmarks_folder() if benchmarks is None else benchmarks
    dataset, path = placed(dataset, path)
    broken = {} if methods_wanted or suite.methods else broken_methods()
    left_out = {name: why.rstrip(".") for name, why in broken.items()}
    codes: dict[str, str] = {}
    # Before anything that takes time, in which somebody might edit the code that is loaded.
    for key in dict.fromkeys(methods_wanted or suite.methods or methods()):
        try:
            codes[key] = code_hash(key, dataset)
        except ConfigError as error:
            if methods_wanted or suite.methods:
                raise
            left_out[key] = str(error).rstrip(".")
    settings = {**(suite.data or {}), **(data or {})}
    corruption = {"corruption": settings.pop("corruption")} if "corruption" in settings else {}
    settings = data_settings(settings) | corruption
    probe = make_datamodule(dataset, path, settings)
    spec, store = probe.spec, probe.store
    if probe.protocol not in store.splits:
        which = (
            f"is asked for {probe.protocol!r} and has {', '.join(store.splits)}" if store.splits else "has no splits"
        )
        raise ConfigError(
            f"{store.path} {which}: what is in no split is predicted (`mmbench predict`), not trained on."
        )
    store.verify_once()
    shared = training or suite.training
    all_folds = range(len(store.splits[probe.protocol]))
    seeds = tuple(dict.fromkeys(seeds or suite.seeds))
    check_seeds(seeds)
    if wrong := [fold for fold in folds if fold not in all_folds]:
        raise ConfigError(f"{spec.track} has the folds 0 to {len(all_folds) - 1}, not {wrong[0]}.")
    trials: list[Trial] = []
    dialogues = cache(partial(_dialogues, dataset, path, settings))
    if probe.normalize != FusionDataModule.normalize_default:
        settings["normalize"] = probe.normalize  # what a data set has decided is part of the trial
    for key, code in codes.items():
        needs = method(key).card.needs
        seen, reasons = dialogues() if needs.dialogue else (spec, [])
        if reasons := reasons or needs.unmet(seen):
            if key in methods_wanted:
                raise ConfigError(f"{key} does not fit {spec.track}: {'; '.join(reasons)}.")
            left_out[key] = "; ".join(reasons)
            continue
        own = {**settings, **({"dialogue": True} if needs.dialogue else {})}
        # Where a method is meant that nobody named, what has no effect on it does not keep it from being a row.
        inert = frozenset() if key in methods_wanted else method(key).Config.inert
        given = {name: value for name, value in (overrides or {}).items() if name not in inert}
        try:
            rows = _configs(key, seen, suite.name, given, benchmarks)
            _check_shares(key, [config for _, config, _ in rows], shared.devices)
        except (BrokenVariants, NoShares) as error:
            if key in methods_wanted:
                raise
            left_out[key] = str(error).rstrip(".")
            continue
        for variant, config, changed in rows:
            trials += [
                Trial(
                    track=spec.track,
                    fold=fold,
                    method=key,
                    variant=variant,
                    config=config,
                    changed={**changed, **_changed_training(shared, suite.training)},
                    data=_plain(own),
                    training=shared.to_dict(),
                    seed=seed,
                    identity=store.identity,
                    folds=len(all_folds),
                    content=store.content,
                    code=code,
                    path=str(store.path),
                )
                for seed in seeds
                for fold in (dict.fromkeys(folds) or all_folds)
            ]
    return trials, left_out


def _dialogues(dataset: str, path: str | Path | None, settings: Mapping[str, Any]) -> tuple[DataSpec, list[str]]:
    """Return the spec of the data as dialogues, and why they cannot be had as such."""
    try:
        return make_datamodule(dataset, path, {**settings, "dialogue": True}).spec, []
    except DataError as error:
        return make_datamodule(dataset, path, settings).spec, [f"it works on dialogues ({str(error).rstrip('.')})"]


def _configs(
    key: str, spec: DataSpec, suite: str, overrides: Mapping[str, Any], benchmarks: Path
) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Return variant, full config and changed settings of a method on some data."""
    cls = method(key)
    shipped = shipped_settings(benchmarks, key, spec.dataset, spec.feature_set, suite)
    tokens = "text" in spec.modalities and spec.modalities["text"].kind == "tokens"
    rows = []
    variants = _variants(cls, spec)
    for variant, preset in variants.items():
        base = cls.Config.parse({**shipped, **preset}).to_dict()
        config = cls.Config.parse({**shipped, **preset, **overrides}).to_dict()
        if any(config[name] != base[name] for name in preset):
            continue
        if tokens and not config["text_encoder"]:
            raise ConfigError(f"The text of {spec.track} is tokens: give --method.text_encoder, a Hugging Face model.")
        changed = {name: value for name, value in config.items() if value != base.get(name)}
        if not tokens and "text_encoder" in changed:
            raise ConfigError(
                f"{cls.Config.where('text_encoder')} has no effect on {spec.track}, which has no text tokens: leave it "
                "out."
            )
        if not config["text_encoder"] and "text_lr" in changed:  # shipped settings name it for those who give one
            raise ConfigError(f"{cls.Config.where('text_lr')} has no effect without a text_encoder: leave it out.")
        rows.append((variant, config, changed))
    if not rows:
        raise ConfigError(f"No variant of {key} has the settings {dict(overrides)}; it has: {', '.join(variants)}.")
    return rows


def _check_shares(key: str, configs: Sequence[Mapping[str, Any]], devices: int) -> None:
    for config in configs:
        if config["batch_size"] % devices:
            raise NoShares(
                f"{key} has batches of {config['batch_size']} samples, and {devices} devices cannot share them evenly: "
                "give another --devices, or --method.batch_size"
            )
        if devices == 1 and config.get("gather_negatives"):
            raise ConfigError(
                f"{key}: 'gather_negatives' has no effect on one device, which sees the whole batch: leave it out, or "
                "give --devices."
            )


def _variants(cls: type[FusionMethod], spec: DataSpec) -> dict[str, dict[str, Any]]:
    """Return the variants of a method.

    Raises:
        BrokenVariants: When they, or their settings, cannot be had.
    """
    try:
        variants = cls.variants(spec)
        for preset in variants.values():
            cls.Config.parse(preset)
    except Exception as error:  # whatever an author writes there concerns no other method
        where = line_of(error, cls.__module__) or line_of_class(cls)
        what = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        raise BrokenVariants(f"{where}: the variants of {cls.__name__} cannot be had: {what}") from error
    return variants


def _changed_training(used: Training, usual: Training) -> dict[str, Any]:
    ours, theirs = dataclasses.asdict(used), dataclasses.asdict(usual)
    return {key: value for key, value in ours.items() if value != theirs[key]}


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as plain containers."""

    def plain(value: Any) -> Any:
        if isinstance(value, Corruption):
            return value.to_dict()
        return list(value) if isinstance(value, tuple) else value

    return {key: plain(value) for key, value in settings.items()}
