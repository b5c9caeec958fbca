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

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from data_modules.batches.phases import Phase
from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import MethodConfig
from mmbench.methods.mvcl.config import CONTRASTS, MVCLConfig
from mmbench.methods.mvcl.network import PARTS, MVCLNetwork, MVCLOutput
from mmbench.nn.contrastive import pair_contrastive, supervised_contrastive
from mmbench.tasks import Task


class MVCL(FusionMethod):
    """Three contrastive stages and a head on frozen representations, or all at once.

    No phase reaches all parameters: under DDP the strategy is ``ddp_find_unused_parameters_true``.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.mvcl import MVCL
        >>> spec = make_spec()
        >>> model = MVCL(spec)
        >>> for phase in model.phases:
        ...     batch = make_batch(spec, phase=phase.name)
        ...     print(phase.name, list(model.objective(model(batch), batch)))
        unimodal ['unimodal']
        cross ['cross']
        fused ['fused']
        task ['task']
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

    Config = MVCLConfig
    config: MVCLConfig

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        ends = self.config.text_ends or self.text_encoder is not None
        self.network = MVCLNetwork(self.dims, self.task.outputs, self.config, ends)

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """Return one phase for each contrast and then the task, or one for everything."""
        if self.config.mode == "joint":
            return (Phase("joint"),)
        phases, start = [], 0
        for name in self.config.contrasts():
            start, begin = start + getattr(self.config, f"{name}_epochs"), start
            phases.append(Phase(name, name, start=begin, stop=start))
        return (*phases, Phase("task", start=start))

    def _trained(self, phase: str) -> dict[str, float]:
        """Return the parts that a phase trains and the factor of their learning rates."""
        earlier = self.config.earlier_rate
        rates = {
            "joint": dict.fromkeys(PARTS, 1.0),
            "unimodal": {"encoders": 1.0},
            "cross": {"encoders": earlier, "interaction": 1.0},
            "fused": {"interaction": earlier, "fusion": 1.0},
            "task": {"head": 1.0},
        }
        return {part: rate for part, rate in rates[phase].items() if rate}

    def parameter_groups(self) -> dict[str, list[dict[str, Any]]]:
        """Return the groups of each phase's optimiser: what the phase does not train is in none of them."""
        groups: dict[str, list[dict[str, Any]]] = {}
        for phase in self.phases:
            lr = self.config.lr_contrast if phase.name in CONTRASTS else self.config.lr
            trained = self._trained(phase.name).items()
            groups[phase.optimizer] = [group for part, rate in trained for group in self._groups(part, rate, lr)]
        return groups

    def _groups(self, part: str, rate: float, lr: float) -> list[dict[str, Any]]:
        modules = [self.network.parts()[part], *([self.text_encoder] if part == "encoders" else [])]
        inside = {parameter for module in modules if module is not None for parameter in module.parameters()}
        found: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter in inside and parameter.requires_grad:
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
        phase = next(phase for phase in self.phases if phase.active(self.current_epoch))
        trained = self._trained(phase.name)
        for part, modules in self.network.parts().items():
            modules.train(part in trained)
        if self.text_encoder is not None:
            self.text_encoder.train("encoders" in trained)

    def forward(self, batch: Batch) -> MVCLOutput:
        """Return the prediction ``(B, outputs)`` and the representations that the contrasts compare."""
        trained = self._trained(self.phase_of(batch).name) if self.training else PARTS
        with torch.set_grad_enabled(torch.is_grad_enabled() and "encoders" in trained):
            features = self.features(batch)
        return self.network(features, trained)

    def objective(self, output: MVCLOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms of the phase that the batch belongs to."""
        phase = self.phase_of(batch).name
        terms = super().objective(output, batch) if phase in ("joint", "task") else {}
        for name, weight in self.config.contrasts().items():
            if phase in ("joint", name):
                terms[name] = weight * self._contrast(name, output.projected, batch.target)
        return terms

    def _contrast(self, name: str, projected: dict[str, Tensor], target: Tensor) -> Tensor:
        """Return the sum of a contrast over what it compares."""
        c = self.config
        if name == "cross":
            pairs = [(self.of_all(projected[one]), self.of_all(projected[other])) for one, other in self.pairs()]
            return torch.stack([pair_contrastive(*pair, c.pair_temperature) for pair in pairs]).sum()
        compared = ["fused"] if name == "fused" else list(self.network.unimodal)
        vectors, classes = [self.of_all(projected[item]) for item in compared], self.classes(self.of_all(target))
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
