"""Forms of attention: the kernel's values and gradients against the plain form in float64, and the time of forward and backward pass."""

import time
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from benchmarks.common import median
from benchmarks.device.machine import device
from benchmarks.device.parts import Found, Item
from reference.attention import attend_at_once, attend_in_chunks
from reference.kernels.relative_attention import Platform, relative_attention
from tests.reference.kernels.cases import BOUNDS, NAMES, Case, Inputs, inputs

Attend = Callable[..., Array]


def items(toy: bool) -> list[Item]:
    """Most telling first: the longest context, and bfloat16."""
    dtypes, contexts, widths = ("bfloat16", "float32"), (2048, 1024, 128), (128, 64)
    if toy:
        dtypes, contexts, widths = ("bfloat16",), (32,), (16,)
    # 8,192 tokens, and 12 heads as in 55M and 370M.
    tokens, heads = (64, 2) if toy else (8192, 12)
    return [
        {"name": f"{dtype} {context} x {kqv}", "dtype": dtype, "context": context, "kqv": kqv, "tokens": tokens, "heads": heads, "toy": toy}
        for dtype in dtypes
        for context in contexts
        for kqv in widths
    ]


def forms(toy: bool) -> dict[str, Attend]:
    """Each maps query, key, value and position to [batch, heads, context, kqv]. At toy size the GPU's kernel is interpreted."""
    interpret: Platform | None = "gpu" if toy else None
    block = 16 if toy else None
    return {
        "kernel": lambda *given: relative_attention(*given, block=block, interpret=interpret),
        "plain": lambda q, k, v, r: jnp.moveaxis(attend_at_once(q, k, v, r, None), 1, 2),
        "chunked": lambda q, k, v, r: jnp.moveaxis(attend_in_chunks(q, k, v, r, None), 1, 2),
    }


def with_gradients(attend: Attend) -> Callable[..., tuple[Array, ...]]:
    """The output, and the gradients by all inputs."""

    def _both(gradient: Array, *given: Array) -> tuple[Array, ...]:
        output, back = jax.vjp(attend, *given)
        return output, *back(gradient)

    return jax.jit(_both)


def exact(given: Inputs, gradient: Array, heads: list[int]) -> list[np.ndarray]:
    """The plain form in float64 on the CPU, of some heads alone, for heads are apart."""
    some = [np.asarray(x, np.float64)[:, heads] for x in (gradient, *given)]
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        return [np.asarray(x) for x in with_gradients(forms(False)["plain"])(*some)]


def measure(item: Item) -> Found:
    """Errors over their bound (`tests/reference/kernels/cases.py`), and milliseconds, by form."""
    case = Case(item["tokens"] // item["context"], item["heads"], item["context"], item["kqv"])
    given, _, gradient = inputs(case, item["dtype"])
    heads = [0, item["heads"] - 1]
    expected = exact(given, gradient, heads)
    errors: dict[str, dict[str, float]] = {}
    milliseconds: dict[str, float] = {}
    placed = cast("tuple[Array, ...]", jax.device_put((gradient, *given), device()))
    for form, attend in forms(item["toy"]).items():
        both = with_gradients(attend)
        found = [np.asarray(x, np.float64)[:, heads] for x in both(*placed)]
        errors[form] = {
            name: float(np.linalg.norm(x - y) / np.linalg.norm(y)) / BOUNDS[item["dtype"]]
            for name, x, y in zip(NAMES, found, expected, strict=True)
        }
        milliseconds[form] = 1e3 * median(_times(both, placed))
    return {"errors_over_bound": errors, "milliseconds": milliseconds}


def _times(work: Callable[..., Any], given: tuple[Array, ...], turns: int = 7, calls: int = 5) -> list[float]:
    """Seconds of a call, by turns of several of which the last is waited for."""
    taken: list[float] = []
    for _ in range(turns):
        start = time.perf_counter()
        results = [work(*given) for _ in range(calls)]
        jax.block_until_ready(results[-1])
        taken.append((time.perf_counter() - start) / calls)
    return taken


HEADER = ("", "kernel error / bound", "plain's", "kernel ms", "plain ms", "chunked ms", "plain / kernel")


def row(item: Item, found: Found) -> list[str]:
    """Largest errors, and times."""
    errors, times = ({form: max(of.values()) for form, of in found["errors_over_bound"].items()}, found["milliseconds"])
    cells = [*(f"{errors[form]:.2f}" for form in ("kernel", "plain")), *(f"{times[form]:.2f}" for form in ("kernel", "plain", "chunked"))]
    return [item["name"], *cells, f"{times['plain'] / times['kernel']:.2f}"]


def as_close(item: Item, found: Found) -> bool:
    """Whether the kernel is within the bound, or in float32 at most twice as far off as the plain form: GPUs and TPUs by default multiply
    float32 in a narrower type, of which the bound knows nothing."""
    errors = found["errors_over_bound"]
    kernel, plain = (max(errors[form].values()) for form in ("kernel", "plain"))
    return kernel <= 1 or (item["dtype"] == "float32" and not item["toy"] and kernel <= 2 * plain)
