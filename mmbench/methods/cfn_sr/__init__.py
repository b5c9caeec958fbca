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

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from data_modules.batches.phases import Phase
from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod
from mmbench.methods.card import MethodCard, Needs, PublishedResult
from mmbench.methods.cfn_sr.config import CFNSRConfig
from mmbench.methods.cfn_sr.network import CFNSRNetwork, CFNSROutput
from mmbench.methods.config import ConfigError, MethodConfig
from mmbench.tasks import Task


class CFNSR(FusionMethod):
    """Audio-guided attention to a video map. ``self.spec`` names audio and vision alone: text is not looked at.

    With ``pretrain_epochs`` no phase reaches all parameters: under DDP the strategy is
    ``ddp_find_unused_parameters_true``.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.cfn_sr import CFNSR
        >>> spec = make_spec("multiclass")
        >>> model = CFNSR(spec)
        >>> list(model.spec.modalities), [phase.name for phase in model.phases]
        (['audio', 'vision'], ['alone', 'joint'])
        >>> tuple(model(make_batch(spec, phase="joint")).prediction.shape)  # four samples, three classes
        (4, 3)
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
        findings=(
            "On `synthetic/lag` (best 0.20, one modality 1.60) it learns only training samples by heart (its "
            "audio alone 1.48, validation 1.66): what audio weights is the positions of vision by audio's last state, "
            "not its steps.",
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

    Config = CFNSRConfig

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        audio = self.spec.modalities["audio"]
        if audio.kind == "waveform" and audio.rate <= 0:
            raise ConfigError(f"The clips of {spec.track} differ in their sampling rate; CFN-SR needs one for all.")
        self.network = CFNSRNetwork(self.spec.modalities, self.task.outputs, self.config)
        self.heads = nn.ModuleDict()
        if self.config.pretrain_epochs:
            widths = self.network.widths.items()
            self.heads = nn.ModuleDict({name: nn.Linear(width, self.task.outputs) for name, width in widths})

    @classmethod
    def reads(cls, spec: DataSpec, config: Any) -> tuple[str, ...]:
        """Return audio and vision."""
        return cls.card.needs.modalities

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """Return the preparation, in which each network learns alone, and the training of everything."""
        until = self.config.pretrain_epochs
        alone = (Phase("alone", "alone", stop=until),) if until else ()
        return (*alone, Phase("joint", start=until))

    def parameter_groups(self) -> dict[str, list[dict[str, Any]]]:
        """Return the groups of both phases; Adam treats every parameter for itself, so one serves both networks."""
        groups = {"main": [{"params": list(self.network.parameters())}]}
        if not self.config.pretrain_epochs:
            return groups
        parts = (self.network.audio, self.network.vision, self.heads)
        alone = [parameter for part in parts for parameter in part.parameters()]
        return {"alone": [{"params": alone, "lr": self.config.pretrain_lr}], **groups}

    def forward(self, batch: Batch) -> CFNSROutput:
        """Return the prediction ``(B, outputs)``; in the preparation the mean of those of the two networks."""
        if not (self.training and self.phase_of(batch).name == "alone"):
            return self.network(batch.inputs)
        audio, vision = self.network.hear(batch.inputs["audio"]), self.network.see(batch.inputs["vision"])
        read = {"audio": self.network.flat(audio), "vision": vision.mean()}
        alone = {name: head(read[name]) for name, head in self.heads.items()}
        return CFNSROutput(torch.stack(list(alone.values())).mean(0), alone=alone)

    def objective(self, output: CFNSROutput, batch: Batch) -> dict[str, Tensor]:
        """Return the task loss, or in the preparation that of each network."""
        if not output.alone:
            return super().objective(output, batch)
        return {name: self.task.loss(prediction, batch) for name, prediction in output.alone.items()}
