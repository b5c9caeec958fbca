"""What several tests of RAVDESS use: a small release, and a server of downloads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data_modules import transfer
from data_modules.datasets.ravdess import download as module
from data_modules.transfer import RemoteFile
from tests.data_modules.datasets.ravdess.release_server import FILM, SONG, SPEECH, Server, names_of, packed
from tests.data_modules.datasets.ravdess.tree import write_release


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of small clips with pictures and sound."""
    return write_release(tmp_path_factory.mktemp("release"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with small archives, known by their checksums as the real ones are."""
    known = Server(
        files={
            SPEECH: packed([name for actor in range(1, 25) for name in names_of(actor)]),
            SONG: packed(["Actor_01/03-02-01-01-01-01-01.wav"]),
            FILM: packed([*names_of(1, "01", "mp4"), *names_of(1, "02", "mp4")]),
        }
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known.answer(self)

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    known.url = f"http://127.0.0.1:{http.server_port}"
    listed = {one["key"]: one for one in known.record["files"]}
    audio = tuple(RemoteFile(name, listed[name]["size"], listed[name]["checksum"]) for name in (SPEECH, SONG))
    monkeypatch.setattr(module, "AUDIO", audio)
    monkeypatch.setattr(transfer, "BACKOFF", 0.0)
    monkeypatch.setattr(transfer, "BLOCK", 1000)
    yield known
    http.shutdown()
    http.server_close()
    thread.join()
