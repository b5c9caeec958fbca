"""MVCL: three contrastive stages shape unimodal, cross-modal and fused representations; a new head reads the last.

Each modality is encoded to one vector and to tokens. Crossmodal transformers merge two modalities and let the third
read them, in both orders: every modality gets two views of the same sample. The pooled views are fused by one more
transformer, and a small network predicts from the fused vector.

Paper: Liu, Zheng, Li, Liu, Ren, Zhu, Sun, "Improving the Modality Representation with Multi-View Contrastive Learning
for Multimodal Sentiment Analysis", ICASSP 2023, arXiv 2210.15824. Code: the first author's rebuild after the loss of
the original, LiuPeiP-CS/MSA, which does not run as published; read and rewritten. Deviations: see ``MVCL.card``.

Shapes, ``M`` modalities, width ``d``: inputs ``(B, T_m, D_m)``; tokens ``(B, T_m, d)``; modality vectors ``(B, out)``;
views ``(B, d)``, six of them with three modalities and two with two; fused vector ``(B, d)``.

Losses, on vectors that a projector brings to unit length:

* ``unimodal = sum_m SupCon(h_m)``: samples of one class attract each other, within each modality.
* ``cross = sum_pairs NT-Xent(view, other view)``: the two views of a sample attract each other.
* ``fused = SupCon(h_F)``: as the first, on the fused vector.
* ``task``: L1 or cross-entropy of the prediction.

``mode=staged`` (the abstract) trains by one term after the other, each for some epochs, and ends with a head on frozen
representations; a contrast trains its part of the network and, at ``earlier_rate``, the part before. ``mode=joint``
(the rebuild) trains everything by the weighted sum of all terms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from data_modules.schema import Batch, DataSpec, Sequence
from mmbench.methods.base import FusionMethod, Output, Stage
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import ConfigError, MethodConfig, setting
from mmbench.methods.mvcl.reading import ConvolutionTokens, LSTMTokens, MutualReading, Reader, TextTokens, ViewFusion
from mmbench.nn.contrastive import Projector, pair_contrastive, supervised_contrastive
from mmbench.nn.dropout import Dropout
from mmbench.tasks import Task

PARTS = ("encoders", "interaction", "fusion", "head")
"""The network in the order of its data flow; a stage trains one part, and some train the part before it too."""
CONTRASTS = ("unimodal", "cross", "fused")
"""The contrastive terms, each with a stage and a weight of its name."""


class MVCLNetwork(nn.Module):
    """Encoders, interaction, fusion and head, and the projectors of the contrasts that are used.

    Args:
        dims: Features per step by modality, two or three of them.
        outputs: Width of the prediction.
        settings: The method's settings.
        text_ends: Whether text begins with [CLS] and ends with [SEP].
    """

    def __init__(self, dims: Mapping[str, int], outputs: int, settings: MVCL.Config, text_ends: bool = False) -> None:
        super().__init__()
        c, contrasts = settings, settings.contrasts()
        self.encoders, token_widths, vector_widths = nn.ModuleDict(), {}, {}
        for name, dim in dims.items():
            self.encoders[name], vector_widths[name], token_widths[name] = self._encoder(name, dim, c, text_ends)
        self.unimodal = nn.ModuleDict()
        if "unimodal" in contrasts:
            for name, width in vector_widths.items():
                post, dropout = getattr(c, f"post_{name}"), Dropout(getattr(c, f"dropout_{name}"))
                self.unimodal[name] = nn.Sequential(dropout, nn.Linear(width, post), nn.ReLU(), Projector(post))
        self.interaction = MutualReading(token_widths, c.dim, c.heads, c.layers, c.attention_dropout)
        views = self.interaction.views
        self.view_projectors = nn.ModuleDict({view: Projector(c.dim) for view in views if "cross" in contrasts})
        self.fusion = ViewFusion(len(views), c.dim, c.heads, c.attention_dropout_fusion, c.dropout_fusion)
        self.fused_projector = Projector(c.dim) if "fused" in contrasts else None
        self.head = nn.Sequential(nn.Linear(c.dim, c.post_fusion), nn.ReLU(), nn.Linear(c.post_fusion, outputs))

    @staticmethod
    def _encoder(name: str, dim: int, c: MVCL.Config, text_ends: bool) -> tuple[nn.Module, int, int]:
        """Return the encoder of a modality and the widths of its vector and of its tokens, 0 for ``dim`` already."""
        if name == "text":
            return TextTokens(text_ends, c.legacy_no_mask), dim, dim
        out: int = getattr(c, f"out_{name}") if "unimodal" in c.contrasts() else 0  # only that contrast has vectors
        if c.encoder == "lstm":
            hidden: int = getattr(c, f"hidden_{name}")
            return LSTMTokens(dim, hidden, out, c.legacy_no_mask), out, hidden
        dropouts = (getattr(c, f"attention_dropout_{name}"), 0.0, 0.0, c.embed_dropout)
        reader = Reader(c.dim, c.heads, c.unimodal_layers, *dropouts, project=out, pooled=out > 0)
        return ConvolutionTokens(dim, c.dim, getattr(c, f"kernel_{name}"), reader, c.legacy_no_mask), out, 0

    def parts(self) -> dict[str, nn.ModuleList]:
        """Return the modules of each of :data:`PARTS`, with the projectors that only its own contrast reaches."""
        return {
            "encoders": nn.ModuleList([self.encoders, self.unimodal]),
            "interaction": nn.ModuleList([self.interaction, self.view_projectors]),
            "fusion": nn.ModuleList([self.fusion, *([self.fused_projector] if self.fused_projector else [])]),
            "head": nn.ModuleList([self.head]),
        }

    def forward(self, features: Mapping[str, Sequence], trained: Iterable[str] = PARTS) -> Output:
        """Return prediction and representations of a batch.

        Args:
            features: The modalities, ``(B, T_m, dims[m])`` each.
            trained: The parts through which gradients flow, neighbours in :data:`PARTS`.

        Returns:
            ``named`` holds the views ``view_<x>_<y>_<z> (B, dim)``, the fused vector ``fused (B, dim)``, and of unit
            length what the contrasts compare: ``projected_<modality>``, ``projected_<view>``, ``projected_fused``.
        """
        learns, trained = torch.is_grad_enabled(), set(trained)
        with torch.set_grad_enabled(learns and "encoders" in trained):
            encoded = {name: self.encoders[name](features[name]) for name in self.encoders}
            named = {f"projected_{name}": module(encoded[name][0]) for name, module in self.unimodal.items()}
        with torch.set_grad_enabled(learns and "interaction" in trained):
            views = self.interaction({name: tokens for name, (_, tokens) in encoded.items()})
            named |= {f"view_{view}": vector for view, vector in views.items()}
            named |= {f"projected_{view}": module(views[view]) for view, module in self.view_projectors.items()}
        with torch.set_grad_enabled(learns and "fusion" in trained):
            named["fused"] = self.fusion(views.values())
            if self.fused_projector:
                named["projected_fused"] = self.fused_projector(named["fused"])
        with torch.set_grad_enabled(learns and "head" in trained):
            return Output(self.head(named["fused"]), named)


class MVCL(FusionMethod):
    """Three contrastive stages and a head on frozen representations, or all at once.

    No stage reaches all parameters: under DDP the strategy is ``ddp_find_unused_parameters_true``.
    """

    card = MethodCard(
        title="MVCL: Multi-View Contrastive Learning in three stages",
        authors="Peipei Liu, Xin Zheng, Hong Li, Jie Liu, Yimo Ren, Hongsong Zhu, Limin Sun",
        year=2023,
        venue="ICASSP 2023",
        arxiv="2210.15824",
        code="LiuPeiP-CS/MSA@ba897c2effefcc66cf40e825707ef8f83151e571",
        fidelity="paper",
        deviations=(
            "The code is a rebuild by the first author that does not run as published; mode=joint follows it, with its "
            "wiring mended: every layer has the width of its input.",
            "Inferred: in mode=staged the lengths of the stages, five epochs for each contrast, their rate, that each "
            "contrast trains its own part and, as fast, the part before, and that frozen parts have no dropout; the "
            "abstract says only that the last classifier learns on frozen representations.",
            "Inferred: the unimodal contrast uses the classes of the multimodal label, because data sets other than "
            "CH-SIMS have no unimodal labels; the rebuild leaves that contrast out there, and unimodal predictions, "
            "which need such labels, are not built at all.",
            "Inferred: classes of a regression label are seven equal steps of its scale (whole numbers in [-3, 3]); "
            "the rebuild compares labels for equality (classes=exact), and classes=sign asks for the side of the "
            "scale's middle. Labels of several columns are one class where they are equal in all.",
            "A sample without another one of its class is no anchor of a supervised contrast; the rebuild gives NaN.",
            "Padding is hidden from attention and from means, and the future mask goes by the lengths of each sample; "
            "legacy_no_mask gives the rebuild's behaviour.",
            "The width is 32, because the rebuild's 30 has no 4 heads; the gradients of four batches are added up only "
            "with accumulate=4.",
            "Text without [CLS] and [SEP] (text_ends, always true of tokens) has the mean of its steps as its vector; "
            "the linear map of its steps learns at the rate of the text encoder only where one learns.",
            "A convolution leaves at least one step, and a kernel of 1 has no border of zeros, unlike the rebuild's.",
            "Inferred: two modalities have one pair of views, each modality reading the other.",
        ),
        findings=("On the generated set epochs 35 to 39 of 40 are selected: the head creeps on after its fifth.",),
        needs=Needs(at_least=2),
    )

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings of MVCL; the defaults are those of the rebuild for CMU-MOSI, and of the stages this suite's own."""

        weight_decay: float = setting(0.01, "L2 penalty inside Adam", low=0.0)
        gradient_clip: float = setting(0.0, "largest L2 norm of the gradient; 0 for no limit", low=0.0)
        lr_audio: float = setting(1e-3, "learning rate of the audio encoder", low=0.0)
        lr_vision: float = setting(1e-4, "learning rate of the vision encoder", low=0.0)
        weight_decay_encoders: float = setting(0.01, "L2 penalty of the audio and the vision encoder", low=0.0)
        weight_decay_text: float = setting(1e-3, "L2 penalty of the text encoder's weights, not its biases", low=0.0)
        accumulate: int = setting(1, "batches whose gradients are added up for a step; 4 in the rebuild", low=1)
        mode: str = setting("staged", "one term after the other, or all at once", choices=("staged", "joint"))
        unimodal_epochs: int = setting(5, "staged: epochs of the unimodal contrast; 0 leaves it out", low=0)
        cross_epochs: int = setting(5, "staged: epochs of the contrast between views; 0 leaves it out", low=0)
        fused_epochs: int = setting(5, "staged: epochs of the fused contrast; 0 leaves it out", low=0)
        lr_contrast: float = setting(1e-3, "staged: learning rate of the contrasts; lr is the head's", low=0.0)
        earlier_rate: float = setting(1.0, "staged: factor of the part before; 0 freezes it", low=0.0, high=1.0)
        unimodal_weight: float = setting(1.0, "weight of the unimodal contrast; 0 leaves it out", low=0.0)
        cross_weight: float = setting(1.0, "weight of the contrast between views; 0 leaves it out", low=0.0)
        fused_weight: float = setting(1.0, "weight of the fused contrast; 0 leaves it out", low=0.0)
        classes: str = setting("seven", "classes of a regression label", choices=("seven", "sign", "exact"))
        pairs: str = setting("first", "which modality the two views of a pair share", choices=("first", "last"))
        supervised_temperature: float = setting(0.07, "temperature of both supervised contrasts", low=1e-6)
        pair_temperature: float = setting(0.05, "temperature of the contrast between views", low=1e-6)
        encoder: str = setting("lstm", "encoder of audio and vision", choices=("lstm", "transformer"))
        dim: int = setting(32, "width of tokens, views and fused vector", low=1)
        heads: int = setting(4, "attention heads, a divisor of dim", low=1)
        layers: int = setting(2, "layers of the crossmodal transformers", low=1)
        unimodal_layers: int = setting(4, "layers of the transformer encoders", low=1)
        hidden_audio: int = setting(32, "units of the audio LSTM", low=1)
        hidden_vision: int = setting(64, "units of the vision LSTM", low=1)
        out_audio: int = setting(16, "width of the audio vector", low=1)
        out_vision: int = setting(32, "width of the vision vector", low=1)
        post_text: int = setting(64, "width in which the unimodal contrast compares text", low=1)
        post_audio: int = setting(16, "width in which the unimodal contrast compares audio", low=1)
        post_vision: int = setting(32, "width in which the unimodal contrast compares vision", low=1)
        post_fusion: int = setting(128, "width of the head", low=1)
        kernel_audio: int = setting(5, "transformer encoder: steps that the convolution over audio sees", low=1)
        kernel_vision: int = setting(5, "transformer encoder: steps that the convolution over vision sees", low=1)
        attention_dropout: float = setting(0.3, "dropout on crossmodal attention", low=0.0, high=1.0)
        attention_dropout_fusion: float = setting(0.2, "dropout on attention in the fusion", low=0.0, high=1.0)
        attention_dropout_audio: float = setting(0.2, "transformer encoder: on attention, audio", low=0.0, high=1.0)
        attention_dropout_vision: float = setting(0.0, "transformer encoder: on attention, vision", low=0.0, high=1.0)
        embed_dropout: float = setting(0.2, "transformer encoder: dropout on its input", low=0.0, high=1.0)
        dropout_text: float = setting(0.0, "dropout on the text vector before its contrast", low=0.0, high=1.0)
        dropout_audio: float = setting(0.1, "dropout on the audio vector before its contrast", low=0.0, high=1.0)
        dropout_vision: float = setting(0.1, "dropout on the vision vector before its contrast", low=0.0, high=1.0)
        dropout_fusion: float = setting(0.1, "dropout on the pooled fusion", low=0.0, high=1.0)
        text_ends: bool = setting(False, "whether text features begin with [CLS] and end with [SEP]")
        legacy_no_mask: bool = setting(False, "whether padding takes part as in the rebuild")

        def __post_init__(self) -> None:
            """Check that the heads divide the width and that stages leave something to read."""
            super().__post_init__()
            if self.dim % self.heads:
                raise ConfigError(f"{self.where('heads')} is {self.heads}; it must divide dim, {self.dim}.")
            if self.mode == "staged" and not self.contrasts():
                raise ConfigError(
                    f"{self.where('mode')} is 'staged' and every contrast is left out: its head would read an "
                    "untrained network; set mode to 'joint'."
                )

        def contrasts(self) -> dict[str, float]:
            """Return the weight of each contrast that is used."""
            weights = {name: getattr(self, f"{name}_weight") for name in CONTRASTS}
            unused = {name for name in CONTRASTS if self.mode == "staged" and not getattr(self, f"{name}_epochs")}
            return {name: weight for name, weight in weights.items() if weight and name not in unused}

    config: Config

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        ends = self.config.text_ends or self.text_encoder is not None
        self.network = MVCLNetwork(self.dims, self.task.outputs, self.config, ends)

    @property
    def accumulate(self) -> int:
        """Number of batches whose gradients are added up before a step."""
        return self.config.accumulate

    def stages(self) -> tuple[Stage, ...]:
        """Return one stage for each contrast and then the task, or one for everything."""
        if self.config.mode == "joint":
            return (Stage("joint"),)
        stages, start = [], 0
        for name in self.config.contrasts():
            start, begin = start + getattr(self.config, f"{name}_epochs"), start
            stages.append(Stage(name, name, start=begin, stop=start))
        return (*stages, Stage("task", start=start))

    def _trained(self, stage: str) -> dict[str, float]:
        """Return the parts that a stage trains and the factor of their learning rates."""
        earlier = self.config.earlier_rate
        rates = {
            "joint": dict.fromkeys(PARTS, 1.0),
            "unimodal": {"encoders": 1.0},
            "cross": {"encoders": earlier, "interaction": 1.0},
            "fused": {"interaction": earlier, "fusion": 1.0},
            "task": {"head": 1.0},
        }
        return {part: rate for part, rate in rates[stage].items() if rate}

    def parameter_groups(self) -> dict[str, list[dict[str, Any]]]:
        """Return the groups of each stage's optimiser: what the stage does not train is in none of them."""
        groups: dict[str, list[dict[str, Any]]] = {}
        for stage in self.stages():
            lr = self.config.lr_contrast if stage.name in CONTRASTS else self.config.lr
            trained = self._trained(stage.name).items()
            groups[stage.optimizer] = [group for part, rate in trained for group in self._groups(part, rate, lr)]
        return groups

    def _groups(self, part: str, rate: float, lr: float) -> list[dict[str, Any]]:
        inside = {id(parameter) for parameter in self.network.parts()[part].parameters()}
        if part == "encoders" and self.text_encoder is not None:
            inside |= {id(parameter) for parameter in self.text_encoder.parameters()}
        found: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if id(parameter) in inside and parameter.requires_grad:
                found.setdefault(self._rate_and_decay(name, lr), []).append(parameter)
        return [{"params": items, "lr": rate * its, "weight_decay": decay} for (its, decay), items in found.items()]

    def _rate_and_decay(self, name: str, lr: float) -> tuple[float, float]:
        """Return the learning rate and the L2 penalty of a parameter; token maps go with their encoders."""
        c = self.config
        text = ("text_encoder.", "network.interaction.tokens.text.")
        if self.text_encoder is not None and c.text_lr and name.startswith(text):
            return c.text_lr, 0.0 if name.endswith("bias") or "LayerNorm" in name else c.weight_decay_text
        for modality, own in (("audio", c.lr_audio), ("vision", c.lr_vision)):
            if name.startswith((f"network.encoders.{modality}.", f"network.interaction.tokens.{modality}.")):
                return own, c.weight_decay_encoders
        return lr, c.weight_decay

    def on_train_epoch_start(self) -> None:
        """Switch dropout on in the parts that this epoch trains and off in the others."""
        super().on_train_epoch_start()
        stage = next(stage for stage in self.stages() if stage.active(self.current_epoch))
        trained = self._trained(stage.name)
        for part, modules in self.network.parts().items():
            modules.train(part in trained)
        if self.text_encoder is not None:
            self.text_encoder.train("encoders" in trained)

    def forward(self, batch: Batch) -> Output:
        """Return the prediction ``(B, outputs)`` and the representations that the contrasts compare."""
        trained = self._trained(self.stages()[batch.stage].name) if self.training else PARTS
        with torch.set_grad_enabled(torch.is_grad_enabled() and "encoders" in trained):
            features = self.features(batch)
        return self.network(features, trained)

    def objective(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms of the stage that the batch belongs to."""
        stage = self.stages()[batch.stage].name
        terms = super().objective(output, batch) if stage in ("joint", "task") else {}
        for name, weight in self.config.contrasts().items():
            if stage in ("joint", name):
                terms[name] = weight * self._contrast(name, output.named, self.classes(batch.target))
        return terms

    def _contrast(self, name: str, named: Mapping[str, Tensor], classes: Tensor) -> Tensor:
        """Return the sum of a contrast over what it compares."""
        c = self.config
        if name == "cross":
            pairs = [(named[f"projected_{one}"], named[f"projected_{other}"]) for one, other in self.pairs()]
            return torch.stack([pair_contrastive(*pair, c.pair_temperature) for pair in pairs]).sum()
        compared = ["fused"] if name == "fused" else list(self.network.unimodal)
        vectors = [named[f"projected_{item}"] for item in compared]
        return torch.stack([supervised_contrastive(item, classes, c.supervised_temperature) for item in vectors]).sum()

    def pairs(self) -> list[tuple[str, str]]:
        """Return the pairs of views that belong together."""
        place = 0 if self.config.pairs == "first" else -1
        groups: dict[str, list[str]] = {}
        for view, order in self.network.interaction.views.items():
            groups.setdefault(order[place] if len(order) > 2 else "", []).append(view)
        return [(one, other) for one, other in groups.values()]

    def classes(self, target: Tensor) -> Tensor:
        """Return what makes samples positives of each other where it is equal, ``(B,)`` or ``(B, C)``."""
        if self.task.target.kind != "regression" or self.config.classes == "exact":
            return target
        low, high = self.task.target.low, self.task.target.high
        if low is not None and high is not None:  # seven steps from one end to the other
            target = ((target - (low + high) / 2) * (6 / (high - low))).clamp(-3, 3)
        return target.round() if self.config.classes == "seven" else target.sign()
