"""How fast a run's steps are, beside what its devices could do, and the memory that they use."""

import sys
from collections import deque
from dataclasses import dataclass

import jax

from plan.chips import chip_of
from reference.config import ModelConfig
from reference.count import flops_per_token

STEPS = 20
"""Steps over which speed is averaged for the time left."""


@dataclass(frozen=True)
class Speed:
    """Of one step. None where it is unknown: of the first step, which compiles; of a chip without a
    published peak."""

    tokens_per_second: float | None = None
    flops_per_second: float | None = None
    """Model FLOPs on all devices: three times those of a forward pass (`reference.count`)."""
    utilisation: float | None = None
    """Model FLOPs over the devices' peak in bfloat16 (`plan.chips`)."""
    seconds_left: float | None = None
    """Of training steps alone, at the mean speed of the last ones."""
    memory_bytes: int | None = None
    """The most that this process's first device has held; on CPU, the process."""


class Meter:
    """Speeds of the steps of one run."""

    def __init__(self, model: ModelConfig, batch: int, devices: int) -> None:
        self._tokens = batch * model.context
        self._flops = 3 * flops_per_token(model).total * self._tokens
        chip = chip_of(jax.devices()[0].device_kind)
        self._peak = None if chip is None else devices * chip.flops
        self._durations: deque[float] = deque(maxlen=STEPS)

    def step(self, seconds: float | None, steps_left: int) -> Speed:
        """After a step of so many seconds; None for one that compiles."""
        if seconds is not None:
            self._durations.append(seconds)
        mean = sum(self._durations) / len(self._durations) if self._durations else None
        left = None if mean is None else steps_left * mean
        if seconds is None:
            return Speed(seconds_left=left, memory_bytes=memory_bytes())
        flops = self._flops / seconds
        used = None if self._peak is None else flops / self._peak
        return Speed(self._tokens / seconds, flops, used, left, memory_bytes())

    @property
    def mean(self) -> Speed:
        """Of the last steps."""
        if not self._durations:
            return Speed()
        mean = sum(self._durations) / len(self._durations)
        flops = self._flops / mean
        return Speed(self._tokens / mean, flops, None if self._peak is None else flops / self._peak)


def memory_bytes() -> int | None:
    """The most bytes in use so far: of this process's first device, or on CPU of the process."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
        return None if peak is None else int(peak)
    try:
        import resource
    except ImportError:
        return None
    # Kibibytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
