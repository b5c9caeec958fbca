"""Groups of emotions, predecessors and shifts, against plain loops."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from data_modules.schema import TargetSpec
from mmbench.methods.emotion_shift.shift_labels import (
    NOBODY,
    SAME,
    SHIFT,
    EmotionGroups,
    at,
    party_roles,
    predecessors,
    shift_labels,
    successors,
    valence,
)


def real_steps(*lengths: int) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("hap", "sad", "neu", "ang", "exc", "fru"), [0, 1, 0, 1, 0, 1]),  # the groups of the paper
        (("Angry", "Excited", "Frustrated", "Happy", "Neutral", "Sad"), [1, 0, 1, 0, 0, 1]),
        (("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"), [0, 2, 1, 1, 0, 1, 1]),
        (("a", "b", "c"), [0, 1, 2]),
        (("sad", "x", "angry"), [0, 1, 0]),  # nothing pleasant: what comes before the first is of the first class
    ],
)
def test_valence_of_names(names, expected):
    assert valence(names) == expected


def test_classes_can_be_groups_of_their_own():
    target = TargetSpec("multiclass", ("happy", "sad", "excited"))
    labels = torch.tensor([[0, 2, 1]])
    assert EmotionGroups(target)(labels).tolist() == [[0, 0, 1]]
    assert EmotionGroups(target, by_valence=False)(labels).tolist() == [[0, 2, 1]]


@pytest.mark.parametrize(("low", "high", "middle"), [(None, None, 0.0), (-3.0, 3.0, 0.0), (1.0, 5.0, 3.0)])
def test_numbers_fall_into_the_halves_of_their_scale(low, high, middle):
    groups = EmotionGroups(TargetSpec("regression", ("sentiment",), low, high))
    scores = middle + torch.tensor([[-2.0, -0.1, 0.0, 0.4]])
    assert groups(scores).tolist() == [[0, 0, 1, 1]]
    assert groups(torch.stack([scores, -scores], -1)).tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("kind", ["binary", "multilabel"])
def test_answers_that_stand_together(kind):
    def found(*names, by_valence=True):
        said = torch.tensor(
            [[[int(digit) for digit in f"{number:0{len(names)}b}"] for number in range(2 ** len(names))]]
        )
        said = said if kind == "binary" else said.float()
        return EmotionGroups(TargetSpec(kind, names), by_valence)(said)[0].tolist()

    assert found("happy") == found("sad") == found("anything") == [0, 1]
    assert found("happy", "sad") == [0, 1, 0, 1]  # neither, sad, happy, both
    assert found("anger", "happy", "fear") == [0, 1, 0, 1, 1, 1, 1, 1]
    known = found("sad", "surprise")
    assert known[0] == 0
    assert known[2] == 1
    assert len(set(known)) == 4
    assert sorted(found("sad", "angry", by_valence=False)) == [0, 1, 2, 3]


def test_predecessors_in_a_dialogue():
    assert predecessors(real_steps(3, 1)).tolist() == [[NOBODY, 0, 1], [NOBODY, NOBODY, NOBODY]]


def test_predecessors_of_the_same_speaker():
    torch.manual_seed(0)
    speaker, real = torch.randint(0, 3, (6, 9)), real_steps(9, 7, 5, 2, 1, 9)
    found = predecessors(real, speaker)
    for row, said in enumerate(speaker.tolist()):
        for place in range(9):
            before = [j for j in range(place) if said[j] == said[place]] if real[row, place] else []
            assert found[row, place] == (before[-1] if before else NOBODY)


@pytest.mark.parametrize("scope", ["dialogue", "same_speaker"])
def test_successors_turn_predecessors_round(scope):
    torch.manual_seed(0)
    real = real_steps(8, 5, 1)
    previous = predecessors(real, torch.randint(0, 2, (3, 8)) if scope == "same_speaker" else None)
    following = successors(previous)
    for row in range(3):
        pairs = {(int(j), k) for k, j in enumerate(previous[row]) if j != NOBODY}
        assert {(j, int(k)) for j, k in enumerate(following[row]) if k != NOBODY} == pairs
    assert (following[~real] == NOBODY).all()


def test_values_at_other_places():
    places = torch.tensor([[2, NOBODY, 0]])
    assert at(torch.tensor([[5, 6, 7]]), places, otherwise=-3).tolist() == [[7, -3, 5]]
    values = torch.randn(1, 3, 2)
    assert torch.equal(at(values, places), torch.stack([values[0, 2], torch.zeros(2), values[0, 0]])[None])


def test_shifts_of_known_sequences():
    """A formula: with ``k`` changes of group among ``n`` utterances there are ``k`` shifts in ``n - 1`` pairs."""
    torch.manual_seed(0)
    target = TargetSpec("multiclass", ("hap", "sad", "neu", "ang", "exc", "fru"))
    lengths = torch.randint(1, 30, (40,)).tolist()
    real, labels = real_steps(*lengths), torch.randint(0, 6, (40, max(lengths)))
    previous = predecessors(real)
    found, pairs = shift_labels(EmotionGroups(target)(labels), previous), previous != NOBODY
    changes = 0
    for row, length in enumerate(lengths):
        said = [label in (1, 3, 5) for label in labels[row, :length].tolist()]
        changes += sum(one != other for one, other in pairwise(said))
        assert found[row, 0] == (SHIFT if said[0] else SAME)  # before the first one all was pleasant
    assert pairs.sum() == sum(lengths) - 40
    assert (found[pairs] == SHIFT).sum() == changes


def test_two_roles_stay_what_they_are():
    speaker = torch.tensor([[1, 0, 1, 9], [1, 1, 0, 0]])
    assert torch.equal(party_roles(speaker, real_steps(3, 4)), torch.tensor([[1, 0, 1, 0], [1, 1, 0, 0]]))


def test_many_roles_are_counted_in_each_dialogue():
    speaker = torch.tensor([[7, 200, 7, 3], [3, 3, 200, 99], [200, 5, 5, 5]])
    expected = torch.tensor([[0, 1, 0, 2], [0, 0, 1, 0], [0, 0, 0, 0]])
    assert torch.equal(party_roles(speaker, real_steps(4, 3, 1)), expected)
