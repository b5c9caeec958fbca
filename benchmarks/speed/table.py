"""The table: printed, and written as Markdown and JSON under the kind of machine."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.speed.measure import Row
from data_modules.files import atomic_path
from mmbench.report import markdown

RESULTS = Path(__file__).parent / "results"
HEADS = ("measurement", "device", "ours", "reference", "unit", "ratio", "quartiles", "required", "met")
METHOD_HEADS = (
    "method",
    "device",
    "samples/s",
    "time beside late_fusion",
    "quartiles",
    "beside the limit",
    "parameters",
    "peak MB",
)
METHODS = (
    "Training of every method with its default settings, batches of 16 of similar length (of clips fewer, where "
    "that is a method's default). Time is that of an epoch "
    "after pre-training, in turn with late_fusion; memory is what training needs beyond the model, with what libraries "
    "take at first use (see constant). The limit is the time of the matrix products alone, of real steps, at the speed "
    "of a large product in the same process. Dialogues and clips are generated; their time is compared per sample."
)
LIMIT = {True: "\N{LESS-THAN OR EQUAL TO}", False: "\N{GREATER-THAN OR EQUAL TO}"}
READING = (
    "Ours and the reference ran in turn, after a warm-up; both are medians, the ratio is the median of the ratios of "
    "neighbouring runs, and its quartiles say how much it scattered. A bound between the quartiles is marked as noisy."
)


def machine() -> dict[str, Any]:
    """Return what kind of machine this is; nothing that tells which one."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return {
        "processor": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "lightning")},
    }


def kind(about: dict[str, Any]) -> str:
    """Return the file name for a kind of machine, such as ``x86_64-2-cores``."""
    parts = (platform.machine(), f"{about['cores']}-cores", about["cuda"] or "")
    return "-".join(re.sub(r"[^a-z0-9_]+", "-", part.lower()).strip("-") for part in parts if part)


def caption(about: dict[str, Any]) -> str:
    """Return the machine in one line."""
    device = f", {about['cuda']}" if about["cuda"] else ""
    return (
        f"{about['processor']}, {about['cores']} cores{device}; {about['threads']} threads in torch; "
        f"Python {about['python']}, torch {about['torch']}, lightning {about['lightning']}"
    )


def cells(row: Row) -> tuple[str, ...]:
    """Return a row as text, in the order of ``HEADS``."""
    bound = "" if row.required is None else f"{LIMIT[row.at_most]} {row.required:g}"
    met = {None: "", True: "yes", False: "no"}[row.met] + ("" if row.clear else " (noisy)")
    scatter = f"{_number(row.low)} to {_number(row.high)}" if row.repetitions > 1 else ""
    amounts = (_number(row.ours), _number(row.reference), row.unit)
    return (row.measurement, row.device, *amounts, _number(row.ratio), scatter, bound, met)


def method_cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return one line of text per method and device, in the order of ``METHOD_HEADS``."""
    lines: list[tuple[str, ...]] = []
    measured = {(row.method, row.device) for row in rows if row.method}
    for method, device in sorted(measured, key=lambda one: (one[0] != "late_fusion", *one)):
        found = {row.unit: row for row in rows if (row.method, row.device) == (method, device)}
        speed, memory = found["samples/s"], found.get("MB")
        scatter = f"{_number(speed.low)} to {_number(speed.high)}"
        size = f"{found['parameters'].ours:,.0f}"
        peak = "" if memory is None else _number(memory.ours)
        limit = _number(found["s"].ratio) if "s" in found else ""
        lines.append((method, device, _number(speed.ours), _number(speed.ratio), scatter, limit, size, peak))
    return lines


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the table."""
    shown = Table(title="Speed and memory", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("measurement", "device"):
        shown.add_column(head)
    for head in ("ours", "reference", "ratio", "required"):
        shown.add_column(head, justify="right", no_wrap=True)
    shown.add_column("met")
    for row in (row for row in rows if not row.method):
        name, device, ours, reference, unit, ratio, scatter, bound, met = cells(row)
        amounts = (f"{ours}\n{unit}", f"{reference}\n{unit}", f"{ratio}\n{scatter}")
        shown.add_row(name, device, *amounts, bound, met, style="bold red" if row.met is False else "")
    console.print(shown)
    if methods := method_cells(rows):
        shown = Table(*METHOD_HEADS, title="Methods", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for line in methods:
            shown.add_row(*line)
        console.print(shown)
    console.print(caption(machine()), READING, sep="\n", style="dim", highlight=False)


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    return markdown.table(heads, ([markdown.escape(cell) for cell in line] for line in lines), left=2)


def stored(folder: Path = RESULTS) -> list[Row]:
    """Return the rows of the table of this kind of machine, none when it was measured in another environment."""
    about = machine()
    path = folder / f"{kind(about)}.json"
    content = json.loads(path.read_text()) if path.exists() else {"machine": about, "rows": []}
    if content["machine"] != about:
        return []
    return [Row(**{key: value for key, value in row.items() if key != "met"}) for row in content["rows"]]


def merged(old: Iterable[Row], new: Iterable[Row]) -> list[Row]:
    """Return rows with those that were measured anew in the place of theirs."""
    return list({(row.measurement, row.device, row.method): row for row in (*old, *new)}.values())


def write(rows: Sequence[Row], folder: Path = RESULTS) -> Path:
    """Write the table as Markdown, with the same in JSON beside it, and return the path of the former."""
    about = machine()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind(about)}.md"
    lines = [
        "# Speed and memory",
        "",
        "Written by `python -m benchmarks.speed`.",
        "",
        markdown.escape(caption(about)) + ".",
        "",
        READING,
        "",
        *_table(HEADS, (cells(row) for row in rows if not row.method)),
        "",
    ]
    if methods := method_cells(rows):
        lines += ["## Methods", "", METHODS, "", *_table(METHOD_HEADS, methods), ""]
    content = {"machine": about, "rows": [{**dataclasses.asdict(row), "met": row.met} for row in rows]}
    for target, text in ((path, "\n".join(lines)), (path.with_suffix(".json"), json.dumps(content, indent=2) + "\n")):
        with atomic_path(target) as part:
            part.write_text(text)
    return path
