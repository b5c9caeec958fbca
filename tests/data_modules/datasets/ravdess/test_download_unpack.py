"""Unpacking archives of RAVDESS: where clips go, hostile paths, damaged files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from data_modules.datasets.ravdess.download import unpack_ravdess
from data_modules.schema import DataError
from tests.data_modules.datasets.ravdess.release_server import contents, names_of, packed


def test_unpacking_again_changes_nothing_and_mends(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(packed(["Actor_03/", *names_of(3), "__MACOSX/._03-01-01-01-01-01-03.wav", "readme.txt"]))
    assert unpack_ravdess(archive, tmp_path) == 2
    first, second = (tmp_path / name for name in names_of(3))
    before = first.stat().st_mtime_ns
    second.write_bytes(b"cut")
    assert unpack_ravdess(archive, tmp_path) == 1
    assert (first.stat().st_mtime_ns, second.stat().st_size) == (before, 3000)
    assert contents(tmp_path) == {"a.zip", *names_of(3)}
    # Damage that leaves the size as it was is found by the checksum in the archive.
    whole = first.read_bytes()
    first.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert unpack_ravdess(archive, tmp_path) == 1
    assert first.read_bytes() == whole


def test_a_clip_goes_where_its_name_says(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(packed(["03-01-05-01-01-01-07.wav", "deep/Actor_99/03-01-05-01-01-01-08.WAV"]))
    unpack_ravdess(archive, tmp_path)
    assert contents(tmp_path) - {"a.zip"} == {
        "Actor_07/03-01-05-01-01-01-07.wav",
        "Actor_08/03-01-05-01-01-01-08.WAV",
    }


@pytest.mark.parametrize(
    "name",
    [
        "../03-01-05-01-01-01-07.wav",
        "/tmp/03-01-05-01-01-01-07.wav",
        "a\\..\\..\\x.wav",
        "C:\\x.wav",
        "../../etc/passwd",
    ],
)
def test_paths_outside_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    archive = folder / "a.zip"
    archive.write_bytes(packed([*names_of(3), name]))
    with pytest.raises(DataError, match="a path outside itself: nothing was unpacked"):
        unpack_ravdess(archive, folder)
    assert contents(tmp_path) == {"a/b/a.zip"}


def test_damaged_archives(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    content = bytearray(packed(names_of(3)))
    content[600:900] = bytes(300)
    archive.write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        unpack_ravdess(archive, tmp_path)
    assert contents(tmp_path) == {"a.zip"}
    # Bytes that decompress to nothing at all, not only to something else.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(names_of(3)[0], bytes(range(256)) * 50)
    content = bytearray(archive.read_bytes())
    content[70:90] = b"\xff" * 20
    archive.write_bytes(content)
    with pytest.raises(DataError, match="is damaged"):
        unpack_ravdess(archive, tmp_path)
    archive.write_bytes(content[:500])
    with pytest.raises(DataError, match="is damaged"):
        unpack_ravdess(archive, tmp_path)
    archive.write_bytes(packed(["readme.txt"]))
    with pytest.raises(DataError, match="holds no clip of RAVDESS"):
        unpack_ravdess(archive, tmp_path)
    archive.write_bytes(packed(["Actor_01/holiday.wav"]))
    with pytest.raises(DataError, match=r"a\.zip: 'holiday' is not a RAVDESS name"):
        unpack_ravdess(archive, tmp_path)
