"""What several tests of importers use: small files of computational sequences."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data_modules.importers.csd_layouts import World, make_world


@pytest.fixture(scope="module")
def world() -> World:
    return make_world()


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.write(tmp_path_factory.mktemp("csd") / "files")
