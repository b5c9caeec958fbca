"""What the commands share: where things are printed and where they lie."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

if TYPE_CHECKING:
    from mmbench.runner.records import Records

CLOSED = 141
"""Exit status where the reader of the output has left, as of a program that the signal of a broken pipe ends."""
Handler = Callable[[Namespace], int]


class Command(NamedTuple):
    """A subcommand; only the chosen one is asked for what takes time.

    Attributes:
        text: What it does, in one line.
        fill: Adds its arguments to its parser.
        call: Runs it and returns the exit status.
        below: Returns its own subcommands, for one that has some instead.
    """

    text: str
    fill: Callable[[ArgumentParser], object] = lambda parser: None
    call: Handler | None = None
    below: Callable[[], Mapping[str, Command]] | None = None


class _Output(Console):
    """Standard output: where its reader has left, as `head` does, the command ends without a word."""

    def on_broken_pipe(self) -> None:
        """End the command."""
        self.quiet = True
        drop_output()
        raise SystemExit(CLOSED)


def drop_output() -> None:
    """Let nothing more be written to a standard output that takes nothing."""
    with suppress(OSError):  # there is no file behind it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


console = _Output()
console_of_errors = Console(stderr=True)

PUBLISHED = Path("leaderboard")
"""The folder of the published results."""
LOCAL = PUBLISHED / "local"
"""The usual folder of one's own."""
NARROWEST = 30
"""Columns that the last cell of a row has at least beside the others; with fewer it stands below them."""
VARIABLE = "MMBENCH_LEADERBOARD"


def say(text: str, style: str = "") -> None:
    """Print a line as it is, never broken."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def columns(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the lines of a table whose last column is wrapped at spaces; what stands in the others is never broken.

    Args:
        rows: Cells of each row, equally many.
        width: Columns of the terminal; words and first cells that are longer are not broken.
    """
    lines: list[str] = []
    sizes = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)][:-1]
    for *cells, text in rows:
        head = "".join(f"{cell:<{size}}  " for cell, size in zip(cells, sizes, strict=True))
        narrow = width - len(head) < NARROWEST
        indent = " " * (4 if narrow else len(head))
        body = textwrap.wrap(text, width - len(indent), break_long_words=False, break_on_hyphens=False) or [""]
        if narrow:
            lines += [head.rstrip(), *(indent + line for line in body if line)]
        else:
            lines += [(head + body[0]).rstrip(), *(indent + line for line in body[1:])]
    return lines


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


def own_folder(given: Path | None, *, there: bool = False) -> Path:
    """Return the folder of one's own results.

    Args:
        given: What the option says.
        there: Whether the command only reads, so that a folder that is given must be there.

    Raises:
        ConfigError: When it is that of the published ones, or one that holds something else, or cannot be made.
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
    if given and there and not folder.exists():
        raise ConfigError(f"There is no folder {folder}: give the one that `mmbench run --leaderboard` made.")
    if folder != LOCAL:
        check_folder(folder, "--leaderboard" if given else VARIABLE)
        _refuse_others(folder)
    return folder


def check_folder(folder: Path, option: str) -> None:
    """Refuse a folder that cannot be made, or only by making others: then its name is mistyped.

    Args:
        folder: The folder, there or not.
        option: What names it.

    Raises:
        ConfigError: When something else lies there, or the folder above it is missing.
    """
    from mmbench.methods.config import ConfigError

    if os.path.lexists(folder) and not folder.is_dir():
        raise ConfigError(f"{option} names {folder}, which is no folder. Name another.")
    if not os.path.lexists(folder) and not folder.absolute().parent.is_dir():
        raise ConfigError(
            f"{option} names {folder}, and there is no folder {folder.parent}. Correct the name or make that."
        )


def _refuse_others(folder: Path) -> None:
    """Refuse a folder with something else than results, which tables would get between or replace."""
    from mmbench.methods.config import ConfigError
    from mmbench.report.leaderboard import COSTS, is_ours

    page = folder / "README.md"
    ours = is_ours(page) if os.path.lexists(page) else any((folder / name).is_dir() for name in ("records", COSTS))
    try:
        found = [] if ours else sorted(path.name for path in folder.glob("[!.]*"))
    except OSError:  # what writes there says what is wrong with it
        return
    if found:
        raise ConfigError(
            f"{folder} holds {found[0]!r}, and no results of `mmbench run`. Name a new or empty folder for them."
        )
