"""Files of ``numpy.savez``, each array's outline looked at before the array is read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt

from data_modules.budget import Allowance, no_memory
from data_modules.schema import DataError

SUFFIX = ".npy"
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
TEXT_BYTES = 128
"""What a text takes in memory beside its characters."""


class Npz:
    """An npz file, open for reading.

    Args:
        path: The file.
        file: The same, open as a zip archive.
    """

    def __init__(self, path: Path, file: ZipFile) -> None:
        self.path, self._file = path, file
        self._allowance = Allowance(path)

    def names(self) -> list[str]:
        """Return the names of the arrays."""
        return [name.removesuffix(SUFFIX) for name in self._file.namelist() if name.endswith(SUFFIX)]

    def has(self, name: str) -> bool:
        """Return whether there is an array of that name."""
        return f"{name}{SUFFIX}" in self._file.namelist()

    def load(self, name: str, copies: int = 1) -> npt.NDArray[Any]:
        """Return an array of numbers or texts.

        Args:
            name: Its name.
            copies: How many times over its memory will be taken.

        Raises:
            DataError: When it holds objects, is damaged or too large.
        """
        with self._reading(name):
            info = self._file.getinfo(f"{name}{SUFFIX}")
            self._allowance.take(name, 0, at_once=info.file_size)
            with self._file.open(info) as file:
                header = HEADERS.get(np.lib.format.read_magic(file))
                if header is None:
                    raise ValueError("a version of the format that holds no plain array")
                shape, _, dtype = header(file)
                size = math.prod(shape) * dtype.itemsize
                if dtype.hasobject:
                    raise ValueError("Object arrays hold pickles, which are not loaded")
                if min(shape, default=0) < 0 or file.tell() + size != info.file_size:
                    raise ValueError(f"its shape is {shape}, and that is not its size")
            texts = dtype.kind in "US"
            self._allowance.take(
                name, (2 if texts else copies) * size + (TEXT_BYTES * math.prod(shape) if texts else 0)
            )
            with self._file.open(info) as file:
                return np.asarray(np.lib.format.read_array(file, allow_pickle=False))

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except DataError:
            raise
        except MemoryError as error:
            raise no_memory(f"{self.path}: {name!r}") from error
        except Exception as error:  # what the many packings of zip and the outline of an array come to
            raise DataError(
                f"{self.path}: {name!r} cannot be read ({error or type(error).__name__}). Save strings as "
                "numpy.array(list_of_str), ragged features as one flat array with lengths, and check that the file is "
                "complete."
            ) from error
