"""Encoders of one modality to one vector: a small Transformer, and the subnetworks of the tensor-fusion family."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from data_modules.schema import ModalitySpec, PaddedSequence
from mmbench.nn.dropout import Dropout
from mmbench.nn.gathering import BatchStatistics, summed
from mmbench.nn.pooling import masked_mean
from mmbench.nn.precision import at_least_single
from mmbench.nn.recurrent import LSTMVector
from mmbench.nn.steps import Layout, encode
from mmbench.nn.transformer import position_rows


class FeatureNorm(BatchStatistics, nn.Module):
    """Batch normalisation of raw features over real steps only.

    Raw audio and vision features mix units (hertz, probabilities, pixels), which differ by orders of magnitude. Unlike
    ``nn.BatchNorm1d`` padding has no say in the statistics, and a single row is normalised by the running ones instead
    of being refused. Under DDP the batch is a process's own, or, where ``gathers`` is set, that of all processes.

    Args:
        dim: Number of features.
        momentum: Weight of the current batch in the running statistics.
        epsilon: Added to the variance.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, dim: int, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("running_mean", torch.zeros(dim))
        self.register_buffer("running_variance", torch.ones(dim))

    def forward(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the normalised values, zero beyond the mask.

        Args:
            values: ``(..., dim)``.
            mask: ``(...)`` bool, ``True`` = real; by default everything is real.
        """
        real = values.new_ones(values.shape[:-1], dtype=torch.bool) if mask is None else mask
        # Half precision would blur the statistics.
        values = at_least_single(values).masked_fill(~real.unsqueeze(-1), 0.0)
        mean, variance = self._statistics(values, real.unsqueeze(-1)) if self.training else self._running()
        normal = (values - mean) * torch.rsqrt(variance + self.epsilon)
        return (normal * self.weight + self.bias).masked_fill(~real.unsqueeze(-1), 0.0)

    def _running(self) -> tuple[Tensor, Tensor]:
        return self.running_mean, self.running_variance

    def _of_all(self, total: Tensor) -> Tensor:
        return summed(total) if self.gathers else total

    def _statistics(self, values: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the real rows and move the running statistics towards them."""
        every = tuple(range(values.dim() - 1))
        count = self._of_all(real.sum()).to(values.dtype)
        mean = self._of_all(values.sum(every)) / count.clamp(min=1)
        squares = self._of_all(((values - mean) * real).square().sum(every))
        # One row has no variance; torch.where instead of a branch spares the device a round trip.
        enough = count > 1
        with torch.no_grad():
            weight = (self.momentum * enough).to(self.running_mean.dtype)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
            unbiased = (squares / (count - 1).clamp(min=1)).to(self.running_variance.dtype)
            self.running_variance.lerp_(unbiased, weight)
        return (
            torch.where(enough, mean, self.running_mean),
            torch.where(enough, squares / count.clamp(min=1), self.running_variance),
        )


def pre_norm_transformer(width: int, layers: int, heads: int, dropout: float) -> nn.TransformerEncoder:
    """Return pre-norm layers with networks of four times the width, and a norm at the end."""
    layer = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
    )
    return nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)


class StepEncoder(nn.Module):
    """Normalised features, positions and a small pre-norm Transformer: from a sequence to states of its steps.

    Args:
        dim: Features per step.
        width: Width of the states.
        layers: Number of layers.
        heads: Number of attention heads.
        dropout: Dropout probability, on the inputs and inside the layers.
    """

    def __init__(self, dim: int, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = FeatureNorm(dim)
        self.project = nn.Linear(dim, width)
        self.dropout = Dropout(dropout)
        self.layers = pre_norm_transformer(width, layers, heads, dropout)

    def states(self, sequence: PaddedSequence) -> tuple[Tensor, Layout]:
        """Return the states ``(N, width)`` of a sequence ``(B, T, dim)``, and where they belong."""
        layout = Layout.of(sequence)
        hidden = self.project(self.norm(layout.rows(sequence.values), layout.real))
        return encode(self.layers, self.dropout(hidden + position_rows(hidden, layout)), layout), layout


class SequenceEncoder(StepEncoder):
    """The mean of the states of a :class:`StepEncoder`; arguments as there."""

    def forward(self, sequence: PaddedSequence) -> Tensor:
        """Return ``(B, width)``."""
        states, layout = self.states(sequence)
        return layout.mean(states)


class AverageDNN(nn.Module):
    """The audio and vision subnetwork of TFN, LMF and LF-DNN: time average, normalisation, three ReLU layers.

    Args:
        dim: Features per step.
        width: Width of every layer.
        dropout: Dropout probability on the normalised features.
    """

    def __init__(self, dim: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = FeatureNorm(dim)
        self.layers = nn.Sequential(
            Dropout(dropout),
            nn.Linear(dim, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
        )

    def forward(self, sequence: PaddedSequence) -> Tensor:
        """Return ``(B, width)``."""
        return self.layers(self.norm(masked_mean(sequence.values, sequence.mask)))


class Subnetworks(nn.Module):
    """One vector per modality, as TFN, LMF and LF-DNN make them.

    Text is read by an LSTM, or by a DNN like the others when it is one vector per sample.

    Args:
        modalities: The modalities of the data.
        dims: Features per step by modality (of text: after its encoder).
        widths: Width of each modality's vector; may name more modalities than there are.
        text_hidden: Units of the text LSTM.
        dropout: Dropout probability of every subnetwork.
    """

    def __init__(
        self,
        modalities: Mapping[str, ModalitySpec],
        dims: Mapping[str, int],
        widths: Mapping[str, int],
        text_hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.widths = {name: widths[name] for name in modalities}
        self.parts = nn.ModuleDict()
        for name, spec in modalities.items():
            if name == "text" and spec.max_length > 1:
                self.parts[name] = LSTMVector(dims[name], text_hidden, widths[name], dropout=dropout)
            else:
                self.parts[name] = AverageDNN(dims[name], widths[name], dropout)

    def forward(self, features: Mapping[str, PaddedSequence]) -> dict[str, Tensor]:
        """Return ``(B, widths[m])`` by modality."""
        return {name: part(features[name]) for name, part in self.parts.items()}
