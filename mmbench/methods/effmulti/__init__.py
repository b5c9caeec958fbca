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

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data_modules.schema import Batch, DataSpec, ModalitySpec, Sequence
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import MethodConfig, setting
from mmbench.methods.intermulti import ThreeViewConfig
from mmbench.nn.dropout import Dropout
from mmbench.nn.three_view import EpochMeans, ModalityVectors, ThreeViewDecomposition, Views, overlap, spread
from mmbench.tasks import Task


class ModalityAttention(nn.Module):
    """The first level: a weight per modality from what its vector says, ``softmax(q^T tanh(W x_m + b))``.

    Args:
        width: Width of the vectors.
        hidden: Width of ``q``.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))

    def forward(self, vectors: Tensor) -> Tensor:
        """Return ``(B, k)``, rows that sum to 1, from ``(B, k, width)``."""
        return self.score(vectors).squeeze(-1).softmax(-1)


class KindGate(nn.Module):
    """The second level: a weight per kind of representation from all of them, ``softmax(W [x_1; ...; x_n] + b)``.

    Args:
        kinds: Number of kinds, ``n``.
        width: Width of the representations.
    """

    def __init__(self, kinds: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(kinds * width, kinds)

    def forward(self, kinds: Tensor) -> Tensor:
        """Return ``(..., n)``, which sum to 1, from ``(..., n, width)``."""
        return self.linear(kinds.flatten(-2)).softmax(-1)


class ModalitySemanticFusion(nn.Module):
    """From the views to one representation.

    Args:
        modalities: Number of modalities.
        settings: The method's settings.
    """

    def __init__(self, modalities: int, settings: EffMulti.Config) -> None:
        super().__init__()
        c = settings
        self.semantic_first = c.fusion == "semantic_first"
        concat, parts = c.fusion == "concat", c.full + c.shared + modalities * c.specific
        self.concat = nn.Linear(parts * c.width, c.width) if concat else None
        attends = c.level1 and (self.semantic_first or (c.specific and not concat))
        self.attention = ModalityAttention(c.width, c.attention) if attends else None
        self.gate = KindGate(len(c.views), c.width) if c.level2 and not concat else None
        self.norm = nn.LayerNorm(c.width)

    def forward(self, views: Views, parts_of_full: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the fused ``z (B, width)``, and the weights that made it.

        Args:
            views: The three views.
            parts_of_full: What each modality adds to the full view, ``(B, width)`` each; for the semantic order.

        Returns:
            Beside ``z``, unless everything is concatenated: ``modality_weights (B, k)``, where modalities are weighed,
            and ``kind_weights``: ``(B, n)``, in the semantic order ``(B, k, n)``.
        """
        if self.concat is not None:
            return {"z": self.norm(self.concat(torch.cat([*views.joint, *views.specific.values()], -1)))}
        weights: dict[str, Tensor] = {}
        if self.semantic_first:
            kinds = [torch.stack(list(k.values()), 1) for k in (parts_of_full, views.shared, views.specific) if k]
            mixed, weights["kind_weights"] = _average(torch.stack(kinds, 2), self.gate)  # (B, k, n, width)
            fused, weights["modality_weights"] = _average(mixed, self.attention)
        else:
            kinds = views.joint
            if views.specific:
                specific = torch.stack(list(views.specific.values()), 1)
                own, weights["modality_weights"] = _average(specific, self.attention)
                kinds = [*kinds, own]
            fused, weights["kind_weights"] = _average(torch.stack(kinds, 1), self.gate)
        if views.full is not None:
            fused = fused + views.full
        return {"z": self.norm(fused), **weights}


def _average(vectors: Tensor, level: nn.Module | None) -> tuple[Tensor, Tensor]:
    """Return the average ``(..., width)`` of ``(..., n, width)`` and the weights ``(..., n)``, alike with no level."""
    weights = vectors.new_full(vectors.shape[:-1], 1 / vectors.shape[-2]) if level is None else level(vectors)
    return (weights.unsqueeze(-1) * vectors).sum(-2), weights


class EffMultiNetwork(nn.Module):
    """Vectors, views, fusion and head.

    Args:
        modalities: The modalities of the data.
        dims: Features per step by modality (of text: after its encoder).
        outputs: Width of the prediction.
        settings: The method's settings.
    """

    def __init__(
        self,
        modalities: Mapping[str, ModalitySpec],
        dims: Mapping[str, int],
        outputs: int,
        settings: EffMulti.Config,
    ) -> None:
        super().__init__()
        c = settings
        self.vectors = ModalityVectors(modalities, dims, c.width, "gru", c.text_reader, c.hidden)
        self.views = ThreeViewDecomposition(modalities, c.width, nn.ReLU, full_layers=1, views=c.views)
        self.fusion = ModalitySemanticFusion(len(modalities), c)
        self.head = nn.Sequential(
            nn.Linear(c.width, c.head_width), nn.ReLU(), Dropout(c.dropout), nn.Linear(c.head_width, outputs)
        )

    def forward(self, features: Mapping[str, Sequence]) -> Output:
        """Return prediction and representations of a batch.

        Returns:
            ``named`` holds the views (:meth:`Views.named`) and what :class:`ModalitySemanticFusion` returns.
        """
        vectors = self.vectors(features)
        views: Views = self.views(vectors)
        parts = self.views.parts_of_full(vectors) if self.fusion.semantic_first else {}
        fused = self.fusion(views, parts)
        return Output(self.head(fused["z"]), {**views.named(), **fused})


class EffMulti(FusionMethod):
    """Efficient modelling of multimodal interactions by three views and two levels of weights."""

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

    @dataclass(frozen=True)
    class Config(ThreeViewConfig):
        """Settings of EffMulti; none is published."""

        batch_size: int = setting(64, "samples per step", low=1)
        text_lr: float = setting(0.0, "learning rate of the text encoder; 0 freezes it", low=0.0)
        text_reader: str = setting(
            "mean",
            "what reads a text sequence: mean of an encoder's states, GRU for word vectors",
            choices=("mean", "gru"),
        )
        attention: int = setting(64, "hidden width of the attention over modalities", low=1)
        fusion: str = setting(
            "modality_first",
            "the order of the two levels, or a linear layer of the concatenation (concat)",
            choices=("modality_first", "semantic_first", "concat"),
        )
        level1: bool = setting(True, "whether modalities are weighed by attention instead of alike")
        level2: bool = setting(True, "whether kinds are weighed by a gate instead of alike")
        similarity: float = setting(0.1, "weight of the distance between shared vectors", low=0.0)
        difference: float = setting(0.1, "weight of the overlap of shared and specific vectors", low=0.0)

    config: Config

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        self.network = EffMultiNetwork(spec.modalities, self.dims, self.task.outputs, self.config)
        self._weights = EpochMeans()

    def forward(self, batch: Batch) -> Output:
        """Return the prediction ``(B, outputs)`` and the representations, as :class:`EffMultiNetwork` names them."""
        output: Output = self.network(self.features(batch))
        return output

    def objective(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Return the weighted terms; they are means over samples, so that DDP averages them as it does the task."""
        c, views = self.config, Views.of(output.named)
        terms = super().objective(output, batch)
        if c.similarity and c.shared:
            terms["similarity"] = c.similarity * spread(views.shared)
        if c.difference and c.shared and c.specific:
            terms["difference"] = c.difference * overlap(views)
        if self.training:
            self._weights.add(self._watched(output.named))
        return terms

    def _watched(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights of both levels, ``(B,)`` by name."""
        watched: list[tuple[str, Tensor]] = []
        if "modality_weights" in named:
            watched += zip(self.spec.modalities, named["modality_weights"].unbind(-1), strict=True)
        if "kind_weights" in named:
            kinds = named["kind_weights"]
            kinds = kinds.mean(1) if kinds.dim() == 3 else kinds  # of every modality, in the semantic order
            watched += zip(self.config.views, kinds.unbind(-1), strict=True)
        return {f"weight_{name}": weights for name, weights in watched}

    def on_train_epoch_start(self) -> None:
        """Forget the weights of the last epoch."""
        super().on_train_epoch_start()
        self._weights.reset()

    def terms(self) -> dict[str, float]:
        """Return the means of the terms and, to be watched beside them, of the weights of both levels."""
        return {**super().terms(), **self._weights.means()}
