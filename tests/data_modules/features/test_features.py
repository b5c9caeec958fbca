"""Audio and face features against formulas, scipy, and hand-made files."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.fft

from data_modules.features.audio import load_audio, log_mel, mfcc
from data_modules.features.openface import read_clips, read_frames
from data_modules.schema import DataError

soundfile = pytest.importorskip("soundfile")
pytest.importorskip("librosa")

RATE = 16_000


def sine(hertz: float, seconds: float, rate: int = RATE, level: float = 0.25) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


# Sound to features.


@pytest.mark.parametrize("samples", [16_000, 15_999, 400, 1])
def test_log_mel_shape(samples: int) -> None:
    values = log_mel(np.ones(samples, np.float32), RATE, mels=40, window_ms=50, hop_ms=25)
    assert values.shape == (1 + max(samples, 800) // 400, 40)  # a clip shorter than the window is filled up to it
    assert values.dtype == np.float32


def test_log_mel_peaks_at_the_band_of_a_tone() -> None:
    # Slaney's scale: 1000 Hz is mel 15; above it 27 steps per factor 6.4. Centres lie evenly up to half the rate.
    top = 15 + 27 * math.log(8000 / 1000) / math.log(6.4)
    nearest = 15 / (top / 65) - 1
    found = log_mel(sine(1000, 1.0), RATE, mels=64).mean(axis=0).argmax()
    assert abs(found - nearest) < 1


def test_log_mel_is_in_decibels_without_normalisation() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, RATE).astype(np.float32)
    np.testing.assert_allclose(log_mel(2 * noise, RATE) - log_mel(noise, RATE), 20 * math.log10(2), atol=1e-3)


def test_silence_is_minus_100_decibels() -> None:
    np.testing.assert_allclose(log_mel(np.zeros(RATE, np.float32), RATE), -100, atol=1e-3)


def test_quiet_parts_keep_their_level() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    quiet_end = np.concatenate([noise, 1e-4 * noise])
    loud, quiet = log_mel(quiet_end, RATE)[5:35].mean(), log_mel(quiet_end, RATE)[46:76].mean()
    assert loud - quiet == pytest.approx(80, abs=0.5)


def test_mfcc_is_the_cosine_transform_of_log_mel() -> None:
    noise = np.random.default_rng(1).normal(0, 0.05, RATE).astype(np.float32)
    expected = scipy.fft.dct(log_mel(noise, RATE).astype(float), type=2, norm="ortho", axis=1)[:, :13]
    np.testing.assert_allclose(mfcc(noise, RATE, coefficients=13), expected, atol=2e-3)


@pytest.mark.parametrize("seconds", [2.94, 5.27])
def test_published_mfcc_recipes(seconds: float) -> None:
    """The shapes (13, 212) and (10, 156), for the shortest and the longest clip of RAVDESS alike."""

    def cut(samples: np.ndarray, start: float, stop: float, rate: int) -> np.ndarray:
        part = samples[int(start * rate) : int(stop * rate)]
        return np.pad(part, (0, round((stop - start) * rate) - len(part)))

    msaf = cut(sine(300, seconds, 44_100), 0.5, 2.95, 44_100)
    window, hop = 2048 / 44.1, 512 / 44.1
    assert mfcc(msaf, 44_100, 13, window, hop, mels=128).T.shape == (13, 212)
    centred = cut(sine(300, seconds, 22_050), 0.0, 3.6, 22_050)
    assert mfcc(centred, 22_050, 10, 2 * window, 2 * hop, mels=128).T.shape == (10, 156)


@pytest.mark.parametrize("options", [{"hop_ms": 0.0}, {"window_ms": 0.01}])
def test_impossible_settings_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(DataError, match="less than one sample"):
        log_mel(sine(300, 0.2), RATE, **options)


def test_more_cepstra_than_bands_are_refused() -> None:
    with pytest.raises(DataError, match="30 cepstral coefficients"):
        mfcc(sine(300, 0.2), RATE, coefficients=30, mels=20)


# Files to sound.


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_stereo_is_averaged(tmp_path: Path, ending: str) -> None:
    left, right = sine(300, 0.2), sine(500, 0.2)
    path = write(tmp_path / f"a.{ending}", np.stack([left, right], axis=1))
    np.testing.assert_allclose(load_audio(path), (left + right) / 2, atol=1e-4)


@pytest.mark.parametrize("rate", [44_100, 48_000, 8_000])
def test_other_rates_are_resampled(tmp_path: Path, rate: int) -> None:
    samples = load_audio(write(tmp_path / "a.wav", sine(440, 1.0, rate), rate))
    assert len(samples) == RATE
    middle = slice(1000, -1000)
    np.testing.assert_allclose(samples[middle], sine(440, 1.0)[middle], atol=2e-3)


def test_resampling_is_left_out_at_the_same_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.wav", sine(440, 0.1))
    monkeypatch.setitem(sys.modules, "librosa", None)
    assert len(load_audio(path)) == 1600


def test_silent_ends_are_cut(tmp_path: Path) -> None:
    silence = np.random.default_rng(0).normal(0, 1e-4, RATE).astype(np.float32)
    path = write(tmp_path / "a.wav", np.concatenate([silence, sine(300, 1.0), silence]))
    assert len(load_audio(path)) == 3 * RATE
    assert len(load_audio(path, trim_db=35)) == pytest.approx(RATE, abs=4096)  # the measure is taken in 2048 samples


@pytest.mark.parametrize(
    ("ending", "subtype"), [("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", "PCM_16")], ids=["pcm", "float", "flac"]
)
def test_cut_files_are_refused(tmp_path: Path, ending: str, subtype: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, RATE)
    path = write(tmp_path / f"a.{ending}", noise, subtype=subtype)
    assert len(load_audio(path)) == RATE
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"cannot be decoded|cut short"):
        load_audio(path)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(0), "holds no sound"),
        (np.zeros(800), "holds no sound"),
        (np.array([0.1, np.nan, 0.2]), "not numbers"),
    ],
)
def test_useless_clips_are_refused(tmp_path: Path, samples: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_audio(write(tmp_path / "a.wav", samples, subtype="FLOAT"))


@pytest.mark.parametrize("content", [b"", b"not audio at all"])
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be decoded"):
        load_audio(path)


def test_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(DataError, match=r"mmbench\[media\]"):
        load_audio(tmp_path / "a.wav")


# Faces.


FRAMES = """frame, face_id, timestamp, confidence, success, gaze_0_x, AU04_c, AU01_r, AU12_r
1, 0, 0.000, 0.98, 1, 0.1, 1.00, 0.25, 1.50
2, 0, 0.033, 0.97, 0, 0.1, 1.00, 9.00, 9.00
3, 0, 0.067, 0.20, 1, 0.1, 1.00, 9.00, 9.00
4, 0, 0.100, 0.93, 1, 0.1, 0.00, 0.50, 0.75
5, 0, 0.133, 0.93, 1, 0.1, 0.00, nan, 0.75
"""


def test_frames_are_read_by_name_and_failed_ones_dropped(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text(FRAMES)
    values, units, dropped = read_frames(path)
    assert units == ("AU01_r", "AU12_r", "AU04_c")
    assert dropped == 3
    np.testing.assert_allclose(values, [[0.25, 1.5, 1.0], [0.5, 0.75, 0.0]])
    assert read_frames(path, min_confidence=0.1)[2] == 2


def test_frames_without_tracking_columns_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text("AU01_r,AU02_r\n1,2\n3,4\n")
    values, _, dropped = read_frames(path)
    assert (values.tolist(), dropped) == ([[1, 2], [3, 4]], 0)


def test_clip_names_keep_their_zeros(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    path.write_text("clip, fold, AU02_c, AU01_r\n 01-01,3,1,0.5\n007,4,0,0.25\n")
    table, units = read_clips(path)
    assert units == ("AU01_r", "AU02_c")
    assert table.index.tolist() == ["01-01", "007"]
    assert table["fold"].tolist() == [3, 4]
    assert table[list(units)].to_numpy().tolist() == [[0.5, 1], [0.25, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip,x\na,1\n", "no action unit column"),
        ("name,AU01_r\na,1\n", "no column 'clip'"),
        ("clip,AU01_r\na,1\na,2\n", "two rows for the clip 'a'"),
        ("clip,AU01_r\na,1\nb,\n", "empty action units for 1 clips, first 'b'"),
        ("clip,AU01_r\na,high\n", "text in the column AU01_r"),
        ("clip,AU01_r\na,0,25\nb,0,50\n", "not readable as a CSV"),
        ("", "not readable as a CSV"),
        ("clip,AU01_r,AU01_r\na,1,2\n", "two columns AU01_r.*Remove one"),
        ("clip,AU01_r,clip\na,1,b\n", "two columns clip"),
        ("clip,AU01_r\na,1e39\n", r"1e\+39 in the column AU01_r"),
        ("clip,AU01_r\na," + "9" * 5000 + "\n", "empty action units for 1 clips"),
        ("clip,AU01_r\na,1\n" + "x" * (1 << 20), "a line of a million characters"),
        ("clip,AU01_r" + ",x" * (1 << 19) + "\n", "a line of a million characters"),
        ("clip,AU01_r\na\0,1\n\0,\0\n", "text in the column AU01_r"),
        ('clip,AU01_r\n"a,1\nb,2\n' + "c,3\n" * 40_000, "not readable as a CSV"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_clips(path)
    assert "c.csv" in str(caught.value)


@pytest.mark.parametrize("data", ["clip,AU01_r\né,1\n".encode("latin-1"), bytes(range(256)) * 9])
def test_tables_in_other_encodings_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "c.csv").write_bytes(data)
    with pytest.raises(DataError, match=r"c\.csv (is not readable as a CSV|has no action unit)"):
        read_clips(tmp_path / "c.csv")


def test_tables_larger_than_the_budget_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.csv"
    path.write_text(FRAMES)
    monkeypatch.setenv("MMBENCH_MEMORY", "0.00001GB")
    with pytest.raises(DataError, match=r"f\.csv: its text would take .*MMBENCH_MEMORY"):
        read_frames(path)


def test_a_frame_that_was_cut_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    path.write_text(FRAMES[: FRAMES.index("0.50, 0.75")])
    assert read_frames(path)[2] == 3
