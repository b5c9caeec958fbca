"""GRU and LSTM layers on a CPU that compute the real steps of a batch and nothing else.

Torch has no fused GRU for a CPU: every step is two dozen small operations, and as many again in the gradient. Its fused
LSTM reads padding, and computes the gradient of features whether or not it is wanted. Here all samples take their first
step at once, then those that have one their second. What does not wait for the step before - products with features,
gradients of weights - is computed for all steps together, and the gradient of a step is written out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from mmbench.nn.steps import Layout

_in_single_precision = torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.float32)


class Waves:
    """The order in which a recurrent layer goes through rows: the first steps of all samples, then the second ones.

    A *wave* is one step of the samples that have it, the longest sample first.

    Args:
        layout: Where the rows belong; packed.
        backwards: Whether the first step is the last one of a sample.

    Attributes:
        counts: Samples in each wave.
    """

    def __init__(self, layout: Layout, backwards: bool = False) -> None:
        lengths, sample = layout.lengths, layout.sample
        order = lengths.argsort(descending=True, stable=True)
        counts = (lengths[:, None] > torch.arange(int(lengths.max()))).sum(0)
        self.counts: list[int] = counts.tolist()
        step = lengths[sample] - 1 - layout.step if backwards else layout.step
        self._places = (counts.cumsum(0) - counts)[step] + order.argsort()[sample]
        self._rows = torch.empty_like(sample).scatter_(0, self._places, torch.arange(len(sample)))
        # What stands in the wave before is as far back as that wave is long.
        self._before = torch.arange(self.counts[0], len(sample)) - counts[:-1].repeat_interleave(counts[1:])

    def of(self, rows: Tensor) -> Tensor:
        """Return waves ``(N, ...)`` of rows ``(N, ...)``."""
        return rows.index_select(0, self._rows)

    def rows(self, waves: Tensor) -> Tensor:
        """Return rows ``(N, ...)`` of waves ``(N, ...)``."""
        return waves.index_select(0, self._places)

    def before(self, waves: Tensor) -> Tensor:
        """Return ``(N, H)``, what stands in the wave before; zero in the first."""
        return torch.cat([torch.zeros_like(waves[: self.counts[0]]), waves.index_select(0, self._before)])

    def split(self, *waves: Tensor) -> list[tuple[Tensor, ...]]:
        """Return by wave ``(samples, ...)`` of each of several."""
        return list(zip(*(item.split(self.counts) for item in waves), strict=True))


class _GRU(torch.autograd.Function):
    """States of a GRU.

    ``r = s(x_r + W_r h); z = s(x_z + W_z h); o = W_n h + b; n = tanh(x_n + r o); h' = n + z (h - n)``.
    """

    @staticmethod
    @_in_single_precision
    def forward(ctx: FunctionCtx, read: Tensor, weight: Tensor, bias: Tensor, waves: Waves) -> Tensor:
        """Return the states ``(N, H)``.

        Args:
            ctx: What the gradient needs.
            read: ``(N, 3 H)``, what the weights of features give.
            weight: ``(3 H, H)``.
            bias: ``(H,)``, of ``o``.
            waves: The order of the rows.
        """
        width = weight.shape[1]
        of_gates, of_new = (part.T.contiguous() for part in weight.split([2 * width, width]))
        gates, new = (waves.of(part) for part in read.split([2 * width, width], 1))
        own, states = torch.empty_like(new), torch.empty_like(new)
        state = new.new_zeros(waves.counts[0], width)
        for gate, reset, update, fresh, recalled, after in waves.split(gates, *gates.chunk(2, 1), new, own, states):
            state = state[: len(gate)]
            gate.addmm_(state, of_gates).sigmoid_()
            torch.addmm(bias, state, of_new, out=recalled)
            fresh.addcmul_(reset, recalled).tanh_()
            state = torch.lerp(fresh, state, update, out=after)
        ctx.save_for_backward(gates, new, own, states, weight)
        ctx.waves = waves  # type: ignore[attr-defined]
        return waves.rows(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients of what was read, of the weights and the bias."""
        gates, new, own, states, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        waves: Waves = ctx.waves  # type: ignore[attr-defined]
        (reset, update), before = gates.chunk(2, 1), waves.before(states)
        # By what a change of the state is multiplied to be one of x_n, and of r, z and o before their functions.
        of_new = (1 - update) * (1 - new * new)
        slopes = torch.stack(
            [of_new * own * reset * (1 - reset), (before - new) * update * (1 - update), of_new * reset], 1
        )
        changes = waves.of(gradient)
        later: tuple[Tensor, ...] = ()
        parts = waves.split(changes, changes.unsqueeze(1), update, slopes, slopes.flatten(1))
        for change, wide, kept, slope, flat in reversed(parts):
            if later:
                change[: len(later[0])].addcmul_(later[0], later[1]).addmm_(later[2], weight)
            slope.mul_(wide)
            later = change, kept, flat
        of_weight, of_bias = slopes.flatten(1).T @ before, slopes[:, 2].sum(0)
        slopes[:, 2] = changes.mul_(of_new)
        return waves.rows(slopes.flatten(1)), of_weight, of_bias, None


class _LSTM(torch.autograd.Function):
    """States of an LSTM.

    ``i, f, g, o = x + W h; c' = s(f) c + s(i) tanh(g); h' = s(o) tanh(c')``.
    """

    @staticmethod
    @_in_single_precision
    def forward(ctx: FunctionCtx, read: Tensor, weight: Tensor, waves: Waves) -> Tensor:
        """Return the states ``(N, H)``.

        Args:
            ctx: What the gradient needs.
            read: ``(N, 4 H)``, what the weights of features give.
            weight: ``(4 H, H)``.
            waves: The order of the rows.
        """
        width, recurrent = weight.shape[1], weight.T.contiguous()
        gates = waves.of(read)
        cells = gates.new_empty(len(gates), width)
        bounded, states = torch.empty_like(cells), torch.empty_like(cells)
        state = cell = gates.new_zeros(waves.counts[0], width)
        parts = waves.split(gates, gates[:, : 2 * width], *gates.chunk(4, 1), cells, bounded, states)
        for gate, both, admit, keep, fresh, show, content, bound, after in parts:
            gate.addmm_(state[: len(gate)], recurrent)
            both.sigmoid_()
            cell = torch.mul(keep, cell[: len(gate)], out=content).addcmul_(admit, fresh.tanh_())
            state = torch.mul(show.sigmoid_(), torch.tanh(cell, out=bound), out=after)
        ctx.save_for_backward(gates, cells, bounded, states, weight)
        ctx.waves = waves  # type: ignore[attr-defined]
        return waves.rows(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Return the gradients of what was read and of the weights."""
        gates, cells, bounded, states, weight = ctx.saved_tensors  # type: ignore[attr-defined]
        waves: Waves = ctx.waves  # type: ignore[attr-defined]
        admit, keep, fresh, show = gates.chunk(4, 1)
        # By what a change of the state is multiplied to be one of the cell and of o, and one of the cell of i, f and g.
        of_cell = show * (1 - bounded * bounded)
        of_gates = [
            fresh * admit * (1 - admit),
            waves.before(cells) * keep * (1 - keep),
            admit * (1 - fresh * fresh),
            bounded * show * (1 - show),
        ]
        slopes = torch.stack(of_gates, 1)
        changes, insides = waves.of(gradient), torch.zeros_like(cells)
        later: tuple[Tensor, ...] = ()
        parts = waves.split(
            changes, insides, insides.unsqueeze(1), keep, of_cell, slopes[:, :3], slopes[:, 3], slopes.flatten(1)
        )
        for change, inside, wide, kept, outward, inner, shown, flat in reversed(parts):
            if later:
                count = len(later[0])
                torch.mul(later[0], later[1], out=inside[:count])
                change[:count].addmm_(later[2], weight)
            inside.addcmul_(change, outward)
            inner.mul_(wide)
            shown.mul_(change)
            later = inside, kept, flat
        flat = slopes.flatten(1)
        return waves.rows(flat), flat.T @ waves.before(states), None


def gru(unit: nn.GRU, rows: Tensor, layout: Layout, backwards: bool = False) -> Tensor:
    """Return the states ``(N, H)`` of a GRU of one layer and one direction.

    Args:
        unit: The GRU.
        rows: ``(N, D)``, what it reads.
        layout: Where the rows belong.
        backwards: Whether it starts at the last real step of each sample.
    """
    if not layout.packed:
        return _padded(unit, rows, layout, backwards)
    (of_features, of_state, bias, own), width = layer_weights(unit), unit.hidden_size
    # The last part of the state's own bias is not added to what is read: the reset gate is between them.
    read = F.linear(rows, of_features, bias + F.pad(own[: 2 * width], (0, width)))
    return _GRU.apply(read, of_state, own[2 * width :], Waves(layout, backwards))


def _padded(unit: nn.GRU, rows: Tensor, layout: Layout, backwards: bool) -> Tensor:
    """Return the states ``(B T, H)`` of a GRU by torch, right where steps are real."""
    values = rows.unflatten(0, (-1, layout.steps))
    if not backwards:  # padding comes after all real steps and reaches none of them
        return unit(values)[0].flatten(0, 1)
    steps = torch.arange(layout.steps, device=rows.device)
    order = (layout.lengths[:, None] - 1 - steps).clamp(min=0).unsqueeze(-1)  # real steps in reverse, then any
    states = unit(values.gather(1, order.expand_as(values)))[0]
    return states.gather(1, order.expand_as(states)).flatten(0, 1)


def lstm(rnn: nn.LSTM, rows: Tensor, layout: Layout, layer: int = 0, backwards: bool = False) -> Tensor:
    """Return the states ``(N, H)`` of one layer and direction of an LSTM.

    Args:
        rnn: The LSTM.
        rows: ``(N, D)``, what the layer reads.
        layout: Where the rows belong; packed.
        layer: Which layer.
        backwards: Which direction.
    """
    of_features, of_state, bias, own = layer_weights(rnn, layer, backwards)
    return _LSTM.apply(F.linear(rows, of_features, bias + own), of_state, Waves(layout, backwards))


def layer_weights(rnn: nn.RNNBase, layer: int = 0, backwards: bool = False) -> list[Tensor]:
    """Return the weights of features and of the state, then their biases, of one layer and direction."""
    end = f"_l{layer}" + ("_reverse" if backwards else "")
    return [getattr(rnn, name + end) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
