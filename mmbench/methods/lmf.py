"""LMF: tensor fusion with a weight tensor of low rank, kept as one factor per modality and never multiplied out.

Paper: Liu, Shen, Lakshminarasimhan, Liang, Zadeh, Morency, "Efficient Low-rank Multimodal Fusion with
Modality-Specific Factors", ACL 2018, arXiv 1806.00064.
Code: Justin1904/Low-rank-Multimodal-Fusion, ``model.py`` and ``train_mosi.py``; read, rewritten, not copied. It is the
authors' own rebuild of a Keras original.
Deviations: see the card. The code's optimiser leaves out the weights over the rank and the bias (its issue 9 calls this
a mistake); here every factor is trained.

Shapes: text ``(B, T, D)`` -> LSTM -> ``(B, text_width)``; audio and vision ``(B, T, D)`` -> time average -> three ReLU
layers -> ``(B, <modality>_width)``; :class:`mmbench.nn.fusion.LowRankFusion` -> ``(B, outputs)``, which is the
prediction. Loss: the task loss alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, PublishedResult
from mmbench.methods.config import MethodConfig, setting
from mmbench.methods.groups import without
from mmbench.nn.encoders import Subnetworks
from mmbench.nn.fusion import LowRankFusion
from mmbench.tasks import Task

PUBLISHED = {
    "mosi/unaligned_50/standard": {
        "acc2_has0": 0.7790,
        "f1_has0": 0.7800,
        "acc2_non0": 0.7918,
        "f1_non0": 0.7920,
        "acc5": 0.3813,
        "acc7": 0.3382,
        "mae": 0.9504,
        "corr": 0.6510,
    },
    "mosei/unaligned_50/standard": {
        "acc2_has0": 0.8054,
        "f1_has0": 0.8014,
        "acc2_non0": 0.8348,
        "f1_non0": 0.8360,
        "acc5": 0.5299,
        "acc7": 0.5159,
        "mae": 0.5757,
        "corr": 0.7169,
    },
}
"""Regression rows of the MMSA results table (results/result-stat.md, data setting unaligned), as fractions."""


class LMF(FusionMethod):
    """Low-rank Multimodal Fusion.

    Example:
        >>> from data_modules.toy import make_spec
        >>> from mmbench.methods.lmf import LMF
        >>> model = LMF(make_spec(), config=LMF.Config(rank=2))
        >>> tuple(model.fusion.factors["text"].shape)  # rank, width of the vector and its 1, outputs
        (2, 65, 1)
    """

    card = MethodCard(
        title="Efficient Low-rank Multimodal Fusion with Modality-Specific Factors",
        authors="Liu, Shen, Lakshminarasimhan, Liang, Zadeh, Morency",
        year=2018,
        venue="ACL",
        arxiv="1806.00064",
        code="Justin1904/Low-rank-Multimodal-Fusion@16158dbffb6dc23b575c5c697eab951aa0b1a891",
        fidelity="official-code",
        deviations=(
            "The weights over the rank and the bias are trained; the code's optimiser leaves them out by mistake.",
            "Each rank's factor is initialised by itself (Xavier normal); the code takes the rank for a dimension.",
            "Regression is trained with the mean instead of the sum of absolute errors.",
            "Time averages and the text LSTM see real steps only; the code includes the padding.",
            "Text that is one vector per sample is read by a DNN like audio and vision.",
            "A batch of one is normalised by running statistics instead of being refused.",
            "The defaults are the settings of thuiar/MMSA for MOSI; the authors searched at random per data set.",
        ),
        findings=(
            "Its high training loss on RAVDESS (0.83 at selection) is that of dropout, not of too little "
            "capacity: without dropout it falls to 0.15 and validation is no better.",
        ),
        published=tuple(
            PublishedResult(track, metric, value, "thuiar/MMSA, results/result-stat.md")
            for track, row in PUBLISHED.items()
            for metric, value in row.items()
        ),
    )

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings of LMF."""

        batch_size: int = setting(64, "samples per step", low=1)
        weight_decay: float = setting(0.005, "L2 penalty inside Adam", low=0.0)
        gradient_clip: float = setting(0.0, "largest L2 norm of the gradient; 0 for no limit", low=0.0)
        factor_lr: float = setting(1e-3, "learning rate of the modality factors", low=0.0)
        rank: int = setting(3, "rank of the fusion tensor", low=1)
        text_hidden: int = setting(128, "units of the text LSTM", low=1)
        text_width: int = setting(64, "width of the text vector", low=1)
        audio_width: int = setting(16, "width of the audio subnetwork", low=1)
        vision_width: int = setting(128, "width of the vision subnetwork", low=1)
        dropout: float = setting(0.3, "dropout probability in the subnetworks", low=0.0, high=1.0)

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        c = self.config
        widths = {"text": c.text_width, "audio": c.audio_width, "vision": c.vision_width}
        self.subnetworks = Subnetworks(spec.modalities, self.dims, widths, c.text_hidden, c.dropout)
        self.fusion = LowRankFusion(self.subnetworks.widths, self.task.outputs, c.rank)

    def forward(self, batch: Batch) -> Output:
        """Return the prediction ``(B, outputs)``."""
        return Output(self.fusion(self.subnetworks(self.features(batch))))

    def parameter_groups(self) -> dict[str, list[dict[str, Any]]]:
        """Return the groups of one optimiser: the modality factors learn at their own rate."""
        factors = list(self.fusion.factors.values())
        rest = self.main_groups(without(self.parameters(), factors))
        return {"main": [{"params": factors, "lr": self.config.factor_lr}, *rest]}
