"""Settings of MulT."""

from __future__ import annotations

from dataclasses import dataclass

from data_modules.schema import MODALITIES
from mmbench.methods.config import ConfigError, MethodConfig, setting


@dataclass(frozen=True)
class MulTConfig(MethodConfig):
    """Settings of MulT; the defaults are those of the official code, tuned for unaligned MOSEI."""

    batch_size: int = setting(24, "samples per step", low=1)
    gradient_clip: float = setting(0.8, "largest L2 norm of the gradient; 0 for no limit", low=0.0)
    plateau_patience: int = setting(20, "epochs without gain before the learning rate drops; 0 for never", low=0)
    dim: int = setting(30, "width d of the crossmodal encoders", low=1)
    heads: int = setting(5, "attention heads, a divisor of dim", low=1, divides="dim")
    layers: int = setting(5, "layers of every encoder (memory encoders: at least 3)", low=1)
    kernel_text: int = setting(1, "steps that the convolution over text sees, odd", low=1)
    kernel_audio: int = setting(1, "steps that the convolution over audio sees, odd", low=1)
    kernel_vision: int = setting(1, "steps that the convolution over vision sees, odd", low=1)
    embed_dropout: float = setting(0.25, "dropout on text features and on what enters an encoder", low=0, high=1)
    attention_dropout: float = setting(0.1, "dropout on attention to text and in memory encoders", low=0, high=1)
    attention_dropout_audio: float = setting(0.0, "dropout on attention to audio", low=0, high=1)
    attention_dropout_vision: float = setting(0.0, "dropout on attention to vision", low=0, high=1)
    relu_dropout: float = setting(0.1, "dropout inside the feed-forward networks", low=0, high=1)
    residual_dropout: float = setting(0.1, "dropout on what layers add to the stream", low=0, high=1)
    output_dropout: float = setting(0.0, "dropout inside the head", low=0, high=1)
    causal_mask: bool = setting(True, "whether attention hides the future")
    padding: str = setting("masked", "masked, or left as in the official code", choices=("masked", "left"))
    pooling: str = setting("last", "state of a sequence: last real step or mean", choices=("last", "mean"))
    only: str = setting("", "the only target modality; empty for all", choices=("", *MODALITIES))

    def __post_init__(self) -> None:
        """Check that kernels have a middle."""
        super().__post_init__()
        for name in ("kernel_text", "kernel_audio", "kernel_vision"):
            if getattr(self, name) % 2 == 0:
                raise ConfigError(f"{self.where(name)} is {getattr(self, name)}; it must be odd.")
