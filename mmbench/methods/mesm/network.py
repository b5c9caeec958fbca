"""The network of FE2E and MESM: encoders of the modalities, a head each, and the sum of their logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import ModalitySpec, PaddedSequence
from mmbench.methods.config import ConfigError
from mmbench.methods.mesm.config import MESMConfig
from mmbench.methods.mesm.sparse import SparseTower
from mmbench.methods.mesm.vgg import POOLS, WINDOW, Faces, Pieces, crop_corner, dense_tower
from mmbench.methods.output import Output
from mmbench.nn.encoders import FeatureNorm
from mmbench.nn.pooling import masked_mean
from mmbench.nn.steps import Layout, encode


class PictureEncoder(nn.Module):
    """A vector per frame or spectrogram piece.

    Args:
        source: Makes the pictures.
        text: Width of the text vector.
        settings: Sizes and switches.
    """

    def __init__(self, source: Faces | Pieces, text: int, settings: MESMConfig) -> None:
        super().__init__()
        c = settings
        self.source = source
        self.tower: nn.Module = (
            SparseTower(source.channels, c.width, text, c.nucleus, c.attn_gate, c.legacy_site_order, c.sparse_momentum)
            if c.sparse
            else dense_tower(source.channels, c.width)
        )
        height, width = (side >> POOLS for side in source.shape)
        self.project = nn.Sequential(
            nn.Flatten(), nn.Linear(8 * c.width * height * width, c.hidden), nn.ReLU(), nn.Linear(c.hidden, c.dim)
        )

    def forward(self, sequence: PaddedSequence, text: Tensor | None) -> tuple[PaddedSequence, Tensor | None]:
        """Return vectors ``(B, T, dim)`` and, if sparse, the share of the dense blocks' cost per sample, ``(B,)``.

        Args:
            sequence: Frames or waveform.
            text: ``(B, D)``, needed by the sparse tower only.
        """
        pictures = self.source(sequence)
        # Of a blank picture the running statistics must learn nothing; its gradients are zero anyway.
        self.tower.train(self.training and not pictures.blank)
        if not isinstance(self.tower, SparseTower):
            return pictures.sequence(self.project(self.tower(pictures.values))), None
        maps, flops, dense = self.tower(pictures.values, text, pictures.rows)
        spent = flops.new_zeros(len(pictures.lengths)).index_add(0, pictures.rows, flops)
        # A sample without pictures spends nothing and saves nothing.
        share = torch.where(pictures.lengths > 0, spent / (dense * pictures.lengths.clamp(min=1)), 1.0)
        return pictures.sequence(self.project(maps)), share


class FeatureEncoder(nn.Module):
    """A vector per step of features: normalised, since they mix units, and brought to the width of the states.

    Args:
        features: Features per step.
        dim: Width of the vectors.
    """

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.norm = FeatureNorm(features)
        self.project = nn.Linear(features, dim)

    def forward(self, sequence: PaddedSequence, text: Tensor | None) -> tuple[PaddedSequence, Tensor | None]:
        """Return vectors ``(B, T, dim)`` of features ``(B, T, D)``; the text has no say."""
        layout = Layout.of(sequence)
        vectors = self.project(self.norm(layout.rows(sequence.values), layout.real))
        return PaddedSequence(layout.padded(vectors), sequence.lengths), None


class StateEncoder(nn.Module):
    """A post-norm Transformer encoder without positions beside a learned vector, whose output is the state.

    The vector is officially the first step. Without positions any place is the same, and the last one is where the
    last layer need compute nothing else.

    Args:
        settings: Width, layers, heads, feed-forward width and dropout.
    """

    def __init__(self, settings: MESMConfig) -> None:
        super().__init__()
        c = settings
        self.start = nn.Parameter(torch.randn(1, c.dim))
        layer = nn.TransformerEncoderLayer(c.dim, c.heads, c.feed_forward, c.dropout, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, c.layers, enable_nested_tensor=False)

    def forward(self, sequence: PaddedSequence) -> Tensor:
        """Return ``(B, dim)`` from ``(B, T, dim)``."""
        steps = PaddedSequence(F.pad(sequence.values, (0, 0, 0, 1)), sequence.lengths + 1)
        layout = Layout.of(steps)
        ends = layout.step + 1 == layout.lengths[layout.sample]
        rows = torch.where(ends[:, None], self.start.to(steps.values.dtype), layout.rows(steps.values))
        return encode(self.layers, rows, layout, last=True)


@dataclass(kw_only=True)
class MESMOutput(Output):
    """The prediction and what it is made of.

    Attributes:
        logits: ``(B, outputs)`` by modality.
        state: ``(B, dim)`` by modality, without text that is read by its own encoder.
        flops: ``(B,)`` by modality with a sparse tower: which share of the dense blocks' cost the kept sites have.
    """

    logits: dict[str, Tensor]
    state: dict[str, Tensor]
    flops: dict[str, Tensor]


class MESMNetwork(nn.Module):
    """Encoders, heads and the weighted sum of the logits.

    Args:
        modalities: The modalities of the data.
        dims: Features per step by modality (of text: after its encoder).
        outputs: Width of the prediction.
        settings: Sizes and switches.
    """

    def __init__(
        self, modalities: Mapping[str, ModalitySpec], dims: Mapping[str, int], outputs: int, settings: MESMConfig
    ) -> None:
        super().__init__()
        c = settings
        self.pooling = c.text_pooling
        kinds = {name: spec.kind for name, spec in modalities.items()}
        # Vectors of words alone are a sequence like any other; beside media they are taken for states of an encoder.
        media = {"tokens", "frames", "waveform"} & set(kinds.values())
        self.reads_text = "text" in kinds and bool(media)
        self.encoders, self.states, self.heads = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for name, spec in modalities.items():
            if name == "text" and self.reads_text:
                self.heads[name] = nn.Linear(dims[name], outputs)
                continue
            self.encoders[name] = (
                PictureEncoder(_source(spec, c), dims.get("text", 0), c)
                if spec.kind in ("frames", "waveform")
                else FeatureEncoder(dims[name], c.dim)
            )
            self.states[name] = StateEncoder(c)
            self.heads[name] = nn.Linear(c.dim, outputs)
        self.fusion = nn.Linear(len(modalities), 1, bias=False) if len(modalities) > 1 else None

    def forward(self, inputs: Mapping[str, PaddedSequence]) -> MESMOutput:
        """Return prediction and what it is made of."""
        logits, states, flops = {}, {}, {}
        text = self._text(inputs["text"]) if self.reads_text else None
        for name, head in self.heads.items():
            if name not in self.encoders:
                logits[name] = head(text)
                continue
            vectors, share = self.encoders[name](inputs[name], text)
            states[name] = self.states[name](vectors)
            logits[name] = head(states[name])
            if share is not None:
                flops[name] = share
        joined = torch.stack(list(logits.values()), dim=-1)
        prediction = (joined if self.fusion is None else self.fusion(joined)).squeeze(-1)
        return MESMOutput(prediction, logits=logits, state=states, flops=flops)

    def _text(self, text: PaddedSequence) -> Tensor:
        """Return the text vector ``t``, ``(B, D)``."""
        if self.pooling == "mean":
            return masked_mean(text.values, text.mask)
        first = text.values[:, :1].masked_fill(~text.mask[:, :1, None], 0.0)
        return first.sum(1)  # of one step, or of none where no sample has a text


def _source(spec: ModalitySpec, c: MESMConfig) -> Faces | Pieces:
    """Return what makes pictures of a modality.

    Raises:
        ConfigError: When the data leave nothing to see.
    """
    if spec.kind == "frames":
        height, width = spec.size
        top, left = crop_corner(height, c.image_size)
        cut = c.framing == "legacy_crop" and (height, width) != (c.image_size, c.image_size)
        if cut and (left < 0 or left + c.image_size > width):
            raise ConfigError(
                f"{c.where('framing')} is 'legacy_crop', which cuts {c.image_size} rows from {top} and columns from "
                f"{left} of frames of {height} x {width}: set it to 'resize'."
            )
        return Faces(c.image_size, max(1, round(c.frame_interval * spec.rate)), c.framing)
    if int(spec.rate * WINDOW) < 2:
        raise ConfigError(
            f"The sound has {spec.rate:g} samples per second (0 where clips differ); spectrograms need one rate, of "
            f"{2 / WINDOW:g} or more. Import the clips again, resampled."
        )
    return Pieces(int(spec.rate), c.bands, c.piece)
