"""Epochs and whole trainings beside MMSA 2.2.1, the field's suite: same models, settings, batches and data.

Both read one file in MMSA's layout, ours after an import. Both run as a user would run them, in processes of their
own: the command ``mmbench run``, which writes a record and both checkpoints, and ``MMSA_run``, see
:mod:`benchmarks.speed.mmsa_training`. An epoch is training and validation. A whole training is everything from the
start of the process to the scores on the test split.

MMSA is installed by pip into the folder of the measurement, beside the PyTorch that ours uses; where pip cannot get
it, nothing is measured, and the output says so.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.speed.import_memory import write_mmsa
from benchmarks.speed.measure import MB, Row, Setting, Times, seconds
from benchmarks.speed.mosi import SAMPLES
from benchmarks.speed.process import Failed, run_python
from data_modules.formats import import_store
from mmbench.runner.records import Records

PACKAGES = ("MMSA==2.2.1", "easydict", "nvidia-ml-py3", "pandas", "tqdm")
PEER = "mmsa"
"""Where MMSA is installed, in the folder of the measurement."""
SOURCE, STORE, ENCODER = "unaligned_50.pkl", "mosi.h5", "bert"


@dataclass(frozen=True)
class Case:
    """One model that both have.

    Attributes:
        method: Its key here; MMSA has the same.
        ours: Settings here that differ from the defaults.
        theirs: Settings of MMSA that differ from its own for CMU-MOSI.
        required: How many times faster an epoch has to be.
        samples: Samples per split.
        epochs: Epochs of a training.
        tokens: Whether a BERT of two layers reads the text, and is fine-tuned.
    """

    method: str
    required: float
    ours: Mapping[str, Any] = field(default_factory=dict)
    theirs: Mapping[str, Any] = field(default_factory=dict)
    samples: Mapping[str, int] = field(default_factory=lambda: SAMPLES)
    epochs: int = 20
    tokens: bool = False


@dataclass(frozen=True)
class Training:
    """What a training took.

    Attributes:
        epoch: Mean seconds of an epoch: of all of ours, of all but the first of theirs, which warms up.
        total: Seconds of everything.
        memory: Peak bytes of the process.
    """

    epoch: float
    total: float
    memory: int


FEW = {"train": 96, "valid": 16, "test": 16}
CASES = (
    Case("lf_dnn", 3.5),
    Case("lmf", 3.5),
    Case("tfn", 2.5),
    Case(  # sizes of the official code
        "mult",
        20.0,
        {"batch_size": 16},
        {"dst_feature_dim_nheads": [30, 5], "nlevels": 5, **{f"conv1d_kernel_size_{name}": 1 for name in "lav"}},
        FEW,
        epochs=2,
    ),
    Case("mmim", 2.0, {}, {"bidirectional": False}, {"train": 320, "valid": 64, "test": 64}, epochs=3, tokens=True),
)


def install(folder: Path, setting: Setting) -> None:
    """Install MMSA into a folder, where it is not there yet, without what it would bring a second time.

    Raises:
        Failed: When pip cannot get it.
    """
    if not folder.exists():
        options = ["--quiet", "--no-deps", "--target", str(folder)]
        run_python(["-m", "pip", "install", *options, *PACKAGES], setting.environment)


def write_text_encoder(folder: Path) -> Path:
    """Write a BERT of the usual width and vocabulary with two layers and random weights; return its folder."""
    from transformers import BertConfig, BertModel

    config = BertConfig(num_hidden_layers=2)
    BertModel(config).save_pretrained(folder)
    marks = ["[PAD]", *(f"[unused{number}]" for number in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = (f"word{number}" for number in range(config.vocab_size - len(marks)))
    (folder / "vocab.txt").write_text("\n".join([*marks, *words]) + "\n")
    return folder


def prepare(case: Case, folder: Path, samples: Mapping[str, int]) -> None:
    """Write what both read, and the protocol of ours: so many epochs, whatever happens.

    Args:
        case: What.
        folder: An empty folder.
        samples: Samples per split.
    """
    suites = folder / "benchmarks" / "suites"
    suites.mkdir(parents=True)
    write_mmsa(folder / SOURCE, samples)
    text = {"text": "tokens" if case.tokens else "features"}
    import_store("mmsa", folder / SOURCE, folder / STORE, dataset="mosi", options=text)
    if case.tokens:
        write_text_encoder(folder / ENCODER)
    training = {"max_epochs": case.epochs, "patience": case.epochs}
    (suites / "default.yaml").write_text(json.dumps({"title": "speed", "seeds": [1111], "training": training}))


def ours(case: Case, setting: Setting, folder: Path) -> Training:
    """Train with the command.

    Args:
        case: What.
        setting: Where.
        folder: Of :func:`prepare`.
    """
    changed = dict(case.ours) | ({"text_encoder": str(folder / ENCODER)} if case.tokens else {})
    places = {name: folder / name for name in ("runs", "leaderboard", "benchmarks")}
    options = {"method": case.method, "dataset": "mosi", "store": folder / STORE, "jobs": 1, **places}
    options |= {"accelerator": setting.accelerator} | {f"method.{key}": value for key, value in changed.items()}
    command = ["-m", "mmbench", "run", "--fresh", *(f"--{key}={value}" for key, value in options.items())]
    total = seconds(lambda: run_python(command, setting.environment))
    (record,), _ = Records(folder / "leaderboard" / "records").load()
    assert record.cost is not None, record.error
    return Training(record.cost.seconds_per_epoch, total, record.cost.peak_memory or 0)


def theirs(case: Case, setting: Setting, folder: Path) -> Training:
    """Train with MMSA; arguments as in :func:`ours`."""
    settings = dict(case.theirs) | ({"pretrained": str(folder / ENCODER)} if case.tokens else {})
    arguments = [case.method, folder / SOURCE, case.epochs, json.dumps(settings), folder / "theirs"]
    said: list[str] = []
    path = os.pathsep.join(filter(None, (str(setting.folder / PEER), os.environ.get("PYTHONPATH"))))
    command = ["-m", "benchmarks.speed.mmsa_training", *map(str, arguments)]
    total = seconds(lambda: said.append(run_python(command, setting.environment | {"PYTHONPATH": path})))
    found = json.loads(said[0].splitlines()[-1])
    return Training(statistics.mean(found["epochs"]), total, found["memory"])


def rows_of(case: Case, setting: Setting, mine: list[Training], other: list[Training]) -> list[Row]:
    """Return what is said of a case."""
    samples = case.samples["train"]
    text = ", BERT of two layers" if case.tokens else ""
    name = f"{case.method}{text}, {{}} of {samples} samples, beside MMSA"

    def row(said: str, value: Callable[[Training], float], required: float | None = None) -> Row:
        times = Times([value(one) for one in mine], [value(one) for one in other])
        return times.gain(name.format(said), setting.place, required)

    rows = [
        row("an epoch", lambda one: one.epoch, case.required),
        row(f"{case.epochs} epochs from start to test scores", lambda one: one.total),
    ]
    memory = Times([one.memory / MB for one in mine], [one.memory / MB for one in other])
    return [*rows, memory.dearer(name.format("peak memory"), setting.place, unit="MB")]


def measure(setting: Setting) -> Iterator[list[Row]]:
    """Train every case with both, in turn.

    Yields:
        The rows of a case.
    """
    console = Console(stderr=True)
    try:
        install(setting.folder / PEER, setting)
    except Failed as error:
        console.print(f"MMSA cannot be had, so nothing is measured beside it: {error}", highlight=False)
        return
    for case in CASES:
        if setting.methods and case.method not in setting.methods:
            continue
        case = replace(case, epochs=min(case.epochs, setting.sizes.epochs))
        mine, other = [], []
        with tempfile.TemporaryDirectory(dir=setting.folder) as folder:
            prepare(case, Path(folder), setting.sizes.limited(case.samples))
            for _ in range(setting.sizes.raw):
                mine.append(ours(case, setting, Path(folder)))
                other.append(theirs(case, setting, Path(folder)))
        yield rows_of(case, setting, mine, other)
