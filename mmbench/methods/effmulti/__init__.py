"""EffMulti: three views of the modalities, weighed by attention first over modalities, then over views.

Each modality becomes one vector; :mod:`mmbench.nn.three_view` makes of them one full, one shared and a specific
representation per modality. The modality-semantic hierarchical fusion averages the specific ones by attention and then
the three kinds by a gate. Nothing compares two sequences step by step: cost grows with length, not with its square.

Paper: Qiu, Xie, Ding, Kong, "EffMulti: Efficiently Modeling Complex Multimodal Interactions for Emotion Analysis",
2022, arXiv 2212.08661. Only its abstract was at hand, and no official code was found: the views, what the fusion is
called and that all is light are the authors', every equation here is inferred. Deviations: see ``EffMulti.card``.

Shapes: modalities ``(B, T_m, D_m)``, each with its own lengths; vectors and representations ``(B, width)``; prediction
``(B, outputs)``. With ``u_m`` the vectors and ``p_m`` the specific representations:

* ``a = softmax over m of q^T tanh(W_e p_m + b_e)``, ``P = sum_m a_m p_m``
* ``c = softmax(W_c [full; shared; P] + b_c)``, ``z = LayerNorm(c_1 full + c_2 shared + c_3 P + full)``

Loss: ``task + similarity * S + difference * D``.

* ``S``: mean squared distance of the shared vectors from their mean over the modalities, per entry.
* ``D``: squared cosine between the shared and the specific vector of a modality, mean over samples and modalities.
"""

from __future__ import annotations

from torch import Tensor

from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import MethodConfig
from mmbench.methods.effmulti.config import EffMultiConfig
from mmbench.methods.effmulti.network import EffMultiNetwork, EffMultiOutput
from mmbench.nn.three_view import modality_variance, overlap
from mmbench.tasks import Task


class EffMulti(FusionMethod):
    """Efficient modelling of multimodal interactions by three views and two levels of weights.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.effmulti import EffMulti
        >>> spec = make_spec()
        >>> model, batch = EffMulti(spec), make_batch(spec)
        >>> output = model(batch)
        >>> list(model.objective(output, batch))
        ['task', 'similarity', 'difference']
        >>> [weights.sum(1).round(decimals=3).tolist() for weights in (output.modality_weights, output.kind_weights)]
        [[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]
    """

    card = MethodCard(
        title="EffMulti: Efficiently Modeling Complex Multimodal Interactions for Emotion Analysis",
        authors="Feng Qiu, Chengyang Xie, Yu Ding, Wanzeng Kong",
        year=2022,
        arxiv="2212.08661",
        fidelity="abstract",
        deviations=(
            "Only the abstract was at hand: it fixes one full, one shared and a specific representation per modality, "
            "and that a modality-semantic hierarchical fusion joins them at little cost.",
            "Inferred: each modality is the mean of its text states, or of the states of a GRU, through a linear layer "
            "and LayerNorm; features are batch-normalised first.",
            "Inferred: what has one step per sample is read without a GRU.",
            "Inferred: the full view is one layer on the concatenation, the shared view the mean of one map's results, "
            "the specific views are maps of their own.",
            "Inferred: the fusion weighs the modalities within the specific kind and then the kinds; fusion: "
            "semantic_first has the opposite order.",
            "Inferred: the full view is added to the weighted kinds once more.",
            "Inferred: the terms beside the task are the cheapest that make shared vectors alike and specific ones "
            "different; similarity and difference 0 leave the task alone.",
            "Inferred: the text encoder is frozen unless text_lr is set, because the paper counts trained parameters.",
            "Inferred: Adam without weight decay, as the suite has no decoupled decay.",
        ),
        needs=Needs(at_least=2),
    )

    Config = EffMultiConfig
    config: EffMultiConfig

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        self.network = EffMultiNetwork(spec.modalities, self.dims, self.task.outputs, self.config)

    def forward(self, batch: Batch) -> EffMultiOutput:
        """Return the prediction ``(B, outputs)`` and the representations."""
        return self.network(self.features(batch))

    def objective(self, output: EffMultiOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms; they are means over samples, so that DDP averages them as it does the task."""
        c, views = self.config, output.views
        terms = super().objective(output, batch)
        if c.similarity and c.shared:
            terms["similarity"] = c.similarity * modality_variance(views.shared)
        if c.difference and c.shared and c.specific:
            terms["difference"] = c.difference * overlap(views)
        return terms

    def observe(self, output: EffMultiOutput, batch: Batch) -> None:
        """Watch the weights of both levels."""
        weights: list[tuple[str, Tensor]] = []
        if output.modality_weights is not None:
            weights += zip(self.spec.modalities, output.modality_weights.unbind(-1), strict=True)
        if (kinds := output.kind_weights) is not None:
            kinds = kinds.mean(1) if kinds.dim() == 3 else kinds  # of every modality, in the semantic order
            weights += zip(self.config.views, kinds.unbind(-1), strict=True)
        for name, values in weights:
            self.watch(f"weight_{name}", values)
