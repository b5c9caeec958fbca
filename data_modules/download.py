"""Downloading releases that anyone may download: RAVDESS from its official record, Zenodo 1188976.

A download that was stopped goes on where it stopped (``<name>.part``, HTTP ranges), a file is there only when its
checksum is right, and what is right is not loaded again. The checksums of the two audio archives are known here; those
of the video archives are read once from the record and kept in ``zenodo-1188976.json`` beside the files: whatever
differs from them later is refused.

RAVDESS is licensed CC BY-NC-SA 4.0 (Livingstone and Russo 2018, doi 10.5281/zenodo.1188976). Needs the extra ``media``
(pooch, requests).
"""

from __future__ import annotations

import json
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from data_modules.features.audio import media_library
from data_modules.files import atomic_path
from data_modules.importers.ravdess_names import NO_SONG, SOUND, VIDEO, RavdessName
from data_modules.schema import DataError, unknown
from data_modules.splits import RAVDESS_ACTORS

if TYPE_CHECKING:
    from requests import Response, Session

ZENODO = "https://zenodo.org"
RECORD = "1188976"
RETRIES = 5
"""Attempts in a row that bring nothing before a download gives up."""
BACKOFF = 1.0
"""Seconds before the second attempt; doubled for each further one."""
TIMEOUT = (15, 60)
"""Seconds to connect, and to wait for the next bytes."""
BLOCK = 1 << 16
"""Bytes that are written at a time; less than that is lost when a connection breaks."""


@dataclass(frozen=True)
class Archive:
    """A file of a record.

    Attributes:
        name: Its name.
        size: Bytes.
        checksum: Algorithm and digest, such as ``md5:0123...``.
    """

    name: str
    size: int
    checksum: str


AUDIO = (
    Archive("Audio_Speech_Actors_01-24.zip", 208_468_073, "md5:bc696df654c87fed845eb13823edef8a"),
    Archive("Audio_Song_Actors_01-24.zip", 225_505_317, "md5:5411230427d67a21e18aa4d466e6d1b9"),
)
PARTS: dict[str, tuple[str, ...]] = {
    "audio-speech": (AUDIO[0].name,),
    "audio-song": (AUDIO[1].name,),
    "video-speech": tuple(f"Video_Speech_Actor_{actor:02d}.zip" for actor in RAVDESS_ACTORS),
    "video-song": tuple(f"Video_Song_Actor_{actor:02d}.zip" for actor in RAVDESS_ACTORS if actor != NO_SONG),
}
"""Names of what can be downloaded, and the archives of each."""


def download(
    dataset: str, folder: Path, *, parts: Collection[str] = ("audio-speech",), url: str = ZENODO, unpack: bool = True
) -> list[Path]:
    """Download a data set.

    Args:
        dataset: Key of the data set.
        folder: Where the archives go, and what is in them.
        parts: What to download of it.
        url: Where its record is.
        unpack: Whether to unpack the archives.

    Returns:
        The archives.

    Raises:
        DataError: When there is no such data set or part, the server cannot be reached, or a file is not right.
    """
    if dataset not in _DATASETS:
        raise DataError(
            f"{unknown('data set to download', dataset, _DATASETS)} Others come from their owners: `mmbench list "
            "datasets` says how."
        )
    return _DATASETS[dataset](Path(folder), parts, url=url, unpack=unpack)


def download_ravdess(
    folder: Path, parts: Collection[str] = ("audio-speech",), *, url: str = ZENODO, unpack: bool = True
) -> list[Path]:
    """Download archives of RAVDESS, and unpack them into ``Actor_NN`` folders beside them.

    The archives stay: without them the next call loads them again. Clips that are there already are not unpacked again.

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
    """
    names = _archives(parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        archives = _known(folder, names, url.rstrip("/"))
        _refuse_small_disk(folder, sum(one.size - _there(folder, one) for one in archives), "downloads")
        paths = []
        with _progress() as bar, _session() as session:
            for archive in archives:
                source = f"{url.rstrip('/')}/records/{RECORD}/files/{archive.name}?download=1"
                paths.append(_fetch(source, folder, archive, session, bar))
        for path in paths if unpack else []:
            unpack_ravdess(path, folder)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written ({error}). Make room or give another folder; the same command goes on from "
            "what is there."
        ) from error
    return paths


_DATASETS: dict[str, Callable[..., list[Path]]] = {"ravdess": download_ravdess}


def _archives(parts: Collection[str]) -> list[str]:
    single = [name for names in PARTS.values() for name in names]
    for part in parts:
        if part not in PARTS and part not in single:
            raise DataError(f"{unknown('part of ravdess', part, PARTS)} Or name one archive, such as {single[2]}.")
    names = list(dict.fromkeys(name for part in parts for name in PARTS.get(part, (part,))))
    if not names:
        raise DataError(f"Which parts of ravdess? There are: {', '.join(PARTS)}.")
    return names


def _known(folder: Path, names: list[str], url: str) -> list[Archive]:
    """Return sizes and checksums of the archives: known here, kept beside the files, or read from the record.

    Raises:
        DataError: When the record cannot be read, or does not fit what is known.
    """
    known = {archive.name: archive for archive in AUDIO}
    path = folder / f"zenodo-{RECORD}.json"
    if not set(names) <= set(known):
        if path.exists():
            known = _listed(path.name, path.read_bytes()) | known
        else:
            listed = _listed(f"the record at {url}", _record(f"{url}/api/records/{RECORD}"))
            changed = [archive.name for archive in AUDIO if listed.get(archive.name, archive) != archive]
            if changed:
                raise DataError(
                    f"The record {RECORD} at {url} has another {' and '.join(changed)} than the release: it is not "
                    "what it was, and nothing was downloaded."
                )
            files = [{"key": a.name, "size": a.size, "checksum": a.checksum} for a in listed.values()]
            with atomic_path(path) as part:
                part.write_text(json.dumps({"id": RECORD, "files": files}, indent=1) + "\n", encoding="utf-8")
            known |= listed
    missing = [name for name in names if name not in known]
    if missing:
        raise DataError(f"The record {RECORD} has no {', '.join(missing[:3])}. If {path} is wrong, remove it.")
    return [known[name] for name in names]


def _listed(where: str, content: bytes) -> dict[str, Archive]:
    """Return the files of a record in Zenodo's JSON."""
    try:
        found = [
            Archive(str(one["key"]), int(one["size"]), str(one["checksum"])) for one in json.loads(content)["files"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{where} is no list of files with key, size and checksum ({error}). Try again later, or remove the file."
        ) from error
    weak = [archive.name for archive in found if archive.checksum.partition(":")[0] not in ("md5", "sha256")]
    if weak:
        raise DataError(f"{where} gives no checksum for {weak[0]}: nothing can be checked.")
    return {archive.name: archive for archive in found}


def _record(url: str) -> bytes:
    with _session() as session, _answer(session, url, {}) as response:
        return bytes(response.content)


def _there(folder: Path, archive: Archive) -> int:
    """Return how many bytes of an archive are on disk."""
    return min(archive.size, max(_size(folder / archive.name), _size(_part(folder, archive))))


def _part(folder: Path, archive: Archive) -> Path:
    return folder / f"{archive.name}.part"


def _refuse_small_disk(folder: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder} has {free / 1e9:.2f} GB left, the {what} need {needed / 1e9:.2f} GB. Make room or give another "
            "folder."
        )


@contextmanager
def _session() -> Iterator[Session]:
    """Give a session that repeats requests which the server did not answer or could not serve just now."""
    requests, retry = media_library("requests", "Downloading"), media_library("urllib3", "Downloading").Retry
    retries = retry(
        total=RETRIES, backoff_factor=BACKOFF, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False
    )
    with requests.Session() as session:
        # Compressed transfer would make sizes and ranges mean other bytes.
        session.headers.update({"Accept-Encoding": "identity", "User-Agent": "mmbench"})
        for scheme in ("http://", "https://"):
            session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retries))
        yield session


@contextmanager
def _answer(session: Session, url: str, headers: Mapping[str, str]) -> Iterator[Response]:
    """Give the answer to a request.

    Raises:
        DataError: When there is none, or an error.
    """
    requests = media_library("requests", "Downloading")
    try:
        response = session.get(url, headers=dict(headers), stream=True, timeout=TIMEOUT)
    except requests.RequestException as error:
        raise DataError(
            f"{url} cannot be reached ({error}). Check the connection and give the same command."
        ) from error
    with response:
        if response.status_code >= 400 and response.status_code != 416:
            raise DataError(
                f"{url}: the server answers {response.status_code} {response.reason}. Try again later; what has come "
                "is kept."
            )
        yield response


@contextmanager
def _progress() -> Iterator[Progress]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        yield bar


def _fetch(url: str, folder: Path, archive: Archive, session: Session, bar: Progress) -> Path:
    """Return the archive on disk, downloaded unless it is there and right.

    Raises:
        DataError: When it cannot be had, or is not right: then nothing of it is kept.
    """
    pooch = media_library("pooch", "Downloading")
    pooch.get_logger().setLevel("WARNING")
    part = _part(folder, archive)

    def downloader(url: str, output: str, _: Any) -> None:
        task = bar.add_task(archive.name, total=archive.size, completed=_size(part))
        _resume(url, part, archive.size, session, partial(bar.update, task))
        part.replace(output)

    try:
        return Path(pooch.retrieve(url, archive.checksum, archive.name, folder, downloader=downloader))
    except DataError:
        raise
    except ValueError as error:  # what pooch raises for another checksum, after removing the file
        raise DataError(
            f"{archive.name} from {url} is not the file of the record: its {archive.checksum.partition(':')[0]} is "
            "another. It was removed; the same command loads it anew."
        ) from error


def _resume(url: str, part: Path, size: int, session: Session, show: Callable[..., Any]) -> None:
    """Load what is missing of a file, again and again while anything comes."""
    requests = media_library("requests", "Downloading")
    if _size(part) > size:
        part.unlink()
    failures = 0
    while (have := _size(part)) < size:
        reason = "it ends too early"
        try:
            _load(url, part, have, size, session, show)
        except requests.RequestException as error:
            reason = str(error)
        failures = 0 if _size(part) > have else failures + 1
        if failures > RETRIES:
            raise DataError(
                f"{url}: the connection breaks again and again ({reason}). {_size(part)} of {size} bytes are kept; the "
                "same command goes on."
            )
        if _size(part) < size:
            time.sleep(BACKOFF * 2**failures)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _load(url: str, part: Path, have: int, size: int, session: Session, show: Callable[..., Any]) -> None:
    """Load the rest of a file in one answer, or all of it from a server that knows no ranges."""
    with _answer(session, url, {"Range": f"bytes={have}-"} if have else {}) as response:
        resumed = response.status_code == 206
        span, length = (response.headers.get(name, "") for name in ("Content-Range", "Content-Length"))
        said = length if response.status_code == 200 else span.rpartition("/")[2]
        fits = response.status_code == 200 or (resumed and span.startswith(f"bytes {have}-"))
        if not fits or (said.isdigit() and int(said) != size):
            raise DataError(
                f"{url} has {said or 'other'} bytes, {size} were expected: it is not the file of the record. Remove "
                f"{part.name} if it is there and try again."
            )
        have = have if resumed else 0
        with part.open("ab" if resumed else "wb") as file:
            for block in response.iter_content(BLOCK):
                have += len(block)
                if have > size:
                    break
                file.write(block)
                show(completed=have)
    if have > size:
        part.unlink()
        raise DataError(f"{url} sends more than the {size} bytes of the record's file. Nothing of it was kept.")


def unpack_ravdess(archive: Path, folder: Path) -> int:
    """Unpack the clips of an archive into ``Actor_NN`` folders and return how many were not there yet.

    Where a clip goes follows from its name alone. Each is there wholly or not at all.

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
            new = {path: i for path, i in clips.items() if not (path.is_file() and path.stat().st_size == i.file_size)}
            _refuse_small_disk(folder, sum(info.file_size for info in new.values()), "clips")
            with _progress() as bar:
                task = bar.add_task(f"unpacking {archive.name}", total=sum(info.file_size for info in new.values()))
                for path, info in new.items():
                    with file.open(info) as packed, atomic_path(path) as part, part.open("wb") as clip:
                        shutil.copyfileobj(packed, clip, BLOCK)
                    bar.advance(task, info.file_size)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError) as error:
        raise DataError(f"{archive} is damaged ({error}). Remove it and download it again.") from error
    return len(new)


def _actor(archive: Path, stem: str) -> str:
    try:
        return f"Actor_{RavdessName.parse(stem).actor:02d}"
    except DataError as error:
        raise DataError(f"{archive}: {error}") from error
