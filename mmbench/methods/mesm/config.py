"""Settings of FE2E and MESM."""

from __future__ import annotations

from dataclasses import dataclass

from mmbench.methods.config import MethodConfig, setting


@dataclass(frozen=True)
class MESMConfig(MethodConfig):
    """Settings of FE2E and MESM; the defaults are those of the official commands."""

    batch_size: int = setting(8, "samples per step", low=1)
    lr: float = setting(5e-5, "learning rate", low=0.0)
    gradient_clip: float = setting(0.0, "largest L2 norm of the gradient; 0 for no limit", low=0.0)
    text_lr: float = setting(
        5e-6, "learning rate of the text encoder and its head; 0 freezes the encoder, not the head", low=0.0
    )
    sparse: bool = setting(False, "whether convolutions see only what the text looks at: MESM instead of FE2E")
    nucleus: float = setting(0.8, "attention p that the kept places have together", low=0.0, high=1.0)
    attn_gate: str = setting(
        "prob",
        "what attention does to kept features: nothing, multiply, or nothing with the gradient of multiply",
        choices=("none", "prob", "straight_through"),
    )
    sparse_momentum: float = setting(
        0.01, "weight of a batch in the running statistics of sparse blocks; more for few steps", low=0.0, high=1.0
    )
    legacy_site_order: bool = setting(
        False, "whether kept features of the first sparse block land on wrong places, as in the official code"
    )
    dim: int = setting(64, "width of the vectors of frames, pieces and steps", low=1)
    layers: int = setting(4, "layers of the sequence encoders", low=1)
    heads: int = setting(4, "attention heads, a divisor of dim", low=1, divides="dim")
    feed_forward: int = setting(2048, "hidden width inside the sequence encoders", low=1)
    dropout: float = setting(0.1, "dropout in the sequence encoders", low=0.0, high=1.0)
    width: int = setting(64, "channels after the first convolution; the last has eight times as many", low=1)
    hidden: int = setting(1024, "units between a feature map and its vector", low=1)
    image_size: int = setting(48, "height and width of the faces, in pixels", low=16)
    framing: str = setting(
        "resize", "what becomes of larger frames: the middle scaled or cut out", choices=("resize", "legacy_crop")
    )
    frame_interval: float = setting(
        0.5, "seconds from one frame that is seen to the next; 0 for all, as where clips differ in rate", low=0.0
    )
    bands: int = setting(128, "mel bands", low=16)
    piece: int = setting(32, "spectrogram frames per piece, of 12.5 ms each", low=16)
    text_pooling: str = setting("first", "the text vector: first step or mean of all", choices=("first", "mean"))
    pos_weight: bool = setting(True, "whether rare labels of multi-label targets weigh more")
