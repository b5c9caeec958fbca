"""Settings of InterMulti, and those that it shares with EffMulti."""

from __future__ import annotations

from dataclasses import dataclass

from data_modules.schema import MODALITIES
from mmbench.methods.config import ConfigError, MethodConfig, setting
from mmbench.nn.three_view import VIEWS


@dataclass(frozen=True)
class ThreeViewConfig(MethodConfig):
    """Settings of what InterMulti and EffMulti share: vectors, views, head."""

    width: int = setting(128, "width of all vectors and representations", low=1)
    hidden: int = setting(64, "units of the readers, per direction", low=1)
    head_width: int = setting(64, "width of the head's hidden layer", low=1)
    dropout: float = setting(0.3, "dropout probability in the head", low=0.0, high=1.0)
    full: bool = setting(True, "whether there is a full view")
    shared: bool = setting(True, "whether there is a shared view")
    specific: bool = setting(True, "whether there are specific views")

    def __post_init__(self) -> None:
        """Check that a view is left."""
        super().__post_init__()
        if not self.views:
            raise ConfigError(f"{self.where('full')}, 'shared' and 'specific' are all off; leave one on.")

    @property
    def views(self) -> tuple[str, ...]:
        """The views that are on."""
        return tuple(view for view in VIEWS if getattr(self, view))


@dataclass(frozen=True)
class InterMultiConfig(ThreeViewConfig):
    """Settings of InterMulti; none is published."""

    text_lr: float = setting(2e-5, "learning rate of the text encoder; 0 freezes it", low=0.0)
    reader: str = setting(
        "lstm",
        "what reads sequences of audio and vision: an LSTM in both directions, or a GRU in one",
        choices=("lstm", "gru"),
    )
    text_reader: str = setting(
        "mean",
        "what reads a text sequence: mean of an encoder's states; LSTM or GRU for word vectors",
        choices=("mean", "lstm", "gru"),
    )
    encoder_dropout: float = setting(
        0.1, "dropout probability on the pooled states and inside the full view", low=0.0, high=1.0
    )
    fusion: str = setting(
        "hierarchical",
        "THHF, one product of all representations (flat), or a linear layer of their concatenation (concat)",
        choices=("hierarchical", "flat", "concat"),
    )
    pair_order: int = setting(2, "order of the product of two modalities", low=1)
    modality_order: int = setting(3, "order of the product of the pairs", low=1)
    view_order: int = setting(3, "order of the product of the views, or of all representations when flat", low=1)
    rank: int = setting(4, "terms of every product", low=1)
    leader: str = setting(
        "auto", "the modality in every pair; auto: text, or else the first", choices=("auto", *MODALITIES)
    )
    lead: float = setting(1.0, "start of the leader's logit in the balance; that of the others is 0")
    similarity: float = setting(
        0.3, "weight of the discrepancy between shared vectors, in batches of 8 or more", low=0.0
    )
    difference: float = setting(
        0.1, "weight of the correlation of specific vectors with shared ones and each other", low=0.0
    )
