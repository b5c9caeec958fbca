"""Decoding of clips: real small files whose pictures and sounds are known, and broken ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from data_modules.features import media
from data_modules.features.audio import NoSoundError, load_audio, to_int16
from data_modules.features.media import read_frames, read_media, read_sound, resize, video_info
from data_modules.features.sampling import Sampling, VideoInfo
from data_modules.schema import DataError
from tests.data_modules.media_files import cut_file, make_mp4, make_wav, pictures, red_at, tone

av = pytest.importorskip("av")
pytest.importorskip("librosa")

NTSC = 30_000 / 1001


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second at 25 pictures per second, 48 x 64, with sound at 48 kHz."""
    return make_mp4(tmp_path_factory.mktemp("clip") / "clip.mp4")


def reds(frames: np.ndarray) -> np.ndarray:
    """The red of each picture, away from the blue corner."""
    return frames[:, 0, frames.shape[2] // 2 :, frames.shape[3] // 2 :].mean(axis=(1, 2))


# Pictures.


def test_all_pictures_in_order_colour_and_place(clip: Path) -> None:
    frames = read_frames(clip, Sampling())
    assert (frames.shape, frames.dtype) == ((25, 3, 48, 64), np.uint8)
    np.testing.assert_allclose(reds(frames), [red_at(i / 25, 1.0) for i in range(25)], atol=4)
    assert np.abs(frames.astype(int) - pictures(25).transpose(0, 3, 1, 2)).mean() < 3  # only edges blur
    np.testing.assert_allclose(frames[0, :, 3, 3], (0, 0, 255), atol=8)


@pytest.mark.parametrize(
    ("seconds", "fps", "count"), [(1.0, 25.0, 10), (1.0, 25.0, 30), (2.0, 30.0, 30), (1.7, NTSC, 8)]
)
def test_a_number_of_pictures_is_evenly_spread(tmp_path: Path, seconds: float, fps: float, count: int) -> None:
    """At ``i * duration / count`` a player shows the picture ``floor(i * pictures / count)``."""
    frames = read_frames(make_mp4(tmp_path / "a.mp4", seconds, fps, (24, 32)), Sampling(count=count))
    total = round(seconds * fps)
    shown = [i * total // count for i in range(count)]
    np.testing.assert_allclose(reds(frames), [red_at(place / total, 1.0) for place in shown], atol=4)


def test_a_picture_every_so_many_seconds(tmp_path: Path) -> None:
    path = make_mp4(tmp_path / "a.mp4", seconds=1.6, fps=25)
    made = read_media(path, sampling=Sampling(every=0.5))
    assert made.pictures is not None
    np.testing.assert_allclose(made.times, [0, 0.5, 1.0, 1.5])
    shown = np.array([0, 12, 25, 37])  # 0.5 s and 1.5 s lie half way through a picture
    np.testing.assert_allclose(reds(made.pictures), [red_at(i / 40, 1.0) for i in shown], atol=4)
    # A time that is the end of the clip would only repeat its last picture.
    assert len(read_frames(path, Sampling(every=0.8))) == 2
    assert len(read_frames(path, Sampling(every=10))) == 1


def test_times_of_all_pictures(tmp_path: Path) -> None:
    made = read_media(make_mp4(tmp_path / "a.mp4", 1.0, NTSC), sampling=Sampling())
    np.testing.assert_allclose(made.times, np.arange(30) * 1001 / 30_000, atol=1e-4)


@pytest.mark.parametrize("ending", ["avi", "mkv", "mov"])
def test_other_containers(tmp_path: Path, ending: str) -> None:
    path = make_mp4(tmp_path / f"a.{ending}", seconds=1.2, fps=NTSC)
    made = read_media(path, sampling=Sampling(count=6), rate=16_000)
    assert made.pictures is not None
    assert made.sound is not None
    np.testing.assert_allclose(reds(made.pictures), [red_at(i / 6, 1.0) for i in range(6)], atol=6)
    assert len(made.sound) == pytest.approx(1.2 * 16_000, rel=0.05)


def test_info(tmp_path: Path, clip: Path) -> None:
    assert video_info(clip) == VideoInfo(25.0, 25, 1.0, 48, 64)
    found = video_info(make_mp4(tmp_path / "a.mp4", 2.0, NTSC, (32, 20), sound=False))
    assert (found.frames, found.height, found.width) == (60, 32, 20)
    assert (found.fps, found.duration) == (pytest.approx(NTSC), pytest.approx(60 / NTSC))


def test_pictures_are_turned_as_a_player_turns_them(tmp_path: Path) -> None:
    """A phone held upright stores pictures lying on their side and says by how much to turn them."""
    upright = pictures(5, (64, 48))
    lying = np.ascontiguousarray(upright[:, ::-1].transpose(0, 2, 1, 3))  # a quarter clockwise
    path = make_mp4(tmp_path / "a.mp4", frames=lying, turn=90)
    np.testing.assert_allclose(read_frames(path, Sampling()), upright.transpose(0, 3, 1, 2), atol=60)
    assert (video_info(path).height, video_info(path).width) == (64, 48)


def test_squashing_is_the_same_while_and_after_decoding(clip: Path) -> None:
    squashed = read_frames(clip, Sampling(count=4), (20, 20))
    assert squashed.shape == (4, 3, 20, 20)
    np.testing.assert_array_equal(squashed, resize(read_frames(clip, Sampling(count=4)), (20, 20)))


@pytest.mark.parametrize("size", [(12, 16), (15, 40), (96, 50)])
def test_resize_is_triangle_weights(size: tuple[int, int]) -> None:
    """Each pixel is the mean of the old ones weighted by a triangle around its place, as wide as the reduction."""

    def weights(old: int, new: int) -> np.ndarray:
        scale = old / new
        reach = max(scale, 1.0)
        distance = (np.arange(new)[:, None] + 0.5) * scale - (np.arange(old)[None] + 0.5)
        triangle = np.maximum(0, 1 - np.abs(distance) / reach)
        return triangle / triangle.sum(axis=1, keepdims=True)

    noise = np.random.default_rng(0).integers(0, 256, (2, 3, 48, 64), dtype=np.uint8)
    expected = weights(48, size[0]) @ noise.astype(float) @ weights(64, size[1]).T
    np.testing.assert_allclose(resize(noise, size), expected, atol=1.01)


# Sound.


def test_sound_of_a_video(clip: Path) -> None:
    sound = read_sound(clip, 48_000)
    assert (sound.dtype, sound.ndim) == (np.float32, 1)
    middle = slice(12_000, 36_000)
    assert np.corrcoef(sound[middle], tone(1.0)[middle, 0])[0, 1] > 0.999  # in phase: nothing is cut or put in front
    assert np.abs(sound[middle]).max() == pytest.approx(0.25, rel=0.05)


def test_sound_of_a_video_is_resampled_and_averaged(tmp_path: Path) -> None:
    """Of two channels at the levels 0.4 and 0.2 the mean has 0.3."""
    sound = read_sound(make_mp4(tmp_path / "a.mp4", channels=2, rate=44_100, level=0.4), 16_000)
    assert len(sound) == pytest.approx(16_000, abs=16_000 * 2048 / 44_100)
    expected = tone(1.0, 16_000, level=0.3)[4000:12_000, 0]
    np.testing.assert_allclose(sound[4000:12_000], expected, atol=0.02)


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_sound_of_a_file_of_sound(tmp_path: Path, ending: str) -> None:
    path = make_wav(tmp_path / f"a.{ending}", 0.5, rate=22_050, channels=2)
    np.testing.assert_array_equal(read_sound(path, 16_000), load_audio(path, 16_000))


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (24_000, 1)])
def test_sound_that_changes_its_format_on_the_way(tmp_path: Path, rate: int, channels: int) -> None:
    """Broadcasts do; the second half is as long, as loud and as high as the first."""
    for name, one in (("a", (48_000, 1)), ("b", (rate, channels))):
        make_aac(tmp_path / name, *one)
    both = tmp_path / "both.aac"
    both.write_bytes((tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes())
    sound = read_sound(both, 16_000)
    assert len(sound) == pytest.approx(32_000, abs=3000)  # coders add up to two of their pieces
    for half in (sound[4000:12_000], sound[-12_000:-4000]):
        assert np.sqrt((half**2).mean()) == pytest.approx(0.25 / np.sqrt(2), rel=0.05)
        assert np.abs(np.fft.rfft(half)).argmax() == 440 // 2  # of half a second


def make_aac(path: Path, rate: int, channels: int) -> None:
    """Write one second of a sine, alike in every channel, as a stream that can be joined to another."""
    with av.open(str(path), "w", format="adts") as container:
        stream = container.add_stream("aac", rate=rate, layout=["mono", "stereo"][channels - 1])
        samples = np.repeat(tone(1.0, rate).T, channels, axis=0)
        for start in range(0, rate, 1024):
            piece = np.ascontiguousarray(samples[:, start : start + 1024])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=stream.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_titles_in_an_old_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "a title"
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 24, 32, "yuv420p"
        for image in pictures(5, (24, 32)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"a title", "à title".encode("latin-1")))
    assert len(read_frames(path, Sampling())) == 5


def test_sound_without_pictures(tmp_path: Path) -> None:
    path = make_mp4(tmp_path / "a.m4a", picture=False)
    assert len(read_sound(path, 8000)) == pytest.approx(8000, rel=0.03)
    with pytest.raises(DataError, match=r"a\.m4a has no video track"):
        read_frames(path, Sampling())


def test_int16_of_a_store() -> None:
    samples = np.array([-2.0, -1.0, -0.5 / 32768, 0.0, 0.25, 1.4 / 32768, 1.6 / 32768, 0.99999, 1.0], np.float32)
    made = to_int16(samples)
    assert made.dtype == np.int16
    assert made.tolist() == [-32768, -32768, 0, 0, 8192, 1, 2, 32767, 32767]


# One pass, a bounded memory.


def test_a_clip_is_decoded_once(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = av.open
    monkeypatch.setattr(av, "open", lambda path, **how: opened.append(path) or original(path, **how))
    made = read_media(clip, sampling=Sampling(count=5), size=(24, 24), rate=16_000)
    assert opened == [str(clip)]
    assert made.pictures is not None
    assert made.sound is not None
    np.testing.assert_array_equal(made.pictures, read_frames(clip, Sampling(count=5), (24, 24)))
    np.testing.assert_array_equal(made.sound, read_sound(clip, 16_000))


def test_nothing_is_asked_of_a_closed_file(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stream of a closed file says is whatever lies in memory there."""
    opened, finish, state = media._opened, media._Sound.finish, []

    @contextmanager
    def watched(path: Path) -> Iterator[object]:
        with opened(path) as container:
            yield container
        state.append("closed")

    monkeypatch.setattr(media, "_opened", watched)
    monkeypatch.setattr(media._Sound, "finish", lambda self, rate: state.append("finished") or finish(self, rate))
    read_media(clip, sampling=Sampling(count=2), rate=16_000)
    assert state == ["finished", "closed"]


def test_too_many_pictures_are_refused(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "TOO_LARGE", 24 * 48 * 64 * 3)
    with pytest.raises(DataError, match=r"clip\.mp4 would give 25 pictures of 48 x 64.*Take fewer"):
        read_frames(clip, Sampling())
    assert len(read_frames(clip, Sampling(count=24))) == 24
    assert len(read_frames(clip, Sampling(), (24, 24))) == 25


# What cannot be decoded.


def test_damaged_files(tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.mp4", tmp_path / "text.mp4"
    empty.write_bytes(b"")
    text.write_text("not a video " * 1000)
    headless = cut_file(make_mp4(tmp_path / "headless.mp4"), 0.5)  # the index is at the end
    for path in (empty, text, headless):
        for read in (lambda path: read_frames(path, Sampling()), lambda path: read_sound(path, 16_000), video_info):
            with pytest.raises(DataError, match=rf"{path.name} cannot be decoded \(.+\)\. Copy or unpack it again"):
                read(path)
    with pytest.raises(DataError, match=r"There is no file at .*none\.mp4"):
        read_sound(tmp_path / "none.mp4", 16_000)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(count=3), Sampling(every=0.25)])
def test_video_that_is_cut_short(tmp_path: Path, sampling: Sampling) -> None:
    path = cut_file(make_mp4(tmp_path / "a.mp4", sound=False, faststart=True), 0.7)
    with pytest.raises(DataError, match=r"a\.mp4 is cut short: its pictures end after 0\.\d+ of 1\.00 seconds"):
        read_frames(path, sampling)


def test_sound_that_is_cut_short(tmp_path: Path) -> None:
    path = cut_file(make_mp4(tmp_path / "a.mp4", seconds=2, faststart=True), 0.6)
    with pytest.raises(DataError, match=r"a\.mp4 (is cut short|cannot be decoded)"):  # in or between two packets
        read_sound(path, 16_000)
    clean = make_mp4(tmp_path / "b.mp4", seconds=2, faststart=True)
    with av.open(str(clean)) as container:
        starts = [packet.pos for packet in container.demux(audio=0) if packet.size]
    clean.write_bytes(clean.read_bytes()[: starts[len(starts) * 3 // 4]])  # between two packets
    with pytest.raises(DataError, match=r"b\.mp4 is cut short: its sound ends before its header says"):
        read_sound(clean, 16_000)


def test_tracks_that_are_not_there(tmp_path: Path) -> None:
    silent = make_mp4(tmp_path / "silent.mp4", sound="silent")
    mute = make_mp4(tmp_path / "mute.mp4", sound=False)
    zero = make_mp4(tmp_path / "zero.mp4", seconds=0, sound_seconds=1)
    with pytest.raises(NoSoundError, match=r"silent\.mp4 holds no sound"):
        read_sound(silent, 16_000)
    with pytest.raises(NoSoundError, match=r"mute\.mp4 has no sound track"):
        read_media(mute, sampling=Sampling(), rate=16_000)
    with pytest.raises(DataError, match=r"zero\.mp4 has no video track"):
        read_frames(zero, Sampling())
    with pytest.raises(DataError, match="Neither pictures nor sound"):
        read_media(silent)
    assert len(read_frames(silent, Sampling())) == len(read_frames(mute, Sampling())) == 25


@pytest.mark.parametrize(("count", "every"), [(-1, 0.0), (0, -0.5), (0, float("nan")), (0, float("inf")), (3, 0.5)])
def test_bad_sampling_is_refused(count: int, every: float) -> None:
    with pytest.raises(DataError, match="by number"):
        Sampling(count, every)


def test_missing_library_names_the_extra(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"Video needs the library av.*mmbench\[media\]"):
        read_frames(clip, Sampling())
