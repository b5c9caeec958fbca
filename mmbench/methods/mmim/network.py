"""The network of MMIM: a vector per modality, the fused vector, the prediction, and the bounds between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data_modules.schema import PaddedSequence
from mmbench.methods.mmim.config import MMIMConfig
from mmbench.methods.output import Output
from mmbench.nn.dropout import Dropout
from mmbench.nn.mutual_information import CosinePredictor, GaussianConditional
from mmbench.nn.pooling import masked_mean
from mmbench.nn.recurrent import LSTMVector


@dataclass(kw_only=True)
class MMIMOutput(Output):
    """The prediction and what the bounds compare.

    Attributes:
        h: ``(B, width)`` by modality.
        z: ``(B, fusion_dim)``, what the head reads.
        predicted: Of ``h``, from ``z``.
        mean: Of y given x by pair ``<x>_<y>``.
        logvar: Beside it.
        code: By pair the code of y whose entropy is estimated.
    """

    h: dict[str, Tensor]
    z: Tensor
    predicted: dict[str, Tensor]
    mean: dict[str, Tensor]
    logvar: dict[str, Tensor]
    code: dict[str, Tensor]


class MMIMNetwork(nn.Module):
    """Encoders, fusion and the networks of the two bounds.

    Args:
        dims: Features per step by modality, in the order text, audio, vision.
        outputs: Width of the prediction.
        settings: The method's settings.
    """

    def __init__(self, dims: Mapping[str, int], outputs: int, settings: MMIMConfig) -> None:
        super().__init__()
        c = settings
        self.text_pooling = c.text_pooling
        self.widths = {name: dim if name == "text" else c.out for name, dim in dims.items()}
        between = c.encoder_dropout if c.layers > 1 else 0.0  # one layer has none at all in the official code
        self.encoders = nn.ModuleDict(
            {
                name: LSTMVector(dim, c.hidden, c.out, c.layers, c.bidirectional, between)
                for name, dim in dims.items()
                if name != "text"
            }
        )
        self.dropout = Dropout(c.dropout)
        self.fusion = nn.Sequential(
            nn.Linear(sum(self.widths.values()), c.fusion_dim),
            nn.Tanh(),
            nn.Linear(c.fusion_dim, c.fusion_dim),
            nn.Tanh(),
        )
        self.head = nn.Linear(c.fusion_dim, outputs)
        self.pairs: dict[str, tuple[str, str]] = {}
        if c.contrast:
            pairs = [("text", name) for name in dims if name != "text"] if "text" in dims else []
            if {"audio", "vision"} <= set(dims) and (c.add_va or not pairs):
                pairs.append(("vision", "audio"))
            self.pairs = {f"{x}_{y}": (x, y) for x, y in pairs}
        self.gaussians = nn.ModuleDict(
            {pair: GaussianConditional(self.widths[x], self.widths[y]) for pair, (x, y) in self.pairs.items()}
        )
        self.code_widths = {pair: max(1, self.widths[y] // 4) for pair, (_, y) in self.pairs.items()}
        self.entropy_projectors = nn.ModuleDict(
            {
                pair: nn.Sequential(nn.Linear(self.widths[y], self.code_widths[pair]), nn.Tanh())
                for pair, (_, y) in self.pairs.items()
            }
        )
        self.predictors = nn.ModuleDict(
            {name: CosinePredictor(c.fusion_dim, width, c.cpc_layers) for name, width in self.widths.items()}
            if c.contrast
            else {}
        )
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)

    def bound_parameters(self) -> list[nn.Parameter]:
        """Return what the first pass of an epoch may change: the Gaussians and the entropy projectors."""
        return [*self.gaussians.parameters(), *self.entropy_projectors.parameters()]

    def _vector(self, name: str, sequence: PaddedSequence) -> Tensor:
        if name != "text":
            return self.encoders[name](sequence)
        return sequence.values[:, 0] if self.text_pooling == "first" else masked_mean(sequence.values, sequence.mask)

    def forward(self, inputs: Mapping[str, PaddedSequence]) -> MMIMOutput:
        """Return prediction and representations of a batch."""
        vectors = {name: self._vector(name, inputs[name]) for name in self.widths}
        z = self.fusion(self.dropout(torch.cat(list(vectors.values()), dim=-1)))
        predicted = {name: predictor(z) for name, predictor in self.predictors.items()}
        mean, logvar, code = {}, {}, {}
        for pair, (x, y) in self.pairs.items():
            mean[pair], logvar[pair] = self.gaussians[pair](vectors[x])
            code[pair] = self.entropy_projectors[pair](vectors[y])
        return MMIMOutput(self.head(z), h=vectors, z=z, predicted=predicted, mean=mean, logvar=logvar, code=code)
