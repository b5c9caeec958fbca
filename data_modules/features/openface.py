"""Facial action units as OpenFace 2 writes them: intensities ``AUxx_r`` (0 to 5) and presences ``AUxx_c`` (0 or 1).

Two layouts are read: a table with one row of averages per clip, and OpenFace's own file with one row per video frame.
Columns are found by name, whatever their order and the blanks around them (OpenFace puts one before each name).
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt
import pandas as pd

from data_modules.budget import check_text
from data_modules.schema import DataError

MIN_CONFIDENCE = 0.5
AU_NAME = re.compile(r"AU\d\d_[rc]")
EMPTY = ("", "NA", "N/A", "NULL", "null", "None")
"""What stands for a missing number, beside NaN in any writing."""
LONGEST_LINE = 1 << 20
LARGEST = float(np.finfo(np.float32).max)
_FRAME_EXTRAS = ("success", "confidence")


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise DataError(f"{path} has a line of a million characters: it is no table of OpenFace. Make it again.")
        yield line


def _read(path: Path, extras: Sequence[str]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the action units and the named extra columns of a file, and the names of the action units."""
    try:
        check_text(path)
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(_lines(path, file), skipinitialspace=True)
            header = [name.strip() for name in next(reader, [])]
            found = [name for name in header if AU_NAME.fullmatch(name)]
            units = tuple(sorted(found, key=lambda name: (name[-1] == "c", name)))
            if not header:
                raise DataError(f"{path} is not readable as a CSV file: its first line is empty. Make the file again.")
            if not units:
                raise DataError(
                    f"{path} has no action unit column (AU01_r, AU01_c, ...); its columns begin with "
                    f"{header[:5]!s:.200}. Give a file of OpenFace, run with -aus."
                )
            places = {name: header.index(name) for name in (*extras, *units) if name in header}
            twice = [name for name in places if header.count(name) > 1]
            if twice:
                raise DataError(f"{path} has two columns {twice[0]}, and which one counts is unknown. Remove one.")
            cells: dict[str, list[str]] = {name: [] for name in places}
            for row in reader:
                if len(row) > len(header):  # such as decimal commas
                    raise DataError(
                        f"{path} is not readable as a CSV file (line {reader.line_num} has {len(row)} cells, its "
                        f"header has {len(header)}). Make the file again."
                    )
                for name, place in places.items() if row else ():
                    cells[name].append(row[place].strip() if place < len(row) else "")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} is not readable as a CSV file ({error}). It is damaged or not in UTF-8: make the file again."
        ) from error
    table = {name: column if name == "clip" else _numbers(path, name, column) for name, column in cells.items()}
    return pd.DataFrame(table), units


def _numbers(path: Path, name: str, cells: list[str]) -> list[float]:
    numbers = []
    for cell in cells:
        try:
            number = float("nan" if cell in EMPTY else cell)
        except ValueError:
            raise DataError(
                f"{path} has text in the column {name}, which holds numbers: {cell!r:.60}. Make the file again."
            ) from None
        if LARGEST < abs(number) < np.inf:
            raise DataError(f"{path} has {number:g} in the column {name}, which no face has. Make the file again.")
        numbers.append(number)
    return numbers


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
