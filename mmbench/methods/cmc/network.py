"""The network of CMC: a vector per modality, late fusion, and predictors of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor, nn

from data_modules.schema import PaddedSequence
from mmbench.methods.cmc.config import CMCConfig
from mmbench.methods.cmc.curriculum import PairPredictor
from mmbench.methods.output import Output
from mmbench.nn.steps import Layout
from mmbench.nn.transformer import TransformerEncoder

_KERNEL = 3


class CMCEncoder(nn.Module):
    """A convolution, a Transformer (or none) and the last real step.

    Args:
        features: Features per step.
        layers: Layers of the Transformer; 0 for none.
        settings: Sizes and dropouts.
    """

    def __init__(self, features: int, layers: int, settings: CMCConfig) -> None:
        super().__init__()
        c = settings
        self.project = nn.Conv1d(features, c.dim, _KERNEL, padding=_KERNEL // 2, bias=False)
        dropouts = (c.attention_dropout, c.relu_dropout, c.residual_dropout, c.embed_dropout)
        self.transformer = TransformerEncoder(c.dim, c.heads, layers, *dropouts) if layers else None

    def forward(self, sequence: PaddedSequence) -> Tensor:
        """Return ``(B, dim)``."""
        layout = Layout.of(sequence)
        rows = layout.convolve(layout.rows(sequence.values), self.project)
        return layout.last(rows) if self.transformer is None else self.transformer(rows, layout, last=True)


@dataclass(kw_only=True)
class CMCOutput(Output):
    """The prediction and what pairs are made of.

    Attributes:
        h: ``(B, dim)`` by modality.
        fed: ``(2, levels)``, the losses of the pairs that are fed and their numbers, by bucket; set by the objective.
    """

    h: dict[str, Tensor]
    fed: Tensor | None = None


class CMCNetwork(nn.Module):
    """Encoders, head and correlation predictors.

    Args:
        dims: Features per step by modality, two or three of them.
        outputs: Width of the prediction.
        settings: The method's settings.
    """

    def __init__(self, dims: Mapping[str, int], outputs: int, settings: CMCConfig) -> None:
        super().__init__()
        c = settings
        self.encoders = nn.ModuleDict(
            {
                name: CMCEncoder(features, c.text_layers if name == "text" else c.layers, c)
                for name, features in dims.items()
            }
        )
        self.head = nn.Linear(c.dim * len(dims), outputs)
        self.couples = {f"{x}_{y}": (x, y) for x, y in combinations(dims, 2)} if c.correlation else {}
        self.predictors = nn.ModuleDict({name: PairPredictor(c.dim, c.hidden) for name in self.couples})

    def forward(self, inputs: Mapping[str, PaddedSequence]) -> CMCOutput:
        """Return the prediction and the vectors."""
        vectors = {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}
        prediction = self.head(torch.cat(list(vectors.values()), dim=-1))
        return CMCOutput(prediction, h=vectors)
