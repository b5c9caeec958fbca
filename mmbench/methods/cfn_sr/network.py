"""The network of CFN-SR: maps of audio and vision, audio-guided attention between them, and the head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from data_modules.schema import ModalitySpec, PaddedSequence
from mmbench.methods.cfn_sr.cepstrum import Cepstrum, fixed_columns
from mmbench.methods.cfn_sr.config import LOST, POOL, CFNSRConfig
from mmbench.methods.cfn_sr.resnext3d import ResNeXt3D, imagenet_scaled, random_views, spread_frames
from mmbench.methods.output import Output
from mmbench.nn.dropout import Dropout
from mmbench.nn.encoders import FeatureNorm
from mmbench.nn.norms import BatchNorm
from mmbench.nn.precision import at_least_single
from mmbench.nn.spectrogram import Edges
from mmbench.nn.steps import Layout
from mmbench.nn.transformer import TransformerEncoder


class VisionMap(NamedTuple):
    """What is seen, slice by slice.

    Attributes:
        values: ``(B, C, S, P)``, zero beyond the mask.
        mask: ``(B, 1, P)`` bool, ``True`` = real; ``None`` when everything is.
    """

    values: Tensor
    mask: Tensor | None = None

    def mean(self) -> Tensor:
        """Return ``(B, C)``, the mean over the real positions of all slices."""
        if self.mask is None:
            return self.values.mean((2, 3))
        return self.values.sum((2, 3)) / self.mask.sum(-1).clamp(min=1)


class AudioInput(nn.Module):
    """The columns that the audio network reads: MFCC of a part of the clip, or features as they are.

    Args:
        modality: The audio of the data.
        settings: The method's settings.
    """

    def __init__(self, modality: ModalitySpec, settings: CFNSRConfig) -> None:
        super().__init__()
        c = settings
        self.dim, self.columns = modality.dim, max(modality.max_length, LOST + POOL)
        self.cepstrum: Cepstrum | None = None
        if modality.kind == "waveform":
            self.dim, self.columns = c.mfccs, c.columns
            self.samples = round(c.seconds * modality.rate)
            # Clips that were cut to what is heard when they were stored are not cut a second time.
            self.start = min(round(c.start * modality.rate), max(modality.max_length - self.samples, 0))
            window, hop = (max(round(ms * modality.rate / 1000), 1) for ms in (c.window_ms, c.hop_ms))
            self.cepstrum = Cepstrum(round(modality.rate), window, hop, c.mels, c.mfccs, edges=cast(Edges, c.edges))

    def forward(self, audio: PaddedSequence) -> Tensor:
        """Return ``(B, columns, dim)``."""
        if self.cepstrum is not None:
            part = audio.values[:, self.start : self.start + self.samples]
            audio = self.cepstrum(PaddedSequence(part, (audio.lengths - self.start).clamp(0, self.samples)))
        return fixed_columns(audio, self.columns)


def audio_network(inputs: int, dim: int, dropout: float) -> nn.Sequential:
    """Return the network from columns ``(B, inputs, columns)`` to the map ``(B, dim, (columns - 4) // 8)``.

    Args:
        inputs: Coefficients or features per column.
        dim: Channels of the map, even.
        dropout: Dropout after the second normalisation.
    """
    half = dim // 2
    return nn.Sequential(
        nn.Conv1d(inputs, half, 7, padding=2),
        nn.ReLU(),
        BatchNorm(half),
        nn.Conv1d(half, half, 7, padding=2),
        nn.ReLU(),
        nn.MaxPool1d(POOL),
        BatchNorm(half),
        Dropout(dropout),
        nn.Conv1d(half, dim, 5, padding=2),
        nn.ReLU(),
        BatchNorm(dim),
    )


class FeatureMap(nn.Module):
    """Vision features as a map of one slice: normalised, and through one linear layer with a ReLU.

    Args:
        inputs: Features per step.
        dim: Channels of the map.
    """

    def __init__(self, inputs: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.norm, self.linear = FeatureNorm(inputs), nn.Linear(inputs, dim)

    def forward(self, vision: PaddedSequence) -> VisionMap:
        """Return the map ``(B, dim, 1, T)``."""
        layout = Layout.of(vision)
        rows = self.linear(self.norm(layout.rows(vision.values), layout.real)).relu()
        return VisionMap(layout.padded(rows).transpose(1, 2)[:, :, None], vision.mask[:, None])


class AudioGuidedBlock(nn.Module):
    """Audio-guided attention to the positions of each slice, around a residual.

    Args:
        channels: Channels of the vision map.
        settings: The method's settings.
    """

    def __init__(self, channels: int, settings: CFNSRConfig) -> None:
        super().__init__()
        c = settings
        self.residual, self.batch_sum = c.residual, c.legacy_batch_sum
        self.encoder: TransformerEncoder | None = None
        if c.self_attention:
            dropouts = (c.attention_dropout, c.relu_dropout, c.residual_dropout, c.embed_dropout)
            self.encoder = TransformerEncoder(c.dim, c.heads, c.layers, *dropouts)
        self.vision, self.audio = nn.Linear(channels, c.dim), nn.Linear(c.dim, c.dim, bias=False)
        self.score = nn.Linear(c.dim, 1)

    def listen(self, audio: Tensor) -> Tensor:
        """Return the state ``a (B, dim)`` of the audio map ``(B, dim, T_a)``."""
        if self.encoder is None:
            return audio.mean(2)
        steps = audio.transpose(1, 2)
        layout = Layout.of_all(steps)
        return self.encoder(layout.rows(steps), layout, causal=True, last=True)

    def forward(self, vision: VisionMap, audio: Tensor) -> tuple[VisionMap, Tensor]:
        """Return ``V'`` and the weights ``alpha (B, S, P)`` of each clip, which add up to 1 in every slice.

        Args:
            vision: ``V``.
            audio: ``A``, ``(B, dim, T_a)``.
        """
        query = self.audio(self.listen(audio))[:, None, None]
        scores = self.score(torch.tanh(self.vision(vision.values.movedim(1, -1)) + query))[..., 0]
        scores = at_least_single(scores)
        if vision.mask is not None:  # finite, so that a clip without any real step stays finite
            scores = scores.masked_fill(~vision.mask, torch.finfo(scores.dtype).min)
        alpha = scores.softmax(-1)
        weights = alpha.sum(0, keepdim=True) if self.batch_sum else alpha
        weighted = weights[:, None].to(vision.values.dtype) * vision.values
        return vision._replace(values=weighted + vision.values if self.residual else weighted), alpha


@dataclass(kw_only=True)
class CFNSROutput(Output):
    """The prediction and what it is made of.

    Attributes:
        alpha: ``(B, S, P)`` weights of the positions, with attention.
        summary: What the head reads.
        alone: ``(B, outputs)`` by modality, the predictions of the two networks in the preparation; there is nothing
            else then.
    """

    alpha: Tensor | None = None
    summary: Tensor | None = None
    alone: dict[str, Tensor] = field(default_factory=dict, metadata={"named": "prediction"})


class CFNSRNetwork(nn.Module):
    """Both networks, the block between them, and the head.

    Args:
        modalities: Audio and vision of the data.
        outputs: Width of the prediction.
        settings: The method's settings.
    """

    def __init__(self, modalities: Mapping[str, ModalitySpec], outputs: int, settings: CFNSRConfig) -> None:
        super().__init__()
        c, vision = settings, modalities["vision"]
        self.count, self.augment, self.stem_relu = c.frames, c.augment, not c.legacy_stem
        self.audio_input = AudioInput(modalities["audio"], c)
        self.audio = audio_network(self.audio_input.dim, c.dim, c.audio_dropout)
        self.flat = nn.Sequential(nn.Flatten(), Dropout(c.flat_dropout))
        self.vision: ResNeXt3D | FeatureMap = (
            ResNeXt3D(c.depth, c.width, c.cardinality)
            if vision.kind == "frames"
            else FeatureMap(vision.dim, c.feature_width)
        )
        self.widths = {"vision": self.vision.dim, "audio": c.dim * ((self.audio_input.columns - LOST) // POOL)}
        self.block = AudioGuidedBlock(self.vision.dim, c) if c.attention else None
        self.head = nn.Linear(sum(self.widths.values()), outputs)

    def hear(self, audio: PaddedSequence) -> Tensor:
        """Return the audio map ``A``, ``(B, dim, T_a)``."""
        return self.audio(self.audio_input(audio).transpose(1, 2))

    def see(self, vision: PaddedSequence, stem_relu: bool = True) -> VisionMap:
        """Return the vision map ``V``.

        Args:
            vision: Frames or features.
            stem_relu: Frames: whether a ReLU follows the normalisation of the stem.
        """
        if isinstance(self.vision, FeatureMap):
            return self.vision(vision)
        frames = spread_frames(vision, self.count)
        if self.training and self.augment != "none":
            frames = random_views(frames, each=self.augment == "frame")
        clip = imagenet_scaled(frames).to(self.vision.conv.weight.dtype)
        return VisionMap(self.vision(clip, stem_relu).flatten(3))

    def fuse(self, vision: VisionMap, audio: Tensor) -> CFNSROutput:
        """Return the prediction and what it is made of."""
        alpha: Tensor | None = None
        if self.block is not None:
            vision, alpha = self.block(vision, audio)
        summary = torch.cat([vision.mean(), self.flat(audio)], dim=-1)
        return CFNSROutput(self.head(summary), alpha=alpha, summary=summary)

    def forward(self, inputs: Mapping[str, PaddedSequence]) -> CFNSROutput:
        """Return prediction and representations of a batch, as :meth:`fuse`."""
        return self.fuse(self.see(inputs["vision"], self.stem_relu), self.hear(inputs["audio"]))
