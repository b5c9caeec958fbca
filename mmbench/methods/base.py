"""The method contract: a LightningModule that knows its data, its task and its settings.

A method gives :meth:`FusionMethod.forward` and, beyond the plain task loss, :meth:`FusionMethod.objective`. The base
class owns optimisation, logging and scoring, so that checkpoints, resuming, DDP and the protocol work for all methods
alike. Optimisation is manual in Lightning's sense, because one rule then serves methods with one optimiser and one
phase of training as well as methods with several: each batch names its phase, and the phase names the optimiser that
steps.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from os import PathLike
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch import Callback
from torch import Tensor

from data_modules.batches.data_module import FusionDataModule
from data_modules.batches.phases import Demand
from data_modules.schema import Batch, DataSpec, PaddedSequence
from mmbench.methods.card import MethodCard
from mmbench.methods.checkpoint import VERSION, read_checkpoint, restore, version
from mmbench.methods.config import ConfigError, MethodConfig
from mmbench.methods.options import check_options, check_phases
from mmbench.methods.output import Output
from mmbench.methods.stepping import Trained
from mmbench.nn.gathering import gathered
from mmbench.nn.text import PretrainedText
from mmbench.tasks import Task

DEVICES = "devices"
"""Under which a checkpoint says how many devices trained it."""


class FusionMethod(Trained):
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

    def __init__(self, spec: DataSpec, task: Task | None = None, config: MethodConfig | None = None) -> None:
        super().__init__()
        self.task = task or Task.of(spec)
        self.config = config or self.Config()
        if not isinstance(self.config, self.Config):
            raise ConfigError(f"{type(self).__name__} takes a {self.Config.__qualname__}, not {type(config).__name__}.")
        if reasons := self.card.needs.unmet(spec):
            raise ConfigError(f"{type(self).__name__} does not fit {spec.track}: {'; '.join(reasons)}.")
        plain = {"spec": spec.to_dict(), "target": asdict(self.task.target), "config": self.config.to_dict()}
        self.save_hyperparameters(plain, logger=False)
        read = self.reads(spec, self.config)
        spec = replace(spec, modalities={name: item for name, item in spec.modalities.items() if name in read})
        self.spec, self.dims = spec, dict(spec.dims)
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
        checkpoint[DEVICES] = self.trainer.world_size

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to continue a training on another number of devices.

        Raises:
            ConfigError: When the batches of the rest of the training would be others.
        """
        trainer = self._trainer
        if trainer is None or trainer.state.fn != "fit":
            return
        before, now = checkpoint.get(DEVICES, trainer.world_size), trainer.world_size
        if before != now:
            raise ConfigError(
                f"This training ran on {before} device{'s' * (before > 1)} and cannot go on with {now}: each has its "
                f"share of a batch, and what one has drawn is not known to others. Give devices={before}."
            )

    # What a method defines

    def forward(self, batch: Batch) -> Output:
        """Return the prediction for a batch."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward.")

    @classmethod
    def reads(cls, spec: DataSpec, config: Any) -> tuple[str, ...]:
        """Return the modalities of the data that the method reads; :attr:`spec` has no others, nor have batches."""
        return tuple(spec.modalities)

    def on_training_labels(self, labels: Batch) -> None:
        """Take what training needs to know of the labels beforehand, such as how rare a class is.

        Called once before training, in every process, where batches come from a ``FusionDataModule``.

        Args:
            labels: The whole training split, a batch without inputs.
        """

    @classmethod
    def variants(cls, spec: DataSpec) -> dict[str, dict[str, Any]]:
        """Return the settings that make a row of their own in every table, by name; most methods have one row."""
        return {"": {}}

    # What the base class does with it

    @property
    def gathers(self) -> bool:
        """Whether samples are compared with those of all processes: the setting ``gather_negatives``, or no."""
        return getattr(self.config, "gather_negatives", False)

    def of_all(self, x: Tensor) -> Tensor:
        """Return what terms that compare samples look at: rows of all processes where :attr:`gathers`, else ``x``.

        In training only, and in every process alike (see :mod:`mmbench.nn.gathering`).

        Args:
            x: ``(B, ...)`` rows of this process.
        """
        return gathered(x) if self.gathers else x

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

    @property
    def demand(self) -> Demand:
        """What the method asks of its data module."""
        return Demand(tuple(self.spec.modalities), self.phases)

    def setup(self, stage: str) -> None:
        """Check that the trainer can give what the phases need, and look at the labels."""
        if stage != "fit":
            return
        check_phases(type(self), self.phases, self.trainer)
        datamodule = getattr(self.trainer, "datamodule", None)
        if isinstance(datamodule, FusionDataModule):
            self.on_training_labels(datamodule.training_labels())
