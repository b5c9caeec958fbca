"""Suites and shipped method settings: what is run by default, and what differs per data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

import mmbench
from data_modules.schema import unknown
from mmbench.methods import ConfigError
from mmbench.runner.training import Training


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
    """

    name: str
    title: str = ""
    dataset: str = "synthetic"
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (1111, 1112, 1113)
    training: Training = field(default_factory=Training)
    data: Mapping[str, Any] | None = None


HERE = Path("benchmarks")
PACKAGE = Path(mmbench.__file__).parent
PARTS = ("suites", "methods", "baselines")
LISTS: dict[str, type[Any]] = {"methods": str, "seeds": int}
EXAMPLES = {"methods": "[mmim, mult]", "seeds": "[1111, 1112]"}


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


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        ConfigError: When the file is not YAML or not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of names to values.")
    return values


def parse_settings(kind: type[Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the values if all of them are fields of a dataclass.

    Raises:
        ConfigError: When one is not; the message names the nearest.
    """
    known = [item.name for item in fields(kind)]
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: {unknown('setting', key, known)}")
    return dict(values)


def suites(folder: Path) -> dict[str, Suite]:
    """Return the suites of a benchmarks folder by name."""
    return {name: load_suite(path) for name, path in _suite_files(folder).items()}


def _suite_files(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted((folder / "suites").glob("*.yaml"))}


def load_suite(path: Path) -> Suite:
    """Return one suite from its file.

    Raises:
        ConfigError: When a setting does not exist or has the wrong type.
    """
    values = parse_settings(Suite, {"name": path.stem, **read_yaml(path)}, str(path))
    for key, kind in LISTS.items():
        found = values.get(key, [])
        if not isinstance(found, list) or any(type(item) is not kind for item in found):
            raise ConfigError(f"{path}: {key} must be a list of {kind.__name__} values, such as {EXAMPLES[key]}.")
        if key in values:
            values[key] = tuple(found)
    for key in ("training", "data"):
        if not isinstance(values.get(key, {}), dict):
            raise ConfigError(f"{path}: {key} must be a mapping of names to values.")
    shared = parse_settings(Training, values.pop("training", {}), f"{path}: training")
    for key, value in shared.items():
        if type(value) is not type(getattr(Training, key)):
            raise ConfigError(f"{path}: training: {key} is {value!r}; give a value like {getattr(Training, key)!r}.")
    return replace(Suite(**values), training=Training(**shared))


def find_suite(folder: Path, name: str) -> Suite:
    """Return a suite by name; ``default`` exists even without a file.

    Raises:
        ConfigError: When there is none; the message names the nearest.
    """
    known = _suite_files(folder)
    if name not in known:
        if name == "default":
            return Suite("default")
        raise ConfigError(unknown("suite", name, list(known) or ["default"]))
    return load_suite(known[name])


def shipped_settings(folder: Path, method: str, dataset: str, feature_set: str, suite: str) -> dict[str, Any]:
    """Return the settings of a method that the benchmarks folder ships for some data.

    ``benchmarks/methods/<method>.yaml`` holds only what differs from the method's own defaults, under the keys
    ``default``, ``<data set>``, ``<data set>/<feature set>`` and ``suite:<name>``; later ones win. A suite named
    ``ci-clips`` is of the family ``ci`` and takes its settings.
    """
    path = folder / "methods" / f"{method}.yaml"
    if not path.is_file():
        return {}
    values = read_yaml(path)
    settings: dict[str, Any] = {}
    for key in ("default", dataset, f"{dataset}/{feature_set}", f"suite:{suite.partition('-')[0]}"):
        settings.update(values.get(key) or {})
    return settings
