"""TFN: the outer product of one vector per modality, each with a 1 appended, read by a DNN.

Paper: Zadeh, Chen, Poria, Cambria, Morency, "Tensor Fusion Network for Multimodal Sentiment Analysis", EMNLP 2017,
arXiv 1707.07250. The layer layout is the one of the rebuild in thuiar/MMSA (MIT), from which the published rows stem;
read, rewritten, not copied.
Deviations: see the card.

Shapes: text ``(B, T, D)`` -> LSTM -> ``(B, text_width)``; audio and vision ``(B, T, D)`` -> time average -> three ReLU
layers -> ``(B, <modality>_width)``; Tensor Fusion Layer -> ``(B, prod(width_m + 1))``, of any number of modalities ->
two ReLU layers -> ``(B, outputs)``. Regression on a scale with ends: ``low + (high - low) sigmoid(output)``.
Loss: the task loss alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, PublishedResult
from mmbench.methods.config import MethodConfig, setting
from mmbench.nn.encoders import Subnetworks
from mmbench.nn.fusion import outer_product, post_fusion
from mmbench.tasks import Task

PUBLISHED = {
    "mosi/unaligned_50/standard": {
        "acc2_has0": 0.7799,
        "f1_has0": 0.7803,
        "acc2_non0": 0.7908,
        "f1_non0": 0.7906,
        "acc5": 0.3939,
        "acc7": 0.3446,
        "mae": 0.9473,
        "corr": 0.6733,
    },
    "mosei/unaligned_50/standard": {
        "acc2_has0": 0.7850,
        "f1_has0": 0.7805,
        "acc2_non0": 0.8189,
        "f1_non0": 0.8204,
        "acc5": 0.5310,
        "acc7": 0.5160,
        "mae": 0.5726,
        "corr": 0.7141,
    },
}
"""Regression rows of the MMSA results table (results/result-stat.md, data setting unaligned), as fractions."""


class TFN(FusionMethod):
    """Tensor Fusion Network.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.tfn import TFN
        >>> spec = make_spec()
        >>> model = TFN(spec, config=TFN.Config(text_width=4, audio_width=4, vision_width=4))  # 5 * 5 * 5 products
        >>> values = model(make_batch(spec)).prediction
        >>> tuple(values.shape), bool((values.abs() < 3).all())  # the scale ends at -3 and 3
        ((4, 1), True)
    """

    card = MethodCard(
        title="Tensor Fusion Network for Multimodal Sentiment Analysis",
        authors="Zadeh, Chen, Poria, Cambria, Morency",
        year=2017,
        venue="EMNLP",
        arxiv="1707.07250",
        fidelity="paper",
        deviations=(
            "Layer sizes, batch normalisation of the averaged features and dropout follow the rebuild in thuiar/MMSA "
            "with its settings for MOSI, not the paper.",
            "Regression is trained with the suite's L1 loss, as in the rebuild.",
            "The output range is the scale of the target, and there is none when the scale has no ends.",
            "Time averages and the text LSTM see real steps only; the rebuild includes the padding.",
            "Text that is one vector per sample is read by a DNN like audio and vision.",
            "With two modalities the outer product has two factors.",
        ),
        findings=(
            "Its training loss on RAVDESS (0.79 at selection) is likely that of dropout, as shown for LMF, which "
            "shares its subnetworks.",
        ),
        published=tuple(
            PublishedResult(track, metric, value, "thuiar/MMSA, results/result-stat.md")
            for track, row in PUBLISHED.items()
            for metric, value in row.items()
        ),
    )

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings of TFN."""

        gradient_clip: float = setting(0.0, "largest L2 norm of the gradient; 0 for no limit", low=0.0)
        text_hidden: int = setting(128, "units of the text LSTM", low=1)
        text_width: int = setting(32, "width of the text vector", low=1)
        audio_width: int = setting(32, "width of the audio subnetwork", low=1)
        vision_width: int = setting(128, "width of the vision subnetwork", low=1)
        post_width: int = setting(64, "width of the layers after the fusion", low=1)
        dropout: float = setting(0.3, "dropout probability in the subnetworks", low=0.0, high=1.0)
        post_dropout: float = setting(0.5, "dropout probability on the fused tensor", low=0.0, high=1.0)

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        c = self.config
        widths = {"text": c.text_width, "audio": c.audio_width, "vision": c.vision_width}
        self.subnetworks = Subnetworks(spec.modalities, self.dims, widths, c.text_hidden, c.dropout)
        width = math.prod(width + 1 for width in self.subnetworks.widths.values())
        self.head = post_fusion(width, c.post_width, self.task.outputs, c.post_dropout)

    def forward(self, batch: Batch) -> Output:
        """Return the prediction ``(B, outputs)``."""
        vectors = self.subnetworks(self.features(batch))
        prediction = self.head(outer_product(list(vectors.values())))
        target = self.task.target
        if target.kind == "regression" and target.low is not None and target.high is not None:
            prediction = target.low + (target.high - target.low) * torch.sigmoid(prediction)
        return Output(prediction)
