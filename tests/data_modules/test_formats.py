"""The formats that can be imported: which there are, what they are asked for, and what an import never does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_modules.formats import import_store, importer, importers, options_of
from data_modules.schema import DataError

ROOT = Path(__file__).parents[2]


def test_registry_is_what_is_there() -> None:
    files = [path for room in ("importers", "datasets") for path in (ROOT / "data_modules" / room).rglob("*.py")]
    defining = [path for path in files if "\ndef read(" in path.read_text()]
    assert len(defining) == len(importers())
    shared = {path.stem for path in defining if path.parent.name == "importers"}
    assert set(importers()) == shared | {"erc", "iemocap_release", "ravdess", "ravdess_media"}
    assert {"misa", "mmsa", "mult", "plain"} <= shared


def test_formats_are_in_the_order_of_their_keys() -> None:
    assert list(importers()) == sorted(importers())


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
