"""Settings of MCMulT."""

from __future__ import annotations

from dataclasses import dataclass

from mmbench.methods.config import ConfigError, setting
from mmbench.methods.mcmult.cooperative import FUSIONS
from mmbench.methods.mult.config import MulTConfig


@dataclass(frozen=True)
class MCMulTConfig(MulTConfig):
    """Settings of MulT and of its levels; the paper's are unknown."""

    layers: int = setting(4, "blocks of every crossmodal encoder and layers of memory encoders (at least 3)", low=1)
    level_fusion: str = setting(
        "gated_sum", "how levels are read; last and low: only the highest or lowest (low is MulT)", choices=FUSIONS
    )
    level_window: int = setting(0, "how many of the highest levels a block may read; 0 for all", low=0)
    source: str = setting(
        "partner",
        "whose levels are read: the opposite stream's, or the source's own by self-attention",
        choices=("partner", "self"),
    )
    detach_source: bool = setting(False, "whether no gradient goes to the blocks that built the levels")
    share_attention: bool = setting(True, "whether one attention of a block reads all its levels")

    def __post_init__(self) -> None:
        """Refuse switches that would have no effect."""
        super().__post_init__()
        fusion = self.level_fusion
        one = f"level_fusion {fusion!r} reads one level"
        refused = {
            "only": (self.only != "", "both streams of a pair build on each other"),
            "level_window": (self.level_window > 0 and fusion in ("last", "low"), one),
            "source": (self.source == "self" and fusion == "low", "level_fusion 'low' reads the input alone"),
            "detach_source": (
                self.detach_source and (self.source == "self" or fusion == "low"),
                "it needs a source 'partner' and a level_fusion above 'low'",
            ),
            "share_attention": (
                not self.share_attention and (fusion not in ("gated_sum", "mean") or self.level_window == 1),
                "only level_fusion 'gated_sum' and 'mean', over more than one level, have an attention per level",
            ),
        }
        for key, (wrong, reason) in refused.items():
            if wrong:
                raise ConfigError(f"{self.where(key)} is {getattr(self, key)!r}, but {reason}; leave it out.")
