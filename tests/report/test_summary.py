"""What a command that trained says at its end."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mmbench.report import your_runs
from mmbench.report.equality import WORDS
from mmbench.report.markdown import NONE
from mmbench.runner.facts import Failure
from mmbench.runner.record import Record
from tests.report.factory import MACHINE, TRACK, evidence, folded, record, runs

OTHERS = [found for n in range(20) for found in runs(f"m{n:02}", [0.50 + n / 100 + seed / 1000 for seed in range(3)])]
REFERENCES = [
    *runs("constant", [1.4] * 3),
    *runs("linear", [1.3] * 3),
    *runs("late_fusion", [0.45, 0.46, 0.47]),
    *runs("unimodal", [1.2] * 3, label="unimodal (text)"),
]
PUBLISHED = [*OTHERS, *REFERENCES]


def shown(
    own: list[Record],
    published: list[Record] | None = PUBLISHED,
    everything: list[Record] | None = None,
    checkpoints: dict[str, Path] | None = None,
    width: int = 80,
    **others: object,
) -> list[str]:
    """Return the lines that are printed, not to a terminal."""
    file = io.StringIO()
    your_runs(own, published, everything or own, checkpoints or {}, Console(width=width, file=file), **others)  # type: ignore[arg-type]
    return [line.rstrip() for line in file.getvalue().splitlines()]


def after(lines: list[str], start: str) -> list[str]:
    place = next(number for number, line in enumerate(lines) if line.startswith(start))
    return lines[place:]


def table(lines: list[str]) -> list[str]:
    """Return the lines of the ranking without its head."""
    rest = after(lines, "rank")[2:]
    return rest[: next(number for number, line in enumerate(rest) if not line.startswith(" "))]


def test_a_trial_stands_beside_the_published_one_with_its_word_and_its_checkpoint() -> None:
    same = record("m05", 1, 0.55)
    other = record("m05", 2, 0.556)
    new = record("m05", 9, 0.6)
    path = Path("runs") / ("x" * 90) / "epoch=3.ckpt"
    lines = shown([same, other, new], checkpoints={same.id: path})
    rows = after(lines, "trial (mae ↓)")
    assert rows[0].split()[-4:] == ["yours", "published", "diff.", "word"]
    assert rows[1].split() == ["m05", "seed", "1", "0.5500", "0.5500", "+0.0000", "equal"]
    assert rows[2] == f"  {path}"
    assert rows[3].split() == ["m05", "seed", "2", "0.5560", "0.5510", "+0.0050", *WORDS[2].split()]
    assert rows[4].split() == ["m05", "seed", "9", "0.6000", NONE, NONE, NONE]
    assert all(len(line) <= 80 for line in lines if line != rows[2])


def test_numbers_behind_a_worse_word_are_named() -> None:
    theirs = record("m05", 1, 0.55)
    ours = replace(theirs, test={**theirs.test, "corr": 0.9})
    rows = after(shown([ours]), "trial")
    assert rows[1].endswith("+0.0000 differs")
    assert rows[2] == "  differs: corr"


def test_trials_without_a_result_say_why() -> None:
    broken = replace(record("m05", 1, status="failed"), error=Failure("ValueError", "no [bold]such\nthing \x1b[0m"))
    rows = after(shown([broken, record("m05", 2, status="diverged")]), "trial")
    assert rows[1].split() == ["m05", "seed", "1", "failed", "0.5500", NONE, "differs"]
    assert rows[2] == "  ValueError: no [bold]such thing [0m"
    assert rows[4] == "  diverged: it went wrong"


def test_a_long_title_has_a_line_of_its_own() -> None:
    label = "m05 [" + ", ".join(f"setting{n}=0.{n}" for n in range(9)) + "]"
    rows = after(shown([record("m05", 1, 0.6, config={"x": 1}, changed={"x": 1}, label=label)]), "trial")
    assert rows[1] == f"{label} seed 1"
    assert rows[2].split() == ["0.6000", NONE, NONE, NONE]


def test_the_row_stands_among_its_neighbours_the_references_and_the_best() -> None:
    own = [record("m10", seed, 0.6042) for seed in (1, 2, 3)]
    lines = table(shown(own))
    assert [line.split()[:2] for line in lines if "…" not in line] == [
        ["1", "late_fusion"],
        ["11", "m09"],
        ["12", "m10"],
        ["13", "m10"],
        ["14", "m11"],
        ["15", "m12"],
        ["23", "unimodal"],
        ["24", "linear"],
        ["25", "constant"],
    ]
    assert [line.strip() for line in lines if "…" in line] == ["… 9 more rows", "… 7 more rows"]
    assert [line for line in lines if "(yours)" in line] == [lines[4]]
    assert lines[4].split() == ["13", "m10", "(yours)", "3", "0.6042", "±", "0.0000"]
    # With the predictions, the interval over new seeds and new groups.
    own = [record("m10", seed, mae) for seed, mae in ((1, 0.60), (2, 0.61), (3, 0.602))]
    (line,) = (line for line in table(shown(own, evidence=evidence)) if "(yours)" in line)
    low, high = (float(text.strip("[],")) for text in line.split()[-2:])
    assert low < 0.604 < high
    # The best is shown where it is no reference, and one row is no gap.
    lines = table(shown(own, [*PUBLISHED, *runs("top", [0.1] * 3), *runs("second", [0.2] * 3)]))
    assert [line.split()[1] for line in lines[:4]] == ["top", "second", "late_fusion", "9"]


def test_whoever_leads_is_shown_beside_the_best_with_a_rank() -> None:
    leading = [*runs("early", [0.1]), *runs("second", [0.2]), *runs("third", [0.3] * 2), *runs("best", [0.4] * 3)]
    lines = table(shown([record("m10", seed, 0.6042) for seed in (1, 2, 3)], [*PUBLISHED, *leading]))
    assert [line.split()[:2] for line in lines[:4]] == [
        [NONE, "early"],
        ["…", "2"],
        ["1", "best"],
        ["2", "late_fusion"],
    ]


def test_all_own_trials_of_the_row_count_and_rows_without_a_rank_are_shown() -> None:
    lines = shown([record("new", 1, 0.6)], everything=[record("new", seed, 0.6) for seed in (1, 2)])
    (row,) = (line for line in table(lines) if "(yours)" in line)
    assert row.split()[:4] == [NONE, "new", "(yours)", "2"]
    assert "new (yours): 2 seeds: not ranked" in lines
    assert sum(line.startswith("new seed") for line in lines) == 1
    # Other own rows are there when they are near, and are not this command's.
    lines = shown([record("new", 1, 0.6)], everything=[*runs("new", [0.6]), *runs("far", [0.9])])
    assert not any("far" in line for line in lines)


def test_part_of_a_seed_is_shown() -> None:
    lines = shown(folded("new", {(1, 2): 0.6}, 5), published=folded("m", {(1, f): 0.7 for f in range(5)}, 5))
    assert any(line.split()[:3] == ["new", "fold", "2"] for line in lines)
    assert any("new (yours)" in line and "0.6000 (no whole seed)" in line for line in lines)
    assert "new (yours): only fold 2 of 5: not ranked" in lines


def test_changed_code_of_the_published_row_is_told() -> None:
    published = [replace(found, code="b" * 16) for found in PUBLISHED]
    lines = shown([record("m05", 1, 0.6)], published, code=lambda *_: "c" * 16)
    assert "m05: made by earlier code" in lines
    assert sum("made by earlier code" in line for line in lines) == 1


def test_searched_references_are_not_all_shown() -> None:
    search = [runs("late_fusion", [1.1 + n / 1000] * 3, config={"x": n}, changed={"x": n}) for n in range(10)]
    lines = table(shown(runs("m00", [0.5] * 3), [*PUBLISHED, *(found for group in search for found in group)]))
    assert sum("late_fusion" in line for line in lines) == 1


def test_without_published_records_the_summary_says_so() -> None:
    lines = shown(runs("a", [0.7, 0.8, 0.7]), None)
    assert lines[0].startswith("There are no published records here")
    assert any(line.split()[:3] == ["1", "a", "(yours)"] for line in table(lines))
    assert not any("no published records" in line for line in shown(runs("m01", [0.7])))
    assert any(line.startswith("Nothing is published") for line in shown(runs("a", [0.7]), []))


@pytest.mark.parametrize(
    ("published", "line"),
    [
        (runs("a", [0.7], track="other/x/y"), "Nothing is published"),
        (runs("a", [0.7], identity="e" * 64), "The published rows of this track were measured on other data"),
    ],
)
def test_without_published_rows_of_these_data_the_summary_says_so(published: list[Record], line: str) -> None:
    assert any(found.startswith(line) for found in shown(runs("a", [0.7]), published))


def test_each_track_has_its_part_and_its_file(tmp_path: Path) -> None:
    own = [*runs("a", [0.7]), *runs("a", [0.5], track="other/x/y")]
    lines = shown(own, out=tmp_path)
    assert [line.split()[3] for line in lines if line.startswith("Your runs on")] == [TRACK, "other/x/y"]
    assert [line for line in lines if line.startswith("The whole table")] == [
        f"The whole table: {tmp_path}/{name}.md" for name in ("mosi-glove-standard", "other-x-y")
    ]


def test_other_machines_and_odd_values_do_not_stop_it() -> None:
    odd = [
        record("m05", 1, 1.7e308, environment=replace(MACHINE, torch="")),
        record("odd", 1, test={"wa": 0.5}, family="multiclass", selection="wa", mode="max"),
        record("name\u202e|\n", 2, 0.5),
    ]
    for width in (20, 80, 200):
        lines = shown(odd, width=width)
        assert not any("\u202e" in line for line in lines)
        assert any("odd (yours): 1 without a defined mae" in line for line in lines) or width == 20


def test_the_published_row_of_the_same_trials_is_shown_however_far_it_is() -> None:
    lines = table(shown(runs("m05", [9.0, 9.1, 9.2])))
    assert [line.split()[1:3] for line in lines if "m05" in line] == [["m05", "3"], ["m05", "(yours)"]]
