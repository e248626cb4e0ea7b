"""64-bit digests of arrays, computed on the devices that hold them.

The digest is of the logical array: the same on any mesh and with any number of processes, because
it is a sum modulo 2^32 over elements, which does not depend on the order. Each element's bits and
its index are mixed by the finaliser of MurmurHash3 (Appleby 2011), a bijection: a single changed
element always changes both sums, plain and weighted by an odd factor of the index. Other damage
goes unnoticed with a probability of about 2^-64. Our choice instead of SHA-256: nobody forges a
checkpoint, and a cryptographic digest would need all bytes on one host, in order.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt32


def digests(arrays: Mapping[str, Shaped[Array, "..."]]) -> dict[str, str]:
    """The digest of each array, as 16 hexadecimal digits.

    With several processes all must call this, with the same names.
    """
    sums = {name: _sums(arrays[name]) for name in sorted(arrays)}
    return {name: "".join(f"{int(part):08x}" for part in np.asarray(sums[name])) for name in sums}


@jax.jit
def _sums(array: Shaped[Array, "..."]) -> UInt32[Array, "2"]:
    words = _words(array)
    index, stride = jnp.zeros((), jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        place = jnp.arange(words.shape[axis], dtype=jnp.uint32) * np.uint32(stride % 2**32)
        index = index + jnp.expand_dims(place, [i for i in range(words.ndim) if i != axis])
        stride *= words.shape[axis]
    mixed = _mixed(words ^ ((index + np.uint32(1)) * np.uint32(0x85EBCA77)))
    odd = index * np.uint32(0x9E3779B2) + np.uint32(1)
    return jnp.stack([jnp.sum(each, dtype=jnp.uint32) for each in (mixed, mixed * odd)])


def _words(array: Shaped[Array, "..."]) -> UInt32[Array, "..."]:
    """The array's bits; an element of 64 bits is two words along a last axis."""
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)


def _mixed(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """MurmurHash3's `fmix32`."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
