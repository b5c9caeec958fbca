"""Sample names, padding, and cuts by group."""

import numpy as np
import pytest

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


def test_likely_importer() -> None:
    assert likely_importer({"train": {"labels": 1}, "test": {}}) == "mult"
    assert likely_importer({"train": {"regression_labels": 1}}) == "mmsa"
    assert likely_importer({"dev": [((1, 2, 3), 0.5, "v[0]")]}) == "misa"
    assert likely_importer([((1, 2, 3), 0.5, "v[0]")]) == "misa"
    for other in ({}, [], {"train": {"x": 1}}, {"a": 1}, 3, np.zeros(3)):
        assert likely_importer(other) is None
