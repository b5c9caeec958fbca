"""What the runner reads: suites, settings of methods, baselines, checkpoints, records and predictions."""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
import yaml

from data_modules import FusionDataModule
from mmbench.methods import ConfigError, method
from mmbench.runner.check import compare, load_baseline
from mmbench.runner.plan import make_plan
from mmbench.runner.predict import predict
from mmbench.runner.record import Record, digest_of
from mmbench.runner.records import Records, predictions_path
from mmbench.runner.settings import Suite, load_suite, shipped_settings
from mmbench.runner.training import Training
from mmbench.runner.trial import run_trial
from mmbench.runner.verify import verify
from mmbench.runner.work import Options
from mmbench.testing.builders import make_spec, write_toy_store
from tests.fuzz.harness import Form
from tests.fuzz.mutations import ODD_JSON, Rng, damage_json
from tests.methods.training import fit

SUITE = """title: Short
dataset: toy
methods: [lf_dnn, constant]
seeds: [1, 2]
training: {max_epochs: 2, patience: 2}
data: {limit: 8, modalities: [text, audio], corruption: {steps: 0.5}}
"""
METHOD = """default: &usual
  lr: 1.0e-3
  dropout: 0.1
toy:
  <<: *usual
  text_hidden: 16
toy/random: {batch_size: 8}
suite:ci: *usual
"""
ODD_YAML = (
    "2020-01-01", "2020-99-99", "!!binary aGk=", "!!set {a, b}", "!!int x", "!!bool 7", "!!timestamp x",
    "!!python/name:os.system x", "{1: 2}", "{? [a] : b}", "{a: 1, a: 2}", "&a [*a]", "*usual", ".nan", ".inf", "-.inf",
    "1e400", "9" * 400, "9" * 5000, "0x" + "f" * 5000, "[" * 5000, "{a: " * 300 + "1" + "}" * 300,
    "'" + "[" * 60_000 + "'", "true", "~", "'é'", '"\\ud800"', "12:30:45", "=", "<<", "[[1]]", "{}", "[]",
)  # fmt: skip
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 26))


def damage_yaml(path: Path, rng: Rng) -> None:
    """Put an odd value in, or an odd line, or text in another encoding."""
    text = path.read_text()
    lines = text.splitlines()
    odd = ODD_YAML[rng.integers(len(ODD_YAML))]
    place = int(rng.integers(len(lines)))
    chance = rng.random()
    if chance < 0.4:
        lines[place] = f"{lines[place].partition(':')[0]}: {odd}"
    elif chance < 0.6:
        lines.insert(
            place, str(rng.choice([f"{odd}: 1", "\tlr: 1", "? x", "- 1", "lr: 1", "5: 6", "suite: [1]", "name: other"]))
        )
    elif chance < 0.8:
        values = damage_json(yaml.safe_load(text), rng)
        lines = (
            yaml.safe_dump(values, allow_unicode=bool(rng.integers(2))).encode(errors="replace").decode().splitlines()
        )
    else:
        lines += [str(rng.choice([BOMB, MERGES, "é", "a: \0", "x: " + "y" * (3 << 20), "--- 1\n--- 2", "%YAML 9.9"]))]
    encoding = str(rng.choice(["utf-8", "utf-8", "latin-1", "utf-16", "utf-8-sig"]))
    path.write_bytes("\n".join(lines).encode(encoding, errors="replace"))


def _suite(folder: Path) -> Path:
    (folder / "short.yaml").write_text(SUITE)
    return folder / "short.yaml"


def _method(folder: Path) -> Path:
    (folder / "methods").mkdir()
    (folder / "methods" / "lf_dnn.yaml").write_text(METHOD)
    return folder / "methods" / "lf_dnn.yaml"


def _settings(path: Path) -> None:
    for suite in ("default", "ci"):
        settings = shipped_settings(path.parent.parent, "lf_dnn", "toy", "random", suite)
        method("lf_dnn").Config.parse(settings)


ROW = {"seed 1111, fold 0": 0.5, "seed 1112, fold 0": 0.25}


def _baseline(folder: Path) -> Path:
    rows = {name: {"test/mae": ROW, "train/task": ROW} for name in ("constant", "lf_dnn")}
    (folder / "ci.json").write_text(json.dumps({"rounding": ["2.13.0", "AVX2", 1], "rows": rows}, indent=1))
    return folder / "ci.json"


def _compare(path: Path) -> None:
    rows = load_baseline(path).rows
    found = {"lf_dnn": {"test/mae": {"seed 1111, fold 0": 0.4}}}
    for moved in [*compare(found, rows, exact=True), *compare(found, rows, exact=False)]:
        f"{moved.row}{moved.name}{moved.tolerance:.5f}{moved.baseline or 0:.5f}".encode()


def damage_text_of_json(path: Path, rng: Rng) -> None:
    """Change a value of a JSON file, or its form."""
    chance = rng.random()
    text = path.read_text()
    if chance < 0.6:
        text = json.dumps(damage_json(json.loads(text), rng))
    else:
        deep = rng.choice(["[" * 100_000, '{"a":' * 100_000, '{"a": ' * 400 + "1" + "}" * 400, "[1e400]", "9" * 5000])
        text = text.replace("{", str(rng.choice([f'{{"x": {deep}, ', f'{{"id": {deep}, ', '{"id": 1, "id": 2, '])), 1)
    path.write_text(text)


def _checkpoint(folder: Path) -> Path:
    store = write_toy_store(folder / "toy.h5", make_spec("multilabel"), train=8, held_out=4)
    data = FusionDataModule(store, batch_size=8, normalize="train")
    torch.manual_seed(0)
    cls = method("lf_dnn")
    small = dict.fromkeys(("text_hidden", "text_width", "audio_width", "vision_width", "post_width"), 4)
    fit(cls(data.spec, config=cls.Config.parse(small)), lambda: data).save_checkpoint(folder / "model.ckpt")
    (folder / "data").mkdir()
    shutil.move(store, folder / "data" / "toy.h5")
    return folder / "model.ckpt"


def _predict(path: Path) -> None:
    with torch.random.fork_rng():
        predict(path, path.parent / "data" / "toy.h5", accelerator="cpu")


ODD_TENSORS = (
    lambda value: value[..., :-1],
    lambda value: value.unsqueeze(0),
    lambda value: value.double(),
    lambda value: value.to(torch.complex64),
    lambda value: value.to(torch.int64),
    lambda value: torch.full_like(value, torch.nan),
    lambda value: torch.zeros(1).expand(10**6, 10**6),
    lambda value: torch.zeros(0),
    lambda value: value.to_sparse(),
    lambda value: value.to("meta"),
    lambda value: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8),
)


def damage_saved(path: Path, rng: Rng) -> None:
    """Change something in a checkpoint: a value, a tensor, a key."""
    saved = torch.load(path, weights_only=True)
    for key in ("loops", "callbacks", "optimizer_states", "lr_schedulers"):
        saved.pop(key, None)
    torch.save(_damaged(saved, rng), path)


def _damaged(value: Any, rng: Rng) -> Any:
    if isinstance(value, torch.Tensor) and rng.random() < 0.8:
        return ODD_TENSORS[rng.integers(len(ODD_TENSORS))](value)
    if not isinstance(value, dict | list | tuple) or not value or rng.random() < 0.1:
        odd = (*ODD_JSON, 10**9, 10**15, torch.zeros(2), torch.float64, "cfn_sr", {"a": torch.zeros(1)})
        return odd[rng.integers(len(odd))]
    copy = dict(value) if isinstance(value, dict) else list(value)
    keys = list(copy) if isinstance(copy, dict) else range(len(copy))
    key = keys[rng.integers(len(keys))]
    chance = rng.random()
    if chance < 0.1:
        del copy[key]
    elif chance < 0.2 and isinstance(copy, dict):
        copy[(f"{key}x", 5, None)[rng.integers(3)]] = copy[key]
    else:
        copy[key] = _damaged(copy[key], rng)
    return copy


class _Call:
    def __init__(self, *what: Any) -> None:
        self.what = what

    def __reduce__(self) -> tuple[Any, ...]:
        return self.what


def damage_pickle(path: Path, rng: Rng) -> None:
    """Put another pickle into a checkpoint, or pack it otherwise."""
    with zipfile.ZipFile(path) as file:
        members = {info.filename: file.read(info) for info in file.infolist()}
    (name,) = (name for name in members if name.endswith("data.pkl"))
    deep: Any = []
    for _ in range(300):
        deep = [deep]
    shared: Any = ["x"] * 10
    for _ in range(12):
        shared = [shared] * 10
    odd = (
        lambda: _pickled(_Call(exec, ("raise SystemExit",))),
        lambda: _pickled(_Call(bytearray, (3 * 10**9,))),
        lambda: _pickled(_Call(torch.FloatTensor, (10**9,))),
        lambda: _pickled({"method": "LFDNN", "hyper_parameters": shared, "state_dict": shared, "preparation": shared}),
        lambda: _pickled({"method": deep, "hyper_parameters": deep, "state_dict": deep, "preparation": deep}),
        lambda: members[name].replace(b"X\x04\x00\x00\x00spec", b"X\xff\xff\xff\x7fspec"),
        lambda: members[name].replace(b"M\x80\x00", b"J\xff\xff\xff\x7f"),
        lambda: members[name].replace(b"K\x10", b"J\xff\xff\xff\x7f"),
        lambda: members[name].replace(b"K\x04", b"J\x00\x00\x00\x80"),
        lambda: b"\x80\x02" + b"(" * 200_000 + b".",
        lambda: b"\x80\x02" + b"]" * 200_000 + b".",
        lambda: b"\x80\x02" + b"q\xff" * 10,
        lambda: b"",
    )
    chance = rng.random()
    if chance < 0.7:
        members[name] = odd[rng.integers(len(odd))]()
    elif chance < 0.8:
        members[f"{name[:-8]}data/0"] = bytes(6 * 10**8)
    else:
        del members[list(members)[rng.integers(len(members))]]
    packed = zipfile.ZIP_DEFLATED if chance >= 0.7 or rng.random() < 0.3 else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", packed) as file:
        for key, data in members.items():
            file.writestr(key, data)


def _pickled(value: Any) -> bytes:
    return pickle.dumps(value, 2)


def _records(folder: Path) -> Path:
    store = write_toy_store(folder / "toy.h5", make_spec("regression"), train=8, held_out=4)
    suite = Suite("default", seeds=(1,), training=Training(max_epochs=1, patience=1))
    (trial,), _ = make_plan(suite, dataset="toy", path=store, methods_wanted=["constant"], benchmarks=folder / "none")
    options = Options(leaderboard=folder, runs=folder / "runs", accelerator="cpu")
    run_trial(trial, options.records, options.runs, accelerator="cpu")
    shutil.rmtree(folder / "runs")
    store.unlink()
    return options.records.path(trial)


def _predictions(folder: Path) -> Path:
    return predictions_path(_records(folder))


def _verify(path: Path) -> None:
    records = Records(path.parents[4])
    read, problems = records.load()
    found, more = verify(records)
    if problems or more:
        raise ConfigError("\n".join([path.name, *problems, *more]))
    for record in (*read, *found):
        record.to_json()


def damage_record(path: Path, rng: Rng) -> None:
    """Change a value of a record and give it the digest of what it then says."""
    values = damage_json(json.loads(path.read_text()), rng)
    if isinstance(values, dict):
        try:
            values["digest"] = digest_of(values)
        except ValueError:
            values["digest"] = ""
    path.write_text(json.dumps(values))


def damage_table(path: Path, rng: Rng) -> None:
    """Change a table of predictions, and let its record say so."""
    text = gzip.decompress(path.read_bytes()).decode()
    rows = [line.split(",") for line in text.splitlines()]
    row, column = int(rng.integers(len(rows))), int(rng.integers(len(rows[0])))
    odd = ["1e400", "nan", "-inf", "", "x", "9" * 5000, '"', "1_0", "\0", "y" * 200_000, "1e308", "0x1", "é"]
    rows[row][column] = odd[rng.integers(len(odd))]
    text = "\n".join(",".join(cells) for cells in rows) + "\n"
    chance = rng.random()
    if chance < 0.15:
        text = text[:60] + "0" * (20 << 20)
    elif chance < 0.3:
        text += "a,,0,1,1\n" * (4 << 20)
    packed = gzip.compress(text.encode(errors="surrogateescape"), 1)
    path.write_bytes(packed * (60 if chance >= 0.9 else 1))
    record = path.with_suffix("").with_suffix(".json")
    values = json.loads(record.read_text())
    import hashlib

    values["predictions"] = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
    values["digest"] = digest_of(values)
    record.write_text(Record.from_dict(values).to_json())


def _load_suite(path: Path) -> None:
    load_suite(path)


FORMS = [
    Form("suite-yaml", _suite, _load_suite, (damage_yaml,)),
    Form("method-yaml", _method, _settings, (damage_yaml,)),
    Form("baseline-json", _baseline, _compare, (damage_text_of_json,)),
    Form("checkpoint", _checkpoint, _predict, (damage_saved, damage_saved, damage_pickle)),
    Form("record", _records, _verify, (damage_record, damage_text_of_json)),
    Form("predictions", _predictions, _verify, (damage_table,)),
]
