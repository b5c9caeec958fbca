"""Settings of LMR-CBT."""

from __future__ import annotations

from dataclasses import dataclass

from data_modules.schema import MODALITIES
from mmbench.methods.config import ConfigError, MethodConfig, setting


@dataclass(frozen=True)
class LMRCBTConfig(MethodConfig):
    """Settings of LMR-CBT; the defaults are those of the official code, with four layers."""

    batch_size: int = setting(16, "samples per step", low=1)
    plateau_patience: int = setting(20, "epochs without gain before the learning rate drops; 0 for never", low=0)
    dim: int = setting(40, "width d of everything before the head, even", low=2)
    heads: int = setting(8, "attention heads, a divisor of dim", low=1)
    layers: int = setting(4, "layers of every encoder; 5 for CMU-MOSEI", low=1)
    embed_dropout: float = setting(0.3, "dropout on text features and on what enters an encoder", low=0, high=1)
    lstm_dropout: float = setting(0.5, "dropout between the layers of the text LSTM", low=0, high=1)
    attention_dropout: float = setting(0.1, "dropout on attention", low=0, high=1)
    relu_dropout: float = setting(0.1, "dropout inside the feed-forward networks", low=0, high=1)
    residual_dropout: float = setting(0.2, "dropout on what layers add to the stream", low=0, high=1)
    output_dropout: float = setting(0.1, "dropout inside the head", low=0, high=1)
    causal_mask: bool = setting(True, "whether attention hides the future")
    padding: str = setting("masked", "masked, or left as in the official code", choices=("masked", "left"))
    main: str = setting("", "the modality that is entered; empty for text, or vision", choices=("", *MODALITIES))
    first: str = setting(
        "", "the modality whose vector enters first; empty for vision, audio, text", choices=("", *MODALITIES)
    )
    cross_modal: bool = setting(True, "whether the CB blocks are there; without them the vectors meet in the head")
    residual: bool = setting(True, "whether the local features are added to what the CB blocks make of them")
    softmax: str = setting("channel", "axis of the softmax in the CB blocks", choices=("channel", "time"))
    legacy_batch_lstm: bool = setting(
        False, "whether the text LSTM runs over the batch, as in the official code; samples leak into each other"
    )

    def __post_init__(self) -> None:
        """Check that the width can be split, and what goes together."""
        super().__post_init__()
        if self.dim % 2:
            raise ConfigError(f"{self.where('dim')} is {self.dim}; it must be even, half for each LSTM direction.")
        if self.dim % self.heads:
            raise ConfigError(f"{self.where('heads')} is {self.heads}; it must divide dim, {self.dim}.")
        if self.legacy_batch_lstm and self.padding != "left":
            raise ConfigError(
                f"{self.where('legacy_batch_lstm')} mixes the samples of a step and knows no lengths; "
                "set padding to left as well."
            )
