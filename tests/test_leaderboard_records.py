"""The published records and tables: whole, in their place, and those that the predictions and the records give."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmbench.report import render
from mmbench.report.evidence import evidence_of
from mmbench.report.leaderboard import COSTS
from mmbench.report.scale import section
from mmbench.runner.again import trials_again
from mmbench.runner.code import code_hash
from mmbench.runner.costs import Costs
from mmbench.runner.record import Record
from mmbench.runner.records import Records, read_record
from mmbench.runner.settings import load_suite
from mmbench.runner.verify import verify

LEADERBOARD = Path(__file__).parents[1] / "leaderboard"


@pytest.fixture(scope="module")
def verified() -> tuple[list[Record], list[str]]:
    """Return the published records that hold, and what is wrong with others."""
    return verify(Records(LEADERBOARD / "records"))


def test_every_published_record_holds(verified: tuple[list[Record], list[str]]) -> None:
    """In its place, with its digests, its id that of its content, and every metric that of its predictions."""
    found, problems = verified
    assert problems == []
    assert found


def test_no_trial_is_recorded_twice() -> None:
    counts = Counter(path.stem for path in Records(LEADERBOARD / "records").paths())
    assert [key for key, count in counts.items() if count > 1] == []


def test_tables_are_those_of_the_records(verified: tuple[list[Record], list[str]]) -> None:
    committed = {path.name: path.read_bytes() for path in LEADERBOARD.glob("*") if path.suffix in (".md", ".csv")}
    found, problems = verified
    costs, _ = Costs(LEADERBOARD / COSTS).load()
    made = render(
        found,
        None,
        problems,
        code_hash,
        costs=costs,
        evidence=evidence_of([Records(LEADERBOARD / "records")]),
        scale=section(LEADERBOARD),
    )
    assert {name: text.encode() for name, text in made.items()} == committed, "run `mmbench publish`"


def test_a_published_trial_of_every_method_can_be_trained_again(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {path.parent.name: path for path in Records(LEADERBOARD / "records").paths()}
    for path in paths.values():
        record = read_record(path)
        store = SimpleNamespace(identity=record.identity, content="", path=path, verify_once=lambda: None)
        monkeypatch.setattr("mmbench.runner.again.FeatureStore", lambda where, store=store: store)
        (trial,), left_out = trials_again([record])
        assert (trial.id, left_out) == (record.id, [])
    assert "scalevlad" in paths, "whose settings hold a tuple"


def test_the_seeds_of_the_default_suite_are_the_first_of_the_published_ones() -> None:
    """So that everybody's first run has published trials to be compared with."""
    found, _ = Records(LEADERBOARD / "records" / "synthetic").load()
    default = load_suite(LEADERBOARD.parent / "benchmarks" / "suites" / "default.yaml").seeds
    for method in {record.method for record in found}:
        seeds = sorted({record.seed for record in found if record.method == method})
        assert tuple(seeds[: len(default)]) == default, method
