"""Downloading RAVDESS, which anyone may, from its official record, Zenodo 1188976.

The checksums of the two audio archives are known here; those of the video archives are read once from the record and
kept in ``zenodo-1188976.json`` beside the files: whatever differs from them later is refused.

RAVDESS is licensed CC BY-NC-SA 4.0 (Livingstone and Russo 2018, doi 10.5281/zenodo.1188976).
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Collection, Iterable
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from data_modules.datasets.ravdess.names import NO_SONG, SOUND, VIDEO, RavdessName
from data_modules.datasets.ravdess.splits import RAVDESS_ACTORS
from data_modules.files import atomic_path, explained
from data_modules.schema import DataError, unknown_name
from data_modules.transfer import BLOCK, RemoteFile, fetch, new_session, progress, read_small

ZENODO = "https://zenodo.org"
RECORD = "1188976"
LIST = f"zenodo-{RECORD}.json"
LONGEST_LIST = 1 << 20
"""Bytes of a list of files; that of the record has some ten thousand."""
LARGEST = 1 << 36
"""Bytes of an archive; those of the record have up to half a billion."""

AUDIO = (
    RemoteFile("Audio_Speech_Actors_01-24.zip", 208_468_073, "md5:bc696df654c87fed845eb13823edef8a"),
    RemoteFile("Audio_Song_Actors_01-24.zip", 225_505_317, "md5:5411230427d67a21e18aa4d466e6d1b9"),
)
PARTS: dict[str, tuple[str, ...]] = {
    "audio-speech": (AUDIO[0].name,),
    "audio-song": (AUDIO[1].name,),
    "video-speech": tuple(f"Video_Speech_Actor_{actor:02d}.zip" for actor in RAVDESS_ACTORS),
    "video-song": tuple(f"Video_Song_Actor_{actor:02d}.zip" for actor in RAVDESS_ACTORS if actor != NO_SONG),
}
"""Names of what can be downloaded, and the archives of each."""


def download_ravdess(
    folder: Path, parts: Collection[str] = ("audio-speech",), *, url: str = ZENODO, unpack: bool = True
) -> list[Path]:
    """Download archives of RAVDESS, and unpack them into ``Actor_NN`` folders beside them.

    The archives stay: without them the next call loads them again. What is there and has the right checksum is neither
    loaded nor unpacked again.

    Args:
        folder: Where everything goes.
        parts: Of ``audio-speech`` (0.2 GB), ``audio-song`` (0.2 GB), ``video-speech`` and ``video-song`` (about half a
            GB per actor), or names of single archives such as ``Video_Speech_Actor_01.zip``.
        url: Server of the record.
        unpack: Whether to unpack the archives.

    Returns:
        The archives.

    Raises:
        DataError: When there is no such part, the server cannot be reached, the disk is full, or a file is not right.
        WriteError: When the folder cannot be written; the same command goes on from what is there.
    """
    names, url = _archives(parts), url.rstrip("/")
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        archives = _known(folder / LIST, names, url)
        _refuse_small_disk(folder, sum(one.missing(folder) for one in archives), "downloads")
        with progress() as bar, new_session() as session:
            address = f"{url}/records/{RECORD}/files/{{}}?download=1"
            paths = [fetch(address.format(one.name), folder, one, session, bar) for one in archives]
        for path in paths if unpack else []:
            unpack_ravdess(path, folder)
    return paths


def _archives(parts: Collection[str]) -> list[str]:
    single = [name for names in PARTS.values() for name in names]
    for part in parts:
        if part not in PARTS and part not in single:
            raise DataError(f"{unknown_name('part of ravdess', part, PARTS)} Or name one archive, such as {single[2]}.")
    names = list(dict.fromkeys(name for part in parts for name in PARTS.get(part, (part,))))
    if not names:
        raise DataError(f"Which parts of ravdess? There are: {', '.join(PARTS)}.")
    return names


def _known(kept: Path, names: list[str], url: str) -> list[RemoteFile]:
    """Return sizes and checksums of archives: known here, kept beside the files, or read from the record and then kept.

    Raises:
        DataError: When the list cannot be read, lacks one of them, or does not fit what is known.
    """
    known = {file.name: file for file in AUDIO}
    if set(names) <= set(known):
        return [known[name] for name in names]
    if kept.exists():
        with kept.open("rb") as file:
            listed = _listed(str(kept), file.read(LONGEST_LIST + 1), names)
    else:
        where = f"the record at {url}"
        listed = _listed(where, read_small(f"{url}/api/records/{RECORD}", LONGEST_LIST), names)
        changed = [file.name for file in AUDIO if listed.get(file.name, file) != file]
        if changed:
            raise DataError(
                f"The record {RECORD} at {url} has another {' and '.join(changed)} than the release: it is not what it "
                "was, and nothing was downloaded."
            )
        files = [{"key": (one := asdict(file)).pop("name"), **one} for file in listed.values()]
        with atomic_path(kept) as part:
            part.write_text(json.dumps({"id": RECORD, "files": files}, indent=1) + "\n", encoding="utf-8")
    listed |= known
    return [listed[name] for name in names]


def _listed(where: str, content: bytes, names: Iterable[str]) -> dict[str, RemoteFile]:
    """Return the archives of a list of files in Zenodo's JSON.

    Raises:
        DataError: When it is none, or lacks one of those that are wanted.
    """
    remedy = f"Try again later, or remove {LIST} if it is there."
    try:
        if len(content) > LONGEST_LIST:
            raise ValueError(f"it has more than {LONGEST_LIST} bytes")
        files = {str(one["key"]): one for one in json.loads(content)["files"]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{where} is no list of files with key, size and checksum ({error}). {remedy}") from error
    found = {}
    for name in (name for archives in PARTS.values() for name in archives if name in files):
        size, checksum = files[name].get("size"), str(files[name].get("checksum"))
        if type(size) is not int or not 0 < size < LARGEST:
            raise DataError(f"{where} gives {name} a size of {str(size)[:40]} bytes. {remedy}")
        if not re.fullmatch("md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}", checksum):
            raise DataError(f"{where} gives no checksum for {name}: nothing can be checked. {remedy}")
        found[name] = RemoteFile(name, size, checksum)
    if missing := [name for name in names if name not in found and name not in (file.name for file in AUDIO)]:
        raise DataError(f"{where} has no {', '.join(missing[:3])}. {remedy}")
    return found


def _refuse_small_disk(folder: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder} has {free / 1e9:.2f} GB left, the {what} need {needed / 1e9:.2f} GB. Make room or give another "
            "folder."
        )


def unpack_ravdess(archive: Path, folder: Path) -> int:
    """Unpack the clips of an archive into ``Actor_NN`` folders and return how many were not there yet.

    Where a clip goes follows from its name alone. Each is there wholly or not at all, and unpacked again when what is
    there has another checksum than in the archive.

    Raises:
        DataError: When the archive is damaged, names a path outside itself, or holds no clip.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            clips: dict[Path, zipfile.ZipInfo] = {}
            for info in file.infolist():
                inner = PurePosixPath(info.filename.replace("\\", "/"))
                if inner.is_absolute() or ".." in inner.parts or ":" in info.filename:
                    raise DataError(f"{archive} names {info.filename!r}, a path outside itself: nothing was unpacked.")
                if not info.is_dir() and inner.suffix.lower() in (*SOUND, *VIDEO) and not inner.name.startswith("._"):
                    clips[folder / _actor(archive, inner.stem) / inner.name] = info
            if not clips:
                raise DataError(f"{archive} holds no clip of RAVDESS.")
            new = {path: info for path, info in clips.items() if not _same(path, info)}
            total = sum(info.file_size for info in new.values())
            _refuse_small_disk(folder, total, "clips")
            with progress() as bar:
                task = bar.add_task(f"unpacking {archive.name}", total=total)
                for path, info in new.items():
                    with file.open(info) as packed, atomic_path(path) as part, part.open("wb") as clip:
                        shutil.copyfileobj(packed, clip, BLOCK)
                    bar.advance(task, info.file_size)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError) as error:
        raise DataError(f"{archive} is damaged ({error}). Remove it and download it again.") from error
    return len(new)


def _same(path: Path, info: zipfile.ZipInfo) -> bool:
    """Return whether a file is what an archive holds, by size and CRC-32."""
    if not path.is_file() or path.stat().st_size != info.file_size:
        return False
    found = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found = zlib.crc32(block, found)
    return found == info.CRC


def _actor(archive: Path, stem: str) -> str:
    try:
        return f"Actor_{RavdessName.parse(stem).actor:02d}"
    except DataError as error:
        raise DataError(f"{archive}: {error}") from error
