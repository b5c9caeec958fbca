"""Hyper-parameters: typed, documented, range-checked, and refused when unknown."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, ClassVar, Self

from jsonargparse import ArgumentError, ArgumentParser

from data_modules.schema import unknown_name

LARGEST = 2**63 - 1
"""Of whole numbers; tensors have no larger ones."""
LONGEST = 4096
"""Characters of a text."""


class ConfigError(ValueError):
    """A setting is unknown, of the wrong type or out of range; the message says which and what is allowed."""


def setting(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[Any] = (),
    needs: str | Mapping[str, Any] = "",
    divides: str = "",
    quiet: bool = False,
) -> Any:
    """Return a dataclass field with its meaning and its allowed values.

    Args:
        default: Default value.
        text: Meaning and unit.
        low: Smallest allowed value.
        high: Largest allowed value.
        choices: The allowed values, if they can be listed.
        needs: Without what the setting has no effect: another setting that must be on (neither 0 nor empty), or by name
            the value of others, or a tuple of values.
        divides: Another setting, of which this one, at least 1, must be a divisor.
        quiet: Whether :meth:`MethodConfig.to_dict` leaves the setting out while it has its default, so that trials from
            before it existed keep their ids.
    """
    rules = {"low": low, "high": high, "choices": tuple(choices), "needs": needs, "divides": divides}
    return field(default=default, metadata={"text": text, "quiet": quiet, **rules})


OF_STEPS = frozenset({"lr", "weight_decay", "gradient_clip", "plateau_patience", "plateau_factor"})
"""Settings of what is learnt step by step."""


@dataclass(frozen=True)
class MethodConfig:
    """Settings that every method has; a method adds its own in a subclass.

    Raises:
        ConfigError: When a value is outside its range, or is not the default and has no effect.
    """

    batch_size: int = setting(32, "samples per step", low=1)
    lr: float = setting(1e-3, "learning rate", low=0.0)
    weight_decay: float = setting(0.0, "L2 penalty inside Adam", low=0.0)
    gradient_clip: float = setting(1.0, "largest L2 norm of the gradient of all parameters; 0 for no limit", low=0.0)
    plateau_patience: int = setting(0, "epochs without gain before the learning rate drops; 0 for never", low=0)
    plateau_factor: float = setting(
        0.1, "factor by which the learning rate drops", low=0.0, high=1.0, needs="plateau_patience"
    )
    text_encoder: str = setting("", "Hugging Face model (name or folder) that reads text tokens; empty for none")
    text_lr: float = setting(5e-5, "learning rate of the text encoder; 0 freezes it", low=0.0)

    inert: ClassVar[frozenset[str]] = frozenset()
    """Those of these settings that have no effect on the method."""

    def __post_init__(self) -> None:
        """Check every setting against its type and its range."""
        for item in fields(self):
            value, rule = getattr(self, item.name), item.metadata
            if not _fits(_kind(item), value):
                raise ConfigError(f"{self.where(item.name)} is {shown(value)}; it must be {_allowed(item)}.")
            if rule.get("choices") and value not in rule["choices"]:
                raise ConfigError(f"{self.where(item.name)} is {shown(value)}; it must be {_allowed(item)}.")
            for edge, wrong in (("low", lambda v, e: v < e), ("high", lambda v, e: v > e)):
                if rule.get(edge) is not None and wrong(value, rule[edge]):
                    side = "at least" if edge == "low" else "at most"
                    raise ConfigError(f"{self.where(item.name)} is {value}; it must be {side} {rule[edge]:g}.")
        for item in fields(self):
            if getattr(self, item.name) != item.default:
                self._check_effect(item.name, item.metadata.get("needs") or {})
        for item in fields(self):
            if (whole := item.metadata.get("divides")) and getattr(self, whole) % (part := getattr(self, item.name)):
                raise ConfigError(f"{self.where(item.name)} is {part}; it must divide {whole}, {getattr(self, whole)}.")

    def _check_effect(self, name: str, needs: str | Mapping[str, Any]) -> None:
        """Refuse a changed setting that nothing reads: it would make a row of its own of the same training."""
        if name in self.inert:
            raise ConfigError(f"{self.where(name)} has no effect on this method: change it for others only.")
        for other, wanted in {needs: None}.items() if isinstance(needs, str) else needs.items():
            value, allowed = getattr(self, other), wanted if isinstance(wanted, tuple) else (wanted,)
            if wanted is None and not value:
                raise ConfigError(f"{self.where(name)} has no effect while {other} is {value!r}: leave it out.")
            if wanted is not None and value not in allowed:
                what = " or ".join(map(repr, allowed))
                raise ConfigError(f"{self.where(name)} has no effect unless {other} is {what} (it is {value!r}).")

    @classmethod
    def where(cls, key: str) -> str:
        """Return how a setting is named in messages."""
        return f"{cls._owner()}: setting {key!r}"

    @classmethod
    def _owner(cls) -> str:
        """Return the class of the method: ``MMIM`` for ``MMIM.Config`` inside it and for ``MMIMConfig`` beside it."""
        inside = cls.__qualname__.removesuffix(".Config")
        return inside if cls is MethodConfig else inside.removesuffix("Config")

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Build a config from plain values (YAML, command line), with types checked and unknown keys refused.

        Raises:
            ConfigError: When a key is unknown or a value does not fit.
        """
        what = f"setting of {cls._owner()} called"
        allowed = {item.name: _allowed(item) for item in fields(cls)}
        return cls(**parse_values(cls, values, what, lambda key: (cls.where(key), f"it must be {allowed[key]}")))

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers, for records: all settings but the quiet ones that have their default."""
        usual = {item.name: item.default for item in fields(self) if item.metadata.get("quiet")}
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in usual or value != usual[name]}


@dataclass(frozen=True)
class ComparingConfig(MethodConfig):
    """Settings of methods that compare the samples of a batch with each other."""

    gather_negatives: bool = setting(
        False, "compare with the samples of all processes, as one process of the whole batch would", quiet=True
    )


def parse_values(
    cls: type[Any],
    values: Mapping[str, Any],
    what: str,
    words: Callable[[str], tuple[str, str]],
    skip: Collection[str] = (),
) -> dict[str, Any]:
    """Return plain values (YAML, command line) with the types that the arguments of a class have, and its defaults.

    Args:
        cls: The class.
        values: The values by name.
        what: What a name is, for the message when there is no such one.
        words: How messages call a name, and what is allowed for it.
        skip: Arguments that are none of the settings.

    Raises:
        ConfigError: When a name is unknown or a value does not fit.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, skip=set(skip))
    known = list(parser.get_defaults().keys())
    for key, value in values.items():
        if key not in known:
            raise ConfigError(unknown_name(what, key, known))
        if not _readable(value):
            name, allowed = words(key)
            raise ConfigError(f"{name} is {shown(value)}; {allowed}.")
    try:
        return dict(parser.parse_object(dict(values)).as_dict())
    except ArgumentError as error:
        for key, value in values.items():  # which one it was, in words of our own
            try:
                parser.parse_object({key: value})
            except ArgumentError:
                name, allowed = words(key)
                raise ConfigError(f"{name} is {shown(value)}; {allowed}.") from error
        raise ConfigError(f"{error}") from error


def _readable(value: Any) -> bool:
    """Say whether the parser can be given a value: it does not survive texts of 60,000 brackets."""
    if isinstance(value, str):
        return len(value) <= LONGEST
    return not isinstance(value, int) or abs(value) <= LARGEST


def _kind(item: dataclasses.Field[Any]) -> str:
    return str(getattr(item.type, "__name__", item.type))


def _fits(kind: str, value: Any) -> bool:
    """Say whether a value is of a kind of setting; kinds that are not plain are the parser's."""
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "int":
        return isinstance(value, Integral) and not isinstance(value, bool) and abs(int(value)) <= LARGEST
    if kind == "float":
        return isinstance(value, Real) and not isinstance(value, bool) and _finite(value)
    return kind != "str" or isinstance(value, str)


def _finite(value: Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def _allowed(item: dataclasses.Field[Any]) -> str:
    """Return in words what a setting may be."""
    span = allowed_range(item.metadata)
    if item.metadata.get("choices"):
        return span
    kinds = {"bool": "true or false", "int": "a whole number", "float": "a finite number", "str": "a text"}
    words = kinds.get(_kind(item), f"like {item.default!r}")
    return f"{words} of {span}" if span.startswith("at ") else f"{words} {span}".rstrip()


def allowed_range(rule: Mapping[str, Any]) -> str:
    """Return in words the choices or the range that the metadata of a setting give, nothing where it has neither."""
    if rule.get("choices"):
        return f"one of: {', '.join(str(choice) or repr(choice) for choice in rule['choices'])}"
    low, high = (None if rule.get(edge) is None else f"{rule[edge]:g}" for edge in ("low", "high"))
    if low is not None and high is not None:
        return f"from {low} to {high}"
    return f"at least {low}" if low is not None else f"at most {high}" if high is not None else ""


def shown(value: Any) -> str:
    """Return a value for a message, whatever it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return "a value that is too large to be shown"
    return text if len(text) <= 80 else f"{text[:80]}..."
