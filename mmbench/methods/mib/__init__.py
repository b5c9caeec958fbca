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

from typing import Any

from torch import Tensor

from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod
from mmbench.methods.card import MethodCard, PublishedResult
from mmbench.methods.config import ConfigError, MethodConfig
from mmbench.methods.groups import without
from mmbench.methods.mib.config import MIBConfig
from mmbench.methods.mib.network import MIBNetwork, MIBOutput
from mmbench.nn.variational import standard_normal_kl
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


class MIB(FusionMethod):
    """Multimodal information bottleneck.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.mib import MIB
        >>> spec = make_spec()
        >>> model, batch = MIB(spec), make_batch(spec)
        >>> list(model.objective(model(batch), batch))
        ['task', 'task_text', 'task_audio', 'task_vision', 'kl_text', 'kl_audio', 'kl_vision', 'kl_fused']
    """

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
        findings=(
            "On `synthetic/lag` (best 0.20, one modality 1.60) it stays at 1.06 to 1.08 with concatenation and with "
            "`variant=e`: validation is at its best after 1 to 9 epochs, with training at 1.03 or more. What is fused "
            "is the last step of each modality, in which its whole order has to be kept.",
        ),
        published=tuple(
            PublishedResult(track, metric, value, "paper, row C-MIB with concatenation")
            for track, (names, values) in PUBLISHED.items()
            for metric, value in zip(names, values, strict=True)
        ),
    )

    Config = MIBConfig
    config: MIBConfig

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
        rest = self.main_groups(without(self.parameters(), [convolution]))
        return {"main": [*rest, {"params": [convolution], "lr": self.config.text_lr}]}

    def forward(self, batch: Batch) -> MIBOutput:
        """Return the prediction ``(B, outputs)``, the vectors and the codes."""
        return self.network(self.features(batch))

    def objective(self, output: MIBOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the task loss of every decoder and the KL of every code, weighted."""
        c = self.config
        terms = {"task": c.main_weight * self.task.loss(output.prediction, batch)}
        for name, prediction in output.alone.items():
            terms[f"task_{name}"] = self.task.loss(prediction, batch)
        for name in self.network.coded:
            elements = standard_normal_kl(output.mean[name], 2 * output.std[name].log())
            terms[f"kl_{name}"] = c.beta * (elements.mean() if c.kl == "mean" else elements.sum(-1).mean())
        return terms
