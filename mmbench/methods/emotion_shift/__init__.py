"""Emotion-Shift: recurrent nets read a dialogue per modality, and their emotion changes where a detector sees a shift.

Every utterance of a dialogue is predicted. A detector compares the text vectors of neighbouring utterances; its
probability of a shift opens the one gate of the recurrent cells that hold the state of emotion. Six such nets, one per
modality and direction, follow the dialogue, the parties who speak and the emotion; attention between pairs of
modalities and a linear layer read their states.

Paper: Bansal*, Agarwal*, Joshi, Modi, "Shapes of Emotions: Multimodal Emotion Recognition in Conversations via Emotion
Shifts", MMMPIE workshop at COLING 2022, arXiv 2112.01938. Code: Exploration-Lab/Shapes-of-Emotion (CC BY-NC 4.0) and
its base model amanshenoy/multilogue-net (MIT), read and rewritten. Deviations: see ``EmotionShift.card``.

Shapes: inputs ``(B, U, D_m)``, or tokens ``(B, U, L)`` of text; states of context, party and emotion ``(B, U, G)``,
``(B, U, P)``, ``(B, U, E)`` per net; prediction ``(B, U, outputs)``.

* Shift of utterance ``k`` after ``j``: ``l_k = W [s_j; s_k; |s_j - s_k|] + b``, ``p_k = softmax(l_k)[shift]``.
* Net: ``g_k = GRU([text_k; q_spk], g_k-1)``; ``a_k = sum_j<k softmax_j(w g_j) g_j``;
  ``q_spk = GRU([u_k; a_k], q_spk)``; ``e_k = (1 - p_k) e_k-1 + p_k tanh(W q_spk + U (1 - p_k) e_k-1)``. The reversed
  nets take ``p_k+1``.
* Head: ``H_m = relu(V [e_m forward; e_m backward])``; the prediction reads all ``H_m`` and their bimodal attention.

Losses: ``task``, cross-entropy with classes weighed by their inverse frequency (L1 for scores), and ``shift``, the same
of ``l_k`` against the shift of the labels. Both are divided by the sum of their weights.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data_modules.batches.phases import Phase
from data_modules.schema import Batch, DataSpec, PaddedSequence
from mmbench.methods.base import FusionMethod
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.config import MethodConfig
from mmbench.methods.emotion_shift.config import EmotionShiftConfig
from mmbench.methods.emotion_shift.losses import inverse_frequencies, weighted_mean
from mmbench.methods.emotion_shift.network import EmotionShiftNetwork, ShiftOutput
from mmbench.methods.emotion_shift.shift_labels import NOBODY, EmotionGroups, at, predecessors, shift_labels
from mmbench.methods.emotion_shift.utterances import utterance_vectors
from mmbench.methods.groups import without
from mmbench.nn.text import PretrainedText
from mmbench.tasks import Task


class EmotionShift(FusionMethod):
    """Emotion shifts gate the recurrent states of a multimodal dialogue.

    With preparation no phase reaches all parameters: under DDP the strategy is ``ddp_find_unused_parameters_true``.

    Example:
        >>> from data_modules.toy import make_batch, make_spec
        >>> from mmbench.methods.emotion_shift import EmotionShift
        >>> spec = make_spec("multiclass", dialogue=True)
        >>> model = EmotionShift(spec)
        >>> [phase.name for phase in model.phases]
        ['siamese', 'joint']
        >>> output = model(make_batch(spec, phase="joint"))  # four dialogues of five utterances or fewer
        >>> tuple(output.prediction.shape), tuple(output.shift.shape)
        ((4, 5, 3), (4, 5, 2))
    """

    card = MethodCard(
        title="Shapes of Emotions: Multimodal Emotion Recognition in Conversations via Emotion Shifts",
        authors="Keshav Bansal, Harsh Agarwal, Abhinav Joshi, Ashutosh Modi",
        year=2022,
        venue="MMMPIE workshop at COLING 2022",
        arxiv="2112.01938",
        code="Exploration-Lab/Shapes-of-Emotion@f3ad768228d78f70fb4350a5dd48a19b7a029801",
        fidelity="official-code",
        deviations=(
            "Inferred: the reversed nets are gated by the shift to the utterance that follows; the official code gives "
            "them no shift at all, which leaves them at zero and without gradient (backward_gate=legacy_zero).",
            "Padding is hidden from the attention between modalities; attn_mask=False gives the official behaviour.",
            "The preparation of the detector takes all pairs of a batch of dialogues in a step of Adam and keeps its "
            "last state; the official one takes eight pairs in a step of AdamW with warm-up, weight decay and clipped "
            "gradients and keeps the encoder that does best on pairs of the test split.",
            "Class weights are the inverse frequencies in the training split alone, those of shifts among pairs; the "
            "official ones for four classes count the test split too, and those for shifts in CMU-MOSEI are swapped.",
            "Epochs are selected on the validation score; the official code tests its last epoch.",
            "A text encoder reads the dialogues in every step; the official vectors are computed once.",
            "Inferred: text that is no token sequence is read by the detector as it is, because there is no encoder to "
            "prepare.",
            "Inferred: a score has the L1 loss, and shifts are changes between the halves of its scale, as of the "
            "official binary sentiment; the utterances of a video are its dialogue.",
            "Inferred: of several answers that may stand together each is weighed by its own frequencies, and a shift "
            "is a change of whether any is unpleasant, or of the only answer; the official code has one model per "
            "emotion and shifts of a sentiment that is no part of such data.",
            "Inferred: emotions that are neither known as pleasant nor as unpleasant are groups of their own.",
            "Inferred: there are as many parties as speakers, one where speakers are not named.",
            "Inferred: with two modalities there is one pair for the attention, and with text alone none.",
        ),
        needs=Needs(modalities=("text",), dialogue=True),
    )

    Config = EmotionShiftConfig
    config: EmotionShiftConfig
    shift_weights: Tensor
    class_weights: Tensor

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        c = self.config
        self.siamese: PretrainedText | None = None
        if self.text_encoder is not None and c.use_shift and c.own_encoder and c.siamese_epochs:
            self.siamese = PretrainedText(c.text_encoder)
        self.network = EmotionShiftNetwork(self.dims, self.task.outputs, c)
        target = self.task.target
        self.groups = EmotionGroups(target, c.groups == "valence")
        self.register_buffer("shift_weights", torch.ones(2))
        if target.kind != "regression":
            classes = len(target.names)
            self.register_buffer("class_weights", torch.ones(classes if target.kind == "multiclass" else (classes, 2)))

    # Phases

    @property
    def prepares(self) -> bool:
        """Whether the detector is trained before the rest."""
        return self.config.use_shift and self.config.siamese_epochs > 0

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """Return the preparation of the detector, if any, and the joint training."""
        if not self.prepares:
            return (Phase("joint"),)
        end = self.config.siamese_epochs
        return (Phase("siamese", "siamese", stop=end), Phase("joint", start=end))

    def _preparing(self, batch: Batch) -> bool:
        return self.training and self.phase_of(batch).name == "siamese"

    def parameter_groups(self) -> dict[str, list[dict[str, Any]]]:
        """Return the groups of both phases: the detector is in both, its own encoder in the preparation only."""
        encoder = list(self.siamese.parameters()) if self.siamese is not None else []
        groups = {"main": self.main_groups(without(self.parameters(), encoder))}
        if self.prepares and self.network.detector is not None:
            learns = [p for p in encoder if p.requires_grad] + list(self.network.detector.parameters())
            groups["siamese"] = [{"params": learns, "lr": self.config.siamese_lr, "weight_decay": 0.0}]
        return groups

    def on_training_labels(self, labels: Batch) -> None:
        """Weigh classes and shifts by their inverse frequency."""
        if not self.config.balanced:
            return
        shifts, pairs, _ = self._shifts(labels, self._previous(labels))
        self.shift_weights.copy_(inverse_frequencies(shifts[pairs].bincount(minlength=2)))
        if self.task.target.kind != "regression":
            self.class_weights.copy_(inverse_frequencies(self._counts(labels.target[labels.target_mask])))

    def _counts(self, target: Tensor) -> Tensor:
        """Return ``(K,)`` utterances per class of ``(N,)`` targets, or ``(C, 2)`` no and yes per name of ``(N, C)``."""
        if self.task.target.kind == "multiclass":
            return target.bincount(minlength=len(self.task.target.names))
        yes = (target > 0).sum(0)
        return torch.stack([len(target) - yes, yes], dim=-1)

    def on_train_epoch_start(self) -> None:
        """Switch the dropout of the detector's encoder off when its preparation is over."""
        super().on_train_epoch_start()
        if self.siamese is not None:
            self.siamese.train(self.phases[0].active(self.current_epoch))

    # Forward

    def features(self, batch: Batch) -> dict[str, PaddedSequence]:
        """Return the inputs with text tokens replaced by the mean of the encoder's states, ``(B, U, dims[m])`` each."""
        if self.text_encoder is None:
            return batch.inputs
        return {**batch.inputs, "text": utterance_vectors(self.text_encoder, batch.inputs["text"])}

    def _previous(self, batch: Batch) -> Tensor:
        """Return ``(B, U)`` the place of the utterance before each one."""
        speaker = batch.speaker if self.config.shift_scope == "same_speaker" else None
        real = batch.inputs["text"].mask if batch.inputs else batch.target_mask  # labels come without inputs
        assert real is not None
        return predecessors(real, speaker)

    def forward(self, batch: Batch) -> ShiftOutput:
        """Return the prediction ``(B, U, outputs)`` and the logits of a shift; in the preparation the latter alone."""
        real, previous = batch.inputs["text"].mask, self._previous(batch)
        preparing, text = self._preparing(batch), None
        if self.siamese is not None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and preparing):
                text = utterance_vectors(self.siamese, batch.inputs["text"]).values
        if preparing:
            if text is None:
                with torch.no_grad():
                    text = self.features(batch)["text"].values
            shift = self.network.shifts(text.masked_fill(~real.unsqueeze(-1), 0.0), previous)
            return ShiftOutput(text.new_zeros(*real.shape, self.task.outputs), shift=shift)
        speaker = torch.zeros_like(real, dtype=torch.long) if batch.speaker is None else batch.speaker
        return self.network(self.features(batch), speaker, previous, text)

    # Losses

    def _shifts(self, batch: Batch, previous: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``(B, U)`` the labels of shifts, which are of a pair, and which count with first utterances too."""
        assert batch.target_mask is not None
        labels = shift_labels(self.groups(batch.target), previous)
        labelled = batch.target_mask & at(batch.target_mask, previous, otherwise=True)
        return labels, labelled & (previous != NOBODY), labelled

    def _task_loss(self, output: ShiftOutput, batch: Batch) -> Tensor:
        kind, target, prediction = self.task.target.kind, batch.target, output.prediction
        assert batch.target_mask is not None
        if kind == "regression":
            return self.task.loss(prediction, batch)
        losses = self.task.loss(prediction, batch, reduction="none")
        if kind == "multiclass":
            return weighted_mean(losses, self.class_weights[target] * batch.target_mask)
        weights = torch.where(target > 0, self.class_weights[:, 1], self.class_weights[:, 0])
        return weighted_mean(losses, weights * batch.target_mask.unsqueeze(-1))

    def objective(self, output: ShiftOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of the emotions and of the shifts; in the preparation that of shifts between pairs alone."""
        terms, c, preparing = {}, self.config, self._preparing(batch)
        if not preparing:
            terms["task"] = self._task_loss(output, batch)
        if output.shift is not None and (preparing or c.shift_weight):
            labels, pairs, counted = self._shifts(batch, self._previous(batch))
            losses = F.cross_entropy(output.shift.flatten(0, 1), labels.flatten(), reduction="none")
            weights = self.shift_weights[labels] * (pairs if preparing else counted)
            shift = weighted_mean(losses.view_as(labels), weights)
            terms["shift"] = shift if preparing else c.shift_weight * shift
        return terms
