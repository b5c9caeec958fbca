"""The ``mmbench`` command: arguments in, calls of the floors below, messages out. No logic of its own.

What takes time to import is imported by the command that needs it, so that ``--help`` and ``--version`` answer at once:
at the top of the files of this package stands nothing that leads to PyTorch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from jsonargparse import ArgumentParser
from rich.console import Console

from mmbench import __version__
from mmbench.cli import cost, data, machine, methods, plugins, results, run, show, status
from mmbench.cli.common import CLOSED, Command, Handler, drop_output

PREFIXES = ("method", "data", "corruption", "slurm")
DOTTED = {"run": PREFIXES, "cost": ("method",)}
"""By command the prefixes of the settings that it takes, and finds in ``arguments.dotted``."""
COMMANDS = {
    "list": Command(
        "List methods, data sets or suites: what fits what, how faithful it is, what it needs.",
        methods.fill_list,
        methods.list_things,
    ),
    "show": Command(
        "Show what is known of a method, a data set or a trial: settings, deviations, curve, error.",
        show.fill_show,
        show.show,
    ),
    "run": Command(
        "Run trials, write their records, print how they compare. Settings of a method: --method.KEY VALUE "
        "(--method.help lists them), of the data: --data.KEY VALUE, of corruption: --corruption.KEY "
        "VALUE, of SLURM: --slurm.KEY VALUE.",
        run.fill_run,
        run.run,
    ),
    "cost": Command(
        "Measure what methods cost, each alone in a process of its own: time, memory, multiply-accumulates "
        "(--method.KEY VALUE as in `run`).",
        cost.fill_cost,
        cost.cost,
    ),
    "status": Command(
        "Show plans whose workers go on elsewhere: what waits, runs, is done, has failed.",
        status.fill_status,
        status.status,
    ),
    "report": Command(
        "Make the tables of your runs, the published rows merged in. With an option, print one table.",
        results.fill_report,
        results.report,
    ),
    "compare": Command("Compare two rows, metric by metric.", results.fill_compare, results.compare),
    "verify": Command(
        "Check records: layout, place, digests, and every metric by its predictions.",
        results.fill_verify,
        results.verify,
    ),
    "publish": Command(
        "Copy your verified records to the published ones and make their tables again.",
        results.fill_publish,
        results.publish,
    ),
    "reproduce": Command(
        "Train published trials again and compare number by number: equal, within rounding, as far as another seed, "
        "or differs.",
        results.fill_reproduce,
        results.reproduce,
    ),
    "check": Command(
        "Run suites of the regression check and compare them with the committed numbers.",
        methods.fill_check,
        methods.check,
    ),
    "test-method": Command(
        "Run the tests that every method must pass, for one method (needs pytest).",
        plugins.fill_test_method,
        plugins.test_method,
    ),
    "predict": Command(
        "Say what a trained method predicts for every sample of a store.", methods.fill_predict, methods.predict
    ),
    "data": Command("Bring in, make, look at and check stores.", below=data.data_commands),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        argv: The arguments; without them it is the command itself that was started, which sets how its process uses
            the machine. Who calls this from Python keeps the process as it is.

    Returns:
        0 done, 1 something failed or moved, 2 wrong use, 130 interrupted, 141 nobody reads the output any more.
    """
    if argv is None:
        machine.prepare()
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()  # here, where it can be answered
    except OSError as error:
        drop_output()
        if isinstance(error, BrokenPipeError):
            return CLOSED
        _complain(f"The output cannot be written: {error}.")
        return 1


def _run(argv: list[str]) -> int:
    try:
        with plugins.plugged(argv) as given:
            arguments, dotted = split_dotted(given)
            parser = ArgumentParser(
                prog="mmbench",
                description="A benchmark of multimodal fusion methods.",
                version=__version__,
                allow_abbrev=False,  # `--plug` would be taken, and name no plug-in
            )
            plugins.add_plugin_option(parser)
            names, handler = add_commands(parser, COMMANDS, arguments)
            parsed = parser.parse_args(arguments)
            assert handler is not None  # the parser demands a command
            if strange := [name for name in dotted if dotted[name] and name not in DOTTED.get(" ".join(names), ())]:
                owners = [f"`mmbench {command}`" for command, taken in DOTTED.items() if strange[0] in taken]
                parser.error(f"--{strange[0]}.* belongs to {' and '.join(owners)}.")
            chosen = parsed.get(".".join(names))
            if names[0] in DOTTED:
                chosen.dotted = dotted
            return handler(chosen)
    except BrokenPipeError:
        raise
    except Exception as error:
        if status := status_of(error):
            _complain(str(error))
            return status
        if isinstance(error, OSError):  # a full or read-only disk, wherever it was met
            _complain(f"{type(error).__name__}: {error}. What was whole before still is; mend this and start again.")
            return 1
        raise
    except KeyboardInterrupt:
        Console(stderr=True).print("\nInterrupted. The same command continues where this one stopped.")
        return 130


def status_of(error: Exception) -> int:
    """Return the exit status of an error whose message says all, 0 for any other."""
    from data_modules.files import WriteError
    from data_modules.schema import DataError
    from mmbench.methods.config import ConfigError
    from mmbench.runner.owners import LeaseError

    if isinstance(error, WriteError | LeaseError):
        return 1
    return 2 if isinstance(error, ConfigError | DataError) else 0


def _complain(text: str) -> None:
    Console(stderr=True).print(f"mmbench: {text}", style="red", markup=False, highlight=False, soft_wrap=True)


def split_dotted(argv: list[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Take ``--<prefix>.<key> value`` out of the arguments, for every prefix of settings.

    ``--method.help`` takes no value.
    """
    rest: list[str] = []
    dotted: dict[str, dict[str, str]] = {prefix: {} for prefix in PREFIXES}
    items = iter(argv)
    for item in items:
        name, equals, value = item.partition("=")
        prefix, dot, key = name.removeprefix("--").partition(".")
        if name.startswith("--") and dot and prefix in dotted:
            if name == run.HELP:
                value = ""
            elif not equals:
                value = next(items, "--")
            if value.startswith("--"):
                from mmbench.methods.config import ConfigError

                raise ConfigError(f"{name} needs a value.")
            dotted[prefix][key.replace("-", "_")] = value
        else:
            rest.append(item)
    return rest, dotted


def add_commands(
    parser: ArgumentParser, commands: Mapping[str, Command], words: Sequence[str]
) -> tuple[list[str], Handler | None]:
    """Add subcommands to a parser; only the chosen one gets its arguments.

    Args:
        parser: The parser.
        commands: By name.
        words: What was typed; the first that is a command is the chosen one.

    Returns:
        The chosen command, with those below it, and what runs it; None where none is chosen.
    """
    position = next((position for position, word in enumerate(words) if word in commands), len(words))
    chosen = next(iter(words[position:]), "")
    names, handler = [chosen], None
    added = parser.add_subcommands(required=True)
    for name, command in commands.items():
        one = ArgumentParser(description=command.text)
        added.add_subcommand(name, one, help=f"{command.text.partition('. ')[0].rstrip('.')}.")
        if name == chosen and command.below:
            below, handler = add_commands(one, command.below(), words[position + 1 :])
            names += below
        elif name == chosen:
            command.fill(one)
            handler = command.call
    return names, handler


if __name__ == "__main__":
    sys.exit(main())
