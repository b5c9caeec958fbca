"""Pretrained encoders as extractors: small models of every kind, and the sizes that their files give in every form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_modules import DataError
from data_modules.features.encoders import IMAGENET_MEAN, IMAGENET_STD, ImageEncoder, TextEncoder

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a tiny model of pictures of 16 x 16 and texts."""
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**small, "vocab_size": 8}, vision_config={**small, "image_size": 16, "patch_size": 8}
    )
    folder = tmp_path_factory.mktemp("encoder") / "tiny-clip"
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"size": 16},
        {"size": [16, 16]},
        {"size": {"height": 16, "width": 16}},
        {"size": {"shortest_edge": 16}},
        {"size": {"longest_edge": 99}},
        {"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": {"height": 16, "width": 16}},
        {"size": 16, "do_center_crop": False, "crop_size": 12},
    ],
)
def test_of_a_model_of_two_kinds_the_part_that_sees(clip: Path, said: dict[str, Any]) -> None:
    (clip / "preprocessor_config.json").write_text(json.dumps(said))
    pictures = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), np.uint8)
    made = ImageEncoder(str(clip))(pictures)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    sees = transformers.CLIPVisionModel.from_pretrained(clip).eval()
    with torch.no_grad():
        expected = sees(pixel_values=(torch.from_numpy(pictures) / 255 - mean) / std).pooler_output
    np.testing.assert_allclose(made, expected, atol=1e-5)


def test_a_card_without_room_says_what_to_do(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, device: str) -> None:
        raise torch.OutOfMemoryError("2 GiB wanted")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(DataError, match=r"tiny-clip' cannot run on the graphics card \(2 GiB.*CUDA_VISIBLE_DEVICES"):
        ImageEncoder(str(clip))


@pytest.mark.gpu
def test_a_gpu_sees_the_same(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 3, 16, 16), np.uint8)
    there = ImageEncoder(str(clip))
    assert there.model.device.type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    np.testing.assert_allclose(there(pictures), ImageEncoder(str(clip))(pictures), atol=1e-4)


def test_an_encoder_of_another_kind_is_refused_at_once(tmp_path: Path) -> None:
    sizes = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.BertModel(transformers.BertConfig(**sizes, intermediate_size=8)).save_pretrained(tmp_path / "bert")
    with pytest.raises(DataError, match=r"The image encoder .*bert' cannot be used .* Name one of pictures"):
        ImageEncoder(str(tmp_path / "bert"))


def test_encoders_that_are_not_there_say_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"The text encoder .* cannot be loaded: give a folder"):
        TextEncoder(str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"The image encoder .* cannot be loaded: give a folder"):
        ImageEncoder(str(tmp_path / "none"))
