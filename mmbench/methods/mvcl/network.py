"""The network of MVCL: encoders, modalities that read each other, fusion, head, and projectors of the contrasts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data_modules.schema import PaddedSequence
from mmbench.methods.mvcl.config import MVCLConfig
from mmbench.methods.mvcl.encoders import (
    ConvolutionTokens,
    LSTMTokens,
    MutualEncoder,
    TextTokens,
    TokenEncoder,
    ViewFusion,
)
from mmbench.methods.output import Output
from mmbench.nn.contrastive import Projector
from mmbench.nn.dropout import Dropout

PARTS = ("encoders", "interaction", "fusion", "head")
"""The network in the order of its data flow; a phase trains one part, and some train the part before it too."""


@dataclass(kw_only=True)
class MVCLOutput(Output):
    """The prediction and the representations.

    Attributes:
        view: ``(B, dim)`` by view ``<x>_<y>_<z>``.
        fused: ``(B, dim)``.
        projected: Of unit length, by modality, by view and as ``fused``: what the contrasts compare.
    """

    view: dict[str, Tensor]
    fused: Tensor
    projected: dict[str, Tensor]


class MVCLNetwork(nn.Module):
    """Encoders, interaction, fusion and head, and the projectors of the contrasts that are used.

    Args:
        dims: Features per step by modality, two or three of them.
        outputs: Width of the prediction.
        settings: The method's settings.
        text_ends: Whether text begins with [CLS] and ends with [SEP].
    """

    def __init__(self, dims: Mapping[str, int], outputs: int, settings: MVCLConfig, text_ends: bool = False) -> None:
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
        self.interaction = MutualEncoder(token_widths, c.dim, c.heads, c.layers, c.attention_dropout)
        views = self.interaction.views
        self.view_projectors = nn.ModuleDict({view: Projector(c.dim) for view in views if "cross" in contrasts})
        self.fusion = ViewFusion(len(views), c.dim, c.heads, c.attention_dropout_fusion, c.dropout_fusion)
        self.fused_projector = Projector(c.dim) if "fused" in contrasts else None
        self.head = nn.Sequential(nn.Linear(c.dim, c.post_fusion), nn.ReLU(), nn.Linear(c.post_fusion, outputs))

    @staticmethod
    def _encoder(name: str, dim: int, c: MVCLConfig, text_ends: bool) -> tuple[nn.Module, int, int]:
        """Return the encoder of a modality and the widths of its vector and of its tokens, 0 for ``dim`` already."""
        if name == "text":
            return TextTokens(text_ends, c.legacy_no_mask), dim, dim
        out: int = getattr(c, f"out_{name}") if "unimodal" in c.contrasts() else 0  # only that contrast has vectors
        if c.encoder == "lstm":
            hidden: int = getattr(c, f"hidden_{name}")
            return LSTMTokens(dim, hidden, out, c.legacy_no_mask), out, hidden
        dropouts = (getattr(c, f"attention_dropout_{name}"), 0.0, 0.0, c.embed_dropout)
        reader = TokenEncoder(c.dim, c.heads, c.unimodal_layers, *dropouts, project=out, pooled=out > 0)
        return ConvolutionTokens(dim, c.dim, getattr(c, f"kernel_{name}"), reader, c.legacy_no_mask), out, 0

    def parts(self) -> dict[str, nn.ModuleList]:
        """Return the modules of each of :data:`PARTS`, with the projectors that only its own contrast reaches."""
        return {
            "encoders": nn.ModuleList([self.encoders, self.unimodal]),
            "interaction": nn.ModuleList([self.interaction, self.view_projectors]),
            "fusion": nn.ModuleList([self.fusion, *([self.fused_projector] if self.fused_projector else [])]),
            "head": nn.ModuleList([self.head]),
        }

    def forward(self, features: Mapping[str, PaddedSequence], trained: Iterable[str] = PARTS) -> MVCLOutput:
        """Return prediction and representations of a batch.

        Args:
            features: The modalities, ``(B, T_m, dims[m])`` each.
            trained: The parts through which gradients flow, neighbours in :data:`PARTS`.
        """
        learns, trained = torch.is_grad_enabled(), set(trained)
        with torch.set_grad_enabled(learns and "encoders" in trained):
            encoded = {name: self.encoders[name](features[name]) for name in self.encoders}
            projected = {name: module(encoded[name][0]) for name, module in self.unimodal.items()}
        with torch.set_grad_enabled(learns and "interaction" in trained):
            views = self.interaction({name: tokens for name, (_, tokens) in encoded.items()})
            projected |= {view: module(views[view]) for view, module in self.view_projectors.items()}
        with torch.set_grad_enabled(learns and "fusion" in trained):
            fused = self.fusion(views.values())
            if self.fused_projector:
                projected["fused"] = self.fused_projector(fused)
        with torch.set_grad_enabled(learns and "head" in trained):
            return MVCLOutput(self.head(fused), view=views, fused=fused, projected=projected)
