"""The network of MIB: encoders, bottlenecks, a fusion and decoders."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial, reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import PaddedSequence
from mmbench.methods.mib.config import MIBConfig
from mmbench.methods.mib.graph_fusion import GraphFusion
from mmbench.methods.output import Output
from mmbench.nn.dropout import Dropout
from mmbench.nn.fusion import LowRankFusion, outer_product
from mmbench.nn.steps import Layout
from mmbench.nn.transformer import TransformerEncoder, official_positions
from mmbench.nn.variational import GaussianEncoder, product_of_experts, reparameterised


class MIBEncoder(nn.Module):
    """One modality as one vector: convolution over three steps, Transformer, last step.

    Args:
        dim: Features per step.
        settings: The method's settings.
        transformer: Whether there is a Transformer; hidden states of a text encoder have passed one already.
        steps: With ``legacy_padding`` the length that sequences are padded to; longer ones keep their own.
    """

    def __init__(self, dim: int, settings: MIBConfig, transformer: bool, steps: int) -> None:
        super().__init__()
        c = settings
        self.legacy, self.steps = c.legacy_padding, steps
        self.convolution = nn.Conv1d(dim, c.dim, 3, padding=1, bias=False)
        dropouts = (c.attention_dropout, c.relu_dropout, c.residual_dropout, c.embed_dropout)
        self.transformer = TransformerEncoder(c.dim, c.heads, c.layers, *dropouts) if transformer else None

    def forward(self, sequence: PaddedSequence) -> Tensor:
        """Return ``(B, d)``."""
        values = sequence.values
        if self.legacy:
            values = F.pad(values, (0, 0, 0, max(0, self.steps - values.shape[1])))
        layout = Layout.of_all(values) if self.legacy else Layout.of(sequence)
        rows = layout.convolve(layout.rows(values), self.convolution)
        if self.transformer is None:
            return layout.last(rows)
        positions = official_positions(rows, layout) if self.legacy else layout.positions
        return self.transformer(rows, layout, positions, last=True)


class JoinedFusion(nn.Module):
    """Vectors joined into one without parameters, and layers on top.

    Args:
        join: From ``(B, d)`` vectors to one of any width.
        layers: From there to ``(B, d)``.
    """

    def __init__(self, join: Callable[[list[Tensor]], Tensor], layers: nn.Module) -> None:
        super().__init__()
        self.join, self.layers = join, layers

    def forward(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Return ``(B, d)`` from ``(B, d)`` each."""
        return self.layers(self.join(list(vectors.values())))


@dataclass(kw_only=True)
class MIBOutput(Output):
    """The prediction, vectors and codes, ``(B, d)`` each.

    Attributes:
        x: By modality, what enters a bottleneck or goes on without one.
        fused: The same of the fusion.
        mean: By modality with a bottleneck, and of ``fused``.
        std: Beside it.
        z: What is drawn with these.
        alone: ``(B, outputs)`` by modality with a bottleneck, its own prediction.
    """

    x: dict[str, Tensor]
    fused: Tensor
    mean: dict[str, Tensor]
    std: dict[str, Tensor]
    z: dict[str, Tensor]
    alone: dict[str, Tensor] = field(metadata={"named": "prediction"})


class MIBNetwork(nn.Module):
    """Encoders, bottlenecks, fusion and decoders; only what the variant uses is built.

    Args:
        dims: Features per step by modality.
        outputs: Width of the predictions.
        settings: The method's settings.
        contextual: Modalities that need no Transformer.
        steps: Longest length by modality, for ``legacy_padding``.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int,
        settings: MIBConfig,
        contextual: frozenset[str] = frozenset(),
        steps: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        c, names, lengths = settings, tuple(dims), steps or {}
        self.eval_noise = c.eval_noise
        self.encoders = nn.ModuleDict(
            {name: MIBEncoder(dim, c, name not in contextual, lengths.get(name, 0)) for name, dim in dims.items()}
        )
        self.unimodal = names if c.variant in ("l", "c") else ()
        self.coded = (*self.unimodal, *(("fused",) if c.variant in ("e", "c") else ()))
        self.bottlenecks = nn.ModuleDict({name: GaussianEncoder(c.dim, c.hidden, c.dim) for name in self.coded})
        self.fusion = _fusion(c, names)
        self.decoders = nn.ModuleDict({name: nn.Linear(c.dim, outputs) for name in (*self.unimodal, "fused")})
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and not name.endswith(".packed"):  # as BERT's initialisation does
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def _draw(self, mean: Tensor, std: Tensor) -> Tensor:
        return reparameterised(mean, std) if self.training or self.eval_noise else mean

    def forward(self, inputs: Mapping[str, PaddedSequence]) -> MIBOutput:
        """Return prediction, vectors and codes of a batch."""
        x = {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}
        mean, std, z, alone = {}, {}, {}, {}
        for name in self.unimodal:
            mean[name], std[name] = self.bottlenecks[name](x[name])
            z[name] = self._draw(mean[name], std[name])
            alone[name] = self.decoders[name](z[name])
        if self.fusion is None:  # the paper puts its Sigma, a deviation, in both places
            fused = self._draw(*product_of_experts(list(mean.values()), list(std.values())))
        else:
            fused = self.fusion({**x, **z})
        if "fused" in self.coded:
            mean["fused"], std["fused"] = self.bottlenecks["fused"](fused)
            z["fused"] = self._draw(mean["fused"], std["fused"])
        prediction = self.decoders["fused"](z.get("fused", fused))
        return MIBOutput(prediction, x=x, fused=fused, mean=mean, std=std, z=z, alone=alone)


def _fusion(settings: MIBConfig, names: tuple[str, ...]) -> nn.Module | None:
    """Return the chosen fusion of ``(B, d)`` by modality to ``(B, d)``; none for the product of experts."""
    dim, count = settings.dim, len(names)
    # Around the tensor fusion the official file of c has other activations than those of e and l.
    first, last = (nn.Tanh(), nn.Tanh()) if settings.variant == "c" else (nn.Identity(), nn.ReLU())
    makers: dict[str, Callable[[], nn.Module | None]] = {
        "concat": lambda: JoinedFusion(
            partial(torch.cat, dim=-1), nn.Sequential(nn.Linear(count * dim, dim), nn.ReLU())
        ),
        "addition": lambda: JoinedFusion(partial(reduce, operator.add), nn.Identity()),
        "multiplication": lambda: JoinedFusion(partial(reduce, operator.mul), nn.Identity()),
        "tensor": lambda: JoinedFusion(
            outer_product,
            nn.Sequential(
                Dropout(settings.tensor_dropout),
                *(nn.Linear((dim + 1) ** count, dim), first),
                *(nn.Linear(dim, dim), nn.Tanh()),
                *(nn.Linear(dim, dim), last),
            ),
        ),
        "low_rank": lambda: LowRankFusion(dict.fromkeys(names, dim), dim, settings.rank),
        "graph": lambda: GraphFusion(names, dim),
        "poe": lambda: None,
    }
    return makers[settings.fusion]()
