"""Reading pickles of strangers without running their code.

A pickle is a program: it names functions and calls them. Here it may name numpy arrays, plain containers and a text
codec, nothing else; any other name ends the load with an error, before anything is called.

Allowing numpy's own entry points would not be enough. ``dtype.__setstate__`` takes flags from the file, and an array
of "objects" whose flags deny it turns bytes of the file into pointers. So the numpy names lead to the stand-ins of
this module, which keep of a dtype only its kind, size and byte order, and build arrays from those.
"""

from __future__ import annotations

import math
import pickle
import re
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_modules.schema import DataError

MAGIC = {b"PK": "a zip archive (npz or a torch file)", b"\x89HDF": "HDF5", b"\x1f\x8b": "gzip", b"BZh": "bzip2"}
"""First bytes of other kinds of files that people give to an importer of pickles."""


class _Refused(pickle.UnpicklingError):
    """The pickle wants something that no feature file needs."""


class _Dtype:
    """Stand-in for a pickled ``numpy.dtype``: kind and size from its name, byte order from its state."""

    def __init__(self, name: str, align: bool = False, copy: bool = False) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[?bBhHiIlLqQefdgFDGSUO]\d*|[ufc]\d+", name):
            raise _Refused(f"the dtype {name!r}")
        self.real = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">", "="):
            self.real = self.real.newbyteorder(state[1])


class _Array(np.ndarray[Any, np.dtype[Any]]):
    """An array under construction; ``numpy.asarray`` gives the plain array without a copy."""

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype):
            raise _Refused(f"an array whose dtype is a {type(dtype).__name__}")
        if dtype.real.hasobject:
            # numpy reads as many items as the shape says without looking at the length of the list.
            if not isinstance(data, list) or len(data) != math.prod(shape):
                raise _Refused("an array of objects without its list")
        elif isinstance(data, str):
            data = data.encode("latin1")
        checked: Any = (1, shape, dtype.real, bool(fortran), data)
        super().__setstate__(checked)


def _reconstruct(subtype: object, shape: object, code: object) -> _Array:
    """Stand-in for numpy's function of this name, which opens every array up to pickle protocol 4."""
    return np.empty(0, np.int8).view(_Array)


def _frombuffer(
    data: Any, dtype: _Dtype, shape: tuple[int, ...], order: Any, axes: tuple[int, ...] | None = None
) -> npt.NDArray[Any]:
    """Stand-in for numpy's function of this name, which makes the arrays of pickle protocol 5."""
    flat = np.frombuffer(data, dtype.real)
    if order == "K" and axes is not None:
        return flat.reshape(shape).transpose(axes)
    return flat.reshape(shape, order=order)


def _scalar(dtype: _Dtype, data: Any) -> Any:
    """Stand-in for ``numpy.core.multiarray.scalar``."""
    raw = data.encode("latin1") if isinstance(data, str) else data
    if not raw:
        return "" if dtype.real.kind == "U" else b""
    return np.frombuffer(raw, dtype.real)[0]


def _encode(text: str, codec: str = "latin1") -> bytes:
    """Stand-in for ``_codecs.encode``, by which protocols up to 2 write bytes; ``str`` knows codecs of text only."""
    return text.encode(codec)


def _fixed(state: object) -> None:
    """Refuse a pickle that sets attributes of the stand-ins themselves, which would outlast it."""
    raise _Refused("a change of this program")


for _stand_in in (_reconstruct, _frombuffer, _scalar, _encode):
    setattr(_stand_in, "__setstate__", _fixed)  # noqa: B010 - pickle looks for it before it sets anything


def _allowed() -> dict[tuple[str, str], Any]:
    plain = (list, dict, tuple, set, frozenset, int, float, complex, bool, str, bytes, bytearray)
    names: dict[tuple[str, str], Any] = {}
    for module in ("builtins", "__builtin__"):
        names.update({(module, one.__name__): one for one in plain})
    names.update({("__builtin__", "long"): int, ("__builtin__", "unicode"): str})
    names.update({("collections", "OrderedDict"): OrderedDict, ("collections", "defaultdict"): defaultdict})
    names[("_codecs", "encode")] = _encode
    # Only ever an argument of _reconstruct, which knows what it makes.
    names[("numpy", "ndarray")] = None
    names[("numpy", "dtype")] = _Dtype
    for core in ("numpy.core", "numpy._core"):
        names[(f"{core}.multiarray", "_reconstruct")] = _reconstruct
        names[(f"{core}.multiarray", "scalar")] = _scalar
        names[(f"{core}.numeric", "_frombuffer")] = _frombuffer
    return names


ALLOWED = _allowed()
"""What a pickle may name: ``(module, name)`` and what it gets."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


def load_pickle(path: Path) -> Any:
    """Return the content of a pickle of protocol 0 to 5 that holds arrays and plain containers only.

    Text that Python 2 wrote is read as Latin-1, which its arrays need.

    Raises:
        DataError: When the file is missing, truncated, no pickle, or names anything else.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}. Give the path of the pickle itself.")
    with path.open("rb") as file:
        magic = file.read(4)
        for start, kind in MAGIC.items():
            if magic.startswith(start):
                raise DataError(
                    f"{path} is {kind}, not a pickle. Unpack an archive first; bring in npz and HDF5 files with "
                    "`mmbench data import plain`."
                )
        file.seek(0)
        try:
            return _Unpickler(file, encoding="latin1").load()
        except _Refused as error:
            raise DataError(
                f"{path} was not loaded: it asks for {error}, and a file of features needs only arrays and plain "
                "containers. Nothing of it was run. It may be hostile, or made by other code: get it from its "
                "authors, or save the arrays as npz and bring them in with `mmbench data import plain`."
            ) from None
        except Exception as error:
            # The documentation of pickle names no closed list of errors for damaged input.
            raise DataError(
                f"{path} cannot be read as a pickle ({type(error).__name__}: {error}). It is truncated or another "
                "kind of file: compare its size with the published one and get it again."
            ) from error
