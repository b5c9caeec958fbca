"""3D ResNeXt and its frames: sizes as published, statistics of the random crops as their rule implies."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from data_modules.schema import PaddedSequence
from mmbench.methods.cfn_sr.resnext3d import (
    AREA,
    ASPECT,
    BatchNorm,
    Bottleneck,
    ResNeXt3D,
    imagenet_scaled,
    random_views,
    spread_frames,
)


@pytest.mark.parametrize(
    ("clip", "expected"), [((30, 224, 224), (2, 7, 7)), ((17, 64, 64), (2, 2, 2)), ((8, 48, 40), (1, 2, 2))]
)
def test_published_map(clip, expected):
    with torch.device("meta"):
        network = ResNeXt3D()
        found = network(torch.empty(1, 3, *clip))
    assert found.shape == (1, network.dim, *expected)
    assert network.dim == 2048


@pytest.mark.parametrize(("depth", "blocks"), [(14, 4), (26, 8), (50, 16), (101, 33)])
def test_depth_counts_the_convolutions(depth, blocks):
    with torch.device("meta"):
        modules = list(ResNeXt3D(depth).modules())
    assert sum(isinstance(module, Bottleneck) for module in modules) == blocks
    # Three in each, the stem and a classifier; the shortcuts do not count.
    assert 3 * blocks + 2 == depth
    assert sum(isinstance(module, nn.Conv3d) for module in modules) == 3 * blocks + 1 + 4


def test_published_size():
    with torch.device("meta"):
        network = ResNeXt3D()
    assert sum(parameter.numel() for parameter in network.parameters()) == 25_865_664


def test_initial_weights():
    torch.manual_seed(0)
    network = ResNeXt3D(14, 16, 4)
    for module in network.modules():
        if isinstance(module, nn.Conv3d) and module.weight.numel() > 2000:
            expected = math.sqrt(2 / (module.out_channels * math.prod(module.kernel_size)))
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.06)


def test_bottleneck_by_hand():
    torch.manual_seed(0)
    block = Bottleneck(6, 4, 2, 2).eval()
    for norm in (module for module in block.modules() if isinstance(module, BatchNorm)):
        nn.init.uniform_(norm.weight), nn.init.uniform_(norm.bias)
        norm.running_mean.uniform_(), norm.running_var.uniform_(0.5, 1)
    x = torch.randn(2, 6, 5, 6, 7)

    def normal(norm, values):
        shape = (1, -1, 1, 1, 1)
        scaled = (values - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + 1e-5).sqrt()
        return scaled * norm.weight.view(shape) + norm.bias.view(shape)

    def mixed(convolution, values):
        return torch.einsum("oi,bithw->bothw", convolution.weight[:, :, 0, 0, 0], values)

    hidden = normal(block.norm1, mixed(block.conv1, x)).clamp(min=0)
    hidden = torch.nn.functional.pad(hidden, (1,) * 6)
    grouped = torch.zeros(2, 4, 3, 3, 4)
    for channel in range(4):
        group = slice(0, 2) if channel < 2 else slice(2, 4)
        for t in range(3):
            for h in range(3):
                for w in range(4):
                    window = hidden[:, group, 2 * t : 2 * t + 3, 2 * h : 2 * h + 3, 2 * w : 2 * w + 3]
                    grouped[:, channel, t, h, w] = (window * block.conv2.weight[channel]).sum((1, 2, 3, 4))
    out = normal(block.norm3, mixed(block.conv3, normal(block.norm2, grouped).clamp(min=0)))
    shortcut = normal(block.shortcut[1], mixed(block.shortcut[0], x[:, :, ::2, ::2, ::2]))
    torch.testing.assert_close(block(x), (out + shortcut).clamp(min=0), rtol=1e-4, atol=1e-5)


def test_shortcut_has_weights_only_where_the_shape_changes():
    assert len(Bottleneck(8, 4, 2, 1).shortcut) == 0
    assert len(Bottleneck(8, 4, 2, 2).shortcut) == 2
    assert len(Bottleneck(6, 4, 2, 1).shortcut) == 2


@pytest.mark.parametrize(("shape", "theirs"), [((4, 3, 5), nn.BatchNorm1d), ((2, 3, 2, 3, 4), nn.BatchNorm3d)])
def test_batch_norm_is_that_of_torch(shape, theirs):
    ours, theirs = BatchNorm(3), theirs(3)
    for seed in range(3):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_batch_norm_of_a_single_value_takes_the_running_statistics():
    norm = BatchNorm(2).train()
    norm.running_mean.copy_(torch.tensor([1.0, 2.0]))
    norm.running_var.copy_(torch.tensor([4.0, 9.0]))
    found = norm(torch.tensor([3.0, 8.0]).view(1, 2, 1, 1, 1))
    torch.testing.assert_close(found.flatten(), torch.tensor([1.0, 2.0]))
    assert norm.running_mean.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("count", [1, 4, 30])
def test_frames_are_spread_evenly(count):
    lengths = [7, 3, 1, 0]
    values = torch.arange(4 * 7 * 3, dtype=torch.uint8).reshape(4, 7, 3, 1, 1)
    found = spread_frames(PaddedSequence(values, torch.tensor(lengths)), count)
    assert found.dtype == torch.uint8
    for row, length in enumerate(lengths):
        for i in range(count):
            expected = values[row, math.floor(i * length / count)] if length else torch.zeros(3, 1, 1)
            assert torch.equal(found[row, i], expected.to(torch.uint8))


def test_as_many_frames_as_there_are_stay_as_they_are():
    values = torch.randint(0, 256, (2, 30, 3, 2, 2), dtype=torch.uint8)
    assert torch.equal(spread_frames(PaddedSequence(values, torch.tensor([30, 30])), 30), values)


def test_a_batch_of_no_frame_at_all_is_black():
    found = spread_frames(PaddedSequence(torch.zeros(2, 0, 3, 4, 5, dtype=torch.uint8), torch.tensor([0, 0])), 6)
    assert found.shape == (2, 6, 3, 4, 5)
    assert not found.any()


def test_scaling_by_hand():
    frames = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 1, 3, 1, 1)
    found = imagenet_scaled(frames)
    assert found.shape == (1, 3, 1, 1, 1)
    expected = [(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(found.flatten().numpy(), expected, rtol=1e-5)


def ramps(clips, steps, height, width):
    """Return clips whose two channels hold the place of each pixel, from -1 at one edge of the frame to 1."""
    x = (2 * torch.arange(width) + 1) / width - 1
    y = (2 * torch.arange(height) + 1) / height - 1
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)]).expand(clips, steps, -1, -1, -1)


def crops(height, width, *, each=False, clips=4000, steps=1):
    """Return middle ``(images, 2)`` and signed share ``(images, 2)`` of random crops, read off ramps."""
    torch.manual_seed(0)
    found = random_views(ramps(clips, steps, height, width), each).flatten(0, 1)
    x, y = found[:, 0], found[:, 1]
    i, j = height // 2, width // 2  # around the middle the border has no say
    share = torch.stack([(x[:, i, j] - x[:, i, j - 1]) * width / 2, (y[:, i, j] - y[:, i - 1, j]) * height / 2], -1)
    middle = torch.stack([(x[:, i, j] + x[:, i, j - 1]) / 2, (y[:, i, j] + y[:, i - 1, j]) / 2], -1)
    return middle, share


@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20)])
def test_random_crops_follow_their_rule(height, width):
    middle, share = crops(height, width)
    size, close = share.abs(), 1e-4
    assert (middle.abs() <= 1 - size + close).all()  # inside the frame
    whole = (size > 1 - close).all(1)
    area = size.prod(1)[~whole]
    aspect = (size[:, 0] / size[:, 1])[~whole]  # relative to the frame's
    assert AREA[0] - close < area.min() < AREA[0] + 0.02
    assert area.max() <= 1 + close
    assert aspect.min() >= ASPECT[0] - close
    assert aspect.max() <= ASPECT[1] + close
    assert (middle.abs() / (1 - size).clamp(min=1e-6))[~whole].mean() == pytest.approx(0.5, abs=0.02)  # anywhere


def test_frames_are_whole_as_often_as_no_crop_fits():
    """A crop of area a fits a square if the logarithm of its aspect is below -log a, one in eight; ten are drawn."""
    fits = (1 - (0.8 - 0.8 * math.log(0.8))) / (AREA[1] - AREA[0]) / math.log(ASPECT[1])
    _, share = crops(16, 16)
    whole = (share.abs() > 1 - 1e-4).all(1).float().mean()
    assert float(whole) == pytest.approx((1 - fits) ** 10, abs=0.02)


def test_half_of_the_clips_are_flipped_left_to_right_and_none_upside_down():
    _, share = crops(16, 16)
    assert float((share[:, 0] < 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert (share[:, 1] > 0).all()


def test_all_frames_of_a_clip_are_seen_alike_unless_each_is_drawn():
    def spread(each):
        middle, share = crops(16, 16, each=each, clips=50, steps=6)
        return torch.cat([middle, share], 1).unflatten(0, (50, 6)).std(1).amax()

    assert spread(each=False) < 1e-6
    assert spread(each=True) > 0.1


def test_half_precision_crops_at_the_same_places():
    frames, found = ramps(4, 1, 128, 128), []
    for half in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found.append(random_views(frames))
    torch.testing.assert_close(found[1], found[0])


def test_random_views_keep_pixels_that_do_not_differ():
    frames = torch.full((3, 2, 3, 8, 8), 77, dtype=torch.uint8)
    torch.testing.assert_close(random_views(frames), frames.float())
