"""Sample names, padding, cuts by group, and the registry of importers."""

from pathlib import Path

import numpy as np
import pytest

from data_modules.formats import import_store, importer, importers, options_of
from data_modules.importers import common
from data_modules.importers.common import cut_by_group, extent, hold_out, likely_importer, sample_name, union
from data_modules.schema import DataError


@pytest.mark.parametrize(
    ("raw", "name", "video"),
    [
        ("_dI--eQ6qVU_3", "_dI--eQ6qVU[3]", "_dI--eQ6qVU"),
        (b"_dI--eQ6qVU_3", "_dI--eQ6qVU[3]", "_dI--eQ6qVU"),
        ("_dI--eQ6qVU$_$3", "_dI--eQ6qVU[3]", "_dI--eQ6qVU"),
        ("_dI--eQ6qVU[3]", "_dI--eQ6qVU[3]", "_dI--eQ6qVU"),
        ("_dI--eQ6qVU", "_dI--eQ6qVU", "_dI--eQ6qVU"),
        ("video_0001$_$0002", "video_0001[0002]", "video_0001"),
        (np.array([b"_dI--eQ6qVU_3", b"1.0", b"2.5"]), "_dI--eQ6qVU[3]", "_dI--eQ6qVU"),
        (np.array([b"vid_3", b"1.0", b"2.5"]), "vid[3]", "vid"),
        (["_dI--eQ6qVU_3", "1.0", "2.5"], "_dI--eQ6qVU[3]", "_dI--eQ6qVU"),
        (np.array(["abcdefgh_12", "1.0", "2.5"]), "abcdefgh_12[1.0-2.5]", "abcdefgh_12"),
        (np.array(["100178", "1.0", "2.5"]), "100178[1.0-2.5]", "100178"),
        (("_dI--eQ6qVU_3", "", ""), "_dI--eQ6qVU[3]", "_dI--eQ6qVU"),
        (["vid_7"], "vid[7]", "vid"),
    ],
)
def test_sample_name(raw: object, name: str, video: str) -> None:
    assert sample_name(raw) == (name, video)


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        ([0, 0, 1, 2], (2, 4)),
        ([1, 2, 0, 0], (0, 2)),
        ([0, 1, 0, 2, 0], (1, 4)),
        ([0, 0], (0, 0)),
        ([0, -np.inf, 0], (1, 2)),
        ([np.nan, 0], (0, 1)),
    ],
)
def test_extent(column: list[float], wanted: tuple[int, int]) -> None:
    values = np.zeros((len(column), 3))
    values[:, 1] = column
    assert extent(values) == wanted
    assert extent(np.asarray(column)) == wanted


def test_union_ignores_what_is_empty() -> None:
    assert union([(0, 0), (3, 5), (2, 4)]) == (2, 5)
    assert union([(0, 0), (0, 0)]) == (0, 0)


def test_hold_out_depends_on_the_names_only() -> None:
    names = [f"video{i}" for i in range(40)]
    held = hold_out(names, 0.1)
    assert len(held) == 4
    assert hold_out(names[::-1] + names, 0.1) == held
    # Chosen by hash: neither the first nor the last in order of name.
    assert held not in (set(sorted(names)[:4]), set(sorted(names)[-4:]))
    assert len(hold_out(names, 0.001)) == 1
    for share in (0, 1, -0.1):
        with pytest.raises(DataError, match="share"):
            hold_out(names, share)
    with pytest.raises(DataError, match="two groups"):
        hold_out(["one", "one"], 0.5)


def test_cut_by_group() -> None:
    names = [f"video{i}" for i in range(100)]
    cut = cut_by_group(names)
    assert {split: list(cut.values()).count(split) for split in ("train", "valid", "test")} == {
        "train": 72,
        "valid": 8,
        "test": 20,
    }
    assert set(cut_by_group(names[:3]).values()) == {"train", "valid", "test"}
    with pytest.raises(DataError, match="three groups"):
        cut_by_group(["a", "b", "b"])


def test_registry_is_what_is_there() -> None:
    folder = Path(common.__file__).parent
    defining = {path.stem for path in folder.glob("*.py") if "\ndef read(" in path.read_text()}
    assert set(importers()) == defining
    assert {"misa", "mmsa", "mult", "plain"} <= defining


def test_options_are_typed() -> None:
    for key in importers():
        for name, option in options_of(key).items():
            assert not isinstance(option.annotation, str), (key, name)
            assert option.annotation is not option.empty, (key, name)
            assert f"    {name}: " in str(importer(key).__doc__), f"{key} does not document {name}"


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("mmsaa", {}, "There is no format 'mmsaa'.*Did you mean 'mmsa'"),
        ("mmsa", {"txt": "tokens"}, "There is no option of the mmsa importer 'txt'.*'text'"),
        ("mmsa", {"text": "token"}, "value of the option text 'token'.*'tokens'"),
        ("plain", {"feature_set": "x", "family": "affekt"}, "value of the option family.*'affect'"),
        ("misa", {}, "needs the option embedding"),
        ("mmsa", {}, "nothing at"),
    ],
)
def test_wrong_request(tmp_path: Path, format: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        import_store(format, tmp_path / "none", tmp_path / "out.h5", dataset="mosi", options=options)
    assert not (tmp_path / "out.h5").exists()


def test_likely_importer() -> None:
    assert likely_importer({"train": {"labels": 1}, "test": {}}) == "mult"
    assert likely_importer({"train": {"regression_labels": 1}}) == "mmsa"
    assert likely_importer({"dev": [((1, 2, 3), 0.5, "v[0]")]}) == "misa"
    assert likely_importer([((1, 2, 3), 0.5, "v[0]")]) == "misa"
    for other in ({}, [], {"train": {"x": 1}}, {"a": 1}, 3, np.zeros(3)):
        assert likely_importer(other) is None


def test_an_import_never_writes_over_its_source_or_a_foreign_file(tmp_path: Path) -> None:
    source = tmp_path / "mine.npz"
    np.savez(source, id=np.array(["a"]), label=np.ones(1), text=np.ones((1, 2)))
    before = source.read_bytes()
    (tmp_path / "notes.txt").write_text("precious")
    for out, message in (
        (source, "is the source itself"),
        (tmp_path / "notes.txt", "is no store"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(DataError, match=message):
            import_store("plain", source, out, dataset="mine", options={})
    assert source.read_bytes() == before
    assert (tmp_path / "notes.txt").read_text() == "precious"
