"""Mel spectrograms against librosa, clip by clip."""

import numpy as np
import pytest
import torch

from mmbench.nn.spectrogram import MelSpectrogram, mel_filterbank

librosa = pytest.importorskip("librosa")

KINDS = {"slaney": {"htk": False, "norm": "slaney"}, "htk": {"htk": True, "norm": None}}
EDGES = {"zeros": "constant", "reflect": "reflect"}


def build(scale="slaney", edges="zeros", rate=8000, window=200, hop=100, bands=12, **options):
    return MelSpectrogram(
        rate, window, hop, bands, scale=scale, normalised=scale == "slaney", edges=edges, **options
    ).double()


def clips(*lengths):
    """Return clips in a padded batch, with garbage where the padding is."""
    torch.manual_seed(0)
    lengths = torch.tensor(lengths)
    waveform = torch.randn(len(lengths), int(lengths.max()), dtype=torch.float64)
    waveform[torch.arange(waveform.shape[1]) >= lengths[:, None]] = torch.nan
    return waveform, lengths


def reference(clip, scale, edges, rate=8000, window=200, hop=100, bands=12, high=None):
    power = librosa.feature.melspectrogram(
        y=clip.numpy(),
        sr=rate,
        n_fft=window,
        hop_length=hop,
        n_mels=bands,
        fmax=high,
        pad_mode=EDGES[edges],
        dtype=np.float64,
        **KINDS[scale],
    )
    return torch.from_numpy(power.T.astype(np.float64))


def assert_near(power, expected):
    """Check that powers are equal but for the window and the filters, which are rounded to single precision."""
    torch.testing.assert_close(power, expected, rtol=1e-5, atol=1e-5 * float(expected.max()))


@pytest.mark.parametrize("edges", EDGES)
@pytest.mark.parametrize("scale", KINDS)
def test_every_clip_of_a_batch_is_what_librosa_makes_of_it_alone(scale, edges):
    waveform, lengths = clips(1600, 1599, 700, 201)
    power, frames = build(scale, edges)(waveform, lengths)
    assert power.shape == (4, 17, 12)
    assert frames.tolist() == [17, 16, 8, 3]
    for row, (length, count) in enumerate(zip(lengths, frames, strict=True)):
        expected = reference(waveform[row, :length], scale, edges)
        assert len(expected) == count
        assert_near(power[row, :count], expected)
        assert (power[row, count:] == 0).all()


@pytest.mark.parametrize("scale", KINDS)
@pytest.mark.parametrize(("rate", "window", "bands", "high"), [(16000, 400, 40, 0.0), (22050, 511, 64, 8000.0)])
def test_filters_are_those_of_librosa(scale, rate, window, bands, high):
    expected = librosa.filters.mel(
        sr=rate, n_fft=window, n_mels=bands, fmax=high or None, dtype=np.float64, **KINDS[scale]
    )
    found = mel_filterbank(rate, window, bands, scale, scale == "slaney", high)
    torch.testing.assert_close(found, torch.from_numpy(expected.T.copy()), rtol=1e-9, atol=1e-12)


def test_an_odd_window_and_an_upper_end():
    waveform, lengths = clips(1000)
    power, frames = build(window=155, hop=60, high=3000.0)(waveform, lengths)
    expected = reference(waveform[0], "slaney", "zeros", window=155, hop=60, high=3000.0)
    count = min(len(expected), int(frames))
    assert int(frames) == 1 + 1000 // 60
    assert_near(power[0, :count], expected[:count])


def test_a_clip_shorter_than_half_a_window_is_reflected_to_and_fro():
    waveform, lengths = clips(150, 7, 1)
    power, frames = build(edges="reflect")(waveform, lengths)
    assert frames.tolist() == [2, 1, 1]
    for row in (1, 2):
        clip = waveform[row, : lengths[row]].numpy()
        whole = torch.from_numpy(np.pad(clip, 100, mode="reflect") if len(clip) > 1 else np.repeat(clip, 200))[:200]
        spectrum = torch.fft.rfft(whole * torch.hann_window(200, dtype=torch.float64)).abs().square()
        expected = spectrum @ mel_filterbank(8000, 200, 12)
        assert_near(power[row, 0], expected)


def test_a_short_clip_between_zeros_is_the_clip_with_silence_after_it():
    waveform, lengths = clips(130)
    power, frames = build()(waveform, lengths)
    expected = reference(torch.nn.functional.pad(waveform[0], (0, 400)), "slaney", "zeros")
    assert int(frames) == 2
    assert_near(power[0], expected[:2])


@pytest.mark.parametrize("edges", EDGES)
def test_a_clip_without_samples_has_no_frames(edges):
    model = build(edges=edges)
    power, frames = model(torch.full((2, 300), torch.nan, dtype=torch.float64)[:, :0], torch.zeros(2, dtype=torch.long))
    assert frames.tolist() == [0, 0]
    assert (power == 0).all()
    power, frames = model(torch.ones(2, 300, dtype=torch.float64), torch.tensor([300, 0]))
    assert frames.tolist() == [4, 0]
    assert (power[1] == 0).all()


def test_buffers_follow_the_module_and_not_the_checkpoint():
    model = build().float()
    assert model.state_dict() == {}
    waveform, lengths = clips(800, 300)
    waveform = waveform.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halved, _ = model(waveform, lengths)
    assert halved.dtype == torch.float32
    assert torch.equal(halved, model(waveform, lengths)[0])
    assert model.to("meta").hann.device.type == "meta"


def test_the_waveform_gets_a_finite_gradient():
    waveform, lengths = clips(800, 300)
    waveform = waveform.nan_to_num().requires_grad_()
    build(edges="reflect")(waveform, lengths)[0].sum().backward()
    assert waveform.grad.isfinite().all()
    assert (waveform.grad[1, 300:] == 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hop": 0}, "hop 0"),
        ({"high": 4001.0}, "up to 4000"),
        ({"scale": "bark"}, "'bark'"),
        ({"edges": "wrap"}, "'wrap'"),
    ],
)
def test_sizes_and_choices_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)
