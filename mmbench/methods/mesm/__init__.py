"""FE2E and MESM: faces, sound and words from raw media to late fusion, and convolutions only where the text looks.

Paper: Dai, Cahyawijaya, Liu, Fung, "Multimodal End-to-End Sparse Model for Emotion Recognition", NAACL 2021,
arXiv 2103.09666. Official code: wenliangdai/Multimodal-End2end-Sparse; read and rewritten. Deviations: see the card.

FE2E (``sparse: false``). Every frame and every piece of 32 steps of the mel spectrogram goes through a convolutional
network and two linear layers to one vector. The vectors of a sample go through a Transformer encoder without positions
beside a learned vector, whose output stands for the modality. Text is the first state of its encoder, ``t``. A linear
layer per modality makes logits; the prediction is their sum with one learned weight per modality.

MESM (``sparse: true``). After the dense low level, in each of three blocks, the text attends to the places of a map:
``s_j = softmax_j(w^T tanh(W_m M_j + b_m + W_q t) + b)``; of them only the fewest with a mass ``p`` are kept, and the
convolutions run on these.

Without frames or a waveform nothing is left of both but the sequence encoders and the fusion, which is the LF-TRANS
that the paper compares with.

Shapes: frames ``(B, T, 3, H, W)`` to ``(N, 3, 48, 48)`` and waveforms ``(B, S)`` to ``(N, 1, 128, 32)``, N the frames
or pieces of all samples; vectors ``(N, dim)``, states ``(B, dim)``, logits ``(B, outputs)``.

Loss: the task loss; for multi-label targets ``task = mean(BCE(logits, y))`` with the positives of class c weighted by
``negatives_c / positives_c`` of the training split.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod
from mmbench.methods.card import MethodCard, Needs, PublishedResult
from mmbench.methods.config import ConfigError, MethodConfig
from mmbench.methods.groups import without
from mmbench.methods.mesm.config import MESMConfig
from mmbench.methods.mesm.network import MESMNetwork, MESMOutput
from mmbench.tasks import Task

_TRACK = "iemocap_mesm/mesm-waveform-faces48/mesm"


class MESM(FusionMethod):
    """The multimodal end-to-end model, dense (FE2E) or sparse (MESM).

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.mesm import MESM
        >>> MESM.variants(make_spec("multilabel", kinds={"audio": "waveform", "vision": "frames"}))
        {'fe2e': {'sparse': False}, 'mesm': {'sparse': True}}
        >>> spec = make_spec("multilabel")  # with features there are no places to pick
        >>> tuple(MESM(spec)(make_batch(spec)).logits["vision"].shape)
        (4, 3)
    """

    card = MethodCard(
        title="Multimodal End-to-End Sparse Model for Emotion Recognition (FE2E and MESM)",
        authors="Dai, Cahyawijaya, Liu, Fung",
        year=2021,
        venue="NAACL 2021",
        arxiv="2103.09666",
        code="wenliangdai/Multimodal-End2end-Sparse@a1bb2e818db76cb887052d82916a6dcf012170ed",
        fidelity="official-code",
        deviations=(
            "Data without frames and waveforms are read by the sequence encoders and the late fusion alone, the "
            "LF-TRANS of the paper's tables; its features enter through batch normalisation and a linear layer of the "
            "common width, and its heads have one layer instead of two.",
            "Selected features are multiplied by their attention, as in the paper; the official code only masks, so "
            "that its attention is never trained (attn_gate: none).",
            "The dense convolutions start with He's weights, as the sparse ones of the official code do and its dense "
            "ones, which have PyTorch's, do not.",
            "Inferred: the factor is the attention times the number of kept places of the frame, so that an average "
            "place keeps its size.",
            "The vectors kept in the first sparse block stay on their places; the official code moves them to others, "
            "even of other samples (legacy_site_order).",
            "The sparse arithmetic is dense and masked: the numbers are those of the sparse library, the time is that "
            "of the dense model, and the saving is counted instead.",
            "Faces are looked for when a store is made, by OpenCV's cascade instead of an MTCNN, never in the model; "
            "frames of another size are reduced to the scaled square in their middle, of which the official fallback "
            "cuts a small part off the middle (framing: legacy_crop).",
            "A sample without frames keeps its other modalities; the official loader drops it.",
            "Both forms train in the batches of FE2E, eight samples; the official command of MESM has two.",
            "Targets that are not multi-label have the plain task loss; the official models are multi-label.",
            "Text given as vectors beside media is read at its first step, or as the mean (text_pooling), and its head "
            "learns at the rate of all others.",
        ),
        published=(
            PublishedResult(_TRACK, "acc", 0.845, "FE2E, paper, as quoted in issue 15 of the official repository"),
            PublishedResult(_TRACK, "acc", 0.844, "MESM, paper, as quoted in issue 18 of the official repository"),
        ),
        needs=Needs(
            kinds={
                "text": ("features", "tokens"),
                "audio": ("features", "waveform"),
                "vision": ("features", "frames"),
            }
        ),
    )

    Config = MESMConfig

    positive_weight: Tensor

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        c = self.config
        if c.sparse and not self._can_be_sparse(spec):
            kinds = ", ".join(f"{name} ({modality.kind})" for name, modality in spec.modalities.items())
            raise ConfigError(
                f"{c.where('sparse')} is on, and text can only pick places of frames or spectrograms; {spec.track} has "
                f"{kinds}. Set it to false."
            )
        if c.sparse and c.legacy_site_order:
            warnings.warn(
                "legacy_site_order: features move to other places, frames and samples, so that a prediction depends on "
                "the other samples of its batch. It reproduces a bug of the official code and is no model to report.",
                stacklevel=2,
            )
        self.network = MESMNetwork(spec.modalities, self.dims, self.task.outputs, c)
        if self.task.target.kind == "multilabel":
            self.register_buffer("positive_weight", torch.ones(self.task.outputs))

    @staticmethod
    def _can_be_sparse(spec: DataSpec) -> bool:
        return "text" in spec.modalities and bool(spec.media)

    @classmethod
    def variants(cls, spec: DataSpec) -> dict[str, dict[str, Any]]:
        """Return both models where they differ."""
        if not cls._can_be_sparse(spec):
            return {"": {}}
        return {"fe2e": {"sparse": False}, "mesm": {"sparse": True}}

    def parameter_groups(self) -> dict[str, list[dict[str, Any]]]:
        """Return the parameters as groups: the head of a text encoder learns as slowly as the encoder."""
        head = list(self.network.heads["text"].parameters()) if self.text_encoder and self.config.text_lr else []
        groups = self.main_groups(without(self.parameters(), head))
        return {"main": [*groups, {"params": head, "lr": self.config.text_lr}] if head else groups}

    def on_training_labels(self, labels: Batch) -> None:
        """Count how rare each label is."""
        if self.task.target.kind == "multilabel":
            self.positive_weight.copy_(rarity(self.task.flatten(labels.target, labels)[1]))

    def forward(self, batch: Batch) -> MESMOutput:
        """Return the prediction ``(B, outputs)`` and what it is made of."""
        return self.network(self.features(batch))

    def objective(self, output: MESMOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the task loss."""
        if self.task.target.kind != "multilabel" or not self.config.pos_weight:
            return super().objective(output, batch)
        target = batch.target.to(output.prediction.dtype)
        loss = F.binary_cross_entropy_with_logits(output.prediction, target, pos_weight=self.positive_weight)
        return {"task": loss}

    def observe(self, output: MESMOutput, batch: Batch) -> None:
        """Watch which share of the dense blocks' cost is kept."""
        for name, share in output.flops.items():
            self.watch(f"flops_{name}", share)


def rarity(labels: Tensor) -> Tensor:
    """Return ``(C,)`` negatives per positive of labels ``(N, C)``; 1 for a label that all or no samples have."""
    positive = (labels > 0).sum(0)
    negative = len(labels) - positive
    return torch.where((positive > 0) & (negative > 0), negative / positive.clamp(min=1), 1.0)
