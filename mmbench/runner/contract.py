"""What every method promises, checked on its first batches: a broken promise names the author's line.

The checks look at what the training itself computes, so they draw no random number and cost next to nothing.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from data_modules.plugins import line, line_of, line_of_class
from data_modules.schema import MODALITIES, Batch, DataSpec
from mmbench.methods import ConfigError, FusionMethod, Output, method
from mmbench.runner.code import PROJECT, code_sources

WHOLE = {"to_dict", "asdict", "astuple", "fields", "vars", "__dict__"}
"""Names by which a method may read all its settings at once; ``getattr`` with a computed name is one more."""


@contextmanager
def checked(cls: type[FusionMethod], spec: DataSpec) -> Iterator[None]:
    """Say which line asks for a modality that the data do not have.

    Raises:
        ConfigError: When one does.
    """
    try:
        yield
    except KeyError as error:
        missing = error.args[0] if error.args else None
        if missing not in MODALITIES or missing in spec.modalities:
            raise
        raise ConfigError(
            f"{line_of(error, cls.__module__) or line_of_class(cls)}: it takes the modality {missing!r}, and "
            f"{spec.track} has {', '.join(spec.modalities)}. Work with those that are there, or say in the card what "
            f"the method needs: needs=Needs(modalities=({missing!r},))."
        ) from error


@contextmanager
def watched(model: FusionMethod) -> Iterator[None]:
    """Check what a method makes of the first training batch of each of its stages, while it is trained.

    Raises:
        ConfigError: When it is not what the contract says; the message names the line.
    """
    watch = _Watch(model)
    try:
        yield
    finally:
        watch.end()


class _Watch:
    """Stands before the forward and the objective of a method, until every stage was seen once."""

    def __init__(self, model: FusionMethod) -> None:
        self.model = model
        self.ahead = set(range(len(model.stages())))
        self.forward, self.objective = model.forward, model.objective
        model.forward, model.objective = self._forward, self._objective  # type: ignore[method-assign] # for a while

    def end(self) -> None:
        """Leave the method as it was."""
        for name in ("forward", "objective"):
            vars(self.model).pop(name, None)

    def _forward(self, batch: Batch, *args: Any, **options: Any) -> Output:
        with checked(type(self.model), self.model.spec):
            output = self.forward(batch, *args, **options)
        if batch.stage in self.ahead:
            self._check_output(output, batch)
        return output

    def _check_output(self, output: Any, batch: Batch) -> None:
        if not isinstance(output, Output):
            self._refuse("forward", f"gives a {type(output).__name__}: return Output(prediction)")
        given = output.prediction
        if not isinstance(given, Tensor) or not given.is_floating_point():
            what = given.dtype if isinstance(given, Tensor) else type(given).__name__
            self._refuse("forward", f"predicts {what}: give a tensor of real numbers")
        units = batch.target.shape[: 1 if batch.target_mask is None else 2]
        wanted = (*units, self.model.task.outputs)
        if tuple(given.shape) != wanted:
            target = self.model.task.target
            self._refuse(
                "forward",
                f"predicts the shape {tuple(given.shape)}, and {wanted} is wanted: one row per sample and "
                f"self.task.outputs columns, here {wanted[-1]} ({target.kind}: {', '.join(target.names)})",
            )

    def _objective(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        with checked(type(self.model), self.model.spec):
            terms = self.objective(output, batch)
        if batch.stage in self.ahead:
            self._check_terms(terms)
            self.ahead.discard(batch.stage)
            if not self.ahead:
                self.end()
        return terms

    def _check_terms(self, terms: Any) -> None:
        if not isinstance(terms, Mapping) or not terms:
            self._refuse("objective", f"gives a {type(terms).__name__}: return its terms by name, {{'task': loss}}")
        for name, term in terms.items():
            if not isinstance(term, Tensor) or term.numel() != 1:
                what = f"shape {tuple(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
                self._refuse("objective", f"gives the term {name!r} as {what}: give a tensor of one number")
            if not term.isfinite():
                self._refuse("objective", f"gives the term {name!r} as {float(term.detach())} on the first batch")
        if not any(term.requires_grad for term in terms.values()):
            self._refuse("objective", "gives a loss without a gradient: something detaches it (item, detach, no_grad)")

    def _refuse(self, name: str, what: str) -> NoReturn:
        function = getattr(type(self.model), name)
        if function is FusionMethod.objective:  # what it makes the loss of is the author's
            function = type(self.model).forward
        raise ConfigError(f"{_last_line(function)}: {name} {what}.")


def _last_line(function: Callable[..., Any]) -> str:
    """Return the last line in which a function returns something, else its first."""
    try:
        lines, first = inspect.getsourcelines(function)
        body = ast.parse(textwrap.dedent("".join(lines))).body
    except (OSError, TypeError, SyntaxError):  # not from a file, or a part of a line
        return f"{function.__module__}.{function.__qualname__}"
    returns = [node.lineno for node in ast.walk(body[0]) if isinstance(node, ast.Return)]
    place = max(returns, default=1)
    return line(inspect.getfile(function), first + place - 1, lines[place - 1])


@cache
def check_settings(key: str) -> None:
    """Check that the files of a method read every setting that it adds.

    Raises:
        ConfigError: When one has no effect; the message names the line.
    """
    cls = method(key)
    if cls.__module__.partition(".")[0] in PROJECT:  # the tests watch over these
        return
    sources = [path for name, path in code_sources(key).items() if name.partition(".")[0] not in PROJECT]
    for name, place in unread(cls, sources).items():
        raise ConfigError(f"{place}: nothing reads the setting {name!r}: use self.config.{name}, or take it out.")


def unread(cls: type[FusionMethod], sources: Iterable[Path]) -> dict[str, str]:
    """Return the settings of a method's own that no source reads, and where they are."""
    read: set[str] = set()
    for source in sources:
        for node in ast.walk(ast.parse(source.read_bytes())):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.add(node.value)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                computed = node.func.id == "getattr" and not isinstance(node.args[1], ast.Constant)
                read |= WHOLE if computed else {node.func.id} & WHOLE
    given = {item.name for base in cls.Config.__bases__ if is_dataclass(base) for item in fields(base)}
    own = [name for name in inspect.get_annotations(cls.Config) if name not in given]
    if cls.Config.__module__ != cls.__module__ or read & WHOLE:
        return {}
    return {name: _setting_line(cls, name) for name in own if name not in read}


def _setting_line(cls: type[FusionMethod], name: str) -> str:
    lines, first = inspect.getsourcelines(cls.Config)
    number = next(number for number, text in enumerate(lines) if text.strip().startswith(f"{name}:"))
    return line(inspect.getfile(cls.Config), first + number, lines[number])
