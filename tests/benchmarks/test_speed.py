"""The measurements of speed: that they run and compare what they say they compare; never how fast anything is."""

from __future__ import annotations

import io
import json
import math
import platform
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks.speed import (
    __main__,
    attention,
    data_path,
    full_length,
    import_memory,
    loops,
    methods,
    mosi,
    process,
    streaming_memory,
    table,
)
from benchmarks.speed.measure import Row, Setting, Sizes, Times
from data_modules import Batch, FeatureStore, FusionDataModule
from data_modules.datasets.synthetic.clips import write_clips
from mmbench.methods import FusionMethod, method
from mmbench.methods import methods as all_methods

TINY = Sizes(
    {"train": 8, "valid": 4, "test": 4},
    quick=2,
    slow=1,
    mult=6,
    late_fusion=6,
    attention=1,
    methods=6,
    raw=1,
    clips=200,
    source=100_000,
)
STEPS = {"text": 20, "audio": 80, "vision": 90}
LINUX = pytest.mark.skipif(platform.system() != "Linux", reason="only Linux tells a process its peak memory")

MACHINE = table.machine()


@pytest.fixture(autouse=True)
def _small_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, steps in STEPS.items():
        monkeypatch.setitem(mosi.STEPS, name, steps)
    monkeypatch.setitem(mosi.DIMS, "text", 8)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    mosi.write_mosi_like(tmp_path / "store.h5", dict(TINY.samples))
    return Setting(tmp_path / "store.h5", tmp_path, TINY)


@pytest.mark.parametrize(
    "name", sorted(set(__main__.MEASUREMENTS) - {"import_memory", "streaming_memory", "methods", "peer", "full_length"})
)
def test_measurements_give_finite_ratios(name: str, setting: Setting) -> None:
    (rows,) = __main__.MEASUREMENTS[name](setting)
    assert rows
    for row in rows:
        assert all(math.isfinite(value) for value in (row.ours, row.reference, row.ratio)), row
        assert row.low <= row.ratio <= row.high


@LINUX
def test_import_memory_counts_what_an_import_needs(setting: Setting) -> None:
    (row,) = import_memory.measure(setting)
    size = (setting.folder / "unaligned_50.pkl").stat().st_size / 1e6
    assert row.reference == pytest.approx(size)
    assert 0 <= row.ratio < math.inf
    made = FeatureStore(setting.folder / "imported.h5")
    # The first sample of a part has the full length, and what is imported has lost its padding.
    assert {name: spec.max_length for name, spec in made.modalities.items()} == STEPS


def test_data_have_the_lengths_that_mosi_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    drawn = mosi.lengths(20_000, np.random.default_rng(0))
    for name, mean in {"text": 4.26 * 3.9, "audio": 4.26 * 12.5, "vision": 4.26 * 15}.items():
        assert drawn[name].mean() == pytest.approx(mean, rel=0.03)
        assert drawn[name].max() == mosi.STEPS[name]


def test_both_loaders_give_the_same_samples(setting: Setting) -> None:
    loader = loops.fitted(setting, batch_size=3).train_dataloader()
    theirs = data_path.PaddedSamples(loader.split)
    by_index = {sample["index"]: sample for sample in (theirs[row] for row in range(len(theirs)))}
    seen = 0
    for batch in loader:
        for place, index in enumerate(batch.index.tolist()):
            sample = by_index[index]
            assert sample["label"].item() == batch.target[place].item()
            for name, item in batch.inputs.items():
                assert sample[name].shape == (STEPS[name], mosi.DIMS[name])
                assert sample.get(f"{name}_lengths") == item.lengths[place]
                assert torch.equal(sample[name][: item.values.shape[1]], item.values[place])
                assert not sample[name][item.values.shape[1] :].any()
            seen += 1
    assert seen == len(theirs)


def test_explicit_attention_over_full_padding_gives_our_outputs(setting: Setting) -> None:
    data = loops.fitted(setting, batch_size=3)
    model = method("mult")(data.spec)
    for parameter in model.parameters():  # zero biases and unit norms would hide what they should scale
        nn.init.normal_(parameter, std=0.3)
    reference = attention.explicit(model)
    batches = list(data.train_dataloader())
    assert any(item.values.shape[1] < STEPS[name] for batch in batches for name, item in batch.inputs.items())
    assert attention.largest_difference(model, reference, batches) < 1e-4
    computed: dict[str, list[int]] = {"ours": [], "reference": []}
    for name, network in (("ours", model.network), ("reference", reference.network)):
        for encoder in network.memory.values():
            encoder.register_forward_pre_hook(lambda _, args, name=name: computed[name].append(len(args[0])))
    (batch, *_) = batches
    attention.largest_difference(model, reference, [batch])
    assert computed["reference"] == [batch.size * STEPS[target] for target in model.network.memory]
    assert computed["ours"] == [int(batch.inputs[target].lengths.sum()) for target in model.network.memory]
    weights = [
        value
        for module in reference.modules()
        if isinstance(module, attention.ExplicitAttention)
        for value in module.parameters()
    ]
    assert weights
    # The comparison sees a difference where there is one.
    with torch.no_grad():
        weights[0].mul_(2)
    assert attention.largest_difference(model, reference, batches) > 1e-4


def test_a_step_with_a_sample_of_full_length_is_measured_in_both_forms(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def run(arguments: list[str], environment: dict[str, str]) -> str:
        said.append(arguments[-1])
        return json.dumps(full_length.step(Path(arguments[-2]), arguments[-1]))

    monkeypatch.setattr(full_length, "run_python", run)
    time, *_ = full_length.measure(setting)
    assert said == ["ours", "explicit"]
    assert min(time.ours, time.reference) > 0


def test_the_reference_of_an_epoch_learns(setting: Setting) -> None:
    data = loops.fitted(setting, batch_size=4)
    model = method("lf_dnn")(data.spec)
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer, loader = loops.optimizer_of(model), data.train_dataloader()
    first = loops.validate(model, loader)
    for _ in range(40):
        loops.train(model, optimizer, loader)
    assert loops.validate(model, loader) < first
    assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_every_method_that_fits_the_data_is_measured_the_reference_first(setting: Setting) -> None:
    spec = FeatureStore(setting.store).spec("standard")
    found = list(methods.variants(spec))
    assert found[0] == ("late_fusion", "late_fusion", {})
    fit = {key for key, cls in all_methods().items() if not cls.card.needs.unmet(spec)}
    assert {key for _, key, _ in found} == fit
    assert ("unimodal (audio)", "unimodal", {"modality": "audio"}) in found


def test_the_second_epoch_that_counts_is_timed(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pre-training and the first epoch after it are trained and not timed; both phases of an epoch are."""
    now, phases = [0.0], []

    def step(self: FusionMethod, batch: Batch, batch_idx: int) -> Tensor:
        phases.append(self.phase_of(batch).name)
        now[0] += 10.0**self.current_epoch
        return torch.zeros(())

    monkeypatch.setattr(FusionMethod, "training_step", step)
    monkeypatch.setattr(methods.time, "perf_counter", lambda: now[0])
    for key, settings, expected, seconds in (
        ("late_fusion", {}, ["main", "main"], 10.0),
        ("mmim", {}, ["estimate", "main"] * 2, 20.0),
        ("cmc", {"pretrain_epochs": 2}, ["pretrain", "pretrain", "main", "main"], 1000.0),
    ):
        phases.clear()
        methods.train(setting.store, key, settings, "cpu", gauge := methods.Gauge("cpu"))
        assert (phases, gauge.seconds) == (expected, seconds)


def test_rows_of_a_method_compare_it_with_the_reference() -> None:
    reference = methods.Cost(50, 8_000_000, [], [], 0.0)
    found = methods.Cost(100, 4_000_000, [2.0, 4.0, 4.0], [1.0, 1.0, 2.0], 0.5)
    speed, size, limit, memory = methods.rows_of("a", "cpu", 64, found, reference)
    assert (speed.ours, speed.reference, speed.ratio, speed.low, speed.high) == (16.0, 64.0, 2.0, 2.0, 3.0)
    assert (size.ours, size.reference, size.ratio) == (100, 50, 2.0)
    assert (memory.ours, memory.reference, memory.ratio, memory.unit) == (4.0, 8.0, 0.5, "MB")
    assert (limit.ours, limit.reference, limit.ratio) == (4.0, 0.5, 8.0)
    assert all(row.met is None and row.method == "a" for row in (speed, size, limit, memory))
    line = ("a", "cpu", "16", "2", "2 to 3", "8", "100", "4")
    assert table.method_cells([speed, size, limit, memory]) == [line]
    assert table.method_cells([speed, size]) == [(*line[:5], "", "100", "")]
    unknown = methods.Cost(100, None, [2.0], [1.0], 0.0)  # without products, as of a constant
    assert len(methods.rows_of("a", "cpu", 64, unknown, reference)) == 2


@LINUX
@pytest.mark.slow
def test_memory_of_a_method_has_its_gradients_and_the_state_of_adam(setting: Setting) -> None:
    found = methods.in_own_process(setting.store, "lf_dnn", {"text_hidden": 1500}, setting, 1)
    assert found.parameters > 4 * 1500 * (1500 + 8)
    assert found.memory is not None
    needed = 3 * 4 * found.parameters  # the gradient and two moments of Adam, four bytes each
    transposed = 4 * 4 * 1500 * 1500  # the recurrent weights once more, as the products read them
    assert needed < found.memory < needed + transposed + 250e6  # not the process as a whole
    assert len(found.ours) == len(found.reference) == 1
    assert 0 < found.limit < min(found.ours)
    assert min(found.reference) > 0


def test_methods_of_dialogues_and_raw_media_are_measured_beside_the_same_reference(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, list[str]] = {}

    def found(
        store: Path, key: str, settings: dict, where: Setting, times: int, other: Path | None = None
    ) -> methods.Cost:
        asked.setdefault(store.stem, []).append(key)
        assert (other or store).stem == "methods"
        return methods.Cost(10, None, [2.0], [1.0], 0.0)

    monkeypatch.setattr(methods, "in_own_process", found)
    rows = [row for group in methods.measure(setting) for row in group]
    assert set(asked["methods"]) | set(asked["dialogues"]) | set(asked["clips"]) == set(all_methods())
    assert asked["dialogues"] == ["emotion_shift"]
    assert set(asked["clips"]) == {"cfn_sr", "mesm", "vcan"}
    utterances = len(FeatureStore(setting.folder / "dialogues.h5").rows("standard", 0)["train"])
    (speed,) = (row for row in rows if row.method == "emotion_shift, dialogues" and row.measurement == "training")
    assert speed.ratio == pytest.approx(2.0 * TINY.methods / utterances)
    assert speed.ours == pytest.approx(utterances / 2.0)


@LINUX
@pytest.mark.slow
def test_memory_of_streaming_is_that_of_a_few_batches(setting: Setting) -> None:
    (row,) = streaming_memory.measure(setting)
    raw = 3 * TINY.clips * (8 * 3 * 48 * 48 + 2 * 16_000) / 1e6  # on average eight frames and a second of sound
    assert row.reference > 0
    assert row.ours - row.reference < 0.15 * raw


def test_a_measurement_that_fails_says_which_and_why(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="Traceback\nValueError: no such thing")
    monkeypatch.setattr(process.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(process.Failed, match=r"lf_dnn .* failed with 1: Traceback\nValueError: no such thing"):
        methods.in_own_process(setting.store, "lf_dnn", {}, setting, 1)


def test_a_measurement_that_fails_keeps_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Another run measures the missing methods only, and their rows come beside the others."""
    killed: list[str] = ["mmim"]

    def found(
        store: Path, key: str, settings: dict, where: Setting, times: int, other: Path | None = None
    ) -> methods.Cost:
        if key in killed:
            raise RuntimeError("no memory")
        return methods.Cost(10, None, [2.0], [1.0], 0.0)

    monkeypatch.setattr(methods, "in_own_process", found)
    monkeypatch.setattr(__main__, "write", lambda rows: table.write(rows, tmp_path))
    monkeypatch.setattr(__main__, "stored", lambda: table.stored(tmp_path))
    monkeypatch.setattr(__main__, "FULL", TINY)
    monkeypatch.setattr(__main__, "DEVICES", ("cpu",))
    monkeypatch.setattr(sys, "argv", ["speed", "--only", "methods", "--methods", "lf_dnn,mmim"])
    with pytest.raises(RuntimeError, match="no memory"):
        __main__.main()
    assert {row.method for row in table.stored(tmp_path)} == {"late_fusion", "lf_dnn"}
    killed.clear()
    monkeypatch.setattr(sys, "argv", ["speed", "--only", "methods", "--methods", "mmim"])
    __main__.main()
    assert {row.method for row in table.stored(tmp_path)} == {"late_fusion", "lf_dnn", "mmim"}
    monkeypatch.setattr(table, "machine", lambda: {**MACHINE, "torch": "9.9"})
    assert table.stored(tmp_path) == []


def test_raw_media_come_in_batches_that_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """VCAN's default is four clips; methods of larger batches get those of the others."""
    sizes: list[int] = []

    def fit(self: object, model: FusionMethod, data: FusionDataModule) -> None:
        sizes.extend((model.config.batch_size, data.batch_size))

    monkeypatch.setattr(methods.pl.Trainer, "fit", fit)
    store = write_clips(tmp_path / "clips.h5", clips=(2, 1, 1)).path
    for key in ("vcan", "cfn_sr"):
        methods.train(store, key, {}, "cpu", pl.Callback())
    assert sizes == [4, 4, 16, 16]


def test_ratios_are_medians_of_neighbours() -> None:
    times = Times(ours=[1.0, 2.0, 4.0], reference=[3.0, 4.0, 20.0])
    faster = times.faster("a", "cpu", 8, "samples/s", 2.5)
    assert (faster.ours, faster.reference, faster.ratio) == (4.0, 2.0, 3.0)
    assert (faster.low, faster.high, faster.met, faster.clear) == (2.5, 4.0, True, True)
    dearer = times.dearer("b", "cpu", 0.3)
    assert (dearer.ours, dearer.reference, dearer.ratio) == (2.0, 4.0, pytest.approx(1 / 3))
    assert dearer.met is False
    assert dearer.clear is False


def test_the_table_is_written_without_naming_the_machine(tmp_path: Path) -> None:
    rows = [
        Row("kept", "cpu", "s", 1.0, 1.0, 1.0, 0.9, 1.1, 3, 1.15, at_most=True),
        Row("missed", "cpu", "samples/s", 1.0, 1.0, 1.0, 0.9, 2.1, 3, 2.0),
        Row("free", "cpu", "samples/s", 1.0, 1.0, 1.0, 0.9, 1.1, 3),
    ]
    path = table.write(rows, tmp_path)
    text, content = path.read_text(), json.loads(path.with_suffix(".json").read_text())
    assert [row["met"] for row in content["rows"]] == [True, False, None]
    assert "no (noisy)" in next(line for line in text.splitlines() if "missed" in line)
    assert platform.node() not in text + json.dumps(content)
    assert f"{torch.get_num_threads()} threads" in text
    out = io.StringIO()
    table.show(rows, Console(file=out, width=80))
    assert all(name in out.getvalue() for name in ("kept", "missed", "free", "≤ 1.15"))


def test_command_names_what_does_not_exist(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["speed", "--only", "data_path,nothing"])
    with pytest.raises(SystemExit):
        __main__.main()
    assert "there is no measurement nothing" in capsys.readouterr().err
