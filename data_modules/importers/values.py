"""Values of published files: columns, numbers, texts and names, or a message that says where something else is."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np
import numpy.typing as npt

from data_modules.importers.common import Array, sample_name, string, structure
from data_modules.schema import DataError

LONGEST_NAME = 1000
LARGEST = float(np.finfo(np.float32).max)
REMEDY = "The file is damaged or was changed: get it again."
_NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)


class _Short(reprlib.Repr):
    def repr_instance(self, x: Any, level: int) -> str:
        if isinstance(x, np.generic) and not isinstance(x.item(), np.generic):
            return self.repr1(x.item(), level)
        return repr(x) if isinstance(x, float | bool | complex | None) else structure(x)


def shown(value: Any) -> str:
    """Return a value as a message shows it: short, whatever it is."""
    return _Short().repr(value)


def column(where: str, values: Any) -> Any:
    """Return values that stand in an order, one for each sample: a list, a tuple, or the rows of an array.

    Raises:
        DataError: When they are something else.
    """
    if not isinstance(values, list | tuple) and not (isinstance(values, np.ndarray) and values.ndim):
        raise DataError(f"{where} is {shown(values)}; a list or an array, with a row for each sample, was expected.")
    return values


def array(where: str, values: Any) -> Array:
    """Return numbers as an array, not copied when they are one.

    Raises:
        DataError: When something in them is no number, or the rows are not of one length.
    """
    if isinstance(values, list | tuple):
        _check_leaves(where, values)
    try:
        made = np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{where} is no array of numbers: its rows differ in length. {REMEDY}") from error
    if made.dtype.kind not in "fiub":
        raise DataError(f"{where} is {shown(values)} of type {made.dtype}; numbers were expected. {REMEDY}")
    return made


def _check_leaves(where: str, values: list[Any] | tuple[Any, ...]) -> None:
    # numpy would write a long text out for each place of a list.
    for one in values:
        if isinstance(one, list | tuple):
            _check_leaves(where, one)
        elif not isinstance(one, np.ndarray | int | float | np.generic):
            raise DataError(f"{where} holds {shown(one)}; numbers were expected. {REMEDY}")


def labels(where: str, values: Any) -> npt.NDArray[np.float64]:
    """Return numbers that become targets, which have single precision. NaN and infinity are left to the store.

    Raises:
        DataError: When they are no such numbers.
    """
    texts = isinstance(values, np.ndarray) and values.dtype.kind in "OUS"
    found = values.tolist() if texts else array(where, values)
    try:
        made = np.asarray(found, float)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{where} holds labels that are no numbers ({error!s:.100}). {REMEDY}") from error
    large = np.isfinite(made) & (np.abs(made) > LARGEST)
    if large.any():
        raise DataError(f"{where} holds the label {made[large][0]:g}; labels go up to {LARGEST:.2g}. {REMEDY}")
    return made


def whole_numbers(where: str, values: Any) -> npt.NDArray[np.int64]:
    """Return whole numbers from 0, of any numeric type in the file.

    Raises:
        DataError: When they are others.
    """
    made = array(where, values)
    if made.dtype.kind == "f" and not (np.isfinite(made).all() and (made == np.floor(made)).all()):
        raise DataError(f"{where} holds numbers that are not whole. {REMEDY}")
    if made.size and not (made.min() >= 0 and made.max() < 1 << 53):
        raise DataError(f"{where} goes from {made.min():g} to {made.max():g}; numbers from 0 were expected. {REMEDY}")
    return made.astype(np.int64)


def text(where: str, value: Any) -> str:
    """Return text of any type that files hold it in.

    Raises:
        DataError: When it is none.
    """
    if not isinstance(value, str | bytes | int | float | np.generic):
        raise DataError(f"{where} is {shown(value)}; text was expected. {REMEDY}")
    return string(value)


def named(where: str, raw: Any) -> tuple[str, str]:
    """Return ``(id, video)`` of a sample; see :func:`data_modules.importers.common.sample_name`.

    Raises:
        DataError: When there is no name.
    """
    parts = list(raw) if isinstance(raw, list | tuple) or (isinstance(raw, np.ndarray) and raw.ndim == 1) else [raw]
    names = [text(f"{where}, its name", part) for part in parts]
    if not names or not names[0].strip():
        raise DataError(f"{where} has no name. Give it one, or leave it out.")
    if max(map(len, names)) > LONGEST_NAME:
        raise DataError(f"{where} has a name of {max(map(len, names))} characters. {REMEDY}")
    return sample_name(raw)
