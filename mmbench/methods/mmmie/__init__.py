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

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import Batch, DataSpec, Sequence
from mmbench.methods.base import FusionMethod, Output, Stage
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import ConfigError, MethodConfig, setting
from mmbench.methods.mmmie.club import RunningStandard, club
from mmbench.nn.contrastive import info_nce
from mmbench.nn.dropout import Dropout
from mmbench.nn.mutual_information import GaussianConditional, gaussian_log_likelihood
from mmbench.nn.pooling import masked_mean
from mmbench.nn.recurrent import LSTMEncoder
from mmbench.nn.steps import Layout
from mmbench.nn.text import PretrainedText
from mmbench.nn.transformer import TransformerLayer, position_vectors
from mmbench.tasks import Task

_SPREAD = 0.02  # standard deviation of fresh embeddings


class VectorEncoder(nn.Module):
    """One modality to a vector and to steps of one width.

    Text was read already: its vector is a linear map of its first step, or of the mean of its steps. Audio and vision
    pass an LSTM in both directions, whose final states give the vector.

    Args:
        dim: Features per step.
        width: Width of vector and steps.
        hidden: Units of the LSTM per direction; 0 for none.
        first: Without an LSTM: whether the first step stands for the sequence.
        steps: Whether the steps are wanted.
    """

    def __init__(self, dim: int, width: int, hidden: int, first: bool, steps: bool) -> None:
        super().__init__()
        self.first = first
        self.lstm = LSTMEncoder(dim, hidden, bidirectional=True) if hidden else None
        read = self.lstm.dim if self.lstm else dim
        after = [nn.ReLU(), nn.LayerNorm(width)] if hidden else []
        self.vector = nn.Sequential(nn.Linear(read, width), *after)
        self.steps = nn.Linear(read, width) if steps else None

    def forward(self, sequence: Sequence) -> tuple[Tensor, tuple[Tensor, Layout] | None]:
        """Return ``(B, width)`` and, if wanted, rows ``(N, width)`` with their layout, for ``(B, T, dim)``."""
        if self.lstm is not None:
            sequence, read = self.lstm(sequence)
        else:
            sequence = Sequence(sequence.values.masked_fill(~sequence.mask[..., None], 0.0), sequence.lengths)
            read = sequence.values[:, 0] if self.first else masked_mean(sequence.values, sequence.mask)
        if self.steps is None:
            return self.vector(read), None
        layout = Layout.of(sequence)
        return self.vector(read), (self.steps(layout.rows(sequence.values)), layout)


class TokenFusion(nn.Module):
    """A transformer over a learned fusion token and tokens of all modalities, and the head on the fusion token.

    Args:
        names: The modalities.
        outputs: Width of the prediction.
        settings: The method's settings.
    """

    def __init__(self, names: list[str], outputs: int, settings: MMMIE.Config) -> None:
        super().__init__()
        c = settings
        self.names, self.positions = names, c.identity == "position"
        self.token = nn.Parameter(_SPREAD * torch.randn(c.dim))
        self.identity: nn.Parameter | None = None
        if c.identity != "none":
            self.identity = nn.Parameter(_SPREAD * torch.randn(len(names), c.dim))
        dropouts = (c.dropout, c.dropout, c.dropout)
        self.layers = nn.ModuleList(TransformerLayer(c.dim, c.heads, *dropouts) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.dim)
        self.head = nn.Sequential(nn.Linear(c.dim, c.dim), nn.ReLU(), Dropout(c.dropout), nn.Linear(c.dim, outputs))

    def forward(
        self, vectors: Mapping[str, Tensor], steps: Mapping[str, tuple[Tensor, Layout]]
    ) -> tuple[Tensor, Tensor]:
        """Return the prediction ``(B, outputs)`` and the state of the fusion token ``(B, dim)``.

        Args:
            vectors: ``(B, dim)`` by modality.
            steps: Rows ``(N_m, dim)`` with their layout by modality, further tokens; empty for none.
        """
        one = Layout.of_all(vectors[self.names[0]][:, None])
        parts = [(self.token.expand(len(one.lengths), -1), one)]
        for number, name in enumerate(self.names):
            own = [(vectors[name], one)]
            if name in steps:
                rows, layout = steps[name]
                if self.positions:
                    rows = rows + position_vectors(layout.positions, rows.shape[1], rows.dtype, layout.steps)
                own.append((rows, layout))
            parts += own if self.identity is None else [(x + self.identity[number], place) for x, place in own]
        layout, places = Layout.joined([place for _, place in parts])
        states = torch.cat([rows for rows, _ in parts]).index_select(0, places)
        *layers, last = self.layers
        for layer in layers:
            states = layer(states, layout.reads())
        # Of what the last layer makes, only the fusion token is read: the first of each sample.
        z = self.norm(last(states.index_select(0, layout.starts), one.reads(layout), states))
        return self.head(z), z


class MMMIENetwork(nn.Module):
    """Encoders, projections of the pairs, and fusion.

    Args:
        dims: Features per step by modality.
        outputs: Width of the prediction.
        settings: The method's settings.
        first: Whether the first step of text stands for it ([CLS]); else the mean of its steps.
    """

    def __init__(self, dims: Mapping[str, int], outputs: int, settings: MMMIE.Config, first: bool = False) -> None:
        super().__init__()
        c = settings
        self.encoders = nn.ModuleDict(
            {
                name: VectorEncoder(dim, c.dim, 0 if name == "text" else c.hidden, first, c.fusion == "sequence")
                for name, dim in dims.items()
            }
        )
        self.projections = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(c.dim, c.dim), nn.ReLU(), nn.Linear(c.dim, c.code))
                for name in dims
                if c.alpha
            }
        )
        self.fusion = TokenFusion(list(dims), outputs, c)

    def forward(self, features: Mapping[str, Sequence]) -> Output:
        """Return prediction and representations of a batch.

        Returns:
            ``named`` holds ``h_<modality> (B, dim)``, ``code_<modality> (B, code)`` of unit length and ``z (B, dim)``.
        """
        vectors, steps = {}, {}
        for name, encoder in self.encoders.items():
            vectors[name], states = encoder(features[name])
            if states is not None:
                steps[name] = states
        prediction, z = self.fusion(vectors, steps)
        named = {f"h_{name}": vector for name, vector in vectors.items()} | {"z": z}
        for name, projection in self.projections.items():
            named[f"code_{name}"] = F.normalize(projection(vectors[name]), dim=-1)
        return Output(prediction, named)


class MMMIE(FusionMethod):
    """Mutual information maximised between modalities and minimised between input and feature.

    Neither step of a batch reaches all parameters: under DDP the strategy is ``ddp_find_unused_parameters_true``.
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

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings of MMMIE; none of the paper's is known."""

        weight_decay: float = setting(1e-4, "L2 penalty inside Adam, in both optimisers", low=0.0)
        plateau_patience: int = setting(5, "epochs without gain before the learning rate drops; 0 for never", low=0)
        plateau_factor: float = setting(
            0.5, "factor by which the learning rate drops", low=0.0, high=1.0, needs="plateau_patience"
        )
        lr_estimator: float = setting(1e-3, "learning rate of the Gaussians q(h | x)", low=0.0)
        alpha: float = setting(0.1, "weight of the maximisation between modalities; 0 for none", low=0.0)
        beta: float = setting(0.01, "weight of the minimisation between input and feature; 0 for none", low=0.0)
        warmup: int = setting(2, "epochs over which beta grows from 0; 0 for all of it at once", low=0)
        clamp: bool = setting(True, "whether an upper bound below 0, which fits badly, counts as 0")
        temperature: float = setting(0.1, "temperature of InfoNCE", low=1e-6)
        identity: str = setting("modality", "what identity embeddings say", choices=("modality", "position", "none"))
        fusion: str = setting("vectors", "tokens: one per modality, or steps too", choices=("vectors", "sequence"))
        dim: int = setting(128, "width of vectors and tokens", low=1)
        code: int = setting(64, "width of the codes that InfoNCE compares", low=1)
        hidden: int = setting(32, "units of the audio and vision LSTMs, per direction", low=1)
        layers: int = setting(2, "layers of the fusing transformer", low=1)
        heads: int = setting(4, "its attention heads, a divisor of dim", low=1)
        dropout: float = setting(0.1, "dropout in the fusing transformer and the head", low=0.0, high=1.0)

        def __post_init__(self) -> None:
            """Check that the heads divide the width and that positions have steps to number."""
            super().__post_init__()
            if self.dim % self.heads:
                raise ConfigError(f"{self.where('heads')} is {self.heads}; it must divide dim, {self.dim}.")
            if self.identity == "position" and self.fusion != "sequence":
                raise ConfigError(
                    f"{self.where('identity')} is 'position', which numbers steps; set fusion to 'sequence'."
                )

    config: Config

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
        embeddings: nn.Embedding = cast(Any, encoder.model).get_input_embeddings()
        return embeddings

    def stages(self) -> tuple[Stage, ...]:
        """Return the two steps that every batch takes, or only the main one where nothing is minimised."""
        if not self.config.beta:
            return (Stage("main"),)
        return Stage("estimate", "estimator"), Stage("main", follows=True)

    def parameter_groups(self) -> dict[str, list[dict[str, Any]]]:
        """Return the groups of the main optimiser and of the one that fits the Gaussians."""
        estimators = list(self.estimators.parameters())
        inside = {id(parameter) for parameter in estimators}
        rest = [parameter for parameter in self.parameters() if id(parameter) not in inside]
        return {
            "main": self.main_groups(rest),
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

    def forward(self, batch: Batch) -> Output:
        """Return the prediction ``(B, outputs)`` and what the bounds compare.

        ``named`` holds, beside what the network gives, the moments ``mean_<modality>`` and ``logvar_<modality>`` of the
        vectors given the inputs. Each step of training differentiates its own part alone.
        """
        learns, estimating = torch.is_grad_enabled(), self.stages()[batch.stage].name == "estimate"
        with torch.set_grad_enabled(learns and not (estimating and self.training)):
            output: Output = self.network(self.features(batch))
        summaries = self.summaries(batch) if self.estimators else {}
        for name, x in summaries.items():
            if estimating and self.training:
                cast(RunningStandard, self.standards[name]).update(x)
            with torch.set_grad_enabled(learns and estimating):
                mean, logvar = self.estimators[name](self.standards[name](x))
            output.named |= {f"mean_{name}": mean, f"logvar_{name}": logvar.tanh()}
        return output

    def objective(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms of the step that the batch belongs to."""
        c, named = self.config, output.named
        given = {name: (named[f"mean_{name}"], named[f"logvar_{name}"]) for name in self.estimators}
        if self.stages()[batch.stage].name == "estimate":
            fits = [gaussian_log_likelihood(named[f"h_{name}"].detach(), *given[name], True) for name in given]
            return {"estimate": -torch.stack(fits).sum()}
        terms = super().objective(output, batch)
        if c.alpha:
            codes = [named[f"code_{name}"] for name in self.network.projections]
            nce = [info_nce(first, second, c.temperature) for first, second in combinations(codes, 2)]
            terms["nce"] = c.alpha * torch.stack(nce).sum()
        if given:
            bounds = torch.stack([club(named[f"h_{name}"], *moments) for name, moments in given.items()])
            terms["club"] = self.club_weight * (bounds.clamp(min=0.0) if c.clamp else bounds).sum()
        return terms
