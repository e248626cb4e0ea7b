"""Errors in a model's configuration."""

import math
from dataclasses import dataclass
from numbers import Integral
from typing import get_type_hints

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


@dataclass(frozen=True)
class Range:
    """The values of a numeric option, stated as `Annotated[int, Range(1)]`; always finite."""

    low: int | float = -math.inf
    high: int | float = math.inf
    more: bool = False
    """Whether `low` itself is excluded."""
    less: bool = False
    """Whether `high` itself is excluded."""

    def check(self, name: str, value: int | float) -> None:
        """Raise `ConfigError` with the range unless `value` is in it."""
        # The devices' limit is mentioned where it is exceeded.
        too_long = isinstance(value, int) and self.high == math.inf and value > LARGEST
        high = LARGEST if too_long else self.high
        low_enough = value < high if self.less else value <= high
        high_enough = value > self.low if self.more else value >= self.low
        limits = [
            "finite" * (not math.isfinite(value)),
            f"{'more than' if self.more else 'at least'} {self.low:g}" * (self.low > -math.inf),
            f"{'less than' if self.less else 'at most'} {high:.10g}" * (high < math.inf),
        ]
        words = " and ".join(filter(None, limits))
        holds = math.isfinite(value) and low_enough and high_enough
        require(holds, f"{name} is {value}; it must be {words}")


LARGEST = 2**31 - 1
"""Of integers, which are 32 bits wide on the devices."""

SEED = Range(0, 2**32 - 1)
"""Of seeds, of which JAX's keys take 32 bits."""


def check_ranges(options: object, prefix: str = "") -> None:
    """Raise `ConfigError` unless each field of a dataclass is in the `Range` of its annotation."""
    for name, kind in get_type_hints(type(options), include_extras=True).items():
        for limits in getattr(kind, "__metadata__", ()):
            if isinstance(limits, Range):
                limits.check(prefix + name, getattr(options, name))
