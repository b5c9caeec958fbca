"""Files in the plain layout that are not what they say: a message with the file, before anything large is read."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data_modules.budget import VARIABLE
from data_modules.formats import import_store
from data_modules.schema import DataError
from tests.data_modules.importers.test_plain import N, bring, columns, save


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": np.array("one")}, r"'id' (has the|holds object of) shape \(\)"),
        ({"label": np.array(1.0)}, "'label' has no rows for 12 samples"),
        ({"group": np.array("one")}, r"'group' (has the|holds object of) shape \(\)"),
        ({"id": np.array(["a"] * 11 + [""])}, "the id in row 11 is empty"),
        ({"label": np.full(N, 1e39)}, r"'sample_0' has the label 1e\+39, too large for 32 bits"),
        ({"audio_lengths": np.full(N, 1 << 61, np.uint64)}, "audio_lengths go up to 2305843009213693952"),
        ({"vision_lengths": np.full(N, ((1 << 64) + 12) // 12, np.uint64)}, "vision has .* rows; 18446744073709551"),
        ({"vision_lengths": np.full(N, -1)}, "vision_lengths must be 12 integers from 0"),
        ({"text": np.zeros((N, 3), complex)}, "text is a complex128 array|'text' holds values of type complex128"),
        ({"text": np.zeros((N, 3), [("a", "i4")])}, "text is a .* array|'text' holds values of type"),
        ({"label": np.zeros((N, 0))}, "without an output"),
    ],
)
@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_columns_of_another_kind(tmp_path: Path, change: dict[str, Any], message: str, suffix: str) -> None:
    with pytest.raises(DataError, match=message) as raised:
        bring(tmp_path, {**columns(), **change}, suffix)
    assert f"mine{suffix}" in str(raised.value)
    assert not (tmp_path / "out.h5").exists()


def test_attributes_of_the_user_are_their_own(tmp_path: Path) -> None:
    for value in (np.bytes_(b"v1"), np.arange(3), "v1"):
        path = save(tmp_path / "mine.h5", columns())
        with h5py.File(path, "r+") as file:
            file.attrs["format"] = value
        import_store("plain", path, tmp_path / "out.h5", dataset="mine", options={})


@pytest.mark.parametrize("label", [1e300, -1.0, np.nan, np.inf, 10_000.0, 0.5])
def test_class_numbers_that_are_none(tmp_path: Path, label: float) -> None:
    with pytest.raises(DataError, match=r"mine.npz: 12 labels are not class numbers below 10000, the first in row 0"):
        bring(tmp_path, {**columns(), "label": np.full(N, label)}, task="multiclass")


@pytest.mark.parametrize("name", ["id", "transcript"])
def test_texts_that_are_no_unicode_name_file_and_sample(tmp_path: Path, name: str) -> None:
    texts = columns()[name].astype("U20")
    texts[3] = "a\ud800"
    with pytest.raises(DataError, match=rf"mine.npz: Sample .* has the {name} 'a\\ud800', which is no Unicode text"):
        bring(tmp_path, {**columns(), name: texts})


def outline(text: str) -> bytes:
    return b"\x93NUMPY\x01\0" + (len(text) + 1).to_bytes(2, "little") + text.encode() + b"\n"


def replace(path: Path, name: str, data: bytes, method: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path) as file:
        members = {one: file.read(one) for one in file.namelist()}
    with zipfile.ZipFile(path, "w", method) as file:
        for one, content in {**members, name: data}.items():
            file.writestr(one, content)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "'audio' cannot be read"),
        (outline("(" * 500), "'audio' cannot be read"),
        (outline("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 2)}"), "that is not its size"),
        (outline("{'descr': '<f8', 'fortran_order': False, 'shape': (-12, 2)}"), "that is not its size"),
        (outline("{'descr': '|O', 'fortran_order': False, 'shape': (12,)}"), "Object arrays hold pickles"),
        (outline("{'descr': '<f8', 'fortran_order': False, 'shape': (6000000,)}") + bytes(48_000_000), "take 0.048GB"),
    ],
)
def test_an_outline_is_not_believed(tmp_path: Path, data: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "40MB")
    path = save(tmp_path / "mine.npz", columns())
    replace(path, "audio.npy", data)
    with pytest.raises(DataError, match=f"mine.npz: .*{message}"):
        import_store("plain", path, tmp_path / "out.h5", dataset="mosi", options={"feature_set": "mine"})


def test_packings_that_nobody_knows_and_damaged_ones(tmp_path: Path) -> None:
    path = save(tmp_path / "mine.npz", columns())
    replace(path, "audio.npy", b"", zipfile.ZIP_DEFLATED)
    unknown = path.read_bytes().replace(b"PK\x03\x04\x14\0\0\0\x08\0", b"PK\x03\x04\x14\0\0\0\x63\0")
    unknown = unknown.replace(b"\x14\x03\x14\0\0\0\x08\0", b"\x14\x03\x14\0\0\0\x63\0")
    path.write_bytes(unknown)
    with pytest.raises(DataError, match=r"mine.npz: '\w+' cannot be read \(.*compression method"):
        import_store("plain", path, tmp_path / "out.h5", dataset="mosi", options={})


def test_hdf5_is_read_as_a_stranger_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt(change: Callable[[h5py.File], object]) -> str:
        path = save(tmp_path / "mine.h5", columns())
        with h5py.File(path, "r+") as file:
            del file["text"]
            change(file)
        with pytest.raises(DataError, match=r"mine\.h5") as raised:
            import_store("plain", path, tmp_path / "out.h5", dataset="mosi", options={})
        return str(raised.value)

    (tmp_path / "secret").write_bytes(bytes(96))
    outside = {"external": [(str(tmp_path / "secret"), 0, 96)]}
    assert "lie in another file" in attempt(lambda file: file.create_dataset("text", (N, 2), "f4", **outside))
    link = h5py.ExternalLink("other.h5", "/x")
    assert "link to another file" in attempt(lambda file: file.__setitem__("text", link))
    assert "leads nowhere" in attempt(lambda file: file.__setitem__("text", h5py.SoftLink("/nowhere")))
    assert "is damaged" in attempt(lambda file: file.__setitem__("text", h5py.SoftLink("/text")))
    assert "'text' is a group" in attempt(lambda file: file.create_dataset("text/deep", data=[1]))
    assert "'text' is a datatype" in attempt(lambda file: file.__setitem__("text", np.dtype("f8")))
    assert "'text' is empty" in attempt(lambda file: file.create_dataset("text", data=h5py.Empty("f4")))
    ragged = h5py.vlen_dtype("i4")
    assert "numbers were expected" in attempt(lambda file: file.create_dataset("text", (N,), ragged))
    huge = {"shape": (N, 10**9), "dtype": "f4", "chunks": (1, 64)}
    assert "more than a file of this size" in attempt(lambda file: file.create_dataset("text", **huge))
    monkeypatch.setenv(VARIABLE, "1MB")
    large = {"shape": (N, 10**5), "dtype": "f4", "chunks": (N, 10**5)}
    assert "files may take 0.001GB" in attempt(lambda file: file.create_dataset("text", **large))


@pytest.mark.parametrize(
    "options", [{"feature_set": "../../../up"}, {"protocol": "../x"}, {"protocol": "everything"}, {"feature_set": "/x"}]
)
def test_names_that_lead_elsewhere_are_refused_before_anything_is_read(tmp_path: Path, options: dict[str, str]) -> None:
    (tmp_path / "mine.npz").write_bytes(b"is not looked at")
    with pytest.raises(DataError, match=f"the option {next(iter(options))}: .* cannot be named"):
        import_store("plain", tmp_path / "mine.npz", tmp_path / "out.h5", dataset="mosi", options=options)
    with pytest.raises(DataError, match=r"the data set cannot be named '\.\./x'"):
        import_store("plain", tmp_path / "mine.npz", tmp_path / "out.h5", dataset="../x", options={})
