"""The published layouts: pickles, word vectors, computational sequences, tables of action units, IEMOCAP's texts."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.datasets.iemocap.splits import read_lists
from data_modules.datasets.iemocap.tables import read_turns
from data_modules.datasets.ravdess.importer import read_face
from data_modules.features import openface
from data_modules.formats import import_store
from data_modules.importers.csd_folds import segments_in, standard_folds
from data_modules.importers.misa import word_vectors
from tests.data_modules.datasets.iemocap.layouts import (
    Said,
    corect,
    few_conversations,
    list10,
    tuple9,
    tuple12,
    write_dialog,
)
from tests.data_modules.importers.csd_layouts import make_world
from tests.data_modules.importers.layouts import dump, make_content, mmsa, mult, words_item
from tests.fuzz.harness import Form
from tests.fuzz.hdf5 import damage_hdf5, damage_heaps
from tests.fuzz.mutations import Rng
from tests.fuzz.pickles import bomb, damage_pickle

DIMS = {"text": 4, "audio": 3, "vision": 2}
ALIGNED = {"text": 6, "audio": 6, "vision": 6}
UNALIGNED = {"text": 6, "audio": 8, "vision": 7}
WORDS = [f"word{i}" for i in range(6)]


def _mmsa(folder: Path, limits: dict[str, int]) -> Path:
    return dump(folder / "own.pkl", mmsa(make_content(limits, DIMS), limits))


def _mult(folder: Path) -> Path:
    return dump(folder / "own.pkl", mult(make_content(ALIGNED, DIMS), ALIGNED))


def _mult_iemocap(folder: Path) -> Path:
    content = mult(make_content(ALIGNED, DIMS), ALIGNED, ids="none")
    for part in content.values():
        part["labels"] = np.eye(2, dtype=int)[np.zeros((len(part["labels"]), 4), int)]
    return dump(folder / "own.pkl", content)


def _vectors(folder: Path) -> Path:
    np.savez(folder / "vectors.npz", vocab=np.array(WORDS), emb=np.arange(24.0, dtype="f4").reshape(6, 4))
    return folder / "vectors.npz"


def _glove(folder: Path) -> Path:
    path = folder / "glove.txt"
    path.write_text("".join(f"{word} {row}.5 0.25 -1e-3 7\n" for row, word in enumerate(WORDS)))
    return path


def _misa(folder: Path) -> Path:
    _vectors(folder)
    content = make_content(ALIGNED, DIMS)
    parts = {split: [words_item(s, False, np.array([[s.label]])) for s in some] for split, some in content.items()}
    return dump(folder / "own.pkl", parts)


def _misa_folder(folder: Path) -> Path:
    (own := folder / "own").mkdir()
    _vectors(folder)
    for split, some in make_content(ALIGNED, DIMS).items():
        items = [words_item(s, True, np.array([[s.label, *[0.5] * 6]])) for s in some]
        dump(own / f"{ {'valid': 'dev'}.get(split, split) }.pkl", items)
    return own


def _erc(folder: Path, layout: Callable[..., Any]) -> Path:
    parts = few_conversations()
    if layout is corect:  # its file has all three parts
        parts["valid"] = parts["train"][8:]
        parts["train"] = parts["train"][:8]
    return dump(folder / "own.pkl", layout(parts))


def _csd(folder: Path, columns: int = 1) -> Path:
    return make_world(segments=2).write(folder / "own", columns)


def damage_csd(path: Path, rng: Rng) -> None:
    files = sorted(path.glob("*.csd"))
    file = files[rng.integers(len(files))]
    damage_heaps(file, rng) if rng.random() < 0.3 else damage_hdf5(file, rng)


def _table(folder: Path) -> Path:
    lines = [f"v{row // 2},{row},{row}.0,{row}.5,{row % 3}.0,said,{part}" for row, part in enumerate(PARTS)]
    (folder / "labels.csv").write_text("\n".join(["vid,cid,start,stop,label,text,split", *lines, ""]))
    return folder / "labels.csv"


PARTS = ("train", "train", "valid", "valid", "test", "test")


def _folds(folder: Path) -> Path:
    path = folder / "own_std_folds.py"
    path.write_text("".join(f"standard_{part}_fold = ['{part}1', '{part}2']\n" for part in dict.fromkeys(PARTS)))
    return path


def _lists(folder: Path) -> Path:
    (own := folder / "own").mkdir()
    for part in dict.fromkeys(PARTS):
        (own / f"{part}_split.txt").write_text(f"Ses01F_impro01_{part[:2]}_F000\nSes01F_impro01_{part[:2]}_M000\n")
    return own


HEADER = "frame, face_id, timestamp, confidence, success, AU01_r, AU02_r, AU01_c"


def _frames(folder: Path) -> Path:
    rows = [f"{row}, 0, {row / 25}, 0.98, 1, {row / 9}, 0.5, 1" for row in range(9)]
    (folder / "01-01-01-01-01-01-01.csv").write_text("\n".join([HEADER, *rows, ""]))
    return folder / "01-01-01-01-01-01-01.csv"


def _clips(folder: Path) -> Path:
    rows = [f"03-01-01-01-01-01-{actor:02d},0,0.{actor},0.5,1" for actor in range(1, 9)]
    (folder / "faces.csv").write_text("\n".join(["clip,fold,AU01_r,AU02_r,AU01_c", *rows, ""]))
    return folder / "faces.csv"


def damage_table(path: Path, rng: Rng) -> None:
    """Bend a table: its columns, its lines, its cells or its encoding."""
    text = path.read_text()
    head, *rows = [line.split(",") for line in text.splitlines()]
    column, row = int(rng.integers(len(head))), int(rng.integers(len(rows)))
    chance = int(rng.integers(12))
    if chance == 0:
        head[column] = head[int(rng.integers(len(head)))]
    elif chance == 1:
        rows[row] = rows[row] * 2
    elif chance == 2:
        rows[row] = rows[row][:column]
    elif chance == 3:
        rows = [[cell for place, cell in enumerate(one) if place != column] for one in rows]
    elif chance == 4:
        rows[row][column] = "x" * 20_000_000
    elif chance == 5:
        head += [f"c{number}" for number in range(200_000)]
    elif chance == 6:
        rows[row][column] = '"'
    else:
        odd = (
            "",
            "nan",
            "inf",
            "-1",
            "1e39",
            "1e300",
            "x",
            "9" * 5000,
            "é",
            "1,5",
            "0x1",
            "\0",
            "\uff11",
            "1_0",
            "True",
        )
        rows[row][column] = odd[rng.integers(len(odd))]
    text = ("\r\n" if chance == 7 else "\r" if chance == 8 else "\n").join(map(",".join, [head, *rows]))
    path.write_bytes(text.encode("latin-1", "replace") if chance < 10 else text.encode("utf-16"))


def damage_vectors(path: Path, rng: Rng) -> None:
    """Bend a text file of word vectors."""
    lines = path.read_bytes().splitlines()
    place = int(rng.integers(len(lines)))
    odd = (
        b"", b"word", b"word1", b"word1 1 2 3", b"word1 1 2 3 4 5", b"word1 a b c d", b"word1 nan inf 1e39 1e300",
        b"word1 " + b"1 " * 1_000_000, b"w" * 80_000_000, b"\xff\xfe 1 2 3 4", b"word1 " + b"9" * 5000 + b" 1 2 3",
        b"word1\t1\t2\t3\t4", b"word2  1 2 3 4", b"\0" * 100, b" 1 2 3 4", b"6 4",
    )  # fmt: skip
    lines[place] = odd[rng.integers(len(odd))]
    path.write_bytes((b"\n" if rng.random() < 0.8 else b"\r\n").join(lines))


def damage_npz_vectors(path: Path, rng: Rng) -> None:
    """Replace an array of an npz of word vectors."""
    members: dict[str, Any] = {"vocab": np.array(WORDS), "emb": np.arange(24.0).reshape(6, 4)}
    odd: dict[str, tuple[Any, ...]] = {
        "vocab": (np.array(WORDS, object), np.arange(6), np.array([b"\xff"] * 6), np.array(["\ud800"] * 6), np.array(1),
                  np.array([WORDS]), np.array([]), np.array(WORDS)[:5]),
        "emb": (np.zeros((6, 0)), np.zeros(6), np.full((6, 4), "x"), np.zeros((6, 4), "c8"), np.full((6, 4), np.nan),
                np.full((6, 4), 1e300), np.zeros((6, 4), "M8[s]"), np.zeros((6, 4), [("a", "f4")]), np.array(2.0),
                np.zeros((6, 4, 2)), np.zeros((6, 4), object)),
    }  # fmt: skip
    name = ("vocab", "emb")[rng.integers(2)]
    members[name] = odd[name][rng.integers(len(odd[name]))]
    np.savez(path, **members)
    chance = rng.random()
    if chance < 0.3:
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": (int(rng.choice([10**8, 1 << 40])), 4)}
        )
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
            out.writestr("vocab.npy", file.getvalue())
            with out.open("emb.npy", "w", force_zip64=True) as values:
                values.write(file.getvalue())
                for _ in range(400 if chance < 0.15 else 1):  # not all at once: memory is measured here too
                    values.write(bytes(2 * 10**6))
    elif chance < 0.4:
        data = path.read_bytes()
        path.write_bytes(data.replace(b"PK\x03\x04\x14\x00\x00\x00\x00\x00", b"PK\x03\x04\x14\x00\x00\x00\x63\x00"))


def _release(folder: Path) -> Path:
    root = folder / "own"
    for session in range(1, 6):
        dialog = f"Ses0{session}F_impro01"
        turns = [Said(f"{dialog}_{who}00{n}", n, n + 0.5, "neu") for n in range(4) for who in "FM"]
        write_dialog(root, dialog, turns)
    return root


def damage_release(path: Path, rng: Rng) -> None:
    """Bend a line of the labels or transcripts."""
    files = sorted(path.rglob("*.txt"))
    path = files[rng.integers(len(files))]
    lines = path.read_text().splitlines()
    place = int(rng.integers(len(lines)))
    odd = (
        lines[place] * 2, "", "[", "[" + "9" * 5000 + ".0 - 9.5]\tSes01F_impro01_F000\tneu\t[1.0, 1.0, 1.0]",
        "[1.0 - " + "9" * 400 + ".5]\tSes01F_impro01_F000\tneu\t[1.0, 1.0, 1.0]", "x" * 80_000_000,
        "[nan - inf]\tSes01F_impro01_F000\tneu\t[nan, nan, nan]", "\0", "Ses01F_impro01_F000 [1-2]: \0é",
    )  # fmt: skip
    lines[place] = odd[rng.integers(len(odd))]
    path.write_text("\n".join(lines))


def _import(path: Path, key: str, dataset: str = "mosi", **options: Any) -> None:
    options = {name: path.parent / value if name == "embedding" else value for name, value in options.items()}
    import_store(key, path, path.parent / "out.h5", dataset=dataset, options=options)


def _read_words(path: Path) -> None:
    word_vectors(path, set(WORDS))


DAMAGE = (damage_pickle, damage_pickle, bomb)
FORMS = [
    Form("mmsa", partial(_mmsa, limits=UNALIGNED), partial(_import, key="mmsa"), DAMAGE),
    Form("mmsa-aligned", partial(_mmsa, limits=ALIGNED), partial(_import, key="mmsa", text="tokens"), DAMAGE),
    Form(
        "mmsa-lengths",
        partial(_mmsa, limits=UNALIGNED),
        partial(_import, key="mmsa", trust_stored_lengths=True),
        DAMAGE,
    ),
    Form("mult", _mult, partial(_import, key="mult"), DAMAGE),
    Form("mult-iemocap", _mult_iemocap, partial(_import, key="mult", dataset="iemocap"), DAMAGE),
    Form("misa", _misa, partial(_import, key="misa", embedding="vectors.npz"), DAMAGE),
    Form("misa-folder", _misa_folder, partial(_import, key="misa", embedding="vectors.npz", target="emotions"), DAMAGE),
    Form("misa-by-video", _misa, partial(_import, key="misa", embedding="vectors.npz", split="by-video"), DAMAGE),
    *(
        Form(f"erc-{layout.__name__}", partial(_erc, layout=layout), partial(_import, key="erc"), DAMAGE)
        for layout in (tuple9, tuple12, list10, corect)
    ),
    Form("vectors-npz", _vectors, _read_words, (damage_npz_vectors,)),
    Form("vectors-text", _glove, _read_words, (damage_vectors,)),
    Form("csd", _csd, partial(_import, key="csd"), (damage_csd,)),
    Form(
        "csd-segments",
        partial(_csd, columns=7),
        partial(_import, key="csd", align="segment", target="emotions", missing="zeros"),
        (damage_csd,),
    ),
    Form("csd-table", _table, segments_in, (damage_table,)),
    Form("csd-folds", _folds, partial(standard_folds, dataset="mosi")),
    Form("openface-frames", _frames, openface.read_frames, (damage_table,)),
    Form("openface-clips", _clips, lambda path: read_face(path, ()), (damage_table,)),
    Form("iemocap-texts", _release, read_turns, (damage_release,)),
    Form("iemocap-lists", _lists, read_lists),
]
