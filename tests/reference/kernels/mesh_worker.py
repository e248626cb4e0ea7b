"""Compares the TPU's kernels, interpreted on a mesh of 8 simulated devices, with the plain form on one, and prints as JSON how far the
output and the gradients are apart, and how they are sharded. `test_relative_attention.py` runs it in a process of its own, for the
number of devices is fixed when JAX starts.
"""

import json
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import install_import_hook

with install_import_hook("reference", "beartype.beartype"):
    from reference.kernels.relative_attention import relative_attention
    from reference.mesh import BATCH, HEADS, make_mesh

from tests.reference.kernels.cases import NAMES, Case, inputs, plain


def main() -> None:
    """The comparison."""
    jax.config.update("jax_enable_x64", True)
    given, document, gradient = inputs(Case(4, 2, 20, 16, documents=True))
    output, back = jax.vjp(lambda *given: plain(*given, document=document), *given)
    expected = [np.asarray(x) for x in (output, *back(gradient))]
    mesh = make_mesh(2, 2, 2)
    # A copy of the positions for each device that sequences are spread over.
    given = (*given[:3], np.repeat(given[3], 4, axis=0))
    arrays = [jax.device_put(x, NamedSharding(mesh, P(*HEADS))) for x in given]
    ids = jax.device_put(document, NamedSharding(mesh, P(BATCH, None)))
    with jax.set_mesh(mesh):
        attend: Any = jax.jit(lambda *given: relative_attention(*given, document=ids, block=8, interpret="tpu"))
        output, back = jax.vjp(attend, *arrays)
        results = output, *back(jax.device_put(gradient, output.sharding))
    sharded = [str(jax.typeof(x).sharding.spec) for x in results]
    results = *results[:-1], np.sum(np.asarray(results[-1]), axis=0, keepdims=True)
    distances = [float(np.max(np.abs(np.asarray(x) - y))) for x, y in zip(results, expected, strict=True)]
    print(json.dumps({"distances": dict(zip(NAMES, distances, strict=True)), "sharded": dict(zip(NAMES, sharded, strict=True))}))


if __name__ == "__main__":
    main()
