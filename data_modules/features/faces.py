"""Faces out of pictures: croppers that turn the pictures of one clip into squares.

Three are here: the largest centred square; the face that OpenCV's frontal cascade finds (the extra ``face``, which
carries the cascade); and the box of the 68 landmarks that OpenFace wrote for the clip. Where a picture shows no face,
the last two take the centred square, and say so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from data_modules.features.media import Pictures, resize
from data_modules.features.openface import MIN_CONFIDENCE
from data_modules.features.sampling import Sampling
from data_modules.libraries import optional_library
from data_modules.schema import DataError
from data_modules.store import Recipe

LANDMARKS = 68
RAVDESS_VIDEO = (720, 1280)
"""Height and width of the videos in which the landmarks of RAVDESS were found."""
CASCADE = "haarcascade_frontalface_default.xml"
DETECTOR_SIDE = 640  # the longer side of what the detector sees; faces do not need more
SMALLEST_FACE = 0.1  # share of the shorter side
MARGIN = 1.2  # the cascade's square ends at brows and chin
SMOOTHING = 5  # pictures with a face over which the detector's square is the median
DETECTOR = "detector"
"""The crop that OpenCV's detector makes."""
REVISION = 1
"""Of the croppers and of the decoding: raise it with every change after which the same clip gives other pictures."""
LIBRARIES = ("av", "numpy", "torch")

Box = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels, the last two exclusive."""
Floats = npt.NDArray[np.float64]


class NoFaceError(DataError):
    """A clip shows no face where one is wanted."""


class Cropped(NamedTuple):
    """Squares of one clip: ``(T, 3, S, S)`` pictures, and ``(T,)`` bool where a face was found."""

    pictures: Pictures
    found: npt.NDArray[np.bool_]


class FaceCropper(Protocol):
    """Crops the pictures of a clip to squares.

    Attributes:
        text: What it does, in words, for the store.
    """

    text: str

    def __call__(self, pictures: Pictures, places: Floats | None = None) -> Cropped:
        """Crop ``(T, 3, H, W)`` pictures.

        Args:
            pictures: The pictures of one clip, in order.
            places: ``(T,)`` where each lies in the clip, from 0 to below 1; by default evenly spread from 0 on.
        """
        ...


def centred(height: int, width: int) -> Box:
    """Return the largest square in the middle of a picture."""
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return top, left, top + side, left + side


def crop(pictures: Pictures, boxes: list[Box], size: int) -> Pictures:
    """Cut a box out of each picture and bring it to ``(T, 3, size, size)``, whatever its proportions."""
    made = np.empty((len(pictures), 3, size, size), np.uint8)
    for place, (top, left, bottom, right) in enumerate(boxes):
        made[place] = resize(pictures[place : place + 1, :, top:bottom, left:right], (size, size))[0]
    return made


def shape_text(cropper: str | None, size: int) -> str:
    """Return in words how pictures come to their size, for the store; without a cropper they are squashed."""
    return f"{cropper}, resized to {size} x {size}" if cropper else f"squashed to {size} x {size}"


def pictures_recipe(sampling: Sampling, size: int, crop: str, **more: Any) -> Recipe:
    """Return the recipe of pictures: which are taken, the side in pixels, what is cut out of them, and the rest."""
    settings = {"count": sampling.count, "every": sampling.every, "size": size, "crop": crop, **more}
    return Recipe(
        "frames", settings, REVISION, (*LIBRARIES, *(("opencv-python-headless",) if crop == DETECTOR else ()))
    )


class CentreCrop:
    """The largest centred square; it looks for no face, so that every picture counts as one with a face.

    Args:
        size: Side of the result in pixels.
    """

    text = "largest centred square"

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, pictures: Pictures, places: Floats | None = None) -> Cropped:
        """Crop; see :class:`FaceCropper`."""
        top, left, bottom, right = centred(*pictures.shape[2:])
        square = resize(pictures[:, :, top:bottom, left:right], (self.size, self.size))
        return Cropped(square, np.ones(len(pictures), bool))


class HaarFace:
    """The largest frontal face of each picture, as OpenCV's cascade sees it, with a steady hand.

    The square is 1.2 times the cascade's. Its centre and side are medians over five neighbouring pictures with a
    face, so that the crop does not tremble.

    Args:
        size: Side of the result in pixels.

    Raises:
        DataError: When OpenCV is not installed, or carries no cascades (version 5).
    """

    text = "largest frontal face by OpenCV's cascade, times 1.2, smoothed over 5 pictures"

    def __init__(self, size: int) -> None:
        self.size = size
        self._cv2 = optional_library("cv2", "The face detector", "face")
        folder = getattr(getattr(self._cv2, "data", None), "haarcascades", "")
        if not hasattr(self._cv2, "CascadeClassifier") or not Path(folder, CASCADE).is_file():
            raise DataError(
                f"OpenCV {self._cv2.__version__} carries no face cascade; the version that does: "
                "pip install 'mmbench[face]'."
            )
        self._cascade: Any = self._cv2.CascadeClassifier(str(Path(folder, CASCADE)))

    def detect(self, picture: Pictures) -> tuple[float, float, float] | None:
        """Return the centre (row, column) and the side of the largest face of ``(3, H, W)``; None for no face."""
        grey = self._cv2.cvtColor(np.ascontiguousarray(picture.transpose(1, 2, 0)), self._cv2.COLOR_RGB2GRAY)
        scale = min(1.0, DETECTOR_SIDE / max(grey.shape))
        if scale < 1:
            grey = self._cv2.resize(grey, None, fx=scale, fy=scale, interpolation=self._cv2.INTER_AREA)
        least = max(24, round(SMALLEST_FACE * min(grey.shape)))
        faces = self._cascade.detectMultiScale(self._cv2.equalizeHist(grey), 1.1, 5, minSize=(least, least))
        if not len(faces):
            return None
        # The order of equal ones must not depend on the detector's threads.
        x, y, width, height = max(faces.tolist(), key=lambda face: (face[2] * face[3], face))
        return (y + height / 2) / scale, (x + width / 2) / scale, max(width, height) / scale

    def __call__(self, pictures: Pictures, places: Floats | None = None) -> Cropped:
        """Crop; see :class:`FaceCropper`."""
        height, width = pictures.shape[2:]
        faces = [self.detect(picture) for picture in pictures]
        found = np.asarray([face is not None for face in faces], bool)
        steady = iter(_running_median(np.asarray([face for face in faces if face is not None]).reshape(-1, 3)))
        boxes = [_square(next(steady), height, width) if seen else centred(height, width) for seen in found]
        return Cropped(crop(pictures, boxes, self.size), found)


class LandmarkCrop:
    """The tight box of the 68 landmarks that OpenFace wrote for a clip, one row per picture of the video.

    The row of a picture is ``ceil(place * rows)``, at most the last. A row where the tracking failed
    (``success`` 0, a low ``confidence``, no number, a box of no area) shows no face.

    Args:
        path: The CSV file, with the columns ``x_0`` .. ``x_67`` and ``y_0`` .. ``y_67`` in pixels, anywhere in it and
            with any blanks around their names.
        size: Side of the result in pixels.
        video: Height and width of the video that OpenFace saw; the pictures may have another size.

    Raises:
        DataError: When the file is not such a table.
    """

    text = "tight box of 68 OpenFace landmarks"

    def __init__(self, path: Path, size: int, video: tuple[int, int] = RAVDESS_VIDEO) -> None:
        self.size = size
        self._boxes, self._good = _landmark_boxes(path, video)

    def __call__(self, pictures: Pictures, places: Floats | None = None) -> Cropped:
        """Crop; see :class:`FaceCropper`."""
        height, width = pictures.shape[2:]
        at = np.arange(len(pictures)) / len(pictures) if places is None else places
        # The small number undoes what division left over a whole number.
        rows = np.minimum(np.ceil(at * len(self._boxes) - 1e-6).astype(int), len(self._boxes) - 1)
        scaled = self._boxes[rows] * (height, width, height, width)
        pixels = np.clip(np.nan_to_num(scaled), 0, (height, width, height, width)).astype(int)
        found = self._good[rows] & (pixels[:, 2] > pixels[:, 0]) & (pixels[:, 3] > pixels[:, 1])
        boxes = [_box(row) if seen else centred(height, width) for row, seen in zip(pixels, found, strict=True)]
        return Cropped(crop(pictures, boxes, self.size), found)


def _box(row: npt.NDArray[np.int64]) -> Box:
    top, left, bottom, right = (int(value) for value in row)
    return top, left, bottom, right


def _running_median(faces: Floats) -> Floats:
    half = SMOOTHING // 2
    return np.asarray([np.median(faces[max(0, i - half) : i + half + 1], axis=0) for i in range(len(faces))])


def _square(face: Floats, height: int, width: int) -> Box:
    """Return the square around a face, moved or shrunk into the picture."""
    row, column, side = face.tolist()
    edge = min(round(side * MARGIN), height, width)
    top = min(max(0, round(row - edge / 2)), height - edge)
    left = min(max(0, round(column - edge / 2)), width - edge)
    return top, left, top + edge, left + edge


def _landmark_boxes(path: Path, video: tuple[int, int]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return ``(rows, 4)`` boxes as shares of the picture (top, left, bottom, right), and which rows are good."""
    xs, ys = ([f"{axis}_{point}" for point in range(LANDMARKS)] for axis in "xy")
    wanted = {*xs, *ys, "success", "confidence"}
    try:
        table = pd.read_csv(path, skipinitialspace=True, usecols=lambda name: name.strip() in wanted)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path} is not readable as a CSV file ({error}).") from error
    table = table.rename(columns=str.strip)
    missing = [name for name in (*xs, *ys) if name not in table]
    if missing:
        raise DataError(
            f"{path} lacks {len(missing)} of the {2 * LANDMARKS} columns of landmarks, first {missing[0]}. Give a file "
            "of OpenFace, run with -2Dfp."
        )
    if not len(table) or not all(pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes):
        raise DataError(f"{path} has no rows, or text among its numbers. Make the file again.")
    x, y = table[xs].to_numpy(float) / video[1], table[ys].to_numpy(float) / video[0]
    good: npt.NDArray[np.bool_] = np.isfinite(np.concatenate([x, y], axis=1)).all(axis=1)
    if "success" in table:
        good = good & (table["success"].to_numpy() == 1)
    if "confidence" in table:
        good = good & (table["confidence"].to_numpy() >= MIN_CONFIDENCE)
    return np.stack([y.min(axis=1), x.min(axis=1), y.max(axis=1), x.max(axis=1)], axis=1), good
