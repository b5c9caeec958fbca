"""The command as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data_modules import FeatureStore
from mmbench.cli import main
from mmbench.methods import methods
from mmbench.runner.settings import suites
from mmbench.runner.work import Options

ROOT = Path(__file__).parents[1]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_lists_in_json_are_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "methods", "--json"]) == 0
    rows = {row["method"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == set(methods())
    assert rows["mult"]["needs"] == ["2+ modalities"]
    assert "ravdess" in rows["mult"]["datasets"]
    assert rows["mmim"]["fidelity"] == "official-code"
    assert main(["list", "datasets", "--json"]) == 0
    sets = {row["dataset"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"mosi", "mosei", "iemocap", "ravdess", "synthetic"} <= set(sets)
    assert sets["ravdess"]["modalities"] == ["audio", "vision"]
    assert main(["list", "suites", "--json", "--benchmarks", str(ROOT / "benchmarks")]) == 0
    assert {row["suite"] for row in json.loads(capsys.readouterr().out)} == {
        "default",
        "ci",
        *(f"ci-{name}" for name in ("classes", "clips", "dialogues", "labels", "missing", "mosi", "ravdess", "words")),
    }


def test_synth_info_check_then_a_changed_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import h5py

    assert main(["data", "synth"]) == 0
    assert main(["data", "info", "data/synthetic.h5"]) == 0
    assert "vision" in capsys.readouterr().out
    assert main(["data", "check", "data/synthetic.h5"]) == 0
    with h5py.File("data/synthetic.h5", "r+") as file:
        file["targets"][0] += 1
    assert main(["data", "check", "data/synthetic.h5"]) == 2
    assert "was changed after it was made" in capsys.readouterr().err


def test_what_generated_dialogues_predict_cannot_be_chosen(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "synth", "dialogues", "--kind", "multilabel"]) == 2
    assert "What is predicted of generated dialogues cannot be chosen: leave --kind away." in capsys.readouterr().err
    assert not list(here.rglob("*.h5"))


def test_the_lag_of_generated_data_can_be_chosen(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "synth", "dialogues", "--lag", "2"]) == 2
    assert "Generated dialogues have no lag" in capsys.readouterr().err
    assert main(["data", "synth", "lag", "--lag", "9"]) == 2
    assert "longer than audio speaks" in capsys.readouterr().err
    assert main(["data", "synth", "lag", "--lag", "2"]) == 0
    assert Path("data/synthetic-lag2.h5").is_file()


def test_run_writes_records_and_tables_and_a_second_run_keeps_them(
    here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "--method", "lf_dnn", "constant", "--store", str(small_store.path), "--seeds", "1", "2"]
    command += ["--max-epochs", "1", "--jobs", "1", "--accelerator", "cpu"]
    assert main(command) == 0
    first = {path: path.read_bytes() for path in here.glob("leaderboard/**/*") if path.is_file()}
    table = here / "leaderboard" / "local" / "synthetic-regression-standard.md"
    assert "lf_dnn" in table.read_text()
    assert main(command) == 0
    assert "(kept)" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in here.glob("leaderboard/**/*") if path.is_file()} == first
    table.unlink()
    assert main(["report"]) == 0
    assert table.read_bytes() == first[table]


def test_a_dry_run_shows_the_plan_and_leaves_nothing(
    here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--method", "mmim", "--store", str(small_store.path), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("mmim seed") == 3
    assert list(here.iterdir()) == []


def test_rates_of_missing_steps_are_a_track_each_and_zero_is_the_clean_one(
    here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "--method", "lf_dnn", "--store", str(small_store.path), "--seeds", "1", "--dry-run"]
    assert main([*command, "--missing", "0", "0.25"]) == 0
    *_, clean, missing = capsys.readouterr().out.splitlines()
    assert missing.split()[1] == "synthetic/regression/standard+missing-steps0.25"
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == clean
    assert main([*command, "--missing", "1.5"]) == 2
    assert "give a rate from 0 to 1" in capsys.readouterr().err


def test_a_failed_trial_makes_the_exit_status_1_and_says_how_to_rerun(
    here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "--method", "late_fusion", "--method.lr", "1e30", "--method.gradient_clip", "0", "--jobs", "1"]
    command += ["--store", str(small_store.path), "--seeds", "1", "--max-epochs", "2", "--accelerator", "cpu"]
    assert main(command) == 1
    out = capsys.readouterr().out
    assert "diverged" in out
    assert "--retry" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "mmin"], "Did you mean 'mmim'"),
        (["--dataset", "mossi"], "Did you mean 'mosi'"),
        (["--method", "mmim", "--method.alhpa", "1"], "Did you mean 'alpha'"),
        (["--method", "mmim", "--method.alpha", "x"], "alpha"),
        (["--data.limits", "1"], "Did you mean 'limit'"),
        (["--suite", "defualt"], "Did you mean 'default'"),
        (["--store", "nowhere.h5"], "There is no store at nowhere.h5"),
        (["--dataset", "ravdess"], "mmbench data import ravdess"),
    ],
)
def test_wrong_use_says_what_to_do(
    here: Path, small_store: FeatureStore, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if not {"--store", "--dataset"} & set(arguments):
        arguments = [*arguments, "--store", str(small_store.path)]
    assert main(["run", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (here / "leaderboard").exists()


def test_an_interrupt_ends_with_130_and_a_word(
    here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmbench.runner.launch.run_trials", interrupted)
    assert main(["run", "--method", "lf_dnn", "--store", str(small_store.path), "--jobs", "1"]) == 130
    assert "The same command continues" in capsys.readouterr().err


def test_every_shipped_setting_goes_through_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each suite plans its methods, or all that fit, so each settings file is parsed for it."""
    folder, planned = ROOT / "benchmarks", ""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    for form in ("sequences", "dialogues", "clips", "words"):
        assert main(["data", "synth", form]) == 0
    for kind in ("multiclass", "multilabel"):
        assert main(["data", "synth", "--kind", kind]) == 0
    ids = np.array([f"v{row}_0" for row in range(6)])
    split = np.array(["train", "valid", "test"] * 2)
    values = {name: np.ones((6, 3, 2)) for name in ("text", "audio", "vision")}
    np.savez("mosi.npz", id=ids, split=split, label=np.ones(6), text=values["text"], audio=values["audio"])
    np.savez("ravdess.npz", id=ids, split=split, label=np.arange(6) % 2, audio=values["audio"], vision=values["vision"])
    for key, features, more in (
        ("mosi", "minilm-audio", ["--low", "-3", "--high", "3"]),
        ("ravdess", "egemaps-au", ["--task", "multiclass"]),
    ):
        made = ["--dataset", key, "--feature_set", features, "--out", f"data/{key}-{features}.h5"]
        assert main(["data", "import", "plain", f"{key}.npz", *made, *more]) == 0
    for name, suite in suites(folder).items():
        capsys.readouterr()
        assert main(["run", "--suite", name, "--dry-run", "--benchmarks", str(folder)]) == 0
        out = capsys.readouterr().out
        assert all(key in out for key in suite.methods)
        planned += out
    assert all(f"  {key}" in planned for key in methods())
    assert Options().leaderboard == Path("leaderboard/local")
