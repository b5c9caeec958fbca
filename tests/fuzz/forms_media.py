"""Sound, videos, transcripts and lists of files to download, as the commands read them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from data_modules.datasets.ravdess.download import LIST, PARTS, _known
from data_modules.formats import import_store
from data_modules.importers.extract import Extractors, extract_store
from data_modules.importers.own_clips import read_transcripts
from tests.data_modules.media_files import make_mp4, make_wav
from tests.fuzz.harness import Form
from tests.fuzz.mutations import Rng, damage_json

ODD = (0, 1, 3, 255, 65535, 1 << 20, (1 << 31) - 1, (1 << 32) - 1)
FIELDS = ("4I", "16I", "20H", "22H", "24I", "28I", "32H", "34H", "40I")
"""Places and types of the numbers in the header of a wav."""
WANTED = PARTS["video-speech"][:2]


def _wav(folder: Path) -> Path:
    make_wav(folder / "other.wav", 0.2)
    return make_wav(folder / "mine.wav", 0.2)


def _extract(path: Path, **options: Any) -> None:
    extract_store([path], path.parent / "out.h5", Extractors(**options))


def damage_header(path: Path, rng: Rng) -> None:
    """Replace a field of the header of a wav by a number that makes no sense."""
    content = bytearray(path.read_bytes())
    field = FIELDS[rng.integers(len(FIELDS))]
    place, form = int(field[:-1]), f"<{field[-1]}"
    value = ODD[rng.integers(len(ODD))] & ((1 << 8 * struct.calcsize(form)) - 1)
    struct.pack_into(form, content, place, value)
    path.write_bytes(bytes(content))


def _film(folder: Path) -> Path:
    return make_mp4(folder / "mine.mp4", seconds=0.4, fps=5, size=(32, 32), faststart=True)


def damage_box(path: Path, rng: Rng) -> None:
    """Replace numbers in a box of an mp4: sizes, durations, tables of samples."""
    content = bytearray(path.read_bytes())
    boxes = (b"mvhd", b"tkhd", b"mdhd", b"stts", b"stsz", b"stsc", b"stco", b"stsd", b"elst", b"avc1", b"mp4a", b"esds")
    found = [place for box in boxes if (place := content.find(box)) > 0]
    place = found[rng.integers(len(found))] + 4 + 4 * int(rng.integers(10))
    content[place : place + 4] = struct.pack(">I", ODD[rng.integers(len(ODD))])
    path.write_bytes(bytes(content))


def _release(folder: Path) -> Path:
    for actor in range(1, 25):
        make_wav(folder / "ravdess" / f"Actor_{actor:02d}" / f"03-01-01-01-01-01-{actor:02d}.wav", 0.1)
    return folder / "ravdess"


def _import_release(path: Path) -> None:
    import_store("ravdess_media", path, path.parent / "out.h5", dataset="ravdess", options={"modality": "audio"})


def _table(folder: Path) -> Path:
    path = folder / "said.csv"
    path.write_text("id,text\nmine,so said the first\nother.wav,and so the other\n")
    return path


def _read_table(path: Path) -> None:
    folder = path.parent
    clips = {name: make_wav(folder / f"{name}.wav", 0.1) for name in ("mine", "other")}
    extract_store(list(clips.values()), folder / "out.h5", Extractors(vision="none"), transcripts=path)


def _texts(folder: Path) -> Path:
    path = folder / "mine.txt"
    path.write_text("so said the first")
    return path


def _read_texts(path: Path) -> None:
    clip = make_wav(path.with_suffix(".wav"), 0.1)
    read_transcripts(None, {"mine": clip})
    extract_store([clip], path.parent / "out.h5", Extractors(vision="none"))


def _list(folder: Path) -> Path:
    files = [{"key": name, "size": 10**8, "checksum": f"md5:{'0123456789abcdef' * 2}"} for name in WANTED]
    (folder / LIST).write_text(json.dumps({"id": "1188976", "files": files}))
    return folder / LIST


def damage_list(path: Path, rng: Rng) -> None:
    """Replace a part of a list by something else."""
    value = json.loads(path.read_bytes())
    for _ in range(1 + int(rng.integers(3))):
        value = damage_json(value, rng)
    path.write_text(json.dumps(value))


FORMS = [
    Form("wav", _wav, lambda path: _extract(path, vision="none"), (damage_header,)),
    Form("wav-waveform", _wav, lambda path: _extract(path, vision="none", audio="waveform"), (damage_header,)),
    Form("video", _film, lambda path: _extract(path, every=0.2, size=16), (damage_box,)),
    Form("video-all-pictures", _film, lambda path: _extract(path, every=0.0, size=16, audio="none"), (damage_box,)),
    Form("ravdess-media", _release, _import_release),
    Form("transcripts", _table, _read_table),
    Form("transcript-files", _texts, _read_texts),
    Form("download-list", _list, lambda path: _known(path, list(WANTED), "http://127.0.0.1:9"), (damage_list,)),
]
