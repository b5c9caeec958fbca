"""Suites and shipped method settings: what is run by default, and what differs per data set."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmbench
from data_modules import FusionDataModule
from data_modules.batches.corruption import Corruption
from data_modules.names import check_name
from data_modules.schema import DataError, unknown_name
from mmbench.methods import ConfigError, broken_methods, method, methods
from mmbench.methods.config import parse_values, shown
from mmbench.runner.reading import ReadingError, read_yaml
from mmbench.runner.training import Training

NOT_SETTINGS = {"path", "corruption", "fold", "batch_size", "seed", "dialogue", "workers", "preparation"}
"""What the plan, the method or the machine decides of a data module."""
SEEDS = 2**32
"""There are as many seeds, from 0 on."""


@dataclass(frozen=True)
class Suite:
    """A named set of runs.

    Attributes:
        name: Name of the file.
        title: What it is for.
        dataset: Data set, unless the command names one.
        methods: Methods, unless the command names some; empty for all that fit.
        seeds: Seeds, fixed in advance.
        training: What all methods share.
        data: Settings of the data module.
        optional: Whether ``mmbench check`` leaves it out where its data are not there.
    """

    name: str
    title: str = ""
    dataset: str = "synthetic"
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (1111, 1112, 1113)
    training: Training = field(default_factory=Training)
    data: Mapping[str, Any] | None = None
    optional: bool = False


HERE = Path("benchmarks")
PACKAGE = Path(mmbench.__file__).parent
PARTS = ("suites", "methods", "baselines")
KINDS = {
    "tuple[str, ...]": "a list of texts, such as [mmim, mult]",
    "tuple[int, ...]": "a list of whole numbers, such as [1111, 1112]",
    "Mapping[str, Any] | None": "a mapping of names to values",
    "Training": "a mapping of names to values",
}
"""In words what settings may be that are not of plain types."""


def benchmarks_folder(given: Path | None = None) -> Path:
    """Return the folder of suites, settings and baselines.

    Args:
        given: What the command names; by default ``benchmarks`` of the working directory where that is such a folder,
            as in a clone of the repository, else the one that is shipped with this package.

    Raises:
        ConfigError: When the named one is not there.
    """
    if given is not None:
        if not given.is_dir():
            raise ConfigError(f"There is no folder {given}: leave --benchmarks away for the settings that are shipped.")
        return given
    if any((HERE / part).is_dir() for part in PARTS):
        return HERE
    inside = PACKAGE / "benchmarks"
    return inside if inside.is_dir() else PACKAGE.parent / "benchmarks"  # an editable install runs from the repository


def read_mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: When the file is not YAML, not a mapping, or holds more than plain values.
    """
    try:
        values = read_yaml(path)
    except ReadingError as error:
        raise ConfigError(f"{path}: {error}.") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of names to values.")
    return values


def suites(folder: Path) -> dict[str, Suite]:
    """Return the suites of a benchmarks folder by name."""
    return {name: load_suite(path) for name, path in _suite_files(folder).items()}


def _suite_files(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted((folder / "suites").glob("*.yaml"))}


def load_suite(path: Path) -> Suite:
    """Return one suite from its file.

    Raises:
        ConfigError: When a setting does not exist, or has the wrong type or value; the message names the file.
    """
    values = read_mapping(path)
    try:
        if (name := values.pop("name", path.stem)) != path.stem:
            raise ConfigError(f"its name is {shown(name)}, and that of the file is {path.stem!r}: leave `name` out.")
        shared = values.pop("training", {})
        if not isinstance(shared, dict):
            raise ConfigError(f"training is {shown(shared)}; it must be {KINDS['Training']}.")
        training = Training(**typed(Training, shared, "training setting"))
        suite = Suite(path.stem, **typed(Suite, values, "setting", {"name", "training"}), training=training)
        _check(suite)
    except (ConfigError, DataError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return suite


def _check(suite: Suite) -> None:
    """Check what types cannot say of a suite."""
    key, features = suite.dataset, "any"
    if key.count("/") == 1:
        key, features = key.split("/")
    check_name("data set", key)
    check_name("feature set", features)
    check_seeds(suite.seeds)
    for key in suite.methods:
        if key not in methods():
            raise ConfigError(f"methods: {broken_methods().get(key) or unknown_name('method', key, methods())}")
    corruption = (suite.data or {}).get("corruption", {})
    if not isinstance(corruption, dict):
        raise ConfigError("data: corruption must be a mapping of names to values.")
    corruption_settings(corruption)
    data_settings({key: value for key, value in (suite.data or {}).items() if key != "corruption"})


def check_seeds(seeds: Iterable[int]) -> None:
    """Check that seeds are some.

    Raises:
        ConfigError: When one is not.
    """
    if outside := [seed for seed in seeds if not 0 <= seed < SEEDS]:
        raise ConfigError(f"{shown(outside[0])} is no seed: seeds go from 0 to {SEEDS - 1}.")


def find_suite(folder: Path, name: str) -> Suite:
    """Return a suite by name; ``default`` exists even without a file.

    Raises:
        ConfigError: When there is none; the message names the nearest.
    """
    known = _suite_files(folder)
    if name not in known:
        if name == "default":
            return Suite("default")
        raise ConfigError(unknown_name("suite", name, list(known) or ["default"]))
    return load_suite(known[name])


def shipped_settings(folder: Path, key: str, dataset: str, feature_set: str, suite: str) -> dict[str, Any]:
    """Return the settings of a method that the benchmarks folder ships for some data.

    ``benchmarks/methods/<method>.yaml`` holds only what differs from the method's own defaults, under the keys
    ``default``, ``<data set>``, ``<data set>/<feature set>`` and ``suite:<name>``; later ones win. A suite named
    ``ci-clips`` is of the family ``ci`` and takes its settings.

    Raises:
        ConfigError: When they are none of the method's; the message names the file.
    """
    path = folder / "methods" / f"{key}.yaml"
    if not path.exists():
        return {}
    values = read_mapping(path)
    settings: dict[str, Any] = {}
    for section in ("default", dataset, f"{dataset}/{feature_set}", f"suite:{suite.partition('-')[0]}"):
        found = values.get(section)
        if not isinstance(found, dict | None):
            raise ConfigError(f"{path}: {section} is {shown(found)}; it must be a mapping of settings to values.")
        settings.update(found or {})
    try:
        method(key).Config.parse(settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return settings


def data_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return data settings from the command line or a suite, with their types.

    Raises:
        ConfigError: When a setting does not exist or a value does not fit.
    """
    if isinstance(values.get("modalities"), str):
        values = {**values, "modalities": [name.strip(" []\"'") for name in values["modalities"].split(",")]}
    return typed(FusionDataModule, values, "data setting", NOT_SETTINGS)


def corruption_settings(values: Mapping[str, Any]) -> Corruption:
    """Return the corruption from plain settings.

    Raises:
        ConfigError: When a setting does not exist or a value does not fit.
    """
    return Corruption(**typed(Corruption, values, "corruption setting"))


def typed(cls: type[Any], values: Mapping[str, Any], what: str, skip: Collection[str] = ()) -> dict[str, Any]:
    """Return plain values (YAML, command line) with the types that the arguments of a class have.

    Args:
        cls: The class.
        values: The values by name.
        what: What a name is, for messages.
        skip: Arguments that are none of the settings.

    Raises:
        ConfigError: When a name is unknown or a value does not fit.
    """
    kinds = {name: str(kind) for name, kind in cls.__init__.__annotations__.items()}
    allowed = {key: KINDS.get(kind, f"of the type {kind}") for key, kind in kinds.items()}
    parsed = parse_values(cls, values, what, lambda key: (f"The {what} {key!r}", f"it must be {allowed[key]}"), skip)
    return {key: parsed[key] for key in values}
