"""``mmbench show``: all there is to know of a method, a data set or a trial."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from mmbench.cli.common import (
    PUBLISHED,
    add_leaderboard,
    columns,
    console,
    own_folder,
    say,
)

if TYPE_CHECKING:
    from mmbench.runner.record import Record
    from mmbench.show import Part


def fill_show(parser: ArgumentParser) -> None:
    """Add the arguments of ``show``."""
    parser.add_argument("name", help="method, data set, or the id of a trial (its first letters suffice, four or more)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of checkpoints and logs")
    add_leaderboard(parser)


def show(arguments: Namespace) -> int:
    """Show whatever has the name."""
    import data_modules
    from data_modules import FusionDataModule
    from data_modules.names import check_name
    from data_modules.schema import DataError, unknown_name
    from mmbench.methods import ConfigError, broken_methods, methods
    from mmbench.report.grouping import present_code
    from mmbench.runner.code import code_hash
    from mmbench.runner.settings import benchmarks_folder
    from mmbench.show import find_records, show_dataset, show_method, show_trial

    name = arguments.name
    folders = {"published": PUBLISHED / "records", "yours": own_folder(arguments.leaderboard) / "records"}
    if name in methods():
        published, own = (_records_of(name, folder) for folder in folders.values())
        print_parts(show_method(name, benchmarks_folder(), published, own, code_hash))
        return 0
    known = [*methods(), *data_modules.datasets()]
    if name not in known and (why := broken_methods().get(name) or data_modules.broken_datasets().get(name)):
        raise ConfigError(why)
    try:
        for part in name.split("/", 1):
            check_name("name", part)
        there = name in known or FusionDataModule.usual_path(name).is_file()
    except DataError:
        there = False
    if there:
        from data_modules.store.summary import summary

        parts, store = show_dataset(name)
        print_parts(parts)
        if store is not None:
            console.print()
            console.print(summary(store))
        return 0
    found = find_records(name, folders)
    for whose, path, record in found:
        present = present_code(code_hash, record.method, record.dataset, {record.code})
        print_parts(show_trial(whose, path, record, arguments.runs, present or ""))
    if not found:
        raise ConfigError(
            f"{unknown_name('method or data set', name, known)} A store of that name would lie at "
            f"{FusionDataModule.usual_path(name)}, and does not. Nor does the id of a trial with a record, published "
            "or yours, begin with these letters (four or more)."
        )
    return 0


def _records_of(method: str, folder: Path) -> list[Record]:
    """Return the records of a method; what cannot be read is said by other commands."""
    from mmbench.runner.record import RecordError
    from mmbench.runner.records import read_record

    records = []
    for path in sorted(folder.glob(f"**/{method}/*.json")):
        try:
            records.append(read_record(path))
        except RecordError as error:
            say(f"{path}: {error}; skipped. `mmbench verify` checks all.", style="yellow")
    return records


def print_parts(parts: Iterable[Part]) -> None:
    """Print parts, an empty line before each but the first."""
    for number, part in enumerate(parts):
        if number:
            say("")
        say(part.title, style="bold")
        for line in columns(part.rows, console.width - 2) if part.rows else ():
            say(f"  {line}")
        for line in _blocks(part.table, console.width - 2):
            say(f"  {line}".rstrip())
        for line in part.lines:
            say(f"  {line}")


def _blocks(table: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return the lines of a table whose columns go below each other, the first repeated, where they are too many."""
    lines: list[str] = []
    sizes = [max(map(len, column)) for column in zip(*table, strict=True)]
    begin = 1
    while begin < len(sizes):
        end = begin + 1
        while end < len(sizes) and sizes[0] + sum(size + 2 for size in sizes[begin : end + 1]) <= width:
            end += 1
        shown = [0, *range(begin, end)]
        lines += [""] if begin > 1 else []
        lines += ["  ".join(f"{row[place]:>{sizes[place]}}" for place in shown) for row in table]
        begin = end
    return lines
