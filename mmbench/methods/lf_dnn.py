"""LF-DNN: one vector per modality from its own network, concatenated, and a DNN on top.

Paper: Williams, Kleinegesse, Comanescu, Radu, "Recognizing Emotions in Video Using Multimodal DNN Feature Fusion",
Challenge-HML at ACL 2018. The network that tables call LF-DNN is the version of the MMSA platform (arXiv 2203.12441).
Code: thuiar/MMSA (MIT), ``models/singleTask/LF_DNN.py``; read, rewritten, not copied.
Deviations: see the card.

Shapes: text ``(B, T, D)`` -> LSTM -> ``(B, text_width)``; audio and vision ``(B, T, D)`` -> time average -> three ReLU
layers -> ``(B, <modality>_width)``; concatenated -> two ReLU layers -> ``(B, outputs)``. Loss: the task loss alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, PublishedResult
from mmbench.methods.config import MethodConfig, setting
from mmbench.nn.encoders import Subnetworks
from mmbench.nn.fusion import post_fusion
from mmbench.tasks import Task

PUBLISHED = {
    "mosi/unaligned_50/standard": {
        "acc2_has0": 0.7752,
        "f1_has0": 0.7758,
        "acc2_non0": 0.7863,
        "f1_non0": 0.7863,
        "acc5": 0.3805,
        "acc7": 0.3452,
        "mae": 0.9548,
        "corr": 0.6584,
    },
    "mosei/unaligned_50/standard": {
        "acc2_has0": 0.8060,
        "f1_has0": 0.8035,
        "acc2_non0": 0.8274,
        "f1_non0": 0.8295,
        "acc5": 0.5197,
        "acc7": 0.5083,
        "mae": 0.5802,
        "corr": 0.7087,
    },
}
"""Regression rows of the MMSA results table (results/result-stat.md, data setting unaligned), as fractions."""


class LFDNN(FusionMethod):
    """Concatenation of subnetwork vectors.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.lf_dnn import LFDNN
        >>> spec = make_spec()
        >>> model = LFDNN(spec)
        >>> vectors = model.subnetworks(make_batch(spec).inputs)
        >>> {name: tuple(vector.shape) for name, vector in vectors.items()}  # the head reads them side by side
        {'text': (4, 256), 'audio': (4, 16), 'vision': (4, 128)}
    """

    card = MethodCard(
        title="Recognizing Emotions in Video Using Multimodal DNN Feature Fusion (LF-DNN)",
        authors="Williams, Kleinegesse, Comanescu, Radu",
        year=2018,
        venue="Challenge-HML at ACL",
        code="thuiar/MMSA@177bc0462a61b355c554812dedd432a21f374130",
        fidelity="official-code",
        deviations=(
            "Time averages run over the real steps; the code averages over the padded length.",
            "The text LSTM stops at the last real step; the code lets it read the padding.",
            "Dropout acts on the last LSTM state; the code switches it off there, as its LSTM has one layer.",
            "Text that is one vector per sample is read by a DNN like audio and vision.",
            "A batch of one is normalised by running statistics instead of being refused.",
            "The defaults are the code's settings for MOSI.",
        ),
        findings=(
            "On the generated set it stays for 6 to 14 epochs at 0.70, what sums of unimodal predictions reach, "
            "before it finds products and falls to 0.28; a patience of 8 epochs ends some seeds there (2 of 5).",
        ),
        published=tuple(
            PublishedResult(track, metric, value, "thuiar/MMSA, results/result-stat.md")
            for track, row in PUBLISHED.items()
            for metric, value in row.items()
        ),
    )

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings of LF-DNN."""

        batch_size: int = setting(128, "samples per step", low=1)
        weight_decay: float = setting(0.01, "L2 penalty inside Adam", low=0.0)
        gradient_clip: float = setting(0.0, "largest L2 norm of the gradient; 0 for no limit", low=0.0)
        text_hidden: int = setting(128, "units of the text LSTM", low=1)
        text_width: int = setting(256, "width of the text vector", low=1)
        audio_width: int = setting(16, "width of the audio subnetwork", low=1)
        vision_width: int = setting(128, "width of the vision subnetwork", low=1)
        post_width: int = setting(128, "width of the layers after the fusion", low=1)
        dropout: float = setting(0.2, "dropout probability in the subnetworks", low=0.0, high=1.0)
        post_dropout: float = setting(0.2, "dropout probability after the fusion", low=0.0, high=1.0)

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        c = self.config
        widths = {"text": c.text_width, "audio": c.audio_width, "vision": c.vision_width}
        self.subnetworks = Subnetworks(spec.modalities, self.dims, widths, c.text_hidden, c.dropout)
        width = sum(self.subnetworks.widths.values())
        self.head = post_fusion(width, c.post_width, self.task.outputs, c.post_dropout)

    def forward(self, batch: Batch) -> Output:
        """Return the prediction ``(B, outputs)``."""
        vectors = self.subnetworks(self.features(batch))
        return Output(self.head(torch.cat(list(vectors.values()), -1)))
