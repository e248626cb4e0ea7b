"""Compiles forward and backward passes for a TPU that is not there, and prints what they take on one chip as JSON. Run by
`test_aot.py`, in a process of its own, for libtpu reads which chips it compiles for once.

    python aot_worker.py v5e:2x2 '[[1, 16, 2048, 128, true], ...]'

Each shape is batch, heads, context, kqv and whether there are documents.
"""

import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from jaxtyping import Array

from reference.kernels.relative_attention import relative_attention


def measure(function: Any, operands: list[jax.ShapeDtypeStruct]) -> dict[str, float]:
    """Bytes of temporaries and results, FLOPs, and bytes moved."""
    compiled = jax.jit(function).lower(*operands).compile()
    memory: Any = compiled.memory_analysis()
    costs: Any = compiled.cost_analysis()
    return {
        "temporaries": memory.temp_size_in_bytes,
        "results": memory.output_size_in_bytes,
        "flops": costs["flops"],
        "moved": costs["bytes accessed"],
    }


def gradients(gradient: Array, *given: Array) -> Any:
    """By query, key, value and position."""
    return jax.vjp(lambda *of: relative_attention(*of, *given[4:]), *given[:4])[1](gradient)


def main() -> None:
    """All shapes, forward and backward."""
    topology, shapes = sys.argv[1], json.loads(sys.argv[2])
    device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]

    def _array(*shape: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=SingleDeviceSharding(device))

    found: list[dict[str, dict[str, float]]] = []
    for batch, heads, context, kqv, documents in shapes:
        query, position = _array(batch, heads, context, kqv), _array(1, heads, context, kqv)
        given = [query, query, query, position]
        given += [_array(batch, context, dtype=jnp.int32)] if documents else []
        found.append({"forward": measure(relative_attention, given), "both": measure(gradients, [query, *given])})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
