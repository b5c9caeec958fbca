"""Image classifiers of the library, and groups of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from data_modules.schema import DataError
from mmbench.methods.vcan import image_classifiers
from mmbench.methods.vcan.image_classifiers import Architecture, ClassifierGroup, image_classifier, known_classifier
from tests.methods.parts import count

pytest.importorskip("transformers")

PUBLISHED = {"resnet18": 11_689_512, "mobilenet_v2": 3_504_872, "efficientnet_b0": 5_288_548}
"""Parameters with the 1000 classes of ImageNet, as torchvision prints them beside its weights."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_architectures_have_the_published_size(name):
    with torch.device("meta"):
        network = image_classifier(name, 1000)
    assert count(network) == PUBLISHED[name]


@pytest.mark.parametrize("name", [*PUBLISHED, "tiny"])
def test_images_and_gradients_pass_from_the_start(name):
    """The library's EfficientNet starts with normalisations around 0, through which nothing passes."""
    torch.manual_seed(0)
    network = image_classifier(name, 3)
    assert network.training
    logits = network(pixel_values=torch.randn(4, 3, 64, 64)).logits
    assert logits.shape == (4, 3)
    assert logits.std(0).mean() > 0.01
    logits.square().sum().backward()
    assert next(network.parameters()).grad.norm() > 1e-2
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}
    assert all(torch.equal(norm.weight, torch.ones_like(norm.weight)) for norm in norms)


@pytest.mark.parametrize("name", PUBLISHED)
def test_running_statistics_follow_slowly(name):
    """After one batch a tenth of its statistics has arrived, not nearly all."""
    torch.manual_seed(0)
    network = image_classifier(name, 3)
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    seen = []
    norm.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].mean((0, 2, 3))))
    network(pixel_values=torch.randn(2, 3, 64, 64) + 1)
    torch.testing.assert_close(norm.running_mean, 0.1 * seen[0])


def test_frames_are_normalised_by_the_statistics_of_imagenet():
    group = ClassifierGroup(["tiny"], 3, 24)
    frames = torch.tensor([0, 100, 255], dtype=torch.uint8)[None, :, None, None].expand(2, 3, 24, 24)
    expected = [(0 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    torch.testing.assert_close(group.images(frames)[0, :, 0, 0], torch.tensor(expected))


def test_frames_are_brought_to_the_size():
    """Down by averages, so that nothing of a frame is skipped; a frame of the right size stays as it is."""
    group = ClassifierGroup(["tiny"], 3, 16)
    group.mean, group.deviation = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    random = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=random)
    torch.testing.assert_close(group.images(frames), frames / 255)
    wide = torch.zeros(1, 3, 64, 32, dtype=torch.uint8)
    wide[..., ::4, :] = 200
    small = group.images(wide)
    assert small.shape == (1, 3, 16, 16)
    torch.testing.assert_close(small[..., 2:-2, :], torch.full((1, 3, 12, 16), 50 / 255), atol=0.02, rtol=0)


def test_group_asks_every_classifier_about_every_frame():
    torch.manual_seed(0)
    group = ClassifierGroup(["tiny", "tiny"], 3, 24).eval()
    frames = torch.randint(0, 256, (5, 3, 30, 20), dtype=torch.uint8)
    logits = group(frames)
    assert logits.shape == (5, 2, 3)
    for number, classifier in enumerate(group.classifiers):
        torch.testing.assert_close(logits[:, number], classifier(pixel_values=group.images(frames)).logits)
    assert (logits[:, 0] - logits[:, 1]).abs().max() > 1e-3  # two networks, not one twice


@pytest.mark.parametrize("size", [8, 24])
def test_one_frame_can_be_trained_on(size):
    """At size 8 the last maps are single values, which torch refuses to normalise alone."""
    torch.manual_seed(0)
    group = ClassifierGroup(["tiny"], 3, size).train()
    logits = group(torch.randint(0, 256, (1, 3, 24, 24), dtype=torch.uint8))
    assert logits.shape == (1, 1, 3)
    logits.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in group.parameters())


def test_statistics_of_one_frame_are_its_own():
    torch.manual_seed(0)
    group = ClassifierGroup(["tiny"], 3, 24).train()
    frame = torch.randint(0, 256, (1, 3, 24, 24), dtype=torch.uint8)
    torch.testing.assert_close(group(frame)[:, 0], group.classifiers[0](pixel_values=group.images(frame)).logits)


def test_weights_come_from_a_folder(tmp_path):
    torch.manual_seed(0)
    source = image_classifier("tiny", 3)
    source.save_pretrained(tmp_path / "model")
    same = image_classifier(str(tmp_path / "model"), 3)
    other = image_classifier(str(tmp_path / "model"), 5)
    assert same.training
    for name, value in source.state_dict().items():
        assert torch.equal(same.state_dict()[name], value)
        if "classifier" not in name:
            assert torch.equal(other.state_dict()[name], value)
    assert other(pixel_values=torch.zeros(2, 3, 24, 24)).logits.shape == (2, 5)


def test_pretrained_networks_learn_as_new_ones(tmp_path, monkeypatch):
    """The files of a model bring the dropout and the momentum of the library with them."""
    from transformers import AutoConfig, AutoModelForImageClassification

    settings = AutoConfig.for_model("mobilenet_v2", num_labels=3, depth_multiplier=0.1)
    assert settings.classifier_dropout_prob == 0.8
    AutoModelForImageClassification.from_config(settings).save_pretrained(tmp_path)
    named = Architecture("mobilenet_v2", str(tmp_path), image_classifiers.ARCHITECTURES["mobilenet_v2"].settings)
    monkeypatch.setitem(image_classifiers.ARCHITECTURES, "small", named)
    network = image_classifier("small", 4, pretrained=True)
    assert {module.p for module in network.modules() if isinstance(module, nn.Dropout)} == {0.2}
    assert {module.momentum for module in network.modules() if isinstance(module, nn.BatchNorm2d)} == {0.1}


def test_weights_are_asked_for_by_their_name(monkeypatch):
    import transformers

    asked = []

    def load(name, **options):
        asked.append((name, options["num_labels"]))
        raise OSError("not here")

    monkeypatch.setattr(transformers.AutoModelForImageClassification, "from_pretrained", load)
    for name in PUBLISHED:
        with pytest.raises(DataError, match=r"cannot be loaded: give a folder.*not here"):
            image_classifier(name, 4, pretrained=True)
    names = ["microsoft/resnet-18", "google/mobilenet_v2_1.0_224", "google/efficientnet-b0"]
    assert asked == [(name, 4) for name in names]


def test_unknown_classifiers_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"no image classifier 'resnet81'. Did you mean 'resnet18'"):
        image_classifier("resnet81", 3)
    with pytest.raises(DataError, match="'tiny' has no pretrained weights"):
        image_classifier("tiny", 3, pretrained=True)
    with pytest.raises(DataError, match="cannot be loaded"):
        image_classifier(str(tmp_path), 3)
    assert all(known_classifier(name) for name in ("tiny", "owner/model", str(tmp_path)))
    assert not any(known_classifier(name) for name in ("", "nothing"))
