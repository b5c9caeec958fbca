"""Facial action units as OpenFace 2 writes them: intensities ``AUxx_r`` (0 to 5) and presences ``AUxx_c`` (0 or 1).

Two layouts are read: a table with one row of averages per clip, and OpenFace's own file with one row per video frame.
Columns are found by name, whatever their order and the blanks around them (OpenFace puts one before each name).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from data_modules.schema import DataError

MIN_CONFIDENCE = 0.5
AU_NAME = re.compile(r"AU\d\d_[rc]")
_FRAME_EXTRAS = ("success", "confidence")


def _read(path: Path, extras: Sequence[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the action units and the named extra columns of a file, and the names of the action units."""
    try:
        # The first row of numbers is read along, so that one with more fields than the header (decimal commas) fails.
        start = pd.read_csv(path, header=None, nrows=2, dtype=str, keep_default_na=False)
        header = [name.strip() for name in start.iloc[0]]
        units = tuple(sorted((name for name in header if AU_NAME.fullmatch(name)), key=lambda n: (n[-1] == "c", n)))
        if not units:
            raise DataError(
                f"{path} has no action unit column (AU01_r, AU01_c, ...); its columns begin with {header[:5]}. "
                "Give a file of OpenFace, run with -aus."
            )
        wanted = [name for name in header if name in units or name in extras]
        places = [header.index(name) for name in wanted]
        table = pd.read_csv(path, header=None, skiprows=1, usecols=places, dtype=str, skipinitialspace=True)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path} is not readable as a CSV file ({error}).") from error
    table = table[sorted(places)].set_axis([header[place] for place in sorted(places)], axis="columns")
    for name in (name for name in wanted if name != "clip"):
        try:
            # Python's way of numbers is exact, and so the same everywhere; the reader's may be off in the last digit.
            table[name] = table[name].to_numpy(object).astype(float)
        except ValueError:
            raise DataError(
                f"{path} has text in the column {name}, which holds numbers. Make the file again."
            ) from None
    return table, units


def read_clips(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Read a table with one row per clip.

    Returns:
        The rows by clip name, with the action units (intensities first) and, if the file has it, ``fold``; and the
        names of the action units.

    Raises:
        DataError: For no ``clip`` column, a repeated clip, or a value that is not a number.
    """
    table, units = _read(path, ("clip", "fold"))
    if "clip" not in table:
        raise DataError(f"{path} has no column 'clip' with the name of the clip of each row.")
    table["clip"] = table["clip"].str.strip()
    twice = table["clip"][table["clip"].duplicated()]
    if len(twice):
        raise DataError(f"{path} has two rows for the clip {twice.iloc[0]!r}. Keep one.")
    bad = table["clip"][~np.isfinite(table[list(units)].to_numpy(float)).all(axis=1)]
    if len(bad):
        raise DataError(f"{path} has empty action units for {len(bad)} clips, first {bad.iloc[0]!r}. Remove the rows.")
    return table.set_index("clip"), units


def read_frames(
    path: Path, min_confidence: float = MIN_CONFIDENCE
) -> tuple[npt.NDArray[np.float32], tuple[str, ...], int]:
    """Read a file with one row per video frame.

    Frames where the tracker failed (``success`` 0, a confidence below the least, or an empty value) are dropped: what
    OpenFace writes there is the face of no one.

    Args:
        path: The CSV file.
        min_confidence: Least ``confidence`` (0 to 1) of a frame that is kept.

    Returns:
        ``(T, units)`` action units, their names (intensities first), and the number of dropped frames.
    """
    table, units = _read(path, _FRAME_EXTRAS)
    values = table[list(units)].to_numpy(np.float32)
    good = np.isfinite(values).all(axis=1)
    if "success" in table:
        good &= table["success"].to_numpy() == 1
    if "confidence" in table:
        good &= table["confidence"].to_numpy() >= min_confidence
    return values[good], units, int((~good).sum())
