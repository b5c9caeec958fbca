"""MMIM, MultiModal InfoMax: late fusion whose inputs and result are pushed to share information.

Each modality becomes one vector; their concatenation passes three linear layers. Between the input vectors a lower
bound of mutual information is raised, and the fused vector must predict each input vector (contrastive prediction).

Paper: Han, Chen, Poria, "Improving Multimodal Fusion with Hierarchical Mutual Information Maximization for Multimodal
Sentiment Analysis", EMNLP 2021, arXiv 2109.00412. Official code: declare-lab/Multimodal-Infomax (MIT), read at the
commit of the card; rewritten, not copied. Deviations: see ``MMIM.card``.

Shapes: text ``(B, T, d_t)`` hidden states or features, audio and vision ``(B, T_m, d_m)``, each with its own lengths.

An epoch has two phases. ``estimate`` fits the Gaussians ``q(y | x)`` of the bound by ``-lld``. ``main`` fits the rest
by ``task + alpha * nce - beta * lld - beta * H`` through the Gaussians, which stay as they are:

* ``lld``: log-likelihood of ``y`` given ``x`` under ``q``, for each pair of modalities (inter-modality bound).
* ``H``: entropy of ``y``, a Gaussian per class over this batch and the last ones.
* ``nce``: contrastive prediction of each modality's vector from the fused one (fusion level).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor, nn

from data_modules.batches.phases import Phase
from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod
from mmbench.methods.card import MethodCard, Needs, PublishedResult
from mmbench.methods.config import MethodConfig
from mmbench.methods.groups import without
from mmbench.methods.mmim.config import MMIMConfig
from mmbench.methods.mmim.network import MMIMNetwork, MMIMOutput
from mmbench.nn.mutual_information import ClassConditionalEntropy, cosine_nce, gaussian_log_likelihood
from mmbench.tasks import Task

SOURCE = "with fine-tuned BERT; comparison table of Semi-IIN (DBF, ACL Findings 2023, prints the same, rounded)"
METRICS = ("mae", "corr", "acc7", "acc2_has0", "acc2_non0", "f1_has0", "f1_non0")
PUBLISHED = {
    "mosi/unaligned_50_tokens/standard": (0.700, 0.800, 0.4665, 0.8414, 0.8606, 0.8400, 0.8598),
    "mosei/unaligned_50_tokens/standard": (0.526, 0.772, 0.5424, 0.8224, 0.8597, 0.8266, 0.8594),
}


class MMIM(FusionMethod):
    """MultiModal InfoMax.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.mmim import MMIM
        >>> spec = make_spec()
        >>> model = MMIM(spec)
        >>> for phase in model.phases:
        ...     batch = make_batch(spec, phase=phase.name)
        ...     print(phase.name, list(model.objective(model(batch), batch)))
        estimate ['estimate_lld']
        main ['task', 'nce', 'lld']
    """

    card = MethodCard(
        title="MMIM: MultiModal InfoMax",
        authors="Wei Han, Hui Chen, Soujanya Poria",
        year=2021,
        venue="EMNLP 2021",
        arxiv="2109.00412",
        code="declare-lab/Multimodal-Infomax@cd0774c5a712ca5f1a5497dbf27dde11cade7434",
        fidelity="official-code",
        deviations=(
            "Epochs are selected on validation data only; the official code keeps an epoch when its test error is the "
            "best so far.",
            "entropy_eps (1e-5) is added to the covariances; the official code adds nothing (entropy_eps: 0).",
            "A pair's entropy is left out while a class has too few rows for a regular covariance; the official code "
            "gives NaN or minus infinity there.",
            "Inferred: with more than two classes the entropy weighs each class by its share of the rows, over the "
            "classes with enough rows.",
            "Inferred: without text the only pair is vision and audio; data of two modalities have one pair.",
            "Text that is no token sequence enters as it is; its vector is its first step unless text_pooling is "
            "'mean', which suits word vectors better.",
            "LSTMs of several layers give the final states of their last layer; the official code breaks there.",
            "With contrast off the entropy is off as well; the official loop would still subtract it.",
            "With beta 0 the first pass of an epoch is skipped, because nothing uses what it fits.",
            "The entropy projector keeps its initial weights: the official code puts it in the optimiser of the first "
            "pass, which gives it no gradient (torch from 2.0 on).",
        ),
        findings=(
            "On `synthetic/lag` (best 0.20, one modality 1.60) all seeds reach 0.35 to 0.37 just before the limit of "
            "epochs: LSTMs keep the order of their modality, and only the layers on their last states compare two of "
            "them, for which it takes many samples (with a quarter of those for training 0.64 and 0.70, and one seed "
            "that patience stops on the plateau of the first epochs).",
        ),
        published=tuple(
            PublishedResult(track, metric, value, SOURCE)
            for track, values in PUBLISHED.items()
            for metric, value in zip(METRICS, values, strict=True)
        ),
        needs=Needs(at_least=2),
    )

    Config = MMIMConfig
    config: MMIMConfig

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        c = self.config
        self.network = MMIMNetwork(self.dims, self.task.outputs, c)
        self.entropies = nn.ModuleDict(
            {
                pair: ClassConditionalEntropy(
                    width,
                    self.task.group_count,
                    c.memory,
                    c.batch_size,
                    c.entropy_eps,
                    equal_weights=self.task.target.kind == "regression",
                )
                for pair, width in self.network.code_widths.items()
            }
        )

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """Return the two phases of an epoch, or only the main one where no bound is used."""
        main = Phase("main")
        if not (self.network.pairs and self.config.beta):
            return (main,)
        return Phase("estimate", "mi", fraction=self.config.estimate_fraction), main

    def parameter_groups(self) -> dict[str, list[dict[str, Any]]]:
        """Return the groups of the main optimiser and of the one that fits the bound."""
        bound = self.network.bound_parameters()
        return {
            "main": self.main_groups(without(self.parameters(), bound)),
            "mi": [{"params": bound, "lr": self.config.lr_mmilb}] if bound else [],
        }

    def on_train_epoch_start(self) -> None:
        """Forget the codes of the last epoch."""
        super().on_train_epoch_start()
        for memory in self._memories().values():
            memory.reset()

    def _memories(self) -> dict[str, ClassConditionalEntropy]:
        return cast("dict[str, ClassConditionalEntropy]", dict(self.entropies))

    def forward(self, batch: Batch) -> MMIMOutput:
        """Return the prediction ``(B, outputs)`` and the representations that the bounds compare."""
        return self.network(self.features(batch))

    def objective(self, output: MMIMOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms of the pass that the batch belongs to; in training the codes are remembered."""
        h, mean, logvar = output.h, output.mean, output.logvar
        lld = {
            pair: gaussian_log_likelihood(h[y], mean[pair], logvar[pair], self.config.lld_include_logvar)
            for pair, (_, y) in self.network.pairs.items()
        }
        if self.phase_of(batch).name == "estimate":
            return {"estimate_lld": -_total(lld)}
        terms = super().objective(output, batch)
        if not self.config.contrast:
            return terms
        nce = {
            name: cosine_nce(self.of_all(h[name]), self.of_all(predicted))
            for name, predicted in output.predicted.items()
        }
        terms |= {"nce": self.config.alpha * _total(nce), "lld": -self.config.beta * _total(lld)}
        groups = self.of_all(self.task.groups(batch))
        entropy = {}
        for pair, memory in self._memories().items():
            codes = self.of_all(output.code[pair])
            if memory.ready:
                entropy[pair] = memory(codes, groups)
            if self.training:
                memory.push(codes, groups)
        if entropy:
            terms["entropy"] = -self.config.beta * _total(entropy)
        return terms


def _total(terms: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()
