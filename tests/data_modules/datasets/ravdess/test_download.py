"""Downloads from a server on this machine that serves ranges, cuts connections, lies, and fails."""

from __future__ import annotations

import errno
import io
import shutil
from pathlib import Path
from typing import Any

import pytest

from data_modules import transfer
from data_modules.datasets.ravdess.download import AUDIO, PARTS, download_ravdess
from data_modules.datasets.ravdess.names import find_clips
from data_modules.downloads import download
from data_modules.files import WriteError
from data_modules.schema import DataError
from tests.data_modules.datasets.ravdess.release_server import BASE, SONG, SPEECH, Server, contents, loads, names_of

pytest.importorskip("pooch")


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


def test_a_folder_that_cannot_be_made(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"file/ravdess cannot be written: .*Remove what lies there"):
        download_ravdess(tmp_path / "file" / "ravdess", ["audio-speech"], url=server.url)
    assert server.requests == []


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


def test_nothing_but_the_part_is_there_while_it_comes(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no file stays for ever where the process is killed."""
    seen: list[set[str]] = []
    load = transfer._load

    def seen_after(*arguments: Any) -> None:
        load(*arguments)
        seen.append(contents(tmp_path))

    monkeypatch.setattr(transfer, "_load", seen_after)
    download_ravdess(tmp_path, ["audio-speech"], url=server.url, unpack=False)
    assert seen == [{f"{SPEECH}.part"}]


def test_a_connection_that_always_breaks(tmp_path: Path, server: Server) -> None:
    """Five attempts in a row that bring nothing end it; what came before is kept."""
    server.cuts = [3000, *[100] * 20]
    with pytest.raises(DataError, match=r"breaks again and again .* 3000 of \d+ bytes are kept; the same command"):
        download_ravdess(tmp_path, ["audio-speech"], url=server.url)
    assert len(loads(server)) == 1 + transfer.RETRIES + 1
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
    assert len(loads(server)) == 1 + transfer.RETRIES + 1


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
    assert len(server.requests) == (1 + transfer.RETRIES if status == 503 else 1)
    assert contents(tmp_path) == set()


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "BACKOFF", 0.0)
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
    with pytest.raises(WriteError, match=r"cannot be written: No space left on device\. Free some space there"):
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
