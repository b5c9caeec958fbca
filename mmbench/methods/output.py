"""What a method says of a batch."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Output:
    """What a method says of a batch.

    Attributes:
        prediction: ``(B, outputs)`` values or logits.
        named: Further tensors that the objective or an analysis needs, by name.
    """

    prediction: Tensor
    named: dict[str, Tensor] = field(default_factory=dict)
