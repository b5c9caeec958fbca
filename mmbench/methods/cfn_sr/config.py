"""Settings of CFN-SR, and what its audio network makes of columns."""

from __future__ import annotations

from dataclasses import dataclass

from mmbench.methods.cfn_sr.resnext3d import DEPTHS
from mmbench.methods.config import ConfigError, MethodConfig, setting

POOL = 8
"""Columns that become one step of the audio map."""

LOST = 4
"""Columns that the convolutions over audio lose at the ends, before pooling."""


@dataclass(frozen=True)
class CFNSRConfig(MethodConfig):
    """Settings of CFN-SR; the defaults are those of the official code for RAVDESS, of 26,301,417 parameters."""

    batch_size: int = setting(16, "samples per step", low=1)
    gradient_clip: float = setting(0.0, "largest L2 norm of the gradient; 0 for no limit", low=0.0)
    pretrain_epochs: int = setting(10, "epochs in which each network is trained alone; 0 for none", low=0)
    pretrain_lr: float = setting(1e-3, "learning rate of the networks trained alone", low=0.0)
    dim: int = setting(64, "channels of the audio map and width k of the attention, even", low=2)
    heads: int = setting(8, "heads of the audio encoder, a divisor of dim", low=1, divides="dim")
    layers: int = setting(5, "layers of the audio encoder", low=1)
    attention_dropout: float = setting(0.1, "audio encoder: dropout on attention", low=0.0, high=1.0)
    relu_dropout: float = setting(0.1, "audio encoder: inside the feed-forward networks", low=0.0, high=1.0)
    residual_dropout: float = setting(0.1, "audio encoder: on what layers add to the stream", low=0.0, high=1.0)
    embed_dropout: float = setting(0.3, "audio encoder: dropout on its input", low=0.0, high=1.0)
    audio_dropout: float = setting(0.2, "dropout inside the audio network", low=0.0, high=1.0)
    flat_dropout: float = setting(0.4, "dropout on the audio map before the head", low=0.0, high=1.0)
    depth: int = setting(50, "layers of the 3D ResNeXt", choices=tuple(DEPTHS))
    width: int = setting(128, "channels of its first bottlenecks, even; it gives 16 times as many", low=2)
    cardinality: int = setting(32, "groups of its convolutions, a divisor of width", low=1, divides="width")
    frames: int = setting(30, "frames that a clip is resampled to, spread evenly", low=1)
    augment: str = setting("clip", "who shares a random crop and flip", choices=("clip", "frame", "none"))
    start: float = setting(
        0.0, "waveform: seconds left out at the start, if clips have more than is heard; 0.5 officially", low=0.0
    )
    seconds: float = setting(2.45, "waveform: seconds that are heard after that", low=0.01)
    columns: int = setting(212, "waveform: MFCC columns, padded or cropped", low=LOST + POOL)
    window_ms: float = setting(46.44, "waveform: length of the Hann window in milliseconds", low=0.1)
    hop_ms: float = setting(11.61, "waveform: milliseconds from one column to the next", low=0.1)
    mels: int = setting(128, "waveform: mel bands", low=1)
    mfccs: int = setting(13, "waveform: cepstral coefficients, at most mels", low=1)
    edges: str = setting("reflect", "waveform: what lies beyond its ends", choices=("reflect", "zeros"))
    feature_width: int = setting(64, "vision features: channels of the map", low=1)
    attention: bool = setting(True, "whether there is a cross-modal block")
    residual: bool = setting(True, "whether the block adds the map to the weighted one", needs="attention")
    self_attention: bool = setting(True, "whether an encoder reads the audio map before it guides", needs="attention")
    legacy_batch_sum: bool = setting(
        False, "whether the weights of all clips of a batch are added up", needs="attention"
    )
    legacy_stem: bool = setting(False, "whether the stem of the fused network has no ReLU")

    def __post_init__(self) -> None:
        """Check what is even, and that there are bands for the coefficients."""
        super().__post_init__()
        for name in ("dim", "width"):
            if getattr(self, name) % 2:
                raise ConfigError(f"{self.where(name)} is {getattr(self, name)}; it must be even.")
        if self.mfccs > self.mels:
            raise ConfigError(f"{self.where('mfccs')} is {self.mfccs}; it must be at most mels, {self.mels}.")
