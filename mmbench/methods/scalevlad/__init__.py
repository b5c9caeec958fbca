"""ScaleVLAD: descriptors of all modalities at all time scales are gathered around vectors that all of them share.

Re-implementation from the abstract: no code is public, and the equations below rest on NetVLAD's mathematics and on
choices of this suite, which the card lists. Each modality passes a Transformer encoder. Means over windows of several
lengths, up to the whole utterance, make descriptors ``z``; their residuals to shared vectors ``c_k`` are summed into
``u_k``. A Transformer reads ``[cls; u_1; ...; u_K]`` and its first state is the prediction's. Because vectors and
assignment are the same for every modality and scale, they align what they gather.

Paper: Luo, Ji, Huang, Wang, Ji, Li, "ScaleVLAD: Improving Multimodal Sentiment Analysis via Multi-Scale Fusion of
Locally Descriptors", arXiv 2112.01368. NetVLAD: arXiv 1511.07247. Deviations: see ``ScaleVLAD.card``.

Shapes: modalities ``(B, T_m, D_m)``, each with its own lengths; states ``(B, T_m, d)``; descriptors ``(B, N, d)`` over
all modalities and scales; ``u (B, K, d)``; fused vector ``f (B, d)``; prediction ``(B, outputs)``.

* ``task``: the task loss.
* ``clustering``: ``lambda mean_i CE(f_i E^T / tau, p_i)`` for unit ``f_i``, slowly shifted centres ``E`` of a memory of
  past samples and the cluster ``p_i`` of the sample under them (shifted clustering, self-supervised).
"""

from __future__ import annotations

from torch import Tensor

from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod
from mmbench.methods.card import MethodCard
from mmbench.methods.config import MethodConfig
from mmbench.methods.scalevlad.clustering import ShiftedClustering
from mmbench.methods.scalevlad.config import ScaleVLADConfig
from mmbench.methods.scalevlad.network import ScaleVLADNetwork, ScaleVLADOutput
from mmbench.nn.gathering import gather_statistics
from mmbench.tasks import Task


class ScaleVLAD(FusionMethod):
    """Multi-scale fusion of local descriptors around shared vectors.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.scalevlad import ScaleVLAD
        >>> spec = make_spec()
        >>> model, batch = ScaleVLAD(spec), make_batch(spec)
        >>> output = model(batch)
        >>> tuple(output.fused.shape), list(model.objective(output, batch))
        ((4, 64), ['task', 'clustering'])
    """

    card = MethodCard(
        title="ScaleVLAD: Multi-Scale Fusion of Locally Descriptors",
        authors="Huaishao Luo, Lei Ji, Yanyong Huang, Bin Wang, Shenggong Ji, Tianrui Li",
        year=2021,
        venue="arXiv preprint",
        arxiv="2112.01368",
        fidelity="abstract",
        deviations=(
            "A re-implementation from the abstract, which gives the parts (Transformer encoders, multi-scale vectors "
            "shared by the modalities, shifted clustering, Transformer and a full connection) and no number.",
            "Inferred: audio, vision and word vectors pass pre-norm Transformers after a normalisation of features; "
            "states of a pretrained text encoder pass one linear layer, without the marks at both ends.",
            "Inferred: a scale is the mean over windows side by side, with a layer of its own that all modalities "
            "share; the scales are 1, 2, 3, 10 steps and the whole utterance.",
            "Inferred: the gathering is NetVLAD's with decoupled assignment and its initial weights, eight vectors "
            "and no vector of a modality's own, followed by intra-normalisation and a layer norm.",
            "Inferred: the Transformer on top reads the gathered vectors behind a learned token whose state predicts.",
            "Inferred: shifted clustering is the cross-entropy of a sample's own cluster among those of a memory of "
            "past samples, whose centres drift towards new ones; targets are balanced over batch and memory, and the "
            "loss begins after the first epoch, with a memory half full.",
            "Inferred: Adam, at one rate for all but a text encoder, without warm-up or decoupled weight decay.",
        ),
    )

    Config = ScaleVLADConfig
    config: ScaleVLADConfig

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        c = self.config
        self.network = ScaleVLADNetwork(self.dims, self.task.outputs, c, tokens=self.text_encoder is not None)
        if c.gather_negatives:
            gather_statistics(self.network)
        self.clustering: ShiftedClustering | None = None
        if c.clustering:
            self.clustering = ShiftedClustering(
                c.width, c.clusters, c.memory, c.temperature, c.momentum, c.refresh, c.balanced
            )

    def forward(self, batch: Batch) -> ScaleVLADOutput:
        """Return the prediction ``(B, outputs)`` and the fused vector."""
        return self.network(self.features(batch))

    def objective(self, output: ScaleVLADOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the task loss and shifted clustering, which in training remembers the batch."""
        terms = super().objective(output, batch)
        if self.clustering is not None and output.fused is not None:
            active = self.current_epoch >= self.config.clustering_start
            terms["clustering"] = self.config.clustering * self.clustering(self.of_all(output.fused), active)
        return terms
