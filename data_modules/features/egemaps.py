"""The extended Geneva minimalistic acoustic parameters (eGeMAPS v02) by openSMILE, as steps or as one vector.

25 low-level descriptors (loudness, pitch, formants, spectral shape, voice quality) every 10 ms, or 88 functionals of
them over the whole clip. Source: Eyben et al., The Geneva Minimalistic Acoustic Parameter Set (GeMAPS) for Voice
Research and Affective Computing, IEEE Transactions on Affective Computing 7(2), 2016.

Needs the extra ``opensmile``. Its licence is its own: research and other non-commercial use are free, commercial use
needs a licence of audEERING.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import numpy as np

from data_modules.features.audio import RATE, Floats
from data_modules.libraries import optional_library
from data_modules.schema import DataError
from data_modules.store import Recipe

Level = Literal["egemaps", "egemaps-functionals"]

STEP_MS = 50
"""Time over which low-level descriptors are averaged."""
HOP_MS = 10
"""Time between two low-level descriptors; that of the set."""
REVISION = 1
"""Of the code here: raise it with every change after which the same sound gives other values."""
LIBRARIES = ("librosa", "numpy", "opensmile", "soundfile", "soxr")
WHAT = "eGeMAPS (openSMILE: free for research and non-commercial use, see its licence)"


class TooShortError(DataError):
    """A sound is too short for a window of the descriptors."""


class Egemaps:
    """Sound to eGeMAPS.

    Args:
        level: ``egemaps`` for descriptors in steps of :data:`STEP_MS`, each the mean of its time (the last of what is
            left); pitch, formants and voice quality are 0 where there is no voice and are averaged as such. Or
            ``egemaps-functionals`` for one vector.

    Attributes:
        text: The extractor in words.

    Raises:
        DataError: When the extra is not installed.
    """

    def __init__(self, level: Level) -> None:
        library = optional_library("opensmile", WHAT, "opensmile")
        levels = library.FeatureLevel
        self.steps = level == "egemaps"
        self._smile = library.Smile(
            feature_set=library.FeatureSet.eGeMAPSv02,
            feature_level=levels.LowLevelDescriptors if self.steps else levels.Functionals,
        )
        count, kind = len(self._smile.feature_names), "low-level descriptors" if self.steps else "functionals"
        over = f"averaged over {STEP_MS} ms" if self.steps else "of the clip"
        self.text = f"eGeMAPS v02, {count} {kind} {over}, {RATE} Hz mono"

    def __call__(self, waveform: Floats) -> Floats:
        """Return ``(T, 25)`` steps, or ``(1, 88)``.

        Args:
            waveform: ``(samples,)`` mono at 16 kHz.

        Raises:
            TooShortError: For a sound without a full window.
        """
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Segment too short")  # which is refused below
            values = np.asarray(self._smile.process_signal(waveform, RATE).to_numpy(np.float32))
        if not len(values) or not np.isfinite(values).all():
            raise TooShortError(
                f"A sound of {1000 * len(waveform) / RATE:.0f} ms is too short for the windows of eGeMAPS. Leave it "
                "out."
            )
        if not self.steps:
            return values
        starts = np.arange(0, len(values), STEP_MS // HOP_MS)
        counts = np.diff(np.append(starts, len(values)))
        return np.asarray(np.add.reduceat(values, starts) / counts[:, None], np.float32)

    def recipe(self, trim_db: float) -> Recipe:
        """Return how the parameters are made of a file of sound, whose ends below a level are cut (0: not)."""
        settings: dict[str, Any] = {"set": "eGeMAPSv02", "rate": RATE, "trim_db": max(trim_db, 0.0)}
        if self.steps:
            return Recipe("egemaps", settings | {"step_ms": STEP_MS}, REVISION, LIBRARIES)
        return Recipe("egemaps-functionals", settings, REVISION, LIBRARIES)
