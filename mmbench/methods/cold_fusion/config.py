"""Settings of COLD Fusion."""

from __future__ import annotations

from dataclasses import dataclass

from mmbench.methods.config import MethodConfig, setting


@dataclass(frozen=True)
class COLDFusionConfig(MethodConfig):
    """Settings of COLD Fusion."""

    hidden: int = setting(128, "units H of the recurrent networks and width of the Gaussians", low=1)
    dropout: float = setting(0.2, "dropout before every head", low=0.0, high=1.0)
    lambda_co: float = setting(0.1, "weight of calibration and ordinality", low=0.0)
    lambda_reg: float = setting(1e-3, "weight of the prior term", low=0.0)
    unimodal_weight: float = setting(1.0, "weight of the task loss of every modality alone", low=0.0)
    regression_loss: str = setting("l1", "task loss of regression", choices=("l1", "mse"))
    calibration: bool = setting(True, "whether uncertainty must follow the error within a modality")
    ordinality: bool = setting(True, "whether uncertainty must be comparable across modalities")
    detach_error: bool = setting(False, "whether the matching loss leaves predictions alone")
    temperature: float = setting(1.0, "divides errors and scores before they are matched", low=1e-6)
    score: str = setting("variance", "what uncertainty is the norm of", choices=("variance", "std"))
    sample: bool = setting(False, "whether latents are drawn in training; else they are the means")
    level: str = setting(
        "auto", "where modalities are fused; auto: by step if they are aligned", choices=("auto", "step", "sample")
    )
    legacy_averages: bool = setting(
        False,
        "whether time averages include padding and the prior term sums over time, as in the re-implementation",
    )
