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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import cast

from torch import Tensor, nn

from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod, Output
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import ConfigError, MethodConfig, setting
from mmbench.methods.mcmult.cooperative import FUSIONS, Level, LevelReader, levels_read
from mmbench.methods.mult import MulT, MulTNetwork, Stream
from mmbench.nn.transformer import CrossmodalEncoder, TransformerLayer
from mmbench.tasks import Task


class MCMulTNetwork(MulTNetwork):
    """MulT's network with crossmodal encoders that run in pairs, block by block.

    The encoders keep MulT's names; beside them stand the readers, which hold what is new.

    Args:
        dims: Features per step by modality, two or three of them.
        outputs: Width of the prediction.
        settings: Sizes, dropouts and switches.
        steps: As in :class:`~mmbench.methods.mult.MulTNetwork`.
    """

    def __init__(
        self, dims: Mapping[str, int], outputs: int, settings: MCMulT.Config, steps: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(dims, outputs, settings, steps)
        c = settings
        self.detach = c.detach_source
        self.reads = [levels_read(block, c.level_fusion, c.level_window) for block in range(1, c.layers + 1)]
        self.readers = nn.ModuleDict(
            {
                key: nn.ModuleList(
                    LevelReader(cast("TransformerLayer", layer), len(read), c.level_fusion, c.share_attention)
                    for layer, read in zip(self._encoder(key).layers, self.reads, strict=True)
                )
                for key in self.crossmodal
            }
        )
        # With sources of their own, modalities build hierarchies alone; the highest level would be read by no block.
        self.alone = nn.ModuleDict()
        if c.source == "self":
            dropouts = (c.attention_dropout, c.relu_dropout, c.residual_dropout)
            for name in dims:
                layers = (TransformerLayer(c.dim, c.heads, *dropouts) for _ in range(c.layers - 1))
                self.alone[name] = nn.ModuleList(layers)

    def interact(self, streams: Mapping[str, Stream]) -> Iterator[tuple[str, list[Tensor]]]:
        """Yield every target with the highest level of each of its streams, ``(N_target, d)``; pairs go first."""
        alone = {name: self._hierarchy(name, streams[name]) for name in self.alone}
        read: dict[str, Tensor] = {}
        for pair in combinations(streams, 2):
            read |= self._pair(pair, streams, alone)
        for target in self.targets:
            yield target, [read[f"{source}_to_{target}"] for source in self.sources[target]]

    def _encoder(self, key: str) -> CrossmodalEncoder:
        return cast("CrossmodalEncoder", self.crossmodal[key])

    def _pair(
        self, targets: tuple[str, str], streams: Mapping[str, Stream], alone: Mapping[str, list[Level]]
    ) -> dict[str, Tensor]:
        """Return the highest level of both streams of a pair, ``(N_target, d)``, by the name of the stream."""
        both, sources = (0, 1), targets[::-1]
        keys = [f"{source}_to_{target}" for source, target in zip(sources, targets, strict=True)]
        encoders = [self._encoder(key) for key in keys]
        readers = [cast("nn.ModuleList", self.readers[key]) for key in keys]
        layouts = [streams[target].layout for target in targets]
        plans = [layouts[side].reads(layouts[1 - side], self.causal) for side in both]
        embedded = [_embedded(encoders[side], streams[targets[side]]) for side in both]
        states = [encoders[side].dropout(embedded[side]) for side in both]
        levels = [[encoders[side].sides(embedded[1 - side]), *alone.get(sources[side], [])] for side in both]
        for block, read in enumerate(self.reads):
            # Both take the block before either sees the other's new level: a pair has no first and second.
            states = [
                readers[side][block](
                    encoders[side].layers[block], states[side], [levels[side][level] for level in read], plans[side]
                )
                for side in both
            ]
            if not alone:
                for side in both:
                    new = states[1 - side].detach() if self.detach else states[1 - side]
                    levels[side].append((new, new))
        return {keys[side]: encoders[side].norm(states[side]) for side in both}

    def _hierarchy(self, name: str, stream: Stream) -> list[Level]:
        """Return the levels above the lowest that a modality builds without any other."""
        encoder = next(self._encoder(key) for key in self.crossmodal if key.endswith(f"_to_{name}"))
        plan = stream.layout.reads(causal=self.causal)
        x, levels = encoder.dropout(_embedded(encoder, stream)), []
        for layer in cast("nn.ModuleList", self.alone[name]):
            x = layer(x, plan)
            levels.append((x, x))
        return levels


def _embedded(encoder: CrossmodalEncoder, stream: Stream) -> Tensor:
    """Return what enters an encoder of a modality, ``(N, d)``, before dropout."""
    return encoder.embed(stream.rows, stream.layout, stream.positions)


class MCMulT(FusionMethod):
    """Multi-scale cooperative multimodal transformer."""

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

    @dataclass(frozen=True)
    class Config(MulT.Config):
        """Settings of MulT and of its levels; the paper's are unknown."""

        layers: int = setting(4, "blocks of every crossmodal encoder and layers of memory encoders (at least 3)", low=1)
        level_fusion: str = setting(
            "gated_sum", "how levels are read; last and low: only the highest or lowest (low is MulT)", choices=FUSIONS
        )
        level_window: int = setting(0, "how many of the highest levels a block may read; 0 for all", low=0)
        source: str = setting(
            "partner",
            "whose levels are read: the opposite stream's, or the source's own by self-attention",
            choices=("partner", "self"),
        )
        detach_source: bool = setting(False, "whether no gradient goes to the blocks that built the levels")
        share_attention: bool = setting(True, "whether one attention of a block reads all its levels")

        def __post_init__(self) -> None:
            """Refuse switches that would have no effect."""
            super().__post_init__()
            fusion = self.level_fusion
            one = f"level_fusion {fusion!r} reads one level"
            refused = {
                "only": (self.only != "", "both streams of a pair build on each other"),
                "level_window": (self.level_window > 0 and fusion in ("last", "low"), one),
                "source": (self.source == "self" and fusion == "low", "level_fusion 'low' reads the input alone"),
                "detach_source": (
                    self.detach_source and (self.source == "self" or fusion == "low"),
                    "it needs a source 'partner' and a level_fusion above 'low'",
                ),
                "share_attention": (
                    not self.share_attention and (fusion not in ("gated_sum", "mean") or self.level_window == 1),
                    "only level_fusion 'gated_sum' and 'mean', over more than one level, have an attention per level",
                ),
            }
            for key, (wrong, reason) in refused.items():
                if wrong:
                    raise ConfigError(f"{self.where(key)} is {getattr(self, key)!r}, but {reason}; leave it out.")

    config: Config

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        steps = {name: modality.max_length for name, modality in spec.modalities.items()}
        self.network = MCMulTNetwork(self.dims, self.task.outputs, self.config, steps)

    def forward(self, batch: Batch) -> Output:
        """Return the prediction and, named ``states``, what the head reads."""
        prediction, states = self.network(self.features(batch))
        return Output(prediction, {"states": states})
