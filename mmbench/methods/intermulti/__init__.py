"""InterMulti: three views of the modalities, fused by products of high order in which text takes part everywhere.

Each modality becomes one vector; :mod:`mmbench.nn.three_view` makes of them one full, one shared and a specific
representation per modality. The Text-dominated Hierarchical High-order Fusion (THHF) multiplies the specific vector of
text with that of each other modality, text and these pairs with each other, and the result with the other two views.

Paper: Qiu, Kong, Ding, "InterMulti: Multi-view Multimodal Interactions with Text-dominated Hierarchical High-order
Fusion for Emotion Analysis", 2022, arXiv 2212.10030. Only its abstract was at hand, and no official code was found:
the views and what THHF is called are the authors', every equation here is inferred. The products are polynomial tensor
pooling (Hou et al., NeurIPS 2019), the terms of the loss beside the task are MISA's. Deviations: see
``InterMulti.card``.

Shapes: modalities ``(B, T_m, D_m)``, each with its own lengths; vectors and representations ``(B, width)``; prediction
``(B, outputs)``. With ``u_m`` the vectors, ``w`` the balance and t the leading modality:

* ``w = k softmax(beta)`` over the ``k`` modalities, ``p_m = w_m specific_m``
* ``g_tm = HP(p_t, p_m)`` for each other m; ``g = HP(p_t, g_ta, g_tv)``; ``z = HP(full, shared, g)``
* ``HP(x_1, x_2, ...) = LayerNorm(sum_r prod_q W_rq [x_1; x_2; ...; 1])``, of rank ``r = 1 ... R`` and order
  ``q = 1 ... P``, which is 2 for pairs and 3 after them

Loss: ``task + similarity * S + difference * D``.

* ``S``: central moment discrepancy (five moments) between the shared vectors of two modalities, mean over the pairs.
* ``D``: ``mean((A^T B)^2)`` of centred, normalised batches, summed over the pairs (specific, shared) of each modality
  and (specific, specific) of two.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import ConfigError, MethodConfig
from mmbench.methods.intermulti.config import InterMultiConfig
from mmbench.methods.intermulti.network import InterMultiNetwork, InterMultiOutput
from mmbench.nn.three_view import pairwise_discrepancy, view_orthogonality
from mmbench.tasks import Task

SMALLEST_BATCH = 8
"""Samples below which the moments of a batch say too little: smaller batches have no similarity term."""


class InterMulti(FusionMethod):
    """Multi-view interactions with text-dominated hierarchical high-order fusion.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.intermulti import InterMulti
        >>> spec = make_spec()
        >>> output = InterMulti(spec)(make_batch(spec))
        >>> [name for name in output.named if name.startswith("pair_")]  # text takes part in both
        ['pair_text_audio', 'pair_text_vision']
    """

    card = MethodCard(
        title=(
            "InterMulti: Multi-view Multimodal Interactions with Text-dominated Hierarchical High-order Fusion for "
            "Emotion Analysis"
        ),
        authors="Feng Qiu, Wanzeng Kong, Yu Ding",
        year=2022,
        arxiv="2212.10030",
        fidelity="abstract",
        deviations=(
            "Only the abstract was at hand: it fixes one full, one shared and a specific representation per modality, "
            "and that THHF is hierarchical, of high order and dominated by text.",
            "Inferred: each modality is the mean of its text states, or of the states of a bidirectional LSTM, through "
            "a linear layer and LayerNorm; features are batch-normalised first.",
            "Inferred: what has one step per sample is read without an LSTM.",
            "Inferred: the full view is a perceptron of the concatenation, the shared view the mean of one map's "
            "results, the specific views are maps of their own, with MISA's sigmoid.",
            "Inferred: high order means polynomial tensor pooling of low rank.",
            "Inferred: the levels are text with each other modality, text with these pairs, and this with the other "
            "views; pairs without text do not exist.",
            "Inferred: the contributions of the modalities are balanced by one learned weight each, and text starts "
            "with the largest.",
            "Inferred: without text the first modality of the data leads.",
            "Inferred: the terms beside the task are MISA's similarity and difference losses, with its weights; "
            "similarity and difference 0 leave the task alone.",
            "The difference loss is differentiated through its scaling of rows to length 1, which MISA's code holds "
            "fixed.",
            "Inferred: batches under 8 samples have no similarity term, because it compares moments over the batch.",
            "Inferred: Adam without weight decay, as the suite has no decoupled decay.",
        ),
        needs=Needs(at_least=2),
    )

    Config = InterMultiConfig
    config: InterMultiConfig

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        self.network = InterMultiNetwork(spec.modalities, self.dims, self.task.outputs, self._leader(), self.config)

    def _leader(self) -> str:
        leader, there = self.config.leader, list(self.spec.modalities)
        if leader == "auto":
            return "text" if "text" in there else there[0]
        if leader not in there:
            raise ConfigError(
                f"{self.config.where('leader')} is {leader!r}, which {self.spec.track} does not have; choose one of: "
                f"auto, {', '.join(there)}."
            )
        return leader

    def forward(self, batch: Batch) -> InterMultiOutput:
        """Return the prediction ``(B, outputs)`` and the representations."""
        return self.network(self.features(batch))

    def objective(self, output: InterMultiOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms; the two beside the task see the local batch, also under DDP."""
        c, views = self.config, output.views
        terms = super().objective(output, batch)
        if c.similarity and c.shared and batch.size >= SMALLEST_BATCH:
            terms["similarity"] = c.similarity * pairwise_discrepancy(views.shared)
        if c.difference and c.specific:
            terms["difference"] = c.difference * view_orthogonality(views)
        return terms

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Watch the balance as the epoch leaves it."""
        if self.network.balance is not None and self.trainer.is_last_batch:
            for name, weight in self.network.balance().items():
                self.watch(f"balance_{name}", weight)
