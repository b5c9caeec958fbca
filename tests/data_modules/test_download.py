"""Downloads from a server on this machine that serves ranges, cuts connections, lies, and fails."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data_modules import download as module
from data_modules.download import AUDIO, PARTS, Archive, download, download_ravdess
from data_modules.importers.ravdess_names import find_clips
from data_modules.schema import DataError

pytest.importorskip("pooch")

SPEECH, SONG, FILM = "Audio_Speech_Actors_01-24.zip", "Audio_Song_Actors_01-24.zip", "Video_Speech_Actor_01.zip"
BASE = "/records/1188976/files/"


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
        if path == "/api/records/1188976":
            content = json.dumps(self.record).encode()
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
        cut = self.cuts.pop(0) if self.cuts and path.startswith(BASE) else 0
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
    audio = tuple(Archive(name, listed[name]["size"], listed[name]["checksum"]) for name in (SPEECH, SONG))
    monkeypatch.setattr(module, "AUDIO", audio)
    monkeypatch.setattr(module, "BACKOFF", 0.0)
    monkeypatch.setattr(module, "BLOCK", 1000)
    yield known
    http.shutdown()
    http.server_close()
    thread.join()


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def loads(server: Server) -> list[str]:
    """The ranges asked of the files."""
    return [span for path, span in server.requests if path.startswith(BASE)]


def test_the_release_is_the_published_one() -> None:
    """Archives, sizes and MD5 of the record; 24 actors speak, all but actor 18 sing."""
    assert {one.name: (one.size, one.checksum) for one in AUDIO} == {
        SPEECH: (208_468_073, "md5:bc696df654c87fed845eb13823edef8a"),
        SONG: (225_505_317, "md5:5411230427d67a21e18aa4d466e6d1b9"),
    }
    assert {part: len(names) for part, names in PARTS.items()} == {
        "audio-speech": 1,
        "audio-song": 1,
        "video-speech": 24,
        "video-song": 23,
    }
    assert "Video_Song_Actor_18.zip" not in PARTS["video-song"]


def test_audio_is_loaded_checked_and_unpacked(tmp_path: Path, server: Server) -> None:
    assert download("ravdess", tmp_path / "new" / "ravdess", parts=["audio-speech"], url=f"{server.url}/") == [
        tmp_path / "new" / "ravdess" / SPEECH
    ]
    folder = tmp_path / "new" / "ravdess"
    assert (folder / SPEECH).read_bytes() == server.files[SPEECH]
    expected = {name for actor in range(1, 25) for name in names_of(actor)}
    assert contents(folder) == {SPEECH, *expected}
    assert [path for path, _ in server.requests] == [BASE + SPEECH]  # no list of files for what is known
    clips, foreign = find_clips(folder, "speech")
    assert (len(clips), foreign) == (48, [])


def test_what_is_right_is_not_loaded_again(tmp_path: Path, server: Server) -> None:
    for _ in range(2):
        download_ravdess(tmp_path, ["audio-speech"], url=server.url, unpack=False)
    assert loads(server) == [""]
    assert contents(tmp_path) == {SPEECH}
    # What is wrong is: a file that was changed on disk is replaced.
    (tmp_path / SPEECH).write_bytes(b"changed")
    download_ravdess(tmp_path, ["audio-speech"], url=server.url, unpack=False)
    assert (tmp_path / SPEECH).read_bytes() == server.files[SPEECH]


def test_checksums_of_video_are_read_once_and_kept(tmp_path: Path, server: Server) -> None:
    download_ravdess(tmp_path, [FILM, "audio-song"], url=server.url)
    kept = json.loads((tmp_path / "zenodo-1188976.json").read_text())
    assert kept["files"] == server.record["files"]
    assert {name for name in contents(tmp_path) if name.startswith("Actor")} == {
        *names_of(1, "01", "mp4"),
        *names_of(1, "02", "mp4"),
        "Actor_01/03-02-01-01-01-01-01.wav",
    }
    # Another file of the same size under the same name, in a record that says so too: refused.
    (tmp_path / FILM).unlink()
    server.files[FILM] = bytes(len(server.files[FILM]))
    with pytest.raises(DataError, match=f"{FILM} from .* is not the file of the record: its md5 is another"):
        download_ravdess(tmp_path, [FILM], url=server.url)
    assert [path for path, _ in server.requests].count("/api/records/1188976") == 1
    assert not {FILM, f"{FILM}.part"} & contents(tmp_path)


def test_a_record_with_other_audio_is_refused(tmp_path: Path, server: Server) -> None:
    server.files[SONG] += b"more"
    with pytest.raises(DataError, match=f"another {SONG} than the release"):
        download_ravdess(tmp_path, [FILM], url=server.url)
    assert contents(tmp_path) == set()


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"files": [{"key": 1}]}', b'{"files": [[]]}'])
def test_a_list_of_files_that_is_none(tmp_path: Path, server: Server, content: bytes) -> None:
    (tmp_path / "zenodo-1188976.json").write_bytes(content)
    with pytest.raises(DataError, match=r"zenodo-1188976\.json is no list of files"):
        download_ravdess(tmp_path, [FILM], url=server.url)


def test_a_kept_list_does_not_outweigh_what_is_known(tmp_path: Path, server: Server) -> None:
    other = [{**one, "checksum": f"md5:{'0' * 32}"} if one["key"] == SONG else one for one in server.record["files"]]
    (tmp_path / "zenodo-1188976.json").write_text(json.dumps({"files": other}))
    download_ravdess(tmp_path, [FILM, SONG], url=server.url)
    assert (tmp_path / SONG).read_bytes() == server.files[SONG]


def test_a_list_of_files_that_lacks_something(tmp_path: Path, server: Server) -> None:
    with pytest.raises(DataError, match=r"record 1188976 has no Video_Song_Actor_02\.zip\. If .* is wrong, remove it"):
        download_ravdess(tmp_path, ["Video_Song_Actor_02.zip"], url=server.url)
    path = tmp_path / "zenodo-1188976.json"
    path.write_text(json.dumps({"files": [{"key": FILM, "size": 3, "checksum": "crc:12"}]}))
    with pytest.raises(DataError, match="gives no checksum"):
        download_ravdess(tmp_path, [FILM], url=server.url)


def test_a_cut_connection_goes_on_where_it_stopped(tmp_path: Path, server: Server) -> None:
    """All but less than a block (a thousand bytes here) of what came is kept."""
    server.cuts = [2500, 4000]
    download_ravdess(tmp_path, ["audio-speech"], url=server.url, unpack=False)
    assert loads(server) == ["", "bytes=2000-", "bytes=6000-"]
    assert (tmp_path / SPEECH).read_bytes() == server.files[SPEECH]
    assert contents(tmp_path) == {SPEECH}


def test_a_later_call_goes_on_too(tmp_path: Path, server: Server) -> None:
    (tmp_path / f"{SPEECH}.part").write_bytes(server.files[SPEECH][:10_000])
    download_ravdess(tmp_path, ["audio-speech"], url=server.url, unpack=False)
    assert loads(server) == ["bytes=10000-"]
    assert (tmp_path / SPEECH).read_bytes() == server.files[SPEECH]
    # All of it came, and the end came before it was checked.
    (tmp_path / SPEECH).rename(tmp_path / f"{SPEECH}.part")
    download_ravdess(tmp_path, ["audio-speech"], url=server.url, unpack=False)
    assert len(loads(server)) == 1
    assert contents(tmp_path) == {SPEECH}


def test_a_connection_that_always_breaks(tmp_path: Path, server: Server) -> None:
    """Five attempts in a row that bring nothing end it; what came before is kept."""
    server.cuts = [3000, *[100] * 20]
    with pytest.raises(DataError, match=r"breaks again and again .* 3000 of \d+ bytes are kept; the same command"):
        download_ravdess(tmp_path, ["audio-speech"], url=server.url)
    assert len(loads(server)) == 1 + module.RETRIES + 1
    assert contents(tmp_path) == {f"{SPEECH}.part"}
    server.cuts = []
    download_ravdess(tmp_path, ["audio-speech"], url=server.url, unpack=False)
    assert contents(tmp_path) == {SPEECH}


@pytest.mark.parametrize("lengths", [True, False])
def test_a_server_without_ranges_starts_again(tmp_path: Path, server: Server, lengths: bool) -> None:
    server.ranges, server.lengths, server.cuts = False, lengths, [2000]
    download_ravdess(tmp_path, ["audio-speech"], url=server.url, unpack=False)
    assert loads(server) == ["", "bytes=2000-"]
    assert (tmp_path / SPEECH).read_bytes() == server.files[SPEECH]


def test_a_server_without_lengths_that_always_ends_early(tmp_path: Path, server: Server) -> None:
    server.ranges, server.lengths, server.cuts = False, False, [2000] * 20
    with pytest.raises(DataError, match="it ends too early"):
        download_ravdess(tmp_path, ["audio-speech"], url=server.url)
    assert len(loads(server)) == 1 + module.RETRIES + 1


def test_a_wrong_checksum_leaves_nothing(tmp_path: Path, server: Server) -> None:
    right = server.files[SPEECH]
    server.files[SPEECH] = right[:-1] + b"?"
    with pytest.raises(DataError, match=r"its md5 is another\. It was removed; the same command loads it anew"):
        download_ravdess(tmp_path, ["audio-speech"], url=server.url)
    assert contents(tmp_path) == set()
    server.files[SPEECH] = right
    download_ravdess(tmp_path, ["audio-speech"], url=server.url, unpack=False)
    assert contents(tmp_path) == {SPEECH}


def test_a_part_of_something_else_is_found_out(tmp_path: Path, server: Server) -> None:
    (tmp_path / f"{SPEECH}.part").write_bytes(b"x" * 5000)
    with pytest.raises(DataError, match="its md5 is another"):
        download_ravdess(tmp_path, ["audio-speech"], url=server.url)
    (tmp_path / f"{SPEECH}.part").write_bytes(b"x" * (len(server.files[SPEECH]) + 1))
    download_ravdess(tmp_path, ["audio-speech"], url=server.url, unpack=False)
    assert contents(tmp_path) == {SPEECH}


def test_a_wrong_size_is_refused_before_anything_comes(tmp_path: Path, server: Server) -> None:
    server.said = 5
    with pytest.raises(DataError, match=r"has 5 bytes, \d+ were expected"):
        download_ravdess(tmp_path, ["audio-speech"], url=server.url)
    assert contents(tmp_path) == set()
    (tmp_path / f"{SPEECH}.part").write_bytes(server.files[SPEECH][:2000])  # now the server answers 416
    with pytest.raises(DataError, match=rf"has 5 bytes, \d+ were expected.* Remove {SPEECH}\.part"):
        download_ravdess(tmp_path, ["audio-speech"], url=server.url)


def test_more_than_the_file_is_not_kept(tmp_path: Path, server: Server) -> None:
    server.lengths, server.endless = False, True
    with pytest.raises(DataError, match="sends more than the"):
        download_ravdess(tmp_path, ["audio-speech"], url=server.url)
    assert contents(tmp_path) == set()


@pytest.mark.parametrize("status", [404, 403, 503])
def test_an_error_of_the_server(tmp_path: Path, server: Server, status: int) -> None:
    server.status = status
    with pytest.raises(DataError, match=f"the server answers {status}"):
        download_ravdess(tmp_path, ["audio-speech"], url=server.url)
    # What may pass is asked for again, what will not is not.
    assert len(server.requests) == (1 + module.RETRIES if status == 503 else 1)
    assert contents(tmp_path) == set()


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF", 0.0)
    with pytest.raises(DataError, match=r"cannot be reached .* Check the connection"):
        download_ravdess(tmp_path, ["audio-speech"], url="http://127.0.0.1:9")


def test_a_disk_that_is_too_small(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"has 0\.00 GB left, the downloads need"):
        download_ravdess(tmp_path, ["audio-speech"], url=server.url)
    assert server.requests == []


def test_a_disk_that_fills_up(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written stays, and the same command goes on when there is room."""
    written = 0

    class Full(io.FileIO):
        def write(self, block: Any) -> int:
            nonlocal written
            if written + len(block) > 3000:
                raise OSError(errno.ENOSPC, "No space left on device")
            written += len(block)
            return super().write(block)

    original = Path.open
    monkeypatch.setattr(
        Path, "open", lambda p, mode="r", *a, **k: Full(p, mode) if p.suffix == ".part" else original(p, mode, *a, **k)
    )
    with pytest.raises(DataError, match=r"cannot be written \(.*No space left on device\)\. Make room"):
        download_ravdess(tmp_path, ["audio-speech"], url=server.url)
    assert contents(tmp_path) == {f"{SPEECH}.part"}
    assert (tmp_path / f"{SPEECH}.part").read_bytes() == server.files[SPEECH][:3000]
    monkeypatch.setattr(Path, "open", original)
    download_ravdess(tmp_path, ["audio-speech"], url=server.url, unpack=False)
    assert loads(server)[-1] == "bytes=3000-"
    assert contents(tmp_path) == {SPEECH}


def test_wrong_requests(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no part of ravdess 'audio'\. Did you mean 'audio-s"):
        download("ravdess", tmp_path, parts=["audio"])
    with pytest.raises(DataError, match="Which parts of ravdess"):
        download("ravdess", tmp_path, parts=[])
    with pytest.raises(DataError, match=r"no data set to download 'mosi'.*`mmbench list datasets`"):
        download("mosi", tmp_path, parts=["audio-speech"])
