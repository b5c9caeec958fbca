"""Emotion shift for recurrent recognisers of emotion in dialogues: a detector, a gate, and the base model they gate.

The component is two modules. :class:`ShiftDetector` reads the vectors of an utterance and of the one before and says
whether emotion shifts between them; :class:`ShiftGatedCell` is a recurrent cell that keeps its state where it does not.
Any recurrent model whose state stands for emotion can put the one in the place of its own cell and be told by the
other.

The base model is Multilogue-Net: per modality and direction a :class:`PartyNet` with a state of the dialogue, a state
per party and a state of emotion, and attention between modalities. Source: Bansal, Agarwal, Joshi, Modi, "Shapes of
Emotions", MMMPIE 2022, arXiv 2112.01938, and its code; see :mod:`mmbench.methods.emotion_shift`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.schema import Sequence as Input
from mmbench.methods.emotion_shift.shift_labels import SHIFT, party_roles
from mmbench.nn.dropout import dropout
from mmbench.nn.pooling import masked_mean

Drop = Callable[[Tensor], Tensor]
WAYS = ("forward", "backward")
PIECE = 256
"""Utterances that a text encoder reads at a time."""


class ShiftDetector(nn.Module):
    """Whether emotion shifts between two utterances: a linear layer on both vectors and their distance.

    Args:
        dim: Width ``D`` of an utterance vector.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(3 * dim, 2)

    def forward(self, previous: Tensor, current: Tensor) -> Tensor:
        """Return logits ``(..., 2)`` of :data:`SHIFT` and :data:`SAME` for vectors ``(..., D)``.

        Args:
            previous: The utterance before; zeros where there is none.
            current: The utterance.
        """
        logits: Tensor = self.classifier(torch.cat([previous, current, (previous - current).abs()], dim=-1))
        return logits


def shift_probability(logits: Tensor) -> Tensor:
    """Return the probability of a shift ``(...)`` for a detector's logits ``(..., 2)``."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)[..., SHIFT]


def gated_state(read: Tensor, state: Tensor, shift: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the next state ``(..., H)``: the old one without a shift, a new one with it.

    Args:
        read: ``(..., H)`` what the cell reads, already multiplied by its weights.
        state: ``(..., H)`` the state before.
        shift: ``(..., 1)`` probability of a shift.
        weight: ``(..., H, H)``, to multiply a row from the right.
        bias: ``(..., H)``.
    """
    kept = (1 - shift) * state
    return kept + shift * torch.tanh(read + kept @ weight + bias)


def gru_state(read: Tensor, state: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the next state ``(N, B, H)`` of ``N`` GRU cells at once.

    Args:
        read: ``(N, B, 3 H)`` what the cells read, already multiplied by their weights, with its bias.
        state: ``(N, B, H)`` the states before.
        weight: ``(N, H, 3 H)``.
        bias: ``(N, 1, 3 H)``.
    """
    size = 2 * state.shape[-1]
    own = torch.baddbmm(bias, state, weight)
    reset, update = (read[..., :size] + own[..., :size]).sigmoid().chunk(2, dim=-1)
    fresh = torch.tanh(read[..., size:] + reset * own[..., size:])
    return fresh + update * (state - fresh)


class ShiftGatedCell(nn.Module):
    """A recurrent cell with one gate from outside in the place of a GRU's two.

    ``kept = (1 - p) e; next = kept + p tanh(W x + U kept)`` with the probability ``p`` of a shift.

    Args:
        dim: Features that are read.
        hidden: Width ``H`` of the state.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.read = nn.Linear(dim, hidden)
        self.keep = nn.Linear(hidden, hidden)

    def forward(self, values: Tensor, state: Tensor, shift: Tensor) -> Tensor:
        """Return the next state ``(B, H)``.

        Args:
            values: ``(B, dim)`` what is read.
            state: ``(B, H)`` the state before.
            shift: ``(B,)`` probability of a shift.
        """
        return gated_state(self.read(values), state, shift[:, None], self.keep.weight.T, self.keep.bias)


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
    ) -> dict[str, Tensor]:
        """Return the states of every net, in the dialogue's own order of utterances.

        Args:
            values: By modality ``(B, T, D_m)``, zero in padding.
            speaker: ``(B, T)`` roles.
            real: ``(B, T)`` bool.
            shift: ``(B, T)`` probability of a shift for the forward and for the backward nets.

        Returns:
            ``context_``, ``history_``, ``party_`` and ``emotion_<modality>_<way>``, ``(B, T, width)`` each; the
            backward ones zero in padding.
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
        states = {"context": followed.context, "history": followed.history, "party": followed.party, "emotion": emotion}
        named = {}
        for kind, values_of_nets in states.items():
            for number, (key, item) in enumerate(zip(self._modules, values_of_nets, strict=True)):
                back = number >= half
                named[f"{kind}_{key}"] = reordered(item, places).masked_fill(~real[..., None], 0.0) if back else item
        return named


def bimodal_attention(one: Tensor, other: Tensor, real: Tensor | None) -> Tensor:
    """Return ``(B, T, 2 D)``: what each modality finds in the other, times itself.

    Args:
        one: ``(B, T, D)``, the first half of the result.
        other: ``(B, T, D)``, the second half.
        real: ``(B, T)`` bool, the utterances that can be found; by default padding too.
    """

    def found(scores: Tensor, values: Tensor) -> Tensor:
        if real is not None:
            scores = scores.masked_fill(~real[:, None, :], torch.finfo(scores.dtype).min)
        return scores.softmax(-1) @ values

    scores = one @ other.mT
    return torch.cat([found(scores, other) * one, found(scores.mT, one) * other], dim=-1)


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of ``(B, U)`` losses by their weights, a scalar; of ``(B, U, C)`` the mean over ``C`` of them.

    It is zero where all weights are, and counts padding, whose weight is zero, nowhere.
    """
    total = weights.sum((0, 1)).clamp(min=torch.finfo(weights.dtype).tiny)
    return ((losses * weights).sum((0, 1)) / total).mean()


def inverse_frequencies(counts: Tensor) -> Tensor:
    """Return ``(..., K)`` one over the share of each class among ``(..., K)`` counts, zero for a class without any."""
    weights = counts.sum(-1, keepdim=True) / counts.clamp(min=1)
    return weights.masked_fill(counts == 0, 0.0)


def utterance_vectors(encoder: nn.Module, tokens: Input) -> Input:
    """Return the mean of a text encoder's states for every utterance of dialogues, ``(B, U, D)``.

    Args:
        encoder: From tokens ``(N, L)`` to states ``(N, L, D)``.
        tokens: ``(B, U, L)`` with the steps of each utterance.
    """
    assert tokens.steps is not None
    real = tokens.mask
    ids, lengths = tokens.values[real], tokens.steps[real]
    pieces = []
    for some, steps in zip(ids.split(PIECE), lengths.split(PIECE), strict=True):
        states = encoder(Input(some[:, : int(steps.max())], steps))
        pieces.append(masked_mean(states.values, states.mask))
    vectors = torch.cat(pieces)
    out = vectors.new_zeros(*real.shape, vectors.shape[-1])
    out[real] = vectors
    return Input(out, tokens.lengths)
