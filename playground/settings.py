"""One source for every hyperparameter: its name, label, help, range, default and check.

From a `setting()` come the form's widget, the command line's `--set name=value`, the preset's check, the README's table
and the error sentence. Values travel by name, never by position.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


class SettingError(ValueError):
    """A value that a setting does not accept; the text names the label, the rule and the value."""


def setting(default: Any, label: str, help: str, **rule: Any) -> Any:
    """A dataclass field that describes itself.

    `rule` may hold low, high, step (numbers), choices (a tuple), runs (the stage whose runs can be named), offers (what
    kind of thing is named, such as constitutions), model (it names a model, which not every host may open), lines (of
    text) and advanced (shown in the closed part of the form).
    """
    known = {"low", "high", "step", "choices", "runs", "offers", "model", "lines", "advanced"}
    if unknown := set(rule) - known:
        raise TypeError(f"setting {label!r}: unknown {sorted(unknown)}")
    return dataclasses.field(default=default, metadata={"label": label, "help": help, **rule})


@dataclass(frozen=True)
class Spec:
    """What one setting says of itself."""

    name: str
    kind: type
    default: Any
    label: str
    help: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[Any, ...] | None = None
    runs: str | None = None
    offers: str | None = None
    model: bool = False
    lines: int = 1
    advanced: bool = False

    def check(self, value: Any) -> Any:
        """`value` as this setting's type, or SettingError in the words a person sees."""
        if value is None and self.default is None:
            return None
        value = self._typed(value)
        if self.choices is not None and value not in self.choices:
            names = ", ".join(str(choice) for choice in self.choices)
            raise SettingError(f"{self.label} must be one of {names}; got {value!r}.")
        if self.low is not None and value < self.low:
            raise SettingError(f"{self.label} must be at least {self.low:g}, got {value:g}.")
        if self.high is not None and value > self.high:
            raise SettingError(f"{self.label} must be at most {self.high:g}, got {value:g}.")
        return value

    def _typed(self, value: Any) -> Any:
        if self.kind is bool:
            words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
            if isinstance(value, str) and value.strip().lower() in words:
                return words[value.strip().lower()]
            if isinstance(value, bool):
                return value
            raise SettingError(f"{self.label} must be true or false; got {value!r}.")
        if self.kind is str:
            return str(value)
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise SettingError(f"{self.label} must be a number; got {value!r}.") from None
        except OverflowError:
            number = float("inf")
        if number != number or number in (float("inf"), float("-inf")):
            raise SettingError(f"{self.label} must be a finite number; got {value!r}.")
        if self.kind is int:
            if number != int(number):
                raise SettingError(f"{self.label} must be a whole number, got {value}.")
            return int(number)
        return number


@dataclass
class Settings:
    """Base of every stage's settings: a dataclass whose fields are all `setting()`s."""

    @classmethod
    def specs(cls) -> dict[str, Spec]:
        """Every setting by name, in the order in which the form shows them."""
        hints = typing.get_type_hints(cls)
        return {
            field.name: Spec(field.name, _plain(hints[field.name]), field.default, **field.metadata)
            for field in dataclasses.fields(cls)
        }

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Settings from names and values (of a form, a preset, a command line); SettingError says what is wrong."""
        specs = cls.specs()
        if unknown := sorted(set(values) - set(specs)):
            raise SettingError(f"There is no setting called {unknown[0]!r}. Known: {', '.join(specs)}.")
        return cls(**{name: specs[name].check(value) for name, value in values.items()})

    def values(self) -> dict[str, Any]:
        """Names and values, ready for JSON."""
        return dataclasses.asdict(self)


def markdown(settings: type[Settings]) -> str:
    """The settings as the README's table."""
    lines = ["| setting | default | accepts | what it does |", "|---|---|---|---|"]
    for spec in settings.specs().values():
        accepts = f"a {spec.runs} run" if spec.runs else spec.offers or "text"
        if spec.choices is not None:
            accepts = ", ".join(str(choice) for choice in spec.choices)
        elif spec.low is not None and spec.high is not None:
            accepts = f"{spec.low:,g} to {spec.high:,g}" if spec.high < 1e6 else f"from {spec.low:g}"
        default = " / ".join(str(spec.default).splitlines())
        lines.append(f"| `{spec.name}` | {default} | {accepts} | {spec.help} |")
    return "\n".join(lines)


def _plain(hint: Any) -> type:
    """`int | None` → int: an optional setting is checked as what it holds."""
    if isinstance(hint, types.UnionType):
        return next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return hint
