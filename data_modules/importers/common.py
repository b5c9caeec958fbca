"""What the importers share: the source they yield, sample names, padding, group-wise cuts, and errors."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_modules.schema import DataError, TargetSpec
from data_modules.store import SPLITS, Sample, SplitTables, StoreInfo

Array = npt.NDArray[Any]
Extents = dict[str, list[tuple[int, int]]]
"""By modality and sample the first real step and the one after the last."""

SPLIT_NAMES = {
    "train": "train",
    "valid": "valid",
    "dev": "valid",
    "val": "valid",
    "validation": "valid",
    "test": "test",
}
"""The names of the three parts in published files, and ours."""


@dataclass(frozen=True)
class Source:
    """What an importer makes of a file: everything :func:`data_modules.store.write_store` needs but the path.

    Attributes:
        info: What is said of all samples.
        samples: The samples, one at a time.
        splits: From the samples (without their inputs) to split tables by protocol; by default one table from the
            samples' own ``split``.
        protocol: Name of that default table.
    """

    info: StoreInfo
    samples: Iterable[Sample]
    splits: Callable[[list[Sample]], SplitTables] | None = None
    protocol: str = "standard"


def string(value: Any) -> str:
    """Return text that a file holds as ``str``, ``bytes`` or a numpy scalar."""
    if not isinstance(value, str | bytes | int | float | np.generic):
        raise DataError(f"A name or a text is a {type(value).__name__}; strings were expected.")
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text.replace("\0", "")


def sample_name(raw: Any) -> tuple[str, str]:
    """Return ``(id, video)`` of a sample, the id as ``video[clip]``, from any of the published forms.

    The forms are ``v$_$c`` (MMSA), ``v_c`` as text or bytes (the last underscore counts: names of videos contain
    underscores), ``v[k]`` (CMU SDK, MAG, MISA) and MulT's rows of three: ``(v_c, ., .)`` for MOSI and
    ``(v, start, end)`` for MOSEI. A name of none of these forms is its own id and its own video.
    """
    if isinstance(raw, list | tuple | np.ndarray):
        parts = [string(part) for part in raw]
        # A MOSEI row gives times; a MOSI row names the clip already, and may give times as well. MOSI rows are bytes,
        # and what precedes a clip number is a YouTube name of 11 characters, so that a bare video cannot match.
        names_clip = isinstance(raw[0], bytes) or re.fullmatch(r".{11,}_\d+", parts[0])
        if len(parts) == 3 and not names_clip and _is_number(parts[1]) and _is_number(parts[2]):
            return f"{parts[0]}[{parts[1]}-{parts[2]}]", parts[0]
        return sample_name(parts[0])
    name = string(raw)
    for form in (r"(.+)\$_\$(.+)", r"(.+)\[(.+)\]", r"(.+)_(\d+)"):
        if match := re.fullmatch(form, name):
            return f"{match[1]}[{match[2]}]", match[1]
    return name, name


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def extent(values: Array) -> tuple[int, int]:
    """Return ``(start, stop)`` of what remains of ``(T, D)`` when all-zero steps are taken off both ends.

    Files pad on either side, and at an end a step of zeros cannot be told from padding. NaN and infinite values are
    content. All zeros give ``(0, 0)``.
    """
    real = np.flatnonzero((values != 0).any(axis=tuple(range(1, values.ndim))))
    return (int(real[0]), int(real[-1]) + 1) if len(real) else (0, 0)


def union(extents: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return the smallest extent that holds all of them; modalities on one time axis must be cut alike."""
    real = [one for one in extents if one[1] > one[0]]
    return (min(one[0] for one in real), max(one[1] for one in real)) if real else (0, 0)


def shared(extents: Extents) -> Extents:
    """Return the extents of modalities on one time axis: a sample's modalities are all cut to their union."""
    cut = [union(sample) for sample in zip(*extents.values(), strict=True)]
    return dict.fromkeys(extents, cut)


def rank(names: Iterable[str]) -> list[str]:
    """Return distinct names in an arbitrary order that depends on nothing but the names (SHA-256)."""
    return sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def hold_out(groups: Sequence[str], share: float) -> set[str]:
    """Return a share of the groups, at least one, chosen by :func:`rank`.

    Raises:
        DataError: When nothing would be left.
    """
    if not 0 < share < 1:
        raise DataError(f"The share of groups to hold out is {share}; it must lie between 0 and 1.")
    names = rank(groups)
    if len(names) < 2:
        raise DataError("Holding out whole groups needs two groups or more. Give a split instead.")
    return set(names[: min(len(names) - 1, max(1, round(share * len(names))))])


def cut_by_group(groups: Sequence[str]) -> dict[str, str]:
    """Return the split of every group: a fifth of the groups to test, a tenth of the rest to valid, the rest to train.

    Raises:
        DataError: When there are fewer than three groups.
    """
    if len(set(groups)) < 3:
        raise DataError(f"Cutting three parts by group needs three groups or more, here are {len(set(groups))}.")
    test = hold_out(groups, 0.2)
    valid = hold_out([name for name in groups if name not in test], 0.1)
    return {name: "test" if name in test else "valid" if name in valid else "train" for name in groups}


def outside_scale(labels: Array, target: TargetSpec) -> list[str]:
    """Return a note when regression labels leave the scale of the target, else nothing."""
    if target.kind != "regression" or target.low is None or target.high is None:
        return []
    count = int(((labels < target.low) | (labels > target.high)).sum())
    where = f"[{target.low:g}, {target.high:g}]"
    return [f"{count} labels lie outside the scale {where}; they were kept as they are."] if count else []


def structure(content: Any, depth: int = 2) -> str:
    """Return in words what a loaded file holds, for messages."""
    if isinstance(content, np.ndarray):
        return f"array {content.shape}"
    if isinstance(content, Mapping):
        keys = list(content)[:12]
        inner = f", each like {structure(content[keys[0]], depth - 1)}" if keys and depth > 1 else ""
        return f"dict with the keys {', '.join(map(str, keys))}{inner}"
    if isinstance(content, list | tuple):
        inner = f" of {structure(content[0], depth - 1)}" if content and depth > 0 else ""
        return f"{type(content).__name__} of length {len(content)}{inner}"
    return type(content).__name__


def likely_importer(content: Any) -> str | None:
    """Return the key of the importer that reads such a content, as far as its outline tells."""
    if isinstance(content, Mapping):
        parts = [content[name] for name in SPLIT_NAMES if name in content]
        if parts and isinstance(parts[0], Mapping):
            return "mult" if "labels" in parts[0] else "mmsa" if "regression_labels" in parts[0] else None
        return likely_importer(parts[0]) if parts else None
    if isinstance(content, list | tuple) and content and isinstance(content[0], list | tuple) and len(content[0]) == 3:
        return "misa"
    return None


def published_parts(content: Any) -> dict[str, Any] | None:
    """Return train, valid and test of a dict, whatever it calls them, or None when it is none or one is missing."""
    if not isinstance(content, Mapping):
        return None
    found = {SPLIT_NAMES[key]: part for key, part in content.items() if key in SPLIT_NAMES}
    return {split: found[split] for split in SPLITS} if set(found) == set(SPLITS) else None


def foreign(path: Path, content: Any, importer: str, wanted: str) -> DataError:
    """Return the error for a file of another layout: what is there, what was expected, which importer may fit."""
    other = likely_importer(content)
    advice = (
        f"It looks like a file for `mmbench data import {other}`."
        if other not in (None, importer)
        else "For features of your own, use the documented layout of `mmbench data import plain`."
    )
    return DataError(f"{path} holds a {structure(content)}; the {importer} importer expects {wanted}. {advice}")


def check_rows(path: Path, split: str, rows: Mapping[str, Any], samples: int) -> None:
    """Refuse columns of a split that do not have one row per sample.

    Raises:
        DataError: With the name and the length of the column.
    """
    for name, column in rows.items():
        try:
            found = f"{len(column)} rows"
        except TypeError:
            found = "no rows"
        if found != f"{samples} rows":
            raise DataError(
                f"{path}: in the split {split!r}, {name!r} has {found} for {samples} samples. "
                "The file is damaged or was cut: get it again."
            )


def sequences(path: Path, split: str, name: str, values: Any) -> Array:
    """Return a padded modality as its ``(N, T, D)`` array, not copied.

    Raises:
        DataError: When it has another shape or does not hold numbers.
    """
    array = np.asarray(values)
    if array.ndim != 3 or array.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: in the split {split!r}, {name!r} is a {array.dtype} array of shape {array.shape}; "
            "numbers of shape (samples, steps, features) were expected."
        )
    return array
