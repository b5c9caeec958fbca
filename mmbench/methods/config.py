"""Hyper-parameters: typed, documented, range-checked, and refused when unknown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from jsonargparse import ArgumentError, ArgumentParser

from data_modules.schema import unknown


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
    """
    rules = {"low": low, "high": high, "choices": tuple(choices), "needs": needs}
    return field(default=default, metadata={"text": text, **rules})


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
    plateau_factor: float = setting(0.1, "factor by which the learning rate drops", low=0.0, high=1.0)
    text_encoder: str = setting("", "Hugging Face model (name or folder) that reads text tokens; empty for none")
    text_lr: float = setting(5e-5, "learning rate of the text encoder; 0 freezes it", low=0.0)

    def __post_init__(self) -> None:
        """Check every setting against its range."""
        for item in fields(self):
            value, rule = getattr(self, item.name), item.metadata
            if rule.get("choices") and value not in rule["choices"]:
                allowed = ", ".join(map(str, rule["choices"]))
                raise ConfigError(f"{self.where(item.name)} is {value!r}; it must be one of: {allowed}.")
            for edge, wrong in (("low", lambda v, e: v < e), ("high", lambda v, e: v > e)):
                if rule.get(edge) is not None and wrong(value, rule[edge]):
                    side = "at least" if edge == "low" else "at most"
                    raise ConfigError(f"{self.where(item.name)} is {value}; it must be {side} {rule[edge]:g}.")
        for item in fields(self):
            if getattr(self, item.name) != item.default:
                self._check_effect(item.name, item.metadata.get("needs") or {})

    def _check_effect(self, name: str, needs: str | Mapping[str, Any]) -> None:
        """Refuse a changed setting that nothing reads: it would make a row of its own of the same training."""
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
        return f"{cls.__qualname__.replace('.Config', '')}: setting {key!r}"

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Build a config from plain values (YAML, command line), with types checked and unknown keys refused.

        Raises:
            ConfigError: When a key is unknown or a value does not fit.
        """
        known = [item.name for item in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(unknown(f"setting of {cls.__qualname__.replace('.Config', '')} called", key, known))
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(cls)
        try:
            parsed = parser.parse_object(dict(values))
        except ArgumentError as error:
            raise ConfigError(f"{cls.__qualname__.replace('.Config', '')}: {error}") from error
        return cls(**parsed.as_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers, for records."""
        return dataclasses.asdict(self)
