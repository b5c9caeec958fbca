"""Groups of image classifiers on the frames of clips, from the networks of the ``transformers`` library.

The library is made for pretrained weights; for training, three of its habits are undone here. It hands over the decay
of TensorFlow's running statistics (0.99, 0.997) as what PyTorch takes for the weight of the newest batch, so that
networks would be evaluated by the statistics of their last batch; it takes the part of MobileNetV2's features that is
kept (0.8) for the part that dropout removes; and it draws the scales of EfficientNet's batch normalisation around 0,
which lets no signal through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import DataError, unknown_name

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the red, green and blue of ImageNet, on a scale from 0 to 1."""

MOMENTUM = 0.1
"""Weight of the newest batch in running statistics: PyTorch's own default."""


@dataclass(frozen=True)
class Architecture:
    """A network that can be had by a short name.

    Attributes:
        family: The library's name of its kind.
        weights: The model with weights from ImageNet, empty for none.
        settings: What makes it this one of its kind, with and without weights from ImageNet.
    """

    family: str
    weights: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


ARCHITECTURES = {
    "resnet18": Architecture(
        "resnet",
        "microsoft/resnet-18",
        {"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"},
    ),
    "mobilenet_v2": Architecture("mobilenet_v2", "google/mobilenet_v2_1.0_224", {"classifier_dropout_prob": 0.2}),
    "efficientnet_b0": Architecture(
        "efficientnet",
        "google/efficientnet-b0",
        {
            "width_coefficient": 1.0,
            "depth_coefficient": 1.0,
            "image_size": 224,
            "hidden_dim": 1280,
            "dropout_rate": 0.2,
        },
    ),
    "tiny": Architecture(
        "resnet", settings={"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    ),
}
"""ResNet-18, MobileNetV2 and EfficientNet-B0 as published; ``tiny`` (6 thousand weights) is for tests and checks."""


def known_classifier(name: str) -> bool:
    """Return whether a name is one of :data:`ARCHITECTURES`, or a folder or ``owner/model`` of the library's."""
    return name in ARCHITECTURES or "/" in name or (name != "" and Path(name).is_dir())


def image_classifier(name: str, classes: int, pretrained: bool = False) -> nn.Module:
    """Return a network from images ``(B, 3, H, W)`` to an object with ``logits (B, classes)``.

    Args:
        name: One of :data:`ARCHITECTURES`, or a Hugging Face image model (name or folder), which is always pretrained.
        classes: Number of classes; the last layer is new.
        pretrained: Whether one of the architectures starts from its weights from ImageNet.

    Raises:
        DataError: When the extra ``text`` is not installed, or the model is not known or cannot be loaded.
    """
    try:
        from transformers import AutoConfig, AutoModelForImageClassification
    except ImportError as error:
        raise DataError("Image classifiers need the extra 'text': pip install 'mmbench[text]'.") from error
    if not known_classifier(name):
        raise DataError(unknown_name("image classifier", name, ARCHITECTURES))
    found = ARCHITECTURES.get(name)
    if found and not pretrained:
        network = AutoModelForImageClassification.from_config(
            AutoConfig.for_model(found.family, num_labels=classes, **found.settings)
        )
        _start(network)
    else:
        source = found.weights if found else name
        if not source:
            raise DataError(f"The image classifier {name!r} has no pretrained weights: train it from the start.")
        try:
            network = AutoModelForImageClassification.from_pretrained(
                source, num_labels=classes, ignore_mismatched_sizes=True, **(found.settings if found else {})
            )
        except (OSError, ValueError) as error:
            raise DataError(
                f"The image classifier {source!r} cannot be loaded: give a folder with the model's files, or a model "
                f"name and network access. ({error})"
            ) from error
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = MOMENTUM
    return network.train()  # the library hands models over in evaluation mode


def _start(network: nn.Module) -> None:
    """Draw the weights as the three papers' networks usually are: He et al. for convolutions, plain normalisation."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


class ClassifierGroup(nn.Module):
    """Several image classifiers that look at the same frames.

    Args:
        names: As in :func:`image_classifier`.
        classes: Number of classes.
        size: Height and width to which frames are brought.
        pretrained: As in :func:`image_classifier`.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, names: Sequence[str], classes: int, size: int, pretrained: bool = False) -> None:
        super().__init__()
        self.size = size
        self.classifiers = nn.ModuleList(image_classifier(name, classes, pretrained) for name in names)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)

    def images(self, frames: Tensor) -> Tensor:
        """Return ``(N, 3, size, size)`` images of about mean 0 and deviation 1 for frames from 0 to 255."""
        images = frames.to(self.mean.dtype) / 255
        if images.shape[2:] != (self.size, self.size):
            images = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        return (images - self.mean) / self.deviation

    def forward(self, frames: Tensor) -> Tensor:
        """Return the logits ``(N, classifiers, classes)`` for frames ``(N, 3, H, W)``."""
        images = self.images(frames)
        if self.training and len(images) == 1:
            # Batch statistics of one small image may be those of one value, which torch refuses; two equal ones have
            # the same.
            images = images.expand(2, *images.shape[1:])
        logits = [classifier(pixel_values=images).logits for classifier in self.classifiers]
        return torch.stack(logits, 1)[: len(frames)]
