"""Settings of CMC."""

from __future__ import annotations

from dataclasses import dataclass

from mmbench.methods.cmc.curriculum import RULES
from mmbench.methods.config import ComparingConfig, setting


@dataclass(frozen=True)
class CMCConfig(ComparingConfig):
    """Settings of CMC; sizes are those of MCL for CMU-MOSI."""

    batch_size: int = setting(35, "samples per step", low=1)
    gradient_clip: float = setting(0.0, "largest L2 norm of the gradient of all parameters; 0 for no limit", low=0)
    text_lr: float = setting(2e-5, "learning rate of the text encoder; 0 freezes it", low=0.0)
    predictor_lr: float = setting(1e-3, "learning rate of the correlation predictors", low=0.0)
    dim: int = setting(40, "width of the vectors and of the Transformers", low=1)
    heads: int = setting(5, "attention heads, a divisor of dim", low=1, divides="dim")
    layers: int = setting(3, "Transformer layers over audio and over vision", low=0)
    text_layers: int = setting(0, "Transformer layers over text; 0 where a pretrained model read it", low=0)
    attention_dropout: float = setting(0.5, "dropout on the attention weights", low=0, high=1)
    relu_dropout: float = setting(0.3, "dropout inside the feed-forward networks", low=0, high=1)
    residual_dropout: float = setting(0.3, "dropout on what layers add to the stream", low=0, high=1)
    embed_dropout: float = setting(0.3, "dropout on what enters a Transformer", low=0, high=1)
    correlation: float = setting(0.1, "weight of the correlation loss; 0 for late fusion without pairs", low=0.0)
    hidden: int = setting(0, "hidden units of the correlation predictors; 0 for linear ones", low=0)
    negatives: int = setting(4, "negative pairs per sample and couple of modalities", low=1)
    targets: str = setting(
        "label", "target of negative pairs: by label distance, or always 1", choices=("label", "constant")
    )
    alpha: float = setting(0.1, "distance of two samples whose labels are the same", low=0.0)
    gamma: float = setting(0.0, "largest label distance; 0 for the range of the labels (1 for classes)", low=0.0)
    pretrain_epochs: int = setting(5, "epochs with all pairs before the curriculum, part of max_epochs", low=0)
    mix: float = setting(0.5, "share of today's loss in the difficulty of a pair", low=0.0, high=1.0)
    discard: float = setting(0.1, "share of the hardest pairs that is discarded", low=0.0, high=0.9)
    levels: int = setting(5, "buckets of difficulty; 1 feeds every pair that is not discarded", low=1)
    tolerance: float = setting(0.02, "relative change of the loss that counts as none", low=0.0)
    feed_rule: str = setting(RULES[0], "step forward when the loss is saturated or when it improved", choices=RULES)
