"""Settings of EMT-DLFR."""

from __future__ import annotations

from dataclasses import dataclass

from mmbench.methods.config import ComparingConfig, setting


@dataclass(frozen=True)
class EMTDLFRConfig(ComparingConfig):
    """Settings of EMT-DLFR; the defaults are those of the official code for CMU-MOSI but for two.

    There ``dim`` is 128 and ``accumulate`` is 4, which takes more samples than small data have.
    """

    weight_decay: float = setting(1e-3, "L2 penalty inside Adam, on all but the readers", low=0.0)
    gradient_clip: float = setting(0.0, "largest L2 norm of the gradient of all parameters; 0 for no limit", low=0)
    weight_decay_text: float = setting(1e-3, "penalty on the matrices of the text encoder", low=0.0)
    lr_audio: float = setting(1e-3, "learning rate of the audio reader", low=0.0)
    lr_vision: float = setting(1e-4, "learning rate of the vision reader", low=0.0)
    weight_decay_audio: float = setting(1e-2, "penalty on the audio reader", low=0.0)
    weight_decay_vision: float = setting(1e-3, "penalty on the vision reader", low=0.0)
    accumulate: int = setting(1, "batches whose gradients add up for a step", low=1)
    text_states: str = setting(
        "auto",
        "bert: text begins with [CLS], the utterance's vector, and ends with [SEP]; words: all steps are words; "
        "auto: bert for tokens",
        choices=("auto", "bert", "words"),
    )
    hidden_text: int = setting(64, "units of the LSTM over words", low=1)
    hidden_audio: int = setting(32, "units of the audio LSTM", low=1)
    hidden_vision: int = setting(64, "units of the vision LSTM", low=1)
    out_text: int = setting(64, "width of the text vector where an LSTM makes it", low=1)
    out_audio: int = setting(16, "width of the audio vector", low=1)
    out_vision: int = setting(32, "width of the vision vector", low=1)
    dim: int = setting(64, "width D of the fusion", low=1)
    layers: int = setting(3, "layers of the fusion", low=1)
    heads: int = setting(4, "attention heads, a divisor of dim", low=1, divides="dim")
    expansion: int = setting(4, "hidden units of the feed-forward networks as a multiple of dim", low=1)
    share_directions: bool = setting(True, "whether context and steps are promoted by one unit")
    share_modalities: bool = setting(True, "whether all modalities have the same units")
    share_layers: bool = setting(True, "whether all layers have the same units and the same pooling")
    attention_dropout: float = setting(0.3, "dropout on attention weights", low=0.0, high=1.0)
    network_dropout: float = setting(0.1, "dropout after the feed-forward networks", low=0.0, high=1.0)
    embedding_dropout: float = setting(0.0, "dropout on steps with positions", low=0.0, high=1.0)
    head: int = setting(256, "width of the hidden layers of the head", low=1)
    head_dropout: float = setting(0.3, "dropout on what the head reads", low=0.0, high=1.0)
    attraction: float = setting(1.0, "weight w1 of attraction and of the task loss of the intact view", low=0.0)
    restoration: float = setting(1.0, "weight w2 of restoration", low=0.0)
    restore_clean: bool = setting(False, "whether clean data are seen as two views that differ by dropout alone")
    bottleneck_context: int = setting(128, "hidden width of the predictor of the context", low=1)
    bottleneck_text: int = setting(256, "hidden width of the predictor of bert's text vector (others: half)", low=1)
