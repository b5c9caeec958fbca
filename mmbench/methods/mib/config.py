"""Settings of MIB."""

from __future__ import annotations

from dataclasses import dataclass

from mmbench.methods.config import ConfigError, MethodConfig, setting


@dataclass(frozen=True)
class MIBConfig(MethodConfig):
    """Settings of MIB; widths, layers, dropouts and weights are those of the official code."""

    gradient_clip: float = setting(0.0, "largest L2 norm of the gradient; 0 for no limit", low=0.0)
    text_lr: float = setting(
        1e-5, "learning rate of the text encoder and the convolution on it; 0 freezes the encoder", low=0.0
    )
    variant: str = setting(
        "c",
        "where bottlenecks are: e after the fusion, l before it, c both, none nowhere",
        choices=("e", "l", "c", "none"),
    )
    fusion: str = setting(
        "concat",
        "how vectors become one; poe multiplies the codes of variant l",
        choices=("concat", "addition", "multiplication", "tensor", "low_rank", "graph", "poe"),
    )
    beta: float = setting(1e-3, "weight of the KL of every code", low=0.0)
    kl: str = setting(
        "mean", "KL over a code's dimensions: mean (official code) or sum (paper)", choices=("mean", "sum")
    )
    main_weight: float = setting(1.0, "weight of the final task loss; 2 as in the official code", low=0.0)
    eval_noise: bool = setting(False, "whether evaluation draws codes as training does, as in the official code")
    dim: int = setting(50, "width d of vectors and codes", low=1)
    hidden: int = setting(256, "hidden units of every bottleneck; 1024 as published", low=1)
    heads: int = setting(5, "attention heads, a divisor of dim", low=1, divides="dim")
    layers: int = setting(3, "layers of every Transformer", low=1)
    embed_dropout: float = setting(0.2, "dropout on what enters a Transformer", low=0.0, high=1.0)
    attention_dropout: float = setting(0.5, "dropout on attention", low=0.0, high=1.0)
    relu_dropout: float = setting(0.3, "dropout inside the feed-forward networks", low=0.0, high=1.0)
    residual_dropout: float = setting(0.3, "dropout on what layers add to the stream", low=0.0, high=1.0)
    tensor_dropout: float = setting(0.5, "dropout on the outer product of the tensor fusion", low=0.0, high=1.0)
    rank: int = setting(5, "rank of the low-rank fusion", low=1, needs={"fusion": "low_rank"})
    text_transformer: bool = setting(True, "whether text that no text encoder reads passes a Transformer")
    legacy_padding: bool = setting(False, "whether padding takes part, as in the official code")

    def __post_init__(self) -> None:
        """Check that a product of experts has experts."""
        super().__post_init__()
        if self.fusion == "poe" and self.variant != "l":
            raise ConfigError(
                f"{self.where('fusion')} is 'poe', which multiplies unimodal codes into the final one: set variant "
                f"to 'l' (it is {self.variant!r}) or choose another fusion."
            )
