"""MIB, multimodal information bottleneck: what is fused, what was fused, or both are squeezed into Gaussian codes.

Each modality becomes one vector (convolution, Transformer, last step). A bottleneck turns a vector into a Gaussian code
that must predict the target while it stays near the standard normal. Variant ``e`` (early) has a bottleneck after the
fusion, ``l`` (late) one per modality before it, ``c`` (complete) both, ``none`` none. Any fusion works in between.

Paper: Mai, Zeng, Hu, "Multimodal Information Bottleneck: Learning Minimal Sufficient Unimodal and Multimodal
Representations", IEEE Transactions on Multimedia 2022, arXiv 2210.17444. Official code:
TmacMai/Multimodal-Information-Bottleneck (MIT), read at the commit of the card; rewritten, not copied. Deviations: see
``MIB.card``.

Shapes: inputs ``(B, T_m, D_m)`` with their own lengths; vectors, codes and the fused vector ``(B, d)``; predictions
``(B, outputs)``.

Terms of the loss, with ``z = mean + std * e`` the code and one linear decoder per code:

* ``task``: ``main_weight`` times the task loss of the final prediction.
* ``task_<modality>`` (``l``, ``c``): the task loss of what that modality's code predicts.
* ``kl_<modality>`` (``l``, ``c``) and ``kl_fused`` (``e``, ``c``): ``beta`` times
  ``(mean^2 + std^2 - ln std^2 - 1) / 2``, averaged over the batch, and averaged (official code) or summed (paper) over
  the ``d`` dimensions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import Batch, DataSpec, Sequence
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, PublishedResult
from mmbench.methods.config import ConfigError, MethodConfig, setting
from mmbench.methods.mib.graph_fusion import GraphFusion
from mmbench.nn.dropout import Dropout
from mmbench.nn.fusion import LowRankFusion, outer_product
from mmbench.nn.steps import Layout
from mmbench.nn.transformer import TransformerEncoder
from mmbench.nn.variational import GaussianEncoder, product_of_experts, reparameterised, standard_normal_kl
from mmbench.tasks import Task

SENTIMENT = ("acc7", "acc2_non0_geq", "f1_non0_geq", "mae_non0", "corr_non0")
PUBLISHED = {
    "mosi/glove_words/standard+tokens": (SENTIMENT, (0.482, 0.852, 0.852, 0.728, 0.793)),
    "mosei/glove_words/standard+tokens": (SENTIMENT, (0.530, 0.862, 0.862, 0.584, 0.789)),
    "iemocap/glove_aligned_20/standard": (
        tuple(f"{score}/{name}" for name in ("happy", "sad", "angry", "neutral") for score in ("acc", "f1_weighted")),
        (0.877, 0.858, 0.876, 0.869, 0.892, 0.888, 0.724, 0.721),
    ),
}
"""Rows C-MIB with concatenation of the paper's tables: sentiment on MAG's pickles with the words read by fine-tuned
BERT, emotions on MulT's with GloVe."""


class Encoder(nn.Module):
    """One modality as one vector: convolution over three steps, Transformer, last step.

    Args:
        dim: Features per step.
        settings: The method's settings.
        transformer: Whether there is a Transformer; hidden states of a text encoder have passed one already.
        steps: With ``legacy_padding`` the length that sequences are padded to; longer ones keep their own.
    """

    def __init__(self, dim: int, settings: MIB.Config, transformer: bool, steps: int) -> None:
        super().__init__()
        c = settings
        self.legacy, self.steps = c.legacy_padding, steps
        self.convolution = nn.Conv1d(dim, c.dim, 3, padding=1, bias=False)
        dropouts = (c.attention_dropout, c.relu_dropout, c.residual_dropout, c.embed_dropout)
        self.transformer = TransformerEncoder(c.dim, c.heads, c.layers, *dropouts) if transformer else None

    def forward(self, sequence: Sequence) -> Tensor:
        """Return ``(B, d)``."""
        values = sequence.values
        if self.legacy:
            values = F.pad(values, (0, 0, 0, max(0, self.steps - values.shape[1])))
        layout = Layout.of_all(values) if self.legacy else Layout.of(sequence)
        rows = layout.convolve(layout.rows(values), self.convolution)
        if self.transformer is None:
            return layout.last(rows)
        # The official code takes a first channel of exactly 0 for padding.
        positions = (layout.step + 1) * (rows[:, 0] != 0) if self.legacy else layout.positions
        return self.transformer(rows, layout, positions, last=True)


class JoinedFusion(nn.Module):
    """Vectors joined into one without parameters, and layers on top.

    Args:
        join: From ``(B, d)`` vectors to one of any width.
        layers: From there to ``(B, d)``.
    """

    def __init__(self, join: Callable[[list[Tensor]], Tensor], layers: nn.Module) -> None:
        super().__init__()
        self.join, self.layers = join, layers

    def forward(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Return ``(B, d)`` from ``(B, d)`` each."""
        return self.layers(self.join(list(vectors.values())))


class MIBNetwork(nn.Module):
    """Encoders, bottlenecks, fusion and decoders; only what the variant uses is built.

    Args:
        dims: Features per step by modality.
        outputs: Width of the predictions.
        settings: The method's settings.
        contextual: Modalities that need no Transformer.
        steps: Longest length by modality, for ``legacy_padding``.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        outputs: int,
        settings: MIB.Config,
        contextual: frozenset[str] = frozenset(),
        steps: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        c, names, lengths = settings, tuple(dims), steps or {}
        self.eval_noise = c.eval_noise
        self.encoders = nn.ModuleDict(
            {name: Encoder(dim, c, name not in contextual, lengths.get(name, 0)) for name, dim in dims.items()}
        )
        self.unimodal = names if c.variant in ("l", "c") else ()
        self.coded = (*self.unimodal, *(("fused",) if c.variant in ("e", "c") else ()))
        self.bottlenecks = nn.ModuleDict({name: GaussianEncoder(c.dim, c.hidden, c.dim) for name in self.coded})
        self.fusion = _fusion(c, names)
        self.decoders = nn.ModuleDict({name: nn.Linear(c.dim, outputs) for name in (*self.unimodal, "fused")})
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and not name.endswith(".packed"):  # as BERT's initialisation does
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def _draw(self, mean: Tensor, std: Tensor) -> Tensor:
        return reparameterised(mean, std) if self.training or self.eval_noise else mean

    def _code(self, name: str, x: Tensor, named: dict[str, Tensor]) -> Tensor:
        mean, std = self.bottlenecks[name](x)
        named[f"mean_{name}"], named[f"std_{name}"] = mean, std
        named[f"z_{name}"] = self._draw(mean, std)
        return named[f"z_{name}"]

    def forward(self, inputs: Mapping[str, Sequence]) -> Output:
        """Return prediction, vectors and codes of a batch.

        Returns:
            ``named`` holds ``x_<modality>`` and ``fused``, what enters a bottleneck or goes on without one; per
            bottleneck ``mean_...``, ``std_...`` and the draw ``z_...``, all ``(B, d)``; and for modalities with a
            bottleneck ``prediction_<modality>``.
        """
        vectors = {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}
        named = {f"x_{name}": vector for name, vector in vectors.items()}
        for name in self.unimodal:
            vectors[name] = self._code(name, vectors[name], named)
            named[f"prediction_{name}"] = self.decoders[name](vectors[name])
        if self.fusion is None:
            moments = [[named[f"{part}_{name}"] for name in self.unimodal] for part in ("mean", "std")]
            fused = self._draw(*product_of_experts(*moments))  # the paper puts its Sigma, a deviation, in both places
        else:
            fused = self.fusion(vectors)
        named["fused"] = fused
        z = self._code("fused", fused, named) if "fused" in self.coded else fused
        return Output(self.decoders["fused"](z), named)


def _fusion(settings: MIB.Config, names: tuple[str, ...]) -> nn.Module | None:
    """Return the chosen fusion of ``(B, d)`` by modality to ``(B, d)``; none for the product of experts."""
    dim, count = settings.dim, len(names)
    # Around the tensor fusion the official file of c has other activations than those of e and l.
    first, last = (nn.Tanh(), nn.Tanh()) if settings.variant == "c" else (nn.Identity(), nn.ReLU())
    makers: dict[str, Callable[[], nn.Module | None]] = {
        "concat": lambda: JoinedFusion(
            partial(torch.cat, dim=-1), nn.Sequential(nn.Linear(count * dim, dim), nn.ReLU())
        ),
        "addition": lambda: JoinedFusion(partial(reduce, operator.add), nn.Identity()),
        "multiplication": lambda: JoinedFusion(partial(reduce, operator.mul), nn.Identity()),
        "tensor": lambda: JoinedFusion(
            outer_product,
            nn.Sequential(
                Dropout(settings.tensor_dropout),
                *(nn.Linear((dim + 1) ** count, dim), first),
                *(nn.Linear(dim, dim), nn.Tanh()),
                *(nn.Linear(dim, dim), last),
            ),
        ),
        "low_rank": lambda: LowRankFusion(dict.fromkeys(names, dim), dim, settings.rank),
        "graph": lambda: GraphFusion(names, dim),
        "poe": lambda: None,
    }
    return makers[settings.fusion]()


class MIB(FusionMethod):
    """Multimodal information bottleneck."""

    card = MethodCard(
        title="Multimodal Information Bottleneck (E-MIB, L-MIB, C-MIB)",
        authors="Sijie Mai, Ying Zeng, Haifeng Hu",
        year=2022,
        venue="IEEE Transactions on Multimedia",
        arxiv="2210.17444",
        code="TmacMai/Multimodal-Information-Bottleneck@f6d006bdf0ebb64975352cf62abbce790d540b64",
        fidelity="official-code",
        deviations=(
            "Padding is masked in attention and positions, and a modality's vector is its last real step; the official "
            "code lets padding take part and reads the last padded step (legacy_padding).",
            "Even with legacy_padding, states that a text encoder gives for padding tokens are zero; the official code "
            "reads them.",
            "The final task loss counts once as in the paper; the official code counts it twice (main_weight: 2).",
            "Evaluation takes the mean of every code; the official code draws there too (eval_noise).",
            "The KL is averaged over the dimensions of a code as in the official code; the paper's formula sums "
            "(kl: sum).",
            "Only the modules that a variant uses are built, which gives the parameter counts of the paper; the "
            "official files build all four bottlenecks.",
            "The late variant fuses by concatenation by default as in the paper; the official file has the tensor "
            "fusion.",
            "The learning rate is the paper's for emotions, 1e-3; the official 2e-5 goes with fine-tuned BERT.",
            "Bottlenecks have 256 hidden units by default, which train more steadily at that rate; published are 1024.",
            "Deviations are at least 1e-12, so that the KL of a code without noise is finite.",
            "Low-rank fusion draws its factors per rank and starts with a bias of zero.",
            "The product of experts follows the paper's formula, as the official code has none.",
            "The loss of a decoder is that of the task; the paper has binary cross-entropy on one logit per emotion.",
            "Inferred: classification keeps the settings of regression, and every decoder has one output per class or "
            "logit.",
            "Text that no text encoder reads passes a Transformer of the same form as audio and vision, as the paper "
            "has it for emotions; for sentiment that is inferred.",
            "Inferred: two modalities have the same fusions over two vectors, and the graph then has no third level; "
            "a single modality has all but the graph.",
            "On the generated data c and l get no further than sums of unimodal predictions, and e does: from linear "
            "layers that start at 0.02 come unimodal codes with 97 % of their variance along one direction, and "
            "decoders that must predict from one code alone learn the training samples by heart (validation MAE of c "
            "with one layer: 0.70; without those decoders' losses 0.69, with PyTorch's initialisation after the "
            "encoders 0.49, with both 0.25; e: 0.24).",
        ),
        published=tuple(
            PublishedResult(track, metric, value, "paper, row C-MIB with concatenation")
            for track, (names, values) in PUBLISHED.items()
            for metric, value in zip(names, values, strict=True)
        ),
    )

    @dataclass(frozen=True)
    class Config(MethodConfig):
        """Settings of MIB; widths, layers, dropouts and weights are those of the official code."""

        gradient_clip: float = setting(0.0, "largest L2 norm of the gradient; 0 for no limit", low=0.0)
        text_lr: float = setting(
            1e-5, "learning rate of the text encoder and the convolution on it; 0 freezes the encoder", low=0.0
        )
        variant: str = setting(
            "c",
            "where bottlenecks are: e after the fusion, l before it, c both, none nowhere",
            choices=("e", "l", "c", "none"),
        )
        fusion: str = setting(
            "concat",
            "how vectors become one; poe multiplies the codes of variant l",
            choices=("concat", "addition", "multiplication", "tensor", "low_rank", "graph", "poe"),
        )
        beta: float = setting(1e-3, "weight of the KL of every code", low=0.0)
        kl: str = setting(
            "mean", "KL over a code's dimensions: mean (official code) or sum (paper)", choices=("mean", "sum")
        )
        main_weight: float = setting(1.0, "weight of the final task loss; 2 as in the official code", low=0.0)
        eval_noise: bool = setting(False, "whether evaluation draws codes as training does, as in the official code")
        dim: int = setting(50, "width d of vectors and codes", low=1)
        hidden: int = setting(256, "hidden units of every bottleneck; 1024 as published", low=1)
        heads: int = setting(5, "attention heads, a divisor of dim", low=1)
        layers: int = setting(3, "layers of every Transformer", low=1)
        embed_dropout: float = setting(0.2, "dropout on what enters a Transformer", low=0.0, high=1.0)
        attention_dropout: float = setting(0.5, "dropout on attention", low=0.0, high=1.0)
        relu_dropout: float = setting(0.3, "dropout inside the feed-forward networks", low=0.0, high=1.0)
        residual_dropout: float = setting(0.3, "dropout on what layers add to the stream", low=0.0, high=1.0)
        tensor_dropout: float = setting(0.5, "dropout on the outer product of the tensor fusion", low=0.0, high=1.0)
        rank: int = setting(5, "rank of the low-rank fusion", low=1, needs={"fusion": "low_rank"})
        text_transformer: bool = setting(True, "whether text that no text encoder reads passes a Transformer")
        legacy_padding: bool = setting(False, "whether padding takes part, as in the official code")

        def __post_init__(self) -> None:
            """Check that the heads divide the width and that a product of experts has experts."""
            super().__post_init__()
            if self.dim % self.heads:
                raise ConfigError(f"{self.where('heads')} is {self.heads}; it must divide dim, {self.dim}.")
            if self.fusion == "poe" and self.variant != "l":
                raise ConfigError(
                    f"{self.where('fusion')} is 'poe', which multiplies unimodal codes into the final one: set variant "
                    f"to 'l' (it is {self.variant!r}) or choose another fusion."
                )

    config: Config

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        c = self.config
        if c.fusion == "graph" and len(spec.modalities) < 2:
            raise ConfigError(
                f"{c.where('fusion')} is 'graph', which pairs modalities, and {spec.track} has one: choose another."
            )
        contextual = frozenset(() if c.text_transformer and self.text_encoder is None else ("text",))
        steps = {name: modality.max_length for name, modality in spec.modalities.items()}
        self.network = MIBNetwork(self.dims, self.task.outputs, c, contextual, steps)

    def parameter_groups(self) -> dict[str, list[dict[str, Any]]]:
        """Return the group of the text encoder, with it the convolution on its states, and that of the rest."""
        if self.text_encoder is None or not self.config.text_lr:
            return super().parameter_groups()
        convolution = self.network.get_parameter("encoders.text.convolution.weight")
        rest = self.main_groups(parameter for parameter in self.parameters() if parameter is not convolution)
        return {"main": [*rest, {"params": [convolution], "lr": self.config.text_lr}]}

    def forward(self, batch: Batch) -> Output:
        """Return the prediction ``(B, outputs)``, the vectors and the codes; see :meth:`MIBNetwork.forward`."""
        output: Output = self.network(self.features(batch))
        return output

    def objective(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Return the task loss of every decoder and the KL of every code, weighted."""
        c, named = self.config, output.named
        terms = {"task": c.main_weight * self.task.loss(output.prediction, batch)}
        for name in self.network.unimodal:
            terms[f"task_{name}"] = self.task.loss(named[f"prediction_{name}"], batch)
        for name in self.network.coded:
            elements = standard_normal_kl(named[f"mean_{name}"], 2 * named[f"std_{name}"].log())
            terms[f"kl_{name}"] = c.beta * (elements.mean() if c.kl == "mean" else elements.sum(-1).mean())
        return terms
