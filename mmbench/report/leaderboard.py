"""The leaderboard: from the records to the files that people read."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from data_modules.files import atomic_path
from mmbench.methods.config import ConfigError
from mmbench.report.boards import Board, no_evidence
from mmbench.report.caveats import misleading
from mmbench.report.csvfile import COLUMNS, METRIC_COLUMNS, csv_text
from mmbench.report.evidence import evidence_of
from mmbench.report.grouping import Code, CostsByRow, boards
from mmbench.report.guide import GUIDE, guide
from mmbench.report.judgement import Evidence
from mmbench.report.markdown import NONE, escape, printable, table
from mmbench.report.markdown import code as span
from mmbench.report.page import page
from mmbench.report.rows import Origin
from mmbench.report.scale import section
from mmbench.report.standing import some
from mmbench.report.sweep import Sweep, sweep_page, sweeps
from mmbench.report.turns import turn
from mmbench.runner.costs import Costs, MethodCost
from mmbench.runner.record import Record
from mmbench.runner.records import Records

MARKER = "<!-- Made by `mmbench` from the records. Changes by hand are lost. -->"
"""First line of every Markdown file that is made here."""

CSV_MARKER = "track,identity,origin,"
"""How the first line of every CSV file that is made here begins."""

LONGEST = 150
"""Letters of a file's name; a track with a longer one gets a hash."""

COSTS = "costs"
"""Folder of the costs, beside the records."""

Load = Callable[[Records], tuple[list[Record], list[str]]]
"""Readable records of a folder, and a line about each that is not."""


@dataclass(frozen=True)
class Report:
    """What :func:`build` did.

    Attributes:
        files: The files that were written.
        problems: One line per record that could not be read or does not count.
        published: The published records that count.
        own: One's own.
    """

    files: tuple[Path, ...]
    problems: tuple[str, ...]
    published: tuple[Record, ...] = ()
    own: tuple[Record, ...] = ()


def build(
    out: Path,
    own: Records | None,
    published: Records | None,
    code: Code | None = None,
    load: Load = Records.load,
) -> Report:
    """Make the tables of a folder and remove the files of tracks that are gone.

    Args:
        out: Folder of the tables.
        own: Records of the person who runs the command. With them there are only the tracks that they are of, with what
            was published merged in; without them all that is published.
        published: Published records; None where there are none, as in an installed package.
        code: Hash of the present code of a method on a data set.
        load: How records are read.

    Raises:
        ConfigError: When a table would replace a file that was not made here.
        OSError: When the folder cannot be written.
    """
    sources: dict[Origin, Records | None] = {"own": own, "published": published}
    links: dict[Origin, str] = {
        origin: Path(os.path.relpath(source.root, out)).as_posix() for origin, source in sources.items() if source
    }
    with turn(out):
        found: dict[Origin, list[Record]] = {"published": [], "own": []}
        problems: list[str] = []
        portable: list[str] = []
        costs: dict[tuple[str, str, str], MethodCost] = {}
        for origin, source in reversed(sources.items()):
            if source is None:
                continue
            found_costs, lines = Costs(source.root.parent / COSTS).load()
            costs |= found_costs  # one's own, of one's own machine, before published ones
            problems += lines
            portable += [line.replace(str(source.root.parent), links[origin].rpartition("/")[0]) for line in lines]
        for origin, source in sources.items():
            if source is None:
                continue
            if own and origin == "published":
                if not found["own"]:
                    continue
                source = Records(source.root, {record.track for record in found["own"]})
            found[origin], lines = load(source)
            problems += lines
            # Tables that are committed must not depend on where the repository lies.
            portable += [line.replace(str(source.root), links[origin]) for line in lines]
        mine = None if own is None else found["own"]
        scale = section(out)
        evidence = evidence_of([source for source in sources.values() if source])
        try:
            texts = render(found["published"], mine, portable, code, links, costs, evidence, scale)
        except Exception:  # a record that is as it should be and breaks a table is no reason to have none
            good, mine, more = _sound(found["published"], mine, code, links, evidence)
            problems += more
            texts = render(good, mine, [*portable, *more], code, links, costs, evidence, scale)
        for name in texts:
            if os.path.lexists(out / name) and not is_ours(out / name):
                raise ConfigError(
                    f"{out / name} was not made by `mmbench` and would be replaced. Rename it, or give another folder."
                )
        files = []
        for name, text in texts.items():
            with atomic_path(out / name) as part:
                part.write_text(text, encoding="utf-8", newline="")
            files.append(out / name)
        for path in sorted(out.iterdir()):
            if path.name not in texts and is_ours(path):
                path.unlink()
    return Report(tuple(files), tuple(problems), tuple(found["published"]), tuple(found["own"]))


def render(
    published: Iterable[Record],
    own: Iterable[Record] | None = None,
    problems: Sequence[str] = (),
    code: Code | None = None,
    links: Mapping[Origin, str] | None = None,
    costs: CostsByRow | None = None,
    evidence: Evidence = no_evidence,
    scale: Sequence[str] = (),
) -> dict[str, str]:
    """Return the text of every file by name; it depends on nothing but the arguments, and not on the records' order.

    Args:
        published: Published records.
        own: One's own records; with them there are only their tracks.
        problems: Lines about records that cannot be read.
        code: Hash of the present code of a method on a data set.
        links: Where the records lie, from the folder of the tables.
        costs: What rows cost.
        evidence: Test predictions by record.
        scale: Lines on what more devices and workers buy.
    """
    own = None if own is None else list(own)
    wanted = None if own is None else {record.track for record in own}
    by_track: dict[str, list[Board]] = {}
    theirs = (record for record in published if wanted is None or record.track in wanted)
    for board in boards(theirs, own or (), code, costs, evidence):
        by_track.setdefault(board.track, []).append(board)
    everywhere = [board for group in by_track.values() for board in group]
    found = sweeps(everywhere)
    names = file_names([*by_track, *(sweep.name for sweep in found)])
    links = links or {"published": "records"}
    texts = {"README.md": _text(_index(by_track, names, found, problems, links, own is not None, scale))}
    if by_track:
        texts[f"{GUIDE}.md"] = _text(guide())
    for sweep in found:
        texts[f"{names[sweep.name]}.md"] = _text(sweep_page(sweep, names))
    for track, group in by_track.items():
        texts[f"{names[track]}.md"] = _text(page(group, everywhere, names, links))
        texts[f"{names[track]}.csv"] = csv_text(group)
    return texts


def file_names(tracks: Sequence[str]) -> dict[str, str]:
    """Return the file name of each track without its ending; tracks that would share one get a hash."""
    plain = {track: track.replace("/", "-")[:LONGEST] for track in tracks}
    often = Counter(name.lower() for name in plain.values())
    hashes = {track: hashlib.sha256(track.encode()).hexdigest()[:6] for track in tracks}
    return {
        track: f"{name}-{hashes[track]}" if often[name.lower()] > 1 or len(track) > LONGEST else name
        for track, name in plain.items()
    }


def _index(
    by_track: Mapping[str, Sequence[Board]],
    names: Mapping[str, str],
    found: Sequence[Sweep],
    problems: Sequence[str],
    links: Mapping[Origin, str],
    mine: bool,
    scale: Sequence[str],
) -> list[str]:
    places: Sequence[Origin] = ("own", "published") if mine else ("published",)
    where = " and ".join(f"[{escape(links[origin])}]({quote(links[origin])})" for origin in places if origin in links)
    lines = ["# Your runs" if mine else "# Leaderboard", ""]
    if mine:
        lines += ["The tracks of your own runs; your rows, marked *(yours)*, stand among those that are published.", ""]
        if not any(not row.own for group in by_track.values() for board in group for row in board.rows):
            lines += ["There are no published rows to compare them with.", ""]
    lines += [
        f"A track is a data set, a feature set and a split protocol; numbers of two tracks do not compare. [{GUIDE}]"
        f"({GUIDE}.md) says what each number means. Every trial "
        f"is a file under {where or 'the records'}, and everything here is made from them by `mmbench "
        f"{'report' if mine else 'publish'}`: the same records and the same code give the same bytes. How the numbers "
        "of a track were made stands above its table.",
        "",
    ]
    rows = [_index_row(board, names[board.track]) for group in by_track.values() for board in group]
    heads = ["track", "data", "methods", "rows", "ranked", "trials", "not completed", "may be the best"]
    lines += table(heads, rows, left=2) if rows else ["There are no records yet."]
    if found:
        lines += ["", "Curves over rates of missing steps:", ""]
        lines += [f"- [{span(sweep.track)}]({quote(names[sweep.name])}.md)" for sweep in found]
    if problems:
        lines += ["", "## Problems", "", "These files are not part of any table:", ""]
        lines += [f"- {escape(problem)}" for problem in problems]
    lines += [*scale, "", "## Columns of the CSV files", ""]
    lines += [f"- `{name}`: {text}" for name, text in COLUMNS.items()]
    lines += [f"- `<metric>:{name}`: {text}" for name, text in METRIC_COLUMNS.items()]
    return lines


def _index_row(board: Board, name: str) -> list[str]:
    best = [row for row in board.judgement.compared if board.judgement.best(row) and not misleading(board)]
    return [
        f"[{span(board.track)}]({quote(name)}.md)",
        span(board.identity[:12]),
        str(len({row.method for row in board.rows})),
        str(len(board.rows)),
        str(len(board.ranked)),
        str(len(board.records)),
        str(sum(not record.completed for record in board.records)),
        some(best) if best else NONE,
    ]


def _sound(
    published: Sequence[Record],
    own: Sequence[Record] | None,
    code: Code | None,
    links: Mapping[Origin, str],
    evidence: Evidence,
) -> tuple[list[Record], list[Record] | None, list[str]]:
    """Return the records of which tables can be made, and one line per other.

    Of a track that cannot be made, the records that break it alone are left out; where that does not help, all are.
    """

    def error(theirs: Sequence[Record], mine: Sequence[Record] | None) -> str:
        try:
            render(theirs, mine, (), code, links, evidence=evidence)
        except Exception as error:  # any: this is to find out which record it comes from
            return f"{type(error).__name__}: {printable(str(error))[:200]}"
        return ""

    good: list[Record] = []
    mine: list[Record] = []
    lines = []
    for track in sorted({record.track for record in [*published, *(own or ())]}):
        theirs = [record for record in published if record.track == track]
        ours = [record for record in own or () if record.track == track]
        if error(theirs, None if own is None else ours):
            alone = [(record, error([record], None)) for record in theirs], [(r, error([], [r])) for r in ours]
            lines += [
                f"{track}/{record.method}/{record.id}.json breaks its table ({what}); left out."
                for group in alone
                for record, what in group
                if what
            ]
            theirs, ours = ([record for record, what in group if not what] for group in alone)
            if what := error(theirs, None if own is None else ours):
                lines.append(f"{track} has no table ({what}).")
                continue
        good += theirs
        mine += ours
    return good, None if own is None else mine, lines


def is_ours(path: Path) -> bool:
    """Return whether a file is a table or a page that was made here."""
    if path.suffix not in (".md", ".csv") or not path.is_file():
        return False
    first = path.read_bytes()[: len(MARKER.encode())]
    return first.startswith((MARKER.encode(), CSV_MARKER.encode()))


def _text(lines: Sequence[str]) -> str:
    return "\n".join([MARKER, "", *lines]) + "\n"
