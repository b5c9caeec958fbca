"""Records made by hand."""

import copy
import gzip
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from mmbench.runner.records import RecordDict

TRACK = "mosi/glove/standard"


def record(
    method: str = "mult",
    seed: int = 1,
    mae: float | None = 0.7,
    *,
    fold: int = 0,
    folds: int = 1,
    track: str = TRACK,
    status: str = "completed",
    config: dict | None = None,
    changed: dict | None = None,
    label: str | None = None,
    max_epochs: int = 40,
    data: dict | None = None,
    fingerprint: str = "f" * 64,
    version: str = "0.1.0",
    published: Sequence[tuple[str, float, str]] = (),
    test: dict | None = None,
    family: str = "sentiment",
    selection: str = "mae",
    mode: str = "min",
) -> RecordDict:
    """Return a record; everything not asked for is plausible and the same."""
    training = {"max_epochs": max_epochs, "patience": 8, "precision": "32-true"}
    config, changed, data = config or {"lr": 0.001}, changed or {}, data or {}
    decides = [track, fold, method, config, data, training, seed, fingerprint, version]
    suffix = f" [{', '.join(f'{k}={v}' for k, v in changed.items())}]" if changed else ""
    found: RecordDict = {
        "schema": 1,
        "id": hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16],
        "status": status,
        "track": track,
        "fold": fold,
        "folds": folds,
        "method": method,
        "variant": "",
        "label": label or method + suffix,
        "seed": seed,
        "config": config,
        "changed": changed,
        "data": data,
        "training": training,
        "fingerprint": fingerprint,
        "version": version,
        "card": {
            "title": f"The {method} method",
            "year": 2019,
            "fidelity": "own" if method == "constant" else "paper",
            "published": [{"track": track, "metric": m, "value": v, "source": s} for m, v, s in published],
        },
        "task": {},
        "features": {},
        "aligned": False,
        "selection": {},
        "test": {},
        "curve": [],
        "cost": {},
        "environment": {"torch": "2.9.0", "device": "x86_64"},
        "samples": {},
    }
    if status == "completed":
        found |= {
            "task": {"family": family, "kind": "regression", "names": ["sentiment"]},
            "features": {"text": {"dim": 300, "max_length": 50, "kind": "features", "source": "GloVe"}},
            "selection": {"metric": selection, "mode": mode, "epoch": 10 + seed, "value": 0.7},
            "test": copy.deepcopy(test) if test is not None else {"mae": mae, "corr": 0.6, "acc2_non0": 0.8},
            "samples": {"train": 1284, "valid": 229, "test": 686},
            "cost": {
                "parameters": 1234567,
                "epochs": 20 + seed,
                "seconds": 30.0,
                "seconds_per_epoch": float(seed),
                "peak_memory": seed * 2**20,
                "peak_memory_of": "process",
            },
        }
    else:
        kind = "diverged" if status == "diverged" else "ValueError"
        found["error"] = {"type": kind, "message": "it went wrong", "trace": []}
    return found


def runs(method: str, maes: Sequence[float | None], **changes: object) -> list[RecordDict]:
    """Return one record per value, with the seeds 1, 2, ..."""
    return [record(method, seed, mae, **changes) for seed, mae in enumerate(maes, 1)]  # type: ignore[arg-type]


def store(root: Path, records: Sequence[RecordDict]) -> list[Path]:
    """Write records and predictions to where they belong."""
    paths = []
    for found in records:
        path = root / found["track"] / found["method"] / f"{found['id']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
        if found["status"] == "completed":
            path.with_suffix(".csv.gz").write_bytes(gzip.compress(b"id,target0,prediction0\n"))
        paths.append(path)
    return paths


def lines_of(text: str, heading: str) -> list[dict[str, str]]:
    """Return the rows of the first Markdown table under a heading, by column."""
    lines = text.split(f"{heading}\n", 1)[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.replace("\\|", "\0").strip("|").split("|")])
    heads = rows[0]
    assert all(len(row) == len(heads) for row in rows)
    return [dict(zip(heads, (cell.replace("\0", "\\|") for cell in row), strict=True)) for row in rows[2:]]
