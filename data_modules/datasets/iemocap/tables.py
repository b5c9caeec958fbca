"""IEMOCAP's own text files: names, label files and transcripts; and the published counts to hold a copy against.

A release is ``Session{1..5}``, each with one file of labels and one of transcripts per dialog, and one sound file per
turn. The letter in the name of a dialog is that of the actor who wore the motion-capture markers, the letter in the
name of a turn that of the one who speaks. Of the picture, the left half shows the actor with the markers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from data_modules.budget import check_text
from data_modules.importers.clips import WORST_LOSS, listed
from data_modules.schema import DataError

SESSIONS = (1, 2, 3, 4, 5)
DIALOGS = {"impro": (14, 16, 18, 16, 16), "script": (14, 14, 14, 14, 15)}
LABELS = {
    "ang": (229, 137, 240, 327, 170),
    "hap": (135, 117, 135, 65, 143),
    "sad": (194, 197, 305, 143, 245),
    "neu": (384, 362, 320, 258, 384),
    "fru": (280, 325, 382, 481, 381),
    "exc": (143, 210, 151, 238, 299),
    "fea": (12, 9, 2, 7, 10),
    "sur": (25, 17, 28, 19, 18),
    "dis": (1, 0, 1, 0, 0),
    "oth": (1, 1, 0, 1, 0),
    "xxx": (415, 436, 572, 564, 520),
}
"""Published turns by label, in the sessions 1 to 5; ``xxx`` is a turn on which the raters had no majority."""

_NAME = re.compile(
    r"(?P<dialog>Ses0(?P<session>[1-5])(?P<marker>[FM])_(?:impro|script)[0-9]{2}(?:_[0-9])?[ab]?)"
    r"_(?P<speaker>[FM])[0-9]{3}"
)
_HEAD = re.compile(
    r"\[(?P<start>[0-9]+\.[0-9]+)\s*-\s*(?P<end>[0-9]+\.[0-9]+)\]\t(?P<turn>\S+)\t(?P<label>[a-z]{3})\t"
    r"\[[0-9]+\.[0-9]+, [0-9]+\.[0-9]+, [0-9]+\.[0-9]+\]"
)
_SPOKEN = re.compile(r"(?P<turn>Ses\S+) \[[0-9.]+-[0-9.]+\]:\s*(?P<text>.*)")
_TAG = re.compile(r"(?<!\s)\s*\[[A-Z]+\]")  # from the first blank only, or a million of them take for ever


@dataclass(frozen=True)
class Turn:
    """What one actor says before the other does.

    Attributes:
        name: Name of the turn, such as ``Ses05F_impro03_M012``.
        dialog: Name of its dialog.
        session: Number of the session, from 1 on.
        speaker: Who speaks, ``F`` or ``M``.
        marker: Who wears the markers, ``F`` or ``M``.
        start: Beginning in seconds from that of the dialog.
        end: End in seconds. Turns of a dialog overlap.
        label: One of :data:`LABELS`.
        text: What is said.
        wav: The sound file of the turn.
        avi: The video file of the dialog.
    """

    name: str
    dialog: str
    session: int
    speaker: str
    marker: str
    start: float
    end: float
    label: str
    text: str
    wav: Path
    avi: Path

    @property
    def side(self) -> Literal["left", "right"]:
        """The half of the picture that shows the speaker."""
        return "left" if self.speaker == self.marker else "right"

    @property
    def actor(self) -> str:
        """The one of ten actors who speaks, such as ``Ses05M``."""
        return f"Ses{self.session:02d}{self.speaker}"


def read_turns(source: Path, keep_tags: bool = True) -> tuple[list[Turn], list[str]]:
    """Read all labelled turns, dialog by dialog and each in the order of time.

    Args:
        source: The release: the folder above ``Session1``, or the one above that.
        keep_tags: Whether tags such as ``[LAUGHTER]`` stay in the transcripts.

    Returns:
        The turns, and what there is to say of lines that cannot be used and turns without a transcript.

    Raises:
        DataError: When this is no release, a turn is labelled twice, or one block in twenty cannot be read.
    """
    root = _root(source)
    turns: list[Turn] = []
    unread: list[str] = []
    for folder in _session_folders(root):
        for path in _text_files(folder):
            found, bad = _read_labels(path)
            spoken = _read_transcripts(path.parents[1] / "transcriptions" / path.name, keep_tags)
            turns += [replace(turn, text=spoken.get(turn.name, "")) for turn in found]
            unread += bad
    if len(unread) > WORST_LOSS * (len(turns) + len(unread)):
        raise DataError(
            f"{len(unread)} of {len(turns) + len(unread)} labels below {root} cannot be read, the first: {unread[0]}. "
            "Unpack the release again."
        )
    silent = [turn.name for turn in turns if not turn.text]
    notes = [*listed("lines of label files cannot be read", unread), *listed("turns have no transcript", silent)]
    return turns, notes


def verify(turns: Iterable[Turn]) -> str:
    """Hold a copy of the release against the published counts of dialogs and labels in each session.

    Returns:
        A note that says that all counts agree, or which do not.
    """
    turns = list(turns)
    by_label = Counter((turn.label, turn.session) for turn in turns)
    kinds = Counter(
        ("impro" if "_impro" in dialog else "script", n) for dialog, n in {(t.dialog, t.session) for t in turns}
    )
    found: dict[str, int] = {}
    published: dict[str, int] = {}
    for table, counts, unit in ((DIALOGS, kinds, " dialogs"), (LABELS, by_label, "")):
        for name, row in table.items():
            for session, count in zip(SESSIONS, row, strict=True):
                where = f"session {session} {name}{unit}"
                published[where], found[where] = count, counts[name, session]
    return differences("the release", found, published)


def differences(what: str, found: Mapping[str, int], published: Mapping[str, int], most: int = 12) -> str:
    """Return a note that says that counts are the published ones, or which are not."""
    wrong = [f"{key} {found[key]}/{count}" for key, count in published.items() if found[key] != count]
    if not wrong:
        return f"All counts of {what} are the published ones."
    more = f" and {len(wrong) - most} more" if len(wrong) > most else ""
    return (
        f"{len(wrong)} counts of {what} are not the published ones (here/published): {', '.join(wrong[:most])}{more}. "
        "Results are not comparable with published ones."
    )


def _root(source: Path) -> Path:
    below = sorted(path for path in source.iterdir() if path.is_dir()) if source.is_dir() else []
    roots = [root for root in (source, *below) if _session_folders(root)]
    if roots and (roots[0] == source or len(roots) == 1):
        return roots[0]
    if roots:
        raise DataError(f"{source} holds {len(roots)} releases, {roots[0].name} and {roots[1].name}. Give one of them.")
    raise DataError(
        f"{source} is no IEMOCAP release: Session1/dialog/EmoEvaluation was expected in it. Give the unpacked folder "
        "IEMOCAP_full_release; bring in pickles with `mmbench data import erc` or `mult`."
    )


def _session_folders(root: Path) -> list[Path]:
    folders = [root / f"Session{session}" / "dialog" / "EmoEvaluation" for session in SESSIONS]
    return [folder for folder in folders if folder.is_dir()]


def _text_files(folder: Path) -> list[Path]:
    # Files named ._* are what macOS leaves beside the real ones; sub-folders hold the labels of single raters.
    return sorted(path for path in folder.glob("*.txt") if not path.name.startswith("._"))


def _lines(path: Path) -> Iterator[str]:
    check_text(path)
    with path.open(encoding="utf-8", errors="replace") as file:
        yield from (line.strip() for line in file)


def _read_labels(path: Path) -> tuple[list[Turn], list[str]]:
    """Return the turns of a dialog in the order of time, without text, and the lines that cannot be read.

    A block begins with a line in brackets; the lines of single raters below it, and the head of the file, do not.
    """
    session = path.parents[2]
    turns: dict[str, Turn] = {}
    unread: list[str] = []
    for number, line in enumerate(_lines(path), 1):
        if not line.startswith("["):
            continue
        head = _HEAD.match(line)
        name = _NAME.fullmatch(head["turn"]) if head else None
        here = name and (name["dialog"], f"Session{name['session']}") == (path.stem, session.name)
        if not (head and name and here and head["label"] in LABELS):
            unread.append(f"{path.name} line {number}")
            continue
        start, end = float(head["start"]), float(head["end"])
        if head["turn"] in turns:
            raise DataError(f"{path}, line {number}: the turn {head['turn']} has a label already. Keep one.")
        if not start < end < math.inf:
            unread.append(f"{path.name} line {number} (it ends before it starts)")
            continue
        turns[head["turn"]] = Turn(
            head["turn"],
            path.stem,
            int(name["session"]),
            name["speaker"],
            name["marker"],
            start,
            end,
            head["label"],
            "",
            session / "sentences" / "wav" / path.stem / f"{head['turn']}.wav",
            session / "dialog" / "avi" / "DivX" / f"{path.stem}.avi",
        )
    # The file lists all turns of one speaker, then those of the other.
    return sorted(turns.values(), key=lambda turn: (turn.start, turn.end, turn.name)), unread


def _read_transcripts(path: Path, keep_tags: bool) -> dict[str, str]:
    """Return by turn what is said, the first line of a turn where there are several; nothing without a file.

    Lines of another form, such as those that begin with ``M:`` or ``F:``, belong to no labelled turn.
    """
    spoken: dict[str, str] = {}
    for line in _lines(path) if path.is_file() else ():
        if match := _SPOKEN.fullmatch(line):
            text = match["text"] if keep_tags else _TAG.sub("", match["text"]).strip()
            spoken.setdefault(match["turn"], text)
    return spoken
