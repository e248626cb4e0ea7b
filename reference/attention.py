"""Causal multi-head attention with relative positions, as the released counts imply.

Five D x A maps (A = heads * kqv_size): query, key, value, output, and one for the positions, which
Transformer-XL projects anew in each layer (Dai et al. 2019, section 3.3), here without its two bias
vectors, for which the counts leave no room:

    score_ij = q_i . (k_j + r_{i-j}) / sqrt(kqv_size)    for j <= i

Axes: `batch` sequences, `context` T tokens of one, `heads` H, `kqv` the size of one head.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from reference.config import Size
from reference.linear import linear
from reference.mesh import GROUPS, MODEL, broadcast, einsum, reshape


class Attention(eqx.Module):
    """Weights are normal with standard deviation 1/sqrt(fan-in), `output` further by 1/sqrt(2L)
    (our choice, as GPT-2's).
    """

    query: Float[Array, "d_model heads kqv"]
    key: Float[Array, "d_model heads kqv"]
    value: Float[Array, "d_model heads kqv"]
    position: Float[Array, "d_model heads kqv"]
    output: Float[Array, "heads kqv d_model"]

    def __init__(self, size: Size, *, key: PRNGKeyArray) -> None:
        d, heads, kqv = size.d_model, size.num_heads, size.kqv_size
        *in_keys, out_key = jax.random.split(key, 5)
        self.query, self.key, self.value, self.position = (
            jax.random.normal(k, (d, heads, kqv)) / d**0.5 for k in in_keys
        )
        self.output = (
            jax.random.normal(out_key, (heads, kqv, d)) / (heads * kqv * 2 * size.num_blocks) ** 0.5
        )

    def __call__(
        self, x: Float[Array, "batch context d_model"]
    ) -> Float[Array, "batch context d_model"]:
        """Attend; the softmax is in float32 at least, the rest in the type of `x`."""
        query, key, value = (
            self._project(x, weight) for weight in (self.query, self.key, self.value)
        )
        query /= self.query.shape[-1] ** 0.5
        scores = jnp.einsum("bhik,bhjk->bhij", query, key) + shift(
            jnp.einsum("bhik,bhmk->bhim", query, self._positions(x))
        )
        heads = jnp.einsum("bhij,bhjk->bhik", causal_softmax(scores).astype(x.dtype), value)
        batch, _, context, _ = heads.shape
        inner, d_model = self.output.shape[0] * self.output.shape[1], self.output.shape[2]
        together = reshape(
            jnp.moveaxis(heads, 1, 2), (batch, context, inner), out=(GROUPS, None, MODEL)
        )
        return linear(
            together, reshape(self.output, (inner, d_model), out=(MODEL, None)), within=MODEL
        )

    def _project(
        self, x: Float[Array, "batch context d_model"], weight: Float[Array, "d_model heads kqv"]
    ) -> Float[Array, "batch heads context kqv"]:
        d_model, heads, kqv = weight.shape
        together = linear(x, reshape(weight, (d_model, heads * kqv), out=(None, MODEL)), out=MODEL)
        return jnp.moveaxis(
            reshape(together, (*x.shape[:2], heads, kqv), out=(GROUPS, None, MODEL, None)), 2, 1
        )

    def _positions(
        self, x: Float[Array, "batch context d_model"]
    ) -> Float[Array, "batch heads context kqv"]:
        """r, from the largest distance to 0;
        once for each sequence, so that the product with it is batched as the keys' is."""
        sinusoids = relative_sinusoids(x.shape[1], x.shape[2]).astype(x.dtype)
        position = einsum(
            "md,dhk->hmk", sinusoids, self.position.astype(x.dtype), out=(MODEL, None, None)
        )
        return broadcast(position, (x.shape[0], *position.shape), out=(GROUPS, MODEL, None, None))


def relative_sinusoids(context: int, d_model: int) -> Float[Array, "context d_model"]:
    """Sines, then cosines, of the distances context - 1, ..., 1, 0, at wavelengths from 2 pi to
    10000 * 2 pi (Vaswani et al. 2017).
    """
    distance = jnp.arange(context - 1, -1, -1, dtype=float)
    frequency = 10_000.0 ** (-jnp.arange(0, d_model, 2, dtype=float) / d_model)
    angle = distance[:, None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)


def shift(
    scores: Float[Array, "batch heads context context"],
) -> Float[Array, "batch heads context context"]:
    """From scores by distance, row i's m-th for distance T-1-m, to scores by position: row i's j-th
    for distance i-j.

    Row i moves left by T-1-i. With one column put in front, rows are T+1 long, and reading them T
    at a time moves each by one more than the row before (Dai et al. 2019, appendix B). Entries with
    j > i are left arbitrary.
    """
    batch, heads, context, _ = scores.shape
    padded = jnp.pad(scores, ((0, 0), (0, 0), (0, 0), (1, 0)))
    return reshape(padded, (batch, heads, context + 1, context), out=(GROUPS, MODEL, None, None))[
        :, :, 1:
    ]


@jax.custom_jvp
def causal_softmax(
    scores: Float[Array, "batch heads context context"],
) -> Float[Array, "batch heads context context"]:
    """Softmax over the positions up to each token's own, in float32 at least.

    Its gradient needs its output alone.
    """
    wide = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    causal = jnp.tri(scores.shape[-1], dtype=bool)
    return jax.nn.softmax(jnp.where(causal, wide, -jnp.inf), axis=-1)


@causal_softmax.defjvp
def _causal_softmax_jvp(
    primals: tuple[Float[Array, "batch heads context context"]],
    tangents: tuple[Float[Array, "batch heads context context"]],
) -> tuple[
    Float[Array, "batch heads context context"], Float[Array, "batch heads context context"]
]:
    p = causal_softmax(*primals)
    tangent = tangents[0].astype(p.dtype)
    return p, p * (tangent - jnp.sum(p * tangent, axis=-1, keepdims=True))
