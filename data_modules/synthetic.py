"""A generated data set whose best reachable scores are known by construction."""

from __future__ import annotations

from data_modules.base import FusionDataModule
from data_modules.card import DataCard


class Synthetic(FusionDataModule):
    """Batches of the generated set; see :class:`FusionDataModule` for the arguments and ``card`` for the data."""

    name = "synthetic"
    card = DataCard(
        title="synthetic",
        citation="Made by data_modules.generator.",
        licence="MIT, as this project.",
        content=(
            "A regression target from -3 to 3 with parts that only text, only audio or only vision carry and a part "
            "that only two modalities together carry; sequences are not aligned."
        ),
        features="Vectors per step whose latent causes can be recovered exactly.",
        splits="standard: drawn independently.",
        defects="None by construction; it says whether a method fuses, not how well it works on people.",
        bring="mmbench data synth",
    )
