"""Settings of MMMIE."""

from __future__ import annotations

from dataclasses import dataclass

from mmbench.methods.config import ComparingConfig, ConfigError, setting


@dataclass(frozen=True)
class MMMIEConfig(ComparingConfig):
    """Settings of MMMIE; none of the paper's is known."""

    weight_decay: float = setting(1e-4, "L2 penalty inside Adam, in both optimisers", low=0.0)
    plateau_patience: int = setting(5, "epochs without gain before the learning rate drops; 0 for never", low=0)
    plateau_factor: float = setting(
        0.5, "factor by which the learning rate drops", low=0.0, high=1.0, needs="plateau_patience"
    )
    lr_estimator: float = setting(1e-3, "learning rate of the Gaussians q(h | x)", low=0.0)
    alpha: float = setting(0.1, "weight of the maximisation between modalities; 0 for none", low=0.0)
    beta: float = setting(0.01, "weight of the minimisation between input and feature; 0 for none", low=0.0)
    warmup: int = setting(2, "epochs over which beta grows from 0; 0 for all of it at once", low=0)
    clamp: bool = setting(True, "whether an upper bound below 0, which fits badly, counts as 0")
    temperature: float = setting(0.1, "temperature of InfoNCE", low=1e-6)
    identity: str = setting("modality", "what identity embeddings say", choices=("modality", "position", "none"))
    fusion: str = setting("vectors", "tokens: one per modality, or steps too", choices=("vectors", "sequence"))
    dim: int = setting(128, "width of vectors and tokens", low=1)
    code: int = setting(64, "width of the codes that InfoNCE compares", low=1)
    hidden: int = setting(32, "units of the audio and vision LSTMs, per direction", low=1)
    layers: int = setting(2, "layers of the fusing transformer", low=1)
    heads: int = setting(4, "its attention heads, a divisor of dim", low=1, divides="dim")
    dropout: float = setting(0.1, "dropout in the fusing transformer and the head", low=0.0, high=1.0)

    def __post_init__(self) -> None:
        """Check that positions have steps to number."""
        super().__post_init__()
        if self.identity == "position" and self.fusion != "sequence":
            raise ConfigError(f"{self.where('identity')} is 'position', which numbers steps; set fusion to 'sequence'.")
