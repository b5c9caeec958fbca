"""Decoding clip by clip: what is kept, what is done again, what is left out, and what is in memory."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from data_modules.features.audio import NoSoundError
from data_modules.features.faces import NoFaceError
from data_modules.importers import clips as module
from data_modules.importers.clips import Clip, Decoded, decode_clips, discard, listed, refuse_loss, work_folder
from data_modules.schema import DataError


class Decoder:
    """Turns files of a number into arrays, and remembers which."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, clip: Clip) -> Mapping[str, np.ndarray]:
        self.calls.append(clip.id)
        value = int(clip.files[0].read_text())
        return {"values": np.full((value, 2), value, np.uint8), "count": np.asarray(value)}


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    return write_clips(tmp_path, 6)


def write_clips(folder: Path, count: int) -> list[Clip]:
    made = []
    for place in range(count):
        path = folder / f"{place}.txt"
        path.write_text(str(place + 1))
        made.append(Clip(f"clip/{place}", (path,)))
    return made


def run(clips: list[Clip], decode: Any, folder: Path, **options: Any) -> Decoded:
    return decode_clips(clips, decode, folder / "out.h5.clips", **{"settings": {"size": 3}, **options})


def test_clips_come_back_in_order(clips: list[Clip], tmp_path: Path) -> None:
    made = run(clips[::-1], Decoder(), tmp_path)
    assert [name for name, _ in made] == [f"clip/{place}" for place in (5, 4, 3, 2, 1, 0)]
    for name, arrays in made:
        value = int(name[-1]) + 1
        assert set(arrays) == {"values", "count", "origins"}
        assert arrays["origins"].tolist() == [hashlib.sha256(str(value).encode()).hexdigest()]
        np.testing.assert_array_equal(arrays["values"], np.full((value, 2), value))
        assert arrays["values"].dtype == np.uint8
    assert made.column("count") == {f"clip/{place}": place + 1 for place in range(6)}
    assert (made.lost, made.notes) == ({}, [])


def test_what_is_there_is_not_decoded_again(clips: list[Clip], tmp_path: Path) -> None:
    run(clips[:4], Decoder(), tmp_path)
    decoder = Decoder()
    made = run(clips, decoder, tmp_path)
    assert decoder.calls == ["clip/4", "clip/5"]
    assert len(list(made)) == 6


def test_what_would_come_out_otherwise_is_decoded_again(clips: list[Clip], tmp_path: Path) -> None:
    run(clips, Decoder(), tmp_path)
    clips[2].files[0].write_text("77")
    other = run(clips, decoder := Decoder(), tmp_path)
    assert decoder.calls == ["clip/2"]
    assert len(other.load("clip/2")["values"]) == 77
    renamed = [Clip("new", clips[0].files), *clips[1:]]
    run(renamed, decoder := Decoder(), tmp_path)
    assert decoder.calls == ["new"]
    run(clips, decoder := Decoder(), tmp_path, settings={"size": 4})
    assert len(decoder.calls) == 6
    run(clips, decoder := Decoder(), tmp_path)  # and the first settings are still there
    assert decoder.calls == []
    extra = [Clip(clip.id, (*clip.files, clips[0].files[0])) for clip in clips]
    run(extra, decoder := Decoder(), tmp_path)
    assert len(decoder.calls) == 6


def test_killed_import_goes_on_where_it_was(clips: list[Clip], tmp_path: Path) -> None:
    """Killed by the system while the fourth clip is being put in its place."""
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from data_modules.importers.clips import Clip\n"
        "from tests.data_modules.importers.test_clips import Decoder, run\n"
        "folder, replace, kept = Path(sys.argv[1]), os.replace, []\n"
        "def last(*paths):\n"
        "    kept.append(paths)\n"
        "    os.kill(os.getpid(), signal.SIGKILL) if len(kept) == 4 else replace(*paths)\n"
        "os.replace = last\n"
        "run([Clip(f'clip/{i}', (folder / f'{i}.txt',)) for i in range(6)], Decoder(), folder)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=Path(__file__).parents[3], check=False)
    assert ended.returncode == -signal.SIGKILL
    made = run(clips, decoder := Decoder(), tmp_path)
    assert decoder.calls == ["clip/3", "clip/4", "clip/5"]
    assert [len(arrays["values"]) for _, arrays in made] == [1, 2, 3, 4, 5, 6]
    discard(tmp_path / "out.h5.clips")
    assert not (tmp_path / "out.h5.clips").exists()  # nor what the killed process left half-written


def test_interrupted_import_keeps_what_it_has(clips: list[Clip], tmp_path: Path) -> None:
    class Stopped(Decoder):
        def __call__(self, clip: Clip) -> Mapping[str, np.ndarray]:
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().__call__(clip)

    with pytest.raises(KeyboardInterrupt):
        run(clips, Stopped(), tmp_path)
    run(clips, decoder := Decoder(), tmp_path)
    assert decoder.calls == ["clip/2", "clip/3", "clip/4", "clip/5"]


def test_clip_that_was_damaged_on_disk(clips: list[Clip], tmp_path: Path) -> None:
    first = run(clips, Decoder(), tmp_path)
    cut, flipped = first.clips["clip/1"], first.clips["clip/5"]
    cut.write_bytes(cut.read_bytes()[:-30])
    content = flipped.read_bytes()
    flipped.write_bytes(content.replace(b"\6" * 12, b"\7" * 12))
    made = run(clips, decoder := Decoder(), tmp_path)
    assert decoder.calls == ["clip/1"]
    with pytest.raises(DataError, match=rf"{flipped.name} was damaged on disk .* Remove it"):
        made.load("clip/5")


# What is left out.


class Picky(Decoder):
    """A decoder that refuses some clips, each for its reason."""

    reasons: ClassVar[dict[str, DataError]] = {
        "clip/1": NoSoundError("one.mp4 has no sound track."),
        "clip/3": NoFaceError("three.mp4 shows no face."),
        "clip/4": DataError("four.mp4 is cut short."),
        "clip/5": DataError("five.mp4 cannot be decoded."),
    }

    def __call__(self, clip: Clip) -> Mapping[str, np.ndarray]:
        made = super().__call__(clip)
        if clip.id in self.reasons:
            raise self.reasons[clip.id]
        return made


def test_clips_are_left_out_with_their_reason(
    clips: list[Clip], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(clips, Picky(), tmp_path, worst_loss=0.7)
    assert list(made.clips) == ["clip/0", "clip/2"]
    assert made.notes == [
        "1 clips without sound were left out: clip/1.",
        "The first of them: one.mp4 has no sound track.",
        "1 clips without a face were left out: clip/3.",
        "The first of them: three.mp4 shows no face.",
        "2 clips that do not decode were left out: clip/4, clip/5.",
        "The first of them: four.mp4 is cut short.",
    ]
    shown = capsys.readouterr().err
    assert all(f"Left out: {name}. {reason}" in shown for name, reason in Picky.reasons.items())
    run(clips, decoder := Picky(), tmp_path, worst_loss=0.7)
    assert decoder.calls == list(Picky.reasons)  # a file may have been mended, or a library installed


def test_losing_too_much_is_an_error_but_what_is_decoded_stays(clips: list[Clip], tmp_path: Path) -> None:
    message = r"4 of 6 clips cannot be used, beginning with clip/1, clip/3, clip/4; up to 5% .* The first: one\.mp4"
    with pytest.raises(DataError, match=message):
        run(clips, Picky(), tmp_path)
    with pytest.raises(DataError, match=message.replace("5%", "66%")):
        run(clips, Picky(), tmp_path, worst_loss=0.66)
    run(clips, decoder := Decoder(), tmp_path)
    assert decoder.calls == list(Picky.reasons)


def test_no_usable_clip_is_an_error(clips: list[Clip], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"None of the 1 films can be used\. one\.mp4 has no sound track"):
        run(clips[1:2], Picky(), tmp_path, worst_loss=1.0, what="films")


def test_files_that_are_gone_are_left_out(clips: list[Clip], tmp_path: Path) -> None:
    clips[3].files[0].unlink()
    made = run(clips, decoder := Decoder(), tmp_path, worst_loss=0.2)
    assert list(made.lost) == ["clip/3"]
    assert "3.txt cannot be read (No such file" in str(made.lost["clip/3"])
    assert len(decoder.calls) == 5


def test_two_clips_of_one_name(clips: list[Clip], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Two clips have the name clip/2"):
        run([*clips, clips[2]], Decoder(), tmp_path)


def test_full_disk_is_an_error_that_says_so(clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    run(clips[:2], Decoder(), tmp_path)
    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(DataError, match=r"cannot be written: No space left.*start again\. What is decoded is kept"):
        run(clips, Decoder(), tmp_path)
    monkeypatch.undo()
    run(clips, decoder := Decoder(), tmp_path)
    assert decoder.calls == ["clip/2", "clip/3", "clip/4", "clip/5"]


# Folders, notes, memory.


def test_discard_takes_its_own_and_nothing_else(clips: list[Clip], tmp_path: Path) -> None:
    folder = work_folder(tmp_path / "out.h5")
    assert folder == tmp_path / "out.h5.clips"
    assert work_folder(tmp_path / "out.h5", tmp_path / "scratch") == tmp_path / "scratch" / "out.h5.clips"
    discard(folder)  # not there: nothing to do
    run(clips, Decoder(), tmp_path)
    run(clips, Decoder(), tmp_path, settings={"size": 9})
    (folder / "mine.txt").write_text("precious")
    (folder / "clips-of-mine").mkdir()
    discard(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["clips-of-mine", "mine.txt"]
    assert clips[0].files[0].exists()


def test_notes_name_twenty() -> None:
    names = [f"c{place}" for place in range(23)]
    assert listed("odd", names) == [f"23 odd: {', '.join(names[:20])} and 3 more."]
    assert listed("odd", []) == []


def test_five_per_cent_may_be_lost() -> None:
    refuse_loss("are odd", ["a"] * 5, 100)
    with pytest.raises(DataError, match="6 of 100 clips are odd"):
        refuse_loss("are odd", ["a"] * 6, 100)


@pytest.mark.parametrize("broken", [False, True])
def test_memory_does_not_grow_with_the_number_of_clips(tmp_path: Path, broken: bool) -> None:
    """Also not when clips are refused: an error remembers what was in memory where it was raised."""
    size = 1 << 20

    def decode(clip: Clip) -> Mapping[str, np.ndarray]:
        values = np.ones(size, np.uint8)
        if broken and clip.id != "clip/0":
            raise DataError(f"{clip.id} is broken, with {len(values)} bytes at hand.")
        return {"values": values}

    def peak(count: int) -> int:
        made_clips = write_clips(tmp_path, count)
        tracemalloc.start()
        try:
            made = decode_clips(made_clips, decode, tmp_path / f"work{count}", settings={}, worst_loss=1.0)
            assert sum(arrays["values"].nbytes for _, arrays in made) == size * (1 if broken else count)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(24) - peak(4) < size / 2
    assert module.WORST_LOSS == 0.05
