"""The network of MCMulT: MulT's, whose crossmodal encoders run in pairs, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import cast

from torch import Tensor, nn

from mmbench.methods.mcmult.config import MCMulTConfig
from mmbench.methods.mcmult.cooperative import Level, LevelEncoder, levels_read
from mmbench.methods.mult.network import MulTNetwork, Stream
from mmbench.nn.transformer import CrossmodalEncoder, TransformerLayer


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
        self, dims: Mapping[str, int], outputs: int, settings: MCMulTConfig, steps: Mapping[str, int] | None = None
    ) -> None:
        super().__init__(dims, outputs, settings, steps)
        c = settings
        self.detach = c.detach_source
        self.reads = [levels_read(block, c.level_fusion, c.level_window) for block in range(1, c.layers + 1)]
        self.readers = nn.ModuleDict(
            {
                key: nn.ModuleList(
                    LevelEncoder(cast("TransformerLayer", layer), len(read), c.level_fusion, c.share_attention)
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
