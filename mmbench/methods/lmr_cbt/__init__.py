"""LMR-CBT: the vectors of the other modalities are blended into every step of one sequence, at linear cost.

Paper: Fu, Liu, Wang, Shen, Zhang, Qi, Fu, Zhou, "LMR-CBT: Learning Modality-fused Representations with CB-Transformer
for Multimodal Emotion Recognition from Unaligned Multimodal Sequences", 2021, arXiv 2112.01697. Official code:
skeletonNN/LMR-CBT, without a licence in the commit that was read; rewritten, not copied. Deviations: see the card.

Steps. Local features: text passes a bidirectional LSTM of two layers and a LayerNorm, audio and vision a convolution
over three steps and a BatchNorm. Local temporal learning: a self-attention encoder each for audio and vision, whose
last steps are the vectors ``F_a`` and ``F_v``. CB block, with ``X`` the local features of text:
``Z_1 = block(X, F_v)``, ``Z_2 = block(Z_1, F_a)``, where

    block(Z, F)_t = softmax(tanh(W_x Z_t + b + W_y F))    over the channels of step t,

and ``X_f = Z_2 + X``. Global attention: a third encoder reads ``X_f``, its last step is ``F_f``. The residual
concatenation ``s = [F_f; F_a; F_v]`` goes through three linear layers.

Shapes: inputs ``(B, T_m, D_m)``, each with its own lengths; local features ``(B, T_text, d)`` and ``(B, T_m - 2, d)``;
``F`` ``(B, d)``; ``s`` ``(B, M d)`` for M modalities; prediction ``(B, outputs)``. Loss: the task loss alone.
"""

from __future__ import annotations

import warnings

from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, Needs, PublishedResult
from mmbench.methods.config import ConfigError, MethodConfig
from mmbench.methods.lmr_cbt.config import LMRCBTConfig
from mmbench.methods.lmr_cbt.network import LMRCBTNetwork
from mmbench.tasks import Task

SOURCE = "training log of the official repository ({}), test scores of the epoch with the lowest validation loss"
METRICS = ("mae", "corr", "acc7", "acc5", "acc2_non0", "f1_non0")
PUBLISHED = {
    "mosei/glove_aligned_50/standard": ("out_mosei_align.txt", (0.629, 0.648, 0.481, 0.496, 0.795, 0.788)),
    "mosei/glove_unaligned_50/standard": ("out_mosei_unalign.txt", (0.613, 0.668, 0.492, 0.503, 0.795, 0.785)),
}
"""The F1 of 0.815 that the repository advertises is that of its best test epoch and has no place here."""


class LMRCBT(FusionMethod):
    """Modality-fused representations with the CB-Transformer.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.lmr_cbt import LMRCBT
        >>> spec = make_spec()
        >>> model = LMRCBT(spec)
        >>> model.network.main, list(model.network.blocks)  # what is entered, and by what, in which order
        ('text', ['vision', 'audio'])
        >>> tuple(model(make_batch(spec)).prediction.shape)
        (4, 1)
    """

    card = MethodCard(
        title="LMR-CBT: Learning Modality-fused Representations with CB-Transformer",
        authors="Fu, Liu, Wang, Shen, Zhang, Qi, Fu, Zhou",
        year=2021,
        venue="arXiv",
        arxiv="2112.01697",
        code="skeletonNN/LMR-CBT@c9c6cc8a013eb2f222255aeba31cb114801f9012",
        fidelity="official-code",
        deviations=(
            "The text LSTM runs over time; the official one runs over the batch by mistake, so that samples leak into "
            "each other and a published score depends on how the test batches are shuffled (legacy_batch_lstm).",
            "Padding is masked: LSTM, convolution, BatchNorm statistics and attention skip it and the last real step "
            "is read; padding=left gives the official behaviour, where zero steps take part.",
            "The scoring layers that the official blocks own and never use (82 parameters) are not built.",
            "Inferred: four encoder layers, the depth that fits the 0.34 million parameters quoted for other data "
            "than MOSEI; the repository's own default, five, is used on MOSEI.",
            "Inferred: without text the vector of audio enters vision, and any modality may be the one that is "
            "entered (main); its encoder is then the global one.",
            "Inferred: audio and vision of fewer than three steps are followed by zeros up to three; in the official "
            "code zeros precede them, and data of no longer sample fail.",
            "BatchNorm of a single row uses the running statistics, where the official one fails.",
            "The learning rate falls on plateaus of the validation metric that selects instead of the validation "
            "loss; the two are the same for regression.",
        ),
        findings=(
            "On `synthetic/lag` (best 0.20, one modality 1.60) all seeds stay at 0.61, with training at 0.62 to 0.65: "
            "steps of one sequence meet the others as one vector each, the last step of an encoder.",
        ),
        published=tuple(
            PublishedResult(track, metric, value, SOURCE.format(log))
            for track, (log, values) in PUBLISHED.items()
            for metric, value in zip(METRICS, values, strict=True)
        ),
        needs=Needs(at_least=2),
    )

    Config = LMRCBTConfig

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        c = self.config
        have = ", ".join(spec.modalities)
        for name in ("main", "first"):
            if getattr(c, name) and getattr(c, name) not in spec.modalities:
                raise ConfigError(f"{c.where(name)} is {getattr(c, name)!r}; {spec.track} has {have}.")
        if c.legacy_batch_lstm:
            if "text" not in spec.modalities:
                raise ConfigError(f"{c.where('legacy_batch_lstm')} is about text; {spec.track} has {have}.")
            warnings.warn(
                "legacy_batch_lstm: the text LSTM runs over the batch, and a prediction depends on the other samples "
                "of its batch. It reproduces a bug of the official code and is no model to report.",
                stacklevel=2,
            )
        steps = {name: modality.max_length for name, modality in spec.modalities.items()}
        self.network = LMRCBTNetwork(self.dims, self.task.outputs, c, steps)
        if c.first == self.network.main:
            raise ConfigError(f"{c.where('first')} is {c.first!r}, the one that is entered; name one of the others.")

    def forward(self, batch: Batch) -> Output:
        """Return the prediction and, named ``states``, what the head reads: ``s``, ``(B, M d)``."""
        prediction, states = self.network(self.features(batch))
        return Output(prediction, {"states": states})
