"""Pickles of strangers: what must load, and what must be refused before it does anything."""

import builtins
import collections
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from data_modules.importers.pickles import load_pickle
from data_modules.schema import DataError

CONTENT = {
    "train": {
        "text": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "transposed": np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
        "big": np.arange(3, dtype=">f8"),
        "empty": np.zeros((0, 4), np.float32),
        "half": np.array([0.5], np.float16),
        "id": np.array(["a$_$1", "bb$_$2"]),
        "bytes": np.array([b"x_1", b"y_2"]),
        "objects": np.array(["a", [1, 2]], dtype=object),
        "mask": np.array([True, False]),
    },
    "scalars": [np.float32(2.5), np.int64(7), np.str_("word"), np.bytes_(b"w"), np.bool_(True)],
    "plain": (1, 2.5, None, True, "text", b"bytes", bytearray(b"ba"), {3, 4}, frozenset({5}), 1 + 2j),
    "ordered": collections.OrderedDict(a=1),
    "default": collections.defaultdict(list, {"a": [1]}),
}


def assert_same(found: object, wanted: object) -> None:
    if isinstance(wanted, np.ndarray):
        array = np.asarray(found)
        assert type(array) is np.ndarray
        # numpy's own unpickling turns foreign byte orders into the native one.
        native = wanted.dtype.newbyteorder("=")
        assert (array.dtype.newbyteorder("="), array.shape) == (native, wanted.shape)
        assert array.tolist() == wanted.tolist()
    elif isinstance(wanted, dict):
        assert isinstance(found, dict)
        assert type(found) is type(wanted)
        assert list(found) == list(wanted)
        for key in wanted:
            assert_same(found[key], wanted[key])
    elif isinstance(wanted, list):
        assert isinstance(found, list)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    else:
        assert found == wanted
        assert type(found) is type(wanted)


@pytest.mark.parametrize("protocol", range(6))
def test_content_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(CONTENT, protocol=protocol))
    assert_same(load_pickle(path), CONTENT)


@pytest.mark.parametrize("protocol", range(4))
def test_numpy_1_module_names(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps(CONTENT, protocol=protocol)
    old = data.replace(b"cnumpy._core.", b"cnumpy.core.")
    assert old != data or b"cnumpy.core." in data
    path = tmp_path / "a.pkl"
    path.write_bytes(old)
    assert_same(load_pickle(path), CONTENT)


def python2_array(dtype: bytes, count: int, data: bytes, order: bytes = b"<") -> bytes:
    """An array as Python 2 wrote it in protocol 2: every text is a byte string, the data too."""
    return (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01"
        + bytes([ord("K"), count])
        + b"\x85cnumpy\ndtype\nU"
        + bytes([len(dtype)])
        + dtype
        + b"K\x00K\x01\x87R(K\x03U\x01"
        + order
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U"
        + bytes([len(data)])
        + data
        + b"tb."
    )


def test_python_2_array(tmp_path: Path) -> None:
    values = np.array([1.5, -200.25, 3e-8], "<f4")
    path = tmp_path / "a.pkl"
    path.write_bytes(python2_array(b"f4", 3, values.tobytes()))
    np.testing.assert_array_equal(np.asarray(load_pickle(path)), values)


class Hostile:
    def __init__(self, function: object, *args: object) -> None:
        self.call = function, args

    def __reduce__(self):
        return self.call


def hostile_cases(marker: Path) -> dict[str, tuple[object, str]]:
    touch = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": (Hostile(os.system, f"touch {marker}"), "posix.system"),
        "eval": (Hostile(builtins.eval, touch), "builtins.eval"),
        "exec": (Hostile(builtins.exec, touch), "builtins.exec"),
        "getattr": (Hostile(builtins.getattr, np.array([1]), "tofile"), "builtins.getattr"),
        "nested": ({"train": [(1, {"id": Hostile(os.mkdir, str(marker))})]}, "posix.mkdir"),
        "in an array": (np.array([Hostile(os.mkdir, str(marker))], dtype=object), "posix.mkdir"),
        "factory": (collections.defaultdict(os.getcwd), "posix.getcwd"),
        "numpy's own": (Hostile(np.loadtxt, str(marker)), "numpy.loadtxt"),
        "numpy.load": (Hostile(np.load, str(marker)), "numpy.load"),
        "class": (Path("x"), "pathlib.PosixPath"),
    }


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("case", list(hostile_cases(Path("x"))))
def test_hostile_pickle_is_refused_by_name_and_does_nothing(tmp_path: Path, case: str, protocol: int) -> None:
    marker = tmp_path / "marker"
    content, name = hostile_cases(marker)[case]
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    wanted = name.replace("builtins", "__builtin__") if protocol < 3 else name
    with pytest.raises(DataError, match=wanted):
        load_pickle(path)
    assert not marker.exists()


def test_hostile_case_is_live(tmp_path: Path) -> None:
    """The marker does appear when the same pickle is loaded without care."""
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(hostile_cases(marker)["os.system"][0]))
    assert marker.exists()


def test_dotted_names_reach_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    name = b"list.__class__.__subclasses__"
    path.write_bytes(b"\x80\x04\x8c\x08builtins\x8c" + bytes([len(name)]) + name + b"\x93.")
    with pytest.raises(DataError, match=r"list\.__class__"):
        load_pickle(path)


def test_codec_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R.")
    with pytest.raises(DataError, match="zlib"):
        load_pickle(path)


def test_forged_dtype_cannot_turn_bytes_into_pointers(tmp_path: Path) -> None:
    """A dtype of objects whose flags deny it: numpy alone takes the bytes as addresses and crashes on reading."""
    data = struct.pack("<Q", 0x4141414141414141)
    path = tmp_path / "a.pkl"
    path.write_bytes(python2_array(b"O8", 1, data, order=b"|"))
    with pytest.raises(DataError, match="array of objects"):
        load_pickle(path)


def test_array_of_objects_with_a_short_list_is_refused(tmp_path: Path) -> None:
    data = pickle.dumps(np.array(["a", "b", "c"], dtype=object), protocol=2)
    shape = b"K\x03\x85"
    assert data.count(shape) == 1
    path = tmp_path / "a.pkl"
    path.write_bytes(data.replace(shape, b"K\xff\x85"))
    with pytest.raises(DataError, match="array of objects"):
        load_pickle(path)


def test_structured_dtype_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(np.zeros(2, dtype=[("a", "O"), ("b", "f4")])))
    with pytest.raises(DataError, match="dtype"):
        load_pickle(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_truncated_pickle(tmp_path: Path, share: float) -> None:
    data = pickle.dumps(CONTENT, protocol=4)
    path = tmp_path / "a.pkl"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match="truncated or another kind"):
        load_pickle(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04rest", "zip archive.*data import plain"),
        (b"\x89HDF\r\n\x1a\n", "HDF5.*data import plain"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"id,label\n1,2\n", "truncated or another kind"),
    ],
)
def test_foreign_file(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        load_pickle(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        load_pickle(tmp_path / "none.pkl")


def test_a_pickle_cannot_change_the_functions_that_stand_in_for_numpy(tmp_path: Path) -> None:
    """BUILD with a slot state would set attributes of a global, and the next honest file would be read by them."""
    path = tmp_path / "poison.pkl"
    path.write_bytes(b"\x80\x02c_codecs\nencode\nN}U\x0c__defaults__U\x04idna\x85s\x86b.")
    with pytest.raises(DataError):
        load_pickle(path)
    honest = tmp_path / "honest.pkl"
    honest.write_bytes(pickle.dumps({"a": b"\xe9"}, protocol=2))
    assert load_pickle(honest) == {"a": b"\xe9"}
