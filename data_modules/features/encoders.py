"""Pretrained encoders of the library transformers as extractors: words and pictures to vectors.

Needs the extra ``text`` (transformers). An encoder is named as everywhere in that library, or by the folder that it was
saved to. It is read once and never trained here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import interpolate

from data_modules.features.media import Pictures
from data_modules.libraries import optional_library
from data_modules.schema import DataError
from data_modules.store.provenance import Recipe, array_digest, digest

LONGEST = 512
AT_ONCE = 16  # pictures that are encoded together
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""How pictures are normalised for an encoder that does not say."""
USUAL_SIDE = 224
REVISION = 1
"""Of the code here: raise it with every change after which the same texts or pictures give other vectors."""
LIBRARIES = ("numpy", "torch", "transformers")

_NO_ROOM = (
    "{what} {name!r} cannot run on the graphics card ({error}). Make room on it, or set CUDA_VISIBLE_DEVICES to "
    "nothing, and it runs on the CPU."
)

Floats = npt.NDArray[np.float32]


def _load(part: str, name: str, what: str) -> Any:
    transformers = optional_library("transformers", what, "text")
    try:
        return getattr(transformers, part).from_pretrained(name)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{what} {name!r} cannot be loaded: give a folder with the model's files, or a model name and network "
            f"access. ({error})"
        ) from error


def _placed(model: Any, name: str, what: str) -> Any:
    """Put an encoder on the graphics card, where there is one."""
    try:
        return model.to("cuda" if torch.cuda.is_available() else "cpu")
    except RuntimeError as error:
        raise DataError(_NO_ROOM.format(what=what, name=name, error=error)) from error


def _try(once: Callable[[], object], name: str, what: str, advice: str) -> None:
    """Use an encoder once, so that one of another kind is refused before anything is decoded."""
    try:
        once()
    except torch.OutOfMemoryError as error:
        raise DataError(_NO_ROOM.format(what=what, name=name, error=error)) from error
    except Exception as error:  # whatever a model says of inputs that it was not made for
        raise DataError(f"{what} {name!r} cannot be used ({type(error).__name__}: {error}). {advice}") from error


def _side(*sizes: Any) -> int:
    """Return the first side of a square that an encoder's files give: a number, a pair, or a height or edge by name."""
    for size in sizes:
        if isinstance(size, Mapping):
            size = size.get("height") or size.get("shortest_edge")
        if isinstance(size, list | tuple):
            size = size[0]
        if size:
            return int(size)
    return USUAL_SIDE


def title(name: str) -> str:
    """Return the name of an encoder without the folders of a machine."""
    return Path(name).name if os.sep in name and Path(name).exists() else name


def _weights(model: torch.nn.Module, without: str = "-") -> str:
    """Return the digest of an encoder's parameters and running means, whatever kind of file they come from.

    Args:
        model: The encoder.
        without: Start of the names of a part that is not used. Files often lack it: then it is drawn anew each time.
    """
    weights = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    used = sorted(name for name in weights if not name.startswith(without))
    # In single precision, to which libraries may or may not widen what a file holds.
    return digest([used, array_digest(weights[name].float().cpu().numpy() for name in used)])


class TextEncoder:
    """Texts to the hidden states of an encoder's last layer, one per token, the special ones included.

    Args:
        name: Model, by name or folder; its tokenizer lies with it.

    Attributes:
        text: The extractor in words.
        recipe: The extractor, known by its weights and vocabulary.

    Raises:
        DataError: When the extra is not installed, or the model cannot be found or is none of texts.
    """

    def __init__(self, name: str) -> None:
        self.tokenizer = _load("AutoTokenizer", name, "The text encoder")
        self.model = _placed(_load("AutoModel", name, "The text encoder").eval(), name, "The text encoder")
        positions = getattr(self.model.config, "max_position_embeddings", LONGEST)
        self.longest = min(LONGEST, positions, self.tokenizer.model_max_length)
        self.text = f"{title(name)}, hidden states of the last layer"
        _try(lambda: self("a"), name, "The text encoder", "Name one of texts, such as bert-base-uncased.")
        settings = {
            "weights": _weights(self.model, without="pooler."),
            "vocabulary": digest(self.tokenizer.get_vocab()),
        }
        self.recipe = Recipe("text encoder", {**settings, "longest": self.longest}, REVISION, LIBRARIES)

    @torch.no_grad()
    def __call__(self, text: str) -> Floats:
        """Return ``(tokens, D)`` for a text; tokens beyond 512, or what the encoder can read, are cut off."""
        tokens = self.tokenizer(text, truncation=True, max_length=self.longest, return_tensors="pt")
        return np.asarray(self.model(**tokens.to(self.model.device)).last_hidden_state[0].float().cpu().numpy())


class ImageEncoder:
    """Pictures to one vector each: what the encoder pools, or the mean of its last hidden states.

    Pictures are resized to the square that the encoder was trained on, and normalised as its files say. Of a model of
    pictures and texts, such as CLIP, the part that sees is used.

    Args:
        name: Model, by name or folder.

    Attributes:
        text: The extractor in words.

    Raises:
        DataError: When the extra is not installed, or the model cannot be found or is none of pictures.
    """

    def __init__(self, name: str) -> None:
        model = _load("AutoModel", name, "The image encoder").eval()
        self.model = _placed(getattr(model, "vision_model", model), name, "The image encoder")
        library = optional_library("transformers.image_processing_base", "The image encoder", "text")
        try:
            said, _ = library.ImageProcessingMixin.get_image_processor_dict(name)
        except OSError:  # models may come without a processor
            said = {}
        # Where the middle of a larger picture is cut out, the cut is what the encoder sees.
        cut = said.get("crop_size") if said.get("do_center_crop") else None
        self.size = _side(cut, said.get("size"), getattr(self.model.config, "image_size", None))
        self.mean, self.std = (
            torch.tensor(said.get(key) or usual, device=self.model.device).view(3, 1, 1)
            for key, usual in (("image_mean", IMAGENET_MEAN), ("image_std", IMAGENET_STD))
        )
        self.text = f"{title(name)}, pooled vector of each picture"
        picture = np.zeros((1, 3, self.size, self.size), np.uint8)
        _try(lambda: self(picture), name, "The image encoder", "Name one of pictures, such as a ViT, ResNet or CLIP.")

    def recipe(self, pictures: Recipe) -> Recipe:
        """Return the extractor, known by its weights, for pictures that are made by a recipe."""
        settings = {
            "weights": _weights(self.model),
            "size": self.size,
            # As in the files, where they have a few decimals; in memory they are of single precision.
            "mean": [round(value, 6) for value in self.mean.flatten().tolist()],
            "std": [round(value, 6) for value in self.std.flatten().tolist()],
            "pictures": pictures.to_dict(),
        }
        return Recipe("image encoder", settings, REVISION, (*LIBRARIES, *pictures.libraries))

    @torch.no_grad()
    def __call__(self, pictures: Pictures) -> Floats:
        """Return ``(T, D)`` for ``(T, 3, H, W)`` pictures."""
        vectors = []
        for part in torch.from_numpy(pictures).split(AT_ONCE):
            pixels = interpolate(
                part.to(self.mean.device).float() / 255, (self.size, self.size), mode="bilinear", antialias=True
            )
            # Rounded convolutions would make the features depend on the machine more than they must.
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                output = self.model(pixel_values=(pixels - self.mean) / self.std)
            pooled = getattr(output, "pooler_output", None)
            if pooled is None:
                hidden = output.last_hidden_state
                pooled = hidden.mean(1) if hidden.dim() == 3 else hidden.mean((2, 3))
            vectors.append(pooled.flatten(1).float().cpu())
        return np.asarray(torch.cat(vectors).numpy())
