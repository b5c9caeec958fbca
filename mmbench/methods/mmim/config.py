"""Settings of MMIM."""

from __future__ import annotations

from dataclasses import dataclass

from mmbench.methods.config import ComparingConfig, setting


@dataclass(frozen=True)
class MMIMConfig(ComparingConfig):
    """Settings of MMIM; the defaults are those of the official code for CMU-MOSI."""

    weight_decay: float = setting(1e-4, "L2 penalty inside Adam, in both optimisers", low=0.0)
    plateau_patience: int = setting(20, "epochs without gain before the learning rate drops; 0 for never", low=0)
    plateau_factor: float = setting(
        0.5, "factor by which the learning rate drops", low=0.0, high=1.0, needs="plateau_patience"
    )
    lr_mmilb: float = setting(1e-3, "learning rate of the first pass (Gaussians of the bound)", low=0.0)
    alpha: float = setting(0.1, "weight of the contrastive loss", low=0.0)
    beta: float = setting(0.1, "weight of the inter-modality bound", low=0.0)
    estimate_fraction: float = setting(
        1.0, "part of the batches in the first pass, in (0, 1]; 0.5 for CMU-MOSEI", low=1e-6, high=1.0
    )
    memory: int = setting(1, "batches that the entropy remembers", low=1)
    hidden: int = setting(16, "units of the audio and vision LSTMs, per direction", low=1)
    out: int = setting(16, "width of the audio and vision vectors", low=1)
    layers: int = setting(1, "layers of the LSTMs", low=1)
    bidirectional: bool = setting(False, "whether the LSTMs read in both directions")
    encoder_dropout: float = setting(0.1, "dropout inside and after LSTMs of several layers", low=0.0, high=1.0)
    text_pooling: str = setting("first", "the text vector: first step or mean of all", choices=("first", "mean"))
    fusion_dim: int = setting(128, "width of the fused vector", low=1)
    dropout: float = setting(0.1, "dropout on the concatenated vectors", low=0.0, high=1.0)
    cpc_layers: int = setting(1, "linear layers of the contrastive predictors", low=1)
    contrast: bool = setting(True, "whether to use mutual information at all")
    add_va: bool = setting(False, "whether vision and audio are a pair too where there is text")
    lld_include_logvar: bool = setting(
        False, "whether the log-likelihood has its variance term, which the official code leaves out"
    )
    entropy_eps: float = setting(1e-5, "added to the diagonal of covariances; 0 as in the official code", low=0.0)
