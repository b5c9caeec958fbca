"""Settings of BIMHA."""

from __future__ import annotations

from dataclasses import dataclass

from mmbench.methods.config import MethodConfig, setting


@dataclass(frozen=True)
class BIMHAConfig(MethodConfig):
    """Settings of BIMHA; none of the paper's is known."""

    weight_decay: float = setting(1e-4, "L2 penalty inside Adam", low=0.0)
    width: int = setting(32, "width d of the vector of a modality", low=1)
    text_hidden: int = setting(64, "units of the text LSTM", low=1)
    pair_width: int = setting(64, "width d_p of the token of a pair", low=1)
    heads: int = setting(4, "attention heads, a divisor of pair_width", low=1, divides="pair_width")
    layers: int = setting(1, "attention layers", low=1)
    head_width: int = setting(64, "width of the head's hidden layer", low=1)
    encoder_dropout: float = setting(0.3, "dropout in the encoders of the modalities", low=0.0, high=1.0)
    pair_dropout: float = setting(0.2, "dropout on tokens and on what attention adds to them", low=0.0, high=1.0)
    head_dropout: float = setting(0.3, "dropout on what the head reads", low=0.0, high=1.0)
    pair_op: str = setting("outer", "what becomes of two vectors", choices=("outer", "lowrank", "hadamard", "concat"))
    rank: int = setting(4, "rank of the weights where pair_op is lowrank", low=1, needs={"pair_op": "lowrank"})
    pair_text_audio: bool = setting(True, "whether text and audio are a pair")
    pair_text_vision: bool = setting(True, "whether text and vision are a pair")
    pair_audio_vision: bool = setting(True, "whether audio and vision are a pair")
    pair_embedding: bool = setting(True, "whether a learned vector tells the pairs apart")
    queries: str = setting(
        "pairs", "what attends to the pairs: the pairs themselves or the modalities", choices=("pairs", "unimodal")
    )
    attention: bool = setting(True, "whether attention weighs the pairs; otherwise all weigh the same")
    residual: bool = setting(True, "whether there is a residual path around the attention")
    keep_unimodal: bool = setting(True, "whether the head reads the vectors of the modalities, too")
