"""The labelled segments of computational sequences, and which part of the standard folds each is in.

Labels come from a ``.csd`` (one row per segment, with one column for sentiment or seven for sentiment and six emotions)
or from tables with a header and these columns (``.tsv`` or ``.csv``, quoted where needed)::

    vid (video, video_id)     name of the video
    cid (clip, clip_id)       name of the segment within it
    start, stop (end)         seconds
    label (sentiment)         sentiment from -3 to 3
    happy, sad, anger, surprise, disgust, fear    from 0 to 3        (for the target emotions only)
    text                      what is said                           (optional)
    split (part, mode)        train, valid (dev, val), test          (optional)

A folder of tables named train, valid (dev, val) and test, as CMU-MOSI and CMU-MOSEI circulate, gives the parts as well.
"""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from data_modules.budget import check_text
from data_modules.importers.common import SPLIT_NAMES, Array
from data_modules.importers.csd_files import CsdFile
from data_modules.importers.misa import EMOTIONS
from data_modules.importers.values import LARGEST, labels, text
from data_modules.schema import DataError
from data_modules.store import SPLITS

_NAMES = {
    "vid": ("vid", "video", "video_id"),
    "cid": ("cid", "clip", "clip_id"),
    "start": ("start",),
    "stop": ("stop", "end"),
    "label": ("label", "sentiment"),
    **{emotion: (emotion,) for emotion in EMOTIONS},
    "text": ("text",),
    "split": ("split", "part", "mode"),
}
_NEEDED = ("vid", "cid", "start", "stop", "label")
TABLES = (".tsv", ".csv")
LONGEST_HEADER = 1 << 14
LARGEST_FOLDS = 1 << 22
"""Bytes of the SDK's folds; those of CMU-MOSEI are 60,000."""

# The standard folds of CMU-MOSI: 52, 10 and 31 videos with 1,284, 229 and 686 segments.
_MOSI = {
    "train": """
        03bSnISJMiM 0h-zjBukYpk 1DmNV9C1hbY 1iG0909rllw 2WGyTLYerpo 2iD-tVS8NPw 5W7Z1C_fDaE 6Egk_28TtTM 6_0THN4chvY
        73jzhE8R1TQ 7JsX8y1ysxY 8OtFthrtaJM 8d-gEyoeBzc 8qrpnFRGt2A 9J25DZhivz8 9T9Hf74oK10 9c67fiY0wGQ 9qR7uwkblbs
        Af8D0E4ZXaw BI97DNYfe5I BXuRRbG0Ugk Bfr499ggo-0 BioHAh1qJAQ BvYR0L6f2Ig Ci-AH39fi3Y Clx4VXItLTE Dg_0XKD0Mf4
        G-xst2euQUc G6GlGvlkxAQ GWuJjcEuzt8 HEsqda8_d0Q I5y0__X72p0 Iu2PFX3z_1s IumbAb8q2dM Jkswaaud0hk LSi-o-IrDMs
        MLal-t_vJPM Njd1F0vZSm4 Nzq88NnDkEk OQvJTdtJ2H4 OtBXNcAL_lE Oz06ZWiO20M POKffnXeBds PZ-lDQFboO8 QN9ZIUWUXsY
        Qr1Ca94K55A Sqr0AcuoNnk TvyZBvOMOTc VCslbP0mgZI VbQk4H8hgr0 Vj1wYRQjB-o W8NXH0Djyww
    """,
    "valid": """
        WKA5OygbEKI X3j2zQgwYgE ZAIRrfG22O0 ZUXBRvtny7o _dI--eQ6qVU aiEXnCPZubE atnd_PF-Lbs bOL9jKpeJRs bvLlb-M3UXU
        c5xsKMxpXnc
    """,
    "test": """
        c7UH_rxdZv4 cM3Yna7AavY cW1FSBF59ik cXypl4FnoZo d3_k5Xpfmik d6hH302o4v8 dq3Nf_lMPnE etzxEpPuc6I f9O3YtZ2VfI
        f_pcplsH_V0 fvVhgmXxadc iiK8YX8oH1E jUzDDGyPkXU k5Y_838nuGo lXPQBPVc5Cw nbWiPyCm4g0 nzpVDcQ0ywM ob23OKe5a9Q
        pLTX3ipuDJI phBUpBr1hSo rnaNMUZpvvg tIrG4oNLFzE tStelxIAHjw tmZoasNr4rU v0zCBqDeKcE vvZ4IcEtiZc vyB00TXsimI
        wMbj6ajWbic yDtzw_Y-7RU yvsjCA6Y5Fc zhpQhgha_KU
    """,
}


@dataclass(frozen=True)
class Segment:
    """A labelled piece of a video.

    Attributes:
        id: ``video[clip]``; from a ``.csd`` the clip is the number of the row, from 0.
        video: Name of the video.
        start: Seconds.
        stop: Seconds.
        labels: Sentiment, or sentiment and the six emotions.
        part: Train, valid or test, where the labels say so.
        transcript: What is said, where the labels say so.
    """

    id: str
    video: str
    start: float
    stop: float
    labels: tuple[float, ...]
    part: str | None = None
    transcript: str = ""


def segments_of(file: CsdFile) -> tuple[list[Segment], dict[str, str]]:
    """Return the segments of a sequence of labels by video and start, and by video why others cannot be used.

    Raises:
        DataError: When its rows are no labels.
    """
    if file.dim not in (1, 1 + len(EMOTIONS)):
        raise DataError(
            f"{file.path} has {file.dim} columns; labels have one (sentiment) or {1 + len(EMOTIONS)} (sentiment, "
            f"{', '.join(EMOTIONS)}). Name the file of labels with the option `labels`."
        )
    found, broken = [], dict(file.broken)
    for video in sorted(file.videos):
        try:
            entry = file.entry(video)
            values = labels(f"{file.path}: {video!r}", entry.features)
        except DataError as error:
            broken[video] = str(error)
            continue
        for name, (start, stop), row in zip(entry.names, entry.intervals, values, strict=True):
            found.append(Segment(name, video, float(start), float(stop), tuple(map(float, row))))
    return found, broken


def segments_in(path: Path) -> list[Segment]:
    """Return the segments of a table, or of a folder with a table for each part, by video and start.

    Raises:
        DataError: When there is no table, a column is missing, or a cell is no number.
    """
    if path.is_file():
        found = _segments(path, None)
    elif not path.is_dir():
        raise DataError(f"There are no labels at {path}.")
    else:
        tables = _by_part(path, TABLES)
        if set(tables) != set(SPLITS):
            raise DataError(
                f"{path} has tables for {', '.join(tables) or 'no part'}; train, valid (dev, val) and test as .tsv or "
                ".csv were expected. Give one table with a column `split`, or the labels as a .csd."
            )
        found = [segment for part in SPLITS for segment in _segments(tables[part], part)]
    return sorted(found, key=lambda segment: (segment.video, segment.start, segment.id))


def standard_folds(path: Path | None, dataset: str) -> dict[str, str]:
    """Return the part of each video.

    Args:
        path: The SDK's ``*_std_folds.py`` (read, not run), or a folder with train, valid (dev, val) and test as
            ``.txt`` (a name per line) or as a table; None for the folds that are built in.
        dataset: Key of the data set.

    Raises:
        DataError: When there are no folds, or a video is in two parts.
    """
    if path is None:
        if dataset != "mosi":
            raise DataError(
                f"Which videos of {dataset} train, validate and test? Give the option `folds`: the file "
                "cmu_mosei_std_folds.py of the CMU-MultimodalSDK, or a folder with train.txt, valid.txt and test.txt."
            )
        videos = {part: names.split() for part, names in _MOSI.items()}
    elif path.is_file():
        videos = _sdk_folds(path)
    elif path.is_dir():
        files = _by_part(path, (*TABLES, ".txt"))
        videos = {
            part: _lines(file) if file.suffix == ".txt" else [*_table(file, ("vid",))["vid"]]
            for part, file in files.items()
        }
    else:
        raise DataError(f"There are no folds at {path}.")
    missing = [part for part in SPLITS if not videos.get(part)]
    if missing:
        raise DataError(f"{path} has no videos for {', '.join(missing)}.")
    parts: dict[str, str] = {}
    for part in SPLITS:
        for video in videos[part]:
            if parts.setdefault(video, part) != part:
                raise DataError(f"{path}: the video {video!r} is in {parts[video]} and in {part}.")
    return parts


def _lines(path: Path) -> list[str]:
    try:
        check_text(path)
        return path.read_text("utf-8-sig").split()
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a list of videos ({error}).") from error


def _by_part(folder: Path, endings: tuple[str, ...]) -> dict[str, Path]:
    """Return the files of a folder that are named after a part; the first ending has the first word."""
    found: dict[str, Path] = {}
    for ending in endings:
        for file in sorted(folder.glob(f"*{ending}")):
            if file.stem.lower() in SPLIT_NAMES:
                found.setdefault(SPLIT_NAMES[file.stem.lower()], file)
    return {part: found[part] for part in SPLITS if part in found}


def _table(path: Path, needed: tuple[str, ...]) -> pd.DataFrame:
    """Return a table of strings under our names of the columns."""
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        check_text(path)
        _check_header(path)
        with warnings.catch_warnings():
            # A line with more cells than the header: pandas would drop the last ones, or take the first as an index.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # Names of videos may be numbers, and what is said may be "null": every cell is a string.
            table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, index_col=False)
    except DataError:
        raise
    except (OSError, ValueError, pd.errors.ParserWarning) as error:  # pandas' other errors are ValueErrors
        raise DataError(f"{path} cannot be read as a table ({error}).") from error
    own = {name: next((other for other in others if other in table), "") for name, others in _NAMES.items()}
    missing = [name for name in needed if not own[name]]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}; it has: {', '.join(map(str, table.columns))}.")
    return table[[other for other in own.values() if other]].rename(columns={v: k for k, v in own.items() if v})


def _check_header(path: Path) -> None:
    """Refuse a header that has no end: pandas makes a column of each name, and lets none have two."""
    with path.open("rb") as file:
        if len(file.readline(LONGEST_HEADER)) == LONGEST_HEADER:
            raise DataError(f"{path} has a header of more than {LONGEST_HEADER} bytes: it is no table of labels.")


def _segments(path: Path, part: str | None) -> list[Segment]:
    table = _table(path, _NEEDED)
    emotions = [emotion for emotion in EMOTIONS if emotion in table]
    columns = ["start", "stop", "label", *(emotions if len(emotions) == len(EMOTIONS) else [])]
    numbers = table[columns].apply(pd.to_numeric, errors="coerce").astype(float)
    bad = np.argwhere(~(numbers.abs() <= LARGEST).to_numpy())
    if len(bad):
        row, column = bad[0]
        cell = table[columns].iloc[row, column]
        raise DataError(f"{path}, line {row + 2}, column {columns[column]}: {cell!r:.60} is no number. Mend it.")
    texts = table["text"] if "text" in table else [""] * len(table)
    own = [SPLIT_NAMES.get(name.lower(), name) for name in table["split"]] if "split" in table else [part] * len(table)
    foreign = sorted({str(name) for name in own} - {*SPLITS, "None"})
    if foreign:
        raise DataError(f"{path} has the parts {', '.join(foreign)}; train, valid (dev, val) and test were expected.")
    rows: Array = numbers.to_numpy(float)
    return [
        Segment(f"{video}[{clip}]", video, start, stop, tuple(values), where, said)
        for video, clip, (start, stop, *values), where, said in zip(
            table["vid"], table["cid"], rows.tolist(), own, texts, strict=True
        )
    ]


def _sdk_folds(path: Path) -> dict[str, list[str]]:
    """Read the lists ``standard_{train,valid,test}_fold`` of a Python file as literals."""
    try:
        if path.stat().st_size > LARGEST_FOLDS:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        tree = ast.parse(path.read_text("utf-8"))
        lists = {
            target.id: ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        return {part: [text(f"{path}: a video", one) for one in lists[f"standard_{part}_fold"]] for part in SPLITS}
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise DataError(
            f"{path} has no standard folds ({error!s:.200}): lists named standard_train_fold, standard_valid_fold and "
            "standard_test_fold were expected, as in the CMU-MultimodalSDK."
        ) from error
