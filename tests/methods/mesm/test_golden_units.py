"""Single steps of FE2E and MESM against the official code; see ``tests/golden/mesm/README.md``."""

from functools import cache

import numpy as np
import pytest
import torch

from data_modules.schema import PaddedSequence
from mmbench.methods.mesm.vgg import Faces, Pieces
from mmbench.metrics import fit_thresholds
from mmbench.metrics.multilabel import multilabel_metrics
from tests.golden.cases import Case

CASE = Case.load("mesm")
NAMES = ("ang", "exc", "fru", "hap", "neu", "sad")


@cache
def drawn():
    """Return the image and the noise of the sound, drawn after scores, logits and truths."""
    random = np.random.RandomState(3365)
    random.random_sample((3, 4, 5))
    for _ in ("valid", "test"):
        random.random_sample((60, 6))
        random.standard_normal((60, 6))
    return random.randint(0, 256, (100, 120, 3)).astype(np.uint8), random.randint(-1500, 1501, 17600)


def test_the_official_crop_is_left_of_the_middle():
    image = torch.from_numpy(drawn()[0]).permute(2, 0, 1)
    assert tuple(image.shape[1:]) == tuple(CASE["inputs.crop_shape"].tolist())
    crop = Faces(48, 1, "legacy_crop").framed(image[None])[0]
    assert torch.equal(crop[:, ::6, ::6].to(torch.uint8), CASE["outputs.crop"])
    assert crop.sum() == CASE["outputs.crop_sum"]
    assert torch.equal(crop, image[:, 26:74, 2:50].float())


def test_sound_is_cut_into_pieces_of_mel_power():
    k = np.arange(17600)
    wave = (((7 * k) % 200 - 100) * 60 + ((13 * k) % 130 - 65) * 50 + drawn()[1]).astype(np.int16)
    assert CASE["inputs.mel_wave_sum"] == wave.astype(np.int64).sum()
    sound = torch.from_numpy(wave.astype(np.float32) / 32768)
    # A longer clip beside it: the end of the first is no longer that of the batch.
    waveform = torch.zeros(2, 30000)
    waveform[0, :17600], waveform[1] = sound, 0.5
    source = Pieces(16000, 128, 32)
    pieces = source(PaddedSequence(waveform, torch.tensor([17600, 30000])))
    assert pieces.lengths.tolist() == [3, 5]
    assert pieces.rows.tolist() == [0] * 3 + [1] * 5
    found = pieces.values[:3]
    assert list(found.shape) == CASE["outputs.mel_pieces_shape"].tolist()
    assert source.spectrogram(sound[None], torch.tensor([17600]))[1] == CASE["outputs.mel_frames"]
    close = {"rtol": 1e-4, "atol": 1e-4 * float(found.max())}
    torch.testing.assert_close(found[:, 0, ::4], CASE["outputs.mel_every4th_band"].float(), **close)
    bands = found.double().sum((0, 1, 3))
    torch.testing.assert_close(bands, CASE["outputs.mel_band_sums"], rtol=1e-4, atol=1e-4 * float(bands.max()))
    assert (bands == 0).nonzero()[:, 0].tolist() == CASE["outputs.mel_zero_bands"].tolist()


def scored(split, thresholds):
    truth = CASE[f"inputs.eval_{split}_truth"].double()
    return multilabel_metrics(CASE[f"inputs.eval_{split}_logits"], truth, NAMES, thresholds)


def values(scores, name):
    return torch.tensor([*(scores[f"{name}/{label}"] for label in NAMES), scores[name]], dtype=torch.float64)


def test_thresholds_are_those_of_the_official_search():
    found = fit_thresholds(CASE["inputs.eval_valid_logits"], CASE["inputs.eval_valid_truth"].double())
    torch.testing.assert_close(found, CASE["outputs.eval_thresholds"])


@pytest.mark.parametrize("split", ["valid", "test"])
def test_scores_at_the_thresholds_are_the_official_ones(split):
    scores = scored(split, CASE["outputs.eval_thresholds"])
    expected = CASE[f"outputs.eval_{split}_acc_rec_prec_f1_auc"]
    torch.testing.assert_close(values(scores, "acc"), expected[0])
    torch.testing.assert_close(values(scores, "f1_pos"), expected[3])
    if split == "test":
        torch.testing.assert_close(values(scores, "wacc")[:-1], CASE["outputs.eval_test_wacc"])


def test_scores_at_one_half_are_the_official_ones():
    scores = scored("test", torch.full((6,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(values(scores, "wacc"), CASE["outputs.eval_mosei_at_half_wacc"])
    torch.testing.assert_close(values(scores, "f1_weighted"), CASE["outputs.eval_mosei_at_half_weighted_f1"])
