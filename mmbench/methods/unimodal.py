"""Unimodal: the late-fusion model with a single branch, to show what fusion adds to its best modality.

The branch, the head and the settings are those of :mod:`mmbench.methods.late_fusion`; the other modalities are not
looked at. One run per modality makes the row of a table complete (:meth:`Unimodal.variants`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data_modules.schema import MODALITIES, DataSpec
from mmbench.methods.card import MethodCard
from mmbench.methods.config import setting
from mmbench.methods.late_fusion import LateFusion


class Unimodal(LateFusion):
    """A Transformer encoder on one modality.

    ``self.spec`` names only that modality, because the method is built for nothing else.

    Example:
        >>> from data_modules.toy import make_spec
        >>> from mmbench.methods.unimodal import Unimodal
        >>> spec = make_spec()
        >>> list(Unimodal.variants(spec))
        ['text', 'audio', 'vision']
        >>> list(Unimodal(spec, config=Unimodal.Config(modality="audio")).spec.modalities)
        ['audio']
    """

    card = MethodCard(
        title="Unimodal Transformer",
        authors="The mmbench developers",
        year=2025,
        fidelity="own",
        findings=(
            "On RAVDESS audio selects epoch 33, 39 and 33 of 40 on three of five folds: 40 are few for log-mel "
            "sequences.",
        ),
    )

    @dataclass(frozen=True)
    class Config(LateFusion.Config):
        """Settings of the unimodal Transformer."""

        modality: str = setting("", "the modality to use; empty for the first of the data", choices=("", *MODALITIES))

    @classmethod
    def reads(cls, spec: DataSpec, config: Config) -> tuple[str, ...]:
        """Return the modality that is set, or the first one."""
        return tuple(spec.select((config.modality or next(iter(spec.modalities)),)).modalities)

    @classmethod
    def variants(cls, spec: DataSpec) -> dict[str, dict[str, Any]]:
        """Return one variant per modality of the data."""
        return {name: {"modality": name} for name in spec.modalities}
