"""Checkpoints of methods, read without running what is in them, and refused in words where they do not fit."""

from __future__ import annotations

import math
import pickletools
import reprlib
import sys
import zipfile
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from data_modules.budget import check_size
from data_modules.schema import DataError, DataSpec, TargetSpec
from mmbench.methods.config import ConfigError
from mmbench.tasks import Task

if TYPE_CHECKING:
    from mmbench.methods.base import FusionMethod

Method = TypeVar("Method", bound="FusionMethod")
VERSION = "mmbench_version"
"""The key under which a checkpoint has the version of mmbench that wrote it."""
PARTS = {"state_dict": "weights", "hyper_parameters": "data and settings"}
_MOST = 1 << 24
"""Bytes of what a checkpoint says beside its tensors."""
_VALUES, _DEEPEST = 10_000, 10
_MADE = 20
"""Building a method makes at most so many weights, or copies of weights, for each that it keeps."""
_KNOWN = {"collections OrderedDict", "collections Counter", "torch Size", "torch device"}
_REBUILDS = {"torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"}


def read_checkpoint(path: str | PathLike[str]) -> dict[str, Any]:
    """Return what a checkpoint of a method holds, its tensors on the CPU.

    Raises:
        ConfigError: When it is none.
        DataError: When it takes more memory than a file may.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"There is no checkpoint at {path}. Trials leave theirs under runs/<trial id>/.")
    if not path.is_file():
        raise ConfigError(f"{path} is no file: give a checkpoint, such as one of runs/<trial id>/.")
    try:
        foreign = _check_file(path)
    except DataError:
        raise
    except Exception as error:  # whatever Python's reader says of a file that is no zip file, or a damaged one
        raise _unreadable(path, error) from error
    if foreign:
        raise ConfigError(
            f"{path} asks for {foreign[:80]}, which no checkpoint of a method needs, and might run code. Nothing of it "
            "was run. Train the method again, or ask whoever made the file for weights alone."
        )
    try:  # as a map of the file no tensor takes more than the file has
        saved = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # whatever torch says of what it cannot read
        raise _unreadable(path, error) from error
    lacks = [f"{name} ({key})" for key, name in PARTS.items() if not isinstance(_get(saved, key), dict)]
    if lacks:
        raise ConfigError(
            f"{path} is no checkpoint of a method: it has no {' and no '.join(lacks)}. Give one that `mmbench run` or "
            "a Trainer with a method of mmbench wrote."
        )
    return dict(saved)


def restore(cls: type[Method], path: str | PathLike[str], saved: Mapping[str, Any]) -> Method:
    """Return the method that a checkpoint holds.

    Args:
        cls: Its class.
        path: The file, for messages.
        saved: Its content, as :func:`read_checkpoint` gave it.

    Raises:
        ConfigError: When it is of another method or version, or damaged.
        DataError: When its text encoder cannot be loaded.
    """
    try:
        spec, task, config = _plain(cls, saved["hyper_parameters"])
    except Exception as error:  # whatever is missing, left over or of another type
        raise _misfit(cls, path, saved, f"its data or settings cannot be read ({_said(error)})") from error
    state = saved["state_dict"]
    try:
        if not config.text_encoder and (reason := _before_building(lambda: cls(spec, task, config), state)):
            raise ConfigError(reason)  # an encoder is read from files, and fits them
        method = cls(spec, task, config)
        method.load_state_dict(state)
    except DataError:
        raise
    except Exception as error:  # whatever a method says of settings and weights that it cannot have
        raise _misfit(cls, path, saved, _said(error)) from error
    limits = {"thresholds": method.thresholds} if task.target.kind == "multilabel" else {}
    for name, value in {**dict(method.named_parameters()), **limits}.items():
        if not torch.isfinite(value).all():
            raise ConfigError(f"{path}: {name} are no finite numbers: its training went wrong, train again.")
    return method


def _check_file(path: Path) -> str:
    """Check the file around the tensors; return what its pickle asks for that is not needed, empty for nothing."""
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
        if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in members):
            raise ValueError("it was packed again")
        size = sum(info.file_size for info in members)
        if size > path.stat().st_size:
            raise ValueError("its parts are larger than itself")
        check_size(path, "a method of these weights", 2 * size)
        (pickled,) = [info for info in members if info.filename.rpartition("/")[2] == "data.pkl"]
        if pickled.file_size > _MOST:
            raise ValueError(f"what it says of its tensors takes more than {_MOST >> 20} MB")
        if damaged := file.testzip():
            raise ValueError(f"its part {damaged[:80]} is damaged")
        for operation, argument, _ in pickletools.genops(file.read(pickled)):
            if "GLOBAL" in operation.name and not _needed(str(argument)):
                return str(argument).replace(" ", ".")
    return ""


def _needed(name: str) -> bool:
    """Say whether tensors and plain containers need a global name."""
    if name in _KNOWN | _REBUILDS:
        return True
    module, _, kind = name.partition(" ")
    return module == "torch" and (kind.endswith("Storage") or isinstance(getattr(torch, kind, None), torch.dtype))


def _plain(cls: type[FusionMethod], plain: Mapping[str, Any]) -> tuple[DataSpec, Task, Any]:
    """Return data, task and settings from plain containers."""
    ahead, left = [(plain, 0)], _VALUES
    while ahead:  # what is shared may stand for more than can be walked
        value, depth = ahead.pop()
        left -= 1
        if left < 0 or depth > _DEEPEST:
            raise ValueError("they hold far more than data and settings")
        if isinstance(value, dict | list | tuple):
            items = [*value, *value.values()] if isinstance(value, dict) else value
            ahead += [(item, depth + 1) for item in items]
        elif not isinstance(value, str | int | float | None) or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"there is {reprlib.repr(value)} among them")
    return (
        DataSpec.from_dict(plain["spec"]),
        Task(TargetSpec.from_dict(plain["target"])),
        cls.Config.parse(plain["config"]),
    )


class _Counted(TorchDispatchMode):
    """Ends what makes too many weights, or copies of weights: settings that ask for a million layers."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.left = most

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Tables may be computed number by number: only what weights and their copies are made by counts.
        self.left -= func.name().startswith(("aten::empty", "aten::clone"))
        if self.left < 0:
            raise ConfigError("its settings ask for a far larger network than it has weights for")
        return func(*args, **(kwargs or {}))


def _before_building(build: Callable[[], FusionMethod], state: Mapping[str, Any]) -> str:
    """Return where weights are not those of a method, without memory for it; empty when they are, or nobody can say.

    Raises:
        ConfigError: When the network would be far larger than its weights.
    """
    try:
        with torch.device("meta"), _Counted(_MADE * (len(state) + 50)):
            return _difference(build(), state)
    except ConfigError:
        raise
    except Exception:  # a method that computes with constants of its own cannot be built without memory
        return ""


def _difference(method: FusionMethod, state: Mapping[str, Any]) -> str:
    """Return where the weights of a checkpoint are not those of a method, empty when they are."""
    own = method.state_dict()
    if missing := [key for key in own if key not in state]:
        return f"it lacks the weights {missing[0]!r}"
    if left := [key for key in state if key not in own]:
        return f"it has the weights {reprlib.repr(left[0])}, which this version of the method has not"
    for key, value in own.items():
        if not isinstance(value, Tensor):
            continue
        found = state[key]
        if not isinstance(found, Tensor) or found.layout != torch.strided or found.is_quantized or found.is_meta:
            return f"its weights {key!r} are no tensor"
        if found.shape != value.shape:
            return f"its weights {key!r} have the shape {list(found.shape)} instead of {list(value.shape)}"
        if found.is_complex() != value.is_complex():
            return f"its weights {key!r} are {'' if found.is_complex() else 'not '}complex"
    return ""


def _get(saved: Any, key: str) -> Any:
    return saved.get(key) if isinstance(saved, dict) else None


def _said(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0][:300].rstrip(".")
    return text if isinstance(error, ConfigError) else f"{type(error).__name__}: {text}"


def _unreadable(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"{path} is no checkpoint, or a damaged one ({_said(error)}). Nothing of it was run. Copy it again, or give "
        "another, such as one of runs/<trial id>/."
    )


def _misfit(cls: type[FusionMethod], path: str | PathLike[str], saved: Mapping[str, Any], reason: str) -> ConfigError:
    """Return the error of a checkpoint that another method or version wrote, or that was changed."""
    name = saved.get("method", cls.__name__)
    if name not in [base.__name__ for base in cls.__mro__]:
        return ConfigError(f"{path} is of the method {reprlib.repr(name)}, not of {cls.__name__}: {reason}.")
    return ConfigError(f"{path} does not fit {cls.__name__}: {reason}. {remedy(saved)}")


def remedy(saved: Mapping[str, Any]) -> str:
    """Return what to do with a checkpoint that does not fit, by the version that wrote it."""
    own, writer = version(), saved.get(VERSION)
    if not isinstance(writer, str):
        return "Another version of mmbench wrote it, or it was changed: train again, or use the version that wrote it."
    if writer == own:
        return (
            f"mmbench {writer}, which is this version, wrote it: its code or the file was changed since. Train again."
        )
    return f"mmbench {writer[:20]} wrote it, and this is {own}: train again, or use that version."


def version() -> str:
    """Return the version of mmbench, which is not imported here: a release does not make the code another."""
    return str(sys.modules[__name__.partition(".")[0]].__version__)
