"""CMC: late fusion whose modality vectors must tell, pair by pair, whether they belong together; easy pairs come first.

Each modality becomes one vector, and a linear layer on their concatenation predicts. Beside it, a predictor per couple
of modalities reads one vector of one sample and one of another sample, and says how far apart the two samples are:
0 for one and the same (positive pair), more the farther their labels are apart (negative pair, scored by the labels).

Paper: Mai, Sun, Hu, "Curriculum Learning Meets Weakly Supervised Multimodal Correlation Learning", EMNLP 2022, arXiv
2212.07619; no code is public and only its abstract could be read; the short name is ours. Encoders, targets and
sampling are those of the same authors' "Excavating multimodal correlation for representation learning" (Information
Fusion 2023; code of the card, rewritten, not copied), which has no curriculum. Deviations: see ``CMC.card``.

Shapes: modalities ``(B, T_m, D_m)`` with their own lengths; vectors ``(B, dim)``; pairs ``(P,)`` per couple, of which
the first ``B`` are positive; prediction ``(B, outputs)``.

Loss: ``task + correlation * mean |c(x_i, x_j) - t_ij|`` over the fed pairs, with
``t_ij = (|y_i - y_j| + alpha) / (gamma + alpha)`` for ``i != j`` and ``t_ii = 0``. In ``pretrain``, the first epochs,
all pairs are fed. ``main`` then scores each pair by its loss under the pre-trained predictors and under those of today,
discards the hardest, and feeds the easiest ``level / levels`` of the rest. After every epoch the loss moves the level:
stay, step back or step forward (see :mod:`mmbench.methods.cmc.curriculum`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from data_modules.batches.phases import Phase
from data_modules.schema import Batch, DataSpec
from mmbench.methods.base import FusionMethod
from mmbench.methods.card import MethodCard, Needs
from mmbench.methods.cmc.config import CMCConfig
from mmbench.methods.cmc.curriculum import (
    DifficultyScorer,
    FeedingController,
    PairSampler,
    difficulty_buckets,
    label_distance_targets,
)
from mmbench.methods.cmc.network import CMCNetwork, CMCOutput
from mmbench.methods.config import ConfigError, MethodConfig
from mmbench.methods.groups import without
from mmbench.nn.gathering import agreed
from mmbench.tasks import Task


class CMC(FusionMethod):
    """Weakly supervised correlation learning with a curriculum over pairs.

    Under DDP pairs are those of a process's own batch, or with ``gather_negatives`` of the whole one; the cache holds
    the samples of all processes, and all of them move to the same level.

    Example:
        >>> from data_modules.toy import make_spec
        >>> from mmbench.methods.cmc import CMC
        >>> [phase.name for phase in CMC(make_spec()).phases]
        ['pretrain', 'main']
    """

    card = MethodCard(
        title="CMC: Curriculum learning meets weakly supervised multimodal correlation learning",
        authors="Sijie Mai, Ya Sun, Haifeng Hu",
        year=2022,
        venue="EMNLP 2022",
        arxiv="2212.07619",
        code="TmacMai/Multimodal-Correlation-Learning@5fb811f2e568f98e067b5f017b924deb6778e1a5",
        fidelity="abstract",
        deviations=(
            "The code of the card is that of the same authors' MCL, which has no curriculum: encoders, task head, the "
            "score and number of negative pairs and the L1 loss come from there, and nothing else could be compared.",
            "Inferred: pairs are bimodal with one linear predictor for each couple of modalities; MCL compares triples "
            "and has one predictor.",
            "Inferred: gamma is the range of the labels (6 for CMU-MOSI) where MCL has 10.39 or 1 for triples; two "
            "classes are 1 apart, several labels the share in which they differ, and several values their mean "
            "distance.",
            "Negative pairs are drawn with two different samples at once, which has the distribution of MCL's drawing "
            "with replacement and dropping, and always gives their full number.",
            "Inferred: one Adam descends task + 0.1 * correlation, with a constant learning rate of their own for the "
            "predictors (1e-3, or 1e-4 beside BERT); MCL has three optimisers (2e-5, 1e-6, 1e-7) and steps the "
            "encoders twice per batch.",
            "Inferred: pre-training is the same loss over all pairs for 5 epochs (2 on CMU-MOSEI), and training goes "
            "on from its weights and optimiser state.",
            "Inferred: difficulty is the mean of the loss under the pre-trained predictors on cached vectors and of "
            "today's loss; the cache is filled once, in evaluation mode, when pre-training ends, and pairs of samples "
            "that are not in it are scored by today's loss alone.",
            "Inferred: the hardest tenth is discarded among the positives and among the negatives of each couple; the "
            "rest falls into five buckets, and level k feeds the k easiest.",
            "Inferred: an epoch is a feeding period; a loss that falls by more than 2 per cent, over the buckets that "
            "both epochs fed, means to stay, one that rises by more a step back, anything between a step forward; "
            "feed_rule has the other reading.",
            "Vectors are those of the last real step and attention skips padding; MCL takes the last step after "
            "padding.",
            "As in MCL the head is one linear layer on the vectors of the modalities, so a product of modalities is "
            "out of its reach: on generated data it cannot beat sums of unimodal predictions.",
            "Without a text encoder to fine-tune the learning rate is 1e-3 (MCL: 2e-5 with BERT), and text_layers can "
            "put a Transformer over words that no pretrained model reads.",
        ),
        needs=Needs(at_least=2),
    )

    Config = CMCConfig
    config: CMCConfig
    level: Tensor
    fed_losses: Tensor

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__(spec, task, config)
        c = self.config
        self.network = CMCNetwork(self.dims, self.task.outputs, c)
        self.gamma = self._largest_distance()
        self.sampler = PairSampler(c.negatives)
        place = {name: column for column, name in enumerate(self.dims)}
        columns = {name: (place[x], place[y]) for name, (x, y) in self.network.couples.items()}
        self.scorer = DifficultyScorer(self.network.predictors, columns, c.mix)
        self.controller = FeedingController(c.levels, c.tolerance, c.feed_rule)
        self.register_buffer("level", torch.tensor(1))
        self.register_buffer("fed_losses", torch.full((c.levels,), math.nan))
        self._fed = torch.zeros(2, c.levels)  # sum of losses and number of pairs by bucket, this epoch

    def _largest_distance(self) -> float:
        """Return gamma: as set, or the range of the labels where a loss asks for it."""
        c, target = self.config, self.task.target
        if c.gamma or c.targets == "constant" or not self.network.couples:
            return c.gamma
        if target.kind != "regression":
            return 1.0
        if target.low is None or target.high is None:
            raise ConfigError(
                f"{c.where('gamma')} is 0, for the range of the labels, and those of {self.spec.track} have "
                "no ends: give the largest distance of two labels."
            )
        return target.high - target.low

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """Return pre-training and main phase, or the latter alone where there is nothing to pre-train."""
        epochs = self.config.pretrain_epochs
        if not (epochs and self.network.couples):
            return (Phase("main"),)
        return Phase("pretrain", stop=epochs), Phase("main", start=epochs)

    def parameter_groups(self) -> dict[str, list[dict[str, Any]]]:
        """Return the groups of the only optimiser; the predictors learn at their own rate."""
        predictors = list(self.network.predictors.parameters())
        groups = self.main_groups(without(self.parameters(), predictors))
        return {"main": groups + ([{"params": predictors, "lr": self.config.predictor_lr}] if predictors else [])}

    def forward(self, batch: Batch) -> CMCOutput:
        """Return the prediction ``(B, outputs)`` and the vectors."""
        return self.network(self.features(batch))

    def objective(self, output: CMCOutput, batch: Batch) -> dict[str, Tensor]:
        """Return the task loss and the weighted correlation loss of the pairs that are ``fed``."""
        terms = super().objective(output, batch)
        if self.network.couples:
            losses, buckets = self._pairs(output.h, batch)
            fed = buckets < self.level
            terms["correlation"] = self.config.correlation * (losses * fed).sum() / fed.sum()
            member = fed & (buckets == torch.arange(self.config.levels, device=fed.device)[:, None, None])
            output.fed = output.named["fed"] = torch.stack([(losses.detach() * member).sum((1, 2)), member.sum((1, 2))])
        return terms

    def observe(self, output: CMCOutput, batch: Batch) -> None:
        """Add the losses of the pairs that were fed to those of the epoch."""
        if self.training and output.fed is not None:
            self._fed = self._fed.to(output.fed.device) + output.fed

    def _pairs(self, h: dict[str, Tensor], batch: Batch) -> tuple[Tensor, Tensor]:
        """Draw pairs and return their losses and buckets, ``(couples, P)`` each; while pre-training all are easy."""
        c, couples = self.config, self.network.couples.items()
        batch = replace(batch, target=self.of_all(batch.target), index=self.of_all(batch.index))
        vectors = {name: self.of_all(vector) for name, vector in h.items()}
        first, second = self.sampler(batch.size, len(couples), batch.target.device)
        if self.gathers:
            first, second = agreed(first), agreed(second)
        targets = self._targets(batch.target, first, second)
        said = [
            self.network.predictors[name](vectors[x][one], vectors[y][other])
            for (name, (x, y)), one, other in zip(couples, first, second, strict=True)
        ]
        losses = (torch.stack(said) - targets).abs()
        if self.phase_of(batch).name != "main":
            return losses, torch.zeros_like(first)
        difficulty = self.scorer(batch.index, first, second, targets, losses)
        kinds = difficulty[:, : batch.size], difficulty[:, batch.size :]  # positive and negative pairs
        return losses, torch.cat([difficulty_buckets(kind, c.discard, c.levels) for kind in kinds], -1)

    def _targets(self, labels: Tensor, first: Tensor, second: Tensor) -> Tensor:
        if self.config.targets == "constant":
            return (first != second).to(torch.get_default_dtype())
        categorical = self.task.target.kind != "regression"
        return label_distance_targets(labels, first, second, self.config.alpha, self.gamma, categorical)

    def on_train_epoch_start(self) -> None:
        """Forget the losses of the last epoch; where pre-training ends, freeze its predictors and cache the vectors."""
        super().on_train_epoch_start()
        self._fed = torch.zeros(2, self.config.levels, device=self.device)
        if self.current_epoch == self.first_epoch:
            self.level.fill_(1)
            self.fed_losses.fill_(math.nan)
            if self.first_epoch:
                self._remember()

    @torch.no_grad()
    def _remember(self) -> None:
        """Cache the vectors of all training samples, as they are without dropout."""
        precision, loader = self.trainer.precision_plugin, self.trainer.train_dataloader
        assert loader is not None
        index, vectors = [], []
        self.eval()
        with precision.forward_context():
            for raw in loader:
                batch = precision.convert_input(raw).to(self.device)
                output: CMCOutput = self(batch)
                index.append(batch.index)
                vectors.append(torch.stack(list(output.h.values()), dim=1))
        self.train()
        values = torch.cat(vectors).to(self.network.head.weight.dtype)
        self.scorer.remember(self.network.predictors, self._of_all(torch.cat(index)), self._of_all(values))

    def _of_all(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes, each of which has as many."""
        if self.trainer.world_size == 1:
            return rows
        shards = [torch.empty_like(rows) for _ in range(self.trainer.world_size)]
        dist.all_gather(shards, rows)
        return torch.cat(shards)

    def on_train_epoch_end(self) -> None:
        """Log, and let the losses of the epoch move the level of the next one."""
        super().on_train_epoch_end()
        if not self.network.couples or self.current_epoch < self.first_epoch:
            return
        sums, counts = self._fed if self.gathers else self.trainer.strategy.reduce(self._fed, reduce_op="sum")
        losses, level = sums / counts, int(self.level)
        feeding = self.controller(level, self.fed_losses.tolist(), losses.tolist())
        logged = {"level": float(level), "feed_action": float(feeding.action), "feed_gain": feeding.gain}
        logged |= {f"pair_loss_{bucket}": float(loss) for bucket, loss in enumerate(losses[:level], start=1)}
        self.log_dict({f"train/{name}": value for name, value in logged.items()}, sync_dist=True)
        self.fed_losses.copy_(losses)
        self.level.fill_(feeding.level)
