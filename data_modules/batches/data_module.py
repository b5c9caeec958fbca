"""The data module: a feature store, a split protocol and a fold, as batches on the device."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from lightning.pytorch import LightningDataModule

from data_modules.batches.corruption import Corruption, exchanged, sample_keys
from data_modules.batches.loading import BatchLoader, InMemorySplit
from data_modules.batches.normalization import Normalize
from data_modules.batches.phases import Demand
from data_modules.batches.source import SampleSource
from data_modules.batches.streaming import StreamedLoader, StreamedSplit, automatic_workers
from data_modules.card import DataCard
from data_modules.schema import MEDIA, MODALITIES, Batch, DataError, DataSpec, SplitLocked, TargetKind, unknown_name
from data_modules.store import EVERYTHING, Array, FeatureStore


class FusionDataModule(LightningDataModule):
    """Batches from a feature store.

    Each stage loads only the splits it needs (``fit``: train and valid; ``test``: test), so nothing that trains has
    the test samples in memory. Feature sets are held in memory; frames and waveforms are read batch by batch. The order
    of training batches is a function of (seed, epoch). A model under a Lightning trainer gets what it asks for by its
    :class:`data_modules.batches.phases.Demand`; others set :attr:`demand`.

    Args:
        path: The store; by default ``<key>.h5`` in the folder that ``MMBENCH_DATA`` names (``data`` when unset).
        protocol: Split protocol of the store; by default the only or first one, or ``everything``, where all samples
            are there to be predicted.
        fold: Fold of the protocol.
        batch_size: Samples per batch.
        modalities: Modalities to use; by default all.
        limit: Use at most this many samples of each split, the same ones whatever the seed; 0 for all.
        normalize: ``train`` standardises features by mean and deviation of the training split, ``none`` leaves them.
        corruption: What goes missing, gets noisy or is exchanged between the samples of a split, if anything.
        bucketed: Whether training batches hold samples of similar length.
        dialogue: Whether a batch element is a dialogue: the utterances of one group, in store order or, where their
            names are the group's with a number, in the order of these.
        tokenizer: Hugging Face tokenizer (name or folder) that turns transcripts into text tokens; empty for none.
        seed: Decides the order of training batches.
        workers: Processes that read frames and waveforms; by default as many as the variable ``MMBENCH_WORKERS`` says,
            else one per core but one, four at most.
        preparation: What :meth:`preparation` returned of another data module: inputs are prepared by its statistics.

    Raises:
        DataError: When the store, the protocol, the fold or a modality does not exist.

    Example:
        >>> from data_modules import FusionDataModule
        >>> from data_modules.toy import make_spec, toy_store
        >>> with toy_store(make_spec()) as path:
        ...     data = FusionDataModule(path, batch_size=4, modalities=("text", "audio"))
        ...     data.setup("fit")
        >>> data.spec.track, data.spec.dims
        ('toy/random/standard+text-audio', {'text': 7, 'audio': 5})
        >>> batch = next(iter(data.train_dataloader()))
        >>> list(batch.inputs), tuple(batch.target.shape)
        (['text', 'audio'], (4,))
    """

    key: ClassVar[str] = ""
    card: ClassVar[DataCard | None] = None
    normalize_default: ClassVar[Normalize] = "none"
    normalize_by_features: ClassVar[Mapping[str, Normalize]] = {}  # other defaults, by feature set

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        protocol: str | None = None,
        fold: int = 0,
        batch_size: int = 32,
        modalities: tuple[str, ...] = (),
        limit: int = 0,
        normalize: Normalize | None = None,
        corruption: Corruption | None = None,
        bucketed: bool = False,
        dialogue: bool = False,
        tokenizer: str = "",
        seed: int = 1111,
        workers: int | None = None,
        preparation: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if limit < 0 or batch_size < 1:
            raise DataError(f"limit is {limit} and batch_size {batch_size}: give 0 (all) or more, and 1 or more.")
        if workers is not None and workers < 0:
            raise DataError(f"workers is {workers}: give how many processes read media, 0 for none.")
        if normalize is not None and normalize not in get_args(Normalize):
            raise DataError(unknown_name("normalisation", normalize, get_args(Normalize)))
        if dialogue and limit:
            raise DataError("A limit counts samples and would tear dialogues: leave one of the two away.")
        self.store = FeatureStore(path if path is not None else self.default_path())
        if self.key and self.store.dataset != self.key:
            raise DataError(f"{self.store.path} holds {self.store.dataset!r}, not {self.key!r}: give another path.")
        self.protocol = protocol or next(iter(self.store.splits), EVERYTHING)
        self.fold, self.batch_size, self.limit, self.seed = fold, batch_size, limit, seed
        self._usual = self.normalize_by_features.get(self.store.feature_set, self.normalize_default)
        self.normalize: Normalize = preparation["normalize"] if preparation else normalize or self._usual
        self.corruption = corruption or Corruption()
        self.bucketed, self.dialogue, self.tokenizer = bucketed, dialogue, tokenizer
        self.workers = automatic_workers() if workers is None else workers
        self.demand = Demand()
        self._test_locked = False
        self.rows = {name: self._limited(rows) for name, rows in self.store.rows(self.protocol, fold).items()}
        self._splits: dict[str, InMemorySplit | StreamedSplit] = {}
        spec, tokens = self.store.spec(self.protocol), None
        if tokenizer:
            from data_modules.features.tokens import tokenize

            values, offsets, text = tokenize(list(self.store.transcripts), tokenizer)
            tokens = values, offsets
            merged = {**spec.modalities, "text": text}
            spec = replace(spec, aligned=False, modalities={m: merged[m] for m in MODALITIES if m in merged})
        if not spec.modalities:
            raise DataError(f"{self.store.path} holds transcripts only: give a tokenizer to make tokens of them.")
        every = tuple(spec.modalities)
        if modalities:
            spec = spec.select(tuple(modalities))
        shuffled = self.corruption.shuffled
        if shuffled and shuffled not in spec.modalities:
            raise DataError(f"{spec.track} has no {shuffled!r} that could be shuffled: {', '.join(spec.modalities)}.")
        if shuffled and any(modality.max_length > 1 for modality in spec.modalities.values()):
            spec = replace(spec, aligned=False)  # its steps are those of another sample
        self.spec: DataSpec = replace(spec, variant=self._variant(modalities), dialogue=dialogue)
        self._source = SampleSource(
            self.store,
            self.spec,
            every,
            self.rows["train"],
            self.normalize,
            self.corruption,
            exchanged(self.store.ids, self.rows.values(), self.corruption),
            tokens,
            SampleSource.scales_of(preparation) if preparation else {},
        )
        if self.spec.media and self.corruption.damages:
            raise DataError(
                f"Corruption takes steps of features away, and in {self.spec.track} these are raw: "
                f"{', '.join(self.spec.media)}. Leave it out, or use a store of features."
            )
        if dialogue and shuffled:  # what an utterance says could come into the view of its own dialogue again
            raise DataError(f"The {shuffled} of dialogues cannot be shuffled: use methods of single utterances.")
        if dialogue and not all(self.store.groups):
            raise DataError(f"Dialogues are the groups of a store, and samples of {self.store.path} have none.")
        if dialogue and any(self.store.speakers) and not all(self.store.speakers):
            raise DataError(f"Some utterances of {self.store.path} name a speaker and some do not: name all or none.")
        sequences = [
            m.name for m in spec.modalities.values() if m.kind in MEDIA or (m.max_length > 1 and m.kind != "tokens")
        ]
        if dialogue and sequences:
            raise DataError(
                f"Dialogues need utterance vectors, or tokens; in {spec.track} these are sequences: "
                f"{', '.join(sequences)}."
            )

    @staticmethod
    def usual_path(name: str) -> Path:
        """Return the usual path of a store.

        Args:
            name: Key of the data set; ``<key>/<feature set>`` for another of its feature sets.
        """
        return Path(os.environ.get("MMBENCH_DATA", "data")) / f"{name.replace('/', '-')}.h5"

    @classmethod
    def reachable(cls, feature_set: str, kind: TargetKind, metric: str) -> dict[str, float]:
        """Return the best reachable values of a metric, by what they are reachable from; empty where nobody knows."""
        return {}

    @classmethod
    def default_path(cls) -> Path:
        """Return where the data set's store is looked for."""
        if not cls.key:
            raise DataError("A store of your own needs its path: FusionDataModule('my_features.h5').")
        path = cls.usual_path(cls.key)
        if not path.is_file() and cls.card:
            raise DataError(f"There is no {cls.card.title} store at {path}. To make it: {cls.card.command}")
        return path

    def _variant(self, modalities: tuple[str, ...]) -> str:
        parts = ["-".join(name for name in MODALITIES if name in modalities)] if modalities else []
        parts += [f"limit{self.limit}"] if self.limit else []
        parts += [f"normalize-{self.normalize}"] if self.normalize != self._usual else []
        parts += ["tokens"] if self.tokenizer else []
        parts += [self.corruption.variant] if self.corruption else []
        return "+".join(parts)

    def _limited(self, rows: Array) -> Array:
        if not self.limit or len(rows) <= self.limit:
            return rows
        by_key = np.argsort(sample_keys(self.store.ids[rows]), kind="stable")
        return np.sort(rows[by_key[: self.limit]])

    @property
    def used(self) -> tuple[str, ...]:
        """The modalities that batches hold."""
        wanted = self.demand.modalities
        return tuple(name for name in self.spec.modalities if wanted is None or name in wanted)

    # Loading

    @contextmanager
    def without_test(self) -> Iterator[None]:
        """Refuse to load the test split until the end of the block."""
        self._test_locked = True
        try:
            yield
        finally:
            self._test_locked = False

    def setup(self, stage: str) -> None:
        """Load the splits of a stage (``fit``, ``validate``, ``test`` or ``predict``).

        Raises:
            SplitLocked: When it is the test split, :meth:`without_test`.
            DataError: When a split has no samples, or the store cannot be read.
        """
        demand = getattr(self.trainer and self.trainer.lightning_module, "demand", None)
        self.demand = demand if isinstance(demand, Demand) else self.demand
        wanted = {"fit": ("train", "valid"), "validate": ("valid",), "test": ("test",), "predict": ("test",)}[stage]
        for split in wanted:
            if split == "test" and self._test_locked:
                raise SplitLocked("The test split is locked until selection is done; only the runner releases it.")
            if not len(self.rows[split]):
                raise DataError(
                    f"{self.store.path} has no {split} samples in the protocol {self.protocol!r}: it can be predicted, "
                    "not trained on. Bring in labels and splits for that."
                )
            if split not in self._splits:
                self._splits[split] = self._load(split)

    def teardown(self, stage: str) -> None:
        """Drop the splits of a stage from memory."""
        for split in {"fit": ("train", "valid"), "validate": ("valid",)}.get(stage, ("test",)):
            self._splits.pop(split, None)

    def _load(self, split: str) -> InMemorySplit | StreamedSplit:
        rows, media = self.rows[split], self.spec.media
        # Length buckets of a split in memory are over what it holds, so it holds everything.
        names = tuple(self.spec.modalities) if self.bucketed and not media else self.used
        if not media or not (self.bucketed or set(media) & set(names)):
            return self._source.split(rows, names)
        self.preparation()  # before there are workers, or each of them would read the training split
        return StreamedSplit(rows, self._source.sizes(rows), partial(self._source.split, names=names))

    def preparation(self) -> dict[str, Any]:
        """Return how inputs are prepared, as plain containers and tensors: what a trained model must be given again."""
        return self._source.preparation(self.used)

    def training_labels(self) -> Batch:
        """Return the labels of the whole training split, in store order: a batch without inputs."""
        labels = self._source.split(self.rows["train"], ())
        return labels.batch(torch.arange(len(labels)))

    # Batches

    def _loader(self, split: str, shuffle: bool = False) -> BatchLoader:
        device, rank, world = torch.device("cpu"), 0, 1
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            rank, world = self.trainer.global_rank, self.trainer.world_size
        if world > (count := len(self.rows[split])):  # one without any would not take part, and the others wait for it
            raise DataError(
                f"The split {split} has {count} samples, and {world} processes share it: give fewer --devices."
            )
        options: dict[str, Any] = {"rank": rank, "world": world}
        if shuffle:
            options |= {"shuffle": True, "seed": self.seed, "phases": self.demand.phases, "bucketed": self.bucketed}
        loaded = self._splits[split]
        if isinstance(loaded, StreamedSplit):
            return StreamedLoader(loaded, self.batch_size, workers=self.workers, **options)
        return BatchLoader(loaded.to(device), self.batch_size, **options)

    def train_dataloader(self) -> BatchLoader:
        """Return the training batches, in the order of (seed, epoch)."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> BatchLoader:
        """Return the validation batches, in store order."""
        return self._loader("valid")

    def test_dataloader(self) -> BatchLoader:
        """Return the test batches, in store order."""
        return self._loader("test")

    predict_dataloader = test_dataloader
