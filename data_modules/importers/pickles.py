"""Reading pickles of strangers without running their code, and within a memory budget.

A pickle is a program: it names functions and calls them. Here it may name numpy arrays, plain containers and a text
codec, nothing else; any other name ends the load with an error, before anything is called.

Allowing numpy's own entry points would not be enough. ``dtype.__setstate__`` takes flags from the file, and an array
of "objects" whose flags deny it turns bytes of the file into pointers. So the numpy names lead to the stand-ins of
this module, which keep of a dtype only its kind, size and byte order, and build arrays from those. Nor do the names of
containers lead to Python's own: ``bytearray(3000000000)`` is a short program.
"""

from __future__ import annotations

import math
import re
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data_modules.budget import check_size
from data_modules.importers.pickle_machine import SET_COST, Account, Built, Machine, Refused, check_key
from data_modules.schema import DataError

MAGIC = {b"PK": "a zip archive (npz or a torch file)", b"\x89HDF": "HDF5", b"\x1f\x8b": "gzip", b"BZh": "bzip2"}
"""First bytes of other kinds of files that people give to an importer of pickles."""
CODECS = ("latin1", "latin-1", "iso-8859-1", "ascii", "utf-8", "utf8")
DEEPEST = 30
"""Containers in each other; numpy takes 32 dimensions, and published files have six."""
MOST_EMPTY = 1 << 24
"""Rows of an array without values."""


class _Dtype(Built):
    """Stand-in for a pickled ``numpy.dtype``: kind and size from its name, byte order from its state."""

    def __init__(self, name: Any, align: bool = False, copy: bool = False) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"[?bBhHiIlLqQefdgFDGSUO]\d{0,9}|[ufc]\d{1,2}", name):
            raise Refused(f"the dtype {name!r:.100}")
        self.real = np.dtype(name)

    def build(self, state: Any) -> None:
        if state[1] in ("<", ">", "="):
            self.real = self.real.newbyteorder(state[1])

    def shape(self, shape: Any) -> tuple[int, ...]:
        """Return a shape that an array of this type can have."""
        if type(shape) is not tuple or len(shape) > 32 or not all(type(size) is int and size >= 0 for size in shape):
            raise Refused("an array whose shape is no tuple of sizes")
        # Ten to the twelve rows of no columns are no bytes in the file, and a loop without end afterwards.
        count = math.prod(shape)
        if (count and not self.real.itemsize) or (not count and math.prod(size or 1 for size in shape) > MOST_EMPTY):
            raise Refused(f"an array of shape {shape} and type {self.real} without values")
        return shape

    def filled(self, shape: Any, data: Any) -> bytes | bytearray:
        """Return the bytes of an array, which must be as many as its shape says."""
        if not isinstance(data, bytes | bytearray) or len(data) != math.prod(shape) * self.real.itemsize:
            size = f"{len(data)} bytes" if isinstance(data, bytes | bytearray) else f"a {type(data).__name__}"
            raise Refused(f"an array of shape {shape} and type {self.real} made of {size}")
        return data


class _Array(np.ndarray[Any, np.dtype[Any]], Built):
    """An array under construction; ``numpy.asarray`` gives the plain array without a copy."""

    def build(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        shape = _dtype(dtype).shape(shape)
        if dtype.real.hasobject:
            # numpy reads as many items as the shape says without looking at the length of the list.
            if not isinstance(data, list) or len(data) != math.prod(shape):
                raise Refused("an array of objects without its list")
        else:
            data = dtype.filled(shape, data.encode("latin1") if isinstance(data, str) else data)
        checked: Any = (1, shape, dtype.real, bool(fortran), data)
        self.__setstate__(checked)


def _dtype(dtype: Any) -> _Dtype:
    if not isinstance(dtype, _Dtype):
        raise Refused(f"an array whose dtype is a {type(dtype).__name__}")
    return dtype


class _StandIns:
    """What a pickle gets for the names that it may use; whatever they make is charged to an account."""

    def __init__(self, account: Account) -> None:
        self.account = account

    def array(self, *_: object) -> _Array:
        """Stand-in for ``numpy.core.multiarray._reconstruct``, which opens every array up to pickle protocol 4."""
        return np.empty(0, np.int8).view(_Array)

    def frombuffer(self, data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> npt.NDArray[Any]:
        """Stand-in for ``numpy.core.numeric._frombuffer``, which makes the arrays of pickle protocol 5."""
        shape = _dtype(dtype).shape(shape)
        flat = np.frombuffer(dtype.filled(shape, data), dtype.real)
        if order == "K" and axes is not None:
            return flat.reshape(shape).transpose(axes)
        return flat.reshape(shape, order=order)

    def scalar(self, dtype: Any, data: Any) -> Any:
        """Stand-in for ``numpy.core.multiarray.scalar``."""
        raw = data.encode("latin1") if isinstance(data, str) else data
        if not raw:
            return "" if _dtype(dtype).real.kind == "U" else b""
        return np.frombuffer(_dtype(dtype).filled((), raw), dtype.real)[0]

    def encode(self, text: Any, codec: Any = "latin1") -> bytes:
        """Stand-in for ``_codecs.encode``, by which protocols up to 2 write bytes."""
        if not isinstance(text, str) or codec not in CODECS:
            raise Refused(f"the codec {codec!r:.100}")
        data = text.encode(codec)
        self.account.spend(len(data))
        return data

    def binary(self, kind: type[bytes] | type[bytearray]) -> Callable[..., Any]:
        """Return a stand-in for ``bytes`` or ``bytearray``, which take no size here."""

        def make(data: Any = b"", codec: str = "latin1") -> Any:
            raw = self.encode(data, codec) if isinstance(data, str) else data
            if not isinstance(raw, bytes | bytearray):
                raise Refused(f"{kind.__name__} of a {type(raw).__name__}")
            self.account.spend(len(raw))
            return kind(raw)

        return make

    def container(self, kind: Callable[..., Any], hashed: bool = False) -> Callable[..., Any]:
        """Return a stand-in for a list, a tuple or a set."""

        def make(items: Any = ()) -> Any:
            if not isinstance(items, list | tuple | set | frozenset):
                raise Refused(f"a container made of a {type(items).__name__}")
            self.account.spend(SET_COST * len(items))
            return kind(map(check_key, items) if hashed else items)

        return make

    def mapping(self, kind: Callable[[], Any]) -> Callable[..., Any]:
        """Return a stand-in for a kind of dict, made of nothing or of pairs."""

        def make(pairs: Any = ()) -> Any:
            if not isinstance(pairs, list | tuple):
                raise Refused(f"a dict made of a {type(pairs).__name__}")
            self.account.spend(SET_COST * len(pairs))
            made = kind()
            for key, value in pairs:
                made[check_key(key)] = value
            return made

        return make

    def names(self) -> dict[tuple[str, str], Any]:
        """Return what a pickle may name: ``(module, name)`` and what it gets."""
        names: dict[tuple[str, str], Any] = {}
        for module in ("builtins", "__builtin__"):
            # Plain values are written as such; as names they are only the factories of a defaultdict.
            for name in ("int", "float", "bool", "str", "long", "unicode"):
                names[module, name] = None
            names[module, "list"], names[module, "tuple"] = self.container(list), self.container(tuple)
            names[module, "set"] = self.container(set, hashed=True)
            names[module, "frozenset"] = self.container(frozenset, hashed=True)
            names[module, "dict"], names[module, "complex"] = self.mapping(dict), _complex
            names[module, "bytes"], names[module, "bytearray"] = self.binary(bytes), self.binary(bytearray)
        names["collections", "OrderedDict"] = self.mapping(OrderedDict)
        names["collections", "defaultdict"] = lambda factory=None: defaultdict(None)
        names["_codecs", "encode"] = self.encode
        # Only ever an argument of _reconstruct, which knows what it makes.
        names["numpy", "ndarray"] = None
        names["numpy", "dtype"] = _Dtype
        for core in ("numpy.core", "numpy._core"):
            names[f"{core}.multiarray", "_reconstruct"] = self.array
            names[f"{core}.multiarray", "scalar"] = self.scalar
            names[f"{core}.numeric", "_frombuffer"] = self.frombuffer
        return names


def _complex(real: Any, imaginary: Any) -> complex:
    return complex(float(real), float(imaginary))


def load_pickle(path: Path) -> Any:
    """Return the content of a pickle of protocol 0 to 5 that holds arrays and plain containers only.

    Text that Python 2 wrote is read as Latin-1, which its arrays need. What is returned is nested no deeper than
    ``DEEPEST``, and fits into the memory budget even with every part written out wherever it is referred to.

    Raises:
        DataError: When the file is missing, truncated, no pickle, names anything else, or is larger in memory than
            files may be.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}. Give the path of the pickle itself.")
    try:
        with path.open("rb", buffering=1 << 16) as file:
            magic = file.read(4)
            for start, kind in MAGIC.items():
                if magic.startswith(start):
                    raise DataError(
                        f"{path} is {kind}, not a pickle. Unpack an archive first; bring in npz and HDF5 files with "
                        "`mmbench data import plain`."
                    )
            account = Account(path)
            content = Machine(file, _StandIns(account).names(), account).run()
            check_size(path, "its content with all parts written out", _written_out(content))
            return content
    except Refused as error:
        raise DataError(
            f"{path} was not loaded: it asks for {error}, and a file of features needs only arrays and plain "
            "containers. Nothing of it was run. It may be damaged, hostile, or made by other code: get it from its "
            "authors, or save the arrays as npz and bring them in with `mmbench data import plain`."
        ) from None
    except DataError:
        raise
    except MemoryError:
        raise DataError(
            f"{path} does not fit into the memory that is free. Close other programs, or take a machine with more."
        ) from None
    except Exception as error:
        # Damaged input ends in whatever the steps of the program stumble over.
        raise DataError(
            f"{path} cannot be read as a pickle ({type(error).__name__}: {error!s:.200}). It is truncated or another "
            "kind of file: compare its size with the published one and get it again."
        ) from error


def _written_out(content: Any) -> int:
    """Return about how many bytes a content takes with every part written out wherever it is referred to.

    Ten references to a list of ten references, and so on: short to write, and without end for whoever walks them.

    Raises:
        Refused: When a container holds itself, or they are nested too deep.
    """
    known: dict[int, int] = {}
    entered: dict[int, _Walk] = {}  # from the outermost to the innermost
    entered[id(content)] = _Walk(content)
    while True:
        here, walk = next(reversed(entered.items()))
        part = next(walk.inner, None)
        if part is None:
            known[here] = entered.pop(here).size
            if not entered:
                return known[here]
            next(reversed(entered.values())).size += known[here]
        elif id(part) in known:
            walk.size += known[id(part)]
        elif id(part) in entered or len(entered) > DEEPEST:
            raise Refused(f"containers that are more than {DEEPEST} deep in each other")
        else:
            entered[id(part)] = _Walk(part)


class _Walk:
    """The size of a part so far, and the containers in it that are still to be added."""

    def __init__(self, value: Any) -> None:
        self.inner: Iterator[Any] = iter(())
        items: Any = ()
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            self.size = value.nbytes
        else:
            if type(value) in _CONTAINERS:
                items = value.values() if isinstance(value, dict) else getattr(value, "flat", value)
            items = list(items)
            self.size = 8 * len(items)
        kinds = set(map(type, items))
        if kinds & _TEXTS:
            self.size += sum(sys.getsizeof(item) for item in items if type(item) in _TEXTS)
        if kinds & _CONTAINERS:
            self.inner = (item for item in items if type(item) in _CONTAINERS)


_TEXTS = {str, bytes, bytearray}
_CONTAINERS = {list, tuple, set, frozenset, dict, OrderedDict, defaultdict, np.ndarray, _Array}
