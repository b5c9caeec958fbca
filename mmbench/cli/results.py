"""``mmbench report``, ``compare``, ``verify``, ``publish`` and ``reproduce``: what became of trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace
from rich.table import Table
from rich.text import Text

from mmbench.cli.common import (
    PUBLISHED,
    add_leaderboard,
    check_folder,
    console,
    console_of_errors,
    own_folder,
    published_records,
    say,
)
from mmbench.cli.run import add_machine, complain, make_tables

if TYPE_CHECKING:
    from mmbench.report import Form
    from mmbench.report.boards import Board
    from mmbench.runner.costs import MethodCost
    from mmbench.runner.record import Record
    from mmbench.runner.records import Records

FORMS = ["markdown", "csv", "latex"]


def fill_report(parser: ArgumentParser) -> None:
    """Add the arguments of ``report``."""
    parser.add_argument("--dataset", default="", help="print the tables of this data set or track")
    parser.add_argument("--mine", action="store_true", help="only your rows")
    parser.add_argument("--method", nargs="+", default=[], help="only these methods")
    parser.add_argument("--sort", default="", help="metric to sort by; by default the one that selects")
    parser.add_argument("--format", default="", choices=["", *FORMS], help="how to print; by default markdown")
    add_leaderboard(parser)


def fill_compare(parser: ArgumentParser) -> None:
    """Add the arguments of ``compare``."""
    parser.add_argument("a", help="method or label of a row, such as mmim or 'mmim (yours)'")
    parser.add_argument("b", help="likewise")
    parser.add_argument("--dataset", default="", help="only on this data set or track")
    parser.add_argument("--format", default="markdown", choices=FORMS, help="how to print")
    add_leaderboard(parser)


def fill_verify(parser: ArgumentParser) -> None:
    """Add the arguments of ``verify``."""
    parser.add_argument(
        "path", type=Path | None, nargs="?", default=None, help="record or folder; by default the published records"
    )


def fill_publish(parser: ArgumentParser) -> None:
    """Add the arguments of ``publish``."""
    _add_filters(parser)
    parser.add_argument("--replace", action="store_true", help="put results in the place of other published ones")
    add_leaderboard(parser)


def fill_reproduce(parser: ArgumentParser) -> None:
    """Add the arguments of ``reproduce``."""
    _add_filters(parser)
    parser.add_argument("--store", type=Path | None, default=None, help="the store, if not in its usual place")
    add_machine(parser)
    add_leaderboard(parser)


def _add_filters(parser: ArgumentParser) -> None:
    parser.add_argument("--dataset", default="", help="only trials on this data set or track")
    parser.add_argument("--method", nargs="+", default=[], help="only these methods")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="only these seeds")


def _chosen(records: Iterable[Record], arguments: Namespace) -> list[Record]:
    """Return the records that the filters of a command let through.

    Raises:
        ConfigError: When a method is none.
    """
    from mmbench.methods import method

    for key in arguments.method:
        method(key)
    return [
        record
        for record in records
        if _of(arguments.dataset, record.track, record.identity)
        and (not arguments.method or record.method in arguments.method)
        and (not arguments.seeds or record.seed in arguments.seeds)
    ]


def _wanted(cost: MethodCost, arguments: Namespace) -> bool:
    """Return whether the filters of a command let a cost through."""
    named = _of(arguments.dataset.partition("@")[0], cost.track, "")
    return named and (not arguments.method or cost.method in arguments.method)


def report(arguments: Namespace) -> int:
    """Make one's own tables, or print one."""
    from mmbench.report import selected_table

    if arguments.dataset or arguments.mine or arguments.method or arguments.sort or arguments.format:
        options = {"mine": arguments.mine, "methods": arguments.method, "sort": arguments.sort or None}
        form: Form = arguments.format or "markdown"
        return _print(arguments, form, lambda board: selected_table(board, form=form, **options))
    made = make_tables(own_folder(arguments.leaderboard, there=True))
    for path in made.files:
        say(str(path))
    if not made.own:
        where = f"Published ones are in {PUBLISHED / 'README.md'}." if published_records() else "None are published."
        say(f"You have no records yet: `mmbench run` makes some. {where}")
    return 0


def compare(arguments: Namespace) -> int:
    """Compare two rows wherever both are."""
    from mmbench.report import versus

    return _print(arguments, arguments.format, lambda board: versus(board, arguments.a, arguments.b, arguments.format))


def _print(arguments: Namespace, form: str, table_of: Callable[[Board], str]) -> int:
    """Print the table of every board that has what is asked for.

    Raises:
        ConfigError: When none has it, or when there are several tables in a form that holds one.
    """
    from mmbench.methods import ConfigError

    texts: dict[str, str] = {}
    reasons = []
    for board in _boards(arguments):
        try:
            texts[f"{board.track}@{board.identity[:12]}"] = table_of(board)
        except ConfigError as error:
            reasons.append(str(error))
    if not texts:
        raise ConfigError(reasons[0])
    if len(texts) > 1 and form != FORMS[0]:
        raise ConfigError(f"A {form} file holds one table; choose by --dataset among: {', '.join(texts)}.")
    for reason in reasons:
        console_of_errors.print(reason, style="dim", markup=False, highlight=False, soft_wrap=True)
    for name, text in texts.items():
        print(f"## {name}\n\n{text}" if form == FORMS[0] else text)
    return 0


def _boards(arguments: Namespace) -> list[Board]:
    """Return the boards of one's own and the published records, of one data set or track if it is named.

    Raises:
        ConfigError: When there are none.
    """
    from mmbench.methods import ConfigError
    from mmbench.report import boards
    from mmbench.report.evidence import evidence_of
    from mmbench.runner.code import code_hash
    from mmbench.runner.records import Records
    from mmbench.runner.verify import verify as verified

    sources = [published_records(), Records(own_folder(arguments.leaderboard, there=True) / "records")]
    loaded = [verified(source) if source else ([], []) for source in sources]
    for line in (line for _, problems in loaded for line in problems):
        console_of_errors.print(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    (published, _), (own, _) = loaded
    every = boards(published, own, code_hash, evidence=evidence_of([source for source in sources[::-1] if source]))
    found = [board for board in every if _of(arguments.dataset, board.track, board.identity)]
    if not found:
        known = ", ".join(sorted({board.track for board in every}))
        raise ConfigError(
            f"There are no records of {arguments.dataset}; there are some of: {known}."
            if known
            else "There are no records: `mmbench run` makes some."
        )
    return found


def _of(chosen: str, track: str, identity: str) -> bool:
    """Return whether a track on some data is chosen: by data set or track, with ``@`` and the identity if need be."""
    name, _, data = chosen.partition("@")
    return f"{track}/".startswith(f"{name}/" if name else "") and identity.startswith(data)


def verify(arguments: Namespace) -> int:
    """Check records and say what does not hold."""
    from mmbench.methods import ConfigError
    from mmbench.runner.record import RecordError
    from mmbench.runner.verify import verify as verified
    from mmbench.runner.verify import verify_file

    path = arguments.path or PUBLISHED / "records"
    if path.is_file():
        try:
            verify_file(path)
        except RecordError as error:
            say(f"{path}: {error}.", style="red")
            return 1
        say(f"{path}: everything holds.")
        return 0
    if not path.is_dir():
        raise ConfigError(f"There are no records at {path}: give a record (.json) or a folder of records.")
    found, problems = verified(_records_at(path))
    for line in problems:
        say(line, style="red")
    if not found and not problems:
        raise ConfigError(f"There are no records under {path}.")
    say(f"{len(found)} records hold, {len(problems)} do not.")
    return 1 if problems else 0


def _records_at(path: Path) -> Records:
    """Return the records in a folder: all of a leaderboard's, or those of some tracks."""
    from mmbench.runner.records import Records

    if (path / "records").is_dir():
        return Records(path / "records")
    root = next((folder for folder in (path, *path.parents) if folder.name == "records"), path)
    return Records(root, () if root == path else (path.relative_to(root).as_posix(),))


def publish(arguments: Namespace) -> int:
    """Copy one's own records to the published ones and make their tables."""
    from mmbench.methods import ConfigError
    from mmbench.report import build
    from mmbench.report.leaderboard import COSTS
    from mmbench.report.publish import publish as published
    from mmbench.report.publish import publish_costs
    from mmbench.runner.code import code_hash
    from mmbench.runner.costs import Costs
    from mmbench.runner.records import Records
    from mmbench.runner.verify import verify as verified

    source, target = Records(own_folder(arguments.leaderboard, there=True) / "records"), Records(PUBLISHED / "records")
    if not target.root.is_dir():
        raise ConfigError(f"There is no folder {target.root} here: publish from the repository.")
    own, problems = verified(source)
    for line in problems:
        say(line, style="red")
    chosen = _chosen(own, arguments)
    if own and not chosen:
        raise ConfigError(f"None of your {len(own)} records is that; `mmbench report` says what there is.")
    steps = published(chosen, source, target, replace=arguments.replace)
    for step in steps:
        color = {"refused": "red", "there already": ""}.get(step.step, "green")
        say(f"{step.record.track} {step.record.title}: {step.step}{f' ({step.why})' if step.why else ''}", style=color)
        if step.step in ("added", "replaced") and step.record.environment.clean is False:
            say("  It was made by code that no commit has: commit it, and run again with --fresh.", style="yellow")
    mine, theirs = (Costs(records.root.parent / COSTS) for records in (source, target))
    costs = publish_costs(mine, theirs, lambda cost: _wanted(cost, arguments))
    made = build(PUBLISHED, None, target, code_hash, verified)
    for line in made.problems:
        say(line, style="red")
    if costs:
        say(f"The costs of {len(costs)} rows: published", style="green")
    counts = Counter(step.step for step in steps)
    what = ", ".join(f"{count} {name}" for name, count in counts.items()) or f"No records in {source.root}"
    say(f"{what}; the published tables are made.")
    return 1 if problems or made.problems or counts["refused"] else 0


def reproduce(arguments: Namespace) -> int:
    """Train published trials again and compare."""
    from mmbench.methods import ConfigError
    from mmbench.report import compare_trials, worst
    from mmbench.report.cells import number
    from mmbench.report.publish import row_of
    from mmbench.runner.again import trials_again
    from mmbench.runner.environment import check_machine
    from mmbench.runner.executors.local import automatic_jobs
    from mmbench.runner.launch import launch
    from mmbench.runner.training import Training
    from mmbench.runner.verify import verify as verified
    from mmbench.runner.work import Options

    target = published_records()
    if target is None:
        raise ConfigError("There are no published records here: run from the repository.")
    folder = own_folder(arguments.leaderboard)
    check_folder(arguments.runs, "--runs")
    everything, problems = verified(target)
    for line in problems:
        say(line, style="yellow")
    wanted = _chosen(everything, arguments)
    if not wanted:
        raise ConfigError("No published trial is that: see leaderboard/README.md for what there is.")
    for precision in {record.training.get("precision", Training.precision) for record in wanted}:
        check_machine(arguments.accelerator, precision, "csv")
    trials, left_out = trials_again(wanted, arguments.store)
    for why, count in Counter(why for _, why in left_out).items():
        some = next(record.title for record, reason in left_out if reason == why)
        say(f"{some}{f' and {count - 1} more' * (count > 1)} cannot be trained again: {why}", style="yellow")
    jobs = arguments.jobs or automatic_jobs(len(trials), devices=max((trial.devices for trial in trials), default=1))
    options = Options(folder, arguments.runs, "csv", arguments.accelerator, jobs).afresh(trials)
    if not trials:
        return 1
    ran = launch(trials, options, console)
    theirs = {record.id: record for record in wanted}
    table = Table(*("trial", "number", "published", "now", "difference", "word"), box=None)
    words: Counter[str] = Counter()
    for ours in ran.records:
        differences = compare_trials(ours, theirs[ours.id], row_of(theirs[ours.id], everything))
        words[worst(differences)] += 1
        for item in differences:
            numbers = (number(item.theirs), number(item.ours), number(item.difference, "+"))
            table.add_row(*map(Text, (ours.title, item.name, *numbers, item.word or "not judged")))
    console.print(table)
    make_tables(folder)
    say("; ".join(f"{count} of {sum(words.values())} trials: {name}" for name, count in words.items()))
    if words["equal"] or words["within rounding"]:
        say("`mmbench publish` notes in the published records what is equal or within rounding.")
    return 1 if complain(ran) or words["differs"] or left_out else 0
