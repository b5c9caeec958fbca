"""BIMHA: multi-head attention over the bimodal representations says how much each pair of modalities counts.

Paper: Wu, Peng, Zhang, Zhang, Ma, Huang, "Video Sentiment Analysis with Bimodal Information-augmented Multi-Head
Attention", Knowledge-Based Systems 2022, arXiv 2103.02362. No official code was found. The idea, pairs of modalities
that interact, attention over the pairs, a residual structure, is the abstract's; every size and formula below is
inferred (see the card).

Steps. Each modality becomes a vector ``u_m`` as in TFN (text by an LSTM, audio and vision by their time average and a
DNN). Each pair becomes a token ``p_xy = ReLU(W_xy vec([u_x; 1] [u_y; 1]^T) + b_xy)``, the outer product as in TFN, with
weights of its own. The tokens ``P``, plus a learned vector per pair, attend to each other in several heads:

    S_h = softmax(P W_h^Q (P W_h^K)^T / sqrt(d_k)),    P' = LayerNorm(P + [S_1 P W_1^V; ...] W^O).

Their concatenation with the ``u_m``, a second residual path, is read by one hidden layer. The mean of ``S`` over heads
and queries is the share of each pair in a sample; its mean over the samples of an epoch is logged beside the loss.

Shapes: inputs ``(B, T_m, D_m)``; ``u_m`` ``(B, d)``; ``P`` ``(B, K, d_p)`` for K pairs; ``S`` ``(B, heads, K, K)``;
prediction ``(B, outputs)``. Loss: the task loss alone.
"""

from __future__ import annotations

from itertools import combinations

from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod
from mmbench.methods.bimha.config import BIMHAConfig
from mmbench.methods.bimha.network import BIMHANetwork, BIMHAOutput
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import ConfigError, MethodConfig
from mmbench.tasks import Task


class BIMHA(FusionMethod):
    """Bimodal information-augmented multi-head attention.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.bimha import BIMHA
        >>> spec = make_spec()
        >>> shares = BIMHA(spec)(make_batch(spec)).weight  # of the pairs
        >>> list(shares), sum(shares.values()).round(decimals=3).tolist()
        (['text_audio', 'text_vision', 'audio_vision'], [1.0, 1.0, 1.0, 1.0])
    """

    card = MethodCard(
        title="BIMHA: Video Sentiment Analysis with Bimodal Information-augmented Multi-Head Attention",
        authors="Wu, Peng, Zhang, Zhang, Ma, Huang",
        year=2022,
        venue="Knowledge-Based Systems",
        arxiv="2103.02362",
        fidelity="abstract",
        deviations=(
            "Only the abstract was read: pairs of modalities, multi-head attention over the three pairs and a "
            "residual structure are the paper's, all else is inferred.",
            "Inferred: the vectors of the modalities are those of TFN (text LSTM, time averages through a DNN), with "
            "widths and dropouts of the same family.",
            "Inferred: a pair is the outer product of its vectors with a 1 appended, one linear layer and ReLU, with "
            "weights of its own for each pair.",
            "Inferred: the pairs are the tokens of one self-attention layer with four heads and a learned vector per "
            "pair; queries=unimodal is the other reading, in which the modalities attend to the pairs.",
            "Inferred: the residual paths are the one around the attention, followed by LayerNorm, and the vectors of "
            "the modalities beside the pairs at the head.",
            "Inferred: head of one hidden layer, L1 or cross-entropy loss, Adam with a small L2 penalty.",
            "Inferred: with two modalities there is one pair, which attends to itself.",
        ),
        findings=(
            "Attention starts even, for tokens are near zero, and hardly matters: on the generated set shares "
            "deviate by 0.0005 from a third after 5 epochs, when validation is at 0.28, and by 0.06 after 17; "
            "without attention validation is as good (0.24).",
        ),
        needs=Needs(at_least=2),
    )

    Config = BIMHAConfig

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        pairs = [f"pair_{x}_{y}" for x, y in combinations(spec.modalities, 2)]
        if not any(getattr(self.config, name) for name in pairs):
            raise ConfigError(
                f"{self.config.where(pairs[0])} is off and no pair is left on {spec.track}, which has "
                f"{', '.join(spec.modalities)}; turn on one of: {', '.join(pairs)}."
            )
        self.network = BIMHANetwork(spec.modalities, self.dims, self.task.outputs, self.config)

    def forward(self, batch: Batch) -> BIMHAOutput:
        """Return the prediction ``(B, outputs)`` and the attention over the pairs, by sample."""
        return self.network(self.features(batch))

    def observe(self, output: BIMHAOutput, batch: Batch) -> None:
        """Watch the share of each pair."""
        for name, share in output.weight.items():
            self.watch(f"weight_{name}", share)
