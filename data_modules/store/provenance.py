"""Where values come from: recipes, and digests of what they were computed from.

Features that others made are known by their exact values. What is computed here is not: the same program gives other
last digits on another processor, so its values say nothing that two people could compare. It is known by its *recipe*
(the extractor, all settings that decide the values, and the revision of the extractor's own code) and, sample by
sample, by its *origin*, the SHA-256 of the bytes that it was computed from. Versions of libraries are recorded beside.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_modules.schema import DataError


@dataclass(frozen=True)
class Recipe:
    """How the values of a modality are computed from their origins.

    Attributes:
        extractor: What computes them.
        settings: Every setting that decides the values: numbers, strings, truth values, and lists and dicts of these;
            nothing that names a place on one machine.
        revision: Raised when the extractor's own code comes to give other values.
        libraries: Packages that compute along.
    """

    extractor: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    revision: int = 1
    libraries: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what decides the values, as plain containers."""
        return {"extractor": self.extractor, "revision": self.revision, "settings": plain(self.settings)}


def plain(value: Any) -> Any:
    """Return containers as JSON knows them, alike whatever made them: whole numbers as int, sequences as lists.

    Raises:
        DataError: For anything that is no number, string, truth value, or container of these.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise DataError(f"{value!r} is a {type(value).__name__}: digests are taken of numbers, strings and lists of them.")


def digest(content: Any) -> str:
    """Return the SHA-256 of plain containers, the same whatever the order of keys, the platform or the version."""
    text = json.dumps(plain(content), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of the bytes of a file; neither its name nor its place count.

    Raises:
        DataError: When it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from error


def array_digest(arrays: Iterable[npt.NDArray[Any]]) -> str:
    """Return the SHA-256 of arrays, in order: their types, shapes and values."""
    found = hashlib.sha256()
    for array in arrays:
        update(found, array.shape, array.dtype, [array])
    return found.hexdigest()


def combined(digests: Sequence[str]) -> str:
    """Return one digest of what is computed from several files, in order; that of one file is its own."""
    return digests[0] if len(digests) == 1 else digest(digests)


def update(
    found: hashlib._Hash, shape: tuple[int, ...], dtype: np.dtype[Any], parts: Iterable[npt.NDArray[Any]]
) -> None:
    """Take an array into a digest, part by part along its first axis; the order of bytes is that of small machines."""
    found.update(f"{dtype.kind}{dtype.itemsize}{list(shape)};".encode())
    for part in parts:
        found.update(np.ascontiguousarray(part, dtype.newbyteorder("<")).data)


def versions(recipes: Iterable[Recipe]) -> dict[str, str]:
    """Return the versions of the libraries of recipes, as far as they are installed."""
    found = {}
    for name in sorted({name for recipe in recipes for name in recipe.libraries}):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # under another name, such as a build of OpenCV
            continue
    return found


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """Return a stored recipe in words."""
    settings = [f"{key} {_word(value)}" for key, value in recipe["settings"].items()]
    return ", ".join([recipe["extractor"], *settings, f"revision {recipe['revision']}"])


def _word(value: Any) -> str:
    if isinstance(value, str) and len(value) == hashlib.sha256().digest_size * 2:
        return value[:12]
    return f"({recipe_text(value)})" if isinstance(value, Mapping) and "extractor" in value else str(value)
