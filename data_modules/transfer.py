"""Files from a server: right by their checksum (of pooch), or not there.

This is going on where a transfer broke (``<name>.part``, HTTP ranges), in this call and the next; limits on what a
server may send; and the word for each thing that goes wrong. Needs the extra ``media`` (pooch, requests).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from data_modules.libraries import optional_library
from data_modules.schema import DataError

if TYPE_CHECKING:
    from requests import Response, Session

RETRIES = 5
"""Attempts in a row that bring nothing before a download gives up."""
BACKOFF = 1.0
"""Seconds before the second attempt; doubled for each further one."""
TIMEOUT = (15, 60)
"""Seconds to connect, and to wait for the next bytes."""
BLOCK = 1 << 16
"""Bytes that are written at a time; less than that is lost when a connection breaks."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server.

    Attributes:
        name: Its name.
        size: Bytes.
        checksum: Algorithm and digest, such as ``md5:0123...``.
    """

    name: str
    size: int
    checksum: str

    def part(self, folder: Path) -> Path:
        """Return where it lies until all of it has come."""
        return folder / f"{self.name}.part"

    def missing(self, folder: Path) -> int:
        """Return how many bytes of it are not on disk."""
        return self.size - min(self.size, max(_size(folder / self.name), _size(self.part(folder))))


@contextmanager
def new_session() -> Iterator[Session]:
    """Give a session that repeats requests which the server did not answer or could not serve just now."""
    requests, retry = optional_library("requests", "Downloading"), optional_library("urllib3", "Downloading").Retry
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
def progress() -> Iterator[Progress]:
    """Give a bar for bytes, shown when someone watches."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        yield bar


def read_small(url: str, most: int) -> bytes:
    """Return what is at an address.

    Args:
        url: The address.
        most: Bytes that it may have.

    Raises:
        DataError: When it cannot be had, breaks off, or is larger.
    """
    requests = optional_library("requests", "Downloading")
    content = b""
    with new_session() as session, _answer(session, url, {}) as response:
        try:
            for block in response.iter_content(BLOCK):
                content += block
                if len(content) > most:
                    raise DataError(
                        f"{url} sends more than {most} bytes, which is no list of files. Check the address."
                    )
        except requests.RequestException as error:
            raise DataError(f"{url} breaks off ({error}). Check the connection and give the same command.") from error
    return content


def fetch(url: str, folder: Path, file: RemoteFile, session: Session, bar: Progress) -> Path:
    """Return a file on disk, loaded unless it is there and right.

    Args:
        url: Its address.
        folder: Where it goes.
        file: What it is.
        session: See :func:`new_session`.
        bar: See :func:`progress`.

    Raises:
        DataError: When it cannot be had, or is not right: then nothing of it is kept.
        OSError: When the folder cannot be written.
    """
    pooch = optional_library("pooch", "Downloading")
    part, path = file.part(folder), folder / file.name
    # Not by pooch.retrieve, which lets it come into a file of another name that stays when the process is killed.
    if path.exists() and pooch.hashes.hash_matches(path, file.checksum):
        return path
    folder.mkdir(parents=True, exist_ok=True)
    task = bar.add_task(file.name, total=file.size, completed=_size(part))
    _resume(url, part, file.size, session, partial(bar.update, task))
    if not pooch.hashes.hash_matches(part, file.checksum):
        part.unlink()
        raise DataError(
            f"{file.name} from {url} is not the file of the record: its {file.checksum.partition(':')[0]} is another. "
            "It was removed; the same command loads it anew."
        )
    return part.replace(path)


def _resume(url: str, part: Path, size: int, session: Session, show: Callable[..., Any]) -> None:
    """Load what is missing of a file, again and again while anything comes."""
    requests = optional_library("requests", "Downloading")
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


@contextmanager
def _answer(session: Session, url: str, headers: Mapping[str, str]) -> Iterator[Response]:
    """Give the answer to a request.

    Raises:
        DataError: When there is none, or an error.
    """
    requests = optional_library("requests", "Downloading")
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


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
