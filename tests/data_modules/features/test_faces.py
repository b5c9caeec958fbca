"""Croppers against boxes worked out by hand, a drawn face, and files as OpenFace writes them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data_modules.features import faces
from data_modules.features.faces import CentreCrop, FaceCropper, HaarFace, LandmarkCrop
from data_modules.schema import DataError
from tests.data_modules.media_files import drawn_face

HEIGHT, WIDTH = 72, 128


def ramps(count: int = 1, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Pictures in which red is the row, green the column and blue the place in time."""
    made = np.empty((count, 3, height, width), np.uint8)
    made[:, 0], made[:, 1] = np.arange(height)[:, None], np.arange(width)
    made[:, 2] = np.arange(count)[:, None, None]
    return made


def corners(square: np.ndarray) -> tuple[int, int, int, int]:
    """Return the top, left, bottom and right of what a cropped ramp shows."""
    return int(square[0].min()), int(square[1].min()), int(square[0].max()) + 1, int(square[1].max()) + 1


def test_centre_crop() -> None:
    made, found = CentreCrop(HEIGHT)(ramps(2))
    assert (made.shape, found.tolist()) == ((2, 3, HEIGHT, HEIGHT), [True, True])
    np.testing.assert_array_equal(made, ramps(2)[:, :, :, 28:100])  # (128 - 72) / 2
    assert CentreCrop(16)(ramps(3, 100, 40)).pictures.shape == (3, 3, 16, 16)
    assert corners(CentreCrop(40)(ramps(1, 100, 40)).pictures[0]) == (30, 0, 70, 40)


# A detector.


@pytest.mark.parametrize(
    ("height", "width", "row", "column", "size"), [(240, 320, 110, 200, 80), (720, 1280, 300, 500, 240)]
)
def test_detector_finds_a_drawn_face(height: int, width: int, row: int, column: int, size: int) -> None:
    pytest.importorskip("cv2")
    picture = drawn_face(height, width, row, column, size)
    centre_row, centre_column, side = HaarFace(32).detect(picture) or (0, 0, 0)
    assert abs(centre_row - row) < 0.1 * size
    assert abs(centre_column - column) < 0.1 * size
    assert 0.9 * size < side < 1.6 * size  # the oval is 1.24 high
    assert HaarFace(32).detect(np.full_like(picture, 90)) is None


def test_detector_takes_the_larger_of_two_faces() -> None:
    pytest.importorskip("cv2")
    picture = np.concatenate([drawn_face(240, 160, 120, 80, 60), drawn_face(240, 240, 120, 120, 110)], axis=2)
    found = HaarFace(32).detect(picture)
    assert found is not None
    assert abs(found[1] - 280) < 10


@pytest.fixture
def steered(monkeypatch: pytest.MonkeyPatch) -> HaarFace:
    """A detector whose findings are told by the test, as ``answers``: ``(row, column, side)`` or None by picture."""
    pytest.importorskip("cv2")
    cropper = HaarFace(HEIGHT)
    monkeypatch.setattr(cropper, "detect", lambda picture: cropper.answers.pop(0))  # type: ignore[attr-defined]
    return cropper


def test_square_is_widened_and_stays_inside(steered: HaarFace) -> None:
    """A side of 30 becomes 36; a square that would leave the picture is moved, one that is too large shrinks."""
    for answer, expected in (
        ((36.0, 64.0, 30.0), (18, 46, 54, 82)),
        ((5.0, 126.0, 30.0), (0, 92, 36, 128)),
        ((70.0, 2.0, 30.0), (36, 0, 72, 36)),
        ((36.0, 64.0, 90.0), (0, 28, 72, 100)),
    ):
        steered.answers = [answer]  # type: ignore[attr-defined]
        made, found = steered(ramps())
        assert found.all()
        assert corners(made[0]) == expected


def test_detector_does_not_tremble(steered: HaarFace) -> None:
    """Centre and side are medians of five pictures, so a single wrong box has no effect."""
    columns = [60.0, 61.0, 120.0, 61.0, 62.0, 60.0]
    steered.answers = [(36.0, column, 30.0) for column in columns]  # type: ignore[attr-defined]
    made, _ = steered(ramps(6))
    medians = [sorted(columns[max(0, i - 2) : i + 3]) for i in range(6)]
    middle = [(values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2 for values in medians]
    assert [corners(square)[1] for square in made] == [round(value - 18) for value in middle]


def test_pictures_without_a_face_are_cut_in_the_middle(steered: HaarFace) -> None:
    face = (36.0, 20.0, 30.0)
    steered.answers = [None, face, None, face]  # type: ignore[attr-defined]
    made, found = steered(ramps(4))
    assert found.tolist() == [False, True, False, True]
    assert [corners(square) for square in made] == [(0, 28, 72, 100), (18, 2, 54, 38)] * 2
    np.testing.assert_array_equal(made[[0, 2]], CentreCrop(HEIGHT)(ramps(4)).pictures[[0, 2]])
    steered.answers = [None] * 3  # type: ignore[attr-defined]
    assert not steered(ramps(3)).found.any()


def test_detector_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(__version__="5.0.0"))
    with pytest.raises(DataError, match=r"OpenCV 5\.0\.0 carries no face cascade.*mmbench\[face\]"):
        HaarFace(32)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DataError, match=r"The face detector needs the library cv2.*mmbench\[face\]"):
        HaarFace(32)


# Landmarks.


def write_landmarks(
    path: Path, boxes: list[tuple[float, float, float, float]], extras: str = "", blank: str = " "
) -> Path:
    """Write what OpenFace writes: a row per picture, 68 points within a box given as top, left, bottom, right."""
    share = np.linspace(0, 1, 68)
    names = ["frame", *[f"Y_{i}" for i in range(68)], *[f"x_{i}" for i in range(68)], *[f"y_{i}" for i in range(68)]]
    lines = [",".join(f"{blank if place else ''}{name}" for place, name in enumerate(names)) + extras]
    for place, (top, left, bottom, right) in enumerate(boxes):
        ys, xs = top + share * (bottom - top), left + share[::-1] * (right - left)
        lines.append(",".join(f"{value:g}" for value in (place + 1, *np.full(68, 9e9), *xs, *ys)))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("blank", [" ", ""])
def test_landmarks_of_a_larger_video(tmp_path: Path, blank: str) -> None:
    """A box in a video of 720 x 1280 is a tenth as large in pictures of 72 x 128."""
    path = write_landmarks(tmp_path / "a.csv", [(100, 310, 509, 719)], blank=blank)
    made, found = LandmarkCrop(path, 40)(ramps(2))
    assert found.all()
    assert [corners(square) for square in made] == [(10, 31, 50, 71)] * 2
    # Squashed pictures: each side by its own factor.
    square, _ = LandmarkCrop(path, 56)(ramps(1, 144, 128))
    assert corners(square[0]) == (20, 31, 101, 71)


def test_row_of_each_picture(tmp_path: Path) -> None:
    """Picture ``i`` of ``n`` takes the row ``ceil(i * rows / n)``, in whole numbers."""
    for rows in (30, 41, 100, 150):  # of 150, i / 30 * 150 is more than a whole number for some i
        path = write_landmarks(tmp_path / "a.csv", [(0, 5 * row, 700, 5 * row + 150) for row in range(rows)])
        made, _ = LandmarkCrop(path, 30)(ramps(30, width=256))
        expected = [-(-i * rows // 30) for i in range(30)]
        assert [corners(square)[1] for square in made] == expected
    few = write_landmarks(tmp_path / "few.csv", [(0, 100 * row, 700, 100 * row + 300) for row in range(4)])
    made, _ = LandmarkCrop(few, 30)(ramps(10))
    assert [corners(square)[1] // 10 for square in made] == [min(-(-i * 4 // 10), 3) for i in range(10)]
    made, _ = LandmarkCrop(few, 30)(ramps(2), np.array([0.2, 0.7]))
    assert [corners(square)[1] // 10 for square in made] == [1, 3]


def test_failed_rows_show_no_face(tmp_path: Path) -> None:
    good = (100.0, 300.0, 500.0, 700.0)
    boxes = [good, (0, 0, 0, 0), good, good, (-90, -80, -10, -5), (float("nan"), 0, 9, 9), (-50, -50, 360, 640)]
    path = write_landmarks(tmp_path / "a.csv", boxes, extras=", success, confidence")
    lines = path.read_text().splitlines()
    marks = ["1,0.9", "1,0.9", "0,0.9", "1,0.2", "1,0.9", "1,0.9", "1,0.9"]
    path.write_text("\n".join([lines[0], *(f"{line},{mark}" for line, mark in zip(lines[1:], marks, strict=True))]))
    made, found = LandmarkCrop(path, 80)(ramps(7))
    assert found.tolist() == [True, False, False, False, False, False, True]
    np.testing.assert_array_equal(made[1:6], CentreCrop(80)(ramps(7)).pictures[1:6])
    assert corners(made[6]) == (0, 0, 36, 64)  # what leaves the picture is cut off


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (" x_17,", " x_71,", r"a\.csv lacks 1 of the 136 columns of landmarks, first x_17"),
        (" y_0,", " y0,", r"lacks 1 .* first y_0"),
        (",310,", ",left,", r"text among its numbers"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write_landmarks(tmp_path / "a.csv", [(100, 310, 500, 710)])
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        LandmarkCrop(path, 30)


def test_tables_without_rows_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        LandmarkCrop(write_landmarks(tmp_path / "a.csv", []), 30)
    with pytest.raises(DataError, match="not readable as a CSV file"):
        LandmarkCrop(tmp_path / "none.csv", 30)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not readable as a CSV file"):
        LandmarkCrop(tmp_path / "b.csv", 30)


def test_croppers_keep_the_promise(tmp_path: Path) -> None:
    croppers: list[FaceCropper] = [
        CentreCrop(20),
        LandmarkCrop(write_landmarks(tmp_path / "a.csv", [(0, 0, 9, 9)]), 20),
    ]
    for cropper in croppers:
        made, found = cropper(ramps(3), np.array([0.0, 0.3, 0.9]))
        assert (made.shape, made.dtype, found.shape, found.dtype) == ((3, 3, 20, 20), np.uint8, (3,), bool)
        assert cropper.text
    assert faces.RAVDESS_VIDEO == (720, 1280)
