"""Settings of ScaleVLAD."""

from __future__ import annotations

from dataclasses import dataclass

from mmbench.methods.config import ComparingConfig, ConfigError, setting


@dataclass(frozen=True)
class ScaleVLADConfig(ComparingConfig):
    """Settings of ScaleVLAD; none is known from the authors."""

    width: int = setting(64, "width d of states, descriptors and vectors", low=1)
    layers: int = setting(1, "Transformer layers per modality", low=1)
    top_layers: int = setting(2, "Transformer layers on the gathered vectors", low=1)
    heads: int = setting(4, "attention heads, a divisor of width", low=1, divides="width")
    dropout: float = setting(0.1, "dropout probability in the Transformers", low=0.0, high=1.0)
    vectors: int = setting(8, "number K of shared vectors", low=1)
    scales: tuple[int, ...] = setting((1, 2, 3, 10), "steps per window, by scale; each once")
    utterance: bool = setting(True, "whether the whole utterance is a scale too")
    shared: bool = setting(True, "whether all modalities share the vectors")
    clustering: float = setting(0.1, "weight lambda of shifted clustering", low=0.0)
    clustering_start: int = setting(1, "first epoch with shifted clustering, from 0", low=0)
    clusters: int = setting(16, "number of clusters", low=2)
    memory: int = setting(512, "samples that shifted clustering remembers; it begins with half of them", low=2)
    temperature: float = setting(0.1, "divides cosines in shifted clustering", low=1e-3)
    momentum: float = setting(0.9, "weight of the old centres when they move; 1 keeps them", low=0.0, high=1.0)
    refresh: int = setting(50, "steps after which the centres move", low=1)
    balanced: bool = setting(True, "whether samples are assigned to clusters in balance")

    def __post_init__(self) -> None:
        """Check scales and the room that clusters have in the memory."""
        super().__post_init__()
        if any(scale < 1 for scale in self.scales) or len(set(self.scales)) < len(self.scales):
            raise ConfigError(f"{self.where('scales')} is {self.scales}; give windows of at least 1, each once.")
        if not (self.scales or self.utterance):
            raise ConfigError(f"{self.where('scales')} is empty and utterance is off; give a scale.")
        if self.memory // 2 < self.clusters:
            raise ConfigError(
                f"{self.where('memory')} is {self.memory}; half of it must hold the {self.clusters} clusters."
            )
