"""What every method promises, checked on its first batches: a broken promise names the author's line.

The checks look at what the training itself computes, so they draw no random number and cost next to nothing.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from torch import Tensor

from data_modules.plugins import line, line_of, line_of_class, line_of_setting
from data_modules.schema import MODALITIES, Batch, DataSpec
from mmbench.methods import ConfigError, FusionMethod, Output, method
from mmbench.runner.code import PROJECT, code_sources

WHOLE = {"to_dict", "asdict", "astuple", "fields", "vars", "__dict__"}
"""Names by which a method may read all its settings at once; ``getattr`` with a computed name is one more."""
BY_MODALITY = {"inputs", "complete", "kept", "features", "dims", "modalities"}
"""What a method looks up by the name of a modality."""
EVALUATION = "evaluation"
"""Stands for the first batch that is predicted and not trained on, beside the phases of training."""


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
        there = missing in MODALITIES
        if not isinstance(missing, str) or missing in spec.modalities or not (there or _by_modality(error, spec)):
            raise
        what = (
            "Work with those that are there, or say in the card what the method needs: "
            f"needs=Needs(modalities=({missing!r},))."
            if there
            else f"The modalities are called {', '.join(MODALITIES)}."
        )
        raise ConfigError(
            f"{line_of(error, cls.__module__) or line_of_class(cls)}: it takes the modality {missing!r}, and "
            f"{spec.track} has {', '.join(spec.modalities)}. {what}"
        ) from error


def _by_modality(error: KeyError, spec: DataSpec) -> bool:
    """Say whether an error comes from looking something up by modality: in inputs, features, dims or a name of them."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    last = traceback.extract_tb(trace)
    if trace is None or not last or not Path(last[0].filename).is_file():
        return False
    place = (last[0].lineno, last[0].colno, last[0].end_lineno, last[0].end_colno)
    for node in ast.walk(ast.parse(Path(last[0].filename).read_bytes())):
        if isinstance(node, ast.Subscript) and _place(node) == place:
            of = node.value.func if isinstance(node.value, ast.Call) else node.value
            values = trace.tb_frame.f_locals.get(of.id) if isinstance(of, ast.Name) else None
            by_name = isinstance(values, Mapping) and bool(values) and set(values) <= set(spec.modalities)
            return by_name or (isinstance(of, ast.Attribute) and of.attr in BY_MODALITY)
    return False


def _place(node: ast.expr) -> tuple[int | None, ...]:
    return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset


@contextmanager
def watched(model: FusionMethod) -> Iterator[None]:
    """Check what a method makes of the first batch of each of its phases and of validation, while it is trained.

    Raises:
        ConfigError: When it is not what the contract says; the message names the line.
    """
    watch = _Watch(model)
    try:
        yield
    finally:
        watch.end()


class _Watch:
    """Stands before the forward and the objective of a method, until every phase and validation were seen once."""

    def __init__(self, model: FusionMethod) -> None:
        self.model = model
        self.ahead = {*(phase.name for phase in model.phases), EVALUATION}
        self.again: Callable[[], Any] = lambda: None
        self.forward, self.objective = model.forward, model.objective
        model.forward, model.objective = self._forward, self._objective  # type: ignore[method-assign] # for a while

    def end(self) -> None:
        """Leave the method as it was, and let the batch go."""
        self.again = lambda: None
        for name in ("forward", "objective"):
            vars(self.model).pop(name, None)

    def _forward(self, batch: Batch, *args: Any, **options: Any) -> Output:
        with checked(type(self.model), self.model.spec):
            output = self.forward(batch, *args, **options)
        kind = self.model.phase_of(batch).name if self.model.training else EVALUATION
        if kind in self.ahead:
            self.again = partial(self.forward, batch, *args, **options)
            self._check_output(output, batch)
            if kind == EVALUATION:
                self._seen(kind)
        return output

    def _seen(self, kind: str) -> None:
        self.ahead.discard(kind)
        if not self.ahead:
            self.end()

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
        phase = self.model.phase_of(batch).name
        if phase in self.ahead:
            self._check_terms(terms, partial(self.objective, output, batch))
            self._seen(phase)
        return terms

    def _check_terms(self, terms: Any, again: Callable[[], Any]) -> None:
        refuse = partial(self._refuse, "objective", again=again)
        if not isinstance(terms, Mapping) or not terms:
            refuse(f"gives a {type(terms).__name__}: return its terms by name, {{'task': loss}}")
        if "loss" in terms:
            refuse("gives a term called 'loss', as the sum of all is called: give it another name, such as 'task'")
        for name, term in terms.items():
            if not isinstance(term, Tensor) or term.numel() != 1:
                what = f"shape {tuple(term.shape)}" if isinstance(term, Tensor) else type(term).__name__
                refuse(f"gives the term {name!r} as {what}: give a tensor of one number")
            if not term.isfinite():
                refuse(f"gives the term {name!r} as {float(term.detach())} on the first batch")
        if not any(term.requires_grad for term in terms.values()):
            refuse("gives a loss without a gradient: something detaches it (item, detach, no_grad)")

    def _refuse(self, name: str, what: str, again: Callable[[], Any] | None = None) -> NoReturn:
        function = getattr(type(self.model), name)
        if function is FusionMethod.objective:  # what it makes the loss of is the author's
            function, again = type(self.model).forward, None
        raise ConfigError(f"{returning_line(function, again or self.again)}: {name} {what}.")


def returning_line(function: Callable[..., Any], again: Callable[[], Any]) -> str:
    """Return the line in which a function returns, or where it is defined if that cannot be told.

    Args:
        function: What has returned.
        again: Calls it as then; asked where the function returns in several places.
    """
    try:
        lines, first = inspect.getsourcelines(function)
        body = ast.parse(textwrap.dedent("".join(lines))).body
    except (OSError, TypeError, SyntaxError):  # not from a file, or a part of a line
        return f"{function.__module__}.{function.__qualname__}"
    returns = {first + node.lineno - 1 for node in _own(body[0]) if isinstance(node, ast.Return)}
    if len(returns) > 1:
        returns &= {_returned(function, again)}
    place = returns.pop() if returns else first + getattr(body[0], "lineno", 1) - 1
    return line(inspect.getfile(function), place, lines[place - first])


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what stands in a function and in none inside it."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield from _own(child)


def _returned(function: Callable[..., Any], again: Callable[[], Any]) -> int:
    """Return the number of the line in which a function returns when it is called once more, 0 if it does not."""
    code = inspect.unwrap(function).__code__
    found = 0

    def note(frame: FrameType, event: str, value: object) -> None:
        nonlocal found
        if event == "return" and frame.f_code is code:
            found = frame.f_lineno

    before = sys.getprofile()
    sys.setprofile(note)
    with suppress(Exception):  # what it says the second time is no matter
        again()
    sys.setprofile(before)
    return found


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
    read = {"accumulate"}  # by the contract
    for source in sources:
        for node in ast.walk(ast.parse(source.read_bytes())):
            if isinstance(node, ast.Attribute):
                read.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.add(node.value)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                named = node.args[1:2] and not isinstance(node.args[0], ast.Starred)
                computed = node.func.id == "getattr" and not (named and isinstance(node.args[1], ast.Constant))
                read |= WHOLE if computed else {node.func.id} & WHOLE
    given = {item.name for base in cls.Config.__bases__ if is_dataclass(base) for item in fields(base)}
    own = [item.name for item in fields(cls.Config) if item.name in inspect.get_annotations(cls.Config)]
    if not f"{cls.Config.__module__}.".startswith(f"{cls.__module__}.") or read & WHOLE:
        return {}
    return {name: line_of_setting(cls.Config, name) for name in own if name not in read | given}
