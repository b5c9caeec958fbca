"""Libraries that come with an extra: imported where they are used, or named where they are missing."""

from __future__ import annotations

import importlib
from typing import Any

from data_modules.schema import DataError


def optional_library(module: str, what: str = "Audio", extra: str = "media") -> Any:
    """Import a library of an extra.

    Args:
        module: Its name.
        what: What needs it, in words.
        extra: The extra that brings it.

    Raises:
        DataError: When it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DataError(
            f"{what} needs the library {module}, which is not installed ({error}): pip install 'mmbench[{extra}]'."
        ) from error
