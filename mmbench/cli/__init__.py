"""The ``mmbench`` command: arguments in, calls of the floors below, messages out. No logic of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from mmbench.cli.common import Handler
from mmbench.cli.data import add_data_commands
from mmbench.cli.methods import add_check, add_list, add_predict
from mmbench.cli.results import add_result_commands
from mmbench.cli.run import add_run

PREFIXES = ("method", "data", "corruption")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 something failed or moved, 2 wrong use, 130 interrupted."""
    from data_modules.schema import DataError
    from mmbench.methods.config import ConfigError

    try:
        arguments, dotted = split_dotted(list(sys.argv[1:] if argv is None else argv))
        parser, handlers = build_parser()
        parsed = parser.parse_args(arguments)
        key = command(parsed)
        if any(dotted.values()) and key != "run":
            parser.error(f"--{next(name for name in dotted if dotted[name])}.* belongs to `mmbench run`.")
        return handlers[key](parsed.get(key.replace(" ", ".")), dotted)
    except (ConfigError, DataError) as error:
        _complain(str(error))
        return 2
    except OSError as error:  # a full or read-only disk, wherever it was met
        _complain(f"{type(error).__name__}: {error}. What was whole before still is; mend this and start again.")
        return 1
    except KeyboardInterrupt:
        Console(stderr=True).print("\nInterrupted. The same command continues where this one stopped.")
        return 130


def _complain(text: str) -> None:
    Console(stderr=True).print(f"mmbench: {text}", style="red", markup=False, highlight=False, soft_wrap=True)


def split_dotted(argv: list[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Take ``--method.<key> value``, ``--data.<key> value`` and ``--corruption.<key> value`` out of the arguments."""
    from mmbench.methods.config import ConfigError

    rest: list[str] = []
    dotted: dict[str, dict[str, str]] = {prefix: {} for prefix in PREFIXES}
    items = iter(argv)
    for item in items:
        name, equals, value = item.partition("=")
        prefix, dot, key = name.removeprefix("--").partition(".")
        if name.startswith("--") and dot and prefix in dotted:
            value = value if equals else next(items, "--")
            if value.startswith("--"):
                raise ConfigError(f"{name} needs a value.")
            dotted[prefix][key.replace("-", "_")] = value
        else:
            rest.append(item)
    return rest, dotted


def command(parsed: Namespace) -> str:
    """Return the chosen subcommands, separated by spaces."""
    names = [parsed.subcommand]
    while (inner := parsed.get(".".join(names))) is not None and inner.get("subcommand"):
        names.append(inner.subcommand)
    return " ".join(names)


def build_parser() -> tuple[ArgumentParser, dict[str, Handler]]:
    """Return the parser and, by subcommand, what it calls."""
    from mmbench import __version__

    parser = ArgumentParser(
        prog="mmbench", description="A benchmark of multimodal fusion methods.", version=__version__
    )
    commands = parser.add_subcommands(required=True)
    handlers: dict[str, Handler] = {}
    for add in (add_list, add_run, add_result_commands, add_check, add_predict, add_data_commands):
        add(commands, handlers)
    return parser, handlers


if __name__ == "__main__":
    sys.exit(main())
