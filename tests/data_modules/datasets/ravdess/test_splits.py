"""The RAVDESS split protocols against the published lists of actors."""

from __future__ import annotations

import numpy as np
import pytest

from data_modules.datasets.ravdess.names import design
from data_modules.datasets.ravdess.splits import RAVDESS_PROTOCOLS
from data_modules.importers.speakers import Fold, consecutive_blocks, cyclic_folds, speaker_table
from data_modules.schema import DataError
from data_modules.store import UNUSED

ALL = set(range(1, 25))
FOLDS = [(name, place, fold) for name, folds in RAVDESS_PROTOCOLS.items() for place, fold in enumerate(folds)]


@pytest.mark.parametrize(("name", "place", "fold"), FOLDS)
def test_parts_are_disjoint_and_cover_all_actors(name: str, place: int, fold: Fold) -> None:
    parts = (*fold.train, *fold.valid, *fold.test)
    assert len(parts) == 24
    assert set(parts) == ALL


def test_published_test_actors() -> None:
    tests = {name: [fold.test for fold in folds] for name, folds in RAVDESS_PROTOCOLS.items()}
    blocks = [(1, 2, 3, 4), (5, 6, 7, 8), (9, 10, 11, 12), (13, 14, 15, 16), (17, 18, 19, 20), (21, 22, 23, 24)]
    assert tests == {
        "luna5": [(2, 5, 14, 15, 16), (3, 6, 7, 13, 18), (10, 11, 12, 19, 20), (8, 17, 21, 23, 24), (1, 4, 9, 22)],
        "msaf6": blocks,
        "cfnsr5": blocks[:5],
        "chumachenko": [(5, 10, 16, 19)],
    }


@pytest.mark.parametrize("name", ["luna5", "msaf6", "cfnsr5"])
def test_validation_is_the_next_fold(name: str) -> None:
    folds = RAVDESS_PROTOCOLS[name]
    assert [fold.valid for fold in folds] == [*(fold.test for fold in folds[1:]), folds[0].test]


def test_actors_21_to_24_always_train_in_cfnsr5() -> None:
    assert all({21, 22, 23, 24} <= set(fold.train) for fold in RAVDESS_PROTOCOLS["cfnsr5"])
    assert all(len(fold.train) == 16 for fold in RAVDESS_PROTOCOLS["cfnsr5"])


def test_chumachenko_has_its_own_validation() -> None:
    (fold,) = RAVDESS_PROTOCOLS["chumachenko"]
    assert fold.valid == (11, 13, 18, 22)
    assert len(fold.train) == 16


@pytest.mark.parametrize(("name", "place", "fold"), [entry for entry in FOLDS if entry[0] in ("msaf6", "cfnsr5")])
def test_block_of_four_actors_has_240_clips(name: str, place: int, fold: Fold) -> None:
    clips = [clip for clip in design("speech") if clip.actor in fold.test]
    labels = np.bincount([clip.emotion for clip in clips], minlength=9)
    assert labels.tolist() == [0, 16, 32, 32, 32, 32, 32, 32, 32]
    assert sum(clip.actor % 2 == 0 for clip in clips) == 120


def test_speaker_table_codes() -> None:
    fold = Fold(train=(1, 4), valid=(2,), test=(3,))
    assert speaker_table(fold, [3, 1, 9, 2, 4, 1]).tolist() == [2, 0, UNUSED, 1, 0, 0]


def test_msaf6_tables_have_the_published_sizes() -> None:
    speakers = [clip.actor for clip in design("speech")]
    for fold in RAVDESS_PROTOCOLS["msaf6"]:
        assert np.bincount(speaker_table(fold, speakers)).tolist() == [960, 240, 240]


def test_speaker_in_two_parts_is_refused() -> None:
    with pytest.raises(DataError, match="Speaker 2 is in the parts train and test"):
        speaker_table(Fold((1, 2), (3,), (2,)), [1, 2, 3])


def test_generic_folds() -> None:
    assert consecutive_blocks([5, 1, 4, 2, 3], 2) == ((1, 2), (3, 4))
    assert cyclic_folds([1, 2, 3], [[1], [2], [3]])[2] == Fold((2,), (1,), (3,))
