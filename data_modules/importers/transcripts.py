"""What is said in samples, from a table of texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from data_modules.budget import check_size
from data_modules.schema import DataError

ENDINGS = (".csv", ".tsv")
TABLE_COST = 16
"""Bytes of memory for a byte of a table of text."""


def read_table(path: Path) -> dict[str, str]:
    """Return the texts of a table by id, without white space at either end.

    Args:
        path: CSV or TSV with the columns ``id`` and ``text``; others are ignored.

    Raises:
        DataError: When the table is not such a one, or has two rows for one id.
    """
    try:
        check_size(path, "its rows", TABLE_COST * path.stat().st_size)
        rows = pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",", dtype=str, keep_default_na=False)
    except DataError:
        raise
    except (OSError, ValueError, OverflowError, MemoryError) as error:
        raise DataError(
            f"{path} is not readable as a table ({error}). Save it as CSV in UTF-8, with the columns id and text."
        ) from error
    if missing := {"id", "text"} - set(rows):
        raise DataError(f"{path} lacks the column {' and '.join(sorted(missing))}; it has: {', '.join(rows.columns)}.")
    ids = rows["id"].str.strip()
    if len(twice := ids[ids.duplicated()]):
        raise DataError(f"{path} has two rows for {twice.iloc[0]!r}. Keep one.")
    return dict(zip(ids, rows["text"].str.strip(), strict=True))


def read_texts(path: Path, ids: Sequence[str]) -> list[str]:
    """Return what a table, or the tables of a folder, say is said in samples.

    Args:
        path: The table, as for :func:`read_table`, or the folder.
        ids: The samples; rows of others are ignored.

    Raises:
        DataError: When there is no table, one is no such table, or a sample has no row, or two.
    """
    texts = _read_tables(path)
    missing = [name for name in ids if name not in texts]
    if missing:
        raise DataError(
            f"{path} has no row for {len(missing)} of {len(ids)} samples, the first {missing[0]!r}; its ids are "
            f"like {next(iter(texts), '')!r}. Give the transcripts of these samples, under the same ids."
        )
    return [texts[name] for name in ids]


def _read_tables(path: Path) -> dict[str, str]:
    if not path.is_dir():
        return read_table(path)
    texts: dict[str, str] = {}
    for table in sorted(found for found in path.iterdir() if found.suffix.lower() in ENDINGS):
        more = read_table(table)
        if twice := sorted(texts.keys() & more.keys()):
            raise DataError(f"{path} has rows for {twice[0]!r} in two tables. Keep one.")
        texts |= more
    if not texts:
        raise DataError(f"{path} holds no texts. Give a folder of tables that end in {' or '.join(ENDINGS)}.")
    return texts


def flaw_of(transcript: str, where: Path) -> str:
    """Return why a sample cannot be used with what a file says that is said in it; empty when it can."""
    if "\0" in transcript or transcript != transcript.encode(errors="replace").decode():
        return f"{where} holds what is no text, such as a zero byte. Save it in UTF-8."
    return ""
