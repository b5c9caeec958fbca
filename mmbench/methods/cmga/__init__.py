"""CMGA: attention across every pair of modalities, a forget gate on what it brings, self-attention over the results.

Paper: Jiang, Ji, "Cross-Modality Gated Attention Fusion for Multimodal Sentiment Analysis", 2022, arXiv 2208.11893.
Only its abstract could be read, and no official code was found. The equations of the block are those on which two
independent re-implementations agree (Donghwan127/video-highlight-extraction@d373d72 and a Keras script), rewritten,
not copied. Everything else is inferred: see the card.

For a sender ``i`` and a receiver ``j``, encoded as ``z_i`` and ``z_j`` of width ``d``::

    A = softmax(z_j W_q (z_i W_k)^T / sqrt(d)) z_i W_v    what the receiver reads of the sender
    f = sigmoid([A ; z_j] W_f + b_f)                      the forget gate
    h = relu(z_j + f * (A W_m + b_m))

By default text receives from audio and from vision, and vision from audio. The ``h`` of all pairs, one after the other
in time, pass one multi-head self-attention; the mean of its real steps goes through a small network to the prediction.

Shapes: inputs ``(B, T_m, D_m)`` with their own ``T_m``; ``z_m (B, T_m, d)``; ``A``, ``f``, ``h`` ``(B, T_j, d)``; what
the fusion layer sees ``(B, sum of T_j over pairs, d)``; prediction ``(B, outputs)``. Loss: the task's alone.
"""

from __future__ import annotations

from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.cmga.config import CMGAConfig
from mmbench.methods.cmga.network import CMGANetwork, CMGAOutput
from mmbench.methods.config import ConfigError, MethodConfig
from mmbench.tasks import Task


class CMGA(FusionMethod):
    """Cross-modality gated attention.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.cmga import CMGA
        >>> spec = make_spec()
        >>> output = CMGA(spec)(make_batch(spec))
        >>> list(output.gate)  # who sends to whom
        ['audio_to_text', 'vision_to_text', 'audio_to_vision']
    """

    card = MethodCard(
        title="CMGA: Cross-Modality Gated Attention Fusion",
        authors="Ming Jiang, Shaoxiong Ji",
        year=2022,
        venue="arXiv preprint",
        arxiv="2208.11893",
        fidelity="abstract",
        deviations=(
            "The equations of attention and gate are those of two independent re-implementations that agree, not read "
            "in the paper; they differ in the residual and in the projection of the values (settings residual, value).",
            "Inferred: the residual is the receiver's, the only choice for modalities of different lengths.",
            "Inferred: text enters through dropout and one linear layer, audio and vision through a bidirectional "
            "LSTM; layer normalisation follows.",
            "Inferred: one direction per pair (the re-implementation that speaks of it says that the order matters "
            "little): text receives where it takes part, vision receives from audio.",
            "Inferred: the pairs follow one another in time in one self-attention of 8 heads; its mean over real "
            "steps passes dropout and one hidden ReLU layer.",
            "Inferred: padding is masked in both attentions; a receiver whose sender has no real step reads zeros.",
            "Inferred: without cross attention (use_cross off) every modality enters the fusion layer once.",
            "Inferred: the loss is the task's alone; Adam at a constant rate, and every size, dropout and rate.",
        ),
        findings=(
            "On `synthetic/lag` (best 0.20, one modality 1.60) two seeds reach 0.32 and 0.38 just before the limit of "
            "epochs; in one training stands still (1.62) until patience stops it, as it does in the others for the "
            "first three or four epochs.",
        ),
        needs=Needs(at_least=2),
    )

    Config = CMGAConfig
    config: CMGAConfig

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        c = self.config
        if c.residual == "source" and not spec.aligned and any(m.max_length > 1 for m in spec.modalities.values()):
            raise ConfigError(
                f"{c.where('residual')} is 'source', which needs modalities of equal lengths; {spec.track} is not "
                "aligned: use 'receiver'."
            )
        self.network = CMGANetwork(self.dims, self.task.outputs, c)

    @classmethod
    def reads(cls, spec: DataSpec, config: CMGAConfig) -> tuple[str, ...]:
        """Return what is in a pair: an encoder of unused tokens would run for nothing."""
        if not config.pairs:
            return tuple(spec.modalities)
        names = tuple(dict.fromkeys(name for pair in config.chosen() for name in pair))
        if missing := sorted(set(names) - set(spec.modalities)):
            have = ", ".join(spec.modalities)
            raise ConfigError(f"{config.where('pairs')} needs {', '.join(missing)}; {spec.track} has {have}.")
        return names

    def forward(self, batch: Batch) -> CMGAOutput:
        """Return the prediction and the mean gate of every pair."""
        return self.network(self.features(batch))
