"""Reading computational sequences: their layouts, what overlaps in time, which file is what, and hostile files."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from data_modules.datasets.synthetic.generator import write_synthetic
from data_modules.importers.csd_files import EPSILON, CsdFile, Timeline, average, find_files
from data_modules.schema import DataError
from tests.data_modules.importers.csd_layouts import naive_mean, naive_overlap, tokens, write_csd

ROW = (np.ones((1, 2), np.float32), np.array([[0.0, 1.0]]))
ROLES = dict.fromkeys(("words", "text", "audio", "vision", "labels"), "")


def test_rows_in_a_span_are_those_of_a_naive_search() -> None:
    """Rows that overlap, lie in each other, touch, or are empty; spans on and beside their borders."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        starts = np.sort(rng.integers(0, 12, 9) / 4)
        intervals = np.stack([starts, starts + rng.choice([0, 4e-6, 0.25, 0.5, 2], 9)], axis=1)
        span = np.sort(rng.integers(0, 14, 2) / 4) + rng.choice([0, 4e-6, -4e-6, 2e-5, -2e-5], 2)
        rows = [(*pair, values) for pair, values in zip(intervals.tolist(), rng.normal(size=(9, 3)), strict=True)]
        expected = [k for k, row in enumerate(rows) if naive_overlap(row[:2], tuple(span))]
        timeline = Timeline(intervals)
        assert timeline.within(*span).tolist() == expected
        values, filled = average([np.array([row[2] for row in rows])[timeline.within(*span)]], 3)
        np.testing.assert_allclose(values[0], naive_mean(rows, tuple(span), 3), atol=1e-12)
        assert filled == bool(expected)


def test_ten_microseconds_are_no_overlap() -> None:
    timeline = Timeline(np.array([[0.0, 1.0], [1.0, 2.0]]))
    assert EPSILON == 1e-5
    assert timeline.within(0.5, 1 + 0.9e-5).tolist() == [0]
    assert timeline.within(0.5, 1 + 1.1e-5).tolist() == [0, 1]
    assert timeline.within(1 - 0.9e-5, 1.5).tolist() == [1]
    assert timeline.within(1.5, 0.5).tolist() == []
    assert Timeline(np.zeros((0, 2))).within(0, 1).tolist() == []


@pytest.mark.parametrize("metadata", ["json", "plain"])
@pytest.mark.parametrize("compressed", [True, False])
def test_entries_are_read_by_start(tmp_path: Path, metadata: str, compressed: bool) -> None:
    intervals = np.array([[1.0, 2.0], [0.0, 1.0], [2.0, 2.5]])
    path = write_csd(
        tmp_path / "a.csd", "FACET 4.1", {"v": (np.arange(6.0).reshape(3, 2), intervals)}, metadata, compressed
    )
    file = CsdFile(path)
    assert (file.root, file.version, file.strings, file.dim) == ("FACET 4.1", "1.0", False, 2)
    entry = file.entry("v")
    assert entry.names == ["v[1]", "v[0]", "v[2]"]
    assert entry.features.tolist() == [[2.0, 3.0], [0.0, 1.0], [4.0, 5.0]]
    assert entry.intervals.tolist() == file.intervals("v").tolist() == [[0.0, 1.0], [1.0, 2.0], [2.0, 2.5]]


def test_entries_of_an_aligned_file_belong_to_their_video(tmp_path: Path) -> None:
    """After the SDK's own alignment the keys are ``video[k]``, in HDF5 in alphabetic order."""
    whole = {f"v-1[{k}]": (np.full((1, 2), k), np.array([[float(k), k + 1.0]])) for k in (0, 2, 10)}
    file = CsdFile(write_csd(tmp_path / "a.csd", "All Labels", whole))
    assert list(file.videos) == ["v-1"]
    entry = file.entry("v-1")
    assert entry.names == ["v-1[0]", "v-1[2]", "v-1[10]"]
    assert entry.features[:, 0].tolist() == [0, 2, 10]


@pytest.mark.parametrize("kind", ["bytes", "variable"])
def test_words_are_strings(tmp_path: Path, kind: str) -> None:
    words = tokens(["caf\xe9", "sp", "selfexplanatory"]) if kind == "bytes" else np.array([["café"], ["sp"], ["a"]])
    features = words if kind == "bytes" else words.astype(h5py.string_dtype())
    path = write_csd(tmp_path / "a.csd", "words", {"v": (features, np.array([[0.0, 1], [1, 2], [2, 3]]))})
    file = CsdFile(path)
    assert file.strings
    assert file.entry("v").features.tolist()[:2] == ["café", "sp"]


def test_metadata_may_be_missing(tmp_path: Path) -> None:
    path = write_csd(tmp_path / "a.csd", "words", {"v": ROW})
    with h5py.File(path, "a") as file:
        del file["words/metadata"]
    assert CsdFile(path).version == ""


@pytest.mark.parametrize(
    ("name", "root", "role"),
    [
        ("CMU_MOSI_TimestampedWordVectors", "glove_vectors", "text"),
        ("CMU_MOSI_COVAREP", "COAVAREP", "audio"),
        ("CMU_MOSI_OpenSmile_EB10", "OpenSmile-emobase2010", "audio"),
        ("CMU_MOSI_openSMILE_IS09", "OpenSMILE", "audio"),
        ("CMU_MOSI_Visual_Facet_41", "FACET 4.1", "vision"),
        ("CMU_MOSI_Visual_OpenFace_2", "OpenFace_2", "vision"),
        ("CMU_MOSI_Opinion_Labels", "Opinion Segment Labels", "labels"),
        ("CMU_MOSEI_VisualFacet42", "FACET 4.2", "vision"),
        ("CMU_MOSEI_VisualOpenFace2", "OpenFace_2", "vision"),
        ("CMU_MOSEI_Labels", "All Labels", "labels"),
        ("emotions", "Emotion Labels", "labels"),
        ("sentiment", "Sentiment", "labels"),
        ("something", "else", ""),
    ],
)
def test_released_files_are_known_by_their_names(tmp_path: Path, name: str, root: str, role: str) -> None:
    path = write_csd(tmp_path / f"{name}.csd", root, {"v": ROW})
    found, ignored = find_files(path, ROLES)
    assert list(found) == ([role] if role else [])
    assert ignored == ([] if role else [path.name])


def test_words_are_known_by_their_content_and_phones_by_their_name(tmp_path: Path) -> None:
    row = (tokens(["a"]), np.array([[0.0, 1.0]]))
    write_csd(tmp_path / "CMU_MOSI_TimestampedPhones.csd", "phoneme", {"v": row})
    words = write_csd(tmp_path / "CMU_MOSI_ModifiedTimestampedWords.csd", "anything", {"v": row})
    found, ignored = find_files(tmp_path, ROLES)
    assert (found["words"].path, ignored) == (words, ["CMU_MOSI_TimestampedPhones.csd"])


def test_a_role_has_one_file(tmp_path: Path) -> None:
    write_csd(tmp_path / "CMU_MOSI_COVAREP.csd", "COAVAREP", {"v": ROW})
    smile = write_csd(tmp_path / "CMU_MOSI_openSMILE_IS09.csd", "OpenSMILE", {"v": ROW})
    with pytest.raises(DataError, match=r"several files for audio: CMU_MOSI_COVAREP.csd, .* the option `audio`"):
        find_files(tmp_path, ROLES)
    found, ignored = find_files(tmp_path, {**ROLES, "audio": "CMU_MOSI_openSMILE_IS09.csd"})
    assert (found["audio"].path, ignored) == (smile, ["CMU_MOSI_COVAREP.csd"])
    assert find_files(tmp_path, {**ROLES, "audio": "none"})[0] == {}
    # Any numbers may be called anything; strings may not.
    assert find_files(tmp_path, {**ROLES, "audio": "none", "vision": str(smile)})[0]["vision"].path == smile
    with pytest.raises(DataError, match="holds numbers: it cannot be used for words"):
        find_files(tmp_path, {**ROLES, "words": str(smile)})
    with pytest.raises(DataError, match=r"no file gone\.csd for audio"):
        find_files(tmp_path, {**ROLES, "audio": "gone.csd"})


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no \.csd file"):
        find_files(tmp_path, ROLES)


def broken(path: Path, what: str) -> None:
    """Damage the entry v of a file of numbers, or its whole."""
    with h5py.File(path, "a") as file:
        data = file["r/data"]
        entry = data["v"]
        if what == "rows":
            del entry["intervals"]
            entry["intervals"] = np.zeros((2, 2))
        elif what == "no features":
            del entry["features"]
        elif what == "no numbers":
            del entry["features"]
            entry["features"] = np.array([(1, 2.0)], dtype=[("a", int), ("b", float)])
        elif what == "external link":
            del data["v"]
            data["v"] = h5py.ExternalLink("other.h5", "/secret")
        elif what == "soft link":
            del data["v"]
            data["v"] = h5py.SoftLink("/r/data/w")
        elif what == "external storage":
            del entry["features"]
            entry.create_dataset("features", (1, 2), "f4", external=[(str(path.parent / "secret.bin"), 0, 8)])
        elif what == "too large":
            del entry["features"], entry["intervals"]
            entry.create_dataset("features", (10**10, 2), "f4", chunks=(1000, 2))
            entry.create_dataset("intervals", (10**10, 2), "f8", chunks=(1000, 2))
        elif what == "ragged":
            del entry["features"]
            entry.create_dataset("features", (1, 2), h5py.vlen_dtype("i4"))
        elif what == "group":
            del entry["features"]
            entry.create_group("features")
        elif what == "columns":
            del entry["features"]
            entry["features"] = np.ones((1, 3), np.float32)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("rows", r"'v' has features \(1, 2\) and intervals \(2, 2\)"),
        ("no features", "'v' has no data set 'features' of its own"),
        ("no numbers", "'v' has features of type"),
        ("external link", "'v' has no data set 'features' of its own"),
        ("soft link", "'v' has no data set 'features' of its own"),
        ("external storage", "'v' has no data set 'features' of its own"),
        ("too large", "'v' claims 240.0 GB, more than any video has"),
        ("columns", "'v' has 3 columns, most entries have 2"),
        ("ragged", "'v' has features of type object"),
        ("group", "'v' has no data set 'features' of its own"),
    ],
)
def test_a_damaged_entry_does_not_take_the_others_along(tmp_path: Path, what: str, message: str) -> None:
    path = write_csd(tmp_path / "a.csd", "r", {"v": ROW, "w": ROW, "x": ROW})
    broken(path, what)
    file = CsdFile(path)
    assert list(file.videos) == ["w", "x"]
    assert list(file.broken) == ["v"]
    with pytest.raises(DataError, match=message):
        raise DataError(file.broken["v"])
    if what != "columns":
        alone = write_csd(tmp_path / "b.csd", "r", {"v": ROW})
        broken(alone, what)
        with pytest.raises(DataError, match=f"{message}.* No entry of the file can be used"):
            CsdFile(alone)


@pytest.mark.parametrize("link", [h5py.ExternalLink("other.csd", "/r/data"), h5py.SoftLink("/there")])
def test_a_file_of_links_is_refused(tmp_path: Path, link: object) -> None:
    write_csd(tmp_path / "other.csd", "r", {"secret": ROW})
    path = write_csd(tmp_path / "a.csd", "r", {"v": ROW})
    with h5py.File(path, "a") as file:
        file.move("r/data", "there")
        file["r/data"] = link
    with pytest.raises(DataError, match="no computational sequence"):
        CsdFile(path)


@pytest.mark.parametrize("where", ["metadata", "metadata/computational sequence version"])
def test_the_version_is_not_that_of_another_file(tmp_path: Path, where: str) -> None:
    write_csd(tmp_path / "other.csd", "r", {"v": ROW})
    path = write_csd(tmp_path / "a.csd", "r", {"v": ROW})
    with h5py.File(path, "a") as file:
        del file[f"r/{where}"]
        file[f"r/{where}"] = h5py.ExternalLink("other.csd", f"/r/{where}")
    assert CsdFile(path).version == ""


def test_many_large_entries_of_one_video_are_refused(tmp_path: Path) -> None:
    """Each of them would do; nothing is written for them, so that the file is small."""
    path = write_csd(tmp_path / "a.csd", "r", {"w": ROW})
    with h5py.File(path, "a") as file:
        for k in range(6):
            entry = file.create_group(f"r/data/v[{k}]")
            entry.create_dataset("features", (10**7, 2), "f4", chunks=(1000, 2))
            entry.create_dataset("intervals", (10**7, 2), "f8", chunks=(1000, 2))
    assert path.stat().st_size < 1 << 20
    file = CsdFile(path)
    assert list(file.videos) == ["w"]
    assert "'v' claims 1.2 GB, more than any video has" in file.broken["v"]


def test_what_macos_leaves_beside_the_files_is_no_file(tmp_path: Path) -> None:
    path = write_csd(tmp_path / "CMU_MOSI_COVAREP.csd", "COAVAREP", {"v": ROW})
    (tmp_path / f"._{path.name}").write_bytes(b"\0\5\26\7")
    found, ignored = find_files(tmp_path, ROLES)
    assert ({role: file.path for role, file in found.items()}, ignored) == ({"audio": path}, [])


def test_a_time_that_is_no_number(tmp_path: Path) -> None:
    path = write_csd(tmp_path / "a.csd", "r", {"v": (ROW[0], np.array([[0.0, np.nan]]))})
    with pytest.raises(DataError, match="'v' has a time that is no number"):
        CsdFile(path).intervals("v")


def test_foreign_files(tmp_path: Path) -> None:
    store = write_synthetic(tmp_path / "store.h5", samples=(4, 4, 4)).path
    with pytest.raises(DataError, match=r"no computational sequence: .* its first key is 'groups'"):
        CsdFile(store)
    empty = tmp_path / "empty.csd"
    h5py.File(empty, "w").close()
    with pytest.raises(DataError, match="no computational sequence"):
        CsdFile(empty)
    text = tmp_path / "text.csd"
    text.write_text("<html>404</html>")
    with pytest.raises(DataError, match="cannot be read as a computational sequence"):
        CsdFile(text)
    whole = write_csd(tmp_path / "whole.csd", "r", {"v": ROW})
    cut = tmp_path / "cut.csd"
    cut.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(DataError, match="cut or another kind of file: get it again"):
        CsdFile(cut)


def test_a_damaged_block_is_no_traceback(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(500, 4))
    path = write_csd(tmp_path / "a.csd", "r", {"v": (features, np.stack([np.arange(500.0), np.arange(500.0) + 1], 1))})
    with h5py.File(path) as file:
        block = file["r/data/v/features"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[block.byte_offset + 20 : block.byte_offset + 60] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(DataError, match="get it again"):
        CsdFile(path).entry("v")


def test_one_array_under_many_names_is_no_larger_file(tmp_path: Path) -> None:
    """Each entry is allowed; all of them are more than the file can hold."""
    path = write_csd(tmp_path / "a.csd", "COVAREP", {"v": ROW})
    with h5py.File(path, "r+") as file:
        data = file["COVAREP/data"]
        big = data.create_group("w")
        big.create_dataset("features", (4_000_000, 2), "f4", chunks=(1000, 2))
        big.create_dataset("intervals", (4_000_000, 2), "f8", chunks=(1000, 2))
        for number in range(50):
            data[f"w{number}"] = big
    with pytest.raises(DataError, match=r"a\.csd claims 4\.9 GB in \d+ bytes, which cannot be packed so tight"):
        CsdFile(path)


def test_one_text_many_times_is_refused_before_it_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_csd(tmp_path / "a.csd", "words", {"v": (tokens(["a"] * 40), np.tile([0.0, 1.0], (40, 1)))})
    with h5py.File(path, "r+") as file:
        del file["words/data/v/features"]
        file.create_dataset("words/data/v/features", data=[["x" * 1_000_000]] * 40, dtype=h5py.string_dtype())
    monkeypatch.setenv("MMBENCH_MEMORY", "1GB")
    with pytest.raises(DataError, match=r"'/words/data/v/features' has 17000000 characters"):
        CsdFile(path).entry("v")


def test_words_of_any_length_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"word{number}" for number in range(30)]
    path = write_csd(tmp_path / "a.csd", "words", {"v": (tokens(words), np.tile([0.0, 1.0], (30, 1)))})
    with h5py.File(path, "r+") as file:
        del file["words/data/v/features"]
        file.create_dataset("words/data/v/features", data=[[word] for word in words], dtype=h5py.string_dtype())
    monkeypatch.setenv("MMBENCH_MEMORY", "1MB")  # a few at a time
    assert CsdFile(path).entry("v").features.tolist() == words


def test_words_in_a_heap_without_end_are_not_followed(tmp_path: Path) -> None:
    path = write_csd(tmp_path / "a.csd", "words", {"v": (tokens(["a"]), np.array([[0.0, 1.0]]))})
    with h5py.File(path, "r+") as file:
        del file["words/data/v/features"]
        data = file.create_dataset("words/data/v/features", data=[["word"]], dtype=h5py.string_dtype())
        file.flush()
        place = data.id.get_offset()
    whole = path.read_bytes()
    assert CsdFile(path).entry("v").features.tolist() == ["word"]
    for heap in (at.start() for at in re.finditer(b"GCOL", whole)):
        path.write_bytes(whole[: heap + 16] + bytes(16) + whole[heap + 32 :])
        with pytest.raises(DataError, match=rf"a\.csd: the texts at byte {heap} are damaged"):
            CsdFile(path)
    path.write_bytes(whole[: place + 3] + b"\xf0" + whole[place + 4 :])
    with pytest.raises(DataError, match=r"a\.csd: '/words/data/v/features' is damaged: it has a text larger than"):
        CsdFile(path).entry("v")
