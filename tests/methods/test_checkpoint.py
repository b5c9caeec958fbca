"""Checkpoints that do not fit, are damaged or hostile: refused in words, with nothing run and no memory taken."""

from __future__ import annotations

import math
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mmbench
from data_modules import DataError, FusionDataModule
from data_modules.budget import VARIABLE
from mmbench.methods import ConfigError, method
from mmbench.methods.lf_dnn import LFDNN
from mmbench.methods.lmf import LMF
from mmbench.testing.builders import make_spec, write_toy_store
from tests.methods.training import fit

SMALL = dict.fromkeys(("text_hidden", "text_width", "audio_width", "vision_width", "post_width"), 4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as a Trainer writes it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    data = FusionDataModule(write_toy_store(folder / "toy.h5", make_spec(), train=8, held_out=4), batch_size=8)
    fit(LFDNN(data.spec, config=LFDNN.Config.parse(SMALL)), lambda: data).save_checkpoint(folder / "model.ckpt")
    return folder / "model.ckpt"


@pytest.fixture
def change(whole: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write the checkpoint with a part changed."""

    def changed(edit: Callable[[dict[str, Any]], object]) -> Path:
        saved = torch.load(whole, weights_only=True)
        edit(saved)
        torch.save(saved, tmp_path / "changed.ckpt")
        return tmp_path / "changed.ckpt"

    return changed


def repacked(whole: Path, path: Path, packed: int = zipfile.ZIP_STORED, **parts: bytes) -> Path:
    """Write the checkpoint with its pickle or further parts replaced, the tensors as they are."""
    with zipfile.ZipFile(whole) as file, zipfile.ZipFile(path, "w", packed) as out:
        for name in file.namelist():
            out.writestr(name, parts.pop("pickle") if "pickle" in parts and "data.pkl" in name else file.read(name))
        for name, content in parts.items():
            out.writestr(f"archive/data/{name}", content)
    return path


def test_a_checkpoint_says_which_version_wrote_it_and_comes_back(whole: Path) -> None:
    assert torch.load(whole, weights_only=True)["mmbench_version"] == mmbench.__version__
    model = LFDNN.load_from_checkpoint(whole)
    assert type(model) is LFDNN
    assert model.config.post_width == 4


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda saved: saved.pop("state_dict"), r"it has no weights \(state_dict\)"),
        (lambda saved: saved.update(hyper_parameters=7), r"it has no data and settings \(hyper_parameters\)"),
        (lambda saved: saved["hyper_parameters"].pop("spec"), "data or settings cannot be read .*'spec'"),
        (lambda saved: saved["hyper_parameters"]["spec"].update(colour=1), "colour"),
        (lambda saved: saved["hyper_parameters"]["config"].update(widht=1), "setting of LFDNN called 'widht'"),
        (lambda saved: saved["hyper_parameters"]["config"].update(lr=float("nan")), "there is nan among them"),
        (lambda saved: saved["hyper_parameters"]["config"].update(post_width=5), r"the shape \[4, 12\] instead of"),
        (lambda saved: saved["hyper_parameters"]["target"].update(kind="guess"), "LFDNN"),
        (
            lambda saved: saved["state_dict"].pop("network.head.bias", saved["state_dict"].popitem()),
            "lacks the weights",
        ),
        (lambda saved: saved["state_dict"].update(more=torch.zeros(1)), "has the weights 'more'"),
        (lambda saved: saved.update(method="LMF", state_dict={}), "is of the method 'LMF', not of LFDNN"),
        (lambda saved: next(iter(saved["state_dict"].values())).fill_(torch.nan), "are no finite numbers"),
    ],
)
def test_what_does_not_fit_is_named(
    change: Callable[..., Path], edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = change(edit)
    with pytest.raises(ConfigError, match=message) as caught:
        LFDNN.load_from_checkpoint(path)
    assert "changed.ckpt" in str(caught.value)


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        ("0.0.1", r"mmbench 0\.0\.1 wrote it, and this is .*: train again, or use that version"),
        (mmbench.__version__, "its code or the file was changed since. Train again"),
        (None, "Another version of mmbench wrote it, or it was changed"),
    ],
)
def test_one_of_another_version_says_what_to_do(change: Callable[..., Path], version: object, remedy: str) -> None:
    def edit(saved: dict[str, Any]) -> None:
        saved["hyper_parameters"]["config"]["gone"] = 1
        saved["mmbench_version"] = version

    with pytest.raises(ConfigError, match=f"'gone'.*{remedy}"):
        LFDNN.load_from_checkpoint(change(edit))


def test_weights_of_another_method_are_refused_and_those_of_a_base_are_not(whole: Path) -> None:
    with pytest.raises(ConfigError, match="is of the method 'LFDNN', not of LMF"):
        LMF.load_from_checkpoint(whole)

    class Mine(LFDNN):
        """A method made of another."""

    assert type(Mine.load_from_checkpoint(whole)) is Mine


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "text", "pickle", "legacy", "packed", "bomb", "folder"])
def test_a_damaged_file_is_refused(whole: Path, tmp_path: Path, damage: str) -> None:
    path, data = tmp_path / "bad.ckpt", whole.read_bytes()
    middle = len(data) // 2
    if damage == "folder":
        path.mkdir()
    elif damage in ("packed", "bomb"):
        parts = {"bomb": bytes(50_000_000)} if damage == "bomb" else {}
        repacked(whole, path, zipfile.ZIP_DEFLATED, **parts)
    elif damage == "legacy":
        torch.save({"method": "LFDNN"}, path, _use_new_zipfile_serialization=False)
    else:
        contents = {
            "cut": data[:middle],
            "bit": data[:middle] + bytes([data[middle] ^ 8]) + data[middle + 1 :],
            "empty": b"",
            "text": b"hello",
            "pickle": pickle.dumps({"method": "LFDNN"}),
        }
        path.write_bytes(contents[damage])
    with pytest.raises(ConfigError, match=r"bad\.ckpt is no (checkpoint, or a damaged one|file)"):
        LFDNN.load_from_checkpoint(path)


class Call:
    """Pickles as a call."""

    def __init__(self, *what: Any) -> None:
        self.what = what

    def __reduce__(self) -> tuple[Any, ...]:
        return self.what


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (Call(exec, ("raise SystemExit",)), "exec"),
        (Call(bytearray, (3 * 10**9,)), "bytearray"),
        (Call(torch.FloatTensor, (10**9,)), "FloatTensor"),
    ],
)
def test_what_would_run_code_or_take_memory_is_refused_and_not_run(
    whole: Path, tmp_path: Path, call: Call, name: str
) -> None:
    path = repacked(whole, tmp_path / "hostile.ckpt", pickle=pickle.dumps(call, 2))
    tracemalloc.start()
    with pytest.raises(ConfigError, match=f"asks for .*{name}.*Nothing of it was run"):
        LFDNN.load_from_checkpoint(path)
    assert tracemalloc.get_traced_memory()[1] < 1e8
    tracemalloc.stop()


def test_tensors_that_say_to_be_larger_than_the_file_are_refused(whole: Path, tmp_path: Path) -> None:
    """Twelve numbers that the pickle calls 2 ** 31 - 1: read past the file they would end the process."""
    with zipfile.ZipFile(whole) as file:
        said = file.read(next(name for name in file.namelist() if name.endswith("data.pkl")))
    larger = said.replace(b"K\x10", b"J\xff\xff\xff\x7f")
    assert larger != said
    path = repacked(whole, tmp_path / "large.ckpt", pickle=larger)
    with pytest.raises(ConfigError, match=r"large\.ckpt"):
        LFDNN.load_from_checkpoint(path)


@pytest.mark.parametrize("key", ["post_width", "text_width"])
def test_settings_that_ask_for_a_larger_network_than_the_weights_take_no_memory(
    change: Callable[..., Path], key: str
) -> None:
    path = change(lambda saved: saved["hyper_parameters"]["config"].update({key: 10**9}))
    with pytest.raises(ConfigError, match=r"the shape .* instead of"):
        LFDNN.load_from_checkpoint(path)


@pytest.mark.parametrize("key", ["mult", "unimodal"])
def test_a_million_layers_are_not_built(tmp_path: Path, key: str) -> None:
    """Also not those that are copies of the first one."""
    cls = method(key)
    data = FusionDataModule(write_toy_store(tmp_path / "toy.h5", make_spec(), train=8, held_out=4), batch_size=8)
    small = {"layers": 1, "dim" if key == "mult" else "width": 10 if key == "mult" else 8}
    fit(cls(data.spec, config=cls.Config.parse(small)), lambda: data).save_checkpoint(tmp_path / "deep.ckpt")
    saved = torch.load(tmp_path / "deep.ckpt", weights_only=True)
    saved["hyper_parameters"]["config"]["layers"] = 10**9
    torch.save(saved, tmp_path / "deep.ckpt")
    with pytest.raises(ConfigError, match=r"deep\.ckpt does not fit .*: its settings ask for a far larger network"):
        cls.load_from_checkpoint(tmp_path / "deep.ckpt")


class Waves(LFDNN):
    """A method that computes a table number by number, and has complex weights."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        table = torch.zeros(60, 30)
        for step in range(60):
            for column in range(30):
                table[step, column] = math.sin(step / 10 ** (column / 30))
        self.register_buffer("table", table)
        self.waves = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))


def test_methods_that_compute_tables_and_have_complex_weights_come_back(whole: Path, tmp_path: Path) -> None:
    saved = torch.load(whole, weights_only=True)
    like = LFDNN.load_from_checkpoint(whole)
    model = Waves(like.spec, like.task, like.config)
    torch.save({**saved, "method": "Waves", "state_dict": model.state_dict()}, tmp_path / "waves.ckpt")
    again = Waves.load_from_checkpoint(tmp_path / "waves.ckpt")
    assert torch.equal(again.table, model.table)
    assert torch.equal(again.waves, model.waves)


def test_what_is_shared_a_trillion_times_is_not_walked(change: Callable[..., Path]) -> None:
    def edit(saved: dict[str, Any]) -> None:
        shared: Any = ["x"] * 10
        for _ in range(12):
            shared = [shared] * 10
        saved["hyper_parameters"]["spec"]["modalities"] = shared

    with pytest.raises(ConfigError, match="they hold far more than data and settings"):
        LFDNN.load_from_checkpoint(change(edit))


def test_weights_beyond_the_budget_are_refused(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1000B")
    with pytest.raises(DataError, match=rf"model\.ckpt: .* would take .*{VARIABLE}="):
        LFDNN.load_from_checkpoint(whole)
