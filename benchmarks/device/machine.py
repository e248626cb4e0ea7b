"""What there is: devices, JAX, and PyTorch beside it."""

from functools import cache
from typing import Any

import jax

from benchmarks.device.parts import Found, Item
from plan.chips import chip_of


@cache
def device() -> Any:
    """The `jax.Device` that is measured: the first."""
    return jax.devices()[0]


def peak_flops() -> float | None:
    """Of the device, in bfloat16; None if that is not known."""
    chip = chip_of(device().device_kind)
    return chip and chip.flops


def memory(key: str) -> int | None:
    """An entry of the device's `memory_stats`, such as bytes_limit; None where there is none."""
    return (device().memory_stats() or {}).get(key)


def measure(_: Item) -> Found:
    """The devices."""
    return {
        "kind": device().device_kind, "platform": device().platform, "devices": jax.device_count(), "jax": jax.__version__,
        "bytes": memory("bytes_limit"), "peak_flops": peak_flops(),
    }  # fmt: skip
