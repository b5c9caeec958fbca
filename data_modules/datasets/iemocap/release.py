"""IEMOCAP: the release on disk, turn by turn, with transcripts, sound and the picture of the one who speaks.

Labels and transcripts are read from ``Session{1..5}/dialog``, the sound of a turn from its own file below
``sentences/wav`` (cut from one actor's microphone; cutting the sound of the dialog would mix the actors, whose turns
overlap), its pictures from the video of the dialog: the half that shows the speaker, from the start to the end of the
turn. Turns are in the order of time within their dialog, which is the group, and the speaker is the actor.

Protocols: ``session5`` and ``speaker10``, and, with lists of turns, ``mesm`` (see
:mod:`data_modules.datasets.iemocap.splits`). What cannot be used is left out and said in the notes, with a word on
whether the counts are the published ones; losing more than five per cent is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np

from data_modules.datasets.iemocap.media import EVERY, SIZE, Sound, Sounds, see, seen_recipe, turn_origin
from data_modules.datasets.iemocap.splits import (
    MESM_COUNTS,
    list_table,
    read_lists,
    session_tables,
    speaker_tables,
    unlisted,
)
from data_modules.datasets.iemocap.tables import Turn, differences, read_turns, verify
from data_modules.features import audio as sound
from data_modules.features.faces import HaarFace, shape_text
from data_modules.importers.clips import ORIGINS, Decoded, listed, opened, refuse_loss, work_folder
from data_modules.importers.common import Source
from data_modules.schema import DataError, ModalityKind, TargetSpec
from data_modules.store import Sample, SplitTables, StoreInfo

KEY = "iemocap_release"
"""What the format is called."""
ClassSet = Literal["4", "4-strict", "6", "mesm"]
Face = Literal["centre", "detector"]

NAMES = {"ang": "angry", "hap": "happy", "exc": "excited", "sad": "sad", "neu": "neutral", "fru": "frustrated"}
CLASSES: dict[ClassSet, dict[str, str]] = {
    "4": {"ang": "angry", "hap": "happy", "exc": "happy", "sad": "sad", "neu": "neutral"},
    "4-strict": {label: NAMES[label] for label in ("ang", "hap", "sad", "neu")},
    "6": {label: NAMES[label] for label in ("hap", "sad", "neu", "ang", "exc", "fru")},
    "mesm": {label: NAMES[label] for label in sorted(NAMES)},
}
"""By set of classes the class of each label, in the order of the classes; turns of other labels are left out."""


def read(
    source: Path,
    *,
    dataset: str = "",
    classes: ClassSet = "4",
    audio: Sound = "logmel",
    vision: Literal["frames", "none"] = "none",
    face: Face = "centre",
    lists: Path | None = None,
    keep_tags: bool = True,
    vectors: bool = False,
    every: float = EVERY,
    size: int = SIZE,
    mels: int = sound.MELS,
    mfccs: int = sound.MFCCS,
    window_ms: float = sound.WINDOW_MS,
    hop_ms: float = sound.HOP_MS,
    work: Path | None = None,
) -> Source:
    """Read the IEMOCAP release.

    Args:
        source: The folder IEMOCAP_full_release.
        dataset: Key of the data set; by default iemocap_raw, or iemocap_mesm for classes=mesm.
        classes: Four classes, happy with excited (4) or without (4-strict), six, or MESM's six as one-hot labels.
        audio: What is made of the sound of a turn. Without sound and pictures, transcripts are all there is.
        vision: The pictures of the speaker, or none.
        face: What is cut out of the speaker's half: the middle as it is, or the face by OpenCV's detector, resized.
        lists: Folder with MESM's lists of turns, train_split.txt, valid_split.txt and test_split.txt.
        keep_tags: Whether tags such as [LAUGHTER] stay in the transcripts.
        vectors: One vector per turn, mean and deviation of its sound features, which dialogues need.
        every: Seconds between two pictures.
        size: Side of the pictures in pixels; MESM reads faces of 48.
        mels: Mel bands.
        mfccs: Cepstral coefficients.
        window_ms: Analysis window in milliseconds.
        hop_ms: Time between two steps in milliseconds.
        work: Folder for decoded clips until the store is whole; by default beside it.

    Raises:
        DataError: When the files are not as described, a session is missing, or more than five per cent of the turns
            cannot be used.
    """
    if vectors and (audio in ("waveform", "none") or vision != "none"):
        raise DataError("Vectors are made of sound features: choose audio=logmel or mfcc, and vision=none.")
    if min(mels, mfccs, size) < 1 or not 0 < every < np.inf:
        raise DataError(
            f"mels ({mels}), mfccs ({mfccs}), size ({size}) and every ({every:g}) must be above 0, and finite."
        )
    if face == "detector" and vision == "none":
        raise DataError("No pictures are taken, so no face can be cut out of them: choose vision=frames.")
    detector = HaarFace(size) if face == "detector" else None
    turns, notes = read_turns(Path(source), keep_tags)
    chosen = [turn for turn in turns if turn.label in CLASSES[classes]]
    session_tables([turn.session for turn in chosen])  # now, not after an hour of decoding
    listing = read_lists(Path(lists)) if lists else {}
    notes = [verify(turns), *notes, *_left_out(turns, classes), *_list_notes(turns, listing, classes)]

    folder = work or work_folder(Path(source))
    heard = Sounds(audio, mels, mfccs, window_ms, hop_ms, vectors)
    made: dict[str, Decoded] = {}
    if audio != "none":
        made["audio"] = heard.hear(chosen, folder)
    if vision == "frames":
        made["vision"] = see(chosen, every, size, detector, folder)
        notes += made["vision"].faceless
    kept, lost = _usable(chosen, made)

    kinds: dict[str, ModalityKind] = {"audio": "waveform"} if audio == "waveform" else {}
    kinds |= {"vision": "frames"} if vision == "frames" else {}
    rates = {"audio": float(sound.RATE), "vision": 1 / every}
    middle = f"{size} x {size} from the middle of the speaker's half"
    cut = f"in the speaker's half the {shape_text(detector.text, size)}" if detector else middle
    seen = f"a picture every {every:g} s, {cut}"
    extractors = {"audio": heard.source if "audio" in made else "", "vision": seen}
    parts = {"audio": f"{audio}-vectors" if vectors else audio, "vision": f"{'faces' if detector else 'frames'}{size}"}
    info = StoreInfo(
        dataset or ("iemocap_mesm" if classes == "mesm" else "iemocap_raw"),
        "-".join([classes, *(parts[name] for name in made)] if made else [classes, "text"]),
        TargetSpec("multilabel" if classes == "mesm" else "multiclass", _order(classes)),
        {name: extractors[name] for name in made},
        kinds,
        rates={name: rates[name] for name in kinds},
        aligned=vectors,
        notes=(*notes, *lost),
        recipes={name: heard.recipe if name == "audio" else seen_recipe(every, size, detector) for name in made},
    )
    return Source(info, _samples(kept, made, classes), partial(split_tables, lists=listing))


def _order(classes: ClassSet) -> tuple[str, ...]:
    """Return the names of the classes in their order."""
    return tuple(dict.fromkeys(CLASSES[classes].values()))


def split_tables(samples: Sequence[Sample], lists: Mapping[str, str]) -> SplitTables:
    """Return the protocols: ``mesm`` where there are lists, ``session5`` and ``speaker10``.

    Raises:
        DataError: When an actor has no turn.
    """
    actors = [sample.speaker for sample in samples]
    tables = {"mesm": [list_table(lists, [sample.id for sample in samples])]} if lists else {}
    sessions = session_tables([int(actor[3:5]) for actor in actors])
    return {**tables, "session5": sessions, "speaker10": speaker_tables(actors)}


def _left_out(turns: Sequence[Turn], classes: ClassSet) -> list[str]:
    """Return what there is to say of the labels of a set of classes."""
    others = Counter(turn.label for turn in turns if turn.label not in CLASSES[classes])
    counts = ", ".join(f"{label} {count}" for label, count in others.most_common())
    notes = [f"{others.total()} turns of other labels were left out: {counts}."] if others else []
    if classes == "6":
        notes.append(
            "The conversation pickles have 53 happy turns more, 648 instead of 595; at least 49 of them have no "
            "majority here (xxx). Results on them are no results on these turns."
        )
    return notes


def _list_notes(turns: Sequence[Turn], lists: Mapping[str, str], classes: ClassSet) -> list[str]:
    """Return what there is to say of MESM's lists: turns that are not there, and whether the counts are published.

    Raises:
        DataError: When more than one listed turn in twenty is not there.
    """
    if not lists:
        return []
    notes = unlisted(lists, {turn.name for turn in turns})
    if len(CLASSES[classes]) < len(NAMES):
        return notes
    counts = Counter((lists.get(turn.name, ""), turn.label) for turn in turns)
    published = {f"{split} {label}": n for split, row in MESM_COUNTS.items() for label, n in row.items()}
    found = {f"{split} {label}": counts[split, label] for split, row in MESM_COUNTS.items() for label in row}
    return [*notes, differences("the lists", found, published)]


def _usable(turns: Sequence[Turn], made: Mapping[str, Decoded]) -> tuple[list[Turn], list[str]]:
    """Return the turns that have everything, and what there is to say of the others.

    Raises:
        DataError: When more than one turn in twenty lacks something.
    """
    kept, notes = list(turns), [note for decoded in made.values() for note in decoded.notes]
    if "audio" in made:
        kept = [turn for turn in kept if turn.name in made["audio"].clips]
    if "vision" in made:
        shown: set[str] = set()
        for path in made["vision"].clips.values():
            with opened(path) as arrays:
                shown |= set(arrays.files)
        late = [turn.name for turn in turns if turn.dialog in made["vision"].clips and turn.name not in shown]
        notes += listed("turns begin after the end of their video and were left out", late)
        kept = [turn for turn in kept if turn.name in shown]
    if not made:  # its transcript is all that there is of a turn; the notes name those without one
        kept = [turn for turn in kept if turn.text]
        notes += listed("turns without a transcript were left out", [turn.name for turn in turns if not turn.text])
    usable = {turn.name for turn in kept}
    refuse_loss(
        "lack sound or pictures" if made else "lack a transcript",
        [turn.name for turn in turns if turn.name not in usable],
        len(turns),
    )
    return kept, notes


def _samples(turns: Sequence[Turn], made: Mapping[str, Decoded], classes: ClassSet) -> Iterator[Sample]:
    order = _order(classes)
    for dialog, some in groupby(turns, key=lambda turn: turn.dialog):
        pictures = made["vision"].load(dialog) if "vision" in made else {}
        for turn in some:
            inputs = made["audio"].load(turn.name) if "audio" in made else {}
            origins = {"audio": inputs.pop(ORIGINS).item(0)} if inputs else {}
            if pictures:
                inputs["vision"] = pictures[turn.name]
                origins["vision"] = turn_origin(turn, pictures[ORIGINS].item(0))
            place = order.index(CLASSES[classes][turn.label])
            target = np.eye(len(order))[place] if classes == "mesm" else place
            yield Sample(turn.name, inputs, target, None, turn.dialog, turn.actor, turn.text, origins)
