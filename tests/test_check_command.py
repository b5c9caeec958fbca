"""``mmbench check`` as a user types it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from data_modules import FeatureStore
from data_modules.datasets.synthetic.generator import write_synthetic
from mmbench.cli import main

BASELINES = Path("benchmarks/baselines")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("benchmarks/suites").mkdir(parents=True)
    return tmp_path


def suite(name: str, more: str = "", dataset: str = "synthetic") -> None:
    text = f"dataset: {dataset}\nmethods: [constant]\nseeds: [1, 2]\ntraining: {{max_epochs: 1, patience: 1}}\n{more}"
    Path("benchmarks/suites", f"{name}.yaml").write_text(text)


@contextmanager
def edited(name: str) -> Iterator[dict[str, Any]]:
    """Change what a baseline holds."""
    path = BASELINES / f"{name}.json"
    file = json.loads(path.read_text())
    yield file
    path.write_text(json.dumps(file))


def test_check_is_green_on_accepted_numbers_and_red_when_a_loss_term_is_switched_off(
    here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("benchmarks/suites/ci.yaml").write_text(
        "dataset: synthetic\nmethods: [mmim]\nseeds: [1, 2]\ntraining: {max_epochs: 2, patience: 2}\n"
    )
    command = ["check", "--store", str(small_store.path), "--jobs", "1"]
    assert main(command) == 2
    assert "--accept" in capsys.readouterr().err
    assert main([*command, "--accept"]) == 0
    assert main(command) == 0
    (here / "benchmarks" / "methods").mkdir()
    settings = here / "benchmarks" / "methods" / "mmim.yaml"
    for term in ("alpha", "beta"):
        settings.write_text(f"default: {{{term}: 0.0}}\n")
        capsys.readouterr()
        assert main(command) == 1
        assert "numbers moved" in capsys.readouterr().out
    assert not (here / "leaderboard").exists()


def test_several_suites_are_checked_at_once(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("regression", "multiclass"):
        write_synthetic(f"data/synthetic-{kind}.h5", kind=kind, samples=(30, 10, 10))
    suite("ci", dataset="synthetic/regression")
    suite("ci-classes", dataset="synthetic/multiclass")
    suite("ci-real", "optional: true\n", dataset="mosi/minilm-audio")
    command = ["check", "--suite", "ci", "ci-classes", "ci-real", "--jobs", "1"]
    assert main([*command, "--accept"]) == 0
    assert sorted(path.name for path in BASELINES.iterdir()) == ["ci-classes.json", "ci.json"]
    # The numbers of a suite whose data are elsewhere are there, and it is left out with the reason.
    (BASELINES / "ci-real.json").write_text((BASELINES / "ci.json").read_text())
    capsys.readouterr()
    assert main(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "ci-real is left out: there is no store of mosi/minilm-audio." in said
    assert "ci: 1 rows" in said
    assert "ci-classes: 1 rows" in said
    assert main(["check", "--suite", "ci-real"]) == 0
    assert "ci-real is left out" in capsys.readouterr().out
    with edited("ci-classes") as file:
        file["rows"]["constant"]["test/wa"]["seed 2, fold 0"] += 0.01
    assert main(command) == 1
    said = capsys.readouterr().out
    assert "ci-classes: 1 numbers moved" in said
    assert "seed 2, fold 0" in said
    assert "mmbench check --suite ci-classes --accept" in said
    # Of methods that are named those of each suite; nothing else comes into a baseline.
    assert main([*command, "--method", "linear"]) == 2
    assert "Nothing to check: linear is in none" in capsys.readouterr().err
    assert main([*command, "--store", "data/synthetic-regression.h5"]) == 2
    assert "A store is of one suite" in capsys.readouterr().err


def test_data_that_must_be_there_are_missed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite("ci", dataset="synthetic/lag")
    assert main(["check", "--accept"]) == 2
    assert "There is no store of synthetic/lag" in capsys.readouterr().err


def test_numbers_of_another_processor_are_compared_by_their_means(
    here: Path, small_store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    suite("ci")
    command = ["check", "--store", str(small_store.path), "--jobs", "1"]
    assert main([*command, "--accept"]) == 0
    with edited("ci") as file:
        file["rounding"][-2] = "AVX1024"
    capsys.readouterr()
    assert main(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "ci: the baseline was made with processor AVX1024, here" in said
    assert "numpy" not in said  # which is the same
    with edited("ci") as file:
        file["rows"]["constant"]["test/mae"] = {"seed 1, fold 0": 0.1, "seed 2, fold 0": 0.1}
    assert main(command) == 1
    said = capsys.readouterr().out
    assert "ci: 1 numbers moved" in said
    assert "0.10000" in said
    assert "mmbench check --suite ci --accept" in said
