"""Plans of methods that read dialogues: which tracks and utterances they share, and where they do not fit."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest

from data_modules import FeatureStore
from data_modules.datasets.synthetic.dialogues import write_dialogues
from mmbench.methods import ConfigError
from mmbench.runner.plan import make_plan
from mmbench.runner.predictions import read_predictions
from mmbench.runner.records import predictions_path
from mmbench.runner.settings import Suite
from mmbench.runner.trial import run_trial
from mmbench.runner.work import Options
from tests.runner.conftest import Planner

SMALL = {"siamese_epochs": 0, "context": 4, "party": 4, "emotion": 4, "hidden": 4, "batch_size": 2}


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """A few generated dialogues."""
    return write_dialogues(tmp_path_factory.mktemp("stores") / "dialogues.h5", dialogues=(6, 3, 3))


@pytest.fixture
def talk(plan: Planner, conversations: FeatureStore) -> Planner:
    return partial(plan, dataset="synthetic_dialogues", path=conversations.path)


def test_methods_of_dialogues_and_of_utterances_share_a_track(talk: Planner) -> None:
    alone, together = talk("lf_dnn", "emotion_shift")
    assert (alone.data, together.data) == ({}, {"dialogue": True})
    assert alone.track == together.track == "synthetic_dialogues/multiclass/standard"
    assert alone.identity == together.identity
    assert (alone.datamodule(2).spec.dialogue, together.datamodule(2).spec.dialogue) == (False, True)
    (some,) = talk("emotion_shift", data={"modalities": ("text", "audio")})
    assert some.data == {"modalities": ["text", "audio"], "dialogue": True}
    assert some.track.endswith("standard+text-audio")


def test_a_dialogue_is_part_of_the_id_of_a_trial(talk: Planner) -> None:
    (trial,) = talk("emotion_shift")
    assert dataclasses.replace(trial, data={}).id != trial.id


def test_both_are_scored_on_the_same_utterances(talk: Planner, conversations: FeatureStore, options: Options) -> None:
    tested = conversations.rows("standard", 0)["test"]
    for name, own in {"constant": {}, "emotion_shift": SMALL}.items():
        (trial,) = talk(name, epochs=1, overrides=own)
        record = run_trial(trial, options.records, options.runs, accelerator="cpu")
        assert record.status == "completed", record.error
        assert record.samples["test"] == len(tested)
        made, _ = read_predictions(predictions_path(options.records.path(trial)))
        found = dict(zip(made.ids, made.target[:, 0], strict=True))
        assert found == dict(zip(conversations.ids[tested], conversations.targets[tested], strict=True))


@pytest.mark.parametrize(
    ("data", "why"),
    [({}, "these are sequences: text, audio, vision"), ({"limit": 8}, "limit counts samples and would tear dialogues")],
)
def test_where_there_are_no_dialogues_their_methods_are_left_out_and_refused_by_name(
    plan: Planner, small_store: FeatureStore, conversations: FeatureStore, data: dict, why: str
) -> None:
    name, store = ("synthetic_dialogues", conversations) if data else ("synthetic", small_store)
    with pytest.raises(ConfigError, match=rf"emotion_shift does not fit {name}/.*it works on dialogues \(.*{why}"):
        plan("lf_dnn", "emotion_shift", dataset=name, path=store.path, data=data)
    suite = Suite("mine", methods=("emotion_shift", "lf_dnn"), seeds=(1,))
    trials, left_out = make_plan(suite, dataset=name, path=store.path, data=data)
    assert list(left_out) == ["emotion_shift"]
    assert why in left_out["emotion_shift"]
    assert not left_out["emotion_shift"].endswith(".)"), "the command puts the full stop"
    assert [(trial.method, trial.data) for trial in trials] == [("lf_dnn", data)]


def test_what_else_a_dialogue_method_needs_is_said_too(talk: Planner) -> None:
    with pytest.raises(ConfigError, match=r"emotion_shift does not fit .*: it needs the modality 'text'"):
        talk("emotion_shift", data={"modalities": ("audio", "vision")})
