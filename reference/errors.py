"""Errors in a model's configuration."""

import math
from numbers import Integral

from common.errors import InputError


class ConfigError(InputError):
    """An invalid model configuration; the message names the field and the fix."""


def require(holds: bool, otherwise: str) -> None:
    """Raise `ConfigError` with the message `otherwise` unless the condition `holds`."""
    if not holds:
        raise ConfigError(otherwise)


def require_count(name: str, value: object, *, at_least: int = 1) -> None:
    """Raise `ConfigError` unless `value` is an integer of at least `at_least`."""
    fix = f"make it a whole number, at least {at_least}"
    whole = isinstance(value, Integral) and int(value) >= at_least
    require(whole, f"{name} is {value!r}; {fix}")


def require_weight(name: str, value: float) -> None:
    """Raise `ConfigError` unless `value` is finite and not negative."""
    finite = math.isfinite(value) and value >= 0
    require(finite, f"{name} is {value}; make it a finite number, at least 0")
