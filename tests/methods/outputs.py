"""Outputs of methods that tests make up."""

from dataclasses import fields


def from_names(cls, prediction, named):
    """Return an output whose fields are all mappings, made of tensors by the names that they have in ``named``."""
    parts = {item.name: {} for item in fields(cls)[2:]}
    for name, tensor in named.items():
        part, _, key = name.rpartition("_")
        parts[part][key] = tensor
    return cls(prediction, **parts)
