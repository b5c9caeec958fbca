"""Settings of EffMulti."""

from __future__ import annotations

from dataclasses import dataclass

from mmbench.methods.config import setting
from mmbench.methods.intermulti.config import ThreeViewConfig


@dataclass(frozen=True)
class EffMultiConfig(ThreeViewConfig):
    """Settings of EffMulti; none is published."""

    batch_size: int = setting(64, "samples per step", low=1)
    text_lr: float = setting(0.0, "learning rate of the text encoder; 0 freezes it", low=0.0)
    text_reader: str = setting(
        "mean",
        "what reads a text sequence: mean of an encoder's states, GRU for word vectors",
        choices=("mean", "gru"),
    )
    attention: int = setting(64, "hidden width of the attention over modalities", low=1)
    fusion: str = setting(
        "modality_first",
        "the order of the two levels, or a linear layer of the concatenation (concat)",
        choices=("modality_first", "semantic_first", "concat"),
    )
    level1: bool = setting(True, "whether modalities are weighed by attention instead of alike")
    level2: bool = setting(True, "whether kinds are weighed by a gate instead of alike")
    similarity: float = setting(0.1, "weight of the distance between shared vectors", low=0.0)
    difference: float = setting(0.1, "weight of the overlap of shared and specific vectors", low=0.0)
