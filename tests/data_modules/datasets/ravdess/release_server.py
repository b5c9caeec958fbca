"""A server of RAVDESS on this machine, that serves ranges, cuts connections, lies, and fails as it is told to."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

SPEECH, SONG, FILM = "Audio_Speech_Actors_01-24.zip", "Audio_Song_Actors_01-24.zip", "Video_Speech_Actor_01.zip"
BASE, API = "/records/1188976/files/", "/api/records/1188976"


@dataclass
class Server:
    """What the server has and how it behaves.

    Attributes:
        url: Where it listens.
        files: Content by name.
        cuts: For each coming answer after how many bytes of its body the connection ends; 0 for never.
        ranges: Whether it knows ranges.
        lengths: Whether it says how long an answer is.
        said: A length that it says instead of the true one.
        endless: Whether an answer goes on until the client has enough.
        status: Answer every request with this status.
        record_sent: What it sends instead of the true record.
        requests: Path and range of each request.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    lengths: bool = True
    said: int = 0
    endless: bool = False
    status: int = 0
    record_sent: bytes | None = None
    requests: list[tuple[str, str]] = field(default_factory=list)

    @property
    def record(self) -> dict[str, Any]:
        """The record as Zenodo tells it."""
        files = [
            {"key": name, "size": len(content), "checksum": f"md5:{hashlib.md5(content).hexdigest()}"}
            for name, content in self.files.items()
        ]
        return {"id": 1188976, "files": files}

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path, span = request.path.partition("?")[0], request.headers.get("Range", "")
        self.requests.append((path, span))
        assert request.headers["Accept-Encoding"] == "identity"
        content = None
        if path == API:
            content = json.dumps(self.record).encode() if self.record_sent is None else self.record_sent
        elif path.startswith(BASE):
            content = self.files.get(path.removeprefix(BASE))
        if self.status or content is None:
            request.send_response(self.status or 404)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        total, start = self.said or len(content), 0
        if span and self.ranges:
            start = int(span.removeprefix("bytes=").removesuffix("-"))
            request.send_response(206 if start < total else 416)
            where = f"{start}-{total - 1}" if start < total else "*"
            request.send_header("Content-Range", f"bytes {where}/{total}")
            start = min(start, total)
        else:
            request.send_response(200)
        if self.lengths:
            request.send_header("Content-Length", str(total - start))
        request.end_headers()
        cut = self.cuts.pop(0) if self.cuts else 0
        request.wfile.write(content[start : start + cut] if cut else content[start:])
        with suppress(ConnectionError):
            while self.endless:
                request.wfile.write(bytes(1000))


def packed(names: list[str], size: int = 3000) -> bytes:
    """A zip with a clip of noise under each name."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(name, hashlib.shake_256(name.encode()).digest(size))
    return out.getvalue()


def names_of(actor: int, modality: str = "03", ending: str = "wav") -> list[str]:
    return [f"Actor_{actor:02d}/{modality}-01-{emotion}-01-01-01-{actor:02d}.{ending}" for emotion in ("01", "05")]


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def loads(server: Server) -> list[str]:
    """The ranges asked of the files."""
    return [span for path, span in server.requests if path.startswith(BASE)]
