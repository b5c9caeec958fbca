"""The list of files of a record: checked, kept, and never believed for more than it can say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_modules.datasets.ravdess.download import LIST, LONGEST_LIST, download_ravdess
from data_modules.schema import DataError
from tests.data_modules.datasets.ravdess.release_server import API, FILM, SONG, Server, contents, names_of

pytest.importorskip("pooch")


def test_checksums_of_video_are_read_once_and_kept(tmp_path: Path, server: Server) -> None:
    download_ravdess(tmp_path, [FILM, "audio-song"], url=server.url)
    kept = json.loads((tmp_path / LIST).read_text())
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
    assert [path for path, _ in server.requests].count(API) == 1
    assert not {FILM, f"{FILM}.part"} & contents(tmp_path)


def test_a_record_with_other_audio_is_refused(tmp_path: Path, server: Server) -> None:
    server.files[SONG] += b"more"
    with pytest.raises(DataError, match=f"another {SONG} than the release"):
        download_ravdess(tmp_path, [FILM], url=server.url)
    assert contents(tmp_path) == set()


@pytest.mark.parametrize("content", [b"<html>", b"[]", b'{"files": [{"size": 1}]}', b'{"files": [[]]}'])
def test_a_list_of_files_that_is_none(tmp_path: Path, server: Server, content: bytes) -> None:
    (tmp_path / LIST).write_bytes(content)
    with pytest.raises(DataError, match=r"zenodo-1188976\.json is no list of files"):
        download_ravdess(tmp_path, [FILM], url=server.url)


def test_a_kept_list_does_not_outweigh_what_is_known(tmp_path: Path, server: Server) -> None:
    other = [{**one, "checksum": f"md5:{'0' * 32}"} if one["key"] == SONG else one for one in server.record["files"]]
    (tmp_path / LIST).write_text(json.dumps({"files": other}))
    download_ravdess(tmp_path, [FILM, SONG], url=server.url)
    assert (tmp_path / SONG).read_bytes() == server.files[SONG]


def test_a_list_of_files_that_lacks_something(tmp_path: Path, server: Server) -> None:
    with pytest.raises(DataError, match=r"the record at http.* has no Video_Song_Actor_02\.zip\. .*remove"):
        download_ravdess(tmp_path, ["Video_Song_Actor_02.zip"], url=server.url)
    assert contents(tmp_path) == set(), "a list that lacks something is not kept"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checksum": "crc:12"}, "gives no checksum for"),
        ({"checksum": "md5:../../up"}, "gives no checksum for"),
        ({"size": 10**30}, "a size of 1000"),
        ({"size": "3"}, "a size of 3"),
        ({"size": 1e300}, r"a size of 1e\+300"),
        ({"size": -1}, "a size of -1"),
    ],
)
def test_a_list_is_checked_before_it_is_kept(tmp_path: Path, server: Server, change: dict, message: str) -> None:
    server.record_sent = json.dumps({"files": [{**one, **change} for one in server.record["files"]]}).encode()
    for kept in (False, True):
        if kept:
            (tmp_path / LIST).write_bytes(server.record_sent)
        with pytest.raises(DataError, match=message):
            download_ravdess(tmp_path, [FILM], url=server.url)
        assert contents(tmp_path) == ({LIST} if kept else set())


def test_a_list_without_end_is_not_read(tmp_path: Path, server: Server) -> None:
    server.lengths, server.endless = False, True
    with pytest.raises(DataError, match=rf"api/records/1188976 sends more than {LONGEST_LIST} bytes"):
        download_ravdess(tmp_path, [FILM], url=server.url)
    for long in (b" " * (LONGEST_LIST + 1), b"[" * LONGEST_LIST):
        (tmp_path / LIST).write_bytes(long)
        with pytest.raises(DataError, match=r"zenodo-1188976\.json is no list of files"):
            download_ravdess(tmp_path, [FILM], url=server.url)


def test_a_connection_that_breaks_in_the_list_is_no_full_disk(tmp_path: Path, server: Server) -> None:
    server.cuts = [50]
    with pytest.raises(DataError, match=r"api/records/1188976 breaks off .* Check the connection"):
        download_ravdess(tmp_path, [FILM], url=server.url)
    assert contents(tmp_path) == set()
