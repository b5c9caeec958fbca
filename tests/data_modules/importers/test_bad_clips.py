"""One bad clip is left out with its reason: the others, and what is decoded of them, go on."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from data_modules import DataError, budget
from data_modules.features import media
from data_modules.features.audio import RATES, load_audio
from data_modules.features.media import read_frames, read_media, read_sound
from data_modules.features.sampling import Sampling, VideoInfo
from data_modules.formats import import_store
from data_modules.importers.clips import Clip, decode_clips
from data_modules.importers.extract import Extractors, extract_store
from tests.data_modules.media_files import make_mp4, make_wav

SOUND = Extractors(vision="none")


def with_field(path: Path, place: int, form: str, value: int) -> Path:
    """Change a number in the header of a wav."""
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, place, value)
    path.write_bytes(bytes(content))
    return path


def left_out(tmp_path: Path, bad: Path, wanted: Extractors = SOUND) -> str:
    """Return why a clip is left out beside a good one."""
    good = make_mp4(tmp_path / "good.mp4", seconds=0.4, fps=5)
    store = extract_store([bad, good], tmp_path / "own.h5", wanted)
    assert list(store.ids) == ["good"]
    return " ".join(store.notes)


@pytest.mark.parametrize("rate", [1, 3, RATES[0] - 1, RATES[1] + 1])
def test_a_rate_that_no_recording_has(tmp_path: Path, rate: int) -> None:
    """Resampled to 16 kHz, a second of such sound would be hours, and take gigabytes."""
    bad = with_field(make_wav(tmp_path / "bad.wav", 1.0), 24, "<I", rate)
    start = time.monotonic()
    assert f"bad.wav says that its sound has {rate} samples per second" in left_out(tmp_path, bad)
    assert time.monotonic() - start < 10


def test_sound_that_says_it_is_larger_than_it_is(tmp_path: Path) -> None:
    bad = make_wav(tmp_path / "bad.wav")
    for place in (4, 40):
        with_field(bad, place, "<I", 0xFFFFFFF0)
    assert "bad.wav is cut short" in left_out(tmp_path, bad)


def test_sound_over_the_budget_is_refused_before_it_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wav, film = make_wav(tmp_path / "a.wav", 1.0, rate=16_000), make_mp4(tmp_path / "a.mp4", seconds=1.0)
    monkeypatch.setenv(budget.VARIABLE, "60000B")  # a second has 16 000 samples of four bytes
    for path in (wav, film):
        with pytest.raises(DataError, match=rf"{path.name}: its sound would take .*set MMBENCH_MEMORY="):
            read_sound(path, 16_000)
    monkeypatch.setenv(budget.VARIABLE, "150000B")
    assert len(load_audio(wav, 16_000)) == 16_000
    with pytest.raises(DataError, match="its sound would take"):
        load_audio(wav, 48_000)


def test_sound_that_goes_on_after_its_header_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = make_mp4(tmp_path / "a.mp4", seconds=2.0)
    monkeypatch.setattr(media, "AT_ONCE", 1000)
    checked: list[int] = []
    monkeypatch.setattr(media, "check_sound", lambda path, samples, own, rate: checked.append(samples))
    assert len(read_sound(film, 44_100)) >= 88_200
    assert len(checked) > 20
    assert max(checked[1:]) > 80_000


def test_a_track_that_says_no_rate_or_nothing_decodes(tmp_path: Path) -> None:
    bad = make_mp4(tmp_path / "bad.mp4", seconds=0.4, fps=5)
    bad.write_bytes(bad.read_bytes().replace(b"mp4a", b"xxxx").replace(b"esds", b"xxxx"))
    assert "bad.mp4 has a track of audio that nothing here decodes" in left_out(tmp_path, bad)

    class Stream:
        duration, rate, time_base = None, 0, None

    with pytest.raises(DataError, match=r"a\.mp4 says no rate of its sound"):
        media._Sound(Path("a.mp4"), Stream(), "mp4")


@pytest.mark.parametrize(
    ("frames", "seconds", "sampling", "count"),
    [(10**9, 1.0, Sampling(), 10**9), (2, 4e9, Sampling(every=0.5), 8 * 10**9), (2, 1.0, Sampling(10**9), 10**9)],
)
def test_a_video_that_says_it_has_billions_of_pictures(
    frames: int, seconds: float, sampling: Sampling, count: int
) -> None:
    """It is not believed before there is room for it: not even for the times of so many."""
    info = VideoInfo(5.0, frames, seconds, 48, 64)
    with pytest.raises(DataError, match=rf"a\.mp4 would give {count} pictures of 48 x 64, above 1 GiB"):
        media._Picker(Path("a.mp4"), info, sampling, None, media.resize, None)


def test_more_pictures_than_the_header_says_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = make_mp4(tmp_path / "a.mp4", seconds=1.0, fps=10)
    monkeypatch.setattr(media, "TOO_LARGE", 5 * 48 * 64 * 3)
    monkeypatch.setattr(Sampling, "number", lambda *_: 1)
    with pytest.raises(DataError, match=r"a\.mp4 would give 6 pictures"):
        read_media(film, sampling=Sampling())


def test_names_that_are_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.wav"))
    try:
        make_wav(tmp_path / "bad.wav").rename(bad)
    except OSError:
        pytest.skip("this file system takes no such names")
    said = left_out(tmp_path, bad)
    assert r"The name of the clip bad\udcff is no text in UTF-8. Rename it." in said
    assert r"Left out: bad\udcff. " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "table"), [(b"he\0llo", False), ("hello".encode("utf-16"), False), (b"id,text\nbad,he\0llo\n", True)]
)
def test_transcripts_that_are_no_text(tmp_path: Path, said: bytes, table: bool) -> None:
    """They were refused when everything was decoded, and the command ended."""
    bad, good = make_wav(tmp_path / "bad.wav"), make_wav(tmp_path / "good.wav")
    where = tmp_path / ("said.csv" if table else "bad.txt")
    where.write_bytes(said)
    for _ in range(2):  # also when the clip was decoded before
        store = extract_store([bad, good], tmp_path / "own.h5", SOUND, transcripts=where if table else None)
        assert list(store.ids) == ["good"]
        assert f"{where} holds what is no text, such as a zero byte. Save it in UTF-8." in " ".join(store.notes)


def test_a_table_over_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, table = make_wav(tmp_path / "a.wav"), tmp_path / "said.csv"
    table.write_text("id,text\na," + "so " * 1000)
    monkeypatch.setenv(budget.VARIABLE, "10000B")
    with pytest.raises(DataError, match=r"said\.csv: its rows would take"):
        extract_store([clip], tmp_path / "own.h5", SOUND, transcripts=table)


def test_whatever_a_library_says_of_a_clip_is_a_reason_to_leave_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = make_mp4(tmp_path / "a.mp4")
    for error in (ValueError("odd"), MemoryError(), ZeroDivisionError("by zero"), TypeError("None")):

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(media._Picker, "add", fail)
        with pytest.raises(DataError, match=rf"a\.mp4 cannot be decoded \({type(error).__name__}.*Copy or unpack"):
            read_frames(film, Sampling())


def test_a_clip_with_a_flaw_is_not_decoded(tmp_path: Path) -> None:
    clips = [Clip(str(number), (make_wav(tmp_path / f"{number}.wav"),), "It is blue." * number) for number in (0, 1)]
    made = decode_clips(clips, lambda clip: {"a": np.zeros(int(not clip.flaw))}, tmp_path, settings={}, worst_loss=1)
    assert list(made.clips) == ["0"]
    assert str(made.lost["1"]) == "It is blue."


def test_an_actor_without_a_usable_clip_is_named_with_the_reason(tmp_path: Path) -> None:
    for actor in range(1, 25):
        make_wav(tmp_path / "r" / f"Actor_{actor:02d}" / f"03-01-01-01-01-01-{actor:02d}.wav", 0.1)
    (tmp_path / "r" / "Actor_07" / "03-01-01-01-01-01-07.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"/r: the actors \[7\] have no usable clip.*-07\.wav cannot be decoded"):
        import_store(
            "ravdess_media", tmp_path / "r", tmp_path / "out.h5", dataset="ravdess", options={"modality": "audio"}
        )
