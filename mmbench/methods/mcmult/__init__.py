"""MCMulT: MulT whose crossmodal transformers work in pairs and read every level that their partner has built.

Paper: Ma, Yao, Liang, Liu, "Multi-scale Cooperative Multimodal Transformers for Multimodal Sentiment Analysis in
Videos", 2022, arXiv 2206.07981. Only its abstract could be read, and no official code was found: it says that
crossmodal interaction uses several semantic levels of the source modality, each modality building its own hierarchy
from them, and that the two modalities of a pair do so cooperatively. All else is MulT (see :mod:`mmbench.methods.mult`)
or inferred: see the card.

Of two modalities, one stream has the first as target and the second as source, the other the reverse. Level 0 is the
embedded target. Block ``i`` of both, at once, with ``Att`` the block's attention and ``S'`` the partner's levels::

    c = sum_j g_ij Att(LN(S_{i-1}), LN(S'_j), LN(S'_j)),  j = 0 ... i-1,  g_i = softmax(theta_i)
    h = S_{i-1} + c,  S_i = h + FFN(LN(h))

MulT reads ``S'_0`` at every block. What a target got from its sources is concatenated and read as in MulT.

Shapes: inputs ``(B, T_m, D_m)`` with their own ``T_m``; levels ``(N_target, d)``, the rows of a layout; state of a
target ``(B, (M - 1) d)`` for M modalities; prediction ``(B, outputs)``. Loss: the task's alone.
"""

from __future__ import annotations

from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import MethodConfig
from mmbench.methods.mcmult.config import MCMulTConfig
from mmbench.methods.mcmult.network import MCMulTNetwork
from mmbench.tasks import Task


class MCMulT(FusionMethod):
    """Multi-scale cooperative multimodal transformer.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.mcmult import MCMulT
        >>> spec = make_spec()
        >>> output = MCMulT(spec)(make_batch(spec))
        >>> tuple(output.prediction.shape), tuple(output.named["states"].shape)
        ((4, 1), (4, 180))
    """

    card = MethodCard(
        title="MCMulT: Multi-scale Cooperative Multimodal Transformer",
        authors="Lianyang Ma, Yu Yao, Tao Liang, Tongliang Liu",
        year=2022,
        venue="arXiv preprint",
        arxiv="2206.07981",
        fidelity="abstract",
        deviations=(
            "Everything that the abstract does not say is MulT as in this suite: inputs, positions, masks, blocks, "
            "memory encoders, head, loss and optimiser.",
            "Inferred: the levels of a source are the states of the opposite stream of the same pair; source=self "
            "takes levels that each modality builds by self-attention alone.",
            "Inferred: a block reads all levels below it (setting level_window bounds them).",
            "Inferred: the blocks add what one attention reads of each level, weighted by a softmax over one learned "
            "number per level; level_fusion has other ways.",
            "Inferred: both streams of a pair take a block at the same time, from the levels below.",
            "Inferred: no auxiliary loss, and every size, dropout and rate.",
        ),
        needs=Needs(at_least=2),
    )

    Config = MCMulTConfig
    config: MCMulTConfig

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        steps = {name: modality.max_length for name, modality in spec.modalities.items()}
        self.network = MCMulTNetwork(self.dims, self.task.outputs, self.config, steps)

    def forward(self, batch: Batch) -> Output:
        """Return the prediction and, named ``states``, what the head reads."""
        prediction, states = self.network(self.features(batch))
        return Output(prediction, {"states": states})
