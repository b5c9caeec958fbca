"""What a method says of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from torch import Tensor


@dataclass
class Output:
    """What a method says of a batch.

    A method whose own code reads back what it says beside the prediction declares it: its output is a dataclass with
    ``kw_only=True`` that adds fields to this one. What they hold is in ``named`` as well: a tensor under the name of
    its field, the tensors of a mapping each as ``<field>_<key>``. What is None, or of another type, is not. Metadata
    ``{"named": "prediction"}`` of a field say by which name it goes there where that is not its own.

    Attributes:
        prediction: ``(B, outputs)`` values or logits.
        named: Further tensors, by name: what an analysis sees.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch
        >>> from mmbench.methods.output import Output
        >>> @dataclass(kw_only=True)
        ... class Vectors(Output):
        ...     h: dict[str, torch.Tensor]
        >>> output = Vectors(torch.zeros(4, 1), h={"text": torch.ones(4, 8)})
        >>> list(output.named), output.named["h_text"] is output.h["text"]
        (['h_text'], True)
    """

    prediction: Tensor
    named: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Name what the fields of a subclass hold."""
        for item in fields(self)[2:]:
            name, value = item.metadata.get("named", item.name), getattr(self, item.name)
            if isinstance(value, Tensor):
                self.named = {**self.named, name: value}
            elif isinstance(value, Mapping):
                self.named = {**self.named, **{f"{name}_{key}": part for key, part in value.items()}}
