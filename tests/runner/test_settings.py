"""Suite files: what they may say, and that a wrong one is named and leaves the others alone."""

import re
import runpy
from pathlib import Path

import pytest

from mmbench.methods import ConfigError
from mmbench.runner.settings import find_suite, shipped_settings, suites
from mmbench.runner.training import Training
from mmbench.testing import cases


def write(folder: Path, name: str, text: str) -> None:
    (folder / "suites").mkdir(exist_ok=True)
    (folder / "suites" / f"{name}.yaml").write_text(text)


def test_a_suite_replaces_the_defaults(tmp_path):
    write(tmp_path, "short", "seeds: [3]\nmethods: [mult]\ntraining: {max_epochs: 2}\ndata: {limit: 8}\n")
    suite = find_suite(tmp_path, "short")
    assert (suite.seeds, suite.methods, suite.training) == ((3,), ("mult",), Training(max_epochs=2))
    assert suite.data == {"limit": 8}
    assert list(suites(tmp_path)) == ["short"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "seeds: 1111",
            "bad.yaml: The setting 'seeds' is 1111; it must be a list of whole numbers, such as [1111, 1112]",
        ),
        ("seeds: [one]", "The setting 'seeds' is ['one']; it must be a list of whole"),
        ("methods: mmim", "it must be a list of texts, such as [mmim, mult]"),
        ("training: 3", "training is 3; it must be a mapping"),
        ("training: {max_epochs: three}", "The training setting 'max_epochs' is 'three'; it must be of the type int"),
        ("training: {max_epoch: 3}", "Did you mean 'max_epochs'"),
        ("data: [limit]", "The setting 'data' is ['limit']; it must be a mapping"),
        ("seed: [1]", "Did you mean 'seeds'"),
        ("seeds: [1", "not valid YAML"),
        ("name: other", "its name is 'other', and that of the file is 'bad'"),
        ("title: 2024-01-01", "a value of the type timestamp in line 1: put it in quotes"),
        ("dataset: 7", "'dataset' is 7; it must be of the type str"),
        ("dataset: ../../up", "the data set cannot be named '../../up'"),
        ("seeds: [-1]", "-1 is no seed: seeds go from 0 to 4294967295"),
        ("seeds: [4294967296]", "4294967296 is no seed"),
        ("methods: [mmin]", "methods: There is no method 'mmin'. Did you mean 'mmim'"),
        ("training: {max_epochs: true}", "'max_epochs' is True; it must be of the type int"),
        ("training: {patience: 0}", "patience 0; both must be at least 1"),
        ("training: {precision: 16-mixed}", "precision is '16-mixed'; it must be one of"),
        ("data: {limit: many}", "The data setting 'limit' is 'many'; it must be of the type int"),
        ("data: {limits: 3}", "There is no data setting 'limits'. Did you mean 'limit'"),
        ("data: {corruption: 3}", "data: corruption must be a mapping"),
        ("data: {corruption: {steps: 2}}", "The corruption's steps are 2.0: give a rate from 0 to 1"),
        ("data: {corruption: {steps: .nan}}", "The corruption's steps are nan"),
        ("7: x", "the name '7' in line 1, which is no text: put it in quotes"),
        ("seeds: [1]\nseeds: [2]", "the name 'seeds' twice, again in line 2"),
    ],
)
def test_a_wrong_suite_is_named_and_leaves_the_others_alone(tmp_path, text, message):
    write(tmp_path, "bad", text)
    write(tmp_path, "good", "seeds: [5]")
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        find_suite(tmp_path, "bad")
    assert str(tmp_path / "suites" / "bad.yaml") in str(caught.value)
    assert find_suite(tmp_path, "good").seeds == (5,)


METHOD = """
default: &usual {lr: 0.01}
toy:
  <<: *usual
  dropout: 0.3
"""


def settings(folder: Path, text: str | bytes) -> dict[str, object]:
    (folder / "methods").mkdir(exist_ok=True)
    (folder / "methods" / "lf_dnn.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
    return shipped_settings(folder, "lf_dnn", "toy", "random", "ci-short")


def test_settings_of_a_method_may_repeat_each_other(tmp_path):
    assert settings(tmp_path, METHOD) == {"lr": 0.01, "dropout": 0.3}
    assert settings(tmp_path, "") == {}
    assert settings(tmp_path, "default:") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("default: [1]", "default is [1]; it must be a mapping of settings to values"),
        ("toy: 3", "toy is 3; it must be a mapping"),
        ("default: {lr: .nan}", "LFDNN: setting 'lr' is nan; it must be a finite number of at least 0"),
        ("default: {lr: [1]}", "LFDNN: setting 'lr' is [1]; it must be a finite number"),
        ("toy/random: {batch_size: true}", "'batch_size' is True; it must be a whole number of at least 1"),
        ("suite:ci: {widht: 3}", "There is no setting of LFDNN called 'widht'"),
        ("default: {dropout: 2}", "'dropout' is 2.0; it must be at most 1"),
        ("default: {lr: 2024-13-99}", "type timestamp"),
        ("default: {text_encoder: !!python/name:os.system x}", "of the type os.system"),
        ("[1]", "must hold a mapping of names to values"),
        ("# gr\xf6\xdfer\n".encode("latin-1"), "it is not UTF-8 (line 1): save it as UTF-8"),
        ("default: {lr: 1\0}", "is not valid YAML"),
        ("default:\n\tlr: 1", "is not valid YAML"),
        ("a: " * 50 + "1", "is not valid YAML"),
    ],
)
def test_wrong_settings_of_a_method_name_file_and_key(tmp_path, text, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        settings(tmp_path, text)
    assert str(tmp_path / "methods" / "lf_dnn.yaml") in str(caught.value)


def test_a_folder_in_the_place_of_settings_is_refused(tmp_path):
    (tmp_path / "methods" / "lf_dnn.yaml").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"lf_dnn\.yaml: it is no file"):
        shipped_settings(tmp_path, "lf_dnn", "toy", "random", "ci")


def test_the_tests_of_methods_read_the_settings_of_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "package/benchmarks").mkdir(parents=True)
    monkeypatch.setattr("mmbench.runner.settings.PACKAGE", tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    assert runpy.run_path(cases.__file__)["BENCHMARKS"] == tmp_path / "package/benchmarks"
