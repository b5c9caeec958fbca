"""Whether a store is still as it was made: what is noticed, and that it costs once."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from data_modules.schema import DataError
from data_modules.store import FeatureStore, hdf5_heap, verified
from data_modules.store import read as module
from data_modules.store.verified import _remembered as usual_path
from tests.data_modules.stores import edit, make


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where is remembered what was compared; nothing so far."""
    place = tmp_path / "cache" / "verified.json"
    monkeypatch.setattr(verified, "_remembered", lambda: place)
    return place


@pytest.fixture
def store(tmp_path: Path, memory: Path) -> FeatureStore:
    """A store that has not been changed for a moment."""
    made = make(tmp_path / "a.h5")
    time.sleep(2 * verified.TICK_NS / 1e9)
    return made


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read to be compared from here on."""
    files: list[str] = []
    once = module.digests

    def counted(file: h5py.File, *others: Any) -> tuple[str, str]:
        files.append(Path(file.filename).name)
        return once(file, *others)

    monkeypatch.setattr(module, "digests", counted)
    return files


def swap(file: h5py.File, name: str) -> None:
    file[name][:] = file[name][:][::-1]


def rewrite(file: h5py.File, name: str, before: str, after: str) -> None:
    assert before in file.attrs[name]
    file.attrs[name] = file.attrs[name].replace(before, after)


IN_PLACE: dict[str, Callable[[h5py.File], object]] = {
    "labels reversed": lambda file: swap(file, "targets"),
    "features doubled": lambda file: file["modalities/text/values"].write_direct(file["modalities/text/values"][:] * 2),
    "computed features doubled": lambda file: file["modalities/audio/values"].write_direct(
        file["modalities/audio/values"][:] * 2
    ),
    "one value": lambda file: file["modalities/audio/values"].__setitem__((3, 1), 1e-3),
    "splits edited": lambda file: swap(file, "splits/standard/0"),
    "protocols in another order": lambda file: file.copy("splits/standard", "splits/another"),
    "groups": lambda file: swap(file, "groups"),
    "offsets": lambda file: file["modalities/audio/offsets"].__setitem__(1, 2),
    "origins": lambda file: swap(file, "modalities/audio/origins"),
    "recipe": lambda file: rewrite(file, "recipes", "64", "32"),
    "words of a source": lambda file: rewrite(file, "modalities", "dice", "cards"),
    "rate": lambda file: rewrite(file, "modalities", '"rate": 0.0', '"rate": 9.0'),
    "repairs": lambda file: rewrite(file, "repairs", '"nan": 0', '"nan": 1'),
    "libraries": lambda file: rewrite(file, "libraries", np.__version__, "0.1"),
    "target": lambda file: rewrite(file, "target", "-3", "-1"),
    "aligned": lambda file: file.attrs.__setitem__("aligned", True),
    "identity": lambda file: file.attrs.__setitem__("identity", "0" * 64),
    "content": lambda file: file.attrs.__setitem__("content", "0" * 64),
}


@pytest.mark.parametrize("what", IN_PLACE)
def test_what_is_changed_in_place_is_noticed(store: FeatureStore, what: str) -> None:
    store.verify_once()
    edit(store.path, IN_PLACE[what])
    with pytest.raises(DataError, match=r"a\.h5 was changed after it was made: .* Make it again"):
        FeatureStore(store.path).verify_once()
    with pytest.raises(DataError, match=r"a\.h5 was changed after it was made"):
        store.verify()


def test_a_date_that_is_set_back_hides_nothing(store: FeatureStore) -> None:
    store.verify_once()
    before = store.path.stat()
    edit(store.path, IN_PLACE["labels reversed"])
    os.utime(store.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match="was changed after it was made"):
        FeatureStore(store.path).verify_once()


def test_an_id_that_occurs_twice_is_refused_on_open(store: FeatureStore) -> None:
    edit(store.path, lambda file: file["ids"].__setitem__(4, file["ids"][2]))
    with pytest.raises(DataError, match=r"a\.h5 has the sample id 'v1\[2\]' 2 times, so it was changed .* again"):
        FeatureStore(store.path)
    with pytest.raises(DataError, match="was changed after it was made"):
        store.verify()


def test_it_is_compared_once(store: FeatureStore, compared: list[str], memory: Path) -> None:
    store.verify_once()
    store.verify_once()
    FeatureStore(store.path).verify_once()
    assert compared == ["a.h5"]
    assert list(json.loads(memory.read_text())) == [str(store.path)]
    store.verify()  # this one never trusts what is remembered
    assert len(compared) == 2


def test_heaps_of_a_file_that_was_compared_are_sound(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large stores are not read whole each time that a program starts."""
    looked: list[int] = []
    once = hdf5_heap._signatures
    monkeypatch.setattr(hdf5_heap, "_signatures", lambda file: looked.append(1) or once(file))
    monkeypatch.setattr(hdf5_heap, "_sound_files", {})
    FeatureStore(store.path).verify_once()
    assert len(looked) == 1
    hdf5_heap._sound_files.clear()  # as in another process
    FeatureStore(store.path)
    assert len(looked) == 1
    os.utime(store.path, (1, 1))
    FeatureStore(store.path)
    assert len(looked) == 2


def test_a_file_that_was_touched_or_moved_is_compared_again(
    store: FeatureStore, compared: list[str], tmp_path: Path
) -> None:
    store.verify_once()
    os.utime(store.path, (1, 1))
    store.verify_once()
    assert len(compared) == 2
    FeatureStore(shutil.copy(store.path, tmp_path / "b.h5")).verify_once()
    shutil.move(store.path, tmp_path / "c.h5")
    FeatureStore(tmp_path / "c.h5").verify_once()
    assert compared[2:] == ["b.h5", "c.h5"]


def test_a_file_that_may_still_change_unseen_is_not_remembered(
    tmp_path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verified, "TICK_NS", 3_600_000_000_000)
    make(tmp_path / "a.h5").verify_once()
    assert not memory.exists()


@pytest.mark.parametrize("damage", ["[]", "{", '{"PATH": 3}', '{"PATH": ["a"]}', "\x00"])
def test_a_damaged_memory_means_only_to_compare_again(
    store: FeatureStore, compared: list[str], memory: Path, damage: str
) -> None:
    memory.parent.mkdir()
    memory.write_text(damage.replace("PATH", str(store.path)))
    store.verify_once()
    store.verify_once()
    assert compared == ["a.h5"]


def test_a_memory_that_cannot_be_written_means_only_to_compare_again(
    store: FeatureStore, compared: list[str], memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.parent.write_text("a file where the folder should be")
    store.verify_once()
    store.verify_once()
    monkeypatch.setattr(verified, "_remembered", lambda: None)
    store.verify_once()
    assert compared == ["a.h5"] * 3


def test_the_memory_does_not_grow(memory: Path, tmp_path: Path) -> None:
    for number in range(verified.MOST + 5):
        verified.remember(tmp_path / f"{number}.h5", (1, 2, 3, 4), "content")
    names = [Path(name).stem for name in json.loads(memory.read_text())]
    assert names == [str(number) for number in range(5, verified.MOST + 5)]
    verified.remember(tmp_path / "9.h5", (1, 2, 3, 5), "content")
    assert len(json.loads(memory.read_text())) == verified.MOST
    assert [path.name for path in memory.parent.iterdir()] == ["verified.json"]


def test_the_memory_is_in_the_cache_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert usual_path() == tmp_path / "mmbench" / "verified.json"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert usual_path() == tmp_path / "home" / ".cache" / "mmbench" / "verified.json"


@pytest.mark.parametrize("how", ["replaced", "edited"])
def test_another_file_than_the_one_that_was_opened_is_not_read(store: FeatureStore, how: str) -> None:
    before, _ = store.read("text", np.array([0]))
    assert len(before) == 1
    if how == "replaced":
        make(store.path, lambda record: record.inputs["text"].__imul__(2))
    else:
        edit(store.path, IN_PLACE["features doubled"])
    with pytest.raises(DataError, match=r"a\.h5 was replaced after it was opened: start again"):
        store.read("text", np.array([0]))


def test_the_same_store_made_again_is_read_on(store: FeatureStore, compared: list[str]) -> None:
    before, _ = store.read("text", np.array([1]))
    make(store.path)
    for _ in range(2):
        after, _ = store.read("text", np.array([1]))
        np.testing.assert_array_equal(after, before)
    assert compared == ["a.h5"], "only the first reading of the new file has to compare it"
