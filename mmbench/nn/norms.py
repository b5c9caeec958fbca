"""Batch normalisation that takes what PyTorch refuses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.nn.gathering import BatchStatistics, gathered, own


class BatchNorm(BatchStatistics, nn.BatchNorm1d):
    """Batch normalisation over any number of axes; a single value per channel is normalised by the running statistics.

    PyTorch refuses such a value in training, though a last batch of one sample may well have no more. Under DDP every
    process normalises by the rows of its own batch, or, where ``gathers`` is set, by those of all processes. On rows
    without padding :class:`mmbench.nn.encoders.FeatureNorm` computes the same in a dozen operations.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept ``(B, C, ...)``."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised ``(B, C, ...)``."""
        if self.training and self.gathers:
            return own(self._normalised(gathered(input)))
        return self._normalised(input)

    def _normalised(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)
