"""RAVDESS by its published counts: names, the design of the data set, and the real release."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from data_modules.datasets.ravdess.importer import read
from data_modules.datasets.ravdess.names import RavdessName, design, find_clips
from data_modules.datasets.ravdess.splits import RAVDESS_PROTOCOLS
from data_modules.schema import DataError

pytest.importorskip("soundfile")
pytest.importorskip("librosa")

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")


# Names.


def test_name_of_the_record() -> None:
    """The example of the data set's own description."""
    name = RavdessName.parse("03-01-06-01-02-01-12")
    assert name == RavdessName(3, 1, 6, 1, 2, 1, 12)
    assert (name.label, name.stem, name.take) == (
        "fearful",
        "03-01-06-01-02-01-12",
        "01-06-01-02-01-12",
    )


@pytest.mark.parametrize(
    ("stem", "message"),
    [
        ("03-01-06-01-02-01", "seven two-digit fields"),
        ("03-01-06-01-02-01-12-01", "seven two-digit fields"),
        ("3-01-06-01-02-01-12", "seven two-digit fields"),
        ("03-01-06-01-02-01-12\n", "seven two-digit fields"),
        ("03-01-06-01-02-01-1२", "seven two-digit fields"),
        ("04-01-06-01-02-01-12", "modality 04; RAVDESS has 01 to 03"),
        ("03-03-06-01-02-01-12", "channel 03"),
        ("03-01-00-01-02-01-12", "emotion 00"),
        ("03-01-09-01-02-01-12", "emotion 09"),
        ("03-01-06-03-02-01-12", "intensity 03"),
        ("03-01-06-01-03-01-12", "statement 03"),
        ("03-01-06-01-02-03-12", "repetition 03"),
        ("03-01-06-01-02-01-25", "actor 25"),
        ("03-01-01-02-01-01-12", "strong neutral"),
        ("03-02-07-01-01-01-12", "song in disgust"),
        ("03-02-03-01-01-01-18", "song in happy of actor 18"),
    ],
)
def test_bad_names_are_refused(stem: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        RavdessName.parse(stem)


def test_design_has_the_published_counts() -> None:
    speech, song = list(design("speech")), list(design("song"))
    assert (len(set(speech)), len(set(song)), len(list(design("both")))) == (1440, 1012, 2452)
    assert set(Counter(name.actor for name in speech).values()) == {60}
    assert set(Counter(name.actor for name in song).values()) == {44}
    assert {name.actor for name in speech} - {name.actor for name in song} == {18}
    assert Counter(name.label for name in speech) == {label: 96 if label == "neutral" else 192 for label in EMOTIONS}
    assert Counter(name.label for name in song) == {label: 92 if label == "neutral" else 184 for label in EMOTIONS[:6]}
    assert all(RavdessName.parse(name.stem) == name for name in (*speech, *song))


# The real release.

REAL = os.environ.get("MMBENCH_REAL_DATA", "")
real = pytest.mark.skipif(not REAL, reason="MMBENCH_REAL_DATA does not name the folder with the real data")


@real
def test_real_names_are_the_full_design() -> None:
    clips, foreign = find_clips(Path(REAL) / "ravdess", "speech")
    assert (set(clips), foreign) == (set(design("speech")), [])


@real
def test_real_fold_column_is_luna5() -> None:
    table = pd.read_csv(Path(REAL) / "ravdess" / "openface_au_mean.csv")
    assert len(table) == 1440
    for place, fold in enumerate(RAVDESS_PROTOCOLS["luna5"]):
        held_out = table["clip"][table["fold"] == place]
        assert {int(clip[-2:]) for clip in held_out} == set(fold.test)
        assert len(held_out) == 60 * len(fold.test)


@real
def test_real_actor() -> None:
    root = Path(REAL) / "ravdess"
    source = read(root / "audio" / "Actor_18", face=str(root / "openface_au_mean.csv"))
    records = list(source.samples)
    assert Counter(record.target for record in records) == {0: 4, **dict.fromkeys(range(1, 8), 8)}
    assert {(record.inputs["audio"].shape[1], record.inputs["vision"].shape) for record in records} == {(64, (1, 35))}
    assert all(30 <= len(record.inputs["audio"]) <= 240 for record in records)
    assert [note[:32] for note in source.info.notes] == ["1380 of 1440 clips are not there"]
