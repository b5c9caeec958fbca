"""Downloading the releases that anyone may download, each as its data set has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_modules.datasets.ravdess.download import download_ravdess
from data_modules.schema import DataError, unknown_name

_DATASETS: dict[str, Callable[..., list[Path]]] = {"ravdess": download_ravdess}


def download(dataset: str, folder: Path, **options: Any) -> list[Path]:
    """Download a data set.

    Args:
        dataset: Key of the data set.
        folder: Where the files go.
        options: What to download of it, and from where: keyword arguments of its own function, such as
            :func:`data_modules.datasets.ravdess.download.download_ravdess`.

    Returns:
        The files.

    Raises:
        DataError: When there is no such data set or part, the server cannot be reached, or a file is not right.
        WriteError: When the folder cannot be written.
    """
    if dataset not in _DATASETS:
        raise DataError(
            f"{unknown_name('data set to download', dataset, _DATASETS)} Others come from their owners: `mmbench list "
            "datasets` says how."
        )
    return _DATASETS[dataset](Path(folder), **options)
