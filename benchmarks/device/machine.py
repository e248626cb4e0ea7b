"""What there is: devices, JAX, and PyTorch beside it."""

from functools import cache
from importlib.util import find_spec
from typing import Any

import jax

from benchmarks.device.parts import Found, Item
from common.errors import WorkError
from plan.chips import CHIPS

PEAKS = {
    # NVIDIA's data sheets, bfloat16 without sparsity.
    "H100 PCIe": 756e12, "H100": 989.4e12, "H200": 989.4e12, "A100": 312e12,
    # As JAX names them.
    "TPU v4": CHIPS["v4"].flops, "TPU v5 lite": CHIPS["v5e"].flops, "TPU v5": CHIPS["v5p"].flops, "TPU v6 lite": CHIPS["v6e"].flops,
}  # fmt: skip
"""Peak FLOPs a second in bfloat16, by what a device's kind contains; the first that does."""


@cache
def device() -> Any:
    """The `jax.Device` that is measured: the first."""
    return jax.devices()[0]


def peak_flops() -> float | None:
    """Of the device, in bfloat16; None if that is not known."""
    return next((peak for name, peak in PEAKS.items() if name in device().device_kind), None)


def memory(key: str) -> int | None:
    """An entry of the device's `memory_stats`, such as bytes_limit; None where there is none."""
    return (device().memory_stats() or {}).get(key)


def measure(item: Item) -> Found:
    """The device. Raises `WorkError` if it is a CPU and the check is not of toy size."""
    if device().platform == "cpu" and not item["toy"]:
        raise WorkError("JAX sees no accelerator here; install JAX for it (uv sync --extra cuda), or try everything at toy size: --toy")
    return {
        "kind": device().device_kind, "platform": device().platform, "devices": jax.device_count(), "jax": jax.__version__,
        "bytes": memory("bytes_limit"), "peak_flops": peak_flops(), "pytorch_here": find_spec("torch") is not None,
    }  # fmt: skip
