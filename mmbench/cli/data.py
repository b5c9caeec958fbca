"""The ``mmbench data`` commands: arguments in, calls of the data floor, messages out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from mmbench.cli.common import Command, console, say


def data_commands() -> dict[str, Command]:
    """Return what is below ``data``."""
    return {
        "download": Command(
            "Download the files of a data set; the same command continues.", fill_download, download_data
        ),
        "import": Command("Bring in published files, or features of your own (format `plain`).", below=_formats),
        "extract": Command("Make a store of one's own clips, for `mmbench predict`.", fill_extract, extract),
        "keyframes": Command(
            "Keep the frames of a raw store that its sound chooses (VCAN).", fill_keyframes, keyframes
        ),
        "synth": Command("Make a generated data set.", fill_synth, make_synthetic),
        "info": Command("Show what a store holds.", fill_file, info),
        "check": Command("Compare a store's content with its digests.", fill_file, check),
    }


def fill_file(parser: ArgumentParser) -> None:
    """Add the store that a command reads."""
    parser.add_argument("file", type=Path, help="the store")


def fill_download(parser: ArgumentParser) -> None:
    """Add the arguments of ``data download``."""
    from data_modules.datasets.ravdess.download import PARTS, ZENODO

    parser.add_argument("dataset", help="data set, such as ravdess")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument(
        "--parts", nargs="+", default=["audio-speech"], help=f"{', '.join(PARTS)}, or names of archives"
    )
    parser.add_argument("--url", default=ZENODO, help="server of the record")
    parser.add_argument("--unpack", type=bool, default=True, help="whether to unpack the archives")


def _formats() -> dict[str, Command]:
    """Return a command per format."""
    from data_modules.formats import importers

    return {
        name: Command(
            (sys.modules[read.__module__].__doc__ or "").split("\n")[0],
            partial(_fill_import, read),
            partial(import_data, name),
        )
        for name, read in importers().items()
    }


def _fill_import(read: Callable[..., Any], parser: ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="file or folder to read")
    parser.add_argument("--out", type=Path, required=True, help="store to write")
    parser.add_function_arguments(read, skip={"source"}, as_group=False)


def fill_extract(parser: ArgumentParser) -> None:
    """Add the arguments of ``data extract``."""
    from data_modules.importers.extract import Extractors

    parser.add_argument("clips", nargs="+", type=Path, help="videos, sound files, and folders of them")
    parser.add_argument("--out", type=Path, required=True, help="store to write")
    parser.add_argument(
        "--transcripts", type=Path | None, default=None, help="table with the columns id and text; else NAME.txt files"
    )
    parser.add_argument("--dataset", default="own", help="key of the data set")
    parser.add_class_arguments(Extractors, as_group=False)


def fill_keyframes(parser: ArgumentParser) -> None:
    """Add the arguments of ``data keyframes``."""
    from data_modules.features.keyframes import Variant

    parser.add_argument("source", type=Path, help="store of frames and waveforms")
    parser.add_argument("--out", type=Path, required=True, help="store to write")
    parser.add_argument("--variant", type=Variant, default="default", help="how columns of sound are scored")


def fill_synth(parser: ArgumentParser) -> None:
    """Add the arguments of ``data synth``."""
    from data_modules.datasets.synthetic.generator import SEED, TARGETS

    parser.add_argument(
        "form",
        nargs="?",
        default="sequences",
        choices=["sequences", "lag", "words", "dialogues", "clips"],
        help="what samples are",
    )
    parser.add_argument("--out", type=Path | None, default=None, help="store to write; by default the usual place")
    parser.add_argument(
        "--kind", default=None, choices=list(TARGETS), help="what is predicted of sequences: without it a score"
    )
    parser.add_argument("--lag", type=int | None, default=None, help="steps from audio to the answer of vision (lag)")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of the generator")


def download_data(arguments: Namespace) -> int:
    """Download files and say where they are."""
    from data_modules.downloads import download

    options = arguments.as_dict()
    for path in download(options.pop("dataset"), options.pop("out"), **options):
        say(str(path))
    return 0


def import_data(form: str, arguments: Namespace) -> int:
    """Read published files into a store and print what came in."""
    from data_modules.formats import import_store
    from data_modules.store.summary import summary

    options = arguments.as_dict()
    source, out, dataset = (options.pop(key) for key in ("source", "out", "dataset"))
    store = import_store(form, source, out, dataset=dataset, options=options)
    console.print(summary(store))
    say(f"Wrote {out}.")
    return 0


def extract(arguments: Namespace) -> int:
    """Make a store of clips and print what came in."""
    from data_modules.importers.extract import Extractors, extract_store
    from data_modules.store.summary import summary

    options = arguments.as_dict()
    clips, out, transcripts, dataset = (options.pop(key) for key in ("clips", "out", "transcripts", "dataset"))
    console.print(summary(extract_store(clips, out, Extractors(**options), transcripts=transcripts, dataset=dataset)))
    say(f"Wrote {out}.")
    return 0


def keyframes(arguments: Namespace) -> int:
    """Make a store of key frames and print what it holds."""
    from data_modules.features.keyframes import keyframe_store
    from data_modules.store.summary import summary

    console.print(summary(keyframe_store(arguments.source, arguments.out, arguments.variant)))
    say(f"Wrote {arguments.out}.")
    return 0


def info(arguments: Namespace) -> int:
    """Print what a store holds."""
    from data_modules.store import FeatureStore
    from data_modules.store.summary import summary

    console.print(summary(FeatureStore(arguments.file)))
    return 0


def check(arguments: Namespace) -> int:
    """Compare a store's content with its digests."""
    from data_modules.store import FeatureStore

    store = FeatureStore(arguments.file)
    store.verify()
    say(
        f"{arguments.file}: {len(store)} samples, identity {store.identity[:12]}, content {store.content[:12]}, "
        "unchanged."
    )
    return 0


def make_synthetic(arguments: Namespace) -> int:
    """Make a generated data set and print what it holds."""
    from data_modules.batches.data_module import FusionDataModule
    from data_modules.datasets.synthetic.clips import write_clips
    from data_modules.datasets.synthetic.dialogues import write_dialogues
    from data_modules.datasets.synthetic.generator import write_synthetic
    from data_modules.datasets.synthetic.lag import LAG, feature_set_of, write_lag
    from data_modules.datasets.synthetic.words import encoder_folder, write_words
    from data_modules.schema import DataError
    from data_modules.store import FeatureStore
    from data_modules.store.summary import summary

    form = arguments.form
    if arguments.kind and form != "sequences":
        raise DataError(f"What is predicted of generated {form} cannot be chosen: leave --kind away.")
    if arguments.lag is not None and form != "lag":
        raise DataError(f"Generated {form} have no lag: leave --lag away.")
    own, steps = f"/{arguments.kind}" if arguments.kind else "", LAG if arguments.lag is None else arguments.lag
    places = {"sequences": f"synthetic{own}", "lag": f"synthetic/{feature_set_of(steps)}", "words": "synthetic/words"}
    out = arguments.out or FusionDataModule.usual_path(places.get(form, f"synthetic_{form}"))
    makers: dict[str, Callable[..., FeatureStore]] = {
        "sequences": partial(write_synthetic, **({"kind": arguments.kind} if arguments.kind else {})),
        "lag": partial(write_lag, lag=steps),
        "words": write_words,
        "dialogues": write_dialogues,
        "clips": write_clips,
    }
    console.print(summary(makers[form](out, seed=arguments.seed)))
    say(f"Wrote {out}.")
    if form == "words":
        beside = encoder_folder(out)
        say(f"Its text is read with --data.tokenizer {beside} --method.text_encoder {beside}.")
    return 0
