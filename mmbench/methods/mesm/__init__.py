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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.base import FusionDataModule
from data_modules.schema import Batch, DataSpec, ModalitySpec, Sequence
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, Needs, PublishedResult
from mmbench.methods.config import ConfigError, MethodConfig, setting
from mmbench.methods.mesm.sparse import SparseTower
from mmbench.methods.mesm.vgg import POOLS, WINDOW, Faces, Pieces, crop_corner, dense_tower
from mmbench.nn.encoders import FeatureNorm
from mmbench.nn.pooling import masked_mean
from mmbench.nn.steps import Layout, encode
from mmbench.tasks import Task

_TRACK = "iemocap_mesm/mesm-waveform-faces48/mesm"


class PictureEncoder(nn.Module):
    """A vector per frame or spectrogram piece.

    Args:
        source: Makes the pictures.
        text: Width of the text vector.
        settings: Sizes and switches.
    """

    def __init__(self, source: Faces | Pieces, text: int, settings: MESM.Config) -> None:
        super().__init__()
        c = settings
        self.source = source
        self.tower: nn.Module = (
            SparseTower(source.channels, c.width, text, c.nucleus, c.attn_gate, c.legacy_site_order, c.sparse_momentum)
            if c.sparse
            else dense_tower(source.channels, c.width)
        )
        height, width = (side >> POOLS for side in source.shape)
        self.project = nn.Sequential(
            nn.Flatten(), nn.Linear(8 * c.width * height * width, c.hidden), nn.ReLU(), nn.Linear(c.hidden, c.dim)
        )

    def forward(self, sequence: Sequence, text: Tensor | None) -> tuple[Sequence, Tensor | None]:
        """Return vectors ``(B, T, dim)`` and, if sparse, the share of the dense blocks' cost per sample, ``(B,)``.

        Args:
            sequence: Frames or waveform.
            text: ``(B, D)``, needed by the sparse tower only.
        """
        pictures = self.source(sequence)
        # Of a blank picture the running statistics must learn nothing; its gradients are zero anyway.
        self.tower.train(self.training and not pictures.blank)
        if not isinstance(self.tower, SparseTower):
            return pictures.sequence(self.project(self.tower(pictures.values))), None
        maps, flops, dense = self.tower(pictures.values, text, pictures.rows)
        spent = flops.new_zeros(len(pictures.lengths)).index_add(0, pictures.rows, flops)
        # A sample without pictures spends nothing and saves nothing.
        share = torch.where(pictures.lengths > 0, spent / (dense * pictures.lengths.clamp(min=1)), 1.0)
        return pictures.sequence(self.project(maps)), share


class FeatureEncoder(nn.Module):
    """A vector per step of features: normalised, since they mix units, and brought to the width of the states.

    Args:
        features: Features per step.
        dim: Width of the vectors.
    """

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.norm = FeatureNorm(features)
        self.project = nn.Linear(features, dim)

    def forward(self, sequence: Sequence, text: Tensor | None) -> tuple[Sequence, Tensor | None]:
        """Return vectors ``(B, T, dim)`` of features ``(B, T, D)``; the text has no say."""
        layout = Layout.of(sequence)
        vectors = self.project(self.norm(layout.rows(sequence.values), layout.real))
        return Sequence(layout.padded(vectors), sequence.lengths), None


class StateEncoder(nn.Module):
    """A post-norm Transformer encoder without positions beside a learned vector, whose output is the state.

    The vector is officially the first step. Without positions any place is the same, and the last one is where the
    last layer need compute nothing else.

    Args:
        settings: Width, layers, heads, feed-forward width and dropout.
    """

    def __init__(self, settings: MESM.Config) -> None:
        super().__init__()
        c = settings
        self.start = nn.Parameter(torch.randn(1, c.dim))
        layer = nn.TransformerEncoderLayer(c.dim, c.heads, c.feed_forward, c.dropout, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, c.layers, enable_nested_tensor=False)

    def forward(self, sequence: Sequence) -> Tensor:
        """Return ``(B, dim)`` from ``(B, T, dim)``."""
        steps = Sequence(F.pad(sequence.values, (0, 0, 0, 1)), sequence.lengths + 1)
        layout = Layout.of(steps)
        ends = layout.step + 1 == layout.lengths[layout.sample]
        rows = torch.where(ends[:, None], self.start.to(steps.values.dtype), layout.rows(steps.values))
        return encode(self.layers, rows, layout, last=True)


class MESMNetwork(nn.Module):
    """Encoders, heads and the weighted sum of the logits.

    Args:
        modalities: The modalities of the data.
        dims: Features per step by modality (of text: after its encoder).
        outputs: Width of the prediction.
        settings: Sizes and switches.
    """

    def __init__(
        self, modalities: Mapping[str, ModalitySpec], dims: Mapping[str, int], outputs: int, settings: MESM.Config
    ) -> None:
        super().__init__()
        c = settings
        self.pooling = c.text_pooling
        kinds = {name: spec.kind for name, spec in modalities.items()}
        # Vectors of words alone are a sequence like any other; beside media they are taken for states of an encoder.
        media = {"tokens", "frames", "waveform"} & set(kinds.values())
        self.reads_text = "text" in kinds and bool(media)
        self.encoders, self.states, self.heads = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for name, spec in modalities.items():
            if name == "text" and self.reads_text:
                self.heads[name] = nn.Linear(dims[name], outputs)
                continue
            self.encoders[name] = (
                PictureEncoder(_source(spec, c), dims.get("text", 0), c)
                if spec.kind in ("frames", "waveform")
                else FeatureEncoder(dims[name], c.dim)
            )
            self.states[name] = StateEncoder(c)
            self.heads[name] = nn.Linear(c.dim, outputs)
        self.fusion = nn.Linear(len(modalities), 1, bias=False) if len(modalities) > 1 else None

    def forward(self, inputs: Mapping[str, Sequence]) -> Output:
        """Return prediction and what it is made of.

        Returns:
            ``named`` holds by modality ``logits_... (B, outputs)`` and but for text ``state_... (B, dim)``; of sparse
            towers also ``flops_... (B,)``, which share of the dense blocks' cost the kept sites have.
        """
        named: dict[str, Tensor] = {}
        text = self._text(inputs["text"]) if self.reads_text else None
        for name, head in self.heads.items():
            if name not in self.encoders:
                named[f"logits_{name}"] = head(text)
                continue
            vectors, share = self.encoders[name](inputs[name], text)
            state = self.states[name](vectors)
            named |= {f"state_{name}": state, f"logits_{name}": head(state)}
            if share is not None:
                named[f"flops_{name}"] = share
        logits = torch.stack([named[f"logits_{name}"] for name in self.heads], dim=-1)
        return Output(logits.squeeze(-1) if self.fusion is None else self.fusion(logits).squeeze(-1), named)

    def _text(self, text: Sequence) -> Tensor:
        """Return the text vector ``t``, ``(B, D)``."""
        if self.pooling == "mean":
            return masked_mean(text.values, text.mask)
        first = text.values[:, :1].masked_fill(~text.mask[:, :1, None], 0.0)
        return first.sum(1)  # of one step, or of none where no sample has a text


def _source(spec: ModalitySpec, c: MESM.Config) -> Faces | Pieces:
    """Return what makes pictures of a modality.

    Raises:
        ConfigError: When the data leave nothing to see.
    """
    if spec.kind == "frames":
        height, width = spec.size
        top, left = crop_corner(height, c.image_size)
        cut = c.framing == "legacy_crop" and (height, width) != (c.image_size, c.image_size)
        if cut and (left < 0 or left + c.image_size > width):
            raise ConfigError(
                f"{c.where('framing')} is 'legacy_crop', which cuts {c.image_size} rows from {top} and columns from "
                f"{left} of frames of {height} x {width}: set it to 'resize'."
            )
        return Faces(c.image_size, max(1, round(c.frame_interval * spec.rate)), c.framing)
    if int(spec.rate * WINDOW) < 2:
        raise ConfigError(
            f"The sound has {spec.rate:g} samples per second (0 where clips differ); spectrograms need one rate, of "
            f"{2 / WINDOW:g} or more. Import the clips again, resampled."
        )
    return Pieces(int(spec.rate), c.bands, c.piece)


class MESM(FusionMethod):
    """The multimodal end-to-end model, dense (FE2E) or sparse (MESM)."""

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

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings of FE2E and MESM; the defaults are those of the official commands."""

        batch_size: int = setting(8, "samples per step", low=1)
        lr: float = setting(5e-5, "learning rate", low=0.0)
        gradient_clip: float = setting(0.0, "largest L2 norm of the gradient; 0 for no limit", low=0.0)
        text_lr: float = setting(
            5e-6, "learning rate of the text encoder and its head; 0 freezes the encoder, not the head", low=0.0
        )
        sparse: bool = setting(False, "whether convolutions see only what the text looks at: MESM instead of FE2E")
        nucleus: float = setting(0.8, "attention p that the kept places have together", low=0.0, high=1.0)
        attn_gate: str = setting(
            "prob",
            "what attention does to kept features: nothing, multiply, or nothing with the gradient of multiply",
            choices=("none", "prob", "straight_through"),
        )
        sparse_momentum: float = setting(
            0.01, "weight of a batch in the running statistics of sparse blocks; more for few steps", low=0.0, high=1.0
        )
        legacy_site_order: bool = setting(
            False, "whether kept features of the first sparse block land on wrong places, as in the official code"
        )
        dim: int = setting(64, "width of the vectors of frames, pieces and steps", low=1)
        layers: int = setting(4, "layers of the sequence encoders", low=1)
        heads: int = setting(4, "attention heads, a divisor of dim", low=1)
        feed_forward: int = setting(2048, "hidden width inside the sequence encoders", low=1)
        dropout: float = setting(0.1, "dropout in the sequence encoders", low=0.0, high=1.0)
        width: int = setting(64, "channels after the first convolution; the last has eight times as many", low=1)
        hidden: int = setting(1024, "units between a feature map and its vector", low=1)
        image_size: int = setting(48, "height and width of the faces, in pixels", low=16)
        framing: str = setting(
            "resize", "what becomes of larger frames: the middle scaled or cut out", choices=("resize", "legacy_crop")
        )
        frame_interval: float = setting(
            0.5, "seconds from one frame that is seen to the next; 0 for all, as where clips differ in rate", low=0.0
        )
        bands: int = setting(128, "mel bands", low=16)
        piece: int = setting(32, "spectrogram frames per piece, of 12.5 ms each", low=16)
        text_pooling: str = setting("first", "the text vector: first step or mean of all", choices=("first", "mean"))
        pos_weight: bool = setting(True, "whether rare labels of multi-label targets weigh more")

        def __post_init__(self) -> None:
            """Check that the heads divide the width."""
            super().__post_init__()
            if self.dim % self.heads:
                raise ConfigError(f"{self.where('heads')} is {self.heads}; it must divide dim, {self.dim}.")

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
        slow = {id(parameter) for parameter in head}
        groups = self.main_groups(parameter for parameter in self.parameters() if id(parameter) not in slow)
        return {"main": [*groups, {"params": head, "lr": self.config.text_lr}] if head else groups}

    def on_fit_start(self) -> None:
        """Count how rare the labels of the training split are."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if self.task.target.kind == "multilabel" and isinstance(datamodule, FusionDataModule):
            labels = torch.from_numpy(datamodule.store.targets[datamodule.rows["train"]])
            self.positive_weight.copy_(rarity(labels))

    def forward(self, batch: Batch) -> Output:
        """Return the prediction ``(B, outputs)``; see :meth:`MESMNetwork.forward` for what else."""
        output: Output = self.network(self.features(batch))
        return output

    def objective(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Return the task loss, and in training log which share of the dense blocks' cost is kept."""
        if self.training:
            for name in (name for name in output.named if name.startswith("flops_")):
                self._sums[name] = self._sums.get(name, 0.0) + output.named[name].detach().sum()
                self._seen[name] = self._seen.get(name, 0) + batch.size
        if self.task.target.kind != "multilabel" or not self.config.pos_weight:
            return super().objective(output, batch)
        target = batch.target.to(output.prediction.dtype)
        loss = F.binary_cross_entropy_with_logits(output.prediction, target, pos_weight=self.positive_weight)
        return {"task": loss}


def rarity(labels: Tensor) -> Tensor:
    """Return ``(C,)`` negatives per positive of labels ``(N, C)``; 1 for a label that all or no samples have."""
    positive = (labels > 0).sum(0)
    negative = len(labels) - positive
    return torch.where((positive > 0) & (negative > 0), negative / positive.clamp(min=1), 1.0)
