"""VCAN: the sound of a clip chooses its key frames, and a group of image classifiers votes on them.

Paper: Chen, Zhou, Li, Zhou, "Video-based Cross-modal Auxiliary Network for Multimodal Sentiment Analysis", IEEE TCSVT
32(12), 2022, arXiv 2208.13954. Official code: rongfei-chen/VCAN, of which the choice of frames is published and the
classifiers are not; rewritten from formulas, not copied.

The choice has nothing to learn and is made once, when a store of frames and waveforms becomes one of key frames
(:mod:`data_modules.features.keyframes`: ``mmbench data keyframes``); its feature set ends in ``-keyframes``, so that
its numbers stand in tables of their own. On a store of all frames this method is the classifier group without the
choice. Neither sound nor text is read here.

Shapes: frames ``(B, T, 3, H, W)``; the ``N`` real ones ``(N, 3, size, size)``, normalised by ImageNet's mean and
deviation; logits of ``M`` networks ``(N, M, classes)``. Every frame has the label of its clip. For clip ``b`` with the
frames ``F_b``::

    L = mean over n, m of CE(logits_nm, y_b(n))
    p_b = mean over n in F_b and m of softmax(logits_nm)

The prediction is ``log p_b``: as logits, its softmax is ``p_b`` and its cross-entropy that of the vote.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import ConfigError, MethodConfig, setting
from mmbench.methods.vcan.image_classifiers import ARCHITECTURES, ClassifierGroup, known_classifier
from mmbench.nn.pooling import masked_mean
from mmbench.nn.precision import at_least_single
from mmbench.tasks import Task


@dataclass(kw_only=True)
class VCANOutput(Output):
    """The prediction and what it is made of.

    Attributes:
        logits: Of every real frame, by network and class.
        clip: Of every real frame, the row of its clip.
    """

    logits: Tensor
    clip: Tensor


class VCAN(FusionMethod):
    """A group of image classifiers on key frames.

    ``self.spec`` names only vision, because the sound has done its part before.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.vcan import VCAN
        >>> spec = make_spec("multiclass", ("vision",), kinds={"vision": "frames"})
        >>> model = VCAN(spec, config=VCAN.Config(classifiers="tiny,tiny", size=24))
        >>> output = model(make_batch(spec))
        >>> output.logits.shape[1:]  # of every frame: two networks, three classes
        torch.Size([2, 3])
        >>> output.prediction.exp().sum(1).round(decimals=3).tolist()  # of every clip: shares of the votes
        [1.0, 1.0, 1.0, 1.0]
    """

    card = MethodCard(
        title="Video-based Cross-modal Auxiliary Network for Multimodal Sentiment Analysis (VCAN)",
        authors="Chen, Zhou, Li, Zhou",
        year=2022,
        venue="IEEE TCSVT",
        arxiv="2208.13954",
        code="rongfei-chen/VCAN@62c1b2781ec24d769458fafdae8ad00506f1e0c6",
        fidelity="abstract",
        deviations=(
            "Inferred: the group is ResNet-18, MobileNetV2 and EfficientNet-B0; the library has no MobileNetV3.",
            "Inferred: the group starts from random weights unless `pretrained` is set.",
            "Inferred: frames are squashed to 224 x 224 and not augmented, and no face is cut out.",
            "Inferred: the mean cross-entropy over frames and networks is minimised by Adam at a rate of 0.0001.",
            "Inferred: class probabilities are averaged over frames, then over networks.",
            "A step takes whole clips, 4 of them with some 64 key frames, instead of frames drawn from all clips.",
            "Inferred: the score of a column takes the ratio of maximum to sum from linear power; the code takes it "
            "from decibels, which are negative or cross zero (variants `numeric` and `official` of the choice do so).",
            "Scores are compared as numbers; the code sorts them as text (variant `official`).",
            "The ratio of columns to frames follows from the clip's frame rate, or from its numbers of both without "
            "one; the code divides by 2.5 (variant `official`).",
            "The ratio of mean to sum in the exponent is the constant 1/26, and is kept.",
            "The clustering of modes takes the best of ten starts from a fixed seed; the code has no seed.",
            "Descriptors of modes are unscaled and shimmer in dB is a difference of magnitudes, as in the code.",
            "A clip whose sound has fewer than three modes, or a mode without pitch, keeps ten evenly spread frames "
            "and is reported; the code drops it and every later clip of its length.",
            "Only data with classes are read; the paper also classifies the polarity of CMU-MOSI and CMU-MOSEI, whose "
            "targets are numbers here.",
            "Sound and frames of a clip belong together by its record; the code compares parts of file names, which "
            "never match for RAVDESS.",
        ),
        needs=Needs(
            modalities=("vision",),
            tasks=("multiclass",),
            kinds={"audio": ("features", "waveform"), "vision": ("frames",)},
        ),
    )

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings of VCAN."""

        batch_size: int = setting(4, "clips per step, of 10 to 30 key frames each", low=1)
        lr: float = setting(1e-4, "learning rate", low=0.0)
        classifiers: str = setting(
            "resnet18,mobilenet_v2,efficientnet_b0",
            f"image classifiers, comma-separated: {', '.join(ARCHITECTURES)}, Hugging Face models or folders",
        )
        pretrained: bool = setting(False, "start the named classifiers from weights of ImageNet")
        size: int = setting(224, "height and width of the images that the classifiers see", low=8)

        def __post_init__(self) -> None:
            """Check that there are classifiers, and known ones."""
            super().__post_init__()
            wrong = [name for name in self.names if not known_classifier(name)]
            if wrong:
                raise ConfigError(
                    f"{self.where('classifiers')} has {wrong[0]!r}; give names of {', '.join(ARCHITECTURES)}, Hugging "
                    "Face models (owner/model) or folders, with commas between them."
                )

        @property
        def names(self) -> list[str]:
            """The classifiers, one by one."""
            return [name.strip() for name in self.classifiers.split(",")]

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        c = self.config
        self.group = ClassifierGroup(c.names, self.task.outputs, c.size, c.pretrained)

    @classmethod
    def reads(cls, spec: DataSpec, config: Any) -> tuple[str, ...]:
        """Return vision alone."""
        return ("vision",)

    def forward(self, batch: Batch) -> VCANOutput:
        """Return the prediction ``(B, classes)`` and what the networks say of every frame."""
        frames, mask = batch.inputs["vision"].values, batch.inputs["vision"].mask
        # Waits for the device once: running the networks on padding, and normalising by it, would be worse.
        real = mask.flatten().nonzero()[:, 0]
        logits = self.group(frames.flatten(0, 1)[real])
        logits = at_least_single(logits)  # votes of half precision would be coarse
        votes = logits.softmax(-1).mean(1)
        padded = votes.new_zeros(mask.numel(), votes.shape[1]).index_copy(0, real, votes)
        probability = masked_mean(padded.unflatten(0, mask.shape), mask)
        prediction = probability.clamp(min=torch.finfo(probability.dtype).tiny).log()
        return VCANOutput(prediction, logits=logits, clip=real // mask.shape[1])

    def objective(self, output: VCANOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the mean cross-entropy over the frames and networks, each frame with the label of its clip."""
        logits, labels = output.logits, batch.target[output.clip]
        return {"task": F.cross_entropy(logits.transpose(1, 2), labels[:, None].expand(-1, logits.shape[1]))}
