"""IEMOCAP's files in their exact layout: label files and transcripts of a release, and conversation pickles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.data_modules.media_files import make_mp4, make_wav

COUNTS = {
    "neu": (384, 362, 320, 258, 384),
    "hap": (135, 117, 135, 65, 143),
    "exc": (143, 210, 151, 238, 299),
    "sad": (194, 197, 305, 143, 245),
    "ang": (229, 137, 240, 327, 170),
    "fru": (280, 325, 382, 481, 381),
    "xxx": (415, 436, 572, 564, 520),
    "sur": (25, 17, 28, 19, 18),
    "fea": (12, 9, 2, 7, 10),
    "dis": (1, 0, 1, 0, 0),
    "oth": (1, 1, 0, 1, 0),
}
"""Turns of the release by label and session, counted from a public list of all turns."""

ERC_COUNTS = {
    "train": ((451, 771, 1221, 831, 593, 1296), (8, 94)),
    "valid": ((53, 68, 103, 102, 149, 172), (18, 110)),
    "test": ((144, 245, 384, 170, 299, 381), (23, 91)),
}
"""Utterances of the conversation pickles by part, of happy, sad, neutral, angry, excited and frustrated, and the
lengths of the shortest and the longest dialogue."""

COSMIC_VALID = [
    "Ses01M_impro01",
    "Ses01M_script03_1",
    "Ses02F_impro02",
    "Ses02F_impro07",
    "Ses02M_script01_2",
    "Ses03F_impro01",
    "Ses03M_impro02",
    "Ses03M_impro08a",
    "Ses03M_script02_2",
    "Ses03M_script03_2",
    "Ses04F_impro07",
    "Ses04F_script02_1",
]

PUBLISHED_HEAD = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]"


def dialogs(session: int) -> list[str]:
    """Return the dialogs of a session, with the irregular names of the sessions 3 and 5."""
    scripts = ["01_1", "01_2", "01_3", "02_1", "02_2", "03_1", "03_2"]
    names = []
    for actor in "FM":
        impros = [f"{number:02d}" for number in range(1, 8 if session == 1 else 9)]
        if (session, actor) == (3, "M"):
            impros = ["01", "02", "03", "04", "05a", "05b", "06", "07", "08a", "08b"]
        own = [*scripts, "01_1b"] if (session, actor) == (5, "M") else scripts
        names += [
            f"Ses{session:02d}{actor}_{kind}{one}"
            for kind, some in (("impro", impros), ("script", own))
            for one in some
        ]
    return names


@dataclass(frozen=True)
class Said:
    """One turn as the text files tell it."""

    name: str
    start: float
    end: float
    label: str
    text: str = "Well, that's it."
    vad: tuple[float, float, float] = (2.5, 2.5, 2.5)


def block(turn: Said) -> str:
    """Return the block of a turn in a label file: its head, categorical votes and attributes of the raters."""
    vad = ", ".join(f"{value:.4f}" for value in turn.vad)
    return "\n".join(
        [
            f"[{turn.start:.4f} - {turn.end:.4f}]\t{turn.name}\t{turn.label}\t[{vad}]",
            "C-E2:\tNeutral;\t()",
            "C-E3:\tFrustration; Anger;\t()",
            f"C-{turn.name[-4]}1:\tNeutral state;\t()",
            "A-E3:\tval 2; act 4; dom  4;\t()",
            "A-E4:\tval 3; act 1; dom  2;\t([tired] - at first)",
            "",
        ]
    )


def line(turn: Said) -> str:
    """Return the line of a turn in a file of transcripts."""
    return f"{turn.name} [{turn.start:08.4f}-{turn.end:08.4f}]: {turn.text}"


def write_dialog(root: Path, dialog: str, turns: Iterable[Said], more: Sequence[str] = ()) -> None:
    """Write labels and transcripts of a dialog as the release does: all turns of one speaker, then of the other.

    Args:
        root: The release.
        dialog: Its name.
        turns: Its turns.
        more: Further lines of the transcripts, before those of the turns.
    """
    folder = root / f"Session{dialog[4]}" / "dialog"
    turns = sorted(turns, key=lambda turn: (turn.name[-4], turn.start))
    for below, text in (
        ("EmoEvaluation", "\n".join([PUBLISHED_HEAD, "", *map(block, turns)])),
        ("transcriptions", "\n".join([*more, *map(line, sorted(turns, key=lambda turn: turn.start)), ""])),
    ):
        (folder / below).mkdir(parents=True, exist_ok=True)
        (folder / below / f"{dialog}.txt").write_text(text)


def published_turns(session: int) -> dict[str, list[Said]]:
    """Return turns of all dialogs of a session with the published count of every label; neighbours overlap."""
    labels = [label for label, counts in COUNTS.items() for _ in range(counts[session - 1])]
    rng = np.random.default_rng(session)
    names = dialogs(session)
    made: dict[str, list[Said]] = {name: [] for name in names}
    spoken = dict.fromkeys([(name, actor) for name in names for actor in "FM"], 0)
    for place, label in enumerate(rng.permutation(labels)):
        dialog, actor = names[place % len(names)], "FM"[int(rng.integers(2))]
        start = 4.0 * len(made[dialog]) + 6.2
        number = spoken[dialog, actor]
        spoken[dialog, actor] += 1
        made[dialog].append(Said(f"{dialog}_{actor}{number:03d}", start, start + 4.46, str(label)))
    return made


def write_published(root: Path) -> Path:
    """Write labels and transcripts of all 151 dialogs and 10,039 turns; no media."""
    for session in range(1, 6):
        for dialog, turns in published_turns(session).items():
            write_dialog(root, dialog, turns)
    return root


def few_turns(session: int) -> dict[str, list[Said]]:
    """Return two dialogs of a session, one per marker side, in which both actors say something of every class.

    Turns last 0.8 s and begin every 0.5 s, from 0.1 s on; their labels are in the order of time.
    """
    made = {}
    for dialog, first in ((f"Ses{session:02d}F_impro01", "F"), (f"Ses{session:02d}M_script01_1b", "M")):
        other = "FM".replace(first, "")
        labels = "ang hap exc neu sad xxx fru ang hap exc neu sad fru".split()  # noqa: SIM905 - it reads as a row
        spoken = {"F": 0, "M": 0}
        made[dialog] = []
        for place, label in enumerate(labels):
            actor = first if place < 7 else other
            start = 0.1 + 0.5 * place
            name = f"{dialog}_{actor}{spoken[actor]:03d}"
            spoken[actor] += 1
            made[dialog].append(Said(name, start, start + 0.8, label, f"Turn {place}: what I said. [LAUGHTER]"))
    return made


FEW_SECONDS = 7.0
HALF, HEIGHT = 80, 60


def halves(fps: float = 30.0, seconds: float = FEW_SECONDS) -> np.ndarray:
    """Return ``(T, 60, 160, 3)`` pictures of two actors: red rises with time, green is 200 left and 60 right, and blue
    rises from left to right in each half, by 2 per pixel."""
    frames = round(fps * seconds)
    made = np.zeros((frames, HEIGHT, 2 * HALF, 3), np.uint8)
    made[..., 0] = np.linspace(20, 220, frames, endpoint=False)[:, None, None]
    made[:, :, :HALF, 1], made[:, :, HALF:, 1] = 200, 60
    made[..., 2] = np.tile(20 + 2 * np.arange(HALF), 2)
    return made


def write_sound(root: Path, turns: Iterable[Said]) -> None:
    """Write one sound file per turn, mono at 16 kHz, each of its own pitch."""
    for place, turn in enumerate(turns):
        path = root / f"Session{turn.name[4]}" / "sentences" / "wav" / turn.name.rpartition("_")[0] / f"{turn.name}.wav"
        make_wav(path, turn.end - turn.start, hertz=200.0 + 10 * place)


def write_few(root: Path, sight: bool = False) -> Path:
    """Write a release of two dialogs per session with sound, and video on demand."""
    for session in range(1, 6):
        for dialog, turns in few_turns(session).items():
            write_dialog(root, dialog, turns)
            write_sound(root, turns)
            if sight:
                path = root / f"Session{session}" / "dialog" / "avi" / "DivX" / f"{dialog}.avi"
                make_mp4(path, fps=30.0, sound=False, frames=halves())
    return root


# Conversation pickles.


@dataclass(frozen=True)
class Conversation:
    """One dialogue of a pickle."""

    name: str
    labels: list[int]
    speakers: list[str]

    def vectors(self, width: int, shift: float = 0.0) -> list[np.ndarray]:
        """Return vectors that tell the place and the label of each utterance."""
        rows = np.zeros((len(self.labels), width), np.float32)
        rows[:, 0], rows[:, 1] = np.arange(len(self.labels)) + shift, self.labels
        return list(rows)

    @property
    def sentences(self) -> list[str]:
        return [f"{self.name} says {place}" for place in range(len(self.labels))]


Parts = dict[str, list[Conversation]]


def published_conversations() -> Parts:
    """Return the dialogues with the published counts of dialogues, utterances, labels and extreme lengths."""
    names = [name for session in range(1, 6) for name in dialogs(session)]
    parts = {
        "train": [name for name in names if name < "Ses05" and name not in COSMIC_VALID],
        "valid": list(COSMIC_VALID),
        "test": [name for name in names if name > "Ses05"],
    }
    made: Parts = {}
    for split, (counts, (shortest, longest)) in ERC_COUNTS.items():
        rng = np.random.default_rng(len(split))
        every = rng.permutation(np.repeat(np.arange(len(counts)), counts))
        rest = len(every) - shortest - longest
        between = len(parts[split]) - 2
        sizes = [shortest, longest, *(rest // between + (place < rest % between) for place in range(between))]
        cuts = np.cumsum(sizes)[:-1]
        made[split] = [
            Conversation(name, own.tolist(), [str(one) for one in rng.choice(["F", "M"], len(own))])
            for name, own in zip(parts[split], np.split(every, cuts), strict=True)
        ]
    return made


def few_conversations() -> Parts:
    """Return eleven short dialogues to train on and two to test on, with names that no validation list has."""
    labels = [[0, 4, 1, 2], [5, 3, 3], [2, 0, 1, 5, 4]]
    every = [
        Conversation(name, labels[place % 3], ["F", "M", "M", "F", "M"][: len(labels[place % 3])])
        for place, name in enumerate([f"Ses02F_impro{number:02d}x" for number in range(11)] + ["Ses05F_a", "Ses05M_b"])
    ]
    return {"train": every[:11], "valid": [], "test": every[11:]}


def _columns(parts: Parts, width: dict[str, int]) -> dict[str, dict[str, Any]]:
    every = [one for part in parts.values() for one in part]
    return {
        "ids": {one.name: [f"{one.name}_{who}{place:03d}" for place, who in enumerate(one.speakers)] for one in every},
        "speakers": {one.name: one.speakers for one in every},
        "labels": {one.name: one.labels for one in every},
        "sentences": {one.name: one.sentences for one in every},
        **{name: {one.name: one.vectors(size) for one in every} for name, size in width.items()},
    }


def layers(parts: Parts, width: int) -> list[dict[str, Any]]:
    """Return four columns whose mean is the vectors of :meth:`Conversation.vectors`."""
    every = [one for part in parts.values() for one in part]
    return [{one.name: one.vectors(width, shift) for one in every} for shift in (-3.0, -1.0, 1.0, 3.0)]


def tuple9(parts: Parts, text: int = 2, audio: int = 2, vision: int = 2) -> tuple[Any, ...]:
    """DialogueRNN, MMGCN, COGMEN and others; no validation list."""
    own = _columns(parts, {"text": text, "audio": audio, "vision": vision})
    train, test = ([one.name for one in some] for some in ([*parts["train"], *parts["valid"]], parts["test"]))
    keys = ("ids", "speakers", "labels", "text", "audio", "vision", "sentences")
    return (*(own[key] for key in keys), train, test)


def tuple12(parts: Parts) -> tuple[Any, ...]:
    """SDT: four layers of text in place of one column."""
    columns = tuple9(parts)
    return (*columns[:3], *layers(parts, 2), *columns[4:])


def list10(parts: Parts) -> list[Any]:
    """COSMIC: text alone, and a validation list, which comes last."""
    own = _columns(parts, {})
    lists = [[one.name for one in parts[split]] for split in ("train", "test", "valid")]
    return [own["speakers"], own["labels"], *layers(parts, 2), own["sentences"], *lists]


def list6(parts: Parts) -> list[Any]:
    """COSMIC before its features."""
    columns = list10(parts)
    return [*columns[:2], *columns[6:]]


def corect(parts: Parts) -> dict[str, Any]:
    """CORECT's own file: lists of dicts, the text as one array."""
    return {
        name: [
            {
                "vid": one.name,
                "speakers": one.speakers,
                "labels": one.labels,
                "audio": one.vectors(2),
                "visual": one.vectors(2),
                "text": np.stack(one.vectors(2)),
                "sentence": one.sentences,
            }
            for one in parts[split]
        ]
        for name, split in (("train", "train"), ("dev", "valid"), ("test", "test"))
    }
