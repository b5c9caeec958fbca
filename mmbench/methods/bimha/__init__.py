"""BIMHA: multi-head attention over the bimodal representations says how much each pair of modalities counts.

Paper: Wu, Peng, Zhang, Zhang, Ma, Huang, "Video Sentiment Analysis with Bimodal Information-augmented Multi-Head
Attention", Knowledge-Based Systems 2022, arXiv 2103.02362. No official code was found. The idea, pairs of modalities
that interact, attention over the pairs, a residual structure, is the abstract's; every size and formula below is
inferred (see the card).

Steps. Each modality becomes a vector ``u_m`` as in TFN (text by an LSTM, audio and vision by their time average and a
DNN). Each pair becomes a token ``p_xy = ReLU(W_xy vec([u_x; 1] [u_y; 1]^T) + b_xy)``, the outer product as in TFN, with
weights of its own. The tokens ``P``, plus a learned vector per pair, attend to each other in several heads:

    S_h = softmax(P W_h^Q (P W_h^K)^T / sqrt(d_k)),    P' = LayerNorm(P + [S_1 P W_1^V; ...] W^O).

Their concatenation with the ``u_m``, a second residual path, is read by one hidden layer. The mean of ``S`` over heads
and queries is the share of each pair in a sample; its mean over the samples of an epoch is logged beside the loss.

Shapes: inputs ``(B, T_m, D_m)``; ``u_m`` ``(B, d)``; ``P`` ``(B, K, d_p)`` for K pairs; ``S`` ``(B, heads, K, K)``;
prediction ``(B, outputs)``. Loss: the task loss alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import torch
from torch import Tensor, nn

from data_modules.schema import Batch, DataSpec, ModalitySpec, Sequence
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import ConfigError, MethodConfig, setting
from mmbench.nn.dropout import Dropout
from mmbench.nn.encoders import Subnetworks
from mmbench.nn.fusion import LowRankFusion, outer_product
from mmbench.nn.transformer import Attention
from mmbench.tasks import Task


class PairFusion(nn.Module):
    """The token of a pair: a product of two vectors, one linear layer, ReLU, dropout.

    Args:
        names: The two modalities.
        width: Width ``d`` of their vectors.
        outputs: Width ``d_p`` of the token.
        operation: ``outer`` (every product of two entries, single entries among them), ``lowrank`` (the same with a
            weight tensor of low rank), ``hadamard`` (products of equal entries) or ``concat`` (no products).
        rank: Rank for ``lowrank``.
        dropout: Dropout on the token.
    """

    def __init__(
        self, names: tuple[str, str], width: int, outputs: int, operation: str, rank: int, dropout: float
    ) -> None:
        super().__init__()
        self.names, self.operation = names, operation
        self.fusion: nn.Module
        if operation == "lowrank":
            self.fusion = LowRankFusion(dict.fromkeys(names, width), outputs, rank)
        else:
            inputs = {"outer": (width + 1) ** 2, "hadamard": width, "concat": 2 * width}
            self.fusion = nn.Linear(inputs[operation], outputs)
        self.dropout = Dropout(dropout)

    def forward(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Return ``(B, d_p)`` from the vectors ``(B, d)`` by modality."""
        pair = [vectors[name] for name in self.names]
        if self.operation == "lowrank":
            fused = self.fusion(vectors)
        elif self.operation == "outer":
            fused = self.fusion(outer_product(pair))
        else:
            fused = self.fusion(pair[0] * pair[1] if self.operation == "hadamard" else torch.cat(pair, dim=-1))
        token: Tensor = self.dropout(fused.relu())
        return token


class PairAttention(nn.Module):
    """Multi-head attention that tells its weights, with residual and LayerNorm: ``LayerNorm(x + attention)``.

    Args:
        width: Width of queries and tokens.
        heads: Number of heads; must divide the width.
        dropout: Dropout on what attention adds.
        weighted: Whether queries weigh the tokens; otherwise every token weighs the same.
        residual: Whether the queries are added to what they read.
    """

    def __init__(self, width: int, heads: int, dropout: float, weighted: bool, residual: bool) -> None:
        super().__init__()
        self.weighted, self.residual = weighted, residual
        self.attention = Attention(width, heads)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return what becomes of the queries ``(B, Q, width)`` and the weights ``(B, heads, Q, K)``, one in total.

        Args:
            queries: ``(B, Q, width)``.
            tokens: ``(B, K, width)``, keys and values.
        """
        q, k, v = (part.transpose(1, 2) for part in self.attention.project(queries, tokens, tokens))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        weights = (scores if self.weighted else torch.zeros_like(scores)).softmax(-1)
        read = self.dropout(self.attention.out((weights @ v).transpose(1, 2).flatten(2)))
        return self.norm(queries + read if self.residual else read), weights


class BIMHANetwork(nn.Module):
    """Vectors of the modalities, tokens of their pairs, attention over the tokens, head.

    Args:
        modalities: The modalities of the data.
        dims: Features per step by modality (of text: after its encoder).
        outputs: Width of the prediction.
        settings: Sizes, dropouts and switches.
    """

    def __init__(
        self, modalities: Mapping[str, ModalitySpec], dims: Mapping[str, int], outputs: int, settings: BIMHA.Config
    ) -> None:
        super().__init__()
        c = settings
        self.pairs = {f"{x}_{y}": (x, y) for x, y in combinations(modalities, 2) if getattr(c, f"pair_{x}_{y}")}
        self.from_vectors, self.keep = c.queries == "unimodal", c.keep_unimodal
        # A modality of which nothing would be used has no encoder.
        read = {name for pair in self.pairs.values() for name in pair}
        used = {name: spec for name, spec in modalities.items() if name in read or c.keep_unimodal or self.from_vectors}
        self.subnetworks = Subnetworks(
            used, dims, dict.fromkeys(used, c.width), c.text_hidden, dropout=c.encoder_dropout
        )
        token = partial(
            PairFusion,
            width=c.width,
            outputs=c.pair_width,
            operation=c.pair_op,
            rank=c.rank,
            dropout=c.pair_dropout,
        )
        self.tokens = nn.ModuleDict({name: token(pair) for name, pair in self.pairs.items()})
        self.embedding = nn.Parameter(0.02 * torch.randn(len(self.pairs), c.pair_width)) if c.pair_embedding else None
        self.queries = nn.ModuleDict(
            {name: nn.Linear(c.width, c.pair_width) for name in used} if self.from_vectors else {}
        )
        self.layers = nn.ModuleList(
            PairAttention(c.pair_width, c.heads, c.pair_dropout, c.attention, c.residual) for _ in range(c.layers)
        )
        rows = len(used) if self.from_vectors else len(self.pairs)
        self.head = nn.Sequential(
            Dropout(c.head_dropout),
            nn.Linear(rows * c.pair_width + c.keep_unimodal * len(used) * c.width, c.head_width),
            nn.ReLU(),
            nn.Linear(c.head_width, outputs),
        )

    def forward(self, inputs: Mapping[str, Sequence]) -> Output:
        """Return prediction and attention.

        Returns:
            ``named`` holds ``attention (B, layers, heads, Q, K)`` and for each pair ``<x>_<y>`` its share
            ``weight_<x>_<y> (B,)``, the mean over layers, heads and queries; the shares of a sample add up to 1.
        """
        vectors = self.subnetworks(inputs)
        tokens = torch.stack([token(vectors) for token in self.tokens.values()], dim=1)
        if self.embedding is not None:
            tokens = tokens + self.embedding
        states = tokens
        if self.from_vectors:
            states = torch.stack([query(vectors[name]) for name, query in self.queries.items()], dim=1)
        maps = []
        for layer in self.layers:
            states, weights = layer(states, tokens if self.from_vectors else states)
            maps.append(weights)
        attention = torch.stack(maps, dim=1)
        named = {"attention": attention}
        for name, share in zip(self.pairs, attention.mean((1, 2, 3)).unbind(-1), strict=True):
            named[f"weight_{name}"] = share
        joined = torch.cat([states.flatten(1), *(vectors.values() if self.keep else ())], dim=-1)
        return Output(self.head(joined), named)


class BIMHA(FusionMethod):
    """Bimodal information-augmented multi-head attention."""

    card = MethodCard(
        title="BIMHA: Video Sentiment Analysis with Bimodal Information-augmented Multi-Head Attention",
        authors="Wu, Peng, Zhang, Zhang, Ma, Huang",
        year=2022,
        venue="Knowledge-Based Systems",
        arxiv="2103.02362",
        fidelity="abstract",
        deviations=(
            "Only the abstract was read: pairs of modalities, multi-head attention over the three pairs and a "
            "residual structure are the paper's, all else is inferred.",
            "Inferred: the vectors of the modalities are those of TFN (text LSTM, time averages through a DNN), with "
            "widths and dropouts of the same family.",
            "Inferred: a pair is the outer product of its vectors with a 1 appended, one linear layer and ReLU, with "
            "weights of its own for each pair.",
            "Inferred: the pairs are the tokens of one self-attention layer with four heads and a learned vector per "
            "pair; queries=unimodal is the other reading, in which the modalities attend to the pairs.",
            "Inferred: the residual paths are the one around the attention, followed by LayerNorm, and the vectors of "
            "the modalities beside the pairs at the head.",
            "Inferred: head of one hidden layer, L1 or cross-entropy loss, Adam with a small L2 penalty.",
            "Inferred: with two modalities there is one pair, which attends to itself.",
        ),
        findings=(
            "Attention starts even, for tokens are near zero, and hardly matters: on the generated set shares "
            "deviate by 0.0005 from a third after 5 epochs, when validation is at 0.28, and by 0.06 after 17; "
            "without attention validation is as good (0.24).",
        ),
        needs=Needs(at_least=2),
    )

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings of BIMHA; none of the paper's is known."""

        weight_decay: float = setting(1e-4, "L2 penalty inside Adam", low=0.0)
        width: int = setting(32, "width d of the vector of a modality", low=1)
        text_hidden: int = setting(64, "units of the text LSTM", low=1)
        pair_width: int = setting(64, "width d_p of the token of a pair", low=1)
        heads: int = setting(4, "attention heads, a divisor of pair_width", low=1)
        layers: int = setting(1, "attention layers", low=1)
        head_width: int = setting(64, "width of the head's hidden layer", low=1)
        encoder_dropout: float = setting(0.3, "dropout in the encoders of the modalities", low=0.0, high=1.0)
        pair_dropout: float = setting(0.2, "dropout on tokens and on what attention adds to them", low=0.0, high=1.0)
        head_dropout: float = setting(0.3, "dropout on what the head reads", low=0.0, high=1.0)
        pair_op: str = setting(
            "outer", "what becomes of two vectors", choices=("outer", "lowrank", "hadamard", "concat")
        )
        rank: int = setting(4, "rank of the weights where pair_op is lowrank", low=1, needs={"pair_op": "lowrank"})
        pair_text_audio: bool = setting(True, "whether text and audio are a pair")
        pair_text_vision: bool = setting(True, "whether text and vision are a pair")
        pair_audio_vision: bool = setting(True, "whether audio and vision are a pair")
        pair_embedding: bool = setting(True, "whether a learned vector tells the pairs apart")
        queries: str = setting(
            "pairs", "what attends to the pairs: the pairs themselves or the modalities", choices=("pairs", "unimodal")
        )
        attention: bool = setting(True, "whether attention weighs the pairs; otherwise all weigh the same")
        residual: bool = setting(True, "whether there is a residual path around the attention")
        keep_unimodal: bool = setting(True, "whether the head reads the vectors of the modalities, too")

        def __post_init__(self) -> None:
            """Check that the heads divide the width."""
            super().__post_init__()
            if self.pair_width % self.heads:
                raise ConfigError(
                    f"{self.where('heads')} is {self.heads}; it must divide pair_width, {self.pair_width}."
                )

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        pairs = [f"pair_{x}_{y}" for x, y in combinations(spec.modalities, 2)]
        if not any(getattr(self.config, name) for name in pairs):
            raise ConfigError(
                f"{self.config.where(pairs[0])} is off and no pair is left on {spec.track}, which has "
                f"{', '.join(spec.modalities)}; turn on one of: {', '.join(pairs)}."
            )
        self.network = BIMHANetwork(spec.modalities, self.dims, self.task.outputs, self.config)

    def forward(self, batch: Batch) -> Output:
        """Return the prediction ``(B, outputs)`` and the attention over the pairs, by sample."""
        output: Output = self.network(self.features(batch))
        return output

    def objective(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Return the task loss, and in training count the share of each pair among what is logged of the epoch."""
        if self.training:
            for name in (name for name in output.named if name.startswith("weight_")):
                self._sums[name] = self._sums.get(name, 0.0) + output.named[name].detach().sum()
                self._seen[name] = self._seen.get(name, 0) + batch.size
        return super().objective(output, batch)
