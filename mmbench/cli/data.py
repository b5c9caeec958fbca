"""The ``mmbench data`` commands: arguments in, calls of the data floor, messages out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from mmbench.cli.common import Handler, console


def add_data_commands(commands: Any, handlers: dict[str, Handler]) -> None:
    """Add ``data`` and what is below it to the subcommands, and what they call to the handlers."""
    data = ArgumentParser(description="Bring in, make, look at and check stores.")
    commands.add_subcommand("data", data)
    below = data.add_subcommands(required=True)
    _add_download(below, handlers)
    _add_import(below, handlers)
    _add_extract(below, handlers)
    _add_keyframes(below, handlers)
    _add_synth(below, handlers)
    for name, text, handler in (
        ("info", "Show what a store holds.", info),
        ("check", "Compare a store's content with its digests.", check),
    ):
        one = ArgumentParser(description=text)
        one.add_argument("file", type=Path, help="the store")
        below.add_subcommand(name, one)
        handlers[f"data {name}"] = handler


def _add_download(below: Any, handlers: dict[str, Handler]) -> None:
    from data_modules.download import PARTS, ZENODO

    loading = ArgumentParser(description="Download the files of a data set; the same command continues.")
    loading.add_argument("dataset", help="data set, such as ravdess")
    loading.add_argument("--out", type=Path, required=True, help="folder for the files")
    loading.add_argument(
        "--parts", nargs="+", default=["audio-speech"], help=f"{', '.join(PARTS)}, or names of archives"
    )
    loading.add_argument("--url", default=ZENODO, help="server of the record")
    loading.add_argument("--unpack", type=bool, default=True, help="whether to unpack the archives")
    below.add_subcommand("download", loading)
    handlers["data download"] = download_data


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


def _add_extract(below: Any, handlers: dict[str, Handler]) -> None:
    from data_modules.extract import Extractors

    extracting = ArgumentParser(description="Make a store of one's own clips, for `mmbench predict`.")
    extracting.add_argument("clips", nargs="+", type=Path, help="videos, sound files, and folders of them")
    extracting.add_argument("--out", type=Path, required=True, help="store to write")
    extracting.add_argument(
        "--transcripts", type=Path | None, default=None, help="table with the columns id and text; else NAME.txt files"
    )
    extracting.add_argument("--dataset", default="own", help="key of the data set")
    extracting.add_class_arguments(Extractors, as_group=False)
    below.add_subcommand("extract", extracting)
    handlers["data extract"] = extract


def _add_keyframes(below: Any, handlers: dict[str, Handler]) -> None:
    from data_modules.features.keyframes import Variant

    choosing = ArgumentParser(description="Keep the frames of a raw store that its sound chooses (VCAN).")
    choosing.add_argument("source", type=Path, help="store of frames and waveforms")
    choosing.add_argument("--out", type=Path, required=True, help="store to write")
    choosing.add_argument("--variant", type=Variant, default="default", help="how columns of sound are scored")
    below.add_subcommand("keyframes", choosing)
    handlers["data keyframes"] = keyframes


def _add_synth(below: Any, handlers: dict[str, Handler]) -> None:
    from data_modules.generator import SEED, TARGETS

    synth = ArgumentParser(description="Make a generated data set.")
    synth.add_argument(
        "form", nargs="?", default="sequences", choices=["sequences", "dialogues", "clips"], help="what samples are"
    )
    synth.add_argument("--out", type=Path | None, default=None, help="store to write; by default the usual place")
    synth.add_argument(
        "--kind", default=None, choices=list(TARGETS), help="what is predicted of sequences: without it a score"
    )
    synth.add_argument("--seed", type=int, default=SEED, help="seed of the generator")
    below.add_subcommand("synth", synth)
    handlers["data synth"] = make_synthetic


def download_data(arguments: Namespace, dotted: dict[str, dict[str, str]]) -> int:
    """Download files and say where they are."""
    from data_modules.download import download

    options = arguments.as_dict()
    for path in download(options.pop("dataset"), options.pop("out"), **options):
        console.print(str(path), markup=False, soft_wrap=True)
    return 0


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


def extract(arguments: Namespace, dotted: dict[str, dict[str, str]]) -> int:
    """Make a store of clips and print what came in."""
    from data_modules.extract import Extractors, extract_store
    from data_modules.summary import summary

    options = arguments.as_dict()
    clips, out, transcripts, dataset = (options.pop(key) for key in ("clips", "out", "transcripts", "dataset"))
    console.print(summary(extract_store(clips, out, Extractors(**options), transcripts=transcripts, dataset=dataset)))
    console.print(f"Wrote {out}.", markup=False)
    return 0


def keyframes(arguments: Namespace, dotted: dict[str, dict[str, str]]) -> int:
    """Make a store of key frames and print what it holds."""
    from data_modules.features.keyframes import keyframe_store
    from data_modules.summary import summary

    console.print(summary(keyframe_store(arguments.source, arguments.out, arguments.variant)))
    console.print(f"Wrote {arguments.out}.", markup=False)
    return 0


def info(arguments: Namespace, dotted: dict[str, dict[str, str]]) -> int:
    """Print what a store holds."""
    from data_modules.store import FeatureStore
    from data_modules.summary import summary

    console.print(summary(FeatureStore(arguments.file)))
    return 0


def check(arguments: Namespace, dotted: dict[str, dict[str, str]]) -> int:
    """Compare a store's content with its digests."""
    from data_modules.store import FeatureStore

    store = FeatureStore(arguments.file)
    store.verify()
    console.print(
        f"{arguments.file}: {len(store)} samples, identity {store.identity[:12]}, content {store.content[:12]}, "
        "unchanged.",
        markup=False,
    )
    return 0


def make_synthetic(arguments: Namespace, dotted: dict[str, dict[str, str]]) -> int:
    """Make a generated data set and print what it holds."""
    from data_modules.base import FusionDataModule
    from data_modules.generator import write_synthetic
    from data_modules.generator_clips import write_clips
    from data_modules.generator_dialogues import write_dialogues
    from data_modules.schema import DataError
    from data_modules.store import FeatureStore
    from data_modules.summary import summary

    form = arguments.form
    if arguments.kind and form != "sequences":
        raise DataError(f"What is predicted of generated {form} cannot be chosen: leave --kind away.")
    out = arguments.out or FusionDataModule.place("synthetic" if form == "sequences" else f"synthetic_{form}")
    makers: dict[str, Callable[..., FeatureStore]] = {
        "sequences": partial(write_synthetic, **({"kind": arguments.kind} if arguments.kind else {})),
        "dialogues": write_dialogues,
        "clips": write_clips,
    }
    console.print(summary(makers[form](out, seed=arguments.seed)))
    console.print(f"Wrote {out}.", markup=False)
    return 0
