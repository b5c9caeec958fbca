"""The importer of computational sequences against a naive alignment, and on the real words of CMU-MOSI."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_modules.schema import DataError
from tests.data_modules.importers.csd_layouts import (
    VIDEOS,
    World,
    bring,
    entries,
    make_world,
    naive_mean,
    naive_overlap,
    naive_words,
    ordered,
    steps,
    write_csd,
)
from tests.data_modules.stores import another_processor

DIM = 5


def vector(word: str) -> np.ndarray:
    return np.array([sum(map(ord, word)) + column / 8 for column in range(DIM)], np.float32)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table that lacks word6."""
    words = [f"word{number}" for number in range(6)]
    path = tmp_path_factory.mktemp("vectors") / "GloVe 6B.npz"
    np.savez(path, vocab=np.array(words), emb=np.stack([vector(word) for word in words]))
    return path


@pytest.mark.parametrize("pauses", [False, True])
def test_words_carry_the_mean_of_their_frames(
    tmp_path: Path, world: World, folder: Path, vectors: Path, pauses: bool
) -> None:
    store = bring(tmp_path, folder, vectors=str(vectors), pauses=pauses)
    assert store.ids.tolist() == [f"{video}[{number}]" for video, number, *_ in ordered(world)]
    assert (store.aligned, store.spec("standard").dims) == (True, {"text": DIM, "audio": 3, "vision": 2})
    unknown = total = 0
    for row, (video, _, segment, labels) in enumerate(ordered(world)):
        numbers = naive_words(world, video, segment, pauses)
        said = [world.words[video][number] for number in numbers]
        known = [word not in ("sp", "word6") for *_, word in said]
        text = [vector(word) if there else np.zeros(DIM) for (*_, word), there in zip(said, known, strict=True)]
        unknown, total = unknown + known.count(False), total + len(known)
        np.testing.assert_array_equal(steps(store, "text", row), text)
        for name, dim in (("audio", 3), ("vision", 2)):
            expected = [naive_mean(getattr(world, name)[video], span[:2], dim) for span in said]
            np.testing.assert_allclose(steps(store, name, row), expected, rtol=1e-5, atol=1e-6)
        assert store.transcripts[row] == " ".join(word for *_, word in said if word != "sp")
        assert store.groups[row] == video
        assert store.targets[row] == np.float32(labels[0])
    for part, rows in store.rows("standard", 0).items():
        assert set(store.groups[rows]) == {video for video, own in VIDEOS.items() if own == part}
    assert f"{unknown} of {total} words" in "".join(store.notes)
    assert store.feature_set == "glove-6b-coavarep-facet-4-1" + ("-pauses" if pauses else "")
    assert "COAVAREP (CMU_MOSI_COVAREP.csd, version 1.0), mean over each word" in store.modalities["audio"].source


def test_segments_keep_all_frames(tmp_path: Path, world: World, folder: Path, vectors: Path) -> None:
    store = bring(tmp_path, folder, vectors=str(vectors), align="segment")
    assert not store.aligned
    for row, (video, _, segment, _) in enumerate(ordered(world)):
        assert len(steps(store, "text", row)) == len(naive_words(world, video, segment))
        for name in ("audio", "vision"):
            rows = getattr(world, name)[video]
            expected = [values for start, end, values in rows if naive_overlap((start, end), segment)]
            np.testing.assert_array_equal(steps(store, name, row), np.array(expected, np.float32))


def test_means_are_known_by_what_they_are_of(
    tmp_path: Path, folder: Path, vectors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sum of many frames may be rounded otherwise elsewhere; the frames are others' and exact."""
    here = bring(tmp_path, folder, vectors=str(vectors))
    assert set(here.recipes) == {"audio", "vision"}
    assert bring(tmp_path, folder, vectors=str(vectors), align="segment").recipes == {}
    copy = shutil.copytree(folder, tmp_path / "copy")
    with h5py.File(copy / "CMU_MOSI_COVAREP.csd", "r+") as file:
        file["COAVAREP/data/c7UH_rxdZv4/features"][:] += 1e-3
    other = bring(tmp_path, copy, vectors=str(vectors))
    assert set(other.groups[other.origins["audio"] != here.origins["audio"]]) == {"c7UH_rxdZv4"}
    assert other.origins["vision"].tolist() == here.origins["vision"].tolist()
    assert other.identity != here.identity
    another_processor(monkeypatch)
    there = bring(tmp_path, folder, vectors=str(vectors))
    assert there.identity == here.identity
    assert there.content != here.content


def test_text_stays_out_without_vectors(tmp_path: Path, world: World, folder: Path) -> None:
    store = bring(tmp_path, folder)
    assert tuple(store.modalities) == ("audio", "vision")
    assert store.transcripts[0] == " ".join(
        world.words[sorted(VIDEOS)[0]][number][2]
        for number in naive_words(world, sorted(VIDEOS)[0], ordered(world)[0][2])
    )
    assert tuple(bring(tmp_path, folder, audio="none").modalities) == ("vision",)
    with pytest.raises(DataError, match="no text, audio or vision as numbers"):
        bring(tmp_path, folder, audio="none", vision="none")


def test_a_constant_stays_constant_and_silence_is_zeros(tmp_path: Path, world: World) -> None:
    """What is constant cannot change in a mean, and audio that ends early leaves words without it."""
    audio = {video: [(a, b, [2.5, -1.0, 7.0]) for a, b, _ in rows] for video, rows in world.audio.items()}
    video = sorted(VIDEOS)[0]
    last = world.words[video][-3][1]
    audio[video] = [row for row in audio[video] if row[1] < last]
    source = World(world.words, audio, world.vision, world.segments).write(tmp_path / "files")
    store = bring(tmp_path, source)
    values, _ = store.read("audio", np.arange(len(store)))
    constant = (values == np.array([2.5, -1.0, 7.0])).all(axis=1)
    expected = [
        any(naive_overlap(word[:2], row[:2]) for row in audio[v])
        for v, _, segment, _ in ordered(world)
        for word in (world.words[v][number] for number in naive_words(world, v, segment))
    ]
    assert constant.tolist() == expected
    assert not values[~constant].any()
    assert 0 < (~constant).sum() < 5


def test_vectors_of_words_come_from_a_file(tmp_path: Path, world: World, folder: Path) -> None:
    """A row per word: the mean over a word is that row, and without words the rows themselves are the steps."""
    table = {
        video: [(a, b, [float(number), -1.0]) for number, (a, b, _) in enumerate(rows)]
        for video, rows in world.words.items()
    }
    text = write_csd(tmp_path / "CMU_MOSI_TimestampedWordVectors.csd", "glove_vectors", entries(table))
    for options, pauses in (({}, False), ({"words": "none"}, True)):
        store = bring(tmp_path, folder, text=str(text), **options)
        for row, (video, _, segment, _) in enumerate(ordered(world)):
            numbers = naive_words(world, video, segment, pauses)
            assert steps(store, "text", row)[:, 0].tolist() == numbers
            assert len(steps(store, "audio", row)) == len(numbers)
        assert any(store.transcripts) == (not pauses)
    with pytest.raises(DataError, match="excludes the option `text`"):
        bring(tmp_path, folder, text=str(text), vectors="somewhere.npz")


def test_nothing_to_align_with(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DataError, match="no words to align with"):
        bring(tmp_path, folder, words="none")
    assert tuple(bring(tmp_path, folder, words="none", align="segment").modalities) == ("audio", "vision")


def hidden(world: World, *segments: tuple[str, int], base: str = "vision") -> World:
    """The same world without the frames (or words) of some segments."""
    rows = {video: list(own) for video, own in getattr(world, base).items()}
    for video, number in segments:
        spans = [world.segments[video][number][:2]]
        spans += [world.words[video][word][:2] for word in naive_words(world, video, spans[0], pauses=True)]
        rows[video] = [row for row in rows[video] if not any(naive_overlap(row[:2], span) for span in spans)]
    return World(**{**vars(world), base: rows})


@pytest.mark.parametrize("base", ["vision", "words"])
def test_a_segment_without_a_modality_is_left_out(tmp_path: Path, world: World, vectors: Path, base: str) -> None:
    video = sorted(VIDEOS)[1]
    source = hidden(world, (video, 2), base=base).write(tmp_path / "files")
    what = "vision" if base == "vision" else "text and audio and vision"
    for options in ({}, {"align": "segment"}):
        lacking = what if not options or base == "vision" else "text"
        store = bring(tmp_path, source, vectors=str(vectors), **options)
        assert len(store) == 23
        assert f"{video}[2]" not in store.ids
        note = f"1 of 24 segments have nothing of some modality and were left out: {video}[2] ({lacking})."
        assert note in store.notes
    store = bring(tmp_path, source, vectors=str(vectors), missing="zeros")
    row = store.ids.tolist().index(f"{video}[2]")
    assert (len(store), steps(store, "vision", row).tolist()) == (24, [[0.0, 0.0]])
    assert store.repairs["vision"]["empty"] == 1
    assert "1 of 24 segments have nothing of some modality and were kept with zeros" in "".join(store.notes)
    assert store.feature_set.endswith("-zeros")


@pytest.mark.parametrize("missing", ["drop", "zeros"])
def test_losing_more_than_five_per_cent_is_an_error(tmp_path: Path, world: World, missing: str) -> None:
    video = sorted(VIDEOS)[1]
    source = hidden(world, (video, 2), (video, 4)).write(tmp_path / "files")
    with pytest.raises(DataError, match=rf"2 of 24 clips of .* have nothing .* {video}\[2\] \(vision\), .*5% would"):
        bring(tmp_path, source, missing=missing)


def test_a_video_that_a_file_lacks(tmp_path: Path, world: World, folder: Path) -> None:
    """Unification: what one sequence lacks is lost for all."""
    short = make_world(seed=1, segments=1)
    extra = World(
        *({**getattr(world, name), "GWuJjcEuzt8": next(iter(getattr(short, name).values()))} for name in vars(world))
    )
    extra.vision.pop("GWuJjcEuzt8")
    store = bring(tmp_path, extra.write(tmp_path / "files"))
    assert set(store.groups) == set(VIDEOS)
    assert "1 of 25 segments have nothing of some modality and were left out: GWuJjcEuzt8[0] (vision)." in store.notes


def test_values_that_are_no_numbers_are_counted(tmp_path: Path, world: World) -> None:
    audio = {video: list(rows) for video, rows in world.audio.items()}
    video = sorted(VIDEOS)[0]
    start, end, _ = world.words[video][naive_words(world, video, ordered(world)[0][2])[1]]
    place = next(k for k, row in enumerate(audio[video]) if row[0] > (start + end) / 2)
    audio[video][place] = (*audio[video][place][:2], [-np.inf, 1.0, np.nan])
    store = bring(tmp_path, World(world.words, audio, world.vision, world.segments).write(tmp_path / "files"))
    assert (store.repairs["audio"]["inf"], store.repairs["audio"]["nan"]) == (1, 1)
    assert steps(store, "audio", 0)[1, [0, 2]].tolist() == [0.0, 0.0]
    assert steps(store, "audio", 0)[1, 1] != 0


def test_a_broken_entry_is_listed_and_skipped(tmp_path: Path, world: World) -> None:
    video = "GWuJjcEuzt8"
    extra = make_world(seed=1, segments=1)
    whole = World(*({**getattr(world, n), video: next(iter(getattr(extra, n).values()))} for n in vars(world)))
    source = whole.write(tmp_path / "files")
    with h5py.File(source / "CMU_MOSI_COVAREP.csd", "a") as file:
        entry = file["COAVAREP/data"][video]
        rows = entry["intervals"][:-1]
        del entry["intervals"]
        entry["intervals"] = rows
    store = bring(tmp_path, source)
    assert set(store.groups) == set(VIDEOS)
    assert (
        f"1 entries of files cannot be used: {source / 'CMU_MOSI_COVAREP.csd'}: {video!r} has features"
        in store.notes[0]
    )


@pytest.mark.parametrize(("missing", "train"), [("drop", 1283), ("zeros", 1284)])
def test_real_words_of_mosi(real_data: Path, tmp_path: Path, missing: str, train: int) -> None:
    """Published counts of the standard split, moments of its labels, and the words of the transcripts.

    One segment of the 2,199 has no duration (2WGyTLYerpo, clip 44): the SDK drops it, MulT's files hold it.
    """
    mosi = real_data / "mosi"
    words = mosi / "CMU_MOSI_ModifiedTimestampedWords.csd"
    options = {"labels": str(mosi / "transcripts"), "vectors": str(mosi / "glove_2729x300.npz"), "missing": missing}
    store = bring(tmp_path, words, **options)
    store.verify()
    rows = store.rows("standard", 0)
    assert {part: len(own) for part, own in rows.items()} == {"train": train, "valid": 229, "test": 686}
    videos = {part: set(store.groups[own]) for part, own in rows.items()}
    assert {part: len(own) for part, own in videos.items()} == {"train": 52, "valid": 10, "test": 31}
    kept = missing == "zeros"
    zeros, positive = (
        [int(sign(store.targets[rows[part]]).sum()) for part in ("train", "valid", "test")]
        for sign in (lambda labels: labels == 0, lambda labels: labels > 0)
    )
    assert (zeros, positive) == ([53, 13, 30], [678 + kept, 124, 277])
    assert ("2WGyTLYerpo[44]" in store.ids) == kept
    # Words by time are the words of the transcript in nine segments of ten; in the others a border cuts a word.
    lengths = np.diff(store.offsets["text"])
    said = np.array([len(text.replace("'", "").split()) for text in store.transcripts])
    assert (lengths == said).mean() > 0.88
    row = store.ids.tolist().index("c7UH_rxdZv4[24]")
    assert store.transcripts[row] == "AND HE WAS STILL BORING"
    with np.load(mosi / "glove_2729x300.npz") as file:
        vocab = file["vocab"].tolist()
        expected = file["emb"][[vocab.index(word) for word in ("and", "he", "was", "still", "boring")]]
    np.testing.assert_array_equal(steps(store, "text", row), expected.astype(np.float32))
    if kept:
        means = [store.targets[rows[part]].mean() for part in ("train", "valid", "test")]
        np.testing.assert_allclose(means, [0.2345, 0.3095, -0.3170], atol=5e-5)
        # The folds that are built in are those of the tables.
        labels = str(one_table(mosi / "transcripts", tmp_path))
        assert bring(tmp_path / "built in", words, **{**options, "labels": labels}).identity == store.identity


def one_table(folder: Path, tmp_path: Path) -> Path:
    """The three tables as one, without their parts."""
    lines: list[str] = []
    for part in ("train", "valid", "test"):
        text = (folder / f"{part}.tsv").read_text().splitlines()
        lines += text if not lines else text[1:]
    path = tmp_path / "labels.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path
