"""The ``mmbench data`` commands: arguments in, calls of the data floor, messages out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

console = Console()
Handler = Callable[[Namespace, dict[str, dict[str, str]]], int]


def add_data_commands(commands: Any, handlers: dict[str, Handler]) -> None:
    """Add ``data`` and what is below it to the subcommands, and what they call to the handlers."""
    data = ArgumentParser(description="Bring in, make, look at and check stores.")
    commands.add_subcommand("data", data)
    below = data.add_subcommands(required=True)
    _add_import(below, handlers)
    _add_synth(below, handlers)
    for name, text, handler in (
        ("info", "Show what a store holds.", info),
        ("check", "Compare a store's content with its fingerprint.", check),
    ):
        one = ArgumentParser(description=text)
        one.add_argument("file", type=Path, help="the store")
        below.add_subcommand(name, one)
        handlers[f"data {name}"] = handler


def _add_import(below: Any, handlers: dict[str, Handler]) -> None:
    from data_modules.importers import importers

    importing = ArgumentParser(description="Bring in published files, or features of your own (format `plain`).")
    below.add_subcommand("import", importing)
    formats = importing.add_subcommands(required=True)
    for name, read in importers().items():
        one = ArgumentParser(description=(sys.modules[read.__module__].__doc__ or "").split("\n")[0])
        one.add_argument("source", type=Path, help="file or folder to read")
        one.add_argument("--out", type=Path, required=True, help="store to write")
        one.add_function_arguments(read, skip={"source"}, as_group=False)
        formats.add_subcommand(name, one)
        handlers[f"data import {name}"] = partial(import_data, name)


def _add_synth(below: Any, handlers: dict[str, Handler]) -> None:
    from data_modules.generator import SEED, TARGETS

    synth = ArgumentParser(description="Make a generated data set.")
    synth.add_argument(
        "form", nargs="?", default="sequences", choices=["sequences", "dialogues", "clips"], help="what samples are"
    )
    synth.add_argument("--out", type=Path | None, default=None, help="store to write; by default the usual place")
    synth.add_argument("--kind", default="regression", choices=list(TARGETS), help="what is predicted of sequences")
    synth.add_argument("--seed", type=int, default=SEED, help="seed of the generator")
    below.add_subcommand("synth", synth)
    handlers["data synth"] = make_synthetic


def import_data(form: str, arguments: Namespace, dotted: dict[str, dict[str, str]]) -> int:
    """Read published files into a store and print what came in."""
    from data_modules.importers import import_store
    from data_modules.summary import summary

    options = arguments.as_dict()
    source, out, dataset = (options.pop(key) for key in ("source", "out", "dataset"))
    store = import_store(form, source, out, dataset=dataset, options=options)
    console.print(summary(store))
    console.print(f"Wrote {out}.", markup=False)
    return 0


def info(arguments: Namespace, dotted: dict[str, dict[str, str]]) -> int:
    """Print what a store holds."""
    from data_modules.store import FeatureStore
    from data_modules.summary import summary

    console.print(summary(FeatureStore(arguments.file)))
    return 0


def check(arguments: Namespace, dotted: dict[str, dict[str, str]]) -> int:
    """Compare a store's content with its fingerprint."""
    from data_modules.store import FeatureStore

    store = FeatureStore(arguments.file)
    store.verify()
    console.print(
        f"{arguments.file}: {len(store)} samples, fingerprint {store.fingerprint[:12]}, unchanged.", markup=False
    )
    return 0


def make_synthetic(arguments: Namespace, dotted: dict[str, dict[str, str]]) -> int:
    """Make a generated data set and print what it holds."""
    from data_modules.base import FusionDataModule
    from data_modules.generator import write_synthetic
    from data_modules.generator_clips import write_clips
    from data_modules.generator_dialogues import write_dialogues
    from data_modules.store import FeatureStore
    from data_modules.summary import summary

    form = arguments.form
    out = arguments.out or FusionDataModule.place("synthetic" if form == "sequences" else f"synthetic_{form}")
    makers: dict[str, Callable[..., FeatureStore]] = {
        "sequences": partial(write_synthetic, kind=arguments.kind),
        "dialogues": write_dialogues,
        "clips": write_clips,
    }
    console.print(summary(makers[form](out, seed=arguments.seed)))
    console.print(f"Wrote {out}.", markup=False)
    return 0
