"""Batches on a mesh: the rows of each process, and the global array that they make."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int

from reference.mesh import BATCH


def batch_rows(mesh: Mesh, batch: int) -> Int[np.ndarray, "rows"]:
    """The rows of a batch on this process's devices, in order; all rows in a single process."""
    slices = NamedSharding(mesh, P(BATCH)).addressable_devices_indices_map((batch,)).values()
    return np.unique(np.concatenate([np.arange(batch)[index] for index in slices if index]))


def place_batch(
    rows: Int[np.ndarray, "rows context_and_one"], mesh: Mesh, batch: int
) -> Int[Array, "batch context_and_one"]:
    """A global array of `batch` sequences, from the rows of each process.

    Each process passes the rows that `batch_rows` lists, in order.
    """
    sharding = NamedSharding(mesh, P(BATCH, None))
    return jax.make_array_from_process_local_data(sharding, rows, (batch, rows.shape[1]))
