"""Plans: what decides a trial's identity, which settings win, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_modules import DataError, FeatureStore, FusionDataModule, Sample, StoreInfo, TargetSpec, write_store
from data_modules.batches.phases import Demand
from data_modules.datasets.synthetic.generator import write_synthetic
from data_modules.datasets.synthetic.lag import write_lag
from mmbench.methods import ConfigError, FusionMethod
from mmbench.runner.again import trials_again
from mmbench.runner.plan import make_plan
from mmbench.runner.settings import Suite, corruption_settings, data_settings, find_suite, shipped_settings
from mmbench.runner.training import Training
from mmbench.runner.trial import run_trial
from mmbench.runner.work import Options
from mmbench.testing.builders import make_spec, write_toy_store
from tests.runner.conftest import Planner


def test_the_id_changes_with_everything_that_decides_the_result_and_nothing_else(plan: Planner) -> None:
    (trial,) = plan("lf_dnn")
    for change in (
        {"seed": 1},
        {"fold": 1},
        {"method": "tfn"},
        {"config": {**trial.config, "lr": 0.5}},
        {"data": {"limit": 3}},
        {"training": {**trial.training, "max_epochs": 1}},
        {"identity": "other"},
        {"track": "a/b/c"},
    ):
        assert dataclasses.replace(trial, **change).id != trial.id, change
    assert dataclasses.replace(trial, path="elsewhere.h5").id == trial.id


def test_a_feature_set_is_named_behind_the_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMBENCH_DATA", str(tmp_path))
    suite = partial(make_plan, Suite("default", seeds=(1,)), methods_wanted=["lf_dnn"], benchmarks=tmp_path / "none")
    with pytest.raises(ConfigError, match=r"no store of synthetic/lag.*synthetic-lag\.h5.*mmbench data synth lag"):
        suite(dataset="synthetic/lag")
    store = write_lag(FusionDataModule.usual_path("synthetic/lag"), samples=(20, 5, 5))
    ((trial,), _) = suite(dataset="synthetic/lag")
    assert (trial.track, trial.path) == ("synthetic/lag/standard", str(store.path))
    assert suite(dataset="synthetic", path=store.path)[0][0].id == trial.id
    assert suite(dataset="synthetic/lag", path=store.path)[0][0].id == trial.id
    with pytest.raises(ConfigError, match="holds the feature set lag, not other: name synthetic/lag"):
        suite(dataset="synthetic/other", path=store.path)
    store.path.rename(FusionDataModule.usual_path("synthetic"))
    assert suite(dataset="synthetic/lag")[0][0].id == trial.id  # the usual store holds just this feature set
    with pytest.raises(ConfigError, match="no store of synthetic/other"):
        suite(dataset="synthetic/other")
    with pytest.raises(ConfigError, match="Did you mean 'synthetic'"):
        suite(dataset="synthetik/lag")
    for wrong in ("synthetic/../lag", "../lag", "/lag", "synthetic/"):
        with pytest.raises(DataError, match="cannot be named"):
            suite(dataset=wrong)


def test_a_setting_without_effect_keeps_no_row_from_a_plan_of_many(plan: Planner) -> None:
    trials = {trial.label: trial for trial in plan(overrides={"lr": 0.5})}
    assert "lf_dnn [lr=0.5]" in trials
    assert {"constant", "linear", "linear (text)"} <= trials.keys()
    assert trials["constant"].id == plan("constant")[0].id
    with pytest.raises(ConfigError, match="setting 'lr' has no effect on this method"):
        plan("lf_dnn", "constant", overrides={"lr": 0.5})


def test_a_trial_is_trained_again_on_the_store_of_its_feature_set(
    tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMBENCH_DATA", str(tmp_path))
    write_lag(FusionDataModule.usual_path("synthetic/lag"), samples=(20, 5, 5))
    write_synthetic(FusionDataModule.usual_path("synthetic"), samples=(20, 5, 5))
    suite = Suite("default", seeds=(1,), training=Training(max_epochs=1))
    for name in ("synthetic", "synthetic/lag"):
        trials, _ = make_plan(suite, dataset=name, methods_wanted=["constant"], benchmarks=tmp_path / "none")
        record = run_trial(trials[0], options.records, options.runs, accelerator="cpu")
        assert [trial.path for trial in trials_again([record])[0]] == [trials[0].path]


def test_one_trial_per_seed_and_one_row_per_variant(plan: Planner) -> None:
    trials = plan("unimodal", "lf_dnn", seeds=(1, 2))
    assert [(trial.label, trial.seed) for trial in trials] == [
        ("unimodal (text)", 1),
        ("unimodal (text)", 2),
        ("unimodal (audio)", 1),
        ("unimodal (audio)", 2),
        ("unimodal (vision)", 1),
        ("unimodal (vision)", 2),
        ("lf_dnn", 1),
        ("lf_dnn", 2),
    ]
    assert [trial.label for trial in plan("unimodal", overrides={"modality": "audio"})] == ["unimodal (audio)"]


def test_a_setting_as_the_command_line_has_it_chooses_the_variant(plan: Planner, tmp_path: Path) -> None:
    path = write_toy_store(tmp_path / "toy.h5", make_spec("multiclass", kinds={"vision": "frames"}), 4, 4)
    for said, label in (("true", "mesm (mesm)"), ("false", "mesm (fe2e)")):
        (trial,) = plan("mesm", overrides={"sparse": said}, dataset="toy", path=path)
        assert trial.label == label


def test_settings_of_the_command_win_over_shipped_ones_and_name_the_row(plan: Planner, tmp_path: Path) -> None:
    folder = tmp_path / "benchmarks"
    (folder / "methods").mkdir(parents=True)
    (folder / "methods" / "lf_dnn.yaml").write_text(
        "default: {lr: 0.1, batch_size: 8}\n"
        "synthetic: {lr: 0.2}\n"
        "synthetic/regression: {weight_decay: 0.3}\n"
        "suite:default: {gradient_clip: 0.4}\n"
    )
    (trial,) = plan("lf_dnn", benchmarks=folder)
    names = ("lr", "batch_size", "weight_decay", "gradient_clip")
    assert [trial.config[name] for name in names] == [0.2, 8, 0.3, 0.4]
    assert trial.label == "lf_dnn"
    (changed,) = plan("lf_dnn", benchmarks=folder, overrides={"lr": "5e-4"})
    assert changed.config["lr"] == 5e-4
    assert changed.label == "lf_dnn [lr=0.0005]"


def test_a_limit_or_a_corruption_is_a_track_of_its_own(plan: Planner) -> None:
    assert plan("lf_dnn")[0].track == "synthetic/regression/standard"
    assert plan("lf_dnn", data={"limit": 8})[0].track == "synthetic/regression/standard+limit8"
    corruption = corruption_settings({"steps": "0.5"})
    assert plan("lf_dnn", data={"corruption": corruption})[0].track.startswith("synthetic/regression/standard+")
    assert plan("lf_dnn", data={"modalities": ("text", "audio")})[0].track.endswith("+text-audio")


def test_a_shuffled_modality_is_a_track_of_its_own_and_moves_no_other_id(plan: Planner) -> None:
    """The data of a trial are as they were before anything could be shuffled."""
    (shuffled,) = plan("lf_dnn", data={"corruption": corruption_settings({"shuffled": "text"})})
    assert shuffled.track == "synthetic/regression/standard+shuffled-text"
    assert shuffled.data["corruption"] == {"steps": 0, "modalities": 0, "noise": 0, "seed": 1111, "shuffled": "text"}
    (missing,) = plan("lf_dnn", data={"corruption": corruption_settings({"steps": 0.5})})
    assert missing.data["corruption"] == {"steps": 0.5, "modalities": 0.0, "noise": 0.0, "seed": 1111}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"overrides": {"batchsize": 3}}, "Did you mean 'batch_size'"),
        ({"overrides": {"lr": "fast"}}, "lr"),
        ({"overrides": {"lr": -1.0}}, "at least 0"),
        ({"data": {"limt": 3}}, "Did you mean 'limit'"),
        ({"data": {"modalities": ("smell",)}}, "no modality smell"),
        ({"data": {"protocol": "other"}}, "no split protocol 'other'"),
        ({"folds": (3,)}, "folds 0 to 0"),
        ({"seeds": (-1,)}, "-1 is no seed"),
        ({"data": {"limit": -5}}, "limit is -5"),
        ({"data": {"limit": "all"}}, "limit"),
        ({"data": {"dialogue": True}}, "no data setting 'dialogue'"),
        ({"data": {"workers": 2}}, "no data setting 'workers'"),
        ({"data": {"protocol": "everything"}}, "is asked for 'everything' and has standard: .*`mmbench predict`"),
        ({"data": {"corruption": {"step": 0.1}}}, "Did you mean 'steps'"),
        ({"dataset": "mossi", "path": None}, "Did you mean 'mosi'"),
        ({"dataset": "mosi"}, "holds 'synthetic', not 'mosi'"),
    ],
)
def test_wrong_settings_are_refused_before_training(plan: Planner, wrong: dict, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        plan("lf_dnn", **wrong)


def test_unknown_names_are_refused_with_the_nearest(plan: Planner, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'mmim'"):
        plan("mmin")
    with pytest.raises(ConfigError, match="There is no suite 'defalt'"):
        find_suite(tmp_path, "defalt")


def test_a_method_that_does_not_fit_is_refused_by_name_and_left_out_otherwise(plan: Planner, small_store) -> None:
    data = {"modalities": ("text",)}
    with pytest.raises(
        ConfigError, match=r"mult does not fit .*: it needs at least 2 modalities and the data have text"
    ):
        plan("mult", data=data)
    trials, left_out = make_plan(Suite("default"), dataset="synthetic", path=small_store.path, data=data)
    assert "mult" in left_out
    assert "mult" not in {trial.method for trial in trials}
    assert "lf_dnn" in {trial.method for trial in trials}


def test_a_store_of_one_s_own_needs_no_registered_data_set(small_store, tmp_path: Path) -> None:
    trials, _ = make_plan(
        Suite("default", training=Training(1, 1)), dataset="mine", path=small_store.path, methods_wanted=["lf_dnn"]
    )
    assert trials[0].datamodule(4).spec.dataset == "synthetic"


def test_data_settings_come_typed_from_text() -> None:
    assert data_settings({"modalities": "text,audio"}) == {"modalities": ("text", "audio")}
    assert data_settings({"limit": "5", "bucketed": "true", "modalities": '["text", "audio"]'}) == {
        "limit": 5,
        "bucketed": True,
        "modalities": ("text", "audio"),
    }
    with pytest.raises(ConfigError, match="There is no data setting 'batch'"):
        data_settings({"batch": "5"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: [1]", "Did you mean 'seeds'"),
        ("training: {epochs: 3}", "max_epochs"),
        ("training: {precision: 16-mixed}", "precision is '16-mixed'"),
        ("training: {patience: 0}", "at least 1"),
        ("[1, 2]", "mapping"),
        ("a: [", "YAML"),
    ],
)
def test_a_wrong_suite_file_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        find_suite(tmp_path, "mine")


def test_mmim_reads_all_words_where_text_is_word_vectors() -> None:
    """Its first step stands for a sentence only where a BERT made the steps."""
    folder = Path(__file__).parents[2] / "benchmarks"

    def pooling(dataset: str, feature_set: str) -> str:
        return shipped_settings(folder, "mmim", dataset, feature_set, "default").get("text_pooling", "first")

    for dataset in ("mosi", "mosei"):
        for words in ("glove_aligned_50", "glove_unaligned_50", "glove_words"):
            assert pooling(dataset, words) == "mean"
        assert pooling(dataset, "unaligned_50") == "first"
    assert pooling("iemocap", "glove_aligned_20") == "mean"


def test_tokens_without_an_encoder_are_refused_before_training(plan: Planner, tmp_path: Path) -> None:
    records = [
        Sample(split, {"text": np.array([1, 2]), "audio": np.ones((2, 3))}, 0.5, split)
        for split in ("train", "valid", "test")
    ]
    info = StoreInfo("synthetic", "ids", TargetSpec("regression", ("s",)), kinds={"text": "tokens"}, sizes={"text": 9})
    store = write_store(tmp_path / "tokens.h5", info, records)
    with pytest.raises(ConfigError, match=r"method\.text_encoder"):
        plan("lf_dnn", path=store.path)
    (trial,) = plan("lf_dnn", path=store.path, overrides={"text_encoder": "some", "text_lr": 1e-4})
    assert trial.changed["text_lr"] == 1e-4


def test_settings_of_an_encoder_make_no_row_where_there_is_none(plan: Planner, tmp_path: Path) -> None:
    """What is shipped may name a rate for those who give an encoder."""
    shipped = tmp_path / "methods" / "lf_dnn.yaml"
    shipped.parent.mkdir()
    shipped.write_text("default: {text_lr: 0.3}\n")
    (trial,) = plan("lf_dnn", benchmarks=tmp_path)
    assert trial.config["text_lr"] == 0.3
    (same,) = plan("lf_dnn", benchmarks=tmp_path, overrides={"text_lr": "0.3"})
    assert same.id == trial.id
    with pytest.raises(ConfigError, match=r"LFDNN: setting 'text_lr' has no effect without a text_encoder"):
        plan("lf_dnn", benchmarks=tmp_path, overrides={"text_lr": 0.1})
    for overrides in ({"text_encoder": "some"}, {"text_encoder": "some", "text_lr": 0.1}):
        with pytest.raises(ConfigError, match=r"'text_encoder' has no effect on synthetic/.* no text tokens"):
            plan("lf_dnn", overrides=overrides)


@pytest.mark.parametrize(
    ("key", "overrides", "data", "used"),
    [
        ("constant", {}, {"normalize": "train"}, set()),
        ("unimodal", {"modality": "audio"}, {"normalize": "train"}, {"audio"}),
        ("unimodal", {"modality": "audio"}, {"corruption": {"steps": 0.3, "modalities": 0.3, "noise": 0.5}}, {"audio"}),
        ("unimodal", {"modality": "audio"}, {"bucketed": True}, {"text", "audio", "vision"}),
        ("vcan", {"classifiers": "tiny", "size": 16, "batch_size": 8}, {}, {"vision"}),
    ],
)
def test_what_a_method_does_not_use_is_not_read_and_its_result_is_the_same(
    plan: Planner,
    small_store: FeatureStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    overrides: dict,
    data: dict,
    used: set[str],
) -> None:
    """Length buckets of a split in memory are over all modalities, so these are read."""
    seen: set[str] = set()
    read = FeatureStore.read

    def noting(self: FeatureStore, name: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.add(name)
        return read(self, name, rows)

    where: dict[str, Any] = {}
    if key == "vcan":
        spec = make_spec("multiclass", kinds={"audio": "waveform", "vision": "frames"})
        where = {"dataset": "toy", "path": write_toy_store(tmp_path / "toy.h5", spec, train=8, held_out=4)}
    (trial,) = plan(key, epochs=1, overrides=overrides, data=data, **where)
    monkeypatch.setenv("MMBENCH_WORKERS", "0")
    monkeypatch.setattr(FeatureStore, "read", noting)
    results = []
    for narrow in (True, False):
        if not narrow:
            monkeypatch.setattr(FusionMethod, "demand", property(lambda self: Demand(phases=self.phases)))
        options = Options(tmp_path / f"leaderboard{narrow}", tmp_path / f"runs{narrow}")
        seen.clear()
        record = run_trial(trial, options.records, options.runs, accelerator="cpu")
        assert record.status == "completed", record.error
        assert seen == (used if narrow else {"text", "audio", "vision"})
        kept = {name: record.to_dict()[name] for name in ("id", "features", "selection", "test", "samples")}
        results.append(json.dumps(kept, sort_keys=True))
    assert results[0] == results[1]
