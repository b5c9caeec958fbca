"""A generated data set whose best reachable scores are known by construction."""

from __future__ import annotations

from data_modules.batches.data_module import FusionDataModule
from data_modules.card import DataCard
from data_modules.datasets.synthetic.generator import ceilings
from data_modules.datasets.synthetic.lag import ceilings as lag_ceilings
from data_modules.datasets.synthetic.lag import lag_of
from data_modules.schema import MODALITIES, TargetKind


class Synthetic(FusionDataModule):
    """Batches of the generated set; see :class:`FusionDataModule` for the arguments and ``card`` for the data.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from data_modules import Synthetic
        >>> from data_modules.datasets.synthetic.generator import write_synthetic
        >>> with TemporaryDirectory() as folder:
        ...     data = Synthetic(write_synthetic(f"{folder}/synthetic.h5", samples=(8, 4, 4)).path)
        >>> data.spec.track, [len(rows) for rows in data.rows.values()]
        ('synthetic/regression/standard', [8, 4, 4])
    """

    key = "synthetic"
    card = DataCard(
        title="synthetic",
        citation="Made by data_modules.datasets.synthetic.generator.",
        licence="MIT, as this project.",
        content=(
            "Three sets of features. The usual one: a score from -3 to 3 with parts that only text, only audio or "
            "only vision carry and parts that only two modalities together carry, or classes and labels made from it; "
            "sequences are not aligned (`data_modules.datasets.synthetic.generator`). The feature set `lag`: a score "
            "by how much vision agrees with what audio said a step before, of which nothing tells but order in time "
            "across the two; sequences share one clock, and text means nothing "
            "(`data_modules.datasets.synthetic.lag`). Methods whose modalities meet as vectors have to keep the whole "
            "order of one in its vector there, and most do not get beyond the score of one modality. `words`: the "
            "usual score, with transcripts for a tokenizer and an untrained encoder, which lie beside the store "
            "(`data_modules.datasets.synthetic.words`): --data.tokenizer data/synthetic-words --method.text_encoder "
            "data/synthetic-words. `ceilings` of the "
            "first two gives the best reachable scores."
        ),
        features="Vectors per step whose latent causes can be recovered exactly.",
        splits="standard: drawn independently.",
        defects="A little label noise, on purpose. It says whether a method fuses, not how well it works on people.",
        command="mmbench data synth; of other features: mmbench data synth lag, or words, or --kind multiclass",
    )

    @classmethod
    def reachable(cls, feature_set: str, kind: TargetKind, metric: str) -> dict[str, float]:
        """Return the ceilings of a metric: by what is read, and without the order in time."""
        if lag := lag_of(feature_set):
            return {name: values[metric] for name, values in lag_ceilings(lag).items() if metric in values}
        table = {" + ".join(subset): values for subset, values in ceilings(kind).items()}
        table["sums of unimodal predictions"] = ceilings(kind, products=False)[MODALITIES]
        table["all without the order of steps"] = ceilings(kind, order=False)[MODALITIES]
        return {name: values[metric] for name, values in table.items() if metric in values}


class SyntheticDialogues(FusionDataModule):
    """Batches of generated dialogues; see :class:`FusionDataModule` for the arguments and ``card`` for the data.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from data_modules import SyntheticDialogues
        >>> from data_modules.datasets.synthetic.dialogues import write_dialogues
        >>> with TemporaryDirectory() as folder:
        ...     store = write_dialogues(f"{folder}/dialogues.h5", dialogues=(4, 2, 2))
        ...     data = SyntheticDialogues(store.path, dialogue=True, batch_size=4)
        ...     data.setup("fit")
        >>> batch = next(iter(data.train_dataloader()))
        >>> len(batch.target), data.spec.target.names
        (4, ('happy', 'sad', 'neutral', 'angry'))
    """

    key = "synthetic_dialogues"
    card = DataCard(
        title="synthetic dialogues",
        citation="Made by data_modules.datasets.synthetic.dialogues.",
        licence="MIT, as this project.",
        content=(
            "One of four emotions per utterance of a dialogue; each modality names it in six of ten cases or more, and "
            "it stays or shifts from one utterance to the next."
        ),
        features="One vector per utterance and modality.",
        splits="standard: 80 / 20 / 40 dialogues, drawn independently.",
        defects="Much doubt in every utterance, on purpose. It says whether a method uses its neighbours.",
        command="mmbench data synth dialogues",
        task="multiclass",
        forms=("features", "dialogues"),
    )


class SyntheticClips(FusionDataModule):
    """Batches of generated clips; see :class:`FusionDataModule` for the arguments and ``card`` for the data.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from data_modules import SyntheticClips
        >>> from data_modules.datasets.synthetic.clips import write_clips
        >>> with TemporaryDirectory() as folder:
        ...     data = SyntheticClips(write_clips(f"{folder}/clips.h5", clips=(2, 1, 1)).path)
        >>> {name: modality.kind for name, modality in data.spec.modalities.items()}
        {'text': 'features', 'audio': 'waveform', 'vision': 'frames'}
    """

    key = "synthetic_clips"
    card = DataCard(
        title="synthetic clips",
        citation="Made by data_modules.datasets.synthetic.clips.",
        licence="MIT, as this project.",
        content="One of four emotions, which sight and sound tell only together; text says a little of both.",
        features="Frames of 48 x 48 at 8 per second, sound at 16 kHz, a few vectors of text.",
        splits="standard: 96 / 32 / 64 clips, drawn independently.",
        defects="Nothing in the pictures or sounds resembles people. It says whether raw media are read and fused.",
        command="mmbench data synth clips",
        task="multiclass",
        forms=("media",),
    )
