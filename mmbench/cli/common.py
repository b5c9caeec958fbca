"""What the commands share: where things are printed and where they lie."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

if TYPE_CHECKING:
    from mmbench.runner.records import Records

console = Console()
console_of_errors = Console(stderr=True)
Handler = Callable[[Namespace, dict[str, dict[str, str]]], int]

PUBLISHED = Path("leaderboard")
"""The folder of the published results."""
LOCAL = PUBLISHED / "local"
"""The usual folder of one's own."""
VARIABLE = "MMBENCH_LEADERBOARD"


def say(text: str, style: str = "") -> None:
    """Print a line as it is, never broken."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def add_leaderboard(parser: ArgumentParser) -> None:
    """Add the option that names the folder of one's own results."""
    parser.add_argument(
        "--leaderboard",
        type=Path | None,
        default=None,
        help=f"folder of your records and tables; by default what the variable {VARIABLE} names, else {LOCAL}",
    )


def published_records() -> Records | None:
    """Return the published records, where there are any."""
    from mmbench.runner.records import Records

    return Records(PUBLISHED / "records") if (PUBLISHED / "records").is_dir() else None


def own_folder(given: Path | None) -> Path:
    """Return the folder of one's own results.

    Raises:
        ConfigError: When it is that of the published ones.
    """
    from mmbench.methods.config import ConfigError

    named = Path(os.environ.get(VARIABLE) or LOCAL)
    folder = given or named
    place, published, local = folder.resolve(), PUBLISHED.resolve(), LOCAL.resolve()
    inside = place.is_relative_to(published) and not place.is_relative_to(local)
    if inside and (PUBLISHED / "records").is_dir():
        how = "Leave --leaderboard away" if given else f"Unset {VARIABLE}"
        raise ConfigError(
            f"{folder} is among the published results, which only `mmbench publish` changes. {how}, or name another "
            "folder."
        )
    return folder
