"""Settings of VSD, and those that it shares with MV2D."""

from __future__ import annotations

from dataclasses import dataclass

from data_modules.schema import TargetSpec
from mmbench.methods.config import ComparingConfig, ConfigError, setting
from mmbench.methods.vsd.labels import CategoricalLabels, Direction, GaussianLabels, LabelDistribution


@dataclass(frozen=True)
class DistillationConfig(ComparingConfig):
    """Settings of what VSD and its successor share: views, branches and divergences."""

    weight_decay: float = setting(1e-4, "L2 penalty inside Adam", low=0.0)
    gradient_clip: float = setting(0.0, "largest L2 norm of the gradient of all parameters; 0 for no limit", low=0.0)
    text_lr: float = setting(2e-5, "learning rate of the text encoder; 0 freezes it", low=0.0)
    width: int = setting(128, "width of a view's vector, even because its GRU reads in two directions", low=2)
    text_first: bool = setting(False, "whether text, if any, is its first state alone through a linear layer: BERT")
    bottleneck_1: int = setting(128, "width of the first hidden layer of the bottlenecks", low=1)
    bottleneck_2: int = setting(64, "width of their second hidden layer", low=1)
    z_dim: int = setting(64, "width of the representations", low=1)
    head_dropout: float = setting(0.5, "dropout in the heads of the representations", low=0.0, high=1.0)
    fusion_dim: int = setting(128, "width of the hidden layer after the fusion", low=1)
    fusion_dropout: float = setting(0.2, "dropout on that layer", low=0.0, high=1.0)
    dist: str = setting(
        "bins", "a head's distribution of a real label: bins, or a Gaussian of variance 1", choices=("bins", "gaussian")
    )
    bins: int = setting(7, "bins between the ends of a real label", low=2, needs={"dist": "bins"})
    heads_weight: float = setting(1.0, "weight of the cross-entropies of the heads", low=0.0)
    label_smoothing: float = setting(
        0.0, "label smoothing of the heads; 0.1 in the official code", low=0.0, high=1.0, needs={"dist": "bins"}
    )
    kl_direction: str = setting(
        "teacher_student",
        "first argument of the divergence, then the second",
        choices=("teacher_student", "student_teacher"),
        needs={"dist": "bins", "legacy_kl": False},
    )
    legacy_kl: bool = setting(
        False, "whether the divergence is the official formula, which is none", needs={"dist": "bins"}
    )

    def __post_init__(self) -> None:
        """Check that the settings can be had together."""
        super().__post_init__()
        if self.width % 2:
            raise ConfigError(f"{self.where('width')} is {self.width}; it must be even: a GRU reads in two directions.")

    @property
    def direction(self) -> Direction:
        """The divergence to use."""
        if self.legacy_kl:
            return "released"
        return "teacher_student" if self.kl_direction == "teacher_student" else "student_teacher"

    @property
    def hidden(self) -> tuple[int, int]:
        """Widths of the hidden layers of a bottleneck."""
        return self.bottleneck_1, self.bottleneck_2

    def labels(self, target: TargetSpec) -> LabelDistribution:
        """Return how heads speak of a target.

        Raises:
            ConfigError: When they cannot in the way that is set.
        """
        real = target.kind == "regression"
        if self.dist == "gaussian":
            if not real:
                raise ConfigError(f"{self.where('dist')} is 'gaussian', and the target is {target.kind}: set 'bins'.")
            return GaussianLabels(target)
        if real and (target.low is None or target.high is None):
            raise ConfigError(
                f"{self.where('dist')} is 'bins', and the target has no ends: give it low and high, or set 'gaussian'."
            )
        return CategoricalLabels(target, self.bins, self.label_smoothing)


@dataclass(frozen=True)
class VSDConfig(DistillationConfig):
    """Settings of VSD."""

    plateau_patience: int = setting(5, "epochs without gain before the learning rate drops; 0 for never", low=0)
    vsd_weight: float = setting(0.3, "weight of the self-distillation; 0 leaves it out", low=0.0)
    vcd_weight: float = setting(0.3, "weight of the cross-distillation; 0 leaves it out", low=0.0)
    vml_weight: float = setting(0.3, "weight of the mutual learning; 0 leaves it out", low=0.0)
    rank_weight: float = setting(0.0, "weight of the ranked-list loss; 0 leaves it out", low=0.0)
    cml_weight: float = setting(0.0, "weight of the Sinkhorn distance of observations; 0 leaves it out", low=0.0)
    vcd_pairs: str = setting(
        "all", "who teaches in the cross-distillation: all views or text", choices=("all", "text_teacher")
    )
    temperature: float = setting(1.0, "divides the logits of the self-distillation", low=1e-3)
    fuse_on: str = setting("z", "what is fused: representations or observations", choices=("z", "v"))
