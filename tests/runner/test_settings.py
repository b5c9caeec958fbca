"""Suite files: what they may say, and that a wrong one is named and leaves the others alone."""

from pathlib import Path

import pytest

from mmbench.methods import ConfigError
from mmbench.runner.settings import find_suite, suites
from mmbench.runner.training import Training


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
        ("seeds: 1111", r"bad.yaml: seeds must be a list of int values, such as \[1111, 1112\]"),
        ("seeds: [one]", "seeds must be a list of int"),
        ("methods: mmim", r"methods must be a list of str values, such as \[mmim, mult\]"),
        ("training: 3", "training must be a mapping"),
        ("training: {max_epochs: three}", "max_epochs is 'three'; give a value like 40"),
        ("training: {max_epoch: 3}", "Did you mean 'max_epochs'"),
        ("data: [limit]", "data must be a mapping"),
        ("seed: [1]", "Did you mean 'seeds'"),
        ("seeds: [1", "not valid YAML"),
    ],
)
def test_a_wrong_suite_is_named_and_leaves_the_others_alone(tmp_path, text, message):
    write(tmp_path, "bad", text)
    write(tmp_path, "good", "seeds: [5]")
    with pytest.raises(ConfigError, match=message):
        find_suite(tmp_path, "bad")
    assert find_suite(tmp_path, "good").seeds == (5,)
