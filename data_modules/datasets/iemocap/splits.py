"""The split protocols of IEMOCAP's sessions, speakers, dialogs and lists of turns.

- ``session5``: five folds; a session tests, the next one (cyclic) validates, three train. No actor is in two parts.
- ``speaker10``: ten folds; one actor tests, the other actor of the session validates, the other four sessions train. To
  validate on the next session instead would leave the partner of the tested actor nowhere to go: in training, the
  dialogs of the test part would be known; left out, no more than three sessions would train. The price is that
  validation hears the other half of the tested dialogs, so that selection is a little kind.
- ``mesm``: the lists of turns of Dai et al. 2021, drawn at random over all: speakers and dialogs are in all parts.
- ``cosmic``: the dialogs of the first four sessions train, but for the twelve that the authors of COSMIC chose for
  validation; session 5 tests.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data_modules.budget import check_text
from data_modules.datasets.iemocap.tables import SESSIONS
from data_modules.importers.clips import WORST_LOSS, listed
from data_modules.importers.common import SPLIT_NAMES
from data_modules.importers.speakers import Fold, cyclic_folds, speaker_table
from data_modules.schema import DataError
from data_modules.store import SPLITS, UNUSED, SplitTables

Table = npt.NDArray[np.int8]

COSMIC_VALID = (
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
)
"""The validation dialogs in the files of COSMIC (Ghosal et al. 2020)."""

MESM_COUNTS = {
    "train": {"ang": 757, "exc": 736, "fru": 1298, "hap": 398, "neu": 1214, "sad": 759},
    "valid": {"ang": 112, "exc": 92, "fru": 180, "hap": 62, "neu": 173, "sad": 118},
    "test": {"ang": 234, "exc": 213, "fru": 371, "hap": 135, "neu": 321, "sad": 207},
}
"""Turns by label in the lists of Dai et al. 2021."""


def session_tables(sessions: Collection[int]) -> list[Table]:
    """Return the five folds of ``session5`` from the session of each sample.

    Raises:
        DataError: When a session is missing, because the folds would not be those of the protocol.
    """
    missing = sorted(set(SESSIONS) - set(sessions))
    if missing:
        raise DataError(
            f"The sessions {missing} have no usable turn, but the split protocols need all five. Bring the whole "
            "release."
        )
    return [speaker_table(fold, sessions) for fold in cyclic_folds(SESSIONS, [(session,) for session in SESSIONS])]


def speaker_tables(actors: Sequence[str]) -> list[Table]:
    """Return the ten folds of ``speaker10``, in the order of the names, from the actor of each sample.

    Raises:
        DataError: When there are not ten.
    """
    names = sorted(set(actors))
    if len(names) != 2 * len(SESSIONS):
        raise DataError(
            f"There are turns of {len(names)} actors ({', '.join(names)}), but the split protocols need ten."
        )
    numbers = [names.index(actor) for actor in actors]
    folds = []
    for test in range(len(names)):
        partner = test ^ 1  # the names sort by session, so that the two of a session are neighbours
        folds.append(Fold(tuple(n for n in range(len(names)) if n not in (test, partner)), (partner,), (test,)))
    return [speaker_table(fold, numbers) for fold in folds]


def read_lists(folder: Path) -> dict[str, str]:
    """Return the split of each turn from lists of turns, one name per line.

    Args:
        folder: Holds ``train_split.txt``, ``valid_split.txt`` and ``test_split.txt``, or the same without ``_split``.

    Raises:
        DataError: When a list is missing or empty, or a turn is listed twice.
    """
    found: dict[str, str] = {}
    lists: dict[str, Path] = {}
    for path in sorted(folder.glob("*.txt")):
        split = SPLIT_NAMES.get(path.stem.removesuffix("_split"))
        if split is None or path.name.startswith("._"):
            continue
        if split in lists:
            raise DataError(f"{folder} has two lists of the split {split}: {lists[split].name} and {path.name}.")
        lists[split] = path
        check_text(path)
        for turn in path.read_text(encoding="utf-8-sig", errors="replace").split():
            if turn in found:
                raise DataError(f"{path} lists the turn {turn}, which is in the split {found[turn]} already.")
            found[turn] = split
    missing = [split for split in SPLITS if split not in found.values()]
    if missing:
        raise DataError(
            f"{folder} has no list of turns for {', '.join(missing)}: train_split.txt, valid_split.txt and "
            "test_split.txt were expected. They are in the authors' repository."
        )
    return found


def list_table(lists: Mapping[str, str], turns: Sequence[str]) -> Table:
    """Return the split of each turn in the codes of a store; turns in no list are unused."""
    codes = {turn: SPLITS.index(split) for turn, split in lists.items()}
    return np.asarray([codes.get(turn, UNUSED) for turn in turns], np.int8)


def unlisted(lists: Mapping[str, str], turns: Collection[str]) -> list[str]:
    """Return what there is to say of listed turns that are not there.

    Raises:
        DataError: When more than one in twenty is missing.
    """
    lost = sorted(set(lists) - set(turns))
    if len(lost) > WORST_LOSS * len(lists):
        raise DataError(
            f"{len(lost)} of the {len(lists)} listed turns are not in the data, beginning with {', '.join(lost[:3])}. "
            "Bring the whole release, and the lists of the authors."
        )
    return listed("listed turns are not in the data", lost)


def cosmic_tables(dialogs: Sequence[str], trains: Collection[str], tests: Collection[str]) -> SplitTables:
    """Return the fold of ``cosmic`` from the dialog of each sample; nothing when its validation dialogs are not there.

    Args:
        dialogs: The dialog of each sample.
        trains: The dialogs for training and validation.
        tests: The dialogs for the test.
    """
    if not set(COSMIC_VALID) <= set(trains):
        return {}
    return {"cosmic": [dialog_table(dialogs, set(trains) - set(COSMIC_VALID), COSMIC_VALID, tests)]}


def dialog_table(
    dialogs: Sequence[str], train: Collection[str], valid: Collection[str], test: Collection[str]
) -> Table:
    """Return the split of each sample in the codes of a store, from its dialog."""
    codes = {dialog: code for code, part in enumerate((train, valid, test)) for dialog in part}
    return np.asarray([codes.get(dialog, UNUSED) for dialog in dialogs], np.int8)
