"""The method contract: a LightningModule that knows its data, its task and its settings.

A method gives :meth:`FusionMethod.forward` and, beyond the plain task loss, :meth:`FusionMethod.objective`. The base
class owns optimisation, logging and scoring, so that checkpoints, resuming, DDP and the protocol work for all methods
alike. Optimisation is manual in Lightning's sense, because one rule then serves methods with one optimiser and one
pass over the data as well as methods with several: each batch names its training stage, and the stage names the
optimiser that steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from os import PathLike
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch import Callback
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from data_modules.batches.data_module import FusionDataModule
from data_modules.schema import Batch, DataSpec, PaddedSequence
from mmbench.methods.card import MethodCard
from mmbench.methods.checkpoint import VERSION, read_checkpoint, restore, version
from mmbench.methods.config import ConfigError, MethodConfig
from mmbench.methods.groups import without
from mmbench.methods.options import check_options
from mmbench.methods.output import Output
from mmbench.methods.scoring import Scored
from mmbench.methods.stages import Stage, announce
from mmbench.nn.text import PretrainedText
from mmbench.tasks import Task


class FusionMethod(Scored):
    """Base class of all fusion methods.

    Args:
        spec: The data: modalities, dimensions, target.
        task: What is predicted; by default what the data ask for.
        config: Hyper-parameters; by default the method's own defaults.

    Raises:
        ConfigError: When the method cannot work on the data.
    """

    card: ClassVar[MethodCard]
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    config: Any  # an instance of the method's own Config

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.spec = spec
        self.task = task or Task.of(spec)
        self.config = config or self.Config()
        if not isinstance(self.config, self.Config):
            raise ConfigError(f"{type(self).__name__} takes a {self.Config.__qualname__}, not {type(config).__name__}.")
        if reasons := self.card.needs.unmet(spec):
            raise ConfigError(f"{type(self).__name__} does not fit {spec.track}: {'; '.join(reasons)}.")
        plain = {"spec": spec.to_dict(), "target": asdict(self.task.target), "config": self.config.to_dict()}
        self.save_hyperparameters(plain, logger=False)
        self.dims = dict(spec.dims)
        self.text_encoder: PretrainedText | None = None
        if "text" in spec.modalities and spec.modalities["text"].kind == "tokens":
            if not self.config.text_encoder:
                raise ConfigError(
                    f"The text of {spec.track} is tokens: set text_encoder to the Hugging Face model that made them."
                )
            self.text_encoder = PretrainedText(self.config.text_encoder, frozen=self.config.text_lr == 0)
            self.dims["text"] = self.text_encoder.dim
        self.valid_metric = self.task.metric()
        self.test_metric = self.task.metric()
        if self.task.target.kind == "multilabel":
            self.register_buffer("thresholds", torch.full((self.task.outputs,), 0.5))
        self._pending = 0  # batches whose gradients wait for a step
        self._sums: dict[str, Tensor] = {}
        self._seen: dict[str, int] = {}

    @classmethod
    def load_from_checkpoint(  # type: ignore[override] # Lightning's other options concern pickles and hparams files
        cls, checkpoint_path: str | PathLike[str], map_location: Any = None
    ) -> Self:
        """Return the method as it was saved, without unpickling anything but tensors and plain containers.

        Args:
            checkpoint_path: The file.
            map_location: The device that the method goes to; by default the CPU.

        Raises:
            ConfigError: When it is no checkpoint of this method, or of another version of it.
        """
        method = restore(cls, checkpoint_path, read_checkpoint(checkpoint_path))
        return method if map_location is None else method.to(map_location)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say which method it is and how its inputs were prepared: what prediction needs beside the weights."""
        checkpoint["method"] = type(self).__name__
        checkpoint[VERSION] = version()
        datamodule = getattr(self.trainer, "datamodule", None)
        if isinstance(datamodule, FusionDataModule):
            checkpoint["preparation"] = {**datamodule.preparation(), "tokenizer": datamodule.tokenizer}

    # What a method defines

    def forward(self, batch: Batch) -> Output:
        """Return the prediction for a batch."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward.")

    def objective(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Return the named terms of the loss, scalars whose sum is minimised."""
        return {"task": self.task.loss(output.prediction, batch)}

    def stages(self) -> tuple[Stage, ...]:
        """Return the stages of training, in order; ``batch.stage`` says which one a batch belongs to.

        The last one trains what predicts: epochs before its start are preparation, whose scores select nothing. The
        passes of every epoch must add up to the same number of batches.
        """
        return (Stage("main"),)

    @property
    def accumulate(self) -> int:
        """Number of batches whose gradients are added up before a step: the setting of this name, or one."""
        return getattr(self.config, "accumulate", 1)

    @classmethod
    def variants(cls, spec: DataSpec) -> dict[str, dict[str, Any]]:
        """Return the settings that make a row of their own in every table, by name; most methods have one row."""
        return {"": {}}

    def parameter_groups(self) -> dict[str, list[dict[str, Any]]]:
        """Return Adam's parameter groups by optimiser; the default has one optimiser for everything."""
        return {"main": self.main_groups(self.parameters())}

    # What the base class does with it

    def main_groups(self, parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
        """Return the given parameters as groups: a pretrained text encoder learns at its own rate."""
        learning = [parameter for parameter in parameters if parameter.requires_grad]
        rest = without(learning, self.text_encoder.parameters() if self.text_encoder else ())
        groups = [{"params": without(learning, rest), "lr": self.config.text_lr}, {"params": rest}]
        return [group for group in groups if group["params"]]

    def features(self, batch: Batch) -> dict[str, PaddedSequence]:
        """Return the inputs with text tokens replaced by the encoder's hidden states, ``(B, T, dims[m])`` each."""
        if self.text_encoder is None:
            return batch.inputs
        return {**batch.inputs, "text": self.text_encoder(batch.inputs["text"])}

    def configure_callbacks(self) -> list[Callback]:
        """Answer options of the trainer that are settings here; it asks for callbacks before it complains itself."""
        if self.trainer.state.fn == "fit":
            check_options(type(self), self.trainer)
        return []

    def setup(self, stage: str) -> None:
        """Tell the data module which passes an epoch has."""
        if stage == "fit":
            announce(self.stages(), self.trainer, type(self).__name__)

    @property
    def first_epoch(self) -> int:
        """The first epoch whose validation scores count; earlier ones prepare."""
        return self.stages()[-1].start

    def configure_optimizers(self) -> Any:
        """Return one Adam per optimiser name and, if asked for, a learning-rate drop on plateaus of the main one."""
        groups = {name: group for name, group in self.parameter_groups().items() if group}
        self._order = list(groups)
        optimizers = [
            torch.optim.Adam(group, lr=self.config.lr, weight_decay=self.config.weight_decay, fused=True)
            for group in groups.values()
        ]
        if not (optimizers and self.config.plateau_patience):
            return optimizers
        main = optimizers[self._order.index("main")]
        plateau = ReduceLROnPlateau(
            main,
            mode="max" if self.valid_metric.higher_is_better_of(self.task.selection) else "min",
            factor=self.config.plateau_factor,
            patience=self.config.plateau_patience,
        )
        return optimizers, [plateau]

    def _optimizer(self, name: str) -> LightningOptimizer:
        optimizers = self.optimizers()
        return optimizers[self._order.index(name)] if isinstance(optimizers, list) else optimizers

    def on_train_epoch_start(self) -> None:
        """Forget the terms of the last epoch."""
        self._sums, self._seen, self._pending = {}, {}, 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Take the optimiser step of the batch's stage, and those of the stages that follow it on the same batch."""
        loss = self._descend(batch)
        for number, stage in enumerate(self.stages()[batch.stage + 1 :], start=batch.stage + 1):
            if not stage.follows:
                break
            if stage.active(self.current_epoch):
                loss = self._descend(replace(batch, stage=number))
        return loss

    def _descend(self, batch: Batch) -> Tensor:
        """Add the gradient of a batch, and step when enough are added up or the batch is the last of its epoch."""
        terms = self.objective(self(batch), batch)
        loss = torch.stack([term.reshape(()) for term in terms.values()]).sum()
        if not self._pending:
            self.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        self._pending += 1
        stages = self.stages()
        if self._pending >= self.accumulate or self.trainer.is_last_batch:
            if self.config.gradient_clip:
                nn.utils.clip_grad_norm_(self.parameters(), self.config.gradient_clip)
            self._optimizer(stages[batch.stage].optimizer).step()
            self._pending = 0
        if batch.stage == len(stages) - 1:  # earlier stages have terms, but the loss of an epoch is that of its last
            terms = {**terms, "loss": loss}
        for name, term in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + term.detach() * batch.size
            self._seen[name] = self._seen.get(name, 0) + batch.size
        return loss.detach()

    def terms(self) -> dict[str, float]:
        """Return the mean of every term of the loss over the samples of this epoch so far."""
        return {name: float(total) / self._seen[name] for name, total in self._sums.items()}

    def on_train_epoch_end(self) -> None:
        """Log the mean of every term and let the learning rate follow the validation metric."""
        for name, value in self.terms().items():
            self.log(f"train/{name}", value, sync_dist=True)
        scheduler = self.lr_schedulers()
        selected = self.trainer.callback_metrics.get(f"valid/{self.task.selection}")
        if isinstance(scheduler, ReduceLROnPlateau) and selected is not None and self.current_epoch >= self.first_epoch:
            scheduler.step(selected)
