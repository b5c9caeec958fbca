"""Settings of CMGA, and the pairs of modalities that they name."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from data_modules.schema import MODALITIES
from mmbench.methods.config import ConfigError, MethodConfig, setting

PAIRS = {"+".join(pair): pair for pair in combinations(MODALITIES, 2)}
"""The unordered pairs by the name that the settings give them."""


@dataclass(frozen=True)
class CMGAConfig(MethodConfig):
    """Settings of CMGA; the paper's are unknown."""

    text_lr: float = setting(2e-5, "learning rate of the text encoder; 0 freezes it", low=0.0)
    dim: int = setting(128, "width d of the encoders and of all attention, even", low=2)
    heads: int = setting(8, "heads of the fusion layer, a divisor of dim", low=1)
    dropout: float = setting(0.2, "dropout on all attention weights and after the fusion layer", low=0.0, high=1.0)
    text_dropout: float = setting(0.1, "dropout on text features", low=0.0, high=1.0)
    head_dropout: float = setting(0.3, "dropout on what the head reads", low=0.0, high=1.0)
    text_layer: str = setting(
        "linear", "encoder of text: linear for hidden states, lstm for word vectors", choices=("linear", "lstm")
    )
    normalize: bool = setting(True, "whether encoded modalities are layer-normalised")
    pool: int = setting(1, "audio and vision steps that are averaged into one", low=1)
    pairs: str = setting("", f"pairs in use, separated by commas, of {', '.join(PAIRS)}; empty for all")
    directions: str = setting("one", "blocks per pair: one or both directions", choices=("one", "both"))
    residual: str = setting("receiver", "what the message is added to", choices=("receiver", "source"))
    value: str = setting("projected", "values of the attention: z W_v or z", choices=("projected", "raw"))
    activation: str = setting("relu", "on residual plus message", choices=("relu", "identity"))
    use_gate: bool = setting(True, "whether the forget gate is there; without it every message passes whole")
    use_cross: bool = setting(True, "whether modalities attend to each other")
    fusion: str = setting(
        "mha", "self-attention and mean, mean alone, or means side by side", choices=("mha", "mean", "concat")
    )
    fusion_residual: bool = setting(False, "whether the self-attention has a residual and layer normalisation")

    def __post_init__(self) -> None:
        """Check widths, pair names and switches that exclude each other."""
        super().__post_init__()
        if self.dim % 2:
            raise ConfigError(f"{self.where('dim')} is {self.dim}; it must be even, for two LSTM directions.")
        if self.dim % self.heads:
            raise ConfigError(f"{self.where('heads')} is {self.heads}; it must divide dim, {self.dim}.")
        if self.fusion_residual and self.fusion != "mha":
            raise ConfigError(f"{self.where('fusion_residual')} is on; it needs fusion 'mha', not {self.fusion!r}.")
        if self.residual == "source" and self.pool > 1:
            raise ConfigError(
                f"{self.where('pool')} is {self.pool}; with residual 'source' all modalities keep their lengths: "
                "set pool to 1."
            )
        for key in () if self.use_cross else ("use_gate", "value", "residual", "activation", "directions"):
            if (value := getattr(self, key)) != getattr(type(self), key):
                raise ConfigError(f"{self.where(key)} is {value!r}; it needs use_cross, which is off.")
        self.chosen()

    def chosen(self) -> list[tuple[str, str]]:
        """Return the pairs in use, each in the order text, audio, vision."""
        asked = [item.strip() for item in self.pairs.split(",")] if self.pairs else list(PAIRS)
        for item in asked:
            if item not in PAIRS:
                raise ConfigError(f"{self.where('pairs')} names {item!r}; the pairs are: {', '.join(PAIRS)}.")
        return [pair for name, pair in PAIRS.items() if name in asked]
