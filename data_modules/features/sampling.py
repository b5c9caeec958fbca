"""Which pictures of a video are taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from data_modules.schema import DataError

CLOCK = 1e-3  # the coarsest clock of common containers (Matroska): times are compared up to it


@dataclass(frozen=True)
class VideoInfo:
    """What the header of a video says.

    Attributes:
        fps: Pictures per second, on average.
        frames: Number of pictures, as far as it is said, else computed.
        duration: Length of the pictures in seconds.
        height: Pixels, as shown.
        width: Pixels, as shown.
    """

    fps: float
    frames: int
    duration: float
    height: int
    width: int


@dataclass(frozen=True)
class Sampling:
    """Which pictures of a video are taken: all, unless one of the two is given.

    Attributes:
        count: This many, at ``i * duration / count``.
        every: One every so many seconds, from 0 on.
    """

    count: int = 0
    every: float = 0.0

    def __post_init__(self) -> None:
        if self.count < 0 or not 0 <= self.every < float("inf") or (self.count and self.every):
            raise DataError(
                f"Pictures are taken by number ({self.count}) or by seconds ({self.every:g}): give one, above 0."
            )

    def number(self, duration: float, frames: int) -> int:
        """Return how many pictures are taken of a video that lasts so many seconds and has so many pictures."""
        if self.every:
            # At least the first picture; one at the very end would only repeat the last.
            return max(1, int(np.ceil((duration - CLOCK) / self.every)))
        return self.count or frames

    def times(self, duration: float) -> npt.NDArray[np.float64] | None:
        """Return when the pictures are taken, in seconds; None for all of them."""
        if not (self.count or self.every):
            return None
        places = np.arange(self.number(duration, 0), dtype=np.float64)
        return places * self.every if self.every else places * duration / self.count

    @property
    def text(self) -> str:
        """Which pictures are taken, in words, for the store."""
        if self.every:
            return f"a picture every {self.every:g} s"
        return f"{self.count} pictures, evenly spread" if self.count else "all pictures"
