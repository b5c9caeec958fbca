"""Settings of MVCL."""

from __future__ import annotations

from dataclasses import dataclass

from mmbench.methods.config import ComparingConfig, ConfigError, setting

CONTRASTS = ("unimodal", "cross", "fused")
"""The contrastive terms, each with a phase and a weight of its name."""


@dataclass(frozen=True)
class MVCLConfig(ComparingConfig):
    """Settings of MVCL; the defaults are those of the rebuild for CMU-MOSI, and of the stages this suite's own.

    With ``legacy_no_mask`` a sample depends on how far its batch is padded, so that processes differ from one process
    even with ``gather_negatives``.
    """

    weight_decay: float = setting(0.01, "L2 penalty inside Adam", low=0.0)
    gradient_clip: float = setting(0.0, "largest L2 norm of the gradient; 0 for no limit", low=0.0)
    lr_audio: float = setting(1e-3, "learning rate of the audio encoder", low=0.0)
    lr_vision: float = setting(1e-4, "learning rate of the vision encoder", low=0.0)
    weight_decay_encoders: float = setting(0.01, "L2 penalty of the audio and the vision encoder", low=0.0)
    weight_decay_text: float = setting(1e-3, "L2 penalty of the text encoder's weights, not its biases", low=0.0)
    accumulate: int = setting(1, "batches whose gradients are added up for a step; 4 in the rebuild", low=1)
    mode: str = setting("staged", "one term after the other, or all at once", choices=("staged", "joint"))
    unimodal_epochs: int = setting(5, "staged: epochs of the unimodal contrast; 0 leaves it out", low=0)
    cross_epochs: int = setting(5, "staged: epochs of the contrast between views; 0 leaves it out", low=0)
    fused_epochs: int = setting(5, "staged: epochs of the fused contrast; 0 leaves it out", low=0)
    lr_contrast: float = setting(1e-3, "staged: learning rate of the contrasts; lr is the head's", low=0.0)
    earlier_rate: float = setting(1.0, "staged: factor of the part before; 0 freezes it", low=0.0, high=1.0)
    unimodal_weight: float = setting(1.0, "weight of the unimodal contrast; 0 leaves it out", low=0.0)
    cross_weight: float = setting(1.0, "weight of the contrast between views; 0 leaves it out", low=0.0)
    fused_weight: float = setting(1.0, "weight of the fused contrast; 0 leaves it out", low=0.0)
    classes: str = setting("seven", "classes of a regression label", choices=("seven", "sign", "exact"))
    pairs: str = setting("first", "which modality the two views of a pair share", choices=("first", "last"))
    supervised_temperature: float = setting(0.07, "temperature of both supervised contrasts", low=1e-6)
    pair_temperature: float = setting(0.05, "temperature of the contrast between views", low=1e-6)
    encoder: str = setting("lstm", "encoder of audio and vision", choices=("lstm", "transformer"))
    dim: int = setting(32, "width of tokens, views and fused vector", low=1)
    heads: int = setting(4, "attention heads, a divisor of dim", low=1, divides="dim")
    layers: int = setting(2, "layers of the crossmodal transformers", low=1)
    unimodal_layers: int = setting(4, "layers of the transformer encoders", low=1)
    hidden_audio: int = setting(32, "units of the audio LSTM", low=1)
    hidden_vision: int = setting(64, "units of the vision LSTM", low=1)
    out_audio: int = setting(16, "width of the audio vector", low=1)
    out_vision: int = setting(32, "width of the vision vector", low=1)
    post_text: int = setting(64, "width in which the unimodal contrast compares text", low=1)
    post_audio: int = setting(16, "width in which the unimodal contrast compares audio", low=1)
    post_vision: int = setting(32, "width in which the unimodal contrast compares vision", low=1)
    post_fusion: int = setting(128, "width of the head", low=1)
    kernel_audio: int = setting(5, "transformer encoder: steps that the convolution over audio sees", low=1)
    kernel_vision: int = setting(5, "transformer encoder: steps that the convolution over vision sees", low=1)
    attention_dropout: float = setting(0.3, "dropout on crossmodal attention", low=0.0, high=1.0)
    attention_dropout_fusion: float = setting(0.2, "dropout on attention in the fusion", low=0.0, high=1.0)
    attention_dropout_audio: float = setting(0.2, "transformer encoder: on attention, audio", low=0.0, high=1.0)
    attention_dropout_vision: float = setting(0.0, "transformer encoder: on attention, vision", low=0.0, high=1.0)
    embed_dropout: float = setting(0.2, "transformer encoder: dropout on its input", low=0.0, high=1.0)
    dropout_text: float = setting(0.0, "dropout on the text vector before its contrast", low=0.0, high=1.0)
    dropout_audio: float = setting(0.1, "dropout on the audio vector before its contrast", low=0.0, high=1.0)
    dropout_vision: float = setting(0.1, "dropout on the vision vector before its contrast", low=0.0, high=1.0)
    dropout_fusion: float = setting(0.1, "dropout on the pooled fusion", low=0.0, high=1.0)
    text_ends: bool = setting(False, "whether text features begin with [CLS] and end with [SEP]")
    legacy_no_mask: bool = setting(False, "whether padding takes part as in the rebuild")

    def __post_init__(self) -> None:
        """Check that phases leave something to read."""
        super().__post_init__()
        if self.mode == "staged" and not self.contrasts():
            raise ConfigError(
                f"{self.where('mode')} is 'staged' and every contrast is left out: its head would read an "
                "untrained network; set mode to 'joint'."
            )

    def contrasts(self) -> dict[str, float]:
        """Return the weight of each contrast that is used."""
        weights = {name: getattr(self, f"{name}_weight") for name in CONTRASTS}
        unused = {name for name in CONTRASTS if self.mode == "staged" and not getattr(self, f"{name}_epochs")}
        return {name: weight for name, weight in weights.items() if weight and name not in unused}
