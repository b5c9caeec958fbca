"""ERC pickles: IEMOCAP as dialogues of utterance vectors, as codes of emotion recognition in conversations share it.

Layouts, in the order of their tuples; all but the last ones are dicts by dialogue, with an item per utterance::

    9   ids, speakers, labels, text, audio, vision, sentences, train, test
        (DialogueRNN, DialogueGCN, MMGCN, MM-DFN, COGMEN, CORECT, emotion-shift; they differ in their widths)
    12  ids, speakers, labels, r1, r2, r3, r4, audio, vision, sentences, train, test     (SDT)
    10  speakers, labels, r1, r2, r3, r4, sentences, train, test, valid                 (COSMIC; no audio, no vision)
    6   speakers, labels, sentences, train, test, valid                                 (COSMIC; no features: ``text``)
    dict of train, dev, test, each a list of dicts vid, speakers, labels, text, audio, visual, sentence        (CORECT)

Here ``r1`` to ``r4`` are the last four layers of RoBERTa; their mean is taken, as COSMIC does. Speakers are ``M`` or
``F``; labels are numbers in the order of :data:`EMOTIONS`. The set of four classes drops excited and frustrated
utterances and merges nothing.

Protocols: ``cosmic``, with the fixed twelve validation dialogues; and ``file``, with the validation list of the file
or, where it has none, the first tenth of its training list, as most codes cut it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_modules.datasets.iemocap.splits import COSMIC_VALID, cosmic_tables, dialog_table
from data_modules.datasets.iemocap.tables import differences
from data_modules.importers.common import SPLIT_NAMES, Array, Source, foreign, string, structure
from data_modules.importers.pickles import load_pickle
from data_modules.importers.values import array, shown
from data_modules.importers.values import text as text_of
from data_modules.schema import MODALITIES, DataError, TargetSpec
from data_modules.store import Sample, SplitTables, StoreInfo

KEY = "erc"
"""What the format is called."""
EMOTIONS = ("happy", "sad", "neutral", "angry", "excited", "frustrated")
"""In the order of the label numbers; the set of four classes has the first four."""
PUBLISHED = {
    "train": (451, 771, 1221, 831, 593, 1296),
    "valid": (53, 68, 103, 102, 149, 172),
    "test": (144, 245, 384, 170, 299, 381),
}
"""Utterances of each emotion, with the validation dialogues of COSMIC."""
DIALOGUES = {"train": 108, "valid": 12, "test": 31}
RELEASES = {
    (100, 100, 512): "dialoguernn",
    (100, 1582, 342): "mmgcn",
    (1024, 0, 0): "roberta",
    (1024, 1582, 342): "mmgcn_roberta",
}
"""Names of feature sets by the widths of text, audio and vision."""
EXTRACTORS = {
    ("text", 100): "TextCNN on GloVe",
    ("text", 768): "sentence vectors of a BERT-sized encoder",
    ("text", 1024): "RoBERTa-large",
    ("audio", 100): "openSMILE, reduced",
    ("audio", 1582): "openSMILE, Interspeech 2010 set",
    ("vision", 512): "3D-CNN",
    ("vision", 342): "DenseNet of faces",
}
LAYERS = 4
LISTS = {9: 2, 12: 2, 10: 3, 6: 3}
"""By length of the tuple how many lists of dialogues end it. Where there are two, none is of validation, and the ids of
the utterances come first."""

Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class _Dialogues:
    """What all layouts say.

    Attributes:
        speakers: By dialogue who speaks.
        labels: By dialogue the numbers of the emotions.
        features: By modality one column, or four whose mean counts.
        sentences: By dialogue what is said; empty when the file does not say.
        train: Dialogues for training.
        valid: Dialogues for validation; empty when the file cuts none.
        test: Dialogues for the test.
    """

    speakers: Columns
    labels: Columns
    sentences: Columns
    train: list[str]
    test: list[str]
    valid: list[str] = field(default_factory=list)
    features: Mapping[str, tuple[Columns, ...]] = field(default_factory=dict)

    @property
    def order(self) -> list[str]:
        """All dialogues, in the order of the file's lists."""
        return [*self.train, *self.valid, *self.test]


def read(
    source: Path,
    *,
    dataset: str = "iemocap_erc",
    classes: Literal[6, 4] | None = None,
    text: str = "",
    feature_set: str = "",
) -> Source:
    """Read a pickle of dialogues.

    Args:
        source: The pickle.
        dataset: Key of the data set.
        classes: Six emotions, or the utterances of the first four; by default six where the file has them.
        text: Another pickle to take the text vectors from: one of COSMIC, or a dict of vectors under names such as
            ``Ses05F_impro03[0]``.
        feature_set: Name of the feature set; by default told by the widths, with the number of classes.

    Raises:
        DataError: For another layout, or columns that do not fit each other.
    """
    content = load_pickle(source)
    made = _dialogues(source, content)
    if made is None:
        raise foreign(
            source, content, "erc", "the tuple of 9, 12, 10 or 6 of an IEMOCAP conversation pickle, or CORECT's dict"
        )
    _check(source, made)
    if text:
        made = replace(made, features={**made.features, "text": _text_columns(Path(text), made)})
        _check(Path(text), made)
    if not made.features:
        raise DataError(f"{source} has no features. Give a pickle of text vectors with the option `text`.")
    used = {int(label) for dialogue in made.order for label in made.labels[dialogue]}
    count = classes or (6 if max(used) > 3 else 4)
    if count == 6 and max(used) <= 3:
        raise DataError(f"{source} has utterances of four emotions only. Leave the option `classes` out, or say 4.")

    tables = partial(split_tables, made=made)
    widths = {name: len(_vector(source, name, made, made.order[0], 0)) for name in MODALITIES if name in made.features}
    named = RELEASES.get((widths.get("text", 0), widths.get("audio", 0), widths.get("vision", 0)))
    sources = {
        name: f"{EXTRACTORS.get((name, width), f'{width} columns')} (by the width), of "
        f"{Path(text).name if text and name == 'text' else source.name}"
        for name, width in widths.items()
    }
    info = StoreInfo(
        dataset,
        feature_set or f"{named or '-'.join(f'{name}{width}' for name, width in widths.items())}-{count}",
        TargetSpec("multiclass", EMOTIONS[:count]),
        sources,
        aligned=True,
        notes=(verify(made, count),),
    )
    return Source(info, _samples(source, made, count), tables)


def _dialogues(path: Path, content: Any) -> _Dialogues | None:
    """Return the dialogues of a content of one of the known layouts, else nothing."""
    if isinstance(content, Mapping):
        return _from_parts(path, content)
    if not isinstance(content, list | tuple) or len(content) not in LISTS:
        return None
    lists = LISTS[len(content)]
    columns, names = content[:-lists], content[-lists:]
    listed = all(isinstance(some, set | frozenset) or _is_list(some) for some in names)
    if not (listed and all(one is None or _is_column(one) for one in columns)):
        return None
    if lists == 2:
        columns = columns[1:]
    speakers, labels, *features, sentences = columns
    if not (speakers and labels):
        return None
    train, test, *valid = ([_name(path, one) for one in _ordered(some, labels)] for some in names)
    layers = len(features) in (LAYERS, LAYERS + 2)
    text, rest = (tuple(features[:LAYERS]), features[LAYERS:]) if layers else (tuple(features[:1]), features[1:])
    found = {"text": text, **{name: (one,) for name, one in zip(("audio", "vision"), rest, strict=False)}}
    present = {name: some for name, some in found.items() if some and all(map(_filled, some))}
    return _Dialogues(speakers, labels, sentences or {}, train, test, valid[0] if valid else [], present)


def _name(path: Path, raw: Any) -> str:
    return text_of(f"{path}: the name of a dialogue", raw)


def _is_column(one: Any) -> bool:
    return isinstance(one, Mapping) and all(map(_is_list, one.values()))


def _is_list(items: Any) -> bool:
    return isinstance(items, list | tuple) or (isinstance(items, np.ndarray) and items.ndim > 0)


def _filled(column: Columns | None) -> bool:
    return column is not None and any(len(items) > 0 for items in column.values())


def _ordered(names: Any, labels: Columns) -> list[Any]:
    """Return a list of dialogues in its order; a set has none, so that the order of the labels stands in for it."""
    if not isinstance(names, set | frozenset):
        return list(names)
    return [*(name for name in labels if name in names), *sorted((n for n in names if n not in labels), key=str)]


def _from_parts(path: Path, content: Mapping[str, Any]) -> _Dialogues | None:
    """Return the dialogues of CORECT's own file."""
    parts = {SPLIT_NAMES[key]: part for key, part in content.items() if key in SPLIT_NAMES}
    if len(parts) != len(PUBLISHED) or not all(isinstance(part, list) and part for part in parts.values()):
        return None
    every = [one for part in parts.values() for one in part]
    if not all(isinstance(one, Mapping) and {"vid", "speakers", "labels"} <= set(one) for one in every):
        return None

    def column(name: str) -> dict[str, Any]:
        return {_name(path, one["vid"]): one[name] for one in every if one.get(name) is not None}

    speakers, labels, sentences = column("speakers"), column("labels"), column("sentence")
    columns = {"text": column("text"), "audio": column("audio"), "vision": column("visual")}
    if not all(map(_is_column, (speakers, labels, sentences, *columns.values()))):
        return None
    return _Dialogues(
        speakers,
        labels,
        sentences,
        **{split: [_name(path, one["vid"]) for one in part] for split, part in parts.items()},
        features={name: (one,) for name, one in columns.items() if _filled(one)},
    )


def _text_columns(path: Path, made: _Dialogues) -> tuple[Columns, ...]:
    """Return the text vectors of another file."""
    content = load_pickle(path)
    other = _dialogues(path, content)
    if other is not None and "text" in other.features:
        return other.features["text"]
    names = {name: [f"{name}[{index}]" for index in range(len(made.labels[name]))] for name in made.order}
    if not isinstance(content, Mapping) or not any(one in content for some in names.values() for one in some):
        raise DataError(
            f"{path} holds a {structure(content)}; the option `text` takes a pickle of COSMIC, or a dict of vectors "
            f"under names such as {made.order[0]}[0]."
        )
    lost = [one for some in names.values() for one in some if one not in content]
    if lost:
        raise DataError(f"{path} has no vector of {len(lost)} utterances, the first: {lost[0]}.")
    return ({name: [content[one] for one in some] for name, some in names.items()},)


def _check(path: Path, made: _Dialogues) -> None:
    """Refuse columns that do not fit each other, and dialogues of another data set."""
    twice = [name for name, count in Counter(made.order).items() if count > 1]
    if twice:
        raise DataError(
            f"{path} lists the dialogue {twice[0]} twice. The file is damaged or was changed: get it again."
        )
    if not made.train or not made.test:
        raise DataError(f"{path} lists no dialogues for training, or none for the test.")
    columns = [("speakers", made.speakers), ("labels", made.labels)]
    columns += [(name, one) for name, some in made.features.items() for one in some]
    columns += [("sentences", made.sentences)] if made.sentences else []
    for dialogue in made.order:
        for name, column in columns:
            count, wanted = len(column.get(dialogue, ())), len(made.labels.get(dialogue, ()))
            if count != wanted or not wanted:
                raise DataError(
                    f"{path}: the dialogue {dialogue} has {count} {name} for {wanted} labels. The file is damaged "
                    "or was changed: get it again."
                )
        for speaker, label in zip(made.speakers[dialogue], made.labels[dialogue], strict=True):
            if not (isinstance(speaker, str | bytes | np.generic) and string(speaker) in ("M", "F")):
                raise DataError(
                    f"{path}: in the dialogue {dialogue} speaks {shown(speaker)}; IEMOCAP's speakers are M and F. For "
                    "another data set use the documented layout of `mmbench data import plain`."
                )
            number = isinstance(label, int | np.integer) and not isinstance(label, bool)
            if not (number and 0 <= label < len(EMOTIONS)):
                raise DataError(
                    f"{path}: an utterance of {dialogue} has the label {shown(label)}; labels are whole numbers from "
                    "0 to 5. Bring other labels in with `mmbench data import plain`."
                )
        for index, said in enumerate(made.sentences.get(dialogue, ())):
            text_of(f"{path}: the sentence of {dialogue}[{index}]", said)


def _vector(path: Path, name: str, made: _Dialogues, dialogue: str, index: int) -> Array:
    """Return the vector of an utterance, the mean of the layers where there are several."""
    where = f"{path}: the {name} of {dialogue}[{index}]"
    layers = [array(where, column[dialogue][index]) for column in made.features[name]]
    if any(layer.ndim != 1 or layer.dtype.kind not in "fiu" or layer.shape != layers[0].shape for layer in layers):
        raise DataError(
            f"{where} is a {layers[0].dtype} array of shape {layers[0].shape}; a vector was expected, in each layer of "
            "the same length. Get the file again."
        )
    # Four numbers are added in their order and halved twice: the same on every processor.
    return np.mean(layers, axis=0) if len(layers) > 1 else layers[0]


def _samples(path: Path, made: _Dialogues, count: int) -> Iterator[Sample]:
    for dialogue in made.order:
        for index, label in enumerate(made.labels[dialogue]):
            if label >= count:
                continue
            inputs = {name: _vector(path, name, made, dialogue, index)[None] for name in made.features}
            said = string(made.sentences[dialogue][index]) if made.sentences else ""
            speaker = string(made.speakers[dialogue][index])
            yield Sample(f"{dialogue}[{index}]", inputs, int(label), None, dialogue, speaker, said)


def split_tables(samples: Sequence[Sample], made: _Dialogues) -> SplitTables:
    """Return the protocols that the dialogues of a file allow, ``cosmic`` first."""
    groups = [sample.group for sample in samples]
    tables = cosmic_tables(groups, [*made.train, *made.valid], made.test)
    valid = made.valid or made.train[: max(1, len(made.train) // 10)]
    if set(valid) != set(COSMIC_VALID):
        train = [name for name in made.train if name not in valid]
        tables["file"] = [dialog_table(groups, train, valid, made.test)]
    return tables


def verify(made: _Dialogues, count: int) -> str:
    """Return a note that holds the counts of the dialogues and emotions against the published ones."""
    parts = {"valid": set(COSMIC_VALID), "test": set(made.test)}
    parts["train"] = {*made.train, *made.valid} - parts["valid"]
    published: dict[str, int] = {}
    found: dict[str, int] = {}
    for split, counts in PUBLISHED.items():
        inside = [name for name in made.order if name in parts[split]]
        labels = Counter(int(label) for name in inside for label in made.labels[name])
        published[f"{split} dialogues"], found[f"{split} dialogues"] = DIALOGUES[split], len(inside)
        for label in range(count):
            published[f"{split} {EMOTIONS[label]}"], found[f"{split} {EMOTIONS[label]}"] = counts[label], labels[label]
    return differences("the pickle", found, published)
