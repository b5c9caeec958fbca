"""CFN-SR: what is heard says where to look: the state of the audio sequence weights the positions of the video map.

Paper: Fu, Liu, Wang, Qi, Fu, Zhou, Li, "A cross-modal fusion network based on self-attention and residual structure
for multimodal emotion recognition", 2021, arXiv 2111.02172. Official code: skeletonNN/CFN-SR (MIT), read at the commit
of the card; rewritten, not copied. Deviations: see ``CFNSR.card``.

Steps. A 1D network turns the MFCC of a clip into a map ``A``, a 3D ResNeXt turns its frames into a map ``V`` of slices
of space. Cross-modal block: a causal Transformer encoder reads ``A``, its last step is ``a``, and at every position p
of a slice s of V

    e_sp = w_o tanh(W_v V_sp + b_v + W_a a) + b_o,    alpha_s = softmax over p of e_s,    V' = alpha V + V.

The mean of ``V'`` and the whole of ``A``, which the block leaves as it is, go through one linear layer.

Features instead of frames give a V of one slice whose positions are the steps: the softmax is over time. Features
instead of a waveform take the place of the MFCC.

Shapes: audio waveform ``(B, N)`` or features ``(B, T, D)``, vision frames ``(B, T, 3, H, W)`` or features; MFCC
``(B, columns, mfccs)``; A ``(B, dim, (columns - 4) // 8)``; V ``(B, C, S, P)``. Loss: the task loss. Before, for
``pretrain_epochs``, the task losses ``audio`` and ``vision`` of two networks with heads of their own, which share no
parameter; then the heads are not used any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from data_modules.schema import Batch, DataSpec, ModalitySpec, Sequence
from mmbench.methods.base import FusionMethod, Output, Stage
from mmbench.methods.card import MethodCard, Needs, PublishedResult
from mmbench.methods.cfn_sr.cepstrum import Cepstrum, fixed_columns
from mmbench.methods.cfn_sr.resnext3d import DEPTHS, BatchNorm, ResNeXt3D, imagenet_scaled, random_views, spread_frames
from mmbench.methods.config import ConfigError, MethodConfig, setting
from mmbench.nn.dropout import Dropout
from mmbench.nn.encoders import FeatureNorm
from mmbench.nn.spectrogram import Edges
from mmbench.nn.steps import Layout
from mmbench.nn.transformer import TransformerEncoder
from mmbench.tasks import Task

POOL = 8
"""Columns that become one step of the audio map."""
LOST = 4
"""Columns that the convolutions over audio lose at the ends, before pooling."""


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

    def __init__(self, modality: ModalitySpec, settings: CFNSR.Config) -> None:
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

    def forward(self, audio: Sequence) -> Tensor:
        """Return ``(B, columns, dim)``."""
        if self.cepstrum is not None:
            part = audio.values[:, self.start : self.start + self.samples]
            audio = self.cepstrum(Sequence(part, (audio.lengths - self.start).clamp(0, self.samples)))
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

    def forward(self, vision: Sequence) -> VisionMap:
        """Return the map ``(B, dim, 1, T)``."""
        layout = Layout.of(vision)
        rows = self.linear(self.norm(layout.rows(vision.values), layout.real)).relu()
        return VisionMap(layout.padded(rows).transpose(1, 2)[:, :, None], vision.mask[:, None])


class CrossModalBlock(nn.Module):
    """Audio-guided attention to the positions of each slice, around a residual.

    Args:
        channels: Channels of the vision map.
        settings: The method's settings.
    """

    def __init__(self, channels: int, settings: CFNSR.Config) -> None:
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
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if vision.mask is not None:  # finite, so that a clip without any real step stays finite
            scores = scores.masked_fill(~vision.mask, torch.finfo(scores.dtype).min)
        alpha = scores.softmax(-1)
        weights = alpha.sum(0, keepdim=True) if self.batch_sum else alpha
        weighted = weights[:, None].to(vision.values.dtype) * vision.values
        return vision._replace(values=weighted + vision.values if self.residual else weighted), alpha


class CFNSRNetwork(nn.Module):
    """Both networks, the block between them, and the head.

    Args:
        modalities: Audio and vision of the data.
        outputs: Width of the prediction.
        settings: The method's settings.
    """

    def __init__(self, modalities: Mapping[str, ModalitySpec], outputs: int, settings: CFNSR.Config) -> None:
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
        self.block = CrossModalBlock(self.vision.dim, c) if c.attention else None
        self.head = nn.Linear(sum(self.widths.values()), outputs)

    def hear(self, audio: Sequence) -> Tensor:
        """Return the audio map ``A``, ``(B, dim, T_a)``."""
        mapped: Tensor = self.audio(self.audio_input(audio).transpose(1, 2))
        return mapped

    def see(self, vision: Sequence, stem_relu: bool = True) -> VisionMap:
        """Return the vision map ``V``.

        Args:
            vision: Frames or features.
            stem_relu: Frames: whether a ReLU follows the normalisation of the stem.
        """
        if isinstance(self.vision, FeatureMap):
            features: VisionMap = self.vision(vision)
            return features
        frames = spread_frames(vision, self.count)
        if self.training and self.augment != "none":
            frames = random_views(frames, each=self.augment == "frame")
        clip = imagenet_scaled(frames).to(self.vision.conv.weight.dtype)
        return VisionMap(self.vision(clip, stem_relu).flatten(3))

    def fuse(self, vision: VisionMap, audio: Tensor) -> Output:
        """Return the prediction, and named ``alpha (B, S, P)`` and ``summary``, what the head reads."""
        named = {}
        if self.block is not None:
            vision, named["alpha"] = self.block(vision, audio)
        named["summary"] = torch.cat([vision.mean(), self.flat(audio)], dim=-1)
        return Output(self.head(named["summary"]), named)

    def forward(self, inputs: Mapping[str, Sequence]) -> Output:
        """Return prediction and representations of a batch, as :meth:`fuse`."""
        return self.fuse(self.see(inputs["vision"], self.stem_relu), self.hear(inputs["audio"]))


class CFNSR(FusionMethod):
    """Audio-guided attention to a video map. ``self.spec`` names audio and vision alone: text is not looked at.

    With ``pretrain_epochs`` no stage reaches all parameters: under DDP the strategy is
    ``ddp_find_unused_parameters_true``.
    """

    card = MethodCard(
        title="CFN-SR: Cross-modal Fusion Network based on Self-attention and Residual structure",
        authors="Ziwang Fu, Feng Liu, Hanyang Wang, Jiayin Qi, Xiangling Fu, Aimin Zhou, Zhibin Li",
        year=2021,
        venue="arXiv",
        arxiv="2111.02172",
        code="skeletonNN/CFN-SR@24434947294686da57d3325cce0fd9c0ab137793",
        fidelity="official-code",
        deviations=(
            "Every clip is weighted by its own map; the official code adds up the maps of the batch, so that a "
            "prediction depends on what else is in it (legacy_batch_sum).",
            "A ReLU follows the normalisation of the stem, as in the unimodal network whose weights the official fused "
            "network loads and unlike in that network itself (legacy_stem).",
            "Random crops and flips are the same for all frames of a clip; the official ones differ from frame to "
            "frame (augment=frame). Channels are in the order of the ImageNet statistics, where the official code "
            "reads blue first.",
            "Every clip is resampled to 30 frames spread evenly, and its MFCC padded with zeros or cropped to 212 "
            "columns, where the official network breaks on a clip of less than 2.95 s.",
            "Window and hop are times, 2048 and 512 samples at 44.1 kHz, so that other rates have the same columns, "
            "give or take one by rounding.",
            "Inferred: the two networks are first trained alone by Adam for pretrain_epochs epochs, from random "
            "weights, and their last state goes on; the official code loads the best ones of another project, whose "
            "training is not published.",
            "Inferred: vision features instead of frames have no published form. A linear layer with a ReLU makes the "
            "map, the softmax runs over the steps instead of the positions of a frame, and a row made so is the "
            "feature form, not the published network. With one step per clip all weight is on it and the block only "
            "doubles the map.",
            "Audio features take the place of the 13 MFCC, with as many columns as the longest clip of the data has.",
            "Text is not looked at.",
            "Ablations: attention=false is the official ablation network, residual=false follows the official one, and "
            "self_attention=false, inferred, guides by the mean of the audio map.",
        ),
        published=tuple(
            PublishedResult("ravdess/cfnsr/cfnsr5", "wa", value, source)
            for value, source in (
                (0.7576, "README of the official repository; the epoch is the best one on the test actors"),
                (0.7567, "mean of the five folds in the log of the official repository, best epoch on the test actors"),
                (0.6650, "mean of the five folds in the log of the official repository, last epoch"),
            )
        ),
        needs=Needs(
            modalities=("audio", "vision"),
            kinds={"audio": ("features", "waveform"), "vision": ("features", "frames")},
        ),
    )

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings of CFN-SR; the defaults are those of the official code for RAVDESS, of 26,301,417 parameters."""

        batch_size: int = setting(16, "samples per step", low=1)
        gradient_clip: float = setting(0.0, "largest L2 norm of the gradient; 0 for no limit", low=0.0)
        pretrain_epochs: int = setting(10, "epochs in which each network is trained alone; 0 for none", low=0)
        pretrain_lr: float = setting(1e-3, "learning rate of the networks trained alone", low=0.0)
        dim: int = setting(64, "channels of the audio map and width k of the attention, even", low=2)
        heads: int = setting(8, "heads of the audio encoder, a divisor of dim", low=1)
        layers: int = setting(5, "layers of the audio encoder", low=1)
        attention_dropout: float = setting(0.1, "audio encoder: dropout on attention", low=0.0, high=1.0)
        relu_dropout: float = setting(0.1, "audio encoder: inside the feed-forward networks", low=0.0, high=1.0)
        residual_dropout: float = setting(0.1, "audio encoder: on what layers add to the stream", low=0.0, high=1.0)
        embed_dropout: float = setting(0.3, "audio encoder: dropout on its input", low=0.0, high=1.0)
        audio_dropout: float = setting(0.2, "dropout inside the audio network", low=0.0, high=1.0)
        flat_dropout: float = setting(0.4, "dropout on the audio map before the head", low=0.0, high=1.0)
        depth: int = setting(50, "layers of the 3D ResNeXt", choices=tuple(DEPTHS))
        width: int = setting(128, "channels of its first bottlenecks, even; it gives 16 times as many", low=2)
        cardinality: int = setting(32, "groups of its convolutions, a divisor of width", low=1)
        frames: int = setting(30, "frames that a clip is resampled to, spread evenly", low=1)
        augment: str = setting("clip", "who shares a random crop and flip", choices=("clip", "frame", "none"))
        start: float = setting(
            0.0, "waveform: seconds left out at the start, if clips have more than is heard; 0.5 officially", low=0.0
        )
        seconds: float = setting(2.45, "waveform: seconds that are heard after that", low=0.01)
        columns: int = setting(212, "waveform: MFCC columns, padded or cropped", low=LOST + POOL)
        window_ms: float = setting(46.44, "waveform: length of the Hann window in milliseconds", low=0.1)
        hop_ms: float = setting(11.61, "waveform: milliseconds from one column to the next", low=0.1)
        mels: int = setting(128, "waveform: mel bands", low=1)
        mfccs: int = setting(13, "waveform: cepstral coefficients, at most mels", low=1)
        edges: str = setting("reflect", "waveform: what lies beyond its ends", choices=("reflect", "zeros"))
        feature_width: int = setting(64, "vision features: channels of the map", low=1)
        attention: bool = setting(True, "whether there is a cross-modal block")
        residual: bool = setting(True, "whether the block adds the map to the weighted one", needs="attention")
        self_attention: bool = setting(
            True, "whether an encoder reads the audio map before it guides", needs="attention"
        )
        legacy_batch_sum: bool = setting(
            False, "whether the weights of all clips of a batch are added up", needs="attention"
        )
        legacy_stem: bool = setting(False, "whether the stem of the fused network has no ReLU")

        def __post_init__(self) -> None:
            """Check that sizes divide each other."""
            super().__post_init__()
            for part, whole in (("heads", "dim"), ("cardinality", "width")):
                if getattr(self, whole) % getattr(self, part):
                    value = getattr(self, part)
                    raise ConfigError(f"{self.where(part)} is {value}; it must divide {whole}, {getattr(self, whole)}.")
            for name in ("dim", "width"):
                if getattr(self, name) % 2:
                    raise ConfigError(f"{self.where(name)} is {getattr(self, name)}; it must be even.")
            if self.mfccs > self.mels:
                raise ConfigError(f"{self.where('mfccs')} is {self.mfccs}; it must be at most mels, {self.mels}.")

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        # What does not fit is refused by the base class, which knows why.
        super().__init__(spec if self.card.needs.unmet(spec) else spec.select(self.card.needs.modalities), task, config)
        audio = self.spec.modalities["audio"]
        if audio.kind == "waveform" and audio.rate <= 0:
            raise ConfigError(f"The clips of {spec.track} differ in their sampling rate; CFN-SR needs one for all.")
        self.network = CFNSRNetwork(self.spec.modalities, self.task.outputs, self.config)
        self.heads = nn.ModuleDict()
        if self.config.pretrain_epochs:
            widths = self.network.widths.items()
            self.heads = nn.ModuleDict({name: nn.Linear(width, self.task.outputs) for name, width in widths})

    def stages(self) -> tuple[Stage, ...]:
        """Return the preparation, in which each network learns alone, and the training of everything."""
        until = self.config.pretrain_epochs
        alone = (Stage("alone", "alone", stop=until),) if until else ()
        return (*alone, Stage("joint", start=until))

    def parameter_groups(self) -> dict[str, list[dict[str, Any]]]:
        """Return the groups of both stages; Adam treats every parameter for itself, so one serves both networks."""
        groups = {"main": [{"params": list(self.network.parameters())}]}
        if not self.config.pretrain_epochs:
            return groups
        parts = (self.network.audio, self.network.vision, self.heads)
        alone = [parameter for part in parts for parameter in part.parameters()]
        return {"alone": [{"params": alone, "lr": self.config.pretrain_lr}], **groups}

    def forward(self, batch: Batch) -> Output:
        """Return the prediction ``(B, outputs)``; in the preparation the mean of those of the two networks."""
        if not (self.training and self.stages()[batch.stage].name == "alone"):
            return self.network(batch.inputs)
        audio, vision = self.network.hear(batch.inputs["audio"]), self.network.see(batch.inputs["vision"])
        read = {"audio": self.network.flat(audio), "vision": vision.mean()}
        named = {f"prediction_{name}": self.heads[name](read[name]) for name in self.heads}
        return Output(torch.stack(list(named.values())).mean(0), named)

    def objective(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Return the task loss, or in the preparation that of each network."""
        if "prediction_audio" not in output.named:
            return super().objective(output, batch)
        return {name: self.task.loss(output.named[f"prediction_{name}"], batch) for name in self.heads}
