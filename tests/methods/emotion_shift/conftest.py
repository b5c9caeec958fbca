"""A folder for the stores of the tests of Emotion-Shift."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("emotion_shift")
