"""MMMIE: modality vectors that know more of each other and less of their inputs, told apart by identity embeddings.

Each modality becomes one vector. Mutual information between the vectors of every two modalities is maximised, that
between a modality's input and its vector minimised. The vectors, each with a learned embedding that says which modality
it is, are tokens of a transformer whose fusion token predicts.

Paper: Zheng, Zhang, Wang, Zeng, "Multimodal Representations Learning Based on Mutual Information Maximization and
Minimization and Identity Embedding for Multimodal Sentiment Analysis", arXiv 2201.03969. Only its abstract could be
read and no code was found: the three ideas are the authors', all else is this suite's. Deviations: see ``MMMIE.card``.

Shapes, width ``d``: inputs ``(B, T_m, D_m)``; vectors ``h_m (B, d)``; codes of a pair ``u_m (B, code)``; input
summaries ``x_m (B, D_m)``; tokens ``(B, 1 + M, d)``, with ``fusion=sequence`` all steps besides.

Every batch takes two steps, each with its own optimiser. ``estimate`` fits the Gaussians ``q(h | x)`` by ``-lld``;
``main`` fits the rest by ``task + alpha * nce + beta * club`` through the Gaussians, which stay as they are:

* ``lld = sum_m mean_i log q(h_m,i | x_m,i)``: likelihood of vectors given inputs.
* ``nce = sum_{m < n} InfoNCE(u_m, u_n)``, symmetric: ``I(m; n) >= ln B - nce``.
* ``club = sum_m max(vCLUB(x_m, h_m), 0)``: an upper bound of ``I(x_m; h_m)`` as far as ``q`` fits.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from itertools import combinations
from typing import Any, cast

import torch
from torch import Tensor, nn

from data_modules.batches.phases import Phase
from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import MethodConfig
from mmbench.methods.groups import without
from mmbench.methods.mmmie.club import RunningStandard, club
from mmbench.methods.mmmie.config import MMMIEConfig
from mmbench.methods.mmmie.network import MMMIENetwork, MMMIEOutput
from mmbench.nn.contrastive import info_nce
from mmbench.nn.mutual_information import GaussianConditional, gaussian_log_likelihood
from mmbench.nn.pooling import masked_mean
from mmbench.nn.text import PretrainedText
from mmbench.tasks import Task


class MMMIE(FusionMethod):
    """Mutual information maximised between modalities and minimised between input and feature.

    Neither step of a batch reaches all parameters: under DDP the strategy is ``ddp_find_unused_parameters_true``.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.mmmie import MMMIE
        >>> spec = make_spec()
        >>> model = MMMIE(spec)
        >>> for phase in model.phases:
        ...     batch = make_batch(spec, phase=phase.name)
        ...     print(phase.name, list(model.objective(model(batch), batch)))
        estimate ['estimate']
        main ['task', 'nce', 'club']
    """

    card = MethodCard(
        title="MMMIE: Mutual information Maximization and Minimization and Identity Embedding",
        authors="Jiahao Zheng, Sen Zhang, Xiaoping Wang, Zhigang Zeng",
        year=2022,
        arxiv="2201.03969",
        fidelity="abstract",
        deviations=(
            "Only the abstract was read: it has the maximisation between pairs of modalities, the minimisation between "
            "input and feature, and an identity embedding that tells the downstream network about the context.",
            "Inferred: the encoders (text states or word vectors, bidirectional LSTMs for audio and vision), the "
            "transformer over one token per modality with its closing norm, and all sizes, weights and rates.",
            "Inferred: the estimators: InfoNCE on projected vectors for the maximisation, vCLUB with a Gaussian "
            "network of its own optimiser, kept at or above 0, for the minimisation.",
            "Inferred: the input of the minimisation is the mean of a modality's steps (of text tokens: of their word "
            "embeddings), without gradient and standardised over the training samples seen so far.",
            "Inferred: the weight of the minimisation grows linearly over the first epochs, because its estimator is "
            "unfitted then.",
            "Inferred: the identity embedding is a learned vector per modality; identity=position adds the place of a "
            "step in its sequence. Context as earlier utterances of the same video is not built, because samples come "
            "one by one; with one role only, a role embedding would be a constant and is left out.",
            "Inferred: text tokens are represented by their first state, text features by the mean of their steps.",
        ),
        findings=(
            "On RAVDESS it over-fits: 616,000 weights on 864 training clips. Within ten epochs the task loss falls "
            "from 1.6 to between 0.1 and 0.3 on every fold; validation hardly gains from the third epoch on.",
        ),
        needs=Needs(at_least=2),
    )

    Config = MMMIEConfig
    config: MMMIEConfig

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        c = self.config
        self.network = MMMIENetwork(self.dims, self.task.outputs, c, first=self.text_encoder is not None)
        inputs = spec.dims if c.beta else {}
        if self.text_encoder is not None and inputs:
            inputs = {**inputs, "text": self._word_embeddings(self.text_encoder).embedding_dim}
        self.standards = nn.ModuleDict({name: RunningStandard(dim) for name, dim in inputs.items()})
        self.estimators = nn.ModuleDict({name: GaussianConditional(dim, c.dim) for name, dim in inputs.items()})

    @staticmethod
    def _word_embeddings(encoder: PretrainedText) -> nn.Embedding:
        return cast(Any, encoder.model).get_input_embeddings()

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """Return the two steps that every batch takes, or only the main one where nothing is minimised."""
        if not self.config.beta:
            return (Phase("main"),)
        return Phase("estimate", "estimator"), Phase("main", same_batch=True)

    def parameter_groups(self) -> dict[str, list[dict[str, Any]]]:
        """Return the groups of the main optimiser and of the one that fits the Gaussians."""
        estimators = list(self.estimators.parameters())
        return {
            "main": self.main_groups(without(self.parameters(), estimators)),
            "estimator": [{"params": estimators, "lr": self.config.lr_estimator}] if estimators else [],
        }

    @property
    def club_weight(self) -> float:
        """The weight of the minimisation in this epoch."""
        c = self.config
        return c.beta * (min(1.0, self.current_epoch / c.warmup) if c.warmup else 1.0)

    @torch.no_grad()
    def summaries(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean input of each modality, ``(B, D_m)``; of tokens, that of their word embeddings."""
        means = {}
        for name, sequence in batch.inputs.items():
            values = sequence.values
            if name == "text" and self.text_encoder is not None:
                values = self._word_embeddings(self.text_encoder)(values)
            means[name] = masked_mean(values, sequence.mask)
        return means

    def forward(self, batch: Batch) -> MMMIEOutput:
        """Return the prediction ``(B, outputs)`` and what the bounds compare.

        Each step of training differentiates its own part alone.
        """
        learns, estimating = torch.is_grad_enabled(), self.phase_of(batch).name == "estimate"
        with torch.set_grad_enabled(learns and not (estimating and self.training)):
            output: MMMIEOutput = self.network(self.features(batch))
        summaries = self.summaries(batch) if self.estimators else {}
        means, logvars = {}, {}
        for name, x in summaries.items():
            if estimating and self.training:
                cast(RunningStandard, self.standards[name]).update(self.of_all(x))
            with torch.set_grad_enabled(learns and estimating):
                means[name], logvar = self.estimators[name](self.standards[name](x))
            logvars[name] = logvar.tanh()
        return replace(output, mean=means, logvar=logvars)

    def objective(self, output: MMMIEOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms of the step that the batch belongs to."""
        c, h = self.config, output.h
        given = {name: (output.mean[name], output.logvar[name]) for name in self.estimators}
        if self.phase_of(batch).name == "estimate":
            fits = [gaussian_log_likelihood(h[name].detach(), *moments, True) for name, moments in given.items()]
            return {"estimate": -torch.stack(fits).sum()}
        terms = super().objective(output, batch)
        if c.alpha:
            codes = [self.of_all(code) for code in output.code.values()]
            nce = [info_nce(first, second, c.temperature) for first, second in combinations(codes, 2)]
            terms["nce"] = c.alpha * torch.stack(nce).sum()
        if given:
            compared = [map(self.of_all, (h[name], *moments)) for name, moments in given.items()]
            bounds = torch.stack([club(*rows) for rows in compared])
            terms["club"] = self.club_weight * (bounds.clamp(min=0.0) if c.clamp else bounds).sum()
        return terms
