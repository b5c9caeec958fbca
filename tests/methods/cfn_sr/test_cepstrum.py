"""Cepstral coefficients against librosa, against its older version, and on padded batches."""

import numpy as np
import pytest
import torch
from scipy.fft import dct

from data_modules.schema import PaddedSequence
from mmbench.methods.cfn_sr.cepstrum import Cepstrum, cosine_transform, fixed_columns
from tests.golden.cases import Case

CASE = Case.load("cfn_sr")
RATE = 44_100
EDGES = [0, 1, -2, -1]
"""The columns whose windows reach beyond the clip."""


def golden_clips():
    """Return the waveforms of the case: the part that the recipe reads, mono."""
    random, clips = np.random.RandomState(1103), []
    for number, (k1, k2, seconds, channels) in enumerate([(7, 13, 3.2, 1), (11, 29, 3.0, 2), (5, 17, 2.936, 2)]):
        n, waves = np.arange(round(seconds * RATE)), []
        for first, second in ((k1, k2), (k2, k1))[:channels]:
            x = ((first * n) % 2000 - 1000) * 6 + ((second * n) % 1300 - 650) * 5 + random.randint(-1500, 1501, len(n))
            waves.append(((x * ((n // 7000) % 4 + 1)) // 4).astype(np.int16))
        assert (waves[0][:8] == CASE.arrays[f"mfcc.clip{number}_first8_of_wave"]).all()
        mono = np.mean(np.stack(waves).astype(np.float32) / 32768, axis=0, dtype=np.float32)
        clips.append(torch.from_numpy(mono[RATE // 2 : RATE // 2 + round(2.45 * RATE)]))
    return clips


def batch_of(clips):
    lengths = torch.tensor([len(clip) for clip in clips])
    return PaddedSequence(torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), lengths)


@pytest.fixture(scope="module")
def clips():
    return batch_of(golden_clips())


def published(edges):
    return Cepstrum(RATE, 2048, 512, 128, 13, edges=edges)


def test_official_recipe_with_the_library_of_its_time(clips):
    """A batch of clips of different lengths, the last of which has 210 columns."""
    found = published("reflect")(clips)
    assert found.lengths.tolist() == [212, 212, 210]
    for number, length in enumerate(found.lengths):
        expected = CASE[f"mfcc.clip{number}_librosa081"].float()
        torch.testing.assert_close(found.values[number, :length].mT, expected, rtol=0, atol=2e-3)
    assert not found.values[2, 210:].any()


def test_official_recipe_with_the_library_of_today(clips):
    found = published("zeros")(clips)
    for number, length in enumerate(found.lengths):
        values = found.values[number, :length].mT
        expected = CASE[f"mfcc.clip{number}_librosa011_edge_columns"].float()
        torch.testing.assert_close(values[:, EDGES], expected, rtol=0, atol=2e-3)
        inner = CASE[f"mfcc.clip{number}_librosa081"].float()[:, 2:-2]
        torch.testing.assert_close(values[:, 2:-2], inner, rtol=0, atol=2e-3)


def test_cosine_transform_is_that_of_scipy():
    random = np.random.RandomState(0).standard_normal((5, 40))
    expected = dct(random, type=2, norm="ortho", axis=1)[:, :13]
    np.testing.assert_allclose(random @ cosine_transform(40, 13).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("range_db", [80.0, 20.0])
def test_coefficients_are_those_of_librosa(range_db):
    librosa = pytest.importorskip("librosa")
    random = np.random.RandomState(1)
    wave = (random.standard_normal(4000) * np.linspace(0, 1, 4000) ** 4).astype(np.float32)
    power = librosa.feature.melspectrogram(y=wave, sr=8000, n_fft=400, hop_length=160, n_mels=20)
    expected = librosa.feature.mfcc(S=librosa.power_to_db(power, ref=1.0, top_db=range_db), n_mfcc=12)
    found = Cepstrum(8000, 400, 160, 20, 12, range_db=range_db)(batch_of([torch.from_numpy(wave)]))
    torch.testing.assert_close(found.values[0].mT.numpy(), expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("edges", ["zeros", "reflect"])
def test_padding_changes_nothing(edges):
    """A quiet short clip in a batch with a loud long one: the floor is that of each clip."""
    torch.manual_seed(0)
    cepstrum = Cepstrum(8000, 128, 64, 12, 6, edges=edges).double()
    loud, quiet = torch.randn(900, dtype=torch.float64), 3e-5 * torch.randn(330, dtype=torch.float64)
    batch = batch_of([loud, quiet])
    batch.values[1, 330:] = torch.nan
    found = cepstrum(batch)
    for row, clip in enumerate((loud, quiet)):
        alone = cepstrum(batch_of([clip])).values[0]
        torch.testing.assert_close(found.values[row, : len(alone)], alone)
        assert not found.values[row, len(alone) :].any()


def test_silence_is_finite_and_a_clip_without_a_sample_has_no_column():
    cepstrum = Cepstrum(8000, 128, 64, 12, 6)
    found = cepstrum(PaddedSequence(torch.zeros(2, 300), torch.tensor([300, 0])))
    assert found.lengths.tolist() == [5, 0]
    # All bands are at -100 dB: the zeroth coefficient is their sum over the root of their number.
    torch.testing.assert_close(found.values[0, :, 0], torch.full((5,), -100 * 12**0.5))
    torch.testing.assert_close(found.values[0, :, 1:], torch.zeros(5, 5), atol=1e-4, rtol=0)
    assert not found.values[1].any()


def test_more_coefficients_than_bands_are_refused():
    with pytest.raises(ValueError, match="13 cepstral coefficients cannot be made of 12 mel bands"):
        Cepstrum(8000, 128, 64, 12, 13)


def test_fixed_columns_pad_and_crop():
    values = torch.arange(1.0, 13.0).reshape(2, 3, 2)
    made = PaddedSequence(
        values.masked_fill(torch.tensor([[False] * 3, [False, True, True]])[..., None], torch.nan), torch.tensor([3, 1])
    )
    assert fixed_columns(made, 5).tolist() == [
        [[1, 2], [3, 4], [5, 6], [0, 0], [0, 0]],
        [[7, 8], [0, 0], [0, 0], [0, 0], [0, 0]],
    ]
    assert fixed_columns(made, 2).tolist() == [[[1, 2], [3, 4]], [[7, 8], [0, 0]]]
