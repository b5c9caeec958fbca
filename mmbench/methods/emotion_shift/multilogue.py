"""Multilogue-Net, the base model that shifts gate: recurrent nets that follow a dialogue and its parties.

Per modality and direction a :class:`PartyNet` with a state of the dialogue, a state per party and a state of emotion.
Source: Bansal, Agarwal, Joshi, Modi, "Shapes of Emotions", MMMPIE 2022, arXiv 2112.01938, and its code; see
:mod:`mmbench.methods.emotion_shift`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbench.methods.emotion_shift.gates import ShiftGatedCell, gated_state, gru_state
from mmbench.methods.emotion_shift.shift_labels import party_roles
from mmbench.nn.dropout import dropout

Drop = Callable[[Tensor], Tensor]
WAYS = ("forward", "backward")


@dataclass(frozen=True)
class Sizes:
    """Widths of the states of a :class:`PartyNet`.

    Attributes:
        context: Of the state of the dialogue, ``G``.
        party: Of the state of a party, ``P``.
        emotion: Of the state of emotion, ``E``.
    """

    context: int = 150
    party: int = 150
    emotion: int = 100


class PartyNet(nn.Module):
    """The weights of one modality read in one direction; :func:`turns` runs several of them at once.

    Args:
        dim: Width of an utterance vector of the modality.
        text: Width of an utterance's text vector.
        sizes: Widths of the states.
        gated: Whether shifts gate the state of emotion; otherwise a GRU cell does.
    """

    def __init__(self, dim: int, text: int, sizes: Sizes, gated: bool) -> None:
        super().__init__()
        self.dim, self.text = dim, text
        self.context = nn.GRUCell(text + sizes.party, sizes.context)
        self.party = nn.GRUCell(dim + sizes.context, sizes.party)
        self.emotion = ShiftGatedCell(sizes.party, sizes.emotion) if gated else nn.GRUCell(sizes.party, sizes.emotion)
        self.history = nn.Linear(sizes.context, 1, bias=False)


@dataclass
class Turns:
    """What happens in ``N`` nets at every utterance.

    Attributes:
        context: ``(N, B, T, G)`` the state of the dialogue.
        history: ``(N, B, T, G)`` what was looked up in the earlier ones.
        party: ``(N, B, T, P)`` the state of the party who speaks, after speaking.
    """

    context: Tensor
    history: Tensor
    party: Tensor


def _stack(parameters: Sequence[Tensor]) -> Tensor:
    """Return ``(N, columns, rows)`` of matrices and ``(N, 1, rows)`` of vectors."""
    return torch.stack([item.T if item.dim() == 2 else item[None] for item in parameters])


def _steps(cells: Sequence[nn.GRUCell], values: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return per step ``(N, B, 3 H)`` what GRU cells make of the first part ``(B, T, D)`` of what they read."""
    read = [F.linear(x, cell.weight_ih[:, : x.shape[-1]], cell.bias_ih) for cell, x in zip(cells, values, strict=True)]
    return torch.stack(read).unbind(2)


def turns(
    nets: Sequence[PartyNet],
    values: Sequence[Tensor],
    texts: Sequence[Tensor],
    speaks: Tensor,
    real: Tensor,
    drop: Drop,
) -> Turns:
    """Run the states of the dialogue and of the parties through all utterances.

    ``g_k = GRU([text_k; q_spk], g_k-1)``; ``a_k = sum_j<k softmax_j(w g_j) g_j``; ``q_spk = GRU([u_k; a_k], q_spk)``.
    What is looked up does not depend on who asks, so the sums grow by one term per step.

    Args:
        nets: The nets, of the same sizes.
        values: By net ``(B, T, dim)`` what it reads, in its own order of time.
        texts: By net ``(B, T, text)``, in the same order.
        speaks: ``(N, B, T, parties)`` bool, whose utterance it is; of padding, whose state is read.
        real: ``(N, B, T)`` bool; nobody's state changes in padding.
        drop: Dropout on new states.
    """
    size, party_size = nets[0].context.hidden_size, nets[0].party.hidden_size
    texts_read = _steps([net.context for net in nets], texts)
    values_read = _steps([net.party for net in nets], values)
    from_party = _stack([net.context.weight_ih[:, net.text :] for net in nets])
    from_history = _stack([net.party.weight_ih[:, net.dim :] for net in nets])
    own_context = _stack([net.context.weight_hh for net in nets]), _stack([net.context.bias_hh for net in nets])
    own_party = _stack([net.party.weight_hh for net in nets]), _stack([net.party.bias_hh for net in nets])
    look = torch.stack([net.history.weight for net in nets])

    shape = speaks.shape[:2]
    context = history = values[0].new_zeros(*shape, size)
    weighted, weights = context, values[0].new_zeros(*shape, 1)
    highest = values[0].new_full((*shape, 1), -torch.inf)
    states = values[0].new_zeros(*shape, speaks.shape[-1], party_size)
    contexts, histories, parties = [], [], []
    steps = zip(texts_read, values_read, speaks.unsqueeze(-1).unbind(2), real.unsqueeze(-1).unbind(2), strict=True)
    for text, value, holder, happens in steps:
        state = (holder * states).sum(2)
        context = drop(gru_state(torch.baddbmm(text, state, from_party), context, *own_context))
        new = drop(gru_state(torch.baddbmm(value, history, from_history), state, *own_party))
        new = torch.where(happens, new, state)
        states = torch.where(holder, new.unsqueeze(2), states)
        contexts.append(context)
        histories.append(history)
        parties.append(new)
        # The softmax over a growing past: sums of exponentials, relative to the highest score so far.
        score = (context * look).sum(-1, keepdim=True)
        above = torch.maximum(highest, score.detach())
        fade, weight = (highest - above).exp(), (score - above).exp()
        weighted, weights, highest = weighted * fade + weight * context, weights * fade + weight, above
        history = weighted / weights
    return Turns(*(torch.stack(items, dim=2) for items in (contexts, histories, parties)))


def emotions(nets: Sequence[PartyNet], party: Tensor, shift: Tensor, drop: Drop) -> Tensor:
    """Run the state of emotion through all utterances, ``(N, B, T, E)``.

    Args:
        nets: The nets, all gated or none.
        party: ``(N, B, T, P)`` the state of the party who speaks.
        shift: ``(B, T)`` probability of a shift, in the nets' order of time; nets that are not gated ignore it.
        drop: Dropout on new states.
    """
    cells = [net.emotion for net in nets]
    gated = [cell for cell in cells if isinstance(cell, ShiftGatedCell)]
    plain = [cell for cell in cells if isinstance(cell, nn.GRUCell)]
    of_input = [(cell.read.weight, cell.read.bias) for cell in gated] + [(c.weight_ih, c.bias_ih) for c in plain]
    of_state = [(cell.keep.weight, cell.keep.bias) for cell in gated] + [(c.weight_hh, c.bias_hh) for c in plain]
    weight, bias = (_stack(items) for items in zip(*of_state, strict=True))
    read = torch.stack([F.linear(x, *item) for x, item in zip(party, of_input, strict=True)]).unbind(2)
    state = party.new_zeros(*party.shape[:2], weight.shape[1])
    states = []
    for step, change in zip(read, shift.unsqueeze(-1).unbind(1), strict=True):
        after = gated_state(step, state, change, weight, bias) if gated else gru_state(step, state, weight, bias)
        state = drop(after)
        states.append(state)
    return torch.stack(states, dim=2)


def reversed_places(real: Tensor) -> Tensor:
    """Return ``(B, T)`` the places of the utterances from the last to the first; padding stays where it is."""
    places = torch.arange(real.shape[1], device=real.device)
    last = real.sum(1, keepdim=True) - 1
    return torch.where(real, last - places, places)


def reordered(values: Tensor, places: Tensor) -> Tensor:
    """Return ``(B, T, ...)`` values in another order of utterances, ``(B, T)``."""
    wanted = places.reshape(*places.shape, *[1] * (values.dim() - 2))
    return values.gather(1, wanted.expand(*places.shape, *values.shape[2:]))


class NetStates(NamedTuple):
    """The states of the nets ``<modality>_<way>``, ``(B, T, width)`` each; the backward ones are zero in padding."""

    context: dict[str, Tensor]
    history: dict[str, Tensor]
    party: dict[str, Tensor]
    emotion: dict[str, Tensor]


class BothWays(nn.Module):
    """A net per modality and direction.

    Args:
        dims: Width of an utterance vector by modality; text must be there.
        sizes: Widths of the states.
        gated: Whether shifts gate the forward and the backward nets.
        dropout: Dropout on new states.
    """

    def __init__(self, dims: Mapping[str, int], sizes: Sizes, gated: tuple[bool, bool], dropout: float) -> None:
        super().__init__()
        self.modalities, self.dropout = tuple(dims), dropout
        for way, own in zip(WAYS, gated, strict=True):
            for name, dim in dims.items():
                self.add_module(f"{name}_{way}", PartyNet(dim, dims["text"], sizes, own))

    def _drop(self, values: Tensor) -> Tensor:
        return dropout(values, self.dropout, self.training)

    def forward(
        self, values: Mapping[str, Tensor], speaker: Tensor, real: Tensor, shift: tuple[Tensor, Tensor]
    ) -> NetStates:
        """Return the states of every net, forward ones first, in the dialogue's own order of utterances.

        Args:
            values: By modality ``(B, T, D_m)``, zero in padding.
            speaker: ``(B, T)`` roles.
            real: ``(B, T)`` bool.
            shift: ``(B, T)`` probability of a shift for the forward and for the backward nets.
        """
        nets, half = [net for net in self.children() if isinstance(net, PartyNet)], len(self.modalities)
        places, roles = reversed_places(real), party_roles(speaker, real)
        # One round trip to the device, so that there are as many states as parties and no more.
        speaks = F.one_hot(roles, int(roles.max()) + 1).bool()
        read = [values[name] for name in self.modalities]
        read += [reordered(item, places) for item in read]
        texts = [*[values["text"]] * half, *[reordered(values["text"], places)] * half]
        both = torch.stack([speaks, reordered(speaks, places)]).repeat_interleave(half, 0)
        followed = turns(nets, read, texts, both, real.expand(2 * half, *real.shape), self._drop)
        emotion = torch.cat(
            [
                emotions(nets[:half], followed.party[:half], shift[0], self._drop),
                emotions(nets[half:], followed.party[half:], reordered(shift[1], places), self._drop),
            ]
        )

        def by_net(states: Tensor) -> dict[str, Tensor]:
            own = list(states.unbind())
            own[half:] = [reordered(item, places).masked_fill(~real[..., None], 0.0) for item in own[half:]]
            return dict(zip(self._modules, own, strict=True))

        return NetStates(*map(by_net, (followed.context, followed.history, followed.party, emotion)))
