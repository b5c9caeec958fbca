"""eGeMAPS: what openSMILE gives, averaged, and the RAVDESS importer with it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data_modules.features.audio import RATE, Floats
from data_modules.features.egemaps import Egemaps, TooShortError
from data_modules.formats import import_store
from data_modules.schema import DataError
from tests.data_modules.datasets.ravdess.tree import TRIALS, write_sound

opensmile = pytest.importorskip("opensmile", reason="needs the extra opensmile")
REAL = os.environ.get("MMBENCH_REAL_DATA")


def voice(seconds: float, hertz: float = 150.0) -> Floats:
    """Return a buzz with harmonics that grows louder."""
    times = np.arange(round(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * hertz * order * times) / order for order in range(1, 20))
    return np.asarray(buzz * np.linspace(0.05, 0.2, len(times)), np.float32)


def test_steps_are_means_of_five_descriptors() -> None:
    sound = voice(0.83)
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)
    frames = smile.process_signal(sound, RATE)
    assert len(frames) % 5  # so that the last step has fewer
    steps = Egemaps("egemaps")(sound)
    assert steps.dtype == np.float32
    assert steps.shape == (-(-len(frames) // 5), 25)
    for step, found in enumerate(steps):
        np.testing.assert_allclose(found, frames.iloc[5 * step : 5 * step + 5].mean(), rtol=1e-5, atol=1e-6)
    starts = frames.index.get_level_values("start").total_seconds()
    np.testing.assert_allclose(np.diff(starts), 0.01, atol=1e-6)


def test_descriptors_follow_the_sound() -> None:
    """The semitones from 27.5 Hz of the pitch, and a loudness that grows as the sound does."""
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)
    names = list(smile.feature_names)
    steps = Egemaps("egemaps")(voice(1.0))
    pitch = np.median(steps[2:-3, names.index("F0semitoneFrom27.5Hz_sma3nz")])
    assert pitch == pytest.approx(12 * np.log2(150 / 27.5), abs=0.5)
    loudness = steps[2:-3, names.index("Loudness_sma3")]
    assert (np.diff(loudness) > 0).mean() > 0.8


def test_functionals_are_those_of_the_whole_clip() -> None:
    sound = voice(1.0)
    functionals = Egemaps("egemaps-functionals")(sound)
    assert functionals.shape == (1, 88)
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    level = functionals[0, list(smile.feature_names).index("loudness_sma3_amean")]
    lower = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.LowLevelDescriptors)
    assert level == pytest.approx(
        lower.process_signal(sound, RATE)["Loudness_sma3"].mean(), rel=0.03
    )  # but for the ends


@pytest.mark.parametrize("level", ["egemaps", "egemaps-functionals"])
def test_sound_without_a_window_is_refused(level: str) -> None:
    with pytest.raises(TooShortError, match=r"sound of 5 ms is too short for the windows of eGeMAPS"):
        Egemaps(level)(voice(0.005))  # type: ignore[arg-type]


def test_without_the_library_the_licence_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sound(tmp_path / "release", "03-01-01-01-01-01-09")
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(DataError, match=r"research and non-commercial use.*pip install 'mmbench\[opensmile\]'"):
        import_store(
            "ravdess",
            tmp_path / "release",
            tmp_path / "out.h5",
            dataset="ravdess",
            options={"audio_features": "egemaps"},
        )


def test_a_release_becomes_a_store(tmp_path: Path) -> None:
    root = tmp_path / "release"
    for actor in range(1, 25):
        for trial in TRIALS:
            short = (trial, actor) == ("01-01-01-01-01", 9)
            write_sound(root, f"03-{trial}-{actor:02d}", seconds=0.004 if short else 0.3)
    stores = {
        features: import_store(
            "ravdess",
            root,
            tmp_path / f"{features}.h5",
            dataset="ravdess",
            options={"audio_features": features, "trim_db": 0.0},
        )
        for features in ("egemaps", "egemaps-functionals")
    }
    assert stores["egemaps"].spec("luna5").track == "ravdess/egemaps/luna5"
    assert {name: store.modalities["audio"].dim for name, store in stores.items()} == {
        "egemaps": 25,
        "egemaps-functionals": 88,
    }
    for store in stores.values():
        assert len(store) == 71
        assert "1 clips too short for the windows of their features were left out: 03-01-01-01-01-01-09." in store.notes
        assert store.recipes["audio"]["settings"]["set"] == "eGeMAPSv02"
    assert len({store.identity for store in stores.values()}) == 2


@pytest.mark.slow
@pytest.mark.skipif(REAL is None, reason="needs the real files: set MMBENCH_REAL_DATA to their folder")
def test_real_functionals_and_action_units(tmp_path: Path) -> None:
    """Logistic regression on functionals and action units, the fold after the test fold left out: accuracy .699."""
    folder = Path(str(REAL)) / "ravdess"
    store = import_store(
        "ravdess",
        folder / "audio",
        tmp_path / "out.h5",
        dataset="ravdess",
        options={"audio_features": "egemaps-functionals", "face": str(folder / "openface_au_mean.csv")},
    )
    assert store.spec("luna5").track == "ravdess/egemaps-functionals-au/luna5"
    values = np.concatenate([store.read(name, np.arange(len(store)))[0] for name in ("audio", "vision")], axis=1)
    true, guessed = [], []
    for fold in range(5):
        rows = store.rows("luna5", fold)
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
        model.fit(values[rows["train"]], store.targets[rows["train"]])
        true += store.targets[rows["test"]].tolist()
        guessed += model.predict(values[rows["test"]]).tolist()
    assert accuracy_score(true, guessed) == pytest.approx(0.699, abs=0.015)
    assert f1_score(true, guessed, average="macro") == pytest.approx(0.703, abs=0.015)
